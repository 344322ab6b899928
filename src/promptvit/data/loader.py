"""Batches of uint8 pixels for training and evaluation; each image is decoded once. Normalisation is left to the device."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from promptvit.data import augment
from promptvit.data.base import Split
from promptvit.data.cache import Cache
from promptvit.data.seeding import Purpose, generator, shuffled
from promptvit.errors import unknown
from promptvit.preprocessing import Preprocessing

MEMORY_BUDGET = 2 * 2**30  # bytes of decoded pixels kept per split

Made = TypeVar("Made")


@dataclass(frozen=True)
class Batch:
    """``images [B, 3, H, W]`` uint8, ``labels [B]`` and ``indices [B]`` (places in the split) int64."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class Pixels:
    """The resized, uncropped images of a split: ``pixels[i]`` is ``[3, h, w]`` uint8, to be read and not changed.

    Images are kept in memory until ``budget`` bytes are full. Those from files are also kept in a cache on disk, which serves the
    rest, later runs and other processes. Safe to share among threads.
    """

    def __init__(self, split: Split, preprocessing: Preprocessing, budget: int = MEMORY_BUDGET, cache: Cache | None = None) -> None:
        self.split, self.preprocessing, self.left = split, preprocessing, budget
        self.cache = Cache() if cache is None else cache
        self.keys: dict[int, str] = {}
        self.kept: dict[int, np.ndarray] = {}
        self.lock = Lock()

    @classmethod
    def of(cls, split: Split, preprocessing: Preprocessing) -> "Pixels":
        """The split's pixels for this preprocessing: the same object in every epoch. Those of another preprocessing are let go."""
        if preprocessing not in split.kept:
            split.kept = {preprocessing: cls(split, preprocessing)}
        pixels: Pixels = split.kept[preprocessing]
        return pixels

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> np.ndarray:
        found = self.kept.get(index)
        if found is not None:
            return found
        decoded = self._from_file(index) if isinstance(self.split.items[index], Path) else self._decode(index)
        with self.lock:
            if index not in self.kept and decoded.nbytes <= self.left:
                self.left -= decoded.nbytes
                self.kept[index] = decoded
        return decoded

    def _from_file(self, index: int) -> np.ndarray:
        """Through the cache."""
        item = self.split.items[index]
        assert isinstance(item, Path)
        try:
            key = self.keys.get(index) or self.cache.key(item, self.preprocessing)
        except OSError:
            return self._decode(index)  # says what is wrong with the file
        self.keys[index] = key
        found = self.cache.get(key)
        if found is None:
            found = self._decode(index)
            self.cache.put(key, found)
        return found

    def _decode(self, index: int) -> np.ndarray:
        return _array(self.preprocessing.resized(self.split.image(index)))


def batches(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    epoch: int | None = None,
    policy: str = "none",
    data_seed: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 2,
    device: torch.device | None = None,
) -> Iterator[Batch]:
    """Every image of ``split`` once, in batches that are made ahead by threads.

    Args:
        split: where the images come from; it keeps their decoded pixels.
        preprocessing: the backbone's; ``H, W`` of a batch is its ``size``.
        batch_size: images per batch, over all processes; the last batch may be smaller.
        epoch: None is evaluation: the split's order and the centre crop. A number is a training epoch, from 0: an order and an
            augmentation of its own.
        policy: training augmentation, one of :data:`promptvit.data.augment.POLICIES`; unused in evaluation.
        data_seed: of order and augmentation; 0 or more. They depend on nothing but (data_seed, epoch, index).
        rank, world: this process and their number. Process ``r`` takes every ``world``-th image of each batch, so that any number of
            processes sees what one would see. All get equally many batches; one of the last may be empty.
        workers: threads that decode and crop.
        device: where training happens. On a GPU, images of one shape are cropped and mirrored there, a batch at a time, and stay there.

    Raises:
        ValueError: an argument out of range; at once, not at the first batch.
        BadImage: a file that cannot be decoded, when its batch is due.
    """
    if policy not in augment.POLICIES:
        raise ValueError(unknown("augmentation", policy, augment.POLICIES))
    check_sharing(batch_size, rank, world, workers)
    if epoch is None:
        policy = "none"
    rows = np.empty((len(split), 0)) if epoch is None else augment.draws(policy, len(split), data_seed, epoch)
    chunks = places(len(split), batch_size, epoch, data_seed, rank, world)
    crops_there = device if _crops_itself(device) and policy in ("crop", "crop-flip") else None
    return _batches(_Maker(split, preprocessing, policy, rows, crops_there), chunks, workers)


