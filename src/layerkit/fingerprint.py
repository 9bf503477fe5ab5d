"""What goes into an image, by digest. A file that the stat cache knows is not read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .checkpoint_inputs import CheckpointInputs, Sources, checkpoint_inputs, own_dockerfile
from .errors import ConfigurationError
from .oci import Digest, dump
from .project import Project
from .runtime import (
    ContextFile,
    base_images,
    check_code,
    check_copies,
    find_files,
    find_includes,
    foundation,
    generate,
    read_requirements,
    taken,
)
from .runtime.requirements import Entry, masked
from .state import State

__all__ = [
    "REQUIREMENT",
    "Base",
    "CheckpointInputs",
    "Inputs",
    "Sources",
    "checkpoint_inputs",
    "fingerprint",
    "hash_file",
]

FORMAT_VERSION = 1  # of what a runtime key means: raised when the same inputs would build another image
_CHUNK = 1024 * 1024  # bytes
_MOST_NAMED = 300
REQUIREMENT = "requirement "


@dataclass(frozen=True, slots=True)
class Base:
    """An image to start from: its digest where it could be resolved, and how many layers it has a platform.

    ``user``: its USER, "" for root's.
    ``pinned``: the builder can be held to that digest (one of the local Docker may be no manifest's).
    ``manifests``: platform -> digest of its manifest.
    ``others``: platform that it certainly is not of -> those that it is of.
    ``triggers``: its configuration has ONBUILD instructions, or may have: what these take is in no Dockerfile.
    """

    digest: Digest | None = None
    layers: Mapping[str, int] = field(default_factory=dict)
    pinned: bool = True
    user: str = ""
    manifests: Mapping[str, Digest] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    triggers: bool = False


@dataclass(frozen=True)
class Inputs:
    """All that decides what the image will be.

    Attributes:
        dockerfile: its text, generated or the user's.
        files: what of the project goes to the builder, with ``digests`` by path.
        dependency_files: paths among them that belong to the dependencies.
        wheels: name -> sha256 of the wheel folder.
        bases: external images by reference; the one that the image itself starts from is first.
        platforms: as in linux/amd64; never empty.
        requirements: what the requirements file asks for, where layerkit writes the Dockerfile.
        wheels_size: bytes of the wheel folder.
    """

    project: Project
    dockerfile: str
    files: tuple[ContextFile, ...]
    digests: Mapping[str, Digest]
    dependency_files: frozenset[str]
    wheels: Mapping[str, Digest]
    bases: Mapping[str, Base]
    platforms: tuple[str, ...]
    checkpoint: CheckpointInputs | None
    source_date_epoch: int | None = None
    requirements: tuple[Entry, ...] = ()
    wheels_size: int = 0

    @property
    def inside(self) -> bool:
        """The checkpoint is a layer of the image."""
        wanted = self.project.checkpoint
        return self.checkpoint is not None and wanted is not None and wanted.placement == "layer"

    def runtime_key(self, platform: str) -> str:
        """The key of the runtime image for *platform*: 40 hex digits over everything that decides its content.

        Secrets count by name: their values reach no layer. Nor does it matter whether one is there: to BuildKit's own
        cache it does not, so that another key would get the same step from there.
        """
        builder, image = self.project.builder, self.project.image
        document = {
            "format": FORMAT_VERSION,
            "platform": platform,
            "dockerfile": self.dockerfile,
            "stage": image.target,
            "files": [[f.path, f.mode, f.link, str(self.digests.get(f.path, ""))] for f in self.files],
            "wheels": [[name, str(digest)] for name, digest in sorted(self.wheels.items())],
            "bases": [[name, str(base.digest)] for name, base in self.bases.items()],
            "args": sorted(builder.args.items()),
            "secrets": sorted({*builder.secrets, *self.project.dependencies.secrets}),
            "network": builder.network,
            "attest": list(builder.attest),
            "source_date_epoch": self.source_date_epoch,
        }
        return Digest.of(dump(document)).hex[:40]

    @cached_property
    def summary(self) -> dict[str, dict[str, str]]:
        """role -> input -> short digest: kept with the image, so that a later plan can say what changed.

        Over 300 of a kind are summed up as one, for a manifest is no place for a list of files.
        """
        code = {f.path: self._short(f) for f in self.files if f.path not in self.dependency_files}
        if len(code) > _MOST_NAMED:
            code = {f"{len(code)} files": Digest.of(dump(code)).short}
        dependencies = {f.path: self._short(f) for f in self.files if f.path in self.dependency_files}
        if self.wheels:
            dependencies["wheels"] = Digest.of(dump({n: str(d) for n, d in self.wheels.items()})).short
        if len(self.requirements) <= _MOST_NAMED:
            for entry in self.requirements:
                dependencies[f"{REQUIREMENT}{entry.name or masked(entry.text)}"] = _wanted(entry)
        dependencies |= {f"apt {name}": "" for name in self.project.dependencies.apt}
        instructions = {"Dockerfile": Digest.of(self.dockerfile.encode()).short}
        for name, value in self.project.builder.args.items():
            instructions[f"argument {name}"] = Digest.of(value.encode()).short  # a value may be somebody's business
        return {
            "base": {name: base.digest.short if base.digest else "" for name, base in self.bases.items()},
            "dependencies": dependencies,
            "code": code,
            "instructions": instructions,
        }

    def _short(self, file: ContextFile) -> str:
        digest = self.digests.get(file.path)
        return f"{digest.short}{' +x' if file.mode & 0o100 else ''}" if digest else file.link


def _wanted(entry: Entry) -> str:
    """What a requirement says beside its name: ``==2.0``, and which hashes where it has some."""
    text, hashes, rest = entry.text.partition(" --hash=")
    text = text[len(entry.name) :].strip() if text.lower().startswith(entry.name) else text
    text = masked(text)  # anybody who may pull the image reads it, and ``plan`` prints it
    return f"{text} (hashes {Digest.of(rest.encode()).short})" if hashes else text


def hash_file(path: Path) -> Digest:
    """The sha256 of a file."""
    state = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            state.update(buffer[:count])
    return Digest("sha256", state.hexdigest())


def _digests(files: Iterable[tuple[str, Path]], state: State) -> dict[str, Digest]:
    """Name -> sha256 of each file, by the stat cache where it knows it."""

    def one(item: tuple[str, Path]) -> tuple[str, Digest]:
        name, path = item
        try:
            return name, state.digest_of(path.absolute(), hash_file)
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from None

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return dict(pool.map(one, files))


def fingerprint(
    project: Project,
    state: State,
    *,
    platforms: tuple[str, ...],
    resolve: Callable[[str], Base],
    source_date_epoch: int | None = None,
    sources: Sources | None = None,
    apart: Iterable[Path] = (),
) -> Inputs:
    """Find and hash all that goes in. The checkpoint is not read: what the stat cache does not know stays open.

    Args:
        resolve: a base image's reference -> its digest and layers.
        sources: where a checkpoint that is not here is asked for.
        apart: files and folders that are no input, wherever they lie: what layerkit itself writes.

    Raises:
        ConfigurationError: a file that the project names is missing, or its Dockerfile cannot be used.
        CheckpointError: the checkpoint is missing or cannot be used.
    """
    if project.image.dockerfile:
        text = own_dockerfile(project)
        references = base_images(text, target_stage=project.image.target, args=project.builder.args)
        lowest = foundation(text, target_stage=project.image.target, args=project.builder.args)
        dependency_files: frozenset[str] = frozenset()
        requirements = None
    else:
        requirements = read_requirements(project)
        # BuildKit's name for nothing at all, which no registry has.
        lowest = project.image.base if project.image.base != "scratch" else ""
        references = (lowest,) if lowest else ()
        dependency_files = frozenset(requirements.files) if requirements else frozenset()
    apart = tuple(apart)
    if not project.image.dockerfile:
        files = find_files(project, apart)
    wheels = _wheels(project)
    bases = {reference: resolve(reference) for reference in references}
    if lowest:
        _of_platforms(lowest, bases[lowest], platforms)
    if project.image.dockerfile:
        named = taken(text, target_stage=project.image.target, args=project.builder.args)
        files = find_files(project, apart, None if any(base.triggers for base in bases.values()) else named)
    else:
        user = bases[lowest].user if lowest else ""
        text = generate(project, requirements, includes=find_includes(project, apart), base_user=user)
    checkpoint = checkpoint_inputs(project, state, sources)
    if checkpoint is not None and project.checkpoint is not None and project.checkpoint.placement == "layer":
        # A folder that is empty is one with what is there already.
        code = [file.path for file in files if file.path not in dependency_files and not file.is_folder]
        if checkpoint.copy is None:
            check_code(code, project.code.target, checkpoint.ownership.target, checkpoint.paths)
        else:
            stage, args = project.image.target, project.builder.args
            check_copies(text, checkpoint.copy, code, checkpoint.paths, target_stage=stage, args=args)
    return Inputs(
        project,
        text,
        files,
        _digests(((f.path, f.source) for f in files if f.is_file), state),
        dependency_files,
        _digests(wheels, state),
        bases,
        platforms,
        checkpoint,
        source_date_epoch,
        requirements.installed if requirements else (),
        sum(path.stat().st_size for _, path in wheels),
    )


def _of_platforms(reference: str, base: Base, platforms: tuple[str, ...]) -> None:
    """BuildKit would take another platform's image for want of the right one, and say nothing where it is pinned."""
    for platform in platforms:
        if platform in base.others:
            raise ConfigurationError(
                f"base image {reference}: is of {base.others[platform]}, not of {platform}",
                hint="name a base that has the platform, or another --platform (image.platforms)",
            )


def _wheels(project: Project) -> list[tuple[str, Path]]:
    wanted = project.dependencies
    if not wanted.wheels:
        return []
    folder, uv = project.root / wanted.wheels, wanted.installer == "uv" and bool(wanted.requirements)
    fill = f"pip download --dest {wanted.wheels}"
    if not folder.is_dir():
        raise ConfigurationError(
            f"dependencies.wheels: no folder {str(folder)!r}",
            hint=f"fill it: {fill} -r {wanted.requirements}{' uv' if uv else ''}",
        )
    found = sorted((path.name, path) for path in folder.iterdir() if path.is_file())
    if uv and not any(name.startswith("uv-") for name, _ in found):
        raise ConfigurationError(
            f"dependencies.wheels: uv is to install the packages, and {wanted.wheels} has no wheel of uv itself",
            hint=f"{fill} uv",
        )
    return found
