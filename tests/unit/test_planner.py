from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layerkit.assemble import assemble
from layerkit.checkpoint import Packer, arrange
from layerkit.checkpoint.elsewhere import Elsewhere, RemoteBlueprint
from layerkit.checkpoint.safetensors import layout
from layerkit.fingerprint import Inputs
from layerkit.oci import Digest, Image, dump
from layerkit.planner import Estimate, LayerPlan, Plan, Present, plan
from layerkit.project import Builder, Checkpoint, Code, Dependencies, Project
from layerkit.project import Image as Table
from layerkit.recognise import recognise
from layerkit.state import State
from unit.support import PLATFORM, image, inputs, layer, project, runtime, write_project

WEIGHTS = (layer("weights"),)


def known(root: Path, content: bytes = b"weights", **options: Any) -> Inputs:
    """Inputs whose checkpoint was hashed before."""
    with State() as state:
        found = inputs(project(root, **options), state)
        assert found.checkpoint is not None
        (file,) = found.checkpoint.files
        state.remember_file(file.source, file.identity, Digest.of(content))
        return inputs(project(root, **options), state)


def decide(found: Inputs, present: Present, **options: Any) -> Plan:
    return plan(found, present, **{"destination": "registry x", "tags": ["v1"], **options})


def built(found: Inputs) -> Image:
    """The image of an earlier build of *found*."""
    assert found.checkpoint is not None
    made = assemble(found, {PLATFORM: runtime()}, WEIGHTS, found.checkpoint.digest, found.checkpoint.key)
    return made.images[PLATFORM]


def there(found: Inputs) -> Present:
    """All of *found* is at the destination, under its tag."""
    before = built(found)
    return Present({PLATFORM: runtime()}, WEIGHTS, {"v1": before.manifest.digest}, {PLATFORM: before})


def rows(made: Plan) -> dict[str, tuple[str, str]]:
    return {item.role: (item.action, item.reason) for item in made.layers}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_project(tmp_path)


def test_nothing_is_there(root: Path) -> None:
    """The first build runs BuildKit and packs the checkpoint; all is said to be built, in the order of the layers."""
    with State() as state:
        made = decide(inputs(project(root), state), Present())
    assert (made.platforms_to_build, made.pack, made.way, made.changes) == ((PLATFORM,), True, "compose", True)
    assert [item.role for item in made.layers] == ["base", "dependencies", "checkpoint", "code"]
    assert made.digest is None and made.tags_to_move == ("v1",)
    assert rows(made)["code"] == ("built", "no earlier image to take it from")
    assert "not hashed yet" in rows(made)["checkpoint"][1]


def test_nothing_changed(root: Path) -> None:
    """Where all is there and the tag names it, nothing is done, and the digest is known beforehand."""
    found = known(root)
    made = decide(found, there(found))
    assert not made.changes and not made.pack and made.platforms_to_build == made.tags_to_move == ()
    assert made.digest == built(found).manifest.digest
    assert {action for action, _ in rows(made).values()} == {"reused"}
    assert sum((item.bytes_to_builder or 0) + (item.bytes_to_upload or 0) for item in made.layers) == 0


def test_tag_only(root: Path) -> None:
    """A new tag moves alone: neither BuildKit nor the checkpoint is touched."""
    found = known(root)
    made = decide(found, there(found), tags=["v1", "v2"])
    assert (made.pack, made.platforms_to_build, made.tags_to_move, made.changes) == (False, (), ("v2",), True)


def test_tag_that_names_something_else(root: Path) -> None:
    """A tag that was moved by somebody is moved back."""
    found = known(root)
    present = dataclasses.replace(there(found), tags={"v1": Digest.of(b"other")})
    assert decide(found, present).tags_to_move == ("v1",)


