"""POSTs to few addresses: what is sent, what counts as taken, and what of it all may be told."""

import base64
import logging
import os
import pickle
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

import reasoning_sdk as r
from reasoning_sdk._io.post import Poster, Recipient
from tests.support.clock import FakeClock
from tests.support.scripted import (
    Connection,
    Handler,
    ScriptedServer,
    answer,
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
Make = Callable[..., Poster]
SECRET = "sig-very-secret-0123456789"
KEY = "6b1c7c9e-0b0d-4c62-9f0e-000000000001"
OK = json_answer(200, {"ok": True})
KINDS = ["ours", "theirs"]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Poster] = []

    def poster(kind: str = "ours", **options: Any) -> Poster:
        factory = {"ours": None, "theirs": requests.Session}[kind]
        made.append(Poster(**{"session_factory": factory, **options}))
        return made[-1]

    yield poster
    for poster_ in made:
        poster_.close()


def to(url: str, **headers: str) -> Recipient:
    return Recipient(
        url=url,
        headers={
            "User-Agent": "a-test",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            **headers,
        },
    )


def signed(url: str) -> Recipient:
    return to(url, **{"X-VIEWER-SIGNATURE": SECRET})


def fails(
    kind: type[BaseException], poster: Poster, recipient: Recipient, body: bytes = b"{}"
) -> Any:
    with pytest.raises(kind) as caught:
        poster.post(recipient, KEY, body)
    return caught.value


# -- what is sent ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_is_sent_as_it_is_with_its_key(scripted: Scripted, make: Make, kind: str) -> None:
    server = scripted(OK)
    body = '{"id":"ü"}'.encode()
    make(kind).post(signed(server.url("/agent/completions")), KEY, body)
    (request,) = server.requests
    assert (request.method, request.target, request.body) == ("POST", "/agent/completions", body)
    headers = {name.lower(): value for name, value in request.header_lines}
    assert len(headers) == len(request.header_lines)
    assert headers.pop("accept", "*/*") == "*/*"
    assert headers.pop("connection", "keep-alive") == "keep-alive"
    assert headers == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "a-test",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-viewer-signature": SECRET,
        "idempotency-key": KEY,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_go_over_one_connection(scripted: Scripted, make: Make, kind: str) -> None:
    server = scripted(OK, repeat_last=True)
    poster = make(kind)
    for number in range(100):
        poster.post(to(server.url(f"/{number % 2}")), KEY, b"%d" % number)
    assert [request.body for request in server.requests] == [b"%d" % n for n in range(100)]
    assert server.accepted == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_body_arrives_whole(scripted: Scripted, make: Make, kind: str) -> None:
    server = scripted(OK)
    body = os.urandom(3_000_000)
    make(kind).post(to(server.url()), KEY, body)
    assert server.requests[0].body == body


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "path", ["/prefix/agent/completions", "/a%20b/c", "/x;y=1/z", "//double/slash", "/ü/é"]
)
def test_a_path_arrives_as_requests_would_write_it(
    scripted: Scripted, make: Make, kind: str, path: str
) -> None:
    server = scripted(OK)
    make(kind).post(to(server.url(path)), KEY, b"{}")
    expected = requests.Request("POST", server.url(path)).prepare().path_url
    assert server.requests[0].target == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.skipif(FUTURE, reason="urllib3-future writes no brackets: Host: ::1:80")
def test_an_ipv6_address_is_written_with_its_brackets(make: Make, kind: str) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this system has no IPv6")
    with listener:
        port = listener.getsockname()[1]
        posting = InThread(lambda: make(kind).post(to(f"http://[::1]:{port}/x"), KEY, b"{}"))
        peer, _ = listener.accept()
        with peer:
            received = b""
            while not received.endswith(b"{}"):
                received += peer.recv(65536)
            peer.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert posting.raises(5.0) is None
    assert received.startswith(b"POST /x HTTP/1.1\r\n")
    assert f"\r\nHost: [::1]:{port}\r\n".encode() in received


