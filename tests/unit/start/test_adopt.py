"""Dockerfiles as they are found, with the one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerkit.runtime import base_images, find_checkpoint_copy
from layerkit.start import File, Look, conclude

CORPUS = sorted(Path(__file__).parents[1].glob("lint/corpus/*.Dockerfile"))
MIB = 1024 * 1024
FILES = {"weights/model.pt": 9 * MIB, "serve.py": 10, "requirements.txt": 10, "src/a.py": 3, "Dockerfile": 10}


def project(dockerfile: str, **more: int) -> Look:
    files = tuple(File(path, size) for path, size in sorted({**FILES, **more}.items()))
    return Look("x", files, {"Dockerfile": dockerfile, "serve.py": "import torch", "src/a.py": ""})


def adopted(dockerfile: str, **more: int) -> tuple[str, tuple[str, ...]]:
    found = conclude(project(dockerfile, **more))
    return found.files.get("Dockerfile.layerkit", ""), found.notes


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus(path: Path) -> None:
    """Each Dockerfile of the corpus gets a line that layerkit takes and keeps all others, or is refused with why."""
    text = path.read_bytes().decode("utf-8", "replace")
    found = conclude(project(text))
    if not found.value("image.dockerfile"):
        assert any(note.startswith("Dockerfile is not used: ") for note in found.notes)
        return
    made = found.files.get("Dockerfile.layerkit", text)
    assert find_checkpoint_copy(made).target.endswith("/")
    assert base_images(made) == base_images(text)
    lines = made.splitlines()
    gone = [line for line in text.splitlines() if line not in lines]
    assert all("weights" in line for line in gone)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            "FROM a\nWORKDIR /w\nCOPY weights ./weights\nCOPY src src\n",
            "FROM a\nWORKDIR /w\n{}/w/weights/\nCOPY src src\n",
            id="folder",
        ),
        pytest.param(
            "FROM a\nCOPY serve.py /app/\nCOPY --chown=7:8 weights/*.pt /m/\n",
            "FROM a\n{7:8}/m/\nCOPY serve.py /app/\n",
            id="glob above code",
        ),
        pytest.param(
            "FROM a\nCOPY weights/model.pt /m/model.pt\nRUN pip install x\nCOPY . /app\n",
            "FROM a\nRUN pip install x\n{}/m/\nCOPY . /app\n",
            id="under dependencies",
        ),
        pytest.param(
            "FROM a\nCOPY src/a.py weights/model.pt serve.py /app/\n",
            "FROM a\n{}/app/\nCOPY src/a.py serve.py /app/\n",
            id="among others",
        ),
        pytest.param(
            "FROM a AS build\nWORKDIR /src\nCOPY . .\nRUN make\nFROM b\nRUN pip install x\n"
            "COPY --from=build /src /app\n",
            "FROM a AS build\nWORKDIR /src\nCOPY . .\nRUN make\nFROM b\nRUN pip install x\n{}/app/weights/\n"
            "COPY --from=build /src /app\n",
            id="carried from another stage",
        ),
        pytest.param(
            'FROM a\r\nCOPY weights/model.pt \\\r\n  /m/\r\nCMD ["x"]\r\n',
            'FROM a\r\n{}/m/\r\nCMD ["x"]\r\n',
            id="continued, with carriage returns",
        ),
        pytest.param("FROM a\nCMD x", "FROM a\n{}/app/model/\nCMD x", id="not copied at all"),
    ],
)
def test_line(before: str, after: str) -> None:
    """The line takes the place of what copied the weights: below the code, above what installs, with its owner."""
    made, _ = adopted(before)
    owner = "7:8" if "{7:8}" in after else "0:0"
    end = "\r\n" if "\r" in after else "\n"
    line = f"# The weights, in layers of their own, which layerkit puts there.{end}"
    line += f"COPY --link --chown={owner} --from=checkpoint . "
    assert made == after.replace("{7:8}", line).replace("{}", line)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM a\nCOPY weights/model.pt /m/\nRUN chown -R svc /m\n", "line 3 (chown -R svc /m) does not reach"),
        ("FROM a\nCOPY weights /m\nRUN python -c 1 && python convert.py /m/model.pt\n", "line 3 (python convert.py"),
        ("FROM a\nCOPY . /app\n", "line 2 copies other.pth (20.0 MiB) through the builder"),
        ("FROM a\nCOPY . /app\nCOPY weights /m\n", "line 2 put the weights to /app/weights/model.pt too"),
        ("FROM a\nCOPY --chown=app weights /m\n", "'app' is a name"),
        ("FROM a\nCOPY gone.pt /m/\n", "line 2 copies gone.pt, which is not here"),
        ("FROM a\nCOPY weights/model.pt /m/x.pt\n", "it renames the checkpoint to /m/x.pt"),
        ("FROM a\nCOPY weights/model.pt $WHERE/\n", "where it copies to is not known"),
        ("FROM a\nCOPY --parents weights/model.pt /m/\n", "--parents says where"),
        ("FROM a AS b\nCOPY weights /w\nFROM c\nCOPY --from=b /x /x\n", "copies the checkpoint into another stage"),
        ("FROM a\nRUN x\n# \ufffd\n", "not UTF-8"),
    ],
)
def test_said(text: str, words: str) -> None:
    """What does not reach the weights any more, or cannot be rewritten by a line, is said with its line."""
    look = project(text, **{"other.pth": 20 * MIB})
    text = look.texts["Dockerfile"]
    notes = conclude(Look("x", look.files, {**look.texts, "serve.py": "load('weights/model.pt')"})).notes
    assert any(words in note for note in notes), notes
