"""Writers of the published checkpoint layouts: the counterparts of the readers in ``backbones/checkpoints``."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from promptvit import files, states


def write_mae(state: Mapping[str, Tensor], path: Path) -> Path:
    """MAE's pre-training file: the encoder's and the decoder's tensors side by side under ``model``."""
    return _save({"model": {key.removeprefix("encoder."): value for key, value in state.items()}}, path)


def write_mocov3(parts: Mapping[str, Mapping[str, Tensor]], epoch: int, path: Path) -> Path:
    """MoCo v3's pre-training file; ``parts`` are ``base_encoder``, ``momentum_encoder`` and ``predictor``."""
    state = {f"module.{part}.{key}": value for part, tensors in parts.items() for key, value in tensors.items()}
    return _save({"epoch": epoch, "arch": "vit_tiny_promptvit", "state_dict": state}, path)


def write_in21k(encoder: VisionTransformer, head: nn.Linear, path: Path) -> Path:
    """The original ViT release's archive; kernels end with the output dimension, and attention keeps its heads apart."""
    state = {key: value.detach().float().cpu().numpy() for key, value in encoder.state_dict().items()}
    width, heads = encoder.embed_dim, encoder.blocks[0].attn.num_heads
    split = (heads, width // heads)
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),  # OIHW -> HWIO
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": head.weight.detach().float().cpu().numpy().T,
        "head/bias": head.bias.detach().float().cpu().numpy(),
    }
    for index in range(len(encoder.blocks)):
        source, target = f"blocks.{index}.", f"Transformer/encoderblock_{index}/"
        attention = target + "MultiHeadDotProductAttention_1/"
        weights, biases = (np.split(state[f"{source}attn.qkv.{part}"], 3) for part in ("weight", "bias"))
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays[f"{attention}{name}/kernel"] = weight.T.reshape(width, *split)
            arrays[f"{attention}{name}/bias"] = bias.reshape(split)
        arrays[attention + "out/kernel"] = state[source + "attn.proj.weight"].T.reshape(*split, width)
        arrays[attention + "out/bias"] = state[source + "attn.proj.bias"]
        for ours, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{target}{theirs}/scale"] = state[f"{source}{ours}.weight"]
            arrays[f"{target}{theirs}/bias"] = state[f"{source}{ours}.bias"]
        for ours, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            arrays[f"{target}MlpBlock_3/{theirs}/kernel"] = state[f"{source}mlp.{ours}.weight"].T
            arrays[f"{target}MlpBlock_3/{theirs}/bias"] = state[f"{source}mlp.{ours}.bias"]
    with files.atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return path


def _save(content: dict[str, object], path: Path) -> Path:
    states.save(path, {key: _on_cpu(value) for key, value in content.items()})
    return path


def _on_cpu(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _on_cpu(inner) for key, inner in value.items()}
    return value.detach().cpu() if isinstance(value, Tensor) else value
