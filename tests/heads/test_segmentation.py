"""Every segmentation head with every method on every flat family: shapes, gradients, what stays frozen, what an adapter carries."""

import json

import pytest
import torch
from timm.models.eva import Eva as TimmEva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

import promptvit
from promptvit.adapter import CONFIG, WEIGHTS
from promptvit.backbones.families import wrap
from promptvit.heads.segmentation import PLANS, Decoder, Plan, default_blocks, pixel_cross_entropy, resized
from promptvit.heads.windows import Inference, masks, scores
from promptvit.methods import method_class
from promptvit.preprocessing import Preprocessing
from promptvit.segmentation import SegmentationModel

SIZE, CLASSES, CHANNELS = 32, 5, 8
FLAT = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 0}
METHODS = [name for name in promptvit.list_methods() if "vit" in method_class(name).families]
PROMPTED = [name for name in METHODS if method_class(name).prompted or name == "sa2vp"]


def vit():
    return VisionTransformer(**FLAT), {}


def mae_with_registers():
    return VisionTransformer(**FLAT, class_token=False, reg_tokens=2, global_pool="avg"), {"is_mae": True}


def eva():
    return TimmEva(**FLAT, use_rot_pos_emb=True, swiglu_mlp=True, num_reg_tokens=2, ref_feat_shape=(4, 4)), {}


