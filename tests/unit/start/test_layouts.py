"""Realistic projects: init, then check takes what it wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from layerkit.cli.app import cli
from layerkit.project import Project, load
from layerkit.start import Conclusions, conclude, look

MIB = 1024 * 1024
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 98765432\n"


def lay(root: Path, files: Mapping[str, str | int]) -> Path:
    """Files by path; a number is a size in bytes."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(range(1, 256)) * (content // 255 + 1) if isinstance(content, int) else content.encode())
        if isinstance(content, int):
            os.truncate(path, content)
    return root


@dataclass(frozen=True)
class Layout:
    """A project, what is to be concluded (key -> value), and words that notes must have."""

    files: Mapping[str, str | int]
    expected: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    folder: str = "my-model"
    extra: Mapping[str, str] = field(default_factory=dict)


FASTAPI = Layout(
    {
        "serve.py": "from fastapi import FastAPI\nfrom model import Net\nimport torch\n\napp = FastAPI()\n"
        'state = torch.load("weights/best.pt", weights_only=True)\n',
        "model.py": "import torch\n",
        "train.py": "import model\ntorch.save(x, 'weights/last.pt')\n",
        "tests/test_serve.py": "import serve\n",
        "requirements.txt": "--extra-index-url https://index.example/whl/cpu\ntorch==2.5.1+cpu\nfastapi\nuvicorn[standard]\n",
        "requirements-dev.txt": "pytest\n",
        "weights/best.pt": 900,
        "weights/last.pt": 2000,
        ".python-version": "3.12.4\n",
    },
    {
        "image.name": "my-model",
        "image.base": "python:3.12-slim",
        "image.command": ("uvicorn", "serve:app", "--host", "0.0.0.0", "--port", "8000"),
        "image.expose": (8000,),
        "dependencies.requirements": "requirements.txt",
        "dependencies.separate": ("torch",),
        "code.include": ("model.py", "serve.py"),
        "checkpoint.path": "weights/best.pt",
        "checkpoint.target": "/app/weights/",
    },
)
FLASK = Layout(
    {
        "pyproject.toml": '[project]\nname = "Digit_Reader"\nversion = "1"\nrequires-python = ">=3.10,<3.11"\n'
        'dependencies = ["flask>=3", "gunicorn", "torch>=2"]\n',
        "src/reader/__init__.py": "",
        "src/reader/web.py": "from flask import Flask\n\ndef create_app():\n    return Flask(__name__)\n",
        "README.md": "# x\n",
        "model.safetensors": 3000,
    },
    {
        "image.name": "digit-reader",
        "image.base": "python:3.10-slim",
        "image.command": ("gunicorn", "--bind", "0.0.0.0:8000", "reader.web:create_app()"),
        "image.env": {"PYTHONPATH": "/app/src"},
        "dependencies.requirements": "pyproject.toml",
        "dependencies.separate": ("torch", "nvidia-*"),
        "code.include": ("src",),
        "checkpoint.path": "model.safetensors",
        "checkpoint.target": "/app/model/",
    },
    notes=("torch: as it is required",),
)
UV = Layout(
    {
        "pyproject.toml": '[project]\nname = "svc"\nversion = "1"\ndependencies = ["fastapi", "uvicorn", "torch"]\n',
        "uv.lock": 'version = 1\nrequires-python = ">=3.11"\n\n'
        + "".join(
            f'[[package]]\nname = "{name}"\nversion = "1.0"\nsource = {{ registry = "https://index.example/simple" }}\n'
            f"dependencies = [{needs}]\n"
            f'sdist = {{ url = "https://index.example/{name}-1.0.tar.gz", hash = "sha256:{"1" * 64}" }}\n\n'
            for name, needs in (
                ("fastapi", ""),
                ("uvicorn", ""),
                ("torch", '{ name = "nvidia-cublas", marker = "sys_platform == \'linux\'" }'),
                ("nvidia-cublas", ""),
            )
        )
        + '[[package]]\nname = "svc"\nversion = "1"\nsource = { virtual = "." }\n'
        'dependencies = [{ name = "fastapi" }, { name = "uvicorn" }, { name = "torch" }]\n',
        "app/__init__.py": "",
        "app/main.py": "import os\nfrom fastapi import FastAPI\n\napi: FastAPI = FastAPI()\n"
        "if __name__ == '__main__':\n    import uvicorn\n    uvicorn.run(api, host='0.0.0.0', port=9000)\n",
        "checkpoints/epoch=3-step=10.ckpt": 500,
        "checkpoints/epoch=12-step=40.ckpt": 400,
    },
    {
        "image.command": ("python", "app/main.py"),
        "image.expose": (9000,),
        "dependencies.requirements": "uv.lock",
        "dependencies.installer": "uv",
        "dependencies.separate": ("torch", "nvidia-*"),
        "code.include": ("app",),
        "checkpoint.path": "checkpoints/epoch=12-step=40.ckpt",
    },
)
HUGGING_FACE = Layout(
    {
        "app.py": "import gradio as gr\ngr.Interface(f).launch(server_port=7000)\n",
        "requirements.txt": "gradio\ntransformers\ntorch\n",
        "model/config.json": "{}",
        "model/tokenizer.json": "{}",
        "model/model.safetensors.index.json": "{}",
        "model/model-00001-of-00002.safetensors": 700,
        "model/model-00002-of-00002.safetensors": 600,
        "model/optimizer.bin": 11 * MIB,
        "other.pt": 5000,
    },
    {
        "image.command": ("python", "app.py"),
        "image.env": {"GRADIO_SERVER_NAME": "0.0.0.0"},
        "checkpoint.path": "model",
        "code.include": ("app.py",),
    },
)
SHARDS_AT_THE_TOP = Layout(
    {
        "serve.py": "print(1)\n",
        "config.json": "{}",
        "pytorch_model-00001-of-00002.bin": 700,
        "pytorch_model-00002-of-00002.bin": 600,
    },
    {"checkpoint.path": "pytorch_model-*-of-*.bin", "image.command": ("python", "serve.py")},
)
TORCHSERVE = Layout(
    {
        "handler.py": "from ts.torch_handler.base_handler import BaseHandler\nclass H(BaseHandler): pass\n",
        "config.properties": "inference_address=http://0.0.0.0:8085\n",
        "requirements.txt": "torchserve\ntorch\n",
        "model-store/digits.mar": 4000,
    },
    {
        "image.command": (
            "torchserve", "--start", "--foreground", "--ncs", "--model-store", "/app/model",
            "--models", "digits=digits.mar", "--ts-config", "/app/config.properties",
        ),
        "image.expose": (8085,),
        "dependencies.apt": ("default-jre-headless",),
        "code.include": ("handler.py", "config.properties"),
        "checkpoint.path": "model-store/digits.mar",
    },
)  # fmt: skip
DOCKERFILE_GOOD = Layout(
    {
        "Dockerfile": "FROM python:3.11-slim\nCOPY --link --chown=1000:1000 --from=checkpoint . /srv/model/\n"
        "COPY app.py /srv/\n",
        "app.py": "",
        "model.pth": 100,
    },
    {"image.dockerfile": "Dockerfile", "checkpoint.path": "model.pth"},
)
DOCKERFILE_BAD = Layout(
    {
        "Dockerfile": "FROM python:3.11-slim\nWORKDIR /app\nCOPY requirements.txt .\n"
        "RUN pip install -r requirements.txt\n"
        'COPY . .\nCOPY --chown=root:root checkpoint.pth.tar ./model/\nCMD ["python", "serve.py"]\n',
        "requirements.txt": "flask\n",
        "serve.py": "",
        "checkpoint.pth.tar": 5000,
    },
    {"image.dockerfile": "Dockerfile.layerkit", "checkpoint.path": "checkpoint.pth.tar"},
    extra={
        "Dockerfile.layerkit": "FROM python:3.11-slim\nWORKDIR /app\nCOPY requirements.txt .\n"
        "RUN pip install -r requirements.txt\n# The weights, in layers of their own, which layerkit puts there.\n"
        "COPY --link --chown=0:0 --from=checkpoint . /app/model/\nCOPY . .\n"
        'CMD ["python", "serve.py"]\n'
    },
)
DOCKERFILE_NO_WEIGHTS = Layout(
    {"Dockerfile": "FROM python:3.11-slim\nCOPY app.py /srv/\n", "app.py": ""},
    {"image.dockerfile": "Dockerfile"},
    notes=("no checkpoint",),
)
DOCKERFILE_RENAMES = Layout(
    {
        "Dockerfile": "FROM python:3.12-slim\nEXPOSE 7777\nCOPY out/best.pt /m/model.pt\n"
        'COPY serve.py /\nCMD ["python", "/serve.py"]\n',
        "serve.py": "",
        "out/best.pt": 50,
    },
    {"image.base": "python:3.12-slim", "image.command": ("python", "serve.py"), "checkpoint.path": "out/best.pt"},
    notes=("it renames the checkpoint to /m/model.pt",),
)
MONOREPO = Layout(
    {
        "services/api/app.py": "",
        "services/api/requirements.txt": "flask\n",
        "services/worker/pyproject.toml": "[project]\nname='w'\n",
        "package.json": "{}",
    },
    {"image.name": "my-model"},
    notes=("layerkit init -C services/api",),
)
NOTEBOOKS = Layout(
    {"explore.ipynb": "{}", "environment.yml": "dependencies:\n  - python=3.12\n  - pytorch\n", "best_model.pth": 90},
    {"image.base": "python:3.12-slim", "checkpoint.path": "best_model.pth"},
    notes=("only notebooks (explore.ipynb)", "environment.yml is conda's"),
)
NO_CHECKPOINT = Layout(
    {"main.py": "print('hi')\n", "Pipfile": "[packages]\nflask='*'\n", "src/__init__.py": "", "src/a.py": ""},
    {"image.command": ("python", "main.py"), "code.include": ("main.py", "src")},
    notes=("no checkpoint was found", "Pipfile is not read"),
)
HOSTILE = Layout(
    {
        "serve.py": "",
        'we"ird\\ [x]*.pt': 30,
        "-rf.py": "",
        "a b.py": "",
        "new\nline.pt": 40,
        "#hash'.safetensors": 20,
        "ünïcode/ü.py": "",
        "$(touch x).py": "",
    },
    {"image.name": "n-m", "checkpoint.path": "#hash'.safetensors", "image.command": ("python", "serve.py")},
    folder="n ämé",
)
POETRY = Layout(
    {
        "pyproject.toml": '[tool.poetry]\nname = "p"\n[tool.poetry.dependencies]\npython = "^3.12"\nflask = "^3.0"\n'
        'torch = { version = "~2.5", extras = ["x"] }\ndev-tool = { version = "*", optional = true }\n',
        "poetry.lock": "",
        "app.py": "from flask import Flask\napp = Flask(__name__)\napp.run(port=5001)\n",
        "m.onnx": 100,
    },
    {
        "image.base": "python:3.12-slim",
        "dependencies.requirements": "pyproject.toml",
        "image.command": ("python", "-m", "flask", "--app", "app:app", "run", "--host", "0.0.0.0", "--port", "5001"),
    },
    notes=("poetry.lock is not read",),
)
EDITABLE = Layout(
    {
        "requirements.txt": "-e .\n",
        "pyproject.toml": '[project]\nname = "e"\nversion="1"\ndependencies = ["numpy"]\n',
        "e/__init__.py": "",
        "e/__main__.py": "",
        "e/data.bin": 100,
        "e/old.pt": 10,
        "runs/final.pt": 100,
    },
    {
        "dependencies.requirements": "pyproject.toml",
        "image.command": ("python", "-m", "e"),
        "code.exclude": ("**/*.pt",),
        "checkpoint.path": "runs/final.pt",
    },
    notes=("'-e .' is on this machine",),
)
IGNORED = Layout(
    {
        ".dockerignore": "secret\n*.pt\nold.py\n",
        "secret/__init__.py": "",
        "old.py": "",
        "serve.py": "",
        "Procfile": "web: gunicorn -b :$PORT serve:app\n",
        "best.pt": 20,
    },
    {
        "code.include": ("serve.py",),
        "checkpoint.path": "best.pt",
        "image.command": ("sh", "-c", "exec gunicorn -b :$PORT serve:app"),
        "image.env": {"PORT": "8000"},
    },
)
EMPTY = Layout({}, {"image.base": "python:3.11-slim"}, notes=("no program", "no checkpoint"))

