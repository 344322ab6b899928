"""The drawn sets: fixed, balanced, apart, and their labels are what the pictures show."""

import colorsys
import math
import subprocess
import sys
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from helpers import command, one_line_error, tiny_backbone
from PIL import Image
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import promptvit
from promptvit.data import list_datasets, load_dataset
from promptvit.data.augment import POLICIES
from promptvit.data.proc import fine_grained, scenery, sets, solids, structured
from promptvit.data.proc.rolls import Rolls
from promptvit.data.proc.sets import SETS, SIZES, pictures

GROUPS = {"fine-grained", "natural", "specialised", "structured"}
STRUCTURED = [name for name, made in SETS.items() if name.startswith("proc/") and made.group == "structured"]


@pytest.fixture
def bare(monkeypatch):
    """Objects on black, without noise, negatives and other things: a function that draws so, with the labels."""
    monkeypatch.setattr(scenery, "sensed", lambda rolls, images, **options: images.clamp(0, 1))
    monkeypatch.setattr(scenery, "backdrop", lambda rolls, points: torch.zeros(rolls.count, 3, *points.shape[:2], dtype=torch.float64))
    monkeypatch.setattr(scenery, "panel", lambda rolls, images, points: images)
    monkeypatch.setattr(structured, "_clutter", lambda rolls, images, points, hue: images)

    def draw(name, count, side=128):
        return pictures(name, "test", 0, count, side).astype(float) / 255, sets.labels(SETS[name], 0, count).tolist()

    return draw


def centre_of(mask):
    """Centre of mass in canvas units, x and y."""
    y, x = ndimage.center_of_mass(mask)
    return ((np.array([x, y]) + 0.5) * 2 / mask.shape[0]) - 1


def test_sets_are_listed_and_grouped():
    assert set(SETS) <= set(list_datasets())
    assert {made.group for made in SETS.values()} == GROUPS
    assert set(STRUCTURED) == {f"proc/{task}" for task in ("count", "distance", "orientation", "location", "azimuth", "elevation")}
    assert Counter(made.group for name, made in SETS.items() if name.startswith("proc/"))["fine-grained"] == 5
    development = [made.group for name, made in SETS.items() if name.startswith("proc-dev/")]
    assert Counter(development) == {"fine-grained": 1, "natural": 1, "specialised": 1, "structured": 3}


@pytest.mark.parametrize("name", SETS)
def test_splits_are_fixed_balanced_and_named(name):
    dataset, made = load_dataset(name, data_seed=7), SETS[name]
    assert (dataset.classes, dataset.resize) == (list(made.classes), "direct")
    assert len(set(dataset.classes)) == len(dataset.classes) and dataset.augment in POLICIES
    assert made.group != "structured" or dataset.augment == "none"  # a mirrored or shifted picture has another label
    assert {split: len(part) for split, part in dataset.splits.items()} == SIZES
    for split, part in dataset.splits.items():
        assert Counter(part.labels) == dict.fromkeys(range(len(made.classes)), len(part) / len(made.classes))
        assert part.identifier(12) == f"{name}/v{made.version}/{split}/12"


def test_families_share_no_generator():
    families = [{made.draw for name, made in SETS.items() if name.startswith(family)} for family in ("proc/", "proc-dev/")]
    assert not families[0] & families[1] and sum(map(len, families)) == len(SETS)
    modules = [{draw.__module__ for draw in draws} for draws in families]
    assert not modules[0] & modules[1]


@pytest.mark.parametrize("name", SETS)
def test_an_image_does_not_depend_on_its_batch(name):
    several = pictures(name, "val", 3, 6)
    assert several.shape == (6, 64, 64, 3) and several.dtype == np.uint8
    for index in (3, 8):
        np.testing.assert_array_equal(pictures(name, "val", index, 1)[0], several[index - 3])
    assert (pictures(name, "val", 3, 6) == several).all()


def test_another_process_with_other_threads_draws_the_same():
    code = "import torch, sys; torch.set_num_threads(3); from promptvit.data.proc.sets import SETS, pictures; " \
        "sys.stdout.buffer.write(b''.join(pictures(name, 'test', 40, 3).tobytes() for name in SETS))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=300).stdout
    assert other == b"".join(pictures(name, "test", 40, 3).tobytes() for name in SETS)


