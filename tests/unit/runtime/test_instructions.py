from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.errors import ConfigurationError
from layerkit.runtime import CheckpointCopy, base_images, find_checkpoint_copy, foundation, instructions

LINE = "COPY --link --chown=0:0 --from=checkpoint . /app/model/"


def names(text: str) -> list[tuple[str, int]]:
    return [(i.name, i.line) for i in instructions(text)]


def test_continuations_and_comments() -> None:
    """Continued lines are one instruction, numbered by its first; comments and blank lines in it do not end it."""
    text = "\ufeff# c\nfrom a \\\n  # inside\n\n  as b\n\n  RUN x && \\\r\n y\r\nCMD z"
    assert names(text) == [("FROM", 2), ("RUN", 7), ("CMD", 9)]
    assert instructions(text)[0].words == ("a", "as", "b")
    assert instructions(text)[1].text == "RUN x && y"


def test_two_backslashes_continue_nothing() -> None:
    """An escaped escape character at the end of a line does not continue it (BuildKit's rule)."""
    assert names("FROM a\nRUN echo x\\\\\nCMD y") == [("FROM", 1), ("RUN", 2), ("CMD", 3)]


def test_escape_directive() -> None:
    """With escape=` a backslash is a character like others."""
    text = "# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nRUN dir c:\\\nRUN x `\n y"
    assert names(text) == [("FROM", 3), ("RUN", 4), ("RUN", 5)]


def test_late_directive_is_a_comment() -> None:
    """A directive behind anything else is a comment."""
    assert names("# hello\n# escape=`\nFROM a\nRUN x \\\n y") == [("FROM", 3), ("RUN", 4)]


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\nRUN <<EOF\nFROM no\nCOPY x y\nEOF\nCMD z",
        "FROM a\nRUN <<-EOF\nFROM no\n\t\tEOF\nCMD z",
        "FROM a\nRUN <<'EOF' cat >/x\nFROM no\nEOF\nCMD z",
        'FROM a\nCOPY <<"A" <<B /x/\nFROM no\nA\nFROM no\nB\nCMD z',
        "FROM a\nRUN python3 <<EOF && \\\n  true\nFROM no\nEOF\nCMD z",
        "FROM a\nONBUILD RUN <<EOF\nFROM no\nEOF\nCMD z",
        "FROM a\nRUN 3<<EOF x\nFROM no\nEOF\nCMD z",
    ],
)
def test_heredocs(text: str) -> None:
    """What is inside a heredoc is no instruction."""
    assert [i.name for i in instructions(text)][0::2][:1] == ["FROM"]
    assert len(instructions(text)) == 3
    assert instructions(text)[-1].name == "CMD"


@pytest.mark.parametrize(
    "line", ["RUN echo '<<EOF'", 'RUN echo "<<EOF"', "RUN echo $((1<<3))", "LABEL a=<<EOF", "RUN cat <<<EOF"]
)
def test_no_heredocs(line: str) -> None:
    """Quoted, shifted or elsewhere, << opens nothing."""
    assert [i.name for i in instructions(f"FROM a\n{line}\nCMD z")] == ["FROM", line.split()[0], "CMD"]


def test_flags_and_json() -> None:
    """Flags come before the words, and a JSON list gives its items."""
    (copy,) = instructions('COPY --link --chown="1:2" --from=x ["a b", "/c/"]')
    assert copy.flags == (("link", ""), ("chown", "1:2"), ("from", "x"))
    assert copy.words == ("a b", "/c/")
    assert copy.flag("chmod") is None


# ------------------------------------------------------------------------------------------------------ the checkpoint


