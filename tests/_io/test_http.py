"""The transport: retries, deadlines, redirects, proxies, TLS, and what must not be told."""

import gc
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from urllib3.util.response import is_fp_closed

import reasoning_sdk as r
from reasoning_sdk._io.clock import Clock
from reasoning_sdk._io.http import (
    HTTPStream,
    HTTPTransport,
    check_event_stream,
    check_headers,
    check_url,
    is_passing,
)
from reasoning_sdk.arguments import check_seconds
from tests.support.clock import FakeClock
from tests.support.scripted import (
    Connection,
    ScriptedServer,
    answer,
    comments_for_ever,
    hang_up,
    json_answer,
    no_content,
    raw,
    redirect,
    reset,
    silence,
    sse,
)
from tests.support.threads import InThread

FUTURE = hasattr(urllib3, "AsyncPoolManager")
pytestmark = pytest.mark.http

Scripted = Callable[..., ScriptedServer]
ROOT = Path(__file__).resolve().parents[2]
SECRET = "sk-very-secret-0123456789"
QUICK = r.RetryPolicy(initial_interval=0.001, max_attempts=4)
ONCE = r.RetryPolicy(max_attempts=0)
OK = json_answer(200, {"ok": True})


Make = Callable[..., HTTPTransport]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes transports with a key and quick retries, and closes them."""
    made: list[HTTPTransport] = []

    def transport(**options: Any) -> HTTPTransport:
        options.setdefault("authenticate", lambda: {"Authorization": f"Bearer {SECRET}"})
        options.setdefault("retry", QUICK)
        made.append(HTTPTransport(**options))
        return made[-1]

    yield transport
    for transport_ in made:
        transport_.close()


@pytest.fixture
def http(make: Make) -> HTTPTransport:
    return make()


@pytest.fixture
def once(make: Make) -> HTTPTransport:
    """A transport that does not retry."""
    return make(retry=ONCE)


# -- what is checked before anything is sent ---------------------------------------------------


def test_headers_that_http_allows_pass() -> None:
    headers = {"X-Key": "a b\tc", "Empty": "", "Latin": "caf\xe9"}
    assert check_headers(headers) == headers


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\n", "é", 1, None])
def test_names_of_headers_that_http_does_not_allow_are_refused(name: Any) -> None:
    with pytest.raises(r.ConfigurationError, match="cannot be the name of a header"):
        check_headers({name: "x"})


@pytest.mark.parametrize("value", [f"{SECRET}\n", f" {SECRET}", f"{SECRET}\x00", SECRET + "東"])
def test_values_that_http_does_not_allow_are_refused_and_not_told(value: str) -> None:
    with pytest.raises(r.ConfigurationError, match="the value of header X-Key") as caught:
        check_headers({"X-Key": value})
    assert SECRET not in str(caught.value)
    with pytest.raises(r.ConfigurationError, match="must be a str, got a bytes"):
        check_headers({"X-Key": value.encode()})


def test_seconds_are_positive_or_none() -> None:
    for value in (None, 1, 0.001, 1e9):
        check_seconds("timeout", value)
    for value in (0, -1, float("nan"), float("inf"), 1e300, True, "5", []):
        with pytest.raises(r.ConfigurationError, match="timeout must be > 0 seconds or None"):
            check_seconds("timeout", value)


@pytest.mark.parametrize("option", ["timeout", "connect_timeout"])
def test_a_transport_checks_its_timeouts_and_headers(option: str) -> None:
    with pytest.raises(r.ConfigurationError, match=option):
        HTTPTransport(**{option: 0})
    with pytest.raises(r.ConfigurationError, match="X-Key"):
        HTTPTransport(headers={"X-Key": "a\nb"})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/v1", "http://h/v1"),
        ("https://h:8443/a/v1///", "https://h:8443/a/v1"),
        ("HTTP://[::1]:80", "HTTP://[::1]:80"),
    ],
)
def test_a_url_loses_its_final_slash(url: str, expected: str) -> None:
    assert check_url("url", url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "", "h/v1", "//h/v1", "ftp://h/", "http://", "http:///v1", "http://h:0/", "http://h:99999/",
        "http://h:x/", "http://[::1", "http://h/v1 ", " http://h/v1", "http://h/v1\n", "http://h /",
        b"http://h/v1", None, 7, Path("/v1"),
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: Any) -> None:
    with pytest.raises(r.ConfigurationError, match="url must be an http or https URL, got"):
        check_url("url", url)


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@h/v1", f"http://:{SECRET}@h/", f"http://{SECRET}@h/",
        f"ftp://user:{SECRET}@h/v1", f"http://h:x@{SECRET}:0/", "http://h/#x", "http://h/v1#",
    ],
)  # fmt: skip
def test_a_url_has_no_user_and_no_fragment_and_a_password_is_not_told(url: str) -> None:
    with pytest.raises(r.ConfigurationError) as caught:
        check_url("url", url, with_query=True)
    assert SECRET not in str(caught.value)


def test_a_url_has_a_query_only_where_it_may() -> None:
    assert check_url("url", "http://h/?a=1", with_query=True) == "http://h/?a=1"
    for url in ("http://h/?a=1", "http://h/v1?"):
        with pytest.raises(r.ConfigurationError, match="must have no query"):
            check_url("url", url)


# -- requests and answers ----------------------------------------------------------------------


def test_a_request_sends_exactly_what_it_is_given(scripted: Scripted, make: Make) -> None:
    server = scripted(OK)
    http = make(headers={"User-Agent": "test/1", "X-None": "1"})
    params = {"q": "ä", "id": ["1", "2"]}
    got = http.request("PUT", server.url("/a"), body=b"{}", headers={"X-A": "a"}, params=params)
    assert got.json() == {"ok": True}
    (request,) = server.requests
    assert request.raw.startswith(b"PUT /a?q=%C3%A4&id=1&id=2 HTTP/1.1\r\n")
    assert request.body == b"{}"
    assert {name.lower(): value for name, value in request.header_lines} == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "test/1",
        "accept-encoding": request.headers["accept-encoding"],
        "accept": "*/*",
        "connection": "keep-alive",
        "content-length": "2",
        "authorization": f"Bearer {SECRET}",
        "x-none": "1",
        "x-a": "a",
    }


def test_a_requests_own_headers_win_and_those_of_the_transport_win_over_authentication(
    scripted: Scripted, make: Make
) -> None:
    server = scripted([OK, OK, OK])
    make().request("GET", server.url(), headers={"authorization": "Basic mine"})
    make(headers={"AUTHORIZATION": "Basic client"}).request("GET", server.url())
    make(headers={"X-A": "client"}).request("GET", server.url(), headers={"x-a": "request"})
    assert [q.headers["authorization"] for q in server.requests] == [
        "Basic mine", "Basic client", f"Bearer {SECRET}",
    ]  # fmt: skip
    assert server.requests[2].headers["x-a"] == "request"


def test_authentication_is_asked_for_on_each_attempt(scripted: Scripted, make: Make) -> None:
    keys = iter(["first", "second"])
    server = scripted([answer(503), OK])
    http = make(authenticate=lambda: {"Authorization": next(keys)})
    http.request("GET", server.url())
    assert [q.headers["authorization"] for q in server.requests] == ["first", "second"]


def test_a_netrc_file_does_not_replace_our_key(
    scripted: Scripted, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = scripted([OK, OK])
    make().request("GET", server.url())
    make(authenticate=dict).request("GET", server.url())
    assert server.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    assert server.requests[1].headers["authorization"].startswith("Basic ")


def test_an_answer_that_is_not_json_is_shown(scripted: Scripted, http: HTTPTransport) -> None:
    server = scripted([answer(200, b"<p>hello"), answer(200, b"", content_type=None)])
    page = http.request("GET", server.url())
    assert page.body == b"<p>hello"
    with pytest.raises(r.ProtocolError, match=r"answer is not JSON but text/plain.*'<p>hello'"):
        page.json()
    assert http.request("GET", server.url()).json() is None


def test_an_answer_larger_than_it_may_be_is_not_read(
    scripted: Scripted, once: HTTPTransport
) -> None:
    server = scripted(sse(b"x" * 100_000, framing="close"), repeat_last=True)
    assert len(once.request("GET", server.url(), max_size=100_000).body) == 100_000
    with pytest.raises(r.ProtocolError, match="larger than 99999 bytes"):
        once.request("GET", server.url(), max_size=99_999)
    server.wait_no_connections()


def test_a_compressed_answer_is_measured_uncompressed(
    scripted: Scripted, once: HTTPTransport
) -> None:
    server = scripted(sse(b"x" * 5_000_000, framing="close", gzip=True))
    with pytest.raises(r.ProtocolError, match="larger than 1000 bytes"):
        once.request("GET", server.url(), max_size=1000)


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("gzip", [False, True])
def test_a_whole_answer_in_every_framing(
    scripted: Scripted, once: HTTPTransport, framing: Any, gzip: bool
) -> None:
    body = b'{"text": "' + "Grüße 東京".encode() * 5000 + b'"}'
    server = scripted(
        [sse(body, framing=framing, gzip=gzip, chunk_size=size) for size in (None, 7001)]
    )
    for _ in range(2):
        assert once.request("GET", server.url()).body == body


def test_one_connection_serves_one_request_after_another(
    scripted: Scripted, http: HTTPTransport
) -> None:
    server = scripted([OK, answer(404), no_content(), sse([b"data: x\n\n"]), OK])
    for number in range(5):
        try:
            http.request("GET", server.url())
        except r.NotFoundError:
            assert number == 1
    assert server.accepted == 1


def test_threads_that_come_and_go_find_the_connection_of_the_last(
    scripted: Scripted, http: HTTPTransport
) -> None:
    server = scripted(OK, repeat_last=True)
    for _ in range(3):
        assert InThread(lambda: http.request("GET", server.url())).raises(5.0) is None
    assert server.accepted == 1


def test_many_streams_at_once_are_no_matter_of_warning(
    scripted: Scripted, http: HTTPTransport, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted(sse([b"data: x\n\n"], gates={0: "go"}), repeat_last=True)
    streams = [http.stream("GET", server.url()) for _ in range(15)]
    server.open("go")
    for stream in streams:
        assert stream.read()
        assert stream.read() == b""
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_stream_that_is_forgotten_frees_its_connection(
    scripted: Scripted, http: HTTPTransport
) -> None:
    server = scripted(silence(first=[b"data: x\n\n"]))
    stream = http.stream("GET", server.url())
    assert stream.read()
    del stream
    gc.collect()
    server.wait_no_connections()


def test_a_failure_before_it_keeps_nothing_alive(scripted: Scripted, http: HTTPTransport) -> None:
    server = scripted([reset(), silence(first=[b"data: x\n\n"])])
    gc.disable()
    try:
        stream = http.stream("GET", server.url())
        assert stream.read()
        del stream
        server.wait_no_connections(5.0)
    finally:
        gc.enable()


# -- retries -----------------------------------------------------------------------------------

FAILURES = [answer(408), answer(429), answer(500), answer(502), answer(503), answer(599)]
FAILURES += [reset(), hang_up(), raw(b"HTTP/1.1 200 OK\r\nContent-Le")]


@pytest.mark.parametrize("failure", FAILURES)
def test_what_passes_is_tried_again(scripted: Scripted, http: HTTPTransport, failure: Any) -> None:
    server = scripted([failure, failure, OK])
    assert http.request("POST", server.url(), body=b"{}").json() == {"ok": True}
    assert [q.body for q in server.requests] == [b"{}"] * 3


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 409, 410, 422, 425, 499])
def test_what_does_not_pass_is_final(scripted: Scripted, http: HTTPTransport, status: int) -> None:
    server = scripted(answer(status))
    with pytest.raises(r.APIStatusError):
        http.request("POST", server.url())
    assert len(server.requests) == 1


def test_more_statuses_can_be_tried_again(scripted: Scripted, make: Make) -> None:
    server = scripted([answer(409), OK])
    http = make(retried_statuses=frozenset({409}))
    assert http.request("GET", server.url()).status == 200


def test_a_service_whose_own_errors_last_is_not_asked_again(scripted: Scripted, make: Make) -> None:
    server = scripted([answer(503), reset(), OK, answer(500)])
    http = make(retried_statuses=frozenset({503}), retry_server_errors=False)
    assert http.request("GET", server.url()).status == 200
    with pytest.raises(r.ServerError):
        http.request("GET", server.url())
    assert len(server.requests) == 4


def test_when_retries_are_used_up_the_last_error_is_raised(scripted: Scripted, make: Make) -> None:
    server = scripted([answer(503), reset(), json_answer(500, {"error": {"message": "the last"}})])
    http = make(retry=r.RetryPolicy(initial_interval=0.001, max_attempts=2))
    with pytest.raises(r.ServerError, match="the last"):
        http.request("GET", server.url())
    assert len(server.requests) == 3


def test_nobody_listening_is_a_failure_to_connect(
    scripted: Scripted, make: Make, fake_clock: FakeClock
) -> None:
    server = scripted()
    server.stop()
    policy = r.RetryPolicy(randomization_factor=0, max_attempts=3)
    with pytest.raises(r.ConnectError, match=f"cannot connect to {server.url()}: conn.* refused"):
        make(retry=policy, clock=fake_clock).request("GET", server.url())
    assert fake_clock.waits == [0.5, 1.0, 2.0]


def test_a_name_that_does_not_exist_is_a_failure_to_connect(once: HTTPTransport) -> None:
    with pytest.raises(r.ConnectError, match=r"cannot connect to http://nobody\.invalid:80"):
        once.request("GET", "http://nobody.invalid/")


NOW = FakeClock().time()
DELAYS = [
    ({"Retry-After": "7"}, 7.0),
    ({"Retry-After": "0"}, 0.0),
    ({"Retry-After": "1.5"}, 1.5),
    ({"Retry-After": formatdate(NOW + 30, usegmt=True)}, 30.0),
    ({"Retry-After": formatdate(NOW - 30, usegmt=True)}, 0.0),
    ({"retry-after-ms": "250"}, 0.25),
    ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
    ({"Retry-After": "3600"}, 60.0),
    ({"Retry-After": "soon"}, 0.5),
    ({"Retry-After": "-5"}, 0.0),
    ({"Retry-After": "inf"}, 0.5),
    ({}, 0.5),
]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("headers", "expected"), DELAYS)
def test_a_server_says_how_long_to_wait(
    scripted: Scripted,
    make: Make,
    fake_clock: FakeClock,
    status: int,
    headers: dict[str, str],
    expected: float,
) -> None:
    server = scripted([answer(status, headers=headers), OK])
    policy = r.RetryPolicy(randomization_factor=0, max_retry_after=60.0, max_attempts=4)
    make(retry=policy, clock=fake_clock).request("GET", server.url())
    assert fake_clock.waits == [pytest.approx(expected, abs=1e-6)]


def test_the_time_for_all_tries_is_bounded(
    scripted: Scripted, make: Make, fake_clock: FakeClock
) -> None:
    server = scripted(answer(503), repeat_last=True)
    policy = r.RetryPolicy(randomization_factor=0, max_elapsed_time=4.0)
    with pytest.raises(r.ServerError):
        make(retry=policy, clock=fake_clock).request("GET", server.url())
    assert fake_clock.waits == [0.5, 1.0, 2.0]


def test_a_stream_can_be_asked_for_without_retries(scripted: Scripted, http: HTTPTransport) -> None:
    server = scripted(answer(503))
    with pytest.raises(r.ServerError):
        http.stream("GET", server.url(), retry=False)
    assert len(server.requests) == 1


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_get_whose_answer_is_cut_is_made_again_and_a_post_is_not(
    scripted: Scripted, http: HTTPTransport, framing: Any
) -> None:
    server = scripted([sse(b'{"ok": true}', framing=framing, cut_at=5), OK])
    assert http.request("GET", server.url()).json() == {"ok": True}
    server.then(sse(b'{"ok": true}', framing=framing, cut_at=5))
    with pytest.raises(r.ConnectionLostError):
        http.request("POST", server.url())
    assert len(server.requests) == 3


def test_retries_are_logged_without_secrets(
    scripted: Scripted, http: HTTPTransport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = scripted([json_answer(503, {"error": {"message": f"busy {SECRET}"}}), OK])
    http.request("GET", server.url())
    assert any("retry 1 in" in record.getMessage() for record in caplog.records)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (r.ConnectError("x"), True),
        (r.RequestTimeoutError("x"), True),
        (r.ServerError("x", status_code=500), True),
        (r.APIStatusError("x", status_code=408), True),
        (r.RateLimitError("x", status_code=429), True),
        (r.ConflictError("x", status_code=409), False),
        (r.ProtocolError("x"), False),
        (r.StateError("x"), False),
    ],
)
def test_what_passes(error: r.ReasoningError, passes: bool) -> None:
    assert is_passing(error) is passes
    assert is_passing(r.ConflictError("x", status_code=409), frozenset({409}))
    assert not is_passing(r.ServerError("x", status_code=500), server_errors=False)
    assert is_passing(r.ServerError("x", status_code=503), frozenset({503}), server_errors=False)


# -- time --------------------------------------------------------------------------------------


def test_no_answer_in_time(scripted: Scripted, once: HTTPTransport) -> None:
    server = scripted(silence(headers=False))
    with pytest.raises(r.RequestTimeoutError, match=f"no answer from {server.url()} in time"):
        once.stream("GET", server.url(), timeout=0.05)
    server.wait_no_connections()


def test_a_whole_answer_in_time(scripted: Scripted, once: HTTPTransport) -> None:
    server = scripted([silence(first=b"{"), comments_for_ever(interval=0.01)])
    for _ in range(2):
        with pytest.raises(r.RequestTimeoutError):
            once.request("GET", server.url(), timeout=0.1)
    server.wait_no_connections()


@pytest.mark.skipif(FUTURE, reason="with urllib3-future the deadline holds per receive only")
def test_headers_that_drip_have_one_deadline(scripted: Scripted, once: HTTPTransport) -> None:
    def drip(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.send(b"X: y\r\n")
            connection.pause(0.02)

    server = scripted(drip)
    with pytest.raises(r.RequestTimeoutError):
        once.stream("GET", server.url(), timeout=0.2)


def test_redirects_share_one_deadline(scripted: Scripted, once: HTTPTransport) -> None:
    def slow_redirect(connection: Connection) -> None:
        connection.pause(0.06)
        redirect("/next")(connection)

    server = scripted(slow_redirect, repeat_last=True)
    started = time.monotonic()
    with pytest.raises(r.RequestTimeoutError):
        once.request("GET", server.url(), timeout=0.15)
    assert time.monotonic() - started < 1.0


def test_an_error_whose_body_never_ends_is_raised_with_its_beginning(
    scripted: Scripted, once: HTTPTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoning_sdk._io.http._ERROR_BODY_SECONDS", 0.1)
    server = scripted(sse([b"it is all"], status=400, content_type="text/plain", then="silence"))
    with pytest.raises(r.BadRequestError, match="400 Bad Request: it is all"):
        once.request("GET", server.url())
    server.wait_no_connections()


def test_only_the_beginning_of_a_large_error_is_read(
    scripted: Scripted, once: HTTPTransport
) -> None:
    def endless(connection: Connection) -> None:
        connection.headers(500, {"Connection": "close"})
        while True:
            connection.send(b"x" * 65536)

    server = scripted(endless)
    with pytest.raises(r.ServerError) as caught:
        once.request("GET", server.url())
    assert len(caught.value.body) == 2000
    server.wait_no_connections()


def test_an_error_that_is_cut_is_still_that_error(scripted: Scripted, once: HTTPTransport) -> None:
    server = scripted(sse([b"wrong model"], status=404, content_type=None, cut_at=5, then="reset"))
    with pytest.raises(r.NotFoundError):
        once.request("GET", server.url())


# -- what cannot be read -----------------------------------------------------------------------

UNREADABLE = [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 two hundred\r\n\r\n", b"\x15\x03\x01\x00\x02"]


@pytest.mark.parametrize("wire", UNREADABLE)
def test_what_is_not_http(scripted: Scripted, http: HTTPTransport, wire: bytes) -> None:
    server = scripted(raw(wire), repeat_last=True)
    with pytest.raises((r.ProtocolError, r.ConnectionLostError)):
        http.request("GET", server.url())
    server.wait_no_connections()


STATUS_LINE = b"HTTP/1.1 200"


@pytest.mark.parametrize("size", range(len(STATUS_LINE) + 1))
def test_an_answer_that_is_cut_in_its_first_bytes_is_asked_for_again(
    scripted: Scripted, http: HTTPTransport, size: int
) -> None:
    server = scripted([raw(STATUS_LINE[:size]), OK])
    assert http.request("POST", server.url()).json() == {"ok": True}


@pytest.mark.skipif(FUTURE, reason="urllib3-future does not tell such answers from lost ones")
@pytest.mark.parametrize("wire", [b"SSH-2.0", b"HTTP/1.1 0", b"HTTP/1.1 2\r\n", b"HTTP/1.1 2x"])
def test_what_is_no_beginning_of_an_answer_is_not_asked_for_again(
    scripted: Scripted, http: HTTPTransport, wire: bytes
) -> None:
    server = scripted(raw(wire))
    with pytest.raises(r.ProtocolError):
        http.request("GET", server.url())


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_a_broken_content_coding(scripted: Scripted, once: HTTPTransport, framing: Any) -> None:
    body = sse(b"not gzip at all", framing=framing, headers={"Content-Encoding": "gzip"})
    with pytest.raises(r.ProtocolError, match="cannot be read"):
        once.request("GET", scripted(body).url())


def test_tls_spoken_to_a_server_that_does_not(scripted: Scripted, once: HTTPTransport) -> None:
    server = scripted(raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), timeout=1.0)
    server._serve = lambda connection: (
        connection.send(b"HTTP/1.1 400 No\r\n\r\n"),
        connection.close(),
    )  # type: ignore[method-assign]
    with pytest.raises(r.ConnectError):
        once.request("GET", server.url().replace("http:", "https:"))


# -- redirects ---------------------------------------------------------------------------------

SECRETS = {"X-Api-Key": "api-key-0123456789", "X-Tenant": "tenant", "Cookie": "session=cookie-012"}
HARMLESS = {
    "accept", "accept-encoding", "connection", "content-length", "content-type", "host",
    "idempotency-key", "user-agent",
}  # fmt: skip


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_get_follows_a_redirect_at_home_with_credentials(
    scripted: Scripted, make: Make, status: int
) -> None:
    server = scripted()
    server.then(redirect("../b?x=1", status), redirect(server.url("/c#part"), status), OK)
    assert make(headers=SECRETS).request("GET", server.url("/a/a"), params={"q": "1"}).status == 200
    assert [q.target for q in server.requests] == ["/a/a?q=1", "/b?x=1", "/c"]
    for request in server.requests:
        assert request.headers["authorization"] == f"Bearer {SECRET}"
        assert request.headers["x-api-key"] == SECRETS["X-Api-Key"]


@pytest.mark.parametrize("status", [307, 308])
def test_a_post_follows_only_what_keeps_it_a_post(
    scripted: Scripted, once: HTTPTransport, status: int
) -> None:
    server = scripted([redirect("/b", status), OK])
    once.request("POST", server.url("/a"), body=b"body")
    assert [(q.method, q.body) for q in server.requests] == [("POST", b"body")] * 2


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_any_other_redirect_of_a_post_is_an_error(
    scripted: Scripted, http: HTTPTransport, status: int, method: str
) -> None:
    server = scripted(answer(status, headers={"Location": "http://else.localhost/b"}))
    with pytest.raises(r.APIStatusError, match="not followed") as caught:
        http.request(method, server.url("/a"))
    assert caught.value.status_code == status
    assert "http://else.localhost:80" in str(caught.value)


def elsewhere(server: ScriptedServer) -> list[str]:
    """The server under names that are another origin than http://127.0.0.1 and its port."""
    port = server.port
    return [
        server.url("/x", host="localhost"),
        server.url("/x", host="other.localhost"),
        f"http://other.localhost:{port}\\@127.0.0.1:{{home}}/x",
        f"//localhost:{port}/x",
        f"http://user:password@localhost:{port}/x",
    ]


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_origin_sees_no_credentials(
    scripted: Scripted, make: Make, way: int, method: str
) -> None:
    home, other = scripted(), scripted(OK)
    home.then(redirect(elsewhere(other)[way].replace("{home}", str(home.port)), 307))
    http = make(headers=SECRETS)
    http.request(
        method, home.url("/"), body=b"{}", headers={"X-Own": "own-0123", "Idempotency-Key": "i"}
    )
    (request,) = other.requests
    assert {name.lower() for name, _ in request.header_lines} <= HARMLESS
    for secret in (SECRET, *SECRETS.values(), "own-0123"):
        assert secret.encode() not in request.raw
    assert request.method == method
    assert request.body == b"{}"