def test_weights(root: Path) -> None:
    """New weights: BuildKit does not run, the checkpoint is packed, and the reason names both digests."""
    before = known(root)
    (root / "model.pth.tar").write_bytes(b"others!")
    after = known(root, b"others!")
    made = decide(after, dataclasses.replace(there(before), checkpoint=None))
    assert (made.platforms_to_build, made.pack) == ((), True)
    assert made.digest is None, "which it will be, only sending it will tell"
    expected = f"weights changed: {Digest.of(b'weights').short} → {Digest.of(b'others!').short}"
    assert rows(made)["checkpoint"] == ("packed", expected)
    (row,) = [item for item in made.layers if item.role == "checkpoint"]
    assert after.checkpoint is not None
    size = sum(b.size for b in arrange(after.checkpoint.files, after.checkpoint.ownership))
    assert (row.bytes_to_builder, row.bytes_to_upload) == (0, size)


def test_weights_swapped_back(root: Path) -> None:
    """Earlier weights that the destination still has are not sent again."""
    found = known(root)
    made = decide(found, dataclasses.replace(there(found), tags={"v1": Digest.of(b"other")}))
    assert not made.pack and rows(made)["checkpoint"][0] == "reused"


def test_code(root: Path) -> None:
    """New code: BuildKit runs, the checkpoint stays, and the reason names the file with both digests."""
    before = known(root)
    (root / "src/serve.py").write_text("print('new')\n")
    after = known(root)
    made = decide(after, dataclasses.replace(there(before), runtimes={}))
    assert (made.platforms_to_build, made.pack) == ((PLATFORM,), False)
    old, new = Digest.of(b"print('served')\n").short, Digest.of(b"print('new')\n").short
    assert rows(made)["code"] == ("built", f"src/serve.py {old} → {new}")
    assert [rows(made)[role][0] for role in ("base", "dependencies", "checkpoint")] == ["reused"] * 3
    base, dependencies = made.layers[:2]
    assert base.bytes_to_builder == 0 and dependencies.bytes_to_builder == (root / "requirements.txt").stat().st_size
    assert not base.known and not dependencies.known, "BuildKit may find otherwise"


def test_dependency(root: Path) -> None:
    """A changed requirement is named with what it was and is, not the file or the Dockerfile that change with it."""
    before = known(root)
    (root / "requirements.txt").write_text("torch==2.14.0\nnumpy>=2 --hash=sha256:aa\nsix\n")
    made = decide(known(root), dataclasses.replace(there(before), runtimes={}))
    action, reason = rows(made)["dependencies"]
    hashes = f"(hashes {Digest.of(b'sha256:aa').short})"
    expected = "requirement torch ==2.13.0 → ==2.14.0; requirement numpy any → >=2 %s; requirement six added"
    assert (action, reason) == ("built", expected % hashes)
    assert rows(made)["code"][0] == "reused"


def test_instructions(root: Path) -> None:
    """A changed build argument is the reason why dependencies are built."""
    before = known(root)
    after = dataclasses.replace(before, project=dataclasses.replace(before.project, builder=Builder(args={"A": "1"})))
    made = decide(after, dataclasses.replace(there(before), runtimes={}))
    assert rows(made)["dependencies"] == ("built", "argument A added")


def test_base(root: Path) -> None:
    """A newer base is the reason for itself, and for the dependencies above it."""
    before = known(root)
    newer = {name: dataclasses.replace(base, digest=Digest.of(b"newer")) for name, base in before.bases.items()}
    made = decide(dataclasses.replace(before, bases=newer), dataclasses.replace(there(before), runtimes={}))
    said = f"python:3.11-slim {Digest.of(b'base').short} → {Digest.of(b'newer').short}"
    assert rows(made)["base"] == ("built", said)
    assert rows(made)["dependencies"] == ("built", f"the base under it changed: {said}")


@pytest.mark.parametrize(("workdir", "layer"), [("/app", True), ("/", False)])
def test_nothing_is_installed(root: Path, workdir: str, layer: bool) -> None:
    """The working folder is a layer among the dependencies, where none are installed too; the root is there already."""
    bare = dataclasses.replace(project(root), dependencies=Dependencies())
    bare = dataclasses.replace(bare, image=dataclasses.replace(bare.image, workdir=workdir))
    with State() as state:
        made = decide(inputs(bare, state), Present())
    assert [item.role for item in made.layers] == ["base", *["dependencies"] * layer, "checkpoint", "code"]


