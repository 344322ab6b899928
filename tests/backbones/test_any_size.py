"""Tokens at sizes that a backbone was not loaded for: those of timm's own models with ``dynamic_img_size``."""

import pytest
import torch
from timm.models.eva import Eva as TimmEva
from timm.models.vision_transformer import VisionTransformer

from promptvit.backbones.base import Pass
from promptvit.backbones.families import wrap
from promptvit.preprocessing import Preprocessing

FLAT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
BUILDS = {
    "class token": (VisionTransformer, {}),
    "registers, positions of patches only": (VisionTransformer, {"reg_tokens": 2, "no_embed_class": True}),
    "no absolute positions": (VisionTransformer, {"pos_embed": "none"}),
    "rotary": (TimmEva, {"use_rot_pos_emb": True, "swiglu_mlp": True, "num_reg_tokens": 2, "ref_feat_shape": (4, 4)}),
    "rotary, no absolute positions": (TimmEva, {"use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_type": "dinov3"}),
}


@pytest.mark.parametrize("size", [(32, 32), (48, 24), (8, 64)])
@pytest.mark.parametrize("kind", BUILDS)
def test_tokens_equal_timm(kind, size):
    build, options = BUILDS[kind]
    torch.manual_seed(0)
    model, dynamic = build(**FLAT, **options), build(**FLAT, **options, dynamic_img_size=True)
    dynamic.load_state_dict(model.state_dict())
    backbone = wrap(model, name=kind, preprocessing=Preprocessing(size=(32, 32)))
    images = torch.randn(2, 3, *size)
    step = Pass(backbone, images, "mean", any_size=True)
    x = step.tokens
    for i in range(step.depth):
        x, _ = step(i, x, None)
    assert step.grid == (size[0] // 8, size[1] // 8)
    expected = dynamic.eval().forward_features(images)
    torch.testing.assert_close(model.norm(x), expected, rtol=1e-4, atol=1e-5)


def test_sides_must_be_multiples_of_the_patch():
    backbone = wrap(VisionTransformer(**FLAT), name="small", preprocessing=Preprocessing(size=(32, 32)))
    with pytest.raises(ValueError, match=r"sides of \(32, 36\) are no multiples of the patch \(8, 8\)"):
        backbone.embed(torch.zeros(1, 3, 32, 36), any_size=True)
    with pytest.raises(ValueError, match="expects 32x32 pixels, got 32x40"):
        backbone.embed(torch.zeros(1, 3, 32, 40))
