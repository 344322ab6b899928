"""Run and sweep folders that came from somewhere: results, settings, histories, records, scores; and the cache of decoded images."""

import json
from pathlib import Path
from random import Random

import numpy as np
import yaml
from mutation import altered, damaged, json_bytes
from small import SETTINGS_OF_A_RUN, noise
from watching import Case

from promptvit.data import load_dataset
from promptvit.data.base import Split
from promptvit.data.cache import Cache
from promptvit.data.loader import Pixels
from promptvit.experiments.claims import judge, read_scores, to_json
from promptvit.experiments.claims_report import markdown
from promptvit.experiments.insight.findings import _record
from promptvit.experiments.report import make_report, write_report
from promptvit.experiments.results import read_results
from promptvit.experiments.store import SweepFolder, history
from promptvit.experiments.table import table, write_table
from promptvit.preprocessing import Preprocessing

RESULT = {
    "method": "vpt-deep",
    "reading": None,
    "backbone": "b",
    "fingerprint": "f" * 64,
    "dataset": "vtab/cifar",
    "seed": 0,
    "data_seed": 0,
    "split": "test",
    "select": "last",
    "train_on": "train",
    "accuracy": 0.5,
    "val_accuracy": 0.4,
    "num_trainable": 1000,
    "num_total": 100_000,
    "epochs": 10,
    "train_seconds": 30.0,
    "settings_hash": "aaaa",
    "status": "ok",
}
SPEC = {
    "name": "s",
    "backbone": "b",
    "tasks": ["vtab/cifar"],
    "methods": {"vpt-deep": {}, "linear": {}},
    "seeds": [0, 1],
    "claims": {"c": {"better": "vpt-deep", "than": "linear"}},
}


def sweeps(folder: Path, outside: Path):
    """A sweep of three runs in which one file is damaged; a report must leave out what it cannot read, and say so."""
    sweep = folder / "sweep"
    files: dict[str, object] = {"spec.yaml": SPEC}
    rows, jobs = [], []
    for i, (method, seed) in enumerate((("vpt-deep", 0), ("vpt-deep", 1), ("linear", 0))):
        result = RESULT | {"method": method, "seed": seed, "settings_hash": f"aaa{i}", "accuracy": 0.4 + i / 10}
        files[f"runs/aaa{i}/result.json"] = result
        files[f"runs/aaa{i}/config.yaml"] = SETTINGS_OF_A_RUN | {"method": method, "seed": seed}
        rows.append(result | {"label": method, "chosen": {"lr": 0.1}, "search": {"runs": 2, "epochs": 20, "seconds": 60.0}})
        jobs.append(
            {
                "label": method,
                "task": "vtab/cifar",
                "hash": f"aaa{i}",
                "phase": "final",
                "status": "failed" if i == 2 else "ok",
                "seed": seed,
            }
        )
    files |= {"summary.json": {"rows": rows, "pictures": []}, "sweep.json": jobs}
    for name, value in files.items():
        path = sweep / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(value) if name.endswith("yaml") else json.dumps(value))
    (sweep / "runs/aaa0/environment.json").write_text("{}")

    def draw(rng: Random) -> Case:
        name = rng.choice(list(files))
        path, whole = sweep / name, (sweep / name).read_bytes()
        content = _another(files[name], name, rng)

        def read() -> None:
            path.write_bytes(content)
            try:
                _look(sweep, folder)
            finally:
                path.write_bytes(whole)

        return Case(read, (str(sweep), "report: "), f"{name}: {content[:300]!r}")

    return draw


def _look(sweep: Path, folder: Path) -> None:
    """All that reads a sweep's folder and does not train."""
    left_out: list[str] = []
    rows = read_results([sweep], left_out.append)
    assert all(len(line) < 1000 for line in left_out), max(left_out, key=len)
    table(rows)
    write_table(rows, folder / "table.csv")
    store = SweepFolder(sweep)
    store.results(), store.rows(), store.entries()
    report = make_report([sweep])
    write_report(report, folder / "report")
    scores = read_scores(sweep)
    markdown(scores, judge(scores, draws=20))


