"""Runs a plan, top to bottom: build the runtime image, meanwhile send the checkpoint, compose, publish.

load ─▶ Project ─ fingerprint ─▶ Inputs ─┐
                                         ├─ plan ─▶ Plan ─▶ build runtime ─┐
destination ─ look ─────────▶ Present ───┘             └▶ send checkpoint ─┴▶ assemble ▶ publish ▶ Result
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from .assemble import Runtime, assemble, roles_of_whole
from .bases import Bases
from .borrow import image_at, locate
from .checkpoint import Ownership
from .checkpoint.elsewhere import Elsewhere
from .checkpoint_inputs import CheckpointInputs, Sources
from .connections import Connections
from .destinations import Published
from .errors import BuildError, ConflictError, LayerkitError, RefusedError
from .events import Listener, Note, Phase, silent
from .fingerprint import Inputs, fingerprint
from .forecast import Rates, estimate, learn
from .lock import Lock, read
from .locking import held, write_lock
from .oci import Digest, Image, Layer, Reference
from .packing import Count, Packed, Task, pack
from .planner import ROLES, Plan
from .planner import plan as decide
from .project import Project
from .ready import check_builder, check_secrets
from .recognise import recognise
from .request import Request, named
from .results import Result, bytes_of, layer_results, roles_rebuilt
from .runtime import bake
from .settings import Settings
from .staging import link_checkpoint, placeholder, stage, workplace
from .targets import target, whole_definition
from .timeline import Recorder, remember

if TYPE_CHECKING:
    from .checkpoint.hub import Hub
    from .engine import BakeResult

__all__ = ["Request", "Session", "bake_definition", "build", "plan"]

_RATES = "rates"  # kind of record


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
        return session.build(found)


class Session:
    """One run: its connections, its state, its clock. Use it as a context manager."""

    def __init__(self, project: Project, request: Request, settings: Settings, listener: Listener = silent) -> None:
        self.request = request
        self.settings = settings
        self._recorder = Recorder(listener)
        self.listener: Listener = self._recorder
        self.project, self.tags = named(project, request.tags)
        self.to = Connections(self.project, request, settings)
        self.state = self.to.state
        self.seconds: dict[str, float] = {}
        self._begun = time.monotonic()
        self._stop = threading.Event()
        self._fetched = Count()
        self._settled: tuple[CheckpointInputs | None, tuple[Layer, ...]] | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self.to.close()

    # ----------------------------------------------------------------------------------------------------- planning

    @contextlib.contextmanager
    def _phase(self, name: Literal["plan", "build", "checkpoint", "compose"]) -> Iterator[None]:
        begun = time.monotonic()
        self.listener(Phase(name, "started"))
        try:
            yield
        except BaseException:
            self.listener(Phase(name, "failed", time.monotonic() - begun))
            raise
        self.seconds[name] = time.monotonic() - begun
        self.listener(Phase(name, "finished", self.seconds[name]))

    def inputs(self) -> Inputs:
        """Everything that goes in, by digest."""
        return fingerprint(
            self.project,
            self.state,
            platforms=self.to.platforms,
            resolve=Bases(
                lambda: self.to.base_client,
                lambda: self.to.engine,
                self.state,
                self.to.platforms,
                self.listener,
                {base.name: base.digest for base in self.lock.bases} if self.lock and self.request.locked else {},
            ).resolve,
            source_date_epoch=self.settings.source_date_epoch,
            sources=Sources(
                self._hub,
                self.lock.checkpoint if self.lock else None,
                self._take,
            ),
            apart=self.to.written,
        )

    def _hub(self) -> Hub:
        from .checkpoint.hub import Hub

        return Hub(self.settings.environment, lambda text: self.listener(Note(text)))

    @cached_property
    def lock(self) -> Lock | None:
        """What the project was last built with; None where that was not written down."""
        return read(self.project.lock) if self.project.lock is not None else None

    def _take(self, path: str, ownership: Ownership) -> Elsewhere:
        """The weights of the image that ``checkpoint.path`` names."""
        known = self.lock.checkpoint if self.lock is not None else None
        held = known.source if known is not None and known.path == path and self.request.locked else ""
        return image_at(self.to.client, path, ownership, held)

    def plan(self) -> Plan:
        """Look at both sides, and decide."""
        with self._phase("plan"):
            _ = self.to.destination  # a wrong one is said before anything is asked or read
            inputs = self.inputs()
            if self.request.locked:
                inputs = held(inputs, self.lock, self.state)
            keys = {platform: inputs.runtime_key(platform) for platform in inputs.platforms}
            key = inputs.checkpoint.key if inputs.checkpoint else None
            present = self.to.destination.look(keys, key, self.tags)
            if self.request.way == "compose":
                inputs, present = recognise(inputs, present, self.state, self.to.destination.checkpoint, self.listener)
            inputs = locate(inputs, present, self.to, self._fetched.add, self.listener)
            decided = decide(
                inputs,
                replace(present, mounts_base=self.to.mounts_base, host=self.to.host),
                destination=self.to.destination.describe(),
                tags=self.tags,
                way=self.request.way,
                why="asked for" if self.request.way == "buildkit" else "",
                no_cache=self.request.no_cache,
            )
            if decided.way != self.request.way:
                self.listener(Note(f"{decided.why}; BuildKit builds the whole image", "warning"))
            return replace(decided, estimate=estimate(decided, self.rates))

    @cached_property
    def rates(self) -> Rates:
        """What earlier builds of this image to this destination took."""
        return Rates.from_json(self.state.get(_RATES, self.to.where))

    # ----------------------------------------------------------------------------------------------------- building

    def build(self, plan: Plan) -> Result:
        """Do what *plan* says.

        Raises:
            LayerkitError: as the step that failed has it; no tag was moved, or the message says which of several.
        """
        result = replace(self._build(plan), plan=plan, timeline=self._recorder.spans())
        remember(self.state, str(result.digest), result.to_json())
        self.state.put(_RATES, self.to.where, learn(self.rates, plan, result).to_json())
        if self._settled is not None and not self.request.locked:
            checkpoint, layers = self._settled
            home = self.project.cache.repository or self.project.image.name
            repository = Reference.parse(home).name if self.to.destination.kind == "registry" else ""
            write_lock(plan.inputs, checkpoint, layers, repository, self.lock, self.state, self.listener)
        return result

    def _build(self, plan: Plan) -> Result:
        if plan.platforms_to_build:
            check_secrets(self.project, self.settings.environment)
            check_builder(self.to)
        if plan.way == "buildkit":
            return self._build_whole(plan)
        try:
            halves = self._halves(plan)
        except (_CannotCompose, RefusedError) as error:
            if not self._whole_is_possible(plan, error):
                raise
            why = f"composing was not possible: {error}"
            self.listener(Note(f"{why}; BuildKit builds the whole image", "warning"))
            return self._build_whole(replace(plan, way="buildkit", why=why, pack=False))
        return self._compose(plan, *halves)

    def _whole_is_possible(self, plan: Plan, error: LayerkitError) -> bool:
        """Whether BuildKit can make the image where its halves are not to be had."""
        checkpoint = plan.inputs.checkpoint
        if checkpoint is not None and (plan.pack if not _inside(plan) else checkpoint.elsewhere is not None):
            return False  # its files are not for BuildKit, or not here to be given to it
        return isinstance(error, _CannotCompose) or bool(plan.platforms_to_build)

    def _halves(self, plan: Plan) -> tuple[dict[str, Runtime], BakeResult | None, Packed | None]:
        """The runtime images, and the checkpoint's layers at the destination, as far as they are not there yet.

        Raises:
            RefusedError: the destination takes one of them not.
        """
        with self._sending(plan) as sent:
            runtimes, baked = self._build_runtime(plan)
            packed = sent() or self._give_again(plan)
        for runtime in runtimes.values() if _inside(plan) else ():
            if runtime.placeholder is None:
                raise _CannotCompose("what BuildKit built has no placeholder layer (is the COPY line's stage built?)")
            if runtime.disturbed:
                raise _CannotCompose(runtime.disturbed)
        return runtimes, baked, packed

    @contextlib.contextmanager
    def _sending(self, plan: Plan) -> Iterator[Callable[[], Packed | None]]:
        """The checkpoint on its way beside the block, where there is one to send; what it became, once that is called.

        However the block is left, nothing is on its way any more.
        """
        task = Task(lambda: self._send(plan)) if plan.pack else None
        if task is not None:
            task.start()
        try:
            yield task.result if task is not None else lambda: None
        except Exception:
            raise
        except BaseException:
            # Ctrl-C: nobody waits for a registry that says nothing.
            self._stop.set()
            self.to.cut()
            raise
        finally:
            self._stop.set()
            if task is not None:
                task.join()

    def _compose(
        self, plan: Plan, runtimes: Mapping[str, Runtime], baked: BakeResult | None, packed: Packed | None
    ) -> Result:
        """The finished image of its halves, under its tags. A refusal of these is no reason to build it otherwise."""
        inputs, present = plan.inputs, plan.present
        with self._phase("compose"):
            layers = packed.sent.layers if packed else present.checkpoint or ()
            content = packed.content if packed else inputs.checkpoint.digest if inputs.checkpoint else None
            key = packed.key if packed else inputs.checkpoint.key if inputs.checkpoint else None
            finished = assemble(inputs, runtimes, layers if _inside(plan) else (), content, key)
            self._settled = (packed.checkpoint if packed else inputs.checkpoint, tuple(layers))
            unchanged = not plan.platforms_to_build and not plan.pack and not plan.tags_to_move
            published = (
                Published(self.to.destination.identity(finished), 0)
                if unchanged
                else self.to.destination.publish(
                    finished, self.tags, present, packed.packer if packed else None, self.listener
                )
            )
        return self._result(plan, finished.images, finished.roles, published, baked, packed)

    def _build_runtime(self, plan: Plan) -> tuple[dict[str, Runtime], BakeResult | None]:
        runtimes = {p: plan.present.runtimes[p] for p in plan.inputs.platforms if p not in plan.platforms_to_build}
        if not plan.platforms_to_build:
            return runtimes, None
        with self._phase("build"), workplace(self.state) as (folder, links):
            marker = placeholder(folder / "placeholder")
            context = stage(plan.inputs, folder / "context", links)
            targets = []
            for number, platform in enumerate(plan.platforms_to_build):
                output = self.to.destination.output(plan.inputs.runtime_key(platform))
                targets.append(
                    target(
                        self.to, plan.inputs, f"runtime-{number}", platform, context, str(marker), output, self.listener
                    )
                )
            try:
                result = self._bake(targets)
            except BuildError as error:
                raise self._explained(error, plan) from None
            for number, platform in enumerate(plan.platforms_to_build):
                key = plan.inputs.runtime_key(platform)
                runtimes[platform] = self.to.destination.built(platform, key, result, f"runtime-{number}")
        return runtimes, result

    def _explained(self, error: BuildError, plan: Plan) -> BuildError:
        """*error* with the reason why a step of the user's own Dockerfile may have missed the weights."""
        checkpoint = plan.inputs.checkpoint
        where = checkpoint.ownership.target.rstrip("/") if checkpoint is not None else ""
        said = " ".join([error.message, *error.log])
        if where and not error.hint and self.project.image.dockerfile and where in said:
            error.hint = (
                f"a step finds no weights in {where}: they are put there after BuildKit has run. If it needs them:"
                " layerkit build --way buildkit"
            )
        return error

    def _bake(self, targets: Sequence[bake.Target]) -> BakeResult:
        root = self.project.root.absolute()
        return self.to.engine.bake(bake.definition(targets, root), listener=self.listener, cwd=root)

    def _send(self, plan: Plan) -> Packed:
        assert plan.inputs.checkpoint is not None
        with self._phase("checkpoint"):
            there = plan.present.blobs
            return pack(
                plan.inputs.checkpoint, there, self.to.destination, self.state, self.listener, self._stop.is_set
            )

    def _give_again(self, plan: Plan) -> Packed | None:
        """The checkpoint's layers, where they are not there on what BuildKit has just built under them."""
        found, present = plan.inputs.checkpoint, plan.present
        if not (_inside(plan) and present.stacked and plan.platforms_to_build and found and found.key):
            return None
        if self.to.destination.checkpoint(found.key) is not None:
            return None
        nothing = replace(present, checkpoint=None, blobs=frozenset())
        inputs = locate(plan.inputs, nothing, self.to, self._fetched.add, self.listener)
        return self._send(replace(plan, inputs=inputs, present=nothing))

    def _build_whole(self, plan: Plan) -> Result:
        """BuildKit builds the same Dockerfile with the real checkpoint, and delivers the image itself."""
        with self._sending(plan) as sent:
            baked, images, read = self._bake_whole(plan)
            packed = sent()
        metadata = baked.metadata.get("image", {})
        digest = Digest.parse(str(metadata.get("containerimage.digest", "")))
        roles = {platform: roles_of_whole(image, plan.inputs) for platform, image in images.items()}
        result = self._result(plan, images, roles, Published(digest, 0), baked, packed)
        planned = {layer.role for layer in plan.layers if layer.action != "reused"}
        rebuilt = result.rebuilt if images else tuple(role for role in ROLES if role in planned)
        return replace(result, way="buildkit", rebuilt=rebuilt, checkpoint_read=result.checkpoint_read + read)

    def _bake_whole(self, plan: Plan) -> tuple[BakeResult, Mapping[str, Image], int]:
        """What BuildKit says, the image as the destination tells it, and bytes of the checkpoint that it was given."""
        inputs = plan.inputs
        with self._phase("build"), workplace(self.state) as (folder, links):
            weights = folder / "checkpoint"
            placed = _inside(plan)
            if placed and inputs.checkpoint is not None:
                if inputs.checkpoint.elsewhere is not None:
                    raise inputs.checkpoint.elsewhere.needs_files(plan.why)
                inputs = replace(inputs, checkpoint=inputs.checkpoint.fetched())
            read = link_checkpoint(inputs, weights, links) if placed and inputs.checkpoint is not None else 0
            context = stage(inputs, folder / "context", links)
            platform = ",".join(inputs.platforms)
            output = self.to.destination.finished(self.tags)
            folder_of_it = str(weights) if placed else ""
            whole = target(self.to, inputs, "image", platform, context, folder_of_it, output, self.listener)
            self._unmoved(plan)
            result = self._bake([whole])
            return result, self.to.destination.delivered(self.tags), read

    def _unmoved(self, plan: Plan) -> None:
        """Nobody has moved a tag since the plan was made (FAULTS 26): BuildKit, which will, does not look.

        Raises:
            ConflictError: somebody has.
        """
        now = self.to.destination.look({}, None, self.tags).tags
        for tag, before in plan.present.tags.items():
            found = now.get(tag)
            if found is not None and found != before:
                raise ConflictError(
                    f"{self.to.where}: tag {tag!r} moved from {before.short if before else 'nothing'} to"
                    f" {found.short} while this build ran; it was left there",
                    hint="build again if yours is the newer one",
                )

    def _seconds(self) -> dict[str, float]:
        phases = {name: self.seconds.get(name, 0.0) for name in ("plan", "build", "checkpoint", "compose")}
        return phases | {"total": time.monotonic() - self._begun}

    def _result(
        self,
        plan: Plan,
        images: Mapping[str, Image],
        roles: Mapping[str, Sequence[str]],
        published: Published,
        baked: BakeResult | None,
        packed: Packed | None,
    ) -> Result:
        sent = packed.sent if packed else None
        built, mounts_base = baked is not None, self.to.mounts_base
        layers = layer_results(images, roles, plan.present.blobs, sent, built=built, mounts_base=mounts_base)
        uploaded = published.uploaded + (sent.uploaded if sent else 0)
        if self.to.destination.kind == "registry":
            uploaded += bytes_of(layers, "built")
        return Result(
            f"{self.to.destination.name}@{published.digest}",
            published.digest,
            self.tags,
            "compose",
            layers,
            roles_rebuilt(layers),
            baked is not None,
            baked.bytes_sent if baked else 0,
            (packed.read if packed else 0) + plan.bytes_read,
            uploaded,
            bytes_of(layers, "reused"),
            sent.dropped if sent else 0,
            self._seconds(),
            plan.why,
            fetched=self._fetched.value,
        )


class _CannotCompose(BuildError):
    """What BuildKit built cannot be composed with."""


def _inside(plan: Plan) -> bool:
    """The checkpoint is a layer of the image."""
    wanted = plan.inputs.project.checkpoint
    return wanted is not None and wanted.placement == "layer"


def bake_definition(project: Project, *, tags: Sequence[str] = (), settings: Settings | None = None) -> dict[str, Any]:
    """The bake definition of the whole image, for ``docker buildx bake -f -``: ``targets.whole_definition``."""
    request = Request(tags, push=True)
    with Session(project, request, settings or Settings.from_environment()) as session:
        return whole_definition(session.to, session.inputs(), session.tags, session.listener)
