"""A run from settings to a scored adapter: files, numbers, resume after a kill, divergence."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from helpers import CONTRACT_FILES, scripted_scores, tiny_backbone

import promptvit
from promptvit.training import Diverged
from promptvit.training.optimization import build_optimizer, schedule

EPOCH_KEYS = ["epoch", "train_loss", "train_accuracy", "val_accuracy", "lr", "seconds"]
RESULT_KEYS = {
    "method",
    "reading",
    "backbone",
    "fingerprint",
    "dataset",
    "seed",
    "data_seed",
    "split",
    "train_on",
    "select",
    "accuracy",
    "val_accuracy",
    "per_class_accuracy",
    "num_trainable",
    "num_total",
    "epochs",
    "train_seconds",
    "images_per_second",
    "settings_hash",
    "status",
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


def run(backbone, out, method="gapt", **settings):
    return promptvit.train(
        backbone=backbone, method=method, data="digits", out=str(out), **{"shots": 3, "epochs": 2, "batch_size": 16, **settings}
    )


def numbers(folder):
    """Everything in a run folder that must not depend on time."""
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in (result, *lines):
        for key in ("seconds", "train_seconds", "images_per_second"):
            record.pop(key, None)
    adapter = {file.name: file.read_bytes() for file in sorted((folder / "adapter").iterdir())}
    return result, lines, adapter


def test_a_run_folder_holds_what_the_contract_says(backbone, tmp_path):
    finished = run(backbone, tmp_path / "run", method="lspt")
    folder = finished.run_dir
    assert {path.name for path in folder.iterdir()} == CONTRACT_FILES
    assert {path.name for path in (folder / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    result = json.loads((folder / "result.json").read_text())
    assert result == finished.result and result.keys() == RESULT_KEYS
    assert result["status"] == "ok" and result["reading"] == "v1" and result["split"] == "test"
    assert 0 <= result["accuracy"] <= 1 and list(result["per_class_accuracy"]) == [str(d) for d in range(10)]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [EPOCH_KEYS] * 2 and [line["epoch"] for line in lines] == [1, 2]
    assert result["val_accuracy"] == max(line["val_accuracy"] for line in lines)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["options"]["cell"] == "lstm" and config["data_seed"] == 0 and config["augment"]


def test_the_same_run_twice_gives_the_same_bytes(backbone, tmp_path):
    first = run(backbone, tmp_path / "a", dropout=0.2)
    torch.rand(7)  # the global random state of the caller has no say
    second = run(backbone, tmp_path / "b", dropout=0.2)
    assert numbers(first.run_dir) == numbers(second.run_dir)
    other = run(backbone, tmp_path / "c", dropout=0.2, seed=1)
    assert numbers(other.run_dir)[2] != numbers(first.run_dir)[2]


def test_the_adapter_gives_the_runs_accuracy_again(backbone, tmp_path):
    from promptvit.experiments.use import evaluate_run

    finished = run(backbone, tmp_path / "run", method="vpt-deep")
    again = evaluate_run(str(finished.run_dir))
    assert again["accuracy"] == finished.result["accuracy"]
    assert again["per_class_accuracy"] == finished.result["per_class_accuracy"]


def test_training_learns(tmp_path):
    """Full tuning fits a few digits, far above chance: the loop moves weights the right way."""
    finished = promptvit.train(
        backbone=tiny_backbone(tmp_path / "backbone"),
        method="full",
        data="digits",
        shots=10,
        epochs=60,
        batch_size=10,
        lr=4e-3,
        augment="none",
        out=str(tmp_path / "run"),
        select="last",
    )
    lines = (finished.run_dir / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["train_accuracy"] > 0.9 and finished.result["accuracy"] > 0.4


def test_killed_at_random_moments_and_resumed_equals_uninterrupted(backbone, tmp_path):
    settings = {"method": "gapt", "shots": 8, "epochs": 5, "batch_size": 8, "dropout": 0.1}
    whole = run(backbone, tmp_path / "whole", **settings)
    folder = tmp_path / "killed"
    line = [
        sys.executable,
        "-m",
        "promptvit",
        "train",
        "--backbone",
        backbone,
        "--method",
        "gapt",
        "--data",
        "digits",
        "--shots",
        "8",
        "--epochs",
        "5",
        "--set",
        "batch_size=8",
        "--set",
        "dropout=0.1",
        "--out",
        str(folder),
        "--resume",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    chance = random.Random(0)
    for _ in range(2):
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        done = len((folder / "metrics.jsonl").read_text().splitlines()) if (folder / "metrics.jsonl").exists() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:  # let it get one epoch further, then a random moment on
            if (folder / "metrics.jsonl").exists() and len((folder / "metrics.jsonl").read_text().splitlines()) > done:
                time.sleep(chance.random() * 0.3)
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    assert numbers(folder) == numbers(whole.run_dir)


def test_resuming_a_finished_run_changes_nothing(backbone, tmp_path):
    finished = run(backbone, tmp_path / "run")
    before = numbers(finished.run_dir)
    again = run(backbone, tmp_path / "run", resume=True)
    assert numbers(again.run_dir) == before


def test_a_run_folder_is_never_overwritten(backbone, tmp_path):
    run(backbone, tmp_path / "run")
    with pytest.raises(FileExistsError, match="--resume"):
        run(backbone, tmp_path / "run")
    with pytest.raises(ValueError, match=r"\(lr: 0.02 then, 0.5 now\)"):  # where and how fast may change
        run(backbone, tmp_path / "run", resume=True, lr=0.5, workers=3)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="not empty and holds no run"):
            run(backbone, tmp_path / "notes", resume=resume)
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["thesis.txt"]


def test_a_damaged_checkpoint_is_named(backbone, tmp_path):
    finished = run(backbone, tmp_path / "run")
    state = finished.run_dir / "checkpoint" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"state\.pt is damaged"):
        run(backbone, tmp_path / "run", resume=True)


def test_divergence_keeps_the_last_good_adapter(backbone, tmp_path, monkeypatch):
    from promptvit.methods.gapt import GaPT

    steps = []
    original = GaPT.loss

    def loss(self, outputs, target):
        steps.append(1)
        return original(self, outputs, target) * (float("nan") if len(steps) > 3 else 1.0)

    monkeypatch.setattr(GaPT, "loss", loss)
    with pytest.raises(Diverged, match="epoch 2, step 2.*lower lr"):
        run(backbone, tmp_path / "run", epochs=4)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "diverged" and result["accuracy"] is None and result["epochs"] == 1
    model = promptvit.PromptedModel.from_pretrained(tmp_path / "run", backbone=promptvit.load_backbone(backbone))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_best_and_last_selection(backbone, tmp_path, monkeypatch):
    from promptvit.training.classification import Classification

    def with_validation(values, **settings):
        scripted = iter(values)
        monkeypatch.setattr(Classification, "score", lambda self, split: scripted_scores(next(scripted)))
        return run(backbone, tmp_path / f"{len(list(tmp_path.iterdir()))}", epochs=3, **settings)

    best = with_validation([0.2, 0.9, 0.9, 0.5])  # three epochs, then the test split; a tie goes to the earlier epoch
    assert best.result["val_accuracy"] == 0.9 and best.result["accuracy"] == 0.5
    assert torch.load(best.run_dir / "checkpoint" / "state.pt", weights_only=True)["best_value"] == 0.9
    last = with_validation([0.2, 0.9, 0.3, 0.5], select="last")
    assert last.result["val_accuracy"] == 0.3
    one = with_validation([0.2, 0.9, 0.1, 0.5])
    assert one.result["val_accuracy"] == 0.9
    assert numbers(one.run_dir)[2] == numbers(best.run_dir)[2], "both hold the weights of epoch 2"
    assert numbers(last.run_dir)[2] != numbers(best.run_dir)[2]


def test_validating_now_and_then(backbone, tmp_path):
    finished = run(backbone, tmp_path / "run", epochs=5, validate_every=2)
    values = [json.loads(line)["val_accuracy"] for line in (finished.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [value is None for value in values] == [True, False, True, False, False]
    assert finished.result["val_accuracy"] == max(value for value in values if value is not None)


def test_no_decay_on_biases_gates_and_vectors(backbone, tmp_path):
    model = promptvit.create_model(promptvit.load_backbone(backbone), "lspt", 3)
    settings = promptvit.TrainSettings(
        backbone=backbone, method="lspt", data="digits", lr=0.1, data_seed=0, out="x", weight_decay=0.1, head_lr=0.01, head_weight_decay=0.5
    )
    optimizer = build_optimizer(model, settings)
    names = {id(p): name for name, p in model.trainable_parameters()}
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert found == {
        "method.prompts": (0.1, 0.1),
        "method.gate_logits": (0.1, 0.0),
        "method.temperatures": (0.1, 0.0),
        "method.cell.from_input.weight": (0.1, 0.1),
        "method.cell.from_input.bias": (0.1, 0.0),
        "method.cell.from_hidden.weight": (0.1, 0.1),
        "head.weight": (0.01, 0.5),
        "head.bias": (0.01, 0.0),
    }


def test_schedule_warms_up_then_falls_to_zero():
    values = [schedule(step, 100, 0.1) for step in range(100)]
    assert values[:11] == sorted(values[:11]) and values[0] > 0 and values[10] == 1.0
    assert values[10:] == sorted(values[10:], reverse=True) and values[-1] < 0.001


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "gatp"}, "unknown method 'gatp'; did you mean gapt"),
        ({"epoch": 3}, "did you mean epochs"),
        ({"epochs": 0}, "epochs.*greater than or equal to 1; got 0"),
        ({"lr": -1}, "lr.*greater than 0"),
        ({"optimizer": "adam"}, "optimizer.*'adamw' or 'sgd'"),
        ({"data": "digit"}, "did you mean digits"),
        ({"backbone": "mae-tinny"}, "unknown backbone"),
        ({"backbone": "no/such/file.pth"}, "no file or folder"),
        ({"num_prompts": "many"}, "num_prompts.*valid integer"),
    ],
)
def test_bad_settings_are_one_clear_line(backbone, tmp_path, change, message):
    settings = {"backbone": backbone, "method": "gapt", "data": "digits", "out": str(tmp_path / "run"), **change}
    with pytest.raises(ValueError, match=message) as refused:
        promptvit.train(**settings)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists(), "nothing was written"
