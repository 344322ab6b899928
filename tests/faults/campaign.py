"""The fault campaign: kill, look at what is left, go on, and compare the end with that of undisturbed work.

``PYTHONPATH=tests python -m faults.campaign --kills 240`` prints a table and ends with 1 where anything was lost.
"""

import argparse
import math
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from faults.dying import Death, Ended, attempt
from faults.targets import Target, prepare, targets

from promptvit.files import UNFINISHED

MOST = 3  # kills in one folder before the work may end


@dataclass
class Tally:
    """Counts of one target.

    Attributes:
        inside: kills that left a file half-written.
        full: attempts that had no room in the middle of a file; of a sweep, only those of its own process are counted.
        resumed: attempts that began where a killed one had been.
        compared: folders whose end was compared with the undisturbed one.
        losses: what was lost, each with what led to it.
    """

    name: str
    kills: int = 0
    inside: int = 0
    full: int = 0
    resumed: int = 0
    compared: int = 0
    losses: list[str] = field(default_factory=list)

    @property
    def numbers(self) -> list[int]:
        return [self.kills, self.inside, self.full, self.resumed, self.compared, len(self.losses)]


class Campaign:
    """Kills one target until ``kills`` are reached."""

    def __init__(self, target: Target, folder: Path, seed: int) -> None:
        self.target, self.folder, self.draw = target, folder, random.Random(f"{seed} {target.name}")
        self.tally = Tally(target.name)
        self.history: list[Any] = []
        whole = folder / "whole"
        self.expect(attempt(lambda: target.begin(whole)))
        self.undisturbed = self.expect(attempt(lambda: target.work(whole)))
        self.outcome = self.expect(attempt(lambda: target.outcome(whole))).value

    def run(self, kills: int) -> Tally:
        while self.tally.kills < kills and not self.tally.losses:
            self.one_folder(self.folder / f"{self.tally.compared}", kills)
        return self.tally

    def one_folder(self, out: Path, kills: int) -> None:
        """From nothing to the end, with up to ``MOST`` kills in between."""
        self.history = []
        self.expect(attempt(lambda: self.target.begin(out)))
        wanted = min(self.draw.randint(1, MOST), kills - self.tally.kills)
        have: set[str] = set()
        for death in [*(self.death() for _ in range(wanted)), None]:
            left = unfinished(out)
            self.tally.resumed += bool(self.history)
            ended = attempt(lambda: self.target.work(out), death)
            kind = death.kind if death is not None else "none"
            complete = ended.value is True and kind != "full"
            if ended.killed or (kind == "cut" and ended.value is False):  # of a sweep, only a worker
                self.tally.kills += 1
                self.tally.inside += bool(unfinished(out) - left)
            elif kind == "full":
                self.tally.full += ended.limited
                if (said := self.misreported(ended, out, unfinished(out) - left)) is not None:
                    return self.lose(said, out)
            elif not complete:
                return self.lose(f"cannot be gone on with: {ended.error or 'not complete'}", out)
            self.history.append(death)
            found = attempt(lambda: self.target.finished(out))
            if found.error is not None:
                return self.lose(f"a reader does not accept what it finds: {found.error}", out)
            if have - found.value:
                return self.lose(f"finished before, gone now: {sorted(have - found.value)}", out)
            have = found.value
            if complete:
                break
        ended = attempt(lambda: self.target.outcome(out))
        if ended.error is not None or ended.value != self.outcome:
            return self.lose(f"the end differs: {ended.error or differing(ended.value, self.outcome)}", out)
        self.tally.compared += 1
        return None

    def misreported(self, ended: Ended, out: Path, left: set[Path]) -> str | None:
        """What is wrong with how an attempt ended that had no room for a file."""
        if ended.error is not None and str(out) not in ended.error.strip().splitlines()[-1]:
            return f"no room, and the file is not named: {ended.error}"
        return f"no room, and half files stay: {left}" if left else None

    def death(self) -> Death:
        """A quarter each: at any time, at a step of writing a file, within a file; and no room within a file, which kills nobody."""
        kind = self.draw.choice(["time", "step", "cut", "full"])
        if kind == "time":
            return Death(kind, self.draw.uniform(0, self.undisturbed.seconds), alone=self.draw.random() < 0.5)
        if kind == "step":
            return Death(kind, self.draw.randint(1, max(1, self.undisturbed.steps)))
        sizes = self.undisturbed.sizes or [1000]
        place = self.draw.randrange(len(sizes))
        return Death(kind, place + 1, size=self.draw.randrange(max(1, sizes[place])))

    def lose(self, what: str, out: Path) -> None:
        self.tally.losses.append(f"{self.target.name}, {out}, after {self.history}: {what}")

    def expect(self, ended: Ended) -> Ended:
        assert ended.error is None and not ended.killed, f"{self.target.name}, undisturbed: {ended.error}"
        return ended


def unfinished(out: Path) -> set[Path]:
    return set(out.rglob(f".*{UNFINISHED}"))


def differing(found: Any, expected: Any) -> str:
    """Short."""
    if isinstance(found, tuple) and isinstance(expected, tuple):
        return "; ".join(differing(a, b) for a, b in zip(found, expected, strict=True) if a != b)
    return f"{str(found)[:300]} instead of {str(expected)[:300]}"


def table(tallies: list[Tally]) -> str:
    """Markdown."""
    head = ["target", "kills", "inside a file write", "disk full", "resumed", "ends compared", "losses"]
    rows = [[tally.name, *tally.numbers] for tally in tallies]
    rows.append(["all", *(sum(column) for column in zip(*(tally.numbers for tally in tallies), strict=True))])
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [head, ["---"] * len(head), *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=240, help="over all targets together, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="a target's name; may be repeated")
    given = parser.parse_args()
    if torch.get_num_threads() != 1:
        parser.error("set OMP_NUM_THREADS=1: a forked process has no pool of threads")
    sys.dont_write_bytecode = True  # a cut shall not hit a .pyc
    with tempfile.TemporaryDirectory() as name:
        shared = Path(name) / "shared"
        ready = attempt(lambda: prepare(shared))
        assert ready.error is None, ready.error
        chosen = [target for target in targets(shared) if given.only is None or target.name in given.only]
        tallies, started = [], time.monotonic()
        for target in chosen:
            kills = math.ceil(given.kills * target.share / sum(other.share for other in chosen))
            tallies.append(Campaign(target, Path(name) / target.name, given.seed).run(kills))
            line = f"{target.name}: {tallies[-1].numbers}, {time.monotonic() - started:.0f} s so far"
            print(line, *tallies[-1].losses, sep="\n", file=sys.stderr)
        print(table(tallies))
        return int(any(tally.losses for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
