"""Use a finished segmentation run: score it again, or write the masks of image files."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from promptvit import files
from promptvit.data import BadImage, MaskedSplit, open_image
from promptvit.data.segmentation.pictures import colours, painted
from promptvit.heads.windows import Inference
from promptvit.segmentation import SegmentationModel
from promptvit.training.segmentation import evaluate_masks


def measured(model: SegmentationModel, split: MaskedSplit, inference: Inference) -> dict[str, Any]:
    """mIoU, mean and pixel accuracy and the IoU of each class, of every image of ``split``."""
    scores = evaluate_masks(model, split, inference)
    return {"images": len(split), **scores.measures, "per_class_iou": scores.per_class(model.classes)}


def segment_files(
    model: SegmentationModel, images: Mapping[Path, Path], out: Path, inference: Inference, *, top_k: int = 3
) -> Iterator[dict[str, Any]]:
    """Write ``NAME.png``, whose pixels are class indices in the classes' colours, and ``NAME-overlay.jpg`` for every image.

    Args:
        model: the tuned model.
        images: image files, each with its place below ``out``.
        out: the folder.
        inference: how images are scored.
        top_k: so many of the largest classes are named.

    Returns:
        Per image ``{"image", "mask", "overlay", "top": [{"class", "share"}]}``, or ``{"image", "error"}``.

    Raises:
        ValueError: two images would get one mask, or a mask or overlay would replace an image.
    """
    palette = palette_of(model)
    for path, target in targets_of(images, out).items():
        try:
            image = open_image(path)
        except BadImage as error:
            yield {"image": str(path), "error": error.reason}
            continue
        mask = model.predict(image, inference)[0].numpy().astype(np.uint8)
        overlay = _overlay_of(target)
        with files.atomic(target) as temporary:
            indexed(mask, palette).save(temporary, format="png", optimize=True)
        with files.atomic(overlay) as temporary:
            Image.blend(image, painted(mask, palette), 0.5).save(temporary, format="jpeg", quality=90)
        shares = np.bincount(mask.ravel(), minlength=len(model.classes)) / mask.size
        largest = [index for index in np.argsort(-shares, kind="stable")[:top_k].tolist() if shares[index]]
        top = [{"class": model.classes[index], "share": float(shares[index])} for index in largest]
        yield {"image": str(path), "mask": str(target), "overlay": str(overlay), "top": top}


def palette_of(model: SegmentationModel) -> np.ndarray:
    """The adapter's colours ``[C, 3]`` uint8, or the library's own."""
    return colours(len(model.classes)) if model.palette is None else np.array(model.palette, dtype=np.uint8)


def indexed(mask: np.ndarray, palette: np.ndarray) -> Image.Image:
    """A mask ``[h, w]`` uint8 in palette mode: readers get the indices, viewers see the colours."""
    image = Image.fromarray(mask)
    image.putpalette(palette.ravel().tolist())
    return image


def targets_of(images: Mapping[Path, Path], out: Path) -> dict[Path, Path]:
    """Where the mask of each image goes.

    Raises:
        ValueError: two images share a place, or it, or that of the overlay beside it, is an image's own.
    """
    taken: dict[Path, Path] = {}
    for path, place in images.items():
        target = (out / place).with_suffix(".png")
        if target in taken:
            raise ValueError(f"images: the masks of {taken[target]} and {path} would both be {target}; give them in two calls")
        taken[target] = path
    own = {path.resolve() for path in images}
    for target, path in taken.items():
        for what, written in (("mask", target), ("overlay", _overlay_of(target))):
            if written.resolve() in own:
                raise ValueError(f"out: the {what} of {path} would replace the image {written}; choose another folder")
    return {path: target for target, path in taken.items()}


def _overlay_of(mask: Path) -> Path:
    """Where the overlay beside a mask goes."""
    return mask.with_name(f"{mask.stem}-overlay.jpg")
