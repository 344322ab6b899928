"""Pictures that no camera takes: stained tissue under a microscope, and spectrograms in false colour."""

import math

import torch
from torch import Tensor

from promptvit.data.proc import drawing, scenery
from promptvit.data.proc.rolls import Rolls

NUCLEI = ("small", "large", "long", "paired", "hollow")
SOUNDS = ("tone", "rising", "falling", "warble", "step", "chord", "pulses", "arch")
HALF_AXES = ((0.08, 0.08), (0.14, 0.14), (0.17, 0.06), (0.08, 0.08), (0.13, 0.13))
COLD = ((0.0, 0.0, 0.1), (0.1, 0.2, 0.6), (0.2, 0.8, 0.8), (0.95, 1.0, 0.9))
HOT = ((0.05, 0.0, 0.05), (0.5, 0.05, 0.3), (0.95, 0.5, 0.1), (1.0, 1.0, 0.7))
GREEN = ((0.2, 0.05, 0.3), (0.2, 0.4, 0.5), (0.35, 0.75, 0.4), (0.95, 0.9, 0.3))


def nuclei(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """What kind of nucleus prevails: 9 of 12 are of the tile's class, 3 of any; the stain varies."""
    points = drawing.canvas(size)
    tissue = scenery.rgb(rolls.uniform(0.82, 0.98), rolls.uniform(0.1, 0.35), rolls.uniform(0.8, 0.98))[:, :, None, None]
    images = tissue * (0.8 + 0.2 * scenery.clouds(rolls, points.expand(rolls.count, -1, -1, -1), 1.5)[:, None])
    stain = scenery.rgb(rolls.uniform(0.65, 0.82), rolls.uniform(0.4, 0.7), rolls.uniform(0.3, 0.6))
    places, table = rolls.order(16), torch.tensor(HALF_AXES, dtype=torch.float64)
    for index in range(12):
        kind = labels if index < 9 else rolls.choice(len(NUCLEI))
        centre = scenery.grid_place(places[:, index], 4, rolls.uniform(-0.2, 0.2, 2), reach=0.95)
        local = drawing.place(points, centre, rolls.uniform(0, 2 * math.pi))
        apart = torch.where(kind == 3, 0.085, 0.0)[:, None, None]  # a pair is one ellipse seen in a mirror
        local = torch.stack([local[..., 0].abs() - apart, local[..., 1]], dim=-1)
        shape = drawing.ellipse(local, table[kind] * rolls.uniform(0.88, 1.12, 1))
        wall = torch.full((rolls.count,), 0.03, dtype=torch.float64)
        shape = torch.where((kind == 4)[:, None, None], drawing.outline(shape, wall), shape)
        images = scenery.lay(images, shape, stain * rolls.uniform(0.8, 1.25, 1))
    return scenery.sensed(rolls, images, noise=0.03, invert=False)


def sounds(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """The course of a sound: time to the right, pitch upwards, loudness as false colour; hum and hiss disturb."""
    points = drawing.canvas(size)
    x, y = points.expand(rolls.count, -1, -1, -1).unbind(-1)
    begin, span = rolls.uniform(-0.85, -0.35, 1, 1), rolls.uniform(0.9, 1.25, 1, 1)
    time = (x - begin) / span
    pitch, bend = rolls.uniform(-0.35, 0.35, 1, 1), rolls.uniform(0.3, 0.5, 1, 1)
    width = rolls.uniform(0.035, 0.06, 1, 1)
    away = scenery.per_class(labels, COURSES, time, y - pitch, bend, rolls.uniform(0, 1, 1, 1))
    within = ((0.5 - (time - 0.5).abs()) * span / 0.04 + 0.5).clamp(0, 1)
    loud = rolls.uniform(0.55, 0.95, 1, 1) * (-0.5 * (away / width).square()).exp() * within
    hum = 0.35 * (-0.5 * ((y - rolls.uniform(-0.9, 0.9, 1, 1)) / 0.03).square()).exp() * rolls.chance(0.5, 1, 1)
    hiss = 0.09 * rolls.noise(size, size).abs() + 0.2 * scenery.clouds(rolls, points.expand(rolls.count, -1, -1, -1), 1.0)
    return false_colour(rolls, torch.maximum(loud, hum) + hiss)


# How far a point (time in [0, 1] during the sound, height from the middle pitch downwards) is from the sound; bend: half its pitch range.
COURSES = (
    lambda time, height, bend, u: height,
    lambda time, height, bend, u: height + bend * (2 * time - 1),
    lambda time, height, bend, u: height - bend * (2 * time - 1),
    lambda time, height, bend, u: height - 0.5 * bend * (2 * math.pi * (3 * time + u)).sin(),
    lambda time, height, bend, u: height - 0.7 * bend * torch.where((time < 0.5) == (u < 0.5), 1.0, -1.0),
    lambda time, height, bend, u: (height.abs() - 0.6 * bend).abs().minimum(height.abs()),
    lambda time, height, bend, u: (height.abs() - 1.2 * bend).clamp_min(((time * 4 + u) % 1 - 0.5).abs() * 0.3),
    lambda time, height, bend, u: height + bend * torch.where(u < 0.5, 1.0, -1.0) * (8 * (time - 0.5).square() - 1),
)  # in the order of SOUNDS


def false_colour(rolls: Rolls, level: Tensor) -> Tensor:
    """Levels ``[n, h, w]`` from 0 to 1 as ``[n, 3, h, w]`` in one of three scales of colour."""
    scales = torch.tensor([COLD, HOT, GREEN], dtype=torch.float64)[rolls.choice(3)]
    place = level.clamp(0, 1) * (scales.shape[1] - 1)
    below = place.long().clamp_max(scales.shape[1] - 2)
    rows = torch.arange(rolls.count)[:, None, None]
    low, high = scales[rows, below], scales[rows, below + 1]
    return (low + (place - below)[..., None] * (high - low)).permute(0, 3, 1, 2)
