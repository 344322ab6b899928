"""What every pre-training objective shares: its settings, its encoder, and the interface that the loop uses."""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

MEAN, STD = 0.5, 0.22  # of the stream, measured; stored with the weights


class PretrainSettings(BaseModel):
    """Everything that decides the weights. Sizes in pixels, rates per step; an objective adds its own."""

    model_config = ConfigDict(extra="forbid")

    objective: Literal["mae", "mocov3", "supervised"]
    image_size: int = Field(32, gt=0)
    patch_size: int = Field(4, gt=0)
    width: int = Field(128, gt=0)
    depth: int = Field(12, gt=0)
    heads: int = Field(4, gt=0)
    steps: int = Field(3000, gt=0)
    batch_size: int = Field(256, gt=1, description="images per step, over all processes")
    lr: float = Field(1.5e-3, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.05, ge=0)
    beta2: float = Field(0.95, gt=0, lt=1, description="of AdamW; the first is 0.9")
    seed: int = Field(0, ge=0, le=10**12, description="a step's own seed is a million times as large and has 64 bits")

    @model_validator(mode="after")
    def _encoder_fits(self) -> "PretrainSettings":
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width must be a multiple of 4 and of heads, got {self.width} and {self.heads}")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, got {self.image_size} and {self.patch_size}")
        return self

    def architecture(self) -> dict[str, Any]:
        """Arguments of timm's ``VisionTransformer``."""
        return {
            "img_size": self.image_size,
            "patch_size": self.patch_size,
            "embed_dim": self.width,
            "depth": self.depth,
            "num_heads": self.heads,
            "num_classes": 0,
        }


class Objective(nn.Module):
    """An encoder and a way to train it.

    All randomness of a step is in :meth:`draw`; ``forward(*drawn)`` is a function of it and gives the loss, a scalar. Where several
    processes share a batch, the loss is such that the mean of their gradients is the gradient of the whole batch.
    """

    Settings: ClassVar[type[PretrainSettings]]
    encoder: VisionTransformer

    def draw(self, generator: torch.Generator, rows: slice) -> tuple[Tensor, ...]:
        """``rows`` of one step's batch, on the generator's device."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step; ``progress`` is the share of the steps done, in (0, 1]."""

    def publish(self, folder: Path, steps: int) -> Path:
        """Write the weights in the layout of the original release, in full precision; returns the file."""
        raise NotImplementedError


def build_encoder(settings: PretrainSettings) -> VisionTransformer:
    """A plain ViT with a class token that starts as the original ViT's does (Xavier), positions from the sine-cosine table."""
    encoder = VisionTransformer(**settings.architecture(), norm_layer=partial(nn.LayerNorm, eps=1e-6), weight_init="jax")
    encoder.pos_embed.data.copy_(sincos_positions(encoder.patch_embed.grid_size, settings.width))
    return encoder


def sincos_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed 2-D sine-cosine table ``[1, 1 + N, width]``; the class token's row is zero."""
    table = build_sincos2d_pos_embed(list(grid), dim=width, interleave_sin_cos=False)
    return torch.cat([torch.zeros(1, width), table])[None]


def normalized(images: Tensor) -> Tensor:
    """Images in [0, 1] as the encoder sees them."""
    return (images - MEAN) / STD
