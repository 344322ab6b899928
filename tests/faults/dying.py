"""Work in a forked process that dies where it is told to.

The server imports everything once and computes nothing itself, so a fork costs some milliseconds and finds all of it loaded.
"""

import ctypes
import os
import pickle
import resource
import select
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Death:
    """When an attempt is killed.

    Attributes:
        kind: ``time``: SIGKILL from outside after ``at`` seconds, of all its processes or, with ``alone``, of the first one only.
            ``step``: SIGKILL of all its processes at the ``at``-th step of writing files. ``cut``: the ``at``-th file ends after
            ``size`` bytes, in the middle of whichever call writes it, and the process with it (SIGXFSZ; no handler runs).
            ``full``: the same, but the process lives and is told that there is no room (EFBIG, as ENOSPC of a full disk).
    """

    kind: str
    at: float
    size: int = 0
    alone: bool = False


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: killed, with an error, or with a value.

    Attributes:
        limited: it came to the file that was to be cut.
        steps, sizes: steps of writing files, and the bytes of each.
    """

    killed: bool
    value: Any = None
    error: str | None = None
    limited: bool = False
    steps: int = 0
    sizes: list[int] = field(default_factory=list)
    seconds: float = 0.0


def attempt(work: Callable[[], Any], death: Death | None = None) -> Ended:
    """``work()`` in a forked process; returns when it and all processes that it forked are gone."""
    reader, writer = os.pipe()  # its forks hold the writing end, too: the pipe ends with the last of them
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(work, death, writer)
    os.close(writer)
    with suppress(OSError):  # it may have done so itself, or be gone
        os.setpgid(pid, pid)
    with open(reader, "rb") as answer:
        if death is not None and death.kind == "time" and not select.select([answer], [], [], death.at)[0]:
            (os.kill if death.alone else os.killpg)(pid, signal.SIGKILL)
        told = answer.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Ended(killed=True)
    return Ended(False, *pickle.loads(told), seconds=time.monotonic() - started)


def _child(work: Callable[[], Any], death: Death | None, writer: int) -> None:
    value, error, watched = None, None, _Watched(death)
    try:
        os.setpgid(0, 0)
        with suppress(OSError, AttributeError):  # Linux: the campaign's own death ends it, too
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silence, stream)
        watched.install()
        value = work()
    except BaseException:
        error = traceback.format_exc()
    finally:
        told = pickle.dumps((value, error, watched.limited, watched.steps, watched.sizes))
        with open(writer, "wb") as answer:
            answer.write(told)
        os._exit(0)


class _Watched:
    """Counts the steps of writing files whole (begin, sync, before and after the replacement) and dies at the chosen one."""

    def __init__(self, death: Death | None) -> None:
        self.death, self.limited, self.steps, self.begun = death, False, 0, 0
        self.sizes: list[int] = []

    def install(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN if self.death is not None and self.death.kind == "full" else signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        begin, sync, replace = tempfile.mkstemp, os.fsync, os.replace

        def mkstemp(*given: Any, **named: Any) -> tuple[int, str]:
            made = begin(*given, **named)
            self.step()
            self.begun += 1
            if self.death is not None and self.death.kind in ("cut", "full") and self.begun == self.death.at:
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.death.size, self.death.size))
                self.limited = True
            return made

        def fsync(handle: Any) -> None:
            self.step()
            sync(handle)

        def replaced(source: Any, target: Any, **named: Any) -> None:
            self.sizes.append(Path(source).stat().st_size)
            self.step()
            replace(source, target, **named)
            self.step()

        tempfile.mkstemp, os.fsync, os.replace = mkstemp, fsync, replaced

    def step(self) -> None:
        self.steps += 1
        if self.death is not None and self.death.kind == "step" and self.steps == self.death.at:
            os.killpg(0, signal.SIGKILL)
