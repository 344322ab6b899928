"""Readers of published checkpoints, on tiny files that the tests write in each format's exact layout."""

import argparse
import json
import os
import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.layers.mlp import SwiGLUPacked
from timm.models import Eva, SwinTransformer, VisionTransformer
from torch import Tensor, nn

from promptvit.backbones.checkpoints import Checkpoint, CheckpointError, read_checkpoint

TINY: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 4, "num_classes": 0}
State = dict[str, Tensor]


def randomized(model: Any, seed: int = 0) -> Any:
    """Random values everywhere, so that no tensor can be mistaken for another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def tiny(**options: Any) -> State:
    return dict(randomized(VisionTransformer(**{**TINY, **options})).state_dict())


def stated(checkpoint: Checkpoint) -> dict[str, Any]:
    assert checkpoint.arch is not None
    return checkpoint.arch


def fits(checkpoint: Checkpoint, expected: State, model: nn.Module | None = None) -> None:
    """Equal tensors under timm's names, and a timm model that takes them strictly."""
    assert checkpoint.state.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(checkpoint.state[key], value, rtol=0, atol=0, msg=key)
    (model or VisionTransformer(**TINY)).load_state_dict(checkpoint.state, strict=True)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def refused(path: Path, *words: str) -> str:
    """Read, expect one line that names the file and says ``words``."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message, message
    for word in words:
        assert word in message, message
    return message


# ---- ImageNet-21k npz


def in21k_arrays(state: State, heads: int = 4) -> dict[str, Any]:
    width = state["pos_embed"].shape[-1]
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": torch.randn(width, 5),
        "head/bias": torch.randn(5),
        "pre_logits/kernel": torch.randn(width, width),
        "pre_logits/bias": torch.randn(width),
    }
    for i in range(2):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        for norm, layer in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[theirs + layer + "/scale"] = state[f"{ours}{norm}.weight"]
            arrays[theirs + layer + "/bias"] = state[f"{ours}{norm}.bias"]
        attention = theirs + "MultiHeadDotProductAttention_1/"
        weights, biases = state[ours + "attn.qkv.weight"].chunk(3), state[ours + "attn.qkv.bias"].chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays[f"{attention}{part}/kernel"] = weight.T.reshape(width, heads, -1)
            arrays[f"{attention}{part}/bias"] = bias.reshape(heads, -1)
        arrays[attention + "out/kernel"] = state[ours + "attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[attention + "out/bias"] = state[ours + "attn.proj.bias"]
        for number, layer in ((0, "fc1"), (1, "fc2")):
            arrays[f"{theirs}MlpBlock_3/Dense_{number}/kernel"] = state[f"{ours}mlp.{layer}.weight"].T
            arrays[f"{theirs}MlpBlock_3/Dense_{number}/bias"] = state[f"{ours}mlp.{layer}.bias"]
    return {key: value.numpy() for key, value in arrays.items()}


def test_in21k(tmp_path: Path) -> None:
    state = tiny()
    np.savez(tmp_path / "ViT-B_16.npz", **in21k_arrays(state))
    checkpoint = read_checkpoint(tmp_path / "ViT-B_16.npz")
    fits(checkpoint, state, VisionTransformer(**stated(checkpoint)))
    assert checkpoint.format == "in21k-npz" and not checkpoint.is_mae
    assert checkpoint.arch == {**TINY, "mlp_ratio": 4.0}
    assert set(checkpoint.dropped) == {"head/kernel", "head/bias", "pre_logits/kernel", "pre_logits/bias"}


def test_in21k_agrees_with_timms_own_loader(tmp_path: Path) -> None:
    np.savez(tmp_path / "ViT.npz", **in21k_arrays(tiny(), heads=2))
    model = VisionTransformer(**TINY)
    model.load_pretrained(str(tmp_path / "ViT.npz"))
    fits(read_checkpoint(tmp_path / "ViT.npz"), dict(model.state_dict()))
    assert stated(read_checkpoint(tmp_path / "ViT.npz"))["num_heads"] == 2


def test_in21k_with_merged_heads_cannot_tell_their_number(tmp_path: Path) -> None:
    arrays = in21k_arrays(tiny())
    arrays |= {key: value.reshape(16, 16) for key, value in arrays.items() if "Attention" in key and key.endswith("kernel")}
    np.savez(tmp_path / "ViT.npz", **arrays)
    assert read_checkpoint(tmp_path / "ViT.npz").arch is None


@pytest.mark.parametrize(("key", "value", "words"), [
    ("Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/bias", None, ["blocks.1.attn.key.bias"]),
    ("Transformer/encoderblock_1/LayerNorm_2/scale", None, ["missing", "blocks.1.norm2.weight"]),
    ("embedding/kernel", None, ["missing", "patch_embed.proj.weight"]),
    ("embedding/kernel", np.zeros((8, 8), "f4"), ["wrong shape", "embedding/kernel"]),
    ("embedding/kernel", np.array(["code"], object), ["allow_pickle=False"]),
    ("conv_root/kernel", np.zeros((7, 7, 3, 4), "f4"), ["unexpected", "conv_root/kernel"]),
    ("embedding/bias", np.zeros(16, "i4"), ["embedding/bias", "int32"]),
    ("cls", np.full((1, 1, 16), np.nan, "f4"), ["cls ", "NaN"]),
    ("cls", np.zeros((1, 1, 8), "f4"), ["wrong shape", "cls_token"]),
])
def test_in21k_refusals(tmp_path: Path, key: str, value: Any, words: list[str]) -> None:
    arrays = in21k_arrays(tiny())
    arrays.pop(key, None)
    np.savez(tmp_path / "bad.npz", **arrays, **({} if value is None else {key: value}))
    refused(tmp_path / "bad.npz", *words)


# ---- MAE, MoCo v3, DINO, DINOv2


def with_decoder(state: State) -> State:
    return state | {
        "mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 5, 8), "decoder_embed.weight": torch.zeros(8, 16),
        "decoder_blocks.0.norm1.weight": torch.zeros(8), "decoder_norm.bias": torch.zeros(8), "decoder_pred.bias": torch.zeros(192),
    }


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_mae(tmp_path: Path, full: bool, zipped: bool) -> None:
    state = tiny()
    content: dict[str, Any] = {"model": with_decoder(state) if full else state}
    if full:  # as the authors' pre-training script writes it
        arguments = argparse.Namespace(mask_ratio=0.75, lr=None)
        content |= {"optimizer": {"state": {}}, "epoch": 799, "scaler": {"scale": 1.0}, "args": arguments}
    path = tmp_path / "mae_pretrain_vit_base.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    fits(checkpoint, state)
    assert (checkpoint.format, checkpoint.arch, checkpoint.is_mae) == ("mae", None, True)
    assert set(checkpoint.dropped) == (with_decoder(state).keys() - state.keys() if full else set())


def test_a_supervised_model_under_the_same_key_is_not_mae(tmp_path: Path) -> None:
    state = tiny()
    torch.save({"model": state | {"head.weight": torch.zeros(5, 16), "head.bias": torch.zeros(5)}}, tmp_path / "deit.pth")
    checkpoint = read_checkpoint(tmp_path / "deit.pth")
    fits(checkpoint, state)
    assert checkpoint.format == "timm" and not checkpoint.is_mae


def moco(state: State, arch: str = "vit_small") -> dict[str, Any]:
    head = {"head.0.weight": torch.zeros(8, 16), "head.1.running_mean": torch.zeros(8), "head.1.num_batches_tracked": torch.tensor(3)}
    other = {key: torch.randn_like(value) for key, value in state.items()}
    weights = prefixed(state | head, "module.base_encoder.") | prefixed(other | head, "module.momentum_encoder.")
    weights["module.predictor.0.weight"] = torch.zeros(8, 8)
    return {"epoch": 300, "arch": arch, "state_dict": weights, "optimizer": {}}


def test_mocov3_pretraining(tmp_path: Path) -> None:
    state = tiny()
    torch.save(moco(state), tmp_path / "vit-s-300ep.pth.tar")
    checkpoint = read_checkpoint(tmp_path / "vit-s-300ep.pth.tar")
    fits(checkpoint, state)
    assert (checkpoint.format, checkpoint.arch, checkpoint.is_mae) == ("mocov3", None, False)
    assert "module.base_encoder.head.0.weight" in checkpoint.dropped and "module.predictor.0.weight" in checkpoint.dropped
    assert sum(key.startswith("module.momentum_encoder.") for key in checkpoint.dropped) == len(state) + 3


def test_mocov3_linear_probe_gives_the_same_backbone(tmp_path: Path) -> None:
    state = tiny()
    weights = prefixed(state | {"head.weight": torch.zeros(5, 16), "head.bias": torch.zeros(5)}, "module.")
    content = {"epoch": 90, "arch": "vit_small", "state_dict": weights, "best_acc1": torch.tensor(73.2)}
    torch.save(content, tmp_path / "linear-vit-s.pth.tar")
    checkpoint = read_checkpoint(tmp_path / "linear-vit-s.pth.tar")
    fits(checkpoint, state)
    assert checkpoint.format == "mocov3" and set(checkpoint.dropped) == {"module.head.weight", "module.head.bias"}


def test_published_mocov3_small_has_twelve_heads(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"embed_dim": 384, "depth": 12, "num_heads": 12, "patch_size": 16}
    with torch.device("meta"):
        shapes = VisionTransformer(**sizes, num_classes=0).state_dict()
    content = moco({key: torch.zeros(1).expand(value.shape) for key, value in shapes.items()})
    content["state_dict"] = {key: value for key, value in content["state_dict"].items() if "base_encoder" in key}
    torch.save(content, tmp_path / "vit-s-300ep.pth.tar")
    assert read_checkpoint(tmp_path / "vit-s-300ep.pth.tar").arch == {**sizes, "img_size": 224, "num_classes": 0}


def test_dino_full_prefers_the_teacher(tmp_path: Path) -> None:
    teacher, student = tiny(), dict(randomized(VisionTransformer(**TINY), seed=1).state_dict())
    head = {"head.mlp.0.weight": torch.zeros(8, 16), "head.last_layer.weight_g": torch.zeros(8, 1)}
    content = {
        "student": prefixed(prefixed(student, "backbone.") | head, "module."), "teacher": prefixed(teacher, "backbone.") | head,
        "optimizer": {}, "epoch": 100, "args": argparse.Namespace(arch="vit_small"), "dino_loss": {"center": torch.zeros(1, 8)},
    }
    torch.save(content, tmp_path / "dino_full.pth")
    checkpoint = read_checkpoint(tmp_path / "dino_full.pth")
    fits(checkpoint, teacher)
    assert checkpoint.format == "dino" and set(checkpoint.dropped) == set(head)
    del content["teacher"]
    torch.save(content, tmp_path / "dino_student.pth")
    fits(read_checkpoint(tmp_path / "dino_student.pth"), student)


def test_dino_backbone_file(tmp_path: Path) -> None:
    torch.save(tiny(), tmp_path / "dino_vitbase16_pretrain.pth")
    checkpoint = read_checkpoint(tmp_path / "dino_vitbase16_pretrain.pth")
    fits(checkpoint, tiny())
    assert checkpoint.arch is None and not checkpoint.is_mae


def test_dinov2(tmp_path: Path) -> None:
    state = tiny(init_values=1.0)
    torch.save(state | {"mask_token": torch.zeros(1, 16)}, tmp_path / "dinov2_vitb14_pretrain.pth")
    checkpoint = read_checkpoint(tmp_path / "dinov2_vitb14_pretrain.pth")
    fits(checkpoint, state, VisionTransformer(**TINY, init_values=1.0))
    assert checkpoint.format == "dinov2" and checkpoint.dropped == ("mask_token",)


@pytest.mark.parametrize("gated", [False, True])
def test_dinov2_with_registers_folds_the_class_position_as_timm_does(tmp_path: Path, gated: bool) -> None:
    options = {**TINY, "init_values": 1.0, "reg_tokens": 4, "no_embed_class": True}
    if gated:
        options |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    published = tiny(**options)
    published["register_tokens"] = published.pop("reg_token")
    published |= {"pos_embed": torch.randn(1, 5, 16), "mask_token": torch.zeros(1, 16)}
    if gated:
        published = {key.replace("fc1", "w12").replace("fc2", "w3"): value for key, value in published.items()}
    torch.save(published, tmp_path / "dinov2_reg4.pth")
    model = VisionTransformer(**options)
    expected = timm.models.vision_transformer.checkpoint_filter_fn(dict(published), model)
    fits(read_checkpoint(tmp_path / "dinov2_reg4.pth"), expected, model)


# ---- timm


def test_timm_files_pass_through(tmp_path: Path) -> None:
    classes = {"num_classes": 3}
    models: list[Any] = [
        VisionTransformer(**(TINY | classes), qk_norm=True, init_values=1.0, reg_tokens=2, class_token=False, global_pool="avg"),
        Eva(**(TINY | classes), qkv_fused=False, use_rot_pos_emb=True, swiglu_mlp=True),
        SwinTransformer(img_size=16, patch_size=2, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=3),
    ]
    for number, model in enumerate(models):
        state = dict(randomized(model).state_dict())
        save_file(state, tmp_path / f"{number}.safetensors")
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / f"{number}.pth")
        model.reset_classifier(0)
        for suffix in ("safetensors", "pth"):
            checkpoint = read_checkpoint(tmp_path / f"{number}.{suffix}")
            fits(checkpoint, {key: state[key] for key in model.state_dict()}, model)
            assert checkpoint.format == "timm" and checkpoint.dropped and all(key.startswith("head.") for key in checkpoint.dropped)


def test_swins_recomputed_tables_are_dropped(tmp_path: Path) -> None:
    model = SwinTransformer(img_size=16, patch_size=2, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=0)
    index = torch.zeros(16, 16, dtype=torch.long)
    tables = {"layers.0.blocks.0.attn.relative_position_index": index, "layers.0.blocks.1.attn_mask": torch.zeros(4)}
    torch.save({"model": dict(model.state_dict()) | tables}, tmp_path / "swin.pth")
    checkpoint = read_checkpoint(tmp_path / "swin.pth")
    fits(checkpoint, dict(model.state_dict()), model)
    assert set(checkpoint.dropped) == set(tables)


def test_missing_swin_stage(tmp_path: Path) -> None:
    model = SwinTransformer(img_size=16, patch_size=2, window_size=2, embed_dim=16, depths=(1, 1, 1), num_heads=(2, 2, 2), num_classes=0)
    save_file({key: value for key, value in model.state_dict().items() if "layers.1" not in key}, tmp_path / "swin.safetensors")
    refused(tmp_path / "swin.safetensors", "missing", "layers.1.blocks.*")


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_timm_folder(tmp_path: Path, weights: str) -> None:
    state = tiny()
    sizes = {key: TINY[key] for key in ("img_size", "embed_dim", "depth", "num_heads")}
    cfg = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 16, 16], "interpolation": "bicubic", "crop_pct": 0.9}
    config = {"architecture": "vit_base_patch16_224", "model_args": sizes, "pretrained_cfg": {"tag": "mae", "url": "", **cfg}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (save_file if weights.endswith("safetensors") else torch.save)(state, tmp_path / weights)
    checkpoint = read_checkpoint(tmp_path)
    fits(checkpoint, state)
    assert checkpoint.arch == {"name": "vit_base_patch16_224", **sizes} and checkpoint.is_mae
    assert checkpoint.pretrained_cfg == cfg


def test_old_timm_folder_keeps_its_facts_at_the_top(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "mean": [0.5] * 3, "num_features": 192}))
    torch.save(tiny(), tmp_path / "pytorch_model.bin")
    checkpoint = read_checkpoint(tmp_path)
    assert (checkpoint.arch, checkpoint.pretrained_cfg) == ({"name": "vit_tiny_patch16_224"}, {"mean": [0.5] * 3})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_half_precision_stays(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    state = {key: value.to(dtype) for key, value in tiny().items()}
    (save_file if suffix == "safetensors" else torch.save)(state, tmp_path / f"half.{suffix}")
    fits(read_checkpoint(tmp_path / f"half.{suffix}"), state)


def test_folder_without_config_is_read_by_its_keys(tmp_path: Path) -> None:
    save_file(tiny(), tmp_path / "model.safetensors")
    fits(read_checkpoint(tmp_path), tiny())


# ---- Hugging Face

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}


def as_timm(checkpoint: Checkpoint) -> VisionTransformer:
    arch = dict(stated(checkpoint))
    norm_layer = partial(nn.LayerNorm, eps=arch.pop("norm_eps"))
    model = VisionTransformer(**arch, norm_layer=norm_layer)
    model.load_state_dict(checkpoint.state, strict=True)
    return model.eval()


def huggingface(folder: Path, model_class: str, config_class: str, **options: Any) -> tuple[Any, Checkpoint]:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, config_class)(**{**SIZES, **options})
    model = randomized(getattr(transformers, model_class)(config))
    model.save_pretrained(folder)
    return model, read_checkpoint(folder)


def same_features(model: Any, checkpoint: Checkpoint, **inputs: Any) -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images, **inputs).last_hidden_state
        torch.testing.assert_close(as_timm(checkpoint).forward_features(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False, "intermediate_size": 43}, {"layer_norm_eps": 0.1, "intermediate_size": 32}])
def test_hf_vit(tmp_path: Path, options: dict[str, Any]) -> None:
    model, checkpoint = huggingface(tmp_path, "ViTModel", "ViTConfig", **{"intermediate_size": 64, **options})
    same_features(model, checkpoint)
    assert checkpoint.format == "hf-vit" and set(checkpoint.dropped) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert stated(checkpoint)["num_heads"] == 2 and checkpoint.pretrained_cfg == {"input_size": (3, 16, 16)}


def test_hf_vit_classifier(tmp_path: Path) -> None:
    model, checkpoint = huggingface(tmp_path, "ViTForImageClassification", "ViTConfig", intermediate_size=64)
    same_features(model.vit, checkpoint)
    assert set(checkpoint.dropped) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("model_class", ["ViTMAEModel", "ViTMAEForPreTraining"])
def test_hf_mae(tmp_path: Path, model_class: str) -> None:
    decoder = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 16}
    model, checkpoint = huggingface(tmp_path, model_class, "ViTMAEConfig", intermediate_size=64, mask_ratio=0.0, **decoder)
    same_features(getattr(model, "vit", model), checkpoint, noise=torch.arange(4.0).expand(2, 4))  # nothing masked, order kept
    assert checkpoint.format == "hf-vitmae" and checkpoint.is_mae
    assert all(key.startswith("decoder.") for key in checkpoint.dropped)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
def test_hf_dinov2(tmp_path: Path, kind: str, gated: bool) -> None:
    model, checkpoint = huggingface(tmp_path, f"{kind}Model", f"{kind}Config", use_swiglu_ffn=gated, mlp_ratio=3)
    same_features(model, checkpoint)
    assert checkpoint.format == "hf-dinov2" and checkpoint.dropped == ("embeddings.mask_token",)


def test_hf_dinov2_classifier(tmp_path: Path) -> None:
    model, checkpoint = huggingface(tmp_path, "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig")
    same_features(model.dinov2_with_registers, checkpoint)


@pytest.mark.parametrize(("processor", "expected"), [
    ({"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "resample": 2, "size": {"height": 16, "width": 16}},
     {"mean": (0.5,) * 3, "std": (0.2,) * 3, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}),
    ({"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "size": 16, "resample": 3},
     {"mean": (0.5,) * 3, "std": (0.2,) * 3, "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash"}),
    ({"do_normalize": False, "size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
     {"mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_pct": 0.875, "crop_mode": "center"}),
])
def test_hf_preprocessing(tmp_path: Path, processor: dict[str, Any], expected: dict[str, Any]) -> None:
    huggingface(tmp_path, "ViTModel", "ViTConfig", intermediate_size=64)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert read_checkpoint(tmp_path).pretrained_cfg == {"input_size": (3, 16, 16), **expected}


@pytest.mark.parametrize(("change", "words"), [
    ({"model_type": "clip"}, ["'clip'", "vit_mae"]),
    ({"num_attention_heads": None}, ["num_attention_heads"]),
    ({"hidden_act": "relu"}, ["hidden_act", "gelu"]),
    ({"num_hidden_layers": 3}, ["holds 2 blocks", "says 3", "blocks.2"]),
])
def test_hf_config_refusals(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    huggingface(tmp_path, "ViTModel", "ViTConfig", intermediate_size=64)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    refused(tmp_path, *words)


@pytest.mark.parametrize(("text", "words"), [("{", ["JSON"]), ("[]", ["list"]), ("{}", ["architecture", "model_type"])])
def test_folder_with_a_bad_config(tmp_path: Path, text: str, words: list[str]) -> None:
    save_file(tiny(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    refused(tmp_path, "config.json", *words)


# ---- what must not load


def broken(change: str) -> State:
    state = tiny(depth=3)
    if change == "block":
        return {key: value for key, value in state.items() if not key.startswith("blocks.1.")}
    if change == "first":
        return {key: value for key, value in state.items() if not key.startswith("blocks.0.")}
    if change == "tensor":
        del state["blocks.2.mlp.fc1.bias"]
    elif change == "nan":
        state["blocks.1.attn.proj.weight"][3, 4] = float("nan")
    elif change == "inf":
        state["norm.bias"][0] = float("inf")
    elif change == "extra":
        state["blocks.0.adapter.weight"] = torch.zeros(2)
    elif change == "shape":
        state["blocks.2.mlp.fc1.weight"] = torch.zeros(48, 16)
    elif change == "positions":
        state["pos_embed"] = torch.zeros(1, 5, 8)
    return state


FAULTS = [
    ("block", ["missing", "blocks.1.attn.proj.bias"]), ("first", ["missing", "blocks.0.attn.proj.bias"]),
    ("tensor", ["missing", "blocks.2.mlp.fc1.bias"]), ("nan", ["blocks.1.attn.proj.weight", "NaN"]), ("inf", ["norm.bias", "infinite"]),
    ("extra", [".adapter.weight"]), ("shape", ["wrong shape", "blocks.2.mlp.fc1.weight"]), ("positions", ["wrong shape", "pos_embed"]),
]


@pytest.mark.parametrize(("change", "words"), FAULTS)
@pytest.mark.parametrize("wrap", [
    lambda state: {"model": state}, lambda state: {"state_dict": prefixed(state, "module.base_encoder.")},
    lambda state: {"teacher": prefixed(state, "backbone.")}, lambda state: state,
], ids=["mae", "mocov3", "dino", "timm"])
def test_damaged_states(tmp_path: Path, wrap: Any, change: str, words: list[str]) -> None:
    torch.save(wrap(broken(change)), tmp_path / "bad.pth")
    refused(tmp_path / "bad.pth", *words)


@pytest.mark.parametrize("key", ["cls_token", "pos_embed", "patch_embed.proj.weight", "norm.weight"])
def test_missing_root_tensor(tmp_path: Path, key: str) -> None:
    state = tiny()
    del state[key]
    torch.save({"model": state}, tmp_path / "bad.pth")
    refused(tmp_path / "bad.pth", "missing", key)


@pytest.mark.parametrize(("content", "words"), [
    (prefixed(tiny(), "foo.bar."), ["foo.bar.cls_token", "understood", "MoCo v3"]),
    ({"model": prefixed(tiny(), "encoder.")}, ["encoder.cls_token"]),
    ({"teacher": tiny(), "model": 3}, []),
    ([torch.zeros(2)], ["list"]),
    ({3: torch.zeros(2)}, ["named tensors"]),
    ({}, ["none"]),
    ({"two\nlines": torch.zeros(2)}, [r"'two\nlines'"]),
    ({"blocks.0.norm1.weight": "text"}, ["blocks.0.norm1.weight", "str"]),
    ({"patch_embed.proj.weight": torch.zeros(2, dtype=torch.int64)}, ["patch_embed.proj.weight", "int64"]),
    (tiny() | {"blocks.9999.norm1.weight": torch.zeros(16)}, ["missing", "blocks.2."]),
], ids=range(10))
def test_other_contents(tmp_path: Path, content: Any, words: list[str]) -> None:
    torch.save(content, tmp_path / "other.pth")
    if words:
        refused(tmp_path / "other.pth", *words)
    else:
        fits(read_checkpoint(tmp_path / "other.pth"), tiny())


@pytest.mark.parametrize(("content", "words"), [
    (b"", ["empty"]),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", ["Git LFS"]),
    (b"\n<!DOCTYPE html><html><body>404</body></html>", ["HTML"]),
    (b"hello, not weights", ["not a checkpoint"]),
    (b"\x80", ["damaged"]),
    (b"PK\x03\x04rest", ["truncated"]),
    ((2**40).to_bytes(8, "little") + b'{"a": 1}', ["damaged safetensors"]),
], ids=["empty", "lfs", "html", "text", "pickle", "zip", "safetensors"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.npz", "weights.safetensors"])
def test_not_a_checkpoint(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, *words)


def test_missing_file_and_folder_without_weights(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.pth", "no such file")
    refused(tmp_path, "without weights", "model.safetensors")


def test_a_pointer_inside_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"}))
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(tmp_path, "Git LFS", "model.safetensors")


WHOLE: dict[str, bytes] = {}


def whole(name: str, folder: Path) -> bytes:
    if name not in WHOLE:
        path = folder / name
        if name == "new.pth":
            torch.save({"model": tiny()}, path)
        elif name == "old.pth":
            torch.save({"model": tiny()}, path, _use_new_zipfile_serialization=False)
        elif name == "a.npz":
            np.savez_compressed(path, **in21k_arrays(tiny()))
        else:
            save_file(tiny(), path)
        WHOLE[name] = path.read_bytes()
    return WHOLE[name]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["new.pth", "old.pth", "a.npz", "a.safetensors"]), share=st.floats(0, 0.999))
def test_truncation_anywhere_is_refused(tmp_path: Path, name: str, share: float) -> None:
    content = whole(name, tmp_path)
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    refused(tmp_path / name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["new.pth", "old.pth", "a.npz", "a.safetensors"]), share=st.floats(0, 0.999), byte=st.integers(0, 255))
def test_a_changed_byte_never_escapes_as_another_error(tmp_path: Path, name: str, share: float, byte: int) -> None:
    content = bytearray(whole(name, tmp_path))
    content[int(len(content) * share)] = byte
    (tmp_path / name).write_bytes(content)
    try:
        read_checkpoint(tmp_path / name)
    except CheckpointError as error:
        assert str(tmp_path / name) in str(error)


class Evil:
    """Would make a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def write_evil(path: Path, content: Any, how: str) -> None:
    if how.startswith("raw"):
        with path.open("wb") as file:
            pickle.dump(content, file, protocol=int(how[3:]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")


@pytest.mark.parametrize("how", ["zip", "legacy", "raw2", "raw4", "raw5"])
@pytest.mark.parametrize("beside", [False, True])
def test_code_in_a_pickle_never_runs(tmp_path: Path, how: str, beside: bool) -> None:
    evil = Evil(tmp_path / "marker")
    path = tmp_path / "evil.pth"
    write_evil(path, {"model": tiny(), "args": evil} if beside and not how.startswith("raw") else evil, how)
    message = refused(path, "refused", "safetensors.torch.save_file")
    assert re.search(r"(posix|nt)\.system", message)
    assert not (tmp_path / "marker").exists()


def test_whole_models_are_refused_with_a_way_out(tmp_path: Path) -> None:
    torch.save(VisionTransformer(**TINY), tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "timm.models.vision_transformer.VisionTransformer", "save_file")