@pytest.mark.parametrize(
    ("text", "target", "owner", "chmod"),
    [
        pytest.param(f"FROM a\n{LINE}", "/app/model/", (0, 0), None, id="plain"),
        pytest.param("from a\ncopy --link --from=checkpoint . /m", "/m/", (0, 0), None, id="lower case, no slash"),
        pytest.param("FROM a\nCOPY --from=checkpoint --link / /m/", "/m/", (0, 0), None, id="root as source"),
        pytest.param('FROM a\nCOPY --link --from=checkpoint [".", "/m m"]', "/m m/", (0, 0), None, id="JSON"),
        pytest.param("FROM a\nCOPY --link --from=checkpoint . /", "/", (0, 0), None, id="the root"),
        pytest.param("FROM a\nCOPY --link=true --from=checkpoint . /m//x/../y", "/m/y/", (0, 0), None, id="cleaned"),
        pytest.param("FROM a\nCOPY --link --chown=1000 --from=checkpoint . /m", "/m/", (1000, 1000), None, id="uid"),
        pytest.param("FROM a\nCOPY --link --chown=root:5 --from=checkpoint . /m", "/m/", (0, 5), None, id="root"),
        pytest.param("FROM a\nCOPY --link --chmod=0440 --from=checkpoint . /m", "/m/", (0, 0), "0440", id="mode"),
        pytest.param(
            "FROM a\nWORKDIR /w\nWORKDIR x\nCOPY --link --from=checkpoint . m", "/w/x/m/", (0, 0), None, id="WORKDIR"
        ),
        pytest.param("FROM scratch\nCOPY --link --from=checkpoint . m", "/m/", (0, 0), None, id="WORKDIR of scratch"),
        pytest.param(
            "FROM a AS b\nWORKDIR /w\nFROM b\nCOPY --link --from=checkpoint . m",
            "/w/m/",
            (0, 0),
            None,
            id="WORKDIR below",
        ),
        pytest.param("FROM a\nENV D=/m\nCOPY --link --from=checkpoint . $D/x", "/m/x/", (0, 0), None, id="ENV"),
        pytest.param(
            'FROM a\nENV X=1 D="/m n"\nCOPY --link --from=checkpoint . ${D}', "/m n/", (0, 0), None, id="ENV quoted"
        ),
        pytest.param("FROM a\nENV D /m\nCOPY --link --from=checkpoint . ${D}", "/m/", (0, 0), None, id="old ENV"),
        pytest.param(
            "FROM a AS b\nENV D=/m\nFROM b\nCOPY --link --from=checkpoint . $D", "/m/", (0, 0), None, id="ENV below"
        ),
        pytest.param("FROM a\nARG D=/m\nCOPY --link --from=checkpoint . $D", "/m/", (0, 0), None, id="ARG"),
        pytest.param(
            "ARG D=/m\nFROM a\nARG D\nCOPY --link --from=checkpoint . $D", "/m/", (0, 0), None, id="global ARG"
        ),
        pytest.param("FROM a\nCOPY --link --from=checkpoint . ${D:-/m}", "/m/", (0, 0), None, id="default"),
        pytest.param(
            "FROM a\nENV D=x\nCOPY --link --from=checkpoint . ${D:+/m}", "/m/", (0, 0), None, id="alternative"
        ),
        pytest.param(
            "FROM a\nARG U=7\nCOPY --link --chown=$U:$U --from=checkpoint . /m", "/m/", (7, 7), None, id="owner"
        ),
        pytest.param(f"FROM a AS b\n{LINE}\nFROM b\nRUN x", "/app/model/", (0, 0), None, id="in a stage below"),
        pytest.param(f"FROM scratch AS checkpoint\nFROM a\n{LINE}", "/app/model/", (0, 0), None, id="with its stage"),
        pytest.param(
            "FROM a\nCOPY --link \\\n # c\n --from=checkpoint \\\n . /m/", "/m/", (0, 0), None, id="continued"
        ),
    ],
)
def test_checkpoint_copy(text: str, target: str, owner: tuple[int, int], chmod: str | None) -> None:
    """The line is found, and says folder, owner and mode as BuildKit would understand them."""
    found = find_checkpoint_copy(text)
    assert (found.target, (found.uid, found.gid), found.chmod) == (target, owner, chmod)


def test_checkpoint_copy_has_its_place() -> None:
    """The line's number and text are those of the file."""
    assert find_checkpoint_copy(f"FROM a\nRUN x\n{LINE}\nCMD y") == CheckpointCopy(3, LINE, "/app/model/", 0, 0)


def test_arguments_win_over_defaults() -> None:
    """A build argument replaces an ARG's default, and not a variable of ENV."""
    text = "FROM a\nARG D=/m\nCOPY --link --from=checkpoint . $D"
    assert find_checkpoint_copy(text, args={"D": "/n"}).target == "/n/"
    assert find_checkpoint_copy(text.replace("ARG", "ENV"), args={"D": "/n"}).target == "/m/"


