"""The contract that every registered method keeps on every backbone family, or is refused by name."""

import pytest
import torch
from families import FAMILIES, backbone_of, images, model_of, pairs

import promptvit

CLASSES = 5


def trained(model, steps=2, lr=0.05):
    """A few real steps; returns the gradient norm of every trainable tensor at the first one."""
    parameters = dict(model.trainable_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=lr)
    target = torch.arange(4) % CLASSES
    first = {}
    for _ in range(steps):
        optimizer.zero_grad()
        model.method.loss(model.outputs(images()), target).backward()
        first = first or {name: None if p.grad is None else float(p.grad.norm()) for name, p in parameters.items()}
        optimizer.step()
        model.method.project()
    return first


RUNS, REFUSED = pairs(FAMILIES)


@pytest.fixture(params=RUNS)
def model(request):
    method, build = request.param
    backbone = backbone_of(build)
    made = model_of(method, backbone, CLASSES)
    made.source, made.build = backbone, build
    return made


@pytest.mark.parametrize("pair", REFUSED)
def test_a_method_is_refused_by_name_where_it_does_not_run(pair):
    method, build = pair
    with pytest.raises(ValueError, match=rf"{method} does not run on swin.*use .*vpt-deep"):
        promptvit.create_model(backbone_of(build), method, CLASSES)


def test_shapes(model):
    assert model(images()).shape == (4, CLASSES)
    assert model(images(1)).shape == (1, CLASSES)
    assert all(logits.shape == (4, CLASSES) for logits in model.outputs(images()))
    predicted = model.predict(images())
    torch.testing.assert_close(predicted.probabilities.sum(-1), torch.ones(4))
    assert predicted.classes == [model.classes[i] for i in predicted.probabilities.argmax(-1)]
    assert model.predict([]).classes == [] and model.predict([]).probabilities.shape == (0, CLASSES)


def test_gradients_reach_exactly_the_trainable_parameters(model):
    gradients = trained(model, steps=1)
    trainable = {name for name, _ in model.trainable_parameters()}
    assert gradients.keys() == trainable
    dead = {name for name, norm in gradients.items() if not norm}
    assert not dead - ALLOWED_DEAD(model), f"no gradient reaches {dead}"
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen)


def ALLOWED_DEAD(model):
    """Weights without influence on the loss by construction."""
    dead = set()
    if model.method.name in ("full", "bias", "partial-1"):
        # a class-token readout never asks the last block's other tokens; unread norms and additive key biases change nothing
        dead |= {n for n, _ in model.trainable_parameters() if n.startswith("backbone.") and ("k_norm" in n or n.endswith("k_bias"))}
        dead |= {"backbone.fc_norm.weight", "backbone.fc_norm.bias", "backbone.norm.weight", "backbone.norm.bias"} - {
            f"backbone.{n}" for n, m in model.backbone.model.named_parameters() if m.grad is not None and float(m.grad.norm())
        }
    if model.method.name == "lora":
        dead |= {n for n, _ in model.trainable_parameters() if "lora_A" in n}  # B starts at zero
    return dead


def test_frozen_weights_are_byte_identical_after_training(model):
    before = {name: tensor.clone() for name, tensor in model.source.state_dict().items()}
    fingerprint = model.source.fingerprint
    learned = {name: p.detach().clone() for name, p in model.trainable_parameters()}
    trained(model)
    for name, tensor in model.source.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert model.source.fingerprint == fingerprint == model.backbone.fingerprint
    assert any(not torch.equal(p, learned[name]) for name, p in model.trainable_parameters())


def test_save_and_load_give_equal_outputs(model, tmp_path):
    trained(model)
    model.eval()
    folder = model.save_pretrained(tmp_path / "adapter", metrics={"accuracy": 0.5})
    again = promptvit.PromptedModel.from_pretrained(folder, backbone=model.source)
    torch.testing.assert_close(again(images()), model(images()), rtol=0, atol=0)
    assert again.classes == model.classes and again.num_trainable == model.num_trainable
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_an_adapter_is_refused_on_another_backbone(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "adapter")
    other = backbone_of(model.build, seed=9)
    with pytest.raises(ValueError) as refused:
        promptvit.PromptedModel.from_pretrained(folder, backbone=other)
    assert model.source.fingerprint[:16] in str(refused.value) and other.fingerprint[:16] in str(refused.value)


def test_same_seed_same_model(model):
    options = {"num_prompts": 4, "seed": 3}
    torch.manual_seed(123)
    a = promptvit.create_model(model.source, model.method.name, CLASSES, **options)
    state = torch.get_rng_state()
    b = promptvit.create_model(model.source, model.method.name, CLASSES, **options)
    assert torch.equal(state, torch.get_rng_state()), "global random state was touched"
    for (name, p), (_, q) in zip(a.trainable_parameters(), b.trainable_parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_batch_equals_its_images_one_by_one(model):
    trained(model)
    model.eval()
    batch = images()
    single = torch.cat([model(batch[i : i + 1]) for i in range(len(batch))])
    torch.testing.assert_close(model(batch), single, rtol=1e-4, atol=1e-5)


def test_generic_path_equals_the_fast_one(model):
    trained(model)
    model.eval()
    fast = model(images())
    with promptvit.reference_path():
        slow = model(images())
    assert (fast - slow).abs().max() <= 1e-5 * slow.abs().max()


def test_prepared_inference_equals_the_live_model_and_is_frozen(model):
    trained(model)
    model.eval()
    expected = model(images()).detach()
    prepared = model.prepare_inference()
    for _ in range(2):  # the second call uses what the first remembered
        torch.testing.assert_close(prepared(images()), expected, rtol=1e-5, atol=1e-5)
    trained(model, lr=1.0)
    torch.testing.assert_close(prepared(images()), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model.eval()(images()), expected)
