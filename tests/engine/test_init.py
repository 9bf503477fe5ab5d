"""layerkit init, then layerkit build, of projects as they are found: with a Dockerfile, and with a pyproject.toml."""

from __future__ import annotations

import hashlib
import subprocess
import uuid
from pathlib import Path

from uv import find_uv_bin

from .conftest import Engine, Workspace, write_weights, write_wheel


def project(engine: Engine, tmp_path: Path) -> Workspace:
    root = tmp_path / "project"
    root.mkdir()
    (root / "serve.py").write_text(
        "import pathlib, light\nprint(light.VERSION, pathlib.Path('weights/best.pt').stat().st_size)\n"
    )
    write_wheel(root / "wheels", "heavy", "1.0")
    write_wheel(root / "wheels", "light", "1.0")
    write_weights(root / "weights" / "best.pt", seed=5, size=300_000)
    return Workspace(root, engine, f"{engine.registry}/start/{uuid.uuid4().hex[:12]}", tmp_path / "state")


def test_own_dockerfile(engine: Engine, tmp_path: Path) -> None:
    """A Dockerfile that copies everything becomes one whose image runs the same, the weights a layer apart."""
    workspace = project(engine, tmp_path)
    (workspace.root / "Dockerfile").write_text(
        f"FROM {engine.base}\nWORKDIR /srv\nCOPY wheels /wheels\n"
        "RUN pip install --no-index --find-links /wheels light\nCOPY . .\n"
        'CMD ["python3", "serve.py"]\n'
    )
    said = workspace.run("init").stderr
    assert "COPY --link --chown=0:0 --from=checkpoint . /srv/weights/" in said
    output, summary = tmp_path / "output", tmp_path / "summary"
    actions = {"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
    done = workspace.run("build", "--push", "-t", "v1", "--set", f"image.name={workspace.repository}", **actions)
    # What a step of GitHub Actions tells the following ones, and its reader.
    assert "reference<<layerkit-" in output.read_text() and done.stdout.strip() in output.read_text()
    (weights,) = [line for line in summary.read_text().splitlines() if line.startswith("| checkpoint ")]
    layer = next(layer for layer in workspace.image().manifest.layers if str(layer.digest) in weights)
    assert "| packed |" in weights and 300_000 < layer.size < 310_000
    opened = [line for line in done.stderr.splitlines() if line.startswith("::")]
    assert opened == [
        *("::group::layerkit plan", "::endgroup::", "::group::layerkit build", "::endgroup::"),
        *("::group::layerkit compose", "::endgroup::"),
    ]
    reference = f"{workspace.repository}:v1"
    engine.docker("pull", "-q", reference)
    assert engine.docker("run", "--rm", "--network", "none", reference) == "1.0 300000"
    plain = f"start-plain-{uuid.uuid4().hex[:8]}"
    subprocess.run(["docker", "buildx", "build", "-q", "--load", "-t", plain, str(workspace.root)], check=True)
    assert engine.docker("run", "--rm", "--network", "none", plain) == "1.0 300000"
    engine.docker("rmi", plain, reference)


def test_without_requirements(engine: Engine, tmp_path: Path) -> None:
    """A project whose needs are in pyproject.toml and uv.lock alone is built; other edits of it build nothing."""
    workspace = project(engine, tmp_path)
    pyproject = workspace.root / "pyproject.toml"
    pyproject.write_text(
        '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["light>=1", "heavy"]\n'
        '[tool.uv]\nno-index = true\nfind-links = ["wheels"]\n'
    )
    subprocess.run([find_uv_bin(), "lock", "--offline", "-q"], cwd=workspace.root, check=True, timeout=60)
    hash_wheels(workspace.root)
    workspace.run("init")
    text = (workspace.root / "layerkit.toml").read_text()
    assert 'requirements = "uv.lock"' in text and 'wheels = "wheels"' in text
    override = ("--set", f"image.name={workspace.repository}", "--set", f"image.base={engine.base}")
    override += ("--set", 'dependencies.separate=["heavy"]')
    workspace.build(*override)
    out = workspace.python("import runpy, heavy; print(heavy.VERSION); runpy.run_path('serve.py')")
    assert out.split() == ["1.0", "1.0", "300000"]
    pyproject.write_text(pyproject.read_text() + "[tool.ruff]\nline-length = 99\n")
    dockerfile = workspace.run("dockerfile", *override).stdout
    assert dockerfile.count("--require-hashes") == 1 and dockerfile.count("--no-deps") == 2
    again = workspace.build(*override, tag="v2")
    assert again["rebuilt"] == [] and again["builder"]["ran"] is False


def hash_wheels(root: Path) -> None:
    """The lock with hashes, which uv takes from indexes and not from folders: installers check them."""
    text = (root / "uv.lock").read_text()
    for wheel in (root / "wheels").iterdir():
        entry = f'path = "{wheel.name}"'
        assert entry in text
        text = text.replace(entry, f'{entry}, hash = "sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"')
    (root / "uv.lock").write_text(text)
