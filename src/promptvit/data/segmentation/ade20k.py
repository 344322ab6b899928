"""``ade20k``: the scene parsing benchmark, 150 classes (Zhou et al., CVPR 2017), as ``ADEChallengeData2016`` holds it.

``images/{training,validation}/NAME.jpg`` and ``annotations/{training,validation}/NAME.png``, whose values are 0 for everything else, which
does not count, and 1 to 150 for the classes. Names come from ``objectInfo150.txt``, the first of each line's synonyms.

Papers report on the validation images, so these are the test split here, and a tenth of the training images is drawn for val. Papers
train on all of them: join train and val for that.
"""

import re
from pathlib import Path

from promptvit.data.findings import Findings
from promptvit.data.listed.listing import HELD_OUT, count_images
from promptvit.data.listed.lists import text_lines
from promptvit.data.listed.places import chosen_layout, locate
from promptvit.data.listed.tasks import Task
from promptvit.data.segmentation.base import SegmentationDataset, cut_missing
from promptvit.data.segmentation.masks import Coding
from promptvit.data.segmentation.pairs import Pairing
from promptvit.data.segmentation.pictures import colours
from promptvit.data.segmentation.registry import register

TASK = Task("ade20k", "segmentation", 150, 20210, 0, 2000, ("ADEChallengeData2016", "ADE"))
CODING = Coding(TASK.classes, first=1, ignored=0)
FOLDERS = {"train": "training", "test": "validation"}
INFO = "objectInfo150.txt"
EXPECTED = "images/{training,validation} and annotations/{training,validation}"


@register("ade20k")
def ade20k(name: str, *, root: Path | None, data_seed: int, findings: Findings) -> SegmentationDataset | None:
    """Read the benchmark.

    Raises:
        ValueError: no root, or a link out of it.
    """
    if root is None:
        raise ValueError(f"data_root: missing; the data set {name!r} needs --data-root ROOT; expected {EXPECTED}")
    found = locate(root, TASK, (), lambda folder: all((folder / part).is_dir() for part in ("images", "annotations")) or None)
    chosen = chosen_layout(found, root, EXPECTED, findings)
    if not chosen:
        return None
    own, _ = chosen
    findings.ok("layout", str(own), "ADEChallengeData2016")
    pairing = Pairing(own, CODING, findings)
    splits = {split: pairing.split(split, own / "images" / part, own / "annotations" / part) for split, part in FOLDERS.items()}
    for split, want in (("train", TASK.train), ("test", TASK.test)):
        count_images(FOLDERS[split], len(splits[split]), want, findings)
    classes = _names(own / INFO, findings)
    notes = [] if findings.of("error") else cut_missing(splits, HELD_OUT, data_seed)
    return SegmentationDataset(name, classes, colours(TASK.classes), splits, own, notes)


def _names(file: Path, findings: Findings) -> list[str]:
    """The names in the copy's own list, else those below."""
    if not file.is_file():
        return list(NAMES)
    names = [re.split("[,;]", text.split("\t")[-1])[0].strip() for _, text in list(text_lines(file, findings))[1:]]
    if len(set(names)) != TASK.classes:
        found = len(set(names))
        findings.error("unparsable-list", file.name, f"names {found} classes, {TASK.classes} are expected; without the file they are known")
    return names


NAMES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet", "sidewalk", "person", "earth",
    "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug",
    "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column",
    "signboard", "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs",
    "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet",
    "flower", "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth",
    "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle", "buffet",
    "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool", "barrel",
    "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank", "trade name", "microwave", "pot",
    "animal", "bicycle", "lake", "dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray",
    "ashcan", "fan", "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)
