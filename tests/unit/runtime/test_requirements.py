from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.errors import ConfigurationError
from layerkit.runtime.requirements import Requirements, credentials, masked, normalise, parse


def parsed(text: str, **others: str) -> Requirements:
    files = {"requirements.txt": text, **{name.replace("__", "/") + ".txt": value for name, value in others.items()}}
    return parse("requirements.txt", files.__getitem__)


def test_names_versions_markers() -> None:
    """An entry keeps its line as written, and has its name in the one spelling of PEP 503."""
    found = parsed("Foo._Bar[extra]>=1,<2 ; python_version < '3.12'  # why\n\n# none\nsix\n")
    assert [(e.name, e.text, e.line) for e in found.entries] == [
        ("foo-bar", "Foo._Bar[extra]>=1,<2 ; python_version < '3.12'", 1),
        ("six", "six", 4),
    ]
    assert found.files == ("requirements.txt",)
    assert not found.hashed


def test_hashes() -> None:
    """Hashes on continued lines belong to their entry, and make the file a hashed one."""
    found = parsed("torch==2.13.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nsix==1 \\\n # end\n")
    assert found.hashed
    assert found.entries[0].text == "torch==2.13.0 --hash=sha256:aa --hash=sha256:bb"
    assert found.entries[0].line == 1
    assert found.entries[1].text == "six==1"


def test_require_hashes_alone() -> None:
    """--require-hashes makes a file a hashed one."""
    assert parsed("--require-hashes\nsix==1").hashed


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("-i https://x/simple", "--index-url https://x/simple"),
        ("--index-url=https://x/simple", "--index-url https://x/simple"),
        ("--extra-index-url https://y", "--extra-index-url https://y"),
        ("-f https://z/links", "--find-links https://z/links"),
        ("--pre", "--pre"),
        ("--no-binary=:all:", "--no-binary :all:"),
        ("--trusted-host 'h'", "--trusted-host h"),
    ],
)
def test_options(line: str, option: str) -> None:
    """Global options are kept in their long form."""
    assert parsed(line).options == (option,)


def test_includes() -> None:
    """Files are included relative to the one that names them; each is listed once, and -c installs nothing."""
    found = parsed(
        "-r sub/more.txt\n-c sub/pins.txt\n--requirement=sub/more.txt\ntorch",
        sub__more="six\n-rlow.txt",
        sub__low="idna",
        sub__pins="torch==2",
    )
    assert found.files == ("requirements.txt", "sub/more.txt", "sub/low.txt", "sub/pins.txt")
    assert [e.name for e in found.installed] == ["six", "idna", "torch"]
    assert [(e.text, e.file) for e in found.constraints(frozenset({"torch"}))] == [("torch==2", "sub/pins.txt")]


def test_included_by_a_constraint() -> None:
    """What a constraints file includes is a constraint too."""
    assert not parsed("-c a.txt", a="-r b.txt", b="six==1").installed


def test_loop() -> None:
    """Files that include each other are an error that shows the circle."""
    with pytest.raises(ConfigurationError, match=r"requirements.txt -> a.txt -> requirements.txt"):
        parsed("-r a.txt", a="-r requirements.txt")


