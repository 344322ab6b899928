"""timm's Eva: every kind of rotary position, equal to timm's own forward; prompts are not rotated, on either path."""

from functools import partial

import pytest
import torch
from agreement import assert_paths_agree, flows, images_for, timm_features, worst, wrapped
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import LayerNorm
from timm.models.eva import Eva as TimmEva
from timm.models.eva import EvaBlock as TimmEvaBlock

from promptvit import create_model, load_backbone, reference_path
from promptvit.backbones.eva import EvaBlock, RotaryBlock, UnpackedEvaBlock, rotations
from promptvit.methods import list_methods, method_class

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 0, "use_rot_pos_emb": True}
EVA02 = {"swiglu_mlp": True, "mlp_ratio": 8 / 3, "ref_feat_shape": (4, 4)}
EVA02_LARGE = {**EVA02, "qkv_fused": False, "scale_mlp": True, "global_pool": "token"}
DINOV3 = {
    "qkv_bias": False, "init_values": 0.5, "rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True,
    "use_abs_pos_emb": False, "num_reg_tokens": 4, "use_fc_norm": False, "dynamic_img_size": True,
    "norm_layer": partial(LayerNorm, eps=1e-5),
}
PERCEPTION = {
    "attn_type": "rope", "use_pre_transformer_norm": True, "rope_grid_offset": 1.0, "rope_grid_indexing": "xy", "global_pool": "map",
    "attn_pool_num_heads": 2,
}
OPENED = {
    "eva02": ("mean", EvaBlock, EVA02),
    "eva02 large": ("cls", UnpackedEvaBlock, EVA02_LARGE),
    "eva": ("mean", EvaBlock, {"use_rot_pos_emb": False}),
    "dinov3": ("norm+mean", EvaBlock, DINOV3),
    "dinov3 plus": ("norm+mean", EvaBlock, {**DINOV3, "swiglu_mlp": True, "swiglu_align_to": 8, "qkv_bias": True}),
    "dinov3 class token": ("cls", EvaBlock, {**DINOV3, "global_pool": "token", "dynamic_img_size": False}),
    "perception": ("map", EvaBlock, PERCEPTION),
    "mixed": ("cls", EvaBlock, {"rope_type": "mixed", "global_pool": "token", "no_embed_class": True, "num_reg_tokens": 1}),
    "no class token": ("mean", EvaBlock, {"class_token": False, "num_reg_tokens": 1, "use_abs_pos_emb": False, "qk_norm": True}),
    "multimodal": ("mean", EvaBlock, {"rope_type": "mrope", "rope_mrope_section": (2, 2, 2), "scale_attn_inner": True}),
    "not square": ("mean", EvaBlock, {**EVA02, "img_size": (24, 40)}),
}
BLACK = {
    "post-norm": {"use_post_norm": True},
    "shared keys": {"attn_type": "rope", "num_kv_heads": 2, "qkv_fused": False},
}
FLAT_METHODS = [name for name in list_methods() if "eva" in method_class(name).families]


def eva(**options):
    return wrapped(TimmEva(**SIZES | options))


@pytest.mark.parametrize(("pool", "view", "options"), OPENED.values(), ids=OPENED)
def test_features_equal_timm(pool, view, options):
    backbone = eva(**options)
    images = images_for(backbone)
    _, expected = timm_features(backbone, images)
    assert {type(block) for block in backbone.blocks()} == {view}
    assert worst(backbone(images, pool), expected) < 1e-5
    with reference_path():
        assert worst(backbone(images, pool), expected) < 1e-5


@pytest.mark.parametrize("options", BLACK.values(), ids=BLACK)
def test_unknown_blocks_are_black_boxes_with_rotations(options):
    backbone = eva(**options)
    images = images_for(backbone)
    assert {type(block) for block in backbone.blocks()} == {RotaryBlock}
    assert worst(backbone(images, "mean"), timm_features(backbone, images)[1]) < 1e-5
    model = create_model(backbone, "vpt-deep", 3, num_prompts=4)
    model(images).sum().backward()
    assert all(parameter.grad is not None for _, parameter in model.trainable_parameters())


def test_gates_and_other_layers_close_the_view():
    attention = {"dim": 48, "num_heads": 4, "norm_layer": LayerNorm}
    assert EvaBlock.knows(TimmEvaBlock(**attention)) and EvaBlock.knows(TimmEvaBlock(**attention, qkv_fused=False))
    assert not EvaBlock.knows(TimmEvaBlock(**attention, gated_attn=True))
    block = TimmEvaBlock(**attention, qkv_fused=False)
    block.attn.k_proj = torch.nn.Sequential(block.attn.k_proj)
    assert not EvaBlock.knows(block)


