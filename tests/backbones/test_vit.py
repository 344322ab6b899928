"""The flat ViT: equal to timm's own forward; fast path equal to the generic one; frozen, and known by its fingerprint."""

from contextlib import nullcontext

import pytest
import torch
from agreement import assert_paths_agree, flows, images_for, timm_features, worst, wrapped
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import DiffAttention, SwiGLU
from timm.models.vision_transformer import DiffParallelScalingBlock, ParallelScalingBlock, ResPostBlock, VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos

from promptvit import create_model, load_backbone, reference_path
from promptvit.backbones.base import Block
from promptvit.backbones.families import wrap
from promptvit.backbones.vit import ViTBlock
from promptvit.preprocessing import Preprocessing

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}


def vit(**options):
    return VisionTransformer(**SIZES | options)


@pytest.mark.parametrize(
    ("pool", "options"),
    [
        ("cls", {}),
        ("cls", {"init_values": 0.5, "qk_norm": True}),
        ("cls", {"reg_tokens": 3, "no_embed_class": True}),
        ("cls", {"reg_tokens": 2, "pre_norm": True}),
        ("cls", {"qkv_bias": False, "proj_bias": False, "mlp_layer": SwiGLU}),
        ("cls", {"scale_attn_norm": True, "scale_mlp_norm": True}),
        ("cls", {"img_size": (24, 32), "patch_size": 4}),
        ("cls", {"img_size": (32, 48), "patch_size": (8, 16), "dynamic_img_size": True}),
        ("cls", {"pos_embed": "none"}),
        ("mean", {"global_pool": "avg"}),
        ("mean", {"global_pool": "avg", "class_token": False, "reg_tokens": 2}),
        ("norm+mean", {"global_pool": "avg", "fc_norm": False}),
        ("map", {"global_pool": "map", "class_token": False}),
        ("map", {"global_pool": "map", "pool_include_prefix": True}),
        ("map", {"global_pool": "map", "reg_tokens": 1}),
    ],
)
def test_features_equal_timm(pool, options):
    backbone = wrapped(vit(**options))
    images = images_for(backbone)
    _, expected = timm_features(backbone, images)
    assert all(block.opened for block in backbone.blocks())
    assert worst(backbone(images, pool), expected) < 1e-5
    with reference_path():
        assert worst(backbone(images, pool), expected) < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    flow=flows, heads=st.integers(1, 3), head_dim=st.sampled_from([4, 8]), depth=st.integers(1, 2),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)), class_token=st.booleans(), registers=st.integers(0, 2),
    init_values=st.sampled_from([None, 0.5]), qk_norm=st.booleans(), qkv_bias=st.booleans(), scale_attn_norm=st.booleans(),
)
def test_fast_path_equals_the_generic_one(flow, heads, head_dim, depth, grid, class_token, registers, **options):
    model = vit(
        img_size=(8 * grid[0], 8 * grid[1]), embed_dim=heads * head_dim, num_heads=heads, depth=depth, class_token=class_token,
        reg_tokens=registers, global_pool="token" if class_token else "avg", **options,
    )
    assert_paths_agree(wrapped(model, flow.seed), flow)


@pytest.mark.parametrize("method", ["vpt-shallow", "vpt-deep", "gapt", "lspt"])
@pytest.mark.parametrize("pool", ["cls", "mean", "patches+prompts"])
def test_methods_agree_with_the_generic_path_in_single_precision(method, pool):
    backbone = wrapped(vit(depth=3))
    images = images_for(backbone)
    model = create_model(backbone, method, 3, num_prompts=4, pool=pool)
    parameters = [parameter for name, parameter in model.trainable_parameters() if "head" not in name]
    found = []
    for path in (nullcontext, reference_path):
        with path():
            logits = model(images)
            found.append((logits, *torch.autograd.grad(logits.square().sum(), parameters)))
    assert all(worst(a, b) < 1e-5 for a, b in zip(*found, strict=True))


BLACK_BOXES = {
    "parallel": {"block_fn": ParallelScalingBlock},
    "post-norm": {"block_fn": ResPostBlock, "init_values": 0.5},
    "differential": {"attn_layer": DiffAttention},
    "parallel differential": {"block_fn": DiffParallelScalingBlock},
}


