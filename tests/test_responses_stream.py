"""Streams of responses: every framing, every end, every way to read them and to stop."""

import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

import reasoning_sdk as r
from reasoning_sdk._core.sse import SSEDecoder
from tests.support import recordings as rec
from tests.support.scripted import (
    Connection,
    Framing,
    ScriptedServer,
    answer,
    comments_for_ever,
    drip,
    json_answer,
    no_content,
    raw,
    silence,
    sse,
)
from tests.support.threads import InThread

FUTURE = hasattr(urllib3, "AsyncPoolManager")
pytestmark = pytest.mark.http

Scripted = Callable[..., ScriptedServer]
Start = Callable[..., r.ResponseStream]
ROOT = Path(__file__).resolve().parents[1]
TEXT = "Grüße aus 東京 🌸"
EVENTS = rec.text_response(TEXT)
BODY = rec.to_sse(EVENTS)
FRAMINGS: list[Framing] = ["chunked", "close", "length"]


@pytest.fixture
def start(scripted: Scripted) -> Iterator[Start]:
    """Starts a stream of a server that answers as told; ``start.server`` is the latest."""
    clients: list[r.ResponsesClient] = []

    def make(*handlers: Any, client: dict[str, Any] | None = None, **options: Any) -> Any:
        server = scripted(handlers, **options)
        settings = {"api_key": "sk-very-secret-0123456789", **(client or {})}
        clients.append(r.ResponsesClient("m", base_url=server.base_url, **settings))
        stream = clients[-1].stream("x")
        make.server = server  # type: ignore[attr-defined]
        return stream

    yield make
    for client in clients:
        client.close()


def drain(stream: r.ResponseStream) -> tuple[list[r.ResponseEvent], BaseException | None]:
    events: list[r.ResponseEvent] = []
    try:
        for event in stream:
            events.append(event)
    except r.ReasoningError as error:
        return events, error
    return events, None


def assert_told(error: BaseException | None, kind: type, **expected: Any) -> None:
    """An error of this kind, with what had arrived, which pickle keeps."""
    assert type(error) is kind
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), type(copy)) == (str(error), kind)
    for name, value in expected.items():
        assert getattr(error, name) == value, name
        assert getattr(copy, name) == value, name


# -- whole streams -----------------------------------------------------------------------------


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("pieces", ["one", "events", "bytes"])
def test_a_stream_in_every_framing(start: Start, framing: Framing, gzip: bool, pieces: str) -> None:
    options: dict[str, Any] = {
        "one": {}, "events": {"one_chunk_per_event": True}, "bytes": {"chunk_size": 1},
    }[pieces]  # fmt: skip
    stream = start(sse(EVENTS, framing=framing, gzip=gzip, **options))
    events = list(stream)
    assert [event.data for event in events] == EVENTS
    assert [event.type for event in events] == [event["type"] for event in EVENTS]
    assert [event.sequence_number for event in events] == list(range(len(EVENTS)))
    assert list(stream) == []
    final = stream.until_done()
    assert final.data == EVENTS[-1]["response"]
    assert (final.id, final.status, final.model) == ("resp_1", "completed", "test-model")
    assert (final.output_text, final.usage, final.error) == (TEXT, rec.usage(), None)
    assert (stream.response_id, stream.text, stream.usage) == ("resp_1", TEXT, rec.usage())
    assert stream.items == rec.items_of(EVENTS)
    assert repr(stream) == "<ResponseStream COMPLETED resp_1 items=1 characters=14>"


@pytest.mark.parametrize("event_lines", [True, False])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_stream_with_every_line_end(start: Start, event_lines: bool, newline: str) -> None:
    body = rec.to_sse(EVENTS, event_lines, done=True, newline=newline)
    assert start(sse(body, chunk_size=11)).until_done().output_text == TEXT


@pytest.mark.parametrize("dialect", rec.DIALECTS)
@pytest.mark.parametrize("event_lines", [True, False])
def test_what_real_servers_make_of_it_is_understood(
    start: Start, dialect: str, event_lines: bool
) -> None:
    plain = rec.response([rec.reasoning(), rec.message(TEXT), rec.function_call()])
    events = rec.DIALECTS[dialect](plain)
    stream = start(sse(rec.to_sse(events, event_lines, done=True)))
    assert "".join(stream.text_deltas()) == TEXT
    assert stream.text == TEXT
    final = stream.until_done()
    assert final.output_text == TEXT
    assert [item["type"] for item in final.output] == ["reasoning", "message", "function_call"]
    assert [item["type"] for item in stream.items] == ["reasoning", "message", "function_call"]


