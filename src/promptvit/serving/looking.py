"""What a model sees of an image, and where it looks."""

from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from promptvit.analysis import Attention, Recorder, grid_at
from promptvit.preprocessing import Preprocessing, to_tensor
from promptvit.serving.bank import PromptBank

Box = tuple[float, float, float, float]


class Seen(NamedTuple):
    """A normalised image ``[3, H, W]``, and the left, top, right and bottom of what was cut out, in 0..1 of the whole."""

    pixels: Tensor
    box: Box


class Look(NamedTuple):
    """The readout's attention to each patch ``[rows, columns]``, mean over heads, and whose attention it is."""

    weights: Tensor
    asked_by: str


def seen(image: Image.Image, preprocessing: Preprocessing) -> Seen:
    """An RGB image as the model sees it."""
    resized = preprocessing.resized(image)
    cropped = preprocessing.cropped(resized)
    x, y = (1 - cropped.width / resized.width) / 2, (1 - cropped.height / resized.height) / 2
    return Seen(preprocessing.normalized(to_tensor(cropped)), (x, y, 1 - x, 1 - y))


def look(bank: PromptBank, image: Tensor, task: str) -> Look:
    """Where ``task`` looks in the normalised ``image [3, H, W]``: in the last block, the attention of the tokens that its readout averages.

    Raises:
        ValueError: the last block is a black box; see :class:`promptvit.analysis.Recorder`.
    """
    with Recorder(bank.backbone) as recorded:
        bank(image[None], [task])
    last = bank.backbone.depth - 1
    rows, asked_by = _asked(recorded.attention[last])
    return Look(rows.mean(dim=(0, 1)).cpu().unflatten(0, grid_at(bank.backbone, last)), asked_by)


def _asked(last: Attention) -> tuple[Tensor, str]:
    """Rows ``[heads, Q, N]`` of the tokens that asked, whose outputs are the readout; the last block computes no others."""
    if last.probabilities.shape[-2] == last.prefix:
        return last.over_image("prefix")[0, :, :1], "class token"
    patches = last.over_image("patches")[0]
    if not last.asked_by_prompts:
        return patches, "patches"
    return torch.cat([patches.expand(-1, patches.shape[-1], -1), last.over_image("prompts")[0]], dim=1), "patches and prompts"
