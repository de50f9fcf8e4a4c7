"""Server-sent events of the Reasoning Layer: whole, cut, idle, closed."""

import gc
from collections.abc import Callable
from typing import Any

import pytest

import reasoning_sdk as r
from reasoning_sdk.reasoning_layer import EventStream, ReasoningLayerClient
from tests.reasoning_layer.conftest import TENANT, TOKEN
from tests.support.scripted import (
    ScriptedServer,
    answer,
    comments_for_ever,
    json_answer,
    no_content,
    reset,
    silence,
    sse,
)
from tests.support.threads import InThread

pytestmark = pytest.mark.http

Scripted = Callable[..., ScriptedServer]
Make = Callable[..., ReasoningLayerClient]
PATH = "/api/v1/ui/describe/stream"
BODY = (
    b'event: layout_ready\ndata: {"layout": 1}\n\n: note\n\n'
    b"event: component_ready\ndata: {}\n\nevent: data_chunk\ndata: {}\n\n"
    b"event: complete\ndata: {}\n\n"
)
NAMES = ["layout_ready", "component_ready", "data_chunk", "complete"]


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_a_whole_stream_gives_its_events_and_ends(
    scripted: Scripted, client: Make, framing: Any
) -> None:
    server = scripted(sse(BODY, framing=framing, chunk_size=7))
    with client(server).stream(PATH, {"query": "ü"}) as events:
        assert repr(events) == "<EventStream OPEN>"
        given = list(events)
    assert [event.event for event in given] == NAMES
    assert given[0].json() == {"layout": 1}
    assert list(events) == []
    assert repr(events) == "<EventStream CLOSED>"
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", PATH)
    assert request.json() == {"query": "ü"}
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["x-tenant-id"] == TENANT


def test_a_stream_may_be_a_get(scripted: Scripted, client: Make) -> None:
    server = scripted(sse(BODY))
    assert len(list(client(server).stream("/api/v1/any", method="get"))) == 4
    assert server.requests[0].raw.startswith(b"GET /api/v1/any HTTP")
    assert server.requests[0].body == b""


def test_a_stream_may_have_a_query(scripted: Scripted, client: Make) -> None:
    server = scripted(sse(BODY))
    made = client(server)
    params = {"text": "a b&ü", "yes": True, "none": None, "many": ["a", 1]}
    assert len(list(made.stream(PATH, {"x": 1}, params=params))) == 4
    (request,) = server.requests
    assert request.path == PATH
    assert request.query == {"text": ["a b&ü"], "yes": ["true"], "many": ["a", "1"]}
    assert request.json() == {"x": 1}
    with pytest.raises(r.ConfigurationError, match="params must be a mapping, got a str"):
        made.stream(PATH, params="a=b")  # type: ignore[arg-type]


def test_an_event_is_given_when_it_has_come(scripted: Scripted, client: Make) -> None:
    server = scripted(sse([b"data: 1\n\n", b"data: 2\n\n"], gates={1: "go"}))
    events = client(server).stream(PATH)
    assert next(events).data == "1"
    server.open("go")
    assert next(events).data == "2"


def test_what_fails_before_the_stream_begins_is_tried_again(
    scripted: Scripted, client: Make
) -> None:
    server = scripted([answer(429, headers={"Retry-After": "0"}), sse(BODY), answer(503)])
    made = client(server)
    assert len(list(made.stream(PATH, {}))) == 4
    with pytest.raises(r.ServerError):
        made.stream(PATH, {})
    assert len(server.requests) == 3


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_stream_that_is_cut_raises_after_what_has_come(
    scripted: Scripted, client: Make, framing: Any, then: Any
) -> None:
    whole = BODY.index(b"event: component_ready")
    server = scripted(sse(BODY, framing=framing, cut_at=whole, then=then))
    events = client(server).stream(PATH)
    if then == "close":
        assert next(events).event == "layout_ready"
    with pytest.raises(r.ConnectionLostError) as caught:
        list(events)
    assert caught.value.retryable
    assert list(events) == []
    assert len(server.requests) == 1


CUTS = [BODY[:size] for size in range(1, len(BODY)) if BODY[size - 2 : size] != b"\n\n"]
CUTS = [cut for cut in CUTS if not cut.rpartition(b"\n\n")[2].startswith(b":")]
CUTS += [
    BODY + cut
    for cut in (b"d", b"da", b"data", b"id: 5\n", b"retry: 10\n", b"event: message\n", b"data\n")
]