def test_the_headers_of_the_answer_are_there(start: Start) -> None:
    headers = {"X-Request-Id": "req_7", "X-RateLimit-Remaining-Tokens": "12"}
    stream = start(sse(EVENTS, headers=headers))
    assert stream.request_id == "req_7"
    assert stream.headers["x-ratelimit-remaining-tokens"] == "12"


def test_unknown_events_are_passed_on(start: Start) -> None:
    odd = [{"type": "response.hologram.delta", "x": [1]}, {"x": 1}, {"type": None}, {"type": 5}]
    named = b'event: custom\ndata: {"x": 2}\n\n'
    body = rec.to_sse(odd, False) + named + BODY
    events = list(start(sse(body)))
    assert [event.type for event in events[:5]] == ["response.hologram.delta", "", "", "", "custom"]
    assert [event.data for event in events[:4]] == odd


def test_data_that_is_no_json_object_is_skipped_with_one_warning_that_tells_no_payload(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    for bad in (b"{secret", b"secret", b"[1, 2]", b'"secret"', b"\xff\xfe", b"NaN"):
        caplog.clear()
        stream = start(sse([EVENTS[0], b"data: " + bad + b"\n\n", *EVENTS[1:]]))
        assert len(list(stream)) == len(EVENTS)
        warnings = [e for e in caplog.records if e.levelno == logging.WARNING]
        assert [e.name for e in warnings] == ["reasoning_sdk.responses"]
        assert "secret" not in warnings[0].getMessage()


def test_empty_data_and_comments_are_no_matter_of_warning(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    body = b": hello\n\ndata\n\ndata:\n\nevent: ping\n\n" + BODY
    assert len(list(start(sse(body)))) == len(EVENTS)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# -- as it arrives -----------------------------------------------------------------------------


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("gzip", [False, True])
def test_each_event_is_given_when_it_has_arrived(
    start: Start, framing: Framing, gzip: bool
) -> None:
    gates = {number: f"{number}" for number in range(1, len(EVENTS))}
    stream = start(sse(EVENTS, framing=framing, gzip=gzip, gates=gates))
    for number, event in enumerate(EVENTS):
        assert next(stream).data == event
        start.server.open(f"{number + 1}")  # type: ignore[attr-defined]
    assert list(stream) == []


def test_an_http_chunk_that_arrives_in_pieces_shows_its_events_at_once(start: Start) -> None:
    first, rest = rec.to_sse(EVENTS[:2]), rec.to_sse(EVENTS[2:])

    def handle(connection: Connection) -> None:
        connection.headers(
            200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        )
        connection.chunk(first, announce=len(first) + len(rest))
        connection.gate("rest")
        connection.send(rest + b"\r\n0\r\n\r\n")

    stream = start(handle)
    assert [next(stream).data for _ in range(2)] == EVENTS[:2]
    start.server.open("rest")  # type: ignore[attr-defined]
    assert [event.data for event in stream] == EVENTS[2:]


def test_text_items_and_events_can_be_taken_in_turn(start: Start) -> None:
    events = rec.function_call_response(text="Let me look.")
    stream = start(sse(events))
    assert next(stream).type == "response.created"
    assert next(stream.text_deltas()) == rec.pieces("Let me look.", 3)[0]
    assert next(stream).type == "response.output_text.delta"
    assert "".join(stream.text_deltas()) == rec.pieces("Let me look.", 3)[2]
    assert [item["type"] for item in stream.output_items()] == ["message", "function_call"]
    assert stream.until_done().status == "completed"


def test_items_come_when_they_are_finished(start: Start) -> None:
    events = rec.function_call_response(rec.function_call(), text="Let me look.")
    done = next(n for n, e in enumerate(events) if e["type"] == "response.output_item.done")
    stream = start(sse(events, gates={done + 1: "more"}))
    items = stream.output_items()
    assert next(items)["type"] == "message"
    start.server.open("more")  # type: ignore[attr-defined]
    assert next(items)["call_id"] == "call_1"
    assert list(items) == []


def test_text_without_deltas_comes_with_the_item(start: Start) -> None:
    events = [event for event in EVENTS if not event["type"].endswith(".delta")]
    assert list(start(sse(events)).text_deltas()) == [TEXT]


def test_a_large_event(start: Start) -> None:
    large = "x" * 20_000_000
    stream = start(sse(rec.text_response(large, deltas=1), chunk_size=65536))
    assert stream.until_done().output_text == large


# -- bad ends ----------------------------------------------------------------------------------


def position(text: bytes) -> int:
    return BODY.index(text)


CUTS = {
    "before anything": 0,
    "inside the first event": 30,
    "inside a character": position("東".encode()) + 1,
    "inside a line end": position(
        b"\n\n",
    )
    + 1,
    "behind an event": position(b"\n\n") + 2,
    "inside the last event": len(BODY) - 20,
    "before the last line end": len(BODY) - 1,
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_stream_gives_what_had_arrived_and_then_an_error(
    start: Start, framing: Framing, gzip: bool, then: Any, cut: str
) -> None:
    at = CUTS[cut]
    arrived = SSEDecoder().feed(BODY[:at])
    stream = start(sse(BODY, framing=framing, gzip=gzip, cut_at=at, then=then))
    events, error = drain(stream)
    if then == "close":
        assert [event.data for event in events] == EVENTS[: len(arrived)]
    else:  # a reset may overtake what was sent before it
        assert [event.data for event in events] == EVENTS[: len(events)]
    assert_told(
        error,
        r.StreamInterruptedError,
        response_id="resp_1" if events else None,
        text=stream.text,
        items=rec.items_of(EVENTS[: len(events)]),
        retryable=True,
    )
    assert str(error).startswith("stream closed before response.completed")
    assert isinstance(error, r.TransportError)
    with pytest.raises(r.StreamInterruptedError) as caught:
        stream.until_done()
    assert caught.value is error
    assert list(stream) == []
    assert "INTERRUPTED" in repr(stream)
    start.server.wait_no_connections()  # type: ignore[attr-defined]
    assert len(start.server.requests) == 1  # type: ignore[attr-defined]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST = rec.to_sse(EVENTS[:3])
WIRES = {
    "inside a chunk": b"%x\r\n%b" % (len(FIRST) + 50, FIRST),
    "before the end of a chunk": b"%x\r\n%b" % (len(FIRST), FIRST),
    "inside the end of a chunk": b"%x\r\n%b\r" % (len(FIRST), FIRST),
    "between chunks": b"%x\r\n%b\r\n" % (len(FIRST), FIRST),
    "inside the size of a chunk": b"%x\r\n%b\r\n1f" % (len(FIRST), FIRST),
    "with a size that is none": b"%x\r\n%b\r\nzz\r\n" % (len(FIRST), FIRST),
    "with a negative size": b"%x\r\n%b\r\n-5\r\nabc" % (len(FIRST), FIRST),
    "with the end of the body": b"%x\r\n%b\r\n0\r\n\r\n" % (len(FIRST), FIRST),
}


@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_cut_in_its_chunks(start: Start, wire: str) -> None:
    events, error = drain(start(raw(HEAD + WIRES[wire])))
    assert [event.data for event in events] == EVENTS[:3]
    kind = r.StreamInterruptedError
    if FUTURE and ("is none" in wire or "negative" in wire):
        kind = type(error)  # it is told apart by urllib3-future
        assert kind in (r.StreamInterruptedError, r.ProtocolError)
    assert_told(error, kind, response_id="resp_1", text="", items=[])


def test_a_gzip_stream_that_breaks(start: Start) -> None:
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(FIRST) + packer.flush(zlib.Z_SYNC_FLUSH)

    def handle(connection: Connection) -> None:
        fields = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
        connection.headers(200, {**fields, "Connection": "close"})
        connection.send(packed)
        connection.gate("broken")
        connection.send(b"this is no gzip any more, whatever came before it was" * 10)

    stream = start(handle)
    assert [next(stream).data for _ in range(3)] == EVENTS[:3]
    start.server.open("broken")  # type: ignore[attr-defined]
    events, error = drain(stream)
    assert events == []
    assert_told(error, r.ProtocolError, response_id="resp_1")


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_marker_of_the_end_is_a_cut_before_it_and_nothing_after_it(
    start: Start, framing: Framing
) -> None:
    early = sse([*EVENTS[:-1], b"data: [DONE]\n\n", EVENTS[-1]], framing=framing)
    events, error = drain(start(early))
    assert [event.data for event in events] == EVENTS[:-1]
    assert_told(error, r.StreamInterruptedError, response_id="resp_1", text=TEXT)
    late = sse([*EVENTS, b"data: [DONE]\n\n"], framing=framing, one_chunk_per_event=True)
    assert start(late).until_done().output_text == TEXT


def test_a_marker_of_the_end_that_is_not_followed_by_one_is_no_hang(start: Start) -> None:
    stream = start(sse([*EVENTS[:2], b"data: [DONE]\n\n"], then="silence"))
    assert_told(drain(stream)[1], r.StreamInterruptedError)
    start.server.wait_no_connections()  # type: ignore[attr-defined]


FAILED_CODES = [("server_error", True), ("rate_limit_exceeded", True), ("invalid_prompt", False)]


@pytest.mark.parametrize(("code", "retryable"), FAILED_CODES)
def test_a_response_that_failed(start: Start, code: str, retryable: bool) -> None:
    stream = start(sse(rec.failed_response(code, "It broke.")))
    events, error = drain(stream)
    assert events[-1].type == "response.failed"
    assert_told(
        error,
        r.ResponseFailedError,
        code=code,
        message="It broke.",
        retryable=retryable,
        retry_after=None,
        response_id="resp_1",
        text="Hello, wor",
        items=[],
    )
    assert str(error) == f"response failed: {code}: It broke."
    assert "FAILED" in repr(stream)
    with pytest.raises(r.ResponseFailedError):
        stream.until_done()


def test_a_failure_says_when_to_try_again(start: Start) -> None:
    said = "Rate limit reached. Please try again in 1.5s."
    error = drain(start(sse(rec.failed_response("rate_limit_exceeded", said))))[1]
    assert_told(error, r.ResponseFailedError, retry_after=1.5, retryable=True)


@pytest.mark.parametrize(
    "event",
    [
        rec.error_event("server_error", "It broke."),
        rec.error_event("server_error", "It broke.", nested=True),
        rec.error_event("server_error", "It broke.", nested=True, typed=False),
    ],
)
@pytest.mark.parametrize("then", ["end", "silence", "reset"])
def test_an_error_event_flat_or_nested(start: Start, event: rec.JSON, then: Any) -> None:
    stream = start(sse([*rec.cut_response(), event], then=then))
    events, error = drain(stream)
    if then == "reset" and type(error) is r.StreamInterruptedError:
        return  # the reset has overtaken it
    assert events[-1].type == "error"
    assert events[-1].data == event
    assert_told(
        error, r.ResponseFailedError, code="server_error", message="It broke.", text="Hello, wor"
    )


def test_an_error_event_with_its_name_in_the_event_line_only(start: Start) -> None:
    body = rec.to_sse(rec.cut_response()) + b'event: error\ndata: {"message": "It broke."}\n\n'
    assert_told(drain(start(sse(body)))[1], r.ResponseFailedError, message="It broke.", code=None)


def test_a_response_that_is_incomplete(start: Start) -> None:
    for kind in ("response.incomplete", "response.completed"):
        events = rec.incomplete_response("max_output_tokens")
        events[-1]["type"] = kind
        stream = start(sse(events))
        got, error = drain(stream)
        assert got[-1].type == kind
        assert_told(
            error,
            r.ResponseIncompleteError,
            reason="max_output_tokens",
            response_id="resp_1",
            text="Hello, wor",
            items=stream.items,
        )
        assert len(stream.items) == 1
        assert str(error) == "response is incomplete: max_output_tokens"


def test_a_response_that_was_cancelled(start: Start) -> None:
    events = rec.failed_response()
    events[-1] = {
        "type": "response.cancelled",
        "response": rec.response_object(status="cancelled"),
    }
    error = drain(start(sse(events)))[1]
    assert_told(error, r.ResponseFailedError, code="cancelled")


# -- what is no event stream -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (json_answer(200, {"id": "resp_1"}), 'content type application/json, body \'{"id":'),
        (answer(200, b"<html>Login", content_type="text/html"), "text/html, body '<html>Login'"),
        (sse(EVENTS, content_type=None), "content type missing, body 'event: response.created"),
        (no_content(), "status 204"),
    ],
)
def test_an_answer_that_is_no_event_stream(start: Start, handler: Any, said: str) -> None:
    with pytest.raises(r.ProtocolError, match="answer is no event stream") as caught:
        start(handler)
    assert said in str(caught.value)


def test_an_event_larger_than_it_may_be(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "reasoning_sdk.responses.SSEDecoder", lambda: SSEDecoder(max_event_size=4000)
    )
    for then in ("close", "silence"):
        large = b"data: " + b"x" * 5000
        stream = start(sse([*EVENTS[:6], large], one_chunk_per_event=True, then=then))
        events, error = drain(stream)
        assert [event.data for event in events] == EVENTS[:6]
        assert_told(error, r.ProtocolError, response_id="resp_1", text=rec.text_of(EVENTS[:6]))
        assert "larger than max_event_size, 4000 bytes" in str(error)
        start.server.wait_no_connections()  # type: ignore[attr-defined]


# -- time --------------------------------------------------------------------------------------


def without_blank_lines(connection: Connection) -> None:
    connection.headers(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
    connection.chunk(rec.to_sse(EVENTS[:3]))
    while True:
        connection.chunk(b": ping\n")
        connection.pause(0.01)


IDLE = {
    "silence": silence(first=EVENTS[:3]),
    "comments": comments_for_ever(first=EVENTS[:3], interval=0.01),
    "comments without blank lines": without_blank_lines,
    "a body that drips": drip(rec.to_sse(EVENTS[:3]) + b"data: " + b"x" * 9999, interval=0.01),
    "empty blocks": drip(rec.to_sse(EVENTS[:3]) + b"id: 1\n\n" * 999, size=7, interval=0.01),
}


@pytest.mark.parametrize("kind", IDLE)
def test_a_stream_without_events_is_idle_whatever_else_it_sends(start: Start, kind: str) -> None:
    first = {}
    if kind in ("a body that drips", "empty blocks"):  # its beginning is to come in time
        body = rec.to_sse(EVENTS[:3])

        def handle(connection: Connection) -> None:
            fields = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
            connection.headers(200, fields)
            connection.chunk(body)
            while True:
                connection.chunk(b"data: x" if kind == "a body that drips" else b"id: 1\n\n")
                connection.pause(0.01)

        first["handler"] = handle
    stream = start(first.get("handler", IDLE[kind]), client={"idle_timeout": 0.15})
    events, error = drain(stream)
    assert len(events) == 3
    assert_told(error, r.IdleTimeoutError, response_id="resp_1", text="", retryable=True)
    assert str(error) == "no event for 0.15 seconds"
    assert isinstance(error, TimeoutError)
    start.server.wait_no_connections()  # type: ignore[attr-defined]


def test_without_a_limit_a_stream_is_never_idle(start: Start) -> None:
    stream = start(sse(EVENTS, gates={2: "go"}), client={"idle_timeout": None})
    reading = InThread(stream.until_done)
    start.server.wait_at("go")  # type: ignore[attr-defined]
    reading.join(0.05)
    assert reading.is_alive()
    start.server.open("go")  # type: ignore[attr-defined]
    assert reading.ends().output_text == TEXT


def test_a_time_out_of_the_system_is_a_lost_connection_when_there_is_no_limit(
    start: Start,
) -> None:
    stream = start(silence(first=EVENTS[:1]), client={"idle_timeout": None})
    next(stream)

    def dead_link() -> bytes:
        raise TimeoutError(110, "Connection timed out")

    stream._body._receive = dead_link  # type: ignore[attr-defined]
    assert_told(drain(stream)[1], r.StreamInterruptedError, response_id="resp_1")


def test_time_that_the_reader_takes_is_not_idle_time(start: Start) -> None:
    stream = start(sse(EVENTS, gates={1: "go"}), client={"idle_timeout": 0.1})
    next(stream)
    threading.Event().wait(0.15)
    start.server.open("go")  # type: ignore[attr-defined]
    assert stream.until_done().output_text == TEXT


# -- connections -------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("done", [False, True])
def test_the_connection_of_a_completed_stream_is_used_again(
    scripted: Scripted, framing: Framing, gzip: bool, done: bool
) -> None:
    body = rec.to_sse(EVENTS, done=done)
    server = scripted([sse(body, framing=framing, gzip=gzip, chunk_size=500)] * 3)
    with r.ResponsesClient("m", base_url=server.base_url, api_key="k") as client:
        for _ in range(3):
            client.stream("x").until_done()
        assert server.accepted == 1
    server.wait_no_connections()


def test_a_body_that_goes_on_after_the_end_is_not_waited_for(start: Start) -> None:
    stream = start(sse(EVENTS, then="silence"))
    reading = InThread(stream.until_done)
    assert reading.ends().output_text == TEXT
    start.server.wait_no_connections()  # type: ignore[attr-defined]


def test_a_server_that_talks_on_after_the_end_is_not_listened_to(start: Start) -> None:
    stream = start(comments_for_ever(first=EVENTS, interval=0.005))
    assert InThread(stream.until_done).ends().output_text == TEXT
    start.server.wait_no_connections()  # type: ignore[attr-defined]


def test_a_with_block_frees_the_connection(start: Start) -> None:
    with start(silence(first=EVENTS[:2])) as stream:
        next(stream)
    start.server.wait_no_connections()  # type: ignore[attr-defined]


def test_a_stream_that_is_forgotten_frees_its_connection(start: Start) -> None:
    stream = start(silence(first=EVENTS[:2]))
    next(stream)
    del stream
    gc.collect()
    start.server.wait_no_connections()  # type: ignore[attr-defined]


# -- to close ----------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("by", ["stream", "client"])
def test_a_close_from_another_thread_ends_the_iteration_quietly(
    scripted: Scripted, framing: Framing, by: str
) -> None:
    server = scripted(sse(EVENTS[:5], framing=framing, then="silence"))
    client = r.ResponsesClient("m", base_url=server.base_url, api_key="k")
    stream = client.stream("x")
    for _ in range(5):
        next(stream)
    reading = InThread(lambda: list(stream))
    (stream if by == "stream" else client).close()
    assert reading.ends() == []
    assert reading.error is None
    server.wait_no_connections()
    with pytest.raises(r.StateError, match="closed before its end") as caught:
        stream.until_done()
    assert caught.value.response_id == "resp_1"
    assert caught.value.text == stream.text == rec.text_of(EVENTS[:5])
    assert list(stream.text_deltas()) == []
    assert list(stream.output_items()) == []
    assert "CLOSED" in repr(stream)
    client.close()


def test_what_is_left_of_a_batch_is_not_given_after_a_close(start: Start) -> None:
    stream = start(sse(EVENTS))
    next(stream)
    stream.close()
    assert list(stream) == []


def test_a_completed_stream_stays_completed_when_it_is_closed(start: Start) -> None:
    stream = start(sse(EVENTS))
    stream.until_done()
    stream.close()
    stream.close()
    assert stream.until_done().output_text == TEXT
    assert "COMPLETED" in repr(stream)


def test_until_done_is_woken_by_a_close(start: Start) -> None:
    stream = start(silence(first=EVENTS[:2]))
    reading = InThread(stream.until_done)
    start.server.wait_for_requests(1)  # type: ignore[attr-defined]
    stream.close()
    reading.ends()
    assert type(reading.error) is r.StateError


def test_a_second_thread_is_refused_and_the_first_goes_on(start: Start) -> None:
    stream = start(sse(EVENTS, gates={2: "go"}))
    assert [next(stream).data for _ in range(2)] == EVENTS[:2]
    reading = InThread(stream.until_done)
    turn = stream._turn
    while not turn.locked():
        threading.Event().wait(0.001)
    with pytest.raises(r.ConcurrencyError, match="another thread iterates") as caught:
        next(stream)
    assert caught.value.response_id == "resp_1"
    start.server.open("go")  # type: ignore[attr-defined]
    assert reading.ends().output_text == TEXT


def test_others_may_look_while_one_reads(start: Start) -> None:
    events = rec.response([rec.message("ab" * 50, deltas=25, item_id=f"m{n}") for n in range(20)])
    stream = start(sse(events, chunk_size=4096))
    reading = InThread(stream.until_done)
    while reading.is_alive():
        assert len(stream.text) <= 2000
        assert len(stream.items) <= 20
        repr(stream)
        stream._repr_html_()
    assert len(reading.ends().output_text) == 2000


# -- interruptions -----------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, sys, threading
from reasoning_sdk import ResponsesClient
client = ResponsesClient("m", base_url=sys.argv[1], api_key="k")
stream = client.stream("x")
next(stream)

def interrupt():
    while not stream._body._reading.locked():
        pass
    threading.Event().wait(0.05)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    {read}
except KeyboardInterrupt:
    pass
else:
    raise AssertionError("not interrupted")
assert list(stream) == []
print("interrupted", flush=True)
input()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are others there")
@pytest.mark.parametrize("read", ["list(stream)", "stream.until_done()"])
def test_ctrl_c_frees_the_connection(scripted: Scripted, read: str) -> None:
    server = scripted(silence(first=EVENTS[:1]))
    command = [sys.executable, "-W", "error", "-c", INTERRUPTED.format(read=read), server.base_url]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"interrupted\n"
            server.wait_no_connections()  # while the process lives
            _, errors = process.communicate(b"\n", timeout=10)
        finally:
            process.kill()
    assert errors == b""
    assert process.returncode == 0


CLOSED_BY_SIGNAL = """
import signal, sys
from reasoning_sdk import ResponsesClient
client = ResponsesClient("m", base_url=sys.argv[1], api_key="k")
stream = client.stream("x")
signal.signal(signal.SIGTERM, lambda *_: client.close())
next(stream)
print("reading", flush=True)
assert list(stream) == []
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are others there")
def test_a_signal_handler_may_close_what_it_interrupts(scripted: Scripted) -> None:
    server = scripted(silence(first=EVENTS[:1]))
    command = [sys.executable, "-W", "error", "-c", CLOSED_BY_SIGNAL, server.base_url]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"reading\n"
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert errors == b""
    assert process.returncode == 0


GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from reasoning_sdk import ResponsesClient, RetryPolicy, ServerError, StateError
client = ResponsesClient("m", base_url=sys.argv[1], api_key="k")
assert client.stream("x").until_done().output_text == "Hello"

stream = client.stream("x")
reading = gevent.spawn(list, stream)
gevent.sleep(0.02)
assert not reading.dead
stream.close()
assert len(reading.get(timeout=1.0)) == 2

def asking():
    try:
        client.stream("x")
    except StateError:
        return "closed"
asked = gevent.spawn(asking)
gevent.sleep(0.02)
client.close()
assert asked.get(timeout=1.0) == "closed"
"""


def test_greenlets_stream_and_close(scripted: Scripted) -> None:
    pytest.importorskip("gevent")
    server = scripted(
        [sse(rec.text_response("Hello")), silence(first=EVENTS[:2]), silence(headers=False)]
    )
    done = subprocess.run(
        [sys.executable, "-c", GEVENT, server.base_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- text, when only some of it comes as deltas ------------------------------------------------


def texts(stream: r.ResponseStream) -> list[str]:
    return list(stream.text_deltas())


def delta(item: str, text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": item, "delta": text}


def item_done(item: str, text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text}]
    message = {"type": "message", "id": item, "content": content}
    return {"type": "response.output_item.done", "item": message}


END = {"type": "response.completed", "response": {"id": "resp_1", "status": "completed"}}


def test_text_that_comes_only_with_its_item_follows_text_that_interleaved(start: Start) -> None:
    events = [delta("a", "A"), delta("b", "X"), delta("a", "B"), delta("b", "Y")]
    events += [item_done("c", "THIRD"), END]
    assert texts(start(sse(events))) == ["A", "X", "B", "Y", "THIRD"]


def test_a_done_event_that_disagrees_takes_nothing_from_what_follows(start: Start) -> None:
    done = {"type": "response.output_text.done", "item_id": "a", "text": "A"}
    events = [delta("a", "A "), done, item_done("a", "A"), item_done("b", "SECOND"), END]
    assert texts(start(sse(events))) == ["A ", "SECOND"]


def test_a_done_event_brings_what_its_deltas_left_out(start: Start) -> None:
    done = {"type": "response.output_text.done", "item_id": "a", "text": "one two"}
    assert texts(start(sse([delta("a", "one"), done, END]))) == ["one", " two"]


@pytest.mark.parametrize("after", range(len(EVENTS) - 1))
def test_text_after_a_resumption_is_what_was_not_given_before(
    scripted: Scripted, after: int
) -> None:
    given = [e["delta"] for e in EVENTS[: after + 1] if e["type"].endswith("text.delta")]
    server = scripted(sse(EVENTS[after + 1 :]))
    with r.ResponsesClient("m", base_url=server.base_url, api_key="k") as client:
        rest = texts(client.resume("resp_1", starting_after=after))
    assert "".join(given + rest) == TEXT
