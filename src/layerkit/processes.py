"""Processes in groups of their own: all of one is gone when we leave it, by whatever way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from .daemon import refused
from .errors import LocalResourceError

__all__ = ["Loading", "Watch", "group"]

_PIPE_SIZE = 1024 * 1024  # bytes: what an unprivileged process may ask for
_GLANCE = 0.1  # seconds between two looks at whether a process is still wanted
_GRACE = 1.5  # seconds between SIGTERM and SIGKILL: all of a Ctrl-C must be over in 2


@contextlib.contextmanager
def group(
    arguments: list[str], environment: Mapping[str, str], *, stdin: int | None = subprocess.DEVNULL, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, all of which is gone when the block is left by whatever way.

    Raises:
        LocalResourceError: it cannot be run.
    """
    try:
        process = subprocess.Popen(arguments, env=dict(environment), stdin=stdin, start_new_session=True, **options)
    except OSError as error:
        raise LocalResourceError(f"docker: cannot be run: {error.strerror}") from None
    try:
        yield process
    finally:
        _end(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the group of *process*, which may outlive it: politely first, and within 2 s where that is heeded."""
    until = time.monotonic() + _GRACE
    if not _signal(process, signal.SIGTERM):
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    while time.monotonic() < until and _signal(process, 0):  # docker is gone; its plugin may not be
        time.sleep(0.01)
    _signal(process, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10.0)


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the group of *process*; whether any of it is left."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # what is left has ended, and waits for its parent (macOS)
        pass
    return True


class Watch:
    """Ends a process, in a thread of its own, after *timeout* seconds or when *stopped* says so."""

    def __init__(self, process: subprocess.Popen[bytes], timeout: float, stopped: Callable[[], bool]) -> None:
        self._why: Literal["", "expired", "stopped"] = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(process, timeout, stopped), daemon=True)
        self._thread.start()

    def _run(self, process: subprocess.Popen[bytes], timeout: float, stopped: Callable[[], bool]) -> None:
        until = time.monotonic() + timeout
        while not self._over.wait(_GLANCE):
            if stopped():
                self._why = "stopped"
            elif time.monotonic() > until:
                self._why = "expired"
            if self._why:
                _end(process)
                return

    def over(self) -> Literal["", "expired", "stopped"]:
        """It need not be ended any more; why it was, if it was."""
        self._over.set()
        self._thread.join()
        return self._why


class Loading:
    """One ``docker load``, fed piece by piece. It has ended after ``finish`` or ``abort``.

    ``failure``: the error of its last words.
    """

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        failure: Callable[[str], LocalResourceError] = refused,
    ) -> None:
        self._failure = failure
        self._held = contextlib.ExitStack()
        self._process = self._held.enter_context(
            group(command, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
        assert self._process.stdin is not None
        with contextlib.suppress(AttributeError, OSError):
            # The default of 64 KiB makes the two processes take turns sixteen times a chunk.
            fcntl.fcntl(self._process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._output: list[bytes] = []
        self._reader = threading.Thread(target=lambda: self._output.extend(self._process.stdout or ()), daemon=True)
        self._reader.start()

    def write(self, data: bytes | memoryview) -> None:
        """Give it more.

        Raises:
            LocalResourceError: it has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except (BrokenPipeError, ValueError):  # ended early, or aborted: its words say why
            raise self._failed() from None

    def finish(self) -> None:
        """Nothing more comes; wait until docker has taken it.

        Raises:
            LocalResourceError: docker refused it, or has no room.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        status = self._process.wait()
        said = self._said()
        self._held.close()
        if status != 0 or "rror" in said.partition(":")[0]:
            raise self._failed()

    def abort(self) -> None:
        """End it."""
        self._held.close()

    def _said(self) -> str:
        self._reader.join(_GRACE)
        return b"".join(self._output).decode(errors="replace").strip()

    def _failed(self) -> LocalResourceError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        said = self._said()
        self._held.close()
        return self._failure(said or f"exit status {self._process.returncode}")
