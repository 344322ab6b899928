"""``promptvit data check``: each thing that can be wrong is found, named and of the right kind; what is right is not complained of."""

import json
import shutil

import miniatures
import pytest
from helpers import command, one_line_error
from PIL import Image
from scipy.io import savemat
from test_fgvc import LAYOUTS, build

from promptvit.cli import main
from promptvit.data import load_dataset
from promptvit.data.check import check
from promptvit.data.listed.tasks import FGVC, VTAB


def found(name, root, level="error"):
    return [(finding.kind, finding.file) for finding in check(name, root=root).of(level)]


def lines(file, change):
    """Damage: a text list's lines after ``change``."""

    def damage(root):
        (root / file).write_text("\n".join(change((root / file).read_text().splitlines())) + "\n")

    return damage


def first_line(file, line):
    return lines(file, lambda before: [line, *before[1:]])


def one_more(file, line):
    return lines(file, lambda before: [*before, line])


def entry(file, path, label):
    """Damage: an entry of a json list, the first one's label where ``path`` is None."""

    def damage(root):
        listed = json.loads((root / file).read_text())
        listed[path or next(iter(listed))] = label
        (root / file).write_text(json.dumps(listed))

    return damage


def content(file, data):
    return lambda root: (root / file).write_bytes(data)


def gone(pattern):
    return lambda root: [file.unlink() for file in root.glob(pattern)]


def copied(source, target):
    return lambda root: shutil.copy(root / source, root / target)


def linked_out(root):
    image = root / "images/test/000000.jpg"
    shutil.move(image, root.parent / "x.jpg")
    image.symlink_to(root.parent / "x.jpg")


def counted_from_zero(root):
    listed = json.loads((root / "val.json").read_text())
    (root / "val.json").write_text(json.dumps({path: label - 1 for path, label in listed.items()}))


