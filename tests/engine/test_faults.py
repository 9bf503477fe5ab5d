"""FAULTS.md through ``layerkit build --push``: what a user sees, what the registry holds, what the old tag names.

Against a FakeRegistry with faults by script; only the checkpoint changes, so no builder takes part.
"""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from layerkit.oci import Digest, Manifest, Reference
from layerkit.registry import Client, Credentials, Login
from layerkit.runtime.bake import PLACEHOLDER, PLACEHOLDER_NAME
from layerkit.testing import PROFILES, FakeRegistry, Fault, Profile
from registry.pushing import NAME, Done, Pushing, image, tar_of, whole_image
from registry.support import MIB
from registry.test_real_registry import Real
from registry.tunnel import Tunnel

SIZE = 3 * MIB
PASSWORD = "canary-6d1f0b"


class Case:
    """A registry with an old image under v1, and new weights that wait to be pushed there."""

    def __init__(self, root: Path, profile: str | Profile = "strict", *, login: bool = False) -> None:
        users = {"ada": PASSWORD} if login else None
        self.registry = FakeRegistry(profile, users=users, anonymous_pull=True).start()
        self.pushing = Pushing(root, self.registry.host)
        if login:
            self.pushing.login(self.registry.host, "ada", PASSWORD)
        self.pushing.seed(self.registry)
        self.pushing.weights(SIZE, seed=0)
        self.old = Digest.parse(self.pushing.prepare())
        self.pushing.weights(SIZE, seed=1)
        self.registry.requests.clear()
        self.faults: list[Fault] = []

    def fail(self, **fault: Any) -> None:
        self.faults.append(self.registry.fail(**fault))

    def succeeds(self) -> dict[str, Any]:
        """The build works, whatever it met: v1 is the new image, whole."""
        done = self.pushing.build()
        assert done.status == 0, done.err
        self._met()
        assert PASSWORD not in done.out + done.err
        document = done.document
        assert str(self.whole()) == document["digest"] != str(self.old)
        return document

    def ends(self, status: int, *said: str) -> Done:
        """The build fails with *status* and says so in one line; v1 is the old image, whole."""
        done = self.pushing.build()
        assert done.status == status, f"{done.status}: {done.err}"
        self._met()
        line = next(line for line in done.err.splitlines() if line.startswith("error: "))
        for words in said:
            assert re.search(words, line), line
        assert "Traceback" not in done.err
        assert PASSWORD not in done.out + done.err
        assert self.whole() == self.old
        return done

    def _met(self) -> None:
        """A fault that no request met proves nothing."""
        assert [fault for fault in self.faults if not fault.hits] == []

    def whole(self) -> Digest:
        logins = Credentials.of({self.registry.host: Login("ada", PASSWORD)})
        with Client(credentials=logins) as client:
            return whole_image(client.repository(Reference.parse(f"{self.registry.host}/{NAME}")), "v1")

    @property
    def sent(self) -> int:
        """Bytes of layers that went up."""
        puts = [r.received for r in self.registry.asked("PUT", "uploads/.") if r.received > 100_000]
        return self.registry.received_bytes("PATCH") + sum(puts)

    def close(self) -> None:
        self.registry.close()
        assert self.registry.errors == []


@pytest.fixture
def cases(tmp_path: Path) -> Iterator[Any]:
    made: list[Case] = []

    def make(profile: str | Profile = "strict", **options: Any) -> Case:
        made.append(Case(tmp_path / str(len(made)), profile, **options))
        return made[-1]

    yield make
    for case in made:
        case.close()


@pytest.fixture
def case(cases: Any) -> Case:
    made: Case = cases()
    return made


LAYER = SIZE + 2560


# ------------------------------------------------------------------------------------------------ upload


def test_fault_1_a_reset_costs_only_the_rest(case: Case) -> None:
    """FAULTS 1: a connection that is reset in the middle of a layer is made anew, and only the rest is sent."""
    case.fail(method="PATCH", action="reset", after_bytes=2 * MIB)
    case.succeeds()
    assert case.sent == LAYER


def test_fault_1_2_where_nothing_can_be_resumed(cases: Any) -> None:
    """FAULTS 1, 2: distribution 2.8 forgets a session that broke inside a PATCH: the layer is sent again."""
    case = cases("distribution-2.8")
    case.fail(method="PATCH", action="reset", after_bytes=2 * MIB)
    case.succeeds()
    assert case.sent == LAYER + 2 * MIB


