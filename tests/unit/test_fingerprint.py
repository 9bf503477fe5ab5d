from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import layerkit.fingerprint as fingerprint_module
from layerkit.checkpoint import Ownership, checkpoint_key, find
from layerkit.checkpoint.parts import hash_content
from layerkit.errors import CheckpointError, ConfigurationError
from layerkit.fingerprint import Base, Inputs, fingerprint, hash_file
from layerkit.oci import Digest
from layerkit.project import Builder, Checkpoint, Code, Dependencies, Image, Project, Secret
from layerkit.runtime import ContextFile
from layerkit.state import State
from unit.support import PLATFORM, inputs, project, slow_clock, write_project


def key(made: Project, **options: Any) -> str:
    with State() as state:
        return inputs(made, state, **options).runtime_key(PLATFORM)


def own(root: Path, line: str, **options: Any) -> Project:
    """A project with a Dockerfile of its own that has *line*."""
    (root / "Dockerfile").write_text(f"FROM python:3.11-slim\n{line}\n")
    checkpoint = Checkpoint("model.pth.tar", **options)
    return Project(image=Image("a/b", dockerfile="Dockerfile"), checkpoint=checkpoint, root=root)


# --------------------------------------------------------------------------------------------------------- stat cache


def test_checkpoint_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is looked at and not read: its digest is open until it was hashed once."""
    write_project(tmp_path)
    read: list[Path] = []
    monkeypatch.setattr(fingerprint_module, "hash_file", lambda path: read.append(path) or hash_file(path))
    with State() as state:
        first = inputs(project(tmp_path), state)
        assert first.checkpoint is not None
        assert (first.checkpoint.known, first.checkpoint.key, first.checkpoint.digest) == (False, None, None)
        assert first.checkpoint.size == 7
        assert {path.name for path in read} == {"serve.py", "requirements.txt"}
        (file,) = first.checkpoint.files
        state.remember_file(file.source, file.identity, Digest.of(b"weights"))
        second = inputs(project(tmp_path), state).checkpoint
        assert second is not None and second.known and second.digest == Digest.of(b"weights")
        assert second.key == checkpoint_key({"model.pth.tar": Digest.of(b"weights")}, Ownership("/app/model/"))


def test_code_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the stat cache knows is not read again; one that changed is."""
    write_project(tmp_path)
    read: list[str] = []
    monkeypatch.setattr(fingerprint_module, "hash_file", lambda path: read.append(path.name) or hash_file(path))
    with State() as state:
        inputs(project(tmp_path), state)
        read.clear()
        inputs(project(tmp_path), state)
        assert read == []
        (tmp_path / "src/serve.py").write_text("print('other')\n")
        found = inputs(project(tmp_path), state)
    assert read == ["serve.py"] and found.digests["src/serve.py"] == Digest.of(b"print('other')\n")


def test_racy_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written again right after it was read is not taken for the old one ("racy git")."""
    slow_clock(monkeypatch)
    write_project(tmp_path)
    code = tmp_path / "src/serve.py"

    def then_written(path: Path) -> Digest:
        digest = hash_file(path)
        if path.name == code.name:
            code.write_text("print('B')\n")
        return digest

    with State() as state:
        for _ in range(10):
            monkeypatch.setattr(fingerprint_module, "hash_file", then_written)
            code.write_text("print('A')\n")
            inputs(project(tmp_path), state)
            monkeypatch.setattr(fingerprint_module, "hash_file", hash_file)
            assert inputs(project(tmp_path), state).digests["src/serve.py"] == Digest.of(b"print('B')\n")


def test_racy_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of a file of the checkpoint that is written again right after it was hashed."""
    slow_clock(monkeypatch)
    weights = tmp_path / "model.pt"
    with State() as state:
        for _ in range(10):
            weights.write_bytes(b"A" * 1000)
            os.utime(weights, ns=(0, 0))
            (file,) = find("model.pt", tmp_path)
            digest = hash_content(file, lambda count: None)
            weights.write_bytes(b"B" * 1000)
            os.utime(weights, ns=(0, 0))
            state.remember_file(file.source, file.identity, digest)
            (again,) = find("model.pt", tmp_path)
            assert state.file_digest(again.source, again.identity) is None


