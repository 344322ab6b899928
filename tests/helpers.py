"""Small things that several test folders need."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from promptvit.pretraining.loop import pretrain
from promptvit.pretraining.mae import MAESettings
from promptvit.training import Scores

CONTRACT_FILES = {"config.yaml", "metrics.jsonl", "result.json", "adapter", "checkpoint", "environment.json", "tensorboard"}


def tiny_backbone(folder: Path) -> str:
    """Path of a real, if hardly trained, MAE backbone of 32 px, width 32, two blocks."""
    settings = MAESettings(width=32, depth=2, heads=2, patch_size=8, decoder_width=16, decoder_depth=1, steps=2, batch_size=4)
    return str(pretrain(settings, folder))


def noise_images(folder: Path, levels: Mapping[str, int]) -> None:
    """Images of 32 px in ``folder``, by their places in it: noise below that level."""
    generator = np.random.default_rng(0)
    for place, high in levels.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, high, (32, 32, 3), dtype=np.uint8)).save(path)


def scripted_scores(accuracy: float) -> Scores:
    """What scoring ten classes with 100 images each gives."""
    return Scores(torch.full((10,), 100), torch.full((10,), round(100 * accuracy)))


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m promptvit`` in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "promptvit", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300, check=False, **options)


def one_line_error(result: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that failed as promised: a non-zero code, one line, no traceback."""
    assert result.returncode not in (0, None), result.stdout
    assert "Traceback" not in result.stderr, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), result.stderr
    return last.removeprefix("error: ")
