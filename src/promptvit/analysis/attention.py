"""Where a model looks: attention over the image by block and head, how much of it prompts get, and attention rollout."""

import torch
from torch import Tensor

from promptvit.analysis.altered import evaluating
from promptvit.analysis.recorder import Asking, Attention, Recorder
from promptvit.backbones.base import Backbone
from promptvit.model import PromptedModel


def attend(model: PromptedModel, images: Tensor, *, whole: bool = False) -> dict[int, Attention]:
    """The attention of every block on normalised ``images [B, 3, H, W]`` in evaluation mode, of the image branch where there are two.

    Args:
        whole: every token asks, also where the model would not compute it; what the others attend to stays the same.

    Raises:
        ValueError: a block is a black box.
    """
    with evaluating(model), Recorder(model.backbone) as seen:
        model.method(model.backbone, images, observe=(lambda *_: None) if whole else None)
    return {i: attention.of_first(len(images)) for i, attention in seen.attention.items()}


def grid_at(backbone: Backbone, i: int) -> tuple[int, int]:
    """Patches inside block ``i`` as (rows, columns); Swin's stages have grids of their own."""
    rows, columns = getattr(backbone.blocks()[i], "grid", backbone.grid)
    return rows, columns


def looker(model: PromptedModel) -> Asking:
    """Whose view of the image counts: the class token's where the readout is one, else that of all patches."""
    return "prefix" if model.method.pool == "cls" else "patches"


def head_maps(attention: Attention, asking: Asking) -> Tensor:
    """How some tokens' attention lies over the image in each head: ``[B, heads, N]``, each summing to one.

    ``prefix`` takes the class token (row 0); prompts are averaged.
    """
    rows = attention.over_image(asking)
    rows = rows[:, :, 0] if asking == "prefix" else rows.mean(dim=2)
    return rows / rows.sum(dim=-1, keepdim=True)


def readout_map(last: Attention) -> tuple[Tensor, str]:
    """How the readout's attention in the last block lies over the image, ``[B, N]``, mean over heads, and whose attention it is.

    It is that of the tokens whose outputs are averaged; the last block computes no others. A row's sum is the share that went to patches.
    """
    if last.probabilities.shape[-2] == last.prefix:
        return last.over_image("prefix")[:, :, 0].mean(dim=1), "class token"
    patches = last.over_image("patches")
    if not last.asked_by_prompts:
        return patches[:, :, 0].mean(dim=1), "patches"
    every_patch = patches.expand(-1, -1, patches.shape[-1], -1)
    return torch.cat([every_patch, last.over_image("prompts")], dim=2).mean(dim=(1, 2)), "patches and prompts"


def prompt_share(attention: Attention, asking: Asking) -> Tensor:
    """Share of the class token's (``prefix``) or of all patches' attention that goes to prompts, in each head: ``[B, heads]``.

    Raises:
        ValueError: there is no class token, the patches asked nothing, or ``prompts`` are asked about.
    """
    if asking == "patches":
        return attention.on_prompts().sum(dim=-1).mean(dim=-1)
    if asking != "prefix" or not attention.prefix:
        raise ValueError(f"asking: expected 'patches', or 'prefix' where there is a class token, got {asking!r}")
    return attention.probabilities[:, 0, :, 0, attention.tokens :].sum(dim=-1)


@torch.no_grad()
def rollout(model: PromptedModel, images: Tensor) -> Tensor:
    """Attention rollout ``[B, N]``: how much each patch of the image reaches the readout through all blocks, heads averaged.

    ``R_l = (A_l R_{l-1} + R_{l-1}) / 2`` from the patches themselves (Abnar & Zuidema, 2020); rows are read at the class token, or
    averaged over patches where the readout is a mean. Prompts that flow carry what they have read; fresh prompts know nothing of the
    image, so what goes to them is lost, and a row sums to less than one. Gates, codings and SA2VP's map are left out.

    Raises:
        ValueError: blocks with windows, or a black box.
    """
    backbone = model.backbone
    recorded = attend(model, images)
    prefix, patches = backbone.num_prefix_tokens, backbone.grid_of(images)[0] * backbone.grid_of(images)[1]
    if any(a.join is not None for a in recorded.values()):
        raise ValueError(f"rollout: {backbone.name} attends inside windows; look at single blocks instead")
    reached = torch.cat([images.new_zeros(prefix, patches), torch.eye(patches).to(images)]).expand(len(images), -1, -1)
    carried = images.new_zeros(len(images), 0, patches)
    for i in range(backbone.depth):
        a = recorded[i]
        if carried.shape[1] != a.prompts:
            carried = images.new_zeros(len(images), a.prompts, patches)
        weights = a.probabilities[:, 0].mean(dim=1)
        before = torch.cat([reached, carried], dim=1)
        after = (weights @ before + before[:, : weights.shape[1]]) / 2
        reached = after[:, : prefix + patches]
        carried = after[:, a.tokens :] if a.asked_by_prompts else images.new_zeros(len(images), 0, patches)
    return reached[:, 0] if looker(model) == "prefix" else reached[:, prefix:].mean(dim=1)
