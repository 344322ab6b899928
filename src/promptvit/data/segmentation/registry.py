"""Names of segmentation data sets. A reader is one function that registers itself and writes down what it finds wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from promptvit.data.findings import Findings
from promptvit.data.segmentation.base import SegmentationDataset
from promptvit.errors import unknown


class Reader(Protocol):
    """Reads the data set ``name`` from ``root`` (None: none was given) as far as its faults, which go to ``findings``, allow."""

    def __call__(self, name: str, *, root: Path | None, data_seed: int, findings: Findings) -> SegmentationDataset | None: ...


TASKS = ("classification", "segmentation")
_READERS: dict[str, Reader] = {}


def register(name: str) -> Callable[[Reader], Reader]:
    """Make a reader known under ``name``."""

    def add(reader: Reader) -> Reader:
        if name in _READERS:
            raise ValueError(f"segmentation data set {name!r} is registered twice")
        _READERS[name] = reader
        return reader

    return add


def list_segmentation() -> list[str]:
    """Names that :func:`load_segmentation` accepts."""
    return sorted(_READERS)


def is_segmentation(name: str, task: str | None = None) -> bool:
    """Whether the data set ``name`` is meant as one for segmentation; ``folder`` is, if ``task`` says so.

    Raises:
        ValueError: a task that is neither ``classification`` nor ``segmentation``.
    """
    if task not in (None, *TASKS):
        raise ValueError(unknown("task", task, TASKS))
    return task == "segmentation" if task else name in _READERS and name != "folder"


def load_segmentation(name: str, *, root: str | Path | None = None, data_seed: int = 0) -> SegmentationDataset:
    """Read a segmentation data set. Files are decoded when they are due; that each image has a mask is looked at now.

    Args:
        name: one of :func:`list_segmentation`.
        root: its folder, where it needs one.
        data_seed: of splits that have to be drawn; 0 or more.

    Raises:
        ValueError: an unknown name, or data that cannot be used; one line that says what to do.
    """
    findings = Findings()
    dataset = survey(name, findings, root=root, data_seed=data_seed)
    findings.raise_first(name)
    assert dataset is not None  # a reader that returns none has found an error
    dataset.notes += [str(finding) for finding in findings.of("warning")]
    return dataset


def survey(name: str, findings: Findings, *, root: str | Path | None, data_seed: int = 0) -> SegmentationDataset | None:
    """What there is of a data set; all that is wrong with it, as far as can be seen without opening an image, goes to ``findings``.

    Raises:
        ValueError: an unknown name, or a fault that leaves nothing to look at.
    """
    if name not in _READERS:
        raise ValueError(unknown("segmentation data set", name, _READERS))
    try:
        return _READERS[name](name, root=None if root is None else Path(root), data_seed=data_seed, findings=findings)
    except (OSError, RuntimeError) as error:  # pathlib reports a circle of links as RuntimeError
        raise ValueError(f"data_root: cannot read {root} ({error}); check permissions and links") from None
