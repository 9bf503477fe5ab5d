"""What a step of GitHub Actions is told, and action.yml run as a runner runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerkit.cli.display import display
from layerkit.cli.github import outputs, summary
from layerkit.errors import ConfigurationError
from layerkit.events import Note, Phase, StepLog
from layerkit.settings import Actions
from layerkit.workflow import annotation, harmless

from .conftest import Run
from .shells import program

ROOT = Path(__file__).parents[3]


def parsed(text: str) -> dict[str, str]:
    """A GITHUB_OUTPUT file, read as the runner reads it."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, mark = line.split("<<", 1)
        value = []
        while (inner := next(lines)) != mark:
            value.append(inner)
        found[name] = "\n".join(value)
    return found


def test_annotation_is_escaped() -> None:
    """Line breaks, percent signs, and in properties colons and commas, are written as the runner reads them."""
    said = annotation("error", "50 %\r\nof a,b:c", file="a,b:c%.toml", line=3, column=2, title="x: y")
    assert said == "::error file=a%2Cb%3Ac%25.toml,line=3,col=2,title=x%3A y::50 %25%0D%0Aof a,b:c"
    assert annotation("warning", "w\udc80") == "::warning title=layerkit::w\\udc80"


@pytest.mark.parametrize("line", ["::add-mask::x", "  ::error::y", "a ##[group]z", "##[set-env name=PATH;]x"])
def test_logs_are_no_commands(line: str) -> None:
    """A line of a build log that is a command of the runner is none any more, and can still be read."""
    made = harmless(line)
    assert not made.lstrip().startswith("::") and "##[" not in made
    assert re.sub("[ ]", "", made) == re.sub("[ ]", "", line)
    assert harmless("plain :: text # [x]") == "plain :: text # [x]"


def test_outputs_cannot_be_forged(tmp_path: Path) -> None:
    """A value of several lines comes back whole, also one that looks like the end of it and another output."""
    file = tmp_path / "output"
    values = {"tags": "a\nlayerkit-0\ndigest<<x\nevil\nx", "digest": "sha256:1", "empty": ""}
    outputs(Actions(output=file), values)
    outputs(Actions(output=file), {"more": "1"})
    assert parsed(file.read_text()) == {**values, "more": "1"}
    outputs(Actions(), values)
    with pytest.raises(ConfigurationError, match="GITHUB_OUTPUT"):
        outputs(Actions(output=tmp_path), values)


def test_summary_is_appended(tmp_path: Path) -> None:
    """What another step wrote stays."""
    file = tmp_path / "summary"
    file.write_text("before\n")
    summary(Actions(summary=file), "### now\n")
    assert file.read_text() == "before\n### now\n"


def test_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress is in groups that are closed before the next one opens, and at the end, whatever happened."""
    with pytest.raises(KeyError), display("github", terminal=True) as listener:
        for event in (
            Phase("plan", "started"),
            Phase("plan", "finished", 1.0),
            Phase("build", "started"),
            Phase("checkpoint", "started"),
            StepLog("1", "::add-mask::x"),
            Note("cache lost", "warning"),
        ):
            listener(event)
        raise KeyError
    assert capsys.readouterr().err.splitlines() == [
        "::group::layerkit plan",
        "plan        done in 1.00 s",
        "::endgroup::",
        "::group::layerkit build",
        "build         ::add-mask::x",
        "::warning title=layerkit::cache lost",
        "::endgroup::",
    ]


def test_only_there() -> None:
    """Nothing of it outside of GitHub Actions."""
    assert Actions.from_environment({"GITHUB_OUTPUT": "x"}) is None
    assert Actions.from_environment({"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": "x"}) == Actions(Path("x"))


def test_errors_at_their_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each problem of layerkit.toml is annotated at its line, by its path from the top of the repository."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(Path.cwd()))
    Path("sub").mkdir()
    Path("sub/layerkit.toml").write_text('[image]\nname = "x"\nbse = "y"\n[code]\ninclude = ["../x"]\n')
    monkeypatch.chdir("sub")
    done = run("check")
    assert done.status == 2
    commands = [line for line in done.err.splitlines() if line.startswith("::")]
    assert [command.split(",title")[0] for command in commands] == [
        "::error file=sub/layerkit.toml,line=3",
        "::error file=sub/layerkit.toml,line=5",
    ]
    assert "did you mean 'base'?" in commands[0]
    done = run("check", "-C", "..")
    assert done.err.splitlines()[-1].startswith("::error title=layerkit%3A configuration::no layerkit.toml")


def test_errors_of_no_file_are_annotated_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem of --set has no line to stand at: its annotation says it nevertheless, beside those of the file."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    Path("layerkit.toml").write_text('[image]\nname = "a"\nbase = "b"\nnmae = "c"\n')
    done = run("check", "--set", "image.bsae=x")
    assert done.status == 2
    found = [line for line in done.err.splitlines() if line.startswith("::error")]
    assert any("file=" not in line and "--set image.bsae" in line for line in found)
    assert any("line=4" in line and "image.nmae" in line for line in found)


def test_errors_are_no_commands(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an error quotes cannot command the runner either."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    Path("layerkit.toml").write_text('[image]\nname = "x"\n[code]\ninclude = ["##[group]a"]\n')
    shown = run("check").err.splitlines()
    assert "## [group]a" in shown[0]
    assert [line for line in shown if "##[" in line] == [line for line in shown if line.startswith("::error ")]


def test_lint_annotates(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings are read in the log and annotated at their lines."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    Path("Dockerfile").write_text("FROM python\nRUN pip install flask\n")
    done = run("lint")
    assert "Dockerfile:2: pip-cache" in done.out and "::" not in done.out
    assert "file=Dockerfile,line=2" in done.err


# ---------------------------------------------------------------------------------------------------------- action.yml


def action() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
    return found


def step(number: int, inputs: dict[str, str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a step of action.yml as a runner does: expressions filled in, in bash, with the variables that it gives."""
    described = action()
    given = {name: str(value.get("default", "")) for name, value in described["inputs"].items()} | inputs
    assert set(inputs) <= set(described["inputs"])
    values = {f"inputs.{name}": value for name, value in given.items()} | {"github.action_path": str(ROOT)}
    this = described["runs"]["steps"][number]
    assert "${{" not in this["run"], "an expression in a script can become a command"
    filled = {
        name: re.sub(r"\$\{\{ (.*?) \}\}", lambda found: values[found[1]], text) for name, text in this["env"].items()
    }
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", this["run"]]
    environment = {**os.environ, "GITHUB_ACTIONS": "true", **environment, **filled}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


