"""MoCo v3 (Chen, Xie & He, ICCV 2021): two views of an image find each other among the batch, with a slow copy as the target.

The patch projection stays as it was drawn (section 4.1 of the paper) and the positions are the fixed sine-cosine table. Projector and
predictor are MLPs with BatchNorm, here of a size that suits a small encoder.
"""

import copy
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, distributed, nn

from promptvit.data.proc import stream
from promptvit.data.proc.dice import Dice
from promptvit.pretraining.augment import view
from promptvit.pretraining.objective import Objective, PretrainSettings, build_encoder, normalized
from promptvit.pretraining.published import write_mocov3


class MoCoV3Settings(PretrainSettings):
    """Sizes of the MLPs, the InfoNCE temperature, the momentum at the start (it rises to 1) and the smallest crop."""

    objective: Literal["mocov3"] = "mocov3"
    lr: float = 1e-3
    beta2: float = 0.999
    weight_decay: float = 0.1
    warmup: float = 0.1
    hidden: int = Field(512, gt=0)
    out: int = Field(64, gt=0)
    temperature: float = Field(0.2, gt=0)
    momentum: float = Field(0.99, ge=0, lt=1)
    smallest_crop: float = Field(0.3, gt=0, le=1, description="share of the image's area")


class MoCoV3(Objective):
    """Encoder, projector and predictor, and the momentum copies of the first two."""

    Settings = MoCoV3Settings

    def __init__(self, settings: MoCoV3Settings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = build_encoder(settings)
        self.encoder.pos_embed.requires_grad_(False)
        self._freeze_projection()
        self.projector = _mlp(settings.width, settings.hidden, settings.hidden, settings.out)
        self.predictor = _mlp(settings.out, settings.hidden, settings.out)
        self.momentum_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.momentum_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def draw(self, generator: torch.Generator, rows: slice) -> tuple[Tensor, Tensor]:
        """Two normalised views ``[B, 3, H, W]`` of the same images."""
        images = stream.draw_batch(generator, self.settings.batch_size, self.settings.image_size, rows)
        dice = Dice(generator, self.settings.batch_size, rows)
        first, second = (normalized(view(images, dice, self.settings.smallest_crop)) for _ in range(2))
        return first, second

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Symmetrised InfoNCE, each view a query once."""
        queries = [self.predictor(self.projector(_of_all(self.encoder(x)))) for x in (first, second)]
        with torch.no_grad():
            keys = [self.momentum_projector(_of_all(self.momentum_encoder(x))) for x in (first, second)]
        return self.contrast(queries[0], keys[1]) + self.contrast(queries[1], keys[0])

    def contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Cross-entropy of finding one's own key, times twice the temperature: ``[B, out]`` each to a scalar."""
        temperature = self.settings.temperature
        queries, keys = (nn.functional.normalize(x.float(), dim=1) for x in (queries, keys))
        target = torch.arange(len(queries), device=queries.device)
        return nn.functional.cross_entropy(queries @ keys.T / temperature, target) * (2 * temperature)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Let the copies follow; momentum rises along half a cosine to 1."""
        momentum = 1 - 0.5 * (1 + math.cos(math.pi * progress)) * (1 - self.settings.momentum)
        for slow, fast in self._pairs():
            slow.lerp_(fast, 1 - momentum)

    def publish(self, folder: Path, steps: int) -> Path:
        """The pre-training file: base encoder with its projector, their momentum copies, predictor."""
        base = self.encoder.state_dict() | self.projector.state_dict(prefix="head.")
        momentum = self.momentum_encoder.state_dict() | self.momentum_projector.state_dict(prefix="head.")
        parts = {"base_encoder": base, "momentum_encoder": momentum, "predictor": self.predictor.state_dict()}
        return write_mocov3(parts, steps, folder / "mocov3.pth.tar")

    def _freeze_projection(self) -> None:
        """Uniform as Xavier's, over all inputs and outputs of a patch; no bias; never trained."""
        projection = self.encoder.patch_embed.proj
        bound = math.sqrt(6 / (projection.weight[0].numel() + projection.out_channels))
        nn.init.uniform_(projection.weight, -bound, bound)
        nn.init.zeros_(projection.bias)
        projection.requires_grad_(False)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.momentum_encoder.parameters(), self.encoder.parameters(), strict=True)
        yield from zip(self.momentum_projector.parameters(), self.projector.parameters(), strict=True)


def _mlp(*widths: int) -> nn.Sequential:
    """Linear layers without bias, each with BatchNorm, the hidden ones with ReLU; the last norm has no weights."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers[:-2], nn.BatchNorm1d(widths[-1], affine=False))


def _of_all(features: Tensor) -> Tensor:
    """Rows of every process in order, with gradients back to each.

    Features are small, so each process computes the MLPs and the loss of the whole batch: BatchNorm and InfoNCE see what one process
    would see.
    """
    return _Gather.apply(features) if distributed.is_initialized() and distributed.get_world_size() > 1 else features


class _Gather(torch.autograd.Function):
    """Concatenation over processes. Back goes the sum of their gradients, of which the mean over processes is the whole batch's."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]
