"""Numbers as people read them, for the command line."""

from __future__ import annotations

from ..units import duration, size

__all__ = ["duration", "size"]
