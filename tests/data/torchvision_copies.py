"""Miniature copies of the data sets that torchvision reads, in the layouts its classes expect.

Image ``number`` of class ``label`` has the colour :func:`colour`, so that a test can tell whether an image kept its label.
"""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from promptvit.data.torchvision_sets import SETS

PER_CLASS = 3


def colour(label, number):
    return (label % 16 * 16, label // 16 * 10, number * 20)


def pictures(short, start=0):
    """Labels and arrays ``[8, 8, 3]``, PER_CLASS per class."""
    pairs = [(label, number) for number in range(start, start + PER_CLASS) for label in range(SETS[short].classes)]
    size = {"stl10": 96, "cifar10": 32, "cifar100": 32, "svhn": 32}.get(short, 8)
    images = [np.full((size, size, 3), colour(*pair), np.uint8) for pair in pairs]
    return [label for label, _ in pairs], images


def build(short, root, monkeypatch):
    """Write the miniature ``short`` below ``root``; published checksums are replaced by its own."""
    Path(root).mkdir(parents=True, exist_ok=True)
    BUILDERS[short](short, Path(root), monkeypatch)
    return Path(root)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar(short, root, monkeypatch):
    kind = getattr(datasets, SETS[short].kind)
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    key = "labels" if short == "cifar10" else "fine_labels"
    lists = {}
    for attribute, start in (("train_list", 0), ("test_list", PER_CLASS)):
        labels, images = pictures(short, start)
        rows = np.stack([image.transpose(2, 0, 1).reshape(-1) for image in images])
        files = [name for name, _ in getattr(kind, attribute)]
        for name, where in zip(files, np.array_split(np.arange(len(labels)), len(files)), strict=True):
            (folder / name).write_bytes(pickle.dumps({"data": rows[where], key: [labels[i] for i in where]}))
        lists[attribute] = [[name, md5(folder / name)] for name in files]
    meta = {kind.meta["key"]: [f"class{label}" for label in range(SETS[short].classes)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))
    for attribute, value in {**lists, "meta": kind.meta | {"md5": md5(folder / kind.meta["filename"])}}.items():
        monkeypatch.setattr(kind, attribute, value)


def idx(short, root, monkeypatch):
    """MNIST and its relatives: grey, so only the red channel is kept."""
    folder = root / SETS[short].kind / "raw"
    folder.mkdir(parents=True)
    for prefix, start in (("train", 0), ("t10k", PER_CLASS)):
        labels, images = pictures(short, start)
        grey = np.stack(images)[..., 0]
        header = bytes([0, 0, 8, 3]) + np.array(grey.shape, ">i4").tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + grey.tobytes())
        header = bytes([0, 0, 8, 1]) + np.array([len(labels)], ">i4").tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + bytes(labels))


