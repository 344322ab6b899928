"""What a person sees while a run trains: one bar with loss, accuracy, images per second and time left."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Bar:
    """A rich progress bar over all images of a run; on a console that is no terminal, one line per tenth of the epochs."""

    def __init__(
        self, title: str, epochs: int, images_per_epoch: int, done: int = 0, console: Console | None = None, quiet: bool = False
    ) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)
        self.epochs = epochs
        self.progress = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(),
            TextColumn("{task.fields[state]}"), TimeRemainingColumn(compact=True),
            console=self.console, transient=True, disable=not self.console.is_terminal,
        )
        total = epochs * images_per_epoch
        self.task = self.progress.add_task(title, total=total, completed=done * images_per_epoch, state="")
        self.title, self.val, self.images, self.started = title, "", 0, time.perf_counter()

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def batch(self, images: int, loss: float, accuracy: float) -> None:
        """One step over ``images`` images with the epoch's running loss and training accuracy (of images, or of pixels)."""
        self.images += images
        rate = self.images / (time.perf_counter() - self.started)
        state = f"loss {loss:.3f}  train {accuracy:.1%}{self.val}  {rate:.0f} img/s"
        self.progress.update(self.task, advance=images, state=state)
        self.loss = loss

    def epoch(self, number: int, value: float | None) -> None:
        """Epoch ``number`` (from 1) ended with this validation accuracy or mIoU, if it was validated."""
        self.val = self.val if value is None else f"  val {value:.1%}"
        if not self.console.is_terminal and (number == self.epochs or number % max(1, self.epochs // 10) == 0):
            line = f"{self.title}: epoch {number}/{self.epochs}  loss {self.loss:.3f}{self.val}"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
