"""Chunks that are read in one thread and used in another, so that a layer is proven and hashed on two cores."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator

__all__ = ["ahead"]

_CHUNKS = 4  # of 1 MiB, that may wait
_PAUSE = 0.2  # seconds between two looks whether anybody still wants them


@contextlib.contextmanager
def ahead(chunks: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    """*chunks*, read some ahead by a thread of their own, which has ended when the context has.

    What reading raises is raised where the chunk would have come.
    """
    waiting: queue.Queue[bytes | BaseException | None] = queue.Queue(_CHUNKS)
    stopped = threading.Event()

    def put(item: bytes | BaseException | None) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=_PAUSE)
                return True
        return False

    def work() -> None:
        try:
            for chunk in chunks:
                if not put(chunk):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - it belongs to who waits for the chunk
            put(error)

    def taken() -> Iterator[bytes]:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="layerkit-verify-read", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        thread.join()
