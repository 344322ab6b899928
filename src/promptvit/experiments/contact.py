"""A contact sheet: some images of every class of a data set, under the class's name; or images above their masks."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from promptvit import files
from promptvit.data import Dataset, SegmentationDataset, Split
from promptvit.data.segmentation import pictures
from promptvit.errors import unknown

GAP, FONT, LETTER = 4, 11, 6  # pixels: between images, height of a line, width of a letter
COLOURS = 256


def sheet(
    dataset: Dataset, path: Path, *, split: str = "train", examples: int = 3, tile: int = 64, columns: int = 10, classes: int = 40
) -> Path:
    """Draw the first images of each class below one another and write them as a PNG of 256 colours.

    Args:
        dataset: where they come from.
        path: the PNG.
        split: ``train``, ``val`` or ``test``.
        examples: images per class.
        tile: side in pixels of the square that each image is fitted into.
        columns: classes beside one another.
        classes: at most so many, the first.

    Raises:
        ValueError: an unknown split, or a number below 1.
    """
    if split not in dataset.splits:
        raise ValueError(unknown("split", split, dataset.splits))
    for name, value in (("examples", examples), ("tile", tile), ("columns", columns), ("classes", classes)):
        if value < 1:
            raise ValueError(f"{name}: must be 1 or more, got {value}")
    names = dataset.classes[:classes]
    columns = min(columns, len(names))
    captions = [_lines(name, tile) for name in names]
    lines = max(map(len, captions))
    high = lines * FONT + examples * (tile + GAP) + GAP
    picture = Image.new("RGB", (columns * (tile + GAP) + GAP, -(-len(names) // columns) * high + GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT - 2)
    for label, caption in enumerate(captions):
        left, top = GAP + label % columns * (tile + GAP), GAP + label // columns * high
        first = top + (lines - len(caption)) * FONT  # captions stand on their images
        draw.multiline_text((left, first), "\n".join(caption), fill="black", font=font, spacing=0)
        for index, image in enumerate(_some(dataset.splits[split], label, examples)):
            picture.paste(ImageOps.pad(image, (tile, tile), color="white"), (left, top + lines * FONT + index * (tile + GAP)))
    with files.atomic(path) as temporary:
        picture.quantize(COLOURS, kmeans=3, dither=Image.Dither.NONE).save(temporary, format="png", optimize=True)
    return path


def masked_sheet(
    dataset: SegmentationDataset, path: Path, *, split: str = "train", examples: int = 3, tile: int = 64, columns: int = 8
) -> Path:
    """Draw the first images of a split, each above its mask in the classes' colours, and write them as a PNG.

    Args:
        examples: rows of images; ``columns`` in each.

    Raises:
        ValueError: an unknown split, or a number below 1.
    """
    if split not in dataset.splits:
        raise ValueError(unknown("split", split, dataset.splits))
    for name, value in (("examples", examples), ("tile", tile)):
        if value < 1:
            raise ValueError(f"{name}: must be 1 or more, got {value}")
    shown = dataset.splits[split]
    pairs = (shown.pair(index) for index in range(min(examples * columns, len(shown))))
    stacks = ((image, pictures.painted(mask, dataset.palette)) for image, mask in pairs)
    return pictures.sheet(stacks, path, classes=dataset.classes, palette=dataset.palette, tile=tile, columns=columns)


def _some(split: Split, label: int, count: int) -> list[Image.Image]:
    """The first ``count`` images of class ``label``."""
    places = [index for index, found in enumerate(split.labels) if found == label]
    return [split.image(index) for index in places[:count]]


def _lines(name: str, width: int) -> list[str]:
    """``name`` in lines of about ``width`` pixels; a longer word is cut."""
    room = max(1, width // LETTER)
    lines: list[str] = []
    for word in name.replace("_", " ").split():
        if lines and len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word[:room])
    return lines or [""]
