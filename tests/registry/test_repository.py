"""Reading and writing a repository: manifests, tags, blobs, and proof that they are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from layerkit.errors import AuthenticationError, IntegrityError, RefusedError, TransientError
from layerkit.oci import MEDIA, Descriptor, Digest, Index, Platform
from layerkit.registry import MissingBlobsError
from layerkit.testing import FakeRegistry, Profile
from registry.support import MIB, Connect, Data, image, pattern

Serve = Callable[..., FakeRegistry]
LAYER = pattern(3 * MIB)


def descriptor(content: bytes) -> Descriptor:
    return Descriptor(MEDIA.LAYER, Digest.of(content), len(content))


# ------------------------------------------------------------------------------------------------ manifests


def test_what_is_pushed_is_what_is_there(registry: FakeRegistry, connect: Connect) -> None:
    """A manifest comes back byte for byte, by tag and by digest, and resolves to its descriptor."""
    repository, made = connect(registry), image(LAYER)
    repository.upload(Data(LAYER))
    repository.put_blob(made.config.raw)
    assert repository.put_manifest(made.manifest, "v1") == made.manifest.digest
    assert repository.manifest("v1") == repository.manifest(made.manifest.digest) == made.manifest
    assert repository.resolve("v1") == repository.resolve(made.manifest.digest) == made.manifest.descriptor()


def test_fault_28_an_index_after_its_children(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 28: children go by digest with no tag, the index by tag; both keep their bytes."""
    repository, made = connect(registry), image(b"layer")
    for blob in (b"layer", made.config.raw):
        repository.put_blob(blob)
    index = Index.create([made.manifest.descriptor(Platform("linux", "amd64"))])
    with pytest.raises(MissingBlobsError) as caught:
        repository.put_manifest(index, "v1")
    assert caught.value.digests == (made.manifest.digest,)
    repository.put_manifest(made.manifest)
    repository.put_manifest(index, "v1")
    assert repository.manifest("v1") == index
    assert repository.tags() == ("v1",)


@pytest.mark.parametrize("reference", ["v1", Digest.of(b"x")], ids=["tag", "digest"])
def test_nothing_is_none(registry: FakeRegistry, connect: Connect, reference: str | Digest) -> None:
    """Where there is no such manifest, or no such repository, the answer is None."""
    assert connect(registry).resolve(reference) is None
    assert connect(registry).manifest(reference) is None
    assert connect(registry).tags() == ()


