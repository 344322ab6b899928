"""Figures of attention: methods side by side, every block and head, and how much of it prompts get."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from promptvit.analysis.recorder import Asking
from promptvit.experiments.insight.drawing import MAP, below, enlarged, mosaic, plain, style, whole_numbers
from promptvit.experiments.insight.findings import Findings, Looks

WHO: dict[Asking, str] = {"prefix": "class token", "patches": "mean over patches", "prompts": "mean over prompts"}


def side_by_side(found: Mapping[str, Findings]) -> Figure | None:
    """Each example, and for each method where its last block looks and what rollout says, laid over the image."""
    known = {label: (one, one.looks) for label, one in found.items() if one.looks is not None}
    if not known:
        return None
    first = next(iter(found.values()))
    columns: list[tuple[str, list[np.ndarray]]] = []
    for label, (_, looks) in known.items():
        last = next(reversed(looks.maps[looks.asking].values()))
        columns.append((f"{plain(label)}\nlast block,\n{WHO[looks.asking]}", list(last.mean(axis=1))))
        if looks.rollout is not None:
            columns.append((f"{plain(label)}\nrollout", list(looks.rollout)))
    examples = len(first.examples)
    figure = Figure(figsize=(1.55 * (len(columns) + 1) + 0.3, 1.5 * examples + 0.9), layout="constrained")
    grid = figure.subplots(examples, len(columns) + 1, squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
    grid[0][0].set_title("image", fontsize=8)
    for row, image in enumerate(first.examples):
        grid[row][0].imshow(image, interpolation="nearest")
        for column, (title, maps) in enumerate(columns, start=1):
            axes = grid[row][column]
            axes.imshow(image.mean(axis=-1), cmap="gray", interpolation="nearest", vmin=0, vmax=255)
            top = max(float(maps[row].max()), 1e-12)
            drawn = axes.imshow(enlarged(maps[row] / top, *image.shape[:2]), cmap=MAP, alpha=0.65, interpolation="nearest", vmin=0, vmax=1)
            if row == 0:
                axes.set_title(title, fontsize=8)
    figure.colorbar(drawn, ax=grid.ravel().tolist(), label="share of attention / its maximum", fraction=0.02, aspect=40)
    return figure


def blocks_and_heads(looks: Looks, who: Asking, example: int = 0) -> Figure:
    """One example, all heads of the blocks where those tokens are."""
    maps = {block: found[example] for block, found in looks.maps[who].items()}
    picture, rows, columns = mosaic(list(maps.values()))
    scale = 0.62 if len(columns) > 6 else 0.85
    figure = Figure(figsize=(max(4.6, scale * len(columns) + 1.6), max(2.4, scale * len(rows) + 1.0)), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(picture, cmap=MAP, interpolation="nearest", vmin=0, vmax=1)
    axes.set_xticks(columns, [str(i) for i in range(len(columns))])
    axes.set_yticks(rows, list(map(str, maps)))
    axes.set(xlabel="head", ylabel="block", title=f"attention over the image, {WHO[who]}")
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(drawn, ax=axes, label="share of attention / its maximum", shrink=0.8)
    return figure


def on_prompts(found: Mapping[str, Findings]) -> Figure | None:
    """How much of the attention goes to prompts, by block: the mean over heads, and the range from the lowest to the highest head."""
    shares = {label: one.looks.share for label, one in found.items() if one.looks is not None and one.looks.share is not None}
    if not shares:
        return None
    figure = Figure(figsize=(6.5, 4.0), layout="constrained")
    axes = figure.subplots()
    for index, (label, share) in enumerate(shares.items()):
        there = np.isfinite(share).any(axis=1)
        blocks, values = np.flatnonzero(there), 100 * share[there]
        axes.plot(blocks, np.nanmean(values, axis=1), label=plain(label, 40), **style(index))
        low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
        axes.fill_between(blocks, low, high, color=style(index)["color"], alpha=0.15, linewidth=0)
    axes.set(ylabel="attention that goes to prompts (%)", ylim=(0, None))
    whole_numbers(axes, "block")
    below(figure, axes, len(shares))
    return figure
