"""mIoU and accuracies against a computation with sets of pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from promptvit.training.segmentation_scores import SegmentationMeter


@st.composite
def pairs(draw):
    """Number of classes, and predicted and true masks of several images, some pixels ignored."""
    classes = draw(st.integers(1, 6))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)))
    predicted = draw(arrays(np.int64, shape, elements=st.integers(0, classes - 1)))
    target = draw(arrays(np.int64, shape, elements=st.one_of(st.just(255), st.integers(0, classes - 1))))
    return classes, predicted, target


def by_sets(classes, predicted, target):
    """The scores from sets of pixel numbers, class by class."""
    pixels = [(i, p, t) for i, (p, t) in enumerate(zip(predicted.flat, target.flat, strict=True)) if t != 255]
    said = [{i for i, p, _ in pixels if p == c} for c in range(classes)]
    true = [{i for i, _, t in pixels if t == c} for c in range(classes)]
    iou = [len(s & t) / len(s | t) if s | t else None for s, t in zip(said, true, strict=True)]
    accuracy = [len(s & t) / len(t) for s, t in zip(said, true, strict=True) if t]
    known = [value for value in iou if value is not None]
    right = sum(p == t for _, p, t in pixels)
    return {
        "iou": iou,
        "miou": sum(known) / len(known) if known else 0.0,
        "mean_accuracy": sum(accuracy) / len(accuracy) if accuracy else 0.0,
        "pixel_accuracy": right / len(pixels) if pixels else 0.0,
    }


@given(pairs())
@settings(max_examples=200)
def test_scores_equal_an_independent_computation(pair):
    classes, predicted, target = pair
    meter = SegmentationMeter(classes)
    for image, mask in zip(predicted, target, strict=True):  # image by image or at once: the same counts
        meter.update(torch.from_numpy(image), torch.from_numpy(mask))
    scores, expected = meter.scores(), by_sets(classes, predicted, target)
    at_once = SegmentationMeter(classes)
    at_once.update(torch.from_numpy(predicted), torch.from_numpy(target))
    assert torch.equal(at_once.scores().confusion, scores.confusion)
    for name in ("miou", "mean_accuracy", "pixel_accuracy"):
        assert getattr(scores, name) == pytest.approx(expected[name], abs=1e-12)
    assert list(scores.per_class([str(i) for i in range(classes)]).values()) == pytest.approx(expected["iou"])


def test_a_class_that_is_nowhere_is_left_out():
    meter = SegmentationMeter(3)
    meter.update(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 255]]))
    scores = meter.scores()
    assert scores.per_class(["a", "b", "c"]) == {"a": 0.5, "b": 0.0, "c": None}
    assert (scores.miou, scores.mean_accuracy, scores.pixel_accuracy) == (0.25, 0.5, 0.5)


@pytest.mark.parametrize(
    ("predicted", "target", "message"),
    [
        ([[0, 3]], [[0, 1]], "predicted has indices 0 to 3; classes are 0 to 2"),
        ([[0, 1]], [[254, 255]], "target has indices 254 to 254"),
        ([[0, 1]], [[-1, 255]], "target has indices -1 to -1"),
        ([[0, 1]], [[0]], r"predicted \(1, 2\), target \(1, 1\)"),
    ],
)
def test_bad_masks(predicted, target, message):
    with pytest.raises(ValueError, match=message):
        SegmentationMeter(3).update(torch.tensor(predicted), torch.tensor(target))
