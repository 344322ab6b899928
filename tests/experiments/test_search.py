"""Searches: what they propose, what they stop, what they cost, and that nothing of it depends on how often they were killed."""

import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from helpers import tiny_backbone
from rich.console import Console
from test_sweep import Here, numbers, read

optuna = pytest.importorskip("optuna")

from promptvit.cli import main  # noqa: E402
from promptvit.experiments import study as studies  # noqa: E402
from promptvit.experiments.plan import cells, overridden  # noqa: E402
from promptvit.experiments.results import read_results  # noqa: E402
from promptvit.experiments.space import Range, Search  # noqa: E402
from promptvit.experiments.spec import Entry, Spec, read_spec  # noqa: E402
from promptvit.experiments.store import history  # noqa: E402
from promptvit.experiments.study import Study  # noqa: E402
from promptvit.experiments.sweep import run_sweep  # noqa: E402
from promptvit.training import train  # noqa: E402
from promptvit.training.classification import Classification  # noqa: E402

GRID = {"lr": [0.01, 0.3], "weight_decay": [0.0, 1.0]}
HALVING = {"sampler": "halving", "reduction": 2, "rungs": 3}  # 4 points for 1 of 4 epochs, 2 of them for 2, 1 for all
SPACE = {"lr": {"low": 1e-3, "high": 1.0, "log": True}, "batch_size": {"low": 4, "high": 9}, "optimizer": ["sgd", "adamw"]}


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """A linear probe on few digits."""
    settings = {"shots": 2, "epochs": 4, "batch_size": 8, "augment": "none"}
    backbone = tiny_backbone(tmp_path_factory.mktemp("backbone"))
    methods = {"linear": {"grid": GRID, "search": HALVING}}
    return Spec(name="tiny", backbone=backbone, tasks=["digits"], seeds=[1], settings=settings, methods=methods)


@pytest.fixture(scope="module")
def halved(spec, tmp_path_factory):
    """(folder, its jobs in order, {run: splits that it scored}) of an undisturbed search; tests must not change the folder."""
    out, place, scored = tmp_path_factory.mktemp("halved") / "tiny", Here(), {}
    score = Classification.score

    def noted(task, split):
        scored.setdefault(task.settings.hash, set()).add(split)
        return score(task, split)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "score", noted)
        swept(spec, out, place)
    return out, place.done, scored


def swept(spec, out, place=None, **options):
    return run_sweep(spec, out, executor=place or Here(), console=Console(quiet=True), **options)


def searching(spec, **search):
    """The spec with another search."""
    return spec.model_copy(update={"methods": {"linear": Entry(grid=search.pop("grid", {}), search=search)}})


def cell_of(spec, folder):
    folder.mkdir(exist_ok=True)
    (cell,) = cells(spec, folder / "runs", None)
    return cell


def trials_of(spec, folder):
    """Runs of all points, none of which is trained."""
    cell = cell_of(spec, folder)
    told(cell, {})
    return cell.search


def tables(out):
    """Final rows, entries without the number of tries, and every metric of every run."""
    metrics = {run.name: numbers(history(run)) for run in (out / "runs").iterdir()}
    return numbers(read(out / "summary.json")), numbers(read(out / "sweep.json")), metrics


