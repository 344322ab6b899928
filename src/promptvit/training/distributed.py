"""Several processes on one run: what is trained is summed, nothing else travels, and the numbers are those of one process.

A batch is global: process r of w takes every w-th of its images. Each process scales its loss to its share of the batch, so the sum of
the gradients is the gradient of the whole batch, also where the last batch leaves a process with fewer images or none.
"""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from promptvit.errors import first_line


class PeerLost(RuntimeError):
    """Another process of the run is gone."""


def summed(accelerator: Accelerator, values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes, the same in each.

    Raises:
        PeerLost: a process died.
    """
    if accelerator.num_processes == 1:
        return values
    try:
        return accelerator.reduce(values, "sum")
    except RuntimeError as error:
        raise PeerLost(f"another process of this run is gone ({first_line(error)})") from error


def average(accelerator: Accelerator, statistics: Iterable[Tensor]) -> None:
    """Replace running statistics, of which every process has its own, by their mean; counters stay."""
    for tensor in statistics:
        if tensor.is_floating_point():
            tensor.copy_(summed(accelerator, tensor) / accelerator.num_processes)


def sum_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter], *, beside: Tensor) -> Tensor:
    """Replace every gradient by its sum over the processes, in one exchange.

    Args:
        parameters: those that learn, in the same order everywhere; one without a gradient counts as zero.
        beside: ``[k]``, summed along with them and returned.

    Raises:
        PeerLost: a process died.
    """
    if accelerator.num_processes == 1:
        return beside
    listed = list(parameters)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in listed]
    total = summed(accelerator, torch.cat([beside.to(parts[0]), *(part.flatten() for part in parts)]))
    rows = total[len(beside) :].split([p.numel() for p in listed])
    for parameter, row in zip(listed, rows, strict=True):
        parameter.grad = row.view_as(parameter)
    return total[: len(beside)]
