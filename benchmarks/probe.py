"""Linear probes: heads trained together against one after another, and one pass of the backbone against one per epoch.

    python benchmarks/probe.py --images 1000
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import CLOCKS, arguments, interleaved, parse, random_backbone, report
from torch import Tensor
from torch.nn import functional as F

from promptvit.backbones.base import Backbone
from promptvit.data import Dataset, Split
from promptvit.data.loader import places
from promptvit.heads.classification import LinearHead
from promptvit.training import classification, loop
from promptvit.training.optimization import schedule
from promptvit.training.probe import HeadSettings, train_heads

WIDTH, BATCH = 384, 32


def one_after_another(features: Tensor, labels: Tensor, classes: int, heads: list[HeadSettings], epochs: int) -> list[LinearHead]:
    """A plain loop with torch's own layers and AdamW for each head, on the same cached features."""
    order = [torch.from_numpy(rows) for epoch in range(epochs) for rows in places(len(features), BATCH, epoch)]
    trained = []
    for head in heads:
        layer = LinearHead(WIDTH, classes, generator=torch.Generator().manual_seed(head.seed + 1))
        groups = [{"params": [layer.weight], "weight_decay": head.weight_decay}, {"params": [layer.bias], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=head.lr)
        for step, rows in enumerate(order):
            for group in optimizer.param_groups:
                group["lr"] = head.lr * schedule(step, len(order), 0.1)
            F.cross_entropy(layer(features[rows]), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
        trained.append(layer)
    return trained


def heads_together(classes: int, count: int, epochs: int, rounds: int, clock: str) -> dict[str, Any]:
    """Time of ``count`` heads one after another over all at once, and how far their weights are apart."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, WIDTH, generator=generator)
    labels = torch.randint(classes, (1000,), generator=generator)
    heads = [HeadSettings(10 ** (-3 + 2 * (k % 10) / 9), 10 ** (-4 + k // 10 * 3 / 9), k) for k in range(count)]
    cases: dict[str, Callable[[], object]] = {
        "one_by_one": lambda: one_after_another(features, labels, classes, heads, epochs),
        "together": lambda: train_heads(features, labels, classes, heads, epochs=epochs, batch_size=BATCH),
    }
    timed = interleaved(cases, rounds, warmup=0, clock=clock)
    found = train_heads(features, labels, classes, heads, epochs=epochs, batch_size=BATCH)
    single = one_after_another(features, labels, classes, heads, epochs)
    alone = torch.stack([layer.weight.detach() for layer in single])
    apart = float(((found.weights - alone).abs().amax((1, 2)) / alone.abs().amax((1, 2))).max())
    row: dict[str, Any] = {"what": "heads", "heads": count, "classes": classes, "images": 1000, "epochs": epochs}
    row |= {f"{name}_seconds": timed.median(name) for name in cases}
    return row | {"faster": vars(timed.ratio("one_by_one", "together")), "largest_difference": apart}


def one_pass(backbone: Backbone, count: int, epochs: int, clock: str) -> dict[str, Any]:
    """``train(method="linear")`` as it is, and as it would be without the cached features (2 epochs, times epochs / 2)."""
    rng = np.random.default_rng(0)
    size = backbone.preprocessing.size
    items = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]
    parts = {"train": count, "val": 10, "test": 10}
    splits = {name: Split(name, [i % 10 for i in range(n)], items[:n], [f"{name}/{i}" for i in range(n)]) for name, n in parts.items()}
    dataset = Dataset("noise", [str(c) for c in range(10)], splits)
    now, seconds = CLOCKS[clock], []
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(classification, "load_dataset", lambda *_args, **_options: dataset):
        for name, length, fixed in (("fast", epochs, None), ("slow", 2, lambda _settings: False)):
            with mock.patch.object(classification, "inputs_are_fixed", fixed or classification.inputs_are_fixed):
                started = now()
                loop.train(
                    backbone=backbone.name, loaded_backbone=backbone, method="linear", data="digits", augment="none", epochs=length,
                    out=str(Path(folder) / name), pretrained=False,
                )
                seconds.append(now() - started)
    fast, slow = seconds[0], seconds[1] * epochs / 2
    return {"what": "one pass", "images": count, "epochs": epochs, "fast_seconds": fast, "slow_seconds": slow, "faster": slow / fast}


def main() -> None:
    """Run the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="vit_small_patch16_224", help="timm name, for the one pass")
    parser.add_argument("--images", type=int, help="default: 1000; with --quick: 40")
    parser.add_argument("--epochs", type=int, default=100)
    chosen = parse(parser)
    rows = []
    for classes in (10, 100):
        rows.append(heads_together(classes, 100, 1 if chosen.quick else 4, 3 if chosen.quick else 5, chosen.clock))
        print(rows[-1], flush=True)
    started = time.perf_counter()
    rows.append(one_pass(random_backbone(chosen.model), chosen.images or (40 if chosen.quick else 1000), chosen.epochs, chosen.clock))
    print(rows[-1], f"({time.perf_counter() - started:.0f} s)", flush=True)
    report(chosen, rows)


if __name__ == "__main__":
    main()
