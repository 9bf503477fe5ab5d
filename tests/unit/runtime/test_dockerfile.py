from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.errors import ConfigurationError
from layerkit.project import Checkpoint, Code, Dependencies, Image, Project, Secret
from layerkit.runtime import Matcher, base_images, find_checkpoint_copy, generate, ignore_file, instructions
from layerkit.runtime.requirements import Requirements, parse
from layerkit.runtime.stages import Dockerfile
from layerkit.runtime.words import quote


def requirements(text: str) -> Requirements:
    return parse("requirements.txt", lambda path: text if path == "requirements.txt" else "")


def dockerfile(
    text: str = "",
    *,
    image: Mapping[str, Any] | None = None,
    code: Code | None = None,
    includes: Mapping[str, list[str]] | None = None,
    **dependencies: Any,
) -> str:
    project = Project(
        image=Image("a/b", **(image or {})),
        dependencies=Dependencies("requirements.txt", **dependencies),
        code=code or Code(["src"]),
        checkpoint=Checkpoint("weights"),
    )
    return generate(project, requirements(text) if text else None, includes=includes)


def test_packages_are_installed_by_root() -> None:
    """Where the base has another user, root installs, and the image is that user's again before checkpoint and code."""
    project = Project(
        image=Image("a/b"), dependencies=Dependencies("requirements.txt", build_apt=["make"]), code=Code(["src"])
    )
    wanted = requirements("torch\nsix")
    text = generate(project, wanted, base_user="1001:0")
    seen = [(i.name, i.text.split()[1]) for i in instructions(text) if i.name in ("FROM", "USER", "RUN")]
    rows = "".join({"FROM": "\n", "USER": f"{word} ", "RUN": "run "}[name] for name, word in seen).split("\n")
    assert [row.split() for row in rows if row.strip()] == [["root", "run", "run"], ["root", "run", "1001:0"]]
    assert (
        generate(project, wanted, base_user="root:root")
        == generate(project, wanted)
        == generate(project, wanted, base_user="0")
    )
    bare = Project(image=Image("a/b"), code=Code(["src"]))
    assert "USER" not in generate(bare, None, base_user="1001")


def steps(text: str) -> list[str]:
    return [i.text for i in instructions(text) if i.name == "RUN"]


VALUES = st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\n\r\0"), max_size=30)


@given(st.dictionaries(st.sampled_from(["A", "B", "C_1"]), VALUES))
def test_environment_is_literal(env: dict[str, str]) -> None:
    """Read by BuildKit's rules, ENV and LABEL give back exactly the values that were asked for."""
    text = dockerfile(image={"env": env, "labels": env})
    for name in ("ENV", "LABEL"):
        for instruction in instructions(text):
            if instruction.name == name:
                line = next(line for line in text.split("\n") if line.startswith(name))
                at = text.index(line) + len(name) + 1
                pairs = text[at : text.index("\nLABEL" if name == "ENV" else "\nCOPY", at)].split(" \\\n    ")
                reader = Dockerfile("FROM a", {})
                found = dict(reader.expand(pair, {})[0].partition("=")[::2] for pair in pairs)
                assert found == env


@given(
    st.lists(
        st.text(alphabet=st.characters(min_codepoint=32, blacklist_categories=["Cs", "Cc"]), min_size=1), min_size=1
    )
)
def test_command_is_literal(command: list[str]) -> None:
    """CMD is a JSON list of exactly the words that were asked for."""
    line = next(line for line in dockerfile(image={"command": command}).split("\n") if line.startswith("CMD "))
    assert json.loads(line[4:]) == command


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1))
def test_quote(text: str) -> None:
    """A requirement is one word for the shell, and that word is the requirement."""
    assert shlex.split(quote(text)) == [text]


@pytest.mark.parametrize("where", ["env", "labels"])
def test_line_break(where: str) -> None:
    """A value that no Dockerfile can express is an error, not another value."""
    with pytest.raises(ConfigurationError, match="line break"):
        dockerfile(image={where: {"A": "a\nb"}})


