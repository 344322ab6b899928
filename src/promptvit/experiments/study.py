"""A search's memory: an Optuna study, which any number of workers on any machines share. Nothing else here knows Optuna."""

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from promptvit.experiments.space import Axis, Range

try:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler
    from optuna.storages import BaseStorage, JournalStorage, RDBStorage, journal
    from optuna.trial import FrozenTrial, TrialState
except ModuleNotFoundError:
    raise ImportError('search: needs the package optuna; install it with: pip install "promptvit[sweep]"') from None

BEAT = 30  # seconds between two signs of life of a worker
SILENT = 300  # seconds without one after which others go on with its trials


@dataclass(frozen=True)
class Trial:
    """One proposed point and what is known of it.

    Attributes:
        point: None while the worker that asks for it has not drawn it to the end.
        values: validation accuracy by epoch at which it was compared.
        diverged: its loss was no number; it is never taken.
        epochs, seconds: what it cost so far.
        free: no living worker but this one has it in hand.
    """

    number: int
    id: int
    point: dict[str, Any] | None
    values: dict[int, float]
    diverged: bool
    epochs: int
    seconds: float
    open: bool
    mine: bool
    free: bool


class Study:
    """Proposes points, each a function of the seed, its number and, for ``tpe``, the trials before; remembers how they did.

    Args:
        address: a database (``sqlite:///FILE``, ``postgresql://...``), ``redis://...``, or the path of a journal file.
        name: workers with the same name share the study.
        trials: how many points.
        listed: the points, where they are all combinations; None: ``sampler`` (``random`` or ``tpe``) draws from ``axes``.
        worker: who asks; after a restart the same again.
    """

    def __init__(
        self, address: str, name: str, axes: Mapping[str, Axis], *, trials: int, listed: list[dict[str, Any]] | None, sampler: str,
        seed: int, worker: str,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.axes, self.trials, self.worker = axes, trials, worker
        self.storage = _storage(address)
        proposals = _Listed(listed) if listed else _Drawn(seed, tpe=sampler == "tpe")
        self.study = optuna.create_study(
            storage=self.storage, study_name=name, sampler=proposals, direction="maximize", load_if_exists=True
        )
        self._beaten = 0.0

    def beat(self) -> None:
        """Tell the others now and then that this worker lives."""
        if time.time() - self._beaten > BEAT:
            self._beaten = time.time()
            self.study.set_user_attr(self.worker, self._beaten)

    def read(self) -> list[Trial]:
        """All trials, by number."""
        now = time.time()
        living = {worker for worker, seen in self.study.user_attrs.items() if worker != self.worker and now - seen < SILENT}
        found = self.study.get_trials(deepcopy=False)[: self.trials]
        return [self._trial(trial, living, now) for trial in found]

    def ask(self) -> None:
        """One point more, unless there are as many as there may be."""
        if len(self.study.get_trials(deepcopy=False)) >= self.trials:
            return
        trial = self.study.ask()
        if trial.number >= self.trials:  # another worker was faster
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self._draw(trial)

    def adopt(self, trial: Trial) -> None:
        """Take a trial over whose worker is gone; its point, if that was not drawn to the end, is the one that was to come."""
        self._draw(optuna.Trial(self.study, trial.id))

    def report(self, trial: Trial, epoch: int, value: float, seconds: float) -> None:
        """Note what ``trial`` reached after ``epoch`` epochs."""
        with suppress(UpdateFinishedTrialError):
            self._cost(trial, epoch, seconds)
            self.storage.set_trial_intermediate_value(trial.id, epoch, value)

    def diverge(self, trial: Trial, epochs: int, seconds: float) -> None:
        """Note that ``trial`` came to nothing."""
        with suppress(UpdateFinishedTrialError):
            self._cost(trial, epochs, seconds)
            self.storage.set_trial_user_attr(trial.id, "diverged", True)

    def close(self, trial: Trial, value: float | None = None) -> None:
        """The trial has ended: with the value of its last epoch, or stopped before."""
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        with suppress(UpdateFinishedTrialError):
            self.study.tell(trial.number, value, state=state, skip_if_finished=True)

    def _cost(self, trial: Trial, epochs: int, seconds: float) -> None:
        self.storage.set_trial_user_attr(trial.id, "epochs", epochs)
        self.storage.set_trial_user_attr(trial.id, "seconds", round(seconds, 3))

    def _draw(self, trial: optuna.Trial) -> None:
        for name, axis in self.axes.items():
            match axis:
                case Range() if axis.whole:
                    trial.suggest_int(name, int(axis.low), int(axis.high), log=axis.log)
                case Range():
                    trial.suggest_float(name, axis.low, axis.high, log=axis.log)
                case values:
                    trial.suggest_categorical(name, values)
        trial.set_user_attr("worker", self.worker)

    def _trial(self, trial: FrozenTrial, living: set[str], now: float) -> Trial:
        noted, owner = trial.user_attrs, trial.user_attrs.get("worker")
        asked = trial.datetime_start.timestamp() if trial.datetime_start else now
        drawn = all(name in trial.params for name in self.axes)
        return Trial(
            number=trial.number, id=trial._trial_id, point={name: trial.params[name] for name in self.axes} if drawn else None,
            values=trial.intermediate_values, diverged=noted.get("diverged", False), epochs=noted.get("epochs", 0),
            seconds=noted.get("seconds", 0.0), open=not trial.state.is_finished(), mine=owner == self.worker,
            free=owner not in living if owner else not living or now - asked > SILENT,
        )


class _Listed(BaseSampler):
    """The trial's number is its place in a list of points."""

    def __init__(self, points: list[dict[str, Any]]) -> None:
        self.points = points

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self.points[trial.number][param_name]


class _Drawn(_Listed):
    """A fresh sampler for every number: a restarted or another worker draws neither the same points again nor other ones."""

    def __init__(self, seed: int, *, tpe: bool) -> None:
        self.seed, self.tpe = seed, tpe

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        mixed = int(hashlib.sha256(f"{self.seed} {trial.number} {param_name}".encode()).hexdigest()[:8], 16)
        sampler = TPESampler(seed=mixed, multivariate=False) if self.tpe else RandomSampler(seed=mixed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


def _storage(address: str) -> BaseStorage:
    try:
        if address.startswith("redis"):
            return JournalStorage(journal.JournalRedisBackend(address))
        if "://" in address:
            return RDBStorage(address)
        return JournalStorage(journal.JournalFileBackend(address))
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"storage: cannot open it ({reason}); give sqlite:///FILE, another database, redis://... or a file") from None
