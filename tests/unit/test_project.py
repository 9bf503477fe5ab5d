from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from layerkit.errors import ConfigurationError
from layerkit.project import Builder, Checkpoint, Code, Dependencies, Image, Project, Secret, load, override, schema

FULL = """
[image]
name = "ghcr.io/acme/resnet"
base = "python:3.12-slim"
platforms = ["linux/amd64", "linux/arm64/v8"]
command = ["python", "serve.py"]
entrypoint = ["tini", "--"]
workdir = "/srv"
user = "1000:1000"
env = { PORT = "8000" }
labels = { "org.opencontainers.image.title" = "ResNet" }
expose = [8000]

[dependencies]
requirements = "requirements.txt"
separate = ["torch", "nvidia-*"]
installer = "uv"
wheels = "wheels"
apt = ["libgomp1"]
build-apt = ["gcc"]
secrets = { "pip.conf" = { file = "~/.config/pip/pip.conf" } }

[code]
include = ["serve.py", "src"]
exclude = ["*.ipynb"]
target = "/srv"

[checkpoint]
path = "resnet50.pth.tar"
target = "/srv/model/"
chown = "1000:1000"
chmod = "0440"
placement = "artifact"
compression = "auto"
format = "safetensors"
hash = "weights"
key = "state_dict"
strip-prefix = "module."
dtype = "bfloat16"
drop = ["*.num_batches_tracked"]
shard-size = "1GiB"
max-layers = 16
layer-limit = 10_000_000_000

[cache]
to = []
from = ["type=registry,ref=ghcr.io/acme/cache"]
repository = "ghcr.io/acme/cache"

[builder]
name = "big"
args = { VERSION = "3" }
secrets.token = { env = "TOKEN" }
ssh = ["default"]
network = "none"
attest = ["type=sbom"]
"""


def read(root: Path, text: str, *, name: str = "layerkit.toml", overrides: Sequence[str] = ()) -> Project:
    (root / name).write_text(text)
    return load(root / name, overrides=overrides)


def problems(root: Path, text: str, *, name: str = "layerkit.toml", overrides: Sequence[str] = ()) -> list[str]:
    """Each problem of a file, without the folder."""
    with pytest.raises(ConfigurationError) as caught:
        read(root, text, name=name, overrides=overrides)
    assert caught.value.exit_status == 2
    return [str(problem).removeprefix(f"{root}/") for problem in caught.value.problems]


def minimal(more: str = "") -> str:
    return f'[image]\nname = "a/b"\n{more}'


# ------------------------------------------------------------------------------------------------------------- reading


