"""What torch.save writes, read without torch.load: against torch.load and safetensors themselves."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from layerkit.checkpoint import select
from layerkit.checkpoint import tensors as tensors_module
from layerkit.checkpoint.hashing import hash_weights
from layerkit.checkpoint.loading import load_weights
from layerkit.checkpoint.opening import look, open_weights
from layerkit.checkpoint.reader import CHUNK, Reader
from layerkit.errors import CheckpointError, LocalResourceError

torch: Any = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from .states import own, same, save_sharded, states  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),  # by torch's own legacy writer
]
EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def save(state: Any, path: Path, *, legacy: bool = False) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


def canonical(path: Path, key: str = "", *, take: int = CHUNK) -> dict[str, bytes]:
    """Every tensor's canonical bytes, as the reader gives them."""
    weights = open_weights(path, key)
    with Reader() as reader:
        return {
            tensor.name: b"".join(bytes(c) for c in reader.read(tensor, lambda: memoryview(bytearray(take))))
            for tensor in weights.tensors
        }


def raw(tensor: Any) -> bytes:
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


@EXAMPLES
@given(state=states())
def test_same_in_every_format(state: OrderedDict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """One weights hash in ZIP, legacy, safetensors and shards, for any dtype, stride, order and sharing of storage."""
    folder = tmp_path_factory.mktemp("w")
    plain = own(state)
    save_file(plain, folder / "m.safetensors")
    shuffled = OrderedDict(reversed(state.items()))
    paths = [
        save(state, folder / "a.pt"),
        save({"state_dict": shuffled, "epoch": 3}, folder / "b.pth.tar"),
        save({"net": {"model": state}, "optimizer": {"state": {0: torch.ones(3)}}}, folder / "c.bin"),
        save(plain, folder / "d.pt"),
        folder / "m.safetensors",
        save_sharded(plain, folder / "sharded"),
        save(shuffled, folder / "l.pt", legacy=True),
    ]
    keys = ["", "", "net.model", "", "", "", ""]
    hashes = [hash_weights(open_weights(path, key)) for path, key in zip(paths, keys, strict=True)]
    assert len({found.digest for found in hashes}) == 1
    assert all(found == hashes[0] for found in hashes)


@EXAMPLES
@given(state=states())
def test_round_trip(state: OrderedDict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The canonical bytes are PyTorch's, and load_weights gives back what was saved, bit for bit."""
    folder = tmp_path_factory.mktemp("w")
    path = save({"state_dict": state}, folder / "a.pt")
    assert canonical(path, take=16) == {name: raw(tensor) for name, tensor in state.items()}
    save_file(own(state), folder / "m.safetensors")
    assert same(load_weights(path), state)
    assert same(load_weights(folder / "m.safetensors"), state)
    assert same(load_weights(save(state, folder / "l.pt", legacy=True)), state)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda t: t.t(), id="transposed"),
        pytest.param(lambda t: t[:, 3], id="column"),
        pytest.param(lambda t: t[::7, 5:1900:2], id="stepped"),
        pytest.param(lambda t: t[1:, :-1].t()[::2], id="cut-and-transposed"),
        pytest.param(lambda t: t[:1500].view(5, 300, 2000).permute(2, 0, 1), id="permuted"),
        pytest.param(lambda t: t[0].expand(1700, 2000).t(), id="repeated"),
    ],
)
@pytest.mark.parametrize("start", [0, 16, 1_000_000])
def test_strided_piece_by_piece(
    view: Callable[[Any], Any], start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large tensor in another order is put in order by blocks, from any byte on."""
    monkeypatch.setattr(tensors_module, "BLOCK", 200_000)
    made = view(torch.arange(1700 * 2000, dtype=torch.int32).view(1700, 2000))
    (tensor,) = open_weights(save({"a": made}, tmp_path / "a.pt")).tensors
    expected = made.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    with Reader() as reader:
        chunks = reader.read(tensor, lambda: memoryview(bytearray(CHUNK)), start)
        assert b"".join(bytes(chunk) for chunk in chunks) == expected[start:]


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A strided tensor of 128 MiB is hashed in a fraction of its size."""
    big = torch.zeros(4096, 8192)
    save({"a": big.t(), "b": big[:, 1:100]}, tmp_path / "a.pt")
    code = (
        "import re, sys, torch\nfrom layerkit.checkpoint.hashing import hash_weights\n"
        "from layerkit.checkpoint.opening import open_weights\n"
        "def high(): return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "weights = open_weights(sys.argv[1]); before = high(); hash_weights(weights); print(high() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pt")], capture_output=True, text=True, timeout=100, check=True
    )
    assert int(done.stdout) < 80 * 1024  # KiB


def test_same_as_torch_load(tmp_path: Path) -> None:
    """The unpickler that is used is PyTorch's own, and gives what torch.load(weights_only=True) gives."""
    layer = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = {"model": layer.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "lr": 0.1}
    for legacy in (False, True):
        path = save(state, tmp_path / f"{legacy}.pt", legacy=legacy)
        weights = open_weights(path)
        assert weights.key == "model" and weights.format == ("legacy" if legacy else "torch")
        assert same(load_weights(path), torch.load(path, weights_only=True)["model"])
        extras = {extra.name: extra for extra in weights.extras}
        assert set(extras) == {"optimizer", "rng", "lr"} and extras["lr"].kind == "float 0.1"
        assert extras["rng"].nbytes == torch.get_rng_state().nbytes
        moments = sum(2 * p.nbytes + 4 for p in layer.parameters())
        assert extras["optimizer"].nbytes >= moments


def test_shared(tmp_path: Path) -> None:
    """Tied weights are found, counted once in the file, and are the same memory when loaded."""
    tied = torch.randn(8, 4)
    path = save({"embed": tied, "head": tied, "row": tied[2], "other": torch.randn(3)}, tmp_path / "a.pt")
    weights = open_weights(path)
    assert weights.shared == (("embed", "head", "row"),)
    assert (weights.nbytes, weights.stored) == (2 * 128 + 16 + 12, 128 + 12)
    loaded = load_weights(path)
    loaded["embed"][2, 0] = 7.0
    assert loaded["head"][2, 0] == loaded["row"][0] == 7.0
    assert torch.load(path, weights_only=True)["embed"][2, 0] != 7.0  # the file is as it was


def test_big_endian(tmp_path: Path) -> None:
    """What a big-endian machine saved has the same canonical bytes."""
    state = {"a": torch.arange(5, dtype=torch.int32), "c": torch.tensor([1 + 2j]), "t": torch.ones(2, 3).t()}
    little, big = save(state, tmp_path / "a.pt"), tmp_path / "b.pt"
    with zipfile.ZipFile(little) as source, zipfile.ZipFile(big, "w") as target:
        for record in source.infolist():
            data = source.read(record)
            if record.filename.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in record.filename and not record.filename.endswith("id"):
                data = b"".join(data[i : i + 4][::-1] for i in range(0, len(data), 4))
            target.writestr(record.filename, data)
    assert canonical(big) == canonical(little) and same(load_weights(big), state)


def test_loads_without_safetensors(tmp_path: Path) -> None:
    """load_weights needs torch alone: no safetensors, nothing that layerkit's other parts are made with."""
    save_sharded({"a": torch.arange(3.0), "b": torch.ones(2)}, tmp_path / "m")
    blocked = ("safetensors", "numpy", "pydantic", "click", "urllib3", "python_on_whales", "tomli", "tenacity", "rich")
    code = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "import warnings; warnings.simplefilter('error')\n"
        "warnings.filterwarnings('ignore', message='Failed to initialize NumPy')\n"
        "from layerkit.checkpoint.loading import load_weights\n"
        "found = load_weights(sys.argv[1]); print(sorted(found), found['a'].tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m")], capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "['a', 'b'] [0.0, 1.0, 2.0]\n", done.stderr


