"""What a registry holds: runtime and checkpoint images, and what the other tags use of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TypeVar

from ..errors import ConfigurationError, IntegrityError, LayerkitError
from ..events import Listener, Note, silent
from ..names import CACHE_TAG, CHECKPOINT_KEY, PLACEMENT, PREFIX, RUNTIME_KEY, checkpoint_tag, runtime_tag
from ..oci import CREATED, MEDIA, Config, Digest, Index, Manifest
from ..registry import Repository
from .judge import KINDS, Live, Stored, kind_of

__all__ = ["Found", "Survey"]

_JOBS = 8  # requests at a time
_DEPTH = 4  # indexes in indexes
_MANY = 200  # tags: reading them is worth a line
# Dates before are of reproducible builds (SOURCE_DATE_EPOCH=0 and what ZIP can express): they say nothing of an age.
_FIRST_DATE = datetime(1981, 1, 1, tzinfo=UTC)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Found:
    """One look. ``stored``: runtime and checkpoint images; ``live``: all other tags; ``empty``: names of repositories
    without any tag."""

    stored: tuple[Stored, ...]
    live: tuple[Live, ...]
    empty: tuple[str, ...] = ()


@dataclass
class _Content:
    """What a manifest or index, and all below it, name. ``manifests``: itself first; ``subjects``: what they are of."""

    manifests: dict[Digest, Manifest | Index] = field(default_factory=dict)
    subjects: set[Digest] = field(default_factory=set)
    blobs: dict[Digest, int] = field(default_factory=dict)
    uses: set[str] = field(default_factory=set)
    may_use: set[str] = field(default_factory=set)
    why: str = ""
    detail: str = ""
    created: datetime | None = None
    broken: bool = False


class Survey:
    """Looks at repositories; what it has read once, by digest, it does not read again.

    Args:
        repositories: those of the images, and those that keep their runtime and checkpoint images.
        unrelated: tags, or patterns of tags (``*``, ``?``), of images that use no more than they say.
        listener: is told of what takes long.
    """

    def __init__(
        self, repositories: Sequence[Repository], *, unrelated: Sequence[str] = (), listener: Listener = silent
    ) -> None:
        self.repositories: Mapping[str, Repository] = {repository.name: repository for repository in repositories}
        self._unrelated = tuple(unrelated)
        self._listener = listener
        self._read: dict[tuple[str, Digest], _Content] = {}
        self._told = False

    def look(self) -> Found:
        """All tags, as they are now.

        Raises:
            ConfigurationError: there is not one image: most likely a name is wrong.
            LayerkitError: as the registry's answers have it.
        """
        listed = {repository.name: repository.tags() for repository in self.repositories.values()}
        tags = [(self.repositories[name], tag) for name, found in listed.items() for tag in found]
        if len(tags) > _MANY and not self._told:
            self._told = True
            self._listener(Note(f"reading {len(tags)} tags"))
        stored: list[Stored] = []
        live: list[Live] = []
        named = _each(lambda pair: _resolved(*pair), tags)
        contents = self._contents(
            {(repository.name, digest) for (repository, _), digest in zip(tags, named, strict=True)
             if isinstance(digest, Digest)}
        )  # fmt: skip
        for (repository, tag), answer in zip(tags, named, strict=True):
            if answer is None:  # gone meanwhile; or it names nothing, and nobody can pull it
                continue
            digest = answer if isinstance(answer, Digest) else None
            content = contents[repository.name, answer] if isinstance(answer, Digest) else _unreadable(answer)
            manifests, blobs = frozenset({*content.manifests, *((digest,) if digest else ())}), content.blobs
            if kind_of(tag):
                if digest is not None:
                    stored.append(Stored(repository.name, tag, digest, content.created, manifests, blobs))
                continue
            unrelated = tag == CACHE_TAG or any(fnmatchcase(tag, pattern) for pattern in self._unrelated)
            live.append(
                Live(
                    f"{repository.name}:{tag}",
                    digest,
                    frozenset(content.uses),
                    frozenset() if unrelated else frozenset(content.may_use),
                    content.why,
                    content.detail,
                    content.broken and not unrelated,
                    manifests | content.subjects,
                    blobs,
                )
            )
        if stored and all(image.tag == CACHE_TAG for image in live):
            raise ConfigurationError(
                f"prune: {', '.join(self.repositories)}: no image is tagged there, so nothing says what is in use",
                hint="name the repositories of the images too; if nothing is needed any more, delete the repository",
            )
        return Found(tuple(stored), tuple(live), tuple(name for name, found in listed.items() if not found))

    def manifests(self, stored: Stored) -> tuple[Manifest | Index, ...]:
        """What *stored* was when it was read, itself first; nothing where it could not be."""
        content = self._read.get((stored.repository, stored.digest))
        return tuple(content.manifests.values()) if content is not None else ()

    def _contents(self, keys: Set[tuple[str, Digest]]) -> Mapping[tuple[str, Digest], _Content]:
        """What each manifest (repository, digest) and all below it name."""
        wanted = sorted(keys - self._read.keys())
        for key, content in zip(wanted, _each(self._content, wanted), strict=True):
            self._read[key] = content
        found = {key: self._read[key] for key in keys}
        for key in [key for key, content in found.items() if content.broken]:
            del self._read[key]  # it may be mended by the next look
        return found

    def _content(self, key: tuple[str, Digest]) -> _Content:
        content = _Content()
        try:
            self._walk(self.repositories[key[0]], key[1], content, _DEPTH)
        except LayerkitError as error:
            if error.exit_status not in (6, 8):  # what the registry will not, or cannot now, says nothing of it
                raise
            return _unreadable(error)
        return content

    def _walk(self, repository: Repository, digest: Digest, content: _Content, depth: int) -> None:
        if digest in content.manifests:
            return
        found = repository.manifest(digest)
        if found is None:
            raise IntegrityError(f"the manifest {digest.short} is not there")
        content.manifests[digest] = found
        # What says that it belongs to another manifest (signatures, SBOMs) keeps that one.
        subject = json.loads(found.raw).get("subject")
        if isinstance(subject, dict) and subject.get("digest"):
            content.subjects.add(Digest.parse(str(subject["digest"])))
        if isinstance(found, Manifest):
            self._image(repository, found, content)
            return
        if depth == 0:
            raise IntegrityError(f"indexes in indexes, more than {_DEPTH} deep")
        _note_uses(found.annotations, content)
        for child in found.manifests:
            if child.media_type in (*MEDIA.MANIFESTS, *MEDIA.INDEXES):
                self._walk(repository, child.digest, content, depth - 1)
            else:  # the older form of BuildKit's cache: its "manifests" are blobs
                content.blobs[child.digest] = child.size

    def _image(self, repository: Repository, manifest: Manifest, content: _Content) -> None:
        content.blobs |= {blob.digest: blob.size for blob in (manifest.config, *manifest.layers)}
        facts, date = manifest.annotations, manifest.annotations.get(CREATED)
        runs = False  # rather than a signature, an attestation, a chart or BuildKit's cache
        if manifest.config.media_type in (MEDIA.CONFIG, MEDIA.DOCKER_CONFIG):
            config = Config.parse(repository.blob(manifest.config), manifest.config.media_type)
            facts = {**config.labels, **facts}
            date = date or config.document.get("created")
            runs = any(".tar" in layer.media_type for layer in manifest.layers)
        created = _date(date)
        if created is not None and (content.created is None or created > content.created):
            content.created = created
        _note_uses(facts, content)
        if facts.get(CHECKPOINT_KEY):
            return
        if facts.get(PLACEMENT) == "artifact":
            content.may_use.add("checkpoint")
            content.why = "mounts a checkpoint image, and does not say which"
        elif runs and not any(name.startswith(PREFIX) for name in facts):
            content.may_use.add("checkpoint")
            content.why = "is not of layerkit, and may mount a checkpoint image"


def _note_uses(facts: Mapping[str, str], content: _Content) -> None:
    """Tags of runtime and checkpoint images that labels or annotations speak of."""
    if key := facts.get(RUNTIME_KEY):
        content.uses.add(runtime_tag(key))
    if key := facts.get(CHECKPOINT_KEY):
        content.uses.add(checkpoint_tag(key))


def _resolved(repository: Repository, tag: str) -> Digest | IntegrityError | None:
    """The digest that *tag* names; the error where that is no manifest, or a form of one that we do not know."""
    try:
        descriptor = repository.resolve(tag)
    except IntegrityError as error:
        return error
    return descriptor.digest if descriptor else None


def _unreadable(error: LayerkitError) -> _Content:
    return _Content(may_use=set(KINDS), why="cannot be read, and may use it", detail=error.message, broken=True)


def _date(text: object) -> datetime | None:
    """An image's ``created`` (RFC 3339, section 5.6)."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return found if found >= _FIRST_DATE else None


def _each(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """*work* on each of *items*, some at a time; their results in order."""
    pool = ThreadPoolExecutor(_JOBS)
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
