"""Several processes on one job: how one joins them and how it leaves."""

import atexit

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import distributed


def join(precision: str, cpu: bool = False) -> Accelerator:
    """This process's place among those that ``torchrun`` or ``accelerate launch`` started, or alone.

    May be called again, with another precision. The group is left when Python ends: gloo's threads would else abort
    a process now and then, after all its work was done.

    Args:
        precision: ``no``, ``bf16`` or ``fp16``.
        cpu: use no accelerator, even where there is one.

    Raises:
        ValueError: ``fp16`` on a CPU, where accelerate would compute in float32 and say nothing.
    """
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision, cpu=cpu)
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("precision: fp16 needs a GPU and there is none; use bf16, or no for float32")
    if accelerator.num_processes > 1:
        atexit.unregister(_leave)
        atexit.register(_leave)
    return accelerator


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
