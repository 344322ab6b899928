"""Batches of images and masks, made ahead by threads. Normalisation is left to the device."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from promptvit.data.loader import ahead, check_sharing, places
from promptvit.data.segmentation.base import MaskedSplit
from promptvit.data.segmentation.transforms import POLICIES, draws, view, whole
from promptvit.errors import unknown
from promptvit.preprocessing import Preprocessing


@dataclass(frozen=True)
class MaskedBatch:
    """``images [B, 3, h, w]`` uint8, ``masks [B, H, W]`` int64 (255: does not count), ``indices [B]`` (places in the split) int64."""

    images: Tensor
    masks: Tensor
    indices: Tensor


def masked_batches(
    split: MaskedSplit,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    epoch: int,
    policy: str = POLICIES[-1],
    data_seed: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 2,
) -> Iterator[MaskedBatch]:
    """A training epoch: a crop of every image once, in an order of its own.

    Args:
        split: where the images come from.
        preprocessing: ``size`` is the crop, so images and masks of a batch are of that size.
        batch_size: images per batch, over all processes; the last batch may be smaller.
        epoch: from 0.
        policy: one of :data:`promptvit.data.segmentation.transforms.POLICIES`.
        data_seed: of order and augmentation; 0 or more. They depend on nothing but (data_seed, epoch, index).
        rank, world: this process and their number. Process ``r`` takes every ``world``-th image of each batch; all get equally many
            batches, of which one of the last may be empty.
        workers: threads that decode and crop.

    Raises:
        ValueError: an argument out of range; at once, not at the first batch.
        BadImage, BadMask: a file that cannot be used, when its batch is due.
    """
    if policy not in POLICIES:
        raise ValueError(unknown("augmentation", policy, POLICIES))
    check_sharing(batch_size, rank, world, workers)
    make = partial(_crops, split, preprocessing, policy, draws(len(split), data_seed, epoch))
    return _tensors(ahead(make, places(len(split), batch_size, epoch, data_seed, rank, world), workers))


def whole_images(
    split: MaskedSplit, preprocessing: Preprocessing, *, rank: int = 0, world: int = 1, workers: int = 2
) -> Iterator[MaskedBatch]:
    """Every image of a split for evaluation, one per batch, in order; process ``rank`` gets every ``world``-th.

    An image is scaled so that its short side is the crop's, as :meth:`promptvit.segmentation.SegmentationModel.preprocess` does; its mask
    keeps its own size.

    Raises:
        ValueError: an argument out of range; at once. BadImage, BadMask: a file that cannot be used, when it is due.
    """
    check_sharing(1, rank, world, workers)
    return _tensors(ahead(partial(_whole, split, preprocessing), [np.array([index]) for index in range(rank, len(split), world)], workers))


def _crops(
    split: MaskedSplit, preprocessing: Preprocessing, policy: str, rows: np.ndarray, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((len(indices), 3, *preprocessing.size), dtype=np.uint8)
    masks = np.empty((len(indices), *preprocessing.size), dtype=np.uint8)
    for place, index in enumerate(indices.tolist()):
        images[place], masks[place] = view(*split.pair(index), preprocessing, policy, rows[index])
    return images, masks


def _whole(split: MaskedSplit, preprocessing: Preprocessing, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image, mask = split.pair(int(indices[0]))
    return whole(image, preprocessing)[None], mask[None]


def _tensors(made: Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]) -> Iterator[MaskedBatch]:
    """In the thread that uses them: each thread that calls torch would start a pool of threads of its own."""
    for indices, (images, masks) in made:
        pixels, classes = np.ascontiguousarray(images), masks.astype(np.int64)
        yield MaskedBatch(torch.from_numpy(pixels), torch.from_numpy(classes), torch.from_numpy(indices))
