"""``.dockerignore`` as BuildKit reads it. Pure: patterns and paths in, yes or no out.

The rules are those of moby/patternmatcher (``MatchesUsingParentResults``, which BuildKit's file transfer uses):
patterns start at the root of the context, the last match wins, what matches a folder matches everything in it. They
are not git's: ``*.md`` leaves ``docs/a.md`` in. Two properties of that function look odd and are kept, since they
decide what ``docker buildx build`` sends (both were seen with Docker 28.5.2):

- a ``!`` pattern is not looked at in a folder that is not excluded: after ``a/b`` and ``!a``, ``a/b`` stays out;
- a pattern behind one that already excluded the folder is not looked at there: ``a*``, ``!a/c``, ``a`` keep ``a/c``.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import ConfigurationError

__all__ = ["Matcher", "Pattern", "read"]


def read(text: str) -> tuple[str, ...]:
    """The patterns of a ``.dockerignore``, cleaned: no comments, no blank lines, no leading or trailing slashes.

    A ``#`` is a comment only as the first character of a line (moby/patternmatcher, ``ignorefile.ReadAll``).
    """
    patterns = []
    for line in text.removeprefix("\ufeff").split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        inverted = pattern.startswith("!")
        if inverted:
            pattern = pattern[1:].strip()
        if pattern:
            pattern = _clean(pattern)
            if len(pattern) > 1 and pattern.startswith("/"):
                pattern = pattern[1:]
        patterns.append("!" + pattern if inverted else pattern)
    return tuple(patterns)


def _clean(path: str) -> str:
    """Go's ``path.Clean``; Python's ``normpath`` keeps two leading slashes."""
    cleaned = posixpath.normpath(path)
    return "/" + cleaned.lstrip("/") if cleaned.startswith("//") else cleaned


_FOLDERS, _ANY, _STAR = "(?:.*/)?", ".*", "[^/]*"
_WILD = frozenset({_FOLDERS, _ANY, _STAR})
_BACKTRACKED = 3  # wildcards: the time of a regular expression is a power of their number


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern, ready to be matched.

    Attributes:
        text: cleaned, without the ``!``.
        negative: it had a ``!``: what it matches is let in again.
    """

    text: str
    negative: bool
    _kind: str = field(repr=False)  # exact | prefix | suffix | regexp, as patternmatcher has them
    _regexp: re.Pattern[str] | None = field(repr=False)
    _steps: tuple[str, ...] = field(repr=False, default=())

    @classmethod
    def parse(cls, pattern: str) -> Pattern:
        """The pattern that *pattern*, a cleaned line, spells.

        Raises:
            ConfigurationError: a lone ``!``, an unclosed ``[``, or a ``\\`` with nothing behind it.
        """
        negative = pattern.startswith("!")
        text = pattern[1:] if negative else pattern
        if not text:
            raise ConfigurationError("illegal exclusion pattern: '!' alone", hint="write !path, or remove the line")
        _check(text)
        kind, expression, steps = _compile(text)
        return cls(text, negative, kind, expression, steps)

    @property
    def many(self) -> bool:
        """It has so many wildcards that a regular expression could take exponential time: it is walked instead."""
        return bool(self._steps)

    def match(self, path: str) -> bool:
        """Whether *path* itself (not a folder above it) is what the pattern means."""
        if self._steps:
            return _walk(self._steps, path)
        if self._regexp is not None:
            return self._regexp.match(path) is not None
        if self._kind == "exact":
            return path == self.text
        if self._kind == "prefix":
            return path.startswith(self.text[:-2])
        suffix = self.text[2:]
        return path.endswith(suffix) or (suffix.startswith("/") and path == suffix[1:])

    @property
    def expression(self) -> str:
        """The regular expression that ``match`` amounts to."""
        if self._regexp is not None:
            return self._regexp.pattern
        if self._kind == "exact":
            return re.escape(self.text) + r"\Z"
        if self._kind == "prefix":
            return re.escape(self.text[:-2])
        suffix = self.text[2:]
        return (rf"(?:.*/)?{re.escape(suffix[1:])}" if suffix.startswith("/") else f".*{re.escape(suffix)}") + r"\Z"

    @property
    def literal(self) -> str:
        """The folders at its start that have no wildcard, as a prefix that every match has; "" for none."""
        special = re.search(r"[*?\[\\]", self.text)
        if special is None:
            return self.text
        return self.text[: special.start()].rpartition("/")[0]


def _bad(pattern: str) -> ConfigurationError:
    return ConfigurationError(
        f"{pattern!r} is no pattern: a '[' that is not closed, an empty range, or a '\\' at the end",
        hint="a file that has such a character in its name is written with \\[ or \\\\",
    )


def _check(pattern: str) -> None:
    """Go's ``filepath.Match`` syntax check."""
    at = 0
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 1
            if at >= len(pattern):
                raise _bad(pattern)
        elif pattern[at] == "[":
            at = _range(pattern, at)[1] - 1
        at += 1


