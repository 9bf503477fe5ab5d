"""One run of the benchmark: its projects, and everything that it has measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Done, Engine, Holes, Measured, say, settle
from projects import Project

__all__ = ["Bench"]

CHEAP_ROUNDS = 5  # of what takes a few seconds


@dataclass
class Bench:
    """One run of the benchmark.

    Attributes:
        size: bytes of the checkpoint.
        work: a folder on a disk, for projects and weights.
        patience: seconds to wait, before each measurement, for others on the machine to be quiet.
        content: of weights, "fp16" or "random".
        runs: phase -> everything measured, in the order in which it was.
        skipped: what was not measured, and why.
        prefix: of the repositories' names.
    """

    engine: Engine
    size: int
    rounds: int
    work: Path
    patience: float
    content: str = "fp16"
    runs: dict[str, list[Measured]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    least_free: int = 1 << 62
    prefix: str = "bench"

    def __post_init__(self) -> None:
        self.holes = Holes(self.work)

    @property
    def cheap_rounds(self) -> int:
        return CHEAP_ROUNDS if self.rounds > 1 else 2

    def project(self, name: str, size: int) -> Project:
        folder = self.work / name
        folder.mkdir()
        return Project(folder, self.engine, f"{self.engine.registry}/{self.prefix}/{name}", size, self.content)

    def measure(
        self, phase: str, name: str, number: int, work: Callable[[], tuple[Done, dict[str, Any]]], *, quiet: bool = True
    ) -> Measured:
        """Run *work* once, when memory is full and the machine is quiet, and keep what it took."""
        self.holes.fill()
        before = settle(self.patience) if quiet else 0.0
        done, facts = work()
        found = Measured(
            name, number, done.seconds, done.user, done.system, done.peak_rss, done.peak_anon, before, facts
        )
        self.runs.setdefault(phase, []).append(found)
        self.least_free = min(self.least_free, shutil.disk_usage(self.work).free)
        say(f"{phase:<10} round {number + 1}  {name:<42} {done.seconds:8.2f} s   (others before: {before:4.0%})")
        return found
