"""The report as tables of text, which Markdown, LaTeX, HTML and the terminal only have to draw."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from promptvit.experiments.published import Quote, published
from promptvit.experiments.report.model import ON_TEST, Cell, Entry, Measure, Report, Section


@dataclass(frozen=True)
class Value:
    """What a cell shows and what it sorts by (None: last); ``best``: the highest of one's own in its column."""

    text: str
    sort: float | str | None = None
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A row of a table; ``quoted`` is the number of its source where it was not measured here."""

    name: str
    values: tuple[Value, ...]
    stamps: tuple[str, ...] = ()
    quoted: int | None = None


@dataclass(frozen=True)
class Table:
    """One table; the first column is the lines' names."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    scores: int = 0  # so many columns hold accuracies


@dataclass(frozen=True)
class Page:
    """Tables of one section; the sources of its quoted lines, number 1 first; ``ranking`` says what the ranks are over."""

    title: str
    section: Section
    tables: tuple[Table, ...]
    sources: tuple[str, ...]
    ranking: str


def page(section: Section) -> Page:
    """All tables of a section: means (where there are groups), accuracies by data set, conditions and cost."""
    grouped = len(section.groups) > 1
    tables = [_means(section)] if grouped else []
    tables += [_accuracies(section, group, with_facts=not grouped) for group in section.present]
    tables.append(_conditions(section))
    sources = tuple(f"{quote.method}: {quote.source}" for quote in section.quoted)
    ranking = f"Mean rank: over the {len(section.common)} data sets that every method here has; 1 is the best." if section.ranks else ""
    return Page(f"{section.title}, {section.backbone}", section, tuple(map(_with_best, tables)), sources, ranking)


def notes(report: Report) -> Iterator[str]:
    """How to read what the report holds, a sentence or two each."""
    entries = [entry for section in report.sections for entry in section.entries]
    yield (
        "Accuracies are in percent of the test split: mean ± sample standard deviation over seeds (n: how many; none for one, or where "
        "data sets have different seeds). Runs that diverged or failed are in no mean and are counted beside it. Bold: the highest "
        "measured here."
    )
    if any(len(section.groups) > 1 for section in report.sections):
        yield (
            "Papers average a suite in two ways, over its tasks or over the means of its groups, and the two differ by points. Both are "
            "given, and only where no task is missing; compare a published mean with the one of the same name."
        )
    if any(entry.selected_on_test for entry in entries):
        yield f"{ON_TEST}: the test split chose the epoch, so the number is too high. Not comparable with the others, and never bold."
    if any(entry.reading for entry in entries):
        yield "reading: our version of a method whose paper's equations were not available; its numbers say nothing about the paper."
    if any(section.quoted for section in report.sections):
        marks = "; ".join(f"[{mark}] {meaning}" for mark, meaning in published().marks.items())
        yield (
            "† marks numbers quoted from publications. They were not measured here, and papers differ in weights, preprocessing, selection "
            f"and in what they count as tuned. {marks}."
        )


def _means(section: Section) -> Table:
    groups, total = list(section.groups), len(section.tasks)
    columns = (*groups, f"mean of {total} tasks", f"mean of {len(groups)} groups", *_facts_of(section))

    def own(entry: Entry) -> Iterable[Value]:
        yield from (_measure(entry.groups[group], entry, section.groups[group]) for group in groups)
        yield _measure(entry.mean_tasks, entry, section.tasks)
        yield _measure(entry.mean_groups, entry, section.tasks)
        yield from _facts(entry, section)

    def quoted(quote: Quote) -> Iterable[Value]:
        yield from (_printed(quote.groups.get(group)) for group in groups)
        yield from (_printed(quote.mean_tasks), _printed(quote.mean_groups), *_printed_facts(quote, section))

    return Table("Means", columns, _lines(section, own, quoted), scores=len(groups) + 2)


def _accuracies(section: Section, group: str, with_facts: bool) -> Table:
    whole, tasks, is_suite = section.groups[group], section.present[group], bool(group)
    mean = f"mean of {len(whole)} tasks"
    columns = (*map(_short, tasks), *([mean] if is_suite else []), *(_facts_of(section) if with_facts else ()))

    def own(entry: Entry) -> Iterable[Value]:
        yield from (_score(entry.cells.get(task), entry) for task in tasks)
        if is_suite:
            yield _measure(entry.groups[group], entry, whole)
        if with_facts:
            yield from _facts(entry, section)

    def quoted(quote: Quote) -> Iterable[Value]:
        yield from (_printed(quote.tasks.get(task)) for task in tasks)
        if is_suite:
            yield _printed(quote.groups.get(group, quote.mean_tasks if with_facts else None))
        if with_facts:
            yield from _printed_facts(quote, section)

    return Table(group or "Accuracy", columns, _lines(section, own, quoted), scores=len(tasks) + is_suite)


def _facts_of(section: Section) -> tuple[str, ...]:
    return (*(("mean rank",) if section.ranks else ()), "seeds", "trained share", "trained weights")


