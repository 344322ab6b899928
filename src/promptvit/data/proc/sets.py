"""``proc/*`` and ``proc-dev/*``: data sets that are drawn, not stored. One line of the table below is one set.

An image is a function of (set, version, split, index) and of nothing else: no seed of a run, no batch, no order, no machine. The
splits have streams of their own and are always the same, so numbers compare: 800 images to train on, 200 for validation, 2,000 to
test, all classes alike. ``proc-dev/*`` has other generators; it is there to choose settings on.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from promptvit.data.base import Dataset, Split
from promptvit.data.proc import dev, fine_grained, natural, solids, specialised, structured
from promptvit.data.proc.drawn import TOGETHER, Drawn, eight_bit
from promptvit.data.proc.rolls import Rolls
from promptvit.data.registry import register

SIZES = {"train": 800, "val": 200, "test": 2000}
VERSIONS = {"proc": 1, "proc-dev": 1}  # of the pictures: any change of a set's pixels or labels is a new version of its family
SIDE = 64  # pixels

Generator = Callable[[Rolls, Tensor, int], Tensor]  # (random numbers, labels [n], side) -> [n, 3, side, side] in [0, 1]


@dataclass(frozen=True)
class ProcSet:
    """One drawn set.

    Attributes:
        name: ``proc/count``.
        group: ``fine-grained``, ``natural``, ``specialised`` or ``structured``.
        classes: names in label order.
        draw: what draws it.
        augment: the training augmentation that does not change its labels.
    """

    name: str
    group: str
    classes: tuple[str, ...]
    draw: Generator = field(repr=False)
    augment: str = "none"

    @property
    def version(self) -> int:
        """Of the pictures."""
        return VERSIONS[self.name.split("/")[0]]


SETS = {
    made.name: made
    for made in (
        ProcSet("proc/flowers", "fine-grained", fine_grained.FLOWERS, fine_grained.flowers, "crop-flip"),
        ProcSet("proc/beetles", "fine-grained", fine_grained.BEETLES, fine_grained.beetles, "crop-flip"),
        ProcSet("proc/emblems", "fine-grained", fine_grained.EMBLEMS, fine_grained.emblems, "crop-flip"),
        ProcSet("proc/glyphs", "fine-grained", fine_grained.GLYPHS, fine_grained.glyphs, "crop"),
        ProcSet("proc/cars", "fine-grained", fine_grained.CARS, fine_grained.cars, "crop-flip"),
        ProcSet("proc/textures", "natural", natural.TEXTURES, natural.textures, "crop-flip"),
        ProcSet("proc/palettes", "natural", natural.PALETTES, natural.palettes, "crop-flip"),
        ProcSet("proc/skylines", "natural", natural.SKYLINES, natural.skylines, "crop-flip"),
        ProcSet("proc/nuclei", "specialised", specialised.NUCLEI, specialised.nuclei, "crop-flip"),
        ProcSet("proc/sounds", "specialised", specialised.SOUNDS, specialised.sounds),
        ProcSet("proc/count", "structured", structured.COUNTS, structured.count),
        ProcSet("proc/distance", "structured", structured.DISTANCES, structured.distance),
        ProcSet("proc/orientation", "structured", structured.HEADINGS, structured.orientation),
        ProcSet("proc/location", "structured", structured.PLACES, structured.location),
        ProcSet("proc/azimuth", "structured", solids.AZIMUTHS, solids.azimuth),
        ProcSet("proc/elevation", "structured", solids.ELEVATIONS, solids.elevation),
        ProcSet("proc-dev/leaves", "fine-grained", dev.LEAVES, dev.leaves, "crop-flip"),
        ProcSet("proc-dev/grains", "natural", dev.GRAINS, dev.grains, "crop-flip"),
        ProcSet("proc-dev/landforms", "specialised", dev.LANDFORMS, dev.landforms, "crop-flip"),
        ProcSet("proc-dev/columns", "structured", dev.COLUMNS, dev.columns),
        ProcSet("proc-dev/dials", "structured", dev.DIALS, dev.dials),
        ProcSet("proc-dev/lamps", "structured", dev.LAMPS, dev.lamps),
    )
}


@register(*SETS)
def proc(name: str, *, root: Path | None, data_seed: int, strict: bool) -> Dataset:
    """Build a drawn set; it has no files and takes no ``root``, and ``data_seed`` changes nothing but ``--shots``."""
    made = SETS[name]
    splits = {
        split: Split(
            split, labels(made, 0, count).tolist(), Drawn(count, partial(_chunk, name, split)),
            [f"{_stream(made, split)}/{i}" for i in range(count)],
        )
        for split, count in SIZES.items()
    }
    return Dataset(name, list(made.classes), splits, augment=made.augment, resize="direct")


def labels(made: ProcSet, start: int, count: int) -> Tensor:
    """Class per image from ``start`` on, ``[count]`` int64: the classes take turns."""
    return torch.arange(start, start + count) % len(made.classes)


def pictures(name: str, split: str, start: int, count: int, side: int = SIDE) -> np.ndarray:
    """The images ``start`` to ``start + count - 1`` of a split: ``[count, side, side, 3]`` uint8."""
    made = SETS[name]
    drawn = np.empty((count, side, side, 3), dtype=np.uint8)
    with torch.no_grad(), torch.device("cpu"):
        for first in range(0, count, TOGETHER):
            number = min(TOGETHER, count - first)
            rolls = Rolls(_stream(made, split), start + first, number)
            images = made.draw(rolls, labels(made, start + first, number), side)
            drawn[first : first + number] = eight_bit(images)
    return drawn


def _stream(made: ProcSet, split: str) -> str:
    """What the split's random numbers and its images are called."""
    return f"{made.name}/v{made.version}/{split}"


@lru_cache(maxsize=120)  # two sets, 74 MB
def _chunk(name: str, split: str, chunk: int) -> np.ndarray:
    drawn = pictures(name, split, chunk * TOGETHER, TOGETHER)
    drawn.flags.writeable = False
    return drawn
