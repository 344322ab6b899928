"""A cell whose points an Optuna study proposes, and most of which may be stopped early: successive halving on validation.

A trial is trained rung by rung in one run folder, always on the learning rate schedule of the whole run: a survivor goes on where it
stopped, and nothing is trained twice. All workers read the same study, so all of them see the same survivors and the same choice.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from promptvit.data import Dataset
from promptvit.experiments.plan import Cell, Results, Run, score
from promptvit.experiments.space import Range
from promptvit.experiments.spec import Spec
from promptvit.experiments.store import history
from promptvit.experiments.study import Study, Trial


class SearchCell(Cell):
    """See :class:`Cell`; ``points`` and ``search`` grow while trials are proposed.

    Args:
        address: the study's storage, see :class:`Study`; None: ``search.db`` beside the run folders.

    Raises:
        ValueError: also for too few epochs for the rungs.
    """

    def __init__(self, spec: Spec, label: str, dataset: Dataset, runs: Path, data_root: Path | None, address: str | None = None) -> None:
        super().__init__(spec, label, dataset, runs, data_root)  # every corner of the space is checked there
        search = spec.methods[label].search
        assert search is not None
        self.plan, self.address = search, address or f"sqlite:///{runs.parent / 'search.db'}"
        self.axes = spec.axes(label, self.task)
        self.corners, self._example = self.points, (self.search[0], self.finals(0))
        self.size = search.trials or len(self.corners)
        settings = self._example[0].settings
        if settings.epochs is None:
            raise ValueError(f"spec {spec.name}, {label} on {self.task}: search: its rungs are epochs; give epochs, not iterations")
        try:
            self.ends = search.ends(settings.epochs, settings.validate_every)
        except ValueError as error:
            raise ValueError(f"spec {spec.name}, {label} on {self.task}: {error}") from None
        self.sizes = search.sizes(self.size)
        self.points, self.search, self._finals = [], [], {}  # by number, as they become known
        self._study: Study | None = None
        self._trials: list[Trial] = []
        self._runs_of: dict[int, Run] = {}
        self._targets: dict[int, int] = {}

    def advance(self, results: Results, failed: Callable[[str], bool], places: int) -> None:
        """Tell the study what is finished, read what others told it, and ask for points as far as there is room for them.

        Args:
            failed: whether a run is given up; its trial stays open for a later start of the sweep.
            places: how many runs can run at a time.
        """
        if self.searched(results) and not any(trial.open for trial in self._trials):
            return
        study = self.study
        study.beat()
        self._read()
        while any(self._tell(trial, results) for trial in self._trials if trial.mine and trial.open):
            self._read()
        for trial in self._trials:
            if trial.free and not trial.mine and not self._rests(trial):
                study.adopt(trial)
                self._read()
        while len(self._trials) < self.size and sum(not failed(run.hash) for run in self.ready(results) if run.phase == "search") < places:
            study.ask()
            self._read()

    @property
    def study(self) -> Study:
        """Opened when it is first needed: a plan that is only looked at makes no study."""
        if self._study is None:
            self._study = Study(
                self.address, self._name(), self.axes, trials=self.size, listed=None if self.plan.trials else self.corners,
                sampler=self.plan.sampler, seed=self.spec.search_seed, worker=_worker(self._runs),
            )
        return self._study

    @property
    def elsewhere(self) -> bool:
        """Whether other workers have trials in hand that this one waits for."""
        return any(not trial.mine and not self._rests(trial) for trial in self._trials)

    @property
    def resting(self) -> Set[str]:
        """Hashes of runs that need no training at present."""
        moving = {self._runs_of[trial.number].hash for trial in self._own() if not self._rests(trial)}
        return {self._runs_of[trial.number].hash for trial in self._own()} - moving

    def choice(self, results: Results) -> int | None:
        """Number of the trial with the highest validation accuracy in the last rung, of equals with the smaller rate, then the earlier."""
        if not self.searched(results):
            return None
        last = [trial for trial in self._trials if self.ends[-1] in trial.values]
        return next(iter(self._ranked([trial.number for trial in last], self.ends[-1])), None)

    def searched(self, results: Results) -> bool:
        """Whether every trial reached what it was meant to."""
        return len(self._trials) == self.size and all(self._rests(trial) for trial in self._trials)

    def ready(self, results: Results) -> list[Run]:
        """Runs to train now: as far as their next rung, or final ones."""
        moving = [self._runs_of[trial.number] for trial in self._own() if not self._rests(trial)]
        point = self.choice(results)
        return moving if point is None else [*moving, *self.finals(point)]

    def expected(self, results: Results) -> list[Run]:
        """Runs known so far, stand-ins for the trials and rungs to come, and final runs."""
        run, finals = self._example
        none = run.settings.model_copy(update={"seed": run.settings.seed + 10**9})  # a run that no trial is, so never a finished one
        targets, ahead = list(self._targets.values()), []
        for rung, (end, size) in enumerate(zip(self.ends, self.sizes, strict=True)):
            epochs = end - (self.ends[rung - 1] if rung else 0)
            ahead += [replace(run, settings=none, stop_after=epochs)] * (size - sum(target >= rung for target in targets))
        point = self.choice(results)
        return [*self.search, *ahead, *(finals if point is None else self.finals(point))]

    def cost(self, results: Results) -> dict[str, float]:
        """What the search took so far, of all workers together; a point that was proposed twice was trained once."""
        trained = {str(trial.point): trial for trial in self._trials if trial.values or trial.diverged}.values()
        seconds = round(sum(trial.seconds for trial in trained), 3)
        return {"runs": len(trained), "epochs": sum(trial.epochs for trial in trained), "seconds": seconds}

    def _read(self) -> None:
        self._trials = self.study.read()
        self.points = [trial.point or {} for trial in self._trials]
        for trial in self._trials:
            if trial.point is not None and trial.number not in self._runs_of:
                self._runs_of[trial.number] = self._run("search", trial.point, self.spec.search_seed)
        self._targets = self._aims()
        for number, rung in self._targets.items():
            end = self.ends[rung] if rung + 1 < len(self.ends) else None  # the last one runs to its own end, and is scored
            if number in self._runs_of and self._runs_of[number].stop_after != end:
                self._runs_of[number] = replace(self._runs_of[number], stop_after=end)
        self.search = [self._runs_of[trial.number] for trial in self._own()]

    def _own(self) -> list[Trial]:
        return [trial for trial in self._trials if trial.mine]

    def _aims(self) -> dict[int, int]:
        """The rung that each trial is trained to: that of the comparison that it lost, or the one that is on."""
        aims, alive = {}, [trial.number for trial in self._trials]
        for rung, end in enumerate(self.ends):
            aims.update(dict.fromkeys(alive, rung))
            known = [number for number in alive if end in self._trials[number].values]
            diverged = sum(self._trials[number].diverged for number in alive if number not in known)
            if len(self._trials) < self.size or len(known) + diverged < len(alive) or rung + 1 == len(self.ends):
                break
            alive = self._ranked(known, end)[: self.sizes[rung + 1]]
        return aims

    def _ranked(self, numbers: list[int], end: int) -> list[int]:
        """The best after ``end`` epochs first."""
        return sorted(numbers, key=lambda number: (-self._trials[number].values[end], self._runs_of[number].settings.lr, number))

    def _rests(self, trial: Trial) -> bool:
        """Whether a trial needs no training at present."""
        return trial.diverged or not trial.open or (trial.point is not None and self.ends[self._targets[trial.number]] in trial.values)

    def _tell(self, trial: Trial, results: Results) -> bool:
        """Report what is new about a trial of this worker; whether there was something."""
        run, rung = self._runs_of[trial.number], self._targets[trial.number]
        if self._rests(trial):
            over = trial.diverged or rung + 1 == len(self.ends) or self._beyond(rung)
            if over:
                self.study.close(trial, None if trial.diverged or rung + 1 < len(self.ends) else trial.values[self.ends[-1]])
            return over
        end, lines, result = self.ends[rung], history(Path(run.settings.out)), results.get(run.hash)
        seconds = sum(line["seconds"] for line in lines[:end])
        if result and result["status"] == "diverged" and len(lines) < end:
            self.study.diverge(trial, len(lines), seconds)
        elif run.stop_after is None and result:
            self.study.report(trial, end, score(result) or 0.0, seconds)
        elif run.stop_after and len(lines) >= end:
            self.study.report(trial, end, _value(lines[:end], run.settings.select), seconds)
        else:
            return False
        return True

    def _beyond(self, rung: int) -> bool:
        """Whether the comparison at the end of a rung has been made."""
        return max(self._targets.values()) > rung

    def _name(self) -> str:
        """Equal for workers that search the same: all that can change a trial is in it."""
        what = [self._example[0].hash, self.plan.model_dump(mode="json"), {key: _plain(axis) for key, axis in self.axes.items()}]
        digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
        return f"{self.spec.name}: {self.label} on {self.task} ({digest})"


def _value(lines: list[dict[str, Any]], select: str) -> float:
    """What the run would be chosen for, had it ended here: mIoU of segmentation, else accuracy."""
    values = [line.get("val_miou", line["val_accuracy"]) for line in lines]
    validated = [value for value in values if value is not None]
    return float(validated[-1] if select == "last" else max(validated))


def _plain(axis: Any) -> Any:
    return axis.model_dump() if isinstance(axis, Range) else axis


def _worker(runs: Path) -> str:
    """The sweep folder's name among workers: the same after a restart, and telling nothing of the machine."""
    return "worker " + hashlib.sha256(f"{platform.node()} {runs.resolve()}".encode()).hexdigest()[:12]
