"""The plots of the HTML page, drawn as SVG by hand: they follow the page's light or dark colours, and their text stays text."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from promptvit.experiments.report.model import Measure, Section

WIDTH, RIGHT, TOP, BOTTOM, LETTER = 760, 24, 10, 46, 6.8  # pixels; the last is an ordinary letter's width
_SHAPES = (
    '<circle r="5"/>',
    '<rect x="-4.5" y="-4.5" width="9" height="9"/>',
    '<path d="M0-6 6 0 0 6-6 0Z"/>',
    '<path d="M0-6 5.5 4.5h-11Z"/>',
    '<path d="M0 6 5.5-4.5h-11Z"/>',
    '<path d="M-5.5-2h3.5v-3.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5Z"/>',
    '<path d="M-6-4.5 0 0l-6 4.5ZM6-4.5 0 0l6 4.5Z"/>',
)
COLOURS = 8  # classes c0 to c7 of the page's style


def plots(section: Section) -> Iterator[str]:
    """Mean ranks, accuracy by data set, accuracy against trained weights; each only where there is something to compare."""
    if section.ranks:
        yield _ranks(section)
    if len(section.tasks) > 1:
        yield _by_task(section)
    if section.common and sum(entry.label in _points(section) for entry in section.entries) > 1:
        yield _against_weights(section)


def marker(index: int) -> str:
    """Symbol of the entry at ``index``, around the origin: colour and shape both tell it."""
    return f'<g class="c{index % COLOURS}">{_SHAPES[index % len(_SHAPES)]}</g>'


def _ranks(section: Section) -> str:
    order = sorted(section.ranks, key=lambda label: sum(section.ranks[label]))
    index = {entry.label: i for i, entry in enumerate(section.entries)}
    left, row = _margin(order), 40
    height = TOP + row * len(order)
    x = _scale(0.5, len(order) + 0.5, left)
    parts = list(_grid(x, [(float(rank), str(rank)) for rank in range(1, len(order) + 1)], height, "rank (1 is the best)"))
    for i, label in enumerate(order):
        y, ranks, entry = TOP + row * (i + 0.5), section.ranks[label], index[label]
        mean = sum(ranks) / len(ranks)
        parts.append(_label(label, left, y))
        parts.append(f'<path class="rule" d="M{left} {y + row / 2:.1f}H{WIDTH - RIGHT}"/>')
        for rank in sorted(set(ranks)):
            alike = [task for task, own in zip(section.common, ranks, strict=True) if own == rank]
            step = min(7.0, 0.42 * (x(1) - x(0)) / len(alike))
            for j, task in enumerate(alike):
                dx = (j - (len(alike) - 1) / 2) * step
                dot = f'<circle class="dot c{entry % COLOURS}" r="3"/>'
                parts.append(_at(x(rank) + dx, y + 10, dot, f"{label}, {task}: rank {rank:g}"))
        parts.append(_at(x(mean), y - 6, f'<g transform="scale(1.4)">{marker(entry)}</g>', f"{label}: mean rank {mean:.2f}"))
        parts.append(f'<text class="value" x="{x(mean) + 13:.1f}" y="{y - 2:.1f}">{mean:.2f}</text>')
    return _figure(f"Mean rank over {len(section.common)} data sets (large), and the rank on each (small)", height, parts)


def _by_task(section: Section) -> str:
    names = [task.rsplit("/", 1)[-1] for tasks in section.present.values() for task in tasks]
    left, row = _margin([*names, *section.present]), max(24, 5 * len(section.entries) + 8)
    measures = [cell.measure for entry in section.entries for cell in entry.cells.values() if cell.measure]
    x, ticks = _percent_axis(measures, left)
    parts: list[str] = []
    y = float(TOP)
    for group, tasks in section.present.items():
        if len(section.groups) > 1:
            parts.append(f'<text class="group" x="0" y="{y + 15:.1f}">{escape(group)}</text>')
            y += 22
        for task in tasks:
            parts.append(f'<path class="rule" d="M{left} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(_label(task.rsplit("/", 1)[-1], left, y + row / 2))
            for i, entry in enumerate(section.entries):
                measure = entry.cells[task].measure if task in entry.cells else None
                if measure:
                    dy = (i + 0.5) / len(section.entries) * (row - 6) + 3
                    parts += _measured(x, y + dy, measure, i, f"{entry.label}, {task}")
            y += row
    return _figure("Accuracy by data set", y, [*_grid(x, ticks, y, "test accuracy (%), bar: ± one standard deviation"), *parts])


def _measured(x: "_Scale", y: float, measure: Measure, index: int, name: str) -> Iterator[str]:
    spread = measure.std or 0.0
    text = f"{name}: {100 * measure.mean:.2f}" + (f" ± {100 * spread:.2f} (n={measure.n})" if measure.std is not None else "")
    if spread:
        low, high = x(max(0.0, measure.mean - spread)), x(min(1.0, measure.mean + spread))
        yield f'<path class="bar c{index % COLOURS}" d="M{low:.1f} {y:.1f}H{high:.1f}"/>'
    yield _at(x(measure.mean), y, f'<g transform="scale(0.8)">{marker(index)}</g>', text)


def _points(section: Section) -> dict[str, tuple[float, float]]:
    """Trained weights and accuracy of each entry, both means over the data sets that all have."""
    points = {}
    for entry in section.entries:
        cells = [entry.cells[task] for task in section.common if task in entry.cells]
        if cells and all(cell.measure and cell.num_trainable for cell in cells):
            weights = sum(cell.num_trainable or 0.0 for cell in cells) / len(cells)
            points[entry.label] = weights, sum(cell.measure.mean if cell.measure else 0.0 for cell in cells) / len(cells)
    return points


def _against_weights(section: Section) -> str:
    points = _points(section)
    left, height = 56, 330
    low = math.floor(math.log10(min(weights for weights, _ in points.values())))
    high = math.ceil(math.log10(max(weights for weights, _ in points.values()) * 1.0001))
    x = _scale(low, high, left)
    ticks = [(float(power), _count(power)) for power in range(low, high + 1)]
    across, levels = _percent_axis([Measure(mean=accuracy, std=None, n=1) for _, accuracy in points.values()], 0)
    bottom, span = across(levels[0][0]), across(levels[-1][0]) - across(levels[0][0])

    def y(accuracy: float) -> float:
        return height - (across(accuracy) - bottom) / span * (height - TOP - 10)

    parts = list(_grid(x, ticks, height, "trained weights (logarithmic), head included"))
    for value, text in levels:
        parts.append(f'<path class="rule" d="M{left} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{text}</text>')
    for i, entry in enumerate(section.entries):
        if entry.label in points:
            weights, accuracy = points[entry.label]
            parts.append(_at(x(math.log10(weights)), y(accuracy), f'<g transform="scale(1.3)">{marker(i)}</g>',
                             f"{entry.label}: {weights:,.0f} trained weights, {100 * accuracy:.2f} %"))
    over = f"mean of {len(section.common)} data sets" if len(section.common) > 1 else section.common[0]
    return _figure(f"Accuracy against trained weights ({over}, %)", height, parts)


class _Scale:
    """From values to pixels."""

    def __init__(self, low: float, high: float, left: float) -> None:
        self.low, self.left, self.step = low, left, (WIDTH - RIGHT - left) / (high - low)

    def __call__(self, value: float) -> float:
        return self.left + (value - self.low) * self.step


def _scale(low: float, high: float, left: float) -> _Scale:
    return _Scale(low, high if high > low else low + 1, left)


def _percent_axis(measures: Sequence[Measure], left: float) -> tuple[_Scale, list[tuple[float, str]]]:
    """A scale over shares 0..1 that holds all measures with their deviation, and its ticks in percent."""
    low = min((m.mean - (m.std or 0) for m in measures), default=0.0)
    high = max((m.mean + (m.std or 0) for m in measures), default=1.0)
    step = next((size for size in (1, 2, 5, 10) if (high - low) * 100 / size <= 7), 20)
    first = max(0, math.floor(low * 100 / step) * step)
    last = min(100, math.ceil(high * 100 / step) * step)
    if first >= last:
        first, last = max(0, last - step), min(100, first + step)
    return _scale(first / 100, last / 100, left), [(percent / 100, str(percent)) for percent in range(first, last + 1, step)]


def _grid(x: _Scale, ticks: Sequence[tuple[float, str]], bottom: float, title: str) -> Iterator[str]:
    for value, text in ticks:
        yield f'<path class="rule" d="M{x(value):.1f} {TOP}V{bottom:.1f}"/>'
        yield f'<text x="{x(value):.1f}" y="{bottom + 17:.1f}" text-anchor="middle">{escape(text)}</text>'
    yield f'<text x="{(x.left + WIDTH - RIGHT) / 2:.1f}" y="{bottom + 37:.1f}" text-anchor="middle">{escape(title)}</text>'


def _margin(labels: Sequence[str]) -> float:
    return min(280.0, max(60.0, LETTER * max(map(len, labels)) + 14))


def _label(text: str, left: float, y: float) -> str:
    fits = int((left - 14) / LETTER)
    shown = text if len(text) <= fits else text[: fits - 1] + "…"
    return f'<text x="{left - 10:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(shown)}<title>{escape(text)}</title></text>'


def _at(x: float, y: float, drawn: str, title: str) -> str:
    return f'<g transform="translate({x:.1f} {y:.1f})">{drawn}<title>{escape(title)}</title></g>'


def _count(power: int) -> str:
    return f"{10**power:,}" if power < 6 else f"{10 ** (power - 6):,} M"


def _figure(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height + BOTTOM:.0f}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )
