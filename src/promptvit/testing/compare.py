"""Our results beside the authors', at the tolerances of the vectors' README."""

import os
from dataclasses import dataclass, field

from torch import Tensor

from promptvit.testing.replay import replay
from promptvit.testing.vector import Vector

VALUES, GRADIENTS = 1e-5, 5e-5  # of the largest value of a tensor
EXACT = {"out/temp_after_forward"}

Row = list[str]
HEADER = ["case", "authors' code", "results", "worst value", "place", "worst gradient", "place", ""]


@dataclass
class Worst:
    """The largest difference, relative to the largest value of its tensor, and where it is."""

    difference: float = 0.0
    place: str = "-"

    def see(self, difference: float, place: str) -> None:
        if difference >= self.difference:
            self.difference, self.place = difference, place


@dataclass
class Report:
    """One case.

    Attributes:
        case, repository, commit: which, and whose code made it.
        keys: results compared.
        values, gradients: the worst of each.
        differs: keys that differ by our decision and were not compared.
        failures: one line for each key that is missing or too far away.
    """

    case: str
    repository: str
    commit: str
    keys: int = 0
    values: Worst = field(default_factory=Worst)
    gradients: Worst = field(default_factory=Worst)
    differs: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def row(self) -> Row:
        """Plain cells for :func:`table`."""
        source = f"{self.repository.removeprefix('https://github.com/')}@{self.commit[:7]}"
        verdict = f"{len(self.failures)} fail" if self.failures else f"{len(self.differs)} differ by decision" if self.differs else ""
        worst = [cell for found in (self.values, self.gradients) for cell in (f"{found.difference:.1e}", found.place)]
        return [self.case, source, str(self.keys), *worst, verdict]


def table(rows: list[Row]) -> list[str]:
    """Lines of a Markdown table, columns aligned."""
    rows = [HEADER, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def compare(path: str | os.PathLike[str]) -> Report:
    """Replay a vector and compare every result that it holds.

    Raises:
        ValueError: see :func:`replay`.
    """
    found, vector = replay(path), Vector.read(path)
    result = Report(vector.meta["case"], vector.meta["source_repo"], vector.meta["source_commit"])
    for key, expected in sorted(vector.results().items()):
        if key not in found:
            result.failures.append(f"{key}: our code did not compute it")
        elif decided_otherwise(vector, key):
            result.differs.append(key)
        else:
            result.keys += 1
            compare_one(result, key, found[key], expected)
    return result


def compare_one(result: Report, key: str, ours: Tensor, theirs: Tensor) -> None:
    """One tensor: its difference goes into ``result``, and a failure where that is too large."""
    if ours.shape != theirs.shape:
        result.failures.append(f"{key}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}")
        return
    largest = float(theirs.abs().max())
    difference = float((ours.double() - theirs.double()).abs().max())
    relative = difference / largest if largest else (float("inf") if difference else 0.0)
    gradient = "grad" in key.rsplit("/", 1)[0]
    (result.gradients if gradient else result.values).see(relative, key)
    tolerance = 0.0 if key in EXACT else GRADIENTS if gradient else VALUES
    if not relative <= tolerance:
        result.failures.append(f"{key}: differs by {relative:.1e} of its largest value, allowed {tolerance:.0e}")


def decided_otherwise(vector: Vector, key: str) -> bool:
    """Whether our result is another one by decision: with ``reverse_deep`` we insert prompts where the authors overwrite patches."""
    prompt = vector.meta["prompt"]
    if not prompt.get("reverse_deep"):
        return False
    depth = vector.meta["shape"]["depth"]
    before = range(depth - (prompt["num_deep_layers"] or depth))
    return not key.startswith(tuple(f"state/block{i}." for i in before))
