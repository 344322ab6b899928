"""From rows of runs to the report: which runs belong together, their means, their ranks. A pure function."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from promptvit.experiments import suites
from promptvit.experiments.published import quotes
from promptvit.experiments.report.model import Cell, Conditions, Entry, Measure, Report, Section
from promptvit.experiments.report.variants import Labelled, labelled
from promptvit.experiments.results import Row, Search

OTHER = "other"
_TITLES = {"fgvc": "FGVC", "vtab": "VTAB-1k", "hta": "HTA", OTHER: "Other data sets"}
Replicate = tuple[int, int | None]


def build(rows: Sequence[Row], left_out: Sequence[str] = ()) -> Report:
    """Sections by suite and backbone; a sweep's entries in its own order, then others by name.

    Args:
        left_out: a line for everything that was found and not read.

    Raises:
        ValueError: no final result on a test split.
    """
    known = labelled(rows)
    finals = [row for row in known if row.row.phase == "final"]
    if not any(row.row.score is not None for row in finals):
        raise ValueError(f"report: no finished run with a result on the test split among {len(rows)} found; train, or give another folder")
    parts: dict[tuple[str, str], list[Labelled]] = defaultdict(list)
    for item in finals:
        parts[_suite(item.task), item.backbone].append(item)
    searches = [item for item in known if item.row.phase == "search"]
    order = [*suites.suites(), OTHER]
    keys = sorted(parts, key=lambda key: order.index(key[0]))  # stable: backbones in the order of their first row
    return Report(sections=tuple(_section(*key, parts[key], searches) for key in keys), left_out=tuple(left_out))


def _suite(task: str) -> str:
    found = suites.group_of(task)
    return found[0] if found else OTHER


def _section(suite: str, backbone: str, items: list[Labelled], searches: list[Labelled]) -> Section:
    groups = suites.groups(suite) if suite != OTHER else {"": tuple(sorted({item.task for item in items}))}
    by_label: dict[str, list[Labelled]] = defaultdict(list)
    for item in items:
        by_label[item.label].append(item)
    order = sorted(by_label, key=lambda label: "" if by_label[label][0].row.label else label)  # a sweep's labels in its own order first
    entries = tuple(_entry(label, by_label[label], groups, suite, searches) for label in order)
    comparable = all(item.row.settings.get("pretrained") is not False and not item.row.settings.get("shots") for item in items)
    quoted = quotes(suite, items[0].row.backbone) if comparable else []
    ours = [entry.method for entry in entries]
    quoted.sort(key=lambda quote: ours.index(quote.method) if quote.method in ours else len(ours))
    common, ranks = _ranks(entries, [task for tasks in groups.values() for task in tasks])
    return Section(
        suite=suite, title=_TITLES.get(suite, suite), backbone=backbone, groups=groups, entries=entries, quoted=tuple(quoted),
        common=common, ranks=ranks,
    )


def _entry(label: str, items: list[Labelled], groups: Mapping[str, tuple[str, ...]], suite: str, searches: list[Labelled]) -> Entry:
    by_task: dict[str, list[Row]] = defaultdict(list)
    for item in items:
        by_task[item.task].append(item.row)
    first = items[0]
    own = [item for item in searches if (item.base, item.backbone, item.row.sweep) == (first.base, first.backbone, first.row.sweep)]
    spent = {task: [item.row for item in own if item.task == task] for task in by_task}
    tasks = [task for members in groups.values() for task in members if task in by_task]
    cells = {task: _cell(by_task[task], spent[task]) for task in tasks}
    scores = {task: _scores(by_task[task]) for task in tasks}
    means = {group: _mean([scores.get(task, {}) for task in members]) for group, members in groups.items()}
    members_all = [[scores.get(task, {}) for task in members] for members in groups.values()]
    whole = suite != OTHER
    return Entry(
        label=label, method=first.row.method, reading=first.row.reading, cells=cells,
        groups=means if whole else {},
        mean_tasks=_mean([score for members in members_all for score in members]) if whole else None,
        mean_groups=_mean_of_groups(members_all) if whole and len(groups) > 1 else None,
        conditions=_conditions([row for rows in by_task.values() for row in rows]),
    )


def _scores(rows: list[Row]) -> dict[Replicate, float]:
    return {(row.seed, row.data_seed): row.score for row in rows if row.status == "ok" and row.score is not None}


def _cell(rows: list[Row], searches: list[Row]) -> Cell:
    done = [row for row in rows if row.status == "ok" and row.score is not None]
    diverged = sum(row.status == "diverged" for row in rows)
    stated = next((row.search for row in rows if row.search), None)
    return Cell(
        measure=_measure(list(_scores(rows).values())),
        metric="mIoU" if any(row.miou is not None for row in done) else "accuracy",
        seeds=tuple(sorted({row.seed for row in done})),
        diverged=diverged,
        failed=len(rows) - len(done) - diverged,
        num_trainable=_average([row.num_trainable for row in done]),
        num_total=_average([row.num_total for row in done]),
        epochs=_average([row.epochs for row in done]),
        seconds=_average([row.train_seconds for row in done]),
        search=stated or _cost(searches),
    )


def _cost(searches: list[Row]) -> Search:
    """Tuning cost from the search's own runs, where no summary states it."""
    epochs, seconds = sum(row.epochs or 0 for row in searches), sum(row.train_seconds or 0.0 for row in searches)
    return Search(runs=len(searches), epochs=epochs, seconds=seconds)


