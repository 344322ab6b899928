"""The report as one page that needs nothing else: tables that sort, plots, light and dark. Nothing in it reaches for the network."""

import base64
import hashlib
import re
from collections.abc import Iterator
from html import escape
from importlib import resources
from string import Template

from promptvit.experiments.report.model import ON_TEST, Report
from promptvit.experiments.report.plots import marker, plots
from promptvit.experiments.report.tables import Line, Page, Table, Value, notes, page


def render(report: Report) -> str:
    """The whole report."""
    folder = resources.files(__package__)
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    pages = [page(section) for section in report.sections]
    body = [f'<li><a href="#section-{i}">{escape(shown.title)}</a></li>' for i, shown in enumerate(pages)]
    content = [part for i, shown in enumerate(pages) for part in _page(i, shown)]
    left_out = [f"<li>{escape(line)}</li>" for line in report.left_out]
    return Template(folder.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        style=style,
        script=script,
        allowed=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        contents="".join(body),
        warnings="".join(_warnings(report)),
        sections="\n".join(content),
        notes="".join(f"<li>{escape(note)}</li>" for note in notes(report)),
        left_out=f"<h2>Left out</h2><ul>{''.join(left_out)}</ul>" if left_out else "",
    )


def _warnings(report: Report) -> Iterator[str]:
    for section in report.sections:
        for entry in section.entries:
            if entry.selected_on_test:
                text = f"{entry.label} ({section.title}, {section.backbone}) was selected on the test split: no fair result."
                yield f'<p class="warning">{escape(text)}</p>'


def _page(number: int, shown: Page) -> Iterator[str]:
    yield f'<section id="section-{number}"><h2>{escape(shown.title)}</h2>'
    for table in shown.tables:
        yield _table(table, number)
    if shown.ranking:
        yield f'<p class="note">{escape(shown.ranking)}</p>'
    if shown.sources:
        sources = (f'<li id="source-{number}-{i}">{escape(source)}</li>' for i, source in enumerate(shown.sources, start=1))
        yield f'<details open><summary>Sources of the quoted numbers</summary><ol>{"".join(sources)}</ol></details>'
    figures = list(plots(shown.section))
    if figures:
        names = (
            f'<li><svg viewBox="-8 -8 16 16" width="16" height="16" aria-hidden="true">{marker(i)}</svg> {escape(entry.label)}</li>'
            for i, entry in enumerate(shown.section.entries)
        )
        yield f'<h3>Plots</h3><ul class="legend">{"".join(names)}</ul>{"".join(figures)}'
    yield "</section>"


def _table(table: Table, number: int) -> str:
    heads = "".join(_head(name, _kind(table, column)) for column, name in enumerate(table.columns))
    own = "".join(_line(line, number) for line in table.lines if not line.quoted)
    quoted = "".join(_line(line, number) for line in table.lines if line.quoted)
    if quoted:
        divider = f'<tr class="divider"><th scope="rowgroup" colspan="{len(table.columns) + 1}"><span>Published, quoted †</span></th></tr>'
        quoted = f'<tbody class="quoted">{divider}{quoted}</tbody>'
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{_head('method', 'text')}{heads}</tr></thead><tbody>{own}</tbody>{quoted}</table></div>"
    )


def _kind(table: Table, column: int) -> str:
    values = [line.values[column].sort for line in table.lines if not line.quoted]
    return "text" if any(isinstance(value, str) for value in values) else "number"


def _head(name: str, kind: str) -> str:
    return f'<th scope="col" class="{kind}" aria-sort="none"><button type="button">{escape(name)}</button></th>'


def _line(line: Line, number: int) -> str:
    stamps = "".join(f' <span class="stamp{" strong" * (stamp == ON_TEST)}">{escape(stamp)}</span>' for stamp in line.stamps)
    source = f' <a href="#source-{number}-{line.quoted}">†{line.quoted}</a>' if line.quoted else ""
    name = f'<th scope="row" data-sort="{escape(line.name)}">{escape(line.name)}{source}{stamps}</th>'
    return f"<tr>{name}{''.join(map(_value, line.values))}</tr>"


def _value(value: Value) -> str:
    sort = "" if value.sort is None else f' data-sort="{escape(str(value.sort))}"'
    kind = ' class="text"' if isinstance(value.sort, str) else ""
    text = re.sub(r" (?!\()", "&nbsp;", escape(value.text))  # lines break before a remark only
    text = f"<strong>{text}</strong>" if value.best else text
    return f"<td{sort}{kind}>{text}</td>"
