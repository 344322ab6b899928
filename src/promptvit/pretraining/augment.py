"""Random views of images on tensors, a batch at once: crop, flip, colour, grey, blur."""

import math

import torch
from torch import Tensor, nn

from promptvit.data.proc.dice import Dice


def view(images: Tensor, dice: Dice, smallest_crop: float) -> Tensor:
    """One random view of every image.

    Args:
        images: ``[B, 3, S, S]`` in [0, 1].
        dice: all randomness, for these rows.
        smallest_crop: least area of a crop, as a share of the image's.

    Returns:
        ``[B, 3, S, S]`` in [0, 1].
    """
    images = _jitter(_crop(images, dice, smallest_crop), dice)
    grey = dice.chance(0.2, 1, 1, 1)
    images = torch.where(grey, images.mean(dim=1, keepdim=True), images)
    strength = dice.uniform(0, 1, 1, 1, 1) * dice.chance(0.5, 1, 1, 1)
    blurred = nn.functional.avg_pool2d(nn.functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return images + strength * (blurred - images)


def _crop(images: Tensor, dice: Dice, smallest: float) -> Tensor:
    """A window of random area, aspect (3:4 to 4:3) and place, stretched to the whole; half of them mirrored."""
    area = dice.uniform(smallest, 1)
    aspect = dice.uniform(math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = (area * aspect).sqrt().clamp_max(1), (area / aspect).sqrt().clamp_max(1)
    x, y = ((1 - side) * dice.uniform(-1, 1) for side in (width, height))
    width = torch.where(dice.chance(0.5), width, -width)
    zero = torch.zeros_like(x)
    windows = torch.stack([torch.stack([width, zero, x], dim=-1), torch.stack([zero, height, y], dim=-1)], dim=1)
    grid = nn.functional.affine_grid(windows, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _jitter(images: Tensor, dice: Dice) -> Tensor:
    """Brightness and contrast by up to 40 %, saturation by 20 %, hue by 36 degrees; four images in five."""
    brightness, contrast, saturation = (dice.uniform(1 - by, 1 + by, 1, 1, 1) for by in (0.4, 0.4, 0.2))
    turned = torch.einsum("bij,bjhw->bihw", _hue_rotation(dice.uniform(-0.2 * math.pi, 0.2 * math.pi)), images)
    changed = turned * brightness
    mean = changed.mean(dim=(1, 2, 3), keepdim=True)
    changed = mean + contrast * (changed - mean)
    grey = changed.mean(dim=1, keepdim=True)
    changed = (grey + saturation * (changed - grey)).clamp(0, 1)
    return torch.where(dice.chance(0.8, 1, 1, 1), changed, images)


def _hue_rotation(angle: Tensor) -> Tensor:
    """Rotations of colour space about the grey axis by ``angle [B]``: ``[B, 3, 3]``."""
    axis = angle.new_full((3, 3), 1 / 3)
    turn = angle.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * torch.eye(3, device=angle.device) + (1 - cos) * axis + sin * turn
