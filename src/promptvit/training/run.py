"""The run folder: what it holds, and how it is written so that a killed run loses nothing it had finished."""

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from promptvit import files, locks, states
from promptvit.plain import read_yaml
from promptvit.training.settings import WHERE, TrainSettings


@dataclass
class Epoch:
    """One line of ``metrics.jsonl``.

    Attributes:
        train_accuracy: share of images, or of pixels, named right.
        val: measures of the validation split in 0..1, by name; None where the epoch was not validated.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val: dict[str, float | None]
    lr: float
    seconds: float

    @property
    def line(self) -> dict[str, float | None]:
        """As it is written."""
        before = {"epoch": self.epoch, "train_loss": self.train_loss, "train_accuracy": self.train_accuracy}
        return before | {f"val_{name}": value for name, value in self.val.items()} | {"lr": self.lr, "seconds": self.seconds}


class RunFolder:
    """Files of one run. Of several processes one ``writes``; the others only read."""

    def __init__(self, settings: TrainSettings, writes: bool = True) -> None:
        self.settings, self.writes = settings, writes
        self.path = Path(settings.out)
        self.adapter = self.path / "adapter"
        self.state = self.path / "checkpoint" / "state.pt"

    @contextmanager
    def opened(self, resume: bool) -> Iterator[None]:
        """Begin the run, or go on with it; no other run writes to the folder meanwhile.

        Raises:
            FileExistsError: the folder holds something and ``resume`` is false.
            ValueError: ``resume``, but the folder holds a run with other settings; or another process is at it.
            PermissionError: the folder cannot be written.
        """
        if not self.writes:
            yield
            return
        self._check(resume)
        with locks.owned(self.path, "run", inside="checkpoint"):
            self._check(resume)  # again: it may have been begun meanwhile
            try:
                files.write_text(self.path / "config.yaml", yaml.safe_dump(self.settings.model_dump(mode="json"), sort_keys=False))
            except OSError as error:
                raise PermissionError(f"out: cannot write to {self.path} ({error.strerror}); choose another folder") from None
            files.write_json(self.path / "environment.json", environment())
            yield

    def _check(self, resume: bool) -> None:
        if self.path.is_file():
            raise FileExistsError(f"out: {self.path} is a file; give a folder")
        if (self.path / "config.yaml").is_file():
            self._check_own(resume)
        elif any(path.is_file() and not path.name.startswith(".") for path in self.path.rglob("*")):  # hidden: killed before it began
            raise FileExistsError(f"out: {self.path} is not empty and holds no run; choose another folder")

    def _check_own(self, resume: bool) -> None:
        if not resume:
            raise FileExistsError(f"out: {self.path} already holds a run; pass --resume to go on with it, or choose another folder")
        before, settings = read_settings(self.path), self.settings
        if before.hash != settings.hash:
            old, new = before.model_dump(), settings.model_dump()
            changed = ", ".join(f"{key}: {old[key]!r} then, {new[key]!r} now" for key in old if old[key] != new[key] and key not in WHERE)
            raise ValueError(f"resume: {self.path} was started with other settings ({changed}); use those, or another folder")

    def save_state(self, state: dict[str, Any], history: list[Epoch]) -> None:
        """Keep everything that is needed to go on; the state last, so that it never claims more than there is."""
        if not self.writes:
            return
        lines = "".join(json.dumps(epoch.line) + "\n" for epoch in history)
        files.write_text(self.path / "metrics.jsonl", lines)
        if state["records"]:
            files.write_text(self.path / "record.jsonl", "".join(json.dumps(line) + "\n" for line in state["records"]))
        states.save(self.state, {**state, "history": [asdict(epoch) for epoch in history]})

    def load_state(self) -> dict[str, Any] | None:
        """The last saved state, or None; see :func:`promptvit.states.load`."""
        return states.load(self.state)

    @contextmanager
    def tensorboard(self) -> Iterator[Callable[[Epoch], None]]:
        """A function that shows an epoch in ``tensorboard/``; does nothing where tensorboard is not installed."""
        if not self.writes or find_spec("tensorboard") is None:
            yield lambda epoch: None
            return
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(self.path / "tensorboard")

        def show(epoch: Epoch) -> None:
            for name, value in epoch.line.items():
                if name not in ("epoch", "seconds") and value is not None:
                    writer.add_scalar(name, value, epoch.epoch)
            writer.flush()

        try:
            yield show
        finally:
            writer.close()

    def write_result(self, result: dict[str, Any]) -> None:
        """Write ``result.json``."""
        if self.writes:
            files.write_json(self.path / "result.json", result)


def read_settings(run: Path) -> TrainSettings:
    """Settings of a run folder.

    Raises:
        ValueError: it holds no readable ``config.yaml``.
    """
    try:
        return TrainSettings(**read_yaml((run / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"run: {run} holds no readable config.yaml ({type(error).__name__}); give a run folder") from None


def environment() -> dict[str, Any]:
    """Versions and hardware kind; nothing that names the machine or its user."""
    packages = ("promptvit", "torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "scikit-learn")
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
