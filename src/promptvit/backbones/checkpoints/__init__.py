"""Published checkpoints of ViTs, each read by the function of its format into tensors under timm's names. No code in a file runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptvit.backbones.checkpoints.huggingface import read_huggingface
from promptvit.backbones.checkpoints.npz import read_in21k
from promptvit.backbones.checkpoints.published import read_dino, read_dinov2, read_mae, read_mocov3
from promptvit.backbones.checkpoints.raw import kind, load_json, load_npz, load_tensors
from promptvit.backbones.checkpoints.state import Checkpoint, CheckpointError, listing
from promptvit.backbones.checkpoints.timm_format import read_timm, read_timm_folder

__all__ = [
    "Checkpoint", "CheckpointError", "read_checkpoint",
    "read_dino", "read_dinov2", "read_huggingface", "read_in21k", "read_mae", "read_mocov3", "read_timm", "read_timm_folder",
]

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FORMATS = (
    "ImageNet-21k npz, MAE, MoCo v3, DINO, DINOv2, timm (ViT, Eva, Swin), and folders of timm or of Hugging Face ViT, ViTMAE and DINOv2 "
    "(config.json beside the weights)"
)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file or folder, whatever its format.

    Args:
        path: an ``.npz``, PyTorch or safetensors file, or a folder with ``config.json`` and weights.

    Returns:
        Tensors under timm's names, and what the file says about itself.

    Raises:
        CheckpointError: not a checkpoint, of no known format, incomplete, with unexpected keys or values that are not finite, or
            with code in it.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if kind(path) == "npz":
        return read_in21k(load_npz(path), path)
    return _read_file(path)


def _read_folder(folder: Path) -> Checkpoint:
    weights = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if weights is None:
        raise CheckpointError(f"{folder}: a folder without weights; expected {' or '.join(WEIGHTS)} in it")
    if not (folder / "config.json").exists():
        return _read_file(weights)
    config = load_json(folder / "config.json")
    _, _, source = _unwrap(weights)
    if "model_type" in config:
        return read_huggingface(config, source, weights)
    if "architecture" in config:
        return read_timm_folder(config, source, weights)
    raise CheckpointError(f"{folder / 'config.json'}: neither timm's (architecture) nor Hugging Face's (model_type)")


def _read_file(path: Path) -> Checkpoint:
    """Tell the format by the keys."""
    top, wrapper, source = _unwrap(path)

    def has(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in source)

    if has("module.base_encoder.", "module.patch_embed.", "module.blocks."):
        return read_mocov3(source, path, top.get("arch"))
    if has("backbone.", "module.backbone."):
        return read_dino(source, path)
    if "register_tokens" in source or ("mask_token" in source and "blocks.0.ls1.gamma" in source):
        return read_dinov2(source, path)
    # A supervised ViT (DeiT) may sit under `model` too, but with a head; MAE's encoder has none.
    if has("decoder_") or "mask_token" in source or (wrapper == "model" and not has("head.", "layers.")):
        return read_mae(source, path)
    if has("patch_embed.", "blocks.", "layers."):
        return read_timm(source, path)
    raise CheckpointError(f"{path}: keys of no known format: {listing(list(source), 4) or 'none'}; understood are {FORMATS}")


def _unwrap(path: Path) -> tuple[Mapping[str, Any], str | None, Mapping[str, Any]]:
    """What the file holds, the key under which it keeps its tensors (None: at the top), and the tensors. DINO's teacher comes first."""
    top = load_tensors(path)
    wrapper = None
    if isinstance(top, Mapping):
        wrapper = next((name for name in ("teacher", "student", "state_dict", "model") if isinstance(top.get(name), Mapping)), None)
    source = top if wrapper is None else top[wrapper]
    if not isinstance(source, Mapping) or not all(isinstance(key, str) for key in source):
        raise CheckpointError(f"{path}: holds a {type(source).__name__}, not a dictionary of named tensors")
    return top, wrapper, source
