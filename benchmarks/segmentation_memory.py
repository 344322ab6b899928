"""Peak memory of one training step of segmentation on the CPU, each case in a process of its own.

    python benchmarks/segmentation_memory.py --methods gapt,lspt --prompts 100 --batch 2

A case is a model of random weights at a 512 px crop, 150 classes, SETR-PUP with its auxiliary heads: forward, loss, backward and a step
of SGD with momentum. ``peak`` is the largest resident size of the process in GiB, Python and PyTorch included; ``before`` is what it had
reached when model and batch were ready.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from common import arguments, parse, report

import promptvit

CLASSES = 150
METHODS = "linear,vpt-deep,spt-deep,gapt,lspt,sa2vp"


def peak() -> float:
    """Largest resident size of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """One training step of ``chosen.one``."""
    backbone = promptvit.load_backbone(chosen.model, pretrained=False, image_size=chosen.size)
    model = promptvit.create_model(backbone, chosen.one, CLASSES, head=chosen.head, num_prompts=chosen.prompts).train()
    model.method.low_memory = chosen.low
    optimizer = torch.optim.SGD([parameter for _, parameter in model.trainable_parameters()], lr=0.001, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(chosen.batch, 3, chosen.size, chosen.size, generator=generator)
    target = torch.randint(0, CLASSES, (chosen.batch, chosen.size, chosen.size), generator=generator)
    before, started = peak(), time.perf_counter()
    model.loss(model.outputs(images), target).backward()
    optimizer.step()
    seconds = time.perf_counter() - started
    return {"before": before, "peak": peak(), "seconds": seconds, "trainable": model.num_trainable}


def apart(chosen: argparse.Namespace, method: str) -> dict[str, Any]:
    """:func:`measure` in a new process."""
    options = ("model", "head", "size", "batch", "prompts", "threads")
    line = [sys.executable, __file__, "--one", method, *(f"--{name}={getattr(chosen, name)}" for name in options), *["--low"] * chosen.low]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Run the table."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="vit_base_patch16_224", help="timm name")
    parser.add_argument("--head", default="setr-pup")
    parser.add_argument("--size", type=int, default=512, help="side of the crop")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--methods", default=METHODS, help="comma-separated")
    parser.add_argument("--low", action="store_true", help="keep each block's inputs only, as `train --memory low` does")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parse(parser)
    if chosen.one:
        print(json.dumps(measure(chosen)))
        return
    rows = []
    for method in ("vpt-deep" if chosen.quick else chosen.methods).split(","):
        rows.append({"method": method, "low": chosen.low, **apart(chosen, method)})
        print("  ".join(f"{key} {value:.2f}" if isinstance(value, float) else f"{value}" for key, value in rows[-1].items()), flush=True)
    report(chosen, rows)


if __name__ == "__main__":
    main()
