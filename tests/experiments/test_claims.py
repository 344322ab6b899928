"""Claims: the interval against an independent computation, the verdicts, what is missing, the files, and a real reduced table."""

import itertools
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptvit.cli import main
from promptvit.experiments.claims import Score, Scores, interval, judge, read_scores, to_json
from promptvit.experiments.claims_report import markdown, write_claims
from promptvit.experiments.spec import Claim, read_spec


def scores(rows, **changes):
    """``rows``: {(label, task): [score of seed 0, of seed 1, ...]}."""
    listed = [
        Score(
            label=label, task=task, seed=seed, score=value, val_score=0.5, chosen={"lr": 0.1}, num_trainable=10, epochs=1,
            train_seconds=1.0, settings_hash=f"{label}{task}{seed}",
        )
        for (label, task), values in rows.items() for seed, value in enumerate(values)
    ]
    given = {
        "name": "t", "backbone": "b", "fingerprint": "f", "labels": ["a", "b"], "tasks": ["x", "y"], "seeds": [0, 1],
        "claims": {"a is better": Claim(better="a", than="b")}, "rows": listed, "missing": [],
    }
    return Scores(**given | changes)


@pytest.mark.parametrize(
    ("a", "verdict"),
    [
        ([0.6, 0.62], "holds"), ([0.4, 0.41], "does not hold"), ([0.5, 0.5], "does not hold"),
        ([0.45, 0.58], "undecided"), ([0.515, 0.5], "undecided"),
    ],
)
def test_verdicts(a, verdict):
    found, = judge(scores({("a", "x"): a, ("b", "x"): [0.5, 0.5], ("a", "y"): a, ("b", "y"): [0.5, 0.5]}))
    assert found.verdict == verdict
    assert found.low <= found.mean <= found.high


def test_differences_are_paired_by_data_set_and_seed():
    found, = judge(scores({("a", "x"): [0.9, 0.1], ("b", "x"): [0.8, 0.0], ("a", "y"): [0.3], ("b", "y"): [0.2, 0.7]}))
    assert found.differences == {"x": [0.1, 0.1], "y": [0.1]}
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("groups", [[[0.0, 1.0], [0.5, -0.5]], [[0.1, 0.2, 0.6]]])
def test_interval_equals_the_exact_bootstrap_distribution(groups):
    """Every way to draw data sets, and seeds within each, listed; drawn quantiles lie between the exact ones a percent to either side."""
    outcomes = []
    for drawn in itertools.product(groups, repeat=len(groups)):
        inner = [[statistics.fmean(values) for values in itertools.product(group, repeat=len(group))] for group in drawn]
        outcomes += [statistics.fmean(means) for means in itertools.product(*inner)]
    for found, share in zip(interval(groups, 20_000), (0.025, 0.975), strict=True):
        below, above = np.quantile(outcomes, (share - 0.01, share + 0.01), method="inverted_cdf")
        assert below - 1e-9 <= found <= above + 1e-9


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=4), min_size=1, max_size=4), st.floats(-1, 1))
def test_interval_lies_among_the_values_and_moves_with_them(groups, shift):
    low, high = interval(groups, 200)
    values = [value for group in groups for value in group]
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = interval([[value + shift for value in group] for group in groups], 200)
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-9)


def test_scores_survive_their_file_and_judge_alike(tmp_path):
    made = scores({("a", "x"): [0.61, 0.62], ("b", "x"): [0.5, 0.5]}, missing=["a, y, seed 0"])
    first, second, picture = write_claims(made, judge(made), tmp_path)
    assert read_scores(first) == made
    assert first.read_text().count("\n{") == len(made.rows), "a row per line"
    text = second.read_text()
    assert "| a is better | a | b | +11.5 |" in text
    assert "Missing: a, y, seed 0." in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "bad.json").write_text(to_json(made)[:-40])
    with pytest.raises(ValueError, match=r"bad.json: no scores"):
        read_scores(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="neither a sweep's folder"):
        read_scores(tmp_path / "nothing")


def test_the_published_tables_are_those_of_the_published_scores():
    docs = Path(__file__).parents[2] / "docs"
    kept = read_scores(docs / "claims" / "scores.json")
    assert len(kept.rows) == 240 and not kept.missing
    page = (docs / "claims.md").read_text()
    lines = [line for line in markdown(kept, judge(kept)).splitlines() if line.startswith("|")]
    assert len(lines) == 14 + 15
    for line in lines:
        assert line in page


def test_no_pair_is_said_and_not_judged():
    made = scores({("a", "x"): [0.6]})
    found, = judge(made)
    assert (found.verdict, found.mean) == ("undecided", None)
    assert "| no scores |" in markdown(made, [found])


def test_a_claim_about_no_row_is_refused(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("{name: n, backbone: mae-tiny, tasks: [digits], methods: {linear: {}}, claims: {c: {better: linea, than: linear}}}")
    with pytest.raises(ValueError, match=r"claims, c: unknown method of this file 'linea'.*linear"):
        read_spec(path)
    path.write_text(path.read_text().replace("better: linea,", "better: linear, tasks: [digit],"))
    with pytest.raises(ValueError, match=r"claims, c: unknown data set of this file 'digit'.*digits"):
        read_spec(path)


def test_the_reduced_table(tmp_path, capsys):
    """The claims' own file with two tasks, one seed, few images: every method trains, every claim gets a finding."""
    out = tmp_path / "sweep"
    changes = ["--set", "seeds=[0]", "--set", "shots=2", "--set", "epochs=1", "--set", "validate_every=1", "--set", "lr=0.02"]
    main(["sweep", "claims", "--out", str(out), "--tasks", "digits", "--tasks", "proc/sounds", *changes])
    capsys.readouterr()
    main(["claims", str(out), "--json"])
    found = json.loads(capsys.readouterr().out)
    spec = read_spec("claims")
    assert [finding["name"] for finding in found] == list(spec.claims)
    for finding in found:
        assert finding["differences"].keys() <= {"digits", "proc/sounds"}
        assert all(len(values) == 1 for values in finding["differences"].values())
    made = read_scores(out / "claims" / "scores.json")
    assert {(row.label, row.task) for row in made.rows} == {(label, task) for label in spec.methods for task in ("digits", "proc/sounds")}
    assert all(0 < row.score < 1 for row in made.rows)
