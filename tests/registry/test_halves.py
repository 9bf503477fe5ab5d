"""The two halves of an image where one of them fails, or cannot be composed with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from layerkit.engine import BakeResult
from layerkit.errors import AuthenticationError, BuildError, CheckpointError, LayerkitError, Stopped
from layerkit.events import Note, Phase
from layerkit.pipeline import build, execute
from layerkit.planner import Plan
from layerkit.project import load
from layerkit.runtime.bake import PLACEHOLDER, PLACEHOLDER_NAME
from layerkit.settings import Settings
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Played, Pushing, image, tar_of

MODEL = "COPY --link --from=checkpoint . /app/model/"


@pytest.fixture
def seeded(tmp_path: Path, registry: FakeRegistry) -> tuple[FakeRegistry, Pushing]:
    """A project with weights, of which base and runtime image are there."""
    pushing = Pushing(tmp_path, registry.host)
    pushing.seed(registry)
    pushing.weights()
    return registry, pushing


def elsewhere(registry: FakeRegistry, pushing: Pushing) -> None:
    """The weights are layers of that registry now, and no files of this machine."""
    Played(pushing).run()
    (kept,) = [tag for tag in registry._repositories[NAME].tags if tag.startswith("checkpoint-")]
    toml = pushing.project / "layerkit.toml"
    toml.write_text(toml.read_text().replace('path = "weights"', f'path = "oci://{registry.host}/{NAME}:{kept}"'))
    (pushing.project / "layerkit.lock").unlink(missing_ok=True)


def own_dockerfile(pushing: Pushing, step: str) -> None:
    (pushing.project / "Dockerfile").write_text(f"FROM scratch\n{MODEL}\n{step}\n")
    toml = pushing.project / "layerkit.toml"
    toml.write_text(toml.read_text().replace(f'base = "{pushing.host}/team/base:1"', 'dockerfile = "Dockerfile"'))
    toml.write_text(toml.read_text().replace('command = ["python3", "serve.py"]\n', ""))
    toml.write_text(toml.read_text().replace('[code]\ninclude = ["serve.py"]\n\n', ""))


def test_session_builds_again(seeded: tuple[FakeRegistry, Pushing]) -> None:
    """A session of which one build failed, and stopped what it sent, can build again."""
    registry, pushing = seeded
    registry.fail(method="POST", path="uploads", status=403, times=-1)
    with Played(pushing) as session:
        with pytest.raises(AuthenticationError):
            execute(session, session.plan())
        registry.heal()
        assert execute(session, session.plan()).way == "compose"
    assert registry.tag(NAME, "v1") is not None


@pytest.mark.parametrize("way", ["compose", "buildkit"])
def test_weights_that_fail_end_the_build(seeded: tuple[FakeRegistry, Pushing], way: str) -> None:
    """A checkpoint that cannot be sent is told at once, as what failed: BuildKit is not waited for."""
    registry, pushing = seeded
    registry.fail(method="POST", path="uploads", status=403, times=-1)
    if way == "buildkit":  # which has only weights of placement artifact sent beside it
        toml = pushing.project / "layerkit.toml"
        toml.write_text(toml.read_text().replace('path = "weights"', 'path = "weights"\nplacement = "artifact"'))

    class Building(Played):
        def bake(self, targets: Sequence[Any], stopped: Callable[[], bool]) -> BakeResult:
            until = time.monotonic() + 60
            while not stopped():
                assert time.monotonic() < until
                time.sleep(0.01)
            raise Stopped

    with Building(pushing, no_cache=True, way=way) as session, pytest.raises(AuthenticationError):
        execute(session, session.plan())
    assert registry.tag(NAME, "v1") is None


@pytest.mark.parametrize(
    ("said", "hinted"),
    [
        pytest.param("no such file: /app/model/model.pt", True, id="the weights"),
        pytest.param("no such file: /app/other.txt", False, id="something else"),
    ],
)
def test_step_that_misses_the_weights(seeded: tuple[FakeRegistry, Pushing], said: str, hinted: bool) -> None:
    """A step of an own Dockerfile that fails with the weights' folder in its output: why, and the way that works."""
    _, pushing = seeded
    own_dockerfile(pushing, 'RUN ["/check"]')

    class Failing(Played):
        def bake(self, targets: Sequence[Any], stopped: Callable[[], bool]) -> BakeResult:
            raise BuildError("step failed", step="RUN /check", log=(said,))

    with pytest.raises(BuildError) as caught:
        Failing(pushing).run()
    assert ("--way buildkit" in caught.value.hint and "/app/model" in caught.value.hint) is hinted


def test_weights_elsewhere_and_no_place_for_them(seeded: tuple[FakeRegistry, Pushing]) -> None:
    """Where the runtime image has no placeholder and the weights are not here, BuildKit is not asked for the whole."""
    registry, pushing = seeded
    elsewhere(registry, pushing)
    (pushing.project / "serve.py").write_text("print('other')\n")
    made = image([(tar_of({"app/serve.py": b"print('other')\n"}), "COPY --link serve.py /app")])
    vars(pushing)["runtime"] = lambda: made
    played = Played(pushing)
    with pytest.raises(BuildError, match="no placeholder layer"):
        played.run()
    assert played.baked == ["runtime-0"]


