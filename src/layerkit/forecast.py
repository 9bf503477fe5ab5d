"""How long a plan will take, by what earlier builds took; and afterwards whether the plan was right. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .names import ROLES
from .planner import Estimate, LayerPlan, Plan
from .results import Result

__all__ = ["Outcome", "Rates", "agree", "estimate", "learn", "outcomes"]

_ORDER = ("reused", "mounted", "packed", "built")  # of actions, by what they cost
_WORTH_LEARNING = 8 * 1024 * 1024  # bytes of checkpoint; the rate of fewer is that of the round trips


def _measured(value: Any) -> float:
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError("nothing takes so long")
    return number


@dataclass(frozen=True, slots=True)
class Rates:
    """What earlier builds of one image to one destination took.

    Attributes:
        upload: bytes a second of checkpoint that was hashed and sent.
        read: bytes a second of checkpoint that was hashed and turned out to be there.
        builder: lowest role that BuildKit had to build -> seconds; "" where all of it was cached.
        rest: seconds of everything beside: looking, composing, publishing.
    """

    upload: float | None = None
    read: float | None = None
    builder: Mapping[str, float] = field(default_factory=dict)
    rest: float | None = None

    @classmethod
    def from_json(cls, document: Any) -> Rates:
        """What ``to_json`` made.

        Raises:
            AttributeError, KeyError, TypeError, ValueError, OverflowError: it is something else.
        """
        builder = {str(role): _measured(seconds) for role, seconds in document["builder"].items()}
        numbers = [document[name] for name in ("upload", "read", "rest")]
        upload, read, rest = (None if number is None else _measured(number) for number in numbers)
        return cls(upload or None, read or None, builder, rest)

    def to_json(self) -> dict[str, Any]:
        return {"upload": self.upload, "read": self.read, "builder": dict(self.builder), "rest": self.rest}


def estimate(plan: Plan, rates: Rates) -> Estimate | None:
    """Seconds that *plan* will take by *rates*; None where no earlier build tells anything."""
    if rates.rest is None:
        return None
    unknown = []
    builder = checkpoint = 0.0
    if plan.platforms_to_build:
        found = _nearest(rates.builder, _lowest_built(plan))
        if found is None:
            unknown.append("builder")
        builder = found or 0.0
    mounted = any(layer.role == "checkpoint" and layer.action == "mounted" for layer in plan.layers)
    if plan.pack and not mounted:
        size = plan.inputs.checkpoint.size if plan.inputs.checkpoint else 0
        rate = rates.upload or rates.read
        if rate is None:
            unknown.append("checkpoint")
        checkpoint = size / rate if rate else 0.0
    return Estimate(rates.rest + max(builder, checkpoint), builder, checkpoint, tuple(unknown))


def learn(rates: Rates, plan: Plan, result: Result) -> Rates:
    """*rates* after one more build: the newest measure of each kind wins."""
    seconds = result.seconds
    upload, read, builder = rates.upload, rates.read, dict(rates.builder)
    if plan.pack and result.checkpoint_read >= _WORTH_LEARNING and seconds["checkpoint"] > 0:
        rate = result.checkpoint_read / seconds["checkpoint"]
        if "checkpoint" in result.rebuilt:
            upload = rate
        else:
            read = rate
    if result.builder_ran and seconds["build"] > 0:
        builder[_lowest_built(plan)] = seconds["build"]
    rest = max(seconds["total"] - max(seconds["build"], seconds["checkpoint"]), 0.0)
    return Rates(upload, read, builder, rest)


def _lowest_built(plan: Plan) -> str:
    """The lowest role that BuildKit has to build: what it takes depends on that more than on anything else."""
    built = {layer.role for layer in plan.layers if layer.action == "built"} - {"base"}
    return next((role for role in ROLES if role in built), "")


def _nearest(builder: Mapping[str, float], role: str) -> float | None:
    """Seconds for *role*, or for the next lower one that was built: that takes at least as long."""
    order = [*ROLES, ""]
    below = order[: order.index(role) + 1]
    return next((builder[name] for name in reversed(below) if name in builder), None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was planned for a role, and what happened.

    Attributes:
        known: the plan was sure; else it said what would happen at most.
        bytes_planned: to upload, at most; None where the plan could not tell.
        bytes_new: of layers that were new at the destination.
        agrees: it happened as planned, or less of it where the plan was not sure.
    """

    role: str
    planned: str
    known: bool
    happened: str
    reason: str
    bytes_planned: int | None
    bytes_new: int
    agrees: bool

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def outcomes(plan: Plan, result: Result) -> tuple[Outcome, ...]:
    """Role for role, *plan* beside what *result* says."""
    return tuple(_outcome(row, plan, result) for row in plan.layers)


def agree(plan: Plan, result: Result) -> bool:
    """The build did what the plan said: each role, the way, and whether BuildKit ran."""
    ran = bool(plan.platforms_to_build) == result.builder_ran
    return ran and plan.way == result.way and all(outcome.agrees for outcome in outcomes(plan, result))


def _outcome(row: LayerPlan, plan: Plan, result: Result) -> Outcome:
    layers = [layer for layer in result.layers if layer.role == row.role]
    actions = {layer.action for layer in layers}
    if layers:
        happened = next((action for action in ("built", "packed", "mounted") if action in actions), "reused")
    elif result.way == "buildkit":
        happened = "built"  # BuildKit hands over the whole image, and does not say what it took from its cache
    elif row.role == "checkpoint" and result.checkpoint_read:
        happened = "packed"
    else:
        happened = row.action
    new = sum({layer.digest: layer.size for layer in layers if layer.action in ("built", "packed")}.values())
    if row.role == "checkpoint" and plan.pack and not layers:
        new = min(result.uploaded, row.bytes_to_upload or 0)
    less = not row.known and _ORDER.index(happened) < _ORDER.index(row.action)
    if row.action == "mounted" and happened == "packed" and row.bytes_to_upload:
        less = True  # the registry refused the mount: the plan had said what is streamed then
    fits = row.bytes_to_upload is None or new <= row.bytes_to_upload
    agrees = (happened == row.action or less or result.way == "buildkit") and fits
    return Outcome(row.role, row.action, row.known, happened, row.reason, row.bytes_to_upload, new, agrees)
