"""Several processes on one run: the numbers of one process, real ``torchrun``, a killed rank."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import tiny_backbone

import promptvit
from promptvit.data import load_dataset
from promptvit.training import loop, resolve

# The tiny run of the numeric comparison, in processes of its own: every rank prints nothing, the first saves what it trained.
SCRIPT = """
import sys, torch
import promptvit
from promptvit.training import loop
from promptvit.preprocessing import Preprocessing
out, dtype, epochs, backbone = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if dtype == torch.float64:
    normalized = Preprocessing.normalized
    Preprocessing.normalized = lambda self, pixels: normalized(self, pixels).double()
    create = loop.create_model
    loop.create_model = lambda *args, **options: create(*args, **options).double()
    from promptvit.methods.base import F, Method  # whose loss casts the logits to float32
    Method.loss = lambda self, outputs, target: F.cross_entropy(outputs[0], target)
promptvit.train(
    backbone=backbone, method="gapt", data="digits", shots=16, batch_size=32, epochs=epochs, out=out, seed=3, select="last", lr=0.05,
)
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


def launch(processes, *arguments, wait=True):
    """Start ``python ARGUMENTS`` in ``processes`` processes that know each other."""
    port = 20000 + os.getpid() % 20000
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    line = [*launcher, *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    started = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    if wait:
        started.output, started.errors = started.communicate(timeout=240)
    return started


def trained(out):
    state = torch.load(out / "checkpoint" / "state.pt", weights_only=True)
    return state["trained"], state["history"]


def test_every_process_ends_well(tmp_path):
    """Without leaving the group in its time, one of several processes aborts at its end in some starts."""
    script = tmp_path / "tiny.py"
    script.write_text("""
import torch
from promptvit import processes
for precision in ("no", "bf16"):
    accelerator = processes.join(precision, cpu=True)
    model = accelerator.prepare(torch.nn.Linear(64, 64))
    accelerator.backward(model(torch.ones(4, 64)).sum())
    total = accelerator.reduce(torch.ones(1000), "sum")
assert total.eq(4).all()
""")
    for _ in range(2):
        done = launch(4, script)
        assert done.returncode == 0, done.errors


@pytest.mark.parametrize(("dtype", "epochs", "tolerance"), [("float64", 1, 1e-9), ("float32", 4, 1e-4)])
def test_two_processes_equal_one(backbone, tmp_path, dtype, epochs, tolerance):
    """5 steps in float64, 20 in float32; the pool of 160 images is 5 batches of 32."""
    script = tmp_path / "tiny.py"
    script.write_text(SCRIPT)
    for processes in (1, 2):
        done = launch(processes, script, tmp_path / str(processes), dtype, epochs, backbone)
        assert done.returncode == 0, done.errors
    (one, history), (two, other) = (trained(tmp_path / name) for name in "12")
    assert len(history) == epochs and one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == getattr(torch, dtype)
        difference = (one[name] - two[name]).abs().max() / one[name].abs().max()
        assert difference <= tolerance, (name, float(difference))
    for a, b in zip(history, other, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in "12"]
    assert results[0]["settings_hash"] == results[1]["settings_hash"]


@pytest.mark.parametrize("method", ["linear", "vpt-deep"])
def test_uneven_last_batches_through_the_command_line(backbone, tmp_path, method):
    """3 processes; 90 images in batches of 16 leave 10, 300 and 600 in evaluation divide unevenly, 89 leave one rank with none."""
    settings = ["--backbone", backbone, "--method", method, "--data", "digits", "--shots", 9, "--epochs", 2, "--set", "batch_size=89"]
    done = launch(3, "-m", "promptvit", "train", *settings, "--out", tmp_path / "three")
    assert done.returncode == 0, done.errors
    assert done.output.count("run folder:") == 1, "the first process speaks for all"
    alone = promptvit.train(
        backbone=backbone, method=method, data="digits", shots=9, epochs=2, batch_size=89, out=str(tmp_path / "one")
    ).result
    together = json.loads((tmp_path / "three" / "result.json").read_text())
    for key in ("settings_hash", "num_trainable", "epochs", "split"):
        assert together[key] == alone[key]
    for key in ("accuracy", "val_accuracy"):
        assert together[key] == pytest.approx(alone[key], abs=2 / 300), "a tie may fall the other way"
    assert set(together["per_class_accuracy"]) == set(alone["per_class_accuracy"])


def test_resume_with_another_number_of_processes(backbone, tmp_path):
    settings = {"backbone": backbone, "method": "gapt", "data": "digits", "shots": 4, "epochs": 4, "batch_size": 16}
    whole = promptvit.train(**settings, out=str(tmp_path / "whole"))
    interrupt_after(2, {**settings, "out": str(tmp_path / "run")})
    line = ["--backbone", backbone, "--method", "gapt", "--data", "digits", "--shots", 4, "--epochs", 4, "--set", "batch_size=16"]
    done = launch(2, "-m", "promptvit", "train", *line, "--out", tmp_path / "run", "--resume")
    assert done.returncode == 0, done.errors
    (one, _), (two, history) = trained(whole.run_dir), trained(tmp_path / "run")
    assert len(history) == 4
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-6)


def interrupt_after(epochs, settings):
    """Run ``settings`` and stop as if killed once ``epochs`` are saved."""

    class Killed(BaseException):
        pass

    original = loop.RunFolder.save_state

    def dying(self, state, history):
        original(self, state, history)
        if len(history) == epochs:
            raise Killed

    loop.RunFolder.save_state = dying
    try:
        promptvit.train(**settings)
    except Killed:
        return
    finally:
        loop.RunFolder.save_state = original


def test_a_killed_rank_ends_the_run_with_a_message_and_a_state_to_resume(backbone, tmp_path):
    out = tmp_path / "run"
    line = ["--backbone", backbone, "--method", "vpt-deep", "--data", "digits", "--epochs", 400, "--set", "batch_size=32", "--out", out]
    started = launch(2, "-m", "promptvit", "train", *line, wait=False)
    try:
        deadline = time.monotonic() + 120
        while not (out / "checkpoint" / "state.pt").is_file():
            assert started.poll() is None and time.monotonic() < deadline, started.communicate()[1]
            time.sleep(0.2)
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(started.pid)], capture_output=True, text=True, check=True)
        os.kill(int(listed.stdout.split()[-1]), signal.SIGKILL)
        _, errors = started.communicate(timeout=120)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode != 0
    assert "another process of this run is gone" in errors or "Signal 9 (SIGKILL)" in errors
    _, history = trained(out)
    assert history and not (out / "result.json").exists()
    settings = resolve(backbone=backbone, method="vpt-deep", data="digits", epochs=400, batch_size=32, out=str(out))
    model = promptvit.create_model(promptvit.load_backbone(backbone), "vpt-deep", 10)
    run = loop.Run(settings.completed(load_dataset("digits")), model, load_dataset("digits"), loop.Accelerator())
    run.restore(torch.load(out / "checkpoint" / "state.pt", weights_only=True))
    assert len(run.history) == len(history)
