"""What ``analysis.json`` holds: every number behind the figures, but not the maps over single images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from promptvit import analysis
from promptvit.analysis.forgetting import by_distance, interval
from promptvit.experiments.insight.findings import Findings
from promptvit.methods.base import Shown


def numbers(groups: Mapping[str, Sequence[Findings]]) -> dict[str, Any]:
    """Plain lists by method, then by run; None where there is no number."""
    return {"methods": {label: {"forgetting": _forgetting(runs), "runs": [_run(run) for run in runs]} for label, runs in groups.items()}}


def _forgetting(runs: Sequence[Findings]) -> dict[str, Any]:
    curve = interval([by_distance(run.decodable) for run in runs])
    distances = list(range(1, len(curve.mean) + 1))
    return {"blocks_later": distances, "mean": plain(curve.mean), "half_95": plain(curve.half), "seeds": curve.runs}


def _run(run: Findings) -> dict[str, Any]:
    fit, counts = analysis.calibration(run.probabilities, run.labels), analysis.confusion(run.probabilities, run.labels)
    wrong = analysis.confident_mistakes(run.probabilities, run.labels)
    guesses = run.probabilities.argmax(dim=-1)
    return {
        "run": run.run, "method": run.settings.method, "backbone": run.settings.backbone, "seed": run.settings.seed,
        "images": len(run.labels), "accuracy": run.accuracy, "notes": run.notes,
        "calibration": {"ece": fit.error, "confidence": plain(fit.confidence), "accuracy": plain(fit.accuracy), "images": plain(fit.count)},
        "classes": run.classes,
        "confusion": plain(counts),
        "hardest": [
            {"class": run.classes[label], "accuracy": share, "images": seen, "mostly_named": run.classes[instead]}
            for label, share, seen, instead in analysis.hardest(counts)
        ],
        "confident_mistakes": [
            {
                "image": run.sample.identifier(i), "predicted": run.classes[int(guesses[i])], "is": run.classes[int(run.labels[i])],
                "probability": float(run.probabilities[i].max()),
            }
            for i in wrong
        ],
        "attention_on_prompts": None if run.looks is None or run.looks.share is None else plain(run.looks.share),
        "learned": [_shown(one) for one in run.shown],
        "likeness": run.alike.rows(),
        "likeness_by_epoch": run.record,
        "decodable": plain(run.decodable),
        "any_trace": plain(run.traces),
        "sensitivity": [{key: _finite(value) for key, value in asdict(loss).items()} for loss in run.losses],
    }


def _shown(one: Shown) -> dict[str, Any]:
    return {
        "title": one.title, "unit": one.unit, "axes": list(one.axes), "ticks": list(one.ticks), "lines": list(one.lines),
        "values": plain(one.values),
    }


def plain(values: np.ndarray | Tensor) -> Any:
    """Nested lists, None for NaN."""
    return _finite(values.tolist())


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
