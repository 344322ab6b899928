"""``promptvit analyze``: what runs learned, as one page, pictures and numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from promptvit import files
from promptvit.experiments.insight.chapters import Album, chapters
from promptvit.experiments.insight.findings import Findings, drawn, labels_of, look_at, open_run
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
        images: how many are drawn; numbers are of these.
        examples: how many images attention is shown on, drawn from the first run's split.
        seed: of the draw.
        progress: is told which run is looked at.

    Returns:
        What ``analysis.json`` holds.

    Raises:
        ValueError: no run, runs of several data sets, of segmentation, or numbers out of range.
    """
    if not runs or images < 8 or examples < 1:
        raise ValueError(f"analyze: at least one run, 8 images and 1 example, got {len(runs)}, {images} and {examples}")
    settings, dataset = open_run(runs[0])
    others = {run: read.data for run in runs if (read := read_settings(Path(run))).data != settings.data}
    if others:
        raise ValueError(f"analyze: {runs[0]} is of {settings.data}, but {others}; analyse one data set at a time")
    found = []
    for run in runs:
        progress(f"looking at {run}")
        shown = drawn(dataset.splits[split], examples, seed) if split in dataset.splits else dataset.splits["test"]
        found.append(look_at(run, shown, split=split, images=images, seed=seed))
    groups: dict[str, list[Findings]] = {}
    for label, one in zip(labels_of([one.settings for one in found]), found, strict=True):
        groups.setdefault(label, []).append(one)
    album = Album(out)
    parts = chapters(groups, album)
    counts = " and ".join(sorted({str(len(one.labels)) for one in found}, key=int))
    subtitle = f"{settings.data}, {split}: {counts} images drawn with seed {seed}, {examples} of them shown; {len(found)} runs."
    notes = [f"{one.run}: {note}" for one in found for note in one.notes]
    files.write_text(out / "index.html", render(parts, subtitle, notes))
    result = {"data": settings.data, "split": split, "seed": seed} | numbers(groups)
    files.write_json(out / "analysis.json", result)
    return result
