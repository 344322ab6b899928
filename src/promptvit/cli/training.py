"""``promptvit train`` and ``promptvit demo``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from promptvit.errors import shown
from promptvit.plain import read_yaml

Option = typer.Option


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(train)
    app.command()(demo)


def train(
    backbone: Annotated[str | None, Option(help="Bundled or timm name, hf:owner/name, or a checkpoint file.")] = None,
    method: Annotated[str | None, Option(help="See `promptvit list methods`.")] = None,
    data: Annotated[str | None, Option(help="See `promptvit list datasets`; `folder` reads --data-root.")] = None,
    recipe: Annotated[str | None, Option(help="Settings to start from, see `promptvit list recipes`; other options win.")] = None,
    faithful: Annotated[bool, Option("--faithful", help="With the recipe's quirks: what only its authors' code does.")] = False,
    data_root: Annotated[Path | None, Option(help="Where the data set lies.")] = None,
    task: Annotated[str | None, Option(help="classification or segmentation; default: what the data set is for.")] = None,
    head: Annotated[str | None, Option(help="Of segmentation: setr-pup, setr-naive or linear-seg.")] = None,
    arch: Annotated[str | None, Option(help="timm name for checkpoint files that cannot tell theirs.")] = None,
    image_size: Annotated[int | None, Option(help="Pixels; default: the weights' own.")] = None,
    init: Annotated[str | None, Option(help="How prompts start: uniform, random, kmeans, mean, max.")] = None,
    epochs: Annotated[int | None, Option(help="Passes over the training split.")] = None,
    num_prompts: Annotated[int | None, Option(help="Prompt tokens.")] = None,
    lr: Annotated[float | None, Option(help="Peak learning rate; default: the method's own.")] = None,
    shots: Annotated[int | None, Option(help="Training images per class.")] = None,
    seed: Annotated[int | None, Option(help="Of initialisation, dropout, split and order.")] = None,
    out: Annotated[Path | None, Option(help="Run folder; default: runs/DATA-METHOD-...")] = None,
    memory: Annotated[str | None, Option(help="low: recompute activations, do not keep them; same numbers, a third slower.")] = None,
    record: Annotated[bool, Option("--record", help="Keep how alike prompts and patch tokens are, for `promptvit analyze`.")] = False,
    resume: Annotated[bool, Option("--resume", help="Go on from the last finished epoch.")] = False,
    strict: Annotated[bool, Option("--strict", help="Unreadable image files are errors.")] = False,
    settings: Annotated[list[str] | None, Option("--set", help="key=value: any other setting or option of the method.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print result.json.")] = False,
) -> None:
    """Tune a method on a data set and score it once on the test split.

    Example: `promptvit train --backbone mae-tiny --method lspt --data digits --shots 20 --epochs 30`

    With the settings of a paper: `promptvit train --recipe gapt-vtab-mae --data vtab/cifar --data-root DATA`
    """
    from accelerate import PartialState

    from promptvit.experiments.spec import read_spec
    from promptvit.training import resolve
    from promptvit.training import train as run

    given: dict[str, Any] = {
        "backbone": backbone, "method": method, "data": data, "data_root": str(data_root) if data_root else None, "arch": arch,
        "image_size": image_size, "epochs": epochs, "lr": lr, "shots": shots, "seed": seed, "out": str(out) if out else None,
        "strict": strict or None, "record": record or None, "task": task, "head": head,
        "memory": memory, "init": init, "num_prompts": num_prompts,
    }
    given = {key: value for key, value in given.items() if value is not None} | parse_settings(settings or [])
    if recipe is not None:
        given = read_spec(recipe).single_run(given, faithful=faithful)
    elif faithful:
        raise ValueError("--faithful: the quirks are those of a recipe; give --recipe")
    chosen = resolve(**given)
    result = run(resume=resume, **chosen.model_dump())
    if not PartialState().is_main_process:
        return
    if as_json:
        print(json.dumps(result.result, indent=2))
        return
    row = result.result
    Console().print(results_table([row]))
    needed = " --out MASKS" if "miou" in row else ""
    print(f"run folder: {result.run_dir}\nuse it:     promptvit predict {result.run_dir} IMAGE...{needed}")


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """``["lr=0.1", "cell=gru"]`` to a dict; values are read as YAML, but ``no`` and ``on`` are words.

    Raises:
        ValueError: a pair without ``=`` or a value that is no YAML.
    """
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set: expected key=value, got {pair!r}")
        try:
            read = read_yaml(value)
        except ValueError as error:
            raise ValueError(f"--set {key}: {shown(value)}: {error}") from None
        is_word = isinstance(read, bool) and value.strip().lower() not in ("true", "false")
        values[key.strip().replace("-", "_")] = value.strip() if is_word else read
    return values


def results_table(rows: list[dict[str, Any]]) -> Table:
    """Accuracy or mIoU, trained weights and time of some results."""
    names = [Column(name, no_wrap=True) for name in ("method", "data")]
    table = Table(*names, *(f"{split} {measure(rows)}" for split in ("test", "val")), "trained weights", "share", "seconds")
    for row in rows:
        share = row["num_trainable"] / row["num_total"]
        keys = ("miou", "val_miou") if "miou" in row else ("accuracy", "val_accuracy")
        table.add_row(
            row["method"], row["dataset"], *("" if row[key] is None else f"{row[key]:.1%}" for key in keys),
            f"{row['num_trainable']:,}", f"{share:.2%}", f"{row['train_seconds']:.0f}",
        )
    return table


def measure(rows: list[dict[str, Any]]) -> str:
    """What the rows' scores are."""
    kinds = {"mIoU" if "miou" in row else "accuracy" for row in rows}
    return " or ".join(sorted(kinds)) or "accuracy"


def demo(
    out: Annotated[Path, Option(help="Folder of the demo's runs and pictures.")] = Path("runs/demo"),
    as_json: Annotated[bool, Option("--json", help="Print summary.json.")] = False,
) -> None:
    """The main job in minutes: four methods on few-shot handwritten digits, with the bundled backbone.

    Example: `promptvit demo`
    """
    from promptvit.experiments.demo import run_demo

    console = Console(stderr=as_json)
    summary = run_demo(out, console)
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    console.print(results_table(summary["rows"]))
    for path in summary["pictures"]:
        print(f"picture: {path}")
