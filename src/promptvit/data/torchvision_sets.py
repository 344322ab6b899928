"""``torchvision/NAME`` and ``hta/NAME``: data sets that torchvision's own classes read; ``--data-root`` is torchvision's ``root``.

``hta/`` names six of them that papers report together: ``hta/cifar10`` and ``torchvision/cifar10`` are the same images in the same splits.

Splits are the official ones. Where there is no official validation split, a seeded stratified tenth of the training images becomes
it; where there is no official split at all, 70 % train, 15 % val and 15 % test are drawn likewise. A note says so.

torchvision's CIFAR reader unpickles its batch files, but only after the MD5 of every file has matched the published one: a modified
file is refused before it is opened. SVHN, Flowers and STL-10 are checked the same way. No other set here is unpickled.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from promptvit.data.base import SPLITS, Dataset, Split, stratified_split
from promptvit.data.registry import register
from promptvit.data.seeding import Purpose, generator

HTA = ("cifar10", "cifar100", "dtd", "food101", "gtsrb", "svhn")
VAL_SHARE, HELD_OUT = 0.1, 0.15  # of train where only val is missing; each of val and test where both are

Labelled = Iterable[tuple[Path | np.ndarray, int]]


def _arrays(made: Any) -> Labelled:
    """Images that the class holds in memory: ``[N, h, w]``, ``[N, 3, h, w]`` or ``[N, h, w, 3]`` uint8."""
    pixels = np.asarray(made.data)
    if pixels.ndim == 3:
        pixels = np.broadcast_to(pixels[..., None], (*pixels.shape, 3))
    elif pixels.shape[-1] != 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    labels = made.targets if hasattr(made, "targets") else made.labels
    return zip(pixels, np.asarray(labels).tolist(), strict=True)


def _loaded(made: Any) -> Labelled:
    """Files, from a class whose ``loader`` is ``Path``: it hands out paths instead of pictures."""
    return (made[index] for index in range(len(made)))


def _signs(made: Any) -> Labelled:
    return ((Path(path), label) for path, label in made._samples)  # GTSRB has no loader


def _pets(made: Any) -> Labelled:
    return zip(made._images, made._labels, strict=True)  # no loader either


def _caltech(made: Any) -> Labelled:
    folder = Path(made.root) / "101_ObjectCategories"
    return ((folder / made.categories[y] / f"image_{number:04d}.jpg", y) for y, number in zip(made.y, made.index, strict=True))


WHOLE: Mapping[str, dict[str, Any]] = {"train": {}}
FLAG: Mapping[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
TWO: Mapping[str, dict[str, Any]] = {split: {"split": split} for split in ("train", "test")}
THREE: Mapping[str, dict[str, Any]] = {split: {"split": split} for split in ("train", "val", "test")}


@dataclass(frozen=True)
class Source:
    """How torchvision is asked for a data set.

    Attributes:
        kind: the class in ``torchvision.datasets``.
        classes: how many there are, whatever a copy holds.
        landmark: what the class looks for below its root.
        splits: its arguments for each official split; :data:`WHOLE` has none.
        read: images and labels of an instance.
        augment: training augmentation; signs, digits and words are not mirrored.
    """

    kind: str
    classes: int
    landmark: str
    splits: Mapping[str, dict[str, Any]]
    read: Callable[[Any], Labelled] = _loaded
    augment: str = "crop-flip"

    def make(self, root: Path, split: str, download: bool = False) -> Any:
        """The class's instance for one split; torchvision is slow to import, so only here."""
        from torchvision import datasets

        loader = {"loader": Path} if self.read is _loaded else {}
        return getattr(datasets, self.kind)(str(root), download=download, **loader, **self.splits[split])


