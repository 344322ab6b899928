"""Long-term Spatial Prompt Tuning (Mo et al., 2024), reading v1: the paper's equations are not available to us.

    [c_l, Q_l, X_l] = B_l([c_{l-1}, P_{l-1}, X_{l-1}])
    U_l = Q_l + mean_i X_l[i]                      spatial coding: the mean output patch token, added to every output prompt
    H_l, C_l = cell(U_l; H_{l-1}, C_{l-1})         long-term coding: one recurrent cell for all blocks, blocks as time steps
    R_l = U_l + H_l                                residual: a hidden state lies in (-1, 1), tokens do not
    P_l = g_l R_l + (1 - g_l) P_{l-1}              GaPT's gate

Without both codings this is GaPT. ``docs/methods/lspt.md`` separates what is the paper's from what is our reading.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from promptvit.backbones.base import Backbone, Pass
from promptvit.methods.base import MethodConfig, Shown, register
from promptvit.methods.gapt import GaPT, GaPTConfig


class LSPTConfig(GaPTConfig):
    """Options of LSPT; every module is a switch.

    Attributes:
        spatial: spatial coding.
        cell: the recurrent cell of the long-term coding, or ``none``; ``mlp`` is a control without memory, see :class:`MLPs`.
        rank: the cell's two matrices are products of this rank; None: full matrices. Of ``mlp``: its hidden width.
        residual: the cell's hidden state is added to what it read instead of replacing it.
        gate_init: here gates start half open.
    """

    spatial: bool = True
    cell: Literal["lstm", "gru", "mlp", "none"] = "lstm"
    rank: int | None = Field(None, ge=1)
    residual: bool = True
    gate_init: float = 0.0


@register("lspt")
class LSPT(GaPT):
    """GaPT with codings between a block's output prompts and its gate."""

    Config: ClassVar[type[MethodConfig]] = LSPTConfig
    reading: ClassVar[str | None] = "v1"
    stacks: ClassVar[bool] = False  # its cell's layers take one task's weights

    def __init__(self, backbone: Backbone, config: LSPTConfig, generator: torch.Generator) -> None:
        super().__init__(backbone, config, generator)
        self.cell: nn.Module | None = None
        if config.cell == "mlp":
            self.cell = MLPs(backbone.width, backbone.depth - 1, config.rank, generator)
        elif config.cell != "none":
            self.cell = CELLS[config.cell](backbone.width, config.rank, generator)

    def encode(self, step: Pass) -> tuple[Tensor, Tensor | None]:
        p: Tensor | None
        x, p, state = step.tokens, self.input_prompts(len(step.tokens)), None
        first_patch = step.backbone.num_prefix_tokens
        for i in range(step.depth):
            x, out = step(i, x, p, temperature=self.temperature(i))
            if out is not None and i < step.depth - 1:  # what leaves the last block goes to the readout as it is
                if self.config.spatial and "spatial coding" not in self.off:
                    out = out + x[:, first_patch:].mean(dim=1, keepdim=True)
                if self.cell is not None and "cell" not in self.off:
                    hidden, state = self.cell(out, state)
                    out = out + hidden if self.config.residual else hidden
            p = self.mix(i, out, p)
        return x, p

    def parts(self) -> dict[str, int]:
        """GaPT's, and the two codings."""
        codings = {"spatial coding": self.config.spatial, "cell": self.cell is not None}
        return super().parts() | {name: 1 for name, there in codings.items() if there}

    @torch.no_grad()
    def describe(self, backbone: Backbone, images: Tensor) -> list[Shown]:
        """GaPT's, the size of the spatial coding, and what the cell's gates do; both measured on ``images``."""
        shown, sizes, opened = super().describe(backbone, images), [], []

        def observe(i: int, _x: Tensor, _p: Tensor, y: Tensor, out: Tensor) -> None:
            coding = y[:, backbone.num_prefix_tokens :].mean(dim=1).norm(dim=-1)
            sizes.append((coding / out.norm(dim=-1).mean(dim=1)).mean())

        cell = self.cell if isinstance(self.cell, Cell) else None
        if cell is None:
            self(backbone, images, observe=observe)
        else:
            watch = cell.register_forward_pre_hook(lambda _, inputs: opened.append([gate.mean() for gate in cell.opened(*inputs)]))
            self(backbone, images, observe=observe)
            watch.remove()
            meaning = "Mean activation over images, prompts and channels; the first step has no memory to keep."
            values = torch.tensor(opened)
            shown.append(Shown("Gates of the cell", meaning, values, ("block", "line"), "activation", lines=cell.names, limits=(0, 1)))
        if self.config.spatial:
            meaning = "Length of the mean patch token that is added to a block's output prompts, as a share of theirs."
            shown.append(Shown("Size of the spatial coding", meaning, torch.stack(sizes[:-1]), ("block",), "relative length"))
        return shown


