"""From a file to named arrays, without ever running what is in it."""

import argparse
import json
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from promptvit.backbones.checkpoints.state import CheckpointError
from promptvit.errors import first_line

# Training scripts (MAE, DINO) store their arguments beside the weights.
ALLOWED_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace]
SQUEEZED = 20  # times its size that an archive may unpack to; those of NumPy and PyTorch are not compressed at all


def kind(path: Path) -> Literal["npz", "torch", "safetensors"]:
    """Tell the container by its first bytes; names such as ``.pth.tar`` say little.

    Raises:
        CheckpointError: missing, unreadable, empty, a page or pointer instead of the file, truncated, or something else.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file or folder") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not head:
        raise CheckpointError(f"{path}: the file is empty")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path}: an HTML page, not weights; the download went wrong")
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if head[8:9] == b"{":  # eight bytes of header length, then JSON
        return "safetensors"
    if head.startswith(b"\x80"):  # a pickle, as torch wrote before 1.6
        return "torch"
    raise CheckpointError(f"{path}: not a checkpoint (npz, PyTorch or safetensors); it starts with {head[:16]!r}")


def _zip_kind(path: Path) -> Literal["npz", "torch"]:
    try:
        with zipfile.ZipFile(path) as archive:
            names, unpacked = archive.namelist(), sum(member.file_size for member in archive.infolist())
    except Exception:  # zipfile raises many kinds, NotImplementedError among them
        raise CheckpointError(f"{path}: a truncated or damaged archive") from None
    if unpacked > SQUEEZED * path.stat().st_size:
        raise CheckpointError(f"{path}: would unpack to {unpacked:,} bytes, more than {SQUEEZED} times its size; weights do not")
    if any(name.endswith(".npy") for name in names):
        return "npz"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    raise CheckpointError(f"{path}: a zip archive without weights")


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a NumPy archive; pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {key: archive[key] for key in archive.files}
    except Exception as error:  # a damaged archive fails in zipfile, zlib or NumPy's header parser
        raise CheckpointError(f"{path}: cannot be read as npz: {first_line(error)}") from None
    for key, array in found.items():
        if not isinstance(array, np.ndarray):  # NumPy hands out the bytes of what is no array
            raise CheckpointError(f"{path}: {key} is no array")
    return found


def load_tensors(path: Path) -> Any:
    """What a PyTorch or safetensors file holds: normally a dictionary. Memory stays on the CPU."""
    found = kind(path)
    if found == "npz":
        raise CheckpointError(f"{path}: a NumPy archive where a PyTorch or safetensors file is expected")
    return _load_safetensors(path) if found == "safetensors" else _load_torch(path)


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {first_line(error)}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not a JSON object")
    return value


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: truncated or damaged safetensors file: {first_line(error)}") from None


def _load_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(ALLOWED_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters becomes an error below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := _refused_global(path, str(error)):
            raise CheckpointError(_way_out(path, refused)) from None
        raise CheckpointError(f"{path}: truncated, damaged or not a PyTorch checkpoint") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(f"{path}: truncated or damaged PyTorch file: {first_line(error)}") from None


def _way_out(path: Path, refused: str) -> str:
    return (
        f"{path}: refused, because it would run {refused} while loading. If you trust where it comes from, re-save its tensors: "
        f"`state = torch.load({path.name!r}, map_location='cpu', weights_only=False)`, then "
        f"`safetensors.torch.save_file(state.get('model', state), {path.stem + '.safetensors'!r})`"
    )


def _refused_global(path: Path, message: str) -> str | None:
    """The name that torch refused, from its message or else (newer pickle protocols, raw pickles) from the opcodes."""
    if match := re.search(r"GLOBAL (\S+)", message):
        return match[1]
    known = ("torch.", "collections.OrderedDict", "argparse.Namespace")
    return next((name for name in _globals(path) if not name.startswith(known)), None)


def _globals(path: Path) -> Iterator[str]:
    """Names that a raw pickle asks for, by reading its opcodes; nothing is executed."""
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":  # module and name are the last two strings
                    yield ".".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # not a pickle, or cut short: what was found so far is the answer
        return
