"""What happens to an image before the backbone sees it. It travels with the weights and is stored in every adapter."""

from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt
from torch import Tensor

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

Normalization = Literal["weights", "imagenet", "half", "none"]
Resize = Literal["short", "direct"]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
CropShare = Annotated[float, Field(ge=0.01, le=1)]

MOST = 2**28  # pixels of a scaled image: 800 MB

_NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Preprocessing(BaseModel):
    """Size, crop, interpolation and normalisation.

    Attributes:
        size: height and width that the backbone expects, in pixels.
        resize: ``short`` scales the short side to ``size / crop_pct`` and crops the centre; ``direct`` scales both sides to
            ``size`` and does not keep the aspect ratio (VTAB's way).
        crop_pct: share of the resized side that the centre crop keeps, in [0.01, 1].
        interpolation: how Pillow resizes.
        mean, std: per channel, of values in [0, 1].
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[PositiveInt, PositiveInt] = (224, 224)
    resize: Resize = "short"
    crop_pct: CropShare = 0.875
    interpolation: Interpolation = "bicubic"
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = (0.485, 0.456, 0.406)
    std: tuple[Scale, Scale, Scale] = (0.229, 0.224, 0.225)

    def replaced(
        self,
        normalization: Normalization = "weights",
        resize: Resize | None = None,
        interpolation: Interpolation | None = None,
        crop_pct: float | None = None,
    ) -> "Preprocessing":
        """A copy with another normalisation (``weights`` keeps the weights' own) or another way to resize (None keeps what there is)."""
        given = {"resize": resize, "interpolation": interpolation, "crop_pct": crop_pct}
        changes: dict[str, object] = {key: value for key, value in given.items() if value is not None}
        if normalization != "weights":
            changes["mean"], changes["std"] = _NORMALIZATIONS[normalization]
        return self.model_copy(update=changes)

    def __str__(self) -> str:
        way = (
            f"short side to {' x '.join(str(round(s / self.crop_pct)) for s in self.size)}, centre crop"
            if self.resize == "short"
            else "direct"
        )
        return f"{self.size[0]} x {self.size[1]} px ({way}, {self.interpolation}), mean {self.mean}, std {self.std}"

    def resized(self, image: Image.Image) -> Image.Image:
        """Scale an RGB image, before any crop.

        Raises:
            ValueError: it would have more than :data:`MOST` pixels.
        """
        height, width = self.size
        if self.resize == "direct":
            target = (width, height)
        else:
            scale = max(round(height / self.crop_pct) / image.height, round(width / self.crop_pct) / image.width)
            target = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        if target[0] * target[1] > MOST:
            raise ValueError(f"preprocessing: an image of {image.width} x {image.height} px would be scaled to {target[0]} x {target[1]}")
        return image if image.size == target else image.resize(target, _RESAMPLING[self.interpolation])

    def cropped(self, image: Image.Image) -> Image.Image:
        """Cut ``size`` out of the centre of a resized image."""
        height, width = self.size
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    def normalized(self, pixels: Tensor) -> Tensor:
        """``[..., 3, H, W]`` uint8 in 0..255 (or float in 0..1) to normalised float32."""
        values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        mean, std = (torch.tensor(v, device=values.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (values - mean) / std

    def __call__(self, image: Image.Image) -> Tensor:
        """One PIL image of any mode to a normalised ``[3, H, W]`` tensor, as in evaluation."""
        return self.normalized(to_tensor(self.cropped(self.resized(image.convert("RGB")))))


def to_tensor(image: Image.Image) -> Tensor:
    """RGB image to ``[3, H, W]`` uint8."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
