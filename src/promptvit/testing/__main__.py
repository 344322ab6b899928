"""``python -m promptvit.testing FOLDER``: replay all vectors of a folder and print the table of ``docs/parity.md``."""

import sys
from pathlib import Path

from promptvit.testing.compare import compare, table


def main(arguments: list[str]) -> int:
    """Exit code 0 only if there are vectors and all agree."""
    files = sorted(Path(arguments[0]).glob("*.safetensors")) if len(arguments) == 1 else []
    if not files:
        print("usage: python -m promptvit.testing FOLDER, with *.safetensors in it", file=sys.stderr)
        return 2
    try:
        reports = [compare(file) for file in files]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(table([report.row() for report in reports])))
    for report in reports:
        for failure in report.failures:
            print(f"error: {report.case}: {failure}", file=sys.stderr)
    return int(any(report.failures for report in reports))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
