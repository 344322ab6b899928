"""Decoded images on disk, so that no later epoch, run or process decodes them again: one file per image, mapped into memory.

An entry's name is a digest of the image file's bytes, of how it is resized, and of the versions that decode it; so an entry is never
out of date, only unused. Entries are published whole (a temporary file is renamed) and carry a checksum: any number of processes may
write the same one, and a damaged one is made again. The longest unused are deleted when all together outgrow the limit.

``PROMPTVIT_CACHE`` names another folder than the user's cache folder; ``PROMPTVIT_CACHE_GIB`` another limit (0: no cache).
"""

import hashlib
import json
import logging
import os
import re
import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import PIL

from promptvit import files
from promptvit.preprocessing import Preprocessing

log = logging.getLogger(__name__)

LIMIT_GIB = 20.0
FORMAT = b"PVC1"
VERSIONS = [FORMAT.decode(), PIL.__version__]
HEADER = struct.Struct("<4sIII")  # format, height, width, CRC-32 of the pixels
MAPPED = 2**17  # bytes; smaller entries are read, because a process may hold some 65,000 mappings only
OWN = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\..+")  # an entry, or one that is being written
RESCAN = 256  # entries written between two looks at what other processes have written


def default_folder() -> Path:
    """``PROMPTVIT_CACHE``, or ``promptvit`` in the user's cache folder."""
    if given := os.environ.get("PROMPTVIT_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "promptvit"


def default_limit() -> int:
    """Bytes, from ``PROMPTVIT_CACHE_GIB``.

    Raises:
        ValueError: it is no number, or negative.
    """
    given = os.environ.get("PROMPTVIT_CACHE_GIB", str(LIMIT_GIB))
    try:
        gib = float(given)
    except ValueError:
        gib = -1.0
    if not 0 <= gib < float("inf"):
        raise ValueError(f"PROMPTVIT_CACHE_GIB: expected a number of GiB, 0 or more, got {given!r}")
    return int(gib * 2**30)


class Cache:
    """Entries below ``folder``, at most ``limit`` bytes (default: the user's). Safe to share among threads and processes.

    It never fails: what cannot be read is not there, and what cannot be written is left out (once with a warning).
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder = default_folder() if folder is None else folder
        self.limit = default_limit() if limit is None else limit
        self.lock = Lock()
        self.since_scan, self.bytes, self.broken = RESCAN, 0, self.limit == 0

    def key(self, image: Path, preprocessing: Preprocessing) -> str:
        """Name of the entry for an image file, from its bytes.

        Raises:
            OSError: it cannot be read.
        """
        with image.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return _digest([content, preprocessing.model_dump(mode="json", include={"size", "resize", "crop_pct", "interpolation"})])

    def get(self, key: str) -> np.ndarray | None:
        """Pixels ``[3, h, w]`` uint8, read-only, or None where there is no sound entry."""
        if self.broken:
            return None
        path = self._path(key)
        try:
            pixels = _read(path)
            os.utime(path)  # the longest unused go first
        except FileNotFoundError:
            return None
        except (OSError, ValueError, struct.error):
            _delete(path)
            return None
        return pixels

    def put(self, key: str, pixels: np.ndarray) -> None:
        """Publish ``pixels [3, h, w]`` uint8 under ``key``."""
        height, width = pixels.shape[1:]
        data = np.ascontiguousarray(pixels).data
        self._publish(key, HEADER.pack(FORMAT, height, width, zlib.crc32(data)), data)

    def recall(self, facts: Any) -> Any:
        """What :meth:`remember` was told about ``facts`` (anything that JSON holds), or None."""
        try:
            return None if self.broken else json.loads(self._path(_digest(facts)).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None

    def remember(self, facts: Any, value: Any) -> None:
        """Keep a small ``value`` (anything that JSON holds) about ``facts``, among the images."""
        self._publish(_digest(facts), json.dumps(value).encode())

    def entries(self) -> list[os.DirEntry[str]]:
        """All files of the cache."""
        found = []
        for shelf in _scan(self.folder):
            if len(shelf.name) == 2 and shelf.is_dir(follow_symlinks=False):
                found += [entry for entry in _scan(shelf.path) if OWN.fullmatch(entry.name)]
        return found

    def clear(self) -> int:
        """Delete all entries and return how many there were; files that the cache did not make stay."""
        found = self.entries()
        for entry in found:
            _delete(Path(entry.path))
        for shelf in {Path(entry.path).parent for entry in found}:
            with suppress(OSError):  # something else is in it
                shelf.rmdir()
        self.since_scan = RESCAN
        return len(found)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _publish(self, key: str, *parts: bytes | memoryview) -> None:
        size = sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)
        if self.broken or size > self.limit:
            return
        try:
            with files.atomic(self._path(key), sync=False) as temporary, temporary.open("wb") as file:
                file.writelines(parts)
        except OSError as error:
            if self._path(key).exists():  # another process was faster, and its file is in use
                return
            self.broken = True
            log.warning("cache: cannot write to %s (%s); going on without", self.folder, error.strerror or error)
            return
        with self.lock:
            self.bytes += size
            self.since_scan += 1
            if self.bytes > self.limit or self.since_scan > RESCAN:
                self._evict()

    def _evict(self) -> None:
        """Count again; beyond the limit, delete the longest unused entries until a tenth of it is free."""
        ages = []
        for entry in self.entries():
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:  # another process was faster
                continue
            ages.append((facts.st_mtime_ns, facts.st_size, entry.path))
        self.bytes, self.since_scan = sum(size for _, size, _ in ages), 0
        if self.bytes <= self.limit:
            return
        for _, size, path in sorted(ages):
            if self.bytes <= 0.9 * self.limit:
                break
            _delete(Path(path))
            self.bytes -= size


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps([VERSIONS, facts], sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> np.ndarray:
    """The pixels of an entry.

    Raises:
        ValueError, struct.error: it is cut off or damaged. OSError: it cannot be read.
    """
    with path.open("rb") as file:
        kind, height, width, checksum = HEADER.unpack(file.read(HEADER.size))
        size = 3 * height * width
        if kind != FORMAT or os.fstat(file.fileno()).st_size != HEADER.size + size:
            raise ValueError(f"{path} is no entry")
        flat: np.ndarray
        if size < MAPPED:
            flat = np.frombuffer(file.read(), np.uint8)
        else:
            flat = np.memmap(file, np.uint8, "r", HEADER.size, (size,)).view(np.ndarray)
    if zlib.crc32(flat.data) != checksum:
        raise ValueError(f"{path} is damaged")
    return flat.reshape(3, height, width)


def _scan(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # Windows keeps what is mapped
        log.debug("cache: %s stays (%s)", path, error)
