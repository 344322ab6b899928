"""What a method is, and the registry: a method is one file that registers itself."""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from promptvit.backbones.base import POOLS, Backbone, Pass, PromptMemory
from promptvit.config import checked
from promptvit.errors import unknown


@dataclass(frozen=True)
class Encoded:
    """What the head receives: ``features [B, D]``, further branches' features, tokens after tapped blocks."""

    features: Tensor
    aux: tuple[Tensor, ...] = ()
    taps: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """Something that a method learned, for people to look at.

    Attributes:
        title, meaning: what it is, and one sentence on how to read it.
        values: as many axes as ``axes`` names: ``("block",)``, ``("block", "line")``, ``("row", "column")``. NaN where there is none.
        unit: of the values.
        ticks: names along the first axis instead of 0, 1, ...
        lines: names along an axis ``line``.
        limits: between which values can lie, where that is known.
    """

    title: str
    meaning: str
    values: Tensor
    axes: tuple[str, ...]
    unit: str
    ticks: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None


class MethodConfig(BaseModel):
    """Options that every method has.

    Attributes:
        num_prompts: prompt tokens (per block where a method learns them per block); methods without prompts have no use for it.
        pool: the feature the head reads; None takes the backbone's default.
        training_only: options without a say once the method is trained.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    training_only: ClassVar[frozenset[str]] = frozenset()
    num_prompts: int = Field(10, ge=1, le=100_000)
    pool: str | None = None


class Method(nn.Module):
    """The learned part beside the head. A subclass writes its paper's loop in :meth:`encode`.

    Attributes:
        name: the preset it was created as.
        reading: version of our reading where the paper's equations are not available.
        prompted: whether prompts flow to the readout (it decides MAE's default pooling).
        families: backbone families it runs on; it is refused by name on others.
        lr: a learning rate for AdamW that is rarely far off.
        low_memory: training keeps each block's inputs only and computes the rest again in the backward pass.
        stacks: in evaluation :meth:`encode` also takes learned tensors with a leading dimension, one row for each image, so that a
            batch may mix tasks.
        off: parts that are switched off for analysis, see :meth:`without`.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    name: str
    reading: ClassVar[str | None] = None
    prompted: ClassVar[bool] = True
    families: ClassVar[Collection[str]] = ("vit", "eva")
    lr: ClassVar[float] = 0.02
    low_memory: bool = False
    stacks: ClassVar[bool] = False
    off: frozenset[str] = frozenset()

    config: Any

    def __init__(self, backbone: Backbone, config: MethodConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.pool = config.pool or backbone.default_pool(self.prompted)
        if self.pool not in POOLS:
            raise ValueError(unknown("pool", self.pool, POOLS))

    def adapt(self, backbone: Backbone) -> Backbone:
        """The backbone this method runs on: the shared frozen one, or a trainable deep copy of it."""
        return backbone

    @classmethod
    def shares_backbone(cls) -> bool:
        """Whether it runs on the shared frozen backbone."""
        return cls.adapt is Method.adapt

    @property
    def flow(self) -> Hashable:
        """What is alike in trained methods on one backbone that differ in their learned tensors' values only."""
        options = self.config.model_dump_json(exclude={"num_prompts", "pool", *self.config.training_only})
        return type(self).encode, self.pool, options, tuple((name, tensor.shape) for name, tensor in self.named_parameters())

    def initialize(self, backbone: Backbone, batches: Iterable[Tensor], generator: torch.Generator) -> None:
        """Start from data: ``batches`` of normalised training images. Nothing by default."""

    @property
    def needs_data(self) -> bool:
        """Whether :meth:`initialize` has something to do."""
        return False

    def encode(self, step: Pass) -> tuple[Tensor, Tensor | None]:
        """The method's loop over the blocks; returns the last block's tokens and prompts."""
        raise NotImplementedError

    def norm(self) -> nn.Module | None:
        """A norm that replaces the checkpoint's in the readout, if any."""
        return None

    def forward(
        self,
        backbone: Backbone,
        images: Tensor,
        *,
        taps: Collection[int] = (),
        observe: Callable[..., None] | None = None,
        memory: PromptMemory | None = None,
        any_size: bool = False,
    ) -> Encoded:
        """Features of normalised ``images [B, 3, H, W]``; see :class:`Pass` for the keyword arguments."""
        step = Pass(
            backbone, images, self.pool, taps=taps, observe=observe, memory=memory, recompute=self.low_memory, any_size=any_size
        )
        return self.read(step, *self.encode(step))

    def read(self, step: Pass, x: Tensor, prompts: Tensor | None) -> Encoded:
        """The features of what :meth:`encode` returned."""
        return Encoded(step.backbone.readout(x, prompts, self.pool, self.norm()), taps=step.tapped)

    def loss(self, outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Cross-entropy of the logits ``outputs[0] [B, C]``; methods with more branches weigh them here."""
        return F.cross_entropy(outputs[0].float(), target)

    def project(self) -> None:
        """Bring parameters back into their allowed range, after each optimiser step. Nothing by default."""

    def describe(self, backbone: Backbone, images: Tensor) -> list[Shown]:
        """What it learned, as far as that is its own; some of it is measured on normalised ``images [B, 3, H, W]``."""
        return []

    def parts(self) -> dict[str, int]:
        """What :meth:`without` can switch off: a name, and the first block that then sees something else."""
        return {}

    @contextmanager
    def without(self, part: str) -> Iterator[None]:
        """Run without one of :meth:`parts`, as if it had learned nothing.

        Raises:
            ValueError: it has no such part.
        """
        if part not in self.parts():
            raise ValueError(unknown("part", part, self.parts()))
        before, self.off = self.off, self.off | {part}
        try:
            yield
        finally:
            self.off = before


_METHODS: dict[str, tuple[type[Method], dict[str, Any]]] = {}


def register(name: str, **defaults: Any) -> Callable[[type[Method]], type[Method]]:
    """Class decorator: make a method available as ``name``, with option defaults of its own."""

    def add(method: type[Method]) -> type[Method]:
        if name in _METHODS:
            raise ValueError(f"method {name!r} is registered twice: {_METHODS[name][0].__name__} and {method.__name__}")
        _METHODS[name] = (method, defaults)
        return method

    return add


def list_methods() -> list[str]:
    """Names of all methods. ``partial-1`` stands for ``partial-K`` with any K."""
    return sorted(_METHODS)


def method_class(name: str) -> type[Method]:
    """The class behind a name.

    Raises:
        ValueError: an unknown name, with the nearest ones.
    """
    return _lookup(name)[0]


def method_config(name: str, options: dict[str, Any]) -> MethodConfig:
    """All options of a method, those not given at its defaults.

    Raises:
        ValueError: an unknown name or option (with the nearest valid ones), or a bad value.
    """
    method, defaults = _lookup(name)
    return checked(method.Config, {**defaults, **options}, f"option of {name}")


def build_method(name: str, backbone: Backbone, options: dict[str, Any], seed: int) -> Method:
    """Create a method for ``backbone``, seeded.

    Raises:
        ValueError: an unknown name or option (with the nearest valid ones), a bad value, or a backbone family that the method refuses.
    """
    method = method_class(name)
    if backbone.family not in method.families:
        raise ValueError(
            f"method: {name} does not run on {backbone.family} backbones ({backbone.name}); it runs on {', '.join(method.families)}. "
            f"On {backbone.family} use {', '.join(n for n, (m, _) in sorted(_METHODS.items()) if backbone.family in m.families)}"
        )
    built = method(backbone, method_config(name, options), torch.Generator().manual_seed(seed))
    built.name = name
    return built


def _lookup(name: str) -> tuple[type[Method], dict[str, Any]]:
    """Class and option defaults of ``name``; ``partial-3`` is ``partial-1`` with three blocks."""
    if name in _METHODS:
        return _METHODS[name]
    stem, _, count = name.rpartition("-")
    if stem == "partial" and count.isdecimal():
        return _METHODS["partial-1"][0], {"blocks": int(count)}
    raise ValueError(unknown("method", name, list_methods()))
