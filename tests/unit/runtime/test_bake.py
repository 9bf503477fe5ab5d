from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.project import Secret
from layerkit.runtime.bake import Target, definition, entry

ROOT = Path("/project")


def target(**options: object) -> dict[str, object]:
    made = definition([Target("image", Path("/context"), "/Dockerfile", **options)], ROOT)  # type: ignore[arg-type]
    assert made["group"] == {"default": {"targets": ["image"]}}
    found: dict[str, object] = made["target"]["image"]
    json.dumps(found)
    return found


def bake_reads(text: str) -> str:
    """What bake (HCL) makes of a string in its JSON: $${ and %%{ are ${ and %{; a template would be evaluated."""
    assert not re.search(r"(?<!\$)\$\{|(?<!%)%\{", text), f"bake would evaluate {text!r}"
    return text.replace("$${", "${").replace("%%{", "%{")


def test_minimal() -> None:
    """Only what is asked for is said, and provenance, which would make an index of every image, is off."""
    assert target() == {
        "context": "/context",
        "dockerfile": "/Dockerfile",
        "attest": ["type=provenance,disabled=true"],
    }


def test_everything() -> None:
    """Each option arrives under bake's name for it."""
    found = target(
        platform="linux/amd64,linux/arm64",
        stage="image",
        contexts={"checkpoint": "/w", "python": "docker-image://python@sha256:1"},
        secrets={"b": Secret(env="B"), "a": Secret(file="key"), "c": Secret(file="/etc/key")},
        args={"A": "1"},
        ssh=["default"],
        network="none",
        tags=["r/x:v1"],
        outputs=["type=registry"],
        cache_to=["type=registry,ref=r/x:c"],
        cache_from=["type=registry,ref=r/x:c"],
        attest=["type=sbom"],
        no_cache=True,
        pull=True,
    )
    assert found == {
        "context": "/context",
        "dockerfile": "/Dockerfile",
        "target": "image",
        "platforms": ["linux/amd64", "linux/arm64"],
        "contexts": {"checkpoint": "/w", "python": "docker-image://python@sha256:1"},
        "args": {"A": "1"},
        "secret": [
            "type=file,id=a,src=/project/key",
            "type=env,id=b,env=B",
            "type=file,id=c,src=/etc/key",
        ],
        "ssh": ["default"],
        "network": "none",
        "tags": ["r/x:v1"],
        "output": ["type=registry"],
        "cache-to": ["type=registry,ref=r/x:c"],
        "cache-from": ["type=registry,ref=r/x:c"],
        "attest": ["type=sbom"],
        "no-cache": True,
        "pull": True,
    }


def test_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """~ in a secret's file is the home folder."""
    monkeypatch.setenv("HOME", "/home/me")
    assert target(secrets={"a": Secret(file="~/key")})["secret"] == ["type=file,id=a,src=/home/me/key"]


def test_no_secret_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of a secret is not in the definition, only where it comes from (FAULTS 37)."""
    monkeypatch.setenv("TOKEN", "hunter2")
    assert "hunter2" not in json.dumps(target(secrets={"a": Secret(env="TOKEN")}))


@pytest.mark.parametrize("text", ["RUN echo ${HOME} $HOME", "ENV A=%{if x}", "a $${b} %%{c}", "$", "${", "$$$${"])
def test_nothing_is_evaluated(text: str) -> None:
    """Bake reads ${…} and %{…} in strings as its own; the Dockerfile and arguments reach BuildKit as they are."""
    found = target(inline=True, args={"A": text})
    args = found["args"]
    assert isinstance(args, dict) and bake_reads(args["A"]) == text


@pytest.mark.parametrize("folder", ["pa,b", "p${x}", "p%{y}", 'a"b', "a b"])
def test_folders_of_any_name(folder: str) -> None:
    """A folder's name reaches BuildKit as it is: bake evaluates nothing in it, and CSV does not split it."""
    root = Path("/x", folder)
    made = definition(
        [
            Target(
                "image",
                root / "context",
                str(root / "Dockerfile"),
                contexts={"wheels": str(root / "wheels")},
                secrets={"a": Secret(file="key")},
                outputs=[entry("type=oci", f"dest={root / 'out'}")],
            )
        ],
        root,
    )["target"]["image"]
    assert bake_reads(made["context"]) == f"{root}/context" and bake_reads(made["dockerfile"]) == f"{root}/Dockerfile"
    assert bake_reads(made["contexts"]["wheels"]) == f"{root}/wheels"
    assert next(csv.reader([bake_reads(made["secret"][0])])) == ["type=file", "id=a", f"src={root}/key"]
    assert next(csv.reader([bake_reads(made["output"][0])])) == ["type=oci", f"dest={root}/out"]


@given(st.text("${}%a\n"))
def test_inline_dockerfile(text: str) -> None:
    """The same for any text of a Dockerfile."""
    made = definition([Target("image", ROOT, text, inline=True)], ROOT)["target"]["image"]
    assert "dockerfile" not in made
    assert bake_reads(made["dockerfile-inline"]) == text


def test_several_targets() -> None:
    """Several targets are built together, in order."""
    made = definition([Target(name, ROOT, "/D") for name in ("b", "a")], ROOT)
    assert made["group"]["default"]["targets"] == ["b", "a"] and set(made["target"]) == {"a", "b"}
