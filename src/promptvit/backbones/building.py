"""An untrained model of the architecture that a checkpoint states. What a file says of itself is checked before anything is built of it."""

import inspect
from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Any

import timm
import torch
from timm.layers import LayerNorm
from timm.models import VisionTransformer
from torch import nn

from promptvit.backbones.checkpoints import Checkpoint
from promptvit.backbones.families import FAMILIES
from promptvit.errors import nearest, shown

# What the classes themselves take. timm's own functions take more, such as paths and addresses to load from.
ARGUMENTS = frozenset(chain.from_iterable(inspect.signature(family).parameters for family in FAMILIES)) - {"device", "dtype"}
SLACK = 2**29  # bytes of a model that need not be in its file: tables of positions, masks of windows


def build_for(checkpoint: Checkpoint, arch: str | dict[str, Any] | None, name: str, seed: int) -> Any:
    """An untrained timm model of the architecture that the file states, or else ``arch``; ``name`` is the file's, for messages.

    Raises:
        ValueError: no architecture, one that contradicts the file, that timm does not know or cannot build, or that is far larger
            than the file's tensors.
    """
    chosen = _chosen(checkpoint, arch, name)
    arguments = {key: value for key, value in chosen.items() if key not in ("name", "norm_eps")} | {"num_classes": 0}
    if odd := sorted(arguments.keys() - ARGUMENTS, key=str):
        raise ValueError(f"arch: {name}: {shown(odd[0])} is no argument of a model; valid: {', '.join(sorted(ARGUMENTS))}")
    if "norm_eps" in chosen:
        arguments["norm_layer"] = partial(LayerNorm, eps=chosen["norm_eps"])
    timm_name = chosen.get("name")
    if timm_name is not None and not (isinstance(timm_name, str) and timm.is_model(timm_name)):
        near = nearest(timm_name, timm.list_models()) if isinstance(timm_name, str) else ""
        raise ValueError(f"unknown arch {shown(timm_name)};{near} give a timm name")

    def build() -> nn.Module:
        return timm.create_model(timm_name, **arguments) if timm_name else VisionTransformer(**arguments)

    try:
        _check_size(build, arguments, checkpoint)
        return seeded(build, seed)
    except Exception as error:  # the values may be anything
        what = f"{timm_name or 'VisionTransformer'} from {shown(arguments, 600)}"
        raise ValueError(f"arch: {name}: timm cannot build {what}: {shown(str(error))}") from None


def seeded(build: Any, seed: int) -> Any:
    """What ``build`` makes with weights drawn from ``seed``; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _chosen(checkpoint: Checkpoint, arch: str | dict[str, Any] | None, name: str) -> dict[str, Any]:
    """The file's own word, completed by ``arch``."""
    own = checkpoint.arch
    if own is None and arch is None:
        raise ValueError(
            f"arch: {name} ({checkpoint.format}) does not say its architecture; give a timm name such as arch='vit_base_patch16_224', or "
            "a dict of timm VisionTransformer arguments (head counts cannot be read off the weights)"
        )
    if own is not None and isinstance(arch, dict):
        clashes = {k: (own[k], v) for k, v in arch.items() if k in own and own[k] != v}
        if clashes:
            raise ValueError(
                "arch: the file's own config says otherwise: " + ", ".join(f"{k}={a!r}, not {b!r}" for k, (a, b) in clashes.items())
            )
        return {**arch, **own}
    if own is not None and isinstance(arch, str) and own.get("name", arch) != arch:
        raise ValueError(f"arch: the file's own config says {own['name']}, not {arch}")
    return own if own is not None else arch if isinstance(arch, dict) else {"name": arch}


def _check_size(build: Any, arguments: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Without memory for its weights: a file of a few bytes may state an architecture of any size."""
    for key in ("depth", "depths"):
        blocks = arguments.get(key, 0)
        if sum(blocks if isinstance(blocks, (list, tuple)) else [blocks]) > len(checkpoint.state):
            raise ValueError(f"{key} {shown(blocks)}: the file has {len(checkpoint.state)} tensors")
    with torch.device("meta"):
        model = build()
    size = sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))
    held = sum(tensor.untyped_storage().nbytes() for tensor in checkpoint.state.values())
    if size > 4 * held + SLACK:  # 4: in half or less of our precision
        raise ValueError(f"it has {size / 2**20:,.0f} MiB of weights, the file {held / 2**20:,.1f}")
