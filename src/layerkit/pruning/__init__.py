"""Runtime and checkpoint images that no image uses any more: judged (pure), found in a registry, deleted there."""

from .judge import GUARD, Live, Policy, Stored, Verdict, freed, judge
from .places import named, of_project, opened
from .survey import Found, Survey
from .sweep import Outcome, sweep

__all__ = [
    "GUARD",
    "Found",
    "Live",
    "Outcome",
    "Policy",
    "Stored",
    "Survey",
    "Verdict",
    "freed",
    "judge",
    "named",
    "of_project",
    "opened",
    "sweep",
]
