"""Training augmentation: what part of an image is seen, and whether it is mirrored.

``none``       the centre, as in evaluation
``crop``       a random window of the resized image; one that is exactly as large as the window is first extended by an eighth
               of its edge pixels on every side, so that it can shift
``crop-flip``  the same, mirrored half of the time
``rrc-flip``   a random window of 8 to 100 % of the original image with sides from 3:4 to 4:3, scaled (bicubic), mirrored half of
               the time. It needs the original, so images are decoded again in every epoch.

A policy turns one row of uniform numbers into one picture; the row is a function of (seed, epoch, index).
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from promptvit.data.seeding import Purpose, generator
from promptvit.preprocessing import Preprocessing

POLICIES = ("none", "crop", "crop-flip", "rrc-flip")
TRIES = 10  # windows tried before the centre is taken instead
_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def draws(policy: str, count: int, data_seed: int, epoch: int) -> np.ndarray:
    """Uniform numbers for every image of an epoch, ``[count, k]``: top, left, mirrored, then areas and shapes of windows."""
    columns = {"none": 0, "crop": 3, "crop-flip": 3, "rrc-flip": 3 + 2 * TRIES}[policy]
    return generator(data_seed, Purpose.AUGMENT, epoch).random((count, columns))


def centre(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut ``size`` (height, width) out of the centre of ``[3, h, w]``."""
    top, left = ((have - want) // 2 for have, want in zip(pixels.shape[1:], size, strict=True))
    return pixels[:, top : top + size[0], left : left + size[1]]


def random_crop(pixels: np.ndarray, size: tuple[int, int], row: np.ndarray, flip: bool) -> np.ndarray:
    """A window of ``size`` of ``pixels [3, h, w]`` at a place that ``row`` chooses.

    Rows and columns are taken by clipped index: that is padding with edge pixels without making the padded image, and several
    times faster than one gather over a batch.
    """
    padding = (size[0] // 8, size[1] // 8) if pixels.shape[1:] == size else (0, 0)
    for axis, (have, want, pad, u) in enumerate(zip(pixels.shape[1:], size, padding, row, strict=False), start=1):
        start = int(u * (have - want + 2 * pad + 1)) - pad
        window = np.clip(np.arange(start, start + want), 0, have - 1)
        pixels = pixels.take(window[::-1] if axis == 2 and flip and row[2] < 0.5 else window, axis=axis)
    return pixels


def random_crops(images: Tensor, size: tuple[int, int], rows: np.ndarray, flip: bool) -> Tensor:
    """:func:`random_crop` for a batch ``[B, 3, h, w]`` of one shape, where it lies: two gathers, one launch each on a GPU.

    On a CPU this takes three times as long as cutting 224 pixels image by image, which worker threads do ahead besides.
    """
    have = (images.shape[2], images.shape[3])
    padding = (size[0] // 8, size[1] // 8) if have == tuple(size) else (0, 0)
    for axis in (0, 1):
        starts = (rows[:, axis] * (have[axis] - size[axis] + 2 * padding[axis] + 1)).astype(np.int64) - padding[axis]
        window = np.clip(starts[:, None] + np.arange(size[axis]), 0, have[axis] - 1)
        if axis == 1 and flip:
            window = np.where(rows[:, 2:3] < 0.5, window[:, ::-1], window)
        index = torch.from_numpy(window).to(images.device)
        index = index[:, None, :, None].expand(-1, 3, -1, have[1]) if axis == 0 else index[:, None, None].expand(-1, 3, size[0], -1)
        images = images.gather(2 + axis, index)
    return images


def random_resized_crop(image: Image.Image, preprocessing: Preprocessing, row: np.ndarray) -> Image.Image:
    """A window of the original image that ``row`` chooses, scaled to ``preprocessing.size`` and perhaps mirrored."""
    left, top, width, height = _window(image.width, image.height, row)
    scaled = preprocessing.model_copy(update={"resize": "direct", "interpolation": "bicubic"})
    view = scaled.resized(image.crop((left, top, left + width, top + height)))
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if row[2] < 0.5 else view


def _window(width: int, height: int, row: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height of the first window that fits; else the largest central one of an allowed shape."""
    areas, shapes = row[3 : 3 + TRIES], row[3 + TRIES :]
    area = width * height * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * areas)
    ratio = np.exp(math.log(_RATIO[0]) + math.log(_RATIO[1] / _RATIO[0]) * shapes)
    widths, heights = np.rint(np.sqrt(area * ratio)).astype(int), np.rint(np.sqrt(area / ratio)).astype(int)
    fits = np.flatnonzero((widths >= 1) & (heights >= 1) & (widths <= width) & (heights <= height))
    if len(fits):
        w, h = int(widths[fits[0]]), int(heights[fits[0]])
        return int(row[1] * (width - w + 1)), int(row[0] * (height - h + 1)), w, h
    w, h = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    return (width - w) // 2, (height - h) // 2, w, h
