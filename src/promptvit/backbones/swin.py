"""timm's ``SwinTransformer``: stages of shrinking grids, attention inside windows.

Prompts join every window as further tokens without position or mask; what leaves a block for them is the mean over the windows.
The windows of an image see its own prompts only (VPT's code mixes them across the batch, see ``docs/parity.md``).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.models.swin_transformer import SwinTransformer, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

from promptvit.backbones import base
from promptvit.backbones.base import Backbone, Block, KeysValues, Want, broadcast, per_image


class SwinBlock(Block):
    """timm's ``SwinTransformerBlock`` on tokens ``[B, N, D]`` in row-major order of its grid.

    ``finish(x, attend(*qkv(x)))`` is the block without prompts; queries, keys and values lie on the full grid and :meth:`attend`
    cuts them into windows.
    """

    opened = True
    module: Any

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, prefix=0)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return int(self.module.dim)

    @property
    def heads(self) -> int:
        """Attention heads."""
        return int(self.module.attn.num_heads)

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens as (rows, columns)."""
        rows, columns = self.module.input_resolution
        return rows, columns

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of a window; timm cuts it to the grid."""
        rows, columns = self.module.window_size
        return rows, columns

    @property
    def shift(self) -> tuple[int, int]:
        """How far the grid is rolled before it is cut into windows."""
        rows, columns = self.module.shift_size
        return rows, columns

    @property
    def windows(self) -> tuple[int, int]:
        """Windows as (rows, columns); the last ones may hang over the grid's edge."""
        return -(-self.grid[0] // self.window[0]), -(-self.grid[1] // self.window[1])

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Norm and projections of any tokens ``x [B, S, D]``: each ``[B, heads, S, d]``."""
        q, k, v = self.module.attn.qkv(self.module.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def keys_values(self, prompts: Tensor) -> KeysValues:
        _, k, v = self.qkv(per_image(prompts, 1))
        return k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """Attention inside windows of ``q, k, v [B, heads, N, d]``, heads joined, output projection: ``[B, N, D]``."""
        return self.module.attn.proj(self.join(self._attention(*self._cut_all(q, k, v), 0, 0, temperature)))

    def finish(self, x: Tensor, a: Tensor) -> Tensor:
        """Residual and MLP: the block's output from its input ``x`` and attention ``a``."""
        x = x + a
        return x + self.module.mlp(self.module.norm2(x))

    def run(
        self, x: Tensor, prompts: Tensor | None, want: Want = "all", temperature: float | Tensor = 1.0, prompt_kv: KeysValues | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """See :meth:`Block.run`. Prompts whose outputs nobody reads are keys and values only."""
        if base.reference_forced():
            return self.run_black_box(x, prompts, want, temperature)
        if prompts is None:
            return self.finish(x, self.attend(*self.qkv(x), temperature)), None
        q, k, v = self._cut_all(*self.qkv(x))
        prompts = prompts.to(x.dtype)
        count, asking, area = prompts.shape[-2], 0, q.shape[2]
        if want == "all":
            asking = count
            pq, *kv = self.qkv(per_image(prompts, 1))
            q = torch.cat([q, self._in_every_window(pq, len(x))], dim=2)
        else:
            kv = list(prompt_kv or self.keys_values(prompts))
        k, v = (torch.cat([t, self._in_every_window(p, len(x))], dim=2) for t, p in zip((k, v), kv, strict=True))
        a = self._attention(q, k, v, count, asking, temperature)
        y = self.finish(x, self.module.attn.proj(self.join(a[:, :, :area])))
        if not asking:
            return y, None
        # [B, windows * heads, T, d]; the projection is linear, so the mean over windows comes before it
        mean = a[:, :, area:].unflatten(1, (-1, self.heads)).mean(dim=1).transpose(1, 2).flatten(2)
        return y, self.finish(per_image(prompts, len(x)), self.module.attn.proj(mean))

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, prompts: int, asking: int, temperature: float | Tensor) -> Tensor:
        """Attention of ``[B, windows * heads, S, d]``, where ``prompts`` keys and ``asking`` queries stand after a window's own."""
        if isinstance(temperature, Tensor) or temperature != 1.0:
            q = q / broadcast(temperature, q)
        bias = F.pad(self._bias(), (0, prompts, 0, asking)).to(q.dtype)
        return self.softmax_attention(q, k, v, bias)

    def _bias(self) -> Tensor:
        """Relative position bias and shift mask ``[1, windows * heads, A, A]`` for the ``A`` tokens of each window."""
        attn = self.module.attn
        area = attn.window_area
        bias = attn.relative_position_bias_table[attn.relative_position_index.flatten()].view(area, area, -1).permute(2, 0, 1)
        mask = self._mask()
        if mask is not None:
            return (bias + mask[:, None]).flatten(0, 1)[None]
        return bias.repeat(self.windows[0] * self.windows[1], 1, 1)[None]

    def _mask(self) -> Tensor | None:
        """The shift mask ``[windows, A, A]``: tokens that the roll brought together do not see each other."""
        if self.module.dynamic_mask:
            weight = self.module.norm1.weight
            return self.module.get_attn_mask(device=weight.device, dtype=weight.dtype)
        return self.module.attn_mask

    def _cut_all(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``[B, heads, N, d]`` of the grid, in windows."""
        bias = self.module.attn.qkv.bias
        # rows beyond the grid's edge are zeros before the projection, as in timm: only its bias is left of them
        fills = q.new_zeros(3, self.heads, q.shape[-1]) if bias is None else bias.to(q.dtype).view(3, self.heads, -1)
        return self._cut(q, fills[0]), self._cut(k, fills[1]), self._cut(v, fills[2])

    def _cut(self, t: Tensor, fill: Tensor) -> Tensor:
        """``[B, heads, N, d]`` of the grid to ``[B, windows * heads, A, d]``."""
        (rows, columns), (high, wide) = self.grid, self.window
        t = t.unflatten(2, (rows, columns))
        if any(self.shift):
            t = t.roll((-self.shift[0], -self.shift[1]), dims=(2, 3))
        if columns % wide:
            t = torch.cat([t, fill[:, None, None].expand(*t.shape[:3], -columns % wide, -1)], dim=3)
        if rows % high:
            t = torch.cat([t, fill[:, None, None].expand(*t.shape[:2], -rows % high, t.shape[3], -1)], dim=2)
        t = t.unflatten(3, (-1, wide)).unflatten(2, (-1, high))  # [B, heads, down, high, across, wide, d]
        return t.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(1, 3)

    def join(self, windows: Tensor) -> Tensor:
        """``[B, windows * heads, A, d]`` back to the grid, heads joined: ``[B, N, D]``."""
        t = windows.unflatten(2, self.window).unflatten(1, (*self.windows, self.heads))  # [B, down, across, heads, high, wide, d]
        t = t.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4).flatten(1, 2)[:, : self.grid[0], : self.grid[1]]
        if any(self.shift):
            t = t.roll(self.shift, dims=(1, 2))
        return t.flatten(1, 2)

    def _in_every_window(self, t: Tensor, batch: int) -> Tensor:
        """Prompts' ``[1 or B, heads, T, d]`` for the windows of all images: ``[B, windows * heads, T, d]``."""
        return t[:, None].expand(batch, self.windows[0] * self.windows[1], -1, -1, -1).flatten(1, 2)

    def run_black_box(
        self, x: Tensor, prompts: Tensor | None, want: Want, temperature: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The yardstick: one sequence ``[prompts, tokens]`` for each window, timm's partition, a plain softmax."""
        block, attn = self.module, self.module.attn
        batch, (rows, columns), (high, wide) = len(x), self.grid, self.window
        p = x.new_zeros(batch, 0, self.width) if prompts is None else per_image(prompts, batch).to(x.dtype)
        count = p.shape[1]
        n = block.norm1(x).view(batch, rows, columns, -1).roll((-self.shift[0], -self.shift[1]), dims=(1, 2))
        n = F.pad(n, (0, 0, 0, -columns % wide, 0, -rows % high))
        height, width = n.shape[1:3]
        tokens = window_partition(n, (high, wide)).view(batch, -1, high * wide, self.width)
        sequence = torch.cat([block.norm1(p)[:, None].expand(-1, tokens.shape[1], -1, -1), tokens], dim=2)
        q, k, v = attn.qkv(sequence).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)  # [B, windows, heads, S, d]
        logits = q @ k.transpose(-2, -1) * attn.scale
        if isinstance(temperature, Tensor) or temperature != 1.0:
            logits = logits / broadcast(temperature, logits)
        bias = attn.relative_position_bias_table[attn.relative_position_index].permute(2, 0, 1)
        mask = self._mask()
        logits = logits + F.pad(bias if mask is None else bias + mask[:, None], (count, 0, count, 0))
        a = attn.proj((logits.softmax(dim=-1) @ v).transpose(2, 3).flatten(3))
        image = window_reverse(a[:, :, count:].reshape(-1, high, wide, self.width), (high, wide), height, width)
        image = image[:, :rows, :columns].roll(self.shift, dims=(1, 2)).flatten(1, 2)
        y, out = (t + block.mlp(block.norm2(t)) for t in (x + image, p + a[:, :, :count].mean(dim=1)))
        return y, out if count and want == "all" else None


class Swin(Backbone):
    """A timm ``SwinTransformer`` without its classifier. It has no prefix tokens and no absolute positions."""

    family: ClassVar[str] = "swin"

    def __init__(self, model: SwinTransformer, **facts: Any) -> None:
        super().__init__(model, **facts)
        self.width = model.num_features
        self.widths = [block.dim for stage in model.layers for block in stage.blocks]
        self.stages = [s for s, stage in enumerate(model.layers) for _ in stage.blocks]
        self.grid = model.patch_embed.grid_size
        self.patch_size = model.patch_embed.patch_size
        self.num_prefix_tokens = 0

    def block_name(self, i: int) -> str:
        return f"layers.{self.stages[i]}.blocks.{i - self.stages.index(self.stages[i])}"

    def default_pool(self, prompted: bool) -> str:
        """The loaded choice, or the mean over all tokens of the last stage, prompts included."""
        return self.pool or ("patches+prompts" if prompted else "mean")

    def blocks(self, grid: tuple[int, int] | None = None) -> Sequence[SwinBlock]:
        """Views of all blocks. Their grids and windows belong to the weights' image size: another ``grid`` needs ``image_size``."""
        if grid is not None and tuple(grid) != tuple(self.grid):
            raise ValueError(f"grid: {self.name} has windows for {self.grid} patches, got {grid}; load it with image_size=")
        return [SwinBlock(block) for stage in self.model.layers for block in stage.blocks]

    def positions(self) -> Tensor:
        return self.model.norm.weight.new_zeros(1, self.grid[0] * self.grid[1], self.widths[0])

    def embed(self, images: Tensor, any_size: bool = False) -> Tensor:
        return self.patchify(images, any_size)

    def merge(self, i: int, x: Tensor, prompts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Where a stage starts: each 2 x 2 tokens become one; a prompt stands in for all four of them.

        Prompts that have the new stage's width already are fresh ones and stay as they are.
        """
        stage = self.model.layers[self.stages[i]]
        if i == 0 or self.stages[i] == self.stages[i - 1]:
            return x, prompts
        merging = stage.downsample
        if prompts is not None and prompts.shape[-1] != self.widths[i]:
            prompts = merging.reduction(merging.norm(torch.cat([prompts] * 4, dim=-1)))
        return merging(x.unflatten(1, tuple(stage.input_resolution))).flatten(1, 2), prompts

    def needs(self, pool: str) -> Want:
        return "all" if "prompts" in self._rows(pool) else "tokens"

    def readout(self, x: Tensor, prompts: Tensor | None, pool: str, norm: nn.Module | None = None) -> Tensor:
        """Features ``[B, D]``: the final norm, then the mean of patches, of prompts, or of both.

        The norm always comes first, as in timm's head and in VPT, so ``norm+mean`` is ``mean``. There is no class token (``cls``)
        and no attention pooling (``map``).
        """
        rows = self._rows(pool)
        if rows == "prompts" and prompts is None:
            raise ValueError("pool: 'prompts' needs a method with prompts in the last block; use mean or patches+prompts")
        kept = [] if rows == "prompts" else [x]
        if prompts is not None and "prompts" in rows:
            kept.append(prompts)
        return (norm or self.model.norm)(torch.cat(kept, dim=1)).mean(dim=1)

    def _rows(self, pool: str) -> str:
        """Which rows ``pool`` averages."""
        if pool in ("cls", "map"):
            what = "class token" if pool == "cls" else "attention pooling"
            raise ValueError(f"pool: {self.name} has no {what}; use mean, prompts or patches+prompts")
        return pool.removeprefix("norm+")