def test_many_files_in_one_sentence(root: Path) -> None:
    """A reason stays a sentence: three files are named, the others counted, added and removed ones too."""
    before = known(root)
    for number in range(6):
        (root / f"src/m{number}.py").write_text("")
    (root / "src/serve.py").unlink()
    made = decide(known(root), dataclasses.replace(there(before), runtimes={}))
    assert rows(made)["code"][1] == "src/m0.py added; src/m1.py added; src/m2.py added; and 4 more"


def test_second_platform(root: Path) -> None:
    """Only the platform that is not there is built."""
    both = dataclasses.replace(known(root), platforms=(PLATFORM, "linux/arm64"))
    made = decide(both, Present({PLATFORM: runtime()}, WEIGHTS))
    assert (made.platforms_to_build, made.pack) == (("linux/arm64",), False)


def test_no_cache(root: Path) -> None:
    """--no-cache builds what is there, and still does not send the checkpoint."""
    found = known(root)
    made = decide(found, there(found), no_cache=True)
    assert (made.platforms_to_build, made.pack, made.changes) == ((PLATFORM,), False, True)


def test_buildkit_builds_it_all(root: Path) -> None:
    """Where BuildKit builds the whole image, all platforms are built, nothing is packed, and the plan says why."""
    found = known(root)
    made = decide(found, there(found), way="buildkit", why="asked for")
    assert (made.platforms_to_build, made.pack, made.changes) == ((PLATFORM,), False, True)
    assert (made.way, made.why, made.digest) == ("buildkit", "asked for", None)
    assert rows(made)["checkpoint"] == ("built", "BuildKit copies it")


def test_weights_that_a_step_works_on(root: Path) -> None:
    """Where a step of the user's own Dockerfile works on the weights, BuildKit builds the whole image, and says why."""
    (root / "Dockerfile").write_text("FROM b\nCOPY --link --from=checkpoint . /app/model/\nRUN chown -R 1 /app\n")
    own = Project(image=Table("r.example/x", dockerfile="Dockerfile"), checkpoint=Checkpoint("*.tar"), root=root)
    with State() as state:
        made = decide(inputs(own, state), Present())
    assert (made.way, made.pack, made.platforms_to_build) == ("buildkit", False, (PLATFORM,))
    assert made.why == (
        "composing is not possible: line 3 of the Dockerfile ('RUN chown -R 1 /app') works on the weights"
    )


def test_runtime_image_with_a_disturbed_placeholder(root: Path) -> None:
    """A runtime image in which a layer did something to the placeholder is not composed with, also a kept one."""
    found = known(root)
    kept = dataclasses.replace(runtime(), disturbed="'RUN x' works on the weights")
    made = decide(found, dataclasses.replace(there(found), runtimes={PLATFORM: kept}))
    assert made.way == "buildkit" and made.why.endswith("'RUN x' works on the weights")
    mounted = known(root, placement="volume")
    assert decide(mounted, dataclasses.replace(there(found), runtimes={PLATFORM: kept})).way == "compose"


@pytest.mark.parametrize(
    ("placement", "pack", "action"),
    [("volume", False, "mounted"), ("artifact", True, "packed"), ("layer", True, "packed")],
)
def test_placement(root: Path, placement: str, pack: bool, action: str) -> None:
    """A volume's checkpoint is not sent anywhere; an artifact's is, like a layer's."""
    found = known(root, placement=placement)
    made = decide(found, Present({PLATFORM: runtime()}))
    assert made.pack is pack and rows(made)["checkpoint"][0] == action


def test_artifact_beside_buildkit(root: Path) -> None:
    """What is mounted at run time is packed also where BuildKit builds the whole image, for it is no part of that."""
    found = known(root, placement="artifact")
    made = decide(found, Present({PLATFORM: runtime()}), way="buildkit", why="asked for")
    assert made.pack and rows(made)["checkpoint"][0] == "packed"
    made = decide(found, there(found), way="buildkit", why="asked for")
    assert not made.pack and rows(made)["checkpoint"][0] == "mounted"