def test_target_stage() -> None:
    """Only the stage that is built counts, by name or number."""
    text = f"FROM a AS One\n{LINE}\nFROM a AS two\nCOPY --link --from=checkpoint . /two"
    assert find_checkpoint_copy(text).target == "/two/"
    assert find_checkpoint_copy(text, target_stage="one").target == "/app/model/"
    assert find_checkpoint_copy(text, target_stage="0").target == "/app/model/"
    with pytest.raises(ConfigurationError, match="no stage 'three'") as caught:
        find_checkpoint_copy(text, target_stage="three")
    assert "one, two" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        pytest.param(
            "FROM a\nCOPY --from=checkpoint . /m/",
            "line 2.*--link",
            "COPY --link --chown=0:0 --from=checkpoint . /m/",
            id="no link",
        ),
        pytest.param("FROM a\nCOPY --link=false --from=checkpoint . /m/", "--link", "COPY --link", id="link=false"),
        pytest.param("FROM a\nCOPY --link --from=checkpoint w.pt /m/", "one source", LINE, id="one file of it"),
        pytest.param("FROM a\nCOPY --link --from=checkpoint . x /m/", "one source", LINE, id="two sources"),
        pytest.param(f"FROM a\n{LINE}\n{LINE}", "lines 2, 3.*2 times", LINE, id="twice"),
        pytest.param(
            "FROM a\nCOPY --link --chown=app --from=checkpoint . /m",
            "'app' is a name",
            "--chown=1000:1000",
            id="named owner",
        ),
        pytest.param(
            "FROM a\nCOPY --link --chown=1:app --from=checkpoint . /m",
            "'app' is a name",
            "--chown=1000:1000",
            id="named group",
        ),
        pytest.param("FROM a\nCOPY --link --from=checkpoint . $D/m", r"\$D is not known", LINE, id="variable"),
        pytest.param("FROM a\nCOPY --link --from=checkpoint . ${D#x}", r"\$D is not known", LINE, id="pattern"),
        pytest.param("FROM a\nCOPY --link --from=checkpoint . m", "relative", LINE, id="relative"),
        pytest.param(
            "FROM a\nCOPY --link --chmod=u+r --from=checkpoint . /m", "octal", "--chmod=0644", id="symbolic mode"
        ),
        pytest.param(
            'FROM a\nCOPY --from=checkpoint [".", "/m/my dir/"]',
            "--link",
            'COPY --link --chown=0:0 --from=checkpoint [".", "/m/my dir/"]',
            id="a space",
        ),
        pytest.param(
            'FROM a\nCOPY --link --chown=app --from=checkpoint [".", "/my dir"]',
            "is a name",
            '--chown=1000:1000 --from=checkpoint [".", "/my dir/"]',
            id="a space, named owner",
        ),
        pytest.param("FROM a\nCOPY --link --exclude=x --from=checkpoint . /m", "--exclude", LINE, id="other flag"),
        pytest.param("FROM a\nRUN --mount=type=bind,from=checkpoint,target=/m x", "RUN step", LINE, id="RUN"),
        pytest.param(
            f"FROM a AS b\n{LINE}\nFROM a AS c\nRUN x", r"not in the stage that is built \(c\)", LINE, id="other stage"
        ),
        pytest.param(
            "FROM a\nCOPY src /app\nCMD x", "no line", f"before line 2 (COPY src /app):  {LINE}", id="none, code"
        ),
        pytest.param("FROM a\nRUN y\nCMD x", "no line", f"before line 3 (CMD x):  {LINE}", id="none, command"),
        pytest.param("FROM a\nRUN y", "no line", f"after line 2 (RUN y):  {LINE}", id="none, nothing"),
        pytest.param("FROM a", "no line", f"after line 1 (FROM a):  {LINE}", id="none, empty stage"),
        pytest.param("RUN x", "no FROM", "", id="no stage"),
    ],
)
def test_wrong_checkpoint_copy(text: str, message: str, hint: str) -> None:
    """A line that cannot become layers of its own is an error that shows it, and the hint shows the right one."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        find_checkpoint_copy(text)
    assert hint in caught.value.hint


# -------------------------------------------------------------------------------------------------------- base images


@pytest.mark.parametrize(
    ("text", "target", "images"),
    [
        pytest.param("FROM a:1", "", ("a:1",), id="one"),
        pytest.param("FROM a AS x\nFROM b\nCOPY --from=x /y /y", "", ("b", "a"), id="the image's own first"),
        pytest.param("FROM a AS x\nFROM b AS y\nFROM x", "", ("a",), id="only what is needed"),
        pytest.param("FROM a AS x\nFROM b", "x", ("a",), id="of the target"),
        pytest.param(
            "FROM a\nCOPY --from=ghcr.io/x/uv:1 /uv /bin/", "", ("a", "ghcr.io/x/uv:1"), id="COPY from an image"
        ),
        pytest.param("FROM a\nRUN --mount=type=bind,from=c:2,target=/x y", "", ("a", "c:2"), id="mount of an image"),
        pytest.param("FROM a\nFROM b\nCOPY --from=0 /x /x", "", ("b", "a"), id="by number"),
        pytest.param(f"FROM scratch AS checkpoint\nFROM a\n{LINE}", "", ("a",), id="not the checkpoint"),
        pytest.param(f"FROM a\n{LINE}", "", ("a",), id="not the named context"),
        pytest.param("FROM scratch\nCOPY x /", "", (), id="not scratch"),
        pytest.param(
            "ARG V=3.11\nFROM --platform=$BUILDPLATFORM python:${V}-slim", "", ("python:3.11-slim",), id="ARG"
        ),
        pytest.param("ARG R=x/\nFROM ${R}a:${T:-1}", "", ("x/a:1",), id="defaults"),
        pytest.param("FROM a AS a\nRUN x", "", ("a",), id="a stage named as its image"),
        pytest.param("FROM b AS A\nFROM a", "", ("b",), id="stage names in any case"),
    ],
)
def test_base_images(text: str, target: str, images: tuple[str, ...]) -> None:
    """The images from elsewhere that a stage needs, and no others."""
    assert base_images(text, target_stage=target) == images


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("FROM a AS b\nFROM b AS c\nFROM x\nFROM c", "a"),
        ("FROM --platform=$BUILDPLATFORM a AS b\nFROM c\nCOPY --from=b /x /x", "c"),
        ("FROM --platform=$TARGETPLATFORM a", "a"),
        ("FROM --platform=${TARGETPLATFORM} a", "a"),
        ("FROM --platform=$BUILDPLATFORM a AS b\nFROM b", ""),
        ("FROM --platform=linux/amd64 a", ""),
        ("FROM a AS b\nFROM scratch\nCOPY --from=b /x /x", ""),
    ],
)
def test_the_image_that_decides_the_platform(text: str, image: str) -> None:
    """An image is of the platform of what it is made on top of, unless that FROM names a platform itself."""
    assert foundation(text) == image


def test_base_images_with_arguments() -> None:
    """Build arguments decide, those of the platform too."""
    text = "ARG B=a\nFROM x AS base-amd64\nFROM ${B}-${TARGETARCH}"
    assert base_images(text, args={"TARGETARCH": "arm64", "B": "c"}) == ("c-arm64",)
    assert base_images(text, args={"TARGETARCH": "amd64", "B": "base"}) == ("x",)


@pytest.mark.parametrize("text", ["ARG B\nFROM $B", "FROM a-$TARGETARCH", "ARG B=\nFROM $B"])
def test_base_without_value(text: str) -> None:
    """A base image that is not known is an error with its line."""
    with pytest.raises(ConfigurationError, match="line"):
        base_images(text)


@given(st.text(alphabet="FROM COPYRUNa=$\\{}:-+<>\"'`#\n\t[],/.", max_size=80))
def test_any_text(text: str) -> None:
    """Any text is read, or refused with a ConfigurationError, and nothing else."""
    instructions(text)
    for question in (base_images, find_checkpoint_copy, foundation):
        with contextlib.suppress(ConfigurationError):
            question("FROM a\n" + text)


def test_values_that_grow() -> None:
    """Lines that double a variable over and over are refused, before they fill the memory."""
    text = "FROM a\nENV a=xxxxxxxx\n" + "ENV a=$a$a\n" * 60 + "COPY --link --from=checkpoint . /m/"
    with pytest.raises(ConfigurationError, match="a value of over 65536 characters"):
        find_checkpoint_copy(text)