@pytest.mark.parametrize("user", ["a b", "a\nRUN x"])
def test_user(user: str) -> None:
    """A user cannot bring in another instruction."""
    with pytest.raises(ConfigurationError, match="no user"):
        dockerfile(image={"user": user})


def test_own_dockerfile() -> None:
    """With one's own Dockerfile there is none to generate."""
    with pytest.raises(ConfigurationError, match="no Dockerfile to generate"):
        generate(Project(image=Image("a/b", dockerfile="Dockerfile")))


def test_is_read_by_our_own_reader() -> None:
    """The generated Dockerfile says where the checkpoint goes, in the form that is asked of users."""
    found = find_checkpoint_copy(dockerfile("six"))
    assert (found.target, found.uid, found.gid, found.chmod) == ("/app/model/", 0, 0, None)
    assert base_images(dockerfile("six", wheels="w", installer="uv", build_apt=["gcc"])) == ("python:3.11-slim",)


def test_heavy_step_depends_on_its_lines_only() -> None:
    """Another line in the requirements changes nothing in the step of the heavy packages."""
    before = steps(dockerfile("torch==2\nsix", separate=["torch"]))
    after = steps(dockerfile("torch==2\nsix\nidna\n-r more.txt", separate=["torch"]))
    assert before[0] == after[0]
    assert "torch==2" in before[0]
    assert "requirements.txt" not in before[0]
    assert before[1] != after[1]


def test_options_reach_the_heavy_step() -> None:
    """An index or --pre of the file is used for the heavy packages too."""
    step = steps(dockerfile("--extra-index-url https://x/whl\n--pre\ntorch\nsix", separate=["torch"]))[0]
    assert "'--extra-index-url https://x/whl'" in step
    assert "--pre" in step


def test_constraints_reach_the_heavy_step() -> None:
    """A constraint on a heavy package holds when it is installed first."""
    files = {"requirements.txt": "-c c.txt\ntorch\nlightning>=2\nsix", "c.txt": "torch==2.1\nlightning<3\nidna==1"}
    project = Project(
        image=Image("a/b"), dependencies=Dependencies("requirements.txt", separate=["torch", "lightning"])
    )
    step = steps(generate(project, parse("requirements.txt", files.__getitem__)))[0]
    assert "'lightning>=2'" in step
    assert "torch==2.1 'lightning<3'" in step
    assert "idna" not in step


def test_hashes_are_required_in_the_heavy_step() -> None:
    """With hashes, the heavy step checks them, and installs nothing that the file does not list."""
    step = steps(dockerfile("torch==2 --hash=sha256:aa\nsix==1 --hash=sha256:bb", separate=["torch"]))[0]
    assert "--require-hashes --no-deps" in step
    assert "'torch==2 --hash=sha256:aa'" in step


def test_credentials_stay_out_of_the_history() -> None:
    """A password in an index URL would be in the text of the heavy step: it is refused, without being shown."""
    text = "--index-url https://me:hunter2@x/simple\ntorch"
    with pytest.raises(ConfigurationError, match="history") as caught:
        dockerfile(text, separate=["torch"])
    assert "hunter2" not in str(caught.value) + caught.value.hint
    assert "hunter2" not in dockerfile(text)
    assert "${TOKEN}" in dockerfile("--index-url https://${TOKEN}@x/simple\ntorch", separate=["torch"])


def test_secrets_are_in_every_install_step() -> None:
    """Each step that fetches packages has each secret, required, and none is an ARG or ENV."""
    text = dockerfile(
        "torch\nsix",
        separate=["torch"],
        apt=["curl"],
        build_apt=["gcc"],
        installer="uv",
        secrets={"UV_DEFAULT_INDEX": Secret(env="I"), "ca": Secret(file="c")},
    )
    fetching = [step for step in steps(text) if "--no-index" not in step]
    assert len(fetching) == 5  # uv, apt for building, heavy wheels, other wheels, apt
    for step in fetching:
        assert "--mount=type=secret,id=UV_DEFAULT_INDEX,env=UV_DEFAULT_INDEX,required=true" in step
        assert "--mount=type=secret,id=ca,target=/run/secrets/ca,required=true,mode=0444" in step
    assert not [i for i in instructions(text) if i.name in ("ARG", "ENV")]


