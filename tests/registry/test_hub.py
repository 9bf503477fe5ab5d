"""Checkpoints of a hub, pushed for real: nothing is downloaded that need not be, and every byte is counted."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from layerkit.checkpoint.hub import Hub
from layerkit.checkpoint.safetensors import layout
from layerkit.errors import (
    AuthenticationError,
    CheckpointError,
    ConfigurationError,
    IntegrityError,
    LayerkitError,
    RefusedError,
    TransientError,
)
from layerkit.oci import Digest
from layerkit.pipeline import build, plan
from layerkit.project import load
from layerkit.results import Result
from layerkit.settings import Settings
from layerkit.state import State
from layerkit.testing import FakeRegistry
from registry.hub import FakeHub
from registry.pushing import NAME, Pushing
from registry.support import pattern

huggingface_hub = pytest.importorskip("huggingface_hub")

Serve = Callable[..., FakeRegistry]
MODEL = "acme/tiny"
TOKEN = "hf_secret0123456789"


def weights(seed: int = 0) -> bytes:
    """A safetensors file of 200 kB."""
    head, entries = layout([("a", "F32", (100, 250)), ("b", "F32", (100, 250))])
    return head + pattern(entries[-1].end, seed)


FILES = {
    "model.safetensors": weights(),
    "pytorch_model.bin": pattern(150_000, 7),
    "config.json": b'{"model_type": "tiny"}',
    "tokenizer.json": b'{"version": "1.0"}' + b" " * 8000,  # in Git LFS too
    "README.md": b"# tiny",
    ".gitattributes": b"*.bin filter=lfs",
    "onnx/model.onnx": pattern(90_000, 8),
}
SHIPPED = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as made:
        made.commit(MODEL, FILES)
        yield made


class Loader(Pushing):
    """A project whose checkpoint is a model of the hub."""

    registry: FakeRegistry

    def path(self, text: str, options: str = "") -> None:
        file = self.project / "layerkit.toml"
        head = file.read_text().partition("[checkpoint]")[0]
        file.write_text(f'{head}[checkpoint]\npath = "{text}"\ntarget = "/app/model/"\n{options}\n')

    def settings(self) -> Settings:
        return Settings.from_environment(self.environ)

    def push(self, tag: str = "v1") -> Result:
        return build(load(None, root=self.project), tags=[tag], push=True, settings=self.settings())

    def reason(self, tag: str = "v1") -> str:
        found = plan(load(None, root=self.project), tags=[tag], push=True, settings=self.settings())
        (layer,) = (layer for layer in found.layers if layer.role == "checkpoint")
        return f"{layer.action}: {layer.reason}"

    def machine(self, *, cache: bool = False) -> None:
        """Another machine: nothing is remembered, and nothing is in the hub's cache."""
        self.state = self.root / f"state-{self.state.name}"
        if not cache:
            shutil.rmtree(self.root / "hf", ignore_errors=True)

    def files(self, tag: str = "v1") -> dict[str, str]:
        """Path -> sha256 of the checkpoint's files in the image."""
        import io
        import tarfile

        from layerkit.oci import Manifest, Reference
        from layerkit.registry import Client

        with Client() as client:
            manifest = client.repository(Reference.parse(f"{self.host}/{NAME}")).manifest(tag)
        assert isinstance(manifest, Manifest)
        found = {}
        for layer in manifest.layers:
            if layer.annotations.get("dev.layerkit.role") == "checkpoint":
                with tarfile.open(fileobj=io.BytesIO(self.registry.blob(NAME, layer.digest) or b"")) as tar:
                    for member in tar:
                        content = tar.extractfile(member)
                        if content is not None:
                            name = member.name.removeprefix("app/model/")
                            found[name] = hashlib.sha256(content.read()).hexdigest()
        return found


@pytest.fixture
def loader(tmp_path: Path, serve: Serve, hub: FakeHub) -> Loader:
    registry = serve()
    made = Loader(tmp_path, registry.host)
    made.seed(registry)
    made.registry = registry
    made.environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    made.path(f"hf://{MODEL}@main")
    return made


def sizes(*names: str) -> int:
    return sum(len(FILES[name]) for name in names)


def test_what_is_shipped(loader: Loader, hub: FakeHub) -> None:
    """Weights in safetensors and what is read beside them, each downloaded once; nothing of the other formats."""
    result = loader.push()
    assert loader.files() == {name: hashlib.sha256(FILES[name]).hexdigest() for name in SHIPPED}
    assert hub.sent == sizes(*SHIPPED)
    assert result.rebuilt == ("checkpoint",) and result.checkpoint_read == sizes(*SHIPPED)


def test_again(loader: Loader, hub: FakeHub) -> None:
    """The same once more: one question, not a byte downloaded, not a byte uploaded."""
    first = loader.push()
    hub.sent = 0
    hub.requests.clear()
    loader.registry.requests.clear()
    again = loader.push()
    assert (again.digest, again.rebuilt, again.checkpoint_read, again.uploaded) == (first.digest, (), 0, 0)
    assert hub.sent == 0 and [r.method for r in hub.requests] == ["GET"]
    assert loader.registry.received_bytes() == 0


