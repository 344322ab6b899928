"""One run, looked at from all sides: numbers only, small enough to keep many runs' beside one another."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptvit import analysis
from promptvit.analysis.forgetting import FOLDS, NOISE
from promptvit.analysis.recorder import Asking
from promptvit.analysis.sensitivity import Loss
from promptvit.analysis.similarity import Similarity
from promptvit.data import Dataset, Split, batches, load_dataset
from promptvit.data.seeding import Purpose, generator, shuffled
from promptvit.experiments.use import load_model
from promptvit.methods.base import Shown
from promptvit.model import PromptedModel
from promptvit.training.run import read_settings
from promptvit.training.settings import TrainSettings

INSIDE, DESCRIBED, DECODED = 32, 8, 96  # images: for what is recorded, for what methods say of themselves, for forgetting
AT_A_TIME = 4  # in a recorded pass
FEWEST = 2 * FOLDS  # images, for forgetting


@dataclass(frozen=True)
class Looks:
    """Where a model looks.

    Attributes:
        asking: whose view of the image is shown: the class token's (``prefix``) or that of all patches.
        maps: by who asks, then by block, in order: ``[examples, heads, rows, columns]``, each map summing to one. Blocks that see no
            prompts are missing from those of prompts.
        rollout: ``[examples, rows, columns]``; None where windows allow none.
        share: share of that attention which goes to prompts, ``[blocks, heads]``, over the recorded images; None without prompts.
    """

    asking: Asking
    maps: dict[Asking, dict[int, np.ndarray]]
    rollout: np.ndarray | None
    share: np.ndarray | None


@dataclass(frozen=True)
class Findings:
    """What analysis found of one run.

    Attributes:
        alike, decodable, traces: likeness of prompts and patches; forgetting, read through noise, and any trace ``[blocks, blocks]``.
        record: lines of ``record.jsonl``.
        notes: what could not be measured, and why.
    """

    run: str
    settings: TrainSettings
    sample: Split
    classes: list[str]
    labels: Tensor
    probabilities: Tensor
    losses: list[Loss]
    examples: np.ndarray
    looks: Looks | None
    shown: list[Shown]
    alike: Similarity
    record: list[dict[str, Any]]
    decodable: np.ndarray
    traces: np.ndarray
    notes: list[str]

    @property
    def accuracy(self) -> float:
        """Share of the sample named right."""
        return float((self.probabilities.argmax(dim=-1) == self.labels).float().mean())


def open_run(run: str) -> tuple[TrainSettings, Dataset]:
    """Settings and data set of a run folder.

    Raises:
        ValueError: it holds no run, or one of segmentation.
    """
    settings = read_settings(Path(run))
    if settings.task != "classification":
        raise ValueError(f"analyze: {run} is a run of {settings.task}; only classification can be analysed")
    given = {key: getattr(settings, key) for key in ("data_seed", "shots", "strict")}
    return settings, load_dataset(settings.data, root=settings.data_root, **given)


def drawn(split: Split, count: int, seed: int) -> Split:
    """``count`` images of a split, or all it has, in a seeded order: drawn, not picked."""
    return split.subset(shuffled(len(split), generator(seed, Purpose.SAMPLE))[:count])


def look_at(run: str, examples: Split, *, split: str, images: int, seed: int) -> Findings:
    """Load a run and measure everything on ``images`` of its ``split``; attention is also kept for each of ``examples``.

    Raises:
        ValueError: no such run, or too few images.
    """
    settings, dataset = open_run(run)
    if len(dataset.splits[split]) < FEWEST:
        raise ValueError(f"analyze: {run}: {split} has {len(dataset.splits[split])} images, {FEWEST} are needed; choose another split")
    model = load_model(run)
    if dataset.classes != model.classes:
        raise ValueError(f"analyze: {run}: the data set {dataset.name} no longer has the classes that the run was trained for")
    sample = drawn(dataset.splits[split], images, seed)
    pixels, (examined, shown_pixels) = normalized(model, sample)[0], normalized(model, examples)
    labels, inside = torch.tensor(sample.labels), pixels[:INSIDE]
    logits, losses = analysis.sensitivity(model, pixels, labels)
    decodable, traces = analysis.decodable(model, pixels[:DECODED], noise=(NOISE, 0.0)).numpy()
    share = Share(model)
    alike = analysis.similarity(model, inside, batch_size=AT_A_TIME, watch=share.add)
    notes, looks = [], None
    try:
        looks = looking(model, examined, share.mean())
    except ValueError as error:
        notes.append(str(error))
    return Findings(
        run=run, settings=settings, sample=sample, classes=dataset.classes, labels=labels, probabilities=logits.softmax(dim=-1),
        losses=losses, examples=shown_pixels, looks=looks, shown=model.method.describe(model.backbone, inside[:DESCRIBED]),
        alike=alike, record=_record(Path(run)), decodable=decodable, traces=traces, notes=notes,
    )


def normalized(model: PromptedModel, split: Split) -> tuple[Tensor, np.ndarray]:
    """All images of a small split as the model sees them, ``[B, 3, H, W]``, and for people, ``[B, H, W, 3]`` uint8."""
    pixels = torch.cat([batch.images for batch in batches(split, model.preprocessing, batch_size=16)])
    device = next(model.head.parameters()).device
    return model.preprocessing.normalized(pixels.to(device)), pixels.permute(0, 2, 3, 1).numpy()


def looking(model: PromptedModel, examples: Tensor, share: np.ndarray | None) -> Looks:
    """Attention on normalised ``examples``; ``share`` is that of the prompts, measured on more images.

    Raises:
        ValueError: a block is a black box.
    """
    asking = analysis.looker(model)
    maps: dict[Asking, dict[int, list[Tensor]]] = {}
    for batch in examples.split(AT_A_TIME):
        for i, attention in sorted(analysis.attend(model, batch, whole=True).items()):
            for who in (asking, "prompts") if attention.prompts else (asking,):
                maps.setdefault(who, {}).setdefault(i, []).append(_on_grid(model, i, analysis.head_maps(attention, who)))
    windows = model.backbone.blocks()[0].window is not None
    grid = model.backbone.grid
    rolled = None if windows else [analysis.rollout(model, batch).unflatten(-1, grid) for batch in examples.split(AT_A_TIME)]
    return Looks(
        asking=asking,
        maps={who: {i: torch.cat(parts).cpu().numpy() for i, parts in blocks.items()} for who, blocks in maps.items()},
        rollout=None if rolled is None else torch.cat(rolled).cpu().numpy(),
        share=share,
    )


def _on_grid(model: PromptedModel, i: int, maps: Tensor) -> Tensor:
    return maps.unflatten(-1, analysis.grid_at(model.backbone, i))


class Share:
    """How much of the attention goes to prompts, summed batch by batch."""

    def __init__(self, model: PromptedModel) -> None:
        self.asking, self.depth = analysis.looker(model), model.backbone.depth
        self.parts: dict[int, list[Tensor]] = {}

    def add(self, attention: Mapping[int, analysis.Attention]) -> None:
        """All blocks of one batch."""
        for i, one in attention.items():
            if one.prompts:
                self.parts.setdefault(i, []).append(analysis.prompt_share(one, self.asking))

    def mean(self) -> np.ndarray | None:
        """Over images: ``[blocks, heads]``, NaN where a block has fewer heads than others or no prompts; None without prompts."""
        means = {i: torch.cat(parts).mean(dim=0).cpu() for i, parts in self.parts.items()}
        if not means:
            return None
        found = np.full((self.depth, max(map(len, means.values()))), np.nan)
        for i, mean in means.items():
            found[i, : len(mean)] = mean.numpy()
        return found


def _record(run: Path) -> list[dict[str, Any]]:
    """Lines of ``record.jsonl``, which ``train --record`` writes; none where there is no such file."""
    path = run / "record.jsonl"
    if not path.is_file():
        return []
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        whole = all({"epoch", "nmi", "cka"} <= line.keys() for line in lines)
    except (ValueError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"analyze: {path} is damaged; delete it, the rest of the run can be analysed without")
    return lines


def labels_of(settings: Sequence[TrainSettings]) -> list[str]:
    """A name for each run: its method, and what tells it from others of the same method. Runs that differ in seeds only share theirs."""
    same = {"seed", "data_seed", "out", "workers", "data_root", "memory", "record", "options", "method"}
    flat = [{k: v for k, v in s.model_dump(mode="json").items() if k not in same} | s.options for s in settings]
    labels = []
    for own, of in zip(settings, flat, strict=True):
        rivals = [other for s, other in zip(settings, flat, strict=True) if s.method == own.method]
        differing = sorted(key for key in of if any(other.get(key) != of[key] for other in rivals))
        backbones = {rival["backbone"] for rival in rivals}
        told = ", ".join(f"{key}={_end(of[key], backbones) if key == 'backbone' else of[key]}" for key in differing)
        labels.append(f"{own.method} ({told})" if told else own.method)
    return labels


def _end(path: str, others: Collection[str]) -> str:
    """The last parts of a backbone's path, as many as tell it from ``others``: of pre-trained ones the last is always ``export``."""
    parts = Path(path).parts
    for count in range(1, len(parts)):
        if all(Path(other).parts[-count:] != parts[-count:] for other in others if other != path):
            return str(Path(*parts[-count:]))
    return path
