"""One file over HTTP: resumed where it broke off, checked, and under its own name only when whole.

While it is on its way it is called ``NAME.part``; a later call goes on with that. A file with a wrong checksum becomes ``NAME.bad``.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where the server says

TRIES = 5  # without a single new byte, before an address is given up
PAUSE = 1.0  # seconds before the second try; doubled for each further one
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 2**18
HEADERS = {"User-Agent": "promptvit", "Accept-Encoding": "identity"}
FULL = (errno.ENOSPC, errno.EDQUOT)


def fetch(urls: Sequence[str], target: Path, checksum: str, progress: Progress) -> None:
    """Download ``target`` from the first of ``urls`` that has it, unless it is there; then verify it.

    Args:
        urls: addresses of the same bytes, http or https.
        checksum: ``md5:...``, ``sha1:...`` or ``sha256:...``; empty where none is known.
        progress: told after every chunk.

    Raises:
        ValueError: an address that is not http or https; no address that works; a full disk; a wrong checksum.
    """
    if not target.exists():
        part = target.with_name(f"{target.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        _from_any(urls, part, progress)
        if checksum:
            _verify(part, target, checksum)
        part.replace(target)
    elif checksum:
        _verify(target, target, checksum)


def set_aside(path: Path, target: Path) -> Path:
    """Rename an unusable file to ``NAME.bad`` beside ``target``."""
    return path.replace(target.with_name(f"{target.name}.bad"))


def _verify(path: Path, target: Path, checksum: str) -> None:
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if found != expected:
        aside = set_aside(path, target)
        raise ValueError(
            f"{target.name}: wrong checksum: {algorithm} {found}, expected {expected}; the file was set aside as {aside}; "
            "run the command again, or name another address with --mirror URL"
        )


def _from_any(urls: Sequence[str], part: Path, progress: Progress) -> None:
    failures = []
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"--mirror: expected an http or https address, got {url!r}")
        failure = _from_one(url, part, progress)
        if failure is None:
            return
        failures.append(f"{url}: {failure}")
    got = part.stat().st_size
    if not got:
        part.unlink()
    kept = f"; {got:,} bytes are kept, the same command goes on from there" if got else ""
    raise ValueError(f"cannot download {'; '.join(failures)}{kept}; --mirror URL takes another address")


def _from_one(url: str, part: Path, progress: Progress) -> str | None:
    """Fill ``part`` from one address; the reason where that fails."""
    idle, failure = 0, "the connection broke off again and again"
    with part.open("ab") as file:
        while idle < TRIES:
            before = _size(file)
            try:
                if _append(url, file, progress):
                    return None
            except HTTPError as error:
                failure = f"HTTP {error.code} {error.reason}"
                if error.code < 500 and error.code not in (408, 429):
                    return failure
            except (OSError, HTTPException) as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise ValueError(f"{part.parent}: the disk is full after {_size(file):,} bytes of {part.name}") from None
                failure = " ".join(str(error).split()) or type(error).__name__
            idle = 0 if _size(file) > before else idle + 1
            time.sleep(PAUSE * 2**idle if idle < TRIES else 0)
    return failure


def _append(url: str, file: BinaryIO, progress: Progress) -> bool:
    """Ask for what ``file`` still lacks and append it; whether it is whole then."""
    start = _size(file)
    try:
        response = urlopen(Request(url, headers=HEADERS | ({"Range": f"bytes={start}-"} if start else {})), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416:
            raise
        whole = _range(error.headers)[1] == start  # nothing is left to send
        if not whole:
            file.truncate(0)
        return whole
    with response:
        first, total = _range(response.headers) if response.status == 206 else (0, _length(response.headers))
        if first != start:
            file.truncate(0)
            if first:
                return False  # a part that nobody asked for
        _check_space(Path(file.name), (total or 0) - _size(file))
        while chunk := response.read(CHUNK):
            file.write(chunk)
            file.flush()
            progress(_size(file), total)
    return total is None or _size(file) == total


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _range(headers: Message) -> tuple[int, int | None]:
    """First byte and length of the whole, from ``Content-Range: bytes 5-9/10`` or ``bytes */10``; -1 where it cannot be read."""
    extent, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    first = extent.partition("-")[0]
    return int(first) if first.isdecimal() else -1, int(total) if total.isdecimal() else None


def _length(headers: Message) -> int | None:
    given = headers.get("Content-Length", "")
    return int(given) if given.isdecimal() else None


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise ValueError(f"{part.parent}: {needed / 2**30:.1f} GiB are needed for {part.name} and {free / 2**30:.1f} GiB are free")
