"""Finished runs as typed rows, from any folders: sweeps, folders of run folders, single run folders."""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from promptvit.errors import cut
from promptvit.plain import read_yaml

log = logging.getLogger(__name__)

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Search(BaseModel):
    """What choosing the settings cost: runs, their epochs and training seconds together."""

    model_config = ConfigDict(frozen=True)

    runs: int = 0
    epochs: int = 0
    seconds: float = 0.0


class Job(BaseModel):
    """An entry of a sweep's index, ``sweep.json``, as far as it is read here."""

    model_config = ConfigDict(frozen=True)

    hash: str
    task: str
    label: str | None = None
    phase: Literal["search", "final"] | None = None
    status: str | None = None
    seed: int | None = None
    error: Any = None


class Row(BaseModel):
    """One run: its ``result.json``, what a sweep says about it, and its settings.

    Attributes:
        accuracy, miou, val_accuracy: 0..1, of ``split``; None where the run diverged or failed.
        label: the sweep's name for method and settings; None outside of sweeps.
        phase: ``search`` runs chose settings; only ``final`` ones are results.
        search: tuning cost of label and data set, where the sweep wrote it down.
        settings: ``config.yaml`` as it is; empty where there is none.
        sweep: the sweep's folder; None outside of sweeps.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    backbone: str
    dataset: str
    seed: int
    settings_hash: str
    status: Literal["ok", "failed", "diverged"]
    split: str = "test"
    reading: str | None = None
    fingerprint: str | None = None
    data_seed: int | None = None
    accuracy: Share | None = None
    miou: Share | None = None
    val_accuracy: Share | None = None
    num_trainable: int | None = None
    num_total: int | None = None
    epochs: int | None = None
    train_seconds: float | None = None
    select: str | None = None
    train_on: str | None = None
    label: str | None = None
    phase: Literal["search", "final"] = "final"
    chosen: dict[str, Any] | None = None
    search: Search | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    sweep: str | None = None

    @property
    def score(self) -> float | None:
        """mIoU of segmentation, accuracy of anything else; 0..1."""
        return self.accuracy if self.miou is None else self.miou

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for two copies of one run."""
        where = (self.dataset, self.settings.get("data_root"), self.backbone, self.fingerprint)
        return (self.label or self.method, self.phase, *where, self.seed, self.settings_hash)


def read_results(folders: Iterable[str | Path], skipped: Callable[[str], None] = log.warning) -> list[Row]:
    """All runs in and below ``folders``, each once: a sweep's in its own order, others by the names of their folders.

    Args:
        skipped: told in one line about everything that is left out: damaged files, unfinished runs, runs that a sweep does not know.

    Raises:
        ValueError: no such folder.
    """
    rows: dict[tuple[Any, ...], Row] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"results: no folder {folder}; give a sweep, a run folder or a folder of them")
        for sweep, paths in _found(folder).items():
            stopped = _stopped(sweep) if sweep else set()
            runs = [row for path in paths if path.name not in stopped and (row := _read_run(path, skipped))]
            for row in _of_sweep(sweep, runs, skipped) if sweep else runs:
                rows.setdefault(row.identity, row)
    return list(rows.values())


def _found(folder: Path) -> dict[Path | None, list[Path]]:
    """Run folders in and below ``folder``, by the sweep folder they lie in."""
    found: dict[Path | None, list[Path]] = defaultdict(list)
    sweep_of: dict[Path, Path | None] = {}
    for name, children, filenames in os.walk(folder):
        path = Path(name)
        children[:] = sorted(child for child in children if not child.startswith("."))
        is_sweep = "summary.json" in filenames or "sweep.json" in filenames
        sweep = sweep_of[path] = path if is_sweep else sweep_of.get(path.parent)
        if is_sweep:
            found[sweep] = []
        if "result.json" in filenames or {"config.yaml", "environment.json"} <= set(filenames):
            found[sweep].append(path)
            children.clear()
    return found


def _stopped(sweep: Path) -> set[str]:
    """Folders of the runs that a search has stopped before their end: they have no result, and that is no news."""
    named = {job.hash for job in _index(sweep, lambda line: None) if job.status == "stopped"}
    return {name for name in named if not (sweep / "runs" / name / "result.json").is_file()}


