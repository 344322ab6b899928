"""Fine-grained sets: one kind of thing each, in 20 to 40 species that differ in a few proportions.

Colours never name the species, except where the class name says so; place, size, turn and light vary.
"""

import hashlib
import math
from itertools import product

import torch
from torch import Tensor

from promptvit.data.proc import drawing, scenery
from promptvit.data.proc.rolls import Rolls

PETALS = (4, 5, 6, 8)
HUES = {"red": 0.0, "orange": 0.08, "yellow": 0.15, "violet": 0.77, "pink": 0.9}
FLOWERS = tuple(f"{petals} {tip} {hue}" for petals, tip, hue in product(PETALS, ("round", "pointed"), HUES))
BODIES = (1.05, 1.35, 1.7, 2.15, 2.7)  # length over width
MARKINGS = ("plain", "two spots", "four spots", "band", "stripe")
BEETLES = tuple(f"{body} {marking}" for body, marking in product(BODIES, MARKINGS))
RIMS = ("triangle", "square", "pentagon", "hexagon", "disc")
RAYS = (3, 4, 5, 6)
EMBLEMS = tuple(f"{rim}, {rays} {style}" for rim, rays, style in product(RIMS, RAYS, ("rays", "dots")))
GLYPHS = tuple(f"{letter}{variant}" for letter, variant in product("ABCDEFGHIJ", range(4)))
CARS = tuple(f"{cut} {body}" for body, cut in product(("saloon", "estate", "pick-up", "van"), ("plain", "low", "high", "long", "short")))


def flowers(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """Number of petals, their tips, and the family of their colour; the heart and the leaves behind vary freely."""
    points = drawing.canvas(size)
    petals = torch.tensor(PETALS, dtype=torch.float64)[labels // 10][:, None, None]
    pointed = (labels // 5 % 2).bool()[:, None, None]
    hue = torch.tensor(list(HUES.values()), dtype=torch.float64)[labels % 5] + rolls.uniform(-0.02, 0.02)
    images = scenery.backdrop(rolls, points)
    images[:, 1] += rolls.uniform(0, 0.15, 1, 1)  # greenery
    local = _placed(rolls, points, reach=0.15, turn=math.pi) * (1 + 0.15 * rolls.uniform(0, 1, 1, 1, 2))  # seen a little from the side
    length, angle = local.norm(dim=-1), torch.atan2(local[..., 1], local[..., 0])
    wave = (angle * petals / 2).cos().abs()  # 1 along a petal, 0 between two
    shape = torch.where(pointed, 1 - (1 - wave.square()).clamp_min(0).sqrt(), wave.sqrt())
    radius = rolls.uniform(0.6, 0.8)[:, None, None]
    edge = radius * (0.38 + 0.62 * shape)
    petal = scenery.rgb(hue, rolls.uniform(0.65, 0.9), rolls.uniform(0.75, 1))
    shade = (0.65 + 0.35 * (length / edge).clamp(0, 1))[:, None]
    images = scenery.lay(images, (length - edge) * 0.7, petal[:, :, None, None] * shade)
    heart = scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0.2, 0.8), rolls.uniform(0.3, 1))
    images = scenery.lay(images, length - radius * rolls.uniform(0.18, 0.26, 1, 1), heart)
    return scenery.sensed(rolls, images, invert=False)


def beetles(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """How long the body is, and the marking of its wings; colours and legs vary freely."""
    points = drawing.canvas(size)
    images = 0.45 + scenery.backdrop(rolls, points)
    ratio = torch.tensor(BODIES, dtype=torch.float64)[labels // 5] * rolls.uniform(0.96, 1.04)
    marking = labels % 5
    half = rolls.uniform(0.36, 0.42)[:, None] * torch.stack([ratio.sqrt(), 1 / ratio.sqrt()], dim=-1)
    local = _placed(rolls, points, reach=0.12, turn=0.5, start=-math.pi / 2)  # head up
    mirrored = torch.stack([local[..., 0], local[..., 1].abs()], dim=-1)
    dark = scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0, 0.6), rolls.uniform(0.05, 0.3))
    for start, spread in ((-0.4, -0.25), (0.0, 0.05), (0.4, 0.3)):
        foot = torch.stack([start + spread * rolls.uniform(0.7, 1.3), half[:, 1] + rolls.uniform(0.14, 0.24)], dim=-1)
        leg = torch.stack([torch.stack([start * half[:, 0], half[:, 1] * 0.8], dim=-1), foot], dim=1)
        images = scenery.lay(images, drawing.stroke(mirrored, leg, torch.full_like(ratio, 0.025)), dark)
    head = local - torch.stack([half[:, 0], torch.zeros_like(ratio)], dim=-1)[:, None, None]
    images = scenery.lay(images, head.norm(dim=-1) - 0.55 * half[:, 1, None, None], dark)
    shell = scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0.3, 0.9), rolls.uniform(0.5, 0.95))
    body = drawing.ellipse(local, half)
    images = scenery.lay(images, body, shell)
    mark = _marking(mirrored / half[:, None, None], marking) * half.amin(dim=1)[:, None, None]
    images = scenery.lay(images, torch.maximum(mark, body), dark)
    return scenery.sensed(rolls, images)


