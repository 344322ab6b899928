"""Image files to plain 8-bit RGB, whatever was stored, and one error for everything that cannot be used."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 80_000_000  # 240 MB once decoded; below the size at which Pillow itself starts to warn
MAX_RATIO = 100  # long side to short side: scaling the short side of a 1 x 60000 strip up would fill the memory

Image.init()
# Photographs and screenshots. Formats that run an interpreter (EPS) or hold no single picture stay closed.
FORMATS = tuple(sorted({"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"} & Image.OPEN.keys()))

Made = TypeVar("Made")


class BadImage(ValueError):
    """A file that cannot be used as an image: ``path``, ``reason`` and ``kind``, a word of :mod:`promptvit.data.findings`."""

    kind = "undecodable-image"

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = Path(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class TooManyPixels(BadImage):
    """More pixels than are read; known from the header, before anything is decoded."""


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file whole: upright by its EXIF tag, the first frame, transparency on white, 16-bit grey scaled to 8.

    Args:
        path: a file in one of :data:`FORMATS`, whatever its name ends with.

    Returns:
        An RGB image that keeps no file open.

    Raises:
        BadImage: no such file, empty, truncated, no image, more than :data:`MAX_PIXELS` pixels or sides beyond 1 : :data:`MAX_RATIO`
            (both seen from the header, before anything is decoded), or pixels without a known range.
    """
    return decoded(path, FORMATS, _upright_rgb)


def read_image(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image of a file's ``content``, as :func:`open_image` gives it; ``name`` stands for the path in errors.

    Raises:
        BadImage: as there; :class:`TooManyPixels` beyond ``max_pixels``.
    """
    return _decoded(io.BytesIO(content), Path(name), FORMATS, _upright_rgb, max_pixels)


def decoded(path: str | os.PathLike[str], formats: tuple[str, ...], convert: Callable[[Path, Image.Image], Made]) -> Made:
    """What ``convert`` makes of an image file in one of Pillow's ``formats``, open and read whole.

    Raises:
        BadImage: for everything that goes wrong, see :func:`open_image`.
    """
    path = Path(path)
    if not path.is_file():
        raise BadImage(path, "not a regular file" if path.exists() else "no such file")
    return _decoded(path, path, formats, convert, MAX_PIXELS)


def _decoded(
    source: Path | io.BytesIO, path: Path, formats: tuple[str, ...], convert: Callable[[Path, Image.Image], Made], max_pixels: int
) -> Made:
    try:
        if (source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes) == 0:
            raise BadImage(path, "empty file")
        with Image.open(source, formats=formats) as image:
            _check_size(path, *image.size, max_pixels)
            image.load()  # damage shows here, where it is not mistaken for a broken EXIF block
            return convert(path, image)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(path, f"not an image ({', '.join(formats)} {'is' if len(formats) == 1 else 'are'} read)") from None
    except Image.DecompressionBombError as error:  # Pillow's own limit, which may be set to anything
        raise TooManyPixels(path, f"too many pixels ({error})") from None
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise BadImage(path, f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})") from None


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixels(path, f"too many pixels ({width} x {height} is more than {max_pixels:,})")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise BadImage(path, f"{width} x {height}: one side is more than {MAX_RATIO} times the other")


def _upright_rgb(path: Path, image: Image.Image) -> Image.Image:
    _turn_upright(image)
    return _to_rgb(path, image)


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # a broken EXIF block says nothing about the pixels: keep them as they are stored
        return


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(path, image)
    if image.mode == "F":
        raise BadImage(path, "floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(path: Path, image: Image.Image) -> Image.Image:
    """Pillow's own conversion clips at 255 instead of scaling."""
    values = np.array(image, dtype=np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage(path, f"pixels from {values.min()} to {values.max()} do not fit 16 bits; save it with 8 or 16 bits")
    if "transparency" in image.info:
        values[values == image.info["transparency"]] = 65535
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