def _read_run(run: Path, skipped: Callable[[str], None]) -> Row | None:
    """A run folder; what its split is of tells its phase."""
    if not (run / "result.json").is_file():
        skipped(f"{run}: not finished, no result.json")
        return None
    settings = _read(run / "config.yaml", _settings, skipped)
    row: Row | None = _read(run / "result.json", lambda text: _row(json.loads(text), settings=settings or {}), skipped)
    return row


def _settings(text: str) -> dict[str, Any]:
    """What ``config.yaml`` says, as far as reports use it: names, and options by name."""
    values = read_yaml(text)
    for found in (values, values.get("options") or {}):
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise ValueError("not settings by name")
    if not isinstance(values.get("data_root"), str | None):
        raise ValueError("data_root: not a path")
    return dict(values)


def _row(values: dict[str, Any], **more: Any) -> Row:
    return Row(**{"phase": "final" if values.get("split", "test") == "test" else "search", **values, **more})


def _of_sweep(sweep: Path, runs: list[Row], skipped: Callable[[str], None]) -> Iterator[Row]:
    """Rows as ``summary.json`` says, then what only the index ``sweep.json`` knows; without either, the runs as they are."""
    by_hash = {run.settings_hash: run for run in runs}
    summary = _read(sweep / "summary.json", lambda text: _objects(json.loads(text)["rows"]), skipped) or []
    index = _index(sweep, skipped)
    rows: dict[tuple[str | None, str, str], Row] = {}
    for said in summary:
        known = by_hash.get(str(said.get("settings_hash")))
        values = {**said, **(known.model_dump(exclude={"label", "chosen", "search"}) if known else {})}
        try:
            row = _row(values, phase="final", sweep=sweep.as_posix())
        except (TypeError, ValidationError) as error:
            skipped(f"{sweep / 'summary.json'}: damaged row ({_reason(error)})")
            continue
        rows[row.label, row.dataset, row.settings_hash] = row
    for job in index:
        key = (job.label, job.task, job.hash)
        if key not in rows and job.hash in by_hash:
            run = by_hash[job.hash]
            rows[key] = run.model_copy(update={"label": job.label, "phase": job.phase or run.phase, "sweep": sweep.as_posix()})
    claimed = {row.settings_hash for row in rows.values()}
    yield from rows.values()
    yield from _failed(sweep, [job for job in index if job.hash not in claimed], list(rows.values()), skipped)
    others = [run for run in runs if run.settings_hash not in claimed]
    if not rows:
        yield from others
    elif left_over := sum(run.phase == "final" for run in others):
        skipped(f"{sweep}: {left_over} finished run(s) that belong to none of the sweep's entries, left over from other settings")


def _failed(sweep: Path, jobs: list[Job], rows: list[Row], skipped: Callable[[str], None]) -> Iterator[Row]:
    """Jobs that the index calls failed; method and backbone are those of the label's other runs."""
    for job in jobs:
        if job.status != "failed":
            continue
        like = next((row for row in rows if row.label == job.label), None)
        if like is None:
            skipped(f"{sweep}: {job.label} on {job.task}, seed {job.seed}: failed ({cut(str(job.error))})")
            continue
        yield Row(
            **like.model_dump(include={"method", "backbone", "fingerprint", "reading", "label", "sweep"}),
            dataset=job.task, seed=job.seed or 0, settings_hash=job.hash, status="failed", phase=job.phase or "final",
        )


def _index(sweep: Path, skipped: Callable[[str], None]) -> list[Job]:
    """Entries of ``sweep.json``."""
    found: list[Job] | None = _read(sweep / "sweep.json", lambda text: [Job(**job) for job in _objects(json.loads(text))], skipped)
    return found or []


def _objects(values: Any) -> list[dict[str, Any]]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError("not a list of objects")
    return values


def _read(path: Path, parse: Callable[[str], Any], skipped: Callable[[str], None]) -> Any:
    """The file's content; None where there is no file, and, with a word to ``skipped``, where it cannot be read."""
    if not path.is_file():
        return None
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        skipped(f"{path}: damaged, left out ({_reason(error)})")
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return cut(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]
