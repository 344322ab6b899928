"""YAML from anywhere as plain values, in bounded time and memory.

YAML's safe loaders run no code, but a few lines of it can stand for more values than memory holds (aliases of aliases), and libyaml's
composer overflows the stack, which ends the process, where thousands of brackets are nested. Both show in the events of the parser.
"""

from typing import Any

import yaml

LONGEST, LONGEST_SCALAR = 2**20, 2**16  # characters
DEEPEST, MOST = 64, 200_000  # levels; values, an alias counted as what it stands for

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times faster


def read_yaml(text: str) -> Any:
    """What a YAML text says.

    Raises:
        ValueError: it is no YAML, asks for more than plain values, or stands for too much; one line.
    """
    if len(text) > LONGEST:
        raise ValueError(f"longer than {LONGEST:,} characters")
    try:
        _check(text)
        return yaml.load(text, Loader)
    except Exception as error:  # constructors of damaged numbers and dates raise nearly anything
        raise ValueError(f"not readable as YAML ({' '.join(str(error).split())[:200] or type(error).__name__})") from None


def _check(text: str) -> None:
    """Refuse what would grow, by the parser's events."""
    total, opened, sizes = 0, list[tuple[str | None, int]](), dict[str, int]()
    for event in yaml.parse(text, Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias {str(event.anchor)[:40]!r} has no meaning here")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            total += 1
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, total))
            elif event.anchor:
                sizes[event.anchor] = 1
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST_SCALAR:
                raise ValueError(f"a value of {len(event.value):,} characters; at most {LONGEST_SCALAR:,}")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = total - before + 1
        if total > MOST or len(opened) > DEEPEST:
            raise ValueError(f"more than {MOST:,} values, aliases counted as what they stand for, or more than {DEEPEST} levels")
