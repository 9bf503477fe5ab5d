"""The local Docker's socket: where it is, and what its daemon's answers mean. Its faults are scripted here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerkit.daemon import Daemon, endpoint_of
from layerkit.errors import LocalResourceError

Script = Callable[[socket.socket, bytes], None]  # the connection, and what came of the request's body by now
MIB = 1024 * 1024


class Fake:
    """A daemon that answers each connection by the next of its scripts, and the last one for ever."""

    def __init__(self, path: Path, *scripts: Script) -> None:
        self.path = path
        self.requests: list[bytes] = []
        self._scripts = list(scripts)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                with connection, contextlib.suppress(OSError):
                    data = b""
                    while b"\r\n\r\n" not in data:
                        data += connection.recv(65536)
                    head, _, body = data.partition(b"\r\n\r\n")
                    self.requests.append(head)
                    script(connection, body)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Callable[..., Fake]]:
    """A daemon by its scripts."""
    made: list[Fake] = []

    def make(*scripts: Script) -> Fake:
        made.append(Fake(tmp_path / "docker.sock", *scripts))
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()


def answer(status: int, body: bytes = b"", *, drain: bool = False) -> Script:
    """*status* with *body*; with *drain* once the request's body has come to its end."""

    def script(connection: socket.socket, data: bytes) -> None:
        while drain and not data.endswith(b"0\r\n\r\n"):
            data = data[-16:] + connection.recv(MIB)
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)

    return script


def hang_up(connection: socket.socket, data: bytes) -> None:
    """No answer at all."""


@pytest.mark.parametrize(
    ("environment", "config", "expected"),
    [
        pytest.param({"DOCKER_HOST": "unix:///run/d.sock"}, None, "/run/d.sock", id="DOCKER_HOST"),
        pytest.param({"DOCKER_HOST": "tcp://127.0.0.1:2375"}, None, None, id="TCP"),
        pytest.param({"DOCKER_HOST": "ssh://me@there"}, None, None, id="SSH"),
        pytest.param({}, None, "/var/run/docker.sock", id="default"),
        pytest.param({}, {"currentContext": "rootless"}, "/run/user/1000/docker.sock", id="current context"),
        pytest.param({"DOCKER_CONTEXT": "rootless"}, None, "/run/user/1000/docker.sock", id="DOCKER_CONTEXT"),
        pytest.param({"DOCKER_CONTEXT": "default"}, {"currentContext": "rootless"}, "/var/run/docker.sock", id="both"),
        pytest.param(
            {"DOCKER_HOST": "unix:///run/d.sock", "DOCKER_CONTEXT": "rootless"}, None, "/run/d.sock", id="host first"
        ),
        pytest.param({"DOCKER_CONTEXT": "gone"}, None, None, id="no such context"),
        pytest.param({"DOCKER_TLS_VERIFY": "0"}, None, None, id="TLS, nowhere"),
        pytest.param({"DOCKER_TLS": "1", "DOCKER_CONTEXT": "default"}, None, None, id="TLS, default"),
        pytest.param({"DOCKER_TLS_VERIFY": ""}, None, "/var/run/docker.sock", id="no TLS"),
        pytest.param({"DOCKER_TLS": "1", "DOCKER_HOST": "unix:///run/d.sock"}, None, "/run/d.sock", id="TLS, a socket"),
        pytest.param(
            {"DOCKER_TLS": "1", "DOCKER_CONTEXT": "rootless"}, None, "/run/user/1000/docker.sock", id="TLS, a context"
        ),
        pytest.param({}, ["no", "table"], "/var/run/docker.sock", id="odd config"),
        pytest.param({}, {"currentContext": 7}, "/var/run/docker.sock", id="odd name"),
    ],
)
def test_socket(environment: dict[str, str], config: object, expected: str | None, tmp_path: Path) -> None:
    """The socket is the one that the docker command would use; another kind of address is none."""
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"rootless").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    host = {"Host": "unix:///run/user/1000/docker.sock"}
    meta.write_text(json.dumps({"Name": "rootless", "Endpoints": {"docker": host}}))
    found = endpoint_of({"DOCKER_CONFIG": str(tmp_path), **environment}).socket
    assert (str(found) if found else None) == expected


def test_home_has_the_config(tmp_path: Path) -> None:
    """Without DOCKER_CONFIG, Docker's folder is below the home of the environment; a broken file is passed over."""
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text("{" * 100_000)
    assert endpoint_of({"HOME": str(tmp_path)}).socket == Path("/var/run/docker.sock")
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "away"}')
    assert endpoint_of({"HOME": str(tmp_path)}).socket is None


def test_nobody_answers(fake: Callable[..., Fake], tmp_path: Path) -> None:
    """Where nothing answers as a daemon does there is none: the docker command says why."""
    assert Daemon.at(None) is None
    assert Daemon.at(tmp_path / "none.sock") is None
    assert Daemon.at(fake(hang_up).path) is None


