from __future__ import annotations

from pathlib import Path

import pytest

from layerkit.cli.init import look, render
from layerkit.project import load

from .conftest import Run


def files(root: Path, **content: str | int) -> None:
    """Files by name (``__`` is a slash, ``_dot_`` a dot); a number is a size."""
    for name, value in content.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(value) if isinstance(value, int) else value.encode())


def test_a_project(tmp_path: Path) -> None:
    """Requirements with their heavy packages, code, command and the largest checkpoint are found."""
    root = tmp_path / "My Model_2"
    files(root, serve_dot_py="", train_dot_py="", test_x_dot_py="", src__a_dot_py="", notes__b_dot_txt="",
          requirements_dot_txt="# torch\nTorch==2.1\nnvidia_nccl.cu12\nnumpy\n",
          best_dot_pth_dot_tar=50, weights__old_dot_pt=10)  # fmt: skip
    found = look(root)
    assert (found.name, found.command, found.code) == ("my-model-2", ("python", "serve.py"), ("serve.py", "src"))
    assert (found.requirements, found.separate) == ("requirements.txt", ("torch", "nvidia-*"))
    assert found.checkpoint == "best.pth.tar"


def test_shards(tmp_path: Path) -> None:
    """A folder of shards with its index is the checkpoint."""
    files(tmp_path, model__model_dot_safetensors_dot_index_dot_json="{}", model__a_dot_safetensors=10, x_dot_pt=99)
    assert look(tmp_path).checkpoint == "model"


@pytest.mark.parametrize(
    ("text", "used"),
    [
        pytest.param("FROM x\nCOPY --link --from=checkpoint . /m/\n", True, id="with-the-line"),
        pytest.param("FROM x\nCOPY . /app\n", False, id="without"),
    ],
)
def test_dockerfile(tmp_path: Path, text: str, used: bool) -> None:
    """A Dockerfile with the COPY line is used; one without is not, and that is said."""
    files(tmp_path, Dockerfile=text, serve_dot_py="")
    found = look(tmp_path)
    assert bool(found.dockerfile) is used and any("Dockerfile" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({}, id="empty"),
        pytest.param({"serve_dot_py": "", "m_dot_pt": 3}, id="small"),
        pytest.param(
            {"requirements_dot_txt": "torch\nnvidia-cublas\n", "app_dot_py": "", "src__x_dot_py": ""}, id="code"
        ),
        pytest.param({"Dockerfile": "FROM x\nCOPY --from=checkpoint . /m/\n", "m_dot_pt": 3}, id="own-dockerfile"),
        pytest.param({'we"ird\\_dot_pt': 3}, id="quotes-in-a-name"),
    ],
)
def test_what_is_written_can_be_read(tmp_path: Path, content: dict[str, str | int]) -> None:
    """Whatever is found, the file that is written is a valid project, and says the same."""
    files(tmp_path, **content)
    found = look(tmp_path)
    (tmp_path / "layerkit.toml").write_text(render(found))
    project = load(root=tmp_path)
    assert project.image.name == found.name
    assert (project.checkpoint.path if project.checkpoint else "") == found.checkpoint
    assert tuple(project.code.include) == (() if found.dockerfile else found.code)
    assert tuple(project.dependencies.separate) == found.separate


def test_command(run: Run) -> None:
    """init writes the file and prints its name; what it concluded from is on standard error."""
    files(Path(), serve_dot_py="")
    done = run("init")
    assert (done.status, done.out) == (0, "layerkit.toml\n") and "serve.py is there" in done.err
    assert load(root=".").image.command == ("python", "serve.py")


def test_no_overwriting(run: Run) -> None:
    """A layerkit.toml that is there stays, unless --force says otherwise."""
    Path("layerkit.toml").write_text("mine")
    done = run("init")
    assert done.status == 2 and "is there already" in done.err and "--force" in done.err
    assert Path("layerkit.toml").read_text() == "mine"
    assert run("init", "--force").status == 0 and Path("layerkit.toml").read_text() != "mine"


def test_print_only(run: Run) -> None:
    """--print writes nothing; -C looks at another folder."""
    Path("p").mkdir()
    done = run("init", "--print", "-C", "p")
    assert done.status == 0 and 'name = "p"' in done.out and not list(Path("p").iterdir())


def test_cannot_be_written(run: Run) -> None:
    """A folder in the way is a configuration error."""
    Path("layerkit.toml").mkdir()
    assert run("init", "--force").status == 2
