"""Folders of images for the tests of the command."""

from pathlib import Path

import numpy as np
from PIL import Image


def fill(folder: Path, classes: dict[str, int], start: int = 0) -> Path:
    """Small images, a colour per class with noise, no two alike."""
    for label, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + count):
            noise = np.random.default_rng([label, i]).integers(0, 60, (12, 12, 3), dtype=np.uint8)
            noise[..., label % 3] += 190
            Image.fromarray(noise).save(folder / name / f"{i}.png")
    return folder
