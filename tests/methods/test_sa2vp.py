"""SA2VP: fast path against the plain computation on random shapes, its equations, and what it refuses."""

import pytest
import torch
from agreement import images_for, worst, wrapped
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch.nn import functional as F

from promptvit import create_model, reference_path
from promptvit.methods.neighbourhood import Neighbourhood
from promptvit.methods.sa2vp import thirds

SIZE = {"embed_dim": 16, "num_heads": 2, "num_classes": 0, "patch_size": 4}


def vit(rows=3, columns=4, depth=5, **options):
    return wrapped(VisionTransformer(img_size=(4 * rows, 4 * columns), depth=depth, **SIZE, **options))


def registers(rows=3, columns=4, depth=5):
    return vit(rows, columns, depth, class_token=False, reg_tokens=2, global_pool="avg", qk_norm=True, init_values=0.5)


def no_prefix(rows=3, columns=4, depth=5):
    return vit(rows, columns, depth, class_token=False, global_pool="avg")


def eva(rows=3, columns=4, depth=5):
    grid = {"img_size": (4 * rows, 4 * columns), "ref_feat_shape": (rows, columns), "depth": depth}
    return wrapped(Eva(**SIZE, **grid, use_rot_pos_emb=True, swiglu_mlp=True, num_reg_tokens=2, init_values=0.5))


def swin(rows=3, columns=4, depth=5):
    size = {"img_size": 32, "patch_size": 2, "embed_dim": 8, "window_size": 4, "mlp_ratio": 2}
    return wrapped(SwinTransformer(**size, depths=(1, depth), num_heads=(1, 2), num_classes=0))


FAMILIES = [vit, registers, no_prefix, eva, swin]


def model_of(backbone, seed=0, **options):
    """Weights far from their start, so that every part matters."""
    model = create_model(backbone, "sa2vp", 3, **{"rank": 3, "scale": 0.7, "seed": seed, **options})
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.method.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.to(next(backbone.parameters()).dtype).eval()


