"""Folders and disks as a library does not want them, for the process that runs the test."""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Nobody may write to ``folder`` and what is in it: a superuser, whom no permission binds, is an ordinary user meanwhile."""
    before = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path, mode in before.items():
        path.chmod(stat.S_IMODE(mode) & ~0o222 | (0o555 if path.is_dir() else 0o444))
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(NOBODY)
    try:
        if os.access(folder, os.W_OK, effective_ids=True):
            pytest.skip("this system lets anybody write anywhere")
        yield
    finally:
        if superuser:
            os.seteuid(0)
        for path, mode in before.items():
            path.chmod(stat.S_IMODE(mode))


@contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes."""
    folder = Path(tempfile.mkdtemp())
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False)
    try:
        if mounted.returncode:
            pytest.skip("no right to mount a small disk here; the campaign limits the size of files instead")
        yield folder
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", folder], check=True)
        shutil.rmtree(folder)


@contextmanager
def public_folder() -> Iterator[Path]:
    """A new folder that every user may reach; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
