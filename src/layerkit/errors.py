"""Everything layerkit raises on purpose, in one tree.

    LayerkitError                 1  something went wrong that has no better name
    ├── ConfigurationError        2  layerkit.toml, a flag or an argument is wrong
    ├── CheckpointError           3  the checkpoint is missing, unsafe, or changed while it was read
    ├── BuildError                4  a build step failed, or the builder is gone
    ├── AuthenticationError       5  the registry does not know us, or does not let us
    ├── RefusedError              6  the registry understood, and refuses
    ├── TransientError            7  the network or a server failed; safe to run again
    ├── IntegrityError            8  bytes are not what their digest says
    ├── ConflictError             9  somebody else changed the same thing meanwhile
    └── LocalResourceError       11  no docker, no builder, no disk room

The number is the exit status of the command line (10 is no error: ``plan --exit-code`` found changes).
Every message names what failed and on which side; ``hint`` is the next step, in one line.

``Stopped`` is none of them: it ends a piece of work that something else has made useless, and what is shown is that.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AGAIN",
    "AuthenticationError",
    "BuildError",
    "CheckpointError",
    "ConfigurationError",
    "ConflictError",
    "IntegrityError",
    "LayerkitError",
    "LocalResourceError",
    "Problem",
    "RefusedError",
    "Stopped",
    "TransientError",
    "printable",
]


AGAIN = "this is safe to run again"  # the hint of what may pass, where there is no better one


def printable(text: str, limit: int = 2000) -> str:
    """*text* fit for a terminal: control characters escaped, cut after *limit* characters.

    Text of registries, file names and build logs is not ours: an escape sequence in it would be
    executed by the terminal (CWE-150).
    """
    shown = "".join(
        c if c in "\n\t" or (c.isprintable() and not "\ud800" <= c <= "\udfff") else ascii(c)[1:-1] for c in text
    )
    return shown if len(shown) <= limit else shown[:limit] + "…"


class LayerkitError(Exception):
    """An expected failure: shown as one message, never as a traceback.

    Args:
        message: what failed, on which side.
        hint: the next step, or "".
    """

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    @property
    def kind(self) -> str:
        """Its class's name in the tree above, also where it is of a class of our own below that."""
        return next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)


class Problem:
    """One thing that is wrong in a configuration: where, what, and the nearest right thing."""

    __slots__ = ("column", "file", "hint", "line", "message", "where")

    def __init__(
        self, message: str, *, where: str = "", file: str = "", line: int = 0, column: int = 0, hint: str = ""
    ) -> None:
        self.message = message
        self.where = where
        self.file = file
        self.line = line
        self.column = column
        self.hint = hint

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        text = ": ".join(part for part in (place, self.where, self.message) if part)
        return f"{text} ({self.hint})" if self.hint else text


class ConfigurationError(LayerkitError):
    """The project description or an argument is wrong. ``problems`` lists all of them, not the first."""

    exit_status = 2

    def __init__(self, message: str, *, hint: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


class CheckpointError(LayerkitError):
    """The checkpoint cannot be used as it is; nothing was tagged."""

    exit_status = 3


class BuildError(LayerkitError):
    """BuildKit failed. ``step`` is the failing step's name, ``log`` its last lines, escaped."""

    exit_status = 4

    def __init__(self, message: str, *, hint: str = "", step: str = "", log: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.log = tuple(log)


class AuthenticationError(LayerkitError):
    """A registry does not accept the credentials, or they do not cover what was asked."""

    exit_status = 5


class RefusedError(LayerkitError):
    """A registry understood the request and refuses it: asking again changes nothing."""

    exit_status = 6


class TransientError(LayerkitError):
    """The network or a server failed, also after retries. Running again is safe.

    Args:
        retry_after: seconds the server asks to wait, or None.
    """

    exit_status = 7

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint or AGAIN)
        self.retry_after = retry_after


class IntegrityError(LayerkitError):
    """Content does not have the digest, size or place it must have."""

    exit_status = 8


class ConflictError(LayerkitError):
    """Somebody else changed the same tag or file while we worked."""

    exit_status = 9


class LocalResourceError(LayerkitError):
    """Something this machine must have is not there: docker, buildx, a daemon, disk room."""

    exit_status = 11


class Stopped(Exception):
    """A piece of work was stopped from outside, by Ctrl-C or by a failure elsewhere."""
