"""What is to go wrong in a FakeRegistry, by script, and what went on in it."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["Action", "Fault", "Request", "Script"]

Action: TypeAlias = Literal["status", "reset", "stall", "cut", "lost"]


@dataclass(slots=True)
class Request:
    """One request that arrived. ``received`` counts the bytes of its body that were read; ``status`` is 0 for none."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    received: int = 0
    status: int = 0


@dataclass(slots=True)
class Fault:
    """One line of the script: see ``FakeRegistry.fail``. ``hits`` counts how often it happened."""

    method: str
    path: re.Pattern[str]
    action: Action | None
    after_bytes: int
    status: int
    headers: Mapping[str, str]
    body: bytes
    times: int
    skip: int
    call: Callable[[Request], None] | None
    hits: int = 0


class Script:
    """What is to go wrong, and what went on: the part of a FakeRegistry that its HTTP knows.

    Attributes:
        requests: all that arrived, in their order.
        errors: what went wrong in the registry itself.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        self._tls = tls
        self._lock = threading.RLock()
        self._faults: list[Fault] = []
        self._stopping = threading.Event()

    def fail(
        self,
        *,
        method: str = "",
        path: str = "",
        action: Action | None = None,
        after_bytes: int = 0,
        status: int = 0,
        headers: Mapping[str, str] | None = None,
        body: str | bytes = b"",
        times: int = 1,
        skip: int = 0,
        call: Callable[[Request], None] | None = None,
    ) -> Fault:
        """Let something go wrong with the next requests that fit.

        Args:
            method: of the request; "" fits all.
            path: a regular expression found somewhere in the request's path.
            action: "status" answers with *status*, *headers* and *body*, once *after_bytes* of the request's body are
                read and kept (0: at once, while the other side still sends); "reset" resets the connection after
                *after_bytes* of the request's body; "stall" reads no more after them, and answers never;
                "cut" does what is asked and ends the connection after *after_bytes* of the answer's body;
                "lost" does what is asked and resets the connection instead of answering.
                Where it is left out: "status" if there is a status, else only *call*.
            times: how often; -1 is always.
            skip: how many requests that fit pass before.
            call: is called with the request before anything is done.
        """
        fault = Fault(
            method,
            re.compile(path),
            action or ("status" if status else None),
            after_bytes,
            status or 500,
            dict(headers or {}),
            body.encode() if isinstance(body, str) else body,
            times,
            skip,
            call,
        )
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget the script."""
        with self._lock:
            self._faults.clear()

    def asked(self, method: str = "", path: str = "") -> list[Request]:
        """The requests with that *method* whose path holds the regular expression *path*, in their order."""
        with self._lock:
            return [r for r in self.requests if method in ("", r.method) and re.search(path, r.path)]

    def received_bytes(self, method: str = "", path: str = "") -> int:
        """Bytes of bodies that arrived with such requests."""
        return sum(request.received for request in self.asked(method, path))

    def _next_fault(self, request: Request) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.method not in ("", request.method) or not fault.path.search(request.path) or not fault.times:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1 if fault.times > 0 else 0
                fault.hits += 1
                return fault
        return None
