"""The endless stream of drawn images that the bundled backbones are pre-trained on: no files, a function of a seed.

Each image: a background (flat, ramp, disc, grating, checks or blotches) under one to four shapes (six outlines that have a style,
three kinds of strokes). A shape's brightness keeps away from what it covers, a third of the images are grey, and half are inverted,
so that no colour is privileged. There is no pixel noise: whatever a masked patch shows can be predicted or is a shape of its own.

The last shape lies on top, uncovered and near the middle. Its kind and style are the image's label.
"""

import math

import torch
from torch import Tensor

from promptvit.data.proc import drawing
from promptvit.data.proc.dice import Dice

VERSION = 2
SHAPES = 4
AREAS = ("ellipse", "box", "triangle", "star", "cross", "crescent")
STYLES = ("solid", "outlined", "striped")
STROKES = ("curve", "zigzag", "loop")
CLASSES = (*(f"{style} {area}" for area in AREAS for style in STYLES), *STROKES)


def draw_batch(generator: torch.Generator, count: int, size: int, rows: slice = slice(None)) -> Tensor:
    """Draw ``count`` images.

    Args:
        generator: source of all randomness; the images are drawn on its device.
        count: number of images in the batch.
        size: side in pixels.
        rows: which images of the batch to paint (for several processes that share it); default: all.

    Returns:
        ``[rows, 3, size, size]`` float32 in [0, 1].
    """
    return draw_labelled(generator, count, size, rows)[0]


