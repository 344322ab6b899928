"""The classification task: an image in, one class out."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor

from promptvit.data import Dataset, batches, load_dataset
from promptvit.data.loader import places
from promptvit.model import PromptedModel
from promptvit.training.distributed import summed
from promptvit.training.evaluation import Scores, evaluate
from promptvit.training.probe import extract, inputs_are_fixed
from promptvit.training.settings import TrainSettings


class Classification:
    """Images in batches, one class each."""

    measures: ClassVar[tuple[str, ...]] = ("accuracy",)
    per_class: ClassVar[str] = "per_class_accuracy"

    def __init__(self, settings: TrainSettings, model: PromptedModel, dataset: Dataset, accelerator: Accelerator) -> None:
        self.settings, self.model, self.dataset, self.accelerator = settings, model, dataset, accelerator
        self.share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
        self.features: dict[str, Tensor] = {}  # by split, where one pass over the images is enough

    @staticmethod
    def load(settings: TrainSettings) -> Dataset:
        """The data set of a run."""
        return load_dataset(
            settings.data, root=settings.data_root, data_seed=settings.data_seed, shots=settings.shots, strict=settings.strict
        )

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of an epoch, on the device: normalised images, or features where they are fixed; and labels."""
        settings, split, device = self.settings, self.dataset.splits["train"], self.accelerator.device
        features = self._known("train")
        if features is not None:
            labels = torch.tensor(split.labels, dtype=torch.long)
            for rows in map(torch.from_numpy, places(len(split), settings.batch_size, epoch, settings.data_seed, **self.share)):
                yield features[rows].to(device), labels[rows].to(device)
            return
        loader = batches(
            split, self.model.preprocessing, batch_size=settings.batch_size, epoch=epoch, policy=settings.augment or "none",
            data_seed=settings.data_seed, workers=settings.workers, device=device, **self.share,
        )
        for batch in loader:
            yield self.model.preprocessing.normalized(batch.images.to(device)), batch.labels.to(device)

    def plain(self) -> Iterator[Tensor]:
        """All training images, normalised, without augmentation."""
        settings, split, preprocessing = self.settings, self.dataset.splits["train"], self.model.preprocessing
        loader = batches(split, preprocessing, batch_size=settings.batch_size, epoch=0, policy="none", data_seed=settings.data_seed)
        return (preprocessing.normalized(batch.images.to(self.accelerator.device)) for batch in loader)

    def outputs(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Logits ``[B, C]`` of every branch, the scored one first."""
        return (self.model.head(inputs),) if inputs_are_fixed(self.settings) else self.model.outputs(inputs)

    def loss(self, outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Mean over the images."""
        return self.model.method.loss(outputs, target)

    def right(self, outputs: tuple[Tensor, ...], target: Tensor) -> tuple[int, int]:
        """How many images were named right, and of how many."""
        return int((outputs[0].argmax(dim=-1) == target).sum()), len(target)

    def score(self, split: str) -> Scores:
        """The model as it is now on a split, each process its share."""
        settings = self.settings
        scores = evaluate(
            self.model, self.dataset.splits[split], batch_size=settings.batch_size, workers=settings.workers,
            features=self._known(split), **self.share,
        )
        counts = summed(self.accelerator, torch.stack([scores.seen, scores.right]).to(self.accelerator.device)).cpu()
        return Scores(*counts)

    def picture(self, split: str, folder: Path) -> None:
        """Classes are names, not pictures."""

    def _known(self, split: str) -> Tensor | None:
        """Features of a split where they are fixed, computed once; training in mixed precision sees what it computes."""
        if not inputs_are_fixed(self.settings):
            return None
        if split not in self.features:
            autocast = self.accelerator.autocast if split == "train" else nullcontext
            settings = self.settings
            self.features[split] = extract(
                self.model, self.dataset.splits[split], batch_size=settings.batch_size, workers=settings.workers, autocast=autocast
            )
        return self.features[split]
