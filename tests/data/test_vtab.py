"""The 19 tasks of VTAB-1k: both nestings, their lists, and a run on each."""

import miniatures
import pytest
from helpers import tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st

import promptvit
from promptvit.data import load_dataset
from promptvit.data.findings import Findings
from promptvit.data.listed.lists import image_lines
from promptvit.data.listed.places import placed
from promptvit.data.listed.tasks import VTAB


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.mark.parametrize("name", VTAB)
def test_a_run_on_every_task(name, backbone, tmp_path):
    miniatures.vtab(tmp_path / "data" / name, name)
    finished = promptvit.train(
        backbone=backbone, method="linear", data=f"vtab/{name}", data_root=str(tmp_path / "data"), epochs=1, batch_size=8,
        out=str(tmp_path / "run"),
    )
    assert finished.result["status"] == "ok" and len(finished.result["per_class_accuracy"]) == VTAB[name].classes


def test_the_tasks():
    groups = [task.group for task in VTAB.values()]
    assert [groups.count(group) for group in ("natural", "specialized", "structured")] == [7, 4, 8]
    assert all((task.train, task.val) == (800, 200) for task in VTAB.values())
    folders = [folder for task in VTAB.values() for folder in task.folder_names]
    assert len(folders) == len(set(folders))  # no folder name means two tasks


def test_a_task(tmp_path):
    dataset = load_dataset("vtab/sun397", root=miniatures.vtab(tmp_path, "sun397"))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 8, "val": 4, "test": 6}
    assert dataset.splits["train"].labels == [0, 396, 2, 3, 4, 5, 6, 7] and len(dataset.classes) == 397
    assert (dataset.augment, dataset.resize) == ("none", "direct")
    train = dataset.splits["train"]
    assert train.identifier(0) == "images/train800/000000.jpg" and train.image(0).size == (8, 8)


@pytest.mark.parametrize("name", VTAB)
@pytest.mark.parametrize("above", ["", "vtab-1k", "VTAB-1K/{group}", "DATA/vtab_1k/{group}"])
def test_every_nesting(above, name, tmp_path):
    group = VTAB[name].group.capitalize()
    folder = tmp_path / above.format(group=group) / miniatures.SPT_FOLDERS.get(name, name.upper())
    miniatures.vtab(folder, name, (2, 1, 1))
    miniatures.vtab(folder.parent / "dtd_other", "dtd", (3, 1, 1))
    if above.startswith("DATA"):
        assert len(load_dataset(f"vtab/{name}", root=tmp_path / "DATA").splits["train"]) == 2
    assert len(load_dataset(f"vtab/{name}", root=folder).splits["train"]) == 2
    assert len(load_dataset(f"vtab/{name}", root=folder.parent).splits["train"]) == 2
    if not above.startswith("DATA"):
        assert len(load_dataset(f"vtab/{name}", root=tmp_path).splits["train"]) == 2


def test_line_ends_marks_blank_lines_and_spaces_are_read_without_fuss(tmp_path):
    plain = load_dataset("vtab/kitti", root=miniatures.vtab(tmp_path / "plain", "kitti"))
    miniatures.vtab(tmp_path / "other", "kitti")
    (tmp_path / "other/images/train800").rename(tmp_path / "other/images/train 800")
    for file in (tmp_path / "other").glob("*.txt"):
        text = file.read_text().replace("images/train800/", "images/train 800/").replace("\n", "\r\n")
        file.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n \r\n\r\n")
    other = load_dataset("vtab/kitti", root=tmp_path / "other")
    assert all(other.splits[name].labels == split.labels for name, split in plain.splits.items())
    assert other.splits["train"].identifier(3) == "images/train 800/000003.jpg"


def test_without_a_root_the_error_says_what_is_needed():
    with pytest.raises(ValueError, match="--data-root.*train800.txt"):
        load_dataset("vtab/dtd")


def test_a_reader_raises_the_first_error_in_one_line_and_counts_the_others(tmp_path):
    miniatures.vtab(tmp_path, "dtd")
    for number in (1, 2):
        (tmp_path / f"images/test/{number:06d}.jpg").unlink()
    with pytest.raises(ValueError) as caught:
        load_dataset("vtab/dtd", root=tmp_path)
    message = str(caught.value)
    assert "images/test/000001.jpg" in message and "missing-file" in message and "1 more" in message and "\n" not in message
    assert "promptvit data check vtab/dtd" in message


def test_training_does_not_need_the_joint_list(tmp_path):
    miniatures.vtab(tmp_path, "dtd")
    (tmp_path / "train800val200.txt").write_text("nonsense")
    assert len(load_dataset("vtab/dtd", root=tmp_path).splits["train"]) == 8


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=12).filter(
    lambda text: text == text.strip() and not text.startswith("\ufeff")
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(NAMES, st.integers(-(10**17), 10**17)), max_size=8), st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    st.sampled_from([" ", "\t", "  "]), st.booleans(),
)
def test_text_lists_round_trip(tmp_path_factory, lines, end, gap, mark):
    file = tmp_path_factory.getbasetemp() / "list.txt"
    file.write_bytes(("\ufeff" * mark + "".join(f"{path}{gap}{label}{end}" for path, label in lines)).encode())
    findings = Findings()
    assert [(line.path, line.id) for line in image_lines(file, findings)] == lines and not findings.found


PARTS = st.sampled_from(["..", ".", "", "a", "b.jpg", "/", "\\", "link", "C:", "\x00", "secret.jpg", "..\\..", "~"])


@settings(deadline=None, max_examples=200)
@given(st.lists(PARTS, min_size=1, max_size=6).map("/".join))
def test_no_listed_path_reaches_a_file_outside_the_root(tmp_path_factory, path):
    base = tmp_path_factory.getbasetemp() / "outside"
    root = base / "root"
    if not root.is_dir():
        (root / "a/a").mkdir(parents=True)
        for file in (base / "secret.jpg", root / "b.jpg", root / "a/b.jpg", root / "a/a/b.jpg"):
            file.write_bytes(b"x")
        (root / "link").symlink_to(base)
        (root / "a/link").symlink_to(base / "secret.jpg")
    (base / "list.txt").write_text(f"{path} 0\n", encoding="utf-8")
    findings = Findings()
    lines = image_lines(base / "list.txt", findings)
    listed = placed(lines, root, findings)
    assert len(listed) + len(findings.of("error")) == 1
    assert all(image.path.resolve().is_relative_to(root.resolve()) and image.path.is_file() for image in listed)
