"""What every prompt paper compares with: a linear probe, full tuning, biases only, the last blocks only."""

import re
from collections.abc import Collection
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from promptvit.backbones.base import Backbone, Pass
from promptvit.methods.base import Method, MethodConfig, register


@register("linear")
class Linear(Method):
    """No prompts: the head alone learns, on the frozen backbone's features."""

    prompted: ClassVar[bool] = False
    families: ClassVar[Collection[str]] = ("vit", "eva", "swin")
    stacks: ClassVar[bool] = True

    def encode(self, step: Pass) -> tuple[Tensor, Tensor | None]:
        x = step.tokens
        for i in range(step.depth):
            x, _ = step(i, x, None)
        return x, None


class Partly(Linear):
    """Tunes some of the backbone's own weights, on a deep copy; the shared backbone stays as it is."""

    lr: ClassVar[float] = 5e-4

    def tunes(self, name: str, backbone: Backbone) -> bool:
        """Whether the parameter of this timm name learns."""
        raise NotImplementedError

    def adapt(self, backbone: Backbone) -> Backbone:
        copy = backbone.trainable_copy()
        for name, parameter in copy.model.named_parameters():
            parameter.requires_grad_(self.tunes(name, backbone))
        return copy


@register("full")
class Full(Partly):
    """All weights learn."""

    def tunes(self, name: str, backbone: Backbone) -> bool:
        return True


@register("bias")
class Bias(Partly):
    """All biases learn (BitFit, Ben Zaken et al., 2022)."""

    def tunes(self, name: str, backbone: Backbone) -> bool:
        return name.endswith("bias")


class PartialConfig(MethodConfig):
    """Options of partial tuning.

    Attributes:
        blocks: how many of the last blocks learn, with the final norm.
    """

    blocks: int = Field(1, ge=1)


@register("partial-1")
class Partial(Partly):
    """The last K blocks and the final norm learn (``partial-K``)."""

    Config = PartialConfig

    def __init__(self, backbone: Backbone, config: PartialConfig, generator: torch.Generator) -> None:
        super().__init__(backbone, config, generator)
        if config.blocks > backbone.depth:
            raise ValueError(f"partial-K: {backbone.name} has {backbone.depth} blocks, got K = {config.blocks}")

    def tunes(self, name: str, backbone: Backbone) -> bool:
        if re.match(r"(norm|fc_norm)\.", name):
            return True
        return any(name.startswith(f"{backbone.block_name(i)}.") for i in range(backbone.depth - self.config.blocks, backbone.depth))
