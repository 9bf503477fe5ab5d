from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from layerkit.checkpoint import find
from layerkit.errors import CheckpointError

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n"


def write(root: Path, *names: str, content: str = "weights") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def paths(pattern: str, root: Path) -> list[str]:
    return [file.path for file in find(pattern, root)]


def refusal(pattern: str, root: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        find(pattern, root)
    assert caught.value.exit_status == 3
    return caught.value


# ------------------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        pytest.param("model.pt", ["model.pt"], id="file"),
        pytest.param("shards", ["a.bin", "b.bin", "sub/c.bin"], id="folder"),
        pytest.param("shards/", ["a.bin", "b.bin", "sub/c.bin"], id="folder-with-slash"),
        pytest.param("shards/*.bin", ["a.bin", "b.bin"], id="glob-of-files"),
        pytest.param("shards/*", ["a.bin", "b.bin", "sub/c.bin"], id="glob-of-files-and-folders"),
        pytest.param("shards/**", ["shards/a.bin", "shards/b.bin", "shards/sub/c.bin"], id="two-stars-each-file-once"),
        pytest.param("shards/**/*.bin", ["a.bin", "b.bin", "c.bin"], id="two-stars-of-files"),
        pytest.param("shards/[ab].bin", ["a.bin", "b.bin"], id="class"),
        pytest.param("x[1].pt", ["x[1].pt"], id="a-file-goes-before-a-pattern"),
    ],
)
def test_found(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    """A file goes under its own name, a folder's files under theirs, a glob's matches likewise: sorted, each once."""
    write(tmp_path, "model.pt", "shards/b.bin", "shards/a.bin", "shards/sub/c.bin", "x[1].pt", "x1.pt")
    assert paths(pattern, tmp_path) == expected


def test_absolute_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absolute path is taken as it is, and ~ is the home folder, both outside of the project."""
    write(tmp_path, "elsewhere/model.pt")
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert paths(str(tmp_path / "elsewhere/model.pt"), tmp_path / "project") == ["model.pt"]
    assert paths("~/model.pt", tmp_path / "project") == ["model.pt"]


def test_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project may be named by a relative path."""
    write(tmp_path, "project/model.pt")
    monkeypatch.chdir(tmp_path)
    assert paths("model.pt", Path("project")) == ["model.pt"]
    assert paths("../project/model.pt", Path("project")) == ["model.pt"]


def test_what_is_known_of_a_file(tmp_path: Path) -> None:
    """A file comes with its size, the place of its content and its identity."""
    write(tmp_path, "model.pt")
    (file,) = find("model.pt", tmp_path)
    status = (tmp_path / "model.pt").stat()
    assert (file.size, file.source) == (7, tmp_path / "model.pt")
    assert (file.identity.inode, file.identity.mtime) == (status.st_ino, status.st_mtime_ns)


def test_junk_is_left_out(tmp_path: Path) -> None:
    """What tools leave behind is passed over in silence."""
    write(tmp_path, "w/a.bin", "w/__pycache__/x.pyc", "w/.DS_Store", "w/.cache/y", "w/.ipynb_checkpoints/z")
    assert paths("w", tmp_path) == ["a.bin"]


def test_hard_links_are_files(tmp_path: Path) -> None:
    """Names of one file are files like any others (FAULTS 43)."""
    write(tmp_path, "w/a.bin")
    os.link(tmp_path / "w/a.bin", tmp_path / "w/b.bin")
    assert paths("w", tmp_path) == ["a.bin", "b.bin"]


def test_empty_file_in_a_folder(tmp_path: Path) -> None:
    """A folder may hold empty files: some model formats have them."""
    write(tmp_path, "w/a.bin")
    (tmp_path / "w/__init__.py").touch()
    assert paths("w", tmp_path) == ["__init__.py", "a.bin"]


def test_names_in_other_scripts(tmp_path: Path) -> None:
    """Names in UTF-8, with blanks, and of 200 bytes are names like any others."""
    names = ["ünïcödé 模型.bin", "a b.bin", "x" * 196 + ".bin"]
    write(tmp_path, *(f"w/{name}" for name in names))
    assert paths("w", tmp_path) == sorted(names)


# ------------------------------------------------------------------------------------------------------------ symlinks


@pytest.mark.parametrize(
    ("link", "to"),
    [
        pytest.param("w/link.bin", "a.bin", id="beside"),
        pytest.param("w/link.bin", "../blobs/x", id="in-the-project"),
        pytest.param("w/sub", "../more", id="folder-in-the-project"),
        pytest.param("w/link.bin", "chain", id="chain"),
    ],
)
def test_link_inside(tmp_path: Path, link: str, to: str) -> None:
    """A symlink that stays in the project is followed by content, a folder's too (FAULTS 42)."""
    write(tmp_path, "w/a.bin", "blobs/x", "more/m.bin")
    (tmp_path / "w/chain").symlink_to("a.bin")
    (tmp_path / link).symlink_to(to)
    found = {file.path: file for file in find("w", tmp_path)}
    added = "sub/m.bin" if link.endswith("sub") else "link.bin"
    assert found[added].source.read_text() == "weights" and not found[added].source.is_symlink()


def test_link_that_is_named_itself(tmp_path: Path) -> None:
    """checkpoint.path may be a symlink to a file of the project: it goes under the link's name."""
    write(tmp_path, "epoch-9.pt")
    (tmp_path / "latest.pt").symlink_to("epoch-9.pt")
    assert paths("latest.pt", tmp_path) == ["latest.pt"]


@pytest.mark.parametrize(
    ("pattern", "link", "to", "said"),
    [
        pytest.param("w", "w/l", "{out}/secret", "l: a symlink that leads out of the folder", id="out"),
        pytest.param("w", "w/l", "../../outside/secret", "leads out", id="out-relative"),
        pytest.param("w", "w/l", "{out}", "l: a symlink that leads out of the folder", id="folder-out"),
        pytest.param("l", "l", "{out}/secret", "leads out", id="named-out"),
        pytest.param("w", "w/l", "nothing", "l: a symlink to nothing", id="dangling"),
        pytest.param("l", "l", "nothing", "l: a symlink to nothing", id="named-dangling"),
        pytest.param("w", "w/l", "l", "l: Too many levels of symbolic links", id="itself"),
        pytest.param("l", "l", "l", "l: Too many levels of symbolic links", id="named-itself"),
        pytest.param("w", "w/l", ".", "l: a symlink loop", id="folder-loop"),
        pytest.param("w", "w/l", "..", "l/w: a symlink loop", id="folder-above"),
    ],
)
def test_link_refused(tmp_path: Path, pattern: str, link: str, to: str, said: str) -> None:
    """A symlink out of the project, to nothing or around in a loop is refused, and nothing hangs (FAULTS 42)."""
    root, out = tmp_path / "project", tmp_path / "outside"
    write(root, "w/a.bin")
    write(out, "secret")
    (root / link).symlink_to(to.format(out=out))
    assert said in str(refusal(pattern, root))


def test_link_out_says_what_to_do(tmp_path: Path) -> None:
    """The hint of a link that leads out is to name the place itself."""
    (tmp_path / "p").mkdir()
    write(tmp_path, "secret")
    (tmp_path / "p/l").symlink_to("../secret")
    assert "the place itself" in refusal("l", tmp_path / "p").hint


# ------------------------------------------------------------------------------------------------------ what is refused


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def lfs(path: Path) -> None:
    path.write_text(LFS)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(fifo, "no regular file", id="fifo"),
        pytest.param(unix_socket, "No such device or address", id="socket"),
        pytest.param(device, "no regular file", id="device"),
        pytest.param(Path.touch, "is empty", id="empty"),
        pytest.param(lfs, "a Git LFS pointer, not the file", id="git-lfs"),
        pytest.param(Path.mkdir, "an empty folder", id="empty-folder"),
        pytest.param(lambda path: None, "nothing at 'model.pt'", id="missing"),
    ],
)
def test_not_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], said: str
) -> None:
    """A FIFO, socket, device, empty or missing file, or a Git LFS pointer is refused at once (FAULTS 44, 48)."""
    monkeypatch.chdir(tmp_path)  # a socket's path has 107 bytes at most
    make(tmp_path / "model.pt")
    error = refusal("model.pt", tmp_path)
    assert said in str(error) and error.hint


