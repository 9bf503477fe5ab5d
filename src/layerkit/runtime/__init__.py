"""What BuildKit builds: base, dependencies and code, and the place where the checkpoint goes."""

from .checkpoint_copy import CheckpointCopy, find_checkpoint_copy
from .context import find_files, find_includes, materialise, read_requirements
from .dockerfile import CHECKPOINT_TARGET, DEFAULT_EXCLUDES, generate, ignore_file
from .dockerignore import Matcher
from .instructions import Instruction, instructions
from .landing import check_code, check_copies
from .mounts import required_secrets
from .requirements import Entry, Requirements
from .stages import base_images, foundation
from .taken import taken
from .walk import ContextFile

__all__ = [
    "CHECKPOINT_TARGET",
    "DEFAULT_EXCLUDES",
    "CheckpointCopy",
    "ContextFile",
    "Entry",
    "Instruction",
    "Matcher",
    "Requirements",
    "base_images",
    "check_code",
    "check_copies",
    "find_checkpoint_copy",
    "find_files",
    "find_includes",
    "foundation",
    "generate",
    "ignore_file",
    "instructions",
    "materialise",
    "read_requirements",
    "required_secrets",
    "taken",
]
