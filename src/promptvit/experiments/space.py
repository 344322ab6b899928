"""What a search chooses from, and how it goes about it: the ``search`` section of a method in a spec.

    search: {sampler: tpe, trials: 30, space: {lr: {low: 0.001, high: 1.0, log: true}, num_prompts: [5, 10, 50]}}
    search: {sampler: halving}       # beside a ``grid``: all of its points, most of them for a ninth of the epochs
"""

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST = 100_000  # points of a grid

Scalar = bool | int | float | str | None


class Range(BaseModel):
    """Numbers from ``low`` to ``high``, both included; whole numbers where both ends are. ``log``: evenly on a logarithmic scale."""

    model_config = ConfigDict(extra="forbid")

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _has_numbers(self) -> "Range":
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} must be above 0 where log is true")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Axis = list[Any] | Range


class Search(BaseModel):
    """How points are proposed, and which are trained to the end.

    Attributes:
        sampler: ``random`` and ``tpe`` (tree-structured Parzen estimator: where earlier trials did well) train every trial to the end;
            ``halving`` draws like ``random`` and is successive halving: see ``reduction``.
        trials: how many points; ``halving`` without it takes every combination of the values.
        space: values or a range by setting, beside those of the ``grid``.
        reduction, rungs: halving trains all trials for ``1 / reduction ** (rungs - 1)`` of the epochs, on the learning rate schedule of
            all epochs, the best ``1 / reduction`` of them (on validation) on to ``reduction`` times as many, and so on to the last epoch.
    """

    model_config = ConfigDict(extra="forbid")

    sampler: Literal["random", "tpe", "halving"]
    trials: int | None = Field(None, ge=1)
    space: dict[str, Range | Annotated[list[Scalar], Field(min_length=1)]] = Field(default_factory=dict)
    reduction: int = Field(3, ge=2)
    rungs: int = Field(3, ge=2)

    @model_validator(mode="after")
    def _knows_its_length(self) -> "Search":
        ranges = [key for key, axis in self.space.items() if isinstance(axis, Range)]
        if self.trials is None and (self.sampler != "halving" or ranges):
            why = f"{ranges[0]} is a range" if self.sampler == "halving" else f"{self.sampler} needs it"
            raise ValueError(f"trials: missing; {why}; say how many points to try")
        return self

    def ends(self, epochs: int, validate_every: int) -> list[int]:
        """Epochs after which trials are compared, the last one included: validated ones, rising.

        Raises:
            ValueError: too few epochs for as many rungs.
        """
        if self.sampler != "halving":
            return [epochs]
        shares = [epochs / self.reduction**i / validate_every for i in reversed(range(self.rungs))]
        ends = [min(epochs, validate_every * math.ceil(round(share, 6))) for share in shares]
        if len(set(ends)) < len(ends):
            raise ValueError(
                f"search: {epochs} epochs, validated every {validate_every}, give the rungs {ends}; "
                "take more epochs, or fewer rungs"
            )
        return ends

    def sizes(self, trials: int) -> list[int]:
        """How many of ``trials`` are trained in each rung."""
        return [max(1, trials // self.reduction**i) for i in range(self.rungs if self.sampler == "halving" else 1)]


def combinations(axes: Mapping[str, Axis]) -> list[dict[str, Any]]:
    """Every combination of the values; of ranges, of their ends. The first axis varies slowest.

    Raises:
        ValueError: more than :data:`MOST`.
    """
    values = [[axis.low, axis.high] if isinstance(axis, Range) else axis for axis in axes.values()]
    if (count := math.prod(map(len, values))) > MOST:
        raise ValueError(f"grid: {', '.join(axes)} have {count:,} combinations; at most {MOST:,}, or search them with trials")
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*values)]
