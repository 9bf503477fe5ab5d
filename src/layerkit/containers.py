"""Containers of the local Docker: made, followed, ended."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Sequence

from .engine import Engine
from .errors import AuthenticationError, LayerkitError, LocalResourceError, printable
from .failures import login_hint

__all__ = ["Containers"]

_STOP = 10  # seconds that a container is given to end by itself, as docker stop gives it
_PATIENCE = 120.0  # seconds for docker to make or start a container
_GPU = ("could not select device driver", "nvidia-container-cli", "unresolvable cdi devices", "nvidia.com/gpu")
_MOUNT = ('type "image"', "type=image", "invalid mount type", "mount type unknown", "image-subpath", "imageoptions")


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
        with self._engine.beside("pull", reference, results=False) as process:
            try:
                status = process.wait()
            except BaseException:
                process.terminate()
                raise
        if status != 0:
            raise LocalResourceError(f"docker: the image {reference} is neither here nor can be pulled", hint=hint)

    def create(self, options: Sequence[Sequence[str]], **settings: str | bool) -> str:
        """A container of ``docker create`` options, not begun yet; its id.

        Args:
            settings: further options by name: a value, or True for a flag.

        Raises:
            LocalResourceError: docker refused it.
        """
        words = [word for option in options for word in option]
        flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in settings.items() if value]
        done = self._engine.ask("create", *flags, *words, timeout=_PATIENCE)
        if done.returncode != 0:
            raise _refused(done.stderr.decode(errors="replace"))
        return done.stdout.decode().strip()

    def start(self, container: str) -> None:
        """Begin it in the background.

        Raises:
            LocalResourceError: it cannot begin: a port is taken, a GPU is not there.
        """
        done = self._engine.ask("start", container, timeout=_PATIENCE)
        if done.returncode != 0:
            raise _refused(done.stderr.decode(errors="replace"))

    def attach(self, container: str, *, input_: bool, terminal: bool, stopping: Callable[[], object]) -> int:
        """Begin it, with its output on ours, until it ends; its exit status.

        Ctrl-C is the container's, as with ``docker run``; a second one ends it. Any other exception stops it.

        Args:
            input_: our standard input is its own.
            terminal: it is a terminal: Ctrl-C reaches the container as a key.
            stopping: called with the first Ctrl-C.

        Raises:
            LocalResourceError: it cannot begin.
        """
        words = ("start", "--attach", *(("--interactive",) if input_ else ()), container)
        with self._engine.beside(*words, own_group=not terminal, has_input=input_) as process:
            status = self._wait(process, container, stopping)
        if status != 0 and (said := self._never_began(container)):
            raise _refused(said)
        return status

    def _wait(self, process: subprocess.Popen[bytes], container: str, stopping: Callable[[], object]) -> int:
        asked, due = 0, False
        while True:
            try:
                if due:
                    due = False
                    if asked == 1:
                        stopping()
                    # Not by way of our docker process: a signal makes it leave before the container's last words.
                    self._quietly("kill", *(("--signal", "INT") if asked == 1 else ()), container)
                return process.wait()
            except KeyboardInterrupt:
                asked, due = asked + 1, True
            except BaseException:
                self._quietly("stop", "-t", str(_STOP), container)
                process.terminate()
                raise

    def _never_began(self, container: str) -> str:
        """Why it did not begin; "" where it did."""
        done = self._engine.ask("inspect", "--format", "{{json .State}}", container)
        with contextlib.suppress(ValueError, AttributeError):
            state = json.loads(done.stdout)
            if str(state.get("StartedAt", "")).startswith("0001-"):
                return str(state.get("Error") or "the container did not begin")
        return ""

    def remove(self, container: str) -> None:
        """Delete it, running or not, also while Ctrl-C is pressed again."""
        for _ in range(3):
            with contextlib.suppress(KeyboardInterrupt):
                self._quietly("rm", "--force", "--volumes", container)
                break

    def _quietly(self, *words: str) -> None:
        with contextlib.suppress(LocalResourceError):
            self._engine.ask(*words)


def _refused(said: str) -> LayerkitError:
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(("WARNING", "Run 'docker"))]
    text = " ".join(lines).removeprefix("docker: ").removeprefix("Error response from daemon: ")
    text = printable(text, 400)
    lowered = text.lower()
    hint = ""
    if "unauthorized" in lowered or "denied: requested access" in lowered:
        return AuthenticationError(f"docker: {text}", hint=login_hint(text))
    if any(words in lowered for words in _GPU):
        hint = "no GPU that Docker can give: install the NVIDIA Container Toolkit, or leave --gpus out"
    elif "already allocated" in lowered or "address already in use" in lowered:
        hint = "take another port: -p 127.0.0.1:PORT:CONTAINER_PORT"
    elif "already in use by container" in lowered:
        hint = "take another --name, or delete that container"
    elif any(words in lowered for words in _MOUNT):
        hint = (
            "images are mounted by Docker 28 and newer; --set checkpoint.placement=volume mounts this machine's weights"
        )
    return LocalResourceError(f"docker: {text}", hint=hint)
