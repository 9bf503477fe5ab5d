"""The same against distribution's own registry (docker-registry), where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from layerkit.oci import Reference
from layerkit.registry import MissingBlobsError, Repository
from registry.support import MIB, Connect, Data, image, pattern

PROGRAM = shutil.which("docker-registry")
pytestmark = [pytest.mark.engine, pytest.mark.skipif(PROGRAM is None, reason="docker-registry is not installed")]
BLOB = pattern(6 * MIB)


class Real:
    """A docker-registry of its own, in a folder of its own, that can be killed and started again.

    With *room* its storage is a tmpfs of that many bytes, which goes with the process (a mount namespace of its own).
    """

    def __init__(self, folder: Path, *, room: int = 0) -> None:
        self.folder = folder
        self.room = room
        folder.mkdir(exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(folder / "data")},
                "delete": {"enabled": True},
                "cache": {"blobdescriptor": "inmemory"},
            },
            "http": {"addr": self.host, "secret": "fixed"},
        }
        (folder / "config.yml").write_text(json.dumps(config))
        self.start()

    def start(self) -> None:
        assert PROGRAM is not None
        command = [PROGRAM, "serve", str(self.folder / "config.yml")]
        if self.room:
            (self.folder / "data").mkdir(exist_ok=True)
            mount = 'mount -t tmpfs -o size="$1" none "$2"; shift 2; exec "$@"'
            root = [] if os.geteuid() == 0 else ["--map-root-user"]
            inside = ["sh", "-ec", mount, "sh", str(self.room), str(self.folder / "data")]
            command = ["unshare", *root, "--mount", *inside, *command]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise AssertionError("docker-registry does not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def lose_bytes(self) -> None:
        """What garbage collection under a running registry does."""
        for path in (self.folder / "data").glob("docker/registry/v2/blobs/sha256/*/*/data"):
            path.unlink()


class FaultyLine:
    """A TCP proxy that resets a connection once *limits* (one for each, in their order) bytes went up."""

    def __init__(self, target: int, limits: list[int]) -> None:
        self._target = target
        self._limits = limits
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            down = threading.Thread(target=self._copy, args=(server, client, 1 << 60), daemon=True)
            down.start()
            # Small requests pass: the limit is of the first connection that sends more than it.
            if self._copy(client, server, self._limits[0] if self._limits else 1 << 60):
                self._limits.pop(0)
                for end in (client, server):
                    with suppress(OSError):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                with suppress(OSError):
                    server.shutdown(socket.SHUT_WR)
                down.join(10)
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RD)

    def _copy(self, source: socket.socket, target: socket.socket, limit: int) -> bool:
        passed = 0
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data[: limit - passed])
                passed += len(data)
                if passed >= limit:
                    return True
        return False

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    registry = Real(tmp_path)
    yield registry
    registry.kill()


def repository(connect: Connect, host: str) -> Repository:
    return connect.client(limits=None).repository(Reference.parse(f"{host}/team/model"))


@pytest.mark.parametrize("chunk", [None, MIB], ids=["stream", "chunked"])
@pytest.mark.parametrize("size", [0, 1, 6 * MIB])
def test_an_image_is_pushed_and_read(real: Real, connect: Connect, size: int, chunk: int | None) -> None:
    """Blob, configuration, manifest, tag: all of it against the real one."""
    blob = pattern(size)
    home, made, data = repository(connect, real.host), image(blob), Data(blob)
    home.upload(data, chunk=chunk)
    home.put_blob(made.config.raw)
    assert home.present(data.descriptor)
    home.put_manifest(made.manifest, "v1")
    assert home.resolve("v1") == made.manifest.descriptor()
    assert home.manifest("v1") == made.manifest
    assert home.tags() == ("v1",)
    assert home.blob(data.descriptor) == blob
    home.delete_manifest(made.manifest.digest)
    assert home.resolve("v1") is None


@pytest.mark.parametrize("chunk", [None, MIB], ids=["stream", "chunked"])
@pytest.mark.parametrize("limits", [[3 * MIB], [100_000, 5 * MIB], [65536, 65536, 65536]], ids=str)
def test_fault_2_resets_in_the_middle(real: Real, connect: Connect, limits: list[int], chunk: int | None) -> None:
    """FAULTS 1, 2: distribution 2.8 forgets a session that broke inside a PATCH; the blob arrives all the same."""
    data = Data(BLOB)
    with ExitStack() as stack:
        line = FaultyLine(real.port, limits)
        stack.callback(line.close)
        repository(connect, line.host).upload(data, chunk=chunk)
    assert limits == []
    assert repository(connect, real.host).blob(data.descriptor) == BLOB


def test_fault_2_a_kill_between_two_chunks(real: Real, connect: Connect) -> None:
    """FAULTS 2: killed and started again at a chunk's boundary, the registry goes on where it was."""
    data = Data(BLOB, piece=MIB)

    def restart(start: int) -> None:
        if start == 3 * MIB:
            data.on_piece = None
            real.kill()
            real.start()

    data.on_piece = restart
    sent = repository(connect, real.host).upload(data, chunk=MIB)
    assert repository(connect, real.host).blob(data.descriptor) == BLOB
    assert sent <= len(BLOB) + MIB


def test_fault_23_a_head_that_lies(real: Real, connect: Connect) -> None:
    """FAULTS 23: after garbage collection HEAD and mount say yes; present says no, and an upload repairs it."""
    home = repository(connect, real.host)
    for blob in (BLOB, b"small"):
        data = Data(blob)
        home.upload(data)
        assert home.present(data.descriptor)
        real.lose_bytes()
        assert home.exists(data.descriptor.digest, data.size)
        assert not home.present(data.descriptor)
        home.upload(data)
        assert home.present(data.descriptor)


def test_fault_24_missing_blobs_are_named(real: Real, connect: Connect) -> None:
    """FAULTS 24: the real one's words for a missing blob are understood."""
    made = image(b"layer")
    with pytest.raises(MissingBlobsError) as caught:
        repository(connect, real.host).put_manifest(made.manifest, "v1")
    assert set(caught.value.digests) == {made.config.digest, made.manifest.layers[0].digest}


def test_fault_30_mount(real: Real, connect: Connect) -> None:
    """FAULTS 30: a blob is mounted from another repository; one that is not there is not."""
    data = Data(BLOB)
    client = connect.client()
    client.repository(Reference.parse(f"{real.host}/team/base")).upload(data)
    home = client.repository(Reference.parse(f"{real.host}/team/model"))
    assert home.mount(data.descriptor.digest, "team/base")
    assert home.present(data.descriptor)
    assert not home.mount(image(b"x").manifest.digest, "team/base")
