"""Everything that can be found wrong with a data set before it is trained on; ``promptvit data check``. Changes nothing.

Lists are read by the code that reads them for training. Then every image is decoded once, with its mask if it has one, and images are
compared by their pixels.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from PIL import Image

from promptvit.data.base import SPLITS
from promptvit.data.findings import Findings
from promptvit.data.images import BadImage, open_image
from promptvit.data.listed.listing import SURVEYS, Listing
from promptvit.data.registry import list_datasets, load_dataset
from promptvit.data.segmentation.base import MaskedSplit
from promptvit.data.segmentation.masks import BadMask
from promptvit.data.segmentation.registry import is_segmentation, survey
from promptvit.errors import unknown

Watch = Callable[[Iterable[bytes | None], int], Iterable[bytes | None]]
_JOINT = "train and val"  # the part that repeats two others


@dataclass(frozen=True)
class _Picture:
    """An image: the split that has it, its name, its label, how it is opened, and the name of its mask."""

    split: str
    file: str
    label: int
    load: Callable[[], Image.Image]
    mask: str = ""


def check(
    name: str, *, root: str | Path | None = None, task: str | None = None, watch: Watch = lambda digests, count: digests
) -> Findings:
    """Look at a data set on disk: its layout, lists and counts, every image, and images that are in two splits.

    Args:
        name: one of :func:`~promptvit.data.registry.list_datasets`.
        root: its folder, or one that holds it; sets that are drawn or bundled need none, and then nothing can be wrong with them.
        task: ``segmentation`` for a folder of images and masks; other names say it themselves.
        watch: is handed what decoding yields and how much of it, and passes it on: for a progress bar.

    Raises:
        ValueError: an unknown name or task.
    """
    if name not in list_datasets():
        raise ValueError(unknown("data set", name, list_datasets()))
    findings = Findings()
    if is_segmentation(name, task):
        twins, pictures = 0.0, _masked(name, root, findings)
    elif name in SURVEYS and root is not None:
        listing = SURVEYS[name](name, Path(root), whole=True)
        findings, twins, pictures = listing.findings, listing.task.twins, _listed(listing)
    else:
        twins, pictures = 0.0, _loaded(name, root, findings)
    if pictures and root is not None:
        digests = _decode(pictures, findings, watch)
        if not findings.of("error"):  # any other fault of these lists would show here once more
            _check_union(pictures, digests, findings)
        _compare(pictures, digests, twins, findings)
    return findings


def _listed(listing: Listing) -> list[_Picture]:
    parts = listing.splits | {_JOINT: listing.joint}
    return [_Picture(split, i.identifier, i.id, partial(open_image, i.path)) for split, listed in parts.items() for i in listed]


def _loaded(name: str, root: str | Path | None, findings: Findings) -> list[_Picture]:
    """Images of a set that has no lists, through its reader."""
    try:
        dataset = load_dataset(name, root=root)
    except ValueError as error:
        findings.error("unusable-data-set", str(root or name), str(error).removeprefix("data_root: "))
        return []
    origin = "read" if root else "drawn or bundled, no file to check"
    findings.ok("layout", str(root or name), f"{origin}; {len(dataset.classes)} classes")
    for note in dataset.notes:
        findings.ok("note", name, note)
    for file, reason in dataset.skipped:
        findings.error("undecodable-image", file, reason)
    splits = [dataset.splits[split] for split in SPLITS]
    for split in splits:
        findings.ok("count", split.name, f"{len(split)} images")
    return [
        _Picture(split.name, split.identifier(index), split.labels[index], partial(split.image, index))
        for split in splits
        for index in range(len(split))
    ]


def _masked(name: str, root: str | Path | None, findings: Findings) -> list[_Picture]:
    """Images of a segmentation set, opened with their masks."""
    try:
        dataset = survey(name, findings, root=root)
    except ValueError as error:
        findings.error("unusable-data-set", str(root or name), str(error).removeprefix("data_root: "))
        return []
    if dataset is None:
        return []
    for note in dataset.notes:
        findings.ok("note", name, note)
    splits = [dataset.splits[split] for split in SPLITS if split in dataset.splits]
    for split in splits:
        findings.ok("count", split.name, f"{len(split)} images with masks")
    if dataset.root is None:  # drawn
        return []
    return [
        _Picture(split.name, split.identifier(index), 0, partial(_image_of_pair, split, index), _below(dataset.root, split.masks[index]))
        for split in splits
        for index in range(len(split))
    ]


def _below(root: Path, mask: Any) -> str:
    return Path(mask).relative_to(root).as_posix()


def _image_of_pair(split: MaskedSplit, index: int) -> Image.Image:
    return split.pair(index)[0]


def _decode(pictures: list[_Picture], findings: Findings, watch: Watch) -> list[bytes | None]:
    """A digest of each image's pixels; None and a finding for what cannot be decoded."""
    faults: dict[int, BadImage] = {}

    def digest(index: int) -> bytes | None:
        try:
            image = pictures[index].load()
        except BadImage as error:
            faults[index] = error
            return None
        return blake2b(image.tobytes(), digest_size=16, salt=b"%dx%d" % image.size).digest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = list(watch(pool.map(digest, range(len(pictures))), len(pictures)))
    for index, fault in sorted(faults.items()):
        findings.error(fault.kind, pictures[index].mask if isinstance(fault, BadMask) else pictures[index].file, fault.reason)
    findings.ok("images", "all", f"{len(pictures) - len(faults)} of {len(pictures)} decoded")
    return digests


def _compare(pictures: list[_Picture], digests: list[bytes | None], twins: float, findings: Findings) -> None:
    """Find equal images in different splits; up to a share ``twins`` of train they are expected."""
    first: dict[bytes, _Picture] = {}
    pairs = []
    for picture, digest in zip(pictures, digests, strict=True):
        if digest is not None and picture.split != _JOINT:
            before = first.setdefault(digest, picture)
            if before.split != picture.split and before.file != picture.file:  # the same file: found in the lists
                pairs.append((before, picture))
    expected = len(pairs) <= twins * sum(picture.split == "train" for picture in pictures)
    report = findings.warning if expected else findings.error
    for one, other in pairs:
        report("in-two-splits", other.file, f"{other.split} has the same picture as {one.split}: {one.file}")
    if not pairs:
        findings.ok("splits", "all", "no picture is in two splits")


def _check_union(pictures: list[_Picture], digests: list[bytes | None], findings: Findings) -> None:
    """Compare the joint list, if there is one, with train and val together: the same pictures with the same labels."""
    joint, apart = Counter(_keys(pictures, digests, {_JOINT})), Counter(_keys(pictures, digests, {"train", "val"}))
    if not joint:
        return
    names = {(digest, picture.label): picture.file for picture, digest in zip(pictures, digests, strict=True)}
    for there, absent, what in ((joint, apart, "train800 and val200"), (apart, joint, "train800val200")):
        for key in there - absent:
            findings.error("not-the-union", names[key], f"not in {what} with class id {key[1]}")
    if joint == apart:
        findings.ok("union", "train800val200", "the images of train800 and val200")


def _keys(pictures: list[_Picture], digests: list[bytes | None], splits: set[str]) -> Iterator[tuple[bytes, int]]:
    for picture, digest in zip(pictures, digests, strict=True):
        if digest is not None and picture.split in splits:
            yield digest, picture.label
