"""Which part of a checkpoint is the weights: pure decisions on what a pickle held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..errors import CheckpointError, printable
from .objects import Leaf, Loaded, Stored
from .weights import Extra

__all__ = ["Selection", "select"]

STATE_DICTS = ("state_dict", "model_state_dict", "model")  # looked for in this order
# What training keeps beside the weights, where a checkpoint has no state dict of a known name.
TRAINING = frozenset(
    {
        "optimizer", "optimizers", "optimizer_state", "optimizer_states", "optimizer_state_dict", "optim", "scheduler",
        "schedulers", "lr_scheduler", "lr_schedulers", "scheduler_state_dict", "scaler", "grad_scaler", "amp", "rng",
        "rng_state", "rng_states", "cuda_rng_state", "torch_rng_state", "random_state", "callbacks", "loops",
    }
)  # fmt: skip
_MOST = 500_000  # tensors and other things; a nested dict can name more than a machine can list


@dataclass(frozen=True)
class Selection:
    """The weights by name, where they were found (dotted, "" for the whole object), and what else there is."""

    tensors: Mapping[str, Stored]
    key: str
    extras: tuple[Extra, ...]


def select(loaded: Loaded, key: str, where: str) -> Selection:
    """The state dict in *loaded*: what *key* (dotted) leads to, or the obvious one.

    Without a key: ``state_dict``, ``model_state_dict`` or ``model``, the first that is a dict with tensors; else
    the only dict that directly holds tensors, when no tensor is beside it; else the whole, without what training
    is known to keep (``TRAINING``). Dicts in the state dict are joined with dots; whatever else is in it is no
    weights.

    Raises:
        CheckpointError: no such key, no state dict, two tensors of one name, or a tensor without plain bytes.
    """
    path = _find(loaded.tree, key, where) if key else _obvious(loaded.tree)
    chosen, others = loaded.tree, []
    for depth, step in enumerate(path):
        others += [(_dotted(*path[:depth], name), item) for name, item in chosen.items() if name != step]
        chosen = chosen[step]
    if not isinstance(chosen, dict):
        what = f"{key!r} is" if key else "it holds"
        raise CheckpointError(
            f"checkpoint: {printable(where)}: {printable(what)} {_kind(chosen)}, not a state dict",
            hint=_has(loaded.tree),
        )
    tensors: dict[str, Stored] = {}
    if not key and not path:
        others += [(_dotted(name), item) for name, item in chosen.items() if name in TRAINING]
        chosen = {name: item for name, item in chosen.items() if name not in TRAINING}
    for count, (name, item) in enumerate(_flat(chosen)):
        if count > _MOST:
            raise CheckpointError(f"checkpoint: {printable(where)}: over {_MOST} tensors and other things")
        if not isinstance(item, Stored) or not all(isinstance(step, str) for step in name):
            others.append((_dotted(*path, *name), item))
            continue
        joined = ".".join(name)
        if item.problem:
            raise CheckpointError(
                f"checkpoint: {printable(where)}: tensor {printable(joined, 200)!r} has no plain bytes ({item.problem})"
            )
        if joined in tensors:
            raise CheckpointError(f"checkpoint: {printable(where)}: two tensors are called {printable(joined, 200)!r}")
        try:
            joined.encode()
        except UnicodeEncodeError:
            raise CheckpointError(
                f"checkpoint: {printable(where)}: a name that is not Unicode: {joined[:200]!a}"
            ) from None
        tensors[joined] = item
    if not tensors:
        what = f"no tensors in {key!r}" if key else "it holds no tensors"
        raise CheckpointError(f"checkpoint: {printable(where)}: {printable(what)}", hint=_has(loaded.tree))
    return Selection(tensors, _dotted(*path), _extras(others, tensors, loaded))


def _find(tree: Any, key: str, where: str) -> tuple[Any, ...]:
    """The path that *key* spells: names may have dots themselves, so the longest that is there is taken."""
    path: list[Any] = []
    rest = key.split(".")
    while rest:
        for count in range(len(rest), 0, -1):
            name = ".".join(rest[:count])
            if isinstance(tree, dict) and name in tree:
                path.append(name)
                tree, rest = tree[name], rest[count:]
                break
        else:
            raise CheckpointError(
                f"checkpoint: {printable(where)}: no {printable('.'.join(rest), 200)!r}"
                + (f" in {printable('.'.join(path), 200)!r}" if path else " in it"),
                hint=_has(tree),
            )
    return tuple(path)


def _has(tree: Any) -> str:
    if not isinstance(tree, dict) or not tree:
        return "layerkit checkpoint inspect shows what is in it"
    names = [repr(printable(str(name), 60)) for name in list(tree)[:12]]
    return f"there is: {', '.join(names)}" + (f" and {len(tree) - 12} more" if len(tree) > 12 else "")


def _obvious(tree: Any) -> tuple[Any, ...]:
    if not isinstance(tree, dict):
        return ()
    for name in STATE_DICTS:
        if isinstance(tree.get(name), dict) and any(isinstance(v, Stored) for _, v in islice(_flat(tree[name]), _MOST)):
            return (name,)
    rest = {name: item for name, item in tree.items() if name not in TRAINING}
    dicts = [n for n, d in rest.items() if isinstance(d, dict) and any(isinstance(v, Stored) for v in d.values())]
    if len(dicts) == 1 and isinstance(dicts[0], str) and not any(isinstance(v, Stored) for v in rest.values()):
        return (dicts[0],)
    return ()


def _flat(tree: Mapping[Any, Any]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(path, item) of everything in the dict and in dicts with names below it."""
    above: list[Iterator[tuple[Any, Any]]] = [iter(tree.items())]
    path: list[Any] = []
    while above:
        for name, item in above[-1]:
            if isinstance(item, dict) and item and all(isinstance(key, str) for key in item):
                above.append(iter(item.items()))
                path.append(name)
                break
            yield (*path, name), item
        else:
            above.pop()
            if path:
                path.pop()


