"""WebSocketConnection: what its contract promises, against a real server."""

import contextlib
import datetime
import gc
import itertools
import json
import logging
import os
import pickle
import signal
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

import reasoning_sdk as r
from reasoning_sdk._io.thread import BackgroundThread
from reasoning_sdk._io.websocket import Wire
from reasoning_sdk.websocket import _JSON, ConnectionState, WebSocketStats
from tests.support.fault_proxy import FaultProxy
from tests.support.threads import InThread
from tests.support.websocket_peer import WebSocketPeer

Connect = Callable[..., r.WebSocketConnection]
CONNECTING, OPEN = ConnectionState.CONNECTING, ConnectionState.OPEN
RECONNECTING, CLOSED = ConnectionState.RECONNECTING, ConnectionState.CLOSED
SECRET = "rl-very-secret-0123456789"
NOWHERE = "ws://127.0.0.1:1/"
LINUX = sys.platform == "linux"
#: What two busy cores may add to any time.
LOAD = 0.4
ONCE = r.RetryPolicy(initial_interval=0.01, randomization_factor=0, max_attempts=1)
SLOW = r.RetryPolicy(initial_interval=30.0, randomization_factor=0)


def wait_until(condition: Callable[[], Any], timeout: float = 10.0) -> None:
    pause, deadline = threading.Event(), time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout} seconds"
        pause.wait(0.005)


def let_pass(seconds: float) -> None:
    """Lets real time pass, which the limits of a connection are made of."""
    threading.Event().wait(seconds)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds + LOAD, f"it took {took:.3f} seconds"


def numbers(messages: Any) -> list[int]:
    return [message["n"] for message in messages]


def take(iterator: Any, count: int) -> list[Any]:
    return list(itertools.islice(iterator, count))


def kinds(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


# -- the first connection ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "http://h/"}, "url must be a ws or wss URL"),
        ({"url": 5}, "url must be a ws or wss URL"),
        ({"url": lambda: "nowhere"}, "url must be a ws or wss URL"),
        ({"url": lambda: 5}, "url must be a ws or wss URL"),
        ({"url": f"ws://u:{SECRET}@h/"}, "no user, password"),
        ({"headers": 5}, "headers must be a mapping"),
        ({"headers": lambda: 5}, "headers must be a mapping"),
        ({"headers": {"A": f"{SECRET}\n"}}, "the value of header A"),
        ({"headers": {"Upgrade": "x"}}, "the handshake's own"),
        ({"retry": 3}, "retry must be a RetryPolicy"),
        ({"on_reconnect": 5}, "on_reconnect must be callable"),
        ({"on_connect": 5}, "on_connect must be callable"),
        ({"should_reconnect": 5}, "should_reconnect must be callable"),
        ({"open_timeout": 0}, "open_timeout must be > 0"),
        ({"ping_interval": -1}, "ping_interval must be > 0"),
        ({"ping_timeout": "1"}, "ping_timeout must be > 0"),
        ({"idle_timeout": float("nan")}, "idle_timeout must be > 0"),
        ({"send_timeout": True}, "send_timeout must be >= 0"),
        ({"close_timeout": -1}, "close_timeout must be >= 0"),
        ({"max_size": 0}, "max_size must be a whole number > 0"),
        ({"max_queue": 1.5}, "max_queue must be a whole number > 0"),
        ({"max_queue_bytes": -1}, "max_queue_bytes must be a whole number > 0"),
        ({"overflow": "drop"}, "overflow must be one of block, drop_oldest, drop_newest"),
        ({"proxy": 5}, "proxy must be the URL of a proxy"),
        ({"proxy": "socks5://h:1"}, "proxy must be an http or https URL"),
        ({"ssl_context": True}, "ssl_context must be an SSLContext"),
        ({"subprotocols": "p"}, "subprotocols must be a list"),
        ({"subprotocols": ["a b"]}, "characters that HTTP does not allow"),
        ({"subprotocols": ["a", "a"]}, "offered twice"),
        ({"subprotocols": 5}, "must be a list of names, got a int"),
        ({"codec": "xml"}, "codec must be one of json, raw"),
        ({"codec": 5}, "codec must have a method"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(r.ConfigurationError, match=said) as caught:
        r.WebSocketConnection.connect(**{"url": NOWHERE, **options})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, r.BadRequestError),
        (401, r.AuthenticationError),
        (403, r.PermissionDeniedError),
        (404, r.NotFoundError),
        (429, r.RateLimitError),
        (503, r.ServerError),
    ],
)
def test_a_refusal_of_the_first_connection_is_raised(
    fault_proxy: FaultProxy, status: int, kind: type[r.APIStatusError]
) -> None:
    fault_proxy.answer(status, {"Retry-After": "7"}, b'{"error": "why"}')
    with pytest.raises(kind) as caught:
        r.WebSocketConnection.connect(fault_proxy.url + "/echo")
    assert (caught.value.status_code, caught.value.retry_after) == (status, 7.0)
    assert caught.value.body == {"error": "why"}
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert fault_proxy.connections == 1  # who connects decides whether to try again


def test_what_is_no_websocket_server_is_a_protocol_error(fault_proxy: FaultProxy) -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    for answer in (b"SSH-2.0-OpenSSH\r\n", head + b"Sec-WebSocket-Accept: wrong\r\n\r\n"):
        fault_proxy.garbage(answer)
        with pytest.raises(r.ProtocolError, match=r"is no(t HTTP| WebSocket)"):
            r.WebSocketConnection.connect(fault_proxy.url + "/echo")


def test_no_connection_is_a_connect_error(fault_proxy: FaultProxy) -> None:
    fault_proxy.refuse()
    urls = (fault_proxy.url, "ws://nowhere.invalid/")
    for url in urls:
        with pytest.raises(r.ConnectError, match="cannot connect"):
            r.WebSocketConnection.connect(f"{url}/?token={SECRET}")
    fault_proxy.flap()
    with pytest.raises(r.ConnectError):
        r.WebSocketConnection.connect(fault_proxy.url)


def test_an_answer_that_does_not_come_in_time_is_a_connect_error(fault_proxy: FaultProxy) -> None:
    fault_proxy.never_answer()
    with within(0.2), pytest.raises(r.ConnectTimeoutError):
        r.WebSocketConnection.connect(fault_proxy.url + "/echo", open_timeout=0.2)


def test_what_the_callables_raise_at_first_comes_through() -> None:
    for name in ("url", "headers"):
        with pytest.raises(ZeroDivisionError):
            r.WebSocketConnection.connect(**{"url": NOWHERE, name: lambda: 1 / 0})


def test_url_and_headers_are_asked_for_at_each_attempt(
    websocket_peer: WebSocketPeer, fault_proxy: FaultProxy, connect: Connect
) -> None:
    counts = itertools.count()
    tokens = (f"token-{n}" for n in itertools.count())
    connection = connect(
        lambda: f"{fault_proxy.url}/headers?attempt={next(counts)}",
        headers=lambda: {"Authorization": f"Bearer {next(tokens)}"},
    )
    for attempt in range(3):
        told = connection.next_message(timeout=5.0)
        assert told["path"] == f"/headers?attempt={attempt}"
        assert ["Authorization", f"Bearer token-{attempt}"] in told["headers"]
        fault_proxy.reset()