def test_foreign_safetensors(tmp_path: Path) -> None:
    """A file whose writer did not align its tensors loads as well."""
    header = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    )
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x07" + torch.tensor([1.5, -2.0]).numpy().tobytes())
    assert same(load_weights(path), load_file(path)) and load_weights(path)["b"].tolist() == [1.5, -2.0]


# ------------------------------------------------------------------------------------------------------------- hostile


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_evil(tmp_path: Path) -> None:
    """A pickle with code is never run; inspect says what it asks for (FAULTS 49)."""
    target = tmp_path / "owned"
    for legacy in (False, True):
        path = save({"state_dict": {"a": torch.ones(2)}, "x": Evil(target)}, tmp_path / "a.pt", legacy=legacy)
        with pytest.raises(CheckpointError, match=r"posix.mkdir.*beyond PyTorch's safe list"):
            open_weights(path)
        found = look(path)
        assert found.unsafe == ("posix.mkdir",) and found.weights is None and "not loaded" in found.reason
        assert not target.exists()


class Whole(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)


def test_whole_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model saved as a whole is not loaded, and the way out is named."""
    model = Whole()
    monkeypatch.setattr(Whole, "__module__", "project")
    monkeypatch.setitem(sys.modules, "project", sys.modules[__name__])
    path = save(model, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        open_weights(path)
    assert "project.Whole" in caught.value.message and "state_dict()" in caught.value.hint


def twin(path: Path, content: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """An archive with a pickle of our own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", content)
        for key, data in (storages or {}).items():
            archive.writestr(f"m/data/{key}", data)
    return path


