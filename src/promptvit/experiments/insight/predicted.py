"""Figures of what a model predicts: confusion, its most confident mistakes, reliability."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from promptvit import analysis
from promptvit.analysis.predictions import BINS
from promptvit.experiments.insight.drawing import COLOURS, MAP, below, plain, style
from promptvit.experiments.insight.findings import Findings

CLASSES, MISTAKES = 40, 24


def confusion(found: Findings) -> Figure:
    """Rows: the true class, columns: the predicted one; share of the row. Of many classes those with the most mistakes."""
    counts = analysis.confusion(found.probabilities, found.labels)
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diagonal(counts)
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:CLASSES]) if len(counts) > CLASSES else np.arange(len(counts))
    with np.errstate(invalid="ignore"):
        shares = 100 * (counts / counts.sum(axis=1, keepdims=True))[np.ix_(chosen, chosen)]
    names = [plain(found.classes[i], 16) for i in chosen]
    side = max(4.0, 0.24 * len(names) + 2.2)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap=MAP, vmin=0, vmax=100, interpolation="nearest")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    title = f"{len(names)} of {len(counts)} classes, those with the most mistakes" if len(names) < len(counts) else ""
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    figure.colorbar(drawn, ax=axes, label="share of the true class (%)", shrink=0.8)
    return figure


def mistakes(found: Findings) -> Figure | None:
    """Wrong answers, the most confident first: what the model said and how sure it was, and what is true."""
    places = analysis.confident_mistakes(found.probabilities, found.labels, MISTAKES)
    if not places:
        return None
    columns = min(8, len(places))
    rows = -(-len(places) // columns)
    figure = Figure(figsize=(1.45 * columns, 1.85 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, place in zip(grid, places, strict=False):
        p = found.probabilities[place]
        guess, truth = int(p.argmax()), int(found.labels[place])
        image = found.sample.image(place)
        image.thumbnail((256, 256))
        axes.imshow(image, interpolation="nearest")
        axes.set_title(f"{plain(found.classes[guess], 15)} {p[guess]:.0%}\nis {plain(found.classes[truth], 15)}", fontsize=8)
    return figure


def reliability(found: Mapping[str, Findings]) -> Figure:
    """Accuracy against the probability of the predicted class, in bins, and how many images each bin holds."""
    figure = Figure(figsize=(6.2, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 100], [0, 100], color="#777777", linewidth=1, linestyle="--", label="calibrated")
    width = 100 / BINS
    for index, (label, one) in enumerate(found.items()):
        fit = analysis.calibration(one.probabilities, one.labels)
        there = fit.count > 0
        text = f"{plain(label, 30)}: ECE {fit.error:.1%}"
        upper.plot(100 * fit.confidence[there], 100 * fit.accuracy[there], label=text, **style(index))
        share = width / len(found)
        left = width * np.arange(len(fit.count)) + share * index
        lower.bar(left, fit.count, width=0.9 * share, align="edge", color=COLOURS[index % len(COLOURS)])
    upper.set(ylabel="accuracy (%)", xlim=(0, 100), ylim=(-3, 103))
    upper.grid(alpha=0.3)
    lower.set(xlabel="probability of the predicted class (%)", ylabel="images")
    below(figure, upper, 1 + len(found))
    return figure