@pytest.mark.parametrize("kind", KINDS)
def test_latin_characters_of_a_header_arrive(scripted: Scripted, make: Make, kind: str) -> None:
    server = scripted(OK)
    make(kind).post(to(server.url(), **{"X-VIEWER-SIGNATURE": "caf\xe9"}), KEY, b"{}")
    assert server.requests[0].headers["x-viewer-signature"] == "caf\xe9"


def test_more_recipients_than_are_remembered_do_no_harm(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoning_sdk._io.post._MOST_ROUTES", 3)
    server = scripted(OK, repeat_last=True)
    poster = make()
    recipients = [to(server.url(f"/{number}")) for number in range(7)]
    for recipient in recipients * 2:
        poster.post(recipient, KEY, b"{}")
    assert [request.path for request in server.requests] == [f"/{n}" for n in range(7)] * 2
    assert server.accepted == 1


# -- what counts as taken ----------------------------------------------------------------------


def promised(sent: bytes, promise: int) -> Handler:
    """Ends before its Content-Length."""

    def handle(connection: Connection) -> None:
        connection.headers(200, {"Content-Length": str(promise)})
        connection.send(sent)
        connection.close()

    return handle


def endless(status: int) -> Handler:
    def handle(connection: Connection) -> None:
        connection.headers(status, {"Transfer-Encoding": "chunked"})
        while True:
            connection.chunk(b"x" * 10_000)

    return handle


def interim(*statuses: int) -> Handler:
    def handle(connection: Connection) -> None:
        for status in statuses:
            connection.headers(status, {"Link": "</style.css>; rel=preload"})
        OK(connection)

    return handle


TAKEN: dict[str, Handler] = {
    "200": OK,
    "200 without body": answer(200),
    "201": answer(201, b"made"),
    "202 in chunks": sse(b"x" * 1000, status=202, chunk_size=100),
    "204": no_content(),
    "299": answer(299),
    "larger than 64 KB": answer(200, b"x" * 200_000),
    "larger than 64 KB in chunks": sse(b"x" * 200_000, chunk_size=7000),
    "until the connection closes": sse(b"x" * 1000, framing="close"),
    "that ends early": promised(b"abc", 10),
    "cut in a chunk": sse(b"x" * 100, cut_at=50, cut_in_chunk=True),
    "reset": sse(b"x" * 100, cut_at=50, then="reset"),
    "that never ends": endless(200),
    "100 first": interim(100),
    "Connection: close": answer(200, b"x", headers={"Connection": "close"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TAKEN)
def test_any_2xx_is_enough_whatever_its_body_and_the_next_goes_on(
    scripted: Scripted, make: Make, name: str, kind: str
) -> None:
    server = scripted([TAKEN[name], OK])
    poster = make(kind)
    began = time.monotonic()
    poster.post(to(server.url()), KEY, b"1")
    poster.post(to(server.url()), KEY, b"2")
    assert time.monotonic() - began < 3.0
    assert [request.body for request in server.requests] == [b"1", b"2"]


@pytest.mark.parametrize("statuses", [(103,), (102, 103, 103), (100, 103), (150,)])
def test_interim_answers_are_skipped(
    scripted: Scripted, make: Make, statuses: tuple[int, ...]
) -> None:
    server = scripted([interim(*statuses), OK])
    poster = make()
    poster.post(to(server.url()), KEY, b"1")
    poster.post(to(server.url()), KEY, b"2")
    assert server.accepted == 1


def test_a_body_that_trickles_is_not_waited_for(scripted: Scripted, make: Make) -> None:
    server = scripted([silence(first=b"x"), OK])
    poster = make()
    began = time.monotonic()
    poster.post(to(server.url()), KEY, b"1")
    assert 0.5 < time.monotonic() - began < 3.0
    poster.post(to(server.url()), KEY, b"2")
    assert server.accepted == 2
    server.wait_for_requests(2)


@pytest.mark.parametrize("name", ["200", "201", "202 in chunks", "204", "200 without body"])
def test_what_was_read_whole_leaves_the_connection_for_the_next(
    scripted: Scripted, make: Make, name: str
) -> None:
    server = scripted([TAKEN[name], OK])
    poster = make()
    for _ in range(2):
        poster.post(to(server.url()), KEY, b"{}")
    assert server.accepted == 1


# -- what does not -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "status", [301, 302, 303, 307, 308, 304, 400, 401, 404, 408, 413, 425, 429, 500, 503, 599]
)
def test_any_other_status_is_an_error_with_the_servers_message(
    scripted: Scripted, make: Make, status: int, kind: str
) -> None:
    body = b"" if status == 304 else b'{"error": {"message": "not today", "code": "c1"}}'
    headers = {"Location": "/agent/completions", "X-Request-Id": "r7"}
    server = scripted([answer(status, body, headers=headers), OK])
    poster = make(kind)
    error = fails(r.APIStatusError, poster, to(server.url("/agent/completions")))
    assert (error.status_code, error.request_id) == (status, "r7")
    # requests reads the body of a redirect itself, to know where it leads
    assert status == 304 or (kind == "theirs" and status < 400) or "not today" in str(error)
    poster.post(to(server.url()), KEY, b"2")
    assert len(server.requests) == 2  # no redirect was followed


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_of_redirects_is_one_request(scripted: Scripted, make: Make, kind: str) -> None:
    server = scripted(redirect("/again", 307), repeat_last=True)
    error = fails(r.APIStatusError, make(kind), to(server.url("/again")))
    assert "a redirect to http://127.0.0.1" not in str(error)  # relative: no origin to tell
    assert error.status_code == 307
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_time_to_wait_is_told(
    scripted: Scripted, make: Make, headers: dict[str, str], seconds: float | None, kind: str
) -> None:
    server = scripted(answer(503, headers=headers))
    error = fails(r.ServerError, make(kind, clock=FakeClock()), to(server.url()))
    assert error.retry_after == seconds


@pytest.mark.parametrize("kind", KINDS)
def test_of_an_endless_error_only_the_beginning_is_read(
    scripted: Scripted, make: Make, kind: str
) -> None:
    server = scripted([endless(400), silence(first=b"x"), OK])
    poster = make(kind, timeout=5.0)
    began = time.monotonic()
    error = fails(r.BadRequestError, poster, to(server.url()))
    assert 0 < len(error.body) <= 64 * 1024
    poster.post(to(server.url()), KEY, b"2")
    poster.post(to(server.url()), KEY, b"3")
    assert time.monotonic() - began < 5.0


GARBAGE: dict[str, bytes] = {
    "a banner": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/9": b"HTTP/9.9 200 OK\r\n\r\n",
    "no number": b"HTTP/1.1 two hundred\r\n\r\n",
    "a long line": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 1000,
}


@pytest.mark.skipif(FUTURE, reason="urllib3-future reads more, and says otherwise")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GARBAGE)
def test_what_is_not_http_is_a_protocol_error(
    scripted: Scripted, make: Make, name: str, kind: str
) -> None:
    server = scripted([raw(GARBAGE[name]), OK])
    poster = make(kind)
    error = fails(r.ProtocolError, poster, to(server.url()))
    assert "cannot be read" in str(error)
    poster.post(to(server.url()), KEY, b"2")


@pytest.mark.skipif(FUTURE, reason="with urllib3-future the deadline holds per receive only")
@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Early Hints\r\n"])
def test_headers_that_come_drop_by_drop_have_the_time_of_a_try(
    scripted: Scripted, make: Make, first: bytes
) -> None:
    def handle(connection: Connection) -> None:
        connection.send(first)
        while True:
            connection.send(b"X" if first else b"H")
            connection.pause(0.02)

    server = scripted([handle, OK])
    poster = make(timeout=0.3)
    began = time.monotonic()
    fails(r.RequestTimeoutError, poster, to(server.url()))
    assert time.monotonic() - began < 2.0
    poster.post(to(server.url()), KEY, b"2")


@pytest.mark.skipif(FUTURE, reason="urllib3-future handles these itself")
def test_interim_answers_without_end_have_the_time_of_a_try(scripted: Scripted, make: Make) -> None:
    def handle(connection: Connection) -> None:
        while True:
            connection.headers(103)
            connection.pause(0.01)

    began = time.monotonic()
    fails(r.RequestTimeoutError, make(timeout=0.3), to(scripted(handle).url()))
    assert time.monotonic() - began < 2.0


def cut(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-")
    connection.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (reset(), r.TransportError),
        (hang_up(), r.TransportError),
        (silence(headers=False), r.RequestTimeoutError),
    ],
    ids=["reset", "hang up", "silence"],
)
def test_no_answer_is_a_transport_error_and_the_next_goes_on(
    scripted: Scripted, make: Make, handler: Handler, error: type[r.ReasoningError], kind: str
) -> None:
    server = scripted([handler, OK])
    poster = make(kind, timeout=0.5)
    assert fails(error, poster, to(server.url())).retryable
    poster.post(to(server.url()), KEY, b"2")
    assert len(server.requests) == 2


