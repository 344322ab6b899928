"""Parses the lists that data sets come with: text, json and MATLAB files. What cannot be used becomes a finding, never an exception.

Text is UTF-8, with or without a byte order mark, with Unix or Windows line ends; blank lines mean nothing; paths may hold spaces.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from promptvit.data.findings import Findings
from promptvit.data.listed.matlab import read_matlab


@dataclass(frozen=True)
class Line:
    """One image of a list: its path as written, its class id, where that stands (``test.txt:3``), what the path is relative to."""

    path: str
    id: int
    where: str
    folder: str = "."


def image_lines(file: Path, findings: Findings) -> list[Line]:
    """Lines ``images/train800/000000.jpg 307``: a path, white space, a class id."""
    lines = []
    for where, text in text_lines(file, findings):
        match = re.fullmatch(r"(.*\S)[ \t]+(\S+)", text)
        if not match:
            findings.error("unparsable-list", where, f"expected PATH ID, got {text[:80]!r}")
            continue
        label = class_id(match[2], where, findings)
        if label is not None:
            lines.append(Line(match[1], label, where))
    return lines


def image_object(file: Path, findings: Findings, folder: str) -> list[Line]:
    """A json object of image paths, relative to ``folder``, and class ids."""
    text = _text(file, findings)
    if text is None:
        return []
    try:
        read = json.loads(text, object_pairs_hook=tuple)  # pairs, for an object hides a path that it lists twice
    except (ValueError, RecursionError) as error:
        findings.error("unparsable-list", file.name, f"not valid json ({error})")
        return []
    if not isinstance(read, tuple):
        findings.error("unparsable-list", file.name, f"expected an object of image paths and class ids, got a {type(read).__name__}")
        return []
    ids = [(path, class_id(value, file.name, findings, of=path)) for path, value in read]
    return [Line(path, label, file.name, folder) for path, label in ids if label is not None]


def table(file: Path, findings: Findings) -> dict[str, str]:
    """Lines of a key, white space and a value, such as ``1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg``."""
    values: dict[str, str] = {}
    for where, text in text_lines(file, findings):
        key, *value = re.split(r"[ \t]+", text, maxsplit=1)
        if not value:
            findings.error("unparsable-list", where, f"expected a key and a value, got {text[:80]!r}")
        elif key in values:
            findings.error("listed-twice", where, f"{key} has a line already")
        else:
            values[key] = value[0]
    return values


def text_lines(file: Path, findings: Findings) -> Iterator[tuple[str, str]]:
    """Place and text of each line that is not blank."""
    for number, line in enumerate((_text(file, findings) or "").replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if line.strip(" \t"):
            yield f"{file.name}:{number}", line.strip(" \t")


def matrix(file: Path, findings: Findings, *names: str) -> list[list[Any]]:
    """Variables of a MATLAB file, each as a flat list (of numbers, strings, or dicts for structures); empty lists if it has a fault."""
    if not file.is_file():
        findings.error("missing-list", file.name, "no such file")
        return [[] for _ in names]
    try:
        read = read_matlab(file.read_bytes(), names)
        return [read[name] for name in names]
    except Exception as error:  # the decoder raises nearly anything on damaged bytes
        fault = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        findings.error("unparsable-list", file.name, f"not the MATLAB file that was expected ({fault})")
        return [[] for _ in names]


def class_id(value: object, where: str, findings: Findings, of: str | None = None) -> int | None:
    """``value`` as a whole number, or None and a finding."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, (float, np.floating)) and float(value).is_integer():  # MATLAB's numbers are floating-point by default
        return int(value)
    findings.error("bad-label", where, f"class id {str(value)[:80]!r}{f' of {of}' if of else ''} is not a whole number")
    return None


def _text(file: Path, findings: Findings) -> str | None:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        findings.error("unparsable-list", file.name, "not UTF-8 text; save it as UTF-8")
    except FileNotFoundError:
        findings.error("missing-list", file.name, f"not in {file.parent}")
    except OSError as error:
        findings.error("unparsable-list", file.name, f"cannot be read ({error.strerror})")
    return None
