"""``promptvit analyze``: what runs learned."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(analyze)


def analyze(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders of one data set.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the page, its pictures and analysis.json.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    images: Annotated[int, typer.Option(help="Images that numbers are measured on.", min=8)] = 256,
    examples: Annotated[int, typer.Option(help="Images that attention is shown on.", min=1)] = 6,
    seed: Annotated[int, typer.Option(help="Of the draw of images.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print analysis.json.")] = False,
) -> None:
    """Attention, gates, likeness of prompts and patches, forgetting, sensitivity and mistakes, methods side by side on one page.

    Example: `promptvit analyze runs/demo/gapt runs/demo/lspt --out analysis`
    """
    from promptvit.experiments.insight import analyze as look

    found = look(runs, out, split=split, images=images, examples=examples, seed=seed, progress=lambda line: print(line, file=sys.stderr))
    if as_json:
        print(json.dumps(found, indent=2))
    print(f"written: {out / 'index.html'}", file=sys.stderr)
