"""Where a finished image can live, each a module."""

from .base import Destination, Output, Published, Sent, checkpoint_tag, runtime_tag

__all__ = ["Destination", "Output", "Published", "Sent", "checkpoint_tag", "runtime_tag"]
