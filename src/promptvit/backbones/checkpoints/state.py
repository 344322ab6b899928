"""From the names of a published file to timm's names: one table per format, one function that applies any of them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the key or cause."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        state: tensors by timm 1.x name, in the stored precision, without classifier head, projector, decoder or momentum encoder.
        format: ``in21k-npz``, ``mae``, ``mocov3``, ``dino``, ``dinov2``, ``timm``, ``hf-vit``, ``hf-vitmae`` or ``hf-dinov2``.
        arch: what the file itself says: ``{"name": timm name, **model_args}``, or arguments of timm's ``VisionTransformer`` where
            ``norm_eps`` stands for the LayerNorm's; None if it cannot tell. Head counts are never guessed from the width.
        pretrained_cfg: ``mean``, ``std``, ``input_size``, ``interpolation``, ``crop_pct`` and ``crop_mode``, as far as the file says.
        is_mae: whether masked autoencoding made the weights.
        dropped: names in the file that the backbone does not use.
    """

    state: dict[str, Tensor]
    format: str
    arch: dict[str, Any] | None = None
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)
    is_mae: bool = False
    dropped: tuple[str, ...] = ()


LARGEST_VIEW = 2**28  # bytes: a file of a few numbers may call them a tensor of any shape
PARAM = r"(?:weight|bias)"
# A plain ViT in timm's names, which MAE, MoCo v3, DINO and DINOv2 share.
VIT = (
    rf"(?:cls_token|pos_embed|patch_embed\.proj\.{PARAM}|norm\.{PARAM}"
    rf"|blocks\.\d+\.(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\.{PARAM})"
)
ROOT = frozenset(("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"))
BLOCK = frozenset(
    f"{layer}.{param}" for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2") for param in ("weight", "bias")
)
LAYER_SCALE = frozenset(("ls1.gamma", "ls2.gamma"))


@dataclass(frozen=True)
class Layout:
    """The names of one format.

    Attributes:
        name: as in :attr:`Checkpoint.format`.
        keep: regular expression of a whole key -> its timm name. Separate projections become ``attn.{query,key,value}``.
        drop: regular expression of the keys that are known and not part of the backbone. A key that is in neither is refused.
        root: timm names that must exist outside the blocks.
        block: names that must exist in every block.
    """

    name: str
    keep: tuple[tuple[str, str], ...]
    drop: str
    root: frozenset[str] = ROOT
    block: frozenset[str] = BLOCK


