"""Joint views of an image and its mask, by torchvision's functions; masks are never interpolated.

``none``                     scaled so that the short side is the crop's, and the centre cut out
``scale-crop-flip``          that scale times 0.5 to 2, a random window, mirrored half of the time
``scale-crop-flip-photo``    the same with SSD's photometric distortion: brightness, contrast, saturation, hue, each half of the time

This is the usual recipe for ADE20K: a window in which one class has 75 % of the pixels or more is drawn again, up to ten times, and what a
small image leaves of the window is the mean colour and does not count. Colours vary in the ranges of torchvision's
``RandomPhotometricDistort``, without its permutation of channels.

A view is a function of the image and of one row of uniform numbers; the row is a function of (seed, epoch, index).
"""

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from promptvit.data.seeding import Purpose, generator
from promptvit.data.segmentation.masks import IGNORE
from promptvit.preprocessing import Preprocessing

POLICIES = ("none", "scale-crop-flip", "scale-crop-flip-photo")
TRIES = 10  # windows drawn before the last is taken
SHARE = 0.75  # of a window that one class must not reach
SCALES = (0.5, 2.0)
LONGEST = 4  # long side of a scaled image, in crops, before the random scale: a strip would fill the memory

_ADJUSTMENTS = (  # with the ranges of torchvision's RandomPhotometricDistort
    (functional.adjust_brightness, 0.875, 1.125),
    (functional.adjust_contrast, 0.5, 1.5),
    (functional.adjust_saturation, 0.5, 1.5),
    (functional.adjust_hue, -0.05, 0.05),
)
_PHOTO = slice(2, 3 + 2 * len(_ADJUSTMENTS))  # columns, after scale and mirroring
_WINDOWS = slice(_PHOTO.stop, _PHOTO.stop + 2 * TRIES)


def draws(count: int, data_seed: int, epoch: int) -> np.ndarray:
    """Uniform numbers for every image of an epoch, ``[count, k]``."""
    return generator(data_seed, Purpose.AUGMENT, epoch).random((count, _WINDOWS.stop))


def view(
    image: Image.Image, mask: np.ndarray, preprocessing: Preprocessing, policy: str, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What is seen of an RGB image and its mask ``[h, w]`` uint8 in training: ``[3, H, W]`` and ``[H, W]`` uint8.

    ``H, W`` is the preprocessing's size; ``policy`` is one of :data:`POLICIES`, ``row`` one of :func:`draws`.
    """
    varied = policy != "none"
    factor = SCALES[0] + (SCALES[1] - SCALES[0]) * row[0] if varied else 1.0
    size = _scaled(image.size, preprocessing.size, factor)
    image = functional.resize(image, list(size), InterpolationMode(preprocessing.interpolation))
    truth = functional.resize(Image.fromarray(mask), list(size), InterpolationMode.NEAREST)
    windows = row[_WINDOWS].reshape(TRIES, 2) if varied else np.full((1, 2), 0.5)
    box = _window(np.asarray(truth), preprocessing.size, windows)
    image, truth = functional.crop(image, *box), functional.crop(truth, *box)
    if varied and row[1] < 0.5:
        image, truth = functional.horizontal_flip(image), functional.horizontal_flip(truth)
    if policy.endswith("photo"):
        image = _distorted(image, row[_PHOTO])
    return _padded(image, truth, preprocessing)


def whole(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """What is seen of an RGB image in evaluation, ``[3, h, w]`` uint8: all of it, scaled so that the short side is the crop's."""
    resized = preprocessing.replaced(resize="short", crop_pct=1.0).resized(image)
    return np.asarray(resized).transpose(2, 0, 1)


def _scaled(size: tuple[int, int], crop: tuple[int, int], factor: float) -> tuple[int, int]:
    """Height and width of an image of ``size`` (width, height) at ``factor`` times the scale at which it covers the crop."""
    width, height = size
    cover = min(max(crop[0] / height, crop[1] / width), LONGEST * max(crop) / max(size))
    return max(1, round(height * cover * factor)), max(1, round(width * cover * factor))


def _window(mask: np.ndarray, crop: tuple[int, int], places: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of the first window in which no class has too large a share, else of the last."""
    high, wide = min(crop[0], mask.shape[0]), min(crop[1], mask.shape[1])
    for down, right in places:
        top, left = int(down * (mask.shape[0] - high + 1)), int(right * (mask.shape[1] - wide + 1))
        seen = mask[top : top + high, left : left + wide]
        counts = np.bincount(seen[seen != IGNORE])
        if counts.sum() and counts.max() < SHARE * counts.sum():
            break
    return top, left, high, wide


def _distorted(image: Image.Image, row: np.ndarray) -> Image.Image:
    """Each adjustment half of the time, contrast second or last."""
    chosen, amounts = row[: len(_ADJUSTMENTS)], row[len(_ADJUSTMENTS) : -1]
    for index in (0, 1, 2, 3) if row[-1] < 0.5 else (0, 2, 3, 1):
        adjust, low, high = _ADJUSTMENTS[index]
        if chosen[index] < 0.5:
            image = adjust(image, low + (high - low) * float(amounts[index]))
    return image


def _padded(image: Image.Image, mask: Image.Image, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Both at the crop's size, filled on the right and at the bottom."""
    height, width = preprocessing.size
    pixels = np.empty((3, height, width), dtype=np.uint8)
    pixels[:] = (np.array(preprocessing.mean) * 255).round().astype(np.uint8)[:, None, None]
    classes = np.full((height, width), IGNORE, dtype=np.uint8)
    pixels[:, : image.height, : image.width] = np.asarray(image).transpose(2, 0, 1)
    classes[: image.height, : image.width] = np.asarray(mask)
    return pixels, classes
