"""Supervised pre-training: starts at chance, learns, and moves its positions."""

import math

import pytest
import torch
from pretraining.tiny import settings

from promptvit.data.proc.stream import CLASSES
from promptvit.pretraining.loop import Run


def test_it_starts_at_chance():
    assert Run(settings("supervised")).step() == pytest.approx(math.log(len(CLASSES)), abs=1e-4)


def test_it_learns_a_batch_that_it_sees_again_and_again():
    run = Run(settings("supervised", steps=30))
    batch = run.objective.draw(torch.Generator().manual_seed(0), run.rows)
    run.objective.draw = lambda generator, rows: batch
    losses = [run.step() for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_positions_are_learned():
    run = Run(settings("supervised"))
    before = run.objective.encoder.pos_embed.clone()
    run.step()
    run.step()  # the head starts at zero, so the first gradient stops there
    assert not torch.equal(run.objective.encoder.pos_embed, before)
