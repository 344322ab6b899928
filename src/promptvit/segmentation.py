"""A backbone, a method and a head that classify every pixel of images of any size.

The head reads the image's patch tokens after the blocks it taps; prefix tokens and prompts stay behind. SA2VP's two branches end in
its image branch: the prompt branch acts through what the image branch reads of it and has no loss of its own here.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from promptvit.backbones.base import PromptMemory
from promptvit.heads.segmentation import SegmentationHead, resized
from promptvit.heads.windows import Inference, masks, scores
from promptvit.model import PromptedModel
from promptvit.preprocessing import to_tensor


class SegmentationModel(PromptedModel):
    """``model(images)`` gives logits ``[B, C, H, W]`` of normalised images ``[B, 3, H, W]``.

    Sides that are no multiple of the patch are padded with zeros (the mean colour) on the right and at the bottom; the logits are
    cut. Positions are interpolated where the grid is not the backbone's own; ``sa2vp``, whose map has one grid, refuses others.
    """

    head: SegmentationHead

    def forward(self, images: Tensor, memory: PromptMemory | None = None) -> Tensor:
        padded = self.padded(images)
        return _fitted(self.head(*self._patch_tokens(padded, self.head.taps[-1:], memory)), padded, images)

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits ``[B, C, H, W]`` of the main decoder, then of the auxiliary ones; what :meth:`loss` reads."""
        padded = self.padded(images)
        return tuple(_fitted(logits, padded, images) for logits in self.head.outputs(*self._patch_tokens(padded, self.head.taps)))

    def loss(self, outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """What training minimises, from :meth:`outputs` and masks ``[B, H, W]`` of classes, 255 where a pixel does not count."""
        return self.head.loss(outputs, target)

    def padded(self, images: Tensor) -> Tensor:
        """``images`` with sides that are multiples of the patch."""
        high, wide = self.backbone.patch_size
        return F.pad(images, (0, -images.shape[-1] % wide, 0, -images.shape[-2] % high))

    def preprocess(self, image: Image.Image) -> Tensor:
        """One PIL image, whole, scaled to cover the training crop (its short side becomes a square crop's): ``[3, H, W]``."""
        whole = self.preprocessing.replaced(resize="short", crop_pct=1.0)
        return whole.normalized(to_tensor(whole.resized(image.convert("RGB"))))

    @torch.no_grad()
    def predict(  # type: ignore[override]  # a mask is no class with a probability
        self, images: Tensor | Image.Image | Sequence[Image.Image], inference: Inference | None = None
    ) -> list[Tensor]:
        """The class index of every pixel: for each image a mask ``[H, W]`` at its own size.

        ``images`` are PIL images, or a preprocessed batch ``[B, 3, H, W]``; ``inference`` slides over windows of the training crop by
        default.
        """
        if isinstance(images, Image.Image):
            images = [images]
        inference = inference or Inference(window=self.preprocessing.size)
        sizes = [(image.height, image.width) if isinstance(image, Image.Image) else tuple(image.shape[-2:]) for image in images]
        device = next(self.head.parameters()).device
        was_training = self.training
        self.eval()
        found = []
        for image, size in zip(images, sizes, strict=True):
            pixels = image if isinstance(image, Tensor) else self.preprocess(image)
            found.append(masks(scores(self, pixels[None].to(device), inference), size)[0].cpu())
        self.train(was_training)
        return found

    def _patch_tokens(
        self, images: Tensor, taps: tuple[int, ...], memory: PromptMemory | None = None
    ) -> tuple[dict[int, Tensor], tuple[int, int]]:
        """Patch tokens ``[B, N, D]`` after each of ``taps``, and their grid."""
        encoded = self.method(self.backbone, images, taps=taps, memory=memory, any_size=True)
        first = self.backbone.num_prefix_tokens
        return {i: tokens[:, first:] for i, tokens in encoded.taps.items()}, self.backbone.grid_of(images)


def dense_options(method_options: dict[str, Any], head_init: str) -> dict[str, Any]:
    """Options of a method under a segmentation head: it pools nothing, so the last block need not compute its prompts.

    Raises:
        ValueError: an option that only classification has.
    """
    if method_options.get("pool") not in (None, "mean"):
        raise ValueError(f"pool: a segmentation head reads every patch; leave it out, got {method_options['pool']!r}")
    if head_init != "small":
        raise ValueError(f"head_init: segmentation heads have their authors' own; leave it out, got {head_init!r}")
    return {**method_options, "pool": "mean"}


def _fitted(logits: Tensor, padded: Tensor, images: Tensor) -> Tensor:
    """Logits of ``padded`` images at the size of ``images``."""
    height, width = images.shape[-2:]
    return resized(logits, (padded.shape[-2], padded.shape[-1]))[..., :height, :width]
