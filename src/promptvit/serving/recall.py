"""What passes remember of tasks' fixed prompts (keys and values), within a limit of bytes; the least recently used goes first."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from promptvit.backbones.base import PromptMemory


class Recall:
    """A memory for each task, all together in at most ``limit`` bytes. Threads may share it.

    Raises:
        ValueError: a negative limit.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"recall_bytes: at least 0, got {limit}")
        self.limit = limit
        self.bytes = 0
        self._kept: OrderedDict[object, PromptMemory] = OrderedDict()
        self._dropped: WeakSet[object] = WeakSet()
        self._lock = threading.Lock()

    def of(self, owners: Sequence[object]) -> PromptMemory:
        """What a batch remembers whose image b belongs to ``owners[b]``; empty unless all of them are remembered."""
        with self._lock:
            found = {owner: self._kept.get(owner) for owner in owners}
            for owner, memory in found.items():
                if memory is not None:
                    self._kept.move_to_end(owner)
        if None in found.values():
            return {}
        if len(found) == 1:
            return dict(found[owners[0]] or {})
        return Joined([found[owner] or {} for owner in owners])

    def keep(self, rows: Mapping[Any, int], memory: PromptMemory) -> None:
        """Remember what a pass left in ``memory``, of the owner of each of ``rows``; the same owners as in :meth:`of`."""
        if not memory or isinstance(memory, Joined):
            return
        for owner, row in rows.items():
            own = memory if len(rows) == 1 else {i: tuple(t[row : row + 1].clone() for t in pair) for i, pair in memory.items()}
            self._put(owner, own)

    def drop(self, owner: object) -> None:
        """Forget one owner for good: passes that still run leave nothing either."""
        with self._lock:
            self._dropped.add(owner)
            self.bytes -= _size(self._kept.pop(owner, {}))

    def _put(self, owner: object, memory: PromptMemory) -> None:
        size = _size(memory)
        with self._lock:
            if size > self.limit or owner in self._kept or owner in self._dropped:
                return
            self._kept[owner] = memory
            self.bytes += size
            while self.bytes > self.limit:
                self.bytes -= _size(self._kept.popitem(last=False)[1])


class Joined(dict[int, Any]):
    """Keys and values of a mixed batch, put together block by block when they are read."""

    def __init__(self, parts: Sequence[PromptMemory]) -> None:
        super().__init__(dict.fromkeys(parts[0]))
        self.parts = parts

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        return tuple(torch.cat(tensors) for tensors in zip(*(part[i] for part in self.parts), strict=True))


def _size(memory: PromptMemory) -> int:
    return sum(t.nbytes for kept in memory.values() for t in (kept if isinstance(kept, tuple) else (kept,)))
