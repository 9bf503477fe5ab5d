"""inspect and diff on real images: what they say is what BuildKit built, and what a real node then moves."""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import layerkit
from layerkit.checkpoint.safetensors import layout
from layerkit.oci import Image, Reference
from layerkit.registry import Client, Credentials

from .conftest import MIB, CountingProxy, Engine, Workspace, write_weights

ROLES = ["base", "dependencies", "dependencies", "checkpoint", "code"]


class Pulled(CountingProxy):
    """The registry by way of a proxy that counts what comes out of it."""

    def _pump(self, source: socket.socket, sink: socket.socket, count: bool) -> None:
        super()._pump(source, sink, not count)


@pytest.fixture
def pulled(engine: Engine) -> Iterator[Pulled]:
    made = Pulled(engine.registry)
    yield made
    made.close()


def tars(image: Image, repository: str) -> list[int]:
    """Bytes of each layer's tar, by unpacking it."""
    sizes = []
    with Client(credentials=Credentials(Path(), {})) as client:
        source = client.repository(Reference.parse(repository))
        for layer in image.manifest.layers:
            raw = source.blob(layer, 512 * MIB)
            sizes.append(len(gzip.decompress(raw)) if layer.media_type.endswith("gzip") else len(raw))
    return sizes


def test_layerkit_built(workspace: Workspace, node: Callable[[str], str], pulled: Pulled) -> None:
    """Roles, sizes and the timeline are those of the build; what diff says a node moves is what real nodes download."""
    built = workspace.build(tag="v1")
    found = json.loads(workspace.run("inspect", "--json", f"{workspace.repository}:v1").stdout)
    assert found["source"] == "registry" and found["built_by_layerkit"] is True
    assert found["digest"] == built["digest"]
    for shown, real in zip(found["layers"], built["layers"], strict=True):
        assert {name: shown[name] for name in ("role", "digest", "diff_id", "size")} == {
            name: real[name] for name in ("role", "digest", "diff_id", "size")
        }
        assert not shown["guessed"]
    assert [layer["unpacked"] for layer in found["layers"]] == tars(workspace.image("v1"), workspace.repository)
    assert found["placed_well"]["already"] is True
    label = workspace.image("v1").config.labels["dev.layerkit.checkpoint.digest"]
    assert found["checkpoint"]["digest"] == label
    assert found["checkpoint"]["files"] == [{"path": "/app/model/model.pth.tar", "size": 20 * MIB}]
    names = {(span["kind"], span["name"]) for span in found["timeline"]["timeline"]}
    assert {("phase", "plan"), ("phase", "build"), ("phase", "checkpoint"), ("phase", "compose")} <= names
    assert any(kind == "step" for kind, _ in names)

    write_weights(workspace.root / "model.pth.tar", seed=2)
    swapped = workspace.build(tag="v2")
    (workspace.root / "serve.py").write_text("print('new code')\n")
    coded = workspace.build(tag="v3")
    # Without the containerd store's blobs the code above the checkpoint comes again; with them, it does not.
    repository = workspace.repository.replace(workspace.engine.registry, pulled.host)
    steps = [("v1", "v2", built, swapped, "checkpoint"), ("v2", "v3", swapped, coded, "code")]
    said = {}
    for before, after, old, new, role in steps:
        names_of = (f"registry:{workspace.repository}:{before}", f"registry:{workspace.repository}:{after}")
        said[after] = layerkit.diff(*names_of, settings=workspace.settings).to_json()
        # The builder is shared, and may have forgotten more than was changed.
        contents = [{(layer["role"], layer["diff_id"]) for layer in result["layers"]} for result in (old, new)]
        changed = {name for name, _ in contents[0] ^ contents[1]}
        assert role in changed and set(said[after]["changed"]) == changed
    assert said["v2"]["config"][0]["name"] == "Env.LAYERKIT_CHECKPOINT_DIGEST"
    for store, column in (("containerd", "download"), ("classic", "download_without_blobs")):
        host = node(store)
        workspace.engine.docker("pull", "-q", f"{repository}:v1", host=host)
        for _, after, *_ in steps:
            pulled.take()
            workspace.engine.docker("pull", "-q", f"{repository}:{after}", host=host)
            time.sleep(0.2)
            came = pulled.take()
            expected = said[after][column] + said[after]["documents"]
            # Headers of a handful of answers, and the manifest that some clients read twice.
            assert expected <= came <= expected + 32 * 1024, (store, after)


DOCKERFILE = """\
FROM {base}
WORKDIR /app
RUN mkdir -p /opt/packages && head -c 3000000 /dev/urandom > /opt/packages/pip-installed.bin
COPY serve.py /app/
COPY model.safetensors /app/model/
RUN chown -R 1000:1000 /app/model
CMD ["python3", "serve.py"]
"""


