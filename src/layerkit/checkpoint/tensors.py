"""The only module that imports torch, and only inside functions: importing it takes seconds.

A pickle is read with the unpickler of ``torch.load(weights_only=True)``, which builds nothing but what is on its
safe list, and with storages of the *meta* device: what comes out has dtypes, shapes and strides, and no bytes.
``torch.load(mmap=True)`` itself is not used: it maps the file, so that a checkpoint that is cut while it is read
ends the process (SIGBUS); it takes the bytes of a compressed record for the tensor's; it reads the legacy format
into memory as a whole, in sizes that the file names; and it does not say where in the file a tensor is.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import mmap
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, LocalResourceError, printable
from .objects import Leaf, Loaded, Stored
from .weights import Extent, Tensor

if TYPE_CHECKING:
    import torch

    TensorDict = dict[str, torch.Tensor]

__all__ = ["cast", "cast_error", "gather", "mapped", "unpickle", "unsafe_globals"]

BLOCK = 4 * 1024 * 1024  # bytes of a strided tensor that are put in order at once
_AMPLIFICATION = 4  # bytes that may be read for each one that is wanted, before reading becomes piecewise
MAX_DEPTH = 100  # of containers in a checkpoint
_TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32",
    "I64": "int64", "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "C128": "complex128", "C32": "complex32", "F4": "float4_e2m1fn_x2",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def _torch() -> Any:
    """The module.

    Raises:
        LocalResourceError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise LocalResourceError(
            "this checkpoint needs PyTorch to be read, which is not installed here",
            hint="pip install 'layerkit[torch]' (for the build without CUDA first:"
            " pip install torch --index-url https://download.pytorch.org/whl/cpu); safetensors files need none",
        ) from None
    return torch


def unsafe_globals(pickle: bytes) -> tuple[str, ...]:
    """Classes and functions that *pickle* asks for beyond PyTorch's safe list, sorted. Nothing is loaded.

    By ``torch.serialization.get_unsafe_globals_in_checkpoint``, on an archive made of the pickle alone.

    Raises:
        CheckpointError: the pickle has instructions that torch.save does not write.
    """
    torch = _torch()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/version", "3\n")
    stream.seek(0)
    try:
        return tuple(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(stream)))
    except Exception as error:  # noqa: BLE001 - of hostile bytes anything may come
        raise CheckpointError(f"checkpoint: a pickle that torch.save does not write ({_short(error)})") from None


def unpickle(pickle: bytes, where: str) -> Loaded:
    """The object in *pickle*, which is never given more than ``weights_only`` gives.

    Raises:
        CheckpointError: it asks for more, it is damaged, or it is nested too deeply.
        LocalResourceError: no torch, or one that is not known to this version.
    """
    if b"\nbytearray\n" in pickle:
        # The one thing on the safe list that takes memory by a number in the file (bytearray(10**12)).
        raise CheckpointError(f"checkpoint: {printable(where)}: holds a bytearray, which is not unpickled here")
    torch = _torch()
    try:
        from torch import _weights_only_unpickler as weights_only

        unpickler: Any = weights_only.Unpickler(io.BytesIO(pickle), encoding="utf-8")
    except (ImportError, AttributeError, TypeError):
        raise LocalResourceError(
            f"PyTorch {torch.__version__} has another weights_only unpickler than this layerkit knows",
            hint="pip install --upgrade layerkit, or torch==2.13",
        ) from None
    storages: dict[tuple[str, str], Any] = {}
    parts: dict[int, tuple[str, int, int]] = {}
    sizes: dict[str, tuple[int, int]] = {}

    def storage(identifier: Any) -> Any:
        kind, of, key, _location, count, *view = identifier
        dtype = torch.uint8 if of is torch.UntypedStorage else of.dtype
        item = dtype.itemsize
        name, start = (str(key), ""), 0
        if kind != "storage" or type(count) is not int or count < 0:
            raise ValueError("a storage of no size")
        sizes.setdefault(str(key), (count * item, item))
        if view and view[0] is not None:  # of the legacy format: a part of another storage
            view_key, first, count = view[0]
            name, start = (str(key), f"view {view_key}"), first * item
        if name not in storages:
            storages[name] = torch.UntypedStorage(count * item, device="meta")
            parts[storages[name]._cdata] = (str(key), start, count * item)
        return torch.storage.TypedStorage(wrap_storage=storages[name], dtype=dtype, _internal=True)

    unpickler.persistent_load = storage
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = unpickler.load()
            return Loaded(_tree(torch, found, parts, {}, 0), sizes)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint: {printable(where)}: {error.message}", hint=error.hint) from None
    # A hostile or damaged pickle can make the unpickler raise anything.
    except Exception as error:  # noqa: BLE001
        raise _refused(pickle, where, error) from None


