"""Whole runs: what changes no bit, the smallest sizes, and what a precision promises."""

import json

import pytest
import torch
from helpers import tiny_backbone
from timm.models.vision_transformer import VisionTransformer

import promptvit
from promptvit.backbones.families import wrap
from promptvit.heads.segmentation import PLANS
from promptvit.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return promptvit.load_backbone(tiny_backbone(tmp_path_factory.mktemp("backbone")))


@pytest.fixture
def train(backbone, tmp_path):
    """Train on one digit per class, and say what was learned and what each epoch measured."""

    def run(method="lspt", **settings):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        given = {"shots": 1, "epochs": 2, "batch_size": 4, "score": "val", **settings}
        run = promptvit.train(backbone=backbone.name, loaded_backbone=backbone, method=method, data="digits", out=str(folder), **given)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        measured = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
        return {name: tensor.detach().clone() for name, tensor in run.model.learned().items()}, measured

    return run


def same_bits(a, b):
    return a[1] == b[1] and a[0].keys() == b[0].keys() and all(torch.equal(a[0][name], b[0][name]) for name in a[0])


def test_threads_that_decode_and_memory_change_no_bit(train):
    plain = train(dropout=0.3, augment="crop-flip")
    for changed in ({"workers": 1}, {"workers": 5}, {"memory": "low"}):
        assert same_bits(train(dropout=0.3, augment="crop-flip", **changed), plain), changed
    assert not same_bits(train(dropout=0.3, augment="crop-flip", data_seed=1), plain)


def test_another_number_of_threads_that_compute_changes_roundings_only(train):
    before, learned = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        learned.append(train(lr=1e-3)[0])
    torch.set_num_threads(before)
    for name, tensor in learned[0].items():
        torch.testing.assert_close(learned[1][name], tensor, rtol=1e-3, atol=1e-5)


def test_bfloat16_repeats_its_bits_and_is_not_float32(train):
    half = train(precision="bf16")
    assert same_bits(train(precision="bf16"), half)
    assert all(torch.isfinite(tensor).all() and tensor.dtype == torch.float32 for tensor in half[0].values())
    assert not same_bits(train(), half)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="fp16 runs here")
def test_fp16_on_a_cpu_is_refused_instead_of_being_float32(train):
    with pytest.raises(ValueError, match="fp16 needs a GPU and there is none; use bf16"):
        train(precision="fp16")


@pytest.mark.parametrize("batch_size", [1, 3, 9])
def test_batches_of_one_and_a_last_batch_of_one(train, batch_size):
    """Ten images: 1 x 10; 3 + 3 + 3 + 1; 9 + 1."""
    learned, measured = train(batch_size=batch_size)
    assert all(torch.isfinite(tensor).all() for tensor in learned.values()) and len(measured) == 2


@pytest.mark.parametrize("head", PLANS)
def test_segmentation_heads_train_on_one_image_at_a_time(head):
    """Their batch norm has the pixels of the one image to go by."""
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}
    backbone = wrap(VisionTransformer(**size), name="tiny", preprocessing=Preprocessing(size=(16, 16)))
    options = {} if head == "linear-seg" else {"channels": 4}
    model = promptvit.create_model(backbone, "vpt-deep", 3, head=head, head_options=options, num_prompts=2).train()
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    target = torch.arange(256).view(1, 16, 16) % 3
    optimizer = torch.optim.AdamW([p for _, p in model.trainable_parameters()], lr=0.01)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model.loss(model.outputs(image), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and all(torch.isfinite(t).all() for t in model.learned().values())


@pytest.mark.parametrize("method", promptvit.list_methods())
def test_a_backbone_of_one_block(method):
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 0}
    backbone = wrap(VisionTransformer(**size), name="tiny", preprocessing=Preprocessing(size=(16, 16)))
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"cell": "mlp"}) if method == "lspt" else ({},):
        model = promptvit.create_model(backbone, method, 3, num_prompts=2, **options)
        loss = model.loss(model.outputs(images), torch.tensor([0, 1]))
        loss.backward()
        assert torch.isfinite(loss) and any(p.grad is not None for _, p in model.trainable_parameters())
