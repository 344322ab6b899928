"""Pictures of runs: held-out images with their predictions, and training curves. Colours are safe for colour-blind eyes."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from promptvit import files
from promptvit.data import Split
from promptvit.model import PromptedModel

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")  # Okabe & Ito


def predictions(model: PromptedModel, split: Split, path: Path, *, title: str, rows: int = 4, columns: int = 10) -> Path:
    """A sheet of evenly spaced images of ``split`` with predicted class and probability; mistakes are marked."""
    count = min(rows * columns, len(split))
    chosen = [i * len(split) // count for i in range(count)]
    images = [split.image(i) for i in chosen]
    probabilities = model.predict(images).probabilities
    figure = Figure(figsize=(1.1 * columns, 1.45 * rows + 0.5), layout="constrained")
    wrong = 0
    for axes in (axes_list := figure.subplots(rows, columns, squeeze=False).ravel()):
        axes.axis("off")
    for axes, index, image, p in zip(axes_list, chosen, images, probabilities, strict=False):
        guess, truth = int(p.argmax()), split.labels[index]
        wrong += guess != truth
        axes.imshow(image, interpolation="nearest")
        text = f"{model.classes[guess]}  {p[guess]:.0%}" if guess == truth else f"{model.classes[guess]}, is {model.classes[truth]}"
        axes.set_title(text, fontsize=9, color="black" if guess == truth else COLOURS[3], fontweight="normal" if guess == truth else "bold")
    figure.suptitle(f"{title}: {count - wrong} of these {count} right")
    return _save(figure, path)


def curves(histories: dict[str, list[dict[str, Any]]], path: Path) -> Path:
    """Training loss and validation accuracy against the epoch, one line per run."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, history), colour in zip(histories.items(), COLOURS, strict=False):
        epochs = [line["epoch"] for line in history]
        left.plot(epochs, [line["train_loss"] for line in history], color=colour, label=name)
        validated = [(line["epoch"], 100 * line["val_accuracy"]) for line in history if line["val_accuracy"] is not None]
        right.plot(*zip(*validated, strict=True), color=colour, marker=".", label=name)
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="validation accuracy (%)")
    right.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    with files.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return path
