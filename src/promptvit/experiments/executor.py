"""Where the runs of a sweep run: what a sweep expects of any such place, and processes of this machine."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, Self


@dataclass(frozen=True)
class Job:
    """A run to do: complete settings by their hash. Doing it twice gives the same files, so a job may always be done again."""

    hash: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A job that ended: the content of its ``result.json``, or the reason why there is none.

    Attributes:
        lost: the machine under it went away, which says nothing about the job.
    """

    job: Job
    result: dict[str, Any] | None
    error: str | None = None
    lost: bool = False


class Executor(Protocol):
    """Does jobs somewhere. It neither plans nor retries: the sweep hands out as many jobs as there is room for."""

    @property
    def free(self) -> int:
        """How many jobs may be submitted now."""

    @property
    def running(self) -> Sequence[Job]:
        """Jobs submitted whose outcome was not given yet."""

    def submit(self, job: Job) -> None:
        """Start a job."""

    def wait(self, seconds: float) -> list[Outcome]:
        """Jobs that ended, as soon as there is one; none after ``seconds``. A place that dies under a job is an outcome, too."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None:
        """Stop what still runs; its state is on disk."""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalExecutor:
    """Processes of this machine that stay from job to job; one that dies is replaced.

    Args:
        jobs: how many at a time. They share the cores; with GPUs they take turns over them.
        logs: folder for ``<hash>.log`` of jobs that failed.

    Raises:
        ValueError: fewer than one job at a time.
    """

    def __init__(self, jobs: int, logs: Path) -> None:
        if jobs < 1:
            raise ValueError(f"jobs: must be 1 or more, got {jobs}")
        self.jobs, self.logs = jobs, logs
        self.workers: dict[int, _Worker] = {}

    @property
    def free(self) -> int:
        return self.jobs - len(self.running)

    @property
    def running(self) -> list[Job]:
        return [worker.job for worker in self.workers.values() if worker.job]

    def submit(self, job: Job) -> None:
        place = next(i for i in range(self.jobs) if i not in self.workers or self.workers[i].job is None)
        if place in self.workers and not self.workers[place].process.is_alive():
            del self.workers[place]
        if place not in self.workers:
            self.workers[place] = _Worker(place, max(1, cores() // self.jobs), self.logs)
        self.workers[place].start(job)

    def wait(self, seconds: float) -> list[Outcome]:
        busy = {worker.connection: place for place, worker in self.workers.items() if worker.job}
        outcomes = []
        for connection in wait(list(busy), seconds):
            place = busy[connection]  # type: ignore[index]  # only connections were given
            outcomes.append(self.workers[place].outcome())
            if outcomes[-1].error and not self.workers[place].process.is_alive():
                del self.workers[place]
        return outcomes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers.values():
            worker.process.kill()  # also while it writes: files appear whole or not at all
        for worker in self.workers.values():
            worker.process.join()
        self.workers.clear()


class _Worker:
    """This side of one process."""

    def __init__(self, place: int, threads: int, logs: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.job: Job | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, place, threads, logs), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is the end of this connection

    def start(self, job: Job) -> None:
        self.job = job
        with suppress(OSError):  # it died just now: the outcome will say so
            self.connection.send(job)

    def outcome(self) -> Outcome:
        """To be asked for when the connection has something to say."""
        job, self.job = self.job, None
        assert job is not None
        try:
            result, error = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return Outcome(job, None, f"its process died ({_reason(self.process.exitcode)})")
        return Outcome(job, result, error)


def _reason(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"signal {-code}" + ("; out of memory?" if code == -getattr(signal, "SIGKILL", 0) else "")


def _serve(connection: Connection, place: int, threads: int, logs: Path) -> None:
    """The other side: jobs come, results go, until the sweep's process ends."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the sweep decides what it means
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before the imports below read it
    import torch

    from promptvit.experiments.worker import Trainer

    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
    trainer = Trainer()
    while True:
        job = connection.recv()
        connection.send(attempt(trainer, job, logs / f"{job.hash}.log"))


def attempt(trainer: Any, job: Job, log: Path) -> tuple[dict[str, Any] | None, str | None]:
    """(result, None) or (None, the reason in one line); the log of a failure stays."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as sink, redirect_stdout(sink), redirect_stderr(sink):
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
        try:
            result = trainer(job.settings)
        except Exception as error:
            traceback.print_exc()
            return None, f"{type(error).__name__}: {' '.join(str(error).split())}"
    log.unlink()
    return result, None


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
