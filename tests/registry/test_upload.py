"""Uploading: every fault of FAULTS.md that an upload can meet, by its number."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from layerkit.errors import (
    AuthenticationError,
    CheckpointError,
    IntegrityError,
    LocalResourceError,
    RefusedError,
    TransientError,
)
from layerkit.oci import Digest, Reference
from layerkit.registry import Credentials, Login, UploadDropped
from layerkit.testing import PROFILES, FakeRegistry, Profile
from registry.support import MIB, Connect, Data, pattern

Serve = Callable[..., FakeRegistry]
BLOB = pattern(6 * MIB)


def stored(registry: FakeRegistry, data: Data) -> bool:
    return registry.blob("team/model", data.descriptor.digest) == data.data


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("size", [pytest.param(n, id=f"{n}-bytes") for n in (0, 1, 2, 65536, 5 * MIB + 1)])
def test_every_kind_of_registry_gets_the_whole_blob(serve: Serve, connect: Connect, profile: str, size: int) -> None:
    """Whatever a registry's habits and the blob's size, the blob arrives and no session stays open."""
    registry, data = serve(profile), Data(pattern(size))
    connect(registry).upload(data)
    assert stored(registry, data)
    assert registry.open_sessions == 0


def test_a_blob_is_one_stream_with_its_length(registry: FakeRegistry, connect: Connect) -> None:
    """A plain registry gets POST, one PATCH with Content-Length and no Content-Range, and PUT."""
    data = Data(BLOB)
    assert connect(registry).upload(data) == len(BLOB)
    assert [request.method for request in registry.requests] == ["POST", "PATCH", "PUT"]
    patch = registry.asked("PATCH")[0]
    assert patch.headers["content-length"] == str(len(BLOB))
    assert "content-range" not in patch.headers
    assert data.opened == [0]


def test_each_answer_says_where_to_go_on(registry: FakeRegistry, connect: Connect) -> None:
    """A session's address changes with what it holds (distribution keeps its state there): the newest is used."""
    connect(registry).upload(Data(BLOB), chunk=2 * MIB)
    begun, *rest = registry.requests
    number = rest[0].path.rpartition("/")[2]
    assert begun.method == "POST" and [request.method for request in rest] == ["PATCH"] * 3 + ["PUT"]
    held = [int(request.query["_state"].removeprefix(number), 16) for request in rest]
    assert held == [0, 2 * MIB, 4 * MIB, 6 * MIB]


def test_the_digest_is_asked_for_only_when_all_is_sent(registry: FakeRegistry, connect: Connect) -> None:
    """Sending does not wait for the hash: the digest is asked for once every byte is on its way."""
    data = Data(BLOB)
    asked_at: list[int] = []
    real = data.digest
    data.digest = lambda: (asked_at.append(data.served), real())[1]  # type: ignore[method-assign]
    connect(registry).upload(data)
    assert asked_at == [len(BLOB)]


def test_progress_grows_to_the_size(registry: FakeRegistry, connect: Connect) -> None:
    """Progress is the number of bytes sent, never falls on a good line, and ends at the size."""
    seen: list[int] = []
    connect(registry).upload(Data(BLOB), progress=seen.append)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, len(BLOB))


# ------------------------------------------------------------------------------------------------ what breaks off


@pytest.mark.parametrize("after", [pytest.param(n, id=f"after-{n}") for n in (0, 1, 65536, 3 * MIB, 6 * MIB - 1)])
@pytest.mark.parametrize("profile", ["strict", "distribution-2.8", "acr-noresume", "ghcr-4mib", "ecr-201"])
def test_fault_1_2_a_reset_in_the_middle(serve: Serve, connect: Connect, profile: str, after: int) -> None:
    """FAULTS 1, 2: after a reset the session is asked where it stands: resumed where it can be, else started again."""
    registry, data = serve(profile), Data(BLOB)
    registry.fail(method="PATCH", action="reset", after_bytes=after)
    connect(registry).upload(data)
    assert stored(registry, data)
    assert registry.open_sessions <= 1