def backbone_of(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, facts = build()
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return wrap(model, name=build.__name__, preprocessing=Preprocessing(size=(SIZE, SIZE)), **facts)


def create(build, method, head, **options):
    options = {"num_prompts": 4, "seed": 3, "head_options": {"channels": CHANNELS} if PLANS[head][0].stages else None} | options
    model = promptvit.create_model(backbone_of(build), method, CLASSES, head=head, **options)
    if model.method.needs_data:
        model.method.initialize(model.backbone, [images(8)], torch.Generator().manual_seed(0))
    return model


def images(batch=2, size=(SIZE, SIZE), seed=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def truth(batch=2, size=(SIZE, SIZE), seed=2):
    mask = torch.randint(0, CLASSES, (batch, *size), generator=torch.Generator().manual_seed(seed))
    mask[:, :3] = 255
    return mask


def train(model, steps=2, lr=0.05):
    model.train()
    parameters = dict(model.trainable_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=lr)
    first = {}
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(model.outputs(images()), truth()).backward()
        first = first or {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in parameters.items()}
        optimizer.step()
        model.method.project()
    return first


# Every head, method and family


@pytest.mark.parametrize("build", [vit, mae_with_registers, eva], ids=lambda build: build.__name__)
@pytest.mark.parametrize("head", PLANS)
@pytest.mark.parametrize("method", METHODS)
def test_shapes_and_gradients(method, head, build):
    model = create(build, method, head)
    assert isinstance(model, SegmentationModel)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    gradients = train(model, steps=1)
    outputs = model.outputs(images())
    assert [tuple(logits.shape) for logits in outputs] == [(2, CLASSES, SIZE, SIZE)] * len(model.head.taps)
    dead = {name for name, norm in gradients.items() if not norm and name.startswith(("head.", "method."))}
    assert not dead, f"no gradient reaches {dead}"
    frozen = {name for name, p in model.backbone.named_parameters() if not p.requires_grad}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items() if name in frozen)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("build", [vit, mae_with_registers, eva], ids=lambda build: build.__name__)
@pytest.mark.parametrize("method", PROMPTED)
def test_the_fast_path_reads_what_the_black_box_leaves(method, build):
    """The textbook pass puts prompts between prefix and patches; the head must see the patches only, in their order."""
    model = create(build, method, "setr-pup").eval()
    fast = model.outputs(images())
    with promptvit.reference_path():
        slow = model.outputs(images())
    for a, b in zip(fast, slow, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_taps_hold_patches_only():
    model = create(mae_with_registers, "gapt", "linear-seg").eval()
    seen = {}
    model.method(model.backbone, images(), observe=lambda i, x, p, y, out: seen.update({i: y}))
    tokens, grid = model._patch_tokens(images(), (1, 3))
    assert grid == (4, 4) and tokens.keys() == {1, 3}
    for i, found in tokens.items():
        torch.testing.assert_close(found, seen[i][:, 2:], rtol=1e-5, atol=1e-5)


def test_patches_stay_in_their_place():
    """A decoder that copies one channel gives back the grid row by row."""
    decoder = Decoder(2, 1, 1, Plan(0), torch.Generator())
    decoder.norm = torch.nn.Identity()
    decoder.norm.weight = torch.zeros(1)
    decoder.classify.weight.data = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    tokens = torch.stack([torch.arange(6.0), torch.zeros(6)], dim=-1)[None]
    assert torch.equal(decoder(tokens, (2, 3))[0, 0], torch.arange(6.0).view(2, 3))


# Decoders


@pytest.mark.parametrize(("head", "side"), [("setr-pup", 8), ("setr-naive", 1), ("linear-seg", 1)])
def test_decoder_resolution(head, side):
    model = create(vit, "linear", head)
    tokens = {i: torch.randn(1, 16, 32) for i in model.head.taps}
    main, *auxiliary = model.head.outputs(tokens, (4, 4))
    assert main.shape == (1, CLASSES, 4 * side, 4 * side)
    assert [a.shape[-1] for a in auxiliary] == {"setr-pup": [16], "setr-naive": [4], "linear-seg": []}[head]


def test_classifying_before_the_last_upsampling_is_the_authors_order():
    decoder = Decoder(6, 7, 3, Plan(4, kernel=3, scale=2), torch.Generator().manual_seed(0)).double().eval()
    tokens = torch.randn(2, 12, 6, dtype=torch.float64)
    x = decoder.norm(tokens).transpose(1, 2).unflatten(2, (3, 4))
    for convolve in decoder.stages:
        x = F.interpolate(convolve(x), scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized(decoder(tokens, (3, 4)), (48, 64)), decoder.classify(x))


@pytest.mark.parametrize(
    ("depth", "blocks"), [(12, (5, 9)), (24, (9, 14, 19)), (32, (12, 19, 25)), (6, (2, 4)), (4, (2,)), (3, (1,)), (2, ()), (1, ())]
)
def test_default_blocks(depth, blocks):
    assert default_blocks(depth) == blocks


def test_chosen_blocks_and_weight():
    model = create(vit, "linear", "setr-naive", head_options={"channels": 4, "aux_blocks": (0, 2), "aux_weight": 0.25})
    assert model.head.taps == (0, 2, 3)
    main, first, second = outputs = model.outputs(images())
    expected = pixel_cross_entropy(main, truth()) + 0.25 * (pixel_cross_entropy(first, truth()) + pixel_cross_entropy(second, truth()))
    torch.testing.assert_close(model.loss(outputs, truth()), expected)
    assert create(vit, "linear", "linear-seg", head_options={"aux_blocks": (1,)}).head.taps == (1, 3)


def test_loss_counts_the_pixels_that_count():
    logits, target = torch.randn(2, CLASSES, 8, 8, dtype=torch.float32), truth(size=(8, 8))
    torch.testing.assert_close(pixel_cross_entropy(logits, target), F.cross_entropy(logits, target, ignore_index=255))
    larger = truth(size=(16, 16))
    expected = F.cross_entropy(F.interpolate(logits, (16, 16), mode="bilinear"), larger, ignore_index=255)
    torch.testing.assert_close(pixel_cross_entropy(logits, larger), expected)


def test_a_mask_of_ignored_pixels_changes_nothing():
    model = create(vit, "gapt", "setr-pup").train()
    loss = model.loss(model.outputs(images()), torch.full((2, SIZE, SIZE), 255))
    loss.backward()
    assert loss == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters())


# Sizes


@pytest.mark.parametrize("size", [(32, 32), (40, 64), (29, 50), (7, 100)])
@pytest.mark.parametrize("build", [vit, eva], ids=lambda build: build.__name__)
def test_any_size(build, size):
    model = create(build, "gapt", "setr-pup").eval()
    single = torch.cat([model(image) for image in images(2, size).split(1)])
    assert single.shape == (2, CLASSES, *size)
    torch.testing.assert_close(model(images(2, size)), single, rtol=1e-4, atol=1e-5)
    padded = F.pad(images(2, size), (0, -size[1] % 8, 0, -size[0] % 8))
    assert torch.equal(model(images(2, size)), model(padded)[..., : size[0], : size[1]])


def test_classification_still_refuses_another_size():
    model = promptvit.create_model(backbone_of(vit), "gapt", CLASSES)
    with pytest.raises(ValueError, match="expects 32x32 pixels, got 40x64; resize them"):
        model(images(2, (40, 64)))


def test_sa2vp_runs_at_its_size_only_so_windows_serve_it():
    model = create(vit, "sa2vp", "setr-naive").eval()
    with pytest.raises(ValueError, match="map was made for 4 x 4 patches, not 5 x 8; .*sliding windows"):
        model(images(1, (40, 64)))
    assert [mask.shape for mask in model.predict(images(1, (40, 64)))] == [(40, 64)]
    assert model(images(1, (30, 27))).shape == (1, CLASSES, 30, 27)  # padded to the size that it knows


# What an adapter carries


@pytest.mark.parametrize("head", PLANS)
@pytest.mark.parametrize("method", ["gapt", "sa2vp", "bias"])
def test_adapter_carries_the_head_and_its_running_statistics(method, head, tmp_path):
    model = create(vit, method, head)
    source = backbone_of(vit)
    train(model)
    model.palette = [(i, 2 * i, 255 - i) for i in range(CLASSES)]
    model.eval()
    folder = model.save_pretrained(tmp_path / "a", metrics={"miou": 0.5})
    again = promptvit.PromptedModel.from_pretrained(folder, backbone=source)
    assert isinstance(again, SegmentationModel) and again.palette == model.palette and again.head.taps == model.head.taps
    assert torch.equal(again(images()), model(images()))
    statistics = [name for name in model.learned() if name.endswith(("running_mean", "running_var"))]
    assert bool(statistics) == (head != "linear-seg")
    assert all(not torch.equal(model.learned()[name], create(vit, method, head).learned()[name]) for name in statistics)
    second = again.save_pretrained(tmp_path / "b", metrics={"miou": 0.5})
    for name in (CONFIG, WEIGHTS):
        assert (folder / name).read_bytes() == (second / name).read_bytes()


def test_adapter_with_other_head_options_is_refused(tmp_path):
    folder = create(vit, "gapt", "setr-pup").save_pretrained(tmp_path / "a")
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    assert config["head"] == "setr-pup" and config["head_options"] == {"channels": CHANNELS, "aux_blocks": [2], "aux_weight": 0.4}
    config["head_options"]["channels"] = 4
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"head\..* has shape .* needs"):
        promptvit.PromptedModel.from_pretrained(folder, backbone=backbone_of(vit))


