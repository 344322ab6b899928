"""What a person sees of a sweep: one bar over all its work with the time left; lines now and then where there is no terminal."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

EVERY = 30  # seconds between two lines


class Watch:
    """Shows how far a sweep is."""

    def __init__(self, title: str, console: Console) -> None:
        self.title, self.console = title, console
        self._next, self._last = 0.0, ""
        self.progress = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.fields[state]}"),
            console=console, transient=True, disable=not console.is_terminal,
        )
        self.task = self.progress.add_task(title, total=1.0, state="")

    def __enter__(self) -> "Watch":
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def line(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, done: int, runs: int, share: float, seconds: float | None) -> None:
        """``done`` of ``runs`` runs, ``share`` of the work in 0..1, ``seconds`` left where they can be told."""
        state = f"{done}/{runs} runs, {'time left not known yet' if seconds is None else f'about {duration(seconds)} left'}"
        self.progress.update(self.task, completed=share, state=state)
        news = f"{share:.0%}, {done}/{runs} runs"
        if not self.console.is_terminal and news != self._last and time.monotonic() >= self._next:
            self._next, self._last = time.monotonic() + EVERY, news
            self.line(f"{self.title}: {share:.0%}, {state}")


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < limit * size:
            return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"
