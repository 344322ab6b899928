"""Gated Prompt Tuning (Yoo et al., ICML 2023): a gate per block mixes its output prompts with its input prompts.

[c_l, Q_l, X_l] = B_l([c_{l-1}, P_{l-1}, X_{l-1}]);   P_l = g_l Q_l + (1 - g_l) P_{l-1},   g_l = sigmoid(gamma_l)
attention of block l: softmax(q k^T / (sqrt(d) tau_l))
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from promptvit.backbones.base import Backbone, Pass, broadcast
from promptvit.methods.base import Method, MethodConfig, Shown, register
from promptvit.methods.init import prototypes, uniform
from promptvit.methods.vpt import PromptConfig, dropped


class GaPTConfig(PromptConfig):
    """Options of GaPT.

    Attributes:
        gates: after every block but the last, after all blocks, after the first so many, or none (VPT-shallow's flow).
        gate_init: gate logits start at minus this (authors' code): 5 opens a gate by 0.0067.
        hard: gates are 0 or 1, sampled by straight-through Gumbel in training, thresholded in evaluation.
        temperature: ``learned`` (one per block, from 1), or a fixed number.
        temperature_range: learned temperatures stay inside.
    """

    gates: Literal["inner", "all", "none"] | Annotated[int, Field(ge=1)] = "inner"
    gate_init: float = 5.0
    hard: bool = False
    temperature: Literal["learned"] | float = "learned"
    temperature_range: tuple[float, float] = (0.01, 10.0)

    training_only: ClassVar[frozenset[str]] = PromptConfig.training_only | {"gate_init"}


@register("gapt")
class GaPT(Method):
    """Prompts ``[T, D]`` that enter once; ``gate_logits [K]``; ``temperatures [L]``."""

    Config: ClassVar[type[MethodConfig]] = GaPTConfig
    stacks: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, config: GaPTConfig, generator: torch.Generator) -> None:
        super().__init__(backbone, config, generator)
        self.prompts = nn.Parameter(uniform(config.num_prompts, backbone.width, patch=backbone.patch_size, generator=generator))
        named = {"inner": backbone.depth - 1, "all": backbone.depth, "none": 0}
        count = config.gates if isinstance(config.gates, int) else named[config.gates]
        if count > backbone.depth:
            raise ValueError(f"gates: {backbone.name} has {backbone.depth} blocks, got {count}")
        self.gate_logits = nn.Parameter(torch.full((count,), -config.gate_init)) if count else None
        self.temperatures = nn.Parameter(torch.ones(backbone.depth)) if config.temperature == "learned" else None

    @property
    def needs_data(self) -> bool:
        return bool(self.config.init != "uniform")

    def initialize(self, backbone: Backbone, batches: Iterable[Tensor], generator: torch.Generator) -> None:
        if self.needs_data:
            config = self.config
            found = prototypes(backbone, batches, [0], config.num_prompts, config.init, config.windows, generator, config.init_images)
            self.prompts.data.copy_(found[0])

    def encode(self, step: Pass) -> tuple[Tensor, Tensor | None]:
        p: Tensor | None
        x, p = step.tokens, self.input_prompts(len(step.tokens))
        for i in range(step.depth):
            x, out = step(i, x, p, temperature=self.temperature(i))
            p = self.mix(i, out, p)
        return x, p

    def input_prompts(self, batch: int) -> Tensor:
        """Prompts that enter block 0."""
        return dropped(self.prompts, self.config.dropout if self.training else 0.0, batch)

    def mix(self, i: int, out: Tensor | None, p: Tensor | None) -> Tensor | None:
        """``g_i out + (1 - g_i) p`` where block ``i`` has a gate, else its output prompts."""
        if out is None or p is None or self.gate_logits is None or i >= self.gate_logits.shape[-1]:
            return out
        if f"gate {i}" in self.off:
            return p
        g = broadcast(self.gate(i), out)
        return g * out + (1 - g) * p

    def gate(self, i: int) -> Tensor:
        """Gate of block ``i`` in (0, 1); with ``hard`` 0 or 1."""
        assert self.gate_logits is not None
        logit = self.gate_logits[..., i]
        if not self.config.hard:
            return logit.sigmoid()
        if self.training:
            noise = torch.rand_like(logit).clamp(1e-6, 1 - 1e-6)
            logit = logit + noise.log() - (1 - noise).log()
        soft = logit.sigmoid()
        return (soft > 0.5).to(soft) + (soft - soft.detach())

    def temperature(self, i: int) -> float | Tensor:
        """Temperature of block ``i``: the clamped value, with the gradient of the unclamped one (as in the authors' code)."""
        if "temperatures" in self.off:
            return 1.0
        if self.temperatures is None:
            return float(self.config.temperature)
        stored = self.temperatures[..., i]
        return stored + (stored.clamp(*self.config.temperature_range) - stored).detach()

    def parts(self) -> dict[str, int]:
        """Each gate (without it the prompts pass by its block unchanged), and all temperatures (without them 1)."""
        gates = 0 if self.gate_logits is None else len(self.gate_logits)
        return {f"gate {i}": i + 1 for i in range(gates)} | ({} if self.temperatures is None else {"temperatures": 0})

    @torch.no_grad()
    def describe(self, backbone: Backbone, images: Tensor) -> list[Shown]:
        """Gates, the weight of each block's prompts in what enters the last block, temperatures."""
        shown: list[Shown] = []
        gates = torch.ones(backbone.depth)  # a block without a gate passes its output prompts on
        if self.gate_logits is not None:
            count = len(self.gate_logits)
            gates[:count] = torch.stack([self.gate(i) for i in range(count)]).cpu()
            meaning = "Share of a block's output prompts in what enters the next block; the rest is what entered this one."
            shown.append(Shown("Gates", meaning, gates[:count], ("block",), "gate g", limits=(0, 1)))
        meaning = "Share of each block's output prompts, and of the learned start, in the prompts that enter the last block; they sum to 1."
        ticks = ("start", *map(str, range(backbone.depth - 1)))
        weights = effective_weights(gates[:-1])
        shown.append(Shown("Effective weight of each block's prompts", meaning, weights, ("block",), "weight w", ticks, limits=(0, 1)))
        if self.temperatures is not None:
            used = self.temperatures.clamp(*self.config.temperature_range)
            shown.append(Shown("Attention temperatures", "Above 1 attention is flatter, below 1 sharper.", used, ("block",), "temperature"))
        return shown

    @torch.no_grad()
    def project(self) -> None:
        """Clamp the stored temperatures into their range."""
        if self.temperatures is not None:
            self.temperatures.clamp_(*self.config.temperature_range)


def effective_weights(gates: Tensor) -> Tensor:
    """``[K + 1]`` shares of the start and of K blocks' outputs after ``gates [K]``: ``w_l = g_l prod_{k>l} (1 - g_k)``, ``g_0 = 1``."""
    one = gates.new_ones(1)
    closed = torch.cat([(1 - gates).flip(0).cumprod(0).flip(0), one])
    return torch.cat([one, gates]) * closed
