"""The distribution specification's conformance checks, by their names, on every registry that we have.

https://github.com/opencontainers/distribution-spec/tree/v1.1.1/conformance: 01_pull, 02_push, 03_discovery,
04_management; one test for each of its contexts, the checks in its docstring. They speak plain HTTP through urllib3,
not through our client. Each repository is a new one, so its teardown is not needed. Where the suite lets a registry
choose (POST with a body, deleting, referrers, mounting without ``from``), either answer passes, as there.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import pytest
import urllib3

from layerkit.oci import MEDIA, Digest, Image, Manifest, dump
from layerkit.testing import FakeRegistry
from registry.support import image, pattern
from registry.test_real_registry import PROGRAM, Real

BLOB = pattern(50_000, 5)
NONE = Digest.of(b"nobody has this")


@dataclass
class Suite:
    """One repository of a registry, by plain HTTP. ``whole``: it is to do all that the specification leaves open."""

    pool: urllib3.PoolManager
    url: str
    name: str
    whole: bool

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.pool.request(method, urljoin(f"{self.url}/v2/{self.name}/", path), body=body, headers=named)

    def begin(self) -> str:
        answer = self.ask("POST", "blobs/uploads/")
        assert answer.status == 202
        return str(answer.headers["Location"])

    def put(self, location: str, digest: Digest, body: bytes = b"", **headers: str) -> urllib3.BaseHTTPResponse:
        joint = "&" if "?" in location else "?"
        headers = {"Content_Type": "application/octet-stream", **headers}
        return self.ask("PUT", f"{location}{joint}digest={digest}", body, **headers)

    def blob(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        assert self.put(self.begin(), digest, content).status == 201
        return digest

    def manifest(self, document: Manifest | bytes, reference: str) -> urllib3.BaseHTTPResponse:
        raw = document if isinstance(document, bytes) else document.raw
        return self.ask("PUT", f"manifests/{reference}", raw, Content_Type=MEDIA.MANIFEST)

    def image(self, *tags: str, created: str = "") -> Image:
        made = image(BLOB, created=created)
        for content in (BLOB, made.config.raw):
            self.blob(content)
        for reference in (*tags, str(made.manifest.digest)):
            assert self.manifest(made.manifest, reference).status == 201
        return made


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    started = Real(tmp_path_factory.mktemp("conformance") / "registry")
    yield started
    started.kill()


@pytest.fixture(
    params=[
        "strict",
        "distribution-2.8",
        pytest.param("docker-registry", marks=pytest.mark.skipif(PROGRAM is None, reason="docker-registry is missing")),
    ]
)
def suite(request: pytest.FixtureRequest) -> Iterator[Suite]:
    name = f"conformance/{uuid.uuid4().hex[:8]}"
    with urllib3.PoolManager(retries=False) as pool:
        if request.param == "docker-registry":
            yield Suite(pool, f"http://{request.getfixturevalue('real').host}", name, False)
        else:
            with FakeRegistry(request.param) as registry:
                yield Suite(pool, registry.url, name, request.param == "strict")
                assert registry.errors == []


# ------------------------------------------------------------------------------------------------ 01 pull


def test_pull_blobs(suite: Suite) -> None:
    """Pull blobs: HEAD and GET of a nonexistent blob are 404, of an existing one 200."""
    suite.image("v1")
    for method in ("HEAD", "GET"):
        assert suite.ask(method, f"blobs/{NONE}").status == 404
        found = suite.ask(method, f"blobs/{Digest.of(BLOB)}")
        assert (found.status, found.headers["Content-Length"]) == (200, str(len(BLOB)))
        assert found.headers.get("Docker-Content-Digest", str(Digest.of(BLOB))) == str(Digest.of(BLOB))
    assert found.data == BLOB


def test_pull_manifests(suite: Suite) -> None:
    """Pull manifests: nonexistent 404; manifest[0] and manifest[1] by digest, and one by tag, 200, by HEAD and GET."""
    first, second = suite.image("v1"), suite.image(created="2026-01-01T00:00:00Z")
    for method in ("HEAD", "GET"):
        for unknown in (".INVALID_MANIFEST_NAME", str(NONE)):
            assert suite.ask(method, f"manifests/{unknown}", Accept=MEDIA.MANIFEST).status == 404
        for reference, made in (("v1", first), *((str(one.manifest.digest), one) for one in (first, second))):
            found = suite.ask(method, f"manifests/{reference}", Accept=MEDIA.MANIFEST)
            assert (found.status, found.headers["Content-Type"]) == (200, MEDIA.MANIFEST)
            assert found.headers["Docker-Content-Digest"] == str(made.manifest.digest)
            assert found.data == (b"" if method == "HEAD" else made.manifest.raw)


def test_pull_error_codes(suite: Suite) -> None:
    """Error codes: the body of a 400 is JSON as the specification has it."""
    suite.image("v1")
    answer = suite.manifest(b'"totally wrong"', "sha256:totallywrong")
    assert answer.status in (400, 404)
    if answer.status == 400:
        errors = json.loads(answer.data)["errors"]
        assert errors and all(one["code"].isupper() for one in errors)


# ------------------------------------------------------------------------------------------------ 02 push


def test_push_streamed(suite: Suite) -> None:
    """Blob upload streamed: PATCH with the blob is 202, PUT to the session's address with the digest 201."""
    patch = suite.ask("PATCH", suite.begin(), BLOB, Content_Type="application/octet-stream")
    assert patch.status == 202
    put = suite.put(patch.headers["Location"], Digest.of(BLOB))
    assert (put.status, bool(put.headers["Location"])) == (201, True)


