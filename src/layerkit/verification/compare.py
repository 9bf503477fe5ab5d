"""What differs between weights, and between files. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from ..checkpoint.weights import TensorInfo
from ..oci import Digest
from .result import Mismatch
from .scan import Known, Tensors

__all__ = ["compare_files", "compare_tensors", "united"]


def compare_tensors(approved: Tensors, found: Tensors) -> tuple[Mismatch, ...]:
    """Each tensor that is missing, is too many, or is another one; by name."""
    return tuple(
        Mismatch("tensor", name, _tensor(approved.get(name)), _tensor(found.get(name)))
        for name in sorted({*approved, *found}, key=str.encode)
        if not _same(approved.get(name), found.get(name))
    )


def _same(a: tuple[TensorInfo, Digest] | None, b: tuple[TensorInfo, Digest] | None) -> bool:
    return a is not None and b is not None and a[1] == b[1] and (a[0].dtype, a[0].shape) == (b[0].dtype, b[0].shape)


def _tensor(found: tuple[TensorInfo, Digest] | None) -> str:
    if found is None:
        return ""
    info, digest = found
    return f"{info.dtype}[{','.join(map(str, info.shape))}] {digest}"


def compare_files(approved: Mapping[str, Digest], found: Mapping[str, Known]) -> tuple[Mismatch, ...]:
    """Each approved file (name -> sha256) that *found* (path in the image -> what it is) has not, under any name; and
    each file of *found* that was not approved."""
    left = {path: known.digest for path, known in found.items() if known.digest is not None}
    missing = []
    for name, digest in sorted(approved.items()):
        same = sorted(path for path, other in left.items() if other == digest)
        match = next((path for path in same if _named(path, name)), next(iter(same), ""))
        if match:
            del left[match]
        else:
            missing.append((name, digest))
    mismatches = []
    for name, digest in missing:
        other = min((path for path in left if _named(path, name)), default="")
        mismatches.append(Mismatch("file", other or name, str(digest), str(left.pop(other)) if other else ""))
    mismatches += [Mismatch("file", path, "", str(digest)) for path, digest in sorted(left.items())]
    return tuple(mismatches)


def _named(path: str, name: str) -> bool:
    return PurePosixPath(path).parts[-len(PurePosixPath(name).parts) :] == PurePosixPath(name).parts


def united(files: Iterable[tuple[str, Known]]) -> tuple[Tensors | None, str]:
    """The tensors of all of an image's *files*, and why there are none: those of safetensors where there are any, as
    a folder of the hub is loaded; else those of what torch.save wrote."""
    weights = [(path, known) for path, known in files if known.format]
    for form in ("safetensors", "torch"):
        chosen = [(path, known) for path, known in weights if known.format == form]
        if not chosen:
            continue
        found: dict[str, tuple[TensorInfo, Digest]] = {}
        for path, known in chosen:
            if known.tensors is None:
                why = known.problem.message if known.problem is not None else "its tensors are not known"
                return None, why if path in why else f"{path}: {why}"
            twice = found.keys() & known.tensors.keys()
            if twice:
                return None, f"tensor {sorted(twice)[0]!r} is in two files"
            found |= known.tensors
        return found, ""
    return None, "no file of weights is in it"