def test_artifact_that_is_there(root: Path) -> None:
    """An artifact that is there is mounted, and the image has no checkpoint layer."""
    found = known(root, placement="artifact")
    made = decide(found, Present({PLATFORM: runtime()}, WEIGHTS))
    assert rows(made)["checkpoint"][0] == "mounted" and made.assembled is not None
    assert "checkpoint" not in made.assembled.roles[PLATFORM]
    assert len(made.assembled.images[PLATFORM].manifest.layers) == 4


def test_no_checkpoint(root: Path) -> None:
    """A project without a checkpoint has no checkpoint layer and packs nothing."""
    with State() as state:
        found = inputs(dataclasses.replace(project(root), checkpoint=None), state)
    bare = dataclasses.replace(runtime(), image=image([layer("a"), layer("b"), layer("COPY c /")]), placeholder=None)
    made = decide(found, Present({PLATFORM: bare}))
    assert not made.pack and "checkpoint" not in rows(made) and made.digest is not None


def test_unknown_files_are_named(root: Path) -> None:
    """Files that are not hashed yet are named, three of them, and the others counted."""
    (root / "w").mkdir()
    for number in range(5):
        (root / f"w/{number}.bin").write_text("x")
    with State() as state:
        found = inputs(dataclasses.replace(project(root), checkpoint=Checkpoint("w")), state)
        reason = rows(decide(found, Present()))["checkpoint"][1]
        assert reason.startswith("0.bin, 1.bin, 2.bin and 2 more not hashed yet")
        assert found.checkpoint is not None
        for file in found.checkpoint.files[:3]:
            state.remember_file(file.source, file.identity, Digest.of(b"x"))
        rest = inputs(dataclasses.replace(project(root), checkpoint=Checkpoint("w")), state)
    assert rows(decide(rest, Present()))["checkpoint"][1].startswith("3.bin, 4.bin not hashed yet")


@pytest.mark.parametrize(
    "note", ["", "{", "[1]", '{"code": 3}', "[" * 20_000], ids=["none", "half", "list", "no", "deep"]
)
def test_image_of_others(root: Path, note: str) -> None:
    """An earlier image that layerkit did not write, or that says nonsense, is no reason to fail."""
    other = image([layer("a")], annotations={"dev.layerkit.inputs": note})
    assert decide(known(root), Present(previous={PLATFORM: other})).changes


def test_pure(root: Path) -> None:
    """The same inputs give the same plan, and nothing of them is changed by it."""
    found = known(root)
    present = there(found)
    before = dump({"a": found.summary, "b": repr(present)})
    assert decide(found, present).to_json() == decide(found, present).to_json()
    assert dump({"a": found.summary, "b": repr(present)}) == before


def test_json(root: Path) -> None:
    """The JSON of a plan has the keys of the contract."""
    found = known(root)
    made = json.loads(json.dumps(decide(found, there(found), tags=["v1", "v2"]).to_json()))
    assert {name: value for name, value in made.items() if name != "layers"} == {
        "schema_version": 1,
        "destination": "registry x",
        "tags": ["v1", "v2"],
        "way": "compose",
        "why": "",
        "changes": True,
        "digest": str(built(found).manifest.digest),
        "platforms": [PLATFORM],
        "runs_builder_for": [],
        "tags_to_move": ["v2"],
        "seconds": None,
        "checkpoint_read": 0,
    }
    assert decide(found, Present()).to_json()["digest"] is None
    for row in made["layers"]:
        assert set(row) == {"role", "action", "reason", "bytes_to_builder", "bytes_to_upload", "known"}
        assert row["reason"]


# ------------------------------------------------------------------------------------------ weights that are understood


def shards(root: Path, state: State, head: int = 1, *, hashed: bool = True) -> Inputs:
    """Inputs of a checkpoint in shards: two blocks and a head of bytes *head*."""
    path = root / "model.safetensors"
    tensors = [("a.0.w", 1), ("b.0.w", 2), ("head.w", head)]
    text, entries = layout((name, "U8", (1000,)) for name, _ in tensors)
    content = text + b"".join(bytes([dict(tensors)[entry.name]]) * 1000 for entry in entries)
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)
    options: dict[str, Any] = {"format": "safetensors", "shard_size": "1000"}
    found = inputs(dataclasses.replace(project(root), checkpoint=Checkpoint(path.name, **options)), state)
    assert found.checkpoint is not None
    if not hashed:
        return found
    packer = Packer(found.checkpoint.blueprints).start()
    return dataclasses.replace(found, checkpoint=found.checkpoint.packed(packer.hashed(), state, lambda count: None))