def test_another_port_is_another_origin_and_home_again_is_home(
    scripted: Scripted, make: Make
) -> None:
    home, other = scripted(), scripted()
    other.then(redirect(home.url("/back"), 307))
    home.then(redirect(other.url("/there"), 307), OK)
    make(headers=SECRETS).request("GET", home.url("/"))
    assert "authorization" not in other.requests[0].headers
    assert home.requests[1].headers["authorization"] == f"Bearer {SECRET}"


def test_what_a_session_holds_stays_at_home_too(scripted: Scripted, make: Make) -> None:
    home, other = scripted(), scripted(OK)
    home.then(redirect(home.url("/more"), 307), redirect(other.url("/there"), 307))
    with requests.Session() as session:
        session.auth = ("user", "password-0123")
        session.params = {"api_key": "param-0123"}
        session.headers["X-Session"] = "session-0123"
        session.cookies.set("cookie", "cookie-0123")
        make(authenticate=dict, session=session).request("GET", home.url("/"))
    assert [q.target for q in home.requests] == ["/?api_key=param-0123", "/more"]
    for request in home.requests:
        assert request.headers["authorization"].startswith("Basic ")
        assert request.headers["cookie"] == "cookie=cookie-0123"
    (request,) = other.requests
    assert request.target == "/there"
    assert {name.lower() for name, _ in request.header_lines} <= HARMLESS


