"""All rules over one Dockerfile, and the rewrites that they know to be safe. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from . import rules_checkpoint, rules_dependencies, rules_image, rules_order
from .facts import Facts
from .finding import Edit, Finding
from .reading import read
from .rule import Check, Rule

__all__ = ["RULES", "Fixed", "diff", "fix", "lint"]

RULES: tuple[Rule, ...] = tuple(
    sorted(
        (*rules_checkpoint.RULES, *rules_order.RULES, *rules_dependencies.RULES, *rules_image.RULES),
        key=lambda rule: (rule.severity.rank, rule.name),
    )
)
_MAX_FIXES = 200
# What is done first, for the others build on it; then from the top of the file.
_FIRST = (
    "code-before-dependencies",
    "checkpoint-in-copy",
    "checkpoint-under-dependencies",
    "checkpoint-above-code",
    "recursive-permissions",
)
_LAST = "checkpoint-not-linked"  # a line that has --link takes no names in --chown


def lint(
    text: str,
    facts: Facts | None = None,
    *,
    file: str = "Dockerfile",
    target: str = "",
    ignore: Collection[str] = (),
) -> tuple[Finding, ...]:
    """What an expert would say of *text*, a Dockerfile, sorted by line.

    Args:
        facts: what is known of the files around it; nothing where None.
        file: its name, for the findings.
        target: the stage that is built; the last one where "".
        ignore: rules that are left out, beside those that ``# layerkit: ignore=RULE`` names.

    Raises:
        ConfigurationError: no stage *target*.
    """
    facts = facts if facts is not None else Facts()
    document = read(text, facts, file=file, target=target)
    checks: dict[Check, None] = dict.fromkeys(rule.check for rule in RULES)
    if document.problem is not None:
        checks = {rules_image.no_from: None}
    found = [finding for check in checks for finding in check(document, facts)]
    return tuple(
        sorted(
            (f for f in found if f.rule not in ignore and f.rule not in document.ignored(f.line)),
            key=lambda f: (f.line, f.severity.rank, f.rule, f.message),
        )
    )


@dataclass(frozen=True, slots=True)
class Fixed:
    """A better Dockerfile.

    Attributes:
        text: it, with the line ends and the byte order mark of the old one.
        done: what was rewritten, in the order in which it was done, with the lines as they were then.
        left: what is still found; ``Finding.unsafe`` says why it was left.
    """

    text: str
    done: tuple[Finding, ...]
    left: tuple[Finding, ...]


def fix(
    text: str,
    facts: Facts | None = None,
    *,
    file: str = "Dockerfile",
    target: str = "",
    ignore: Collection[str] = (),
) -> Fixed:
    """Rewrite *text* where the result provably builds the same files, caches of package managers apart.

    Args and Raises: as ``lint``.
    """
    done: list[Finding] = []
    seen = {text}
    refused: set[tuple[str, str]] = set()
    while True:
        found = lint(text, facts, file=file, target=target, ignore=ignore)
        ready = [f for f in found if f.edits and (f.rule, f.message) not in refused]
        ready.sort(key=lambda f: (_turn(f.rule), f.line))
        if not ready or len(done) >= _MAX_FIXES:
            return Fixed(text, tuple(done), found)
        made = apply(text, ready[0].edits)
        if made in seen:  # two rules that want opposite things: the first one wins
            refused.add((ready[0].rule, ready[0].message))
            continue
        seen.add(made)
        text = made
        done.append(ready[0])


def _turn(rule: str) -> int:
    return _FIRST.index(rule) if rule in _FIRST else len(_FIRST) + (rule == _LAST)


def apply(text: str, edits: Collection[Edit]) -> str:
    """*text* with *edits* made; they do not overlap."""
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    lines = text.removeprefix("\ufeff").split("\n")
    end = "\r" if any(line.endswith("\r") for line in lines) else ""
    for edit in sorted(edits, key=lambda edit: (edit.first, edit.last), reverse=True):
        if edit.first - 1 == len(lines):
            lines.append("")
        lines[edit.first - 1 : edit.last] = [line.rstrip("\r") + end for line in edit.lines]
    whole = mark + "\n".join(lines)
    return whole if text.endswith("\r") else whole.removesuffix("\r")


def diff(before: str, after: str, file: str) -> str:
    """What changes from one to the other, as a unified diff."""
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{file}", f"b/{file}")
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)