@pytest.mark.parametrize("ends", [b"\n", b"\r", b"\r\n"])
def test_where_the_connections_end_is_the_bodys_an_event_cut_in_the_middle_tells_of_the_cut(
    ends: bytes,
) -> None:
    class Body:
        def __init__(self, data: bytes) -> None:
            self.parts = [data, b""]

        def allow(self, seconds: float | None) -> None: ...

        def read(self) -> bytes:
            return self.parts.pop(0)

        def close(self) -> None: ...

    assert len(CUTS) > 100
    for cut in CUTS:
        body: Any = Body(cut.replace(b"\n", ends))
        with pytest.raises(r.ConnectionLostError, match="in the middle of an event"):
            list(EventStream(body, None))
    for whole in (BODY, BODY + b": bye", BODY + b"\n", BODY + b"id: 5\n\n", b"", b":\n"):
        body = Body(whole.replace(b"\n", ends))
        assert len(list(EventStream(body, None))) in (0, 4)


def test_a_cut_where_the_connections_end_is_the_bodys_raises(
    scripted: Scripted, client: Make
) -> None:
    server = scripted(sse(BODY, framing="close", cut_at=len(BODY) - 1))
    events = client(server).stream(PATH)
    assert [next(events).event for _ in range(3)] == NAMES[:3]
    with pytest.raises(r.ConnectionLostError, match="in the middle of an event"):
        next(events)


def test_a_stream_that_falls_silent_is_idle(scripted: Scripted, client: Make) -> None:
    server = scripted([silence(first=[b"data: 1\n\n"]), comments_for_ever(interval=0.01)])
    events = client(server).stream(PATH, idle_timeout=0.1)
    assert next(events).data == "1"
    with pytest.raises(r.IdleTimeoutError, match=r"no event for 0\.1 seconds"):
        next(events)
    with pytest.raises(r.IdleTimeoutError):
        next(client(server).stream(PATH, idle_timeout=0.1))
    server.wait_no_connections()


def test_the_time_for_a_request_is_none_for_its_stream(scripted: Scripted, client: Make) -> None:
    def late(connection: Any) -> None:
        connection.headers(200, {"Content-Type": "text/event-stream", "Connection": "close"})
        connection.pause(0.3)
        connection.send(b"data: 1\n\n")
        connection.close()

    assert len(list(client(scripted(late), timeout=0.2).stream(PATH, idle_timeout=None))) == 1


def test_an_idle_timeout_that_cannot_be_is_refused(client: Make) -> None:
    with pytest.raises(r.ConfigurationError, match="idle_timeout must be > 0 seconds or None"):
        client().stream(PATH, idle_timeout=0)


@pytest.mark.parametrize("other", [json_answer(200, {"ok": 1}), no_content(), answer(200, b"x")])
def test_what_is_no_event_stream_is_an_error(scripted: Scripted, client: Make, other: Any) -> None:
    with pytest.raises(r.ProtocolError, match="answer is no event stream"):
        client(scripted(other)).stream(PATH)


def test_a_refusal_is_raised_by_the_call(scripted: Scripted, client: Make) -> None:
    server = scripted(json_answer(404, {"error": "NOT_FOUND", "message": "no such path"}))
    with pytest.raises(r.NotFoundError, match="no such path"):
        client(server).stream(PATH)


@pytest.mark.parametrize("what", ["stream", "client"])
def test_a_close_from_another_thread_ends_it_quietly(
    scripted: Scripted, client: Make, what: str
) -> None:
    server = scripted(silence(first=b"data: 1\n\ndata: 2"))
    made = client(server)
    events = made.stream(PATH)
    assert next(events).data == "1"
    reading = InThread(lambda: list(events))
    (events if what == "stream" else made).close()
    assert reading.ends() == []
    assert reading.error is None
    server.wait_no_connections()


def test_a_stream_that_is_forgotten_frees_its_connection(scripted: Scripted, client: Make) -> None:
    server = scripted(silence(first=b"data: 1\n\n"))
    made = client(server)
    events = made.stream(PATH)
    next(events)
    del events
    gc.collect()
    server.wait_no_connections()


def test_two_threads_do_not_share_a_stream(scripted: Scripted, client: Make) -> None:
    server = scripted(silence(first=b"data: 1\n\n"))
    events = client(server).stream(PATH)
    next(events)
    reading = InThread(lambda: next(events, None))
    while not events._turn.locked():
        pass
    with pytest.raises(r.ConcurrencyError):
        next(events)
    events.close()
    assert reading.ends() is None


def test_nobody_who_answers_is_an_error(scripted: Scripted, client: Make) -> None:
    server = scripted(reset())
    with pytest.raises(r.ConnectionLostError):
        client(server, max_retries=0).stream(PATH)