def _refused(pickle: bytes, where: str, error: Exception) -> CheckpointError:
    try:
        unsafe = unsafe_globals(pickle)
    except CheckpointError:
        unsafe = ()
    if unsafe:
        names = ", ".join(unsafe[:5]) + (f" and {len(unsafe) - 5} more" if len(unsafe) > 5 else "")
        return CheckpointError(
            f"checkpoint: {printable(where)}: its pickle asks for {printable(names)}, beyond PyTorch's safe list;"
            " it was not loaded",
            hint="whoever made it can save the weights alone: torch.save(model.state_dict(), …)",
        )
    return CheckpointError(
        f"checkpoint: {printable(where)}: cannot be unpickled safely ({_short(error)})",
        hint="save the weights alone: torch.save(model.state_dict(), …)",
    )


def _short(error: Exception) -> str:
    lines = str(error).splitlines()
    return printable(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__, 200)


def _tree(torch: Any, value: Any, parts: Mapping[int, tuple[str, int, int]], done: dict[int, Any], depth: int) -> Any:
    """*value* as plain containers. One that is there many times becomes one; one that holds itself is refused."""
    if isinstance(value, torch.Tensor):
        return _stored(torch, value, parts)
    if isinstance(value, (dict, list, tuple, set)):
        if depth > MAX_DEPTH:
            raise CheckpointError("containers in containers, too deeply")
        if id(value) not in done:
            done[id(value)] = None  # until it is known: found again meanwhile, it holds itself
            if isinstance(value, dict):
                made: Any = {key: _tree(torch, item, parts, done, depth + 1) for key, item in value.items()}
            else:
                made = [_tree(torch, item, parts, done, depth + 1) for item in value]
            done[id(value)] = made
        if done[id(value)] is None:
            raise CheckpointError("a container that holds itself")
        return done[id(value)]
    if value is None or isinstance(value, (bool, int, float, complex)):
        return Leaf(f"{type(value).__name__} {value!r}"[:60] if value is not None else "None")
    if isinstance(value, (str, bytes)):
        short = value if isinstance(value, str) and len(value) < 100 else ""
        return Leaf(f"{type(value).__name__} of {len(value)}", len(value), short)
    if isinstance(value, torch.storage.TypedStorage):
        return Leaf("storage", value._untyped_storage.nbytes())
    return Leaf(type(value).__name__)