def test_chunks_are_what_single_draws_give():
    split = load_dataset("proc/orientation").splits["train"]
    for index in (0, 49, 50, 799):
        np.testing.assert_array_equal(split.items[index], pictures("proc/orientation", "train", index, 1)[0])
    assert split.image(5).size == (64, 64) and split.image(5).mode == "RGB"


def test_no_image_is_in_two_splits():
    for name in SETS:
        drawn = [image.tobytes() for split in SIZES for image in pictures(name, split, 0, 12)]
        assert len(set(drawn)) == len(drawn), name
    whole = [image.tobytes() for split in SIZES for image in pictures("proc/orientation", split, 0, SIZES[split], 32)]
    assert len(set(whole)) == sum(SIZES.values())


def test_shots_follow_data_seed_and_leave_the_rest_alone():
    first, other = (load_dataset("proc/sounds", shots=3, data_seed=seed) for seed in (1, 2))
    assert len(first.splits["train"]) == 3 * 8 and first.splits["train"].identifiers != other.splits["train"].identifiers
    assert first.splits["test"].identifiers == other.splits["test"].identifiers
    place = int(first.splits["train"].identifier(4).rsplit("/", 1)[1])
    np.testing.assert_array_equal(first.splits["train"].items[4], pictures("proc/sounds", "train", place, 1)[0])


def test_rolls_are_even_apart_and_counted():
    rolls, again = Rolls("a", 0, 400), Rolls("a", 0, 400)
    first, second = rolls.uniform(-1, 1, 50), rolls.uniform(-1, 1, 50)
    assert torch.equal(first, again.uniform(-1, 1, 50)) and not torch.equal(first, second)
    assert abs(first.mean()) < 0.02 and abs(first.var() - 1 / 3) < 0.02 and first.min() >= -1 and first.max() < 1
    assert not torch.equal(first, Rolls("b", 0, 400).uniform(-1, 1, 50))
    noise = rolls.noise(50)
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    assert set(rolls.choice(3, 20).unique().tolist()) == {0, 1, 2}
    assert torch.equal(rolls.order(7).sort(dim=1).values, torch.arange(7).expand(400, -1))
    assert 0.2 < rolls.chance(0.25, 40).double().mean() < 0.3
    lone = Rolls("a", 17, 1)
    assert torch.equal(lone.uniform(-1, 1, 50)[0], first[17]) and torch.equal(lone.uniform(-1, 1, 50)[0], second[17])


# What the pictures show, measured without the code that drew them


def test_count_is_the_number_of_objects(bare):
    images, labels = bare("proc/count", 160)
    found = [ndimage.label(image.max(axis=-1) > 0.3, np.ones((3, 3)))[1] for image in images]
    assert found == [label + 1 for label in labels]


def test_columns_are_counted_along_a_row(bare):
    images, labels = bare("proc-dev/columns", 60, side=256)
    for image, label in zip(images, labels, strict=True):
        ground = image[2, 2]
        profile = (np.abs(image - ground).sum(axis=-1) > 0.05).any(axis=0).astype(int)
        assert (np.diff(profile) == 1).sum() == label + 2


def test_distance_is_measured_between_centres(bare):
    images, labels = bare("proc/distance", 100)
    for image, label in zip(images, labels, strict=True):
        parts, number = ndimage.label(image.max(axis=-1) > 0.4)
        assert number == 2
        gap = np.linalg.norm(centre_of(parts == 1) - centre_of(parts == 2)) / 2  # share of the picture's side
        assert abs(gap - float(structured.DISTANCES[label].split()[0]) / 100) < 0.04


def test_location_is_where_the_bulls_eye_lies(bare, monkeypatch):
    monkeypatch.setattr(structured, "_polygon", lambda rolls, points, *_: torch.full((rolls.count, *points.shape[:2]), math.inf))
    images, labels = bare("proc/location", 100)
    for image, label in zip(images, labels, strict=True):
        column, row = np.floor((centre_of(image.max(axis=-1) > 0.4) / 0.9 + 1) * 2.5).astype(int)
        assert structured.PLACES[label] == f"{'ABCDE'[column]}{row + 1}"


