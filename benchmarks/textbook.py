"""What our fast paths are compared with: the methods as their papers' text says, and the frozen backbone alone.

The textbook concatenates prompts, calls the frozen timm block on the whole sequence, and drops or mixes what comes out. It shares
weights with a :class:`PromptedModel`, so it also shows that both compute the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from promptvit.backbones.base import Backbone, Pass
from promptvit.methods.gapt import GaPT
from promptvit.methods.lspt import LSPT
from promptvit.methods.vpt import VPT
from promptvit.model import PromptedModel


def knows(model: PromptedModel) -> bool:
    """Whether there is a textbook version of this model's method."""
    return isinstance(model.method, (VPT, GaPT))


def logits(model: PromptedModel, images: Tensor) -> Tensor:
    """Logits ``[B, C]`` of a class-token readout, the textbook's way."""
    method: Any = model.method
    backbone: Any = model.backbone
    first = backbone.num_prefix_tokens
    x, p, state = backbone.embed(images), None, None
    for i, block in enumerate(backbone.model.blocks):
        if isinstance(method, VPT):
            p = method.block_prompts(i) if i in method.fresh else p
        elif p is None:
            p = method.prompts
        assert p is not None
        p = p.expand(len(x), -1, -1)
        joined = torch.cat([x[:, :first], p, x[:, first:]], dim=1)
        with tempered(block, method.temperature(i) if isinstance(method, GaPT) else None):
            joined = block(joined)
        x = torch.cat([joined[:, :first], joined[:, first + p.shape[1] :]], dim=1)
        out = joined[:, first : first + p.shape[1]]
        if isinstance(method, LSPT) and i < backbone.depth - 1:
            out = out + x[:, first:].mean(dim=1, keepdim=True)
            cell: Any = method.cell
            hidden, state = cell(out, state)
            out = out + hidden
        p = method.mix(i, out, p) if isinstance(method, GaPT) else out
    return model.head(backbone.model.norm(x)[:, 0])


@contextmanager
def tempered(block: Any, temperature: float | Tensor | None) -> Iterator[None]:
    """Divide the block's attention logits by ``temperature``, through its query norm."""
    if temperature is None:
        yield
        return
    handle = block.attn.q_norm.register_forward_hook(lambda _module, _inputs, queries: queries / temperature)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def unfused(backbone: Any) -> Iterator[None]:
    """timm's plain attention: scores and softmax as tensors of their own."""
    for block in backbone.model.blocks:
        block.attn.fused_attn = False
    try:
        yield
    finally:
        for block in backbone.model.blocks:
            block.attn.fused_attn = True


def plain(backbone: Backbone, images: Tensor, extra: int = 0) -> Tensor:
    """Features ``[B, D]`` of the frozen backbone with ``extra`` more tokens: the floor.

    Where gradients are on, they run back to the embedded tokens: a method's step cannot do with less than its activation backward.
    """
    step = Pass(backbone, images, "cls")
    x = step.tokens
    if extra:
        x = torch.cat([x, x.new_zeros(len(x), extra, x.shape[-1])], dim=1)
    x.requires_grad_(torch.is_grad_enabled())
    for i in range(step.depth):
        x, _ = step(i, x, None)
    return backbone.readout(x, None, "cls")


def extra_tokens(model: PromptedModel) -> int:
    """Tokens that the method adds to the sequence that flows from block to block. Prompts whose outputs are dropped add none."""
    method: Any = model.method
    flows = isinstance(method, GaPT) or (isinstance(method, VPT) and not method.config.deep)
    return method.config.num_prompts if flows else 0
