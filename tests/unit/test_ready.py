from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layerkit.engine import ANOTHER_STORE, Abilities
from layerkit.errors import ConfigurationError, LocalResourceError
from layerkit.project import Builder, Dependencies, Image, Project, Secret
from layerkit.ready import check_builder, check_secrets


def test_secrets_that_are_there(tmp_path: Path) -> None:
    """A file, also one by ~ or an absolute path, and a variable that is set, also to nothing, will do."""
    (tmp_path / "token").write_text("x")
    secrets = {"a": Secret(file="token"), "b": Secret(file=str(tmp_path / "token")), "c": Secret(env="C")}
    check_secrets(Project(Image("r/x"), builder=Builder(secrets=secrets), root=tmp_path), {"C": ""})


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (Secret(env="CI_TOK"), "dependencies.secrets.T: the variable CI_TOK is not set"),
        (Secret(file="nope.txt"), "dependencies.secrets.T: no file '{root}/nope.txt'"),
        (Secret(file="."), "dependencies.secrets.T: no file '{root}'"),
    ],
)
def test_missing_secret(tmp_path: Path, secret: Secret, said: str) -> None:
    """A secret that is not there is an error of the configuration, by its name."""
    project = Project(Image("r/x"), dependencies=Dependencies(secrets={"T": secret}), root=tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        check_secrets(project, {"OTHER": "x"})
    assert str(caught.value) == said.format(root=tmp_path)


def test_all_missing_secrets(tmp_path: Path) -> None:
    """Of several all are named, in both tables."""
    project = Project(
        Image("r/x"),
        dependencies=Dependencies(secrets={"A": Secret(env="A")}),
        builder=Builder(secrets={"B": Secret(env="B")}),
    )
    with pytest.raises(ConfigurationError) as caught:
        check_secrets(project, {})
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
