"""Logging in: challenges, tokens, scopes, and to whom a password is shown."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.errors import AuthenticationError
from layerkit.oci import Digest
from layerkit.registry import Credentials, Login
from layerkit.registry.answers import Answer
from layerkit.registry.auth import Authorizer, Challenge, parse_challenges, scope
from layerkit.testing import FakeRegistry
from registry.support import Connect, Data, image, pattern

Serve = Callable[..., FakeRegistry]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param(
            'Bearer realm="https://a/t",service="r",scope="repository:x:pull,push"',
            [("bearer", {"realm": "https://a/t", "service": "r", "scope": "repository:x:pull,push"})],
            id="docker",
        ),
        pytest.param('Basic realm="a b, c"', [("basic", {"realm": "a b, c"})], id="comma-in-quotes"),
        pytest.param("BASIC", [("basic", {})], id="no-parameters"),
        pytest.param(
            'Basic realm="x", Bearer realm="y" , service=z',
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})],
            id="two",
        ),
        pytest.param(r'Bearer realm="a\"b"', [("bearer", {"realm": 'a"b'})], id="escaped"),
        pytest.param('Bearer  realm = "x"', [("bearer", {"realm": "x"})], id="spaces"),
        pytest.param("", [], id="empty"),
        pytest.param(None, [], id="none"),
        pytest.param('="x"', [], id="nonsense"),
    ],
)
def test_challenges(header: str | None, expected: list[tuple[str, Mapping[str, str]]]) -> None:
    """WWW-Authenticate is read as RFC 9110, section 11.6.1, has it."""
    assert [(c.scheme, dict(c.parameters)) for c in parse_challenges(header)] == expected


@given(st.text(alphabet=st.sampled_from('Bearer basic realm="\\,=:/x \t')) | st.text())
def test_any_challenge_is_read(header: str) -> None:
    """Fuzzed: no header raises, and what is found is well formed."""
    for challenge in parse_challenges(header):
        assert re.fullmatch(r"[a-z0-9-]+", challenge.scheme)
        assert isinstance(challenge.scopes, frozenset)


def test_scopes_of_a_challenge() -> None:
    """The scope parameter may name several resources and actions, and names with ports."""
    challenge = Challenge("bearer", {"scope": "repository:a:pull,push registry:catalog:* broken"})
    assert challenge.scopes == {("repository:a", "pull"), ("repository:a", "push"), ("registry:catalog", "*")}


class Server:
    """A token server that counts, in place of one on the network."""

    def __init__(self, **fields: object) -> None:
        self.asked: list[tuple[str, str, Mapping[str, str], bytes | None]] = []
        self.fields = fields
        self.now = 1000.0

    def __call__(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        import json

        self.asked.append((method, url, headers, body))
        document = {"token": f"t{len(self.asked)}", **self.fields}
        return Answer(200, {}, json.dumps(document).encode(), url)

    def authorizer(self, login: Login | None = None, host: str = "r.example.com", **options: object) -> Authorizer:
        logins = Credentials.of({host: login} if login else {host: None})  # type: ignore[dict-item]
        return Authorizer(logins, self, clock=lambda: self.now, **options)  # type: ignore[arg-type]


BEARER = (Challenge("bearer", {"realm": "https://auth.example.com/token", "service": "r"}),)
ADA = Login("ada", "secret")


def test_a_token_is_asked_for_once() -> None:
    """One token per (realm, service, scope): it is used again until shortly before it expires."""
    server = Server(expires_in=300)
    authorizer = server.authorizer(ADA)
    assert authorizer.header("r.example.com", scope("x", "pull")) is None
    first = authorizer.renew("r.example.com", BEARER, scope("x", "pull"), None)[0]
    assert authorizer.header("r.example.com", scope("x", "pull")) == first == "Bearer t1"
    server.now += 280
    assert authorizer.header("r.example.com", scope("x", "pull")) == first
    server.now += 15
    assert authorizer.header("r.example.com", scope("x", "pull")) == "Bearer t2"


def test_a_token_for_more_serves_for_less() -> None:
    """A token to push is used to pull; one to pull is not used to push, nor for another repository."""
    server = Server()
    authorizer = server.authorizer(ADA)
    pushed = authorizer.renew("r.example.com", BEARER, scope("x", "pull", "push"), None)[0]
    assert authorizer.header("r.example.com", scope("x", "pull")) == pushed
    assert authorizer.header("r.example.com", scope("y", "pull")) == "Bearer t2"
    assert authorizer.header("r.example.com", scope("y", "pull", "push")) == "Bearer t3"


def test_what_is_sent_to_the_token_server() -> None:
    """GET with service, a scope for each repository, account, and the login as basic authentication."""
    server = Server()
    wanted = scope("x", "push", "pull") | scope("y", "pull")
    server.authorizer(ADA).renew("r.example.com", BEARER, wanted, None)
    method, url, headers, body = server.asked[0]
    query = parse_qs(urlsplit(url).query)
    assert (method, body) == ("GET", None)
    assert query == {"service": ["r"], "scope": ["repository:x:pull,push", "repository:y:pull"], "account": ["ada"]}
    assert headers == {"Authorization": ADA.basic}


def test_what_is_sent_with_an_identity_token() -> None:
    """POST of a form with grant_type=refresh_token; the token is in no URL."""
    server = Server(token=None, access_token="given")
    login = Login(identity_token="canary")
    assert server.authorizer(login).renew("r.example.com", BEARER, scope("x", "pull"), None)[0] == "Bearer given"
    method, url, headers, body = server.asked[0]
    assert method == "POST"
    assert "canary" not in url + str(headers)
    assert parse_qs((body or b"").decode())["refresh_token"] == ["canary"]


def test_a_refused_token_is_not_used_again() -> None:
    """After 401 the token is forgotten; when the new one is the same, that is the end."""
    server = Server()
    authorizer = server.authorizer(ADA)
    first = authorizer.renew("r.example.com", BEARER, scope("x", "pull"), None)[0]
    second = authorizer.renew("r.example.com", BEARER, scope("x", "pull"), first)[0]
    assert second != first
    # Another thread was refused with the first one, too, and finds the second.
    assert authorizer.renew("r.example.com", BEARER, scope("x", "pull"), first)[0] == second
    server.fields["token"] = "same"
    third = authorizer.renew("r.example.com", BEARER, scope("x", "pull"), second)[0]
    with pytest.raises(AuthenticationError, match="not accepted"):
        authorizer.renew("r.example.com", BEARER, scope("x", "pull"), third)


@pytest.mark.parametrize(
    "fields",
    [
        {"token": None},
        {"token": 5},
        {"token": "a b"},
        {"token": "a\r\nX: y"},
        {"token": "x" * 100_000},
        {"expires_in": "x"},
    ],
)
def test_a_token_that_is_none(fields: dict[str, object]) -> None:
    """What could not stand in a header is not put into one."""
    with pytest.raises(AuthenticationError, match="holds no token"):
        Server(**fields).authorizer(ADA).renew("r.example.com", BEARER, scope("x", "pull"), None)


@pytest.mark.parametrize(
    ("host", "realm", "allowed"),
    [
        pytest.param("r.example.com", "https://r.example.com/token", True, id="same-host"),
        pytest.param("r.example.com:5000", "https://r.example.com/token", True, id="same-host-other-port"),
        pytest.param("registry.example.com", "https://auth.example.com/token", True, id="same-domain"),
        pytest.param("example.com", "https://auth.example.com/token", True, id="below"),
        pytest.param("docker.io", "https://auth.docker.io/token", True, id="docker-hub"),
        pytest.param("registry.gitlab.com", "https://gitlab.com/jwt/auth", True, id="gitlab"),
        pytest.param("127.0.0.1:5000", "http://127.0.0.1:5001/token", True, id="loopback"),
        pytest.param("r.example.com", "https://allowed.test/token", True, id="allowed"),
        pytest.param("r.example.com", "http://r.example.com/token", False, id="plain"),
        pytest.param("r.example.com", "https://evil.test/token", False, id="another-domain"),
        pytest.param("r.example.com", "https://example.com.evil.test/token", False, id="suffix"),
        pytest.param("r.example.com", "https://notexample.com/token", False, id="prefix"),
        pytest.param("r.co.uk", "https://evil.co.uk/token", False, id="public-suffix"),
        pytest.param("quay.io", "https://evil.io/token", False, id="top-level"),
        pytest.param("r.example.com", "http://127.0.0.1/token", False, id="this-machine"),
        pytest.param("r.example.com", "https://user@r.example.com/token", False, id="user"),
        pytest.param("r.example.com", "file:///etc/passwd", False, id="file"),
        pytest.param("r.example.com", "/token", False, id="relative"),
        pytest.param("r.example.com", "https://[::", False, id="malformed"),
        pytest.param("127.0.0.1:5000", "https://evil.test/token", False, id="from-loopback"),
        pytest.param("10.0.0.1", "https://1.0.0.1/token", False, id="addresses-have-no-domain"),
    ],
)
def test_fault_19_who_sees_a_password(host: str, realm: str, allowed: bool) -> None:
    """FAULTS 19: a login goes to https only, to the registry's own domain or a host that was allowed."""
    server = Server()
    authorizer = server.authorizer(ADA, host, token_hosts=["allowed.test"])
    challenge = (Challenge("bearer", {"realm": realm}),)
    if allowed:
        authorizer.renew(host, challenge, scope("x", "pull"), None)
        assert len(server.asked) == 1
        return
    with pytest.raises(AuthenticationError, match="token server"):
        authorizer.renew(host, challenge, scope("x", "pull"), None)
    assert server.asked == []


