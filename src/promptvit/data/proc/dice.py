"""Random numbers for a batch of drawn images, such that several processes can share one batch."""

import torch
from torch import Tensor


class Dice:
    """Numbers for some rows of a batch, taken from one explicit generator.

    The numbers of the whole batch are drawn and the wanted rows kept. Drawing them is cheap beside painting, and a batch does not
    depend on how many processes share it.

    Args:
        generator: source of all randomness; its device is where the numbers live.
        count: images in the whole batch.
        rows: which of them to keep; default: all.
    """

    def __init__(self, generator: torch.Generator, count: int, rows: slice = slice(None)) -> None:
        self.generator, self.total, self.rows = generator, count, rows
        self.count = len(range(count)[rows])
        self.device = generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """``[count, *shape]`` in [low, high)."""
        return low + (high - low) * torch.rand(self.total, *shape, generator=self.generator, device=self.device)[self.rows]

    def choice(self, options: int, *shape: int) -> Tensor:
        """``[count, *shape]`` of 0 .. options - 1."""
        return torch.randint(options, (self.total, *shape), generator=self.generator, device=self.device)[self.rows]

    def chance(self, probability: float, *shape: int) -> Tensor:
        """``[count, *shape]``, true with ``probability``."""
        return self.uniform(0, 1, *shape) < probability