def test_fault_1_what_arrived_is_not_sent_again(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 1: a registry that kept 3 MiB of a broken PATCH gets the rest only, with its Content-Range."""
    registry.fail(method="PATCH", action="reset", after_bytes=3 * MIB)
    connect(registry).upload(Data(BLOB))
    second = registry.asked("PATCH")[1]
    assert second.headers["content-range"] == f"{3 * MIB}-{6 * MIB - 1}"
    assert registry.received_bytes("PATCH") == len(BLOB)


def test_fault_1_many_resets_are_survived_while_there_is_progress(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 1: attempts are counted without progress only: twenty resets, each a bit further, do not end an upload."""
    data = Data(BLOB)
    registry.fail(method="PATCH", action="reset", after_bytes=256 * 1024, times=20)
    connect(registry, retries=2).upload(data)
    assert stored(registry, data)
    assert registry.received_bytes("PATCH") == len(BLOB)


def test_fault_1_resets_without_progress_end(serve: Serve, connect: Connect) -> None:
    """FAULTS 1: a registry that loses every attempt ends the upload with TransientError after a bounded number."""
    registry = serve("acr-noresume")
    registry.fail(method="PATCH", action="reset", after_bytes=MIB, times=-1)
    with pytest.raises(TransientError, match=r"upload a blob .* to 127.0.0.1:\d+/team/model: .*reset \(4 attempts\)"):
        connect(registry, retries=3).upload(Data(BLOB))
    assert len(registry.asked("PATCH")) == 4


def test_fault_1_a_stall_is_noticed_and_resumed(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 1: a connection that takes nothing any more is given up, and the rest is sent anew."""
    data = Data(pattern(24 * MIB))
    registry.fail(method="PATCH", action="stall", after_bytes=MIB)
    started = time.monotonic()
    connect(registry).upload(data)
    assert stored(registry, data)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_fault_2_a_session_that_is_unknown(registry: FakeRegistry, connect: Connect, method: str) -> None:
    """FAULTS 2: 404 BLOB_UPLOAD_UNKNOWN, to the data or to the commit, starts the blob again from byte 0."""
    data = Data(BLOB)
    registry.fail(method=method, call=lambda request: registry.forget_sessions())
    connect(registry).upload(data)
    assert stored(registry, data)
    assert len(registry.asked("POST")) == 2


def test_a_registry_that_does_not_say_where_a_session_stands(registry: FakeRegistry, connect: Connect) -> None:
    """An answer without a Range leaves it at what was acknowledged: it goes on there, and sends nothing twice."""
    data = Data(BLOB)
    registry.fail(method="PATCH", action="reset", skip=1)
    registry.fail(method="GET", path="uploads", status=204)
    connect(registry).upload(data, chunk=MIB)
    assert stored(registry, data)
    assert registry.received_bytes("PATCH") == len(BLOB) and len(registry.asked("POST")) == 1


def test_fault_3_416_says_where_to_go_on(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 3: 416 with a Range goes on behind it, with nothing sent twice."""
    data = Data(BLOB)
    # The answer to the second chunk is lost: it is there, and we do not know.
    registry.fail(method="PATCH", action="lost", skip=1)
    registry.fail(method="GET", path="uploads", status=204, headers={"Range": f"0-{MIB - 1}"})
    connect(registry).upload(data, chunk=MIB)
    assert stored(registry, data)
    assert [r.status for r in registry.asked("PATCH")].count(416) == 1


def test_fault_3_416_with_more_than_was_sent(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 3: a 416 that tells of bytes that nobody sent is no place to go on at: a new session gets all of them."""
    data = Data(BLOB)
    registry.fail(method="PATCH", status=416, headers={"Range": f"0-{4 * MIB}"}, skip=1)
    connect(registry).upload(data, chunk=MIB)
    assert stored(registry, data)
    assert len(registry.asked("POST")) == 2


@pytest.mark.parametrize("status", [400, 409, 416])
def test_a_later_chunk_that_is_refused(registry: FakeRegistry, connect: Connect, status: int) -> None:
    """Where the first chunk was taken and the next is not, the way is right: a new session gets all by the same."""
    data = Data(BLOB)
    registry.fail(method="PATCH", status=status, skip=1)
    connect(registry).upload(data, chunk=MIB)
    assert stored(registry, data)
    assert len(registry.asked("POST")) == 2
    assert {request.received for request in registry.asked("PATCH")} <= {0, MIB}


def test_fault_4_a_range_that_is_not_what_was_sent(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 4: a 202 that acknowledges other bytes than were sent is never committed: the blob starts again."""
    data = Data(BLOB)
    registry.fail(
        method="PATCH",
        status=202,
        after_bytes=len(BLOB),
        headers={"Range": "0-99", "Location": "/v2/team/model/blobs/uploads/x"},
    )
    connect(registry).upload(data)
    assert stored(registry, data)
    assert len(registry.asked("PUT")) == 1
    assert len(registry.asked("POST")) == 2


@pytest.mark.parametrize("after", [0, 1, 2])
def test_fault_5_range_0_0_is_not_believed(registry: FakeRegistry, connect: Connect, after: int) -> None:
    """FAULTS 5: "0-0" may mean nothing or one byte: the blob is right whichever it was."""
    data = Data(BLOB, piece=1024)
    registry.fail(method="PATCH", action="reset", after_bytes=after)
    connect(registry).upload(data)
    assert stored(registry, data)


def test_fault_6_a_lost_201_is_success(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 6: when the answer to the commit is lost, HEAD finds the blob, and nothing is sent again."""
    data = Data(BLOB)
    registry.fail(method="PUT", action="lost")
    connect(registry).upload(data)
    assert stored(registry, data)
    assert registry.received_bytes("PATCH") == len(BLOB)
    assert len(registry.asked("PUT")) == 1


def test_fault_6_a_lost_commit_is_committed_again(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 6: when the commit itself was lost, the same session is committed, and nothing is sent again."""
    data = Data(BLOB)
    registry.fail(method="PUT", action="reset")
    connect(registry).upload(data)
    assert stored(registry, data)
    assert registry.received_bytes("PATCH") == len(BLOB)


def test_fault_6_a_lost_201_that_shows_late(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 6: a blob that HEAD does not tell of at once is there when the second commit finds its session gone."""
    data = Data(BLOB)
    registry.fail(method="PUT", action="lost")
    registry.fail(method="HEAD", status=404)
    registry.fail(method="GET", path="uploads", status=204, headers={"Range": f"0-{len(BLOB) - 1}"})
    connect(registry).upload(data)
    assert stored(registry, data)
    assert [request.status for request in registry.asked("PUT")][1:] == [404]
    assert registry.received_bytes("PATCH") == len(BLOB)


def test_fault_6_for_a_monolithic_registry(serve: Serve, connect: Connect) -> None:
    """FAULTS 6: the same where everything is in the PUT."""
    registry, data = serve("gar-monolithic"), Data(BLOB)
    registry.fail(method="PUT", action="lost")
    connect(registry).upload(data)
    assert stored(registry, data)
    assert registry.received_bytes("PUT") == len(BLOB)


# ------------------------------------------------------------------------------------------------ digests


def test_fault_7_bytes_that_were_hurt_get_one_fresh_try(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 7: DIGEST_INVALID with an unchanged file sends all once more, in a new session."""
    data = Data(BLOB)
    registry.fail(method="PUT", status=400, body='{"errors":[{"code":"DIGEST_INVALID","message":"no match"}]}')
    connect(registry).upload(data)
    assert stored(registry, data)
    assert data.hashed >= 2
    assert data.opened == [0, 0]
    assert registry.open_sessions == 0


def test_fault_7_hurt_twice_is_an_integrity_error(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 7: the same again is IntegrityError, with status and digest named, and the session closed."""
    data = Data(BLOB)
    registry.fail(method="PUT", status=400, body='{"errors":[{"code":"DIGEST_INVALID"}]}', times=-1)
    with pytest.raises(IntegrityError, match=rf"commit blob {data.descriptor.digest.short} .*HTTP 400") as caught:
        connect(registry).upload(data)
    assert caught.value.hint
    assert registry.open_sessions == 0
    assert len(registry.asked("PATCH")) == 2


def test_fault_7_a_file_that_changed_ends_the_upload(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 7, 40: when the content says that it changed, its own error comes through and the session is closed."""
    data = Data(BLOB, digest_error=CheckpointError("weights.pt changed"))
    with pytest.raises(CheckpointError, match=r"weights.pt changed"):
        connect(registry).upload(data)
    assert registry.open_sessions == 0
    assert registry.asked("PUT") == []


@pytest.mark.parametrize("at", [0, 2 * MIB])
def test_an_error_of_the_content_is_not_the_networks(registry: FakeRegistry, connect: Connect, at: int) -> None:
    """What content.open raises ends the upload at once, with the session closed; an OSError is the local disk's."""

    def broken(start: int) -> None:
        if start >= at:
            raise OSError(5, "Input/output error")

    data = Data(BLOB)
    data.on_piece = broken
    with pytest.raises(LocalResourceError, match="Input/output error"):
        connect(registry).upload(data)
    assert registry.open_sessions == 0
    assert len(registry.asked("PATCH")) <= 1


def test_content_that_ends_early_is_not_waited_for(registry: FakeRegistry, connect: Connect) -> None:
    """Content shorter than its size is IntegrityError, and no request that waits for the rest."""
    data = Data(BLOB)
    data.size += 1
    with pytest.raises(IntegrityError, match=f"ends after {len(BLOB)} of {len(BLOB) + 1} bytes"):
        connect(registry).upload(data)
    assert registry.open_sessions == 0


def test_a_registry_that_stores_another_digest_is_not_trusted(registry: FakeRegistry, connect: Connect) -> None:
    """A 201 with another Docker-Content-Digest is IntegrityError."""
    registry.fail(method="PUT", status=201, headers={"Docker-Content-Digest": str(Digest.of(b"else"))})
    with pytest.raises(IntegrityError, match="stored it as"):
        connect(registry).upload(Data(BLOB))


# ------------------------------------------------------------------------------------------------ ways


def test_fault_8_413_falls_back_to_smaller_chunks(serve: Serve, connect: Connect) -> None:
    """FAULTS 8: behind a proxy that limits bodies to 1 MiB, the blob goes in chunks; the next one knows it at once."""
    registry = serve(Profile(body_limit=MIB))
    repository, first, second = connect(registry), Data(BLOB), Data(pattern(3 * MIB, 1))
    repository.upload(first)
    assert stored(registry, first)
    registry.requests.clear()
    repository.upload(second)
    assert stored(registry, second)
    assert [request.status for request in registry.asked("PATCH")] == [202, 202, 202]


def test_fault_8_413_at_the_smallest_chunk_is_refused(serve: Serve, connect: Connect) -> None:
    """FAULTS 8, 10: where not even 1 MiB passes, RefusedError shows the proxy's words as one line, and a hint."""
    registry = serve(Profile(body_limit=MIB - 1))
    with pytest.raises(RefusedError, match=r"HTTP 413: 413 Request Entity Too Large$") as caught:
        connect(registry).upload(Data(BLOB))
    assert "limit" in caught.value.hint
    assert registry.received_bytes("PATCH") == 0


def test_fault_8_a_refusal_is_heard_while_sending(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 8, 10: an answer in the middle of a large body ends the sending, and is what is shown."""
    data = Data(pattern(64 * MIB), piece=MIB)
    registry.fail(
        method="PATCH", status=403, after_bytes=MIB, body='{"errors":[{"code":"DENIED","message":"quota exceeded"}]}'
    )
    with pytest.raises(AuthenticationError, match="HTTP 403: DENIED quota exceeded"):
        connect(registry).upload(data)
    assert data.served < 32 * MIB


@pytest.mark.parametrize("status", [405, 415, 400, 411])
def test_fault_9_monolithic_where_patch_is_refused(registry: FakeRegistry, connect: Connect, status: int) -> None:
    """FAULTS 9: where PATCH is refused, one PUT carries everything, once the digest is known."""
    repository, data = connect(registry), Data(BLOB)
    registry.fail(method="PATCH", status=status, body='{"errors":[{"code":"UNSUPPORTED"}]}', times=-1)
    repository.upload(data)
    assert stored(registry, data)
    assert registry.received_bytes("PUT") == len(BLOB)
    assert registry.open_sessions == 0
    tried = len(registry.asked("PATCH"))
    repository.upload(Data(pattern(1000)))
    assert len(registry.asked("PATCH")) == tried


def test_fault_9_ghcr_gets_chunks_of_4_mib(serve: Serve, connect: Connect) -> None:
    """FAULTS 9: 416 without a Range for a large PATCH means smaller ones; no byte is sent for nothing."""
    registry, data = serve("ghcr-4mib"), Data(BLOB)
    connect(registry).upload(data)
    assert stored(registry, data)
    assert [r.headers.get("content-range") for r in registry.asked("PATCH")] == [None, "0-4194303", "4194304-6291455"]


def test_fault_9_a_registry_that_requires_content_range(serve: Serve, connect: Connect) -> None:
    """FAULTS 9: a registry that takes no PATCH without Content-Range gets them with it."""
    registry, data = serve(Profile(content_range="required")), Data(BLOB)
    connect(registry).upload(data)
    assert stored(registry, data)


def test_fault_8_a_whole_that_is_too_large(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 8: where one PUT was found to be the way, and a proxy takes no such large one, chunks are tried."""
    repository = connect(registry)
    registry.fail(method="PATCH", status=405)
    repository.upload(Data(b"small"))
    assert registry.received_bytes("PUT") == len(b"small")
    registry.fail(method="PUT", status=413)
    data = Data(BLOB)
    repository.upload(data)
    assert stored(registry, data)
    assert registry.received_bytes("PATCH") == len(BLOB)
    assert registry.open_sessions == 0


@pytest.mark.parametrize("least", [0, MIB], ids=["any", "at-least-1-mib"])
def test_fault_9_where_4_mib_are_too_much_as_well(serve: Serve, connect: Connect, least: int) -> None:
    """FAULTS 9: a second 416 means still smaller chunks."""
    registry, data = serve(Profile(patch_limit=4 * MIB - 1, chunk_min=least)), Data(BLOB)
    connect(registry).upload(data)
    assert stored(registry, data)
    assert {request.received for request in registry.asked("PATCH") if request.status == 202} == {MIB}


def test_fault_4_a_range_that_is_never_right(serve: Serve, connect: Connect) -> None:
    """FAULTS 4: where Range is wrong in a new session too (Amazon ECR's does not grow), one PUT carries everything."""
    registry, data = serve("ecr-201"), Data(BLOB)
    connect(registry).upload(data, chunk=MIB)
    assert stored(registry, data)
    assert registry.open_sessions <= 1
    assert [request.received for request in registry.asked("PUT")] == [len(BLOB)]


@pytest.mark.parametrize(
    ("host", "size", "refused"),
    [
        pytest.param("ghcr.io", 10 * 1000**3 + 1, True, id="ghcr-over"),
        pytest.param("ghcr.io", 10 * 1000**3, False, id="ghcr-fits"),
        pytest.param("123456789012.dkr.ecr.eu-west-1.amazonaws.com", 52_000 * MIB + 1, True, id="ecr-over"),
        pytest.param("123456789012.dkr.ecr.eu-west-1.amazonaws.com", 40 * 1000**3, False, id="ecr-fits"),
        pytest.param("registry.example.com", 10**15, False, id="unknown"),
    ],
)
def test_fault_10_known_limits(connect: Connect, host: str, size: int, refused: bool) -> None:
    """FAULTS 10: a layer over the registry's documented limit is refused before byte 1, with what to do."""
    data = Data(b"")
    data.size = size
    # A proxy that is not there: what is not refused before fails there, and nothing leaves this machine.
    client = connect.client(proxies={"https": "http://127.0.0.1:1"}, retries=0)
    with pytest.raises(RefusedError if refused else TransientError) as caught:
        client.repository(Reference.parse(f"{host}/team/model")).upload(data)
    assert ("takes layers of at most" in str(caught.value)) is refused
    assert data.opened == []


def test_oci_chunk_min_length_is_honoured(serve: Serve, connect: Connect) -> None:
    """No chunk but the last is smaller than OCI-Chunk-Min-Length (distribution-spec, "Pushing a blob in chunks")."""
    registry, data = serve(Profile(chunk_min=2 * MIB)), Data(pattern(5 * MIB))
    connect(registry).upload(data, chunk=MIB)
    assert stored(registry, data)
    assert [request.received for request in registry.asked("PATCH")] == [2 * MIB, 2 * MIB, MIB]


def test_fault_10_a_layer_over_the_registrys_limit(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 10: a commit that is refused as too large is RefusedError, and not repeated."""
    registry.fail(
        method="PUT", status=413, body='{"errors":[{"code":"SIZE_INVALID","message":"layer over 10 GB"}]}', times=-1
    )
    with pytest.raises(RefusedError, match="HTTP 413: SIZE_INVALID layer over 10 GB"):
        connect(registry).upload(Data(BLOB))
    assert len(registry.asked("PUT")) == 1
    assert registry.open_sessions == 0


def test_a_commit_that_is_refused_for_another_reason(registry: FakeRegistry, connect: Connect) -> None:
    """A 400 that names its reason is shown with it after one fresh try: it is not called a wrong digest."""
    registry.fail(method="PUT", status=400, body='{"errors":[{"code":"NAME_INVALID","message":"reserved"}]}', times=-1)
    with pytest.raises(RefusedError, match="NAME_INVALID reserved"):
        connect(registry).upload(Data(BLOB))
    assert len(registry.asked("PUT")) == 2


# ------------------------------------------------------------------------------------------------ logins


def test_fault_11_a_token_expires_in_the_middle(serve: Serve, connect: Connect) -> None:
    """FAULTS 11: a token that expires between two chunks is renewed, and the same session goes on."""
    registry = serve(users={"ada": "secret"})
    logins = Credentials.of({registry.host: Login("ada", "secret")})
    registry.fail(method="PATCH", skip=2, call=lambda request: registry.expire_tokens())
    registry.fail(method="PUT", call=lambda request: registry.expire_tokens())
    data = Data(BLOB)
    connect(registry, credentials=logins).upload(data, chunk=MIB)
    assert stored(registry, data)
    assert len([r for r in registry.asked("POST", "uploads") if r.status == 202]) == 1
    assert [r.status for r in registry.asked("PATCH")].count(202) == 6


def test_fault_11_a_token_expires_before_a_stream(serve: Serve, connect: Connect) -> None:
    """FAULTS 11: a stream that is refused with 401 is sent again from its first byte, in the same session."""
    registry = serve(users={"ada": "secret"})
    logins = Credentials.of({registry.host: Login("ada", "secret")})
    registry.fail(method="PATCH", call=lambda request: registry.expire_tokens())
    data = Data(BLOB)
    connect(registry, credentials=logins).upload(data)
    assert stored(registry, data)
    assert [r.status for r in registry.asked("PATCH")] == [401, 202]


def test_fault_12_403_is_not_repeated(serve: Serve, connect: Connect) -> None:
    """FAULTS 12: a login that may not push is AuthenticationError at the first request."""
    registry = serve(users={"ada": "secret"}, auth="basic", allow=lambda user, repository, action: action == "pull")
    logins = Credentials.of({registry.host: Login("ada", "secret")})
    with pytest.raises(AuthenticationError, match=r"HTTP 403: DENIED requested access"):
        connect(registry, credentials=logins).upload(Data(BLOB))
    assert [r.status for r in registry.asked("POST")] == [401, 403]


# ------------------------------------------------------------------------------------------------ waits


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 522])
def test_fault_13_14_a_passing_status_anywhere(
    registry: FakeRegistry, connect: Connect, method: str, status: int
) -> None:
    """FAULTS 13, 14, 16: a passing status at any step is waited out, and the blob is right."""
    data = Data(pattern(MIB))
    registry.fail(method=method, status=status, times=2)
    connect(registry).upload(data)
    assert stored(registry, data)
    assert len(connect.slept) >= 2


@pytest.mark.parametrize("status", [501, 505])
def test_fault_14_never_again(registry: FakeRegistry, connect: Connect, status: int) -> None:
    """FAULTS 14: 501 and 505 to the opening of a session are final."""
    registry.fail(method="POST", status=status, times=-1)
    with pytest.raises(RefusedError, match=f"HTTP {status}"):
        connect(registry).upload(Data(BLOB))
    assert len(registry.asked("POST")) == 1


def test_fault_15_a_slow_commit_is_waited_for(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 15: the answer to a commit may take longer than the idle limit."""
    data = Data(pattern(MIB))
    registry.fail(method="PUT", call=lambda request: time.sleep(0.8))
    connect(registry).upload(data)
    assert stored(registry, data)
    assert len(registry.asked("PUT")) == 1


def test_fault_16_a_full_disk_is_bounded(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 16: a registry whose disk is full is asked a few times, and its long words are cut to one line."""
    registry.fail(method="PATCH", status=500, body="no space left on device\n\x1b[2J" * 5000, times=-1)
    with pytest.raises(TransientError) as caught:
        connect(registry, retries=2).upload(Data(pattern(MIB)))
    assert "no space left on device" in caught.value.message
    assert len(caught.value.message) < 600
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message
    assert len(registry.asked("PATCH")) == 3


# ------------------------------------------------------------------------------------------------ where a session is


def test_fault_17_a_session_on_another_host_gets_no_login(serve: Serve, connect: Connect) -> None:
    """FAULTS 17: a Location on another origin is used without Authorization."""
    registry, storage = serve(users={"ada": "secret"}, auth="basic"), serve()
    session = connect(storage)
    # A session in the other registry, opened by hand.
    opened = session._send("POST", f"{storage.url}/v2/team/model/blobs/uploads/", "open", session._push)
    location = storage.url + opened.headers["location"]
    registry.fail(method="POST", skip=1, status=202, headers={"Location": location})
    data = Data(BLOB)
    logins = Credentials.of({registry.host: Login("ada", "secret")})
    connect(registry, credentials=logins).upload(data)
    assert storage.blob("team/model", data.descriptor.digest) == BLOB
    assert all("authorization" not in request.headers for request in storage.requests)
    assert "authorization" in registry.asked("POST")[1].headers


@pytest.mark.parametrize(
    "location",
    ["http://169.254.169.254/latest/meta-data", "ftp://example.com/x", "http://user@127.0.0.1/x", "http://[::"],
)
def test_fault_17_a_session_where_it_cannot_be(registry: FakeRegistry, connect: Connect, location: str) -> None:
    """FAULTS 17: a Location that leads to an address which it must not is refused before a byte is sent."""
    registry.fail(method="POST", status=202, headers={"Location": location})
    with pytest.raises(RefusedError, match="sends us to"):
        connect(registry).upload(Data(BLOB))
    assert registry.asked("PATCH") == []


# ------------------------------------------------------------------------------------------------ giving up


def test_an_upload_that_turns_out_to_be_needless_is_dropped(registry: FakeRegistry, connect: Connect) -> None:
    """cancelled() ends the sending within a chunk, closes the session, and says how much was sent."""
    data = Data(pattern(32 * MIB), piece=MIB)
    data.stop_after = 4 * MIB
    with pytest.raises(UploadDropped) as caught:
        connect(registry).upload(data)
    assert caught.value.sent <= 5 * MIB
    assert registry.open_sessions == 0
    assert registry.asked("PUT") == []


def test_an_upload_that_was_faster_than_the_hash_is_dropped(
    registry: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What turns out to be there when all of it was sent is not committed: the session is closed."""
    data = Data(pattern(3 * MIB), piece=MIB)
    monkeypatch.setattr(data, "cancelled", lambda: data.hashed > 0)
    with pytest.raises(UploadDropped) as caught:
        connect(registry).upload(data)
    assert caught.value.sent == data.size
    assert registry.open_sessions == 0
    assert registry.asked("PUT") == []


def test_what_is_there_already_is_not_begun(registry: FakeRegistry, connect: Connect) -> None:
    """Content that turns out to be there before anything was sent opens no session."""
    data = Data(BLOB)
    data.stop_after = -1
    with pytest.raises(UploadDropped):
        connect(registry).upload(data)
    assert registry.requests == []


def test_a_whole_that_turns_out_to_be_there(serve: Serve, connect: Connect) -> None:
    """Where everything would go in one PUT, what its digest shows to be there is not sent."""
    registry, data = serve("gar-monolithic"), Data(BLOB)
    repository = connect(registry)
    repository.upload(Data(b"small"))  # it is known by now that this registry wants one PUT
    registry.requests.clear()
    real = data.digest

    def digest() -> Digest:
        data.stop_after = -1
        return real()

    data.digest = digest  # type: ignore[method-assign]
    with pytest.raises(UploadDropped):
        repository.upload(data)
    assert registry.asked("POST") == [] and registry.open_sessions == 0


def test_closing_the_client_ends_an_upload(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 32: close() in another thread ends an upload that waits for its registry, at once."""
    client = connect.client(limits=None)
    repository = client.repository(Reference.parse(f"{registry.host}/team/model"))
    registry.fail(
        method="PATCH", action="stall", after_bytes=MIB, call=lambda request: threading.Timer(0.1, client.close).start()
    )
    started = time.monotonic()
    with pytest.raises(TransientError, match="stopped"):
        repository.upload(Data(pattern(32 * MIB)))
    assert time.monotonic() - started < 2


def test_fault_33_two_uploads_of_the_same_blob(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 33: the same blob pushed by four threads at once arrives, and all succeed."""
    repository, data = connect(registry), Data(BLOB)
    failures: list[BaseException] = []

    def push() -> None:
        try:
            repository.upload(Data(BLOB))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            failures.append(error)

    threads = [threading.Thread(target=push) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert stored(registry, data)


def test_no_message_holds_a_query_or_a_secret(serve: Serve, connect: Connect) -> None:
    """Secrets, session states and headers are in no message."""
    registry = serve(users={"ada": "canary-password"})
    logins = Credentials.of({registry.host: Login("ada", "canary-password")})
    registry.fail(
        method="PATCH", status=409, body=f"Bearer abcdefgh12345678 {registry.url}/x?_state=canary-state", times=-1
    )
    with pytest.raises(RefusedError) as caught:
        connect(registry, credentials=logins).upload(Data(BLOB))
    text = f"{caught.value} {caught.value.hint} {caught.value!r}"
    assert not [word for word in ("canary", "abcdefgh", "_state") if word in text]
