"""Randomness as a function of (seed, epoch, index): one counter-based stream per purpose, no global state.

Row ``i`` of what is drawn for an epoch belongs to image ``i``, so neither batch size nor the number of processes changes it,
and a resumed run draws what an uninterrupted one would have drawn.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for; purposes never share a stream."""

    SPLIT = 0
    SHOTS = 1
    ORDER = 2
    AUGMENT = 3
    SAMPLE = 4


def generator(seed: int, purpose: Purpose, epoch: int = 0) -> np.random.Generator:
    """The stream of one purpose in one epoch.

    Raises:
        ValueError: ``seed`` or ``epoch`` outside 0..2**64 - 1.
    """
    for name, value in (("data_seed", seed), ("epoch", epoch)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name}: must be in 0..2**64 - 1, got {value}")
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, purpose]))


def shuffled(count: int, generator: np.random.Generator) -> np.ndarray:
    """A permutation of ``range(count)`` as int64 ``[count]``. From uniform numbers, whose stream no numpy version changes."""
    return np.argsort(generator.random(count), kind="stable")
