"""How much memory the pages of files may take, before older ones are dropped for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["for_files"]

_UNKNOWN = 1 << 62


def for_files(root: Path = Path("/")) -> int:
    """Bytes, at most: what the machine has free or can free, and what the limits of our control groups allow.

    A container sees the machine's memory in proc(5), and its own limit in cgroups(7) alone. Where nothing can be
    learned, more than any machine has.

    Args:
        root: of the file system; for tests.
    """
    return min([_UNKNOWN, *_free(root), *_limits(root)])


def _free(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable" and value.split()[:1] and value.split()[0].isdecimal():
            yield int(value.split()[0]) * 1024


def _limits(root: Path) -> Iterator[int]:
    """Of the group that we are in and of all above it (cgroups(7), /proc/PID/cgroup: ``ID:CONTROLLERS:PATH``)."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        elif not controllers:
            top, name = root / "sys/fs/cgroup", "memory.max"
        else:
            continue
        for folder in (PurePosixPath(path), *PurePosixPath(path).parents):
            if ".." in folder.parts:  # a group outside of our namespace
                continue
            for value in _lines(top / str(folder).lstrip("/") / name):
                if value.isdecimal():
                    yield int(value)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
