from __future__ import annotations

import time
from unittest import mock

import pytest
from docker.utils.build import PatternMatcher
from hypothesis import given, settings
from hypothesis import strategies as st

from layerkit.errors import ConfigurationError
from layerkit.runtime import dockerignore
from layerkit.runtime.dockerignore import Matcher, Pattern, read

CASES = [
    pytest.param("*.md", "README.md", True, id="a star stays in its folder"),
    pytest.param("*.md", "docs/a.md", False, id="patterns are rooted"),
    pytest.param("**/*.md", "README.md", True, id="two stars match no folder"),
    pytest.param("**/*.md", "docs/deep/a.md", True, id="two stars match many folders"),
    pytest.param("*/temp*", "docs/temporary.txt", True, id="one folder down"),
    pytest.param("*/temp*", "docs/a/temporary.txt", False, id="one folder, not two"),
    pytest.param("*/*/temp*", "a/b/temp", True, id="two folders down"),
    pytest.param("temp?", "tempa", True, id="question mark is one character"),
    pytest.param("temp?", "temp", False, id="question mark is not none"),
    pytest.param("temp?", "temp/x", False, id="question mark is no slash"),
    pytest.param("build", "build/lib/a.py", True, id="a folder takes all in it"),
    pytest.param("build", "src/build/a.py", False, id="a folder is rooted too"),
    pytest.param("build/", "build/a.py", True, id="trailing slash"),
    pytest.param("/build", "build/a.py", True, id="leading slash"),
    pytest.param("./build", "build/a.py", True, id="leading dot"),
    pytest.param("a/../build", "build/a.py", True, id="cleaned"),
    pytest.param("a//b", "a/b", True, id="double slash"),
    pytest.param("  build  ", "build", True, id="white space around"),
    pytest.param("# build", "# build", False, id="comment"),
    pytest.param(" # build", "# build", True, id="no comment behind a space"),
    pytest.param("\ufeffbuild", "build", True, id="byte order mark"),
    pytest.param("build\r\ndocs\r\n", "docs/a", True, id="CRLF"),
    pytest.param("*.md\n!README.md", "README.md", False, id="let in again"),
    pytest.param("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True, id="the last match wins"),
    pytest.param("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", False, id="the last match wins, let in"),
    pytest.param("!README.md\n*.md", "README.md", True, id="let in too early"),
    pytest.param("*\n!src", "src/a/b.py", False, id="allow list: what is in the folder"),
    pytest.param("*\n!src", "other/b.py", True, id="allow list: the rest"),
    pytest.param("*\n!src/**", "src/a/b.py", False, id="allow list with stars"),
    pytest.param("*\n! src", "src/a", False, id="white space behind the mark"),
    pytest.param("**", "a/b/c", True, id="two stars alone"),
    pytest.param("a/**", "a/b/c", True, id="all below"),
    pytest.param("a/**", "a", False, id="all below is not the folder itself"),
    pytest.param("a/**/z", "a/z", True, id="stars in the middle match none"),
    pytest.param("a/**/z", "a/b/c/z", True, id="stars in the middle match many"),
    pytest.param("**/node_modules", "web/node_modules/x/y.js", True, id="a folder anywhere"),
    pytest.param("**.pyc", "a/b.pyc", True, id="two stars without a slash"),
    pytest.param("[a-c].txt", "b.txt", True, id="range"),
    pytest.param("[^a-c].txt", "b.txt", False, id="negated range"),
    pytest.param("[^a-c].txt", "d.txt", True, id="negated range, outside"),
    pytest.param(r"\[id\].py", "[id].py", True, id="escaped brackets"),
    pytest.param(r"a\*", "a*", True, id="escaped star"),
    pytest.param(r"a\*", "ab", False, id="escaped star is no star"),
    pytest.param("a.b", "axb", False, id="a dot is a dot"),
    pytest.param("a+(b)|{c}$", "a+(b)|{c}$", True, id="characters of regular expressions"),
    pytest.param("[[:alpha]", "[", True, id="a bracket in brackets"),
    pytest.param("a/b\n!a", "a/b", True, id="as BuildKit: no ! for what was not excluded"),
    pytest.param("a*\n!a/c\na", "a/c", False, id="as BuildKit: a pattern behind the one that excluded the folder"),
]


@pytest.mark.parametrize(("patterns", "path", "excluded"), CASES)
def test_excludes(patterns: str, path: str, excluded: bool) -> None:
    """A path is excluded exactly where BuildKit would not send it."""
    assert Matcher.of(patterns).excludes(path) is excluded


@pytest.mark.parametrize("pattern", ["!", "a[", "[]", "[a-", "[a-]", "[z-a]", "a\\", "[^]", "[-a]"])
def test_bad_patterns(pattern: str) -> None:
    """A line that Go's filepath.Match refuses is refused, with the line in the message."""
    with pytest.raises(ConfigurationError, match="pattern"):
        Matcher([pattern])


def test_read() -> None:
    """Comments and blank lines go, slashes and spaces are cleaned, order and marks stay."""
    text = "\ufeff# first\n\n /a/b/ \n! ./c\n#d\ne#f\n/\n"
    assert read(text) == ("a/b", "!c", "e#f", "/")


NAMES = st.sampled_from(["a", "b", "ab", "c.md", "d"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PARTS = st.sampled_from(["a", "b", "ab", "a*", "*", "?", "*.md", "[ab]", "d"])
PATTERNS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


@given(st.lists(PATTERNS | st.sampled_from(["**/a", "a/**", "**", "**b", "**/*.md", "a/**/b"]), max_size=5), PATHS)
def test_one_expression(patterns: list[str], path: str) -> None:
    """All patterns as one expression decide as each in its turn does."""
    one = any(Pattern.parse(p).match(part) for p in patterns for part in _with_folders(path))
    assert Matcher(patterns).excludes(path) == one


def _with_folders(path: str) -> list[str]:
    return [*(path[:i] for i, c in enumerate(path) if c == "/"), path]


@settings(max_examples=400, deadline=None)
@given(st.lists(PATTERNS, max_size=5), PATHS)
def test_as_docker_py(patterns: list[str], path: str) -> None:
    """Without ! and ** (where docker-py and BuildKit differ) docker-py's matcher says the same."""
    assert Matcher(patterns).excludes(path) == PatternMatcher(patterns).matches(path)


@settings(max_examples=400, deadline=None)
@given(st.lists(PATTERNS, min_size=1, max_size=3), st.lists(PATTERNS, max_size=3), PATHS)
def test_as_docker_py_with_exceptions(patterns: list[str], exceptions: list[str], path: str) -> None:
    """Exceptions that come last are as docker-py has them, but for those BuildKit does not look at in a kept folder."""
    mine, theirs = (
        Matcher([*patterns, *("!" + e for e in exceptions)]),
        PatternMatcher([*patterns, *("!" + e for e in exceptions)]),
    )
    if mine.excludes(path) != theirs.matches(path):
        # The only way to differ: an exception for a folder that was not excluded itself (docker/buildx issue 850).
        assert mine.excludes(path)
        folders = [path[:i] for i, c in enumerate(path) if c == "/"]
        assert any(Pattern.parse(e).match(f) and not Matcher(patterns).excludes(f) for e in exceptions for f in folders)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.booleans(), PATTERNS | st.just("**/a") | st.just("a/**")), max_size=5), PATHS)
