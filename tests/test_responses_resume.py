"""Background responses: taken up again where they broke; no other stream is sent twice."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reasoning_sdk as r
from reasoning_sdk._io.clock import Clock
from tests.support import recordings as rec
from tests.support.scripted import (
    Handler,
    ScriptedServer,
    answer,
    hang_up,
    json_answer,
    raw,
    redirect,
    reset,
    silence,
    sse,
)

pytestmark = pytest.mark.http

Scripted = Callable[..., ScriptedServer]
TEXT = "Done in the background."
EVENTS = rec.background_response(TEXT, deltas=3)
SIZES = [len(rec.to_sse([event])) for event in EVENTS]
QUICK = r.RetryPolicy(initial_interval=0.001, randomization_factor=0, max_attempts=3)
Client = Callable[..., r.ResponsesClient]


@pytest.fixture
def client() -> Iterator[Client]:
    made: list[r.ResponsesClient] = []

    def make(server: ScriptedServer, **options: Any) -> r.ResponsesClient:
        options = {"api_key": "sk-very-secret-0123456789", "retry": QUICK, **options}
        made.append(r.ResponsesClient("m", base_url=server.base_url, **options))
        return made[-1]

    yield make
    for client_ in made:
        client_.close()


def numbers(stream: r.ResponseStream) -> list[int | None]:
    return [event.sequence_number for event in stream]


def cut(count: int, **options: Any) -> Handler:
    """The stream as far as its first events, and then a cut."""
    return sse(EVENTS, cut_at=sum(SIZES[:count]), **options)


def resumed(number: int, **options: Any) -> Handler:
    """What comes after an event."""
    return sse(rec.after(EVENTS, number), **options)


ALL = list(range(len(EVENTS)))
ASKED = "/v1/responses/resp_1?stream=true"


# -- by itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, len(EVENTS)))
@pytest.mark.parametrize("more", [0, 25])
def test_a_cut_anywhere_loses_no_event_and_repeats_none(
    scripted: Scripted, client: Client, count: int, more: int
) -> None:
    begun = sse(EVENTS, cut_at=sum(SIZES[:count]) + more)
    server = scripted([begun, resumed(count - 1)])
    stream = client(server).stream("x", background=True)
    assert numbers(stream) == ALL
    assert stream.text == TEXT
    assert stream.until_done().data == EVENTS[-1]["response"]
    first, second = server.requests
    assert first.json() == {"model": "m", "input": "x", "background": True, "stream": True}
    assert (second.method, second.target) == ("GET", f"{ASKED}&starting_after={count - 1}")
    assert second.body == b""
    assert second.headers["accept"] == "text/event-stream"
    assert second.headers["authorization"] == first.headers["authorization"]
    assert not {"content-type", "idempotency-key"} & {name.lower() for name in second.headers}


@pytest.mark.parametrize("again", range(5))
def test_events_that_the_server_sends_again_are_not_given_again(
    scripted: Scripted, client: Client, again: int
) -> None:
    server = scripted([cut(5), sse(EVENTS[again:])])
    stream = client(server).stream("x", background=True)
    assert numbers(stream) == ALL
    assert stream.text == TEXT
    assert stream.items == rec.items_of(EVENTS)


def test_every_connection_may_break(scripted: Scripted, client: Client) -> None:
    handlers = [
        sse(
            rec.after(EVENTS, number - 1), cut_at=SIZES[number], then=("close", "reset")[number % 2]
        )
        for number in range(len(EVENTS) - 1)
    ]
    server = scripted([*handlers, resumed(len(EVENTS) - 2)])
    policy = r.RetryPolicy(initial_interval=0.001, max_attempts=1)
    stream = client(server, retry=policy).stream("x", background=True)
    seen = numbers(stream)
    assert seen == ALL
    assert len(server.requests) == len(EVENTS)


def test_failures_on_the_way_back_are_tried_again(scripted: Scripted, client: Client) -> None:
    server = scripted([cut(4), answer(503), hang_up(), resumed(3)])
    assert numbers(client(server).stream("x", background=True)) == ALL
    assert [request.query.get("starting_after") for request in server.requests[1:]] == [["3"]] * 3


def test_a_server_says_when_to_come_back(scripted: Scripted, client: Client) -> None:
    busy = answer(503, headers={"Retry-After": "0"})
    policy = r.RetryPolicy(
        initial_interval=0.001, multiplier=60000.0, max_interval=60.0, max_attempts=3
    )
    server = scripted([cut(4), busy, busy, resumed(3)])
    assert numbers(client(server, retry=policy).stream("x", background=True)) == ALL


def test_when_the_attempts_are_used_up_the_stream_is_cut(
    scripted: Scripted, client: Client
) -> None:
    server = scripted([cut(6), answer(503), reset(), json_answer(500, {"error": "the last"})])
    stream = client(server).stream("x", background=True)
    with pytest.raises(r.StreamInterruptedError, match="the last") as caught:
        stream.until_done()
    assert isinstance(caught.value.__cause__, r.ServerError)
    assert caught.value.response_id == "resp_1"
    assert caught.value.text == rec.text_of(EVENTS[:6]) == stream.text
    assert len(server.requests) == 4


def test_time_that_passed_before_a_break_does_not_count(scripted: Scripted, client: Client) -> None:
    policy = r.RetryPolicy(initial_interval=0.001, max_elapsed_time=0.04, max_attempts=3)
    server = scripted([sse(EVENTS, gates={2: "on"}, cut_at=sum(SIZES[:4])), resumed(3)])
    stream = client(server, retry=policy).stream("x", background=True)
    assert [next(stream).sequence_number for _ in range(2)] == [0, 1]
    threading.Event().wait(0.06)
    server.open("on")
    assert numbers(stream) == ALL[2:]


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (json_answer(404, {"error": {"message": "gone"}}), r.NotFoundError),
        (json_answer(400, {"error": {"message": "no"}}), r.BadRequestError),
        (json_answer(200, EVENTS[-1]["response"]), r.ProtocolError),
        (sse(EVENTS, content_type="text/html"), r.ProtocolError),
        (redirect("ftp://x/", 307), r.APIStatusError),
    ],
)
def test_a_refusal_on_the_way_back_is_raised_with_what_had_arrived(
    scripted: Scripted, client: Client, handler: Handler, kind: type[r.ReasoningError]
) -> None:
    server = scripted([cut(6), handler])
    stream = client(server).stream("x", background=True)
    with pytest.raises(kind) as caught:
        stream.until_done()
    assert caught.value.response_id == "resp_1"
    assert caught.value.text == rec.text_of(EVENTS[:6])
    assert len(server.requests) == 2


def test_a_failure_after_a_break_is_that_failure(scripted: Scripted, client: Client) -> None:
    events = rec.failed_response("server_error", "It broke.")
    events = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    at = sum(len(rec.to_sse([event])) for event in events[:3])
    server = scripted([sse(events, cut_at=at), sse(rec.after(events, 2))])
    with pytest.raises(r.ResponseFailedError, match="It broke"):
        client(server).stream("x", background=True).until_done()


def test_the_headers_are_those_of_the_latest_answer(scripted: Scripted, client: Client) -> None:
    one, two = {"X-Request-Id": "req_1"}, {"X-Request-Id": "req_2"}
    server = scripted([cut(4, headers=one), resumed(3, headers=two)])
    stream = client(server).stream("x", background=True)
    assert next(stream)
    assert stream.request_id == "req_1"
    stream.until_done()
    assert stream.request_id == "req_2"


def test_a_break_before_anything_is_not_taken_up(scripted: Scripted, client: Client) -> None:
    server = scripted(cut(0))
    with pytest.raises(r.StreamInterruptedError) as caught:
        client(server).stream("x", background=True).until_done()
    assert caught.value.response_id is None
    assert len(server.requests) == 1


def test_without_numbers_there_is_no_way_back(scripted: Scripted, client: Client) -> None:
    server = scripted(sse(rec.without_sequence(EVENTS)[:5]))
    with pytest.raises(r.StreamInterruptedError) as caught:
        client(server).stream("x", background=True).until_done()
    assert caught.value.response_id == "resp_1"
    assert len(server.requests) == 1


def test_an_idle_stream_is_not_taken_up(scripted: Scripted, client: Client) -> None:
    server = scripted(silence(first=EVENTS[:3]))
    with pytest.raises(r.IdleTimeoutError):
        client(server, idle_timeout=0.05).stream("x", background=True).until_done()
    assert len(server.requests) == 1


@pytest.mark.parametrize("background", [None, False])
@pytest.mark.parametrize("then", ["close", "reset"])
def test_any_other_stream_is_never_sent_again(
    scripted: Scripted, client: Client, background: bool | None, then: Any
) -> None:
    for handler in (
        cut(0, then=then),
        cut(5, then=then),
        sse([b"data: [DONE]\n\n"]),
        raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\n"),
    ):
        server = scripted(handler)
        with pytest.raises(r.StreamInterruptedError):
            client(server).stream("x", background=background).until_done()
        server.wait_no_connections()
        assert len(server.requests) == 1


# -- asked for ---------------------------------------------------------------------------------


def test_a_response_is_resumed_by_its_id(scripted: Scripted, client: Client) -> None:
    server = scripted([sse(EVENTS), resumed(4), answer(503), sse(EVENTS)])
    made = client(server)
    assert numbers(made.resume("resp_1")) == ALL
    assert numbers(made.resume("resp_1", starting_after=4)) == ALL[5:]
    assert numbers(made.resume("resp_1", starting_after=0)) == ALL[1:]
    assert [request.target for request in server.requests] == [
        ASKED, f"{ASKED}&starting_after=4", *[f"{ASKED}&starting_after=0"] * 2,
    ]  # fmt: skip
    assert {request.method for request in server.requests} == {"GET"}


def test_what_is_resumed_goes_on_after_a_break(scripted: Scripted, client: Client) -> None:
    server = scripted([cut(3), resumed(2, cut_at=SIZES[3] + SIZES[4]), resumed(4)])
    stream = client(server).resume("resp_1", starting_after=1)
    assert numbers(stream) == ALL[2:]
    assert [request.query.get("starting_after") for request in server.requests] == [
        ["1"], ["2"], ["4"],
    ]  # fmt: skip


def test_what_is_resumed_may_break_before_its_first_event(
    scripted: Scripted, client: Client
) -> None:
    server = scripted([cut(0), sse(EVENTS)])
    stream = client(server).resume("resp_1")
    assert stream.response_id == "resp_1"
    assert numbers(stream) == ALL
    assert [request.target for request in server.requests] == [ASKED, ASKED]


def test_what_is_resumed_at_its_end_gives_the_final_response(
    scripted: Scripted, client: Client
) -> None:
    last = len(EVENTS) - 2
    stream = client(scripted(resumed(last))).resume("resp_1", starting_after=last)
    final = stream.until_done()
    assert final.output_text == TEXT
    assert stream.text == TEXT
    assert stream.items == final.output


def test_to_resume_what_is_not_there(scripted: Scripted, client: Client) -> None:
    server = scripted(json_answer(404, {"error": {"message": "no such response"}}))
    with pytest.raises(r.NotFoundError, match="no such response"):
        client(server).resume("resp_9")


# -- to close ----------------------------------------------------------------------------------


class TellingClock(Clock):
    """Tells when somebody is about to wait for more than a moment."""

    def __init__(self) -> None:
        self.waits_long = threading.Event()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if seconds > 1.0:
            self.waits_long.set()
        return super().wait(event, seconds)


@pytest.mark.parametrize("by", ["stream", "client"])
@pytest.mark.parametrize("where", ["the wait", "the headers", "the body"])
def test_a_close_ends_a_stream_that_is_on_its_way_back(
    scripted: Scripted, client: Client, by: str, where: str
) -> None:
    at_work = {
        "the wait": answer(503, headers={"Retry-After": "60"}),
        "the headers": silence(headers=False),
        "the body": silence(first=EVENTS[4:5]),
    }
    server = scripted([cut(4), at_work[where]])
    made = client(server)
    stream = made.stream("x", background=True)
    seen: list[Any] = []

    def read() -> None:
        try:
            seen.extend(numbers(stream))
        except BaseException as error:
            seen.append(error)

    clock = stream._clock = TellingClock()
    thread = threading.Thread(target=read)
    thread.start()
    server.wait_for_requests(2)
    if where == "the wait":
        assert clock.waits_long.wait(5.0)
    elif where == "the body":
        while stream._state.sequence_number != 4:
            threading.Event().wait(0.001)
    (stream if by == "stream" else made).close()
    thread.join(1.0)
    assert not thread.is_alive()
    assert seen in (ALL[:4], ALL[:5])
    if where != "the wait":  # in which a connection may be kept for the next request
        server.wait_no_connections()
    with pytest.raises(r.StateError):
        stream.until_done()


def test_a_close_just_before_the_answer_frees_it(scripted: Scripted, client: Client) -> None:
    server = scripted([cut(4), silence(first=EVENTS[4:5])])
    stream = client(server).stream("x", background=True)
    reopen = stream._reopen
    assert reopen is not None

    def closed_meanwhile(*args: Any) -> Any:
        body = reopen(*args)
        stream._closing.set()  # a close that has freed the old body already
        return body

    stream._reopen = closed_meanwhile
    assert numbers(stream) == ALL[:4]
    server.wait_no_connections()
