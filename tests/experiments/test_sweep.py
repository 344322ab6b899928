"""Sweeps carried out: nothing twice, nothing lost, whatever fails or is killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import psutil
import pytest
import yaml
from compared import epochs_in, numbers, read, tables, wait_for, wait_outcome
from helpers import command, one_line_error, tiny_backbone
from rich.console import Console

from promptvit import locks
from promptvit.cli import main
from promptvit.experiments import worker
from promptvit.experiments.executor import Job, LocalExecutor, Outcome
from promptvit.experiments.plan import cells
from promptvit.experiments.spec import Spec
from promptvit.experiments.store import SweepFolder
from promptvit.experiments.sweep import Sweep, run_sweep
from promptvit.experiments.watch import Watch
from promptvit.experiments.worker import Trainer


class Here:
    """An executor that does one job at a time, in this process, and counts."""

    def __init__(self):
        self.free, self.running, self.done, self.trainer = 1, [], [], Trainer()

    def submit(self, job):
        self.running, self.free = [job], 0

    def wait(self, seconds):
        (job,), self.running, self.free = self.running, [], 1
        self.done.append(job.hash)
        try:
            return [Outcome(job, self.trainer(job.settings))]
        except Exception as error:
            return [Outcome(job, None, str(error))]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """A linear probe and a method with a grid of two, on few digits: seven runs."""
    settings = {"shots": 2, "epochs": 2, "batch_size": 8, "validate_every": 2, "num_prompts": 2}
    methods = {
        "linear": {"settings": {"lr": 0.3, "augment": "none"}},
        "prompts": {"method": "vpt-deep", "grid": {"lr": [0.1, 0.01]}},
    }
    backbone = tiny_backbone(tmp_path_factory.mktemp("backbone"))
    return Spec(name="tiny", backbone=backbone, tasks=["digits"], seeds=[1, 2], settings=settings, methods=methods)


@pytest.fixture(scope="module")
def swept(spec, tmp_path_factory):
    """The folder of an undisturbed sweep; tests must not change it."""
    out = tmp_path_factory.mktemp("swept") / "tiny"
    run_sweep(spec, out, executor=Here(), console=Console(quiet=True))
    return out


@pytest.fixture
def copy(swept, tmp_path):
    """The same folder, to be changed; its runs know their old place only from config.yaml, which no hash covers."""
    return shutil.copytree(swept, tmp_path / "copy")


def sweep(spec, out, **options):
    """(the sweep, its executor, what it printed)."""
    console, place = Console(record=True, quiet=True, width=200), Here()
    lines = []
    console.print = lambda text, **style: lines.append(text)
    return run_sweep(spec, out, executor=place, console=console, **options), place, "\n".join(lines)


def test_validation_decides_and_the_search_never_sees_the_test_split(spec, swept):
    entries = read(swept / "sweep.json")
    assert {(e["status"], e["attempts"], e["error"]) for e in entries} == {("ok", 1, None)}
    found = {e["hash"]: read(swept / "runs" / e["hash"] / "result.json") for e in entries}
    searched = [found[e["hash"]] for e in entries if e["phase"] == "search"]
    assert len(searched) == 2 and {(r["split"], r["seed"]) for r in searched} == {("val", 0)}
    assert all(r["accuracy"] == r["val_accuracy"] for r in searched)
    rows = read(swept / "summary.json")["rows"]
    assert [(r["label"], r["seed"], r["split"], r["phase"]) for r in rows] == [
        ("linear", 1, "test", "final"), ("linear", 2, "test", "final"), ("prompts", 1, "test", "final"), ("prompts", 2, "test", "final"),
    ]
    lower, higher = searched  # in the order of their rates
    assert [e["point"] for e in entries if e["phase"] == "search"] == [{"lr": 0.01}, {"lr": 0.1}]
    best = 0.01 if lower["accuracy"] >= higher["accuracy"] else 0.1
    assert [r["chosen"] for r in rows] == [{}, {}, {"lr": best}, {"lr": best}]
    assert rows[0]["search"] == {"runs": 0, "epochs": 0, "seconds": 0}
    seconds = pytest.approx(sum(r["train_seconds"] for r in searched), abs=1e-3)
    assert rows[2]["search"] == {"runs": 2, "epochs": 4, "seconds": seconds}
    assert all(rows[i].items() >= found[rows[i]["settings_hash"]].items() for i in range(4))
    assert Spec(**yaml.safe_load((swept / "spec.yaml").read_text())) == spec


def test_final_runs_on_train_and_val(spec, tmp_path):
    joined = spec.model_copy(update={"final": "train+val", "seeds": [1]})
    done, _, _ = sweep(joined, tmp_path / "out", only=["prompts"])
    (row,) = done.rows()
    assert (row["train_on"], row["select"], row["val_accuracy"], row["split"]) == ("train+val", "last", None, "test")
    searched = [r for r in done.results.values() if r["split"] == "val"]
    assert len(searched) == 2 and {(r["train_on"], r["select"]) for r in searched} == {("train", "last")}


def test_nothing_is_run_twice(spec, copy):
    before = {path: path.stat().st_mtime_ns for path in (copy / "runs").glob("*/**/*")}
    same = spec.methods["linear"].model_copy(update={"method": "linear"})
    more = spec.model_copy(update={"seeds": [1, 2, 3], "methods": {**spec.methods, "same": same}})
    done, place, printed = sweep(more, copy)
    assert len(place.done) == 2 and not done.missing()  # the third seed of both; "same" has the runs of "linear"
    assert "the spec differs" in printed
    assert [path for path, then in before.items() if path.stat().st_mtime_ns != then] == []
    accuracies = {label: [r["accuracy"] for r in done.rows() if r["label"] == label] for label in more.methods}
    assert accuracies["same"] == accuracies["linear"] and len(accuracies["same"]) == 3


def test_views_are_made_again_from_the_run_folders(spec, swept, copy):
    (copy / "summary.json").unlink()
    (copy / "sweep.json").write_text("{")
    (copy / ".config.yaml.tmp").touch()
    _, place, printed = sweep(spec, copy)
    assert place.done == [] and printed == "" and tables(copy) == tables(swept)


def test_rows_of_labels_left_out_stay_unless_the_spec_changed(spec, swept, copy):
    done, place, _ = sweep(spec, copy, only=["linear"])
    assert place.done == [] and len(done.rows()) == 2
    by_label = lambda rows: sorted((r["label"], r["seed"]) for r in numbers(rows))  # noqa: E731
    assert by_label(read(copy / "summary.json")["rows"]) == by_label(read(swept / "summary.json")["rows"])
    assert len(read(copy / "sweep.json")) == len(read(swept / "sweep.json"))
    sweep(spec.model_copy(update={"search_seed": 5}), copy, only=["linear"])
    assert {row["label"] for row in read(copy / "summary.json")["rows"]} == {"linear"}


def test_a_failing_run_is_tried_again_and_reported_while_the_rest_goes_on(spec, swept, tmp_path):
    entry = next(e for e in read(swept / "sweep.json") if (e["label"], e["phase"], e["seed"]) == ("linear", "final", 1))
    broken = tmp_path / "out" / "runs" / entry["hash"]
    (broken / "checkpoint").mkdir(parents=True)
    shutil.copy(swept / "runs" / entry["hash"] / "config.yaml", broken)
    (broken / "checkpoint" / "state.pt").write_bytes(b"nothing")
    done, place, printed = sweep(spec, tmp_path / "out", retries=2)
    assert place.done.count(entry["hash"]) == 3
    (line,) = done.missing()
    assert line.startswith("linear on digits, seed 1: failed: resume:") and "is damaged" in line
    assert printed.count("failed (trying again)") == 2 and printed.count("failed (given up)") == 1
    noted = {e["hash"]: (e["status"], e["attempts"]) for e in read(tmp_path / "out" / "sweep.json")}
    assert noted.pop(entry["hash"]) == ("failed", 3) and set(noted.values()) == {("ok", 1)}
    assert len(read(tmp_path / "out" / "summary.json")["rows"]) == 3
    shutil.rmtree(broken)
    done, place, _ = sweep(spec, tmp_path / "out")
    assert place.done == [entry["hash"]] and not done.missing() and tables(tmp_path / "out") == tables(swept)


def test_a_search_that_diverges_everywhere_fails_its_cell_only(spec, tmp_path):
    wild = spec.methods["prompts"].model_copy(update={"grid": {"lr": [1e30, 1e35]}, "settings": {"optimizer": "sgd", "momentum": 0.0}})
    done, place, _ = sweep(spec.model_copy(update={"methods": {"linear": spec.methods["linear"], "wild": wild}}), tmp_path / "out")
    assert done.missing() == [f"wild on digits, seed {seed}: all 2 runs of its search diverged" for seed in (1, 2)]
    assert len(place.done) == 4 and [row["label"] for row in done.rows()] == ["linear", "linear"]
    assert [e["status"] for e in read(tmp_path / "out" / "sweep.json") if e["label"] == "wild"] == ["diverged", "diverged"]


def test_a_folder_killed_before_its_first_file_is_begun_again(spec, swept, tmp_path):
    names = [run.name for run in (swept / "runs").iterdir()]
    for name in names:
        (tmp_path / "out" / "runs" / name).mkdir(parents=True)
        (tmp_path / "out" / "runs" / name / ".config.yaml.x").touch()
    done, _, _ = sweep(spec, tmp_path / "out")
    assert not done.missing() and tables(tmp_path / "out") == tables(swept)


def test_two_sweeps_in_one_folder(spec, swept, copy):
    refused = pytest.raises(ValueError, match=rf"another sweep writes to .*process {os.getpid()} on .*, since 2")
    with SweepFolder(copy).locked(), refused:
        sweep(spec, copy)
    sweep(spec, copy)


def test_a_worker_that_is_killed_is_an_outcome_and_its_run_goes_on(spec, tmp_path):
    (cell,) = cells(spec.model_copy(update={"settings": {**spec.settings, "epochs": 3000}}), tmp_path / "runs", None, only=["prompts"])
    run = cell.search[0]
    job = Job(run.hash, run.settings.model_dump())
    with LocalExecutor(1, tmp_path / "logs") as place:
        place.submit(job)
        assert place.free == 0 and place.running == [job]
        wait_for(lambda: epochs_in(tmp_path) > 2)
        pid = place.workers[0].process.pid
        os.kill(pid, signal.SIGKILL)
        (outcome,) = wait_outcome(place)
        assert outcome.result is None and "signal 9" in outcome.error and place.free == 1
        before = epochs_in(tmp_path)
        place.submit(job)
        wait_for(lambda: epochs_in(tmp_path) > before)
        second = place.workers[0].process.pid
        assert second != pid
    assert not psutil.pid_exists(second)


def test_a_run_waits_for_its_earlier_worker_to_let_go_but_not_for_ever(spec, tmp_path, monkeypatch):
    (cell,) = cells(spec, tmp_path / "runs", None, only=["linear"])
    run, earlier = cell.finals(0)[0], ExitStack()
    earlier.enter_context(locks.owned(tmp_path / "runs" / run.hash, "run", inside="checkpoint"))
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: earlier.close()))
    with monkeypatch.context() as hasty, pytest.raises(locks.Held, match="another run writes to"):
        hasty.setattr(worker, "PATIENCE", -1)
        Trainer()(run.arguments)
    assert Trainer()(run.arguments)["status"] == "ok"


def test_losses_before_a_rung_are_no_tries_after_it(spec, tmp_path):
    (cell,) = cells(spec, tmp_path / "runs", None, only=["linear"])
    run, watch = cell.finals(0)[0], Watch("tiny", Console(quiet=True))
    job, done = Job(run.hash, run.arguments), Sweep([cell], SweepFolder(tmp_path), retries=1)
    stopped, failed, given_up = {"status": "stopped"}, Outcome(job, None, "wrong"), []
    for outcome in (Outcome(job, None, "gone", lost=True), Outcome(job, stopped), failed, failed):
        done.tries[run.hash] += 1
        done.take(outcome, watch)
        given_up.append(done.given_up(run.hash))
    assert given_up == [False, False, False, True]


def test_local_processes_do_what_this_one_does(spec, swept, tmp_path):
    """The whole command, with two processes; a run fails in them and its log stays."""
    wrong = {**spec.model_dump(), "methods": {**spec.model_dump()["methods"], "odd": {"method": "sa2vp", "settings": {"pool": "prompts"}}}}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(wrong))
    result = command("sweep", path, "--out", tmp_path / "out", "--jobs", 2, "--json")
    message = one_line_error(result)
    assert message.startswith("2 final results are missing") and "missing: odd on digits, seed 1: failed: " in result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert numbers(rows) == tables(swept)[0]["rows"]
    assert len(list((tmp_path / "out" / "logs").iterdir())) == 2


def test_dry_run_says_what_is_left_and_how_it_knows(spec, swept, tmp_path, capsys):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(exclude_none=True)))
    main(["sweep", str(path), "--out", str(tmp_path / "none"), "--dry-run"])
    printed = capsys.readouterr().out
    assert "0/2" in printed and "0/4" in printed and "timed on a few training steps just now: linear, prompts" in printed
    assert not (tmp_path / "none").exists()
    main(["sweep", str(path), "--out", str(swept), "--dry-run", "--set", "seeds=[1, 2, 3]"])
    printed = capsys.readouterr().out
    assert "2/3" in printed and "4/5" in printed and "measured on finished runs: linear, prompts" in printed


def test_a_bad_spec_is_one_line(tmp_path, spec, capsys):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**spec.model_dump(exclude_none=True), "backbone": str(tmp_path / "nowhere")}))
    with pytest.raises(SystemExit):
        main(["sweep", str(path), "--out", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: backbone: no file or folder")


@pytest.mark.timeout(7200)  # for many kills; the usual two take a minute
def test_killed_at_random_moments_and_started_again_gives_the_same_tables(spec, swept, tmp_path, request):
    """kill -9 of the sweep's process, ``--kills`` times; whenever a sweep ends in between, it is compared and begun anew."""
    path, out = tmp_path / "spec.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(spec.model_dump(exclude_none=True)))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "promptvit", "sweep", str(path), "--out", str(out), "--jobs", "2"]
    seed, kills, compared, working = random.randrange(10**6), 0, 0, 0.0  # seconds from the first epoch on: the first sweep is left alone
    draw, wanted = random.Random(seed), request.config.getoption("--kills")
    print(f"seed {seed}")
    while kills < wanted or out.exists():
        before = epochs_in(out)
        process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if not working or draw.random() < 0.8:  # starting takes longer than these small runs: most kills shall hit the work
            wait_for(lambda: epochs_in(out) > before or process.poll() is not None)  # noqa: B023
        started = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=draw.uniform(0, working / 2) if working and kills < wanted else None)
        if process.returncode is None:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            kills += 1
            assert psutil.wait_procs(children, timeout=60)[1] == []
            print(f"kill {kills} with {epochs_in(out)} of 12 epochs and {len(list(out.rglob('result.json')))} of 6 results")
        else:
            assert process.returncode == 0
            working = working or time.monotonic() - started
            assert tables(out) == tables(swept)
            compared += 1
            shutil.rmtree(out)
    print(f"{kills} kills, {compared} tables compared")
