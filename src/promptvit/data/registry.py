"""Names of data sets. A reader is one function that registers itself; adding a data set touches one new file."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from promptvit.data.base import Dataset, take_shots
from promptvit.data.seeding import Purpose, generator
from promptvit.data.segmentation.registry import list_segmentation
from promptvit.errors import unknown


class Reader(Protocol):
    """Reads the data set ``name`` from ``root`` (None: none was given); ``strict`` makes unreadable files an error."""

    def __call__(self, name: str, *, root: Path | None, data_seed: int, strict: bool) -> Dataset: ...


_READERS: dict[str, Reader] = {}


def register(*names: str) -> Callable[[Reader], Reader]:
    """Make a reader known under one or more names; it is told by which one it was called."""

    def add(reader: Reader) -> Reader:
        for name in names:
            if name in _READERS:
                raise ValueError(f"data set {name!r} is registered twice")
            _READERS[name] = reader
        return reader

    return add


def list_datasets() -> list[str]:
    """Names of all data sets, for classification and for segmentation."""
    return sorted({*_READERS, *list_segmentation()})


def load_dataset(
    name: str, *, root: str | Path | None = None, data_seed: int = 0, shots: int | None = None, strict: bool = False
) -> Dataset:
    """Read a data set for classification.

    Args:
        name: one of :func:`list_datasets` that is not for segmentation.
        root: its folder, where it needs one.
        data_seed: of splits that have to be drawn, and of ``shots``; 0 or more.
        shots: training images per class; None takes all. Validation and test stay whole.
        strict: unreadable files are an error; otherwise they are skipped and named in ``skipped`` and ``notes``.

    Raises:
        ValueError: an unknown name, or data that cannot be used; one line that says what to do.
    """
    if name not in _READERS and name in list_segmentation():
        raise ValueError(f"data: {name} has masks instead of classes; use --task segmentation (in Python: load_segmentation)")
    if name not in _READERS:
        raise ValueError(unknown("data set", name, _READERS))
    dataset = _READERS[name](name, root=Path(root) if root is not None else None, data_seed=data_seed, strict=strict)
    if shots is not None:
        dataset.splits["train"], notes = take_shots(dataset.splits["train"], shots, generator(data_seed, Purpose.SHOTS))
        dataset.notes += notes
    return dataset
