"""Backbone files: PyTorch (new and old containers), npz, safetensors, and folders with config.json."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from mutation import altered, damaged, json_bytes
from safetensors.torch import save
from small import ARCH, vit
from watching import Case

import promptvit
from promptvit.backbones.checkpoints.npz import IN21K


class Payload:
    """Runs ``command`` when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def payloads(canary: Path) -> list[Any]:
    """What an attacker would pickle; each would create ``canary``."""
    code = f"open({str(canary)!r}, 'w').close()"
    return [
        Payload(os.system, f"touch {canary}"),
        Payload(eval, code),
        Payload(exec, code),
        Payload(open, str(canary), "w"),
        Payload(Path.touch, canary),
        Payload(os.mkdir, str(canary)),
        Payload(getattr, Path, "home"),
        Payload(__import__, "antigravity"),
        Payload(torch.save, {}, str(canary)),
        Payload(np.savetxt, str(canary), []),
    ]


def torch_file(value: Any, old: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


def in21k() -> bytes:
    """The small ViT as JAX wrote it."""
    state, width = vit().state_dict(), ARCH["embed_dim"]
    block = "Transformer/encoderblock_0/"
    attention, mlp = block + "MultiHeadDotProductAttention_1/", block + "MlpBlock_3/"
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        attention + "out/kernel": torch.zeros(1, width, width),
        attention + "out/bias": torch.zeros(width),
    }
    for part in ("query", "key", "value"):
        arrays |= {f"{attention}{part}/kernel": torch.zeros(width, 1, width), f"{attention}{part}/bias": torch.zeros(1, width)}
    for number in (0, 2):
        arrays |= {f"{block}LayerNorm_{number}/{name}": torch.ones(width) for name in ("scale", "bias")}
    for number, shape in enumerate(((width, 4 * width), (4 * width, width))):
        arrays |= {f"{mlp}Dense_{number}/kernel": torch.zeros(shape), f"{mlp}Dense_{number}/bias": torch.zeros(shape[1])}
    assert IN21K.name == "in21k-npz"
    file = io.BytesIO()
    np.savez(file, **{name: array.numpy() for name, array in arrays.items()})
    return file.getvalue()


def files(folder: Path, outside: Path):
    state = {name: tensor.clone() for name, tensor in vit().state_dict().items()}
    canary = folder.parent / "canary"
    mae = {"model": state | {"mask_token": torch.zeros(1, 1, 8)}, "epoch": 3}
    moco = {"arch": "vit_small", "state_dict": {f"module.base_encoder.{name}": tensor for name, tensor in state.items()}}
    dino = {"teacher": {f"backbone.{name}": tensor for name, tensor in state.items()}}
    sound = [torch_file(value) for value in (state, mae, moco, dino)] + [torch_file(mae, old=True), in21k(), save(state)]
    evil = payloads(canary)

    def draw(rng: Random) -> Case:
        path = folder / f"hostile{rng.choice(('.pth', '.npz', '.safetensors', '.pth.tar', '.bin'))}"
        content = rng.choice((_damaged, _damaged, _inner, _evil))(rng.choice(sound), state, evil, rng)
        path.write_bytes(content)
        read = lambda: promptvit.load_backbone(path, arch=dict(ARCH))  # noqa: E731
        return Case(read, (path.name, "arch: "), repr(content[:120]))

    return draw


def _damaged(content: bytes, state: dict, evil: list, rng: Random) -> bytes:
    return damaged(content, rng)


