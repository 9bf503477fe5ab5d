"""The public API as people write it: read by mypy --strict, never run."""

from __future__ import annotations

import layerkit

project = layerkit.Project(
    image=layerkit.Image("ghcr.io/acme/resnet", base="python:3.11-slim", command=["python", "serve.py"]),
    dependencies=layerkit.Dependencies("requirements.txt", separate=["torch"]),
    code=layerkit.Code(["serve.py", "src"]),
    checkpoint=layerkit.Checkpoint("resnet50.pth.tar", target="/app/model/", chown="root:root"),
)
plan = layerkit.plan(project)
result = layerkit.build(project, tags=["v2"], push=True)
rebuilt: tuple[str, ...] = result.rebuilt

changes: bool = plan.changes
for planned in plan.layers:
    sentence: str = f"{planned.role} {planned.action} {planned.reason}"
for layer in result.layers:
    size: int = layer.size
    digest: str = str(layer.digest)
reference: str = result.reference
seconds: float = result.seconds["total"]
document: dict[str, object] = result.to_json()

loaded: layerkit.Project = layerkit.load("layerkit.toml", overrides=["image.base=python:3.12-slim"])
keys: dict[str, object] = layerkit.schema()
full = layerkit.Project(
    image=layerkit.Image("a/b", platforms=("linux/amd64",), env={"A": "b"}, labels={"c": "d"}, expose=[8000]),
    builder=layerkit.Builder(args={"A": "1"}, secrets={"token": layerkit.Secret(env="TOKEN")}),
    cache=layerkit.Cache(to=[], from_=["type=registry,ref=a/b:c"]),
)

anatomy: layerkit.Inspection = layerkit.inspect("oci:out:v1", platform="linux/amd64", timeline="build.json")
for seen in anatomy.layers:
    layer_seen: layerkit.InspectedLayer = seen
    known: int | None = seen.size
moved: layerkit.Move | None = anatomy.change("code")
if moved is not None:
    unpacked: int = moved.unpack.bytes
    certain: bool = moved.unpack.exact
facts: layerkit.CheckpointFacts | None = anatomy.checkpoint
other: layerkit.Difference = layerkit.diff("a/b:v1", "a/b:v2")
roles_changed: tuple[str, ...] = other.changed
settings_changed: list[layerkit.Change] = list(other.settings)


def listener(event: layerkit.Event) -> None:
    match event:
        case layerkit.Phase(name, state, took):
            show(f"{name} {state} {took:.1f}")
        case layerkit.Step(_, name, state):
            show(f"{name} {state}")
        case layerkit.StepLog(_, line):
            show(line)
        case layerkit.Transfer(_, label, done, total):
            show(label, done / total)
        case layerkit.Note(message):
            show(message)


def show(text: str, share: float = 1.0) -> None: ...


typed: layerkit.Listener = listener
try:
    layerkit.build(loaded, tags=("v1",), output="oci:out", settings=layerkit.Settings(), listener=typed)
except layerkit.ConfigurationError as error:
    problems: list[str] = [str(problem) for problem in error.problems]
except layerkit.LayerkitError as error:
    told: tuple[int, str, str] = (error.exit_status, str(error), error.hint)
