"""What the campaign kills: work that can be gone on with, the readers of what it writes, and what must be equal in the end."""

import hashlib
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from experiments.compared import tables
from helpers import tiny_backbone
from PIL import Image
from pretraining.tiny import settings as pretrain_settings
from rich.console import Console

import promptvit
from promptvit import adapter, states
from promptvit.adapter import CONFIG
from promptvit.backbones.loading import load_backbone
from promptvit.data import load_dataset
from promptvit.data.cache import FORMAT, Cache, _read
from promptvit.data.loader import batches
from promptvit.experiments.spec import Spec
from promptvit.experiments.store import SweepFolder, finished
from promptvit.experiments.sweep import run_sweep
from promptvit.model import create_model
from promptvit.preprocessing import Preprocessing
from promptvit.pretraining.loop import pretrain
from promptvit.serving.export import FORMATS, difference, export
from promptvit.training.run import read_settings

RUN = {"data": "digits", "shots": 2, "batch_size": 10, "num_prompts": 2}
TIMES = ("seconds", "train_seconds", "images_per_second")


class Target:
    """One kind of work. ``shared`` is a folder with what all attempts read."""

    name: str
    share = 4  # of the kills

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        self.backbone = str(shared / "backbone" / "export")

    def begin(self, out: Path) -> None:
        """Put into ``out`` what was there before."""

    def work(self, out: Path) -> bool:
        """Begin it or go on with it; whether it is complete."""
        raise NotImplementedError

    def finished(self, out: Path) -> set[str]:
        """What is finished in ``out``; raises where a reader takes something for whole that is not."""
        raise NotImplementedError

    def outcome(self, out: Path) -> Any:
        """All that an undisturbed work gives, but for times."""
        raise NotImplementedError


