from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import layerkit.pipeline
import layerkit.verification
from layerkit import errors
from layerkit.cli.app import cli, error_document
from layerkit.errors import BuildError, ConfigurationError, LayerkitError, Problem
from layerkit.fingerprint import Base
from layerkit.oci import Digest
from unit.support import write_project

from .conftest import Run
from .test_tables import result

COMMANDS = ["init", "check", "plan", "build", "dockerfile", "bake", "schema", "completion", "makefile"]


def fails(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Have the build fail with *error*."""

    def build(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(layerkit.pipeline, "build", build)


# ------------------------------------------------------------------------------------------------------------ commands


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(run: Run, command: str) -> None:
    """Every command explains itself, with each of its options."""
    for flag in ("-h", "--help"):
        done = run(*filter(None, [command, flag]))
        assert done.status == 0 and done.err == "" and "Usage: layerkit" in done.out
    found = cli.get_command(click.Context(cli), command)
    for parameter in found.params if found else ():
        assert all(option in done.out for option in parameter.opts if option.startswith("--"))


def test_near_miss(run: Run) -> None:
    """A command that is not known is answered with the one that is nearest."""
    assert "No such command 'biuld'. Did you mean 'build'?" in run("biuld").err
    assert "Did you mean" not in run("xyzzy").err


def test_short_help_is_whole(run: Run) -> None:
    """What the list of commands says of each is not cut."""
    for group in ((), ("checkpoint",)):
        assert "..." not in run(*group, "--help").out.partition("Commands:")[2]


def test_version(run: Run) -> None:
    """--version is the package's."""
    assert run("--version").out == f"layerkit, version {layerkit.__version__}\n"


def test_check(run: Run) -> None:
    """check says what would go where, and ok."""
    write_project(Path())
    done = run("check")
    assert done.status == 0 and done.out.splitlines() == [
        "image        registry.example/acme/resnet",
        "to builder   2 files, 36 B",
        "checkpoint   1 file, 7 B → /app/model/model.pth.tar",
        "lock         layerkit.lock: there is none yet, build writes it",
        "ok",
    ]
    document = json.loads(run("check", "--json").out)
    assert (document["schema_version"], document["context_files"], document["checkpoint_bytes"]) == (1, 2, 7)


def test_check_says_the_way(run: Run) -> None:
    """check says where BuildKit has to build the whole image of an own Dockerfile, and which line is why."""
    write_project(Path())
    copy = "FROM scratch\nCOPY --link --from=checkpoint . /app/model/\n"
    Path("layerkit.toml").write_text(
        '[image]\nname = "registry.example/acme/resnet"\ndockerfile = "Dockerfile"\n\n'
        '[checkpoint]\npath = "model.pth.tar"\ntarget = "/app/model/"\n'
    )
    Path("Dockerfile").write_text(copy)
    assert not [line for line in run("check").out.splitlines() if line.startswith("way")]
    Path("Dockerfile").write_text(copy + "RUN chown -R app /app\n")
    (way,) = [line for line in run("check").out.splitlines() if line.startswith("way")]
    assert way == "way          buildkit: line 3 of the Dockerfile ('RUN chown -R app /app') works on the weights"


def test_folder_and_file(run: Run, tmp_path: Path) -> None:
    """-C names the project's folder, -f its file, and both may be given."""
    write_project(tmp_path / "p")
    shutil.copy(tmp_path / "p/layerkit.toml", tmp_path / "p/other.toml")
    write_project(Path(), extra="nonsense = 1\n")
    assert run("check", "-C", tmp_path / "p").status == 0
    assert run("check", "-f", tmp_path / "p/other.toml").status == 0
    assert run("check", "-C", tmp_path / "p", "-f", "other.toml").status == 0
    assert run("check", "-C", tmp_path / "p", "-f", "layerkit.toml").status == 0
    assert run("check").status == 2
    assert run("check", "-C", tmp_path / "none").status == 2


def test_set(run: Run) -> None:
    """--set wins over the file, as often as it is given."""
    write_project(Path())
    done = run("check", "--set", "image.name=a/b", "--set", "checkpoint.target=/m")
    assert "image        a/b" in done.out and "→ /m/model.pth.tar" in done.out


def test_dockerfile(run: Run) -> None:
    """dockerfile prints what BuildKit is given, and nothing else."""
    write_project(Path())
    done = run("dockerfile")
    assert (done.status, done.err) == (0, "")
    assert "COPY --link" in done.out and "--from=checkpoint" in done.out and "torch" in done.out


def test_dockerfile_of_ones_own(run: Run) -> None:
    """One's own Dockerfile is printed as it is; one that is missing is 2."""
    Path("layerkit.toml").write_text('[image]\nname = "a/b"\ndockerfile = "D"\n')
    assert run("dockerfile").status == 2
    Path("D").write_text("FROM scratch\n")
    assert run("dockerfile").out == "FROM scratch\n"


def test_dockerfile_that_is_written(run: Run) -> None:
    """--write puts the Dockerfile and its ignore file side by side; where that is not possible it is 2."""
    write_project(Path())
    done = run("dockerfile", "-o", "Dockerfile")
    assert (done.status, done.out) == (0, "Dockerfile\n")
    assert Path("Dockerfile").read_text() == run("dockerfile").out
    assert Path("Dockerfile.dockerignore").is_file()
    assert run("dockerfile", "-o", "none/Dockerfile").status == 2


def test_schema(run: Run) -> None:
    """schema prints JSON, with every table."""
    document = json.loads(run("schema").out)
    assert set(document["properties"]) == {"image", "dependencies", "code", "checkpoint", "cache", "builder"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run: Run, shell: str) -> None:
    """completion prints a script for the shell, which asks layerkit for the words."""
    done = run("completion", shell)
    assert done.status == 0 and "_LAYERKIT_COMPLETE" in done.out and "layerkit" in done.out


def test_completion_in_bash(tmp_path: Path) -> None:
    """The bash script is one, and layerkit answers it with its commands."""
    environment = {**os.environ, "_LAYERKIT_COMPLETE": "bash_complete", "COMP_WORDS": "layerkit pl", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "layerkit"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "plain,plan\n", done.stderr


def test_makefile(run: Run) -> None:
    """makefile prints the path of targets that make reads, and that call the commands with the right options."""
    path = Path(run("makefile").out.strip())
    Path("Makefile").write_text(f"include {path}\nLAYERKIT_DIR = sub\nTAG = v9\n")
    # What an outer make hands down (make test is one) is not this make's: it would add its own lines.
    outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    for target, options in {
        "image": "layerkit build -C sub --tag v9",
        "push": "layerkit build -C sub --tag v9 --push",
        "plan": "layerkit plan -C sub --tag v9 --push",
    }.items():
        done = subprocess.run(
            ["make", "-n", target], env=environment, capture_output=True, text=True, timeout=30, check=True
        )
        assert shlex.split(done.stdout) == options.split()


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["nonsense"], "No such command", id="command"),
        pytest.param(["build", "--nonsense"], "No such option", id="option"),
        pytest.param(["build", "--push", "--load"], "exclude each other", id="two-destinations"),
        pytest.param(["plan", "--push", "--output", "oci:x"], "exclude each other", id="two-destinations-of-plan"),
        pytest.param(["build", "--progress", "loud"], "--progress", id="progress"),
        pytest.param(["completion", "tcsh"], "tcsh", id="shell"),
        pytest.param(["check", "--set", "x"], "is no assignment", id="assignment"),
        pytest.param(["check", "--set", "image.name=A B"], "image.name", id="bad-override"),
        pytest.param(["check", "-f", "none.toml"], "no file 'none.toml'", id="no-file"),
        pytest.param(["build", "-t", "bad tag"], "not a tag", id="tag"),
        pytest.param(["build", "-t", "a/b:v1", "-t", "c/d:v1"], "2 repositories", id="two-repositories"),
        pytest.param(["build", "-t", "runtime-x"], "layerkit's own", id="reserved-tag"),
        pytest.param(["build", "--output", "tar:x"], "oci:DIR", id="output"),
        pytest.param(["build", "--platform", "windows"], "not a platform", id="platform"),
    ],
)  # fmt: skip
def test_usage(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str) -> None:
    """What is wrong with the arguments is 2, on standard error, before anything is done (FAULTS 57)."""
    monkeypatch.setattr("layerkit.bases.Bases.resolve", lambda self, text: Base())
    write_project(Path())
    done = run(*arguments)
    assert (done.status, done.out) == (2, "")
    assert said in done.err