def _stored(torch: Any, tensor: Any, parts: Mapping[int, tuple[str, int, int]]) -> Stored:
    dtype = _names(torch).get(tensor.dtype, str(tensor.dtype).removeprefix("torch.").upper())
    shape = tuple(int(size) for size in tensor.shape)
    if tensor.layout is not torch.strided or tensor.is_quantized or dtype not in _TORCH:
        return Stored(dtype, shape, problem=f"{dtype.lower()}, {str(tensor.layout).removeprefix('torch.')}")
    if tensor.is_conj() or tensor.is_neg():
        return Stored(dtype, shape, problem="a conjugate view; save tensor.resolve_conj().resolve_neg()")
    found = parts.get(tensor.untyped_storage()._cdata)
    if found is None:
        return Stored(dtype, shape, problem="a tensor without values")
    key, start, length = found
    item = tensor.element_size()
    items, strides = shape, tuple(int(stride) for stride in tensor.stride())
    size = (1 + sum((n - 1) * step for n, step in zip(items, strides, strict=True))) * item if 0 not in items else 0
    first = int(tensor.storage_offset()) * item
    if first < 0 or any(step < 0 for step in strides) or (size and first + size > length):
        return Stored(dtype, shape, problem="a tensor that reaches out of its storage")
    if dtype == "F4":  # two elements in a byte: safetensors counts elements, torch bytes
        if not shape:
            return Stored(dtype, shape, problem="F4 without dimensions")
        shape = (*shape[:-1], shape[-1] * 2)
    return Stored(dtype, shape, key, start + first, size, items, strides, item)


@functools.cache
def _names(torch: Any) -> dict[Any, str]:
    return {getattr(torch, name): ours for ours, name in _TORCH.items() if hasattr(torch, name)}


def _dtype(torch: Any, name: str) -> Any:
    found = getattr(torch, _TORCH.get(name, "?"), None)
    if found is None:
        raise LocalResourceError(
            f"PyTorch {torch.__version__} has no dtype for {name}", hint="pip install --upgrade torch"
        )
    return found


# ------------------------------------------------------------------------------------------------------------ elements


def gather(fill: Callable[[memoryview, int], None], extent: Extent, start: int = 0) -> Iterator[memoryview]:
    """The canonical bytes of a tensor that lies in its storage with gaps or in another order, from *start* on.

    In blocks of 4 MiB at most (and five times that of memory), whatever the tensor's size: of each block either
    the stretch that it lies in is read, or, where that would be over four times the block, its runs.

    Args:
        fill: fills a buffer with the file's bytes from an offset on.
    """
    torch = _torch()
    assert extent.view is not None
    shape, strides, item = extent.view.shape, extent.view.strides, extent.view.itemsize
    axis, inner = len(shape) - 1, item
    while axis > 0 and inner * shape[axis] <= BLOCK:
        inner *= shape[axis]
        axis -= 1
    rows = max(1, BLOCK // inner)
    for outer in itertools.product(*map(range, shape[:axis])):
        base = sum(index * step for index, step in zip(outer, strides, strict=False))
        for first in range(0, shape[axis], rows):
            count = min(rows, shape[axis] - first)
            if start >= count * inner:
                start -= count * inner
                continue
            offset = extent.offset + (base + first * strides[axis]) * item
            yield _block(torch, fill, offset, (count, *shape[axis + 1 :]), strides[axis:], item)[start:]
            start = 0


def _block(
    torch: Any,
    fill: Callable[[memoryview, int], None],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    item: int,
) -> memoryview:
    # In the order of the file: the dimension with the longest steps first. Repeated elements are read once.
    order = sorted(range(len(shape)), key=lambda axis: -strides[axis])
    sizes = [shape[axis] if strides[axis] else 1 for axis in order]
    steps = [strides[axis] for axis in order]
    for loops in range(len(order) + 1):
        span = 1 + sum((size - 1) * step for size, step in zip(sizes[loops:], steps[loops:], strict=True))
        if span <= _AMPLIFICATION * math.prod(sizes[loops:]):
            break
    buffer = bytearray(math.prod(sizes[:loops]) * span * item)
    view = memoryview(buffer)
    for number, index in enumerate(itertools.product(*map(range, sizes[:loops]))):
        away = sum(i * step for i, step in zip(index, steps, strict=False))
        fill(view[number * span * item : (number + 1) * span * item], offset + away * item)
    in_buffer = [0] * len(order)
    step = span
    for place in reversed(range(len(order))):
        axis = order[place]
        if place >= loops:
            in_buffer[axis] = steps[place]
        elif strides[axis]:
            in_buffer[axis] = step
            step *= sizes[place]
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}[item]
    result = bytearray(math.prod(shape) * item)
    source = torch.frombuffer(buffer, dtype=kind).as_strided(shape, in_buffer)
    torch.frombuffer(result, dtype=kind).view(shape).copy_(source)
    return memoryview(result)