def test_fault_1_a_registry_that_never_answers_well(case: Case) -> None:
    """FAULTS 1, 14: bounded attempts, then 7; one line says what, where, the status, how often and what to do."""
    case.fail(method="PATCH", status=503, headers={"Retry-After": "0"}, times=-1)
    done = case.ends(7, rf"upload .*{case.registry.host}/{NAME}", "HTTP 503", r"\(6 attempts\)")
    assert "safe to run again" in done.err
    case.registry.heal()
    case.succeeds()


def test_fault_2_an_unknown_session(case: Case) -> None:
    """FAULTS 2: 404 BLOB_UPLOAD_UNKNOWN starts the layer again from 0."""
    case.fail(method="PATCH", call=lambda request: case.registry.forget_sessions())
    case.succeeds()
    lost, taken = case.registry.asked("PATCH")
    assert (lost.status, taken.status) == (404, 202)
    assert lost.path != taken.path
    assert taken.received == case.sent == LAYER


def test_fault_7_hurt_once(case: Case) -> None:
    """FAULTS 7: DIGEST_INVALID with an unchanged file is one fresh try."""
    case.fail(method="PUT", path="uploads", status=400, body='{"errors":[{"code":"DIGEST_INVALID"}]}')
    case.succeeds()
    assert case.sent == 2 * LAYER


def test_fault_7_hurt_twice(case: Case) -> None:
    """FAULTS 7: the same again is 8."""
    case.fail(method="PUT", path="uploads", status=400, body='{"errors":[{"code":"DIGEST_INVALID"}]}', times=-1)
    case.ends(8, "commit blob [0-9a-f]{12}", "HTTP 400", "after all was sent again")


def test_fault_7_40_the_file_changed(case: Case) -> None:
    """FAULTS 7, 40: weights that are written to while they are sent are 3, and nothing is tagged."""
    large = 96 * MIB  # over what is hashed before it is sent
    path = case.pushing.weights(large, seed=2)

    def write(request: object) -> None:
        with path.open("r+b") as stream:
            stream.seek(large - 10)
            stream.write(b"0123456789")

    case.fail(method="POST", path="uploads", call=write)
    case.ends(3, r"model\.pt changed while it was read; nothing was tagged")


def test_fault_8_a_proxy_that_limits_bodies(cases: Any) -> None:
    """FAULTS 8: 413 in HTML from a proxy: the layer goes in smaller chunks."""
    case = cases(Profile(body_limit=MIB))
    case.succeeds()
    assert case.sent == LAYER
    assert all(request.received <= MIB for request in case.registry.requests)


def test_fault_8_a_proxy_that_lets_nothing_through(cases: Any) -> None:
    """FAULTS 8: where not even 1 MiB passes: 6, with what the proxy said and the limit to raise."""
    case = cases()
    case.registry.profile = Profile(body_limit=MIB - 1)
    done = case.ends(6, "HTTP 413", "Request Entity Too Large")
    assert "raise its limit" in done.err


@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"immutable-tags", "lying-head", "strict"}))
def test_fault_9_every_kind_of_registry(cases: Any, profile: str) -> None:
    """FAULTS 9: whatever way a registry needs, the image arrives."""
    cases(profile).succeeds()


