"""Containers of the local Docker: begun, followed, ended."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence

from .engine import Engine
from .errors import LocalResourceError, printable

__all__ = ["Containers"]

_STOP = 10  # seconds that a container is given to end by itself, as docker stop gives it
_NO_GPU = ("could not select device driver", "nvidia-container-cli", "unknown or invalid runtime name: nvidia", "cdi")


class Containers:
    """What ``layerkit run`` does with docker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def bring(self, reference: str, hint: str) -> None:
        """Have the image *reference* here; docker says on standard error how the pull goes.

        Raises:
            LocalResourceError: it is neither here nor can be pulled; with *hint*.
        """
        if self._engine.image(reference) is not None:
            return
        done = subprocess.run([*self._engine.command, "pull", reference], stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise LocalResourceError(f"docker: the image {reference} is neither here nor can be pulled", hint=hint)

    def mounts_images(self) -> bool:
        """Whether an image can be mounted: Docker 28 with the containerd image store."""
        version = self._engine.ask("version", "--format", "{{.Server.Version}}").stdout.decode(errors="replace")
        major = version.partition(".")[0]
        return major.isdigit() and int(major) >= 28 and self._engine.abilities.store == "containerd"

    def create(self, words: Sequence[str]) -> str:
        """A container for the arguments of ``docker run``, begun; its id.

        Raises:
            LocalResourceError: docker refused it: a port that is taken, a GPU that is not there.
        """
        done = self._engine.ask("create", *words, timeout=120)
        if done.returncode != 0:
            raise _refused(done.stderr)
        return done.stdout.decode().strip()

    def start(self, container: str) -> None:
        """Begin it in the background.

        Raises:
            LocalResourceError: it cannot begin; it is deleted then.
        """
        done = self._engine.ask("start", container, timeout=120)
        if done.returncode != 0:
            self.remove(container)
            raise _refused(done.stderr)

    def follow(self, container: str) -> None:
        """Its output on ours, until it ends."""
        self._sharing("logs", "--follow", container)

    def attach(self, container: str) -> int:
        """Begin it with our terminal as its own, until it ends; its exit status."""
        return self._sharing("start", "--attach", "--interactive", container, own_group=False)

    def _sharing(self, *words: str, own_group: bool = True) -> int:
        # In a group of its own, Ctrl-C comes to us alone: the container is asked to stop, and its last words are seen.
        with subprocess.Popen([*self._engine.command, *words], start_new_session=own_group) as process:
            try:
                return process.wait()
            except BaseException:
                process.terminate()
                raise

    def status(self, container: str) -> int:
        """The exit status of a container that has ended, or once it has."""
        done = self._engine.ask("wait", container, timeout=24 * 3600)
        text = done.stdout.decode(errors="replace").strip()
        return int(text) if text.isdigit() else 1

    def stop(self, container: str) -> None:
        """Ask it to end; after 10 seconds it is ended."""
        with contextlib.suppress(LocalResourceError):
            self._engine.ask("stop", "--time", str(_STOP), container, timeout=_STOP + 20)

    def remove(self, container: str) -> None:
        """Delete it, running or not."""
        with contextlib.suppress(LocalResourceError):
            self._engine.ask("rm", "--force", "--volumes", container)


def _refused(stderr: bytes) -> LocalResourceError:
    said = printable(stderr.decode(errors="replace").strip().removeprefix("Error response from daemon: "), 400)
    lowered = said.lower()
    hint = ""
    if any(words in lowered for words in _NO_GPU):
        hint = "no GPU that Docker can give: install the NVIDIA Container Toolkit, or leave --gpus out"
    elif "already allocated" in lowered or "address already in use" in lowered:
        hint = "take another port: -p 127.0.0.1:PORT:CONTAINER_PORT"
    elif "already in use by container" in lowered:
        hint = "take another --name, or delete that container"
    return LocalResourceError(f"docker: {said}", hint=hint)
