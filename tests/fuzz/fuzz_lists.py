"""Data sets that come as lists and folders: lists in every layout, names that lead elsewhere, links out of the root, archives."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import scipy.io
import scipy.sparse
from mutation import WORDS, altered, damaged, json_bytes
from small import encoded, noise
from watching import Case

from promptvit.data import load_dataset, load_segmentation
from promptvit.data.check import check
from promptvit.data.fetch.unpack import unpack
from promptvit.data.images import BadImage

IMAGES = ["images/1.jpg", "images/a/2.jpg", "images/b c/3.jpg", "images/é.jpg"]
ELSEWHERE = (
    "../outside/canary.png",
    "images/../../outside/canary.png",
    "{outside}/canary.png",
    "images/link.png",
    "images/linked/canary.png",
    "images\\..\\..\\outside\\canary.png",
    "C:/canary.png",
    "images/1.jpg\0.png",
    "images",
    "images/",
    ".",
    "",
    "..",
    "images//1.jpg",
)


def _placed(root: Path, outside: Path, images: list[str]) -> None:
    """Images, and links that lead out."""
    picture = encoded(noise(), "JPEG")
    for name in images:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    (root / "images").mkdir(exist_ok=True)
    (root / "images/link.png").symlink_to(outside / "canary.png")
    (root / "images/linked").symlink_to(outside)


def _opened(name: str, root: Path, dense: bool = False) -> None:
    """Load the set and open its images."""
    dataset = (load_segmentation if dense else load_dataset)(name, root=root)
    for split in dataset.splits.values():
        for index in range(min(3, len(split))):
            try:
                split.image(index)
                if dense:
                    split.mask(index)
            except BadImage as error:
                assert str(root) in str(error)


def texts(folder: Path, outside: Path):
    """VTAB-1k and CUB as text, FGVC's json lists, names of classes: lines replaced, repeated, damaged, endless."""
    roots = {name: folder / name for name in ("vtab", "cub", "json", "ade", "masked")}
    for root in roots.values():
        _placed(root, outside, IMAGES)
    lists: list[tuple[str, Path, str, bool]] = []
    for file, image in zip(("train800.txt", "val200.txt", "test.txt"), IMAGES, strict=False):
        lists.append(("vtab/dtd", roots["vtab"] / file, f"{image} 3\n", False))
    tables = {
        "images.txt": "1 1.jpg\n2 a/2.jpg\n3 b c/3.jpg\n4 é.jpg\n",
        "image_class_labels.txt": "1 1\n2 2\n3 1\n4 2\n",
        "train_test_split.txt": "1 1\n2 1\n3 0\n4 0\n",
        "classes.txt": "1 001.Ant\n2 002.Bee\n",
    }
    lists += [("fgvc/cub", roots["cub"] / file, text, False) for file, text in tables.items()]
    for split, image in zip(("train", "val", "test"), ("1.jpg", "a/2.jpg", "b c/3.jpg"), strict=True):
        lists.append(("fgvc/cub", roots["json"] / f"{split}.json", json.dumps({image: 1}), False))
    _segmentation(roots["ade"], roots["masked"])
    lists.append(
        ("ade20k", roots["ade"] / "objectInfo150.txt", "Idx\tName\n" + "".join(f"{i}\tname {i}, other\n" for i in range(150)), True)
    )
    lists.append(("folder", roots["masked"] / "classes.txt", "sky #0080ff\nground\n", True))
    for _, path, text, _ in lists:
        path.write_text(text, encoding="utf-8")

    def draw(rng: Random) -> Case:
        name, path, text, dense = rng.choice(lists)
        content = _list(text, outside, rng, is_json=path.suffix == ".json")

        def read() -> None:
            path.write_bytes(content)
            try:
                if rng.random() < 0.05 and not dense:
                    check(name, root=path.parent)
                _opened(name, path.parent, dense)
            finally:
                path.write_bytes(text.encode())

        return Case(read, ("data_root: ",), f"{path.name}: {content[:300]!r}")

    return draw