def answers(model, images):
    """Logits of both branches and the gradient of every trainable tensor."""
    model.zero_grad()
    outputs = model.outputs(images)
    model.method.loss(outputs, torch.arange(len(images)) % 3).backward()
    return outputs, {name: p.grad.clone() for name, p in model.trainable_parameters()}


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(FAMILIES), attention=st.sampled_from(["exact", "padded"]), rows=st.integers(1, 5), columns=st.integers(1, 5),
    depth=st.integers(1, 7), batch=st.integers(1, 3), seed=st.integers(0, 100),
)
def test_fast_path_equals_the_plain_computation(family, attention, rows, columns, depth, batch, seed):
    backbone = family(rows, columns, depth).double()
    model = model_of(backbone, seed, attention=attention, rank=2)
    images = images_for(backbone, batch)
    outputs, gradients = answers(model, images)
    with reference_path():
        expected, expected_gradients = answers(model, images)
    for ours, plain in zip(outputs, expected, strict=True):
        assert worst(ours, plain) <= 1e-7
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-7 * max(1e-3, gradient.abs().max()), name
    with torch.no_grad():
        assert worst(model.outputs(images)[0], expected[0]) <= 1e-7, "without gradients all branches share a batch"


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_neighbourhood_by_hand(padded, prefix):
    """Every query alone, its keys picked one by one."""
    rows, columns, heads, d = 3, 4, 2, 5
    q, k, v = torch.randn(3, 2, heads, prefix + rows * columns, d, generator=torch.Generator().manual_seed(0))
    found = Neighbourhood((rows, columns), prefix, padded)(q, k, v)
    for n in range(prefix + rows * columns):
        if n < prefix:
            keys = list(range(q.shape[2]))
        else:
            y, x = divmod(n - prefix, columns)
            near = [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            keys = [prefix + i * columns + j for i, j in near if 0 <= i < rows and 0 <= j < columns]
        scores = (q[:, :, n, None] * k[:, :, keys]).sum(-1) / d**0.5
        if padded and n >= prefix:
            scores = F.pad(scores, (0, 9 - len(keys)))  # score 0, value 0
        weights = scores.softmax(-1)[..., : len(keys)]
        expected = (weights[..., None] * v[:, :, keys]).sum(2).flatten(1)
        torch.testing.assert_close(found[:, n], expected, rtol=1e-5, atol=1e-6)


def test_who_reads_where():
    assert thirds(12) == (0, 4, 8) and thirds(18) == (0, 6, 12) and thirds(24) == (0, 8, 16)
    assert [thirds(n) for n in (1, 2, 3, 4)] == [(0,), (0,), (0, 2), (0, 2)]
    method = create_model(vit(depth=12), "sa2vp", 3).method
    assert (method.to_prompt, method.insert_at) == ([0, 4, 8], [4, 8])
    method = create_model(vit(depth=6), "sa2vp", 3, to_prompt=(1, 3, 4), maps=1).method
    assert (method.to_prompt, method.insert_at) == ([1, 3, 4], [3])
    method = create_model(swin(depth=6), "sa2vp", 3).method
    assert (method.branches.fused, method.to_prompt, method.insert_at) == ([1, 2, 3, 4, 5, 6], [1, 3, 5], [])


def test_scale_zero_leaves_the_image_branch_alone():
    backbone = vit()
    model, plain = model_of(backbone, scale=0.0), create_model(backbone, "linear", 3)
    plain.head = model.head
    torch.testing.assert_close(model(images_for(backbone)), plain(images_for(backbone)), rtol=1e-5, atol=1e-6)


def test_loss_weighs_the_branches():
    model = model_of(vit())
    image, prompt, target = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = 0.8 * F.cross_entropy(image, target) + 0.2 * F.cross_entropy(prompt, target)
    torch.testing.assert_close(model.method.loss((image, prompt), target), expected)


def test_taps_and_observation_show_the_whole_image_branch():
    """The last block computes the class token only, unless someone looks."""
    backbone = vit()
    model, images, seen = model_of(backbone), images_for(backbone), {}
    encoded = model.method(backbone, images, taps=(1, 4))
    watched = model.method(backbone, images, observe=lambda i, x, m, y, n: seen.update({i: (x, m, y, n)}))
    torch.testing.assert_close(encoded.features, watched.features, rtol=1e-5, atol=1e-6)
    assert seen[0][1].shape == (1, 13, 16) and seen[1][1].shape == (2, 13, 16), "the map does not depend on the image before block 0"
    for i in (1, 4):
        torch.testing.assert_close(encoded.taps[i], seen[i][2], rtol=1e-5, atol=1e-6)


def test_nothing_frozen_is_differentiated_before_the_first_trainable_part():
    """Blocks 0 and 1 leave no graph behind on the image branch; block 1 is the first to read the map."""
    backbone = vit()
    model, seen = model_of(backbone), {}
    model.method(backbone, images_for(backbone), observe=lambda i, x, m, y, n: seen.update({i: (x.requires_grad, m.requires_grad)}))
    assert seen[0] == (False, True) and seen[1] == (False, True) and seen[2] == (True, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to_prompt": (0, 5)}, "to_prompt: ascending blocks of 0 to 4"),
        ({"to_prompt": (2, 1)}, "to_prompt: ascending blocks of 0 to 4"),
        ({"maps": 9}, "maps: to_prompt has 2 blocks after the first, got 9"),
        ({"pool": "prompts"}, "pool: sa2vp has no prompt tokens beside the patches"),
        ({"attention": "both"}, "attention.*'exact' or 'padded'"),
        ({"rank": 0}, "rank.*greater than or equal to 1; got 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_model(vit(), "sa2vp", 3, **options)


def test_black_boxes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"sa2vp must see into the attention; block 0 of tiny \(ParallelScalingBlock\) is a black box"):
        create_model(vit(block_fn=ParallelScalingBlock), "sa2vp", 3)


def test_size_on_vit_b16_is_the_authors():
    """Maps, fusions and channel scales of the published model with r = 16."""
    backbone = wrapped(VisionTransformer(num_classes=0))
    d, r, tokens = 768, 16, 197
    maps = 3 * (tokens * r + r * d + d) + 2 * d
    fusions = 12 * (2 * d + d * r + r + r * d + d)
    assert sum(p.numel() for p in create_model(backbone, "sa2vp", 1).method.parameters()) == maps + fusions
