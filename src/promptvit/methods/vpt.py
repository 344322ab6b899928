"""Visual Prompt Tuning (Jia et al., ECCV 2022): learnable tokens beside the patches, at one block or at every block.

shallow: [c_1, Z_1, X_1] = B_1([c_0, P, X_0]);  [c_l, Z_l, X_l] = B_l([c_{l-1}, Z_{l-1}, X_{l-1}])
deep:    [c_l,  _ , X_l] = B_l([c_{l-1}, P_{l-1}, X_{l-1}])
"""

from collections.abc import Collection, Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from promptvit.backbones.base import Backbone, Pass, per_image
from promptvit.methods.base import Method, MethodConfig, register
from promptvit.methods.init import Init, Windows, prototypes, uniform


class PromptConfig(MethodConfig):
    """Options of every method with prompt tokens.

    Attributes:
        dropout: of the prompts, per image, in [0, 1).
        init: ``uniform`` noise, or token prototypes of the training data: ``random``, ``kmeans``, ``mean``, ``max``.
        windows: for ``mean`` and ``max``: one prompt per window, or SPT's own code.
        init_images: how many training images the prototypes see; None: all of them.
    """

    training_only: ClassVar[frozenset[str]] = frozenset({"dropout", "init", "windows", "init_images"})
    dropout: float = Field(0.0, ge=0, lt=1)
    init: Init = "uniform"
    windows: Windows = "one-each"
    init_images: int | None = Field(None, ge=1)


class VPTConfig(PromptConfig):
    """Options of VPT and its published variants.

    Attributes:
        deep: fresh prompts at every block instead of one.
        first, last: deep prompts only at the first or the last so many blocks.
        beyond: what later blocks see after ``first``: the last prompts' outputs as ordinary tokens, or no prompts.
        insert_at: the block (0-based) where shallow prompts enter: GaPT's motivating experiment.
        shared: all deep blocks read one and the same prompts.
        project: prompts are stored in this width and mapped to the backbone's by one shared linear layer.
        fresh_norm: read out through a new, frozen LayerNorm instead of the checkpoint's (VPT's code on MAE).
    """

    deep: bool = False
    first: int | None = Field(None, ge=1)
    last: int | None = Field(None, ge=1)
    beyond: Literal["keep", "remove"] = "keep"
    insert_at: int = Field(0, ge=0)
    shared: bool = False
    project: int | None = Field(None, ge=1)
    fresh_norm: bool = False


@register("vpt-shallow")
@register("vpt-deep", deep=True)
class VPT(Method):
    """Prompts ``[T, D]`` for each block in ``fresh``; between those they flow from block to block."""

    Config = VPTConfig
    families: ClassVar[Collection[str]] = ("vit", "eva", "swin")
    stacks: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, config: VPTConfig, generator: torch.Generator) -> None:
        super().__init__(backbone, config, generator)
        self.fresh = self._fresh_blocks(backbone.depth)
        stored = self.fresh[:1] if config.shared else self.fresh
        widths = [backbone.widths[i] for i in stored]
        if (config.shared or config.project) and len(set(backbone.widths)) > 1:
            raise ValueError(f"shared, project: {backbone.name} changes its width between stages; leave these options off")
        # one tensor [blocks, T, D] per width: a flat ViT has a single one, a Swin one for each stage
        self.stages = sorted(set(widths))
        self.prompts = nn.ParameterList(
            uniform(widths.count(width), config.num_prompts, config.project or width, patch=backbone.patch_size, generator=generator)
            for width in self.stages
        )
        places = enumerate(zip(stored, widths, strict=True))
        self.rows = {i: (self.stages.index(width), widths[:n].count(width)) for n, (i, width) in places}
        self.projection = nn.Linear(config.project, backbone.width) if config.project else None
        if self.projection is not None:
            nn.init.kaiming_normal_(self.projection.weight, mode="fan_out", generator=generator)
            nn.init.zeros_(self.projection.bias)
        self.fresh_norm = nn.LayerNorm(backbone.width, eps=1e-6, elementwise_affine=False) if config.fresh_norm else None

    def _fresh_blocks(self, depth: int) -> list[int]:
        config = self.config
        if not config.deep:
            if config.insert_at >= depth:
                raise ValueError(f"insert_at: blocks are 0 to {depth - 1}, got {config.insert_at}")
            if config.first or config.last or config.shared:
                raise ValueError("first, last, shared: options of vpt-deep; vpt-shallow has prompts at one block only (insert_at)")
            return [config.insert_at]
        if (config.first and config.last) or config.insert_at:
            raise ValueError("first, last, insert_at: vpt-deep takes first or last, not both; insert_at is for vpt-shallow")
        if max(config.first or 0, config.last or 0) > depth:
            raise ValueError(f"first, last: the backbone has {depth} blocks, got {config.first or config.last}")
        return list(range(config.first or depth)) if not config.last else list(range(depth - config.last, depth))

    @property
    def needs_data(self) -> bool:
        return bool(self.config.init != "uniform")

    def initialize(self, backbone: Backbone, batches: Iterable[Tensor], generator: torch.Generator) -> None:
        if not self.needs_data:
            return
        if self.projection is not None:
            raise ValueError("init: token prototypes have the backbone's width; leave project off")
        config, blocks = self.config, list(self.rows)
        found = prototypes(backbone, batches, blocks, config.num_prompts, config.init, config.windows, generator, config.init_images)
        for i, (stage, row) in self.rows.items():
            self.prompts[stage].data[row] = found[i]

    def block_prompts(self, i: int) -> Tensor:
        """Prompts ``[T, D]`` (or ``[B, T, D]``, see ``stacks``) that enter block ``i`` of ``fresh``."""
        stage, row = self.rows[self.fresh[0] if self.config.shared else i]
        prompts = self.prompts[stage][..., row, :, :]
        if self.projection is None:
            return prompts
        return prompts @ self.projection.weight.mT + self.projection.bias.unsqueeze(-2)

    def encode(self, step: Pass) -> tuple[Tensor, Tensor | None]:
        x, p = step.tokens, None
        for i in range(step.depth):
            if i in self.fresh:
                p = dropped(self.block_prompts(i), self.config.dropout if self.training else 0.0, len(x))
            elif self.config.beyond == "remove":
                p = None
            x, p = step(i, x, p, keep=i + 1 not in self.fresh and self.config.beyond == "keep", fixed=i in self.fresh)
        return x, p

    def norm(self) -> nn.Module | None:
        return self.fresh_norm


def dropped(prompts: Tensor, probability: float, batch: int) -> Tensor:
    """Prompt dropout: its own mask for every image, as in the authors' code."""
    return F.dropout(per_image(prompts, batch), probability) if probability else prompts
