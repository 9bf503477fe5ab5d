"""Whether an image's weights are the approved ones: by digests, by tensors, or against a file."""

from .result import BytesRead, Mismatch, Verification, VerifiedImage
from .run import verify

__all__ = ["BytesRead", "Mismatch", "Verification", "VerifiedImage", "verify"]
