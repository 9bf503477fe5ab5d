from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from layerkit.errors import ConfigurationError
from layerkit.project import Builder, Checkpoint, Code, Dependencies, Image, Project, Secret
from layerkit.runtime import ContextFile, find_files, find_includes, materialise, read_requirements
from layerkit.runtime.requirements import parse


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def project(
    root: Path,
    *include: str,
    exclude: tuple[str, ...] = (),
    checkpoint: str = "",
    requirements: str = "",
    wheels: str = "",
) -> Project:
    return Project(
        image=Image("a/b"),
        code=Code(include, exclude=exclude),
        dependencies=Dependencies(requirements, wheels=wheels),
        checkpoint=Checkpoint(checkpoint) if checkpoint else None,
        root=root,
    )


def own(root: Path, dockerfile: str = "Dockerfile", checkpoint: str = "weights") -> Project:
    return Project(image=Image("a/b", dockerfile=dockerfile), checkpoint=Checkpoint(checkpoint), root=root)


def paths(project: Project) -> list[str]:
    return [file.path for file in find_files(project)]


def test_files_folders_and_globs(tmp_path: Path) -> None:
    """Files, folders with all in them, and globs are found, each file once, sorted by path."""
    write(tmp_path, "serve.py", "src/b.py", "src/a/c.py", "x1.txt", "x2.txt", "docs/x3.txt", "other.py")
    assert paths(project(tmp_path, "src", "serve.py", "x*.txt", "src/b.py")) == [
        "serve.py",
        "src/a/c.py",
        "src/b.py",
        "x1.txt",
        "x2.txt",
    ]