def test_headers_that_are_changed_later_change_nothing(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    headers = {"X-A": "a"}
    connection = connect(fault_proxy.url + "/headers", headers=headers)
    headers["X-A"] = "b"
    for _ in range(2):
        assert ["X-A", "a"] in connection.next_message(timeout=5.0)["headers"]
        fault_proxy.reset()


def test_the_handshake_says_who_asks(connect: Connect) -> None:
    told = connect("/headers?a=b").next_message(timeout=5.0)
    sent = dict(told["headers"])
    assert told["path"] == "/headers?a=b"
    assert sent["User-Agent"].startswith("reasoning")
    assert "permessage-deflate" in sent["Sec-WebSocket-Extensions"]
    assert "Origin" not in sent


def test_a_subprotocol_is_agreed_on(connect: Connect) -> None:
    connection = connect("/headers?subprotocol=q", subprotocols=["p", "q"])
    assert connection.subprotocol == "q"
    told = connection.next_message(timeout=5.0)
    assert told["subprotocol"] == "q"
    assert ["Sec-WebSocket-Protocol", "p, q"] in told["headers"]
    assert connect("/headers", subprotocols=[]).subprotocol is None
    with pytest.raises(r.ProtocolError, match="not offered"):
        connect("/headers?subprotocol=z", subprotocols=["p"])


# -- receiving -----------------------------------------------------------------------------------


def test_messages_come_in_order(connect: Connect) -> None:
    assert numbers(take(connect("/count?n=2500"), 2500)) == list(range(2500))


def test_a_message_may_come_in_binary_frames_and_in_fragments(connect: Connect) -> None:
    for query in ("binary=1", "fragments=3", "binary=1&fragments=5"):
        assert numbers(take(connect(f"/count?n=3&{query}"), 3)) == [0, 1, 2]


def test_the_next_message_is_waited_for(connect: Connect) -> None:
    connection = connect("/count?n=2")
    assert connection.next_message() == {"n": 0, "pad": ""}
    assert connection.next_message(timeout=5.0)["n"] == 1
    with within(0.1), pytest.raises(r.RequestTimeoutError):
        connection.next_message(timeout=0.1)
    with within(0.0), pytest.raises(TimeoutError):
        connection.next_message(timeout=0)
    assert connection.state is OPEN


def test_without_waiting_what_is_there_is_given(connect: Connect) -> None:
    connection = connect("/count?n=3")
    wait_until(lambda: connection.stats.received == 3)
    assert [connection.next_message(timeout=0)["n"] for _ in range(3)] == [0, 1, 2]


def test_json_null_is_a_message_to_the_iterators(connect: Connect) -> None:
    connection = connect("/echo")
    connection.send(None)
    connection.send([None])
    events = connection.events()
    assert [event.data for event in take(events, 3)[1:]] == [None, [None]]
    connection.send(None)
    assert next(connection) is None
    assert connection.state is OPEN


@pytest.mark.parametrize("how", ["iterator", "events", "next_message"])
def test_a_close_from_another_thread_ends_the_wait_at_once(connect: Connect, how: str) -> None:
    connection = connect("/count?n=1")

    def read() -> tuple[list[Any], float]:
        if how == "next_message":
            values: list[Any] = [connection.next_message(), connection.next_message()]
        else:
            values = list(connection if how == "iterator" else connection.events())
        return values, time.monotonic()

    reader = InThread(read)
    wait_until(lambda: connection.stats.received == 1 and not connection.stats.queued)
    let_pass(0.05)
    closed_at = time.monotonic()
    connection.close()
    values, ended_at = reader.ends(5.0)
    assert ended_at - closed_at < 0.1 + LOAD
    assert len(values) == (1 if how == "iterator" else 2)
    assert connection.next_message() is None
    assert connection.next_message(timeout=0) is None
    assert list(connection) == list(connection.events()) == []
    assert connection.error is None


@pytest.mark.parametrize("how", ["iterator", "events", "next_message"])
def test_after_a_close_nothing_that_waits_is_delivered(connect: Connect, how: str) -> None:
    connection = connect("/count?n=1000")
    wait_until(lambda: connection.stats.received == 1000)
    events = connection.events()
    first = {
        "iterator": lambda: next(connection),
        "events": lambda: take(events, 2)[1].data,
        "next_message": connection.next_message,
    }
    assert first[how]()["n"] == 0
    connection.close()
    assert connection.next_message() is None
    assert list(connection) == list(events) == []


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_a_close_that_is_refused_changes_nothing(connect: Connect, timeout: Any) -> None:
    connection = connect("/count?n=10")
    assert next(connection)["n"] == 0
    with pytest.raises(r.ConfigurationError, match="timeout must be >= 0 seconds"):
        connection.close(timeout)
    assert connection.state is ConnectionState.OPEN
    assert numbers(take(connection, 9)) == list(range(1, 10))


SECRET = "s3cr3t-t0ken"


def test_no_credential_that_the_server_repeats_is_told(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "reasoning_sdk")
    headers = {"Authorization": f"Bearer {SECRET}"}
    connection = connect(f"/close?code=4001&reason=no+{SECRET}", headers=headers)
    with pytest.raises(r.UnauthenticatedCloseError) as caught:
        next(connection)
    told = [*traceback.format_exception(caught.value), caplog.text, repr(connection.error)]
    connection = connect("/echo", headers=headers, codec="raw")
    connection.send(f"bad token {SECRET}")
    connection._codec = _JSON()
    with pytest.raises(r.ProtocolError, match="a message cannot be read") as unreadable:
        next(connection)
    told += [*traceback.format_exception(unreadable.value), str(vars(unreadable.value.__cause__))]
    assert SECRET not in "".join(told)


def test_no_query_is_told_of_a_url_that_cannot_work() -> None:
    for url in (f"https://host/ws?token={SECRET}", f"ws://host:x/?token={SECRET}"):
        with pytest.raises(r.ConfigurationError, match="url must be a ws or wss URL") as caught:
            r.WebSocketConnection.connect(url)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("bad", ["", None, "wss://user:pass@host/"])
def test_a_url_that_cannot_work_when_it_connects_again_is_told_and_not_shown(
    fault_proxy: FaultProxy, connect: Connect, bad: Any
) -> None:
    urls = iter([fault_proxy.url + "/echo"])
    connection = connect(lambda: next(urls, bad))
    fault_proxy.reset()
    with pytest.raises(r.ConfigurationError):
        next(connection)
    assert "/echo" in repr(connection)
    assert "pass" not in repr(connection)


def test_a_close_ends_the_iteration_it_is_called_in(connect: Connect) -> None:
    for path in ("/count?n=100", "/ticks"):
        connection = connect(path)
        seen = []
        for message in connection:
            seen.append(message)
            connection.close()
        assert len(seen) == 1
        connection, seen = connect(path), []
        for event in connection.events():
            seen.append(event)
            if isinstance(event, r.Message):
                connection.close()
        assert kinds(seen) == ["Connected", "Message"]


def test_the_connections_life_is_in_band(connect: Connect) -> None:
    connection = connect("/close?code=1001&reason=restart&after=2")
    before = time.time()
    events = take(connection.events(), 8)
    assert kinds(events) == ["Connected", "Message", "Message", "Disconnected"] * 2
    assert [event.attempt for event in events[::4]] == [0, 1]
    assert numbers(event.data for event in events if isinstance(event, r.Message)) == [0, 1] * 2
    assert before - 5 < events[1].received_at < time.time() + 1
    lost = events[3]
    assert lost.close_code == 1001
    assert isinstance(lost.error, r.ConnectionLostError)
    assert lost.error.close_code == 1001
    assert "restart" in str(lost.error)


def test_ways_to_read_can_be_mixed_and_lose_nothing(connect: Connect) -> None:
    connection = connect("/count?n=3000")
    events, other = connection.events(), connection.events()
    assert next(other) == r.Connected(attempt=0)
    seen: list[int] = []
    for _ in range(750):
        for iterator in (events, other):
            message = next(iterator)
            assert isinstance(message, r.Message)
            seen.append(message.data["n"])
        seen.append(next(connection)["n"])
        seen.append(connection.next_message(timeout=5.0)["n"])
    assert seen == list(range(3000))


def test_two_threads_that_wait_are_told(connect: Connect) -> None:
    connection = connect("/count?n=1")
    reader = InThread(lambda: list(connection))
    wait_until(lambda: connection.stats.received == 1 and not connection.stats.queued)
    let_pass(0.05)
    for read in (connection.next_message, connection.__next__, connection.events().__next__):
        with pytest.raises(r.ConcurrencyError):
            read()
    with pytest.raises(r.ConcurrencyError):
        connection.next_message(timeout=0)
    connection.close()
    assert len(reader.ends(5.0)) == 1


@pytest.mark.parametrize("kind", ["json", "binary"])
def test_what_is_not_json_is_an_error_for_that_message_alone(connect: Connect, kind: str) -> None:
    path = f"/bad?kind={kind}"
    connection = connect(path)
    assert next(connection) == {"n": 0}
    with pytest.raises(r.ProtocolError, match="a message cannot be read"):
        next(connection)
    assert next(connection) == {"n": 1}
    connection = connect(path)
    assert connection.next_message(timeout=5.0) == {"n": 0}
    with pytest.raises(r.ProtocolError):
        connection.next_message(timeout=5.0)
    assert connection.next_message(timeout=5.0) == {"n": 1}
    connection = connect(path)
    events = connection.events()
    assert kinds(take(events, 2)) == ["Connected", "Message"]
    with pytest.raises(r.ProtocolError):
        next(events)
    event = next(events)
    assert isinstance(event, r.Message)
    assert event.data == {"n": 1}
    assert (connection.state, connection.error) == (OPEN, None)


def test_json_nested_too_deeply_is_not_read(connect: Connect) -> None:
    connection = connect("/echo", codec="raw")
    reading = connect("/count?n=0")
    connection.send("[" * 100_000 + "]" * 100_000)
    text = connection.next_message(timeout=5.0)
    with pytest.raises(ValueError, match="deep"):
        reading._codec.decode(text)


def test_raw_messages_are_text_and_bytes(connect: Connect) -> None:
    connection = connect("/echo", codec="raw")
    for message in ("ä\x00", b"\x00\xff", "", b""):
        connection.send(message)
        assert connection.next_message(timeout=5.0) == message
    for sent in (bytearray(b"ab"), memoryview(b"ab")):
        connection.send(sent)
        assert connection.next_message(timeout=5.0) == b"ab"
    for bad in (5, None, {"a": 1}, "\ud800"):
        with pytest.raises(r.InvalidEventError):
            connection.send(bad)
    assert connection.stats.sent == 6


def test_a_codec_of_ones_own(connect: Connect) -> None:
    class Shouting:
        def decode(self, message: str | bytes) -> str:
            if message == "bad":
                raise ValueError("no")
            return str(message).upper()

        def encode(self, value: Any) -> str:
            return str(value)

    connection = connect("/echo", codec=Shouting())
    for value in (5, "abc", "bad", "d"):
        connection.send(value)
    assert take(connection, 2) == ["5", "ABC"]
    with pytest.raises(r.ProtocolError):
        next(connection)
    assert next(connection) == "D"


@pytest.mark.parametrize("compression", [True, False])
def test_messages_can_be_compressed_both_ways(
    fault_proxy: FaultProxy, connect: Connect, compression: bool
) -> None:
    connection = connect(fault_proxy.url + "/echo", codec="raw", compression=compression)
    offered = b"permessage-deflate" in fault_proxy.requests[0]
    assert offered is compression
    for message in ("x" * 3_000_000, os.urandom(100_000), "ä" * 70_000, "x"):
        connection.send(message)
        assert connection.next_message(timeout=10.0) == message
    declined = connect(fault_proxy.url + "/echo?compression=off", codec="raw")
    declined.send("x" * 5000)
    assert declined.next_message(timeout=5.0) == "x" * 5000


# -- sending -------------------------------------------------------------------------------------


@attrs.frozen
class Percept:
    at: datetime.datetime
    tags: list[str]


def test_values_are_sent_as_json(connect: Connect) -> None:
    connection = connect("/echo")
    at = datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    connection.send({"percept": Percept(at=at, tags=[]), "ü": (1, None)})
    assert connection.next_message(timeout=5.0) == {
        "percept": {"at": "2025-01-02T03:04:05+00:00", "tags": []}, "ü": [1, None],
    }  # fmt: skip
    assert connection.stats.sent == 1


def test_a_value_that_cannot_be_json_is_refused_and_named(connect: Connect) -> None:
    connection = connect("/echo")
    for value in (object(), b"bytes", float("nan")):
        with pytest.raises(r.InvalidEventError, match=r"\$\.a\[1\]") as caught:
            connection.send({"a": [0, value]})
        assert isinstance(caught.value, TypeError)
    assert connection.stats.sent == 0
    connection.send("still there")
    assert connection.next_message(timeout=5.0) == "still there"


def test_many_threads_send_whole_messages(connect: Connect, websocket_peer: WebSocketPeer) -> None:
    connection = connect("/echo")
    sizes = [10, 200, 5000, 70_000]

    def send(name: int) -> None:
        for n in range(40):
            connection.send({"thread": name, "n": n, "pad": "x" * sizes[n % 4]})

    threads = [InThread(lambda name=name: send(name)) for name in range(8)]
    received = take(connection, 320)
    for thread in threads:
        thread.ends(10.0)
        assert thread.error is None
    assert all(message["pad"] == "x" * sizes[message["n"] % 4] for message in received)
    for name in range(8):
        assert numbers(m for m in received if m["thread"] == name) == list(range(40))
    assert connection.stats.sent == websocket_peer.stats("/echo").received == 320


def test_sending_needs_a_connection(fault_proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(fault_proxy.url + "/echo", retry=SLOW)
    fault_proxy.reset()
    wait_until(lambda: connection.state is RECONNECTING)
    with pytest.raises(r.StateError, match="not connected"):
        connection.send({})
    connection.close()
    with pytest.raises(r.StateError, match="closed"):
        connection.send({})
    with pytest.raises(r.ConfigurationError):
        connection.send({}, timeout=-1)


def send_much(connection: r.WebSocketConnection, timeout: float) -> None:
    for _ in range(100):
        connection.send(bytes(1 << 20), timeout=timeout)


def test_a_send_that_is_stopped_in_its_middle_drops_the_connection(
    websocket_peer: WebSocketPeer, connect: Connect
) -> None:
    connection = connect("/deaf", codec="raw", ping_interval=None, compression=False)
    events = connection.events()
    assert next(events) == r.Connected(attempt=0)
    connection.send(os.urandom(32 << 20))  # which it reads before it is deaf, alone
    with within(0.5), pytest.raises(r.RequestTimeoutError):
        send_much(connection, timeout=0.3)
    lost = next(events)
    assert isinstance(lost, r.Disconnected)
    assert isinstance(lost.error, r.ConnectionLostError)
    assert "whole" in str(lost.error)
    assert next(events) == r.Connected(attempt=1)
    connection.send(b"small", timeout=5.0)
    assert websocket_peer.stats("/deaf").opened == 2


def test_a_send_that_has_not_begun_drops_nothing(fault_proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(
        fault_proxy.url + "/echo", codec="raw", ping_interval=None, compression=False
    )
    fault_proxy.stall()
    message = os.urandom(16 << 20)
    sender = InThread(lambda: connection.send(message, timeout=20.0))
    wire = connection._link._wire
    assert wire is not None
    wait_until(wire._writing.locked)
    let_pass(0.1)
    with within(0.2), pytest.raises(r.RequestTimeoutError):
        connection.send("late", timeout=0.2)
    fault_proxy.resume()
    sender.ends(20.0)
    assert sender.error is None
    assert connection.next_message(timeout=10.0) == message
    connection.send("later")
    assert connection.next_message(timeout=5.0) == "later"
    assert fault_proxy.connections == 1


def test_the_time_to_send_is_the_connections_own_unless_given(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    connection = connect(
        fault_proxy.url + "/echo", codec="raw", send_timeout=0.2, compression=False
    )
    fault_proxy.stall()
    message = os.urandom(16 << 20)
    with within(0.3), pytest.raises(r.RequestTimeoutError):
        connection.send(message)


def test_what_was_sent_before_a_close_arrives(
    websocket_peer: WebSocketPeer, connect: Connect
) -> None:
    for _ in range(5):
        websocket_peer.reset()
        connection = connect("/count?n=0", codec="raw")
        counts = [itertools.count() for _ in range(4)]

        def send(count: Any, connection: r.WebSocketConnection = connection) -> None:
            while True:
                connection.send(b"x" * 5000)
                next(count)

        senders = [InThread(lambda count=count: send(count)) for count in counts]
        let_pass(0.05)
        connection.close()
        for sender in senders:
            assert isinstance(sender.raises(5.0), r.StateError)
        stats = websocket_peer.wait_until("/count", lambda stats: not stats.open)
        sent = sum(next(count) for count in counts)
        assert connection.stats.sent == sent
        assert sent <= stats.received <= sent + 4


# -- callbacks -----------------------------------------------------------------------------------


def test_on_connect_runs_after_each_connect_before_any_message(
    websocket_peer: WebSocketPeer, fault_proxy: FaultProxy, connect: Connect
) -> None:
    states, received = [], []

    def subscribe(connection: r.WebSocketConnection) -> None:
        states.append(connection.state)
        let_pass(0.05)  # what the server sends meanwhile waits
        received.append(connection.stats.received)
        connection.send({"subscribe": len(states)})

    connection = connect(fault_proxy.url + "/echo", on_connect=subscribe)
    for n in range(1, 4):
        assert connection.next_message(timeout=5.0) == {"subscribe": n}
        assert received[-1] == n - 1
        fault_proxy.reset()
    assert set(states) == {OPEN}


def test_no_message_comes_before_on_connect_has_returned(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    errors = []

    def look(connection: r.WebSocketConnection) -> None:
        for read in (connection.next_message, connection.__next__, connection.events().__next__):
            with pytest.raises(r.StateError) as caught:
                read()
            errors.append(caught.value)

    connection = connect(fault_proxy.url + "/count?n=1", on_connect=look)
    next(connection)
    fault_proxy.reset()
    assert connection.next_message(timeout=5.0)["n"] == 0
    assert len(errors) == 6


def test_no_callback_may_wait_for_messages(fault_proxy: FaultProxy, connect: Connect) -> None:
    errors = []

    def wait(attempt: int) -> None:
        with pytest.raises(r.StateError) as caught:
            connection.next_message()
        errors.append(caught.value)

    connection = connect(fault_proxy.url + "/echo", on_reconnect=wait)
    fault_proxy.reset()
    wait_until(lambda: connection.stats.reconnects == 1)
    assert len(errors) == 1


def test_what_on_connect_raises_at_first_comes_through(websocket_peer: WebSocketPeer) -> None:
    for error in (ValueError("mine"), r.StateError("ours")):

        def fail(_: Any, error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error), match=str(error)):
            r.WebSocketConnection.connect(websocket_peer.ws_url + "/echo", on_connect=fail)
    websocket_peer.wait_until("/echo", lambda stats: stats.opened == 2 and not stats.open)


def test_a_callback_that_raises_after_a_close_leaves_it_answered(
    websocket_peer: WebSocketPeer, connect: Connect
) -> None:
    connection = connect("/close?code=4000&after=1", should_reconnect=lambda error: 1 / 0)
    assert next(connection)["n"] == 0
    with pytest.raises(ZeroDivisionError):
        next(connection)
    stats = websocket_peer.wait_until("/close", lambda stats: not stats.open)
    assert (stats.opened, stats.close_code) == (1, 4000)


def test_an_error_of_ours_from_on_connect_is_a_failed_attempt(
    websocket_peer: WebSocketPeer, fault_proxy: FaultProxy, connect: Connect
) -> None:
    calls, attempts = itertools.count(), []

    def subscribe(connection: r.WebSocketConnection) -> None:
        if next(calls) in (1, 2):
            raise r.RequestTimeoutError("no answer")

    connection = connect(
        fault_proxy.url + "/echo", on_connect=subscribe, on_reconnect=attempts.append
    )
    fault_proxy.reset()
    events = take(connection.events(), 3)
    assert kinds(events) == ["Connected", "Disconnected", "Connected"]
    assert events[2].attempt == 3
    assert attempts == [1, 2, 3]
    assert connection.stats.reconnects == 1
    websocket_peer.wait_until("/echo", lambda stats: stats.opened == 4 and stats.open == 1)


def test_on_connect_that_never_works_uses_up_the_attempts(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    calls = itertools.count()

    def subscribe(connection: r.WebSocketConnection) -> None:
        if next(calls):
            raise r.ServerError("busy")

    connection = connect(fault_proxy.url + "/echo", on_connect=subscribe)
    fault_proxy.reset()
    with pytest.raises(r.ConnectionLostError) as caught:
        next(connection)
    assert caught.value.attempts == 5
    assert isinstance(caught.value.last_error, r.ServerError)


@pytest.mark.parametrize("name", ["on_connect", "on_reconnect", "should_reconnect"])
def test_whatever_else_a_callback_raises_ends_it(
    fault_proxy: FaultProxy, connect: Connect, name: str
) -> None:
    calls = itertools.count(int(name != "on_connect"))

    def fail(_: Any) -> None:
        if next(calls):
            raise ZeroDivisionError("mine")

    connection = connect(fault_proxy.url + "/echo", **{name: fail})
    fault_proxy.reset()
    with pytest.raises(ZeroDivisionError, match="mine"):
        next(connection)
    assert isinstance(connection.error, ZeroDivisionError)
    assert connection.state is CLOSED
    assert list(connection) == []
    fault_proxy.wait_until(lambda: fault_proxy.open == 0)


def test_a_callable_that_fails_at_a_reconnect_is_a_failed_attempt(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    calls = itertools.count()

    def url() -> str:
        if next(calls) in (1, 2):
            raise OSError(f"no token: {SECRET}")
        return fault_proxy.url + "/echo"

    connection = connect(url)
    fault_proxy.reset()
    events = take(connection.events(), 3)
    assert events[2] == r.Connected(attempt=3)


def test_on_reconnect_is_told_the_attempt(fault_proxy: FaultProxy, connect: Connect) -> None:
    attempts: list[int] = []
    states = []

    def told(attempt: int) -> None:
        attempts.append(attempt)
        states.append(connection.state)

    connection = connect(fault_proxy.url + "/count?n=1", on_reconnect=told)
    next(connection)
    fault_proxy.refuse()
    fault_proxy.reset()
    wait_until(lambda: len(attempts) == 3)
    fault_proxy.accept()
    next(connection)
    fault_proxy.reset()
    next(connection)
    assert attempts[:3] == [1, 2, 3]
    assert attempts[-1] == 1
    assert set(states) == {RECONNECTING}


@pytest.mark.parametrize(
    "name", ["on_connect", "on_reconnect", "should_reconnect", "url", "headers"]
)
def test_a_callback_may_close(fault_proxy: FaultProxy, connect: Connect, name: str) -> None:
    calls = itertools.count()
    made: list[r.WebSocketConnection] = []
    took: list[float] = []
    attempts: list[int] = []

    def close(*_: Any) -> Any:
        if made and not took:
            began = time.monotonic()
            made[0].close()
            took.append(time.monotonic() - began)
        next(calls)
        return {"url": fault_proxy.url + "/echo", "should_reconnect": True}.get(name, {})

    options: dict[str, Any] = {"url": fault_proxy.url + "/echo", "on_reconnect": attempts.append}
    made.append(connect(**{**options, name: close}))
    fault_proxy.reset()
    with within(0.1):
        assert made[0].next_message(timeout=5.0) is None
    assert made[0].state is CLOSED
    assert made[0].error is None
    assert took[0] < 0.1 + LOAD
    if name == "should_reconnect":
        assert attempts == []


def test_the_first_on_connect_may_close(websocket_peer: WebSocketPeer, connect: Connect) -> None:
    connection = connect("/count", on_connect=lambda connection: connection.close())
    assert connection.state is CLOSED
    assert list(connection) == []
    stats = websocket_peer.wait_until("/count", lambda stats: stats.open == 0)
    assert stats.close_code == 1000


# -- reconnecting --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 3000, 4000])
def test_most_closes_are_reconnected_after(connect: Connect, code: int) -> None:
    connection = connect(f"/close?code={code}&after=1")
    assert numbers(take(connection, 4)) == [0] * 4
    assert connection.stats.reconnects >= 3


@pytest.mark.parametrize("code", [1008, 4001, 4003])
def test_some_closes_are_final(websocket_peer: WebSocketPeer, connect: Connect, code: int) -> None:
    connection = connect(f"/close?code={code}&reason=because&after=1")
    events = connection.events()
    seen = take(events, 3)
    assert kinds(seen) == ["Connected", "Message", "Disconnected"]
    assert seen[2].close_code == code
    with pytest.raises(r.ConnectionLostError, match="because") as caught:
        next(events)
    assert caught.value is connection.error is seen[2].error
    assert caught.value.close_code == code
    assert isinstance(caught.value, r.AuthenticationError) is (code == 4001)
    assert isinstance(caught.value, r.PermissionDeniedError) is (code == 4003)
    assert connection.state is CLOSED
    assert list(events) == list(connection) == []
    assert connection.next_message() is None
    stats = websocket_peer.wait_until("/close", lambda stats: stats.open == 0)
    assert (stats.opened, stats.close_code) == (1, code)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, r.BadRequestError), (403, r.PermissionDeniedError), (404, r.NotFoundError)],
)
def test_some_refusals_are_final(
    fault_proxy: FaultProxy, connect: Connect, status: int, kind: type[Exception]
) -> None:
    connection = connect(fault_proxy.url + "/echo")
    fault_proxy.answer(status)
    fault_proxy.reset()
    with pytest.raises(kind):
        next(connection)
    assert isinstance(connection.error, kind)
    assert fault_proxy.connections == 2


def test_401_is_tried_once_more_with_fresh_headers(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    tokens = (f"token-{n}" for n in itertools.count())
    attempts: list[int] = []
    options = {
        "headers": lambda: {"Authorization": next(tokens)},
        "on_reconnect": attempts.append,
        "retry": r.RetryPolicy(initial_interval=0.01, randomization_factor=0),
    }
    connection = connect(fault_proxy.url + "/headers", **options)
    connection.next_message(timeout=5.0)
    fault_proxy.answer(401, times=1)
    fault_proxy.reset()
    told = connection.next_message(timeout=5.0)
    assert ["Authorization", "token-2"] in told["headers"]
    fault_proxy.answer(401)
    fault_proxy.reset()
    with pytest.raises(r.AuthenticationError):
        next(connection)
    assert fault_proxy.connections == 5
    assert attempts == [1, 2, 1, 2]


@pytest.mark.parametrize("status", [429, 503])
def test_the_server_says_when_to_come_back(
    fault_proxy: FaultProxy, connect: Connect, status: int
) -> None:
    connection = connect(
        fault_proxy.url + "/echo",
        retry=r.RetryPolicy(initial_interval=0.01, randomization_factor=0, max_retry_after=0.5),
    )
    events = connection.events()
    fault_proxy.answer(status, {"Retry-After": "7"}, times=1)  # longer than is ever waited
    fault_proxy.reset()
    began = time.monotonic()
    assert kinds(take(events, 3)) == ["Connected", "Disconnected", "Connected"]
    assert 0.5 <= time.monotonic() - began < 1.0 + LOAD


def test_a_retry_after_is_shorter_than_the_delay_too(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    delays = r.RetryPolicy(initial_interval=0.01, multiplier=3000, randomization_factor=0)
    connection = connect(fault_proxy.url + "/echo", retry=delays)
    fault_proxy.answer(503, {"Retry-After": "0"}, times=3)
    fault_proxy.reset()
    with within(0.5):
        assert take(connection.events(), 3)[2] == r.Connected(attempt=4)


def test_should_reconnect_overrides_both_ways(fault_proxy: FaultProxy, connect: Connect) -> None:
    errors: list[r.ReasoningError] = []

    def always(error: r.ReasoningError) -> bool:
        errors.append(error)
        return True

    connection = connect("/close?code=4003&after=1", should_reconnect=always)
    assert numbers(take(connection, 3)) == [0, 0, 0]
    assert isinstance(errors[0], r.PermissionDeniedError)
    connection = connect(fault_proxy.url + "/echo", should_reconnect=always)
    fault_proxy.answer(404, times=2)
    fault_proxy.reset()
    assert take(connection.events(), 3)[2] == r.Connected(attempt=3)
    connection = connect("/close?code=1001&after=1", should_reconnect=lambda error: False)
    assert next(connection)["n"] == 0
    with pytest.raises(r.ConnectionLostError) as caught:
        next(connection)
    assert caught.value.close_code == 1001


def test_reconnection_used_up_is_told_once(fault_proxy: FaultProxy, connect: Connect) -> None:
    attempts: list[int] = []
    connection = connect(fault_proxy.url + "/count?n=2", on_reconnect=attempts.append)
    wait_until(lambda: connection.stats.received == 2)
    fault_proxy.refuse()
    fault_proxy.reset()
    wait_until(lambda: connection.state is CLOSED)
    assert isinstance(connection.error, r.ConnectionLostError)
    assert numbers(take(connection, 2)) == [0, 1]  # what came before comes first
    with pytest.raises(r.ConnectionLostError, match="after 5 attempts") as caught:
        next(connection)
    assert caught.value is connection.error
    assert caught.value.attempts == 5
    assert isinstance(caught.value.last_error, r.ConnectError)
    assert caught.value.__cause__ is caught.value.last_error
    assert attempts == [1, 2, 3, 4, 5]
    assert list(connection) == list(connection.events()) == []
    assert connection.next_message() is None
    with pytest.raises(r.StateError, match="closed"):
        connection.send({})
    connection.close()
    assert isinstance(connection.error, r.ConnectionLostError)


def test_next_message_and_events_end_when_reconnection_is_used_up(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    connections = [connect(fault_proxy.url + "/echo", retry=ONCE) for _ in range(2)]
    fault_proxy.refuse()
    fault_proxy.reset()
    assert connections[0].next_message(timeout=5.0) is None
    assert isinstance(connections[0].error, r.ConnectionLostError)
    events = connections[1].events()
    assert kinds(take(events, 2)) == ["Connected", "Disconnected"]
    with pytest.raises(r.ConnectionLostError):
        next(events)
    assert list(events) == []


def test_the_count_starts_again_after_a_message(
    websocket_peer: WebSocketPeer, connect: Connect
) -> None:
    attempts: list[int] = []
    connection = connect("/close?code=1001&after=1", retry=ONCE, on_reconnect=attempts.append)
    assert numbers(take(connection, 6)) == [0] * 6
    assert set(attempts) == {1}
    assert websocket_peer.stats("/close").opened >= 6


def test_a_server_that_accepts_and_closes_sees_longer_and_longer_delays(
    websocket_peer: WebSocketPeer, connect: Connect
) -> None:
    attempts: list[int] = []
    retry = r.RetryPolicy(initial_interval=0.1, randomization_factor=0, max_attempts=4)
    began = time.monotonic()
    connection = connect("/close?code=1001", retry=retry, on_reconnect=attempts.append)
    with pytest.raises(r.ConnectionLostError) as caught:
        next(connection)
    assert 1.5 <= time.monotonic() - began < 2.0 + 3 * LOAD
    assert websocket_peer.stats("/close").opened == 5
    assert attempts == [1, 2, 3, 4]
    assert caught.value.attempts == 4
    assert caught.value.close_code == 1001


def test_connecting_again_can_be_switched_off(connect: Connect) -> None:
    connection = connect("/close?code=1001&after=1", retry=r.RetryPolicy(max_attempts=0))
    assert next(connection)["n"] == 0
    with pytest.raises(r.ConnectionLostError) as caught:
        next(connection)
    assert caught.value.attempts == 0
    assert caught.value.close_code == 1001


# -- what cannot be read -------------------------------------------------------------------------


OVERSIZED = {
    "header": (b"\x81\x04true\x81\x7f" + (1 << 40).to_bytes(8, "big"), "/echo?compression=off"),
    "fragments": (
        b"\x81\x04true" + b"\x01\x7e\x02\x00" + b"x" * 512 + b"\x00\x7e\x02\x00" + b"x" * 512
        + b"\x80\x00", "/echo?compression=off",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*OVERSIZED, "inflating"])
def test_a_message_that_is_too_large_ends_it_for_good(
    websocket_peer: WebSocketPeer, fault_proxy: FaultProxy, connect: Connect, kind: str
) -> None:
    for how in ("iterator", "next_message", "events"):
        websocket_peer.reset()
        data, path = OVERSIZED.get(kind, (b"", "/echo"))
        connection = connect(fault_proxy.url + path, codec="raw", max_size=1000)
        if data:
            fault_proxy.inject(data)
        else:
            connection.send("true")
            connection.send("x" * 100_000)
        wait_until(lambda connection=connection: connection.state is CLOSED)
        assert isinstance(connection.error, r.ProtocolError)
        events = connection.events()
        if how == "events":
            first, second = take(events, 2)
            assert (first, second.data) == (r.Connected(attempt=0), "true")
            with pytest.raises(r.ProtocolError, match="more than 1000 bytes") as caught:
                next(events)
            (lost,) = list(events)
            assert lost.error is connection.error
            assert lost.close_code == 1009
        elif how == "iterator":
            assert next(connection) == "true"
            with pytest.raises(r.ProtocolError, match="more than 1000 bytes") as caught:
                next(connection)
        else:
            assert connection.next_message(timeout=5.0) == "true"
            with pytest.raises(r.ProtocolError, match="more than 1000 bytes") as caught:
                connection.next_message(timeout=5.0)
        assert caught.value is connection.error
        assert list(connection) == list(events) == []
        assert connection.next_message() is None
        stats = websocket_peer.wait_until("/echo", lambda stats: stats.open == 0)
        assert (stats.opened, stats.close_code) == (1, 1009)


def test_when_the_error_of_the_end_is_given_it_has_ended(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    connection = connect(fault_proxy.url + "/echo", max_size=1000)
    fault_proxy.stall(upstream=True, downstream=False)  # no answer comes to our close
    fault_proxy.inject(b"\x82\x7f" + (10**9).to_bytes(8, "big"))
    with within(0.5):
        with pytest.raises(r.ProtocolError) as caught:
            next(connection)
        assert connection.state is CLOSED
        assert connection.error is caught.value
        assert connection.next_message(timeout=1.0) is None


def test_no_size_is_too_large_without_a_limit(connect: Connect) -> None:
    connection = connect("/count?n=1&size=20000000", max_size=None)
    assert len(next(connection)["pad"]) == 20_000_000


def test_a_frame_that_cannot_be_is_reconnected_after(
    websocket_peer: WebSocketPeer, connect: Connect
) -> None:
    connection = connect("/bad?kind=frame")
    events = take(connection.events(), 5)
    assert kinds(events) == ["Connected", "Message", "Disconnected", "Connected", "Message"]
    assert isinstance(events[2].error, r.ProtocolError)
    assert events[2].close_code == 1002


def test_a_text_that_is_not_utf8_is_reconnected_after(connect: Connect) -> None:
    events = take(connect("/bad?kind=utf8").events(), 5)
    assert kinds(events) == ["Connected", "Message", "Disconnected", "Connected", "Message"]
    assert isinstance(events[2].error, r.ProtocolError)
    assert events[2].close_code == 1007


# -- overflow ------------------------------------------------------------------------------------


def until_it_pauses(connection: r.WebSocketConnection) -> int:
    """Waits until no more is received; how many messages were."""
    while True:
        received = connection.stats.received
        let_pass(0.2)
        if received and connection.stats.received == received:
            return received


def test_a_full_queue_pauses_and_loses_nothing(connect: Connect) -> None:
    connection = connect(
        "/count?n=100000&size=100&compression=off",
        max_queue_bytes=500_000,
        max_queue=10,  # which bounds nothing here
        ping_interval=0.1,
        ping_timeout=0.1,
        idle_timeout=0.3,
    )
    received = until_it_pauses(connection)
    assert 1000 < received < 20_000
    let_pass(0.6)  # far longer than an unanswered ping, and silence, may take
    assert connection.stats.received == received
    assert connection.state is OPEN
    events = take(connection.events(), 100_001)
    assert numbers(event.data for event in events[1:]) == list(range(100_000))
    assert connection.stats.dropped == 0
    assert connection.stats.reconnects == 0


def test_after_a_long_pause_it_can_be_read_and_closed(connect: Connect) -> None:
    path = "/count?n=20000&size=100&compression=off"
    for how in ("read", "close"):
        connection = connect(path, max_queue_bytes=100_000)
        until_it_pauses(connection)
        let_pass(0.5)
        if how == "read":
            assert numbers(take(connection, 20_000)) == list(range(20_000))
        else:
            with within(0.5):
                connection.close()


def test_a_pause_ends_when_the_last_message_was_taken(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    connection = connect(fault_proxy.url + "/echo", max_queue_bytes=10)
    connection.send("a message that fills the queue")
    until_it_pauses(connection)
    assert connection.next_message().endswith("fills the queue")
    fault_proxy.reset()
    wait_until(lambda: connection.state is not ConnectionState.OPEN)  # though nobody asks for more


def test_pings_are_answered_until_the_queue_is_full(connect: Connect) -> None:
    connection = connect("/ping?n=20&timeout=2", max_queue_bytes=1000)
    assert connection.next_message(timeout=10.0) == {"pings": 20, "pongs": 20}


def test_a_slow_consumer_stops_no_keepalive(connect: Connect) -> None:
    connection = connect(
        "/ticks?every=0.02&ping_interval=0.1&ping_timeout=0.2",
        ping_interval=0.1,
        ping_timeout=0.3,
    )
    let_pass(1.0)
    stats = connection.stats
    assert stats.queued == stats.received > 20
    assert connection.latency is not None
    events = take(connection.events(), stats.queued + 1)
    assert numbers(event.data for event in events[1:]) == list(range(stats.queued))


def test_no_bound_is_no_bound(connect: Connect) -> None:
    connection = connect("/count?n=20000&size=100", max_queue_bytes=None)
    wait_until(lambda: connection.stats.received == 20_000)
    assert numbers(take(connection, 20_000)) == list(range(20_000))


@pytest.mark.parametrize("path", ["/count?n=50&size=20", "/count?n=50&size=20&fragments=5"])
def test_the_bytes_of_the_messages_are_counted(connect: Connect, path: str) -> None:
    connection = connect(path, codec="raw", compression=False)
    messages = take(connection, 50)
    assert connection.stats.received_bytes == sum(map(len, messages))


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_what_is_dropped_is_counted(connect: Connect, overflow: str) -> None:
    connection = connect("/count?n=5000&size=50", overflow=overflow, max_queue=10)
    wait_until(lambda: connection.stats.received == 5000)
    stats = connection.stats
    assert (stats.queued, stats.dropped) == (10, 4990)
    kept = range(4990, 5000) if overflow == "drop_oldest" else range(10)
    assert numbers(take(connection, 10)) == list(kept)
    assert connection.stats.queued == 0


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_bytes_are_a_bound_too(connect: Connect, overflow: str) -> None:
    path = "/count?n=500&size=1000&every=0.0001&compression=off"
    connection = connect(path, overflow=overflow, max_queue=None, max_queue_bytes=50_000)
    wait_until(lambda: connection.stats.received == 500)
    stats = connection.stats
    assert stats.received == stats.dropped + stats.queued
    assert 0 < stats.queued < 100
    seen = numbers(take(connection, stats.queued))
    if overflow == "drop_oldest":
        assert seen == list(range(500 - stats.queued, 500))
    else:
        assert seen[0] == 0
    assert seen == sorted(seen)


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
def test_every_message_is_delivered_dropped_or_queued(connect: Connect, overflow: str) -> None:
    connection = connect("/count?n=20000&size=20", overflow=overflow, max_queue=50)
    seen: list[int] = []
    while connection.stats.received < 20_000 or connection.stats.queued:
        with contextlib.suppress(r.RequestTimeoutError):
            seen.append(connection.next_message(timeout=0.001)["n"])
        stats = connection.stats
        assert stats.received >= len(seen) + stats.dropped
    stats = connection.stats
    assert stats.received == len(seen) + stats.dropped == 20_000
    assert seen == sorted(set(seen))


# -- keepalive -----------------------------------------------------------------------------------


def test_the_latency_is_that_of_the_last_ping(fault_proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(fault_proxy.url + "/echo", ping_interval=0.05)
    assert connection.latency is None
    wait_until(lambda: connection.latency is not None)
    assert connection.latency is not None
    assert 0 < connection.latency < 0.1 + LOAD
    fault_proxy.delay(0.1)
    wait_until(lambda: (connection.latency or 0) >= 0.2)
    assert connection.state is OPEN


def test_no_pings_are_sent_where_none_are_wanted(fault_proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(fault_proxy.url + "/echo", ping_interval=None)
    fault_proxy.stall()
    let_pass(0.3)
    fault_proxy.resume()
    connection.send("x")
    assert connection.next_message(timeout=5.0) == "x"
    assert connection.latency is None


def test_a_peer_that_is_gone_is_noticed(fault_proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(fault_proxy.url + "/echo", ping_interval=0.4, ping_timeout=0.2)
    events = connection.events()
    next(events)
    fault_proxy.stall()
    with within(0.6):
        lost = next(events)
    assert isinstance(lost, r.Disconnected)
    assert isinstance(lost.error, r.ConnectionLostError)
    assert "ping" in str(lost.error)
    assert lost.close_code is None
    fault_proxy.resume()
    assert kinds(take(events, 1)) == ["Connected"]


def test_silence_for_too_long_reconnects(fault_proxy: FaultProxy, connect: Connect) -> None:
    connection = connect("/count?n=1", idle_timeout=0.3, ping_interval=0.05)
    events = connection.events()
    take(events, 2)
    began = time.monotonic()
    lost = next(events)
    assert isinstance(lost, r.Disconnected)
    assert 0.2 < time.monotonic() - began < 0.3 + LOAD
    assert isinstance(lost.error, r.IdleTimeoutError)
    assert kinds(take(events, 2)) == ["Connected", "Message"]


# -- closing -------------------------------------------------------------------------------------


def test_a_close_is_a_closing_handshake(websocket_peer: WebSocketPeer, connect: Connect) -> None:
    connection = connect("/ticks")
    next(connection)
    with within(0.2):
        connection.close()
    stats = websocket_peer.wait_until("/ticks", lambda stats: stats.open == 0)
    assert stats.close_code == 1000
    assert connection.state is CLOSED
    connection.close()
    connection.close(timeout=0)


def test_the_end_of_a_with_block_closes(websocket_peer: WebSocketPeer) -> None:
    with r.WebSocketConnection.connect(websocket_peer.ws_url + "/ticks") as connection:
        next(connection)
    assert connection.state is CLOSED
    stats = websocket_peer.wait_until("/ticks", lambda stats: stats.open == 0)
    assert stats.close_code == 1000


def test_a_close_is_bounded_when_the_peer_is_gone(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    connection = connect(fault_proxy.url + "/echo", close_timeout=0.3)
    reader = InThread(lambda: list(connection))
    fault_proxy.stall()
    began = time.monotonic()
    connection.close()
    assert 0.2 < time.monotonic() - began < 0.3 + 0.1 + LOAD
    assert reader.ends(1.0) == []
    other = connect_through_a_gone_peer(fault_proxy, connect)
    with within(0.1):
        other.close(timeout=0)
    third = connect_through_a_gone_peer(fault_proxy, connect)
    with within(0.2):
        third.close(timeout=0.1)


def connect_through_a_gone_peer(proxy: FaultProxy, connect: Connect) -> r.WebSocketConnection:
    proxy.resume()
    connection = connect(proxy.url + "/echo", close_timeout=5.0)
    proxy.stall()
    return connection


def test_a_close_wakes_a_sender(fault_proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(
        fault_proxy.url + "/echo", codec="raw", close_timeout=0.3, compression=False
    )
    fault_proxy.stall()
    message = os.urandom(16 << 20)
    senders = [InThread(lambda: connection.send(message, timeout=30.0)) for _ in range(2)]
    reader = InThread(lambda: list(connection))
    wire = connection._link._wire
    assert wire is not None
    wait_until(wire._writing.locked)
    let_pass(0.2)
    with within(0.4):
        connection.close()
    for sender in senders:
        error = sender.raises(1.0)
        assert isinstance(error, (r.StateError, r.ConnectionLostError)), error
    assert reader.ends(1.0) == []


def test_a_close_ends_the_wait_for_an_attempt(fault_proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(fault_proxy.url + "/echo", retry=SLOW)
    reader = InThread(lambda: list(connection))
    fault_proxy.reset()
    wait_until(lambda: connection.state is RECONNECTING)
    with within(0.1):
        connection.close()
    assert reader.ends(1.0) == []
    assert connection.state is CLOSED
    assert connection.error is None


def test_a_close_ends_a_dial_that_hangs(fault_proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(fault_proxy.url + "/echo", open_timeout=30.0)
    fault_proxy.never_answer()
    fault_proxy.reset()
    fault_proxy.wait_for_connections(2)
    with within(0.1):
        connection.close()
    assert connection.next_message() is None
    assert connection.error is None


def test_a_close_ends_a_look_up_that_hangs(
    fault_proxy: FaultProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()
    look_up = socket.getaddrinfo

    def slow(host: Any, *args: Any, **options: Any) -> Any:
        if host == "slow.localhost":
            if options.get("flags"):
                raise socket.gaierror(socket.EAI_NONAME, "no address")
            hangs.set()
            goes_on.wait(10.0)
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    urls = iter([fault_proxy.url + "/echo", f"ws://slow.localhost:{fault_proxy.port}/echo"])
    connection = connect(lambda: next(urls))
    fault_proxy.reset()
    assert hangs.wait(5.0)
    with within(0.1):
        connection.close()
    goes_on.set()


def test_a_close_does_not_wait_for_a_callback_that_hangs(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(attempt: int) -> None:
        hangs.set()
        goes_on.wait(10.0)

    connection = connect(fault_proxy.url + "/echo", on_reconnect=hang, close_timeout=0.2)
    reader = InThread(lambda: list(connection))
    fault_proxy.reset()
    assert hangs.wait(5.0)
    with within(0.3):
        connection.close()
    assert connection.state is CLOSED
    assert reader.ends(1.0) == []
    goes_on.set()


def test_a_callback_that_outlives_the_close_leaves_no_file_open(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()
    calls = itertools.count()

    def hang(_: Any) -> None:
        if next(calls):
            hangs.set()
            goes_on.wait(10.0)

    connection = connect(fault_proxy.url + "/echo", on_connect=hang, close_timeout=0.1)
    fault_proxy.reset()
    assert hangs.wait(5.0)
    before = len(os.listdir("/proc/self/fd")) if LINUX else 0
    with within(0.2):
        connection.close()
    goes_on.set()
    wait_until(lambda: not connection._link._thread.runs)
    fault_proxy.wait_until(lambda: fault_proxy.open == 0)
    assert (
        not LINUX or len(os.listdir("/proc/self/fd")) <= before - 4
    )  # two of ours, two of the proxy


def test_a_close_ends_the_farewell_to_a_server_that_does_not_hang_up(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    connection = connect(fault_proxy.url + "/echo", retry=SLOW)
    events = connection.events()
    next(events)
    fault_proxy.stall(upstream=True, downstream=False)
    fault_proxy.inject(b"\x88\x02\x03\xe8")
    assert isinstance(next(events), r.Disconnected)
    assert connection.state is RECONNECTING
    with within(0.1):
        connection.close()
    assert list(events) == []


def test_many_threads_may_close(connect: Connect) -> None:
    connection = connect("/ticks")
    threads = [InThread(connection.close) for _ in range(8)]
    for thread in threads:
        thread.ends(5.0)
        assert thread.error is None
    assert connection.state is CLOSED


# -- signals -------------------------------------------------------------------------------------


def soon(action: Callable[[], Any]) -> InThread:
    """Does something in another thread when this one has come to wait."""

    def act() -> None:
        let_pass(0.15)
        action()

    return InThread(act)


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], Any]], Callable[[], None]]]:
    """Has the main thread run a function when it gets a signal; gives what sends that."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("only the main thread gets signals")
    before = signal.getsignal(signal.SIGUSR1)

    def install(function: Callable[[], Any]) -> Callable[[], None]:
        signal.signal(signal.SIGUSR1, lambda *_: function())
        ident = threading.main_thread().ident
        assert ident is not None
        return lambda: signal.pthread_kill(ident, signal.SIGUSR1)

    yield install
    signal.signal(signal.SIGUSR1, before)


OnSignal = Callable[[Callable[[], Any]], Callable[[], None]]


@pytest.mark.parametrize("how", ["iterator", "events", "next_message"])
def test_a_signal_handler_may_close_what_waits(
    connect: Connect, on_signal: OnSignal, how: str
) -> None:
    connection = connect("/echo")
    events = connection.events()
    next(events)
    took: list[float] = []

    def close() -> None:
        began = time.monotonic()
        connection.close()
        took.append(time.monotonic() - began)

    sender = soon(on_signal(close))
    with within(0.3):
        if how == "next_message":
            assert connection.next_message() is None
        else:
            assert list(connection if how == "iterator" else events) == []
    sender.ends()
    assert took[0] < 0.1 + LOAD


def test_a_signal_handler_may_close_what_sends(
    fault_proxy: FaultProxy, connect: Connect, on_signal: OnSignal
) -> None:
    connection = connect(
        fault_proxy.url + "/echo", codec="raw", close_timeout=0.3, compression=False
    )
    fault_proxy.stall()
    message = os.urandom(16 << 20)
    sender = soon(on_signal(connection.close))
    with within(0.8), pytest.raises((r.StateError, r.ConnectionLostError)):
        connection.send(message, timeout=30.0)
    sender.ends()


def test_a_signal_handler_may_look_and_send(connect: Connect, on_signal: OnSignal) -> None:
    connection = connect("/echo")
    seen: list[Any] = []

    def act() -> None:
        seen.append((connection.state, connection.stats, repr(connection), connection.latency))
        connection.send({"from": "handler"})

    sender = soon(on_signal(act))
    assert connection.next_message(timeout=5.0) == {"from": "handler"}
    sender.ends()
    assert seen[0][0] is OPEN


class Interrupt(Exception):
    """What a test's signal handler raises."""


def test_an_interrupted_wait_loses_nothing(connect: Connect, on_signal: OnSignal) -> None:
    connection = connect("/ticks?every=0.002")

    def interrupt() -> None:
        raise Interrupt

    send = on_signal(interrupt)
    done, seen, interrupted = threading.Event(), [], 0

    def pester() -> None:
        while not done.wait(0.01):
            send()

    pesterer = InThread(pester)
    try:
        while len(seen) < 600:
            try:
                message = connection.next_message(timeout=5.0)
                seen.append(message["n"])
            except Interrupt:
                interrupted += 1
        done.set()
        pesterer.ends(5.0)
        let_pass(0.01)
    except Interrupt:
        pesterer.ends(5.0)
    # What had been returned when the signal came is what the test itself may lose.
    missing = set(range(seen[-1])) - set(seen)
    assert interrupted > 20
    assert len(missing) <= 2
    assert seen == sorted(set(seen))
    assert connection.state is OPEN


def test_ctrl_c_ends_a_wait_and_the_connection_goes_on(
    connect: Connect, on_signal: OnSignal
) -> None:
    connection = connect("/echo")
    ident = threading.main_thread().ident
    assert ident is not None
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for how in (connection.next_message, connection.__next__):
            sender = soon(lambda: signal.pthread_kill(ident, signal.SIGINT))
            with within(0.3), pytest.raises(KeyboardInterrupt):
                how()
            sender.ends()
    finally:
        signal.signal(signal.SIGINT, handler)
    connection.send("x")
    assert connection.next_message(timeout=5.0) == "x"


def test_ctrl_c_ends_the_first_connect(fault_proxy: FaultProxy, on_signal: OnSignal) -> None:
    def interrupt() -> None:
        raise Interrupt

    fault_proxy.never_answer()
    sender = soon(on_signal(interrupt))
    with within(0.3), pytest.raises(Interrupt):
        r.WebSocketConnection.connect(fault_proxy.url + "/echo", open_timeout=30.0)
    sender.ends()
    fault_proxy.wait_until(lambda: fault_proxy.open == 0)


@pytest.mark.parametrize("how", ["iterator", "events", "next_message"])
@pytest.mark.parametrize("then", ["message", "end"])
def test_a_signal_handler_cannot_wait_in_the_middle_of_a_wait_that_goes_on(
    connect: Connect, on_signal: OnSignal, monkeypatch: pytest.MonkeyPatch, how: str, then: str
) -> None:
    connection = connect("/echo")
    events = connection.events()
    next(events)
    raised: list[BaseException] = []

    def handler() -> None:
        for wait in (lambda: connection.next_message(timeout=0), connection.__next__):
            try:
                wait()
            except r.ReasoningError as exc:
                raised.append(exc)
        if then == "message":
            connection.send("x")
        else:
            connection.close()

    def interrupted(seconds: float | None) -> bool:
        monkeypatch.setattr(arrived, "take", take)
        send()
        return take(seconds)

    arrived = connection._link._arrived
    take, send = arrived.take, on_signal(handler)
    monkeypatch.setattr(arrived, "take", interrupted)
    if how == "next_message":
        assert connection.next_message(timeout=5.0) == ("x" if then == "message" else None)
    elif then == "end":
        assert list(connection if how == "iterator" else events) == []
    elif how == "iterator":
        assert next(connection) == "x"
    else:
        message = next(events)
        assert isinstance(message, r.Message)
        assert message.data == "x"
    assert [type(error) for error in raised] == [r.ConcurrencyError] * 2
    assert "a signal handler has interrupted a wait for <WebSocketConn" in str(raised[0])
    if then == "message":
        connection.send("y")
        assert connection.next_message(timeout=5.0) == "y"


def test_ctrl_c_just_when_the_background_thread_has_begun_to_read_leaves_nothing_behind(
    websocket_peer: WebSocketPeer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, reads = threading.active_count(), threading.Event()
    wake, receive = BackgroundThread.wake, Wire.receive

    def receives(wire: Wire, timeout: float) -> bytes:
        reads.set()
        return receive(wire, timeout)

    def interrupted(thread: BackgroundThread) -> bool:
        wake(thread)
        assert reads.wait(5.0)
        raise KeyboardInterrupt

    caplog.set_level(logging.INFO, "reasoning_sdk")
    with monkeypatch.context() as patch:
        patch.setattr(Wire, "receive", receives)
        patch.setattr(BackgroundThread, "wake", interrupted)
        with pytest.raises(KeyboardInterrupt):
            r.WebSocketConnection.connect(websocket_peer.ws_url + "/echo")
        wait_until(lambda: threading.active_count() <= before)
    stats = websocket_peer.wait_until("/echo", lambda stats: stats.open == 0)
    assert stats.opened == 1
    assert not caplog.records


# -- what it tells of itself ---------------------------------------------------------------------


def test_its_state_is_told_truly(fault_proxy: FaultProxy, connect: Connect) -> None:
    at_url: list[set[ConnectionState]] = []
    at_open: list[ConnectionState] = []

    def url() -> str:
        found = [o for o in gc.get_objects() if type(o) is r.WebSocketConnection]
        at_url.append({connection.state for connection in found} - {CLOSED})
        return fault_proxy.url + "/echo"

    connection = connect(url, on_connect=lambda it: at_open.append(it.state))
    assert at_url == [{CONNECTING}]
    assert connection.state is OPEN
    fault_proxy.reset()
    wait_until(lambda: connection.stats.reconnects == 1)
    assert at_url == [{CONNECTING}, {RECONNECTING}]
    assert at_open == [OPEN, OPEN]
    assert connection.state is OPEN
    connection.close()
    assert connection.state is CLOSED


def test_who_sees_it_closed_sees_why(connect: Connect) -> None:
    for _ in range(20):
        connection = connect("/close?code=4001&after=1")
        while connection.state is not CLOSED:
            pass
        assert isinstance(connection.error, r.AuthenticationError)


def test_the_counts(fault_proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(fault_proxy.url + "/echo", codec="raw", compression=False)
    connection.send("abc")
    connection.send("x" * 1000)
    wait_until(lambda: connection.stats.received == 2)
    stats = connection.stats
    assert isinstance(stats, WebSocketStats)
    assert (stats.received, stats.sent, stats.queued) == (2, 2, 2)
    assert 1003 <= stats.received_bytes < 1020
    next(connection)
    assert connection.stats.queued == 1
    fault_proxy.reset()
    wait_until(lambda: connection.stats.reconnects == 1)
    assert stats.reconnects == 0
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        stats.received = 0  # type: ignore[misc]


def test_its_repr_tells_the_state_and_no_secret(
    websocket_peer: WebSocketPeer, connect: Connect
) -> None:
    connection = connect(f"/count?n=3&token={SECRET}", headers={"Authorization": SECRET})
    wait_until(lambda: connection.stats.received == 3)
    where = f"{websocket_peer.ws_url}/count"
    assert repr(connection) == f"<WebSocketConnection OPEN {where} queued=3>"
    connection.close()
    assert repr(connection).startswith(f"<WebSocketConnection CLOSED {where} queued=")


def test_one_that_is_left_open_warns_and_ends(websocket_peer: WebSocketPeer) -> None:
    before = threading.active_count()
    connection = r.WebSocketConnection.connect(websocket_peer.ws_url + "/ticks")
    next(connection)
    left = [connection]
    del connection
    with pytest.warns(ResourceWarning, match="unclosed <WebSocketConnection OPEN"):
        left.clear()
    wait_until(lambda: threading.active_count() == before)
    stats = websocket_peer.wait_until("/ticks", lambda stats: stats.open == 0)
    assert stats.close_code == 1000


def test_one_that_is_left_while_it_pauses_or_reconnects_ends_too(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    before = threading.active_count()
    made = [
        r.WebSocketConnection.connect(fault_proxy.url + "/echo", retry=SLOW),
        r.WebSocketConnection.connect(fault_proxy.url + "/ticks?every=0.001", max_queue_bytes=100),
    ]
    until_it_pauses(made[1])
    fault_proxy.reset()
    wait_until(lambda: made[0].state is RECONNECTING)
    with pytest.warns(ResourceWarning, match="unclosed"):
        made.clear()
    wait_until(lambda: threading.active_count() == before)


# -- TLS -----------------------------------------------------------------------------------------


def test_tls_carries_both_ways_at_once() -> None:
    count, message = 400, "x" * 20_000
    with WebSocketPeer(tls=True) as peer:
        context = ssl.create_default_context(cafile=peer.ca_file)
        with r.WebSocketConnection.connect(
            peer.ws_url + "/echo", ssl_context=context, codec="raw", ping_interval=0.01
        ) as connection:

            def send(name: int) -> None:
                for n in range(count // 4):
                    connection.send(json.dumps({"thread": name, "n": n, "pad": message}))

            senders = [InThread(lambda name=name: send(name)) for name in range(4)]
            received = [json.loads(text) for text in take(connection, count)]
            for sender in senders:
                sender.ends(10.0)
                assert sender.error is None
            for name in range(4):
                assert numbers(m for m in received if m["thread"] == name) == list(
                    range(count // 4)
                )
            assert connection.latency is not None
            assert connection.stats.reconnects == 0
            with within(0.3):
                connection.close()
        assert peer.wait_until("/echo", lambda stats: not stats.open).close_code == 1000
        with r.WebSocketConnection.connect(
            peer.ws_url + "/echo?ping_interval=0.01",
            ssl_context=context,
            codec="raw",
            ping_interval=0.001,
            compression=False,
        ) as connection:  # large frames, and pings that want to go in between
            large = os.urandom(2 << 20)
            for _ in range(20):
                connection.send(large)
                assert connection.next_message(timeout=10.0) == large
            assert connection.stats.reconnects == 0
        with pytest.raises(r.ConnectError, match="certificate"):
            r.WebSocketConnection.connect(peer.ws_url + "/echo")
        with (
            FaultProxy(peer.port, tls=True) as proxy,
            r.WebSocketConnection.connect(
                proxy.url + "/echo",
                ssl_context=context,
                codec="raw",
                close_timeout=0.3,
                compression=False,
            ) as connection,
        ):
            proxy.stall()
            blocked = InThread(lambda: connection.send(os.urandom(16 << 20), timeout=30.0))
            let_pass(0.2)
            with within(0.4):
                connection.close()
            assert isinstance(blocked.raises(1.0), (r.StateError, r.ConnectionLostError))
