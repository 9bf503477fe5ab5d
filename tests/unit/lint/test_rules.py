"""Single rules, where a whole Dockerfile would hide the point."""

from __future__ import annotations

import pytest

from layerkit.errors import ConfigurationError
from layerkit.lint import Entry, Facts, Finding, Severity, fix, lint

GIB = 1024**3
WEIGHTS = Entry("model.pt", 3 * GIB)
CODE = Entry("serve.py", 100)


def one(text: str, rule: str, facts: Facts | None = None) -> Finding:
    found = [finding for finding in lint(text, facts) if finding.rule == rule]
    assert len(found) == 1, found
    return found[0]


def none(text: str, rule: str, facts: Facts | None = None) -> None:
    assert rule not in {finding.rule for finding in lint(text, facts)}


@pytest.mark.parametrize(
    ("image", "size", "severity"),
    [
        pytest.param("ghcr.io/acme/m:v1", 9_999_999_999, None, id="ghcr, below"),
        pytest.param("ghcr.io/acme/m:v1", 10_000_000_001, Severity.ERROR, id="ghcr, above"),
        pytest.param("123456789012.dkr.ecr.eu-west-1.amazonaws.com/m", 11_000_000_000, None, id="ecr, below"),
        pytest.param("123456789012.dkr.ecr.eu-west-1.amazonaws.com/m", 60_000_000_000, Severity.ERROR, id="ecr, above"),
        pytest.param("public.ecr.aws/a/m", 10_500_000_000, Severity.ERROR, id="ecr public"),
        pytest.param("quay.io/a/m", 20_000_000_001, Severity.ERROR, id="quay"),
        pytest.param("acme/m", 10_000_000_001, Severity.ERROR, id="docker hub"),
        pytest.param("registry.example:5000/m", 90_000_000_000, None, id="own registry"),
        pytest.param("", 10_000_000_001, Severity.INFO, id="no name"),
        pytest.param("", 9_000_000_000, None, id="no name, below all"),
    ],
)
def test_layer_limit(image: str, size: int, severity: Severity | None) -> None:
    """The limit is that of the registry that the image's name says; without a name it is only told."""
    found = lint("FROM a:1\nCOPY model.pt /m/\n", Facts((Entry("model.pt", size),), image=image))
    assert [f.severity for f in found if f.rule == "layer-limit"] == ([severity] if severity else [])


def test_bytes() -> None:
    """The cost is that of the files as they are, and null where they are not here."""
    facts = Facts((WEIGHTS, CODE), ".dockerignore")
    assert one("FROM a:1\nCOPY . /app\n", "checkpoint-in-copy", facts).bytes == 3 * GIB
    text = "FROM a:1\nCOPY serve.py /app/\nCOPY {} /app/\n"
    assert one(text.format("model.pt"), "checkpoint-above-code", facts).bytes == 3 * GIB
    assert one(text.format("other.pt"), "checkpoint-above-code", facts).bytes is None
    assert one("FROM a:1\nRUN pip install x\n", "pip-cache").bytes is None


def test_no_dockerignore() -> None:
    """What a COPY of everything would send is counted; with a .dockerignore there is nothing to say."""
    found = one("FROM a:1\nCOPY . /app\n", "missing-dockerignore", Facts((WEIGHTS, CODE)))
    assert found.bytes == 3 * GIB + 100
    assert "model.pt 3.0 GiB" in found.message
    none("FROM a:1\nCOPY . /app\n", "missing-dockerignore", Facts((WEIGHTS, CODE), ".dockerignore"))
    none("FROM a:1\nCOPY serve.py /app\n", "missing-dockerignore", Facts((WEIGHTS, CODE)))


def test_ignored_files_do_not_count() -> None:
    """A checkpoint that .dockerignore keeps out is not caught by COPY . ."""
    facts = Facts((Entry("model.pt", GIB, ignored=True), CODE), ".dockerignore")
    none("FROM a:1\nCOPY . /app\n", "checkpoint-in-copy", facts)


