"""Carry out a plan: hand its runs to an executor as they become known, try failed ones again, keep the folder's views up to date."""

import time
from collections import Counter
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from rich.console import Console

from promptvit.backbones.loading import load_backbone
from promptvit.experiments.estimate import load, measured
from promptvit.experiments.executor import Executor, Job, LocalExecutor, Outcome
from promptvit.experiments.plan import Cell, Run, cells
from promptvit.experiments.spec import Spec
from promptvit.experiments.store import SweepFolder
from promptvit.experiments.watch import Watch

WRITE_EVERY = 10  # seconds between two writings of the folder's views
LOSSES = 10  # times that the machine under a run may go away without counting as a try


def run_sweep(
    spec: Spec, out: Path, *, executor: Executor | None = None, jobs: int = 1, retries: int = 1, data_root: Path | None = None,
    only: Iterable[str] = (), tasks: Iterable[str] = (), storage: str | None = None, console: Console | None = None,
) -> "Sweep":
    """Run what ``spec`` asks for and ``out`` does not hold yet. Safe to stop or kill at any moment: the same call goes on.

    Args:
        executor: where runs run; default: ``jobs`` processes of this machine.
        retries: how often a run that failed is tried again.
        data_root: where the data sets lie.
        only, tasks: labels and data sets to leave the others out; their rows in ``summary.json`` stay.
        storage: where searches remember their trials; with an address that others use, too, all search together.

    Raises:
        ValueError: a spec that cannot be run, or a folder that another sweep uses.
        ImportError: a search, but Optuna is not installed.
    """
    folder = SweepFolder(out)
    planned = cells(spec, folder.runs, data_root, only=only, tasks=tasks, storage=storage)
    watch = Watch(spec.name, console or Console(stderr=True))
    with folder.locked():
        sweep = Sweep(planned, folder, retries, keep=folder.earlier_spec(spec) == "same")
        if folder.earlier_spec(spec) == "other":
            watch.line(f"the spec differs from {folder.path / 'spec.yaml'}; finished runs with the same settings are used as they are")
        sweep.write()  # before the spec: what the views hold is never of another spec than the stored one
        folder.keep_spec(spec)
        _check_backbones([run for cell in planned for run in cell.expected(sweep.results) if run.hash not in sweep.results])
        with executor or LocalExecutor(jobs, folder.logs) as place:
            sweep.carry_out(place, watch)
    return sweep


