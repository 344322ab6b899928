"""The report of finished runs: built once as data, then drawn as Markdown, CSV, LaTeX and one HTML page."""

from collections.abc import Callable, Iterable
from pathlib import Path

from promptvit import files
from promptvit.errors import unknown
from promptvit.experiments.report import csv, html, latex, markdown
from promptvit.experiments.report.build import build
from promptvit.experiments.report.model import Report
from promptvit.experiments.results import read_results

RENDERERS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "md": ("report.md", markdown.render),
    "csv": ("report.csv", csv.render),
    "latex": ("report.tex", latex.render),
    "html": ("report.html", html.render),
}


def make_report(folders: Iterable[str | Path]) -> Report:
    """Read everything in and below ``folders``.

    Raises:
        ValueError: no such folder, or no final result in any.
    """
    left_out: list[str] = []
    rows = read_results(folders, left_out.append)
    return build(rows, left_out)


def write_report(report: Report, out: Path, formats: Iterable[str] = tuple(RENDERERS)) -> list[Path]:
    """Write ``report.md`` and so on into ``out``; the same report gives the same bytes. Returns their paths.

    Raises:
        ValueError: a format that is none of ``RENDERERS``.
    """
    paths = []
    for key in formats:
        if key not in RENDERERS:
            raise ValueError(unknown("format", key, RENDERERS))
        name, render = RENDERERS[key]
        files.write_text(out / name, render(report))
        paths.append(out / name)
    return paths
