"""The numbers that every registered method gives: gradients, low precision, odd sizes, and what they may depend on."""

import math

import pytest
import torch
from families import FAMILIES, backbone_of, eva_rotary, images, model_of, pairs, swin, vit_class_token, vit_registers_no_class_token
from torch import nn
from torch.func import functional_call

from promptvit import reference_path
from promptvit.methods import method_class
from promptvit.training import resolve
from promptvit.training.optimization import build_optimizer

CLASSES = 5
RUNS, _ = pairs(FAMILIES)
ON_ONE_FAMILY, _ = pairs([vit_class_token])
OF_EVERY_KIND, _ = pairs([vit_registers_no_class_token, eva_rotary, swin])


def created(pair, classes=CLASSES, **options):
    method, build = pair
    return model_of(method, backbone_of(build), classes, **options)


@pytest.fixture(params=RUNS)
def pair(request):
    return request.param


@pytest.fixture
def model(pair):
    return created(pair)


def losses(model, inputs, steps=4, precision=None):
    """Of a few steps of the optimiser that a run has, on one batch; the method's own learning rate."""
    name = model.method.name
    optimizer = build_optimizer(model, resolve(backbone="tiny", data="digits", method=name, out="nowhere"))
    target = torch.arange(len(inputs)) % len(model.classes)
    found = []
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision is not None):
            loss = model.loss(model.outputs(inputs), target)
        loss.backward()
        optimizer.step()
        model.method.project()
        found.append(loss.item())
    return found


def learned(model):
    return {name: tensor.detach().clone() for name, tensor in model.learned().items()}


def assert_finite(model):
    assert all(torch.isfinite(tensor).all() for tensor in learned(model).values())


class Branches(nn.Module):
    """``model.outputs`` as a module, so that it can be called with other weights."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return torch.cat(self.model.outputs(inputs))


@pytest.mark.parametrize("pair", OF_EVERY_KIND)
def test_gradients_are_those_of_finite_differences(model):
    """In double precision, along a random direction of each of the method's tensors, and one of head and backbone together."""
    losses(model, images())
    branches, inputs = Branches(model.double().eval()), images(2).double()
    learning = {name: p for name, p in branches.named_parameters() if p.requires_grad}
    own = [name for name in learning if name.startswith("model.method.")]
    rest = [name for name in learning if name not in own]

    def logits(together, *values):
        parts = together.split([learning[name].numel() for name in rest])
        weights = {name: part.view_as(learning[name]) for name, part in zip(rest, parts, strict=True)}
        return functional_call(branches, weights | dict(zip(own, values, strict=True)), (inputs,))

    together = nn.utils.parameters_to_vector(learning[name] for name in rest).detach().requires_grad_()
    assert torch.autograd.gradcheck(logits, (together, *(learning[name] for name in own)), fast_mode=True, check_undefined_grad=False)


def test_trains_in_bfloat16_also_from_images_far_out_of_range(model):
    for size in (1.0, 1e4):
        found = losses(model, size * images(), precision=torch.bfloat16)
        assert all(map(math.isfinite, found)) and found[-1] < found[0]
        assert_finite(model)


def test_the_same_seed_gives_the_same_bits(pair):
    model = created(pair)
    torch.rand(7)  # the global random state has no say
    again = created(pair)
    assert losses(model, images()) == losses(again, images())
    ours, theirs = learned(model), learned(again)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    model.eval()
    assert torch.equal(model(images()), model(images()))


def test_neighbours_in_a_batch_change_no_bit(model):
    """Not even if they are no numbers. (Another size of the batch may: sums are then ordered otherwise.)"""
    model.eval()
    batch = images()
    before = model(batch)
    for neighbour in (images(1, seed=7), images(1) * 1e6, torch.full_like(batch[:1], float("nan"))):
        batch[2:3] = neighbour
        after = model(batch)
        assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]])
        assert not torch.equal(after[2], before[2])


def test_a_batch_of_one_trains(model):
    found = losses(model, images(1))
    assert all(map(math.isfinite, found)) and found[-1] < found[0]
    assert_finite(model)


@pytest.mark.parametrize("prompts", [1, 120])
@pytest.mark.parametrize("pair", [pair for pair in RUNS if method_class(pair.values[0][0]).prompted])
def test_one_prompt_and_very_many(pair, prompts):
    model = created(pair, prompts=prompts)
    assert all(map(math.isfinite, losses(model, images())))
    assert_finite(model)
    model.eval()
    fast = model(images())
    with reference_path():
        slow = model(images())
    assert (fast - slow).abs().max() <= 1e-5 * slow.abs().max()


@pytest.mark.parametrize("pair", ON_ONE_FAMILY)
def test_one_class_and_very_many(pair):
    one = created(pair, classes=1)
    assert losses(one, images()) == [0.0] * 4, "nothing is left to learn"
    assert_finite(one)
    many = created(pair, classes=10_000)
    found = losses(many, images())
    assert found[0] == pytest.approx(math.log(10_000), rel=0.2) and found[-1] < found[0]
    assert_finite(many)


def test_the_order_of_prompts_does_not_matter(model):
    """Each block's prompts in an order of their own: tokens without positions."""
    losses(model, images())
    model.eval()
    before = model(images())
    generator = torch.Generator().manual_seed(0)
    moved = [tensor for name, tensor in model.method.named_parameters() if name.startswith("prompts")]
    assert bool(moved) == model.method.prompted
    for tensor in moved:
        rows = tensor.detach().view(-1, *tensor.shape[-2:])
        tensor.data = torch.stack([row[torch.randperm(len(row), generator=generator)] for row in rows]).view_as(tensor)
    torch.testing.assert_close(model(images()), before, rtol=1e-4, atol=1e-5)
