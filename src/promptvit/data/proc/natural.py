"""Tasks in the manner of natural pictures: what a surface is made of, how colours go together, what kind of land one looks at."""

import math

import torch
from torch import Tensor

from promptvit.data.proc import drawing, scenery
from promptvit.data.proc.rolls import Rolls

TEXTURES = ("stripes", "checks", "dots", "rings", "bricks", "weave", "zigzag", "pebbles", "cracks", "camouflage")
PALETTES = tuple(f"hues {degrees}° apart" for degrees in (0, 45, 90, 135, 180))
SKYLINES = ("plain", "hills", "dunes", "peaks", "firs", "town", "domes", "arches")


def textures(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """Ten kinds of surface at any scale, turn and colour, under uneven light."""
    points = drawing.canvas(size)
    local = drawing.place(points, rolls.uniform(-1, 1, 2), rolls.uniform(0, 2 * math.pi)) * rolls.uniform(1.6, 3.2, 1, 1, 1)
    seeds, wild = rolls.uniform(-5, 5, 60, 2), scenery.clouds(rolls, local, 0.5, waves=8)
    mix = scenery.per_class(labels, SURFACES, local, seeds, wild)[:, None]
    first, second = scenery.bright(rolls)[:, :, None, None], scenery.backdrop(rolls, points)
    light = 0.7 + 0.3 * scenery.clouds(rolls, points.expand(rolls.count, -1, -1, -1), 0.3)[:, None]
    return scenery.sensed(rolls, (second + mix * (first - second)) * light)


def _steep(wave: Tensor, times: float = 4) -> Tensor:
    """Waves around 0 to [0, 1] with soft edges."""
    return (0.5 + times * wave).clamp(0, 1)


def _sine(x: Tensor) -> Tensor:
    return (2 * math.pi * x).sin()


def _off_centre(x: Tensor) -> Tensor:
    """Signed distance to the middle of the unit cell that ``x`` is in."""
    return x - x.floor() - 0.5


def _bricks(local: Tensor) -> Tensor:
    row = (local[..., 1] * 1.5).floor()
    beside = (0.5 - _off_centre(local[..., 0] * 0.75 + 0.5 * (row % 2)).abs()) / 0.75
    above = (0.5 - _off_centre(local[..., 1] * 1.5).abs()) / 1.5
    return _steep(torch.minimum(beside, above) - 0.09, 12)


def _weave(local: Tensor) -> Tensor:
    x, y = _off_centre(local[..., 0]), _off_centre(local[..., 1])
    over = (local[..., 0].floor() + local[..., 1].floor()) % 2 == 0
    return torch.where(over, (math.pi * y).cos(), (math.pi * x).cos() * 0.65)


SURFACES = (
    lambda local, seeds, wild: _steep(_sine(local[..., 0] + 0.25 * wild)),
    lambda local, seeds, wild: _steep(_sine(local[..., 0] / 2) * _sine(local[..., 1] / 2), 8),
    lambda local, seeds, wild: _steep(0.3 - _off_centre(local).norm(dim=-1), 10),
    lambda local, seeds, wild: _steep(_sine(1.2 * local.norm(dim=-1))),
    lambda local, seeds, wild: _bricks(local),
    lambda local, seeds, wild: _weave(local),
    lambda local, seeds, wild: _steep(_sine(local[..., 0] + 1.2 * _off_centre(0.8 * local[..., 1]).abs())),
    lambda local, seeds, wild: (1.2 - 1.1 * scenery.cells(local, seeds)[0]).clamp(0, 1),
    lambda local, seeds, wild: _steep(_walls(local, seeds) - 0.12, 6),
    lambda local, seeds, wild: _steep(wild - 0.5, 12),
)  # in the order of TEXTURES


def _walls(local: Tensor, seeds: Tensor) -> Tensor:
    """Distance to the nearest wall between two cells, roughly."""
    nearest, second, _ = scenery.cells(local, seeds)
    return (second - nearest) / 2


def palettes(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """How far apart the two hues of a mosaic are; which hues, in what share, how light and how strong varies from tile to tile."""
    points = drawing.canvas(size).expand(rolls.count, -1, -1, -1)
    count = 18
    _, _, owner = scenery.cells(points, rolls.uniform(-1, 1, count, 2))
    other = (rolls.uniform(0, 1, count) < rolls.uniform(0.3, 0.7, 1)).double()
    other[:, :2] = torch.tensor([0.0, 1.0])  # both hues are there
    apart = (labels[:, None] + rolls.uniform(-0.25, 0.25, 1)) * torch.where(rolls.chance(0.5, 1), 1 / 8, -1 / 8)
    hue = rolls.uniform(0, 1, 1) + other * apart + rolls.uniform(-0.015, 0.015, count)
    colours = scenery.rgb(hue, rolls.uniform(0.45, 0.95, count), rolls.uniform(0.4, 0.95, count))
    rows = torch.arange(rolls.count)[:, None, None]
    images = colours[rows, owner].permute(0, 3, 1, 2)
    return scenery.sensed(rolls, images, invert=False)


def skylines(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """Eight kinds of horizon at any time of day; the sun and the colours tell nothing."""
    points = drawing.canvas(size)
    x, y = points.expand(rolls.count, -1, -1, -1).unbind(-1)
    top, low = scenery.bright(rolls)[:, :, None, None], scenery.bright(rolls)[:, :, None, None]
    images = top + (0.5 + 0.5 * y[:, None]) * (low - top)
    sun = (points - rolls.uniform(-0.8, 0.1, 2)[:, None, None]).norm(dim=-1) - rolls.uniform(0.08, 0.2, 1, 1)
    images = scenery.lay(images, sun, scenery.bright(rolls), rolls.chance(0.6))
    land = scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0.2, 0.8), rolls.uniform(0.15, 0.55))
    for layer, nearness in enumerate((0.5, 1.0)):
        along = x * rolls.uniform(0.8, 1.5, 1, 1) + rolls.uniform(0, 40, 1, 1)
        rise = scenery.per_class(labels, HORIZONS, along, rolls.uniform(0, 1, 1, 1))
        line = rolls.uniform(0.05, 0.3, 1, 1) + 0.3 * layer - rise * rolls.uniform(0.3, 0.45, 1, 1)
        far = images.mean(dim=(2, 3))
        images = scenery.lay(images, (line - y) * 0.6, far + nearness * (land - far))
    return scenery.sensed(rolls, images)


def _ragged(x: Tensor) -> Tensor:
    """A number in [0, 1) for each unit step of x, without a pattern to the eye."""
    step = x.floor()
    return (step * 0.6180339887 + (step * 1.7).sin() * 0.37) % 1


HORIZONS = (
    lambda x, u: 0.04 * _sine(0.3 * x + u),
    lambda x, u: 0.5 + 0.3 * _sine(0.45 * x + u) + 0.15 * _sine(0.83 * x),
    lambda x, u: ((0.7 * x + u) % 1) ** 2 * (0.6 + 0.4 * _ragged(0.7 * x + u)),
    lambda x, u: (1 - 2 * _off_centre(1.1 * x + u).abs()) * (0.5 + 0.8 * _ragged(1.1 * x + u)),
    lambda x, u: (1 - 2 * _off_centre(3.2 * x + u).abs()) ** 1.3 * (0.55 + 0.3 * _ragged(3.2 * x + u)) + 0.15,
    lambda x, u: 0.15 + 0.85 * _ragged(2.4 * x + u),
    lambda x, u: (1 - 4 * _off_centre(1.3 * x + u).square()).clamp_min(0).sqrt() * (0.5 + 0.4 * _ragged(1.3 * x + u)),
    lambda x, u: 0.8 - 0.8 * (1 - (2.5 * _off_centre(1.4 * x + u)).square()).clamp_min(0).sqrt(),
)  # in the order of SKYLINES
