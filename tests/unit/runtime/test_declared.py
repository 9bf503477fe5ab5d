"""Requirements from pyproject.toml and uv.lock, held against what uv itself gives."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from uv import find_uv_bin

from layerkit.errors import ConfigurationError
from layerkit.project import Dependencies, Image, Project, parse_toml
from layerkit.runtime import Requirements, generate, read_requirements
from layerkit.runtime.declared import from_pyproject, from_uv_lock, is_declared, split_extras

HASH = "sha256:" + "a" * 64


def pyproject(text: str, extras: tuple[str, ...] = ()) -> list[str]:
    return [entry.text for entry in from_pyproject("pyproject.toml", parse_toml(text, "x"), extras).entries]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("requirements.txt", ("requirements.txt", ())),
        ("pyproject.toml", ("pyproject.toml", ())),
        ("a/pyproject.toml[serve, GPU_x]", ("a/pyproject.toml", ("serve", "gpu-x"))),
        ("uv.lock[a]", ("uv.lock", ("a",))),
        ("poetry.lock[a]", ("poetry.lock[a]", ())),
    ],
)
def test_names(name: str, expected: tuple[str, tuple[str, ...]]) -> None:
    """Extras stand in brackets behind the two names that have them, and nowhere else."""
    assert split_extras(name) == expected
    assert is_declared(name) == (expected[0].endswith(("pyproject.toml", "uv.lock")))


def test_extras() -> None:
    """Extras come with what they name of the same project, each once."""
    text = """[project]
name = "My_Svc"
dependencies = ["a>=1 ; python_version > '3'"]
[project.optional-dependencies]
serve = ["b[x]", "c"]
all = ["my-svc[serve]", "d"]
"""
    assert pyproject(text) == ["a>=1 ; python_version > '3'"]
    assert pyproject(text, ("all",)) == ["a>=1 ; python_version > '3'", "d", "b[x]", "c"]
    with pytest.raises(ConfigurationError, match="no extra 'none'"):
        pyproject(text, ("none",))


def test_sources() -> None:
    """Where uv takes a package from is said to pip: repositories, addresses, indexes; what is local is refused."""
    text = """[project]
