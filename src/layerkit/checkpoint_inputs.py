"""The checkpoint as it lies there, or what is known of one that does not: no file that the state knows is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .byreference import of_image, refer
from .checkpoint import File, Ownership, arrange
from .checkpoint.blueprint import Blueprint, Content, checkpoint_key, content_digest
from .checkpoint.compress import needs_zstandard
from .checkpoint.elsewhere import OCI, Elsewhere, RemoteBlueprint
from .checkpoint.files import look
from .checkpoint.hubnames import is_hub
from .checkpoint.pack import Hashed
from .checkpoint.parts import Part, hash_content, parts_of
from .checkpoint.recipe import Options, Recipe
from .errors import ConfigurationError
from .lock import LockedCheckpoint
from .oci import Digest
from .project import Checkpoint, Project
from .runtime import CHECKPOINT_TARGET, CheckpointCopy, find_checkpoint_copy
from .state import State

if TYPE_CHECKING:
    from .checkpoint.hub import Hub, Snapshot
    from .checkpoint.made import Made

__all__ = ["CheckpointInputs", "Sources", "checkpoint_inputs", "own_dockerfile"]

_LAYER = "layer"  # kind of record


@dataclass(frozen=True)
class Sources:
    """Where a checkpoint is asked for that is not on this machine.

    Attributes:
        hub: makes what answers for ``hf://…``.
        locked: what the lock says of it.
        take: ``checkpoint.path`` that names an image, and where its files must be -> what is known of it. None where
            no registry is to be asked.
    """

    hub: Callable[[], Hub] | None = None
    locked: LockedCheckpoint | None = None
    take: Callable[[str, Ownership], Elsewhere] | None = None


@dataclass(frozen=True)
class CheckpointInputs:
    """The checkpoint as it lies there, or what is known of one that does not.

    Attributes:
        files: what it consists of.
        ownership: where it goes, whose it is.
        digests: path -> sha256, for the files that the stat cache knows.
        hashed: index -> what hashing gave, for those layers of unchanged files that were hashed before.
        recipe: what becomes of them.
        made: what they become, where the recipe asks for their weights.
        elsewhere: where it is not here; its layers in a registry are ``remote``, once they were looked for.
        read: bytes that were read to make a plan.
        hub: what they are on the hub. Some of them may not be on this machine then: see ``fetched``.
        to_fetch: bytes of these.
        copy: the line of the project's own Dockerfile that says where it goes.
    """

    files: tuple[File, ...]
    ownership: Ownership
    digests: Mapping[str, Digest]
    recipe: Recipe = field(default_factory=Recipe)
    made: Made | None = None
    hashed: Mapping[int, Hashed] = field(default_factory=dict)
    elsewhere: Elsewhere | None = None
    remote: tuple[RemoteBlueprint, ...] = ()
    read: int = 0
    hub: Snapshot | None = None
    to_fetch: int = 0
    copy: CheckpointCopy | None = None

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
        return self.elsewhere.size if self.elsewhere is not None else sum(file.size for file in self.files)

    @property
    def known(self) -> bool:
        """What its key is of is known without reading it."""
        if self.elsewhere is not None:
            return self.elsewhere.key is not None
        hashed = len(self.digests) == len(self.files)
        if self.made is None:
            return hashed
        return self.made.known and (hashed or self.recipe.hash == "weights")

    @property
    def key(self) -> str | None:
        """What its layers are found by; None as long as it is not ``known``."""
        if self.elsewhere is not None or not self.known:
            return self.elsewhere.key if self.elsewhere is not None else None
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
        if self.elsewhere is not None:
            return self.elsewhere.digest
        if self.made is not None:
            return self.made.weights if self.known else None
        return content_digest(self.digests) if self.known else None

    @property
    def weights(self) -> Digest | None:
        """The weights hash of what is in the image, where it is known."""
        if self.elsewhere is not None:
            return self.elsewhere.weights
        return self.made.weights if self.made is not None else None

    @cached_property
    def blueprints(self) -> tuple[Blueprint, ...]:
        """Its layers, ready to be read."""
        if self.elsewhere is not None:
            return self.remote
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
        if self.elsewhere is not None:
            return tuple(Part(b.label, b.size, "", Hashed(b.known) if b.known else None) for b in self.remote)
        if self.made is not None:
            return self.made.parts
        # What is known is the tar's digest, and the destination has the compressed one's.
        return parts_of(self.blueprints, self.hashed if self.recipe.compression == "none" else {})

    @property
    def samples(self) -> tuple[str, ...]:
        """For a later build to see what may be the same: ``made.Made``."""
        if self.elsewhere is not None:
            return self.elsewhere.samples
        return self.made.samples if self.made is not None else ()

    @property
    def touched(self) -> str:
        """Why the image cannot be composed: what the project's own Dockerfile does with the weights; "" for nothing."""
        return self.copy.touched if self.copy is not None else ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Of its files in the image, below the target; none where they are not known here."""
        return self.made.locations if self.made is not None else tuple(file.path for file in self.files)

    @property
    def location(self) -> str:
        """Where a program finds it in the image: the file, or the folder of several."""
        if self.elsewhere is not None:
            return self.elsewhere.location
        paths = self.paths
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
        if made is None:
            for blueprint, layer in zip(self.blueprints, hashed, strict=True):
                if (mark := blueprint.content_mark(digests)) is not None:
                    state.put(_LAYER, mark, str(layer.digest))
        return replace(self, digests=digests, made=made)


def own_dockerfile(project: Project) -> str:
    """The text of ``image.dockerfile``.

    Raises:
        ConfigurationError: it cannot be read.
    """
    path = project.root / project.image.dockerfile
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"image.dockerfile: {path}: {error}") from None


def checkpoint_inputs(project: Project, state: State, sources: Sources | None = None) -> CheckpointInputs | None:
    """The checkpoint alone, as ``fingerprint`` finds it; None where the project has none.

    Raises:
        ConfigurationError: the project's own Dockerfile cannot be used.
        CheckpointError: the checkpoint is missing or cannot be used.
    """
    wanted, sources = project.checkpoint, sources or Sources()
    if wanted is None:
        return None
    copy: CheckpointCopy | None = None
    if project.image.dockerfile:
        text = own_dockerfile(project)
        copy = find_checkpoint_copy(text, target_stage=project.image.target, args=project.builder.args)
    ownership = _ownership(project, copy)
    found = _found(project, wanted, state, sources, ownership)
    return replace(found, copy=copy)


def _found(
    project: Project, wanted: Checkpoint, state: State, sources: Sources, ownership: Ownership
) -> CheckpointInputs:
    if wanted.path.startswith(OCI):
        image = (sources.take or _unasked(sources.locked))(wanted.path, ownership)
        return CheckpointInputs((), ownership, {}, elsewhere=image)
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
        from .checkpoint.hub import Hub

        hub = sources.hub() if sources.hub is not None else Hub({})
        return _of_hub(hub.snapshot(wanted.path, state), ownership, recipe, state)
    here = look(wanted.path, project.root)
    files = here.files
    if here.pointers or not files:
        lock = (project.lock_name, sources.locked)
        away = refer(wanted.path, project.root, here, ownership, recipe, lock, state)
        return CheckpointInputs((), ownership, {}, recipe, elsewhere=away)
    known = {file.path: state.file_digest(file.source, file.identity) for file in files}
    digests = {path: digest for path, digest in known.items() if digest}
    if not recipe.plain:
        made = _made(wanted.path, project.root, files, ownership, recipe, state)
        return CheckpointInputs(files, ownership, digests, recipe, made)
    kept = CheckpointInputs(files, ownership, digests, recipe)
    return replace(kept, hashed=_hashed_before(kept.blueprints, digests, state)) if digests else kept


def _hashed_before(blueprints: Sequence[Blueprint], digests: Mapping[str, Digest], state: State) -> dict[int, Hashed]:
    found: dict[int, Hashed] = {}
    for index, blueprint in enumerate(blueprints):
        mark = blueprint.content_mark(digests)
        digest = state.get(_LAYER, mark, Digest.parse) if mark is not None else None
        if digest is not None:
            found[index] = Hashed(digest, {file.path: {"": digests[file.path]} for file in blueprint.files})
    return found


def _unasked(locked: LockedCheckpoint | None) -> Callable[[str, Ownership], Elsewhere]:
    def take(path: str, ownership: Ownership) -> Elsewhere:
        if locked is not None and locked.path == path:
            return of_image(locked)
        return Elsewhere(None, None, ownership.target, path, f"no registry was asked for {path}")

    return take


def _of_hub(snapshot: Snapshot, ownership: Ownership, recipe: Recipe, state: State) -> CheckpointInputs:
    """What is kept as it is is known by its digests alone; what is made of its weights, by its headers at least."""
    if recipe.plain:
        files = snapshot.local()
        missing = snapshot.missing if files is None else 0
        files = snapshot.absent if files is None else files
        return CheckpointInputs(files, ownership, snapshot.digests, recipe, hub=snapshot, to_fetch=missing)
    files = snapshot.fetch()
    for file in files:  # packing hashes what is made of them, and not them
        if state.file_digest(file.source, file.identity) is None:
            snapshot.check(file, digest := hash_content(file, lambda count: None))
            state.remember_file(file.source, file.identity, digest)
    made = _made(snapshot.folder(files), Path(), files, ownership, recipe, state)
    return CheckpointInputs(files, ownership, snapshot.digests, recipe, made, hub=snapshot)


def _made(
    pattern: str, root: Path, files: tuple[File, ...], ownership: Ownership, recipe: Recipe, state: State
) -> Made:
    from .checkpoint.made import make  # and with it all that reads the formats: not for files that are files

    return make(pattern, root, files, ownership, recipe, state)


def _ownership(project: Project, copy: CheckpointCopy | None) -> Ownership:
    wanted = project.checkpoint
    assert wanted is not None
    uid, gid = _numbers(wanted.chown or "0:0")
    mode = int(wanted.chmod or "0644", 8)
    if copy is None:
        return Ownership(wanted.target or CHECKPOINT_TARGET, uid, gid, mode)
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
