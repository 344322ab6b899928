"""``python tests/fuzz/campaign.py [--cases N] [--target NAME] [--seed S]``: fuzz everything in one process and print what came of it."""

import argparse
import faulthandler
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import fuzz_adapters
import fuzz_checkpoints
import fuzz_configs
import fuzz_images
import fuzz_lists
import fuzz_runs
from targets import Drawn, Explored, Target
from watching import Watch, limited_memory

MEMORY = "/dev/shm"  # where there is one: each case is written, and the disk would take most of the time
TARGETS: dict[str, Target] = {
    "adapter: config": Drawn(80, fuzz_adapters.configs),
    "adapter: weights": Drawn(120, fuzz_adapters.weights),
    "adapter: backbone it names": Drawn(15, fuzz_adapters.references),
    "checkpoint file": Drawn(100, fuzz_checkpoints.files),
    "checkpoint folder (timm)": Drawn(30, fuzz_checkpoints.folders),
    "checkpoint folder (Hugging Face)": Drawn(35, fuzz_checkpoints.transformers),
    "state of a run": Drawn(40, fuzz_checkpoints.states),
    "settings, by schema": Explored(50, fuzz_configs.settings_by_schema, fuzz_configs.settings),
    "settings, altered": Drawn(70, fuzz_configs.arguments),
    "sweep file, by schema": Explored(50, fuzz_configs.specs_by_schema, fuzz_configs.specs),
    "recipe or run config, as YAML": Drawn(50, fuzz_configs.texts),
    "sweep and run folders": Drawn(30, fuzz_runs.sweeps),
    "histories, records, scores": Drawn(60, fuzz_runs.lines),
    "cache of images": Drawn(10, fuzz_runs.caches),
    "data lists": Drawn(90, fuzz_lists.texts),
    "data lists of MATLAB": Drawn(40, fuzz_lists.matlab),
    "folder of images": Drawn(15, fuzz_lists.trees),
    "archive": Drawn(20, fuzz_lists.archives),
    "image": Drawn(150, fuzz_images.start),
    "mask": Drawn(45, fuzz_images.masks),
}


def fuzz(name: str, count: int, folder: Path, seed: int = 0) -> Watch:
    """``count`` cases of a target, in a new folder below ``folder``."""
    outside = folder / "outside"
    outside.mkdir(parents=True)
    (outside / "canary.png").write_bytes(b"nobody may read this")
    (outside / "canary.pth").write_bytes(b"nobody may read this")
    own = folder / "cases"
    own.mkdir()
    watch = Watch(own, outside, folder / "canary")
    logging.disable(logging.WARNING)
    try:
        with limited_memory():
            TARGETS[name].run(watch, count, seed)
    finally:
        logging.disable(logging.NOTSET)
    return watch


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chosen = given.target or list(TARGETS)
    whole = sum(TARGETS[name].share for name in chosen)
    warnings.simplefilter("ignore")  # Pillow and torch have much to say about damaged files
    faulthandler.enable()
    faulthandler.dump_traceback_later(3600, exit=True)
    crashes, cases = [], 0
    print(f"| {'input':34} | {'cases':>7} | {'accepted':>8} | {'refused':>7} | {'crashes':>7} | {'seconds':>7} |")
    print(f"| {'-' * 34} | {'-' * 6}: | {'-' * 7}: | {'-' * 6}: | {'-' * 6}: | {'-' * 6}: |")
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        os.environ["PROMPTVIT_CACHE"] = str(Path(folder) / "cache")
        for number, name in enumerate(chosen):
            start, count = time.process_time(), -(-given.cases * TARGETS[name].share // whole)
            watch = fuzz(name, count, Path(folder) / str(number), given.seed)
            found = [watch.counts[outcome] for outcome in ("accepted", "refused", "crash")]
            cases += sum(found)
            crashes += watch.crashes
            accepted, refused, crashed = found
            print(
                f"| {name:34} | {sum(found):7,} | {accepted:8,} | {refused:7,} | {crashed:7,} | {time.process_time() - start:7.0f} |",
                flush=True,
            )
            for line in watch.crashes[:20]:
                print(f"{name}: {line}".encode("unicode_escape").decode(), flush=True)
    print(f"\n{cases:,} cases, {len(crashes)} crashes")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
