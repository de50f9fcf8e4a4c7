"""Errors of the libraries below, and answers that are errors, to ours."""

import http.client
import json
import socket
import ssl
from typing import Any

import pytest
import requests
import urllib3.exceptions as urllib3_errors

import reasoning_sdk as r
from reasoning_sdk._io.translate import FOREIGN, Hide, beginning, origin, status_error, translate

pytestmark = pytest.mark.http

SECRET = "sk-very-secret-0123456789"
WHERE = "http://api.localhost:80"


def hide(**headers: str) -> Hide:
    made = Hide()
    made.learn({"Authorization": f"Bearer {SECRET}", **headers})
    return made


def error_for(
    status: int, body: Any, headers: dict[str, str] | None = None, *, now: float = 0.0
) -> r.APIStatusError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return status_error(status, headers or {}, content, hide(), now)


# -- origins and beginnings --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://Example.COM/path?q=1", "http://example.com:80"),
        ("HTTPS://example.com", "https://example.com:443"),
        ("https://example.com:8443/", "https://example.com:8443"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("http://user:password@example.com/", "http://example.com:80"),
        ("http://example.com:port/", "an address that cannot be read"),
        ("http://[bad", "an address that cannot be read"),
    ],
)
def test_an_origin_has_one_form_and_no_user(url: str, expected: str) -> None:
    assert origin(url) == expected


def test_a_beginning_is_one_short_line() -> None:
    assert beginning(b"  <html>\r\n\t<p>x\xff ") == "'<html> <p>x\N{REPLACEMENT CHARACTER}'"
    assert beginning("é" * 300) == repr("é" * 200 + "…")
    assert beginning("東".encode() * 10_000) == repr("東" * 200 + "…")
    assert beginning(b"") == "''"


# -- errors of the libraries -------------------------------------------------------------------


def wrapped(inner: BaseException) -> requests.ConnectionError:
    """As requests and urllib3 hand it over, with a request that holds a key."""
    request = requests.Request("GET", "http://x/", headers={"Authorization": SECRET}).prepare()
    outer = urllib3_errors.ProtocolError("Connection aborted.", inner)
    return requests.ConnectionError(outer, request=request)


TRANSLATIONS = [
    (requests.exceptions.InvalidURL("no host"), r.ConfigurationError, False),
    (requests.exceptions.InvalidHeader("bad header"), r.ConfigurationError, False),
    (urllib3_errors.LocationParseError("http://["), r.ConfigurationError, False),
    (OSError("Could not find a suitable TLS CA certificate bundle"), r.ConfigurationError, False),
    (requests.exceptions.SSLError(urllib3_errors.SSLError("handshake")), r.ConnectError, True),
    (requests.exceptions.ProxyError("refused"), r.ConnectError, True),
    (urllib3_errors.ConnectTimeoutError("slow"), r.ConnectTimeoutError, True),
    (requests.ReadTimeout("slow"), r.RequestTimeoutError, True),
    (urllib3_errors.ReadTimeoutError(None, "/", "slow"), r.RequestTimeoutError, True),  # type: ignore[arg-type]
    (TimeoutError("timed out"), r.RequestTimeoutError, True),
    (urllib3_errors.DecodeError("bad gzip"), r.ProtocolError, False),
    (wrapped(http.client.BadStatusLine("SSH-2.0")), r.ProtocolError, False),
    (wrapped(http.client.LineTooLong("header line")), r.ProtocolError, False),
    (wrapped(http.client.RemoteDisconnected("no answer")), r.ConnectionLostError, True),
    (wrapped(ConnectionResetError(104, "Connection reset by peer")), r.ConnectionLostError, True),
    (wrapped(http.client.IncompleteRead(b"")), r.ConnectionLostError, True),
    (BrokenPipeError(32, "Broken pipe"), r.ConnectionLostError, True),
]


@pytest.mark.parametrize(("foreign", "ours", "retryable"), TRANSLATIONS)
def test_foreign_errors_become_ours(
    foreign: BaseException, ours: type[r.ReasoningError], retryable: bool
) -> None:
    assert isinstance(foreign, FOREIGN)
    error = translate(foreign, WHERE, hide())
    assert type(error) is ours
    assert error.retryable is retryable
    assert WHERE in str(error)
    assert "\n" not in str(error)