_CANONICAL_NAN = {"F16": 0x7E00, "BF16": 0x7FC0}


def cast(chunk: memoryview, source: str, target: str, out: memoryview) -> memoryview:
    """The elements of *chunk* as *target* (F16 or BF16), at the start of *out*: to the nearest, ties to even.

    A NaN becomes the one quiet NaN: PyTorch's own depends on the processor and on the place in the buffer.
    Both buffers are writable.

    Raises:
        LocalResourceError: no torch, or one that lacks a dtype; a big-endian machine.
    """
    torch = _torch()
    if sys.byteorder != "little":
        raise LocalResourceError("a change of dtype needs a little-endian machine")
    values = torch.frombuffer(chunk, dtype=_dtype(torch, source))
    out = out[: len(values) * 2]
    made = torch.frombuffer(out, dtype=_dtype(torch, target))
    made.copy_(values.to(torch.float32))  # from double by way of float, as PyTorch does, on every machine
    nan = torch.isnan(values)
    if nan.any():
        made.view(torch.int16).masked_fill_(nan, _CANONICAL_NAN[target])
    return out


def cast_error(chunk: memoryview, source: str, made: memoryview, target: str) -> tuple[float, float, int]:
    """What ``cast`` lost: the largest absolute and relative error of what stays finite, and how many values do not.

    The relative error is against values other than 0 (1.0 for one that became 0).
    """
    torch = _torch()
    before = torch.frombuffer(chunk, dtype=_dtype(torch, source)).to(torch.float64)
    after = torch.frombuffer(made, dtype=_dtype(torch, target)).to(torch.float64)
    lost = torch.isfinite(before) & ~torch.isfinite(after)
    difference = (before - after).abs_()
    difference.masked_fill_(~torch.isfinite(difference), 0.0)
    relative = (difference / before.abs()).nan_to_num_(0.0, 0.0, 0.0)
    return float(difference.max()), float(relative.max()), int(lost.sum())


def mapped(tensors: Sequence[Tensor]) -> TensorDict:
    """The tensors as ``torch.Tensor``, mapped: nothing is read before it is used.

    They may be written to: what is written stays in this process. Tensors that share bytes in the file share them here.

    Raises:
        CheckpointError: a file is shorter than it was when it was opened.
        LocalResourceError: no torch, or one that lacks a dtype.
    """
    torch = _torch()
    maps: dict[Path, mmap.mmap] = {}
    # The mapping is private and writable, which counts against what the machine may promise: a model larger than
    # its memory would be refused without this flag (proc(5), overcommit_memory). Python 3.13 has its name.
    flags = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)
    found: TensorDict = {}
    for tensor in tensors:
        info, extent = tensor.info, tensor.extent
        dtype = _dtype(torch, info.dtype)
        items = (*info.shape[:-1], info.shape[-1] // 2) if info.dtype == "F4" else info.shape
        if not extent.size:
            found[info.name] = torch.empty(items, dtype=dtype)
            continue
        source = extent.file.source
        if source not in maps:
            with source.open("rb") as stream:
                maps[source] = mmap.mmap(stream.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        if extent.offset + extent.size > len(maps[source]):
            raise CheckpointError(f"checkpoint: {printable(extent.file.path)} changed while it was read")
        flat = torch.frombuffer(maps[source], dtype=torch.uint8, count=extent.size, offset=extent.offset)
        if flat.data_ptr() % dtype.itemsize or extent.swap:  # others' files: not every writer aligns
            flat = flat.clone()
        if extent.swap:
            flat = flat.view(-1, extent.swap).flip(1).contiguous().view(-1)
        elements = flat.view(dtype)
        view = extent.view
        found[info.name] = elements.as_strided(view.shape, view.strides) if view else elements.view(items)
    return found