def shards_there(found: Inputs) -> Present:
    """All of *found* is at the destination, under its tag."""
    checkpoint = found.checkpoint
    assert checkpoint is not None and checkpoint.made is not None
    digests = [part.hashed.digest for part in checkpoint.parts if part.hashed]
    layers = tuple(b.layer(digest) for b, digest in zip(checkpoint.blueprints, digests, strict=True))
    made = assemble(found, {PLATFORM: runtime()}, layers, checkpoint.digest, checkpoint.key).images[PLATFORM]
    return Present({PLATFORM: runtime()}, layers, {"v1": made.manifest.digest}, {PLATFORM: made}, frozenset(digests))


def changes(made: Plan) -> dict[str, bool | None]:
    (layer,) = (layer for layer in made.layers if layer.role == "checkpoint")
    return {part.name.split("-")[1] if "-" in part.name else part.name: part.changed for part in layer.parts}


INDEX = "model.safetensors.index.json"


def test_shards(root: Path) -> None:
    """Of each shard: not known at first, unchanged once it is there, changed where its sample or its digest is new."""
    with State() as state:
        unknown = shards(root, state, hashed=False)
        first = decide(unknown, Present())
        assert changes(first) == {"a.0": None, "b.0": None, "head": None, INDEX: None}
        before = shards(root, state)
        present = shards_there(before)
        done = decide(before, present)
        assert not done.pack and set(changes(done).values()) == {False}
        after = shards(root, state, head=7, hashed=False)
        sampled = decide(after, dataclasses.replace(present, checkpoint=None))
        assert changes(sampled) == {"a.0": None, "b.0": None, "head": True, INDEX: None}
        assert rows(sampled)["checkpoint"] == ("packed", "weights changed: hashed while they are sent")
        known_ = shards(root, state, head=7)
        hashed = decide(known_, dataclasses.replace(present, checkpoint=None))
    assert changes(hashed) == {"a.0": False, "b.0": False, "head": True, INDEX: False}
    (layer,) = (layer for layer in hashed.layers if layer.role == "checkpoint")
    assert layer.reason == "1 of 4 layers changed; the others are there"
    assert layer.bytes_to_upload == next(part.size for part in layer.parts if part.changed)
    told = layer.to_json()["parts"]
    assert [part["changed"] for part in told] == [False, False, True, False]
    assert told[0] == {"name": layer.parts[0].name, "bytes": layer.parts[0].size, "changed": False}


def test_recognised(root: Path) -> None:
    """Weights that were written anew are hashed where their samples are there, and known by their key; others wait."""
    looked: list[str] = []
    notes: list[Any] = []
    with State() as old:
        before = shards(root, old)
        present = shards_there(before)
        assert before.checkpoint is not None and before.checkpoint.key is not None
    missing = dataclasses.replace(present, checkpoint=None)

    def look(key: str) -> Any:
        looked.append(key)
        return present.checkpoint

    with State() as new:
        (root / "model.safetensors").touch()
        again = shards(root, new, hashed=False)
        found, there_now = recognise(again, missing, new, look, notes.append)
        made = decide(found, there_now)
        assert looked == [before.checkpoint.key] and not made.changes and made.bytes_read > 3000
        assert "hashed: the same tensors (weights hash " in rows(made)["checkpoint"][1] and len(notes) == 1
    with State() as new:
        other = shards(root, new, head=9, hashed=False)
        found, there_now = recognise(other, missing, new, look, notes.append)
        assert len(looked) == 1 and there_now.checkpoint is None
        assert changes(decide(found, there_now)) == {"a.0": False, "b.0": False, "head": True, INDEX: False}
        nothing = recognise(other, Present(), new, look, notes.append)
        assert nothing[0] is other or nothing[0].checkpoint == found.checkpoint