def _marking(unit: Tensor, marking: Tensor) -> Tensor:
    """Distance to the marking on a mirrored body of half axes 1."""
    along, aside = unit.unbind(-1)

    def spot(at: float, radius: float) -> Tensor:
        return torch.stack([along - at, aside - 0.48], dim=-1).norm(dim=-1) - radius

    choices = torch.stack([
        torch.full_like(along, math.inf), spot(0, 0.27), torch.minimum(spot(-0.42, 0.22), spot(0.35, 0.22)),
        along.abs() - 0.17, aside - 0.17,
    ])
    return choices.gather(0, marking[None, :, None, None].expand(1, *along.shape))[0]


def emblems(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """The outline of a badge, and how many rays or dots are on it."""
    points = drawing.canvas(size)
    images = scenery.backdrop(rolls, points)
    sides = torch.tensor([3.0, 4, 5, 6, 60], dtype=torch.float64)[labels // 8]
    rays = torch.tensor(RAYS, dtype=torch.float64)[labels // 2 % 4]
    dotted = (labels % 2).bool()[:, None, None]
    local = _placed(rolls, points, reach=0.12, turn=0.5, start=-math.pi / 2)
    radius = rolls.uniform(0.72, 0.82) * torch.where(sides == 3, 1.1, 1.0)
    rim = drawing.polygon(local, radius, sides)
    ground, figure = scenery.bright(rolls), scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0.2, 0.9), rolls.uniform(0.05, 0.3))
    images = scenery.lay(images, rim, ground)
    images = scenery.lay(images, drawing.outline(rim + 0.05, torch.full_like(radius, 0.02)), figure)
    sector = (2 * math.pi / rays)[:, None, None]
    angle = torch.atan2(local[..., 1], local[..., 0]) + rolls.uniform(0, 2 * math.pi, 1, 1)
    folded = angle - sector * torch.round(angle / sector)
    length = local.norm(dim=-1)
    ahead, aside = length * folded.cos(), (length * folded.sin()).abs()
    reach = (radius * torch.where(sides == 3, 0.42, 0.48))[:, None, None]
    ray = torch.maximum(aside - 0.055, ahead - reach).masked_fill(ahead < 0, 1.0)
    dot = torch.stack([ahead - 0.72 * reach, aside], dim=-1).norm(dim=-1) - 0.24 * reach
    images = scenery.lay(images, torch.where(dotted, dot, ray), figure)
    return scenery.sensed(rolls, images)


def glyphs(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """An alphabet of ten letters in four variants that differ in one stroke, written by a shaky hand."""
    points = drawing.canvas(size)
    images = scenery.backdrop(rolls, points)
    strokes = ALPHABET[labels]
    local = drawing.place(points, rolls.uniform(-0.12, 0.12, 2), rolls.uniform(-0.25, 0.25))
    sheared = torch.stack([local[..., 0] + rolls.uniform(-0.3, 0.3, 1, 1) * local[..., 1], local[..., 1]], dim=-1)
    written = strokes * rolls.uniform(0.5, 0.68, 1, 1, 2) + rolls.uniform(-0.05, 0.05, 4, 2, 2)
    width = rolls.uniform(0.045, 0.085)
    lines = [drawing.stroke(sheared, line, width) for line in written.unbind(1)]
    images = scenery.lay(images, torch.stack(lines).amin(dim=0), scenery.bright(rolls))
    return scenery.sensed(rolls, images)


def _alphabet() -> Tensor:
    """Four strokes for each glyph: ``[40, 4, 2, 2]``, ends on a 3 x 3 lattice. A variant's last stroke is its own."""
    lattice = torch.tensor([(x, y) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)], dtype=torch.float64, device="cpu")
    pairs = [(a, b) for a in range(9) for b in range(a) if (lattice[a] - lattice[b]).abs().amax() < 1.5]  # neighbours
    shuffled = [sorted(pairs, key=lambda pair: hashlib.sha256(f"{letter}{pair}".encode()).digest()) for letter in range(10)]
    strokes = [[*letter[:3], letter[3 + variant]] for letter in shuffled for variant in range(4)]
    return lattice[torch.tensor(strokes, device="cpu")]


ALPHABET = _alphabet()


def cars(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """Bodies seen from the side: four kinds of roof, each with its roof or its wheelbase a little changed."""
    points = drawing.canvas(size)
    images = 0.45 + scenery.backdrop(rolls, points)
    ground = rolls.uniform(0.3, 0.5)
    road = scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0, 0.1), rolls.uniform(0.25, 0.5))
    images = scenery.lay(images, ground[:, None, None] - points[..., 1], road)
    zoom = rolls.uniform(1.0, 1.2)
    local = drawing.place(points, torch.stack([rolls.uniform(-0.08, 0.08), ground - 0.02], dim=-1), rolls.uniform(-0.05, 0.05))
    local = local * zoom[:, None, None, None] * _facing(rolls)
    x, y = local[..., 0], -local[..., 1]  # y: height over the ground
    roof, stretch = _roof(labels // 5, labels % 5)
    paint = scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0, 0.9), rolls.uniform(0.2, 0.9))
    height = scenery.profile(x, roof)
    hull = torch.maximum(torch.maximum(y - height, 0.1 - y) * 0.8, x.abs() - 0.78 * stretch[:, None, None])
    images = scenery.lay(images, hull, paint)
    sill = roof[:, 1, 1, None, None] + 0.03
    glass = scenery.rgb(rolls.uniform(0, 1), rolls.uniform(0, 0.3), rolls.uniform(0.05, 0.2))
    images = scenery.lay(images, torch.maximum(hull + 0.055, sill - y), glass)
    tyre = rolls.uniform(0.12, 0.15)[:, None, None]
    for side in (-0.48, 0.48):
        wheel = torch.stack([x - side * stretch[:, None, None], y - tyre], dim=-1).norm(dim=-1)
        images = scenery.lay(images, wheel - tyre, torch.full_like(paint, 0.08))
        images = scenery.lay(images, wheel - 0.5 * tyre, torch.full_like(paint, 0.6))
    return scenery.sensed(rolls, images)


