"""Run by ``test_resume``, alone or under torchrun: one step's gradients and three steps' losses of every objective, to a file."""

import sys

import torch
from tiny import settings

from promptvit.pretraining.loop import OBJECTIVES, Run

found = {}
for objective in OBJECTIVES:
    run = Run(settings(objective, lr=1e-4))
    run.accelerator.backward(run.model(*run.objective.draw(torch.Generator().manual_seed(7), run.rows)))
    gradients = {name: p.grad.clone() for name, p in run.objective.named_parameters() if p.grad is not None}
    run = Run(settings(objective, lr=1e-4))
    found[objective] = {"gradients": gradients, "losses": [run.step() for _ in range(3)]}
if run.accelerator.is_main_process:
    torch.save({"processes": run.accelerator.num_processes, **found}, sys.argv[1])
