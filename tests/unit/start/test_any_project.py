"""Whatever lies in a folder, init writes a file that check takes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerkit.cli.app import cli

_SERVING = "serve.py app.py train.py main.py $x.py __init__.py __main__.py -C.py ü.py x.ipynb config.json Procfile"
_NEEDS = "requirements.txt requirements-dev.txt pyproject.toml uv.lock environment.yml Pipfile .python-version"
_DOCKER = "Dockerfile .dockerignore config.properties"
_WEIGHTS = "best.pt model.safetensors pytorch_model.bin model.safetensors.index.json a.mar [x].ckpt"
NAMES = [name for names in (_SERVING, _NEEDS, _DOCKER, _WEIGHTS) for name in names.split(" ")]
NAMES += ["we ird'.pt", "a\nb.pt"]
FOLDERS = ["", "src/", "src/pkg/", "app/", "weights/", "model/", "tests/", "we ird/", "[x]/", "*/", "#/"]
TEXTS = [
    "",
    "\0",
    "torch\n-e .\n",
    "torch==2.0+cpu\nflask\n",
    "-r other.txt\n",
    "git+https://git.example/x\n",
    "::: =",
    "from flask import Flask\napp = Flask(__name__)\n",
    "from fastapi import FastAPI\nx = FastAPI()\nimport train\n",
    "torch.load('weights/best.pt')\n",
    "def create_app():\n    return Flask()\n",
    "open('config.json')\n",
    '[project]\nname = "p"\ndependencies = ["torch"]\n',
    '[project]\ndynamic = ["dependencies"]\n',
    "[project\n",
    "project = 1\n",
    "[tool]\npoetry = 2\nuv = 3\n",
    "[[package]]\nname = 1\n",
    "[project]\nname = 7\nrequires-python = 1\n",
    "FROM python:3.12\nCOPY . .\n",
    "FROM a\nCOPY model.safetensors /m/\nCMD x\n",
    "FROM $X\n",
    "RUN x\n",
    "*\n!serve.py\n",
    "web: gunicorn 'x\n",
    "web: python serve.py --port $PORT\n",
    "3.12\n",
    "inference_address=http://0.0.0.0:99999999\n",
]
PLACES = st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(PLACES, st.sampled_from(TEXTS), max_size=8), st.booleans())
def test_check_takes_it(files: dict[tuple[str, str], str], own: bool) -> None:
    """No project makes init fail, and what check does not take, init has said itself."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "project")
        root.mkdir()
        for (prefix, name), text in files.items():
            path = root / f"{prefix}{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = CliRunner().invoke(cli, ["init", "-C", str(root), *(["--no-dockerfile"] if own else [])])
        if ".dockerignore" in str(done.exception):  # docker does not take it either
            return
        assert done.exit_code == 0, (done.output, done.exception)
        checked = CliRunner().invoke(cli, ["check", "-C", str(root)])
        assert checked.exit_code == 0, (done.output, (root / "layerkit.toml").read_text(), checked.exception)
