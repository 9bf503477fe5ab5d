"""Requests that got no answer: names, connections, TLS and time limits, in a few words each."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

from urllib3 import exceptions as faults

from ..errors import AuthenticationError, LayerkitError, RefusedError, printable
from .answers import Fault
from .connection import Limits

__all__ = ["below_http"]


def below_http(error: Exception, what: str, host: str, limits: Limits, certificates: Path) -> LayerkitError:
    """What went wrong below HTTP, as one of ours: a Fault where another attempt may go better.

    Args:
        error: of urllib3 or of the system.
        what: the operation, as messages begin.
        certificates: where authorities of single hosts are looked for.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = printable(cause.verify_message or str(cause), 200)
            return AuthenticationError(
                f"{what}: the certificate of {host} is not trusted: {why}",
                hint=f"put its authority into {certificates}/{host}/ca.crt",
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return RefusedError(
                f"{what}: {host} does not speak TLS", hint="if it is meant to be plain HTTP, name it as insecure"
            )
        if isinstance(cause, OSError) and "Tunnel connection failed: 407" in str(cause):
            return AuthenticationError(f"{what}: the proxy wants a login", hint="http://user:password@proxy:port")
    if isinstance(error, faults.LocationValueError | faults.LocationParseError):
        return RefusedError(f"{what}: {host} is no address")
    return Fault(f"{what}: {_reason(causes, limits, host)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """*error* and what it was made from, the innermost last."""
    seen: set[int] = set()
    queue: list[BaseException] = [error]
    while queue and len(seen) < 20:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = [*current.args, getattr(current, "reason", None), getattr(current, "original_error", None)]
        queue += [item for item in (*inner, current.__cause__) if isinstance(item, BaseException)]


def _reason(causes: list[BaseException], limits: Limits, host: str) -> str:
    """In a few words, why there is no answer."""
    for cause in causes:
        match cause:
            case faults.NameResolutionError():
                return f"the name of {host} cannot be resolved"
            case faults.ConnectTimeoutError() if not isinstance(cause, faults.NewConnectionError):
                return f"no connection to {host} within {limits.connect:g} s"
            case faults.ReadTimeoutError():
                return f"{host} did not answer in time"
            case ConnectionRefusedError():
                return f"{host} refuses the connection"
            case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
                return "the connection was reset"
            case faults.IncompleteRead():
                return "the connection ended before the answer did"
            case TimeoutError():
                return f"nothing was accepted for {limits.idle:g} s"
    innermost = causes[-1]
    said = getattr(innermost, "strerror", None) or str(innermost) or type(innermost).__name__
    return printable(" ".join(str(said).split()), 200)