@pytest.mark.parametrize("options", BLACK_BOXES.values(), ids=BLACK_BOXES)
def test_unknown_blocks_are_black_boxes(options):
    backbone = wrapped(vit(**options))
    images = images_for(backbone)
    assert [type(block) for block in backbone.blocks()] == [Block, Block]
    assert worst(backbone(images), timm_features(backbone, images)[1]) < 1e-5
    for method in ("linear", "vpt-shallow", "vpt-deep"):
        model = create_model(backbone, method, 3, num_prompts=4)
        model(images).sum().backward()
        assert all(parameter.grad is not None for _, parameter in model.trainable_parameters())


def test_a_black_box_sees_prompts_between_prefix_and_patches():
    backbone = wrapped(vit(block_fn=ParallelScalingBlock, reg_tokens=1))
    x, prompts = backbone.embed(images_for(backbone)), torch.randn(2, 3, 32)
    y, out = backbone.run_block(0, x, prompts)
    joined = backbone.model.blocks[0](torch.cat([x[:, :2], prompts, x[:, 2:]], dim=1))
    assert torch.equal(torch.cat([y[:, :2], out, y[:, 2:]], dim=1), joined)


def test_a_temperature_needs_a_hold():
    backbone = wrapped(vit(block_fn=ParallelScalingBlock))
    with pytest.raises(ValueError, match="ParallelScalingBlock block gives no hold"):
        create_model(backbone, "gapt", 3)(images_for(backbone))


def test_other_layers_close_the_view():
    block = vit().blocks[0]
    assert ViTBlock.knows(block)
    block.attn.qkv = torch.nn.Sequential(block.attn.qkv)
    assert not ViTBlock.knows(block)
    assert not ViTBlock.knows(vit(attn_layer=DiffAttention).blocks[0])


def test_frozen_means_frozen():
    backbone = wrapped(vit(drop_path_rate=0.5, proj_drop_rate=0.5, pos_drop_rate=0.5))
    images = images_for(backbone)
    before = backbone(images)
    weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    model = create_model(backbone, "vpt-deep", 3, num_prompts=2).train()
    optimizer = torch.optim.SGD([p for _, p in model.trainable_parameters()], lr=1.0, weight_decay=0.1)
    model(images).sum().backward()
    optimizer.step()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in backbone.state_dict().items())
    assert torch.equal(backbone.train()(images), before)


def test_fingerprint_is_of_the_source_weights():
    backbone, same, other = (wrapped(vit(), seed) for seed in (0, 0, 1))
    assert backbone.fingerprint == same.fingerprint != other.fingerprint
    copy = backbone.trainable_copy()
    copy.model.blocks[0].mlp.fc1.weight.data.zero_()
    assert copy.fingerprint == backbone.fingerprint


def test_fingerprint_does_not_depend_on_the_image_size():
    own, larger = (load_backbone("vit_tiny_patch16_224", pretrained=False, image_size=size) for size in (None, (48, 64)))
    assert own.fingerprint == larger.fingerprint
    assert larger.grid == (3, 4) and larger.preprocessing.size == (48, 64) and larger.positions().shape == (1, 13, 192)
    images = images_for(larger)
    assert worst(larger(images), timm_features(larger, images)[1]) < 1e-5


def test_misfits_are_named():
    backbone = wrapped(vit(class_token=False, global_pool="avg"))
    with pytest.raises(ValueError, match="expects 32x32 pixels, got 32x40"):
        backbone(torch.zeros(1, 3, 32, 40))
    with pytest.raises(ValueError, match="no class token; use mean"):
        backbone(images_for(backbone), "cls")
    with pytest.raises(ValueError, match="no attention pooling"):
        backbone(images_for(backbone), "map")
    with pytest.raises(ValueError, match="'prompts' needs a method with prompts"):
        backbone(images_for(backbone), "prompts")
    with pytest.raises(ValueError, match="VisionTransformerRelPos is not supported"):
        wrap(VisionTransformerRelPos(img_size=32, embed_dim=32, depth=1, num_heads=2), name="x", preprocessing=Preprocessing())
