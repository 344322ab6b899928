"""Recorded attention is what the model computed: it sums to one, rebuilds every block, and changes no answer."""

import threading

import pytest
import torch
from agreement import images_for, worst, wrapped
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from promptvit import create_model, reference_path
from promptvit.analysis import Recorder
from promptvit.backbones.base import broadcast
from promptvit.methods import method_class

FLAT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}
FAMILIES = {
    "vit": lambda: VisionTransformer(**FLAT),
    "vit with registers": lambda: VisionTransformer(**FLAT, reg_tokens=2, qk_norm=True, init_values=0.5),
    "eva": lambda: Eva(**FLAT, use_rot_pos_emb=True, swiglu_mlp=True, num_reg_tokens=1, ref_feat_shape=(4, 4)),
    "swin": lambda: SwinTransformer(img_size=32, patch_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=3, num_classes=0),
}
PROMPTED = ["vpt-shallow", "vpt-deep", "gapt", "lspt", "sa2vp"]
PAIRS = [(m, f) for f in FAMILIES for m in [*PROMPTED, "linear", "bias"] if f[:4].strip() in method_class(m).families]


def model_of(method, family, **options):
    backbone = wrapped(FAMILIES[family]())
    return create_model(backbone, method, 3, num_prompts=3, **options).eval()


@pytest.mark.parametrize(("method", "family"), PAIRS, ids="-".join)
def test_recording_changes_no_answer_and_every_row_sums_to_one(method, family):
    model = model_of(method, family)
    images = images_for(model.backbone)
    expected = model(images)
    with Recorder(model.backbone) as seen:
        found = model(images)
    assert worst(found, expected) < 1e-5
    assert not found.requires_grad
    assert sorted(seen.attention) == list(range(model.backbone.depth))
    for attention in seen.attention.values():
        p = attention.probabilities
        assert p.min() >= 0
        torch.testing.assert_close(p.sum(-1), torch.ones(p.shape[:-1]))
    assert torch.equal(model(images), expected), "nothing stays after the context"
    assert "blocks" not in vars(model.backbone)


@torch.no_grad()
def explicit(block, x, prompts, temperature):
    """Probabilities of a flat block by their definition, from the sequence ``[prefix, patches, prompts]``."""
    own, others = block.qkv(x), None if prompts is None else block.qkv(prompts.expand(len(x), -1, -1), positions=False)
    q, k = (t if others is None else torch.cat([t, o], dim=2) for t, o in zip(own[:2], (others or own)[:2], strict=True))
    logits = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
    return (logits / broadcast(temperature, logits)).softmax(-1)


@pytest.mark.parametrize("family", ["vit", "vit with registers", "eva"])
@pytest.mark.parametrize("method", ["vpt-shallow", "vpt-deep", "gapt", "lspt", "linear"])
def test_flat_attention_equals_the_definition(method, family):
    model = model_of(method, family)
    if method == "gapt":
        model.method.temperatures.data.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(0))
    images, steps = images_for(model.backbone), {}
    model.method(model.backbone, images, observe=lambda i, x, p, y, out: steps.update({i: (x, p)}))
    with Recorder(model.backbone) as seen:
        model(images)
    for i, block in enumerate(model.backbone.blocks()):
        temperature = model.method.temperature(i) if hasattr(model.method, "temperature") else 1.0
        whole = explicit(block, *steps[i], temperature)
        found = seen.attention[i]
        asked = found.probabilities.shape[-2]
        torch.testing.assert_close(found.probabilities.squeeze(1), whole[:, :, :asked], atol=1e-5, rtol=1e-4)
        assert found.prompts == (0 if method == "linear" else 3)
    last = seen.attention[model.backbone.depth - 1].probabilities.shape[-2]
    assert last == model.backbone.num_prefix_tokens, "the class token's readout needs no other query"


