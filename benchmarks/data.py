"""The data path: decoding and resizing against the cache on disk and in memory, and crops in threads against crops of a batch.

    python benchmarks/data.py --images 200
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, device, interleaved, parse, report
from PIL import Image

from promptvit.data import Pixels, Split, augment
from promptvit.data.cache import Cache
from promptvit.preprocessing import Preprocessing

PREPROCESSING = Preprocessing()
BATCH = 64


def photographs(folder: Path, count: int) -> Split:
    """JPEG files of 500 x 375 pixels with smooth structure, so that they compress like photographs (some 40 kB)."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.jpg" for i in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (375, 500, 1))
        Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(path, quality=90)
    return Split("train", [0] * count, paths, [path.name for path in paths])


def sources(folder: Path, count: int, rounds: int, clock: str) -> dict[str, Any]:
    """Milliseconds per image to get all resized pixels: decoded, from the cache on disk, kept in memory; in one thread."""
    split = photographs(folder, count)
    store = Cache(folder / "cache", 2**40)

    def read(pixels: Pixels) -> int:
        return sum(int(pixels[i][0, 0, 0]) for i in range(count))

    kept = Pixels(split, PREPROCESSING, cache=store)
    read(kept)
    cases: dict[str, Callable[[], object]] = {
        "decode": lambda: read(Pixels(split, PREPROCESSING, cache=Cache(folder / "none", 0))),
        "disk": lambda: read(Pixels(split, PREPROCESSING, cache=store)),
        "memory": lambda: read(kept),
    }
    timed = interleaved(cases, rounds, clock=clock)
    row: dict[str, Any] = {"what": "pixels", "images": count} | {f"{name}_ms": 1000 * timed.median(name) / count for name in cases}
    return row | {"decode_over_disk": vars(timed.ratio("decode", "disk"))}


def crops(side: int, size: int, rounds: int, clock: str) -> dict[str, Any]:
    """Milliseconds to crop and mirror a batch of 64: image by image on the CPU, and as one batch on the training device."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 3, side, side), dtype=np.uint8)
    there = torch.from_numpy(images).to(device())
    rows = rng.random((BATCH, 3))

    def one_by_one() -> np.ndarray:
        out = np.empty((BATCH, 3, size, size), np.uint8)
        for i in range(BATCH):
            out[i] = augment.random_crop(images[i], (size, size), rows[i], flip=True)
        return out

    cases = {"one_by_one": one_by_one, "batch": lambda: augment.random_crops(there, (size, size), rows, flip=True)}
    timed = interleaved(cases, 10 * rounds, clock=clock)
    row: dict[str, Any] = {"what": "crops", "from": side, "to": size, "device": device().type}
    return row | {f"{name}_ms": 1000 * timed.median(name) for name in cases} | {"ratio": vars(timed.ratio("one_by_one", "batch"))}


def main() -> None:
    """Run the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, help="default: 200; with --quick: 60")
    chosen = parse(parser)
    with tempfile.TemporaryDirectory() as folder:
        rows = [sources(Path(folder), chosen.images or (60 if chosen.quick else 200), chosen.rounds, chosen.clock)]
    rows += [crops(side, size, chosen.rounds, chosen.clock) for side, size in ((256, 224), (36, 32))]
    for row in rows:
        print("  ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()), flush=True)
    report(chosen, rows)


if __name__ == "__main__":
    main()