def _segmentation(ade: Path, masked: Path) -> None:
    mask = encoded(noise(mode="L").point(lambda value: value % 2), "PNG")
    for root, pairs in (
        (ade, [("images/training", "annotations/training"), ("images/validation", "annotations/validation")]),
        (masked, [("images", "masks")]),
    ):
        shutil.rmtree(root / "images")
        for images, masks in pairs:
            for i in range(8):
                for place, content, ending in ((images, encoded(noise(), "JPEG"), "jpg"), (masks, mask, "png")):
                    (root / place).mkdir(parents=True, exist_ok=True)
                    (root / place / f"{i}.{ending}").write_bytes(content)


def _list(text: str, outside: Path, rng: Random, is_json: bool) -> bytes:
    elsewhere = rng.choice(ELSEWHERE).format(outside=outside)
    kind = rng.randrange(5)
    if is_json and kind < 3:
        value = json.loads(text)
        if kind == 0:
            value = {elsewhere: 1, **value, rng.choice(WORDS): rng.choice((1, "2", 1.0, True, None, -1, 10**30, 1e308))}
        else:
            value = altered(value, rng)
        return json_bytes(value, rng)
    lines = text.splitlines()
    if kind == 0:
        return damaged(text.encode(), rng)
    place = rng.randrange(len(lines))
    parts = lines[place].split(" ", 1)
    word = rng.choice((elsewhere, elsewhere, rng.choice(WORDS), str(10 ** rng.randrange(40)), "-1", "1e5", "0x1", "٣", "nan"))
    if len(parts) == 2 and rng.random() < 0.7:
        lines[place] = rng.choice((f"{word} {parts[1]}", f"{parts[0]} {word}", f"{parts[1]} {parts[0]}"))
    else:
        lines[place] = word
    if kind == 1:
        lines += [lines[rng.randrange(len(lines))]] * rng.choice((1, 2, 300))
    return rng.choice(("\n", "\r\n", "\r", "\n\n", "\x0b", "\u2028")).join(lines).encode(errors="surrogatepass")


def matlab(folder: Path, outside: Path):
    """Flowers, Dogs and Cars as MATLAB files."""
    roots = {name: folder / name for name in ("flowers", "dogs", "cars")}
    for root in roots.values():
        _placed(
            root,
            outside,
            [
                "jpg/image_00001.jpg",
                "jpg/image_00002.jpg",
                "jpg/image_00003.jpg",
                "Images/a/1.jpg",
                "Images/a/2.jpg",
                "car_ims/1.jpg",
                "car_ims/2.jpg",
                "car_ims/3.jpg",
            ],
        )
    paths = np.array([["a/1.jpg"], ["a/2.jpg"]], dtype=object)
    cars = np.array(
        [("car_ims/1.jpg", 1, 0), ("car_ims/2.jpg", 2, 0), ("car_ims/3.jpg", 1, 1)],
        dtype=[("relative_im_path", "O"), ("class", "O"), ("test", "O")],
    )
    values = {
        ("fgvc/flowers", "flowers/imagelabels.mat"): {"labels": np.array([[1, 1, 1]])},
        ("fgvc/flowers", "flowers/setid.mat"): {"trnid": [[1]], "valid": [[2]], "tstid": [[3]]},
        ("fgvc/dogs", "dogs/train_list.mat"): {"file_list": paths[:1], "labels": [[1]]},
        ("fgvc/dogs", "dogs/test_list.mat"): {"file_list": paths[1:], "labels": [[1]]},
        ("fgvc/cars", "cars/cars_annos.mat"): {"annotations": cars, "class_names": np.array(["a", "b"], dtype=object)},
    }
    files = []
    for (name, place), value in values.items():
        for packed in (False, True):
            file = io.BytesIO()
            scipy.io.savemat(file, value, do_compression=packed)
            files.append((name, folder / place, file.getvalue()))
    for _, path, content in files:
        path.write_bytes(content)

    def draw(rng: Random) -> Case:
        name, path, whole = rng.choice(files)
        content = damaged(whole, rng) if rng.random() < 0.8 else _misled(outside, rng)

        def read() -> None:
            path.write_bytes(content)
            try:
                _opened(name, path.parent)
            finally:
                path.write_bytes(whole)

        return Case(read, ("data_root: ",), f"{path.name}: {content[:400]!r}")

    return draw


