"""Which runs a spec asks for: a pure function of the spec and of the results so far, so that a restart needs no memory.

Per method and data set (a cell): every point of the grid is trained once and scored on validation; the best point's final runs, one per
seed, are scored once on test.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from promptvit.config import checked
from promptvit.data import Dataset, MaskedSplit, SegmentationDataset, Split, list_datasets, load_dataset, load_segmentation
from promptvit.data.segmentation.registry import is_segmentation
from promptvit.errors import unknown
from promptvit.experiments.spec import Spec
from promptvit.training import TrainSettings, resolve

Phase = Literal["search", "final"]
Results = Mapping[str, dict[str, Any]]  # what result.json holds, by settings hash; finished runs only

_DECIDED = {  # by the sweep, so no setting of a spec
    "method": "the entry's `method`", "data": "`tasks`", "seed": "`seeds` and `search_seed`", "train_on": "`final`",
    "score": "the protocol", "out": "--out", "data_root": "--data-root",
}


@dataclass(frozen=True)
class Run:
    """One training run: ``point`` of the grid, in complete ``settings`` whose ``out`` ends in their hash; for now to ``stop_after``."""

    label: str
    task: str
    phase: Phase
    point: dict[str, Any]
    settings: TrainSettings
    stop_after: int | None = None

    @cached_property
    def hash(self) -> str:
        """The settings hash: the run's identity."""
        return self.settings.hash

    @property
    def arguments(self) -> dict[str, Any]:
        """For :func:`promptvit.train`."""
        return self.settings.model_dump() | ({"stop_after": self.stop_after} if self.stop_after else {})


class Cell:
    """One method of a spec on one data set.

    Attributes:
        dataset: its facts and labels, without images.
        points: the grid.
        search: a run per point; none where there is nothing to choose.
        size: how many points there are, or will be.

    Raises:
        ValueError: settings that cannot be, with their place in the spec.
    """

    def __init__(self, spec: Spec, label: str, dataset: Dataset, runs: Path, data_root: Path | None) -> None:
        self.spec, self.label, self.task, self.dataset = spec, label, dataset.name, dataset
        self._runs, self._data_root = runs, data_root
        self._finals: dict[int, list[Run]] = {}
        self.points = spec.points(label, self.task)
        self.size = len(self.points)
        self.search = [self._run("search", point, spec.search_seed) for point in self.points] if len(self.points) > 1 else []
        self.finals(0)  # so that settings that no final run can have are found now

    def advance(self, results: Results, failed: Callable[[str], bool], places: int) -> None:
        """Take note of new results before more is asked for; a grid needs none.

        Args:
            failed: whether the run with this hash is given up.
            places: how many runs can run at a time.
        """

    @property
    def resting(self) -> Set[str]:
        """Hashes of runs of the search that are stopped, for now or for good."""
        return frozenset()

    @property
    def elsewhere(self) -> bool:
        """Whether the search waits for runs that other sweeps have in hand."""
        return False

    def choice(self, results: Results) -> int | None:
        """The point for the final runs: highest validation accuracy or mIoU, of equals the smaller rate, then the earlier point.

        None while the search is not finished, and where none of its runs has an accuracy (all diverged).
        """
        if not self.search:
            return 0
        if not self.searched(results):
            return None
        scored = {i: value for i, run in enumerate(self.search) if (value := score(results[run.hash])) is not None}
        return max(scored, key=lambda i: (scored[i], -self.search[i].settings.lr), default=None)

    def searched(self, results: Results) -> bool:
        """Whether every run of the search is finished."""
        return all(run.hash in results for run in self.search)

    def finals(self, point: int) -> list[Run]:
        """The final runs of a point of the grid, one per seed."""
        if point not in self._finals:
            self._finals[point] = [self._run("final", self.points[point], seed) for seed in self.spec.seeds]
        return self._finals[point]

    def wanted(self, results: Results) -> list[Run]:
        """All runs that the results so far ask for, finished ones among them."""
        point = self.choice(results)
        return self.search if point is None else [*self.search, *self.finals(point)]

    def ready(self, results: Results) -> list[Run]:
        """Those of :meth:`wanted` that can run now or are finished."""
        return self.wanted(results)

    def cost(self, results: Results) -> dict[str, float]:
        """What the search took so far: runs, their epochs and training seconds."""
        tried = [results[run.hash] for run in self.search if run.hash in results]
        seconds = round(sum(result["train_seconds"] for result in tried), 3)
        return {"runs": len(tried), "epochs": sum(result["epochs"] for result in tried), "seconds": seconds}

    def expected(self, results: Results) -> list[Run]:
        """:meth:`wanted`; while the search is on, with the first point's final runs in place of those to come."""
        return [*self.search, *self.finals(self.choice(results) or 0)]

    def _run(self, phase: Phase, point: dict[str, Any], seed: int) -> Run:
        spec, label, task = self.spec, self.label, self.task
        given = spec.settings_of(label, task, **point)
        own_select = "last" if spec.final == "train+val" else "best"
        given.setdefault("select", own_select)
        if phase == "search":  # never opens the test split, whatever the final runs do
            given |= {"score": "val", "select": own_select if given["select"] == "best-on-test" else given["select"]}
        else:
            given["train_on"] = spec.final
        try:
            settings = resolve(**given, seed=seed, data_root=str(self._data_root) if self._data_root else None).completed(self.dataset)
        except ValueError as error:
            raise ValueError(f"spec {spec.name}, {label} on {task}: {error}") from None
        return Run(label, task, phase, point, settings.model_copy(update={"out": str(self._runs / settings.hash)}))


