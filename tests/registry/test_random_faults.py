"""Whatever goes wrong, in whatever order: the tag is the old or the new image, whole; or an error says why not."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from layerkit.errors import LayerkitError, TransientError
from layerkit.oci import Manifest
from layerkit.registry import Credentials, Login
from layerkit.testing import PROFILES, FakeRegistry
from registry.support import Connect, Data, image, pattern

OLD, NEW = pattern(1000, 1), pattern(700_000, 2)
RETRIES = 5

faults = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["", "POST", "PATCH", "PATCH", "PUT", "HEAD", "GET"]),
        "path": st.sampled_from(["", "/v2/", "manifests", "uploads", "^/token"]),
        "skip": st.integers(0, 4),
        "times": st.integers(1, 3),
    }
)
what = st.one_of(
    st.fixed_dictionaries({"action": st.just("reset"), "after_bytes": st.integers(0, len(NEW))}),
    st.fixed_dictionaries({"action": st.just("cut"), "after_bytes": st.integers(0, 500)}),
    st.fixed_dictionaries({"action": st.just("lost")}),
    st.fixed_dictionaries({"status": st.sampled_from([408, 429, 500, 502, 503, 504, 522])}),
    st.fixed_dictionaries(
        {"status": st.sampled_from([400, 401, 403, 404, 405, 413, 416]), "after_bytes": st.integers(0, len(NEW))}
    ),
    st.sampled_from(["expire_tokens", "forget_sessions"]).map(lambda name: {"call": name}),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    profile=st.sampled_from(sorted(PROFILES)),
    script=st.lists(st.tuples(faults, what), max_size=6),
    chunk=st.sampled_from([None, 65536, 300_000]),
)
def test_the_tag_is_the_old_or_the_new_image(
    profile: str, script: list[tuple[dict[str, Any], dict[str, Any]]], chunk: int | None
) -> None:
    """Random faults at random places: the tag names a whole image, sent bytes are bounded, no secret is said."""
    connect = Connect()
    with FakeRegistry(profile, users={"ada": "canary-password"}) as registry:
        old, new = image(OLD), image(NEW)
        registry.push("team/model", "v1", old, [OLD])
        for place, fault in script:
            options = {**place, **fault}
            if "call" in fault:
                name = fault["call"]
                options["call"] = lambda request, name=name: getattr(registry, name)()
            registry.fail(**options)
        logins = Credentials.of({registry.host: Login("ada", "canary-password")})
        repository = connect(registry, credentials=logins, retries=RETRIES)
        data, failed = Data(NEW), ""
        try:
            if not repository.present(new.manifest.layers[0]):
                repository.upload(data, chunk=chunk)
            repository.put_blob(new.config.raw)
            repository.put_manifest(new.manifest, "v1")
        except LayerkitError as error:
            failed = f"{error} {error.hint}"
            event(type(error).__name__)
            assert "canary" not in failed
            assert error.message.isprintable()
        finally:
            for client in connect.clients:
                client.close()
        faults_hit = sum(fault.hits for fault in registry._faults)
        now = registry.tag("team/model", "v1")
        assert now in (old.manifest.digest, new.manifest.digest)
        if not failed and profile != "immutable-tags":
            assert now == new.manifest.digest
        if not script:
            assert not failed or profile == "immutable-tags"
        raw, _ = registry._repositories["team/model"].manifests[str(now)]
        manifest = Manifest.parse(raw)
        for descriptor in (manifest.config, *manifest.layers):
            content = registry.blob("team/model", descriptor.digest)
            assert content is not None
            assert len(content) == descriptor.size
        assert data.served <= len(NEW) * (faults_hit + 4)
        assert registry.errors == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    profile=st.sampled_from(["strict", "distribution-2.8", "acr-noresume", "ghcr-4mib", "ecr-201"]),
    breaks=st.lists(st.integers(0, len(NEW)), max_size=RETRIES),
    lost=st.integers(0, 1),
)
def test_broken_lines_alone_stop_nothing(profile: str, breaks: list[int], lost: int) -> None:
    """Up to as many breaks as there are retries, wherever they are: the upload succeeds."""
    connect = Connect()
    with FakeRegistry(profile) as registry:
        for after in breaks[: RETRIES - lost]:
            registry.fail(method="PATCH", action="reset", after_bytes=after)
        registry.fail(method="PUT", action="lost", times=lost)
        data = Data(NEW)
        try:
            connect(registry, retries=RETRIES).upload(data)
        except TransientError as error:
            raise AssertionError(f"gave up: {error}") from error
        finally:
            for client in connect.clients:
                client.close()
        assert registry.blob("team/model", data.descriptor.digest) == NEW
