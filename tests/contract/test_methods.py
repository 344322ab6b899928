"""The contract that every registered method keeps on every backbone family, or is refused by name."""

import math

import pytest
import torch
from timm.models.eva import Eva as TimmEva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

import promptvit
from promptvit.backbones.families import wrap
from promptvit.methods import method_class
from promptvit.preprocessing import Preprocessing

SIZE, CLASSES = 32, 5
FLAT = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}


def vit_class_token():
    return VisionTransformer(**FLAT), {}


def vit_registers_no_class_token():
    return VisionTransformer(**FLAT, class_token=False, reg_tokens=2, global_pool="avg", qk_norm=True, init_values=0.5), {}


def mae_mean_pool():
    return VisionTransformer(**FLAT), {"is_mae": True}


def eva_rotary():
    return TimmEva(**FLAT, use_rot_pos_emb=True, swiglu_mlp=True, num_reg_tokens=2, init_values=0.5, ref_feat_shape=(4, 4)), {}


def swin():
    return SwinTransformer(img_size=SIZE, patch_size=2, embed_dim=16, depths=(1, 2), num_heads=(2, 2), window_size=4, num_classes=0), {}


FAMILIES = [vit_class_token, vit_registers_no_class_token, mae_mean_pool, eva_rotary, swin]


def backbone_of(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, facts = build()
        for parameter in model.parameters():  # far from the initial near-identity, so that faults show
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return wrap(model, name=build.__name__, preprocessing=Preprocessing(size=(SIZE, SIZE)), **facts)


def images(batch=4, seed=1):
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


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


def pairs():
    """(method, family) that run, and those that are refused."""
    runs, refused = [], []
    for build in FAMILIES:
        kind = backbone_of(build).family
        for method in promptvit.list_methods():
            (runs if kind in method_class(method).families else refused).append(
                pytest.param((method, build), id=f"{method}-{build.__name__}")
            )
    return runs, refused


RUNS, REFUSED = pairs()


@pytest.fixture(params=RUNS)
def model(request):
    method, build = request.param
    backbone = backbone_of(build)
    made = promptvit.create_model(backbone, method, CLASSES, num_prompts=4, seed=3)
    if made.method.needs_data:
        made.method.initialize(made.backbone, [images(8)], torch.Generator().manual_seed(0))
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


def test_order_of_prompts_does_not_matter(model):
    model.eval()
    before = model(images())
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    for name, tensor in model.method.named_parameters():
        if name.startswith("prompts"):
            assert tensor.shape[-2] == 4
            tensor.data = tensor.data[..., order, :]
    torch.testing.assert_close(model(images()), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", FAMILIES, ids=lambda build: build.__name__)
@pytest.mark.parametrize("classes", [1, 10_000])
def test_one_class_and_very_many(build, classes):
    model = promptvit.create_model(backbone_of(build), "vpt-deep", classes, num_prompts=2)
    assert model(images()).shape == (4, classes)
    assert math.isfinite(model.method.loss(model.outputs(images()), torch.zeros(4, dtype=torch.long)).item())