SETS = {
    "caltech101": Source("Caltech101", 101, "caltech101/101_ObjectCategories", WHOLE, _caltech),
    "cifar10": Source("CIFAR10", 10, "cifar-10-batches-py", FLAG, _arrays),
    "cifar100": Source("CIFAR100", 100, "cifar-100-python", FLAG, _arrays),
    "country211": Source("Country211", 211, "country211", {**THREE, "val": {"split": "valid"}}),
    "dtd": Source("DTD", 47, "dtd/dtd", THREE),
    "eurosat": Source("EuroSAT", 10, "eurosat/2750", WHOLE),
    "fashionmnist": Source("FashionMNIST", 10, "FashionMNIST/raw", FLAG, _arrays),
    "fgvcaircraft": Source("FGVCAircraft", 100, "fgvc-aircraft-2013b/data", THREE),
    "flowers102": Source("Flowers102", 102, "flowers-102/jpg", THREE),
    "food101": Source("Food101", 101, "food-101/meta", TWO),
    "gtsrb": Source("GTSRB", 43, "gtsrb/GTSRB", TWO, _signs, "crop"),
    "kmnist": Source("KMNIST", 10, "KMNIST/raw", FLAG, _arrays, "crop"),
    "mnist": Source("MNIST", 10, "MNIST/raw", FLAG, _arrays, "crop"),
    "oxfordiiitpet": Source("OxfordIIITPet", 37, "oxford-iiit-pet/images", {**TWO, "train": {"split": "trainval"}}, _pets),
    "renderedsst2": Source("RenderedSST2", 2, "rendered-sst2", THREE, augment="crop"),
    "stanfordcars": Source("StanfordCars", 196, "stanford_cars/devkit", TWO),
    "stl10": Source("STL10", 10, "stl10_binary", TWO, _arrays),
    "sun397": Source("SUN397", 397, "SUN397/ClassName.txt", WHOLE),
    "svhn": Source("SVHN", 10, "train_32x32.mat", TWO, _arrays, "crop"),
}


@register(*(f"torchvision/{short}" for short in SETS), *(f"hta/{short}" for short in HTA))
def torchvision_set(name: str, *, root: Path | None, data_seed: int, strict: bool) -> Dataset:
    """Read a data set through torchvision.

    Args:
        root: torchvision's ``root``, or the folder in it that holds the set.

    Raises:
        ValueError: no root; no copy there; one that is incomplete, modified or cannot be read.
    """
    short = name.partition("/")[2]
    source = SETS[short]
    found = locate(name, root)
    splits, names = {}, {}
    for split in source.splits:
        try:
            made = source.make(found, split)
            labelled = list(source.read(made))
        except Exception as error:  # the classes raise nearly anything on a damaged copy
            raise ValueError(f"{name}: the copy in {found} is incomplete or modified ({_reason(error)}); {_remedy(name, found)}") from None
        splits[split] = _split(split, name, found, labelled)
        names[split] = [str(label) for label in getattr(made, "classes", getattr(made, "categories", range(source.classes)))]
    _check(name, source, found, splits, names)
    notes = _cut_missing(splits, data_seed)
    return Dataset(name, names["train"], {split: splits[split] for split in SPLITS}, augment=source.augment, notes=notes)


def locate(name: str, root: Path | None) -> Path:
    """The folder that torchvision calls ``root``, from that folder or from the set's own one inside it.

    Raises:
        ValueError: none was given, or the set is not there.
    """
    landmark = Path(SETS[name.partition("/")[2]].landmark)
    if root is None:
        raise ValueError(f"data_root: missing; the data set {name!r} needs --data-root DIR; {_remedy(name, Path('DIR'))}")
    if (root / landmark).exists():
        return root
    own = root.resolve()
    if own.name == landmark.parts[0] and (own.parent / landmark).exists():
        return own.parent
    raise ValueError(f"data_root: {name} not found; looked for {root / landmark}; {_remedy(name, root)}")


def download(name: str, root: Path) -> None:
    """Let torchvision download a set below ``root`` with its own addresses and checksums; what is there already is kept.

    Raises:
        ValueError: it did not work.
    """
    source = SETS[name.partition("/")[2]]
    try:
        for split in source.splits:
            source.make(root, split, download=True)
    except Exception as error:  # addresses, archives, files: anything
        raise ValueError(f"{name}: torchvision could not download it into {root} ({_reason(error)}); run the command again") from None


