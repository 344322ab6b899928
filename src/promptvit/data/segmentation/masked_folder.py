"""``folder`` with masks: one's own images, a mask for each, and a list of classes.

``ROOT/images/**/NAME.jpg`` and ``ROOT/masks/**/NAME.png``, or both with ``train``, ``val`` and ``test`` as their first folders;
``ROOT/classes.txt`` names the classes, one per line, with or without a colour (``water #2080ff``). Pixels of value 0 are of the class in
the first line, pixels of 255 do not count. Splits that are missing are cut out of train, 15 % each, as for folders of classes.
"""

import re
from pathlib import Path

import numpy as np

from promptvit.data.findings import Findings
from promptvit.data.folder import HELD_OUT
from promptvit.data.listed.lists import text_lines
from promptvit.data.segmentation.base import SegmentationDataset, cut_missing
from promptvit.data.segmentation.masks import IGNORE, Coding
from promptvit.data.segmentation.pairs import Pairing
from promptvit.data.segmentation.pictures import colours
from promptvit.data.segmentation.registry import register
from promptvit.data.tree import SPLIT_NAMES, visible_folders

CLASSES = "classes.txt"
EXPECTED = f"expected ROOT/images, ROOT/masks and ROOT/{CLASSES} (train, val and test below images and masks, or not)"


@register("folder")
def folder(name: str, *, root: Path | None, data_seed: int, findings: Findings) -> SegmentationDataset | None:
    """Read images and masks.

    Raises:
        ValueError: no root, both ``val`` and ``valid``, splits without train, too few images to be cut, a link out of the root.
    """
    if root is None:
        raise ValueError(f"data_root: missing; the data set {name!r} needs --data-root ROOT; {EXPECTED}")
    own = _own_folder(root)
    if own is None:
        state = "" if root.is_dir() else "a file; " if root.exists() else "no such folder; "
        findings.error("unrecognised-layout", str(root), f"{state}{EXPECTED}")
        return None
    classes, palette = _classes(own / CLASSES, findings)
    if findings.of("error"):  # without classes no mask means anything
        return None
    findings.ok("layout", str(own), f"images and masks; {len(classes)} classes")
    pairing = Pairing(own, Coding(len(classes)), findings)
    images, masks = own / "images", own / "masks"
    splits = {split: pairing.split(split, images / part, masks / part) for split, part in _split_folders(images).items()}
    notes = [] if findings.of("error") else cut_missing(splits, HELD_OUT, data_seed)
    return SegmentationDataset(name, classes, palette, splits, own, notes)


def _own_folder(root: Path) -> Path | None:
    """``root``, or the only folder in it."""
    inside = visible_folders(root) if root.is_dir() else []
    return next((path for path in (root, *(inside if len(inside) == 1 else ())) if (path / "images").is_dir()), None)


def _split_folders(images: Path) -> dict[str, str]:
    """Per split the name of its folder; none at all means that everything is ``train``."""
    given: dict[str, str] = {}
    for path in visible_folders(images):
        split = SPLIT_NAMES.get(path.name.casefold())
        if split in given:
            raise ValueError(f"data_root: {images} has both {given[split]} and {path.name}; keep one of them")
        if split:
            given[split] = path.name
    if given and "train" not in given:
        raise ValueError(f"data_root: {images} has {' and '.join(given.values())} but no train; add it, or take the others out")
    return given or {"train": "."}


def _classes(file: Path, findings: Findings) -> tuple[list[str], np.ndarray]:
    """Names and colours ``[C, 3]``."""
    names: list[str] = []
    given: dict[int, tuple[int, ...]] = {}
    for where, text in text_lines(file, findings):
        match = re.fullmatch(r"(.*?)(?:\s+#([0-9a-fA-F]{6}))?", text)
        assert match is not None
        if match[1] in names:
            findings.error("listed-twice", where, f"class {match[1]!r} has a line already")
        if match[2]:
            given[len(names)] = tuple(bytes.fromhex(match[2]))
        names.append(match[1])
    if not 2 <= len(names) <= IGNORE and not findings.of("error"):
        findings.error("unparsable-list", file.name, f"names {len(names)} classes; 2 to {IGNORE} are possible, one per line")
    palette = colours(len(names))
    for index, colour in given.items():
        palette[index] = colour
    return names, palette
