"""ImageNet-21k weights of the original ViT release (JAX): ``ViT-B_16.npz`` and its kin.

Layout: ``embedding/kernel`` [h, w, in, D], ``cls`` [1, 1, D], ``Transformer/posembed_input/pos_embedding`` [1, 1 + N, D], and for
each block ``Transformer/encoderblock_{i}/``: ``LayerNorm_0`` and ``LayerNorm_2`` (scale, bias),
``MultiHeadDotProductAttention_1/{query,key,value}`` [D, heads, D / heads], ``.../out`` [heads, D / heads, D], ``MlpBlock_3/Dense_{0,1}``
[in, out]. The shape of the attention kernels tells the number of heads, so this format needs no ``arch``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from promptvit.backbones.checkpoints.state import Checkpoint, CheckpointError, Layout, convert, depth, square_image

_BLOCK = r"Transformer/encoderblock_(\d+)/"
_ATTENTION = _BLOCK + "MultiHeadDotProductAttention_1/"
_MLP = _BLOCK + "MlpBlock_3/"
IN21K = Layout(
    "in21k-npz",
    keep=(
        ("cls", "cls_token"),
        ("Transformer/posembed_input/pos_embedding", "pos_embed"),
        ("embedding/kernel", "patch_embed.proj.weight"),
        ("embedding/bias", "patch_embed.proj.bias"),
        ("Transformer/encoder_norm/scale", "norm.weight"),
        ("Transformer/encoder_norm/bias", "norm.bias"),
        (_BLOCK + "LayerNorm_0/scale", r"blocks.\1.norm1.weight"),
        (_BLOCK + "LayerNorm_0/bias", r"blocks.\1.norm1.bias"),
        (_BLOCK + "LayerNorm_2/scale", r"blocks.\1.norm2.weight"),
        (_BLOCK + "LayerNorm_2/bias", r"blocks.\1.norm2.bias"),
        (_ATTENTION + "(query|key|value)/kernel", r"blocks.\1.attn.\2.weight"),
        (_ATTENTION + "(query|key|value)/bias", r"blocks.\1.attn.\2.bias"),
        (_ATTENTION + "out/kernel", r"blocks.\1.attn.proj.weight"),
        (_ATTENTION + "out/bias", r"blocks.\1.attn.proj.bias"),
        (_MLP + "Dense_0/kernel", r"blocks.\1.mlp.fc1.weight"),
        (_MLP + "Dense_0/bias", r"blocks.\1.mlp.fc1.bias"),
        (_MLP + "Dense_1/kernel", r"blocks.\1.mlp.fc2.weight"),
        (_MLP + "Dense_1/bias", r"blocks.\1.mlp.fc2.bias"),
    ),
    drop="(?:head|pre_logits)/(?:kernel|bias)",
)


def read_in21k(arrays: Mapping[str, np.ndarray], path: Path) -> Checkpoint:
    """ImageNet-21k ``.npz``."""
    tensors = {key: torch.from_numpy(np.ascontiguousarray(_oriented(key, array, path))) for key, array in arrays.items()}
    state, dropped = convert(tensors, IN21K, path)
    query = arrays["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"]
    arch: dict[str, Any] | None = None
    if query.ndim == 3:
        width, patch = state["patch_embed.proj.weight"].shape[::3]
        arch = {
            "img_size": square_image(state), "patch_size": patch, "embed_dim": width, "depth": depth(state),
            "num_heads": query.shape[1], "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / width, "num_classes": 0,
        }
    return Checkpoint(state, IN21K.name, arch, dropped=dropped)


def _oriented(key: str, array: np.ndarray, path: Path) -> np.ndarray:
    """JAX kernels end with the output dimension, torch's begin with it; heads are merged into the width."""
    if array.dtype.kind != "f":
        raise CheckpointError(f"{path}: {key} has the type {array.dtype}, not floating-point numbers")
    try:
        if re.search("/(?:query|key|value)/kernel$", key):
            return array.reshape(array.shape[0], -1).T
        if re.search("/(?:query|key|value)/bias$", key):
            return array.reshape(-1)
        if key.endswith("/out/kernel"):
            return array.reshape(-1, array.shape[-1]).T
        if key == "embedding/kernel":
            return array.transpose(3, 2, 0, 1)  # HWIO -> OIHW
        return array.T if key.endswith("/kernel") else array
    except (ValueError, IndexError):
        raise CheckpointError(f"{path}: wrong shape: {key} is {list(array.shape)}") from None
