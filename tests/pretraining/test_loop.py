"""The loop that all objectives share: its learning rate, and what it refuses."""

import math

import pytest
from pretraining.tiny import settings

from promptvit.pretraining.loop import _schedule, pretrain


@pytest.mark.parametrize(("steps", "warmup"), [(2, 0.05), (50, 0.05), (60, 0.05), (7, 0.9), (3, 0.0)])
def test_the_learning_rate_rises_to_its_peak_then_falls_and_is_never_above(steps, warmup):
    chosen = settings("mae", steps=steps, warmup=warmup)
    rates = [_schedule(step, chosen) for step in range(steps)]
    peak = math.ceil(steps * warmup)
    assert min(rates) > 0 and max(rates) <= 1
    assert rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_warm_up_of_whole_steps_is_a_straight_line():
    assert [_schedule(step, settings("mae", steps=60, warmup=0.05)) for step in range(4)] == [1 / 3, 2 / 3, 1, 1]


def test_no_steps_between_checkpoints_are_refused(tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every: must be 1 or more, got 0"):
        pretrain(settings("mae"), tmp_path / "run", checkpoint_every=0)
    assert not (tmp_path / "run").exists()