def test_small_files_are_no_checkpoint() -> None:
    """Files below the minimum are no weights, and of .bin only large ones are."""
    facts = Facts((Entry("tiny.pt", 1000), Entry("vocab.bin", 5_000_000), CODE), ".dockerignore")
    none("FROM a:1\nCOPY . /app\n", "checkpoint-in-copy", facts)
    facts = Facts((Entry("pytorch_model.bin", 500_000_000), CODE), ".dockerignore")
    assert one("FROM a:1\nCOPY . /app\n", "checkpoint-in-copy", facts).bytes == 500_000_000


@pytest.mark.parametrize(
    "line",
    [
        "ENV MAX_TOKENS=4096",
        "ENV TOKENIZERS_PARALLELISM=false",
        "ENV PASSWORD_FILE=/run/secrets/pw",
        'ENV HF_TOKEN=""',
        "ENV PAD_TOKEN_ID=0 KEYBOARD=us",
        "RUN --mount=type=secret,id=HF_TOKEN,env=HF_TOKEN ./get",
        "ARG PIP_INDEX_URL=https://${USER}:${PASS}@host/simple",
    ],
)
def test_no_secret(line: str) -> None:
    """Names that only look like secrets, empty values and mounted secrets are none."""
    none(f"FROM a:1\n{line}\n", "secret-in-image")


@pytest.mark.parametrize(
    "line",
    [
        "ARG HF_TOKEN",
        "ENV HF_TOKEN=x",
        "ENV hf_token x",
        "ENV A=1 WANDB_API_KEY=x",
        "ARG SSH_PRIVATE_KEY=x",
        "ENV THING=hf_0123456789abcdefghijABCDEFGHIJ",
        "ENV AWS_ACCESS_KEY_ID=AKIAABCDEFGHIJKLMNOP",
        "ARG INDEX=https://me:pw@host.example/simple",
        "RUN pip install -i https://me:pw@host.example/simple x",
    ],
)
def test_secret(line: str) -> None:
    """A secret is an error, and is nowhere in what is said of it."""
    found = one(f"FROM a:1\n{line}\n", "secret-in-image")
    assert found.severity is Severity.ERROR
    assert "hf_0123456789abc" not in found.message + found.fix
    assert "me:pw" not in found.message + found.fix and "AKIA" not in found.message + found.fix


@pytest.mark.parametrize(
    "run",
    [
        "RUN pip install --no-cache-dir x",
        "RUN --mount=type=cache,target=/root/.cache/pip pip install x",
        "ENV PIP_NO_CACHE_DIR=1\nRUN pip install x",
        "RUN pip install x && rm -rf /root/.cache/pip",
        "RUN pip install x && pip cache purge",
        "RUN PIP_NO_CACHE_DIR=true pip install x",
        "RUN echo pip install x",
        "RUN echo 'RUN pip install x'",
        "RUN pip list",
    ],
)
def test_no_pip_cache(run: str) -> None:
    """Each of the ways to leave no cache behind is known."""
    none(f"FROM a:1\n{run}\n", "pip-cache")


def test_caches_of_other_stages_cost_nothing() -> None:
    """What a stage leaves behind that the image is not made on is in no layer."""
    none("FROM a:1 AS b\nRUN pip install x\nFROM a:1\nCOPY --from=b /x /x\n", "pip-cache")
    assert one("FROM a:1 AS b\nRUN pip install x\nFROM b\n", "pip-cache").line == 2


@pytest.mark.parametrize(
    ("base", "extra", "said"),
    [
        ("python:3.11-slim", "", True),
        ("ghcr.io/acme/python:3.11", "", True),
        ("nvidia/cuda:12.4.1-runtime-ubuntu22.04", "", False),
        ("acme/base:1", "", False),
        ("python:3.11-slim", "ENV NVIDIA_VISIBLE_DEVICES=all\n", False),
        ("python:3.11-slim", "ENV CUDA_VISIBLE_DEVICES=-1\n", True),
        ("python:3.11-slim", "ENV PIP_EXTRA_INDEX_URL=https://mirror.example/cpu\n", False),
    ],
)
def test_cuda_wheels(base: str, extra: str, said: bool) -> None:
    """CUDA wheels are a waste where the base has no CUDA, no index is given, and nothing says GPU."""
    text = f"FROM {base}\n{extra}RUN pip install --no-cache-dir torch==2.4.0\n"
    assert ("cuda-wheels-on-cpu" in {f.rule for f in lint(text)}) is said


