from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerkit.anatomy.roles import Row, Step, guess_roles, steps_of

MIB = 1024 * 1024


def one(created_by: str, size: int = 1, **more: str) -> tuple[str, bool]:
    """The role of a layer above a base of one layer."""
    history = [Step("/bin/sh -c #(nop) ADD file:1 in / "), Step('CMD ["bash"]', empty=True), Step(created_by)]
    role = guess_roles(history, [Row(history[0], 10), Row(Step(created_by, **more), size)])[1]  # type: ignore[arg-type]
    return role.name, role.guessed


@pytest.mark.parametrize(
    ("created_by", "expected"),
    [
        pytest.param("COPY . . # buildkit", ("COPY", ". ."), id="buildkit"),
        pytest.param("RUN /bin/sh -c pip install torch # buildkit", ("RUN", "pip install torch"), id="run"),
        pytest.param("RUN |1 A=b /bin/sh -c pip install x # buildkit", ("RUN", "pip install x"), id="arguments"),
        pytest.param("RUN /bin/bash -o pipefail -c a | b # buildkit", ("RUN", "a | b"), id="bash"),
        pytest.param("/bin/sh -c apt-get update", ("RUN", "apt-get update"), id="classic run"),
        pytest.param("/bin/sh -c #(nop) COPY dir:ab in /app ", ("COPY", "dir:ab in /app"), id="classic copy"),
        pytest.param('/bin/sh -c #(nop)  CMD ["bash"]', ("CMD", '["bash"]'), id="classic cmd"),
        pytest.param("", ("", ""), id="nothing"),
        pytest.param("bazel build ...", ("", "bazel build ..."), id="another tool"),
    ],
)
def test_steps(created_by: str, expected: tuple[str, str]) -> None:
    """The histories of BuildKit and of the classic builder give instruction and rest."""
    assert steps_of(created_by) == expected


@pytest.mark.parametrize(
    ("created_by", "size", "role"),
    [
        pytest.param("RUN /bin/sh -c pip install torch # buildkit", 1, "dependencies", id="pip"),
        pytest.param("RUN /bin/sh -c apt-get install -y git # buildkit", 1, "dependencies", id="apt"),
        pytest.param("COPY model.pt /app/ # buildkit", 1, "checkpoint", id="pt"),
        pytest.param("COPY resnet.pth.tar /app/model/ # buildkit", 1, "checkpoint", id="pth.tar"),
        pytest.param("ADD https://x.org/a.safetensors /m/ # buildkit", 1, "checkpoint", id="add"),
        pytest.param("/bin/sh -c #(nop) COPY file:ab in /app/model.ckpt ", 1, "checkpoint", id="classic"),
        pytest.param("COPY --link --from=checkpoint . /app/model/ # buildkit", 1, "checkpoint", id="stage"),
        pytest.param("COPY weights /app/weights # buildkit", 64 * MIB, "checkpoint", id="large folder"),
        pytest.param("COPY weights /app/weights # buildkit", 1, "code", id="small folder"),
        pytest.param("COPY tool.bin /usr/bin/ # buildkit", 1, "code", id="small bin"),
        pytest.param("COPY pytorch_model.bin /m/ # buildkit", 64 * MIB, "checkpoint", id="large bin"),
        pytest.param("COPY --from=build /opt/venv /opt/venv # buildkit", 1, "dependencies", id="venv"),
        pytest.param("COPY requirements.txt . # buildkit", 1, "dependencies", id="requirements"),
        pytest.param("COPY --from=build /install /usr/local # buildkit", 1, "dependencies", id="install"),
        pytest.param("COPY src /app # buildkit", 1, "code", id="code"),
        pytest.param("COPY train.pty model.ptx /app # buildkit", 1, "code", id="only like weights"),
        pytest.param("WORKDIR /app", 1, "code", id="workdir"),
        pytest.param("RUN /bin/sh -c hf download a/b # buildkit", 1, "checkpoint", id="hub"),
        pytest.param("RUN /bin/sh -c wget https://x.org/w.pth # buildkit", 1, "checkpoint", id="wget"),
        pytest.param("bazel build ...", 1, "unknown", id="another tool"),
    ],
)
def test_guesses(created_by: str, size: int, role: str) -> None:
    """Instructions tell roles, and what is concluded is said to be guessed."""
    assert one(created_by, size) == (role, True)


def test_marks_win() -> None:
    """What layerkit marked is not guessed, whatever the history says; a mark that is no role is none."""
    history = [Step("COPY model.pt /")]
    (marked,) = guess_roles(history, [Row(history[0], 1, "code")])
    assert (marked.name, marked.guessed) == ("code", False)
    (odd,) = guess_roles(history, [Row(history[0], 1, "<script>")])
    assert (odd.name, odd.guessed) == ("checkpoint", True)
    assert one("whatever", comment="layerkit") == ("checkpoint", False)


def test_chown_copies() -> None:
    """chown -R after a checkpoint makes a layer that holds it again."""
    steps = [Step("ADD rootfs / # buildkit"), Step("COPY m.pt /app/"), Step("RUN /bin/sh -c chown -R 1:1 /app")]
    roles = guess_roles(steps, [Row(step, size) for step, size in zip(steps, (5, 100, 100), strict=True)])
    assert [(role.name, role.copy) for role in roles] == [("base", False), ("checkpoint", False), ("checkpoint", True)]
    small = guess_roles(steps, [Row(step, size) for step, size in zip(steps, (5, 100, 1), strict=True)])
    assert [role.copy for role in small] == [False, False, False]


def test_base_ends_with_its_command() -> None:
    """The last CMD with layers above it is where FROM was; the image's own CMD at the end is not."""
    history = [
        Step("# debian.sh --arch 'amd64' out/", comment="debuerreotype 0.15"),
        Step("RUN /bin/sh -c apt-get install python # buildkit"),
        Step('CMD ["python3"]', empty=True),
        Step("WORKDIR /app"),
        Step("RUN /bin/sh -c pip install torch # buildkit"),
        Step("COPY src /app # buildkit"),
        Step('CMD ["python3" "serve.py"]', empty=True),
    ]
    rows = [Row(step, 1) for step in history if not step.empty]
    assert [r.name for r in guess_roles(history, rows)] == ["base", "base", "code", "dependencies", "code"]
    assert [r.name for r in guess_roles(history, rows, base=1)][:2] == ["base", "dependencies"]
    assert not guess_roles(history, rows, base=1)[0].guessed


def test_from_scratch() -> None:
    """An image of copied files alone has no base."""
    history = [Step("COPY model.safetensors / # buildkit")]
    assert [r.name for r in guess_roles(history, [Row(history[0], 1)])] == ["checkpoint"]


def test_no_history() -> None:
    """Without a history nothing is guessed."""
    assert [r.name for r in guess_roles((), [Row(Step(""))] * 2)] == ["unknown", "unknown"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=60), st.booleans()), max_size=8))
def test_any_history(entries: list[tuple[str, bool]]) -> None:
    """Whatever a history says, every layer has one of the five roles."""
    history = [Step(text, empty) for text, empty in entries]
    rows = [Row(step, 5) for step in history if not step.empty]
    roles = guess_roles(history, rows)
    assert len(roles) == len(rows)
    assert {role.name for role in roles} <= {"base", "dependencies", "checkpoint", "code", "unknown"}
