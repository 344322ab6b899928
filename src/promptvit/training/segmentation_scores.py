"""What a segmentation is worth: intersection over union, and pixels named right, from one confusion matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from promptvit.heads.segmentation import IGNORE


@dataclass(frozen=True)
class SegmentationScores:
    """``confusion [C, C]``: pixels by true class (row) and predicted class (column); ignored pixels are not in it.

    A class is left out of a mean where its share has nothing to divide by: of mIoU where neither truth nor prediction has a pixel of
    it, of the mean accuracy where the truth has none. A mean of no class at all is 0.
    """

    confusion: Tensor

    @property
    def value(self) -> float:
        """What selects: the mIoU."""
        return self.miou

    @property
    def measures(self) -> dict[str, float]:
        """What ``result.json`` says of the split as a whole; ``accuracy`` is that of the pixels."""
        return {"miou": self.miou, "mean_accuracy": self.mean_accuracy, "accuracy": self.pixel_accuracy}

    @property
    def iou(self) -> Tensor:
        """Intersection over union of each class ``[C]``, in 0..1; NaN for a class in neither truth nor prediction."""
        right = self.confusion.diagonal()
        return right.double() / (self.confusion.sum(0) + self.confusion.sum(1) - right)

    @property
    def miou(self) -> float:
        """Mean of the classes' IoU, in 0..1."""
        return _mean(self.iou)

    @property
    def mean_accuracy(self) -> float:
        """Mean over the classes of the share of their pixels that are named right, in 0..1."""
        return _mean(self.confusion.diagonal().double() / self.confusion.sum(1))

    @property
    def pixel_accuracy(self) -> float:
        """Share of all pixels that are named right, in 0..1."""
        return int(self.confusion.diagonal().sum()) / max(1, int(self.confusion.sum()))

    def per_class(self, classes: list[str]) -> dict[str, float | None]:
        """IoU by class name; None for a class in neither truth nor prediction."""
        return {name: None if value != value else value for name, value in zip(classes, self.iou.tolist(), strict=True)}


class SegmentationMeter:
    """Counts masks as they come. ``device``: where the masks are."""

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.confusion = MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=False).to(device)

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Count masks ``[..., H, W]`` of class indices; pixels whose target is 255 do not count.

        Raises:
            ValueError: masks of two sizes, or an index that is no class.
        """
        if predicted.shape != target.shape:
            raise ValueError(f"masks: predicted {tuple(predicted.shape)}, target {tuple(target.shape)}; bring them to one size")
        for name, indices in (("predicted", predicted), ("target", target[target != IGNORE])):
            if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < self.num_classes:
                found = f"{int(indices.min())} to {int(indices.max())}"
                raise ValueError(f"masks: {name} has indices {found}; classes are 0 to {self.num_classes - 1}, and {IGNORE} is ignored")
        self.confusion.update(predicted.long(), target.long())

    def scores(self) -> SegmentationScores:
        """The scores of all masks so far."""
        return SegmentationScores(self.confusion.compute().cpu().reshape(self.num_classes, self.num_classes))


def _mean(shares: Tensor) -> float:
    known = shares[~shares.isnan()]
    return float(known.mean()) if len(known) else 0.0
