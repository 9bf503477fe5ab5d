from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from layerkit.anatomy.difference import compare
from layerkit.cli.portrait import Look, difference_lines, inspection_lines
from unit.anatomy.support import Part, docker_like, made, portrait, safetensors, write_layout

from .conftest import Run

WEIGHTS = safetensors(a=("F16", (256, 256)))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Two images, the second with other code."""
    images = {name: docker_like(WEIGHTS) for name in ("v1", "v2")}
    images["v2"] = made([Part("COPY src /app\x1b[31m", {"app/x.py": b"x" * 9000})], config={"Cmd": ["\x1b]0;t\x07"]})
    return write_layout(tmp_path / "out", images)


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_width(by_hand: bool, width: int) -> None:
    """No line is wider than the terminal, but digests, which are never broken."""
    found = portrait(by_hand=by_hand)
    other = portrait(seed="2")
    for lines in (
        inspection_lines(found, Look(width)),
        inspection_lines(found, Look(width, digests=True)),
        difference_lines(compare(found, other), Look(width, digests=True)),
    ):
        assert all(len(line) <= max(width, 80) for line in lines)
        assert not [line for line in lines if len(line) > width and "sha256:" not in line and width >= 80]


def test_colour_changes_nothing() -> None:
    """Colours are on top of the same text."""
    found = portrait(by_hand=True)
    assert [click.unstyle(line) for line in inspection_lines(found, Look(80, colour=True))] == inspection_lines(
        found, Look(80)
    )


def test_ascii() -> None:
    """A terminal without Unicode gets plain signs."""
    found = portrait(by_hand=True)
    assert all(line.isascii() for line in inspection_lines(found, Look(80, unicode=False)))
    assert all(line.isascii() for line in difference_lines(compare(found, portrait()), Look(80, unicode=False)))


def test_inspect(run: Run, layout: Path) -> None:
    """The text: reference and whole digest, roles marked as guessed, tensors, both placements."""
    done = run("inspect", f"oci:{layout}:v1")
    assert done.status == 0 and done.err == ""
    assert done.out.startswith(f"oci:{layout}:v1\n  sha256:")
    assert "checkpoint?" in done.out and "? guessed from the image's history" in done.out
    assert "1 tensor, 65.5 K parameters: F16 128.0 KiB" in done.out
    assert "placed well: base < dependencies < checkpoint < code" in done.out
    assert "…" in done.out  # a digest that is short shows that it is
    whole = run("inspect", f"oci:{layout}:v1", "--digests").out
    document = json.loads(run("inspect", f"oci:{layout}:v1", "--json").out)
    assert document["schema_version"] == 1
    assert all(layer["digest"] in whole for layer in document["layers"])


def test_diff(run: Run, layout: Path) -> None:
    """The text of a difference; --exit-code tells a script; control characters of an image reach no terminal."""
    done = run("diff", f"oci:{layout}:v1", f"oci:{layout}:v2", "--exit-code")
    assert done.status == 10 and "\x1b" not in done.out and "\x07" not in done.out
    assert "a node that has the first one" in done.out and "downloads" in done.out
    assert done.out.count("\n  from an OCI layout\n") == 2
    same = run("diff", f"oci:{layout}:v1", f"oci:{layout}:v1", "--exit-code")
    assert same.status == 0 and "no layer and no setting differs" in same.out
    document = json.loads(run("diff", f"oci:{layout}:v1", f"oci:{layout}:v2", "--json").out)
    assert document["schema_version"] == 1 and "code" in document["changed"] and not document["same"]


def test_html(run: Run, layout: Path, tmp_path: Path) -> None:
    """--html writes the page and prints its name; with --json the object is printed too."""
    page = tmp_path / "page.html"
    assert run("inspect", f"oci:{layout}:v1", "--html", page).out == f"{page}\n"
    assert page.read_text().startswith("<!doctype html>")
    both = run("diff", f"oci:{layout}:v1", f"oci:{layout}:v2", "--html", page, "--json")
    assert json.loads(both.out)["schema_version"] == 1 and "Side by side" in page.read_text()
    lost = run("inspect", f"oci:{layout}:v1", "--html", tmp_path / "no" / "page.html")
    assert lost.status == 11 and "--html" in lost.err


def test_timeline_of_a_file(run: Run, layout: Path, tmp_path: Path) -> None:
    """--timeline takes what build --metadata-file wrote."""
    record, page = tmp_path / "build.json", tmp_path / "page.html"
    record.write_text(json.dumps({"seconds": {"plan": 1.0, "build": 2.5, "total": 3.5}}))
    assert run("inspect", f"oci:{layout}:v1", "--timeline", record, "--html", page).status == 0
    assert "3.50 s from start to end" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect"], "Missing argument"),
        (["inspect", "oci:nowhere"], "no OCI layout"),
        (["inspect", "UPPER:1"], "lower case"),
        (["inspect", "oci:"], "names no folder"),
        (["diff", "oci:nowhere"], "Missing argument"),
        (["inspect", "oci:nowhere", "--timeline", "nowhere.json"], "no OCI layout"),
    ],
)
def test_wrong_input(run: Run, arguments: list[str], words: str) -> None:
    """Wrong arguments: status 2, one message, no traceback."""
    done = run(*arguments)
    assert done.status == 2 and words in done.err and done.out == ""


def test_json_error(run: Run) -> None:
    """With --json a failure is an object too."""
    done = run("inspect", "oci:nowhere", "--json")
    assert done.status == 2 and json.loads(done.out)["error"]["kind"] == "ConfigurationError"
