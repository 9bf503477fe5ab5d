"""The reference registry on a loopback port, and the few HTTP calls that put an image into it."""

from __future__ import annotations

import http.client
import json
import os
import random
import secrets
import shutil
import socket
import time
import urllib.parse
from pathlib import Path

import processes
from core import ENGINE, TAG, EngineError, State, run, write_atomically
from packages import program

STORAGE = ENGINE / "registry"
CONTAINER = f"layerkit-registry-{TAG}"  # only where there is a Docker but no docker-registry program


def address(state: State) -> str:
    return f"127.0.0.1:{state.get('registry_port')}"


def answers(where: str) -> bool:
    """True when GET /v2/ says 200."""
    try:
        connection = http.client.HTTPConnection(where, timeout=5)
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def is_up(state: State) -> bool:
    ours = processes.pid_of(state, "registry") is not None or state.get("registry_container")
    return bool(ours) and answers(address(state))


def free_port(preferred: int | None) -> int:
    """Last time's port if it is free, so that references stay valid; else one below the kernel's ephemeral range."""
    for port in [preferred, *random.sample(range(20000, 32000), 50)]:
        if port:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
    raise EngineError("no free loopback port for the registry")


def start(state: State, client: str = "docker") -> None:
    """Start it, as a program or else as a container of the Docker that is there, and wait until it answers."""
    if is_up(state):
        return
    processes.stop(state, "registry")
    port = free_port(state.get("registry_port"))
    state.set(registry_port=port, registry_secret=state.get("registry_secret") or secrets.token_hex(16))
    if program("docker-registry") is None:
        run([client, "rm", "--force", "--volumes", CONTAINER], check=False)
        options = [
            "--detach",
            "--name",
            CONTAINER,
            "--publish",
            f"127.0.0.1:{port}:5000",
            "--env",
            "REGISTRY_STORAGE_DELETE_ENABLED=true",
        ]
        run([client, "run", *options, "registry:2"], timeout=300)
        state.set(registry_container=True)
        for _ in range(100):
            if answers(address(state)):
                return
            time.sleep(0.1)
        raise EngineError("the registry's container does not answer")
    STORAGE.mkdir(parents=True, exist_ok=True)
    config = ENGINE / "registry.yml"
    # JSON is YAML: no quoting to get wrong.
    settings = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(STORAGE)},
            "delete": {"enabled": True},
            "cache": {"blobdescriptor": "inmemory"},
        },
        # Uploads carry their state signed with this; with a fixed one they survive a restart.
        "http": {"addr": f"127.0.0.1:{port}", "secret": state.get("registry_secret")},
    }
    write_atomically(config, json.dumps(settings, indent=2), mode=0o600)
    env = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    processes.start(state, "registry", [program("docker-registry") or "", "serve", config], env)
    processes.wait_until(state, "registry", lambda: answers(address(state)))


def stop(state: State, client: str = "docker") -> bool:
    if state.get("registry_container"):
        run([client, "rm", "--force", "--volumes", CONTAINER], check=False)
        state.set(registry_container=None)
        return True
    return processes.stop(state, "registry", patience=5)


def wipe(state: State) -> None:
    """Delete everything in the storage; the registry must be stopped."""
    shutil.rmtree(STORAGE, ignore_errors=True)


class Pusher:
    """Puts blobs and a manifest into one repository, over plain HTTP on loopback."""

    def __init__(self, where: str, repository: str) -> None:
        self.where, self.repository = where, repository

    def call(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.where, timeout=120)
        connection.request(method, path, body=body, headers=headers or {})  # type: ignore[arg-type]
        response = connection.getresponse()
        response.read()
        return response

    def blob(self, path: Path, digest: str) -> None:
        """POST, then one PUT with all the bytes (distribution-spec, "Pushing a blob monolithically")."""
        if self.call("HEAD", f"/v2/{self.repository}/blobs/{digest}").status == 200:
            return
        begun = self.call("POST", f"/v2/{self.repository}/blobs/uploads/")
        location = urllib.parse.urlsplit(begun.headers.get("Location", ""))
        query = "&".join(part for part in (location.query, "digest=" + urllib.parse.quote(digest)) if part)
        with path.open("rb") as stream:
            headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
            done = self.call("PUT", f"{location.path}?{query}", stream, headers)
        if done.status != 201:
            raise EngineError(f"the registry answered {done.status} to a blob of the base image")

    def manifest(self, body: bytes, media_type: str, tag: str) -> None:
        done = self.call("PUT", f"/v2/{self.repository}/manifests/{tag}", body, {"Content-Type": media_type})
        if done.status != 201:
            raise EngineError(f"the registry answered {done.status} to the base image's manifest")