def test_another_machine(loader: Loader, hub: FakeHub) -> None:
    """A machine that knows nothing: the small file whose sha256 the hub does not say is downloaded, and no other."""
    first = loader.push()
    loader.machine()
    hub.sent = 0
    loader.registry.requests.clear()
    again = loader.push()
    assert again.digest == first.digest and again.uploaded == 0 and loader.registry.received_bytes() == 0
    assert hub.sent == sizes("config.json")


def test_another_commit_with_equal_files(loader: Loader, hub: FakeHub) -> None:
    """A commit that changes the README alone changes no checkpoint."""
    first = loader.push()
    hub.commit(MODEL, {**FILES, "README.md": b"# better"})
    hub.sent = 0
    again = loader.push()
    assert again.digest == first.digest and hub.sent == 0 and again.uploaded == 0


def test_new_weights(loader: Loader, hub: FakeHub) -> None:
    """A commit with other weights: that file is downloaded, and the plan says how much and from which commit."""
    loader.push()
    commit = hub.commit(MODEL, {**FILES, "model.safetensors": weights(1)})
    hub.sent = 0
    reason = loader.reason()
    assert f"hf://{MODEL}@{commit[:12]}" in reason
    assert "195.5 KiB to download" in reason and hub.sent == 0
    second = loader.push("v2")
    assert second.rebuilt == ("checkpoint",) and hub.sent == len(weights(1))
    assert loader.files("v2")["model.safetensors"] == hashlib.sha256(weights(1)).hexdigest()
    assert loader.reason().startswith("reused: ")


def test_commit_is_not_asked_for_again(loader: Loader, hub: FakeHub) -> None:
    """Of a commit that is known the hub is asked nothing, so it may be away."""
    commit = hub.repositories[MODEL].refs["main"]
    loader.path(f"hf://{MODEL}@{commit}")
    loader.push()
    hub.status = 503
    hub.requests.clear()
    assert loader.push().rebuilt == () and hub.requests == []


@pytest.mark.parametrize(
    "inside, expected",
    [
        pytest.param("pytorch_model.bin", {"pytorch_model.bin": "pytorch_model.bin"}, id="file"),
        pytest.param("onnx/model.onnx", {"model.onnx": "onnx/model.onnx"}, id="file in a folder"),
        pytest.param("best", {"model.safetensors": "best/model.safetensors"}, id="folder"),
    ],
)
def test_inside(loader: Loader, hub: FakeHub, inside: str, expected: dict[str, str]) -> None:
    """A file or a folder that is named: it alone."""
    files = {**FILES, "best/model.safetensors": weights(5)}
    hub.commit(MODEL, files, branch="v1.0")
    loader.path(f"hf://{MODEL}/{inside}@v1.0")
    loader.push()
    assert loader.files() == {path: hashlib.sha256(files[name]).hexdigest() for path, name in expected.items()}


def test_converted(loader: Loader, hub: FakeHub) -> None:
    """Made into other weights: downloaded once; then neither downloaded nor read."""
    loader.path(f"hf://{MODEL}@main", 'format = "safetensors"\ndrop = ["b"]')
    first = loader.push()
    assert hub.sent == sizes(*SHIPPED)
    again = loader.push()
    assert hub.sent == sizes(*SHIPPED) and (again.digest, again.rebuilt) == (first.digest, ())
    assert sorted(loader.files()) == sorted(SHIPPED)


