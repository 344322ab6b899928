"""``promptvit data get``: download a data set, verify it and unpack it where its reader looks."""

from collections.abc import Callable
from pathlib import Path

from promptvit import files
from promptvit.data import torchvision_sets
from promptvit.data.fetch import sources
from promptvit.data.fetch.download import Progress, fetch, set_aside
from promptvit.data.fetch.sources import Download
from promptvit.data.fetch.unpack import BadArchive, is_archive, unpack


def get(
    name: str,
    root: Path,
    *,
    mirror: str | None = None,
    say: Callable[[str], None] = print,
    progress: Callable[[str], Progress] | None = None,
) -> None:
    """Download the data set ``name`` below ``root``.

    Safe to repeat: a file that is there, or that was unpacked before, is not downloaded again, and an interrupted one goes on where it
    was. An archive is deleted once it is unpacked. A file of the right name that was put there by hand is used like a downloaded one.

    Args:
        name: a data set, see :func:`promptvit.data.fetch.sources.names`; ``vtab`` and each ``vtab/NAME`` bring all 19 tasks.
        root: the data root; it is made if need be.
        mirror: another address: of the file, or of a folder that holds all of the set's files under their own names.
        say: told one line per step.
        progress: given a file name, what is told how far its download is.

    Raises:
        ValueError: an unknown name; a set that no program can fetch; a failed download; a wrong checksum; a damaged or hostile archive;
            a full disk. One line that says what to do.
    """
    source = sources.find(name)
    if source is None:
        if mirror:
            raise ValueError(f"--mirror: {name} is downloaded by torchvision from its own addresses; leave the option out")
        say(f"{name}: torchvision downloads it into {root}")
        torchvision_sets.download(name, root)
        return
    missing = [download.file for download in source.downloads if not (mirror or download.urls or _have(root, download))]
    if missing:
        raise ValueError(
            f"{name}: {', '.join(missing)} cannot be downloaded by this command ({source.note}); put what you have into "
            f"{root / source.downloads[0].into} and run it again to verify and unpack it, or name an address with --mirror URL"
        )
    if source.note:
        say(f"note: {source.note}")
    for download in source.downloads:
        _one(root, download, mirror, say, progress(download.file) if progress else _silent)


def _one(root: Path, download: Download, mirror: str | None, say: Callable[[str], None], progress: Progress) -> None:
    target, receipt = _places(root, download)
    if receipt.exists():
        say(f"{download.file}: was unpacked into {target.parent} before; delete {receipt} to fetch it again")
        return
    urls = (_address(mirror, download.file),) if mirror else download.urls
    say(f"{download.file}: {'is there' if target.exists() else f'from {urls[0]}'}")
    fetch(urls, target, download.checksum, progress)
    algorithm = download.checksum.partition(":")[0]
    say(f"{download.file}: {f'{algorithm} as published' if algorithm else 'unverified: no checksum of it is published'}")
    if not is_archive(download.file):
        return
    try:
        unpack(target, target.parent)
    except BadArchive as error:
        raise ValueError(f"{error}; the file was set aside as {set_aside(target, target)}; nothing was unpacked") from None
    files.write_text(receipt, f"{download.checksum or 'unverified'}\n")
    target.unlink()
    say(f"{download.file}: unpacked into {target.parent}")


def _places(root: Path, download: Download) -> tuple[Path, Path]:
    """The file, and what says later that it was unpacked."""
    target = root / download.into / download.file
    return target, target.with_name(f".{download.file}.done")


def _have(root: Path, download: Download) -> bool:
    return any(place.exists() for place in _places(root, download))


def _address(mirror: str, file: str) -> str:
    return mirror if mirror.partition("?")[0].endswith(f"/{file}") else f"{mirror.rstrip('/')}/{file}"


def _silent(done: int, total: int | None) -> None:
    pass
