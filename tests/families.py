"""A tiny backbone of every family, and which method runs on which."""

import pytest
import torch
from timm.models.eva import Eva as TimmEva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

import promptvit
from promptvit.backbones.families import wrap
from promptvit.methods import method_class
from promptvit.preprocessing import Preprocessing

SIZE = 32
FLAT = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}


def vit_class_token():
    return VisionTransformer(**FLAT), {}


def vit_registers_no_class_token():
    return VisionTransformer(**FLAT, class_token=False, reg_tokens=2, global_pool="avg", qk_norm=True, init_values=0.5), {}


def mae_mean_pool():
    return VisionTransformer(**FLAT), {"is_mae": True}


def eva_rotary():
    return TimmEva(**FLAT, use_rot_pos_emb=True, swiglu_mlp=True, num_reg_tokens=2, init_values=0.5, ref_feat_shape=(4, 4)), {}


def swin():
    return SwinTransformer(img_size=SIZE, patch_size=2, embed_dim=16, depths=(1, 2), num_heads=(2, 2), window_size=4, num_classes=0), {}


FAMILIES = [vit_class_token, vit_registers_no_class_token, mae_mean_pool, eva_rotary, swin]


def backbone_of(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, facts = build()
        for parameter in model.parameters():  # far from the initial near-identity, so that faults show
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return wrap(model, name=build.__name__, preprocessing=Preprocessing(size=(SIZE, SIZE)), **facts)


def images(batch=4, seed=1):
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def pairs(families):
    """(method, family) that run, and those that are refused."""
    runs, refused = [], []
    for build in families:
        kind = backbone_of(build).family
        for method in promptvit.list_methods():
            (runs if kind in method_class(method).families else refused).append(
                pytest.param((method, build), id=f"{method}-{build.__name__}")
            )
    return runs, refused


def model_of(method, backbone, classes=5, prompts=4, **options):
    """A model that is started from data where the method does that."""
    made = promptvit.create_model(backbone, method, classes, num_prompts=prompts, seed=3, **options)
    if made.method.needs_data:
        made.method.initialize(made.backbone, [images(8)], torch.Generator().manual_seed(0))
    return made
