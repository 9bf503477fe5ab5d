"""The checkpoint: which files it is, and the layers that they become."""

from .files import File, find
from .pack import Blueprint, Content, Ownership, Packer, arrange, checkpoint_key, content_digest

__all__ = ["Blueprint", "Content", "File", "Ownership", "Packer", "arrange", "checkpoint_key", "content_digest", "find"]
