"""How long Hypothesis looks: shortly in the ordinary run; for long, with other seeds, where ``make soak`` says so."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "soak", max_examples=500, deadline=None, print_blob=True, derandomize=False, suppress_health_check=list(HealthCheck)
)
if "LAYERKIT_SOAK" in os.environ:
    settings.load_profile("soak")