@pytest.mark.parametrize("command", ["check", "plan", "build", "dockerfile", "bake"])
def test_configuration(run: Run, command: str) -> None:
    """All problems of the file are listed with line and near miss, whichever command reads it."""
    write_project(Path(), extra='chwon = "0:0"\n[cod]\n')
    done = run(command)
    assert (done.status, done.out) == (2, "")
    assert done.err.splitlines() == [
        "error: layerkit.toml: 2 problems",
        "  layerkit.toml:11: checkpoint.chwon: unknown key (did you mean 'chown'?)",
        "  layerkit.toml:12: cod: unknown table (did you mean 'code'?)",
        "hint: layerkit schema prints what is allowed",
    ]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        pytest.param(None, "nothing at 'model.pth.tar'", id="missing"),
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull", id="git-lfs"),
    ],
)
@pytest.mark.parametrize("command", [["check"], ["plan"], ["build", "--push"], ["bake"]])
def test_checkpoint(run: Run, command: list[str], weights: bytes | None, said: str) -> None:
    """A checkpoint that cannot be used is 3 with what to do, whichever command meets it (FAULTS 48)."""
    write_project(Path(), weights=weights or b"")
    if weights is None:
        Path("model.pth.tar").unlink()
    done = run(*command)
    assert (done.status, done.out) == (3, "")
    assert "error: checkpoint: " in done.err and said in done.err and "hint: " in done.err