LAYOUTS = {name.lower(): value for name, value in list(globals().items()) if isinstance(value, Layout)}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_init_then_check(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is concluded is right, the file says it, and check takes the file."""
    monkeypatch.setenv("LAYERKIT_STATE_DIR", str(tmp_path / "state"))
    root = lay(tmp_path / layout.folder, layout.files)
    root.mkdir(exist_ok=True)
    found = conclude(look(root))
    assert {key: found.value(key) for key in layout.expected} == dict(layout.expected)
    assert all(any(words in note for note in found.notes) for words in layout.notes), found.notes
    done = CliRunner().invoke(cli, ["init", "-C", str(root)])
    assert done.exit_code == 0, done.output
    project = load(root=root)
    assert_same(project, found)
    for name, text in layout.extra.items():
        assert (root / name).read_text() == text
    done = CliRunner().invoke(cli, ["check", "-C", str(root)])
    assert done.exit_code == 0, done.output


def assert_same(project: Project, found: Conclusions) -> None:
    """The file says what was concluded, value for value."""
    for reason in found.reasons:
        table, _, key = reason.key.partition(".")
        value = getattr(getattr(project, table), key.replace("-", "_"))
        assert (dict(value) if isinstance(value, dict) else value) == reason.value


def test_pointer(tmp_path: Path) -> None:
    """A Git LFS pointer is found as the checkpoint that it stands for, and it is said what to do."""
    root = lay(tmp_path / "p", {"serve.py": "", "model.pt": POINTER})
    found = conclude(look(root))
    assert found.value("checkpoint.path") == "model.pt"
    assert any("git lfs pull" in note for note in found.notes)


def test_which_checkpoint(tmp_path: Path) -> None:
    """Of several the reason says why this one, and the file names the others."""
    root = lay(tmp_path / "p", {"a/best.pt": 10, "a/last.pt": 20, "a/epoch_9.pt": 30, "tests/big.pt": 99})
    done = CliRunner().invoke(cli, ["init", "--print", "-C", str(root)])
    assert "# 10 B, for its name says 'best'; there are also a/last.pt, " in done.stdout
    assert '\npath = "a/best.pt"\n' in done.stdout
    assert not (root / "layerkit.toml").exists()


def test_json(tmp_path: Path) -> None:
    """--json prints each value with what it was concluded from, the notes, the text, and what was written."""
    root = lay(tmp_path / "p", {"serve.py": "", "m.pt": 10})
    document = json.loads(CliRunner().invoke(cli, ["init", "--json", "-C", str(root)]).stdout)
    assert document["schema_version"] == 1
    said = {item["key"]: (item["value"], item["because"]) for item in document["conclusions"]}
    assert said["image.command"] == (["python", "serve.py"], "serve.py is there")
    assert document["text"] == (root / "layerkit.toml").read_text()
    assert [Path(path).name for path in document["written"]] == ["schema.json", "layerkit.toml"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A layerkit.toml or a Dockerfile.layerkit that is there stays, and nothing else is written, unless forced."""
    for name in ("layerkit.toml", "Dockerfile.layerkit"):
        root = lay(tmp_path / name, {**DOCKERFILE_BAD.files, name: "mine"})
        done = CliRunner().invoke(cli, ["init", "-C", str(root)])
        assert type(done.exception).__name__ == "ConfigurationError" and "is there already" in str(done.exception)
        assert (root / name).read_text() == "mine" and not (root / ".layerkit").exists()
        assert CliRunner().invoke(cli, ["init", "--force", "-C", str(root)]).exit_code == 0
        assert (root / name).read_text() != "mine"


def test_a_project_in_pyproject_is_not_hidden(tmp_path: Path) -> None:
    """Where pyproject.toml has [tool.layerkit], no layerkit.toml is put in its way, unless forced."""
    mine = '[project]\nname = "p"\n[tool.layerkit.image]\nname = "a/b"\n'
    root = lay(tmp_path / "p", {"serve.py": "", "m.pt": 10, "pyproject.toml": mine})
    done = CliRunner().invoke(cli, ["init", "-C", str(root)])
    assert type(done.exception).__name__ == "ConfigurationError"
    assert "pyproject.toml: [tool.layerkit] is there already" in str(done.exception)
    assert sorted(path.name for path in root.iterdir()) == ["m.pt", "pyproject.toml", "serve.py"]
    assert CliRunner().invoke(cli, ["init", "--print", "-C", str(root)]).exit_code == 0
    assert CliRunner().invoke(cli, ["init", "--force", "-C", str(root)]).exit_code == 0
    assert (root / "layerkit.toml").exists()


def test_own_dockerfile_can_be_left(tmp_path: Path) -> None:
    """--no-dockerfile has layerkit write the steps, from the base that the Dockerfile starts from."""
    root = lay(tmp_path / "p", DOCKERFILE_BAD.files)
    assert CliRunner().invoke(cli, ["init", "--no-dockerfile", "-C", str(root)]).exit_code == 0
    assert load(root=root).image.base == "python:3.11-slim" and not load(root=root).image.dockerfile
    assert not (root / "Dockerfile.layerkit").exists()


def test_cannot_be_written(tmp_path: Path) -> None:
    """A folder in the way is a configuration error, with --json an object too."""
    (tmp_path / "layerkit.toml").mkdir()
    done = CliRunner().invoke(cli, ["init", "--force", "--json", "-C", str(tmp_path)])
    assert json.loads(done.stdout)["error"]["exit_status"] == 2


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (">=3.9", "3.11"),
        (">=3.12", "3.12"),
        ("~=3.10.2", "3.10"),
        ("^3.11", "3.11"),
        ("==3.12.*", "3.12"),
        ("<3.11", "3.10"),
        (">=3.9,!=3.11.*", "3.10"),
        (">=3.99", "3.11"),
        ("rubbish", "3.11"),
        (">=3.13,<4.0", "3.13"),
    ],
)
def test_python_version(tmp_path: Path, said: str, version: str) -> None:
    """Of the versions that requires-python allows, the usual one or the nearest is taken."""
    root = lay(tmp_path, {"pyproject.toml": f'[project]\nname = "x"\nrequires-python = "{said}"\n'})
    assert conclude(look(root)).value("image.base") == f"python:{version}-slim"
