"""What every block attends to: a recorder that puts an explicit softmax in the place of fused attention while it is open.

    with Recorder(model.backbone) as seen:
        logits = model(images)
    seen.attention[11].over_image("prefix")     # [B, heads, prefix tokens, patches] of the last of twelve blocks

It records what the model computes and nothing else: prompts whose outputs nobody reads ask nothing, and before a class-token readout
the last block's patches ask nothing. ``whole=True`` in :func:`promptvit.analysis.attend` makes every token ask.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from promptvit.analysis.altered import altered
from promptvit.backbones.base import Backbone, Block, reference_forced

Asking = Literal["prefix", "patches", "prompts"]
_SILENT = "attention: the patches asked nothing in this block; its readout is the class token (whole=True makes them ask)"


@dataclass(frozen=True)
class Attention:
    """What one block attended to in one forward.

    Attributes:
        probabilities: ``[B, windows, heads, Q, K]``; the last axis sums to one. Flat ViTs have one window. Keys are ``[prefix, patches,
            prompts]`` (of a window: its patches, then all prompts); queries are the first Q of the same order, as many as the model asked.
        prefix, prompts: how many of the keys stand in front of the patches, and how many are prompts.
        join: puts windows ``[B, windows * heads, A, C]`` together to the grid ``[B, N, heads * C]``; None for flat ViTs.
    """

    probabilities: Tensor
    prefix: int
    prompts: int
    join: Callable[[Tensor], Tensor] | None = None

    @property
    def tokens(self) -> int:
        """Keys that are no prompts: prefix and patches (of one window)."""
        return self.probabilities.shape[-1] - self.prompts

    @property
    def asked_by_prompts(self) -> bool:
        """Whether prompts had queries, so that their outputs were computed."""
        return self.prompts > 0 and self.probabilities.shape[-2] > self.tokens

    def over_image(self, asking: Asking) -> Tensor:
        """How the attention of some tokens lies over the image: ``[B, heads, asking tokens, N]``, patches in row-major order.

        The prefix or the prompts: a row each, whose sum is the share that went to patches. In windows a prompt asks in each of them, so
        its row sums to one for each. ``patches``: one row, the mean over the patches that asked, which is what every patch received.

        Raises:
            ValueError: there are no such tokens, or they asked nothing.
        """
        if asking == "prefix" and not self.prefix:
            raise ValueError("attention: this backbone has no class token or register; ask for 'patches' or 'prompts'")
        if asking == "prompts" and not self.asked_by_prompts:
            raise ValueError("attention: prompts asked nothing in this block; their outputs are not used (whole=True makes them ask)")
        first, last = {"prefix": (0, self.prefix), "patches": (self.prefix, self.tokens), "prompts": (self.tokens, None)}[asking]
        rows = self.probabilities[..., first:last, self.prefix : self.tokens]
        if not rows.shape[-2]:
            raise ValueError(_SILENT)
        if asking == "patches":
            rows = rows.mean(dim=-2, keepdim=True)
        return self.on_grid(rows.transpose(-2, -1)).transpose(-2, -1)

    def of_first(self, images: int) -> "Attention":
        """That of the first ``images`` rows: of SA2VP's two branches, the image's."""
        return replace(self, probabilities=self.probabilities[:images])

    def on_prompts(self) -> Tensor:
        """The share of each patch's attention that each prompt got: ``[B, heads, N, T]``.

        Raises:
            ValueError: the patches asked nothing.
        """
        rows = self.probabilities[..., self.prefix : self.tokens, self.tokens :]
        if not rows.shape[-2]:
            raise ValueError(_SILENT)
        return self.on_grid(rows)

    def on_grid(self, rows: Tensor) -> Tensor:
        """Something of every patch ``[B, windows, heads, patches of a window, C]`` as ``[B, heads, N, C]``, windows put together again."""
        if self.join is None:
            return rows.squeeze(1)
        return self.join(rows.flatten(1, 2)).unflatten(-1, (rows.shape[2], -1)).transpose(1, 2)


class Recorder:
    """A context in which the forwards of this thread through ``backbone`` run without gradient and leave their attention here.

    Attributes:
        attention: by block, of the last forward. SA2VP sends several branches at once: the image branch is the first B rows.

    Raises:
        ValueError: a block is a black box, whose attention cannot be seen, or ``reference_path`` is active, which makes all of them so.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.attention: dict[int, Attention] = {}
        self._open = ExitStack()

    def __enter__(self) -> "Recorder":
        for i, block in enumerate(self.backbone.blocks()):
            if not block.opened:
                kind = type(block.module).__name__
                raise ValueError(f"attention: block {i} of {self.backbone.name} ({kind}) is a black box; nothing in it can be recorded")
        if reference_forced():
            raise ValueError("attention: inside reference_path every block is a black box; record outside of it")
        self._open.enter_context(altered(self.backbone, self._watch))
        self._open.enter_context(torch.no_grad())
        return self

    def __exit__(self, *_error: object) -> None:
        self._open.close()

    def _watch(self, blocks: Sequence[Block], grid: tuple[int, int]) -> None:
        self.attention = {}
        for i, block in enumerate(blocks):
            self._replace(i, block, grid)

    def _replace(self, i: int, block: Any, grid: tuple[int, int]) -> None:
        heads, join = block.module.attn.num_heads, getattr(block, "join", None)
        tokens = block.prefix + math.prod(block.window or grid)

        def explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            probabilities = (logits if bias is None else logits + bias).softmax(dim=-1)
            self.attention[i] = Attention(probabilities.unflatten(1, (-1, heads)), block.prefix, k.shape[2] - tokens, join)
            return probabilities @ v

        block.softmax_attention = explicit