def test_another_origin_cannot_challenge_a_session_into_answering(
    scripted: Scripted, make: Make
) -> None:
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
    home, other = scripted(), scripted(answer(401, headers={"WWW-Authenticate": challenge}))
    home.then(redirect(other.url("/there"), 307))
    with requests.Session() as session:
        session.auth = requests.auth.HTTPDigestAuth("user", "password-0123")
        with pytest.raises(r.AuthenticationError):
            make(authenticate=dict, session=session).request("GET", home.url("/"))
    assert len(other.requests) == 1


def test_cookies_of_home_are_not_shown_elsewhere(scripted: Scripted, make: Make) -> None:
    home, other = scripted(), scripted(OK, repeat_last=True)
    cookie = {"Set-Cookie": "sticky=cookie-0123", "Location": other.url("/there")}
    home.then(answer(307, headers=cookie), redirect(other.url("/there"), 307))
    http = make()
    for _ in range(2):
        http.request("GET", home.url("/"))
    assert all("cookie" not in request.headers for request in other.requests)


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_origin_hears_nothing_where_that_is_asked(
    scripted: Scripted, make: Make, way: int, method: str
) -> None:
    home, other = scripted(), scripted()
    target = elsewhere(other)[way].replace("{home}", str(home.port)) + "?code=code-0123"
    html = b"<html>307 Temporary Redirect</html>"
    home.then(redirect("/b", 307), answer(307, html, headers={"Location": target}))
    with pytest.raises(r.APIStatusError, match=r"307 .*a redirect to http.*not followed") as caught:
        make(follow_elsewhere=False).request(method, home.url("/"), body=b"{}")
    assert f":{other.port} that" in str(caught.value)
    assert "code-0123" not in str(vars(caught.value)) + str(caught.value)
    assert [request.path for request in home.requests] == ["/", "/b"]
    assert other.accepted == 0


