"""``promptvit analyze``: what runs learned, as one page, pictures and numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from promptvit import files
from promptvit.errors import unknown
from promptvit.experiments.insight.chapters import Album, chapters
from promptvit.experiments.insight.findings import FEWEST, Findings, drawn, labels_of, look_at, open_run
from promptvit.experiments.insight.numbers import numbers
from promptvit.experiments.insight.page import render
from promptvit.training.run import read_settings


def analyze(
    runs: Sequence[str], out: Path, *, split: str = "test", images: int = 256, examples: int = 6, seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Look at finished runs of one data set; runs that differ in nothing but seeds count as one method.

    Writes ``index.html``, which needs nothing else, ``analysis.json`` and the pictures as PNGs into ``out``.

    Args:
        runs: run folders.
        split: where the images come from.
        images: how many are drawn, at least eight; numbers are of these.
        examples: on how many of them attention is shown; those of the first run's split, for every run.
        seed: of the draw.
        progress: is told which run is looked at.

    Returns:
        What ``analysis.json`` holds.

    Raises:
        ValueError: no run, runs of several data sets, of segmentation, no such split, or numbers out of range.
    """
    if not runs or images < FEWEST or examples < 1:
        raise ValueError(f"analyze: at least one run, {FEWEST} images and 1 example, got {len(runs)}, {images} and {examples}")
    settings, dataset = open_run(runs[0])
    if split not in dataset.splits:
        raise ValueError(unknown("split", split, dataset.splits))
    others = {run: read.data for run in runs if (read := read_settings(Path(run))).data != settings.data}
    if others:
        raise ValueError(f"analyze: {runs[0]} is of {settings.data}, but {others}; analyse one data set at a time")
    shown = drawn(dataset.splits[split], min(examples, images), seed)
    found = []
    for run in runs:
        progress(f"looking at {run}")
        found.append(look_at(run, shown, split=split, images=images, seed=seed))
        if found[-1].classes != dataset.classes:
            raise ValueError(f"analyze: {run} has other classes than {runs[0]}; analyse one data set at a time")
    groups: dict[str, list[Findings]] = {}
    for label, one in zip(labels_of([one.settings for one in found]), found, strict=True):
        groups.setdefault(label, []).append(one)
    album = Album(out)
    parts = chapters(groups, album)
    counts = " and ".join(sorted({str(len(one.labels)) for one in found}, key=int))
    subtitle = f"{settings.data}, {split}: {counts} images drawn with seed {seed}, {len(shown)} of them shown; runs: {len(found)}."
    notes = [f"{one.run}: {note}" for one in found for note in one.notes]
    files.write_text(out / "index.html", render(parts, subtitle, notes))
    result = {"data": settings.data, "split": split, "seed": seed} | numbers(groups)
    files.write_json(out / "analysis.json", result)
    return result
