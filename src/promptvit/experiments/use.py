"""Use a finished run: score it again, or name the classes of image files."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from promptvit.adapter import find, read_config
from promptvit.backbones.loading import load_backbone
from promptvit.data import load_dataset
from promptvit.data.images import FORMATS, BadImage, open_image
from promptvit.errors import unknown
from promptvit.model import PromptedModel
from promptvit.training import evaluate
from promptvit.training.run import read_settings

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def load_model(run: str, *, backbone: str | None = None, arch: str | None = None) -> PromptedModel:
    """The tuned model of a run folder, adapter folder or hub repository.

    A run folder knows where its backbone file was; for a bare adapter of a local file ``backbone`` names it.
    """
    config = read_config(find(run))  # a wrong folder is reported before the backbone is loaded
    loaded = load_backbone(backbone, arch=arch, image_size=config.preprocessing.size) if backbone else None
    if loaded is None and (Path(run) / "config.yaml").is_file():
        settings = read_settings(Path(run))
        loaded = load_backbone(
            settings.backbone, pretrained=settings.pretrained, arch=settings.arch, image_size=settings.image_size, seed=settings.seed
        )
    return PromptedModel.from_pretrained(run, backbone=loaded)


def evaluate_run(
    run: str,
    *,
    data: str | None = None,
    data_root: str | None = None,
    split: str = "test",
    backbone: str | None = None,
    arch: str | None = None,
) -> dict[str, Any]:
    """Accuracy of a run on its own data set, or on another one with the same class names.

    Raises:
        ValueError: no data set is known, an unknown split, or other classes.
    """
    model = load_model(run, backbone=backbone, arch=arch)
    given: dict[str, Any] = {"root": data_root}
    if (Path(run) / "config.yaml").is_file():
        settings = read_settings(Path(run))
        given = {key: getattr(settings, key) for key in ("data_seed", "shots", "strict")} | {"root": data_root or settings.data_root}
        data = data or settings.data
    if data is None:
        raise ValueError("data: an adapter folder does not know its data set; give --data (and --data-root)")
    dataset = load_dataset(data, **given)
    for note in dataset.notes:
        log.info(note)
    if split not in dataset.splits:
        raise ValueError(unknown("split", split, dataset.splits))
    if dataset.classes != model.classes:
        odd = sorted(set(dataset.classes) ^ set(model.classes))[:5]
        counts = f"{len(dataset.classes)} and {len(model.classes)}"
        raise ValueError(f"data: {data} has other classes than the adapter ({counts}; not in both: {odd})")
    scores = evaluate(model, dataset.splits[split])
    return {
        "run": str(run),
        "dataset": dataset.name,
        "split": split,
        "images": int(scores.seen.sum()),
        "accuracy": scores.accuracy,
        "per_class_accuracy": scores.per_class(model.classes),
    }


def predict_files(
    run: str, paths: Iterable[Path], *, top_k: int = 3, backbone: str | None = None, arch: str | None = None
) -> Iterator[dict[str, Any]]:
    """For each image file (folders are searched): ``{"image", "top": [{"class", "probability"}]}``, or ``{"image", "error"}``.

    Raises:
        ValueError: no image file at all, or a run that cannot be loaded.
    """
    files = list(_image_files(paths))
    if not files:
        raise ValueError(f"images: no image file in {', '.join(map(str, paths))}")
    model = load_model(run, backbone=backbone, arch=arch)
    for path in files:
        try:
            image = open_image(path)
        except BadImage as error:
            yield {"image": str(path), "error": error.reason}
            continue
        probabilities = model.predict(image).probabilities[0]
        values, order = probabilities.topk(min(top_k, len(model.classes)))
        top = [{"class": model.classes[i], "probability": p} for i, p in zip(order.tolist(), values.tolist(), strict=True)]
        yield {"image": str(path), "top": top}


def _image_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            yield from sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts))
        else:
            yield path
