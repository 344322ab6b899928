"""``promptvit report``: tables and plots of finished runs."""

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown


class Format(str, Enum):
    """Files that a report can be written as."""

    md = "md"
    csv = "csv"
    latex = "latex"
    html = "html"
    all = "all"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(report)


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
