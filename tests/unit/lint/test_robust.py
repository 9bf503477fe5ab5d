"""No text crashes the linter, or keeps it for long."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from layerkit.lint import Entry, Facts, as_github, as_json, as_sarif, as_text, fix, lint

from .support import CORPUS, facts, text

TEXTS = [text(path) for path in CORPUS]
AROUND = facts(CORPUS[1])
LINES = sorted({line for whole in TEXTS for line in whole.split("\n")})
QUICK = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
PIECES = st.sampled_from(
    ["\\", "`", '"', "'", "$", "${", "}", "<<", "<<EOF", "\n", "\r", "#", "[", "]", "--link", "&&", " ", "\t", "\x00"]
)


def survives(dockerfile: str) -> None:
    """Findings can be printed in all forms, and a rewrite is stable."""
    found = lint(dockerfile, AROUND)
    json.loads(as_json(found))
    json.loads(as_sarif(found, "1"))
    as_text(found).encode("utf-8", "surrogateescape")
    for line in as_github(found).splitlines():
        assert line.startswith("::")
    fixed = fix(dockerfile, AROUND)
    assert fix(fixed.text, AROUND).text == fixed.text


@QUICK
@given(st.text())
@example("FROM")
@example("\ufeff# escape=`\n#escape=\\\nFROM a`\n as b")
@example("FROM a\nCOPY <<EOF\n")
def test_any_text(dockerfile: str) -> None:
    """Any text gives findings, never an exception."""
    survives(dockerfile)


@QUICK
@given(st.lists(st.sampled_from(LINES), max_size=25))
def test_shuffled_lines(lines: list[str]) -> None:
    """Lines of the corpus in any order give findings, never an exception."""
    survives("FROM python:3.11\n" + "\n".join(lines))


@QUICK
@given(st.sampled_from(TEXTS), st.lists(st.tuples(st.floats(0, 1), PIECES), min_size=1, max_size=6), st.booleans())
def test_mutated_corpus(dockerfile: str, changes: list[tuple[float, str]], replace: bool) -> None:
    """A Dockerfile of the corpus with characters put in, or in the place of others, crashes nothing."""
    for where, piece in changes:
        at = int(where * len(dockerfile))
        dockerfile = dockerfile[:at] + piece + dockerfile[at + (len(piece) if replace else 0) :]
    survives(dockerfile)


N = 1_000_000
MANY = 250_000  # where there are many lines


@pytest.mark.parametrize(
    "dockerfile",
    [
        pytest.param("FROM a\nRUN " + "x" * N, id="one word"),
        pytest.param("FROM a\nRUN " + "pip install x && " * (N // 17), id="many commands"),
        pytest.param("FROM a\nRUN " + "'\" " * (N // 3), id="quotes"),
        pytest.param('FROM a\nCOPY "' + r"\a" * (N // 2), id="escapes in a quote that does not end"),
        pytest.param('FROM a\nENV X="' + "\\a \\\n" * (MANY // 5), id="the same on many lines"),
        pytest.param("FROM a\nRUN " + "chown -R a:b /app && " * (N // 21), id="chowns"),
        pytest.param("FROM a\nCOPY . /app\nRUN " + "rm /app/a " * (N // 10), id="deletions"),
        pytest.param("FROM a\nRUN [" + "[" * N, id="brackets"),
        pytest.param("FROM a\nRUN " + "<<A " * (N // 4), id="heredocs"),
        pytest.param("FROM a\nRUN " + "x \\\n" * (MANY // 4), id="continuations"),
        pytest.param("#" + " " * N + "x=y" + " " * N + "z\nFROM a", id="a directive that is none"),
        pytest.param("# layerkit: ignore=" + "a," * (N // 2) + "\nFROM a", id="ignored rules"),
        pytest.param("FROM a\n" + "# x\n" * (MANY // 4) + "RUN x", id="comments"),
        pytest.param("FROM a\n" * (MANY // 7), id="stages"),
        pytest.param("FROM a AS a\n" * (MANY // 12), id="stages of one name"),
        pytest.param("FROM a\n" + "ENV a=xx\n" + "ENV a=$a$a\n" * 60, id="variables that double"),
        pytest.param("ARG a=xx\n" + "ARG a=$a$a\n" * 60 + "FROM $a", id="arguments that double"),
        pytest.param("FROM a\nARG a=xx " + "a=$a$a " * 60, id="arguments that double on a line"),
        pytest.param("FROM a\nENV a=" + "x" * 4000 + "\nWORKDIR " + "$a" * (N // 2), id="a folder of variables"),
        pytest.param("FROM a\n" + "".join(f"ENV a{n}=1\n" for n in range(MANY // 12)), id="variables"),
        pytest.param("FROM a\n" + "COPY . .\n" * (MANY // 9), id="copies"),
        pytest.param("FROM a\n" + "COPY *.p? /\n" * (MANY // 12), id="globs"),
        pytest.param("FROM a\n" + "RUN pip install x\n" * (MANY // 18), id="installs"),
        pytest.param("FROM a\nCOPY . /app\n" + "RUN chown -R a /app\n" * (MANY // 20), id="chown lines"),
        pytest.param("FROM a\nADD https://h/" + "?" * N + ".pt /", id="an address"),
        pytest.param("FROM a\nRUN x ://" + "a" * N, id="a login that is none"),
        pytest.param("\x00\xff\ud800" * (N // 3), id="garbage"),
    ],
)
def test_a_megabyte(dockerfile: str) -> None:
    """A megabyte of one line, or a quarter of many lines, takes seconds of computing at most."""
    start = time.process_time()
    found = lint(dockerfile, AROUND)
    as_text(found)
    assert time.process_time() - start < 5


def test_many_files() -> None:
    """A context of 50,000 files and a hundred COPY lines take seconds at most."""
    around = Facts((*tuple(Entry(f"d{n % 100}/f{n}.py", 10) for n in range(50000)), Entry("m.pt", 1 << 30)))
    start = time.process_time()
    lint("FROM python:3\n" + "".join(f"COPY d{n} /app/d{n}\n" for n in range(100)) + "COPY . /app\n", around)
    assert time.process_time() - start < 5
