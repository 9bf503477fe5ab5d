"""Why docker failed, by its words, which are those of Docker 28 and 29."""

from __future__ import annotations

import pytest

from layerkit.daemon import Endpoint
from layerkit.failures import build_failure, docker_failure, stream_failure, unreachable
from layerkit.runtime.progress import Progress

TLS = Endpoint("tcp://h:2376")
SOCKET = Endpoint("unix:///run/d.sock")
SSH = Endpoint("ssh://me@h:22")
BY_SSH = (
    'error during connect: Get "http://docker.example.com/v1.51/info": command [ssh -l me -p 22 -o ConnectTimeout=30 -T'
    " -- h docker system dial-stdio] has exited with exit status 255, make sure the URL is valid, and Docker 18.09 or"
    " later is installed on the remote host: stderr=Warning: Permanently added 'h'.\r\n"
)


@pytest.mark.parametrize(
    ("endpoint", "said", "why", "hint"),
    [
        pytest.param(
            Endpoint("tcp://h:2376", "prod"),
            'error during connect: Get "https://h:2376/v1.51/images/x:1/json": tls: failed to verify certificate: x509:'
            " certificate signed by unknown authority",
            "tcp://h:2376 (docker context 'prod'): tls: failed to verify certificate: x509: certificate signed by"
            " unknown authority",
            "DOCKER_CERT_PATH",
            id="another authority",
        ),
        pytest.param(
            TLS,
            'error during connect: Get "https://h:2376/v1.51/info": remote error: tls: certificate required',
            "tcp://h:2376: remote error: tls: certificate required",
            "DOCKER_CERT_PATH",
            id="no certificate",
        ),
        pytest.param(
            TLS,
            "Failed to initialize: unable to resolve docker endpoint: open /c/ca.pem: no such file or directory",
            "tcp://h:2376: open /c/ca.pem: no such file or directory",
            "DOCKER_CERT_PATH",
            id="no file",
        ),
        pytest.param(
            TLS,
            "Error response from daemon: Client sent an HTTP request to an HTTPS server.",
            "tcp://h:2376: Client sent an HTTP request to an HTTPS server.",
            "DOCKER_TLS_VERIFY",
            id="no TLS",
        ),
        pytest.param(
            TLS,
            "Cannot connect to the Docker daemon at tcp://h:2376. Is the docker daemon running?",
            "tcp://h:2376",
            "start Docker",
            id="refused",
        ),
        pytest.param(
            TLS,
            'error during connect: Get "https://h:2376/v1.51/info": dial tcp: lookup h on 10.0.0.1:53: no such host',
            "tcp://h:2376: dial tcp: lookup h on 10.0.0.1:53: no such host",
            "DOCKER_HOST",
            id="no such host",
        ),
        pytest.param(
            SOCKET,
            "permission denied while trying to connect to the Docker daemon socket at unix:///run/d.sock: Get"
            ' "http://%2Frun%2Fd.sock/v1.51/info": dial unix /run/d.sock: connect: permission denied',
            "unix:///run/d.sock: permission denied",
            "group",
            id="not ours",
        ),
        pytest.param(
            SOCKET,
            "failed to connect to the docker API at unix:///run/d.sock; check if the path is correct and if the daemon"
            " is running: dial unix /run/d.sock: connect: no such file or directory",
            "unix:///run/d.sock: dial unix /run/d.sock: connect: no such file or directory",
            "start Docker",
            id="Docker 29",
        ),
        pytest.param(
            SOCKET,
            "permission denied while trying to connect to the docker API at unix:///run/d.sock",
            "unix:///run/d.sock: permission denied",
            "group",
            id="not ours, Docker 29",
        ),
        pytest.param(
            Endpoint("", "gone"),
            'Failed to initialize: unable to resolve docker endpoint: context "gone": context not found: open'
            " /home/me/.docker/contexts/meta/ca37/meta.json: no such file or directory",
            "docker context 'gone': there is none of that name",
            "docker context ls",
            id="no such context",
        ),
        pytest.param(
            SSH,
            BY_SSH + "me@h: Permission denied (publickey).\r\n",
            "ssh://me@h:22: me@h: Permission denied (publickey).",
            "ssh ssh://me@h:22 docker version",
            id="SSH, no key",
        ),
        pytest.param(
            SSH,
            BY_SSH.partition("stderr=")[0] + "stderr=ssh: connect to host h port 22: Connection refused",
            "ssh://me@h:22: ssh: connect to host h port 22: Connection refused",
            "ssh ssh://me@h:22 docker version",
            id="SSH, refused",
        ),
    ],
)
def test_unreachable(endpoint: Endpoint, said: str, why: str, hint: str) -> None:
    """A Docker that does not answer is 11: its address, why in few words, and the step for that very failure."""
    for error in (unreachable(said, endpoint), docker_failure(f"{said}\n", endpoint)):
        assert error.exit_status == 11
        assert error.message == f"docker: no daemon answers at {why}"
        assert hint in error.hint


def test_other_failures_of_a_daemon() -> None:
    """Of a daemon that answers, and refuses, it is not said that it does not answer."""
    error = docker_failure("Error response from daemon: invalid reference format\n", SOCKET)
    assert error.exit_status == 11
    assert error.message == "docker at unix:///run/d.sock: Error response from daemon: invalid reference format"


@pytest.mark.parametrize("what", ["load", "save"])
@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        (
            SSH,
            'error during connect: Post "http://docker.example.com/v1.51/images/load?quiet=1": write |1: file closed',
        ),
        (TLS, 'error during connect: Post "https://h:2376/v1.51/images/load?quiet=1": write |1: file closed\n'),
    ],
)
def test_a_connection_that_is_lost_meanwhile(what: str, endpoint: Endpoint, said: str) -> None:
    """A load or a save whose Docker is gone in the middle names it as it was named to us, and what to do."""
    error = stream_failure(what, endpoint, said)
    assert error.message == f"docker {what}: the connection to {endpoint.host} was lost: write |1: file closed"
    assert error.exit_status == 11 and "again" in error.hint


def test_a_load_that_is_refused() -> None:
    """What the daemon has against an archive is told as it says it."""
    error = stream_failure("load", TLS, "write /var/lib/x: no space left on device")
    assert error.message == "docker load: write /var/lib/x: no space left on device"
    assert "docker system df" in error.hint


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('ERROR: use `docker --context=prod buildx` to switch to context "prod"', "'prod' is the Docker of another"),
        ('ERROR: docker endpoint for "default" not found', "docker endpoint for"),
        ("ERROR: failed to connect to the docker API at unix:///run/d.sock", "failed to connect"),
    ],
)
def test_a_build_that_finds_no_builder(said: str, message: str) -> None:
    """A build that buildx did not begin, for want of its Docker, is a matter of this machine and no failed step."""
    progress = Progress()
    assert list(progress.feed(said.encode())) == []
    error = build_failure(progress, 1)
    assert error.exit_status == 11 and message in error.message and error.hint


def test_a_builder_that_is_gone_in_the_middle() -> None:
    """A build that loses its builder failed, in no step of its own: said so, with what to do."""
    progress = Progress()
    said = b"ERROR: failed to receive status: rpc error: code = Unavailable desc = error reading from server: EOF"
    assert list(progress.feed(said)) == []
    error = build_failure(progress, 1)
    assert error.exit_status == 4
    assert "the connection to the builder was lost" in error.message and "build again" in error.hint