@pytest.mark.parametrize("line", ["-r ../other.txt", "-c /etc/pins.txt", "-r sub/../../x.txt"])
def test_leaving_the_project(line: str) -> None:
    """A file outside the project folder cannot be included."""
    with pytest.raises(ConfigurationError, match="outside the project folder"):
        parsed(line)


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "--editable=src/pkg",
        "-e git+https://github.com/a/b#egg=b",
        ".",
        "./pkg",
        "../pkg",
        "/opt/pkg",
        "pkg/sub",
        "wheels/a-1.0-py3-none-any.whl",
        "a-1.0-py3-none-any.whl",
        "file:///opt/a.whl",
        "a @ file:///opt/a.whl",
        "a @ ./a",
    ],
)
def test_local(line: str) -> None:
    """What lies on this machine is refused, and the hint says where it belongs."""
    with pytest.raises(ConfigurationError, match=r"requirements.txt:2.*on this machine") as caught:
        parsed("six\n" + line)
    assert "dependencies.wheels" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--unknown x", "no option"),
        ("a b c", "no requirement"),
        ("===", "no requirement"),
        ("six==1\x1b[31m", "control character"),
        ("--find-links ./wheels", "not there during the build"),
        ("-r https://x/r.txt", "not in the project folder"),
    ],
)
def test_wrong(line: str, message: str) -> None:
    """A line that pip would not take, or that cannot work in a builder, is an error with its place."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        parsed(line)
    assert "requirements.txt:1" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("torch @ https://x/torch-2.0-cp311-cp311-linux_x86_64.whl", "torch"),
        ("https://x/My_Pkg-2.0-py3-none-any.whl#sha256=aa", "my-pkg"),
        ("git+https://github.com/a/b@v1#egg=My.Name", "my-name"),
        ("git+ssh://git@github.com/org/repo.git", ""),
        ("mine @ git+ssh://git@github.com/org/repo.git@v1", "mine"),
        ("mine @ git+https://git@host/org/repo.git", "mine"),
        ("https://x/archive.tar.gz", ""),
        ("six;python_version<'3'", "six"),
        ("six~=1.0", "six"),
        ("six (>=1)", "six"),
    ],
)
def test_name(line: str, name: str) -> None:
    """The name is found in every form that tells it."""
    assert [e.name for e in parsed(line).entries] == [name]


def test_split() -> None:
    """Globs match normalised names; order is kept; a constraint is in neither part."""
    found = parsed("Torch==2\nnvidia-cuda.runtime_cu12==1\nsix\n-c c.txt", c="torch<3")
    heavy, rest = found.split(["TORCH", "nvidia_*"])
    assert [e.name for e in heavy] == ["torch", "nvidia-cuda-runtime-cu12"]
    assert [e.name for e in rest] == ["six"]
    assert found.split([]) == ((), found.installed)


def test_credentials() -> None:
    """A user or password in a URL is seen; a variable is none, nor is the user of git over ssh."""
    assert credentials("--index-url https://me:pw@host/simple")
    assert credentials("--index-url https://token@host/simple")
    assert not credentials("--index-url https://${TOKEN}@host/simple")
    assert not credentials("--index-url https://host/simple@v1")
    assert not credentials("git+ssh://git@github.com/a/b#egg=b")
    assert not credentials("a @ git+https://git@host/a/b.git@v1#egg=b")
    assert credentials("a @ git+https://git:pw@host/a/b.git")
    assert credentials("a @ git+https://git@pw@host/a/b.git")
    assert credentials("a @ https://host/a.whl?b=1&access_token=s3cret")
    assert not credentials("a @ https://host/a.whl?token=${TOKEN}")
    assert not credentials("a @ https://host/a.whl?version=1")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a @ https://me:pw@host/a.whl", "a @ https://***@host/a.whl ("),
        ("a @ git+https://pw@host/a.git@main#egg=a", "a @ git+https://***@host/a.git@main#egg=a ("),
        (
            "a @ https://me:p@pw@host/a.whl ; python_version > '3'",
            "a @ https://***@host/a.whl ; python_version > '3' (",
        ),
        ("a @ https://host/a.whl?x=1&sig=pw#sha256=1", "a @ https://host/a.whl?***#sha256=1 ("),
        ("a @ git+https://git:pw@host/a.git", "a @ git+https://***@host/a.git ("),
        ("a @ git+https://git@pw@host/a.git", "a @ git+https://***@host/a.git ("),
        ("a @ git+ssh://pw@host/a.git", "a @ git+ssh://***@host/a.git ("),
    ],
)
def test_masked(text: str, shown: str) -> None:
    """Logins and queries of URLs are never shown, and two requirements that differ there alone are told apart."""
    assert masked(text).startswith(shown) and "pw" not in masked(text)
    assert masked(text) != masked(text.replace("pw", "other"))
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    "line",
    [
        "-e git+https://me:pass-word@github.com/acme/mine.git",
        "-r https://me:pass-word@host/requirements.txt",
        "mine https://host/mine.whl?token=pass-word",
        "mine @ file://me:pass-word@host/mine.whl",
    ],
)
def test_errors_show_no_logins(line: str) -> None:
    """A line that is refused is shown without the login or token in it: errors end up in logs."""
    with pytest.raises(ConfigurationError) as caught:
        parse("requirements.txt", lambda _: line)
    assert "pass-word" not in str(caught.value) and "requirements.txt:1" in str(caught.value)


def test_masked_leaves_the_rest() -> None:
    """What has neither login nor query is shown as it is."""
    git = ("a @ git+https://host/a.git@main", "a @ git+ssh://git@host/a.git", "a @ git+https://git@host/a.git@v1")
    for text in ("torch==2.13.0", *git, "a[b]>=1 ; python_version > '3'"):
        assert masked(text) == text


@given(st.text(alphabet="aB-._09", min_size=1))
def test_normalise_is_stable(name: str) -> None:
    """A normalised name is its own normal form."""
    assert normalise(normalise(name)) == normalise(name)


@given(st.text(alphabet="abc=<>-[]@;# \\\n\"'./:!~rce", max_size=60))
def test_any_text(text: str) -> None:
    """Any text gives requirements or a ConfigurationError, and nothing else."""
    with contextlib.suppress(ConfigurationError):
        parse("r.txt", lambda path: text if path == "r.txt" else "")
