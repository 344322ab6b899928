"""A backbone, a method and a head that act as one classifier."""

import copy
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from promptvit.backbones.base import Backbone, PromptMemory
from promptvit.backbones.loading import load_backbone
from promptvit.errors import unknown
from promptvit.heads.classification import HeadInit, LinearHead
from promptvit.heads.segmentation import PLANS, SegmentationHead
from promptvit.methods import Method, build_method
from promptvit.preprocessing import Preprocessing


class Predictions(NamedTuple):
    """The most probable class of each image, and all probabilities ``[B, C]``."""

    classes: list[str]
    probabilities: Tensor


class PromptedModel(nn.Module):
    """``model(images)`` gives logits ``[B, C]`` of normalised images ``[B, 3, H, W]``.

    Attributes:
        backbone: the shared frozen one, or the method's own trainable copy (``full``, ``bias``, ``partial-K``, ``lora``).
        method, head: what learns.
        classes: names, in the order of the logits.
        preprocessing: the backbone's own unless replaced.
        palette: a colour (red, green, blue) for each class, for pictures; stored in the adapter.
    """

    palette: list[tuple[int, int, int]] | None = None

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        head: LinearHead | SegmentationHead,
        classes: Sequence[str],
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        self.backbone = method.adapt(backbone)
        self.method = method
        self.head = head
        self.classes = list(classes)
        self.preprocessing = preprocessing or backbone.preprocessing

    def forward(self, images: Tensor, memory: PromptMemory | None = None) -> Tensor:
        return self.head(self.method(self.backbone, images, memory=memory).features)

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits of every branch, the scored one first; what :meth:`loss` reads."""
        encoded = self.method(self.backbone, images)
        return tuple(self.head(features) for features in (encoded.features, *encoded.aux))

    def loss(self, outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """What training minimises, from :meth:`outputs` and the labels ``[B]``."""
        return self.method.loss(outputs, target)

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, tensor) of everything that learns; names start with ``method.``, ``head.`` or ``backbone.``."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield name.replace("backbone.model.", "backbone.", 1), parameter

    def learned(self) -> dict[str, Tensor]:
        """Everything that training changes, sorted by name: the trainable parameters, and the head's running statistics."""
        head = {f"head.{name}": tensor for name, tensor in self.head.state_dict(keep_vars=True).items()}
        return dict(sorted((head | dict(self.trainable_parameters())).items()))

    @property
    def num_trainable(self) -> int:
        """Number of weights that learn, head included."""
        return sum(parameter.numel() for _, parameter in self.trainable_parameters())

    @property
    def num_total(self) -> int:
        """Number of all weights, backbone included."""
        return sum(parameter.numel() for parameter in self.parameters())

    def preprocess(self, image: Image.Image) -> Tensor:
        """One PIL image to the ``[3, H, W]`` tensor that the model expects."""
        return self.preprocessing(image)

    @torch.no_grad()
    def predict(self, images: Tensor | Image.Image | Sequence[Image.Image]) -> Predictions:
        """Classes and probabilities of PIL images, or of a preprocessed batch ``[B, 3, H, W]``."""
        if isinstance(images, Image.Image):
            images = [images]
        if not isinstance(images, Tensor):
            images = torch.stack([self.preprocess(image) for image in images]) if images else torch.empty(0)
        if not len(images):
            return Predictions([], torch.empty(0, len(self.classes)))
        was_training = self.training
        self.eval()
        probabilities = self(images.to(next(self.head.parameters()).device)).float().softmax(dim=-1).cpu()
        self.train(was_training)
        return Predictions([self.classes[i] for i in probabilities.argmax(dim=-1)], probabilities)

    def prepare_inference(self) -> "PreparedModel":
        """A frozen copy for serving, with the keys and values of fixed prompts computed once."""
        return PreparedModel(self)

    def save_pretrained(self, directory: str | os.PathLike[str], *, metrics: dict[str, Any] | None = None) -> Path:
        """Write the adapter folder; see :func:`promptvit.adapter.save`."""
        from promptvit import adapter

        return adapter.save(self, Path(directory), metrics or {})

    def push_to_hub(
        self, repo_id: str, *, metrics: dict[str, Any] | None = None, private: bool | None = None, token: str | bool | None = None,
        revision: str | None = None,
    ) -> str:
        """Publish the adapter with a generated model card; see :func:`promptvit.hub.push`, which publishes a finished run.

        ``metrics``: as in :meth:`save_pretrained`; ``dataset``, ``split``, ``accuracy`` or ``miou`` are shown on the card.
        """
        from promptvit import hub

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, metrics=metrics)
            return hub.push(folder, repo_id, private=private, token=token, revision=revision)

    @classmethod
    def from_pretrained(cls, directory_or_hub_id: str | os.PathLike[str], *, backbone: Backbone | None = None) -> "PromptedModel":
        """Read an adapter folder or hub repository; see :func:`promptvit.adapter.load`."""
        from promptvit import adapter

        return adapter.load(directory_or_hub_id, backbone)


