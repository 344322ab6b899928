"""Many tasks on one backbone: bytes of a task, a mixed batch against one task, and 1 to 1,000 tasks resident at a fixed batch.

    python benchmarks/bank.py --quick
    python benchmarks/bank.py --method gapt --model vit_base_patch16_224

Every measured batch goes through ``promptvit.PromptBank``. Rates are ratios of one run, in interleaved rounds.
"""

import os
import random
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Ratio, arguments, device, images, interleaved, parse, random_backbone, report
from torch import Tensor

import promptvit
from promptvit.backbones.base import Backbone

CLASSES, PROMPTS = 100, 10


def filled(backbone: Backbone, method: str, tasks: int) -> promptvit.PromptBank:
    """A bank of ``tasks`` tasks named ``0``, ``1``, ... with weights of their own."""
    bank = promptvit.PromptBank(backbone)
    for task in range(tasks):
        bank.add(str(task), promptvit.create_model(backbone, method, CLASSES, num_prompts=PROMPTS, seed=task))
    return bank


def process_bytes() -> int | None:
    """Memory that this process holds now; None where the system does not tell (only Linux does in this way)."""
    if not sys.platform.startswith("linux"):
        return None
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(backbone: Backbone, method: str, tasks: int) -> dict[str, Any]:
    """What ``tasks`` tasks take beside the backbone: their tensors, the most that is remembered of them, and the whole process."""
    before = process_bytes()
    bank = filled(backbone, method, tasks)
    after = process_bytes()
    row: dict[str, Any] = {"what": "memory", "model": backbone.name, "method": method, "tasks": tasks}
    row |= {"learned_bytes": bank.resident_bytes, "recall_bytes": bank.recall_bytes}
    row["total_bytes"] = row["learned_bytes"] + row["recall_bytes"]
    row["process_bytes"] = None if before is None or after is None or device().type != "cpu" else after - before
    return row


def mixed(backbone: Backbone, chosen: Namespace) -> dict[str, Any]:
    """A batch of as many tasks as images over one of a single task, in the bank and as a prepared model."""
    bank, batch = filled(backbone, chosen.method, chosen.batch), images(backbone, chosen.batch)
    prepared = promptvit.create_model(backbone, chosen.method, CLASSES, num_prompts=PROMPTS).prepare_inference()
    cases: dict[str, Callable[[], object]] = {
        "mixed": lambda: bank(batch, bank.tasks), "one": lambda: bank(batch, "0"), "prepared": lambda: prepared(batch),
    }
    timed = interleaved(cases, chosen.rounds, clock=chosen.clock)
    row: dict[str, Any] = {"what": "mixed", "model": backbone.name, "method": chosen.method, "batch": chosen.batch}
    row |= {f"{name}_seconds": timed.median(name) for name in cases}
    return row | {"throughput": vars(timed.ratio("one", "mixed")), "over_prepared": vars(timed.ratio("prepared", "mixed"))}


def resident(backbone: Backbone, chosen: Namespace, counts: list[int]) -> list[dict[str, Any]]:
    """Time of a fixed batch whose images' tasks are drawn anew each round, over that with one task."""
    batch = images(backbone, chosen.fixed_batch)
    timed = interleaved({str(n): drawn(filled(backbone, chosen.method, n), batch) for n in counts}, chosen.rounds, clock=chosen.clock)
    shared = {"what": "resident", "model": backbone.name, "method": chosen.method, "batch": len(batch)}
    return [
        {**shared, "tasks": n, "seconds": timed.median(str(n)), "over_one": vars(timed.ratio(str(n), str(counts[0])))} for n in counts
    ]


def drawn(bank: promptvit.PromptBank, batch: Tensor) -> Callable[[], object]:
    """A call with tasks drawn from all that are there."""
    draw, tasks = random.Random(0), bank.tasks
    return lambda: bank(batch, draw.choices(tasks, k=len(batch)))


def show(row: dict[str, Any]) -> None:
    """One line per row, as it is measured."""
    words = f"{row['what']:8} {row['model']} {row['method']}"
    if row["what"] == "memory":
        parts = {key: f"{row[f'{key}_bytes'] / 1e6:.1f} MB" for key in ("learned", "recall", "total", "process") if row[f"{key}_bytes"]}
        print(f"{words} {row['tasks']} tasks", *(f"{key} {text}" for key, text in parts.items()), sep="  ", flush=True)
    elif row["what"] == "mixed":
        ratios = f"throughput over one task {Ratio(**row['throughput'])}  over a prepared model {Ratio(**row['over_prepared'])}"
        print(f"{words} batch {row['batch']}  {row['one_seconds']:.3f} s  {ratios}", flush=True)
    else:
        print(f"{words} batch {row['batch']}  {row['tasks']} tasks  time over one {Ratio(**row['over_one'])}", flush=True)


def main() -> None:
    """Run all three."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="vit_small_patch16_224", help="timm name, for the rates")
    parser.add_argument("--memory-model", default="vit_base_patch16_224", help="timm name, for the bytes")
    parser.add_argument("--method", default="vpt-deep")
    parser.add_argument("--batch", type=int, default=64, help="of the mixed batch: images, and tasks")
    parser.add_argument("--fixed-batch", type=int, help="default: 16; with --quick: 4")
    parser.add_argument("--tasks", type=int, default=1000, help="the most that are resident")
    chosen = parse(parser)
    chosen.fixed_batch = chosen.fixed_batch or (4 if chosen.quick else 16)
    rows = [memory(random_backbone(chosen.memory_model), chosen.method, chosen.tasks)]
    show(rows[0])
    backbone = random_backbone(chosen.model)
    rows += resident(backbone, chosen, [n for n in (1, 10, 100, 1000) if n < chosen.tasks] + [chosen.tasks])
    rows.append(mixed(backbone, chosen))
    for row in rows[1:]:
        show(row)
    report(chosen, rows)


if __name__ == "__main__":
    main()
