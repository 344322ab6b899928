"""Mask files: a class per pixel, read as it was stored and never interpreted as a picture."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from promptvit.data.images import BadImage, decoded

IGNORE = 255  # in every mask that is handed out: a pixel that does not count
_NO_CLASS = -1


class BadMask(BadImage):
    """A file that cannot be used as a mask; ``kind``: ``undecodable-mask``, ``mask-format``, ``mask-size`` or ``id-out-of-range``."""

    def __init__(self, path: str | os.PathLike[str], reason: str, kind: str = "undecodable-mask") -> None:
        super().__init__(path, reason)
        self.kind = kind


@dataclass(frozen=True)
class Coding:
    """What the values of a mask file mean: ``first`` is class 0, the next ones follow, ``ignored`` does not count."""

    classes: int
    first: int = 0
    ignored: int = IGNORE

    def decode(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values ``[h, w]`` uint8 as classes ``[h, w]`` uint8, and the values that mean nothing."""
        table = np.full(256, _NO_CLASS, dtype=np.int16)
        table[self.first : self.first + self.classes] = np.arange(self.classes)
        table[self.ignored] = IGNORE
        meanings = table[values]
        return meanings.astype(np.uint8), np.unique(values[meanings == _NO_CLASS])

    def __str__(self) -> str:
        return f"{self.first} to {self.first + self.classes - 1}, and {self.ignored} where a pixel does not count"


def open_mask(path: str | os.PathLike[str], coding: Coding) -> np.ndarray:
    """Read a mask: a PNG whose values are 8-bit grey levels or, in palette mode, indices; colours of the palette mean nothing.

    Returns:
        Classes ``[h, w]`` uint8, :data:`IGNORE` where a pixel does not count.

    Raises:
        BadMask: no such file, damaged, no PNG, colour or 16 bits instead of indices, or a value that is no class.
    """
    try:
        values = decoded(path, ("PNG",), _values)
    except BadMask:
        raise
    except BadImage as error:
        raise BadMask(error.path, error.reason) from None
    classes, unknown = coding.decode(values)
    if len(unknown):
        some = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise BadMask(path, f"has pixels of {some}; values may be {coding}", "id-out-of-range")
    return classes


def _values(path: Path, image: Image.Image) -> np.ndarray:
    """``[h, w]`` uint8 as stored."""
    if image.mode not in ("P", "L", "1"):
        found = {"RGB": "colours", "RGBA": "colours and transparency", "LA": "transparency"}.get(image.mode, "16 bits")
        raise BadMask(path, f"a mask is one 8-bit index per pixel (PNG in mode P or L); this has {found} ({image.mode})", "mask-format")
    return np.array(image, dtype=np.uint8)
