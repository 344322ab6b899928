"""A data set that comes as lists of images: what the lists say, and the data set that this makes. Opens no image."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from promptvit.data.base import SPLITS, Dataset, Split, stratified_split
from promptvit.data.findings import Findings
from promptvit.data.listed.places import Listed
from promptvit.data.listed.tasks import Task
from promptvit.data.seeding import Purpose, generator
from promptvit.preprocessing import Resize

HELD_OUT = 0.1  # share of the training images that val gets where the official set has none


@dataclass
class Listing:
    """What the lists say.

    Attributes:
        task: what is expected.
        root: the data set's own folder.
        splits: the images of ``train``, ``test`` and mostly ``val``.
        joint: the images of a list that must hold those of train and val.
        labels: class id to label, 0..classes-1.
        names: class id to name, where there is one.
        findings: what was noticed on the way.
    """

    task: Task
    root: Path
    findings: Findings
    splits: dict[str, list[Listed]] = field(default_factory=dict)
    joint: list[Listed] = field(default_factory=list)
    labels: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def dataset(self, name: str, data_seed: int, augment: str, resize: Resize | None) -> Dataset:
        """The data set to train on; a missing val is cut out of train, and a note says so.

        Raises:
            ValueError: the first error among the findings.
        """
        self.findings.raise_first(name)
        splits = {split: self._split(split, listed) for split, listed in self.splits.items()}
        notes = [str(finding) for finding in self.findings.of("warning")]
        if "val" not in splits:
            notes.append(_cut_val(splits, data_seed))
        return Dataset(name, self._classes(), {split: splits[split] for split in SPLITS}, augment=augment, notes=notes, resize=resize)

    def _split(self, split: str, listed: list[Listed]) -> Split:
        labels = [self.labels[image.id] for image in listed]
        return Split(split, labels, [image.path for image in listed], [image.identifier for image in listed])

    def _classes(self) -> list[str]:
        """Names in label order: those given, else the folders of the images where each class has its own, else the ids."""
        names = self.names or _folder_names(self.splits["train"])
        chosen = {label: names.get(number, str(number)) for number, label in self.labels.items()}
        if len(set(chosen.values())) < len(chosen):  # results are kept by name
            chosen = {label: f"{number} {chosen[label]}" for number, label in self.labels.items()}
        return [chosen.get(label, f"(class {label}: no training image)") for label in range(self.task.classes)]


class Survey(Protocol):
    """Reads the lists of the data set ``name`` in or below ``root``; ``whole``: also those that training does not need."""

    def __call__(self, name: str, root: Path, *, whole: bool = False) -> Listing: ...


SURVEYS: dict[str, Survey] = {}  # by data set name; what has no survey is checked by loading it


def compare_splits(listing: Listing) -> None:
    """Find images that two splits list, and count against what is expected."""
    task, findings, owner = listing.task, listing.findings, dict[str, str]()
    for listed in listing.splits.values():
        for image in listed:
            if image.identifier in owner:
                findings.error("in-two-splits", image.identifier, f"listed in {owner[image.identifier]} and again in {image.where}")
            owner[image.identifier] = image.where
    expected = {"train": task.train, "val": task.val, "test": task.test}
    if "val" not in listing.splits:
        expected["train"] += task.val
        findings.ok("note", "val", f"the official lists have none; {HELD_OUT:.0%} of train become val, by data_seed")
    for split, listed in listing.splits.items():
        if not listed and not findings.of("error"):
            findings.error("empty-split", split, "its list names no image")
        count_images(split, len(listed), expected[split], findings)


def count_images(what: str, have: int, want: int, findings: Findings) -> None:
    """Compare a number of images with what is expected."""
    if have == want:
        findings.ok("count", what, f"{have} images, as expected")
    else:
        note = ("partial-copy", "only ") if have < want else ("more-than-expected", "")
        findings.warning(note[0], what, f"{note[1]}{have} images; {want} are expected")


def _cut_val(splits: dict[str, Split], data_seed: int) -> str:
    """Cut val out of train; returns the note that says so."""
    everything = splits["train"]
    parts = stratified_split(everything.labels, [1 - HELD_OUT, HELD_OUT], generator(data_seed, Purpose.SPLIT))
    splits |= {split: everything.subset(part, split) for split, part in zip(("train", "val"), parts, strict=True)}
    counts = f"{len(parts[0])} train, {len(parts[1])} val"
    return f"the official lists have no val: {HELD_OUT:.0%} of train cut out, stratified, data_seed {data_seed}: {counts} images"


def _folder_names(listed: list[Listed]) -> dict[int, str]:
    """Class id to the folder of its images, if every class has a folder of its own."""
    folders: dict[int, set[str]] = {}
    for image in listed:
        folders.setdefault(image.id, set()).add(PurePosixPath(image.identifier).parent.name)
    names = {number: names.pop() for number, names in folders.items() if len(names) == 1}
    return names if len(set(names.values())) == len(folders) else {}
