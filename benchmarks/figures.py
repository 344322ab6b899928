"""The plots of ``docs/performance.md``."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS, TEXTBOOK, FLOOR, LOW = "#1f6feb", "#c9510c", "#8b949e", "#2da44e"
METHODS = {"vpt-deep": OURS, "vpt-shallow": TEXTBOOK}


def draw(found: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write ``speed.png``, ``memory.png``, ``scale.png`` and ``bank.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    speed([row for name in ("deep", "flowing", "sa2vp") for row in found[name]["rows"]], folder / "speed.png")
    memory(found["memory"]["rows"] + found["memory_others"]["rows"], folder / "memory.png")
    scale(found["scale"]["rows"], folder / "scale.png")
    bank([row for row in found["bank"]["rows"] if row["what"] == "resident"], folder / "bank.png")


def speed(rows: list[dict[str, Any]], path: Path) -> None:
    """Ours and the textbook in multiples of the floor, inference beside step."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, kind in zip(axes, ("inference", "step"), strict=True):
        shown = [row for row in rows if row["kind"] == kind and "over_floor" in row]
        names = [row["method"] if row["method"] == "sa2vp" else f"{row['method']} {row['prompts']}" for row in shown]
        ours = [row["over_floor"]["median"] for row in shown]
        textbook = [row["textbook_seconds"] / row["floor_seconds"] if "textbook_seconds" in row else 0 for row in shown]
        places = range(len(shown))
        axis.barh([p - 0.2 for p in places], ours, 0.4, color=OURS, label="promptvit")
        axis.barh([p + 0.2 for p in places], textbook, 0.4, color=TEXTBOOK, label="textbook")
        axis.axvline(1, color=FLOOR, linewidth=1.5, label="floor: frozen backbone, tokens needed")
        axis.set_yticks(places, names)
        axis.set_xlabel(f"{kind}: time over the floor")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    save(figure, path)


def memory(rows: list[dict[str, Any]], path: Path) -> None:
    """MiB per image of every way."""
    ways = {
        "textbook_unfused": ("textbook, unfused", FLOOR), "textbook_fused": ("textbook, fused", TEXTBOOK),
        "ours": ("promptvit", OURS), "ours_low": ("promptvit --memory low", LOW),
    }
    figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
    for n, (key, (label, color)) in enumerate(ways.items()):
        bars = axis.bar([p + 0.2 * (n - 1.5) for p in range(len(rows))], [row.get(key, 0) for row in rows], 0.2, color=color, label=label)
        axis.bar_label(bars, [f"{row[key]:.0f}" if key in row else "" for row in rows], fontsize=7)
    axis.set_xticks(range(len(rows)), [row["method"] for row in rows])
    axis.set_ylabel("saved for backward, MiB per image")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    save(figure, path)


def scale(rows: list[dict[str, Any]], path: Path) -> None:
    """Time over a plain pass against prompts; and with 50 prompts against tokens, depth and tasks."""
    labels = {"prompts": "prompts", "tokens": "image tokens", "depth": "blocks", "tasks": "tasks in one batch of 8"}
    figure, axes = plt.subplots(1, 4, figsize=(12, 3), layout="constrained")
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        for method, color in METHODS.items():
            for kind, style in (("inference", "-o"), ("step", "--s")):
                points = [row for row in rows if (row["axis"], row["method"], row["kind"]) == (name, method, kind)]
                if not points:
                    continue
                values = [row["tokens"] if name == "tokens" else row["value"] for row in points]
                ratios = [row["over_plain"]["median"] for row in points]
                axis.plot(values, ratios, style, color=color, markersize=4, label=f"{method}, {kind}")
        axis.axhline(1, color=FLOOR, linewidth=1)
        axis.set_ylim(bottom=0.95)
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("time over a plain pass")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    axes[3].set_ylabel("time over one task")
    axes[3].set_ylim(0.95, 1.25)
    save(figure, path)


def bank(rows: list[dict[str, Any]], path: Path) -> None:
    """Time of a fixed batch against the tasks that are resident."""
    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    tasks, ratios = [row["tasks"] for row in rows], [row["over_one"] for row in rows]
    axis.fill_between(tasks, [r["low"] for r in ratios], [r["high"] for r in ratios], color=OURS, alpha=0.2, linewidth=0)
    axis.plot(tasks, [r["median"] for r in ratios], "-o", color=OURS, markersize=4)
    axis.axhspan(0.9, 1.1, color=FLOOR, alpha=0.15, linewidth=0)
    axis.set_xscale("log")
    axis.set_xticks(tasks, [f"{n:,}" for n in tasks])
    axis.set_ylim(0.8, max(1.2, *(1.02 * r["high"] for r in ratios)))
    axis.set_xlabel("tasks resident")
    axis.set_ylabel(f"time of a batch of {rows[0]['batch']}\nover one task")
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write without the time, so that the same numbers give the same file."""
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
