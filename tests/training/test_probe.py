"""Linear probes: one pass of the backbone gives the numbers of many, and heads trained together end where single ones do."""

import pytest
import torch
from helpers import tiny_backbone
from torch.nn import functional as F

import promptvit
from promptvit.backbones.base import Backbone
from promptvit.backbones.vit import ViT
from promptvit.data import load_dataset
from promptvit.data.loader import places
from promptvit.heads.classification import LinearHead
from promptvit.training import classification, loop, probe
from promptvit.training.optimization import schedule
from promptvit.training.probe import HeadSettings, extract, train_heads


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


def run(backbone, out, **settings):
    given = {"shots": 6, "epochs": 4, "batch_size": 16, "augment": "none", "lr": 0.05, **settings}
    return promptvit.train(backbone=backbone, method="linear", data="digits", out=str(out), **given)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_one_pass_gives_the_numbers_of_many(backbone, tmp_path, monkeypatch, precision):
    counted = []
    embed = ViT.embed
    monkeypatch.setattr(ViT, "embed", lambda self, images, any_size: counted.append(len(images)) or embed(self, images, any_size))
    fast = run(backbone, tmp_path / "fast", precision=precision)
    passes = sum(counted)
    sizes = {name: len(split) for name, split in load_dataset("digits", shots=6).splits.items()}
    assert passes == sum(sizes.values()), "every image went through the backbone once"
    monkeypatch.setattr(classification, "inputs_are_fixed", lambda settings: False)
    slow = run(backbone, tmp_path / "slow", precision=precision)
    assert sum(counted) - passes == 4 * (sizes["train"] + sizes["val"]) + sizes["test"]
    for name, tensor in slow.model.head.state_dict().items():
        torch.testing.assert_close(fast.model.head.state_dict()[name], tensor, rtol=1e-4, atol=1e-5 if precision == "no" else 1e-2)
    if precision == "no":
        assert fast.result["accuracy"] == slow.result["accuracy"] and fast.result["val_accuracy"] == slow.result["val_accuracy"]


def test_a_resumed_probe_is_the_uninterrupted_one(backbone, tmp_path, monkeypatch):
    whole = run(backbone, tmp_path / "whole")
    train_epoch = loop.Run.train_epoch

    def stops(self, epoch, bar):
        if epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(self, epoch, bar)

    monkeypatch.setattr(loop.Run, "train_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        run(backbone, tmp_path / "cut")
    monkeypatch.setattr(loop.Run, "train_epoch", train_epoch)
    again = run(backbone, tmp_path / "cut", resume=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (again.run_dir / "adapter" / name).read_bytes() == (whole.run_dir / "adapter" / name).read_bytes()


def test_augmented_images_are_seen_anew(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "extract", None)
    assert run(backbone, tmp_path / "run", epochs=1, augment="crop").result["status"] == "ok"


def features_of(backbone):
    model = promptvit.create_model(backbone, "linear", 10)
    split = load_dataset("digits", shots=6).splits["train"]
    return model, split, extract(model, split)


def test_many_features_are_mapped_from_a_file(backbone):
    model, split, features = features_of(backbone)
    assert isinstance(model.backbone, Backbone) and features.shape == (60, model.backbone.width)
    torch.testing.assert_close(extract(model, split, in_memory=0), features, rtol=0, atol=0)


def one_by_one(features, labels, classes, head, epochs, batch_size, optimizer):
    layer = LinearHead(features.shape[1], classes, generator=torch.Generator().manual_seed(head.seed + 1)).to(features.dtype)
    groups = [{"params": [layer.weight], "weight_decay": head.weight_decay}, {"params": [layer.bias], "weight_decay": 0.0}]
    kinds = {"sgd": lambda: torch.optim.SGD(groups, lr=head.lr, momentum=0.9), "adamw": lambda: torch.optim.AdamW(groups, lr=head.lr)}
    optimiser = kinds[optimizer]()
    order = [rows for epoch in range(epochs) for rows in places(len(features), batch_size, epoch)]
    for step, rows in enumerate(order):
        for group in optimiser.param_groups:
            group["lr"] = head.lr * schedule(step, len(order), 0.1)
        optimiser.zero_grad()
        F.cross_entropy(layer(features[rows]), labels[rows]).backward()
        optimiser.step()
    return layer


HEADS = [HeadSettings(lr, decay, seed) for lr in (1e-3, 0.1) for decay in (0.0, 0.1) for seed in (0, 5)]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("at_a_time", [1, 3, 100])
def test_heads_trained_together_end_where_single_ones_do(monkeypatch, optimizer, at_a_time):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 12, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (50,), generator=generator)
    monkeypatch.setattr(probe, "CACHED", at_a_time * 4 * 13)
    together = train_heads(features, labels, 4, HEADS, epochs=5, batch_size=16, optimizer=optimizer)
    for k, head in enumerate(HEADS):
        single = one_by_one(features, labels, 4, head, 5, 16, optimizer)
        torch.testing.assert_close(together.weights[k], single.weight.detach(), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(together.biases[k], single.bias.detach(), rtol=1e-9, atol=1e-10)
        expected = (single(features).argmax(-1) == labels).float().mean()
        assert together.accuracy(features, labels)[k] == expected


def test_a_head_among_many_is_the_one_of_an_ordinary_run(backbone, tmp_path):
    finished = run(backbone, tmp_path / "run", select="last", seed=2, data_seed=0)
    _, split, features = features_of(backbone)
    heads = [HeadSettings(0.05, 1e-4, 2), HeadSettings(0.5, 0.0, 0)]
    found = train_heads(features, torch.tensor(split.labels), 10, heads, epochs=4, batch_size=16)
    torch.testing.assert_close(found.weights[0], finished.model.head.weight.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("heads", "epochs", "labels"), [([], 1, 5), (HEADS, 0, 5), (HEADS, 1, 4)])
def test_bad_arguments(heads, epochs, labels):
    with pytest.raises(ValueError, match="train_heads"):
        train_heads(torch.zeros(5, 3), torch.zeros(labels, dtype=torch.long), 2, heads, epochs=epochs)
