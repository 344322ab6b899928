"""``load_backbone``: names, files, architectures, sizes, fingerprints; everything that does not fit is refused by name."""

import hashlib

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

import promptvit
from promptvit.backbones import bundled

ARCH = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(VisionTransformer(**ARCH, num_classes=0).state_dict(), path)
    return path


def test_a_local_file_with_its_architecture(weights):
    backbone = promptvit.load_backbone(weights, arch=ARCH)
    theirs = VisionTransformer(**ARCH, num_classes=0).eval()
    theirs.load_state_dict(load_file(weights))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(backbone(images), theirs(images), rtol=1e-5, atol=1e-5)
    assert backbone.name == "vit.safetensors" and backbone.load_arguments is None
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone.train().training, "frozen means evaluation mode"


def test_fingerprint_is_the_sha256_of_the_sorted_source_tensors(weights):
    digest = hashlib.sha256()
    for _, tensor in sorted(load_file(weights).items()):
        digest.update(tensor.float().numpy().tobytes())
    assert promptvit.load_backbone(weights, arch=ARCH).fingerprint == digest.hexdigest()


def test_fingerprint_does_not_depend_on_the_image_size_and_half_precision_is_its_own(weights, tmp_path):
    plain = promptvit.load_backbone(weights, arch=ARCH)
    larger = promptvit.load_backbone(weights, arch=ARCH, image_size=64)
    assert larger.fingerprint == plain.fingerprint and larger.grid == (8, 8) and larger.preprocessing.size == (64, 64)
    assert larger(torch.randn(1, 3, 64, 64)).shape == (1, 32)
    halves = {key: value.half() for key, value in load_file(weights).items()}
    save_file(halves, tmp_path / "half.safetensors")
    save_file({key: value.float() for key, value in halves.items()}, tmp_path / "float.safetensors")
    prints = [promptvit.load_backbone(tmp_path / f"{name}.safetensors", arch=ARCH).fingerprint for name in ("half", "float")]
    assert prints[0] == prints[1] != plain.fingerprint


def test_positions_are_interpolated_as_timm_does(weights):
    theirs = VisionTransformer(**ARCH, num_classes=0).eval()
    theirs.load_state_dict(load_file(weights))
    theirs.set_input_size(img_size=48)
    images = torch.randn(2, 3, 48, 48)
    ours = promptvit.load_backbone(weights, arch=ARCH, image_size=48)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.attn.qkv.weight"), "blocks.1.attn.qkv.weight"),
        (lambda s: s.update({"extra.weight": torch.zeros(2)}), "extra.weight"),
        (lambda s: s.update({"norm.weight": torch.zeros(33)}), r"norm.weight \(33,\).*\(32,\)"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("blocks.1.")], "missing: blocks.1"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_with_its_keys(weights, tmp_path, change, message):
    state = load_file(weights)
    change(state)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=message) as refused:
        promptvit.load_backbone(tmp_path / "odd.safetensors", arch=ARCH)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_base_patch16_22", {}, "did you mean .*vit_base_patch16_224"),
        ("mae-tny", {}, "unknown backbone"),
        ("missing.safetensors", {}, "no file or folder missing.safetensors"),
        ("vit_tiny_patch16_224", {"arch": "vit_tiny_patch16_224"}, "leave arch out"),
        ("vit_tiny_patch16_224", {"pretrained": False, "image_size": 100}, "not a multiple of the patch size"),
        ("vit_tiny_patch16_224", {"pretrained": False, "pool": "cats"}, "unknown pool 'cats'"),
        ("resnet18", {"pretrained": False}, "ResNet is not supported"),
        ("hf:nobody/nothing", {}, "not cached and could not be fetched.*give the folder's path"),
    ],
)
def test_bad_names_and_options(name, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        promptvit.load_backbone(name, **options)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_without_network_and_cache_the_error_says_how_to_give_a_file(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"no usable weights for vit_base_patch16_224.mae.*load_backbone\('weights.safetensors'"):
        promptvit.load_backbone("vit_base_patch16_224.mae")


def test_a_file_that_cannot_tell_its_architecture_asks_for_it(weights):
    with pytest.raises(ValueError, match="give a timm name"):
        promptvit.load_backbone(weights)
    with pytest.raises(ValueError, match="does not fit"):
        promptvit.load_backbone(weights, arch="vit_tiny_patch16_224")


def test_a_files_own_config_wins_and_a_conflict_is_an_error():
    folder = bundled.folder("mae-tiny")
    backbone = promptvit.load_backbone(folder)
    assert backbone.is_mae and backbone.depth == 8
    with pytest.raises(ValueError, match="own config says otherwise: depth=8, not 3"):
        promptvit.load_backbone(folder, arch={"depth": 3})


def test_random_weights_are_seeded_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    a, b, c = (promptvit.load_backbone("vit_tiny_patch16_224", pretrained=False, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert a.load_arguments["pretrained"] is False


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "timm:vit_tiny_patch16_224"])
def test_preprocessing_travels_with_the_name(name):
    backbone = promptvit.load_backbone(name, pretrained=False)
    assert backbone.preprocessing.mean == (0.5, 0.5, 0.5) and backbone.preprocessing.crop_pct == 0.9
    assert promptvit.load_backbone("vit_base_patch16_224.mae", pretrained=False).is_mae


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="expects 224x224 pixels, got 32x32.*image_size="):
        promptvit.load_backbone("vit_tiny_patch16_224", pretrained=False)(torch.zeros(1, 3, 32, 32))


def test_the_bundled_backbones_are_small_half_precision_and_have_cards():
    assert bundled.names() == ["mae-tiny", "mocov3-tiny", "sup-tiny"]
    for name in bundled.names():
        folder = bundled.folder(name)
        assert (folder / "model.safetensors").stat().st_size < 8e6
        assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float16}
        card = (folder / "README.md").read_text()
        assert all(word in card for word in ("objective", "steps", "promptvit pretrain", "linear", "full"))


def test_every_listed_backbone_name_is_one_that_timm_knows():
    names = promptvit.list_backbones()
    assert names[: len(bundled.names())] == bundled.names() and len(names) > 100
    assert all(timm.is_model(name) for name in names[len(bundled.names()) :: 40])
