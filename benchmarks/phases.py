"""What is measured, phase by phase. Each begins with an empty registry and builder, and leaves its disk use bounded."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import shards
from harness import MIB, BenchError, Done, layerkit, run
from measuring import Bench
from projects import CLASSIC, LOAD, SWAP, Contestant, Project, said

SMALL = MIB  # bytes of the small checkpoint that a large one is held against


def start(bench: Bench) -> None:
    """``layerkit --version`` and ``--help``."""
    commands = {f"layerkit {option}": (*layerkit(), option) for option in ("--version", "--help")}
    for command in commands.values():
        run(command)  # once, so that all is in the page cache
    for number in range(bench.cheap_rounds + 2):
        for name, command in commands.items():
            bench.measure("start", name, number, partial(_plain, command))


def swap(bench: Bench) -> None:
    """New weights, everything else cached and pushed before: into a registry."""
    _swaps(bench, "swap", SWAP)


def load(bench: Bench) -> None:
    """New weights, everything else cached and loaded before: into the local Docker."""
    _swaps(bench, "load", LOAD)


def classic(bench: Bench) -> None:
    """The same into a Docker with the classic image store, which compresses nothing."""
    with bench.engine.classic():
        _swaps(bench, "classic", CLASSIC)


def _swaps(bench: Bench, phase: str, kinds: Sequence[type[Contestant]]) -> None:
    bench.skipped += [f"{kind.name}: not installed" for kind in kinds if not kind.installed()]
    project = bench.project(phase, bench.size)
    contestants = [kind(project) for kind in kinds if kind.installed()]
    for number in range(bench.rounds):
        bench.engine.empty()
        project.forget()
        # The image before has smaller weights, so that a round fits on the disk. Nobody reads the earlier weights.
        project.new_weights(max(bench.size // 8, MIB))
        for contestant in contestants:
            contestant.warm()
        turn = number % len(contestants)
        for contestant in contestants[turn:] + contestants[:turn]:
            project.new_weights()
            contestant.prepare()
            bench.measure(phase, contestant.name, number, contestant.swap)
            contestant.clean()
    _leave(bench, project)


def back(bench: Bench) -> None:
    """Earlier weights again, on a machine that knows them and on one that has never seen them; then nothing changed."""
    bench.engine.empty()
    project = bench.project("back", bench.size)
    kept = [project.folder.with_name("kept-0"), project.folder.with_name("kept-1")]
    for path in kept:
        project.new_weights()
        project.layerkit("--push", "-t", "swap")
        project.weights.rename(path)
    turn = 0
    for number in range(bench.rounds):
        for name in ("weights swapped back", "weights swapped back, fresh machine"):
            _copy(kept[turn % 2], project.weights)  # a new file, of which only the content is known
            turn += 1
            with project.elsewhere() if "fresh" in name else contextlib.nullcontext():
                bench.measure("back", name, number, partial(_pushed, project, "swap"))
    for number in range(bench.cheap_rounds):
        bench.measure("nothing", "nothing changed", number, partial(_pushed, project, "swap"))
    for path in kept:
        path.unlink()
    _leave(bench, project)


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(target.name + ".new")
    shutil.copyfile(source, temporary)
    temporary.replace(target)


def _plain(command: Sequence[str]) -> tuple[Done, dict[str, Any]]:
    return run(command), {}


def _pushed(project: Project, tag: str) -> tuple[Done, dict[str, Any]]:
    done, document = project.layerkit("--push", "-t", tag, memory=True)
    return done, said(document)


def memory(bench: Bench) -> None:
    """A swap of weights an eighth as large, for its peak memory beside that of phase ``swap``."""
    bench.engine.empty()
    project = bench.project("memory", max(bench.size // 8, MIB))
    for number in range(2):
        project.new_weights()
        if number == 0:
            _pushed(project, "swap")
        else:
            bench.measure("memory", "layerkit build --push, SIZE/8", 0, partial(_pushed, project, "swap"))
    _leave(bench, project)


def code(bench: Bench) -> None:
    """New code with an emptied builder, and nothing remembered but digests: a large checkpoint against a small one."""
    bench.engine.empty()
    projects = {
        "code changed, SIZE": bench.project("code-large", bench.size),
        "code changed, 1 MiB": bench.project("code-small", SMALL),
    }
    for project in projects.values():
        project.new_weights()
        project.layerkit("--push", "-t", "code")
    for number in range(bench.cheap_rounds):
        names = list(projects)
        for name in names if number % 2 == 0 else reversed(names):
            project = projects[name]
            bench.engine.empty_builder()
            project.forget_all_but_digests()
            project.edit_code()
            found = bench.measure("code", name, number, partial(_pushed, project, "code"))
            if found.facts["rebuilt"] != ["code"]:
                raise BenchError(f"code changed, and {found.facts['rebuilt']} was rebuilt")
    _leave(bench, *projects.values())


def pull(bench: Bench) -> None:
    """What a node has to do after a change of code: the checkpoint under the code layer, and above it."""
    bench.engine.empty()
    project = bench.project("pull", bench.size)
    project.new_weights()
    with bench.engine.node() as host:

        def pulled(tag: str) -> tuple[Done, dict[str, Any]]:
            return _plain(("docker", "--host", host, "pull", "-q", f"{project.repository}:{tag}"))

        try:
            for number in range(-1, bench.rounds):  # the first is for the node to have something
                project.edit_code()
                places = ["under", "above"] if number % 2 else ["above", "under"]
                for place in places:
                    project.layerkit("--push", "-f", f"{place}.toml", "-t", f"{place}-{number + 1}")
                for place in places:
                    tag = f"{place}-{number + 1}"
                    if number < 0:
                        pulled(tag)
                        continue
                    name = f"docker pull, checkpoint {place} the code"
                    bench.measure("pull", name, number, partial(pulled, tag))
                    run(["docker", "--host", host, "rmi", f"{project.repository}:{place}-{number}"])
        finally:
            bench.engine.drop_images(host)
    _leave(bench, project)


def _leave(bench: Bench, *projects: Project) -> None:
    for project in projects:
        project.forget()
        shutil.rmtree(project.folder)
    bench.engine.empty()


PHASES: dict[str, Callable[[Bench], None]] = {
    "start": start,
    "swap": swap,
    "back": back,
    "memory": memory,
    "code": code,
    "load": load,
    "classic": classic,
    "pull": pull,
    **shards.PHASES,
}
