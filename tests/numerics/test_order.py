"""What follows an order and what does not. That logits do not depend on the order of prompts is in the contract."""

import pytest
import torch
from families import backbone_of, images, mae_mean_pool, model_of, swin, vit_class_token

ORDER = torch.tensor([2, 0, 3, 1])
LSPTS = [("lspt", {"cell": cell}) for cell in ("lstm", "gru", "mlp", "none")]
FLOWING = [(*pair, mae_mean_pool) for pair in (("vpt-shallow", {}), ("gapt", {}), ("lspt", {"rank": 2}), *LSPTS)]


def leaving(model):
    """Prompts ``[B, T, D]`` that leave each block."""
    found = []
    model.method(model.backbone, images(), observe=lambda i, x, p, y, out: found.append(out.detach()))
    return found


@pytest.mark.parametrize(("method", "options", "build"), [*FLOWING, ("vpt-shallow", {}, swin)])
def test_prompts_in_other_places_leave_every_block_in_those_places(method, options, build):
    model = model_of(method, backbone_of(build), **options).eval()
    before = leaving(model)
    for name, tensor in model.method.named_parameters():
        if name.startswith("prompts"):
            tensor.data = tensor.data[..., ORDER, :]
    for ours, theirs in zip(leaving(model), before, strict=True):
        torch.testing.assert_close(ours, theirs[:, ORDER], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2), "the prompts are alike, so nothing was tested"


def test_prompt_dropout_is_bound_to_places():
    """The one exception: in training, a mask falls on places, not on prompts."""
    model = model_of("vpt-shallow", backbone_of(vit_class_token), dropout=0.5).train()
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(model(images()).detach())
        model.method.prompts[0].data = model.method.prompts[0].data[..., ORDER, :]
    assert not torch.allclose(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("build", [vit_class_token, swin])
def test_the_rows_of_sa2vps_map_are_bound_to_their_places(build):
    """They are no prompts: each lies over its patch."""
    model = model_of("sa2vp", backbone_of(build), scale=1.0).eval()
    rows = model.method.map.rows
    rows.data = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    before = model(images())
    rows.data = rows.data.roll(1, dims=0)
    assert (model(images()) - before).abs().max() > 1e-3 * before.abs().max()


@pytest.mark.parametrize(("method", "build"), [("vpt-deep", vit_class_token), ("sa2vp", vit_class_token), ("vpt-deep", swin)])
def test_images_in_another_order_get_their_logits_in_that_order(method, build):
    model = model_of(method, backbone_of(build)).eval()
    torch.testing.assert_close(model(images()[ORDER]), model(images())[ORDER], rtol=1e-5, atol=1e-6)
