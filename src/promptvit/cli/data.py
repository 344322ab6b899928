"""``promptvit data``: data sets on disk."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(no_args_is_help=True, help="Data sets on disk.\n\nExample: `promptvit data check vtab/dtd --data-root DIR`")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(data, name="data")


@data.command()
def check(
    name: Annotated[str, typer.Argument(help="See `promptvit list datasets`.")],
    data_root: Annotated[Path | None, typer.Option(help="The data set's folder, or one that holds it.")] = None,
    task: Annotated[str | None, typer.Option(help="segmentation, for a folder of images and masks.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for what is wrong with a data set: a line per finding, exit code 1 if one is an error. Changes nothing.

    Example: `promptvit data check fgvc/cub --data-root datasets`
    """
    from dataclasses import asdict

    from promptvit.data.check import check as look

    findings = look(name, root=data_root, task=task, watch=_progress)
    errors = len(findings.of("error"))
    if as_json:
        print(json.dumps({"data": name, "errors": errors, "findings": [asdict(finding) for finding in findings.found]}, indent=2))
    else:
        print("\n".join(map(str, findings.found)))
    if errors:
        raise ValueError(f"{name}: errors found: {errors}; they are named above")


@data.command()
def show(
    name: Annotated[str, typer.Argument(help="See `promptvit list datasets`.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("contact.png"),
    data_root: Annotated[Path | None, typer.Option(help="The data set's folder, or one that holds it.")] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    examples: Annotated[int, typer.Option(help="Images per class; of a set with masks: rows of eight.")] = 3,
    tile: Annotated[int, typer.Option(help="Side of an image, in pixels.")] = 64,
    classes: Annotated[int, typer.Option(help="At most so many classes, the first.")] = 40,
    task: Annotated[str | None, typer.Option(help="segmentation, for a folder of images and masks.")] = None,
) -> None:
    """Draw a contact sheet: the first images of every class, or the first images above their masks.

    Example: `promptvit data show proc/count --out count.png`
    """
    from promptvit.data import load_dataset, load_segmentation
    from promptvit.data.segmentation.registry import is_segmentation
    from promptvit.experiments.contact import masked_sheet, sheet

    if is_segmentation(name, task):
        print(masked_sheet(load_segmentation(name, root=data_root), out, split=split, examples=examples, tile=tile))
        return
    print(sheet(load_dataset(name, root=data_root), out, split=split, examples=examples, tile=tile, classes=classes))


@data.command()
def get(
    name: Annotated[str, typer.Argument(help="See `promptvit list datasets`; also vtab and ade20k.")],
    data_root: Annotated[Path, typer.Option(help="Where it shall lie; made if need be.")],
    mirror: Annotated[str | None, typer.Option(help="Another address: of the file, or of a folder with all files.")] = None,
) -> None:
    """Download a data set, verify and unpack it; the same command again goes on where it was interrupted.

    Example: `promptvit data get fgvc/cub --data-root datasets`
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from promptvit.data import list_datasets
    from promptvit.data.fetch.get import get as fetch

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bars:

            def bar(file: str) -> Callable[[int, int | None], None]:
                task = bars.add_task(file, total=None)
                return lambda done, total: bars.update(task, completed=done, total=total)

            fetch(name, data_root, mirror=mirror, progress=bar)
    else:
        fetch(name, data_root, mirror=mirror)
    if name in list_datasets():
        print(f"look at it: promptvit data check {name} --data-root {data_root}")


@data.command()
def split(
    name: Annotated[str, typer.Argument(help="A set of FGVC, such as fgvc/dogs.")],
    out: Annotated[Path, typer.Option(help="Folder for train.json, val.json and test.json.")],
    data_root: Annotated[Path | None, typer.Option(help="The data set's folder, or one that holds it.")] = None,
    data_seed: Annotated[int, typer.Option(help="Of the cut of train into train and val.")] = 0,
) -> None:
    """Write down who is in train, val and test as the json lists that papers share; in the set's own folder they are read from then on.

    Example: `promptvit data split fgvc/dogs --data-root datasets --out lists`
    """
    from promptvit.data import load_dataset
    from promptvit.data.listed.fgvc import write_lists

    for file in write_lists(load_dataset(name, root=data_root, data_seed=data_seed), out):
        print(file)


def _progress(digests: Iterable[bytes | None], count: int) -> Iterable[bytes | None]:
    """A progress bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(digests, "decoding images", total=count, console=console, transient=True, disable=not console.is_terminal)
