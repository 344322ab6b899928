"""Where the images of a list are: the data set's folder, and the files that lists name. Nothing outside the data root is looked at."""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from promptvit.data.findings import Findings
from promptvit.data.listed.lists import Line
from promptvit.data.listed.tasks import Task, plain

Layout = TypeVar("Layout")


@dataclass(frozen=True)
class Listed:
    """An image in a list: its file, its path relative to the data set, its class id and where it is listed."""

    path: Path
    identifier: str
    id: int
    where: str


def locate(root: Path, task: Task, holders: Iterable[str], recognise: Callable[[Path], Layout | None]) -> list[tuple[Path, Layout]]:
    """The data set's own folder and layout: ``root``, or what is below it in folders named as the data set or as one of ``holders``.

    Returns:
        All that are found nearest to ``root``; one, if all is well.
    """
    passable = task.folder_names | {plain(name) for name in holders}
    level = [root]
    for _ in range(4):  # such as DATA/VTAB-1K/Natural/CIFAR100
        found = [(folder, layout) for folder in level if (layout := recognise(folder)) is not None]
        if found or not level:
            return found
        inside = [child for folder in level for child in _folders(folder)]
        level = [child for child in inside if plain(child.name) in passable] or (inside if len(inside) == 1 else [])
    return []


def chosen_layout(found: Sequence[tuple[Path, Layout]], root: Path, expected: str, findings: Findings) -> tuple[Path, Layout] | None:
    """The one layout that was found, or None and a finding."""
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(str(folder) for folder, _ in found)
        findings.error("unrecognised-layout", str(root), f"the data set is there more than once: {both}; give one of them as --data-root")
    else:
        state = "" if root.is_dir() else "a file; " if root.exists() else "no such folder; "
        findings.error("unrecognised-layout", str(root), f"{state}expected {expected}, there or in a folder of the data set's name below")
    return None


def placed(lines: Iterable[Line], root: Path, findings: Findings) -> list[Listed]:
    """Lines whose image is a file below ``root``, each once.

    Nothing outside ``root`` is looked at: not through ``..``, an absolute path or a link.
    """
    inside, seen, listed = _real_folders(root), set[str](), []
    for line in lines:
        identifier = _identifier(line.path, line.folder)
        if identifier is None:
            findings.error("path-leaves-root", line.path, f"absolute or above the data root; listed in {line.where}")
        elif identifier in seen:
            findings.error("listed-twice", identifier, f"again in {line.where}")
        elif fault := _fault(root / identifier, inside):
            findings.error(fault[0], identifier, f"{fault[1]}; listed in {line.where}")
        else:
            listed.append(Listed(root / identifier, identifier, line.id, line.where))
        if identifier is not None:
            seen.add(identifier)
    return listed


def _identifier(path: str, folder: str) -> str | None:
    """``path`` relative to the data set, with slashes and without dots; None where it leads out of it."""
    path = path.replace("\\", "/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return None
    parts: list[str] = []
    for part in f"{folder}/{path}".split("/"):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _real_folders(root: Path) -> Callable[[Path], bool]:
    """Tells whether a folder is, links followed, inside ``root``; each folder is looked up once."""
    real_root = Path(os.path.realpath(root))
    return cache(lambda folder: Path(os.path.realpath(folder)).is_relative_to(real_root))


def _fault(path: Path, inside: Callable[[Path], bool]) -> tuple[str, str] | None:
    """Kind and sentence of what is wrong with a listed file."""
    try:
        link = stat.S_ISLNK(path.lstat().st_mode)
        if not inside(path.parent) or (link and not inside(Path(os.path.realpath(path)))):
            return "path-leaves-root", "a link leads out of the data root; copy what it leads to"
        return None if path.is_file() else ("missing-file", "not a file")
    except (OSError, ValueError):  # ValueError: what no file can be called
        return "missing-file", "no such file"


def _folders(path: Path) -> Iterator[Path]:
    """Visible folders."""
    if path.is_dir():
        yield from sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
