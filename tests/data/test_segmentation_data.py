"""Segmentation data: every layout and every fault, views that keep image and mask together, batches by (seed, epoch, index)."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import command, one_line_error
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from promptvit.cli import main
from promptvit.data import BadImage, MaskedSplit, list_datasets, load_dataset, load_segmentation
from promptvit.data.check import check
from promptvit.data.proc import scenes
from promptvit.data.segmentation import ade20k, transforms
from promptvit.data.segmentation.loader import masked_batches, whole_images
from promptvit.data.segmentation.masks import IGNORE, BadMask, Coding, open_mask
from promptvit.data.segmentation.pictures import colours, painted
from promptvit.heads import segmentation as heads
from promptvit.preprocessing import Preprocessing, to_tensor

CROP = Preprocessing(size=(24, 24), crop_pct=1.0, mean=(0.5, 0.5, 0.5))
PALETTE = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [240, 240, 30]], dtype=np.uint8)  # far apart
ROW = transforms.draws(1, 0, 0)[0]


def image(path, size, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def mask(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def miniature_ade20k(root, train=10, test=3):
    """The exact layout; image i is 16 + i pixels wide, and its mask has 0, 1 and 150."""
    for part, short, count in (("training", "train", train), ("validation", "val", test)):
        for number in range(1, count + 1):
            name, size = f"ADE_{short}_{number:08d}", (12, 16 + number)
            image(root / f"images/{part}/{name}.jpg", size, [number, count])
            mask(root / f"annotations/{part}/{name}.png", np.resize([0, 1, 150, 7], size))
    return root


def miniature_folder(root, splits=("train", "val", "test"), each=3):
    for index, split in enumerate(splits):
        for number in range(each):
            image(root / "images" / split / "a" / f"{number}.jpg", (10, 12), [number, index])
            mask(root / "masks" / split / "a" / f"{number}.png", np.resize([0, 1, 2, 255], (10, 12)))
    (root / "classes.txt").write_text("ground\nblue water #0010ff\ntree\n")
    return root


def coded_image(values):
    """A picture that shows each class in a colour of its own."""
    return Image.fromarray(PALETTE[values])


def patches(height, width, seed=0):
    """A mask of 4 classes in large areas."""
    cells = np.random.default_rng(seed).integers(0, 4, (4, 5))
    return np.repeat(np.repeat(cells, -(-height // 4), axis=0), -(-width // 5), axis=1)[:height, :width].astype(np.uint8)


def drawn_split(count, seed=0):
    rng = np.random.default_rng(seed)
    masks = [patches(*rng.integers(10, 60, 2), seed=index) for index in range(count)]
    return MaskedSplit("train", [PALETTE[m] for m in masks], masks, [f"x/{i}" for i in range(count)], Coding(4))


def found(name, root, level="error", task=None):
    return [(finding.kind, finding.file) for finding in check(name, root=root, task=task).of(level)]


# Data sets


def test_ade20k_in_its_exact_layout(tmp_path):
    root = miniature_ade20k(tmp_path / "ADEChallengeData2016")
    dataset = load_segmentation("ade20k", root=tmp_path, data_seed=3)
    assert {split: len(part) for split, part in dataset.splits.items()} == {"train": 9, "val": 1, "test": 3}
    assert dataset.splits["test"].identifier(0) == "images/validation/ADE_val_00000001.jpg"
    everything = [name for split in ("train", "val") for name in dataset.splits[split].identifiers]
    assert sorted(everything) == [f"images/training/ADE_train_{number:08d}.jpg" for number in range(1, 11)]
    picture, classes = dataset.splits["test"].pair(1)
    assert picture.size == (18, 12) and classes.shape == (12, 18) and classes.dtype == np.uint8
    assert classes.ravel()[:4].tolist() == [IGNORE, 0, 149, 6]
    assert len(dataset.classes) == len(set(dataset.classes)) == 150 and dataset.classes[12] == "person"
    assert dataset.palette.shape == (150, 3) and len(np.unique(dataset.palette, axis=0)) == 150 and dataset.palette.any(axis=1).all()
    assert any("cut out of train" in note and "data_seed 3" in note for note in dataset.notes)
    assert any("20210 are expected" in note for note in dataset.notes)
    inside, other = load_segmentation("ade20k", root=root, data_seed=3), load_segmentation("ade20k", root=root, data_seed=4)
    assert inside.splits["val"].identifiers == dataset.splits["val"].identifiers
    assert {other.splits["val"].identifier(0) for other in (load_segmentation("ade20k", root=root, data_seed=s) for s in range(6))} - set(
        dataset.splits["val"].identifiers
    )
    assert other.splits["test"].identifiers == dataset.splits["test"].identifiers


def test_ade20k_reads_the_names_of_the_copy(tmp_path):
    root = miniature_ade20k(tmp_path)
    names = [name + ", another word" for name in ade20k.NAMES[:-1]] + ["banner"]
    rows = [f"{number}\t0.1\t11\t2\t{name}" for number, name in enumerate(names, start=1)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n")
    assert load_segmentation("ade20k", root=root).classes == [*ade20k.NAMES[:-1], "banner"]
    (root / "objectInfo150.txt").write_text("\n".join(rows[:20]))
    with pytest.raises(ValueError, match="objectInfo150.txt: names 19 classes, 150 are expected"):
        load_segmentation("ade20k", root=root)


def test_folder_with_splits(tmp_path):
    dataset = load_segmentation("folder", root=miniature_folder(tmp_path / "own"))
    assert dataset.classes == ["ground", "blue water", "tree"] and dataset.palette[1].tolist() == [0, 16, 255]
    assert {split: len(part) for split, part in dataset.splits.items()} == {"train": 3, "val": 3, "test": 3} and not dataset.notes
    assert dataset.splits["val"].identifier(2) == "images/val/a/2.jpg"
    assert dataset.splits["val"].pair(0)[1].ravel()[:4].tolist() == [0, 1, 2, IGNORE]
    assert load_segmentation("folder", root=tmp_path).root == tmp_path / "own"


def test_folder_without_splits_is_cut_by_seed(tmp_path):
    miniature_folder(tmp_path, [""], each=20)
    first, again, other = (load_segmentation("folder", root=tmp_path, data_seed=seed) for seed in (0, 0, 1))
    assert {split: len(part) for split, part in first.splits.items()} == {"train": 14, "val": 3, "test": 3}
    names = {split: part.identifiers for split, part in first.splits.items()}
    assert names == {split: part.identifiers for split, part in again.splits.items()}
    assert names["test"] != other.splits["test"].identifiers and len({name for part in names.values() for name in part}) == 20
    assert "15% each, data_seed 0: 14 train, 3 val, 3 test" in first.notes[0]


def test_the_split_that_selects_does_not_report(tmp_path):
    dataset = load_segmentation("folder", root=miniature_folder(tmp_path, ("train", "valid"), each=10))
    assert {split: len(part) for split, part in dataset.splits.items()} == {"train": 8, "val": 10, "test": 2}


FAULTS = {
    "no classes": (lambda root: (root / "classes.txt").unlink(), "missing-list"),
    "one class": (lambda root: (root / "classes.txt").write_text("all\n"), "2 to 255 are possible"),
    "256 classes": (lambda root: (root / "classes.txt").write_text("\n".join(map(str, range(256)))), "names 256 classes"),
    "a class twice": (lambda root: (root / "classes.txt").write_text("a\nb\na\n"), "classes.txt:3: class 'a'"),
    "no masks": (lambda root: shutil.rmtree(root / "masks"), "no such folder"),
    "no images": (lambda root: shutil.rmtree(root / "images"), "expected ROOT/images, ROOT/masks and ROOT/classes.txt"),
    "no train": (lambda root: shutil.rmtree(root / "images/train"), "no train"),
    "val twice": (lambda root: (root / "images/valid").mkdir(), "both val and valid"),
    "an empty split": (lambda root: [file.unlink() for file in root.rglob("test/a/*")], "empty-split"),
    "a name twice": (lambda root: shutil.copy(root / "images/val/a/0.jpg", root / "images/val/a/0.png"), "listed-twice"),
    "a link out": (lambda root: (root / "images/val/a/z.jpg").symlink_to(root.parent / "elsewhere"), "leads out of"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_cannot_be_used_says_why(fault, tmp_path):
    damage, words = FAULTS[fault]
    root = miniature_folder(tmp_path / "own")
    damage(root)
    with pytest.raises(ValueError, match="^data_root: ") as caught:
        load_segmentation("folder", root=root)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert check("folder", root=root, task="segmentation").of("error")


def test_names_say_what_they_are_for():
    assert {"ade20k", "proc/seg", "folder", "digits"} <= set(list_datasets())
    with pytest.raises(ValueError, match="--task segmentation"):
        load_dataset("ade20k")
    with pytest.raises(ValueError, match="unknown segmentation data set 'digits'.* valid: ade20k, folder, proc/seg"):
        load_segmentation("digits")
    for name in ("ade20k", "folder"):
        with pytest.raises(ValueError, match="^data_root: missing; "):
            load_segmentation(name)
    with pytest.raises(ValueError, match="^data_root: .*no such folder; expected images/"):
        load_segmentation("ade20k", root="/nowhere")


def test_masks_are_not_taken_for_classes(tmp_path):
    with pytest.raises(ValueError, match="--task segmentation"):
        load_dataset("folder", root=miniature_folder(tmp_path))


# Masks


def test_a_palette_mask_gives_its_indices(tmp_path):
    values = np.resize([2, 0, 1, 255], (6, 5)).astype(np.uint8)
    indexed = Image.fromarray(values, mode="P")
    indexed.putpalette([200, 100, 0, 7, 7, 7] + 762 * [1])
    indexed.save(tmp_path / "p.png")
    Image.fromarray(values).save(tmp_path / "l.png")
    Image.fromarray(values == 1).save(tmp_path / "one_bit.png")
    for name in ("p.png", "l.png"):
        np.testing.assert_array_equal(open_mask(tmp_path / name, Coding(3)), values)
    assert Image.open(tmp_path / "p.png").mode == "P" and Image.open(tmp_path / "one_bit.png").mode == "1"
    np.testing.assert_array_equal(open_mask(tmp_path / "one_bit.png", Coding(2)), values == 1)


@given(classes=st.integers(1, 200), first=st.integers(0, 54), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_codings(classes, first, seed):
    coding = Coding(classes, first, ignored=255)
    values = np.random.default_rng(seed).integers(0, 256, (5, 7), dtype=np.uint8)
    decoded, unknown = coding.decode(values)
    for value, meaning in zip(values.ravel().tolist(), decoded.ravel().tolist(), strict=True):
        if value == 255:
            assert meaning == IGNORE
        else:
            assert (value in unknown) == (not first <= value < first + classes)
            assert value in unknown or meaning == value - first


def broken_mask(change):
    """Damage: the mask of the second training image, through ``change``."""

    def damage(root):
        path = root / "annotations/training/ADE_train_00000002.png"
        change(path)
        return path.relative_to(root).as_posix()

    return damage


def removed(name):
    def damage(root):
        (root / name).unlink()
        partner = name.replace("annotations", "images").replace(".png", ".jpg") if "annotations" in name else (
            name.replace("images", "annotations").replace(".jpg", ".png")
        )
        return partner

    return damage


def truncated(path):
    noise = np.random.default_rng(0).integers(0, 150, (12, 18), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:150])


def bad_image(root):
    (root / "images/training/ADE_train_00000002.jpg").write_bytes(b"no image")
    return "images/training/ADE_train_00000002.jpg"


BROKEN = {
    "another size": (broken_mask(lambda path: mask(path, np.ones((18, 12)))), "mask-size", "12 x 18 pixels, but its image"),
    "id out of range": (broken_mask(lambda path: mask(path, np.full((12, 18), 151))), "id-out-of-range", "has pixels of 151"),
    "colours": (broken_mask(lambda path: image(path, (12, 18), 0)), "mask-format", "colours (RGB)"),
    "16 bits": (
        broken_mask(lambda path: Image.fromarray(np.ones((12, 18), dtype=np.uint16)).save(path)), "mask-format", "16 bits (I;16)",
    ),
    "truncated": (broken_mask(truncated), "undecodable-mask", "truncated"),
    "empty": (broken_mask(lambda path: path.write_bytes(b"")), "undecodable-mask", "empty file"),
    "a JPEG": (broken_mask(lambda path: Image.new("L", (18, 12)).save(path, "JPEG")), "undecodable-mask", "PNG is read"),
    "a damaged image": (bad_image, "undecodable-image", "not an image"),
    "missing mask": (removed("annotations/training/ADE_train_00000002.png"), "missing-mask", "ADE_train_00000002.png"),
    "missing image": (removed("images/validation/ADE_val_00000001.jpg"), "missing-image", "ADE_val_00000001"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_every_fault_names_its_file(fault, tmp_path):
    damage, kind, words = BROKEN[fault]
    root = miniature_ade20k(tmp_path)
    file = damage(root)
    assert found("ade20k", root) == [(kind, file)]
    (finding,) = check("ade20k", root=root).of("error")
    assert words in finding.message
    if kind.startswith("missing"):
        with pytest.raises(ValueError, match=f"^data_root: {file}: .*{kind}"):
            load_segmentation("ade20k", root=root)
        return
    dataset = load_segmentation("ade20k", root=root)  # opens no file
    split = dataset.splits["train"].joined(dataset.splits["val"])
    place = split.identifiers.index("images/training/ADE_train_00000002.jpg")
    with pytest.raises(BadImage) as caught:
        split.pair(place)
    assert caught.value.kind == kind and caught.value.path == root / file and words in str(caught.value)
    assert isinstance(caught.value, BadMask) == ("image" not in fault)
    with pytest.raises(BadImage, match=file):
        list(masked_batches(split, CROP, batch_size=4, epoch=0))


def test_a_sound_copy_has_no_error_and_stays_as_it_is(tmp_path):
    root = miniature_ade20k(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    findings = check("ade20k", root=root)
    assert not findings.of("error") and {finding.kind for finding in findings.of("warning")} == {"partial-copy"}
    assert [finding.kind for finding in findings.of("ok")] == ["layout", "note", "count", "count", "count", "images", "splits"]
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert {finding.level for finding in check("proc/seg").found} == {"ok"}


def test_one_picture_in_two_splits_is_found(tmp_path):
    root = miniature_folder(tmp_path)
    shutil.copy(root / "images/train/a/1.jpg", root / "images/test/a/2.jpg")
    assert found("folder", root, task="segmentation") == [("in-two-splits", "images/test/a/2.jpg")]


def test_commands(tmp_path, capsys):
    root = miniature_folder(tmp_path / "own")
    main(["data", "check", "folder", "--data-root", str(root), "--task", "segmentation"])
    assert f"ok layout {root}: images and masks; 3 classes" in capsys.readouterr().out
    mask(root / "masks/val/a/1.png", np.full((10, 12), 3))
    broken = command("data", "check", "folder", "--data-root", root, "--task", "segmentation")
    assert "error id-out-of-range masks/val/a/1.png: has pixels of 3; values may be 0 to 2, and 255" in broken.stdout
    assert "errors found: 1" in one_line_error(broken)
    main(["data", "show", "proc/seg", "--out", str(tmp_path / "sheet.png"), "--examples", "1"])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    shown = load_segmentation("proc/seg").splits["train"]
    expected = np.asarray(painted(shown.mask(1), load_segmentation("proc/seg").palette)).astype(int)
    assert np.abs(sheet[4 + 64 : 4 + 128, 4 + 68 : 4 + 132] - expected).max() < 8  # 256 colours, below the second image


# proc/seg


def test_scenes_are_fixed_and_named():
    dataset = load_segmentation("proc/seg", data_seed=9)
    assert {split: len(part) for split, part in dataset.splits.items()} == {"train": 400, "val": 100, "test": 400}
    split = dataset.splits["val"]
    assert split.identifier(12) == "proc/seg/v1/val/12" and len(dataset.classes) == len(dataset.palette) == 8
    images, masks = scenes.pictures("val", 47, 5)
    for index in (47, 50, 51):  # of two chunks
        picture, classes = split.pair(index)
        np.testing.assert_array_equal(np.asarray(picture), images[index - 47])
        np.testing.assert_array_equal(classes, masks[index - 47])
    assert images.shape == (5, 64, 64, 3) and masks.shape == (5, 64, 64) and images.dtype == masks.dtype == np.uint8


def test_another_process_with_other_threads_draws_the_same_scenes():
    code = "import torch, sys; torch.set_num_threads(3); from promptvit.data.proc.scenes import pictures; " \
        "sys.stdout.buffer.write(b''.join(part.tobytes() for part in pictures('test', 40, 3)))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=300).stdout
    assert other == b"".join(part.tobytes() for part in scenes.pictures("test", 40, 3))


def test_no_scene_is_in_two_splits_and_all_classes_are_in_each():
    drawn = {split: scenes.pictures(split, 0, 40, 32) for split in scenes.SIZES}
    pictures = [image.tobytes() for images, _ in drawn.values() for image in images]
    assert len(set(pictures)) == len(pictures)
    for _, masks in drawn.values():
        shares = np.bincount(masks.ravel(), minlength=8) / masks.size
        assert len(shares) == 8 and shares.min() > 0.01 and 0.4 < shares[0] < 0.8
        assert all(len(np.unique(m)) > 1 for m in masks)


def test_masks_are_what_the_pictures_show(monkeypatch):
    """Objects painted white on black, without noise: the mask is where the picture is light, and classes are told by their outlines."""
    monkeypatch.setattr(scenes.scenery, "sensed", lambda rolls, images, **options: images)
    monkeypatch.setattr(scenes, "_ground", lambda rolls, points: torch.zeros(rolls.count, 3, *points.shape[:2], dtype=torch.float64))
    monkeypatch.setattr(scenes, "_surface", lambda rolls, local: torch.ones(rolls.count, 3, *local.shape[1:3], dtype=torch.float64))
    monkeypatch.setattr(scenes, "OBJECTS", (1, 1))
    images, masks = scenes.pictures("test", 0, 120, 128)
    np.testing.assert_array_equal(images[..., 0] > 127, masks > 0)
    kinds = set()
    for classes in masks:
        shape = classes > 0
        if (shape[0] | shape[-1] | shape[:, 0] | shape[:, -1]).any():  # cut off by the border
            continue
        (kind,) = np.unique(classes[shape])
        holes = ndimage.label(~shape)[1] - 1
        area, (y, x) = shape.sum(), np.nonzero(shape)
        radius = np.hypot(y - y.mean(), x - x.mean()).max()
        full = area / (np.pi * radius**2)  # share of the disc around it
        name = scenes.CLASSES[kind]
        assert (holes == 1) == (name == "ring")
        assert (full > 0.93) == (name == "ball")
        kinds.add(name)
    assert kinds == set(scenes.CLASSES[1:])


def test_what_is_on_top_hides_what_is_below(monkeypatch):
    monkeypatch.setattr(scenes.scenery, "sensed", lambda rolls, images, **options: images)
    tints = iter([0.25, 0.5, 1.0] * 9)
    monkeypatch.setattr(scenes, "OBJECTS", (3, 3))
    monkeypatch.setattr(scenes, "_ground", lambda rolls, points: torch.zeros(rolls.count, 3, *points.shape[:2], dtype=torch.float64))
    monkeypatch.setattr(
        scenes, "_surface", lambda rolls, local: next(tints) * torch.ones(rolls.count, 3, *local.shape[1:3], dtype=torch.float64)
    )
    images, masks = scenes.pictures("test", 0, 30)
    overlaps = 0
    for picture, classes in zip(images[..., 0], masks, strict=True):
        assert not classes[picture == 0].any() and classes[picture == 255].all()
        topmost = np.unique(classes[picture == 255])
        overlaps += len(topmost)
        assert len(topmost) == 1
    assert overlaps == 30


# The average of the four quarters of one scene per channel, and the pixels of each class. A change here needs a new version.
def test_scenes_never_change():
    images, masks = scenes.pictures("test", 11, 1)
    signature = images[0].astype(float).reshape(2, 32, 2, 32, 3).mean(axis=(1, 3)).ravel()
    assert np.abs(signature - SIGNATURE).max() < 1
    assert np.abs(np.bincount(masks[0].ravel(), minlength=8) - PIXELS).max() <= 2


SIGNATURE = [134, 141, 139, 196, 213, 211, 160, 168, 149, 185, 194, 159]
PIXELS = [2186, 343, 434, 0, 0, 474, 253, 406]


# Views


def aligned(pixels, classes, scale):
    """Away from edges, whose blur reaches two pixels before or after scaling, every pixel has its class's colour; how many there are."""
    reach = 2 * int(np.ceil(2 * max(1, scale)) + 1) + 1
    around = {"size": reach, "mode": "constant", "cval": 77}  # beyond the window anything may be
    same = ndimage.maximum_filter(classes, **around) == ndimage.minimum_filter(classes, **around)
    inner = same & (classes != IGNORE)
    shown = pixels.transpose(1, 2, 0)[inner].astype(int)
    assert np.abs(shown - PALETTE[classes[inner]].astype(int)).max(initial=0) < 8
    return inner.sum()


