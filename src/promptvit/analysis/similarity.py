"""How alike prompts and patch tokens are, block by block: SPT's observation (ICML 2024, section 3) as two numbers.

SPT reports that normalised mutual information between prompts and patch tokens rises in training. Its exact estimator is not available
to us; ours reads the joint distribution off the block's own attention from prompts to patches.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from promptvit.analysis.recorder import Attention, Recorder
from promptvit.analysis.trace import trace
from promptvit.model import PromptedModel


@dataclass(frozen=True)
class Similarity:
    """Means over images, one number per block ``[L]``; NaN where there are no prompts, or nothing can be recorded."""

    nmi: Tensor
    cka: Tensor

    def rows(self) -> dict[str, list[float | None]]:
        """Both as plain numbers, with None for NaN."""
        named = {"nmi": self.nmi.tolist(), "cka": self.cka.tolist()}
        return {name: [value if math.isfinite(value) else None for value in row] for name, row in named.items()}


def similarity(
    model: PromptedModel, images: Tensor, *, batch_size: int = 4, watch: Callable[[dict[int, Attention]], None] = lambda _: None
) -> Similarity:
    """NMI and CKA between the prompts that enter each block and the patch tokens that enter it, on normalised ``images [B, 3, H, W]``.

    Args:
        watch: is given the attention of all blocks, every token asking, batch by batch, where it can be recorded: one pass serves both.
    """
    blocks = model.backbone.blocks()
    found: list[Tensor] = []
    for batch in images.split(batch_size):
        attention: dict[int, Attention] = {}
        if all(block.opened for block in blocks):
            with Recorder(model.backbone) as seen:
                steps = trace(model, batch)
            attention = {i: one.of_first(len(batch)) for i, one in seen.attention.items()}
            watch(attention)
        else:
            steps = trace(model, batch)
        numbers = torch.full((2, len(blocks)), torch.nan)
        for i, step in enumerate(steps):
            if step.prompts is not None:
                numbers[1, i] = cka(step.prompts, step.patches).mean()
            if i in attention and attention[i].asked_by_prompts:
                numbers[0, i] = nmi(attention[i].over_image("prompts").mean(dim=1)).mean()
        found.append(numbers * len(batch))
    means = torch.stack(found).sum(dim=0) / len(images)
    return Similarity(*means)


def nmi(attention: Tensor) -> Tensor:
    """Normalised mutual information ``[B]`` in 0..1 of prompts and patches, from attention ``[B, T, N]`` of prompts over patches.

    ``p(prompt) = 1/T``, ``p(patch | prompt)`` the attention, made to sum to one: ``I / sqrt(H(prompt) H(patch))``. 0: all prompts attend
    alike. NaN for a single prompt, which has no entropy.
    """
    given = attention / attention.sum(dim=-1, keepdim=True)
    marginal = given.mean(dim=1, keepdim=True)
    information = (torch.special.xlogy(given, given) - torch.special.xlogy(given, marginal)).sum(dim=-1).mean(dim=-1)
    entropy = -torch.special.xlogy(marginal, marginal).sum(dim=(-2, -1))
    return information / (math.log(attention.shape[1]) * entropy).sqrt() if attention.shape[1] > 1 else information * torch.nan


def cka(prompts: Tensor, patches: Tensor) -> Tensor:
    """Linear centred kernel alignment ``[B]`` in 0..1 of ``prompts [B, T, D]`` and ``patches [B, N, D]``, channels as the samples.

    ``|A^T B|^2 / (|A^T A| |B^T B|)`` in Frobenius norms, ``A [D, T]`` and ``B [D, N]`` centred over channels (Kornblith et al., 2019).
    1: both span the same directions of channel space with the same weights.
    """
    a, b = (t.double() - t.double().mean(dim=-1, keepdim=True) for t in (prompts, patches))
    across, own, other = (x @ y.transpose(-2, -1) for x, y in ((a, b), (a, a), (b, b)))
    return (across.square().sum((-2, -1)) / (own.norm(dim=(-2, -1)) * other.norm(dim=(-2, -1)))).float()
