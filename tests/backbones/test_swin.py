"""timm's SwinTransformer: equal to timm's own forward; prompts in every window, equal on both paths; no mixing between images."""

import pytest
import torch
from agreement import assert_paths_agree, flows, images_for, timm_features, worst, wrapped
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.swin_transformer import SwinTransformer

from promptvit import create_model, load_backbone, reference_path

SIZES = {"img_size": 32, "patch_size": 2, "embed_dim": 8, "depths": (2, 1, 2), "num_heads": (1, 2, 4), "window_size": 4, "num_classes": 0}
SHAPES = {
    "shifted windows, the last stage smaller than a window": {"window_size": 5},
    "windows that hang over the edge": {"window_size": 3},
    "not square, patches of 4": {"img_size": (48, 32), "patch_size": 4},
    "odd grids": {"img_size": (36, 44), "patch_size": 4, "window_size": 3},
    "windows that are not square": {"window_size": (2, 4)},
    "always shifted": {"always_partition": True, "window_size": 8},
    "masks per call": {"dynamic_img_size": True, "window_size": 3},
    "no biases": {"qkv_bias": False, "window_size": 3},
}


def swin(seed=0, **options):
    return wrapped(SwinTransformer(**SIZES | options), seed)


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_features_equal_timm(options):
    backbone = swin(**options)
    images = images_for(backbone)
    tokens, expected = timm_features(backbone, images)
    assert worst(backbone(images), expected) < 1e-5
    assert worst(backbone(images), tokens.mean(dim=(1, 2))) < 1e-5
    with reference_path():
        assert worst(backbone(images), expected) < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    flow=flows, head_dim=st.integers(1, 4), heads=st.tuples(st.integers(1, 2), st.sampled_from([1, 2, 4])),
    depths=st.tuples(st.integers(1, 2), st.integers(1, 2)), grid=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    window_size=st.integers(2, 5), qkv_bias=st.booleans(), dynamic_img_size=st.booleans(),
)
def test_fast_path_equals_the_generic_one(flow, head_dim, heads, grid, **options):
    width = 2 * head_dim * heads[0] * 2
    backbone = swin(flow.seed, img_size=(2 * grid[0], 2 * grid[1]), embed_dim=width, num_heads=heads, **options)
    assert_paths_agree(backbone, flow)


@pytest.mark.parametrize("method", ["vpt-shallow", "vpt-deep", "spt-shallow", "spt-deep"])
def test_methods_agree_with_the_generic_path_and_do_not_mix_images(method):
    backbone = swin(window_size=3)
    images = images_for(backbone, 3)
    model = create_model(backbone, method, 3, num_prompts=4, seed=1)
    model.method.initialize(backbone, [images], torch.Generator().manual_seed(0))
    fast = model(images)
    found = torch.autograd.grad(fast.square().sum(), list(model.method.prompts))
    with reference_path():
        slow = model(images)
        expected = torch.autograd.grad(slow.square().sum(), list(model.method.prompts))
    assert worst(fast, slow) < 1e-5
    assert all(worst(a, b) < 1e-5 and a.abs().max() > 0 for a, b in zip(found, expected, strict=True))
    alone = torch.cat([model(image[None]) for image in images])
    assert worst(fast, alone) < 1e-5


def test_deep_prompts_have_the_width_of_their_stage():
    backbone = swin()
    assert backbone.widths == [8, 8, 16, 32, 32] and backbone.width == 32
    assert backbone.stages == [0, 0, 1, 2, 2]
    assert [block.grid for block in backbone.blocks()] == [(16, 16), (16, 16), (8, 8), (4, 4), (4, 4)]
    assert [block.shift for block in backbone.blocks()] == [(0, 0), (2, 2), (0, 0), (0, 0), (0, 0)]
    model = create_model(backbone, "vpt-deep", 3, num_prompts=4)
    assert [tuple(prompts.shape) for prompts in model.method.prompts] == [(2, 4, 8), (1, 4, 16), (2, 4, 32)]
    for i, block in enumerate(backbone.blocks()):
        assert backbone.model.get_submodule(backbone.block_name(i)) is block.module


