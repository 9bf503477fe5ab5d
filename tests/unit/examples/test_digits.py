"""examples/digits: what its image runs, from outside, as the container's user sees it."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layerkit.project import load

EXAMPLES = Path(__file__).parents[3] / "examples"
DIGITS = EXAMPLES / "digits"
DIGEST = "sha256:" + "ab" * 32
BLANK = [0] * 64


def run(script: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the example's scripts to its end."""
    return subprocess.run(
        [sys.executable, DIGITS / script, *arguments],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def train(folder: Path) -> Path:
    done = run("train.py", "--seed", "0", "--epochs", "2", "--output", folder / "checkpoint.pth.tar")
    assert done.returncode == 0, done.stderr
    return folder / "checkpoint.pth.tar"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("trained"))


@dataclass
class Served:
    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a GET, or of a POST of *body*."""
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, body), timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def predict(self, document: object) -> tuple[int, dict[str, Any]]:
        return self.call("/predict", json.dumps(document).encode())


def serve(checkpoint: Path) -> Iterator[Served]:
    process = subprocess.Popen(
        [sys.executable, DIGITS / "serve.py", "--host", "127.0.0.1", "--port", "0"],
        env={
            **os.environ,
            "LAYERKIT_CHECKPOINT": str(checkpoint),
            "LAYERKIT_CHECKPOINT_DIGEST": DIGEST,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr
        said = process.stderr.readline()
        found = re.search(r":(\d+)$", said.strip())
        try:
            assert found, said + process.stderr.read()
            # The access log must not fill the pipe.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield Served(process, int(found[1]))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[Served]:
    yield from serve(checkpoint)


@pytest.fixture
def own_server(checkpoint: Path) -> Iterator[Served]:
    """A server that the test may stop."""
    yield from serve(checkpoint)


@pytest.mark.torch
def test_checkpoint_is_a_training_checkpoint(checkpoint: Path) -> None:
    """The file holds what training needs to go on, and loads without running anything that is in it."""
    import torch

    content = torch.load(checkpoint, weights_only=True)

    assert content.keys() == {"epoch", "state_dict", "optimizer", "accuracy"}
    assert content["epoch"] == 2
    assert content["accuracy"] > 0.9
    assert len(content["optimizer"]["state"]) == len(content["state_dict"])


@pytest.mark.torch
def test_same_seed_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    """Training again with the same seed changes no byte, and leaves nothing but the two files."""
    again = train(tmp_path / "another" / "folder")

    assert again.read_bytes() == checkpoint.read_bytes()
    assert sorted(path.name for path in again.parent.iterdir()) == ["checkpoint.pth.tar", "heldout.json"]


@pytest.mark.torch
def test_healthz_says_which_checkpoint_is_served(server: Served, checkpoint: Path) -> None:
    """/healthz tells the file, the digest that layerkit set, and the epoch."""
    status, health = server.call("/healthz")

    accuracy = health.pop("accuracy")
    assert (status, health) == (
        200,
        {"status": "ok", "checkpoint": str(checkpoint), "checkpoint_digest": DIGEST, "epoch": 2},
    )
    assert accuracy > 0.9


@pytest.mark.torch
def test_predict(server: Served, checkpoint: Path) -> None:
    """Labels are those with the highest probability, and probabilities add up to one."""
    digits = json.loads((checkpoint.parent / "heldout.json").read_text())["digits"][:5]

    status, answer = server.predict({"digits": digits})

    assert status == 200
    assert answer["labels"] == [max(range(10), key=row.__getitem__) for row in answer["probabilities"]]
    assert [sum(row) for row in answer["probabilities"]] == pytest.approx([1.0] * 5)


@pytest.mark.torch
def test_evaluate_agrees_with_training(server: Served, checkpoint: Path) -> None:
    """Seen over HTTP, the accuracy on the held-out digits is the one that training wrote down."""
    done = run(
        "evaluate.py",
        server.url,
        "--heldout",
        checkpoint.parent / "heldout.json",
        "--minimum",
        "0.9",
        "--digest",
        DIGEST,
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["heldout_digits"] == 360
    assert result["heldout_accuracy"] == pytest.approx(result["accuracy"])


@pytest.mark.torch
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        pytest.param(("--minimum", "1.01"), "is under 1.01", id="accuracy too low"),
        pytest.param(("--minimum", "0", "--digest", "sha256:00"), "expected sha256:00", id="another checkpoint"),
    ],
)
def test_evaluate_fails(server: Served, checkpoint: Path, wanted: tuple[str, ...], said: str) -> None:
    """A server that is not what was asked for makes evaluate.py fail and say why."""
    done = run("evaluate.py", server.url, "--heldout", checkpoint.parent / "heldout.json", *wanted)

    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.torch
@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(b"", "the body is not JSON", id="empty"),
        pytest.param(b"{", "the body is not JSON", id="half"),
        pytest.param(b"\xff\xfe\xfd", "the body is not JSON", id="not text"),
        pytest.param(b"[" * 100_000, "the body is not JSON", id="nested too deeply"),
        pytest.param(b"[]", "expected {", id="no object"),
        pytest.param(b"{}", "expected {", id="no digits"),
        pytest.param(b'{"digits": []}', "expected {", id="none"),
        pytest.param(b'{"digits": [7]}', "digits[0]: no list", id="flat"),
        pytest.param(json.dumps({"digits": [BLANK, BLANK[1:]]}).encode(), "digits[1]: 63 values", id="too short"),
        pytest.param(json.dumps({"digits": [[17, *BLANK[1:]]]}).encode(), "digits[0][0] is no number", id="too dark"),
        pytest.param(json.dumps({"digits": [[*BLANK[1:], "1"]]}).encode(), "digits[0][63] is no number", id="text"),
        pytest.param(json.dumps({"digits": [[True, *BLANK[1:]]]}).encode(), "digits[0][0] is no number", id="bool"),
        pytest.param(b'{"digits": [[NaN' + b",0" * 63 + b"]]}", "digits[0][0] is no number", id="NaN"),
        pytest.param(b'{"digits": [[1e999' + b",0" * 63 + b"]]}", "digits[0][0] is no number", id="infinity"),
        pytest.param(json.dumps({"digits": [BLANK] * 1001}).encode(), "1001 digits; at most 1000", id="too many"),
    ],
)
def test_bad_input_is_refused(server: Served, body: bytes, said: str) -> None:
    """What is no digit gets 400 and the place of the mistake."""
    status, answer = server.call("/predict", body)

    assert status == 400
    assert said in answer["error"]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("/", None, 404, id="GET elsewhere"),
        pytest.param("/healthz", b"{}", 404, id="POST elsewhere"),
        pytest.param("/predict", None, 405, id="GET predict"),
    ],
)
def test_other_requests_are_refused(server: Served, path: str, body: bytes | None, status: int) -> None:
    """A wrong path or method is answered in JSON, too."""
    found, answer = server.call(path, body)

    assert found == status
    assert "/predict" in answer["error"]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param(b"", b"411", id="no length"),
        pytest.param(b"Content-Length: -1\r\n", b"411", id="negative length"),
        pytest.param(b"Content-Length: 99999999999\r\n", b"413", id="too long"),
        pytest.param(b"Content-Length: 10\r\n", b"400", id="ends too early"),
    ],
)
def test_wrong_lengths_are_refused(server: Served, headers: bytes, status: bytes) -> None:
    """The server reads no body whose length it does not know, or that is too long."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"POST /predict HTTP/1.0\r\n" + headers + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()

    assert answer.split()[1] == status


