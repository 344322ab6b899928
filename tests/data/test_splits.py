"""Stratified splits and few-shot draws, as properties."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptvit.data.base import Dataset, Split, stratified_split, take_shots
from promptvit.data.registry import load_dataset, register
from promptvit.data.seeding import Purpose, generator

LABELS = st.lists(st.integers(0, 5), max_size=80)
FRACTIONS = st.sampled_from([[0.7, 0.15, 0.15], [0.85, 0.15], [0.05, 0.9, 0.05], [1.0], [1 / 3, 1 / 3, 1 / 3]])


def numbered(labels: list[int]) -> Split:
    return Split("train", labels, [np.zeros((2, 2, 3), np.uint8)] * len(labels), [f"x/{i}" for i in range(len(labels))])


@given(LABELS, FRACTIONS, st.integers(0, 2**32))
def test_parts_hold_every_image_once_and_their_share(labels, fractions, seed):
    parts = stratified_split(labels, fractions, generator(seed, Purpose.SPLIT))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    for label, count in Counter(labels).items():
        shares = [sum(labels[i] == label for i in part) for part in parts]
        assert all(shares[: min(count, len(shares))]), "while there are images, no part goes without"
        if count >= 30:
            assert all(abs(share - fraction * count) <= 1 for share, fraction in zip(shares, fractions, strict=True))


def test_splits_follow_the_seed():
    labels = [0, 1] * 50
    first, again, other = (stratified_split(labels, [0.5, 0.5], generator(seed, Purpose.SPLIT))[0].tolist() for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("fractions", [[0.5, 0.4], [1.2, -0.2], [1.0, 0.0]])
def test_bad_fractions(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        stratified_split([0, 1], fractions, generator(0, Purpose.SPLIT))


@given(LABELS.filter(len), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32))
def test_shots_are_exact_and_nested(labels, few, more, seed):
    split = numbered(labels)
    drawn = {k: take_shots(split, k, generator(seed, Purpose.SHOTS))[0] for k in (few, few + more)}
    assert Counter(drawn[few].labels) == {label: min(few, count) for label, count in Counter(labels).items()}
    assert set(drawn[few].identifiers) <= set(drawn[few + more].identifiers)
    assert all(labels[int(name[2:])] == label for name, label in zip(drawn[few].identifiers, drawn[few].labels, strict=True))


def test_short_classes_are_noted_and_bad_shots_refused():
    _, notes = take_shots(numbered([0] * 9 + [1] * 3), 5, generator(0, Purpose.SHOTS))
    assert len(notes) == 1 and "--shots 5" in notes[0] and "1 classes" in notes[0]
    assert take_shots(numbered([0] * 9 + [1] * 5), 5, generator(0, Purpose.SHOTS))[1] == []
    for labels, shots in (([0], 0), ([], 3)):
        with pytest.raises(ValueError, match="--shots"):
            take_shots(numbered(labels), shots, generator(0, Purpose.SHOTS))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range(seed):
    with pytest.raises(ValueError, match="data_seed"):
        generator(seed, Purpose.ORDER)


def test_streams_differ_by_seed_purpose_and_epoch():
    firsts = {generator(seed, purpose, epoch).random() for seed in range(3) for purpose in Purpose for epoch in range(3)}
    assert len(firsts) == 3 * len(Purpose) * 3


def test_a_data_set_keeps_its_promises():
    splits = {name: numbered([0, 1]) for name in ("train", "val", "test")}
    with pytest.raises(ValueError, match=r"labels outside 0\.\.0"):
        Dataset("x", ["a"], splits)
    with pytest.raises(ValueError, match="splits must be"):
        Dataset("x", ["a", "b"], {"train": splits["train"]})


def test_unknown_and_double_names():
    with pytest.raises(ValueError, match="unknown data set 'digitz'; did you mean digits") as caught:
        load_dataset("digitz")
    assert "folder" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="twice"):
        register("digits")(lambda *a, **k: None)
