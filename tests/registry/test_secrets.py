"""A canary in every place where a secret can be: after builds that succeed and that fail, it is nowhere (FAULTS, 37).

Every run goes through the command line in this process. Registries echo what they were sent in whatever place an
answer has; what layerkit prints, raises, keeps and pushes is searched for every canary, in every spelling.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from layerkit.cli.app import _show, cli
from layerkit.errors import LayerkitError
from layerkit.oci import Reference
from layerkit.registry import Client
from layerkit.testing import FakeRegistry, Request
from registry.pushing import NAME, Pushing
from registry.support import MIB
from registry.tunnel import Tunnel

Break = Callable[["Scene"], None]
HELPER = """#!/bin/sh
read host
{answer}
"""


def canary(place: str) -> str:
    return f"canary-{place}/{uuid.uuid4().hex}"


@dataclass
class Scene:
    """A project with secrets everywhere, the registry that knows one of them, and all that was ever said."""

    pushing: Pushing
    registry: FakeRegistry
    secrets: dict[str, str]
    shown: str  # the one that the registry and its token server are shown
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    said: list[tuple[str, str]] = field(default_factory=list)
    issued: set[str] = field(default_factory=set)
    runs: int = 0

    def echo(
        self, *, status: int, text: str = "you sent {all}", method: str = "", path: str = "", times: int = -1
    ) -> None:
        """The registry fails, and says all that it was shown."""

        def answer(request: Request) -> None:
            header = request.headers.get("authorization", "")
            known = [header, header.partition(" ")[2], self.shown, quote(self.shown)]
            fault.body = json.dumps(
                {"errors": [{"code": "DENIED", "message": text.format(all=" ".join(known))}]}
            ).encode()
            fault.headers = {"Retry-After": "0", "X-Echo": header}

        fault = self.registry.fail(method=method, path=path, action="status", status=status, times=times, call=answer)

    def redirect(self, *, method: str, path: str, to: str) -> None:
        """The registry sends the next request of that kind to an address with secrets in its path and query."""

        def answer(request: Request) -> None:
            secret = request.headers.get("authorization", "").partition(" ")[2]
            fault.headers = {"Location": to.format(secret=quote(secret, safe=""))}

        fault = self.registry.fail(method=method, path=path, status=307, times=-1, call=answer)

    def run(self, *arguments: str) -> int:
        """One command, in this process; what it prints and raises is kept: its exit status."""
        self.runs += 1
        done = CliRunner().invoke(
            cli, [*arguments, "-C", str(self.pushing.project)] if arguments[0] != "doctor" else arguments
        )
        name = f"run {self.runs}: {' '.join(arguments)}"
        self.said += [(f"{name}, stdout", done.stdout), (f"{name}, stderr", done.stderr)]
        error = done.exception
        if error is None or isinstance(error, SystemExit):
            return done.exit_code
        self.said.append((f"{name}, traceback", "".join(traceback.format_exception(error))))
        self.said.append((f"{name}, error", f"{error!s} {error!r} {error.args!r} {vars(error)!r}"))
        assert isinstance(error, LayerkitError), self.said[-2]
        _show(error)
        self.said.append((f"{name}, shown", "".join(self.capsys.readouterr())))
        return error.exit_status

    def build(self, *arguments: str) -> int:
        self.pushing.weights(MIB // 4, seed=self.runs)
        metadata = self.pushing.root / "metadata.json"
        status = self.run(
            "build", "--push", "-t", "v1", "--progress=plain", "--metadata-file", str(metadata), *arguments
        )
        if metadata.exists():
            self.said.append(("--metadata-file", metadata.read_text()))
        return status

    def search(self) -> None:
        """No canary, and no token that was ever given out, in anything that is left."""
        tokens = {f"token {number}": token for number, token in enumerate(self.issued | set(self.registry._tokens))}
        spellings = {}
        for place, secret in (self.secrets | tokens).items():
            spellings |= {secret: place, quote(secret, safe=""): place, json.dumps(secret)[1:-1]: place}
            for user in ("ada", "x"):
                spellings[base64.b64encode(f"{user}:{secret}".encode()).decode()] = place
        texts = [(where, text.encode()) for where, text in self.said]
        for folder in (self.pushing.state, self.registry._folder):
            texts += [(str(path), path.read_bytes()) for path in folder.rglob("*") if path.is_file()]
        connection = sqlite3.connect(self.pushing.state / "state.sqlite")
        texts += [("state", line.encode()) for line in connection.iterdump()]
        connection.close()
        for name, home in self.registry._repositories.items():
            texts += [(f"{name}@{digest}", raw) for digest, (raw, _) in home.manifests.items()]
            texts += [(f"{name}: tags", " ".join(home.tags).encode())]
        found = [
            f"{spellings[secret]} in {where}: {text[max(0, text.find(secret.encode()) - 80):][:200]!r}"
            for where, text in texts for secret in spellings if secret.encode() in text
        ]  # fmt: skip
        assert found == []
        assert len(texts) > 10


LOGINS = ("auth", "helper", "identity", "registrytoken", "basic")


@pytest.fixture(params=LOGINS)
def scene(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    kind = str(request.param)
    names = (
        "password",
        "identity",
        "other-host",
        "environment",
        "index",
        "secret-file",
        "secret-env",
        "proxy",
        "cache",
    )
    secrets = {name: canary(name) for name in names}
    with FakeRegistry(
        "strict", users={"ada": secrets["password"]}, refresh_tokens={secrets["identity"]: "ada"},
        auth="basic" if kind == "basic" else "bearer",
    ) as registry:  # fmt: skip
        pushing = Pushing(tmp_path, registry.host)
        config: dict[str, object] = {"auths": {"other.example": {"auth": _auth(secrets["other-host"])}}}
        if kind == "registrytoken":
            secrets["registrytoken"] = uuid.uuid4().hex
            everything = {(name, action) for name in (NAME, "team/base") for action in ("pull", "push", "delete")}
            registry._tokens[secrets["registrytoken"]] = ("ada", frozenset(everything), 1e12)
            config["auths"] = {registry.host: {"registrytoken": secrets["registrytoken"]}}
        elif kind == "identity":
            config["auths"] = {registry.host: {"auth": _auth("", "x"), "identitytoken": secrets["identity"]}}
        elif kind == "helper":
            config["credHelpers"] = {registry.host: "vault"}
            _helper(tmp_path, json.dumps({"Username": "ada", "Secret": secrets["password"]}))
        else:
            config["auths"] = {registry.host: {"auth": _auth(secrets["password"])}}
        (tmp_path / "docker" / "config.json").write_text(json.dumps(config))
        (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = https://x:{secrets['index']}@index.example/simple\n")
        (tmp_path / "secret-file").write_text(secrets["secret-file"])
        with (pushing.project / "layerkit.toml").open("a") as stream:
            stream.write(
                '\n[builder.secrets]\nHF_TOKEN = { env = "HF_TOKEN" }\n'
                f'file = {{ file = "{tmp_path / "secret-file"}" }}\n'
                f'\n[dependencies.secrets]\n"pip.conf" = {{ file = "{tmp_path / "pip.conf"}" }}\n'
            )
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        for name, value in pushing.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if kind == "helper" else "/nonexistent")
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")  # no build is meant to run here
        monkeypatch.setenv("HF_TOKEN", secrets["secret-env"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secrets["environment"])
        users, registry._users = registry._users, None
        pushing.seed(registry)
        registry._users = users
        shown = secrets.get(kind, secrets["password"])
        yield Scene(pushing, registry, secrets, shown, monkeypatch, capsys)
        assert registry.errors == []


def _auth(secret: str, user: str = "ada") -> str:
    return base64.b64encode(f"{user}:{secret}".encode()).decode()


def _helper(folder: Path, says: str, ends: str = "") -> None:
    program = folder / "docker-credential-vault"
    program.write_text(HELPER.format(answer=f"echo '{says}'\n{ends}"))
    program.chmod(0o755)


def _registry(**fault: object) -> Break:
    return lambda scene: scene.echo(**fault)  # type: ignore[arg-type]


def _redirected(to: str, method: str = "GET", path: str = "manifests/runtime") -> Break:
    return lambda scene: scene.redirect(method=method, path=path, to=to)


# How a build can end: what the registry does, and the exit statuses that may follow.
ENDINGS: dict[str, tuple[Break, set[int]]] = {
    "done": (lambda scene: None, {0}),
    "401 for good": (_registry(status=401, method="POST"), {5}),
    "401 from the token server": (_registry(status=401, path="^/token"), {0, 5}),
    "403": (_registry(status=403, method="POST"), {5}),
    "400 to a chunk": (_registry(status=400, method="PATCH"), {0, 6, 7, 8}),
    "404 of the upload": (_registry(status=404, method="POST"), {6}),
    "413": (_registry(status=413, method="P"), {0, 6}),
    "manifest refused": (_registry(status=400, method="PUT", path="manifests"), {6}),
    "500": (_registry(status=500, method="POST"), {7}),
    "503 at the tag": (_registry(status=503, method="PUT", path="manifests/v1"), {7}),
    "redirected to a private address": (_redirected("http://169.254.169.254/{secret}?x={secret}"), {6}),
    "redirected around": (_redirected("/v2/{secret}/y?x={secret}"), {11}),
    "redirected with a login in the address": (_redirected("http://ada:{secret}@127.0.0.1:1/"), {6}),
    "an upload's address with the token in it": (_redirected("ftp://x/{secret}", "PATCH", ""), {6}),
}  # fmt: skip


def test_no_canary_anywhere(scene: Scene) -> None:
    """FAULTS 12, 17, 19, 22, 37: however a build ends, no secret is in output, errors, state, or what was pushed."""
    met = {}
    for name, (break_it, statuses) in ENDINGS.items():
        break_it(scene)
        met[name] = scene.build(*(("--json",) if len(met) % 2 else ()))
        assert met[name] in statuses, (name, scene.said[-4:])
        scene.registry.heal()
        scene.issued |= set(scene.registry._tokens)
        if "registrytoken" not in scene.secrets:
            scene.registry.expire_tokens()
    assert {0, 5, 6, 7} <= set(met.values())
    assert scene.build() == 0
    for command in (["plan", "--push", "-t", "v1"], ["plan", "--push", "--json"], ["check"], ["dockerfile"], ["bake"]):
        scene.run(*command)
    scene.run("doctor", f"{scene.registry.host}/{NAME}")
    scene.search()


@pytest.mark.parametrize("scene", ["auth"], indirect=True)
def test_no_canary_where_logins_cannot_be_had(scene: Scene) -> None:
    """FAULTS 55: what a helper prints in place of a login, and a config.json that is none, are not shown."""
    config = scene.pushing.root / "docker" / "config.json"
    secret = scene.secrets["password"]
    _helper(scene.pushing.root, secret)
    for says, ends in (
        (secret, ""),
        (secret, "exit 1"),
        (json.dumps({"Secret": secret}), ""),
        (f"[{secret}", "kill $$"),
    ):
        config.write_text(json.dumps({"credHelpers": {scene.registry.host: "vault"}}))
        _helper(scene.pushing.root, says, ends)
        scene.monkeypatch.setenv("PATH", f"{scene.pushing.root}:/usr/bin:/bin")
        assert scene.build() == 5
    for entry in (
        {"auth": secret},
        {"auth": _auth(secret) + "="},
        {"auth": base64.b64encode(secret.encode()).decode()},
        secret,
    ):
        config.write_text(json.dumps({"auths": {scene.registry.host: entry}}))
        assert scene.build() == 5
    config.write_text(f'{{"auths": {{"{scene.registry.host}": {{"auth": "{_auth(secret)}"')
    assert scene.build() == 5
    scene.search()


@pytest.mark.parametrize("scene", ["auth"], indirect=True)
def test_no_canary_from_a_proxys_login(scene: Scene) -> None:
    """A proxy's password is in no message, whether the proxy is not there, refuses, or echoes it."""
    scene.run("build", "--push")  # makes the state
    login = f"ada:{scene.secrets['proxy']}"
    shown = f"ada:{quote(scene.secrets['proxy'], safe='')}"
    reference = Reference.parse(f"registry.test/{NAME}")
    with Tunnel("127.0.0.1:1", login=login) as there, Tunnel("127.0.0.1:1", login="somebody:else") as refuses:
        for place in (there.host, refuses.host, "127.0.0.1:1", "127.0.0.1:port"):
            for scheme in ("http", "socks5"):
                proxies = {"https": f"{scheme}://{shown}@{place}"}
                with Client(proxies=proxies, retries=0) as client, pytest.raises(LayerkitError) as caught:
                    client.repository(reference).resolve("v1")
                said = "".join(traceback.format_exception(caught.value)) + f"{caught.value!r} {caught.value.hint}"
                scene.said.append((f"{scheme} {place}", said))
        assert there.asked and refuses.asked
        scene.monkeypatch.setenv("HTTPS_PROXY", f"http://{shown}@{refuses.host}")
        scene.run("doctor", str(reference.name))
        project = scene.pushing.project / "layerkit.toml"
        project.write_text(project.read_text().replace(scene.registry.host, "registry.test"))
        assert scene.build() == 5
    scene.search()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("image.name", '"https://ada:{secret}@registry.test/team/model"', id="name"),
        pytest.param("image.base", '"ada:{secret}@registry.test/team/base:1"', id="base"),
        pytest.param("cache.repository", '"ada:{secret}@registry.test/cache"', id="cache"),
        pytest.param("builder.args", '{{ HF_TOKEN = "{secret}" }}', id="args"),
        pytest.param("image.env", '{{ DB_PASSWORD = "{secret}" }}', id="env"),
        pytest.param("cache.to", '["type=registry,ref=x,password={secret}"]', id="cache-to"),
        pytest.param("builder.secrets", '{{ TOKEN = "{secret}" }}', id="secret-by-value"),
    ],
)
def test_secrets_in_the_wrong_place(tmp_path: Path, key: str, value: str) -> None:
    """FAULTS 37: a secret that is written where it does not belong is refused, and not repeated."""
    pushing = Pushing(tmp_path, "127.0.0.1:1")
    secret = f"canary{uuid.uuid4().hex}"
    for command in ("check", "dockerfile", "bake"):
        done = CliRunner().invoke(
            cli, [command, "-C", str(pushing.project), "--set", f"{key}={value.format(secret=secret)}"]
        )
        error = done.exception
        shown = f"{done.output} {error} {error!r} {getattr(error, 'problems', ())}"
        shown += "".join(str(problem) for problem in getattr(error, "problems", ()))
        assert secret not in shown


def test_requirements_with_a_login(tmp_path: Path) -> None:
    """FAULTS 37: an index's password in requirements.txt is refused with the way to give it, and not repeated."""
    pushing = Pushing(tmp_path, "127.0.0.1:1")
    secret = f"canary{uuid.uuid4().hex}"
    (pushing.project / "requirements.txt").write_text(f"--index-url https://ada:{secret}@index.test/simple\ntorch\n")
    named = ["--set", 'dependencies.requirements="requirements.txt"', "--set", 'dependencies.separate=["torch"]']
    done = CliRunner().invoke(cli, ["dockerfile", "-C", str(pushing.project), *named])
    assert isinstance(done.exception, LayerkitError)
    assert "[dependencies.secrets]" in done.exception.hint
    assert secret not in f"{done.output} {done.exception} {done.exception!r}"
