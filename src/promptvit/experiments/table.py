"""Finished runs as one flat table, a row per run: CSV or Parquet."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from promptvit import files
from promptvit.experiments.results import Row

# in this order; Parquet's types
COLUMNS: dict[str, type] = {
    "sweep": str, "label": str, "phase": str,
    "method": str, "reading": str, "backbone": str, "fingerprint": str, "dataset": str, "seed": int, "data_seed": int,
    "train_on": str, "select": str, "split": str, "status": str,
    "accuracy": float, "miou": float, "val_accuracy": float,
    "num_trainable": int, "num_total": int, "epochs": int, "train_seconds": float,
    "search_runs": int, "search_epochs": int, "search_seconds": float,
    "chosen": str, "settings": str, "settings_hash": str,
}


def table(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows with exactly :data:`COLUMNS`; what a run does not have is None. ``chosen`` and ``settings`` are JSON."""
    return [_flat(row) for row in rows]


def write_table(rows: Iterable[Row], path: Path) -> None:
    """Write the table; the same runs give the same bytes.

    Raises:
        ValueError: ``path`` ends in neither ``.csv`` nor ``.parquet``. ImportError: Parquet without the package pyarrow.
    """
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise ValueError(f"out: {path} is no name for a table; end it in {' or '.join(writers)}")
    with files.atomic(path) as temporary:
        writers[path.suffix](table(rows), temporary)


def _flat(row: Row) -> dict[str, Any]:
    values = row.model_dump(exclude={"search", "chosen", "settings"})
    values |= {f"search_{key}": value for key, value in (row.search.model_dump() if row.search else {}).items()}
    values |= {key: json.dumps(value, sort_keys=True) for key in ("chosen", "settings") if (value := getattr(row, key))}
    return {name: values.get(name) for name in COLUMNS}


def _write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as sink:
        writer = csv.DictWriter(sink, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ImportError('out: Parquet needs the package pyarrow; install it with: pip install "promptvit[table]"') from None
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)