def test_push_monolithic(suite: Suite) -> None:
    """Blob upload monolithic: nonexistent 404; POST with digest and blob 201 or 202; PUT 201, then GET 200."""
    small = b"a configuration"
    assert suite.ask("GET", f"blobs/{NONE}").status == 404
    post = suite.ask("POST", f"blobs/uploads/?digest={Digest.of(small)}", small, Content_Length=str(len(small)))
    assert post.status in ((201,) if suite.whole else (201, 202))
    assert suite.ask("GET", f"blobs/{Digest.of(small)}").status == (200 if post.status == 201 else 404)
    for content in (small, BLOB):
        put = suite.put(suite.begin(), Digest.of(content), content)
        assert (put.status, bool(put.headers["Location"])) == (201, True)
        assert suite.ask("GET", f"blobs/{Digest.of(content)}").data == content


def test_push_chunked(suite: Suite) -> None:
    """Blob upload chunked: out of order 416; first chunk 202; the same again 416; GET 204; second 202; PUT 201."""
    half, kind = len(BLOB) // 2, "application/octet-stream"
    ranges = f"0-{half - 1}", f"{half}-{len(BLOB) - 1}"
    if suite.whole:  # 2.8 heeds no Content-Range, and appends: FAULTS 4
        out = suite.ask("PATCH", suite.begin(), BLOB[half:], Content_Range=ranges[1], Content_Type=kind)
        assert out.status == 416
    location = suite.begin()
    first = suite.ask("PATCH", location, BLOB[:half], Content_Range=ranges[0], Content_Type=kind)
    assert (first.status, first.headers["Range"]) == (202, ranges[0])
    if suite.whole:
        again = suite.ask("PATCH", location, BLOB[:half], Content_Range=ranges[0], Content_Type=kind)
        assert again.status == 416
    stale = suite.ask("GET", first.headers["Location"])
    assert (stale.status, stale.headers["Range"]) == (204, ranges[0])
    second = suite.ask("PATCH", stale.headers["Location"], BLOB[half:], Content_Range=ranges[1], Content_Type=kind)
    assert (second.status, second.headers["Range"]) == (202, f"0-{len(BLOB) - 1}")
    assert suite.put(second.headers["Location"], Digest.of(BLOB)).status == 201
    assert suite.ask("GET", f"blobs/{Digest.of(BLOB)}").data == BLOB


def test_push_cross_repository_mount(suite: Suite) -> None:
    """Cross-repository mount: 201 or 202, then 200; a nonexistent blob is a session, no ``from`` either."""
    digest = suite.blob(BLOB)
    other = Suite(suite.pool, suite.url, f"{suite.name}-other", suite.whole)
    mounted = other.ask("POST", f"blobs/uploads/?mount={digest}&from={suite.name}")
    assert mounted.status in ((201,) if suite.whole else (201, 202))
    if mounted.status == 201:
        assert f"/blobs/{digest}" in mounted.headers["Location"]
        assert other.ask("GET", f"blobs/{digest}").data == BLOB
    missing = other.ask("POST", f"blobs/uploads/?mount={NONE}&from={suite.name}")
    assert (missing.status, "/blobs/uploads/" in missing.headers["Location"]) == (202, True)
    without = Suite(suite.pool, suite.url, f"{suite.name}-third", suite.whole).ask(
        "POST", f"blobs/uploads/?mount={digest}"
    )
    assert without.status in (201, 202)


