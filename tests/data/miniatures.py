"""Every FGVC and VTAB-1k data set in its exact layout, with images of 8 x 8 pixels and fewer of them."""

import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from promptvit.data.listed.tasks import FGVC, VTAB

VTAB_LISTS = {"train800": 0, "val200": 1, "test": 2}
SPT_FOLDERS = {"cifar": "CIFAR100", "diabetic_retinopathy": "Retinopathy", "dsprites_loc": "Dsprites_loc", "eurosat": "Eurosat"}


def picture(path: Path, seed: object = None) -> Path:
    """Noise that no other path has; the same ``seed`` gives the same picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(zlib.crc32(str(seed or path).encode()))
    Image.fromarray(drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path, "JPEG", quality=95)
    return path


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def image_name(name: str, label: int, number: int) -> str:
    """Path of an image as the json list of an FGVC set has it."""
    return {
        "cub": f"{label + 1:03d}.Bird_{label}/Bird_{number}_{label}.jpg",
        "nabirds": f"{label + 295:04d}/{label:08x}{number:024x}.jpg",
        "flowers": f"jpg/image_{3 * label + number + 1:05d}.jpg",
        "dogs": f"n{label:08d}-Dog_{label}/n{label:08d}_{number}.jpg",
        "cars": f"car_ims/{3 * label + number + 1:06d}.jpg",
    }[name]


def fgvc_json(root: Path, name: str, classes: int | None = None, first_id: int | None = None) -> Path:
    """Json lists: per class one image to train and one to test, and one for val in some."""
    task = FGVC[name]
    labels = range(classes or task.classes)
    for number, (split, chosen) in enumerate({"train": labels, "val": labels[:8], "test": labels}.items()):
        listed = {image_name(name, label, number): label + (task.first_id if first_id is None else first_id) for label in chosen}
        for path in listed:
            picture(root / task.images / path)
        (root / f"{split}.json").write_text(json.dumps(listed), encoding="utf-8")
    return root


def birds(root: Path, name: str, classes: int | None = None) -> Path:
    """CUB-200-2011 and NABirds: per class two images to train and one to test. NABirds' ids have gaps, and not all classes have images."""
    rows = []
    for label in range(classes or FGVC[name].classes):
        for number in range(3):
            path = image_name(name, label, number)
            picture(root / "images" / path)
            key = str(len(rows) + 1) if name == "cub" else f"{label:08x}-0000-0000-0000-{number:012x}"
            class_id = label + 1 if name == "cub" else 295 + label + label // 5
            rows.append((key, path, class_id, int(number < 2)))
    write(root / "images.txt", [f"{key} {path}" for key, path, _, _ in rows])
    write(root / "image_class_labels.txt", [f"{key} {class_id}" for key, _, class_id, _ in rows])
    write(root / "train_test_split.txt", [f"{key} {for_training}" for key, _, _, for_training in rows])
    if name == "cub":
        write(root / "classes.txt", [f"{label + 1} {label + 1:03d}.Bird_{label}" for label in range(FGVC[name].classes)])
    else:
        write(root / "classes.txt", [f"{number} A bird, number {number}" for number in range(1011)])
        write(root / "hierarchy.txt", [f"{number} 0" for number in range(1, 1011)])
    return root


def cells(values: list[str]) -> np.ndarray:
    """What MATLAB calls a cell array of strings, as a column."""
    column = np.empty((len(values), 1), dtype=object)
    column[:, 0] = values
    return column


def dogs(root: Path, name: str = "dogs", classes: int | None = None) -> Path:
    labels = range(classes or FGVC[name].classes)
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        files = [(image_name(name, label, number), label + 1) for label in labels for number in numbers]
        for path, _ in files:
            picture(root / "Images" / path)
        annotations = cells([path.removesuffix(".jpg") for path, _ in files])
        columns = {"file_list": cells([path for path, _ in files]), "labels": np.array([[label] for _, label in files], dtype=float)}
        savemat(root / f"{split}_list.mat", columns | {"annotation_list": annotations})
    return root


def flowers(root: Path, name: str = "flowers", classes: int | None = None) -> Path:
    numbers = np.arange(1, 3 * (classes or FGVC[name].classes) + 1)
    for number in numbers:
        picture(root / f"jpg/image_{number:05d}.jpg")
    savemat(root / "imagelabels.mat", {"labels": ((numbers - 1) // 3 + 1).astype(np.uint8)[None]})
    by_split = {variable: numbers[place::3].astype(np.uint16)[None] for place, variable in enumerate(("trnid", "valid", "tstid"))}
    savemat(root / "setid.mat", by_split)
    return root


def _annotations(rows: list[dict[str, object]]) -> np.ndarray:
    box = {f"bbox_{side}": 1 for side in ("x1", "y1", "x2", "y2")}
    array = np.zeros((1, len(rows)), dtype=[(key, object) for key in (*box, *rows[0])])
    for place, row in enumerate(rows):
        array[0, place] = (*box.values(), *row.values())
    return array


def cars_together(root: Path, name: str = "cars", classes: int | None = None) -> Path:
    labels = range(classes or FGVC[name].classes)
    rows = [
        {"relative_im_path": image_name(name, label, number), "class": label + 1, "test": int(number == 2)}
        for label in labels for number in range(3)
    ]
    for row in rows:
        picture(root / str(row["relative_im_path"]))
    names = cells([f"Car {label}" for label in labels]).T
    savemat(root / "cars_annos.mat", {"annotations": _annotations(rows), "class_names": names})
    return root


def cars_apart(root: Path, name: str = "cars", classes: int | None = None, test_list: str = "devkit") -> Path:
    """``test_list``: the folder of the annotations of test, which are distributed apart from the others."""
    labels = range(classes or FGVC[name].classes)
    (root / "devkit").mkdir(parents=True)
    for split, numbers, file in (("train", 2, "devkit/cars_train_annos"), ("test", 1, f"{test_list}/cars_test_annos_withlabels")):
        chosen = [label for label in labels for _ in range(numbers)]
        rows = [{"class": label + 1, "fname": f"{place + 1:05d}.jpg"} for place, label in enumerate(chosen)]
        for row in rows:
            picture(root / f"cars_{split}/{row['fname']}")
        savemat(root / f"{file}.mat", {"annotations": _annotations(rows)})
    savemat(root / "devkit/cars_meta.mat", {"class_names": cells([f"Car {label}" for label in labels]).T})
    return root


OFFICIAL = {
    "cub": (birds, "cub"), "nabirds": (birds, "nabirds"), "dogs": (dogs, "dogs"), "flowers": (flowers, "flowers"),
    "cars_together": (cars_together, "cars"), "cars_apart": (cars_apart, "cars"),
}


def vtab(root: Path, name: str, counts: tuple[int, int, int] = (8, 4, 6)) -> Path:
    """A task's folder: ids from 0, few of the classes, and train800val200 with copies of the images of train800 and val200."""
    last = VTAB[name].classes - 1
    joint = []
    for split, place in VTAB_LISTS.items():
        lines = []
        for number in range(counts[place]):
            label = (0, last, number % (last + 1))[min(number, 2)]
            lines.append(f"images/{split}/{number:06d}.jpg {label}")
            picture(root / f"images/{split}/{number:06d}.jpg", f"{name} {split} {number}")
            if split != "test":
                picture(root / f"images/train800val200/{len(joint):06d}.jpg", f"{name} {split} {number}")
                joint.append(f"images/train800val200/{len(joint):06d}.jpg {label}")
        write(root / f"{split}.txt", lines)
    write(root / "train800val200.txt", joint)
    return root
