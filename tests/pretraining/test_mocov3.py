"""MoCo v3: views, the contrast against its definition, what is frozen and what follows."""

import math

import torch
from pretraining.tiny import settings

from promptvit.data.proc import stream
from promptvit.data.proc.dice import Dice
from promptvit.pretraining.augment import view
from promptvit.pretraining.loop import Run
from promptvit.pretraining.mocov3 import MoCoV3


def test_views_are_a_function_of_the_seed_and_differ():
    images = stream.draw_batch(torch.Generator().manual_seed(0), 8, 32)
    first, again = (view(images, Dice(torch.Generator().manual_seed(1), 8), 0.3) for _ in range(2))
    dice = Dice(torch.Generator().manual_seed(1), 8)
    view(images, dice, 0.3)
    second = view(images, dice, 0.3)
    assert torch.equal(first, again)
    assert (first - second).abs().flatten(1).amax(dim=1).min() > 0.05, "no image has the same view twice"
    assert first.shape == images.shape and first.min() >= -1e-6 and first.max() <= 1 + 1e-6


def test_contrast_is_the_definition():
    model = MoCoV3(settings("mocov3", temperature=0.5))
    queries, keys = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for i in range(5):
        similar = [torch.cosine_similarity(queries[i], keys[j], dim=0).item() / 0.5 for j in range(5)]
        total -= similar[i] - math.log(sum(map(math.exp, similar)))
    torch.testing.assert_close(model.contrast(queries, keys).item(), 2 * 0.5 * total / 5, rtol=1e-5, atol=1e-6)


def test_projection_and_positions_are_frozen_and_the_copies_follow_slowly():
    run = Run(settings("mocov3", momentum=0.9))
    model = run.objective
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run.step()
    after = model.state_dict()
    for name in ("patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"):
        assert torch.equal(before[f"encoder.{name}"], after[f"encoder.{name}"])
    share = 0.5 * (1 + math.cos(math.pi / 6)) * (1 - 0.9)
    for name in ("blocks.0.attn.qkv.weight", "norm.weight"):
        slow, fast = before[f"momentum_encoder.{name}"], after[f"encoder.{name}"]
        assert not torch.equal(before[f"encoder.{name}"], fast)
        torch.testing.assert_close(after[f"momentum_encoder.{name}"], slow + share * (fast - slow))


def test_the_copies_stand_still_at_the_end():
    run = Run(settings("mocov3", steps=2))
    run.step()
    before = run.objective.momentum_projector[0].weight.clone()
    run.step()
    torch.testing.assert_close(run.objective.momentum_projector[0].weight, before, rtol=0, atol=0)


def test_loss_falls():
    run = Run(settings("mocov3", steps=40, batch_size=16))
    losses = [run.step() for _ in range(40)]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