def test_everything(tmp_path: Path) -> None:
    """Every key of every table arrives, under the same name as in Python."""
    project = read(tmp_path, FULL)
    assert project == Project(
        image=Image(
            "ghcr.io/acme/resnet",
            base="python:3.12-slim",
            platforms=["linux/amd64", "linux/arm64"],
            command=["python", "serve.py"],
            entrypoint=["tini", "--"],
            workdir="/srv",
            user="1000:1000",
            env={"PORT": "8000"},
            labels={"org.opencontainers.image.title": "ResNet"},
            expose=[8000],
        ),
        dependencies=Dependencies(
            "requirements.txt",
            separate=["torch", "nvidia-*"],
            installer="uv",
            wheels="wheels",
            apt=["libgomp1"],
            build_apt=["gcc"],
            secrets={"pip.conf": Secret(file="~/.config/pip/pip.conf")},
        ),
        code=Code(["serve.py", "src"], exclude=["*.ipynb"], target="/srv"),
        checkpoint=Checkpoint(
            "resnet50.pth.tar",
            target="/srv/model/",
            chown="1000:1000",
            chmod="0440",
            placement="artifact",
            compression="auto",
            format="safetensors",
            hash="weights",
            key="state_dict",
            strip_prefix="module.",
            dtype="bfloat16",
            drop=["*.num_batches_tracked"],
            shard_size="1GiB",
            max_layers=16,
            layer_limit=10_000_000_000,
        ),
        cache=project.cache,
        builder=Builder(
            name="big",
            args={"VERSION": "3"},
            secrets={"token": Secret(env="TOKEN")},
            ssh=["default"],
            network="none",
            attest=["type=sbom"],
        ),
        root=tmp_path,
    )
    assert (project.cache.to, project.cache.from_) == ((), ("type=registry,ref=ghcr.io/acme/cache",))
    assert project.cache.repository == "ghcr.io/acme/cache"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param('key = "model"', "checkpoint.key: has no effect on a file that is kept", id="key"),
        pytest.param('key = "model"\nhash = "file"', "checkpoint.key: has no effect", id="key-file"),
        pytest.param('strip-prefix = "module."', "checkpoint.strip-prefix: has no effect", id="prefix"),
        pytest.param('dtype = "float16"', "checkpoint.dtype: has no effect on a file that is kept", id="dtype"),
        pytest.param('drop = ["a"]\nformat = "keep"', "checkpoint.drop: has no effect", id="drop"),
        pytest.param('shard-size = "1GiB"', "checkpoint.shard-size: has no effect", id="shards"),
        pytest.param('format = "safetensors"\nshard-size = "1 gig"', "'1 gig' is no size, as in '1GiB'", id="size"),
        pytest.param('format = "safetensors"\nshard-size = "0"', "'0' is no size", id="nothing"),
        pytest.param('format = "safetensors"\nshard-size = "1MB"\nmax-layers = 1', "must be 2 at least", id="layers"),
        pytest.param("max-layers = 101", "less than or equal to 100", id="too-many"),
        pytest.param('format = "safetensors"\nplacement = "volume"', "has no effect with placement", id="volume"),
        pytest.param('hash = "weights"\nplacement = "volume"', "has no effect with placement", id="volume-hash"),
        pytest.param('format = "safetensors"\ndtype = "float8"', "checkpoint.dtype", id="no-dtype"),
    ],
)
def test_what_becomes_of_the_checkpoint(tmp_path: Path, keys: str, expected: str) -> None:
    """Keys of [checkpoint] that contradict each other are refused, with the line of the key."""
    text = minimal(f'[checkpoint]\npath = "w.pt"\n{keys}\n')
    (problem,) = problems(tmp_path, text)
    assert expected in problem
    line = int(problem.split(":")[1])
    name = problem.split("checkpoint.")[1].split(":")[0]
    assert text.splitlines()[line - 1].startswith(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1GiB", 2**30), ("500MB", 500 * 10**6), ("1.5 MiB", 1536 * 1024), ("4096", 4096), ("2k", 2000), ("7B", 7)],
)
def test_sizes(text: str, expected: int) -> None:
    """A size is in units of 1024 with an i and of 1000 without."""
    checkpoint = Checkpoint("w.pt", format="safetensors", shard_size=text)
    assert (checkpoint.shard_bytes, checkpoint.hashes) == (expected, "weights")
    assert (Checkpoint("w.pt").shard_bytes, Checkpoint("w.pt").hashes) == (0, "file")
    assert Checkpoint("w.pt", hash="weights", key="model").hashes == "weights"


def test_minimal(tmp_path: Path) -> None:
    """A name is all that must be said."""
    project = read(tmp_path, minimal())
    assert project == Project(image=Image("a/b"), root=tmp_path)
    assert project.checkpoint is None and project.image.base == "python:3.11-slim"


