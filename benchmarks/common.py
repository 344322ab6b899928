"""Timing in interleaved pairs: A B A B ..., ratios round by round, so that a busy or throttled machine slows both sides alike."""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from promptvit.backbones.base import Backbone
from promptvit.backbones.loading import load_backbone

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Ratio:
    """Median over rounds of one case's time over another's, with a bootstrap interval (95 %)."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Timings:
    """Seconds of every case in every round."""

    def __init__(self, seconds: dict[str, list[float]]) -> None:
        self.seconds = seconds

    def median(self, case: str) -> float:
        """Median seconds of one call."""
        return float(np.median(self.seconds[case]))

    def ratio(self, case: str, over: str) -> Ratio:
        """``case`` over ``over``, paired by round."""
        ratios = np.asarray(self.seconds[case]) / np.asarray(self.seconds[over])
        resampled = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
        low, high = np.quantile(np.median(resampled, axis=1), (0.025, 0.975))
        return Ratio(float(np.median(ratios)), float(low), float(high))


def interleaved(cases: dict[str, Callable[[], object]], rounds: int, warmup: int = 1, clock: str = "wall") -> Timings:
    """Call every case once per round, in an order that turns by one place from round to round.

    ``clock``: ``wall``, or ``cpu``: time that this process computed, for a machine that others use too. On a GPU each call is waited
    for before and after.
    """
    now = CLOCKS[clock]
    names = list(cases)
    for name in names * warmup:
        cases[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wait()
            started = now()
            cases[name]()
            wait()
            seconds[name].append(now() - started)
    return Timings(seconds)


def wait() -> None:
    """Wait until the GPU has done what it was given; nothing without one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """What kind of machine, never which one."""
    return {
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every benchmark takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few cases, few rounds")
    parser.add_argument("--rounds", type=int, help="timed rounds; default: 9, with --quick 5")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; fixed and reported")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: only time that the process computed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows with the machine's facts")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The parsed command line, with torch's threads set and the number of rounds chosen."""
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    chosen.rounds = chosen.rounds or (5 if chosen.quick else 9)
    return chosen


def report(chosen: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write ``rows`` to ``--json``, if asked."""
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        facts = machine() | {"clock": chosen.clock, "rounds": chosen.rounds}
        chosen.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random_backbone(name: str) -> Backbone:
    """A timm backbone with seeded random weights: speed and memory do not depend on their values."""
    return load_backbone(name, pretrained=False).to(device())


def images(backbone: Backbone, batch: int) -> torch.Tensor:
    """Normalised noise ``[batch, 3, H, W]``."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, *backbone.preprocessing.size, generator=generator).to(device())