def test_fault_19_anonymous_may_ask_anybody() -> None:
    """FAULTS 19: where there is no login to lose, the token server may be on any domain, with TLS."""
    server = Server()
    challenge = (Challenge("bearer", {"realm": "https://tokens.test/t"}),)
    assert server.authorizer().renew("r.example.com", challenge, scope("x", "pull"), None)[0] == "Bearer t1"


def test_a_registry_token_is_sent_as_it_is() -> None:
    """``registrytoken`` needs no token server."""
    server = Server()
    login = Login(registry_token="given")
    assert server.authorizer(login).renew("r.example.com", BEARER, scope("x", "pull"), None)[0] == "Bearer given"
    assert server.asked == []


# ------------------------------------------------------------------------------------------------ against a registry


@pytest.mark.parametrize("kind", ["bearer", "basic"])
def test_a_login_pushes_and_pulls(serve: Serve, connect: Connect, kind: str) -> None:
    """With bearer and with basic authentication everything works, and the first request alone is refused."""
    registry = serve(users={"ada": "secret"}, auth=kind)
    repository = connect(registry, credentials=Credentials.of({registry.host: ADA}))
    layer = pattern(100_000)
    made = image(layer)
    repository.upload(Data(layer))
    repository.put_blob(made.config.raw)
    repository.put_manifest(made.manifest, "v1")
    assert repository.manifest("v1") == made.manifest
    assert repository.tags() == ("v1",)
    repository.delete_manifest(made.manifest.digest)
    refused = [request for request in registry.requests if request.status == 401]
    assert len(refused) == 1


