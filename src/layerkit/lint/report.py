"""Findings as text, JSON, SARIF and GitHub's annotations. Pure: strings come out."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from ..errors import printable
from ..units import size
from ..workflow import Level, annotation
from .check import RULES
from .finding import Finding, Severity

__all__ = ["as_github", "as_json", "as_sarif", "as_text", "summary"]

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_COMMANDS: dict[Severity, Level] = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def as_text(findings: Sequence[Finding]) -> str:
    """A line each, as compilers write them, and the corrected lines under it."""
    lines = []
    for finding in findings:
        cost = f" [{size(finding.bytes)}]" if finding.bytes is not None else ""
        place = f"{finding.file}:{finding.line}"
        lines.append(printable(f"{place}: {finding.rule} {finding.severity.value}: {finding.message}{cost}"))
        lines += [printable(f"    {line}") for line in finding.fix.split("\n") if finding.fix]
    return "".join(line + "\n" for line in lines)


def summary(findings: Sequence[Finding]) -> str:
    """One line: how many of which."""
    if not findings:
        return "nothing found"
    counts = Counter(finding.severity for finding in findings)
    parts = [
        f"{counts[s]} {s.value}{'s' if counts[s] > 1 and s is not Severity.INFO else ''}" for s in Severity if counts[s]
    ]
    safe = sum(1 for finding in findings if finding.edits)
    return ", ".join(parts) + (f"; --fix rewrites {safe} of them" if safe else "")


def as_json(findings: Sequence[Finding]) -> str:
    """The object of the contract."""
    document = {"schema_version": 1, "findings": [finding.to_json() for finding in findings]}
    return json.dumps(_clean(document), indent=2) + "\n"


def as_github(findings: Sequence[Finding]) -> str:
    """Workflow commands (GitHub, "Workflow commands": ``::warning file=…,line=…::message``)."""
    lines = []
    for finding in findings:
        cost = f" [{size(finding.bytes)}]" if finding.bytes is not None else ""
        message = finding.message + cost + (f"\n{finding.fix}" if finding.fix else "")
        level, title = _COMMANDS[finding.severity], f"layerkit {finding.rule}"
        lines.append(annotation(level, message, title=title, file=finding.file, line=max(finding.line, 1)))
    return "".join(line + "\n" for line in lines)


def as_sarif(findings: Sequence[Finding], version: str) -> str:
    """A SARIF 2.1.0 log of one run (OASIS, "Static Analysis Results Interchange Format")."""
    index = {rule.name: at for at, rule in enumerate(RULES)}
    rules = [
        {
            "id": rule.name,
            "shortDescription": {"text": rule.summary},
            "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        }
        for rule in RULES
    ]
    results = []
    for finding in findings:
        uri = quote(_text(posixpath.normpath(finding.file)).replace("\\", "/"), safe="/")
        artifact = {"uri": uri}
        result: dict[str, Any] = {
            "ruleId": finding.rule,
            "ruleIndex": index[finding.rule],
            "level": _LEVELS[finding.severity],
            "message": {"text": finding.message + (f"\n\n{finding.fix}" if finding.fix else "")},
            "locations": [
                {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": max(finding.line, 1)}}}
            ],
        }
        if finding.bytes is not None:
            result["properties"] = {"bytes": finding.bytes}
        if finding.edits:
            replacements = [
                {
                    # From the start of the first line to the start of the line behind the last one.
                    "deletedRegion": {
                        "startLine": edit.first,
                        "startColumn": 1,
                        "endLine": edit.last + 1,
                        "endColumn": 1,
                    },
                    "insertedContent": {"text": "".join(line.rstrip("\r") + "\n" for line in edit.lines)},
                }
                for edit in finding.edits
            ]
            result["fixes"] = [
                {
                    "description": {"text": "builds the same files"},
                    "artifactChanges": [{"artifactLocation": artifact, "replacements": replacements}],
                }
            ]
        results.append(result)
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "layerkit", "semanticVersion": version, "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "results": results,
            }
        ],
    }
    return json.dumps(_clean(log), indent=2) + "\n"


def _text(text: str) -> str:
    """*text* that can be written as UTF-8: lone surrogates, of bytes that were none, escaped."""
    return text.encode(errors="backslashreplace").decode()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
