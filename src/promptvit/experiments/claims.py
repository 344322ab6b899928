"""Claims put to the test: does one row of a sweep's table score higher than another, by how much, and how sure is that?

A claim is judged on paired differences, one per data set and seed. Their mean has a 95 % percentile bootstrap interval: data sets are drawn
with replacement and, within each, seeds (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13).
``docs/claims-plan.md`` fixed these rules before any test image was scored.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from promptvit.errors import first_line
from promptvit.experiments.results import read_results
from promptvit.experiments.spec import Claim, read_spec

DRAWS = 10_000
LEAST = 0.01  # accuracy: the smallest difference that is worth having

Verdict = Literal["holds", "does not hold", "undecided"]


class Score(BaseModel):
    """One final run: ``score`` is accuracy or mIoU on the test split, ``val_score`` on validation, both 0..1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    task: str
    seed: int
    score: FiniteFloat
    val_score: FiniteFloat | None
    chosen: dict[str, Any]
    num_trainable: int | None
    epochs: int | None
    train_seconds: float | None
    settings_hash: str


class Scores(BaseModel):
    """Everything that claims are judged by; small enough to be kept with the source. ``missing``: runs without a score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    backbone: str
    fingerprint: str | None
    labels: list[str]
    tasks: list[str]
    seeds: list[int]
    claims: dict[str, Claim]
    rows: list[Score]
    missing: list[str]

    def of(self, label: str, task: str) -> dict[int, float]:
        """Scores by seed."""
        return {row.seed: row.score for row in self.rows if (row.label, row.task) == (label, task)}


class Finding(BaseModel):
    """What became of a claim.

    Attributes:
        differences: ``better`` minus ``than`` by data set, a value per seed that both have; accuracy, -1..1.
        mean, low, high: over data sets and seeds, with the ends of the 95 % interval; None without any pair.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    claim: Claim
    differences: dict[str, list[float]]
    mean: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> Verdict:
        """``holds``: the whole interval is above zero; ``does not hold``: the whole interval is below :data:`LEAST`; else undecided."""
        if self.low is None or self.high is None:
            return "undecided"
        return "holds" if self.low > 0 else "does not hold" if self.high < LEAST else "undecided"


def read_scores(path: Path) -> Scores:
    """Scores of a sweep's folder, or those that were kept as a JSON file.

    Raises:
        ValueError: neither is there, or the file is damaged.
    """
    if path.is_file():
        try:
            return Scores.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: no scores of `promptvit claims` ({first_line(error)})") from None
    if not (path / "spec.yaml").is_file():
        raise ValueError(f"claims: {path} is neither a sweep's folder (with spec.yaml) nor a file that `promptvit claims` wrote")
    return _of_sweep(path)


def _of_sweep(folder: Path) -> Scores:
    spec = read_spec(folder / "spec.yaml")
    try:
        labels, tasks = list(spec.methods), spec.task_names()
    except ValueError as error:
        raise ValueError(f"{folder / 'spec.yaml'}: {error}") from None
    found = read_results([folder], lambda line: None)
    finals = [row for row in found if row.phase == "final" and row.label in spec.methods and row.dataset in tasks]
    rows = [
        Score(
            label=row.label, task=row.dataset, seed=row.seed, score=round(row.score, 6), val_score=row.val_accuracy,
            chosen=row.chosen or {}, num_trainable=row.num_trainable, epochs=row.epochs,
            train_seconds=row.train_seconds and round(row.train_seconds, 1), settings_hash=row.settings_hash,
        )
        for row in finals
        if row.label and row.score is not None
    ]
    have = {(row.label, row.task, row.seed) for row in rows}
    wanted = [(label, task, seed) for label in labels for task in tasks for seed in spec.seeds]
    return Scores(
        name=spec.name, backbone=spec.backbone, fingerprint=next((row.fingerprint for row in finals), None),
        labels=labels, tasks=tasks, seeds=spec.seeds, claims=spec.claims,
        rows=sorted(rows, key=lambda row: (labels.index(row.label), tasks.index(row.task), row.seed)),
        missing=[f"{label}, {task}, seed {seed}" for label, task, seed in wanted if (label, task, seed) not in have],
    )


def judge(scores: Scores, draws: int = DRAWS) -> list[Finding]:
    """A finding per claim, in order; the same scores give the same findings."""
    return [_judge(name, claim, scores, draws) for name, claim in scores.claims.items()]


def _judge(name: str, claim: Claim, scores: Scores, draws: int) -> Finding:
    differences = {}
    for task in claim.tasks or scores.tasks:
        better, than = scores.of(claim.better, task), scores.of(claim.than, task)
        if common := sorted(better.keys() & than.keys()):
            differences[task] = [round(better[seed] - than[seed], 6) for seed in common]
    if not differences:
        return Finding(name=name, claim=claim, differences={}, mean=None, low=None, high=None)
    low, high = interval(list(differences.values()), draws)
    mean = float(np.mean([np.mean(values) for values in differences.values()]))
    return Finding(name=name, claim=claim, differences=differences, mean=mean, low=low, high=high)


def interval(groups: Sequence[Sequence[float]], draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over groups of their means: groups are drawn, then values within each drawn one."""
    generator = np.random.default_rng(seed)
    means = np.stack([generator.choice(np.asarray(values), (draws, len(groups), len(values))).mean(-1) for values in groups])
    drawn = generator.integers(len(groups), size=(draws, len(groups)))  # [draws, groups]: which group stands in each place
    places = np.arange(len(groups))
    found = means[drawn, np.arange(draws)[:, None], places].mean(-1)
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def to_json(scores: Scores) -> str:
    """A row per line, so that a change is seen in a diff."""
    values = scores.model_dump(mode="json")
    rows = ",\n".join(json.dumps(row) for row in values.pop("rows"))
    head = json.dumps(values, indent=1)[:-2]
    return f'{head},\n "rows": [\n{rows}\n]\n}}\n'