def _facts(entry: Entry, section: Section) -> Iterable[Value]:
    cells = list(entry.cells.values())
    if section.ranks:
        rank = _mean(section.ranks.get(entry.label, ()))
        yield Value("" if rank is None else f"{rank:.2f}", rank)
    counts = sorted({cell.measure.n if cell.measure else 0 for cell in cells})
    yield Value(str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}", counts[-1])
    share = _mean([cell.share for cell in cells])
    yield Value("" if share is None else f"{100 * share:.3g} %", share)
    weights = _mean([cell.num_trainable for cell in cells])
    yield Value("" if weights is None else f"{weights:,.0f}", weights)


def _printed_facts(quote: Quote, section: Section) -> Iterable[Value]:
    return (Value(quote.tuned or "" if name == "trained share" else "") for name in _facts_of(section))


_KEPT = {"best": "best on validation", "best-on-test": "best on TEST"}


def _conditions(section: Section) -> Table:
    columns = (
        "normalization", "resize", "augment", "trained on", "epoch kept", "epochs", "time per run",
        "tuning runs", "tuning epochs", "tuning time", "diverged", "failed",
    )

    def own(entry: Entry) -> Iterable[Value]:
        given, cells = entry.conditions, list(entry.cells.values())
        shots = [f"{shots} per class" for shots in given.shots]
        kept = [_KEPT.get(select, select) for select in given.select]
        texts = (given.normalization, given.resize, given.augment, (*given.train_on, *shots), kept)
        yield from (Value(text := ", ".join(values) or "unknown", text) for values in texts)
        epochs, seconds = _mean([cell.epochs for cell in cells]), _mean([cell.seconds for cell in cells])
        yield Value("" if epochs is None else f"{epochs:g}", epochs)
        yield Value("" if seconds is None else _duration(seconds), seconds)
        searches = [cell.search for cell in cells]
        for count in (sum(search.runs for search in searches), sum(search.epochs for search in searches)):
            yield Value(f"{count:,}", count)
        spent = sum(search.seconds for search in searches)
        yield Value(_duration(spent), spent)
        for count in (sum(cell.diverged for cell in cells), sum(cell.failed for cell in cells)):
            yield Value(str(count), count)

    return Table("Conditions and cost", columns, tuple(Line(e.label, tuple(own(e)), e.stamps) for e in section.entries))


def _lines(section: Section, own: Callable[[Entry], Iterable[Value]], quoted: Callable[[Quote], Iterable[Value]]) -> tuple[Line, ...]:
    mine = [Line(entry.label, tuple(own(entry)), entry.stamps) for entry in section.entries]
    theirs = [Line(quote.method, tuple(quoted(quote)), quoted=i) for i, quote in enumerate(section.quoted, start=1)]
    return (*mine, *(line for line in theirs if any(value.text for value in line.values)))


def _with_best(table: Table) -> Table:
    """The highest of at least two own complete means per column; what was selected on the test split does not compete."""
    ours = [line for line in table.lines if line.quoted is None and ON_TEST not in line.stamps]
    top: dict[int, float] = {}
    for column in range(table.scores):
        values = [line.values[column].sort for line in ours]
        numbers = [value for value in values if isinstance(value, float)]
        if len(numbers) > 1:
            top[column] = max(numbers)

    def marked(line: Line) -> Line:
        values = (replace(value, best=line in ours and i in top and value.sort == top[i]) for i, value in enumerate(line.values))
        return replace(line, values=tuple(values))

    return replace(table, lines=tuple(map(marked, table.lines)))


def _short(task: str) -> str:
    return task.rsplit("/", 1)[-1] if not task.startswith("folder ") else task


def _score(cell: Cell | None, entry: Entry) -> Value:
    if cell is None:
        return Value("")
    usual = max((other.measure.n for other in entry.cells.values() if other.measure), default=0)
    remarks = [f"{count} {what}" for count, what in ((cell.diverged, "diverged"), (cell.failed, "failed")) if count]
    if cell.measure is None:
        return Value(", ".join(remarks))
    if cell.measure.n != usual:
        remarks.insert(0, f"n={cell.measure.n}")
    if cell.metric != "accuracy":
        remarks.append(cell.metric)
    return Value(_percent(cell.measure) + (f" ({', '.join(remarks)})" if remarks else ""), cell.measure.mean)


def _measure(measure: Measure | None, entry: Entry, tasks: Sequence[str]) -> Value:
    if measure:
        return Value(_percent(measure), measure.mean)
    done = sum(1 for task in tasks if task in entry.cells and entry.cells[task].measure)
    return Value(f"{done} of {len(tasks)} tasks")


def _percent(measure: Measure) -> str:
    return f"{100 * measure.mean:.2f}" + (f" ± {100 * measure.std:.2f}" if measure.std is not None else "")


def _printed(value: Decimal | None) -> Value:
    return Value("") if value is None else Value(str(value), float(value) / 100)


def _mean(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return sum(given) / len(given) if given else None


def _duration(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