def snapshot(root):
    return {path.relative_to(root): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in root.rglob("*")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fgvc_miniatures_are_in_order(layout, tmp_path):
    name = build(layout, tmp_path, classes=5)
    before = snapshot(tmp_path)
    findings = check(name, root=tmp_path)
    assert not findings.of("error") and {finding.kind for finding in findings.of("warning")} == {"partial-copy", "missing-class"}
    kinds = [finding.kind for finding in findings.of("ok")]
    assert kinds[0] == "layout" and kinds[-2:] == ["images", "splits"]
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", VTAB)
def test_vtab_miniatures_are_in_order(name, tmp_path):
    miniatures.vtab(tmp_path / name, name)
    findings = check(f"vtab/{name}", root=tmp_path)
    assert not findings.of("error") and {finding.kind for finding in findings.of("warning")} == {"partial-copy"}
    assert [finding.kind for finding in findings.of("ok")] == ["layout", "images", "union", "splits"]


def test_a_whole_copy_has_no_warning(tmp_path):
    """Counts are compared with the published ones; 1,711 images of KITTI are few enough to be drawn here."""
    miniatures.vtab(tmp_path, "kitti", (800, 200, 711))
    findings = check("vtab/kitti", root=tmp_path)
    assert {finding.level for finding in findings.found} == {"ok"}
    assert [finding.file for finding in findings.of("ok") if finding.kind == "count"] == ["train", "val", "test", "train800val200.txt"]
    miniatures.picture(tmp_path / "images/test/extra.jpg")
    one_more("test.txt", "images/test/extra.jpg 0")(tmp_path)
    assert found("vtab/kitti", tmp_path, "warning") == [("more-than-expected", "test")]


BROKEN_VTAB = {
    "id out of range": (first_line("test.txt", "images/test/000000.jpg 470"), "id-out-of-range", "test.txt:1"),
    "negative id": (first_line("test.txt", "images/test/000000.jpg -3"), "id-out-of-range", "test.txt:1"),
    "bad label": (first_line("val200.txt", "images/val200/000000.jpg owl"), "bad-label", "val200.txt:1"),
    "half a label": (first_line("val200.txt", "images/val200/000000.jpg 0.5"), "bad-label", "val200.txt:1"),
    "missing file": (gone("images/test/000002.jpg"), "missing-file", "images/test/000002.jpg"),
    "a folder for a file": (first_line("test.txt", "images/test 0"), "missing-file", "images/test"),
    "path above the root": (first_line("test.txt", "images/../../x.jpg 0"), "path-leaves-root", "images/../../x.jpg"),
    "absolute path": (first_line("test.txt", "/etc/x.jpg 0"), "path-leaves-root", "/etc/x.jpg"),
    "link out of the root": (linked_out, "path-leaves-root", "images/test/000000.jpg"),
    "no label": (first_line("test.txt", "images/test/000000.jpg"), "unparsable-list", "test.txt:1"),
    "no text": (content("test.txt", b"\xff\xfe\x00\x81"), "unparsable-list", "test.txt"),
    "empty list": (content("test.txt", b"\n"), "empty-split", "test"),
    "missing list": (gone("test.txt"), "missing-list", "test.txt"),
    "listed twice": (one_more("test.txt", "images/test/000001.jpg 46"), "listed-twice", "images/test/000001.jpg"),
    "listed twice, spelt otherwise": (
        one_more("test.txt", "./images//val200/../test/000001.jpg 46"), "listed-twice", "images/test/000001.jpg",
    ),
    "counts from 1": (
        lines("val200.txt", lambda before: [f"{x.split()[0]} {int(x.split()[1]) + 1}" for x in before]), "mixed-id-base", "val200.txt",
    ),
    "in two splits by path": (one_more("test.txt", "images/train800/000001.jpg 46"), "in-two-splits", "images/train800/000001.jpg"),
    "in two splits by content": (
        copied("images/val200/000001.jpg", "images/test/000003.jpg"), "in-two-splits", "images/test/000003.jpg",
    ),
    "undecodable": (content("images/test/000004.jpg", b"\xff\xd8 no jpeg"), "undecodable-image", "images/test/000004.jpg"),
    "empty image": (content("images/test/000004.jpg", b""), "undecodable-image", "images/test/000004.jpg"),
    "joint list lacks one": (lines("train800val200.txt", lambda before: before[1:]), "not-the-union", "images/train800/000000.jpg"),
    "joint list has another label": (
        first_line("train800val200.txt", "images/train800val200/000000.jpg 9"), "not-the-union", "images/train800val200/000000.jpg",
    ),
    "joint list has another picture": (
        lambda root: miniatures.picture(root / "images/train800val200/000003.jpg", "other"), "not-the-union",
        "images/train800val200/000003.jpg",
    ),
    "unrecognised layout": (gone("*.txt"), "unrecognised-layout", None),
}


@pytest.mark.parametrize("fault", BROKEN_VTAB)
def test_every_fault_of_vtab_lists(fault, tmp_path):
    damage, kind, file = BROKEN_VTAB[fault]
    root = miniatures.vtab(tmp_path / "dtd", "dtd")
    damage(root)
    errors = found("vtab/dtd", root)
    assert {error[0] for error in errors} == {kind}
    assert file is None or (kind, file) in errors


@pytest.mark.parametrize("fault", [fault for fault, row in BROKEN_VTAB.items() if row[1] not in ("undecodable-image", "not-the-union")])
def test_the_reader_refuses_what_the_lists_have_wrong(fault, tmp_path):
    damage, kind, _ = BROKEN_VTAB[fault]
    damage(miniatures.vtab(tmp_path / "dtd", "dtd"))
    if fault == "in two splits by content":
        load_dataset("vtab/dtd", root=tmp_path)  # a reader opens no image
    else:
        with pytest.raises(ValueError, match=kind):
            load_dataset("vtab/dtd", root=tmp_path)


FIRST, SECOND = "001.Bird_0/Bird_1_0.jpg", "002.Bird_1/Bird_1_1.jpg"  # both in val

BROKEN_FGVC = {
    "unknown label": (entry("test.json", None, 9), "unknown-label", "test.json"),
    "mixed id bases": (counted_from_zero, "mixed-id-base", "val.json"),
    "id out of range": (entry("test.json", None, 201), "id-out-of-range", "test.json"),
    "id far out in train": (entry("train.json", None, 900), "id-out-of-range", "train.json"),
    "bad label": (entry("train.json", None, "owl"), "bad-label", "train.json"),
    "true for a label": (entry("val.json", None, True), "bad-label", "val.json"),
    "missing file": (gone("images/*/Bird_2_1.jpg"), "missing-file", "images/002.Bird_1/Bird_2_1.jpg"),
    "path above the root": (entry("val.json", "../../x.jpg", 1), "path-leaves-root", "../../x.jpg"),
    "path with a drive": (entry("val.json", "C:\\x.jpg", 1), "path-leaves-root", "C:\\x.jpg"),
    "unparsable": (content("val.json", b'{"a.jpg": 1,'), "unparsable-list", "val.json"),
    "an array": (content("val.json", b'["a.jpg"]'), "unparsable-list", "val.json"),
    "listed twice": (
        content("val.json", f'{{"{FIRST}": 1, "{SECOND}": 2, "{FIRST}": 1}}'.encode()), "listed-twice", f"images/{FIRST}",
    ),
    "missing list": (gone("val.json"), "missing-list", "val.json"),
    "in two splits by path": (entry("test.json", FIRST, 1), "in-two-splits", f"images/{FIRST}"),
    "in two splits by content": (
        copied(f"images/{FIRST}", "images/002.Bird_1/Bird_2_1.jpg"), "in-two-splits", "images/002.Bird_1/Bird_2_1.jpg",
    ),
    "undecodable": (content(f"images/{FIRST}", b"no image"), "undecodable-image", f"images/{FIRST}"),
    "unrecognised layout": (gone("*.json"), "unrecognised-layout", None),
}


@pytest.mark.parametrize("fault", BROKEN_FGVC)
def test_every_fault_of_json_lists(fault, tmp_path):
    damage, kind, file = BROKEN_FGVC[fault]
    root = miniatures.fgvc_json(tmp_path / "CUB", "cub", classes=6)
    damage(root)
    errors = found("fgvc/cub", root)
    assert {error[0] for error in errors} == {kind}
    assert file is None or (kind, file) in errors
    if kind != "undecodable-image" and "content" not in fault:
        with pytest.raises(ValueError, match=kind):
            load_dataset("fgvc/cub", root=root)


def test_one_list_that_counts_from_zero_and_from_one(tmp_path):
    miniatures.fgvc_json(tmp_path, "flowers")
    miniatures.picture(tmp_path / "jpg/x.jpg")
    entry("train.json", "jpg/x.jpg", 0)(tmp_path)
    assert found("fgvc/flowers", tmp_path) == [("mixed-id-base", "train.json")]


def matlab(file, **variables):
    return lambda root: savemat(root / file, variables)


def setid(**changes):
    return matlab("setid.mat", **{"trnid": [[1, 4]], "valid": [[2, 5]], "tstid": [[3, 6]]} | changes)


BROKEN_OFFICIAL = {
    "cub: image without a label": ("cub", lines("image_class_labels.txt", lambda before: before[1:]), "bad-label"),
    "cub: label of no image": ("cub", one_more("image_class_labels.txt", "99 1"), "unparsable-list"),
    "cub: bad flag": ("cub", first_line("train_test_split.txt", "1 7"), "unparsable-list"),
    "cub: line without a value": ("cub", one_more("images.txt", "50"), "unparsable-list"),
    "cub: image id twice": ("cub", one_more("images.txt", "1 x.jpg"), "listed-twice"),
    "cub: path in both splits": (
        "cub", lines("images.txt", lambda before: [*before[:2], f"3 {before[0].split()[1]}", *before[3:]]), "in-two-splits",
    ),
    "cub: no split": ("cub", gone("train_test_split.txt"), "missing-list"),
    "cub: id out of range": ("cub", lines("image_class_labels.txt", lambda before: [*before[:5], "6 201"]), "id-out-of-range"),
    "nabirds: label unknown to train": (
        "nabirds", lines("train_test_split.txt", lambda before: [*before[:3], *(x[:-1] + "0" for x in before[3:])]), "unknown-label",
    ),
    "dogs: no MATLAB file": ("dogs", content("test_list.mat", b"MATLAB" * 100), "unparsable-list"),
    "dogs: a variable is missing": ("dogs", matlab("test_list.mat", labels=[[1]]), "unparsable-list"),
    "dogs: labels are short": ("dogs", matlab("test_list.mat", labels=[[1]], file_list=miniatures.cells(["a", "b"])), "unparsable-list"),
    "dogs: missing list": ("dogs", gone("test_list.mat"), "missing-list"),
    "flowers: image beyond the labels": ("flowers", setid(tstid=[[3, 6, 7]]), "unparsable-list"),
    "flowers: half a number": ("flowers", setid(tstid=[[3, 6.5]]), "bad-label"),
    "flowers: image in two splits": ("flowers", setid(tstid=[[3, 4, 6]]), "in-two-splits"),
    "flowers: image twice": ("flowers", setid(tstid=[[3, 6, 6]]), "listed-twice"),
    "cars: no labels for test": ("cars_apart", gone("devkit/cars_test_annos_withlabels.mat"), "missing-list"),
    "cars: annotations lack a field": (
        "cars_together", matlab("cars_annos.mat", annotations=[{"class": 1}], class_names=["a"]), "unparsable-list",
    ),
    "cars: missing file": ("cars_apart", gone("cars_test/00001.jpg"), "missing-file"),
}


@pytest.mark.parametrize("fault", BROKEN_OFFICIAL)
def test_faults_of_official_lists(fault, tmp_path):
    layout, damage, kind = BROKEN_OFFICIAL[fault]
    name = build(layout, tmp_path, classes=2)
    damage(tmp_path)
    assert {error[0] for error in found(name, tmp_path)} == {kind}
    with pytest.raises(ValueError, match=kind):
        load_dataset(name, root=tmp_path)


def test_two_copies_are_ambiguous(tmp_path):
    for folder in ("CUB", "CUB_200_2011"):
        miniatures.fgvc_json(tmp_path / folder, "cub", classes=2)
    (error,) = check("fgvc/cub", root=tmp_path).of("error")
    assert error.kind == "unrecognised-layout" and "more than once" in error.message


def test_dsprites_draws_some_pictures_twice(tmp_path):
    """An orientation of 0 is one of 360 degrees: few equal pictures in two splits are its making, many are a fault."""
    root = miniatures.vtab(tmp_path, "dsprites_ori", (60, 4, 6))
    shutil.copy(root / "images/train800/000010.jpg", root / "images/test/000003.jpg")
    assert ("in-two-splits", "images/test/000003.jpg") in found("vtab/dsprites_ori", root, "warning")
    assert not found("vtab/dsprites_ori", root)
    shutil.copy(root / "images/train800/000011.jpg", root / "images/test/000004.jpg")
    assert {kind for kind, _ in found("vtab/dsprites_ori", root)} == {"in-two-splits"}


def test_val_inside_the_training_list_is_found(tmp_path):
    """The mistake behind an accuracy of 100 % on val: training on all 1,000 images and choosing on 200 of them."""
    root = miniatures.vtab(tmp_path, "svhn")
    shutil.copy(root / "train800val200.txt", root / "train800.txt")
    errors = found("vtab/svhn", root)
    assert {kind for kind, _ in errors} == {"in-two-splits", "not-the-union"} and ("in-two-splits", "images/val200/000000.jpg") in errors


def test_a_missing_joint_list_is_a_warning(tmp_path):
    root = miniatures.vtab(tmp_path, "svhn")
    (root / "train800val200.txt").unlink()
    assert not found("vtab/svhn", root) and ("missing-list", "train800val200.txt") in found("vtab/svhn", root, "warning")


def _folder(root):
    for split in ("train", "val", "test"):
        for label in "ab":
            for number in range(3):
                miniatures.picture(root / split / label / f"{number}.jpg")
    return root


def test_a_folder(tmp_path):
    root = _folder(tmp_path)
    findings = check("folder", root=root)
    assert [finding.kind for finding in findings.found] == ["layout", "count", "count", "count", "images", "splits"]
    assert {finding.level for finding in findings.found} == {"ok"}
    Image.open(root / "train/a/1.jpg").save(root / "test/b/again.png")
    (root / "val/a/2.jpg").write_bytes(b"no image")
    assert sorted(found("folder", root)) == [("in-two-splits", "test/b/again.png"), ("undecodable-image", "val/a/2.jpg")]


def test_a_folder_with_a_class_unknown_to_train(tmp_path):
    miniatures.picture(_folder(tmp_path) / "test/c/0.jpg")
    (error,) = check("folder", root=tmp_path).of("error")
    assert error.kind == "unusable-data-set" and "'c' is in test but not in train" in error.message


def test_what_needs_no_files_is_in_order():
    assert {finding.level for finding in check("digits").found} == {"ok"}


def test_the_command(tmp_path, capsys):
    root = miniatures.vtab(tmp_path / "dtd", "dtd")
    main(["data", "check", "vtab/dtd", "--data-root", str(tmp_path)])
    fine = capsys.readouterr()
    assert fine.out.startswith(f"ok layout {root}") and "\nwarning partial-copy train: " in fine.out and not fine.err
    (root / "images/test/000001.jpg").unlink()
    broken = command("data", "check", "vtab/dtd", "--data-root", root)
    assert "\nerror missing-file images/test/000001.jpg: " in broken.stdout and "1" in one_line_error(broken)
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", "vtab/dtd", "--data-root", str(root), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert caught.value.code and report["errors"] == 1 and report["findings"][0].keys() == {"level", "kind", "file", "message"}
    with pytest.raises(SystemExit):
        main(["data", "check", "vtab/dtt", "--data-root", str(root)])
    assert "did you mean" in capsys.readouterr().err


def test_a_file_name_cannot_write_to_the_terminal(tmp_path):
    root = miniatures.vtab(tmp_path, "dtd")
    first_line("test.txt", "images/\x1b[2Jx.jpg 0")(root)
    (error,) = check("vtab/dtd", root=root).of("error")
    assert str(error).isprintable() and "\\x1b[2Jx.jpg" in str(error)


def test_classes_of_the_table_are_the_published_ones():
    classes = {name: task.classes for name, task in (FGVC | VTAB).items()}
    assert (classes["nabirds"], classes["sun397"], classes["caltech101"], classes["smallnorb_azi"]) == (555, 397, 102, 18)