def test_values_do_not_move() -> None:
    """Tables are frozen, and lists become tuples, so that nobody changes them from outside."""
    command = ["python"]
    image = Image("a/b", command=command)
    command.append("x")
    assert image.command == ("python",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        image.name = "c/d"  # type: ignore[misc]


def test_pyproject(tmp_path: Path) -> None:
    """The same tables may be under [tool.layerkit] in pyproject.toml; its other content does not matter."""
    text = '[project]\nname = "x"\n[tool.other]\nkey = 1\n[tool.layerkit.image]\nname = "a/b"\n'
    assert read(tmp_path, text, name="pyproject.toml") == Project(image=Image("a/b"), root=tmp_path)
    assert load(root=tmp_path).image.name == "a/b"
    wrong = text + "[tool.layerkit.code]\ninclud = []\n"
    assert problems(tmp_path, wrong, name="pyproject.toml") == [
        "pyproject.toml:8: code.includ: unknown key (did you mean 'include'?)"
    ]


@pytest.mark.parametrize("text", ["tool = 1\n", "[tool]\nlayerkit = 1\n", "[tool.other]\n", ""])
def test_pyproject_without_our_table(tmp_path: Path, text: str) -> None:
    """A pyproject.toml that is not about layerkit is not taken for the project, and is no reason to crash."""
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigurationError):
        load(root=tmp_path)
    with pytest.raises(ConfigurationError):
        load(tmp_path / "pyproject.toml")


def test_layerkit_toml_goes_first(tmp_path: Path) -> None:
    """Where both files are, layerkit.toml is read."""
    (tmp_path / "pyproject.toml").write_text('[tool.layerkit.image]\nname = "a/pyproject"\n')
    (tmp_path / "layerkit.toml").write_text('[image]\nname = "a/layerkit"\n')
    assert load(root=tmp_path).image.name == "a/layerkit"


def test_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root is the file's folder, or the one that was named; a file is looked for there first."""
    (tmp_path / "p").mkdir()
    (tmp_path / "p/layerkit.toml").write_text('[image]\nname = "a/inner"\n')
    (tmp_path / "layerkit.toml").write_text('[image]\nname = "a/outer"\n')
    monkeypatch.chdir(tmp_path)
    assert load("p/layerkit.toml").root == Path("p")
    found = load("layerkit.toml", root="p")
    assert (found.image.name, found.root) == ("a/inner", Path("p"))
    other = load(tmp_path / "layerkit.toml", root="p")
    assert (other.image.name, other.root) == ("a/outer", Path("p"))
    (tmp_path / "p/layerkit.toml").unlink()
    assert load("layerkit.toml", root="p").image.name == "a/outer"


def test_no_file(tmp_path: Path) -> None:
    """Where there is no file, the message says where it was looked for, and how to get one."""
    with pytest.raises(ConfigurationError, match=r"no layerkit\.toml") as caught:
        load(root=tmp_path)
    assert str(tmp_path) in str(caught.value) and "layerkit init" in caught.value.hint
    with pytest.raises(ConfigurationError, match=r"no file 'other\.toml'"):
        load("other.toml", root=tmp_path)


# -------------------------------------------------------------------------------------------------------- what is wrong


