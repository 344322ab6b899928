"""``digits``: the 1,797 real handwritten digits that come with scikit-learn, with fixed splits.

Splits: 60 images of every digit are the test split (600), 30 of every digit the validation split (300), the remaining 897 the
training pool. They were drawn once, with seed 0, whatever the run's ``data_seed``; that one only chooses ``--shots`` from the pool.

An image is 8 x 8 with ink from 0 to 16. It is scaled to 28 x 28 (bicubic), white on black, in a black frame of 2 pixels: 32 x 32.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from promptvit.data.base import Dataset, Split, draw_per_class
from promptvit.data.registry import register
from promptvit.data.seeding import Purpose, generator

SPLIT_SEED = 0
TEST_PER_CLASS, VAL_PER_CLASS = 60, 30


@register("digits")
def digits(name: str, *, root: Path | None, data_seed: int, strict: bool) -> Dataset:
    """Build the data set from memory; it needs no ``root`` and has no file that could be bad.

    No augmentation by default: all images are centred alike, and a mirrored digit is another sign.
    """
    from sklearn.datasets import load_digits  # slow to import

    values, labels = load_digits(return_X_y=True)
    images = [_picture(ink) for ink in values.reshape(-1, 8, 8)]
    everything = Split("all", labels.tolist(), images, [f"digits/{index}" for index in range(len(images))])
    drawn = generator(SPLIT_SEED, Purpose.SPLIT)
    held_out = draw_per_class(everything.labels, TEST_PER_CLASS, drawn)
    pool = np.setdiff1d(np.arange(len(everything)), held_out)
    val = pool[draw_per_class(labels[pool].tolist(), VAL_PER_CLASS, drawn)]
    parts = {"train": np.setdiff1d(pool, val), "val": val, "test": held_out}
    splits = {part: everything.subset(indices, part) for part, indices in parts.items()}
    return Dataset(name, [str(digit) for digit in range(10)], splits, augment="none")


def _picture(ink: np.ndarray) -> np.ndarray:
    """``[8, 8]`` in 0..16 to RGB ``[32, 32, 3]`` uint8."""
    grey = Image.fromarray(np.rint(ink * (255 / 16)).astype(np.uint8))
    framed = ImageOps.expand(grey.resize((28, 28), Image.Resampling.BICUBIC), border=2, fill=0)
    return np.array(framed.convert("RGB"))