name = "x"
dependencies = ["a ; sys_platform == 'linux'", "b[e]>=1", "c", "torch"]
[tool.uv.sources]
a = { git = "https://git.example/a", tag = "v1" }
b = { url = "https://files.example/b-1-py3-none-any.whl" }
torch = { index = "cpu" }
[[tool.uv.index]]
name = "cpu"
url = "https://index.example/cpu"
[[tool.uv.index]]
url = "https://index.example/simple"
default = true
"""
    found = from_pyproject("pyproject.toml", parse_toml(text, "x"))
    assert [entry.text for entry in found.entries] == [
        "a @ git+https://git.example/a@v1 ; sys_platform == 'linux'",
        "b[e] @ https://files.example/b-1-py3-none-any.whl",
        "c",
        "torch",
    ]
    assert found.options == ("--extra-index-url https://index.example/cpu", "--index-url https://index.example/simple")
    with pytest.raises(ConfigurationError, match="'c' is on this machine"):
        pyproject(text.replace('torch = { index = "cpu" }', 'c = { path = "../c" }'))


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ('"^1.2.3"', "p>=1.2.3,<2"),
        ('"^0.2.3"', "p>=0.2.3,<0.3"),
        ('"^0.0.3"', "p>=0.0.3,<0.0.4"),
        ('"^0"', "p>=0,<1"),
        ('"~1.2"', "p>=1.2,<1.3"),
        ('"~1"', "p>=1,<2"),
        ('"1.2"', "p==1.2"),
        ('"1.*"', "p==1.*"),
        ('"*"', "p"),
        ('">=1, <2"', "p>=1,<2"),
        ('"~=1.4"', "p~=1.4"),
        ('{ version = "^2", extras = ["a", "b"], python = ">=3.9" }', "p[a,b]>=2,<3 ; python_version >= '3.9'"),
        ('{ git = "https://git.example/p", rev = "abc" }', "p @ git+https://git.example/p@abc"),
    ],
)
def test_poetry(said: str, line: str) -> None:
    """Poetry's ways of naming versions mean what its documentation says."""
    text = f'[tool.poetry.dependencies]\npython = "^3.9"\nopt = {{ version = "1", optional = true }}\np = {said}\n'
    assert pyproject(text) == [line]
    assert str(Requirement(line))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[project]\nname = "x"\ndynamic = ["dependencies"]\n', "dynamic"),
        ("[tool.other]\n", "neither"),
        ('[tool.poetry.dependencies]\np = "1 || 2"\n', "cannot be said"),
        ('[tool.poetry.dependencies]\np = { path = "../p" }\n', "on this machine"),
    ],
)
def test_refused(text: str, words: str) -> None:
    """What cannot be installed from it is said, with the next step."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        pyproject(text)
    assert caught.value.hint


# ----------------------------------------------------------------------------------------------------------- uv.lock


def wheel(folder: Path, name: str, version: str, *requires: str, extras: tuple[str, ...] = ()) -> None:
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {text}" for text in requires]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as made:
        made.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with forks, markers on markers, extras of extras and a circle, locked by uv."""
    root = tmp_path_factory.mktemp("locked")
    wheels = root / "wheels"
    wheel(wheels, "web", "1.0", "loop; sys_platform != 'win32'", "tools; extra == 'standard'", extras=("standard",))
    wheel(wheels, "loop", "2.0", "old; python_version < '3.11'")
    wheel(wheels, "old", "1.0", "circle")
    wheel(wheels, "tools", "1.0", "old", "color; sys_platform == 'win32'")
    wheel(wheels, "color", "1.0")
    wheel(wheels, "circle", "1.0", "round")
    wheel(wheels, "round", "1.0", "circle; platform_machine == 'x86_64'")
    wheel(wheels, "forked", "1.0")
    wheel(wheels, "forked", "2.0")
    wheel(wheels, "late", "1.0", "forked")
    (root / "pyproject.toml").write_text(
        '[project]\nname = "svc"\nversion = "1"\nrequires-python = ">=3.9"\n'
        'dependencies = ["web", "forked<2 ; python_version < \'3.12\'", "forked>=2 ; python_version >= \'3.12\'",'
        ' "late"]\n'
        '[project.optional-dependencies]\nserve = ["web[standard]"]\n'
        '[dependency-groups]\ndev = ["color"]\n[tool.uv]\nno-index = true\nfind-links = ["wheels"]\n'
    )
    subprocess.run([find_uv_bin(), "lock", "--offline", "-q"], cwd=root, check=True, timeout=60)
    return root


def read(root: Path, requirements: str) -> Requirements:
    found = read_requirements(Project(Image("x"), Dependencies(requirements), root=root))
    assert found is not None
    return found


ENVIRONMENTS = [
    {
        "python_version": version,
        "python_full_version": f"{version}.1",
        "sys_platform": system,
        "platform_machine": machine,
    }
    for version in ("3.9", "3.11", "3.12")
    for system in ("linux", "win32")
    for machine in ("x86_64", "aarch64")
]


def installed(lines: list[str], environment: dict[str, str]) -> set[str]:
    full = {**default_environment(), **environment}
    found = [Requirement(re.sub(r"\s--hash=\S+", "", line)) for line in lines]
    return {f"{r.name}{r.specifier}" for r in found if r.marker is None or Marker(str(r.marker)).evaluate(full)}


@pytest.mark.parametrize("extra", ["", "serve"])
def test_as_uv_exports(locked: Path, extra: str) -> None:
    """On every system and Python, the lock gives the packages that uv export gives."""
    ours = [entry.text for entry in read(locked, f"uv.lock[{extra}]" if extra else "uv.lock").entries]
    command = [find_uv_bin(), "export", "--frozen", "--offline", "--no-dev", "--no-emit-project", "--no-header", "-q"]
    command += ["--no-annotate", "--no-hashes", *([f"--extra={extra}"] if extra else [])]
    out = subprocess.run(command, cwd=locked, check=True, capture_output=True, text=True, timeout=60).stdout
    theirs = [line for line in out.splitlines() if line.strip()]
    assert len(theirs) > 5
    for environment in ENVIRONMENTS:
        assert installed(ours, environment) == installed(theirs, environment), environment


