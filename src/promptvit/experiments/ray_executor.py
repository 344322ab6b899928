"""Runs on a Ray cluster: an actor per place that stays from run to run, weights once per node, nothing lost with a node.

Ray holds an object's arrays once per node, in memory that all processes there share; each actor's backbone is a view of it.
"""

import json
import logging
import os
import socket
import time
import uuid
import warnings
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from promptvit import files
from promptvit.backbones.base import Backbone
from promptvit.backbones.loading import load_backbone
from promptvit.experiments.executor import Job, Outcome
from promptvit.experiments.ray_worker import Mark, Worker
from promptvit.experiments.worker import load_arguments

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError:
    raise ImportError('executor: ray needs the package ray; install it with: pip install "promptvit[cluster]"') from None

NODE_AFTER = 5  # seconds that a node's death may become known after that of its processes


class RayExecutor:
    """Actors on the nodes of a Ray cluster.

    Args:
        folder: the sweep's; all nodes must see it under this path.
        address: of the cluster; ``auto``: one that runs already. Default: such a one, or else a new one of this machine alone.
        cpus: cores, and so threads, of a run.
        gpus: GPUs of a run, parts of one allowed; default: one where the cluster has any.
        jobs: how many runs at a time; default: as many as there is room for.

    Raises:
        ValueError: on entering, a cluster without room for one run; while it runs, a node that does not see ``folder``.
        ConnectionError: on entering, no cluster at ``address``.
    """

    def __init__(
        self, folder: Path, *, address: str | None = None, cpus: int = 1, gpus: float | None = None, jobs: int | None = None
    ) -> None:
        self.folder, self.address, self.cpus, self.gpus, self.jobs = folder.absolute(), address, cpus, gpus, jobs
        self.places: list[_Place] = []
        self.weights: dict[str, Any] = {}  # references to backbones, by what they were loaded with
        self.mark = Mark(self.folder / ".cluster", uuid.uuid4().hex)
        self._leave = ExitStack()

    @property
    def free(self) -> int:
        room = max(1, self.room())  # without any node a run waits for one to come
        return max(0, min(room, self.jobs or room) - len(self.running))

    @property
    def running(self) -> list[Job]:
        return [place.job for place in self.places if place.job]

    def room(self) -> int:
        """Runs that fit on the nodes there are now."""
        return sum(self._fitting(node["Resources"]) for node in _nodes())

    def submit(self, job: Job) -> None:
        place = next((place for place in self.places if place.job is None), None) or self._open()
        place.job, place.answer = job, place.actor.train.remote(job, place.node, self._shared(job.settings))

    def wait(self, seconds: float) -> list[Outcome]:
        self._use_idle()
        busy = {place.answer: place for place in self.places if place.job}
        if not busy:
            return []
        ray.wait(list(busy), timeout=seconds)
        answered, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0)
        return [self._outcome(busy[answer]) for answer in answered]

    def __enter__(self) -> Self:
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(redirect_stdout(stack.enter_context((logs / "ray.log").open("a", encoding="utf-8"))))  # Ray prints there
            if not ray.is_initialized():
                _connect(self.address)
                stack.callback(ray.shutdown)
            files.write_text(self.mark.path, self.mark.content)
            stack.callback(self.mark.path.unlink, missing_ok=True)
            if self.gpus is None:
                self.gpus = float(any(node["Resources"].get("GPU") for node in _nodes()))
            if not self.room():
                raise ValueError(f"executor: no node of the Ray cluster has the {self.cpus} CPU(s) and {self.gpus:g} GPU(s) of one run")
            stack.callback(self._dismiss)
            self._leave = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._leave.close()

    def _dismiss(self) -> None:
        for place in self.places:
            ray.kill(place.actor)
        self.places.clear()
        self.weights.clear()

    def _open(self) -> "_Place":
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_restarts": 0, "max_task_retries": -1}  # ask again while it lives
        actor = ray.remote(Worker).options(**options).remote(self.cpus, self.folder / "logs")
        self.places.append(_Place(actor, actor.ready.remote(self.mark, Path.cwd())))
        return self.places[-1]

    def _use_idle(self) -> None:
        """Jobs whose actor still waits for its turn (others use the cluster, too) go to actors that have nothing to do."""
        idle = sum(place.job is None for place in self.places)
        waiting = [place for place in self.places if place.job and not ray.wait([place.node], timeout=0)[0]]
        for place in waiting[:idle]:
            self.places.remove(place)
            ray.kill(place.actor)
            assert place.job is not None
            self.submit(place.job)

    def _shared(self, settings: dict[str, Any]) -> list[Any]:
        """The reference to the run's backbone; none for random weights, which are drawn where they are needed."""
        if not settings["pretrained"]:
            return []
        given = load_arguments(settings)
        key = json.dumps(given, sort_keys=True)
        if key not in self.weights:
            self.weights[key] = share(load_backbone(**given))
        return [self.weights[key]]

    def _outcome(self, place: "_Place") -> Outcome:
        job, place.job = place.job, None
        assert job is not None
        try:
            return Outcome(job, *ray.get(place.answer))
        except RayTaskError as error:  # of ``ready``: ``train`` itself raises nothing
            raise ValueError(str(error.cause)) from None
        except RayError as error:
            self.places.remove(place)
            ray.kill(place.actor)
            if place.lost():
                return Outcome(job, None, "its node is gone", lost=True)
            return Outcome(job, None, f"its process died ({' '.join(str(error).split())[:300]})")

    def _fitting(self, resources: dict[str, float]) -> int:
        by_cpu = int(resources.get("CPU", 0) // self.cpus)
        if not self.gpus:
            return by_cpu
        gpus = resources.get("GPU", 0)
        return min(by_cpu, int(gpus // self.gpus) if self.gpus >= 1 else int(gpus) * int(1 / self.gpus))


@dataclass
class _Place:
    """The driver's side of an actor. ``node`` refers to the id of its node, ``answer`` to what became of its ``job``."""

    actor: Any
    node: Any
    job: Job | None = None
    answer: Any = None

    def lost(self) -> bool:
        """Whether the node is gone, too; asked once the actor is."""
        try:
            node = ray.get(self.node, timeout=0)
        except RayError:
            return False  # it never got as far as to say where it is
        end = time.monotonic() + NODE_AFTER
        while any(alive["NodeID"] == node for alive in _nodes()):
            if time.monotonic() > end:
                return False
            time.sleep(0.5)
        return True


def share(backbone: Backbone) -> Any:
    """Put ``backbone`` into Ray's memory; ``ray.get`` of the reference gives one whose tensors are read-only views of it."""
    _ = backbone.fingerprint  # travels along, computed once
    ray.util.register_serializer(Tensor, serializer=_as_bytes, deserializer=_as_tensor)
    try:
        return ray.put(backbone)
    finally:
        ray.util.deregister_serializer(Tensor)


def _as_bytes(tensor: Tensor) -> tuple[Any, torch.dtype, torch.Size]:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), tensor.dtype, tensor.shape


def _as_tensor(parts: tuple[Any, torch.dtype, torch.Size]) -> Tensor:
    array, dtype, shape = parts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # read-only it is, and frozen weights are never written to
        return torch.from_numpy(array).view(dtype).reshape(shape)


def _connect(address: str | None) -> None:
    if (address or os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        raise ValueError("address: ray:// is for clients outside of a cluster; start the sweep on one of its nodes, with --address auto")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that starts here: it tells nobody about itself
    try:
        _reach(address or os.environ.get("RAY_ADDRESS", ""))
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConnectionError(f"address: no Ray cluster at {address or os.environ.get('RAY_ADDRESS', 'this machine')} ({reason})") from None


def _reach(address: str) -> None:
    """Knock at HOST:PORT: Ray itself tries for many minutes where nobody answers."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _nodes() -> list[dict[str, Any]]:
    """Nodes that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]
