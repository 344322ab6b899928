"""Where, how many, how far, which way: tasks about the layout of a picture, on random colours and backdrops.

Nothing but the label's own quantity tells the class: objects vary in size, shape and colour, half the pictures are negatives,
and other objects stand about.
"""

import math

import torch
from torch import Tensor

from promptvit.data.proc import drawing, scenery
from promptvit.data.proc.rolls import Rolls

COUNTS = tuple(str(number) for number in range(1, 9))
DISTANCES = tuple(f"{percent} %" for percent in (16, 28, 40, 52, 64))  # of the picture's side, between centres
HEADINGS = ("E", "SE", "S", "SW", "W", "NW", "N", "NE")
PLACES = tuple(f"{column}{row}" for row in range(1, 6) for column in "ABCDE")
ROUND = 40  # a polygon of so many corners is a disc


def count(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """One to eight polygons and discs that do not touch; fewer ones are larger, and contrasts vary, so that area tells little."""
    points = drawing.canvas(size)
    images = scenery.backdrop(rolls, points)
    for _ in range(2):
        images = scenery.panel(rolls, images, points)
    cells = rolls.order(16)
    largest = 0.21 * (labels + 1) ** -0.22 * rolls.uniform(0.7, 1)
    light = rolls.uniform(0.75, 1, 1)
    for index in range(len(COUNTS)):
        centre = scenery.grid_place(cells[:, index], 4, rolls.uniform(-0.06, 0.06, 2))
        shape = _polygon(rolls, points, centre, largest * rolls.uniform(0.8, 1))
        images = scenery.lay(images, shape, light * scenery.bright(rolls), index <= labels)
    return scenery.sensed(rolls, images)


def distance(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """How far two discs of one colour are apart, among bars and outlines of other colours."""
    points = drawing.canvas(size)
    images = scenery.backdrop(rolls, points)
    hue = rolls.uniform(0, 1)
    for _ in range(2):
        images = _clutter(rolls, images, points, hue)
    apart = 0.32 + 0.24 * labels + rolls.uniform(-0.07, 0.07)
    turn = rolls.uniform(0, 2 * math.pi)
    half = apart[:, None] / 2 * torch.stack([turn.cos(), turn.sin()], dim=-1)
    middle = rolls.uniform(-1, 1, 2) * (0.8 - half.abs())
    colour = scenery.rgb(hue, rolls.uniform(0.3, 0.8), rolls.uniform(0.85, 1))
    radius = rolls.uniform(0.09, 0.12)
    for sign in (-1, 1):
        local = drawing.place(points, middle + sign * half, turn)
        images = scenery.lay(images, local.norm(dim=-1) - radius[:, None, None], colour)
    return scenery.sensed(rolls, images)


def orientation(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """Where the narrow end of a dart or a drop points, among discs and squares."""
    points = drawing.canvas(size)
    images = scenery.backdrop(rolls, points)
    for _ in range(2):
        centre, radius = rolls.uniform(-0.9, 0.9, 2), rolls.uniform(0.08, 0.16)
        images = scenery.lay(images, _polygon(rolls, points, centre, radius, (4, ROUND)), scenery.bright(rolls))
    angle = (labels + rolls.uniform(-0.3, 0.3)) * (2 * math.pi / len(HEADINGS))
    local = drawing.place(points, rolls.uniform(-0.35, 0.35, 2), angle)
    length, width = rolls.uniform(0.3, 0.45)[:, None, None], rolls.uniform(0.16, 0.24)[:, None, None]
    ahead, aside = local[..., 0], local[..., 1].abs()
    slope = width / (2 * length)
    flank = (aside - slope * (length - ahead)) / (1 + slope.square()).sqrt()
    dart = torch.maximum(flank, -length - ahead)
    bulb = width * 0.85
    rounded = torch.maximum(flank, bulb - length - ahead)  # the drop's rear end is a disc instead of a straight edge
    drop = torch.minimum(rounded, torch.stack([ahead + length - bulb, aside], dim=-1).norm(dim=-1) - bulb)
    shape = torch.where(rolls.chance(0.5, 1, 1), dart, drop)
    return scenery.sensed(rolls, scenery.lay(images, shape, scenery.bright(rolls)))


def location(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """In which of 5 x 5 fields the bull's eye lies, a disc within a ring of another colour; the others are of one colour."""
    points = drawing.canvas(size)
    images = scenery.backdrop(rolls, points)
    for _ in range(4):
        centre, radius = rolls.uniform(-0.85, 0.85, 2), rolls.uniform(0.12, 0.2)
        images = scenery.lay(images, _polygon(rolls, points, centre, radius), scenery.bright(rolls), rolls.chance(0.7))
    centre = scenery.grid_place(labels, 5, rolls.uniform(-0.3, 0.3, 2), reach=0.9)
    length = drawing.place(points, centre, torch.zeros(rolls.count)).norm(dim=-1)
    radius = rolls.uniform(0.17, 0.22)[:, None, None]
    images = scenery.lay(images, length - radius, scenery.bright(rolls))
    core = scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0, 0.7), rolls.uniform(0, 0.25))
    return scenery.sensed(rolls, scenery.lay(images, length - 0.5 * radius, core))


def _polygon(rolls: Rolls, points: Tensor, centre: Tensor, radius: Tensor, sides: tuple[int, ...] = (3, 4, 5, ROUND)) -> Tensor:
    """Distance to turned regular polygons, each with one of these numbers of corners."""
    corners = torch.tensor(sides, dtype=torch.float64)[rolls.choice(len(sides))]
    return drawing.polygon(drawing.place(points, centre, rolls.uniform(0, 2 * math.pi)), radius, corners)


def _clutter(rolls: Rolls, images: Tensor, points: Tensor, hue: Tensor) -> Tensor:
    """A bar or the outline of a polygon, in another hue than ``hue``."""
    local = drawing.place(points, rolls.uniform(-0.8, 0.8, 2), rolls.uniform(0, 2 * math.pi))
    bar = drawing.box(local, torch.stack([rolls.uniform(0.2, 0.6), rolls.uniform(0.02, 0.06)], dim=-1))
    sides = 3.0 + rolls.choice(3)
    frame = drawing.outline(drawing.polygon(local, rolls.uniform(0.2, 0.45), sides), rolls.uniform(0.02, 0.04))
    colour = scenery.rgb(hue + rolls.uniform(0.3, 0.7), rolls.uniform(0.4, 0.9), rolls.uniform(0.5, 0.8))
    return scenery.lay(images, torch.where(rolls.chance(0.5, 1, 1), bar, frame), colour, rolls.chance(0.8))
