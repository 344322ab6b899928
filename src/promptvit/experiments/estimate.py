"""How long runs take: their work counted in training images, and the seconds one image takes, measured."""

import math
import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from functools import cache

import torch
from accelerate import Accelerator

from promptvit.backbones.loading import load_backbone
from promptvit.data import Dataset
from promptvit.experiments.plan import Cell, Results
from promptvit.model import create_model
from promptvit.training import TrainSettings
from promptvit.training.probe import inputs_are_fixed

SCORING = 0.4  # of a training image's time: a forward pass beside a forward pass and one backward through the activations
IMAGES = 8  # at a time, where a step is timed


def work(settings: TrainSettings, dataset: Dataset) -> tuple[float, float]:
    """Training images that a run's epochs cost, validation included, and what its scoring at the end adds."""
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    train, val, last = _drawn(dataset, settings.shots), sizes["val"], sizes[settings.score]
    if settings.train_on == "train+val":
        train, val = train + val, 0
    if inputs_are_fixed(settings):  # each image passes the backbone once
        return train + val, last if settings.score == "test" else 0
    epochs = _epochs(settings, train)
    validations = math.ceil(epochs / settings.validate_every)
    watched = val + (sizes["test"] if settings.select == "best-on-test" else 0)
    return epochs * train + SCORING * validations * watched, SCORING * last


def _epochs(settings: TrainSettings, images: int) -> float:
    """Passes over so many training images; the last one may be cut."""
    steps = math.ceil(images / settings.batch_size)
    return settings.total_steps(steps) / steps


@cache  # asked for every run, every second
def _drawn(dataset: Dataset, shots: int | None) -> int:
    labels = dataset.splits["train"].labels
    return sum(min(shots, count) for count in Counter(labels).values()) if shots else len(labels)


def measured(cells: Iterable[Cell], results: Results) -> dict[str, float]:
    """Seconds per training image by label, of the labels that have finished runs."""
    totals: dict[str, tuple[float, float]] = {}
    for cell in cells:
        for run in cell.wanted(results):
            if (result := results.get(run.hash)) and result["status"] == "ok":
                seconds, images = totals.get(cell.label, (0.0, 0.0))
                totals[cell.label] = seconds + result["train_seconds"], images + work(run.settings, cell.dataset)[0]
    return {label: seconds / images for label, (seconds, images) in totals.items() if images}


def load(cell: Cell, results: Results, over: Container[str], epochs: Mapping[str, int]) -> tuple[float, float]:
    """Training images that a cell costs in all, and those left of them.

    Args:
        over: hashes of the runs that are finished or given up.
        epochs: finished epochs of runs that have begun, by hash.
    """
    total = left = 0.0
    for run in cell.expected(results):
        whole = _epochs(run.settings, _drawn(cell.dataset, run.settings.shots))
        length = run.stop_after or whole
        images = sum(work(run.settings, cell.dataset)) * length / whole
        total += images
        left += 0 if run.hash in over else images * max(0.0, 1 - epochs.get(run.hash, 0) / length)
    return total, left


def timed(cell: Cell, threads: int) -> float:
    """Seconds per training image from a few training steps on noise with the label's own method and backbone, on ``threads`` cores."""
    settings = cell.expected({})[0].settings
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _step(settings, len(cell.dataset.classes))
    finally:
        torch.set_num_threads(before)


def _step(settings: TrainSettings, classes: int) -> float:
    device = Accelerator().device
    backbone = load_backbone(
        settings.backbone, pretrained=settings.pretrained, arch=settings.arch, image_size=settings.image_size, seed=settings.seed
    )
    model = create_model(
        backbone.to(device), settings.method, classes, head=settings.head, head_options=settings.head_options, **settings.options
    ).train()
    images = torch.rand(min(IMAGES, settings.batch_size), 3, *model.preprocessing.size, device=device)
    seconds = []
    for _ in range(3):  # the first is slower
        started = time.perf_counter()
        outputs = model.outputs(images)
        target = torch.zeros(len(images), *outputs[0].shape[2:], dtype=torch.long, device=device)  # a class per image or per pixel
        loss = model.loss(outputs, target)
        loss.backward()
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return min(seconds) / len(images)