def test_what_layerkit_writes_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that are named as apart are left out wherever they lie, with either kind of Dockerfile."""
    write(tmp_path, "serve.py", "out/index.json", "build/out/blobs/x", "other/out/y", "Dockerfile")
    monkeypatch.chdir(tmp_path)
    apart = [Path("out"), tmp_path / "build/out", tmp_path.parent, tmp_path]
    for made in (project(tmp_path, "."), own(tmp_path)):
        found = [file.path for file in find_files(made, apart) if file.path != "Dockerfile"]
        assert found == ["other/out/y", "serve.py"]
    assert find_includes(project(tmp_path, "o*"), apart) == {"o*": ("other/",)}


def test_deep_glob(tmp_path: Path) -> None:
    """Two stars reach into all folders, and a folder that matches comes with all in it."""
    write(tmp_path, "a/x.py", "a/b/y.py", "a/b/z.txt", "a/lib1/q/r.bin")
    assert paths(project(tmp_path, "a/**/*.py")) == ["a/b/y.py", "a/x.py"]
    assert paths(project(tmp_path, "a/lib?")) == ["a/lib1/q/r.bin"]
    assert find_includes(project(tmp_path, "a/**/*.py", "a/lib?", "a/x.py")) == {
        "a/**/*.py": ("a/b/y.py", "a/x.py"),
        "a/lib?": ("a/lib1/",),
        "a/x.py": ("a/x.py",),
    }


def test_a_name_that_looks_like_a_glob(tmp_path: Path) -> None:
    """A file whose name has brackets is taken by that name."""
    write(tmp_path, "[id].py", "i.py")
    assert paths(project(tmp_path, "[id].py")) == ["[id].py"]


def test_everything(tmp_path: Path) -> None:
    """Including '.' takes the project, without checkpoint, wheels, exclusions and what is never code."""
    write(
        tmp_path,
        *("a.py", "requirements.txt", "weights/w.pt", "wheelhouse/a.whl", "notes.md", "old/x.py"),
        *(".git/HEAD", "pkg/__pycache__/a.pyc", "b.pyc", ".layerkit/state", ".venv/bin/python", "sub/.venv/x"),
    )
    write(tmp_path, ".dockerignore")
    (tmp_path / ".dockerignore").write_text("*.md\n")
    described = project(
        tmp_path, ".", exclude=("old",), checkpoint="weights", requirements="requirements.txt", wheels="wheelhouse"
    )
    (tmp_path / "requirements.txt").write_text("six")
    assert paths(described) == [".dockerignore", "a.py", "requirements.txt"]


@pytest.mark.parametrize(
    "checkpoint",
    ["weights", "weights/", "./weights", "weights/*.pt", "weights/**", "weights/**.pt", "~/weights", "~/we*/*.pt"],
)
def test_checkpoint_is_never_sent(tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint's files stay here, however the checkpoint is spelled, also when their folder is included."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "weights/a.pt", "weights/b.pt", "a.py")
    assert paths(project(tmp_path, ".", checkpoint=checkpoint)) == ["a.py"]
    write(tmp_path, "Dockerfile")
    assert paths(own(tmp_path, checkpoint=checkpoint)) == ["Dockerfile", "a.py"]


def test_checkpoint_behind_a_link(tmp_path: Path) -> None:
    """Where the checkpoint is a link, neither the link nor what it points to is sent."""
    write(tmp_path, "runs/v3.pt", "runs/log.txt")
    (tmp_path / "latest.pt").symlink_to("runs/v3.pt")
    assert paths(project(tmp_path, ".", checkpoint="latest.pt")) == ["runs/log.txt"]


@pytest.mark.parametrize("table", ["dependencies", "builder"])
def test_files_of_secrets_are_never_sent(tmp_path: Path, table: str) -> None:
    """A secret that lies in the project is no code: it is in no layer, and a new value builds nothing anew."""
    write(tmp_path, "sec/pip.conf", "sec/other", "serve.py", "token", "Dockerfile")
    (tmp_path / "link").symlink_to("token")
    secrets = {"pip.conf": Secret(file="sec/pip.conf"), "a": Secret(file=str(tmp_path / "link")), "b": Secret(env="B")}
    if table == "builder":
        own = Project(Image("r/x", dockerfile="Dockerfile"), builder=Builder(secrets=secrets), root=tmp_path)
        assert paths(own) == ["Dockerfile", "sec/other", "serve.py"]
        return
    made = Project(Image("r/x"), Dependencies(secrets=secrets), Code(["."]), root=tmp_path)
    assert paths(made) == ["Dockerfile", "sec/other", "serve.py"]
    with pytest.raises(ConfigurationError, match=r"nothing is left of 'sec/pip\.conf'") as caught:
        find_files(Project(Image("r/x"), Dependencies(secrets=secrets), Code(["sec/pip.conf"]), root=tmp_path))
    assert "files of secrets" in caught.value.hint


def test_requirements_and_what_they_include(tmp_path: Path) -> None:
    """Requirements files are sent, the included ones too, and also where .dockerignore leaves them out."""
    write(tmp_path, "s.py")
    (tmp_path / "requirements.txt").write_text("-r reqs/more.txt\nsix")
    write(tmp_path, "reqs/more.txt", ".dockerignore")
    (tmp_path / "reqs/more.txt").write_text("idna")
    (tmp_path / ".dockerignore").write_text("*\n!s.py")
    described = project(tmp_path, "s.py", requirements="requirements.txt")
    assert paths(described) == ["reqs/more.txt", "requirements.txt", "s.py"]
    found = read_requirements(described)
    assert found == parse("requirements.txt", lambda path: (tmp_path / path).read_text())
    assert read_requirements(project(tmp_path, "s.py")) is None


def test_missing_requirements(tmp_path: Path) -> None:
    """A requirements file that is missing is named, with the one that was meant."""
    write(tmp_path, "requirement.txt")
    with pytest.raises(ConfigurationError, match=r"no file 'requirements\.txt'") as caught:
        find_files(project(tmp_path, requirements="requirements.txt"))
    assert caught.value.hint == "did you mean 'requirement.txt'?"


def test_requirements_that_are_no_text(tmp_path: Path) -> None:
    """A folder, or bytes that are no UTF-8, are no requirements."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name in ("folder", "bytes"):
        with pytest.raises(ConfigurationError, match=name):
            read_requirements(project(tmp_path, requirements=name))


