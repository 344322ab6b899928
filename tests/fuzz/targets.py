"""What is fuzzed: each target makes the case of a number, always the same one, in a folder of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Protocol

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from watching import Case, Watch


class Target(Protocol):
    """``share``: of a campaign's cases, in per mille."""

    share: int

    def run(self, watch: Watch, count: int, seed: int) -> None: ...


class Drawn:
    """Cases by number: ``start`` prepares a folder and gives what draws one case."""

    def __init__(self, share: int, start: Callable[[Path, Path], Callable[[Random], Case]]) -> None:
        self.share, self.start = share, start

    def run(self, watch: Watch, count: int, seed: int) -> None:
        for case in self.cases(watch, range(count), seed):
            watch.look(case)

    def cases(self, watch: Watch, numbers: range, seed: int) -> Iterator[Case]:
        draw = self.start(watch.folder, watch.outside)
        for number in numbers:
            rng = Random(f"{seed} {number}")
            case = draw(rng)
            yield Case(case.read, case.named, f"number {number}: {case.note}")


class Explored:
    """Cases that hypothesis makes of a schema."""

    def __init__(self, share: int, strategy: SearchStrategy, start: Callable[[Path], Callable[[object], Case]]) -> None:
        self.share, self.strategy, self.start = share, strategy, start

    def run(self, watch: Watch, count: int, seed: int) -> None:
        make, left = self.start(watch.folder), count

        @settings(
            max_examples=count,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(self.strategy)
        def explore(value: object) -> None:
            nonlocal left
            if left > 0:
                left -= 1
                watch.look(make(value))

        explore()
