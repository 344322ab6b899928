"""Batches: every sample once, randomness by (seed, epoch, index), each image decoded once."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from promptvit.data import BadImage, Pixels, Split, augment, batches, loader
from promptvit.preprocessing import Preprocessing, to_tensor

SQUARE = Preprocessing(size=(8, 8), crop_pct=1.0)
ROOMY = Preprocessing(size=(8, 8), crop_pct=0.5)


def noise(count: int, height: int = 8, width: int = 8, varied: bool = False) -> Split:
    rng = np.random.default_rng(0)
    items = [rng.integers(0, 256, (height + varied * (i % 3), width + varied * (i % 5), 3), dtype=np.uint8) for i in range(count)]
    return Split("train", [i % 3 for i in range(count)], items, [f"x/{i}" for i in range(count)])


def collect(split, preprocessing=ROOMY, **options):
    """Images and labels by index, and the order seen."""
    found = list(batches(split, preprocessing, **options))
    images, labels, indices = (torch.cat([getattr(batch, name) for batch in found]) for name in ("images", "labels", "indices"))
    order = torch.argsort(indices)
    return images[order], labels[order], indices.tolist()


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 40),
    batch_size=st.integers(1, 17),
    world=st.integers(1, 4),
    workers=st.integers(1, 3),
    epoch=st.sampled_from([None, 0, 7]),
    policy=st.sampled_from(augment.POLICIES),
)
def test_every_sample_once(count, batch_size, world, workers, epoch, policy):
    split = noise(count, varied=True)
    options = {"batch_size": batch_size, "epoch": epoch, "policy": policy, "world": world, "workers": workers, "data_seed": 5}
    ranks = [list(batches(split, SQUARE, rank=rank, **options)) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1, "all processes take the same number of steps"
    assert all(max(sizes) - min(sizes) <= 1 for sizes in zip(*([len(b.labels) for b in rank] for rank in ranks), strict=True))
    everything = [batch for rank in ranks for batch in rank]
    assert sorted(index for batch in everything for index in batch.indices.tolist()) == list(range(count))
    for batch in everything:
        assert batch.images.dtype == torch.uint8 and batch.labels.dtype == batch.indices.dtype == torch.int64
        assert batch.images.shape == (len(batch.indices), 3, 8, 8) and len(batch.indices) <= batch_size
        assert batch.labels.tolist() == [split.labels[i] for i in batch.indices.tolist()]


@pytest.mark.parametrize("preprocessing", [SQUARE, ROOMY, ROOMY.model_copy(update={"resize": "direct"}), Preprocessing(size=(6, 9))])
def test_evaluation_is_the_backbones_own_preprocessing(preprocessing):
    split = noise(11, 30, 21, varied=True)
    for batch in batches(split, preprocessing, batch_size=4, policy="crop-flip"):
        expected = torch.stack([preprocessing(split.image(i)) for i in batch.indices.tolist()])
        assert torch.equal(preprocessing.normalized(batch.images), expected)
    assert collect(split, preprocessing, batch_size=4)[2] == list(range(11))


@pytest.mark.parametrize("policy", augment.POLICIES)
def test_batch_size_processes_and_threads_change_nothing(policy):
    split = noise(37, 20, 13, varied=True)
    options = {"epoch": 3, "policy": policy, "data_seed": 11}
    images, labels, order = collect(split, batch_size=32, **options)
    for batch_size, workers in ((1, 1), (5, 3), (64, 2)):
        again = collect(noise(37, 20, 13, varied=True), batch_size=batch_size, workers=workers, **options)
        assert torch.equal(again[0], images) and torch.equal(again[1], labels) and again[2] == order


def test_two_processes_see_together_what_one_sees():
    split = noise(70)
    options = {"epoch": 1, "policy": "crop-flip", "data_seed": 2}
    whole = list(batches(split, ROOMY, batch_size=32, **options))
    ranks = [list(batches(split, ROOMY, batch_size=32, rank=rank, world=2, **options)) for rank in range(2)]
    for one, *parts in zip(whole, *ranks, strict=True):
        merged = torch.cat([part.indices for part in parts])
        assert sorted(merged.tolist()) == sorted(one.indices.tolist())
        images = torch.cat([part.images for part in parts])
        assert torch.equal(images[torch.argsort(merged)], one.images[torch.argsort(one.indices)])


def test_epochs_and_seeds_differ_and_repeat():
    split = noise(50)
    seen = {key: collect(split, batch_size=8, epoch=key[1], data_seed=key[0], policy="crop") for key in ((0, 0), (0, 1), (1, 0))}
    orders = [tuple(order) for _, _, order in seen.values()]
    assert len(set(orders)) == 3 and tuple(range(50)) not in orders
    assert not torch.equal(seen[0, 0][0], seen[0, 1][0]) and not torch.equal(seen[0, 0][0], seen[1, 0][0])
    again = collect(split, batch_size=8, epoch=1, data_seed=0, policy="crop")
    assert torch.equal(again[0], seen[0, 1][0]) and again[2] == seen[0, 1][2]


def windows(whole: torch.Tensor, size: int) -> dict[bytes, tuple[int, int]]:
    top, left = (side - size + 1 for side in whole.shape[1:])
    return {whole[:, y : y + size, x : x + size].numpy().tobytes(): (y, x) for y in range(top) for x in range(left)}


@pytest.mark.parametrize(("policy", "mirrors"), [("crop", False), ("crop-flip", True)])
@pytest.mark.parametrize(("preprocessing", "extended"), [(ROOMY, 0), (SQUARE, 1)])
def test_crops_are_windows_of_the_resized_image(policy, mirrors, preprocessing, extended):
    split = noise(1)
    whole = to_tensor(preprocessing.resized(split.image(0)))
    whole = torch.nn.functional.pad(whole.float()[None], [extended] * 4, mode="replicate")[0].byte()
    straight = windows(whole, 8)
    places, mirrored = set(), 0
    for epoch in range(400):
        (image,) = collect(split, preprocessing, batch_size=1, epoch=epoch, policy=policy)[0].numpy()
        if image.tobytes() in straight:
            places.add(straight[image.tobytes()])
        else:
            mirrored += 1
            places.add(straight[np.ascontiguousarray(image[..., ::-1]).tobytes()])
    assert places >= {(0, 0), (len(places) ** 0.5 - 1,) * 2} and len(places) == len(straight), "every place is reached"
    assert 150 < mirrored < 250 if mirrors else mirrored == 0


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 1000))
def test_resized_crops_keep_area_and_shape(width, height, epoch):
    (row,) = augment.draws("rrc-flip", 1, 0, epoch)
    left, top, w, h = augment._window(width, height, row)
    assert w >= 1 and h >= 1 and 0 <= left <= width - w and 0 <= top <= height - h
    if min(w, h) > 20 and 0.75 <= width / height <= 4 / 3:
        assert 0.7 < w / h < 1.43 and 0.07 < w * h / (width * height) <= 1


def test_resized_crops_come_from_the_original():
    sheet = np.zeros((300, 300, 3), np.uint8)
    sheet[::2] = 255  # lines of one pixel are grey once the image has been scaled down
    split = Split("train", [0], [sheet], ["x/0"])
    small = Preprocessing(size=(96, 96))
    seen = [collect(split, small, batch_size=1, epoch=epoch, policy="rrc-flip")[0] for epoch in range(20)]
    assert max(float(images.float().std()) for images in seen) > 60
    assert float(to_tensor(small.resized(split.image(0))).float().std()) < 40


@pytest.mark.parametrize("policy", ["none", "crop", "crop-flip", "rrc-flip"])
@pytest.mark.parametrize("preprocessing", [SQUARE, ROOMY, Preprocessing(size=(6, 9))])
@pytest.mark.parametrize("varied", [False, True])
def test_crops_on_the_training_device_are_the_same(monkeypatch, policy, preprocessing, varied):
    options = {"batch_size": 6, "epoch": 3, "policy": policy, "data_seed": 4}
    expected = collect(noise(20, 16, 13, varied), preprocessing, **options)
    monkeypatch.setattr(loader, "_crops_itself", lambda device: True)
    found = collect(noise(20, 16, 13, varied), preprocessing, device=torch.device("cpu"), **options)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]) and found[2] == expected[2]


class Counting(Split):
    """Counts how often each image is decoded."""

    def image(self, index: int) -> Image.Image:
        with LOCK:
            self.decoded = getattr(self, "decoded", [])
            self.decoded.append(index)
        return super().image(index)


LOCK = threading.Lock()


def counting(count: int) -> Counting:
    plain = noise(count)
    return Counting(plain.name, plain.labels, plain.items, plain.identifiers)


def test_each_image_is_decoded_once():
    split = counting(20)
    for epoch in (0, 1, None):
        collect(split, batch_size=6, epoch=epoch, policy="crop")
    assert sorted(split.decoded) == list(range(20))
    collect(split, SQUARE, batch_size=6)
    assert len(split.decoded) == 40, "another size is decoded anew"
    assert len(split.kept) == 1, "and the former is let go"


def test_memory_stays_within_the_budget():
    split = counting(10)
    pixels = Pixels(split, SQUARE, budget=4 * 3 * 8 * 8 + 5)
    first, again = ([pixels[i].copy() for i in range(10)] for _ in range(2))
    assert len(pixels) == 10 and len(pixels.kept) == 4 and len(split.decoded) == 10 + 6
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_no_batch_can_change_what_is_kept():
    split = noise(6)
    before = collect(split, SQUARE, batch_size=6)[0].clone()
    next(batches(split, SQUARE, batch_size=6)).images.zero_()
    assert torch.equal(collect(split, SQUARE, batch_size=6)[0], before)


def test_a_bad_file_is_named_when_its_batch_is_due(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path in paths:
        Image.new("RGB", (9, 9)).save(path)
    paths[4].write_bytes(b"")
    stream = batches(Split("train", [0] * 6, paths, [p.name for p in paths]), SQUARE, batch_size=2)
    assert next(stream).indices.tolist() == [0, 1] and next(stream).indices.tolist() == [2, 3]
    with pytest.raises(BadImage, match=r"4\.png: empty file"):
        next(stream)


def test_stopping_early_leaves_no_threads():
    before = threading.active_count()
    for _ in range(3):
        stream = batches(noise(50), SQUARE, batch_size=2, workers=4)
        next(stream)
        stream.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"policy": "crop-flp"}, "did you mean crop-flip"), ({"batch_size": 0}, "batch_size"), ({"workers": 0}, "workers"),
        ({"world": 0}, "world"), ({"rank": 2, "world": 2}, "rank"), ({"epoch": 0, "data_seed": -1}, "data_seed"), ({"epoch": -1}, "epoch"),
    ],
)
def test_bad_arguments_fail_at_once(options, word):
    with pytest.raises(ValueError, match=word):
        batches(noise(3), SQUARE, **{"batch_size": 2, **options})