def test_all_problems_with_their_lines(tmp_path: Path) -> None:
    """All problems of a file come at once, in the order of their lines, with the near miss of a wrong key."""
    text = """\
[image]
nam = "a/b"
expose = [80, 70000]
command = "python serve.py"
platforms = [
  "linux/amd64",
  "windows",
]

[chekpoint]
path = "x"

[code]
target = "app"
env.x = 1
"""
    assert problems(tmp_path, text) == [
        "layerkit.toml:1: image.name: is required",
        "layerkit.toml:2: image.nam: unknown key (did you mean 'name'?)",
        "layerkit.toml:3: image.expose.1: input should be less than or equal to 65535",
        'layerkit.toml:4: image.command: must be a list, as in ["…"]',
        "layerkit.toml:5: image.platforms.1: not a platform: 'windows' (expected os/architecture, as in linux/amd64)",
        "layerkit.toml:10: chekpoint: unknown table (did you mean 'checkpoint'?)",
        "layerkit.toml:14: code.target: 'app' must be an absolute path in the image, without '..' or variables",
        "layerkit.toml:15: code.env: unknown key (known: include, exclude, target)",
    ]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        pytest.param("bad = 1", 3, id="plain"),
        pytest.param("\n\n# bad = 0\nbad = 1", 6, id="comment-before"),
        pytest.param('labels = { a = """\nbad = 1\n""" }\nbad = 1', 6, id="text-of-lines-before"),
        pytest.param("command = [\n  'a',  # ]\n]\nbad = 1", 6, id="list-of-lines-before"),
        pytest.param('"bad" = 1', 3, id="quoted"),
        pytest.param("bad.x.y = 1", 3, id="dotted"),
        pytest.param("[image.bad]\nx = 1", 3, id="table"),
        pytest.param("[[image.bad]]\nx = 1", 3, id="array-of-tables"),
        pytest.param("\r\nbad = 1\r\n", 4, id="crlf"),
    ],
)
def test_line(tmp_path: Path, more: str, line: int) -> None:
    """The line is that of the key, whatever stands before it and however it is written."""
    (found,) = problems(tmp_path, minimal(more))
    assert found.startswith(f"layerkit.toml:{line}: image.bad: unknown key")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Image("UPPER"), r"^Image\.name: 'UPPER' is not an image reference"),
        (lambda: Image(), r"^Image\.name: is required"),  # type: ignore[call-arg]
        (lambda: Image("a/b", comand=[]), r"^Image\.comand: unknown key"),  # type: ignore[call-arg]
        (lambda: Image("a/b", *"0123456789abc"), r"unexpected positional"),  # type: ignore[arg-type]
        (lambda: Checkpoint(path=""), r"^Checkpoint\.path: must not be empty"),
        (lambda: Dependencies(build_apt=["gcc", 3]), r"^Dependencies\.build_apt\.1: "),  # type: ignore[list-item]
        (lambda: Code(include="x", target="app"), r"Code\.include: must be a list.*; Code\.target: 'app' must be"),
        (lambda: Secret(), r"^Secret: a secret has either file"),
        (lambda: Project(image="x"), r"^Project\.image: is no Image"),  # type: ignore[arg-type]
        (lambda: dataclasses.replace(Image("a/b"), workdir="app"), r"^Image\.workdir: 'app' must be"),
    ],
)
def test_tables_in_python(make: Callable[[], object], said: str) -> None:
    """Whoever makes a table of what it cannot hold gets a ConfigurationError that names the field, and all of them."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        make()
    assert caught.value.problems


def test_line_in_a_large_file(tmp_path: Path) -> None:
    """Many mistakes in a large file take no time to speak of (FAULTS 53)."""
    begun = time.monotonic()
    found = problems(tmp_path, minimal("".join(f"wrong-{n} = 1\n" for n in range(2000))))
    assert len(found) == 2000 and found[-1].startswith("layerkit.toml:2002: ")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[image]\nname = "a/b:v1"', "without a tag"),
        ('[image]\nname = "ghcr.io/A/b"', "lower case"),
        ('[image]\nname = "a/b"\nbase = "Python"', "lower case"),
        ("[image]\nname = 3", "string"),
        (minimal("expose = 8000"), 'image.expose: must be a list, as in [8000]'),
        (minimal('[code]\ninclude = "x"'), 'code.include: must be a list, as in ["…"]'),
        (minimal('env = "x"'), "image.env: must be a table"),
        (minimal('[dependencies]\nsecrets.INDEX_TOKEN = "abc"'), "secrets.INDEX_TOKEN: must be { file = "),
        (minimal('workdir = "app"'), "absolute path"),
        (minimal('workdir = "/app/../etc"'), "absolute path"),
        (minimal('workdir = "/app/$X"'), "variables"),
        (minimal('workdir = "/a\\nb"'), "control characters"),
        (minimal('workdir = ""'), "empty"),
        (minimal('target = "stage"'), "image.target needs image.dockerfile"),
        (minimal('[code]\ninclude = ["../x"]'), "inside the project folder"),
        (minimal('[code]\ninclude = ["/etc"]'), "inside the project folder"),
        (minimal('[checkpoint]\ntarget = "/m"'), "is required"),
        (minimal('[checkpoint]\npath = "x"\ntarget = "model"'), "absolute path"),
        (minimal('[checkpoint]\npath = "x"\ntarget = "/a/../../etc"'), "absolute path"),
        (minimal('[checkpoint]\npath = "x\\u0000"'), "control characters"),
        (minimal('[checkpoint]\npath = "x"\nchown = "www-data"'), "write numbers"),
        (minimal('[checkpoint]\npath = "x"\nchown = "1:2:3"'), "write numbers"),
        (minimal('[checkpoint]\npath = "x"\nchown = "4294967295"'), "highest number"),
        (minimal('[checkpoint]\npath = "x"\nchmod = "rw"'), "octal"),
        (minimal('[checkpoint]\npath = "x"\nchmod = "0888"'), "octal"),
        (minimal('[checkpoint]\npath = "x"\nplacement = "side"'), "'layer', 'volume' or 'artifact'"),
        (minimal('[dependencies]\ninstaller = "conda"'), "'pip' or 'uv'"),
        (minimal('[builder.args]\nAPI_TOKEN = "x"'), "[builder.secrets] API_TOKEN"),
        (minimal('[builder.args]\nPIP_INDEX_URL = "https://me:pw@host/x"'), "'PIP_INDEX_URL' has a URL with a login"),
        (minimal('[builder.args]\n"A B" = "x"'), "no variable name"),
        (minimal('[image.env]\nDB_PASSWORD = "x"'), "looks like a secret"),
        (minimal("[builder.secrets.x]"), "either file"),
        (minimal('[builder.secrets.x]\nfile = "a"\nenv = "b"'), "either file"),
        (minimal('[builder.secrets."a b"]\nfile = "a"'), "no secret id"),
        (minimal('[builder]\nnetwork = "bridge"'), "'none' or 'host'"),
        *((minimal(f"[builder]\nattest = ['{text}']"), "is no attestation")
          for text in ("sbom", "mode=max", "type=x", "type=provenance,mode=all", "type=sbom,x", "type=sbom,mode=max")),
        (minimal('base = "scratch"\n[dependencies]\napt = ["curl"]'), "nothing is in it"),
        (minimal("[checkpoint]\npath = 3"), "string"),
        ('image = "a/b"', "must be a table"),
        ("", "is required"),
        (minimal('root = "/"'), "unknown key"),
        ("root = '/'\n" + minimal(), "unknown table"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, more: str, said: str) -> None:
    """What cannot be built is refused before anything runs, in words that say what is allowed (FAULTS 37, 54, 57)."""
    (found,) = problems(tmp_path, more)
    assert said in found and "me:pw" not in found


def test_logins_of_proxies() -> None:
    """A proxy's URL may have a login, for BuildKit keeps its variables out of the history; and a variable is none."""
    Builder(args={"HTTPS_PROXY": "http://me:pw@proxy:3128", "PIP_INDEX_URL": "https://ci:${PASS}@host/simple"})


