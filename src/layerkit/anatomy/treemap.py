"""Squarified treemaps: rectangles whose areas are as their weights, as square as may be. Pure.

Bruls, Huizing, van Wijk, "Squarified Treemaps" (2000): rows are filled along the shorter side as long as the worst
aspect ratio in the row gets better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Rectangle", "squarify"]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rectangle from its left upper corner, in the units of the whole."""

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        return self.width * self.height


def squarify(weights: Sequence[float], width: float, height: float) -> list[Rectangle]:
    """One rectangle for each weight, in the order of *weights*; together they fill *width* x *height*.

    A weight of 0 has a rectangle without area. Where all are 0, all are.

    Raises:
        ValueError: a weight is negative or not finite, or the whole has no area.
    """
    if not (width > 0 and height > 0):
        raise ValueError("a treemap needs an area")
    if not all(0 <= weight < float("inf") for weight in weights):
        raise ValueError("weights are finite and not negative")
    whole = float(sum(weights))
    placed = [Rectangle(0.0, 0.0, 0.0, 0.0)] * len(weights)
    if whole == 0:
        return placed
    scale = width * height / whole
    left = sorted((index for index, weight in enumerate(weights) if weight), key=lambda i: (-weights[i], i))
    areas = {index: weights[index] * scale for index in left}
    x, y = 0.0, 0.0
    while left:
        side = min(width, height)
        row, covered = [left[0]], areas[left[0]]
        for index in left[1:]:
            grown = covered + areas[index]
            if _worst(areas[row[0]], areas[index], grown, side) > _worst(areas[row[0]], areas[row[-1]], covered, side):
                break
            row.append(index)
            covered = grown
        left = left[len(row) :]
        thickness = covered / side if side else 0.0
        if not left:  # the last row takes what is there, so that rounding leaves no seam
            thickness = width if width >= height else height
        along = 0.0
        for index in row:
            length = side * areas[index] / covered if covered else 0.0
            if width >= height:
                placed[index] = Rectangle(x, y + along, thickness, length)
            else:
                placed[index] = Rectangle(x + along, y, length, thickness)
            along += length
        if width >= height:
            x, width = x + thickness, max(width - thickness, 0.0)
        else:
            y, height = y + thickness, max(height - thickness, 0.0)
    return placed


def _worst(largest: float, smallest: float, covered: float, side: float) -> float:
    """The worst aspect ratio in a row of *covered* area along *side*."""
    square, whole = side * side, covered * covered
    if not square or not smallest or not whole:
        return float("inf")
    return max(square * largest / whole, whole / (square * smallest))
