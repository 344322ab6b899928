"""One's own folder: every layout, every kind of bad file, every mistake as one clear line."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from unusable import bad_files

from promptvit.data import load_dataset
from promptvit.data.tree import natural

HOW_MANY = {"cat": 20, "dog": 20, "emu": 7}


def fill(folder: Path, classes: dict[str, int], start: int = 0) -> Path:
    """Tiny images, no two alike."""
    for label, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + count):
            Image.new("RGB", (6, 5), (40 * label, i % 256, 7)).save(folder / name / f"{i}.png")
    return folder


def names(dataset, split):
    return [dataset.splits[split].identifier(i) for i in range(len(dataset.splits[split]))]


def sizes(dataset):
    return {name: len(split) for name, split in dataset.splits.items()}


def failure(root, **options) -> str:
    with pytest.raises(ValueError) as caught:
        load_dataset("folder", root=root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_without_splits(tmp_path):
    dataset = load_dataset("folder", root=str(fill(tmp_path, HOW_MANY)), data_seed=3)
    assert (dataset.name, dataset.classes, dataset.skipped) == ("folder", ["cat", "dog", "emu"], [])
    everything = [name for split in dataset.splits for name in names(dataset, split)]
    assert sorted(everything) == sorted(f"{label}/{i}.png" for label, count in HOW_MANY.items() for i in range(count))
    assert Counter(dataset.splits["train"].labels) == {0: 14, 1: 14, 2: 5}
    assert all(set(split.labels) == {0, 1, 2} for split in dataset.splits.values())
    (note,) = dataset.notes
    counts = sizes(dataset)
    assert "data_seed 3" in note and f"{counts['train']} train, {counts['val']} val, {counts['test']} test" in note
    for split in dataset.splits.values():
        for i in range(len(split)):
            label, number = split.identifier(i).removesuffix(".png").split("/")
            assert dataset.classes[split.labels[i]] == label
            assert split.image(i).getpixel((0, 0)) == (40 * split.labels[i], int(number), 7)


def test_the_draw_follows_the_seed(tmp_path):
    fill(tmp_path, HOW_MANY)
    first, again, other = (load_dataset("folder", root=tmp_path, data_seed=seed) for seed in (0, 0, 1))
    assert [names(first, s) for s in first.splits] == [names(again, s) for s in again.splits]
    assert names(first, "test") != names(other, "test")


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_given_splits_are_kept(tmp_path, val):
    for split, start, count in (("train", 0, 6), (val, 6, 2), ("test", 8, 3)):
        fill(tmp_path / split, {"a": count, "b": count}, start)
    dataset = load_dataset("folder", root=tmp_path)
    assert sizes(dataset) == {"train": 12, "val": 4, "test": 6}
    assert names(dataset, "val") == [f"{val}/{label}/{i}.png" for label in "ab" for i in (6, 7)]
    assert dataset.notes == []


@pytest.mark.parametrize(("given", "cut"), [({"test"}, {"val"}), ({"val"}, {"test"}), (set(), {"val", "test"})])
def test_missing_splits_are_cut_out_of_train(tmp_path, given, cut):
    for split in ("train", *given):
        fill(tmp_path / split, {"a": 20, "b": 20})
    dataset = load_dataset("folder", root=tmp_path)
    counts = sizes(dataset)
    assert all(counts[split] == 40 for split in given)
    assert all(counts[split] == 6 and all(name.startswith("train/") for name in names(dataset, split)) for split in cut)
    assert counts["train"] == 40 - 6 * len(cut)
    everything = [name for split in dataset.splits for name in names(dataset, split)]
    assert len(set(everything)) == len(everything) == 40 * (1 + len(given))
    assert len(dataset.notes) == 1 and all(split in dataset.notes[0].split(" given")[0] for split in cut)


def test_order_nesting_and_hidden_files(tmp_path):
    fill(tmp_path, {"class10": 3, "class2": 3, "Class1": 3})
    fill(tmp_path / "class2", {"deeper/still": 2}, start=50)
    (tmp_path / "class2" / ".cache").write_text("x")
    (tmp_path / "class2" / "Thumbs.db").write_text("x")
    fill(tmp_path / ".git", {"objects": 1})
    (tmp_path / "README.txt").write_text("x")
    dataset = load_dataset("folder", root=tmp_path)
    assert dataset.classes == ["Class1", "class2", "class10"]
    everything = [name for split in dataset.splits for name in names(dataset, split)]
    assert len(everything) == 11 and "class2/deeper/still/51.png" in everything
    assert dataset.skipped == []


def test_natural_order_takes_any_name():
    given = ["a10", "a2", "10", "9", "²", "a", "A1", "a01", ""]
    assert natural(given) == ["", "9", "10", "a", "A1", "a01", "a2", "a10", "²"]


def test_bad_files_are_skipped_counted_and_named(tmp_path):
    reasons = bad_files(fill(tmp_path, HOW_MANY) / "dog")
    dataset = load_dataset("folder", root=tmp_path)
    assert {name.removeprefix("dog/") for name, _ in dataset.skipped} == reasons.keys()
    assert all(reasons[name.removeprefix("dog/")] in reason for name, reason in dataset.skipped)
    assert sum(sizes(dataset).values()) == sum(HOW_MANY.values())
    note = next(note for note in dataset.notes if "skipped" in note)
    assert f"skipped {len(reasons)} files" in note and all(f"dog/{name}" in note for name in reasons)


def test_of_very_many_bad_files_the_note_names_the_first(tmp_path):
    for i in range(30):
        (fill(tmp_path, HOW_MANY) / "dog" / f"x{i}.png").write_bytes(b"")
    note = next(note for note in load_dataset("folder", root=tmp_path).notes if "skipped" in note)
    assert "skipped 30 files" in note and "dog/x0.png" in note and "and 10 more" in note


def test_strict_lists_bad_files(tmp_path):
    reasons = bad_files(fill(tmp_path, HOW_MANY) / "dog")
    message = failure(tmp_path, strict=True)
    assert "--strict" in message and all(f"dog/{name}" in message for name in reasons)


def test_skipping_does_not_move_other_images_between_splits_at_random(tmp_path):
    before = load_dataset("folder", root=fill(tmp_path, HOW_MANY))
    (tmp_path / "dog" / "zz.txt").write_text("notes")
    after = load_dataset("folder", root=tmp_path)
    assert [names(before, s) for s in before.splits] == [names(after, s) for s in after.splits]


def test_the_folder_that_holds_the_data_set_works_too(tmp_path):
    fill(tmp_path / "pets", {"a": 5, "b": 5})
    dataset = load_dataset("folder", root=tmp_path)
    assert dataset.classes == ["a", "b"] and "pets" in dataset.notes[0]
    assert names(dataset, "test")[0].startswith("a/")


def test_a_class_may_be_called_train(tmp_path):
    assert load_dataset("folder", root=fill(tmp_path, {"bus": 4, "train": 4})).classes == ["bus", "train"]


def test_other_folders_beside_splits_are_named(tmp_path):
    fill(tmp_path / "train", {"a": 9, "b": 9})
    fill(tmp_path, {"annotations": 1})
    assert "annotations" in load_dataset("folder", root=tmp_path).notes[0]


def test_roots_that_are_no_data_set(tmp_path):
    assert "--data-root" in failure(None)
    assert "no folder" in failure(tmp_path / "none")
    assert "ROOT/CLASS/IMAGE" in failure(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    assert "ROOT/CLASS/IMAGE" in failure(tmp_path)
    assert "a file" in failure(tmp_path / "x.png")
    assert "only class folder" in failure(fill(tmp_path, {"cat": 3}))


def test_val_or_test_without_train(tmp_path):
    fill(tmp_path, {"cat": 3, "dog": 3, "test": 2})
    assert "no train" in failure(tmp_path)


def test_two_names_for_one_split(tmp_path):
    for split in ("train", "val", "valid"):
        fill(tmp_path / split, {"a": 3, "b": 3})
    message = failure(tmp_path)
    assert "val" in message and "valid" in message


def test_splits_without_classes_or_images(tmp_path):
    fill(tmp_path / "train", {"a": 5, "b": 5})
    (tmp_path / "test").mkdir()
    assert "no class folders" in failure(tmp_path)
    (tmp_path / "test" / "a").mkdir()
    assert "test holds no usable image" in failure(tmp_path)


def test_class_troubles(tmp_path):
    fill(tmp_path / "train", {"a": 5, "b": 5})
    fill(tmp_path / "test", {"a": 2, "bird": 1})
    message = failure(tmp_path)
    assert "'bird'" in message and "not in train" in message
    (tmp_path / "train" / "bird").mkdir()
    assert "'bird' has no usable image" in failure(tmp_path)
    (tmp_path / "train" / "bird" / "0.png").write_bytes(b"")
    message = failure(tmp_path)
    assert "'bird' has no usable image" in message and "train/bird/0.png (empty file)" in message
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "bird" / "1.png")
    message = failure(tmp_path)
    assert "'bird'" in message and "only one usable image" in message and "add images" in message


def test_one_image_classes_are_fine_where_nothing_is_cut(tmp_path):
    for split in ("train", "val", "test"):
        fill(tmp_path / split, {"a": 1, "b": 1})
    assert sizes(load_dataset("folder", root=tmp_path)) == {"train": 2, "val": 2, "test": 2}


def test_too_few_images_for_three_splits(tmp_path):
    assert "too few" in failure(fill(tmp_path, {"a": 2, "b": 2}))
    assert sizes(load_dataset("folder", root=fill(tmp_path, {"a": 3, "b": 3}))) == {"train": 2, "val": 2, "test": 2}


def test_a_class_of_two_images_is_tested(tmp_path):
    dataset = load_dataset("folder", root=fill(tmp_path, {"a": 2, "b": 20}))
    assert {name: split.labels.count(0) for name, split in dataset.splits.items()} == {"train": 1, "val": 0, "test": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links(tmp_path):
    outside = fill(tmp_path / "outside", {"x": 3})
    root = fill(tmp_path / "root", {"a": 4, "b": 4})
    link = root / "a" / "link.png"
    for target, word in ((outside / "x", "leads out"), (root / "b", "are the same"), (root / "a", "are the same")):
        link.symlink_to(target / "0.png")
        message = failure(root)
        assert word in message and str(link) in message, message
        link.unlink()
    for target in (outside / "x", root / "b", root, root / "a"):
        link.symlink_to(target, target_is_directory=True)
        assert "leads out" in failure(root) or "are the same" in failure(root)
        link.unlink()
    (root / "c").symlink_to(outside / "x", target_is_directory=True)
    assert f"{root / 'c'} leads out" in failure(root)
    (root / "c").unlink()
    link.symlink_to(link)
    assert "link" in failure(root)
    link.unlink()
    link.symlink_to(root / "a" / "gone.png")
    assert load_dataset("folder", root=root).skipped == [("a/link.png", "no such file")]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_the_root_may_be_a_link(tmp_path):
    (tmp_path / "link").symlink_to(fill(tmp_path / "root", {"a": 4, "b": 4}), target_is_directory=True)
    assert sizes(load_dataset("folder", root=tmp_path / "link"))["train"] == 4
    holder = tmp_path / "holder"
    holder.mkdir()
    (holder / "pets").symlink_to(tmp_path / "root", target_is_directory=True)
    assert "leads out" in failure(holder), "but a link below it may not lead out"


def test_shots_come_out_of_train_only(tmp_path):
    dataset = load_dataset("folder", root=fill(tmp_path, HOW_MANY), shots=6)
    assert Counter(dataset.splits["train"].labels) == {0: 6, 1: 6, 2: 5}
    assert any("--shots 6: 1 classes" in note for note in dataset.notes)
    whole = load_dataset("folder", root=tmp_path)
    assert names(dataset, "test") == names(whole, "test")
    assert np.isin(names(dataset, "train"), names(whole, "train")).all()



@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_class_name_that_no_adapter_could_hold_is_refused_before_training(tmp_path):
    fill(tmp_path, HOW_MANY)
    (tmp_path / "dog").rename(tmp_path / "d\udcffg")  # a byte that is no UTF-8
    assert "not UTF-8; rename it" in failure(tmp_path)