def test_orientation_is_where_the_narrow_end_points(bare, monkeypatch):
    monkeypatch.setattr(structured, "_polygon", lambda rolls, points, *_: torch.full((rolls.count, *points.shape[:2]), math.inf))
    images, labels = bare("proc/orientation", 100)
    for image, label in zip(images, labels, strict=True):
        y, x = np.nonzero(image.max(axis=-1) > 0.4)
        places = np.stack([x, y]) - np.array([[x.mean()], [y.mean()]])
        axis = np.linalg.svd(places, full_matrices=False)[0][:, 0]
        axis = axis * np.sign(((axis @ places) ** 3).sum())  # the tail of the distribution is the narrow end
        assert round(math.atan2(axis[1], axis[0]) / (math.pi / 4)) % 8 == label
    assert structured.HEADINGS[0] == "E" and structured.HEADINGS[2] == "S"  # angles turn clockwise on a picture


def test_palettes_hues_are_as_far_apart_as_named(bare):
    images, labels = bare("proc/palettes", 60, side=64)
    for image, label in zip(images, labels, strict=True):
        tiles = np.unique(image.reshape(-1, 3), axis=0)
        hues = [colorsys.rgb_to_hsv(*tile)[0] for tile in tiles]
        widest = max(abs((a - b + 0.5) % 1 - 0.5) for a, b in combinations(hues, 2))
        assert abs(widest * 360 - 45 * label) < 24


def look(part, degrees_round, degrees_up):
    """A white part on black as a camera sees it: ``[h, w]`` brightness."""
    points = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 81, dtype=torch.float64)] * 2, indexing="xy"), dim=-1)[None]
    one = torch.ones(1, 1, 3, dtype=torch.float64)
    turn, rise = (torch.tensor([math.radians(angle)], dtype=torch.float64) for angle in (degrees_round, degrees_up))
    sky = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    return solids.render(torch.zeros(1, 3, 81, 81, dtype=torch.float64), points, (part,), one, one, turn, rise, sky)[0, 0].numpy()


@pytest.mark.parametrize("boxed", [False, True])
def test_cameras_stand_where_azimuth_and_elevation_say(boxed):
    nose = solids.Part(boxed, (0.6, 0, 0), (0.1, 0.1, 0.1))
    top = solids.Part(boxed, (0, 0, 0.6), (0.1, 0.1, 0.1))
    np.testing.assert_allclose(centre_of(look(nose, 0, 0) > 0), [0, 0], atol=0.03)  # from the front
    np.testing.assert_allclose(centre_of(look(nose, 90, 0) > 0), [-0.6, 0], atol=0.03)  # from its left its nose is to our left
    np.testing.assert_allclose(centre_of(look(nose, 0, 60) > 0), [0, 0.6 * math.sin(math.pi / 3)], atol=0.03)  # from above: lower
    np.testing.assert_allclose(centre_of(look(top, 45, 0) > 0), [0, -0.6], atol=0.03)
    assert look(top, 0, 90).max() > 0.95 > 0.5 > look(top, 0, 0)[:20].min()  # the light from above is seen from above
    assert (solids.AZIMUTHS[2], solids.AZIMUTHS[0]) == ("left", "front")


def test_glyphs_are_all_different():
    assert len({frozenset(tuple(sorted(map(tuple, line))) for line in glyph) for glyph in fine_grained.ALPHABET.tolist()}) == 40


@pytest.mark.parametrize("name", STRUCTURED)
def test_colour_statistics_do_not_give_the_label_away(name):
    made = SETS[name]

    def table(split, count):
        values = pictures(name, split, 0, count, 32).astype(float)
        return np.concatenate([values.mean(axis=(1, 2)), values.std(axis=(1, 2))], axis=1), sets.labels(made, 0, count)

    readout = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(*table("train", 800))
    assert readout.score(*table("test", 1000)) < 1 / len(made.classes) + 0.1