def test_pip_conf_is_nothing_to_uv() -> None:
    """uv would ignore pip.conf and ask the public index: an error, unless it is given its own source."""
    with pytest.raises(ConfigurationError, match="does not read") as caught:
        dockerfile("six", installer="uv", secrets={"pip.conf": Secret(file="x")})
    assert "UV_DEFAULT_INDEX" in caught.value.hint
    dockerfile("six", installer="uv", secrets={"pip.conf": Secret(file="x"), "UV_DEFAULT_INDEX": Secret(env="X")})


def test_wheels_need_no_network() -> None:
    """With a wheel folder every step that installs packages has no network and no index."""
    for installer in ("pip", "uv"):
        text = dockerfile("torch\nsix", wheels="w", separate=["torch"], installer=installer)
        assert all("--network=none" in step and "--no-index" in step for step in steps(text))


def test_requirements_with_odd_names() -> None:
    """A requirements file that cannot be mounted by name is an error."""
    project = Project(image=Image("a/b"), dependencies=Dependencies("my reqs.txt"))
    with pytest.raises(ConfigurationError, match="such characters"):
        generate(project, parse("my reqs.txt", lambda path: "six"))


def test_includes_are_copied_where_they_were() -> None:
    """What a glob matched keeps its relative path: folders one by one, files by folder."""
    text = dockerfile(
        code=Code(["src/**/*.py", "pkg*", "x"], target="/srv"),
        includes={
            "src/**/*.py": ["src/a.py", "src/b/c.py", "src/b/d[1].py"],
            "pkg*": ["pkg1/", "pkg2.py"],
            "x": ["x"],
        },
    )
    assert [i.text for i in instructions(text) if i.name == "COPY"][:5] == [
        "COPY src/a.py /srv/src/",
        'COPY ["src/b/c.py", "src/b/d[[]1].py", "/srv/src/b/"]',
        "COPY pkg1 /srv/pkg1",
        "COPY pkg2.py /srv/",
        "COPY x /srv/x",
    ]


def test_globs_without_matches() -> None:
    """A glob that COPY would understand differently is refused where its matches are not given."""
    with pytest.raises(ConfigurationError, match="COPY knows no"):
        dockerfile(code=Code(["src/**/*.py"]))


def test_too_many_copies() -> None:
    """A glob over hundreds of folders is an error with a way out, not a build that fails."""
    with pytest.raises(ConfigurationError, match="limit") as caught:
        dockerfile(code=Code(["**/*.py"]), includes={"**/*.py": [f"d{n}/a.py" for n in range(200)] + ["b.py"]})
    assert "code.exclude" in caught.value.hint


def test_too_long_a_step() -> None:
    """More heavy lines than one shell argument holds are an error, not a build that fails."""
    text = "\n".join(f"p{n}==1 --hash=sha256:{'a' * 64}" for n in range(2000))
    with pytest.raises(ConfigurationError, match="too many packages"):
        dockerfile(text, separate=["*"])


def test_ignore_file() -> None:
    """Plain buildx with this file sends no checkpoint, wheels, secret or excluded code, but the requirements."""
    project = Project(
        image=Image("a/b"),
        dependencies=Dependencies("requirements.txt", wheels="wheelhouse", secrets={"netrc": Secret(file="sec/netrc")}),
        code=Code(["src"], exclude=["src/tests"]),
        checkpoint=Checkpoint("weights/*.pt"),
    )
    matcher = Matcher.of(ignore_file(project, requirements("six"), dockerignore="*.txt\n"))
    for path in ("weights/a.pt", "wheelhouse/a.whl", "src/tests/t.py", "a.txt", "src/.git/x", "a/b.pyc", "sec/netrc"):
        assert matcher.excludes(path)
    for path in ("requirements.txt", "src/a.py"):
        assert not matcher.excludes(path)