LOCK = """version = 1
[[package]]
name = "svc"
source = { virtual = "." }
dependencies = [{ name = "heavy" }, { name = "light" }]
[[package]]
name = "heavy"
version = "2.0+cpu"
source = { registry = "https://index.example/cpu" }
wheels = [
  { url = "https://x.example/heavy-2.0-cp311-cp311-win_amd64.whl", hash = "sha256:%(w)s" },
  { url = "https://x.example/heavy-2.0-cp311-cp311-manylinux_2_28_x86_64.whl", hash = "sha256:%(l)s" },
]
[[package]]
name = "light"
version = "1.0"
source = { registry = "https://index.example/simple" }
sdist = { url = "https://x.example/light-1.0.tar.gz", hash = "sha256:%(s)s" }
""" % {"w": "1" * 64, "l": "2" * 64, "s": "3" * 64}  # noqa: UP031


def lock(text: str, described: str = "") -> Requirements:
    return from_uv_lock("uv.lock", parse_toml(text, "x"), described=parse_toml(described, "y"))


def test_hashes_and_indexes() -> None:
    """Lines have the hashes of files for Linux; an index that the project declares is named, another is not."""
    found = lock(LOCK, '[[tool.uv.index]]\nname = "cpu"\nurl = "https://index.example/cpu"\nexplicit = true\n')
    assert [entry.text for entry in found.entries] == [
        f"heavy==2.0+cpu --hash=sha256:{'2' * 64}",
        f"light==1.0 --hash=sha256:{'3' * 64}",
    ]
    assert found.hashed and found.options == ("--extra-index-url https://index.example/cpu",)


def test_hashes_of_machines() -> None:
    """A step has room for so many hashes: those for other interpreters, and for machines nobody asked for, stay out."""
    names = (
        "cp311-cp311-manylinux_2_28_x86_64",
        "cp311-cp311-musllinux_1_2_aarch64",
        "pp310-pypy310_pp73-manylinux_2_28_x86_64",
        "cp311-cp311-manylinux_2_17_i686.manylinux2014_i686",
        "cp311-cp311-manylinux_2_31_armv7l",
    )
    wheels = ", ".join(
        f'{{ url = "https://x.example/heavy-2.0-{name}.whl", hash = "sha256:{at}" }}' for at, name in enumerate(names)
    )
    document = parse_toml(re.sub(r"(?s)wheels = \[.*?\n\]", f"wheels = [{wheels}]", LOCK), "x")

    def kept(*architectures: str) -> list[str]:
        return re.findall(r"sha256:(\d)\b", from_uv_lock("l", document, architectures=architectures).entries[0].text)

    assert kept() == ["0", "1"] and kept("arm") == ["0", "1", "4"] and kept("386", "arm64") == ["0", "1", "3"]


def test_without_all_hashes() -> None:
    """Installers check all files or none: where one is a clone, no line has a hash."""
    text = LOCK.replace('{ registry = "https://index.example/simple" }', '{ git = "https://g.example/l?rev=v1#abc" }')
    found = lock(re.sub(r"sdist = .*\n", "", text))
    assert [entry.text for entry in found.entries] == ["heavy==2.0+cpu", "light @ git+https://g.example/l@abc"]
    assert not found.hashed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version = 1\n", "no .*package"),
        (LOCK.replace('virtual = "."', 'registry = "x"'), "not clear which"),
        (LOCK.replace('registry = "https://index.example/simple"', 'directory = "../l"'), "'light' is on this machine"),
        (LOCK.replace('name = "light"\nversion', 'name = "other"\nversion'), "no package 'light'"),
    ],
)
def test_no_such_lock(text: str, words: str) -> None:
    """A lock that cannot be installed from is refused with the next step."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        lock(text)
    assert caught.value.hint


def test_steps(tmp_path: Path) -> None:
    """The steps have the lines in their own text, no file of requirements is sent, and a lock is not resolved again."""
    (tmp_path / "uv.lock").write_text(LOCK)
    project = Project(Image("x"), Dependencies("uv.lock", separate=["heavy"]), root=tmp_path)
    text = generate(project, read_requirements(project))
    assert f"heavy==2.0+cpu --hash=sha256:{'2' * 64}" in text and "type=bind" not in text
    runs = text.split("RUN ")[1:]
    assert len(runs) == 2 and all("--no-deps" in run and "-r /dev/stdin" in run for run in runs)
    assert "heavy==" not in runs[1] and "light==" not in runs[0]
