"""Folders that Hugging Face ``transformers`` writes for ViT, ViTMAE, DINOv2 and DINOv2 with registers.

``config.json`` says everything about the architecture. Query, key and value are separate layers and get stacked; the tables below
hold for the base model and, behind its prefix (``vit.``, ``dinov2.``), for models with a head.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, PositiveFloat, PositiveInt, ValidationError
from timm.layers.mlp import SwiGLUPacked
from torch import nn

from promptvit.backbones.checkpoints.raw import load_json
from promptvit.backbones.checkpoints.state import (
    BLOCK,
    LAYER_SCALE,
    PARAM,
    ROOT,
    Checkpoint,
    CheckpointError,
    Layout,
    convert,
    depth,
    fold_class_position,
)
from promptvit.errors import shown

_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def _layout(
    name: str, prefix: str, block: tuple[tuple[str, str], ...], drop: str, required: frozenset[str] = BLOCK, root: frozenset[str] = ROOT
) -> Layout:
    base, layer = rf"(?:{prefix}\.)?", rf"(?:{prefix}\.)?encoder\.layer\.(\d+)\."
    return Layout(
        name,
        keep=(
            (base + r"embeddings\.cls_token", "cls_token"),
            (base + r"embeddings\.position_embeddings", "pos_embed"),
            (base + r"embeddings\.register_tokens", "reg_token"),
            (base + rf"embeddings\.patch_embeddings\.projection\.({PARAM})", r"patch_embed.proj.\1"),
            (base + rf"layernorm\.({PARAM})", r"norm.\1"),
            (layer + rf"attention\.attention\.(query|key|value)\.({PARAM})", r"blocks.\1.attn.\2.\3"),
            (layer + rf"attention\.output\.dense\.({PARAM})", r"blocks.\1.attn.proj.\2"),
            *((layer + source, target) for source, target in block),
        ),
        drop=base + rf"embeddings\.mask_token|{drop}",
        root=root,
        block=required - {"attn.qkv.bias"},  # optional, see `qkv_bias`
    )


_VIT_BLOCK = (
    (rf"layernorm_before\.({PARAM})", r"blocks.\1.norm1.\2"),
    (rf"layernorm_after\.({PARAM})", r"blocks.\1.norm2.\2"),
    (rf"intermediate\.dense\.({PARAM})", r"blocks.\1.mlp.fc1.\2"),
    (rf"output\.dense\.({PARAM})", r"blocks.\1.mlp.fc2.\2"),
)
_DINO_V2_BLOCK = (
    (rf"(norm[12]|mlp\.fc[12])\.({PARAM})", r"blocks.\1.\2.\3"),
    (rf"mlp\.weights_in\.({PARAM})", r"blocks.\1.mlp.fc1.\2"),
    (rf"mlp\.weights_out\.({PARAM})", r"blocks.\1.mlp.fc2.\2"),
    (r"layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
)
_VIT_DROP = r"(?:vit\.)?pooler\..+|classifier\..+|decoder\..+"
_DINO_V2_DROP = r"classifier\..+"
_SCALED = BLOCK | LAYER_SCALE
LAYOUTS = {
    "vit": _layout("hf-vit", "vit", _VIT_BLOCK, _VIT_DROP),
    "vit_mae": _layout("hf-vitmae", "vit", _VIT_BLOCK, _VIT_DROP),
    "dinov2": _layout("hf-dinov2", "dinov2", _DINO_V2_BLOCK, _DINO_V2_DROP, _SCALED),
    "dinov2_with_registers": _layout(
        "hf-dinov2", "dinov2_with_registers", _DINO_V2_BLOCK, _DINO_V2_DROP, _SCALED, ROOT | {"reg_token"}
    ),
}

M = TypeVar("M", bound=BaseModel)
Sides = PositiveInt | tuple[PositiveInt, PositiveInt]


class _Config(BaseModel):
    """The fields of ``config.json`` that decide what the model computes; defaults are those of ``transformers``."""

    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    image_size: Sides
    patch_size: Sides
    layer_norm_eps: PositiveFloat
    hidden_act: Literal["gelu"] = "gelu"
    num_channels: PositiveInt = 3
    qkv_bias: bool = True

    def arch(self) -> dict[str, Any]:
        return {
            "img_size": _plain(self.image_size), "patch_size": _plain(self.patch_size), "in_chans": self.num_channels,
            "embed_dim": self.hidden_size, "depth": self.num_hidden_layers, "num_heads": self.num_attention_heads,
            "qkv_bias": self.qkv_bias, "norm_eps": self.layer_norm_eps, "num_classes": 0,
        }

    def ratio(self, hidden: int) -> float:
        """MLP ratio from which timm's ``int(width * ratio)`` gives ``hidden`` again."""
        return hidden / self.hidden_size if hidden % self.hidden_size == 0 else (hidden + 0.5) / self.hidden_size


