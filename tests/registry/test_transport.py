"""Requests on bad networks: retries and waits, redirects, TLS, proxies, limits."""

from __future__ import annotations

import itertools
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from layerkit import __version__
from layerkit.errors import AuthenticationError, ConfigurationError, LayerkitError, RefusedError, TransientError
from layerkit.oci import Digest, Reference
from layerkit.registry import Client, Credentials, Limits, Login
from layerkit.registry.pacing import Pace
from layerkit.testing import FakeRegistry
from registry.support import MIB, Connect, Data, image, pattern

Serve = Callable[..., FakeRegistry]


# ------------------------------------------------------------------------------------------------ retries


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 522])
def test_fault_14_passing_statuses_are_bounded(registry: FakeRegistry, connect: Connect, status: int) -> None:
    """FAULTS 14: a passing status is tried again with growing, jittered pauses, and ends as TransientError."""
    fault = registry.fail(status=status, times=-1)
    with pytest.raises(TransientError, match=rf"^resolve 127.0.0.1:\d+/team/model:v1: HTTP {status} \(5 attempts\)$"):
        connect(registry, retries=4).resolve("v1")
    assert fault.hits == 5
    # Where it may be a limit on requests, the turn that all threads share is waited for besides.
    pauses = connect.slept[::2] if status in (429, 503) else connect.slept
    assert len(pauses) == 4
    assert all(low / 2 <= pause <= low for pause, low in zip(pauses, (0.5, 1, 2, 4), strict=True))


def test_what_is_tried_again_is_told(registry: FakeRegistry, connect: Connect) -> None:
    """Why something is tried again is told at once, one time for all attempts and requests; success tells nothing."""
    told: list[str] = []
    repository = connect(registry, told=told.append)
    assert repository.resolve("v1") is None and told == []
    registry.fail(status=503, times=2)
    repository.resolve("v1")
    registry.fail(status=503)
    repository.resolve("v2")
    assert told == [f"resolve {registry.host}/team/model:v1: HTTP 503; trying again"]
    registry.fail(status=500)
    repository.resolve("v2")
    assert told[1:] == [f"resolve {registry.host}/team/model:v2: HTTP 500; trying again"]


@pytest.mark.parametrize("status", [400, 405, 410, 418, 501, 505])
def test_fault_14_other_statuses_are_final(registry: FakeRegistry, connect: Connect, status: int) -> None:
    """FAULTS 14: any other refusal is final at once."""
    fault = registry.fail(method="GET", status=status, times=-1)
    with pytest.raises(RefusedError, match=f"HTTP {status}"):
        connect(registry).manifest("v1")
    assert fault.hits == 1
    assert connect.slept == []


def test_a_server_that_is_not_there(connect: Connect) -> None:
    """A refused connection is tried again, and is TransientError that names the host."""
    registry = FakeRegistry()
    registry.close()
    with pytest.raises(TransientError, match=rf"{registry.host} refuses the connection \(3 attempts\)") as caught:
        connect(registry, retries=2).resolve("v1")
    assert caught.value.exit_status == 7
    assert caught.value.hint


def test_a_name_that_does_not_resolve(connect: Connect) -> None:
    """A host that no name server knows is TransientError: name servers fail, too."""
    repository = connect.client(retries=0).repository(Reference.parse("registry.invalid/a"))
    with pytest.raises(TransientError, match=r"the name of registry\.invalid cannot be resolved"):
        repository.resolve("v1")


@pytest.mark.parametrize("action", ["reset", "lost", "cut"])
def test_broken_answers_are_asked_again(registry: FakeRegistry, connect: Connect, action: Any) -> None:
    """Answers that are lost or cut are asked for again, and never taken for whole."""
    made = image(b"layer")
    registry.push("team/model", "v1", made)
    registry.fail(method="GET", action=action, after_bytes=10 if action == "cut" else 0, times=2)
    assert connect(registry).manifest("v1") == made.manifest


def test_a_server_that_never_answers(registry: FakeRegistry, connect: Connect) -> None:
    """A silent server is given up after the idle limit."""
    registry.fail(action="stall", times=-1)
    started = time.monotonic()
    with pytest.raises(TransientError, match="did not answer in time"):
        connect(registry, retries=1, limits=Limits(idle=0.2)).resolve("v1")
    assert time.monotonic() - started < 3


