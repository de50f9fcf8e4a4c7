"""WebSockets as bytes: the handshake on the wire, and many threads that write over one."""

import base64
import contextlib
import gc
import hashlib
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket as websocket_client
from urllib3.util.wait import wait_for_write

from reasoning_sdk._io import websocket as module
from reasoning_sdk._io.dial import TLS, Dialing, Pipe, Route
from reasoning_sdk._io.websocket import Dialed, Wire, check_websocket_url, dial
from reasoning_sdk._version import __version__
from reasoning_sdk.errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    ReasoningError,
    RequestTimeoutError,
    ServerError,
    StateError,
)
from tests.support.raw_server import (
    RawServer,
    Talk,
    hold,
    raw_server,
    read_head,
    serve_tls,
    server_context,
)
from tests.support.scripted import ca_file, tls_context
from tests.support.signals import interrupt
from tests.support.threads import InThread

Serve = Callable[..., RawServer]
LINUX = os.path.isdir("/proc/self/fd")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.http
OFFER = "permessage-deflate; client_no_context_takeover; client_max_window_bits"


@pytest.fixture
def serve() -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(raw_server(*args, **kwargs))


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file())


def accept(head: bytes) -> str:
    key = re.search(rb"\r\nSec-WebSocket-Key: (.*)\r\n", head)
    assert key
    digest = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest).decode()


def switch(head: bytes, *fields: str) -> bytes:
    """The answer that opens a WebSocket."""
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines.append(f"Sec-WebSocket-Accept: {accept(head)}")
    return "\r\n".join([*lines, *fields, "", ""]).encode("latin-1")


def answering(*data: bytes) -> Talk:
    """Reads a request, sends this, and ends its side."""

    def talk(sock: socket.socket) -> None:
        read_head(sock)
        for part in data:
            sock.sendall(part)
        end(sock)

    return talk


def end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client was faster
        sock.shutdown(socket.SHUT_WR)
    hold(sock)


class Opening:
    """A server that opens a WebSocket, and keeps the head of the request."""

    def __init__(self, *fields: str, then: Talk = hold) -> None:
        self.head = b""
        self._fields = fields
        self._then = then

    def __call__(self, sock: socket.socket) -> None:
        self.head = read_head(sock)
        sock.sendall(switch(self.head, *self._fields))
        self._then(sock)

    def lines(self) -> list[str]:
        return self.head.decode("latin-1").split("\r\n")[:-2]


def opened(url: str, timeout: float | None = 5.0, **options: Any) -> Dialed:
    """Opens a WebSocket and frees it."""
    dialed = dial(url, Dialing(timeout), **{"headers": {}, **options})
    dialed.wire.free()
    return dialed


def refused(serve: Serve, talk: Talk, timeout: float = 5.0, **options: Any) -> ReasoningError:
    """The error of an attempt."""
    url = f"ws://127.0.0.1:{serve(talk).port}{options.pop('target', '/')}"
    with pytest.raises(ReasoningError) as caught:
        opened(url, timeout, **options)
    return caught.value


# -- the request -------------------------------------------------------------------------------


def test_the_request_is_what_the_standard_asks_for(serve: Serve) -> None:
    opening = Opening()
    server = serve(opening)
    opened(f"ws://127.0.0.1:{server.port}/a/b?c=d&e=%20", headers={"X-One": "1"})
    (key,) = [line for line in opening.lines() if line.startswith("Sec-WebSocket-Key: ")]
    assert len(base64.b64decode(key.partition(": ")[2], validate=True)) == 16
    assert opening.lines() == [
        "GET /a/b?c=d&e=%20 HTTP/1.1",
        "Upgrade: websocket",
        f"Host: 127.0.0.1:{server.port}",
        key,
        "Sec-WebSocket-Version: 13",
        "Connection: Upgrade",
        "X-One: 1",
        f"User-Agent: reasoning-sdk/{__version__}",
        f"Sec-WebSocket-Extensions: {OFFER}",
    ]


def test_every_handshake_has_a_key_of_its_own(serve: Serve) -> None:
    opening = Opening()
    server = serve(opening)
    keys = set()
    for _ in range(3):
        opened(f"ws://127.0.0.1:{server.port}")
        keys.add(accept(opening.head))
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("rest", "target"),
    [
        ("", "/"),
        ("/", "/"),
        ("?x=1", "/?x=1"),
        ("/?", "/"),
        ("/a//b/", "/a//b/"),
        ("//a", "//a"),
        ("/a;b=1", "/a;b=1"),
        ("/a;b=1/c;d?x=1;y=2", "/a;b=1/c;d?x=1;y=2"),
        ("/%2f%7E%zz?\"{|}^`'", "/%2f%7E%zz?\"{|}^`'"),
        ("/ü/€?ä=ß", "/%C3%BC/%E2%82%AC?%C3%A4=%C3%9F"),
        ("/a?b=http://c:1/d?e", "/a?b=http://c:1/d?e"),
    ],
)
def test_the_target_is_that_of_the_url(serve: Serve, rest: str, target: str) -> None:
    opening = Opening()
    opened(f"ws://127.0.0.1:{serve(opening).port}{rest}")
    assert opening.lines()[0] == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://h.localhost", "h.localhost"),
        ("ws://h.localhost:80/", "h.localhost"),
        ("ws://H.localhost:443/", "h.localhost:443"),
        ("ws://h.localhost:8080/", "h.localhost:8080"),
        ("ws://[::1]/", "[::1]"),
        ("ws://[::1]:8080/", "[::1]:8080"),
        ("ws://büro.localhost", "xn--bro-hoa.localhost"),
        ("ws://büro:8080", "xn--bro-hoa:8080"),
        (f"ws://{'x' * 63}:8080", f"{'x' * 63}:8080"),
        ("ws://localhost.:8080", "localhost.:8080"),
    ],
)
def test_the_host_has_the_port_where_it_is_not_the_schemes_own(
    serve: Serve, url: str, expected: str
) -> None:
    heads: list[bytes] = []

    def proxy(sock: socket.socket) -> None:
        heads.append(read_head(sock))
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        opening(sock)

    opening = Opening()
    opened(url, proxy=f"http://127.0.0.1:{serve(proxy).port}")
    assert f"Host: {expected}" in opening.lines()
    port = "" if re.search(r":\d+$", expected) else ":80"
    assert heads[0].startswith(f"CONNECT {expected}{port} HTTP/1.1\r\n".encode())


