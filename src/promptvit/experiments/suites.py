"""Suites: which data sets a paper's table has, in which groups."""

from collections.abc import Iterable

from promptvit.data import list_datasets
from promptvit.data.listed.tasks import FGVC, VTAB
from promptvit.data.proc.sets import SETS
from promptvit.errors import unknown

_HEADINGS = {"fgvc": "FGVC", "natural": "Natural", "specialized": "Specialized", "specialised": "Specialised", "structured": "Structured"}


def _by_group(members: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """(group, data set) pairs as lists by heading."""
    grouped: dict[str, list[str]] = {}
    for group, name in members:
        grouped.setdefault(_HEADINGS.get(group, group.capitalize()), []).append(name)
    return {heading: tuple(names) for heading, names in grouped.items()}


_GROUPED = {
    "fgvc": _by_group((task.group, f"fgvc/{task.name}") for task in FGVC.values()),
    "vtab": _by_group((task.group, f"vtab/{task.name}") for task in VTAB.values()),
    "hta": {"HTA": tuple(name for name in list_datasets() if name.startswith("hta/"))},
    **{
        family: _by_group((made.group, name) for name, made in SETS.items() if name.startswith(f"{family}/"))
        for family in ("proc", "proc-dev")
    },
}


def suites() -> list[str]:
    """Names that :func:`groups` accepts."""
    return sorted(_GROUPED)


def groups(suite: str) -> dict[str, tuple[str, ...]]:
    """Data set names of ``suite``, by group, in the papers' order.

    Raises:
        ValueError: an unknown suite.
    """
    if suite not in _GROUPED:
        raise ValueError(unknown("suite", suite, suites()))
    return dict(_GROUPED[suite])


def group_of(dataset: str) -> tuple[str, str] | None:
    """(suite, group) of a data set, or None where it belongs to none."""
    suite = dataset.split("/")[0]
    if suite not in _GROUPED:
        return None
    return next(((suite, group) for group, names in groups(suite).items() if dataset in names), None)


def expand(tasks: str | list[str]) -> list[str]:
    """A suite's name, or a list of data sets and suites, as data set names without repeats.

    Raises:
        ValueError: a name that is neither.
    """
    names: list[str] = []
    for task in [tasks] if isinstance(tasks, str) else tasks:
        if task in _GROUPED:
            names += [name for members in groups(task).values() for name in members]
        elif task in list_datasets():
            names.append(task)
        else:
            raise ValueError(unknown("task", task, [*list_datasets(), *suites()]))
    return list(dict.fromkeys(names))
