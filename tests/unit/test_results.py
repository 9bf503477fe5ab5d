"""What a build says that it did: the object that scripts read."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from layerkit.destinations import Sent
from layerkit.oci import MEDIA, Digest
from layerkit.results import LayerResult, Result, bytes_of, layer_results, roles_rebuilt
from layerkit.timeline import Span
from unit.support import PLATFORM, image, layer

ARM = "linux/arm64"
ROLES = ("base", "dependencies", "checkpoint", "checkpoint", "checkpoint", "code")
LAYERS = [layer(name, size=size) for size, name in enumerate(("os", "pip", "new", "kept", "mounted", "src"), 1)]
SPAN = Span("phase", "plan", 0.0, 0.5, "finished")
SENT = Sent((), 3, 4, 0, frozenset({LAYERS[2].descriptor.digest}), frozenset({LAYERS[4].descriptor.digest}))


def actions(**options: Any) -> list[str]:
    given: dict[str, Any] = {"before": frozenset(), "sent": SENT, "built": True, "mounts_base": True} | options
    return [row.action for row in layer_results({PLATFORM: image(LAYERS)}, {PLATFORM: ROLES}, **given)]


def test_actions() -> None:
    """Each layer says what became of it: by what was there, what was sent, and whether BuildKit ran."""
    assert actions() == ["mounted", "built", "packed", "reused", "mounted", "built"]
    assert actions(mounts_base=False)[0] == "built"
    assert actions(before=frozenset(item.descriptor.digest for item in LAYERS[:2]))[:2] == ["reused", "reused"]
    assert actions(built=False) == ["reused", "reused", "packed", "reused", "mounted", "reused"]
    assert actions(built=False, sent=None) == ["reused"] * 6


def test_platforms() -> None:
    """Layers of several platforms say which, and one that they share is counted once."""
    both = {PLATFORM: image(LAYERS), ARM: image(LAYERS)}
    rows = layer_results(both, dict.fromkeys(both, ROLES), frozenset(), SENT, built=True, mounts_base=False)
    assert [row.platform for row in rows] == [PLATFORM] * 6 + [ARM] * 6
    assert bytes_of(rows, "built") == 1 + 2 + 6 and bytes_of(rows, "packed") == 3
    assert roles_rebuilt(rows) == ("base", "dependencies", "checkpoint", "code")
    assert roles_rebuilt(tuple(row for row in rows if row.action in ("packed", "reused"))) == ("checkpoint",)
    assert "platform" in rows[0].to_json() and "platform" not in dataclasses.replace(rows[0], platform="").to_json()


@pytest.mark.parametrize("platform", ["", ARM])
def test_json(platform: str) -> None:
    """The object of ``build --json`` is that of the contract, name for name."""
    digest, diff_id = Digest.of(b"layer"), Digest.of(b"tar")
    row = LayerResult("code", digest, diff_id, MEDIA.LAYER, 7, "built", platform)
    seconds = {"plan": 0.12345, "total": 2.0}
    made = Result(
        "r.example/x@sha256:0", Digest.of(b"image"), ("v1", "v2"), "compose", (row,), ("code",), True, 1, 2, 3, 4, 5,
        seconds, "why", None, (SPAN,), 6,
    )  # fmt: skip
    assert made.to_json() == {
        "schema_version": 1,
        "reference": "r.example/x@sha256:0",
        "digest": str(Digest.of(b"image")),
        "tags": ["v1", "v2"],
        "way": "compose",
        "why": "why",
        "layers": [
            {
                "role": "code",
                "digest": str(digest),
                "diff_id": str(diff_id),
                "media_type": MEDIA.LAYER,
                "size": 7,
                "action": "built",
                **({"platform": platform} if platform else {}),
            }
        ],
        "rebuilt": ["code"],
        "builder": {"ran": True, "bytes_sent": 1},
        "bytes": {"checkpoint_read": 2, "uploaded": 3, "reused": 4, "dropped": 5, "fetched": 6},
        "seconds": {"plan": 0.123, "total": 2.0},
        "timeline": [SPAN.to_json()],
    }
