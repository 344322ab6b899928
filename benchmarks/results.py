"""How long ``promptvit results`` and ``promptvit report`` take on many finished run folders.

    python benchmarks/results.py                 # 2,000 runs in a temporary folder
    python benchmarks/results.py --runs 200

The folders are a sweep's, with complete settings in every ``config.yaml`` and made-up accuracies. Times are of whole commands, from their
start to their end, imports included: on the clock, and what the processor spent, since others may use the machine too.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from promptvit.experiments.suites import expand
from promptvit.training import resolve

METHODS = ("linear", "vpt-shallow", "vpt-deep", "gapt", "lspt")


def make(sweep: Path, runs: int) -> None:
    """A sweep of VTAB-1k's 19 tasks: a tenth final runs, the rest its search."""
    draw, tasks = random.Random(0), expand("vtab")
    rows, entries = [], []
    for i in range(runs):
        method, task, phase = METHODS[i % 5], tasks[i // 5 % 19], "final" if i // 95 % 10 == 0 else "search"
        seed = i // 950
        settings = resolve(
            backbone="vit_base_patch16_224.augreg_in21k", method=method, data=task, seed=seed, lr=0.001 * (1 + i // 95 % 10), epochs=100,
            train_on="train+val" if phase == "final" else "train", select="last", score="test" if phase == "final" else "val",
        )
        key, accuracy = settings.hash, draw.random()
        result = {
            "method": method, "reading": None, "backbone": settings.backbone, "fingerprint": "f" * 64, "dataset": task, "seed": seed,
            "data_seed": seed, "split": settings.score, "select": "last", "train_on": settings.train_on, "accuracy": accuracy,
            "val_accuracy": None if phase == "final" else accuracy, "per_class_accuracy": [accuracy] * 100, "num_trainable": 7680,
            "num_total": 86_000_000, "epochs": 100, "train_seconds": 60.0, "images_per_second": 1000.0, "settings_hash": key,
            "status": "ok",
        }
        run = sweep / "runs" / key
        (run / "adapter").mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        (run / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 1.0, "val_accuracy": 0.5}\n' * 100, encoding="utf-8")
        (run / "environment.json").write_text("{}", encoding="utf-8")
        (run / "result.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
        entry = {"label": method, "task": task, "seed": seed, "phase": phase, "point": {"lr": settings.lr}, "hash": key}
        entries.append(entry | {"status": "ok", "attempts": 1, "error": None})
        if phase == "final":
            search = {"runs": 9, "epochs": 900, "seconds": 540.0}
            rows.append(result | {"label": method, "phase": "final", "chosen": {"lr": settings.lr}, "search": search})
    (sweep / "summary.json").write_text(json.dumps({"rows": rows, "pictures": []}), encoding="utf-8")
    (sweep / "sweep.json").write_text(json.dumps(entries), encoding="utf-8")


def timed(*arguments: object) -> tuple[float, float]:
    """Seconds of one command: on the clock, and of the processor."""
    start, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "promptvit", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return time.perf_counter() - start, spent


def main() -> None:
    """Make the folders, run the commands, print their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "sweep"
        make(sweep, chosen.runs)
        commands: dict[str, tuple[object, ...]] = {
            "results": ("results", sweep),
            "results --out runs.csv": ("results", sweep, "--out", Path(folder) / "runs.csv"),
            "results --out runs.parquet": ("results", sweep, "--out", Path(folder) / "runs.parquet"),
            "report": ("report", sweep, "--out", Path(folder) / "report"),
        }
        for name, arguments in commands.items():
            clock, spent = timed(*arguments)
            print(f"promptvit {name:28} {chosen.runs} runs {clock:6.1f} s, processor {spent:.1f} s", flush=True)


if __name__ == "__main__":
    main()
