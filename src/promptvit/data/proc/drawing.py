"""Batched, anti-aliased drawing on tensors: signed distances of simple shapes, textures and compositing.

Coordinates run from -1 (left, top) to 1 (right, bottom), pixel centres inside. Distances are negative inside a shape.
Every function works on a batch of ``n`` shapes at once and only uses what it is given: randomness stays with the caller.
"""

import math

import torch
from torch import Tensor


def canvas(size: int) -> Tensor:
    """Pixel centres of a ``size`` x ``size`` image as ``[size, size, 2]`` (x, y)."""
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1)


def place(points: Tensor, centre: Tensor, angle: Tensor) -> Tensor:
    """Coordinates of ``points [h, w, 2]`` in frames at ``centre [n, 2]`` turned by ``angle [n]`` (radians): ``[n, h, w, 2]``."""
    x, y = (points - centre[:, None, None]).unbind(-1)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)


def ellipse(local: Tensor, radii: Tensor) -> Tensor:
    """First-order distance to ellipses with half axes ``radii [n, 2]``."""
    scaled = local / radii[:, None, None]
    norm = scaled.norm(dim=-1)
    slope = (scaled / radii[:, None, None]).norm(dim=-1).clamp_min(1e-6)
    return norm * (norm - 1) / slope


def box(local: Tensor, half: Tensor) -> Tensor:
    """Distance to boxes with half sides ``half [n, 2]``."""
    q = local.abs() - half[:, None, None]
    return q.clamp_min(0).norm(dim=-1) + q.amax(dim=-1).clamp_max(0)


def polygon(local: Tensor, radius: Tensor, sides: Tensor) -> Tensor:
    """Distance bound to regular polygons with circumradius ``radius [n]`` and ``sides [n]`` corners."""
    sector = (2 * math.pi / sides)[:, None, None]
    angle = torch.atan2(local[..., 1], local[..., 0])
    folded = angle - sector * torch.round(angle / sector)
    return local.norm(dim=-1) * folded.cos() - radius[:, None, None] * (sector / 2).cos()


def outline(distance: Tensor, width: Tensor) -> Tensor:
    """Turn filled shapes into their outlines of half width ``width [n]``."""
    return distance.abs() - width[:, None, None]


def stroke(local: Tensor, path: Tensor, width: Tensor) -> Tensor:
    """Distance to round-ended strokes of half width ``width [n]`` along polylines ``path [n, k, 2]``."""
    nearest = local.new_full(local.shape[:-1], float("inf"))
    for start, end in zip(path[:, :-1].unbind(1), path[:, 1:].unbind(1), strict=True):
        along = end - start
        offset = local - start[:, None, None]
        t = (offset * along[:, None, None]).sum(-1) / along.square().sum(-1).clamp_min(1e-8)[:, None, None]
        gap = offset - t.clamp(0, 1)[..., None] * along[:, None, None]
        nearest = torch.minimum(nearest, gap.square().sum(-1))
    return nearest.sqrt() - width[:, None, None]


def bezier(control: Tensor, segments: int) -> Tensor:
    """Polylines ``[n, segments + 1, 2]`` along quadratic Bezier curves with control points ``[n, 3, 2]``."""
    t = torch.linspace(0, 1, segments + 1, device=control.device)[:, None]
    a, b, c = control[:, None].unbind(2)
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c


def grating(local: Tensor, frequency: Tensor, phase: Tensor) -> Tensor:
    """Sine gratings along x in [0, 1]; ``frequency [n]`` in cycles per unit, ``phase [n]`` in radians: ``[n, h, w]``."""
    wave = 2 * math.pi * frequency[:, None, None] * local[..., 0] + phase[:, None, None]
    return 0.5 + 0.5 * wave.sin()


def paint(images: Tensor, distance: Tensor, colour: Tensor, softness: float) -> Tensor:
    """Lay shapes (``distance [n, h, w]``) of ``colour`` (``[n, 3]`` or ``[n, 3, h, w]``) over ``images [n, 3, h, w]``.

    ``softness`` is the width of the anti-aliased edge; one pixel is ``2 / size``.
    """
    alpha = (0.5 - distance / softness).clamp(0, 1)[:, None]
    colour = colour if colour.ndim == 4 else colour[:, :, None, None]
    return images + alpha * (colour - images)


def star(local: Tensor, radius: Tensor, inner: float = 0.45) -> Tensor:
    """Distance bound to five-pointed stars with circumradius ``radius [n]``; the notches lie at ``inner`` of it."""
    sector = math.pi / 5
    angle = torch.atan2(local[..., 1], local[..., 0])
    folded = (angle - 2 * sector * torch.round(angle / (2 * sector))).abs()
    length = local.norm(dim=-1)
    x, y = length * folded.cos(), length * folded.sin()
    run, rise = 1 - inner * math.cos(sector), inner * math.sin(sector)  # along the edge from a notch to a point
    return ((x - radius[:, None, None]) * rise + y * run) / math.hypot(run, rise)


def cross(local: Tensor, half: Tensor, thickness: float = 0.35) -> Tensor:
    """Distance bound to crosses with half sides ``half [n, 2]``; each bar is ``thickness`` as wide as it could be."""
    return torch.minimum(
        box(local, half * half.new_tensor([1, thickness])),
        box(local, half * half.new_tensor([thickness, 1])),
    )


def crescent(local: Tensor, radius: Tensor, bite: float = 0.8) -> Tensor:
    """Distance bound to discs of ``radius [n]`` without a disc of ``bite`` times their size, moved along x."""
    radii = radius[:, None].expand(-1, 2)
    moved = local - torch.stack([0.55 * radius, torch.zeros_like(radius)], dim=-1)[:, None, None]
    return torch.maximum(ellipse(local, radii), -ellipse(moved, bite * radii))


def checks(local: Tensor, frequency: Tensor, phase: Tensor) -> Tensor:
    """Soft checkerboards in [0, 1]; ``frequency [n]`` in cycles per unit, ``phase [n]`` in radians: ``[n, h, w]``."""
    across = grating(local, frequency, phase) - 0.5
    down = grating(local.flip(-1), frequency, phase) - 0.5
    return 0.5 + 2 * across * down


def sharpened(wave: Tensor, times: float = 3.0) -> Tensor:
    """Waves in [0, 1] with steeper flanks and flat tops."""
    return (0.5 + times * (wave - 0.5)).clamp(0, 1)


def blotches(cells: Tensor, size: int) -> Tensor:
    """Smooth blotches ``[n, size, size]`` in [0, 1] through a coarse grid of values ``cells [n, g, g]``."""
    smooth = torch.nn.functional.interpolate(cells[:, None], size=(size, size), mode="bicubic", align_corners=True)
    return smooth[:, 0].clamp(0, 1)
