"""A sweep's folder: run folders (the truth), the spec, and two views that can be made again from those at any time."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from promptvit import files
from promptvit.experiments.spec import Spec


class SweepFolder:
    """``runs/<settings hash>/``, ``spec.yaml``, ``summary.json`` (final results), ``sweep.json`` (all runs), ``logs/`` (of failed runs)."""

    def __init__(self, path: Path) -> None:
        self.path, self.runs, self.logs = path, path / "runs", path / "logs"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else sweeps into this folder meanwhile. The system releases the lock of a process that died, however it died.

        Raises:
            ValueError: somebody does; says who. PermissionError: the folder cannot be written.
        """
        owner = self.path / "owner.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            held = _json(owner) or {}
            who = f"process {held.get('pid', '?')} on {held.get('host', '?')}, since {held.get('since', '?')}"
            raise ValueError(f"out: another sweep writes to {self.path} ({who}); wait for it, stop it, or choose another folder") from None
        except OSError as error:
            raise PermissionError(f"out: cannot write to {self.path} ({error.strerror}); choose another folder") from None
        try:
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            files.write_json(owner, {"pid": os.getpid(), "host": platform.node(), "since": since})
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

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
        return (_json(self.path / "summary.json") or {}).get("rows", [])

    def entries(self) -> list[dict[str, Any]]:
        """Entries of ``sweep.json``."""
        return _json(self.path / "sweep.json") or []

    def write(self, rows: list[dict[str, Any]], entries: list[dict[str, Any]]) -> None:
        """Write both views."""
        files.write_json(self.path / "summary.json", {"rows": rows, "pictures": []})
        files.write_json(self.path / "sweep.json", entries)


def finished(run: Path) -> dict[str, Any] | None:
    """The result of a run folder whose run has ended, well or by divergence; None for any other."""
    result = _json(run / "result.json")
    return result if result and result.get("status") in ("ok", "diverged") else None


def history(run: Path) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl``, one per finished epoch; none where there is no such file."""
    try:
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []


def _json(path: Path) -> Any:
    """What a file holds, or None where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _text(spec: Spec) -> str:
    return yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
