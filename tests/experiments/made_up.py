"""Run folders and sweeps with made-up numbers, as training and a sweep would leave them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

SETTINGS = {"pretrained": True, "shots": None, "normalization": "imagenet", "resize": "direct", "augment": "none", "lr": 0.1}


def run(folder: Path, data: str, accuracy: float | None, *, method="vpt-deep", backbone="b", seed=0, **more: Any) -> dict[str, Any]:
    """A run folder below ``folder``, named by its hash; returns its result. ``settings`` replaces some of ``config.yaml``."""
    settings = {**SETTINGS, "method": method, "backbone": backbone, "data": data, "seed": seed, "options": {}, **more.pop("settings", {})}
    key = hashlib.sha256(json.dumps([settings, more.get("split")], sort_keys=True).encode()).hexdigest()[:12]
    result = {
        "method": method, "reading": "v1" if method == "lspt" else None, "backbone": backbone, "fingerprint": "f" * 64, "dataset": data,
        "seed": seed, "data_seed": seed, "split": "test", "select": "last", "train_on": "train+val", "accuracy": accuracy,
        "val_accuracy": None, "per_class_accuracy": None, "num_trainable": 1000, "num_total": 100_000, "epochs": 10, "train_seconds": 30.0,
        "images_per_second": 100.0, "settings_hash": key, "status": "ok" if accuracy is not None else "diverged", **more,
    }
    path = folder / key
    path.mkdir(parents=True)
    (path / "result.json").write_text(json.dumps(result))
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    (path / "environment.json").write_text("{}")
    return result


def sweep(folder: Path, rows: list[dict[str, Any]], jobs: list[dict[str, Any]] = ()) -> Path:
    """``summary.json`` of final rows and, where jobs are given, the index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"rows": rows, "pictures": []}))
    if jobs:
        (folder / "sweep.json").write_text(json.dumps(list(jobs)))
    return folder
