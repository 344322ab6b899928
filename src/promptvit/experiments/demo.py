"""The demo: four methods on few-shot handwritten digits, one table, an adapter each and two pictures."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from promptvit import files
from promptvit.backbones.loading import load_backbone
from promptvit.data import load_dataset
from promptvit.experiments import pictures
from promptvit.experiments.store import history
from promptvit.training import train


def run_demo(out: Path, console: Console) -> dict[str, Any]:
    """Train what ``demo.yaml`` lists into ``out/<method>/``; a run that is already there is not trained again.

    Returns:
        ``{"rows": [results], "pictures": [paths]}``, as in ``out/summary.json``.
    """
    spec = yaml.safe_load(resources.files(__package__).joinpath("demo.yaml").read_text(encoding="utf-8"))
    common = spec["common"]
    backbone = load_backbone(common["backbone"])
    console.print(f"backbone {backbone.name}, {common['data']}, {common['shots']} images per class", highlight=False)
    results = {}
    for method, own in spec["runs"].items():
        run = train(method=method, out=str(out / method), resume=True, loaded_backbone=backbone, **common | own)
        results[method] = run
        console.print(f"{method}: test accuracy {run.result['accuracy']:.1%} in {run.result['train_seconds']:.0f} s", highlight=False)
    best = max(results.values(), key=lambda run: run.result["val_accuracy"])
    test = load_dataset(common["data"], data_seed=common["seed"], shots=common["shots"]).splits["test"]
    drawn = [
        pictures.predictions(best.model, test, out / "predictions.png", title=f"{best.result['method']}: held-out {common['data']}"),
        pictures.curves({name: history(run.run_dir) for name, run in results.items()}, out / "curves.png"),
    ]
    summary = {"rows": [run.result for run in results.values()], "pictures": [str(path) for path in drawn]}
    files.write_json(out / "summary.json", summary)
    return summary
