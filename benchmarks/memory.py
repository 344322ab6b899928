"""Bytes that a training step keeps for the backward pass, per image: the textbook, ours, and ours with ``memory=low``.

    python benchmarks/memory.py --methods vpt-deep,gapt --prompts 100

Every tensor that autograd saves is counted once by its storage; parameters are not counted. On a GPU the peak of a whole step is
reported too.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import textbook
import torch
from common import arguments, device, images, parse, random_backbone, report
from torch import Tensor
from torch.nn import functional as F

import promptvit
from promptvit.model import PromptedModel

CLASSES = 100


def saved_bytes(forward: Callable[[], Tensor], parameters: set[int]) -> int:
    """Bytes of the storages that ``forward`` saves for its backward pass, ``parameters`` (storage addresses) apart."""
    found: dict[int, int] = {}
    held = []  # a freed storage's address may be used again: keep all alive while we count

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
            held.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    total = sum(found.values())
    loss.backward()
    return total


def ways(model: PromptedModel, batch: Tensor) -> dict[str, tuple[Callable[[], Tensor], AbstractContextManager[None], bool]]:
    """Per way of computing the step's loss: the function, the context it runs in, and whether it recomputes."""
    target = torch.arange(len(batch), device=batch.device) % CLASSES

    def ours() -> Tensor:
        return model.method.loss(model.outputs(batch), target)

    def written() -> Tensor:
        return F.cross_entropy(textbook.logits(model, batch), target)

    found: dict[str, tuple[Callable[[], Tensor], AbstractContextManager[None], bool]] = {}
    if textbook.knows(model):
        found |= {"textbook_unfused": (written, textbook.unfused(model.backbone), False), "textbook_fused": (written, nullcontext(), False)}
    return found | {"ours": (ours, nullcontext(), False), "ours_low": (ours, nullcontext(), True)}


def measure(model: PromptedModel, batch: Tensor, name: str) -> dict[str, Any]:
    """One row: MiB per image of every way, ratios of ours, and on a GPU the step's peak."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), batch)}
    row: dict[str, Any] = {"method": name, "prompts": model.method.config.num_prompts, "batch": len(batch)}
    for way, (forward, context, low) in ways(model, batch).items():
        model.method.low_memory = low
        with context:
            row[way] = saved_bytes(forward, own) / len(batch) / 2**20
            model.zero_grad(set_to_none=True)
            if batch.is_cuda:
                torch.cuda.reset_peak_memory_stats()
                forward().backward()
                row[f"{way}_peak"] = torch.cuda.max_memory_allocated() / 2**20
                model.zero_grad(set_to_none=True)
    for way in ("ours", "ours_low"):
        row |= {f"{way}_over_{kind}": row[way] / row[f"textbook_{kind}"] for kind in ("unfused", "fused") if f"textbook_{kind}" in row}
    return row


def main() -> None:
    """Run the table."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="vit_base_patch16_224", help="timm name")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--methods", help="default: all with prompts; with --quick: vpt-deep")
    parser.add_argument("--prompts", type=int, default=100)
    chosen = parse(parser)
    named = "vpt-deep" if chosen.quick else "vpt-deep,vpt-shallow,gapt,lspt,sa2vp"
    backbone = random_backbone(chosen.model)
    rows = []
    for method in (chosen.methods or named).split(","):
        model = promptvit.create_model(backbone, method, CLASSES, num_prompts=chosen.prompts).train()
        rows.append(measure(model.to(device()), images(backbone, chosen.batch), method))
        print("  ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{value}" for key, value in rows[-1].items()), flush=True)
    report(chosen, rows)


if __name__ == "__main__":
    main()