def test_a_run_on_a_drawn_set(tmp_path):
    result = promptvit.train(
        backbone=tiny_backbone(tmp_path / "backbone"), method="linear", data="proc/palettes", epochs=1, out=tmp_path / "run"
    ).result
    assert (result["dataset"], result["split"], result["status"]) == ("proc/palettes", "test", "ok")


def test_show_draws_a_contact_sheet(tmp_path):
    out = tmp_path / "sheet.png"
    shown = command("data", "show", "proc/sounds", "--out", out, "--examples", 2, "--tile", 40)
    assert shown.returncode == 0, shown.stderr
    with Image.open(out) as sheet:
        assert sheet.format == "PNG" and sheet.width == 8 * 44 + 4 and sheet.height > 2 * 40
        first = np.asarray(sheet.convert("RGB"))[-92:-52, 4:44].astype(float)
    wanted = np.asarray(load_dataset("proc/sounds").splits["train"].image(0).resize((40, 40), Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(first - wanted).mean() < 8  # 256 colours
    assert "split" in one_line_error(command("data", "show", "proc/sounds", "--out", out, "--split", "tset"))


# Average brightness of the four quarters of one image per set and channel. A change here is a change of the benchmark: it needs a
# new version of the family, never just new numbers.
SIGNATURES: dict[str, list[int]] = {
    "proc/flowers": [90, 68, 52, 100, 72, 52, 81, 67, 55, 74, 56, 48],
    "proc/beetles": [148, 133, 145, 141, 125, 137, 151, 137, 148, 171, 147, 166],
    "proc/emblems": [199, 205, 211, 205, 214, 218, 196, 202, 209, 205, 207, 216],
    "proc/glyphs": [195, 209, 210, 194, 207, 205, 204, 213, 211, 191, 206, 206],
    "proc/cars": [114, 109, 109, 115, 109, 108, 159, 145, 143, 160, 144, 142],
    "proc/textures": [120, 175, 199, 117, 171, 199, 113, 169, 197, 120, 172, 200],
    "proc/palettes": [99, 46, 159, 120, 26, 155, 81, 26, 143, 124, 42, 130],
    "proc/skylines": [144, 187, 205, 142, 186, 204, 57, 80, 89, 56, 79, 88],
    "proc/nuclei": [195, 155, 202, 194, 154, 202, 180, 143, 191, 170, 136, 183],
    "proc/sounds": [84, 8, 52, 71, 7, 45, 83, 17, 44, 88, 15, 49],
    "proc/count": [219, 224, 223, 209, 225, 229, 207, 213, 208, 200, 207, 202],
    "proc/distance": [185, 195, 216, 176, 211, 213, 180, 191, 200, 177, 210, 213],
    "proc/orientation": [33, 33, 30, 41, 37, 27, 29, 31, 23, 47, 43, 30],
    "proc/location": [65, 61, 67, 43, 37, 34, 43, 39, 37, 47, 40, 37],
    "proc/azimuth": [202, 214, 217, 214, 218, 217, 201, 217, 228, 212, 213, 213],
    "proc/elevation": [60, 74, 61, 58, 75, 61, 59, 71, 58, 67, 52, 63],
    "proc-dev/leaves": [107, 142, 88, 112, 140, 90, 137, 165, 110, 133, 166, 108],
    "proc-dev/grains": [152, 179, 126, 131, 144, 75, 133, 147, 80, 155, 183, 132],
    "proc-dev/landforms": [67, 130, 117, 68, 128, 117, 77, 138, 114, 74, 140, 115],
    "proc-dev/columns": [102, 102, 64, 98, 99, 60, 127, 120, 93, 124, 123, 90],
    "proc-dev/dials": [120, 61, 68, 86, 54, 61, 111, 58, 64, 66, 50, 60],
    "proc-dev/lamps": [80, 76, 74, 89, 79, 78, 70, 69, 71, 84, 91, 64],
}


def signature(name):
    image = pictures(name, "test", 11, 1)[0].astype(float)
    return image.reshape(2, 32, 2, 32, 3).mean(axis=(1, 3)).ravel()


@pytest.mark.parametrize("name", SETS)
def test_pictures_never_change(name):
    assert np.abs(signature(name) - SIGNATURES[name]).max() < 1
