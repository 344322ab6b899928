"""A backbone and an adapter so small that thousands of models are built in a minute, and files of every kind that is read."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import promptvit
from promptvit.backbones.base import Backbone
from promptvit.backbones.families import wrap
from promptvit.preprocessing import Preprocessing

ARCH = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 1}


@cache
def vit() -> VisionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(**ARCH, num_classes=0).eval()


@cache
def backbone() -> Backbone:
    return wrap(vit(), name="small", preprocessing=Preprocessing(size=(16, 16)), is_mae=False)


def adapter(folder: Path, method: str = "vpt-deep", **options: Any) -> Path:
    """A saved adapter of three classes."""
    model = promptvit.create_model(backbone(), method, 3, classes=["ant", "bee", "été"], **options)
    return model.save_pretrained(folder, metrics={"split": "test", "accuracy": 0.5})


def noise(size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    return Image.fromarray(pixels if bands > 1 else pixels[..., 0]).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


SETTINGS_OF_A_RUN = {
    "method": "vpt-deep",
    "backbone": "b",
    "data": "vtab/cifar",
    "seed": 0,
    "lr": 0.1,
    "data_seed": 0,
    "out": "runs/x",
    "options": {},
    "pretrained": True,
    "normalization": "imagenet",
    "resize": "direct",
    "augment": "none",
}
