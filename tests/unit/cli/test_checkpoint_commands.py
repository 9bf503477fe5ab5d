from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from layerkit.checkpoint.safetensors import layout
from layerkit.cli.checkpoint import checkpoint

from .conftest import Run


def write(path: str = "m.safetensors") -> Path:
    """A safetensors file of three tensors."""
    tensors = {"fc.weight": ("F32", (2, 3), bytes(24)), "fc.bias": ("F16", (2,), bytes(4)), "n": ("I64", (), bytes(8))}
    head, entries = layout((name, dtype, shape) for name, (dtype, shape, _) in tensors.items())
    Path(path).write_bytes(head + b"".join(tensors[entry.name][2] for entry in entries))
    return Path(path)


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """What a training run saves."""
    torch: Any = pytest.importorskip("torch")
    weight = torch.arange(6.0).view(2, 3)
    state = {"fc.weight": weight, "tied": weight, "fc.bias": torch.tensor([1e6, 2.0]), "n": torch.tensor(3)}
    path = Path("model.pth.tar")
    torch.save({"state_dict": state, "epoch": 90, "optimizer": {"state": {0: torch.ones(100)}}}, path)
    return path


@pytest.mark.parametrize("command", ["", "inspect", "digest", "convert"])
def test_help(run: Run, command: str) -> None:
    """Each explains itself, with each of its options."""
    done = run("checkpoint", *filter(None, [command]), "--help")
    assert done.status == 0 and "Usage: layerkit checkpoint" in done.out
    found = checkpoint.commands.get(command)
    for parameter in found.params if found else ():
        assert all(option in done.out for option in parameter.opts if option.startswith("--"))


# ------------------------------------------------------------------------------------------------------------- inspect