class _ViTConfig(_Config):
    intermediate_size: PositiveInt

    def arch(self) -> dict[str, Any]:
        return super().arch() | {"mlp_ratio": self.ratio(self.intermediate_size)}


class _DinoV2Config(_Config):
    mlp_ratio: PositiveFloat
    use_swiglu_ffn: bool = False
    num_register_tokens: int = 0

    def arch(self) -> dict[str, Any]:
        hidden = int(self.hidden_size * self.mlp_ratio)
        arch = super().arch() | {"init_values": 1.0}  # there is a layer scale; its values are in the file
        if self.num_register_tokens:
            arch |= {"reg_tokens": self.num_register_tokens, "no_embed_class": True}
        if self.use_swiglu_ffn:  # two thirds, rounded up to a multiple of 8; both halves of the gate are one layer
            hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
            arch |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
        return arch | {"mlp_ratio": self.ratio(hidden)}


class _Processor(BaseModel):
    """The fields of ``preprocessor_config.json`` that decide what the model sees."""

    do_normalize: bool = True
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    resample: int | None = None
    size: int | dict[str, int] | None = None
    do_center_crop: bool = False
    crop_size: int | dict[str, int] | None = None

    def pretrained_cfg(self) -> dict[str, Any]:
        """The same under timm's names. A height and a width mean that the aspect ratio is not kept (timm: ``squash``).

        The size itself is left out: DINOv2's says 224 for weights with positions for 518.
        """
        cfg: dict[str, Any] = {}
        if not self.do_normalize:
            cfg |= {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        elif self.image_mean and self.image_std:
            cfg |= {"mean": self.image_mean, "std": self.image_std}
        if self.resample in _INTERPOLATIONS:
            cfg["interpolation"] = _INTERPOLATIONS[self.resample]
        shortest = self.size.get("shortest_edge") if isinstance(self.size, dict) else self.size
        if self.do_center_crop and shortest and (crop := _height(self.crop_size)):
            cfg |= {"crop_pct": min(1.0, crop / shortest), "crop_mode": "center"}
        elif _height(self.size):
            cfg |= {"crop_pct": 1.0, "crop_mode": "squash"}
        return cfg


def read_huggingface(config: Mapping[str, Any], source: Mapping[str, Any], path: Path) -> Checkpoint:
    """A folder of ``transformers``; ``path`` is the file of weights beside ``config.json``."""
    model_type = config["model_type"]
    if not isinstance(model_type, str) or model_type not in LAYOUTS:
        raise CheckpointError(f"{path.parent}: unknown model_type {shown(model_type)} in config.json; understood are {', '.join(LAYOUTS)}")
    layout = LAYOUTS[model_type]
    schema = _DinoV2Config if model_type.startswith("dinov2") else _ViTConfig
    settings = _validated(schema, config, path.parent / "config.json")
    state, dropped = convert(source, layout, path)
    if (found := depth(state)) != settings.num_hidden_layers:
        raise CheckpointError(f"{path}: holds {found} blocks, its config.json says {settings.num_hidden_layers}; missing or too many: "
                              f"blocks.{min(found, settings.num_hidden_layers)}")
    if "reg_token" in state:
        state = fold_class_position(state)
    height, width = settings.image_size if isinstance(settings.image_size, tuple) else (settings.image_size,) * 2
    cfg: dict[str, Any] = {"input_size": (settings.num_channels, height, width)}
    processor = path.parent / "preprocessor_config.json"
    if processor.is_file():
        cfg |= _validated(_Processor, load_json(processor), processor).pretrained_cfg()
    return Checkpoint(state, layout.name, settings.arch(), cfg, is_mae=model_type == "vit_mae", dropped=dropped)


def _validated(schema: type[M], values: Mapping[str, Any], path: Path) -> M:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise CheckpointError(f"{path}: {faults}") from None


def _height(size: int | dict[str, int] | None) -> int | None:
    return size.get("height") if isinstance(size, dict) else size


def _plain(sides: int | tuple[int, int]) -> int | tuple[int, int]:
    """One number for a square, so that equal architectures compare equal."""
    return sides[0] if isinstance(sides, tuple) and sides[0] == sides[1] else sides
