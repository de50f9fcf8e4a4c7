"""EventSource: connections that come back; and sseclient-py's interface."""

import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import sseclient
import urllib3

import reasoning_sdk as r
from tests.support.scripted import (
    Connection,
    Framing,
    Handler,
    ScriptedServer,
    answer,
    comments_for_ever,
    hang_up,
    json_answer,
    no_content,
    redirect,
    reset,
    silence,
    sse,
)

FUTURE = hasattr(urllib3, "AsyncPoolManager")
pytestmark = pytest.mark.http

Scripted = Callable[..., ScriptedServer]
SECRET = "sk-very-secret-0123456789"
QUICK = r.RetryPolicy(initial_interval=0.001, randomization_factor=0, max_attempts=5)
ONE, TWO, THREE = (b"data: %d\n\n" % number for number in (1, 2, 3))
Source = Callable[..., r.EventSource]


@pytest.fixture
def source() -> Iterator[Source]:
    made: list[r.EventSource] = []

    def make(server: ScriptedServer, path: str = "/events", **options: Any) -> r.EventSource:
        made.append(r.EventSource(server.url(path), **{"retry": QUICK, **options}))
        return made[-1]

    yield make
    for source_ in made:
        source_.close()


def data(events: Any) -> list[str]:
    return [event.data for event in events]


# -- requests ----------------------------------------------------------------------------------


def test_it_connects_at_the_first_next(scripted: Scripted, source: Source) -> None:
    server = scripted([sse([ONE, TWO]), no_content()])
    events = source(server, "/events?topic=a", headers={"X-A": "a"})
    assert repr(events).startswith("<EventSource CONNECTING http://127.0.0.1:")
    assert server.requests == []
    assert next(events) == r.ServerSentEvent(data="1")
    assert "OPEN" in repr(events)
    (request,) = server.requests
    assert request.raw.startswith(b"GET /events?topic=a HTTP/1.1\r\n")
    sent = {name.lower(): value for name, value in request.header_lines}
    assert sent.pop("host")
    assert sent.pop("accept-encoding")
    assert sent.pop("user-agent")
    assert sent == {
        "accept": "text/event-stream",
        "cache-control": "no-store",
        "connection": "keep-alive",
        "x-a": "a",
    }


def test_a_body_is_sent_as_json(scripted: Scripted, source: Source) -> None:
    server = scripted(sse([ONE]))
    assert data(source(server, method="post", json={"q": "ü"})) == ["1"]
    (request,) = server.requests
    assert request.method == "POST"
    assert request.body == '{"q":"ü"}'.encode()
    assert request.headers["content-type"] == "application/json"


def test_headers_can_be_made_for_each_attempt_and_win(scripted: Scripted, source: Source) -> None:
    tokens = iter(["first", "second", "third"])
    server = scripted([answer(503), sse([ONE]), no_content()])
    events = source(server, headers=lambda: {"X-Token": next(tokens), "accept": "text/*"})
    assert data(events) == ["1"]
    assert [request.headers["x-token"] for request in server.requests] == [
        "first", "second", "third",
    ]  # fmt: skip
    assert {request.headers["accept"] for request in server.requests} == {"text/*"}


def test_headers_that_are_changed_later_change_nothing(scripted: Scripted, source: Source) -> None:
    server = scripted([sse([ONE]), no_content()])
    headers = {"X-A": "a"}
    events = source(server, headers=headers)
    headers["X-A"] = "b"
    assert data(events) == ["1"]
    assert [request.headers["x-a"] for request in server.requests] == ["a", "a"]


