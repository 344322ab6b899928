"""What the page tells, in order: which figures and tables, and how to read each."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from matplotlib.figure import Figure

from promptvit import analysis, files
from promptvit.experiments.insight import attention, learned, predicted
from promptvit.experiments.insight.drawing import slug
from promptvit.experiments.insight.findings import Findings
from promptvit.experiments.insight.page import Picture, Section, Table
from promptvit.methods.base import Shown

Groups = Mapping[str, Sequence[Findings]]


class Album:
    """Writes figures into a folder, each under a name of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()

    def add(self, figure: Figure | None, name: str, title: str, caption: str) -> list[Picture]:
        """The picture of ``figure``; nothing where there is no figure."""
        if figure is None:
            return []
        stem = slug(name)
        unique = next(free for n in count(1) if (free := stem if n == 1 else f"{stem}-{n}") not in self.names)
        self.names.add(unique)
        path = self.folder / f"{unique}.png"
        with files.atomic(path, sync=False) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # of class names; the page's tables have them
            figure.savefig(temporary, format="png", dpi=110)
        return [Picture(path, title, caption)]


def chapters(groups: Groups, album: Album) -> list[Section]:
    """All sections; figures are written on the way. Of several seeds, maps and mistakes are those of the first."""
    first = {label: runs[0] for label, runs in groups.items()}
    return [
        _runs(groups), _looks(first, album), _said(groups, album), _likeness(groups, album), _forgetting(groups, album),
        _sensitivity(groups, album), _predictions(first, album),
    ]


def _runs(groups: Groups) -> Section:
    rows = []
    for label, runs in groups.items():
        for run in runs:
            error = analysis.calibration(run.probabilities, run.labels).error
            rows.append([label, run.run, str(run.settings.seed), f"{run.accuracy:.1%}", str(len(run.labels)), f"{error:.1%}"])
    note = "Accuracy on the images drawn here, not a result to publish; that is in each run's result.json."
    return Section("Runs", note, [Table("Runs that were looked at", ["method", "run", "seed", "accuracy", "images", "ECE"], rows)])


def _looks(first: Mapping[str, Findings], album: Album) -> Section:
    section = Section(
        "Where the model looks",
        "The images are drawn by seed, not picked. Attention says what a token reads, not what the answer depends on. "
        "Every map is scaled to its own maximum.",
    )
    section.content += album.add(
        attention.side_by_side(first), "examples", "Methods side by side.",
        "Attention of the last block, heads averaged, and attention rollout through all blocks.",
    )
    section.content += album.add(
        attention.on_prompts(first), "on-prompts", "Attention that goes to prompts.",
        "Line: mean over heads and images; band: from the lowest head to the highest.",
    )
    seen = {label: found.looks for label, found in first.items() if found.looks is not None}
    for label, looks in seen.items():
        for who in looks.maps:
            asked = attention.WHO[who]
            caption = f"First example, every block and head, attention over the image: {asked}."
            if who == "prompts":
                caption += " Where a method drops its prompts' outputs, this is what they would read; it changes nothing."
            section.content += album.add(attention.blocks_and_heads(looks, who), f"attention-{label}-{who}", f"{label}.", caption)
    return section


def _said(groups: Groups, album: Album) -> Section:
    section = Section("What each method learned", "Blocks count from 0. Thin lines are single seeds; maps are those of the first seed.")
    titles: dict[str, dict[str, list[Shown]]] = {}
    for label, runs in groups.items():
        for run in runs:
            for one in run.shown:
                titles.setdefault(one.title, {}).setdefault(label, []).append(one)
    for title, by_label in titles.items():
        meaning = next(iter(by_label.values()))[0].meaning
        section.content += album.add(learned.shown(by_label), f"learned-{title}", f"{title}.", meaning)
    return section


def _likeness(groups: Groups, album: Album) -> Section:
    section = Section(
        "Prompts and patch tokens",
        "After SPT: normalised mutual information of prompts and patches, from the block's own attention, and linear CKA over channels.",
    )
    section.content += album.add(learned.likeness(groups), "likeness", "By block.", "Of the prompts and patch tokens that enter a block.")
    section.content += album.add(
        learned.over_epochs(groups), "likeness-epochs", "While training.", "Of runs trained with --record, on their own training images."
    )
    return section


def _forgetting(groups: Groups, album: Album) -> Section:
    seeds = sorted({len(runs) for runs in groups.values()})
    band = "Bands are 95 % intervals over seeds." if seeds[-1] > 1 else "One seed each, so no interval."
    section = Section(
        "Forgetting",
        "How much of what left a block as prompts can be read, by a linear map, from the prompts that enter a later block: R squared on "
        "images kept apart, of what differs from image to image. Prompts that are the same for every image score 0. Solid lines and maps: "
        "read through noise of a tenth of a prompt's length, so that tiny traces do not count; dotted: any trace counts.",
    )
    section.content += album.add(learned.forgetting(groups), "forgetting", "By distance, and by pair of blocks.", band)
    return section


def _sensitivity(groups: Groups, album: Album) -> Section:
    section = Section(
        "Sensitivity",
        "Accuracy lost without one part, nothing trained again. Prompts: the block does not see them, and they pass by it unchanged. Gate: "
        "closed. Temperatures: 1. Codings, cell, fusions and maps: left out.",
    )
    caption = "Bars: 95 % of what chance in the images allows. A part may matter although others can stand in for it."
    section.content += album.add(learned.sensitivity(groups), "sensitivity", "Without single parts.", caption)
    return section


def _predictions(first: Mapping[str, Findings], album: Album) -> Section:
    section = Section("Predictions", "On the images drawn; of several seeds, the first.")
    caption = "Points: 15 bins of equal width, below the diagonal means too sure. ECE: mean distance from it, weighted by images."
    section.content += album.add(predicted.reliability(first), "reliability", "Reliability.", caption)
    for label, found in first.items():
        caption = "Each row is a true class and sums to 100 % over all classes; empty: no image of it was drawn."
        section.content += album.add(predicted.confusion(found), f"confusion-{label}", f"{label}: confusion.", caption)
        counts = analysis.confusion(found.probabilities, found.labels)
        rows = [
            [found.classes[one], f"{share:.1%}", str(seen), "" if instead == one else found.classes[instead]]
            for one, share, seen, instead in analysis.hardest(counts)
        ]
        section.content.append(Table(f"{label}: hardest classes", ["class", "accuracy", "images", "mostly named instead"], rows))
        caption = "What it said, with which probability, and what is true; the most confident first."
        section.content += album.add(predicted.mistakes(found), f"mistakes-{label}", f"{label}: most confident mistakes.", caption)
    return section
