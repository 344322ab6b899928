"""Inference and training steps of methods over the frozen backbone alone (the floor) and against the textbook.

    python benchmarks/speed.py --methods vpt-deep,gapt --prompts 50,100,200
"""

import copy
from collections.abc import Callable
from typing import Any

import textbook
import torch
from common import Ratio, arguments, device, images, interleaved, parse, random_backbone, report
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import promptvit
from promptvit.backbones.base import Backbone
from promptvit.model import PromptedModel

CLASSES = 100
BASELINES = ("linear", "full", "bias", "partial-1", "lora")


def inference(model: PromptedModel, batch: Tensor, compiled: bool = False) -> dict[str, Callable[[], object]]:
    """Ours prepared for serving, the plain backbone with the tokens the method needs, the textbook."""
    prepared, extra = model.prepare_inference(), textbook.extra_tokens(model)
    if compiled:
        prepared.method.compile()

    @torch.inference_mode()
    def floor() -> Tensor:
        return model.head(textbook.plain(model.backbone, batch, extra))

    @torch.inference_mode()
    def written() -> Tensor:
        return textbook.logits(model, batch)

    cases: dict[str, Callable[[], object]] = {"ours": lambda: prepared(batch), "floor": floor}
    if textbook.knows(model):
        cases["textbook"] = written
    return cases


def training(model: PromptedModel, batch: Tensor, compiled: bool = False) -> dict[str, Callable[[], object]]:
    """Forward and backward of the same three; optimisers cost next to nothing and are left out."""
    target, extra = torch.arange(len(batch), device=batch.device) % CLASSES, textbook.extra_tokens(model)
    head = copy.deepcopy(model.head)
    if compiled:
        model.method.compile()

    def back(loss: Tensor) -> None:
        loss.backward()
        model.zero_grad()

    cases: dict[str, Callable[[], object]] = {
        "ours": lambda: back(model.method.loss(model.outputs(batch), target)),
        "floor": lambda: back(F.cross_entropy(head(textbook.plain(model.backbone, batch, extra)), target)),
    }
    if textbook.knows(model):
        cases["textbook"] = lambda: back(F.cross_entropy(textbook.logits(model, batch), target))
    return cases


KINDS = {"inference": inference, "step": training}


def operations(case: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products in one call."""
    counter = FlopCounterMode(display=False)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), counter:
        case()
    return counter.get_total_flops()


def measure(
    backbone: Backbone, method: str, prompts: int, kind: str, batch: Tensor, rounds: int, clock: str, compiled: bool
) -> dict[str, Any]:
    """One row of the table."""
    model = promptvit.create_model(backbone, method, CLASSES, num_prompts=prompts).train(kind == "step")
    cases = KINDS[kind](model, batch, compiled)
    timed = interleaved(cases, rounds, warmup=3 if compiled else 1, clock=clock)  # what was remembered first compiles anew
    row: dict[str, Any] = {"method": method, "prompts": prompts, "kind": kind, "batch": len(batch), "compiled": compiled}
    row |= {f"{name}_seconds": timed.median(name) for name in cases}
    row["over_floor"] = vars(timed.ratio("ours", "floor"))
    if "textbook" in cases:
        row["faster_than_textbook"] = vars(timed.ratio("textbook", "ours"))
    return row


def lspt_over_gapt(backbone: Backbone, prompts: int, batch: Tensor, rounds: int, clock: str) -> dict[str, Any]:
    """A step of lspt over one of gapt, beside the ratio of their operation counts."""
    models = {name: promptvit.create_model(backbone, name, CLASSES, num_prompts=prompts).train() for name in ("lspt", "gapt")}
    cases = {name: training(model, batch)["ours"] for name, model in models.items()}
    timed = interleaved(cases, rounds, clock=clock)
    row: dict[str, Any] = {"method": "lspt", "prompts": prompts, "kind": "step", "batch": len(batch)}
    row["over_gapt"] = vars(timed.ratio("lspt", "gapt"))
    row["operations_over_gapt"] = operations(cases["lspt"]) / operations(cases["gapt"])
    return row


def show(row: dict[str, Any]) -> None:
    """One line per row, as it is measured."""
    parts = [f"{row['method']:12} {row['prompts']:4} prompts {row['kind']:10}"]
    parts += [f"{key.removesuffix('_seconds')} {row[key]:.3f} s" for key in row if key.endswith("_seconds")]
    parts += [f"{key} {Ratio(**row[key])}" for key in ("over_floor", "faster_than_textbook", "over_gapt") if key in row]
    if "operations_over_gapt" in row:
        parts.append(f"operations_over_gapt {row['operations_over_gapt']:.3f}")
    print("  ".join(parts), flush=True)


def main() -> None:
    """Run the table."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="vit_base_patch16_224", help="timm name")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--methods", help="default: all with prompts; with --quick: vpt-deep, gapt")
    parser.add_argument("--prompts", help="default: 50,100,200; with --quick: 100")
    parser.add_argument("--kinds", default="inference,step")
    parser.add_argument("--compile", action="store_true", help="torch.compile (Inductor) of our forward")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16: under autocast")
    chosen = parse(parser)
    methods = ["vpt-deep", "gapt"] if chosen.quick else [name for name in promptvit.list_methods() if name not in BASELINES]
    methods = chosen.methods.split(",") if chosen.methods else methods
    counts = [int(count) for count in (chosen.prompts or ("100" if chosen.quick else "50,100,200")).split(",")]
    backbone = random_backbone(chosen.model)
    batch = images(backbone, chosen.batch)
    rows: list[dict[str, Any]] = []
    with torch.autocast(device().type, torch.bfloat16, enabled=chosen.dtype == "bfloat16"):
        for method in methods:
            for prompts in counts if method != "sa2vp" else counts[:1]:
                for kind in chosen.kinds.split(","):
                    rows.append(measure(backbone, method, prompts, kind, batch, chosen.rounds, chosen.clock, chosen.compile))
                    show(rows[-1])
        if {"lspt", "gapt"} <= set(methods) and "step" in chosen.kinds:
            rows.append(lspt_over_gapt(backbone, 100, batch, chosen.rounds, chosen.clock))
            show(rows[-1])
    report(chosen, rows)


if __name__ == "__main__":
    main()
