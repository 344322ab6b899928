"""What a classifier gets wrong, and whether its probabilities mean what they say."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from promptvit.analysis.altered import evaluating
from promptvit.model import PromptedModel

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Reliability: bins of equal width over the probability of the predicted class.

    Attributes:
        error: expected calibration error (Guo et al., 2017), the mean of ``|accuracy - confidence|`` over images, in 0..1.
        confidence, accuracy: means of each bin ``[bins]``; NaN where it is empty.
        count: images of each bin.
    """

    error: float
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


@torch.no_grad()
def probabilities(model: PromptedModel, images: Tensor, *, batch_size: int = 16) -> Tensor:
    """``[B, C]`` of normalised ``images [B, 3, H, W]``, in evaluation mode."""
    with evaluating(model):
        return torch.cat([model(batch).float().softmax(dim=-1).cpu() for batch in images.split(batch_size)])


def confusion(probabilities: Tensor, labels: Tensor) -> np.ndarray:
    """Counts ``[C, C]``: row the true class, column the predicted one."""
    classes = probabilities.shape[1]
    pairs = labels * classes + probabilities.argmax(dim=-1)
    return pairs.bincount(minlength=classes**2).view(classes, classes).numpy()


def hardest(counts: np.ndarray, top: int = 10) -> list[tuple[int, float, int, int]]:
    """The classes with the lowest share of images named right: (class, share, images, the class most often named instead).

    From the counts of :func:`confusion`; classes without an image are left out, of equals the larger class comes first. A class
    without mistakes names itself.
    """
    seen = counts.sum(axis=1)
    found = []
    for label in np.flatnonzero(seen):
        wrong = counts[label].copy()
        wrong[label] = 0
        instead = int(wrong.argmax()) if wrong.any() else int(label)
        found.append((int(label), float(counts[label, label] / seen[label]), int(seen[label]), instead))
    return sorted(found, key=lambda row: (row[1], -row[2]))[:top]


def calibration(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Calibration:
    """Expected calibration error and the numbers of a reliability plot."""
    confidence, guess = probabilities.max(dim=-1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    right = (guess == labels).double()
    count = place.bincount(minlength=bins).double()
    sums = [place.bincount(weights=values.double(), minlength=bins) for values in (confidence, right)]
    gaps = (sums[0] - sums[1]).abs().sum() / max(1, len(labels))
    confident, accurate = ((total / count).numpy() for total in sums)
    return Calibration(float(gaps), confident, accurate, count.long().numpy())


def confident_mistakes(probabilities: Tensor, labels: Tensor, top: int = 24) -> list[int]:
    """Places of the wrong answers, the most confident first."""
    confidence, guess = probabilities.max(dim=-1)
    order = confidence.argsort(descending=True, stable=True)
    return [int(i) for i in order if guess[i] != labels[i]][:top]