def test_an_idle_connection_that_was_closed(registry: FakeRegistry, connect: Connect) -> None:
    """A kept connection that the server closed meanwhile is replaced, with no pause and no error."""
    repository = connect(registry)
    repository.exists(Digest.of(b"x"))
    registry._server.cut()
    repository.exists(Digest.of(b"x"))
    assert len(connect.slept) <= 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_fault_13_retry_after_is_obeyed(registry: FakeRegistry, connect: Connect, form: str) -> None:
    """FAULTS 13: Retry-After is waited for, as seconds or as a date."""
    value = "7" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
    registry.fail(status=429, headers={"Retry-After": value})
    connect(registry).resolve("v1")
    assert 5 < max(connect.slept) <= 8


def test_fault_13_retry_after_is_capped(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 13: a registry that asks for a day gets the cap."""
    registry.fail(status=503, headers={"Retry-After": "86400"})
    connect(registry, limits=Limits(wait=9.0)).resolve("v1")
    assert 8 < max(connect.slept) <= 9


def test_fault_13_retry_after_holds_for_all_threads(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 13: what one thread was told, the others heed: nobody asks before the time is over."""
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)

    client = connect.client(sleep=sleep)
    client.transport._pace = Pace(lambda: now[0])
    repository = client.repository(Reference.parse(f"{registry.host}/a"))
    client.transport._pace.hold(registry.host, 30.0)
    now[0] = 10.0
    threads = [threading.Thread(target=repository.resolve, args=("v1",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slept == [20.0, 20.0, 20.0]
    now[0] = 31.0
    repository.resolve("v1")
    assert len(slept) == 3


def test_fault_13_one_back_off_for_all(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 13: a 429 without a time slows every request to the host down, and the answers quicken them again."""
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    client = connect.client(sleep=sleep)
    client.transport._pace = Pace(lambda: now[0])
    repository = client.repository(Reference.parse(f"{registry.host}/a"))
    registry.fail(status=429)
    repository.resolve("v1")
    del slept[:]
    for number in range(60):
        repository.resolve(f"v{number}")
    assert slept[0] == pytest.approx(0.1)
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(slept))
    assert len(slept) < 60, "it is as fast as before in the end"


def test_no_answer_at_all(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 14: where asked for, nobody's answer is waited for less long than that of a server in trouble."""
    registry.fail(status=502, times=4)
    assert connect(registry, unanswered=1).resolve("v1") is None
    gone = connect(registry, unanswered=1)
    registry.close()
    with pytest.raises(TransientError, match=r"refuses the connection \(2 attempts\)$"):
        gone.resolve("v1")


def test_close_ends_a_wait(registry: FakeRegistry) -> None:
    """FAULTS 32: close() in another thread ends a pause between attempts at once."""
    registry.fail(status=503, headers={"Retry-After": "60"}, times=-1)
    with Client() as client:
        threading.Timer(0.1, client.close).start()
        started = time.monotonic()
        with pytest.raises(TransientError, match="stopped"):
            client.repository(Reference.parse(f"{registry.host}/a")).resolve("v1")
        assert time.monotonic() - started < 2
        with pytest.raises(TransientError, match="stopped"):
            client.repository(Reference.parse(f"{registry.host}/a")).resolve("v1")


# ------------------------------------------------------------------------------------------------ redirects


def test_fault_20_authorization_is_dropped(serve: Serve, connect: Connect) -> None:
    """FAULTS 20: a redirect to another origin is followed without the Authorization header; on the same, with it."""
    registry, storage = serve(users={"ada": "secret"}, auth="basic"), serve()
    made = image(b"layer")
    storage.push("team/model", "v1", made)
    registry.push("team/model", "v2", made)
    logins = Credentials.of({registry.host: Login("ada", "secret")})
    location = f"{storage.url}/v2/team/model/manifests/v1"
    registry.fail(method="GET", path="v1", skip=1, status=307, headers={"Location": location})
    registry.fail(method="GET", path="v0", status=302, headers={"Location": "/v2/team/model/manifests/v2"})
    repository = connect(registry, credentials=logins)
    assert repository.manifest("v1") == made.manifest
    assert "authorization" not in storage.requests[0].headers
    assert repository.manifest("v0") == made.manifest
    assert "authorization" in registry.requests[-1].headers


def test_fault_20_redirects_are_bounded(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 20: ten redirects are followed, the eleventh is RefusedError."""
    made = image(b"layer")
    registry.push("team/model", "v1", made)
    again = {"Location": "/v2/team/model/manifests/v1"}
    registry.fail(status=301, headers=again, times=10)
    assert connect(registry).manifest("v1") == made.manifest
    registry.fail(status=301, headers=again, times=11)
    with pytest.raises(RefusedError, match="over 10 redirects"):
        connect(registry).manifest("v1")


def test_fault_20_a_body_follows_307_only(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 20: a PATCH follows 307 and 308 with its whole body; 302 would lose it and is refused."""
    data = Data(pattern(3 * MIB))
    registry.fail(method="POST", status=307, headers={"Location": "/v2/team/model/blobs/uploads/?x=1"})
    connect(registry).upload(data)
    assert registry.blob("team/model", data.descriptor.digest) == data.data
    registry.fail(method="PUT", status=302, headers={"Location": "/elsewhere"}, times=-1)
    with pytest.raises(RefusedError, match="HTTP 302"):
        connect(registry).upload(data)


@pytest.mark.parametrize("location", ["http://169.254.169.254/x", "ftp://x/y", "https://10.0.0.1:99999/"])
def test_fault_17_redirects_that_are_not_followed(registry: FakeRegistry, connect: Connect, location: str) -> None:
    """FAULTS 17: a redirect is held to the same rules as a Location."""
    registry.fail(method="GET", status=307, headers={"Location": location})
    with pytest.raises(RefusedError, match="sends us to"):
        connect(registry).manifest("v1")


# ------------------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(serve: Serve, authority: trustme.CA) -> FakeRegistry:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return serve(tls=context)


def trusting(tmp_path: Path, registry: FakeRegistry, authority: trustme.CA | None) -> Path:
    """A certs.d in which *registry* is, with the authority's certificate."""
    folder = tmp_path / registry.host
    folder.mkdir()
    if authority is not None:
        authority.cert_pem.write_to_path(folder / "ca.crt")
    return tmp_path


@pytest.mark.parametrize("way", ["certs.d", "bundle", "bundle-folder"])
def test_tls_with_a_private_authority(
    secure: FakeRegistry, connect: Connect, authority: trustme.CA, tmp_path: Path, way: str
) -> None:
    """An authority from /etc/docker/certs.d/HOST/ca.crt or from the bundle is trusted; uploads and reads work."""
    options: dict[str, Any] = {"certificates": trusting(tmp_path, secure, authority if way == "certs.d" else None)}
    if way == "bundle":
        authority.cert_pem.write_to_path(tmp_path / "bundle.pem")
        options["ca_bundle"] = str(tmp_path / "bundle.pem")
    if way == "bundle-folder":
        # A folder of authorities is found by hashed names, which openssl rehash makes: an empty one trusts nobody.
        (tmp_path / "folder").mkdir()
        options["ca_bundle"] = str(tmp_path / "folder")
        authority.cert_pem.write_to_path(tmp_path / secure.host / "ca.crt")
    data = Data(pattern(3 * MIB))
    repository = connect(secure, **options)
    repository.upload(data)
    assert repository.blob(data.descriptor) == data.data


def test_fault_21_an_unknown_authority(secure: FakeRegistry, connect: Connect, tmp_path: Path) -> None:
    """FAULTS 21: an unknown authority is final: no second try, nothing without TLS, and the remedy named."""
    certificates = trusting(tmp_path, secure, None)
    with pytest.raises(AuthenticationError, match=f"the certificate of {secure.host} is not trusted") as caught:
        connect(secure, certificates=certificates).resolve("v1")
    assert f"{secure.host}/ca.crt" in caught.value.hint
    assert connect.slept == []
    assert secure.requests == []


def test_fault_21_a_certificate_for_another_name(
    serve: Serve, connect: Connect, authority: trustme.CA, tmp_path: Path
) -> None:
    """FAULTS 21: a trusted certificate for another host is refused as well."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example.com").configure_cert(context)
    registry = serve(tls=context)
    with pytest.raises(AuthenticationError, match="not trusted"):
        connect(registry, certificates=trusting(tmp_path, registry, authority)).resolve("v1")


def test_tls_to_a_plain_server(registry: FakeRegistry, connect: Connect, tmp_path: Path) -> None:
    """A server without TLS is RefusedError with the remedy, and not asked again."""
    with pytest.raises(RefusedError, match="does not speak TLS") as caught:
        connect(registry, certificates=trusting(tmp_path, registry, None)).resolve("v1")
    assert "insecure" in caught.value.hint
    assert connect.slept == []


def test_fault_18_a_proxy_that_forgets_its_tls(
    secure: FakeRegistry, connect: Connect, authority: trustme.CA, tmp_path: Path
) -> None:
    """FAULTS 18: http:// in the Location of an https registry is the same origin: nothing is sent plain."""
    data = Data(pattern(MIB))
    opened: list[str] = []
    repository = connect(secure, certificates=trusting(tmp_path, secure, authority))
    answer = repository._send("POST", f"{secure.url}/v2/team/model/blobs/uploads/", "open", repository._push)
    opened.append(answer.headers["location"])
    port_of_nobody = f"http://127.0.0.1:1{opened[0]}"
    secure.fail(method="POST", status=202, headers={"Location": port_of_nobody})
    repository.upload(data)
    assert secure.blob("team/model", data.descriptor.digest) == data.data


def test_a_refusal_is_heard_while_sending_by_tls(
    secure: FakeRegistry, connect: Connect, authority: trustme.CA, tmp_path: Path
) -> None:
    """FAULTS 8: also through TLS an early answer ends the sending."""
    data = Data(pattern(48 * MIB), piece=MIB)
    secure.fail(method="PATCH", status=403, after_bytes=MIB, body='{"errors":[{"code":"DENIED","message":"quota"}]}')
    with pytest.raises(AuthenticationError, match="DENIED quota"):
        connect(secure, certificates=trusting(tmp_path, secure, authority)).upload(data)
    assert data.served < 32 * MIB


def test_resume_through_tls(secure: FakeRegistry, connect: Connect, authority: trustme.CA, tmp_path: Path) -> None:
    """FAULTS 1: resets and stalls are survived through TLS as well."""
    data = Data(pattern(24 * MIB))
    secure.fail(method="PATCH", action="reset", after_bytes=3 * MIB)
    secure.fail(method="PATCH", action="stall", after_bytes=MIB)
    connect(secure, certificates=trusting(tmp_path, secure, authority)).upload(data)
    assert secure.blob("team/model", data.descriptor.digest) == data.data


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_bundle_that_cannot_be_read(
    secure: FakeRegistry, connect: Connect, tmp_path: Path, content: str | None
) -> None:
    """A bundle that is missing or no certificate is ConfigurationError that names the file."""
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(ConfigurationError, match=r"bundle\.pem"):
        connect(secure, ca_bundle=str(bundle), certificates=trusting(tmp_path, secure, None)).resolve("v1")


@pytest.mark.parametrize(
    ("host", "insecure", "root"),
    [
        pytest.param("r.example.com", (), "https://r.example.com", id="secure"),
        pytest.param("r.example.com:80", (), "https://r.example.com:80", id="port-80"),
        pytest.param("r.example.com:5000", ("r.example.com:5000",), "http://r.example.com:5000", id="insecure"),
        pytest.param("r.example.com:5000", ("r.example.com",), "https://r.example.com:5000", id="other-port"),
        pytest.param("localhost:5000", (), "http://localhost:5000", id="loopback"),
        pytest.param("docker.io", (), "https://registry-1.docker.io", id="docker-hub"),
    ],
)
def test_who_is_spoken_to_without_tls(connect: Connect, host: str, insecure: tuple[str, ...], root: str) -> None:
    """Plain HTTP is for loopback hosts and for those that were named, with their port."""
    assert connect.client(insecure=insecure).transport.root(host) == root


# ------------------------------------------------------------------------------------------------ proxies


def test_a_proxy_is_used(registry: FakeRegistry, connect: Connect) -> None:
    """Requests go through the proxy of their scheme, its login with them and not in messages."""
    made = image(b"layer")
    registry.push("team/model", "v1", made)
    client = connect.client(
        insecure=["registry.test:5000"], proxies={"http": f"http://ada:canary%40@{registry.host}"}, retries=0
    )
    repository = client.repository(Reference.parse("registry.test:5000/team/model"))
    assert repository.manifest("v1") == made.manifest
    assert registry.requests[0].headers["host"] == "registry.test:5000"
    assert registry.requests[0].headers["proxy-authorization"].startswith("Basic ")


@pytest.mark.parametrize("no", ["registry.invalid", ".invalid", "*", "x, registry.invalid:5000"])
def test_no_proxy(registry: FakeRegistry, connect: Connect, no: str) -> None:
    """Hosts that NO_PROXY names are reached without the proxy."""
    client = connect.client(insecure=["registry.invalid:5000"], proxies={"http": registry.url, "no": no}, retries=0)
    with pytest.raises(TransientError, match="cannot be resolved"):
        client.repository(Reference.parse("registry.invalid:5000/a")).resolve("v1")
    assert registry.requests == []


def test_loopback_needs_no_proxy(registry: FakeRegistry, connect: Connect) -> None:
    """This machine is never reached through a proxy."""
    assert connect(registry, proxies={"http": "http://127.0.0.1:1"}).resolve("v1") is None


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        pytest.param("http://127.0.0.1:1", "refuses the connection", id="dead"),
        pytest.param("127.0.0.1:1", "refuses the connection", id="no-scheme"),
    ],
)
def test_a_proxy_that_is_dead(connect: Connect, proxy: str, message: str) -> None:
    """A dead proxy is TransientError."""
    client = connect.client(proxies={"https": proxy}, retries=0)
    with pytest.raises(TransientError, match=message):
        client.repository(Reference.parse("registry.test/a")).resolve("v1")


def test_a_proxy_of_an_unknown_kind(connect: Connect) -> None:
    """A SOCKS proxy is ConfigurationError, and its password is not shown."""
    client = connect.client(proxies={"all": "socks5://ada:canary@127.0.0.1:1"})
    with pytest.raises(ConfigurationError, match="only http and https proxies") as caught:
        client.repository(Reference.parse("registry.test/a")).resolve("v1")
    assert "canary" not in str(caught.value)


def test_a_proxy_that_refuses_to_connect(registry: FakeRegistry, connect: Connect) -> None:
    """A proxy that wants a login for CONNECT is AuthenticationError."""
    registry.fail(method="CONNECT", status=407, times=-1)
    client = connect.client(proxies={"https": registry.url}, retries=0)
    with pytest.raises(AuthenticationError, match="the proxy wants a login"):
        client.repository(Reference.parse("registry.test/a")).resolve("v1")


# ------------------------------------------------------------------------------------------------ small things


def test_we_say_who_we_are(registry: FakeRegistry, connect: Connect) -> None:
    """Every request carries User-Agent layerkit/VERSION, and asks for no compression."""
    connect(registry).resolve("v1")
    headers = registry.requests[0].headers
    assert headers["user-agent"] == f"layerkit/{__version__}"
    assert headers["accept-encoding"] == "identity"


def test_fault_22_error_bodies_are_limited(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 22: of an endless error page 64 KiB are read, and one escaped line is shown."""
    registry.fail(method="GET", status=400, body=b"\x1b]0;owned\x07" + b"A" * (20 * MIB))
    with pytest.raises(RefusedError) as caught:
        connect(registry).manifest("v1")
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"garbage\r\n\r\n", id="no-http"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", id="no-length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", id="long-header"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 500 + b"\r\n", id="many-headers"),
        pytest.param(b"HTTP/1.1 999 \xff\xff\r\nContent-Length: 0\r\n\r\n", id="unknown-status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad-chunk"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_answers_that_are_no_http(connect: Connect, raw: bytes) -> None:
    """Whatever comes instead of an answer is one of our errors."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(raw)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        host = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(LayerkitError) as caught:
            connect.client(retries=1).repository(Reference.parse(f"{host}/a")).manifest("v1")
        assert caught.value.message.isprintable()
        # What ended after one attempt leaves the thread waiting for the second.
        with socket.create_connection(("127.0.0.1", server.getsockname()[1])) as last:
            last.sendall(b"x")
            thread.join(0.2)


def test_many_threads_share_a_client(registry: FakeRegistry, connect: Connect) -> None:
    """Thirty-two threads use one client at once."""
    repository = connect(registry)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            data = Data(pattern(100_000, number))
            repository.upload(data)
            assert repository.blob(data.descriptor) == data.data
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
