"""What registries answer: read safely, and told in one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.errors import AuthenticationError, LayerkitError, RefusedError
from layerkit.oci import Digest
from layerkit.registry.answers import Answer, Fault, error_for, parse_range, retry_after, safe_text


def answer(status: int, body: bytes | str = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, body.encode() if isinstance(body, str) else body, "https://r/v2/")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-1023", 1024), ("bytes=0-1023", 1024), ("0-0", 1), (" 0-5 ", 6)]
    + [(text, None) for text in ("", None, "5-9", "0-", "-5", "0--1", "bytes 0-5/9", "0-" + "9" * 99, "٠-٥")],
)
def test_fault_5_ranges(text: str | None, expected: int | None) -> None:
    """FAULTS 3, 5: a session's Range says how many bytes there are, or nothing at all."""
    assert parse_range(text) == expected


NOW = datetime(2026, 11, 23, 5, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("120", 120.0, id="seconds"),
        pytest.param("1.5", 1.5, id="fraction"),
        pytest.param("Mon, 23 Nov 2026 05:00:30 GMT", 30.0, id="date"),
        pytest.param("Mon, 23 Nov 2026 04:00:30 GMT", 0.0, id="past"),
        pytest.param("-5", None, id="negative"),
        pytest.param("soon", None, id="word"),
        pytest.param("", None, id="empty"),
        pytest.param("9" * 400, None, id="huge"),
        pytest.param("nan", None, id="nan"),
        pytest.param(None, None, id="none"),
    ],
)
def test_fault_13_retry_after(text: str | None, expected: float | None) -> None:
    """FAULTS 13: Retry-After is read as seconds and as a date (RFC 9110, section 10.2.3)."""
    assert retry_after(text, NOW) == expected


@given(st.text())
def test_any_header_is_read(text: str) -> None:
    """Fuzzed: no Range, Retry-After, Content-Length or digest raises."""
    assert (parse_range(text) or 1) > 0
    assert (retry_after(text, NOW) or 0) >= 0
    found = answer(200, b"", content_length=text, docker_content_digest=text, content_type=text)
    assert (found.length or 0) >= 0
    assert found.digest is None or str(found.digest) == text.strip()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.integers(400, 599),
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | json_values.map(lambda value: json.dumps({"errors": value}).encode())
    | st.lists(st.fixed_dictionaries({"code": json_values, "message": json_values, "detail": json_values})).map(
        lambda value: json.dumps({"errors": value}).encode()
    ),
)
def test_fault_22_any_error_body_is_one_safe_line(status: int, body: bytes) -> None:
    """FAULTS 22, 56: whatever stands in an error, the message is one short line without control characters."""
    found = answer(status, body)
    error = error_for(found, "push x")
    assert isinstance(error, LayerkitError)
    assert len(error.message) < 500
    assert error.message.isprintable()
    assert isinstance(found.named_digests, tuple)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            '{"errors":[{"code":"DENIED","message":"no","detail":"ask ops"}]}', "DENIED no: ask ops", id="specification"
        ),
        pytest.param('{"errors":[{"code":"A","message":"b"},{"code":"C"}]}', "A b; C", id="two"),
        pytest.param('{"message":"forbidden"}', "forbidden", id="message"),
        pytest.param('{"details":"incorrect username or password"}', "incorrect username or password", id="hub-token"),
        pytest.param("<html><head><title>502 Bad\n Gateway</title>", "502 Bad Gateway", id="html"),
        pytest.param("<html><p>x", "", id="html-without-title"),
        pytest.param("plain\x1b[31m words", "plain\\x1b[31m words", id="escape"),
        pytest.param("see https://s3/b?X-Sig=canary", "see https://s3/b?…", id="query"),
        pytest.param("Authorization: Bearer abcdefgh1234", "Authorization: Bearer …", id="token"),
        pytest.param("https://ada:secret@r/x", "https://…@r/x", id="user"),
        pytest.param("jwt eyJhbGciOi.eyJzdWIi.sig", "jwt …", id="jwt"),
        pytest.param("x" * 1000, "x" * 300 + "…", id="long"),
        pytest.param("[" * 100_000, "[" * 300 + "…", id="nested"),
    ],
)
def test_fault_22_what_is_shown(body: str, expected: str) -> None:
    """FAULTS 22: the registry's words are shown, and nothing that may be secret."""
    assert answer(400, body).text == expected


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthenticationError), (403, AuthenticationError), (407, AuthenticationError)]
    + [(status, Fault) for status in (408, 429, 500, 502, 503, 504, 522)]
    + [(status, RefusedError) for status in (400, 404, 405, 409, 413, 416, 418, 501, 505)],
)
def test_fault_14_which_error_a_status_is(status: int, kind: type[LayerkitError]) -> None:
    """FAULTS 12, 14: every status has its exit status, and the message names it."""
    error = error_for(answer(status), "push x to r/a")
    assert type(error) is kind
    assert error.message == f"push x to r/a: HTTP {status}"


def test_named_digests_come_from_any_form_of_detail() -> None:
    """FAULTS 24: digests are found in details that are objects, strings, or missing."""
    one, two = Digest.of(b"1"), Digest.of(b"2")
    body = json.dumps(
        {"errors": [{"code": "X", "detail": {"digest": str(one)}}, {"code": "Y", "message": f"no {two}"}]}
    )
    assert answer(404, body).named_digests == (one, two)


def test_safe_text_is_one_line() -> None:
    """Line breaks and tabs become spaces."""
    assert safe_text("a\r\n\tb  c") == "a b c"
