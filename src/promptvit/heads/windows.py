"""Inference on images of any size: whole or through sliding windows, at one or several scales, with or without mirroring.

A model is anything that maps normalised images ``[B, 3, H, W]`` to logits ``[B, C, H, W]``.
"""

from collections.abc import Callable
from itertools import product
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from promptvit.heads.segmentation import resized

DenseModel = Callable[[Tensor], Tensor]
Side = Annotated[int, Field(ge=1)]
Scale = Annotated[float, Field(gt=0)]


class Inference(BaseModel):
    """How a whole image is scored.

    Attributes:
        mode: ``slide`` over windows, or ``whole``: the image at once, positions interpolated to its grid.
        window: height and width of a window, in pixels: the training crop.
        stride: pixels between windows; None: two thirds of the window (341 of 512).
        scales: the image is scored at each of these scales and the probabilities are averaged.
        flip: each scale also mirrored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["slide", "whole"] = "slide"
    window: tuple[Side, Side] = (512, 512)
    stride: tuple[Side, Side] | None = None
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = (1.0,)
    flip: bool = False

    @model_validator(mode="after")
    def _no_gaps(self) -> "Inference":
        if self.stride is not None and any(s > w for s, w in zip(self.stride, self.window, strict=True)):
            raise ValueError(f"stride: at most the window {self.window}, or pixels between windows are never seen; got {self.stride}")
        return self

    @property
    def steps(self) -> tuple[int, int]:
        """The stride that is used."""
        return self.stride or (max(1, 2 * self.window[0] // 3), max(1, 2 * self.window[1] // 3))


def scores(model: DenseModel, images: Tensor, inference: Inference) -> Tensor:
    """Scores ``[B, C, H, W]`` of normalised ``images [B, 3, H, W]``, the highest of a pixel being its class.

    They are the logits; with other scales or mirroring the mean of the softmax probabilities of all views.
    """
    views = list(product(inference.scales, (False, True) if inference.flip else (False,)))
    if views == [(1.0, False)]:
        return _logits(model, images, inference)
    mean = None
    for count, (scale, mirrored) in enumerate(views, start=1):
        found = _view(model, images, inference, scale, mirrored).float().softmax(dim=1)
        mean = found if mean is None else mean + (found - mean) / count
    assert mean is not None
    return mean


def masks(scored: Tensor, size: tuple[int, int]) -> Tensor:
    """Class indices ``[B, H, W]`` at ``size``, from scores ``[B, C, h, w]`` that are interpolated to it.

    Class by class, so that a large photograph with many classes needs no map of all of them.
    """
    best, chosen = resized(scored[:, 0:1], size)[:, 0], scored.new_zeros((len(scored), *size), dtype=torch.long)
    for i in range(1, scored.shape[1]):
        value = resized(scored[:, i : i + 1], size)[:, 0]
        higher = value > best
        best, chosen = torch.where(higher, value, best), chosen.masked_fill(higher, i)
    return chosen


def slide(model: DenseModel, images: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Logits ``[B, C, H, W]``, averaged where windows overlap.

    The last window of a row or column ends at the border. Images smaller than the window are padded with zeros (the mean colour) on
    the right and at the bottom, and the logits are cut.
    """
    height, width = images.shape[-2:]
    images = F.pad(images, (0, max(0, window[1] - width), 0, max(0, window[0] - height)))
    mean, seen = None, images.new_zeros(images.shape[-2:])
    for top, left in product(*(_starts(s, w, t) for s, w, t in zip(images.shape[-2:], window, stride, strict=True))):
        place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
        logits = model(images[place])
        if mean is None:
            at_least_float = torch.promote_types(logits.dtype, torch.float32)
            mean = logits.new_zeros((*logits.shape[:2], *images.shape[-2:]), dtype=at_least_float)
        seen[place] += 1
        mean[place] += (logits - mean[place]) / seen[place]  # a running mean: equal values stay exactly equal
    assert mean is not None
    return mean[..., :height, :width]


def _starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows start along one side."""
    last = side - window
    return [*range(0, last, stride), last]


def _logits(model: DenseModel, images: Tensor, inference: Inference) -> Tensor:
    if inference.mode == "whole":
        return model(images)
    return slide(model, images, inference.window, inference.steps)


def _view(model: DenseModel, images: Tensor, inference: Inference, scale: float, mirrored: bool) -> Tensor:
    """Logits at the images' own size of a scaled and perhaps mirrored copy."""
    height, width = images.shape[-2:]
    view = resized(images, (max(1, round(height * scale)), max(1, round(width * scale))))
    logits = _logits(model, view.flip(-1) if mirrored else view, inference)
    return resized(logits.flip(-1) if mirrored else logits, (height, width))
