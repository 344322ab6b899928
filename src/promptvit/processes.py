"""Several processes on one job: how one joins them and how it leaves."""

import atexit
import time

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import distributed


def join(precision: str, cpu: bool = False) -> Accelerator:
    """This process's place among those that ``torchrun`` or ``accelerate launch`` started, or alone.

    May be called again, with another precision. The group is left when Python ends.

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
    """Left too early, a process aborts after all its work was done.

    gloo's threads need Python's lock to let go of the last collective's tensors, and an interpreter that is ending
    kills the thread that asks for it. While this one sleeps, they have the lock.
    """
    time.sleep(0.2)
    if distributed.is_initialized():
        distributed.destroy_process_group()