def test_samples_of_others(root: Path) -> None:
    """An image without samples, or with nonsense for them, is compared by nothing."""
    with State() as state:
        found = shards(root, state, hashed=False)
        for text in ("", "x y", "\0"):
            other = image([layer("a")], annotations={"dev.layerkit.checkpoint.samples": text})
            assert decide(found, Present(previous={PLATFORM: other})).pack


# -------------------------------------------------------------------------------------------- what it comes to in bytes


def by_role(made: Plan) -> dict[str, LayerPlan]:
    return {item.role: item for item in made.layers}


def test_bytes_to_the_builder(root: Path) -> None:
    """Each role sends the builder its own files, dependencies the wheels too; what BuildKit makes of them is open."""
    (root / "wheels").mkdir()
    (root / "wheels" / "torch-2.13.0-py3-none-any.whl").write_bytes(b"w" * 1000)
    made = project(root)
    made = dataclasses.replace(made, dependencies=dataclasses.replace(made.dependencies, wheels="wheels"))
    with State() as state:
        first = by_role(decide(inputs(made, state), Present()))
    code, listed = ((root / name).stat().st_size for name in ("src/serve.py", "requirements.txt"))
    assert [(first[role].bytes_to_builder, first[role].bytes_to_upload) for role in first if role != "checkpoint"] == [
        (0, None),
        (listed + 1000, None),
        (code, None),
    ]
    assert not any(item.known for item in first.values())


def test_base_that_is_in_the_same_registry(root: Path) -> None:
    """A base whose layers the destination takes over by itself is mounted, with no byte to upload."""
    row = by_role(decide(known(root), Present(mounts_base=True)))["base"]
    assert (row.action, row.bytes_to_upload) == ("mounted", 0)


# ------------------------------------------------------------------------------------------------------------- reasons


def test_reasons_of_no_cache(root: Path) -> None:
    """With --no-cache what BuildKit makes is built because that was asked for; base and weights stay."""
    found = known(root)
    said = rows(decide(found, there(found), no_cache=True))
    assert {role: said[role] for role in ("base", "dependencies", "code")} == {
        "base": ("reused", "nothing in it changed"),
        "dependencies": ("built", "asked for: --no-cache"),
        "code": ("built", "asked for: --no-cache"),
    }
    assert said["checkpoint"][0] == "reused"


def test_code_that_changes_the_generated_dockerfile(root: Path) -> None:
    """More code to copy changes the Dockerfile, and is no reason for the dependencies under it."""
    before = known(root)
    (root / "more").mkdir()
    (root / "more" / "x.py").write_text("")
    made = dataclasses.replace(before.project, code=Code(["src", "more"]))
    with State() as state:
        after = dataclasses.replace(inputs(made, state), checkpoint=before.checkpoint)
    assert before.dockerfile != after.dockerfile
    said = rows(decide(after, dataclasses.replace(there(before), runtimes={})))
    assert said["code"] == ("built", "more/x.py added")
    assert said["dependencies"] == ("reused", "nothing in it changed")


def test_code_of_an_own_dockerfile(root: Path) -> None:
    """What a step of one's own Dockerfile runs on nobody knows: with any file changed it is built at most, and why."""
    lines = (
        "FROM b\nCOPY requirements.txt /\nRUN pip install -r /requirements.txt\nCOPY --link --from=checkpoint . /m/\n"
    )
    (root / "Dockerfile").write_text(lines)
    own = Project(image=Table("r.example/x", dockerfile="Dockerfile"), checkpoint=Checkpoint("*.tar"), root=root)
    with State() as state:
        before = inputs(own, state)
        (file,) = before.checkpoint.files  # type: ignore[union-attr]
        state.remember_file(file.source, file.identity, Digest.of(b"weights"))
        before = inputs(own, state)
        kept = dataclasses.replace(runtime(), place=("/m", 0, 0))
        assert before.checkpoint is not None
        made = assemble(before, {PLATFORM: kept}, WEIGHTS, before.checkpoint.digest, before.checkpoint.key)
        present = Present({}, WEIGHTS, {}, made.images)
        assert rows(decide(before, present))["dependencies"] == ("reused", "nothing in it changed")
        (root / "requirements.txt").write_text("torch==2.14.0\n")
        found = by_role(decide(inputs(own, state), present))
    assert (found["dependencies"].action, found["dependencies"].known) == ("built", False)
    said = "built again where it lies on what changed: requirements.txt "
    assert found["dependencies"].reason.startswith(said) and found["code"].action == "built"
    after = dataclasses.replace(before, dockerfile=lines + "COPY src /srv\n")
    found = by_role(decide(after, present))
    said = "built again where it lies on what changed: Dockerfile "
    for role in ("dependencies", "code"):
        assert found[role].action == "built" and found[role].reason.startswith(said)