@pytest.mark.parametrize("method", ["vpt-shallow", "vpt-deep"])
def test_window_attention_rebuilds_the_block(method):
    """What a Swin block computes from the recorded probabilities and timm's own values is the block's output."""
    model = model_of(method, "swin")
    images, steps = images_for(model.backbone), {}
    model.method(model.backbone, images, observe=lambda i, x, p, y, out: steps.update({i: (x, p, y)}))
    with Recorder(model.backbone) as seen:
        model(images)
    for i, block in enumerate(model.backbone.blocks()):
        x, p, y = steps[i]
        attention = seen.attention[i]
        area = attention.tokens
        v = block._cut_all(*block.qkv(x))[2].unflatten(1, (-1, block.heads))  # [B, windows, heads, A, d]
        pv = block.qkv(p.expand(len(x), -1, -1))[2][:, None].expand(-1, v.shape[1], -1, -1, -1)
        mixed = attention.probabilities[..., :area, :] @ torch.cat([v, pv], dim=-2)
        rebuilt = block.finish(x, block.module.attn.proj(block.join(mixed.flatten(1, 2))))
        torch.testing.assert_close(rebuilt, y, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_over_the_image(family):
    model = model_of("vpt-shallow", family)
    images, backbone = images_for(model.backbone), model.backbone
    with Recorder(backbone) as seen:
        model(images)
    first = seen.attention[0]
    heads, patches = first.probabilities.shape[2], backbone.grid[0] * backbone.grid[1]
    assert first.over_image("prompts").shape == (2, heads, 3, patches)
    assert first.over_image("patches").shape == (2, heads, 1, patches)
    assert first.on_prompts().shape == (2, heads, patches, 3)
    if family != "swin":
        p = first.probabilities[:, 0]
        end = backbone.num_prefix_tokens + patches
        assert torch.equal(first.over_image("prefix"), p[:, :, : backbone.num_prefix_tokens, backbone.num_prefix_tokens : end])
        torch.testing.assert_close(first.over_image("prompts").sum(-1), p[:, :, end:, backbone.num_prefix_tokens : end].sum(-1))
        with pytest.raises(ValueError, match="patches asked nothing"):
            seen.attention[backbone.depth - 1].over_image("patches")
    else:
        with pytest.raises(ValueError, match="no class token"):
            first.over_image("prefix")


def test_prompts_that_nobody_reads_asked_nothing():
    model = model_of("vpt-deep", "vit")
    with Recorder(model.backbone) as seen:
        model(images_for(model.backbone))
    assert not seen.attention[0].asked_by_prompts
    with pytest.raises(ValueError, match="prompts asked nothing"):
        seen.attention[0].over_image("prompts")


def test_a_swin_window_map_lies_where_the_tokens_lie():
    """A token of the image sees itself most if its key is made to stand out; the map shows it at its own place."""
    model = model_of("vpt-shallow", "swin")
    backbone, images = model.backbone, images_for(model.backbone)
    with Recorder(backbone) as seen:
        model(images)
    attention = seen.attention[1]  # shifted windows that hang over the edge
    block = backbone.blocks()[1]
    places = torch.arange(block.grid[0] * block.grid[1], dtype=torch.float32)[None, None, :, None].expand(2, block.heads, -1, 1)
    cut = block._cut(places, torch.full((block.heads, 1), -1.0)).unflatten(1, (-1, block.heads))
    assert torch.equal(attention.on_grid(cut), places)


def test_black_boxes_and_the_reference_path_are_refused():
    gated = wrapped(VisionTransformer(**FLAT))
    gated.model.blocks[1].attn.gate = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"block 1 of tiny \(Block\) is a black box"), Recorder(gated):
        pass
    plain = wrapped(VisionTransformer(**FLAT))
    with reference_path(), pytest.raises(ValueError, match="reference_path"), Recorder(plain):
        pass
    assert "blocks" not in vars(gated) and "blocks" not in vars(plain)


def test_other_threads_are_not_recorded():
    model = model_of("vpt-deep", "vit")
    images, calls = images_for(model.backbone), []

    def other():
        calls.append(model(images))

    with Recorder(model.backbone) as seen:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert not seen.attention
    assert calls[0].requires_grad
