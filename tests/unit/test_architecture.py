"""The rules of the house (ARCHITECTURE.md, "Imports point one way"), read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "layerkit"
FILES = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}

# Each part of the house, and the parts that it may import.
MAY: dict[str, set[str]] = {
    "errors": set(),
    "events": set(),
    "_version": set(),
    "names": set(),
    "units": set(),
    "workflow": set(),
    "toml": set(),
    "oci": {"errors", "names"},
    "settings": {"oci", "errors"},
    "state": {"oci", "errors"},
    "fields": {"oci", "errors"},
    "positions": set(),
    "tables": {"oci", "errors", "fields"},
    "project": {"oci", "errors", "fields", "positions", "tables"},
    "checkpoint": {"oci", "errors", "state"},
    "runtime": {"oci", "errors", "events", "fields", "project"},
    "registry": {"_version", "oci", "errors", "events"},
    "registries": {"events", "settings", "registry"},
    "daemon": {"errors"},
    "memory": set(),
    "processes": {"errors", "daemon"},
    "failures": {"errors", "runtime", "daemon"},
    "engine": {"oci", "errors", "events", "failures", "runtime", "daemon", "processes"},
    "lock": {"oci", "errors", "project", "checkpoint", "toml"},
    "byreference": {"oci", "errors", "state", "checkpoint", "lock"},
    "checkpoint_inputs": {"oci", "errors", "state", "project", "checkpoint", "runtime", "lock", "byreference"},
    "fingerprint": {"checkpoint_inputs", "oci", "errors", "state", "project", "runtime"},
    "assemble": {"names", "oci", "errors", "checkpoint", "fingerprint"},
    "limits": {"oci", "errors", "checkpoint", "fingerprint", "assemble"},
    "planner": {"names", "checkpoint_inputs", "units", "oci", "checkpoint", "fingerprint", "assemble", "limits"},
    "destinations": {
        "names", "oci", "errors", "events", "state", "checkpoint", "registry", "runtime", "engine", "daemon",
        "processes", "assemble", "planner",
    },
    "borrow": {
        "names", "oci", "errors", "events", "checkpoint", "fingerprint", "assemble", "planner", "registry",
        "destinations", "connections",
    },
    "locking": {
        "checkpoint_inputs", "oci", "errors", "events", "state", "checkpoint", "fingerprint", "lock",
        "byreference",
    },
    "recognise": {"oci", "events", "state", "fingerprint", "planner"},
    "request": {"names", "oci", "errors", "project"},
    "forecast": {"names", "planner", "results"},
    "timeline": {"events", "state"},
    "results": {"names", "oci", "assemble", "planner", "destinations", "timeline"},
    "staging": {"oci", "errors", "state", "checkpoint", "runtime", "fingerprint"},
    "bases": {"oci", "errors", "events", "state", "registry", "engine", "fingerprint"},
    "connections": {
        "checkpoint_inputs", "oci", "errors", "events", "settings", "state", "project", "runtime", "registry", "engine",
        "destinations", "registries", "request",
    },
    "ready": {"errors", "project", "runtime", "connections", "engine"},
    "targets": {"names", "errors", "events", "runtime", "fingerprint", "destinations", "staging", "connections"},
    "packing": {
        "assemble", "checkpoint_inputs", "oci", "errors", "events", "memory", "state", "checkpoint", "destinations",
    },
    "session": {
        "checkpoint_inputs", "events", "settings", "project", "checkpoint", "runtime", "engine", "fingerprint",
        "planner", "request", "bases", "recognise", "forecast", "timeline", "borrow", "lock", "locking", "connections",
        "packing", "ready",
    },
    "halves": {"errors", "engine", "assemble", "planner", "staging", "targets", "packing", "session"},
    "outcome": {"oci", "engine", "planner", "destinations", "results", "packing", "session"},
    "whole": {
        "names", "oci", "errors", "engine", "assemble", "planner", "destinations", "results", "staging", "targets",
        "halves", "outcome", "session",
    },
    "pipeline": {
        "checkpoint_inputs", "oci", "errors", "events", "settings", "project", "assemble", "planner", "destinations",
        "request", "results", "ready", "forecast", "timeline", "locking", "targets", "session", "halves", "whole",
        "outcome",
    },
    "doctor": {"_version", "oci", "errors", "events", "settings", "state", "registry", "registries", "engine"},
    "anatomy": {
        "names", "_version", "oci", "errors", "events", "settings", "state", "registry", "registries", "engine",
        "checkpoint", "lint", "units",
    },
    "verification": {"names", "oci", "errors", "events", "settings", "checkpoint", "anatomy"},
    "running": set(),
    "pruning": {"names", "oci", "errors", "events", "settings", "project", "registry", "registries"},
    "launch": {"names", "checkpoint_inputs", "oci", "errors", "state", "project", "request", "running"},
    "containers": {"errors", "failures", "engine"},
    "testing": {"oci", "errors", "registry"},
    "cli": {
        "checkpoint_inputs", "_version", "oci", "errors", "events", "settings", "state", "project",
        "runtime", "fingerprint", "planner", "lock", "locking", "pipeline", "results", "doctor", "lint",
        "checkpoint", "forecast", "bases", "anatomy", "units", "start", "verification", "engine", "running",
        "launch", "containers", "pruning", "ready", "toml", "workflow",
    },
    "lint": {"errors", "oci", "runtime", "units", "workflow"},
    "start": {"errors", "lint", "project", "runtime", "toml", "units"},
    "__main__": {"cli"},
    "__init__": {
        "_version", "errors", "events", "settings", "project", "planner", "pipeline", "results", "checkpoint",
        "forecast", "anatomy", "verification",
    },
}  # fmt: skip
# Third parties, and the one place of each. A pattern that ends with * is a prefix.
ONLY = {
    "tomli": {"project.py", "positions.py"},
    "pydantic": {"project.py", "fields.py", "tables.py"},
    "python_on_whales": {"engine.py"},
    "urllib3": {"registry/transport.py", "registry/connection.py", "registry/pools.py", "registry/breaks.py"},
    "tenacity": {"registry/transport.py"},
    "torch": {"checkpoint/tensors.py", "checkpoint/loading.py"},  # loading.py: for its annotations alone
    "safetensors": {"checkpoint/tensors.py"},
    "huggingface_hub": {"checkpoint/hub.py"},
    "click": {"cli/*"},
    "rich": {"cli/*"},
    "subprocess": {"engine.py", "processes.py", "containers.py", "registry/credentials.py"},
    "sqlite3": {"state.py"},
    "yaml": {"cli/run.py"},
}
PURE = ["oci/", "running/", "pruning/judge.py", "errors.py", "names.py", "units.py", "toml.py", "workflow.py",
        "events.py", "limits.py", "planner.py", "assemble.py", "failures.py",
        "runtime/dockerfile.py", "runtime/steps.py", "runtime/words.py", "runtime/instructions.py", "runtime/stages.py",
        "runtime/checkpoint_copy.py", "runtime/touched.py", "runtime/script.py", "runtime/landing.py",
        "runtime/mounts.py", "runtime/bake.py", "runtime/progress.py", "runtime/placeholder.py",
        "runtime/declared.py", "start/adopt.py", "start/conclude.py", "start/facts.py", "start/needs.py",
        "start/program.py", "start/weights.py", "start/write.py", "registry/urls.py", "anatomy/layers.py",
        "anatomy/costs.py", "anatomy/roles.py", "anatomy/treemap.py", "anatomy/inspection.py", "anatomy/difference.py",
        "anatomy/dissect.py", "anatomy/found.py", "anatomy/charts.py", "checkpoint/shards.py",
        "checkpoint/hubnames.py", "checkpoint/passing.py", "verification/view.py", "verification/compare.py",
        "verification/result.py",
        "verification/entries.py"]  # fmt: skip
# What reads, writes or connects.
IMPURE = {
    "os",
    "socket",
    "subprocess",
    "urllib.request",
    "urllib3",
    "shutil",
    "tempfile",
    "time",
    "random",
    "http",
    "threading",
    "glob",
}


def part(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


@cache
def imported(file: str) -> frozenset[tuple[str, bool]]:
    """(module, whether it is ours) of every import in *file*: those in functions and for type checking too."""
    return frozenset(_imported(file))


def _imported(file: str) -> Iterator[tuple[str, bool]]:
    folder = file.split("/")[:-1]
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, alias.name.split(".")[0] == "layerkit"
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or "", (node.module or "").split(".")[0] == "layerkit"
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1]
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                yield ".".join([*base, *(name or "").split(".")]), True


def matches(file: str, patterns: set[str]) -> bool:
    return any(file.startswith(p[:-1]) if p.endswith("*") else file == p for p in patterns)


@cache
def calls(file: str) -> frozenset[str]:
    """Dotted names that are called or looked up in *file*."""
    return frozenset(_calls(file))


def _calls(file: str) -> Iterator[str]:
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield f"{node.func.id}()"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("file", FILES)
def test_direction(file: str) -> None:
    """Imports point one way, and the parts in the middle do not know each other."""
    own = part(file)
    found = {module.removeprefix("layerkit.").split(".")[0] for module, ours in imported(file) if ours} - {own}
    assert found <= MAY[own], f"{file} must not import {found - MAY[own]}"


def test_no_circle() -> None:
    """The allowed directions have no circle."""
    done: set[str] = set()
    left = dict(MAY)
    while left:
        free = [name for name, needs in left.items() if needs <= done]
        assert free, f"a circle among {sorted(left)}"
        done |= set(free)
        left = {name: needs for name, needs in left.items() if name not in free}


def test_no_circle_of_modules() -> None:
    """No module imports one that imports it, by whatever detour; imports for type checking count."""
    names = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES}
    left = {
        name: {
            found for module, ours in imported(file) if ours and (found := module.removeprefix("layerkit.")) in names
        }
        for name, file in names.items()
    }
    while left:
        free = {name for name, needs in left.items() if not needs & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {name: needs for name, needs in left.items() if name not in free}


@pytest.mark.parametrize("library", ONLY)
def test_one_importer(library: str) -> None:
    """Each third party has one place that knows it."""
    importers = {f for f in FILES for module, ours in imported(f) if not ours and module.split(".")[0] == library}
    importers = {f for f in importers if not f.startswith("testing")}
    assert all(matches(file, ONLY[library]) for file in importers), f"{library} is imported by {sorted(importers)}"


@pytest.mark.parametrize("file", [f for f in FILES if any(f.startswith(p) for p in PURE)])
def test_pure(file: str) -> None:
    """Pure modules import nothing that reads, writes or connects, and open nothing."""
    modules = {module for module, ours in imported(file) if not ours}
    assert modules.isdisjoint(IMPURE), f"{file} imports {modules & IMPURE}"
    found = set(calls(file))
    assert found.isdisjoint({"open()", "print()", "input()"})
    methods = {node.attr for node in ast.walk(FILES[file]) if isinstance(node, ast.Attribute)}
    assert methods.isdisjoint({"read_text", "read_bytes", "write_text", "write_bytes", "unlink", "exists", "iterdir"})


@pytest.mark.parametrize("file", [f for f in FILES if not f.startswith("cli/")])
def test_only_the_command_line_prints_and_exits(file: str) -> None:
    """Outside of cli/ nothing prints, exits or writes to the standard streams."""
    found = set(calls(file))
    assert found.isdisjoint({"print()", "exit()", "quit()", "sys.exit", "os._exit", "sys.stdout", "sys.stderr"})
    raised = [node.exc for node in ast.walk(FILES[file]) if isinstance(node, ast.Raise)]
    named = {call.func for call in raised if isinstance(call, ast.Call)}
    assert "SystemExit" not in {name.id for name in named if isinstance(name, ast.Name)}


@pytest.mark.parametrize("file", [f for f in FILES if f != "settings.py"])
def test_only_settings_know_the_environment(file: str) -> None:
    """The environment is read in one place; click reads that of its options."""
    assert set(calls(file)).isdisjoint({"os.environ", "os.getenv", "os.environb", "os.putenv"})


@pytest.mark.parametrize("file", FILES)
def test_no_traps(file: str) -> None:
    """Nothing is run by a shell, unpickled, evaluated, or left to an assertion about input of others."""
    found = set(calls(file))
    assert found.isdisjoint({"eval()", "exec()", "os.system", "os.popen", "pickle.loads", "pickle.load"})
    shells = [k for n in ast.walk(FILES[file]) if isinstance(n, ast.Call) for k in n.keywords if k.arg == "shell"]
    assert shells == []
    assert not {m.split(".")[0] for m, ours in imported(file) if not ours} & {"pickle", "marshal", "shelve"}


HEAVY = ("pydantic", "urllib3", "python_on_whales", "rich", "torch", "sqlite3", "tomli", "tenacity", "huggingface_hub")


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import layerkit", id="import"),
        pytest.param("import layerkit; layerkit.ConfigurationError, dir(layerkit)", id="errors"),
        pytest.param("from layerkit.cli import main", id="cli"),
        pytest.param("from layerkit.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass", id="help"),
        pytest.param("from layerkit.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass", id="version"),
        pytest.param(
            "from layerkit.cli import main\ntry: main(['build', '--help'])\nexcept SystemExit: pass", id="build"
        ),
        pytest.param("from layerkit.cli import main\ntry: main(['makefile'])\nexcept SystemExit: pass", id="makefile"),
    ],
)
def test_light(code: str) -> None:
    """Importing layerkit, its help and its version load no heavy library, so that they come at once."""
    shown = f"{code}\nimport sys\nprint('LOADED', *(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"


LATER = ("layerkit.engine", "layerkit.checkpoint.opening", "layerkit.checkpoint.made", "layerkit.checkpoint.hub",
         "python_on_whales", "rich", "torch", "tenacity", "huggingface_hub")  # fmt: skip


def test_light_build() -> None:
    """A build that pushes, and finds nothing changed, loads neither the engine nor what reads formats of weights."""
    code = "import sys, layerkit.pipeline, layerkit.destinations.registry"
    shown = f"{code}\nprint('LOADED', *(name for name in {LATER!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize("file", FILES)
def test_length(file: str) -> None:
    """A module fits in a head: when it passes some 400 lines, it has a second idea (STYLE.md)."""
    limit = 1000 if file.startswith("testing") else 800
    assert len((SOURCE / file).read_text().splitlines()) <= limit
