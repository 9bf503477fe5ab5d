"""The FakeRegistry itself: the checks of the distribution specification's conformance suite, by their names.

https://github.com/opencontainers/distribution-spec/tree/v1.1.0/conformance (01_pull, 02_push, 03_discovery,
04_management). They speak plain HTTP through urllib3, not through our client.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3

from layerkit.oci import MEDIA, Digest, Image, dump
from layerkit.testing import PROFILES, FakeRegistry
from registry.support import image, pattern

BLOB = pattern(100_000)
Ask = Callable[..., urllib3.BaseHTTPResponse]


@pytest.fixture
def ask(registry: FakeRegistry) -> Iterator[Ask]:
    """ask(method, path under /v2/team/model, body, **headers)."""
    with urllib3.PoolManager(retries=False) as pool:

        def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            url = registry.url + (path if path.startswith("/v2") else f"/v2/team/model/{path}")
            return pool.request(method, url, body=body, headers=named)

        yield ask


@pytest.fixture
def pushed(registry: FakeRegistry) -> Image:
    made = image(BLOB)
    registry.push("team/model", "v1", made, [BLOB])
    return made


def code(answer: urllib3.BaseHTTPResponse) -> str:
    return str(json.loads(answer.data)["errors"][0]["code"])


# ------------------------------------------------------------------------------------------------ 01 pull


@pytest.mark.parametrize("order", [1, -1])
def test_accept_in_several_lines(registry: FakeRegistry, pushed: Image, order: int) -> None:
    """Types that are accepted in a line each, as Docker sends them, are one list, in whatever order they come."""
    connection = http.client.HTTPConnection(registry.host)
    connection.putrequest("HEAD", "/v2/team/model/manifests/v1")
    for kind in (MEDIA.MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")[::order]:
        connection.putheader("Accept", kind)
    connection.endheaders()
    assert connection.getresponse().status == 200
    connection.close()


def test_pull_blobs(ask: Ask, pushed: Image) -> None:
    """Pull blobs: HEAD and GET of existing ones yield 200 with length and digest, of others 404."""
    digest = Digest.of(BLOB)
    head = ask("HEAD", f"blobs/{digest}")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(BLOB)))
    assert head.headers["Docker-Content-Digest"] == str(digest)
    assert ask("GET", f"blobs/{digest}").data == BLOB
    for method in ("HEAD", "GET"):
        assert ask(method, f"blobs/{Digest.of(b'none')}").status == 404
    assert code(ask("GET", f"blobs/{Digest.of(b'none')}")) == "BLOB_UNKNOWN"


@pytest.mark.parametrize(
    ("asked", "first", "last"), [("0-0", 0, 0), ("5-9", 5, 9), ("99999-", 99999, 99999), ("-10", 99990, 99999)]
)
def test_pull_a_range_of_a_blob(ask: Ask, pushed: Image, asked: str, first: int, last: int) -> None:
    """Pull blobs: a Range yields 206 with Content-Range (RFC 9110, section 14)."""
    answer = ask("GET", f"blobs/{Digest.of(BLOB)}", Range=f"bytes={asked}")
    assert (answer.status, answer.data) == (206, BLOB[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(BLOB)}"
    assert ask("GET", f"blobs/{Digest.of(BLOB)}", Range="bytes=100000-").status == 416


def test_pull_manifests(ask: Ask, pushed: Image) -> None:
    """Pull manifests: by digest and by tag 200 with the raw bytes, unknown ones 404."""
    for reference in ("v1", str(pushed.manifest.digest)):
        head = ask("HEAD", f"manifests/{reference}", Accept=MEDIA.MANIFEST)
        assert (head.status, head.headers["Docker-Content-Digest"]) == (200, str(pushed.manifest.digest))
        answer = ask("GET", f"manifests/{reference}", Accept=MEDIA.MANIFEST)
        assert (answer.data, answer.headers["Content-Type"]) == (pushed.manifest.raw, MEDIA.MANIFEST)
    for reference in ("none", str(Digest.of(b"none"))):
        assert code(ask("GET", f"manifests/{reference}")) == "MANIFEST_UNKNOWN"
    assert ask("GET", "manifests/v1", Accept=MEDIA.INDEX).status == 404


def test_error_codes(ask: Ask) -> None:
    """Error codes: an invalid digest and an unknown repository are said in JSON; other paths are 404."""
    assert code(ask("GET", "tags/list")) == "NAME_UNKNOWN"
    assert code(ask("HEAD", "x") if False else ask("GET", "blobs/nonsense")) == "DIGEST_INVALID"
    assert ask("GET", "/v2/").status == 200
    assert ask("GET", "/v2/UPPER/manifests/x").status == 404
    assert ask("POST", "manifests/v1").status == 405


# ------------------------------------------------------------------------------------------------ 02 push


def session(ask: Ask) -> str:
    answer = ask("POST", "blobs/uploads/")
    assert (answer.status, answer.headers["Range"]) == (202, "0-0")
    return str(answer.headers["Location"])


def test_push_a_blob_streamed(ask: Ask) -> None:
    """Blob upload streamed: PATCH without Content-Range yields 202, PUT with digest 201."""
    patch = ask("PATCH", session(ask), BLOB)
    assert (patch.status, patch.headers["Range"]) == (202, f"0-{len(BLOB) - 1}")
    put = ask("PUT", f"{patch.headers['Location']}&digest={Digest.of(BLOB)}")
    assert put.status == 201
    assert ask("GET", str(put.headers["Location"])).data == BLOB


def test_push_a_blob_monolithic(ask: Ask) -> None:
    """Blob upload monolithic: PUT with the whole body yields 201; so does a single POST; a wrong digest 400."""
    for blob in (BLOB, b""):
        assert ask("PUT", f"{session(ask)}&digest={Digest.of(blob)}", blob).status == 201
        assert ask("HEAD", f"blobs/{Digest.of(blob)}").status == 200
    assert ask("POST", f"blobs/uploads/?digest={Digest.of(b'one')}", b"one").status == 201
    assert code(ask("PUT", f"{session(ask)}&digest={Digest.of(b'else')}", BLOB)) == "DIGEST_INVALID"


def test_push_a_blob_chunked(ask: Ask) -> None:
    """Blob upload chunked: chunks in order yield 202, out of order 416; GET tells where it stands."""
    location = session(ask)
    half = len(BLOB) // 2
    wrong = ask("PATCH", location, BLOB[half:], Content_Range=f"{half}-{len(BLOB) - 1}")
    assert wrong.status == 416
    first = ask("PATCH", location, BLOB[:half], Content_Range=f"0-{half - 1}")
    assert (first.status, first.headers["Range"]) == (202, f"0-{half - 1}")
    status = ask("GET", str(first.headers["Location"]))
    assert (status.status, status.headers["Range"]) == (204, f"0-{half - 1}")
    again = ask("PATCH", location, BLOB[:half], Content_Range=f"0-{half - 1}")
    assert (again.status, again.headers["Range"]) == (416, f"0-{half - 1}")
    last = ask(
        "PUT",
        f"{status.headers['Location']}&digest={Digest.of(BLOB)}",
        BLOB[half:],
        Content_Range=f"{half}-{len(BLOB) - 1}",
    )
    assert last.status == 201


def test_push_with_sha512(ask: Ask) -> None:
    """Other registered digest algorithms are taken."""
    import hashlib

    digest = f"sha512:{hashlib.sha512(BLOB).hexdigest()}"
    assert ask("PUT", f"{session(ask)}&digest={digest}", BLOB).status == 201
    assert ask("GET", f"blobs/{digest}").data == BLOB


def test_push_cancelled(ask: Ask, registry: FakeRegistry) -> None:
    """A cancelled upload is unknown afterwards."""
    location = session(ask)
    assert ask("DELETE", location).status == 204
    assert code(ask("PATCH", location, b"x")) == "BLOB_UPLOAD_UNKNOWN"
    assert registry.open_sessions == 0


def test_push_cross_repository_mount(ask: Ask, registry: FakeRegistry) -> None:
    """Cross-repository blob mount: 201 where the blob is, else 202 with a session."""
    digest = registry.put_blob("team/base", BLOB)
    answer = ask("POST", f"blobs/uploads/?mount={digest}&from=team/base")
    assert (answer.status, answer.headers["Location"]) == (201, f"/v2/team/model/blobs/{digest}")
    assert ask("GET", f"blobs/{digest}").data == BLOB
    missing = ask("POST", f"blobs/uploads/?mount={Digest.of(b'none')}&from=team/base")
    assert (missing.status, "uploads" in missing.headers["Location"]) == (202, True)


def test_push_manifests(ask: Ask, registry: FakeRegistry) -> None:
    """Manifest upload: missing blobs 404, then by tag and by digest 201; wrong digest, wrong type, no JSON 400."""
    made = image(BLOB)
    raw, digest = made.manifest.raw, made.manifest.digest
    assert code(ask("PUT", "manifests/v1", raw, Content_Type=MEDIA.MANIFEST)) == "MANIFEST_BLOB_UNKNOWN"
    for blob in (BLOB, made.config.raw):
        registry.put_blob("team/model", blob)
    for reference in ("v1", str(digest)):
        answer = ask("PUT", f"manifests/{reference}", raw, Content_Type=MEDIA.MANIFEST)
        assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, str(digest))
    bad = f"manifests/{Digest.of(b'x')}"
    assert code(ask("PUT", bad, raw, Content_Type=MEDIA.MANIFEST)) == "DIGEST_INVALID"
    assert code(ask("PUT", "manifests/v1", raw, Content_Type=MEDIA.INDEX)) == "MANIFEST_INVALID"
    assert code(ask("PUT", "manifests/v1", b"[", Content_Type=MEDIA.MANIFEST)) == "MANIFEST_INVALID"
    assert code(ask("PUT", "manifests/-v1", raw, Content_Type=MEDIA.MANIFEST)) == "TAG_INVALID"
    large = raw[:-1] + b" " * (4 * 1024 * 1024) + b"}"
    assert ask("PUT", "manifests/v1", large, Content_Type=MEDIA.MANIFEST).status == 413


# ------------------------------------------------------------------------------------------------ 03 discovery


def test_discovery_tags(ask: Ask, registry: FakeRegistry, pushed: Image) -> None:
    """Content discovery: the list of tags, with n, last, and a Link to the next page."""
    for name in ("b", "a", "C"):
        registry.push("team/model", name, pushed.manifest)
    assert json.loads(ask("GET", "tags/list").data) == {"name": "team/model", "tags": ["a", "b", "C", "v1"]}
    page = ask("GET", "tags/list?n=2")
    assert json.loads(page.data)["tags"] == ["a", "b"]
    link = page.headers["Link"].partition(">")[0].lstrip("<")
    last = ask("GET", link)
    assert json.loads(last.data)["tags"] == ["C", "v1"]
    assert "Link" not in last.headers
    assert json.loads(ask("GET", "tags/list?n=0").data)["tags"] == []


def test_discovery_referrers(ask: Ask, registry: FakeRegistry, pushed: Image) -> None:
    """Content discovery: referrers of a subject, filtered by artifactType; none is an empty index."""
    subject = pushed.manifest.descriptor().to_json()
    config = {"mediaType": MEDIA.EMPTY, "digest": str(registry.put_blob("team/model", b"{}")), "size": 2}
    for kind in ("a/one", "a/two"):
        document = {"schemaVersion": 2, "mediaType": MEDIA.MANIFEST, "artifactType": kind, "config": config}
        raw = dump({**document, "layers": [], "subject": subject, "annotations": {"k": kind}})
        answer = ask("PUT", f"manifests/{Digest.of(raw)}", raw, Content_Type=MEDIA.MANIFEST)
        assert (answer.status, answer.headers["OCI-Subject"]) == (201, subject["digest"])
    found: Any = json.loads(ask("GET", f"referrers/{subject['digest']}").data)
    assert [item["artifactType"] for item in found["manifests"]] == ["a/one", "a/two"]
    filtered = ask("GET", f"referrers/{subject['digest']}?artifactType=a/two")
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert [item["annotations"] for item in json.loads(filtered.data)["manifests"]] == [{"k": "a/two"}]
    assert json.loads(ask("GET", f"referrers/{Digest.of(b'none')}").data)["manifests"] == []


# ------------------------------------------------------------------------------------------------ 04 management


def test_management(ask: Ask, pushed: Image) -> None:
    """Content management: a tag, a manifest and a blob are deleted with 202, and are 404 then."""
    assert ask("DELETE", "manifests/v1").status == 202
    assert ask("GET", "manifests/v1").status == 404
    assert ask("GET", f"manifests/{pushed.manifest.digest}").status == 200
    for path in (f"manifests/{pushed.manifest.digest}", f"blobs/{Digest.of(BLOB)}"):
        assert ask("DELETE", path).status == 202
        assert ask("GET", path).status == 404
        assert ask("DELETE", path).status == 404
    assert json.loads(ask("GET", "tags/list").data)["tags"] == []


# ------------------------------------------------------------------------------------------------ the script


def test_the_script_counts_and_heals(ask: Ask, registry: FakeRegistry) -> None:
    """skip, times and heal decide which requests fail; hits says how often it was."""
    fault = registry.fail(method="GET", path="^/v2/$", status=418, body="teapot", headers={"X": "y"}, skip=1, times=2)
    answers = [ask("GET", "/v2/") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 418, 418, 200]
    assert (answers[1].data, answers[1].headers["X"], fault.hits) == (b"teapot", "y", 2)
    registry.fail(status=500, times=-1)
    assert ask("GET", "/v2/").status == 500
    registry.heal()
    assert ask("GET", "/v2/").status == 200


def test_what_arrived_is_written_down(ask: Ask, registry: FakeRegistry) -> None:
    """requests hold method, path, query, headers, bytes and status of each, in their order."""
    ask("POST", f"blobs/uploads/?digest={Digest.of(b'abc')}", b"abc", X_Test="1")
    (request,) = registry.asked("POST", "uploads")
    assert (request.path, request.query) == ("/v2/team/model/blobs/uploads/", {"digest": str(Digest.of(b"abc"))})
    assert (request.received, request.status, request.headers["x-test"]) == (3, 201, "1")
    assert registry.received_bytes() == 3


def test_chunked_bodies_are_read(registry: FakeRegistry) -> None:
    """A body in chunks, as Docker sends it, arrives whole."""
    with urllib3.PoolManager(retries=False) as pool:
        pieces = iter([BLOB[:1000], BLOB[1000:]])
        url = f"{registry.url}/v2/team/model/blobs/uploads/?digest={Digest.of(BLOB)}"
        assert pool.request("POST", url, body=pieces, chunked=True).status == 201
    assert registry.blob("team/model", Digest.of(BLOB)) == BLOB


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03\x01\n" + bytes(500), b"no request\n\n"]
)
def test_what_is_no_request_is_answered_by_http(registry: FakeRegistry, sent: bytes) -> None:
    """docker and BuildKit try TLS first, and take a registry for one without TLS by HTTP/ in its answer alone."""
    with socket.create_connection(registry.host.split(":"), timeout=10) as connection:  # type: ignore[arg-type]
        connection.sendall(sent)
        assert connection.recv(12) == b"HTTP/1.1 400"
    assert not registry.requests


def test_nothing_is_left_behind() -> None:
    """close() takes the folder with the blobs away; profiles are documented values."""
    with FakeRegistry() as registry:
        registry.put_blob("a", b"x")
        folder = registry._folder
        assert folder.exists()
    assert not folder.exists()
    assert set(PROFILES) == {
        "strict", "distribution-2.8", "acr-noresume", "ghcr-4mib", "ecr-201", "gar-monolithic", "lying-head",
        "immutable-tags", "no-deleting",
    }  # fmt: skip
