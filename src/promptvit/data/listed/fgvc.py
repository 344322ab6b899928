"""``fgvc/NAME``: the five sets of FGVC, with the json lists that papers share or in their official layouts.

Json lists, ``{train,val,test}.json``: an object of image paths, relative to the image folder, and class ids. Official layouts: see
:mod:`promptvit.data.listed.official`. Class ids become labels in the order of the ids in train, once, whatever they count from, and
the same labels serve all splits.

Official sets other than Flowers have no val: a tenth of train is cut out, stratified, as a function of ``data_seed`` alone.
"""

from pathlib import Path

from promptvit.data.base import Dataset
from promptvit.data.findings import Findings
from promptvit.data.listed.ids import labels_of_train
from promptvit.data.listed.listing import SURVEYS, Listing, compare_splits
from promptvit.data.listed.lists import image_object
from promptvit.data.listed.official import LAYOUTS, Layout, Parts
from promptvit.data.listed.places import chosen_layout, locate, placed
from promptvit.data.listed.tasks import FGVC, Task
from promptvit.data.registry import register
from promptvit.errors import unknown
from promptvit.files import write_json

_JSON = {"train": "train.json", "val": "val.json", "test": "test.json"}
_NAMES = [f"fgvc/{name}" for name in FGVC]


@register(*_NAMES)
def fgvc(name: str, *, root: Path | None, data_seed: int, strict: bool) -> Dataset:
    """Read a set; images are decoded when they are due, so ``strict`` has nothing to add: what is listed and missing is an error anyway.

    Raises:
        ValueError: no root, or the first error that the lists have.
    """
    if root is None:
        raise ValueError(f"data_root: missing; the data set {name!r} needs --data-root ROOT; expected {_expected(FGVC[_short(name)])}")
    return survey(name, root).dataset(name, data_seed, augment="crop-flip", resize=None)


def survey(name: str, root: Path, *, whole: bool = False) -> Listing:
    """Read a set's lists; there are none that training does not need."""
    task, findings = FGVC[_short(name)], Findings()
    listing = Listing(task, root, findings)
    layouts = (_json_layout(task), *LAYOUTS[task.name])
    found = locate(root, task, ("fgvc",), lambda folder: next((layout for layout in layouts if _shown(layout, folder)), None))
    chosen = chosen_layout(found, root, _expected(task), findings)
    if not chosen:
        return listing
    listing.root, layout = chosen
    findings.ok("layout", str(listing.root), layout.name)
    parts = layout.read(listing.root, findings)
    listing.names = parts.names
    listing.labels = labels_of_train(parts.lines, task, findings)
    listing.splits = {split: placed(lines, listing.root, findings) for split, lines in parts.lines.items()}
    compare_splits(listing)
    return listing


SURVEYS |= dict.fromkeys(_NAMES, survey)


def write_lists(dataset: Dataset, folder: Path) -> list[Path]:
    """Write the splits of a set, the cut among them, as json lists with ids from 0; in the set's own folder they are what is read next.

    Raises:
        ValueError: a set that is not of FGVC, or lists that are there already.
    """
    if dataset.name not in _NAMES:
        raise ValueError(unknown("FGVC data set", dataset.name, _NAMES))
    files = {split: folder / file for split, file in _JSON.items()}
    for file in files.values():
        if file.exists():
            raise ValueError(f"out: {file} is there already; choose another folder")
    above = f"{FGVC[_short(dataset.name)].images}/"
    for split, file in files.items():
        listed = dataset.splits[split]
        paths = [identifier.removeprefix(above) for identifier in listed.identifiers]
        write_json(file, dict(zip(paths, listed.labels, strict=True)))
    return list(files.values())


def _json_layout(task: Task) -> Layout:
    def read(root: Path, findings: Findings) -> Parts:
        return Parts({split: image_object(root / file, findings, task.images) for split, file in _JSON.items()})

    return Layout("json lists", tuple(_JSON.values()), read)


def _shown(layout: Layout, folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in layout.marks)


def _short(name: str) -> str:
    return name.removeprefix("fgvc/")


def _expected(task: Task) -> str:
    return " or ".join([", ".join(_JSON.values()), *(f"{layout.marks[0]} ({layout.name})" for layout in LAYOUTS[task.name])])
