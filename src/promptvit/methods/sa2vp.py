"""SA2VP (Pei et al., AAAI 2024): a prompt map, aligned with the image tokens, goes through the same frozen blocks as a second branch.

S_0 = E W + positions                               E [P+N, r], W [r, D]: low rank, the same map for every image
F_i(q, kv) = MLP_i(LN(q + A_i(q, kv)))              A_i: block i's attention, over 3x3 neighbourhoods in the other branch
image to prompt:  S' = B_i(S) + a F_i(S, X) + c_j B_i(E_j W_j),  X' = B_i(X)      (E_j, c_j: not at the first such block)
prompt to image:  X' = B_i(X) + a F_i(X, S),                     S' = B_i(S)
loss = 0.8 CE(head(X)) + 0.2 CE(head(S))
"""

from collections.abc import Collection
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from promptvit.backbones import base
from promptvit.backbones.base import Backbone, Pass
from promptvit.methods.base import Encoded, Method, MethodConfig, Shown, register
from promptvit.methods.branches import Branches, FlatBranches, SwinBranches
from promptvit.methods.neighbourhood import Neighbourhood

BRANCHES: dict[str, type[Branches]] = {"vit": FlatBranches, "eva": FlatBranches, "swin": SwinBranches}
IMAGE_WEIGHT = 0.8


class SA2VPConfig(MethodConfig):
    """Options of SA2VP; ``num_prompts`` has no use here: the map has one row per image token.

    Attributes:
        rank: r, of the maps and of the fusions' MLPs (the authors' "inter-dim").
        scale: a, of what the branches give each other (the authors' "inter-weight").
        attention: ``exact``: the block's heads, neighbourhoods clipped at the border; ``padded``: one head of width D, zeros outside.
        to_prompt: blocks where the prompt branch reads the image branch, counted from 0 among the blocks that fuse (on Swin those of
            the deepest stage); at the others the image branch reads. Default: see :func:`thirds`.
        maps: inserted maps, one at each of so many blocks of ``to_prompt`` after the first. Default: at all of them; on Swin none.
    """

    rank: int = Field(16, ge=1)
    scale: float = 0.1
    attention: Literal["exact", "padded"] = "exact"
    to_prompt: tuple[int, ...] | None = None
    maps: int | None = Field(None, ge=0)


