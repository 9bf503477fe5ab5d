"""Start programs that outlive us, and end only those: a process is known by pid, start time and boot."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from core import EngineError, State, folder


def boot_id() -> str:
    """Differs after each boot, so that a pid written before a reboot is never mistaken for a process of today."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which a process started (field 22 of proc(5)'s stat), None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field, the name in parentheses, may hold spaces: count from its end. Zombies do not count as alive.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else int(fields[19])


def pid_of(state: State, name: str) -> int | None:
    """The pid of a process we started, if that very process is still alive."""
    record = state.get("processes", {}).get(name)
    if not record or record["boot"] != boot_id() or start_time(record["pid"]) != record["start"]:
        return None
    return int(record["pid"])


def log_path(name: str) -> Path:
    return folder("log") / f"{name}.log"


def last_lines(name: str, count: int = 8) -> str:
    lines = log_path(name).read_text(errors="replace").splitlines()[-count:]
    return "\n".join("    " + line[:300] for line in lines)


def start(state: State, name: str, command: Sequence[str | Path], env: Mapping[str, str]) -> int:
    """Start a program in a session of its own, without a terminal, with its output in .engine/log; record it."""
    log = log_path(name)
    if log.exists() and log.stat().st_size > 10_000_000:
        log.replace(log.with_suffix(".log.old"))
    with log.open("a") as stream:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd="/",
            env=dict(env),
            start_new_session=True,
        )
    record = {"pid": process.pid, "start": start_time(process.pid), "boot": boot_id()}
    state.set(processes={**state.get("processes", {}), name: record})
    return process.pid


def wait_until(state: State, name: str, ready: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a program to answer; when it ends or stays silent instead, the error is the end of its log."""
    deadline = time.monotonic() + seconds
    while not ready():
        if pid_of(state, name) is None:
            raise EngineError(f"{name} ended at once; the end of {log_path(name)}:\n{last_lines(name)}")
        if time.monotonic() > deadline:
            raise EngineError(
                f"{name} does not answer after {seconds:.0f} s; see {log_path(name)}:\n{last_lines(name)}"
            )
        time.sleep(0.1)


def stop(state: State, name: str, patience: float = 25) -> bool:
    """End a process we started: first politely, after `patience` seconds by force. True if it was running."""
    pid = pid_of(state, name)
    if pid is not None:
        end([pid], patience)
    state.set(processes={key: value for key, value in state.get("processes", {}).items() if key != name})
    return pid is not None


def end(pids: Sequence[int], patience: float) -> None:
    """TERM, then KILL, checking at each step that the pid still is the process it was."""
    known = {pid: start_time(pid) for pid in pids}
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        alive = [pid for pid, begun in known.items() if begun is not None and start_time(pid) == begun]
        for pid in alive:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + seconds
        while alive and time.monotonic() < deadline:
            time.sleep(0.05)
            alive = [pid for pid in alive if start_time(pid) == known[pid]]
        if not alive:
            return


def children_of(pid: int) -> list[int]:
    """Direct and indirect children, deepest last."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children_of(int(child))]
    except OSError:
        pass  # ended meanwhile
    return found


def with_argument(program: str, argument: str) -> list[int]:
    """Processes of a program that were given exactly this argument: containerd's shims carry our own socket's path."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if Path(words[0]).name.startswith(program) and argument in words:
                found.append(int(entry.name))
    return found
