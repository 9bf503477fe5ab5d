"""Runs a plan, top to bottom: build the runtime image, meanwhile send the checkpoint, compose, publish.

load ─▶ Project ─ fingerprint ─▶ Inputs ─┐
                                         ├─ plan ─▶ Plan ─▶ build runtime ─┐
destination ─ look ─────────▶ Present ───┘             └▶ send checkpoint ─┴▶ assemble ▶ publish ▶ Result
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .assemble import assemble
from .checkpoint_inputs import CheckpointInputs
from .destinations import Published
from .errors import AGAIN, LayerkitError, RefusedError, TransientError
from .events import Listener, Note, silent
from .forecast import learn
from .halves import CannotCompose, Halves, halves
from .locking import write_lock
from .oci import Layer, Reference
from .outcome import outcome
from .planner import Plan
from .project import Project
from .ready import check_builder, check_secrets
from .request import Request
from .results import Result
from .session import Session
from .settings import Settings
from .targets import whole_definition
from .timeline import remember
from .whole import build_whole

__all__ = ["bake_definition", "build", "execute", "plan"]


def plan(
    project: Project,
    *,
    tags: Sequence[str] = (),
    push: bool = False,
    output: str = "",
    platforms: Sequence[str] = (),
    builder: str = "",
    no_cache: bool = False,
    locked: bool = False,
    settings: Settings | None = None,
    listener: Listener = silent,
) -> Plan:
    """What ``build`` with the same arguments would do. Nothing is changed anywhere.

    Raises:
        LayerkitError: of the kind that fits, as ``errors`` draws them.
    """
    request = Request(tags, push, output, platforms, builder, no_cache, locked=locked)
    with Session(project, request, settings or Settings.from_environment(), listener) as session:
        return session.plan()


def build(
    project: Project,
    *,
    tags: Sequence[str] = (),
    push: bool = False,
    output: str = "",
    platforms: Sequence[str] = (),
    builder: str = "",
    no_cache: bool = False,
    pull: bool = False,
    strict_cache: bool = False,
    way: Literal["compose", "buildkit"] = "compose",
    layer_jobs: int = 0,
    locked: bool = False,
    settings: Settings | None = None,
    listener: Listener = silent,
    planned: Callable[[Plan], object] | None = None,
) -> Result:
    """Build the project's image and put it to its destination.

    Args:
        project: what to build.
        tags: names in the image's repository (``v2``), or whole references of one repository; latest by default.
        push: to the registry; else into the local Docker, or with *output* ``oci:DIR`` into an OCI layout.
        platforms: as in linux/amd64; they win over the project's.
        builder: buildx builder; docker's own choice by default.
        no_cache: build the runtime image anew, also when its key is there.
        pull: have the builder ask for newer base images.
        strict_cache: a cache that cannot be exported fails the build.
        way: "buildkit" has BuildKit build the whole image, checkpoint and all.
        layer_jobs: checkpoint layers that are sent to a registry at a time; 0 for the default.
        locked: the base is the one of the lock, whatever its tag means now; where anything else in the lock would
            change, it is an error, before anything is sent.
        settings: surroundings; the process's environment by default.
        listener: called with every event, from several threads.
        planned: called once with the plan, before anything is done; what it raises ends the build.

    Raises:
        LayerkitError: of the kind that fits, as ``errors`` draws them; no tag was moved then, or the message says which
            of several.
    """
    request = Request(tags, push, output, platforms, builder, no_cache, pull, strict_cache, way, layer_jobs, locked)
    with Session(project, request, settings or Settings.from_environment(), listener) as session:
        found = session.plan()
        if planned is not None:
            planned(found)
        return execute(session, found)


def execute(session: Session, plan: Plan) -> Result:
    """Do what *plan* says.

    Raises:
        LayerkitError: as the step that failed has it; no tag was moved, or the message says which of several.
    """
    try:
        done = _done(session, plan)
    except TransientError as error:
        if error.hint == AGAIN:
            error.hint = f"{AGAIN}: what arrived is used"
        raise
    result = replace(done.result, plan=plan, timeline=session.recorder.spans())
    remember(session.state, str(result.digest), result.to_json())
    session.learn(learn(session.rates, plan, result))
    if result.way == "compose" and not session.request.locked:
        project = session.project
        home = project.cache.repository or project.image.name
        repository = Reference.parse(home).name if session.to.destination.kind == "registry" else ""
        write_lock(plan.inputs, done.checkpoint, done.layers, repository, session.lock, session.state, session.listener)
    return result


@dataclass(frozen=True, slots=True)
class _Done:
    """A result, with the checkpoint and its layers as they are known now."""

    result: Result
    checkpoint: CheckpointInputs | None = None
    layers: tuple[Layer, ...] = ()


def _done(session: Session, plan: Plan) -> _Done:
    if plan.platforms_to_build:
        for said in check_secrets(session.project, plan.inputs.dockerfile, session.settings.environment):
            session.listener(Note(said, "warning"))
        check_builder(session.to)
    if plan.way == "buildkit":
        return _Done(build_whole(session, plan))
    try:
        made = halves(session, plan)
    except (CannotCompose, RefusedError) as error:
        if not _whole_is_possible(plan, error):
            raise
        why = f"composing was not possible: {error}"
        session.listener(Note(f"{why}; BuildKit builds the whole image", "warning"))
        return _Done(build_whole(session, replace(plan, way="buildkit", why=why, pack=False)))
    return _compose(session, plan, made)


def _whole_is_possible(plan: Plan, error: LayerkitError) -> bool:
    """Whether BuildKit can make the image where its halves are not to be had."""
    checkpoint = plan.inputs.checkpoint
    if checkpoint is not None and (plan.pack if not plan.inputs.inside else checkpoint.elsewhere is not None):
        return False  # its files are not for BuildKit, or not here to be given to it
    return isinstance(error, CannotCompose) or bool(plan.platforms_to_build)


def _compose(session: Session, plan: Plan, made: Halves) -> _Done:
    """The finished image of its halves, under its tags. A refusal of these is no reason to build it otherwise."""
    inputs, present, packed, to = plan.inputs, plan.present, made.packed, session.to
    with session.phase("compose"):
        checkpoint = packed.checkpoint if packed else inputs.checkpoint
        layers = packed.sent.layers if packed else present.checkpoint or ()
        content = packed.content if packed else inputs.checkpoint.digest if inputs.checkpoint else None
        key = packed.key if packed else inputs.checkpoint.key if inputs.checkpoint else None
        finished = assemble(inputs, made.runtimes, layers if inputs.inside else (), content, key)
        unchanged = not plan.platforms_to_build and not plan.pack and not plan.tags_to_move
        published = (
            Published(to.destination.identity(finished), 0)
            if unchanged
            else to.destination.publish(
                finished, session.tags, present, packed.packer if packed else None, session.listener
            )
        )
    result = outcome(session, plan, finished.images, finished.roles, published, made.baked, packed)
    return _Done(result, checkpoint, tuple(layers))


def bake_definition(
    project: Project, *, tags: Sequence[str] = (), settings: Settings | None = None, listener: Listener = silent
) -> dict[str, Any]:
    """The bake definition of the whole image, for ``docker buildx bake -f -``: ``targets.whole_definition``."""
    request = Request(tags, push=True)
    with Session(project, request, settings or Settings.from_environment(), listener) as session:
        return whole_definition(session.to, session.inputs(), session.tags, session.listener)
