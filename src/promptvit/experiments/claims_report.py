"""Findings about claims as Markdown and as a picture."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from promptvit import files
from promptvit.experiments.claims import LEAST, Finding, Scores, to_json
from promptvit.experiments.spec import Claim

_COLOURS = {"holds": "#0072B2", "does not hold": "#D55E00", "undecided": "#777777"}


def write_claims(scores: Scores, findings: Sequence[Finding], out: Path) -> list[Path]:
    """Write ``scores.json``, ``claims.md`` and, where there are ``findings``, ``claims.png``; equal scores give equal bytes of text."""
    files.write_text(out / "scores.json", to_json(scores))
    files.write_text(out / "claims.md", markdown(scores, findings))
    judged = [finding for finding in findings if finding.mean is not None]
    return [out / "scores.json", out / "claims.md", *([plot(judged, out / "claims.png")] if judged else [])]


def markdown(scores: Scores, findings: Sequence[Finding]) -> str:
    """The table of scores, and the table of claims."""
    tasks = scores.tasks
    lines = [
        f"# {scores.name}: {scores.backbone}", "",
        f"Test scores in percent, mean ± sample standard deviation over {len(scores.seeds)} seeds.", "",
        f"| | {' | '.join(tasks)} | mean | trained weights |", f"| --- |{' ---: |' * (len(tasks) + 2)}",
    ]
    for label in scores.labels:
        cells = [scores.of(label, task) for task in tasks]
        means = [statistics.fmean(cell.values()) for cell in cells if cell]
        whole = f"{100 * statistics.fmean(means):.1f}" if means and len(means) == len(tasks) else ""
        sizes = [row.num_trainable for row in scores.rows if row.label == label and row.num_trainable]
        size = f"{statistics.fmean(sizes):,.0f}" if sizes else ""
        lines.append(f"| {label} | {' | '.join(_cell(list(cell.values())) for cell in cells)} | {whole} | {size} |")
    if findings:
        lines += [
            "", "Differences in points, with the 95 % bootstrap interval over data sets and seeds. *holds*: the interval lies above 0; "
            f"*does not hold*: it lies below {100 * LEAST:g}; else *undecided*.", "",
            "| claim | better | than | difference | 95 % interval | data sets with a positive mean | verdict |",
            "| --- | --- | --- | ---: | ---: | ---: | --- |",
            *map(_line, findings),
        ]
    if scores.missing:
        lines += ["", f"Missing: {'; '.join(scores.missing)}."]
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def _line(finding: Finding) -> str:
    claim = finding.claim
    said = f"{finding.name} ({claim.source})" if claim.source else finding.name
    if finding.mean is None or finding.low is None or finding.high is None:
        return f"| {said} | {claim.better} | {claim.than} | | | | no scores |"
    wins = sum(statistics.fmean(values) > 0 for values in finding.differences.values())
    return (
        f"| {said} | {claim.better} | {claim.than} | {100 * finding.mean:+.1f} | {100 * finding.low:+.1f} to {100 * finding.high:+.1f} "
        f"| {wins} of {len(finding.differences)} | **{finding.verdict}** |"
    )


def plot(findings: Sequence[Finding], path: Path) -> Path:
    """A line per claim: mean and interval; a small mark for the mean of each data set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.42 * len(findings)), layout="constrained")
    axes = figure.subplots()
    for place, finding in enumerate(findings):
        assert finding.mean is not None and finding.low is not None and finding.high is not None
        colour = _COLOURS[finding.verdict]
        axes.plot([100 * finding.low, 100 * finding.high], [place, place], color=colour, linewidth=2)
        axes.plot(100 * finding.mean, place, "o", color=colour)
        means = [100 * statistics.fmean(values) for values in finding.differences.values()]
        axes.plot(means, [place + 0.25] * len(means), "|", color="black", markersize=6, alpha=0.6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(100 * LEAST, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(findings)), [_short(finding.claim) for finding in findings])
    axes.invert_yaxis()
    axes.set_xlabel("difference in accuracy, points\n(dot and line: mean and 95 % interval; ticks: single data sets)")
    for verdict, colour in _COLOURS.items():
        axes.plot([], [], color=colour, marker="o", label=verdict)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    with files.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return path


def _short(claim: Claim) -> str:
    return f"{claim.better} > {claim.than}" + (f"\n({', '.join(claim.tasks)})" if claim.tasks else "")
