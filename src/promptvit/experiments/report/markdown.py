"""The report as Markdown: own numbers upright, quoted ones in italics with a number that leads to their source."""

import re
from collections.abc import Iterator

from promptvit.experiments.report.model import Report
from promptvit.experiments.report.tables import Line, Page, Table, Value, notes, page


def render(report: Report) -> str:
    """The whole report."""
    lines = ["# Report", ""]
    for section in report.sections:
        lines += _page(page(section))
    lines += ["## How to read this", "", *(f"- {_text(note)}" for note in notes(report))]
    if report.left_out:
        lines += ["", "## Left out", "", *(f"- {_text(line)}" for line in report.left_out)]
    return "\n".join(lines) + "\n"


def _page(shown: Page) -> Iterator[str]:
    yield from (f"## {_text(shown.title)}", "")
    for table in shown.tables:
        yield from (f"### {_text(table.title)}", "", *_table(table), "")
    if shown.ranking:
        yield from (shown.ranking, "")
    if shown.sources:
        yield from ("Quoted:", "", *(f"- †{i} {_text(source)}" for i, source in enumerate(shown.sources, start=1)), "")


def _table(table: Table) -> Iterator[str]:
    yield f"| method | {' | '.join(map(_text, table.columns))} |"
    yield "| --- |" + " ---: |" * len(table.columns)
    for line in table.lines:
        yield f"| {_name(line)} | {' | '.join(_value(value, line) for value in line.values)} |"


def _name(line: Line) -> str:
    if line.quoted:
        return f"*{_text(line.name)}* †{line.quoted}"
    return " ".join([_text(line.name), *(f"**[{_text(stamp)}]**" for stamp in line.stamps)])


def _value(value: Value, line: Line) -> str:
    text = _text(value.text)
    if not text:
        return ""
    return f"*{text}*" if line.quoted else f"**{text}**" if value.best else text


def _text(text: str) -> str:
    """Nothing in a name acts as Markdown or HTML."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", text)
