"""The cache of decoded images: same pixels, sound entries only, bounded, safe with several processes."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import command
from PIL import Image

from promptvit.data import BadImage, Pixels, Split, cache, images, load_dataset
from promptvit.data.cache import Cache
from promptvit.preprocessing import Preprocessing

SMALL = Preprocessing(size=(20, 20))
LARGE = Preprocessing(size=(224, 224))
GIB = 2**30


def pictures(folder, count=6, seed=0):
    """A split of PNG files of different shapes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (40 + i, 50 - i, 3), dtype=np.uint8)).save(path)
    return Split("train", [0] * count, paths, [path.name for path in paths])


@pytest.fixture
def store(tmp_path):
    return Cache(tmp_path / "cache", GIB)


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that are decoded."""
    seen, original = [], Split.image
    lock = threading.Lock()

    def image(self, index):
        with lock:
            seen.append(self.identifiers[index])
        return original(self, index)

    monkeypatch.setattr(Split, "image", image)
    return seen


def everything(split, preprocessing, store, **options):
    pixels = Pixels(split, preprocessing, cache=store, **options)
    return [np.array(pixels[i]) for i in range(len(split))]


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("preprocessing", [SMALL, LARGE, LARGE.model_copy(update={"resize": "direct"})])
def test_same_pixels_as_without_and_decoded_once(tmp_path, store, decoded, preprocessing):
    split = pictures(tmp_path / "images")
    without = everything(split, preprocessing, Cache(tmp_path / "none", 0))
    assert not (tmp_path / "none").exists()
    decoded.clear()
    assert equal(everything(split, preprocessing, store), without) and sorted(decoded) == sorted(split.identifiers)
    for budget in (GIB, 0):
        again = Pixels(split, preprocessing, budget=budget, cache=Cache(store.folder, GIB))
        for _ in range(2):
            assert equal([again[i] for i in range(6)], without)
    assert len(decoded) == 6, "another run decodes nothing"
    assert not again[0].flags.writeable


def test_what_decides_the_pixels_is_in_the_key(tmp_path, store, monkeypatch):
    split = pictures(tmp_path / "images", 2)
    first, second = split.items
    others = [SMALL.model_copy(update=change) for change in ({"resize": "direct"}, {"crop_pct": 1.0})]
    keys = {store.key(first, p) for p in (SMALL, LARGE, *others)}
    assert len(keys) == 4 and store.key(second, SMALL) not in keys
    assert store.key(first, SMALL.model_copy(update={"mean": (0.5, 0.5, 0.5)})) in keys, "normalisation comes later"
    copy = tmp_path / "elsewhere.png"
    copy.write_bytes(first.read_bytes())
    assert store.key(copy, SMALL) == store.key(first, SMALL), "the content counts, not the name"
    monkeypatch.setattr(cache, "VERSIONS", ["other"])
    assert store.key(first, SMALL) not in keys


def damaged(entry, kind):
    content = entry.read_bytes()
    if kind == "empty":
        return b""
    if kind == "header":
        return content[:7]
    if kind == "truncated":
        return content[:-1]
    if kind == "longer":
        return content + b"x"
    if kind == "flipped":
        return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    return b"GIF8" + content[4:]


@pytest.mark.parametrize("kind", ["empty", "header", "truncated", "longer", "flipped", "foreign"])
@pytest.mark.parametrize("preprocessing", [SMALL, LARGE])
def test_a_damaged_entry_is_made_again(tmp_path, store, decoded, kind, preprocessing):
    split = pictures(tmp_path / "images", 3)
    sound = everything(split, preprocessing, store)
    path = store._path(store.key(split.items[1], preprocessing))
    before = path.read_bytes()
    path.write_bytes(damaged(path, kind))
    decoded.clear()
    assert equal(everything(split, preprocessing, store), sound) and decoded == ["1.png"]
    assert path.read_bytes() == before


BUILD = """
import sys, pathlib, hashlib
from promptvit.data import Pixels, Split
from promptvit.data.cache import Cache
from promptvit.preprocessing import Preprocessing
paths = sorted(pathlib.Path(sys.argv[1]).iterdir(), key=lambda p: int(p.stem))
split = Split("train", [0] * len(paths), paths, [p.name for p in paths])
sys.stdin.readline()
pixels = Pixels(split, Preprocessing(size=(224, 224)), cache=Cache(pathlib.Path(sys.argv[2]), int(sys.argv[3])))
print(hashlib.sha256(b"".join(pixels[i].tobytes() for i in range(len(paths)))).hexdigest())
"""


@pytest.mark.parametrize("limit", [GIB, 500_000])
def test_two_processes_build_at_once(tmp_path, limit):
    split = pictures(tmp_path / "images", 12)
    line = [sys.executable, "-c", BUILD, str(tmp_path / "images"), str(tmp_path / "cache"), str(limit)]
    workers = [subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:  # both have imported everything and wait: now they start together
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=120) for worker in workers]
    assert all(not errors for _, errors in answers) and answers[0][0] == answers[1][0] != ""
    store = Cache(tmp_path / "cache", GIB)
    names = [entry.name for entry in store.entries()]
    assert not any(name.startswith(".") for name in names), "nothing half-written is left"
    if limit == GIB:
        assert sorted(names) == sorted(store.key(path, LARGE) for path in split.items)
    assert all(store.get(name) is not None for name in names)


def test_the_longest_unused_go_when_it_is_full(tmp_path):
    entry = 3 * 100 * 100 + cache.HEADER.size
    store = Cache(tmp_path / "cache", 10 * entry)
    keys = [f"{i:064x}" for i in range(40)]
    for age, key in enumerate(keys[:10]):
        store.put(key, np.full((3, 100, 100), age, np.uint8))
        os.utime(store._path(key), (age, age))
    assert store.get(keys[0]) is not None, "used again"
    store.put(keys[10], np.zeros((3, 100, 100), np.uint8))
    left = {found.name for found in store.entries()}
    assert keys[0] in left and keys[10] in left and keys[1] not in left and keys[2] not in left
    for key in keys[11:]:
        store.put(key, np.zeros((3, 100, 100), np.uint8))
        assert sum(found.stat().st_size for found in store.entries()) <= store.limit
    store.put("f" * 64, np.zeros((3, 400, 400), np.uint8))
    assert store.get("f" * 64) is None, "an entry beyond the limit is not kept"


def test_entries_of_other_processes_count_too(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "RESCAN", 3)
    entry = 3 * 100 * 100 + cache.HEADER.size
    stores = [Cache(tmp_path / "cache", 10 * entry) for _ in range(2)]
    for i in range(40):
        stores[i % 2].put(f"{i:064x}", np.zeros((3, 100, 100), np.uint8))
    assert sum(found.stat().st_size for found in stores[0].entries()) <= (10 + 2 * 3) * entry


def test_without_permission_it_goes_on_without(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    split = pictures(tmp_path / "images")
    blocked = Cache(tmp_path / "file" / "cache", GIB)
    assert equal(everything(split, SMALL, blocked), everything(split, SMALL, Cache(tmp_path / "none", 0)))
    assert len([r for r in caplog.records if "going on without" in r.message]) == 1


def test_a_bad_image_is_still_named(tmp_path, store):
    split = pictures(tmp_path / "images")
    split.items[2].write_bytes(b"no image")
    pixels = Pixels(split, SMALL, cache=store)
    with pytest.raises(BadImage, match=r"2\.png: not an image"):
        pixels[2]
    split.items[3].unlink()
    with pytest.raises(BadImage, match=r"3\.png: no such file"):
        pixels[3]


def test_a_folder_is_checked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTVIT_CACHE", str(tmp_path / "cache"))
    for name in ("cat", "dog"):
        pictures(tmp_path / "data" / name, 5)
    (tmp_path / "data" / "cat" / "bad.png").write_bytes(b"no image")
    first = load_dataset("folder", root=tmp_path / "data")
    opened = []
    monkeypatch.setattr("promptvit.data.folder.open_image", lambda path: opened.append(path) or images.open_image(path))
    again = load_dataset("folder", root=tmp_path / "data")
    assert again.skipped == first.skipped and [name for name, _ in again.skipped] == ["cat/bad.png"] and not opened
    (tmp_path / "data" / "cat" / "0.png").write_bytes(b"")
    assert len(load_dataset("folder", root=tmp_path / "data").skipped) == 2 and len(opened) == 11


def test_the_command_lists_and_clears(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PROMPTVIT_CACHE_GIB", "0.5")
    everything(pictures(tmp_path / "images"), SMALL, Cache())
    precious = tmp_path / "cache" / "ab" / "thesis.txt"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("mine")
    found = json.loads(command("cache", "--json").stdout)
    assert found["entries"] == 6 and found["limit"] == 2**29 and 6 * 3 * 20 * 20 < found["bytes"] < 20_000
    assert command("cache", "--clear").stdout.startswith("deleted 6 entries")
    assert json.loads(command("cache", "--json").stdout)["entries"] == 0 and precious.read_text() == "mine"


@pytest.mark.parametrize("given", ["much", "-1", "inf", "nan"])
def test_a_bad_limit_is_named(monkeypatch, given):
    monkeypatch.setenv("PROMPTVIT_CACHE_GIB", given)
    with pytest.raises(ValueError, match="PROMPTVIT_CACHE_GIB"):
        Cache()