def _average(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return statistics.fmean(given) if given else None


def _measure(values: list[float]) -> Measure | None:
    """Mean and sample standard deviation; the latter needs two values."""
    if not values:
        return None
    return Measure(mean=statistics.fmean(values), std=statistics.stdev(values) if len(values) > 1 else None, n=len(values))


def _mean(scores: Sequence[Mapping[Replicate, float]]) -> Measure | None:
    """Mean over tasks, None where one is missing. Its deviation is that of the seeds' own means, so every task must have the same seeds."""
    if not scores or not all(scores):
        return None
    mean = statistics.fmean(statistics.fmean(score.values()) for score in scores)
    return _with_deviation(mean, [scores])


def _mean_of_groups(groups: Sequence[Sequence[Mapping[Replicate, float]]]) -> Measure | None:
    """Mean over the means of the groups, each of which weighs the same however many tasks it has."""
    means = [_mean(scores) for scores in groups]
    if not all(means):
        return None
    return _with_deviation(statistics.fmean(mean.mean for mean in means if mean), groups)


def _with_deviation(mean: float, groups: Sequence[Sequence[Mapping[Replicate, float]]]) -> Measure:
    seeds = [set(score) for scores in groups for score in scores]
    if len(seeds[0]) < 2 or any(own != seeds[0] for own in seeds):
        return Measure(mean=mean, std=None, n=min(map(len, seeds)))
    own = [statistics.fmean(statistics.fmean(score[seed] for score in scores) for scores in groups) for seed in sorted(seeds[0], key=str)]
    return Measure(mean=mean, std=statistics.stdev(own), n=len(own))


def _conditions(rows: list[Row]) -> Conditions:
    """How the runs of an entry were made; where they differ, every value that occurs."""

    def values(*keys: str, unset: str = "") -> tuple[str, ...]:
        given = [(row, " ".join(str(row.settings[key]) for key in keys if row.settings.get(key) is not None)) for row in rows]
        shown = {text or (unset if keys[0] in row.settings else "") for row, text in given}
        return tuple(sorted(shown - {""}))

    return Conditions(
        normalization=values("normalization"),
        resize=values("resize", "interpolation", "crop_pct", unset="weights"),
        augment=values("augment"),
        select=tuple(sorted({row.select or str(row.settings.get("select") or "unknown") for row in rows})),
        train_on=tuple(sorted({row.train_on or str(row.settings.get("train_on") or "train") for row in rows})),
        shots=values("shots"),
    )


def _ranks(entries: Sequence[Entry], tasks: Sequence[str]) -> tuple[tuple[str, ...], dict[str, tuple[float, ...]]]:
    """Tasks that every entry has, and the entries' ranks there: equal scores share the mean of their ranks."""
    means = {entry.label: {task: cell.measure.mean for task, cell in entry.cells.items() if cell.measure} for entry in entries}
    means = {label: own for label, own in means.items() if own}
    common = tuple(task for task in tasks if means and all(task in own for own in means.values()))
    if len(means) < 2 or len(common) < 2:
        return common, {}
    columns = {task: [own[task] for own in means.values()] for task in common}
    return common, {label: tuple(_rank(own[task], columns[task]) for task in common) for label, own in means.items()}


def _rank(value: float, values: Sequence[float]) -> float:
    return sum(other > value for other in values) + (sum(other == value for other in values) + 1) / 2
