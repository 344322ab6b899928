"""What a model loses without single blocks' prompts, gates or modules: one part is switched off at a time, nothing is trained again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from promptvit.analysis.altered import altered, evaluating
from promptvit.backbones.base import Backbone, per_image
from promptvit.model import PromptedModel

CALLS = ("run", "qkv", "attend", "finish")  # what a method may ask of an opened block


@dataclass(frozen=True)
class Loss:
    """One part of a model.

    Attributes:
        part: ``prompts 3`` (block 3 does not see the prompts, which pass by it unchanged), or one of the method's own parts.
        accuracy, loss: share of images named right and mean cross-entropy without it.
        drop, error: by how much the accuracy falls, and the standard error of that difference over the images.
    """

    part: str
    accuracy: float
    loss: float
    drop: float
    error: float


@torch.no_grad()
def sensitivity(model: PromptedModel, images: Tensor, labels: Tensor, *, batch_size: int = 8) -> tuple[Tensor, list[Loss]]:
    """Logits ``[B, C]`` of the whole model for normalised ``images [B, 3, H, W]``, and what it loses without each part.

    ``labels [B]`` are the right classes. Blocks before the first that a part changes are computed once per batch. Everything comes back
    on the CPU.
    """
    with evaluating(model):
        parts = [_without_each(model, batch) for batch in images.split(batch_size)]
    labels = labels.cpu()
    logits = {part: torch.cat([found[part] for found in parts]) for part in parts[0]}
    whole = logits.pop("")
    hits = _hits(whole, labels)
    return whole, [_loss(part, own, hits, labels) for part, own in logits.items()]


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=-1) == labels).double()


def _loss(part: str, logits: Tensor, whole: Tensor, labels: Tensor) -> Loss:
    own = _hits(logits, labels)
    difference = whole - own
    error = float(difference.std()) / len(own) ** 0.5 if len(own) > 1 else float("nan")
    return Loss(part, float(own.mean()), float(F.cross_entropy(logits, labels)), float(difference.mean()), error)


def _without_each(model: PromptedModel, images: Tensor) -> dict[str, Tensor]:
    """Logits ``[B, C]`` of the whole model (``""``) and without each part, as float32 on the CPU."""
    whole = _Whole(model.backbone)

    def logits() -> Tensor:
        return model(images).float().cpu()

    with altered(model.backbone, whole.watch):
        found = {"": logits()}
    for i in sorted(whole.prompted):
        with altered(model.backbone, partial(whole.replay, first=i, hidden=i)):
            found[f"prompts {i}"] = logits()
    for part, first in model.method.parts().items():
        with altered(model.backbone, partial(whole.replay, first=first, hidden=None)), model.method.without(part):
            found[part] = logits()
    return found


class _Whole:
    """What blocks answered in a forward of the whole model, in the order in which they were asked.

    Attributes:
        prompted: blocks that saw prompts.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.answers: list[list[Any]] = [[] for _ in range(backbone.depth)]
        self.prompted: set[int] = set()

    def watch(self, blocks: Sequence[Any], _grid: tuple[int, int]) -> None:
        """Blocks that keep their answers here."""

        def kept(i: int, name: str, call: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
            if name == "run" and inputs[1] is not None:
                self.prompted.add(i)
            self.answers[i].append(call(*inputs, **named))
            return self.answers[i][-1]

        _outermost(blocks, kept)

    def replay(self, blocks: Sequence[Any], _grid: tuple[int, int], *, first: int, hidden: int | None) -> None:
        """Blocks of which those before ``first`` only repeat their answers; ``hidden`` sees no prompts."""
        again = [iter(answers) for answers in self.answers[:first]]

        def answered(i: int, name: str, call: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
            if i < first:
                return next(again[i])
            return _past(call, *inputs) if i == hidden and name == "run" else call(*inputs, **named)

        _outermost(blocks, answered)


def _outermost(blocks: Sequence[Any], instead: Callable[..., Any]) -> None:
    """Each call that a method makes of a block becomes ``instead(i, name, call, ...)``; what blocks call of themselves stays."""
    inside = False

    def outer(i: int, name: str, call: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        nonlocal inside
        if inside:
            return call(*inputs, **named)
        inside = True
        try:
            return instead(i, name, call, *inputs, **named)
        finally:
            inside = False

    for i, block in enumerate(blocks):
        for name in CALLS if block.opened else CALLS[:1]:
            setattr(block, name, partial(outer, i, name, getattr(block, name)))


def _past(run: Callable[..., Any], x: Tensor, prompts: Tensor | None, want: str, temperature: Any, _known: Any) -> Any:
    """A block that does not see the prompts: they pass by it unchanged."""
    y, _ = run(x, None, want, temperature, None)
    return y, per_image(prompts, len(x)) if prompts is not None and want == "all" else None
