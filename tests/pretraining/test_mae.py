"""Pre-training: a function of the seed, resumable, and exported so that timm and our loader read it."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file

import promptvit
from promptvit.data.proc.stream import draw_batch
from promptvit.pretraining.loop import PretrainSettings, pretrain

SETTINGS = PretrainSettings(width=32, depth=2, heads=2, patch_size=8, decoder_width=16, decoder_depth=1, steps=6, batch_size=4, lr=3e-3)


def test_stream_is_a_function_of_its_seed_and_within_range():
    a, b, c = (draw_batch(torch.Generator().manual_seed(seed), 16, 24) for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.shape == (16, 3, 24, 24) and a.min() >= 0 and a.max() <= 1
    assert a.flatten(1).std(dim=1).min() > 0, "no empty image"


def test_resumed_weights_equal_uninterrupted_ones(tmp_path, monkeypatch):
    whole = load_file(pretrain(SETTINGS, tmp_path / "whole") / "model.safetensors")
    from promptvit.pretraining import loop

    calls, step = [], loop._step

    def stopping(*arguments):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(1)
        return step(*arguments)

    monkeypatch.setattr(loop, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretrain(SETTINGS, tmp_path / "cut", checkpoint_every=2)
    monkeypatch.setattr(loop, "_step", step)
    with pytest.raises(FileExistsError, match="--resume"):
        pretrain(SETTINGS, tmp_path / "cut")
    with pytest.raises(ValueError, match="other settings"):
        pretrain(SETTINGS.model_copy(update={"lr": 1.0}), tmp_path / "cut", resume=True)
    resumed = load_file(pretrain(SETTINGS, tmp_path / "cut", resume=True) / "model.safetensors")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert len(json.loads((tmp_path / "cut" / "losses.json").read_text())) == 6
    assert (tmp_path / "cut" / "loss.png").stat().st_size > 1000


def test_loss_falls(tmp_path):
    settings = SETTINGS.model_copy(update={"steps": 60, "batch_size": 16})
    pretrain(settings, tmp_path)
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


def test_the_export_is_read_by_timm_and_by_us(tmp_path):
    folder = pretrain(SETTINGS, tmp_path)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    ours = promptvit.load_backbone(folder)
    assert ours.is_mae and ours.preprocessing.size == (32, 32) and ours.preprocessing.mean == (0.5, 0.5, 0.5)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images, pool="cls"), theirs(images), rtol=1e-5, atol=1e-5)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