def test_built_before(root: Path) -> None:
    """Code that was built before, and is not what the tag names, is reused, and said what it differs by."""
    found = known(root)
    (root / "src/serve.py").write_text("print('new')\n")
    earlier = built(known(root))
    made = decide(found, dataclasses.replace(there(found), previous={PLATFORM: earlier}))
    old, new = Digest.of(b"print('new')\n").short, Digest.of(b"print('served')\n").short
    assert not made.platforms_to_build
    assert rows(made)["code"] == ("reused", f"built before: src/serve.py {old} → {new}")


def test_weights_that_are_not_there(root: Path) -> None:
    """Weights that did not change, and are not at the destination or were deleted there, are said to be missing."""
    found = known(root)
    for present in (Present(), dataclasses.replace(there(found), checkpoint=None)):
        assert rows(decide(found, present))["checkpoint"] == ("packed", "its layers are not at the destination")


def test_shards_that_are_there_under_another_key(root: Path) -> None:
    """Where every layer is there and only their key is not, none of them is said to be changed."""
    with State() as state:
        found = shards(root, state)
        made = decide(found, dataclasses.replace(shards_there(found), checkpoint=None))
    row = by_role(made)["checkpoint"]
    assert (row.reason, row.bytes_to_upload) == ("its layers are not at the destination", 0)


def test_roles_that_a_project_has_not(root: Path) -> None:
    """A project without dependencies and code has no line for them; with apt packages alone it has one."""
    bare = dataclasses.replace(project(root), dependencies=Dependencies(), code=Code([]))
    bare = dataclasses.replace(bare, image=dataclasses.replace(bare.image, workdir="/"))
    apt = dataclasses.replace(bare, dependencies=Dependencies(apt=["libgl1"]))
    with State() as state:
        assert list(rows(decide(inputs(bare, state), Present()))) == ["base", "checkpoint"]
        assert list(rows(decide(inputs(apt, state), Present()))) == ["base", "dependencies", "checkpoint"]


def test_buildkit_asked_for_where_it_must(root: Path) -> None:
    """Where BuildKit was asked to build it all, that is the reason, and not that nothing else would be possible."""
    (root / "Dockerfile").write_text("FROM b\nCOPY --link --from=checkpoint . /app/model/\nRUN chown -R 1 /app\n")
    own = Project(image=Table("r.example/x", dockerfile="Dockerfile"), checkpoint=Checkpoint("*.tar"), root=root)
    with State() as state:
        made = decide(inputs(own, state), Present(), way="buildkit", why="asked for")
    assert made.why == "asked for"


def test_image_that_lost_a_part(root: Path) -> None:
    """A tag that names the right image, of which something is gone, is put there again."""
    found = known(root)
    present = there(found)
    (digest,) = present.tags.values()
    assert digest is not None
    made = decide(found, dataclasses.replace(present, hurt=frozenset({digest})))
    assert (made.tags_to_move, made.changes, made.pack, made.platforms_to_build) == (("v1",), True, False, ())


# --------------------------------------------------------- layers that are found by what lies under them, or elsewhere


