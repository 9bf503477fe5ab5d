from __future__ import annotations

import pytest

from layerkit.errors import ConfigurationError
from layerkit.runtime import taken


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ("RUN true", []),
        ("COPY serve.py /app/", ["serve.py"]),
        ("COPY serve.py ./src/ /app/", ["serve.py", "src"]),
        ("COPY --link --chown=1:1 --chmod=644 a/b/../c /app/", ["a/c"]),
        ("COPY /etc/../x ../../y /app/", ["x", "y"]),
        ("copy serve.py /app/", ["serve.py"]),
        ('COPY ["a b.py", "c.py", "/app/"]', ["a b.py", "c.py"]),
        ("COPY conf/*.yaml /app/", ["conf/*.yaml"]),
        ("COPY a/b?/c/d.py /app/", ["a/b?/c/d.py"]),
        ("COPY * */x.py /app/", ["*", "*/x.py"]),
        ("COPY --exclude=*.md docs /app/", ["docs"]),
        ("COPY --parents ./a/./b/c.py /app/", ["a/b/c.py"]),
        ("COPY --from=other x /app/", []),
        ("COPY --from=checkpoint . /app/model/", []),
        ("COPY <<EOF /app/x\nCOPY . /y\nEOF", []),
        ("COPY <<EOF x.py /app/\nhello\nEOF", ["x.py"]),
        ("ADD https://example.org/x.tar /x/", []),
        ("ADD data.tar.gz https://example.org/x /x/", ["data.tar.gz"]),
        ("ADD git@example.org:a/b.git /x/", ["git@example.org:a/b.git"]),
        ("RUN --mount=type=bind,source=req.txt,target=/r pip", ["req.txt"]),
        ("RUN --mount=target=/r,src=a --mount=type=bind,source=/b/,dst=/b pip", ["a", "b"]),
        ("RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=secret,id=x pip", []),
        ("RUN --mount=type=ssh --mount=type=bind,from=other,source=/x,target=/y pip", []),
        ("RUN --mount=type=$KIND,source=a,target=/y pip", ["a"]),
    ],
)
def test_what_is_named(line: str, paths: list[str]) -> None:
    """Of COPY, ADD and bind mounts the paths of the build context, as BuildKit cleans them, and nothing else."""
    assert taken(f"FROM base\n{line}\n") == tuple(paths)


@pytest.mark.parametrize(
    "line",
    [
        "COPY . /app",
        "COPY ./ /app",
        "COPY / /app",
        "COPY a/.. /app",
        "COPY serve.py . /app",
        "ARG SRC=a\nCOPY $SRC /app",
        "COPY a${SRC}b /app",
        "COPY a\\ b /app",
        'COPY "a b" /app',
        "COPY --from=$STAGE x /app",
        "ADD $URL /app",
        "RUN --mount=type=bind,target=/src make",
        "RUN --mount=target=. make",
        "RUN --mount=source=$X,target=/src make",
        'RUN --mount="type=bind make',
        "ONBUILD COPY x /app",
    ],
)
def test_what_may_be_all(line: str) -> None:
    """Where everything is named, or it cannot be known what is, nothing is left out."""
    assert taken(f"FROM base\n{line}\n") is None


def test_frontends() -> None:
    """Docker's own frontends take what they are known to; of any other nothing is known."""
    assert taken("# syntax=docker/dockerfile:1\nFROM a\nCOPY x /y") == ("x",)
    assert taken("#syntax = docker.io/docker/dockerfile-upstream:master-labs\nFROM a\nCOPY x /y") == ("x",)
    assert taken("# syntax=acme/frontend\nFROM a\nCOPY x /y") is None
    assert taken("FROM a\nCOPY x /y", args={"BUILDKIT_SYNTAX": "acme/frontend"}) is None


def test_stages_that_are_built() -> None:
    """What only another stage takes is left out; what a stage takes from which something is copied is not."""
    text = (
        "FROM a AS unused\nCOPY . /all\n"
        "FROM a AS lower\nCOPY low /l\n"
        "FROM a AS beside\nCOPY side /s\n"
        "FROM a AS mounted\nCOPY mount /m\n"
        "FROM lower AS image\nCOPY --from=beside /s /s\nRUN --mount=from=mounted,target=/m true\n"
        "FROM image AS later\nCOPY later /l\n"
    )
    found = taken(text, target_stage="image")
    assert found == ("low", "mount", "side")
    assert taken(text, target_stage="unused") is None
    with pytest.raises(ConfigurationError, match="no stage"):
        taken(text, target_stage="none")