def test_pruning_loses_nothing(lines: list[tuple[bool, str]], path: str) -> None:
    """In a folder that is not read, every path is excluded."""
    matcher = Matcher([("!" if negative else "") + pattern for negative, pattern in lines])
    folders = [path[:i] for i, c in enumerate(path) if c == "/"]
    if any(matcher.prunes(folder) for folder in folders):
        assert matcher.excludes(path)


def test_pruning() -> None:
    """An excluded folder is not read, unless an exception could let something of it in."""
    assert Matcher(["data"]).prunes("data")
    assert Matcher(["data", "!docs/x"]).prunes("data")
    assert not Matcher(["data", "!data/keep"]).prunes("data")
    assert not Matcher(["data", "!**/keep"]).prunes("data")
    assert not Matcher(["data", "!dat*"]).prunes("data")
    assert not Matcher(["other"]).prunes("data")


def test_speed() -> None:
    """100,000 files in 1,000 folders are decided in seconds."""
    matcher = Matcher(["**/*.pyc", "docs", "*.md", "**/node_modules", "!keep.md"])
    started = time.monotonic()
    for folder in range(1000):
        for name in range(100):
            matcher.excludes(f"src/p{folder}/f{name}.py")
    assert time.monotonic() - started < 10


@settings(max_examples=400, deadline=None)
@given(PATTERNS | st.text("ab/*?", min_size=1, max_size=10), PATHS | st.text("ab/", max_size=8))
def test_walked_as_the_expression(text: str, path: str) -> None:
    """Patterns of many wildcards, which are walked, mean what their regular expression means."""
    with mock.patch.object(dockerignore, "_BACKTRACKED", -1):
        for line in read(text):
            _, expression, steps = dockerignore._compile(line.removeprefix("!"))
            if expression is not None:
                assert dockerignore._walk(steps, path) == (expression.match(path) is not None)
