"""Weights by reference: pushes from a machine without them, the bytes counted by the registries themselves."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerkit.errors import CheckpointError, ConfigurationError, IntegrityError, LayerkitError
from layerkit.events import Event, Note
from layerkit.lock import Lock, read, write
from layerkit.oci import Digest, Image
from layerkit.pipeline import build, plan
from layerkit.planner import Plan
from layerkit.project import Project, load
from layerkit.results import Result
from layerkit.settings import Settings
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Pushing
from registry.support import MIB

Serve = Callable[..., FakeRegistry]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


class Checkout(Pushing):
    """A project whose weights are one file, and its registry."""

    registry: FakeRegistry

    def __post_init__(self) -> None:
        super().__post_init__()
        self.configure('path = "model.pt"\ntarget = "/app/model/"')

    def configure(self, checkpoint: str, base: str = "team/base:1") -> None:
        file = self.project / "layerkit.toml"
        head = file.read_text().partition("[checkpoint]")[0]
        file.write_text(f"{head}[checkpoint]\n{checkpoint}\n")

    @property
    def model(self) -> Path:
        return self.project / "model.pt"

    @property
    def lock(self) -> Lock:
        found = read(self.project / "layerkit.lock")
        assert found is not None
        return found

    def bring(self, seed: int = 0, size: int = 3 * MIB) -> bytes:
        raw = self.weights(size, seed).read_bytes()
        (self.project / "weights" / "model.pt").replace(self.model)
        return raw

    def pointer(self, raw: bytes) -> None:
        """What a checkout without git lfs pull has."""
        self.model.write_text(POINTER.format(hashlib.sha256(raw).hexdigest(), len(raw)))

    def elsewhere(self, name: str) -> Checkout:
        """A fresh checkout of the same project on another machine: its lock, and no weights."""
        other = Checkout(self.root / name, self.host)
        shutil.rmtree(other.project)
        shutil.copytree(self.project, other.project)
        other.model.unlink(missing_ok=True)
        other.registry = self.registry
        return other

    def code(self, registry: FakeRegistry | None = None, name: str = NAME) -> None:
        """The code changes; what BuildKit would build of it is there."""
        (self.project / "serve.py").write_text(f"print({name!r}, 'changed')\n")
        self.runtime_to(registry or self.registry, name)

    def runtime_to(self, registry: FakeRegistry, name: str) -> None:
        base, blobs = self.base()
        registry.push("team/base", "1", base, blobs)
        runtime, blobs = self.runtime()
        registry.push(name, f"runtime-{self.runtime_key()}", runtime, blobs)

    def settings(self) -> Settings:
        return Settings.from_environment(self.environ)

    def load(self, *overrides: str) -> Project:
        return load(None, root=self.project, overrides=overrides)

    def push(self, tag: str = "v1", *overrides: str, **options: Any) -> Result:
        self.notes: list[str] = []

        def listen(event: Event) -> None:
            if isinstance(event, Note):
                self.notes.append(event.message)

        return build(
            self.load(*overrides),
            tags=[tag],
            **{"push": not options.get("output"), **options},
            settings=self.settings(),
            listener=listen,
        )

    def plan(self, tag: str = "v1", *overrides: str, **options: Any) -> Plan:
        return plan(self.load(*overrides), tags=[tag], push=True, settings=self.settings(), **options)


@pytest.fixture
def checkout(tmp_path: Path, serve: Serve) -> Checkout:
    registry = serve()
    made = Checkout(tmp_path, registry.host)
    made.registry = registry
    made.model.write_bytes(b"x")  # for the key, which it is no part of
    made.seed(registry)
    made.model.unlink()
    return made


def layers(result: Result) -> list[tuple[str, str]]:
    return [(str(layer.digest), layer.action) for layer in result.layers if layer.role == "checkpoint"]


class Traffic:
    """Bytes of layers of a checkpoint that went up to a registry, or came down from it, from now on."""

    def __init__(self, registry: FakeRegistry, *digests: Digest) -> None:
        self.registry = registry
        self.digests = [str(digest) for digest in digests]
        self.begun = len(registry.requests)

    @property
    def up(self) -> int:
        """Bytes in bodies of uploads: what is small is configurations."""
        asked = self.registry.requests[self.begun :]
        return sum(request.received for request in asked if "/blobs/uploads/" in request.path)

    @property
    def reads(self) -> int:
        """Requests for bytes of those layers, but for the single ones that prove that a layer is there."""
        asked = self.registry.requests[self.begun :]
        return sum(
            request.method == "GET"
            and any(digest in request.path for digest in self.digests)
            and not re.fullmatch(r"bytes=(\d+)-\1", request.headers.get("range", ""))
            for request in asked
        )


def test_code_build_without_weights(checkout: Checkout) -> None:
    """Weights away, code changed: the same layers, and not a byte of them read, sent or fetched; it is said so."""
    raw = checkout.bring()
    first = checkout.push()
    locked = checkout.lock.checkpoint
    assert (
        locked is not None
        and locked.files[0].digest == Digest.of(raw)
        and locked.repository == f"{checkout.host}/{NAME}"
    )
    other = checkout.elsewhere("ci")
    other.code()
    before = (other.project / "layerkit.lock").read_bytes()
    second = other.push("v2", locked=True)
    assert layers(second) == [(layers(first)[0][0], "reused")] and first.digest != second.digest
    assert (second.checkpoint_read, second.fetched) == (0, 0) and second.uploaded < 16 * 1024
    assert (other.project / "layerkit.lock").read_bytes() == before
    said = f"taken from registry {checkout.host}/{NAME}, as layerkit.lock says: {Digest.of(raw)}"
    assert f"checkpoint  model.pt is not here; {said}" in other.notes
    assert other.push("v2").digest == second.digest and (other.project / "layerkit.lock").read_bytes() == before


def test_the_same_image_either_way(checkout: Checkout) -> None:
    """With the weights and without them, the same project gives the same image, to the byte."""
    checkout.bring()
    first = checkout.push()
    other = checkout.elsewhere("ci")
    assert other.push().digest == first.digest
    assert other.plan().changes is False


def test_mounted_into_another_repository(checkout: Checkout) -> None:
    """Into another repository of the registry the layers are mounted: 0 bytes of them up, 0 down."""
    checkout.bring()
    checkout.push()
    locked = checkout.lock.checkpoint
    assert locked is not None
    other = checkout.elsewhere("ci")
    name = f"image.name={checkout.host}/team/other"
    other.runtime_to(checkout.registry, "team/other")
    planned = next(layer for layer in other.plan("v1", name).layers if layer.role == "checkpoint")
    assert planned.action == "mounted" and f"mounted from {checkout.host}/{NAME}" in planned.reason
    traffic = Traffic(checkout.registry, *(layer.descriptor.digest for layer in locked.layers))
    done = other.push("v1", name)
    configs = [Digest.of(raw) for raw in _configs(checkout.registry, "team/other", "v1", f"checkpoint-{locked.key}")]
    sizes = [len(checkout.registry.blob("team/other", digest) or b"") for digest in configs]
    assert traffic.up == sum(sizes) and traffic.reads == 0 and done.fetched == 0
    assert layers(done) == [(str(locked.layers[0].descriptor.digest), "mounted")]


def _configs(registry: FakeRegistry, name: str, *tags: str) -> list[bytes]:
    found = []
    for tag in tags:
        digest = registry.tag(name, tag)
        assert digest is not None
        manifest = json.loads(registry._repositories[name].manifests[str(digest)][0])
        raw = registry.blob(name, Digest.parse(manifest["config"]["digest"]))
        assert raw is not None
        found.append(raw)
    return found


def test_streamed_to_another_registry(checkout: Checkout, serve: Serve) -> None:
    """To another registry the layers are streamed once, with no file between; the plan says so."""
    checkout.bring()
    checkout.push()
    locked = checkout.lock.checkpoint
    assert locked is not None
    target = serve()
    other = checkout.elsewhere("ci")
    name = f"image.name={target.host}/{NAME}"
    other.runtime_to(target, NAME)
    planned = next(layer for layer in other.plan("v1", name).layers if layer.role == "checkpoint")
    assert planned.action == "packed" and "streamed from" in planned.reason
    source = Traffic(checkout.registry, locked.layers[0].descriptor.digest)
    done = other.push("v1", name)
    assert done.fetched == locked.layers[0].descriptor.size and source.reads == 1 and done.checkpoint_read == 0
    assert target.blob(NAME, locked.layers[0].descriptor.digest) is not None
    assert layers(done) == [(str(locked.layers[0].descriptor.digest), "packed")]


def test_mount_refused(checkout: Checkout, serve: Serve) -> None:
    """A registry that mounts nothing is streamed to from itself."""
    checkout.bring()
    checkout.push()
    other = checkout.elsewhere("ci")
    name = f"image.name={checkout.host}/team/other"
    other.runtime_to(checkout.registry, "team/other")
    checkout.registry.profile = replace(checkout.registry.profile, mounts=False)
    done = other.push("v1", name)
    assert [action for _, action in layers(done)] == ["packed"] and done.fetched > 3 * MIB


def lying(checkout: Checkout) -> tuple[Checkout, Digest]:
    """A checkout without weights of another image, and their layer, in a registry that says it has what it lost."""
    checkout.bring()
    digest = Digest.parse(layers(checkout.push())[0][0])
    other = checkout.elsewhere("ci")
    other.runtime_to(checkout.registry, "team/other")
    checkout.registry.profile = replace(checkout.registry.profile, lying_head=True)
    return other, digest


def test_source_that_lost_its_layer(checkout: Checkout) -> None:
    """HEAD and mount say yes, and the bytes are gone: an error, not half an image."""
    other, digest = lying(checkout)
    checkout.registry.drop_blob(digest)
    with pytest.raises(CheckpointError, match="its layers"):
        other.push("v1", f"image.name={checkout.host}/team/other")
    assert checkout.registry.tag("team/other", "v1") is None


def test_mount_of_a_lost_layer(checkout: Checkout) -> None:
    """A layer whose bytes are gone once it is mounted is streamed, from where they are."""
    other, digest = lying(checkout)
    registry = checkout.registry
    raw = registry.blob(NAME, digest)
    assert raw is not None
    registry.fail(method="POST", path="team/other/blobs/uploads/", call=lambda _: registry.drop_blob(digest))
    source = f"{NAME}/blobs/{digest}"
    registry.fail(method="GET", path=source, skip=2, call=lambda _: registry.put_blob(NAME, raw))
    done = other.push("v1", f"image.name={checkout.host}/team/other")
    assert [action for _, action in layers(done)] == ["packed"] and done.fetched == len(raw)
    assert registry.blob("team/other", digest) == raw


def test_layout(checkout: Checkout, tmp_path: Path) -> None:
    """An OCI layout takes the layers from the registry that the lock names."""
    checkout.bring()
    first = checkout.push()
    other = checkout.elsewhere("ci")
    runtime, blobs = other.runtime()
    folder = tmp_path / "layout"
    (folder / "blobs" / "sha256").mkdir(parents=True)
    for raw in (*blobs, runtime.manifest.raw):
        (folder / "blobs" / "sha256" / Digest.of(raw).hex).write_bytes(raw)
    entry = runtime.manifest.descriptor(runtime.platform).to_json()
    entry["annotations"] = {"org.opencontainers.image.ref.name": f"runtime-{checkout.runtime_key()}"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    done = other.push("v1", output=f"oci:{folder}")
    assert done.digest == first.digest and done.fetched > 3 * MIB
    assert (folder / "blobs" / "sha256" / Digest.parse(layers(done)[0][0]).hex).stat().st_size == done.fetched


# ------------------------------------------------------------------------------------------------------ Git LFS and DVC


def test_lfs_pointer(checkout: Checkout) -> None:
    """A pointer of the locked weights is as good as the weights; one of others is refused, and never packed."""
    raw = checkout.bring()
    first = checkout.push()
    other = checkout.elsewhere("ci")
    other.pointer(raw)
    assert other.push().digest == first.digest
    other.pointer(b"newer weights")
    with pytest.raises(CheckpointError, match="the weights changed and are not here") as caught:
        other.push("v2")
    assert caught.value.hint == "git lfs pull" and str(Digest.of(raw)) in str(caught.value)
    assert checkout.registry.tag(NAME, "v2") is None


def test_lfs_pointer_without_lock(checkout: Checkout) -> None:
    """Without a lock the registry knows the weights by the pointer's sha256; where it does not, nothing is packed."""
    raw = checkout.bring()
    first = checkout.push()
    other = checkout.elsewhere("ci")
    (other.project / "layerkit.lock").unlink()
    other.pointer(raw)
    assert other.push().digest == first.digest
    assert other.lock == checkout.lock
    (other.project / "layerkit.lock").unlink()
    other.pointer(b"others")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        other.push("v2")
    assert checkout.registry.tag(NAME, "v2") is None


