"""What a rule says: values, and how they are ordered. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Edit", "Finding", "Severity", "worst"]


class Severity(StrEnum):
    """How much a finding matters: only ``info`` leaves the exit status 0."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines to put in the place of others.

    Attributes:
        first, last: numbers from 1, both included; ``last == first - 1`` puts *lines* before *first*.
        lines: without line ends.
    """

    first: int
    last: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an expert would say.

    Attributes:
        rule: kebab-case name.
        file: the Dockerfile, as it was named; line: from 1, 0 for the file as a whole.
        message: one sentence with the reason.
        fix: the corrected lines, or "" where there are none to show.
        bytes: what it costs, where that can be known.
        edits: a rewrite that provably builds the same files; empty where there is none.
        unsafe: why there is no such rewrite, in one clause; "" where none was to be expected.
    """

    rule: str
    severity: Severity
    file: str
    line: int
    message: str
    fix: str = ""
    bytes: int | None = None
    edits: tuple[Edit, ...] = ()
    unsafe: str = ""

    def to_json(self) -> Mapping[str, Any]:
        """The object of ``--json``: these keys are the contract."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "file": self.file,
            "line": self.line,
            "message": self.message,
            "fix": self.fix,
            "bytes": self.bytes,
        }


def worst(findings: tuple[Finding, ...]) -> Severity | None:
    """The severity that decides the exit status; None where nothing was found."""
    return min((finding.severity for finding in findings), key=lambda severity: severity.rank, default=None)