def test_from_https_to_http_is_not_followed(
    scripted: Scripted, http: HTTPTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure, plain = scripted(tls=True), scripted()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(secure.ca_file))
    secure.then(redirect(plain.url("/"), 307), redirect(plain.url("/"), 307))
    for url in (secure.url("/"), secure.url("/").replace("https", "HTTPS")):
        with pytest.raises(r.APIStatusError, match=r"307 .*not followed"):
            http.request("GET", url)
    assert plain.requests == []


@pytest.mark.parametrize(
    "location", ["http://[bad", "ftp://127.0.0.1/", "file:///etc/passwd", "javascript:x"]
)
def test_where_nobody_can_go_is_not_followed(
    scripted: Scripted, http: HTTPTransport, location: str
) -> None:
    server = scripted(redirect(location, 307))
    with pytest.raises(r.APIStatusError, match=r"307 .*not followed"):
        http.request("GET", server.url("/"))


def test_a_redirect_that_says_not_where_is_an_error(
    scripted: Scripted, http: HTTPTransport
) -> None:
    with pytest.raises(r.APIStatusError, match="307 Temporary Redirect"):
        http.request("GET", scripted(answer(307)).url("/"))


@pytest.mark.skipif(FUTURE, reason="urllib3-future does not tell the bytes of a header")
def test_a_path_in_utf_8_is_followed(scripted: Scripted, http: HTTPTransport) -> None:
    def redirects(connection: Connection) -> None:
        connection.send(
            "HTTP/1.1 302 Found\r\nLocation: /東京\r\nContent-Length: 0\r\n\r\n".encode()
        )

    server = scripted([redirects, OK])
    http.request("GET", server.url("/"))
    assert server.requests[1].path == "/%E6%9D%B1%E4%BA%AC"


