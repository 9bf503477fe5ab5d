"""What memory files may take, by proc(5) and cgroups(7), read from folders made for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerkit.memory import for_files

GIB = 1024**3


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2097152 kB\n"}, 2 * GIB, id="machine"),
        pytest.param(
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "1073741824\n"}, GIB, id="v2, above ours"
        ),
        pytest.param(
            {
                "proc/meminfo": "MemAvailable: 4194304 kB\n",
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "1073741824\n",
            },
            GIB,
            id="v2, in a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "314572800\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            314572800,
            id="v1",
        ),
        pytest.param(
            {
                "proc/meminfo": "MemAvailable: 1048576 kB\n",
                "proc/self/cgroup": "0::/../elsewhere\n",
                "sys/fs/cgroup/memory.max": "max\n",
            },
            GIB,
            id="no limit",
        ),
        pytest.param({"proc/meminfo": "MemAvailable:\n", "proc/self/cgroup": "odd\n"}, 1 << 62, id="odd"),
        pytest.param({}, 1 << 62, id="nothing to learn"),
    ],
)
def test_for_files(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    """The least of what the machine has and of every limit above us; where nothing is known, no limit."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert for_files(tmp_path) == expected


def test_here() -> None:
    """On this machine it is something."""
    assert 0 < for_files() < 1 << 62
