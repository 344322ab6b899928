"""What all figures share: colours that colour-blind eyes can tell apart, texts that cannot break a drawing, and layouts."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")  # Okabe & Ito, without yellow
MARKERS = "osD^vPX"
MAP = "cividis"


def plain(text: str, longest: int = 22) -> str:
    """``text`` for a figure: no formulas, no line ends, not too long."""
    text = " ".join(text.split())
    return (text if len(text) <= longest else text[: longest - 1] + "…").replace("$", r"\$")


def slug(text: str) -> str:
    """``text`` as part of a file name, which file systems allow 255 letters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:150].strip("-") or "run"


def style(index: int) -> dict[str, Any]:
    """Colour and marker of the line at ``index``: both tell it."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 5, "linewidth": 1.5}


def whole_numbers(axes: Axes, label: str) -> None:
    """A horizontal axis of blocks, epochs or distances."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def below(figure: Figure, axes: Axes, count: int) -> None:
    """The legend under the plots, where it hides nothing; none for a single line."""
    handles, labels = axes.get_legend_handles_labels()
    if count > 1:
        fit = int(9 * figure.get_figwidth() / (7 + max(map(len, labels))))  # nine letters an inch, and the handle
        figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(fit, count)), frameon=False)


def mosaic(maps: Sequence[np.ndarray]) -> tuple[np.ndarray, list[float], list[float]]:
    """Rows of maps ``[columns, height, width]`` as one picture, each scaled to its own maximum, with gaps of NaN.

    Maps of smaller grids are enlarged to the largest. Returns the picture and where the rows' and columns' middles are.
    """
    high, wide = (max(row.shape[axis] for row in maps) for axis in (1, 2))
    gap, columns = max(1, round(high / 12)), max(len(row) for row in maps)
    picture = np.full((len(maps) * (high + gap) - gap, columns * (wide + gap) - gap), np.nan)
    for y, row in enumerate(maps):
        for x, panel in enumerate(row):
            large = enlarged(panel / max(float(panel.max()), 1e-12), high, wide)
            picture[y * (high + gap) : y * (high + gap) + high, x * (wide + gap) : x * (wide + gap) + wide] = large
    down, across = ([i * (side + gap) + (side - 1) / 2 for i in range(n)] for side, n in ((high, len(maps)), (wide, columns)))
    return picture, down, across


def enlarged(panel: np.ndarray, high: int, wide: int) -> np.ndarray:
    """``panel`` at ``high x wide``, each cell repeated."""
    rows, columns = (np.arange(side) * n // side for side, n in zip((high, wide), panel.shape, strict=True))
    return panel[np.ix_(rows, columns)]


def panels(count: int, wide: float = 3.6, high: float = 3.2, columns: int = 4) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` plots in rows of ``columns``."""
    across = min(columns, count)
    down = math.ceil(count / across)
    figure = Figure(figsize=(wide * across, high * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).ravel())
    for empty in axes[count:]:
        empty.axis("off")
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.1, h_pad=0.08)
    return figure, axes[:count]