def test_several_files_partly_known(tmp_path: Path) -> None:
    """A checkpoint of which one file is not known yet has no key, and only that file is open."""
    write_project(tmp_path)
    (tmp_path / "w").mkdir()
    for name in ("a", "b"):
        (tmp_path / "w" / name).write_text(name)
    made = dataclasses.replace(project(tmp_path), checkpoint=Checkpoint("w", target="/m"))
    with State() as state:
        found = inputs(made, state).checkpoint
        assert found is not None and found.location == "/m"
        state.remember_file(found.files[0].source, found.files[0].identity, Digest.of(b"a"))
        again = inputs(made, state).checkpoint
        assert again is not None and set(again.digests) == {"a"} and again.key is None


def test_hash_file(tmp_path: Path) -> None:
    """A file's digest is its sha256, also over one read's length."""
    content = os.urandom(3 * 1024 * 1024 + 1)
    (tmp_path / "x").write_bytes(content)
    assert hash_file(tmp_path / "x").hex == hashlib.sha256(content).hexdigest()


# --------------------------------------------------------------------------------------------------------- runtime key


def test_key_is_of_content_alone(tmp_path: Path) -> None:
    """The same inputs in another folder, with other times, have the same key; the weights are not in it."""
    one, two = write_project(tmp_path / "a"), write_project(tmp_path / "b", weights=b"others")
    os.utime(two / "src/serve.py", (1, 1))
    assert key(project(one)) == key(project(two))
    assert len(key(project(one))) == 40


CHANGES: list[Any] = [
    pytest.param(lambda p: (p.root / "src/serve.py").write_text("other"), id="code"),
    pytest.param(lambda p: (p.root / "src/new.py").write_text(""), id="code-added"),
    pytest.param(lambda p: (p.root / "src/serve.py").chmod(0o755), id="executable"),
    pytest.param(lambda p: (p.root / "requirements.txt").write_text("torch==2.13.0\n"), id="requirements"),
    pytest.param(lambda p: (p.root / "src/link").symlink_to("serve.py"), id="link"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_count(tmp_path: Path, change: Callable[[Project], object]) -> None:
    """Every file that goes to the builder is in the key: content, name, whether it is executable, where it links."""
    made = project(write_project(tmp_path))
    before = key(made)
    change(made)
    assert key(made) != before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: (p.root / "notes.txt").write_text("x"), id="file-that-is-not-included"),
        pytest.param(lambda p: (p.root / "model.pth.tar").write_bytes(b"other weights"), id="weights"),
        pytest.param(lambda p: (p.root / "src/serve.py").chmod(0o600), id="umask"),
        pytest.param(lambda p: os.utime(p.root / "src/serve.py", (1, 1)), id="time"),
    ],
)
def test_files_that_do_not_count(tmp_path: Path, change: Callable[[Project], object]) -> None:
    """What does not reach the builder's image, or not its content, is not in the key."""
    made = project(write_project(tmp_path))
    before = key(made)
    change(made)
    assert key(made) == before


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        pytest.param({"image": Image("x/y", command=["python", "serve.py"])}, False, id="name"),
        pytest.param({"image": Image("a/b", command=["other"])}, True, id="command"),
        pytest.param({"builder": Builder(args={"A": "1"})}, True, id="build-argument"),
        pytest.param({"builder": Builder(secrets={"a": Secret(env="A")})}, True, id="secret-id"),
        pytest.param({"builder": Builder(network="none")}, True, id="network"),
        pytest.param({"builder": Builder(attest=["type=sbom"])}, True, id="attestation"),
        pytest.param({"builder": Builder(name="other")}, False, id="builder"),
        pytest.param({"code": Code(["src"], target="/srv")}, True, id="code-target"),
        pytest.param({"dependencies": Dependencies("requirements.txt")}, True, id="separate"),
        pytest.param({"checkpoint": Checkpoint("model.pth.tar", chown="1000")}, True, id="owner-of-the-checkpoint"),
        pytest.param({"checkpoint": Checkpoint("model.pth.tar", target="/m")}, True, id="target-of-the-checkpoint"),
    ],
)
def test_settings_that_count(tmp_path: Path, change: dict[str, Any], counts: bool) -> None:
    """Every setting that changes the runtime image is in its key, and no other."""
    made = project(write_project(tmp_path))
    assert (key(made) != key(dataclasses.replace(made, **change))) is counts


