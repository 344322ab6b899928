"""What pre-training writes is what our readers of the published layouts read."""

from pathlib import Path

import pytest
import timm
import torch
from pretraining.tiny import settings
from safetensors.torch import load_file

import promptvit
from promptvit.backbones.checkpoints import read_checkpoint
from promptvit.pretraining.export import export_folder
from promptvit.pretraining.loop import OBJECTIVES, pretrain

FILES = {"mae": "mae_pretrain.pth", "mocov3": "mocov3.pth.tar", "supervised": "supervised.npz"}


@pytest.fixture(scope="module", params=sorted(OBJECTIVES))
def run(request, tmp_path_factory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp(request.param)
    pretrain(settings(request.param), out)
    return request.param, out


def test_the_published_layout_gives_the_same_backbone(run):
    objective, out = run
    chosen = settings(objective)
    model = OBJECTIVES[objective](chosen)
    model.load_state_dict(torch.load(out / "checkpoint.pt", weights_only=True)["model"])
    exact = promptvit.load_backbone(export_folder(model.encoder, chosen, out / "exact", dtype=torch.float32))
    published = promptvit.load_backbone(out / FILES[objective], arch=None if objective == "supervised" else chosen.architecture())
    assert published.fingerprint == exact.fingerprint
    assert published.is_mae == (objective == "mae")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(published(images, pool="cls"), exact(images, pool="cls"))
    half = promptvit.load_backbone(out / "export")
    torch.testing.assert_close(half(images, pool="cls"), exact(images, pool="cls"), rtol=0, atol=0.02)


def test_timm_reads_the_folder_as_we_do(run):
    _, out = run
    theirs = timm.create_model(f"local-dir:{out / 'export'}", pretrained=True, num_classes=0).eval()
    ours = promptvit.load_backbone(out / "export")
    assert ours.preprocessing.size == (32, 32) and ours.preprocessing.mean == (0.5, 0.5, 0.5)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images, pool="cls"), theirs(images), rtol=1e-5, atol=1e-5)
    assert {tensor.dtype for tensor in load_file(out / "export" / "model.safetensors").values()} == {torch.float16}


def test_everything_that_was_trained_is_in_the_published_file(run):
    objective, out = run
    dropped = read_checkpoint(out / FILES[objective]).dropped
    beside = {
        "mae": {"mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.attn.qkv.weight", "decoder_pred.bias"},
        "mocov3": {"module.base_encoder.head.0.weight", "module.momentum_encoder.blocks.0.norm1.weight", "module.predictor.0.weight"},
        "supervised": {"head/kernel", "head/bias"},
    }
    assert beside[objective] <= set(dropped)
    if objective == "mocov3":
        top = torch.load(out / FILES[objective], weights_only=True)
        assert top.keys() == {"epoch", "arch", "state_dict"} and top["epoch"] == 6


def test_a_bundled_backbone_stays_below_8_mb():
    encoder = OBJECTIVES["supervised"](OBJECTIVES["supervised"].Settings()).encoder
    assert 2 * sum(value.numel() for value in encoder.state_dict().values()) < 8e6
