"""What goes into an image, by digest. A file that the stat cache knows is not read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from .checkpoint import File, Ownership, arrange, find
from .checkpoint.compress import needs_zstandard
from .checkpoint.convert import Options
from .checkpoint.hub import Hub, Snapshot, is_hub
from .checkpoint.made import Made, Part, hash_content, make, parts_of
from .checkpoint.pack import Blueprint, Content, Hashed, checkpoint_key, content_digest
from .checkpoint.recipe import Recipe
from .errors import ConfigurationError
from .oci import Digest, dump
from .project import Project
from .runtime import (
    CheckpointCopy,
    ContextFile,
    base_images,
    find_checkpoint_copy,
    find_files,
    find_includes,
    generate,
    read_requirements,
)
from .runtime.requirements import Entry
from .state import Identity, State

__all__ = ["REQUIREMENT", "Base", "CheckpointInputs", "Inputs", "checkpoint_inputs", "fingerprint", "hash_file"]

FORMAT_VERSION = 1  # of what a runtime key means: raised when the same inputs would build another image
_CHUNK = 1024 * 1024  # bytes
_MOST_NAMED = 300
REQUIREMENT = "requirement "


@dataclass(frozen=True, slots=True)
class Base:
    """An image to start from: its digest where it could be resolved, and how many layers it has a platform.

    ``user``: its USER, "" for root's.
    ``pinned``: the builder can be held to that digest (one of the local Docker may be no manifest's).
    """

    digest: Digest | None = None
    layers: Mapping[str, int] = field(default_factory=dict)
    pinned: bool = True
    user: str = ""


@dataclass(frozen=True)
class CheckpointInputs:
    """The checkpoint as it lies there.

    Attributes:
        files: what it consists of.
        ownership: where it goes, whose it is.
        digests: path -> sha256, for the files that the stat cache knows.
        recipe: what becomes of them.
        made: what they become, where the recipe asks for their weights.
        hub: what they are on the hub. Some of them may not be on this machine then: see ``fetched``.
        to_fetch: bytes of these.
    """

    files: tuple[File, ...]
    ownership: Ownership
    digests: Mapping[str, Digest]
    recipe: Recipe = field(default_factory=Recipe)
    made: Made | None = None
    hub: Snapshot | None = None
    to_fetch: int = 0

    def fetched(self) -> CheckpointInputs:
        """With all files on this machine.

        Raises:
            LayerkitError: as ``Snapshot.fetch``.
        """
        if self.hub is None or self.made is not None:
            return self
        return replace(self, files=self.hub.fetch())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def known(self) -> bool:
        """What its key is of is known without reading it."""
        hashed = len(self.digests) == len(self.files)
        if self.made is None:
            return hashed
        return self.made.known and (hashed or self.recipe.hash == "weights")

    @property
    def key(self) -> str | None:
        if not self.known:
            return None
        compressed = self.recipe.compressed
        if self.made is None:
            return checkpoint_key(self.digests, self.ownership, (*self.recipe.limits, *compressed))
        if self.recipe.hash == "file":
            return checkpoint_key(self.digests, self.ownership, (self.recipe.text, *compressed))
        others = {path: digest for path, digest in self.made.others.items() if digest is not None}
        return checkpoint_key(others, self.ownership, (*self.made.key_lines, *compressed))

    @property
    def digest(self) -> Digest | None:
        """What the checkpoint is called: its weights hash where it is made by that, else the digest of its files."""
        if self.made is not None:
            return self.made.weights if self.known else None
        return content_digest(self.digests) if self.known else None

    @property
    def weights(self) -> Digest | None:
        """The weights hash of what is in the image, where it is known."""
        return self.made.weights if self.made is not None else None

    @cached_property
    def blueprints(self) -> tuple[Blueprint, ...]:
        """Its layers, ready to be read."""
        if self.made is not None:
            return self.made.blueprints
        return arrange(self.files, self.ownership, limit=self.recipe.max_layers)

    @property
    def contents(self) -> tuple[Content, ...]:
        """Its files as they are in the image."""
        return self.made.opened.contents if self.made is not None else self.files

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Its layers by name and size, and what is known of each."""
        return self.made.parts if self.made is not None else parts_of(self.blueprints)

    @property
    def samples(self) -> tuple[str, ...]:
        """For a later build to see what may be the same: ``made.Made``."""
        return self.made.samples if self.made is not None else ()

    @property
    def location(self) -> str:
        """Where a program finds it in the image: the file, or the folder of several."""
        paths = self.made.locations if self.made is not None else tuple(file.path for file in self.files)
        target = PurePosixPath(self.ownership.target)
        return str(target / paths[0] if len(paths) == 1 else target)

    def packed(self, hashed: Sequence[Hashed], state: State, on_read: Callable[[int], None]) -> CheckpointInputs:
        """With all of it known, and kept in *state*, from what hashing its layers gave.

        Raises:
            CheckpointError: a file changed meanwhile.
        """
        digests = dict(self.digests)
        for sections in (named for layer in hashed for named in layer.sections.items()):
            if "" in sections[1]:
                digests[sections[0]] = sections[1][""]
        if self.hub is not None and self.made is None:
            for file in self.files:
                self.hub.check(file, digests[file.path])
        made = self.made.finished(hashed, state, on_read) if self.made is not None else None
        if made is None or self.recipe.hash == "file":
            for file in self.files:
                digests[file.path] = digests.get(file.path) or hash_content(file, on_read)
                state.remember_file(file.source, file.identity, digests[file.path])
        digests = {file.path: digests[file.path] for file in self.files if file.path in digests}
        return replace(self, digests=digests, made=made)


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

    def runtime_key(self, platform: str) -> str:
        """The key of the runtime image for *platform*: 40 hex digits over everything that decides its content.

        Secrets count by name: their values reach no layer.
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
                dependencies[f"{REQUIREMENT}{entry.name or entry.text}"] = _wanted(entry)
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
        return digest.short if digest else file.link


def _wanted(entry: Entry) -> str:
    """What a requirement says beside its name: ``==2.0``, and which hashes where it has some."""
    text, hashes, rest = entry.text.partition(" --hash=")
    text = text[len(entry.name) :].strip() if text.lower().startswith(entry.name) else text
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
        where = path.absolute()
        try:
            identity = Identity.of(where.stat())
            digest = state.file_digest(where, identity)
            if digest is None:
                digest = hash_file(where)
                if Identity.of(where.stat()) == identity:
                    state.remember_file(where, identity, digest)
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from None
        return name, digest

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return dict(pool.map(one, files))


def fingerprint(
    project: Project,
    state: State,
    *,
    platforms: tuple[str, ...],
    resolve: Callable[[str], Base],
    source_date_epoch: int | None = None,
    hub: Hub | None = None,
) -> Inputs:
    """Find and hash all that goes in. The checkpoint is not read: what the stat cache does not know stays open.

    Args:
        resolve: a base image's reference -> its digest and layers.
        hub: where a checkpoint ``hf://…`` is asked for.

    Raises:
        ConfigurationError: a file that the project names is missing, or its Dockerfile cannot be used.
        CheckpointError: the checkpoint is missing or cannot be used.
    """
    if project.image.dockerfile:
        text = _own_dockerfile(project)
        references = base_images(text, target_stage=project.image.target, args=project.builder.args)
        dependency_files: frozenset[str] = frozenset()
        requirements = None
    else:
        requirements = read_requirements(project)
        references = (project.image.base,)
        dependency_files = frozenset(requirements.files) if requirements else frozenset()
    files = find_files(project)
    wheels = _wheels(project)
    bases = {reference: resolve(reference) for reference in references}
    if not project.image.dockerfile:
        user = bases[project.image.base].user
        text = generate(project, requirements, includes=find_includes(project), base_user=user)
    checkpoint = checkpoint_inputs(project, state, hub)
    return Inputs(
        project,
        text,
        files,
        _digests(((f.path, f.source) for f in files if not f.link), state),
        dependency_files,
        _digests(wheels, state),
        bases,
        platforms,
        checkpoint,
        source_date_epoch,
        requirements.installed if requirements else (),
        sum(path.stat().st_size for _, path in wheels),
    )


def _wheels(project: Project) -> list[tuple[str, Path]]:
    if not project.dependencies.wheels:
        return []
    folder = project.root / project.dependencies.wheels
    if not folder.is_dir():
        raise ConfigurationError(
            f"dependencies.wheels: no folder {str(folder)!r}",
            hint=f"fill it: pip download --dest {project.dependencies.wheels} -r {project.dependencies.requirements}",
        )
    return sorted((path.name, path) for path in folder.iterdir() if path.is_file())


def _own_dockerfile(project: Project) -> str:
    path = project.root / project.image.dockerfile
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"image.dockerfile: {path}: {error}") from None


def checkpoint_inputs(project: Project, state: State, hub: Hub | None = None) -> CheckpointInputs | None:
    """The checkpoint alone, as ``fingerprint`` finds it; None where the project has none.

    Raises:
        ConfigurationError: the project's own Dockerfile cannot be used.
        CheckpointError: the checkpoint is missing or cannot be used.
    """
    wanted = project.checkpoint
    if wanted is None:
        return None
    copy: CheckpointCopy | None = None
    if project.image.dockerfile:
        text = _own_dockerfile(project)
        copy = find_checkpoint_copy(text, target_stage=project.image.target, args=project.builder.args)
    ownership = _ownership(project, copy)
    if wanted.compression != "none":
        needs_zstandard()
    recipe = Recipe(
        wanted.format,
        wanted.hashes,
        Options(wanted.key or "", wanted.strip_prefix or "", wanted.dtype or "", tuple(wanted.drop)),
        wanted.shard_bytes,
        wanted.max_layers,
        wanted.compression,
    )
    if is_hub(wanted.path):
        return _of_hub((hub or Hub({})).snapshot(wanted.path, state), ownership, recipe, state)
    files = find(wanted.path, project.root)
    found = {file.path: state.file_digest(file.source, file.identity) for file in files}
    digests = {path: digest for path, digest in found.items() if digest}
    made = None if recipe.plain else make(wanted.path, project.root, files, ownership, recipe, state)
    return CheckpointInputs(files, ownership, digests, recipe, made)


def _of_hub(snapshot: Snapshot, ownership: Ownership, recipe: Recipe, state: State) -> CheckpointInputs:
    """What is kept as it is is known by its digests alone; what is made of its weights, by its headers at least."""
    if recipe.plain:
        files = snapshot.local()
        missing = snapshot.missing if files is None else 0
        files = snapshot.absent if files is None else files
        return CheckpointInputs(files, ownership, snapshot.digests, recipe, None, snapshot, missing)
    files = snapshot.fetch()
    for file in files:  # packing hashes what is made of them, and not them
        if state.file_digest(file.source, file.identity) is None:
            snapshot.check(file, digest := hash_content(file, lambda count: None))
            state.remember_file(file.source, file.identity, digest)
    made = make(snapshot.folder(files), Path(), files, ownership, recipe, state)
    return CheckpointInputs(files, ownership, snapshot.digests, recipe, made, snapshot)


def _ownership(project: Project, copy: CheckpointCopy | None) -> Ownership:
    wanted = project.checkpoint
    assert wanted is not None
    uid, gid = _numbers(wanted.chown or "0:0")
    mode = int(wanted.chmod or "0644", 8)
    if copy is None:
        return Ownership(wanted.target or "/app/model/", uid, gid, mode)
    if wanted.target is not None and PurePosixPath(wanted.target) != PurePosixPath(copy.target):
        raise ConfigurationError(
            f"checkpoint.target is {wanted.target!r}, and line {copy.line} of {project.image.dockerfile}"
            f" says {copy.target!r}",
            hint="leave checkpoint.target out: with your own Dockerfile its COPY line decides",
        )
    if wanted.chown is not None and (uid, gid) != (copy.uid, copy.gid):
        raise ConfigurationError(
            f"checkpoint.chown is {wanted.chown!r}, and line {copy.line} of {project.image.dockerfile}"
            f" says {copy.uid}:{copy.gid}",
            hint="leave checkpoint.chown out: with your own Dockerfile its COPY line decides",
        )
    return Ownership(copy.target, copy.uid, copy.gid, int(copy.chmod, 8) if copy.chmod else mode)


def _numbers(owner: str) -> tuple[int, int]:
    """uid and gid of ``uid[:gid]``; a group that is left out has the user's number, as with COPY --chown."""
    user, _, group = owner.partition(":")
    uid = 0 if user == "root" else int(user)
    return uid, (uid if not group else 0 if group == "root" else int(group))
