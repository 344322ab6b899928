"""Reads one hostile input at a time under limits, and judges what came of it.

A case is *accepted* (something came out), *refused* (an error of a kind that the command line turns into one line, with a message that
names the input), or a *crash*: any other exception, code that ran, a file opened outside, too much time or memory.
"""

import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 10.0  # of one case, on the processor; thirty times as many by the clock, for a machine may be busy
GROWTH = 1500 * 2**20  # bytes of resident memory that one case may add: an image of 80 million pixels, and copies of it
ADDRESSES = 8 * 2**30  # bytes of address space beside what the process has: a bomb meets this before it fills the machine
LONGEST = 2500  # characters of a message
REFUSALS = (ValueError, OSError, ImportError, FloatingPointError)  # those of promptvit.cli.app

# What no reader of data has any business doing. `exec` and `import` are left out: a library may import itself lazily.
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.startfile",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
    "pickle.find_class",
    "ctypes.dlopen",
    "webbrowser.open",
)
FILES = (
    "open",
    "os.listdir",
    "os.scandir",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
    "shutil.rmtree",
)


class TooLong(BaseException):
    """A case ran into the time limit; no ``except Exception`` of a reader hides it."""


@dataclass(frozen=True)
class Case:
    """One input: ``read`` reads it, a refusal's message holds one of ``named``. ``note`` tells a person what it was."""

    read: Callable[[], Any]
    named: tuple[str, ...]
    note: str = ""


@dataclass
class Watch:
    """Judges cases; ``folder`` is theirs, ``outside`` holds a canary that none may open."""

    folder: Path
    outside: Path
    canary: Path
    counts: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def look(self, case: Case) -> str:
        """``accepted``, ``refused`` or ``crash``; counted."""
        self.seen.clear()
        _reset_peak()
        before = _memory("VmRSS")
        outcome, problem = "accepted", ""
        global _watch
        _watch = self
        try:
            with _limited_time():
                case.read()
        except REFUSALS as error:
            outcome, problem = "refused", unhelpful(str(error), case.named)
        except TooLong:
            problem = f"took longer than {SECONDS:g} s"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            problem = f"{type(error).__name__}: {str(error)[:300]} at {_place(error)}"
        finally:
            _watch = None
        grown = _memory("VmHWM") - before
        if grown > GROWTH:
            problem = f"took {grown / 2**20:.0f} MiB; {problem}"
        if self.seen:
            problem = f"did {'; '.join(self.seen[:3])}; {problem}"
        if self.canary.exists():
            self.canary.unlink()
            problem = f"ran the input's code; {problem}"
        if problem:
            outcome = "crash"
            self.crashes.append(f"{problem} [{case.note[:300]}]")
        self.counts[outcome] += 1
        return outcome

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit event of this process while a case is read."""
        if event in FORBIDDEN:
            self.seen.append(f"{event}{str(arguments)[:100]}")
        elif event in FILES:
            for path in (os.fsdecode(one) for one in arguments[:2] if isinstance(one, (str, bytes, os.PathLike))):
                if os.path.realpath(path).startswith(str(self.outside)) and not (event == "os.symlink" and path == arguments[0]):
                    self.seen.append(f"{event} {path}")


def unhelpful(message: str, named: tuple[str, ...]) -> str:
    """What is wrong with a message; nothing, if it is good."""
    if len(message) > LONGEST:
        return f"a message of {len(message)} characters: {message[:200]}"
    return "" if any(name in message for name in named) else f"names none of {named}: {message[:300]!r}"


_watch: Watch | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watch is not None and event != "sys._getframe":
        watch = _watch
        watch.hear(event, arguments)


sys.addaudithook(_hook)


@contextmanager
def limited_memory() -> Iterator[None]:
    """A limit on the address space of this process while the block runs."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + ADDRESSES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def _limited_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLong

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, 30 * SECONDS)}
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _memory(what: str) -> int:
    """Bytes of this process, from Linux: ``VmRSS`` now, ``VmHWM`` at its peak since the last reset."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{what}:"))


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as peak:
        peak.write("5")


def _place(error: BaseException) -> str:
    """The deepest line of ours in the traceback."""
    trace, place = error.__traceback__, "?"
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "promptvit" in name:
            place = f"{Path(name).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
