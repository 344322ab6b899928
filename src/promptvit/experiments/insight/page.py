"""The page: figures with their captions, tables, and how to read them, in one file that reaches for nothing."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from promptvit import experiments


@dataclass(frozen=True)
class Picture:
    """A PNG that was written, with the text under it."""

    path: Path
    title: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Names of the columns, and rows of the same length."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """A heading, what to know, and what is shown."""

    title: str
    note: str
    content: list[Picture | Table] = field(default_factory=list)


def render(sections: Sequence[Section], subtitle: str, notes: Sequence[str]) -> str:
    """The whole page; every name that came from data or folders is escaped, and no script runs."""
    style = resources.files(experiments).joinpath("report", "page.css").read_text(encoding="utf-8")
    filled = [section for section in sections if section.content]
    links = "".join(f'<li><a href="#part-{i}">{escape(section.title)}</a></li>' for i, section in enumerate(filled))
    body = "\n".join(_section(i, section) for i, section in enumerate(filled))
    remarks = "".join(f'<p class="warning">{escape(note)}</p>' for note in notes)
    return PAGE.substitute(style=style, links=links, subtitle=escape(subtitle), notes=remarks, body=body)


def _section(number: int, section: Section) -> str:
    parts = "".join(_picture(item) if isinstance(item, Picture) else _table(item) for item in section.content)
    return f'<section id="part-{number}"><h2>{escape(section.title)}</h2><p class="note">{escape(section.note)}</p>{parts}</section>'


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode()
    title, caption = escape(picture.title), escape(picture.caption)
    return f'<figure><figcaption><b>{title}</b> {caption}</figcaption><img alt="{title}" src="data:image/png;base64,{data}"></figure>'


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col" class="plain">{escape(name)}</th>' for name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(value)}</td>" for value in row[1:])}</tr>' for row in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>promptvit analysis</title>
<style>$style
figure img { display: block; max-width: 100%; height: auto; background: #fff; }
figcaption { max-width: 60rem; }
th.plain { padding: .28rem .55rem; font-weight: 600; text-align: right; }
th.plain:first-child { text-align: left; }
</style>
</head>
<body>
<header>
<h1>What was learned</h1>
<p class="note">$subtitle</p>
<nav aria-label="Contents"><ul>$links</ul></nav>
$notes
</header>
<main>
$body
</main>
</body>
</html>
""")
