"""The JSON schema of layerkit.toml, held against the reader: what one refuses, the other does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from layerkit.errors import ConfigurationError
from layerkit.project import load, parse_toml, schema

ROOT = Path(__file__).parents[2]
VALIDATOR = Draft202012Validator(schema())
RIGHT = """\
[image]
name = "ghcr.io/acme/resnet"
base = "python:3.12-slim"
platforms = ["linux/amd64"]
command = ["python", "serve.py"]
env = { A = "1" }
expose = [8000]
[dependencies]
requirements = "pyproject.toml[serve]"
separate = ["torch"]
build-apt = ["git"]
[dependencies.secrets."pip.conf"]
env = "PIP_CONF"
[code]
include = ["src"]
target = "/app"
[checkpoint]
path = "a.pt"
chmod = "0644"
placement = "volume"
[cache]
to = []
from = ["type=gha"]
[builder]
attest = ["type=sbom"]
secrets = { key = { file = "~/key" } }
"""
# What stands in RIGHT, and what is wrong in its place.
WRONG = [
    ('name = "ghcr', 'nme = "ghcr'),
    ("[image]", "[imge]"),
    ("[8000]", "[8000.5]"),
    ("[8000]", "[0]"),
    ("[8000]", "[65536]"),
    ('["python", "serve.py"]', '"python serve.py"'),
    ('["python", "serve.py"]', '[""]'),
    ('"volume"', '"volumes"'),
    ('target = "/app"', 'target = "app"'),
    ("build-apt", "build_apt"),
    ('env = "PIP_CONF"', 'env = "PIP_CONF"\nfile = "x"'),
    ('env = "PIP_CONF"', ""),
    ('{ A = "1" }', "{ A = 1 }"),
    ('from = ["type=gha"]', 'from_ = ["type=gha"]'),
    ('path = "a.pt"', ""),
    ("to = []", "to = true"),
]


def problems(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(parse_toml(text, "x"))]


def test_it_is_one() -> None:
    """It is a valid schema, in which every key of every table is described and nothing is null."""
    document = schema()
    Draft202012Validator.check_schema(document)
    for table in document["$defs"].values():
        assert table["description"] and all(key.get("description") for key in table["properties"].values())
    assert "null" not in json.dumps(document) and "``" not in json.dumps(document)


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*/layerkit.toml")), ids=lambda path: path.parent.name)
def test_examples(path: Path, tmp_path: Path) -> None:
    """The examples are valid, by check-jsonschema as a user would run it."""
    made = str(tmp_path / "schema.json")
    subprocess.run([sys.executable, "-m", "layerkit", "schema", "--write", made], check=True, timeout=60)
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", made, str(path)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_right(tmp_path: Path) -> None:
    """A file with something of every table is taken by both, and so is the one of the README."""
    (tmp_path / "layerkit.toml").write_text(RIGHT)
    assert load(root=tmp_path).cache.to == () and problems(RIGHT) == []
    shown = re.search(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown and problems(shown[1]) == []


@pytest.mark.parametrize(("old", "new"), WRONG)
def test_wrong(tmp_path: Path, old: str, new: str) -> None:
    """What the reader refuses by its form, an editor marks too."""
    assert RIGHT.count(old) >= 1
    text = RIGHT.replace(old, new, 1)
    (tmp_path / "layerkit.toml").write_text(text)
    with pytest.raises(ConfigurationError):
        load(root=tmp_path)
    assert problems(text)


def test_defaults() -> None:
    """The defaults that it shows are valid themselves."""
    found: dict[str, Any] = {}
    for name, table in schema()["properties"].items():
        keys = schema()["$defs"][table["$ref"].rpartition("/")[2]]["properties"]
        found[name] = {key: value["default"] for key, value in keys.items() if "default" in value}
    found["image"]["name"] = "x"
    found["checkpoint"]["path"] = "x"
    assert [error.message for error in VALIDATOR.iter_errors(found)] == []