@settings(max_examples=60)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    crop=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    policy=st.sampled_from(transforms.POLICIES[:2]),
    seed=st.integers(0, 1000),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_image_and_mask_stay_together(height, width, crop, policy, seed, interpolation):
    classes = patches(height, width, seed)
    preprocessing = CROP.model_copy(update={"size": crop, "interpolation": interpolation})
    row = transforms.draws(1, seed, 0)[0]
    pixels, seen = transforms.view(coded_image(classes), classes, preprocessing, policy, row)
    assert pixels.shape == (3, *crop) and seen.shape == crop and pixels.dtype == seen.dtype == np.uint8
    assert set(np.unique(seen)) <= {*np.unique(classes), IGNORE}
    scaled = transforms._scaled((width, height), crop, 1.0 if policy == "none" else 0.5 + 1.5 * row[0])
    aligned(pixels, seen, max(scaled[0] / height, scaled[1] / width))
    padding = seen == IGNORE
    assert (pixels[:, padding] == 128).all()  # the mean colour
    if policy == "none" and max(height, width) <= transforms.LONGEST * min(height, width):
        assert not padding.any()


def test_views_are_aligned_where_there_is_something_to_see():
    classes = patches(60, 80)
    rows = transforms.draws(20, 1, 0)
    views = [transforms.view(coded_image(classes), classes, CROP, "scale-crop-flip", row) for row in rows]
    assert sum(aligned(*view, scale=0.8) for view in views) > 500


