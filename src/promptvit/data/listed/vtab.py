"""``vtab/NAME``: the 19 tasks of VTAB-1k, as the folder copy with text lists.

``TASK/{train800,val200,train800val200,test}.txt`` with lines ``images/train800/000000.jpg 307`` (class ids from 0). The data root may be
the task's folder, a folder of tasks, or ``VTAB-1K/{Natural,Specialized,Structured}/TASK``.

Splits are train800, val200 and test: choose settings on val. To train on all 1,000 images before the one test, join train and val.
"""

from pathlib import Path

from promptvit.data.base import Dataset
from promptvit.data.findings import Findings
from promptvit.data.listed.ids import check_range
from promptvit.data.listed.listing import SURVEYS, Listing, compare_splits, count_images
from promptvit.data.listed.lists import image_lines
from promptvit.data.listed.places import Listed, chosen_layout, locate, placed
from promptvit.data.listed.tasks import VTAB
from promptvit.data.registry import register

LISTS = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}
JOINT = "train800val200.txt"
EXPECTED = f"{', '.join(LISTS.values())} and {JOINT}"
_HOLDERS = ("vtab", "vtab-1k", "natural", "specialized", "structured")
_NAMES = [f"vtab/{name}" for name in VTAB]


@register(*_NAMES)
def vtab(name: str, *, root: Path | None, data_seed: int, strict: bool) -> Dataset:
    """Read a task; images are decoded when they are due, so ``strict`` has nothing to add: what is listed and missing is an error anyway.

    Raises:
        ValueError: no root, or the first error that the lists have.
    """
    if root is None:
        raise ValueError(f"data_root: missing; the data set {name!r} needs --data-root ROOT; expected {EXPECTED}")
    return survey(name, root).dataset(name, data_seed, augment="none", resize="direct")


def survey(name: str, root: Path, *, whole: bool = False) -> Listing:
    """Read a task's lists; ``whole``: also train800val200, which says nothing new."""
    task, findings = VTAB[name.removeprefix("vtab/")], Findings()
    listing = Listing(task, root, findings, labels={number: number for number in range(task.classes)})
    found = locate(root, task, _HOLDERS, lambda folder: any((folder / file).is_file() for file in LISTS.values()) or None)
    chosen = chosen_layout(found, root, EXPECTED, findings)
    if not chosen:
        return listing
    listing.root, _ = chosen
    findings.ok("layout", str(listing.root), "VTAB-1k folder copy with text lists")
    for split, file in LISTS.items():
        listing.splits[split] = _read(listing, file)
    compare_splits(listing)
    if whole and (listing.root / JOINT).is_file():
        listing.joint = _read(listing, JOINT)
        count_images(JOINT, len(listing.joint), task.train + task.val, findings)
    elif whole:
        findings.warning("missing-list", JOINT, f"not in {listing.root}; training does not need it")
    return listing


SURVEYS |= dict.fromkeys(_NAMES, survey)


def _read(listing: Listing, file: str) -> list[Listed]:
    lines = image_lines(listing.root / file, listing.findings)
    check_range(lines, 0, listing.task.classes, listing.findings)
    return placed(lines, listing.root, listing.findings)
