"""layerkit: PyTorch inference images in which the checkpoint is a layer of its own.

    import layerkit

    project = layerkit.load("layerkit.toml")
    result = layerkit.build(project, tags=["v2"], push=True)
    result.rebuilt   # ("checkpoint",)

Names are imported when they are first used, so that importing layerkit costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from .anatomy.costs import Move
    from .anatomy.difference import Change, Difference, RoleChange
    from .anatomy.inspection import CheckpointFacts, Inspection
    from .anatomy.layers import Amount, InspectedLayer
    from .anatomy.look import diff, inspect
    from .checkpoint.loading import load_weights
    from .errors import (
        AuthenticationError,
        BuildError,
        CheckpointError,
        ConfigurationError,
        ConflictError,
        IntegrityError,
        LayerkitError,
        LocalResourceError,
        RefusedError,
        TransientError,
    )
    from .events import Event, Listener, Note, Phase, Step, StepLog, Transfer
    from .forecast import Outcome, outcomes
    from .pipeline import build, plan
    from .planner import Estimate, LayerPlan, Plan
    from .project import Builder, Cache, Checkpoint, Code, Dependencies, Image, Project, Secret, load, schema
    from .results import LayerResult, Result
    from .settings import Settings
    from .verification.result import BytesRead, Mismatch, Verification, VerifiedImage
    from .verification.run import verify

__all__ = [
    "Amount",
    "AuthenticationError",
    "BuildError",
    "Builder",
    "BytesRead",
    "Cache",
    "Change",
    "Checkpoint",
    "CheckpointError",
    "CheckpointFacts",
    "Code",
    "ConfigurationError",
    "ConflictError",
    "Dependencies",
    "Difference",
    "Estimate",
    "Event",
    "Image",
    "InspectedLayer",
    "Inspection",
    "IntegrityError",
    "LayerPlan",
    "LayerResult",
    "LayerkitError",
    "Listener",
    "LocalResourceError",
    "Mismatch",
    "Move",
    "Note",
    "Outcome",
    "Phase",
    "Plan",
    "Project",
    "RefusedError",
    "Result",
    "RoleChange",
    "Secret",
    "Settings",
    "Step",
    "StepLog",
    "Transfer",
    "TransientError",
    "Verification",
    "VerifiedImage",
    "__version__",
    "build",
    "diff",
    "inspect",
    "load",
    "load_weights",
    "outcomes",
    "plan",
    "schema",
    "verify",
]

_MODULES = {
    "anatomy.costs": "Move",
    "anatomy.difference": "Change Difference RoleChange",
    "anatomy.inspection": "CheckpointFacts Inspection",
    "anatomy.layers": "Amount InspectedLayer",
    "anatomy.look": "diff inspect",
    "checkpoint.loading": "load_weights",
    "errors": "AuthenticationError BuildError CheckpointError ConfigurationError ConflictError IntegrityError"
    " LayerkitError LocalResourceError RefusedError TransientError",
    "events": "Event Listener Note Phase Step StepLog Transfer",
    "forecast": "Outcome outcomes",
    "pipeline": "build plan",
    "planner": "Estimate LayerPlan Plan",
    "project": "Builder Cache Checkpoint Code Dependencies Image Project Secret load schema",
    "results": "LayerResult Result",
    "settings": "Settings",
    "verification.result": "BytesRead Mismatch Verification VerifiedImage",
    "verification.run": "verify",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        """PEP 562: find *name* where it is defined."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
