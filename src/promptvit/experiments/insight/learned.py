"""Figures of what was learned: what methods say of themselves, likeness of prompts and patches, forgetting, sensitivity."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from promptvit.analysis.forgetting import by_distance, interval
from promptvit.experiments.insight.drawing import COLOURS, MAP, below, panels, plain, style, whole_numbers
from promptvit.experiments.insight.findings import Findings
from promptvit.methods.base import Shown

NUMBER = "{x:.3g}"


def shown(by_label: Mapping[str, Sequence[Shown]]) -> Figure:
    """One thing that one or more methods say of themselves: maps, bars along named ticks, or lines; one plot for each method."""
    figure, plots = panels(len(by_label))
    for axes, (label, seeds) in zip(plots, by_label.items(), strict=True):
        first = seeds[0]
        axes.set_title(plain(label, 36), fontsize=10)
        values = np.stack([one.values.detach().float().cpu().numpy() for one in seeds])
        if first.axes == ("row", "column"):
            drawn = axes.imshow(values[0], cmap=MAP, interpolation="nearest")
            axes.set(xlabel="column of patches", ylabel="row of patches")
            figure.colorbar(drawn, ax=axes, label=first.unit, shrink=0.85, format=NUMBER)
        else:
            _lines(axes, first, values)
    if seeds[0].axes != ("row", "column"):
        low, high = min(axes.get_ylim()[0] for axes in plots), max(axes.get_ylim()[1] for axes in plots)
        for axes in plots:
            axes.set_ylim(low, high)
    return figure


def _lines(axes: Axes, first: Shown, values: np.ndarray) -> None:
    """Values ``[seeds, places]`` or ``[seeds, places, lines]``: a line through the mean, and a thin one for each seed."""
    values = values.reshape(*values.shape[:2], -1)
    places = np.arange(values.shape[1])
    for line in range(values.shape[2]):
        own = style(line)
        if len(values) > 1:
            axes.plot(places, values[:, :, line].T, color=own["color"], alpha=0.3, linewidth=0.8)
        axes.plot(places, values[:, :, line].mean(axis=0), label=first.lines[line] if first.lines else None, **own)
    whole_numbers(axes, first.axes[0])
    if first.ticks:
        axes.set_xticks(places, first.ticks, rotation=90 if len(first.ticks) > 8 else 0, fontsize=8)
    axes.set_ylabel(first.unit)
    axes.yaxis.set_major_formatter(NUMBER)
    if first.limits:
        margin = 0.03 * (first.limits[1] - first.limits[0])
        axes.set_ylim(first.limits[0] - margin, first.limits[1] + margin)
    if first.lines:
        axes.legend(fontsize=8)


def likeness(groups: Mapping[str, Sequence[Findings]]) -> Figure | None:
    """NMI and CKA of prompts and patch tokens by block, mean over seeds."""
    known = {label: runs for label, runs in groups.items() if np.isfinite(runs[0].alike.cka.numpy()).any()}
    if not known:
        return None
    figure, plots = panels(2, wide=5.2, high=3.9)
    for axes, name, title in zip(plots, ("nmi", "cka"), ("NMI of prompts and patches", "linear CKA of prompts and patches"), strict=True):
        for index, (label, runs) in enumerate(known.items()):
            values = np.stack([getattr(run.alike, name).numpy() for run in runs]).mean(axis=0)
            axes.plot(np.arange(len(values)), values, label=plain(label, 40), **style(index))
        axes.set_ylabel(title)
        whole_numbers(axes, "block")
        axes.set_ylim(0, None)
    below(figure, plots[1], len(known))
    return figure


def over_epochs(groups: Mapping[str, Sequence[Findings]]) -> Figure | None:
    """NMI and CKA after each epoch by block, of each method's first run that was trained with ``--record``."""
    known = {label: run.record for label, runs in groups.items() for run in runs[:1] if run.record}
    if not known:
        return None
    figure, plots = panels(2 * len(known), wide=4.4, columns=2)
    for row, (label, record) in enumerate(known.items()):
        for axes, name in zip(plots[2 * row : 2 * row + 2], ("nmi", "cka"), strict=True):
            values = np.array([line[name] for line in record], dtype=float).T
            epochs = [line["epoch"] for line in record]
            extent = (epochs[0] - 0.5, epochs[-1] + 0.5, len(values) - 0.5, -0.5)
            drawn = axes.imshow(values, cmap=MAP, aspect="auto", interpolation="nearest", extent=extent)
            whole_numbers(axes, "epoch (0: before training)")
            axes.grid(visible=False)
            axes.set(ylabel="block", title=plain(label, 36))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            figure.colorbar(drawn, ax=axes, label=name.upper())
    return figure


