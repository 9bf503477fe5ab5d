"""The checkpoint: which files it is, and the layers that they become."""

from .files import File, find
from .pack import Blueprint, Ownership, Packer, arrange, checkpoint_key, content_digest

__all__ = ["Blueprint", "File", "Ownership", "Packer", "arrange", "checkpoint_key", "content_digest", "find"]