def test_fault_10_a_layer_over_the_limit(case: Case) -> None:
    """FAULTS 10: a layer over checkpoint.layer-limit is refused before byte 1: 6; the plan says so already."""
    limit = ("--set", "checkpoint.layer-limit=1000000")
    for command in ("plan", "build"):
        arguments = [sys.executable, "-m", "layerkit", command, "--push", "-t", "v1", *limit]
        done = subprocess.run(
            arguments, cwd=case.pushing.project, env=case.pushing.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 6, done.stderr
        assert f"takes layers of at most 1000000 bytes; that of model.pt would have {LAYER}" in done.stderr
        assert "shards" in done.stderr
    assert [r for r in case.registry.requests if r.method not in ("GET", "HEAD")] == []
    assert case.whole() == case.old


def test_fault_10_the_limit_of_a_known_host(tmp_path: Path) -> None:
    """FAULTS 10: ghcr.io takes 10 GB a layer: 10.7 GB are refused before a byte is read or sent."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("ghcr.io").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with FakeRegistry(tls=context) as registry, Tunnel(registry.host) as tunnel:
        surroundings = {"HTTPS_PROXY": f"http://{tunnel.host}", "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        pushing = Pushing(tmp_path, "ghcr.io", surroundings)
        registry.push("team/base", "1", *pushing.base())
        with open(pushing.weights(1), "r+b") as stream:
            stream.truncate(10 * 1024**3)  # a hole: no room is taken
        done = pushing.build()
        assert done.status == 6, done.err
        assert "registry ghcr.io/team/model: takes layers of at most 10000000000 bytes" in done.err
        assert [r for r in registry.requests if r.method not in ("GET", "HEAD")] == []


def test_fault_11_a_token_expires(cases: Any) -> None:
    """FAULTS 11: tokens that expire before the commit are renewed, and the same session goes on."""
    case = cases(login=True)
    case.fail(method="PUT", path="uploads", call=lambda request: case.registry.expire_tokens())
    case.fail(method="PATCH", call=lambda request: case.registry.expire_tokens())
    case.fail(method="PUT", path="manifests/v1", call=lambda request: case.registry.expire_tokens())
    case.succeeds()
    refused, taken = case.registry.asked("PATCH")
    assert (refused.status, taken.status) == (401, 202)
    commits = [request.status for request in case.registry.asked("PUT") if request.path == taken.path]
    assert refused.path == taken.path
    assert commits == [401, 201]
    assert case.sent == LAYER


def test_fault_12_no_right_to_push(case: Case) -> None:
    """FAULTS 12: 403 is 5 at once, with the registry's words."""
    denied = '{"errors":[{"code":"DENIED","message":"quota of team exceeded"}]}'
    case.fail(method="POST", path="uploads", status=403, body=denied, times=-1)
    case.ends(5, "HTTP 403: DENIED quota of team exceeded", f"{case.registry.host}/{NAME}")
    assert len(case.registry.asked("POST")) == 1


def test_fault_13_asked_to_wait(case: Case) -> None:
    """FAULTS 13: 429 with Retry-After is waited for."""
    case.fail(method="POST", path="uploads", status=429, headers={"Retry-After": "1"})
    case.fail(method="PUT", path="manifests", status=429, headers={"Retry-After": "0"})
    assert case.succeeds()["seconds"]["total"] >= 1.0


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 522])
def test_fault_14_servers_that_fail_once(case: Case, status: int) -> None:
    """FAULTS 14: what may pass is tried again, whichever request it was."""
    for method, path in (("POST", "uploads"), ("PATCH", ""), ("PUT", "uploads"), ("PUT", "manifests"), ("GET", "")):
        case.fail(method=method, path=path, status=status, headers={"Retry-After": "0"})
    case.succeeds()


@pytest.mark.parametrize("status", [501, 505])
def test_fault_14_servers_that_will_never(case: Case, status: int) -> None:
    """FAULTS 14: 501 and 505 are final: 6 after one attempt."""
    case.fail(method="PUT", path="manifests", status=status, times=-1)
    case.ends(6, f"HTTP {status}")
    assert len(case.registry.asked("PUT", "manifests")) == 1


def test_fault_16_the_registrys_disk_is_full(tmp_path: Path) -> None:
    """FAULTS 16: a real registry whose disk is full is asked a few times, then 7; the old tag is whole."""
    registry = Real(tmp_path, room=8 * MIB)
    try:
        pushing = Pushing(tmp_path, registry.host)
        pushing.seed_real(registry.host)
        pushing.weights(SIZE, seed=0)
        old = pushing.prepare()
        pushing.weights(12 * MIB, seed=1)
        done = pushing.build()
        assert done.status == 7, done.err
        line = next(line for line in done.err.splitlines() if line.startswith("error: "))
        assert re.search(rf"{re.escape(registry.host)}/{NAME}: HTTP 500: .*\(6 attempts\)$", line), line
        assert len(line) < 600
        assert "Traceback" not in done.err and "safe to run again" in done.err
        with Client() as client:
            assert str(whole_image(client.repository(Reference.parse(f"{registry.host}/{NAME}")), "v1")) == old
        # With room again (weights that fit) the same command works.
        pushing.weights(SIZE, seed=0)
        assert pushing.built()["digest"] == old
    finally:
        registry.kill()


# ------------------------------------------------------------------------------------------------ manifest


def test_fault_23_a_head_that_lies(cases: Any) -> None:
    """FAULTS 23: a layer that HEAD promises and GET does not give is sent again."""
    case = cases("lying-head")
    raw, _ = case.registry._repositories[NAME].manifests[str(case.old)]
    case.pushing.weights(SIZE, seed=0)  # the old weights again
    case.registry.drop_blob(Manifest.parse(raw).layers[1].digest)
    assert case.pushing.built()["digest"] == str(case.old)
    assert case.sent == LAYER
    assert case.whole() == case.old