@pytest.mark.parametrize("user", ["git", "oauth2", "x-access-token"])
def test_users_that_are_no_logins(user: str) -> None:
    """A user that git hosts have everybody write is no secret; with a password, or of another name, it may be one."""
    for url in (f"https://{user}@host/acme/mine.git", f"git+https://{user}@host:8443/m@v1", f"https://{user}@host"):
        Builder(args={"SOURCE": url})
    for login in (f"{user}:t0k3n", f"t0k3n-{user}", f"{user}x", f"{user}@t0k3n", f"{user.upper()}"):
        with pytest.raises(ConfigurationError, match="has a URL with a login"):
            Builder(args={"SOURCE": f"https://{login}@host/acme/mine.git"})


@pytest.mark.parametrize("key", ["command", "entrypoint", "env", "labels", "expose", "user", "workdir", "base"])
def test_own_dockerfile_decides(key: str) -> None:
    """What one's own Dockerfile says cannot be said beside it, for it would have no effect."""
    value: Any = {"env": {"A": "b"}, "labels": {"a": "b"}, "expose": [80], "user": "root", "workdir": "/x", "base": "x"}
    with pytest.raises(ConfigurationError, match=rf"image\.{key} has no effect with image\.dockerfile"):
        Project(image=Image("a/b", dockerfile="Dockerfile", **{key: value.get(key, ["x"])}))


