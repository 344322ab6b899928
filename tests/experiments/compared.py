"""What sweeps leave behind, to be compared, and waiting for it."""

import json
import time

TIMES = {"train_seconds", "images_per_second", "seconds", "attempts"}


def read(path):
    return json.loads(path.read_text())


def numbers(value):
    """JSON without what depends on time."""
    if isinstance(value, dict):
        return {key: numbers(inner) for key, inner in value.items() if key not in TIMES}
    return [numbers(inner) for inner in value] if isinstance(value, list) else value


def tables(out):
    """What two equal sweeps have in common: both views, and every metric and adapter of every run."""
    runs = {
        run.name: (
            numbers([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]),
            (run / "adapter" / "adapter_model.safetensors").read_bytes(),
        )
        for run in (out / "runs").iterdir()
    }
    return numbers(read(out / "summary.json")), numbers(read(out / "sweep.json")), runs


def epochs_in(folder):
    return sum(path.read_text().count("\n") for path in folder.rglob("metrics.jsonl"))


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def wait_outcome(place):
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if outcomes := place.wait(1.0):
            return outcomes
    raise AssertionError("no outcome")
