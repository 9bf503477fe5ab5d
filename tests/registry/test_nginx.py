"""A real registry behind nginx that ends TLS, as companies run it: with its defaults, and with the limits they set."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme

from layerkit.oci import Reference
from layerkit.registry import Client
from registry.pushing import NAME, Pushing, whole_image
from registry.support import MIB
from registry.test_real_registry import PROGRAM as REGISTRY
from registry.test_real_registry import Real
from registry.tunnel import Tunnel

PROGRAM = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(PROGRAM is None or REGISTRY is None, reason="nginx or docker-registry is not installed"),
]
HOST = "registry.example"
SIZE = 9 * MIB
CONFIGURATION = """\
daemon off;
{user}
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  limit_req_zone $binary_remote_addr zone=slow:1m rate=10r/s;
  limit_req_zone $binary_remote_addr zone=slower:1m rate=5r/s;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.key;
    location / {{
      proxy_pass http://{upstream};
      proxy_set_header Host $http_host;
      {directives}
    }}
  }}
}}
"""


class Nginx:
    """nginx in front of *upstream*, with TLS for ``registry.example`` and *directives* in its location."""

    def __init__(self, folder: Path, upstream: str, authority: trustme.CA, directives: str) -> None:
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        self.folder = folder
        certificate = authority.issue_cert(HOST)
        certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
        certificate.private_key_pem.write_to_path(folder / "server.key")
        user = "user root;" if os.geteuid() == 0 else ""  # its workers write to the folder
        text = CONFIGURATION.format(user=user, folder=folder, port=port, upstream=upstream, directives=directives)
        (folder / "nginx.conf").write_text(text)
        assert PROGRAM is not None
        self.process = subprocess.Popen([PROGRAM, "-p", str(folder), "-c", str(folder / "nginx.conf")])
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.02)
        raise AssertionError("nginx does not start")

    def statuses(self) -> list[int]:
        """Of every answer that it gave, in their order."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return [int(line.split('" ')[1].split()[0]) for line in lines]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


class Scene:
    """A project whose registry is behind nginx."""

    def __init__(self, folder: Path, directives: str, stack: ExitStack) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        self.real = Real(folder / "registry")
        stack.callback(self.real.kill)
        self.nginx = Nginx(folder / "nginx", self.real.host, authority, directives)
        stack.callback(self.nginx.close)
        self.tunnel = stack.enter_context(Tunnel(self.nginx.host))
        surroundings = {"HTTPS_PROXY": f"http://{self.tunnel.host}", "SSL_CERT_FILE": str(folder / "ca.pem")}
        self.pushing = Pushing(folder, HOST, surroundings)
        self._seed()
        self.pushing.weights(SIZE, seed=1)

    def _seed(self) -> None:
        # The base by the real registry's own address; the runtime image's key asks for it through nginx.
        with Client() as client:
            for name, (made, blobs) in (("team/base", self.pushing.base()), (NAME, self.pushing.runtime())):
                repository = client.repository(Reference.parse(f"{self.real.host}/{name}"))
                for blob in blobs:
                    repository.put_blob(blob)
                tag = "1" if name == "team/base" else f"runtime-{self.pushing.runtime_key()}"
                repository.put_manifest(made.manifest, tag)
        (self.nginx.folder / "access.log").write_text("")

    def whole(self) -> str:
        """The digest of what the tag names; every byte of it was read from the registry itself, and verified."""
        with Client() as client:
            return str(whole_image(client.repository(Reference.parse(f"{self.real.host}/{NAME}")), "v1"))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Callable[[str], Scene]]:
    with ExitStack() as stack:
        yield lambda directives: Scene(tmp_path, directives, stack)


@pytest.mark.parametrize(
    ("directives", "seen"),
    [
        pytest.param("client_max_body_size 0;", set(), id="http addresses"),
        pytest.param("client_max_body_size 0; proxy_set_header X-Forwarded-Proto https;", set(), id="as documented"),
        pytest.param(
            "client_max_body_size 0; proxy_request_buffering off; proxy_http_version 1.1;", set(), id="unbuffered"
        ),
        pytest.param("client_max_body_size 5m;", {413}, id="413"),
        pytest.param("client_max_body_size 5m; proxy_request_buffering off;", {413}, id="413 unbuffered"),
        pytest.param(
            "client_max_body_size 0; limit_req zone=slow burst=4 nodelay; limit_req_status 429;", {429}, id="429"
        ),
        pytest.param("client_max_body_size 0; limit_req zone=slow burst=4 nodelay;", {503}, id="503"),
        pytest.param(
            "client_max_body_size 0; limit_req zone=slower; limit_req_status 429;", {429}, id="429 without burst"
        ),
        pytest.param("client_max_body_size 0; limit_req zone=slower;", {503}, id="503 without burst"),
    ],
)
def test_behind_nginx(scene: Callable[[str], Scene], directives: str, seen: set[int]) -> None:
    """FAULTS 8, 13, 14, 18: with its limits and addresses as nginx has them, the image arrives, byte for byte."""
    made = scene(directives)
    done = made.pushing.built()
    assert made.whole() == done["digest"]
    assert seen <= set(made.nginx.statuses()), made.nginx.statuses()
    assert {line.split()[1] for line in made.tunnel.asked} == {f"{HOST}:443"}


def test_fault_8_no_room_at_all(scene: Callable[[str], Scene]) -> None:
    """FAULTS 8: a limit under every size of ours is 6, says who refused and what to change, and moves no tag."""
    made = scene("client_max_body_size 1k;")
    done = made.pushing.build()
    assert done.status == 6
    assert "413" in done.err and "client_max_body_size" in done.err
    with Client() as client:
        assert client.repository(Reference.parse(f"{made.real.host}/{NAME}")).resolve("v1") is None


def test_fault_14_the_registry_restarts(scene: Callable[[str], Scene]) -> None:
    """FAULTS 1, 2, 14: the registry behind nginx is killed and started again: 502 meanwhile, and the image arrives."""
    made = scene("client_max_body_size 0;")
    made.real.kill()
    back = threading.Timer(1.5, made.real.start)
    back.start()
    done = made.pushing.built()
    back.join()
    assert 502 in made.nginx.statuses()
    assert made.whole() == done["digest"]