def test_requirements_are_read() -> None:
    """torch is also found in a requirements file, and an index in it counts."""
    text = "FROM python:3.11\nCOPY r.txt /\nRUN pip install --no-cache-dir -r /r.txt\n"
    facts = Facts((), "", {"r.txt": "torch>=2\n"})
    assert "r.txt" in one(text, "cuda-wheels-on-cpu", facts).message
    none(text, "cuda-wheels-on-cpu", Facts((), "", {"r.txt": "--index-url https://mirror.example\ntorch>=2\n"}))
    none(text, "cuda-wheels-on-cpu", Facts((), "", {"r.txt": "torchmetrics\n"}))


def test_ignore_comments() -> None:
    """A comment turns rules off for its instruction alone; --ignore does everywhere."""
    text = "FROM a:1\n# layerkit: ignore=pip-cache,apt-cache\nRUN pip install x\nRUN pip install y\n"
    assert [f.line for f in lint(text) if f.rule == "pip-cache"] == [4]
    assert [f for f in lint(text, ignore={"pip-cache"}) if f.rule == "pip-cache"] == []
    assert "pip install x" in fix(text).text and "pip install --no-cache-dir y" in fix(text).text


def test_target() -> None:
    """--target says which stage is the image; one that is not there is an error of usage."""
    text = "FROM nvidia/cuda:12-devel AS dev\nFROM python:3.11\n"
    assert [f.rule for f in lint(text)] == []
    assert [f.rule for f in lint(text, target="dev")] == ["devel-base"]
    with pytest.raises(ConfigurationError):
        lint(text, target="prod")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        pytest.param("WORKDIR /app\nRUN ls\nCOPY model.pt /app/", "", id="nothing to move over"),
        pytest.param("COPY serve.py /app/\nRUN ./x\nCOPY model.pt /app/", "may read or change", id="a step between"),
        pytest.param("COPY serve.py /app/\nCOPY model.pt relative/", "relative to a folder", id="unknown folder"),
        pytest.param("COPY serve.py /app/\nCOPY model.p? /app/", "wildcards", id="wildcard"),
        pytest.param("COPY serve.py /app/\nCOPY --chown=7 model.pt /app/", "another owner", id="owner of the folder"),
        pytest.param("ARG M=model.pt\nCOPY serve.py /app/\nCOPY $M /app/", "variables", id="variable"),
        pytest.param("COPY serve.py /app/\nVOLUME /app\nCOPY model.pt /app/", "VOLUME", id="volume between"),
        pytest.param("COPY serve.py /app/\nCOPY --from=x /y /app/\nCOPY model.pt /app/", "same file", id="other stage"),
    ],
)
def test_what_is_not_moved(lines: str, why: str) -> None:
    """A checkpoint line stays where it is when moving it might change a file, and the reason is said."""
    facts = Facts((WEIGHTS, CODE), ".dockerignore")
    text = f"FROM python:3.11\n{lines}\n"
    fixed = fix(text, facts, ignore={"checkpoint-not-linked"})
    assert fixed.text == text
    reasons = [f.unsafe for f in fixed.left if f.rule == "checkpoint-above-code"]
    assert [why in reason for reason in reasons] == ([True] if why else [])


def test_line_ends_and_mark_stay() -> None:
    """CRLF, a byte order mark and a missing last line end are as before."""
    text = "\ufeffFROM a:1\r\nRUN pip install x"
    assert fix(text).text == "\ufeffFROM a:1\r\nRUN pip install --no-cache-dir x"
    assert fix(text + "\r\n").text == "\ufeffFROM a:1\r\nRUN pip install --no-cache-dir x\r\n"
    assert fix("FROM a:1\nRUN pip install x").text == "FROM a:1\nRUN pip install --no-cache-dir x"
