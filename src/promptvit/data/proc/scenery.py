"""What drawn sets share: colours, smooth backdrops, patterns, and the sensor at the end."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from promptvit.data.proc import drawing
from promptvit.data.proc.rolls import Rolls


def rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours ``[..., 3]`` of hue (in turns), saturation and value (in [0, 1])."""
    sector = (hue[..., None] * 6 + hue.new_tensor([5, 3, 1])) % 6
    return value[..., None] * (1 - saturation[..., None] * torch.minimum(sector, 4 - sector).clamp(0, 1))


def bright(rolls: Rolls, *shape: int) -> Tensor:
    """Light or strong colours ``[count, *shape, 3]``: they stand out from :func:`backdrop`."""
    return rgb(rolls.uniform(0, 1, *shape), rolls.uniform(0.1, 0.8, *shape), rolls.uniform(0.7, 1, *shape))


def backdrop(rolls: Rolls, points: Tensor) -> Tensor:
    """Dark images ``[count, 3, h, w]``: a colour with soft clouds of another one."""
    first, second = (rgb(rolls.uniform(0, 1), rolls.uniform(0, 0.7), rolls.uniform(0.05, 0.35))[:, :, None, None] for _ in range(2))
    return first + clouds(rolls, points.expand(rolls.count, -1, -1, -1), 0.5)[:, None] * (second - first)


def panel(rolls: Rolls, images: Tensor, points: Tensor) -> Tensor:
    """A large dark area behind everything: the picture's contrast is then not that of its objects alone."""
    local = drawing.place(points, rolls.uniform(-0.9, 0.9, 2), rolls.uniform(0, 2 * math.pi))
    colour = rgb(rolls.uniform(0, 1), rolls.uniform(0, 0.7), rolls.uniform(0, 0.3))
    return lay(images, drawing.box(local, rolls.uniform(0.4, 1.2, 2)), colour)


def clouds(rolls: Rolls, local: Tensor, frequency: float, waves: int = 4) -> Tensor:
    """Smooth random fields ``[count, h, w]`` in (0, 1) with about ``frequency`` cycles per unit of ``local [count, h, w, 2]``."""
    total = torch.zeros(local.shape[:-1], dtype=torch.float64)
    for _ in range(waves):
        turn, pace = rolls.uniform(0, 2 * math.pi), 2 * math.pi * frequency * rolls.uniform(0.5, 1.5)
        x, y = ((pace * wave)[:, None, None] * local[..., axis] for axis, wave in enumerate((turn.cos(), turn.sin())))
        total += (x + y + rolls.uniform(0, 2 * math.pi)[:, None, None]).sin()
    return 0.5 + 0.5 * torch.tanh(total / math.sqrt(waves / 2))


def cells(local: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Voronoi cells around ``seeds [n, k, 2]``: distances to the nearest and to the second seed, and which is the nearest."""
    nearest = second = torch.full(local.shape[:-1], math.inf, dtype=torch.float64)
    owner = torch.zeros(local.shape[:-1], dtype=torch.int64)
    for index, seed in enumerate(seeds.unbind(1)):
        distance = (local - seed[:, None, None]).square().sum(-1)
        owner = torch.where(distance < nearest, index, owner)
        second = torch.minimum(second, torch.maximum(distance, nearest))
        nearest = torch.minimum(nearest, distance)
    return nearest.sqrt(), second.sqrt(), owner


def profile(x: Tensor, knots: Tensor) -> Tensor:
    """Heights ``[n, h, w]`` over ``x [n, h, w]`` of polylines through ``knots [n, k, 2]`` sorted by x; level beyond the ends."""
    height = knots[:, 0, 1, None, None].expand(x.shape)
    for start, end in zip(knots[:, :-1].unbind(1), knots[:, 1:].unbind(1), strict=True):
        run = (end[:, 0] - start[:, 0]).clamp_min(1e-6)[:, None, None]
        share = ((x - start[:, 0, None, None]) / run).clamp(0, 1)
        height = height + share * (end[:, 1] - start[:, 1])[:, None, None]
    return height


def grid_place(cell: Tensor, side: int, jitter: Tensor, reach: float = 0.88) -> Tensor:
    """Centres ``[n, 2]`` of ``cell [n]`` of a ``side`` x ``side`` grid over [-reach, reach], moved by ``jitter [n, 2]`` cells."""
    place = torch.stack([cell % side, cell // side], dim=-1) + 0.5 + jitter
    return (place * (2 / side) - 1) * reach


def per_class(labels: Tensor, functions: Sequence[Callable[..., Tensor]], *arguments: Tensor) -> Tensor:
    """Fields ``[n, h, w]``, each by its class's function of its own rows of ``arguments``."""
    parts = [(labels == index).nonzero()[:, 0] for index in range(len(functions))]
    made = [function(*(argument[at] for argument in arguments)) for function, at in zip(functions, parts, strict=True)]
    return torch.cat(made)[torch.cat(parts).argsort()]


def sensed(rolls: Rolls, images: Tensor, noise: float = 0.02, invert: bool = True) -> Tensor:
    """The finished images: with ``invert`` half of them are negatives, so that brightness tells nothing; noise of at most ``noise``."""
    if invert:
        images = torch.where(rolls.chance(0.5, 1, 1, 1), 1 - images, images)
    grain = rolls.uniform(0, noise, 1, 1, 1) * rolls.noise(1, *images.shape[-2:])
    return (images + grain).clamp(0, 1)


def lay(images: Tensor, distance: Tensor, colour: Tensor, present: Tensor | None = None) -> Tensor:
    """:func:`drawing.paint` with edges one pixel wide, only on images where ``present [n]``."""
    if present is not None:
        distance = distance.masked_fill(~present[:, None, None], math.inf)
    return drawing.paint(images, distance, colour, 2 / images.shape[-1])