@settings(max_examples=40, deadline=None)
@given(
    flow=flows, heads=st.integers(1, 3), head_dim=st.sampled_from([4, 8]), depth=st.integers(1, 2),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)), rope_type=st.sampled_from(["cat", "mixed", "dinov3", "mrope", None]),
    rope_rotate_half=st.booleans(), class_token=st.booleans(), num_reg_tokens=st.integers(0, 2), qkv_fused=st.booleans(),
    qkv_bias=st.booleans(), qk_norm=st.booleans(), swiglu_mlp=st.booleans(), scale_mlp=st.booleans(), scale_attn_inner=st.booleans(),
    init_values=st.sampled_from([None, 0.5]), attn_only_layer_scale=st.booleans(), attn_type=st.sampled_from(["eva", "rope"]),
    dynamic_img_size=st.booleans(),
)
def test_fast_path_equals_the_generic_one(flow, heads, head_dim, depth, grid, rope_type, rope_rotate_half, **options):
    backbone = eva(
        img_size=(8 * grid[0], 8 * grid[1]), embed_dim=heads * head_dim, num_heads=heads, depth=depth, rope_type=rope_type,
        use_rot_pos_emb=rope_type is not None, rope_rotate_half=rope_rotate_half and rope_type != "mixed", **options,
    )
    assert all(block.opened for block in backbone.blocks())
    assert_paths_agree(backbone, flow)


@pytest.mark.parametrize("options", [EVA02, DINOV3], ids=["eva02", "dinov3"])
@pytest.mark.parametrize("method", FLAT_METHODS)
def test_every_flat_method_runs_and_agrees_with_the_generic_path(method, options):
    backbone = eva(**options)
    images = images_for(backbone)
    model = create_model(backbone, method, 3, num_prompts=4)
    if model.method.needs_data:
        model.method.initialize(backbone, [images], torch.Generator().manual_seed(0))
    fast = model(images)
    with reference_path():
        assert worst(fast, model(images)) < 1e-5
    fast.square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for _, parameter in model.trainable_parameters())


@pytest.mark.parametrize("rope_type", ["cat", "dinov3", "mixed"])
def test_rotations_depend_on_the_grid_and_are_never_augmented(rope_type):
    options = {"rope_type": rope_type, "rope_shift_coords": 0.5, "rope_jitter_coords": 1.5, "use_abs_pos_emb": False}
    small, large = eva(**options), eva(**options, img_size=(32, 48))
    block, own = small.blocks((4, 6))[1], large.blocks()[1]
    assert torch.equal(block.rope, own.rope) and block.rope.shape != small.blocks()[1].rope.shape
    x = large.embed(images_for(large))
    assert torch.equal(block.run(x, None)[0], own.run(x, None)[0])
    model = create_model(small, "vpt-deep", 3)
    images = images_for(small)
    assert torch.equal(model.eval()(images), model.train()(images))


def test_fixed_rotations_are_computed_once_and_learned_ones_learn():
    fixed, learned = eva(), eva(rope_type="mixed")
    assert fixed.blocks()[0].rope is fixed.blocks()[2].rope is fixed.rope
    assert "rope" not in fixed.state_dict() and learned.rope is None
    model = create_model(learned, "full", 3)
    model(images_for(learned)).sum().backward()
    assert model.backbone.model.rope.freqs.grad.abs().amax(dim=(0, 2, 3)).gt(0).all(), "one table for every block"
    assert torch.equal(rotations(learned.model.rope, (4, 4))[1], learned.blocks()[1].rope)


def test_prompts_have_no_position():
    backbone = eva(**DINOV3)
    x, prompts = backbone.embed(images_for(backbone)), torch.randn(3, 48)
    for path in (reference_path, torch.no_grad):
        with path():
            y, out = backbone.run_block(0, x, prompts)
            turned, turned_out = backbone.run_block(0, x, prompts.flip(0))
            torch.testing.assert_close(turned, y, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(turned_out.flip(1), out, rtol=1e-4, atol=1e-5)


def test_another_image_size_keeps_the_fingerprint():
    own, larger = (load_backbone("eva02_tiny_patch14_224", pretrained=False, image_size=size) for size in (None, (56, 70)))
    assert own.fingerprint == larger.fingerprint
    assert larger.grid == (4, 5) and larger.blocks()[0].rope.shape == (20, 128) and larger.preprocessing.size == (56, 70)
    images = images_for(larger, 1)
    assert worst(larger(images, "mean"), timm_features(larger, images)[1]) < 1e-5
