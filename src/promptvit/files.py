"""Writing files so that a reader never sees half of one."""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UNFINISHED = ".tmp"  # how the hidden files end that are being written, or were when their process was killed
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path`` in one step, on error it is removed.

    ``sync`` waits until the content is on the disk: not needed for what can be made again.

    Raises:
        OSError: ``path`` cannot be written; names it, also where a library reports a full disk as something else.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        if sync:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except Exception as error:
        if (reason := _reason(error, path)) is None:
            raise
        raise OSError(reason.errno, reason.strerror, str(path)) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 with Unix line ends, atomically.

    What UTF-8 cannot hold, such as a byte of a file name that is not UTF-8, is written as ``\\udcff``: in JSON it then reads as it was.
    """
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode(errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def discard_unfinished(*folders: Path) -> None:
    """Delete what killed processes left half-written in ``folders``; nobody else may write there meanwhile."""
    for folder in folders:
        for left in folder.glob(f".*{UNFINISHED}"):
            with suppress(OSError):  # untidy, no more
                left.unlink()


def _reason(error: BaseException | None, path: Path) -> OSError | None:
    """Why ``path`` could not be written, where ``error`` says so itself or came from such an error."""
    if isinstance(error, OSError) and error.errno is not None:
        own = error.filename is None or Path(os.fsdecode(error.filename)).name.startswith(f".{path.name}.")
        return error if own or error.errno in NO_ROOM else None
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error
        error = error.__cause__ or error.__context__
    return None
