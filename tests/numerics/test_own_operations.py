"""Each method's own operations against finite differences: every entry of every Jacobian, in double precision, at tiny sizes.

``tests/contract/test_numbers.py`` does the same for whole methods, along random directions.
"""

from contextlib import nullcontext

import pytest
import torch
from agreement import wrapped
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch.autograd import gradcheck
from torch.func import functional_call

from promptvit import create_model, reference_path
from promptvit.heads.segmentation import PLANS, Decoder
from promptvit.methods.lspt import GRU, LSTM, MLPs
from promptvit.methods.neighbourhood import Neighbourhood
from promptvit.methods.sa2vp import Fusion, PromptMap
from promptvit.methods.vpt import dropped

D, PROMPTS, BATCH = 4, 2, 2
FLAT = {"img_size": 4, "patch_size": 2, "embed_dim": D, "depth": 3, "num_heads": 2, "num_classes": 0, "mlp_ratio": 1}
FAMILIES = {
    "vit": lambda: VisionTransformer(**FLAT, qk_norm=True, init_values=0.5),
    "eva": lambda: Eva(**FLAT | {"num_heads": 1}, use_rot_pos_emb=True, swiglu_mlp=True, ref_feat_shape=(2, 2)),
    "swin": lambda: SwinTransformer(
        img_size=6, patch_size=2, embed_dim=D, depths=(3,), num_heads=(2,), window_size=2, mlp_ratio=1, num_classes=0
    ),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def leaf(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).requires_grad_()


def check(module, *inputs):
    """The Jacobians of ``module(*inputs)`` with respect to the inputs and to the module's weights."""
    names, weights = zip(*module.double().named_parameters(), strict=True)
    count = len(inputs)
    moved = [w.detach() + 0.3 * torch.randn(w.shape, generator=seeded(i), dtype=w.dtype) for i, w in enumerate(weights)]

    def function(*values):
        return functional_call(module, dict(zip(names, values[count:], strict=True)), values[:count])

    assert gradcheck(function, (*inputs, *(w.requires_grad_() for w in moved)))


class TwoSteps(torch.nn.Module):
    """A cell twice: the second step has a state."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, first, second):
        hidden, state = self.cell(first, None)
        return hidden, self.cell(second, state)[0]


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_recurrent_cells(kind, rank):
    check(TwoSteps(kind(D, rank, seeded())), leaf(1, PROMPTS, D), leaf(1, PROMPTS, D, seed=1))


def test_the_control_without_memory():
    check(TwoSteps(MLPs(D, 2, 3, seeded())), leaf(1, PROMPTS, D), leaf(1, PROMPTS, D, seed=1))


def method_of(name, **options):
    return create_model(wrapped(FAMILIES["vit"]()), name, 3, num_prompts=PROMPTS, **options).double().method


class Part(torch.nn.Module):
    """Something that a method computes from its own weights, as a module."""

    def __init__(self, method, function):
        super().__init__()
        self.method, self.function = method, function

    def forward(self, *inputs):
        return self.function(self.method, *inputs)


def test_gates_mix():
    part = Part(method_of("gapt", temperature=1.0), lambda method, out, p: (method.mix(0, out, p), method.mix(1, out, p)))
    check(part, leaf(BATCH, PROMPTS, D), leaf(PROMPTS, D, seed=1))


def test_a_hard_gate_has_the_gradient_of_the_soft_one():
    gradients = []
    for hard in (True, False):
        method = method_of("gapt", hard=hard, gate_init=0.4).eval()
        method.gate(0).backward()
        gradients.append(method.gate_logits.grad)
    torch.testing.assert_close(*gradients)
    assert method_of("gapt", hard=True, gate_init=0.4).eval().gate(0) == 0


def test_temperatures_are_exact_inside_their_range_and_pass_the_gradient_through_outside():
    part = Part(method_of("gapt", temperature_range=(0.5, 2.0)), lambda method: method.temperature(0))

    def temperature(stored):
        return functional_call(part, {"method.temperatures": stored.expand(3)}, ())

    inside, outside = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.3, 3.0))
    assert gradcheck(temperature, (inside,))
    assert not gradcheck(temperature, (outside,), raise_exception=False), "the value stands still, its gradient does not: straight through"
    assert torch.autograd.grad(temperature(outside), outside)[0] == 1


@pytest.mark.parametrize("path", [nullcontext, reference_path])
@pytest.mark.parametrize("want", ["all", "tokens", "prefix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_with_prompts_and_temperatures(family, want, path):
    backbone = wrapped(FAMILIES[family]()).double()
    tokens = backbone.num_prefix_tokens + backbone.grid[0] * backbone.grid[1]

    def block(x, prompts, temperature):
        y, out = backbone.run_block(1, x, prompts, want if backbone.num_prefix_tokens else want.replace("prefix", "tokens"), temperature)
        return y if out is None else (y, out)

    for temperature in (leaf(), leaf(BATCH)):
        positive = (temperature.detach().abs() + 0.5).requires_grad_()
        with path():
            assert gradcheck(block, (leaf(BATCH, tokens, D), leaf(PROMPTS, D, seed=1), positive), fast_mode=want != "all")


def test_projected_prompts():
    check(Part(method_of("vpt-deep", project=3), lambda method: (method.block_prompts(0), method.block_prompts(2))))


def test_prompt_dropout_with_its_mask_held():
    def function(prompts):
        torch.manual_seed(5)
        return dropped(prompts, 0.4, BATCH)

    with torch.random.fork_rng():
        assert gradcheck(function, (leaf(PROMPTS, D),))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("queries", [1, 7])
def test_neighbourhood_attention(padded, queries):
    near = Neighbourhood((2, 3), 1, padded)
    q, k, v = leaf(BATCH, 1, queries, 2), leaf(1, 1, 7, 2, seed=1), leaf(1, 1, 7, 2, seed=2)
    assert gradcheck(near, (q, k, v))
    if queries == 7:
        assert gradcheck(near.plain, (q, k, v))


def test_fusions_and_maps():
    check(Fusion(D, 2, seeded()), leaf(1, 3, D), leaf(BATCH, 3, D, seed=1))
    check(PromptMap(3, 2, D, seeded()))


@pytest.mark.parametrize("head", PLANS)
def test_decoders_with_the_statistics_of_the_batch(head):
    torch.manual_seed(0)
    decoder = Decoder(D, 2, 3, PLANS[head][0], seeded()).double().train()
    tokens = leaf(BATCH, 4, D)
    assert gradcheck(lambda t: decoder(t, (2, 2)), (tokens,), fast_mode=True)


@pytest.mark.parametrize("name", ["vpt-shallow", "vpt-deep", "gapt", "lspt", "sa2vp", "lora", "full"])
def test_recomputed_blocks(name):
    """``memory=low``: what the backward pass computes again."""
    model = create_model(wrapped(FAMILIES["vit"]()), name, 3, num_prompts=PROMPTS).double()
    model.method.low_memory = True
    images = torch.randn(BATCH, 3, 4, 4, generator=seeded(), dtype=torch.float64)
    loss = torch.cat(model.outputs(images)).square().sum()
    loss.backward()
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            if parameter.grad is None:
                continue
            direction = torch.randn(parameter.shape, generator=seeded(1), dtype=torch.float64)
            sides = []
            for sign in (1, -1):
                parameter += sign * 1e-5 * direction
                sides.append(torch.cat(model.outputs(images)).square().sum())
                parameter -= sign * 1e-5 * direction
            torch.testing.assert_close((sides[0] - sides[1]) / 2e-5, (parameter.grad * direction).sum(), rtol=1e-3, atol=1e-6)