def test_halving_stops_the_worse_trials_and_never_sees_test(halved):
    out, done, scored = halved
    entries = [e for e in read(out / "sweep.json") if e["phase"] == "search"]
    values = [[line["val_accuracy"] for line in history(out / "runs" / e["hash"])] for e in entries]
    alive = list(range(4))
    for epochs, size in ((1, 4), (2, 2), (4, 1)):
        assert len(alive) == size and {i for i in range(4) if len(values[i]) >= epochs} == set(alive)
        alive.sort(key=lambda i: (-max(values[i][:epochs]), entries[i]["point"]["lr"], i))
        alive = alive[: size // 2 or 1]
    (best,) = alive
    (row,) = read(out / "summary.json")["rows"]
    assert row["chosen"] == entries[best]["point"] and row["split"] == "test"
    seconds = sum(line["seconds"] for e in entries for line in history(out / "runs" / e["hash"]))
    assert row["search"] == {"runs": 4, "epochs": 1 + 1 + 2 + 4, "seconds": pytest.approx(seconds, abs=0.01)}
    assert len(done) == 4 + 2 + 1 + 1 and [e["status"] for e in entries].count("stopped") == 3
    assert {frozenset(scored[e["hash"]]) for e in entries} == {frozenset({"val"})}
    for i, entry in enumerate(entries):
        assert (out / "runs" / entry["hash"] / "result.json").exists() == (out / "runs" / entry["hash"] / "adapter").exists() == (i == best)


def test_every_rung_is_a_part_of_the_whole_run(spec, halved, tmp_path):
    out, _, _ = halved
    for run in trials_of(spec, tmp_path):
        stopped = out / "runs" / run.hash
        whole = train(**{**run.settings.model_dump(), "out": str(tmp_path / run.hash)}).run_dir
        lines = numbers(history(stopped))
        assert lines == numbers(history(whole))[: len(lines)]
        if len(lines) == 4:
            name = "adapter/adapter_model.safetensors"
            assert (stopped / name).read_bytes() == (whole / name).read_bytes()
            assert numbers(read(stopped / "result.json")) == numbers(read(whole / "result.json"))


def test_a_stopped_run_says_so(spec, tmp_path):
    run = trials_of(spec, tmp_path)[0]
    with pytest.raises(FileNotFoundError):
        read(train(stop_after=2, **run.settings.model_dump()).run_dir / "result.json")
    again = train(stop_after=2, resume=True, **run.settings.model_dump()).result
    assert again == {"status": "stopped", "epochs": 2, "settings_hash": run.hash}
    assert train(stop_after=9, resume=True, **run.settings.model_dump()).result["status"] == "ok"


class Dying(Here):
    """Dies after so many jobs, the last of which is done but not taken note of."""

    def __init__(self, jobs):
        super().__init__()
        self.left = jobs

    def wait(self, seconds):
        outcomes = super().wait(seconds)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return outcomes


def test_killed_and_started_again_gives_the_same(spec, halved, tmp_path):
    whole, done, _ = halved
    jobs = []
    for kill in (1, 2, 3, 1):
        place = Dying(kill)
        with pytest.raises(KeyboardInterrupt):
            swept(spec, tmp_path / "out", place)
        jobs += place.done
    place = Here()
    swept(spec, tmp_path / "out", place)
    assert tables(tmp_path / "out") == tables(whole)
    assert jobs + place.done == done  # what was trained is known from the folders


def test_a_trial_that_was_only_half_asked_for_is_completed(spec, halved, tmp_path, monkeypatch):
    draw, broken = Study._draw, iter([False, True, False, True])

    def fails(self, trial):
        if next(broken, False):
            trial.suggest_categorical("lr", GRID["lr"])
            raise KeyboardInterrupt
        draw(self, trial)

    monkeypatch.setattr(Study, "_draw", fails)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            swept(spec, tmp_path / "out")
    swept(spec, tmp_path / "out")
    assert tables(tmp_path / "out") == tables(halved[0])


def test_reports_pass_over_stopped_runs_without_a_word(halved):
    lines = []
    rows = read_results([halved[0]], skipped=lines.append)
    assert lines == [] and sorted((row.phase, row.split) for row in rows) == [("final", "test"), ("search", "val")]
    assert next(row.search.epochs for row in rows if row.search) == 8


def test_a_finished_search_is_not_begun_again(spec, halved, tmp_path):
    out = shutil.copytree(halved[0], tmp_path / "copy")
    place = Here()
    done = swept(spec, out, place)
    assert place.done == [] and not done.missing() and done.rows() == read(halved[0] / "summary.json")["rows"]
    more = spec.model_copy(update={"seeds": [1, 2]})
    swept(more, out, place)
    assert len(place.done) == 1  # the seed


def test_a_run_that_fails_leaves_the_search_open(spec, halved, tmp_path):
    victim = read(halved[0] / "sweep.json")[1]["hash"]
    broken = tmp_path / "out" / "runs" / victim
    (broken / "checkpoint").mkdir(parents=True)
    shutil.copy(halved[0] / "runs" / victim / "config.yaml", broken)
    (broken / "checkpoint" / "state.pt").write_bytes(b"nothing")
    done = swept(spec, tmp_path / "out")
    (line,) = done.missing()
    assert f"its search is not complete (run {victim} failed: resume:" in line
    assert [e["status"] for e in read(tmp_path / "out" / "sweep.json")] == ["stopped", "failed", "stopped", "stopped"]
    shutil.rmtree(broken)
    assert not swept(spec, tmp_path / "out").missing()
    assert tables(tmp_path / "out") == tables(halved[0])


class Taking(Here):
    """Takes turns with the others: one run at a time in this process, while the studies are read and written at will."""

    turn = threading.Lock()

    def wait(self, seconds):
        with self.turn:
            return super().wait(seconds)


@pytest.mark.skipif("PROMPTVIT_CLUSTER_TESTS" not in os.environ, reason="minutes long: set PROMPTVIT_CLUSTER_TESTS=1")
@pytest.mark.parametrize("address", ["sqlite:///{}/shared.db", "{}/shared.journal"])
def test_several_workers_share_a_study(spec, tmp_path, address):
    """As many trials as asked for, each trained by one of the workers; both come to the same choice."""
    shared, storage = searching(spec, grid={**GRID, "momentum": [0.5, 0.9]}, **HALVING), address.format(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        started = [pool.submit(swept, shared, tmp_path / name, Taking(), storage=storage) for name in "ab"]
        (first,), (second,) = (worker.result().rows() for worker in started)
    assert numbers(first) == numbers(second) and first["search"] == second["search"]
    assert (first["search"]["runs"], first["search"]["epochs"]) == (8, 8 * 1 + 4 * 1 + 2 * 2)
    hashes = [{e["hash"] for e in read(tmp_path / name / "sweep.json") if e["phase"] == "search"} for name in "ab"]
    assert len(hashes[0] | hashes[1]) == 8 and not hashes[0] & hashes[1] and all(hashes)
    study = started[0].result().cells[0].study.study
    kept = [trial.state.name for trial in study.trials if trial.state.name != "FAIL"]
    assert sorted(kept) == ["COMPLETE"] * 2 + ["PRUNED"] * 6


def test_trials_of_a_worker_that_is_gone_are_taken_over(spec, halved, tmp_path, monkeypatch):
    storage = str(tmp_path / "journal.log")
    with pytest.raises(KeyboardInterrupt):
        swept(spec, tmp_path / "a", Dying(3), storage=storage)
    monkeypatch.setattr(studies, "SILENT", 0)
    swept(spec, tmp_path / "b", storage=storage)
    assert numbers(read(tmp_path / "b" / "summary.json")) == numbers(read(halved[0] / "summary.json"))


def told(cell, values):
    """Report values (None: diverged) of trials, asking for them first where need be."""
    while len(cell.study.read()) < cell.size:
        cell.study.ask()
    for number, (epochs, value) in values.items():
        trial = cell.study.read()[number]
        cell.study.diverge(trial, epochs, 1.0) if value is None else cell.study.report(trial, epochs, value, 1.0)
    cell.advance({}, lambda name: False, 9)
    return {(tuple(run.point.values()), run.stop_after) for run in cell.ready({}) if run.phase == "search"}


def test_survivors_ties_and_divergence(spec, tmp_path):
    cell = cell_of(spec, tmp_path)
    assert told(cell, {0: (1, 0.5), 3: (1, None)}) == {((0.01, 1.0), 1), ((0.3, 0.0), 1)}
    assert told(cell, {1: (1, 0.5), 2: (1, 0.5)}) == {((0.01, 0.0), 2), ((0.01, 1.0), 2)}  # the smaller rates
    assert told(cell, {0: (2, 0.1), 1: (2, 0.2)}) == {((0.01, 1.0), None)}
    assert cell.choice({}) is None and not cell.searched({})
    assert told(cell, {1: (4, 0.3)}) == set()
    assert cell.searched({}) and cell.points[cell.choice({})] == {"lr": 0.01, "weight_decay": 1.0}
    none = cell_of(spec, tmp_path / "none")
    assert told(none, dict.fromkeys(range(4), (1, None))) == set() and none.searched({}) and none.choice({}) is None
    assert {e.state.name for e in none.study.study.trials} == {"PRUNED"}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_proposals_stay_in_the_space_and_do_not_depend_on_restarts(sampler, tmp_path):
    search = Search(sampler=sampler, trials=14, space=SPACE)

    def proposed(name, seed, restarts):
        for i in range(14):
            if i == 0 or restarts:
                study = Study(
                    str(tmp_path / name), "s", search.space, trials=14, listed=None, sampler=sampler, seed=seed, worker="worker 1"
                )
            study.ask()
            trial = study.read()[-1]
            study.report(trial, 4, trial.point["lr"], 1.0)
            study.close(study.read()[-1], trial.point["lr"])
        return [trial.point for trial in study.read()]

    points = proposed("a", 0, False)
    assert points == proposed("b", 0, True) != proposed("c", 1, False)
    assert all(1e-3 <= p["lr"] <= 1.0 and p["batch_size"] in range(4, 10) and p["optimizer"] in SPACE["optimizer"] for p in points)
    assert len({p["lr"] for p in points}) == 14 and len({p["batch_size"] for p in points}) > 2
    assert any(p["lr"] < 0.03 for p in points) and isinstance(points[0]["batch_size"], int)


def test_tpe_learns_from_the_trials_before(tmp_path):
    points = {}
    for sampler in ("random", "tpe"):
        study = Study(
            str(tmp_path / sampler), "s", {"lr": Range(low=0.0, high=1.0)}, trials=40, listed=None, sampler=sampler, seed=3, worker="w"
        )
        for _ in range(40):
            study.ask()
            trial = study.read()[-1]
            study.close(trial, -abs(trial.point["lr"] - 0.7))
        points[sampler] = [trial.point["lr"] for trial in study.read()]
    near = {sampler: sum(abs(lr - 0.7) for lr in found[20:]) for sampler, found in points.items()}
    assert points["tpe"][:10] == points["random"][:10] and near["tpe"] < near["random"]


def test_a_random_search_takes_the_best_of_its_trials(spec, tmp_path):
    done = swept(searching(spec, sampler="random", trials=3, space=SPACE), tmp_path / "out")
    (row,), cell = done.rows(), done.cells[0]
    results = [done.results[run.hash] for run in cell.search]
    assert len(results) == 3 and {r["split"] for r in results} == {"val"} and {r["epochs"] for r in results} == {4}
    assert row["chosen"] == cell.points[max(range(3), key=lambda i: (results[i]["accuracy"], -cell.points[i]["lr"]))]
    assert (row["search"]["runs"], row["search"]["epochs"]) == (3, 12)
    again = swept(searching(spec, sampler="random", trials=3, space=SPACE), tmp_path / "again")
    assert again.cells[0].points == cell.points and numbers(again.rows()) == numbers(done.rows())


def test_what_is_given_is_not_searched(spec, tmp_path):
    cell = cell_of(overridden(spec, {"lr": 0.5}), tmp_path)
    assert list(cell.axes) == ["weight_decay"] and cell.size == 2
    cell = cell_of(overridden(searching(spec, sampler="random", trials=3, space=SPACE), {"optimizer": "sgd"}), tmp_path)
    assert list(cell.axes) == ["lr", "batch_size"]
    (plain,) = cells(overridden(spec, {"lr": 0.5, "weight_decay": 0.0}), tmp_path / "runs", None)
    assert len(plain.finals(plain.choice({}))) == 1 and plain.search == []


def test_a_dry_run_counts_the_trials_and_makes_no_study(spec, tmp_path, capsys):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(exclude_none=True)))
    main(["sweep", str(path), "--out", str(tmp_path / "out"), "--dry-run"])
    row = next(line for line in capsys.readouterr().out.splitlines() if "linear" in line)
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["digits", "4", "1"] and not (tmp_path / "out").exists()


