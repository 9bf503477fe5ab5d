"""``layerkit checkpoint``: what a checkpoint holds, what its weights are called, and what inference needs of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import printable
from .app import json_errors
from .text import many, size

if TYPE_CHECKING:
    from ..checkpoint.convert import Conversion, Lost
    from ..checkpoint.opening import Contents
    from ..checkpoint.recipe import Options
    from ..checkpoint.weights import TensorInfo

__all__ = ["checkpoint"]

_PATH = click.argument("path", type=click.Path(path_type=Path), metavar="PATH")
_KEY = click.option(
    "--key", default="", metavar="KEY", help="Dotted name of the state dict (default: the obvious one)."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one object.")
_FORMATS = {
    "torch": "torch.save",
    "legacy": "torch.save, legacy format",
    "safetensors": "safetensors",
    "sharded": "shards with their index",
}
_SHOWN = 12  # rows of a list on a terminal; --json has all


@click.group()
def checkpoint() -> None:
    """Look into checkpoints, name their weights, and make inference weights of them.

    PATH is what torch.save wrote, a safetensors file, an index of shards, or a folder with one of them. Pickles
    are read by PyTorch's rules for weights_only: no code of theirs is run.
    """


@checkpoint.command(short_help="Say what is in a checkpoint.")
@_PATH
@_KEY
@click.option("--strict", is_flag=True, help="Exit with 3 when a pickle asks for more than PyTorch's safe list.")
@_JSON
def inspect(path: Path, key: str, strict: bool, as_json: bool) -> None:
    """Say what is in a checkpoint: its tensors, and what it carries that is not weights."""
    from ..checkpoint.opening import look

    with json_errors(as_json):
        found = look(path, key)
        if as_json:
            print(json.dumps(_contents(path, found), indent=2))
        else:
            print("\n".join(_text(path, found)))
    if strict and found.unsafe:
        print(f"error: checkpoint: {printable(str(path))}: unsafe globals", file=sys.stderr)
        raise click.exceptions.Exit(3)


def _sums(groups: Iterable[tuple[str, TensorInfo]]) -> dict[str, dict[str, int]]:
    """Group -> tensors, parameters and bytes, the largest first."""
    found: dict[str, dict[str, int]] = {}
    for group, info in groups:
        sums = found.setdefault(group, {"tensors": 0, "parameters": 0, "bytes": 0})
        sums["tensors"] += 1
        sums["parameters"] += info.elements
        sums["bytes"] += info.nbytes
    return dict(sorted(found.items(), key=lambda item: (-item[1]["bytes"], item[0])))


def _modules(infos: Sequence[TensorInfo]) -> Iterable[tuple[str, TensorInfo]]:
    """Each tensor with its top-level module; where all are in one, with the modules in that."""
    names = [info.name.split(".") for info in infos]
    depth = 1
    while all(len(parts) > depth for parts in names) and len({tuple(parts[:depth]) for parts in names}) == 1:
        depth += 1
    return [(".".join(parts[:depth]), info) for parts, info in zip(names, infos, strict=True)]


def _contents(path: Path, found: Contents) -> dict[str, Any]:
    total = sum(file.size for file in found.files)
    document: dict[str, Any] = {
        "schema_version": 1,
        "path": str(path),
        "format": found.format,
        "files": [{"path": file.path, "bytes": file.size} for file in found.files],
        "bytes": total,
        "unsafe_globals": list(found.unsafe),
        "weights": None,
        "reason": found.reason,
    }
    weights = found.weights
    if weights is None:
        return document
    infos = [tensor.info for tensor in weights.tensors]
    extra = sum(item.nbytes for item in weights.extras)
    return document | {
        "weights": {
            "key": weights.key,
            "tensors": len(infos),
            "parameters": weights.parameters,
            "bytes": weights.nbytes,
            "dtypes": _sums((info.dtype, info) for info in infos),
            "modules": _sums(_modules(infos)),
            "shared": [list(group) for group in weights.shared],
        },
        "not_weights": {
            "bytes": extra,
            "items": [{"name": item.name, "kind": item.kind, "bytes": item.nbytes} for item in weights.extras],
        },
        "overhead_bytes": max(total - weights.stored - extra, 0),
        "tensors": [_described(info) for info in infos],
    }


def _described(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "dtype": info.dtype, "shape": list(info.shape), "bytes": info.nbytes}


def _text(path: Path, found: Contents) -> list[str]:
    total = sum(file.size for file in found.files)
    count = f", {len(found.files)} files" if len(found.files) > 1 else ""
    lines = [f"{printable(str(path))}: {_FORMATS.get(found.format, found.reason)}{count}, {size(total)}"]
    weights = found.weights
    if weights is None:
        if found.unsafe:
            lines += ["not loaded: the pickle asks for what is not on PyTorch's safe list:"]
            lines += [f"  {printable(name)}" for name in found.unsafe]
        else:
            lines += ["its bytes are taken as they are"]
        return lines
    infos = [tensor.info for tensor in weights.tensors]
    where = f" in {printable(weights.key)}" if weights.key else ""
    lines += [
        f"weights{where}: {many(len(infos), 'tensor')}, {weights.parameters:,} parameters, {size(weights.nbytes)}"
    ]
    for title, sums in (
        ("dtype", _sums((info.dtype, info) for info in infos)),
        ("module", _sums(_modules(infos))),
    ):
        rows = [
            (printable(name, 60), many(of["tensors"], "tensor"), f"{of['parameters']:,}", size(of["bytes"]))
            for name, of in sums.items()
        ]
        lines += _rows([(title, "", "parameters", "size"), *rows])
    extra = sum(item.nbytes for item in weights.extras)
    if weights.extras:
        lines += [f"not weights: {size(extra)}"]
        ordered = sorted(weights.extras, key=lambda item: (-item.nbytes, item.name))
        lines += _rows([(printable(item.name, 60), printable(item.kind, 60), size(item.nbytes)) for item in ordered])
    lines += [f"neither: {size(max(total - weights.stored - extra, 0))} (headers, padding, parts of storages not used)"]
    shared = weights.shared
    if shared:
        lines += ["shared, and of its own each after a conversion:"]
        lines += _rows([(" = ".join(printable(name, 60) for name in group),) for group in shared])
    return lines


def _rows(rows: Sequence[Sequence[str]]) -> list[str]:
    cut = len(rows) - _SHOWN - 1
    shown = rows if cut <= 1 else rows[: _SHOWN + 1]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    lines = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in shown]
    return lines if cut <= 1 else [*lines, f"  … and {cut} more (--json has all)"]


@checkpoint.command(short_help="Print the weights hash.")
@_PATH
@_KEY
@click.option("--tensors", "by_tensor", is_flag=True, help="Print each tensor's sha256 too.")
@_JSON
def digest(path: Path, key: str, by_tensor: bool, as_json: bool) -> None:
    """Print the weights hash: the same for the same tensors in any format, file, order or layout.

    Of what is no format of weights, the sha256 of its bytes, and that is said on standard error.
    """
    from ..checkpoint.hashing import hash_weights
    from ..checkpoint.opening import look
    from ..errors import CheckpointError

    with json_errors(as_json):
        found = look(path, key)
        if found.unsafe:
            raise CheckpointError(
                f"checkpoint: {found.reason}", hint="layerkit checkpoint inspect lists what it asks for"
            )
        weights = found.weights
        document: dict[str, Any] = {"schema_version": 1, "path": str(path), "format": found.format}
        if weights is None:
            plain = _plain(path)
            print(f"note: {found.reason}: this is the sha256 of its bytes", file=sys.stderr)
            document |= {"kind": "file", "digest": plain}
            print(json.dumps(document, indent=2) if as_json else plain)
            return
        hashed = hash_weights(weights)
        document |= {"kind": "weights", "digest": str(hashed.digest), "key": weights.key}
        document |= {"tensors": len(weights.tensors), "bytes": weights.nbytes}
        rows = [(str(hashed.tensors[tensor.name]), tensor.info) for tensor in weights.tensors] if by_tensor else []
        if as_json:
            if by_tensor:
                document["by_tensor"] = [_described(info) | {"digest": text} for text, info in rows]
            print(json.dumps(document, indent=2))
            return
        for text, info in rows:
            print(f"{text}  {info.dtype}[{','.join(map(str, info.shape))}]  {printable(info.name)}")
        print(hashed.digest)


def _plain(path: Path) -> str:
    """What the checkpoint is called by its bytes: as LAYERKIT_CHECKPOINT_DIGEST is."""
    from ..checkpoint import content_digest, find
    from ..fingerprint import hash_file

    files = find(str(path.absolute()), Path())
    return str(content_digest({file.path: hash_file(file.source) for file in files}))


@checkpoint.command(short_help="Write what inference needs as safetensors.")
@_PATH
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT")
@_KEY
@click.option("--strip-prefix", default="", metavar="PREFIX", help="Take it off the names that begin with it: module.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16"]),
    default=None,
    help="Of floating-point tensors; else unchanged.",
)
@click.option("--drop", multiple=True, metavar="GLOB", help="Leave out tensors of these names; repeatable.")
@click.option("--force", is_flag=True, help="Write over OUT. PATH itself is never written over.")
@_JSON
def convert(
    path: Path,
    out: Path,
    key: str,
    strip_prefix: str,
    dtype: str | None,
    drop: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Write what inference needs of a checkpoint as one safetensors file, the same to the byte each time.

    Prints the file's name; with another dtype, what was lost, on standard error.
    """
    from ..checkpoint.convert import convert as start
    from ..checkpoint.convert import write
    from ..checkpoint.recipe import Options

    with json_errors(as_json):
        options = Options(key, strip_prefix, dtype or "", drop)
        made = start(path, options, name=out.name)
        lost = write(made, out, force=force)
        if as_json:
            print(json.dumps(_converted(path, out, made, lost), indent=2))
            return
        print("\n".join(_report(made, lost, options)), file=sys.stderr)
        print(out)


