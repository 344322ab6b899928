"""``promptvit train``: results, resuming, Ctrl-C, and everything a person can get wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import yaml
from data.unusable import bad_files
from folders import fill
from helpers import CONTRACT_FILES, command
from PIL import Image


@pytest.fixture
def train(promptvit_command, backbone, tmp_path):
    """The command with settings that take a second; the defaults come first, so that a test can replace each."""

    def run(*arguments, **options):
        given = {"backbone": backbone, "method": "vpt-shallow", "data": "folder", "epochs": 1, "num_prompts": 1, "out": tmp_path / "run"}
        pairs = [part for key, value in (given | options).items() for part in (f"--{key.replace('_', '-')}", value)]
        return promptvit_command("train", *pairs, *arguments)

    return run


def adapter(folder):
    return {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}


def test_a_folder_of_images_with_every_kind_of_bad_file(backbone, tmp_path):
    """In a real process: the run ends well, and says on standard error what was left out."""
    root = fill(tmp_path / "pets", {"cat": 7, "dog": 7})
    reasons = bad_files(root / "dog")
    out = tmp_path / "runs" / "pets"
    result = command(
        "train", "--backbone", backbone, "--method", "gapt", "--data", "folder", "--data-root", root, "--shots", 4, "--epochs", 2,
        "--lr", "0.01", "--set", "batch_size=4", "--set", "dropout=0.1", "--seed", 5, "--out", out, "--json",
    )
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed == json.loads((out / "result.json").read_text())
    assert (printed["status"], printed["method"], printed["dataset"], printed["epochs"], printed["seed"]) == ("ok", "gapt", "folder", 2, 5)
    assert {path.name for path in out.iterdir()} == CONTRACT_FILES
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["lr"], config["batch_size"], config["shots"], config["options"]["dropout"]) == (0.01, 4, 4, 0.1)
    (note,) = [line for line in result.stderr.splitlines() if line.startswith("skipped")]
    named = [name for name in reasons if f"dog/{name} (" in note]
    assert note.startswith(f"skipped {len(reasons)} files") and len(named) >= 5
    assert all(reasons[name] in note for name in named)
    assert "no val and test given" in result.stderr and "epoch 2/2" in result.stderr


def test_the_table_for_people(train, pets):
    outcome = train(data_root=pets)
    assert outcome.code == 0 and "vpt-shallow" in outcome.out and "folder" in outcome.out
    assert "cut out of train, 15% each" in outcome.err, "a split of ours is announced"
    assert "promptvit predict" in outcome.out.splitlines()[-1]


def test_shots_and_repeated_set(train, tmp_path):
    outcome = train("--set", "select=last", "--set", "precision=no", "--json", data="digits", shots=2, out=tmp_path / "run")
    assert outcome.json["dataset"] == "digits" and list(outcome.json["per_class_accuracy"]) == [str(digit) for digit in range(10)]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["shots"], config["select"], config["precision"]) == (2, "last", "no")


def test_ctrl_c_is_said_and_can_be_resumed(backbone, pets, tmp_path, promptvit_command):
    line = ["train", "--backbone", backbone, "--method", "vpt-shallow", "--data", "folder", "--data-root", pets, "--epochs", 60]
    line += ["--set", "batch_size=2"]
    folder = tmp_path / "stopped"
    started = [sys.executable, "-m", "promptvit", *map(str, line), "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs, this test's parent perhaps, ignore it
    with subprocess.Popen(
        started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heard
    ) as process:
        deadline = time.monotonic() + 240
        while process.poll() is None and not (folder / "checkpoint" / "state.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err and err.splitlines()[-1].startswith("interrupted") and "--resume" in err and out == ""
    assert not (folder / "result.json").exists() and (folder / "checkpoint" / "state.pt").exists()
    assert "has no adapter_config.json" in promptvit_command("evaluate", folder).error
    resumed = promptvit_command(*line, "--out", folder, "--resume", "--json")
    whole = promptvit_command(*line, "--out", tmp_path / "whole", "--json")
    times = {"train_seconds", "images_per_second"}
    assert {k: v for k, v in resumed.json.items() if k not in times} == {k: v for k, v in whole.json.items() if k not in times}
    assert adapter(folder) == adapter(tmp_path / "whole")


def test_a_full_disk_loses_no_finished_epoch(train, pets, tmp_path, monkeypatch):
    from promptvit.training.run import RunFolder

    save, saved = RunFolder.save_state, []

    def full(self, state, history):
        if saved:
            raise OSError(errno.ENOSPC, "No space left on device", "state.pt")
        saved.append(history)
        save(self, state, history)

    monkeypatch.setattr(RunFolder, "save_state", full)
    assert "No space left on device" in train(data_root=pets, epochs=3).error
    monkeypatch.setattr(RunFolder, "save_state", save)
    assert train("--resume", "--json", data_root=pets, epochs=3).json["epochs"] == 3
    train(data_root=pets, epochs=3, out=tmp_path / "whole")
    assert adapter(tmp_path / "run") == adapter(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "vpt-dep"}, ["unknown method 'vpt-dep'", "vpt-deep"]),
        ({"backbone": "mae-tinny"}, ["unknown backbone 'mae-tinny'", "promptvit list backbones"]),
        ({"backbone": "vit_base_patch16_224.mea"}, ["vit_base_patch16_224"]),
        ({"backbone": "weights/none.pth"}, ["no file or folder", "weights/none.pth"]),
        ({"data": "digts"}, ["unknown data set 'digts'", "digits"]),
        ({"data": "folder"}, ["--data-root"]),
        ({"init": "kmean"}, ["init"]),
        ({"set": "num_promts=3"}, ["num_promts", "num_prompts"]),
        ({"set": "resume=true"}, ["resume"]),
        ({"set": "loaded_backbone=x"}, ["loaded_backbone"]),
        ({"set": "precision=bf61"}, ["precision", "bf16"]),
        ({"set": "epochs"}, ["key=value", "epochs"]),
        ({"epochs": 0}, ["epochs", "0"]),
        ({"lr": -1}, ["lr", "-1"]),
        ({"shots": 0}, ["shots", "0"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"num_prompts": 0}, ["num_prompts", "0"]),
        ({"image_size": 33, "data": "digits"}, ["image_size", "33", "patch size"]),
    ],
)
def test_unknown_names_and_values(change, words, train, tmp_path):
    outcome = train(**{"data": "digits", **change})
    assert outcome.code == 1 and len(outcome.err.splitlines()) == 1
    assert all(word in outcome.error for word in words), outcome.error
    assert not (tmp_path / "run").exists(), "nothing was written"


def test_no_network_and_no_cached_weights(train, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    for name in ("vit_tiny_patch16_224", "hf:nobody/nothing"):
        message = train(data="digits", backbone=name).error
        assert "give" in message and name in message


def test_a_folder_that_cannot_be_written(train, pets, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    assert "is a file" in train(data_root=pets, out=tmp_path / "file").error
    message = train(data_root=pets, out=tmp_path / "file" / "run").error
    assert "cannot write to" in message and "file/run" in message and "choose another folder" in message
    assert (tmp_path / "file").read_text() == "mine"

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("promptvit.files.tempfile.mkstemp", denied)
    message = train(data_root=pets, out=tmp_path / "readonly").error
    assert "cannot write to" in message and "readonly" in message and "Permission denied" in message


def test_a_run_folder_that_is_not_empty(train, pets, finished, tmp_path):
    before = adapter(finished)
    assert "already holds a run; pass --resume" in train(data_root=pets, out=finished).error
    assert "other settings" in train("--resume", data_root=pets, out=finished, lr=0.5).error
    assert adapter(finished) == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    for arguments in ((), ("--resume",)):
        assert "not empty and holds no run" in train(*arguments, data_root=pets, out=tmp_path / "thesis").error
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_resume_without_a_run_starts_one(train, pets):
    assert train("--resume", "--json", data_root=pets).json["epochs"] == 1


def test_strict_names_the_bad_files_and_trains_nothing(train, tmp_path):
    root = fill(tmp_path / "pets", {"cat": 7, "dog": 7})
    reasons = bad_files(root / "cat")
    outcome = train("--strict", data_root=root)
    assert outcome.code == 1 and all(f"cat/{name}" in outcome.error for name in reasons)
    assert not (tmp_path / "run").exists()


def test_classes_that_cannot_be_used(train, tmp_path):
    root = fill(tmp_path / "pets", {"cat": 7, "dog": 7})
    (root / "emu").mkdir()
    assert "class 'emu' has no usable image" in train(data_root=root).error
    (root / "emu" / "0.png").write_bytes(b"")
    message = train(data_root=root).error
    assert "class 'emu' has no usable image" in message and "emu/0.png (empty file)" in message
    Image.new("RGB", (9, 9)).save(root / "emu" / "1.png")
    message = train(data_root=root).error
    assert "only one usable image in class 'emu'" in message and "add images" in message


def test_a_class_in_test_but_not_in_train(train, tmp_path):
    fill(tmp_path / "pets" / "train", {"cat": 6, "dog": 6})
    fill(tmp_path / "pets" / "test", {"cat": 2, "yak": 2}, start=10)
    message = train(data_root=tmp_path / "pets").error
    assert "class 'yak' is in test but not in train" in message


def test_one_image_classes_with_given_splits(train, tmp_path):
    for start, split in enumerate(("train", "val", "test")):
        fill(tmp_path / "pets" / split, {"cat": 1, "dog": 1}, start)
    outcome = train("--json", data_root=tmp_path / "pets")
    assert outcome.json["status"] == "ok" and "cut out of train" not in outcome.err


def test_roots_that_are_no_data_set(train, tmp_path):
    assert "no folder" in train(data_root=tmp_path / "none").error
    (tmp_path / "empty").mkdir()
    assert "ROOT/CLASS/IMAGE" in train(data_root=tmp_path / "empty").error


def test_a_loss_that_is_no_number(train, pets, tmp_path):
    message = train(data_root=pets, lr="1e30", epochs=6).error
    assert "the loss became" in message and "lower lr" in message
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "diverged"
