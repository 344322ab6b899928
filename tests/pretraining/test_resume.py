"""Killed and resumed, or spread over processes, pre-training gives what one undisturbed process gives."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import command, one_line_error
from pretraining.tiny import SIZES, settings
from safetensors.torch import load_file

from promptvit.pretraining import loop
from promptvit.pretraining.loop import OBJECTIVES, pretrain

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
STEPS = 60


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, objective):
    whole = load_file(pretrain(settings(objective, steps=STEPS), tmp_path / "whole") / "model.safetensors")
    out = tmp_path / "killed"
    kill_after_first_checkpoint(objective, out)
    done = len(torch.load(out / "checkpoint.pt", weights_only=True)["losses"])
    assert 0 < done < STEPS and not (out / "export").exists()
    resumed = load_file(pretrain(settings(objective, steps=STEPS), out, resume=True) / "model.safetensors")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert len(json.loads((out / "losses.json").read_text())) == STEPS
    assert (out / "loss.png").stat().st_size > 1000


def kill_after_first_checkpoint(objective: str, out: Path) -> None:
    """Start the command in a process of its own and send it SIGKILL as soon as there is something to resume from."""
    sizes = [part for key, value in {**SIZES, "lr": 3e-3}.items() for part in ("--set", f"{key}={value}")]
    line = [sys.executable, "-m", "promptvit", "pretrain", "--objective", objective, "--out", str(out), "--steps", str(STEPS)]
    process = subprocess.Popen([*line, "--batch-size", "8", *sizes], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        while not (out / "checkpoint.pt").exists():
            assert process.poll() is None, "ended before its first checkpoint"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_folder_with_a_run_is_not_overwritten_or_mixed(tmp_path, monkeypatch):
    pretrain(settings("mae", steps=2), tmp_path)
    with pytest.raises(FileExistsError, match="--resume"):
        pretrain(settings("mae", steps=2), tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        pretrain(settings("mae", steps=3), tmp_path, resume=True)
    monkeypatch.setattr(loop.Run, "step", lambda self: pytest.fail("a finished run has no step left"))
    pretrain(settings("mae", steps=2), tmp_path, resume=True)


def test_two_processes_compute_what_one_computes(tmp_path):
    script = Path(__file__).parent / "gradients.py"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        subprocess.run([sys.executable, *launcher, script, tmp_path / name], check=True, timeout=300, env=ENVIRONMENT)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    for objective in OBJECTIVES:
        assert one[objective]["losses"] == pytest.approx(two[objective]["losses"], rel=1e-5)
        for name, gradient in one[objective]["gradients"].items():
            torch.testing.assert_close(two[objective]["gradients"][name], gradient, rtol=1e-3, atol=1e-6, msg=f"{objective} {name}")


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr("promptvit.processes.Accelerator.num_processes", 3)
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        loop.Run(settings("mae"))


def test_the_command_names_what_it_does_not_know(tmp_path):
    error = one_line_error(command("pretrain", "--objective", "moco", "--out", tmp_path / "a"))
    assert "mocov3" in error and not (tmp_path / "a").exists()
    error = one_line_error(command("pretrain", "--objective", "mae", "--out", tmp_path / "b", "--set", "temperature=1"))
    assert "temperature" in error
