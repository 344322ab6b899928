"""Messages that name what was given, what is near it and what is valid."""

import difflib
from collections.abc import Iterable


def nearest(given: str, valid: Iterable[str]) -> str:
    """`` did you mean a or b?``, or nothing where no name is near."""
    near = difflib.get_close_matches(given, list(valid), n=3, cutoff=0.5)
    return f" did you mean {' or '.join(near)}?" if near else ""


def unknown(kind: str, given: object, valid: Iterable[str]) -> str:
    """One line for a name that does not exist: ``unknown method 'vpt-dep'; did you mean vpt-deep? Valid: ...``."""
    names = sorted(valid)
    near = nearest(given, names) if isinstance(given, str) else ""
    return f"unknown {kind} {shown(given)};{near} valid: {', '.join(names) or 'none'}"


def shown(value: object, most: int = 200) -> str:
    """``repr(value)`` for a message, cut after ``most`` characters: what was given may come from anywhere, at any length."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return cut(text, most)


def cut(text: str, most: int = 200) -> str:
    """``text``, or its first ``most`` characters and three dots."""
    return text if len(text) <= most else f"{text[:most]}..."


def first_line(error: BaseException) -> str:
    """What went wrong, in one line, of an error that other code raised."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