def test_pointer_of_weights_that_another_pushed(checkout: Checkout) -> None:
    """New weights that somebody has pushed already are taken by their pointer, unless the build is held to the lock."""
    checkout.bring(seed=1)
    checkout.push("old")
    old = checkout.elsewhere("ci")
    new = checkout.bring(seed=2)
    second = checkout.push("new")
    old.pointer(new)
    with pytest.raises(IntegrityError, match=r"--locked: layerkit.lock would change: weights: sha256:"):
        old.push("v3", locked=True)
    assert old.push("v3").digest == second.digest
    assert old.lock == checkout.lock


def dvc(checkout: Checkout, md5: str, size: int) -> None:
    (checkout.project / "model.pt.dvc").write_text(
        f"outs:\n- md5: {md5}\n  size: {size}\n  hash: md5\n  path: model.pt\n"
    )


def test_dvc_file(checkout: Checkout) -> None:
    """A .dvc file that was true of the locked weights stands for them; a newer one is refused."""
    raw = checkout.bring()
    dvc(checkout, hashlib.md5(raw).hexdigest(), len(raw))
    first = checkout.push()
    locked = checkout.lock.checkpoint
    assert locked is not None and locked.dvc == f"md5:{hashlib.md5(raw).hexdigest()}"
    other = checkout.elsewhere("ci")
    assert other.push().digest == first.digest
    dvc(other, hashlib.md5(b"newer").hexdigest(), 5)
    with pytest.raises(CheckpointError, match="the weights changed and are not here") as caught:
        other.push("v2")
    assert caught.value.hint == "dvc pull model.pt.dvc"


