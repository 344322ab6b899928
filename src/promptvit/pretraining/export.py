"""Export of a pre-trained encoder as a timm folder, which is how the bundled backbones are stored."""

import json
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from timm.models.vision_transformer import VisionTransformer

from promptvit import files
from promptvit.data.proc import stream
from promptvit.pretraining.objective import MEAN, STD, PretrainSettings


def export_folder(encoder: VisionTransformer, settings: PretrainSettings, folder: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write ``config.json`` (timm's layout) and ``model.safetensors``, which timm and :func:`promptvit.load_backbone` read."""
    config = {
        "architecture": "vit_base_patch16_224",  # only names the family; model_args hold every size
        "model_args": settings.architecture(),
        "pretrained_cfg": {
            "tag": settings.objective,
            "input_size": [3, settings.image_size, settings.image_size],
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "num_classes": 0,
        },
        "promptvit": {"settings": settings.model_dump(), "stream_version": stream.VERSION},
    }
    files.write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    with files.atomic(folder / "model.safetensors") as temporary:
        temporary.write_bytes(to_bytes({key: value.to(dtype).cpu().contiguous() for key, value in encoder.state_dict().items()}))
    return folder
