from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layerkit.engine import ANOTHER_STORE, Abilities
from layerkit.errors import ConfigurationError, LocalResourceError
from layerkit.project import Builder, Dependencies, Image, Project, Secret
from layerkit.ready import check_builder, check_secrets, there
from layerkit.runtime import generate, read_requirements


def needing(*names: str) -> str:
    mounts = " ".join(f"--mount=type=secret,id={name},required=true" for name in names)
    return f"FROM scratch\nRUN {mounts} true\n"


def test_secrets_that_are_there(tmp_path: Path) -> None:
    """A file, also one by ~ or an absolute path, and a variable that is set, also to nothing, will do."""
    (tmp_path / "token").write_text("x")
    secrets = {"a": Secret(file="token"), "b": Secret(file=str(tmp_path / "token")), "c": Secret(env="C")}
    project = Project(Image("r/x"), builder=Builder(secrets=secrets), root=tmp_path)
    assert check_secrets(project, needing("a", "b", "c"), {"C": ""}) == ()
    assert there(secrets, tmp_path) == secrets


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (Secret(env="CI_TOK"), "dependencies.secrets.T: the variable CI_TOK is not set"),
        (Secret(file="nope.txt"), "dependencies.secrets.T: no file '{root}/nope.txt'"),
        (Secret(file="."), "dependencies.secrets.T: no file '{root}'"),
    ],
)
def test_missing_secret(tmp_path: Path, secret: Secret, said: str) -> None:
    """A secret that a step requires and that is not there is an error of the configuration, by its name."""
    project = Project(Image("r/x"), dependencies=Dependencies(secrets={"T": secret}), root=tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        check_secrets(project, needing("T"), {"OTHER": "x"})
    assert str(caught.value) == said.format(root=tmp_path)


def test_generated_dockerfile_requires_its_secrets(tmp_path: Path) -> None:
    """Install steps of a generated Dockerfile do not go on without the index's login."""
    (tmp_path / "requirements.txt").write_text("six\n")
    asked = Dependencies("requirements.txt", secrets={"pip.conf": Secret(env="A"), "T": Secret(env="B")})
    project = Project(Image("r/x"), dependencies=asked, root=tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        check_secrets(project, generate(project, read_requirements(project)), {})
    assert len(caught.value.problems) == 2


def test_optional_secrets(tmp_path: Path) -> None:
    """A secret that no step requires need not be there: it is said, and BuildKit is given what docker would give."""
    secrets = {"E": Secret(env="E"), "F": Secret(file="nope.txt")}
    project = Project(Image("r/x"), builder=Builder(secrets=secrets), root=tmp_path)
    dockerfile = "FROM scratch\nRUN --mount=type=secret,id=E --mount=type=secret,id=F,required=false true\n"
    said = check_secrets(project, dockerfile, {})
    assert [text.partition(";")[0] for text in said] == [
        "builder.secrets.E: the variable E is not set",
        f"builder.secrets.F: no file '{tmp_path}/nope.txt'",
    ]
    assert there(secrets, tmp_path) == {"E": secrets["E"]}


def test_unreadable_optional_secret(tmp_path: Path) -> None:
    """What is there and is no file is a mistake, required or not."""
    project = Project(Image("r/x"), builder=Builder(secrets={"F": Secret(file=".")}), root=tmp_path)
    with pytest.raises(ConfigurationError, match=r"builder\.secrets\.F: no file"):
        check_secrets(project, "FROM scratch\n", {})


def test_all_missing_secrets(tmp_path: Path) -> None:
    """Of several all are named, in both tables."""
    project = Project(
        Image("r/x"),
        dependencies=Dependencies(secrets={"A": Secret(env="A")}),
        builder=Builder(secrets={"B": Secret(env="B")}),
    )
    with pytest.raises(ConfigurationError) as caught:
        check_secrets(project, needing("A", "B"), {})
    assert [str(problem).partition(":")[0] for problem in caught.value.problems] == [
        "dependencies.secrets.A",
        "builder.secrets.B",
    ]


def connections(kind: str, store: str, attest: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(
        destination=SimpleNamespace(kind=kind),
        engine=SimpleNamespace(abilities=Abilities("docker", store)),
        project=Project(Image("r/x"), builder=Builder(attest=attest)),
        request=SimpleNamespace(output="oci:out"),
    )


@pytest.mark.parametrize(
    ("kind", "attest", "said"),
    [
        ("oci", (), "--output oci:out: this builder cannot write OCI layouts"),
        ("registry", ("type=sbom",), "builder.attest: this builder cannot attach provenance and SBOM"),
    ],
)
def test_what_the_classic_store_cannot(kind: str, attest: tuple[str, ...], said: str) -> None:
    """What a builder cannot do is said before anything is done, with the remedy that doctor has (FAULTS 39)."""
    with pytest.raises(LocalResourceError, match=said) as caught:
        check_builder(connections(kind, "classic", attest))
    assert caught.value.hint == ANOTHER_STORE
    check_builder(connections(kind, "containerd", attest))


def test_what_it_can() -> None:
    """Nothing is asked of a builder where nothing of it is needed."""
    for kind in ("docker", "registry"):
        check_builder(connections(kind, "classic"))
    check_builder(connections("docker", "classic", ("type=sbom",)))
