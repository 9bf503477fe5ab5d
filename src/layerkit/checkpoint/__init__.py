"""The checkpoint: which files it is, and the layers that they become."""

from .blueprint import Blueprint, Content, Ownership, arrange, checkpoint_key, content_digest
from .files import File, find
from .pack import Packer

__all__ = ["Blueprint", "Content", "File", "Ownership", "Packer", "arrange", "checkpoint_key", "content_digest", "find"]
