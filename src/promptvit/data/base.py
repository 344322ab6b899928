"""What a data set is: named classes and three splits; how splits and few-shot subsets are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from promptvit.data.images import open_image
from promptvit.data.seeding import shuffled
from promptvit.preprocessing import Resize

SPLITS = ("train", "val", "test")


@dataclass(eq=False)
class Split:
    """Labelled images.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        labels: class index per image.
        items: per image a file, or an RGB array ``[h, w, 3]`` uint8.
        identifiers: per image a name that stays: the path relative to the root, or ``digits/123``.
        kept: decoded pixels that the loader keeps from epoch to epoch; they live as long as the split.
    """

    name: str
    labels: list[int]
    items: Sequence[Path | np.ndarray]
    identifiers: list[str]
    kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Image ``index`` in RGB.

        Raises:
            BadImage: its file cannot be read.
        """
        item = self.items[index]
        return Image.fromarray(item) if isinstance(item, np.ndarray) else open_image(item)

    def identifier(self, index: int) -> str:
        """The name of image ``index``."""
        return self.identifiers[index]

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> "Split":
        """The images at ``indices``, in that order."""
        chosen = [int(i) for i in indices]
        return replace(
            self,
            name=name or self.name,
            labels=[self.labels[i] for i in chosen],
            items=[self.items[i] for i in chosen],
            identifiers=[self.identifiers[i] for i in chosen],
        )

    def joined(self, other: "Split") -> "Split":
        """This split's images, then those of ``other``, under this split's name."""
        return replace(
            self, labels=self.labels + other.labels, items=[*self.items, *other.items], identifiers=self.identifiers + other.identifiers
        )


@dataclass(eq=False)
class Dataset:
    """A classification data set.

    Attributes:
        name: the name it is loaded by.
        classes: names in label order.
        splits: ``train``, ``val`` and ``test``, always.
        augment: the training augmentation that suits it, see :mod:`promptvit.data.augment`.
        resize: the way to resize that belongs to it; None leaves that to the weights.
        notes: what was decided on the way (a seeded split, skipped files), one line each, for the log.
        skipped: (file, reason) of every file that could not be used.

    Raises:
        ValueError: a split is missing or a label has no class.
    """

    name: str
    classes: list[str]
    splits: dict[str, Split]
    augment: str = "crop-flip"
    resize: Resize | None = None
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if sorted(self.splits) != sorted(SPLITS):
            raise ValueError(f"data set {self.name}: splits must be {', '.join(SPLITS)}, got {', '.join(self.splits) or 'none'}")
        for split in self.splits.values():
            if split.labels and not 0 <= min(split.labels) <= max(split.labels) < len(self.classes):
                raise ValueError(f"data set {self.name}: {split.name} has labels outside 0..{len(self.classes) - 1}")


def stratified_split(labels: Sequence[int], fractions: Sequence[float], generator: np.random.Generator) -> list[np.ndarray]:
    """Cut a set into parts that each hold their share of every class.

    Args:
        labels: class per image.
        fractions: share per part, summing to 1. While a class has images left, no part goes without one, the first parts first.
        generator: source of all randomness.

    Returns:
        Per part the sorted indices of its images. Together they hold every image once.

    Raises:
        ValueError: fractions that do not sum to 1.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be positive and sum to 1, got {list(fractions)}")
    parts: list[list[np.ndarray]] = [[] for _ in fractions]
    for members in _shuffled_classes(labels, generator):
        ends = np.cumsum(_shares(len(members), fractions))[:-1]
        for part, chosen in zip(parts, np.split(members, ends), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) if part else np.empty(0, dtype=np.int64) for part in parts]


def draw_per_class(labels: Sequence[int], count: int, generator: np.random.Generator) -> np.ndarray:
    """Sorted indices of up to ``count`` images of every class; a smaller draw from the same stream is a subset of a larger one."""
    members = [members[:count] for members in _shuffled_classes(labels, generator)]
    return np.sort(np.concatenate(members)) if members else np.empty(0, dtype=np.int64)


def take_shots(split: Split, shots: int, generator: np.random.Generator) -> tuple[Split, list[str]]:
    """A few-shot version of ``split``: ``shots`` images per class, or all of a class that has fewer.

    Returns:
        The smaller split, and a note for the log where a class was short.

    Raises:
        ValueError: ``shots`` below 1, or nothing to draw from.
    """
    if shots < 1:
        raise ValueError(f"--shots: must be 1 or more, got {shots}")
    if not len(split):
        raise ValueError(f"--shots {shots}: the {split.name} split holds no image to draw from")
    counts = np.bincount(split.labels)
    short = np.flatnonzero((counts > 0) & (counts < shots))
    notes = []
    if len(short):
        few = counts[short].min()
        notes.append(f"--shots {shots}: {len(short)} classes have fewer images in {split.name} (from {few} up); all of theirs are taken")
    return split.subset(draw_per_class(split.labels, shots, generator)), notes


def _shuffled_classes(labels: Sequence[int], generator: np.random.Generator) -> list[np.ndarray]:
    """Per class the indices of its images in random order."""
    order = shuffled(len(labels), generator)
    of_order = np.asarray(labels, dtype=np.int64)[order]
    return [order[of_order == label] for label in np.unique(of_order)]


def _shares(count: int, fractions: Sequence[float]) -> np.ndarray:
    """``count`` images of one class over the parts."""
    ends = np.rint(np.cumsum(fractions) * count).astype(np.int64)
    shares = np.diff(ends, prepend=0)
    for part in range(min(count, len(shares))):
        if shares[part] == 0:
            donor = len(shares) - 1 - int(np.argmax(shares[::-1]))  # the largest part; of equals the last
            shares[donor] -= 1
            shares[part] += 1
    return shares