def _another(value: object, name: str, rng: Random) -> bytes:
    if rng.random() < 0.3:
        text = yaml.safe_dump(value) if name.endswith("yaml") else json.dumps(value)
        return damaged(text.encode(), rng)
    changed = altered(value, rng)
    if name.endswith("yaml"):
        try:
            return yaml.safe_dump(changed).encode(errors="surrogatepass")
        except RecursionError:
            return b"[" * 150_000
    return json_bytes(changed, rng)


def lines(folder: Path, outside: Path):
    """metrics.jsonl, record.jsonl and a file of scores."""
    scores = {
        "name": "s",
        "backbone": "b",
        "fingerprint": None,
        "labels": ["vpt-deep", "linear"],
        "tasks": ["vtab/cifar"],
        "seeds": [0, 1],
        "claims": SPEC["claims"],
        "missing": [],
        "rows": [
            {
                "label": label,
                "task": "vtab/cifar",
                "seed": seed,
                "score": 0.5,
                "val_score": 0.4,
                "chosen": {},
                "num_trainable": 10,
                "epochs": 3,
                "train_seconds": 1.0,
                "settings_hash": "a",
            }
            for label in ("vpt-deep", "linear")
            for seed in (0, 1)
        ],
    }
    epoch = {
        "epoch": 0,
        "train_loss": 1.0,
        "train_accuracy": 0.5,
        "val_accuracy": 0.5,
        "lr": 0.1,
        "seconds": 1.0,
        "nmi": [0.1],
        "cka": [0.2],
    }

    def draw(rng: Random) -> Case:
        name = rng.choice(("metrics.jsonl", "record.jsonl", "scores.json"))
        value = scores if name == "scores.json" else epoch
        content = _another(value, name, rng) + (b"" if name == "scores.json" else b"\n" + json.dumps(epoch).encode())
        (folder / name).write_bytes(content)

        def read() -> None:
            if name == "scores.json":
                read = read_scores(folder / name)
                markdown(read, judge(read, draws=20)), to_json(read)
            else:
                history(folder) if name == "metrics.jsonl" else _record(folder)

        return Case(read, (name,), f"{name}: {content[:300]!r}")

    return draw


def caches(folder: Path, outside: Path):
    """The cache of decoded images: whatever lies in it, the right pixels come out."""
    data, cache = folder / "data", Cache(folder / "cache")
    for place, label in enumerate("ab"):
        for i in range(4):
            path = data / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise((16 + i, 16 + place)).save(path)
    split = load_dataset("folder", root=data).splits["train"]
    preprocessing = Preprocessing(size=(16, 16))
    truth = [Pixels(split, preprocessing, budget=0, cache=cache)[i].copy() for i in range(len(split))]
    assert len(cache.entries()) == len(split)
    entries = [Path(entry.path) for entry in cache.entries()]
    known = load_dataset("folder", root=data)

    def draw(rng: Random) -> Case:
        entry = rng.choice(entries)
        whole = entry.read_bytes()
        own = Path(rng.choice(Cache().entries()).path)
        memory = own.read_bytes()

        def read() -> None:
            for path, content in ((entry, whole), (own, memory)):
                path.parent.mkdir(exist_ok=True)
                if rng.random() < 0.1:
                    path.unlink()
                    path.symlink_to(folder / "nowhere")
                else:
                    path.write_bytes(rng.choice((damaged(content, rng), json_bytes(altered({"a": "b"}, rng), rng))))
            try:
                pixels = Pixels(Split("train", split.labels, split.items, split.identifiers), preprocessing, budget=0, cache=cache)
                assert all(np.array_equal(pixels[i], truth[i]) for i in range(len(truth)))
                assert load_dataset("folder", root=data).classes == known.classes
            finally:
                for path, content in ((entry, whole), (own, memory)):
                    path.unlink(missing_ok=True)
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(content)

        return Case(read, (), f"entry {entry.name}")

    return draw
