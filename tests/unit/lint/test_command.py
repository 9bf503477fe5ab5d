"""``layerkit lint`` as a user calls it, and the forms that it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from layerkit.cli.lint import lint
from layerkit.errors import ConfigurationError
from layerkit.lint import RULES, Edit, Finding, Severity, as_github, as_sarif, as_text

BAD = "FROM python:3.11-slim\nWORKDIR /app\nCOPY . .\nRUN pip install -r requirements.txt\nUSER 1000\n"
GOOD = "FROM python:3.11-slim\nWORKDIR /app\nCOPY serve.py .\nUSER 1000\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project whose weights are 2 MiB, entered."""
    (tmp_path / "model.pt").write_bytes(bytes(2 << 20))
    (tmp_path / "serve.py").write_text("")
    (tmp_path / "requirements.txt").write_text("fastapi\n")
    (tmp_path / ".dockerignore").write_text(".git\n")
    (tmp_path / "Dockerfile").write_text(BAD)
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "Dockerfile").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(lint, list(arguments), input=stdin)


def test_text(project: Path) -> None:
    """A line for each finding, as compilers write them, with the corrected lines under it; exit 1."""
    done = run()
    assert done.exit_code == 1
    first = "Dockerfile:3: checkpoint-in-copy warning: the checkpoint (model.pt, 2.0 MiB) is caught by a COPY of code"
    assert first in done.stdout and "[2.0 MiB]\n    COPY --link model.pt ./\n" in done.stdout
    assert "3 warnings; --fix rewrites 3 of them" in done.stderr


def test_nothing_found(project: Path) -> None:
    """Exit 0 where nothing is found, or nothing above info."""
    done = run("good")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "nothing found\n")
    (project / "good" / "Dockerfile").write_text("FROM python\n")
    done = run("good")
    assert done.exit_code == 0 and "unpinned-base info" in done.stdout


def test_json(project: Path) -> None:
    """--json prints the object of the contract, with these keys and no others."""
    done = run("--json")
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert [list(f) for f in document["findings"]] == [
        ["rule", "severity", "file", "line", "message", "fix", "bytes"]
    ] * 3
    assert {f["rule"]: f["bytes"] for f in document["findings"]} == {
        "checkpoint-in-copy": 2 << 20,
        "code-before-dependencies": None,
        "pip-cache": None,
    }
    assert run("--format", "json").stdout == done.stdout


def test_several_files_and_standard_input(project: Path) -> None:
    """Several Dockerfiles give one list, as pre-commit calls it; - reads standard input."""
    files = {f["file"] for f in json.loads(run("--json", "Dockerfile", "good", "./Dockerfile").stdout)["findings"]}
    assert files == {"Dockerfile"}
    done = run("-", "--json", stdin=BAD)
    assert done.exit_code == 1 and {f["file"] for f in json.loads(done.stdout)["findings"]} == {"-"}


def test_fix_and_diff(project: Path) -> None:
    """--diff shows what --fix then writes; nothing else is left in the folder."""
    before = sorted(path.name for path in project.iterdir())
    shown = run("--diff")
    assert (project / "Dockerfile").read_text() == BAD
    assert "+COPY --exclude=model.pt . .\n" in shown.stdout and "would rewrite" in shown.stderr
    done = run("--fix")
    assert (done.exit_code, done.stdout) == (0, "")
    assert (project / "Dockerfile").read_text() == (
        "FROM python:3.11-slim\nWORKDIR /app\n"
        "COPY requirements.txt /app/requirements.txt\nRUN pip install --no-cache-dir -r requirements.txt\n"
        "COPY --link model.pt ./\nCOPY --exclude=model.pt . .\nUSER 1000\n"
    )
    assert sorted(path.name for path in project.iterdir()) == before
    assert run("--diff").stdout == ""


def test_fix_says_what_it_leaves(project: Path) -> None:
    """What is not rewritten is said with the reason, and keeps the exit status."""
    (project / "Dockerfile").write_text("FROM a:1\nCOPY serve.py /app/\nRUN ./x\nCOPY model.pt /app/\nUSER 1\n")
    done = run("--fix")
    assert done.exit_code == 1
    assert "left Dockerfile:4: checkpoint-above-code: line 3 may read or change what is there" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/Dockerfile"], "no such file"),
        (["--context", "nowhere"], "no such folder"),
        (["--target", "prod"], "no stage"),
    ],
)
def test_usage_of_files(project: Path, arguments: list[str], message: str) -> None:
    """A file, folder or stage that is not there is a usage error: 2, as main() turns it into."""
    done = run(*arguments)
    assert isinstance(done.exception, ConfigurationError) and done.exception.exit_status == 2
    assert message in str(done.exception)
    assert message in json.loads(run("--json", *arguments).stdout)["error"]["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ignore", "nonsense"],
        ["--fix", "--diff"],
        ["--json", "--format", "sarif"],
        ["--diff", "--json"],
        ["-", "--fix"],
    ],
)
def test_usage_of_options(project: Path, arguments: list[str]) -> None:
    """Options that make no sense together, or name no rule, give 2."""
    assert run(*arguments).exit_code == 2
    assert (project / "Dockerfile").read_text() == BAD


def test_ignore_and_rules(project: Path) -> None:
    """--rules lists all rules, each of which --ignore takes."""
    names = [line.split()[0] for line in run("--rules").stdout.splitlines()]
    assert names == [rule.name for rule in RULES]
    assert run("--ignore", ",".join(names)).exit_code == 0


def test_image(project: Path) -> None:
    """--image decides on the limits of a registry."""
    with (project / "model.pt").open("wb") as stream:
        stream.truncate(11_000_000_000)
    done = run("--image", "ghcr.io/acme/m", "--json")
    assert {"error"} == {f["severity"] for f in json.loads(done.stdout)["findings"] if f["rule"] == "layer-limit"}


def test_sarif(project: Path) -> None:
    """SARIF 2.1.0: every result has a rule of the list, a level, a place, and regions that start at 1."""
    log: dict[str, Any] = json.loads(run("--format", "sarif").stdout)
    assert log["version"] == "2.1.0"
    (sarif,) = log["runs"]
    driver = sarif["tool"]["driver"]
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", driver["semanticVersion"])
    assert len(sarif["results"]) == 3
    for result in sarif["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note") and result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"] == {"uri": "Dockerfile"} and place["region"]["startLine"] >= 1
        for change in result["fixes"][0]["artifactChanges"]:
            for replacement in change["replacements"]:
                region = replacement["deletedRegion"]
                assert region["endLine"] >= region["startLine"] >= 1 and region["startColumn"] == 1


def test_escapes() -> None:
    """Names and messages of others cannot end an annotation, a URI or a terminal line."""
    finding = Finding(
        "pip-cache", Severity.INFO, "a b,c:%.Dockerfile", 0, "100%\r\nx\x1b[2J", "y\nz", 5, (Edit(1, 1, ()),)
    )
    assert as_github([finding]) == (
        "::notice file=a b%2Cc%3A%25.Dockerfile,line=1,title=layerkit pip-cache::100%25%0D%0Ax\x1b[2J [5 B]%0Ay%0Az\n"
    )
    assert '"uri": "a%20b%2Cc%3A%25.Dockerfile"' in as_sarif([finding], "1.0.0")
    assert "\x1b" not in as_text([finding])


def test_help(project: Path) -> None:
    """The help says what --fix keeps, and which statuses there are."""
    text = " ".join(run("--help").output.split())
    assert "no copy of the old one is kept" in text and "Exits with 0" in text
    assert isinstance(lint, click.Command)