def test_fault_31_manifests_are_asked_for_with_accept(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 31: HEAD and GET of a manifest say which forms are understood, Docker's and OCI's."""
    connect(registry).resolve("v1")
    connect(registry).manifest("v1")
    for request in registry.requests:
        for media_type in (*MEDIA.INDEXES, *MEDIA.MANIFESTS):
            assert media_type in request.headers["accept"]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        pytest.param(200, {"Content-Type": MEDIA.MANIFEST}, id="no-digest"),
        pytest.param(200, {"Content-Type": "text/html"}, id="no-type"),
        pytest.param(405, {}, id="head-unknown"),
        pytest.param(400, {}, id="head-refused"),
    ],
)
def test_resolve_falls_back_to_get(
    registry: FakeRegistry, connect: Connect, status: int, headers: dict[str, str]
) -> None:
    """Where HEAD tells too little, the manifest is read instead."""
    made = image(b"layer")
    registry.push("team/model", "v1", made, [b"layer"])
    registry.fail(method="HEAD", status=status, headers=headers)
    assert connect(registry).resolve("v1") == made.manifest.descriptor()


def test_fault_12_a_403_is_explained_by_get(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 12: HEAD has no body, so the reason of a 403 comes from a GET; nothing is repeated."""
    registry.fail(method="HEAD", status=403, times=-1)
    registry.fail(method="GET", status=403, body='{"errors":[{"code":"DENIED","message":"plan expired"}]}', times=-1)
    with pytest.raises(AuthenticationError, match="HTTP 403: DENIED plan expired"):
        connect(registry).resolve("v1")
    with pytest.raises(AuthenticationError, match="HTTP 403: DENIED plan expired"):
        connect(registry).exists(Digest.of(b"x"))
    assert len(registry.requests) == 4


@pytest.mark.parametrize("by_tag", [True, False], ids=["tag", "digest"])
def test_a_manifest_that_is_not_its_digest(registry: FakeRegistry, connect: Connect, by_tag: bool) -> None:
    """A manifest whose bytes differ from its digest is IntegrityError."""
    made, digest = image(b"layer"), image(b"other").manifest.digest
    headers = {"Content-Type": MEDIA.MANIFEST, "Docker-Content-Digest": str(digest)}
    registry.fail(method="GET", status=200, headers=headers, body=made.manifest.raw)
    with pytest.raises(IntegrityError, match=f"is not {digest.short}"):
        connect(registry).manifest("v1" if by_tag else digest)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[" * 10_000, b'{"manifests":[],"layers":[]}', b"<html>", b'{"layers":5,"config":{}}']
)
def test_a_manifest_that_is_none(registry: FakeRegistry, connect: Connect, body: bytes) -> None:
    """What is no manifest is IntegrityError, with the reference named."""
    registry.fail(method="GET", status=200, headers={"Content-Type": MEDIA.MANIFEST}, body=body)
    with pytest.raises(IntegrityError, match=r"/team/model:v1"):
        connect(registry).manifest("v1")


def test_a_manifest_that_is_too_large(registry: FakeRegistry, connect: Connect) -> None:
    """Reading stops at the limit: a registry cannot fill the memory."""
    registry.fail(method="GET", status=200, headers={"Content-Type": MEDIA.MANIFEST}, body=b" " * (9 * MIB))
    with pytest.raises(RefusedError, match="over"):
        connect(registry).manifest("v1")


def test_fault_29_a_manifest_over_4_mib_is_not_sent(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 29: a manifest that registries do not take is refused before it is sent."""
    index = Index.parse(json.dumps({"manifests": [], "annotations": {"x": "y" * 5 * MIB}}).encode(), MEDIA.INDEX)
    with pytest.raises(RefusedError, match="registries take"):
        connect(registry).put_manifest(index, "v1")
    assert registry.requests == []


def test_a_manifest_that_is_stored_as_something_else(registry: FakeRegistry, connect: Connect) -> None:
    """A 201 with another digest is IntegrityError."""
    registry.fail(method="PUT", status=201, headers={"Docker-Content-Digest": str(Digest.of(b"else"))})
    with pytest.raises(IntegrityError, match="stored it as"):
        connect(registry).put_manifest(image(b"x").manifest, "v1")


@pytest.mark.parametrize("detail", ["object", "string", "none"])
def test_fault_24_missing_blobs_are_named(registry: FakeRegistry, connect: Connect, detail: str) -> None:
    """FAULTS 24: MANIFEST_BLOB_UNKNOWN is MissingBlobsError with the digests, whatever form the detail has."""
    missing = Digest.of(b"missing")
    said: Any = {"object": {"digest": str(missing)}, "string": str(missing), "none": None}[detail]
    body = json.dumps({"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "unknown", "detail": said}]})
    registry.fail(method="PUT", status=400, body=body)
    with pytest.raises(MissingBlobsError) as caught:
        connect(registry).put_manifest(image(b"x").manifest, "v1")
    assert caught.value.digests == ((missing,) if detail != "none" else ())
    assert caught.value.exit_status == 6


def test_fault_27_immutable_tags(serve: Serve, connect: Connect) -> None:
    """FAULTS 27: pushing the same image to an immutable tag is success, another is RefusedError with both digests."""
    registry = serve("immutable-tags")
    repository, first, second = connect(registry), image(b"layer"), image(b"layer", created="2026-01-01T00:00:00Z")
    registry.push("team/model", "v1", first, [b"layer"])
    repository.put_blob(second.config.raw)
    assert repository.put_manifest(first.manifest, "v1") == first.manifest.digest
    with pytest.raises(RefusedError, match=f"immutable, and names {first.manifest.digest.short}") as caught:
        repository.put_manifest(second.manifest, "v1")
    assert second.manifest.digest.short in str(caught.value)
    assert caught.value.hint
    assert registry.tag("team/model", "v1") == first.manifest.digest


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(409, "", id="quay"),
        pytest.param(412, '{"errors":[{"code":"PRECONDITION","message":"configured as immutable"}]}', id="harbor"),
        pytest.param(403, '{"errors":[{"code":"DENIED","message":"tag is immutable"}]}', id="denied"),
    ],
)
def test_fault_27_in_other_words(registry: FakeRegistry, connect: Connect, status: int, body: str) -> None:
    """FAULTS 27: the ways in which registries say that a tag is immutable are all understood."""
    registry.push("team/model", "v1", image(b"old"))
    registry.fail(method="PUT", status=status, body=body)
    with pytest.raises(RefusedError, match="immutable"):
        connect(registry).put_manifest(image(b"new").manifest, "v1")


def test_a_lost_answer_to_a_manifest_is_asked_again(registry: FakeRegistry, connect: Connect) -> None:
    """PUT of a manifest may be repeated: the same bytes under the same name."""
    made = image(b"layer")
    repository = connect(registry)
    for blob in (b"layer", made.config.raw):
        repository.put_blob(blob)
    registry.fail(method="PUT", path="manifests", action="lost")
    repository.put_manifest(made.manifest, "v1")
    assert registry.tag("team/model", "v1") == made.manifest.digest


def test_deleting(registry: FakeRegistry, connect: Connect) -> None:
    """A deleted manifest is gone with its tags; deleting what is not there is no error; 405 is RefusedError."""
    digest = registry.push("team/model", "v1", image(b"layer"))
    repository = connect(registry)
    repository.delete_manifest(digest)
    assert repository.resolve("v1") is None
    repository.delete_manifest(digest)
    registry.fail(method="DELETE", status=405)
    with pytest.raises(RefusedError) as caught:
        repository.delete_manifest(digest)
    assert "does not allow deleting" in caught.value.hint


# ------------------------------------------------------------------------------------------------ tags


def test_tags_come_page_by_page(registry: FakeRegistry, connect: Connect) -> None:
    """All pages of a long list are read, through their Link headers."""
    made = image(b"layer")
    names = [f"v{number:04}" for number in range(2345)]
    for name in names:
        registry.push("team/model", name, made.manifest)
    assert connect(registry).tags() == tuple(names)
    assert len(registry.asked("GET", "tags/list")) == 3


def test_a_list_of_tags_that_never_ends(registry: FakeRegistry, connect: Connect) -> None:
    """A Link to the same page is an error: who believes half a list may delete what the other half uses."""
    link = {"Link": '</v2/team/model/tags/list?n=1000>; rel="next"'}
    registry.fail(path="tags", status=200, headers=link, body='{"tags":["a","b"]}', times=-1)
    with pytest.raises(IntegrityError, match="has no end, after 1 pages"):
        connect(registry).tags()


@pytest.mark.parametrize("body", ["[]", "{", '{"tags":5}', "[" * 10_000])
def test_a_list_of_tags_that_is_none(registry: FakeRegistry, connect: Connect, body: str) -> None:
    """What is no list of tags is IntegrityError."""
    registry.fail(path="tags", status=200, body=body)
    with pytest.raises(IntegrityError, match="no list of tags"):
        connect(registry).tags()


def test_tags_that_no_registry_may_have_are_left_out(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 56: a tag with an escape sequence in it is not passed on."""
    registry.fail(path="tags", status=200, body=json.dumps({"tags": ["ok", "\x1b[2J", 5, "a/b"]}))
    assert connect(registry).tags() == ("ok",)


# ------------------------------------------------------------------------------------------------ blobs


def test_blobs_are_read_and_verified(registry: FakeRegistry, connect: Connect) -> None:
    """A blob comes as it was put, whole or in chunks of at most 1 MiB."""
    registry.put_blob("team/model", LAYER)
    repository = connect(registry)
    assert repository.blob(descriptor(LAYER)) == LAYER
    with repository.open_blob(descriptor(LAYER)) as chunks:
        pieces = list(chunks)
    assert b"".join(pieces) == LAYER
    assert max(map(len, pieces)) <= MIB


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(LAYER[:-1] + b"\0", id="other-byte"),
        pytest.param(LAYER[:-1], id="shorter"),
        pytest.param(LAYER + b"\0", id="longer"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_blob_that_is_not_its_digest(registry: FakeRegistry, connect: Connect, stored: bytes) -> None:
    """Other bytes than the digest's are IntegrityError before the last chunk is handed out."""
    registry.put_blob("team/model", LAYER)
    registry.fail(method="GET", status=200, body=stored, times=-1)
    got = 0
    with pytest.raises(IntegrityError), connect(registry).open_blob(descriptor(LAYER)) as chunks:
        for chunk in chunks:
            got += len(chunk)
    assert got < len(LAYER)


def test_a_blob_over_the_limit_is_not_asked_for(registry: FakeRegistry, connect: Connect) -> None:
    """The limit holds before the first byte is read."""
    with pytest.raises(RefusedError, match="over 10"):
        connect(registry).blob(descriptor(LAYER), limit=10)
    assert registry.requests == []


def test_a_missing_blob_is_refused(registry: FakeRegistry, connect: Connect) -> None:
    """Reading what is not there is RefusedError with the registry's words."""
    registry.put_blob("team/model", b"x")
    with pytest.raises(RefusedError, match="HTTP 404: BLOB_UNKNOWN"):
        connect(registry).blob(descriptor(LAYER))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_read_goes_on(serve: Serve, connect: Connect, ranges: bool) -> None:
    """A download that breaks off goes on where it broke, with a Range where the registry heeds it."""
    registry = serve(Profile(ranges=ranges))
    registry.put_blob("team/model", LAYER)
    registry.fail(method="GET", action="cut", after_bytes=2 * MIB)
    assert connect(registry).blob(descriptor(LAYER)) == LAYER
    assert registry.asked("GET")[1].headers["range"].startswith("bytes=")


def test_reading_may_stop_early(registry: FakeRegistry, connect: Connect) -> None:
    """Whoever takes one chunk and leaves does not break the connections of others."""
    registry.put_blob("team/model", LAYER)
    repository = connect(registry)
    with repository.open_blob(descriptor(LAYER)) as chunks:
        next(chunks)
    assert repository.blob(descriptor(LAYER)) == LAYER


def test_exists(registry: FakeRegistry, connect: Connect) -> None:
    """HEAD tells whether a blob is there, and whether it has the size."""
    registry.put_blob("team/model", LAYER)
    repository = connect(registry)
    assert repository.exists(Digest.of(LAYER))
    assert repository.exists(Digest.of(LAYER), len(LAYER))
    assert not repository.exists(Digest.of(LAYER), len(LAYER) - 1)
    assert not repository.exists(Digest.of(b"else"))


@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 65537, 3 * MIB])
@pytest.mark.parametrize("ranges", [True, False])
def test_fault_23_what_is_there_is_present(serve: Serve, connect: Connect, size: int, ranges: bool) -> None:
    """FAULTS 23: a blob that is there is found by its bytes, whether the registry heeds ranges or not."""
    registry, blob = serve(Profile(ranges=ranges)), pattern(size)
    registry.put_blob("team/model", blob)
    assert connect(registry).present(descriptor(blob))


@pytest.mark.parametrize("size", [1, 1000, 65537])
def test_fault_23_a_head_that_lies(serve: Serve, connect: Connect, size: int) -> None:
    """FAULTS 23: HEAD says 200, mount 201, and the bytes are gone: present is False, soon; an upload repairs it."""
    registry, blob = serve("lying-head"), pattern(size)
    registry.put_blob("team/model", blob)
    registry.drop_blob(Digest.of(blob))
    repository = connect(registry)
    assert repository.exists(Digest.of(blob), size)
    assert repository.mount(Digest.of(blob), "team/model")
    registry.requests.clear()
    assert not repository.present(descriptor(blob))
    assert len(registry.requests) <= 3
    repository.upload(Data(blob))
    assert repository.present(descriptor(blob))


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_fault_23_a_head_that_lies_after_a_commit_that_failed(serve: Serve, connect: Connect, size: int) -> None:
    """FAULTS 6, 23: no HEAD is believed that a commit without an answer arrived: what is lost is sent again."""
    registry, blob = serve("lying-head"), pattern(size)
    registry.put_blob("team/model", blob)
    registry.drop_blob(Digest.of(blob))
    registry.fail(method="PUT", status=503)
    repository = connect(registry)
    repository.upload(Data(blob))
    assert repository.present(descriptor(blob))


def test_fault_23_a_small_blob_with_other_bytes(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 23: a small blob is read whole: one of the right size with wrong bytes is not present."""
    registry.put_blob("team/model", b"right")
    registry._file(str(Digest.of(b"right"))).write_bytes(b"wrong")
    assert not connect(registry).present(descriptor(b"right"))


def test_fault_23_a_broken_line_is_not_a_missing_blob(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 23: one broken connection is asked again; a registry that fails is TransientError, not "missing"."""
    registry.put_blob("team/model", LAYER)
    repository = connect(registry, retries=1)
    registry.fail(method="GET", action="cut", after_bytes=0)
    assert repository.present(descriptor(LAYER))
    registry.fail(method="GET", status=503, times=-1)
    with pytest.raises(TransientError, match="HTTP 503"):
        repository.present(descriptor(LAYER))


def test_fault_30_mount(serve: Serve, connect: Connect) -> None:
    """FAULTS 30: a mount that works is True; 202 closes the session it opened; 4xx is False."""
    registry = serve()
    registry.put_blob("team/base", LAYER)
    repository = connect(registry)
    assert repository.mount(Digest.of(LAYER), "team/base")
    assert registry.blob("team/model", Digest.of(LAYER)) == LAYER
    assert repository.mount(Digest.of(LAYER), f"{registry.host}/team/base")
    assert not repository.mount(Digest.of(b"else"), "team/base")
    assert registry.open_sessions == 0
    registry.fail(method="POST", status=405)
    assert not repository.mount(Digest.of(LAYER), "team/base")


@pytest.mark.parametrize("profile", ["strict", "gar-monolithic", "ecr-201", "ghcr-4mib"])
def test_small_blobs_go_in_one_put(serve: Serve, connect: Connect, profile: str) -> None:
    """put_blob is HEAD, POST and one PUT; a second time only HEAD."""
    registry = serve(profile)
    repository = connect(registry)
    assert repository.put_blob(b"config") == Digest.of(b"config")
    assert [request.method for request in registry.requests] == ["HEAD", "POST", "PUT"]
    repository.put_blob(b"config")
    assert [request.method for request in registry.requests][3:] == ["HEAD"]
