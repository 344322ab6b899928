"""Finds splits, classes and files in a folder of folders, and refuses what is ambiguous. Opens no file."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LITTER = ("thumbs.db", "desktop.ini")  # hidden where they come from, but not by name
EXPECTED = "expected ROOT/CLASS/IMAGE or ROOT/train/CLASS/IMAGE (with val and test beside train, or without)"


@dataclass(frozen=True)
class File:
    """A file below a class folder; ``identifier`` is its path relative to the root, with slashes."""

    path: Path
    identifier: str
    label: str


@dataclass
class Layout:
    """What was found: per given split the class folders and the files, in natural order. Without splits all is ``train``."""

    root: Path
    classes: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[File]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read(root: Path) -> Layout:
    """Walk ``root``, the data set's own folder or one that holds nothing but it.

    Raises:
        ValueError: no such folder, no class folders, fewer than two classes, ``val`` or ``test`` without ``train``, a link that leaves
            the root, one file or folder under two paths, a folder that may not be read.
    """
    if not root.is_dir():
        raise ValueError(f"data_root: {root} is {'a file' if root.exists() else 'no folder'}; {EXPECTED}")
    try:
        return _read(root)
    except (OSError, RuntimeError) as error:  # pathlib reports a circle of links as RuntimeError
        raise ValueError(f"data_root: cannot read {root} ({error}); check permissions and links") from None


def _read(root: Path) -> Layout:
    layout = Layout(root)
    inside = visible_folders(root)
    if len(inside) == 1 and inside[0].name.casefold() not in SPLIT_NAMES and visible_folders(inside[0]):
        layout.root = inside[0]
        layout.notes.append(f"the data set is in {inside[0].name}, the only folder in {root}")
    walk = Walk(root)
    for split, folder in _split_folders(layout).items():
        classes = visible_folders(folder)
        if not classes:
            raise ValueError(f"data_root: {folder} has no class folders; {EXPECTED}")
        layout.classes[split] = [_class_name(path) for path in classes]
        layout.files[split] = [File(path, path.relative_to(layout.root).as_posix(), c.name) for c in classes for path in walk.files(c)]
    if len(layout.classes["train"]) < 2:
        only = layout.classes["train"][0]
        raise ValueError(f"data_root: {only} is the only class folder in {layout.root}; two or more are needed; {EXPECTED}")
    return layout


def natural(names: Iterable[str]) -> list[str]:
    """Sorted as people do: ``class2`` before ``class10``."""

    def key(name: str) -> tuple[list[str | int], str]:
        parts = re.split(r"([0-9]+)", name.casefold())  # text, number, text, ...
        return [int(part) if index % 2 else part for index, part in enumerate(parts)], name

    return sorted(names, key=key)


def _split_folders(layout: Layout) -> dict[str, Path]:
    """Per split its folder; the root itself is ``train`` where there are none."""
    folders = visible_folders(layout.root)
    given: dict[str, Path] = {}
    for folder in folders:
        split = SPLIT_NAMES.get(folder.name.casefold())
        if split in given:
            raise ValueError(f"data_root: {layout.root} has both {given[split].name} and {folder.name}; keep one of them")
        if split:
            given[split] = folder
    others = [folder.name for folder in folders if folder not in given.values()]
    if not given or (set(given) == {"train"} and others and not visible_folders(given["train"])):  # vehicles: bus, car, train
        return {"train": layout.root}
    if "train" not in given:
        found = " and ".join(folder.name for folder in given.values())
        raise ValueError(f"data_root: {layout.root} has {found} but no train; put the classes for training into train, or rename {found}")
    if others:
        layout.notes.append(f"not part of a split and left out: {', '.join(others)}")
    return given

def _class_name(folder: Path) -> str:
    """A class is named by its folder, and its name must fit into the adapter's config, which is UTF-8."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"data_root: the name of the class folder {folder.name!r} is not UTF-8; rename it") from None
    return folder.name


def visible_folders(path: Path) -> list[Path]:
    """Visible folders in natural order."""
    found = {entry.name: entry for entry in path.iterdir() if not _hidden(entry.name) and entry.is_dir()}
    return [found[name] for name in natural(found)]

def _hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in LITTER

class Walk:
    """Files below folders; remembers where every real file and folder was met, so that none is met twice."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.met: dict[Path, Path] = {}

    def files(self, folder: Path) -> Iterator[Path]:
        """Visible files of ``folder`` and the folders in it."""
        self._meet(folder, folder.resolve())
        yield from self._below(folder, folder.resolve())

    def _below(self, folder: Path, real_folder: Path) -> Iterator[Path]:
        with os.scandir(folder) as found:
            entries = {entry.name: entry for entry in found if not _hidden(entry.name)}
        for name in natural(entries):
            path, entry = folder / name, entries[name]
            real = path.resolve() if entry.is_symlink() else real_folder / name  # resolving each file would cost more than the walk
            self._meet(path, real)
            if entry.is_dir():
                yield from self._below(path, real)
            else:
                yield path

    def _meet(self, path: Path, real: Path) -> None:
        if not real.is_relative_to(self.root):
            raise ValueError(f"data_root: {path} leads out of {self.root} through a link; copy the files into it")
        if real in self.met:
            raise ValueError(f"data_root: {path} and {self.met[real]} are the same; an image may be in one place only, so remove the link")
        self.met[real] = path
