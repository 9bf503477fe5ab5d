"""The local Docker by whatever way it is reached: TLS, SSH, a docker context; and what is said where it is not.

Each way leads to the further Docker with the containerd store, and the engine's own has to stay as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import MIB, CountingProxy, Engine, Workspace, make_workspace, write_weights

SHOW = "import os,hashlib;p=os.environ['LAYERKIT_CHECKPOINT'];print(hashlib.sha256(open(p,'rb').read()).hexdigest())"
OWN = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
# What ssh does, as docker calls it (docker/cli, ``connhelper``): it runs a command where the address says.
SSH = """\
#!/bin/sh
while [ "$1" != -- ]; do shift; done
if [ "$2" = away ]; then read -r _; echo 'ssh: connect to host away port 22: Connection refused' >&2; exit 255; fi
shift 2
DOCKER_HOST={host} exec sh -c "$*"
"""


@dataclass(frozen=True)
class Ways:
    """A project whose image both Dockers have, and environments that lead to the further one.

    ``address`` is the further one's over TLS, by a proxy that counts; ``host`` its socket.
    """

    workspace: Workspace
    address: str
    host: str
    proxy: CountingProxy
    certificates: Path
    config: Path

    def by(self, way: str) -> dict[str, str]:
        contexts = {"DOCKER_HOST": "", "DOCKER_CONFIG": str(self.config / way)}
        return {
            "TLS": self.tls("good"),
            "context": {**contexts, "DOCKER_CONTEXT": "secure"},
            "current context": contexts,
            "SSH": {"DOCKER_HOST": "ssh://me@there", "PATH": f"{self.config / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        }[way]

    def tls(self, certificates: str) -> dict[str, str]:
        folder = str(self.certificates / certificates)
        return {"DOCKER_HOST": self.address, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": folder}

    def build(self, tag: str, *arguments: str, **environment: str) -> dict[str, object]:
        done = self.workspace.run("build", "--json", "-t", tag, *arguments, **environment)
        found: dict[str, object] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def ways(
    engine: Engine,
    node: Callable[[str], str],
    secure_node: str,
    certificates: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ways]:
    """Built once for each of the two Dockers."""
    folder, config = tmp_path_factory.mktemp("ways"), tmp_path_factory.mktemp("docker")
    workspace = make_workspace(engine, folder / "project", folder / "state", f"ways-{folder.stat().st_ino}")
    proxy, host = CountingProxy(secure_node.removeprefix("tcp://")), node("containerd")
    address = f"tcp://{proxy.host}"
    files = ",".join(f"{option}={certificates}/good/{option}.pem" for option in ("ca", "cert", "key"))
    contexts = {"secure": f"host={address},{files}", "own": f"host={OWN}", "refused": "host=tcp://127.0.0.1:1"}
    for way, current in (("context", "own"), ("current context", "secure")):
        environment = {**os.environ, "DOCKER_CONFIG": str(config / way), "DOCKER_HOST": ""}
        for name, endpoint in contexts.items():
            command = ["docker", "context", "create", name, "--docker", endpoint]
            subprocess.run(command, env=environment, check=True, capture_output=True)
        subprocess.run(["docker", "context", "use", current], env=environment, check=True, capture_output=True)
    (config / "bin").mkdir()
    (config / "bin" / "ssh").write_text(SSH.format(host=host))
    (config / "bin" / "ssh").chmod(0o755)
    found = Ways(workspace, address, host, proxy, certificates, config)
    for where in (OWN, host):
        found.build("v1", DOCKER_HOST=where)
    yield found
    proxy.close()


@pytest.mark.parametrize("way", ["TLS", "context", "SSH"])
def test_load(ways: Ways, way: str) -> None:
    """New weights run no BuildKit and only their layer is sent; nothing changed sends nothing; new code is built there.

    All of it in the Docker that was meant, and in no other.
    """
    weights, tag = ways.workspace.root / "model.pth.tar", f"by-{way.lower()}"
    write_weights(weights, seed=sum(way.encode()))
    ways.proxy.take()
    swapped = ways.build(tag, **ways.by(way))
    sent = ways.proxy.take()
    assert swapped["way"] == "compose" and swapped["rebuilt"] == ["checkpoint"]
    assert swapped["builder"] == {"ran": False, "bytes_sent": 0}
    assert sent == 0 if way == "SSH" else 20 * MIB < sent < 21 * MIB
    again = ways.build(tag, **ways.by(way))
    assert again["digest"] == swapped["digest"] and again["rebuilt"] == []
    assert ways.proxy.take() < MIB
    (ways.workspace.root / "serve.py").write_text(f"print({way!r})\n")
    coded = ways.build(tag, **ways.by(way))
    assert coded["rebuilt"] == ["code"] and coded["bytes"]["checkpoint_read"] == 0  # type: ignore[index]
    code = f"exec(open('/app/serve.py').read());{SHOW}"
    expected = f"{way}\n{hashlib.sha256(weights.read_bytes()).hexdigest()}"
    assert ways.workspace.python(code, tag=tag, host=ways.host) == expected
    name = f"{ways.workspace.repository}:{tag}"
    assert not ways.workspace.engine.docker("image", "ls", "-q", name, host=OWN)


@pytest.mark.parametrize(
    ("way", "environment", "own"),
    [
        pytest.param(
            "context", {"DOCKER_HOST": OWN, "DOCKER_CONTEXT": "secure"}, True, id="DOCKER_HOST, another context"
        ),
        pytest.param("TLS", {"DOCKER_CONTEXT": "own"}, False, id="DOCKER_HOST of TLS, another context"),
        pytest.param("current context", {"DOCKER_HOST": OWN}, True, id="DOCKER_HOST, another current context"),
        pytest.param("current context", {"DOCKER_CONTEXT": "own"}, True, id="DOCKER_CONTEXT, another current context"),
        pytest.param("context", {}, False, id="DOCKER_CONTEXT, another current one"),
        pytest.param("current context", {}, False, id="a current context"),
    ],
)
def test_which_docker(ways: Ways, way: str, environment: dict[str, str], own: bool) -> None:
    """Where several are named, layerkit goes to the very one that the docker command goes to."""
    surroundings = {**ways.by(way), **environment}
    tag = hashlib.sha256(repr((way, environment)).encode()).hexdigest()[:12]
    ways.build(tag, **surroundings)
    name = f"{ways.workspace.repository}:{tag}"
    docker = ways.workspace.engine.docker
    command = ["docker", "image", "inspect", name]
    subprocess.run(command, env={**os.environ, **surroundings}, check=True, capture_output=True)
    assert bool(docker("image", "ls", "-q", name, host=OWN)) == own
    assert bool(docker("image", "ls", "-q", name, host=ways.host)) != own


def test_what_is_there(ways: Ways) -> None:
    """doctor, inspect, diff and verify speak of the image of the Docker that was chosen, over TLS too."""
    ways.build("v1", **ways.by("TLS"))
    write_weights(ways.workspace.root / "model.pth.tar", seed=77)
    built = ways.build("looked-at", **ways.by("TLS"))
    name = f"docker:{ways.workspace.repository}:looked-at"

    def tell(*words: str) -> str:
        return ways.workspace.run(*words, **ways.by("TLS")).stdout

    assert built["digest"] in tell("inspect", name)
    assert "holds" in tell("verify", name)
    rows = tell("diff", f"docker:{ways.workspace.repository}:v1", name).splitlines()
    assert next(row for row in rows if row.startswith("checkpoint")).endswith("changed")
    found = {row["name"]: row for row in json.loads(tell("doctor", "--json"))["findings"]}
    assert ways.address in found["docker"]["message"] and found["builder"]["level"] == "pass"
    assert "images" not in found


@pytest.mark.parametrize(
    ("case", "named", "step"),
    [
        ("another authority", "certificate signed by unknown authority", "DOCKER_CERT_PATH"),
        ("a client's of another authority", "tls: ", "DOCKER_CERT_PATH"),
        ("no certificates", "ca.pem: no such file", "DOCKER_CERT_PATH"),
        ("no TLS", "HTTPS server", "DOCKER_TLS_VERIFY"),
        ("TLS, and no address", "tcp://localhost:2376", "DOCKER_"),
        ("refused", "tcp://127.0.0.1:1", "start Docker"),
        ("a context, refused", "tcp://127.0.0.1:1 (docker context 'refused')", "start Docker"),
        ("no such context", "docker context 'nope'", "docker context ls"),
        ("SSH, refused", "ssh://me@away: ssh: connect to host away port 22: Connection refused", "ssh ssh://me@away"),
    ],
)
def test_not_reached(ways: Ways, case: str, named: str, step: str) -> None:
    """11, with the address, the reason and the step for it, whatever is asked; and nothing done by another Docker."""
    environment = {
        "another authority": ways.tls("other"),
        "a client's of another authority": ways.tls("mixed"),
        "no certificates": ways.tls("none"),
        "no TLS": {"DOCKER_HOST": ways.address},
        "TLS, and no address": {**ways.tls("other"), "DOCKER_HOST": ""},
        "refused": {"DOCKER_HOST": "tcp://127.0.0.1:1"},
        "a context, refused": {**ways.by("context"), "DOCKER_CONTEXT": "refused"},
        "no such context": {**ways.by("context"), "DOCKER_CONTEXT": "nope"},
        "SSH, refused": {**ways.by("SSH"), "DOCKER_HOST": "ssh://me@away"},
    }[case]
    for words in (("build", "-t", "lost"), ("inspect", f"docker:{ways.workspace.repository}:v1"), ("doctor",)):
        done = ways.workspace.run(*words, check=False, **environment)
        assert done.returncode == 11, done.stderr
        said = done.stderr + done.stdout
        assert "no daemon answers at " in said and named in said and step in said and "Traceback" not in said, said
    assert not ways.workspace.engine.docker("image", "ls", "-q", f"{ways.workspace.repository}:lost", host=OWN)


def test_no_permission(ways: Ways) -> None:
    """A socket that others may use and we may not: 11, and how to be one of them."""
    # root may use any, but for this
    less = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:  # a socket's path is short
        path = Path(folder, "d.sock")
        server.bind(str(path))
        server.listen()
        path.chmod(0)
        for words in (("build", "-t", "lost"), ("inspect", f"docker:{ways.workspace.repository}:v1"), ("doctor",)):
            done = subprocess.run(
                [*less, sys.executable, "-m", "layerkit", *words],
                cwd=ways.workspace.root,
                env={**os.environ, "LAYERKIT_STATE_DIR": str(ways.workspace.state), "DOCKER_HOST": f"unix://{path}"},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            said = done.stderr + done.stdout
            assert done.returncode == 11 and f"at unix://{path}: permission denied" in said and "group" in said, said


def test_the_builder_of_another_context(ways: Ways) -> None:
    """A builder that is another context's Docker is 11, as doctor says it, and builds nothing."""
    environment = {**ways.by("context"), "DOCKER_CONTEXT": "own", "BUILDX_BUILDER": "secure"}
    for words in (("build", "-t", "elsewhere", "--no-cache"), ("doctor",)):
        done = ways.workspace.run(*words, check=False, **environment)
        said = done.stderr + done.stdout
        assert done.returncode == 11 and "'secure' is the Docker of another docker context" in said, said