@pytest.mark.parametrize("make", [fifo, lfs], ids=["fifo", "git-lfs"])
def test_not_a_checkpoint_in_a_folder(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """They are refused in a folder too (FAULTS 44, 48)."""
    write(tmp_path, "w/a.bin")
    make(tmp_path / "w/b.bin")
    assert "b.bin: " in str(refusal("w", tmp_path))


def test_git_lfs_says_what_to_do(tmp_path: Path) -> None:
    """The hint of a Git LFS pointer is the command that fetches the file (FAULTS 48)."""
    write(tmp_path, "model.pt", content=LFS)
    assert "git lfs pull" in refusal("model.pt", tmp_path).hint


def test_large_text_that_speaks_of_lfs(tmp_path: Path) -> None:
    """Only a file of a pointer's size is taken for one."""
    write(tmp_path, "model.pt", content=LFS + " " * 1024)
    assert paths("model.pt", tmp_path) == ["model.pt"]


def test_unreadable_files_are_all_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that cannot be opened is listed, not the first alone (FAULTS 45)."""
    write(tmp_path, "w/a.bin", "w/b.bin", "w/c.bin")
    real = os.open

    def denied(path: str | Path, flags: int, *args: int) -> int:
        if Path(path).name in ("a.bin", "c.bin"):  # root may read anything, so that no permission would deny it
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *args)

    monkeypatch.setattr(os, "open", denied)
    text = str(refusal("w", tmp_path))
    assert "a.bin: Permission denied" in text and "c.bin: Permission denied" in text and "b.bin" not in text


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be listed is a problem, not an empty folder (FAULTS 45)."""
    write(tmp_path, "w/a.bin", "w/sub/b.bin")
    real = os.scandir

    def denied(path: Path) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert "sub: Permission denied" in str(refusal("w", tmp_path))


def test_file_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is removed between the listing and the look is a problem, not a traceback (FAULTS 40)."""
    write(tmp_path, "w/a.bin")
    real = os.path.realpath

    def gone(path: Path, *, strict: bool = False) -> str:
        if strict:
            raise FileNotFoundError(2, "No such file or directory")
        return real(path)

    monkeypatch.setattr(os.path, "realpath", gone)
    assert "a.bin: is gone" in str(refusal("w", tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"a\x1b[31m.bin", id="escape"),
        pytest.param(b"a\nb.bin", id="line-break"),
        pytest.param(b"a\x7f.bin", id="delete"),
        pytest.param("a\x9b.bin".encode(), id="c1-control"),
        pytest.param(b"caf\xe9.bin", id="latin-1"),
    ],
)
def test_names_that_an_image_should_not_have(tmp_path: Path, name: bytes) -> None:
    """Control characters and names that are not UTF-8 are refused, and shown escaped (FAULTS 47, 56)."""
    write(tmp_path, "w/a.bin")
    Path(os.fsdecode(os.fsencode(tmp_path / "w") + b"/" + name)).write_text("x")
    text = str(refusal("w", tmp_path))
    assert "its name is not printable UTF-8" in text
    assert text.isascii() and text.isprintable()


@pytest.mark.parametrize(
    "name",
    [
        ".env", ".env.local", ".netrc", "id_rsa", "id_ed25519", "server.pem", "tls.key", "x.p12", ".git/config",
        ".ssh/known_hosts", ".aws/credentials", "credentials-prod.json",
    ],
)  # fmt: skip
def test_private_files(tmp_path: Path, name: str) -> None:
    """Keys, .env and .git in a folder of weights are refused, with a way out (FAULTS 51)."""
    write(tmp_path, "w/a.bin", f"w/{name}", f"w/deep/er/{name}")
    error = refusal("w", tmp_path)
    first = name.split("/")[0]
    assert f"{first}: looks private" in str(error) and f"deep/er/{first}: looks private" in str(error)
    assert "glob" in error.hint


def test_private_files_by_a_wildcard(tmp_path: Path) -> None:
    """A wildcard that happens to match a key did not ask for it (FAULTS 51)."""
    write(tmp_path, "w/a.bin", "w/server.pem")
    assert "server.pem: looks private" in str(refusal("w/*", tmp_path))


@pytest.mark.parametrize("pattern", ["w/server.pem", "w/*.pem"])
def test_private_files_that_are_listed(tmp_path: Path, pattern: str) -> None:
    """A file that looks private and is named is taken (FAULTS 51)."""
    write(tmp_path, "w/a.bin", "w/server.pem")
    assert paths(pattern, tmp_path) == ["server.pem"]


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Everything that is wrong with a folder is said in one message (FAULTS 45)."""
    write(tmp_path, "w/a.bin", "w/.env", "w/b.key")
    write(tmp_path, "w/c.bin", content=LFS)
    (tmp_path / "w/d.bin").symlink_to("nothing")
    os.mkfifo(tmp_path / "w/e.bin")
    text = str(refusal("w", tmp_path))
    for name in (".env", "b.key", "c.bin", "d.bin", "e.bin"):
        assert f"{name}: " in text
    assert "a.bin" not in text


def test_two_files_of_one_name(tmp_path: Path) -> None:
    """Matches of a glob that would have one name in the image are refused (FAULTS 47)."""
    write(tmp_path, "x/model.pt", "y/model.pt")
    assert "model.pt: two files would have this name" in str(refusal("*/model.pt", tmp_path))


def test_file_and_folder_of_one_name(tmp_path: Path) -> None:
    """So are a file and a folder of one name (FAULTS 47)."""
    write(tmp_path, "x/model", "y/model/a.bin")
    assert "model/a.bin: in the image a file would have the name of its folder" in str(refusal("*/model", tmp_path))


@pytest.mark.parametrize("pattern", ["nothing.pt", "none/*.pt", "none/", "../outside.pt"])
def test_nothing_there(tmp_path: Path, pattern: str) -> None:
    """Nothing found is an error that says what was looked for, and where (FAULTS 48)."""
    error = refusal(pattern, tmp_path)
    assert repr(pattern) in str(error) and str(tmp_path) in str(error) and "checkpoint.path" in error.hint
