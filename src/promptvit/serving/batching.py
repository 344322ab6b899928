"""Inputs of many callers, gathered into batches for one worker thread."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Function = Callable[[Sequence[Any]], Sequence[Any]]


class Busy(Exception):
    """No room for more inputs now."""


@dataclass(frozen=True)
class _Item:
    function: Function
    value: Any
    arrived: float
    future: asyncio.Future[Any]


class Batcher:
    """Runs functions of lists in one thread, on the inputs of as many callers as came together.

    A batch is taken when ``max_batch`` inputs wait, or when the oldest has waited ``max_latency`` seconds; while the thread is busy the
    next batch grows. Only inputs of one function share a batch, and the order of arrival is kept.

    Args:
        capacity: inputs that may wait; beyond it callers get :class:`Busy`.
        observe: called in the worker thread with the size of every batch and the seconds it took.
    """

    def __init__(
        self, *, max_batch: int, max_latency: float, capacity: int, observe: Callable[[int, float], None] = lambda size, seconds: None
    ) -> None:
        self.max_batch, self.max_latency, self.capacity, self.observe = max_batch, max_latency, capacity, observe
        self._items: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="promptvit-batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Inputs that are in no batch yet."""
        return len(self._items)

    async def submit(self, function: Function, values: Sequence[Any]) -> list[Any]:
        """What ``function`` gives for each of ``values``, in their order; they may be answered in several batches.

        Raises:
            Busy: not all of them have room, or :meth:`close` was called; none of them is taken.
            Exception: whatever ``function`` raises for one of them alone.
        """
        loop, now = asyncio.get_running_loop(), time.monotonic()
        items = [_Item(function, value, now, loop.create_future()) for value in values]
        with self._changed:
            if self._closing or len(self._items) + len(items) > self.capacity:
                raise Busy
            self._items.extend(items)
            self._changed.notify()
        return await asyncio.gather(*(item.future for item in items))

    def close(self) -> None:
        """Take nothing new, finish what waits, end the thread. The callers' event loop must still run."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._take():
            started = time.monotonic()
            batch = [item for item in batch if not item.future.cancelled()]
            if batch:
                results = _results(batch)
                self.observe(len(batch), time.monotonic() - started)
                batch[0].future.get_loop().call_soon_threadsafe(_deliver, batch, results)

    def _take(self) -> list[_Item]:
        """The next batch; empty once closed and done."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closing)
            if self._items:
                patience = self._items[0].arrived + self.max_latency - time.monotonic()
                self._changed.wait_for(lambda: len(self._items) >= self.max_batch or self._closing, patience)
            batch: list[_Item] = []
            while self._items and len(batch) < self.max_batch and self._items[0].function == (batch or self._items)[0].function:
                batch.append(self._items.popleft())
            return batch


def _results(batch: list[_Item]) -> Sequence[Any]:
    """A result or an exception for each item. Where a batch fails, each input is tried alone: one caller's must not fail the others'."""
    try:
        return batch[0].function([item.value for item in batch])
    except Exception as error:
        return [error] if len(batch) == 1 else [_results([item])[0] for item in batch]


def _deliver(batch: list[_Item], results: Sequence[Any]) -> None:
    for item, result in zip(batch, results, strict=True):
        if item.future.cancelled():
            continue
        if isinstance(result, Exception):
            item.future.set_exception(result)
        else:
            item.future.set_result(result)
