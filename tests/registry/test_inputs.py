"""What a run takes for its inputs, and what of them the builder gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from layerkit.engine import Abilities, Engine
from layerkit.pipeline import bake_definition
from layerkit.project import load
from layerkit.request import Request
from layerkit.session import Session
from layerkit.settings import Settings
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Pushing


@pytest.fixture
def pushing(registry: FakeRegistry, tmp_path: Path) -> Pushing:
    made = Pushing(tmp_path, registry.host)
    made.seed(registry)
    made.weights()
    return made


def test_what_a_run_writes_is_no_input(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OCI layout or the state in the project folder are no inputs: the next build would never find its runtime."""
    (pushing.project / "Dockerfile").write_text("FROM scratch\nCOPY --link --from=checkpoint . /app/model/\nCOPY . /\n")
    text = (pushing.project / "layerkit.toml").read_text().split("\n\n")
    image = f'[image]\nname = "{pushing.host}/{NAME}"\ndockerfile = "Dockerfile"\n'
    (pushing.project / "layerkit.toml").write_text("\n".join([image, *text[2:]]))
    made = load(None, root=pushing.project)
    settings = Settings.from_environment(pushing.environ)
    monkeypatch.chdir(pushing.project)
    with Session(made, Request(), settings) as session:
        before = session.inputs()
    (pushing.project / "out/blobs/sha256").mkdir(parents=True)
    (pushing.project / "out/index.json").write_text("{}")
    settings = replace(settings, state_folder=pushing.project / "state")
    with Session(made, Request(output="oci:out"), settings) as session:
        assert session.inputs().files == before.files
        assert (pushing.project / "state").is_dir()


def test_bake_reads_the_checkpoint_from_home(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    """bake's named context is the folder of the weights also where ``checkpoint.path`` begins with ``~``."""
    monkeypatch.setenv("HOME", str(pushing.project))
    monkeypatch.setattr(Engine, "abilities", Abilities("docker-container", ""))
    toml = pushing.project / "layerkit.toml"
    toml.write_text(toml.read_text().replace('path = "weights"', 'path = "~/weights"'))
    made = bake_definition(load(None, root=pushing.project), settings=Settings.from_environment(pushing.environ))
    assert made["target"]["image"]["contexts"]["checkpoint"] == str(pushing.project / "weights")