def test_include_of_nothing(tmp_path: Path) -> None:
    """An include that matches nothing is an error, with the near miss."""
    write(tmp_path, "src/serve.py")
    with pytest.raises(ConfigurationError, match=r"no 'src/server\.py'") as caught:
        find_files(project(tmp_path, "src/server.py"))
    assert caught.value.hint == "did you mean 'src/serve.py'?"
    with pytest.raises(ConfigurationError, match="matches nothing"):
        find_files(project(tmp_path, "*.txt"))


def test_include_of_which_nothing_is_left(tmp_path: Path) -> None:
    """An include that .dockerignore leaves out, or a folder without files, is an error that says so."""
    write(tmp_path, "src/a.py")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".dockerignore").write_text("src")
    for name in ("src", "src/a.py", "empty"):
        with pytest.raises(ConfigurationError, match="nothing is left") as caught:
            find_files(project(tmp_path, name))
        assert ".dockerignore" in caught.value.hint


def test_bad_ignore_file(tmp_path: Path) -> None:
    """A pattern that is none is an error with the file's name."""
    write(tmp_path, "a.py")
    (tmp_path / ".dockerignore").write_text("a[\n")
    with pytest.raises(ConfigurationError, match=r"\.dockerignore.*'a\['"):
        find_files(project(tmp_path, "a.py"))


def test_links_inside(tmp_path: Path) -> None:
    """A link within the project stays a link, made relative; one that is included by name is followed."""
    write(tmp_path, "src/a.py", "lib/b.py")
    (tmp_path / "src/rel").symlink_to("a.py")
    (tmp_path / "src/abs").symlink_to(tmp_path / "lib/b.py")
    (tmp_path / "linked").symlink_to("lib")
    found = {file.path: file for file in find_files(project(tmp_path, "src", "linked"))}
    assert found["src/rel"].link == "a.py"
    assert found["src/abs"].link == "../lib/b.py"
    assert found["linked/b.py"].link == ""
    assert found["linked/b.py"].size == len("lib/b.py")


def test_links_out(tmp_path: Path) -> None:
    """What leads out of the project folder is refused: an include, a link in a folder, requirements."""
    write(tmp_path, "out/x.py", "in/src/a.py")
    root = tmp_path / "in"
    (root / "away").symlink_to("../out")
    (root / "src/x.py").symlink_to("../../out/x.py")
    (root / "requirements.txt").symlink_to("../out/x.py")
    for described in (
        project(root, "away"),
        project(root, "away/x.py"),
        project(root, "src"),
        project(root, "aw*"),
        project(root, requirements="requirements.txt"),
    ):
        with pytest.raises(ConfigurationError, match="out of the project folder"):
            find_files(described)


def test_files_behind_an_included_link(tmp_path: Path) -> None:
    """A file that is included by way of a folder's link that is included too is refused: the link is sent as a link."""
    write(tmp_path, "real/x.py", "src/a.py")
    (tmp_path / "src/link").symlink_to("../real")
    with pytest.raises(ConfigurationError, match=r"'src/link/x\.py' lies behind the link 'src/link'") as caught:
        find_files(project(tmp_path, "src", "src/link/x.py"))
    assert caught.value.hint == "include 'real/x.py' in its place"
    assert paths(project(tmp_path, "src/link/x.py")) == ["src/link/x.py"]


def test_pipes_and_sockets(tmp_path: Path) -> None:
    """A FIFO or socket among the code is refused before anything waits for it; an excluded one is no matter."""
    write(tmp_path, "src/a.py")
    os.mkfifo(tmp_path / "src/pipe")
    with pytest.raises(ConfigurationError, match="FIFO"):
        find_files(project(tmp_path, "src"))
    assert paths(project(tmp_path, "src", exclude=("src/pipe",))) == ["src/a.py"]
    with pytest.raises(ConfigurationError, match="FIFO"):
        read_requirements(project(tmp_path, requirements="src/pipe"))
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{short}/s")
        with pytest.raises(ConfigurationError, match="socket"):
            find_files(project(Path(short), "."))