class PreparedModel:
    """A frozen copy of a model, ``model``, beside the shared backbone: later training of its source does not reach it."""

    def __init__(self, model: PromptedModel) -> None:
        trains_backbone = any(p.requires_grad for p in model.backbone.parameters())
        shared = {} if trains_backbone else {id(model.backbone): model.backbone}
        self.model = copy.deepcopy(model, shared).eval().requires_grad_(False)
        self.classes, self.preprocessing = self.model.classes, self.model.preprocessing
        self.memory: PromptMemory = {}

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits of normalised images ``[B, 3, H, W]``: ``[B, C]``, or ``[B, C, H, W]`` of a segmentation model."""
        return self.model(images, self.memory)


def create_model(
    backbone: str | os.PathLike[str] | Backbone,
    method: str,
    num_classes: int,
    *,
    pretrained: bool = True,
    head: str = "linear",
    head_init: HeadInit = "small",
    head_options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    **method_options: Any,
) -> PromptedModel:
    """Put a method and a fresh head on a frozen backbone.

    Args:
        backbone: a name or path for :func:`load_backbone`, or a loaded backbone, which is shared and never changed.
        method: a name from :func:`list_methods`.
        num_classes: size of the head, at least 1.
        pretrained: for a name or path.
        head: ``linear`` classifies images; ``setr-pup``, ``setr-naive`` and ``linear-seg`` classify pixels and give a
            :class:`~promptvit.segmentation.SegmentationModel`.
        head_init: see :class:`LinearHead`; segmentation heads have their authors' own.
        head_options: see :class:`~promptvit.heads.segmentation.SegmentationConfig`; ``linear`` has none.
        classes: names; default ``0``, ``1``, ...
        preprocessing: replaces the backbone's own; it is stored in the adapter.
        seed: of the method's and the head's initial weights.
        **method_options: see the method's config; ``num_prompts`` and ``pool`` are common.

    Raises:
        ValueError: an unknown backbone, method, head or option, or a value out of range.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: at least 1, got {num_classes}")
    if head != "linear" and head not in PLANS:
        raise ValueError(unknown("head", head, ["linear", *PLANS]))
    if head == "linear" and head_options:
        raise ValueError(f"head_options: the linear head has none, got {', '.join(head_options)}")
    if classes is not None and len(classes) != num_classes:
        raise ValueError(f"classes: {len(classes)} names for {num_classes} classes")
    if not isinstance(backbone, Backbone):
        backbone = load_backbone(backbone, pretrained=pretrained)
    names = classes if classes is not None else [str(i) for i in range(num_classes)]
    with torch.random.fork_rng(devices=[]):  # layers draw default weights from the global state before they get their own
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed + 1)
        if head == "linear":
            built = build_method(method, backbone, method_options, seed)
            classifier = LinearHead(backbone.width, num_classes, init=head_init, generator=generator)
            model = PromptedModel(backbone, built, classifier, names, preprocessing)
        else:
            from promptvit.segmentation import SegmentationModel, dense_options

            decoder = SegmentationHead(head, backbone, num_classes, head_options or {}, generator=generator)
            built = build_method(method, backbone, dense_options(method_options, head_init), seed)
            model = SegmentationModel(backbone, built, decoder, names, preprocessing)
    return model.to(next(backbone.parameters()).device)