def test_dvc_file_that_is_not_true(checkout: Checkout) -> None:
    """A .dvc file of other bytes than those that were packed does not get into the lock, and stands for nothing."""
    raw = checkout.bring()
    dvc(checkout, hashlib.md5(b"before").hexdigest(), len(raw))
    checkout.push()
    locked = checkout.lock.checkpoint
    assert locked is not None and locked.dvc == ""
    with pytest.raises(CheckpointError, match="says nothing of DVC"):
        checkout.elsewhere("ci").push("v2")


# -------------------------------------------------------------------------------------------------------------- oci://


def test_image_as_checkpoint(checkout: Checkout) -> None:
    """checkpoint.path = oci://…: the layers of a checkpoint image, or of a whole one, mounted; the tag is locked."""
    checkout.bring()
    first = checkout.push()
    key = checkout.lock.checkpoint.key  # type: ignore[union-attr]
    for number, source in enumerate((f"checkpoint-{key}", "v1", f"latest@{first.digest}".partition("@")[2])):
        other = checkout.elsewhere(f"ci-{number}")
        (other.project / "layerkit.lock").unlink()
        separator = "@" if ":" in source else ":"
        other.configure(f'path = "oci://{checkout.host}/{NAME}{separator}{source}"\ntarget = "/app/model/"')
        name = f"team/other-{number}"
        other.runtime_to(checkout.registry, name)
        traffic = Traffic(checkout.registry, Digest.parse(layers(first)[0][0]))
        done = other.push("v1", f"image.name={checkout.host}/{name}")
        assert layers(done) == [(layers(first)[0][0], "mounted")] and traffic.reads == 0
        assert done.uploaded < 16 * 1024
        locked = other.lock.checkpoint
        assert locked is not None and locked.source.startswith(f"{checkout.host}/{NAME}@sha256:")
        assert locked.location == "/app/model/model.pt" and locked.digest == checkout.lock.checkpoint.digest  # type: ignore[union-attr]
        assert other.push("v1", f"image.name={checkout.host}/{name}").digest == done.digest


