"""Every Dockerfile of the corpus: what is said of it, and what becomes of it.

Renew with ``pytest tests/unit/lint --snapshot-update``, and read what changed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from layerkit.lint import RULES, as_text, diff, fix, lint

from .support import CORPUS, facts, text

each = pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)


def shown(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode().replace("\r", "␍")


@each
def test_findings(path: Path, snapshot: SnapshotAssertion) -> None:
    """The findings of each Dockerfile, as the command line prints them."""
    found = lint(text(path), facts(path))
    assert {finding.rule for finding in found} <= {rule.name for rule in RULES}
    assert shown(as_text(found)) == snapshot


@each
def test_rewrites(path: Path, snapshot: SnapshotAssertion) -> None:
    """What --fix writes, what it leaves, and why."""
    before = text(path)
    fixed = fix(before, facts(path))
    left = [f"left {f.line}: {f.rule}: {f.unsafe}\n" for f in fixed.left if f.unsafe]
    assert shown(diff(before, fixed.text, "Dockerfile") + "".join(left)) == snapshot


@each
def test_rewrites_are_done(path: Path) -> None:
    """A second --fix changes nothing, and no finding is left that could be rewritten."""
    fixed = fix(text(path), facts(path))
    assert fix(fixed.text, facts(path)).text == fixed.text
    assert [finding for finding in fixed.left if finding.edits] == []


def test_size_of_the_corpus() -> None:
    """There are at least 60 Dockerfiles, and every rule is seen in one of them."""
    assert len(CORPUS) >= 60
    seen = {finding.rule for path in CORPUS for finding in lint(text(path), facts(path))}
    assert seen == {rule.name for rule in RULES}


def test_every_rule_is_explained() -> None:
    """docs/lint.md has a section for each rule, with its severity, and for no other."""
    page = (Path(__file__).parents[3] / "docs" / "lint.md").read_text()
    sections = dict(re.findall(r"(?m)^### ([a-z-]+) \((\w+)", page))
    assert sections == {rule.name: rule.severity.value for rule in RULES}
