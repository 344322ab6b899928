"""The official layouts of the FGVC sets, as their authors distribute them: what marks each one, and how its lists are read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptvit.data.findings import Findings
from promptvit.data.listed.lists import Line, class_id, matrix, table


@dataclass
class Parts:
    """Lines per split, with paths relative to the data set's folder, and names per class id where the lists give them."""

    lines: dict[str, list[Line]]
    names: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """A layout: its name, files any of which shows that it is meant, and its reader."""

    name: str
    marks: tuple[str, ...]
    read: Callable[[Path, Findings], Parts]


def birds(root: Path, findings: Findings) -> Parts:
    """CUB and NABirds: text tables keyed by image id; 1 in the split's table means train."""
    paths, labels, for_training = (
        table(root / file, findings) for file in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    )
    parts = Parts({"train": [], "test": []}, _names(table(root / "classes.txt", findings) if (root / "classes.txt").is_file() else {}))
    for key, path in paths.items():
        label = class_id(labels.get(key, "missing"), "image_class_labels.txt", findings, of=path) if labels else None
        given = for_training.get(key, "missing")
        if given not in ("0", "1") and for_training:
            findings.error("unparsable-list", "train_test_split.txt", f"image {key} ({path}): expected 0 or 1, got {given[:80]!r}")
        elif label is not None and for_training:
            parts.lines["train" if given == "1" else "test"].append(Line(path, label, "images.txt", "images"))
    for file, values in (("image_class_labels.txt", labels), ("train_test_split.txt", for_training)):
        for key in [key for key in values if key not in paths]:
            findings.error("unparsable-list", file, f"image {key} is not in images.txt")
    return parts


def dogs(root: Path, findings: Findings) -> Parts:
    """Stanford Dogs: a MATLAB file per split."""
    lines = {}
    for split in ("train", "test"):
        file = f"{split}_list.mat"
        paths, labels = matrix(root / file, findings, "file_list", "labels")
        lines[split] = _lines(paths, labels, file, findings, folder="Images")
    return Parts(lines)


def flowers(root: Path, findings: Findings) -> Parts:
    """Oxford Flowers: the numbers of each split's images; image 1 is ``jpg/image_00001.jpg`` and has the first label."""
    (labels,) = matrix(root / "imagelabels.mat", findings, "labels")
    splits = matrix(root / "setid.mat", findings, "trnid", "valid", "tstid")
    lines: dict[str, list[Line]] = {}
    for split, numbers in zip(("train", "val", "test"), splits, strict=True):
        whole = [number for value in numbers if (number := class_id(value, "setid.mat", findings)) is not None]
        for number in [number for number in whole if not 1 <= number <= len(labels) and labels]:
            findings.error("unparsable-list", "setid.mat", f"image {number} has no label; imagelabels.mat has {len(labels)}")
        chosen = [number for number in whole if 1 <= number <= len(labels)]
        paths = [f"image_{number:05d}.jpg" for number in chosen]
        lines[split] = _lines(paths, [labels[number - 1] for number in chosen], "imagelabels.mat", findings, folder="jpg")
    return Parts(lines)


def cars_together(root: Path, findings: Findings) -> Parts:
    """Stanford Cars, all images in ``car_ims`` with six digits; a flag says which are for test."""
    cars, names = matrix(root / "cars_annos.mat", findings, "annotations", "class_names")
    by_split: dict[str, list[Any]] = {"train": [], "test": []}
    for car in _complete(cars, ("relative_im_path", "class", "test"), "cars_annos.mat", findings):
        by_split["test" if car["test"] else "train"].append(car)
    lines = {
        split: _lines([car["relative_im_path"] for car in chosen], [car["class"] for car in chosen], "cars_annos.mat", findings)
        for split, chosen in by_split.items()
    }
    return Parts(lines, _numbered(names))


def cars_apart(root: Path, findings: Findings) -> Parts:
    """Stanford Cars, images in ``cars_train`` and ``cars_test`` with five digits; lists beside them or in ``devkit``."""
    lines = {}
    for split, name in (("train", "cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        file = root / name if (root / name).is_file() else root / "devkit" / name
        (found,) = matrix(file, findings, "annotations")
        cars = _complete(found, ("fname", "class"), name, findings)
        lines[split] = _lines([car["fname"] for car in cars], [car["class"] for car in cars], name, findings, folder=f"cars_{split}")
    meta = root / "devkit" / "cars_meta.mat"
    return Parts(lines, _numbered(matrix(meta, findings, "class_names")[0]) if meta.is_file() else {})


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "cub": (Layout("official text lists of CUB-200-2011", ("images.txt",), birds),),
    "nabirds": (Layout("official text lists of NABirds", ("images.txt",), birds),),
    "dogs": (Layout("official MATLAB lists of Stanford Dogs", ("train_list.mat", "test_list.mat"), dogs),),
    "flowers": (Layout("official MATLAB lists of Oxford Flowers", ("setid.mat", "imagelabels.mat"), flowers),),
    "cars": (
        Layout("official MATLAB list of Stanford Cars, car_ims", ("cars_annos.mat",), cars_together),
        Layout(
            "official MATLAB lists of Stanford Cars, cars_train and cars_test",
            ("cars_train_annos.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"),
            cars_apart,
        ),
    ),
}


def _lines(paths: list[Any], labels: list[Any], file: str, findings: Findings, folder: str = ".") -> list[Line]:
    """Paths and class ids side by side."""
    if len(paths) != len(labels):
        findings.error("unparsable-list", file, f"{len(paths)} images but {len(labels)} labels")
        return []
    ids = [(str(path), class_id(label, file, findings, of=str(path))) for path, label in zip(paths, labels, strict=True)]
    return [Line(path, number, file, folder) for path, number in ids if number is not None]


def _complete(records: list[Any], keys: tuple[str, ...], file: str, findings: Findings) -> list[dict[str, Any]]:
    """The structures that have all of ``keys``."""
    complete = [record for record in records if isinstance(record, dict) and all(key in record for key in keys)]
    if len(complete) < len(records):
        findings.error("unparsable-list", file, f"{len(records) - len(complete)} annotations without {', '.join(keys)}")
    return complete


def _names(rows: dict[str, str]) -> dict[int, str]:
    return {int(key): name for key, name in rows.items() if key.isascii() and key.isdigit()}


def _numbered(names: list[Any]) -> dict[int, str]:
    return {number: str(name) for number, name in enumerate(names, start=1)}