@pytest.mark.parametrize("command", ["check", "plan", "build"])
def test_json_errors(run: Run, command: str) -> None:
    """With --json a failure is an object on standard output too."""
    write_project(Path(), weights=b"")
    done = run(command, "--json")
    error = json.loads(done.out)["error"]
    assert done.status == error["exit_status"] == 3 and error["kind"] == "CheckpointError"
    assert error["message"] in done.err and error["hint"]


ERRORS = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("kind", ERRORS, ids=[kind.__name__ for kind in ERRORS])
def test_statuses(run: Run, monkeypatch: pytest.MonkeyPatch, kind: type[LayerkitError]) -> None:
    """Every error of the tree ends with its status, its message and its hint, without a traceback."""
    write_project(Path())
    fails(monkeypatch, kind("registry r.example: no", hint="log in"))
    done = run("build")
    assert (done.status, done.out) == (kind("").exit_status, "")
    assert done.err == "error: registry r.example: no\nhint: log in\n"


def test_build_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed build shows the last lines of its step."""
    write_project(Path())
    fails(monkeypatch, BuildError("RUN pip: exit code 1", step="RUN pip", log=["one", "two"]))
    done = run("build")
    assert (done.status, done.err) == (4, "error: RUN pip: exit code 1\n  | one\n  | two\n")


def test_escapes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in a message, the terminal is not told to do anything (FAULTS 56)."""
    write_project(Path())
    evil = "\x1b]0;owned\x07\udcff"
    fails(monkeypatch, ConfigurationError(evil, hint=evil, problems=[Problem(evil, file=evil)]))
    done = run("build")
    assert done.err.count(r"\x1b]0;owned\x07\udcff") == 4 and "\x1b" not in done.err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        pytest.param(KeyboardInterrupt(), 130, "interrupted: no tag was moved", id="ctrl-c"),
    ],
)
def test_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, said: str) -> None:
    """Ctrl-C is 130, and says that no tag was moved."""
    write_project(Path())
    fails(monkeypatch, error)
    done = run("build")
    assert done.status == status and done.err.strip().startswith(said)


def test_interrupted_elsewhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a command that sends nothing it is not said that something arrived."""

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("layerkit.verification.verify", interrupt)
    done = run("verify", "registry:r.example/x")
    assert (done.status, done.err.strip()) == (130, "interrupted")


@pytest.fixture
def hangup() -> Iterator[None]:
    """What SIGHUP does is the tests' own, also where all of them run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_terminated(run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """SIGTERM, or a terminal that is closed, is 143, and the blocks that clean up are left on the way."""
    write_project(Path())
    cleaned = []

    def build(*args: object, **options: object) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            cleaned.append(True)

    monkeypatch.setattr(layerkit.pipeline, "build", build)
    done = run("build")
    assert (done.status, cleaned) == (143, [True]) and "terminated: no tag was moved" in done.err


