"""``layerkit lint``: what an expert would say of a Dockerfile of a PyTorch service. Pure but for ``gather``."""

from .check import RULES, Fixed, diff, fix, lint
from .facts import Entry, Facts
from .finding import Edit, Finding, Severity, worst
from .gather import find, gather, read_text, write_text
from .report import as_github, as_json, as_sarif, as_text, summary

__all__ = [
    "RULES",
    "Edit",
    "Entry",
    "Facts",
    "Finding",
    "Fixed",
    "Severity",
    "as_github",
    "as_json",
    "as_sarif",
    "as_text",
    "diff",
    "find",
    "fix",
    "gather",
    "lint",
    "read_text",
    "summary",
    "worst",
    "write_text",
]
