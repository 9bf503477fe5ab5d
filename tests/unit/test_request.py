"""What tags mean: each build is for one repository."""

from __future__ import annotations

from typing import Any

import pytest

from layerkit.errors import ConfigurationError
from layerkit.pipeline import build, plan
from layerkit.project import Image, Project
from layerkit.request import named

PROJECT = Project(Image("registry.example/team/p1"))


@pytest.mark.parametrize("tags", [["prod", "registry.example/other/x:v1"], ["registry.example/other/x:v1", "prod"]])
def test_a_bare_tag_is_of_the_projects_own_repository(tags: list[str]) -> None:
    """A bare tag beside a reference of another repository is refused, and does not move that one's tag."""
    with pytest.raises(ConfigurationError, match=r"name 2 repositories: registry\.example/other/x, "):
        named(PROJECT, tags)


def test_bare_tags_and_references_of_the_same_repository_go_together() -> None:
    """A whole reference of image.name's own repository may stand beside bare tags."""
    project, tags = named(PROJECT, ["prod", "registry.example/team/p1:v1", "prod"])
    assert (project, tags) == (PROJECT, ("prod", "v1"))


def test_spellings_of_one_repository_are_one() -> None:
    """What Docker takes for one repository is one, whichever way it is written."""
    project, tags = named(PROJECT, ["one:x", "docker.io/library/one:y", "index.docker.io/library/one"])
    assert (project.image.name, tags) == ("one", ("x", "y", "latest"))


def test_references_alone_name_the_repository() -> None:
    """References of one repository win over image.name; without tags it is image.name's latest."""
    assert named(PROJECT, ["other/x:v1"])[0].image.name == "other/x"
    assert named(PROJECT, [])[1] == ("latest",)


@pytest.mark.parametrize(
    "tag",
    [f"v1@sha256:{'0' * 64}", f"{PROJECT.image.name}:v1@sha256:{'0' * 64}", f"{PROJECT.image.name}@sha256:{'0' * 64}"],
)
def test_tags_have_no_digest(tag: str) -> None:
    """A digest in -t is a usage error: it is known only once the image is built."""
    with pytest.raises(ConfigurationError, match="a tag cannot be a digest, nor have one"):
        named(PROJECT, [tag])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tags": "v1"}, r"tags must be a list, as in \['v1'\]"),
        ({"platforms": "linux/amd64"}, "platforms must be a list"),
        ({"tags": [3]}, "tags: 3 is no text, as '3' is"),
        ({"push": True, "output": "oci:there"}, "push and output exclude each other"),
        ({"way": "bogus"}, "way: 'bogus' is not known"),
        ({"layer_jobs": -5}, "layer_jobs: -5"),
    ],
)
def test_what_would_do_the_wrong_thing_is_refused(options: dict[str, Any], said: str) -> None:
    """Arguments of build() that mean nothing, or two things, are refused before anything is done."""
    with pytest.raises(ConfigurationError, match=said):
        build(PROJECT, **options)


@pytest.mark.parametrize("given", ["layerkit.toml", None, Image("registry.example/team/p1")])
def test_what_is_no_project(given: Any) -> None:
    """A path where a Project belongs is an error of layerkit's own, that says what makes one of a file."""
    for call in (build, plan):
        with pytest.raises(ConfigurationError, match="is no Project") as caught:
            call(given)
        assert "layerkit.load" in caught.value.hint