def _converted(path: Path, out: Path, made: Conversion, lost: Mapping[str, Lost]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "path": str(path),
        "out": str(out),
        "key": made.weights.key,
        "bytes_before": made.source_size,
        "bytes_after": made.size,
        "not_weights_bytes": sum(item.nbytes for item in made.weights.extras),
        "tensors": [_described(info) for info in made.tensors],
        "renamed": made.renamed,
        "dropped": list(made.dropped),
        "unused_drops": list(made.unused),
        "shared": [list(group) for group in made.weights.shared],
        "errors": {
            name: {"absolute": of.absolute, "relative": of.relative, "overflowed": of.overflowed}
            for name, of in sorted(lost.items())
        },
    }


def _report(made: Conversion, lost: Mapping[str, Lost], options: Options) -> list[str]:
    weights = made.weights
    of = f" of {printable(weights.key)}" if weights.key else ""
    lines = [f"{size(made.source_size)} → {size(made.size)}: {many(len(made.tensors), 'tensor')}{of}"]
    if weights.extras:
        extra = sum(item.nbytes for item in weights.extras)
        lines += [f"left out as no weights: {many(len(weights.extras), 'item')}, {size(extra)}"]
    if made.dropped:
        lines += [f"dropped: {many(len(made.dropped), 'tensor')}"]
    lines += [f"note: --drop {printable(glob)} matches no tensor" for glob in made.unused]
    if options.strip_prefix and not made.renamed:
        lines += [f"note: no name begins with {printable(options.strip_prefix)}"]
    if weights.shared:
        lines += [f"note: {many(len(weights.shared), 'group')} of tensors shared bytes; each tensor has its own now"]
    if lost:
        lines += [f"to {options.dtype}: {many(len(lost), 'tensor')}; the largest errors:", *_largest(lost)]
    overflowed = sum(of.overflowed for of in lost.values())
    if overflowed:
        lines += [f"warning: {overflowed} finite values are infinite in {options.dtype}; bfloat16 has float32's range"]
    return lines


def _largest(lost: Mapping[str, Lost]) -> list[str]:
    """The ten tensors that lost most: overflowed first, then by absolute error."""
    most = sorted(lost.items(), key=lambda item: (-item[1].overflowed, -item[1].absolute, item[0]))[:10]
    rows = [
        (printable(name, 60), f"{of.absolute:.3g}", f"{of.relative:.3g}", str(of.overflowed or "")) for name, of in most
    ]
    return _rows([("tensor", "absolute", "relative", "overflowed"), *rows])
