"""The numbers of analysis against their definitions, on tiny random models."""

import math

import numpy as np
import pytest
import torch
from agreement import images_for, wrapped
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from promptvit import analysis, create_model
from promptvit.analysis.forgetting import by_distance, interval
from promptvit.analysis.trace import trace
from promptvit.methods.gapt import effective_weights

FLAT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}


def vit(**facts):
    return wrapped(VisionTransformer(**FLAT), **facts)


def swin():
    return wrapped(SwinTransformer(img_size=32, patch_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=3, num_classes=0))


def model_of(method, backbone=None, **options):
    return create_model(backbone or vit(), method, 3, num_prompts=3, **options).eval()


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_nmi_is_zero_for_prompts_that_look_alike_and_one_where_each_has_its_own_patch():
    alike = randn(2, 1, 9).softmax(-1).expand(2, 4, 9)
    torch.testing.assert_close(analysis.nmi(alike), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(analysis.nmi(torch.eye(4)[None]), torch.ones(1))
    assert analysis.nmi(torch.ones(1, 1, 4)).isnan().all()
    p = randn(1, 3, 5).softmax(-1)
    joint, marginal = p[0] / 3, p[0].mean(0)
    information = sum(float(joint[i, j] * torch.log(joint[i, j] / (marginal[j] / 3))) for i in range(3) for j in range(5))
    expected = information / math.sqrt(math.log(3) * -float((marginal * marginal.log()).sum()))
    assert float(analysis.nmi(7 * p)[0]) == pytest.approx(expected, abs=1e-5)


def test_cka_is_one_for_the_same_tokens_and_blind_to_scale_and_order():
    tokens = randn(2, 5, 64)
    torch.testing.assert_close(analysis.cka(tokens, tokens), torch.ones(2))
    torch.testing.assert_close(analysis.cka(3 * tokens.flip(1), tokens), torch.ones(2))
    assert float(analysis.cka(tokens, randn(2, 5, 64, seed=1)).max()) < 0.5


def test_similarity_has_a_number_for_every_block_and_none_without_prompts():
    images = images_for(vit(), 5)
    for backbone in (vit(), swin()):
        alike = analysis.similarity(model_of("vpt-shallow", backbone), images, batch_size=2)
        assert alike.nmi.shape == alike.cka.shape == (backbone.depth,)
        assert alike.nmi.isfinite().all() and alike.cka.isfinite().all()
    assert analysis.similarity(model_of("linear"), images).rows() == {"nmi": [None] * 3, "cka": [None] * 3}


def test_similarity_is_the_mean_over_images_however_they_are_batched():
    model, images = model_of("gapt", gate_init=0.0), images_for(vit(), 5)
    for name in ("nmi", "cka"):
        whole, parts = (getattr(analysis.similarity(model, images, batch_size=size), name) for size in (5, 2))
        torch.testing.assert_close(whole, parts)
    steps = trace(model, images)
    torch.testing.assert_close(analysis.similarity(model, images).cka[1], analysis.cka(steps[1].prompts, steps[1].patches).mean())


def test_rollout_of_flowing_prompts_is_the_product_over_the_whole_sequence():
    model, images = model_of("vpt-shallow", is_mae_vit()), images_for(vit())
    recorded = analysis.attend(model, images)
    product = torch.eye(1 + 16 + 3).expand(2, -1, -1)
    for i in range(3):
        a = recorded[i].probabilities[:, 0].mean(dim=1)
        product = (a + torch.eye(a.shape[-1])) / 2 @ product
    torch.testing.assert_close(analysis.rollout(model, images), product[:, 1:17, 1:17].mean(dim=1))


def is_mae_vit():
    return vit(is_mae=True)  # the mean over patches and prompts is read, so all tokens ask in the last block


def test_rollout_loses_what_goes_to_fresh_prompts_and_has_no_windows():
    images = images_for(vit())
    none, deep = (analysis.rollout(model_of(method), images).sum(-1) for method in ("linear", "vpt-deep"))
    assert (deep < none).all() and (none < 1).all(), "a class token keeps some of itself"
    with pytest.raises(ValueError, match="windows"):
        analysis.rollout(model_of("vpt-deep", swin()), images)


@pytest.mark.parametrize(
    ("method", "pool", "asked_by", "rows"),
    [
        ("vpt-deep", "cls", "class token", [0]),
        ("vpt-deep", "mean", "patches", range(1, 17)),
        ("gapt", "patches+prompts", "patches and prompts", range(1, 20)),
        ("sa2vp", "mean", "patches", range(1, 17)),
    ],
)
def test_the_readouts_map_is_the_mean_over_the_tokens_that_it_averages(method, pool, asked_by, rows):
    last = analysis.attend(model_of(method, pool=pool), images_for(vit(), 3))[2]
    weights, asked = analysis.readout_map(last)
    assert asked == asked_by and weights.shape == (3, 16)
    torch.testing.assert_close(weights, last.probabilities[:, 0][:, :, list(rows), 1:17].mean(dim=(1, 2)))


def test_attention_is_that_of_the_image_branch_and_prompts_get_their_share():
    images = images_for(vit())
    alone = analysis.attend(model_of("linear"), images)[0].probabilities
    torch.testing.assert_close(analysis.attend(model_of("sa2vp"), images)[0].probabilities, alone)
    first = analysis.attend(model_of("vpt-deep"), images)[0]
    torch.testing.assert_close(analysis.prompt_share(first, "prefix"), first.probabilities[:, 0, :, 0, -3:].sum(-1))
    torch.testing.assert_close(analysis.prompt_share(first, "patches"), first.probabilities[:, 0, :, 1:17, -3:].sum(-1).mean(-1))
    windows = analysis.attend(model_of("vpt-deep", swin()), images)[0]
    for attention, asking in ((first, "prompts"), (windows, "prefix")):
        with pytest.raises(ValueError, match=f"asking: .* got '{asking}'"):
            analysis.prompt_share(attention, asking)


@pytest.mark.parametrize("look", [
    lambda model, images: analysis.attend(model, images)[1].probabilities,
    lambda model, images: analysis.decodable(model, images, noise=(0.0,))[0, 0, 1:],
    lambda model, images: analysis.similarity(model, images).cka,
    lambda model, images: analysis.sensitivity(model, images, torch.zeros(len(images), dtype=torch.long))[0],
    analysis.probabilities,
])
def test_a_model_is_looked_at_without_dropout_and_stays_in_its_mode(look):
    model, images = model_of("vpt-shallow", dropout=0.5), images_for(vit(), 8)
    expected = look(model, images)
    model.train()
    torch.testing.assert_close(look(model, images), expected)
    assert model.training and model.method.training


def test_forgetting_sees_prompts_that_flow_and_none_that_are_fresh():
    images = images_for(vit(), 24)
    flows, fresh = (analysis.decodable(model_of(method), images, noise=(0.0,))[0].numpy() for method in ("vpt-shallow", "vpt-deep"))
    later = np.triu_indices(3, 1)
    assert (flows[[0, 1], [1, 2]] > 0.95).all(), "what leaves a block enters the next one"
    assert (fresh[later] == 0).all()
    assert np.isnan(flows[np.tril_indices(3)]).all()
    assert np.isnan(analysis.decodable(model_of("linear"), images).numpy()).all()
    noisy, exact = analysis.decodable(model_of("gapt", gate_init=6.0), images, noise=(0.1, 0.0))[:, 0, 2]
    assert noisy < 0.1 < 0.5 < exact, "behind a closed gate there is a trace, too small to see through noise"
    with pytest.raises(ValueError, match="at least 8 images, got 4"):
        analysis.decodable(model_of("gapt"), images[:4])


def test_distances_and_intervals():
    matrix = np.array([[np.nan, 0.8, 0.2], [np.nan, np.nan, 0.6], [np.nan] * 3])
    assert by_distance(matrix) == pytest.approx([0.7, 0.2])
    found = interval([np.array([1.0]), np.array([2.0]), np.array([3.0])])
    assert found.mean == pytest.approx([2.0]) and found.half == pytest.approx([4.302653 / math.sqrt(3)], rel=1e-6)
    assert np.isnan(interval([np.array([1.0])]).half).all()


@pytest.mark.parametrize(("method", "build"), [("lspt", vit), ("vpt-deep", vit), ("sa2vp", vit), ("sa2vp", swin), ("vpt-shallow", swin)])
def test_sensitivity_equals_running_without_the_part(method, build):
    model, images = model_of(method, build()), images_for(build(), 5)
    labels = torch.tensor([0, 1, 2, 0, 1])
    whole, losses = analysis.sensitivity(model, images, labels, batch_size=2)
    with torch.no_grad():
        torch.testing.assert_close(whole, model(images))
        found = {loss.part: loss for loss in losses}
        own = model.method.parts()
        assert set(own) <= set(found)
        for part in own:
            with model.method.without(part):
                logits = model(images)
            assert found[part].loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
            assert found[part].accuracy == pytest.approx(float((logits.argmax(-1) == labels).float().mean()))
    prompted = {f"prompts {i}" for i in range(model.backbone.depth)} if method != "sa2vp" else set()
    assert set(found) - set(own) == prompted
    assert not model.method.off and "blocks" not in vars(model.backbone)


def test_without_all_its_prompts_deep_tuning_is_the_plain_backbone():
    backbone = vit()
    model, images = model_of("vpt-deep", backbone, last=1), images_for(backbone, 4)
    _, (loss,) = analysis.sensitivity(model, images, torch.zeros(4, dtype=torch.long))
    with torch.no_grad():
        plain = F.cross_entropy(model.head(backbone(images, "cls")), torch.zeros(4, dtype=torch.long))
    assert loss.part == "prompts 2" and loss.loss == pytest.approx(float(plain), rel=1e-5)


def test_gapt_describes_its_gates_and_the_weights_of_the_recursion():
    model = model_of("gapt")
    model.method.gate_logits.data.copy_(torch.tensor([0.4, -1.0]))
    images, outs = images_for(vit()), {}
    model.method(model.backbone, images, observe=lambda i, x, p, y, out: outs.update({i: (p, out)}))
    shown = {one.title: one.values for one in model.method.describe(model.backbone, images)}
    torch.testing.assert_close(shown["Gates"], model.method.gate_logits.detach().sigmoid())
    weights = shown["Effective weight of each block's prompts"]
    assert float(weights.sum()) == pytest.approx(1)
    mixed = weights[0] * model.method.prompts + weights[1] * outs[0][1] + weights[2] * outs[1][1]
    torch.testing.assert_close(mixed, outs[2][0], atol=1e-5, rtol=1e-4)
    assert effective_weights(torch.ones(3)).tolist() == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="unknown part 'gate 7'"), model.method.without("gate 7"):
        pass


