"""Every method compiles without a graph break, runs under bfloat16 autocast, and can trade memory for time."""

import pytest
import torch
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

import promptvit
from promptvit.backbones.families import wrap
from promptvit.methods import method_class
from promptvit.preprocessing import Preprocessing

FLAT = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
MODELS = {
    "vit": lambda: VisionTransformer(**FLAT),
    "eva": lambda: Eva(**FLAT, use_rot_pos_emb=True, swiglu_mlp=True, num_reg_tokens=1, ref_feat_shape=(2, 2)),
    "swin": lambda: SwinTransformer(img_size=16, patch_size=2, embed_dim=16, depths=(1, 2), num_heads=(2, 2), window_size=4, num_classes=0),
}
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
TARGET = torch.tensor([0, 2, 1])


def spread(model):
    """Weights far from a near-identity start, so that differences show."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


PAIRS = [(method, kind) for kind in MODELS for method in promptvit.list_methods() if kind in method_class(method).families]


def create(method, kind, **options):
    backbone = wrap(spread(MODELS[kind]()), name=kind, preprocessing=Preprocessing(size=(16, 16)))
    return promptvit.create_model(backbone, method, 4, num_prompts=3, **options).train()


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(pair))
def model(request):
    return create(*request.param)


def step(model, forward=None):
    """Logits of every branch and the gradient of everything that learns."""
    torch.manual_seed(7)
    outputs = (model.outputs if forward is None else forward)(IMAGES)
    names, parameters = zip(*model.trainable_parameters(), strict=True)
    gradients = torch.autograd.grad(model.method.loss(outputs, TARGET), parameters, allow_unused=True)
    return [t.detach().float() for t in outputs], dict(zip(names, gradients, strict=True))


def assert_equal(found, expected, tolerance):
    for a, b in zip(found[0], expected[0], strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()
    for name, gradient in expected[1].items():
        if gradient is None:
            assert found[1][name] is None, name
            continue
        assert (found[1][name] - gradient).abs().max() <= tolerance * gradient.abs().max() + 1e-6, name


@pytest.mark.filterwarnings("ignore")
def test_compiles_whole(model):
    torch._dynamo.reset()
    expected = step(model)
    assert_equal(step(model, torch.compile(model.outputs, backend="aot_eager", fullgraph=True)), expected, 1e-5)


@pytest.mark.filterwarnings("ignore")
def test_the_model_itself_compiles_whole():
    torch._dynamo.reset()
    model = create("lspt", "vit")
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)


def test_bfloat16_autocast_is_close_to_float32(model):
    expected = step(model)[0]
    with torch.autocast("cpu", torch.bfloat16):
        outputs, gradients = step(model)
    for a, b in zip(outputs, expected, strict=True):
        assert torch.isfinite(a).all() and (a - b).abs().max() <= 0.1 * b.abs().max()
    assert all(torch.isfinite(g).all() for g in gradients.values() if g is not None)


def test_low_memory_gives_the_same_numbers(model):
    expected = step(model)
    model.method.low_memory = True
    assert_equal(step(model), expected, 1e-6)


@pytest.mark.parametrize(("method", "options"), [("vpt-deep", {}), ("gapt", {"hard": True}), ("lora", {})])
def test_low_memory_is_exact_with_dropout(method, options):
    model = create(method, "vit", dropout=0.5, **options)
    expected = step(model)
    model.method.low_memory = True
    assert_equal(step(model), expected, 1e-6)


def saved(model):
    """Bytes of the tensors that a step keeps, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.method.loss(model.outputs(IMAGES), TARGET)
    return sum(storage.nbytes() for address, storage in found.items() if address not in own)


@pytest.mark.parametrize("method", ["vpt-deep", "vpt-shallow", "gapt", "lspt", "sa2vp", "full"])
def test_low_memory_keeps_less(method):
    model = create(method, "vit")
    normal = saved(model)
    model.method.low_memory = True
    assert saved(model) < 0.6 * normal
