from __future__ import annotations

import errno
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerkit.checkpoint.convert import Lost, VirtualFile, convert, write
from layerkit.checkpoint.hashing import hash_weights
from layerkit.checkpoint.opening import open_weights
from layerkit.checkpoint.recipe import Options
from layerkit.errors import CheckpointError, ConfigurationError, LocalResourceError

torch: Any = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from .states import own, same, save_sharded, states  # noqa: E402

pytestmark = pytest.mark.torch
EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def whole(file: VirtualFile, offset: int = 0) -> bytes:
    return b"".join(bytes(chunk) for chunk in file.open(offset))


def made(path: Path, options: Options | None = None) -> bytes:
    (file,) = convert(path, options).files
    content = whole(file)
    assert len(content) == file.size
    return content


def save(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


@EXAMPLES
@given(state=states())
def test_as_safetensors_writes_it(state: OrderedDict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """To the byte what safetensors.torch.save_file writes of the same tensors, whatever their order and layout."""
    folder = tmp_path_factory.mktemp("c")
    save_file(own(state), folder / "expected.safetensors", metadata={"format": "pt"})
    expected = (folder / "expected.safetensors").read_bytes()
    assert made(save({"state_dict": state, "epoch": 1}, folder / "a.pt")) == expected
    assert made(save(OrderedDict(reversed(state.items())), folder / "b.pt")) == expected
    assert made(save_sharded(own(state), folder / "sharded")) == expected
    assert made(folder / "expected.safetensors") == expected


@EXAMPLES
@given(state=states(), cut=st.floats(0, 1), dtype=st.sampled_from(["", "float16", "bfloat16"]))
def test_opens_anywhere(
    state: OrderedDict[str, Any], cut: float, dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From any byte on it is the rest of the same file: an upload can go on where it stopped."""
    path = save(state, tmp_path_factory.mktemp("c") / "a.pt")
    (file,) = convert(path, Options(dtype=dtype)).files
    content = whole(file)
    offset = int(cut * (file.size + 1))
    assert whole(file, offset) == content[offset:]
    taken = [memoryview(bytearray(48)) for _ in range(100_000 // 48)]
    chunks = file.read(offset, lambda: taken[0])
    assert b"".join(bytes(chunk) for chunk in chunks) == content[offset:]


def test_larger_than_a_chunk(tmp_path: Path) -> None:
    """Offsets inside of large tensors, cast or not, strided or not."""
    big = torch.randn(1500, 1001)
    path = save({"a": big, "b": big.t(), "c": torch.arange(700_000)}, tmp_path / "a.pt")
    for dtype in ("", "float16"):
        (file,) = convert(path, Options(dtype=dtype)).files
        content = whole(file)
        for offset in (1, 999_999, 2_000_003, 5_000_017, file.size - 1, file.size):
            assert whole(file, offset) == content[offset:]


@EXAMPLES
@given(state=states(), dtype=st.sampled_from(["float16", "bfloat16"]))
def test_dtype(state: OrderedDict[str, Any], dtype: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Floating-point tensors are rounded as PyTorch rounds; all others stay as they are, and NaN stays NaN."""
    folder = tmp_path_factory.mktemp("c")
    write(convert(save(state, folder / "a.pt"), Options(dtype=dtype)), folder / "b.safetensors")
    found = load_file(folder / "b.safetensors")
    floating = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    for name, tensor in state.items():
        if tensor.dtype in floating:
            expected = tensor.to(torch.float32).to(getattr(torch, dtype))
            assert found[name].dtype == expected.dtype and torch.equal(
                found[name].nan_to_num(7.0), expected.nan_to_num(7.0)
            )
            assert torch.equal(found[name].isnan(), expected.isnan())
        else:
            assert same({name: found[name]}, {name: tensor})


@pytest.mark.parametrize(("dtype", "nan"), [("float16", 0x7E00), ("bfloat16", 0x7FC0)])
def test_nan_is_one(dtype: str, nan: int, tmp_path: Path) -> None:
    """Every NaN becomes the same one, wherever in the tensor: PyTorch's own depends on the processor."""
    for source in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        tensor = torch.full((1003,), float("nan"), dtype=source)
        tensor[::2] *= -1
        content = made(save({"a": tensor}, tmp_path / "a.pt"), Options(dtype=dtype))
        unchanged = source == getattr(torch, dtype)
        assert unchanged or content.endswith(nan.to_bytes(2, "little") * 1003)


def test_what_is_lost(tmp_path: Path) -> None:
    """The report has the largest absolute and relative error of each tensor, and how many values overflow."""
    state = {
        "a": torch.tensor([1.0, 1.0001, -2.0, 0.0]),
        "b": torch.tensor([1e6, -1e6, 65504.0, float("inf"), float("nan")]),
        "c": torch.tensor([1e-9]),
        "d": torch.arange(4),
        "e": torch.ones(3, dtype=torch.float16),
    }
    conversion = convert(save(state, tmp_path / "a.pt"), Options(dtype="float16"))
    assert conversion.cast == ("a", "b", "c")
    lost = write(conversion, tmp_path / "b.safetensors")
    exact = abs(float(torch.tensor(1.0001)) - 1.0)
    assert lost == {
        "a": Lost(exact, pytest.approx(exact / float(torch.tensor(1.0001))), 0),
        "b": Lost(0.0, 0.0, 2),
        "c": Lost(pytest.approx(1e-9), 1.0, 0),
    }


def test_options(tmp_path: Path) -> None:
    """A key, a prefix and globs decide what is in it; what had no effect is said."""
    state = {"module.fc.weight": torch.ones(2), "module.fc.bias": torch.ones(1), "step": torch.tensor(3)}
    path = save({"net": {"ema": state}, "model": {"x": torch.ones(9)}}, tmp_path / "resnet.pth.tar")
    options = Options(key="net.ema", strip_prefix="module.", drop=("*.bias", "none.*"))
    conversion = convert(path, options)
    write(conversion, tmp_path / "b.safetensors")
    assert sorted(load_file(tmp_path / "b.safetensors")) == ["fc.weight", "step"]
    assert (conversion.renamed, conversion.dropped, conversion.unused) == (2, ("fc.bias",), ("none.*",))
    assert conversion.files[0].path == "resnet.safetensors" and conversion.source_size == path.stat().st_size
    assert [info.name for info in conversion.tensors] == ["fc.weight", "step"]


@pytest.mark.parametrize(
    ("state", "options", "error", "said"),
    [
        pytest.param(
            {"a": 1, "m.a": 1}, Options(strip_prefix="m."), CheckpointError, "two tensors are called 'a'", id="two"
        ),
        pytest.param({"a": 1}, Options(drop=("*",)), CheckpointError, "no tensor is left", id="none"),
        pytest.param({"a": 1}, Options(key="x"), CheckpointError, "no 'x' in it", id="key"),
        pytest.param({"__metadata__": 1}, Options(), CheckpointError, "reserves", id="reserved"),
    ],
)
def test_refused(state: Any, options: Options, error: Any, said: str, tmp_path: Path) -> None:
    """What cannot be converted is said before anything is read or written."""
    path = save({name: torch.ones(1) for name in state}, tmp_path / "a.pt")
    with pytest.raises(error, match=said):
        convert(path, options)


def test_unknown_dtype() -> None:
    """Only the dtypes of inference."""
    with pytest.raises(ConfigurationError, match="'int8' is no dtype"):
        Options(dtype="int8")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.pt", "a"), ("a.pth.tar", "a"), ("v1.2.bin", "v1.2"), (".pt", "model"), ("a", "a"), ("a.safetensors", "a")],
)
def test_name(name: str, expected: str, tmp_path: Path) -> None:
    """The file is called as the checkpoint, with its own ending."""
    assert (
        convert(save({"a": torch.ones(1)}, tmp_path / "x").rename(tmp_path / name)).files[0].path
        == f"{expected}.safetensors"
    )


def test_keeps_the_weights_hash(tmp_path: Path) -> None:
    """A conversion that changes nothing has the same weights hash."""
    path = save({"model": {"a": torch.randn(5, 4).t(), "b": torch.ones(1).expand(7)}}, tmp_path / "a.pt")
    write(convert(path), tmp_path / "b.safetensors")
    assert hash_weights(open_weights(path)) == hash_weights(open_weights(tmp_path / "b.safetensors"))


# ------------------------------------------------------------------------------------------------------------- writing


def test_no_overwriting(tmp_path: Path) -> None:
    """A file that is there stays, unless it is forced; what is converted stays in any case, by whatever name."""
    path = save({"a": torch.ones(3)}, tmp_path / "a.pt")
    conversion, target = convert(path), tmp_path / "b.safetensors"
    before = path.read_bytes()
    target.write_bytes(b"old")
    with pytest.raises(ConfigurationError, match="there already"):
        write(conversion, target)
    assert target.read_bytes() == b"old"
    write(conversion, target, force=True)
    assert load_file(target)["a"].tolist() == [1.0] * 3
    link, hard = tmp_path / "link", tmp_path / "hard"
    link.symlink_to(path)
    hard.hardlink_to(path)
    for place in (path, link, hard):
        with pytest.raises(ConfigurationError, match="not written over"):
            write(conversion, place, force=True)
    for place in (tmp_path, tmp_path / "none" / "x"):
        with pytest.raises(ConfigurationError, match="folder"):
            write(conversion, place)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.pt", "b.safetensors", "hard", "link"]


def test_a_file_that_comes_meanwhile(tmp_path: Path) -> None:
    """What somebody else writes there meanwhile is not lost."""
    target = tmp_path / "b.safetensors"
    conversion = convert(save({"a": torch.ones(3)}, tmp_path / "a.pt"))
    with pytest.raises(ConfigurationError, match="there already"):
        write(conversion, target, on_write=lambda count: target.write_bytes(b"theirs") and None)
    assert target.read_bytes() == b"theirs" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO])
def test_no_room(reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves nothing behind, and says how much is needed."""
    conversion, target = convert(save({"a": torch.ones(3)}, tmp_path / "a.pt")), tmp_path / "b.safetensors"

    def full(handle: int, data: Any) -> int:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LocalResourceError, match="cannot be written") as caught:
        write(conversion, target)
    monkeypatch.undo()
    assert ("it takes" in caught.value.hint) == (reason == errno.ENOSPC)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C, or a checkpoint that changes meanwhile, leaves the old file and nothing else."""
    path, target = save({"a": torch.ones(3)}, tmp_path / "a.pt"), tmp_path / "b.safetensors"
    target.write_bytes(b"old")

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(convert(path), target, force=True, on_write=stop)
    conversion = convert(path)
    os.truncate(path, 100)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        write(conversion, target, force=True)
    assert target.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2


def test_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links is written to as well."""

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "not here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write(convert(save({"a": torch.ones(3)}, tmp_path / "a.pt")), tmp_path / "b.safetensors")
    assert sorted(load_file(tmp_path / "b.safetensors")) == ["a"]