@pytest.mark.usefixtures("hangup")
def test_nohup(run: Run) -> None:
    """Under nohup a terminal that is closed ends nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    done = run("schema")
    assert done.status == 0 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


# ---------------------------------------------------------------------------------------------------------- its streams


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["check", "build", "build --progress rawjson"])
def test_nobody_reads(tmp_path: Path, command: str, unbuffered: str) -> None:
    """A reader that goes away, of results or of progress, or a log that is full, ends nothing and changes no status."""
    write_project(tmp_path)
    program = f"""if True:
        import sys, layerkit.pipeline
        from layerkit.cli.app import main
        from layerkit.events import Phase
        from unit.cli.test_tables import result

        def build(project, *, listener, **options):
            for _ in range(3):
                listener(Phase("plan", "started"))
                listener(Phase("plan", "finished", 1.0))
            open("built", "w").close()
            return result()

        layerkit.pipeline.build = build
        main({command.split()})"""
    surroundings = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONUNBUFFERED": unbuffered,
        "LAYERKIT_STATE_DIR": str(tmp_path / "state"),
    }
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    for out, err in ((writer, writer), (subprocess.DEVNULL, full)):
        line = [sys.executable, "-c", program]
        done = subprocess.run(line, cwd=tmp_path, env=surroundings, stdout=out, stderr=err, check=False)
        assert done.returncode == 0
        assert (tmp_path / "built").exists() == ("build" in command)
        (tmp_path / "built").unlink(missing_ok=True)
    os.close(writer)
    os.close(full)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["check", "build --nothing"])
def test_closed_streams(tmp_path: Path, closed: str, command: str) -> None:
    """What is closed is not written to; the rest goes on as ever, and the status is that of the command."""
    write_project(tmp_path)
    line = f"{shlex.quote(sys.executable)} -m layerkit {command}"
    state = {**os.environ, "LAYERKIT_STATE_DIR": str(tmp_path / "state")}
    usual, done = (
        subprocess.run(["sh", "-c", text], cwd=tmp_path, env=state, capture_output=True, check=False)
        for text in (line, f"{line} {closed}")
    )
    assert done.returncode == usual.returncode
    assert done.stdout == (b"" if ">&-" in closed.replace("2>&-", "") else usual.stdout)
    assert done.stderr == (b"" if "2>&-" in closed else usual.stderr)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["check", "schema"])
def test_full_disk_under_standard_output(tmp_path: Path, command: str, unbuffered: str) -> None:
    """A result that cannot be written is one line on standard error, and 11."""
    write_project(tmp_path)
    environment = {**os.environ, "LAYERKIT_STATE_DIR": str(tmp_path / "state"), "PYTHONUNBUFFERED": unbuffered}
    line = [sys.executable, "-m", "layerkit", command]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            line, cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    (said,) = done.stderr.splitlines()
    assert done.returncode == 11 and "standard output" in said and "No space left on device" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "--push", "--load", "--json"], "exclude each other"),
        (["build", "--bogus", "--json"], "--bogus"),
        (["plan", "--json", "x"], "unexpected extra argument"),
        (["build", "--json", "--layer-jobs", "-1"], "--layer-jobs"),
    ],
)
def test_usage_errors_with_json(run: Run, arguments: list[str], said: str) -> None:
    """Who asks for --json gets an object also where the arguments are wrong, and reads of it on standard error."""
    done = run(*arguments)
    found = json.loads(done.out)["error"]
    assert done.status == found["exit_status"] == 2 and found["kind"] == "ConfigurationError"
    assert said in found["message"] and said in done.err and found["hint"] == f"layerkit {arguments[0]} --help"


def test_json_for_another_program(run: Run) -> None:
    """--json behind -- is not ours."""
    done = run("run", "--bogus", "--", "--json")
    assert (done.status, done.out) == (2, "")


def test_kind_is_public() -> None:
    """The kind of an error is a class that errors.py names, whatever we call it inside."""
    from layerkit.registry.answers import Fault

    assert error_document(Fault("x"))["error"]["kind"] == "TransientError"


# ------------------------------------------------------------------------------------------------------ build and plan


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of ``layerkit.build``, which answers with a result at once."""
    found: dict[str, Any] = {}

    def build(project: object, **options: object) -> object:
        found.update(options, project=project)
        return result()

    monkeypatch.setattr(layerkit.pipeline, "build", build)
    return found