def _range(pattern: str, start: int) -> tuple[str, int]:
    """The regular expression of the ``[…]`` at *start*, and the index behind it."""
    at = start + 1
    negated = pattern.startswith("^", at)
    at += negated
    parts: list[str] = []

    def character(index: int) -> tuple[str, int]:
        if index >= len(pattern) or pattern[index] in "-]":
            raise _bad(pattern)
        if pattern[index] == "\\":
            index += 1
            if index >= len(pattern):
                raise _bad(pattern)
        return pattern[index], index + 1

    while True:
        if parts and pattern.startswith("]", at):
            break
        low, at = character(at)
        high = low
        if pattern.startswith("-", at):
            high, at = character(at + 1)
            if high < low:
                raise _bad(pattern)
        parts.append(re.escape(low) + "-" + re.escape(high) if high != low else re.escape(low))
        if at >= len(pattern):
            raise _bad(pattern)
    # Python warns of sets in sets, which Go has not: '[', '&', '~', '|' must be escaped, and re.escape does it.
    return "[" + ("^" if negated else "") + "".join(parts) + "]", at + 1


def _compile(pattern: str) -> tuple[str, re.Pattern[str] | None, tuple[str, ...]]:
    """patternmatcher's ``compile``: which kind of match, the expression where one is needed, and its steps where it
    has many wildcards."""
    kind, at = "exact", 0
    steps: list[str] = []
    while at < len(pattern):
        first, character = at == 0, pattern[at]
        at += 1
        if character == "*" and pattern.startswith("*", at):
            at += 1
            at += pattern.startswith("/", at)  # "**/" is as "**"
            if at < len(pattern):
                steps.append(_FOLDERS)
                kind = "regexp"
            elif kind == "exact":
                kind = "prefix"
            else:
                steps.append(_ANY)
                kind = "regexp"
            if first:
                kind = "suffix"
        elif character in "*?":
            steps.append(_STAR if character == "*" else "[^/]")
            kind = "regexp"
        elif character == "\\":
            steps.append(re.escape(pattern[at]))
            at += 1
            kind = "regexp"
        elif character == "[":
            part, at = _range(pattern, at - 1)
            steps.append(part)
            kind = "regexp"
        else:
            steps.append(re.escape(character))
            if character == "]":
                kind = "regexp"
    if kind != "regexp":
        return kind, None, ()
    wild = sum(step in _WILD for step in steps)
    expression = re.compile("".join(steps) + r"\Z", re.DOTALL)
    return kind, expression, tuple(steps) if wild > _BACKTRACKED else ()


def _walk(steps: Sequence[str], path: str) -> bool:
    """Whether *steps* match *path*: all ways at once, so that the time is bounded by the product of both lengths.

    A state is the number of the step that comes next; ~number is inside of a ``_FOLDERS`` that has begun.
    """

    def reached(states: set[int]) -> set[int]:
        for state in sorted(state for state in states if state >= 0):
            at = state
            while at < len(steps) and steps[at] in _WILD:  # each of them may be nothing
                at += 1
                states.add(at)
        return states

    states = reached({0})
    for character in path:
        after: set[int] = set()
        for state in states:
            number = ~state if state < 0 else state
            if number == len(steps):
                continue
            step = steps[number]
            if step == _FOLDERS:
                after |= {~number, number + 1} if character == "/" else {~number}
            elif step == _ANY or (step == _STAR and character != "/"):
                after.add(number)
            elif step != _STAR and _one(step, character):
                after.add(number + 1)
        states = reached(after)
    return len(steps) in states


@functools.lru_cache(maxsize=4096)
def _one(step: str, character: str) -> bool:
    return re.fullmatch(step, character, re.DOTALL) is not None


class Matcher:
    """All patterns of one ``.dockerignore``.

    What was found out about folders is kept, so that 100,000 files cost one look at the patterns each.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Takes patterns as ``read`` gives them, or as a user writes them.

        Raises:
            ConfigurationError: one of them is no pattern.
        """
        self.patterns = tuple(Pattern.parse(line) for line in read("\n".join(patterns)))
        self._folders: dict[str, tuple[bool, tuple[bool, ...]]] = {}
        self._all: re.Pattern[str] | None = None
        if self.patterns and not any(pattern.negative or pattern.many for pattern in self.patterns):
            # Without exceptions the order does not matter, and one expression decides at once.
            self._all = re.compile("|".join(pattern.expression for pattern in self.patterns), re.DOTALL)

    @classmethod
    def of(cls, text: str) -> Matcher:
        """The matcher of a ``.dockerignore``'s text."""
        return cls(text.removeprefix("\ufeff").split("\n"))

    def excludes(self, path: str) -> bool:
        """Whether *path* (relative, with ``/``) is kept from the builder."""
        return self._match(path)[0]

    def prunes(self, folder: str) -> bool:
        """Whether *folder* is excluded and no ``!`` pattern can match below it: it need not be read."""
        if not self._folder(folder)[0]:
            return False
        for pattern in self.patterns:
            if pattern.negative:
                literal = pattern.literal
                if not literal or _below(literal, folder) or _below(folder, literal):
                    return False
        return True

    def _folder(self, path: str) -> tuple[bool, tuple[bool, ...]]:
        known = self._folders.get(path)
        if known is None:
            known = self._folders[path] = self._match(path)
        return known

    def _match(self, path: str) -> tuple[bool, tuple[bool, ...]]:
        parent = path.rpartition("/")[0]
        if self._all is not None:
            return bool(parent and self._folder(parent)[0]) or self._all.match(path) is not None, ()
        above = self._folder(parent)[1] if parent else ()
        excluded = False
        found = []
        for index, pattern in enumerate(self.patterns):
            matches = bool(above) and above[index]
            if not matches and pattern.negative == excluded:
                matches = pattern.match(path)
            found.append(matches)
            if matches:
                excluded = not pattern.negative
        return excluded, tuple(found)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")
