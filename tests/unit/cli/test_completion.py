"""Completion in a real bash, as a user types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from layerkit.cli.app import cli
from layerkit.cli.completion import keys, platforms, rules
from layerkit.project import schema

from .conftest import Run
from .shells import BASH, LINES, Shell, surroundings

CONTEXT = click.Context(cli)
PARAMETER = click.Option(["--x"])


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("bash")
    environment = surroundings(folder)
    setup = BASH + 'eval "$(layerkit completion bash)"'
    shell = Shell(["bash", "--norc", "--noprofile", "-i"], environment, folder / "home", setup)
    yield shell
    shell.close()


@pytest.mark.parametrize(("typed", "line"), LINES)
def test_bash(bash: Shell, typed: str, line: str) -> None:
    """The tab key completes commands, flags, keys and values of --set, rules, platforms, builders, files."""
    assert bash.complete(typed) == line


def test_bash_lists(bash: Shell) -> None:
    """Two tabs show what there is."""
    assert bash.complete("layerkit checkpoint ", tabs=2) == "layerkit checkpoint "
    assert all(name in bash.shown for name in ("convert", "digest", "inspect"))


def test_every_key() -> None:
    """Each key that the schema knows can be completed, with what it means."""
    found = {item.value: item.help for item in keys(CONTEXT, PARAMETER, "")}
    tables = schema()["$defs"]
    assert len(found) == sum(len(tables[name]["properties"]) for name in tables if name != "Secret")
    assert all(found.values()) and found["image.base="] == tables["Image"]["properties"]["base"]["description"]
    assert keys(CONTEXT, PARAMETER, "image.name=x") == []


def test_behind_commas() -> None:
    """Lists are completed at their last item."""
    assert [item.value for item in platforms(CONTEXT, PARAMETER, "a,linux/amd")] == ["a,linux/amd64"]
    assert "pip-cache,copied-twice" in [item.value for item in rules(CONTEXT, PARAMETER, "pip-cache,cop")]


def test_schema_written(run: Run) -> None:
    """The schema goes into a file and its folders, for editors; a place that cannot be written is said."""
    assert run("schema", "--write", "a/b.json").out == "a/b.json\n"
    assert json.loads(Path("a/b.json").read_text()) == schema() == json.loads(run("schema").out)
    assert run("schema", "--write", "a/b.json/c").status == 2
