"""One task of a bank: checked when it is added, loaded when it is first used."""

import copy
import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cached_property

import torch

from promptvit import adapter
from promptvit.backbones.base import Backbone
from promptvit.heads.classification import LinearHead
from promptvit.methods import method_class
from promptvit.model import PromptedModel
from promptvit.preprocessing import Preprocessing

_loading = threading.Lock()  # one at a time: building a model borrows torch's global random state


class Resident:
    """A task's frozen model on the bank's backbone.

    Attributes:
        classes: names, in the order of the logits.
    """

    def __init__(self, classes: list[str], load: Callable[[], PromptedModel]) -> None:
        self.classes = classes
        self._load = load
        self._model: PromptedModel | None = None

    @property
    def model(self) -> PromptedModel:
        """The model; its weights are read when it is first asked for.

        Raises:
            ValueError: they cannot be used; the task and the file are named.
        """
        if self._model is None:
            with _loading, torch.inference_mode(False):
                if self._model is None:
                    self._model = self._load().eval().requires_grad_(False)
        return self._model

    @property
    def head(self) -> LinearHead:
        """The model's head."""
        assert isinstance(self.model.head, LinearHead)
        return self.model.head

    @cached_property
    def flow(self) -> Hashable:
        """Residents of equal flow go through the backbone together."""
        method = self.model.method
        return method.flow if method.stacks else self

    @property
    def bytes(self) -> int:
        """Bytes of the learned tensors; 0 before they are read."""
        if self._model is None:
            return 0
        return sum(t.nbytes for part in (self._model.method, self._model.head) for t in (*part.parameters(), *part.buffers()))


def of_model(task: str, model: PromptedModel, backbone: Backbone, preprocessing: Preprocessing) -> Resident:
    """A frozen copy of ``model``: later training of it does not reach the copy.

    Raises:
        ValueError: see :meth:`PromptBank.add`.
    """
    with _about(task):
        _check_kind(model.method.name, model.head.name)
        _check_backbone(model.backbone.name, model.backbone.fingerprint, backbone)
        _check_preprocessing(model.preprocessing, preprocessing)
    own = copy.deepcopy(model, {id(model.backbone): backbone}).to(next(backbone.parameters()).device)
    own.zero_grad()  # a copy of what the optimiser left would stay
    resident = Resident(own.classes, lambda: own)
    _ = resident.model  # nothing to wait for
    return resident


def of_folder(task: str, folder: str | os.PathLike[str], backbone: Backbone, preprocessing: Preprocessing) -> Resident:
    """The adapter in ``folder``; the weights read later must be those that its config names now.

    Raises:
        ValueError: see :meth:`PromptBank.add`.
    """
    with _about(task):
        directory = adapter.find(folder)
        config = adapter.read_config(directory)
        _check_kind(config.method, config.head)
        _check_backbone(config.backbone.name, config.backbone.fingerprint, backbone)
        _check_preprocessing(config.preprocessing, preprocessing)
        if not (directory / adapter.WEIGHTS).is_file():
            raise ValueError(f"adapter: {directory} has no {adapter.WEIGHTS}")

    def load() -> PromptedModel:
        with _about(task):
            return adapter.restore(directory, config, adapter.read_weights(directory, config), backbone)

    return Resident(config.classes, load)


@contextmanager
def _about(task: str) -> Iterator[None]:
    """Errors inside name the task."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"task {task!r}: {error}") from None


def _check_kind(method: str, head: str) -> None:
    if not method_class(method).shares_backbone():
        raise ValueError(
            f"{method} tunes weights of the backbone itself, which the other tasks share; serve it without the bank, by "
            "PromptedModel.from_pretrained"
        )
    if head != "linear":
        raise ValueError(f"the bank gives one vector for an image, and {head} labels pixels; use PromptedModel.from_pretrained")


def _check_backbone(name: str, fingerprint: str, backbone: Backbone) -> None:
    if fingerprint != backbone.fingerprint:
        raise ValueError(
            f"its backbone is {name} (fingerprint {fingerprint}), the bank's is {backbone.name} (fingerprint {backbone.fingerprint})"
        )


def _check_preprocessing(expected: Preprocessing, given: Preprocessing) -> None:
    if expected != given:
        raise ValueError(
            f"it expects images of {expected}, the bank gives {given}; tasks that agree can share a "
            "PromptBank(backbone, preprocessing=...)"
        )