def test_name_that_is_no_text(tmp_path: Path) -> None:
    """A file name that is not UTF-8 is an error that can be printed."""
    (tmp_path / "src").mkdir()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/src/\xff")).write_text("x")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(ConfigurationError, match="UTF-8") as caught:
        find_files(project(tmp_path, "src"))
    str(caught.value).encode()


def test_modes(tmp_path: Path) -> None:
    """Only whether the owner may execute a file counts of its mode."""
    write(tmp_path, "a", "b", "c")
    for name, mode in (("a", 0o600), ("b", 0o700), ("c", 0o666)):
        (tmp_path / name).chmod(mode)
    assert [oct(file.mode) for file in find_files(project(tmp_path, "."))] == ["0o644", "0o755", "0o644"]


def test_own_dockerfile(tmp_path: Path) -> None:
    """With one's own Dockerfile everything is sent that .dockerignore leaves in, default exclusions too."""
    write(tmp_path, "Dockerfile", "a.py", ".git/HEAD", "x.pyc", "data/big", "weights/w.pt", ".dockerignore")
    (tmp_path / ".dockerignore").write_text("data\n")
    (tmp_path / "away").symlink_to("/etc/hostname")
    assert paths(own(tmp_path)) == [".dockerignore", ".git/HEAD", "Dockerfile", "a.py", "away", "x.pyc"]
    assert next(file for file in find_files(own(tmp_path)) if file.path == "away").link == "/etc/hostname"


def named(root: Path, *places: str) -> list[str]:
    """What is sent where a Dockerfile names those *places*."""
    return [file.path for file in find_files(own(root), named=places)]


def test_what_own_dockerfile_names(tmp_path: Path) -> None:
    """What a Dockerfile names is sent, empty folders too, and nothing else is looked at; .dockerignore holds."""
    write(tmp_path, "Dockerfile", "a.py", "src/b.py", "src/c/d.py", "src/no/e.py", "runs/log", "weights/w.pt", "conf/x")
    (tmp_path / "src/empty").mkdir()
    (tmp_path / "logs").mkdir()
    os.mkfifo(tmp_path / "runs/fifo")
    (tmp_path / ".dockerignore").write_text("src/no\n")
    assert named(tmp_path, "a.py", "src", "logs") == ["a.py", "logs", "src/b.py", "src/c/d.py", "src/empty"]
    assert named(tmp_path, "conf/*", "src/c", "src/c/d.py") == ["conf/x", "src/c/d.py"]
    assert named(tmp_path, "missing", "src/no", "src/no/e.py", "weights", "weights/w.pt") == []
    assert named(tmp_path, "*.py", "src/?.py", "s*/c/[^q].py") == ["a.py", "src/b.py", "src/c/d.py"]
    assert named(tmp_path, "*/*.py", "run?/none", "a.py/*") == ["src/b.py"]
    assert named(tmp_path) == []


@pytest.mark.parametrize("place", ["link", "link/b.py", "src/deep/link/x", "conf/*", "*/y"])
def test_links_on_the_way_to_what_is_named(tmp_path: Path, place: str) -> None:
    """Where what is named is reached by a link, or may be, everything is sent: BuildKit follows it wherever it goes."""
    write(tmp_path, "src/b.py", "src/deep/c.py", "conf/x", "other")
    (tmp_path / "link").symlink_to("src")
    (tmp_path / "src/deep/link").symlink_to("../../other")
    (tmp_path / "conf/y").symlink_to("../other")
    assert "other" in named(tmp_path, place)


def test_links_below_what_is_named(tmp_path: Path) -> None:
    """A link in a folder that is named is sent as a link, and no reason to send more."""
    write(tmp_path, "src/b.py", "data/x")
    (tmp_path / "src/data").symlink_to("../data")
    assert named(tmp_path, "src") == ["src/b.py", "src/data"]


def test_ignore_file_beside_the_dockerfile(tmp_path: Path) -> None:
    """DOCKERFILE.dockerignore is used instead of .dockerignore, as BuildKit does."""
    write(tmp_path, "docker/Dockerfile", "a.py", "b.py")
    (tmp_path / ".dockerignore").write_text("a.py")
    (tmp_path / "docker/Dockerfile.dockerignore").write_text("*\n!b.py")
    assert paths(own(tmp_path, "docker/Dockerfile")) == ["b.py"]


