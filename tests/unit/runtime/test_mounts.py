from __future__ import annotations

import pytest

from layerkit.runtime import required_secrets


@pytest.mark.parametrize(
    ("mount", "required"),
    [
        ("type=secret,id=x", False),
        ("type=secret,id=x,required=false", False),
        ("type=secret,id=x,required=0", False),
        ("type=secret,id=x,required", True),
        ("type=secret,id=x,required=true", True),
        ("type=secret,id=x,required=True,env=X", True),
        ("required=1,target=/root/x,type=secret", True),
        ('type=secret,"id=x",required=true', True),
        ("type=secret,id=x,required=$MUST", True),
        ("type=secret,id=$NAME,required=true", True),
        ("type=secret,id=x,required=$UNKNOWN", True),
        ("type=ssh,id=x,required=true", False),
        ("type=cache,target=/x,required=true", False),
        ("type=secret,required=true", False),
        ("", False),
    ],
)
def test_required_mounts(mount: str, required: bool) -> None:
    """A secret is required where its mount says so in one of BuildKit's ways; what cannot be known counts as said."""
    text = f"ARG MUST=true\nFROM a\nARG MUST NAME=x\nRUN --network=none --mount={mount} true\n"
    assert required_secrets(text) == (frozenset({"x"}) if required else frozenset())


def test_one_required_mount_of_several() -> None:
    """One step that requires it is enough, in any of the stages that are built, and only in these."""
    text = (
        "FROM a AS unused\nRUN --mount=type=secret,id=u,required=true true\n"
        "FROM a AS made\nRUN --mount=type=secret,id=m,required=true --mount=type=secret,id=n true\n"
        "FROM b\nCOPY --from=made /x /x\nRUN --mount=type=secret,id=m --mount=type=secret,id=l,required true\n"
    )
    assert required_secrets(text) == {"m", "l"}
    assert required_secrets(text, target_stage="unused") == {"u"}
