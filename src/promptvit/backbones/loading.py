"""Load a frozen backbone by timm name, bundled name, hub address or local file; nothing that does not fit is loaded."""

import logging
import os
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from promptvit.backbones import bundled
from promptvit.backbones.base import Backbone
from promptvit.backbones.building import build_for, seeded
from promptvit.backbones.checkpoints import read_checkpoint
from promptvit.backbones.families import wrap
from promptvit.errors import nearest, shown
from promptvit.preprocessing import Preprocessing

log = logging.getLogger(__name__)

# what the published weights were trained with, where their files do not say
_PUBLISHED: dict[str, dict[str, Any]] = {"in21k-npz": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}}

_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".npz", ".safetensors")


def list_backbones() -> list[str]:
    """Bundled names first, then every timm name with pretrained weights whose architecture is supported."""
    modules = ("vision_transformer", "deit", "eva", "swin_transformer")
    names = {name for module in modules for name in timm.list_models(module=module, pretrained=True, exclude_filters="*distilled*")}
    return [*bundled.names(), *sorted(names)]


def load_backbone(
    name_or_path: str | os.PathLike[str],
    *,
    pretrained: bool = True,
    arch: str | dict[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    pool: str | None = None,
    seed: int = 0,
) -> Backbone:
    """Load a Vision Transformer, frozen, without its classifier.

    Args:
        name_or_path: a bundled name, a timm name (``timm:`` may stand in front), ``hf:owner/name``, or a checkpoint file or folder.
        pretrained: False gives seeded random weights without touching the network or the global random state.
        arch: timm name, or arguments of timm's ``VisionTransformer``, for files that cannot tell their own.
        image_size: pixels (side, or height and width); position embeddings are interpolated as timm does. Default: the weights' own.
        pool: the feature to read by default; see :class:`~promptvit.backbones.base.Backbone`.
        seed: of the random weights.

    Raises:
        ValueError: an unknown name, a file that does not fit its architecture (with the missing and unexpected keys), an ``arch`` that
            contradicts the file, an unsupported architecture, or weights that are neither cached nor reachable.
    """
    name = os.fspath(name_or_path)
    folder = bundled.folder(name)
    if is_path(name):
        folder = Path(name).expanduser()
        if not folder.exists():
            raise ValueError(f"backbone: no file or folder {name}")
    if folder is None and name.startswith("hf:"):
        folder = _from_hub(name.removeprefix("hf:"))
    if folder is not None:
        checkpoint = read_checkpoint(folder)
        model = build_for(checkpoint, arch, name, seed)
        own_facts = getattr(model, "pretrained_cfg", {}) if checkpoint.format == "timm" else _PUBLISHED.get(checkpoint.format, {})
        facts = {**own_facts, "input_size": model.patch_embed.img_size, **checkpoint.pretrained_cfg}
        is_mae = checkpoint.is_mae or facts.get("tag") == "mae"
        if pretrained:
            _load_exactly(model, checkpoint.state, name)
    else:
        timm_name = name.removeprefix("timm:")
        if arch is not None:
            raise ValueError(f"arch: {name} is a timm name and knows its architecture; leave arch out")
        if not timm.is_model(timm_name):
            near = nearest(name, [*bundled.names(), *timm.list_models()])
            raise ValueError(f"unknown backbone {name!r};{near} `promptvit list backbones` shows the names; or give a checkpoint file")
        model = _from_timm(timm_name, pretrained, seed)
        facts = dict(model.pretrained_cfg)
        is_mae = "mae" in str(facts.get("tag", "")) or facts.get("architecture", "").endswith("_mae")

    shown = name if folder is None or str(folder) != name else folder.name
    backbone = wrap(model, name=shown, preprocessing=_preprocessing(facts, name), is_mae=is_mae, pool=pool)
    if image_size is not None:
        backbone = _at_size(backbone, image_size)
    public = folder is None or bundled.folder(name) is not None or name.startswith("hf:")
    backbone.load_arguments = (
        {"name_or_path": name, "pretrained": pretrained, "arch": arch, "image_size": image_size, "pool": pool, "seed": seed}
        if public
        else None
    )
    return backbone


def is_path(name: str) -> bool:
    """Whether ``name`` is meant as a file or folder, and as no public name."""
    looks_like_one = name.endswith(_SUFFIXES) or any(mark in name for mark in (os.sep, "/", "~"))
    return bundled.folder(name) is None and (Path(name).exists() or (looks_like_one and not name.startswith("hf:")))


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "pytorch_model.bin"]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:
        raise ValueError(
            f"backbone: hf:{repository} is not cached and could not be fetched ({type(error).__name__}); download it where there is a "
            "network and give the folder's path"
        ) from None


def _from_timm(name: str, pretrained: bool, seed: int) -> Any:
    if not pretrained:
        return seeded(lambda: timm.create_model(name, pretrained=False, num_classes=0), seed)
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:
        detail = (str(error).splitlines() or ["no detail"])[0]
        raise ValueError(
            f"backbone: no usable weights for {name} ({type(error).__name__}: {detail}). "
            f"With no network and no cache, give a file: load_backbone('weights.safetensors', arch='{name}'), or pretrained=False for "
            "random weights"
        ) from None


def _load_exactly(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Load ``state`` with nothing missing, nothing unexpected and every shape equal."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    wrong = [
        f"{k} {tuple(v.shape)} (the architecture has {expected[k]})"
        for k, v in state.items()
        if k in expected and tuple(v.shape) != expected[k]
    ]
    if missing or unexpected or wrong:
        faults = [
            f"{label}: {_few(keys)}" for label, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong)) if keys
        ]
        raise ValueError(f"backbone: {name} does not fit the architecture; {'; '.join(faults)}; check arch=")
    model.load_state_dict(state)


def _few(items: list[str]) -> str:
    return ", ".join(items[:8]) + (f" and {len(items) - 8} more" if len(items) > 8 else "")


def _preprocessing(facts: dict[str, Any], name: str) -> Preprocessing:
    try:
        return Preprocessing(**_fields(facts))
    except (TypeError, ValueError) as error:
        raise ValueError(f"backbone: {name}: its preprocessing cannot be used: {shown(' '.join(str(error).split()))}") from None


def _fields(facts: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "input_size" in facts:
        fields["size"] = tuple(facts["input_size"][-2:])
    for key in ("mean", "std"):
        if key in facts:
            fields[key] = tuple(facts[key])
    if facts.get("interpolation") in ("nearest", "bilinear", "bicubic", "lanczos"):
        fields["interpolation"] = facts["interpolation"]
    if facts.get("crop_mode") == "squash":
        fields["resize"] = "direct"
    if facts.get("crop_pct") is not None:
        fields["crop_pct"] = facts["crop_pct"]
    return fields


def _at_size(backbone: Backbone, image_size: int | tuple[int, int]) -> Backbone:
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if size == tuple(backbone.preprocessing.size):
        return backbone
    if any(s % p for s, p in zip(size, backbone.patch_size, strict=True)):
        raise ValueError(f"image_size: {size} is not a multiple of the patch size {backbone.patch_size}")
    _ = backbone.fingerprint  # of the source tensors, before interpolation
    backbone.model.set_input_size(img_size=size)
    log.info("image size %s instead of the weights' own %s: positions interpolated", size, backbone.preprocessing.size)
    resized = wrap(
        backbone.model,
        name=backbone.name,
        preprocessing=backbone.preprocessing.model_copy(update={"size": size}),
        is_mae=backbone.is_mae,
        pool=backbone.pool,
    )
    resized._fingerprint = backbone._fingerprint
    return resized