def test_image_tag_that_moved(checkout: Checkout) -> None:
    """A tag that moved is followed and locked anew; a build that is held to the lock takes what was locked."""
    checkout.bring(seed=1)
    first = checkout.push()
    other = checkout.elsewhere("ci")
    other.configure(f'path = "oci://{checkout.host}/{NAME}:v1"\ntarget = "/app/model/"')
    name = f"image.name={checkout.host}/team/other"
    other.runtime_to(checkout.registry, "team/other")
    with pytest.raises(ConfigurationError, match=r"checkpoint.path"):
        other.push("v1", name, locked=True)
    other.push("v1", name)
    checkout.bring(seed=2)
    second = checkout.push()
    assert layers(other.push("v1", name, locked=True))[0][0] == layers(first)[0][0]
    assert layers(other.push("v1", name))[0][0] == layers(second)[0][0]
    assert other.lock.checkpoint.source.endswith(str(second.digest))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param('target = "/srv/"', "its files are in /app/model as 0:0 0644", id="target"),
        pytest.param(
            'target = "/app/model/"\nchown = "1000:1000"', "wants them in /app/model as 1000:1000", id="owner"
        ),
        pytest.param('target = "/app/model/"\nchmod = "0444"', "as 0:0 0444", id="mode"),
    ],
)
def test_image_of_another_place(checkout: Checkout, options: str, said: str) -> None:
    """Layers cannot be moved: of another target, owner or mode they are refused, and it is said what to write."""
    checkout.bring()
    checkout.push()
    checkout.configure(f'path = "oci://{checkout.host}/{NAME}:v1"\n{options}')
    with pytest.raises(CheckpointError, match=said) as caught:
        checkout.plan("v2")
    assert "checkpoint.target = '/app/model'" in caught.value.hint


