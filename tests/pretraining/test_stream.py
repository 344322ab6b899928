"""The drawn stream: a function of its seed, shared by rows, and labelled by what can be seen."""

import torch

from promptvit.data.proc import stream
from promptvit.data.proc.dice import Dice
from promptvit.data.proc.drawing import canvas
from promptvit.data.proc.stream import CLASSES, draw_batch, draw_labelled


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_images_are_a_function_of_the_seed_and_within_range():
    a, b, c = (draw_batch(seeded(seed), 16, 24) for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.shape == (16, 3, 24, 24) and a.min() >= 0 and a.max() <= 1
    assert a.flatten(1).std(dim=1).min() > 0, "no empty image"


def test_rows_of_a_batch_are_the_whole_batch_s():
    images, labels = draw_labelled(seeded(3), 12, 24)
    for rows in (slice(0, 4), slice(4, 12)):
        some, theirs = draw_labelled(seeded(3), 12, 24, rows)
        torch.testing.assert_close(some, images[rows], rtol=0, atol=1e-5)
        assert torch.equal(theirs, labels[rows])


def test_a_third_of_the_images_are_grey_and_brightness_is_balanced():
    images = draw_batch(seeded(0), 1500, 16)
    grey = (images.amax(dim=1) - images.amin(dim=1)).flatten(1).amax(dim=1) < 1e-6
    assert 0.29 < grey.float().mean() < 0.38
    assert abs(images.mean() - 0.5) < 0.01


def test_flat_backgrounds_are_free_of_noise():
    images = draw_batch(seeded(0), 300, 32)
    corner = images[:, :, :4, :4].flatten(2)
    flat = (corner.amax(dim=2) - corner.amin(dim=2)).amax(dim=1) < 1e-6
    assert flat.float().mean() > 0.2


def test_every_class_occurs_and_its_shape_is_seen():
    dice, points = Dice(seeded(0), 1000), canvas(32)
    labels = stream._some_classes(dice)
    assert set(labels.tolist()) == set(range(len(CLASSES)))
    before = stream._background(dice, points)
    after = stream._lay(dice, before, points, labels, present=torch.ones(1000, dtype=torch.bool), on_top=True)
    changed = ((after - before).mean(dim=1).abs() > 0.1).flatten(1).sum(dim=1)
    assert changed.min() >= 10, "pixels whose brightness changes by more than a tenth"


def test_labels_name_the_shape_that_is_drawn_last(monkeypatch):
    last = []
    lay = stream._lay
    monkeypatch.setattr(stream, "_lay", lambda *given, **options: last.append(given[3]) or lay(*given, **options))
    _, labels = draw_labelled(seeded(5), 9, 16)
    assert len(last) == stream.SHAPES and torch.equal(labels, last[-1])
