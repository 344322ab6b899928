"""Masked autoencoder (He et al., CVPR 2022): encode the visible quarter of the patches, reconstruct the rest.

The encoder is a plain timm ``VisionTransformer`` with fixed sine-cosine positions; only it is exported.
"""

from typing import Any

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class MAE(nn.Module):
    """Encoder, decoder and the loss of section 3 (mean squared error on the masked patches, normalised per patch).

    Args:
        encoder: ViT with a class token, trained in place.
        mask_ratio: share of the patches that the encoder does not see, in (0, 1).
        decoder_width: channels of the decoder.
        decoder_depth: blocks of the decoder.
    """

    positions: Tensor

    def __init__(self, encoder: Any, mask_ratio: float, decoder_width: int, decoder_depth: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_ratio = mask_ratio
        self.patch = encoder.patch_embed.patch_size[0]
        grid = encoder.patch_embed.grid_size
        heads = decoder_heads(decoder_width)
        self.embed = nn.Linear(encoder.embed_dim, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.blocks = nn.ModuleList([Block(decoder_width, heads, qkv_bias=True) for _ in range(decoder_depth)])
        self.norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.predict = nn.Linear(decoder_width, 3 * self.patch**2)
        self.register_buffer("positions", sincos_positions(grid, decoder_width), persistent=False)
        nn.init.normal_(self.mask_token, std=0.02)
        fix_positions(encoder)

    def patches(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, N, 3 p p]``, rows first."""
        p = self.patch
        return nn.functional.unfold(images, p, stride=p).transpose(1, 2)

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of one batch ``[B, 3, H, W]`` of normalised images; ``generator`` (CPU) draws the masks."""
        encoder = self.encoder
        x = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
        batch, count, width = x.shape
        visible = round(count * (1 - self.mask_ratio))
        order = torch.rand(batch, count, generator=generator).argsort(dim=1).to(x.device)
        kept = order[:, :visible, None]
        x = x.gather(1, kept.expand(-1, -1, width))
        cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(batch, -1, -1)
        x = encoder.norm(encoder.blocks(torch.cat([cls, x], dim=1)))

        y = self.embed(x)
        full = self.mask_token.expand(batch, count, -1).to(y.dtype)
        full = full.scatter(1, kept.expand(-1, -1, y.shape[-1]), y[:, 1:])
        y = torch.cat([y[:, :1], full], dim=1) + self.positions
        for block in self.blocks:
            y = block(y)

        hidden = order[:, visible:, None]
        target = self.patches(images).gather(1, hidden.expand(-1, -1, 3 * self.patch**2))
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        y = self.predict(self.norm(y[:, 1:].gather(1, hidden.expand(-1, -1, y.shape[-1]))))
        return (y.float() - target).square().mean()


def decoder_heads(width: int) -> int:
    """Attention heads of a decoder: one for every 16 channels."""
    return max(1, width // 16)


def sincos_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed 2-D sine-cosine table ``[1, 1 + N, width]``; the class token's row is zero."""
    table = build_sincos2d_pos_embed(list(grid), dim=width, interleave_sin_cos=False)
    return torch.cat([torch.zeros(1, width), table])[None]


def fix_positions(encoder: Any) -> None:
    """Give ``encoder`` the fixed table and stop training it."""
    encoder.pos_embed.data.copy_(sincos_positions(encoder.patch_embed.grid_size, encoder.embed_dim))
    encoder.pos_embed.requires_grad_(False)
