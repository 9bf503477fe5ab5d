"""What a registry holds: runtime and checkpoint images, and what the other tags use of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from ..assemble import PREFIX
from ..destinations.base import checkpoint_tag, runtime_tag
from ..destinations.registry import CACHE_TAG
from ..errors import ConfigurationError, IntegrityError, LayerkitError
from ..oci import MEDIA, Config, Descriptor, Digest, Index, Manifest, Reference
from ..project import Project
from ..registry import Client, Credentials, Repository
from ..settings import Settings
from .judge import Live, Stored, kind_of

__all__ = ["Found", "Survey", "survey_of"]

_JOBS = 8  # requests at a time
_DEPTH = 4  # indexes in indexes
# Dates before are of reproducible builds (SOURCE_DATE_EPOCH=0 and what ZIP can express): they say nothing of an age.
_FIRST_DATE = datetime(1981, 1, 1, tzinfo=UTC)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Found:
    """One look. ``stored``: in the cache's repository; ``live``: there and in the others."""

    stored: tuple[Stored, ...]
    live: tuple[Live, ...]


@dataclass
class _Content:
    """What a manifest or index and all below it name."""

    manifests: set[Digest] = field(default_factory=set)
    blobs: dict[Digest, int] = field(default_factory=dict)
    facts: list[Mapping[str, str]] = field(default_factory=list)  # labels and annotations, of each image
    created: datetime | None = None


class Survey:
    """Looks at repositories; what it has read once, by digest, it does not read again.

    Args:
        cache: the repository that has the runtime and checkpoint images.
        others: further ones whose images use them.
    """

    def __init__(self, cache: Repository, others: Sequence[Repository] = ()) -> None:
        self.cache = cache
        self._repositories = list({found.name: found for found in (*others, cache)}.values())
        self._read: dict[tuple[str, Digest], _Content] = {}

    def look(self) -> Found:
        """All tags, as they are now.

        Raises:
            ConfigurationError: there is not one image: most likely a name is wrong.
            IntegrityError: a tag cannot be read, so that nobody knows what it uses.
            LayerkitError: as the registry's answers have it.
        """
        tags = [(repository, tag) for repository in self._repositories for tag in repository.tags()]
        named = zip(tags, _each(lambda pair: pair[0].resolve(pair[1]), tags), strict=True)
        there = [(repository, tag, found) for (repository, tag), found in named if found is not None]
        contents = _each(lambda row: self._content(*row), there)
        stored: list[Stored] = []
        live: list[Live] = []
        for (repository, tag, descriptor), content in zip(there, contents, strict=True):
            parts = (frozenset(content.manifests), content.blobs)
            if repository is self.cache and kind_of(tag):
                stored.append(Stored(tag, descriptor.digest, content.created, *parts))
            else:
                uses, unclear = _uses(content.facts)
                live.append(Live(f"{repository.name}:{tag}", descriptor.digest, uses, unclear, *parts))
        if stored and not any(not image.name.endswith(f":{CACHE_TAG}") for image in live):
            raise ConfigurationError(
                f"prune: {', '.join(r.name for r in self._repositories)}: no image is tagged there, so nothing says"
                " what is in use",
                hint="is image.name right? if nothing there is needed any more, delete the repository",
            )
        return Found(tuple(stored), tuple(live))

    def _content(self, repository: Repository, tag: str, descriptor: Descriptor) -> _Content:
        key = (repository.name, descriptor.digest)
        if key not in self._read:
            content = _Content()
            try:
                self._walk(repository, descriptor.digest, content, _DEPTH)
            except IntegrityError as error:
                if tag == CACHE_TAG:  # BuildKit's: it uses nothing of ours, and is not deleted
                    return _Content({descriptor.digest})
                raise IntegrityError(
                    f"prune: the tag {tag!r} of {repository.name} cannot be read, so nobody knows what it uses;"
                    f" nothing was deleted: {error.message}",
                    hint="push it again, or delete that tag",
                ) from None
            self._read[key] = content
        return self._read[key]

    def _walk(self, repository: Repository, digest: Digest, content: _Content, depth: int) -> None:
        if digest in content.manifests:
            return
        top = repository.manifest(digest)
        if top is None:
            raise IntegrityError(f"the manifest {digest.short} is not there")
        content.manifests.add(digest)
        content.facts.append(top.annotations)
        # What says that it belongs to another manifest (signatures, SBOMs) keeps that one.
        subject = json.loads(top.raw).get("subject")
        if isinstance(subject, dict) and subject.get("digest"):
            content.manifests.add(Digest.parse(str(subject["digest"])))
        if isinstance(top, Index):
            if depth == 0:
                raise IntegrityError(f"indexes in indexes, more than {_DEPTH} deep")
            for child in top.manifests:
                if child.media_type in (*MEDIA.MANIFESTS, *MEDIA.INDEXES):
                    self._walk(repository, child.digest, content, depth - 1)
                else:  # the older form of BuildKit's cache: its "manifests" are blobs
                    content.blobs[child.digest] = child.size
            return
        content.blobs |= {blob.digest: blob.size for blob in (top.config, *top.layers)}
        if top.config.media_type in (MEDIA.CONFIG, MEDIA.DOCKER_CONFIG):
            self._configuration(repository, top, content)

    def _configuration(self, repository: Repository, manifest: Manifest, content: _Content) -> None:
        try:
            config = Config.parse(repository.blob(manifest.config), manifest.config.media_type)
        except LayerkitError as error:
            if error.exit_status in (6, 8):  # not there, not whole, or no configuration
                raise IntegrityError(error.message) from None
            raise
        content.facts.append(config.labels)
        created = _date(config.document.get("created"))
        if created is not None and (content.created is None or created > content.created):
            content.created = created


@contextmanager
def survey_of(project: Project, others: Sequence[str], settings: Settings) -> Iterator[Survey]:
    """Of the repositories of *project*: its cache's, its image's, and the *others* that are named to it.

    Raises:
        ConfigurationError: a name is no repository's.
    """
    home = Reference.parse(project.image.name)
    cache = Reference.parse(project.cache.repository) if project.cache.repository else home
    with Client(
        credentials=Credentials(settings.docker_config, settings.environment),
        proxies=settings.proxies,
        ca_bundle=settings.ca_bundle,
    ) as client:
        yield Survey(
            client.repository(cache), [client.repository(name) for name in (home, *map(Reference.parse, others))]
        )


def _uses(facts: Iterable[Mapping[str, str]]) -> tuple[frozenset[str], bool]:
    """Tags of runtime and checkpoint images that labels and annotations speak of; and whether one stays unsaid."""
    uses: set[str] = set()
    mounts = says = False
    for known in facts:
        if key := known.get(PREFIX + "runtime"):
            uses.add(runtime_tag(key))
        if key := known.get(PREFIX + "checkpoint"):
            uses.add(checkpoint_tag(key))
            says = True
        mounts |= known.get(PREFIX + "placement") == "artifact"
    return frozenset(uses), mounts and not says


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
