"""Image and mask files in every format that is read."""

import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from mutation import damaged
from PIL import Image
from small import encoded, noise
from watching import Case

from promptvit.data.images import FORMATS, open_image, read_image
from promptvit.data.segmentation.masks import Coding, open_mask
from promptvit.preprocessing import Preprocessing

CODING = Coding(256 - 1)
SEEN = Preprocessing(size=(16, 16))


def whole() -> list[tuple[str, bytes]]:
    """Sound files: formats, modes, compressions, EXIF blocks, several frames."""
    rgb, exif = noise(), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    files = [(kind, encoded(rgb, kind)) for kind in FORMATS if kind != "AVIF"]
    files += [("PNG", encoded(noise(mode=mode), "PNG")) for mode in ("1", "L", "LA", "P", "RGBA")]
    files += [("PNG", encoded(Image.fromarray(np.full((16, 16), 40_000, np.uint16)), "PNG")), ("PNG", encoded(rgb, "PNG", exif=exif))]
    files += [("JPEG", encoded(rgb, "JPEG", exif=exif, progressive=True)), ("JPEG", encoded(noise(mode="CMYK"), "JPEG"))]
    files += [("TIFF", encoded(rgb, "TIFF", compression=name)) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")]
    files += [("WEBP", encoded(rgb, "WEBP", lossless=True)), ("BMP", encoded(noise(mode="P"), "BMP"))]
    files += [
        (kind, encoded(rgb, kind, save_all=True, append_images=[noise((16, 16), "L").convert("RGB")]))
        for kind in ("GIF", "WEBP", "TIFF", "PNG")
    ]
    files += [("AVIF", encoded(rgb, "AVIF"))] if "AVIF" in FORMATS else []
    return files


def repacked(content: bytes, rng: Random) -> bytes:
    """A PNG with one damaged chunk, all checksums right: the damage reaches the decoder."""
    chunks, place = [], 8
    while place + 8 <= len(content):
        size = struct.unpack(">I", content[place : place + 4])[0]
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    number = rng.randrange(len(chunks))
    kind, data = chunks[number]
    data = zlib.compress(damaged(zlib.decompress(data), rng)) if kind == b"IDAT" and rng.random() < 0.5 else damaged(data, rng)
    chunks[number] = (kind, data)
    written = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return content[:8] + b"".join(written)


def bomb(rng: Random) -> bytes:
    """A few bytes that claim to be a large picture."""
    width, height = (rng.choice((0, 1, 2, 300, 8000, 9999, 65_535, 2**20, 2**31 - 1)) for _ in range(2))
    kind = rng.choice(("PNG", "BMP", "GIF", "PPM", "TIFF", "JPEG", "WEBP"))
    content = bytearray(encoded(noise(), kind))
    small = [min(side, 65_535) for side in (width, height)]
    if kind == "PNG":
        content[16:24] = struct.pack(">II", width, height)
    elif kind == "BMP":
        content[18:26] = struct.pack("<II", width, height)
    elif kind == "GIF":
        content[6:10] = struct.pack("<HH", *small)
    elif kind == "PPM":
        return b"P6 %d %d 255\n" % (width, height) + bytes(30)
    elif kind == "JPEG":
        start = content.find(b"\xff\xc0") + 5
        content[start : start + 4] = struct.pack(">HH", *small)
    elif kind == "WEBP":
        content[26:30] = struct.pack("<HH", *small)
    else:
        return bytes(content).replace(struct.pack("<H", 16), struct.pack("<H", small[0] & 0xFFFF), 2)
    return bytes(content)


def start(folder: Path, outside: Path):
    files, path = whole(), folder / "hostile.img"

    def draw(rng: Random) -> Case:
        kind, content = rng.choice(files)
        chance = rng.random()
        content = bomb(rng) if chance < 0.04 else repacked(content, rng) if kind == "PNG" and chance < 0.6 else damaged(content, rng)
        path.write_bytes(content)

        def read() -> None:
            if rng.random() < 0.2:
                read_image(content, path.name, 10**6)
            image = open_image(path)
            assert image.mode == "RGB"
            SEEN(image)

        return Case(read, ("hostile.img",), f"{kind}, {len(content)} bytes {content[:40]!r}")

    return draw


def masks(folder: Path, outside: Path):
    files = [encoded(noise(mode=mode), "PNG") for mode in ("L", "P", "1", "RGB", "LA")]
    path = folder / "hostile.png"

    def draw(rng: Random) -> Case:
        content = rng.choice((damaged, repacked))(rng.choice(files), rng)
        path.write_bytes(content)
        return Case(lambda: open_mask(path, CODING), ("hostile.png",), repr(content[:60]))

    return draw
