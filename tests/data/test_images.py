"""Every kind of image file, written here, comes out as the RGB picture a person would see, or as one clear error."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from unusable import bad_files, png_header

from promptvit.data.images import MAX_PIXELS, BadImage, open_image


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 90)], axis=-1).astype(np.uint8)


def pixels(path: Path) -> np.ndarray:
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tiff", "x.ppm", "no-suffix", "wrong-suffix.jpg"])
def test_lossless_files_come_back_exactly(tmp_path, name):
    kind = {"x.bmp": "BMP", "x.tiff": "TIFF", "x.ppm": "PPM"}.get(name, "PNG")
    Image.fromarray(gradient()).save(tmp_path / name, kind)
    assert np.array_equal(pixels(tmp_path / name), gradient())


def test_cmyk_jpeg(tmp_path):
    red, blue = Image.new("RGB", (16, 16), (250, 10, 10)), Image.new("RGB", (16, 16), (10, 10, 250))
    for name, image in (("red.jpg", red), ("blue.jpg", blue)):
        image.convert("CMYK").save(tmp_path / name, quality=95)
        assert Image.open(tmp_path / name).mode == "CMYK"
        assert np.abs(pixels(tmp_path / name) - np.asarray(image)).max() < 12


def test_palette_with_transparency_lies_on_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 200, 30, 40, 0, 255, 0])
    image.putpixel((1, 2), 1)
    image.save(tmp_path / "x.png", transparency=0)
    seen = pixels(tmp_path / "x.png")
    assert seen[2, 1].tolist() == [200, 30, 40]
    assert seen[0, 0].tolist() == [255, 255, 255]


def test_palette_without_transparency(tmp_path):
    Image.fromarray(gradient()).quantize(64).save(tmp_path / "x.gif")
    assert np.abs(pixels(tmp_path / "x.gif") - gradient()).mean() < 12


@pytest.mark.parametrize(("suffix", "big_endian"), [("png", False), ("tiff", False), ("tiff", True)])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix, big_endian):
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    path = tmp_path / f"x.{suffix}"
    if big_endian:
        Image.frombytes("I;16B", (16, 16), values.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(values).save(path)
    assert np.array_equal(pixels(path)[..., 0].ravel(), np.arange(256))


def test_16_bit_grey_with_a_transparent_value(tmp_path):
    Image.fromarray(np.array([[1000, 257 * 50]], dtype=np.uint16)).save(tmp_path / "x.png", transparency=1000)
    assert pixels(tmp_path / "x.png")[0, :, 0].tolist() == [255, 50]


def test_16_bit_pgm(tmp_path):
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=">u2")
    (tmp_path / "x.pgm").write_bytes(b"P5 2 2 65535\n" + values.tobytes())
    assert pixels(tmp_path / "x.pgm")[..., 1].tolist() == [[0, 100], [200, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_on_white(tmp_path, mode):
    colour = (100, 100, 100) if mode == "RGBA" else (100,)
    image = Image.new(mode, (2, 1), (*colour, 255))
    image.putpixel((1, 0), (*colour, 0))
    image.save(tmp_path / "x.png")
    assert pixels(tmp_path / "x.png")[0].tolist() == [[100] * 3, [255] * 3]


def test_one_bit(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "x.png")
    assert pixels(tmp_path / "x.png")[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations_show_their_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert pixels(tmp_path / f"x.{suffix}")[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    upright = gradient()
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.jpg", exif=exif, quality=95)
    seen = pixels(tmp_path / "x.jpg")
    assert seen.shape == upright.shape
    assert np.abs(seen - upright).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"no TIFF at all", b"MM\0*\0\0\0\x08\xff\xff garbage"])
def test_broken_exif_does_not_cost_the_image(tmp_path, exif):
    Image.fromarray(gradient()).save(tmp_path / "x.jpg", exif=b"Exif\0\0" + exif, quality=95)
    assert pixels(tmp_path / "x.jpg").shape == gradient().shape


def test_bad_files_name_file_and_cause(tmp_path):
    for name, word in bad_files(tmp_path).items():
        with pytest.raises(BadImage) as caught:
            open_image(tmp_path / name)
        assert word in caught.value.reason, (name, caught.value.reason)
        assert str(caught.value) == f"{tmp_path / name}: {caught.value.reason}"
        assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    for path, word in ((tmp_path / "none.png", "no such file"), (tmp_path, "not a regular file")):
        with pytest.raises(BadImage, match=word):
            open_image(path)


@pytest.mark.parametrize("limit", [None, 10**12])
def test_the_pixel_limit_is_our_own_and_comes_before_decoding(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    (tmp_path / "bomb.png").write_bytes(png_header(10_000, MAX_PIXELS // 10_000 + 1))
    with pytest.raises(BadImage, match="more than 80,000,000"):
        open_image(tmp_path / "bomb.png")


def test_errors_survive_pickling(tmp_path):
    error = pickle.loads(pickle.dumps(BadImage(tmp_path / "x", "why")))
    assert isinstance(error, ValueError)
    assert (error.path, error.reason, str(error)) == (tmp_path / "x", "why", f"{tmp_path / 'x'}: why")