def test_a_session_of_the_caller_is_used(scripted: Scripted, source: Source) -> None:
    server = scripted([sse([ONE]), no_content()])
    with requests.Session() as session:
        session.headers["X-Session"] = "yes"
        assert data(source(server, session=session)) == ["1"]
    assert [request.headers["x-session"] for request in server.requests] == ["yes", "yes"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "nowhere"}, "url must be an http or https URL"),
        ({"url": f"http://u:{SECRET}@h/"}, "no user, password"),
        ({"timeout": 0}, "timeout must be > 0"),
        ({"idle_timeout": -1}, "idle_timeout must be > 0"),
        ({"headers": {"A": f"{SECRET}\n"}}, "the value of header A"),
        ({"last_event_id": "\ud800"}, "last_event_id must be text"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(r.ConfigurationError, match=said) as caught:
        r.EventSource(**{"url": "http://127.0.0.1:1/", **options})
    assert SECRET not in str(caught.value)


def test_json_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(r.InvalidEventError, match=r"\$\.x"):
        r.EventSource("http://127.0.0.1:1/", method="POST", json={"x": b""})


def test_a_callable_that_gives_bad_headers(scripted: Scripted, source: Source) -> None:
    with pytest.raises(r.ConfigurationError, match="header A"):
        next(source(scripted(), headers=lambda: {"A": "a\n"}))


# -- to come back ------------------------------------------------------------------------------


def cut_inside(connection: Connection) -> None:
    sse(ONE + b"data: never", cut_at=len(ONE) + 8)(connection)


@pytest.mark.parametrize(
    "ending",
    [
        sse([ONE]),
        sse([ONE], framing="close"),
        sse([ONE], framing="length"),
        sse([ONE], then="close"),
        cut_inside,
        sse([ONE, b"data: not dispatched\n"], one_chunk_per_event=True),
    ],
)
def test_it_comes_back_after_any_end(scripted: Scripted, source: Source, ending: Handler) -> None:
    server = scripted([ending, sse([TWO]), no_content()])
    assert data(source(server)) == ["1", "2"]
    assert len(server.requests) == 3


@pytest.mark.parametrize("failure", [answer(503), answer(500), answer(429), answer(408), reset()])
def test_it_comes_back_after_a_failure(
    scripted: Scripted, source: Source, failure: Handler
) -> None:
    server = scripted([failure, hang_up(), sse([ONE]), failure, sse([TWO]), no_content()])
    assert data(source(server)) == ["1", "2"]


@pytest.mark.parametrize("kind", ["silence", "comments"])
def test_it_comes_back_when_nothing_but_comments_comes(
    scripted: Scripted, source: Source, kind: str
) -> None:
    idle = silence(first=[ONE]) if kind == "silence" else comments_for_ever(first=[ONE])
    server = scripted([idle, sse([TWO]), no_content()])
    assert data(source(server, idle_timeout=0.06)) == ["1", "2"]
    server.wait_no_connections()


def test_204_ends_it(scripted: Scripted, source: Source) -> None:
    server = scripted([no_content()])
    events = source(server)
    assert list(events) == []
    assert list(events) == []
    assert "CLOSED" in repr(events)
    server.wait_no_connections()


IDS = ["7", "", "é", "à", "東京 🌸", "a b", "\x85x", "~" * 500]


@pytest.mark.parametrize("last", IDS)
def test_it_says_what_it_saw_last(scripted: Scripted, source: Source, last: str) -> None:
    server = scripted([sse([f"id: {last}\ndata: x\n\n".encode()]), answer(503), no_content()])
    events = source(server)
    assert [event.id for event in events] == [last]
    assert events.last_event_id == last
    assert "last-event-id" not in server.requests[0].headers
    for request in server.requests[1:]:
        line = f"\r\nLast-Event-ID: {last}\r\n".encode().lower()
        assert (line in request.raw.lower()) is bool(last)


def test_it_begins_with_the_id_it_is_given(scripted: Scripted, source: Source) -> None:
    server = scripted([sse([ONE]), sse([b"id\ndata: 2\n\n"]), no_content()])
    events = source(server, last_event_id="tōkyō")
    assert [event.id for event in events] == ["tōkyō", ""]
    sent = [request.headers.get("last-event-id") for request in server.requests]
    assert sent == ["tōkyō".encode().decode("latin-1")] * 2 + [None]


@pytest.mark.parametrize("last", ["a\x00b", "a\x01b", "\x7f", "  "])
def test_an_id_that_no_header_can_have_is_not_sent(
    scripted: Scripted, source: Source, last: str
) -> None:
    server = scripted(no_content())
    assert list(source(server, last_event_id=last)) == []
    assert "last-event-id" not in server.requests[0].headers


def test_an_id_without_an_event_is_in_force_too(scripted: Scripted, source: Source) -> None:
    server = scripted([sse([b"id: 1\ndata: x\n\nid: 2\n\nid: 3\ndata: cut off"]), no_content()])
    assert data(source(server)) == ["x"]
    assert server.requests[1].headers["last-event-id"] == "2"


class Waits:
    """What an event source waits, in place of the waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        monkeypatch.setattr("reasoning_sdk.event_source.SYSTEM_CLOCK", self)

    def monotonic(self) -> float:
        return sum(self.seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.seconds.append(seconds)
        return event.is_set()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return Waits(monkeypatch).seconds


SLOW = r.RetryPolicy(initial_interval=1.0, randomization_factor=0, max_attempts=6)


def test_the_waits_grow_and_start_again_after_an_event(
    scripted: Scripted, source: Source, waits: list[float]
) -> None:
    server = scripted([answer(503), answer(503), sse([ONE]), answer(503), sse([]), no_content()])
    assert data(source(server, retry=SLOW)) == ["1"]
    assert waits == [1.0, 2.0, 1.0, 2.0, 4.0]


def test_the_server_sets_the_wait(scripted: Scripted, source: Source, waits: list[float]) -> None:
    server = scripted([
        sse([b"retry: 70\n\n", ONE]), answer(503), sse([b"retry: 0\nid: 1\n\n"]), sse([]),
        sse([b"retry: x\n\nretry: -1\n\n"]), answer(503, headers={"Retry-After": "9"}),
        no_content(),
    ])  # fmt: skip
    assert data(source(server, retry=r.RetryPolicy(max_attempts=9))) == ["1"]
    assert waits == [0.07, 0.07, 0.0, 0.0, 0.0, 9.0]


def test_time_of_a_good_connection_is_no_time_of_retries(
    scripted: Scripted, source: Source, waits: list[float]
) -> None:
    policy = r.RetryPolicy(initial_interval=1.0, randomization_factor=0, max_elapsed_time=1.5)
    server = scripted([sse([ONE]), sse([TWO]), sse([THREE]), no_content()])
    assert data(source(server, retry=policy)) == ["1", "2", "3"]
    assert waits == [1.0, 1.0, 1.0]


def test_on_reconnect_is_told_the_number_before_each_wait(
    scripted: Scripted, source: Source, waits: list[float]
) -> None:
    told: list[tuple[int, int]] = []
    server = scripted([answer(503), reset(), sse([ONE]), sse([]), no_content()])
    events = source(server, on_reconnect=lambda n: told.append((n, len(waits))), retry=SLOW)
    assert data(events) == ["1"]
    assert told == [(1, 0), (2, 1), (1, 2), (2, 3)]


def test_what_on_reconnect_raises_is_raised(scripted: Scripted, source: Source) -> None:
    def broken(attempt: int) -> None:
        raise ZeroDivisionError

    events = source(scripted(answer(503)), on_reconnect=broken)
    with pytest.raises(ZeroDivisionError):
        next(events)
    assert list(events) == []


# -- bad ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "kind"), [(answer(503), r.ServerError), (hang_up(), r.ConnectionLostError)]
)
def test_when_attempts_are_used_up_the_last_error_is_told(
    scripted: Scripted, source: Source, failure: Handler, kind: type
) -> None:
    server = scripted(failure, repeat_last=True)
    events = source(server, retry=r.RetryPolicy(initial_interval=0.001, max_attempts=2))
    with pytest.raises(r.ConnectionLostError, match="no event after 3 attempts") as caught:
        next(events)
    assert caught.value.attempts == 3
    assert isinstance(caught.value.last_error, kind)
    assert caught.value.__cause__ is caught.value.last_error
    assert caught.value.retryable
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.attempts, str(copy)) == (3, str(caught.value))
    assert len(server.requests) == 3
    assert list(events) == []


def test_a_server_that_only_ever_ends_is_given_up_too(scripted: Scripted, source: Source) -> None:
    server = scripted(sse([b": nothing\n\n"]), repeat_last=True)
    events = source(server, retry=r.RetryPolicy(initial_interval=0.001, max_attempts=1))
    with pytest.raises(r.ConnectionLostError, match=r"no event after 2 attempts$") as caught:
        next(events)
    assert caught.value.last_error is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422])
def test_any_other_refusal_is_final(scripted: Scripted, source: Source, status: int) -> None:
    server = scripted([sse([ONE]), json_answer(status, {"error": {"message": "go away"}})])
    events = source(server)
    assert next(events).data == "1"
    with pytest.raises(r.APIStatusError, match="go away") as caught:
        next(events)
    assert caught.value.status_code == status
    assert list(events) == []
    server.wait_no_connections()


@pytest.mark.parametrize("kind", ["text/html", "application/json", "text/event-stream2", None])
def test_a_wrong_content_type_is_an_error(
    scripted: Scripted, source: Source, kind: str | None
) -> None:
    server = scripted(sse([b"<html>"], content_type=kind))
    with pytest.raises(r.ProtocolError, match=f"content type {kind or 'missing'}, body '<html>'"):
        next(source(server))
    server.wait_no_connections()


def test_an_event_larger_than_it_may_be(
    scripted: Scripted, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reasoning_sdk import event_source

    decoder = event_source.SSEDecoder
    monkeypatch.setattr(
        event_source, "SSEDecoder", lambda **options: decoder(max_event_size=100, **options)
    )
    for then in ("end", "silence"):
        server = scripted(sse(ONE + b"data: " + b"x" * 200, then=then))
        events = source(server)
        assert next(events).data == "1"
        with pytest.raises(r.ProtocolError, match="larger than max_event_size"):
            next(events)
        server.wait_no_connections()


def test_secrets_are_not_told(
    scripted: Scripted, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = scripted([answer(503, SECRET.encode()), answer(401, SECRET.encode())])
    events = source(server, f"/events?key={SECRET}", headers={"Authorization": f"Bearer {SECRET}"})
    with pytest.raises(r.AuthenticationError) as caught:
        next(events)
    ours = [record.getMessage() for record in caplog.records if "reasoning_sdk" in record.name]
    assert SECRET not in f"{caught.value!r} {caught.value.body!r} {events!r} {ours}"


def test_credentials_stay_at_home(scripted: Scripted, source: Source) -> None:
    home, other = scripted(), scripted([sse([ONE]), no_content()])
    home.then(redirect(other.url("/a")), redirect(other.url("/b"), 307))
    events = source(home, headers={"Authorization": SECRET, "X-A": "a"}, last_event_id="9")
    assert data(events) == ["1"]
    for request in other.requests:
        assert not {"authorization", "x-a"} & {name.lower() for name in request.headers}


# -- what is not a GET -------------------------------------------------------------------------


def test_a_post_is_sent_again_until_it_is_answered_and_never_then(
    scripted: Scripted, source: Source
) -> None:
    server = scripted([answer(503), reset(), sse([ONE, TWO])])
    assert data(source(server, method="POST", json={})) == ["1", "2"]
    assert len(server.requests) == 3


@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_post_that_is_cut_is_an_error(scripted: Scripted, source: Source, then: Any) -> None:
    server = scripted(sse(ONE + b"data: 2", gates=None, then=then))
    events = source(server, method="POST")
    with pytest.raises(r.ConnectionLostError):
        list(events)
    assert len(server.requests) == 1
    server.wait_no_connections()


def test_a_post_that_is_idle_is_an_error(scripted: Scripted, source: Source) -> None:
    server = scripted(silence(first=[ONE]))
    events = source(server, method="POST", idle_timeout=0.05)
    assert next(events).data == "1"
    with pytest.raises(r.IdleTimeoutError, match=r"no event for 0\.05 seconds"):
        next(events)
    assert len(server.requests) == 1


def test_a_post_that_is_answered_with_204_is_at_its_end(scripted: Scripted, source: Source) -> None:
    assert list(source(scripted(no_content()), method="POST")) == []


# -- to close ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["headers", "body", "wait"])
def test_a_close_from_another_thread_ends_it(
    scripted: Scripted, source: Source, where: str
) -> None:
    handlers = {
        "headers": silence(headers=False),
        "body": silence(first=b": hello\n\n"),
        "wait": answer(503, headers={"Retry-After": "60"}),
    }
    server = scripted(handlers[where])
    waiting = threading.Event()
    events = source(server, on_reconnect=lambda attempt: waiting.set())
    seen: list[Any] = []

    def read() -> None:
        try:
            seen.extend(events)
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    server.wait_for_requests(1)
    if where == "wait":
        assert waiting.wait(5.0)
    elif where == "body":
        while events._body is None:
            threading.Event().wait(0.001)
    events.close()
    thread.join(1.0)
    assert not thread.is_alive()
    assert seen == []
    assert "CLOSED" in repr(events)
    server.wait_no_connections()


def test_one_thread_at_a_time(scripted: Scripted, source: Source) -> None:
    server = scripted([sse([ONE], gates={0: "go"}), no_content()])
    events, seen = source(server), []
    thread = threading.Thread(target=lambda: seen.extend(events))
    thread.start()
    server.wait_at("go")
    with pytest.raises(r.ConcurrencyError):
        next(events)
    server.open("go")
    thread.join(5.0)
    assert data(seen) == ["1"]


def test_a_with_block_closes_it(scripted: Scripted, source: Source) -> None:
    server = scripted(silence(first=[ONE]))
    with source(server) as events:
        assert next(events.events()).data == "1"
    assert list(events) == []
    server.wait_no_connections()


# -- sseclient-py ------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_of_sseclient_py(
    scripted: Scripted, framing: Framing, gzip: bool, stream: bool
) -> None:
    body = b"\xef\xbb\xbfid: 1\nevent: e\nretry: 5\ndata: a\rdata: b\r\n\r\n" + TWO + b"data: cut"
    server = scripted(sse(body, framing=framing, gzip=gzip, chunk_size=5))
    with requests.get(server.url(), stream=stream) as response:
        client = r.sse_client(response)
        assert isinstance(client, sseclient.SSEClient)
        got = list(client.events())
        client.close()
    assert [(e.id, e.event, e.data, e.retry) for e in got] == [
        ("1", "e", "a\nb", 5), ("1", "message", "2", None),
    ]  # fmt: skip


def test_a_client_gives_each_event_when_it_has_arrived(scripted: Scripted) -> None:
    server = scripted(sse([ONE, TWO], gates={1: "more"}))
    with requests.get(server.url(), stream=True) as response:
        events = r.sse_client(response).events()
        assert next(events).data == "1"
        server.open("more")
        assert data(events) == ["2"]


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_client_tells_of_a_cut(scripted: Scripted, framing: Framing) -> None:
    server = scripted(sse(ONE + TWO, framing=framing, cut_at=len(ONE) + 3))
    with requests.get(server.url(), stream=True) as response:
        events = r.sse_client(response).events()
        assert next(events).data == "1"
        with pytest.raises(r.ConnectionLostError):
            next(events)


@pytest.mark.skipif(FUTURE, reason="urllib3-future does not tell the timeout of an answer")
def test_a_client_keeps_to_the_timeout_of_the_request(scripted: Scripted) -> None:
    server = scripted(silence(first=[ONE]))
    with requests.get(server.url(), stream=True, timeout=0.05) as response:
        events = r.sse_client(response).events()
        assert next(events).data == "1"
        with pytest.raises(r.RequestTimeoutError):
            next(events)


def test_a_client_is_closed_from_another_thread(scripted: Scripted) -> None:
    server = scripted(silence(first=[ONE]))
    with requests.Session() as session, session.get(server.url(), stream=True) as response:
        client = r.sse_client(response)
        events, seen = client.events(), []
        assert next(events).data == "1"
        thread = threading.Thread(target=lambda: seen.extend(events))
        thread.start()
        client.close()
        thread.join(1.0)
        assert not thread.is_alive()
        assert seen == []
    server.wait_no_connections()


def test_a_client_refuses_an_event_larger_than_it_may_be(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reasoning_sdk import event_source

    monkeypatch.setattr(
        event_source, "iter_events", lambda chunks: r.iter_events(chunks, max_event_size=10)
    )
    server = scripted(sse(ONE + b"data: " + b"x" * 99))
    with requests.get(server.url(), stream=True) as response, pytest.raises(r.ProtocolError):
        list(r.sse_client(response).events())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": 5}, "method must be a str, got an int"),
        ({"method": "G T\r\n"}, r"method must be the name of an HTTP method, got 'G T\\r\\n'"),
        ({"method": ""}, "method must be the name"),
        ({"last_event_id": None}, "last_event_id must be a str, got a NoneType"),
        ({"headers": 5}, "headers must be a mapping or a callable that gives one, got an int"),
        ({"headers": [("A", SECRET)]}, "headers must be a mapping .*, got a list"),
        ({"headers": []}, "headers must be a mapping"),
        ({"retry": 5}, "retry must be a RetryPolicy, got an int"),
        ({"retry": None}, "retry must be a RetryPolicy"),
        ({"session": "x"}, "session must be a requests.Session, got a str"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(r.ConfigurationError, match=said) as caught:
        r.EventSource(**{"url": "http://127.0.0.1:1/", **options})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("method", ["get", "REPORT", "M-SEARCH"])
def test_any_method_that_http_allows_will_do(method: str) -> None:
    r.EventSource("http://127.0.0.1:1/", method=method).close()
