"""The segmentation task: an image in, the class of every pixel out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from promptvit.config import checked
from promptvit.data import MaskedSplit, SegmentationDataset, load_segmentation
from promptvit.data.segmentation import pictures
from promptvit.data.segmentation.loader import masked_batches, whole_images
from promptvit.heads.segmentation import IGNORE
from promptvit.heads.windows import Inference, masks, scores
from promptvit.model import PromptedModel
from promptvit.segmentation import SegmentationModel
from promptvit.training.distributed import summed
from promptvit.training.segmentation_scores import SegmentationMeter, SegmentationScores
from promptvit.training.settings import TrainSettings

PICTURE, SHOWN, TILE = "predictions.png", 16, 96  # examples, and their side in pixels


class Segmentation:
    """Crops with their masks in batches; whole images to score. The model gets the data set's colours."""

    measures: ClassVar[tuple[str, ...]] = ("miou", "mean_accuracy", "accuracy")
    per_class: ClassVar[str] = "per_class_iou"

    def __init__(self, settings: TrainSettings, model: PromptedModel, dataset: SegmentationDataset, accelerator: Accelerator) -> None:
        assert isinstance(model, SegmentationModel)
        self.settings, self.model, self.dataset, self.accelerator = settings, model, dataset, accelerator
        self.share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
        self.inference = inference_for(model, mode=settings.inference, stride=settings.stride)
        model.palette = [(red, green, blue) for red, green, blue in dataset.palette.tolist()]

    @staticmethod
    def load(settings: TrainSettings) -> SegmentationDataset:
        """The data set of a run."""
        return load_segmentation(settings.data, root=settings.data_root, data_seed=settings.data_seed)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of an epoch, on the device: normalised crops ``[B, 3, H, W]`` and masks ``[B, H, W]``."""
        settings, model, device = self.settings, self.model, self.accelerator.device
        loader = masked_batches(
            self.dataset.splits["train"], model.preprocessing, batch_size=settings.batch_size, epoch=epoch,
            policy=settings.augment or self.dataset.augment, data_seed=settings.data_seed, workers=settings.workers, **self.share,
        )
        for batch in loader:
            yield model.preprocessing.normalized(batch.images.to(device)), batch.masks.to(device)

    def plain(self) -> Iterator[Tensor]:
        """All training images, normalised, the centre at the crop's size."""
        settings, split, preprocessing = self.settings, self.dataset.splits["train"], self.model.preprocessing
        loader = masked_batches(split, preprocessing, batch_size=settings.batch_size, epoch=0, policy="none", data_seed=settings.data_seed)
        return (preprocessing.normalized(batch.images.to(self.accelerator.device)) for batch in loader)

    def outputs(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Logits ``[B, C, H, W]`` of the main decoder, then of the auxiliary ones."""
        return self.model.outputs(inputs)

    def loss(self, outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Mean over the pixels that count."""
        return self.model.loss(outputs, target)

    def right(self, outputs: tuple[Tensor, ...], target: Tensor) -> tuple[int, int]:
        """How many pixels were named right, and of how many that count."""
        return int((outputs[0].argmax(dim=1) == target).sum()), int((target != IGNORE).sum())

    def score(self, split: str) -> SegmentationScores:
        """The model as it is now on a split, each process its share."""
        found = evaluate_masks(self.model, self.dataset.splits[split], self.inference, workers=self.settings.workers, **self.share)
        return SegmentationScores(summed(self.accelerator, found.confusion.to(self.accelerator.device)).cpu())

    def picture(self, split: str, folder: Path) -> None:
        """``predictions.png``: evenly spaced images of a split, above truth and prediction."""
        shown, palette = self.dataset.splits[split], self.dataset.palette
        count = min(SHOWN, len(shown))
        pairs = [shown.pair(place * len(shown) // count) for place in range(count)]
        found = self.model.predict([image for image, _ in pairs], self.inference)
        stacks = [
            (image, pictures.painted(truth, palette), pictures.painted(mask.numpy().astype(np.uint8), palette))
            for (image, truth), mask in zip(pairs, found, strict=True)
        ]
        pictures.sheet(stacks, folder / PICTURE, classes=self.dataset.classes, palette=palette, tile=TILE)


def inference_for(model: PromptedModel, *, stride: int | None = None, **given: Any) -> Inference:
    """How images are scored, with windows of the training crop's size.

    Args:
        model: where the crop is known from.
        stride: pixels between windows, down and across.
        **given: ``mode``, ``scales``, ``flip``; None: the default.

    Raises:
        ValueError: a value out of range.
    """
    values = {key: value for key, value in given.items() if value is not None}
    return checked(Inference, {"window": model.preprocessing.size, "stride": stride and (stride, stride), **values}, "inference")


@torch.no_grad()
def evaluate_masks(
    model: SegmentationModel, split: MaskedSplit, inference: Inference, *, workers: int = 2, rank: int = 0, world: int = 1,
    progress: Callable[[int], None] = lambda images: None,
) -> SegmentationScores:
    """Score ``model`` on every image of ``split``, whole and at the size of its mask. ``progress`` is told how many images were done.

    With several processes, ``rank`` of ``world`` counts its share.
    """
    was_training = model.training
    model.eval()
    device = next(model.head.parameters()).device
    meter = SegmentationMeter(len(model.classes), device)
    for batch in whole_images(split, model.preprocessing, rank=rank, world=world, workers=workers):
        images, truth = model.preprocessing.normalized(batch.images.to(device)), batch.masks.to(device)
        meter.update(masks(scores(model, images, inference), (truth.shape[-2], truth.shape[-1])), truth)
        progress(len(images))
    model.train(was_training)
    return meter.scores()
