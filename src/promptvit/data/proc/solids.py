"""Solid figures of ellipsoids and boxes, seen by an orthographic camera: rays meet them in closed form, light is Lambert's.

The figure's frame: x to the front, y to the left, z up. The camera looks at the origin from ``azimuth`` (0: from the front, then
counter-clockwise seen from above) and ``elevation`` above the ground.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from promptvit.data.proc import drawing, scenery
from promptvit.data.proc.rolls import Rolls

AZIMUTHS = ("front", "front left", "left", "rear left", "rear", "rear right", "right", "front right")
ELEVATIONS = tuple(f"{degrees}°" for degrees in (5, 22, 39, 56, 73))


@dataclass(frozen=True)
class Part:
    """An ellipsoid, or a box, by its centre and half axes; ``paint`` is the number of its colour."""

    boxed: bool
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    paint: int = 0


def _ball(centre: tuple[float, float, float], half: tuple[float, float, float], paint: int = 0) -> Part:
    return Part(False, centre, half, paint)


def _box(centre: tuple[float, float, float], half: tuple[float, float, float], paint: int = 0) -> Part:
    return Part(True, centre, half, paint)


FIGURES = (
    (  # a beast
        _ball((-0.05, 0, 0.05), (0.5, 0.22, 0.22)), _ball((0.5, 0, 0.33), (0.2, 0.16, 0.17), 1),
        _ball((0.7, 0, 0.27), (0.13, 0.08, 0.07)), _ball((-0.6, 0, 0.27), (0.06, 0.05, 0.22)),
        _box((0.25, 0, -0.28), (0.06, 0.17, 0.2), 1), _box((-0.35, 0, -0.28), (0.06, 0.17, 0.2), 1),
    ),
    (  # a lorry
        _box((-0.2, 0, 0.1), (0.5, 0.3, 0.3)), _box((0.5, 0, -0.02), (0.17, 0.27, 0.18), 1), _box((0.02, 0, -0.25), (0.7, 0.22, 0.05), 1),
        _ball((0.45, 0, -0.32), (0.13, 0.32, 0.13), 1), _ball((-0.45, 0, -0.32), (0.13, 0.32, 0.13), 1),
    ),
    (  # a plane
        _ball((0, 0, 0), (0.78, 0.13, 0.13)), _box((0.08, 0, 0), (0.15, 0.72, 0.04), 1), _box((-0.62, 0, 0.2), (0.1, 0.03, 0.2), 1),
        _box((-0.64, 0, 0.02), (0.08, 0.28, 0.03)),
    ),
    (  # a ship
        _ball((0, 0, -0.15), (0.8, 0.28, 0.22)), _box((-0.3, 0, 0.15), (0.22, 0.2, 0.18), 1), _box((-0.35, 0, 0.42), (0.08, 0.08, 0.16)),
        _ball((0.45, 0, 0.1), (0.05, 0.05, 0.4), 1),
    ),
)


def azimuth(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """From which of eight sides a figure is seen, at any elevation up to 50 degrees."""
    turn = (labels + rolls.uniform(-0.3, 0.3)) * (2 * math.pi / len(AZIMUTHS))
    return _scene(rolls, turn, torch.deg2rad(rolls.uniform(5, 50)), size)


def elevation(rolls: Rolls, labels: Tensor, size: int) -> Tensor:
    """From how high up a figure is seen, from any side."""
    return _scene(rolls, rolls.uniform(0, 2 * math.pi), torch.deg2rad(5 + 17 * labels + rolls.uniform(-4, 4)), size)


def _scene(rolls: Rolls, turn: Tensor, rise: Tensor, size: int) -> Tensor:
    points = drawing.canvas(size)
    images = scenery.panel(rolls, scenery.backdrop(rolls, points), points)
    shrink = rolls.uniform(0.95, 1.4) * (1 + 0.25 * rise.sin())  # from above one sees more of a figure; its area shall tell little
    seen = drawing.place(points, rolls.uniform(-0.12, 0.12, 2), torch.zeros(rolls.count)) * shrink[:, None, None, None]
    paints = scenery.bright(rolls, 2)
    stretch = rolls.uniform(0.85, 1.15, 6, 3)
    around, up = rolls.uniform(0, 2 * math.pi), rolls.uniform(0.2, 1.2)
    light = torch.stack([up.cos() * around.cos(), up.cos() * around.sin(), up.sin()], dim=-1)
    kind = rolls.choice(len(FIGURES))
    for index, parts in enumerate(FIGURES):
        at = (kind == index).nonzero()[:, 0]
        images[at] = render(images[at], seen[at], parts, stretch[at], paints[at], turn[at], rise[at], light[at])
    return scenery.sensed(rolls, images)


def render(
    images: Tensor, seen: Tensor, parts: tuple[Part, ...], stretch: Tensor, paints: Tensor, turn: Tensor, rise: Tensor, light: Tensor
) -> Tensor:
    """Draw one figure over ``images [n, 3, h, w]``.

    Args:
        images: what is behind.
        seen: ``[n, h, w, 2]`` places on the picture plane, x to the right and y down.
        parts: the figure.
        stretch: ``[n, parts or more, 3]`` factors of the parts' half axes.
        paints: ``[n, paints, 3]`` colours.
        turn, rise: ``[n]`` azimuth and elevation of the camera in radians.
        light: ``[n, 3]`` unit vectors towards the light.
    """
    zero = torch.zeros_like(turn)
    toward = torch.stack([rise.cos() * turn.cos(), rise.cos() * turn.sin(), rise.sin()], dim=-1)  # from the figure to the camera
    right = torch.stack([-turn.sin(), turn.cos(), zero], dim=-1)
    above = torch.linalg.cross(toward, right)
    start = seen[..., 0, None] * right[:, None, None] - seen[..., 1, None] * above[:, None, None]
    depth = torch.full(seen.shape[:-1], -math.inf, dtype=seen.dtype)
    for index, part in enumerate(parts):
        half = seen.new_tensor(part.half) * stretch[:, index]
        hit, lit = (_meet_box if part.boxed else _meet_ball)(start - seen.new_tensor(part.centre), toward, half, light)
        front = hit > depth
        depth = torch.where(front, hit, depth)
        colour = paints[:, part.paint, :, None, None] * (0.3 + 0.7 * lit.clamp_min(0))[:, None]
        images = torch.where(front[:, None], colour, images)
    return images


def _meet_ball(start: Tensor, toward: Tensor, half: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
    """Depth ``[n, h, w]`` of ellipsoids along the rays ``start + depth * toward`` (-inf: missed), and the cosine to the light."""
    along = toward / half
    place = start / half[:, None, None]
    a = along.square().sum(-1)[:, None, None]
    b = (place * along[:, None, None]).sum(-1)
    inside = b.square() - a * (place.square().sum(-1) - 1)
    depth = (-b + inside.clamp_min(0).sqrt()) / a
    normal = (place + depth[..., None] * along[:, None, None]) / half[:, None, None]
    lit = (normal * light[:, None, None]).sum(-1) / normal.norm(dim=-1)
    return depth.masked_fill(inside <= 0, -math.inf), lit


def _meet_box(start: Tensor, toward: Tensor, half: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
    """The same for boxes: a ray leaves the box towards the camera through the nearest of three faces."""
    along = torch.where(toward.abs() < 1e-9, 1e-9, toward)
    ends = along.sign()[:, None, None] * half[:, None, None] - start
    out = ends / along[:, None, None]
    into = out - (2 * half / along.abs())[:, None, None]
    depth, face = out.min(dim=-1)
    missed = into.amax(dim=-1) > depth
    lit = (along.sign() * light)[:, None, None].expand_as(out).gather(-1, face[..., None])[..., 0]
    return depth.masked_fill(missed, -math.inf), lit
