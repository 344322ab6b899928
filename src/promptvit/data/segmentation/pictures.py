"""Masks as pictures: colours of classes, painted masks, and sheets that put them below their images."""

import colorsys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from promptvit import files

GAP, FONT, WIDE = 4, 11, 130  # pixels: between images, height of a line, width of a name in the legend
SHOWN = 40  # names in a legend
_GOLDEN = 0.6180339887  # turns between neighbours' hues: any number of them lies well spread


def colours(count: int) -> np.ndarray:
    """Colours that can be told apart, ``[count, 3]`` uint8; none is black, which is left to pixels that do not count."""
    made = [colorsys.hsv_to_rgb(i * _GOLDEN % 1, (0.75, 0.45, 1.0)[i // 2 % 3], (0.95, 0.65)[i % 2]) for i in range(count)]
    return (np.array(made).reshape(count, 3) * 255).round().astype(np.uint8)


def painted(mask: np.ndarray, palette: np.ndarray) -> Image.Image:
    """A mask ``[h, w]`` in the colours of ``palette [C, 3]``; black where a pixel does not count."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    return Image.fromarray(table[mask])


def sheet(
    stacks: Iterable[Sequence[Image.Image]], path: Path, *, classes: Sequence[str], palette: np.ndarray, tile: int = 64, columns: int = 8
) -> Path:
    """Write a PNG of stacks of pictures, such as image, truth and prediction, with the classes' colours below.

    Args:
        stacks: per example pictures that are put below one another.
        path: the PNG.
        classes: their names; the legend has the first :data:`SHOWN`.
        palette: their colours, ``[C, 3]`` uint8.
        tile: side in pixels of the square that each picture is fitted into.
        columns: examples beside one another.
    """
    drawn = list(stacks)
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    names = list(classes[:SHOWN])
    width = max(min(columns, len(drawn)) * (tile + GAP), WIDE) + GAP
    beside = width // WIDE
    high = max(map(len, drawn), default=0) * tile + 2 * GAP
    picture = Image.new("RGB", (width, len(rows) * high + -(-len(names) // beside) * FONT + 2 * GAP), "white")
    for row, stacked in enumerate(rows):
        for column, pictures in enumerate(stacked):
            for place, shown in enumerate(pictures):
                fitted = ImageOps.pad(shown, (tile, tile), Image.Resampling.NEAREST, color="white")
                picture.paste(fitted, (GAP + column * (tile + GAP), GAP + row * high + place * tile))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT - 2)
    for index, name in enumerate(names):
        left, top = GAP + index % beside * WIDE, GAP + len(rows) * high + index // beside * FONT
        draw.rectangle((left, top, left + FONT - 3, top + FONT - 3), fill=tuple(palette[index].tolist()))
        draw.text((left + FONT + 1, top - 1), name, fill="black", font=font)
    with files.atomic(path) as temporary:
        picture.quantize(256, dither=Image.Dither.NONE).save(temporary, format="png", optimize=True)
    return path
