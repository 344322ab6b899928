"""The command's entry point: every failure is one line on standard error and a non-zero exit code."""

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from promptvit.cli import analyzing, caching, data, exporting, listing, pretraining, reporting, serving, sweeping, training, using

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Visual prompt tuning: adapt a frozen Vision Transformer to your images.\n\n"
    "Example: `promptvit train --backbone mae-tiny --method lspt --data digits`",
)
training.add_to(app)
using.add_to(app)
exporting.add_to(app)
listing.add_to(app)
caching.add_to(app)
data.add_to(app)
pretraining.add_to(app)
sweeping.add_to(app)
reporting.add_to(app)
analyzing.add_to(app)
serving.add_to(app)

UsageError: Any = typer.BadParameter.__base__  # click's own class, wherever this typer has its click from


class Lines(logging.Handler):
    """Log records as whole lines on standard error, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line with ``arguments``, by default the process's own."""
    log, lines = logging.getLogger("promptvit"), Lines()
    log.setLevel(logging.INFO)
    log.addHandler(lines)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file or class name that the terminal cannot show is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    given = arguments if arguments is not None or len(sys.argv) > 1 else ["--help"]
    try:
        code = app(given, prog_name="promptvit", standalone_mode=False)
    except UsageError as error:
        hint = f"; see {error.ctx.command_path} --help" if error.ctx else ""
        _fail(error.format_message().replace("Value error, ", "").rstrip(".") + hint, 2)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if os.environ.get("PROMPTVIT_DEBUG"):
            raise
        _fail(_message(error), 1)
    finally:
        log.removeHandler(lines)
    if code == 130:  # how click passes Ctrl-C on
        print("interrupted; the same command goes on where it was (train and pretrain: with --resume)", file=sys.stderr)
        sys.exit(code)


def _fail(message: str, code: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _message(error: Exception) -> str:
    text = str(error) or type(error).__name__
    expected = isinstance(error, (ValueError, OSError, FloatingPointError, ImportError))
    return text if expected else f"{type(error).__name__}: {text} (PROMPTVIT_DEBUG=1 shows where)"