def test_redirects_in_a_circle_end(scripted: Scripted, http: HTTPTransport) -> None:
    server = scripted(redirect("/again"), repeat_last=True)
    with pytest.raises(r.ProtocolError, match="more than 10 redirects"):
        http.request("GET", server.url("/"))
    assert len(server.requests) == 10


def test_a_redirect_with_an_endless_body_is_followed_at_once(
    scripted: Scripted, once: HTTPTransport
) -> None:
    def endless(connection: Connection) -> None:
        connection.headers(307, {"Location": "/next", "Transfer-Encoding": "chunked"})
        while True:
            connection.chunk(b"x" * 1000)
            connection.pause(0.005)

    server = scripted([endless, OK])
    assert once.request("GET", server.url("/"), timeout=5.0).status == 200
    once.close()
    server.wait_no_connections()


# -- TLS and proxies ---------------------------------------------------------------------------


def test_a_bundle_of_the_environment_is_trusted(
    scripted: Scripted, once: HTTPTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted([OK, sse([b"data: x\n\n"], one_chunk_per_event=True), OK], tls=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_file))
    assert once.request("GET", server.url()).status == 200
    assert b"".join(once.stream("GET", server.url())) == b"data: x\n\n"
    assert once.request("GET", server.url()).status == 200
    assert server.accepted == 1


def test_an_untrusted_certificate_is_refused_at_once(
    scripted: Scripted, make: Make, fake_clock: FakeClock
) -> None:
    server = scripted(tls=True)
    with pytest.raises(r.ConnectError, match=r"the certificate of .* cannot be trusted") as caught:
        make(clock=fake_clock).request("GET", server.url())
    assert caught.value.retryable is False
    assert fake_clock.waits == []
    assert server.requests == []


def test_a_certificate_for_another_name_is_refused(
    scripted: Scripted, once: HTTPTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(tls=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_file))
    with pytest.raises(r.ConnectError, match="cannot be trusted"):
        once.request("GET", server.url(host="wrong.localhost"))


