"""What the commands of a RUN script install. Pure, and linear in the script's length."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime.script import Command, commands
from .facts import words as _set

__all__ = ["Command", "Install", "commands", "install"]

_PYTHON = re.compile(r"(?:python|pypy)[\d.]*(?:\.exe)?")
_PIP = re.compile(r"pip[\d.]*(?:\.exe)?")
# Options of pip and uv that take a value as the next word.
_VALUED = _set(
    "-r --requirement -c --constraint -e --editable -i --index-url --extra-index-url -f --find-links -t --target "
    "--trusted-host --prefix --root --cache-dir --python -p --platform --index --default-index --timeout --retries "
    "--torch-backend --python-version --implementation --abi --only-binary --no-binary --src --report --log --proxy"
)
_INDEXES = _set("-i --index-url --extra-index-url -f --find-links --no-index --index --default-index --torch-backend")


@dataclass(frozen=True, slots=True)
class Install:
    """A command that installs packages.

    Attributes:
        tool: pip | uv | conda | poetry | apt.
        packages: requirement words; files: of ``-r`` and ``-c``.
        local: it installs from a folder or with ``-e``, or from something that is not told (``poetry install``).
        index: it names where packages come from.
        uncached: it has an option that keeps no cache.
    """

    tool: str
    packages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    local: bool = False
    index: bool = False
    uncached: bool = False


def install(command: Command) -> Install | None:
    """What *command* installs; None where it does not."""
    words = list(command.words)
    if _PYTHON.fullmatch(command.name) and words[1:2] == ["-m"]:
        words = words[2:]
    if not words:
        return None
    name = posixpath.basename(words[0])
    if name == "uv" and words[1:2] == ["pip"]:
        return _pip("uv", words[2:], command) if words[2:3] == ["install"] else None
    if name == "uv" and words[1:2] == ["sync"]:
        return Install("uv", local=True, index=True, uncached=_uncached("uv", words, command))
    if _PIP.fullmatch(name):
        at = next((at for at, word in enumerate(words) if at and not word.startswith("-")), 0)
        return _pip("pip", words[at:], command) if words[at] in ("install", "wheel") and at else None
    if name in ("conda", "mamba", "micromamba") and (
        "install" in words[1:3] or words[1:3] in (["env", "create"], ["env", "update"])
    ):
        return Install("conda", tuple(words[2:]), index=True)
    if name in ("poetry", "pdm", "pipenv") and words[1:2] in (["install"], ["sync"]):
        return Install("poetry", local=True, index=True)
    if name in ("apt-get", "apt") and "install" in words[1:]:
        return Install("apt", tuple(words[words.index("install") + 1 :]))
    return None


def _uncached(tool: str, words: Sequence[str], command: Command) -> bool:
    switch = ("--no-cache-dir",) if tool == "pip" else ("--no-cache", "-n", "--no-cache-dir")
    return any(word in switch for word in words) or any(
        re.match(r"(?:PIP_NO_CACHE_DIR|UV_NO_CACHE)=(?!0|false|off|no\b)", word) for word in command.assigned
    )


def _pip(tool: str, words: Sequence[str], command: Command) -> Install:
    packages, files = [], []
    local = index = False
    at = 1
    while at < len(words):
        word, value = words[at], ""
        at += 1
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            if re.match(r"-[rcife]\S", word) and not word.startswith("--"):
                option, value = word[:2], word[2:]
            elif option in _VALUED and not equals and at < len(words):
                value, at = words[at], at + 1
            index |= option in _INDEXES
            if option in ("-r", "--requirement", "-c", "--constraint"):
                files.append(value)
            local |= option in ("-e", "--editable")
            local |= option in ("-f", "--find-links") and not value.startswith(("http://", "https://"))
        elif word in (".", "..") or word.startswith(("./", "../", "/", ".[")) or word.endswith((".whl", ".tar.gz")):
            local = True
        elif not re.match(r"\d*[<>]", word):
            packages.append(word)
    return Install(tool, tuple(packages), tuple(files), local, index, _uncached(tool, words, command))
