"""Supervised pre-training (Dosovitskiy et al., ICLR 2021): name the kind and style of the topmost shape, from the class token."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from promptvit.data.proc import stream
from promptvit.pretraining.objective import Objective, PretrainSettings, build_encoder, normalized
from promptvit.pretraining.published import write_in21k


class SupervisedSettings(PretrainSettings):
    """Nothing of its own but AdamW's usual second beta."""

    objective: Literal["supervised"] = "supervised"
    lr: float = 1e-3
    beta2: float = 0.999


class Supervised(Objective):
    """Encoder with learned positions (they start as the sine-cosine table) and a linear head over the stream's classes."""

    Settings = SupervisedSettings

    def __init__(self, settings: SupervisedSettings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = build_encoder(settings)
        self.head = nn.Linear(settings.width, len(stream.CLASSES))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def draw(self, generator: torch.Generator, rows: slice) -> tuple[Tensor, Tensor]:
        """Normalised images ``[B, 3, H, W]`` and labels ``[B]``."""
        images, labels = stream.draw_labelled(generator, self.settings.batch_size, self.settings.image_size, rows)
        return normalized(images), labels

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self.head(self.encoder(images)).float(), labels)

    def publish(self, folder: Path, steps: int) -> Path:
        """An archive of arrays as the ImageNet-21k weights came in."""
        return write_in21k(self.encoder, self.head, folder / "supervised.npz")
