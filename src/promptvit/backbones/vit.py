"""Any timm ``VisionTransformer``: layer scale, registers, qk-norm, class token or none, any patch and image size."""

from collections.abc import Sequence
from typing import Any, ClassVar

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
        self.pools_prefix = model.pool_include_prefix

    def blocks(self, grid: tuple[int, int] | None = None) -> Sequence[Block]:
        return [(ViTBlock if ViTBlock.knows(block) else Block)(block, self.num_prefix_tokens) for block in self.model.blocks]
