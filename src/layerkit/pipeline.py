"""Runs a plan, top to bottom: build the runtime image, meanwhile send the checkpoint, compose, publish.

load ─▶ Project ─ fingerprint ─▶ Inputs ─┐
                                         ├─ plan ─▶ Plan ─▶ build runtime ─┐
destination ─ look ─────────▶ Present ───┘             └▶ send checkpoint ─┴▶ assemble ▶ publish ▶ Result
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .assemble import Assembled, Runtime, assemble
from .bases import Bases
from .checkpoint import Packer
from .checkpoint.hub import Hub
from .destinations import Destination, Output, Published, Sent, Stopped
from .engine import BakeResult, Engine
from .errors import ConfigurationError, LayerkitError, RefusedError
from .events import Listener, Note, Phase, silent
from .fingerprint import Inputs, fingerprint
from .forecast import Rates, estimate, learn
from .oci import Digest, Platform, Reference
from .planner import ROLES, Plan
from .planner import plan as decide
from .project import Project
from .recognise import recognise
from .request import Request, named
from .results import Result, bytes_of, layer_results, roles_rebuilt
from .runtime import bake
from .settings import Settings
from .staging import link_checkpoint, pins, placeholder, stage
from .state import State
from .timeline import Recorder

if TYPE_CHECKING:
    from .registry import Client

__all__ = ["Request", "Session", "bake_definition", "build", "plan"]

_RATES = "rates"  # kind of record
_TIMELINES = 100  # builds of which the timeline is remembered


def plan(
    project: Project,
    *,
    tags: Sequence[str] = (),
    push: bool = False,
    output: str = "",
    platforms: Sequence[str] = (),
    builder: str = "",
    no_cache: bool = False,
    settings: Settings | None = None,
    listener: Listener = silent,
) -> Plan:
    """What ``build`` with the same arguments would do. Nothing is changed anywhere.

    Raises:
        LayerkitError: of the kind that fits, as ``errors`` draws them.
    """
    request = Request(tags, push, output, platforms, builder, no_cache)
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
        settings: surroundings; the process's environment by default.
        listener: called with every event, from several threads.
        planned: called once with the plan, before anything is done; what it raises ends the build.

    Raises:
        LayerkitError: of the kind that fits, as ``errors`` draws them; no tag was moved then.
    """
    request = Request(tags, push, output, platforms, builder, no_cache, pull, strict_cache, way, layer_jobs)
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
        self.state = State(settings.state_folder)
        self.seconds: dict[str, float] = {}
        self._begun = time.monotonic()
        self._stop = threading.Event()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if "destination" in self.__dict__:
            self.destination.close()
        self._cut()
        self.state.close()

    def _cut(self) -> None:
        """End what is under way with any registry."""
        for name in {"client", "_base_client"} & self.__dict__.keys():
            getattr(self, name).close()

    @cached_property
    def client(self) -> Client:
        return self._connect()

    @cached_property
    def _base_client(self) -> Client:
        """For base images: what cannot be had soon is looked up in the local Docker, so it is not asked for long."""
        return self._connect(retries=2)

    def _connect(self, retries: int = 5) -> Client:
        from .destinations.remembered import RememberedWays
        from .registry import Client, Credentials

        return Client(
            credentials=Credentials(self.settings.docker_config, self.settings.environment),
            proxies=self.settings.proxies,
            ca_bundle=self.settings.ca_bundle,
            retries=retries,
            layer_limit=self.project.checkpoint.layer_limit if self.project.checkpoint else None,
            ways=RememberedWays(self.state),
        )

    @cached_property
    def engine(self) -> Engine:
        name = self.request.builder or self.settings.builder or self.project.builder.name
        return Engine(builder=name, environment=self.settings.environment)

    @cached_property
    def platforms(self) -> tuple[str, ...]:
        wanted = tuple(self.request.platforms) or tuple(self.project.image.platforms) or (self.settings.platform,)
        try:
            return tuple(dict.fromkeys(str(Platform.parse(text)) for text in wanted))
        except ValueError as error:
            raise ConfigurationError(f"--platform: {error}") from None

    @cached_property
    def destination(self) -> Destination:
        name = Reference.parse(self.project.image.name)
        if self.request.push:
            from .destinations.registry import LAYER_JOBS, RegistryDestination

            repository = self.client.repository(name)
            cache = self.project.cache.repository
            other = self.client.repository(Reference.parse(cache)) if cache else repository
            jobs = self.request.layer_jobs or LAYER_JOBS
            return RegistryDestination(repository, other, self.state, layer_jobs=jobs)
        if self.request.output:
            from .destinations.layout import LayoutDestination

            kind, _, folder = self.request.output.partition(":")
            if kind != "oci" or not folder:
                raise ConfigurationError(f"--output: {self.request.output!r} is not known", hint="--output oci:DIR")
            return LayoutDestination(Path(folder), self.state)
        from .destinations.docker import DockerDestination

        if len(self.platforms) > 1:
            raise ConfigurationError(
                f"the local Docker takes one platform, not {len(self.platforms)}", hint="add --push or --output oci:DIR"
            )
        return DockerDestination(self.engine, name, self.state)

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
            platforms=self.platforms,
            resolve=Bases(
                lambda: self._base_client, lambda: self.engine, self.state, self.platforms, self.listener
            ).resolve,
            source_date_epoch=self.settings.source_date_epoch,
            hub=Hub(self.settings.environment, lambda text: self.listener(Note(text))),
        )

    def plan(self) -> Plan:
        """Look at both sides, and decide."""
        with self._phase("plan"):
            _ = self.destination  # a wrong one is said before anything is asked or read
            inputs = self.inputs()
            keys = {platform: inputs.runtime_key(platform) for platform in inputs.platforms}
            key = inputs.checkpoint.key if inputs.checkpoint else None
            present = self.destination.look(keys, key, self.tags)
            if self.request.way == "compose":
                inputs, present = recognise(inputs, present, self.state, self.destination.checkpoint, self.listener)
            decided = decide(
                inputs,
                replace(present, mounts_base=self._mounts_base),
                destination=self.destination.describe(),
                tags=self.tags,
                way=self.request.way,
                why="asked for" if self.request.way == "buildkit" else "",
                no_cache=self.request.no_cache,
            )
            return replace(decided, estimate=estimate(decided, self.rates))

    @property
    def _where(self) -> str:
        return self.destination.describe()

    @cached_property
    def rates(self) -> Rates:
        """What earlier builds of this image to this destination took."""
        return Rates.from_json(self.state.get(_RATES, self._where))

    # ----------------------------------------------------------------------------------------------------- building

    def build(self, plan: Plan) -> Result:
        """Do what *plan* says.

        Raises:
            LayerkitError: as the step that failed has it; no tag was moved.
        """
        result = self._remembered(replace(self._build(plan), plan=plan))
        self.state.put(_RATES, self._where, learn(self.rates, plan, result).to_json())
        return result

    def _build(self, plan: Plan) -> Result:
        if plan.way == "buildkit":
            return self._build_whole(plan)
        try:
            return self._build_composed(plan)
        except (_CannotCompose, RefusedError) as error:
            if not plan.platforms_to_build and not isinstance(error, _CannotCompose):
                raise
            why = f"composing was not possible: {error}"
            self.listener(Note(f"{why}; BuildKit builds the whole image", "warning"))
            return self._build_whole(replace(plan, way="buildkit", why=why))

    def _build_composed(self, plan: Plan) -> Result:
        inputs, present = plan.inputs, plan.present
        task = _Task(lambda: self._send(plan)) if plan.pack else None
        if task is not None:
            task.start()
        try:
            runtimes, baked = self._build_runtime(plan)
            packed = task.result() if task is not None else None
        except Exception:
            raise
        except BaseException:
            # Ctrl-C: nobody waits for a registry that says nothing.
            self._stop.set()
            self._cut()
            raise
        finally:
            self._stop.set()
            if task is not None:
                task.join()
        with self._phase("compose"):
            layers = packed.sent.layers if packed else present.checkpoint or ()
            content = packed.content if packed else inputs.checkpoint.digest if inputs.checkpoint else None
            key = packed.key if packed else inputs.checkpoint.key if inputs.checkpoint else None
            inside = inputs.project.checkpoint is not None and inputs.project.checkpoint.placement == "layer"
            if inside and any(runtime.placeholder is None for runtime in runtimes.values()):
                raise _CannotCompose("what BuildKit built has no placeholder layer (is the COPY line's stage built?)")
            finished = assemble(inputs, runtimes, layers if inside else (), content, key)
            unchanged = not plan.platforms_to_build and not plan.pack and not plan.tags_to_move
            published = (
                Published(self.destination.identity(finished), 0)
                if unchanged
                else self.destination.publish(
                    finished, self.tags, present, packed.packer if packed else None, self.listener
                )
            )
        return self._result(plan, finished, published, baked, packed)

    def _build_runtime(self, plan: Plan) -> tuple[dict[str, Runtime], BakeResult | None]:
        runtimes = {p: plan.present.runtimes[p] for p in plan.inputs.platforms if p not in plan.platforms_to_build}
        if not plan.platforms_to_build:
            return runtimes, None
        with self._phase("build"), tempfile.TemporaryDirectory(prefix="layerkit-") as folder:
            marker = placeholder(Path(folder, "placeholder"))
            context = stage(plan.inputs, Path(folder, "context"))
            targets = []
            for number, platform in enumerate(plan.platforms_to_build):
                output = self.destination.output(plan.inputs.runtime_key(platform))
                targets.append(self._target(plan.inputs, f"runtime-{number}", platform, context, str(marker), output))
            result = self._bake(targets)
            for number, platform in enumerate(plan.platforms_to_build):
                key = plan.inputs.runtime_key(platform)
                runtimes[platform] = self.destination.built(platform, key, result, f"runtime-{number}")
        return runtimes, result

    def _bake(self, targets: Sequence[bake.Target]) -> BakeResult:
        root = self.project.root.absolute()
        return self.engine.bake(bake.definition(targets, root), listener=self.listener, cwd=root)

    def _target(
        self, inputs: Inputs, name: str, platform: str, context: Path, checkpoint: str, output: Output
    ) -> bake.Target:
        project = inputs.project
        contexts = {bake.CHECKPOINT_CONTEXT: checkpoint} if checkpoint else {}
        if inputs.wheels:
            contexts[bake.WHEELS_CONTEXT] = str((project.root / project.dependencies.wheels).absolute())
        contexts |= pins(inputs)
        args = dict(project.builder.args)
        if inputs.source_date_epoch is not None:
            args["SOURCE_DATE_EPOCH"] = str(inputs.source_date_epoch)
        cache_to, cache_from = self._caches()
        return bake.Target(
            name,
            context,
            str(context.parent / "Dockerfile"),
            platform,
            stage=project.image.target,
            contexts=contexts,
            secrets={**project.builder.secrets, **project.dependencies.secrets},
            args=args,
            ssh=project.builder.ssh,
            network=project.builder.network,
            tags=output.names,
            outputs=output.outputs,
            cache_to=cache_to,
            cache_from=cache_from,
            attest=project.builder.attest if self.destination.kind == "registry" else (),
            no_cache=self.request.no_cache,
            pull=self.request.pull,
        )

    def _caches(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """buildx cache-to and cache-from entries. By default the cache lives beside the image, once it is pushed."""
        cache = self.project.cache
        default = f"{self.destination.name}:buildcache" if not cache.repository else f"{cache.repository}:buildcache"
        pushed = self.destination.kind == "registry"
        to, from_ = cache.to, cache.from_
        if to is None:
            ignore = "" if self.request.strict_cache else ",ignore-error=true"
            entry = f"type=registry,ref={default},mode=max,image-manifest=true,oci-mediatypes=true{ignore}"
            to = (entry,) if pushed and self._can_cache() else ()
        if from_ is None:
            from_ = (f"type=registry,ref={default}",) if pushed else ()
        return tuple(to), tuple(from_)

    def _can_cache(self) -> bool:
        if self.engine.abilities.registry_cache:
            return True
        self.listener(
            Note(
                "this builder cannot export its cache to a registry; switch Docker to the containerd image store,"
                " or create a builder: docker buildx create --use",
                "warning",
            )
        )
        return False

    def _send(self, plan: Plan) -> _Packed:
        checkpoint = plan.inputs.checkpoint
        assert checkpoint is not None
        with self._phase("checkpoint"):
            checkpoint = checkpoint.fetched()
            count = _Count()
            known = checkpoint.made.hashed() if checkpoint.made is not None else {}
            # Docker unpacks what it is given at once: nothing is gained there.
            compression = "none" if self.destination.kind == "docker" else checkpoint.recipe.compression
            blueprints = [replace(blueprint, compression=compression) for blueprint in checkpoint.blueprints]
            packer = Packer(blueprints, count.add, known).start()
            try:
                sent = self.destination.send(packer, self.listener, self._stop.is_set)
                checkpoint = checkpoint.packed(packer.hashed(), self.state, count.add)
            finally:
                packer.stop()
            key, content = checkpoint.key, checkpoint.digest
            assert key is not None and content is not None
            kept = self.destination.keep_checkpoint(
                sent.layers, key, content, checkpoint.ownership, packer, checkpoint.weights
            )
            return _Packed(packer, replace(sent, uploaded=sent.uploaded + kept), key, content, count.value)

    def _build_whole(self, plan: Plan) -> Result:
        """BuildKit builds the same Dockerfile with the real checkpoint, and delivers the image itself."""
        inputs = plan.inputs
        with self._phase("build"), tempfile.TemporaryDirectory(prefix="layerkit-") as folder:
            weights = Path(folder, "checkpoint")
            placed = inputs.project.checkpoint is not None and inputs.project.checkpoint.placement == "layer"
            if placed and inputs.checkpoint is not None:
                inputs = replace(inputs, checkpoint=inputs.checkpoint.fetched())
            read = link_checkpoint(inputs, weights) if placed and inputs.checkpoint is not None else 0
            context = stage(inputs, Path(folder, "context"))
            platform = ",".join(inputs.platforms)
            target = self._target(
                inputs, "image", platform, context, str(weights) if placed else "", self.destination.finished(self.tags)
            )
            result = self._bake([target])
            self.destination.delivered(self.tags)
        metadata = result.metadata.get("image", {})
        digest = Digest.parse(str(metadata.get("containerimage.digest", "")))
        return Result(
            f"{self.destination.name}@{digest}",
            digest,
            self.tags,
            "buildkit",
            (),
            tuple(role for role in ROLES if role in {layer.role for layer in plan.layers if layer.action != "reused"}),
            True,
            result.bytes_sent,
            read,
            0,
            0,
            0,
            self._seconds(),
            plan.why,
        )

    @cached_property
    def _mounts_base(self) -> bool:
        """The base is in the same registry, or in the local Docker already: its layers are not sent."""
        if self.destination.kind == "docker":
            return True
        references = (Reference.parse(text) for text in (self.project.image.base, self.project.image.name))
        return self.destination.kind == "registry" and len({reference.host for reference in references}) == 1

    def _remembered(self, result: Result) -> Result:
        """*result* with its timeline, kept under the image's digest: ``layerkit inspect`` shows how it was built.

        A build that found everything done does not take the place of the one that did it.
        """
        result = replace(result, timeline=self._recorder.spans())
        digest = str(result.digest)
        if result.rebuilt or self.state.get("build-timeline", digest) is None:
            facts = {name: value for name, value in result.to_json().items() if name != "layers"}
            self.state.put("build-timeline", digest, {**facts, "ended": time.time()})
            kept = self.state.all("build-timeline")
            for old in sorted(kept, key=lambda name: kept[name].get("ended", 0) if kept[name] else 0)[:-_TIMELINES]:
                self.state.drop("build-timeline", old)
        return result

    def _seconds(self) -> dict[str, float]:
        phases = {name: self.seconds.get(name, 0.0) for name in ("plan", "build", "checkpoint", "compose")}
        return phases | {"total": time.monotonic() - self._begun}

    def _result(
        self, plan: Plan, finished: Assembled, published: Published, baked: BakeResult | None, packed: _Packed | None
    ) -> Result:
        sent = packed.sent if packed else None
        layers = layer_results(
            finished, plan.present.blobs, sent, built=baked is not None, mounts_base=self._mounts_base
        )
        uploaded = published.uploaded + (sent.uploaded if sent else 0)
        if self.destination.kind == "registry":
            uploaded += bytes_of(layers, "built")
        return Result(
            f"{self.destination.name}@{published.digest}",
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
        )


class _CannotCompose(LayerkitError):
    """What BuildKit built cannot be composed with."""


@dataclass(frozen=True, slots=True)
class _Packed:
    packer: Packer
    sent: Sent
    key: str
    content: Digest
    read: int


class _Count:
    """Bytes, added up by one thread and read by another."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, count: int) -> None:
        self.value += count


class _Task:
    """One piece of work in a thread that does not keep the process alive."""

    def __init__(self, work: Callable[[], _Packed]) -> None:
        self._work = work
        self._value: _Packed | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layerkit-checkpoint", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            self._error = error

    def result(self) -> _Packed:
        # In short waits: a join without limit does not let Ctrl-C through on every platform.
        while self._thread.is_alive():
            self._thread.join(0.1)
        if self._error is not None:
            raise self._error
        assert self._value is not None
        return self._value

    def join(self) -> None:
        self._thread.join(1.0)
        if self._error is not None and not isinstance(self._error, Stopped | LayerkitError):
            raise self._error


def bake_definition(project: Project, *, tags: Sequence[str] = (), settings: Settings | None = None) -> dict[str, Any]:
    """The bake definition of the whole image, for ``docker buildx bake -f -``: what BuildKit gets where composing
    is not possible. Paths are absolute; the checkpoint's named context is the folder that it is in."""
    request = Request(tags, push=True)
    with Session(project, request, settings or Settings.from_environment()) as session:
        inputs = session.inputs()
        context = ""
        if inputs.checkpoint is not None and inputs.checkpoint.recipe.format != "keep":
            raise ConfigurationError(
                "checkpoint.format = 'safetensors': bake gives BuildKit the files as they are",
                hint="layerkit checkpoint convert writes the file; name that one, with format = 'keep'",
            )
        if inputs.checkpoint is not None and inputs.checkpoint.hub is not None:
            raise ConfigurationError(
                f"checkpoint.path: {inputs.checkpoint.hub.name}: bake gives BuildKit files of this machine",
                hint="hf download writes them into a folder (--local-dir); name that one",
            )
        if inputs.checkpoint is not None:
            start = Path(project.root, project.checkpoint.path if project.checkpoint else "").absolute()
            context = str(start if start.is_dir() else start.parent)
        root = project.root.absolute()
        names = tuple(f"{session.project.image.name}:{tag}" for tag in session.tags)
        targets = [
            replace(
                session._target(inputs, "image", ",".join(session.platforms), root, context, Output(names, ())),
                dockerfile=inputs.dockerfile,
                inline=True,
                cache_to=tuple(project.cache.to or ()),
                cache_from=tuple(project.cache.from_ or ()),
            )
        ]
        return bake.definition(targets, root)
