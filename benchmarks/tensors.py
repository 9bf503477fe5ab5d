"""The weights hash beside plain SHA-256, and conversion beside safetensors' own writer.

    .venv/bin/python benchmarks/tensors.py --size 1GiB --rounds 7 [--json FILE]

Each round runs what is compared right after one another, in turn, on the same file in the page cache; the ratio is
the median over the rounds. Plain SHA-256 is hashlib on two threads, each over one half of the file's bytes, read
by 1 MiB into one buffer: the fastest that this machine does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
CHUNK = 2**20


def parse_size(text: str) -> int:
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)


def make(folder: Path, size: int) -> None:
    """A decoder of *size* bytes in fp16, with its small tensors too: as .safetensors, .pt and in the legacy format."""
    import torch
    from safetensors.torch import save_file

    width = 1024
    block = {
        "attn.q.weight": (width, width), "attn.k.weight": (width, width), "attn.v.weight": (width, width),
        "attn.o.weight": (width, width), "mlp.up.weight": (4 * width, width), "mlp.down.weight": (width, 4 * width),
        "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    tensors = {"embed.weight": torch.randn(32_000, width, generator=generator).half()}
    total, layer = 32_000 * width * 2, 0
    while total < size:
        for name, shape in block.items():
            tensor = torch.randn(shape, generator=generator).half()
            tensors[f"layers.{layer}.{name}"] = tensor
            total += tensor.nbytes
        layer += 1
    save_file(tensors, folder / "model.safetensors")
    torch.save({"state_dict": tensors, "epoch": 3}, folder / "model.pt")


def plain(path: Path) -> None:
    """SHA-256 of each half of the file, on a thread each."""
    total = path.stat().st_size

    def half(start: int, end: int) -> None:
        state, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK))
        with path.open("rb", buffering=0) as stream:
            stream.seek(start)
            while start < end:
                count = stream.readinto(buffer[: min(CHUNK, end - start)]) or 0
                state.update(buffer[:count])
                start += count

    threads = [threading.Thread(target=half, args=pair) for pair in ((0, total // 2), (total // 2, total))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def digest(path: Path) -> None:
    from layerkit.checkpoint.hashing import hash_weights
    from layerkit.checkpoint.opening import open_weights

    hash_weights(open_weights(path), threads=2)


def ours(path: Path, out: Path) -> None:
    from layerkit.checkpoint.convert import convert, write

    write(convert(path), out, force=True)


def theirs(path: Path, out: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(torch.load(path, weights_only=True, mmap=True)["state_dict"], out, metadata={"format": "pt"})
    with out.open("rb") as stream:  # as ours: what was written is on the disk
        os.fsync(stream.fileno())


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak(code: str) -> int:
    """MiB of memory that *code* needed beyond importing what it needs, in a process of its own."""
    # Not ru_maxrss, which a process inherits from the one that started it.
    shown = f"""
import re, pathlib, torch
from layerkit.checkpoint.convert import convert, write
from layerkit.checkpoint.hashing import hash_weights
from layerkit.checkpoint.opening import open_weights
from layerkit.checkpoint.recipe import Options

def high():
    return int(re.search("VmHWM:\\s+([0-9]+)", pathlib.Path("/proc/self/status").read_text())[1])

torch.randn(2**18).half().double()
before = high()
{code}
print(high() - before)
"""
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return int(done.stdout) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=parse_size, default=2**30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="layerkit-bench-") as name:
        folder = Path(name)
        make(folder, options.size)
        st, pt, out = folder / "model.safetensors", folder / "model.pt", folder / "out.safetensors"
        total = st.stat().st_size
        runs: dict[str, Callable[[], None]] = {
            "plain SHA-256, 2 threads": lambda: plain(st),
            "weights hash, safetensors": lambda: digest(st),
            "weights hash, torch.save": lambda: digest(pt),
        }
        writers: dict[str, Callable[[], None]] = {
            "torch.load + safetensors.save_file": lambda: theirs(pt, out),
            "layerkit convert": lambda: ours(pt, out),
        }
        times: dict[str, list[float]] = {key: [] for key in (*runs, *writers)}
        for run in runs.values():
            run()  # into the page cache, and torch imported
        for number in range(options.rounds):
            names = list(runs)
            for key in names[number % 3 :] + names[: number % 3]:
                times[key].append(seconds(runs[key]))
        for number in range(max(3, options.rounds // 2)):
            for key in list(writers)[:: 1 if number % 2 else -1]:
                out.unlink(missing_ok=True)
                times[key].append(seconds(writers[key]))
        result = {
            "bytes": total,
            "rounds": options.rounds,
            "seconds": {key: statistics.median(values) for key, values in times.items()},
            "ratio": {
                key: statistics.median(
                    a / b for a, b in zip(times["plain SHA-256, 2 threads"], times[key], strict=True)
                )
                for key in list(runs)[1:]
            },
            "conversion_ratio": statistics.median(a / b for a, b in zip(*(times[key] for key in writers), strict=True)),
            "peak_mib": {
                "weights hash": peak(f"hash_weights(open_weights({str(pt)!r}))"),
                "conversion to bfloat16": peak(
                    f"write(convert({str(pt)!r}, Options(dtype='bfloat16')), pathlib.Path({str(out)!r}), force=True)"
                ),
            },
        }
    print(f"{total / 2**30:.2f} GiB, {options.rounds} rounds, medians; {os.cpu_count()} processors")
    for key, value in result["seconds"].items():  # type: ignore[attr-defined]
        print(f"  {key:36} {value:6.2f} s  {total / value / 1e9:5.2f} GB/s")
    for key, value in result["ratio"].items():  # type: ignore[attr-defined]
        print(f"  {key}: {value:.2f} of plain SHA-256's speed")
    print(f"  conversion: {result['conversion_ratio']:.2f} of save_file's speed")
    for key, value in result["peak_mib"].items():  # type: ignore[attr-defined]
        print(f"  {key}: {value} MiB of memory")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
