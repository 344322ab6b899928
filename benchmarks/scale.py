"""How cost grows: inference and step over the plain backbone (without prompts) against prompts, image tokens, depth and tasks.

    python benchmarks/scale.py --axis prompts --methods vpt-deep,vpt-shallow

``tasks``: one batch whose images all belong to different tasks (each image has prompts of its own) against one task for all.
"""

from collections.abc import Callable
from typing import Any

import textbook
import torch
from common import Ratio, arguments, device, images, interleaved, parse, report
from speed import CLASSES, KINDS
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import promptvit
from promptvit.backbones.base import Backbone, Pass
from promptvit.backbones.families import wrap
from promptvit.preprocessing import Preprocessing

BASE = {"img_size": 224, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "num_classes": 0}
AXES: dict[str, list[int]] = {
    "prompts": [1, 10, 50, 100, 200], "tokens": [96, 160, 224, 320], "depth": [4, 8, 12, 24], "tasks": [1, 2, 4, 8],
}
PROMPTS = 50


def backbone_of(width: int, **changes: int) -> Backbone:
    """A random ViT of the base's shape, ``changes`` apart."""
    arch = {**BASE, "embed_dim": width, "num_heads": width // 64, **changes}
    vit = VisionTransformer(**arch)
    return wrap(vit, name="random", preprocessing=Preprocessing(size=vit.patch_embed.img_size)).to(device())


def measure(axis: str, value: int, method: str, kind: str, chosen: Any) -> dict[str, Any]:
    """One point of a curve: ours over a plain pass of the same backbone."""
    changes = {"tokens": {"img_size": value}, "depth": {"depth": value}}.get(axis, {})
    backbone = backbone_of(chosen.width, **changes)
    model = promptvit.create_model(backbone, method, CLASSES, num_prompts=value if axis == "prompts" else PROMPTS).train(kind == "step")
    batch = images(backbone, chosen.batch)
    ours = KINDS[kind](model, batch)["ours"]

    def plain() -> object:
        with torch.inference_mode(kind == "inference"):
            features = textbook.plain(backbone, batch)
        if kind == "step":
            features.sum().backward()
        return features

    timed = interleaved({"ours": ours, "plain": plain}, chosen.rounds, clock=chosen.clock)
    row: dict[str, Any] = {"axis": axis, "value": value, "method": method, "kind": kind, "batch": chosen.batch, "width": chosen.width}
    row |= {"tokens": backbone.grid[0] * backbone.grid[1] + 1, "depth": backbone.depth, "ours_seconds": timed.median("ours")}
    return row | {"over_plain": vars(timed.ratio("ours", "plain"))}


def tasks(value: int, chosen: Any) -> dict[str, Any]:
    """``value`` tasks in one batch of 8, each image with its task's prompts, over one task for the whole batch."""
    backbone = backbone_of(chosen.width)
    batch = images(backbone, 8)
    model = promptvit.create_model(backbone, "vpt-deep", CLASSES, num_prompts=PROMPTS)
    shared = [model.method.block_prompts(i).detach() for i in range(backbone.depth)]
    own = [torch.stack([p + task for task in range(value)])[torch.arange(8, device=p.device) % value] for p in shared]

    def through(prompts: list[Tensor]) -> Callable[[], Tensor]:
        @torch.inference_mode()
        def call() -> Tensor:
            step = Pass(backbone, batch, "cls")
            x = step.tokens
            for i, p in enumerate(prompts):
                x, _ = step(i, x, p, keep=False)
            return x

        return call

    timed = interleaved({"mixed": through(own), "one": through(shared)}, chosen.rounds, clock=chosen.clock)
    row: dict[str, Any] = {"axis": "tasks", "value": value, "method": "vpt-deep", "kind": "inference", "batch": 8, "width": chosen.width}
    return row | {"ours_seconds": timed.median("mixed"), "over_plain": vars(timed.ratio("mixed", "one"))}


def main() -> None:
    """Run the curves."""
    parser = arguments(__doc__)
    parser.add_argument("--axis", choices=sorted(AXES), help="default: all")
    parser.add_argument("--methods", default="vpt-deep,vpt-shallow")
    parser.add_argument("--kinds", default="inference,step")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--width", type=int, help="channels, a multiple of 64; default: 768; with --quick: 384")
    chosen = parse(parser)
    chosen.width = chosen.width or (384 if chosen.quick else 768)
    rows: list[dict[str, Any]] = []
    for axis in [chosen.axis] if chosen.axis else list(AXES):
        for value in AXES[axis]:
            if axis == "tasks":
                found = [tasks(value, chosen)]
            else:
                found = [measure(axis, value, m, kind, chosen) for m in chosen.methods.split(",") for kind in chosen.kinds.split(",")]
            for row in found:
                print(f"{row['axis']:8} {row['value']:4} {row['method']:12} {row['kind']:10} {Ratio(**row['over_plain'])}", flush=True)
            rows += found
    report(chosen, rows)


if __name__ == "__main__":
    main()
