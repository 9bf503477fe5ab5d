"""A content digest: parsed once, valid ever after."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ..errors import IntegrityError

__all__ = ["Digest"]

# OCI image specification, descriptor.md, "Digests"; only the registered algorithms are accepted.
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, order=True, slots=True)
class Digest:
    """``algorithm:hex`` as a value. ``str()`` gives the text back.

    Raises:
        IntegrityError: the algorithm is not sha256 or sha512, or the hex part is not of its length.
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if _HEX_LENGTH.get(self.algorithm) != len(self.hex) or not _HEX.fullmatch(self.hex):
            raise IntegrityError(f"not a digest: {self.algorithm[:16]!a}:{self.hex[:128]!a}")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest that *text* spells, as in ``sha256:e3b0…``."""
        algorithm, _, hexadecimal = text.partition(":")
        return cls(algorithm, hexadecimal)

    @classmethod
    def of(cls, content: bytes | bytearray | memoryview) -> Digest:
        """The sha256 digest of *content*."""
        return cls("sha256", hashlib.sha256(content).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @property
    def short(self) -> str:
        """The first 12 hex digits, for people."""
        return self.hex[:12]
