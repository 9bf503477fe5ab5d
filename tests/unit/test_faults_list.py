"""Each number of FAULTS.md, the list of what must be survived, has a test that names it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
NUMBERS = frozenset(range(1, 58))


def named(text: str) -> set[int]:
    """Numbers after the word FAULTS: "FAULTS 1, 2", "FAULTS 1-6"."""
    found: set[int] = set()
    for match in re.finditer(r"FAULTS ((?:\d+(?:-\d+)?(?:, (?:and )?| and )?)+)", text):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", match[1]):
            found |= set(range(int(first), int(last or first) + 1))
    return found


def numbers_of(source: str) -> set[int]:
    """What the names and docstrings of the tests in *source* give."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found |= named(ast.get_docstring(node) or "")
            if match := re.match(r"test_fault((?:_\d{1,2}(?!\d))+)", node.name):  # three digits are an HTTP status
                found |= set(map(int, match[1].strip("_").split("_")))
    return found


def test_every_fault_has_a_test() -> None:
    """None of the 57 is without one, and no test names another."""
    found = {number for path in TESTS.rglob("test_*.py") for number in numbers_of(path.read_text(encoding="utf-8"))}
    assert found == NUMBERS


def test_numbers_are_read_from_names_and_docstrings() -> None:
    """Ranges and lists are read; what is no test, or has another word before it, is not."""
    source = 'def test_fault_1_2_x():\n    """FAULTS 5, 7-9: HTTP 404."""\ndef helper():\n    """FAULTS 3."""\n'
    assert numbers_of(source) == {1, 2, 5, 7, 8, 9}