def test_somebody_else_answers(fake: Callable[..., Fake]) -> None:
    """What refuses a ping is not taken for a daemon."""
    assert Daemon.at(fake(answer(403)).path) is None


def test_image(fake: Callable[..., Fake]) -> None:
    """An image is what the daemon says of it, by its name unescaped where slashes and colons are; 404 is none."""
    made = fake(answer(200, b"OK"), answer(200, b'{"Id": "sha256:1"}'), answer(404, b'{"message": "No such image"}'))
    daemon = Daemon.at(made.path)
    assert daemon is not None
    assert daemon.image("127.0.0.1:5000/a/b:v 1") == {"Id": "sha256:1"}
    assert daemon.image("gone") is None
    assert made.requests[1].startswith(b"GET /images/127.0.0.1:5000/a/b:v%201/json?manifests=1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param(answer(500, b'{"message": "disk \\u001b[31m hurt"}'), "disk \\x1b[31m hurt", id="500"),
        pytest.param(answer(500, b"<html>"), "HTTP 500", id="HTML"),
        pytest.param(answer(200, b"[1"), "HTTP 200", id="broken JSON"),
        pytest.param(answer(200, b"[1]"), "HTTP 200", id="no object"),
        pytest.param(hang_up, "ended the connection", id="hangs up"),
    ],
)
def test_trouble(script: Script, said: str, fake: Callable[..., Fake]) -> None:
    """What a daemon in trouble says is told as a fault of this machine, fit for a terminal."""
    daemon = Daemon(fake(script).path)
    for ask in (lambda: daemon.image("a"), daemon.info, lambda: daemon.tag("a", "b", "c")):
        with pytest.raises(LocalResourceError) as caught:
            ask()
        assert said.replace("HTTP 200", "HTTP") in caught.value.message


def test_load(fake: Callable[..., Fake]) -> None:
    """The archive's pieces arrive as they were given, an empty one does not end them, and quiet success is success."""
    received: list[bytes] = []

    def take(connection: socket.socket, data: bytes) -> None:
        while not data.endswith(b"0\r\n\r\n"):
            data += connection.recv(MIB)
        received.append(data)
        answer(200, b'{"stream":"Loaded image: a"}\r\n')(connection, data)

    made = fake(take)
    load = Daemon(made.path).load()
    for piece in (b"one", b"", memoryview(b"x" * 300)):
        load.write(piece)
    load.finish()
    assert made.requests[0].startswith(b"POST /images/load?quiet=1 HTTP/1.1\r\n")
    assert received == [b"3\r\none\r\n" + b"12c\r\n" + b"x" * 300 + b"\r\n0\r\n\r\n"]


@pytest.mark.parametrize(
    ("script", "said", "hint"),
    [
        pytest.param(answer(500, b'{"message": "invalid tar header"}', drain=True), "invalid tar header", "", id="500"),
        pytest.param(
            answer(200, b'{"stream":"a"}\r\n{"errorDetail":{},"error":"no space left on device"}\r\n', drain=True),
            "no space left on device",
            "docker system df",
            id="an error in the answer",
        ),
        pytest.param(answer(400, b'{"message": "unrecognized image"}'), "unrecognized image", "", id="before its end"),
        pytest.param(hang_up, "the daemon", "", id="hangs up"),
    ],
)
def test_load_refused(script: Script, said: str, hint: str, fake: Callable[..., Fake]) -> None:
    """Whenever the daemon refuses an archive, its own reason is told; a connection that ends is told as that."""
    load = Daemon(fake(script).path).load()
    with pytest.raises(LocalResourceError) as caught:
        for _ in range(64):
            load.write(bytes(MIB))
        load.finish()
    assert caught.value.message.startswith("docker load: ") and said in caught.value.message
    assert hint in caught.value.hint and bool(hint) == bool(caught.value.hint)
    load.abort()  # once more does no harm


def test_abort(fake: Callable[..., Fake]) -> None:
    """Abort wakes a thread that is sending to a daemon that takes nothing."""
    held = threading.Event()
    load = Daemon(fake(lambda connection, data: held.wait(30) and None).path).load()
    caught: list[LocalResourceError] = []

    def send() -> None:
        try:
            while True:
                load.write(bytes(MIB))
        except LocalResourceError as error:
            caught.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive(), "the daemon took it all"
    load.abort()
    thread.join(10)
    held.set()
    assert not thread.is_alive() and len(caught) == 1


def test_daemon_is_gone(tmp_path: Path) -> None:
    """A socket that is no more is a fault of this machine."""
    with pytest.raises(LocalResourceError, match="docker load: No such file"):
        Daemon(tmp_path / "none.sock").load()