def _misled(outside: Path, rng: Random) -> bytes:
    """Sound MATLAB files of values that are not."""
    elsewhere = rng.choice(ELSEWHERE).format(outside=outside)
    odd = rng.choice(
        (np.zeros((0, 0)), [[np.nan]], [[1e300]], [["x"]], {"a": 1}, scipy.sparse.eye(3), np.array([[1, 2], [3, 4]]), [[-1]], [[2**31]])
    )
    paths = np.array([["a/1.jpg"], [elsewhere]], dtype=object)
    value = rng.choice(
        (
            {"file_list": paths, "labels": [[1], [1]]},
            {"file_list": paths, "labels": odd},
            {"labels": odd},
            {"trnid": odd, "valid": odd},
            {"trnid": odd, "valid": [[1]], "tstid": odd},
            {"annotations": odd, "class_names": odd},
        )
    )
    file = io.BytesIO()
    scipy.io.savemat(file, value, do_compression=rng.random() < 0.5)
    return file.getvalue()


NAMES = (
    "train",
    "val",
    "test",
    "valid",
    "Train",
    "cat",
    "dog",
    "été",
    "images",
    "masks",
    ".hidden",
    "a b",
    "<b>",
    "-x",
    "$(x)",
    "x" * 200,
    "n\nl",
    "[red]",
)


def trees(folder: Path, outside: Path):
    """Folders of folders: odd names, empty ones, links in a circle and out, files that are no images."""
    good, root = encoded(noise(), "PNG"), folder / "root"

    def draw(rng: Random) -> Case:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        places = [root]
        for i, label in enumerate(("cat", "dog") * 4 if rng.random() < 0.7 else ()):
            (root / label).mkdir(exist_ok=True)
            (root / label / f"{i}.png").write_bytes(good)
        for _ in range(rng.randrange(1, 5)):
            place = rng.choice(places) / rng.choice(NAMES)
            place.mkdir(exist_ok=True) if not place.exists() else None
            places.append(place)
        for i in range(rng.randrange(1, 14)):
            place = rng.choice(places) / f"{i}{rng.choice(('.png', '.txt', '', '.jpg'))}"
            place.write_bytes(good if rng.random() < 0.8 else damaged(good, rng))
        for i in range(rng.choice((0, 0, 1, 2))):
            target = rng.choice((outside, outside / "canary.png", root, places[-1], root / "nowhere", Path("..")))
            (rng.choice(places) / f"link{i}").symlink_to(target)
        if rng.random() < 0.2:
            (rng.choice(places) / b"\xff\xfe".decode(errors="surrogateescape")).mkdir(exist_ok=True)
        dense = rng.random() < 0.2
        return Case(lambda: _opened("folder", root, dense), ("data_root: ",), f"{sorted(map(str, root.rglob('*')))}")

    return draw


def archives(folder: Path, outside: Path):
    """Downloads: members that lead out of the folder, links, devices, damage."""
    target = folder / "into"
    makers: tuple[Callable[[list[str]], bytes], ...] = (_zip, _tar)

    def draw(rng: Random) -> Case:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        names = [
            rng.choice(("a.txt", "b/c.txt", "é.txt", "a.txt/d", *(name.format(outside=outside) for name in ELSEWHERE[:6])))
            for _ in range(3)
        ]
        maker = rng.choice(makers)
        content = maker(names)
        path = target / ("hostile.zip" if maker is _zip else "hostile.tar.gz")
        path.write_bytes(damaged(content, rng) if rng.random() < 0.6 else content)

        def read() -> None:
            unpack(path, target)

        return Case(read, ("hostile.", str(target)), f"{names}")

    return draw


def _zip(names: list[str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in dict.fromkeys(names):
            archive.writestr(name.replace("\0", ""), b"content")
    return file.getvalue()


def _tar(names: list[str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for i, name in enumerate(names):
            member = tarfile.TarInfo(name.replace("\0", "") or "x")
            member.type = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)[i % 3]
            member.linkname = names[0].replace("\0", "")
            member.size = 7 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"content"))
    return file.getvalue()