def test_weights_elsewhere_and_a_step_on_them(seeded: tuple[FakeRegistry, Pushing]) -> None:
    """Where a step worked on the placeholder BuildKit needs the files: without them it is an error that says so."""
    registry, pushing = seeded
    elsewhere(registry, pushing)
    layers = [
        (tar_of({"usr/bin/python3": b"python"}), "ADD rootfs"),
        (tar_of({f"app/model/{PLACEHOLDER_NAME}": PLACEHOLDER}), MODEL),
        (tar_of({f"app/model/.wh.{PLACEHOLDER_NAME}": b""}), "RUN rm -rf /app/model"),
    ]
    made, blobs = image(layers)
    with Played(pushing) as session:
        key = session.inputs().runtime_key("linux/amd64")
    registry.push(NAME, f"runtime-{key}", made, blobs)
    played = Played(pushing)
    with pytest.raises(CheckpointError, match="composing is not possible"):
        played.run()
    assert played.baked == []


def test_step_that_worked_on_the_placeholder(seeded: tuple[FakeRegistry, Pushing]) -> None:
    """Where what was built shows that a step worked on the weights, BuildKit builds it all, and it is said why."""
    registry, pushing = seeded
    own_dockerfile(pushing, 'RUN ["/own"]')
    (pushing.project / "serve.py").write_text("print('other')\n")
    base, model = (tar_of({"x": b"1"}), "ADD rootfs"), tar_of({f"app/model/{PLACEHOLDER_NAME}": PLACEHOLDER})
    made = image([base, (model, MODEL), (tar_of({f"app/model/.wh.{PLACEHOLDER_NAME}": b""}), "RUN /own")])
    vars(pushing)["runtime"] = lambda: made
    played = Played(pushing)
    played.whole = image([base, (tar_of({"app/model/model.pt": b"w"}), MODEL)])
    result = played.run()
    assert played.baked == ["runtime-0", "image"] and result.way == "buildkit"
    assert result.why.startswith("composing was not possible: ") and "RUN /own" in result.why
    assert registry.tag(NAME, "v1") == played.whole[0].manifest.digest


def test_who_asks_for_the_plan_may_end_the_build(seeded: tuple[FakeRegistry, Pushing]) -> None:
    """The plan is given once, before anything is done; what is raised then ends the build, and nothing was sent."""
    registry, pushing = seeded
    registry.requests.clear()

    class Enough(Exception):
        pass

    def planned(plan: Plan) -> None:
        assert plan.pack
        raise Enough

    settings = Settings.from_environment(pushing.environ)
    with pytest.raises(Enough):
        build(load(None, root=pushing.project), push=True, settings=settings, planned=planned)
    assert {request.method for request in registry.requests} <= {"GET", "HEAD"}


def test_secret_that_is_not_there(seeded: tuple[FakeRegistry, Pushing]) -> None:
    """A secret that no step requires, and that is not there, is a warning where BuildKit runs, and none where not."""
    _, pushing = seeded
    toml = pushing.project / "layerkit.toml"
    toml.write_text(toml.read_text() + '[builder.secrets]\ntoken = { env = "LAYERKIT_NO_SUCH_TOKEN" }\n')
    (pushing.project / "Dockerfile").write_text(
        f"FROM {pushing.host}/team/base:1\n{MODEL}\nRUN --mount=type=secret,id=token true\n"
    )
    toml.write_text(toml.read_text().replace(f'base = "{pushing.host}/team/base:1"', 'dockerfile = "Dockerfile"'))
    toml.write_text(toml.read_text().replace('command = ["python3", "serve.py"]\n', ""))
    toml.write_text(toml.read_text().replace('[code]\ninclude = ["serve.py"]\n\n', ""))
    for runs in (True, False):
        events: list[Any] = []
        played = Played(pushing, listener=events.append)
        played.run()
        said = [event for event in events if isinstance(event, Note) and "NO_SUCH_TOKEN is not set" in event.message]
        assert bool(played.baked) is runs and [note.level for note in said] == ["warning"] * runs


def test_plan_that_cannot_compose(seeded: tuple[FakeRegistry, Pushing]) -> None:
    """Where a step works on the weights it is warned, once and with the step, that BuildKit builds the whole image."""
    _, pushing = seeded
    own_dockerfile(pushing, "RUN chown -R 1 /app/model")
    for way, count in (("compose", 1), ("buildkit", 0)):
        events: list[Any] = []
        with Played(pushing, way=way, listener=events.append) as session:
            assert session.plan().way == "buildkit"
        said = [event for event in events if isinstance(event, Note) and "BuildKit builds the whole" in event.message]
        assert len(said) == count and all(note.level == "warning" and "RUN chown" in note.message for note in said)


def test_phases(seeded: tuple[FakeRegistry, Pushing]) -> None:
    """Each part of a build is told when it begins and how it ended; one that failed is the last."""
    registry, pushing = seeded
    (pushing.project / "serve.py").write_text("print('new')\n")
    for status in (0, 403):
        if status:
            registry.fail(method="PUT", path="manifests/v1", status=status, times=-1)
            pushing.weights(seed=1)
        events: list[Any] = []
        try:
            Played(pushing, listener=events.append).run()
        except LayerkitError:
            assert status
        told = [(event.name, event.state) for event in events if isinstance(event, Phase)]
        ended = [(name, state) for name, state in told if state != "started"]
        assert sorted(name for name, state in told if state == "started") == sorted(name for name, _ in ended)
        assert ended[-1] == ("compose", "failed" if status else "finished")
        assert {state for _, state in ended[:-1]} == {"finished"}
        assert {name for name, _ in ended} == {"plan", "checkpoint", "compose"} | (set() if status else {"build"})