def tensor_pickle(*, size: Any = (2,), stride: Any = (1,), offset: int = 0, count: int = 2, key: str = "0") -> bytes:
    """The pickle of {"a": tensor} with numbers of our own."""
    stream = io.BytesIO()

    class Storage:
        pass

    class Pickler(pickle._Pickler):  # type: ignore[name-defined,misc] - the one in C has no persistent_id for classes
        def persistent_id(self, item: Any) -> Any:
            return ("storage", torch.FloatStorage, key, "cpu", count) if isinstance(item, Storage) else None

    class Rebuild:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, OrderedDict())

    Pickler(stream, 2).dump({"a": Rebuild()})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(tensor_pickle(size=(3,)), "reaches out of its storage", id="too-long"),
        pytest.param(tensor_pickle(offset=1), "reaches out of its storage", id="offset"),
        pytest.param(tensor_pickle(size=(2, 2), stride=(2**40, 1)), "reaches out of its storage", id="stride"),
        pytest.param(tensor_pickle(count=2**50, size=(2**50,)), "not there as a whole", id="huge"),
        pytest.param(tensor_pickle(count=1), "not there as a whole", id="short-record"),
        pytest.param(tensor_pickle(key="7"), "not there as a whole", id="no-record"),
        pytest.param(tensor_pickle(size=(2**40, 2), stride=(0, 1)), "repeating elements", id="expanded"),
        pytest.param(tensor_pickle(count=-1), "cannot be unpickled safely", id="negative"),
        pytest.param(b"", "cannot be unpickled safely", id="empty"),
        pytest.param(b"\x80\x02", "cannot be unpickled safely", id="cut"),
        pytest.param(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}.", "cannot be unpickled safely", id="protocol-4"),
        pytest.param(b"\x80\x02c__builtin__\nbytearray\nK\x05\x85R.", "holds a bytearray", id="bytearray"),
        pytest.param(b"\x80\x02]q\x00h\x00a.", "holds itself", id="cycle"),
        pytest.param(b"\x80\x02" + b"(" * 500 + b"t" * 500 + b".", "too deeply", id="deep"),
        pytest.param(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00idR.", "posix.system|os.system", id="os"),
        pytest.param(b"\x80\x02}X\x01\x00\x00\x00aN.", "holds None, not a state dict", id="none"),
        pytest.param(b"\x80\x02K\x05.", "not a state dict", id="number"),
        pytest.param(b"\x80\x02}.", "no tensors", id="no-tensors"),
    ],
)
def test_hostile_pickle(content: bytes, said: str, tmp_path: Path) -> None:
    """A pickle with numbers that lie, or that is none, is an error of the checkpoint, in no time and memory."""
    path = twin(tmp_path / "a.pt", content, {"0": bytes(8)})
    with pytest.raises(CheckpointError, match=said) as caught:
        open_weights(path)
    assert "\x1b" not in caught.value.message and caught.value.exit_status == 3


def test_hostile_pickle_of_dicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dicts in dicts, each twice: 2^60 names in a few bytes are not listed."""
    monkeypatch.setattr(select, "_MOST", 10_000)
    content = b"\x80\x02}q\x00X\x01\x00\x00\x00aK\x01s"
    for level in range(60):
        content += b"}q" + bytes([level + 1]) + b"(X\x01\x00\x00\x00ah" + bytes([level])
        content += b"X\x01\x00\x00\x00bh" + bytes([level]) + b"u"
    with pytest.raises(CheckpointError, match="over 10000 tensors"):
        open_weights(twin(tmp_path / "a.pt", content + b"."))


@pytest.mark.parametrize("legacy", [False, True])
def test_cut_anywhere(legacy: bool, tmp_path: Path) -> None:
    """Cut at any place, a checkpoint is refused."""
    path = save({"state_dict": {"a": torch.arange(100.0), "b": torch.ones(3)}}, tmp_path / "a.pt", legacy=legacy)
    content = path.read_bytes()
    for length in [*range(1, len(content) - 1, 37), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            open_weights(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        pytest.param(lambda: torch.eye(3).to_sparse(), "sparse_coo", id="sparse"),
        pytest.param(lambda: torch.ones(2, dtype=torch.complex64).conj(), "conjugate", id="conjugate"),
        pytest.param(lambda: torch.empty(2, device="meta"), "without values", id="meta"),
    ],
)
def test_tensors_without_plain_bytes(value: Callable[[], Any], said: str, tmp_path: Path) -> None:
    """A tensor that has no plain bytes is named, not hashed as something else."""
    path = save({"state_dict": {"w": value()}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=f"tensor 'w'.*{said}"):
        open_weights(path)


def test_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch a pickled checkpoint is 11 with the install line; safetensors is read all the same."""
    path = save({"a": torch.ones(2)}, tmp_path / "a.pt")
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    expected = hash_weights(open_weights(path))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(LocalResourceError) as caught:
        open_weights(path)
    assert "pip install 'layerkit[torch]'" in caught.value.hint and "whl/cpu" in caught.value.hint
    assert hash_weights(open_weights(tmp_path / "a.safetensors")) == expected


def test_unknown_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PyTorch whose unpickler is another is said, not guessed around."""
    path = save({"a": torch.ones(2)}, tmp_path / "a.pt")
    monkeypatch.delattr("torch._weights_only_unpickler.Unpickler")
    with pytest.raises(LocalResourceError, match="weights_only unpickler"):
        open_weights(path)