def test_push_manifests(suite: Suite) -> None:
    """Manifest upload: nonexistent 404; a manifest is accepted, also one without layers, and is 200 by its digest."""
    assert suite.ask("GET", f"manifests/{NONE}").status == 404
    made = suite.image("test0", "test1", "test2", "test3")
    bare = Manifest.create(made.config.descriptor, [])
    answer = suite.manifest(bare, "emptylayer")
    assert (answer.status, bool(answer.headers["Location"])) == (201, True)
    for manifest in (made.manifest, bare):
        assert suite.ask("GET", f"manifests/{manifest.digest}", Accept=MEDIA.MANIFEST).data == manifest.raw


# ------------------------------------------------------------------------------------------------ 03 discovery


def test_discovery_of_tags(suite: Suite) -> None:
    """Listing tags: 200; limited by ``n``; begun behind ``last``."""
    tags = [f"test{number}" for number in range(4)]
    suite.image(*tags)
    listed = suite.ask("GET", "tags/list")
    assert (listed.status, sorted(json.loads(listed.data)["tags"])) == (200, tags)
    if suite.whole:  # 2.8 knows neither order, nor n, nor last
        limited = suite.ask("GET", "tags/list?n=2")
        assert (limited.status, json.loads(limited.data)["tags"]) == (200, tags[:2])
        later = suite.ask("GET", f"tags/list?n=2&last={tags[1]}")
        assert json.loads(later.data)["tags"] == tags[2:]


def test_discovery_of_referrers(suite: Suite) -> None:
    """Listing references: of a nonexistent blob an empty 200; of existing ones (filtered) and missing ones 200."""
    if suite.ask("GET", f"referrers/{NONE}").status == 404 and not suite.whole:
        return  # the endpoint came with 1.1: a 404 says that clients are to fall back to the tag
    empty = suite.ask("GET", f"referrers/{NONE}")
    assert (empty.status, empty.headers["Content-Type"]) == (200, MEDIA.INDEX)
    assert json.loads(empty.data)["manifests"] == []
    made = suite.image("v1")
    config = {"mediaType": MEDIA.EMPTY, "digest": str(suite.blob(b"{}")), "size": 2}
    missing = {"mediaType": MEDIA.MANIFEST, "digest": str(NONE), "size": 10}
    pushed: list[tuple[str, str]] = []
    for subject in (made.manifest.descriptor().to_json(), missing):
        for kind in ("application/vnd.nba.strawberry.jam.croissant", "application/vnd.nhl.peanut.butter.bagel"):
            document: dict[str, Any] = {"schemaVersion": 2, "mediaType": MEDIA.MANIFEST, "artifactType": kind}
            raw = dump({**document, "config": config, "layers": [], "subject": subject})
            answer = suite.manifest(raw, str(Digest.of(raw)))
            assert (answer.status, answer.headers["OCI-Subject"]) == (201, subject["digest"])
            pushed.append((str(subject["digest"]), kind))
    for digest in {digest for digest, _ in pushed}:
        kinds = [kind for of, kind in pushed if of == digest]
        found = json.loads(suite.ask("GET", f"referrers/{digest}").data)["manifests"]
        assert sorted(one["artifactType"] for one in found) == sorted(kinds)
        filtered = suite.ask("GET", f"referrers/{digest}?artifactType={kinds[0]}")
        if filtered.headers.get("OCI-Filters-Applied") == "artifactType" or suite.whole:
            assert [one["artifactType"] for one in json.loads(filtered.data)["manifests"]] == kinds[:1]


# ------------------------------------------------------------------------------------------------ 04 management


def test_management_of_manifests(suite: Suite) -> None:
    """Manifest delete: a tag 202, 400 or 405; by digest 202 (or refused); then 404, and the list of tags shows it."""
    made = suite.image("test0", "test1")
    by_tag = suite.ask("DELETE", "manifests/test0")
    assert by_tag.status in ((202,) if suite.whole else (202, 400, 404, 405))
    by_digest = suite.ask("DELETE", f"manifests/{made.manifest.digest}")
    assert by_digest.status in ((202,) if suite.whole else (202, 404, 405))
    if by_digest.status == 202:
        assert suite.ask("GET", f"manifests/{made.manifest.digest}").status == 404
        listed = suite.ask("GET", "tags/list")
        assert listed.status == 404 or not json.loads(listed.data)["tags"]


def test_management_of_blobs(suite: Suite) -> None:
    """Blob delete: 202 (or refused with 404 or 405), then 404."""
    for content in (BLOB, b"a configuration"):
        digest = suite.blob(content)
        deleted = suite.ask("DELETE", f"blobs/{digest}")
        assert deleted.status in ((202,) if suite.whole else (202, 404, 405))
        if deleted.status == 202:
            assert suite.ask("GET", f"blobs/{digest}").status == 404
