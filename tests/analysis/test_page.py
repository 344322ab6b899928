"""``promptvit analyze`` on tiny runs: the page holds everything, escapes everything, and needs nothing else."""

import json
import re
from pathlib import Path

import pytest
from helpers import noise_images, tiny_backbone
from PIL import Image

from promptvit import train
from promptvit.cli.app import main
from promptvit.experiments.insight import analyze
from promptvit.experiments.insight.findings import labels_of
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


def test_bad_input_is_one_line(runs, tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path)], "holds no readable config.yaml"),
        ([runs[0], "--split", "nope"], "unknown split 'nope'"),
        ([runs[0], "--images", "3"], "--images"),
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