def _dotted(*path: Any) -> str:
    return ".".join(str(part) for part in path)


def _kind(item: Any) -> str:
    if isinstance(item, Stored):
        return f"a tensor {item.dtype} {list(item.shape)[:8]}"
    if isinstance(item, Leaf):
        return item.kind
    count = sum(1 for _ in _leaves(item, set()))
    return f"{'dict' if isinstance(item, dict) else 'list'} of {len(item)}, {count} tensors"


def _leaves(item: Any, seen: set[int]) -> Iterator[Stored]:
    """The tensors anywhere in *item*; what is there many times is counted once."""
    if isinstance(item, Stored):
        yield item
    elif isinstance(item, (dict, list)) and id(item) not in seen:
        seen.add(id(item))
        for inner in item.values() if isinstance(item, dict) else item:
            yield from _leaves(inner, seen)


def _plain(item: Any, seen: set[int]) -> int:
    """Bytes of strings and the like in *item*."""
    if isinstance(item, Leaf):
        return item.nbytes
    if isinstance(item, (dict, list)) and id(item) not in seen:
        seen.add(id(item))
        return sum(_plain(inner, seen) for inner in (item.values() if isinstance(item, dict) else item))
    return 0


def _extras(others: list[tuple[str, Any]], tensors: Mapping[str, Stored], loaded: Loaded) -> tuple[Extra, ...]:
    """A storage costs once: the weights, or the first extra that has it."""
    counted = {tensor.storage for tensor in tensors.values()}
    found: list[Extra] = []
    known: dict[int, Extra] = {}  # one thing under many names is looked through once
    for name, item in others:
        if id(item) in known:
            found.append(Extra(name, known[id(item)].kind, 0))
            continue
        storages = {leaf.storage for leaf in _leaves(item, set()) if leaf.storage} - counted
        counted |= storages
        size = sum(loaded.storages[key][0] for key in storages) + _plain(item, set())
        found.append(Extra(name, _kind(item), size))
        known[id(item)] = found[-1]
    return tuple(found)
