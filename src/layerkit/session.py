"""One run: what it is connected to, its clock, what it looks at, and the plan that it makes of that."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from .bases import Bases
from .borrow import image_at, locate
from .checkpoint import Ownership
from .checkpoint.elsewhere import Elsewhere
from .checkpoint_inputs import Sources
from .connections import Connections
from .events import Listener, Note, Phase, silent
from .fingerprint import Inputs, fingerprint
from .forecast import Rates, estimate
from .lock import Lock, read
from .locking import held
from .packing import Count
from .planner import Plan, Present
from .planner import plan as decide
from .project import Project
from .ready import there
from .recognise import recognise
from .request import Request, named
from .runtime import bake
from .settings import Settings
from .timeline import Recorder

if TYPE_CHECKING:
    from .checkpoint.hub import Hub
    from .engine import BakeResult

__all__ = ["Session"]

_RATES = "rates"  # kind of record


class Session:
    """One run, from its first look to its last push. Use it as a context manager.

    Attributes:
        to: what it is connected to.
        listener: hears all that happens, and so does ``recorder``.
        fetched: bytes of the checkpoint's layers that were streamed from a registry.
    """

    def __init__(self, project: Project, request: Request, settings: Settings, listener: Listener = silent) -> None:
        self.request = request
        self.settings = settings
        self.recorder = Recorder(listener)
        self.listener: Listener = self.recorder
        self.project, self.tags = named(project, request.tags)
        self.to = Connections(self.project, request, settings, self.listener)
        self.state = self.to.state
        self.fetched = Count()
        self._phases: dict[str, float] = {}
        self._begun = time.monotonic()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.to.close()

    @contextlib.contextmanager
    def phase(self, name: Literal["plan", "build", "checkpoint", "compose"]) -> Iterator[None]:
        """The block is that part of the run: it is timed, and told."""
        begun = time.monotonic()
        self.listener(Phase(name, "started"))
        try:
            yield
        except BaseException:
            self.listener(Phase(name, "failed", time.monotonic() - begun))
            raise
        self._phases[name] = time.monotonic() - begun
        self.listener(Phase(name, "finished", self._phases[name]))

    def seconds(self) -> dict[str, float]:
        """Of each phase, and in total."""
        phases = {name: self._phases.get(name, 0.0) for name in ("plan", "build", "checkpoint", "compose")}
        return phases | {"total": time.monotonic() - self._begun}

    # ----------------------------------------------------------------------------------------------------- looking

    @cached_property
    def lock(self) -> Lock | None:
        """What the project was last built with; None where that was not written down."""
        return read(self.project.lock) if self.project.lock is not None else None

    @cached_property
    def rates(self) -> Rates:
        """What earlier builds of this image to this destination took."""
        return self.state.get(_RATES, self.to.where, Rates.from_json) or Rates()

    def learn(self, rates: Rates) -> None:
        """Keep *rates* for later builds of this image to this destination."""
        self.state.put(_RATES, self.to.where, rates.to_json())

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

    def _take(self, path: str, ownership: Ownership) -> Elsewhere:
        """The weights of the image that ``checkpoint.path`` names."""
        known = self.lock.checkpoint if self.lock is not None else None
        source = known.source if known is not None and known.path == path and self.request.locked else ""
        return image_at(self.to.client, path, ownership, source)

    def locate(self, inputs: Inputs, present: Present) -> Inputs:
        """*inputs* with the checkpoint's layers found in a registry, where the weights are not here."""
        return locate(inputs, present, self.to, self.fetched.add, self.listener)

    # ----------------------------------------------------------------------------------------------------- deciding

    def plan(self) -> Plan:
        """Look at both sides, and decide."""
        with self.phase("plan"):
            _ = self.to.destination  # a wrong one is said before anything is asked or read
            inputs = self.inputs()
            if self.request.locked:
                inputs = held(inputs, self.lock, self.state)
            keys = {platform: inputs.runtime_key(platform) for platform in inputs.platforms}
            key = inputs.checkpoint.key if inputs.checkpoint else None
            present = self.to.destination.look(keys, key, self.tags)
            if self.request.way == "compose":
                inputs, present = recognise(inputs, present, self.state, self.to.destination.checkpoint, self.listener)
            inputs = self.locate(inputs, present)
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

    # ----------------------------------------------------------------------------------------------------- BuildKit

    def bake(self, targets: Sequence[bake.Target], stopped: Callable[[], bool]) -> BakeResult:
        """Have BuildKit build *targets*.

        Raises:
            Stopped: *stopped* said so.
            LayerkitError: a step fails, or there is no builder.
        """
        root = self.project.root.absolute()
        given = [replace(target, secrets=there(target.secrets, root)) for target in targets]
        return self.to.engine.bake(bake.definition(given, root), listener=self.listener, cwd=root, stopped=stopped)
