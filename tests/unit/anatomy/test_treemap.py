from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerkit.anatomy.treemap import Rectangle, squarify

WEIGHTS = st.lists(st.one_of(st.just(0), st.integers(1, 10**13)), max_size=40)
SIDES = st.floats(1, 5000)


def test_example_of_the_paper() -> None:
    """The paper's own example: 6, 6, 4, 3, 2, 2, 1 in 6 x 4, the first two rows."""
    found = squarify([6, 6, 4, 3, 2, 2, 1], 6, 4)
    assert found[:2] == [Rectangle(0, 0, 3, 2), Rectangle(0, 2, 3, 2)]
    assert found[2] == Rectangle(3, 0, pytest.approx(12 / 7), pytest.approx(7 / 3))  # type: ignore[arg-type]


@settings(deadline=None)
@given(WEIGHTS, SIDES, SIDES)
def test_areas_are_as_weights(weights: list[int], width: float, height: float) -> None:
    """Every area is to the whole as the weight to the sum, to a billionth."""
    found = squarify(weights, width, height)
    whole = sum(weights)
    assert len(found) == len(weights)
    for weight, place in zip(weights, found, strict=True):
        share = weight / whole if whole else 0
        assert math.isclose(place.area, share * width * height, rel_tol=1e-6, abs_tol=1e-9 * width * height)


@settings(deadline=None)
@given(WEIGHTS, SIDES, SIDES)
def test_inside_and_apart(weights: list[int], width: float, height: float) -> None:
    """All rectangles are inside the whole, and no two overlap."""
    found = [place for place in squarify(weights, width, height) if place.area]
    slack = 1e-6 * max(width, height)
    for place in found:
        assert -slack <= place.x and place.x + place.width <= width + slack
        assert -slack <= place.y and place.y + place.height <= height + slack
    for number, one in enumerate(found):
        for other in found[number + 1 :]:
            across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert across <= slack or down <= slack


@settings(deadline=None)
@given(st.lists(st.integers(90, 100), min_size=4, max_size=30))
def test_about_square(weights: list[int]) -> None:
    """Rectangles of about equal weights are about square: none is longer than 4 times its width."""
    assert all(max(r.width / r.height, r.height / r.width) < 4 for r in squarify(weights, 160, 100))


@pytest.mark.parametrize("weights", [[-1], [float("nan")], [float("inf")]])
def test_bad_weights(weights: list[float]) -> None:
    """What cannot be an area is refused."""
    with pytest.raises(ValueError, match="weights"):
        squarify(weights, 1, 1)


def test_bad_area() -> None:
    """Nothing can be laid out in nothing."""
    with pytest.raises(ValueError, match="area"):
        squarify([1], 0, 1)
