"""Which backbone class serves which timm class."""

from typing import Any

from timm.models.eva import Eva as TimmEva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from promptvit.backbones.base import Backbone
from promptvit.backbones.eva import Eva
from promptvit.backbones.swin import Swin
from promptvit.backbones.vit import ViT

FAMILIES: dict[type[nn.Module], type[Backbone]] = {VisionTransformer: ViT, TimmEva: Eva, SwinTransformer: Swin}


def wrap(model: nn.Module, **facts: Any) -> Backbone:
    """The frozen backbone around a timm model.

    Raises:
        ValueError: no family serves this class.
    """
    for timm_class, family in FAMILIES.items():
        if type(model) is timm_class:
            return family(model, **facts)
    supported = ", ".join(timm_class.__name__ for timm_class in FAMILIES)
    raise ValueError(f"backbone: {type(model).__name__} is not supported; supported timm classes: {supported}")