def test_scales_windows_and_mirrors_vary():
    column = np.tile(np.arange(200, dtype=np.uint8), (150, 1))  # a pixel's class is its column
    picture = Image.fromarray(np.repeat(column[..., None], 3, axis=2))
    slopes, starts = [], []
    for row in transforms.draws(60, 0, 0):
        _, seen = transforms.view(picture, column, CROP, "scale-crop-flip", row)
        line = seen[0][seen[0] != IGNORE].astype(int)
        slopes.append((line[-1] - line[0]) / (len(line) - 1) * 24 / 150)  # per pixel of the crop at scale 1
        starts.append(line.min())
    steps = np.abs(slopes)
    assert 0.45 < steps.min() < 0.6 and 1.6 < steps.max() < 2.2 and len(set(starts)) > 20
    assert 15 < sum(slope < 0 for slope in slopes) < 45
    np.testing.assert_allclose(steps, 1 / (0.5 + 1.5 * transforms.draws(60, 0, 0)[:, 0]), rtol=0.1)


def test_windows_of_nearly_one_class_are_drawn_again():
    classes = np.zeros((48, 48), dtype=np.uint8)
    classes[:, 24:] = 1

    def largest(rows):
        small = CROP.model_copy(update={"size": (12, 12)})
        seen = [transforms.view(coded_image(classes), classes, small, "scale-crop-flip", row)[1] for row in rows]
        return [np.bincount(s[s != IGNORE]).max() / (s != IGNORE).sum() for s in seen]

    rows = transforms.draws(40, 0, 0)
    rows[:, 0] = 1.0  # twice the size: windows see a quarter
    mixed = sum(share < transforms.SHARE for share in largest(rows))
    rows[:, transforms._WINDOWS] = np.tile(rows[:, transforms._WINDOWS][:, :2], transforms.TRIES)  # every try the same
    assert mixed > 35 > 25 > sum(share < transforms.SHARE for share in largest(rows))