def test_the_host_of_a_secure_url(serve: Serve) -> None:
    def proxy(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        secure = tls_context().wrap_socket(sock, server_side=True)
        with contextlib.closing(secure):
            opening(secure)

    opening = Opening()
    server = serve(proxy)
    for url, host in [("wss://localhost:443", "localhost"), ("wss://localhost:80", "localhost:80")]:
        opened(url, proxy=f"127.0.0.1:{server.port}", context=trusting())
        assert f"Host: {host}" in opening.lines()


@pytest.mark.parametrize("name", ["Host", "host", "HOST"])
def test_a_host_of_the_users_own_is_sent(serve: Serve, name: str) -> None:
    opening = Opening()
    opened(f"ws://127.0.0.1:{serve(opening).port}", headers={name: "elsewhere.example"})
    hosts = [line for line in opening.lines() if line.lower().startswith("host:")]
    assert hosts == ["Host: elsewhere.example"]


def test_headers_of_the_users_own_are_sent_as_they_are(serve: Serve) -> None:
    headers = {
        "authorization": "Bearer token-1",
        "Origin": "https://example.org",
        "Cookie": "a=b; c=d",
        "user-agent": "mine/1",
        "X-Latin": "Zoë ÿ",
        "X-Empty": "",
    }
    opening = Opening()
    opened(f"ws://127.0.0.1:{serve(opening).port}", headers=headers)
    lines = opening.lines()
    assert [f"{name}: {value}" for name, value in headers.items()] == lines[6:-1]
    assert not any(line.startswith("User-Agent") for line in lines)


def test_there_is_no_origin_and_no_cookie_that_nobody_has_asked_for(serve: Serve) -> None:
    jar = websocket_client._handshake.CookieJar
    kept = dict(jar.jar)
    jar.add("stolen=1; domain=localhost")
    jar.add("stolen=1; domain=h.localhost")
    try:
        opening = Opening()
        opened(f"ws://h.localhost:{serve(opening).port}")
    finally:
        jar.jar = kept
    assert not re.search(rb"(?i)\r\n(origin|cookie):", opening.head)


def test_what_is_offered(serve: Serve) -> None:
    opening = Opening("Sec-WebSocket-Protocol: b")
    url = f"ws://127.0.0.1:{serve(opening).port}"
    assert opened(url, subprotocols=("a", "b"), compress=False).subprotocol == "b"
    assert "Sec-WebSocket-Protocol: a, b" in opening.lines()
    assert b"Extensions" not in opening.head


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": "h2c"},
        {"connection": "close"},
        {"Sec-WebSocket-Key": "x"},
        {"sec-websocket-version": "8"},
        {"Sec-WebSocket-Anything": "x"},
        {"Content-Length": "5"},
        {"X-One": "1\r\nX-Two: 2"},
        {"X-One": "1\nX-Two: 2"},
        {"X-One\r\nX-Two": "1"},
        {"X One": "1"},
        {"X-One:": "1"},
        {"": "1"},
        {"X-One": "€"},
        {"X-One": 1},
        {"X-One": None},
        {"Host": "a\r\nb: c"},
    ],
)
def test_a_header_that_would_break_the_handshake_is_refused(headers: dict[Any, Any]) -> None:
    with pytest.raises(ConfigurationError):
        opened("ws://127.0.0.1:1", headers=headers)


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "ws://",
        "ws:h",
        "ws://user:word@h",
        "ws://h#x",
        "ws://h:0",
        "ws://h:99999",
        "ws://h/a b",
        "ws://h/\r\nX: y",
        "ws://h\r\n",
        "ws://a..b",
        "ws://[::1",
        "",
        None,
    ],
)
def test_what_is_no_websocket_url_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="url must"):
        opened(url)
    with pytest.raises(ConfigurationError, match="address must"):
        check_websocket_url("address", url)


# -- an answer that opens it -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connection", "upgrade"),
    [
        ("Connection: Upgrade", "Upgrade: websocket"),
        ("connection: upgrade", "UPGRADE: WebSocket"),
        ("Connection:keep-alive, Upgrade", "Upgrade:WEBSOCKET"),
        ("Connection: Upgrade ,x", "Upgrade: \twebsocket "),
        ("Connection: keep-alive\r\nConnection: Upgrade", "Upgrade: websocket"),
        ("Connection: Upgrade\r\nConnection: keep-alive", "Upgrade: websocket"),
    ],
)
def test_the_tokens_may_be_in_any_case_and_among_others(
    serve: Serve, connection: str, upgrade: str
) -> None:
    def talk(sock: socket.socket) -> None:
        accepted = accept(read_head(sock))
        lines = [connection, upgrade, f"sec-websocket-accept:{accepted}"]
        sock.sendall("\r\n".join(["HTTP/1.1 101 OK", *lines, "", ""]).encode())
        hold(sock)

    opened(f"ws://127.0.0.1:{serve(talk).port}")


@pytest.mark.parametrize(
    "first", [b"HTTP/1.1 101 \r\n", b"HTTP/1.1 101\r\n", b"HTTP/1.0 101 x y z\n"]
)
def test_the_status_line_may_be_short(serve: Serve, first: bytes) -> None:
    def talk(sock: socket.socket) -> None:
        sock.sendall(first + switch(read_head(sock)).partition(b"\r\n")[2])
        hold(sock)

    opened(f"ws://127.0.0.1:{serve(talk).port}")


def test_the_headers_of_the_answer(serve: Serve) -> None:
    opening = Opening("X-Request-ID: 5", "X-Latin: Zoë", "X-Two: a", "x-two: b")
    headers = opened(f"ws://127.0.0.1:{serve(opening).port}").headers
    assert headers["x-request-id"] == "5"
    assert headers["x-latin"] == "Zoë"
    assert headers["x-two"] == "a, b"


@pytest.mark.parametrize(
    "fields",
    [
        ["Set-Cookie: a=b; domain=localhost"],
        ["set-cookie : a=b; domain=localhost"],
        [" Set-Cookie: a=b; domain=localhost"],
        ["X: y", "\x0bSET-COOKIE: a=b; domain=localhost"],
        ["Set-Cookie: a=b; domain=localhost", "Set-Cookie: c=d; domain=localhost"],
    ],
)
def test_a_cookie_never_reaches_the_jar_of_the_process(serve: Serve, fields: list[str]) -> None:
    jar = websocket_client._handshake.CookieJar
    opened(f"ws://localhost:{serve(Opening(*fields)).port}")
    assert jar.get("localhost") == ""
    assert not jar.jar


def test_answers_before_the_answer_are_skipped(serve: Serve) -> None:
    def talk(sock: socket.socket) -> None:
        head = read_head(sock)
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        sock.sendall(switch(head))
        hold(sock)

    opened(f"ws://127.0.0.1:{serve(talk).port}")


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_what_comes_right_behind_the_answer_is_not_lost(
    serve: Serve, secure: bool, cut: bool
) -> None:
    frames = b"\x81\x05hello" * 3

    def talk(sock: socket.socket) -> None:
        head = read_head(sock)
        answer = switch(head) + frames
        for part in [answer[:50], answer[50:-4], answer[-4:]] if cut else [answer]:
            sock.sendall(part)
        end(sock)

    server = serve(talk, context=tls_context() if secure else None)
    url = f"{'wss' if secure else 'ws'}://localhost:{server.port}"
    wire = dial(url, Dialing(5.0), headers={}, context=trusting()).wire
    received = b""
    while data := receive(wire):
        received += data
    assert received == frames
    wire.free()


