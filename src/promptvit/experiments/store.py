"""A sweep's folder: run folders (the truth), the spec, and two views that can be made again from those at any time."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from promptvit import files, locks
from promptvit.experiments.spec import Spec


class SweepFolder:
    """``runs/<settings hash>/``, ``spec.yaml``, ``summary.json`` (final results), ``sweep.json`` (all runs), ``logs/`` (of failed runs)."""

    def __init__(self, path: Path) -> None:
        self.path, self.runs, self.logs = path, path / "runs", path / "logs"

    def locked(self) -> AbstractContextManager[None]:
        """Nobody else sweeps into this folder meanwhile; see :func:`promptvit.locks.owned`."""
        return locks.owned(self.path, "sweep")

    def results(self) -> dict[str, dict[str, Any]]:
        """Results of the finished runs by settings hash."""
        found = ((folder.name, finished(folder)) for folder in sorted(self.runs.glob("*")))
        return {name: result for name, result in found if result is not None}

    def keep_spec(self, spec: Spec) -> None:
        """Store the spec as it is used."""
        files.write_text(self.path / "spec.yaml", _text(spec))

    def earlier_spec(self, spec: Spec) -> str:
        """How the stored spec compares with this one: ``none``, ``same`` or ``other``."""
        stored = self.path / "spec.yaml"
        if not stored.is_file():
            return "none"
        return "same" if stored.read_text(encoding="utf-8") == _text(spec) else "other"

    def rows(self) -> list[dict[str, Any]]:
        """Rows of ``summary.json``."""
        found = _json(self.path / "summary.json")
        return found.get("rows", []) if isinstance(found, dict) else []

    def entries(self) -> list[dict[str, Any]]:
        """Entries of ``sweep.json``."""
        found = _json(self.path / "sweep.json")
        return found if isinstance(found, list) else []

    def write(self, rows: list[dict[str, Any]], entries: list[dict[str, Any]]) -> None:
        """Write both views."""
        files.write_json(self.path / "summary.json", {"rows": rows, "pictures": []})
        files.write_json(self.path / "sweep.json", entries)


def finished(run: Path) -> dict[str, Any] | None:
    """The result of a run folder whose run has ended, well or by divergence; None for any other."""
    result = _json(run / "result.json")
    return result if isinstance(result, dict) and result.get("status") in ("ok", "diverged") else None


def history(run: Path) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl``, one per finished epoch; none where there is no such file."""
    try:
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, RecursionError):
        return []


def _json(path: Path) -> Any:
    """What a file holds, or None where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _text(spec: Spec) -> str:
    return yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
