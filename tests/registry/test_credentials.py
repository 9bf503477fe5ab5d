"""Docker's credentials, with docker-py's resolver as the oracle."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from docker.auth import AuthConfig
from hypothesis import given
from hypothesis import strategies as st

from layerkit.errors import AuthenticationError
from layerkit.registry import Credentials, Login

HUB = "https://index.docker.io/v1/"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def write(folder: Path, document: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return folder


def helper(folder: Path, name: str, script: str) -> dict[str, str]:
    """A credential helper on a PATH of its own."""
    folder.mkdir(exist_ok=True)
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.defpath}:/usr/bin:/bin"}


def oracle(document: dict[str, Any], host: str, environment: dict[str, str]) -> Login | None:
    """What docker-py would log in with."""
    config = AuthConfig.load_config(None, json.loads(json.dumps(document)), environment)
    found = config.resolve_authconfig(host) or {}
    found = {key.lower(): value for key, value in found.items() if value}
    if "identitytoken" in found:
        return Login(identity_token=found["identitytoken"])
    return Login(found["username"], found["password"]) if "username" in found else None


AUTH = {"auth": encoded("ada:secret")}
CASES = {
    "plain": ({"auths": {"r.example.com": AUTH}}, "r.example.com"),
    "port": ({"auths": {"r.example.com:5000": AUTH}}, "r.example.com:5000"),
    "other-port": ({"auths": {"r.example.com:5000": AUTH}}, "r.example.com"),
    "url": ({"auths": {"https://r.example.com/v2/": AUTH}}, "r.example.com"),
    "exact-before-url": (
        {"auths": {"https://r.example.com": {"auth": encoded("old:x")}, "r.example.com": AUTH}}, "r.example.com"),
    "hub": ({"auths": {HUB: AUTH}}, "docker.io"),
    "none": ({"auths": {"other": AUTH}}, "r.example.com"),
    "empty-entry": ({"auths": {"r.example.com": {}}}, "r.example.com"),
    "empty-file": ({}, "r.example.com"),
    "colon-in-password": ({"auths": {"r": {"auth": encoded("ada:a:b:c")}}}, "r"),
    "identity-token": ({"auths": {"r": {"identitytoken": "refresh"}}}, "r"),
    "helper": ({"credHelpers": {"r.example.com": "good"}}, "r.example.com"),
    "helper-before-auths": ({"credHelpers": {"r": "good"}, "auths": {"r": AUTH}}, "r"),
    "helper-before-store": ({"credHelpers": {"r": "good"}, "credsStore": "token"}, "r"),
    "store": ({"credsStore": "good", "auths": {"r": {}}}, "r"),
    "store-for-others": ({"credHelpers": {"x": "token"}, "credsStore": "good"}, "r"),
    "store-hub": ({"credsStore": "good"}, "docker.io"),
    "store-has-nothing": ({"credsStore": "missing", "auths": {"r": AUTH}}, "r"),
    "store-token": ({"credsStore": "token"}, "r"),
}  # fmt: skip


@pytest.mark.parametrize(("document", "host"), [pytest.param(*case, id=name) for name, case in CASES.items()])
def test_logins_are_those_of_docker_py(tmp_path: Path, document: dict[str, Any], host: str) -> None:
    """For every form of config.json, the login is the one that docker-py finds."""
    bin_folder = tmp_path / "bin"
    environment = helper(bin_folder, "good", """read key; echo "{\\"Username\\":\\"u\\",\\"Secret\\":\\"s:$key\\"}" """)
    helper(bin_folder, "token", """echo '{"Username":"<token>","Secret":"refresh"}'""")
    helper(bin_folder, "missing", "echo 'credentials not found in native keychain'; exit 1")
    # docker-py looks on this process's PATH, we on the given one.
    before = os.environ["PATH"]
    os.environ["PATH"] = environment["PATH"]
    try:
        expected = oracle(document, host, environment)
    finally:
        os.environ["PATH"] = before
    assert Credentials(write(tmp_path / "docker", document), environment).login(host) == expected


def test_no_file_is_anonymous(tmp_path: Path) -> None:
    """Without a folder, or without config.json in it, there is no login and no error."""
    assert Credentials(tmp_path / "none").login("r") is None
    assert Credentials().login("r") is None


def test_a_registry_token_is_found(tmp_path: Path) -> None:
    """``registrytoken`` is a bearer token."""
    folder = write(tmp_path, {"auths": {"r": {"registrytoken": "t"}}})
    assert Credentials(folder).login("r") == Login(registry_token="t")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{", id="truncated"),
        pytest.param("[]", id="list"),
        pytest.param("[" * 100_000, id="nested"),
        pytest.param("\0\xff", id="binary"),
        pytest.param('{"auths": {"r": "x"}}', id="entry-no-object"),
        pytest.param('{"auths": {"r": {"auth": "!!"}}}', id="no-base64"),
        pytest.param('{"auths": {"r": {"auth": "YWRh"}}}', id="no-colon"),
        pytest.param('{"auths": {"r": {"auth": "//8="}}}', id="no-utf8"),
    ],
)
def test_a_broken_file_is_said(tmp_path: Path, text: str) -> None:
    """A config.json that cannot be used is AuthenticationError that names it."""
    with pytest.raises(AuthenticationError, match=r"config\.json"):
        Credentials(write(tmp_path, text)).login("r")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["auths", "credsStore", "credHelpers", "r", "auth", "identitytoken"]), inner)
    ),
    max_leaves=8,
)


@given(document=json_values)
def test_any_config_gives_a_login_or_our_error(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    """Fuzzed: no config.json raises anything but AuthenticationError."""
    folder = write(tmp_path_factory.getbasetemp() / "fuzz", document)
    try:
        found = Credentials(folder, {"PATH": "/nonexistent"}).login("r")
    except AuthenticationError:
        return
    assert found is None or isinstance(found, Login)


@pytest.mark.parametrize("name", ["../evil", "a/b", "-x", "", "a b", "x;y", "é", "a" * 65])
def test_fault_55_names_of_helpers(tmp_path: Path, name: str) -> None:
    """FAULTS 55: what is no plain name is never run."""
    folder = write(tmp_path, {"credHelpers": {"r": name}})
    if not name:
        assert Credentials(folder, {}).login("r") is None
        return
    with pytest.raises(AuthenticationError, match="no name of a credential helper"):
        Credentials(folder, {}).login("r")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param("exit 3", "failed with status 3", id="fails"),
        pytest.param("echo nonsense", "something else than credentials", id="garbage"),
        pytest.param("echo '{}'", "something else than credentials", id="empty"),
        pytest.param("""echo '{"Username":1,"Secret":[]}'""", "something else than credentials", id="types"),
        pytest.param("echo canary-secret; exit 1", "failed with status 1", id="says-something"),
    ],
)
def test_fault_55_helpers_that_do_not_work(tmp_path: Path, script: str, message: str) -> None:
    """FAULTS 55: a helper that fails or answers nonsense is AuthenticationError, and its words are not shown."""
    environment = helper(tmp_path / "bin", "bad", script)
    with pytest.raises(AuthenticationError, match=message) as caught:
        Credentials(write(tmp_path, {"credsStore": "bad"}), environment).login("r")
    assert "canary" not in f"{caught.value}{caught.value.hint}"
    assert "docker-credential-bad" in str(caught.value)


def test_fault_55_a_missing_helper(tmp_path: Path) -> None:
    """FAULTS 55: a helper that is not installed is said by name; the process's own PATH is not used."""
    folder = write(tmp_path, {"credsStore": "sh"})
    with pytest.raises(AuthenticationError, match="docker-credential-sh is not on the PATH"):
        Credentials(folder, {"PATH": str(tmp_path)}).login("r")


def test_fault_55_a_helper_that_hangs(tmp_path: Path) -> None:
    """FAULTS 55: a helper that hangs is killed after its time limit, with the children that hold its pipe."""
    environment = helper(tmp_path / "bin", "slow", "sleep 30 & sleep 30")
    credentials = Credentials(write(tmp_path, {"credsStore": "slow"}), environment, helper_time_limit=0.2)
    started = time.monotonic()
    with pytest.raises(AuthenticationError, match=r"did not answer in 0\.2 s"):
        credentials.login("r")
    assert time.monotonic() - started < 5


def test_a_helper_is_asked_once(tmp_path: Path) -> None:
    """Each host's login is looked up once in a run."""
    environment = helper(
        tmp_path / "bin", "count", f"""echo x >> {tmp_path}/calls; echo '{{"Username":"u","Secret":"s"}}'"""
    )
    credentials = Credentials(write(tmp_path, {"credsStore": "count"}), environment)
    assert credentials.login("r") == credentials.login("r") == Login("u", "s")
    assert (tmp_path / "calls").read_text() == "x\n"


def test_a_login_shows_no_secret() -> None:
    """The repr of a login holds none of it."""
    assert "canary" not in repr(Login("canary", "canary", "canary", "canary"))
