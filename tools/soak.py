"""make soak: the state machine, the crash matrix and the fuzzers, again and again with random seeds, until time is up.

    SOAK_MINUTES=30 python tools/soak.py [--report FILE]

Prints a line for each round, and the sum. The first failure ends it: its seed, its output, and how to see it again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MACHINE = "tests/registry/test_histories.py::test_any_history_ends_well"
CRASHES = "tests/engine/test_crashes.py::test_crash_matrix"
LIMIT = 1800  # seconds that one part may take


def fuzzers() -> list[str]:
    """Every other test file that Hypothesis has a part in, and that needs no torch, browser or engine."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "@given" in text and "import torch" not in text and path.parent.name not in ("browser", "engine"):
            found.append(str(path.relative_to(ROOT)))
    return found


def run(name: str, targets: list[str], seed: int, folder: Path) -> Counter[str]:
    """One part of one round: what it counted. Ends the program where it failed."""
    figures = folder / "figures"
    figures.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-x", "-p", "no:cacheprovider", "--timeout", str(LIMIT)]
    command += [f"--hypothesis-seed={seed}", "--hypothesis-show-statistics", *targets]
    surroundings = {"LAYERKIT_SOAK": "1", "LAYERKIT_SOAK_FIGURES": str(figures)}
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **surroundings}, capture_output=True, text=True, timeout=LIMIT + 60
    )
    if done.returncode:
        print(done.stdout[-8000:], done.stderr[-2000:], sep="\n")
        print(f"FAILED: {name}, seed {seed}. Again: LAYERKIT_SOAK=1 {' '.join(command)}")
        raise SystemExit(1)
    counted: Counter[str] = Counter()
    if figures.exists():
        for line in figures.read_text(encoding="utf-8").splitlines():
            counted.update(json.loads(line))
    if crashes := re.search(r"^(\d+) crashes, (-?\d+) bytes", done.stdout, re.M):
        counted.update({"kills": int(crashes[1]), "crash matrix: bytes sent again": int(crashes[2])})
    if name == "fuzzers":
        passing = re.findall(r"(\d+) passing", done.stdout)
        counted["fuzzed examples"] += sum(map(int, passing))
    counted[f"rounds: {name}"] += 1
    print(f"{name:10} seed {seed:10} {time.monotonic() - began:7.1f} s  ok", flush=True)
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("SOAK_MINUTES", "30")))
    parser.add_argument("--report", type=Path, help="write the figures there, as JSON")
    given = parser.parse_args()
    began = time.monotonic()
    until = time.time() + given.minutes * 60
    total: Counter[str] = Counter()
    parts = {"machine": [MACHINE], "fuzzers": fuzzers(), "crashes": [CRASHES]}
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        while time.time() < until:
            for name, targets in parts.items():
                if time.time() < until or not total[f"rounds: {name}"]:
                    total.update(run(name, targets, random.SystemRandom().randrange(2**32), Path(folder)))
    total["seconds"] = int(time.monotonic() - began)
    for name in sorted(total):
        print(f"{name:40} {total[name]:>12,}")
    print("nothing lost: after every step each tag named a whole image, or one that garbage collection had taken from")
    if given.report:
        given.report.write_text(json.dumps(total, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