def places(
    count: int, batch_size: int, epoch: int | None = None, data_seed: int = 0, rank: int = 0, world: int = 1
) -> list[np.ndarray]:
    """Per batch the places of its images in a split of ``count``; see :func:`batches`."""
    order = np.arange(count) if epoch is None else shuffled(count, generator(data_seed, Purpose.ORDER, epoch))
    return [order[start : start + batch_size][rank::world] for start in range(0, count, batch_size)]


def check_sharing(batch_size: int, rank: int, world: int, workers: int) -> None:
    """Refuse what :func:`batches` cannot share out.

    Raises:
        ValueError: an argument out of range.
    """
    for name, value in (("batch_size", batch_size), ("world", world), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name}: must be 1 or more, got {value}")
    if not 0 <= rank < world:
        raise ValueError(f"rank: must be in 0..{world - 1}, got {rank}")


def ahead(make: Callable[[np.ndarray], Made], chunks: list[np.ndarray], workers: int) -> Iterator[tuple[np.ndarray, Made]]:
    """Each chunk and what ``make`` makes of it, in order; threads have ``workers`` of them under way while one is used."""
    waiting: deque[tuple[np.ndarray, Future[Made]]] = deque()

    def first() -> tuple[np.ndarray, Made]:
        chunk, made = waiting.popleft()
        return chunk, made.result()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="promptvit-data")
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(make, chunk)))
            if len(waiting) > workers:
                yield first()
        while waiting:
            yield first()
    finally:  # also when the caller stops early
        pool.shutdown(cancel_futures=True)


def _crops_itself(device: torch.device | None) -> bool:
    """Whether a batch is cropped faster on ``device`` than image by image in the threads."""
    return device is not None and device.type == "cuda"


def _array(image: Image.Image) -> np.ndarray:
    """RGB image to ``[3, h, w]`` uint8."""
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


class _Maker:
    """Makes single batches. Only numpy and Pillow in here: each thread that calls torch would start a pool of threads of its own."""

    def __init__(
        self, split: Split, preprocessing: Preprocessing, policy: str, rows: np.ndarray, device: torch.device | None = None
    ) -> None:
        self.split, self.preprocessing, self.policy, self.rows, self.device = split, preprocessing, policy, rows, device
        self.pixels = Pixels.of(split, preprocessing)

    def __call__(self, indices: np.ndarray) -> tuple[np.ndarray, bool]:
        """Images ``[B, 3, H, W]``, or the whole resized ones, and whether these still have to be cropped, on ``device``."""
        if self.device is not None and len(indices):
            whole = [self.pixels[index] for index in indices.tolist()]
            if len({pixels.shape for pixels in whole}) == 1:
                return np.stack(whole), True
        images = np.empty((len(indices), 3, *self.preprocessing.size), dtype=np.uint8)
        for place, index in enumerate(indices.tolist()):
            images[place] = self.view(index)
        return images, False

    def finish(self, indices: np.ndarray, images: np.ndarray, whole: bool) -> Tensor:
        """What the batch holds; called by the thread that uses it."""
        tensor = torch.from_numpy(images)
        if not whole:
            return tensor
        return augment.random_crops(tensor.to(self.device), self.preprocessing.size, self.rows[indices], flip=self.policy == "crop-flip")

    def view(self, index: int) -> np.ndarray:
        """What is seen of one image, ``[3, H, W]``."""
        size, row = self.preprocessing.size, self.rows[index]
        if self.policy == "none":
            return augment.centre(self.pixels[index], size)
        if self.policy == "rrc-flip":
            return _array(augment.random_resized_crop(self.split.image(index), self.preprocessing, row))
        return augment.random_crop(self.pixels[index], size, row, flip=self.policy == "crop-flip")


def _batches(make: _Maker, chunks: list[np.ndarray], workers: int) -> Iterator[Batch]:
    labels = np.asarray(make.split.labels, dtype=np.int64)
    for indices, made in ahead(make, chunks, workers):
        yield Batch(make.finish(indices, *made), torch.from_numpy(labels[indices]), torch.from_numpy(indices))
