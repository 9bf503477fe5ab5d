from __future__ import annotations

import os
import select
import subprocess

import pytest

from layerkit.processes import group

# What a plugin of docker's is to docker: a child in the group of its leader, that does not heed SIGTERM.
STUBBORN = "(trap '' TERM; echo ready; exec sleep 60) &"


@pytest.mark.parametrize("leader", ["wait", "exit 0", "trap '' TERM; wait"], ids=["heeds", "has-ended", "stubborn"])
def test_all_of_a_group_is_ended(leader: str) -> None:
    """When the block is left nothing of the group is there, whether its leader heeds SIGTERM, does not, or ended."""
    arguments = ["sh", "-c", f"{STUBBORN} {leader}"]
    with group(arguments, dict(os.environ), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = os.dup(process.stdout.fileno())
        assert process.stdout.readline() == b"ready\n"
        if leader == "exit 0":
            process.wait()
    try:
        ready, _, _ = select.select([output], [], [], 20)  # whoever is left holds the other end
        assert ready and os.read(output, 1) == b""
    finally:
        os.close(output)
    assert process.returncode is not None


def test_a_group_that_has_ended() -> None:
    """What ended by itself keeps its status."""
    with group(["sh", "-c", "exit 3"], dict(os.environ)) as process:
        process.wait()
    assert process.returncode == 3