class Train(Target):
    name = "train"

    def work(self, out: Path) -> bool:
        promptvit.train(backbone=self.backbone, method="gapt", epochs=3, dropout=0.1, out=str(out), resume=True, **RUN)
        return True

    def finished(self, out: Path) -> set[str]:
        return _run(out)

    def outcome(self, out: Path) -> Any:
        lines = [_timeless(json.loads(line)) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return _timeless(json.loads((out / "result.json").read_text())), lines, _bytes(out / "adapter"), _names(out)


class Sweep(Target):
    name = "sweep"
    share = 2

    def spec(self) -> Spec:
        methods = {"linear": {"settings": {"lr": 0.3, "augment": "none"}}, "vpt": {"method": "vpt-deep", "grid": {"lr": [0.1, 0.01]}}}
        run = {key: value for key, value in RUN.items() if key != "data"} | {"epochs": 2}
        return Spec(name="tiny", backbone=self.backbone, tasks=["digits"], seeds=[1], settings=run, methods=methods)

    def work(self, out: Path) -> bool:
        fork = multiprocessing.get_context("fork")  # what a new interpreter would import for seconds is here already
        with patch.object(multiprocessing, "get_context", lambda method=None: fork):
            return not run_sweep(self.spec(), out, jobs=2, console=Console(quiet=True)).missing()

    def finished(self, out: Path) -> set[str]:
        folder = SweepFolder(out)
        for view in (out / "summary.json", out / "sweep.json"):
            if view.exists():
                json.loads(view.read_text())
        done = {f"run {run.name}: {part}" for run in folder.runs.glob("*") for part in _run(run)}
        return done | {f"result {name}" for name in folder.results()}

    def outcome(self, out: Path) -> Any:
        return tables(out), _names(out)


class Pretrain(Target):
    name = "pretrain"

    def work(self, out: Path) -> bool:
        pretrain(pretrain_settings("mae", steps=6, batch_size=4), out, resume=True, checkpoint_every=2)
        return True

    def finished(self, out: Path) -> set[str]:
        state = states.load(out / "checkpoint.pt") or {"losses": []}
        done = {f"step {step}" for step in range(len(state["losses"]))}
        if (out / "losses.json").exists():
            json.loads((out / "losses.json").read_text())
        if (out / "loss.png").exists():
            Image.open(out / "loss.png").load()
        if (out / "export" / "model.safetensors").exists():
            load_backbone(str(out / "export"))
            done.add("export")
        return done

    def outcome(self, out: Path) -> Any:
        content = [_digest(states.load(path)) for path in sorted(out.glob("*.pt*"))]
        return json.loads((out / "losses.json").read_text()), content, _bytes(out / "export"), _names(out)


class CacheBuilding(Target):
    name = "cache"

    def work(self, out: Path) -> bool:
        with patch.dict(os.environ, PROMPTVIT_CACHE=str(out)):
            for split in load_dataset("folder", root=self.images()).splits.values():
                for epoch in (None, 0):
                    for _ in batches(split, Preprocessing(size=(64, 64)), batch_size=4, epoch=epoch, policy="crop"):
                        pass
        return True

    def images(self) -> Path:
        root = self.shared / "images"
        if not root.exists():
            rng = np.random.default_rng(0)
            for name in ("cat", "dog"):
                (root / name).mkdir(parents=True)
                for i in range(24):
                    Image.fromarray(rng.integers(0, 256, (90 + i, 120, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
        return root

    def finished(self, out: Path) -> set[str]:
        return {entry.name for entry in Cache(out, 2**30).entries() if not entry.name.startswith(".") and self.sound(Path(entry.path))}

    def sound(self, path: Path) -> bool:
        with path.open("rb") as file:
            is_image = file.read(len(FORMAT)) == FORMAT
        return _read(path).size > 0 if is_image else json.loads(path.read_bytes()) is not None

    def outcome(self, out: Path) -> Any:
        return {entry.name: Path(entry.path).read_bytes() for entry in Cache(out, 2**30).entries() if not entry.name.startswith(".")}


class AdapterSaving(Target):
    """Two adapters in turn into one folder; the reader must always find one of them."""

    name = "adapter"

    def models(self) -> dict[str, Any]:
        backbone = load_backbone(self.backbone)
        return {f"seed {seed}": create_model(backbone, "vpt-deep", 3, num_prompts=40, seed=seed) for seed in (0, 1)}

    def work(self, out: Path) -> bool:
        models = self.models()
        for _ in range(8):
            for name, model in models.items():
                model.save_pretrained(out, metrics={"name": name})
        return True

    def finished(self, out: Path) -> set[str]:
        if not (out / CONFIG).exists():
            return set()
        found = adapter.load(out, load_backbone(self.backbone))
        expected = self.models()[adapter.read_config(out).metrics["name"]]
        assert _digest(found.learned()) == _digest(expected.learned())
        return {"an adapter"}

    def outcome(self, out: Path) -> Any:
        return _bytes(out), sorted(path.name for path in out.iterdir() if not path.name.endswith(".tmp"))


class Export(Target):
    """Written over an export of another adapter, which must stay until the new one is there."""

    share = 1  # tracing takes seconds, writing next to nothing

    def __init__(self, shared: Path, format: str) -> None:
        super().__init__(shared)
        self.format, self.name = format, f"export {format}"

    def model(self, seed: int) -> Any:
        return create_model(load_backbone(self.backbone), "vpt-deep", 3, num_prompts=2, head_init="vpt", seed=seed)

    def begin(self, out: Path) -> None:
        old = self.shared / f"old.{self.format}"
        if not old.exists():
            export(self.model(0), old, self.format)
        out.mkdir(parents=True)
        shutil.copy(old, out / f"model.{self.format}")

    def work(self, out: Path) -> bool:
        export(self.model(1), out / f"model.{self.format}", self.format)
        return True

    def finished(self, out: Path) -> set[str]:
        run = FORMATS[self.format].read(out / f"model.{self.format}")
        which = [name for seed, name in enumerate(("the old one", "the new one")) if difference(self.model(seed), run) < 1e-4]
        assert len(which) == 1, which
        return {"a file", *({"the new one"} & set(which))}

    def outcome(self, out: Path) -> Any:
        run = FORMATS[self.format].read(out / f"model.{self.format}")
        return run(torch.ones(2, 3, 32, 32)).tolist(), [path.name for path in out.iterdir() if not path.name.endswith(".tmp")]


def targets(shared: Path) -> list[Target]:
    """All of them; to be made in a forked process first, so that ``shared`` is complete."""
    kinds = [kind(shared) for kind in (Train, Sweep, Pretrain, CacheBuilding, AdapterSaving)]
    return [*kinds, Export(shared, "pt2"), Export(shared, "onnx")]


def prepare(shared: Path) -> None:
    """What all attempts read."""
    tiny_backbone(shared / "backbone")
    CacheBuilding(shared).images()


def _run(out: Path) -> set[str]:
    """What is finished in a run folder."""
    state = states.load(out / "checkpoint" / "state.pt") or {"history": []}
    done = {f"epoch {line['epoch']}" for line in state["history"]}
    if (out / "config.yaml").exists():
        done.add(f"settings {read_settings(out).hash}")
    if (out / "metrics.jsonl").exists():
        assert len([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]) >= len(state["history"])
    if (out / "adapter" / CONFIG).exists():
        adapter.read_weights(out / "adapter", adapter.read_config(out / "adapter"))
        done.add("adapter")
    if (out / "result.json").exists():
        assert finished(out) is not None and "adapter" in done
        done.add("result")
    return done


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in TIMES}


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def _names(out: Path) -> list[str]:
    """Everything in a finished folder; what killed attempts left must be gone."""
    found = (str(path.relative_to(out)) for path in out.rglob("*"))
    return sorted(name for name in found if "tensorboard/" not in name)


def _digest(value: Any) -> Any:
    """Comparable with ``==``."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: _digest(inner) for key, inner in value.items()}
    return [_digest(inner) for inner in value] if isinstance(value, list | tuple) else value
