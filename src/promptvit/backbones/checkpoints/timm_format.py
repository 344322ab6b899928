"""timm's own weights: a flat state dict, or a hub folder with ``config.json``. ViT, Eva and Swin pass through under their names.

Which of them must exist depends on the model, so the loader's strict ``load_state_dict`` has the last word.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptvit.backbones.checkpoints.state import Checkpoint, CheckpointError, Layout, convert

# Swin's index tables and masks are recomputed by timm; older exports stored them.
_TABLES = r".+\.(?:relative_position_index|attn_mask)"
TIMM = Layout(
    "timm",
    keep=(
        (rf"((?!{_TABLES})(?:blocks|layers|norm|norm_pre|fc_norm|attn_pool|rope|patch_embed\.proj|patch_embed\.norm)\..+)", r"\1"),
        ("(cls_token|reg_token|pos_embed)", r"\1"),
    ),
    drop=rf"(?:head|pre_logits)\..+|{_TABLES}",
    root=frozenset(("patch_embed.proj.weight",)),
    block=frozenset(),
)
PREPROCESSING = ("mean", "std", "input_size", "interpolation", "crop_pct", "crop_mode")


def read_timm(source: Mapping[str, Any], path: Path) -> Checkpoint:
    """A flat state dict of timm's ViT, Eva or Swin."""
    state, dropped = convert(source, TIMM, path)
    return Checkpoint(state, TIMM.name, dropped=dropped)


def read_timm_folder(config: Mapping[str, Any], source: Mapping[str, Any], path: Path) -> Checkpoint:
    """A hub folder: ``architecture``, ``model_args``, ``pretrained_cfg``; older ones keep the last one's fields at the top."""
    state, dropped = convert(source, TIMM, path)
    name, model_args, cfg = config["architecture"], config.get("model_args") or {}, config.get("pretrained_cfg", config)
    if not isinstance(name, str) or not isinstance(model_args, dict) or not isinstance(cfg, dict):
        raise CheckpointError(f"{path.parent / 'config.json'}: architecture, model_args or pretrained_cfg has the wrong type")
    preprocessing = {key: cfg[key] for key in PREPROCESSING if cfg.get(key) is not None}
    return Checkpoint(state, TIMM.name, {"name": name, **model_args}, preprocessing, is_mae=cfg.get("tag") == "mae", dropped=dropped)
