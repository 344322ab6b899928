"""``promptvit results``: run folders as one table."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import command, one_line_error
from made_up import run, sweep

from promptvit.cli import main
from promptvit.experiments.results import Search, read_results
from promptvit.experiments.table import COLUMNS, table, write_table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep of a final and a search run, a run that diverged, and an unfinished one."""
    root = tmp_path_factory.mktemp("results")
    final = run(root / "sweep" / "runs", "vtab/cifar", 0.1234567890123456, settings={"lr": 0.5, "name": 'a "b", ü'})
    tried = run(root / "sweep" / "runs", "vtab/cifar", 0.5, split="val", seed=3)
    added = {"label": "deep, fast", "phase": "final", "chosen": {"lr": 0.5}, "search": {"runs": 1, "epochs": 10, "seconds": 30.0}}
    job = {"label": "deep, fast", "task": "vtab/cifar", "seed": 3, "phase": "search", "hash": tried["settings_hash"], "status": "ok"}
    sweep(root / "sweep", [final | added], [job])
    run(root / "single", "vtab/dtd", None, method="lspt", miou=None)
    unfinished = root / "single" / "begun"
    unfinished.mkdir()
    for name in ("config.yaml", "environment.json"):
        (unfinished / name).write_text("{}")
    return root


def printed(capsys, *arguments):
    main(["results", *map(str, arguments)])
    return capsys.readouterr()


def test_every_finished_run_is_a_row_with_all_its_digits(folder, tmp_path, capsys):
    rows = json.loads(printed(capsys, folder, "--json").out)
    assert [list(row) for row in rows] == [list(COLUMNS)] * 3
    by_dataset = {(row["dataset"], row["phase"]): row for row in rows}
    final, tried, single = by_dataset["vtab/cifar", "final"], by_dataset["vtab/cifar", "search"], by_dataset["vtab/dtd", "final"]
    assert (final["label"], final["accuracy"], final["seed"], final["split"]) == ("deep, fast", 0.1234567890123456, 0, "test")
    assert (final["search_runs"], final["search_epochs"], final["search_seconds"]) == (1, 10, 30.0)
    assert json.loads(final["chosen"]) == {"lr": 0.5} and json.loads(final["settings"])["name"] == 'a "b", ü'
    assert (tried["label"], tried["split"], tried["accuracy"], tried["search_runs"]) == ("deep, fast", "val", 0.5, None)
    assert [single[name] for name in ("label", "sweep", "reading", "status", "accuracy")] == [None, None, "v1", "diverged", None]


def test_the_files_hold_the_same_table(folder, tmp_path, capsys):
    rows = table(read_results([folder]))
    said = printed(capsys, folder, "--out", tmp_path / "a.csv")
    assert said.out == "" and "written: " in said.err and "left out: " in said.err and "begun: not finished" in said.err
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as source:
        read = list(csv.DictReader(source))
    assert read == [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    write_table(read_results([folder]), tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_parquet(folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(read_results([folder]), tmp_path / "a.parquet")
    read = parquet.read_table(tmp_path / "a.parquet")
    assert read.to_pylist() == table(read_results([folder]))
    kinds = {"string": str, "int64": int, "double": float}
    assert {field.name: kinds[str(field.type)] for field in read.schema} == COLUMNS
    write_table(read_results([folder]), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_columns_are_what_rows_have_and_documented():
    from promptvit.experiments.results import Row

    made = {f"search_{name}" for name in Search.model_fields}
    assert set(COLUMNS) == {*Row.model_fields, *made} - {"search"}
    text = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    assert [name for name in COLUMNS if f"`{name}`" not in text] == []


def test_the_printed_table_has_a_line_per_run(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = printed(capsys, folder).out
    assert sum("vtab/" in line for line in out.splitlines()) == 3 and "12.3%" in out and "miou" not in out


def test_names_are_text_in_the_printed_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run(tmp_path, "[/set]", 0.5, method="[bold]x")
    out = printed(capsys, tmp_path).out
    assert "[/set]" in out and "[bold]x" in out


def test_mistakes_are_one_line(folder, tmp_path):
    assert one_line_error(command("results", tmp_path / "none")).startswith("results: no folder")
    assert one_line_error(command("results", tmp_path)).startswith("results: no finished run in")
    message = one_line_error(command("results", folder, "--out", tmp_path / "a.xlsx"))
    assert message.endswith("a.xlsx is no name for a table; end it in .csv or .parquet")
    broken = tmp_path / "path" / "pyarrow"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError")
    line = [sys.executable, "-m", "promptvit", "results", str(folder), "--out", str(tmp_path / "a.parquet")]
    environment = {**os.environ, "PYTHONPATH": str(broken.parent)}
    result = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert one_line_error(result) == 'out: Parquet needs the package pyarrow; install it with: pip install "promptvit[table]"'
    assert list(tmp_path.glob("*a.*")) == []


def test_the_benchmark_works_on_a_few_hundred():
    line = [sys.executable, str(ROOT / "benchmarks" / "results.py"), "--runs", "200"]
    result = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    assert [line.split("  ")[0] for line in result.stdout.splitlines()][::3] == ["promptvit results", "promptvit report"]
    assert "left out" not in result.stderr
