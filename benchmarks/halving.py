"""Successive halving against the full grid: what its picks are worth on test images, and what finding them costs.

    python benchmarks/halving.py --out runs/halving

27 points (3 rates x 3 weight decays x 3 batch sizes) of a linear probe per drawn data set. Halving is carried out first, with its stops;
the grid then goes on from the states it left (same run folders, same numbers), so the epochs of both are counted as each would need them
alone. The final runs of both picks have the same five seeds; the interval is Student's over the 15 pairs (data set, seed).

All runs share one process, in which every image passes the backbone once: a frozen backbone gives every run the same features.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from common import machine
from scipy import stats
from torch import Tensor

from promptvit.experiments.executor import Job, Outcome
from promptvit.experiments.spec import Spec
from promptvit.experiments.sweep import run_sweep
from promptvit.experiments.worker import Trainer
from promptvit.training.classification import Classification

GRID = {"lr": [0.01, 0.1, 1.0], "weight_decay": [0.0, 0.001, 0.1], "batch_size": [16, 32, 128]}
SPEC = Spec(
    name="halving", backbone="mae-tiny", tasks=["proc/textures", "proc/nuclei", "proc/count"], seeds=[0, 1, 2, 3, 4],
    settings={"augment": "none", "epochs": 54},
    methods={"halving": {"method": "linear", "grid": GRID, "search": {"sampler": "halving"}}, "grid": {"method": "linear", "grid": GRID}},
)


class Here:
    """An executor in this process, one job at a time."""

    def __init__(self) -> None:
        self.running: list[Job] = []
        self.train = Trainer()

    @property
    def free(self) -> int:
        return 1 - len(self.running)

    def submit(self, job: Job) -> None:
        self.running.append(job)

    def wait(self, seconds: float) -> list[Outcome]:
        job = self.running.pop()
        return [Outcome(job, self.train(job.settings))]

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error: object) -> None:
        self.running.clear()


def remembering() -> Any:
    """The features of a split that an earlier run has computed are given again."""
    kept: dict[tuple[Any, ...], Tensor | None] = {}
    computed = Classification._known

    def known(task: Classification, split: str) -> Tensor | None:
        key = (task.settings.data, split, tuple(task.dataset.splits[split].identifiers))
        if key not in kept:
            kept[key] = computed(task, split)
        return kept[key]

    return mock.patch.object(Classification, "_known", known)


def compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy of both picks, the paired difference with its interval, in points, and the share of the epochs."""
    by_label = {label: {(row["dataset"], row["seed"]): row for row in rows if row["label"] == label} for label in SPEC.methods}
    halving, grid = by_label["halving"], by_label["grid"]
    means = {label: 100 * float(np.mean([row["accuracy"] for row in found.values()])) for label, found in by_label.items()}
    differences = np.array([100 * (halving[pair]["accuracy"] - grid[pair]["accuracy"]) for pair in grid])
    spread = stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    epochs = {label: sum(found[task, SPEC.seeds[0]]["search"]["epochs"] for task in SPEC.tasks) for label, found in by_label.items()}
    return {
        "pairs": len(differences), "accuracy": means, "difference": float(differences.mean()),
        "interval": [float(differences.mean() - spread), float(differences.mean() + spread)],
        "search_epochs": epochs, "share_of_epochs": epochs["halving"] / epochs["grid"],
    }


def main() -> None:
    """Both sweeps, a line per data set and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/halving"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers with the machine's facts")
    chosen = parser.parse_args()
    with remembering():
        for label in SPEC.methods:
            run_sweep(SPEC, chosen.out, executor=Here(), only=[label])
    rows = json.loads((chosen.out / "summary.json").read_text(encoding="utf-8"))["rows"]
    for label in SPEC.methods:
        for task in SPEC.tasks:
            own = [row for row in rows if (row["label"], row["dataset"]) == (label, task)]
            print(f"{label:8} {task:14} {100 * np.mean([r['accuracy'] for r in own]):.2f} %  {own[0]['chosen']}  {own[0]['search']}")
    found = compared(rows)
    print(json.dumps(found, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": machine(), **found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