def thirds(blocks: int) -> tuple[int, ...]:
    """Where thirds of ``blocks`` start: 0, 4, 8 of 12 and 0, 6, 12 of Swin's 18, as in the authors' code; never two in a row."""
    return tuple(range(0, blocks, max(2, blocks // 3)))


@register("sa2vp")
class SA2VP(Method):
    """``map``, ``inserted`` maps and ``fusions``; the prompt branch's features are ``Encoded.aux``."""

    Config: ClassVar[type[MethodConfig]] = SA2VPConfig
    prompted: ClassVar[bool] = False
    families: ClassVar[Collection[str]] = tuple(BRANCHES)
    lr: ClassVar[float] = 1e-3

    def __init__(self, backbone: Backbone, config: SA2VPConfig, generator: torch.Generator) -> None:
        super().__init__(backbone, config, generator)
        if "prompts" in self.pool:
            raise ValueError(f"pool: sa2vp has no prompt tokens beside the patches; use cls, mean or map, got {self.pool!r}")
        self.branches = at = BRANCHES[backbone.family](backbone)
        chosen = thirds(len(at.fused)) if config.to_prompt is None else config.to_prompt
        if sorted(set(chosen)) != list(chosen) or not set(chosen) <= set(range(len(at.fused))):
            raise ValueError(f"to_prompt: ascending blocks of 0 to {len(at.fused) - 1}, got {chosen}")
        self.to_prompt = [at.fused[i] for i in chosen]
        further = self.to_prompt[1:]
        maps = len(further) * at.inserts if config.maps is None else config.maps
        if maps > len(further):
            raise ValueError(f"maps: to_prompt has {len(further)} blocks after the first, got {maps}")
        tokens = at.prefix + at.grid[0] * at.grid[1]
        self.grid = (backbone.grid[0], backbone.grid[1])
        self.map = PromptMap(at.rows, config.rank, at.channels, generator)
        self.insert_at = further[:maps]
        self.inserted = nn.ModuleList(InsertedMap(tokens, config.rank, at.width, generator) for _ in self.insert_at)
        self.fusions = nn.ModuleList(Fusion(at.width, config.rank, generator) for _ in at.fused)
        self.near = Neighbourhood(at.grid, at.prefix, padded=config.attention == "padded")

    def encode(self, step: Pass) -> tuple[Tensor, Tensor | None]:
        """The image and the prompt branch after the last block; ``observe`` sees the prompt branch in place of prompts."""
        if step.grid != self.grid:
            raise ValueError(
                f"images: sa2vp's map was made for {self.grid[0]} x {self.grid[1]} patches, not {step.grid[0]} x {step.grid[1]}; "
                "score larger images through sliding windows of the training size"
            )
        x, m = step.tokens, self.branches.start(step.backbone, self.map().to(step.tokens.dtype))
        for i in range(step.depth):
            (x, _), (m, _) = step.backbone.merge(i, x, None), step.backbone.merge(i, m, None)
            y, n = step.recomputed(self.layer, i, step, x, m)
            if step.observe is not None:
                step.observe(i, x, m, y, n)
            if i in step.taps:
                step.tapped[i] = y
            x, m = y, n
        return x, m

    def read(self, step: Pass, x: Tensor, prompts: Tensor | None) -> Encoded:
        assert prompts is not None
        features, aux = (step.backbone.readout(branch, None, self.pool) for branch in (x, prompts))
        return Encoded(features, aux=(aux,), taps=step.tapped)

    def layer(self, i: int, step: Pass, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Block ``i`` on the image branch ``x [B, S, D]`` and the prompt branch ``m``, which is ``[1, S, D]`` until it reads the image."""
        block = step.blocks[i]
        whole = i < step.depth - 1 or step.last != "prefix" or i in step.taps or step.observe is not None
        reader = int(i in self.to_prompt) if i in self.branches.fused else None
        inserted = self.inserted[self.insert_at.index(i)] if i in self.insert_at and f"map {i}" not in self.off else None
        remembered = None if step.memory is None else step.memory.get(i)
        sent = [x, m] if inserted is None or remembered is not None else [x, m, inserted().to(x.dtype)]
        out, heads = self.branches.through(block, sent, reader, None if whole else self.branches.prefix)
        if reader is not None and heads is not None and f"fusion {i}" not in self.off:
            out[reader] = torch.add(out[reader], self.fuse(i, block, sent[reader], *heads), alpha=self.config.scale)
        if isinstance(inserted, InsertedMap):
            added = inserted.scale.to(x.dtype) * out[2] if remembered is None else remembered
            out[1] = out[1] + added
            if step.memory is not None:
                step.memory[i] = added
        return out[0], out[1]

    def fuse(self, i: int, block: Any, tokens: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``F_i [B, S, D]`` for the reading ``tokens``, from their queries and the other branch's keys and values ``[B, heads, S, d]``."""
        tokens = tokens[:, : q.shape[2]]
        if self.config.attention == "padded":
            q, k, v = (t.transpose(1, 2).flatten(2).unsqueeze(1) for t in (q, k, v))
        attend = self.near.plain if base.reference_forced() else self.near
        return self.fusions[self.branches.fused.index(i)](tokens, self.branches.project(block, attend(q, k, v)))

    def parts(self) -> dict[str, int]:
        """Each fusion and each inserted map."""
        return {f"fusion {i}": i for i in self.branches.fused} | {f"map {i}": i for i in self.insert_at}

    @torch.no_grad()
    def describe(self, backbone: Backbone, images: Tensor) -> list[Shown]:
        """Norms over the maps, the size of each fusion, and how far one cell of the map reaches; the last two on ``images``."""
        shown = [norms("Norm of the prompt map", self.map, self.grid)]
        for i, inserted in zip(self.insert_at, self.inserted, strict=True):
            assert isinstance(inserted, PromptMap)
            shown.append(norms(f"Norm of the map inserted at block {i}", inserted, self.branches.grid))
        return [*shown, self._sizes(backbone, images), *self._reach(backbone, images)]

    def _sizes(self, backbone: Backbone, images: Tensor) -> Shown:
        """``a |F_i| / |tokens that read|`` by block, apart for the branch that reads."""
        found: list[Tensor] = []

        def weigh(_fusion: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            found.append(self.config.scale * (out.norm(dim=-1) / inputs[0].norm(dim=-1)).mean())

        hooks = [fusion.register_forward_hook(weigh) for fusion in self.fusions]
        self(backbone, images)
        for hook in hooks:
            hook.remove()
        values = torch.full((backbone.depth, 2), torch.nan)
        for i, size in zip(self.branches.fused, found, strict=True):
            values[i, int(i in self.to_prompt)] = size
        meaning = "Length of what a fusion adds, as a share of the tokens that read: the image branch the map, or the map the image."
        return Shown("Size of each fusion", meaning, values, ("block", "line"), "relative length", lines=("image reads", "map reads"))

    def _reach(self, backbone: Backbone, images: Tensor) -> list[Shown]:
        """How image tokens after the last block move when the middle row of the map does."""
        middle = (self.grid[0] // 2, self.grid[1] // 2)
        place = len(self.map.rows) - self.grid[0] * self.grid[1] + middle[0] * self.grid[1] + middle[1]
        seen: list[Tensor] = []

        def observe(i: int, _x: Tensor, _m: Tensor, y: Tensor, _n: Tensor) -> None:
            if i == backbone.depth - 1:
                seen.append(y[:, backbone.num_prefix_tokens :])

        def doubled(_map: nn.Module, _inputs: object, rows: Tensor) -> Tensor:
            rows = rows.clone()
            rows[:, place] *= 2
            return rows

        self(backbone, images, observe=observe)
        hook = self.map.register_forward_hook(doubled)
        self(backbone, images, observe=observe)
        hook.remove()
        grid = getattr(backbone.blocks()[-1], "grid", self.grid)
        change = ((seen[1] - seen[0]).norm(dim=-1) / seen[0].norm(dim=-1)).mean(dim=0).view(grid)
        row, column = (at * now // before for at, now, before in zip(middle, grid, self.grid, strict=True))
        away = torch.maximum((torch.arange(grid[0]) - row).abs()[:, None], (torch.arange(grid[1]) - column).abs())
        by_distance = torch.stack([change.cpu()[away == distance].mean() for distance in range(int(away.max()) + 1)])
        title, unit = "Reach of one map row", "relative change"
        meaning = f"How far image tokens move after the last block when the map's row at ({middle[0]}, {middle[1]}) is doubled"
        return [
            Shown(title, f"{meaning}.", change, ("row", "column"), unit),
            Shown(f"{title} by distance", f"{meaning}, by distance in rows or columns, the larger.", by_distance, ("distance",), unit),
        ]

    def loss(self, outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """0.8 CE of the image branch + 0.2 CE of the prompt branch, from the logits ``[B, C]`` of each."""
        image, prompt = (F.cross_entropy(logits.float(), target) for logits in outputs)
        return IMAGE_WEIGHT * image + (1 - IMAGE_WEIGHT) * prompt


class PromptMap(nn.Module):
    """A learned row for each token, in rank r and mapped to the tokens' width: ``[1, tokens, D]``.

    Starts as in the authors' code: rows from a truncated normal of 0.02, the projection by Xavier.
    """

    def __init__(self, tokens: int, rank: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.rows = nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens, rank), std=0.02, generator=generator))
        self.projection = nn.Linear(rank, width)
        nn.init.xavier_uniform_(self.projection.weight, generator=generator)
        nn.init.zeros_(self.projection.bias)

    def forward(self) -> Tensor:
        return self.projection(self.rows)[None]


def norms(title: str, prompt_map: PromptMap, grid: tuple[int, int]) -> Shown:
    """Lengths of a map's rows, as they lie over the image."""
    lengths = prompt_map()[0, -grid[0] * grid[1] :].norm(dim=-1).view(grid)
    return Shown(title, "Length of the map's row at each place, before positions are added.", lengths, ("row", "column"), "norm")


class InsertedMap(PromptMap):
    """A further map, and the scale ``[D]`` of what the block makes of it, which starts normal with 0.02 (authors' code)."""

    def __init__(self, tokens: int, rank: int, width: int, generator: torch.Generator) -> None:
        super().__init__(tokens, rank, width, generator)
        self.scale = nn.Parameter(torch.empty(width).normal_(std=0.02, generator=generator))


class Fusion(nn.Module):
    """What a token makes of its attention in the other branch: ``fc2(gelu(fc1(LN(tokens + attended))))``, without a residual."""

    def __init__(self, width: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = seeded(nn.Linear(width, rank), generator)
        self.fc2 = seeded(nn.Linear(rank, width), generator)

    def forward(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """``[B or 1, S, D]`` each, to ``[B, S, D]``."""
        read = (tokens + attended).to(self.norm.weight.dtype)
        return self.fc2(F.gelu(self.fc1(self.norm(read)))).to(tokens.dtype)


def seeded(layer: nn.Linear, generator: torch.Generator) -> nn.Linear:
    """Weights uniform in +-1/sqrt(inputs), bias zero. (How the authors start the fusions is not among the facts we have.)"""
    bound = layer.in_features**-0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
