"""What the state machine of ``test_histories`` moves: one registry, one project, the clean digests; and figures.

A build runs through ``Session``, as ``layerkit build --push`` does after its arguments are read; only waiting
is left out. One that is to be killed runs in a process of its own, made by a fork of one that has imported all.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layerkit.errors import LayerkitError
from layerkit.oci import Digest, Image, Manifest
from layerkit.pipeline import execute
from layerkit.project import load
from layerkit.registry import Client, Credentials, Login
from layerkit.request import Request
from layerkit.results import Result
from layerkit.runtime.bake import PLACEHOLDER, PLACEHOLDER_NAME
from layerkit.session import Session
from layerkit.settings import Settings
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Pushing, image, tar_of
from registry.support import QUICK, pattern

SIZE = 150_000
TAG = "v1"
USER, PASSWORD = "ada", "canary-3f9c41"
CODES = ("print('one')\n", "print('two')\n")
FIGURES: Counter[str] = Counter()


def build(project: str, environment: dict[str, str], host: str) -> Result:
    """``layerkit build --push`` in the folder *project*, without its waiting."""
    settings = Settings.from_environment(environment)
    with Session(load(None, root=Path(project)), Request((TAG,), True), settings) as session:
        logins = Credentials.of({host: Login(USER, PASSWORD)})
        client = Client(credentials=logins, sleep=lambda seconds: None, limits=QUICK)
        session.to.client = session.to.base_client = client
        return execute(session, session.plan())


def fork_builds() -> None:
    """The process that forks: for each line of arguments it writes the child's id, then how the child ended."""
    import tenacity  # noqa: F401 - all that a build imports, imported once

    for line in sys.stdin:
        if not (child := os.fork()):
            status = 1
            try:
                build(*json.loads(line))
                status = 0
            except LayerkitError as error:
                status = error.exit_status
            finally:
                os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


