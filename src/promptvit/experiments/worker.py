"""Runs one job after another in one process, whichever executor it belongs to, and keeps what is slow to load."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from promptvit.backbones.base import Backbone
from promptvit.backbones.loading import load_backbone
from promptvit.experiments.store import finished
from promptvit.locks import Held
from promptvit.training import Diverged, train

PATIENCE = 120  # seconds for a worker that was taken for lost, but lives, to let go of its run


class Trainer:
    """Trains runs; the last backbone stays loaded.

    Args:
        load: gives the backbone for arguments of :func:`promptvit.load_backbone`.
    """

    def __init__(self, load: Callable[..., Backbone] = load_backbone) -> None:
        self._load = load
        self._loaded: tuple[dict[str, Any], Backbone] | None = None

    def __call__(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The result of the run with these complete settings: trained, gone on with, or read where it is finished already.

        Waits up to :data:`PATIENCE` seconds where another process still writes to its folder.

        Raises:
            Exception: whatever :func:`promptvit.train` raises, but for divergence, which is a result.
        """
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self._result(settings)
            except Held:
                if time.monotonic() > end:
                    raise
                time.sleep(1)

    def _result(self, settings: dict[str, Any]) -> dict[str, Any]:
        folder = Path(settings["out"])
        result = finished(folder)
        if result is None:
            try:
                result = train(resume=True, loaded_backbone=self.backbone(settings), **settings).result
            except Diverged:
                result = finished(folder)
        if result is None:
            raise RuntimeError(f"{folder} has no result after its run")
        return result

    def backbone(self, settings: dict[str, Any]) -> Backbone:
        """The backbone these settings name."""
        given = load_arguments(settings)
        if self._loaded is None or self._loaded[0] != given:
            self._loaded = None  # before the next one takes its memory
            self._loaded = given, self._load(**given)
        return self._loaded[1]


def load_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """What :func:`promptvit.load_backbone` is called with for a run; equal for two runs that may share their backbone."""
    given = {"name_or_path": settings["backbone"]} | {key: settings[key] for key in ("pretrained", "arch", "image_size")}
    return given | {"seed": 0 if settings["pretrained"] else settings["seed"]}  # only random weights depend on it
