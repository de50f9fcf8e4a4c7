"""Sinks: every event is taken, waits or is counted, and nobody waits for ever."""

import gc
import http.client
import logging
import os
import queue
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django.conf
import django.http
import flask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.serving import make_server

import reasoning_sdk as r
from reasoning_sdk._core.sse import iter_events
from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.events import LoopEvent, LoopEventKind
from reasoning_sdk.sinks import (
    CallbackSink,
    QueueSink,
    RecordingSink,
    SSESink,
    TeeSink,
    ViewerSink,
)
from reasoning_sdk.typing import EventSink
from tests.support.scripted import ScriptedServer, json_answer
from tests.support.threads import InThread

ROOT = Path(__file__).resolve().parents[1]
Kind = LoopEventKind
DELTA, PART = Kind.OUTPUT_TEXT_DELTA, Kind.CONTENT_PART_ADDED


def event(kind: LoopEventKind = DELTA, sequence: int = 0, /, **data: Any) -> LoopEvent:
    return LoopEvent(sequence, kind, {"type": kind.value, "sequence_number": sequence, **data})


CREATED = event(Kind.CREATED, 0, response={"id": "resp_1"})
COMPLETED = event(Kind.COMPLETED, 99, response={"id": "resp_1"})


def emitted(sink: EventSink, *events: LoopEvent) -> int:
    """Emits; how many were refused."""
    refused = 0
    for each in events:
        try:
            sink.emit(each)
        except r.EventSinkError:
            refused += 1
    return refused


def waiting(sink: QueueSink) -> list[LoopEvent]:
    """All that a closed sink still has."""
    sink.close()
    return list(sink)


@pytest.mark.parametrize(
    "sink", [RecordingSink(), QueueSink(), CallbackSink(print), SSESink(), TeeSink()]
)
def test_all_are_sinks(sink):
    assert isinstance(sink, EventSink)


# -- RecordingSink -------------------------------------------------------------------------------


def test_a_recording_sink_keeps_all_events_in_their_order():
    sink = RecordingSink()
    assert emitted(sink, CREATED, COMPLETED) == 0
    assert sink.events == [CREATED, COMPLETED]
    assert len(sink) == 2
    assert repr(sink) == "<RecordingSink events=2>"


def test_a_recording_sink_is_read_while_another_thread_emits():
    sink = RecordingSink()
    thread = InThread(lambda: emitted(sink, *(event(DELTA, n) for n in range(5000))))
    seen = 0
    while thread.is_alive():
        events = list(sink.events)
        assert [each.sequence for each in events] == list(range(len(events)))
        assert len(events) >= seen
        seen = len(events)
    thread.wait()
    assert len(sink) == 5000


# -- CallbackSink --------------------------------------------------------------------------------


def test_a_callback_sink_calls_its_function_with_each_event():
    got: list[LoopEvent] = []
    sink = CallbackSink(got.append)
    emitted(sink, CREATED, COMPLETED)
    assert got == [CREATED, COMPLETED]
    assert repr(sink) == "<CallbackSink list.append kinds=all>"


@pytest.mark.parametrize("kinds", [[Kind.COMPLETED], ["response.completed"], {Kind.COMPLETED}])
def test_a_callback_sink_calls_its_function_only_for_the_kinds_it_is_given(kinds):
    got: list[LoopEvent] = []
    sink = CallbackSink(got.append, kinds=kinds)
    emitted(sink, CREATED, event(), COMPLETED)
    assert got == [COMPLETED]
    assert repr(sink) == "<CallbackSink list.append kinds=response.completed>"


def test_what_the_function_of_a_callback_sink_raises_leaves_it():
    def fail(_: LoopEvent) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        CallbackSink(fail).emit(CREATED)


@pytest.mark.parametrize("kinds", [["no.such"], "response.completed", 5])
def test_kinds_that_are_none_are_refused(kinds):
    with pytest.raises(r.ConfigurationError, match="kinds must be names of kinds of events"):
        CallbackSink(print, kinds=kinds)


