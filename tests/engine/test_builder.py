"""A builder that hangs, goes away in the middle, or is not there: 4 or 11, nothing left running, no tag moved."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from layerkit.errors import LayerkitError
from layerkit.events import Phase
from layerkit.oci import Reference
from layerkit.pipeline import execute
from layerkit.project import load
from layerkit.registry import Client
from layerkit.request import Request
from layerkit.session import Session

from .conftest import MIB, Workspace, write_weights

SLOW = """\
FROM {base} AS image
RUN echo {token} && sleep 200
COPY --link --from=checkpoint . /app/model/
"""


def processes(token: str) -> list[int]:
    """Processes that have *token* in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if token.encode() in (entry / "environ").read_bytes() and state != "Z":
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def command(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_text()
    except OSError:
        return ""


def slow_build(
    workspace: Workspace,
    token: str,
    *,
    timeout: float = 150.0,
    meanwhile: Callable[[], None] = lambda: None,
    planned: Callable[[], None] = lambda: None,
) -> LayerkitError:
    """A build whose step takes minutes, and that gets so many seconds: how it failed."""
    (workspace.root / "Dockerfile").write_text(SLOW.format(base=workspace.engine.base, token=token))
    (workspace.root / "layerkit.toml").write_text(
        f'[image]\nname = "{workspace.repository}"\ndockerfile = "Dockerfile"\n\n'
        '[checkpoint]\npath = "model.pth.tar"\ntarget = "/app/model/"\n'
    )
    settings = replace(workspace.settings, environment={**os.environ, "LAYERKIT_TEST_TOKEN": token})

    def listen(event: object) -> None:
        if isinstance(event, Phase) and (event.name, event.state) == ("build", "started"):
            threading.Thread(target=meanwhile, daemon=True).start()

    with Session(load(None, root=workspace.root), Request(("slow",), True), settings, listen) as session:
        session.to.engine.timeout = timeout
        plan = session.plan()
        planned()
        with pytest.raises(LayerkitError) as raised:
            execute(session, plan)
    with Client() as client:
        assert client.repository(Reference.parse(workspace.repository)).resolve("slow") is None
    return raised.value


def test_fault_36_a_hung_builder(workspace: Workspace) -> None:
    """FAULTS 36: a build that does not end is stopped after the time limit: 4, and its whole process group is gone."""
    token = uuid.uuid4().hex
    error = slow_build(workspace, token, timeout=4)
    assert error.exit_status == 4
    assert "not done within 4 s" in error.message and error.hint
    assert processes(token) == []


def test_fault_36_a_builder_that_goes(workspace: Workspace) -> None:
    """FAULTS 36: docker buildx that is killed in the middle of a step gives 4 and leaves nothing running."""
    token = uuid.uuid4().hex

    def kill() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until and not any("bake" in command(number) for number in processes(token)):
            time.sleep(0.1)
        time.sleep(1.5)  # until the step runs
        for number in processes(token):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    error = slow_build(workspace, token, timeout=40, meanwhile=kill)
    assert error.exit_status == 4
    assert "within" not in error.message
    assert processes(token) == []


def test_weights_that_fail_end_the_build(workspace: Workspace) -> None:
    """Weights that changed after they were looked at end a build that has minutes to go: 3, and nothing runs on."""
    token = uuid.uuid4().hex
    error = slow_build(
        workspace, token, planned=lambda: write_weights(workspace.root / "model.pth.tar", seed=9, size=3 * MIB)
    )
    assert error.exit_status == 3 and "changed" in error.message
    assert processes(token) == []


@pytest.mark.parametrize(
    ("surroundings", "said"),
    [
        pytest.param({"PATH": "/nonexistent"}, "docker", id="no-docker"),
        pytest.param({"DOCKER_HOST": "unix:///nonexistent/docker.sock"}, "daemon", id="no-daemon"),
    ],
)
def test_fault_39_nothing_that_builds(workspace: Workspace, surroundings: dict[str, str], said: str) -> None:
    """FAULTS 39: no docker command or no daemon gives 11, in words that say what to do."""
    done = workspace.run("build", "--push", "-t", "v1", check=False, **surroundings)
    assert done.returncode == 11, done.stderr
    assert said in done.stderr.lower() and "Traceback" not in done.stderr
