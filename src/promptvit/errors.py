"""Messages that name what was given, what is near it and what is valid."""

import difflib
from collections.abc import Iterable


def nearest(given: str, valid: Iterable[str]) -> str:
    """`` did you mean a or b?``, or nothing where no name is near."""
    near = difflib.get_close_matches(given, list(valid), n=3, cutoff=0.5)
    return f" did you mean {' or '.join(near)}?" if near else ""


def unknown(kind: str, given: str, valid: Iterable[str]) -> str:
    """One line for a name that does not exist: ``unknown method 'vpt-dep'; did you mean vpt-deep? Valid: ...``."""
    names = sorted(valid)
    return f"unknown {kind} {given!r};{nearest(given, names)} valid: {', '.join(names) or 'none'}"