def score(result: Mapping[str, Any]) -> float | None:
    """The number of a result that its task is about: mIoU of segmentation, else accuracy; None if it diverged."""
    found: float | None = result["miou"] if "miou" in result else result["accuracy"]
    return found


def cells(
    spec: Spec, runs: Path, data_root: Path | None, *, only: Iterable[str] = (), tasks: Iterable[str] = (), storage: str | None = None
) -> list[Cell]:
    """The cells of ``spec``, data set by data set, with run folders in ``runs``.

    Args:
        only, tasks: labels and data sets to leave the others out; default: all.
        storage: where searches remember their trials; default: ``search.db`` beside ``runs``.

    Raises:
        ValueError: names that the spec does not have, settings that cannot be, data that cannot be read.
        ImportError: a search, but Optuna is not installed.
    """
    _check(spec)
    labels = _chosen(f"method in {spec.name}", only, list(spec.methods))
    names = _chosen(f"data set in {spec.name}", tasks, spec.task_names())
    datasets = [_facts(name, spec, data_root) for name in names]
    return [_cell(spec, label, dataset, runs, data_root, storage) for dataset in datasets for label in labels]


def _cell(spec: Spec, label: str, dataset: Dataset, runs: Path, data_root: Path | None, storage: str | None) -> Cell:
    if spec.methods[label].search is None or len(spec.points(label, dataset.name)) < 2:
        return Cell(spec, label, dataset, runs, data_root)
    from promptvit.experiments.search import SearchCell  # needs Optuna, and this file

    return SearchCell(spec, label, dataset, runs, data_root, storage)


def overridden(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """``spec`` with ``values`` in the place of whatever it says for these settings (or for ``seeds``, ``backbone`` and the like)."""
    own = {key: value for key, value in values.items() if key in ("backbone", "seeds", "search_seed", "final", "reference_batch")}
    settings = {key: value for key, value in values.items() if key not in own}
    methods = {}
    for label, entry in spec.methods.items():
        tasks = {task: {key: value for key, value in given.items() if key not in settings} for task, given in entry.tasks.items()}
        grid = {key: value for key, value in entry.grid.items() if key not in settings}
        space = {key: axis for key, axis in entry.search.space.items() if key not in settings} if entry.search else {}
        search = entry.search and entry.search.model_copy(update={"space": space})
        changes = {"settings": entry.settings | settings, "grid": grid, "search": search, "tasks": tasks}
        methods[label] = entry.model_copy(update=changes)
    changed = spec.model_copy(update={"methods": methods}).model_dump() | own
    return checked(Spec, changed, f"spec {spec.name}:")


def _check(spec: Spec) -> None:
    for label, entry in spec.methods.items():
        places = {"settings": spec.settings, f"methods.{label}.settings": entry.settings, f"methods.{label}.grid": entry.grid}
        places[f"methods.{label}.search.space"] = entry.search.space if entry.search else {}
        for task, given in entry.tasks.items():
            if task not in list_datasets():
                raise ValueError(f"spec {spec.name}: methods.{label}.tasks: {unknown('data set', task, list_datasets())}")
            places[f"methods.{label}.tasks.{task}"] = given
        for place, given in places.items():
            for key in _DECIDED.keys() & given.keys():
                raise ValueError(f"spec {spec.name}: {place}.{key}: decided by {_DECIDED[key]}; leave it out here")
        for key, values in entry.grid.items():
            if not values:
                raise ValueError(f"spec {spec.name}: methods.{label}.grid.{key}: no value to try; give some, or leave it out")


def _chosen(kind: str, given: Iterable[str], valid: list[str]) -> list[str]:
    wanted = list(given)
    for name in wanted:
        if name not in valid:
            raise ValueError(unknown(kind, name, valid))
    return [name for name in valid if name in wanted] if wanted else valid


def _facts(name: str, spec: Spec, data_root: Path | None) -> Dataset:
    """What planning needs: a sweep over many data sets holds none of their images. Where an image has a mask, its label is 0."""
    load = load_segmentation if is_segmentation(name, spec.settings.get("task")) else load_dataset
    dataset: Dataset | SegmentationDataset = load(name, root=data_root, data_seed=spec.search_seed)
    labels = {split.name: [0] * len(split) if isinstance(split, MaskedSplit) else split.labels for split in dataset.splits.values()}
    splits = {split: Split(split, found, (), []) for split, found in labels.items()}
    return Dataset(name, dataset.classes, splits, dataset.augment, dataset.resize)
