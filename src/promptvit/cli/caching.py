"""``promptvit cache``: decoded images on disk."""

import json
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("cache")(cache)


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Where decoded images are kept, how many and how large; PROMPTVIT_CACHE and PROMPTVIT_CACHE_GIB change folder and limit.

    Example: `promptvit cache --clear`
    """
    from promptvit.data.cache import Cache

    found = Cache()
    deleted = found.clear() if clear else 0
    entries = found.entries()
    size = sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    if as_json:
        print(json.dumps({"folder": str(found.folder), "entries": len(entries), "bytes": size, "limit": found.limit, "deleted": deleted}))
        return
    if clear:
        print(f"deleted {deleted} entries")
    print(f"{found.folder}: {len(entries)} entries, {size / 2**30:.2f} of at most {found.limit / 2**30:g} GiB")
