"""Random numbers of consecutive images of one set: image ``i`` gets the same ones whatever is drawn beside it."""

import hashlib

import numpy as np
import torch
from torch import Tensor


class Rolls:
    """Random numbers of the images ``start`` to ``start + count - 1`` of the stream called ``name``.

    Every call takes fresh numbers for each image. They are bits of a counter-based stream (Philox) whose key is a digest of the
    name and whose counter is (image, call): no state, the same on every machine. All are float64, so that rounding to 256 grey
    levels gives the same image however the drawing is vectorised.
    """

    def __init__(self, name: str, start: int, count: int) -> None:
        self.key = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u8").astype(np.uint64)
        self.start, self.count, self.calls = start, count, 0

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """``[count, *shape]`` float64 in [low, high)."""
        unit = torch.from_numpy((self._bits(int(np.prod(shape))) >> np.uint64(11)).astype(np.float64) * 2.0**-53)
        return low + (high - low) * unit.view(self.count, *shape)

    def choice(self, options: int, *shape: int) -> Tensor:
        """``[count, *shape]`` int64 in 0..options - 1."""
        return self.uniform(0, options, *shape).long()

    def chance(self, probability: float, *shape: int) -> Tensor:
        """``[count, *shape]`` bool."""
        return self.uniform(0, 1, *shape) < probability

    def order(self, length: int) -> Tensor:
        """A permutation of ``range(length)`` per image: ``[count, length]`` int64."""
        return self.uniform(0, 1, length).argsort(dim=1)

    def noise(self, *shape: int) -> Tensor:
        """``[count, *shape]`` with mean 0 and deviation 1, nearly normal: the sum of four uniform numbers of 16 bits."""
        quarters = self._bits(int(np.prod(shape))).view(np.uint16).reshape(self.count, -1, 4)
        total = torch.from_numpy(quarters.astype(np.float64)).sum(dim=-1)
        return ((total - 2 * 65535) * (3**0.5 / 65536)).view(self.count, *shape)

    def _bits(self, each: int) -> np.ndarray:
        """``[count, each]`` uint64; a step of the counter gives four."""
        steps = -(-each // 4)
        stream = np.random.Philox(key=self.key, counter=[self.start * steps, self.calls, 0, 0])
        self.calls += 1
        return np.ascontiguousarray(stream.random_raw(4 * steps * self.count).reshape(self.count, -1)[:, :each])
