from __future__ import annotations

import pytest

from layerkit.errors import ConfigurationError
from layerkit.runtime import check_code, check_copies, find_checkpoint_copy

TOP = "FROM b\nWORKDIR /app\nCOPY --link --from=checkpoint . /app/model/\n"


@pytest.mark.parametrize(
    ("path", "target", "said"),
    [
        ("model/w.bin", "/app/model/", "'model/w.bin' goes to /app/model/w.bin, where the checkpoint's 'w.bin' is"),
        ("serve.py", "/app/serve.py", "'serve.py' goes to /app/serve.py, where the folder of the checkpoint is"),
        ("m", "/app/m/deep", "'m' goes to /app/m, where the folder of the checkpoint is"),
    ],
)
def test_code_on_the_weights(path: str, target: str, said: str) -> None:
    """Code that would replace a file of the weights, or their folder, is refused by name."""
    with pytest.raises(ConfigurationError) as caught:
        check_code(["a.py", path], "/app", target, ["w.bin", "x/y.bin"])
    assert said in str(caught.value)
    check_code(["a.py", "model/other.json", "w.bin"], "/app", "/app/model/", ["w.bin"])


@pytest.mark.parametrize(
    ("line", "hit"),
    [
        ("COPY . /app", "'model/a.bin' to /app/model/a.bin"),
        ("COPY . .", "'model/a.bin' to /app/model/a.bin"),
        ("COPY --chown=1:1 model /app/model", "'model/a.bin'"),
        ("COPY model/a.bin /app/model/", "'model/a.bin'"),
        ("COPY model/a.bin /app/model/a.bin", "'model/a.bin'"),
        ('ADD ["model/a.bin", "other.py", "/app/model/"]', "'model/a.bin'"),
        ("COPY --link other.py /app/model", "the folder of the checkpoint"),
        ("COPY --link other.py /app", "the folder of the checkpoint"),
        ("COPY model/a.bin /app/model", "'model/a.bin' to /app/model/a.bin"),
        ("COPY other.py /app/model", ""),
        ("COPY other.py /app", ""),
        ("COPY other.py ../app", ""),
        ("ADD --link=false other.py /app", ""),
        ("COPY other.py /app/", ""),
        ("COPY . /srv", ""),
        ("ADD a.tar.gz /app/model/", ""),
        ("ADD --link a.tar.gz /app/model", ""),
        ("ADD a.tar.gz model/a.bin /app/model/", "'model/a.bin'"),
        ("ADD a.pth.tar /app/model/", "'a.pth.tar'"),
        ("COPY a.tar.gz /app/model/", "'a.tar.gz' to /app/model/a.tar.gz"),
        ("COPY --from=x . /app", ""),
        ("COPY $UNKNOWN /app", ""),
        ("ADD https://example.com/a.bin /app/model/", ""),
    ],
)
def test_copies_of_an_own_dockerfile(line: str, hit: str) -> None:
    """A COPY below that of the weights which is sure to put a file on them is refused; one above it is not."""
    files, weights = ["model/a.bin", "other.py", "a.tar.gz", "a.pth.tar"], ["a.bin", "a.tar.gz", "a.pth.tar"]
    text = f"{TOP}{line}\n"
    if not hit:
        check_copies(text, find_checkpoint_copy(text), files, weights)
        return
    with pytest.raises(ConfigurationError) as caught:
        check_copies(text, find_checkpoint_copy(text), files, weights)
    assert "line 4" in str(caught.value) and hit in str(caught.value)
    above = f"FROM b\nWORKDIR /app\n{line}\n{TOP.splitlines()[2]}\n"
    check_copies(above, find_checkpoint_copy(above), files, weights)
