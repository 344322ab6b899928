"""timm's ``Eva``: EVA-02, DINOv3, Perception Encoder and other ViTs with rotary positions, registers, SwiGLU.

Rotary positions turn the patches' queries and keys. Prefix tokens and prompts have no position and are not turned.
"""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.layers import AttentionRope, RotaryEmbeddingCat, RotaryEmbeddingMixed, apply_rot_embed_cat
from timm.models.eva import Eva as TimmEva
from timm.models.eva import EvaAttention
from timm.models.eva import EvaBlock as TimmEvaBlock
from torch import Tensor, nn

from promptvit.backbones.base import Block, KeysValues
from promptvit.backbones.flat import FlatBackbone, FlatBlock


class RotaryBlock(Block):
    """Any Eva block, as a black box, bound to the rotations of one grid.

    Attributes:
        rope: sines, then cosines of the patches, ``[N, 2 d]`` or for each head ``[heads, N, 2 d]``; None without rotary positions.
    """

    module: Any

    def __init__(self, module: nn.Module, prefix: int, rope: Tensor | None) -> None:
        super().__init__(module, prefix)
        self.rope = rope

    def call(self, sequence: Tensor, prompts: int) -> Tensor:
        """The block turns all rows after the prefix, so prompts get the rotation by zero: sine 0, cosine 1."""
        rope = self.rope
        if rope is not None and prompts:
            half = (*rope.shape[:-2], prompts, rope.shape[-1] // 2)
            rope = torch.cat([torch.cat([rope.new_zeros(half), rope.new_ones(half)], dim=-1), rope], dim=-2)
        return self.module(sequence, rope=rope)


class EvaBlock(RotaryBlock, FlatBlock):
    """timm's pre-norm ``EvaBlock``; one packed projection, with or without biases for queries and values."""

    @staticmethod
    def knows(module: Any) -> bool:
        """Whether this view holds: pre-norm, no gate, no shared key and value heads, plain linear projections."""
        if type(module) is not TimmEvaBlock or type(module.attn) not in (EvaAttention, AttentionRope):
            return False
        attn = module.attn
        projections = (attn.q_proj, attn.k_proj, attn.v_proj) if attn.qkv is None else (attn.qkv,)
        return attn.gate is None and getattr(attn, "num_kv_groups", 1) == 1 and all(type(p) is nn.Linear for p in projections)

    def rotate(self, heads: Tensor) -> Tensor:
        if self.rope is None or heads.shape[2] <= self.prefix:
            return heads
        end = self.prefix + self.rope.shape[-2]
        turned = apply_rot_embed_cat(heads[:, :, self.prefix : end], self.rope, half=self.module.attn.rotate_half)
        return torch.cat([heads[:, :, : self.prefix], turned, heads[:, :, end:]], dim=2)

    def packed(self) -> tuple[Tensor, Tensor | None]:
        attn = self.module.attn
        if getattr(attn, "q_bias", None) is None:
            return super().packed()
        return attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])

    def finish(self, x: Tensor, a: Tensor) -> Tensor:
        block = self.module
        x = x + (a if block.gamma_1 is None else block.gamma_1 * a)
        m = block.mlp(block.norm2(x))
        return x + (m if block.gamma_2 is None else block.gamma_2 * m)


class UnpackedEvaBlock(EvaBlock):
    """The same with three separate projections."""

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._project_queries(x), *self._project_keys_values(x)

    def _project_queries(self, x: Tensor) -> Tensor:
        return self._heads(self.module.attn.q_proj(x), 1)[0]

    def _project_keys_values(self, x: Tensor) -> KeysValues:
        attn = self.module.attn
        return self._heads(attn.k_proj(x), 1)[0], self._heads(attn.v_proj(x), 1)[0]


class Eva(FlatBackbone):
    """A timm ``Eva`` without its classifier."""

    family: ClassVar[str] = "eva"
    rope: Tensor | None

    def __init__(self, model: TimmEva, **facts: Any) -> None:
        super().__init__(model, **facts)
        # rotations by fixed frequencies are computed once; learned frequencies are weights, which "full" may change
        fixed = model.rope is not None and not isinstance(model.rope, RotaryEmbeddingMixed)
        self.register_buffer("rope", rotations(model.rope, self.grid) if fixed else None, persistent=False)

    def blocks(self, grid: tuple[int, int] | None = None) -> Sequence[Block]:
        own = grid is None or tuple(grid) == tuple(self.grid)
        rope = self.rope
        if self.model.rope is not None and (rope is None or not own):
            rope = rotations(self.model.rope, self.grid if grid is None else grid)
        ropes = rope if rope is not None and self.model.rope_mixed else [rope] * self.depth
        return [_view(block)(block, self.num_prefix_tokens, ropes[i]) for i, block in enumerate(self.model.blocks)]


def _view(module: Any) -> type[RotaryBlock]:
    if not EvaBlock.knows(module):
        return RotaryBlock
    return UnpackedEvaBlock if module.attn.qkv is None else EvaBlock


def rotations(rope: Any, grid: tuple[int, int]) -> Tensor:
    """Sines and cosines of a timm rotary embedding for ``grid`` patches: ``[N, 2 d]``; learned: ``[depth, heads, N, 2 d]``."""
    if isinstance(rope, RotaryEmbeddingCat) and rope.feat_shape is not None and tuple(rope.feat_shape) != tuple(grid):
        rope = copy.deepcopy(rope)  # a cached table ignores the shape asked for
        rope.update_feat_shape(grid)
    return rope.get_embed(shape=grid)
