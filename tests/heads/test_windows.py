"""Sliding windows, scales and mirroring against what they must equal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from promptvit.heads.windows import Inference, masks, scores, slide

side = st.integers(1, 24)


def per_pixel(images):
    """Logits of three classes that depend on the pixel alone, in a fixed order of operations."""
    r, g, b = images.unbind(1)
    return torch.stack([r * 0.3 - g, g * b + 0.1, (b - r).sin()], dim=1)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def cuts(draw):
    """Image sides, window sides and a stride no longer than the window."""
    window = draw(side), draw(side)
    stride = draw(st.integers(1, window[0])), draw(st.integers(1, window[1]))
    return (draw(side), draw(side)), window, stride


@given(cuts(), st.integers(0, 1000))
@settings(max_examples=100)
def test_windows_over_a_per_pixel_model_equal_the_whole_image(cut, seed):
    size, window, stride = cut
    images = noise(2, 3, *size, seed=seed)
    sliding = Inference(window=window, stride=stride)
    assert torch.equal(scores(per_pixel, images, sliding), per_pixel(images))
    assert torch.equal(scores(per_pixel, images, Inference(mode="whole")), per_pixel(images))


@given(cuts())
@settings(max_examples=100)
def test_windows_have_one_size_cover_the_image_and_end_at_its_border(cut):
    size, window, stride = cut
    places = torch.arange(size[0] * size[1], dtype=torch.float64).view(1, 1, *size) + 1  # 0 is padding
    seen = []

    def model(images):
        assert images.shape[-2:] == window
        seen.append(images)
        return images

    assert torch.equal(slide(model, places, window, stride), places)
    visited = torch.cat([images.flatten() for images in seen])
    assert set(visited.tolist()) - {0.0} == set(places.flatten().tolist())
    if size[0] >= window[0] and size[1] >= window[1]:
        assert 0.0 not in visited
    rows = 1 + max(0, -(-(size[0] - window[0]) // stride[0]))
    columns = 1 + max(0, -(-(size[1] - window[1]) // stride[1]))
    assert len(seen) == rows * columns


def test_overlaps_are_averaged():
    count = iter(range(1, 10))

    def model(images):
        return torch.full_like(images, float(next(count)))

    found = slide(model, torch.zeros(1, 1, 1, 6), (1, 4), (1, 2))
    assert found.flatten().tolist() == [1, 1, 1.5, 1.5, 2, 2]


def test_ade20k_windows():
    assert Inference().window == (512, 512) and Inference().steps == (341, 341)
    assert Inference(window=(32, 1)).steps == (21, 1)


def test_half_precision_logits_are_averaged_in_single():
    found = slide(lambda images: images.bfloat16(), noise(1, 3, 8, 8), (5, 5), (2, 2))
    assert found.dtype == torch.float32 and torch.equal(found, noise(1, 3, 8, 8).bfloat16().float())


def test_scales_and_mirroring_average_probabilities():
    images = noise(1, 3, 12, 10)
    found = scores(per_pixel, images, Inference(mode="whole", scales=(0.5, 1.0, 1.75), flip=True))
    expected = []
    for scale in (0.5, 1.0, 1.75):
        size = (round(12 * scale), round(10 * scale))
        view = images if scale == 1.0 else F.interpolate(images, size, mode="bilinear")
        for mirrored in (False, True):
            logits = per_pixel(view.flip(-1)).flip(-1) if mirrored else per_pixel(view)
            expected.append(F.interpolate(logits, (12, 10), mode="bilinear").softmax(1))
    torch.testing.assert_close(found, torch.stack(expected).mean(0))
    torch.testing.assert_close(found.sum(1), torch.ones(1, 12, 10))


def test_mirroring_makes_a_lopsided_model_even():
    def lopsided(images):
        return torch.stack([images[:, 0].cumsum(-1), images[:, 1]], dim=1)

    images = noise(1, 3, 6, 9)
    both = Inference(mode="whole", flip=True)
    torch.testing.assert_close(scores(lopsided, images.flip(-1), both).flip(-1), scores(lopsided, images, both))


def test_scaled_views_go_through_windows_too():
    images = noise(1, 3, 12, 10)
    options = {"scales": (0.5, 1.25), "flip": True}
    sliding = Inference(window=(7, 7), stride=(3, 2), **options)
    assert torch.equal(scores(per_pixel, images, sliding), scores(per_pixel, images, Inference(mode="whole", **options)))


@pytest.mark.parametrize("size", [(7, 5), (14, 10), (3, 9)])
def test_masks_are_the_argmax_of_the_interpolated_scores(size):
    scored = noise(2, 6, 7, 5)
    assert torch.equal(masks(scored, size), F.interpolate(scored, size, mode="bilinear").argmax(1))
    assert torch.equal(masks(scored[:, :1], size), torch.zeros(2, *size, dtype=torch.long))


@pytest.mark.parametrize(
    "options", [{"stride": (0, 1)}, {"window": (4, 4), "stride": (4, 5)}, {"scales": ()}, {"scales": (-1.0,)}, {"mode": "tiles"}]
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(set(options) - {"window"}))):
        Inference(**options)