def test_image_without_checkpoint(checkout: Checkout) -> None:
    """An image that layerkit did not make, and one that is not there, are refused."""
    for tag, said in (("1", "is no image with a checkpoint"), ("2", "has no such image")):
        checkout.configure(f'path = "oci://{checkout.host}/team/base:{tag}"\ntarget = "/app/model/"')
        with pytest.raises(CheckpointError, match=said):
            checkout.plan()


# ------------------------------------------------------------------------------------------------------------- the lock


def test_locked(checkout: Checkout) -> None:
    """--locked: no lock, other settings (2) and other weights (8) end the build before a byte is sent."""
    checkout.bring()
    with pytest.raises(ConfigurationError, match=r"there is no layerkit.lock"):
        checkout.push(locked=True)
    checkout.push()
    assert checkout.push(locked=True).digest == checkout.push().digest
    checkout.bring(seed=5)
    traffic = Traffic(checkout.registry)
    with pytest.raises(IntegrityError, match=r"weights: sha256:.* → sha256:"):
        checkout.push("v2", locked=True)
    with pytest.raises(ConfigurationError, match=r'checkpoint.chmod: "0644" → "0600"'):
        checkout.push("v2", "checkpoint.chmod=0o600", "checkpoint.chmod='0600'", locked=True)
    assert traffic.up == 0 and checkout.registry.tag(NAME, "v2") is None
    checkout.bring()
    with pytest.raises(ConfigurationError, match=r'would change: checkpoint.target: "/app/model" → "/srv"$'):
        checkout.push("v2", "checkpoint.target='/srv/'", locked=True)
    checkout.bring(seed=5)
    checkout.push("v2")
    assert any(
        re.fullmatch("layerkit.lock: weights: sha256:[0-9a-f]{12} → sha256:[0-9a-f]{12}", n) for n in checkout.notes
    )