def test_broken_download_goes_on(loader: Loader, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks in the middle: the rest is asked for, from the last whole chunk on."""
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.cut = 75_000
    loader.push()
    assert [request.range for request in hub.asked("GET", "/cdn/") if request.range] == ["bytes=70000-"]
    assert hub.sent == sizes(*SHIPPED) + 5000


@pytest.mark.parametrize("options", ["", 'format = "safetensors"'])
def test_damaged(loader: Loader, hub: FakeHub, options: str) -> None:
    """Bytes that are not what the hub says: no tag, and the file is named."""
    loader.path(f"hf://{MODEL}@main", options)
    hub.damaged = True
    with pytest.raises(IntegrityError, match=r"model.safetensors of hf://acme/tiny@\w+ has sha256"):
        loader.push()
    assert loader.registry.tag(NAME, "v1") is None


def test_token(loader: Loader, hub: FakeHub) -> None:
    """A private model: the token goes to the hub and to no other host, and no message shows it."""
    hub.repositories[MODEL].token = TOKEN
    with pytest.raises(CheckpointError) as missing:
        loader.push()
    assert "HF_TOKEN" in missing.value.hint
    loader.environment["HF_TOKEN"] = TOKEN
    hub.requests.clear()
    loader.push()
    assert {request.authorization for request in hub.asked("GET", "/api/")} == {f"Bearer {TOKEN}"}
    assert {request.authorization for request in hub.asked("GET", "/cdn/")} == {""}


def gated(hub: FakeHub) -> None:
    hub.repositories[MODEL].gated = True
    hub.repositories[MODEL].token = "hf_other"


def away(hub: FakeHub) -> None:
    hub.status = 503


def limited(hub: FakeHub) -> None:
    hub.status = 429


def refuses(hub: FakeHub) -> None:
    hub.status = 451


def nothing(hub: FakeHub) -> None:
    pass


@pytest.mark.parametrize(
    "path, prepare, kind, status, said",
    [
        pytest.param("hf://acme/none", nothing, CheckpointError, 3, "no such model", id="no repository"),
        pytest.param("hf://acme/tiny@v9", nothing, CheckpointError, 3, "no revision 'v9'", id="no revision"),
        pytest.param("hf://acme/tiny/none.pt", nothing, CheckpointError, 3, "has no 'none.pt'", id="no file"),
        pytest.param("hf://acme/tiny/onnx", nothing, CheckpointError, 3, "no weights", id="no weights"),
        pytest.param("hf://acme/tiny", gated, AuthenticationError, 5, "does not let us", id="gated"),
        pytest.param("hf://acme/tiny", away, TransientError, 7, "HTTP 503", id="away"),
        pytest.param("hf://acme/tiny", limited, TransientError, 7, "HTTP 429", id="limited"),
        pytest.param("hf://acme/tiny", refuses, RefusedError, 6, "HTTP 451", id="refuses"),
        pytest.param("hf://acme", nothing, ConfigurationError, 2, "names no model", id="half a name"),
        pytest.param("hf://acme/../x", nothing, ConfigurationError, 2, "names no model", id="leads out"),
        pytest.param("hf://acme/tiny@", nothing, ConfigurationError, 2, "no valid revision", id="no revision named"),
    ],
)
def test_errors(
    loader: Loader, hub: FakeHub, path: str, prepare: Any, kind: type[LayerkitError], status: int, said: str
) -> None:
    """What can go wrong with a name, a login or the hub itself: each with its exit status and a next step."""
    prepare(hub)
    loader.environment["HF_TOKEN"] = TOKEN
    loader.path(path)
    with pytest.raises(kind, match=said) as error:
        loader.push()
    assert error.value.exit_status == status
    assert error.value.hint or status == 6
    assert TOKEN not in f"{error.value.message} {error.value.hint}"


def test_wrong_token(loader: Loader, hub: FakeHub) -> None:
    """A token that the hub does not take is said to be that."""
    loader.environment["HF_TOKEN"] = "hf_wrong1"
    with pytest.raises(AuthenticationError, match="does not accept the token"):
        loader.push()


def test_unreachable(loader: Loader) -> None:
    """No hub there at all: passing, and the place that cannot be asked is named."""
    loader.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    with pytest.raises(TransientError, match="cannot be asked"):
        loader.push()


def test_offline(loader: Loader, hub: FakeHub) -> None:
    """HF_HUB_OFFLINE: what was asked for before is known; what was not is a question of configuration."""
    first = loader.push()
    loader.environment["HF_HUB_OFFLINE"] = "1"
    hub.requests.clear()
    assert loader.push().digest == first.digest
    loader.path(f"hf://{MODEL}@other")
    with pytest.raises(ConfigurationError, match="offline"):
        loader.push()
    assert hub.requests == []


def test_command_line(loader: Loader, hub: FakeHub) -> None:
    """As a user runs it: plan names the commit, a build prints no bar of others, check counts the files."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "layerkit", *arguments],
            cwd=loader.project,
            env=loader.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    commit = hub.repositories[MODEL].refs["main"]
    done = run("plan", "--push")
    assert done.returncode == 0 and f"hf://{MODEL}@{commit[:12]}" in done.stdout.replace("\n", " ")
    done = run("build", "--push", "-t", "v1")
    assert done.returncode == 0 and "%|" not in done.stderr and "it/s" not in done.stderr, done.stderr
    done = run("check", "--json")
    assert json.loads(done.stdout)["checkpoint_bytes"] == sizes(*SHIPPED)


def test_not_installed(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package: how to install it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigurationError) as error:
        loader.push()
    assert error.value.hint == "pip install 'layerkit[hf]'"


def test_small_file_is_proven(loader: Loader, hub: FakeHub, tmp_path: Path) -> None:
    """A small file that is not what its Git blob id says is refused, though the hub gave it."""
    made = Hub(loader.environ)
    with State(tmp_path / "s") as state:
        snapshot = made.snapshot(f"hf://{MODEL}@main", state)
        assert snapshot.digests["config.json"] == Digest.of(FILES["config.json"])
        place = made.cached(snapshot, snapshot.files[0])
        assert place is not None
        place.resolve().write_bytes(b'{"model_type": "evil"}')
    with State(tmp_path / "t") as state, pytest.raises(IntegrityError, match=r"config\.json"):
        made.snapshot(f"hf://{MODEL}@main", state)
