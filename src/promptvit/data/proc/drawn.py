"""Drawn images as a sequence: made in chunks, when one of them is asked for."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import numpy as np
from torch import Tensor

TOGETHER = 50  # images drawn at once; more do not fit into a processor's cache
_DRAWING = Lock()  # threads that want the same chunk draw it once


class Drawn(Sequence[Any]):
    """``length`` arrays, to be read and not changed; ``chunk(k)`` gives those from ``k * TOGETHER`` on and should remember them."""

    def __init__(self, length: int, chunk: Callable[[int], np.ndarray]) -> None:
        self.length, self.chunk = length, chunk

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        chunk, place = divmod(range(len(self))[index], TOGETHER)
        with _DRAWING:
            return self.chunk(chunk)[place]


def eight_bit(images: Tensor) -> np.ndarray:
    """``[n, 3, h, w]`` in [0, 1] as ``[n, h, w, 3]`` uint8."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