def test_compression_is_agreed(serve: Serve) -> None:
    extension = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
    server = serve(Opening(extension), Opening())
    deflate = opened(f"ws://127.0.0.1:{server.port}").deflate
    assert deflate is not None
    assert deflate.server_no_context_takeover
    assert opened(f"ws://127.0.0.1:{server.port}").deflate is None


# -- an answer that does not -------------------------------------------------------------------


def altered(change: Callable[[bytes], bytes]) -> Talk:
    """An answer that would open it, but for one thing."""

    def talk(sock: socket.socket) -> None:
        sock.sendall(change(switch(read_head(sock))))
        hold(sock)

    return talk


def without(name: bytes) -> Callable[[bytes], bytes]:
    return lambda answer: re.sub(rb"\r\n%b: [^\r]*" % name, b"", answer)


def instead(name: bytes, value: bytes) -> Callable[[bytes], bytes]:
    return lambda answer: re.sub(rb"(\r\n%b: )[^\r]*" % name, rb"\1" + value, answer)


def more(*fields: bytes) -> Callable[[bytes], bytes]:
    return lambda answer: answer[:-2] + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


@pytest.mark.parametrize(
    "change",
    [
        without(b"Sec-WebSocket-Accept"),
        without(b"Upgrade"),
        without(b"Connection"),
        instead(b"Sec-WebSocket-Accept", b"dGhlIHNhbXBsZSBub25jZQ=="),
        instead(b"Sec-WebSocket-Accept", b"\xff\xfe"),
        instead(b"Sec-WebSocket-Accept", b""),
        instead(b"Upgrade", b"h2c"),
        instead(b"Connection", b"close"),
        instead(b"Connection", b"Upgraded"),
        more(b"Sec-WebSocket-Accept: x"),
        more(b"Sec-WebSocket-Protocol: nobody-offered"),
        more(b"Sec-WebSocket-Protocol: "),
        more(b"Sec-WebSocket-Extensions: x-other"),
        more(b"Sec-WebSocket-Extensions: x-other", b"Sec-WebSocket-Extensions: permessage-deflate"),
        more(b"Sec-WebSocket-Extensions: permessage-deflate; surprise=1"),
    ],
)
def test_an_answer_that_breaks_the_standard_is_refused(
    serve: Serve, change: Callable[[bytes], bytes]
) -> None:
    assert type(refused(serve, altered(change))) is ProtocolError


@pytest.mark.parametrize("offered", [(), ("a", "b")])
def test_a_subprotocol_has_to_be_one_of_those_offered(
    serve: Serve, offered: tuple[str, ...]
) -> None:
    error = refused(serve, Opening("Sec-WebSocket-Protocol: c"), subprotocols=offered)
    assert type(error) is ProtocolError
    assert "'c'" in str(error)


def test_a_server_need_not_choose_a_subprotocol(serve: Serve) -> None:
    url = f"ws://127.0.0.1:{serve(Opening()).port}"
    assert opened(url, subprotocols=("a",)).subprotocol is None


def test_compression_that_was_not_offered_is_refused(serve: Serve) -> None:
    opening = Opening("Sec-WebSocket-Extensions: permessage-deflate")
    assert type(refused(serve, opening, compress=False)) is ProtocolError


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 \r\n\r\n",
        b"HTTP/1.1 999999\r\n\r\n",
        b"HTTP/1.1 099 x\r\n\r\n",
        b"<html>",
        b"HTTP/1.1 101 x\r\n" + b"X: y\r\n" * 20_000,
        b"HTTP/1.1 101 x\r\nX: " + b"y" * 200_000,
        b"HTTP/1.1 200 x\r\nX: " + b"y" * 200_000,
        b"HTTP/1.1 200 x\r\n" + b"X: y\r\n" * 20_000,
    ],
    ids=lambda said: repr(said[:24]),
)
def test_what_is_no_answer_of_http_is_a_protocol_error(serve: Serve, said: bytes) -> None:
    error = refused(serve, answering(said))
    assert type(error) is ProtocolError
    assert len(str(error)) < 400


def test_tls_where_none_is_expected_and_none_where_it_is(serve: Serve) -> None:
    def talk(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 400 x\r\n\r\n")
        end(sock)

    secure, plain = serve(hold, context=tls_context()), serve(talk)
    with pytest.raises((ProtocolError, ConnectError)):
        opened(f"ws://127.0.0.1:{secure.port}")
    with pytest.raises(ConnectError, match=r"(?i)wrong.version"):
        opened(f"wss://localhost:{plain.port}", context=trusting())


ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"


@pytest.mark.parametrize("size", [0, 1, 4, 7, 8, 9, 10, 11, 12, 13, 30, len(ANSWER) - 1])
@pytest.mark.parametrize("status", [b"101", b"200"])
def test_an_end_before_the_end_of_the_head_is_a_lost_connection(
    serve: Serve, size: int, status: bytes
) -> None:
    error = refused(serve, answering(ANSWER.replace(b"101", status)[:size]))
    assert type(error) is ConnectError
    assert error.retryable


def test_an_end_before_the_request_is_a_lost_connection(serve: Serve) -> None:
    assert type(refused(serve, lambda sock: None)) is ConnectError


# -- a refusal ---------------------------------------------------------------------------------


def test_a_head_that_is_too_long_is_no_handshake_and_no_frames(serve: Serve) -> None:
    head = b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Long: "
    error = refused(serve, answering(head + b"a" * 70_000 + b"\x81\x05hello"))
    assert type(error) is ProtocolError
    assert "no WebSocket handshake" in str(error)


@pytest.mark.parametrize("status", [200, 204])
def test_success_without_a_handshake_is_no_success(serve: Serve, status: int) -> None:
    answer = b"HTTP/1.1 %d x\r\nContent-Length: 5\r\n\r\nhello" % status
    error = refused(serve, answering(answer))
    assert type(error) is ProtocolError
    assert f"no WebSocket handshake: status {status}" in str(error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, APIStatusError),
        (302, APIStatusError),
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (426, APIStatusError),
        (429, RateLimitError),
        (500, ServerError),
        (503, ServerError),
        (599, ServerError),
    ],
)
def test_a_refusal_is_the_error_of_its_status(
    serve: Serve, status: int, kind: type[APIStatusError]
) -> None:
    fields = b"X-Request-Id: r-1\r\nContent-Length: 0\r\nSet-Cookie: a=b\r\nLocation: /x\r\n"
    error = refused(serve, answering(b"HTTP/1.1 %d x\r\n%b\r\n" % (status, fields)))
    assert type(error) is kind
    assert error.status_code == status
    assert error.request_id == "r-1"
    assert "set-cookie" not in error.headers
    assert error.headers["location"] == "/x"


BODY = b'{"error": {"code": "no_seat", "message": "all seats are taken"}}'


