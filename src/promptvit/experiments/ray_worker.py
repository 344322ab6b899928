"""The side of a sweep on Ray that runs on the nodes: the actor, and how a node tells whether it sees what it must."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from promptvit.backbones.base import Backbone
from promptvit.backbones.loading import load_backbone
from promptvit.experiments.executor import Job, attempt
from promptvit.experiments.worker import Trainer


class Worker:
    """The actor: does jobs one after another."""

    def __init__(self, threads: int, logs: Path) -> None:
        torch.set_num_threads(threads)
        self.logs = logs
        self.shared: list[Any] = []
        self.trainer = Trainer(self._load)

    def ready(self, mark: "Mark", start: Path) -> str:
        """Go to the folder that the sweep was started in, which relative paths are meant from; gives the id of the node.

        Raises:
            ValueError: this node does not see what it must.
        """
        import ray

        here = f"node {ray.util.get_node_ip_address()} of the Ray cluster"
        if not mark.seen():
            raise ValueError(f"out: {here} does not see {mark.path.parent}; choose a folder that all nodes share")
        if not start.is_dir():
            raise ValueError(f"executor: {here} has no folder {start}, where the sweep was started; start it in one that all nodes have")
        os.chdir(start)
        return ray.get_runtime_context().get_node_id()

    def train(self, job: Job, node: str, shared: list[Any]) -> tuple[dict[str, Any] | None, str | None]:
        """(result, None) or (None, the reason in one line). ``node`` is there once :meth:`ready` has found nothing wrong."""
        self.shared = shared
        return attempt(self.trainer, job, self.logs / f"{job.hash}.log")

    def _load(self, **given: Any) -> Backbone:
        import ray

        return ray.get(self.shared[0]) if self.shared else load_backbone(**given)


@dataclass(frozen=True)
class Mark:
    """A file that tells a folder from another one of the same path on another machine.

    Attributes:
        seconds: until it must be seen everywhere; network folders keep old listings for a while.
    """

    path: Path
    content: str
    seconds: float = 30

    def seen(self) -> bool:
        """Whether it is here, or appears in time."""
        end = time.monotonic() + self.seconds
        while True:
            with suppress(OSError):
                if self.path.read_text(encoding="utf-8") == self.content:
                    return True
            if time.monotonic() > end:
                return False
            time.sleep(1)
