"""The report as data. Accuracies are 0..1; only quoted numbers are percent, as printed."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from promptvit.experiments.published import Quote
from promptvit.experiments.results import Search

ON_TEST = "SELECTED ON TEST"


class Part(BaseModel):
    """Something that is built once and never changed."""

    model_config = ConfigDict(frozen=True)


class Measure(Part):
    """Mean and sample standard deviation over ``n`` seeds; no deviation for one seed, or where tasks have different seeds."""

    mean: float
    std: float | None
    n: int


class Cell(Part):
    """An entry on one data set.

    Attributes:
        measure: over the runs that ended well; None without any.
        diverged, failed: runs that are in no mean.
        num_trainable, num_total, epochs, seconds: means over the runs.
        search: what choosing the settings cost.
    """

    measure: Measure | None
    metric: str
    seeds: tuple[int, ...]
    diverged: int
    failed: int
    num_trainable: float | None
    num_total: float | None
    epochs: float | None
    seconds: float | None
    search: Search

    @property
    def share(self) -> float | None:
        """Trained part of all weights, 0..1."""
        return self.num_trainable / self.num_total if self.num_trainable is not None and self.num_total else None


class Conditions(Part):
    """How the runs of an entry were made; every value that occurs, empty where none is known."""

    normalization: tuple[str, ...]
    resize: tuple[str, ...]
    augment: tuple[str, ...]
    select: tuple[str, ...]
    train_on: tuple[str, ...]
    shots: tuple[str, ...]


class Entry(Part):
    """A method with its settings on one backbone and suite.

    Attributes:
        cells: by data set, in the suite's order; only those that were run.
        groups: means by group; None where a task is missing.
        mean_tasks: over all tasks of the suite; None where one is missing.
        mean_groups: over the group means; None where a task is missing or there is one group only.
    """

    label: str
    method: str
    reading: str | None
    cells: Mapping[str, Cell]
    groups: Mapping[str, Measure | None]
    mean_tasks: Measure | None
    mean_groups: Measure | None
    conditions: Conditions

    @property
    def selected_on_test(self) -> bool:
        """Whether the test split chose the epoch: no fair result."""
        return "best-on-test" in self.conditions.select

    @property
    def stamps(self) -> tuple[str, ...]:
        """What a reader must not overlook."""
        on_test = (ON_TEST,) if self.selected_on_test else ()
        return (*on_test, f"reading: {self.reading}") if self.reading else on_test


class Section(Part):
    """One suite on one backbone.

    Attributes:
        groups: data sets by group; one group without a name for data sets outside the suites.
        quoted: published rows for the same suite and weights, those of our methods first.
        common: data sets on which every entry with any result has one.
        ranks: of those entries on ``common``, by label; 1 is the best; empty with fewer than two entries or data sets.
    """

    suite: str
    title: str
    backbone: str
    groups: Mapping[str, tuple[str, ...]]
    entries: tuple[Entry, ...]
    quoted: tuple[Quote, ...]
    common: tuple[str, ...]
    ranks: Mapping[str, tuple[float, ...]]

    @property
    def tasks(self) -> tuple[str, ...]:
        """All data sets, in order."""
        return tuple(task for tasks in self.groups.values() for task in tasks)

    @property
    def present(self) -> Mapping[str, tuple[str, ...]]:
        """Data sets that were run, by group, in order; groups without any are left out."""
        done = {task for entry in self.entries for task in entry.cells}
        kept = {group: tuple(task for task in tasks if task in done) for group, tasks in self.groups.items()}
        return {group: tasks for group, tasks in kept.items() if tasks}


class Report(Part):
    """All sections, and a line for everything that was found and left out."""

    sections: tuple[Section, ...]
    left_out: tuple[str, ...]
