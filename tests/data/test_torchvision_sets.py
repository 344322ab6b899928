"""hta/NAME and torchvision/NAME: every miniature in its layout, and copies that are absent, partial or modified."""

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_backbone
from torchvision_copies import BUILDERS, build, colour

import promptvit
from promptvit.data import load_dataset
from promptvit.data.check import check
from promptvit.data.torchvision_sets import HTA, SETS

GREY = {"mnist", "fashionmnist", "kmnist"}
WITH_VAL = {"country211", "dtd", "fgvcaircraft", "flowers102", "renderedsst2"}
WHOLE = {"caltech101", "eurosat", "sun397"}


def failure(name, root, **options) -> str:
    with pytest.raises(ValueError) as caught:
        load_dataset(name, root=root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_names():
    assert {f"torchvision/{short}" for short in SETS} | {f"hta/{short}" for short in HTA} <= set(promptvit.list_datasets())
    assert BUILDERS.keys() == SETS.keys()
    message = failure("torchvision/cifar11", None)
    assert "did you mean torchvision/cifar10" in message and "torchvision/svhn" in message


@pytest.mark.parametrize("short", sorted(SETS))
def test_each_set(short, tmp_path, monkeypatch):
    dataset = load_dataset(f"torchvision/{short}", root=build(short, tmp_path, monkeypatch), data_seed=3)
    count = SETS[short].classes
    assert len(dataset.classes) == len(set(dataset.classes)) == count
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    if short in WITH_VAL:
        assert sizes == {"train": 3 * count, "val": 3 * count, "test": 3 * count} and dataset.notes == []
    else:
        (note,) = dataset.notes
        assert "data_seed 3" in note and f"{sizes['train']} train, {sizes['val']} val, {sizes['test']} test" in note
        shares = (1, 1, 1) if short in WHOLE else (2, 1, 3)
        assert tuple(sizes.values()) == tuple(share * count for share in shares)
        assert ("no official val and test" in note) == (short in WHOLE)
    for split in dataset.splits.values():
        assert set(split.labels) == set(range(count))
        for i in range(0, len(split), max(1, len(split) // 40)):
            number = round(split.image(i).resize((1, 1)).getpixel((0, 0))[2] / 20)
            red, green, blue = colour(split.labels[i], number)
            wanted = (red, red, red) if short in GREY else (red, green, blue)
            seen = np.asarray(split.image(i), dtype=int)
            assert np.abs(seen - wanted).max() <= 8, f"{split.identifier(i)} has the wrong label"
            assert isinstance(split.items[i], Path) == (SETS[short].read.__name__ != "_arrays")
    everything = [identifier for split in dataset.splits.values() for identifier in split.identifiers]
    assert len(set(everything)) == len(everything) and not any(Path(identifier).is_absolute() for identifier in everything)


@pytest.mark.parametrize("short", HTA)
def test_hta_is_the_same_set(short, tmp_path, monkeypatch):
    build(short, tmp_path, monkeypatch)
    ours, theirs = (load_dataset(f"{suite}/{short}", root=tmp_path, data_seed=1) for suite in ("hta", "torchvision"))
    assert ours.classes == theirs.classes and ours.name == f"hta/{short}"
    for split in ours.splits:
        assert ours.splits[split].identifiers == theirs.splits[split].identifiers
        assert ours.splits[split].labels == theirs.splits[split].labels


def test_the_cut_follows_the_seed_and_leaves_the_test_split_alone(tmp_path, monkeypatch):
    build("cifar10", tmp_path, monkeypatch)
    first, again, other = (load_dataset("hta/cifar10", root=tmp_path, data_seed=seed) for seed in (0, 0, 1))
    assert first.splits["val"].identifiers == again.splits["val"].identifiers != other.splits["val"].identifiers
    assert first.splits["test"].identifiers == other.splits["test"].identifiers


def test_a_tenth_of_train_becomes_val(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision_copies.PER_CLASS", 20)
    dataset = load_dataset("torchvision/mnist", root=build("mnist", tmp_path, monkeypatch))
    assert {Counter(dataset.splits[split].labels)[7] for split in ("train", "test")} == {18, 20}
    assert Counter(dataset.splits["val"].labels) == dict.fromkeys(range(10), 2)


def test_shots_keep_files_as_paths(tmp_path, monkeypatch):
    dataset = load_dataset("hta/food101", root=build("food101", tmp_path, monkeypatch), shots=1)
    assert len(dataset.splits["train"]) == 101 and all(isinstance(item, Path) for item in dataset.splits["train"].items)


@pytest.mark.parametrize(("short", "own"), [("cifar10", "cifar-10-batches-py"), ("gtsrb", "gtsrb"), ("dtd", "dtd")])
def test_the_sets_own_folder_is_a_root_too(short, own, tmp_path, monkeypatch):
    build(short, tmp_path, monkeypatch)
    inside, outside = (load_dataset(f"hta/{short}", root=root) for root in (tmp_path / own, tmp_path))
    assert inside.splits["test"].identifiers == outside.splits["test"].identifiers


@pytest.mark.parametrize("short", sorted(SETS))
def test_absent(short, tmp_path):
    (tmp_path / "data").mkdir()
    message = failure(f"torchvision/{short}", tmp_path / "data")
    assert str(tmp_path / "data" / SETS[short].landmark) in message
    assert f"promptvit data get torchvision/{short} --data-root {tmp_path / 'data'}" in message
    assert not any((tmp_path / "data").iterdir()), "looking made something"
    assert "--data-root" in failure(f"torchvision/{short}", None)


def test_a_modified_cifar_file_is_refused_before_it_is_unpickled(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    build("cifar10", tmp_path, monkeypatch)
    for name in ("data_batch_2", "test_batch", "batches.meta"):
        file = tmp_path / "cifar-10-batches-py" / name
        original = file.read_bytes()
        file.write_bytes(pickle.dumps(Trap()))
        message = failure("hta/cifar10", tmp_path)
        assert "incomplete or modified" in message and "download=True" not in message and not (tmp_path / "sprung").exists()
        file.write_bytes(original)
    assert load_dataset("hta/cifar10", root=tmp_path)
    pickle.loads(pickle.dumps(Trap()))
    assert (tmp_path / "sprung").exists(), "the trap works"


def test_the_published_checksums_are_what_counts(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        build("cifar100", tmp_path, patched)
        build("svhn", tmp_path, patched)
    assert "incomplete or modified" in failure("hta/cifar100", tmp_path)
    assert "incomplete or modified" in failure("hta/svhn", tmp_path)


def test_a_listed_file_that_is_missing(tmp_path, monkeypatch):
    build("food101", tmp_path, monkeypatch)
    file = tmp_path / "food-101" / "images" / "food_007" / "test7.jpg"
    file.unlink()
    assert f"1 files of test are missing, the first is {file}" in failure("hta/food101", tmp_path)


def test_a_missing_class_is_not_silently_renumbered(tmp_path, monkeypatch):
    build("gtsrb", tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / "gtsrb" / "GTSRB" / "Training" / "00004")
    assert "43 classes expected, 42 have training images" in failure("hta/gtsrb", tmp_path)


def test_splits_that_name_other_classes(tmp_path, monkeypatch):
    build("dtd", tmp_path, monkeypatch)
    lists = tmp_path / "dtd" / "dtd" / "labels" / "test1.txt"
    lists.write_text("".join(line for line in lists.read_text().splitlines(keepends=True) if not line.startswith("class05")))
    assert "test" in failure("hta/dtd", tmp_path) and "other classes than train" in failure("hta/dtd", tmp_path)


def test_lists_that_lie(tmp_path, monkeypatch):
    build("food101", tmp_path, monkeypatch)
    lists = tmp_path / "food-101" / "meta" / "train.json"
    honest = json.loads(lists.read_text())
    lists.write_text(json.dumps(honest | {"food_000": ["../../../outside"]}))
    assert "leaves" in failure("hta/food101", tmp_path)
    lists.write_text(json.dumps(honest | {"food_000": [honest["food_000"][0]] * 2}))
    assert "listed twice" in failure("hta/food101", tmp_path)
    lists.write_text("{")
    assert "incomplete or modified" in failure("hta/food101", tmp_path)


@pytest.mark.parametrize("name", ["hta/cifar10", "hta/dtd"])
def test_one_epoch_and_a_score(name, tmp_path, monkeypatch):
    data = build(name.partition("/")[2], tmp_path / "data", monkeypatch)
    finished = promptvit.train(
        backbone=tiny_backbone(tmp_path / "backbone"), method="vpt-deep", data=name, data_root=str(data), epochs=1, batch_size=16,
        num_prompts=2, out=str(tmp_path / "run"),
    )
    classes = SETS[name.partition("/")[2]].classes
    assert finished.result["status"] == "ok" and finished.result["dataset"] == name and 0 <= finished.result["accuracy"] <= 1
    assert len(finished.result["per_class_accuracy"]) == classes and finished.result["split"] == "test"



@pytest.mark.parametrize("short", ["cifar10", "dtd"])
def test_data_check(short, tmp_path, monkeypatch):
    build(short, tmp_path, monkeypatch)
    assert check(f"hta/{short}", root=tmp_path).of("error") == []
    for file in (path for path in tmp_path.rglob("*") if path.name in ("data_batch_3", "val1.txt")):
        file.unlink()
    (error,) = check(f"hta/{short}", root=tmp_path).of("error")
    assert error.kind == "unusable-data-set" and "incomplete or modified" in error.message
