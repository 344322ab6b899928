"""Score a model on a split."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from promptvit.data import Split, batches
from promptvit.model import PromptedModel


@dataclass(frozen=True)
class Scores:
    """Counts per class: images seen and images named right ``[C]``."""

    seen: Tensor
    right: Tensor

    @property
    def value(self) -> float:
        """What selects: the accuracy."""
        return self.accuracy

    @property
    def measures(self) -> dict[str, float]:
        """What ``result.json`` says of the split as a whole."""
        return {"accuracy": self.accuracy}

    @property
    def accuracy(self) -> float:
        """Share of all images that were named right, in 0..1."""
        return int(self.right.sum()) / max(1, int(self.seen.sum()))

    def per_class(self, classes: list[str]) -> dict[str, float | None]:
        """Share per class; None where the split has no image of it."""
        counts = zip(classes, self.right.tolist(), self.seen.tolist(), strict=True)
        return {name: right / seen if seen else None for name, right, seen in counts}


@torch.no_grad()
def evaluate(
    model: PromptedModel, split: Split, *, batch_size: int = 64, workers: int = 2, progress: Callable[[int], None] = lambda images: None,
    features: Tensor | None = None, rank: int = 0, world: int = 1,
) -> Scores:
    """Accuracy of ``model`` on every image of ``split``, once. ``progress`` is told how many images were done.

    ``features [N, D]`` of the split, where they are known, spare the backbone's pass. With several processes, ``rank`` of ``world``
    counts its share.
    """
    was_training = model.training
    model.eval()
    seen = torch.zeros(len(model.classes), dtype=torch.long)
    right = seen.clone()
    for logits, labels in _answers(model, split, batch_size, workers, features, rank, world):
        seen += labels.bincount(minlength=len(seen))
        right += labels[logits.argmax(dim=-1).cpu() == labels].bincount(minlength=len(seen))
        progress(len(labels))
    model.train(was_training)
    return Scores(seen, right)


def _answers(
    model: PromptedModel, split: Split, batch_size: int, workers: int, features: Tensor | None, rank: int, world: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits ``[B, C]`` and labels ``[B]``, batch by batch."""
    device = next(model.head.parameters()).device
    if features is None:
        for batch in batches(split, model.preprocessing, batch_size=batch_size, workers=workers, rank=rank, world=world):
            yield model(model.preprocessing.normalized(batch.images.to(device))), batch.labels
    else:
        labels = torch.tensor(split.labels, dtype=torch.long)[rank::world]
        for rows, answers in zip(features[rank::world].split(batch_size), labels.split(batch_size), strict=True):
            yield model.head(rows.to(device)), answers
