"""The docker command, by one that does what a test says."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from layerkit.engine import Engine
from layerkit.errors import LocalResourceError


@pytest.mark.parametrize("given", [0, 512, 700, 10240], ids=["nothing", "a header", "half a file", "all but the end"])
def test_save_fails(tmp_path: Path, given: int) -> None:
    """A docker save that ends in the middle is 11 with docker's own words, wherever it ended."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("layer.tar")
        info.size = 10240 - 512
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    (tmp_path / "image.tar").write_bytes(stream.getvalue()[:given])
    command = tmp_path / "docker"
    command.write_text(f"#!/bin/sh\ncat {tmp_path}/image.tar\necho 'no space left on device' >&2\nexit 1\n")
    command.chmod(0o755)
    engine = Engine(environment=dict(os.environ))
    engine.__dict__["command"] = (str(command),)
    with (
        pytest.raises(LocalResourceError, match="docker save: no space left") as caught,
        engine.save("x") as saved,
        tarfile.open(fileobj=saved, mode="r|") as tar,
    ):
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None and content.read()
    assert caught.value.exit_status == 11 and "docker system df" in caught.value.hint
