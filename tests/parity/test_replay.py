"""What the replay promises: it computes instead of repeating, it notices faults, and it refuses what is no vector."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import promptvit
from promptvit.testing import replay, settings
from promptvit.testing.compare import compare
from promptvit.testing.vector import RESULTS, Vector

VECTORS = Path(__file__).parent / "vectors"
SMALL = VECTORS / "gapt_mae_gate_temp_clamped.safetensors"


def contents(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())  # noqa: SIM118


def written(folder, tensors, metadata):
    path = folder / "case.safetensors"
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize("name", ["gapt_mae_gate_temp_clamped", "vpt_swin_shallow", "spt_generator_mae_L49", "sa2vp_exact_tiny"])
def test_no_stored_result_comes_back(name, tmp_path):
    """Other results in the file, the same answer."""
    tensors, metadata = contents(VECTORS / f"{name}.safetensors")
    expected = replay(VECTORS / f"{name}.safetensors")
    scrambled = {key: torch.rand_like(t) if re.match(RESULTS, key) else t for key, t in tensors.items()}
    found = replay(written(tmp_path, scrambled, metadata))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("key", ["state/block2.out", "out/logits", "out/temp_after_forward", "grad/temp", "grad/head.weight"])
def test_a_wrong_number_is_noticed(key, tmp_path):
    tensors, metadata = contents(SMALL)
    wrong = tensors[key].clone()
    wrong.view(-1)[wrong.abs().argmax()] *= 1 + 1e-4
    report = compare(written(tmp_path, {**tensors, key: wrong}, metadata))
    assert len(report.failures) == 1 and report.failures[0].startswith(f"{key}: differs by")


@pytest.mark.parametrize("prefix", ["out", "grad", "state"])
def test_a_result_that_we_do_not_compute_is_a_failure(prefix, tmp_path):
    tensors, metadata = contents(SMALL)
    report = compare(written(tmp_path, {**tensors, f"{prefix}/of_tomorrow": torch.ones(1)}, metadata))
    assert report.failures == [f"{prefix}/of_tomorrow: our code did not compute it"]


def test_a_layernorm_epsilon_of_1e_5_is_seen(tmp_path):
    tensors, metadata = contents(SMALL)
    assert compare(written(tmp_path, tensors, {**metadata, "ln_eps": "1e-05"})).failures


@pytest.mark.parametrize(
    "key",
    ["input/images", "input/labels", "timm/blocks.1.norm1.weight", "param/temp", "head/bias", "out/loss", "grad/temp", "state/block1.out"],
)
def test_a_missing_key_is_named(key, tmp_path):
    tensors, metadata = contents(SMALL)
    del tensors[key]
    path = written(tmp_path, tensors, metadata)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: no tensor {re.escape(key)}$"):
        replay(path)


@pytest.mark.parametrize("name", ["shape", "method", "prompt", "trainable", "ln_eps", "temperature"])
def test_missing_metadata_is_named(name, tmp_path):
    tensors, metadata = contents(SMALL)
    del metadata[name]
    path = written(tmp_path, tensors, metadata)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: metadata lacks {name}$"):
        replay(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timm/pos_embed": torch.full((1, 17, 16), float("nan"))}, "timm/pos_embed holds NaN"),
        ({"param/temp": torch.ones(7)}, r"param/temp has 7 values in \(7,\), our method takes 4"),
        ({"timm/cls_token": torch.ones(1, 1, 5)}, r"timm/cls_token has shape \(1, 1, 5\), the metadata makes \(1, 1, 16\)"),
        ({"timm/extra": torch.ones(1)}, "unexpected tensor timm/extra"),
        ({"head/weight": torch.ones(5, 3)}, r"head/weight has shape \(5, 3\)"),
        ({"input/images": torch.ones(2, 3, 40, 40)}, "expects 32x32 pixels, got 40x40"),
        ({"input/labels": torch.tensor([0, 9])}, "input/labels are not classes 0 to 4"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change, message, tmp_path):
    tensors, metadata = contents(SMALL)
    path = written(tmp_path, {**tensors, **change}, metadata)
    with pytest.raises(ValueError, match=message) as refused:
        replay(path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
        (b"PK\x03\x04 something else", "not a safetensors file"),
        (SMALL.read_bytes()[:-1000], "truncated or damaged"),
        (SMALL.read_bytes()[:40], "truncated or damaged"),
    ],
)
def test_what_is_no_vector_is_refused(content, message, tmp_path):
    path = tmp_path / "case.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        replay(path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)


def test_a_file_that_is_not_there_or_not_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.safetensors: cannot be read"):
        replay(tmp_path / "absent.safetensors")
    tensors, metadata = contents(SMALL)
    with pytest.raises(ValueError, match="metadata is not JSON"):
        replay(written(tmp_path, tensors, {**metadata, "case": "{"}))


def test_an_unknown_method_is_refused(tmp_path):
    tensors, metadata = contents(SMALL)
    with pytest.raises(ValueError, match="metadata method is 'abc'; known: vpt, gapt, spt, sa2vp"):
        replay(written(tmp_path, tensors, {**metadata, "method": json.dumps("abc")}))


def test_reversed_deep_prompts_are_inserted_not_written_over_patches():
    """The decided exception, against timm's own blocks: the last K get ``[cls, prompts, patches]`` with all patches."""
    path = VECTORS / "vpt_sup_deep_reverse2.safetensors"
    vector, found = Vector.read(path), replay(path)
    shape, count = vector.meta["shape"], vector.meta["prompt"]["num_deep_layers"]
    size = {"img_size": shape["img"], "patch_size": shape["patch"], "embed_dim": shape["dim"], "depth": shape["depth"]}
    model = VisionTransformer(**size, num_heads=shape["heads"], num_classes=0).eval()
    model.load_state_dict(vector.under("timm/"))
    prompts = vector["param/transformer.deep_prompt_embeddings"].clone().requires_grad_()
    x = model._pos_embed(model.patch_embed(vector["input/images"]))
    for i, block in enumerate(model.blocks):
        if i >= shape["depth"] - count:
            patches = x[:, -((shape["img"] // shape["patch"]) ** 2) :]
            x = torch.cat([x[:, :1], prompts[i - shape["depth"] + count].expand(len(x), -1, -1), patches], dim=1)
        x = block(x)
        torch.testing.assert_close(found[f"state/block{i}.out"], x, rtol=1e-5, atol=1e-5)
    logits = model.norm(x)[:, 0] @ vector["head/weight"].T + vector["head/bias"]
    torch.nn.functional.cross_entropy(logits, vector["input/labels"]).backward()
    torch.testing.assert_close(found["out/logits"], logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["grad/transformer.deep_prompt_embeddings"], prompts.grad, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(found["out/logits"], vector["out/logits"], atol=1e-3), "the authors lose patches, we do not"


def test_swin_images_do_not_reach_each_other():
    """Another second image leaves the first one's features as they are."""
    vector = Vector.read(VECTORS / "vpt_swin_shallow.safetensors")
    backbone = settings.backbone_of(vector, vector.under("timm/"))
    model = promptvit.create_model(backbone, "vpt-shallow", 5, num_prompts=3)
    images = vector["input/images"]
    other = torch.stack([images[0], images[1].flip(-1) + 1])
    torch.testing.assert_close(model(images)[0], model(other)[0], rtol=1e-5, atol=1e-6)


def test_the_selection_covers_every_method_and_stays_small():
    files = list(VECTORS.glob("*.safetensors"))
    assert {(v.meta["method"], v.meta["backbone"]) for v in map(Vector.read, files)} >= {
        ("vpt", "vit_supervised"), ("vpt", "vit_mae"), ("vpt", "swin"), ("gapt", "vit_mae"), ("gapt", "vit_mocov3"), ("spt", "vit_mae"),
        ("sa2vp", "vit_supervised"), ("sa2vp", "swin"),
    }
    assert sum(file.stat().st_size for file in files) < 4_000_000
