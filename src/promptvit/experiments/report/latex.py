"""The report as LaTeX tables for ``\\input``; they need the package booktabs."""

from collections.abc import Iterator

from promptvit.experiments.report.model import Report
from promptvit.experiments.report.tables import Line, Page, Table, Value, notes, page

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "†": r"$\dagger$", "[": "{[}", "]": "{]}",
}


def render(report: Report) -> str:
    """The whole report."""
    comments = [f"% {_comment(note)}" for note in (*notes(report), *(f"Left out: {line}" for line in report.left_out))]
    lines = ["% Needs \\usepackage{booktabs}.", *comments]
    for section in report.sections:
        lines += _page(page(section))
    return "\n".join(lines) + "\n"


def _page(shown: Page) -> Iterator[str]:
    for i, table in enumerate(shown.tables):
        yield from ("", r"\begin{table}", r"\centering", r"\small", rf"\caption{{{_text(f'{shown.title}: {table.title}')}.}}")
        yield from _table(table)
        if i == 0 and shown.sources:
            quoted = " ".join(rf"$^{{\dagger{number}}}$~{_text(source)}." for number, source in enumerate(shown.sources, start=1))
            yield rf"\par\smallskip\footnotesize {quoted}"
        yield r"\end{table}"


def _table(table: Table) -> Iterator[str]:
    yield from (rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule")
    yield from (rf"method & {' & '.join(map(_text, table.columns))} \\", r"\midrule")
    quoted = False
    for line in table.lines:
        if line.quoted and not quoted:
            yield r"\midrule"
            quoted = True
        yield rf"{_name(line)} & {' & '.join(_value(value, line) for value in line.values)} \\"
    yield from (r"\bottomrule", r"\end{tabular}")


def _name(line: Line) -> str:
    if line.quoted:
        return rf"\textit{{{_text(line.name)}}}$^{{\dagger{line.quoted}}}$"
    return " ".join([_text(line.name), *(rf"\textbf{{[{_text(stamp)}]}}" for stamp in line.stamps)])


def _value(value: Value, line: Line) -> str:
    text = _text(value.text)
    if not text:
        return ""
    return rf"\textit{{{text}}}" if line.quoted else rf"\textbf{{{text}}}" if value.best else text


def _text(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def _comment(text: str) -> str:
    return " ".join(text.split())
