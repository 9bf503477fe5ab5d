"""Checkpoints of the Hugging Face Hub: known by the hub's own digests, and downloaded when their bytes are needed.

The only importer of huggingface_hub, and only inside functions: importing it takes half a second. It downloads into
its own cache, where other programs find it, and takes up a download that broke off.

The hub says the sha256 of files in Git LFS or Xet (all weights are), and of small ones the id of their Git blob. Which
sha256 belongs to that is remembered, so that a small file is downloaded once for it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import (
    AuthenticationError,
    CheckpointError,
    ConfigurationError,
    IntegrityError,
    LayerkitError,
    LocalResourceError,
    RefusedError,
    TransientError,
    printable,
)
from ..oci import Digest
from ..state import Identity, State, as_text
from .files import File
from .hubnames import PREFIX, HubPath, chosen

__all__ = ["Hub", "HubFile", "Snapshot"]

_BLOB = "hub-blob"  # kind of record: Git blob id -> sha256
_LISTING = "hub-listing"  # kind of record: repository and commit -> its files
_REFERENCE = "hub-reference"  # kind of record: repository and revision -> the commit that it was
_PAUSE = 10.0  # seconds between two lines on how far it is
_TIMEOUT = 30.0  # seconds for an answer on a repository


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a commit.

    Attributes:
        path: where it goes below the target.
        name: in the repository.
        size: bytes.
        sha256: of its bytes, as the hub says it; "" for a small file that it keeps in Git.
        blob: the id of its Git blob (SHA-1 of a header and its bytes).
    """

    path: str
    name: str
    size: int
    sha256: str
    blob: str


@dataclass(frozen=True)
class Snapshot:
    """The files of one commit that are the checkpoint.

    Attributes:
        place: repository, what is taken of it, and the revision that was asked for.
        commit: what that revision is.
        files: sorted by path.
        digests: path -> sha256 of each.
    """

    place: HubPath
    commit: str
    files: tuple[HubFile, ...]
    digests: Mapping[str, Digest]
    hub: Hub = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """What it is called, with the commit."""
        inside = f"/{self.place.inside}" if self.place.inside else ""
        return f"{PREFIX}{self.place.repository}{inside}@{self.commit[:12]}"

    @property
    def missing(self) -> int:
        """Bytes of the files that are not in this machine's cache."""
        return sum(file.size for file in self.files if self.hub.cached(self, file) is None)

    @property
    def absent(self) -> tuple[File, ...]:
        """The files as they would be here. Their sizes are right; whoever reads one gets a CheckpointError."""
        nowhere = Path("/nonexistent")
        return tuple(File(f.path, nowhere / f.name, Identity(0, 0, f.size, 0, 0)) for f in self.files)

    def local(self) -> tuple[File, ...] | None:
        """The files in this machine's cache; None where one is not there."""
        found = []
        for file in self.files:
            place = self.hub.cached(self, file)
            if place is None:
                return None
            found.append(_found(file, place))
        return tuple(found)

    def fetch(self) -> tuple[File, ...]:
        """The files, downloaded where they are not in the cache.

        Raises:
            LayerkitError: as ``Hub.snapshot``; LocalResourceError where there is no room.
        """
        return tuple(_found(file, self.hub.download(self, file)) for file in self.files)

    def check(self, file: File, digest: Digest) -> None:
        """Raises IntegrityError where *digest* is not what the hub says of *file*."""
        expected = self.digests[file.path]
        if digest != expected:
            raise IntegrityError(
                f"{printable(file.path)} of {self.name} has sha256 {digest.hex}, and the hub says {expected.hex};"
                " nothing was tagged",
                hint=f"it was damaged on its way or in the cache: remove {file.source} and run again",
            )

    def folder(self, files: Sequence[File]) -> str:
        """The path on this machine that *files* are of: the folder, or the one file."""
        first = self.hub.linked(self, self.files[0])
        if first is None or (len(files) == 1 and self.files[0].name == self.place.inside):
            return str(first or "")
        return str(Path(str(first)[: -len(self.files[0].path)]))


def _found(file: HubFile, place: Path) -> File:
    try:
        source = place.resolve(strict=True)
        found = File(file.path, source, Identity.of(source.stat()))
    except OSError as error:
        raise CheckpointError(f"checkpoint: {printable(file.name)}: {error.strerror}") from None
    if found.size != file.size:
        raise IntegrityError(
            f"{printable(file.name)} of the hub's cache has {found.size} bytes, and the hub says {file.size}",
            hint=f"remove {source} and run again",
        )
    return found


def _listed(value: Any) -> list[Any]:
    for entry in value:
        if [type(item) for item in entry] != [str, int, str, str] or (entry[2] and not Digest("sha256", entry[2])):
            raise ValueError("no listing of files")
    return list(value)