class Sweep:
    """What changes while a sweep runs.

    Attributes:
        results: ``result.json`` of every finished run in the folder, by settings hash.
        tries: how often runs were started by this sweep.
        losses: how often they were lost with their machine.
        errors: why their last try failed.
    """

    def __init__(self, planned: list[Cell], folder: SweepFolder, retries: int = 0, *, keep: bool = False) -> None:
        self.cells, self.folder, self.retries = planned, folder, retries
        self.results = folder.results()
        self.tries: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.errors: dict[str, str] = {}
        known = folder.entries()
        self.tried_before = {entry["hash"]: entry["attempts"] for entry in known}
        own = {(cell.label, cell.task) for cell in planned}
        self.kept_rows = [row for row in folder.rows() if keep and (row["label"], row["dataset"]) not in own]
        self.kept_entries = [entry for entry in known if keep and (entry["label"], entry["task"]) not in own]

    def carry_out(self, executor: Executor, watch: Watch) -> None:
        """Until nothing is left that can be done."""
        written = time.monotonic()
        with watch:
            while True:
                for cell in self.cells:
                    cell.advance(self.results, self.given_up, executor.free + len(executor.running))
                for run in self.waiting(executor.running)[: executor.free]:
                    self.tries[run.hash] += 1
                    executor.submit(Job(run.hash, run.arguments))
                if not executor.running and any(cell.elsewhere for cell in self.cells):
                    time.sleep(1.0)
                    continue
                if not executor.running:
                    break
                self.show(watch, executor)
                for outcome in executor.wait(1.0):
                    self.take(outcome, watch)
                if time.monotonic() - written > WRITE_EVERY:
                    self.write(executor.running)
                    written = time.monotonic()
        self.write()

    def waiting(self, running: Iterable[Job] = ()) -> list[Run]:
        """Runs to start, in the order of the plan: asked for, not finished, not ``running``, not given up."""
        busy = {job.hash for job in running}
        wanted = {run.hash: run for cell in self.cells for run in cell.ready(self.results)}
        return [run for name, run in wanted.items() if name not in self.results and name not in busy and not self.given_up(name)]

    def given_up(self, name: str) -> bool:
        """Whether a run failed as often as it may."""
        return name in self.errors and self.tries[name] - min(self.losses[name], LOSSES) > self.retries

    def take(self, outcome: Outcome, watch: Watch) -> None:
        """Note how a job ended."""
        name = outcome.job.hash
        if outcome.result is not None:
            if outcome.result["status"] == "stopped":  # not a result; it may be asked to go on
                self.tried_before[name] = self.tried_before.get(name, 0) + self.tries.pop(name)
                self.losses.pop(name, None)
            else:
                self.results[name] = outcome.result
            self.errors.pop(name, None)
            return
        self.errors[name] = outcome.error or "failed without a word"
        self.losses[name] += outcome.lost
        given = outcome.job.settings
        then = "given up" if self.given_up(name) else "trying again"
        how = "lost" if outcome.lost else "failed"
        watch.line(f"{how} ({then}): {given['method']} on {given['data']}, seed {given['seed']}, run {name}: {self.errors[name]}")

    def missing(self) -> list[str]:
        """A line per cell and seed without a final accuracy: why."""
        return [line for cell in self.cells for line in self._missing(cell)]

    def _missing(self, cell: Cell) -> list[str]:
        where = f"{cell.label} on {cell.task}"
        point = cell.choice(self.results)
        if point is not None:
            unfinished = [(run, self._state(run)) for run in cell.finals(point)]
            return [f"{where}, seed {run.settings.seed}: {state}" for run, state in unfinished if state != "ok"]
        failed = [f"run {run.hash} {self._state(run)}" for run in cell.search if run.hash not in self.results.keys() | cell.resting]
        reason = f"its search is not complete ({failed[0]})" if failed else f"all {len(cell.search)} runs of its search diverged"
        return [f"{where}, seed {seed}: {reason}" for seed in cell.spec.seeds]

    def _state(self, run: Run) -> str:
        if run.hash in self.results:
            return str(self.results[run.hash]["status"])
        return f"failed: {self.errors[run.hash]}" if run.hash in self.errors else "not run"

    def show(self, watch: Watch, executor: Executor) -> None:
        """Progress: work done, and the time for the rest at the rates measured so far."""
        rates = measured(self.cells, self.results)
        usual = sum(rates.values()) / len(rates) if rates else None
        epochs = {job.hash: _epochs(Path(job.settings["out"])) for job in executor.running}
        loads = [(cell.label, *load(cell, self.results, self.over(), epochs)) for cell in self.cells]
        total, left = (sum(images) for images in zip(*(images for _, *images in loads), strict=True))
        seconds = sum(images * (rates.get(label, usual) or 0) for label, _, images in loads) / (len(executor.running) + executor.free)
        runs = {run.hash for cell in self.cells for run in cell.expected(self.results)}
        watch.update(len(runs & self.over()), len(runs), 1 - left / total, seconds if usual else None)

    def over(self) -> set[str]:
        """Runs that will not run any more."""
        return {*self.results, *filter(self.given_up, self.errors)}.union(*(cell.resting for cell in self.cells))

    def write(self, running: Iterable[Job] = ()) -> None:
        """Write ``summary.json`` and ``sweep.json``."""
        busy = {job.hash for job in running}
        entries = [self._entry(run, busy, cell.resting) for cell in self.cells for run in cell.wanted(self.results)]
        self.folder.write(self.kept_rows + self.rows(), self.kept_entries + entries)

    def rows(self) -> list[dict[str, Any]]:
        """The finished final runs: their results with what the sweep adds."""
        rows = []
        for cell in self.cells:
            point = cell.choice(self.results)
            finals = [] if point is None else [run for run in cell.finals(point) if run.hash in self.results]
            added = {"label": cell.label, "phase": "final", "search": cell.cost(self.results)}
            rows += [self.results[run.hash] | added | {"chosen": run.point} for run in finals]
        return rows

    def _entry(self, run: Run, busy: Set[str], resting: Set[str]) -> dict[str, Any]:
        failed = "failed" if run.hash in self.errors else "stopped" if run.hash in resting else "waiting"
        status = self.results[run.hash]["status"] if run.hash in self.results else "running" if run.hash in busy else failed
        return {
            "label": run.label, "task": run.task, "seed": run.settings.seed, "phase": run.phase, "point": run.point, "hash": run.hash,
            "status": status, "attempts": self.tried_before.get(run.hash, 0) + self.tries[run.hash], "error": self.errors.get(run.hash),
        }


def _epochs(run: Path) -> int:
    """Finished epochs of a run folder."""
    try:
        return (run / "metrics.jsonl").read_text(encoding="utf-8").count("\n")
    except OSError:
        return 0


def _check_backbones(runs: list[Run]) -> None:
    """A backbone that cannot be loaded is said once, before the first run, and not by each of them."""
    given = {(s.backbone, s.pretrained, str(s.arch), s.image_size): s for s in (run.settings for run in runs)}
    for settings in given.values():
        load_backbone(settings.backbone, pretrained=settings.pretrained, arch=settings.arch, image_size=settings.image_size)
