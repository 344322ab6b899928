"""The report as CSV in long form: one row per method and data set, and one per mean. Full precision, shares and accuracies in 0..1."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from promptvit.experiments.published import Quote
from promptvit.experiments.report.model import Cell, Entry, Measure, Report, Section

COLUMNS = (
    "origin",  # own or quoted: never average over both
    "suite", "backbone", "label", "method", "reading",
    "level",  # task, group, mean_tasks, mean_groups
    "name",  # of the data set or group
    "metric", "mean", "std", "n", "seeds", "diverged", "failed",
    "num_trainable", "num_total", "trained_share", "epochs", "train_seconds", "search_runs", "search_epochs", "search_seconds",
    "normalization", "resize", "augment", "train_on", "select", "shots", "selected_on_test", "source",
)


def render(report: Report) -> str:
    """The whole report."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for section in report.sections:
        rows = [row for entry in section.entries for row in _own(section, entry)]
        rows += [row for quote in section.quoted for row in _quoted(section, quote)]
        writer.writerows({key: " ".join(value.split()) if isinstance(value, str) else value for key, value in row.items()} for row in rows)
    return text.getvalue()


def _own(section: Section, entry: Entry) -> Iterator[dict[str, Any]]:
    common = {
        "origin": "own", "suite": section.suite, "backbone": section.backbone, "label": entry.label, "method": entry.method,
        "reading": entry.reading, "selected_on_test": int(entry.selected_on_test),
        **{key: "; ".join(values) for key, values in entry.conditions},
    }
    for task, cell in entry.cells.items():
        yield {**common, "level": "task", "name": task, **_measure(cell.measure), **_facts(cell)}
    for group, measure in entry.groups.items():
        if measure:
            yield {**common, "level": "group", "name": group, **_measure(measure)}
    for level, measure in (("mean_tasks", entry.mean_tasks), ("mean_groups", entry.mean_groups)):
        if measure:
            yield {**common, "level": level, "name": section.suite, **_measure(measure)}


def _quoted(section: Section, quote: Quote) -> Iterator[dict[str, Any]]:
    common = {
        "origin": "quoted", "suite": section.suite, "backbone": section.backbone, "label": quote.method, "method": quote.method,
        "source": quote.source,
    }
    levels = {"task": quote.tasks, "group": quote.groups}
    levels |= {level: {section.suite: mean} for level in ("mean_tasks", "mean_groups") if (mean := getattr(quote, level)) is not None}
    for level, values in levels.items():
        yield from ({**common, "level": level, "name": name, "mean": float(value / 100)} for name, value in values.items())


def _measure(measure: Measure | None) -> dict[str, Any]:
    return {"mean": measure.mean, "std": measure.std, "n": measure.n} if measure else {"n": 0}


def _facts(cell: Cell) -> dict[str, Any]:
    return {
        "metric": cell.metric, "seeds": " ".join(map(str, cell.seeds)), "diverged": cell.diverged, "failed": cell.failed,
        "num_trainable": cell.num_trainable, "num_total": cell.num_total, "trained_share": cell.share, "epochs": cell.epochs,
        "train_seconds": cell.seconds, "search_runs": cell.search.runs, "search_epochs": cell.search.epochs,
        "search_seconds": cell.search.seconds,
    }
