"""What layerkit calls things: tags in a registry, labels and annotations of images, variables in them. Pure.

Others rely on these (ARCHITECTURE.md, "In the registry"): they do not change.
"""

from __future__ import annotations

__all__ = [
    "CACHE_TAG",
    "CHECKPOINT_DIGEST",
    "CHECKPOINT_KEY",
    "DIGEST_VARIABLE",
    "INPUTS",
    "LOCATION",
    "LOCATION_VARIABLE",
    "PLACEMENT",
    "PREFIX",
    "RECIPE",
    "ROLE",
    "ROLES",
    "RUNTIME_KEY",
    "SAMPLES",
    "TARGET",
    "WEIGHTS",
    "checkpoint_tag",
    "is_own_tag",
    "runtime_tag",
]

PREFIX = "dev.layerkit."
ROLE = PREFIX + "role"  # of a layer, at its descriptor; one of:
ROLES = ("base", "dependencies", "checkpoint", "code")  # bottom first, where each is placed well
# Labels of an image, and annotations of its manifest.
RUNTIME_KEY = PREFIX + "runtime"
CHECKPOINT_KEY = PREFIX + "checkpoint"
CHECKPOINT_DIGEST = PREFIX + "checkpoint.digest"  # what the checkpoint is called
WEIGHTS = PREFIX + "checkpoint.weights"  # the weights hash of what is in the image
PLACEMENT = PREFIX + "placement"
# Annotations alone.
INPUTS = PREFIX + "inputs"  # short digests of what went in
RECIPE = PREFIX + "checkpoint.recipe"  # how its layers were made of its files, where not as they are
SAMPLES = PREFIX + "checkpoint.samples"  # of its layers: checkpoint/sample.py
# Of a checkpoint image alone.
TARGET = PREFIX + "checkpoint.target"
LOCATION = PREFIX + "checkpoint.location"
# In an image's environment: where its program finds the weights, and what they are called.
LOCATION_VARIABLE = "LAYERKIT_CHECKPOINT"
DIGEST_VARIABLE = "LAYERKIT_CHECKPOINT_DIGEST"

CACHE_TAG = "buildcache"
_RUNTIME, _CHECKPOINT = "runtime-", "checkpoint-"


def runtime_tag(key: str) -> str:
    """Of the runtime image with that key."""
    return _RUNTIME + key


def checkpoint_tag(key: str) -> str:
    """Of the image that holds the checkpoint's layers with that key."""
    return _CHECKPOINT + key


def is_own_tag(tag: str) -> bool:
    """Whether it is one of these two, and no image's that somebody runs."""
    return tag.startswith((_RUNTIME, _CHECKPOINT))
