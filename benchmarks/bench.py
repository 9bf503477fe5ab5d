"""layerkit beside what people use today, in one run against one registry: ``make bench SIZE=2GiB``.

Ratios matter, not seconds: contestants take turns, in another order each round, with the same fresh weights; medians
are quoted, every raw time is kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contestants import MIB, Bench, Times, random_file
from layerkit.cli.text import size as human

Case = Callable[[Bench, int], None]


def parse_size(text: str) -> int:
    """Bytes of ``2GiB``, ``256MiB``; raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KiB|MiB|GiB)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, as in 2GiB")
    return int(float(match[1]) * 1024 ** {"KiB": 1, "MiB": 2, "GiB": 3}[match[2]])


def swap(bench: Bench, rounds: int) -> None:
    """New weights, everything else cached and pushed before."""
    runs = {
        "layerkit": bench.layerkit_push,
        "buildx": bench.buildx_push,
        "buildx uncompressed": bench.buildx_push_uncompressed,
        "crane append": bench.crane,
        "oras push": bench.oras,
        "curl": bench.curl,
    }
    names = [name for name in runs if name not in ("crane append", "oras push") or shutil.which(name.split()[0])]
    for number in range(rounds):
        bench.clean()
        bench.prime()
        bench.new_weights()
        for name in names[number % len(names) :] + names[: number % len(names)]:
            bench.refresh()
            if name in ("crane append", "curl"):
                bench.prepare()
            bench.settle()
            bench.measure("swap", name, runs[name])
    bench.note("swap layerkit bytes", bench.last)


def swap_back(bench: Bench, rounds: int) -> None:
    """Weights swapped back to earlier ones, which the registry has."""
    for _ in range(rounds):
        bench.clean()
        bench.prime()
        bench.new_weights()
        bench.layerkit_push()
        kept = bench.weights.with_name("kept")
        bench.weights.rename(kept)
        bench.new_weights()
        bench.layerkit_push()
        kept.replace(bench.weights)
        bench.settle()
        bench.measure("swap back", "layerkit", bench.layerkit_push)
    bench.note("swap back bytes", bench.last)


def code_only(bench: Bench, rounds: int) -> None:
    """New code with an emptied builder: a large checkpoint against one of 1 MiB."""
    bench.clean()
    small = bench.sibling("small")
    random_file(small.weights, MIB)
    bench.new_weights()
    for project in (bench, small):
        project.layerkit_push()
    for number in range(rounds):
        pair = [(f"checkpoint {human(bench.size)}", bench), ("checkpoint 1.0 MiB", small)]
        for name, project in pair if number % 2 else reversed(pair):
            project.edit_code(number)
            bench.run("docker", "buildx", "prune", "-af")
            bench.settle()
            bench.measure("code only, emptied builder", name, project.layerkit_push)
            if project is bench:
                bench.note("code only bytes", {**project.last, "to builder": project.last["builder"]["bytes_sent"]})


def nothing(bench: Bench, rounds: int) -> None:
    """Nothing changed, and what the command line costs by itself."""
    bench.layerkit_push()
    for _ in range(max(rounds, 5)):
        bench.measure("nothing changed", "layerkit", bench.layerkit_push)
        for flag in ("--version", "--help"):
            bench.measure("start", flag, lambda flag=flag: bench.run(sys.executable, "-m", "layerkit", flag))
    bench.note("nothing changed bytes", bench.last)


def load(bench: Bench, rounds: int) -> None:
    """New weights into the local Docker."""
    for number in range(rounds):
        bench.clean()
        bench.prime(local=True)
        bench.new_weights()
        runs = [("layerkit", bench.layerkit_load), ("buildx --load", bench.buildx_load)]
        for name, run in runs if number % 2 else reversed(runs):
            bench.refresh()
            bench.settle()
            bench.measure("load", name, run)


def pull(bench: Bench, rounds: int) -> None:
    """A node that has the image pulls it after a change of code: the checkpoint under the code, and above it."""
    for number in range(rounds):
        bench.clean()
        for name, project in (("checkpoint under code", bench), ("checkpoint above code", bench.upside_down())):
            if not project.weights.exists():
                os.link(bench.weights, project.weights)
            project.layerkit_push()
            with bench.node() as host:
                bench.run("docker", "--host", host, "pull", "-q", project.reference)
                project.edit_code(number)
                project.layerkit_push()
                bench.settle()
                bench.measure(
                    "pull after a change of code",
                    name,
                    lambda host=host, project=project: bench.run(
                        "docker", "--host", host, "pull", "-q", project.reference
                    ),
                )