def test_base_that_moved(checkout: Checkout) -> None:
    """A base tag that moved: --locked stays with the locked digest, and without it the lock follows."""
    checkout.bring()
    checkout.push()
    (old,) = checkout.lock.bases
    moved, blobs = _image_of(checkout, b"newer python")
    checkout.registry.push("team/base", "1", moved, blobs)
    assert [base.digest for base in checkout.plan(locked=True).inputs.bases.values()] == [old.digest]
    assert [base.digest for base in checkout.plan().inputs.bases.values()] == [moved.manifest.digest]
    assert set(old.platforms) == {"linux/amd64"}


def _image_of(checkout: Checkout, content: bytes) -> tuple[Image, list[bytes]]:
    from registry.pushing import image, tar_of

    return image([(tar_of({"usr/bin/python3": content}), "ADD rootfs")])


def test_settings_changed_without_weights(checkout: Checkout) -> None:
    """Settings that make another layer need the weights: without them it is refused, and said what differs."""
    checkout.bring()
    checkout.push()
    other = checkout.elsewhere("ci")
    with pytest.raises(CheckpointError, match=r'checkpoint.target: "/app/model" → "/srv"'):
        other.push("v2", "checkpoint.target='/srv'")


def test_layers_that_nobody_has(checkout: Checkout) -> None:
    """Where no registry has the layers it is said which were asked; a tag with other layers is not believed."""
    checkout.bring()
    checkout.push()
    other = checkout.elsewhere("ci")
    locked = other.lock.checkpoint
    assert locked is not None
    checkout.registry.drop_blob(locked.layers[0].descriptor.digest)
    with pytest.raises(CheckpointError, match="its layers") as caught:
        other.push("v2")
    assert checkout.host in str(caught.value)


def test_lock_that_cannot_be_used(checkout: Checkout) -> None:
    """A lock that is broken, or of a newer layerkit, ends every build at once (2)."""
    checkout.bring()
    checkout.push()
    file = checkout.project / "layerkit.lock"
    good = file.read_text()
    for text, said in (
        ("<<<<<<< HEAD\n", "is no lock"),
        (good.replace("version = 1", "version = 2"), "newer layerkit"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=said):
            checkout.push("v2")


def test_not_writable(checkout: Checkout) -> None:
    """A lock that cannot be written is a warning: the image is there."""
    checkout.bring()
    (checkout.project / "layerkit.lock").mkdir()
    with pytest.raises(LayerkitError, match=r"cannot be read"):
        checkout.push()


def test_stable(checkout: Checkout) -> None:
    """A build that changes nothing does not touch the file; a change of code changes nothing in it."""
    checkout.bring()
    checkout.push()
    file = checkout.project / "layerkit.lock"
    before = (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino)
    checkout.push()
    checkout.code()
    checkout.push("v2")
    assert (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino) == before
    assert write(file, checkout.lock) is False


def test_check(checkout: Checkout) -> None:
    """check: the lock agrees (0), is of another base (2), of other weights (8); absent weights are no problem."""
    checkout.bring()
    checkout.push()

    def check(*arguments: str) -> tuple[int, str]:
        import subprocess
        import sys

        done = subprocess.run(
            [sys.executable, "-m", "layerkit", "check", *arguments],
            cwd=checkout.project, env=checkout.environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    assert check()[0] == 0 and "layerkit.lock: agrees\n" in check()[1]
    assert "→" in check("--set", "image.base=python:3.12")[1] and check("--set", "image.base=python:3.12")[0] == 2
    status, said = check("--set", "checkpoint.target=/srv/")
    assert status == 2 and 'error: layerkit.lock: checkpoint.target: "/app/model" → "/srv"\n' in said
    raw = checkout.model.read_bytes()
    checkout.model.unlink()
    assert check()[0] == 0 and "model.pt is not here: as layerkit.lock says, sha256:" in check()[1]
    checkout.model.write_bytes(raw + b"more")
    assert check()[0] == 8 and "size of model.pt" in check()[1]
