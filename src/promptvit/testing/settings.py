"""A vector's metadata as our backbone, method and options."""

from functools import partial
from typing import Any, NamedTuple

from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from promptvit.backbones.base import Backbone
from promptvit.backbones.families import wrap
from promptvit.errors import first_line
from promptvit.preprocessing import Preprocessing
from promptvit.testing.vector import Vector

POOLS = {
    "cls": "cls", "original": "patches+prompts", "all_but_cls": "patches+prompts", "imgprompt_pool": "patches+prompts",
    "img_pool": "mean", "prompt_pool": "prompts", "avg_all": "patches+prompts",
}


class Setting(NamedTuple):
    """What to build: a method, its options, and the table of parameter names."""

    method: str
    options: dict[str, Any]
    names: str


def backbone_of(vector: Vector, weights: dict[str, Tensor]) -> Backbone:
    """The frozen backbone with ``weights`` (timm names)."""
    shape, swin = vector.meta["shape"], vector.meta["backbone"] == "swin"
    names = ("depths", "window") if swin else ("depth",)
    img, patch, dim, heads, *rest = (vector.field("shape", name) for name in ("img", "patch", "dim", "heads", *names))
    common = {
        "img_size": img, "patch_size": patch, "embed_dim": dim, "num_heads": heads, "mlp_ratio": shape.get("mlp_ratio", 4),
        "norm_layer": partial(nn.LayerNorm, eps=vector.meta["ln_eps"]), "num_classes": 0,
    }
    try:
        model: nn.Module
        if swin:
            model = SwinTransformer(**common, depths=rest[0], window_size=rest[1])
        else:
            model = VisionTransformer(**common, depth=rest[0], fc_norm="fc_norm.weight" in weights)
    except Exception as error:  # timm checks little; any failure means a shape that makes no model
        raise vector.error(f"metadata shape {shape} makes no {vector.meta['backbone']} ({first_line(error)})") from error
    state = model.state_dict()
    buffers = {name for name in state if name.endswith(("attn_mask", "relative_position_index"))}
    for name in sorted((state.keys() - buffers) ^ weights.keys()):
        raise vector.error(f"{'no tensor' if name in state else 'unexpected tensor'} timm/{name}")
    for name, tensor in weights.items():
        if tensor.shape != state[name].shape:
            raise vector.error(f"timm/{name} has shape {tuple(tensor.shape)}, the metadata makes {tuple(state[name].shape)}")
    model.load_state_dict(weights, strict=False)
    return wrap(model, name=vector.meta["case"], preprocessing=Preprocessing(size=(img, img), crop_pct=1.0))


def setting(vector: Vector) -> Setting:
    """Our method and options for the authors'.

    Raises:
        ValueError: a method, pooling or option that we do not know.
    """
    method = vector.meta["method"]
    if method not in SETTINGS:
        raise vector.error(f"metadata method is {method!r}; known: {', '.join(SETTINGS)}")
    return SETTINGS[method](vector)


def vpt(vector: Vector) -> Setting:
    prompt = vector.meta["prompt"]
    common = prompts(vector)
    if vector.meta["backbone"] in ("vit_supervised", "vit_mocov3") and common["pool"] != "cls":
        common["pool"] = f"norm+{common['pool']}"
    if prompt.get("project", -1) > 0:
        common["project"] = prompt["project"]
    if not prompt["deep"]:
        return Setting("vpt-shallow", common, "vpt")
    layers = prompt.get("num_deep_layers")
    if prompt.get("reverse_deep"):
        common["last"] = layers
    elif layers is not None:
        common |= {"first": layers, "beyond": "remove" if prompt.get("forward_deep_noexpand") else "keep"}
    return Setting("vpt-deep", {**common, "shared": bool(prompt.get("deep_shared"))}, "vpt")


def gapt(vector: Vector) -> Setting:
    """Deep prompts switch the authors' gates and temperatures off: what runs is VPT-deep."""
    if vector.field("prompt", "deep"):
        return Setting("vpt-deep", prompts(vector), "vpt")
    return gated(vector)


def gated(vector: Vector) -> Setting:
    """GaPT's own parameters, whatever its deep mode makes of them."""
    gate, temperature = vector.field("gate"), vector.field("temperature")
    options = {
        **prompts(vector), "gates": gate["num"] if gate["enabled"] and gate["num"] else "none",
        "temperature": "learned" if temperature["learned"] else temperature["fixed_value"],
        "temperature_range": (temperature["min"], temperature["max"]),
    }
    return Setting("gapt", options, "gapt")


def spt(vector: Vector) -> Setting:
    return Setting("spt-deep" if vector.field("prompt", "deep") else "spt-shallow", prompts(vector), "spt")


def sa2vp(vector: Vector) -> Setting:
    prompt, swin = vector.meta["prompt"], vector.meta["backbone"] == "swin"
    to_prompt = vector.field("prompt", "image_to_prompt_blocks" if swin else "image_to_prompt_layers")
    maps = prompt.get("inner_prompt_layers", [])
    if maps != to_prompt[1 : len(maps) + 1]:
        raise vector.error(f"metadata inserts maps at {maps}; ours go to the image-to-prompt blocks after the first, {to_prompt[1:]}")
    options = {
        "rank": vector.field("prompt", "inner_dim"), "scale": vector.field("prompt", "add_scale"), "to_prompt": tuple(to_prompt),
        "maps": len(maps), "attention": "padded" if "padded" in vector.field("prompt", "cross_neighbourhood") else "exact",
        "pool": "mean" if swin else "cls",
    }
    return Setting("sa2vp", options, "sa2vp")


SETTINGS = {"vpt": vpt, "gapt": gapt, "spt": spt, "sa2vp": sa2vp}


def prompts(vector: Vector) -> dict[str, Any]:
    """Options that every method with prompt tokens has."""
    pool, location = vector.field("prompt", "pool"), vector.field("prompt", "location")
    if pool not in POOLS or location != "prepend":
        raise vector.error(f"metadata prompt: pool {pool!r}, location {location!r}; known: {', '.join(POOLS)}; prepend")
    return {"num_prompts": vector.field("prompt", "num_tokens"), "pool": POOLS[pool]}
