from __future__ import annotations

import json
import os
import re
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from layerkit.checkpoint.files import find
from layerkit.checkpoint.hashing import combine, hash_weights
from layerkit.checkpoint.objects import Leaf, Loaded, Stored
from layerkit.checkpoint.opening import identify, look, open_weights
from layerkit.checkpoint.reader import Reader
from layerkit.checkpoint.safetensors import layout
from layerkit.checkpoint.select import select
from layerkit.checkpoint.weights import TensorInfo
from layerkit.errors import CheckpointError
from layerkit.oci import Digest

PAGE = (Path(__file__).parents[3] / "docs" / "weights-hash.md").read_text()
VECTORS = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])


def write(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> Path:
    """A safetensors file."""
    head, entries = layout((name, dtype, tuple(shape)) for name, (dtype, shape, _) in tensors.items())
    path.write_bytes(head + b"".join(tensors[entry.name][2] for entry in entries))
    return path


SMALL = {"b": ("U8", [3], b"123"), "a": ("F32", [2], bytes(8)), "c": ("I64", [], bytes(8))}


# ----------------------------------------------------------------------------------------------------- the weights hash


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["digest"][7:19] for vector in VECTORS])
def test_vectors(vector: dict[str, Any], tmp_path: Path) -> None:
    """The documented test vectors, by the documented code, by ours, and from a file."""
    given = [(t["name"], t["dtype"], t["shape"], bytes.fromhex(t["bytes"])) for t in vector["tensors"]]
    documented: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0], documented)
    assert documented["weights_hash"](given) == vector["digest"]
    parts = [(TensorInfo(n, d, tuple(s), len(data)), Digest.of(data)) for n, d, s, data in given]
    assert str(combine(parts)) == str(combine(parts[::-1])) == vector["digest"]
    path = write(tmp_path / "m.safetensors", {n: (d, s, data) for n, d, s, data in given})
    for threads in (1, 2, 7):
        assert str(hash_weights(open_weights(path), threads=threads).digest) == vector["digest"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param("a", ("F32", [2], bytes(7) + b"\1"), id="one-bit"),
        pytest.param("a", ("F32", [1, 2], bytes(8)), id="shape"),
        pytest.param("a", ("I32", [2], bytes(8)), id="dtype"),
        pytest.param("d", ("U8", [0], b""), id="one-more-empty"),
        pytest.param("a", ("F32", [2], struct.pack("<2f", -0.0, 0.0)), id="minus-zero"),
    ],
)
def test_what_changes_it(name: str, change: Any, tmp_path: Path) -> None:
    """One bit, a shape, a dtype, an empty tensor: each gives another hash."""
    before = hash_weights(open_weights(write(tmp_path / "a.safetensors", SMALL)))
    after = hash_weights(open_weights(write(tmp_path / "b.safetensors", SMALL | {name: change})))
    assert before.digest != after.digest
    assert {n for n in after.tensors if before.tensors.get(n) != after.tensors[n]} <= {name}


def test_no_confusion() -> None:
    """Texts have their length in front: what moves from one field to the next gives another hash."""
    empty = Digest.of(b"")
    made = {
        combine([(TensorInfo(name, dtype, (0,), 0), empty)]) for name, dtype in (("aU", "8"), ("a", "U8"), ("", "aU8"))
    }
    assert len(made) == 3


def test_shares_and_progress(tmp_path: Path) -> None:
    """Every byte is read once, by two threads."""
    tensors = {f"t{n}": ("U8", [n * 100_000], os.urandom(n * 100_000)) for n in range(12)}
    weights = open_weights(write(tmp_path / "m.safetensors", tensors))
    counts: list[int] = []
    names: set[str] = set()

    def note(count: int) -> None:
        counts.append(count)
        names.add(threading.current_thread().name)

    found = hash_weights(weights, on_read=note)
    assert sum(counts) == weights.nbytes and len(names) == 2
    assert found.tensors == {name: Digest.of(data) for name, (_, _, data) in tensors.items()}


# ------------------------------------------------------------------------------------------------------------ changing


@pytest.mark.parametrize("change", ["cut", "rewritten", "gone", "grown", "replaced"])
def test_changed_meanwhile(change: str, tmp_path: Path) -> None:
    """A file that is cut, written to, deleted or replaced meanwhile is an error, never a crash (FAULTS 40, 41)."""
    path = write(tmp_path / "m.safetensors", {"a": ("U8", [3_000_000], bytes(3_000_000))})
    weights = open_weights(path)
    changes = {
        "cut": lambda: os.truncate(path, 1_000_000),
        "rewritten": lambda: (path.write_bytes(path.read_bytes()), os.utime(path, (1, 1))),
        "gone": path.unlink,
        "grown": lambda: path.write_bytes(path.read_bytes() + b"x"),
        "replaced": lambda: (path.rename(tmp_path / "old"), path.write_bytes((tmp_path / "old").read_bytes())),
    }
    changes[change]()
    with pytest.raises(CheckpointError, match=r"changed while it was read|No such file"):
        hash_weights(weights)


