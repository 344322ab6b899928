"""What a model sees of an image, and where it looks."""

from typing import NamedTuple

from PIL import Image
from torch import Tensor

from promptvit.analysis import Recorder, grid_at, readout_map
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
    weights, asked_by = readout_map(recorded.attention[last])
    return Look(weights[0].cpu().unflatten(0, grid_at(bank.backbone, last)), asked_by)
