"""Run our code on a vector's weights and inputs, and give what it computed under the vector's own keys."""

import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from promptvit.backbones.base import Backbone, per_image
from promptvit.errors import first_line
from promptvit.heads.classification import LinearHead
from promptvit.methods import Encoded, build_method
from promptvit.methods.gapt import GaPT
from promptvit.methods.init import authors_windows, show
from promptvit.methods.sa2vp import SA2VP
from promptvit.model import PromptedModel
from promptvit.testing import recipes, settings
from promptvit.testing.names import Matching
from promptvit.testing.settings import Setting
from promptvit.testing.vector import Vector

Found = dict[str, Tensor]


def replay(path: str | os.PathLike[str]) -> Found:
    """What our code computes for one parity vector, under the vector's own keys.

    Weights, inputs and a generator's picked ``ids`` are read; no stored result is. The forward behind ``out/`` and ``grad/`` is the one
    that users run; ``state/`` comes from a second one that observes every block.

    Returns:
        All keys that the file holds under ``state/``, ``out/``, ``grad/``, ``gradstat/``, ``single/`` and as ``gen*/prompt``, except
        those in which the authors' Swin mixes the images of a batch: ``single/`` stands in for them.

    Raises:
        ValueError: the file is no complete vector, or holds something we do not know; one line that names file and key.
    """
    vector = Vector.read(path)
    try:
        found = run(vector)
    except Exception as error:  # whatever a file's odd numbers break in timm, torch or our code, the file is what is named
        if str(error).startswith(f"{vector.path}: "):
            raise
        raise vector.error(f"cannot be replayed: {first_line(error)}") from error
    return {key: found[key].detach() for key in vector.results() if key in found}


def run(vector: Vector) -> Found:
    """Everything we can compute for ``vector``."""
    weights = recipes.weights(vector) if "weights_recipe" in vector.meta else vector.tensors
    timm, param = ({k.removeprefix(p): t for k, t in weights.items() if k.startswith(p)} for p in ("timm/", "param/"))
    backbone = settings.backbone_of(vector, timm)
    model, matching = model_of(vector, backbone, settings.setting(vector), param)
    images, labels = images_of(vector), vector["input/labels"]

    values, gradients = run_batch(model, matching, images, labels)
    found = {f"out/{name}": value for name, value in values.items()}
    found |= {f"grad/{name}": gradient for name, gradient in gradients.items()}
    found |= {f"gradstat/{name}": torch.stack([g.double().sum(), g.double().norm()]) for name, g in gradients.items()}
    observe = branch_states if isinstance(model.method, SA2VP) else token_states
    found |= {f"state/{name}": state for name, state in observe(model, images).items()}
    if vector.meta["method"] == "gapt":
        found |= gates_and_temperatures(vector, backbone, param)
    if vector.under("single/"):
        found |= singles(model, matching, images, labels)
    if "generator_runs" in vector.meta:
        found |= generated(vector, backbone, recipes.images(vector)[vector["input/sample_index"]])
    rows = vector.meta.get("state_token_rows")
    return {key: t[:, rows] if rows and key.startswith("state/") else t for key, t in found.items()}


def model_of(vector: Vector, backbone: Backbone, setting: Setting, param: Found) -> tuple[PromptedModel, Matching]:
    """Our model with the authors' values, and which of its tensors are which of theirs."""
    method = build_method(setting.method, backbone, setting.options, seed=0)
    # what the authors train in name only has no counterpart in ours
    matching = Matching(vector, setting.names, method, {name: t for name, t in param.items() if name not in vector.meta["grad_none"]})
    matching.load()
    classes = vector.meta["num_classes"]
    head = LinearHead(backbone.width, classes, generator=torch.Generator())
    for parameter, key in ((head.weight, "head/weight"), (head.bias, "head/bias")):
        if vector[key].shape != parameter.shape:
            raise vector.error(f"{key} has shape {tuple(vector[key].shape)}, the metadata makes {tuple(parameter.shape)}")
        parameter.data.copy_(vector[key])
    return PromptedModel(backbone, method, head, [str(i) for i in range(classes)]).eval(), matching


def images_of(vector: Vector) -> Tensor:
    """The batch ``[B, 3, H, W]``: stored, or the first rows of a draw."""
    images = recipes.images(vector)[: vector.meta["batch"]] if "images_recipe" in vector.meta else vector["input/images"]
    if images.ndim != 4 or len(images) != len(vector["input/labels"]) or not images.is_floating_point():
        raise vector.error(f"input/images has shape {tuple(images.shape)} for {len(vector['input/labels'])} labels")
    return images


def run_batch(model: PromptedModel, matching: Matching, images: Tensor, labels: Tensor) -> tuple[Found, Found]:
    """Features, logits and loss (shape ``[1]``); gradients of the loss under the authors' names."""
    model.zero_grad()
    encoded: Encoded = model.method(model.backbone, images)
    features = (encoded.features, *encoded.aux)
    logits = tuple(model.head(f) for f in features)
    loss = model.method.loss(logits, labels)
    loss.backward()
    values = {"loss": loss.reshape(1)}
    for branch, f, z in zip(("_image", "_prompt") if encoded.aux else ("",), features, logits, strict=True):
        values |= {f"features{branch}": f, f"logits{branch}": z}
        if branch:
            values[f"loss{branch}"] = F.cross_entropy(z, labels).reshape(1)
    gradients = {**matching.gradients(), **{f"head.{name}": p.grad for name, p in model.head.named_parameters()}}
    return values, {name: gradient.clone() for name, gradient in gradients.items() if gradient is not None}


