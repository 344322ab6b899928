"""Files that no data set can use, for the tests."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be ``width`` x ``height``."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


def bad_files(folder: Path) -> dict[str, str]:
    """Writes every kind of unusable file; name to a word of the expected reason."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(folder / "whole.jpg")
    noise.save(folder / "whole.png")
    for whole in ("whole.jpg", "whole.png"):
        path = folder / whole
        (folder / f"truncated.{whole[-3:]}").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        path.unlink()
    (folder / "page.jpg").write_text("<!doctype html><title>404</title>")
    (folder / "empty.png").write_bytes(b"")
    (folder / "bomb.png").write_bytes(png_header(100_000, 100_000))
    (folder / "strip.png").write_bytes(png_header(60_000, 2))
    (folder / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(folder / "float.tiff")
    Image.fromarray(np.full((4, 4), 2**20, dtype=np.int32)).save(folder / "deep.tiff")
    return {
        "truncated.jpg": "truncated",
        "truncated.png": "truncated",
        "page.jpg": "not an image",
        "empty.png": "empty",
        "bomb.png": "too many pixels",
        "strip.png": "100 times",
        "drawing.eps": "not an image",
        "float.tiff": "floating",
        "deep.tiff": "16 bits",
    }
