"""What every part of tools/engine shares: where things are, how we talk, run commands and remember.

stdout carries only results (`env`, `status`); everything said on the way goes to stderr.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]

# Everything of the engine lives here; LAYERKIT_ENGINE_DIR moves it (used to try the script beside a running engine).
ENGINE = Path(os.environ.get("LAYERKIT_ENGINE_DIR") or PROJECT / ".engine").resolve()

# A short name that differs from clone to clone, for what cannot live under ENGINE: a network interface, a /run folder.
TAG = hashlib.sha256(str(ENGINE).encode()).hexdigest()[:8]

EXIT_DOWN = 3  # `status`, `env`: the engine is not up
EXIT_CANNOT = 11  # this machine lacks something that the person must provide (the project's "local resource" status)


class EngineError(Exception):
    """Something the person must know; its text is printed without a traceback."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Cannot(EngineError):
    """This machine lacks something; the text says what to install or start."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EXIT_CANNOT)


def say(message: str) -> None:
    """One line on stderr."""
    print(f"engine: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Time one phase and print one line when it is done (seconds)."""
    begun = time.monotonic()
    yield
    say(f"{name:<44} {time.monotonic() - begun:6.1f} s")


def run(
    command: Sequence[str | Path],
    *,
    timeout: float | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    name: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it printed; when it fails, its last lines are the error.

    With `log`, the output is appended there too, for commands whose whole output matters later (apt, debootstrap);
    `name` stands for the command in the error where the words themselves would bury it.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            env=None if env is None else dict(env),
            check=False,
        )
    except FileNotFoundError:
        done = subprocess.CompletedProcess(words, 127, f"{words[0]}: command not found")
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(words, 124, f"no answer within {timeout:.0f} s")
    if log is not None:
        with log.open("a") as stream:
            stream.write(f"$ {' '.join(words)}\n{done.stdout}\n")
    if check and done.returncode != 0:
        tail = "\n".join("    " + line for line in done.stdout.strip().splitlines()[-12:])
        more = f"\n  all of it: {log}" if log is not None else ""
        raise EngineError(f"`{name or ' '.join(words)}` failed with status {done.returncode}:\n{tail}{more}")
    return done


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old text or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.chmod(mode)
    fresh.replace(path)


def folder(name: str) -> Path:
    """A folder under the engine's own, made if it is not there."""
    path = ENGINE / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def run_folder() -> Path:
    """Where sockets go. A unix socket's path may have 107 characters (unix(7)), and containerd and libnetwork add
    some 45 to ours, so a project in a deep folder gets a short one under /run instead."""
    inside = ENGINE / "run"
    return inside if len(str(inside)) <= 50 else Path(f"/run/layerkit-{TAG}")


class State:
    """What the engine remembers between two calls: `.engine/state.json`."""

    path = ENGINE / "state.json"

    def __init__(self) -> None:
        try:
            self.values: dict[str, Any] = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            self.values = {}

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def set(self, **values: Any) -> None:
        """Change values and save at once, so that a killed `up` still leaves a usable record. None forgets one."""
        self.values.update(values)
        self.values = {name: value for name, value in self.values.items() if value is not None}
        write_atomically(self.path, json.dumps(self.values, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def locked(path: Path, why: str) -> Iterator[None]:
    """Hold an exclusive lock. Python opens files close-on-exec, so the daemons started inside do not inherit it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for {why}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
