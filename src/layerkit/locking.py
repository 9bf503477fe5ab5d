"""From a build to its lock, and a build held to its lock."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .byreference import differs
from .checkpoint import File, Packer
from .checkpoint.elsewhere import KnownFile
from .checkpoint.parts import hash_content
from .checkpoint.pointers import dvc_folder, read_dvc
from .checkpoint_inputs import CheckpointInputs
from .errors import CheckpointError, ConfigurationError, IntegrityError, LayerkitError, printable
from .events import Listener, Note
from .fingerprint import Inputs
from .lock import Difference, Lock, LockedBase, LockedCheckpoint, differences, write
from .oci import Digest, Layer
from .state import State

__all__ = ["check_lock", "hashed", "held", "hold", "lock_of", "with_sources", "write_lock"]

_MD5 = "md5"  # kind of record
_WHOLE = re.compile(r"\b(sha256:[0-9a-f]{12})[0-9a-f]{52}\b")


def lock_of(
    inputs: Inputs,
    checkpoint: CheckpointInputs | None,
    layers: Sequence[Layer],
    repository: str,
    before: Lock | None = None,
    dvc: str = "",
) -> Lock:
    """What there is to lock of a build.

    Args:
        checkpoint: all of it known; None where there is none.
        layers: what it became at the destination; none where that is not known.
        repository: that has them now; "" for a destination that is no registry. What a push has locked of the same
            weights stays then.
        before: the lock so far.
        dvc: what DVC calls the checkpoint.
    """
    old = {base.name: base for base in before.bases} if before else {}
    bases = []
    for name, base in inputs.bases.items():
        last = old.get(name)
        if base.digest is None or not base.pinned:
            bases += [last] if last else []  # of the local Docker: its digest means nothing elsewhere
            continue
        kept = last.platforms if last is not None and last.digest == base.digest else {}
        bases.append(LockedBase(name, base.digest, {**kept, **base.manifests}))
    bases.sort(key=lambda base: base.name)
    wanted = inputs.project.checkpoint
    if wanted is None or wanted.placement == "volume":  # nothing is packed
        return Lock(tuple(bases))
    if checkpoint is None or checkpoint.key is None or checkpoint.digest is None:
        return Lock(tuple(bases))
    elsewhere = checkpoint.elsewhere
    files = elsewhere.files if elsewhere is not None else _files(checkpoint)
    locked = LockedCheckpoint(
        wanted.path,
        checkpoint.key,
        checkpoint.digest,
        checkpoint.ownership.plain,
        checkpoint.recipe.settings if not (elsewhere and elsewhere.source) else {},
        checkpoint.location,
        elsewhere.source if elsewhere else "",
        checkpoint.weights,
        dvc,
        repository,
        checkpoint.samples,
        tuple(sorted(files, key=lambda file: file.path)),
        tuple(layer.bare for layer in layers),
    )
    last_one = before.checkpoint if before else None
    if last_one is not None and last_one.key == locked.key:
        known = {file.path: file.digest for file in last_one.files}
        more = tuple(replace(f, digest=f.digest or known.get(f.path)) for f in locked.files)
        locked = replace(locked, dvc=dvc or (last_one.dvc if elsewhere else ""), files=more)
        if (not repository and last_one.repository) or not layers:
            locked = replace(locked, repository=last_one.repository, layers=last_one.layers)
    return Lock(tuple(bases), locked)


def _files(checkpoint: CheckpointInputs) -> tuple[KnownFile, ...]:
    return tuple(KnownFile(file.path, file.size, checkpoint.digests.get(file.path)) for file in checkpoint.files)


def hold(lock: Lock | None, now: Lock, name: str) -> None:
    """Raises where a build would change *lock*.

    Raises:
        ConfigurationError: there is none, or the project says other things.
        IntegrityError: the project says the same, and bytes are others.
    """
    if lock is None:
        raise ConfigurationError(f"--locked: there is no {name}", hint="layerkit build writes it")
    found = differences(lock, now)
    if found:
        raise contradiction(found, f"--locked: {name} would change")


def held(inputs: Inputs, lock: Lock | None, state: State) -> Inputs:
    """*inputs*, all of them known, if they are those of *lock*.

    Raises:
        ConfigurationError, IntegrityError: they are not.
        CheckpointError: a file cannot be read, or changed meanwhile.
    """
    checkpoint, wanted = inputs.checkpoint, inputs.project.checkpoint
    if checkpoint is not None and wanted is not None and wanted.placement != "volume":
        checkpoint = hashed(checkpoint, state)
        inputs = replace(inputs, checkpoint=checkpoint)
    hold(lock, lock_of(inputs, checkpoint, (), "", lock), inputs.project.lock_name)
    return inputs


def write_lock(
    inputs: Inputs,
    checkpoint: CheckpointInputs | None,
    layers: Sequence[Layer],
    repository: str,
    before: Lock | None,
    state: State,
    listener: Listener,
) -> None:
    """What was built, written down: the arguments are those of ``lock_of``.

    The image is there by now: what cannot be written is said, and no failure.
    """
    project, dvc = inputs.project, ""
    if project.lock is None:
        return
    try:
        if checkpoint is not None and project.checkpoint is not None:
            checkpoint, dvc = with_sources(checkpoint, project.checkpoint.path, project.root, state, listener)
        new = lock_of(inputs, checkpoint, layers, repository, before, dvc)
        found = differences(before, new) if before is not None else ()
        if write(project.lock, new):
            # Whole digests are in the file, and in its diff.
            said = _WHOLE.sub(r"\1", "; ".join(map(str, found))) or ("updated" if before is not None else "written")
            listener(Note(f"{project.lock_name}: {said}"))
    except LayerkitError as error:
        listener(Note(f"the image is built, and {project.lock_name} is not written: {error}", "warning"))


def check_lock(lock: Lock | None, inputs: Inputs) -> str:
    """What can be said of *lock* without a registry, and without reading the weights.

    Returns:
        "none" where there is no lock; "agrees"; or "sizes" where the weights were never hashed here, and their sizes
        agree.

    Raises:
        ConfigurationError, IntegrityError: it says other things than the project.
    """
    if lock is None:
        return "none"
    digests = {base.name: base.digest for base in lock.bases}
    bases = [LockedBase(name, digests.get(name, Digest.of(b""))) for name in inputs.bases]
    checkpoint, wanted, locked = inputs.checkpoint, inputs.project.checkpoint, lock.checkpoint
    # A base of the local Docker has no entry: its digest means nothing elsewhere.
    found = [*differences(Lock(lock.bases), Lock(tuple(bases)))] if lock.bases else []
    said = "agrees"
    if checkpoint is None or wanted is None or wanted.placement == "volume" or locked is None:
        here = wanted is not None and wanted.placement != "volume"
        if here != (locked is not None):
            found.append(
                Difference("checkpoint", locked.path if locked else "", wanted.path if here and wanted else "")
            )
    elif checkpoint.elsewhere is not None and not checkpoint.elsewhere.files:
        said = "sizes"  # of an image nobody was asked for
        found += differs(locked, wanted.path, checkpoint.ownership, None)
    else:
        settings = differs(locked, wanted.path, checkpoint.ownership, checkpoint.recipe)
        found += settings
        found += _content_differs(locked, checkpoint, bool(settings))
        said = "agrees" if checkpoint.known else "sizes"
    if found:
        raise contradiction(found, inputs.project.lock_name)
    return said


def _content_differs(
    locked: LockedCheckpoint, checkpoint: CheckpointInputs, settings_differ: bool
) -> Sequence[Difference]:
    if checkpoint.known:
        if checkpoint.digest != locked.digest:
            return [Difference("weights", str(locked.digest), str(checkpoint.digest), True)]
        if checkpoint.key != locked.key and not settings_differ:  # which the key covers
            return [Difference("checkpoint key", locked.key, str(checkpoint.key), True)]
        return []
    files = checkpoint.files
    before, now = {f.path: f.size for f in locked.files}, {f.path: f.size for f in files}
    return [
        Difference(f"size of {printable(path)}", str(before.get(path, "")), str(now.get(path, "")), True)
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path)
    ]


def contradiction(found: Sequence[Difference], what: str) -> LayerkitError:
    """The error for *found*: of the configuration, unless bytes alone are others."""
    kind = IntegrityError if all(item.content for item in found) else ConfigurationError
    return kind(f"{what}: {'; '.join(map(str, found))}", hint="layerkit build without --locked updates it")


def hashed(checkpoint: CheckpointInputs, state: State) -> CheckpointInputs:
    """*checkpoint* with all of it known: read, where the state does not know it.

    Raises:
        CheckpointError: a file cannot be read, or changed meanwhile.
    """
    if checkpoint.known:
        return checkpoint
    read = 0

    def count(more: int) -> None:
        nonlocal read
        read += more

    packer = Packer(checkpoint.blueprints, count, checkpoint.made.hashed() if checkpoint.made else {}).start()
    try:
        done = checkpoint.packed(packer.hashed(), state, count)
    finally:
        packer.stop()
    return replace(done, read=checkpoint.read + read)


def with_sources(
    checkpoint: CheckpointInputs, path: str, root: Path, state: State, listener: Listener
) -> tuple[CheckpointInputs, str]:
    """*checkpoint* with the hashes by which Git LFS and DVC call its files; and what DVC calls it.

    Where the project uses neither, nothing is read. A ``.dvc`` file that is not of these bytes is not believed.

    Raises:
        CheckpointError: a file cannot be read, or changed meanwhile.
    """
    if checkpoint.elsewhere is not None:
        return checkpoint, ""
    unknown = [file for file in checkpoint.files if file.path not in checkpoint.digests]
    if unknown and _in_lfs(root):
        listener(Note(f"hashing {len(unknown)} files of the checkpoint as Git LFS does, for the lock"))
        digests = {**checkpoint.digests, **{file.path: hash_content(file, _nothing) for file in unknown}}
        for file in unknown:
            state.remember_file(file.source, file.identity, digests[file.path])
        checkpoint = replace(checkpoint, digests=digests)
    place = Path(root, Path(path).expanduser())
    try:
        pointer = read_dvc(place)
    except CheckpointError:
        pointer = None
    if pointer is None or pointer.size not in (None, checkpoint.size):
        return checkpoint, ""
    found = {file.path: _md5(file, state, listener) for file in checkpoint.files}
    name = dvc_folder(found) if place.is_dir() else next(iter(found.values()))
    return checkpoint, pointer.hash if pointer.hash == f"md5:{name}" else ""


def _nothing(count: int) -> None:
    pass


def _in_lfs(root: Path) -> bool:
    """Whether a ``.gitattributes`` from the project folder up to its repository's names Git LFS."""
    for folder in (root.absolute(), *root.absolute().parents):
        try:
            with (folder / ".gitattributes").open("rb") as stream:
                if b"filter=lfs" in stream.read(1024 * 1024):
                    return True
        except OSError:
            pass
        if (folder / ".git").exists():
            break
    return False


def _as_md5(value: Any) -> str:
    if not re.fullmatch("[0-9a-f]{32}", value):
        raise ValueError("no MD5")
    return str(value)


def _md5(file: File, state: State, listener: Listener) -> str:
    key = f"{file.source}".encode(errors="backslashreplace").decode() + f" {file.identity}"
    known = state.get(_MD5, key, _as_md5)
    if known is not None:
        return known
    listener(Note(f"hashing {file.path} as DVC does, for the lock"))
    whole = hashlib.md5(usedforsecurity=False)
    buffer = memoryview(bytearray(1024 * 1024))
    for chunk in file.read(0, lambda: buffer):
        whole.update(chunk)
    state.put(_MD5, key, whole.hexdigest())
    return whole.hexdigest()
