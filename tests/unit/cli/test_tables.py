from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from layerkit.cli.tables import print_outcomes, print_plan, print_result
from layerkit.oci import MEDIA, Digest
from layerkit.planner import Present, plan
from layerkit.results import LayerResult, Result
from layerkit.state import State
from unit.support import inputs, project, write_project


def result(way: str = "compose", platform: str = "") -> Result:
    digest = Digest.of(b"image")
    layers = tuple(
        LayerResult(role, Digest.of(role.encode()), Digest.of(b"tar"), MEDIA.LAYER, size, action, platform)
        for role, size, action in (
            ("base", 3_000_000, "reused"),
            ("checkpoint", 2 * 1024**3, "packed"),
            ("code", 900, "reused"),
        )
    )
    return Result(
        f"r.example/x@{digest}", digest, ("v1",), way, layers if way == "compose" else (), ("checkpoint",),  # type: ignore[arg-type]
        way == "buildkit", 5000, 2 * 1024**3, 2 * 1024**3 + 900, 3_000_900, 0,
        {"plan": 0.1, "total": 12.5}, "asked for" if way == "buildkit" else "",
    )  # fmt: skip


@pytest.mark.parametrize("columns", ["20", "80", "1000"])
def test_digests_are_never_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """Whatever the width of the terminal, every digest is there whole, on one line."""
    monkeypatch.setenv("COLUMNS", columns)
    print_result(result(platform="linux/amd64"))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    for layer in result().layers:
        (line,) = [line for line in lines if str(layer.digest) in line]
        assert f"{layer.role} linux/amd64" in line and layer.action in line
    assert "2.0 GiB" in err and "\x1b" not in err and "…" not in err


def test_result_sums(capsys: pytest.CaptureFixture[str]) -> None:
    """The sums say what was rebuilt, whether BuildKit ran, and how many bytes moved."""
    print_result(result())
    err = capsys.readouterr().err
    assert "rebuilt: checkpoint · BuildKit did not run" in err
    assert "checkpoint read 2.0 GiB · uploaded 2.0 GiB · reused 2.9 MiB · 12 s" in err


def test_result_by_buildkit(capsys: pytest.CaptureFixture[str]) -> None:
    """Where BuildKit built it all, that and the reason are said."""
    print_result(result("buildkit"))
    err = capsys.readouterr().err
    assert "BuildKit ran, 4.9 KiB sent to it" in err and "built by BuildKit as a whole (asked for)" in err


def test_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A plan is a line a role with action and bytes, and the reason below it, on standard output."""
    with State() as state:
        made = plan(inputs(project(write_project(tmp_path)), state), Present(), destination="registry x", tags=["v1"])
    print_plan(made)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and lines[0] == "registry x  tags: v1"
    rows = [line for line in lines[1:-3] if not line.startswith(" " * 16)]
    assert [line[2:].split()[:2] for line in rows] == [
        ["base", "built"], ["dependencies", "built"], ["checkpoint", "packed"], ["code", "built"],
    ]  # fmt: skip
    assert " " * 16 + "model.pth.tar not hashed yet: sent while hashed, dropped where" in lines
    assert max(map(len, lines)) <= 80
    assert lines[-3] == "BuildKit runs, at most 36 B to it; at most 3.0 KiB to upload + what it builds"
    assert lines[-2:] == ["tags that move: v1", "no earlier build here tells how long it takes"]
    assert not any(line != line.rstrip() for line in lines)


def test_outcomes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What happened is beside what was planned, marked where it is something else, with the verdict last."""
    with State() as state:
        made = plan(inputs(project(write_project(tmp_path)), state), Present(), destination="registry x", tags=["v1"])
    seconds = {"plan": 0.1, "build": 1.0, "checkpoint": 2.0, "compose": 0.1, "total": 12.5}
    done = dataclasses.replace(result(), seconds=seconds)
    print_outcomes(made, done)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    marks = {line.split()[1]: line.split()[0] for line in lines[2:6]}
    assert marks == {
        "base": "ok",
        "dependencies": "ok",
        "checkpoint": "!!",
        "code": "ok",
    }  # 2 GiB where 3 KiB were planned
    assert "BuildKit did not run, other than planned" in lines
    assert lines[-1] == "not as planned: see the lines with !! · 12 s"