def test_cut_while_it_is_read(tmp_path: Path) -> None:
    """A file that a training run begins to overwrite while it is hashed: an error, where a mapping would be SIGBUS."""
    path = write(tmp_path / "m.safetensors", {"a": ("U8", [30_000_000], bytes(30_000_000))})
    with pytest.raises(CheckpointError, match="changed while it was read"):
        hash_weights(open_weights(path), on_read=lambda count: os.truncate(path, 100))


def test_handles_are_closed(tmp_path: Path) -> None:
    """Reading leaves no file open, also where it fails."""
    path = write(tmp_path / "m.safetensors", SMALL)
    before = len(list(Path("/proc/self/fd").iterdir()))
    weights = open_weights(path)
    hash_weights(weights)
    with pytest.raises(ZeroDivisionError), Reader() as reader:
        reader.handle(weights.files[0])
        raise ZeroDivisionError
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ------------------------------------------------------------------------------------------------------------- opening


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        pytest.param("m.safetensors", b"\xff" * 20, "safetensors", id="by-name"),
        pytest.param("blob", struct.pack("<Q", 2) + b"{}", "safetensors", id="by-content"),
        pytest.param("m.onnx", b"\x08\x07\x12", "unknown", id="unknown"),
        pytest.param("m.pkl", b"\x80\x04\x95rest", "pickle", id="pickle"),
        pytest.param("m.pth.tar", bytes(257) + b"ustar" + bytes(300), "tar", id="tar"),
    ],
)
def test_identify(name: str, content: bytes, kind: str, tmp_path: Path) -> None:
    """A file is what its content says."""
    (tmp_path / name).write_bytes(content)
    assert identify(find(name, tmp_path)[0]) == kind
    if kind != "safetensors":
        with pytest.raises(CheckpointError) as caught:
            open_weights(tmp_path / name)
        assert "torch.save" in caught.value.hint
        assert look(tmp_path / name).format == kind


@pytest.mark.parametrize(
    ("files", "said"),
    [
        pytest.param({}, "no weights in it", id="empty-folder"),
        pytest.param({"config.json": b"{}"}, "no weights in it", id="no-weights"),
        pytest.param({"a.safetensors": None, "b.safetensors": None}, "2 files of weights and no index", id="two"),
        pytest.param({"model.safetensors.index.json": b'{"weight_map": {"a": "x.st"}}'}, "nothing at", id="no-shard"),
        pytest.param(
            {"model.safetensors.index.json": b'{"weight_map": {"a": "x.safetensors"}}', "x.safetensors": None},
            "do not agree on tensor 'b'",
            id="index-names-too-little",
        ),
        pytest.param(
            {
                "model.safetensors.index.json": b'{"weight_map": {"a":"x.st","b":"x.st","c":"x.st","d":"x.st"}}',
                "x.st": None,
            },
            "do not agree on tensor 'd'",
            id="index-names-too-much",
        ),
    ],
)
def test_folders(files: dict[str, bytes | None], said: str, tmp_path: Path) -> None:
    """A folder has one file of weights, or shards that its index describes."""
    folder = tmp_path / "m"
    folder.mkdir()
    for name, content in files.items():
        if content is None:
            write(folder / name, SMALL)
        else:
            (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        open_weights(folder)


def test_folder_of_one(tmp_path: Path) -> None:
    """A folder with one file of weights is that file, whatever else is in it; links of a model cache are followed."""
    blob = write(tmp_path / "blob", SMALL)
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(blob)
    (folder / "config.json").write_text("{}")
    (folder / "empty").touch()
    found = open_weights(folder)
    assert found.files[0].path == "model.safetensors"
    assert hash_weights(found) == hash_weights(open_weights(blob))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(lambda path: None, "nothing at", id="missing"),
        pytest.param(lambda path: path.touch(), "is empty", id="empty"),
        pytest.param(lambda path: os.mkfifo(path), "no regular file", id="fifo"),
        pytest.param(lambda path: path.symlink_to("nowhere"), "nothing at", id="dangling"),
        pytest.param(
            lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer", id="lfs"
        ),
    ],
)
def test_no_file(make: Any, said: str, tmp_path: Path) -> None:
    """What is no file of weights is said as for a build (FAULTS 44, 48)."""
    make(tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=said):
        open_weights(tmp_path / "m.pt")