@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (BODY[:5], len(BODY) - 5, BODY[5:]),
        b"Connection: close\r\n\r\n" + BODY,
        b"\r\n" + BODY,
        b"Content-Length: 5000\r\n\r\n" + BODY,
        b"Content-Length: nonsense\r\n\r\n" + BODY,
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b" % (len(BODY) + 9, BODY),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\nzz\r\n" % (len(BODY), BODY),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_a_refusal_has_what_comes_of_its_body(serve: Serve, answer: bytes, apart: bool) -> None:
    head, _, body = (b"HTTP/1.1 503 x\r\nRetry-After: 7\r\n" + answer).partition(b"\r\n\r\n")
    parts = [head + b"\r\n\r\n", body[:20], body[20:]]
    error = refused(serve, answering(*(parts if apart else [b"".join(parts)])))
    assert type(error) is ServerError
    assert error.body == {"error": {"code": "no_seat", "message": "all seats are taken"}}
    assert error.code == "no_seat"
    assert error.message == "all seats are taken"
    assert error.retry_after == 7.0


def test_a_refusal_behind_interim_answers(serve: Serve) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 x\r\nContent-Length: 4\r\n\r\nnope"
    assert refused(serve, answering(answer)).body == "nope"  # type: ignore[attr-defined]


def test_an_endless_body_is_read_to_a_limit(serve: Serve) -> None:
    def talk(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 403 x\r\n\r\n")
        while True:
            sock.sendall(b"x" * 65536)

    assert type(refused(serve, talk)) is PermissionDeniedError


@pytest.mark.parametrize("secure", [False, True])
def test_a_body_that_does_not_end_in_time_is_cut(
    serve: Serve, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoning_sdk._io.websocket._BODY_SECONDS", 0.3)
    head = b"HTTP/1.1 403 x\r\nContent-Length: 100000\r\n\r\n"

    def talk(sock: socket.socket) -> None:
        if not secure:
            read_head(sock)
            sock.sendall(head)
            server.drip(sock, b"x" * 100_000)
        else:
            out, session = serve_tls(sock, tls_context())
            session.write(head)
            sock.sendall(out.read())
            session.write(b"x" * 16_000)
            server.drip(sock, out.read())

    server = serve(talk)
    began = time.monotonic()
    with pytest.raises(PermissionDeniedError) as caught:
        opened(
            f"{'wss' if secure else 'ws'}://localhost:{server.port}",
            timeout=None,
            context=trusting(),
        )
    assert time.monotonic() - began < 1.0
    assert secure or caught.value.body.startswith("xx")


# -- waits have an end -------------------------------------------------------------------------


def silent(server: RawServer, sock: socket.socket) -> None:
    hold(sock)


def slow_head(server: RawServer, sock: socket.socket) -> None:
    read_head(sock)
    server.drip(sock, ANSWER + b"X: y\r\n" * 2000)


def slow_interims(server: RawServer, sock: socket.socket) -> None:
    read_head(sock)
    while True:
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        server.pause(0.01)


def slow_records(server: RawServer, sock: socket.socket) -> None:
    out, session = serve_tls(sock, tls_context())
    session.write(ANSWER + b"X: y\r\n" * 2000)
    server.drip(sock, out.read())


SLOW = [silent, slow_head, slow_interims, slow_records]


@pytest.fixture
def slow(serve: Serve) -> Callable[[Any], str]:
    def make(how: Any) -> str:
        server: RawServer = serve(lambda sock: how(server, sock))
        return f"{'wss' if how is slow_records else 'ws'}://localhost:{server.port}"

    return make


@pytest.mark.parametrize("how", SLOW)
def test_the_deadline_holds(slow: Callable[[Any], str], how: Any) -> None:
    url = slow(how)
    began = time.monotonic()
    with pytest.raises(ConnectTimeoutError, match=f"no connection to {url} in time"):
        opened(url, timeout=0.3, context=trusting())
    assert 0.25 < time.monotonic() - began < 1.0


@pytest.mark.parametrize("how", SLOW)
@pytest.mark.parametrize("timeout", [20.0, None])
def test_another_thread_can_stop_it(
    slow: Callable[[Any], str], how: Any, timeout: float | None
) -> None:
    url, dialing = slow(how), Dialing(timeout)
    attempt = InThread(lambda: dial(url, dialing, headers={}, context=trusting()))
    threading.Event().wait(0.05)
    assert attempt.is_alive()
    dialing.abort()
    assert type(attempt.raises(0.5)) is StateError


def test_what_was_stopped_before_does_not_begin(serve: Serve) -> None:
    server = serve(Opening())
    dialing = Dialing(None)
    dialing.abort()
    with pytest.raises(StateError):
        dial(f"ws://127.0.0.1:{server.port}", dialing, headers={})


# -- no connection -----------------------------------------------------------------------------


def test_why_there_is_no_connection_is_told(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(
        ConnectError, match=f"^cannot connect to ws://127.0.0.1:{port}: connection refused$"
    ):
        opened(f"ws://127.0.0.1:{port}/?token=abcdefgh")
    with pytest.raises(ConnectError, match=r"^cannot connect to ws://nowhere\.invalid:80: name or"):
        opened("ws://nowhere.invalid/")


def test_a_certificate_that_cannot_be_trusted_is_not_worth_another_try(serve: Serve) -> None:
    server = serve(hold, context=server_context("other.localhost"))
    with pytest.raises(
        ConnectError, match=f"^the certificate of wss://localhost:{server.port} cannot be trusted"
    ) as caught:
        opened(f"wss://localhost:{server.port}", context=trusting())
    assert not caught.value.retryable


def test_a_proxy_that_refuses_is_told(serve: Serve) -> None:
    proxy = serve(answering(b"HTTP/1.1 407 x\r\nContent-Length: 2\r\n\r\nno"))
    with pytest.raises(ConnectError, match="the proxy refuses: 407 Proxy Authentication"):
        opened("ws://h", proxy=f"127.0.0.1:{proxy.port}")


# -- secrets -----------------------------------------------------------------------------------

BEARER, COOKIE, QUERY, PROXY = "bearer-12345", "cookie-67890", "query-abcde", "proxy-fghij"


def echo_as(template: bytes) -> Talk:
    """An answer with what came of secrets in it."""

    def talk(sock: socket.socket) -> None:
        head = read_head(sock)
        lines = [ln for ln in head.split(b"\r\n") if re.search(rb"(?i)^GET|^auth|^cookie", ln)]
        secrets = b" ".join(lines)
        accepted = accept(head).encode()
        sock.sendall(template.replace(b"@@", secrets).replace(b"ACCEPT", accepted))
        end(sock)

    return talk


OPEN = (
    b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ACCEPT\r\n"
)


@pytest.mark.parametrize(
    "template",
    [
        b"@@",
        b"SSH @@",
        b"HTTP/1.1 @@\r\n\r\n",
        b"HTTP/1.1 abc @@\r\n\r\n",
        b"HTTP/1.1 403 @@\r\n\r\n",
        b"HTTP/1.1 403 x\r\n\r\n@@",
        b'HTTP/1.1 403 x\r\n\r\n{"error": {"code": "@@", "message": "@@"}}',
        b"HTTP/1.1 403 x\r\nX-Seen: @@\r\nX-Request-Id: @@\r\n\r\n",
        b"HTTP/1.1 302 x\r\nLocation: http://x/@@\r\n\r\n",
        b"HTTP/1.1 403 x\r\n@@\r\n\r\n",
        b"HTTP/1.1 101 @@\r\n\r\n",
        b"HTTP/1.1 101 x\r\n@@ no colon \xff\r\n\r\n",
        b"HTTP/1.1 101 x\r\nX: @@\r\n",
        b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: @@\r\nUpgrade: @@\r\nConnection: @@\r\n\r\n",
        OPEN + b"Sec-WebSocket-Protocol: @@\r\n\r\n",
        OPEN + b"Sec-WebSocket-Extensions: @@\r\n\r\n",
        OPEN + b"Sec-WebSocket-Extensions: permessage-deflate; @@\r\n\r\n",
    ],
)
def test_no_error_tells_secrets_though_the_server_repeats_them(
    serve: Serve, template: bytes
) -> None:
    headers = {"Authorization": f"Bearer {BEARER}", "Cookie": f"a={COOKIE}; b={COOKIE}2"}
    error = refused(serve, echo_as(template), headers=headers, target=f"/p?x=1&token={QUERY}")
    told = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    for shown in causes(error):
        told += repr(shown) + repr(shown.args)
    for secret in (BEARER, COOKIE, QUERY):
        assert secret not in told, secret


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 @@\r\n\r\n", b"@@", b"HTTP/1.1 200 @@"])
def test_no_error_tells_the_password_of_a_proxy(serve: Serve, answer: bytes) -> None:
    def talk(sock: socket.socket) -> None:
        token = read_head(sock).partition(b"Basic ")[2].partition(b"\r\n")[0]
        sock.sendall(answer.replace(b"@@", token + b" " + base64.b64decode(token)))
        end(sock)

    proxy = f"http://user:{PROXY}@127.0.0.1:{serve(talk).port}"
    with pytest.raises(ConnectError) as caught:
        opened("ws://h", proxy=proxy)
    told = "".join(traceback.format_exception(caught.value))
    assert PROXY not in told
    assert base64.b64encode(f"user:{PROXY}".encode()).decode() not in told


# -- nothing is left over ----------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not LINUX, reason="needs /proc")
@pytest.mark.parametrize(
    "talk",
    [
        answering(b"HTTP/1.1 403 x\r\n\r\nno"),
        answering(b"SSH"),
        answering(b"HTTP/1.1 101 x\r\n\r\n"),
        answering(b""),
        hold,
        Opening("Sec-WebSocket-Protocol: c"),
        Opening("Sec-WebSocket-Extensions: c"),
    ],
    ids=["403", "no HTTP", "no handshake", "end", "late", "subprotocol", "extension"],
)
def test_an_attempt_that_fails_leaves_no_file_open(serve: Serve, talk: Talk) -> None:
    server = serve(talk)
    gc.collect()
    before = open_files()
    for _ in range(50):
        with pytest.raises(ReasoningError):
            opened(f"ws://127.0.0.1:{server.port}", 0.01 if talk is hold else 5.0)
    server.wait_idle()
    assert open_files() <= before


@pytest.mark.skipif(not LINUX, reason="needs /proc")
def test_a_wire_that_cannot_be_made_leaves_no_file_open(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dup(self: socket.socket) -> socket.socket:
        raise OSError(24, "Too many open files")

    server = serve(Opening())
    before = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "dup", dup)
        with pytest.raises(ConnectError, match="too many open files"):
            opened(f"ws://127.0.0.1:{server.port}")
    server.wait_idle()
    assert open_files() <= before


@pytest.mark.skipif(not LINUX, reason="needs /proc")
def test_a_wire_that_was_freed_leaves_no_file_open(serve: Serve) -> None:
    server = serve(Opening())
    before = open_files()
    for _ in range(20):
        opened(f"ws://127.0.0.1:{server.port}")
    server.wait_idle()
    assert open_files() <= before


# -- the wire ----------------------------------------------------------------------------------


class Peer:
    """The server's side of a wire: TLS by hand, so that two threads may use it at once."""

    def __init__(self, sock: socket.socket, layers: int, version: Any) -> None:
        self.sock = sock
        self._lock = threading.Lock()
        self._layers: list[tuple[ssl.MemoryBIO, ssl.MemoryBIO, ssl.SSLObject]] = []
        for number in range(layers):
            if number:
                while not self.recv().endswith(b"\r\n\r\n"):
                    pass
                self.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            self._secure(version)

    def _secure(self, version: Any) -> None:
        context = server_context("localhost", "127.0.0.1")
        context.maximum_version = version
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                session.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                is_done = False
            if data := outgoing.read():
                self.sendall(data)
            if is_done:
                break
            incoming.write(self.recv())
        self._layers.append((incoming, outgoing, session))

    def recv(self) -> bytes:
        received = b"none yet"
        data = b""  # what has come with the end of a handshake is there already
        while True:
            with self._lock:
                for incoming, _, session in self._layers:
                    incoming.write(data)
                    data = b""
                    with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                        while part := session.read(1 << 16):
                            data += part
            if data or not received:
                return data
            data = received = self.sock.recv(1 << 16)

    def read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.recv()
            assert part, f"it ended after {len(data)} of {size} bytes"
            data += part
        assert len(data) == size, f"{len(data) - size} bytes more than expected"
        return bytes(data)

    def sendall(self, data: bytes) -> None:
        with self._lock:
            for _, outgoing, session in reversed(self._layers):
                view = memoryview(data)
                while view:
                    view = view[session.write(view) :]
                data = outgoing.read()
        self.sock.sendall(data)


VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
KINDS = ["plain", "1.2", "1.3", "twice"]
Made = tuple[Wire, Peer]


@pytest.fixture
def make() -> Iterator[Callable[..., Made]]:
    """Makes wires and the server's side of each: with small buffers, unless told otherwise."""
    stack = contextlib.ExitStack()

    def make_one(kind: str = "plain", *, small: bool = True) -> Made:
        layers = {"plain": 0, "twice": 2}.get(kind, 1)
        version = VERSIONS.get(kind, ssl.TLSVersion.MAXIMUM_SUPPORTED)
        with socket.socket() as listener:
            if small:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            listener.bind(("127.0.0.1", 0))
            listener.listen()

            def serve() -> Peer:
                sock = stack.enter_context(listener.accept()[0])
                sock.settimeout(10.0)
                return Peer(sock, layers, version)

            side = InThread(serve)
            host, port = listener.getsockname()
            pipe = Dialing(5.0).connect(
                Route("localhost", 1, trusting(), f"https://{host}:{port}", trusting())
                if layers == 2
                else Route(host, port, trusting() if layers else None)
            )
            peer = side.ends(5.0)
        assert len(pipe.layers) == layers
        if small:
            pipe.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        wire = Wire(pipe)
        stack.callback(wire.free)
        return wire, peer

    with stack:
        yield make_one


def receive(wire: Wire, timeout: float = 5.0) -> bytes:
    """The next bytes: a wire may also say before the time is over that there are none yet."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return wire.receive(deadline - time.monotonic())
        except TimeoutError:
            if time.monotonic() > deadline:
                raise


def receive_exactly(wire: Wire, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = receive(wire)
        assert part
        data += part
    return bytes(data)


def fill(wire: Wire) -> int:
    """Has the wire take no more for now, between two frames; how many bytes that took."""
    size = 0
    if wire._pipe.layers:
        with contextlib.suppress(RequestTimeoutError):
            while True:
                wire.send(b"x" * 1000, 0.3)
                size += 1000
        assert not wire.is_cut
        return size
    while True:
        try:
            size += wire._out.send(bytes(65536))
        except BlockingIOError:
            if not wait_for_write(wire._out, 0.3):  # the kernel sends a last bit after 0.2
                return size


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_come_and_go(make: Callable[..., Made], kind: str) -> None:
    wire, peer = make(kind)
    wire.send(b"hello", 1.0)
    assert peer.read(5) == b"hello"
    peer.sendall(b"you")
    assert receive(wire) == b"you"
    wire.send(memoryview(b"view"), 1.0)  # type: ignore[arg-type]
    assert peer.read(4) == b"view"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.2])
def test_a_receive_waits_no_longer_than_it_may(
    make: Callable[..., Made], kind: str, seconds: float
) -> None:
    wire, _ = make(kind)
    for _ in range(3):  # the socket keeps a timeout from the receive before
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.receive(seconds)
        assert time.monotonic() - began < seconds + 0.1 if seconds > 0 else 0.1


def test_a_receive_may_wait_without_a_limit(make: Callable[..., Made]) -> None:
    wire, peer = make()
    waiting = InThread(lambda: wire.receive(float("inf")))
    peer.sendall(b"x")
    assert waiting.ends() == b"x"


@pytest.mark.parametrize("kind", ["1.2", "1.3", "twice"])
def test_a_record_that_comes_in_pieces_holds_no_receive_up(
    make: Callable[..., Made], kind: str
) -> None:
    wire, peer = make(kind)
    stop = threading.Event()
    _, outgoing, session = peer._layers[0]
    session.write(b"x" * 16_000)
    record = outgoing.read()

    def drip() -> None:
        for at in range(200):
            peer.sock.sendall(record[at : at + 1])
            if stop.wait(0.01):
                return

    dripping = InThread(drip)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        receive(wire, 0.3)
    assert time.monotonic() - began < 0.6
    stop.set()
    dripping.wait()


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_is_no_bytes(make: Callable[..., Made], kind: str) -> None:
    wire, peer = make(kind)
    peer.sendall(b"last")
    peer.sock.shutdown(socket.SHUT_WR)
    assert receive(wire) == b"last"
    assert receive(wire) == b""
    assert receive(wire) == b""


@pytest.mark.parametrize("kind", ["1.2", "1.3", "twice"])
def test_the_end_of_tls_is_the_end_though_the_socket_stays_open(
    make: Callable[..., Made], kind: str
) -> None:
    wire, peer = make(kind)
    peer.sendall(b"last")
    _, outgoing, session = peer._layers[0]
    with contextlib.suppress(ssl.SSLError):
        session.unwrap()
    peer.sock.sendall(outgoing.read())
    assert receive(wire) == b"last"
    assert receive(wire) == b""


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_is_an_error_either_way(make: Callable[..., Made], kind: str) -> None:
    wire, peer = make(kind)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.sock.close()
    with pytest.raises(ConnectionResetError):
        receive(wire)
    with pytest.raises(ConnectionLostError, match=r"^the connection was lost: "):
        wire.send(b"x", 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_frame_is_sent_whole(make: Callable[..., Made], kind: str) -> None:
    wire, peer = make(kind)
    frame = os.urandom(3_000_001)
    reading = InThread(lambda: peer.read(len(frame)))
    wire.send(frame, 10.0)
    assert reading.ends(10.0) == frame


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_two_threads_are_not_mixed(make: Callable[..., Made], kind: str) -> None:
    wire, peer = make(kind)
    size, count = 150_000, 8
    senders = [
        InThread(lambda byte=byte: [wire.send(byte * size, 10.0) for _ in range(count)])  # type: ignore[misc]
        for byte in (b"a", b"b")
    ]
    for _ in range(count):
        wire.send_control(b"c" * size)
    data = peer.read(3 * size * count)
    for sender in senders:
        assert sender.raises() is None
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    assert all(len(set(block)) == 1 for block in blocks)
    assert sorted(block[:1] for block in blocks) == [b"a"] * count + [b"b"] * count + [b"c"] * count


@pytest.mark.parametrize("kind", ["plain", "1.2", "1.3", "twice"])
def test_much_goes_both_ways_at_once(make: Callable[..., Made], kind: str) -> None:
    wire, peer = make(kind, small=False)
    there, back = os.urandom(20_000_000), os.urandom(20_000_000)

    def send() -> None:
        for at in range(0, len(there), 1_000_000):
            wire.send(there[at : at + 1_000_000], 20.0)

    threads = [
        InThread(send),
        InThread(lambda: peer.sendall(back)),
        InThread(lambda: peer.read(len(there))),
    ]
    assert receive_exactly(wire, len(back)) == back
    for thread in threads:
        thread.wait(20.0)
        assert thread.error is None
    assert threads[2].value == there


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_that_was_not_begun_in_time_leaves_the_connection_usable(
    make: Callable[..., Made], kind: str
) -> None:
    wire, peer = make(kind)
    size = fill(wire)
    for seconds in (0.1, 0.0, -1.0):
        began = time.monotonic()
        with pytest.raises(RequestTimeoutError, match="the other side takes no more for now"):
            wire.send(b"lost", seconds)
        assert time.monotonic() - began < 0.3
    assert not wire.is_cut
    peer.read(size)
    wire.send(b"more", 1.0)
    assert peer.read(4) == b"more"


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_that_stops_in_its_middle_cuts_the_connection(
    make: Callable[..., Made], kind: str
) -> None:
    wire, _ = make(kind)
    began = time.monotonic()
    with pytest.raises(RequestTimeoutError):
        wire.send(bytes(10_000_000), 0.2)
    assert time.monotonic() - began < 1.0
    assert wire.is_cut
    with pytest.raises(ConnectionLostError):
        wire.send(b"x", 1.0)
    with contextlib.suppress(OSError):
        assert wire.receive(1.0) == b""


@pytest.mark.parametrize("kind", KINDS)
def test_a_send_that_may_not_wait_sends_where_there_is_room(
    make: Callable[..., Made], kind: str
) -> None:
    wire, peer = make(kind)
    wire.send(b"now", 0.0)
    assert peer.read(3) == b"now"


def test_a_send_waits_for_others_no_longer_than_it_may(make: Callable[..., Made]) -> None:
    wire, _ = make()
    sender = InThread(lambda: wire.send(bytes(10_000_000), 5.0))
    wait_until(wire._writing.locked)
    for seconds in (0.1, 0.0, -1.0):
        with pytest.raises(RequestTimeoutError, match="still being sent"):
            wire.send(b"x", seconds)
    wire.cut()
    assert isinstance(sender.raises(), ConnectionLostError)


def test_a_send_waits_for_room_longer_than_for_the_longest_single_wait(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, peer = make()
    size = fill(wire)
    waits: list[float] = []

    def wait_for_socket(sock: socket.socket, *, timeout: float, **how: bool) -> bool:
        waits.append(timeout)
        return wait(sock, timeout=timeout, **how)

    wait = module.wait_for_socket
    monkeypatch.setattr(module, "wait_for_socket", wait_for_socket)
    monkeypatch.setattr(module, "_LONG", 0.01)
    began = time.monotonic()
    with pytest.raises(RequestTimeoutError, match="the other side takes no more for now"):
        wire.send(b"lost", 0.05)
    assert time.monotonic() - began >= 0.05
    waits.clear()
    sender = InThread(lambda: wire.send(b"more", 20.0))
    wait_until(lambda: len(waits) > 3)
    assert set(waits) == {0.01}
    assert peer.read(size + 4)[size:] == b"more"
    assert sender.raises() is None


def wait_until(condition: Callable[[], bool]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.005)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_wakes_who_receives_and_who_sends(make: Callable[..., Made], kind: str) -> None:
    wire, _ = make(kind)
    receiver = InThread(lambda: receive(wire, 20.0))
    sender = InThread(lambda: wire.send(bytes(10_000_000), 20.0))
    wait_until(wire._writing.locked)
    waiting = InThread(lambda: wire.send(b"x", 20.0))
    threading.Event().wait(0.1)
    assert all(thread.is_alive() for thread in (receiver, sender, waiting))
    began = time.monotonic()
    wire.cut()
    receiver.wait(0.2)
    assert isinstance(sender.raises(0.2), ConnectionLostError)
    assert isinstance(waiting.raises(0.2), ConnectionLostError)
    assert time.monotonic() - began < 0.3
    assert receiver.value == b"" or isinstance(receiver.error, OSError)
    wire.cut()


# -- control frames ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_frame_goes_out_behind_the_frame_that_is_being_sent(
    make: Callable[..., Made], kind: str
) -> None:
    wire, peer = make(kind)
    frame = b"f" * 3_000_000
    sender = InThread(lambda: wire.send(frame, 10.0))
    wait_until(wire._writing.locked)
    began = time.monotonic()
    wire.send_control(b"one")
    wire.send_control(b"two")
    assert time.monotonic() - began < 0.1
    assert peer.read(len(frame) + 6) == frame + b"onetwo"
    assert sender.raises() is None


@pytest.mark.parametrize("kind", KINDS)
def test_control_frames_wait_for_room_and_the_receiver_sends_them(
    make: Callable[..., Made], kind: str
) -> None:
    wire, peer = make(kind)
    size = fill(wire)
    for n in range(3):
        wire.send_control(b"control%d" % n)
    for seconds in (0.05, 0.0, -1.0):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.receive(seconds)
        assert time.monotonic() - began < 0.2
    receiver = InThread(lambda: receive(wire, 10.0))
    assert peer.read(size + 24)[size:] == b"control0control1control2"
    peer.sendall(b"x")
    assert receiver.ends() == b"x"


@pytest.mark.parametrize("kind", KINDS)
def test_control_frames_that_a_sender_leaves_when_it_gives_up_are_sent(
    make: Callable[..., Made], kind: str
) -> None:
    wire, peer = make(kind)
    size = fill(wire)
    sender = InThread(lambda: wire.send(b"lost", 0.2))
    wait_until(wire._writing.locked)
    wire.send_control(b"control")
    receiver = InThread(lambda: receive(wire, 20.0))
    assert isinstance(sender.raises(), RequestTimeoutError)
    assert peer.read(size + 7)[size:] == b"control"
    peer.sendall(b"x")
    assert receiver.ends() == b"x"


def test_the_receiver_waits_for_room_without_a_limit(make: Callable[..., Made]) -> None:
    wire, peer = make()
    size = fill(wire)
    wire.send_control(b"control")
    receiver = InThread(lambda: receive_any(wire))
    assert peer.read(size + 7)[size:] == b"control"
    peer.sendall(b"x")
    assert receiver.ends() == b"x"


def receive_any(wire: Wire) -> bytes:
    while True:
        try:
            return wire.receive(float("inf"))
        except TimeoutError:
            pass


@pytest.mark.parametrize("kind", KINDS)
def test_control_frames_go_before_the_next_frame(make: Callable[..., Made], kind: str) -> None:
    wire, peer = make(kind)
    size = fill(wire)
    wire.send_control(b"control")
    reading = InThread(lambda: peer.read(size + 12))
    wire.send(b"frame", 5.0)
    assert reading.ends()[size:] == b"controlframe"


def test_only_so_many_control_frames_are_kept(make: Callable[..., Made]) -> None:
    wire, peer = make()
    size = fill(wire)
    for n in range(1000):
        wire.send_control(b"%03d" % n)
    reading = InThread(lambda: peer.read(size + 257 * 3))  # one was begun when there was no room
    wire.send(b"", 5.0)
    assert reading.ends()[size:] == b"000" + b"".join(b"%03d" % n for n in range(744, 1000))


def test_control_frames_of_many_threads_are_all_sent(make: Callable[..., Made]) -> None:
    wire, peer = make(small=False)
    threads = [
        InThread(lambda: [wire.send_control(b"xyz") for _ in range(50)]),
        InThread(lambda: [wire.send_control(b"xyz") for _ in range(50)]),
        InThread(lambda: [wire.send(b"xyz", 5.0) for _ in range(50)]),
    ]
    assert peer.read(450) == b"xyz" * 150
    for thread in threads:
        assert thread.raises() is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_cut_takes_control_frames_and_sends_none(
    make: Callable[..., Made], kind: str
) -> None:
    wire, peer = make(kind)
    wire.cut()
    wire.send_control(b"x")
    assert peer.recv() == b""


@pytest.mark.parametrize("kind", KINDS)
def test_no_message_and_no_second_close_follows_a_close(
    make: Callable[..., Made], kind: str
) -> None:
    wire, peer = make(kind)
    wire.send_close(b"bye")
    wire.send_close(b"once more")
    with pytest.raises(ConnectionLostError, match="the connection is being closed"):
        wire.send(b"message", 1.0)
    wire.send_control(b"pong")
    received = b""
    while len(received) < 7:
        received += peer.recv()
    assert received == b"byepong"


def test_a_message_that_waits_for_its_turn_does_not_follow_a_close(
    make: Callable[..., Made],
) -> None:
    wire, peer = make()
    sender = InThread(lambda: wire.send(bytes(10_000_000), 20.0))
    wait_until(wire._writing.locked)
    other = InThread(lambda: wire.send(b"message", 20.0))
    wire.send_close(b"bye")
    received = b""
    while len(received) < 10_000_003:
        received += peer.recv()
    assert received[-3:] == b"bye"
    assert sender.raises() is None
    assert isinstance(other.raises(), ConnectionLostError)


# -- the end of a wire -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_free_closes_both_sockets_though_somebody_sends(
    make: Callable[..., Made], kind: str
) -> None:
    wire, _ = make(kind)
    sender = InThread(lambda: wire.send(bytes(10_000_000), 20.0))
    wait_until(wire._writing.locked)
    others = [InThread(lambda: wire.send(b"x", 20.0)) for _ in range(5)]
    wire.free()
    for thread in (sender, *others):
        assert isinstance(thread.raises(0.5), ConnectionLostError)
    assert wire._pipe.sock.fileno() == wire._out.fileno() == -1
    wire.free()
    wire.cut()
    wire.send_control(b"x")
    with pytest.raises(ConnectionLostError):
        wire.send(b"x", 1.0)
    with pytest.raises(OSError):  # noqa: PT011  # of which kind is the system's
        wire.receive(1.0)


@pytest.mark.skipif(
    sys.platform == "win32", reason="there, nothing interrupts a thread that waits for a socket"
)
@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_in_the_middle_of_a_frame_cuts_the_connection(
    make: Callable[..., Made], kind: str
) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals go to the main thread")
    wire, _ = make(kind)
    signaler = InThread(lambda: (wait_until(wire._writing.locked), interrupt(os.getpid())))
    with pytest.raises(KeyboardInterrupt):
        wire.send(bytes(10_000_000), 20.0)
    signaler.wait()
    assert wire.is_cut
    with pytest.raises(ConnectionLostError):
        wire.send(b"x", 1.0)


class _Interrupting:
    """A socket that is interrupted just when it has sent something."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: bytes) -> int:
        self._sock.send(data)
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_control", [False, True])
def test_ctrl_c_just_when_something_was_sent_cuts_the_connection(
    make: Callable[..., Made], kind: str, is_control: bool
) -> None:
    wire, peer = make(kind)
    wire._out = _Interrupting(wire._out)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        wire.send_control(b"once") if is_control else wire.send(b"once", 1.0)
    assert wire.is_cut
    assert peer.read(4) == b"once"
    assert peer.recv() == b""


class _TurnInterrupted:
    """The turn to write; Ctrl-C comes just when it was taken for the ``nth`` time."""

    def __init__(self, wire: Wire, nth: int) -> None:
        self.lock = wire._writing
        self._wire = wire
        self._nth = nth

    def locked(self) -> bool:
        return self.lock.locked()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        is_taken = self.lock.acquire(blocking, timeout)
        self._nth -= is_taken
        if is_taken and self._nth == 0:
            raise KeyboardInterrupt
        return is_taken

    def release(self) -> None:
        if self._nth == 1:  # so that there is something left to send, for which it is taken again
            self._wire._controls.append(b"control")
        self.lock.release()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nth", [1, 2])
def test_ctrl_c_just_when_the_turn_to_write_was_taken_cuts_the_connection(
    make: Callable[..., Made], kind: str, nth: int
) -> None:
    wire, peer = make(kind)
    turn = _TurnInterrupted(wire, nth)
    wire._writing = turn  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        wire.send(b"frame", 1.0)
    assert wire.is_cut  # so who reads it notices, and there will be another
    assert receive(wire) == b""
    received = b""
    while part := peer.recv():
        received += part
    assert received == (b"" if nth == 1 else b"frame")
    if turn.locked():
        turn.lock.release()  # else one of its sockets is left to the collector


class _WithHandler:
    """A socket in the middle of whose first send a signal handler runs, in the same thread."""

    def __init__(self, sock: socket.socket, handler: Callable[[], object]) -> None:
        self._sock = sock
        self._handler: Callable[[], object] | None = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: bytes) -> int:
        handler, self._handler = self._handler, None
        if handler is not None:
            handler()
        return self._sock.send(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_handler_cannot_send_in_the_middle_of_a_send_that_goes_on(
    make: Callable[..., Made], kind: str
) -> None:
    wire, peer = make(kind)
    raised: list[BaseException] = []

    def handler() -> None:
        with pytest.raises(ReasoningError) as caught:
            wire.send(b"handler's", 0.5)
        raised.append(caught.value)
        wire.send_control(b"control")  # this waits for nothing
        other = InThread(lambda: wire.send(b"other", 0.05))  # while another thread has its turn
        assert isinstance(other.raises(), RequestTimeoutError)

    wire._out = _WithHandler(wire._out, handler)  # type: ignore[assignment]
    wire.send(b"frame", 5.0)
    (error,) = raised
    assert isinstance(error, StateError)
    assert str(error) == "this thread is in the middle of sending another message"
    assert peer.read(12) == b"framecontrol"
    wire.send(b"next", 1.0)
    assert peer.read(4) == b"next"


FORK = """
import os, socket, sys
from reasoning_sdk._io.dial import Pipe
from reasoning_sdk._io.websocket import Wire

with socket.create_server(("127.0.0.1", 0)) as listener:
    client = socket.create_connection(listener.getsockname())
    server = listener.accept()[0]
wire = Wire(Pipe(client))
wire._writing.acquire()  # as if another thread was sending, which the child has not
child = os.fork()
if child == 0:
    wire.cut()
    wire.free()
    os._exit(0 if wire._pipe.sock.fileno() == wire._out.fileno() == -1 else 5)
assert os.waitpid(child, 0)[1] == 0
wire._writing.release()
server.sendall(b"from server")
assert wire.receive(5.0) == b"from server"
wire.send(b"from client", 5.0)
assert server.recv(100) == b"from client"
wire.free()
assert server.recv(100) == b""
server.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_frees_its_copies_and_disturbs_nobody() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30.0,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_a_layer_of_tls_writes_everything_at_once() -> None:
    """What :class:`Wire` counts on: that none of a piece is left over."""
    client, server = socket.socketpair()
    with client, server:
        side = InThread(lambda: serve_tls(server, tls_context()))
        pipe = Dialing(5.0)._secured(Pipe(client), trusting(), "localhost")
        side.ends()
        assert len(pipe.layers[0].encrypt(bytes(1 << 20))) > 1 << 20
        assert isinstance(pipe.layers[0], TLS)
