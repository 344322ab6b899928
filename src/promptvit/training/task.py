"""What the training loop knows of a task, and nothing more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

from accelerate import Accelerator
from torch import Tensor

from promptvit.data import Dataset, SegmentationDataset
from promptvit.model import PromptedModel
from promptvit.training.settings import TrainSettings


class Scores(Protocol):
    """What a model is worth on a split; all numbers in 0..1."""

    @property
    def value(self) -> float:
        """What selects; higher is better."""

    @property
    def measures(self) -> dict[str, float]:
        """Numbers of the split as a whole, by name."""

    def per_class(self, classes: list[str]) -> dict[str, float | None]:
        """The number of each class; None where it has none."""


class Task(Protocol):
    """Batches, loss and score of one run.

    Attributes:
        measures: names of :attr:`Scores.measures`, as in ``result.json``.
        per_class: name there of what :meth:`Scores.per_class` gives.
    """

    measures: ClassVar[tuple[str, ...]]
    per_class: ClassVar[str]

    def __init__(self, settings: TrainSettings, model: PromptedModel, dataset: Any, accelerator: Accelerator) -> None: ...

    @staticmethod
    def load(settings: TrainSettings) -> Dataset | SegmentationDataset:
        """The data set of a run."""

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of an epoch, on the device: what :meth:`outputs` reads, and the target."""

    def plain(self) -> Iterator[Tensor]:
        """All training images, normalised, without augmentation: ``[B, 3, H, W]``, the same in every process."""

    def outputs(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """What :meth:`loss` reads."""

    def loss(self, outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Mean over the batch."""

    def right(self, outputs: tuple[Tensor, ...], target: Tensor) -> tuple[int, int]:
        """How many answers are right, and of how many."""

    def score(self, split: str) -> Scores:
        """The model as it is now on a split, each process its share."""

    def picture(self, split: str, folder: Path) -> None:
        """Draw what the model makes of a split into the run folder, where the task has a picture for it."""
