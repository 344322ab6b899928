"""Forgetting as numbers: how much of the prompts that left one block can still be read, linearly, from those that enter a later one.

LSPT argues that prompts forget what earlier blocks gave them and shows maps; its reviewers asked for numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from promptvit.analysis.trace import trace
from promptvit.model import PromptedModel

FOLDS, RIDGE, NOISE = 4, 0.01, 0.1


@torch.no_grad()
def decodable(
    model: PromptedModel, images: Tensor, *, noise: tuple[float, ...] = (NOISE,), prompts: int = 8, batch_size: int = 16
) -> Tensor:
    """``[noises, L, L]``: entry (k, l), k < l, is the share of what left block k that is linearly decodable from what enters block l.

    What is decoded is how prompts differ from image to image: each prompt's mean over images is taken away, so fresh prompts, the same
    for every image, score 0. The share, in 0..1, is R squared of ridge regression on images it was not fitted on, over four folds, never
    below 0. NaN where there are no prompts, or all images give the same.

    Args:
        images: normalised ``[B, 3, H, W]``, at least eight.
        noise: what is read is blurred by noise of this share of a prompt's length, so that traces which are tiny beside the rest do not
            count; 0 counts any trace.
        prompts: at most so many prompts are looked at, evenly chosen.

    Raises:
        ValueError: too few images.
    """
    if len(images) < 2 * FOLDS:
        raise ValueError(f"forgetting: needs at least {2 * FOLDS} images, got {len(images)}")
    parts = [[(step.out, step.prompts) for step in trace(model, batch, keep=prompts)] for batch in images.split(batch_size)]
    depth = len(parts[0])
    found = torch.full((len(noise), depth, depth), torch.nan)
    left, entered = ([_joined([part[i][which] for part in parts]) for i in range(depth)] for which in (0, 1))
    for later in range(1, depth):
        known = entered[later]
        if known is None:
            continue
        targets = {k: out for k, out in enumerate(left[:later]) if out is not None and out.shape[1] == known.shape[1]}
        for level, share in enumerate(noise):
            found[level, list(targets), later] = torch.tensor(shares(known, list(targets.values()), share))
    return found


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Float64 on the CPU, all batches: ``[B, T, D]``."""
    present = [part.double().cpu() for part in parts if part is not None]
    return torch.cat(present) if present else None


def shares(known: Tensor, targets: Sequence[Tensor], noise: float) -> list[float]:
    """R squared, held out and at least 0, of each of ``targets [B, T, D']`` from noisy ``known [B, T, D]``; folds are of images."""
    if not targets:
        return []
    fold = torch.arange(len(known)) % FOLDS
    missed = torch.zeros(2, len(targets), dtype=torch.float64)  # what is left unexplained, and all there is
    for f in range(FOLDS):
        fit, test = fold != f, fold == f
        x, x_test = _varying(known, fit, test)
        ys, ys_test = zip(*(_varying(target, fit, test) for target in targets), strict=True)
        kernel = x @ x.T
        # noise in what is read acts like ridge: its variance in each channel, times the rows
        blur = noise**2 * known[fit].square().mean() * len(x)
        strength = blur + RIDGE * kernel.diagonal().mean().clamp_min(1e-12)
        solved = torch.linalg.solve(kernel + strength * torch.eye(len(x), dtype=x.dtype), torch.cat(ys, dim=1))
        guesses = (x_test @ x.T @ solved).split([y.shape[1] for y in ys], dim=1)
        for j, (guess, truth) in enumerate(zip(guesses, ys_test, strict=True)):
            missed[:, j] += torch.stack([(truth - guess).square().sum(), truth.square().sum()])
    scale = torch.stack([target.square().sum() for target in targets])
    return [
        float("nan") if all_ <= 1e-10 * size else max(0.0, 1 - rest / all_)
        for rest, all_, size in zip(*missed.tolist(), scale.tolist(), strict=True)
    ]


def _varying(t: Tensor, fit: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[images * T, D]`` to fit and to test on, less each prompt's mean over the images to fit on."""
    mean = t[fit].mean(dim=0)
    return (t[fit] - mean).flatten(0, 1), (t[test] - mean).flatten(0, 1)


@dataclass(frozen=True)
class Interval:
    """Means ``[...]`` over runs, and the half width of their 95 % interval; NaN for a single run."""

    mean: np.ndarray
    half: np.ndarray
    runs: int


def interval(values: Sequence[np.ndarray]) -> Interval:
    """Mean over seeds and 95 % interval by Student's t, element by element."""
    stacked = np.stack(values)
    runs = len(stacked)
    half = np.full(stacked.shape[1:], np.nan)
    if runs > 1:
        half = stats.t.ppf(0.975, runs - 1) * stacked.std(axis=0, ddof=1) / np.sqrt(runs)
    return Interval(stacked.mean(axis=0), half, runs)


def by_distance(matrix: np.ndarray) -> np.ndarray:
    """``[L - 1]``: the mean of :func:`decodable` over pairs of blocks that are 1, 2, ... blocks apart; NaN where there is none."""
    depth = len(matrix)
    lines = [np.diagonal(matrix, distance) for distance in range(1, depth)]
    return np.array([np.nanmean(line) if np.isfinite(line).any() else np.nan for line in lines])