def test_a_bundle_that_is_not_there_is_a_matter_of_configuration(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, fake_clock: FakeClock
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(r.ConfigurationError, match=r"/nowhere/ca.pem"):
        make(clock=fake_clock).request("GET", scripted(tls=True).url())
    assert fake_clock.waits == []


def test_a_stream_over_tls_is_closed_from_another_thread(
    scripted: Scripted, once: HTTPTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(silence(first=[b"data: x\n\n"]), tls=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_file))
    stream = once.stream("GET", server.url())
    assert stream.read() == b"data: x\n\n"
    reading = InThread(stream.read)
    stream.close()
    assert reading.raises() is None
    assert reading.value == b""
    server.wait_no_connections()


def test_a_proxy_of_the_environment_is_used_and_some_hosts_are_not(
    scripted: Scripted, once: HTTPTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, direct = scripted(OK), scripted(OK)
    monkeypatch.setenv("HTTP_PROXY", proxy.url().replace("//", "//user:proxy-password@"))
    monkeypatch.setenv("http_proxy", proxy.url().replace("//", "//user:proxy-password@"))
    once.request("GET", "http://api.localhost/v1")
    assert proxy.requests[0].target == "http://api.localhost/v1"
    assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
    assert proxy.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    once.request("GET", direct.url())
    assert len(proxy.requests) == 1
    assert "proxy-authorization" not in direct.requests[0].headers


def through(connection: Connection) -> None:
    connection.headers(200, reason="Connection established")
    connection.start_tls()


def test_https_goes_through_a_proxy_that_sees_no_credentials(
    scripted: Scripted, once: HTTPTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = scripted([through, OK, silence(first=[b"data: x\n\n"])])
    monkeypatch.setenv("HTTPS_PROXY", proxy.url())
    monkeypatch.setenv("https_proxy", proxy.url())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(scripted(tls=True).ca_file))
    assert once.request("GET", "https://api.localhost/v1").status == 200
    connect, behind = proxy.requests
    assert connect.target == "api.localhost:443"
    assert "authorization" not in connect.headers
    assert behind.headers["authorization"] == f"Bearer {SECRET}"
    stream = once.stream("GET", "https://api.localhost/v1")
    assert stream.read() == b"data: x\n\n"
    reading = InThread(stream.read)
    stream.close()
    assert reading.raises() is None
    proxy.wait_no_connections()


@pytest.mark.parametrize("status", [407, 502])
def test_a_proxy_that_refuses_is_a_failure_to_connect(
    scripted: Scripted, once: HTTPTransport, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    proxy = scripted(answer(status, headers={"Connection": "close"}))
    monkeypatch.setenv("https_proxy", proxy.url().replace("//", "//user:proxy-password@"))
    with pytest.raises(r.ConnectError, match=str(status)) as caught:
        once.request("GET", "https://api.localhost/v1")
    assert "proxy-password" not in everything(caught.value)


@pytest.mark.parametrize(
    "proxy", ["http://user:proxy-password@[bad", "http://user:proxy-password@h:x"]
)
def test_a_proxy_that_cannot_be_is_a_matter_of_configuration(
    once: HTTPTransport, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises((r.ConfigurationError, r.ConnectError)) as caught:
        once.request("GET", "http://api.localhost/v1")
    assert "proxy-password" not in f"{caught.value} {caught.value!r}"


# -- what must not be told ---------------------------------------------------------------------


def everything(error: BaseException) -> str:
    """All that an error could show to somebody."""
    told = "".join(traceback.format_exception(error))
    while error is not None:
        told += f"{error!s}\n{error!r}\n{error.args!r}\n"
        if isinstance(error, r.ReasoningError):
            told += (
                repr(vars(error))
                + repr(pickle.dumps(error, protocol=0))
                + repr(pickle.dumps(error))
            )
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return told.lower()


def echo(status: int, content_type: str) -> Callable[[Connection], None]:
    """Sends the request's credentials back, wherever they fit."""

    def handle(connection: Connection) -> None:
        key = connection.request.headers["authorization"]
        own = connection.request.headers["x-api-key"]
        obj: Any = {"error": {"message": f"{key} {own}", "code": own, key: [own]}, "detail": key}
        json_answer(
            status,
            obj,
            {"X-Request-Id": key, "X-Echo": own, own: "x", "Content-Type": content_type},
        )(connection)

    return handle


@pytest.mark.parametrize("status", [400, 401, 429, 500])
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_server_that_repeats_credentials_does_not_get_them_into_an_error(
    scripted: Scripted, make: Make, caplog: pytest.LogCaptureFixture, status: int, kind: str
) -> None:
    caplog.set_level(logging.DEBUG)
    server = scripted(echo(status, kind), repeat_last=True)
    http = make(retry=r.RetryPolicy(initial_interval=0.001, max_attempts=1), headers=SECRETS)
    with pytest.raises(r.APIStatusError) as caught:
        http.request("GET", server.url())
    for secret in (SECRET, SECRETS["X-Api-Key"]):
        assert secret not in everything(caught.value)
        assert secret not in caplog.text


def test_an_answer_that_cannot_be_read_does_not_tell_credentials_either(
    scripted: Scripted, make: Make
) -> None:
    def page(connection: Connection) -> None:
        key = connection.request.headers["authorization"]
        answer(200, b"<p>" * 60 + key.encode(), content_type=f"text/html; {key}")(connection)

    def not_http(connection: Connection) -> None:
        connection.send(connection.request.headers["authorization"].encode() + b"\r\n\r\n")
        connection.close()

    def bad_chunk(connection: Connection) -> None:
        key = connection.request.headers["authorization"].encode()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + key + b"\r\n")
        connection.close()

    server = scripted([page, page, not_http, bad_chunk])
    http = make(retry=ONCE)
    for attempt in (
        lambda: http.request("GET", server.url()).json(),
        lambda: check_event_stream(http.stream("GET", server.url())),
        lambda: http.request("GET", server.url()),
        lambda: http.request("GET", server.url()),
    ):
        with pytest.raises((r.ProtocolError, r.ConnectionLostError)) as caught:
            attempt()
        assert SECRET not in everything(caught.value)


def test_the_frames_of_other_libraries_do_not_keep_credentials(
    scripted: Scripted, once: HTTPTransport
) -> None:
    with pytest.raises(r.ConnectionLostError) as caught:
        once.request("GET", scripted(reset()).url())
    error: BaseException | None = caught.value
    while error is not None:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        for frame in shown.stack:
            if "site-packages" in frame.filename:
                assert SECRET not in str(frame.locals)
        error = error.__cause__ or error.__context__


def test_what_a_session_adds_is_not_told_either(scripted: Scripted, make: Make) -> None:
    server = scripted(echo(400, "application/json"))
    with requests.Session() as session:
        session.headers.update({"X-Api-Key": SECRETS["X-Api-Key"], "Authorization": SECRET})
        with pytest.raises(r.BadRequestError) as caught:
            make(authenticate=dict, session=session).request("GET", server.url())
    for secret in (SECRET, SECRETS["X-Api-Key"]):
        assert secret not in everything(caught.value)


# -- event streams -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["text/event-stream", "text/event-stream; charset=utf-8", "TEXT/Event-Stream ;x=y"]
)
def test_an_event_stream_passes(scripted: Scripted, once: HTTPTransport, kind: str) -> None:
    server = scripted(sse([b"data: x\n\n"], content_type=kind))
    with once.stream("GET", server.url()) as stream:
        check_event_stream(stream)
        assert stream.read() == b"data: x\n\n"


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (
            answer(200, b"<html> no", content_type="text/html"),
            "content type text/html, body '<html> no'",
        ),
        (
            json_answer(201, {"a": 1}),
            "status 201, content type application/json, body '{\"a\": 1}'",
        ),
        (sse([b"x"], content_type=None), "content type missing, body 'x'"),
        (no_content(), "status 204, content type missing, body ''"),
        (answer(200, b"\xff\x00" * 9999, content_type="image/png"), "content type image/png"),
    ],
)
def test_what_is_no_event_stream_is_shown(
    scripted: Scripted, once: HTTPTransport, handler: Any, said: str
) -> None:
    with pytest.raises(r.ProtocolError, match="answer is no event stream") as caught:
        check_event_stream(once.stream("GET", scripted(handler).url()))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_what_is_no_event_stream_and_never_ends_is_shown_soon(
    scripted: Scripted, once: HTTPTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoning_sdk._io.http._SHOWN_SECONDS", 0.1)
    server = scripted(sse([b"x"], content_type="text/plain", then="silence"))
    with pytest.raises(r.ProtocolError, match="body 'x'"):
        check_event_stream(once.stream("GET", server.url()))
    server.wait_no_connections()


# -- to read and to close ----------------------------------------------------------------------


def test_bytes_are_seen_when_they_arrive(scripted: Scripted, once: HTTPTransport) -> None:
    for options in ({}, {"gzip": True}, {"framing": "close"}, {"framing": "close", "gzip": True}):
        server = scripted(sse([b"data: 1\n\n", b"data: 2\n\n"], gates={1: "more"}, **options))
        with once.stream("GET", server.url()) as stream:
            assert stream.read() == b"data: 1\n\n"
            server.open("more")
            assert b"".join(stream) == b"data: 2\n\n"


def test_a_stream_of_somebody_elses_answer(scripted: Scripted) -> None:
    server = scripted(sse([b"data: 1\n\n"] * 3, one_chunk_per_event=True))
    with requests.Session() as session:
        response = session.get(server.url(), stream=True, timeout=5.0)
        assert b"".join(HTTPStream.over(response)) == b"data: 1\n\n" * 3


@pytest.mark.skipif(FUTURE, reason="urllib3-future does not tell the timeout of an answer")
def test_somebody_elses_answer_has_its_own_timeout(scripted: Scripted) -> None:
    server = scripted(silence())
    with requests.Session() as session:
        response = session.get(server.url(), stream=True, timeout=0.05)
        with pytest.raises(r.RequestTimeoutError):
            list(HTTPStream.over(response))
    server.wait_no_connections()


def test_a_close_wakes_who_reads(scripted: Scripted, once: HTTPTransport) -> None:
    server = scripted([silence(), sse([], framing="close", then="silence")])
    for _ in range(2):
        stream = once.stream("GET", server.url())
        reading = InThread(stream.read)
        stream.close()
        stream.close()
        assert reading.raises() is None
        assert reading.value == b""
    server.wait_no_connections()


def test_a_stream_can_be_closed_by_whoever_it_interrupts(
    scripted: Scripted, once: HTTPTransport
) -> None:
    """As a signal handler does: in the thread that reads, in the middle of the read."""
    server = scripted(silence())
    stream = once.stream("GET", server.url())
    receive = stream._receive

    def interrupted() -> bytes:
        stream.close()
        return receive()

    stream._receive = interrupted  # type: ignore[method-assign]
    assert stream.read() == b""
    server.wait_no_connections()


def test_a_late_close_does_not_cut_the_next_request(
    scripted: Scripted, once: HTTPTransport
) -> None:
    server = scripted([sse([b"data: 1\n\n"]), silence(first=[b"data: 2\n\n"])])
    first = once.stream("GET", server.url())
    assert b"".join(first) == b"data: 1\n\n"
    second = once.stream("GET", server.url())
    first.close()
    assert second.read() == b"data: 2\n\n"
    second.close()
    assert server.accepted == 1


class TellingClock(Clock):
    """Tells when somebody is about to wait."""

    def __init__(self) -> None:
        self.waits = threading.Event()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.set()
        return super().wait(event, seconds)


def test_a_close_of_the_transport_ends_everything(scripted: Scripted, make: Make) -> None:
    clock = TellingClock()
    http = make(retry=r.RetryPolicy(initial_interval=60.0), clock=clock)
    server = scripted([silence(), silence(headers=False), silence(first=b"{"), answer(503)])
    reading = InThread(http.stream("GET", server.url()).read)
    asking = [InThread(lambda: http.request("POST", server.url())) for _ in range(2)]
    server.wait_for_requests(3)
    waiting = InThread(lambda: http.request("GET", server.url()))
    assert clock.waits.wait(5.0)
    http.close()
    http.close()
    assert http.closed
    assert reading.raises() is None
    assert isinstance(waiting.raises(), r.StateError)
    for thread in asking:
        assert isinstance(thread.raises(), (r.StateError, r.ConnectionLostError))
    server.wait_no_connections()
    with pytest.raises(r.StateError, match="closed"):
        http.request("GET", server.url())
    with pytest.raises(r.StateError, match="closed"):
        http.wait(0.0)


def test_an_interruption_frees_the_connection(
    scripted: Scripted, once: HTTPTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(silence(), repeat_last=True)
    stream = once.stream("GET", server.url())

    def interrupted() -> bytes:
        raise KeyboardInterrupt

    stream._receive = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stream.read()
    server.wait_no_connections()


@pytest.mark.parametrize("own", [True, False], ids=["our session", "the user's session"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_an_interruption_when_the_answer_is_whole_leaves_its_connection_alone(
    scripted: Scripted,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    framing: Any,
    own: bool,
) -> None:
    server = scripted(sse([b"data: x\n\n"], framing=framing), repeat_last=True)
    read1 = urllib3.HTTPResponse.read1

    def interrupted(raw: Any, *args: Any, **kwargs: Any) -> bytes:
        data = read1(raw, *args, **kwargs)
        if is_fp_closed(raw._fp):
            raise KeyboardInterrupt
        return data

    with requests.Session() as session:
        http = make(retry=ONCE, session=None if own else session)
        stream = http.stream("GET", server.url())
        with monkeypatch.context() as patch:
            patch.setattr(urllib3.HTTPResponse, "read1", interrupted)
            with pytest.raises(KeyboardInterrupt):
                b"".join(stream)
        assert b"".join(http.stream("GET", server.url())) == b"data: x\n\n"
    assert server.accepted == 1


def test_a_signal_handler_may_close_the_transport_that_it_interrupts_closing(make: Make) -> None:
    http, closes = make(), 0

    def close_again(frame: Any, *_: Any) -> None:
        nonlocal closes
        closes += 1
        http.close()

    closing = InThread(lambda: (sys.setprofile(close_again), http.close()))
    assert closing.raises(5.0) is None
    assert closes
    assert http.closed


@pytest.mark.skipif(FUTURE, reason="urllib3-future has pools of another kind")
@pytest.mark.parametrize("moment", range(8))
def test_a_signal_handler_may_close_the_transport_as_a_connection_is_put_back(
    scripted: Scripted, make: Make, moment: int
) -> None:
    server = scripted(OK, repeat_last=True)
    http, moments = make(), 0

    def close(frame: Any, *_: Any) -> None:
        """As if a signal came at one of the calls and returns that this takes."""
        nonlocal moments
        callers = (frame.f_back, frame.f_back and frame.f_back.f_back)
        if any(each is not None and each.f_code.co_name == "_put_conn" for each in callers):
            if moments == moment:
                http.close()
            moments += 1

    closing = InThread(lambda: (sys.setprofile(close), http.request("GET", server.url())))
    assert isinstance(closing.raises(5.0), (r.StateError, type(None)))
    assert moments
    http.close()
    server.wait_no_connections()


def test_a_transport_that_is_closed_while_an_answer_begins_gives_no_stream(
    scripted: Scripted, make: Make
) -> None:
    http = make()
    follow = http._follow

    def closed_meanwhile(*args: Any) -> HTTPStream:
        stream = follow(*args)
        http.close()
        return stream

    http._follow = closed_meanwhile  # type: ignore[method-assign]
    server = scripted(silence())
    with pytest.raises(r.StateError, match="closed"):
        http.stream("GET", server.url())
    server.wait_no_connections()


# -- forks -------------------------------------------------------------------------------------

FORK = """
import os, sys
from reasoning_sdk._io.http import HTTPTransport
url = sys.argv[1]
http = HTTPTransport()
assert http.request("GET", url).body == b"parent"       # leaves its connection open
stream = http.stream("GET", url)
assert stream.read() == b"data: 1\\n\\n"
child = os.fork()
if child == 0:
    assert http.request("GET", url).body == b"child"
    stream.close()
    http.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert http.request("GET", url + "?open").body == b"parent again"
assert stream.read() == b"data: 2\\n\\n"
http.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_makes_its_own_connections(scripted: Scripted) -> None:
    server = scripted()
    server.then(
        answer(200, b"parent"),
        sse([b"data: 1\n\n", b"data: 2\n\n"], gates={1: "more"}),
        answer(200, b"child"),
        lambda connection: (connection.open("more"), answer(200, b"parent again")(connection)),
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, server.url("/")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert server.requests[2].connection not in {
        request.connection for number, request in enumerate(server.requests) if number != 2
    }


# -- connections that are in other hands, or not ready yet -------------------------------------


@pytest.mark.parametrize("own", [True, False], ids=["our session", "the user's session"])
def test_a_late_close_of_a_whole_answer_leaves_its_connection_alone(
    scripted: Scripted, make: Make, own: bool
) -> None:
    server = scripted(sse([b"data: x\n\n"], framing="length"), repeat_last=True)
    with requests.Session() as session:
        http = make(retry=ONCE, session=None if own else session)
        first = http.stream("GET", server.url())
        assert first.read() == b"data: x\n\n"  # all of it, and its end is not read
        second = http.stream("GET", server.url())
        first.close()
        assert b"".join(second) == b"data: x\n\n"
        assert b"".join(http.stream("GET", server.url())) == b"data: x\n\n"


def stalled_proxy(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    proxy = scripted(silence(headers=False), repeat_last=True)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url(""))
    monkeypatch.setenv("NO_PROXY", "")
    return proxy


def test_a_proxy_that_does_not_answer_has_the_time_of_a_connection(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled_proxy(scripted, monkeypatch)
    http = make(retry=ONCE, connect_timeout=0.2, timeout=20.0)
    began = time.monotonic()
    with pytest.raises(r.ConnectTimeoutError):
        http.request("GET", "https://api.localhost:1/")
    assert time.monotonic() - began < 5.0


@pytest.mark.skipif(FUTURE, reason="urllib3-future makes its connections another way")
def test_a_close_wakes_who_waits_for_a_proxy(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = stalled_proxy(scripted, monkeypatch)
    http = make(connect_timeout=20.0, timeout=20.0)
    waiting = InThread(lambda: http.request("GET", "https://api.localhost:1/"))
    proxy.wait_for_requests(1)
    http.close()
    assert isinstance(waiting.raises(), r.StateError)


@pytest.mark.skipif(FUTURE, reason="urllib3-future makes its connections another way")
def test_a_close_wakes_who_waits_for_a_handshake(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        http = make(connect_timeout=20.0, timeout=20.0)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        waiting = InThread(lambda: http.request("GET", url))
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(1)  # the handshake has begun
            http.close()
            assert isinstance(waiting.raises(), r.StateError)


def test_what_a_query_keeps_secret_is_not_told(make: Make) -> None:
    url = f"http://127.0.0.1:1/e?api_key={SECRET}&page=2"
    with pytest.raises(r.ConnectError) as caught:
        make(retry=ONCE, authenticate=dict).request("GET", url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_cookie_that_the_server_repeats_is_not_told(scripted: Scripted, make: Make) -> None:
    server = scripted(json_answer(401, {"error": "no such session: cookie-of-the-user"}))
    with requests.Session() as session:
        session.cookies.set("first", "cookie-of-the-user")
        session.cookies.set("second", "another-one")
        with pytest.raises(r.AuthenticationError) as caught:
            make(retry=ONCE, session=session).request("GET", server.url())
    assert "cookie-of-the-user" not in str(caught.value) + repr(caught.value.body)


@pytest.mark.skipif(FUTURE, reason="urllib3-future takes any number of headers")
def test_headers_without_end_are_an_error_of_the_protocol(scripted: Scripted, make: Make) -> None:
    lines = b"".join(b"X-%d: y\r\n" % number for number in range(200))
    server = scripted(raw(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n"))
    with pytest.raises(r.ProtocolError):
        make(retry=ONCE).request("GET", server.url())