def test_ignored_pixels_and_single_classes_are_no_trouble():
    for value in (IGNORE, 0):
        classes = np.full((30, 30), value, dtype=np.uint8)
        _, seen = transforms.view(Image.new("RGB", (30, 30)), classes, CROP, "scale-crop-flip-photo", ROW)
        assert set(np.unique(seen)) <= {value, IGNORE}


def test_photometric_distortion_changes_colours_only():
    classes = patches(40, 50)
    picture = Image.fromarray(np.random.default_rng(0).integers(40, 200, (40, 50, 3), dtype=np.uint8))
    same = 0
    for row in transforms.draws(40, 2, 0):
        plain, geometry = transforms.view(picture, classes, CROP, "scale-crop-flip", row)
        pixels, seen = transforms.view(picture, classes, CROP, "scale-crop-flip-photo", row)
        np.testing.assert_array_equal(seen, geometry)
        difference = np.abs(pixels.astype(int) - plain).max()
        same += difference == 0
        assert difference < 160
    assert 0 < same < 12  # one of 16 has no adjustment at all


def test_each_adjustment_is_torchvisions():
    picture = Image.fromarray(np.random.default_rng(0).integers(40, 200, (8, 8, 3), dtype=np.uint8))
    never, always = np.full(4, 0.9), np.full(4, 0.1)
    functional = transforms.functional
    for index, (adjust, low, high) in enumerate(transforms._ADJUSTMENTS):
        row = np.concatenate([np.where(np.arange(4) == index, 0.1, 0.9), np.full(4, 0.25), [0.2]])
        assert transforms._distorted(picture, row) == adjust(picture, low + (high - low) * 0.25)
    assert transforms._distorted(picture, np.concatenate([never, never, [0.2]])) == picture
    amounts = np.full(4, 0.75)
    bright = functional.adjust_brightness(picture, 1.0625)
    first = functional.adjust_hue(functional.adjust_saturation(functional.adjust_contrast(bright, 1.25), 1.25), 0.025)
    last = functional.adjust_contrast(functional.adjust_hue(functional.adjust_saturation(bright, 1.25), 0.025), 1.25)
    assert transforms._distorted(picture, np.concatenate([always, amounts, [0.2]])) == first
    assert transforms._distorted(picture, np.concatenate([always, amounts, [0.8]])) == last


