"""``promptvit sweep``: many runs from one file."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from promptvit.cli.training import measure

if TYPE_CHECKING:
    from promptvit.experiments.executor import Executor
    from promptvit.experiments.sweep import Sweep

Option = typer.Option


class Where(str, Enum):
    """Where runs run."""

    local = "local"
    ray = "ray"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(sweep)


def sweep(
    spec: Annotated[str, typer.Argument(help="A YAML file, or a recipe that comes with the package.")],
    out: Annotated[Path | None, Option(help="Folder of its runs; default: runs/sweeps/NAME, the name of the spec.")] = None,
    data_root: Annotated[Path | None, Option(help="Where the data sets lie; for several, the folder that holds them all.")] = None,
    jobs: Annotated[int | None, Option(min=1, help="Runs at a time; default: one per core, at most 8; one per GPU; ray: all.")] = None,
    faithful: Annotated[bool, Option("--faithful", help="With the authors' quirks, where the spec names some.")] = False,
    retries: Annotated[int, Option(min=0, help="How often a run that failed is tried again.")] = 1,
    only: Annotated[list[str] | None, Option(help="This method (label) of the spec only; may be repeated.")] = None,
    tasks: Annotated[list[str] | None, Option(help="This data set or suite of the spec only; may be repeated.")] = None,
    settings: Annotated[list[str] | None, Option("--set", help="key=value: in the place of whatever the spec says, also seeds.")] = None,
    executor: Annotated[Where, Option(help="local: processes of this machine; ray: a Ray cluster.")] = Where.local,
    address: Annotated[str | None, Option(help="Of the Ray cluster; auto: one that runs; default: that, or else a new one.")] = None,
    cpus_per_run: Annotated[int | None, Option(min=1, help="With ray: cores of a run; default: 1.")] = None,
    gpus_per_run: Annotated[float | None, Option(min=0, help="With ray: GPUs of a run, as in 0.25; default: 1 if there are any.")] = None,
    storage: Annotated[str | None, Option(help="Of a search: an Optuna storage, shared or not; default: search.db in --out.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Print the runs, what is finished, and how long the rest would take.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print summary.json.")] = False,
) -> None:
    """Choose settings on validation images, train the chosen ones with several seeds, score each once on test images.

    The same command goes on where it was stopped or killed; a run with the same settings is never done twice.

    Example: `promptvit sweep proc-quick --out runs/proc-quick`
    """
    from promptvit.cli.training import parse_settings
    from promptvit.experiments.plan import cells, overridden
    from promptvit.experiments.spec import read_spec
    from promptvit.experiments.store import SweepFolder
    from promptvit.experiments.suites import expand
    from promptvit.experiments.sweep import Sweep, run_sweep

    chosen = read_spec(spec)
    chosen = overridden(chosen, (chosen.quirks if faithful else {}) | parse_settings(settings or []))
    out = out or Path("runs/sweeps") / chosen.name
    wanted = expand(tasks or [])
    place = on_ray(out, address, cpus_per_run, gpus_per_run, jobs) if executor is Where.ray else None
    if place is None and any(option is not None for option in (address, cpus_per_run, gpus_per_run)):
        raise ValueError("executor: --address, --cpus-per-run and --gpus-per-run need --executor ray")
    jobs = jobs or default_jobs()
    console = Console(stderr=True)
    if dry_run:
        folder = SweepFolder(out)
        planned = cells(chosen, folder.runs, data_root, only=only or (), tasks=wanted, storage=storage)
        preview(Sweep(planned, folder), jobs, Console())
        return
    limits: dict[str, Any] = {"data_root": data_root, "only": only or (), "tasks": wanted, "storage": storage}
    done = run_sweep(chosen, out, executor=place, jobs=jobs, retries=retries, console=console, **limits)
    missing = done.missing()
    for line in missing:
        console.print(f"missing: {line}", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        print((out / "summary.json").read_text(encoding="utf-8"), end="")
    else:
        Console().print(results_table(done))
        print(f"results: {out / 'summary.json'}\nreport:  promptvit report {out}")
    if missing:
        raise ValueError(f"{len(missing)} final results are missing (see above; logs in {out / 'logs'}); the same command tries again")


def on_ray(out: Path, address: str | None, cpus: int | None, gpus: float | None, jobs: int | None) -> "Executor":
    """A Ray cluster to run on, not connected to yet."""
    from promptvit.experiments.ray_executor import RayExecutor

    return RayExecutor(out, address=address, cpus=cpus or 1, gpus=gpus, jobs=jobs)


def default_jobs() -> int:
    """One run per GPU, else per core, but at most eight: each holds a backbone."""
    import torch

    from promptvit.experiments.executor import cores

    return torch.cuda.device_count() or min(cores(), 8)


def preview(planned: "Sweep", jobs: int, console: Console) -> None:
    """The runs of every method on every data set, what is finished, and an estimate of the time for the rest."""
    from promptvit.experiments.estimate import load, measured, timed
    from promptvit.experiments.executor import cores
    from promptvit.experiments.watch import duration

    found = measured(planned.cells, planned.results)
    rates, total = dict(found), 0.0
    table = Table("method", "data", "points", "final seeds", "epochs", "runs finished", "one after another")
    for cell in planned.cells:
        _, left = load(cell, planned.results, planned.results, {})
        if left and cell.label not in rates:
            rates[cell.label] = timed(cell, max(1, cores() // jobs))
        seconds = left * rates.get(cell.label, 0)
        total += seconds
        runs = cell.expected(planned.results)
        done = sum(run.hash in planned.results for run in runs)
        lengths = sorted({run.settings.epochs or f"{run.settings.iterations} steps" for run in runs})
        length = "-".join(map(str, dict.fromkeys((lengths[0], lengths[-1]))))
        cells = (cell.label, cell.task, cell.size, len(cell.spec.seeds), length)
        table.add_row(*(escape(str(value)) for value in cells), f"{done}/{len(runs)}", duration(seconds))
    console.print(table)
    ways = {
        "measured on finished runs": [label for label in rates if label in found],
        "timed on a few training steps just now": [label for label in rates if label not in found],
    }
    how = "; ".join(f"{way}: {', '.join(labels)}" for way, labels in ways.items() if labels)
    line = f"about {duration(total / jobs)} for the rest with {jobs} runs at a time, loading apart ({how or 'all is finished'})"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def results_table(done: "Sweep") -> Table:
    """Mean test accuracy or mIoU over seeds, with what was chosen on validation."""
    from promptvit.experiments.plan import score

    rows = done.rows()
    table = Table("method", "data", "chosen", f"test {measure(rows)}", "seeds")
    for cell in done.cells:
        own = [row for row in rows if (row["label"], row["dataset"]) == (cell.label, cell.task) and score(row) is not None]
        chosen = ", ".join(f"{key} {value}" for key, value in own[0]["chosen"].items()) if own else ""
        mean = f"{sum(filter(None, map(score, own))) / len(own):.1%}" if own else "none"
        table.add_row(escape(cell.label), escape(cell.task), escape(chosen) or "-", mean, f"{len(own)}/{len(cell.spec.seeds)}")
    return table