def convert(source: Mapping[str, Any], layout: Layout, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename, drop, stack and check.

    Args:
        source: keys and tensors as published.
        layout: their names.
        path: for messages.

    Returns:
        The state under timm's names, and the keys that were dropped.

    Raises:
        CheckpointError: an unexpected or missing key, a gap between blocks, blocks that differ, a value that is not finite.
    """
    state: dict[str, Tensor] = {}
    dropped, unexpected = [], []
    for key, value in source.items():
        name = _translate(key, layout)
        if name is not None:
            if name in state:
                raise CheckpointError(f"{path}: two keys stand for {name}; one of them is {key}")
            state[name] = _checked(key, value, path)
        elif re.fullmatch(layout.drop, key):
            dropped.append(key)
        else:
            unexpected.append(key)
    if unexpected:
        raise CheckpointError(f"{path}: unexpected keys for the format {layout.name}: {listing(unexpected)}")
    state = _stack_qkv(state, path)
    if missing := _missing(state, layout):
        raise CheckpointError(f"{path}: missing keys for the format {layout.name} (blocks must be alike): {listing(missing)}")
    _check_shapes(state, path)
    return state, tuple(dropped)


def depth(state: Mapping[str, Tensor]) -> int:
    """Number of blocks of a flat ViT."""
    return len({key.split(".")[1] for key in state if key.startswith("blocks.")})


def square_image(state: Mapping[str, Tensor]) -> int:
    """Pixels per side of the image that a class token and a square grid of positions [1, 1 + N, D] stand for."""
    return math.isqrt(state["pos_embed"].shape[1] - 1) * state["patch_embed.proj.weight"].shape[-1]


def fold_class_position(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move the class token's position into the token.

    timm's ViTs with registers keep positions for patches only (``no_embed_class``); DINOv2 stores one for the class token too and
    none for the registers. ``cls_token`` [1, 1, D], ``pos_embed`` [1, 1 + N, D] -> [1, N, D].
    """
    positions = state["pos_embed"]
    return state | {"cls_token": state["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}


def listing(keys: list[str], most: int = 8) -> str:
    """The first keys, and how many more there are."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(key if key.isprintable() else repr(key) for key in keys[:most]) + more


def _translate(key: str, layout: Layout) -> str | None:
    for pattern, name in layout.keep:
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    return None


def _checked(key: str, value: Any, path: Path) -> Tensor:
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{path}: {key} is a {type(value).__name__}, not a tensor")
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64) or value.layout != torch.strided or value.is_meta:
        raise CheckpointError(f"{path}: {key} is not a dense tensor of floating-point numbers ({value.dtype}, {value.layout})")
    if value.nbytes > value.untyped_storage().nbytes() + LARGEST_VIEW:
        raise CheckpointError(f"{path}: {key} claims the shape {list(value.shape)}, for which the file holds too few numbers")
    if not value.isfinite().all():
        raise CheckpointError(f"{path}: {key} holds NaN or infinite values")
    return value.detach()


def _stack_qkv(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``attn.query``, ``attn.key``, ``attn.value`` [D, D] -> ``attn.qkv`` [3 D, D]; biases alike."""
    stacked: dict[str, Tensor] = {}
    for key, value in state.items():
        match = re.fullmatch(r"(.+\.attn)\.(?:query|key|value)\.(weight|bias)", key)
        if match is None:
            stacked[key] = value
            continue
        parts = [f"{match[1]}.{part}.{match[2]}" for part in ("query", "key", "value")]
        if missing := [part for part in parts if part not in state]:
            raise CheckpointError(f"{path}: missing keys: {listing(missing)}")
        if len({state[part].shape for part in parts}) > 1:
            raise CheckpointError(f"{path}: shapes differ between {listing(parts)}")
        if key == parts[0]:
            stacked[f"{match[1]}.qkv.{match[2]}"] = torch.cat([state[part] for part in parts])
    return stacked


def _stacks(state: Mapping[str, Tensor]) -> dict[str, dict[int, dict[str, Tensor]]]:
    """Tensors by stack of blocks (``blocks``; ``layers.0.blocks`` in Swin), number and name within the block."""
    stacks: dict[str, dict[int, dict[str, Tensor]]] = {}
    for key, value in state.items():
        if match := re.fullmatch(r"((?:layers\.\d+\.)?blocks)\.(\d{1,4})\.(.+)", key):
            stacks.setdefault(match[1], {}).setdefault(int(match[2]), {})[match[3]] = value
    return stacks


def _missing(state: Mapping[str, Tensor], layout: Layout) -> list[str]:
    missing = sorted(layout.root - state.keys())
    stacks = _stacks(state) or {"blocks": {0: {}}}
    for stack, blocks in stacks.items():
        names = layout.block.union(*blocks.values()) or {"*"}
        for number in range(len(blocks)):  # a gap in the numbers leaves at least one of these out
            missing += [f"{stack}.{number}.{name}" for name in sorted(names - blocks.get(number, {}).keys())]
    stages = {int(stack.split(".")[1]) for stack in stacks if stack.startswith("layers.")}
    return missing + [f"layers.{number}.blocks.*" for number in range(len(stages)) if number not in stages]


def _check_shapes(state: Mapping[str, Tensor], path: Path) -> None:
    """Blocks must be alike and tokens as wide as the patches; all else shows when the architecture is known."""
    kernel = state["patch_embed.proj.weight"]
    if kernel.ndim != 4:
        raise CheckpointError(f"{path}: wrong shape: patch_embed.proj.weight is {list(kernel.shape)}, not [width, channels, height, width]")
    for name in ("cls_token", "reg_token", "pos_embed"):
        if name in state and (state[name].ndim != 3 or state[name].shape[::2] != (1, len(kernel)) or not state[name].numel()):
            raise CheckpointError(f"{path}: wrong shape: {name} is {list(state[name].shape)}, not [1, tokens, {len(kernel)}]")
    for stack, blocks in _stacks(state).items():
        for number, tensors in blocks.items():
            for name, tensor in tensors.items():
                if tensor.shape != blocks[0][name].shape:
                    shapes = f"{list(tensor.shape)}, in block 0 {list(blocks[0][name].shape)}"
                    raise CheckpointError(f"{path}: wrong shape: {stack}.{number}.{name} is {shapes}")