def forgetting(groups: Mapping[str, Sequence[Findings]]) -> Figure | None:
    """How much of a block's prompts can be read so many blocks later, with intervals over seeds; and for every pair of blocks."""
    known = {label: runs for label, runs in groups.items() if np.isfinite(runs[0].decodable).any()}
    if not known:
        return None
    figure, plots = panels(1 + len(known), wide=4.2, high=3.7, columns=3)
    for index, (label, runs) in enumerate(known.items()):
        curve = interval([by_distance(run.decodable) for run in runs])
        distance = np.arange(1, len(curve.mean) + 1)
        plots[0].plot(distance, 100 * curve.mean, label=plain(label, 40), **style(index))
        if curve.runs > 1:
            low, high = (100 * np.clip(curve.mean + sign * curve.half, 0, 1) for sign in (-1, 1))
            plots[0].fill_between(distance, low, high, color=COLOURS[index % len(COLOURS)], alpha=0.15, linewidth=0)
        traces = interval([by_distance(run.traces) for run in runs]).mean
        plots[0].plot(distance, 100 * traces, color=COLOURS[index % len(COLOURS)], linestyle=":", linewidth=1.5)
        pairs = 100 * np.stack([run.decodable for run in runs]).mean(axis=0)
        axes = plots[1 + index]
        drawn = axes.imshow(pairs, cmap=MAP, vmin=0, vmax=100, interpolation="nearest")
        axes.set(xlabel="prompts that enter block", ylabel="prompts that left block", title=plain(label, 36))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        figure.colorbar(drawn, ax=axes, label="decodable (%)", shrink=0.85)
    plots[0].set(ylabel="decodable (%)", ylim=(-3, 103))
    whole_numbers(plots[0], "blocks later")
    if len(known) > 1:
        plots[0].legend(fontsize=8)
    return figure


def sensitivity(groups: Mapping[str, Sequence[Findings]]) -> Figure | None:
    """By how much the accuracy falls without each part, mean over seeds; bars: 95 % of the images' chance, averaged over seeds."""
    known = {label: runs for label, runs in groups.items() if runs[0].losses}
    if not known:
        return None
    longest = max(len(runs[0].losses) for runs in known.values())
    figure, plots = panels(len(known), wide=3.6, high=0.19 * longest + 1.2)
    for index, (axes, (label, runs)) in enumerate(zip(plots, known.items(), strict=True)):
        parts = [loss.part for loss in runs[0].losses]
        drop = 100 * np.array([[loss.drop for loss in run.losses] for run in runs]).mean(axis=0)
        error = 100 * np.array([[loss.error for loss in run.losses] for run in runs]).mean(axis=0)
        places = np.arange(len(parts))
        axes.errorbar(drop, places, xerr=1.96 * error, linestyle="none", elinewidth=1, **style(index) | {"linewidth": 0})
        axes.axvline(0, color="#777777", linewidth=0.8)
        axes.set_yticks(places, parts, fontsize=8)
        axes.set_ylim(longest - 0.4, -0.6)
        axes.set(xlabel="accuracy lost (points)", title=plain(label, 36))
        axes.grid(alpha=0.3, axis="x")
    wide = max(2.0, *(abs(limit) for axes in plots for limit in axes.get_xlim()))
    for axes in plots:
        axes.set_xlim(-wide, wide)
    return figure