def singles(model: PromptedModel, matching: Matching, images: Tensor, labels: Tensor) -> Found:
    """Every image run alone: features and logits together again, losses and gradients averaged."""
    runs = [run_batch(model, matching, image, label) for image, label in zip(images.split(1), labels.split(1), strict=True)]
    found = {f"single/{name}": torch.cat([values[name] for values, _ in runs]) for name in runs[0][0]}
    found["single/loss"] = found["single/loss"].mean().reshape(1)
    for name in runs[0][1]:
        found[f"single/grad/{name}"] = torch.stack([gradients[name] for _, gradients in runs]).mean(0)
    return found


@torch.no_grad()
def token_states(model: PromptedModel, images: Tensor) -> Found:
    """Sequences ``[prefix, prompts, patches]`` before and after every block, every patch merging and the final norm."""
    backbone, prefix = model.backbone, model.backbone.num_prefix_tokens
    found: Found = {}
    left: tuple[Tensor, Tensor | None] | None = None
    stage = ""

    def joined(x: Tensor, prompts: Tensor | None) -> Tensor:
        return x if prompts is None else torch.cat([x[:, :prefix], per_image(prompts, len(x)), x[:, prefix:]], dim=1)

    def observe(i: int, x: Tensor, prompts: Tensor | None, y: Tensor, out: Tensor | None) -> None:
        nonlocal left, stage
        name = state_name(backbone, i)
        if left is not None and name.split(".")[0] != stage and "." in name:
            found[f"{stage}.merge.in"] = joined(*left)
            found[f"{stage}.merge.out"] = joined(*backbone.merge(i, *left))
        found[f"{name}.in"], found[f"{name}.out"] = joined(x, prompts), joined(y, out)
        left, stage = (y, out), name.split(".")[0]

    model.method(backbone, images, observe=observe)
    assert left is not None
    found["norm.out"] = backbone.model.norm(joined(*left))
    return found


@torch.no_grad()
def branch_states(model: PromptedModel, images: Tensor) -> Found:
    """SA2VP: both branches before every block and at the end, fusions, and inserted maps before and after their block."""
    backbone, method = model.backbone, model.method
    assert isinstance(method, SA2VP)
    found: Found = {}

    def keep(i: int, what: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: found.update({f"{state_name(backbone, i)}.{what}": output})

    def observe(i: int, x: Tensor, m: Tensor, y: Tensor, n: Tensor) -> None:
        name = state_name(backbone, i)
        found.update({f"{name}.image_in": x, f"{name}.prompt_in": m, "final.image": y, "final.prompt": n})

    hooks = [f.register_forward_hook(keep(i, "fusion")) for i, f in zip(method.branches.fused, method.fusions, strict=True)]
    hooks += [e.register_forward_hook(keep(i, "inner_in")) for i, e in zip(method.insert_at, method.inserted, strict=True)]
    method(backbone, images, observe=observe)
    for hook in hooks:
        hook.remove()
    for i in method.insert_at:
        name = state_name(backbone, i)
        found[f"{name}.inner_out"] = backbone.run_block(i, found[f"{name}.inner_in"])[0]
    return {name: state.expand(len(images), -1, -1) for name, state in found.items()}


def state_name(backbone: Backbone, i: int) -> str:
    """``block3`` for ``blocks.3``, ``stage1.block0`` for ``layers.1.blocks.0``."""
    return backbone.block_name(i).replace("layers.", "stage").replace(".blocks.", ".block").replace("blocks.", "block")


@torch.no_grad()
def gates_and_temperatures(vector: Vector, backbone: Backbone, param: Found) -> Found:
    """GaPT's gates, and its temperatures after they were brought into their range."""
    setting = settings.gated(vector)
    method = build_method(setting.method, backbone, setting.options, seed=0)
    assert isinstance(method, GaPT)
    Matching(vector, setting.names, method, {name: t for name, t in param.items() if not name.startswith("deep_")}).load()
    method.eval().project()
    found: Found = {}
    if method.gate_logits is not None:
        found["out/gate"] = torch.stack([method.gate(i) for i in range(len(method.gate_logits))])
    if method.temperatures is not None:
        found["out/temp_after_forward"] = method.temperatures
    return found


class Picks:
    """A sampler that takes given rows of what the generator could pick from."""

    def __init__(self, rows: Callable[[Tensor], Tensor], ids: Tensor) -> None:
        self.rows, self.ids = rows, ids

    def see(self, tokens: Tensor) -> None:
        self.seen = self.rows(tokens)

    def prompts(self) -> Tensor:
        return self.seen[self.ids]


def generated(vector: Vector, backbone: Backbone, images: Tensor) -> Found:
    """SPT's generator: the prompts of every run, from the picked row numbers."""
    found: Found = {}
    for run_name, recipe in vector.meta["generator_runs"].items():
        ids, kind, count = vector[f"{run_name}/ids"], recipe.get("type"), recipe.get("num_prompts")
        if kind not in CANDIDATES:
            raise vector.error(f"metadata generator_runs.{run_name} has type {kind!r}; known: {', '.join(CANDIDATES)}")
        if ids.ndim != 2 or len(ids) > backbone.depth or not 0 <= int(ids.min()) <= int(ids.max()) < recipe.get("permutation_length", 0):
            raise vector.error(f"{run_name}/ids {tuple(ids.shape)} are no row numbers for up to {backbone.depth} blocks")
        samplers = {i: Picks(partial(CANDIDATES[kind], count=count), picked) for i, picked in enumerate(ids)}
        show(backbone, [images], samplers)
        found[f"{run_name}/prompt"] = torch.stack([sampler.prompts() for sampler in samplers.values()])
    return found


CANDIDATES: dict[str, Callable[..., Tensor]] = {
    "random": lambda tokens, count: tokens.flatten(0, 1),
    "mean_pooling": partial(authors_windows, pooling="mean"),
    "max_pooling": partial(authors_windows, pooling="max"),
}