def _inner(content: bytes, state: dict, evil: list, rng: Random) -> bytes:
    """A zip whose members are damaged and whose checksums are right; sometimes squeezed, sometimes a bomb."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return damaged(content, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w", rng.choice((0, 8))) as target:
        names = source.namelist()
        chosen = rng.choice([name for name in names if name.endswith((".pkl", ".npy"))] if rng.random() < 0.6 else names)
        for name in names:
            data = source.read(name)
            target.writestr(name, damaged(data, rng) if name == chosen else data)
        if rng.random() < 0.03:
            target.writestr("bomb/data/0", bytes(64 * 2**20), 8)
    return out.getvalue()


def _evil(content: bytes, state: dict, evil: list, rng: Random) -> bytes:
    """A pickle that runs code, alone or within tensors, in any container."""
    payload = rng.choice(evil)
    value = rng.choice((payload, state | {"cls_token": payload}, {"model": state, "args": payload}, [payload]))
    kind = rng.randrange(4)
    if kind == 0:
        return pickle.dumps(value, protocol=rng.randrange(6))
    if kind == 1:
        file = io.BytesIO()
        np.savez(file, cls=np.array([value], dtype=object))
        return file.getvalue()
    made = torch_file(value, old=kind == 2)
    return damaged(made, rng) if rng.random() < 0.3 else made


def folders(folder: Path, outside: Path):
    """timm's and Hugging Face's layouts: config.json is altered, the weights are sound."""
    state = {name: tensor.clone() for name, tensor in vit().state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(state))
    timm = {
        "architecture": "test_vit",
        "model_args": {**ARCH, "mlp_ratio": 4, "global_pool": "token"},
        "num_classes": 0,
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 16, 16], "interpolation": "bicubic", "crop_pct": 0.9},
    }
    traps = (
        {"checkpoint_path": str(outside / "canary.pth")},
        {"pretrained": True},
        {"pretrained_cfg_overlay": {"file": str(outside / "canary.pth")}},
        {"depth": 10**9},
        {"embed_dim": 10**6},
        {"img_size": 10**6},
        {"mlp_ratio": 1e300},
        {"num_heads": 0},
        {"patch_size": 0},
        {"norm_layer": "os.system"},
        {"depth": -1},
        {"reg_tokens": 10**9},
        {"cache_dir": str(outside)},
        {"features_only": True},
    )
    names = ("vit_giant_patch14_dinov2", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "resnet18", "test_vit2", "../x")

    def draw(rng: Random) -> Case:
        config = json.loads(json.dumps(timm))
        kind = rng.randrange(4)
        if kind == 0:
            config["model_args"] |= rng.choice(traps)
        elif kind == 1:
            config["architecture"] = rng.choice(names)
        else:
            config = altered(config, rng)
        text = json_bytes(config, rng) if kind == 3 else json.dumps(config).encode()
        (folder / "config.json").write_bytes(text)
        return Case(lambda: promptvit.load_backbone(folder), (str(folder), "arch: ", "arch "), repr(text[:400]))

    return draw


def transformers(folder: Path, outside: Path):
    state = _huggingface(vit().state_dict())
    (folder / "model.safetensors").write_bytes(save(state))
    sound = {
        "model_type": "vit",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 16,
        "patch_size": 8,
        "layer_norm_eps": 1e-6,
        "intermediate_size": 32,
        "hidden_act": "gelu",
        "num_channels": 3,
        "qkv_bias": True,
    }
    processor = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": {"height": 16, "width": 16}}

    def draw(rng: Random) -> Case:
        first = rng.random() < 0.6
        texts = [
            json_bytes(altered(value, rng), rng) if hit else json.dumps(value).encode()
            for value, hit in ((sound, first), (processor, not first))
        ]
        (folder / "config.json").write_bytes(texts[0])
        (folder / "preprocessor_config.json").write_bytes(texts[1])
        return Case(lambda: promptvit.load_backbone(folder), (str(folder), "arch: "), repr(texts[not first][:400]))

    return draw


def states(folder: Path, outside: Path):
    """Checkpoints of training runs."""
    from promptvit.states import load

    path, canary = folder / "state.pt", folder.parent / "canary"
    sound = torch_file({"epoch": 1, "model": {"head.weight": torch.zeros(3, 4)}, "history": [{"epoch": 0}], "records": []})
    evil = payloads(canary)

    def draw(rng: Random) -> Case:
        content = rng.choice((_damaged, _inner, _evil))(sound, {}, evil, rng)
        path.write_bytes(content)
        return Case(lambda: load(path), ("state.pt",), repr(content[:120]))

    return draw


def _huggingface(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    width, block = ARCH["embed_dim"], "encoder.layer.0."
    named = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": state["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
        block + "attention.output.dense.weight": torch.zeros(width, width),
        block + "attention.output.dense.bias": torch.zeros(width),
        block + "intermediate.dense.weight": torch.zeros(4 * width, width),
        block + "intermediate.dense.bias": torch.zeros(4 * width),
        block + "output.dense.weight": torch.zeros(width, 4 * width),
        block + "output.dense.bias": torch.zeros(width),
    }
    for part in ("query", "key", "value"):
        named |= {
            f"{block}attention.attention.{part}.weight": torch.zeros(width, width),
            f"{block}attention.attention.{part}.bias": torch.zeros(width),
        }
    for norm in ("layernorm_before", "layernorm_after"):
        named |= {f"{block}{norm}.weight": torch.ones(width), f"{block}{norm}.bias": torch.zeros(width)}
    return {name: tensor.clone() for name, tensor in named.items()}