@pytest.mark.parametrize(("cell", "lines"), [("lstm", 3), ("gru", 2)])
def test_lspt_describes_its_cell_and_the_size_of_its_spatial_coding(cell, lines):
    model = model_of("lspt", cell=cell)
    shown = {one.title: one for one in model.method.describe(model.backbone, images_for(vit()))}
    gates = shown["Gates of the cell"]
    assert gates.values.shape == (2, lines) and len(gates.lines) == lines
    assert ((gates.values > 0) & (gates.values < 1)).all()
    assert shown["Size of the spatial coding"].values.shape == (2,)
    plain = model_of("lspt", cell="none", spatial=False)
    assert {one.title for one in plain.method.describe(plain.backbone, images_for(vit()))}.isdisjoint(set(shown) - {"Gates"} - {
        "Effective weight of each block's prompts", "Attention temperatures"})


@pytest.mark.parametrize("build", [vit, swin])
def test_sa2vp_describes_maps_fusions_and_reach(build):
    model = model_of("sa2vp", build(), scale=1.0)
    model.method.map.rows.data.mul_(50)
    shown = {one.title: one for one in model.method.describe(model.backbone, images_for(build()))}
    grid = model.backbone.grid
    norms = model.method.map()[0, -grid[0] * grid[1] :].norm(dim=-1).view(grid)
    torch.testing.assert_close(shown["Norm of the prompt map"].values, norms.detach())
    sizes = shown["Size of each fusion"].values
    assert sizes.isfinite().sum() == len(model.method.branches.fused)
    reach = shown["Reach of one map row"].values
    assert reach.shape == (4, 4) and reach.max() > 0
    by = shown["Reach of one map row by distance"].values
    assert float(by[0]) == pytest.approx(float(reach[2, 2]))


def test_calibration_confusion_and_mistakes():
    p = torch.tensor([[0.9, 0.1, 0.0], [0.95, 0.05, 0.0], [0.3, 0.7, 0.0], [0.2, 0.2, 0.6]])
    labels = torch.tensor([0, 1, 1, 2])
    counts = analysis.confusion(p, labels)
    assert counts.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert analysis.hardest(counts, 2) == [(1, 0.5, 2, 0), (0, 1.0, 1, 0)]
    assert analysis.confident_mistakes(p, labels) == [1]
    fit = analysis.calibration(p, labels, bins=2)
    assert fit.count.tolist() == [0, 4] and np.isnan(fit.accuracy[0])
    assert fit.error == pytest.approx(abs(0.75 - (0.9 + 0.95 + 0.7 + 0.6) / 4))
    sure = analysis.calibration(torch.eye(3), torch.arange(3))
    assert sure.error == 0 and sure.count[-1] == 3
