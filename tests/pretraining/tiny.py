"""Pre-training in a second: every objective at its smallest."""

from typing import Any

from promptvit.pretraining.loop import OBJECTIVES
from promptvit.pretraining.objective import PretrainSettings

SIZES = {"width": 32, "depth": 2, "heads": 2, "patch_size": 8}


def settings(objective: str, **changes: Any) -> PretrainSettings:
    """Two blocks of width 32, eight images a step."""
    return OBJECTIVES[objective].Settings(**SIZES, **{"steps": 6, "batch_size": 8, "lr": 3e-3, **changes})
