"""Images and masks in two folders: which belongs to which, by name. Opens no file."""

from pathlib import Path

from promptvit.data.findings import Findings
from promptvit.data.segmentation.base import MaskedSplit
from promptvit.data.segmentation.masks import Coding
from promptvit.data.tree import Walk


class Pairing:
    """Pairs images with masks below ``root``; remembers every file that it has met, so that none is in two splits."""

    def __init__(self, root: Path, coding: Coding, findings: Findings) -> None:
        self.root, self.coding, self.findings, self.walk = root, coding, findings, Walk(root)

    def split(self, name: str, images: Path, masks: Path) -> MaskedSplit:
        """The pairs of one split: ``images/a/b.jpg`` and ``masks/a/b.png``. What has no partner is an error among the findings."""
        found, theirs = self._by_name(images), self._by_name(masks)
        for key, path in found.items():
            if key not in theirs:
                self.findings.error("missing-mask", self._path(path), f"expected {self._path(masks)}/{key}.png")
        for key, path in theirs.items():
            if key not in found:
                self.findings.error("missing-image", self._path(path), f"expected an image {key} in {self._path(images)}")
        both = [key for key in found if key in theirs]
        if not both and not self.findings.of("error"):
            self.findings.error("empty-split", name, f"{self._path(images)} holds no image")
        pictures, truths = [found[key] for key in both], [theirs[key] for key in both]
        return MaskedSplit(name, pictures, truths, [self._path(path) for path in pictures], self.coding)

    def _by_name(self, folder: Path) -> dict[str, Path]:
        """Files below ``folder`` by their path in it, without the ending."""
        if not folder.is_dir():
            self.findings.error("unrecognised-layout", self._path(folder), "no such folder")
            return {}
        named: dict[str, Path] = {}
        for path in self.walk.files(folder):
            before = named.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
            if before != path:
                self.findings.error("listed-twice", self._path(path), f"has the name of {self._path(before)}; keep one of them")
        return named

    def _path(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()