@pytest.mark.parametrize("changed", ["base", "requirement", "argument", "nothing-known", "no-cache", "code"])
def test_layers_found_by_what_lies_under_them(root: Path, changed: str) -> None:
    """In Docker's classic store the weights may have to be given again where what is under them is built, but not for
    code, which is above them: the plan says so, with the bytes."""
    before = known(root)
    done = by_role(decide(before, dataclasses.replace(there(before), previous={}, stacked=True)))["checkpoint"]
    assert done.action == "reused", "where nothing is built they are found"
    present = dataclasses.replace(there(before), runtimes={}, stacked=True)
    if changed == "requirement":
        (root / "requirements.txt").write_text("torch==2.14.0\n")
    if changed == "code":
        (root / "src/serve.py").write_text("print('new')\n")
    after = known(root)
    if changed == "base":
        newer = {name: dataclasses.replace(base, digest=Digest.of(b"newer")) for name, base in after.bases.items()}
        after = dataclasses.replace(after, bases=newer)
    if changed == "argument":
        after = dataclasses.replace(after, project=dataclasses.replace(after.project, builder=Builder(args={"A": "1"})))
    if changed == "nothing-known":
        present = dataclasses.replace(present, previous={})
    row = by_role(decide(after, present, no_cache=changed == "no-cache"))["checkpoint"]
    assert after.checkpoint is not None
    if changed == "code":
        assert (row.action, row.bytes_to_upload, row.known) == ("reused", 0, True)
    else:
        size = sum(blueprint.size for blueprint in after.checkpoint.blueprints)
        assert (row.action, row.bytes_to_upload, row.known) == ("packed", size, False)
        assert row.reason.endswith("given again where what lies under them turns out to be new")


@pytest.mark.parametrize("host", ["r.example", "other.example"])
def test_weights_that_another_repository_has(root: Path, host: str) -> None:
    """Weights of another image are mounted where it is in the same registry, else streamed: said with the bytes."""
    found = known(root)
    (stored,), place = WEIGHTS, {"host": "r.example", "repository": "team/other"}
    remote = RemoteBlueprint((), "", (), 1000, stored=stored, **place)
    elsewhere = Elsewhere("k" * 40, Digest.of(b"w"), "/app/model", "no model.pth.tar here", "", by="as the lock says")
    assert found.checkpoint is not None
    checkpoint = dataclasses.replace(found.checkpoint, files=(), elsewhere=elsewhere, remote=(remote,))
    these = dataclasses.replace(found, checkpoint=checkpoint)
    for blobs, size in ((frozenset(), 1000), (frozenset({stored.descriptor.digest}), 0)):
        row = by_role(decide(these, Present(host=host, blobs=blobs)))["checkpoint"]
        assert row.bytes_to_upload == size
    assert row.action == ("mounted" if host == "r.example" else "packed")
    way = "mounted from" if host == "r.example" else "streamed from"
    assert row.reason.startswith(f"no model.pth.tar here; {way} r.example/team/other, ")
    assert row.reason.endswith(", as the lock says")
    stay = Present(checkpoint=WEIGHTS, host=host)
    kept = by_role(decide(these, stay))["checkpoint"]
    said = "no model.pth.tar here; its layers are there as checkpoint-kkkkkkkkkkkk, as the lock says"
    assert (kept.action, kept.reason, kept.bytes_to_upload) == ("reused", said, 0)


def test_weights_of_the_hub(root: Path) -> None:
    """Weights of the Hugging Face Hub are named with their commit, and with what is to be downloaded of them."""
    found = known(root)
    assert found.checkpoint is not None
    hub = SimpleNamespace(name="hf://org/model@0123456789ab")
    fetched = dataclasses.replace(found.checkpoint, hub=hub, to_fetch=5_000_000)
    said = rows(decide(dataclasses.replace(found, checkpoint=fetched), Present()))["checkpoint"][1]
    assert said.endswith("; hf://org/model@0123456789ab, 4.8 MiB to download")
    said = rows(decide(dataclasses.replace(found, checkpoint=fetched), there(found)))["checkpoint"][1]
    assert said.endswith("; hf://org/model@0123456789ab")


def test_json_of_an_estimate(root: Path) -> None:
    """The seconds of a plan are in its JSON, in tenths."""
    made = dataclasses.replace(decide(known(root), Present()), estimate=Estimate(12.34, 10.06, 3.0, ("builder",)))
    assert made.to_json()["seconds"] == {"total": 12.3, "builder": 10.1, "checkpoint": 3.0, "unknown": ["builder"]}
