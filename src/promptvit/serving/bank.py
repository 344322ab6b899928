"""Many tasks on one backbone: a batch may mix them.

Tasks whose methods differ in learned values only share one pass, in which every image sees its own task's prompts; ``linear`` tasks
share one plain pass. Methods that cannot be stacked (``Method.stacks``) get a pass for each task. One product serves all heads.
"""

import os
import threading
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from promptvit.backbones.base import Backbone
from promptvit.backbones.loading import load_backbone
from promptvit.errors import nearest, shown
from promptvit.model import PromptedModel
from promptvit.preprocessing import Preprocessing
from promptvit.serving.mixing import joined_heads, own_values
from promptvit.serving.recall import Recall
from promptvit.serving.resident import Resident, of_folder, of_model


class BankPredictions(NamedTuple):
    """Of each image: the most probable class, and the probabilities ``[C]`` of its task's classes."""

    classes: list[str]
    probabilities: list[Tensor]


class PromptBank:
    """``bank(images, tasks)`` gives each image's logits in its own task.

    Threads may call, add and remove at the same time: a call serves the tasks that were there when it started.

    Args:
        backbone: the shared frozen one, or a name or path for :func:`promptvit.load_backbone`.
        preprocessing: what the images went through; default: the backbone's own. Tasks that expect another are refused.
        recall_bytes: how much is kept of what tasks' fixed prompts give the blocks (keys and values, above all); the least recently
            used goes first. 0 keeps nothing. Learned tensors are kept besides.

    Raises:
        ValueError: an unknown backbone, or a negative ``recall_bytes``.
    """

    def __init__(
        self, backbone: Backbone | str | os.PathLike[str], *, preprocessing: Preprocessing | None = None, recall_bytes: int = 128 * 2**20
    ) -> None:
        self.backbone = backbone if isinstance(backbone, Backbone) else load_backbone(backbone)
        self.preprocessing = preprocessing or self.backbone.preprocessing
        self._recall = Recall(recall_bytes)
        self._residents: dict[str, Resident] = {}
        self._lock = threading.Lock()

    @property
    def tasks(self) -> list[str]:
        """Names, in the order in which they were added."""
        with self._lock:
            return list(self._residents)

    def classes(self, task: str) -> list[str]:
        """The task's class names, in the order of its logits."""
        return list(self._find([task])[0].classes)

    @property
    def recall_bytes(self) -> int:
        """The most that is remembered."""
        return self._recall.limit

    @property
    def resident_bytes(self) -> int:
        """Bytes beside the backbone: learned tensors that are loaded, and what is remembered."""
        with self._lock:
            residents = list(self._residents.values())
        return sum(resident.bytes for resident in residents) + self._recall.bytes

    def add(self, task: str, adapter: str | os.PathLike[str] | PromptedModel) -> None:
        """Serve ``adapter`` as ``task``.

        Args:
            task: any name but ``.`` and ``..``, without ``/``: it is one part of the service's addresses.
            adapter: an adapter folder, run folder or hub repository, of which the config is checked now and the weights are read when
                the task is first used; or a model, of which a frozen copy is kept.

        Raises:
            ValueError: the name is taken or cannot be part of an address; no intact adapter; a method that tunes the backbone itself
                (``full``, ``bias``, ``partial-K``, ``lora``); a segmentation head; another backbone or another preprocessing (both values
                are named).
        """
        if task in ("", ".", "..") or "/" in task:
            raise ValueError(f"task: {shown(task)} cannot be part of an address; give a name without '/', such as birds or vtab-dtd")
        if task in self.tasks:  # before any work; the check that counts is below
            raise ValueError(_taken(task))
        if isinstance(adapter, PromptedModel):
            resident = of_model(task, adapter, self.backbone, self.preprocessing)
        else:
            resident = of_folder(task, adapter, self.backbone, self.preprocessing)
        with self._lock:
            if task in self._residents:
                raise ValueError(_taken(task))
            self._residents[task] = resident

    def remove(self, task: str) -> None:
        """Forget a task; calls that already run still serve it.

        Raises:
            ValueError: an unknown name.
        """
        self._find([task])
        with self._lock:
            resident = self._residents.pop(task, None)
        if resident is not None:
            self._recall.drop(resident)

    @torch.inference_mode()
    def __call__(self, images: Tensor, tasks: str | Sequence[str]) -> list[Tensor]:
        """Logits ``[C]`` of each normalised image of ``images [B, 3, H, W]`` in its own task.

        Args:
            tasks: one name for each image, or one for all of them.

        Raises:
            ValueError: an unknown task, another number of tasks than of images, images of another size, or weights that cannot be
                used (task and file are named).
        """
        return self._logits(images, self._of_each(images, tasks))

    @torch.inference_mode()
    def predict(self, images: Tensor | Sequence[Image.Image], tasks: str | Sequence[str]) -> BankPredictions:
        """Classes and probabilities of PIL images, or of a preprocessed batch ``[B, 3, H, W]``; see :meth:`__call__`."""
        residents = self._of_each(images, tasks)
        if not residents:
            return BankPredictions([], [])
        if not isinstance(images, Tensor):
            images = torch.stack([self.preprocessing(image) for image in images])
        probabilities = [logits.float().softmax(dim=-1).cpu() for logits in self._logits(images, residents)]
        return BankPredictions([r.classes[int(p.argmax())] for r, p in zip(residents, probabilities, strict=True)], probabilities)

    def _logits(self, images: Tensor, residents: Sequence[Resident]) -> list[Tensor]:
        if not residents:
            return []
        images = images.to(next(self.backbone.parameters()).device)
        groups: dict[Hashable, list[int]] = {}
        for row, resident in enumerate(residents):
            groups.setdefault(resident.flow, []).append(row)
        features = [self._features(images[rows], [residents[row] for row in rows]) for rows in groups.values()]
        order = torch.tensor(list(chain(*groups.values())), device=images.device).argsort()
        return joined_heads(torch.cat(features)[order], [resident.head for resident in residents])

    def _features(self, images: Tensor, residents: Sequence[Resident]) -> Tensor:
        """Features ``[B, D]`` of ``images`` by one pass; what it found of fixed prompts is remembered by task."""
        rows = {resident: row for row, resident in enumerate(residents)}  # one of each task's
        methods = [resident.model.method for resident in residents]
        method = methods[0] if len(rows) == 1 else own_values(methods)
        memory = self._recall.of(residents)
        features = method(self.backbone, images, memory=memory).features
        self._recall.keep(rows, memory)
        return features

    def _of_each(self, images: Tensor | Sequence[Image.Image], tasks: str | Sequence[str]) -> list[Resident]:
        names = [tasks] * len(images) if isinstance(tasks, str) else list(tasks)
        if len(names) != len(images):
            raise ValueError(f"tasks: {len(images)} images need as many names, or one for all; got {len(names)}")
        return self._find(names)

    def _find(self, tasks: Sequence[str]) -> list[Resident]:
        with self._lock:
            found = [self._residents.get(task) for task in tasks]
        if None in found:
            task, names = tasks[found.index(None)], self.tasks
            raise ValueError(f"unknown task {task!r};{nearest(task, names)} the bank has {len(names)}, see its tasks")
        return [resident for resident in found if resident is not None]


def _taken(task: str) -> str:
    return f"task: {task!r} is there already; remove it first, or give another name"