def draw_labelled(generator: torch.Generator, count: int, size: int, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """:func:`draw_batch`, and the kind and style of each image's topmost shape as ``[rows]`` int64 into :data:`CLASSES`."""
    dice = Dice(generator, count, rows)
    points = drawing.canvas(size).to(dice.device)
    images = _background(dice, points)
    number = 1 + dice.choice(SHAPES)
    labels = torch.zeros_like(number)
    for left in reversed(range(SHAPES)):
        labels = _some_classes(dice)
        images = _lay(dice, images, points, labels, present=left < number, on_top=left == 0)
    grey = dice.chance(1 / 3, 1, 1, 1)
    images = torch.where(grey, images.mean(dim=1, keepdim=True), images)
    images = torch.where(dice.chance(0.5, 1, 1, 1), 1 - images, images)
    return images.clamp(0, 1), labels


def _some_classes(dice: Dice) -> Tensor:
    """A third strokes, two thirds areas: ``[n]`` int64."""
    areas = len(CLASSES) - len(STROKES)
    return torch.where(dice.chance(1 / 3), areas + dice.choice(len(STROKES)), dice.choice(areas))


def _background(dice: Dice, points: Tensor) -> Tensor:
    local = drawing.place(points, dice.uniform(-0.5, 0.5, 2), dice.uniform(0, 2 * math.pi))
    frequency, phase = dice.uniform(0.4, 2.5), dice.uniform(0, 2 * math.pi)
    flat = torch.zeros_like(local[..., 0])
    patterns = torch.stack([
        (local[..., 0] / 2.83 + 0.5).clamp(0, 1),
        (local.norm(dim=-1) / 1.5).clamp(0, 1),
        drawing.grating(local, frequency, phase),
        drawing.sharpened(drawing.checks(local, frequency, phase)),
        drawing.blotches(dice.uniform(0, 1, 5, 5), points.shape[0]),
        flat, flat, flat,
    ])
    mix = patterns[dice.choice(len(patterns)), torch.arange(dice.count, device=dice.device)][:, None]
    first, second = dice.uniform(0, 0.8, 3, 1, 1), dice.uniform(0, 0.8, 3, 1, 1)
    return first + mix * (second - first)


def _lay(dice: Dice, images: Tensor, points: Tensor, labels: Tensor, *, present: Tensor, on_top: bool) -> Tensor:
    """Paint one shape per image over ``images`` where ``present [n]``."""
    reach, smallest = (0.4, 0.35) if on_top else (0.9, 0.15)
    centre, angle = dice.uniform(-reach, reach, 2), dice.uniform(0, 2 * math.pi)
    local = drawing.place(points, centre, angle)
    distance = _distance(dice, local, labels, dice.uniform(smallest, 0.7))
    distance = distance.masked_fill(~present[:, None, None], math.inf)
    softness = 2 / points.shape[0]
    return drawing.paint(images, distance, _colour(dice, images, local, distance, labels), softness)


def _distance(dice: Dice, local: Tensor, labels: Tensor, radius: Tensor) -> Tensor:
    """Signed distances ``[n, h, w]`` to the shapes that ``labels`` name; each kind is computed for its own images only."""
    aspect = dice.uniform(0.55, 1)
    half = torch.stack([radius, radius * aspect], dim=-1)
    paths = (_arc(dice, radius), _zigzag(dice, radius), _loop(dice, radius))
    width = dice.uniform(0.05, 0.12)
    draw = (
        lambda at: drawing.ellipse(local[at], half[at]),
        lambda at: drawing.box(local[at], half[at]),
        lambda at: drawing.polygon(local[at], radius[at], torch.full_like(radius[at], 3)),
        lambda at: drawing.star(local[at], radius[at]),
        lambda at: drawing.cross(local[at], half[at]),
        lambda at: drawing.crescent(local[at], radius[at]),
        *(lambda at, path=path: drawing.stroke(local[at], path[at], width[at]) for path in paths),
    )
    areas = len(AREAS) * len(STYLES)
    kind = torch.where(labels < areas, labels // len(STYLES), labels - areas + len(AREAS))
    distance = torch.empty_like(local[..., 0])
    for index, function in enumerate(draw):
        at = (kind == index).nonzero()[:, 0]
        distance[at] = function(at)
    outlined = (labels < areas) & (labels % len(STYLES) == STYLES.index("outlined"))
    return torch.where(outlined[:, None, None], drawing.outline(distance + width[:, None, None], width), distance)


def _colour(dice: Dice, images: Tensor, local: Tensor, distance: Tensor, labels: Tensor) -> Tensor:
    """Colours ``[n, 3, h, w]``: brighter or darker than what they cover by at least a quarter; striped, shaded or plain."""
    cover = (distance < 0).to(images.dtype)
    covered = (images.mean(dim=1) * cover).sum(dim=(1, 2)) / cover.sum(dim=(1, 2)).clamp_min(1)
    first = _contrasting(dice, covered)
    second = _contrasting(dice, first.mean(dim=1))
    phase = dice.uniform(0, 2 * math.pi)
    stripes = drawing.sharpened(drawing.grating(local, dice.uniform(1.8, 3.2), phase))
    shade = (0.5 + 0.5 * local[..., 1]).clamp(0, 1) * dice.uniform(0, 0.5, 1, 1) * dice.chance(0.4, 1, 1)
    areas = len(AREAS) * len(STYLES)
    striped = (labels < areas) & (labels % len(STYLES) == STYLES.index("striped"))
    mix = torch.where(striped[:, None, None], stripes, shade)[:, None]
    first, second = first[:, :, None, None], second[:, :, None, None]
    return first + mix * (second - first)


def _contrasting(dice: Dice, brightness: Tensor) -> Tensor:
    """Colours ``[n, 3]`` whose mean differs from ``brightness [n]`` by 0.25 to 0.5, towards the side with more room."""
    gap = dice.uniform(0.25, 0.5)
    mean = torch.where(brightness < 0.5, brightness + gap, brightness - gap)
    hue = dice.uniform(-0.4, 0.4, 3)
    hue = hue - hue.mean(dim=1, keepdim=True)
    room = torch.minimum(mean, 1 - mean).clamp_min(0)[:, None]
    return mean[:, None] + hue * (room / hue.abs().amax(dim=1, keepdim=True)).clamp_max(1)


def _arc(dice: Dice, radius: Tensor, segments: int = 7) -> Tensor:
    """Curves ``[n, segments + 1, 2]`` that bend to one side."""
    tip = torch.cat([dice.uniform(-0.6, 0.6, 1), dice.uniform(1, 2.5, 1)], dim=1)
    ends = tip.new_tensor([[-1, -0.5], [1, -0.5]]).expand(dice.count, -1, -1)
    control = torch.stack([ends[:, 0], tip, ends[:, 1]], dim=1)
    return drawing.bezier(radius[:, None, None] * control, segments)


def _zigzag(dice: Dice, radius: Tensor) -> Tensor:
    """Polylines ``[n, 4, 2]`` with three legs, there and back."""
    x = torch.linspace(-0.7, 0.7, 4, device=dice.device) + dice.uniform(-0.2, 0.2, 4)
    y = dice.uniform(0.3, 0.9, 4) * x.new_tensor([1, -1, 1, -1])
    return radius[:, None, None] * torch.stack([x, y], dim=-1)


def _loop(dice: Dice, radius: Tensor, segments: int = 12) -> Tensor:
    """Smooth closed curves ``[n, segments + 1, 2]``: an ellipse and its second harmonic, which dents or crosses it."""
    t = torch.linspace(0, 2 * math.pi, segments + 1, device=dice.device)
    circle, twice = torch.stack([t.cos(), t.sin()], dim=-1), torch.stack([(2 * t).cos(), (2 * t).sin()], dim=-1)
    squeeze = torch.cat([torch.ones_like(radius[:, None]), dice.uniform(0.4, 1, 1)], dim=1)[:, None]
    path = circle * squeeze + torch.einsum("pb,nab->npa", twice, dice.uniform(-0.8, 0.8, 2, 2))
    return path * (radius / path.norm(dim=-1).amax(dim=1))[:, None, None]
