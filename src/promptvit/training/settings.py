"""All settings of a run, typed and complete; what a run folder stores as ``config.yaml``."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from promptvit.config import checked
from promptvit.data import Dataset, SegmentationDataset
from promptvit.data.segmentation.registry import TASKS, is_segmentation
from promptvit.errors import shown, unknown
from promptvit.heads.classification import HeadInit
from promptvit.heads.segmentation import PLANS
from promptvit.methods import method_class, method_config
from promptvit.preprocessing import CropShare, Interpolation, Normalization, Resize

WHERE = ("out", "workers", "data_root", "memory", "record")  # where and how fast, not what: no part of the settings hash
EPOCHS = 50
HEADS = {"classification": ("linear",), "segmentation": tuple(PLANS)}
DEFAULTS: dict[str, dict[str, Any]] = {  # where a task's are not those of the class below
    "classification": {},
    "segmentation": {"head": "setr-pup", "head_lr": 1e-3, "batch_size": 16, "schedule": "poly", "warmup": 0.0},
}
ONLY = {"classification": ("shots", "head_init", "resize", "crop_pct", "record"), "segmentation": ("head_options", "inference", "stride")}


class TrainSettings(BaseModel):
    """Settings of one run.

    Attributes:
        backbone, pretrained, arch, image_size: see :func:`promptvit.load_backbone`.
        method, options: the method's name and its own options.
        task: ``classification`` of images or ``segmentation``; default: what the data set is for.
        head, head_options: see :func:`promptvit.create_model`; ``linear`` for images, ``setr-pup`` for pixels.
        normalization, resize, interpolation, crop_pct: replace parts of the weights' own preprocessing; see
            :meth:`Preprocessing.replaced`. ``resize`` defaults to the data set's own way where it has one.
        train_on: ``train+val`` joins both splits (VTAB-1k's 1,000 images); nothing is left to validate on then.
        score: split that is scored at the end, once. A search scores ``val`` and never opens ``test``.
        data, data_root, shots, strict: the data set, where it lies, K images per class, unreadable files as errors.
        augment: training augmentation; None takes the data set's own.
        epochs, iterations: passes over the training split (default 50), or instead of them steps in all: the last epoch is cut there.
        batch_size: images per step; 32, of segmentation 16.
        optimizer, lr, momentum, weight_decay: the rate as the optimiser gets it; None takes the method's own.
        head_lr, head_weight_decay: for the head; None: the same as for the method. A segmentation head's rate is 0.001 by default.
        warmup: share of the steps with a linearly rising rate; 0.1, of segmentation 0.
        schedule: the rate after that. ``step``: half a cosine to zero, step by step. ``poly``, the default of segmentation: the share of
            steps that are left, to the power of 0.9. ``epoch`` is the quirk of VPT's code and its forks: half a cosine, changed once per
            epoch, and the first epoch has rate 0.
        select: ``best`` keeps the epoch with the highest validation accuracy or mIoU (the earliest on ties), ``last`` the last one.
            ``best-on-test`` is the quirk of some published code: the test split is scored after every epoch and its best epoch is
            kept; the result carries that name, for it is no estimate of what new images will give.
        validate_every: epochs between two validations; the last epoch is always validated.
        precision: ``no`` is float32.
        memory: ``low`` keeps each block's inputs only and computes the rest again in the backward pass: the same numbers, a third slower.
        head_init: see :class:`LinearHead`.
        inference, stride: how a segmentation is scored: over windows of the crop's size with this many pixels between them (default:
            two thirds of the window), or the image as a ``whole``; see :class:`~promptvit.heads.windows.Inference`.
        seed: initialisation and dropout.
        data_seed: split, order, augmentation; None: the same as ``seed``.
        out: the run folder.
        record: write after every epoch how alike prompts and patch tokens are into ``record.jsonl``, for ``promptvit analyze``.
        workers: threads that decode images.
    """

    model_config = ConfigDict(extra="forbid")

    backbone: str
    method: str
    data: str
    task: Literal["classification", "segmentation"] = "classification"
    head: str = "linear"
    head_options: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool = True
    arch: str | dict[str, Any] | None = None
    image_size: int | None = Field(None, ge=1)
    normalization: Normalization = "weights"
    resize: Resize | None = None
    interpolation: Interpolation | None = None
    crop_pct: CropShare | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    data_root: str | None = None
    shots: int | None = Field(None, ge=1)
    strict: bool = False
    train_on: Literal["train", "train+val"] = "train"
    score: Literal["test", "val"] = "test"
    augment: str | None = None
    epochs: int | None = Field(None, ge=1)
    iterations: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    head_lr: float | None = Field(None, gt=0)
    head_weight_decay: float | None = Field(None, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    schedule: Literal["step", "poly", "epoch"] = "step"
    select: Literal["best", "last", "best-on-test"] = "best"
    validate_every: int = Field(1, ge=1)
    precision: Literal["no", "bf16", "fp16"] = "no"
    memory: Literal["normal", "low"] = "normal"
    head_init: HeadInit = "small"
    inference: Literal["slide", "whole"] = "slide"
    stride: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    data_seed: int = Field(ge=0)
    out: str
    record: bool = False
    workers: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _has_validation_images(self) -> "TrainSettings":
        if self.train_on == "train+val":
            if self.select == "best":
                raise ValueError("train_on=train+val leaves no validation images to select on; set select=last")
            if self.score == "val":
                raise ValueError("train_on=train+val trains on the validation images; they cannot be scored, set score=test")
        return self

    @model_validator(mode="after")
    def _has_one_length(self) -> "TrainSettings":
        if self.epochs and self.iterations:
            raise ValueError(f"epochs={self.epochs} and iterations={self.iterations}: give one of them, the other as null")
        if not self.iterations:
            self.epochs = self.epochs or EPOCHS
        return self

    @model_validator(mode="after")
    def _fits_its_task(self) -> "TrainSettings":
        if self.head not in HEADS[self.task]:
            raise ValueError(unknown(f"head for {self.task}", self.head, HEADS[self.task]))
        for task, names in ONLY.items():
            for name in names if task != self.task else ():
                if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                    raise ValueError(f"{name}: a setting of {task}; leave it out, this run's task is {self.task}")
        return self

    def total_steps(self, steps: int) -> int:
        """Steps of the whole run, where an epoch has ``steps``."""
        return self.iterations or (self.epochs or EPOCHS) * steps

    def completed(self, dataset: Dataset | SegmentationDataset) -> "TrainSettings":
        """With the method's option defaults, and the augmentation and way to resize that suit the data set where none was given."""
        options = method_config(self.method, self.options).model_dump(mode="json")
        return self.model_copy(
            update={"options": options, "augment": self.augment or dataset.augment, "resize": self.resize or dataset.resize}
        )

    @property
    def hash(self) -> str:
        """Identity of a run: twelve hex digits over everything that can change its numbers."""
        values = self.model_dump(mode="json", exclude=set(WHERE))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def resolve(**given: Any) -> TrainSettings:
    """Complete the settings. Keys that are no setting are taken as options of the method.

    Raises:
        ValueError: an unknown key (with the nearest names) or a bad value.
    """
    for key, listing in (("backbone", "backbones"), ("method", "methods"), ("data", "datasets")):
        if not given.get(key):
            raise ValueError(f"{key}: missing; `promptvit list {listing}` shows what there is")
        if key != "backbone" and not isinstance(given[key], str):
            raise ValueError(f"{key}: expected a name, got {shown(given[key])}")
    if not isinstance(given.get("options") or {}, dict):
        raise ValueError(f"options: expected a mapping of names to values, got {shown(given['options'])}")
    method = method_class(given["method"])
    task = given.get("task") or TASKS[is_segmentation(given["data"])]
    if task not in TASKS:
        raise ValueError(unknown("task", task, TASKS))
    values = {key: value for key, value in given.items() if key in TrainSettings.model_fields and value is not None}
    own = {key: value for key, value in given.items() if key not in TrainSettings.model_fields}
    options = {**(values.pop("options", None) or {}), **own}
    valid = [*TrainSettings.model_fields, *method.Config.model_fields]
    for key in options:
        if key not in method.Config.model_fields:
            raise ValueError(unknown(f"setting or option of {given['method']}", key, valid))
    values["options"] = {key: value for key, value in options.items() if value is not None}
    values = DEFAULTS[task] | values | {"task": task}
    values.setdefault("lr", method.lr)
    values.setdefault("data_seed", values.get("seed", 0))
    name = f"{given['data']}-{given['method']}-{Path(str(given['backbone'])).name}-seed{values.get('seed', 0)}".replace("/", "-")
    values.setdefault("out", str(Path("runs") / name))
    values["out"] = str(values["out"])
    return checked(TrainSettings, values, "setting")