def test_own_dockerfile_with_tables(tmp_path: Path) -> None:
    """[dependencies] and [code] beside one's own Dockerfile are refused; its stage and builder's tables are not."""
    (found,) = problems(tmp_path, minimal('dockerfile = "Dockerfile"\n[code]\ninclude = ["x"]'))
    assert "[code] has no effect" in found
    (found,) = problems(tmp_path, minimal('dockerfile = "Dockerfile"\n[dependencies]\napt = ["x"]'))
    assert "[dependencies] has no effect" in found
    assert read(tmp_path, minimal('dockerfile = "Dockerfile"\ntarget = "t"\n[builder.args]\nA = "b"')).image.target


# ------------------------------------------------------------------------------------------------------- no TOML at all


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        pytest.param(b"[image\n", "layerkit.toml:1:7: ", id="syntax"),
        pytest.param(b"a = 1\na = 2\n", "layerkit.toml:2", id="twice"),
        pytest.param(b"\xff", "not UTF-8 at byte 0", id="not-utf-8"),
        pytest.param(b"#" * (1024 * 1024 + 1), "over 1048576 bytes", id="over-1-mib"),
        pytest.param(b"a = " + b"[" * 100_000, "nested too deeply", id="deep-lists"),
        pytest.param(b"a = " + b"{a=" * 100_000, "nested too deeply", id="deep-tables"),
        pytest.param(b"[image.labels" + b".a" * 5000 + b"]\n", "nested too deeply", id="deep-header"),
        pytest.param(b"[image]\nname = 'a\x1b[31m'\n", "layerkit.toml:2", id="control-characters"),
    ],
)
def test_no_toml(tmp_path: Path, raw: bytes, said: str) -> None:
    """A file that is no TOML, too large or nested too deeply is refused with 2, at its place (FAULTS 53)."""
    (tmp_path / "layerkit.toml").write_bytes(raw)
    with pytest.raises(ConfigurationError) as caught:
        load(root=tmp_path)
    assert said in str(caught.value) and "\x1b" not in str(caught.value)


