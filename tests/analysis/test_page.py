"""``promptvit analyze`` on tiny runs: the page holds everything, escapes everything, and needs nothing else."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from helpers import noise_images, tiny_backbone
from matplotlib.figure import Figure
from PIL import Image

from promptvit import create_model, load_backbone, train
from promptvit.cli.app import main
from promptvit.experiments.insight import analyze
from promptvit.experiments.insight.attention import blocks_and_heads
from promptvit.experiments.insight.chapters import Album
from promptvit.experiments.insight.findings import labels_of, looking
from promptvit.training import resolve
from promptvit.training.run import read_settings

CLASSES = ("<script>alert(1)<", "$x^{$ & \"co\"")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of gapt, one with a record, and one run each of sa2vp and linear, on two badly named classes."""
    folder = tmp_path_factory.mktemp("runs")
    levels = {f"{name}/{i}<b>.png": 128 + 127 * label for label, name in enumerate(CLASSES) for i in range(20)}
    noise_images(folder / "data", levels)
    backbone = tiny_backbone(folder / "backbone")
    found = []
    for method, seed, more in (("gapt", 0, {"record": True}), ("gapt", 1, {}), ("sa2vp", 0, {}), ("linear", 0, {})):
        out = folder / f"{method}{seed}"
        given = {"num_prompts": 3} if method == "gapt" else {}
        train(backbone=backbone, method=method, data="folder", data_root=str(folder / "data"), epochs=2, seed=seed, out=str(out),
              **given, **more)
        found.append(str(out))
    return found


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("analysis")
    return out, analyze(runs, out, split="train", images=16, examples=2)


def test_the_page_needs_nothing_and_runs_nothing(made):
    out, _ = made
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;" in page
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", page)
    pictures = sorted(out.glob("*.png"))
    assert page.count("data:image/png;base64,") == len(pictures) >= 12
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 100


def test_the_numbers_are_all_there_and_are_json(made):
    out, result = made
    stored = json.loads((out / "analysis.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert stored == json.loads(json.dumps(result))
    assert set(stored["methods"]) == {"gapt", "sa2vp", "linear"}
    gapt = stored["methods"]["gapt"]
    assert gapt["forgetting"]["seeds"] == 2 and gapt["forgetting"]["half_95"][0] is not None
    first = gapt["runs"][0]
    assert sum(map(sum, first["confusion"])) == first["images"] == 16
    assert [line["epoch"] for line in first["likeness_by_epoch"]] == [0, 1, 2]
    assert {loss["part"] for loss in first["sensitivity"]} == {"prompts 0", "prompts 1", "gate 0", "temperatures"}
    assert {one["title"] for one in first["learned"]} >= {"Gates", "Attention temperatures"}
    linear = stored["methods"]["linear"]["runs"][0]
    assert linear["attention_on_prompts"] is None and linear["sensitivity"] == []


def test_the_same_draw_gives_the_same_numbers(runs, tmp_path, made):
    again = analyze(runs[:1], tmp_path, split="train", images=16, examples=2)
    assert again["methods"]["gapt"]["runs"][0] == made[1]["methods"]["gapt"]["runs"][0]


def test_a_record_goes_on_where_it_was(runs, tmp_path):
    settings = read_settings(Path(runs[0])).model_dump() | {"data_seed": 3}
    train(**settings | {"out": str(tmp_path / "whole")})
    train(**settings | {"out": str(tmp_path / "parts")}, stop_after=1)
    train(**settings | {"out": str(tmp_path / "parts")}, resume=True)
    whole, parts = ((tmp_path / name / "record.jsonl").read_text() for name in ("whole", "parts"))
    assert whole == parts and len(whole.splitlines()) == 3


def test_runs_on_other_classes_are_refused(runs, tmp_path):
    settings = read_settings(Path(runs[3]))
    noise_images(tmp_path / "data", {f"{name}/{i}.png": 128 for name in "ab" for i in range(20)})
    other = settings.model_dump() | {"data_root": str(tmp_path / "data"), "out": str(tmp_path / "other"), "epochs": 1}
    train(**other)
    with pytest.raises(ValueError, match="other classes"):
        analyze([runs[3], other["out"]], tmp_path / "page", split="train", images=8, examples=1)


def test_bad_input_is_one_line(runs, tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path)], "holds no readable config.yaml"),
        ([runs[0], "--split", "nope"], "unknown split 'nope'"),
        ([runs[0], "--images", "3"], "--images"),
        ([runs[0], "--split", "val"], "8 are needed"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["analyze", *arguments, "--out", str(tmp_path / "out")])
        assert stopped.value.code not in (0, None)
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_labels_tell_runs_apart_by_what_differs():
    given = {"backbone": "mae-tiny", "data": "digits"}
    several = [resolve(method="gapt", seed=0, **given), resolve(method="gapt", seed=1, **given), resolve(method="linear", **given)]
    assert labels_of(several) == ["gapt", "gapt", "linear"]
    other = [*several, resolve(method="gapt", num_prompts=50, **given)]
    assert labels_of(other)[3] == "gapt (num_prompts=50)"


def test_runs_on_two_backbones_whose_folders_end_alike_are_two_methods():
    backbones = ("runs/mae/export", "runs/moco/export", "mae-tiny")
    found = labels_of([resolve(method="gapt", data="digits", backbone=backbone) for backbone in backbones])
    assert found == ["gapt (backbone=mae/export)", "gapt (backbone=moco/export)", "gapt (backbone=mae-tiny)"]


def test_every_figure_has_a_file_of_its_own(tmp_path):
    album = Album(tmp_path)
    names = ("x=1", "x=1.3", "x=-1", "x=1", 300 * "long", 300 * "long")
    paths = [album.add(Figure(figsize=(1, 1)), name, "", "")[0].path for name in names]
    assert [path.name for path in paths[:4]] == ["x-1.png", "x-1-3.png", "x-1-2.png", "x-1-4.png"]
    assert len(set(paths)) == len(names) and all(path.is_file() for path in paths)


def test_letters_that_the_font_lacks_are_no_warning(tmp_path):
    figure = Figure(figsize=(1, 1))
    figure.suptitle("五")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Album(tmp_path).add(figure, "five", "", "")[0].path.is_file()


def test_maps_of_prompts_name_the_blocks_that_see_prompts(tmp_path):
    model = create_model(load_backbone(tiny_backbone(tmp_path)), "vpt-deep", 2, num_prompts=3, last=1).eval()
    looks = looking(model, torch.zeros(1, 3, *model.preprocessing.size), None)
    last = model.backbone.depth - 1
    assert list(looks.maps["prompts"]) == [last] and list(looks.maps[looks.asking]) == list(range(last + 1))
    axes = blocks_and_heads(looks, "prompts").axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [str(last)]
