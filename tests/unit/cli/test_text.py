from __future__ import annotations

import pytest

from layerkit.cli.text import duration, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "?"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1024**2, "1.0 MiB"),
        (2 * 1024**3, "2.0 GiB"), (3.25 * 1024**4, "3.2 TiB"), (5000 * 1024**4, "5000.0 TiB"), (0.4, "0 B"),
    ],
)  # fmt: skip
def test_size(count: float | None, text: str) -> None:
    """Bytes are in binary units, and "?" where nobody knows."""
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 s"), (0.421, "0.42 s"), (9.994, "9.99 s"), (12.4, "12 s"), (60, "1 min 00 s"), (185, "3 min 05 s"),
     (7325, "122 min 05 s")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    """Seconds are as exact as anybody cares about."""
    assert duration(seconds) == text


def test_estimate() -> None:
    """An estimate is in whole seconds."""
    assert duration(3.21, whole=True) == "3 s"