def test_action_is_one() -> None:
    """action.yml is as GitHub's schema of actions says; each output is one that layerkit writes."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-actions", "action.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    source = (ROOT / "src" / "layerkit" / "cli" / "github.py").read_text()
    for name, output in action()["outputs"].items():
        assert output["value"] == f"${{{{ steps.layerkit.outputs.{name} }}}}" and f'"{name}":' in source


def test_action_checks(tmp_path: Path) -> None:
    """Inputs arrive as arguments, however hostile; nothing of them is run."""
    project = tmp_path / "my project"
    project.mkdir()
    (project / "layerkit.toml").write_text('[image]\nname = "x"\n')
    path = program(tmp_path / "bin")
    inputs = {
        "command": "check",
        "directory": str(project),
        "set": f"image.labels.a=$(touch {tmp_path}/ran)\r\n\nimage.labels.b=`touch {tmp_path}/ran`; '\"",
        "tags": "not for check",
    }
    done = step(1, inputs, {"PATH": path, "LAYERKIT_STATE_DIR": str(tmp_path / "state")})
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "ok"), done.stderr
    assert not (tmp_path / "ran").exists()
    done = step(1, {"command": f"check; touch {tmp_path}/ran"}, {"PATH": path})
    assert done.returncode == 2 and not (tmp_path / "ran").exists()
    done = step(1, {"command": "build", "arguments": "--no-such\n"}, {"PATH": path})
    assert done.returncode == 2 and "--no-such" in done.stderr


def test_action_installs(tmp_path: Path) -> None:
    """The first step makes an environment with layerkit in it, and puts it on the PATH of those that follow."""
    wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(wheel, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = tmp_path.glob("*.whl")
    environment = {"RUNNER_TEMP": str(tmp_path), "GITHUB_PATH": str(tmp_path / "path"), "PIP_NO_DEPS": "1"}
    done = step(0, {"install": str(built), "python": sys.executable}, environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "path").read_text() == f"{tmp_path}/layerkit/bin\n"
    assert os.access(tmp_path / "layerkit" / "bin" / "layerkit", os.X_OK)
    assert step(0, {"install": "none"}, {"RUNNER_TEMP": "/nonexistent"}).returncode == 0


# --------------------------------------------------------------------------------------------------------- docs/ci.md


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(("number", "schema"), [(0, "vendor.github-workflows"), (1, "vendor.gitlab-ci")])
def test_documented_pipelines(tmp_path: Path, number: int, schema: str) -> None:
    """The pipelines of docs/ci.md are valid, and give the action inputs that it has."""
    text = blocks("yaml")[number]
    (tmp_path / "ci.yml").write_text(text)
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(tmp_path / "ci.yml")]
    command += ["--data-transform", "gitlab-ci"] if "gitlab" in schema else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    jobs = yaml.safe_load(text)
    if number == 0:
        uses = [step for step in jobs["jobs"]["image"]["steps"] if "layerkit" in step.get("uses", "")]
        assert len(uses) == 1 and set(uses[0]["with"]) <= set(action()["inputs"])


def test_hooks(tmp_path: Path) -> None:
    """The hooks of this repository pass on a good project and fail on a bad one, run by pre-commit itself."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    listed = yaml.safe_load(blocks("yaml")[2])["repos"][0]["hooks"]
    assert {hook["id"] for hook in listed} == {hook["id"] for hook in hooks}
    command = [sys.executable, "-m", "pre_commit", "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml")]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    root = tmp_path / "project"
    root.mkdir()
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": program(tmp_path / "bin")}
    environment |= {"PRE_COMMIT_HOME": str(tmp_path / "cache"), "LAYERKIT_STATE_DIR": str(tmp_path / "state")}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    # What language: python would install is on PATH already.
    local = {"repos": [{"repo": "local", "hooks": [{**hook, "language": "system"} for hook in hooks]}]}
    (root / ".pre-commit-config.yaml").write_text(yaml.safe_dump(local))
    (root / "layerkit.toml").write_text('[image]\nname = "x"\n')
    (root / "Dockerfile").write_text("FROM python:3.12-slim\n")

    def run() -> tuple[int, str]:
        subprocess.run(["git", "add", "-A"], cwd=root, env=environment, check=True)
        command = [sys.executable, "-m", "pre_commit", "run", "--all-files"]
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout

    subprocess.run(["git", "init", "-q"], cwd=root, env=environment, check=True)
    status, out = run()
    assert status == 0 and out.count("Passed") == 2, out
    (root / "layerkit.toml").write_text('[image]\nnme = "x"\n')
    (root / "Dockerfile").write_text("FROM python\nRUN pip install flask\n")
    status, out = run()
    assert status == 1 and out.count("Failed") == 2 and "unknown key" in out and "pip-cache" in out
