"""Connections that keep to a deadline, can be cut, and read many HTTP chunks at once."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._io.exchange import Exchange, Session, Stack, _split_chunks, ask, can_ask
from tests.support.scripted import (
    Connection,
    ScriptedServer,
    answer,
    no_content,
    raw,
    redirect,
    reset,
    sse,
)
from tests.support.threads import InThread

FUTURE = hasattr(urllib3, "AsyncPoolManager")
pytestmark = pytest.mark.http

Scripted = Callable[..., ScriptedServer]
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ROOT = Path(__file__).resolve().parents[2]


# -- the payload of HTTP chunks ----------------------------------------------------------------


def framed(chunks: list[bytes], size_lines: list[str] | None = None) -> bytes:
    forms = size_lines or ["{:x}"] * len(chunks)
    lines = [form.format(len(c)).encode() for form, c in zip(forms, chunks, strict=True)]
    return b"".join(b"%b\r\n%b\r\n" % (ln, c) for ln, c in zip(lines, chunks, strict=True))


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    form=st.sampled_from(["{:x}", "{:X}", "{:04x}", "{:x};name=value", "{:x} "]),
    data=st.data(),
)
def test_wherever_the_bytes_are_cut_the_payload_is_the_same(
    chunks: list[bytes], form: str, data: st.DataObject
) -> None:
    wire = framed(chunks, [form] * len(chunks)) + b"0\r\n\r\n"
    payload, held, left = b"", b"", None
    position = 0
    while position < len(wire):
        end = data.draw(st.integers(position + 1, len(wire)))
        held += wire[position:end]
        position = end
        while held:
            part, used, left = _split_chunks(held, left)
            payload, held = payload + part, held[used:]
            assert left is None or left >= 0
            if not part:
                break
    assert payload == b"".join(chunks)
    assert held.lstrip(b"\r\n") in (b"0\r\n\r\n", b"0")


@pytest.mark.parametrize(
    ("buffered", "left", "expected"),
    [
        (b"", None, (b"", 0, None)),
        (b"5", None, (b"", 0, None)),
        (b"5\r\n", None, (b"", 3, 5)),
        (b"5\r\nabc", None, (b"abc", 6, 2)),
        (b"de\r", 2, (b"de", 2, 0)),
        (b"\r\n3\r\nxyz", 0, (b"xyz", 8, 0)),
        (b"\r\n0\r\n\r\n", 0, (b"", 2, None)),
        (b"zz\r\nabc", None, (b"", 0, None)),
        (b"-5\r\nabc", None, (b"", 0, None)),
        (b"1\r\na\r\n-5\r\n", None, (b"a", 6, None)),
    ],
)
def test_what_is_taken_and_what_is_left(
    buffered: bytes, left: int | None, expected: tuple[bytes, int, int | None]
) -> None:
    assert _split_chunks(buffered, left) == expected


# -- over a socket -----------------------------------------------------------------------------


def read_all(response: requests.Response) -> bytes:
    received = b""
    while data := response.raw.read1(65536, decode_content=True):
        received += data
    return received


@pytest.mark.skipif(FUTURE, reason="urllib3-future reads HTTP chunks its own way")
def test_chunks_that_have_arrived_are_read_at_once(scripted: Scripted) -> None:
    server = scripted(lambda c: c.send(HEAD + framed([b"a"] * 500) + b"0\r\n\r\n"))
    with Session() as session:
        exchange = Exchange(10.0)
        with exchange.current():
            response = session.get(server.url(), stream=True)
        assert len(response.raw.read1(65536)) == 500
        assert response.raw.read1(65536) == b""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_chunked_body_in_pieces_of_any_size(scripted: Scripted, size: int) -> None:
    body = b"".join(b"%d " % n for n in range(60))
    wire = HEAD + framed([body[at : at + 9] for at in range(0, len(body), 9)]) + b"0\r\n\r\n"

    def handle(connection: Connection) -> None:
        for at in range(0, len(wire), size):
            connection.send(wire[at : at + size])

    server = scripted([handle, answer(200)])
    with Session() as session:
        with Exchange(10.0).current():
            response = session.get(server.url(), stream=True)
        assert read_all(response) == body
        assert session.get(server.url()).status_code == 200
    assert server.accepted == 1


@pytest.mark.parametrize("trailer", [b"", b"X-Checksum: 1\r\nX-More: 2\r\n"])
def test_trailers_are_read_and_the_connection_is_used_again(
    scripted: Scripted, trailer: bytes
) -> None:
    wire = HEAD + b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n"
    server = scripted([lambda connection: connection.send(wire)] * 2)
    with Session() as session:
        for _ in range(2):
            with Exchange(10.0).current():
                response = session.get(server.url(), stream=True)
            assert read_all(response) == b"abc"
    assert server.accepted == 1


WRONG_CHUNKS = [
    b"",
    b"5",
    b"5\r\n",
    b"5\r\nab",
    b"5\r\nabcde",
    b"5\r\nabcde\r\n",
    b"-5\r\nabcde\r\n",
    b"zz\r\nabcde\r\n",
    b"\r\n",
    b"3\r\nabcde\r\n",
]


@pytest.mark.parametrize("wire", WRONG_CHUNKS)
def test_a_body_that_breaks_in_its_chunks_is_not_taken_for_whole(
    scripted: Scripted, wire: bytes
) -> None:
    server = scripted(raw(HEAD + wire))
    with Session() as session:
        with Exchange(5.0).current():
            response = session.get(server.url(), stream=True)
        with pytest.raises((urllib3.exceptions.HTTPError, OSError)):
            read_all(response)
    server.wait_no_connections()


@pytest.mark.skipif(FUTURE, reason="urllib3-future reads HTTP chunks its own way")
def test_a_negative_size_of_a_chunk_does_not_keep_the_reader_busy(scripted: Scripted) -> None:
    server = scripted(raw(HEAD + b"-5\r\nabc", then="silence"))
    with Session() as session:
        with Exchange(5.0).current():
            response = session.get(server.url(), stream=True)
        with pytest.raises(urllib3.exceptions.ProtocolError):
            response.raw.read1(65536)


@pytest.mark.skipif(FUTURE, reason="with urllib3-future the deadline holds per receive only")
@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_one_deadline_bounds_headers_that_come_drop_by_drop(
    scripted: Scripted, first: bytes
) -> None:
    def handle(connection: Connection) -> None:
        connection.send(first)
        while True:
            connection.send(b"X" if first else b"H")
            connection.pause(0.02)

    server = scripted(handle)
    started = time.monotonic()
    with (
        Session() as session,
        Exchange(0.2).current(),
        pytest.raises(requests.RequestException, match="timed out"),
    ):
        session.get(server.url(), timeout=0.2)
    assert time.monotonic() - started < 2.0


@pytest.mark.skipif(FUTURE, reason="with urllib3-future the deadline holds per receive only")
def test_one_deadline_bounds_a_chunk_size_that_comes_drop_by_drop(scripted: Scripted) -> None:
    def handle(connection: Connection) -> None:
        connection.send(HEAD)
        while True:
            connection.send(b"0")
            connection.pause(0.02)

    server = scripted(handle)
    with Session() as session:
        exchange = Exchange(0.3)
        with exchange.current():
            response = session.get(server.url(), stream=True)
        started = time.monotonic()
        with pytest.raises((urllib3.exceptions.HTTPError, TimeoutError)):
            read_all(response)
        assert time.monotonic() - started < 2.0


def test_without_an_exchange_a_session_is_a_plain_one(scripted: Scripted) -> None:
    server = scripted([sse([b"data: x\n\n"]), answer(200, b"body")])
    with Session() as session:
        assert session.get(server.url(), timeout=5.0).content == b"data: x\n\n"
        assert session.get(server.url(), timeout=5.0).content == b"body"
    assert server.accepted == 1


def test_a_session_follows_no_redirect_and_reads_none(scripted: Scripted) -> None:
    def endless(connection: Connection) -> None:
        connection.headers(302, {"Location": "/next", "Transfer-Encoding": "chunked"})
        connection.chunk(b"x")
        connection.wait_closed()

    server = scripted([redirect("/next"), endless])
    with Session() as session:
        assert session.get(server.url(), allow_redirects=False).status_code == 302
        got = session.get(server.url(), allow_redirects=False, stream=True, timeout=5.0)
        assert got.status_code == 302
        got.close()


# -- exchanges ---------------------------------------------------------------------------------


def test_the_time_that_remains() -> None:
    assert Exchange(None).remaining() is None
    remaining = Exchange(5.0).remaining()
    assert remaining is not None
    assert 0 < remaining <= 5.0
    exchange = Exchange(5.0)
    exchange.extend(0.0)
    with pytest.raises(TimeoutError):
        exchange.remaining()
    exchange.extend(None)
    assert exchange.remaining() is None


def test_an_abort_shuts_the_socket_down_whenever_it_comes() -> None:
    for attach_first in (True, False):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            exchange = Exchange(None)
            if attach_first:
                exchange.attach(ours)
                exchange.abort()
            else:
                exchange.abort()
                exchange.attach(ours)
            assert exchange.aborted
            assert theirs.recv(1) == b""
            assert ours.recv(1) == b""
        exchange.abort()  # of a closed one is nothing


def test_an_abort_wakes_who_waits_for_the_answer(scripted: Scripted) -> None:
    server = scripted(lambda connection: connection.wait_closed())
    exchange, raised = Exchange(None), []

    def get() -> None:
        with Session() as session, exchange.current():
            try:
                session.get(server.url())
            except requests.ConnectionError as error:
                raised.append(error)

    thread = threading.Thread(target=get)
    thread.start()
    server.wait_for_requests(1)
    exchange.abort()
    thread.join(2.0)
    assert not thread.is_alive()
    assert len(raised) == 1
    server.wait_no_connections()


def test_a_connection_that_another_exchange_uses_is_not_cut(scripted: Scripted) -> None:
    server = scripted([answer(200), answer(200, b"second")])
    with Session() as session:
        first, second = Exchange(5.0), Exchange(5.0)
        with first.current():
            assert session.get(server.url()).content == b""
        with second.current():
            response = session.get(server.url(), stream=True)
        first.abort()
        assert read_all(response) == b"second"
    assert server.accepted == 1


@pytest.mark.skipif(FUTURE, reason="urllib3-future has connections and pools of another kind")
def test_a_whole_body_lets_go_of_the_socket_before_the_connection_is_put_back(
    scripted: Scripted,
) -> None:
    server = scripted([sse([b"x"], framing="chunked"), sse([b"x"], framing="length"), no_content()])
    with Session() as session:
        pool = pool_to(session, server.url())
        put_back, sockets = pool._put_conn, []

        def put(connection: Any) -> None:
            sockets.append(exchange._socket)
            put_back(connection)

        pool._put_conn = put
        for _ in range(3):
            exchange = Exchange(None)
            with exchange.current():
                read_all(session.get(server.url(), stream=True))
    assert sockets == [None] * 3
    assert server.accepted == 1


def test_a_connection_whose_socket_was_closed_is_replaced(scripted: Scripted) -> None:
    server = scripted(answer(200, b"x"), repeat_last=True)
    with Session() as session:
        exchange = Exchange(None)
        with exchange.current():
            answered = session.get(server.url(), stream=True)
            sock = exchange._socket
            assert answered.content == b"x"
            sock.close()
            assert session.get(server.url()).content == b"x"
    assert server.accepted == 2


def test_it_bounds_an_answer_whose_connection_is_not_one_of_ours(scripted: Scripted) -> None:
    server = scripted(sse([b"data: x\n\n"], then="silence"))
    with requests.Session() as session, session.get(server.url(), stream=True) as response:
        exchange = Exchange(10.0)
        exchange.attach_answer(response.raw)
        exchange.arm()
        assert 0 < (exchange.receive_timeout or 0) <= 10.0


def test_no_file_is_made_of_a_socket_that_is_known_without_one() -> None:
    """As urllib3-future does when it is asked for one, and then the socket cannot be closed."""

    class Body:
        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock
            self.made: list[Any] = []

        @property
        def fp(self) -> Any:
            self.made.append(self._sock.makefile("rb"))
            return self.made[-1]

    with socket.socket() as sock:
        body = Body(sock)
        exchange = Exchange(10.0)
        exchange.attach_answer(SimpleNamespace(_fp=body))
        exchange.arm()
        assert 0 < (sock.gettimeout() or 0) <= 10.0
        assert body.made == []


# -- requests that are written out -------------------------------------------------------------

REQUEST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"


def pool_to(session: requests.Session, url: str) -> Any:
    adapter = session.get_adapter(url)
    assert isinstance(adapter, requests.adapters.HTTPAdapter)
    prepared = requests.Request("POST", url).prepare()
    return adapter.get_connection_with_tls_context(prepared, True)


@pytest.mark.skipif(FUTURE, reason="with urllib3-future nothing is asked like that")
def test_only_pools_of_ours_can_be_asked(scripted: Scripted) -> None:
    with Session() as ours, requests.Session() as theirs:
        assert can_ask(pool_to(ours, "http://127.0.0.1:1/"))
        assert can_ask(pool_to(ours, "https://127.0.0.1:1/"))
        assert not can_ask(pool_to(theirs, "http://127.0.0.1:1/"))


@pytest.mark.skipif(FUTURE, reason="with urllib3-future nothing is asked like that")
def test_a_request_is_sent_as_it_is_written_and_its_answer_read(scripted: Scripted) -> None:
    server = scripted([answer(200, b"first"), sse(b"x" * 10, chunk_size=3), answer(404, b"third")])
    with Session() as session:
        pool = pool_to(session, server.url())
        got = []
        for _ in range(3):
            with Exchange(5.0).current():
                found, body = ask(pool, REQUEST, 1.0, 1000)
            got.append((found.status, body))
    assert got == [(200, b"first"), (200, b"x" * 10), (404, b"third")]
    assert [request.raw for request in server.requests] == [REQUEST] * 3
    assert server.accepted == 1


@pytest.mark.skipif(FUTURE, reason="with urllib3-future nothing is asked like that")
@pytest.mark.parametrize(("size", "kept"), [(9, False), (10, True), (11, True)])
def test_a_body_is_read_up_to_a_size_and_the_connection_kept_if_that_is_all(
    scripted: Scripted, size: int, kept: bool
) -> None:
    server = scripted([answer(200, b"x" * 10), answer(200)])
    with Session() as session:
        pool = pool_to(session, server.url())
        for expected in (b"x" * min(size, 10), b""):
            with Exchange(5.0).current():
                assert ask(pool, REQUEST, 1.0, size)[1] == expected
    assert server.accepted == (1 if kept else 2)


@pytest.mark.skipif(FUTURE, reason="with urllib3-future nothing is asked like that")
def test_a_failure_closes_the_connection_and_the_next_request_makes_another(
    scripted: Scripted,
) -> None:
    server = scripted([reset(), raw(b"nonsense\r\n"), answer(200)])
    with Session() as session:
        pool = pool_to(session, server.url())
        for error in (ConnectionError, http.client.BadStatusLine):
            with Exchange(5.0).current(), pytest.raises(error):
                ask(pool, REQUEST, 1.0, 10)
        with Exchange(5.0).current():
            assert ask(pool, REQUEST, 1.0, 10)[0].status == 200
    assert server.accepted == 3
    server.wait_no_connections()


@pytest.mark.skipif(FUTURE, reason="with urllib3-future nothing is asked like that")
def test_the_deadline_of_the_exchange_bounds_the_whole_of_it(scripted: Scripted) -> None:
    def trickle(connection: Connection) -> None:
        while True:
            connection.send(b"H")
            connection.pause(0.02)

    server = scripted(trickle)
    began = time.monotonic()
    with Session() as session, Exchange(0.2).current(), pytest.raises(TimeoutError):
        ask(pool_to(session, server.url()), REQUEST, 1.0, 10)
    assert time.monotonic() - began < 2.0


# -- sessions for threads that come and go -----------------------------------------------------


class Thing:
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_the_one_that_was_put_back_last_is_used_next() -> None:
    stack = Stack(Thing)
    with stack.one() as first, stack.one() as second:
        assert first is not second
    with stack.one() as third:
        assert third is first  # put back after the second
    with stack.one() as fourth, stack.one() as fifth:
        assert (fourth, fifth) == (first, second)
    stack.close()
    assert (first.closed, second.closed) == (1, 1)


def test_one_that_is_in_use_is_closed_when_it_is_put_back() -> None:
    stack = Stack(Thing)
    with stack.one() as thing:
        stack.close()
        assert thing.closed == 0
    assert thing.closed == 1


def test_of_many_threads_no_two_have_the_same() -> None:
    stack, used, lock = Stack(Thing), set[int](), threading.Lock()

    def use() -> None:
        for _ in range(500):
            with stack.one() as thing:
                with lock:
                    assert id(thing) not in used
                    used.add(id(thing))
                with lock:
                    used.remove(id(thing))

    for thread in [InThread(use) for _ in range(8)]:
        assert thread.raises(10.0) is None


FORK = """
import os, socket, sys
from reasoning_sdk._io.exchange import Exchange
ours, theirs = socket.socketpair()
exchange = Exchange(None)
exchange.attach(ours)
child = os.fork()
if child == 0:
    exchange._lock = None       # as good as held for ever by a thread that is not here
    exchange.abort()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
theirs.sendall(b"x")
assert ours.recv(1) == b"x"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_does_not_cut_the_connection_of_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
