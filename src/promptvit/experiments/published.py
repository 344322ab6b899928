"""Published numbers to stand beside one's own: quoted from ``published.yaml``, each with its source and how it was read."""

import functools
from decimal import Decimal
from fnmatch import fnmatchcase
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field


class Quote(BaseModel):
    """One row of a published table, in percent with the digits that are printed; what the source does not print is absent.

    Attributes:
        suite, backbone: ``vtab`` or ``fgvc``; a kind of weights: ``sup``, ``mae``, ``mocov3``, ``swin``.
        method: our name where we have the method, else the paper's.
        mark: ``P`` read in the paper, ``C`` in its authors' code or README, ``2`` in another paper's table.
        sources: where it was read.
        tuned: trained share or count, as printed; papers count differently.
        tasks, groups: accuracies by data set name and by group.
        mean_tasks, mean_groups: over the suite's tasks; over its group means.
        note: settings or doubts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str
    backbone: str
    method: str
    mark: Literal["P", "C", "2"]
    sources: tuple[str, ...] = Field(min_length=1)
    tuned: str | None = None
    tasks: dict[str, Decimal] = Field(default_factory=dict)
    groups: dict[str, Decimal] = Field(default_factory=dict)
    mean_tasks: Decimal | None = None
    mean_groups: Decimal | None = None
    note: str | None = None

    @property
    def source(self) -> str:
        """Mark, sources and note in one line."""
        return f"[{self.mark}] {'; '.join(self.sources)}{f'; {self.note}' if self.note else ''}"


class Weights(BaseModel):
    """A kind of backbone that papers use: what they call it, and patterns of our names for it."""

    name: str
    match: tuple[str, ...]


class Published(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    marks: dict[str, str]
    backbones: dict[str, Weights]
    sources: dict[str, str]
    rows: tuple[Quote, ...]


@functools.cache
def published() -> Published:
    """``published.yaml``, source keys replaced by what they stand for and data sets by their full names."""
    text = resources.files(__package__).joinpath("published.yaml").read_text(encoding="utf-8")
    values = yaml.load(text, yaml.BaseLoader)  # every scalar as text: 73.20 keeps its zero
    for row in values["rows"]:
        row["sources"] = [values["sources"][key] for key in row["sources"]]
        row["tasks"] = {f"{row['suite']}/{name}": value for name, value in row.get("tasks", {}).items()}
    return Published(**values)


def kind_of(backbone: str) -> str | None:
    """Which published weights ``backbone`` names, if any: the small bundled ones, for one, are none of them."""
    name = backbone.removeprefix("timm:").lower()
    return next((kind for kind, weights in published().backbones.items() if any(fnmatchcase(name, p) for p in weights.match)), None)


def quotes(suite: str, backbone: str) -> list[Quote]:
    """Published rows for a suite on the weights that ``backbone`` names."""
    kind = kind_of(backbone)
    return [row for row in published().rows if row.suite == suite and row.backbone == kind]
