"""Which runs belong together: names for method and settings, backbones and data sets that keep different things apart."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptvit.experiments.results import Row

# no part of what a run is compared by: its place, its seed, and what already has a column of its own
_APART = {"seed", "data_seed", "out", "workers", "data_root", "memory", "record", "data", "method", "backbone", "score", "options"}


@dataclass(frozen=True)
class Labelled:
    """A row with its names.

    Attributes:
        base: the sweep's label, or else the method.
        label: the same, with what tells it from other settings of that name.
        backbone: with the start of the fingerprint where one name stands for several weights.
        task: the data set; for folders of images with the folder's name.
    """

    row: Row
    base: str
    label: str
    backbone: str
    task: str


def labelled(rows: Sequence[Row]) -> list[Labelled]:
    """Every row with its names.

    Settings may differ between data sets, as tuning makes them; where they differ on one, they become part of the label: the sweep's
    folder for runs of a sweep, otherwise the settings that differ (their hash where they are not known).
    """
    backbones, tasks = _backbones(rows), _tasks(rows)
    parts: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row.phase == "final":
            parts[row.label or row.method, backbones[i]].append(i)
    suffixes: dict[int, str] = {}
    for members in parts.values():
        keys = _differing([(tasks[i], _settings(rows[i])) for i in members if rows[i].settings])
        twice = len({(tasks[i], rows[i].seed, rows[i].data_seed) for i in members}) < len(members)
        suffixes |= {i: _suffix(rows[i], keys) for i in members if keys or twice}
    return [
        Labelled(row, base := row.label or row.method, base + suffixes.get(i, ""), backbones[i], tasks[i]) for i, row in enumerate(rows)
    ]


def _settings(row: Row) -> dict[str, Any]:
    """What makes two runs different things, with the method's options among it."""
    flat = {**row.settings, **(row.settings.get("options") or {})}
    return {key: value for key, value in flat.items() if key not in _APART}


def _differing(known: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
    """Settings with more than one value on some data set."""
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for task, settings in known:
        by_task[task].append(settings)
    for task, own in by_task.items():
        for key in {key for settings in own for key in settings}:
            seen[key][task] = {repr(settings.get(key)) for settings in own}
    return sorted(key for key, tasks in seen.items() if any(len(values) > 1 for values in tasks.values()))


def _suffix(row: Row, keys: list[str]) -> str:
    if row.label and row.sweep:
        return f" [{row.sweep}]"
    settings = _settings(row)
    return f" ({', '.join(f'{key}={settings.get(key)}' for key in keys)})" if row.settings and keys else f" ({row.settings_hash[:6]})"


def _backbones(rows: Sequence[Row]) -> list[str]:
    prints: dict[str, set[str | None]] = defaultdict(set)
    for row in rows:
        prints[row.backbone].add(row.fingerprint)
    return [f"{row.backbone} ({(row.fingerprint or 'unknown')[:8]})" if len(prints[row.backbone]) > 1 else row.backbone for row in rows]


def _tasks(rows: Sequence[Row]) -> list[str]:
    """``folder`` alone does not tell whose images: its name does, or its whole path where two have the same name."""
    roots = {str(row.settings["data_root"]) for row in rows if row.dataset == "folder" and row.settings.get("data_root")}
    names = [Path(root).name for root in roots]

    def name(row: Row) -> str:
        root = row.settings.get("data_root")
        if row.dataset != "folder" or not root:
            return row.dataset
        short = Path(root).name
        return f"folder {short if names.count(short) == 1 else root}"

    return [name(row) for row in rows]
