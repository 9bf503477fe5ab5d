from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import layerkit

MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(layerkit.__path__, "layerkit.")
    if info.name != "layerkit.__main__"
]
NAMES = [name for name in layerkit.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_exported(name: str) -> None:
    """Every exported name can be had, is listed by dir(), and says what it is."""
    found = getattr(layerkit, name)
    assert name in dir(layerkit)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert inspect.getdoc(found), f"{name} has no docstring"
        assert found.__name__ == name and found.__module__.startswith("layerkit.")


@pytest.mark.parametrize("module", [layerkit, *MODULES], ids=lambda module: module.__name__)
def test_all_of_a_module(module: object) -> None:
    """__all__ of every module is sorted, has no name twice, and each is there; the module says what it is for."""
    names = getattr(module, "__all__", [])
    # As ruff sorts them (RUF022): constants, classes, others.
    expected = sorted(names, key=lambda n: (0 if n.isupper() else 1 if n.lstrip("_")[:1].isupper() else 2, n))
    assert names == expected and len(names) == len(set(names))
    assert all(hasattr(module, name) for name in names)
    assert inspect.getdoc(module) or module.__name__ == "layerkit._version"  # type: ignore[attr-defined]


def test_what_is_exported() -> None:
    """The exported names are exactly those that type checkers see, in the same places."""
    tree = ast.parse(Path(layerkit.__file__).read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert set(seen) == set(layerkit.__all__)
    assert {name: module for name, module in seen.items() if name != "__version__"} == layerkit._HOME


def test_functions_are_not_modules() -> None:
    """No exported name is a submodule's: importing one would put the module in the function's place."""
    submodules = {info.name for info in pkgutil.iter_modules(layerkit.__path__)}
    assert submodules.isdisjoint(layerkit.__all__)
    code = (
        "import layerkit, layerkit.pipeline, layerkit.planner; print(*map(callable, (layerkit.plan, layerkit.build)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True True\n"


def test_unknown_name() -> None:
    """A name that is not there is an AttributeError, as with any module."""
    with pytest.raises(AttributeError, match="nonsense"):
        layerkit.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_errors_are_the_tree() -> None:
    """All errors of the tree are exported."""
    assert {name for name in layerkit.errors.__all__ if name.endswith("Error")} <= set(layerkit.__all__)


def test_sentence() -> None:
    """A project by the Python API reads as one sentence, and is the one that the file describes."""
    project = layerkit.Project(
        image=layerkit.Image("ghcr.io/acme/resnet", base="python:3.11-slim", command=["python", "serve.py"]),
        dependencies=layerkit.Dependencies("requirements.txt", separate=["torch"]),
        code=layerkit.Code(["serve.py", "src"]),
        checkpoint=layerkit.Checkpoint("resnet50.pth.tar", target="/app/model/", chown="root:root"),
    )
    assert project.image.command == ("python", "serve.py")
    assert project.checkpoint is not None and project.checkpoint.chown == "root:root"