def _roof(body: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """The roof's line ``[n, 8, 2]`` and how much longer than plain the car is, ``[n]``."""
    roof = ROOFS[body].clone()
    rise = 1 + 0.22 * ((cut == 2).double() - (cut == 1).double())
    waist = roof[:, 1:2, 1].clone()
    roof[:, 2:6, 1] = waist + (roof[:, 2:6, 1] - waist) * rise[:, None]
    stretch = 1 + 0.14 * ((cut == 3).double() - (cut == 4).double())
    roof[..., 0] *= stretch[:, None]
    return roof, stretch


ROOFS = torch.tensor([  # (x, height) from the rear bumper over the roof to the front bumper, by body
    [(-0.78, 0.36), (-0.5, 0.42), (-0.32, 0.68), (-0.28, 0.7), (0.1, 0.7), (0.14, 0.68), (0.36, 0.4), (0.78, 0.34)],
    [(-0.78, 0.36), (-0.74, 0.42), (-0.66, 0.68), (-0.6, 0.7), (0.1, 0.7), (0.14, 0.68), (0.36, 0.4), (0.78, 0.34)],
    [(-0.78, 0.4), (-0.12, 0.42), (-0.1, 0.7), (-0.06, 0.72), (0.18, 0.72), (0.22, 0.7), (0.4, 0.42), (0.78, 0.36)],
    [(-0.78, 0.4), (-0.76, 0.42), (-0.74, 0.84), (-0.7, 0.86), (0.36, 0.86), (0.42, 0.84), (0.62, 0.44), (0.78, 0.36)],
], dtype=torch.float64, device="cpu")


def _facing(rolls: Rolls) -> Tensor:
    """To the right or to the left: factors ``[n, 1, 1, 2]`` of x and y."""
    ahead = torch.where(rolls.chance(0.5), 1.0, -1.0)
    return torch.stack([ahead, torch.ones_like(ahead)], dim=-1)[:, None, None]


def _placed(rolls: Rolls, points: Tensor, reach: float, turn: float, start: float = 0.0) -> Tensor:
    """Frames ``[n, h, w, 2]`` up to ``reach`` from the middle, turned from ``start`` by up to ``turn`` either way."""
    return drawing.place(points, rolls.uniform(-reach, reach, 2), start + rolls.uniform(-turn, turn))