def test_surroundings_that_count(tmp_path: Path) -> None:
    """The base's digest, the platform and SOURCE_DATE_EPOCH are in the key."""
    made = project(write_project(tmp_path))
    with State() as state:
        both = inputs(made, state, platforms=(PLATFORM, "linux/arm64"))
    assert both.runtime_key(PLATFORM) != both.runtime_key("linux/arm64")
    assert both.runtime_key(PLATFORM) == key(made), "another platform beside it does not count"
    assert len({key(made), key(made, base="newer"), key(made, epoch=0), key(made, epoch=1)}) == 4


def test_secret_values_do_not_count(tmp_path: Path) -> None:
    """A secret counts by its id: neither its value nor where it comes from is in the key."""
    made = project(write_project(tmp_path))
    one = dataclasses.replace(made, builder=Builder(secrets={"a": Secret(env="A")}))
    two = dataclasses.replace(made, builder=Builder(secrets={"a": Secret(file="/x")}))
    assert key(one) == key(two)


def test_wheels_count(tmp_path: Path) -> None:
    """Wheels are in the key by name and content."""
    write_project(tmp_path)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/a-1-py3-none-any.whl").write_bytes(b"1")
    made = dataclasses.replace(project(tmp_path), dependencies=Dependencies("requirements.txt", wheels="wheels"))
    before = key(made)
    (tmp_path / "wheels/a-1-py3-none-any.whl").write_bytes(b"2")
    assert key(made) != before
    gone = dataclasses.replace(made, dependencies=Dependencies("requirements.txt", wheels="none"))
    with pytest.raises(ConfigurationError, match="no folder") as caught:
        key(gone)
    assert "pip download" in caught.value.hint


# ------------------------------------------------------------------------------------------------------------- summary


def test_scratch_is_no_image(tmp_path: Path) -> None:
    """BuildKit's scratch is nothing at all: no registry is asked for it, and nothing is pinned."""
    write_project(tmp_path)
    made = dataclasses.replace(project(tmp_path), dependencies=Dependencies(), image=Image("a/b", base="scratch"))
    with State() as state:
        found = inputs(made, state)
    assert found.bases == {} and found.summary["base"] == {}
    assert "FROM scratch AS base" in found.dockerfile


