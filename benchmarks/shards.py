"""Weights in shards: a head that was trained on a frozen backbone, and the pull of eight layers beside that of one.

    make bench SIZE=1GiB ARGS='--only head,shards'
    .venv/bin/python benchmarks/shards.py --size 1GiB --rounds 3 [--json FILE]

The second form empties nothing, so that it can run beside others: it leaves its repositories in the registry.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from harness import MIB, ROOT, BenchError, Done, Engine, machine, run, say, size_of, write_weights
from measuring import Bench
from projects import Project, said
from report import goals, goals_table, seconds_table

COUNT = 8  # layers of a pull
HEAD = 32  # the head is this part of the model
_SHARDS = 'format = "safetensors"\nshard-size = "{size}"\n'
_NAMES = {"head, shards": _SHARDS, "head, one file kept": ""}


def head(bench: Bench) -> None:
    """A trained head on a frozen backbone: in shards of an eighth, and as the one file that the trainer wrote."""
    projects = {name: bench.project(f"head-{number}", bench.size) for number, name in enumerate(_NAMES)}
    state = _model(bench.size)
    changed = state["lm_head.weight"].nbytes
    for name, project in projects.items():
        _options(project, _NAMES[name].format(size=bench.size // 8))
        _save(state, project.weights, 0)
        project.layerkit("--push", "-t", "head")
    for number in range(bench.rounds):
        state["lm_head.weight"].add_(1)
        names = list(projects)
        for name in names if number % 2 else reversed(names):
            project = projects[name]
            _save(state, project.weights, number + 1)
            found = bench.measure("head", name, number, partial(_pushed, project, "head"))
            found.facts["changed"] = changed
            if found.facts["rebuilt"] != ["checkpoint"]:
                raise BenchError(f"a new head, and {found.facts['rebuilt']} was rebuilt")
    for project in projects.values():
        project.forget()
        shutil.rmtree(project.folder)


def pull(bench: Bench) -> None:
    """A second Docker pulls new weights: as one layer, and as eight of the same bytes in all."""
    with bench.engine.node() as host:
        projects = {f"docker pull, {count} layers": bench.project(f"pull-{count}", bench.size) for count in (1, COUNT)}
        for number in range(-1, bench.rounds):  # the first is for the node to have the base
            names = list(projects)
            for name in names if number % 2 else reversed(names):
                project, tag = projects[name], f"{number + 1}"
                _files(project, bench.size, COUNT if "8" in name else 1)
                project.layerkit("--push", "-t", tag)
                reference = f"{project.repository}:{tag}"
                work = partial(_plain, ("docker", "--host", host, "pull", "-q", reference))
                if number < 0:
                    work()
                else:
                    bench.measure("shards", name, number, work)
                    run(["docker", "--host", host, "rmi", f"{project.repository}:{number}"])
        for project in projects.values():
            with contextlib.suppress(BenchError):
                run(["docker", "--host", host, "rmi", f"{project.repository}:{bench.rounds}"])
            project.forget()
            shutil.rmtree(project.folder)


def _model(size: int) -> dict[str, Any]:
    """A decoder in fp16: an embedding, blocks, and a head of 1/32."""
    import torch

    width = 1024
    rows = max(1, size // HEAD // width // 2)
    state = {"model.embed_tokens.weight": torch.randn(rows, width).half()}
    blocks = max(1, (size - 2 * rows * width * 2) // (12 * width * width * 2))
    for number in range(blocks):
        for name, shape in (
            ("attn.qkvo", (4 * width, width)),
            ("mlp.up", (4 * width, width)),
            ("mlp.down", (width, 4 * width)),
        ):
            state[f"model.layers.{number}.{name}.weight"] = torch.randn(shape).half()
    return state | {"model.norm.weight": torch.ones(width).half(), "lm_head.weight": torch.randn(rows, width).half()}


def _save(state: dict[str, Any], path: Path, epoch: int) -> None:
    import torch

    temporary = path.with_name(path.name + ".new")
    torch.save({"state_dict": state, "epoch": epoch}, temporary)
    temporary.replace(path)


def _options(project: Project, text: str, path: str = "") -> None:
    file = project.folder / "layerkit.toml"
    start = file.read_text().partition("[checkpoint]")[0]
    file.write_text(f'{start}[checkpoint]\npath = "{path or project.weights.name}"\n{text}')


def _files(project: Project, size: int, count: int) -> None:
    """Fresh weights in *count* files, with names that each get a layer."""
    folder = project.folder / "weights"
    shutil.rmtree(folder, ignore_errors=True)
    for number in range(count):
        write_weights(folder / f"model-{number + 1:05}-of-{count:05}.safetensors", size // count)
    _options(project, "", "weights")


def _pushed(project: Project, tag: str) -> tuple[Done, dict[str, Any]]:
    done, document = project.layerkit("--push", "-t", tag, memory=True)
    return done, said(document)


def _plain(command: tuple[str, ...]) -> tuple[Done, dict[str, Any]]:
    return run(command), {}


PHASES: dict[str, Callable[[Bench], None]] = {"head": head, "shards": pull}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size_of, default="1GiB", help="of the weights (default: 1GiB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(PHASES), help="one of the two")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for others to be quiet")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    parent = Path(os.environ.get("LAYERKIT_ENGINE_DIR") or ROOT / ".engine")
    parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f"bench-{uuid.uuid4().hex[:8]}-", dir=parent) as folder:
            bench = Bench(Engine(), given.size, given.rounds, Path(folder), given.patience, prefix=uuid.uuid4().hex[:8])
            for name in [given.only] if given.only else list(PHASES):
                say(f"{name}: {(PHASES[name].__doc__ or '').splitlines()[0]}")
                PHASES[name](bench)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(f"weights {given.size / MIB:.0f} MiB, {given.rounds} rounds; {machine()['cores']} cores")
    print(f"\n{seconds_table(bench.runs)}\n\n{goals_table(goals(bench.runs))}")
    if given.json:
        runs = {phase: [asdict(found) for found in runs] for phase, runs in bench.runs.items()}
        given.json.write_text(json.dumps({"schema_version": 1, "size": given.size, "runs": runs}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
