"""``promptvit evaluate`` and ``promptvit predict``: use a run or an adapter folder."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

Option, Argument = typer.Option, typer.Argument


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
    as_json: Annotated[bool, Option("--json", help="Print numbers as JSON.")] = False,
) -> None:
    """Score a tuned model on a split.

    Example: `promptvit evaluate runs/demo/lspt`
    """
    from promptvit.experiments.use import evaluate_run

    scores = evaluate_run(run, data=data, data_root=str(data_root) if data_root else None, split=split, backbone=backbone, arch=arch)
    if as_json:
        print(json.dumps(scores, indent=2))
        return
    table = Table(Column("class", overflow="fold"), "accuracy")
    for name, share in scores["per_class_accuracy"].items():
        table.add_row(escape(name), "no image" if share is None else f"{share:.1%}")
    Console().print(table)
    print(f"{scores['dataset']}, {scores['split']}: accuracy {scores['accuracy']:.1%} of {scores['images']} images")


def predict(
    run: Annotated[str, Argument(help="A run or adapter folder.")],
    images: Annotated[list[Path], Argument(help="Image files or folders.")],
    top_k: Annotated[int, Option(help="Classes to show per image.", min=1)] = 3,
    backbone: Annotated[str | None, Option(help="The backbone file, for adapters of local files.")] = None,
    arch: Annotated[str | None, Option(help="Its timm name, if the file cannot tell.")] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON object per image.")] = False,
) -> None:
    """Classes and probabilities of image files.

    Example: `promptvit predict runs/demo/lspt photo.jpg holiday/`
    """
    from promptvit.experiments.use import predict_files

    failed = 0
    for row in predict_files(run, images, top_k=top_k, backbone=backbone, arch=arch):
        failed += "error" in row
        if as_json:
            print(json.dumps(row))
        elif "error" in row:
            print(f"{row['image']}: {row['error']}", file=sys.stderr)
        else:
            classes = ", ".join(f"{item['class']} {item['probability']:.1%}" for item in row["top"])
            print(f"{row['image']}: {classes}")
    if failed:
        raise ValueError(f"{failed} of the images could not be read; they are named above")
