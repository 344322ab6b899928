"""Heads for image classification."""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

HeadInit = Literal["small", "vpt"]


class LinearHead(nn.Linear):
    """One linear layer ``[B, D] -> [B, C]``.

    Args:
        width: D.
        num_classes: C, at least 1.
        init: ``small``: truncated normal 0.02, bias 0 (SPT, SA2VP); ``vpt``: Kaiming fan-out and bias -log 99, a prior of 0.01 per
            class (VPT, GaPT).
        generator: source of the initial weights.
    """

    name: ClassVar[str] = "linear"
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, width: int, num_classes: int, *, init: HeadInit = "small", generator: torch.Generator) -> None:
        super().__init__(width, num_classes)
        if init == "vpt":
            nn.init.kaiming_normal_(self.weight, a=0, mode="fan_out", generator=generator)
            nn.init.constant_(self.bias, -math.log(99))
        else:
            nn.init.trunc_normal_(self.weight, std=0.02, generator=generator)
            nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        return super().forward(features.to(self.weight.dtype))