@pytest.mark.torch
def test_more_requests_than_threads(server: Served) -> None:
    """Requests beyond the number of threads wait for their turn, and all are answered alike."""
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(lambda _: server.predict({"digits": [BLANK]}), range(96)))

    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == 200


@pytest.mark.torch
def test_sigterm_stops_it(own_server: Served) -> None:
    """SIGTERM ends the server with status 0, even while a client says nothing: it does not wait for that one."""
    with socket.create_connection(("127.0.0.1", own_server.port), timeout=30):
        assert own_server.call("/healthz")[0] == 200
        own_server.process.send_signal(signal.SIGTERM)
        assert own_server.process.wait(timeout=20) == 0


@pytest.mark.torch
@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "No such file", id="missing"),
        pytest.param(b"", "is no checkpoint of this network", id="empty"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "is no checkpoint of this network", id="LFS"),
    ],
)
def test_serve_refuses_a_wrong_checkpoint(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A checkpoint that cannot be served is one line on stderr and status 1, at once."""
    file = tmp_path / "checkpoint.pth.tar"
    if content is not None:
        file.write_bytes(content)

    done = run("serve.py", "--port", "0", LAYERKIT_CHECKPOINT=str(file))

    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_build_py_and_layerkit_toml_say_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The Python API and the file describe one project."""
    import layerkit

    asked: dict[str, Any] = {}

    def build(project: object, **options: object) -> SimpleNamespace:
        asked.update(options, project=project)
        return SimpleNamespace(rebuilt=("checkpoint",), digest=DIGEST)

    monkeypatch.setattr(layerkit, "build", build)
    monkeypatch.setattr(sys, "argv", ["build.py", "--name", "localhost:5000/digits", "--tag", "v2", "--push"])
    monkeypatch.delenv("BASE", raising=False)
    monkeypatch.chdir(tmp_path)

    runpy.run_path(str(DIGITS / "build.py"), run_name="__main__")

    overrides = ["image.name=localhost:5000/digits"]
    assert asked == {
        "project": load(DIGITS / "layerkit.toml", overrides=overrides),
        "tags": ["v2"],
        "push": True,
    }


def test_code_of_the_image_is_there() -> None:
    """The code that layerkit.toml includes is all that serve.py imports of the example."""
    project = load(DIGITS / "layerkit.toml")

    assert sorted(project.code.include) == ["model.py", "serve.py"]
    assert all((DIGITS / name).is_file() for name in (*project.code.include, project.dependencies.requirements))


def test_own_dockerfile_is_a_project() -> None:
    """The other example holds what layerkit asks of a Dockerfile, and a checkpoint."""
    folder = EXAMPLES / "own-dockerfile"
    project = load(folder / "layerkit.toml")

    assert project.checkpoint
    assert [path.name for path in (folder / project.checkpoint.path).iterdir()] == ["linear.safetensors"]
    lines = (folder / project.image.dockerfile).read_text().splitlines()
    assert sum(line.startswith("COPY --link --from=checkpoint ") for line in lines) == 1