def svhn(short, root, monkeypatch):
    known = {}
    for split, start in (("train", 0), ("test", PER_CLASS)):
        labels, images = pictures(short, start)
        file = root / f"{split}_32x32.mat"
        savemat(file, {"X": np.stack(images, axis=3), "y": np.array([[label or 10] for label in labels], np.uint8)})
        known[split] = ["", file.name, md5(file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", known)


def stl10(short, root, monkeypatch):
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    (folder / "class_names.txt").write_text("".join(f"class{label}\n" for label in range(10)))
    (folder / "unlabeled_X.bin").write_bytes(b"")
    for split, start in (("train", 0), ("test", PER_CLASS)):
        labels, images = pictures(short, start)
        (folder / f"{split}_X.bin").write_bytes(np.stack(images).transpose(0, 3, 2, 1).tobytes())  # columns first
        (folder / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in labels))
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(datasets.STL10, attribute, [[name, md5(folder / name)] for name, _ in getattr(datasets.STL10, attribute)])


def dtd(short, root, monkeypatch):
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    for start, split in enumerate(("train", "val", "test")):
        lines = []
        for i, (label, image) in enumerate(zip(*pictures(short, start * PER_CLASS), strict=True)):
            name = f"class{label:02d}/class{label:02d}_{split}{i}.jpg"
            save(image, folder / "images" / name)
            lines.append(name)
        (folder / "labels" / f"{split}1.txt").write_text("".join(f"{line}\n" for line in lines))


def food101(short, root, monkeypatch):
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for split, start in (("train", 0), ("test", PER_CLASS)):
        listed = {}
        for i, (label, image) in enumerate(zip(*pictures(short, start), strict=True)):
            name = f"food_{label:03d}/{split}{i}"
            save(image, folder / "images" / f"{name}.jpg")
            listed.setdefault(f"food_{label:03d}", []).append(name)
        (folder / "meta" / f"{split}.json").write_text(json.dumps(listed))


def gtsrb(short, root, monkeypatch):
    folder = root / "gtsrb"
    for i, (label, image) in enumerate(zip(*pictures(short), strict=True)):
        save(image, folder / "GTSRB" / "Training" / f"{label:05d}" / f"{i:05d}.ppm")
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for i, (label, image) in enumerate(zip(*pictures(short, PER_CLASS), strict=True)):
        save(image, folder / "GTSRB" / "Final_Test" / "Images" / f"{i:05d}.ppm")
        lines.append(f"{i:05d}.ppm;8;8;0;0;7;7;{label}")
    (folder / "GT-final_test.csv").write_text("\n".join(lines))


def flowers102(short, root, monkeypatch):
    folder, labels, ids = root / "flowers-102", [], {}
    for start, key in enumerate(("trnid", "valid", "tstid")):
        first = len(labels) + 1
        for label, image in zip(*pictures(short, start * PER_CLASS), strict=True):
            labels.append(label + 1)
            save(image, folder / "jpg" / f"image_{len(labels):05d}.jpg")
        ids[key] = np.arange(first, len(labels) + 1)
    savemat(folder / "imagelabels.mat", {"labels": np.array(labels)})
    savemat(folder / "setid.mat", ids)
    known = {key: (name, md5(folder / name) if key != "image" else "") for key, (name, _) in datasets.Flowers102._file_dict.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", known)


def pets(short, root, monkeypatch):
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for split, start in (("trainval", 0), ("test", PER_CLASS)):
        lines = []
        for i, (label, image) in enumerate(zip(*pictures(short, start), strict=True), start=1000 * start):
            save(image, folder / "images" / f"breed_{label:02d}_{i}.jpg")
            lines.append(f"breed_{label:02d}_{i} {label + 1} 1 1\n")
        (folder / "annotations" / f"{split}.txt").write_text("".join(lines))


def cars(short, root, monkeypatch):
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([f"car {i}" for i in range(196)], dtype=object)})
    for split, start, lists in (("train", 0, "devkit/cars_train_annos.mat"), ("test", PER_CLASS, "cars_test_annos_withlabels.mat")):
        rows = []
        for i, (label, image) in enumerate(zip(*pictures(short, start), strict=True)):
            save(image, folder / f"cars_{split}" / f"{i:05d}.jpg")
            rows.append((label + 1, f"{i:05d}.jpg"))
        savemat(folder / lists, {"annotations": np.array(rows, dtype=[("class", object), ("fname", object)])})


def aircraft(short, root, monkeypatch):
    folder, count = root / "fgvc-aircraft-2013b" / "data", 0
    folder.mkdir(parents=True)
    (folder / "variants.txt").write_text("".join(f"Plane {label}\n" for label in range(100)))
    for start, split in enumerate(("train", "val", "test")):
        lines = []
        for label, image in zip(*pictures(short, start * PER_CLASS), strict=True):
            count += 1
            save(image, folder / "images" / f"{count:07d}.jpg")
            lines.append(f"{count:07d} Plane {label}\n")
        (folder / f"images_variant_{split}.txt").write_text("".join(lines))


def tree(folder, splits, suffix, names=None):
    """A folder per class below a folder per split."""

    def write(short, root, monkeypatch):
        for start, split in enumerate(splits):
            for i, (label, image) in enumerate(zip(*pictures(short, start * PER_CLASS), strict=True), start=1):
                name = names[label] if names else f"class{label:03d}"
                number = (i - 1) // SETS[short].classes + 1
                save(image, root / folder / split / name / suffix.format(number))

    return write


def sun397(short, root, monkeypatch):
    names = [f"{chr(97 + label % 26)}/place{label}" for label in range(397)]
    tree("SUN397", ("",), "sun_{}.jpg", names)(short, root, monkeypatch)
    (root / "SUN397" / "ClassName.txt").write_text("".join(f"/{name}\n" for name in names))


def caltech(short, root, monkeypatch):
    tree("caltech101/101_ObjectCategories", ("",), "image_{:04d}.jpg")(short, root, monkeypatch)
    save(np.zeros((8, 8, 3), np.uint8), root / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google" / "image_0001.jpg")


BUILDERS = {
    "caltech101": caltech,
    "cifar10": cifar,
    "cifar100": cifar,
    "country211": tree("country211", ("train", "valid", "test"), "{}.jpg"),
    "dtd": dtd,
    "eurosat": tree("eurosat/2750", ("",), "{}.jpg"),
    "fashionmnist": idx,
    "fgvcaircraft": aircraft,
    "flowers102": flowers102,
    "food101": food101,
    "gtsrb": gtsrb,
    "kmnist": idx,
    "mnist": idx,
    "oxfordiiitpet": pets,
    "renderedsst2": tree("rendered-sst2", ("train", "valid", "test"), "{}.png", ["negative", "positive"]),
    "stanfordcars": cars,
    "stl10": stl10,
    "sun397": sun397,
    "svhn": svhn,
}
