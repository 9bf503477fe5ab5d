"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["duration", "many", "size"]


def size(count: float | None) -> str:
    """Bytes in binary units: 0 B, 1.5 KiB, 2.0 GiB; "?" where not known."""
    if count is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def many(count: int, what: str) -> str:
    """1 file, 2 files."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def duration(seconds: float, *, whole: bool = False) -> str:
    """0.42 s, 12 s, 3 min 05 s; *whole* seconds for an estimate."""
    if seconds < 10 and not whole:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
