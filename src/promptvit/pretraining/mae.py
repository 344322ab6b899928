"""Masked autoencoder (He et al., CVPR 2022): encode the visible quarter of the patches, reconstruct the rest.

The encoder is a plain timm ``VisionTransformer`` with fixed sine-cosine positions. The decoder's parts are named as in the authors'
pre-training files.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from promptvit.data.proc import stream
from promptvit.data.proc.dice import Dice
from promptvit.pretraining.objective import Objective, PretrainSettings, build_encoder, normalized, sincos_positions
from promptvit.pretraining.published import write_mae


class MAESettings(PretrainSettings):
    """Sizes of the decoder, and the share of the patches that the encoder does not see."""

    objective: Literal["mae"] = "mae"
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    decoder_width: int = Field(64, gt=0)
    decoder_depth: int = Field(2, gt=0)

    @model_validator(mode="after")
    def _decoder_fits(self) -> "MAESettings":
        if self.decoder_width % 4 or self.decoder_width % _decoder_heads(self.decoder_width):
            heads = _decoder_heads(self.decoder_width)
            raise ValueError(f"decoder_width must be a multiple of 4 and of its {heads} heads, got {self.decoder_width}")
        return self

    @model_validator(mode="after")
    def _mask_fits(self) -> "MAESettings":
        patches = (self.image_size // self.patch_size) ** 2
        if not 0 < self.visible(patches) < patches:
            raise ValueError(f"mask_ratio must hide at least one of the {patches} patches and leave one, got {self.mask_ratio}")
        return self

    def visible(self, patches: int) -> int:
        """How many of so many patches the encoder sees."""
        return round(patches * (1 - self.mask_ratio))


class MAE(Objective):
    """Encoder, decoder and the loss of section 3 (mean squared error on the masked patches, normalised per patch)."""

    Settings = MAESettings
    decoder_pos_embed: Tensor

    def __init__(self, settings: MAESettings) -> None:
        super().__init__()
        self.settings = settings
        encoder, width = build_encoder(settings), settings.decoder_width
        self.encoder = encoder
        encoder.pos_embed.requires_grad_(False)
        norm = partial(nn.LayerNorm, eps=1e-6)
        blocks = [Block(width, _decoder_heads(width), qkv_bias=True, norm_layer=norm) for _ in range(settings.decoder_depth)]
        self.decoder_embed = nn.Linear(settings.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_blocks = nn.ModuleList(blocks)
        self.decoder_norm = norm(width)
        self.decoder_pred = nn.Linear(width, 3 * settings.patch_size**2)
        self.register_buffer("decoder_pos_embed", sincos_positions(encoder.patch_embed.grid_size, width))
        nn.init.normal_(self.mask_token, std=0.02)

    def draw(self, generator: torch.Generator, rows: slice) -> tuple[Tensor, Tensor]:
        """Normalised images ``[B, 3, H, W]``, and the order ``[B, N]`` of their patches, visible ones first."""
        images = stream.draw_batch(generator, self.settings.batch_size, self.settings.image_size, rows)
        order = Dice(generator, self.settings.batch_size, rows).uniform(0, 1, self.encoder.patch_embed.num_patches).argsort(dim=1)
        return normalized(images), order

    def forward(self, images: Tensor, order: Tensor) -> Tensor:
        """Mean squared error on the masked patches."""
        visible = self.settings.visible(order.shape[1])
        kept, hidden = order[:, :visible, None], order[:, visible:, None]
        y = self.decode(self.encode(images, kept), kept, order.shape[1])
        target = self.patches(images)
        target = target.gather(1, hidden.expand(-1, -1, target.shape[-1]))
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        y = self.decoder_pred(self.decoder_norm(y[:, 1:].gather(1, hidden.expand(-1, -1, y.shape[-1]))))
        return (y.float() - target).square().mean()

    def encode(self, images: Tensor, kept: Tensor) -> Tensor:
        """Class token and the ``kept [B, V, 1]`` patches, encoded: ``[B, 1 + V, width]``."""
        encoder = self.encoder
        x = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
        x = x.gather(1, kept.expand(-1, -1, x.shape[-1]))
        cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(x), -1, -1)
        return encoder.norm(encoder.blocks(torch.cat([cls, x], dim=1)))

    def decode(self, encoded: Tensor, kept: Tensor, count: int) -> Tensor:
        """Mask tokens in place of what was not seen, through the decoder: ``[B, 1 + count, decoder width]``."""
        y = self.decoder_embed(encoded)
        full = self.mask_token.expand(len(y), count, -1).to(y.dtype)
        full = full.scatter(1, kept.expand(-1, -1, y.shape[-1]), y[:, 1:])
        y = torch.cat([y[:, :1], full], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            y = block(y)
        return y

    def patches(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, N, p p 3]``: rows first, and channels last within a patch."""
        p = self.settings.patch_size
        cut = nn.functional.unfold(images, p, stride=p)
        return cut.unflatten(1, (3, p * p)).permute(0, 3, 2, 1).flatten(2)

    def publish(self, folder: Path, steps: int) -> Path:
        """The full pre-training file: encoder, mask token and decoder."""
        return write_mae(self.state_dict(), folder / "mae_pretrain.pth")


def _decoder_heads(width: int) -> int:
    """One for every 16 channels."""
    return max(1, width // 16)
