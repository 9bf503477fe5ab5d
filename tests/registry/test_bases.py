"""Base images: what is known of them, and whether they are of the platforms that are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerkit.bases import Bases
from layerkit.errors import ConfigurationError
from layerkit.events import silent
from layerkit.fingerprint import Inputs, fingerprint
from layerkit.oci import Config, Digest, Image, Index, Manifest, Platform, dump
from layerkit.project import Image as ImageTable
from layerkit.project import Project
from layerkit.state import State
from layerkit.testing import FakeRegistry
from registry.support import Connect


def of(platform: str, **more: Any) -> Image:
    """An image of one platform."""
    os, _, architecture = platform.partition("/")
    document = {"os": os, "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []}, **more}
    config = Config.parse(dump(document))
    return Image(Manifest.create(config.descriptor, []), config)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry("strict") as found:
        found.push("base/single", "1", of("linux/amd64"), [])
        found.push("base/arm", "1", of("linux/arm64", variant="v8"), [])
        both = [of("linux/amd64"), of("linux/s390x")]
        children = []
        for image, platform in zip(both, ("linux/amd64", "linux/s390x"), strict=True):
            found.push("base/index", platform.replace("/", "-"), image, [])
            children.append(replace(image.manifest.descriptor(), platform=Platform.parse(platform)))
        found.push("base/index", "1", Index.create(children), [])
        yield found


def inputs(registry: FakeRegistry, root: Path, image: ImageTable, *platforms: str) -> Inputs:
    """Inputs of a project of nothing but *image*, whose bases are in *registry*."""
    root.mkdir(exist_ok=True)
    with State(None) as state, Connect().client() as client:
        bases = Bases(lambda: client, lambda: pytest.fail("docker was asked"), state, platforms, silent)
        found = fingerprint(Project(image, root=root), state, platforms=platforms, resolve=bases.resolve)
        again = fingerprint(Project(image, root=root), state, platforms=platforms, resolve=bases.resolve)
        assert found.bases == again.bases, "what the state remembers is what was found"
        return found


@pytest.mark.parametrize("triggers", [[], ["COPY . /app"]])
def test_a_base_with_onbuild(registry: FakeRegistry, tmp_path: Path, triggers: list[str]) -> None:
    """What a base image's ONBUILD takes of the project is sent, though no line of the Dockerfile names it."""
    registry.push("base/onbuild", "1", of("linux/amd64", config={"OnBuild": triggers}), [])
    (tmp_path / "Dockerfile").write_text(f"FROM {registry.host}/base/onbuild:1\nCOPY a.py /x/\n")
    for name in ("a.py", "b.py"):
        (tmp_path / name).touch()
    found = inputs(registry, tmp_path, ImageTable("acme/x", dockerfile="Dockerfile"), "linux/amd64")
    assert ("b.py" in [file.path for file in found.files]) is bool(triggers)


@pytest.mark.parametrize(
    ("base", "platform", "has"),
    [
        ("single", "linux/arm64", "linux/amd64"),
        ("single", "linux/foo", "linux/amd64"),
        ("single", "windows/amd64", "linux/amd64"),
        ("index", "linux/arm64", "linux/amd64, linux/s390x"),
    ],
)
def test_a_base_of_another_platform_is_refused(
    registry: FakeRegistry, tmp_path: Path, base: str, platform: str, has: str
) -> None:
    """No image of the wrong platform is built: the base says which ones it is of."""
    with pytest.raises(ConfigurationError, match=f"is of {has}, not of {platform}"):
        inputs(registry, tmp_path, ImageTable("acme/x", base=f"{registry.host}/base/{base}:1"), platform)


@pytest.mark.parametrize(
    ("base", "platform"),
    [("single", "linux/amd64"), ("single", "linux/amd64/v2"), ("arm", "linux/arm64/v8"), ("index", "linux/s390x")],
)
def test_variants_that_may_fit_are_taken(registry: FakeRegistry, tmp_path: Path, base: str, platform: str) -> None:
    """linux/arm64 is linux/arm64/v8, and what may run there is not refused."""
    image = ImageTable("acme/x", base=f"{registry.host}/base/{base}:1")
    (found,) = inputs(registry, tmp_path, image, str(Platform.parse(platform))).bases.values()
    assert isinstance(found.digest, Digest)
    assert not found.others


def test_a_stage_of_the_builders_platform_may_be_of_any(registry: FakeRegistry, tmp_path: Path) -> None:
    """Only what the image itself is made on top of must be of its platform."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM --platform=$BUILDPLATFORM {registry.host}/base/index:1 AS tools\n"
        f"FROM --platform=$BUILDPLATFORM {registry.host}/base/single:1 AS more\n"
        f"FROM {registry.host}/base/arm:1\nCOPY --from=tools /x /x\nCOPY --from=more /y /y\n"
    )
    found = inputs(registry, tmp_path, ImageTable("acme/x", dockerfile="Dockerfile"), "linux/arm64")
    assert len(found.bases) == 3
