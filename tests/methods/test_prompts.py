"""VPT's variants, GaPT's gates and temperatures, prompt starts, and sizes on ViT-B/16."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

from promptvit import create_model, load_backbone
from promptvit.backbones.families import wrap
from promptvit.methods.init import Reservoir, authors_windows, uniform
from promptvit.preprocessing import Preprocessing

D, DEPTH, PROMPTS = 32, 4, 3
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=D, depth=DEPTH, num_heads=2, num_classes=0)
    return wrap(vit, name="tiny", preprocessing=Preprocessing(size=(32, 32)))


def watched(model):
    """What entered and left every block: {block: (prompts in, prompts out)}."""
    seen = {}
    model.eval()
    model.method(model.backbone, IMAGES, observe=lambda i, x, p, y, out: seen.update({i: (p, out)}))
    return seen


@pytest.mark.parametrize(
    ("options", "with_prompts", "fresh"),
    [
        ({}, {0, 1, 2, 3}, {0, 1, 2, 3}),
        ({"first": 2}, {0, 1, 2, 3}, {0, 1}),
        ({"first": 2, "beyond": "remove"}, {0, 1}, {0, 1}),
        ({"last": 2}, {2, 3}, {2, 3}),
        ({"shared": True}, {0, 1, 2, 3}, {0, 1, 2, 3}),
        ({"project": 5}, {0, 1, 2, 3}, {0, 1, 2, 3}),
    ],
)
def test_which_blocks_see_prompts_and_which_get_fresh_ones(backbone, options, with_prompts, fresh):
    model = create_model(backbone, "vpt-deep", 3, num_prompts=PROMPTS, **options)
    seen = watched(model)
    assert {i for i, (p, _) in seen.items() if p is not None} == with_prompts
    for i in with_prompts - fresh:
        assert torch.equal(seen[i][0], seen[i - 1][1]), "an ordinary token flows on"
    for i in fresh:
        assert torch.equal(seen[i][0], model.method.block_prompts(i))


def test_insert_at(backbone):
    seen = watched(create_model(backbone, "vpt-shallow", 3, num_prompts=PROMPTS, insert_at=2))
    assert seen[0][0] is None and seen[1][0] is None
    assert torch.equal(seen[3][0], seen[2][1])


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("vpt-shallow", {"insert_at": 4}, "blocks are 0 to 3, got 4"),
        ("vpt-deep", {"first": 9}, "4 blocks, got 9"),
        ("vpt-deep", {"first": 1, "last": 1}, "not both"),
        ("vpt-deep", {"num_promts": 3}, "did you mean num_prompts"),
        ("vpt-deep", {"num_prompts": 0}, "num_prompts.*greater than or equal to 1; got 0"),
        ("vpt-depe", {}, "did you mean vpt-deep"),
        ("partial-9", {}, "4 blocks, got K = 9"),
        ("gapt", {"pool": "clas"}, "did you mean cls"),
    ],
)
def test_bad_options_are_named(backbone, method, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        create_model(backbone, method, 3, **options)
    assert "\n" not in str(refused.value)


def test_gates_start_at_minus_the_magnitude_and_mix(backbone):
    model = create_model(backbone, "gapt", 3, num_prompts=PROMPTS, gate_init=2.0, temperature=1.0)
    g = torch.sigmoid(torch.tensor(-2.0))
    seen = watched(model)
    for i in range(DEPTH - 1):
        before, out = seen[i]
        torch.testing.assert_close(seen[i + 1][0], g * out + (1 - g) * before)


def test_temperature_is_clamped_forward_with_a_straight_gradient_and_projected_after(backbone):
    model = create_model(backbone, "gapt", 3, num_prompts=PROMPTS, temperature_range=(0.5, 2.0))
    model.method.temperatures.data = torch.tensor([0.1, 1.0, 1.0, 9.0])
    clamped = create_model(backbone, "gapt", 3, num_prompts=PROMPTS, temperature_range=(0.5, 2.0))
    clamped.method.temperatures.data = torch.tensor([0.5, 1.0, 1.0, 2.0])
    for m in (model, clamped):
        m(IMAGES).square().sum().backward()
    torch.testing.assert_close(model(IMAGES), clamped(IMAGES))
    torch.testing.assert_close(model.method.temperatures.grad, clamped.method.temperatures.grad)
    assert model.method.temperatures.grad[0].abs() > 0
    assert model.method.temperatures.tolist()[0] == pytest.approx(0.1)
    model.method.project()
    assert model.method.temperatures.tolist() == [0.5, 1.0, 1.0, 2.0]


def test_hard_gates_are_zero_or_one_and_still_learn(backbone):
    model = create_model(backbone, "gapt", 3, num_prompts=PROMPTS, hard=True, gate_init=0.0)
    torch.manual_seed(0)
    model.train()
    values = {float(model.method.gate(0).detach()) for _ in range(20)}
    assert values == {0.0, 1.0}
    model(IMAGES).sum().backward()
    assert model.method.gate_logits.grad.abs().sum() > 0
    model.eval()
    assert model.method.gate(0).item() == model.method.gate(0).item()


def test_prompt_dropout_acts_per_image_and_only_in_training(backbone):
    model = create_model(backbone, "vpt-shallow", 3, num_prompts=PROMPTS, dropout=0.5)
    twice = IMAGES[:1].expand(2, -1, -1, -1)
    model.train()
    logits = model(twice)
    assert not torch.allclose(logits[0], logits[1])
    model.eval()
    logits = model(twice)
    torch.testing.assert_close(logits[0], logits[1])


def test_uniform_bound():
    values = uniform(200, 50, patch=(4, 4), generator=torch.Generator().manual_seed(0))
    bound = math.sqrt(6 / (3 * 16 + 50))
    assert values.abs().max() <= bound and values.abs().max() > 0.99 * bound and values.mean().abs() < 0.01


@pytest.mark.parametrize("method", ["spt-shallow", "spt-deep"])
def test_random_prototypes_are_tokens_of_the_data(backbone, method):
    model = create_model(backbone, method, 3, num_prompts=PROMPTS)
    model.method.initialize(backbone, [IMAGES], torch.Generator().manual_seed(0))
    x = backbone.embed(IMAGES)
    for i in sorted(model.method.fresh):
        tokens = backbone.patchify(IMAGES) if i == 0 else x[:, 1:]
        distance = torch.cdist(model.method.block_prompts(i), tokens.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
        assert distance.max() < 1e-5, f"block {i}"
        x, _ = backbone.run_block(i, x)


@pytest.mark.parametrize("kind", ["random", "kmeans", "mean", "max"])
@pytest.mark.parametrize("method", ["spt-deep", "gapt", "lspt"])
def test_every_start_serves_every_flow(backbone, method, kind):
    model = create_model(backbone, method, 3, num_prompts=PROMPTS, init=kind)
    before = [p.clone() for _, p in model.trainable_parameters()]
    chunks = [IMAGES, IMAGES.flip(0)]
    model.method.initialize(backbone, iter(chunks), torch.Generator().manual_seed(0))
    assert any(not torch.equal(p, q) for (_, p), q in zip(model.trainable_parameters(), before, strict=True))
    again = create_model(backbone, method, 3, num_prompts=PROMPTS, init=kind)
    again.method.initialize(backbone, iter(chunks), torch.Generator().manual_seed(0))
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(model.trainable_parameters(), again.trainable_parameters(), strict=True))


def test_too_many_prompts_for_the_tokens_is_an_error(backbone):
    model = create_model(backbone, "spt-shallow", 3, num_prompts=100)
    with pytest.raises(ValueError, match="100 prompts cannot start from 32 tokens"):
        model.method.initialize(backbone, [IMAGES], torch.Generator().manual_seed(0))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 10**6))
def test_reservoir_keeps_distinct_rows_of_the_stream_in_bounded_memory(count, chunks, seed):
    reservoir = Reservoir(count, torch.Generator().manual_seed(seed))
    start = 0
    for size in chunks:
        reservoir.see(torch.arange(start, start + size, dtype=torch.float32).view(1, size, 1))
        start += size
        assert len(reservoir.rows) <= count
    kept = reservoir.rows.flatten().tolist()
    assert len(set(kept)) == len(kept) == min(count, start) and set(kept) <= set(range(start))


def test_reservoir_is_uniform():
    counts = torch.zeros(10)
    for seed in range(2000):
        reservoir = Reservoir(2, torch.Generator().manual_seed(seed))
        for chunk in torch.arange(10.0).view(5, 1, 2, 1):
            reservoir.see(chunk)
        counts[reservoir.rows.flatten().long()] += 1
    assert (counts / 2000 - 0.2).abs().max() < 0.05


def test_authors_windows_keep_their_slip():
    tokens = torch.arange(8.0).view(1, 8, 1)
    assert authors_windows(tokens, 5, "mean").flatten().tolist() == [0.5, 2.5, 4.5, 6.5, 3.5]  # no rest: the last pools all
    assert authors_windows(tokens, 4, "max").flatten().tolist() == [1.0, 3.0, 5.0, 7.0]  # rest of two


@pytest.mark.parametrize("prompts", [10])
def test_sizes_on_vit_b16(prompts, tmp_path):
    backbone = load_backbone("vit_base_patch16_224", pretrained=False)
    width, depth, classes = 768, 12, 100
    head = width * classes + classes
    flow = prompts * width
    expected = {
        "linear": 0,
        "vpt-shallow": flow,
        "vpt-deep": depth * flow,
        "spt-deep": depth * flow,
        "gapt": flow + 2 * depth - 1,
        "lspt": flow + 2 * depth - 1 + 8 * width**2 + 4 * width,
    }
    for method, weights in expected.items():
        model = create_model(backbone, method, classes, num_prompts=prompts)
        assert model.num_trainable == weights + head, method
        assert model.num_total == 85_798_656 + weights + head
    folder = create_model(backbone, "vpt-deep", classes, num_prompts=prompts).save_pretrained(tmp_path)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 0.75e6
