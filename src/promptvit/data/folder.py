"""``folder``: one's own images, a folder per class, with or without ``train``, ``val`` and ``test`` above the classes.

``ROOT/cat/1.jpg`` or ``ROOT/train/cat/1.jpg``; ``valid`` and ``validation`` mean ``val``; folders inside a class are fine; hidden
files are ignored. Splits that are missing are cut out of the training images by a seeded stratified draw, and a note says so:

* none given, or only ``train``: 70 % train, 15 % val, 15 % test.
* no ``val``: 15 % of train become val. The test images are not touched before the end.
* no ``test``: 15 % of train become test. The given val selects, so its accuracy cannot also be what is reported.

Every file is decoded when the data set is first loaded, so a damaged one shows before training and not in the middle of it; what was
found is remembered while no file changes its size or time.
"""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from promptvit.data import tree
from promptvit.data.base import Dataset, Split, stratified_split
from promptvit.data.cache import Cache
from promptvit.data.images import FORMATS, BadImage, open_image
from promptvit.data.registry import register
from promptvit.data.seeding import Purpose, generator

HELD_OUT = 0.15  # share of the training images that a missing val or test gets


@register("folder")
def folder(name: str, *, root: Path | None, data_seed: int, strict: bool) -> Dataset:
    """Read a folder of images.

    Raises:
        ValueError: no root, or no class folders in it; a class without usable images, or unknown to train, or too small to be cut;
            a link out of the root; one file under two paths; with ``strict`` any unusable file.
    """
    if root is None:
        raise ValueError(f"data_root: missing; the data set {name!r} needs --data-root ROOT; {tree.EXPECTED}")
    layout = tree.read(root)
    skipped = _unusable([file for files in layout.files.values() for file in files])
    listed = _listed(skipped)
    if strict and skipped:
        raise ValueError(f"--strict: {len(skipped)} files in {layout.root} are no usable images: {_some(listed, 20)}")
    classes = layout.classes["train"]
    if set(classes) == {"images", "masks"}:
        raise ValueError(f"data_root: {layout.root} has images and masks instead of classes; use --task segmentation")
    number = {label: index for index, label in enumerate(classes)}
    splits = {}
    for split, files in layout.files.items():
        usable = [file for file in files if file.identifier not in skipped]
        labels = [_label(file, split, number) for file in usable]
        splits[split] = Split(split, labels, [file.path for file in usable], [file.identifier for file in usable])
    _check_filled(splits, layout, skipped)
    notes = layout.notes + ([f"skipped {len(skipped)} files that are no usable images: {_some(listed, 20)}"] if skipped else [])
    notes += _cut_missing(splits, classes, data_seed)
    return Dataset(name, classes, splits, notes=notes, skipped=list(skipped.items()))


def _unusable(files: list[tree.File]) -> dict[str, str]:
    """Identifier and reason of files that cannot be decoded."""
    cache, facts = Cache(), [FORMATS, *((file.identifier, str(file.path.absolute()), *_size_and_time(file.path)) for file in files)]
    known = cache.recall(facts)
    if isinstance(known, dict):
        return known

    def reason(file: tree.File) -> str | None:
        try:
            open_image(file.path)
        except BadImage as error:
            return error.reason
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        reasons = pool.map(reason, files)
        found = {file.identifier: why for file, why in zip(files, reasons, strict=True) if why}
    cache.remember(facts, found)
    return found


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except OSError:
        return -1, -1
    return facts.st_size, facts.st_mtime_ns


def _label(file: tree.File, split: str, number: dict[str, int]) -> int:
    if file.label not in number:
        raise ValueError(f"data_root: {file.identifier}: class {file.label!r} is in {split} but not in train; add it to train or remove it")
    return number[file.label]


def _check_filled(splits: dict[str, Split], layout: tree.Layout, skipped: dict[str, str]) -> None:
    present = set(splits["train"].labels)
    for label, name in enumerate(layout.classes["train"]):
        if label not in present:
            bad = {file.identifier: skipped[file.identifier] for file in layout.files["train"] if file.label == name}
            why = _some(_listed(bad), 3) or "its folder is empty"
            raise ValueError(f"data_root: class {name!r} has no usable image to train on: {why}; add images or remove the class")
    for split in splits.values():
        if not len(split):
            raise ValueError(f"data_root: {split.name} holds no usable image; add some, or remove the folder to have it cut out of train")


def _cut_missing(splits: dict[str, Split], classes: list[str], data_seed: int) -> list[str]:
    """Cut the splits that were not given out of train; returns the note that says so."""
    missing = [split for split in ("test", "val") if split not in splits]  # a class with two images is tested rather than selected on
    if not missing:
        return []
    wanted = " and ".join(sorted(missing, reverse=True))
    train = splits["train"]
    lonely = [repr(classes[label]) for label, count in sorted(Counter(train.labels).items()) if count == 1]
    if lonely:
        raise ValueError(
            f"data_root: only one usable image in class {_some(lonely, 5)}, too few to cut {wanted} out of train; "
            "add images, remove the class, or give train, val and test folders"
        )
    fractions = [1 - HELD_OUT * len(missing), *[HELD_OUT] * len(missing)]
    parts = stratified_split(train.labels, fractions, generator(data_seed, Purpose.SPLIT))
    splits |= {split: train.subset(part, split) for split, part in zip(["train", *missing], parts, strict=True)}
    counts = ", ".join(f"{len(splits[split])} {split}" for split in ("train", "val", "test"))
    if not all(map(len, splits.values())):
        raise ValueError(f"data_root: {len(train)} training images are too few to cut {wanted} out of ({counts}); give 3 or more per class")
    return [f"no {wanted} given: cut out of train, {HELD_OUT:.0%} each, stratified, data_seed {data_seed}: {counts} images"]


def _listed(skipped: dict[str, str]) -> list[str]:
    return [f"{file} ({reason})" for file, reason in skipped.items()]


def _some(names: Sequence[str], shown: int) -> str:
    """The first names and how many there are beyond."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
