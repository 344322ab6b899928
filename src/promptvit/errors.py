"""Messages that name what was given, what is near it and what is valid."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, given: str, valid: Iterable[str]) -> str:
    """One line for a name that does not exist: ``unknown method 'vpt-dep'; did you mean vpt-deep? Valid: ...``."""
    names = sorted(valid)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f" did you mean {' or '.join(near)}?" if near else ""
    return f"unknown {kind} {given!r};{hint} valid: {', '.join(names) or 'none'}"
