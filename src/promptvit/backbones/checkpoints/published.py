"""State dicts of the self-supervised releases. All name a plain ViT as timm does, behind different prefixes and beside other parts.

MAE: top key ``model``; the full pre-training file adds ``mask_token`` and ``decoder_*``.
MoCo v3: top keys ``epoch, arch, state_dict, optimizer``. Pre-training file: ``module.base_encoder.*`` (its ``head`` is the projector),
momentum encoder and predictor. Linear-probe file: ``module.*`` with a trained ``head``. Both hold the same backbone.
DINO: top keys ``student`` and ``teacher``, whose backbones sit behind ``module.backbone.`` or ``backbone.``. The backbone-only file
has timm's own names and is read as such.
DINOv2: flat; ``mask_token``, layer scale, ``register_tokens``; gated MLPs (giant) are called ``w12`` and ``w3``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptvit.backbones.checkpoints.state import (
    BLOCK,
    LAYER_SCALE,
    PARAM,
    VIT,
    Checkpoint,
    Layout,
    convert,
    depth,
    fold_class_position,
    square_image,
)

MAE = Layout("mae", keep=((f"({VIT})", r"\1"),), drop=r"mask_token|decoder_.+")
MOCO_V3 = Layout(
    "mocov3",
    keep=((rf"module\.base_encoder\.({VIT})", r"\1"),),
    drop=r"module\.(?:base_encoder\.head|momentum_encoder|predictor)\..+",
)
MOCO_V3_LINEAR = Layout("mocov3", keep=((rf"module\.({VIT})", r"\1"),), drop=r"module\.head\..+")
DINO = Layout("dino", keep=((rf"(?:module\.)?backbone\.({VIT})", r"\1"),), drop=r"(?:module\.)?head\..+")
DINO_V2 = Layout(
    "dinov2",
    keep=(
        (rf"({VIT}|blocks\.\d+\.ls[12]\.gamma)", r"\1"),
        ("register_tokens", "reg_token"),
        (rf"(blocks\.\d+\.mlp)\.w12\.({PARAM})", r"\1.fc1.\2"),
        (rf"(blocks\.\d+\.mlp)\.w3\.({PARAM})", r"\1.fc2.\2"),
    ),
    drop="mask_token",
    block=BLOCK | LAYER_SCALE,
)

# moco-v3/vits.py. Its small model has twelve heads where timm's has six; the file's own `arch` field tells them apart.
_MOCO_V3_ARCHS = {
    "vit_small": {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 12},
    "vit_base": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
}


def read_mae(source: Mapping[str, Any], path: Path) -> Checkpoint:
    """MAE, encoder-only or with its decoder."""
    state, dropped = convert(source, MAE, path)
    return Checkpoint(state, MAE.name, is_mae=True, dropped=dropped)


def read_mocov3(source: Mapping[str, Any], path: Path, arch: Any = None) -> Checkpoint:
    """MoCo v3, pre-training or linear-probe file; ``arch`` is the field of that name in the file."""
    layout = MOCO_V3 if any(key.startswith("module.base_encoder.") for key in source) else MOCO_V3_LINEAR
    state, dropped = convert(source, layout, path)
    known = _MOCO_V3_ARCHS.get(arch) if isinstance(arch, str) else None
    if known and (known["embed_dim"], known["depth"]) == (state["pos_embed"].shape[-1], depth(state)):
        return Checkpoint(state, layout.name, {**known, "img_size": square_image(state), "num_classes": 0}, dropped=dropped)
    return Checkpoint(state, layout.name, dropped=dropped)


def read_dino(source: Mapping[str, Any], path: Path) -> Checkpoint:
    """The student or teacher of a full DINO checkpoint."""
    state, dropped = convert(source, DINO, path)
    return Checkpoint(state, DINO.name, dropped=dropped)


def read_dinov2(source: Mapping[str, Any], path: Path) -> Checkpoint:
    """DINOv2's backbone files, with or without registers."""
    state, dropped = convert(source, DINO_V2, path)
    if "reg_token" in state:
        state = fold_class_position(state)
    return Checkpoint(state, DINO_V2.name, dropped=dropped)
