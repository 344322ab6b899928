"""LoRA through peft: exact updates of the attention projections of every family, on a copy, seeded, optional."""

import sys

import pytest
import torch
from agreement import images_for, worst, wrapped
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

from promptvit import PromptedModel, create_model
from promptvit.backbones.base import Block

FLAT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
FAMILIES = {
    "vit": lambda: VisionTransformer(**FLAT),
    "eva": lambda: Eva(**FLAT, use_rot_pos_emb=True),
    "eva, unpacked": lambda: Eva(**FLAT, use_rot_pos_emb=True, qkv_fused=False),
    "dinov3": lambda: Eva(**FLAT, use_rot_pos_emb=True, rope_type="dinov3", rope_rotate_half=True, qkv_bias=False),
    "swin": lambda: SwinTransformer(img_size=32, patch_size=2, embed_dim=8, depths=(2, 1), num_heads=(2, 2), window_size=3, num_classes=0),
}


@pytest.fixture(params=FAMILIES)
def backbone(request):
    return wrapped(FAMILIES[request.param]())


def taught(model, seed=0):
    """Fill every trainable tensor with values."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in model.trainable_parameters():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def features(model, images):
    return model.method(model.backbone, images).features


def test_starts_as_the_frozen_backbone_and_only_lora_learns(backbone):
    images = images_for(backbone)
    weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    model = create_model(backbone, "lora", 3, rank=2)
    linear = create_model(backbone, "linear", 3)
    assert worst(features(model, images), features(linear, images)) < 1e-5
    names = [name for name, _ in model.trainable_parameters() if not name.startswith("head.")]
    assert names and all(name.startswith("backbone.") and ".attn." in name and ".lora_" in name for name in names)
    taught(model)(images).sum().backward()
    assert all(parameter.grad is not None for _, parameter in model.trainable_parameters())
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in backbone.state_dict().items())
    assert model.backbone.fingerprint == backbone.fingerprint


@pytest.mark.parametrize("targets", [("qkv",), ("qkv", "proj")])
def test_equals_weights_with_the_low_rank_update_added(backbone, targets):
    images = images_for(backbone)
    model = taught(create_model(backbone, "lora", 3, rank=2, alpha=3.0, targets=targets))
    learned = dict(model.backbone.model.named_parameters())
    merged = backbone.trainable_copy()
    updated = set()
    for name, weight in merged.model.named_parameters():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.default.weight" in learned:
            weight.data += 1.5 * learned[f"{stem}.lora_B.default.weight"].data @ learned[f"{stem}.lora_A.default.weight"].data
            updated.add(stem.rsplit(".", 1)[1])
    assert updated in ({"qkv"}, {"qkv", "proj"}, {"q_proj", "k_proj", "v_proj"}, {"q_proj", "k_proj", "v_proj", "proj"})
    assert ("proj" in updated) == ("proj" in targets)
    expected = merged(images, model.method.pool)
    assert worst(features(model, images), expected) < 1e-5
    assert worst(expected, backbone(images, model.method.pool)) > 1e-2


def test_views_of_changed_blocks_are_black_boxes():
    backbone = wrapped(FAMILIES["vit"]())
    assert all(block.opened for block in backbone.blocks())
    assert [type(block) for block in create_model(backbone, "lora", 3).backbone.blocks()] == [Block, Block]
    assert all(block.opened for block in create_model(backbone, "lora", 3, targets=("proj",)).backbone.blocks())


def test_seeded_and_leaves_the_global_random_state(backbone):
    state = torch.get_rng_state()
    a, b, other = (dict(create_model(backbone, "lora", 3, seed=seed).trainable_parameters()) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], other[name]) for name in a if "lora_A" in name)


def test_saved_and_loaded(backbone, tmp_path):
    model = taught(create_model(backbone, "lora", 3, rank=4, targets=("proj", "qkv")))
    again = PromptedModel.from_pretrained(model.save_pretrained(tmp_path), backbone=backbone)
    assert torch.equal(again(images_for(backbone)), model(images_for(backbone)))
    assert again.method.config == model.method.config


def test_dropout_acts_in_training_only_while_the_frozen_parts_stay_in_evaluation_mode():
    backbone = wrapped(VisionTransformer(**FLAT, drop_path_rate=0.5))
    images = images_for(backbone)
    model = taught(create_model(backbone, "lora", 3, dropout=0.5))
    model.train()
    assert not torch.equal(model(images), model(images))
    prepared = model.prepare_inference()
    model.eval()
    assert torch.equal(model(images), model(images))
    assert torch.equal(model(images), prepared(images))
    plain = taught(create_model(backbone, "lora", 3)).train()
    assert torch.equal(plain(images), plain(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank.*greater than or equal to 1; got 0"),
        ({"targets": ("mlp",)}, "targets.*'qkv' or 'proj'; got 'mlp'"),
        ({"targets": ()}, "targets.*at least 1"),
        ({"rnak": 4}, "did you mean rank"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_model(wrapped(FAMILIES["vit"]()), "lora", 3, **options)


def test_blocks_without_known_projections_are_refused():
    with pytest.raises(ValueError, match="no attention in the blocks of tiny has projections named qkv"):
        create_model(wrapped(VisionTransformer(**FLAT, block_fn=ParallelScalingBlock)), "lora", 3)


def test_without_peft_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install promptvit\[peft\]") as refused:
        create_model(wrapped(FAMILIES["vit"]()), "lora", 3)
    assert "\n" not in str(refused.value)


def test_everything_else_works_without_peft(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "peft" not in vars(sys.modules["promptvit.methods.lora"]), "imported before it is needed"
    backbone = wrapped(FAMILIES["vit"]())
    assert create_model(backbone, "vpt-deep", 3)(images_for(backbone)).shape == (2, 3)
