"""What is asked of a build beside the project: tags, destination, flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .errors import ConfigurationError
from .names import CACHE_TAG, is_own_tag
from .oci import Reference
from .project import Project

__all__ = ["Request", "named"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a build beside the project.

    Attributes:
        tags: names in the image's repository (``v2``), or whole references of one repository.
        push, output: a registry, or ``oci:DIR``; the local Docker where neither is given.
        platforms: win over the project's.
        way: "compose", or "buildkit" to have BuildKit build the whole image.
        layer_jobs: checkpoint layers that are sent to a registry at a time; 0 for the default.
        locked: base and weights are those of the lock, or nothing is done.

    Raises:
        ConfigurationError: a value that is none of these, or push and output at once.
    """

    tags: Sequence[str] = ()
    push: bool = False
    output: str = ""
    platforms: Sequence[str] = ()
    builder: str = ""
    no_cache: bool = False
    pull: bool = False
    strict_cache: bool = False
    way: Literal["compose", "buildkit"] = "compose"
    layer_jobs: int = 0
    locked: bool = False

    def __post_init__(self) -> None:
        for name in ("tags", "platforms"):
            value = getattr(self, name)
            if isinstance(value, str):  # whose characters would each be one
                raise ConfigurationError(f"{name} must be a list, as in [{value!a}]")
            for item in value:
                if not isinstance(item, str):
                    raise ConfigurationError(f"{name}: {item!a} is no text, as {str(item)!a} is")
        if self.push and self.output:
            raise ConfigurationError("push and output exclude each other", hint="a build has one destination")
        if self.way not in ("compose", "buildkit"):
            raise ConfigurationError(f"way: {self.way!a} is not known", hint="compose or buildkit")
        if self.layer_jobs < 0:
            raise ConfigurationError(f"layer_jobs: {self.layer_jobs} is less than 0, which stands for the default")


def named(project: Project, tags: Sequence[str]) -> tuple[Project, tuple[str, ...]]:
    """The project under the repository that the tags name, and the tags alone.

    Raises:
        ConfigurationError: *project* is none, or a tag is none, is layerkit's own, or of a second repository.
    """
    if not isinstance(project, Project):
        raise ConfigurationError(f"{project!a:.80} is no Project", hint="layerkit.load(PATH) makes one of a file")
    short: list[str] = []
    names: dict[str, str] = {}  # repository -> as it was written first
    for tag in tags or ("latest",):
        if "/" in tag or ":" in tag:
            reference = Reference.parse(tag).or_latest()
            if not reference.tag or reference.digest:
                raise ConfigurationError(
                    f"-t {tag}: a tag cannot be a digest, nor have one", hint="leave out @sha256:…"
                )
            written = tag.rpartition(":")[0] if tag.endswith(f":{reference.tag}") else tag
        else:
            written = project.image.name
            reference = Reference.parse(written).with_tag(tag)
        names.setdefault(reference.name, written)
        short.append(reference.tag)
    if len(names) > 1:
        raise ConfigurationError(
            f"the tags name {len(names)} repositories: {', '.join(sorted(names.values()))}",
            hint=f"one build, one repository; a tag alone is of {project.image.name}",
        )
    if any(is_own_tag(tag) or tag == CACHE_TAG for tag in short):
        raise ConfigurationError("tags runtime-*, checkpoint-* and buildcache are layerkit's own", hint="take another")
    (name,) = names.values()
    return replace(project, image=replace(project.image, name=name)), tuple(dict.fromkeys(short))