def test_one_mib_is_read(tmp_path: Path) -> None:
    """A file of exactly 1 MiB is still read (FAULTS 53)."""
    text = minimal()
    assert read(tmp_path, text + "#" * (1024 * 1024 - len(text))).image.name == "a/b"


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be read is a configuration error."""
    (tmp_path / "layerkit.toml").write_text(minimal())

    def denied(self: Path, *args: object, **options: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
        load(root=tmp_path)


# ----------------------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        pytest.param("image.base=python:3.12", {"image": {"name": "a", "base": "python:3.12"}}, id="no-toml-is-text"),
        pytest.param("image.base = 'x'", {"image": {"name": "a", "base": "x"}}, id="toml-text"),
        pytest.param("image.expose=[80]", {"image": {"name": "a", "expose": [80]}}, id="list"),
        pytest.param("image.env.A=b=c", {"image": {"name": "a", "env": {"A": "b=c"}}}, id="equals-in-value"),
        pytest.param("image.name=", {"image": {"name": ""}}, id="empty"),
        pytest.param("code.target=/x", {"image": {"name": "a"}, "code": {"target": "/x"}}, id="new-table"),
        pytest.param('image.labels."org.x.y"=z', {"image": {"name": "a", "labels": {"org.x.y": "z"}}}, id="quoted-key"),
        pytest.param("image.base=[", {"image": {"name": "a", "base": "["}}, id="half-toml"),
    ],
)
def test_override(assignment: str, expected: dict[str, Any]) -> None:
    """An assignment goes where its key says, as TOML or else as text, and the document that it is made to stays."""
    document = {"image": {"name": "a"}}
    assert override(document, assignment) == expected
    assert document == {"image": {"name": "a"}}


@pytest.mark.parametrize("assignment", ["", "image", "image=1", "image.base", "=x", ".=x", "a..b=x", "a.=x", "a b.c=x"])
def test_not_an_override(assignment: str) -> None:
    """What is no assignment is refused, with the form shown."""
    with pytest.raises(ConfigurationError, match="is no assignment") as caught:
        override({}, assignment)
    assert "--set" in caught.value.hint


def test_overrides_in_a_file(tmp_path: Path) -> None:
    """Overrides win over the file, later ones over earlier ones, and are checked like it."""
    project = read(tmp_path, minimal(), overrides=["image.base=a", "image.base=b", "checkpoint.path=w"])
    assert project.image.base == "b" and project.checkpoint == Checkpoint("w")
    assert problems(tmp_path, minimal(), overrides=["image.bse=b"]) == [
        "--set image.bse: unknown key (did you mean 'base'?)"
    ]


# -------------------------------------------------------------------------------------------------------------- schema


def test_schema_has_every_key(tmp_path: Path) -> None:
    """The schema names exactly the keys that a file may have, each described, and allows no others."""
    import tomli

    made = schema()
    json.dumps(made)
    full = tomli.loads(FULL)
    assert set(made["properties"]) == set(full) and made["additionalProperties"] is False
    assert made["required"] == ["image"]
    for table, content in full.items():
        keys = made["$defs"][table.capitalize()]
        assert keys["additionalProperties"] is False
        assert set(content) | {"dockerfile", "target"} >= set(keys["properties"]) >= set(content)
        assert all(value.get("description") for value in keys["properties"].values())


def test_schema_and_loading_agree(tmp_path: Path) -> None:
    """A key that the schema has is one that is read: each alone is taken for known."""
    for table, keys in schema()["$defs"].items():
        if table != "Secret":
            for key in keys["properties"]:
                (tmp_path / "layerkit.toml").write_text(f"[{table.lower()}]\n{key} = 1979-05-27\n")
                with pytest.raises(ConfigurationError) as caught:
                    load(root=tmp_path)
                assert "unknown" not in " ".join(map(str, caught.value.problems))


@pytest.mark.parametrize(
    ("assignment", "where"),
    [
        ("checkpoint.target=model", "--set checkpoint.target: "),
        ("checkpoint.pth=x", "--set checkpoint.pth: unknown key"),
        ("nosuch.key=1", "--set nosuch: unknown table"),
    ],
)
def test_a_wrong_override_is_not_blamed_on_a_line_of_the_file(tmp_path: Path, assignment: str, where: str) -> None:
    """What --set got wrong is said of --set: the file, and a line of it, would send the reader to what is right."""
    text = '[image]\nname = "a"\nbase = "b"\n[checkpoint]\npath = "w"\ntarget = "/app/model/"\n'
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text, overrides=[assignment])
    (problem,) = caught.value.problems
    assert str(problem).startswith(where)
    assert str(caught.value).startswith("--set: 1 problem")


def test_the_problems_of_the_file_keep_their_lines_beside_those_of_an_override(tmp_path: Path) -> None:
    """Each of two problems is said of the side that has it."""
    text = '[image]\nname = "a"\nbase = "b"\nnmae = "c"\n'
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text, overrides=["image.bsae=x"])
    assert [(problem.where, problem.line) for problem in caught.value.problems] == [
        ("--set image.bsae", 0),
        ("image.nmae", 4),
    ]
