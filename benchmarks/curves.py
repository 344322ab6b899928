"""Draw the curves of `promptvit sweep curves` and of sizes.yaml: python benchmarks/curves.py runs/sweeps/curves runs/sweeps/sizes

Prints the numbers as rows of a Markdown table and writes the picture, with all scores as JSON beside it. A label of those sweeps is
``curve/method/place``.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

from promptvit.experiments.claims import Score, read_scores

AXES = {
    "block": "block where prompts enter (0: the first)", "prompts": "prompts", "data": "training images per class",
    "depth": "first blocks with prompts", "width": "width of the backbone", "blocks": "blocks of the backbone",
}
COLOURS = {
    "vpt-shallow": "#E69F00", "vpt-deep": "#0072B2", "gapt": "#D55E00", "spt-deep": "#009E73", "linear": "#555555", "full": "#CC79A7",
}


def points(rows: list[Score]) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Test scores by curve, method and place."""
    found: dict[str, dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        curve, method, place = row.label.split("/")
        found[curve][method][int(place)].append(100 * row.score)
    return found


def learning(sweeps: list[Path], rows: list[Score]) -> dict[str, list[list[float]]]:
    """Validation accuracy after every epoch, by method and run."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        curve, method, _ = row.label.split("/")
        if curve == "epochs":
            (log,) = [path for sweep in sweeps if (path := sweep / "runs" / row.settings_hash / "metrics.jsonl").exists()]
            found[method].append([100 * json.loads(line)["val_accuracy"] for line in log.read_text(encoding="utf-8").splitlines()])
    return found


def draw(found: dict[str, dict[str, dict[int, list[float]]]], learned: dict[str, list[list[float]]], out: Path) -> None:
    """One panel per curve; bars are the standard deviation over seeds."""
    figure = Figure(figsize=(15, 7), layout="constrained")
    panels = dict(zip([*AXES, "epochs", "empty"], figure.subplots(2, 4).flat, strict=True))
    for curve, label in AXES.items():
        axes = panels[curve]
        for method, places in found[curve].items():
            xs = sorted(places)
            means, spread = [statistics.fmean(places[x]) for x in xs], [statistics.stdev(places[x]) for x in xs]
            axes.errorbar(xs, means, spread, label=method, color=COLOURS[method], marker="o", markersize=4, capsize=2)
            if curve in ("prompts", "data"):
                axes.set_xscale("log")
                axes.minorticks_off()
            axes.set_xticks(xs, [str(x) for x in xs])
        axes.set(xlabel=label, ylabel="test accuracy, %")
        axes.legend(frameon=False)
    for method, runs in learned.items():
        mean = [statistics.fmean(values) for values in zip(*runs, strict=True)]
        panels["epochs"].plot(range(1, len(mean) + 1), mean, label=method, color=COLOURS[method], marker="o", markersize=3)
    panels["epochs"].set(xlabel="epoch", ylabel="validation accuracy, %", xticks=range(1, 16, 2))
    panels["epochs"].legend(frameon=False)
    panels["empty"].set_axis_off()
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweeps", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/claims/curves.png"))
    given = parser.parse_args()
    rows = [row for sweep in given.sweeps for row in read_scores(sweep).rows]
    found, learned = points(rows), learning(given.sweeps, rows)
    for curve in AXES:
        for method, places in found[curve].items():
            shown = [f"{x}: {statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" for x, values in sorted(places.items())]
            print(f"| {AXES[curve]} | {method} | {', '.join(shown)} |")
    for method, runs in learned.items():
        print(f"| validation by epoch | {method} | {', '.join(f'{statistics.fmean(v):.1f}' for v in zip(*runs, strict=True))} |")
    draw(found, learned, given.out)
    given.out.with_suffix(".json").write_text(json.dumps({"test": found, "validation": learned}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {given.out}")


if __name__ == "__main__":
    main()
