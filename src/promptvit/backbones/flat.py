"""What flat ViTs share (one grid, one width, prefix tokens): the opened block's fast path and the readout."""

from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from promptvit.backbones import base
from promptvit.backbones.base import Backbone, Block, KeysValues, Want, broadcast, per_image


class FlatBlock(Block):
    """A pre-norm block ``x + Attn(LN(x))``, ``x + MLP(LN(x))`` whose attention we know."""

    opened = True
    module: Any

    @property
    def width(self) -> int:
        """Channels of a token."""
        return int(self.module.norm1.weight.shape[0])

    def qkv(self, x: Tensor, positions: bool = True, queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Norm, projections and qk-norm of ``x [B, S, D]``: each ``[B, heads, S, d]``.

        Args:
            positions: ``x`` starts with the backbone's prefix and patches; rotary blocks rotate those and nothing after them.
            queries: only the first so many tokens ask; None lets all of them ask and projects everything at once.
        """
        x = self.module.norm1(x)
        if queries is None:
            q, k, v = self._project(x)
        else:
            q, (k, v) = self._project_queries(x[:, :queries]), self._project_keys_values(x)
        q, k = self.module.attn.q_norm(q), self.module.attn.k_norm(k)
        return (self.rotate(q), self.rotate(k), v) if positions else (q, k, v)

    def keys_values(self, prompts: Tensor) -> KeysValues:
        k, v = self._project_keys_values(self.module.norm1(per_image(prompts, 1)))
        return self.module.attn.k_norm(k), v

    def rotate(self, heads: Tensor) -> Tensor:
        """Rotary positions of ``heads [B, heads, S, d]``; nothing for blocks without."""
        return heads

    def attend(self, q: Tensor, k: Tensor, v: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """Attention of ``q [B, heads, S, d]`` over keys and values, heads joined, output projection: ``[B, S, D]``."""
        if isinstance(temperature, Tensor) or temperature != 1.0:
            q = q / broadcast(temperature, q)
        a = self.softmax_attention(q, k, v)
        return self.project(a.transpose(1, 2).flatten(2))

    def project(self, joined: Tensor) -> Tensor:
        """Output projection of joined heads ``[B, S, D]``."""
        return self.module.attn.proj(self.module.attn.norm(joined))

    def finish(self, x: Tensor, a: Tensor) -> Tensor:
        """Layer scale, residual and MLP: the block's output from its input ``x`` and attention ``a``."""
        raise NotImplementedError

    def run(
        self, x: Tensor, prompts: Tensor | None, want: Want = "all", temperature: float | Tensor = 1.0, prompt_kv: KeysValues | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """See :meth:`Block.run`. Prompts whose outputs nobody reads are keys and values only."""
        if base.reference_forced():
            return self.run_black_box(x, prompts, want, temperature)
        batch, tokens = x.shape[:2]
        if want == "all" and prompts is not None:
            s = torch.cat([x, per_image(prompts, batch).to(x.dtype)], dim=1)
            s = self.finish(s, self.attend(*self.qkv(s), temperature))
            return s[:, :tokens], s[:, tokens:]
        asking = self.prefix if want == "prefix" else tokens
        if prompts is None:
            q, k, v = self.qkv(x, queries=None if want != "prefix" else asking)
        else:
            q, k, v = self.qkv(x, queries=asking)
            pk, pv = prompt_kv or self.keys_values(prompts.to(x.dtype))
            k = torch.cat([k, pk.expand(batch, -1, -1, -1)], dim=2)
            v = torch.cat([v, pv.expand(batch, -1, -1, -1)], dim=2)
        return self.finish(x[:, :asking], self.attend(q, k, v, temperature)), None

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = self.packed()
        q, k, v = self._heads(F.linear(x, weight, bias), 3)
        return q, k, v

    def _project_queries(self, x: Tensor) -> Tensor:
        weight, bias = self.packed()
        width = len(weight) // 3
        return self._heads(F.linear(x, weight[:width], None if bias is None else bias[:width]), 1)[0]

    def _project_keys_values(self, x: Tensor) -> KeysValues:
        weight, bias = self.packed()
        width = len(weight) // 3
        k, v = self._heads(F.linear(x, weight[width:], None if bias is None else bias[width:]), 2)
        return k, v

    def _heads(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        """``[B, S, parts * heads * d]`` to ``parts`` tensors ``[B, heads, S, d]``."""
        batch, tokens, _ = packed.shape
        return packed.view(batch, tokens, parts, self.module.attn.num_heads, self.module.attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)

    def packed(self) -> tuple[Tensor, Tensor | None]:
        """Weight ``[3 D, D]`` and bias of the query, key and value projections, in that order."""
        return self.module.attn.qkv.weight, self.module.attn.qkv.bias


class FlatBackbone(Backbone):
    """A sequence ``[prefix, patches]`` from start to end: the tokens that enter block 0, and the readout.

    Attributes:
        pools_prefix: the model's attention pooling (``map``) also reads the prefix.
    """

    pools_prefix: bool = True

    def __init__(self, model: Any, **facts: Any) -> None:
        super().__init__(model, **facts)
        self.width = model.embed_dim
        self.widths = [self.width] * len(model.blocks)
        self.grid = model.patch_embed.grid_size
        self.patch_size = model.patch_embed.patch_size
        self.num_prefix_tokens = model.num_prefix_tokens
        model.patch_embed.strict_img_size = False  # ``patchify`` says which sizes it takes

    def positions(self, grid: tuple[int, int] | None = None) -> Tensor:
        """Absolute positions ``[1, P+N, D]``; for another ``grid`` than the backbone's own interpolated as timm does (bicubic)."""
        grid, table = grid or self.grid, self.model.pos_embed
        rows, width = self.num_prefix_tokens, self.width
        if table is None:
            return self.model.patch_embed.proj.weight.new_zeros(1, rows + grid[0] * grid[1], width)
        bare = self.model.no_embed_class
        if tuple(grid) != tuple(self.grid):
            table = resample_abs_pos_embed(table, new_size=list(grid), old_size=list(self.grid), num_prefix_tokens=0 if bare else rows)
        return torch.cat([table.new_zeros(1, rows, width), table], dim=1) if bare else table

    def embed(self, images: Tensor, any_size: bool = False) -> Tensor:
        x = self.patchify(images, any_size)
        prefix = [token.expand(len(x), -1, -1) for token in (self.model.cls_token, self.model.reg_token) if token is not None]
        return self.model.norm_pre(torch.cat([*prefix, x], dim=1) + self.positions(self.grid_of(images)))

    def final_norm(self) -> nn.Module:
        """The norm that acts on tokens: ``norm``, or ``fc_norm`` where the model has only that."""
        return self.model.norm if not isinstance(self.model.norm, nn.Identity) else self.model.fc_norm

    def pooled_norm(self) -> nn.Module:
        """The norm that acts on a mean of tokens: ``fc_norm``, or ``norm`` where the model has only that."""
        return self.model.fc_norm if not isinstance(self.model.fc_norm, nn.Identity) else self.model.norm

    def needs(self, pool: str) -> Want:
        if pool == "cls":
            return "prefix"
        return "all" if "prompts" in pool else "tokens"

    def readout(self, x: Tensor, prompts: Tensor | None, pool: str, norm: nn.Module | None = None) -> Tensor:
        """Features ``[B, D]``.

        ``cls``: the norm, then row 0. ``mean``, ``prompts``, ``patches+prompts``: the mean of those rows, then the norm; with
        ``norm+`` in front, the norm comes first (VPT's pooling variants on supervised ViTs). ``map``: the model's own attention
        pooling.
        """
        if pool == "cls":
            if not self.has_class_token:
                raise ValueError(f"pool: {self.name} has no class token; use mean, prompts or patches+prompts")
            return (norm or self.final_norm())(x[:, 0])
        if pool == "map":
            if self.model.attn_pool is None:
                raise ValueError(f"pool: {self.name} has no attention pooling; use cls, mean, prompts or patches+prompts")
            tokens = self.final_norm()(x)
            return self.model.fc_norm(self.model.attn_pool(tokens if self.pools_prefix else tokens[:, self.num_prefix_tokens :]))
        rows = pool.removeprefix("norm+")
        if rows == "prompts":
            if prompts is None:
                raise ValueError("pool: 'prompts' needs a method with prompts in the last block; use cls, mean or patches+prompts")
            kept = prompts
        else:
            kept = x[:, self.num_prefix_tokens :]
            if rows == "patches+prompts" and prompts is not None:
                kept = torch.cat([kept, prompts], dim=1)
        if pool.startswith("norm+"):
            return (norm or self.final_norm())(kept).mean(dim=1)
        return (norm or self.pooled_norm())(kept.mean(dim=1))

    @property
    def has_class_token(self) -> bool:
        """Whether row 0 is a class token."""
        return self.model.cls_token is not None

    def default_pool(self, prompted: bool) -> str:
        if self.pool is None and not self.has_class_token and not self.is_mae:
            return "map" if self.model.attn_pool is not None else "mean"
        return super().default_pool(prompted)
