"""``promptvit evaluate`` and ``promptvit predict``: what a finished run or adapter gives."""

import json
import logging
import os
import sys

import pytest
from data.unusable import bad_files
from folders import fill
from helpers import command, one_line_error
from PIL import Image

import promptvit


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two good images, one of them in a sub-folder, and what a folder of photos also holds."""
    folder = tmp_path_factory.mktemp("photos")
    Image.new("RGB", (30, 20), (250, 30, 30)).save(folder / "red[1].png")
    (folder / "more").mkdir()
    Image.new("RGB", (20, 30), (30, 250, 30)).save(folder / "more" / "green.JPG")
    (folder / "notes.txt").write_text("no image")
    (folder / "._red.png").write_bytes(b"litter")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "thumb.png").write_bytes(b"litter")
    return folder


def test_evaluate_gives_the_runs_own_number(finished, promptvit_command):
    result = json.loads((finished / "result.json").read_text())
    scores = promptvit_command("evaluate", finished, "--json").json
    assert scores["accuracy"] == result["accuracy"] and scores["per_class_accuracy"] == result["per_class_accuracy"]
    assert (scores["split"], scores["images"], scores["dataset"]) == ("test", 3, "folder")
    outcome = promptvit_command("evaluate", finished, "--split", "train")
    assert outcome.code == 0 and "train: accuracy" in outcome.out and "of 15 images" in outcome.out


def test_evaluate_an_adapter_on_a_data_set_with_bad_files(finished, backbone, pets, tmp_path, promptvit_command):
    for index, split in enumerate(("train", "val", "test")):
        fill(tmp_path / split, {"cat": 2, "dog": 2, "emu": 2}, start=10 * index)
    (tmp_path / "test" / "cat" / "bad.png").write_bytes(b"")
    line = ["evaluate", finished / "adapter", "--backbone", backbone, "--data", "folder", "--data-root", tmp_path, "--json"]
    outcome = promptvit_command(*line)
    assert outcome.json["images"] == 6
    assert "skipped 1 file" in outcome.err and "test/cat/bad.png (empty file)" in outcome.err


def test_evaluate_refuses(finished, backbone, tmp_path, promptvit_command):
    assert "unknown split 'tets'; did you mean test" in promptvit_command("evaluate", finished, "--split", "tets").error
    assert "other classes" in promptvit_command("evaluate", finished, "--data", "digits").error
    assert "--data" in promptvit_command("evaluate", finished / "adapter", "--backbone", backbone).error
    assert "--backbone" in promptvit_command("evaluate", finished / "adapter", "--data", "digits").error
    assert "has no adapter_config.json" in promptvit_command("evaluate", tmp_path).error
    assert "no folder" in promptvit_command("evaluate", tmp_path / "none").error


def test_predict_files_and_folders(finished, photos, promptvit_command):
    model = promptvit.PromptedModel.from_pretrained(finished, backbone=_backbone_of(finished))
    outcome = promptvit_command("predict", finished, photos, "--top-k", 2)
    assert outcome.code == 0 and outcome.err == ""
    lines = dict(line.rsplit(": ", 1) for line in outcome.out.splitlines())
    files = [photos / "more" / "green.JPG", photos / "red[1].png"]
    assert list(lines) == [str(path) for path in files], "every image once, in order, no litter and no notes"
    for path in files:
        values, order = model.predict(Image.open(path)).probabilities[0].topk(2)
        expected = ", ".join(f"{model.classes[i]} {p:.1%}" for i, p in zip(order.tolist(), values.tolist(), strict=True))
        assert lines[str(path)] == expected


def test_predict_as_json(finished, photos, promptvit_command):
    outcome = promptvit_command("predict", finished, photos / "red[1].png", photos, "--top-k", 99, "--json")
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == 0 and len(rows) == 3 and rows[0] == rows[2]
    assert {item["class"] for item in rows[0]["top"]} == {"cat", "dog", "emu"}
    shares = [item["probability"] for item in rows[0]["top"]]
    assert shares == sorted(shares, reverse=True) and abs(sum(shares) - 1) < 1e-5


def test_unreadable_images_are_named_and_the_others_still_answered(finished, photos, tmp_path):
    """In a real process: results on standard output, what failed on standard error, a code that says so."""
    reasons = bad_files(tmp_path)
    paths = [tmp_path / name for name in reasons]
    result = command("predict", finished, photos / "red[1].png", *paths, tmp_path / "none.png")
    assert result.returncode == 1
    assert one_line_error(result).startswith(f"{len(reasons) + 1} of the images could not be read")
    assert [line.split(": ")[0] for line in result.stdout.splitlines()] == [str(photos / "red[1].png")]
    for name, reason in {**reasons, "none.png": "no such file"}.items():
        (line,) = [line for line in result.stderr.splitlines() if line.startswith(f"{tmp_path / name}: ")]
        assert reason in line


def test_unreadable_images_as_json(finished, photos, tmp_path, promptvit_command):
    (tmp_path / "empty.png").write_bytes(b"")
    outcome = promptvit_command("predict", finished, tmp_path, photos, "--json")
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert rows[0] == {"image": str(tmp_path / "empty.png"), "error": "empty file"} and len(rows) == 3
    assert outcome.code == 1 and outcome.error.startswith("1 of the images")


def test_predict_refuses(finished, photos, tmp_path, promptvit_command):
    assert "no image file in" in promptvit_command("predict", finished, tmp_path).error
    assert "no folder" in promptvit_command("predict", tmp_path / "none", photos).error
    message = promptvit_command("predict", finished / "adapter" / "adapter_config.json", photos).error
    assert "give an adapter folder" in message


def test_an_adapter_of_another_size_finds_its_backbone(backbone, photos, tmp_path, promptvit_command):
    """An adapter knows its image size; only the backbone's file has to be named."""
    resized = promptvit.load_backbone(backbone, image_size=48)
    promptvit.create_model(resized, "linear", 2, classes=["a", "b"]).save_pretrained(tmp_path / "adapter")
    outcome = promptvit_command("predict", tmp_path / "adapter", photos, "--backbone", backbone, "--json")
    assert outcome.code == 0 and len(outcome.out.splitlines()) == 2, outcome.err


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text exist on Linux only")
def test_names_that_are_no_text(finished, photos, tmp_path, promptvit_command):
    image = (photos / "red[1].png").read_bytes()
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(image)
    outcome = promptvit_command("predict", finished, tmp_path)
    assert outcome.code == 0 and "caf\\udce9.png: " in outcome.out, outcome.err
    row = json.loads(promptvit_command("predict", finished, tmp_path, "--json").out)
    assert row["image"] == str(tmp_path / name)


def test_class_names_are_shown_as_they_are(backbone, tmp_path, promptvit_command):
    root = fill(tmp_path / "pets", {"[red]fox": 7, "[owl": 7})
    out = tmp_path / "run"
    promptvit.train(backbone=backbone, method="linear", data="folder", data_root=str(root), epochs=1, out=str(out))
    outcome = promptvit_command("evaluate", out)
    assert outcome.code == 0 and "[red]fox" in outcome.out and "[owl" in outcome.out


def test_the_command_leaves_logging_as_it_was(promptvit_command):
    before = list(logging.getLogger("promptvit").handlers)
    promptvit_command("list", "methods")
    assert logging.getLogger("promptvit").handlers == before


def _backbone_of(run):
    import yaml

    return promptvit.load_backbone(yaml.safe_load((run / "config.yaml").read_text())["backbone"])
