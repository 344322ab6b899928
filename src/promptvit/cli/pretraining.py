"""``promptvit pretrain``: make a small backbone of your own."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

Option = typer.Option


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(pretrain)


def pretrain(
    out: Annotated[Path, Option(help="Run folder; the backbone appears in its `export/`.")],
    objective: Annotated[str, Option(help="mae, mocov3 or supervised.")] = "mae",
    steps: Annotated[int | None, Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, Option(help="Images per step, over all processes.")] = None,
    lr: Annotated[float | None, Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, Option(help="Of everything.")] = None,
    resume: Annotated[bool, Option("--resume", help="Go on from the last checkpoint.")] = False,
    settings: Annotated[
        list[str] | None, Option("--set", help="key=value: width, depth, heads, image_size, patch_size, ... or the objective's own.")
    ] = None,
) -> None:
    """Pre-train a small ViT on images drawn on the fly; no files are needed. `torchrun` spreads it over processes.

    Example: `promptvit pretrain --objective mae --out runs/mae-tiny --steps 3000`
    """
    from promptvit.cli.training import parse_settings
    from promptvit.config import checked
    from promptvit.errors import unknown
    from promptvit.pretraining.loop import OBJECTIVES
    from promptvit.pretraining.loop import pretrain as run

    if objective not in OBJECTIVES:
        raise ValueError(unknown("objective", objective, OBJECTIVES))
    _check_writable(out)
    given = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed}
    values = {key: value for key, value in given.items() if value is not None} | parse_settings(settings or [])
    folder = run(checked(OBJECTIVES[objective].Settings, values, "setting"), out, resume=resume)
    print(f"backbone: {folder}\nuse it:   promptvit train --backbone {folder} --method lspt --data digits")


def _check_writable(out: Path) -> None:
    """Before hours of work, not after."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise PermissionError(f"out: cannot write to {out} ({error.strerror}); choose another folder") from None