class Killed:
    """Makes builds in processes of their own, of which the registry kills one when a certain request arrives."""

    def __init__(self) -> None:
        paths = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-c", "from registry.machine import fork_builds; fork_builds()"]
        self._forks = subprocess.Popen(
            command, env={**os.environ, **paths}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._child = 0
        self._known = threading.Event()
        self._over = threading.Event()
        self.done = False

    def __call__(self, *_: object) -> None:
        if not self.done:
            self.done = True
            assert self._known.wait(10)
            os.kill(self._child, signal.SIGKILL)
            self._over.wait(10)

    def run(self, *arguments: Any) -> int:
        """The exit status of such a build; -9 where it was killed."""
        assert self._forks.stdin and self._forks.stdout
        self.done = False
        self._known.clear()
        self._over.clear()
        self._forks.stdin.write(json.dumps(arguments) + "\n")
        self._forks.stdin.flush()
        self._child = int(self._forks.stdout.readline())
        self._known.set()
        status = int(self._forks.stdout.readline())
        self._over.set()
        return status

    def close(self) -> None:
        assert self._forks.stdin and self._forks.stdout
        self._forks.stdin.close()
        self._forks.wait(10)
        self._forks.stdout.close()


class World:
    """A registry with base and runtime images, and a project whose weights and code can be any of a few.

    ``clean`` knows the digest that each (weights, code) has in a world where nothing ever went wrong.
    """

    def __init__(self, root: Path) -> None:
        self.registry = FakeRegistry("strict", users={USER: PASSWORD}).start()
        self.pushing = Pushing(root, self.registry.host)
        self.pushing.login(self.registry.host, USER, PASSWORD)
        self.theirs, self._their_blobs = image([(tar_of({"theirs": b"theirs"}), "COPY theirs")])
        self._seeds: list[tuple[str, str, Image, list[bytes]]] = [("team/base", "1", *self.pushing.base())]
        self.seed()
        for code in range(len(CODES)):
            self.write_code(code)
            tag = f"runtime-{self.pushing.runtime_key()}"
            self._seeds.append((NAME, tag, *_runtime(CODES[code])))
        self.seed()
        self._start = copy.deepcopy(self.registry._repositories)
        self._clean: dict[tuple[int, int], str] = {}
        self.killer = Killed()

    def close(self) -> None:
        self.killer.close()
        self.registry.close()

    def reset(self) -> None:
        """Nothing ever happened."""
        self.registry.heal()
        self.registry.forget_sessions()
        self.registry.requests.clear()
        self.registry._repositories = copy.deepcopy(self._start)
        self.registry._dropped.clear()
        self.seed()
        self.lose_state()

    def seed(self) -> None:
        """What BuildKit, somewhere, has built: bases and runtime images, whole."""
        for repository, tag, made, blobs in self._seeds:
            self.registry.push(repository, tag, made, blobs)

    def lose_state(self) -> None:
        shutil.rmtree(self.pushing.state, ignore_errors=True)

    def write_code(self, code: int) -> None:
        (self.pushing.project / "serve.py").write_text(CODES[code])

    def write_weights(self, seed: int) -> Path:
        return self.pushing.weights(SIZE, seed)

    def change_in_place(self, seed: int) -> None:
        """As a trainer that does not care who reads: same inode, same size."""
        with open(self.pushing.project / "weights" / "model.pt", "r+b") as stream:
            stream.write(pattern(SIZE, seed))

    def push_theirs(self, *_: object) -> None:
        self.registry.push(NAME, TAG, self.theirs, self._their_blobs)

    @property
    def _arguments(self) -> tuple[str, dict[str, str], str]:
        return str(self.pushing.project), self.pushing.environ, self.registry.host

    def build(self) -> Result:
        return build(*self._arguments)

    def build_apart(self) -> int:
        return self.killer.run(*self._arguments)

    def clean(self, weights: int, code: int) -> str:
        """The digest of a build of these, on a machine and in a registry that hold nothing of it."""
        key = (weights, code)
        if key not in self._clean:
            self.reset()
            self.write_weights(weights)
            self.write_code(code)
            self._clean[key] = str(self.build().digest)
        return self._clean[key]

    # ------------------------------------------------------------------------------------------------ what is there

    def tag(self) -> str:
        return str(self.registry.tag(NAME, TAG) or "")

    def readable(self) -> frozenset[str]:
        """Blobs of the repository whose bytes are there."""
        found = self.registry._repositories[NAME].blobs
        return frozenset(digest for digest in found if self.registry._file(digest).exists())

    def ours(self) -> list[str]:
        """Blobs that builds have put there: layers of the checkpoint, configurations."""
        seeded = self._start[NAME].blobs
        return sorted(self.readable() - seeded)

    def layers_of_runtimes(self) -> list[str]:
        return sorted({str(d.digest) for _, _, made, _ in self._seeds[1:] for d in made.manifest.layers})

    def missing(self, digest: str) -> frozenset[str]:
        """What the image *digest* names and nobody can read, every byte compared with its digest."""
        raw, _ = self.registry._repositories[NAME].manifests[digest]
        manifest = Manifest.parse(raw)
        lost = set()
        for descriptor in (manifest.config, *manifest.layers):
            content = self.registry.blob(NAME, descriptor.digest)
            if content is None or len(content) != descriptor.size or Digest.of(content) != descriptor.digest:
                lost.add(str(descriptor.digest))
        return frozenset(lost)

    def commits(self) -> list[str]:
        """Digests of the blobs whose upload was ended well since the last reset of ``requests``."""
        asked = self.registry.asked("PUT", "/blobs/uploads/.")
        return [request.query.get("digest", "") for request in asked if request.status == 201]

    def sent(self) -> int:
        """Bytes of blobs that arrived since then."""
        return self.registry.received_bytes(path="/blobs/uploads/")


def _runtime(code: str) -> tuple[Image, list[bytes]]:
    return image(
        [
            (tar_of({"usr/bin/python3": b"python"}), "ADD rootfs"),
            (tar_of({f"app/model/{PLACEHOLDER_NAME}": PLACEHOLDER}), "COPY --link --from=checkpoint . /app/model/"),
            (tar_of({"app/serve.py": code.encode()}), "COPY --link serve.py /app"),
        ]
    )


def script(world: World, kind: str, skip: int, place: str, after: int) -> dict[str, Any]:
    """One fault of *kind* for ``FakeRegistry.fail``, at the request number *skip* of those at *place*."""
    method, _, path = place.partition(" ")
    where = {"method": method, "path": path, "skip": skip}
    calls: dict[str, Callable[..., object]] = {
        "session lost": lambda request: world.registry.forget_sessions(),
        "token expired": lambda request: world.registry.expire_tokens(),
    }
    if kind in calls:
        return {**where, "call": calls[kind]}
    if kind in ("reset", "cut"):
        return {**where, "action": kind, "after_bytes": after if kind == "reset" else after % 300}
    if kind == "answer lost":
        return {**where, "action": "lost"}
    if kind == "wrong Location":
        bad = ("http://10.0.0.1/v2/x", "https://[::", "file:///etc/passwd", "/v2/team/model/blobs/uploads/none", "")
        where |= {"method": "POST", "path": "uploads", "skip": 0}
        return {**where, "status": 202, "headers": {"Location": bad[after % 5]}}
    if kind == "said done, not done":
        return {**where, "method": "PUT", "path": path if method == "PUT" else "uploads", "status": 201}
    headers = {"Retry-After": "0"} if kind in ("429", "503") else {}
    return {**where, "status": int(kind), "headers": headers, "after_bytes": after if after % 2 else 0}


def write_figures() -> None:
    """For ``make soak``: what was done, added to the file that LAYERKIT_SOAK_FIGURES names."""
    if target := os.environ.get("LAYERKIT_SOAK_FIGURES"):
        with open(target, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(FIGURES) + "\n")