def test_a_prompt_stands_in_for_four_tokens_where_a_stage_starts():
    backbone = swin()
    x = backbone.run_block(1, backbone.embed(images_for(backbone)))[0]
    same = x[:1, :1].expand(2, 256, -1)  # an image of equal tokens merges into equal tokens
    tokens, prompts = backbone.merge(2, same, x[0, :1])
    torch.testing.assert_close(tokens[0, :1], prompts)
    fresh = torch.randn(3, 16)
    assert backbone.merge(2, x, fresh)[1] is fresh, "prompts of the new stage's width are not merged"
    assert backbone.merge(1, x, None)[0] is x and backbone.merge(0, x, None)[0] is x


def test_a_block_is_its_parts():
    backbone = swin(window_size=3)
    x = backbone.embed(images_for(backbone))
    block = backbone.blocks()[1]
    q, k, v = block.qkv(x)
    assert q.shape == k.shape == v.shape == (2, block.heads, 256, 8)
    expected = block.module(x.unflatten(1, block.grid)).flatten(1, 2)
    assert worst(block.finish(x, block.attend(q, k, v)), expected) < 1e-5


def test_the_norm_comes_before_the_mean():
    backbone = swin()
    x, prompts, norm = torch.randn(2, 16, 32), torch.randn(2, 3, 32), backbone.model.norm
    assert torch.equal(backbone.readout(x, prompts, "mean"), norm(x).mean(1))
    assert torch.equal(backbone.readout(x, prompts, "prompts"), norm(prompts).mean(1))
    torch.testing.assert_close(backbone.readout(x, prompts, "norm+patches+prompts"), torch.cat([norm(x), norm(prompts)], 1).mean(1))
    assert backbone.default_pool(prompted=True) == "patches+prompts" and backbone.default_pool(prompted=False) == "mean"


@pytest.mark.parametrize("method", ["linear", "full", "bias", "partial-2"])
def test_baselines(method):
    backbone = swin()
    model = create_model(backbone, method, 3)
    model(images_for(backbone)).sum().backward()
    names = {name for name, parameter in model.trainable_parameters() if name.startswith("backbone.") and parameter.grad is not None}
    assert ("backbone.layers.2.blocks.0.attn.relative_position_bias_table" in names) == (method in ("full", "partial-2"))
    assert ("backbone.layers.1.blocks.0.attn.qkv.bias" in names) == (method in ("full", "bias"))
    assert ("backbone.norm.bias" in names) == (method != "linear")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("gapt", {}, "gapt does not run on swin"),
        ("lspt", {}, "lspt does not run on swin"),
        ("vpt-deep", {"shared": True}, "changes its width between stages"),
        ("linear", {"pool": "cls"}, "no class token; use mean"),
        ("linear", {"pool": "map"}, "no attention pooling"),
        ("linear", {"pool": "prompts"}, "needs a method with prompts"),
    ],
)
def test_misfits_are_named(method, options, message):
    backbone = swin()
    with pytest.raises(ValueError, match=message):
        create_model(backbone, method, 3, **options)(images_for(backbone))


def test_another_image_size_keeps_the_fingerprint_and_the_share_of_a_window():
    own, larger = (load_backbone("swin_tiny_patch4_window7_224", pretrained=False, image_size=size) for size in (None, (64, 96)))
    assert own.fingerprint == larger.fingerprint
    assert larger.grid == (16, 24) and larger.blocks()[0].window == (2, 3) and larger.preprocessing.size == (64, 96)
    images = images_for(larger, 1)
    assert worst(larger(images), timm_features(larger, images)[1]) < 1e-5
    with pytest.raises(ValueError, match="load it with image_size="):
        own.blocks((4, 4))
