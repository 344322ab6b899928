"""The five FGVC sets: both kinds of lists, ids to labels, the cut, and a run on each."""

import json
from collections import Counter

import miniatures
import pytest
from helpers import tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st

import promptvit
from promptvit.data import load_dataset
from promptvit.data.base import stratified_split
from promptvit.data.findings import Findings
from promptvit.data.listed.fgvc import write_lists
from promptvit.data.listed.lists import image_object
from promptvit.data.listed.tasks import FGVC
from promptvit.data.seeding import Purpose, generator

LAYOUTS = [*miniatures.OFFICIAL, *(f"json {name}" for name in FGVC)]


def build(layout: str, root, classes=None) -> str:
    """Make a miniature in ``root``; returns the name that it is loaded by."""
    if layout.startswith("json "):
        name = layout.removeprefix("json ")
        miniatures.fgvc_json(root, name, classes)
    else:
        builder, name = miniatures.OFFICIAL[layout]
        builder(root, name, classes)
    return f"fgvc/{name}"


def names(split):
    return [split.identifier(index) for index in range(len(split))]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_on_every_layout(layout, backbone, tmp_path):
    name = build(layout, tmp_path / "data", classes=4)
    finished = promptvit.train(
        backbone=backbone, method="linear", data=name, data_root=str(tmp_path / "data"), epochs=1, batch_size=64, out=str(tmp_path / "run")
    )
    scored = [accuracy for accuracy in finished.result["per_class_accuracy"].values() if accuracy is not None]
    assert finished.result["status"] == "ok" and len(scored) == 4
    assert len(finished.result["per_class_accuracy"]) == FGVC[name.removeprefix("fgvc/")].classes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_classes(layout, tmp_path):
    name = build(layout, tmp_path)
    dataset = load_dataset(name, root=tmp_path)
    classes = FGVC[name.removeprefix("fgvc/")].classes
    assert len(dataset.classes) == len(set(dataset.classes)) == classes
    for split in ("train", "test"):
        assert Counter(dataset.splits[split].labels) == dict.fromkeys(range(classes), 1)
    assert list(dataset.splits) == ["train", "val", "test"] and (dataset.augment, dataset.resize) == ("crop-flip", None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_follow_the_images_classes(layout, tmp_path):
    """File names tell class and split in every miniature; labels are in the order of the ids, in all splits alike."""
    name = build(layout, tmp_path, classes=7)
    short = name.removeprefix("fgvc/")
    expected = {miniatures.image_name(short, label, number): (label, number == 2) for label in range(7) for number in range(3)}
    if layout == "cars_apart":
        expected = {f"cars_train/{2 * label + number + 1:05d}.jpg": (label, False) for label in range(7) for number in (0, 1)}
        expected |= {f"cars_test/{label + 1:05d}.jpg": (label, True) for label in range(7)}
    found = {
        identifier.removeprefix("images/").removeprefix("Images/"): (label, split.name == "test")
        for split in load_dataset(name, root=tmp_path).splits.values()
        for identifier, label in zip(names(split), split.labels, strict=True)
    }
    assert found == expected


def test_names_of_classes(tmp_path):
    expected = {
        "cub": ("001.Bird_0", "002.Bird_1"), "nabirds": ("A bird, number 295", "A bird, number 296"),
        "json dogs": ("n00000000-Dog_0", "n00000001-Dog_1"),
        "cars_apart": ("Car 0", "Car 1"), "cars_together": ("Car 0", "Car 1"), "flowers": ("1", "2"),
    }
    for layout, first in expected.items():
        assert tuple(load_dataset(build(layout, tmp_path / layout, classes=3), root=tmp_path / layout).classes[:2]) == first


def test_ids_may_count_from_zero_or_one_and_give_the_same_data_set(tmp_path):
    first, second = (
        load_dataset("fgvc/cub", root=miniatures.fgvc_json(tmp_path / str(start), "cub", classes=200, first_id=start)) for start in (0, 1)
    )
    assert first.classes == second.classes
    assert all(first.splits[split].labels == second.splits[split].labels for split in first.splits)


def test_nabirds_ids_have_gaps_in_json_too(tmp_path):
    miniatures.fgvc_json(tmp_path, "nabirds", classes=5)
    for split in ("train", "val", "test"):
        listed = json.loads((tmp_path / f"{split}.json").read_text())
        (tmp_path / f"{split}.json").write_text(json.dumps({path: 20 * label + 100 for path, label in listed.items()}))
    dataset = load_dataset("fgvc/nabirds", root=tmp_path)
    assert dataset.splits["train"].labels == dataset.splits["test"].labels == list(range(5)) and len(dataset.classes) == 555


def test_a_class_without_training_images_keeps_its_place_in_the_head(tmp_path):
    dataset = load_dataset("fgvc/dogs", root=miniatures.fgvc_json(tmp_path, "dogs", classes=3))
    assert len(dataset.classes) == 120 and any("missing-class" in note and "3 of 120" in note for note in dataset.notes)


@pytest.mark.parametrize("above", [".", "CUB", "fgvc/CUB_200_2011", "FGVC/cub-200-2011", "anything"])
def test_the_root_is_the_sets_folder_or_one_that_holds_it(above, tmp_path):
    miniatures.fgvc_json(tmp_path / above, "cub", classes=2)
    if above != "." and above != "anything":
        miniatures.fgvc_json(tmp_path / above.split("/")[0] / ".." / "StanfordDogs", "dogs", classes=3)
    assert len(load_dataset("fgvc/cub", root=tmp_path).splits["train"]) == 2


def test_the_annotations_of_cars_may_lie_beside_the_images(tmp_path):
    miniatures.cars_apart(tmp_path, classes=3, test_list=".")
    assert len(load_dataset("fgvc/cars", root=tmp_path).splits["test"]) == 3


def test_the_cut_follows_the_seed_alone_and_is_noted(tmp_path):
    miniatures.dogs(tmp_path, classes=12)
    first, again, other = (load_dataset("fgvc/dogs", root=tmp_path, data_seed=seed) for seed in (3, 3, 4))
    assert names(first.splits["val"]) == names(again.splits["val"]) != names(other.splits["val"])
    assert not set(names(first.splits["val"])) & set(names(first.splits["train"]))
    assert names(first.splits["test"]) == names(other.splits["test"])
    (note,) = [note for note in first.notes if "data_seed 3" in note]
    assert "10%" in note and "12 train, 12 val" in note


@pytest.mark.parametrize("layout", miniatures.OFFICIAL)
def test_the_cut_can_be_written_down_and_read_again(layout, tmp_path):
    name = build(layout, tmp_path)
    before = load_dataset(name, root=tmp_path, data_seed=5)
    written = write_lists(before, tmp_path)
    assert [file.name for file in written] == ["train.json", "val.json", "test.json"]
    after = load_dataset(name, root=tmp_path, data_seed=6)
    for split in before.splits:
        assert names(after.splits[split]) == names(before.splits[split]) and after.splits[split].labels == before.splits[split].labels
    with pytest.raises(ValueError, match="there already"):
        write_lists(before, tmp_path)


@pytest.mark.parametrize(("name", "per_class"), [("cub", [30] * 194 + [29] * 6), ("dogs", [100] * 120)])
def test_the_cut_has_the_published_sizes(name, per_class):
    """The official training sets have these many images per class; VPT's lists have as many in train and val."""
    labels = [label for label, count in enumerate(per_class) for _ in range(count)]
    parts = stratified_split(labels, [0.9, 0.1], generator(0, Purpose.SPLIT))
    assert [len(part) for part in parts] == [FGVC[name].train, FGVC[name].val]


def test_flowers_has_a_val_of_its_own(tmp_path):
    dataset = load_dataset("fgvc/flowers", root=miniatures.flowers(tmp_path, classes=4))
    assert names(dataset.splits["val"]) == [f"jpg/image_{3 * label + 2:05d}.jpg" for label in range(4)]
    assert not any("data_seed" in note for note in dataset.notes)


PATHS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(PATHS, st.integers(-(2**40), 2**40), max_size=8), st.booleans(), st.sampled_from(["", "\n\n", "\r\n"]))
def test_json_lists_round_trip(tmp_path_factory, listed, mark, end):
    file = tmp_path_factory.getbasetemp() / "list.json"
    file.write_bytes(("\ufeff" * mark + json.dumps(listed, indent=1).replace("\n", "\r\n") + end).encode())
    findings = Findings()
    assert {line.path: line.id for line in image_object(file, findings, "images")} == listed and not findings.found


@settings(deadline=None, max_examples=100)
@given(st.one_of(st.binary(max_size=60), st.text(alphabet='{}[]":,0123456789.eE-ntrufals ', max_size=60).map(str.encode)))
def test_no_json_list_raises(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_bytes(content)
    findings = Findings()
    lines = image_object(file, findings, ".")
    assert all(isinstance(line.id, int) for line in lines)
    assert lines or findings.of("error") or json.loads(content.decode("utf-8-sig")) == {}
