"""What ``lint --fix`` writes builds the same files: both Dockerfiles are built, and every file of both compared."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from layerkit.lint import fix, gather

from .conftest import MIB, Engine, write_weights

# What an installer leaves behind on purpose or by the clock.
CACHES = re.compile(r"root/\.cache(/|$)|var/lib/apt/lists/|.*__pycache__|etc/(hosts|hostname|resolv\.conf)$|tmp/")

EVERYTHING = """\
WORKDIR /app
COPY . .
RUN pip install --no-index -r requirements.txt
COPY weights/model.pt /app/weights/model.pt
ENV A=1
CMD ["python3", "serve.py"]
"""
LAST = """\
WORKDIR /srv/app
COPY requirements.txt .
RUN pip install --no-index -r requirements.txt
COPY serve.py src ./
COPY model.pth.tar ./model/
RUN chown -R 1000:1000 /srv/app
USER 1000:1000
"""
FIRST = """\
COPY --chmod=644 model.pth.tar /opt/models/
COPY weights /app/weights
COPY requirements.txt /tmp/r/requirements.txt
RUN pip install --no-index -r /tmp/r/requirements.txt && \\
    pip install --no-index pip
COPY src /app/src
RUN chmod -R 750 /app
"""
OWNED = """\
WORKDIR /app
COPY --chown=1000:1000 --chmod=700 . ./here
USER 1000
"""
NEW_FOLDER = """\
COPY . /new/place
"""


def files(engine: Engine, root: Path, dockerfile: str) -> dict[str, tuple[object, ...]]:
    """path -> type, mode, owner, link and digest of all that is in the image, as the builder gives it."""
    archive = root.parent / "image.tar"
    command = ["docker", "buildx", "build", "--progress=quiet", "-f", "-", "-o", f"type=tar,dest={archive}", str(root)]
    done = subprocess.run(command, input=dockerfile, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, f"{dockerfile}\n{done.stderr}"
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.strip("/")
            if CACHES.match(name):
                continue
            stream = tar.extractfile(member) if member.isreg() else None
            digest = hashlib.file_digest(stream, "sha256").hexdigest() if stream else ""  # type: ignore[arg-type]
            found[name] = (member.type, oct(member.mode), member.uid, member.gid, member.linkname, digest)
    archive.unlink()
    return found


@pytest.mark.parametrize(
    ("body", "rules"),
    [
        pytest.param(
            EVERYTHING,
            {"checkpoint-in-copy", "checkpoint-above-code", "code-before-dependencies", "pip-cache", "copied-twice"},
            id="everything in one",
        ),
        pytest.param(LAST, {"checkpoint-above-code", "pip-cache", "recursive-permissions"}, id="checkpoint last"),
        pytest.param(
            FIRST, {"checkpoint-under-dependencies", "pip-cache", "recursive-permissions"}, id="checkpoint first"
        ),
        pytest.param(OWNED, {"checkpoint-in-copy"}, id="owner and mode"),
        pytest.param(NEW_FOLDER, {"checkpoint-in-copy"}, id="folder that the copy makes"),
    ],
)
def test_same_files(engine: Engine, tmp_path: Path, body: str, rules: set[str]) -> None:
    """The rewritten Dockerfile builds the same files with the same modes, owners and links."""
    root = tmp_path / "context"
    (root / "src" / "inner").mkdir(parents=True)
    write_weights(root / "model.pth.tar", seed=1, size=3 * MIB)
    write_weights(root / "weights" / "model.pt", seed=2, size=2 * MIB)
    (root / "weights" / "only").mkdir()
    write_weights(root / "weights" / "only" / "more.safetensors", seed=3, size=2 * MIB)
    (root / "weights" / "config.json").write_text("{}")
    (root / "weights").chmod(0o750)
    (root / "serve.py").write_text("print(1)\n")
    (root / "serve.py").chmod(0o755)
    (root / "src" / "inner" / "a.py").write_text("")
    (root / "src" / "link.py").symlink_to("inner/a.py")
    (root / "requirements.txt").write_text("pip\n")  # is there already: nothing is asked of a network
    (root / ".dockerignore").write_text("*.log\n")
    root.chmod(0o700)
    before = f"FROM {engine.base}\n{body}"
    fixed = fix(before, gather(None, root))
    assert {finding.rule for finding in fixed.done} == rules
    assert files(engine, root, fixed.text) == files(engine, root, before)
