"""What a look at a data set on disk found: lines that name a file and a kind of fault. Readers raise the first error, ``check`` prints all.

Kinds are stable words:

* errors: ``unrecognised-layout``, ``missing-list``, ``unparsable-list``, ``bad-label``, ``id-out-of-range``, ``mixed-id-base``,
  ``unknown-label``, ``missing-file``, ``path-leaves-root``, ``listed-twice``, ``empty-split``, ``in-two-splits``, ``not-the-union``,
  ``undecodable-image``, ``unusable-data-set`` (anything else that a reader refuses)
* errors of masks: ``missing-mask``, ``missing-image``, ``undecodable-mask``, ``mask-format``, ``mask-size``, ``id-out-of-range``
* warnings: ``partial-copy``, ``more-than-expected``, ``missing-class``, ``missing-list`` (one that training does not need),
  ``in-two-splits`` (as rarely as the set's own making explains)
* ok: ``layout``, ``count``, ``note``, ``images``, ``splits``, ``union``
"""

from dataclasses import dataclass, field
from typing import Literal

LONGEST = 1000  # characters of a finding

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """``level``, ``kind`` (see the module), ``file`` (relative to the data set; with ``:line`` where a list is meant) and a sentence."""

    level: Level
    kind: str
    file: str
    message: str

    def __str__(self) -> str:
        return _printable(f"{self.level} {self.kind} {self.file}: {self.message}")


@dataclass
class Findings:
    """Findings in the order in which they were made."""

    found: list[Finding] = field(default_factory=list)

    def ok(self, kind: str, file: str, message: str) -> None:
        """Note what is as it should be."""
        self.found.append(Finding("ok", kind, file, message))

    def warning(self, kind: str, file: str, message: str) -> None:
        """Note what one can train with but should know."""
        self.found.append(Finding("warning", kind, file, message))

    def error(self, kind: str, file: str, message: str) -> None:
        """Note what makes results wrong or training impossible."""
        self.found.append(Finding("error", kind, file, message))

    def of(self, level: Level) -> list[Finding]:
        """Those of one level."""
        return [finding for finding in self.found if finding.level == level]

    def raise_first(self, name: str) -> None:
        """Raise the first error, if there is one.

        Raises:
            ValueError: naming it, how many more there are, and the command that shows all.
        """
        errors = self.of("error")
        if errors:
            first = _printable(f"{errors[0].file}: {errors[0].message} ({errors[0].kind})")
            more = f"; and {len(errors) - 1} more: promptvit data check {name} --data-root DIR shows all" if len(errors) > 1 else ""
            raise ValueError(f"data_root: {first}{more}")


def _printable(text: str) -> str:
    """``text`` as one line of at most :data:`LONGEST` characters: file names come from lists that anybody may have written."""
    text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
