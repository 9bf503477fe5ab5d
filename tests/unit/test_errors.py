from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit import errors
from layerkit.errors import ConfigurationError, LayerkitError, Problem, TransientError, printable

TREE = {
    "LayerkitError": 1,
    "ConfigurationError": 2,
    "CheckpointError": 3,
    "BuildError": 4,
    "AuthenticationError": 5,
    "RefusedError": 6,
    "TransientError": 7,
    "IntegrityError": 8,
    "ConflictError": 9,
    "LocalResourceError": 11,
}


@pytest.mark.parametrize(("name", "status"), TREE.items())
def test_exit_status(name: str, status: int) -> None:
    """Every error is a LayerkitError with the exit status of the contract."""
    kind = getattr(errors, name)
    assert issubclass(kind, LayerkitError) and kind("x").exit_status == status


def test_tree_is_drawn() -> None:
    """The drawing in the module's docstring is the tree that is there, statuses and all."""
    drawn = {name: int(number) for name, number in re.findall(r"(\w+Error) +(\d+) ", errors.__doc__ or "")}
    assert drawn == TREE
    there = {name for name in errors.__all__ if name.endswith("Error")}
    assert there == set(TREE)


def test_message_and_hint() -> None:
    """An error is its message; the hint is beside it, and a transient one always has one."""
    error = LayerkitError("registry x: no", hint="log in")
    assert (str(error), error.hint) == ("registry x: no", "log in")
    assert TransientError("x").hint == "this is safe to run again"
    assert TransientError("x", retry_after=3).retry_after == 3
    assert ConfigurationError("x").problems == ()


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("unknown key"), "unknown key"),
        (Problem("unknown key", where="image.x"), "image.x: unknown key"),
        (Problem("bad", where="a.b", file="l.toml", line=3), "l.toml:3: a.b: bad"),
        (
            Problem("bad", file="l.toml", line=3, column=9, hint="did you mean 'c'?"),
            "l.toml:3:9: bad (did you mean 'c'?)",
        ),
    ],
)
def test_problem(problem: Problem, text: str) -> None:
    """A problem reads as file:line:column: key: what (what to do), without the parts that are not known."""
    assert str(problem) == text


@given(st.text(st.characters(), max_size=200))
def test_printable(text: str) -> None:
    """Nothing that a terminal would execute is left, whatever the text (FAULTS 56)."""
    shown = printable(text)
    assert all(c in "\n\t" or c.isprintable() for c in shown)
    shown.encode()
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("\x1b]0;x\x07", r"\x1b]0;x\x07", id="escape"),
        pytest.param("a\rb", r"a\rb", id="carriage-return"),
        pytest.param("\x9b31m", r"\x9b31m", id="c1"),
        pytest.param("\u202egnp.exe", r"\u202egnp.exe", id="right-to-left"),
        pytest.param("\udcff", r"\udcff", id="surrogate"),
        pytest.param("ü 模型\n\t", "ü 模型\n\t", id="text"),
    ],
)
def test_printable_examples(text: str, shown: str) -> None:
    """Control characters are escaped where one can see them; other scripts, line feeds and tabs stay (FAULTS 56)."""
    assert printable(text) == shown


def test_printable_is_cut() -> None:
    """Long text of others is cut (FAULTS 22)."""
    assert printable("a" * 50, 10) == "a" * 10 + "…"


def test_imports_nothing_of_ours() -> None:
    """Errors are the bottom of the house."""
    tree = ast.parse(Path(errors.__file__).read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
