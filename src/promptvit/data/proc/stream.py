"""The endless stream of drawn images that the bundled backbones are pre-trained on: no files, a function of a seed.

Each image: a background (flat, gradient or grating) under up to four soft shapes (ellipse, box, polygon, curve, zigzag;
filled, outlined or textured). A third of the images are grey, and every palette may be inverted, so no colour is privileged.
"""

import math

import torch
from torch import Tensor

from promptvit.data.proc import drawing

VERSION = 1
SHAPES = 4


class Draw:
    """Random numbers of one batch, all taken from one explicit generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.generator)

    def choice(self, options: int, *shape: int) -> Tensor:
        return torch.randint(options, shape, generator=self.generator)

    def chance(self, probability: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator) < probability


def draw_batch(generator: torch.Generator, count: int, size: int) -> Tensor:
    """Draw ``count`` images.

    Args:
        generator: source of all randomness (CPU).
        count: number of images.
        size: side in pixels.

    Returns:
        ``[count, 3, size, size]`` float32 in [0, 1].
    """
    draw = Draw(generator)
    points = drawing.canvas(size)
    images = _background(draw, count, points)
    number = 1 + draw.choice(SHAPES, count)
    for index in range(SHAPES):
        distance, colour = _shape(draw, count, points)
        absent = (index >= number)[:, None, None]
        softness = (2 / size) * float(draw.uniform(0.8, 1.6, 1))
        images = drawing.paint(images, distance.masked_fill(absent, math.inf), colour, softness)
    grey = draw.chance(1 / 3, count)[:, None, None, None]
    images = torch.where(grey, images.mean(dim=1, keepdim=True), images)
    inverted = draw.chance(0.5, count)[:, None, None, None]
    images = torch.where(inverted, 1 - images, images)
    noise = draw.uniform(0, 0.03, count, 1, 1, 1) * torch.randn(images.shape, generator=generator)
    return (images + noise).clamp(0, 1)


def _background(draw: Draw, count: int, points: Tensor) -> Tensor:
    local = drawing.place(points, torch.zeros(count, 2), draw.uniform(0, 2 * math.pi, count))
    ramp = (local[..., 0] / 2.83 + 0.5).clamp(0, 1)
    waves = drawing.grating(local, draw.uniform(0.5, 4, count), draw.uniform(0, 2 * math.pi, count))
    flat = torch.zeros_like(ramp)
    kind = draw.choice(4, count)[:, None, None]  # half the backgrounds are flat
    mix = torch.where(kind == 0, ramp, torch.where(kind == 1, waves, flat))[:, None]
    first, second = draw.uniform(0, 0.7, 2, count, 3, 1, 1)
    return first + mix * (second - first)


def _shape(draw: Draw, count: int, points: Tensor) -> tuple[Tensor, Tensor]:
    """One shape per image: distance ``[count, h, w]`` and colour ``[count, 3, h, w]``."""
    local = drawing.place(points, draw.uniform(-0.6, 0.6, count, 2), draw.uniform(0, 2 * math.pi, count))
    radii = draw.uniform(0.1, 0.6, count, 2)
    width = draw.uniform(0.04, 0.16, count)
    corners = draw.uniform(-0.9, 0.9, count, 3, 2)
    filled = torch.stack([
        drawing.ellipse(local, radii),
        drawing.box(local, radii),
        drawing.polygon(local, radii[:, 0], 3.0 + draw.choice(4, count)),
    ])
    kind = draw.choice(len(filled), count)
    solid = filled[kind, torch.arange(count)]
    solid = torch.where(draw.chance(0.4, count)[:, None, None], drawing.outline(solid, width), solid)
    path = torch.where(draw.chance(0.7, count)[:, None, None], drawing.bezier(corners, 6), _zigzag(corners, 6))
    line = drawing.stroke(local, path, width)
    distance = torch.where(draw.chance(0.5, count)[:, None, None], line, solid)
    first, second = draw.uniform(0, 1, 2, count, 3, 1, 1)
    waves = drawing.grating(local, draw.uniform(1, 5, count), draw.uniform(0, 2 * math.pi, count))[:, None]
    textured = draw.chance(0.2, count)[:, None, None, None]
    return distance, torch.where(textured, first + waves * (second - first), first.expand(-1, -1, *waves.shape[-2:]))


def _zigzag(corners: Tensor, segments: int) -> Tensor:
    """Straight polylines through three corners with as many points as a Bezier curve of ``segments``."""
    a, b, c = corners[:, None].unbind(2)
    t = torch.linspace(0, 1, segments // 2 + 1)[:, None]
    return torch.cat([a + t * (b - a), b + t[1:] * (c - b)], dim=1)
