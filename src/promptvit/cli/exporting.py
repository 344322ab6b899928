"""``promptvit export``: a tuned model as one file for other programs."""

import json
from pathlib import Path
from typing import Annotated

import typer

Option, Argument = typer.Option, typer.Argument


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(export)


def export(
    run: Annotated[str, Argument(help="A run or adapter folder, or a hub repository.")],
    format: Annotated[str, Option(help="onnx (needs the extra export) or pt2 (torch.export).")],
    out: Annotated[Path | None, Option(help="The file; default: the run's name here, such as first.onnx.")] = None,
    backbone: Annotated[str | None, Option(help="The backbone file, for adapters of local files.")] = None,
    arch: Annotated[str | None, Option(help="Its timm name, if the file cannot tell.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the tuned model, backbone included, as one file, checked against the model before it is put in place.

    Example: `promptvit export runs/demo/lspt --format onnx --out digits.onnx`
    """
    from promptvit.experiments.use import load_model
    from promptvit.serving.export import export as write

    target = out or Path(f"{Path(run).resolve().name}.{format}")
    written = write(load_model(run, backbone=backbone, arch=arch), target, format)
    if as_json:
        print(json.dumps({"path": str(written.path), "format": format, "bytes": written.size, "difference": written.difference}))
        return
    print(f"{written.path}: {written.size / 1e6:.1f} MB, logits as the model's up to {written.difference:.1e}")
