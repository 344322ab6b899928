"""Small damage to bytes and to values, drawn from a seeded ``random.Random``."""

import json
import math
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


def damaged(content: bytes, rng: Random) -> bytes:
    """``content`` after one to three injuries."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(_INJURIES)(content, rng)
    return content


def _flip(content: bytes, rng: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 40)) if changed else 0):
        changed[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _without(content: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice((1, 2, 4, 8, 100)) :]


def _more(content: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.randbytes(rng.choice((1, 2, 4, 8, 100))) + content[start:]


def _again(content: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    piece = content[start : start + rng.choice((1, 4, 16, 64))]
    return content[:start] + piece * rng.choice((2, 3, 300)) + content[start:]


def _number(content: bytes, rng: Random) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    number = (rng.choice(EXTREMES) % 2 ** (8 * size)).to_bytes(size, rng.choice(("little", "big")))
    start = rng.choice((0, rng.randrange(len(content) + 1), rng.randrange(min(len(content), 64) + 1)))
    return content[:start] + number + content[start + size :]


def _noise(content: bytes, rng: Random) -> bytes:
    return rng.choice((b"", rng.randbytes(rng.randrange(200)), content[:16] + rng.randbytes(200)))


def _place(content: bytes, rng: Random) -> int:
    """Often in the first bytes, where headers are."""
    return rng.randrange(min(len(content), rng.choice((16, 128, len(content)))))


_INJURIES: tuple[Callable[[bytes, Random], bytes], ...] = (_flip, _flip, _flip, _cut, _without, _more, _again, _number, _number, _noise)


def junk(rng: Random) -> Any:
    """A value that hardly any field expects."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice((None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"b": []}}))
    if kind == 1:
        numbers = (0, -1, 1, 2, 7, 255, 10**4, 2**31, -(2**31), 2**63, 2**64, 10**12, 10**30, 0.5, -0.0, 1e-300, 1e308, math.nan, math.inf)
        return rng.choice((*numbers, -math.inf))
    if kind == 2:
        return [rng.choice(WORDS)] * rng.choice((1, 2, 3, 50))
    return rng.choice(WORDS)


WORDS = (
    "",
    " ",
    "0",
    "nan",
    "\0",
    "a\nb",
    "\ud800",
    "\udcff.png",
    "\u202e",
    "é" * 300,
    "x" * 100_000,
    "<script>alert(1)</script>",
    "$x^{$",
    "{0}",
    "%s%n",
    "../../outside/canary.png",
    "/etc/passwd",
    "C:\\canary",
    "~root",
    "hf:no/body",
    "timm:test_vit",
    "no/such/file.pth",
    "linear",
    "mae-tiny",
    "[bold]",
    "{{7*7}}",
    "; touch /tmp/x",
    "train",
    "folder",
    "1:1:1",
    "!!python/none",
)


def nested(depth: int, rng: Random) -> Any:
    """Lists or objects in one another."""
    value: Any = 0
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def altered(value: Any, rng: Random) -> Any:
    """A copy of a JSON value with one to three places changed, removed, renamed or added."""
    whole = {"": deepcopy(value)}
    for _ in range(rng.choice((1, 1, 2, 3))):
        parent, key = rng.choice(list(_places(whole)))
        kind = rng.randrange(6)
        if kind == 0 and parent is not whole:
            del parent[key]
        elif kind == 1:
            parent[key] = nested(rng.choice((3, 50, 300)), rng)
        elif kind == 2 and isinstance(parent, dict) and parent is not whole:
            parent[rng.choice((str(key) + "x", "x", "__class__", "\ud800", "é"))] = parent.pop(key)
        elif kind == 3 and isinstance(parent[key], (int, float)) and math.isfinite(parent[key]):
            parent[key] = rng.choice((-parent[key], parent[key] * 1000, parent[key] + 1, parent[key] / 1000, str(parent[key])))
        elif kind == 4 and isinstance(parent, list):
            parent.extend([deepcopy(parent[key])] * rng.choice((1, 2, 1000)))
        else:
            parent[key] = junk(rng)
    return whole[""]


def _places(value: Any) -> Any:
    """(container, key) of everything in ``value``."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def json_bytes(value: Any, rng: Random) -> bytes:
    """``value`` as JSON that a writer of ours would not produce: deep, huge, repeated or not quite JSON."""
    text = json.dumps(value)
    kind = rng.randrange(20)
    if kind == 0:
        text = rng.choice(("[" * 100_000, '{"a":' * 100_000, "[" * 500 + "]" * 500, "", "null", "[]", "1", '"x"', "{}", "\ufeff" + text))
    elif kind == 1:
        places = [i for i, letter in enumerate(text) if letter.isdigit()] or [0]
        place = rng.choice(places)
        text = text[:place] + rng.choice(("9" * 5000, "1e99999", "-0", "1_000", "0x10", "NaN", "Infinity")) + text[place + 1 :]
    elif kind == 2 and text.startswith("{"):
        text = text[:-1] + ", " + text[1:]  # every key twice
    elif kind == 3:
        return damaged(text.encode(), rng)
    elif kind == 4:
        return text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
    return text.encode()