def _split(split: str, name: str, root: Path, labelled: list[tuple[Path | np.ndarray, int]]) -> Split:
    """Arrays keep their order and are named by it. Files are sorted by path, because not every class sorts them."""
    if labelled and isinstance(labelled[0][0], Path):
        labelled = sorted(labelled, key=lambda pair: str(pair[0]))
        places = [Path(os.path.relpath(str(item), root)).as_posix() for item, _ in labelled]
    else:
        places = [f"{name.partition('/')[2]}/{split}/{index}" for index in range(len(labelled))]
    inside = _inside(root, root / Path(SETS[name.partition("/")[2]].landmark).parts[0])
    outside = [place for place, (item, _) in zip(places, labelled, strict=True) if isinstance(item, Path) and not inside(item)]
    if outside:
        raise ValueError(f"{name}: {split} lists {outside[0]}, which leaves {root}; {_remedy(name, root)}")
    return Split(split, [int(label) for _, label in labelled], [item for item, _ in labelled], places)


def _inside(*folders: Path) -> Callable[[Path], bool]:
    """Tells whether a file is, links followed, in one of ``folders``: the root and the set's own folder, which may itself be a link."""
    real_folders = [Path(os.path.realpath(folder)) for folder in folders]
    within = cache(lambda folder: any(Path(os.path.realpath(folder)).is_relative_to(real) for real in real_folders))
    return lambda file: within(file.parent) and (not file.is_symlink() or within(file))


def _check(name: str, source: Source, root: Path, splits: dict[str, Split], names: dict[str, list[str]]) -> None:
    """torchvision numbers some sets' classes by what a split holds, so one that lacks a class would shift all after it."""
    listed = Counter(identifier for held in splits.values() for identifier in held.identifiers)
    twice = [identifier for identifier, count in listed.items() if count > 1]
    if twice:
        raise ValueError(f"{name}: {twice[0]} is listed twice in {root}; {_remedy(name, root)}")
    for split, held in splits.items():
        missing = [item for item in held.items if isinstance(item, Path) and not item.is_file()]
        if missing:
            raise ValueError(f"{name}: {len(missing)} files of {split} are missing, the first is {missing[0]}; {_remedy(name, root)}")
        if names[split] != names["train"]:
            raise ValueError(f"{name}: {split} in {root} lists other classes than train; the copy is partial; {_remedy(name, root)}")
    seen = len(set(splits["train"].labels))
    if not len(names["train"]) == seen == source.classes:
        raise ValueError(
            f"{name}: {source.classes} classes expected, {min(seen, len(names['train']))} have training images in {root}; "
            f"the copy is partial; {_remedy(name, root)}"
        )


def _cut_missing(splits: dict[str, Split], data_seed: int) -> list[str]:
    """Cut what has no official split out of train; returns the note that says so."""
    missing = [split for split in ("val", "test") if split not in splits]
    if not missing:
        return []
    train, share = splits["train"], HELD_OUT if "test" in missing else VAL_SHARE
    fractions = [1 - share * len(missing), *[share] * len(missing)]
    parts = stratified_split(train.labels, fractions, generator(data_seed, Purpose.SPLIT))
    splits |= {split: train.subset(part, split) for split, part in zip(["train", *missing], parts, strict=True)}
    counts = ", ".join(f"{len(splits[split])} {split}" for split in SPLITS)
    what = f"no official {' and '.join(missing)} split"
    return [f"{what}: cut out of train, {share:.0%} each, stratified, data_seed {data_seed}: {counts} images"]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).partition(" You can use download=True")[0]
    return f"{type(error).__name__}: {text}"


def _remedy(name: str, root: Path) -> str:
    return f"`promptvit data get {name} --data-root {root}` downloads it"
