"""The ``promptvit`` command: thin, one file per group of commands."""

from promptvit.cli.app import main

__all__ = ["main"]