@pytest.mark.parametrize("own_file", [False, True])
def test_code_on_the_weights(tmp_path: Path, own_file: bool) -> None:
    """Code that lands on the weights is refused, whoever writes the Dockerfile; not where they are mounted."""
    write_project(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pth.tar").write_text("not these")
    made = dataclasses.replace(project(tmp_path), code=Code(["src", "model"]))
    if own_file:
        made = own(tmp_path, "COPY --link --from=checkpoint . /app/model/\nCOPY . /app")
    with State() as state, pytest.raises(ConfigurationError, match=r"to /app/model/model\.pth\.tar, where"):
        inputs(made, state)
    assert made.checkpoint is not None
    with State() as state:
        inputs(dataclasses.replace(made, checkpoint=dataclasses.replace(made.checkpoint, placement="volume")), state)


def test_summary(tmp_path: Path) -> None:
    """The summary says by role what went in, so that a later plan can name what changed."""
    made = dataclasses.replace(project(write_project(tmp_path)), builder=Builder(args={"A": "1"}))
    with State() as state:
        found = inputs(made, state).summary
    assert found["base"] == {"python:3.11-slim": Digest.of(b"base").short}
    assert found["dependencies"] == {
        "requirements.txt": Digest.of(b"torch==2.13.0\nnumpy\n").short,
        "requirement torch": "==2.13.0",
        "requirement numpy": "",
    }
    assert found["instructions"]["argument A"] == Digest.of(b"1").short
    assert found["code"] == {"src/serve.py": Digest.of(b"print('served')\n").short}
    assert set(found["instructions"]) == {"Dockerfile", "argument A"}


@pytest.mark.parametrize(
    "line",
    [
        "mine @ https://me:pass-word@pypi.example/mine-1.0-py3-none-any.whl",
        "git+https://pass-word@github.com/acme/mine.git@main",
        "mine @ https://pypi.example/mine.whl?token=pass-word --hash=sha256:" + "0" * 64,
        "--extra-index-url https://me:pass-word@pypi.example/simple",
    ],
)
def test_summary_has_no_logins(tmp_path: Path, line: str) -> None:
    """Logins and tokens in a requirement's URL stay out of the summary: whoever may pull the image reads it."""
    root = write_project(tmp_path)
    made = dataclasses.replace(project(root), dependencies=Dependencies("requirements.txt"))
    with State() as state:
        found = []
        for secret in ("pass-word", "pass-word-2"):
            (root / "requirements.txt").write_text(line.replace("pass-word", secret) + "\n")
            found.append(inputs(made, state).summary)
    assert "pass-word" not in repr(found)
    assert found[0]["dependencies"] != found[1]["dependencies"]


def test_summary_of_a_file_that_is_executable(tmp_path: Path) -> None:
    """A file that may be executed is another one, though its bytes are the same: the key says so, and so does this."""
    write_project(tmp_path)
    code = tmp_path / "src/serve.py"
    with State() as state:
        before = inputs(project(tmp_path), state)
        code.chmod(0o755)
        after = inputs(project(tmp_path), state)
    assert before.runtime_key(PLATFORM) != after.runtime_key(PLATFORM)
    assert after.summary["code"] == {"src/serve.py": f"{before.summary['code']['src/serve.py']} +x"}


def test_summary_of_many_files(tmp_path: Path) -> None:
    """Over 300 code files are one entry, which changes with any of them: a manifest is no place for a list."""
    write_project(tmp_path)
    for number in range(310):
        (tmp_path / f"src/m{number}.py").write_text("")
    with State() as state:
        before = inputs(project(tmp_path), state).summary["code"]
        (tmp_path / "src/m5.py").write_text("x")
        after = inputs(project(tmp_path), state).summary["code"]
    assert list(before) == list(after) == ["311 files"] and before != after


# ------------------------------------------------------------------------------------------------------ own Dockerfile


def test_empty_folders_count(tmp_path: Path) -> None:
    """An empty folder is part of the runtime key, and is another thing than a file of its name."""
    write_project(tmp_path)
    made = own(tmp_path, "COPY --link --from=checkpoint . /w/\nCOPY src /app/")
    keys = [key(made)]
    (tmp_path / "src/logs").mkdir()
    keys.append(key(made))
    (tmp_path / "src/logs").rmdir()
    (tmp_path / "src/logs").touch(0o755)
    keys.append(key(made))
    assert len(set(keys)) == 3


@pytest.mark.parametrize("triggers", [False, True])
def test_what_own_dockerfile_does_not_name(tmp_path: Path, triggers: bool) -> None:
    """Files that no instruction takes are no part of the key, unless the base image may take them by ONBUILD."""
    write_project(tmp_path)
    made = own(tmp_path, "COPY --link --from=checkpoint . /w/\nCOPY src /app/")
    base = dataclasses.replace(inputs(made, State()).bases["python:3.11-slim"], triggers=triggers)

    def found() -> str:
        with State() as state:
            given = fingerprint(made, state, platforms=(PLATFORM,), resolve=lambda reference: base)
        return given.runtime_key(PLATFORM)

    first = found()
    (tmp_path / "epoch-4.pth.tar").write_bytes(b"other weights")
    assert (found() == first) is not triggers
    (tmp_path / "src/serve.py").write_text("print('other')\n")
    assert found() != first


def test_empty_folder_where_the_weights_go(tmp_path: Path) -> None:
    """A folder of which .dockerignore leaves nothing does not replace the weights."""
    (tmp_path / "model.pth.tar").write_bytes(b"weights")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old.bin").write_bytes(b"old")
    (tmp_path / ".dockerignore").write_text("model/*\n")
    made = own(tmp_path, "COPY --link --from=checkpoint . /app/model/\nCOPY . /app")
    assert "model" in [file.path for file in inputs(made, State()).files if file.is_folder]


def test_own_dockerfile(tmp_path: Path) -> None:
    """The COPY line of one's own Dockerfile says where the checkpoint goes, and whose it is."""
    write_project(tmp_path)
    made = own(tmp_path, "COPY --link --chown=1000:1001 --chmod=0400 --from=checkpoint . /srv/weights/")
    with State() as state:
        found = inputs(made, state)
    assert found.checkpoint is not None
    assert found.checkpoint.ownership == Ownership("/srv/weights/", 1000, 1001, 0o400)
    assert found.checkpoint.location == "/srv/weights/model.pth.tar"
    assert list(found.bases) == ["python:3.11-slim"] and found.dependency_files == frozenset()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"target": "/elsewhere"}, "checkpoint.target is '/elsewhere', and line 2", id="target"),
        pytest.param({"chown": "7:7"}, "checkpoint.chown is '7:7', and line 2", id="owner"),
    ],
)
def test_own_dockerfile_says_something_else(tmp_path: Path, options: dict[str, str], said: str) -> None:
    """Where layerkit.toml contradicts the COPY line, both are named, and the line wins nowhere in silence."""
    write_project(tmp_path)
    made = own(tmp_path, "COPY --link --chown=0:0 --from=checkpoint . /app/model/", **options)
    with State() as state, pytest.raises(ConfigurationError, match=said):
        inputs(made, state)


