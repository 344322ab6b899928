"""The second family, ``proc-dev/*``, for choosing settings: other things to tell apart, drawn in other ways."""

import math
from itertools import product

import torch
from torch import Tensor

from promptvit.data.proc import drawing, scenery
from promptvit.data.proc.rolls import Rolls
from promptvit.data.proc.specialised import false_colour

LOBES = (1, 3, 5, 7)
LEAVES = tuple(f"{lobes} {margin} {form}" for lobes, (margin, form) in product(
    LOBES, (("smooth", "slim"), ("smooth", "broad"), ("toothed", "slim"), ("toothed", "broad"), ("veined", "broad"))
))
GRAINS = ("fine", "coarse", "streaked", "folded", "layered")
LANDFORMS = ("hill", "crater", "ridge", "valley", "terrace")
COLUMNS = tuple(str(number) for number in range(2, 7))
DIALS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
LAMPS = ("E", "SE", "S", "SW", "W", "NW", "N", "NE")


def leaves(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """Leaves on a plain ground: lobes, margin, and how broad they are."""
    points = drawing.canvas(size)
    lobes = torch.tensor(LOBES, dtype=torch.float64)[labels // 5][:, None, None]
    style = labels % 5
    toothed, veined = (((style == 2) | (style == 3))[:, None, None], (style == 4)[:, None, None])
    broad = torch.where((style == 0) | (style == 2), 0.42, 0.66)[:, None, None]
    images = scenery.bright(rolls)[:, :, None, None] * (0.85 + 0.15 * points[..., 1])
    local = drawing.place(points, rolls.uniform(-0.1, 0.1, 2), rolls.uniform(0, 2 * math.pi))
    x, y = local[..., 0], local[..., 1] / broad
    length, angle = torch.stack([x, y], dim=-1).norm(dim=-1), torch.atan2(y, x)
    lobed = torch.where(lobes > 1, 0.3 * (angle * (lobes + 1) / 2).cos().abs(), 0.3 * (angle / 2).cos().abs())
    teeth = torch.where(toothed, 0.06 * (angle * 24).sin(), 0.0)
    edge = rolls.uniform(0.78, 0.95, 1, 1) * (0.7 + lobed + teeth)
    green = scenery.rgb(rolls.uniform(0.05, 0.45), rolls.uniform(0.5, 0.9), rolls.uniform(0.25, 0.6))
    images = scenery.lay(images, (length - edge) * broad, green)
    rib, slant = y.abs() * broad, 2 * x - y.abs()
    veins = (slant - slant.floor() - 0.5).abs() / 2
    ribs = torch.where(veined, torch.minimum(rib, veins), rib) - 0.02
    return scenery.sensed(rolls, scenery.lay(images, torch.maximum(ribs, length - edge), green * 1.6), invert=False)


def grains(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """Five kinds of marbled noise, by the statistics of their waves."""
    points = drawing.canvas(size)
    turn = rolls.uniform(0, 2 * math.pi)
    local = drawing.place(points, rolls.uniform(-1, 1, 2), turn) * rolls.uniform(0.85, 1.2, 1, 1, 1)
    pace = torch.tensor([[3.2, 3.2], [1.1, 1.1], [3.6, 0.5], [1.3, 1.3], [2.0, 2.0]], dtype=torch.float64)[labels]
    rough = scenery.clouds(rolls, local * pace[:, None, None], 1.0, waves=10)
    folded, layered = (2 * rough - 1).abs(), (0.5 + 0.5 * (2 * math.pi * (2.2 * local[..., 0] + 0.9 * rough)).sin())
    mix = torch.where((labels == 3)[:, None, None], folded, torch.where((labels == 4)[:, None, None], layered, rough))[:, None]
    first, second = rolls.uniform(0, 0.45, 3, 1, 1), rolls.uniform(0.5, 1, 3, 1, 1)
    return scenery.sensed(rolls, first + mix * (second - first))


def landforms(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """Height maps in false colour with slanting light: what form lies in the middle of rough ground."""
    points = drawing.canvas(size)
    local = drawing.place(points, rolls.uniform(-0.25, 0.25, 2), rolls.uniform(0, 2 * math.pi)) / rolls.uniform(0.4, 0.6, 1, 1, 1)
    bump, bank = (-local.square().sum(-1)).exp(), (-(1.2 * local[..., 0]).square()).exp()
    ring = (-6 * (local.norm(dim=-1) - 0.85).square()).exp()
    step = torch.sigmoid(6 * local[..., 0])
    forms = torch.stack([bump, ring - 0.3 * bump, bank, -bank, step])
    form = forms.gather(0, labels[None, :, None, None].expand(1, *bump.shape))[0]
    height = rolls.uniform(0.9, 1.2, 1, 1) * form + 0.45 * scenery.clouds(rolls, local, 0.35)
    around = rolls.uniform(0, 2 * math.pi, 1, 1)
    slope = around.cos() * height.diff(dim=2, append=height[:, :, -1:]) + around.sin() * height.diff(dim=1, append=height[:, -1:])
    return false_colour(rolls, (0.32 + 0.3 * height) + 0.12 * slope * size / 4 + 0.02 * rolls.noise(size, size))


def columns(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """How many columns a bar chart has, whatever their heights, widths and colours."""
    points = drawing.canvas(size)
    images = scenery.bright(rolls)[:, :, None, None].expand(-1, -1, size, size)
    number = labels + 2
    centre, reach = rolls.uniform(-0.15, 0.15), rolls.uniform(0.55, 0.75)
    foot = rolls.uniform(0.5, 0.8)
    thick = reach * rolls.uniform(0.35, 0.75) / number
    for index in range(len(COLUMNS) + 1):
        x = centre + reach * ((2 * index + 1) / number - 1)
        tall = rolls.uniform(0.15, 0.55)
        local = drawing.place(points, torch.stack([x, foot - tall], dim=-1), torch.zeros(rolls.count))
        colour = scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0.2, 0.9), rolls.uniform(0.1, 0.45))
        images = scenery.lay(images, drawing.box(local, torch.stack([thick, tall], dim=-1)), colour, index < number)
    return scenery.sensed(rolls, images)


def dials(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """Where the long hand of a dial points; the short one points anywhere."""
    points = drawing.canvas(size)
    images = scenery.backdrop(rolls, points)
    middle = rolls.uniform(-0.2, 0.2, 2)
    long = (labels + rolls.uniform(-0.3, 0.3)) * (2 * math.pi / len(DIALS)) - math.pi / 2
    local = drawing.place(points, middle, long)
    images = scenery.lay(images, local.norm(dim=-1) - rolls.uniform(0.68, 0.78, 1, 1), scenery.bright(rolls))
    short = drawing.place(points, middle, rolls.uniform(0, 2 * math.pi))
    for hand, length, width in ((short, 0.26, 0.06), (local, 0.6, 0.045)):
        ends = torch.tensor([(0.0, 0.0), (length, 0.0)], dtype=torch.float64).expand(rolls.count, -1, -1)
        colour = scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0, 0.8), rolls.uniform(0.05, 0.25))
        images = scenery.lay(images, drawing.stroke(hand, ends, torch.full((rolls.count,), width)), colour)
    return scenery.sensed(rolls, images)


def lamps(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """From which side light falls on a few domes."""
    points = drawing.canvas(size)
    images = scenery.backdrop(rolls, points) + 0.1
    turn, up = (labels + rolls.uniform(-0.3, 0.3)) * (2 * math.pi / len(LAMPS)), rolls.uniform(0.3, 0.8)
    light = torch.stack([up.cos() * turn.cos(), up.cos() * turn.sin()], dim=-1)[:, None, None]
    for index, place in enumerate(rolls.order(4)[:, :3].unbind(1)):
        radius = rolls.uniform(0.25, 0.42)[:, None, None]
        local = drawing.place(points, scenery.grid_place(place, 2, rolls.uniform(-0.06, 0.06, 2)), torch.zeros(rolls.count))
        slant = local / radius[..., None]
        facing = (1 - slant.square().sum(-1)).clamp_min(0).sqrt()
        lit = (slant * light).sum(-1) + facing * up.sin()[:, None, None]
        colour = scenery.bright(rolls)[:, :, None, None] * (0.2 + 0.8 * lit.clamp(0, 1))[:, None]
        images = scenery.lay(images, local.norm(dim=-1) - radius, colour, (rolls.chance(0.7) | torch.tensor(index == 0)))
    return scenery.sensed(rolls, images, invert=False)
