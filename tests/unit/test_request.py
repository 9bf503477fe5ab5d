from __future__ import annotations

from pathlib import Path

import pytest

from layerkit.errors import ConfigurationError
from layerkit.request import named
from unit.support import project

NAME = "registry.example/acme/resnet"


def test_tags_name_one_repository(tmp_path: Path) -> None:
    """Tags are short, or whole references of one repository, which is then the image's."""
    assert named(project(tmp_path), ["v1", "v1", "v2"])[1] == ("v1", "v2")
    made, tags = named(project(tmp_path), ["other.example/a/b:v1"])
    assert (made.image.name, tags) == ("other.example/a/b", ("v1",))


@pytest.mark.parametrize("tag", [f"v1@sha256:{'0' * 64}", f"{NAME}:v1@sha256:{'0' * 64}", f"{NAME}@sha256:{'0' * 64}"])
def test_tags_have_no_digest(tmp_path: Path, tag: str) -> None:
    """A digest in -t is a usage error: it is known only once the image is built."""
    with pytest.raises(ConfigurationError, match="a tag cannot be a digest, nor have one"):
        named(project(tmp_path), [tag])