def test_a_name_that_does_not_exist_is_a_failure_to_connect() -> None:
    inner = urllib3_errors.NameResolutionError(
        "nobody.invalid", None, socket.gaierror(-2, "Name or service not known")  # type: ignore[arg-type]
    )  # fmt: skip
    outer = urllib3_errors.MaxRetryError(None, "/", inner)  # type: ignore[arg-type]
    error = translate(requests.ConnectionError(outer), WHERE, hide())
    assert type(error) is r.ConnectError


def test_an_untrusted_certificate_is_not_worth_a_retry() -> None:
    inner = ssl.SSLCertVerificationError(1, "certificate verify failed: self signed")
    error = translate(requests.exceptions.SSLError(urllib3_errors.SSLError(inner)), WHERE, hide())
    assert type(error) is r.ConnectError
    assert error.retryable is False
    assert "cannot be trusted" in str(error)


def test_an_error_without_words_is_named() -> None:
    assert str(translate(ConnectionAbortedError(), WHERE, hide())).endswith(
        "ConnectionAbortedError"
    )


def test_a_very_long_reason_is_cut() -> None:
    assert len(str(translate(requests.RequestException("x" * 5000), WHERE, hide()))) < 400


def test_the_cause_keeps_neither_the_request_nor_what_repeats_its_secrets() -> None:
    inner = http.client.BadStatusLine(f"Authorization: Bearer {SECRET}")
    foreign = wrapped(inner)
    error = translate(foreign, WHERE, hide())
    assert foreign.request is None
    for told in (error, foreign, inner):
        assert SECRET not in f"{told!s} {told!r} {vars(told)!r}"


def test_the_password_of_a_proxy_is_not_told() -> None:
    foreign = urllib3_errors.LocationParseError("http://user:hunter2hunter2@[bad")
    assert "hunter2" not in str(translate(foreign, WHERE, hide()))


# -- answers that are errors -------------------------------------------------------------------

CLASSES = [
    (302, r.APIStatusError, False),
    (400, r.BadRequestError, False),
    (401, r.AuthenticationError, False),
    (402, r.APIStatusError, False),
    (403, r.PermissionDeniedError, False),
    (404, r.NotFoundError, False),
    (405, r.APIStatusError, False),
    (409, r.ConflictError, False),
    (418, r.APIStatusError, False),
    (422, r.UnprocessableEntityError, False),
    (429, r.RateLimitError, True),
    (500, r.ServerError, True),
    (503, r.ServerError, True),
    (599, r.ServerError, True),
]


@pytest.mark.parametrize(("status", "kind", "retryable"), CLASSES)
def test_every_status_has_its_class(status: int, kind: type, retryable: bool) -> None:
    error = error_for(status, {"error": {"message": "no"}})
    assert type(error) is kind
    assert error.status_code == status
    assert error.retryable is retryable


BODIES = [
    ({"error": {"message": "m", "code": "c", "type": "t"}}, "c", "m"),
    ({"error": {"message": "m", "type": "t", "code": None}}, "t", "m"),
    ({"error": {"message": "m", "code": 1234}}, "1234", "m"),
    ({"error": "c", "message": "m", "details": {"x": 1}}, "c", "m"),
    ({"error": "c", "message": ""}, "c", "c"),
    ({"error": "c", "message": None}, "c", "c"),
    ({"error": "c", "details": None}, "c", "c"),
    ({"error": "c", "message": "", "code": "d"}, "d", "c"),
    ({"error": 1234, "message": "m"}, "1234", "m"),
    ({"error": "", "message": ""}, None, ""),
    ({"error": None, "message": "m"}, None, "m"),
    ({"error": True, "message": "m"}, None, "m"),
    ({"error": ["m"], "details": {}}, None, "['m']"),
    ({"error": "m"}, None, "m"),
    ({"error": "m", "status": 400}, None, "m"),
    ({"code": "c", "message": "m"}, "c", "m"),
    ({"message": "m"}, None, "m"),
    ({"detail": "m"}, None, "m"),
    ({"detail": {"message": "m"}}, None, "m"),
    ({"detail": {"why": "m"}}, None, "{'why': 'm'}"),
    ({"detail": [{"loc": ["body", "input", 0], "msg": "m"}, "n"]}, None, "body.input.0: m; n"),
    ({"detail": [{"loc": "body", "msg": "m"}]}, None, "body: m"),
    ({"detail": [{"loc": 5, "msg": "m"}]}, None, "5: m"),
    ({"detail": [{"loc": None, "msg": "m"}, {"x": 1}]}, None, "m; {'x': 1}"),
    ({"error": {"message": ["a"]}}, None, "['a']"),
    ({"error": {}}, None, ""),
    ({"error": []}, None, ""),
    ([1, 2], None, ""),
    ("m", None, "m"),
    (b"m  n\r\n", None, "m n"),
    (b"<html>\n<title>502 Bad Gateway</title>", None, "<html> <title>502 Bad Gateway</title>"),
    (b"\xff\xfe", None, "\N{REPLACEMENT CHARACTER}" * 2),
    (b"", None, ""),
]


