"""Use a finished run: score it again, name the classes of image files, or write their masks."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from promptvit.adapter import find, read_config
from promptvit.backbones.loading import load_backbone
from promptvit.data import SegmentationDataset, load_dataset, load_segmentation
from promptvit.data.images import FORMATS, BadImage, open_image
from promptvit.errors import unknown
from promptvit.experiments import segmentations
from promptvit.heads.windows import Inference
from promptvit.model import PromptedModel
from promptvit.segmentation import SegmentationModel
from promptvit.training import evaluate
from promptvit.training.run import read_settings
from promptvit.training.segmentation import inference_for

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
    inference: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores of a run on its own data set, or on another one with the same class names.

    Args:
        inference: how a segmentation is scored, where not as in training; see :func:`promptvit.training.segmentation.inference_for`.

    Raises:
        ValueError: no data set is known, an unknown split, other classes, or ``inference`` for a classifier.
    """
    model = load_model(run, backbone=backbone, arch=arch)
    dense = isinstance(model, SegmentationModel)
    given: dict[str, Any] = {"root": data_root}
    how = _inference(run, model, inference)
    if (Path(run) / "config.yaml").is_file():
        settings = read_settings(Path(run))
        keys = ("data_seed",) if dense else ("data_seed", "shots", "strict")
        given = {key: getattr(settings, key) for key in keys} | {"root": data_root or settings.data_root}
        data = data or settings.data
    if data is None:
        raise ValueError("data: an adapter folder does not know its data set; give --data (and --data-root)")
    dataset = load_segmentation(data, **given) if dense else load_dataset(data, **given)
    for note in dataset.notes:
        log.info(note)
    if split not in dataset.splits:
        raise ValueError(unknown("split", split, dataset.splits))
    if dataset.classes != model.classes:
        odd = sorted(set(dataset.classes) ^ set(model.classes))[:5]
        counts = f"{len(dataset.classes)} and {len(model.classes)}"
        told = f"{counts}; not in both: {odd}" if odd else "the same in another order"
        raise ValueError(f"data: {data} has other classes than the adapter ({told})")
    found = {"run": str(run), "dataset": dataset.name, "split": split}
    if isinstance(dataset, SegmentationDataset):
        assert isinstance(model, SegmentationModel)
        return found | segmentations.measured(model, dataset.splits[split], how)
    scores = evaluate(model, dataset.splits[split])
    images = int(scores.seen.sum())
    return found | {"images": images, "accuracy": scores.accuracy, "per_class_accuracy": scores.per_class(model.classes)}


def predict_files(
    run: str, paths: Iterable[Path], *, top_k: int = 3, backbone: str | None = None, arch: str | None = None, out: Path | None = None,
    inference: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """For each image file (folders are searched): ``{"image", "top": [{"class", "probability"}]}``, or ``{"image", "error"}``.

    A segmentation run writes masks into ``out`` instead; see :func:`promptvit.experiments.segmentations.segment_files`.

    Raises:
        ValueError: no image file at all, a run that cannot be loaded, no ``out`` for masks, or one or ``inference`` for a classifier.
    """
    paths = list(paths)
    files = list(_image_files(paths))
    if not files:
        raise ValueError(f"images: no image file in {', '.join(map(str, paths))}")
    model = load_model(run, backbone=backbone, arch=arch)
    how = _inference(run, model, inference)
    if isinstance(model, SegmentationModel):
        if out is None:
            raise ValueError("out: missing; the run gives masks, say where to write them with --out DIR")
        yield from segmentations.segment_files(model, dict(files), out, how, top_k=top_k)
        return
    if out is not None:
        raise ValueError("out: the run names classes and writes nothing; leave --out away")
    for path, _ in files:
        try:
            image = open_image(path)
        except BadImage as error:
            yield {"image": str(path), "error": error.reason}
            continue
        probabilities = model.predict(image).probabilities[0]
        values, order = probabilities.topk(min(top_k, len(model.classes)))
        top = [{"class": model.classes[i], "probability": p} for i, p in zip(order.tolist(), values.tolist(), strict=True)]
        yield {"image": str(path), "top": top}


def _inference(run: str, model: PromptedModel, inference: Mapping[str, Any] | None) -> Inference:
    """``inference`` as far as it is given, else as the run was scored."""
    given = {key: value for key, value in (inference or {}).items() if value is not None}
    if given and not isinstance(model, SegmentationModel):
        raise ValueError(f"{', '.join(given)}: only for segmentation; the run names the class of an image")
    if (Path(run) / "config.yaml").is_file():
        settings = read_settings(Path(run))
        given = {"mode": settings.inference, "stride": settings.stride} | given
    return inference_for(model, **given)


def _image_files(paths: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Image files, each with its path relative to the folder it was found in."""
    for path in paths:
        if path.is_dir():
            found = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            inside = sorted((p, p.relative_to(path)) for p in found)
            yield from ((p, place) for p, place in inside if not any(part.startswith(".") for part in place.parts))
        else:
            yield path, Path(path.name)
