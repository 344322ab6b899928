"""``promptvit report``, ``results`` and ``claims``: tables and plots of finished runs."""

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

SHOWN = ("label", "method", "dataset", "seed", "phase", "split", "status", "accuracy", "miou", "val_accuracy", "epochs", "num_trainable")


class Format(str, Enum):
    """Files that a report can be written as."""

    md = "md"
    csv = "csv"
    latex = "latex"
    html = "html"
    all = "all"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(report)
    app.command()(results)
    app.command()(claims)


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Sweeps, run folders, folders of them.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where the files go; default: DIR/report")] = None,
    format: Annotated[Format, typer.Option(help="Which files to write.")] = Format.all,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Means and deviations over seeds, both overall means, ranks and tuning cost, with published numbers beside them.

    Example: `promptvit report runs/sweep --out report --format html`
    """
    from promptvit.experiments.report import RENDERERS, make_report, write_report
    from promptvit.experiments.report.markdown import render

    made = make_report(folders)
    paths = write_report(made, out or folders[0] / "report", RENDERERS if format is Format.all else [format.value])
    if as_json:
        print(json.dumps(made.model_dump(mode="json"), indent=2))
        return
    text = render(made)
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        print(text, end="")
    for path in paths:
        print(f"written: {path}", file=sys.stderr)


def results(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Sweeps, run folders, folders of them.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Write all columns to this file: .csv or .parquet.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all columns as JSON.")] = False,
) -> None:
    """One table of all runs in and below the folders, a row per run, read from the run folders themselves.

    Example: `promptvit results runs --out runs.csv`
    """
    from promptvit.experiments.results import read_results
    from promptvit.experiments.table import table, write_table

    left_out: list[str] = []
    rows = read_results(folders, left_out.append)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if not rows:
        raise ValueError(f"results: no finished run in {', '.join(map(str, folders))}")
    if out is not None:
        write_table(rows, out)
        print(f"written: {out} ({len(rows)} runs)", file=sys.stderr)
    if as_json:
        print(json.dumps(table(rows), indent=2))
    elif out is None:
        Console().print(_overview(table(rows)))


def claims(
    sweep: Annotated[Path, typer.Argument(help="A sweep's folder, or a scores.json that this command wrote.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where the files go; default: beside what is read, in `claims`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Judge the claims of a sweep's file: paired differences, bootstrap intervals, a verdict each.

    Example: `promptvit claims runs/sweeps/claims --out docs/claims`
    """
    from promptvit.experiments.claims import judge, read_scores
    from promptvit.experiments.claims_report import markdown, write_claims

    scores = read_scores(sweep)
    findings = judge(scores)
    paths = write_claims(scores, findings, out or (sweep.parent if sweep.is_file() else sweep) / "claims")
    if as_json:
        print(json.dumps([finding.model_dump() | {"verdict": finding.verdict} for finding in findings], indent=2))
    else:
        print(markdown(scores, findings), end="")
    for path in paths:
        print(f"written: {path}", file=sys.stderr)


def _overview(rows: list[dict[str, Any]]) -> Table:
    """Some columns for the eye; those that hold nothing are left out."""
    names = [name for name in SHOWN if any(row[name] is not None for row in rows)]
    shown = Table(*names)
    for row in rows:
        values = [row[name] for name in names]
        shown.add_row(*("-" if value is None else f"{value:.1%}" if isinstance(value, float) else escape(str(value)) for value in values))
    return shown