@pytest.fixture
def by_hand(engine: Engine, tmp_path: Path) -> tuple[str, Path]:
    """A folder with a Dockerfile as people write it, and the name of its image."""
    head, entries = layout([("a", "F16", (1024, 2048)), ("b", "F32", (256, 1024))])
    (tmp_path / "model.safetensors").write_bytes(head + os.urandom(entries[-1].end))
    (tmp_path / "serve.py").write_text("print('hand')\n")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.format(base=engine.base))
    return f"{engine.registry}/test/{uuid.uuid4().hex[:12]}:hand", tmp_path


def buildx(engine: Engine, name: str, folder: Path, *arguments: str) -> None:
    engine.docker("buildx", "build", "-q", "-t", name, *arguments, str(folder))


def _fresh(folder: Path, **environment: str) -> layerkit.Settings:
    """Surroundings of a machine that remembers nothing."""
    return layerkit.Settings.from_environment(
        {**os.environ, **environment, "LAYERKIT_STATE_DIR": str(folder / "state")}
    )


def roles(found: layerkit.Inspection) -> list[tuple[str, bool]]:
    return [(layer.role, layer.guessed) for layer in found.layers]


def test_built_by_hand(engine: Engine, by_hand: tuple[str, Path], node: Callable[[str], str], tmp_path: Path) -> None:
    """An image of plain buildx: roles guessed and marked so, tensors out of a gzip layer, the copy by chown found;
    from a registry, an OCI layout and both image stores of Docker."""
    name, folder = by_hand
    buildx(engine, name, folder, "--push")
    base = f"registry:{engine.base}"
    found = layerkit.inspect(f"registry:{name}", base=base)
    expected = ["base", "code", "dependencies", "code", "checkpoint", "checkpoint"]
    assert [role for role, _ in roles(found)] == expected
    assert [guessed for _, guessed in roles(found)] == [False, *[True] * 5]
    assert not found.built_by_layerkit and not found.is_placed_well
    assert [layer.again for layer in found.layers] == ["", "", "", "", "", "copy"]
    with Client(credentials=Credentials(Path(), {})) as client:
        repository = client.repository(Reference.parse(name))
        top = repository.manifest("hand")
    assert top is not None and found.digest is not None
    assert found.checkpoint is not None
    assert {(t.file, t.count, t.parameters) for t in found.checkpoint.tensors} == {
        ("/app/model/model.safetensors", 2, 1024 * 2048 + 256 * 1024)
    }
    code = found.change("code")
    well = found.to_json()["placed_well"]
    weights = found.layers[4].size
    assert code is not None and weights is not None and weights > 3 * MIB
    assert code.unpack.bytes > 2 * weights and well["changes"]["code"]["unpack"] < code.unpack.bytes
    assert well["repeated"] > 3 * MIB and well["size"] == found.size.bytes - well["repeated"]

    buildx(engine, name, folder, "--output", f"type=oci,tar=false,dest={tmp_path / 'oci'}")
    layout_found = layerkit.inspect(f"oci:{tmp_path / 'oci'}", base=base)
    assert [role for role, _ in roles(layout_found)] == expected
    assert [x.diff_id for x in layout_found.layers] == [x.diff_id for x in found.layers]

    # Loaded by buildx: with the containerd store the manifest comes out of the builder's content store.
    buildx(engine, name, folder, "--load")
    here = layerkit.inspect(f"docker:{name}", base=base, settings=_fresh(tmp_path))
    assert [x.diff_id for x in here.layers] == [x.diff_id for x in found.layers]
    if "containerd" in engine.docker("info", "--format", "{{.DriverStatus}}"):
        assert [x.digest for x in here.layers] == [x.digest for x in found.layers]
        assert [x.size for x in here.layers] == [x.size for x in found.layers]
    assert here.unpacked.exact

    for store in ("containerd", "classic"):
        host = node(store)
        engine.docker("pull", "-q", name, host=host)
        settings = _fresh(tmp_path, DOCKER_HOST=host)
        local = layerkit.inspect(name, settings=settings)
        assert local.source == "docker" and local.reference == f"docker:{name}"
        assert [layer.diff_id for layer in local.layers] == [layer.diff_id for layer in found.layers]
        assert [layer.role for layer in local.layers] == expected
        assert local.checkpoint is not None and "not looked into" in local.checkpoint.missing
        assert local.unpacked.exact and local.unpacked.bytes > 3 * 4 * MIB


def test_local_image_of_layerkit(workspace: Workspace) -> None:
    """An image that layerkit loaded is known whole: its manifest's digests and roles, as marked."""
    built: dict[str, Any] = json.loads(workspace.run("build", "--json", "-t", "v1").stdout)
    found = json.loads(workspace.run("inspect", "--json", f"{workspace.repository}:v1").stdout)
    assert found["source"] == "docker" and found["digest"] == built["digest"]
    assert [layer["role"] for layer in found["layers"]] == [layer["role"] for layer in built["layers"]]
    assert [layer["digest"] for layer in found["layers"]] == [layer["digest"] for layer in built["layers"]]
    assert found["timeline"]["digest"] == built["digest"]
