"""Heads for semantic segmentation: SETR's decoders (Zheng et al., CVPR 2021) and a linear one, with auxiliary heads.

A decoder normalises a block's patch tokens, lays them out on their grid, and runs stages of convolution, batch norm and ReLU with
bilinear upsampling between them; a 1x1 convolution gives the logits.

SETR upsamples once more before that convolution. Both are linear and upsampling's weights sum to one, so they may change places: the
logits are the same, and the largest map has as many channels as there are classes, at half the side.

Normalisation is plain ``BatchNorm2d``: the authors' synchronised one over a single device. Its running statistics belong to what a run
learns and are stored in the adapter.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from promptvit.backbones.base import Backbone
from promptvit.config import checked
from promptvit.errors import unknown

IGNORE = 255
FAMILIES = ("vit", "eva")


class Plan(NamedTuple):
    """``stages`` convolutions of side ``kernel``; each but the last is followed by upsampling by ``scale``."""

    stages: int
    kernel: int = 1
    scale: int = 1


# main and auxiliary decoders; sources: SETR, section 3.2, and its published configurations
PLANS = {
    "setr-pup": (Plan(4, kernel=3, scale=2), Plan(2, kernel=3, scale=4)),
    "setr-naive": (Plan(1), Plan(1)),
    "linear-seg": (Plan(0), Plan(0)),
}


class SegmentationConfig(BaseModel):
    """Options of a segmentation head.

    Attributes:
        channels: width of the stages; ``linear-seg`` has none.
        aux_blocks: blocks, counted from 0, whose tokens feed an auxiliary decoder in training. None: see :func:`default_blocks`;
            ``linear-seg`` then has none.
        aux_weight: of each auxiliary decoder's loss.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: int = Field(256, ge=1, le=4096)
    aux_blocks: tuple[int, ...] | None = None
    aux_weight: float = Field(0.4, ge=0)


def default_blocks(depth: int) -> tuple[int, ...]:
    """Blocks with an auxiliary decoder, counted from 0: 5 and 9 of 12 (GaPT), 9, 14 and 19 of 24 (SETR), others in proportion.

    Shallow models get fewer: the last block feeds the main decoder, and no block feeds two.
    """
    shares = (9 / 24, 14 / 24, 19 / 24) if depth >= 24 else (5 / 12, 9 / 12)
    return tuple(sorted({block for block in (round(depth * share) for share in shares) if block < depth - 1}))


class SegmentationHead(nn.Module):
    """The main decoder of the last block's tokens, and auxiliary ones of earlier blocks'.

    Args:
        name: ``setr-pup``, ``setr-naive`` or ``linear-seg``.
        num_classes: 1 to 255; 255 marks pixels to ignore.
        options: see :class:`SegmentationConfig`.
        generator: source of the initial weights.

    Attributes:
        config: with ``aux_blocks`` as they are used.
        taps: the blocks whose tokens it reads.

    Raises:
        ValueError: an unknown name or option, a value out of range, or a backbone whose tokens lie on no single grid.
    """

    def __init__(self, name: str, backbone: Backbone, num_classes: int, options: Mapping[str, Any], *, generator: torch.Generator) -> None:
        super().__init__()
        if name not in PLANS:
            raise ValueError(unknown("head", name, PLANS))
        if backbone.family not in FAMILIES:
            raise ValueError(
                f"head: {name} does not run on {backbone.family} backbones ({backbone.name}), whose grid shrinks from stage to stage; "
                f"use a flat one ({', '.join(FAMILIES)})"
            )
        if num_classes > IGNORE:
            raise ValueError(f"num_classes: at most {IGNORE} for segmentation, since {IGNORE} marks pixels to ignore; got {num_classes}")
        config = checked(SegmentationConfig, dict(options), f"option of {name}")
        blocks = config.aux_blocks
        if blocks is None:
            blocks = default_blocks(backbone.depth) if PLANS[name][1].stages else ()
        if sorted(set(blocks)) != list(blocks) or not set(blocks) <= set(range(backbone.depth - 1)):
            raise ValueError(f"aux_blocks: ascending blocks of 0 to {backbone.depth - 2}, which come before the last; got {blocks}")
        self.name = name
        self.config = config.model_copy(update={"aux_blocks": blocks})
        self.taps = (*blocks, backbone.depth - 1)
        main, auxiliary = PLANS[name]
        self.main = Decoder(backbone.width, config.channels, num_classes, main, generator)
        self.auxiliary = nn.ModuleList(Decoder(backbone.width, config.channels, num_classes, auxiliary, generator) for _ in blocks)

    @property
    def options(self) -> dict[str, Any]:
        """What builds the same head again."""
        return self.config.model_dump(mode="json")

    def forward(self, tokens: Mapping[int, Tensor], grid: tuple[int, int]) -> Tensor:
        """Logits ``[B, C, h', w']`` of the main decoder, from patch tokens ``[B, N, D]`` by block on ``grid``."""
        return self.main(tokens[self.taps[-1]], grid)

    def outputs(self, tokens: Mapping[int, Tensor], grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """Logits of the main decoder, then of every auxiliary one, each at its own resolution."""
        auxiliary = (decode(tokens[i], grid) for i, decode in zip(self.taps[:-1], self.auxiliary, strict=True))
        return self(tokens, grid), *auxiliary

    def loss(self, outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Cross-entropy of the main logits plus ``aux_weight`` times that of each auxiliary; see :func:`pixel_cross_entropy`."""
        main, *auxiliary = (pixel_cross_entropy(logits, target) for logits in outputs)
        return main + self.config.aux_weight * sum(auxiliary)


class Decoder(nn.Module):
    """Patch tokens ``[B, N, D]`` on a grid to logits ``[B, C, h', w']``; the sides grow by ``scale`` between stages."""

    def __init__(self, width: int, channels: int, num_classes: int, plan: Plan, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        widths = [width, *[channels] * plan.stages]
        self.stages = nn.ModuleList(stage(a, b, plan.kernel, generator) for a, b in pairwise(widths))
        self.scale = plan.scale
        self.classify = nn.Conv2d(widths[-1], num_classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01, generator=generator)
        self.classify.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.norm(tokens.to(self.norm.weight.dtype)).transpose(1, 2).unflatten(2, grid)
        for i, convolve in enumerate(self.stages):
            if i and self.scale > 1:
                x = resized(x, (x.shape[-2] * self.scale, x.shape[-1] * self.scale))
            x = convolve(x)
        return self.classify(x)


def stage(inputs: int, outputs: int, kernel: int, generator: torch.Generator) -> nn.Module:
    """Convolution (Kaiming fan-out, no bias), batch norm, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``[B, C, h, w]`` to ``size``, bilinear, corners not aligned."""
    return maps if tuple(maps.shape[-2:]) == tuple(size) else F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def pixel_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels of ``target [B, H, W]`` that are not 255; 0 where all are.

    ``logits [B, C, h, w]`` are brought to the masks' size first.
    """
    logits = resized(logits.float(), (target.shape[-2], target.shape[-1]))
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)
