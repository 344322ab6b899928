"""The authors' parameter names in ours. Layouts agree up to leading dimensions of one, so a tensor is matched by its flat order."""

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from promptvit.testing.vector import Vector


@dataclass(frozen=True)
class Name:
    """One row of the table.

    Attributes:
        theirs: regular expression of the authors' key.
        ours: our parameter; ``{0}``, ``{1}`` are the expression's groups, ``*`` runs over the modules of a list, one after another.
        rows: which rows of ours: all, or so many of the first or last as theirs has.
    """

    theirs: str
    ours: str
    rows: Literal["all", "first", "last"] = "all"


TABLE = {
    "vpt": [
        Name(r"(?:transformer\.)?prompt_embeddings", "prompts.0", "first"),
        Name(r"(?:transformer\.)?deep_prompt_embeddings(?:_0)?", "prompts.0", "last"),
        Name(r"deep_prompt_embeddings_(\d+)", "prompts.{0}"),
        Name(r"(?:transformer\.)?prompt_proj\.(\w+)", "projection.{0}"),
    ],
    "gapt": [
        Name("prompt_embeddings", "prompts"),
        Name("gate_logit", "gate_logits"),
        Name("temp", "temperatures"),
    ],
    "spt": [Name("prompt_token", "prompts.0")],
    "sa2vp": [
        Name(r"transformer\.embeddings\.ppt|patch_embed\.deep_ppt", "map.rows"),
        Name(r"(?:transformer\.embeddings\.ppt_proj|patch_embed\.proj_ppt)\.(\w+)", "map.projection.{0}"),
        Name(r"transformer\.encoder\.deep_ppt", "inserted.*.rows"),
        Name(r"transformer\.encoder\.deep_proj\.(\d+)\.(\w+)", "inserted.{0}.projection.{1}"),
        Name(r"transformer\.encoder\.cross_conv", "inserted.*.scale"),
        Name(r"(?:transformer\.encoder|layers\.\d+)\.cross_attn\.(\d+)\.ffn_norm\.(\w+)", "fusions.{0}.norm.{1}"),
        Name(r"(?:transformer\.encoder|layers\.\d+)\.cross_attn\.(\d+)\.ffn\.(fc\d)\.(\w+)", "fusions.{0}.{1}.{2}"),
    ],
}


class Matching:
    """The tensors of one method, ours and the authors', side by side.

    Args:
        vector: for errors.
        table: the method's rows in ``TABLE``.
        method: ours.
        theirs: the authors' tensors by their names.

    Raises:
        ValueError: one of theirs that the table or our method does not know, or that has another size.
    """

    def __init__(self, vector: Vector, table: str, method: nn.Module, theirs: dict[str, Tensor]) -> None:
        self.vector = vector
        self.theirs = theirs
        self.parameters = dict(method.named_parameters())
        self.rows = {name: self._find(TABLE[table], name) for name in theirs}

    def _find(self, table: list[Name], theirs: str) -> tuple[list[nn.Parameter], slice]:
        row, match = next(((row, m) for row in table if (m := re.fullmatch(row.theirs, theirs))), (None, None))
        if row is None or match is None:
            raise self.vector.error(f"param/{theirs} is no parameter that we know")
        pattern = re.escape(row.ours.format(*match.groups())).replace(r"\*", r"\d+")
        ours = [parameter for name, parameter in self.parameters.items() if re.fullmatch(pattern, name)]
        count = self.theirs[theirs].shape[0] if self.theirs[theirs].ndim else 0
        rows = {"all": slice(None), "first": slice(count), "last": slice(-count, None) if count else slice(0)}[row.rows]
        expected, given = sum(parameter[rows].numel() for parameter in ours), self.theirs[theirs].numel()
        if not ours or expected != given:
            raise self.vector.error(f"param/{theirs} has {given} values in {tuple(self.theirs[theirs].shape)}, our method takes {expected}")
        return ours, rows

    @torch.no_grad()
    def load(self) -> None:
        """Put the authors' values into ours.

        Raises:
            ValueError: one of ours stays without a value.
        """
        filled = {id(parameter): 0 for parameter in self.parameters.values()}
        for name, (ours, rows) in self.rows.items():
            parts = self.theirs[name].flatten().split([parameter[rows].numel() for parameter in ours])
            for parameter, part in zip(ours, parts, strict=True):
                parameter[rows] = part.view_as(parameter[rows])
                filled[id(parameter)] += part.numel()
        for name, parameter in self.parameters.items():
            if filled[id(parameter)] != parameter.numel():
                raise self.vector.error(f"no tensor under param/ gives all values of our {name} {tuple(parameter.shape)}")

    def gradients(self) -> dict[str, Tensor]:
        """Our gradients under the authors' names, in their layout."""
        found = {}
        for name, (ours, rows) in self.rows.items():
            gradients = [p.new_zeros(p.shape)[rows] if p.grad is None else p.grad[rows] for p in ours]
            found[name] = torch.cat([g.flatten() for g in gradients]).view_as(self.theirs[name])
        return found
