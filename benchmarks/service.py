"""The service under load: 32 clients, five tasks, every answer checked; micro-batching on against off, in turns.

    python benchmarks/service.py --seconds 60

Five vpt-deep tasks with heads of different sizes on mae-tiny. Two services run, one with ``--max-batch 1``; clients ask one, then the
other, round by round, and throughput and latency are those of all rounds together. Weights are random: speed does not depend on them,
and the answers are told apart more easily than those of tasks that agree.
"""

import argparse
import asyncio
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import machine
from PIL import Image

import promptvit

CLASSES = (4, 5, 10, 20, 47)
IMAGES = 64
TOLERANCE = 1e-4
MODES = {"on": (), "off": ("--max-batch", "1", "--max-latency-ms", "0")}
Expected = dict[tuple[str, int], dict[str, float]]


class Load(NamedTuple):
    """What the clients saw of one service."""

    latencies: list[float]  # seconds, of right answers
    errors: list[str]
    wrong: list[str]
    seconds: float

    @property
    def report(self) -> dict[str, Any]:
        p50, p99 = (1000 * float(np.quantile(self.latencies, q)) for q in (0.5, 0.99))
        return {
            "answers": len(self.latencies), "per_second": round(len(self.latencies) / self.seconds, 1), "p50_ms": round(p50, 1),
            "p99_ms": round(p99, 1), "errors": self.errors[:5], "num_errors": len(self.errors), "wrong": self.wrong[:5],
            "num_wrong": len(self.wrong),
        }


def main() -> None:
    """Measure and print JSON; the exit code says whether the bars hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of load on each service")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        adapters, pictures, expected = tasks(Path(folder))
        with services(adapters) as ports:
            loads = {mode: Load([], [], [], 0.0) for mode in MODES}
            for mode in MODES:
                asyncio.run(load(ports[mode], options.clients, 0.5, pictures, expected))  # warm up
            for turn in range(options.rounds):
                for mode in sorted(MODES, reverse=bool(turn % 2)):
                    one = asyncio.run(load(ports[mode], options.clients, options.seconds / options.rounds, pictures, expected))
                    loads[mode] = Load(*(before + more for before, more in zip(loads[mode], one, strict=True)))
    found = {mode: done.report for mode, done in loads.items()}
    ratio = found["on"]["per_second"] / found["off"]["per_second"]
    held = {
        "no error": not any(row["num_errors"] for row in found.values()),
        "no swapped answer": not any(row["num_wrong"] for row in found.values()),
        "at least 2 x throughput": ratio >= 2,
        "p99 not worse": found["on"]["p99_ms"] <= found["off"]["p99_ms"],
    }
    settings = {"clients": options.clients, "seconds": options.seconds, "omp_num_threads": os.environ.get("OMP_NUM_THREADS")}
    print(json.dumps({"machine": machine(), **settings, "batching": found, "throughput_ratio": round(ratio, 2), "bars": held}, indent=2))
    sys.exit(0 if all(held.values()) else 1)


def tasks(folder: Path) -> tuple[list[Path], list[bytes], Expected]:
    """Adapter folders, image files, and by task and image the right probabilities, computed one by one without the service."""
    backbone, adapters, expected = promptvit.load_backbone("mae-tiny"), [], {}
    size = backbone.preprocessing.size[0]
    drawn = np.random.default_rng(0).integers(0, 256, (IMAGES, 4, 4, 3), dtype=np.uint8).repeat(size // 4, 1).repeat(size // 4, 2)
    pictures = [png(pixels) for pixels in drawn]
    for seed, count in enumerate(CLASSES):
        names = [f"{count}-{i}" for i in range(count)]
        model = promptvit.create_model(backbone, "vpt-deep", count, classes=names, num_prompts=10, seed=seed)
        torch.nn.init.normal_(model.head.weight, std=0.1, generator=torch.Generator().manual_seed(seed))
        adapters.append(model.save_pretrained(folder / f"task-{count}"))
        shares = [model.predict(Image.fromarray(pixels)).probabilities[0].tolist() for pixels in drawn]
        expected |= {(adapters[-1].name, i): dict(zip(names, row, strict=True)) for i, row in enumerate(shares)}
        apart = torch.cdist(torch.tensor(shares), torch.tensor(shares), p=float("inf")).fill_diagonal_(1).min()
        assert apart > 5 * TOLERANCE, "two images have answers that could be mistaken for one another"
    return adapters, pictures, expected


def png(pixels: np.ndarray) -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@contextmanager
def services(adapters: list[Path]) -> Iterator[dict[str, int]]:
    """``promptvit serve`` in every mode, in processes of their own, which must end well on SIGTERM; their ports."""
    line = [sys.executable, "-m", "promptvit", "serve", *map(str, adapters), "--port", "0"]
    started = {mode: subprocess.Popen([*line, *options], stdout=subprocess.PIPE, text=True) for mode, options in MODES.items()}
    try:
        yield {mode: port(process) for mode, process in started.items()}
    finally:
        for process in started.values():
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(60) for process in started.values()]
    if any(codes):
        raise RuntimeError(f"the services ended with codes {codes}")


def port(process: subprocess.Popen[str]) -> int:
    """Where a service that has just been started listens."""
    assert process.stdout is not None
    return int(process.stdout.readline().rsplit(":", 1)[1])


async def load(at: int, clients: int, seconds: float, pictures: list[bytes], expected: Expected) -> Load:
    """``clients`` that each ask again as soon as they are answered."""
    started, seen = time.monotonic(), Load([], [], [], 0.0)
    await asyncio.gather(*(client(at, seed, started + seconds, pictures, expected, seen) for seed in range(clients)))
    return seen._replace(seconds=time.monotonic() - started)


async def client(at: int, seed: int, end: float, pictures: list[bytes], expected: Expected, seen: Load) -> None:
    """One connection, random images and tasks."""
    draw, cases = random.Random(seed), list(expected)
    reader, writer = await asyncio.open_connection("127.0.0.1", at)
    while (asked := time.monotonic()) < end:
        task, i = draw.choice(cases)
        head = f"POST /v1/tasks/{task}/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(pictures[i])}\r\n\r\n"
        try:
            writer.write(head.encode() + pictures[i])
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
            answer = json.loads(await reader.readexactly(length))
            taken = time.monotonic() - asked
        except (OSError, EOFError, ValueError) as error:
            seen.errors.append(f"{type(error).__name__}: {error}")
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", at)
            continue
        if " 200 " not in lines[0]:
            seen.errors.append(f"{lines[0]}: {answer}")
        elif right(answer, task, expected[task, i]):
            seen.latencies.append(taken)
        else:
            seen.wrong.append(f"{task}, image {i}: {answer}")
    writer.close()


def right(answer: Any, task: str, expected: dict[str, float]) -> bool:
    """Whether it is the task's answer for that image: each class with its probability, the most probable ones of all."""
    top = answer["predictions"][0]["top"]
    near = all(abs(expected.get(row["class"], 2.0) - row["probability"]) < TOLERANCE for row in top)
    return answer["task"] == task and near and abs(top[0]["probability"] - max(expected.values())) < TOLERANCE


if __name__ == "__main__":
    main()