def test_own_dockerfile_says_the_same(tmp_path: Path) -> None:
    """Saying the same twice is no contradiction, with or without a slash."""
    write_project(tmp_path)
    line = "COPY --link --chown=5:6 --from=checkpoint . /app/model/"
    with State() as state:
        assert inputs(own(tmp_path, line, target="/app/model", chown="5:6"), state).checkpoint is not None


def test_own_dockerfile_without_the_line(tmp_path: Path) -> None:
    """A Dockerfile without the COPY line is a clear error that shows the line."""
    write_project(tmp_path)
    with State() as state, pytest.raises(ConfigurationError) as caught:
        inputs(own(tmp_path, "COPY src /app"), state)
    assert "COPY --link" in f"{caught.value} {caught.value.hint}"
    assert "--from=checkpoint" in f"{caught.value} {caught.value.hint}"


def test_own_dockerfile_missing(tmp_path: Path) -> None:
    """A Dockerfile that is not there, or is not text, is a configuration error."""
    write_project(tmp_path)
    made = own(tmp_path, "COPY --link --from=checkpoint . /m/")
    (tmp_path / "Dockerfile").write_bytes(b"\xff\xfe")
    with State() as state, pytest.raises(ConfigurationError, match=r"image\.dockerfile"):
        inputs(made, state)
    (tmp_path / "Dockerfile").unlink()
    with State() as state, pytest.raises(ConfigurationError, match=r"image\.dockerfile"):
        inputs(made, state)


@pytest.mark.parametrize(
    ("chown", "expected"),
    [(None, (0, 0)), ("root", (0, 0)), ("root:root", (0, 0)), ("1000", (1000, 1000)), ("1000:root", (1000, 0)),
     ("0:5", (0, 5))],
)  # fmt: skip
def test_owner(tmp_path: Path, chown: str | None, expected: tuple[int, int]) -> None:
    """A group that is left out has the user's number, as with COPY --chown; root is 0."""
    write_project(tmp_path)
    with State() as state:
        found = inputs(project(tmp_path, chown=chown), state).checkpoint
    assert found is not None and (found.ownership.uid, found.ownership.gid) == expected