@pytest.mark.parametrize("method", PROMPTED)
def test_prepared_inference_equals_the_live_model_and_is_frozen(method):
    model = create(vit, method, "setr-pup")
    train(model)
    model.eval()
    expected = model(images()).detach()
    prepared = model.prepare_inference()
    for _ in range(2):  # the second call uses what the first remembered
        torch.testing.assert_close(prepared(images()), expected, rtol=1e-4, atol=1e-5)
    assert prepared.model.backbone is model.backbone
    train(model, lr=1.0)
    torch.testing.assert_close(prepared(images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["gapt", "sa2vp"])
def test_low_memory_gives_the_same_gradients(method):
    model = create(vit, method, "setr-naive").train()
    gradients = []
    for low in (False, True):
        model.method.low_memory = low
        model.zero_grad()
        model.loss(model.outputs(images()), truth()).backward()
        gradients.append({name: p.grad.clone() for name, p in model.trainable_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_same_seed_same_head():
    state = torch.get_rng_state()
    a, b = (create(vit, "gapt", "setr-pup").learned() for _ in range(2))
    assert torch.equal(state, torch.get_rng_state()), "global random state was touched"
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("palette", [[(0, 0, 0)], [(0, 0, 256)] * CLASSES, [(0, 0)] * CLASSES])
def test_a_palette_has_a_colour_for_each_class(palette, tmp_path):
    folder = create(vit, "linear", "linear-seg").save_pretrained(tmp_path / "a")
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(config | {"palette": palette}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{CONFIG}.*palette"):
        promptvit.PromptedModel.from_pretrained(folder, backbone=backbone_of(vit))


# Prediction


def test_predict_gives_masks_at_the_images_own_size():
    from PIL import Image

    model = create(vit, "gapt", "setr-naive")
    train(model)
    pictures = [Image.effect_noise((50, 21), 90).convert("RGB"), Image.effect_noise((200, 200), 90).convert("L")]
    found = model.predict(pictures)
    assert [mask.shape for mask in found] == [(21, 50), (200, 200)] and model.training
    assert all(0 <= int(mask.min()) <= int(mask.max()) < CLASSES for mask in found)
    assert model.preprocess(pictures[0]).shape == (3, 32, 76)  # the short side becomes the crop's
    pixels = model.preprocess(pictures[0])[None]
    model.eval()
    window = Inference(window=(SIZE, SIZE))
    assert torch.equal(found[0], masks(scores(model, pixels, window).detach(), (21, 50))[0])
    assert torch.equal(found[0], model.predict(pictures[0])[0])


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "setr-pop"}, "unknown head 'setr-pop'; did you mean setr-pup"),
        ({"head_options": {"chanels": 8}}, "unknown option of setr-pup 'chanels'; did you mean channels"),
        ({"head_options": {"channels": 0}}, "option of setr-pup channels"),
        ({"head_options": {"aux_blocks": (2, 1)}}, r"aux_blocks: ascending blocks of 0 to 2.*got \(2, 1\)"),
        ({"head_options": {"aux_blocks": (3,)}}, "aux_blocks: .* come before the last"),
        ({"num_classes": 256}, "num_classes: at most 255 for segmentation"),
        ({"pool": "cls"}, "pool: a segmentation head reads every patch"),
        ({"head_init": "vpt"}, "head_init: segmentation heads have their authors' own"),
        ({"head": "linear", "head_options": {"channels": 8}}, "head_options: the linear head has none, got channels"),
    ],
)
def test_refusals(changes, message):
    arguments = {"head": "setr-pup", "num_classes": 5} | changes
    with pytest.raises(ValueError, match=message):
        promptvit.create_model(backbone_of(vit), "gapt", **arguments)


def test_swin_is_refused_by_name():
    model = SwinTransformer(img_size=SIZE, patch_size=2, embed_dim=16, depths=(1, 2), num_heads=(2, 2), window_size=4, num_classes=0)
    backbone = wrap(model, name="small-swin", preprocessing=Preprocessing(size=(SIZE, SIZE)))
    with pytest.raises(ValueError, match=r"setr-pup does not run on swin backbones \(small-swin\)"):
        promptvit.create_model(backbone, "vpt-deep", 3, head="setr-pup")
