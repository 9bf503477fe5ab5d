"""What docker refuses, told with what to do (texts of Docker 27 and 28)."""

from __future__ import annotations

import pytest

from layerkit.containers import _refused


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        pytest.param(
            'Error response from daemon: could not select device driver "" with capabilities: [[gpu]]\n',
            'docker: could not select device driver "" with capabilities: [[gpu]]',
            "no GPU that Docker can give",
            id="gpu",
        ),
        pytest.param(
            "docker: unexpected key 'image-subpath' in 'image-subpath=app/model'\n\nRun 'docker create --help' for\n",
            "docker: unexpected key 'image-subpath' in 'image-subpath=app/model'",
            "checkpoint.placement=volume",
            id="Docker 27",
        ),
        pytest.param(
            "WARNING: Image mount is an experimental feature\nError response from daemon: Conflict. The container name"
            ' "/x" is already in use by container "1"\n',
            'docker: Conflict. The container name "/x" is already in use by container "1"',
            "take another --name",
            id="name",
        ),
        pytest.param(
            "Error response from daemon: Bind for 127.0.0.1:80 failed: port is already allocated",
            "docker: Bind for 127.0.0.1:80 failed: port is already allocated",
            "take another port",
            id="port",
        ),
        pytest.param("odd \x1b[31m words", "docker: odd \\x1b[31m words", "", id="unknown"),
    ],
)
def test_refused(said: str, message: str, hint: str) -> None:
    """The daemon's own sentence, fit for a terminal, and the next step where there is one."""
    error = _refused(said)
    assert error.message == message
    assert error.exit_status == 11
    assert hint in error.hint and bool(hint) == bool(error.hint)
