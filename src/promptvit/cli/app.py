"""The command's entry point: every failure is one line on standard error and a non-zero exit code."""

import logging
import os
import sys

import typer
from rich.console import Console
from rich.logging import RichHandler

from promptvit.cli import listing, pretraining, training, using

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Visual prompt tuning: adapt a frozen Vision Transformer to your images.\n\n"
    "Example: `promptvit train --backbone mae-tiny --method lspt --data digits`",
)
training.add_to(app)
using.add_to(app)
listing.add_to(app)
pretraining.add_to(app)


def main() -> None:
    """Run the command line."""
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False, show_level=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("promptvit").setLevel(logging.INFO)
    try:
        app()
    except (ValueError, OSError, ArithmeticError, ImportError, RuntimeError) as error:
        if os.environ.get("PROMPTVIT_DEBUG"):
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run the same command with --resume to go on", file=sys.stderr)
        sys.exit(130)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    expected = isinstance(error, (ValueError, FileExistsError, PermissionError, FloatingPointError, ImportError))
    return text if expected else f"{type(error).__name__}: {text} (PROMPTVIT_DEBUG=1 shows where)"