def test_a_function_that_is_none_is_refused():
    with pytest.raises(r.ConfigurationError, match="function must be callable, got 5"):
        CallbackSink(5)
    with pytest.raises(r.ConfigurationError, match="on_close must be callable, got 5"):
        SSESink(on_close=5)


# -- TeeSink -------------------------------------------------------------------------------------


def test_a_tee_gives_each_event_to_all_and_names_the_ones_that_failed():
    first, last = RecordingSink(), RecordingSink()
    closed = QueueSink()
    closed.close()
    tee = TeeSink(first, CallbackSink(lambda _: 1 / 0), closed, last)
    with pytest.raises(r.EventSinkError) as caught:
        tee.emit(CREATED)
    assert str(caught.value) == (
        "2 of 4 sinks have failed: CallbackSink (ZeroDivisionError), QueueSink (EventSinkError)"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert first.events == last.events == [CREATED]


def test_the_repr_of_a_tee_tells_the_state_of_all():
    tee = TeeSink(RecordingSink(), QueueSink())
    tee.emit(CREATED)
    assert repr(tee) == "<TeeSink <RecordingSink events=1> <QueueSink OPEN waiting=1 dropped=0>>"


# -- QueueSink: taking ---------------------------------------------------------------------------


def test_another_thread_takes_the_events_until_the_terminal_one():
    sink = QueueSink()
    thread = InThread(lambda: list(sink))
    events = [CREATED, *(event(DELTA, n) for n in range(1, 50)), COMPLETED]
    emitted(sink, *events)
    assert thread.ends() == events
    assert sink.get() is None
    assert repr(sink) == "<QueueSink ENDED waiting=0 dropped=0>"


def test_get_waits_so_long_and_no_longer():
    sink = QueueSink()
    for timeout in (0, 0.01):
        with pytest.raises(r.RequestTimeoutError, match=f"no event came within {timeout} seconds"):
            sink.get(timeout)
    thread = InThread(lambda: sink.get(30))
    sink.emit(CREATED)
    assert thread.ends() == CREATED


@pytest.mark.parametrize("timeout", [-1, "1", True])
def test_a_timeout_of_get_that_cannot_work_is_refused(timeout):
    with pytest.raises(r.ConfigurationError, match="timeout must be >= 0 seconds or None"):
        QueueSink().get(timeout)


def test_close_wakes_all_threads_that_wait():
    sink = QueueSink()
    threads = [InThread(sink.get), InThread(lambda: list(sink)), InThread(sink.get)]
    sink.close()
    assert [thread.ends() for thread in threads] == [None, [], None]


def test_what_waits_when_it_is_closed_can_still_be_got_and_nothing_is_added():
    sink = QueueSink()
    sink.emit(CREATED)
    sink.close()
    sink.close()
    with pytest.raises(r.EventSinkError, match="sink takes no more events: <QueueSink CLOSED"):
        sink.emit(COMPLETED)
    assert list(sink) == [CREATED]
    assert repr(sink) == "<QueueSink CLOSED waiting=0 dropped=1>"


def test_no_event_follows_the_terminal_one():
    sink = QueueSink()
    assert emitted(sink, COMPLETED, event()) == 1
    assert list(sink) == [COMPLETED]
    assert sink.dropped == 1


def test_several_threads_share_the_events():
    sink = QueueSink()
    threads = [InThread(lambda: list(sink)) for _ in range(4)]
    emitters = [
        InThread(lambda n=n: emitted(sink, *(event(DELTA, n * 500 + m) for m in range(500))))
        for n in range(3)
    ]
    for emitter in emitters:
        emitter.wait(10)
    sink.emit(COMPLETED)
    got = [each for thread in threads for each in thread.ends(10)]
    assert sorted(each.sequence for each in got) == sorted([*range(1500), COMPLETED.sequence])


# -- QueueSink: bounds ---------------------------------------------------------------------------


def test_a_full_sink_drops_the_deltas_that_come():
    sink = QueueSink(maxsize=2)
    assert emitted(sink, *(event(DELTA, n) for n in range(5))) == 0
    assert sink.dropped == 3
    assert [each.sequence for each in waiting(sink)] == [0, 1]


def test_the_oldest_delta_makes_room_for_another_kind_of_event():
    sink = QueueSink(maxsize=3)
    emitted(sink, CREATED, event(DELTA, 1), event(DELTA, 2), event(PART, 3))
    assert sink.dropped == 1
    assert [each.sequence for each in waiting(sink)] == [0, 2, 3]


def test_an_event_that_says_something_new_is_never_dropped_in_silence():
    sink = QueueSink(maxsize=1)
    sink.emit(CREATED)
    with pytest.raises(
        r.EventSinkError,
        match=r"sink has no room for response.*part.added: <QueueSink OPEN waiting=1",
    ):
        sink.emit(event(PART, 1))
    assert sink.dropped == 1


def test_the_terminal_event_is_always_taken():
    sink = QueueSink(maxsize=1)
    emitted(sink, CREATED, COMPLETED)
    assert list(sink) == [CREATED, COMPLETED]
    assert sink.dropped == 0


def test_the_first_drop_and_the_total_are_logged_once(caplog):
    sink = QueueSink(maxsize=1)
    emitted(sink, CREATED, event(), event(), event(PART, 1), COMPLETED, event())
    sink.close()
    assert caplog.messages == [
        "QueueSink drops events: 1 wait",
        "QueueSink has ended, events dropped: 3",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_close_tells_the_total_too_and_says_nothing_when_nothing_was_dropped(caplog):
    QueueSink().close()
    assert not caplog.records
    sink = QueueSink(maxsize=1)
    emitted(sink, CREATED, event())
    sink.close()
    assert caplog.messages[1:] == ["QueueSink has ended, events dropped: 1"]


@pytest.mark.parametrize("maxsize", [-1, 1.5, True, None])
def test_a_size_that_is_none_is_refused(maxsize):
    for kind in (QueueSink, SSESink):
        with pytest.raises(r.ConfigurationError, match="maxsize must be an int >= 0, got "):
            kind(maxsize=maxsize)


@given(
    st.integers(1, 4),
    st.lists(st.sampled_from([DELTA, PART, Kind.COMPLETED, "take", "close"]), max_size=40),
)
def test_every_event_is_taken_or_waits_or_is_counted(maxsize, actions):
    sink, given_events, got, refused = QueueSink(maxsize=maxsize), [], [], []
    for action in actions:
        if action == "close":
            sink.close()
        elif action == "take":
            try:
                got.append(sink.get(0))
            except r.RequestTimeoutError:
                pass
        else:
            given_events.append(event(action, len(given_events)))
            refused += [given_events[-1]] * emitted(sink, given_events[-1])
    got = [each for each in [*got, *waiting(sink)] if each is not None]
    assert len(got) + sink.dropped == len(given_events)
    assert [each for each in given_events if each in got] == got  # in their order, once
    missing = [each for each in given_events if each not in got and each not in refused]
    assert all(each.kind.is_delta for each in missing)


def test_taken_and_dropped_are_what_was_emitted_by_many_threads():
    sink = QueueSink(maxsize=7)
    consumer = InThread(lambda: list(sink))
    kinds = [DELTA, DELTA, PART]
    threads = [
        InThread(lambda: emitted(sink, *(event(kinds[n % 3], n) for n in range(1000))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.wait(10)
    sink.emit(COMPLETED)
    assert len(consumer.ends()) + sink.dropped == 3001


# -- SSESink -------------------------------------------------------------------------------------


def test_a_chunk_holds_all_events_that_wait():
    sink = SSESink()
    emitted(sink, CREATED, event(DELTA, 1, delta="é\n"), COMPLETED)
    (chunk,) = list(sink)
    assert chunk == CREATED.to_sse() + event(DELTA, 1, delta="é\n").to_sse() + COMPLETED.to_sse()
    events = list(iter_events([chunk]))
    assert [(each.event, each.id) for each in events] == [
        ("response.created", "0"),
        ("response.output_text.delta", "1"),
        ("response.completed", "99"),
    ]
    assert events[1].json()["delta"] == "é\n"
    assert repr(sink) == "<SSESink ENDED waiting=0 dropped=0>"


def test_the_first_chunk_goes_out_at_once():
    body = iter(SSESink(keep_alive=None))
    assert InThread(lambda: next(body)).ends() == b": keep-alive\n"


def test_comments_keep_a_silent_body_alive():
    sink = SSESink(keep_alive=0.01)
    body = iter(sink)
    assert [next(body) for _ in range(3)] == [b": keep-alive\n"] * 3
    sink.emit(COMPLETED)
    assert list(body) == [COMPLETED.to_sse()]


def test_events_go_out_as_they_come():
    sink = SSESink(keep_alive=None)
    body = iter(sink)
    sink.emit(CREATED)
    assert next(body) == CREATED.to_sse()
    thread = InThread(lambda: next(body))
    sink.emit(event(PART, 1))
    assert thread.ends() == event(PART, 1).to_sse()


def test_the_done_marker_follows_the_terminal_event():
    sink = SSESink(done_marker=True)
    body = iter(sink)
    sink.emit(CREATED)
    assert next(body) == CREATED.to_sse()
    sink.emit(COMPLETED)
    assert list(body) == [COMPLETED.to_sse() + b"data: [DONE]\n\n"]


def test_close_ends_the_body_at_once_and_tells_it_once():
    closed: list[int] = []
    sink = SSESink(keep_alive=None, on_close=lambda: closed.append(1))
    body = iter(sink)
    next(body)
    thread = InThread(lambda: list(body))
    sink.close()
    sink.close()
    assert thread.ends() == []
    assert closed == [1]
    with pytest.raises(r.EventSinkError, match="sink takes no more events: <SSESink CLOSED"):
        sink.emit(CREATED)


def test_of_threads_that_close_it_at_once_one_tells_it():
    closed: queue.SimpleQueue[int] = queue.SimpleQueue()
    sink, start = SSESink(on_close=lambda: closed.put(1)), threading.Barrier(8)

    def close() -> None:
        start.wait(5)
        sink.close()

    for thread in [InThread(close) for _ in range(8)]:
        thread.wait(5)
    assert closed.qsize() == 1


def test_what_waits_when_it_is_closed_is_dropped_and_counted():
    sink = SSESink()
    emitted(sink, CREATED, event(), event())
    sink.close()
    assert list(sink) == []
    assert emitted(sink, COMPLETED) == 1
    assert repr(sink) == "<SSESink CLOSED waiting=0 dropped=4>"


def test_a_close_after_the_terminal_event_is_no_news():
    closed: list[int] = []
    sink = SSESink(on_close=lambda: closed.append(1))
    sink.emit(COMPLETED)
    sink.close()
    assert list(sink) == []
    assert not closed


def test_on_close_can_cancel_a_loop():
    cancellation = Cancellation()
    SSESink(on_close=cancellation.cancel).close()
    assert cancellation.canceled


@pytest.mark.parametrize("leave", ["close", "forget"])
def test_to_leave_the_iterator_is_to_close_the_sink(leave):
    closed: list[int] = []
    sink = SSESink(on_close=lambda: closed.append(1))
    body = iter(sink)
    next(body)
    if leave == "close":
        body.close()
    del body
    gc.collect()
    assert closed == [1]


def test_an_event_that_cannot_be_written_does_not_end_the_others_stream(caplog):
    sink = SSESink()
    emitted(sink, CREATED, event(DELTA, 1, delta=object()), COMPLETED)
    (chunk,) = list(sink)
    assert [each.event for each in iter_events([chunk])] == [
        "response.created",
        "response.completed",
    ]
    assert caplog.messages == [
        "event 1 (response.output_text.delta) is left out: $.delta cannot be JSON: a object"
    ]


def test_half_a_character_that_a_model_has_cut_is_written():
    sink = SSESink()
    emitted(sink, CREATED, event(DELTA, 1, delta="\ud83d"), COMPLETED)
    (chunk,) = list(sink)
    assert [e.json().get("delta") for e in iter_events([chunk])] == [None, "\ud83d", None]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TeeSink(5), "sinks[0] must be an EventSink, got an int"),
        (
            lambda: TeeSink(RecordingSink(), RecordingSink),
            "sinks[1] must be an EventSink, got the class RecordingSink",
        ),
        (lambda: TeeSink(None), "sinks[0] must be an EventSink, got a NoneType"),
        (lambda: ViewerSink("v"), "viewer must be a ViewerClient, got a str"),
        (
            lambda: ViewerSink(r.ViewerClient),
            "viewer must be a ViewerClient, got the class ViewerClient",
        ),
    ],
)
def test_what_is_no_sink_and_no_viewer_is_refused(make, message):
    with pytest.raises(r.ConfigurationError) as caught:
        make()
    assert str(caught.value) == message


def test_what_ends_one_sink_keeps_no_event_from_the_others():
    def end(event: LoopEvent) -> None:
        raise SystemExit

    rest = RecordingSink()
    with pytest.raises(r.EventSinkError, match=r"1 of 2 sinks have failed: CallbackSink"):
        TeeSink(CallbackSink(end), rest).emit(CREATED)
    assert rest.events == [CREATED]


def test_ctrl_c_in_one_of_several_sinks_goes_through():
    def interrupt(event: LoopEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TeeSink(CallbackSink(interrupt), RecordingSink()).emit(CREATED)


@pytest.mark.parametrize("keep_alive", [0, -1, "1"])
def test_a_keep_alive_that_cannot_work_is_refused(keep_alive):
    with pytest.raises(r.ConfigurationError, match="keep_alive must be > 0 seconds or None"):
        SSESink(keep_alive=keep_alive)


# -- SSESink: servers ----------------------------------------------------------------------------

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
EVENT_STREAM = "text/event-stream"


FORK = """
import os, threading
import pytest
from reasoning_sdk import StateError
from reasoning_sdk.events import LoopEvent, LoopEventKind
from reasoning_sdk.sinks import QueueSink, SSESink

event = LoopEvent(0, LoopEventKind.COMPLETED, {})
told = []
unused, used, body = QueueSink(), QueueSink(), SSESink(on_close=lambda: told.append(1))
used.emit(event)
iterator = iter(body)
assert next(iterator)
locks = [sink._lock for sink in (used, body)]
taken, go_on = threading.Event(), threading.Event()
def hold():
    with locks[0], locks[1]:
        taken.set()
        go_on.wait()
threading.Thread(target=hold, daemon=True).start()
taken.wait()
child = os.fork()
if child == 0:
    for use in (lambda: used.emit(event), used.get, lambda: next(iter(used)),
                lambda: next(iterator), lambda: next(iter(body))):
        with pytest.raises(StateError, match="another process"):
            use()
    used.close()
    body.close()
    assert not told
    unused.emit(event)
    assert list(unused) == [event]
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
go_on.set()
assert list(used) == [event]
body.close()
assert told
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_cannot_use_the_sinks_that_its_parent_uses():
    done = subprocess.run(
        [sys.executable, "-c", FORK], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


def plain_app(sink: SSESink) -> WSGIApp:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", EVENT_STREAM)])
        return sink

    return app


def flask_app(sink: SSESink) -> WSGIApp:
    app = flask.Flask(__name__)
    app.add_url_rule("/", view_func=lambda: flask.Response(sink, mimetype=EVENT_STREAM))
    return app


def django_app(sink: SSESink) -> WSGIApp:
    if not django.conf.settings.configured:
        django.conf.settings.configure()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        response = django.http.StreamingHttpResponse(sink, content_type=EVENT_STREAM)
        start_response("200 OK", list(response.items()))
        return response  # as Django's own handler does

    return app


class QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


class WSGIServer(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    pass


def wsgiref_server(app: WSGIApp) -> Any:
    server = WSGIServer(("127.0.0.1", 0), QuietHandler)
    server.set_app(app)
    return server


def werkzeug_server(app: WSGIApp) -> Any:
    return make_server("127.0.0.1", 0, app, threaded=True)


@contextmanager
def serving(make: Callable[[WSGIApp], Any], app: WSGIApp) -> Iterator[int]:
    """Serves an application in other threads; the port."""
    server = make(app)
    thread = InThread(lambda: server.serve_forever(poll_interval=0.01))
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.wait(5)
        server.server_close()


APPS = [plain_app, flask_app, django_app]
SERVERS = [wsgiref_server, werkzeug_server]


@pytest.mark.parametrize("make_app", APPS)
@pytest.mark.parametrize("make_server", SERVERS)
def test_a_server_sends_the_events_as_they_come(make_server, make_app):
    sink = SSESink(keep_alive=None)
    with serving(make_server, make_app(sink)) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        client.request("GET", "/")
        sink.emit(CREATED)
        response = client.getresponse()
        assert response.headers["Content-Type"].startswith(EVENT_STREAM)
        while not (line := response.readline()).startswith(b"event:"):
            pass
        assert line == b"event: response.created\n"
        sink.emit(COMPLETED)
        assert response.read().endswith(COMPLETED.to_sse())
        client.close()
    assert repr(sink) == "<SSESink ENDED waiting=0 dropped=0>"


@pytest.mark.parametrize("make_app", APPS)
@pytest.mark.parametrize("make_server", SERVERS)
def test_a_client_that_goes_away_closes_the_sink(make_server, make_app):
    closed = threading.Event()
    sink = SSESink(keep_alive=0.01, on_close=closed.set)
    with serving(make_server, make_app(sink)) as port:
        client = socket.create_connection(("127.0.0.1", port), timeout=5)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert closed.wait(5)
    with pytest.raises(r.EventSinkError):
        sink.emit(CREATED)


# -- ViewerSink ----------------------------------------------------------------------------------


CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "add"}
CALLED = {**CALL, "arguments": '{"a":1}', "status": "completed"}
OUTPUT = {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": ""}
STORY = [
    event(Kind.CREATED, 0, response={"id": "resp_1", "model": "gpt-5", "output": []}),
    event(DELTA, 1, item_id="msg_1", delta="Hi"),
    event(Kind.OUTPUT_ITEM_ADDED, 2, item={**CALL, "arguments": "", "status": "in_progress"}),
    event(Kind.OUTPUT_ITEM_DONE, 3, item=CALLED),
    event(Kind.OUTPUT_ITEM_ADDED, 4, item={**OUTPUT, "status": "in_progress"}),
]
RESULT = event(Kind.OUTPUT_ITEM_DONE, 5, item={**OUTPUT, "output": "2", "status": "completed"})
FAILED_RESULT = event(
    Kind.OUTPUT_ITEM_DONE, 5, item={**OUTPUT, "output": "no", "status": "incomplete"}
)
AGENT, FUNCTION = "/agent/completions", "/functions/executions"


@pytest.fixture
def published(scripted: Callable[..., ScriptedServer]) -> Callable[..., dict[str, list[Any]]]:
    """Publishes events by a real client to a real server; the bodies for each path."""

    def publish(*events: LoopEvent, **options: Any) -> dict[str, list[Any]]:
        server = scripted(json_answer(200, {}), repeat_last=True)
        with r.ViewerClient(server.url(), "secret") as viewer:
            sink = ViewerSink(viewer, **options)
            assert emitted(sink, *events) == 0
            assert viewer.flush(10)
        assert sink.dropped == 0
        return {
            path: [request.json() for request in server.requests if request.path == path]
            for path in (AGENT, FUNCTION)
        }

    return publish


@pytest.mark.http
def test_a_viewer_is_told_of_the_completion_and_of_each_call_of_a_tool(published):
    bodies = published(*STORY, RESULT, COMPLETED)
    assert bodies[AGENT] == [
        {"id": "resp_1", "model": "gpt-5"},
        *({**each.data, "id": "resp_1"} for each in STORY[1:4]),
        {**COMPLETED.data, "id": "resp_1"},
    ]
    assert bodies[FUNCTION] == [
        {"id": "call_1", "name": "add", "arguments": '{"a":1}', "response_id": "resp_1"},
        {**RESULT.data["item"], "id": "call_1"},
    ]


@pytest.mark.http
def test_a_viewer_is_told_of_failures(published):
    error = {"code": "tool_failed", "message": "no"}
    failed = event(Kind.FAILED, 6, response={"id": "resp_1", "error": error, "output": []})
    bodies = published(*STORY, FAILED_RESULT, failed)
    assert bodies[AGENT][-1] == {"id": "resp_1", "code": 500, "message": error}
    assert bodies[FUNCTION][-1] == {"id": "call_1", "code": 500, "message": "no"}


@pytest.mark.http
def test_a_viewer_is_given_another_id_and_no_deltas_if_told_so(published):
    bodies = published(*STORY, RESULT, COMPLETED, id="run-1", deltas=False)
    assert {each["id"] for each in bodies[AGENT]} == {"run-1"}
    assert DELTA.value not in {each.get("type") for each in bodies[AGENT]}
    assert bodies[FUNCTION][0]["response_id"] == "resp_1"


@pytest.mark.http
def test_another_address_gets_its_own_signature(scripted):
    server = scripted(json_answer(200, {}), repeat_last=True)
    with r.ViewerClient("http://nowhere.invalid", "secret") as viewer:
        sink = ViewerSink(viewer, address=server.url(), signature="other")
        emitted(sink, *STORY, RESULT, COMPLETED)
        assert "other" not in repr(sink)
    assert {each.headers["X-VIEWER-SIGNATURE"] for each in server.requests} == {"other"}
    assert len(server.requests) == 7


@pytest.mark.http
def test_what_a_viewer_refuses_is_counted():
    with r.ViewerClient() as viewer:  # which has no address
        sink = ViewerSink(viewer)
        assert emitted(sink, CREATED, COMPLETED) == 0
    assert repr(sink) == "<ViewerSink resp_1 dropped=2>"


@pytest.mark.http
def test_what_a_strict_viewer_raises_is_counted_and_leaves_the_sink():
    with r.ViewerClient("http://127.0.0.1:9", strict=True) as viewer:
        sink = ViewerSink(viewer, id="run-1")
        with pytest.raises(r.InvalidEventError, match="lone surrogate"):
            sink.emit(event(DELTA, 1, delta="\ud83d"))
    assert sink.dropped == 1


@pytest.mark.http
def test_a_viewer_is_told_nothing_of_a_response_without_an_id():
    with r.ViewerClient("http://127.0.0.1:9") as viewer:
        sink = ViewerSink(viewer)
        with pytest.raises(r.EventSinkError, match="no event has told the id of the response"):
            sink.emit(event(DELTA, 1))
    assert repr(sink) == "<ViewerSink - dropped=1>"


def test_a_tee_takes_its_sinks_one_by_one_or_as_a_list():
    sinks = [RecordingSink() for _ in range(3)]
    TeeSink(sinks[:2], sinks[2]).emit(CREATED)
    assert [len(sink) for sink in sinks] == [1, 1, 1]
