"""Runtime and checkpoint images that no image uses any more: judged (pure), found in a registry, deleted there."""

from .judge import Live, Policy, Stored, Verdict, freed, judge
from .survey import Found, Survey, survey_of
from .sweep import Outcome, sweep

__all__ = ["Found", "Live", "Outcome", "Policy", "Stored", "Survey", "Verdict", "freed", "judge", "survey_of", "sweep"]
