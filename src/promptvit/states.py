"""Checkpoints: what a run needs to go on, in a file that is whole and its own, or is refused."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from promptvit import files

ADVICE = "put back a copy of it, or delete it and go on with --resume: the run then starts from its beginning"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, texts, lists, dicts), atomically."""
    with files.atomic(path) as temporary, temporary.open("wb") as file:  # given a path, torch hides why it could not write
        torch.save(state, file)


def load(path: Path) -> dict[str, Any] | None:
    """What :func:`save` wrote, on the CPU; None where there is no such file.

    Raises:
        ValueError: it is damaged; says what to do.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself compares no checksum and would load a flipped bit
            if (record := archive.testzip()) is not None:
                raise ValueError(f"checksum of {record} differs")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"resume: {path} is damaged ({type(error).__name__}); {ADVICE}") from None
    if not isinstance(state, dict):
        raise ValueError(f"resume: {path} holds a {type(state).__name__}, no checkpoint; {ADVICE}")
    return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """What goes wrong inside while the state of ``path`` is put to use is the fault of that file.

    Raises:
        ValueError: the state is not one of this run; says what to do.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"resume: {path} is no checkpoint of this run ({type(error).__name__}: {reason}); {ADVICE}") from None
