"""Archives into a folder: all of one or nothing, and nothing outside the folder."""

import errno
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")


class BadArchive(ValueError):
    """An archive that is damaged, or that would write where it must not."""


def is_archive(name: str) -> bool:
    """Whether a file of this name is one to unpack."""
    return name.endswith(SUFFIXES)


def unpack(archive: Path, into: Path) -> None:
    """Unpack a tar or zip file. Files of the same name are replaced, all else in ``into`` stays.

    Members are written to a hidden folder first and moved when all are there, so an interrupted call leaves nothing half done.

    Raises:
        BadArchive: damaged, or with a member that has an absolute path, leads out of the folder, or is a device; nothing was unpacked.
        ValueError: a full disk.
    """
    hidden = into / f".{archive.name}.unpacking"
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    try:
        _extract(archive, hidden)
        _merge(hidden, into)
    except BadArchive:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ValueError(f"{into}: the disk is full while unpacking {archive.name}; make room and run the command again") from None
        if error.filename is None:  # how gzip and wrong offsets report damage
            raise BadArchive(f"{archive.name}: {error}") from None
        raise
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:  # also odd names and kinds
        raise BadArchive(f"{archive.name}: {' '.join(str(error).split()) or type(error).__name__}") from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _extract(archive: Path, into: Path) -> None:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                _check_member(archive.name, member)
            opened.extractall(into)  # compares every member with its CRC-32
    else:
        with tarfile.open(archive) as opened:
            opened.extractall(into, filter="data")  # refuses what leaves the folder, and devices


def _check_member(archive: str, member: zipfile.ZipInfo) -> None:
    posix, windows = PurePosixPath(member.filename), PureWindowsPath(member.filename)
    if posix.is_absolute() or windows.anchor or ".." in windows.parts:
        raise BadArchive(f"{archive}: the member {member.filename!r} would be written outside the destination")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise BadArchive(f"{archive}: the member {member.filename!r} is a link")


def _merge(source: Path, target: Path) -> None:
    """Move everything in ``source`` into ``target``, folder into folder."""
    target.mkdir(exist_ok=True)
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and place.is_dir():
            _merge(entry, place)
        else:
            entry.replace(place)