def test_unusable_checkpoint(tmp_path: Path) -> None:
    """A checkpoint that cannot be used is found out before anything is built (FAULTS 48)."""
    write_project(tmp_path, weights=b"")
    with State() as state, pytest.raises(CheckpointError, match="is empty"):
        inputs(project(tmp_path), state)


def test_bases_are_resolved_once(tmp_path: Path) -> None:
    """Every external image is asked for once, the image's own first."""
    write_project(tmp_path)
    text = "FROM node:22 AS build\nFROM python:3.11-slim\nCOPY --from=node:22 /x /y\n"
    (tmp_path / "Dockerfile").write_text(text + "COPY --link --from=checkpoint . /m/\n")
    made = Project(image=Image("a/b", dockerfile="Dockerfile"), checkpoint=Checkpoint("model.pth.tar"), root=tmp_path)
    asked: list[str] = []

    def resolve(reference: str) -> fingerprint_module.Base:
        asked.append(reference)
        return fingerprint_module.Base()

    with State() as state:
        found = fingerprint(made, state, platforms=(PLATFORM,), resolve=resolve)
    assert sorted(asked) == ["node:22", "python:3.11-slim"] and next(iter(found.bases)) == "python:3.11-slim"


def test_wheels_of_uv(tmp_path: Path) -> None:
    """Where uv installs from a folder of wheels, it must be in it: that is said before anything is built."""
    write_project(tmp_path)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/uvloop-1-py3-none-any.whl").touch()
    wanted = Dependencies("requirements.txt", installer="uv", wheels="wheels")
    made = dataclasses.replace(project(tmp_path), dependencies=wanted)
    with pytest.raises(ConfigurationError, match="no wheel of uv itself") as caught:
        key(made)
    assert caught.value.hint == "pip download --dest wheels uv"
    (tmp_path / "wheels/uv-1-py3-none-manylinux_2_28_x86_64.whl").touch()
    key(made)


def test_key_stays_what_it_was(tmp_path: Path) -> None:
    """The same inputs have the same key in every version: another one has every user's images built anew.

    Where they are to be (the same inputs would build another image), FORMAT_VERSION is raised.
    """
    builder = Builder(args={"A": "1"}, secrets={"token": Secret(env="T")}, network="none", attest=["type=sbom"])
    made = Project(image=Image("a/b", dockerfile="Dockerfile", target="t"), builder=builder, root=tmp_path)
    digest = Digest.of(b"x")
    found = Inputs(
        made, "FROM b\n", (ContextFile("a.py", tmp_path / "a.py", 1, 0o644),), {"a.py": digest}, frozenset(),
        {"w.whl": digest}, {"b": Base(digest)}, (PLATFORM,), None, 7,
    )  # fmt: skip
    assert found.runtime_key(PLATFORM) == "45ab97ed485ff7af1dc2c2c9453ddc7edcd72834"


def test_base_of_another_platform(tmp_path: Path) -> None:
    """The base that the wanted stage starts from must be of the platform: which it is of is said, with what to do."""
    write_project(tmp_path)
    text = "ARG BASE=arm:1\nFROM ${BASE} AS small\nFROM amd:1 AS large\nCOPY src /srv\n"
    (tmp_path / "Dockerfile").write_text(text)
    bases = {"arm:1": Base(Digest.of(b"a"), others={PLATFORM: "linux/arm64"}), "amd:1": Base(Digest.of(b"b"))}
    bases["other:1"] = bases["amd:1"]

    def made(target: str, **args: str) -> None:
        image = Image("a/b", dockerfile="Dockerfile", target=target)
        own = Project(image=image, builder=Builder(args=args), root=tmp_path)
        with State() as state:
            fingerprint(own, state, platforms=(PLATFORM,), resolve=bases.__getitem__)

    made("large")
    made("small", BASE="other:1")
    with pytest.raises(ConfigurationError, match=r"base image arm:1: is of linux/arm64, not of linux/amd64") as caught:
        made("small")
    assert "--platform" in caught.value.hint
