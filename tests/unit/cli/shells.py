"""A real interactive shell in a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["BASH", "LINES", "ZSH", "Shell", "program", "surroundings"]


def program(folder: Path) -> str:
    """A PATH on which layerkit is this one."""
    folder.mkdir()
    (folder / "layerkit").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m layerkit "$@"\n')
    (folder / "layerkit").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


# Ctrl-G prints the line as it stands and empties it. The mark is put together, so that typing it does not show it.
BASH = r"""
got() { printf '\nG''OT<%s>\n' "$READLINE_LINE"; READLINE_LINE=""; READLINE_POINT=0; }
bind -x '"\C-g": got'
"""
ZSH = r"""
autoload -Uz compinit && compinit -u -D
got() { printf '\nG''OT<%s>\n' "$BUFFER"; BUFFER="" }
zle -N got && bindkey -e && bindkey '^G' got
"""


class Shell:
    """Types at a shell and reads what it shows.

    Args:
        command: that starts it; environment: all of its variables; folder: where it works.
        setup: lines to begin with.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, setup: str) -> None:
        script = folder / ".setup"
        script.write_text(f"{setup}\nprintf 'REA''DY\\n'\n")
        self.shown = ""
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.chdir(folder)
            os.execvpe(command[0], list(command), dict(environment))
        self._type(f". {script}\n")
        self._wait("READY")

    def _type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def _wait(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.shown)) is None:
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{pattern!r} was not shown: {self.shown!r}"
            self.shown += os.read(self._terminal, 65536).decode(errors="replace")
        return found

    def complete(self, line: str, tabs: int = 1) -> str:
        """*line* as it stands after the tab key."""
        self.shown = ""
        self._type(line + "\t" * tabs + "\x07")
        return self._wait(r"GOT<(.*?)>\r?\n")[1]

    def close(self) -> None:
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._terminal)


# What is typed, and the line after the tab key; the folder has layerkit.toml and "other place/".
LINES = [
    ("layerkit bui", "layerkit build "),
    ("layerkit checkpoint dig", "layerkit checkpoint digest "),
    ("layerkit build --strict", "layerkit build --strict-cache "),
    ("layerkit build --set image.na", "layerkit build --set image.name="),
    ("layerkit build --set dependencies.installer=u", "layerkit build --set dependencies.installer=uv "),
    ("layerkit build --platform linux/amd64,linux/arm6", "layerkit build --platform linux/amd64,linux/arm64 "),
    ("layerkit build --output o", "layerkit build --output oci:"),
    ("layerkit lint --ignore pip-c", "layerkit lint --ignore pip-cache "),
    ("layerkit build --builder far", "layerkit build --builder faraway "),
    ("layerkit build --file layerk", "layerkit build --file layerkit.toml "),
    ("layerkit check -C oth", "layerkit check -C other\\ place/"),
]


def surroundings(folder: Path, **more: str) -> dict[str, str]:
    """The variables of a shell in *folder*/home, with a project there and a builder that buildx has noted down."""
    home = folder / "home"
    (home / "other place").mkdir(parents=True)
    (home / "layerkit.toml").write_text("")
    (home / ".docker" / "buildx" / "instances").mkdir(parents=True)
    (home / ".docker" / "buildx" / "instances" / "faraway").write_text("{}")
    return {"PATH": program(folder / "bin"), "HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8", **more}
