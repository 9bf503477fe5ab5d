"""The page."""

from __future__ import annotations

from .difference import Difference
from .inspection import Inspection

__all__ = ["difference_page", "inspection_page"]


def inspection_page(found: Inspection) -> str:
    return ""


def difference_page(found: Difference) -> str:
    return ""