def test_fault_24_a_manifest_whose_layer_is_gone(case: Case) -> None:
    """FAULTS 24: a layer that vanishes between its commit and the manifest is sent once more, by name."""

    def lose(request: object) -> None:
        home = case.registry._repositories[NAME]
        largest = max(home.blobs, key=lambda text: case.registry._file(text).stat().st_mtime * (
            case.registry._file(text).stat().st_size > MIB))  # fmt: skip
        case.registry.drop_blob(Digest.parse(largest))

    case.fail(method="PUT", path="manifests/v1", call=lose)
    case.succeeds()
    assert case.sent == 2 * LAYER


def test_fault_25_a_runtime_image_that_is_broken(case: Case) -> None:
    """FAULTS 25: what would be no valid image is said before it is pushed, not stored."""
    made, blobs = case.pushing.runtime()
    broken = Manifest.create(made.config.descriptor, made.manifest.layers[:2])
    case.registry.push(NAME, f"runtime-{case.pushing.runtime_key()}", broken, blobs)
    done = case.pushing.build()
    assert done.status != 0
    assert "Traceback" not in done.err
    assert case.whole() == case.old


def test_fault_26_another_push_to_the_same_tag(case: Case) -> None:
    """FAULTS 26: a tag that moved while we worked stays where it is: 9, with both digests."""
    other, blobs = image([(tar_of({"theirs": b"x"}), "COPY theirs")])
    case.fail(
        method="PUT", path="manifests/checkpoint", call=lambda request: case.registry.push(NAME, "v1", other, blobs)
    )
    done = case.pushing.build()
    assert done.status == 9, done.err
    assert case.old.short in done.err
    assert other.manifest.digest.short in done.err
    assert case.whole() == other.manifest.digest


def test_fault_27_immutable_tags(cases: Any) -> None:
    """FAULTS 27: an immutable tag takes the same image again, and no other: 6."""
    case = cases()
    case.registry.profile = replace(PROFILES["immutable-tags"])
    case.pushing.weights(SIZE, seed=0)
    assert case.pushing.built()["digest"] == str(case.old)
    case.pushing.weights(SIZE, seed=3)
    case.ends(6, "the tag is immutable", case.old.short)


def test_fault_28_the_children_before_the_tag(case: Case) -> None:
    """FAULTS 28: what the tag names is whole before the tag names it; the tag is the last thing written."""
    case.succeeds()
    written = [r.path for r in case.registry.requests if r.method in ("PUT", "PATCH", "POST")]
    assert written[-1].endswith("/manifests/v1")
    assert sum(path.endswith("/manifests/v1") for path in written) == 1


def test_fault_29_too_many_layers(case: Case) -> None:
    """FAULTS 29: an image of over 127 layers is refused before anything is sent: 6."""
    tars = [(tar_of({f"f{number}": b"x"}), f"RUN {number}") for number in range(125)]
    marker = (tar_of({f"app/model/{PLACEHOLDER_NAME}": PLACEHOLDER}), "COPY --link --from=checkpoint . /app/model/")
    made, blobs = image([*tars, marker, (tar_of({"app/serve.py": b"x"}), "COPY --link serve.py /app")])
    case.registry.push(NAME, f"runtime-{case.pushing.runtime_key()}", made, blobs)
    case.pushing.weights(17 * MIB, name="large.pt")  # a layer of its own beside that of the small one
    case.ends(6, "128 layers; 127 is the most")
    assert [r for r in case.registry.requests if r.method not in ("GET", "HEAD")] == []


def test_fault_31_manifests_are_asked_for_with_accept(case: Case) -> None:
    """FAULTS 31: every request for a manifest says which forms we read."""
    case.succeeds()
    asked = [r for r in case.registry.asked(path="/manifests/") if r.method in ("GET", "HEAD")]
    assert asked
    assert all("application/vnd.oci.image.index.v1+json" in r.headers["accept"] for r in asked)


def test_fault_33_two_machines_push_the_same(case: Case) -> None:
    """FAULTS 33: two machines (two state folders) that push the same image at once both succeed."""
    done: list[Done] = []
    other = Pushing(case.pushing.root, case.registry.host)
    other.state = case.pushing.root / "state-of-another"
    machines = [threading.Thread(target=lambda p=p: done.append(p.build())) for p in (case.pushing, other)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join()
    assert [d.status for d in done] == [0, 0], [d.err for d in done]
    assert len({d.document["digest"] for d in done}) == 1
    assert str(case.whole()) == done[0].document["digest"]
