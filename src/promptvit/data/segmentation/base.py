"""What a segmentation data set is: named and coloured classes, and splits of images with their masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from promptvit.data.base import SPLITS, stratified_split
from promptvit.data.images import open_image
from promptvit.data.seeding import Purpose, generator
from promptvit.data.segmentation.masks import BadMask, Coding, open_mask


@dataclass(eq=False)
class MaskedSplit:
    """Images and their masks.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        images: per image a file, or an RGB array ``[h, w, 3]`` uint8.
        masks: per image a file, or classes and 255 for ignored pixels as ``[h, w]`` uint8.
        identifiers: per image a name that stays: the path relative to the data set, or ``proc/seg/v1/train/12``.
        coding: what the values of mask files mean; unused with arrays.
    """

    name: str
    images: Sequence[Path | np.ndarray]
    masks: Sequence[Path | np.ndarray]
    identifiers: list[str]
    coding: Coding

    def __len__(self) -> int:
        return len(self.identifiers)

    def image(self, index: int) -> Image.Image:
        """Image ``index`` in RGB.

        Raises:
            BadImage: its file cannot be read.
        """
        item = self.images[index]
        return Image.fromarray(item) if isinstance(item, np.ndarray) else open_image(item)

    def mask(self, index: int) -> np.ndarray:
        """The classes of image ``index``, ``[h, w]`` uint8; 255 where a pixel does not count.

        Raises:
            BadMask: its file cannot be read, is no mask, or has values that are no class.
        """
        item = self.masks[index]
        return item if isinstance(item, np.ndarray) else open_mask(item, self.coding)

    def pair(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Image and mask of one size.

        Raises:
            BadImage, BadMask: as above, or the sizes differ.
        """
        image, mask = self.image(index), self.mask(index)
        if mask.shape != (image.height, image.width):
            sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, but its image {self.identifiers[index]} has {image.width} x {image.height}"
            raise BadMask(str(self.masks[index]), sizes, "mask-size")
        return image, mask

    def identifier(self, index: int) -> str:
        """The name of image ``index``."""
        return self.identifiers[index]

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> "MaskedSplit":
        """The images at ``indices``, in that order."""
        chosen = [int(i) for i in indices]
        return replace(
            self,
            name=name or self.name,
            images=[self.images[i] for i in chosen],
            masks=[self.masks[i] for i in chosen],
            identifiers=[self.identifiers[i] for i in chosen],
        )

    def joined(self, other: "MaskedSplit") -> "MaskedSplit":
        """This split's images, then those of ``other``, under this split's name."""
        return replace(
            self,
            images=[*self.images, *other.images],
            masks=[*self.masks, *other.masks],
            identifiers=self.identifiers + other.identifiers,
        )


@dataclass(eq=False)
class SegmentationDataset:
    """A segmentation data set.

    Attributes:
        name: the name it is loaded by.
        classes: names in the order of their indices; at most 255.
        palette: their colours, ``[C, 3]`` uint8.
        splits: ``train``, ``val`` and ``test``.
        root: the set's own folder, where it has one.
        augment: the training augmentation that suits it, see :mod:`promptvit.data.segmentation.transforms`.
        resize: None: images are always scaled by their short side.
        notes: what was decided on the way (a seeded split), one line each, for the log.
    """

    name: str
    classes: list[str]
    palette: np.ndarray
    splits: dict[str, MaskedSplit]
    root: Path | None = None
    notes: list[str] = field(default_factory=list)
    augment: str = "scale-crop-flip-photo"
    resize: None = None


def cut_missing(splits: dict[str, MaskedSplit], share: float, data_seed: int) -> list[str]:
    """Cut a missing val or test out of train, a ``share`` of its images each; returns the note that says so.

    The split that selects is never the split that reports.

    Raises:
        ValueError: too few images for that.
    """
    missing = [split for split in ("test", "val") if split not in splits]
    if not missing:
        return []
    train, wanted = splits["train"], " and ".join(sorted(missing, reverse=True))
    fractions = [1 - share * len(missing), *[share] * len(missing)]
    parts = stratified_split([0] * len(train), fractions, generator(data_seed, Purpose.SPLIT))
    if not all(map(len, parts)):
        raise ValueError(f"data_root: {len(train)} training images are too few to cut {wanted} out of; give {len(parts)} or more")
    splits |= {split: train.subset(part, split) for split, part in zip(["train", *missing], parts, strict=True)}
    counts = ", ".join(f"{len(splits[split])} {split}" for split in SPLITS)
    return [f"no {wanted} given: cut out of train, {share:.0%} each, data_seed {data_seed}: {counts} images"]
