"""Any timm ``VisionTransformer``: layer scale, registers, qk-norm, class token or none, any patch and image size."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from promptvit.backbones.base import Block
from promptvit.backbones.flat import FlatBackbone, FlatBlock


class ViTBlock(FlatBlock):
    """timm's ``Block`` with its plain ``Attention``."""

    @staticmethod
    def knows(module: Any) -> bool:
        """Whether ``module`` is exactly what this view assumes; anything else stays a black box."""
        return (
            type(module) is TimmBlock and type(module.attn) is Attention and module.attn.gate is None and type(module.attn.qkv) is nn.Linear
        )

    def finish(self, x: Tensor, a: Tensor) -> Tensor:
        block = self.module
        x = x + block.ls1(a)
        return x + block.ls2(block.mlp(block.norm2(x)))


class ViT(FlatBackbone):
    """A timm ``VisionTransformer`` without its classifier."""

    family: ClassVar[str] = "vit"

    def __init__(self, model: VisionTransformer, **facts: Any) -> None:
        super().__init__(model, **facts)
        self.width = model.embed_dim
        self.widths = [self.width] * len(model.blocks)
        self.grid = model.patch_embed.grid_size
        self.patch_size = model.patch_embed.patch_size
        self.num_prefix_tokens = model.num_prefix_tokens

    def blocks(self, grid: tuple[int, int] | None = None) -> Sequence[Block]:
        return [(ViTBlock if ViTBlock.knows(block) else Block)(block, self.num_prefix_tokens) for block in self.model.blocks]

    def patchify(self, images: Tensor) -> Tensor:
        if tuple(images.shape[-2:]) != tuple(self.model.patch_embed.img_size):
            raise ValueError(
                f"images: {self.name} expects {'x'.join(map(str, self.model.patch_embed.img_size))} pixels, got "
                f"{'x'.join(map(str, images.shape[-2:]))}; resize them, or load the backbone with image_size="
            )
        x = self.model.patch_embed(images)
        return x.flatten(1, 2) if x.ndim == 4 else x

    def positions(self) -> Tensor:
        table = self.model.pos_embed
        rows, width = self.num_prefix_tokens, self.width
        if table is None:
            return self.model.patch_embed.proj.weight.new_zeros(1, rows + self.grid[0] * self.grid[1], width)
        if self.model.no_embed_class:
            return torch.cat([table.new_zeros(1, rows, width), table], dim=1)
        return table

    def embed(self, images: Tensor) -> Tensor:
        x = self.patchify(images)
        prefix = [token.expand(len(x), -1, -1) for token in (self.model.cls_token, self.model.reg_token) if token is not None]
        return self.model.norm_pre(torch.cat([*prefix, x], dim=1) + self.positions())
