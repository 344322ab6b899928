"""One process at a time writes to a folder, and the others learn which."""

import errno
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from promptvit import files

log = logging.getLogger(__name__)

LOCK, OWNER = ".lock", ".owner.json"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Held(ValueError):
    """Somebody else owns the folder."""


@contextmanager
def owned(folder: Path, what: str, *, inside: str = "") -> Iterator[None]:
    """Nobody else owns ``folder`` meanwhile; what killed owners left half-written in it and its folders is deleted first.

    The system releases the lock of a process that died, however it died.

    Args:
        what: the owner's work, for the message: ``sweep``.
        inside: part of the folder where the lock lies.

    Raises:
        Held: somebody else does; says who. PermissionError: the folder cannot be written.
    """
    place = folder / inside
    lock = FileLock(place / LOCK, timeout=0)
    try:
        place.mkdir(parents=True, exist_ok=True)
        _acquire(lock)
        files.discard_unfinished(folder, *filter(Path.is_dir, folder.iterdir()))
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        files.write_json(place / OWNER, {"pid": os.getpid(), "host": platform.node(), "since": since})
    except Timeout:
        raise Held(
            f"out: another {what} writes to {folder} ({_owner(place / OWNER)}); wait for it, stop it, or choose another folder"
        ) from None
    except OSError as error:
        lock.release()
        raise PermissionError(f"out: cannot write to {folder} ({error.strerror}); choose another folder") from None
    try:
        yield
    finally:
        (place / OWNER).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock) -> None:
    try:
        lock.acquire()
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks; see to it yourself that only one process writes there", lock.lock_file)


def _owner(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']}, since {held['since']}"
    except (OSError, ValueError, LookupError, TypeError):  # not written yet
        return "it began just now"
