"""layerkit beside what people use today, in one run against the same registry: make bench SIZE=2GiB.

Empties the registry of tools/engine and the build cache of the Docker in the environment, several times. Prints two
tables; everything that was measured goes to benchmarks/results/TIME.json. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from harness import MIB, ROOT, BenchError, Engine, machine, say, size_of, versions
from measuring import Bench
from phases import PHASES
from report import goals, goals_table, seconds_table

RESULTS = Path(__file__).resolve().parent / "results"
# What a round of phase "swap" has on the disk at its end, in sizes of the checkpoint: measured, with some room.
DISK_FACTOR = 18
EXIT_FAILED, EXIT_USAGE, EXIT_LOCAL, EXIT_INTERRUPTED = 1, 2, 11, 130


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size_of, default="2GiB", help="of the checkpoint (default: 2GiB)")
    parser.add_argument("--weights", choices=("fp16", "random"), default="fp16", help="what they consist of")
    parser.add_argument("--rounds", type=int, default=3, help="each runs every contestant once (default: 3)")
    parser.add_argument("--quick", action="store_true", help="256MiB, one round: does it work at all")
    parser.add_argument("--only", default="", metavar="PHASES", help=f"of {', '.join(PHASES)}")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for others to be quiet")
    parser.add_argument("--work", type=Path, help="folder for weights, on a disk (default: the engine's)")
    parser.add_argument("--yes", action="store_true", help="also empty the build cache of a Docker of your own")
    given = parser.parse_args()
    if given.quick:
        given.size, given.rounds = 256 * MIB, 1
    given.phases = [name for name in re.split(r"[\s,]+", given.only) if name] or list(PHASES)
    if unknown := [name for name in given.phases if name not in PHASES]:
        parser.error(f"no phase {', '.join(unknown)}")
    if given.rounds < 1:
        parser.error("--rounds: at least 1")
    return given


def measure(given: argparse.Namespace, engine: Engine, work: Path) -> Bench:
    """Everything, and an empty registry and builder afterwards, also after Ctrl-C."""
    bench = Bench(engine, given.size, given.rounds, work, given.patience, given.weights)
    try:
        for name in given.phases:
            say(f"{name}: {(PHASES[name].__doc__ or '').splitlines()[0]}")
            PHASES[name](bench)
    except BaseException:
        say("cleaning up")
        with contextlib.suppress(BenchError):
            engine.empty()
        raise
    return bench


def report(given: argparse.Namespace, bench: Bench, free: int) -> None:
    """Tables on stdout, everything in a file."""
    reached = goals(bench.runs)
    facts, programs = machine(), versions(bench.engine)
    taken = datetime.now(UTC)
    document = {
        "schema_version": 1,
        "taken": taken.isoformat(timespec="seconds"),
        "size": given.size,
        "weights": given.weights,
        "rounds": given.rounds,
        "phases": given.phases,
        "machine": facts,
        "versions": programs,
        "disk_used_at_most": max(free - bench.least_free, 0),
        "skipped": bench.skipped,
        "runs": {phase: [asdict(run) for run in runs] for phase, runs in bench.runs.items()},
        "goals": [asdict(goal) for goal in reached],
    }
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{taken:%Y%m%dT%H%M%SZ}.json"
    target.write_text(json.dumps(document, indent=1) + "\n")
    memory = f"{facts['memory'] / 1024**3:.0f} GiB"
    print(f"\ncheckpoint {given.size / MIB:.0f} MiB, {given.weights}, {given.rounds} rounds;", end=" ")
    print(f"{facts['cores']} cores, {memory}, {facts['processor']}, Linux {facts['kernel']}")
    print(", ".join(f"{name} {value}" for name, value in programs.items() if value))
    print(f"\n{seconds_table(bench.runs)}\n\n{goals_table(reached)}\n")
    for line in bench.skipped:
        print(f"not measured: {line}")
    print(f"everything measured: {os.path.relpath(target, ROOT)}")


def main() -> int:
    given = arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    for name in ("BUILDX_BUILDER", "BUILDKIT_PROGRESS", "SOURCE_DATE_EPOCH", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    try:
        engine = Engine()
        if not engine.private and not given.yes:
            raise BenchError("this Docker is your own: its whole build cache would be emptied; if it may be, add --yes")
        parent = given.work or Path(os.environ.get("LAYERKIT_ENGINE_DIR") or ROOT / ".engine")
        parent.mkdir(parents=True, exist_ok=True)
        engine.empty()
        free, need = shutil.disk_usage(parent).free, DISK_FACTOR * given.size + 2 * 1024**3
        say(f"{free / 1e9:.0f} GB free on the disk, up to {need / 1e9:.0f} GB needed")
        if free < need:
            print("bench: too little room on the disk; take a smaller --size", file=sys.stderr)
            return EXIT_LOCAL
        with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as folder:
            bench = measure(given, engine, Path(folder))
            report(given, bench, free)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