def test_expected_work_is_that_of_the_whole_search(spec, tmp_path):
    cell = cell_of(spec, tmp_path)
    assert sum(run.stop_after or 4 for run in cell.expected({}) if run.phase == "search") == 4 * 1 + 2 * 1 + 1 * 2
    told(cell, {0: (1, 0.5)})
    assert sum(run.stop_after or 4 for run in cell.expected({}) if run.phase == "search") == 4 * 1 + 2 * 1 + 1 * 2


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"search": {"sampler": "bayes"}}, r"key of linear search\.sampler: .*'random', 'tpe' or 'halving'; got 'bayes'"),
        ({"search": {"sampler": "tpe"}}, r"key of linear search: trials: missing; tpe needs it"),
        ({"search": {"sampler": "halving", "space": SPACE}}, "trials: missing; batch_size is a range"),
        ({"search": {"sampler": "tpe", "trails": 3}}, r"search\.trails"),
        ({"search": {"sampler": "tpe", "trials": 3, "space": {"lr": {"low": 2, "high": 1}}}}, r"search\.space\.lr.*low 2 must be below"),
        ({"search": {"sampler": "tpe", "trials": 3, "space": {"lr": {"low": 0, "high": 1, "log": True}}}}, "above 0 where log is true"),
        ({"search": {"sampler": "tpe", "trials": 3, "space": {"lr": []}}}, r"search\.space\.lr"),
        ({"grid": GRID, "search": {"sampler": "tpe", "trials": 3, "space": {"lr": [1]}}}, "lr is in grid and in search.space"),
        ({"search": {"sampler": "tpe", "trials": 3, "space": {"seed": [1, 2]}}}, r"methods\.linear\.search\.space\.seed: decided by"),
        ({"search": {"sampler": "tpe", "trials": 3, "space": {"lrr": [1, 2]}}}, "linear on digits: .*'lrr'.*did you mean lr"),
        ({"search": {"sampler": "tpe", "trials": 3, "space": {"lr": {"low": -1.0, "high": 1.0}}}}, "on digits: setting lr: .*greater"),
        ({"grid": GRID, "search": {"sampler": "halving", "rungs": 4}}, r"linear on digits: search: 4 epochs, .* rungs \[1, 1, 2, 4\]"),
        ({"grid": GRID, "settings": {"iterations": 9, "epochs": None}, "search": HALVING}, "give epochs, not iterations"),
    ],
)
def test_a_bad_search_is_one_line_with_its_place(spec, method, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**spec.model_dump(exclude_none=True), "methods": {"linear": method}}))
    with pytest.raises(ValueError, match=message) as error:
        cells(read_spec(path), tmp_path / "runs", None)
    assert "\n" not in str(error.value) and ("bad.yaml" in str(error.value) or "spec tiny" in str(error.value))


def test_without_optuna_the_extra_is_named(spec, tmp_path, monkeypatch, capsys):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(exclude_none=True)))
    for name in ("study", "search"):
        monkeypatch.delitem(sys.modules, f"promptvit.experiments.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit):
        main(["sweep", str(path), "--out", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == 'error: search: needs the package optuna; install it with: pip install "promptvit[sweep]"'


def test_a_storage_that_cannot_be_opened_is_one_line(spec, tmp_path):
    with pytest.raises(ValueError, match="storage: cannot open it") as error:
        swept(spec, tmp_path / "out", storage="nosuch://x")
    assert "\n" not in str(error.value)
