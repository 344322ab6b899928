"""LSPT's switches: without both codings it is GaPT; each coding does what its equation says."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from promptvit import create_model
from promptvit.backbones.families import wrap
from promptvit.methods.lspt import GRU, LSTM
from promptvit.preprocessing import Preprocessing

D, DEPTH, PROMPTS = 32, 3, 4


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=D, depth=DEPTH, num_heads=2, num_classes=0)
    return wrap(vit, name="tiny", preprocessing=Preprocessing(size=(32, 32)), is_mae=True)


def model_of(backbone, method, **options):
    return create_model(backbone, method, 3, num_prompts=PROMPTS, seed=7, **options)


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_without_both_codings_it_is_gapt_bit_for_bit(backbone):
    gapt = model_of(backbone, "gapt", gate_init=1.5)
    lspt = model_of(backbone, "lspt", spatial=False, cell="none", gate_init=1.5)
    assert dict(lspt.trainable_parameters()).keys() == dict(gapt.trainable_parameters()).keys()
    outputs = []
    for model in (gapt, lspt):
        logits = model(IMAGES)
        model.method.loss((logits,), torch.tensor([0, 1])).backward()
        outputs.append((logits, {name: p.grad for name, p in model.trainable_parameters()}))
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert all(torch.equal(grad, outputs[1][1][name]) for name, grad in outputs[0][1].items())


@pytest.mark.parametrize(("kind", "reference"), [(LSTM, torch.nn.LSTM), (GRU, torch.nn.GRU)])
def test_cell_equals_torchs_own(kind, reference):
    cell = kind(D, None, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(cell.from_input.bias, generator=torch.Generator().manual_seed(1))
    theirs = reference(D, D)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(cell.from_input.weight)
        theirs.weight_hh_l0.copy_(cell.from_hidden.weight)
        theirs.bias_ih_l0.copy_(cell.from_input.bias)
        theirs.bias_hh_l0.zero_()
    sequence = torch.randn(5, 6, D, generator=torch.Generator().manual_seed(2))  # time, batch, width
    expected, _ = theirs(sequence)
    state, hidden = None, []
    for u in sequence:
        h, state = cell(u[None], state)
        hidden.append(h[0])
    torch.testing.assert_close(torch.stack(hidden), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, 8 * D * D + 4 * D),
        ({"rank": 2}, 10 * D * 2 + 4 * D),
        ({"cell": "gru"}, 6 * D * D + 3 * D),
        ({"cell": "gru", "rank": 2}, 8 * D * 2 + 3 * D),
        ({"cell": "none"}, 0),
    ],
)
def test_trained_weights_by_formula(backbone, options, weights):
    model = model_of(backbone, "lspt", **options)
    head = 3 * D + 3
    assert model.num_trainable == PROMPTS * D + (DEPTH - 1) + DEPTH + weights + head


def test_spatial_coding_adds_the_mean_patch_token(backbone):
    """With open gates and no cell, block 2 receives block 1's output prompts plus the mean of its output patches."""
    model = model_of(backbone, "lspt", cell="none", gates="none")
    seen = {}
    model.method(backbone, IMAGES, observe=lambda i, x, p, y, out: seen.update({i: (x, p, y, out)}))
    _, _, tokens, out = seen[0]
    _, entering, _, _ = seen[1]
    torch.testing.assert_close(entering, out + tokens[:, 1:].mean(dim=1, keepdim=True))


def test_every_switch_changes_the_result_and_trains(backbone):
    base = model_of(backbone, "lspt")(IMAGES)
    for options in ({"spatial": False}, {"cell": "none"}, {"cell": "gru"}, {"residual": False}, {"gates": "none"}, {"gate_init": 5.0}):
        model = model_of(backbone, "lspt", **options)
        logits = model(IMAGES)
        assert not torch.allclose(logits, base, atol=1e-6), options
        logits.sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for _, p in model.trainable_parameters()), options


def test_result_names_the_reading(backbone):
    assert model_of(backbone, "lspt").method.reading == "v1"
    assert model_of(backbone, "gapt").method.reading is None


def test_mlp_control_is_as_large_as_the_lstm_and_has_no_memory(backbone):
    def weights(**options):
        return sum(p.numel() for name, p in model_of(backbone, "lspt", **options).trainable_parameters() if "cell" in name and p.ndim == 2)

    assert weights(cell="mlp") == weights(cell="lstm") == 8 * D * D
    assert weights(cell="mlp", rank=3) == (DEPTH - 1) * 2 * D * 3
    cell = model_of(backbone, "lspt", cell="mlp").method.cell
    u = torch.randn(2, PROMPTS, D, generator=torch.Generator().manual_seed(3))
    first, count = cell(u, None)
    second, _ = cell(u, count)
    assert torch.equal(first, cell(u, None)[0])
    assert not torch.allclose(first, second), "each block has an MLP of its own"
    assert len(cell.blocks) == DEPTH - 1