class Cell(nn.Module):
    """A recurrent cell as matrix products: ``gates`` blocks of width D from the input and from the hidden state.

    Weights start uniform in +-1/sqrt(D), biases at zero; the first step has no state and skips its product.
    """

    gates: ClassVar[int]
    names: ClassVar[tuple[str, ...]]  # of what ``opened`` gives

    def __init__(self, width: int, rank: int | None, generator: torch.Generator) -> None:
        super().__init__()
        self.from_input = _matrix(width, self.gates * width, rank, generator, bias=True)
        self.from_hidden = _matrix(width, self.gates * width, rank, generator, bias=False)

    def opened(self, u: Tensor, state: Any) -> list[Tensor]:
        """Activations in (0, 1) of the cell's gates in a step, each ``[B, T, D]``."""
        raise NotImplementedError


class LSTM(Cell):
    """Long short-term memory (Hochreiter & Schmidhuber, 1997): input, forget, cell and output gates."""

    gates = 4
    names = ("input", "forget", "output")

    def opened(self, u: Tensor, state: tuple[Tensor, Tensor] | None) -> list[Tensor]:
        i, f, _, o = self._parts(u, state)
        return [i.sigmoid(), f.sigmoid(), o.sigmoid()]

    def _parts(self, u: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, ...]:
        z = self.from_input(u) if state is None else self.from_input(u) + self.from_hidden(state[0])
        return z.chunk(4, dim=-1)

    def forward(self, u: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``u [B, T, D]`` and (hidden, cell) state to the new hidden state and state."""
        i, f, g, o = self._parts(u, state)
        memory = i.sigmoid() * g.tanh()
        if state is not None:
            memory = memory + f.sigmoid() * state[1]
        hidden = o.sigmoid() * memory.tanh()
        return hidden, (hidden, memory)


class GRU(Cell):
    """Gated recurrent unit (Cho et al., 2014): reset, update and candidate."""

    gates = 3
    names = ("reset", "update")

    def opened(self, u: Tensor, state: Tensor | None) -> list[Tensor]:
        z = self.from_input(u) if state is None else self.from_input(u) + self.from_hidden(state)
        return list(z[..., : 2 * u.shape[-1]].sigmoid().chunk(2, dim=-1))

    def forward(self, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """``u [B, T, D]`` and the hidden state to the new hidden state, twice."""
        reset, update, candidate = self.from_input(u).chunk(3, dim=-1)
        if state is None:
            hidden = (1 - update.sigmoid()) * candidate.tanh()
        else:
            reset_h, update_h, candidate_h = self.from_hidden(state).chunk(3, dim=-1)
            candidate = (candidate + (reset + reset_h).sigmoid() * candidate_h).tanh()
            z = (update + update_h).sigmoid()
            hidden = (1 - z) * candidate + z * state
        return hidden, hidden


CELLS = {"lstm": LSTM, "gru": GRU}


class MLPs(nn.Module):
    """No memory, for comparison at equal size: an MLP of its own after every block but the last.

    Args:
        hidden: width of the MLPs; None: together they have as many weights as the LSTM, ``8 D^2``.
    """

    def __init__(self, width: int, blocks: int, hidden: int | None, generator: torch.Generator) -> None:
        super().__init__()
        hidden = hidden or max(1, round(4 * width / max(1, blocks)))
        self.blocks = nn.ModuleList(
            nn.Sequential(_matrix(width, hidden, None, generator, bias=True), nn.GELU(), _matrix(hidden, width, None, generator, bias=True))
            for _ in range(blocks)
        )

    def forward(self, u: Tensor, state: int | None) -> tuple[Tensor, int]:
        """``u [B, T, D]`` through the next block's MLP; the state only counts."""
        place = state or 0
        return self.blocks[place](u), place + 1


def _matrix(inputs: int, outputs: int, rank: int | None, generator: torch.Generator, *, bias: bool) -> nn.Module:
    bound = inputs**-0.5
    layers = [nn.Linear(inputs, outputs, bias=bias)]
    if rank is not None:
        layers = [nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=bias)]
    for layer in layers:
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    if bias:
        nn.init.zeros_(layers[-1].bias)
    return layers[0] if rank is None else nn.Sequential(*layers)