def test_key_for_safetensors(tmp_path: Path) -> None:
    """safetensors has tensors only: a key is an error there, not ignored."""
    with pytest.raises(CheckpointError, match="no 'state_dict' in it"):
        open_weights(write(tmp_path / "m.safetensors", SMALL), "state_dict")


# ----------------------------------------------------------------------------------------------------------- selecting

T = Stored("F32", (2,), "0", 0, 8, (2,), (1,), 4)
N = Leaf("int 3")


@pytest.mark.parametrize(
    ("tree", "key", "chosen", "names", "extras"),
    [
        pytest.param({"a": T, "b.c": T}, "", "", ["a", "b.c"], [], id="flat"),
        pytest.param(
            {"state_dict": {"a": T}, "epoch": N, "best": T}, "", "state_dict", ["a"], ["epoch", "best"], id="usual"
        ),
        pytest.param({"model": {"b": T}, "state_dict": {"a": T}}, "", "state_dict", ["a"], ["model"], id="order"),
        pytest.param({"model_state_dict": {"a": T}, "model": N}, "", "model_state_dict", ["a"], ["model"], id="other"),
        pytest.param({"model": N, "net": {"a": T}, "epoch": N}, "", "net", ["a"], ["model", "epoch"], id="only"),
        pytest.param({"net": {"a": T}, "optimizer": {"b": T}}, "", "net", ["a"], ["optimizer"], id="not-optimizer"),
        pytest.param({"g": {"a": T}, "d": {"a": T}}, "", "", ["d.a", "g.a"], [], id="two"),
        pytest.param({"g": {"a": T}, "d": {"a": T}, "rng_state": T}, "", "", ["d.a", "g.a"], ["rng_state"], id="rng"),
        pytest.param({"net": {"a": T}, "b": T}, "", "", ["b", "net.a"], [], id="beside"),
        pytest.param({"x": {"y": {"a": T}}, "b": T}, "x.y", "x.y", ["a"], ["b"], id="dotted"),
        pytest.param({"x.y": {"a": T}, "x": {"y": {"b": T}}}, "x.y", "x.y", ["a"], ["x"], id="longest"),
        pytest.param({"optimizer": {"m": T}}, "optimizer", "optimizer", ["m"], [], id="asked-for"),
        pytest.param({"a": T, "l": [T], "i": {0: T}, "n": N}, "", "", ["a"], ["l", "i", "n"], id="rest"),
    ],
)
def test_select(tree: Any, key: str, chosen: str, names: list[str], extras: list[str]) -> None:
    """The obvious state dict, or the one that is asked for; the rest is listed."""
    found = select(Loaded(tree, {"0": (8, 4)}), key, "m.pt")
    assert (found.key, sorted(found.tensors), [extra.name for extra in found.extras]) == (chosen, names, extras)


@pytest.mark.parametrize(
    ("tree", "key", "said", "hint"),
    [
        pytest.param({"a": {"b": T}}, "x", "no 'x' in it", "there is: 'a'", id="key"),
        pytest.param({"a": {"b": T}}, "a.x", "no 'x' in 'a'", "there is: 'b'", id="inner-key"),
        pytest.param({"a": {"b": T}}, "a.b", "a tensor F32 [2], not a state dict", "'a'", id="tensor"),
        pytest.param({"a": N, "b": T}, "a", "int 3, not a state dict", "'a', 'b'", id="number"),
        pytest.param(T, "", "it holds a tensor F32 [2], not a state dict", "inspect", id="one-tensor"),
        pytest.param({"a": {"x": N}, "b": T}, "a", "no tensors in 'a'", "'a', 'b'", id="no-tensors"),
        pytest.param({"a": {"b": T}, "a.b": T}, "", "two tensors are called 'a.b'", "", id="two-names"),
        pytest.param({"\ud800": T}, "", "not Unicode", "", id="surrogate"),
        pytest.param({}, "", "holds no tensors", "inspect", id="nothing"),
    ],
)
def test_select_refuses(tree: Any, key: str, said: str, hint: str) -> None:
    """A wrong key says what there is."""
    with pytest.raises(CheckpointError) as caught:
        select(Loaded(tree, {"0": (8, 4)}), key, "m.pt")
    assert said in caught.value.message and hint in caught.value.hint


def test_extras_cost_once() -> None:
    """A storage costs the weights, or the first that has it; texts cost their length."""
    other = Stored("F32", (2,), "1", 0, 8, (2,), (1,), 4)
    tree = {
        "state_dict": {"a": T},
        "same": [T],
        "opt": {0: other},
        "again": [other, other],
        "text": Leaf("str of 5", 5),
    }
    found = select(Loaded(tree, {"0": (8, 4), "1": (80, 4)}), "", "m.pt")
    assert [(e.name, e.nbytes) for e in found.extras] == [("same", 0), ("opt", 80), ("again", 0), ("text", 5)]
