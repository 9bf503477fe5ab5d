"""tools/demo.py, as far as it goes without an engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"
# A command that needs a moment to tidy up when it is interrupted, and notes that it had it.
SLOW = "trap 'sleep 0.6; touch tidy; exit 130' INT; touch ready; while :; do sleep 0.05; done"


def test_interrupted(tmp_path: Path) -> None:
    """After Ctrl-C the demo waits until what it runs has tidied up, and ends with 130 and no traceback."""
    program = f"import demo, pathlib; demo.run('bash', '-c', {SLOW!r}, cwd=pathlib.Path())"
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until = time.monotonic() + 30
    while not (tmp_path / "ready").exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert (child.returncode, said) == (130, "")
    assert (tmp_path / "tidy").exists()