def test_an_answer_cut_in_its_headers_is_a_transport_error(scripted: Scripted, make: Make) -> None:
    server = scripted([cut, OK])
    poster = make()
    assert fails(r.TransportError, poster, to(server.url())).retryable
    poster.post(to(server.url()), KEY, b"2")


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_there_is_a_connect_error(make: Make, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = fails(r.ConnectError, make(kind), signed(f"http://127.0.0.1:{port}/agent/x"))
    assert f"cannot connect to http://127.0.0.1:{port}: " in str(error)
    error = fails(r.ConnectError, make(kind), signed("http://nobody.invalid/"))
    assert SECRET not in "".join(traceback.format_exception(error))


def test_a_limit_of_the_call_is_kept_to(scripted: Scripted, make: Make) -> None:
    server = scripted(silence(headers=False))
    began = time.monotonic()
    with pytest.raises(r.RequestTimeoutError):
        make(timeout=30.0).post(to(server.url()), KEY, b"{}", timeout=0.1)
    assert time.monotonic() - began < 2.0


def test_without_any_limit_an_answer_may_take_its_time(scripted: Scripted, make: Make) -> None:
    def slow(connection: Connection) -> None:
        connection.pause(0.05)
        OK(connection)

    make(timeout=None).post(to(scripted(slow).url()), KEY, b"{}")


@pytest.mark.skipif(FUTURE, reason="urllib3-future gives up the answer")
@pytest.mark.parametrize("attempt", range(5))
def test_an_answer_that_comes_before_the_body_is_sent_is_read(make: Make, attempt: int) -> None:
    """A server that refuses a large body while it comes, and then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                assert peer.recv(1000).startswith(b"POST ")
                peer.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nhuge")

        serving = InThread(serve)
        url = f"http://127.0.0.1:{port}/"
        error = fails(r.APIStatusError, make(), to(url), b"x" * 20_000_000)
        assert error.status_code == 413
        serving.wait(5.0)


# -- kept connections --------------------------------------------------------------------------


def then_close(connection: Connection) -> None:
    OK(connection)
    connection.close()


def answer_then(end: Callable[[Connection], None]) -> Handler:
    """Answers, then ends the connection only when the next request has been sent."""

    def handle(connection: Connection) -> None:
        OK(connection)
        connection.read_request()
        end(connection)

    return handle


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_connection_that_was_closed_is_replaced_at_once(
    scripted: Scripted, make: Make, kind: str
) -> None:
    server = scripted([then_close] * 5)
    poster = make(kind)
    for number in range(5):
        poster.post(to(server.url()), KEY, b"%d" % number)
        server.wait_no_connections()
    assert [request.body for request in server.requests] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.skipif(FUTURE, reason="urllib3-future is not asked like that")
@pytest.mark.parametrize("end", [Connection.close, Connection.reset], ids=["close", "reset"])
def test_a_kept_connection_that_ends_as_it_is_used_again_is_replaced_at_once(
    scripted: Scripted, make: Make, end: Callable[[Connection], None]
) -> None:
    server = scripted([answer_then(end), OK])
    poster = make()
    poster.post(to(server.url()), KEY, b"1")
    poster.post(to(server.url()), KEY, b"2")
    assert server.accepted == 2
    assert [request.body for request in server.requests] == [b"1", b"2"]


@pytest.mark.skipif(FUTURE, reason="urllib3-future is not asked like that")
def test_a_new_connection_that_ends_is_not_tried_again_by_itself(
    scripted: Scripted, make: Make
) -> None:
    server = scripted([answer_then(Connection.reset), reset(), OK])
    poster = make()
    poster.post(to(server.url()), KEY, b"1")
    fails(r.TransportError, poster, to(server.url()))
    assert server.accepted == 2
    poster.post(to(server.url()), KEY, b"3")


def test_of_many_threads_each_finds_an_open_connection(scripted: Scripted, make: Make) -> None:
    server = scripted(OK, repeat_last=True)
    poster, recipient = make(), to(server.url())

    def post_many() -> None:
        for _ in range(25):
            poster.post(recipient, KEY, b"{}")

    threads = [InThread(post_many) for _ in range(4)]
    for thread in threads:
        assert thread.raises(10.0) is None
    assert len(server.requests) == 100
    assert server.accepted <= 4


# -- the way there -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_certificates_are_those_of_the_environment(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    server = scripted([OK, OK], tls=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_file))
    poster = make(kind)
    for _ in range(2):
        poster.post(signed(server.url("/x", host="localhost")), KEY, b"{}")
    assert server.requests[0].headers["x-viewer-signature"] == SECRET
    assert server.accepted == 1


@pytest.mark.skipif(FUTURE, reason="urllib3-future is not asked like that")
def test_over_tls_a_kept_connection_that_was_closed_is_replaced_at_once(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [then_close, answer_then(Connection.close), answer_then(Connection.reset), OK]
    server = scripted(script, tls=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_file))
    poster = make()
    poster.post(to(server.url()), KEY, b"0")
    server.wait_no_connections()
    for number in range(1, 4):
        poster.post(to(server.url()), KEY, b"%d" % number)
    assert [request.body for request in server.requests] == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_certificate_gets_nothing(scripted: Scripted, make: Make, kind: str) -> None:
    server = scripted(OK, tls=True)
    error = fails(r.ConnectError, make(kind), signed(server.url()))
    assert "certificate" in str(error)
    assert server.requests == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_ca_bundle_that_is_not_there_is_a_matter_of_configuration(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    server = scripted(tls=True)
    error = fails(r.ConfigurationError, make(kind), signed(server.url()))
    assert "none.pem" in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_http_goes_through_the_proxy_of_the_environment(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    proxy = scripted([OK, OK])
    url = proxy.url().replace("//", "//user:proxy-password@")
    monkeypatch.setenv("HTTP_PROXY", url)
    monkeypatch.setenv("http_proxy", url)
    poster = make(kind)
    for _ in range(2):
        poster.post(signed("http://viewer.localhost:8080/p/agent/completions"), KEY, b"{}")
    first, second = proxy.requests
    assert first.target == second.target == "http://viewer.localhost:8080/p/agent/completions"
    assert first.headers["host"] == "viewer.localhost:8080"
    expected = "Basic " + base64.b64encode(b"user:proxy-password").decode()
    assert first.headers["proxy-authorization"] == expected
    assert first.headers["x-viewer-signature"] == SECRET
    assert proxy.accepted == 1


@pytest.mark.parametrize("kind", KINDS)
def test_hosts_of_no_proxy_are_asked_directly(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    proxy, direct = scripted(), scripted(OK)
    monkeypatch.setenv("http_proxy", proxy.url().replace("//", "//user:proxy-password@"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    make(kind).post(to(direct.url("/x")), KEY, b"{}")
    assert direct.requests[0].target == "/x"
    assert "proxy-authorization" not in direct.requests[0].headers
    assert proxy.requests == []


def through(connection: Connection) -> None:
    connection.headers(200, reason="Connection established")
    connection.start_tls()


@pytest.mark.parametrize("kind", KINDS)
def test_https_goes_through_a_proxy_that_sees_no_signature(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    proxy = scripted([through, OK, then_close, through, OK])
    monkeypatch.setenv("https_proxy", proxy.url().replace("//", "//user:proxy-password@"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(scripted(tls=True).ca_file))
    poster = make(kind)
    for number in range(2):
        poster.post(signed("https://api.localhost/x"), KEY, b"%d" % number)
    proxy.wait_no_connections()
    poster.post(signed("https://api.localhost/x"), KEY, b"2")
    connects = [request for request in proxy.requests if request.method == "CONNECT"]
    behind = [request for request in proxy.requests if request.method == "POST"]
    assert [connect.target for connect in connects] == ["api.localhost:443"] * 2
    for connect in connects:
        assert connect.headers["proxy-authorization"].startswith("Basic ")
        assert SECRET.encode() not in connect.raw
    assert [request.body for request in behind] == [b"0", b"1", b"2"]
    for request in behind:
        assert (request.target, request.headers["host"]) == ("/x", "api.localhost")
        assert "proxy-authorization" not in request.headers
        assert request.headers["x-viewer-signature"] == SECRET


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [407, 502])
def test_a_proxy_that_refuses_is_a_failure_to_connect(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, kind: str, status: int
) -> None:
    proxy = scripted(answer(status, headers={"Connection": "close"}))
    monkeypatch.setenv("https_proxy", proxy.url().replace("//", "//user:proxy-password@"))
    error = fails(r.ConnectError, make(kind), signed("https://api.localhost/x"))
    assert str(status) in str(error)
    assert "proxy-password" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("kind", KINDS)
def test_a_netrc_file_is_used_as_requests_does(
    scripted: Scripted, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = scripted(OK)
    make(kind).post(to(server.url()), KEY, b"{}")
    expected = "Basic " + base64.b64encode(b"somebody:else").decode()
    assert server.requests[0].headers["authorization"] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_that_cannot_be_is_a_matter_of_configuration(make: Make, kind: str) -> None:
    error = fails(r.ConfigurationError, make(kind), signed("http://*.example/x"))
    assert "cannot make a request to http://*.example:80" in str(error)
    assert SECRET not in "".join(traceback.format_exception(error))


# -- the caller's own sessions -----------------------------------------------------------------


def test_a_session_of_the_callers_is_used_as_it_is(scripted: Scripted, make: Make) -> None:
    seen: list[str] = []

    class Noting(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
            seen.append(f"adapter {request.method}")
            return super().send(request, *args, **kwargs)

    def session() -> requests.Session:
        made = requests.Session()
        made.headers["X-Team"] = "a"
        made.auth = ("me", "mine")
        made.hooks["response"].append(lambda response, **_: seen.append("hook"))
        made.mount("http://", Noting())
        return made

    server = scripted(OK)
    make(session_factory=session).post(signed(server.url()), KEY, b"{}")
    headers = server.requests[0].headers
    assert (headers["x-team"], headers["user-agent"]) == ("a", "a-test")
    assert headers["authorization"] == "Basic " + base64.b64encode(b"me:mine").decode()
    assert (headers["x-viewer-signature"], headers["idempotency-key"]) == (SECRET, KEY)
    assert seen == ["adapter POST", "hook"]


def test_a_session_may_bring_its_certificates(scripted: Scripted, make: Make) -> None:
    server = scripted(OK, tls=True)

    def session() -> requests.Session:
        made = requests.Session()
        made.verify = server.ca_file
        return made

    make(session_factory=session).post(to(server.url()), KEY, b"{}")


def test_each_thread_has_a_session_and_all_are_closed(scripted: Scripted, make: Make) -> None:
    made: list[Any] = []

    class Counted(requests.Session):
        closed = 0

        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def close(self) -> None:
            self.closed += 1
            super().close()

    def together(connection: Connection) -> None:
        connection.gate("go")
        OK(connection)

    server = scripted([together, together, OK])
    poster = make(session_factory=Counted)
    threads = [InThread(lambda: poster.post(to(server.url()), KEY, b"{}")) for _ in range(2)]
    server.wait_for_requests(2)
    server.open("go")
    for thread in threads:
        assert thread.raises(5.0) is None
    poster.post(to(server.url()), KEY, b"{}")
    assert len(made) == 2
    poster.close()
    assert [session.closed for session in made] == [1, 1]
    server.wait_no_connections()


@pytest.mark.parametrize("given", [None, "session", object()])
def test_a_factory_that_gives_something_else_is_refused(make: Make, given: Any) -> None:
    poster = make(session_factory=lambda: given)
    error = fails(r.ConfigurationError, poster, to("http://127.0.0.1:1/"))
    assert str(error) == (
        f"session_factory must give a requests.Session, gave a {type(given).__name__}"
    )


# -- closing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "headers"), [("ours", False), ("ours", True), ("theirs", True)])
def test_a_close_ends_what_is_under_way(
    scripted: Scripted, make: Make, kind: str, headers: bool
) -> None:
    def handle(connection: Connection) -> None:
        if headers:
            connection.headers(400, {"Transfer-Encoding": "chunked"})
        connection.wait_closed()

    server = scripted(handle)
    poster = make(kind, timeout=30.0)
    posting = InThread(lambda: poster.post(to(server.url()), KEY, b"{}"))
    server.wait_for_requests(1)
    poster.close()
    began = time.monotonic()
    error = posting.raises(3.0)
    if kind == "ours":
        assert time.monotonic() - began < 1.0
    assert isinstance(error, (r.StateError, r.BadRequestError)), error
    server.wait_no_connections()


def test_a_close_ends_a_handshake(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        poster = make(timeout=20.0)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        posting = InThread(lambda: poster.post(to(url), KEY, b"{}"))
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(1)  # the handshake has begun
            poster.close()
            assert isinstance(posting.raises(), r.StateError)


def test_after_a_close_nothing_is_sent(scripted: Scripted, make: Make) -> None:
    server = scripted(OK)
    poster = make()
    poster.post(to(server.url()), KEY, b"{}")
    poster.close()
    poster.close()
    server.wait_no_connections()
    fails(r.StateError, poster, to(server.url()))
    assert len(server.requests) == 1


# -- what must not be told ---------------------------------------------------------------------


def everything(error: BaseException | None) -> str:
    """All that an error could show to somebody."""
    told = "".join(traceback.format_exception(error)) if error else ""
    while error is not None:
        told += f"{error!s}\n{error!r}\n{error.args!r}\n"
        if isinstance(error, r.ReasoningError):
            told += repr(vars(error)) + repr(pickle.dumps(error, protocol=0))
        error = error.__cause__ or error.__context__
    return told.lower()


def echo(status: int) -> Handler:
    def handle(connection: Connection) -> None:
        mine = connection.request.headers["x-viewer-signature"]
        body = {"error": {"message": f"bad {mine}", "code": mine, mine: [mine]}}
        json_answer(status, body, {"X-Echo": mine, mine: "x", "X-Request-Id": mine})(connection)

    return handle


def echo_raw(first: bytes) -> Handler:
    def handle(connection: Connection) -> None:
        connection.send(first + connection.request.raw.replace(b"\r\n", b" ") + b"\r\n\r\n")
        connection.close()

    return handle


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "handler",
    [echo(400), echo(401), echo(429), echo(500), echo_raw(b""), echo_raw(b"HTTP/1.1 2xx ")],
)
def test_a_signature_that_the_server_repeats_is_not_told(
    scripted: Scripted,
    make: Make,
    handler: Handler,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "reasoning_sdk")
    error = fails(r.ReasoningError, make(kind), signed(scripted(handler).url()))
    assert SECRET not in everything(error)
    assert SECRET not in caplog.text


def test_what_is_shown_of_a_recipient_has_no_headers() -> None:
    assert SECRET not in repr(signed("http://h/"))


def test_an_error_keeps_no_frame_alive_that_has_the_signature(
    scripted: Scripted, make: Make
) -> None:
    error = fails(r.TransportError, make(), signed(scripted(reset()).url()))
    shown: BaseException | None = error
    while shown is not None:
        trace = shown.__traceback__
        while trace is not None:
            if "reasoning_sdk" not in trace.tb_frame.f_code.co_filename:
                held = trace.tb_frame.f_locals
                assert trace.tb_frame.f_code.co_name == "fails" or SECRET not in repr(held)
            trace = trace.tb_next
        shown = shown.__cause__ or shown.__context__


def test_no_thread_is_begun_by_it(scripted: Scripted, make: Make) -> None:
    before = threading.active_count()
    poster = make()
    assert threading.active_count() == before
    poster.close()
