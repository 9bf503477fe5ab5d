"""``layerkit init``: what a project looks like, what follows from it, and the layerkit.toml that says so.

``look`` reads, ``conclude`` decides, ``write`` puts into words; only the first touches files.
"""

from .conclude import Conclusions, Reason, conclude
from .facts import File, Look
from .look import look
from .write import write

__all__ = ["Conclusions", "File", "Look", "Reason", "conclude", "look", "write"]
