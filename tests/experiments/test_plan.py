"""Which runs a spec asks for, from made-up results: nothing is trained here."""

from pathlib import Path

import pytest

from promptvit.experiments import estimate
from promptvit.experiments.plan import cells, overridden
from promptvit.experiments.spec import Spec, read_spec

SPEC = {
    "name": "made-up", "backbone": "mae-tiny", "tasks": ["digits"], "seeds": [3, 4], "search_seed": 9,
    "settings": {"epochs": 2, "shots": 2}, "methods": {"vpt-deep": {"grid": {"weight_decay": [0.0, 0.1], "lr": [0.5, 0.05]}}},
}


def plan(**changes):
    return cells(Spec(**{**SPEC, **changes}), Path("runs"), None)


def results(cell, accuracies):
    """Finished search runs with these accuracies (None: diverged)."""
    pairs = zip(cell.search, accuracies, strict=True)
    return {run.hash: {"accuracy": a, "status": "diverged" if a is None else "ok"} for run, a in pairs}


def test_search_runs_are_scored_on_validation_and_final_runs_on_test():
    (cell,) = plan()
    assert cell.wanted({}) == cell.search and len(cell.search) == 4
    for run in cell.search:
        assert (run.settings.score, run.settings.train_on, run.settings.select, run.settings.seed) == ("val", "train", "best", 9)
    found = results(cell, [0.1, 0.3, 0.2, 0.25])
    finals = cell.wanted(found)[4:]
    assert [run.settings.seed for run in finals] == [3, 4]
    for run in finals:
        assert (run.phase, run.settings.score, run.settings.train_on, run.point) == ("final", "test", "train", cell.points[1])
        assert run.settings.lr == cell.points[1]["lr"] and run.settings.out == f"runs/{run.hash}"


def test_final_runs_wait_for_the_whole_search():
    (cell,) = plan()
    found = results(cell, [0.1, 0.9, 0.2, 0.25])
    found.pop(cell.search[0].hash)
    assert cell.wanted(found) == cell.search


def test_ties_go_to_the_smaller_rate_and_then_to_the_earlier_point():
    (cell,) = plan()
    assert cell.points[cell.choice(results(cell, [0.5, 0.5, 0.5, 0.5]))] == {"weight_decay": 0.0, "lr": 0.05}
    assert cell.points[cell.choice(results(cell, [0.4, 0.5, 0.5, 0.5]))] == {"weight_decay": 0.1, "lr": 0.05}


def test_a_diverged_run_is_never_picked():
    (cell,) = plan()
    assert cell.choice(results(cell, [None, None, 0.0, None])) == 2
    assert cell.choice(results(cell, [None] * 4)) is None
    assert cell.wanted(results(cell, [None] * 4)) == cell.search


def test_one_point_needs_no_search():
    (cell,) = plan(methods={"gapt": {"settings": {"lr": 0.1}, "grid": {"num_prompts": [5]}}})
    runs = cell.wanted({})
    assert [run.phase for run in runs] == ["final", "final"] and {run.settings.options["num_prompts"] for run in runs} == {5}


def test_train_and_val_together_keep_the_last_epoch_in_both_phases():
    (cell,) = plan(final="train+val")
    finals = cell.finals(0)
    assert {(run.settings.train_on, run.settings.select, run.settings.score) for run in finals} == {("train+val", "last", "test")}
    assert {(run.settings.train_on, run.settings.select, run.settings.score) for run in cell.search} == {("train", "last", "val")}


@pytest.mark.parametrize(("final", "search_select"), [("train", "best"), ("train+val", "last")])
def test_best_on_test_reaches_final_runs_only(final, search_select):
    (cell,) = plan(final=final, settings={"select": "best-on-test"})
    assert {run.settings.select for run in cell.finals(0)} == {"best-on-test"}
    assert {run.settings.select for run in cell.search} == {search_select}


def test_given_values_replace_grid_tasks_and_seeds():
    spec = Spec(**{**SPEC, "methods": {"vpt-deep": {"grid": {"lr": [0.1, 0.2]}, "tasks": {"digits": {"epochs": 7}}}}})
    (cell,) = cells(overridden(spec, {"lr": 0.3, "epochs": 1, "seeds": [8]}), Path("runs"), None)
    (run,) = cell.wanted({})
    assert (run.settings.lr, run.settings.epochs, run.settings.seed) == (0.3, 1, 8)
    with pytest.raises(ValueError, match=r"spec made-up: seeds\.0: .*; got 'x'"):
        overridden(spec, {"seeds": ["x"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"vpt-dep": {}}}, "spec made-up, vpt-dep on digits: .*did you mean vpt-deep"),
        ({"settings": {"epocs": 2}}, "spec made-up, vpt-deep on digits: .*'epocs'.*did you mean epochs"),
        ({"settings": {"seed": 2}}, r"settings\.seed: decided by `seeds`"),
        ({"methods": {"gapt": {"grid": {"lr": []}}}}, r"methods\.gapt\.grid\.lr: no value"),
        ({"methods": {"gapt": {"tasks": {"digit": {}}}}}, r"methods\.gapt\.tasks: .*did you mean digits"),
        ({"final": "train+val", "settings": {"select": "best"}}, "no validation images"),
        ({"methods": {"gapt": {"grid": {"lr": [0.1, -1.0]}}}}, "gapt on digits: setting lr: .*greater than 0"),
        ({"tasks": ["digitz"]}, "unknown task 'digitz'; did you mean digits"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_with_its_place(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        plan(**changes)
    assert "\n" not in str(error.value)


def test_labels_and_tasks_that_the_spec_does_not_have():
    with pytest.raises(ValueError, match="unknown method in made-up 'gapt'"):
        cells(Spec(**SPEC), Path("runs"), None, only=["gapt"])
    with pytest.raises(ValueError, match="unknown data set in made-up 'folder'"):
        cells(Spec(**SPEC), Path("runs"), None, tasks=["folder"])


def test_no_spec_and_an_unreadable_one(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        read_spec(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(ValueError, match="not readable as YAML"):
        read_spec(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("name: x\nbackbone: y\ntasks: digits\nmethods: {gapt: {gird: {}}}\n")
    with pytest.raises(ValueError, match="unknown key of gapt .gird.; did you mean grid"):
        read_spec(tmp_path / "bad.yaml")


def test_work_counts_images():
    (cell,) = plan()
    sizes = {name: len(split) for name, split in cell.dataset.splits.items()}
    epochs, last = estimate.work(cell.search[0].settings, cell.dataset)
    assert epochs == pytest.approx(2 * 20 + estimate.SCORING * 2 * sizes["val"]) and last == pytest.approx(estimate.SCORING * sizes["val"])
    assert estimate.work(cell.finals(0)[0].settings, cell.dataset)[1] == pytest.approx(estimate.SCORING * sizes["test"])
    (probe,) = plan(methods={"linear": {"settings": {"augment": "none", "epochs": 50}}})
    assert estimate.work(probe.finals(0)[0].settings, probe.dataset) == (20 + sizes["val"], sizes["test"])