def test_excluded_folders_are_not_read(tmp_path: Path) -> None:
    """A folder that is excluded whole is not looked into, so one that cannot be read is no matter."""
    write(tmp_path, "Dockerfile", "data/pipe/x")
    os.mkfifo(tmp_path / "data/fifo")
    (tmp_path / ".dockerignore").write_text("data\n.dockerignore")
    assert paths(own(tmp_path)) == ["Dockerfile"]


# ------------------------------------------------------------------------------------------------------- the folder


def tree(root: Path) -> list[tuple[str, int, float, bytes | str]]:
    result: list[tuple[str, int, float, bytes | str]] = []
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content: bytes | str = (
            str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        )
        result.append((path.relative_to(root).as_posix(), status.st_mode, status.st_mtime, content))
    return result


def test_empty_folders_for_own_dockerfile(tmp_path: Path) -> None:
    """One's own Dockerfile gets empty folders, as from buildx: also those of which only what is in them is left out."""
    write(tmp_path, "src/a.py", "logs/x.log", "gone/y", "weights/model.pt", "out/index.json", "Dockerfile")
    for name in ("src/empty/deep", "gone2/sub"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".dockerignore").write_text("**/*.log\ngone\ngone2\n!gone2/x\n")
    found = find_files(own(tmp_path, checkpoint="weights/model.pt"), [tmp_path / "out/index.json"])
    assert [file.path for file in found if file.is_folder] == ["logs", "src/empty/deep"]
    assert materialise(found, tmp_path / "context") == sum(file.size for file in found)
    assert (tmp_path / "context/src/empty/deep").is_dir() and oct(
        (tmp_path / "context/logs").stat().st_mode
    ) == "0o40755"
    (tmp_path / "src/empty/deep").rmdir()
    assert "src/empty" in [file.path for file in find_files(own(tmp_path)) if file.is_folder]


def test_empty_folders_are_no_code(tmp_path: Path) -> None:
    """Where layerkit writes the Dockerfile, an empty folder is not sent: a fresh checkout has none of them."""
    write(tmp_path, "src/a.py", "src/old/__pycache__/b.pyc")
    (tmp_path / "src/empty").mkdir()
    assert paths(project(tmp_path, "src")) == ["src/a.py"]


def test_materialise(tmp_path: Path) -> None:
    """The same files from two checkouts give the same folder: content, modes and times."""
    for name, mode in (("one", 0o640), ("two", 0o666)):
        write(tmp_path / name, "src/a.py", "src/sub/b.sh")
        (tmp_path / name / "src/a.py").chmod(mode)
        (tmp_path / name / "src/sub/b.sh").chmod(mode | 0o100)
        (tmp_path / name / "src/sub").chmod(0o700)
        (tmp_path / name / "src/link").symlink_to("a.py")
        written = materialise(find_files(project(tmp_path / name, "src")), tmp_path / f"{name}-out", timestamp=12)
        assert written == len("src/a.py") + len("src/sub/b.sh")
    found = tree(tmp_path / "one-out")
    assert found == tree(tmp_path / "two-out")
    assert [(path, oct(mode & 0o777), time) for path, mode, time, _ in found] == [
        ("src", "0o755", 12),
        ("src/a.py", "0o644", 12),
        ("src/link", "0o777", 12),
        ("src/sub", "0o755", 12),
        ("src/sub/b.sh", "0o755", 12),
    ]
    assert (tmp_path / "one-out").stat().st_mtime == 12


def test_materialise_a_file_that_changed(tmp_path: Path) -> None:
    """A file that is gone, or grew since it was found, stops the build."""
    write(tmp_path, "a")
    with pytest.raises(ConfigurationError, match="changed while it was read"):
        materialise([ContextFile("a", tmp_path / "a", 0, 0o644)], tmp_path / "out1")
    with pytest.raises(ConfigurationError, match="No such file"):
        materialise([ContextFile("b", tmp_path / "b", 0, 0o644)], tmp_path / "out2")
