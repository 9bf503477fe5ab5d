"""Base images: which digest a reference means now, how many layers it has, and whose it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, LayerkitError, LocalResourceError
from .events import Listener, Note
from .fingerprint import Base
from .oci import Config, Digest, Index, Manifest, Platform, Reference
from .state import State, as_text

if TYPE_CHECKING:
    from .engine import Engine
    from .registry import Client

__all__ = ["Bases", "remembered_user"]


def remembered_user(state: State, text: str) -> str:
    """The USER of the base image *text* when it was last looked up here; "" where it never was."""
    return state.get("base-user", str(Reference.parse(text).or_latest()), as_text) or ""


class Bases:
    """Looks base images up in their registries, else in the local Docker.

    Args:
        client, engine: made when they are first needed.
        platforms: of which the layers are counted.
        locked: reference -> digest that is taken instead of what the tag means now.
    """

    def __init__(
        self,
        client: Callable[[], Client],
        engine: Callable[[], Engine],
        state: State,
        platforms: Sequence[str],
        listener: Listener,
        locked: Mapping[str, Digest] | None = None,
    ) -> None:
        self._locked = locked or {}
        self._client = client
        self._engine = engine
        self._state = state
        self._platforms = platforms
        self._listener = listener

    def resolve(self, text: str) -> Base:
        """Digest, layers and user of a base image: from its registry, else from the local Docker."""
        reference = Reference.parse(text).or_latest()
        held = self._locked.get(text)
        if held is not None:
            found = self._in_registry(reference, held)
            if found is None:
                raise ConfigurationError(
                    f"base image {text}: its registry does not have {held} any more, which is locked",
                    hint="layerkit build without --locked takes what the tag means now",
                )
            return found
        try:
            found = self._in_registry(reference)
        except ConfigurationError:
            raise
        except LayerkitError as error:
            local = self._in_docker(text)
            if local is None:
                self._listener(Note(f"base {text}: {error}; its digest is not pinned", "warning"))
            return local or Base(user=remembered_user(self._state, text), triggers=True)
        if found is None:
            found = self._in_docker(text)
        if found is None:
            raise ConfigurationError(
                f"base image {text}: not found in its registry or the local Docker", hint="check image.base"
            )
        return found

    def _in_registry(self, reference: Reference, held: Digest | None = None) -> Base | None:
        repository = self._client().repository(reference)
        descriptor = repository.resolve(held or reference.digest or reference.tag)
        if descriptor is None:
            return None
        key = f"{descriptor.digest} {' '.join(self._platforms)}"
        known = self._state.get("base", key, _known)
        if known is None:
            counts: dict[str, int] = {}
            manifests: dict[str, str] = {}
            others: dict[str, str] = {}
            user = ""
            triggers = False
            top = repository.manifest(descriptor.digest)
            for platform in self._platforms:
                wanted = Platform.parse(platform)
                manifest = top
                if isinstance(top, Index):
                    child = top.find(wanted)
                    if child is None:
                        others[platform] = _platforms_of(top)
                        continue
                    manifest = repository.manifest(child.digest)
                if isinstance(manifest, Manifest):
                    config = Config.parse(repository.blob(manifest.config), manifest.config.media_type)
                    counts[platform] = len(manifest.layers)
                    manifests[platform] = str(manifest.digest)
                    user = config.user
                    triggers = triggers or bool(config.settings.get("OnBuild"))
                    found = Platform.from_json(config.document)
                    if manifest is top and _is_another(found, wanted):
                        others[platform] = str(found)
            record = {"layers": counts, "user": user, "manifests": manifests, "others": others, "triggers": triggers}
            self._state.put("base", key, record)
            known = _known(record)
        self._state.put("base-user", str(reference), known.user)
        return replace(known, digest=descriptor.digest)

    def _in_docker(self, text: str) -> Base | None:
        with contextlib.suppress(LocalResourceError):
            image = self._engine().image(text)
            if image is not None:
                layers = len((image.get("RootFS") or {}).get("Layers") or ())
                counts = dict.fromkeys(self._platforms, layers)
                found = Platform(str(image.get("Os") or ""), str(image.get("Architecture") or ""))
                for platform in self._platforms:
                    if _is_another(found, Platform.parse(platform)):  # a containerd store may hold both
                        self._listener(
                            Note(f"base {text}: the local Docker shows {found} of it, not {platform}", "warning")
                        )
                config = image.get("Config") or {}
                user, triggers = str(config.get("User") or ""), bool(config.get("OnBuild"))
                return Base(Digest.parse(str(image["Id"])), counts, pinned=False, user=user, triggers=triggers)
        return None


def _known(record: Any) -> Base:
    return Base(
        layers={as_text(platform): int(count) for platform, count in record["layers"].items()},
        user=as_text(record["user"]),
        manifests={platform: Digest.parse(digest) for platform, digest in record["manifests"].items()},
        others={platform: as_text(said) for platform, said in record["others"].items()},
        triggers=bool(record["triggers"]),
    )


def _platforms_of(index: Index) -> str:
    return ", ".join(dict.fromkeys(str(image.platform) for image in index.images)) or "no image"


def _is_another(found: Platform, wanted: Platform) -> bool:
    """Certainly so: of variants many run on others, and what an image does not say is nobody's to guess."""
    pairs = ((found.os, wanted.os), (found.architecture, wanted.architecture))
    return any(has not in ("unknown", "", wants) for has, wants in pairs)