def test_inspect(run: Run) -> None:
    """Format, tensors, parameters, sizes by dtype and module."""
    write()
    done = run("checkpoint", "inspect", "m.safetensors")
    assert (done.status, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert done.out.startswith("m.safetensors: safetensors, ")
    assert "weights: 3 tensors, 9 parameters, 36 B" in done.out
    assert ["F32", "1", "tensor", "6", "24", "B"] in lines and ["fc", "2", "tensors", "8", "28", "B"] in lines
    document = json.loads(run("checkpoint", "inspect", "m.safetensors", "--json").out)
    assert (document["schema_version"], document["format"], document["weights"]["parameters"]) == (1, "safetensors", 9)
    assert document["weights"]["modules"]["fc"] == {"tensors": 2, "parameters": 8, "bytes": 28}
    assert document["tensors"][1] == {"name": "fc.weight", "dtype": "F32", "shape": [2, 3], "bytes": 24}
    assert document["unsafe_globals"] == [] and document["not_weights"] == {"bytes": 0, "items": []}


@pytest.mark.torch
def test_inspect_pickled(run: Run, pickled: Path) -> None:
    """What is not weights and what it costs, what is shared, and where the weights were found."""
    done = run("checkpoint", "inspect", pickled)
    assert done.status == 0 and "weights in state_dict: 4 tensors, 15 parameters" in done.out
    assert "not weights: 400 B" in done.out and "int 90" in done.out and "fc.weight = tied" in done.out
    document = json.loads(run("checkpoint", "inspect", pickled, "--json", "--strict").out)
    assert document["weights"]["shared"] == [["fc.weight", "tied"]] and document["weights"]["key"] == "state_dict"
    items = {item["name"]: item["bytes"] for item in document["not_weights"]["items"]}
    assert items == {"epoch": 0, "optimizer": 400} and document["overhead_bytes"] > 0
    assert sum(file["bytes"] for file in document["files"]) == document["bytes"] == pickled.stat().st_size


@pytest.mark.torch
@pytest.mark.parametrize(("flags", "status"), [([], 0), (["--strict"], 3), (["--json", "--strict"], 3)])
def test_inspect_unsafe(run: Run, flags: list[str], status: int) -> None:
    """Globals beyond the safe list are listed, never loaded; 3 with --strict."""
    torch: Any = pytest.importorskip("torch")

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, ("owned",)

    torch.save({"a": torch.ones(1), "evil": Evil()}, "m.pt")
    done = run("checkpoint", "inspect", "m.pt", *flags)
    assert done.status == status and not Path("owned").exists()
    if "--json" in flags:
        document = json.loads(done.out)
        assert document["unsafe_globals"] == ["posix.mkdir"] and document["weights"] is None and document["reason"]
    else:
        assert "  posix.mkdir" in done.out
    refused = run("checkpoint", "digest", "m.pt")
    assert (refused.status, refused.out) == (3, "") and "posix.mkdir" in refused.err


def test_escapes(run: Run) -> None:
    """Names in a file do not talk to the terminal (FAULTS 56)."""
    head, _ = layout([("\x1b]0;owned\x07", "U8", (1,))])
    Path("m.safetensors").write_bytes(head + b"1")
    for command in (["inspect"], ["digest", "--tensors"]):
        done = run("checkpoint", *command, "m.safetensors")
        assert done.status == 0 and "\x1b" not in done.out and r"\x1b]0;owned" in done.out


def test_many_modules(run: Run) -> None:
    """A long list is cut for people, never for programs; one module above all is no answer."""
    head, _ = layout((f"model.layers{n:03}.w", "U8", (1,)) for n in range(40))
    Path("m.safetensors").write_bytes(head + bytes(40))
    done = run("checkpoint", "inspect", "m.safetensors")
    assert "… and 28 more" in done.out and "model.layers000" in done.out
    document = json.loads(run("checkpoint", "inspect", "m.safetensors", "--json").out)
    assert len(document["weights"]["modules"]) == len(document["tensors"]) == 40


@pytest.mark.parametrize("command", [["inspect"], ["digest"], ["convert", "OUT"]])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "nothing at 'm.safetensors'", id="missing"),
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\xff" * 100, "the format allows", id="header-length"),
        pytest.param(struct.pack("<Q", 2) + b"{}x", "belong to no tensor", id="more"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull", id="lfs"),
    ],
)
def test_bad_input(run: Run, command: list[str], content: bytes | None, said: str) -> None:
    """A file that cannot be used is 3 with the next step, an object with --json, and leaves nothing behind."""
    if content is not None:
        Path("m.safetensors").write_bytes(content)
    done = run("checkpoint", command[0], "m.safetensors", *command[1:])
    assert (done.status, done.out) == (3, "") and said in done.err.replace(str(Path.cwd()) + "/", "")
    assert "hint: " in done.err and not Path("OUT").exists()
    error = json.loads(run("checkpoint", command[0], "m.safetensors", *command[1:], "--json").out)["error"]
    assert error["exit_status"] == 3 and error["kind"] == "CheckpointError"


# -------------------------------------------------------------------------------------------------------------- digest


def test_digest(run: Run) -> None:
    """The weights hash alone on standard output; each tensor's with --tensors."""
    write()
    done = run("checkpoint", "digest", "m.safetensors")
    assert (done.status, done.err) == (0, "") and done.out.startswith("sha256:") and len(done.out) == 72
    lines = run("checkpoint", "digest", "m.safetensors", "--tensors").out.splitlines()
    assert lines[1] == f"sha256:{hashlib.sha256(bytes(24)).hexdigest()}  F32[2,3]  fc.weight"
    assert lines[-1] == done.out.strip() and len(lines) == 4
    document = json.loads(run("checkpoint", "digest", "m.safetensors", "--tensors", "--json").out)
    assert (document["kind"], document["digest"], document["tensors"]) == ("weights", lines[-1], 3)
    assert [item["digest"] for item in document["by_tensor"]] == [line.split()[0] for line in lines[:-1]]


