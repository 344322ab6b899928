"""How SA2VP's two branches go through the frozen blocks of each backbone family, and what a fusion reads on the way."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from promptvit.backbones import base
from promptvit.backbones.base import Backbone
from promptvit.backbones.flat import FlatBlock

Heads = tuple[Tensor, Tensor, Tensor]


class Branches(Protocol):
    """What SA2VP asks of a family.

    Attributes:
        fused: the blocks where the branches exchange.
        width, grid, prefix: channels, patches as (rows, columns) and prefix tokens there.
        rows, channels: of the map that enters block 0.
        inserts: whether further maps are inserted unless an option says otherwise.
    """

    fused: list[int]
    width: int
    grid: tuple[int, int]
    prefix: int
    rows: int
    channels: int
    inserts: bool

    def __init__(self, backbone: Any) -> None: ...

    def start(self, backbone: Any, prompt_map: Tensor) -> Tensor:
        """The prompt branch that enters block 0, from the map ``[1, rows, channels]``."""

    def through(self, block: Any, branches: list[Tensor], reader: int | None, asking: int | None) -> tuple[list[Tensor], Heads | None]:
        """``block`` on each of ``branches`` (image, prompt, maybe an inserted map), and what its fusion reads.

        Args:
            reader: the branch that reads, 0 or 1; None: no fusion here.
            asking: only the first so many tokens leave the block; None: all.

        Returns:
            The branches' outputs; the reader's queries and the other branch's keys and values, each ``[B, heads, S, d]``.
        """

    def project(self, block: Any, joined: Tensor) -> Tensor:
        """The block's output projection of joined heads ``[B, S, D]``."""


def batches(branches: list[Tensor]) -> list[list[Tensor]]:
    """All branches in one batch; but an image branch that nothing trainable has touched yet needs no gradient and goes alone."""
    if branches[0].requires_grad or not torch.is_grad_enabled():
        return [branches]
    return [branches[:1], branches[1:]]


class FlatBranches:
    """Every block fuses. A fusion's norm and projections are those of the block's self-attention, which has computed them already."""

    inserts = True

    def __init__(self, backbone: Backbone) -> None:
        for i, block in enumerate(backbone.blocks()):
            if not isinstance(block, FlatBlock):
                kind = type(block.module).__name__
                raise ValueError(f"method: sa2vp must see into the attention; block {i} of {backbone.name} ({kind}) is a black box")
        self.fused = list(range(backbone.depth))
        self.width = self.channels = backbone.width
        self.grid, self.prefix = backbone.grid, backbone.num_prefix_tokens
        self.rows = self.prefix + self.grid[0] * self.grid[1]

    def start(self, backbone: Backbone, prompt_map: Tensor) -> Tensor:
        return prompt_map + backbone.positions()

    def through(
        self, block: FlatBlock, branches: list[Tensor], reader: int | None, asking: int | None
    ) -> tuple[list[Tensor], Heads | None]:
        assert reader is not None
        if base.reference_forced():
            return [block.run(s, None)[0] for s in branches], (block.qkv(branches[reader])[0], *block.qkv(branches[1 - reader])[1:])
        outputs: list[Tensor] = []
        heads: list[Heads] = []
        for group in batches(branches):
            sizes, s = [len(branch) for branch in group], torch.cat(group)
            q, k, v = block.qkv(s, queries=asking)
            outputs += block.finish(s[:, :asking], block.attend(q, k, v)).split(sizes)
            heads += zip(q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
        return outputs, (heads[reader][0], *heads[1 - reader][1:])

    def project(self, block: FlatBlock, joined: Tensor) -> Tensor:
        return block.project(joined)


class SwinBranches:
    """Only the deepest stage fuses (the third in every published Swin), on its full grid and not by windows.

    A fusion's norm has an epsilon of its own in the authors' code, so its projections differ from those of the self-attention.
    """

    inserts = False
    prefix = 0
    epsilon = 1e-6

    def __init__(self, backbone: Any) -> None:
        stage = max(backbone.stages, key=backbone.stages.count)
        self.fused = [i for i, s in enumerate(backbone.stages) if s == stage]
        self.width, self.grid = backbone.widths[self.fused[0]], backbone.blocks()[self.fused[0]].grid
        self.rows, self.channels = backbone.grid[0] * backbone.grid[1], backbone.widths[0]

    def start(self, backbone: Any, prompt_map: Tensor) -> Tensor:
        return backbone.model.patch_embed.norm(prompt_map)

    def through(self, block: Any, branches: list[Tensor], reader: int | None, asking: int | None) -> tuple[list[Tensor], Heads | None]:
        outputs: list[Tensor] = []
        for group in batches(branches):
            outputs += block.run(torch.cat(group), None, "tokens")[0].split([len(branch) for branch in group])
        if reader is None:
            return outputs, None
        (q,), (k, v) = self._heads(block, branches[reader], 0, 1), self._heads(block, branches[1 - reader], 1, 3)
        return outputs, (q, k, v)

    def _heads(self, block: Any, x: Tensor, start: int, end: int) -> tuple[Tensor, ...]:
        """Parts ``start`` to ``end`` of (queries, keys, values) of ``x [B, N, D]``: each ``[B, heads, N, d]``."""
        norm, qkv = block.module.norm1, block.module.attn.qkv
        rows = slice(start * block.width, end * block.width)
        n = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, self.epsilon)
        packed = F.linear(n, qkv.weight[rows], None if qkv.bias is None else qkv.bias[rows])
        return packed.unflatten(-1, (end - start, block.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def project(self, block: Any, joined: Tensor) -> Tensor:
        return block.module.attn.proj(joined)