def test_build_asks(run: Run, asked: dict[str, Any]) -> None:
    """Every flag of build reaches the Python API."""
    write_project(Path())
    run("build", "-t", "v1", "--tag", "v2", "--push", "--platform", "linux/amd64,linux/arm64", "--platform",
        "linux/arm/v7", "--builder", "big", "--no-cache", "--pull", "--strict-cache", "--way", "buildkit",
        "--layer-jobs", "3", "--locked")  # fmt: skip
    asked.pop("listener")
    assert asked.pop("project").image.name == "registry.example/acme/resnet"
    assert asked == {
        "tags": ("v1", "v2"), "push": True, "output": "", "platforms": ["linux/amd64", "linux/arm64", "linux/arm/v7"],
        "builder": "big", "no_cache": True, "pull": True, "strict_cache": True, "way": "buildkit",
        "layer_jobs": 3, "locked": True,
        "planned": None,
    }  # fmt: skip


def test_build_prints(run: Run, asked: dict[str, Any]) -> None:
    """Standard output is the reference by digest alone, so that commands chain; the table is on standard error."""
    write_project(Path())
    done = run("build")
    assert done.out == f"r.example/x@{Digest.of(b'image')}\n" and "rebuilt: checkpoint" in done.err
    for progress in ("quiet", "rawjson"):
        assert run("build", "--progress", progress).err == "", "a program may read it"
    quiet = run("build", "-q")
    assert (quiet.out, quiet.err) == (done.out, "")


def test_build_json(run: Run, asked: dict[str, Any]) -> None:
    """--json is the object of the contract, and --metadata-file the same in a file."""
    write_project(Path())
    done = run("build", "--json", "--metadata-file", "out.json")
    document = json.loads(done.out)
    assert document == json.loads(Path("out.json").read_text()) == result().to_json()
    assert set(document) >= {
        "schema_version",
        "reference",
        "digest",
        "tags",
        "way",
        "layers",
        "rebuilt",
        "builder",
        "bytes",
        "seconds",
    }
    assert set(document["layers"][0]) == {"role", "digest", "diff_id", "media_type", "size", "action"}
    assert set(document["builder"]) == {"ran", "bytes_sent"}
    assert set(document["bytes"]) >= {"checkpoint_read", "uploaded", "reused"}


@pytest.mark.parametrize("arguments", [("--json",), ()])
@pytest.mark.parametrize("buffering", [1, -1])
def test_nobody_reads_the_result(
    run: Run, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], buffering: int
) -> None:
    """A build whose result nobody reads any more has succeeded, and nothing is left to be written at the very end."""
    write_project(Path())
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=buffering) as stream:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            done = run("build", *arguments)
        stream.flush()
    assert done.status == 0


def test_metadata_file_that_cannot_be_written(run: Run, asked: dict[str, Any]) -> None:
    """A metadata file that cannot be written is 2: before the build where it can be, else after the result."""
    write_project(Path())
    done = run("build", "--metadata-file", "none/out.json")
    assert done.status == 2 and "none/out.json" in done.err and not asked
    Path("folder").mkdir()
    done = run("build", "--json", "--metadata-file", "folder")
    assert done.status == 2 and "folder: Is a directory; the image is built" in done.err
    assert json.loads(done.out) == result().to_json()


def test_progress_by_environment(run: Run, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """BUILDKIT_PROGRESS means what it means to buildx."""
    write_project(Path())
    monkeypatch.setenv("BUILDKIT_PROGRESS", "quiet")
    assert run("build").err == ""


@pytest.mark.parametrize(
    ("changes", "flags", "status"), [(True, ["--exit-code"], 10), (True, [], 0), (False, ["--exit-code"], 0)]
)
def test_plan_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, changes: bool, flags: list[str], status: int
) -> None:
    """plan --exit-code is 10 where something would change, and only there."""

    class Found:
        def __init__(self) -> None:
            self.changes = changes

        def to_json(self) -> dict[str, bool]:
            return {"changes": self.changes}

    write_project(Path())
    monkeypatch.setattr(layerkit.pipeline, "plan", lambda *args, **options: Found())
    done = run("plan", "--json", *flags)
    assert done.status == status and json.loads(done.out) == {"changes": changes}


def test_json_names_each_problem(run: Run) -> None:
    """A script reads what is wrong, not only how many things are."""
    Path("layerkit.toml").write_text('[image]\nname = "a"\nbase = "b"\nnmae = "c"\n')
    done = run("check", "--json", "--set", "image.bsae=x")
    assert done.status == 2
    assert json.loads(done.out)["error"]["problems"] == [
        "--set image.bsae: unknown key (did you mean 'base'?)",
        "layerkit.toml:4: image.nmae: unknown key (did you mean 'name'?)",
    ]