@pytest.mark.torch
def test_digest_of_what_was_converted(run: Run, pickled: Path) -> None:
    """A conversion that changes no tensor has the same weights hash; a wrong key is 3 and says what there is."""
    before = run("checkpoint", "digest", pickled, "--key", "state_dict").out
    assert run("checkpoint", "convert", pickled, "out.safetensors").out == "out.safetensors\n"
    assert run("checkpoint", "digest", "out.safetensors").out == before
    done = run("checkpoint", "digest", pickled, "--key", "nope")
    assert done.status == 3 and "no 'nope' in it" in done.err and "hint: there is: 'state_dict'" in done.err


def test_digest_of_plain_bytes(run: Run) -> None:
    """What is no format of weights is taken by its bytes, and that is said."""
    Path("m.onnx").write_bytes(b"onnx")
    done = run("checkpoint", "digest", "m.onnx")
    assert done.out == f"sha256:{hashlib.sha256(b'onnx').hexdigest()}\n" and "sha256 of its bytes" in done.err
    assert json.loads(run("checkpoint", "digest", "m.onnx", "--json").out)["kind"] == "file"
    assert "its bytes are taken as they are" in run("checkpoint", "inspect", "m.onnx").out
    Path("d").mkdir()
    Path("d/a.onnx").write_bytes(b"onnx")
    assert run("checkpoint", "digest", "d").out == done.out


def test_no_torch_for_safetensors(tmp_path: Path) -> None:
    """safetensors files are inspected, hashed and converted without importing torch."""
    path = write(str(tmp_path / "m.safetensors"))
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom layerkit.cli.app import cli\n"
        "from layerkit.cli.checkpoint import checkpoint\n"
        "for words in (['inspect', P], ['digest', P], ['convert', P, P + '.out', '--drop', 'n']):\n"
        "    checkpoint.main(words, standalone_mode=False)\n"
    ).replace("P", repr(str(path)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------------------- convert


@pytest.mark.torch
def test_convert(run: Run, pickled: Path) -> None:
    """Bytes before and after, what was left out, and what another dtype lost, on standard error."""
    done = run(
        "checkpoint", "convert", pickled, "o.safetensors", "--dtype", "float16", "--drop", "tied", "--drop", "x*"
    )
    assert (done.status, done.out) == (0, "o.safetensors\n")
    for said in ("3 tensors of state_dict", "2 items, 400 B", "dropped: 1 tensor", "--drop x* matches no tensor",
                 "2 tensors; the largest errors:", "1 finite values are infinite"):  # fmt: skip
        assert said in done.err
    again = run("checkpoint", "convert", pickled, "o.safetensors")
    assert again.status == 2 and "there already" in again.err and "--force" in again.err
    forced = run("checkpoint", "convert", pickled, "o.safetensors", "--force", "--dtype", "bfloat16", "--json")
    document = json.loads(forced.out)
    assert document["bytes_after"] == Path("o.safetensors").stat().st_size < document["bytes_before"]
    assert document["errors"]["fc.bias"]["overflowed"] == 0 and document["errors"]["fc.bias"]["absolute"] > 0
    assert document["shared"] == [["fc.weight", "tied"]] and len(document["tensors"]) == 4


@pytest.mark.torch
def test_convert_prefix(run: Run) -> None:
    """A prefix that no name has is said."""
    torch: Any = pytest.importorskip("torch")
    torch.save({"module.a": torch.ones(1)}, "m.pt")
    run("checkpoint", "convert", "m.pt", "a.safetensors", "--strip-prefix", "module.")
    assert json.loads(run("checkpoint", "inspect", "a.safetensors", "--json").out)["tensors"][0]["name"] == "a"
    assert "no name begins with x." in run("checkpoint", "convert", "m.pt", "b.safetensors", "--strip-prefix", "x.").err


def test_convert_onto_itself(run: Run) -> None:
    """The checkpoint itself is never written over."""
    before = write().read_bytes()
    done = run("checkpoint", "convert", "m.safetensors", "./m.safetensors", "--force")
    assert done.status == 2 and "not written over" in done.err and Path("m.safetensors").read_bytes() == before