def memory(bench: Bench, rounds: int) -> None:
    """Peak memory of a swap, for the whole size and for an eighth of it."""
    bench.clean()
    bench.prime()
    for share in (8, 1):
        random_file(bench.weights, bench.size // share)
        peak = bench.peak_memory()
        bench.note(f"memory {human(bench.size // share)}", peak)


CASES: dict[str, Case] = {
    "swap": swap,
    "swap-back": swap_back,
    "code": code_only,
    "nothing": nothing,
    "load": load,
    "pull": pull,
    "memory": memory,
}


def verdicts(times: Times, notes: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, asked, got, met) for every line of what must be reached."""
    rows: list[tuple[str, str, str, str]] = []

    def median(case: str, name: str) -> float | None:
        found = times.get(case, {}).get(name)
        return statistics.median(found) if found else None

    def ratio(what: str, case: str, other: str, ours: str, at_least: float) -> None:
        a, b = median(case, other), median(case, ours)
        if a and b:
            met = "yes" if a / b >= at_least else "NO"
            rows.append((what, f">= {at_least:g} times faster", f"{a / b:.2f}", met))

    def at_most(what: str, value: float | None, limit: float, unit: str) -> None:
        if value is not None:
            rows.append((what, f"<= {limit:g} {unit}", f"{value:.3g} {unit}", "yes" if value <= limit else "NO"))

    ratio("weights swap against buildx, default compression", "swap", "buildx", "layerkit", 7)
    ratio("weights swap against buildx, uncompressed", "swap", "buildx uncompressed", "layerkit", 5)
    ratio("weights swap against crane append", "swap", "crane append", "layerkit", 1)
    ratio("weights swap against oras push", "swap", "oras push", "layerkit", 1)
    ours, limit = median("swap", "layerkit"), median("swap", "curl")
    at_most("weights swap against the limit (curl)", ours / limit if ours and limit else None, 1.15, "times")
    if "swap back bytes" in notes:
        at_most("weights swapped back: uploaded", notes["swap back bytes"]["bytes"]["uploaded"] / MIB, 0.1, "MiB")
    case = times.get("code only, emptied builder", {})
    if len(case) == 2:
        large, small = (statistics.median(case[name]) for name in sorted(case, key=lambda n: n == "checkpoint 1.0 MiB"))
        at_most("code only: large checkpoint against 1 MiB", large / small, 1.1, "times")
        at_most("code only: checkpoint read", notes["code only bytes"]["bytes"]["checkpoint_read"] / MIB, 0, "MiB")
        at_most("code only: sent to the builder", notes["code only bytes"]["to builder"] / MIB, 1, "MiB")
    at_most("nothing changed", median("nothing changed", "layerkit"), 0.7, "s")
    at_most("layerkit --version", median("start", "--version"), 0.15, "s")
    at_most("layerkit --help", median("start", "--help"), 0.15, "s")
    for name, value in notes.items():
        if name.startswith("memory"):
            at_most(f"peak {name}, page cache apart", value["anonymous"] / MIB, 150, "MiB")
    ratio("load swap against buildx --load", "load", "buildx --load", "layerkit", 2.5)
    ratio("pull of new code: checkpoint under it", "pull after a change of code", "checkpoint above code",
          "checkpoint under code", 1)  # fmt: skip
    return rows


def machine(bench: Bench) -> dict[str, Any]:
    """What it ran on, and with which versions."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    total = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    versions = {
        "layerkit": (sys.executable, "-m", "layerkit", "--version"),
        "docker": ("docker", "version", "--format", "{{.Server.Version}}"),
        "buildx": ("docker", "buildx", "version"),
        "registry": ("docker-registry", "--version"),
        "crane": ("crane", "version"),
        "oras": ("oras", "version"),
        "curl": ("curl", "--version"),
    }
    return {
        "cores": os.cpu_count(),
        "cpu": cpu[1] if cpu else "",
        "memory_bytes": int(total[1]) * 1024 if total else 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg(),
        "versions": {
            name: bench.run(*command).splitlines()[0] for name, command in versions.items() if shutil.which(command[0])
        },
    }


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=parse_size("2GiB"), help="of the checkpoint (2GiB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=CASES, action="append", help="of the cases; repeatable")
    options = parser.parse_args()
    free = shutil.disk_usage(".").free
    needed = 14 * options.size
    if free < needed:
        sys.exit(f"bench: {human(free)} free on this disk, {human(needed)} needed; use a smaller SIZE")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path(__file__).parent.parent / ".engine") as folder:
        bench = Bench(Path(folder, "project"), options.size)
        about = machine(bench)
        for name in options.only or CASES:
            print(f"== {name}: {(CASES[name].__doc__ or '').strip()}", file=sys.stderr, flush=True)
            CASES[name](bench, options.rounds)
        bench.clean()
    rows = verdicts(bench.times, bench.notes)
    print(f"\ncheckpoint {human(options.size)}, {options.rounds} rounds; medians in seconds, all times behind\n")
    medians = [("case", "contestant", "median", "all")]
    for case, contestants in bench.times.items():
        for name, found in contestants.items():
            medians.append((case, name, f"{statistics.median(found):.2f}", " ".join(f"{t:.2f}" for t in found)))
    print(table(medians), "\n")
    print(table([("what must be reached", "asked", "got", "met"), *rows]))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    file = results / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    document = {
        "schema_version": 1,
        "size_bytes": options.size,
        "rounds": options.rounds,
        "machine": about,
        "seconds": bench.times,
        "notes": bench.notes,
        "targets": [dict(zip(("what", "asked", "got", "met"), row, strict=True)) for row in rows],
    }
    file.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\n{file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")


if __name__ == "__main__":
    begun = time.monotonic()
    main()
    print(f"bench: {time.monotonic() - begun:.0f} s", file=sys.stderr)