def test_a_strip_does_not_fill_the_memory():
    height, width = transforms._scaled((6000, 10), (512, 512), 2.0)
    assert width == 2 * 4 * 512 and 1 <= height <= 512


# Batches


def everything(split, **options):
    """Images and masks by index, and the order seen."""
    batches = list(masked_batches(split, CROP, **options))
    images, masks, indices = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "masks", "indices"))
    order = indices.argsort()
    return images[order], masks[order], indices.tolist()


@settings(max_examples=15)
@given(count=st.integers(1, 12), batch_size=st.integers(1, 7), world=st.integers(1, 3), workers=st.integers(1, 3))
def test_every_image_once_whatever_the_sharing(count, batch_size, world, workers):
    split = drawn_split(count)
    options = {"batch_size": batch_size, "epoch": 2, "data_seed": 5}
    whole = list(masked_batches(split, CROP, **options))
    ranks = [list(masked_batches(split, CROP, rank=rank, world=world, workers=workers, **options)) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {len(whole)}
    for one, *parts in zip(whole, *ranks, strict=True):
        assert one.images.dtype == torch.uint8 and one.masks.dtype == one.indices.dtype == torch.int64
        assert one.images.shape == (len(one.indices), 3, 24, 24) and one.masks.shape == (len(one.indices), 24, 24)
        for name in ("images", "masks", "indices"):
            joined = torch.zeros_like(getattr(one, name))
            for rank, part in enumerate(parts):
                joined[rank::world] = getattr(part, name)
            assert torch.equal(joined, getattr(one, name))
    assert sorted(index for batch in whole for index in batch.indices.tolist()) == list(range(count))


def test_views_depend_on_seed_epoch_and_index_only():
    split = drawn_split(9)
    images, masks, order = everything(split, batch_size=4, epoch=1, data_seed=3)
    torch.manual_seed(77)
    np.random.seed(3)
    state = torch.get_rng_state()
    again = everything(drawn_split(9), batch_size=2, epoch=1, data_seed=3, workers=3)
    assert torch.equal(again[0], images) and torch.equal(again[1], masks) and again[2] == order
    assert torch.equal(torch.get_rng_state(), state)
    for other in ({"epoch": 2, "data_seed": 3}, {"epoch": 1, "data_seed": 4}):
        different = everything(split, batch_size=4, **other)
        assert not torch.equal(different[1], masks) and different[2] != order


def test_evaluation_sees_whole_images_and_original_masks():
    split = drawn_split(5)
    seen = {}
    for rank in range(2):
        for batch in whole_images(split, CROP, rank=rank, world=2):
            (index,) = batch.indices.tolist()
            assert batch.masks.dtype == torch.int64 and torch.equal(batch.masks[0], torch.from_numpy(split.mask(index).astype(np.int64)))
            expected = CROP.replaced(resize="short", crop_pct=1.0).resized(split.image(index))
            assert torch.equal(batch.images[0], to_tensor(expected)) and min(batch.images.shape[-2:]) == 24
            seen[index] = rank
    assert seen == {0: 0, 1: 1, 2: 0, 3: 1, 4: 0}


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"rank": 2, "world": 2}, {"workers": 0}, {"policy": "crop-flop"}, {"data_seed": -1}])
def test_bad_arguments_are_refused_at_once(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)) if "policy" not in wrong else "unknown augmentation 'crop-flop'"):
        masked_batches(drawn_split(2), CROP, **({"batch_size": 2, "epoch": 0} | wrong))


def test_one_value_means_ignore_everywhere():
    assert heads.IGNORE == IGNORE


def test_colours_can_be_told_apart():
    made = colours(255).astype(int)
    assert len(np.unique(made, axis=0)) == 255 and made.max(axis=1).min() > 100
    np.testing.assert_array_equal(colours(9), made[:9])
    few = colours(12).astype(int)
    assert min(np.abs(a - b).sum() for i, a in enumerate(few) for b in few[:i]) > 60
    picture = np.asarray(painted(np.array([[0, 2], [255, 1]], dtype=np.uint8), PALETTE))
    assert picture.tolist() == [[PALETTE[0].tolist(), PALETTE[2].tolist()], [[0, 0, 0], PALETTE[1].tolist()]]
