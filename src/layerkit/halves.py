"""The two halves of an image, made at the same time: the runtime image by BuildKit, the checkpoint's layers by us."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .assemble import Runtime
from .errors import BuildError, Stopped
from .packing import Packed, Task, pack
from .planner import Plan
from .session import Session
from .staging import placeholder, stage, workplace
from .targets import target

if TYPE_CHECKING:
    from .engine import BakeResult

__all__ = ["CannotCompose", "Halves", "halves", "sending"]


class CannotCompose(BuildError):
    """What BuildKit built cannot be composed with."""


@dataclass(frozen=True, slots=True)
class Halves:
    """The runtime image of each platform and what BuildKit said, where it ran; the checkpoint, where it was sent."""

    runtimes: Mapping[str, Runtime]
    baked: BakeResult | None
    packed: Packed | None


def halves(session: Session, plan: Plan) -> Halves:
    """The runtime images, and the checkpoint's layers at the destination, as far as they are not there yet.

    Raises:
        CannotCompose: the weights have no place in what was built, or something was done with it there.
        RefusedError: the destination takes one of them not.
        LayerkitError: as the step that failed has it.
    """
    with sending(session, plan) as (sent, failed):
        runtimes, baked = _build_runtime(session, plan, failed)
        packed = sent() or _give_again(session, plan)
    for runtime in runtimes.values() if plan.inputs.inside else ():
        if runtime.placeholder is None:
            raise CannotCompose("what BuildKit built has no placeholder layer (is the COPY line's stage built?)")
        if runtime.disturbed:
            raise CannotCompose(runtime.disturbed)
    return Halves(runtimes, baked, packed)


@contextlib.contextmanager
def sending(session: Session, plan: Plan) -> Iterator[tuple[Callable[[], Packed | None], Callable[[], bool]]]:
    """The checkpoint on its way beside the block, where there is one to send: what it became, once that is called,
    and whether it has failed, in which case the block may raise Stopped and need not come to its end.

    However the block is left, it is told to stop, between two chunks, and waited for, a second at most. What hangs in
    a request then ends with that, or with the run's connections.
    """
    if not plan.pack:
        yield (lambda: None), (lambda: False)
        return
    stop = threading.Event()
    task = Task(lambda: _send(session, plan, stop.is_set))
    task.start()
    try:
        yield task.result, lambda: task.failed
    except Stopped:
        task.result()  # raises why
        raise
    except Exception:
        raise
    except BaseException:
        # Ctrl-C: nobody waits for a registry that says nothing.
        stop.set()
        session.to.cut()
        raise
    finally:
        stop.set()
        task.join()


def _send(session: Session, plan: Plan, stopped: Callable[[], bool] = lambda: False) -> Packed:
    assert plan.inputs.checkpoint is not None
    with session.phase("checkpoint"):
        there, destination = plan.present.blobs, session.to.destination
        return pack(plan.inputs.checkpoint, there, destination, session.state, session.listener, stopped)


def _give_again(session: Session, plan: Plan) -> Packed | None:
    """The checkpoint's layers, where they are not there on what BuildKit has just built under them."""
    found, present = plan.inputs.checkpoint, plan.present
    if not (plan.inputs.inside and present.stacked and plan.platforms_to_build and found and found.key):
        return None
    if session.to.destination.checkpoint(found.key) is not None:
        return None
    nothing = replace(present, checkpoint=None, blobs=frozenset())
    return _send(session, replace(plan, inputs=session.locate(plan.inputs, nothing), present=nothing))


def _build_runtime(
    session: Session, plan: Plan, stopped: Callable[[], bool]
) -> tuple[dict[str, Runtime], BakeResult | None]:
    runtimes = {p: plan.present.runtimes[p] for p in plan.inputs.platforms if p not in plan.platforms_to_build}
    if not plan.platforms_to_build:
        return runtimes, None
    to = session.to
    with session.phase("build"), workplace(session.state) as (folder, links):
        marker = str(placeholder(folder / "placeholder"))
        context = stage(plan.inputs, folder / "context", links)
        names = {platform: f"runtime-{number}" for number, platform in enumerate(plan.platforms_to_build)}
        targets = []
        for platform, name in names.items():
            output = to.destination.output(plan.inputs.runtime_key(platform))
            targets.append(target(to, plan.inputs, name, platform, context, marker, output, session.listener))
        try:
            result = session.bake(targets, stopped)
        except BuildError as error:
            raise _explained(error, plan) from None
        for platform, name in names.items():
            runtimes[platform] = to.destination.built(platform, plan.inputs.runtime_key(platform), result, name)
    return runtimes, result


def _explained(error: BuildError, plan: Plan) -> BuildError:
    """*error* with the reason why a step of the user's own Dockerfile may have missed the weights."""
    checkpoint = plan.inputs.checkpoint
    where = checkpoint.ownership.target.rstrip("/") if checkpoint is not None else ""
    said = " ".join([error.message, *error.log])
    if where and not error.hint and plan.inputs.project.image.dockerfile and where in said:
        error.hint = (
            f"a step finds no weights in {where}: they are put there after BuildKit has run. If it needs them:"
            " layerkit build --way buildkit"
        )
    return error
