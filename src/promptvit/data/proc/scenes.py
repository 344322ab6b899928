"""``proc/seg``: scenes of overlapping objects on textured ground, with the class of every pixel. Drawn, not stored.

Scene and mask are a function of (version, split, index), as in :mod:`promptvit.data.proc.sets`: 400 to train on, 100 for validation, 400 to
test. The class is the kind of object: its outline. Size, turn, colours and surface vary at random, half of the scenes are negatives, and
what lies on top hides what is below. A pixel belongs to the topmost object that covers its centre.
"""

import math
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from promptvit.data.findings import Findings
from promptvit.data.proc import drawing, scenery
from promptvit.data.proc.drawn import TOGETHER, Drawn, eight_bit
from promptvit.data.proc.rolls import Rolls
from promptvit.data.segmentation.base import MaskedSplit, SegmentationDataset
from promptvit.data.segmentation.masks import Coding
from promptvit.data.segmentation.pictures import colours
from promptvit.data.segmentation.registry import register

NAME, VERSION = "proc/seg", 1  # any change of a pixel or a mask is a new version
CLASSES = ("ground", "ball", "slab", "wedge", "blossom", "moon", "cross", "ring")
SIZES = {"train": 400, "val": 100, "test": 400}
SIDE = 64  # pixels
OBJECTS = (2, 5)  # fewest and most


@register(NAME)
def scenes(name: str, *, root: Path | None, data_seed: int, findings: Findings) -> SegmentationDataset:
    """Build the set; it has no files and takes no ``root``, and ``data_seed`` changes nothing."""
    splits = {
        split: MaskedSplit(
            split, Drawn(count, partial(_part, split, 0)), Drawn(count, partial(_part, split, 1)),
            [f"{_stream(split)}/{i}" for i in range(count)], Coding(len(CLASSES)),
        )
        for split, count in SIZES.items()
    }
    palette = np.concatenate([np.full((1, 3), 70, dtype=np.uint8), colours(len(CLASSES) - 1)])  # grey ground
    findings.ok("layout", name, f"drawn, no file to check; {len(CLASSES)} classes")
    return SegmentationDataset(name, list(CLASSES), palette, splits)


def draw(rolls: Rolls, size: int) -> tuple[Tensor, Tensor]:
    """Scenes ``[n, 3, size, size]`` in [0, 1], and their classes ``[n, size, size]`` int64."""
    points = drawing.canvas(size)
    images = _ground(rolls, points)
    classes = torch.zeros(rolls.count, size, size, dtype=torch.int64)
    number = OBJECTS[0] + rolls.choice(OBJECTS[1] - OBJECTS[0] + 1)
    for index in range(OBJECTS[1]):
        kind = 1 + rolls.choice(len(OUTLINES))
        local = drawing.place(points, rolls.uniform(-0.8, 0.8, 2), rolls.uniform(0, 2 * math.pi))
        radius = rolls.uniform(0.3, 0.55)
        distance = scenery.per_class(kind - 1, OUTLINES, local, radius).masked_fill((index >= number)[:, None, None], math.inf)
        images = scenery.lay(images, distance, _surface(rolls, local))
        classes = torch.where(distance < 0, kind[:, None, None], classes)
    return scenery.sensed(rolls, images), classes


def pictures(split: str, start: int, count: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """The scenes ``start`` to ``start + count - 1`` of a split ``[count, side, side, 3]``, and masks ``[count, side, side]``, uint8."""
    with torch.no_grad(), torch.device("cpu"):
        images, classes = draw(Rolls(_stream(split), start, count), side)
    return eight_bit(images), classes.byte().numpy()


def _part(split: str, part: int, chunk: int) -> np.ndarray:
    """Scenes (``part`` 0) or masks (1)."""
    return _chunk(split, chunk)[part]


@cache  # 15 MB when all are drawn
def _chunk(split: str, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = pictures(split, chunk * TOGETHER, TOGETHER)
    for part in drawn:
        part.flags.writeable = False
    return drawn


def _stream(split: str) -> str:
    return f"{NAME}/v{VERSION}/{split}"


def _ground(rolls: Rolls, points: Tensor) -> Tensor:
    """Dark ground with soft clouds of another colour, fine stripes in a random direction, and two large areas."""
    images = scenery.backdrop(rolls, points)
    for _ in range(2):
        images = scenery.panel(rolls, images, points)
    local = drawing.place(points, rolls.uniform(-1, 1, 2), rolls.uniform(0, 2 * math.pi))
    stripes = drawing.grating(local, rolls.uniform(2, 7), rolls.uniform(0, 2 * math.pi))
    grain = scenery.clouds(rolls, local, 2.5)
    return images * (1 - rolls.uniform(0, 0.5, 1, 1, 1) * stripes[:, None]) + rolls.uniform(0, 0.25, 1, 1, 1) * grain[:, None]


def _surface(rolls: Rolls, local: Tensor) -> Tensor:
    """Colours ``[n, 3, h, w]`` of an object: two of them in stripes or clouds, or nearly one."""
    first, second = (
        scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0.1, 0.9), rolls.uniform(0.45, 1))[:, :, None, None] for _ in range(2)
    )
    stripes = drawing.grating(local, rolls.uniform(1.5, 4), rolls.uniform(0, 2 * math.pi))
    mix = torch.where(rolls.chance(0.5, 1, 1), stripes, scenery.clouds(rolls, local, 0.8))
    return first + rolls.uniform(0, 1, 1, 1, 1) * mix[:, None] * (second - first)


def _blossom(local: Tensor, radius: Tensor) -> Tensor:
    """Five round petals."""
    petals = 0.72 + 0.28 * (5 * torch.atan2(local[..., 1], local[..., 0])).cos()
    return (local.norm(dim=-1) - radius[:, None, None] * petals) * 0.7


def _pair(radius: Tensor, share: float) -> Tensor:
    return torch.stack([radius, share * radius], dim=-1)


OUTLINES = (
    lambda local, radius: local.norm(dim=-1) - 0.85 * radius[:, None, None],
    lambda local, radius: drawing.box(local, _pair(radius, 0.6)),
    lambda local, radius: drawing.polygon(local, 1.1 * radius, torch.full_like(radius, 3)),
    _blossom,
    lambda local, radius: drawing.crescent(local, 1.25 * radius),
    lambda local, radius: drawing.cross(local, _pair(radius, 1.0)),
    lambda local, radius: drawing.outline(local.norm(dim=-1) - 0.75 * radius[:, None, None], 0.2 * radius),
)  # in the order of CLASSES, after the ground
