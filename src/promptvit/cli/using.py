"""``promptvit evaluate`` and ``promptvit predict``: use a run or an adapter folder."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

Option, Argument = typer.Option, typer.Argument

Mode = Annotated[str | None, Option("--inference", help="Of segmentation: slide (over windows) or whole; default: as in training.")]
Stride = Annotated[int | None, Option(help="Of segmentation: pixels between windows.", min=1)]
Scales = Annotated[str | None, Option(help="Of segmentation: average over these scales, such as 0.5,0.75,1,1.25.")]
Flip = Annotated[bool, Option("--flip", help="Of segmentation: each scale also mirrored.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(evaluate)
    app.command()(predict)


def evaluate(
    run: Annotated[str, Argument(help="A run or adapter folder.")],
    data: Annotated[str | None, Option(help="Another data set than the run's own.")] = None,
    data_root: Annotated[Path | None, Option(help="Where it lies.")] = None,
    split: Annotated[str, Option(help="train, val or test.")] = "test",
    backbone: Annotated[str | None, Option(help="The backbone file, for adapters of local files.")] = None,
    arch: Annotated[str | None, Option(help="Its timm name, if the file cannot tell.")] = None,
    inference: Mode = None,
    stride: Stride = None,
    scales: Scales = None,
    flip: Flip = False,
    as_json: Annotated[bool, Option("--json", help="Print numbers as JSON.")] = False,
) -> None:
    """Score a tuned model on a split.

    Example: `promptvit evaluate runs/demo/lspt`
    """
    from promptvit.experiments.use import evaluate_run

    root, how = str(data_root) if data_root else None, _inference(inference, stride, scales, flip)
    found = evaluate_run(run, data=data, data_root=root, split=split, backbone=backbone, arch=arch, inference=how)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    what, key = ("IoU", "per_class_iou") if "miou" in found else ("accuracy", "per_class_accuracy")
    table = Table(Column("class", overflow="fold"), what)
    for name, share in found[key].items():
        table.add_row(escape(name), "none" if share is None else f"{share:.1%}")
    Console().print(table)
    names = {"miou": "mIoU", "mean_accuracy": "mean accuracy", "accuracy": "pixel accuracy" if "miou" in found else "accuracy"}
    numbers = ", ".join(f"{name} {found[key]:.1%}" for key, name in names.items() if key in found)
    print(f"{found['dataset']}, {found['split']}: {numbers} of {found['images']} images")


def predict(
    run: Annotated[str, Argument(help="A run or adapter folder.")],
    images: Annotated[list[Path], Argument(help="Image files or folders.")],
    top_k: Annotated[int, Option(help="Classes to show per image.", min=1)] = 3,
    backbone: Annotated[str | None, Option(help="The backbone file, for adapters of local files.")] = None,
    arch: Annotated[str | None, Option(help="Its timm name, if the file cannot tell.")] = None,
    out: Annotated[Path | None, Option(help="Of segmentation: folder for the masks and overlays.")] = None,
    inference: Mode = None,
    stride: Stride = None,
    scales: Scales = None,
    flip: Flip = False,
    as_json: Annotated[bool, Option("--json", help="One JSON object per image.")] = False,
) -> None:
    """Classes and probabilities of image files; of a segmentation run, masks and coloured overlays.

    Example: `promptvit predict runs/demo/lspt photo.jpg holiday/`
    """
    from promptvit.experiments.use import predict_files

    failed = 0
    how = _inference(inference, stride, scales, flip)
    for row in predict_files(run, images, top_k=top_k, backbone=backbone, arch=arch, out=out, inference=how):
        failed += "error" in row
        if as_json:
            print(json.dumps(row))
        elif "error" in row:
            print(f"{row['image']}: {row['error']}", file=sys.stderr)
        else:
            classes = ", ".join(f"{item['class']} {item.get('probability', item.get('share')):.1%}" for item in row["top"])
            print(f"{row['image']}: {classes}" + (f" -> {row['mask']}" if "mask" in row else ""))
    if failed:
        raise ValueError(f"{failed} of the images could not be read; they are named above")


def _inference(mode: str | None, stride: int | None, scales: str | None, flip: bool) -> dict[str, Any]:
    """How a segmentation is scored; None where the default stays."""
    return {"mode": mode, "stride": stride, "scales": scales.split(",") if scales else None, "flip": flip or None}