@pytest.mark.parametrize("kind", ["bearer", "basic"])
@pytest.mark.parametrize("login", [None, Login("ada", "wrong")], ids=["none", "wrong"])
def test_without_a_good_login(serve: Serve, connect: Connect, kind: str, login: Login | None) -> None:
    """No login and a wrong one are AuthenticationError with `docker login` as the next step; nothing is repeated."""
    registry = serve(users={"ada": "canary-secret"}, auth=kind)
    credentials = Credentials.of({registry.host: login}) if login else None
    with pytest.raises(AuthenticationError, match="401") as caught:
        connect(registry, credentials=credentials).resolve("v1")
    assert "docker login" in caught.value.hint
    assert "canary" not in str(caught.value)
    assert len(registry.requests) <= 4


def test_anonymous_pull(serve: Serve, connect: Connect) -> None:
    """A public repository is read without a login, through an anonymous token."""
    registry = serve(users={"ada": "secret"}, anonymous_pull=True)
    made = image(b"layer")
    registry.push("team/model", "v1", made, [b"layer"])
    assert connect(registry).manifest("v1") == made.manifest


def test_an_identity_token_logs_in(serve: Serve, connect: Connect) -> None:
    """An identity token is exchanged by POST."""
    registry = serve(users={"ada": "secret"}, refresh_tokens={"identity": "ada"})
    logins = Credentials.of({registry.host: Login(identity_token="identity")})
    connect(registry, credentials=logins).put_blob(b"x")
    assert registry.blob("team/model", Digest.of(b"x")) == b"x"


def test_mounting_asks_for_both_repositories(serve: Serve, connect: Connect) -> None:
    """A mount's token covers push here and pull there (distribution, "Cross Repository Blob Mount")."""
    registry = serve(users={"ada": "secret"})
    registry.put_blob("team/base", b"layer")
    repository = connect(registry, credentials=Credentials.of({registry.host: ADA}))
    assert repository.mount(Digest.of(b"layer"), "team/base")


def test_fault_30_mounting_without_rights_there(serve: Serve, connect: Connect) -> None:
    """FAULTS 30: when the login may not read the other repository, mount is False, and an upload works."""
    registry = serve(users={"ada": "secret"}, allow=lambda user, repository, action: repository != "team/base")
    registry.put_blob("team/base", b"layer")
    repository = connect(registry, credentials=Credentials.of({registry.host: ADA}))
    assert not repository.mount(Digest.of(b"layer"), "team/base")
    repository.upload(Data(b"layer"))


def test_fault_11_tokens_expire_everywhere(serve: Serve, connect: Connect) -> None:
    """FAULTS 11: with tokens that are revoked before every single request, everything still works."""
    registry = serve(users={"ada": "secret"})
    repository = connect(registry, credentials=Credentials.of({registry.host: ADA}))
    seen: set[tuple[str, str]] = set()

    def revoke(request: object) -> None:
        key = (request.method, request.path)  # type: ignore[attr-defined]
        if key not in seen:
            seen.add(key)
            registry.expire_tokens()

    registry.fail(path="^/v2/", call=revoke, times=-1)
    layer = pattern(300_000)
    made = image(layer)
    repository.upload(Data(layer))
    repository.put_blob(made.config.raw)
    repository.put_manifest(made.manifest, "v1")
    assert repository.present(made.manifest.layers[0])
    assert repository.blob(made.manifest.layers[0]) == layer


def test_threads_share_one_token(serve: Serve, connect: Connect) -> None:
    """Eight threads that are refused at once ask for one token."""
    registry = serve(users={"ada": "secret"})
    repository = connect(registry, credentials=Credentials.of({registry.host: ADA}))
    threads = [threading.Thread(target=repository.resolve, args=(f"v{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry.asked("GET", "^/token")) == 1