class Hub:
    """The hub as *environment* names it.

    Args:
        environment: HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE, HF_HOME and HF_HUB_OFFLINE mean what they mean to
            huggingface_hub.
        note: called with what takes time, in words.
    """

    def __init__(self, environment: Mapping[str, str], note: Callable[[str], object] = lambda text: None) -> None:
        self._environment, self._note = environment, note

    # ------------------------------------------------------------------------------------------------ asking

    def snapshot(self, path: str, state: State) -> Snapshot:
        """What *path* (``hf://…``) names now. Weights are not downloaded for it, small files are at most once.

        Raises:
            ConfigurationError: *path* is none, or huggingface_hub is not installed; offline, and never asked before.
            CheckpointError: no such repository, revision or file.
            AuthenticationError: it is private or gated, and not for us.
            TransientError: the hub cannot be reached. RefusedError: it refuses.
        """
        place = HubPath.parse(path)
        commit, listing = self._listing(place, state)
        where = f"{PREFIX}{place.repository}@{commit[:12]}"
        names = chosen([entry[0] for entry in listing], place.inside, where)
        entries = {name: entry for name, *entry in listing}
        files = tuple(HubFile(path, name, *entries[name]) for path, name in sorted(names.items()))
        snapshot = Snapshot(place, commit, files, {}, self)
        digests = {file.path: self._digest(snapshot, file, state) for file in files}
        return Snapshot(place, commit, files, digests, self)

    def _listing(self, place: HubPath, state: State) -> tuple[str, list[Any]]:
        """The commit, and (name, size, sha256, blob) of each of its files. Of a commit that is known, nothing is
        asked: it cannot have changed."""
        known = self._known(place, place.revision, state) if place.fixed else None
        if known is not None:
            return place.revision, known
        if self._offline:
            commit = state.get(_REFERENCE, self._key(place, place.revision), as_text)
            known = self._known(place, commit, state) if commit is not None else None
            if commit is not None and known is not None:
                self._note(f"offline: {place.revision} of {place.repository} is taken to be {commit[:12]}, as before")
                return commit, known
            raise ConfigurationError(
                f"{PREFIX}{place.repository}: offline (HF_HUB_OFFLINE), and {place.revision} was not asked for before",
                hint="run it once with a connection, or name a commit that this machine knows",
            )
        info = self._asked(place, lambda library: self._api(library).model_info(
            place.repository, revision=place.revision, files_metadata=True, timeout=_TIMEOUT
        ))  # fmt: skip
        commit = str(info.sha or "")
        listing = []
        for item in info.siblings or ():
            lfs = item.lfs
            sha256 = str(lfs.sha256) if lfs is not None else ""
            size = lfs.size if lfs is not None else item.size
            if not commit or not isinstance(size, int) or not (item.blob_id or sha256):
                raise RefusedError(f"{PREFIX}{place.repository}: the hub does not say what its files are")
            listing.append([str(item.rfilename), size, sha256, str(item.blob_id or "")])
        state.put(_LISTING, self._key(place, commit), listing)
        state.put(_REFERENCE, self._key(place, place.revision), commit)
        return commit, listing

    def _key(self, place: HubPath, revision: str) -> str:
        return f"{self._endpoint or ''} {place.repository} {revision}"

    def _known(self, place: HubPath, commit: str, state: State) -> list[Any] | None:
        return state.get(_LISTING, self._key(place, commit), _listed)

    def _digest(self, snapshot: Snapshot, file: HubFile, state: State) -> Digest:
        if file.sha256:
            return Digest("sha256", file.sha256)
        known = state.get(_BLOB, file.blob, Digest.parse)
        if known is not None:
            return known
        place = self.download(snapshot, file)
        raw = place.read_bytes()
        if hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest() != file.blob:
            raise IntegrityError(
                f"{printable(file.name)} of {snapshot.name} is not what the hub says",
                hint=f"remove {place} and run again",
            )
        state.put(_BLOB, file.blob, str(Digest.of(raw)))
        return Digest.of(raw)

    # ------------------------------------------------------------------------------------------------ files

    def cached(self, snapshot: Snapshot, file: HubFile) -> Path | None:
        """The file's bytes in huggingface_hub's cache, where they are there, perhaps for another commit."""
        blob = self._folder(snapshot) / "blobs" / (file.sha256 or file.blob)
        return self.linked(snapshot, file) or (blob if blob.is_file() else None)

    def linked(self, snapshot: Snapshot, file: HubFile) -> Path | None:
        """The file under its name in the commit's folder of the cache."""
        place = self._folder(snapshot) / "snapshots" / snapshot.commit / file.name
        return place if place.is_file() else None

    def _folder(self, snapshot: Snapshot) -> Path:
        return Path(self._cache, f"models--{snapshot.place.repository.replace('/', '--')}")

    def download(self, snapshot: Snapshot, file: HubFile) -> Path:
        """The file in huggingface_hub's cache, downloaded where it is not there. A part of it is taken up again."""
        found = self.linked(snapshot, file)
        if found is not None:
            return found
        if file.size > 32 * 1024 * 1024 and self.cached(snapshot, file) is None:
            self._note(f"downloading {printable(file.name)} ({file.size / 2**30:.2f} GiB) of {snapshot.name}")
        place = self._asked(
            snapshot.place,
            lambda library: library.hf_hub_download(
                snapshot.place.repository,
                file.name,
                revision=snapshot.commit,
                cache_dir=self._cache,
                endpoint=self._endpoint,
                token=self._token,
                library_name="layerkit",
                tqdm_class=_bar(library, self._note, file.name),
            ),
        )
        return Path(place)

    # ------------------------------------------------------------------------------------------------ surroundings

    @property
    def _endpoint(self) -> str | None:
        return self._environment.get("HF_ENDPOINT", "").rstrip("/") or None

    @property
    def _token(self) -> str | None:
        return self._environment.get("HF_TOKEN", "").strip() or None

    @property
    def _offline(self) -> bool:
        return self._environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")

    @property
    def _cache(self) -> str:
        """huggingface_hub, "Environment variables"."""
        given = self._environment.get("HF_HUB_CACHE") or self._environment.get("HUGGINGFACE_HUB_CACHE")
        base = self._environment.get("XDG_CACHE_HOME") or str(Path(self._environment.get("HOME", "~"), ".cache"))
        home = self._environment.get("HF_HOME") or str(Path(base, "huggingface"))
        return str(Path(given or str(Path(home, "hub"))).expanduser())

    def _api(self, library: Any) -> Any:
        return library.HfApi(endpoint=self._endpoint, token=self._token, library_name="layerkit")

    def _asked(self, place: HubPath, ask: Callable[[Any], Any]) -> Any:
        library = _library()
        logging = library.utils.logging
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # its warnings show addresses that are signed
        try:
            return ask(library)
        except LayerkitError:
            raise
        except Exception as error:  # noqa: BLE001 - the library's HTTP client has errors of its own, which change
            raise self._explained(library, place, error) from None
        finally:
            logging.set_verbosity(verbosity)

    def _explained(self, library: Any, place: HubPath, error: Exception) -> LayerkitError:
        where = f"{PREFIX}{place.repository}"
        errors = library.errors
        status = getattr(getattr(error, "response", None), "status_code", 0)
        said = printable(str(error).strip().split("\n")[0], 200)
        if self._token:
            said = said.replace(self._token, "…")
        if isinstance(error, errors.GatedRepoError) or status == 403:
            return AuthenticationError(
                f"{where}: the hub does not let us read it (HTTP {status})",
                hint=f"accept its terms at {self._endpoint or 'https://huggingface.co'}/{place.repository}, and set"
                " HF_TOKEN to a token that may read it",
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return CheckpointError(
                f"checkpoint: {where}: no revision {printable(place.revision)!r}", hint="a branch, a tag or a commit"
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            hint = "check the name" + ("" if self._token else "; for a private model set HF_TOKEN")
            return CheckpointError(f"checkpoint: {where}: no such model on the hub (HTTP {status})", hint=hint)
        if status == 401:
            return AuthenticationError(f"{where}: the hub does not accept the token", hint="set HF_TOKEN to another")
        if isinstance(error, errors.OfflineModeIsEnabled):
            return ConfigurationError(
                f"{where}: offline (HF_HUB_OFFLINE), and not all of it is in the cache {self._cache}",
                hint="run it once with a connection",
            )
        if isinstance(error, errors.EntryNotFoundError) and status == 404:
            return CheckpointError(f"checkpoint: {where}: a file of it is gone", hint="run again: it was changed")
        if isinstance(error, OSError) and error.errno is not None and not status:
            return LocalResourceError(f"{self._cache}: {error.strerror}", hint="HF_HUB_CACHE names another folder")
        if status in (408, 429) or status >= 500 or not status:
            answer = f"HTTP {status}" if status else f"{type(error).__name__}: {said}"
            return TransientError(f"{where}: the hub cannot be asked ({answer})")
        return RefusedError(f"{where}: the hub refuses: HTTP {status}: {said}")


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise ConfigurationError(
            "checkpoint.path: hf:// needs the package huggingface_hub", hint="pip install 'layerkit[hf]'"
        ) from None
    return huggingface_hub


def _bar(library: Any, note: Callable[[str], object], name: str) -> type[Any]:
    """A progress bar that draws none: what has come is said in words now and then."""

    class Bar(library.utils.tqdm):  # type: ignore[misc]  # the library is Any, for it may not be installed
        def __init__(self, *args: Any, **options: Any) -> None:
            self._came, self._told = 0, time.monotonic()
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self._came += int(n or 0)
            if time.monotonic() - self._told > _PAUSE:
                self._told = time.monotonic()
                note(f"{printable(name)}: {self._came / 2**30:.2f} GiB downloaded")
            return None

    return Bar