@pytest.mark.parametrize(("body", "code", "message"), BODIES)
def test_the_services_own_code_and_message_are_found(
    body: Any, code: str | None, message: str
) -> None:
    error = error_for(400, body)
    assert (error.code, error.message) == (code, message)
    assert str(error) == "400 Bad Request" + (f": {message}" if message else "")


def test_a_body_that_is_json_is_given_as_json_and_any_other_as_its_beginning() -> None:
    assert error_for(400, {"error": {"message": "m", "x": [1]}}).body["error"]["x"] == [1]
    assert error_for(400, b"x" * 5000).body == "x" * 2000


def test_the_headers_tell_the_request_id_and_the_delay() -> None:
    headers = {"x-request-id": "req_1", "retry-after": "7", "set-cookie": "a=b", "x-n": "1"}
    error = error_for(429, {"error": {"message": "m"}}, headers)
    assert str(error) == "429 Too Many Requests: m (request id req_1)"
    assert error.request_id == "req_1"
    assert error.retry_after == 7.0
    assert error.headers == {"x-request-id": "req_1", "retry-after": "7", "x-n": "1"}
    assert error_for(500, {}, {"request-id": "req_2"}).request_id == "req_2"


def test_a_status_that_nobody_knows_has_a_phrase_too() -> None:
    assert str(error_for(499, {})) == "499 unknown status"


@pytest.mark.parametrize("location", ["http://other.localhost/x?key=1", "http://[bad", ""])
def test_a_redirect_that_is_not_followed_says_so(location: str) -> None:
    error = error_for(302, b"", {"location": location})
    assert "that is not followed" in str(error)
    assert "key=1" not in str(error)


def test_json_nested_too_deeply_is_shown_as_text() -> None:
    deep = b"[" * 700 + b"]" * 700
    error = error_for(500, deep)
    assert isinstance(error.body, (str, list))
    assert type(error) is r.ServerError


# -- what must not be told ---------------------------------------------------------------------


def test_secrets_are_starred_in_every_part_of_an_error() -> None:
    body = {SECRET: [f"Bearer {SECRET}", {"x": f"the key {SECRET.upper()} is wrong"}]}
    body["error"] = {"message": f"wrong: {SECRET}", "code": SECRET}  # type: ignore[assignment]
    headers = {"x-request-id": SECRET, "x-echo": f"Bearer {SECRET}", SECRET.lower(): "x"}
    error = error_for(401, body, headers)
    told = f"{error!s} {error!r} {vars(error)!r}".lower()
    assert SECRET not in told
    assert error.message == "wrong: ***"


def test_a_secret_is_starred_before_the_text_is_cut() -> None:
    token = "t" * 40 + "u" * 3000
    made = Hide()
    made.learn({"Authorization": f"Bearer {token}"})
    error = status_error(500, {}, b"x" * 1990 + token.encode(), made, 0.0)
    assert "ttttt" not in f"{error!r} {error.body!r}"


def test_what_a_scheme_is_called_is_no_secret() -> None:
    error = error_for(401, {"error": {"message": "send a Bearer token, not Basic"}})
    assert error.message == "send a Bearer token, not Basic"


def test_words_too_short_to_be_secrets_stay() -> None:
    made = Hide()
    made.learn({"Authorization": "Bearer a", "X-Api-Key": ""})
    assert made("a cat") == "a cat"
    assert made({"a": [None, 1, 2.5, True]}) == {"a": [None, 1, 2.5, True]}


@pytest.mark.parametrize("name", ["X-Api-Key", "Cookie", "X-Auth", "x-access-token", "Password"])
def test_what_is_secret_is_told_by_the_name_of_the_header(name: str) -> None:
    made = Hide()
    made.learn({name: "abcdefgh", "X-Tenant-Id": "tenant-1"})
    assert made("abcdefgh of tenant-1") == "*** of tenant-1"
