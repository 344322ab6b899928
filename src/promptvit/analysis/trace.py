"""What enters and leaves every block: the tokens and prompts that similarity and forgetting are measured on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from promptvit.analysis.altered import evaluating
from promptvit.backbones.base import per_image
from promptvit.model import PromptedModel


@dataclass(frozen=True)
class Step:
    """One block: patch tokens ``[B, N, D]`` and prompts ``[B, T, D]`` that entered it, and its output prompts; None without prompts."""

    patches: Tensor
    prompts: Tensor | None
    out: Tensor | None


@torch.no_grad()
def trace(model: PromptedModel, images: Tensor, keep: int | None = None) -> list[Step]:
    """Every block's inputs and output prompts on normalised ``images [B, 3, H, W]``, in evaluation mode.

    SA2VP's prompt branch counts as prompts.

    Args:
        keep: at most so many prompts, evenly chosen.
    """
    steps: list[Step] = []

    def chosen(prompts: Tensor | None) -> Tensor | None:
        if prompts is None:
            return None
        count = prompts.shape[-2]
        rows = range(count) if keep is None else sorted({i * count // keep for i in range(keep)})
        return per_image(prompts, len(images))[:, list(rows)]

    def observe(_i: int, x: Tensor, prompts: Tensor | None, _y: Tensor, out: Tensor | None) -> None:
        steps.append(Step(x[:, model.backbone.num_prefix_tokens :], chosen(prompts), chosen(out)))

    with evaluating(model):
        model.method(model.backbone, images, observe=observe)
    return steps
