"""What a response loop tells as it goes: numbered, once, in the words of the Responses API."""

import _thread
import itertools
import json
import logging
import re
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from reasoning_sdk import (
    CallbackSink,
    LoopConfig,
    LoopEvent,
    LoopEventKind,
    LoopFailedError,
    MaxIterationsError,
    MemoryStore,
    QueueSink,
    RecordingSink,
    ResponseLoop,
    SSEDecoder,
    UpstreamTarget,
)
from tests.support.loops import (
    APIS,
    QUICK,
    REQUEST,
    Ran,
    Tools,
    add,
    agents,
    carried_out,
    datas,
    done_items,
    terminal,
    upstream,
)
from tests.support.model_server import Call, Cut, ModelServer, Refuse, Say
from tests.support.open_responses import check_event, check_response, check_stream

both_apis = pytest.mark.parametrize("api", APIS)
streamed_or_not = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])

TURNS = [
    Call(
        ("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}), text="Let me see.", reasoning="Two."
    ),
    Call(("add", {"a": 3, "b": 7}), ("nothing", {})),
    Say("10, all in all", reasoning="Done."),
]


def conversation(model_server: Callable[..., ModelServer], api: str, **options: Any) -> Ran:
    return carried_out(model_server(TURNS), tools=[add], api=api, **options)


def numbers(events: list[Any]) -> list[int]:
    return [event["sequence_number"] for event in events]


def of_kind(ran: Ran, kind: str) -> list[dict[str, Any]]:
    return [event for event in ran.events if event["type"] == f"response.{kind}"]


# -- one response --------------------------------------------------------------------------------


@both_apis
@streamed_or_not
def test_numbers_rise_by_one_over_the_whole_response(model_server, api, stream):
    ran = conversation(model_server, api, request={**REQUEST, "stream": stream})
    assert numbers(ran.events) == list(range(len(ran.events)))
    assert ran.kinds[:2] == ["created", "in_progress"]
    assert ran.kinds[-1] == "completed"


@both_apis
@streamed_or_not
def test_every_item_is_added_and_done(model_server, api, stream):
    ran = conversation(model_server, api, request={**REQUEST, "stream": stream})
    added = [event["item"]["id"] for event in of_kind(ran, "output_item.added")]
    done = [event["item"]["id"] for event in of_kind(ran, "output_item.done")]
    assert sorted(added) == sorted(done)
    assert [item["type"] for item in ran.response["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "reasoning",
        "message",
    ]


@both_apis
def test_deltas_of_arguments_name_their_item_place_and_call(model_server, api):
    ran = conversation(model_server, api)
    calls = {item["id"]: item for item in ran.items("function_call")}
    said: dict[str, str] = {}
    for event in of_kind(ran, "function_call_arguments.delta"):
        assert event["call_id"] == calls[event["item_id"]]["call_id"]
        assert isinstance(event["output_index"], int)
        said[event["item_id"]] = said.get(event["item_id"], "") + event["delta"]
    assert said == {id: item["arguments"] for id, item in calls.items() if item["arguments"]}


@both_apis
def test_deltas_come_as_the_model_says_them(model_server, api):
    model = model_server([Say("Hello, world!", gate="held")])
    heard = threading.Event()
    sink = CallbackSink(lambda event: heard.set(), kinds=["response.output_text.delta"])
    with ResponseLoop(upstream(model, api)) as loop:
        thread = threading.Thread(target=loop.run, args=(REQUEST,), kwargs={"sink": sink})
        thread.start()
        try:
            assert heard.wait(5), "the first delta is told while the answer is under way"
        finally:
            model.open("held")
            thread.join(5)


def test_no_delta_is_dropped_however_many_there_are(model_server):
    words = "word " * 3000
    ran = carried_out(model_server([Say(words, pieces=3000)]))
    assert len(of_kind(ran, "output_text.delta")) == 3000
    assert ran.text == words


@both_apis
@streamed_or_not
@pytest.mark.parametrize(
    ("turns", "end"),
    [
        ([Say("")], "completed"),
        ([Say("no", refusal="I will not.")], "completed"),
        ([Say("", refusal="I will not.")], "completed"),
        ([Say("cut off he", finish_reason="length")], "incomplete"),
        ([Say("cut off he", finish_reason="content_filter")], "incomplete"),
        ([Call(("add", '{"a": 1, '), finish_reason="length")], "incomplete"),
        ([Refuse(400)], "failed"),
        ([Refuse(500)] * 3, "failed"),
        ([Cut()] * 3, "failed"),
        ([Call(("add", {"a": 1, "b": 1})), Refuse(400)], "failed"),
        ([Call(("add", {"a": 1, "b": 1})), Cut(4)] + [Cut(4)] * 2, "failed"),
    ],
)
def test_there_is_exactly_one_end_on_every_path(model_server, api, stream, turns, end):
    model = model_server(turns)
    ran = carried_out(model, tools=[add], api=api, request={**REQUEST, "stream": stream})
    assert [k for k in ran.kinds if k in ("completed", "incomplete", "failed")] == [end]
    assert ran.kinds[-1] == end


@both_apis
def test_a_stream_that_is_cut_off_ends_its_items_as_incomplete(model_server, api):
    events_before_cut = 5 if api == "responses" else 3
    model = model_server([Cut(events_before_cut, Say("Hello, world!"))])
    ran = carried_out(model, api=api)
    assert isinstance(ran.error, LoopFailedError)
    (item,) = ran.items("message")
    assert item["status"] == "incomplete"
    assert "Hello, world!".startswith(item["content"][0]["text"])


@both_apis
def test_a_cut_stream_is_no_success_and_is_not_asked_for_again(model_server, api):
    model = model_server([Cut(3)])
    ran = carried_out(model, api=api)
    assert ran.kinds[-1] == "failed"
    assert len(model.requests) == 1


def test_the_cap_ends_the_stream_like_any_failure(model_server):
    model = model_server(lambda body: Call(("add", {"a": 1, "b": 1})))
    ran = carried_out(model, tools=[add], config=LoopConfig(max_iterations=2))
    assert isinstance(ran.error, MaxIterationsError)
    assert ran.kinds[-1] == "failed"


def test_items_carry_nothing_of_the_upstreams_own_ids(model_server):
    ran = conversation(model_server, "responses")
    said = json.dumps(ran.events)
    assert "resp_1" not in said
    assert '"msg_1"' not in said


# -- agents --------------------------------------------------------------------------------------


def with_an_agent(body: Any) -> Any:
    messages = body.get("messages") or body["input"]
    asked = next(m["content"] for m in messages if m.get("role") == "user")
    answered = any(m.get("role") == "tool" or "output" in m for m in messages)
    if asked == "hi":
        return Say("It is 7.") if answered else Call(("helper", {"input": "3 + 4?"}, "c1"))
    return Say("seven") if answered else Call(("add", {"a": 3, "b": 4}, "inner"))


@both_apis
def test_what_an_agent_says_stays_inside(model_server, api):
    ran = carried_out(model_server(with_an_agent), tools=[add, agents("helper")], api=api)
    assert ran.text == "It is 7."
    told = [event for event in ran.events if "agent" in event]
    assert told == []
    assert "".join(e["delta"] for e in of_kind(ran, "output_text.delta")) == "It is 7."


@both_apis
def test_what_an_agent_says_is_told_when_asked_for(model_server, api):
    ran = carried_out(
        model_server(with_an_agent),
        tools=[add, agents("helper")],
        api=api,
        config=LoopConfig(agent_events=True),
        judged=False,
    )
    inner = [event for event in ran.events if "agent" in event]
    assert numbers(ran.events) == list(range(len(ran.events)))
    (output,) = (
        item for item in done_items(ran.events) if item.get("call_id") == "c1" and "output" in item
    )
    agent = {"item_id": output["id"], "call_id": "c1", "name": "helper", "depth": 1}
    assert all(event["agent"] == agent for event in inner)
    check_stream([event for event in ran.events if "agent" not in event])
    for event in inner:
        check_event({name: value for name, value in event.items() if name != "agent"})
    assert [i["type"] for i in done_items(inner)] == [
        "function_call",
        "function_call_output",
        "message",
    ]
    assert not any(e["type"].endswith(("completed", "failed", "created")) for e in inner)


def test_the_text_of_a_stream_is_that_of_the_response_alone(model_server):
    config = LoopConfig(agent_events=True)
    tools = [add, agents("helper")]
    with ResponseLoop(upstream(model_server(with_an_agent)), tools=tools, config=config) as loop:
        with loop.stream(REQUEST) as stream:
            assert "".join(stream.text_deltas()) == "It is 7."
        assert stream.text == "It is 7."


# -- sinks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, OSError, RecursionError, SystemExit])
def test_a_sink_that_raises_is_logged_and_stops_nothing(model_server, caplog, error):
    def fail(event: LoopEvent) -> None:
        raise error("no")

    caplog.set_level(logging.WARNING, "reasoning_sdk.loop")
    with ResponseLoop(upstream(model_server(TURNS)), tools=[add]) as loop:
        response = loop.run(REQUEST, sink=CallbackSink(fail))
    assert response["status"] == "completed"
    first, total = [r.message for r in caplog.records if "sink" in r.message]
    assert first == f"event sink 'CallbackSink' failed: {error.__name__}: no"
    assert re.fullmatch(r"event sink 'CallbackSink' has failed for (\d+) of \1 events", total)


def test_of_the_failures_of_a_sink_the_first_of_a_kind_and_their_number_are_logged(
    model_server, caplog
):
    errors = {1: ValueError("one"), 5: ValueError("two"), 7: KeyError("three")}
    count = itertools.count(1)

    def fail(event: LoopEvent) -> None:
        if (nth := next(count)) in errors or nth > 20:
            raise errors.get(nth, ValueError("more"))

    caplog.set_level(logging.DEBUG, "reasoning_sdk.loop")
    with ResponseLoop(upstream(model_server([Say("x" * 4000, pieces=2000)]))) as loop:
        loop.run(REQUEST, sink=CallbackSink(fail))
    events = next(count) - 1
    assert [r.message for r in caplog.records if "sink" in r.message] == [
        "event sink 'CallbackSink' failed: ValueError: one",
        "event sink 'CallbackSink' failed: KeyError: 'three'",
        f"event sink 'CallbackSink' has failed for {events - 17:,} of {events:,} events",
    ]
    assert events > 1000


@pytest.mark.parametrize("at", [0, 1, 5, -1])
def test_ctrl_c_in_a_sink_ends_the_run_with_one_end(model_server, at):
    """At an early event, in the middle, and at the very end."""
    got = RecordingSink()

    def fail(event: LoopEvent) -> None:
        got.emit(event)
        if event.sequence == at or (at == -1 and event.kind.is_terminal):
            raise KeyboardInterrupt

    store = MemoryStore()
    loop = ResponseLoop(upstream(model_server([Say("Hello")])), store=store)
    with loop, pytest.raises(KeyboardInterrupt):
        loop.run(REQUEST, sink=CallbackSink(fail), request_id="r")
    assert len(terminal(got.events)) == 1
    assert len(terminal(store.events_after("r", None))) == 1


def test_ctrl_c_while_tools_run_ends_the_run_with_one_end(model_server):
    """In the thread that runs the loop."""
    stopped = threading.Event()

    def execute(name: str, call_id: str, args: Any, ctx: Any) -> Any:
        _thread.interrupt_main()
        stopped.set() if ctx.cancellation.wait(10) else None

    sink = RecordingSink()
    loop = ResponseLoop(upstream(model_server([Call(("act", {}))])), tools=Tools(execute))
    with loop, pytest.raises(KeyboardInterrupt):
        loop.run(REQUEST, sink=sink)
    check_stream(datas(sink.events))
    assert stopped.wait(2)


def test_a_stream_gives_the_events_and_then_the_response(model_server):
    with ResponseLoop(upstream(model_server(TURNS)), tools=[add]) as loop:
        stream = loop.stream(REQUEST)
        events = list(stream)
        check_stream(datas(events))
        assert stream.response == events[-1].data["response"]
        check_response(stream.response)
        assert stream.until_done() == stream.response
        assert stream.response_id == stream.response["id"]
        assert repr(stream).startswith("<LoopStream COMPLETED resp_")


def test_a_stream_of_a_failed_response_raises_after_its_last_event(model_server):
    with ResponseLoop(upstream(model_server([Refuse(400)]))) as loop:
        stream, sink = loop.stream(REQUEST), RecordingSink()
        with pytest.raises(LoopFailedError):
            deque(map(sink.emit, stream))
    check_stream(datas(sink.events))
    assert stream.response["status"] == "failed"


def read_sse(chunks: Any) -> list[dict[str, Any]]:
    decoder, events = SSEDecoder(), []
    for chunk in chunks:
        for event in decoder.feed(chunk):
            events.append(event.json())
            assert event.event == events[-1]["type"]
            assert event.id == str(events[-1]["sequence_number"])
    return events


@both_apis
def test_the_body_of_an_http_answer_has_all_events(model_server, api):
    with ResponseLoop(upstream(model_server(TURNS), api), tools=[add]) as loop:
        events = read_sse(loop.sse(REQUEST))
    check_stream(events)


def test_the_body_of_an_http_answer_ends_when_the_response_fails(model_server):
    with ResponseLoop(upstream(model_server([Refuse(400)]))) as loop:
        events = read_sse(loop.sse(REQUEST))
    check_stream(events)
    assert events[-1]["type"] == "response.failed"


# -- replay --------------------------------------------------------------------------------------


@both_apis
@streamed_or_not
def test_whoever_comes_back_gets_what_was_missed_with_the_same_numbers(model_server, api, stream):
    store = MemoryStore()
    request = {**REQUEST, "stream": stream}
    ran = conversation(model_server, api, store=store, request_id="r", request=request)
    for k in [None, *numbers(ran.events)]:
        rest = [e for e in ran.events if k is None or e["sequence_number"] > k]
        whole = [e for e in rest if not LoopEventKind(e["type"]).is_delta]
        assert datas(store.events_after("r", k)) == whole


def test_events_come_back_with_the_id_of_the_response_too(model_server):
    store = MemoryStore()
    ran = conversation(model_server, "responses", store=store, request_id="r")
    assert store.events_after(ran.response["id"], None) == store.events_after("r", None)


def test_a_loop_without_a_sink_keeps_the_events_all_the_same(model_server):
    store = MemoryStore()
    with ResponseLoop(upstream(model_server(TURNS)), tools=[add], store=store) as loop:
        response = loop.run(REQUEST, request_id="r")
    events = datas(store.events_after("r", None))
    assert events[0]["type"] == "response.created"
    assert events[-1]["response"] == response
    assert numbers(events) == sorted(set(numbers(events)))
    done = [event for event in events if event["type"] == "response.output_item.done"]
    done.sort(key=lambda event: event["output_index"])  # tools end in any order
    assert [event["item"] for event in done] == response["output"]


def test_a_finished_response_tells_its_end_again_and_asks_nobody(model_server):
    store = MemoryStore()
    first = conversation(model_server, "responses", store=store, request_id="r")
    silent = model_server()
    again = carried_out(
        silent, tools=[add], api="responses", store=store, request_id="r", judged=False
    )
    assert again.events == first.events[-1:]
    assert again.response == first.response
    assert silent.requests == []
    assert len(terminal(store.events_after("r", None))) == 1


def test_a_finished_response_is_streamed_again_as_its_end(model_server):
    model = model_server([Say("Hello")])
    with ResponseLoop(upstream(model)) as loop:
        first = loop.run(REQUEST, request_id="r")
        with loop.stream(REQUEST, request_id="r") as stream:
            assert [event.kind for event in stream] == [LoopEventKind.COMPLETED]
            assert stream.response == first
        (event,) = read_sse(loop.sse(REQUEST, request_id="r"))
    assert event["response"] == first


def test_a_failed_response_fails_again_and_its_numbers_rise(model_server):
    store = MemoryStore()
    first = carried_out(model_server([Refuse(400)]), store=store, request_id="r")
    again = carried_out(model_server(), store=store, request_id="r", judged=False)
    assert again.payload == first.payload
    assert numbers(again.events)[0] > numbers(first.events)[-1]
    assert [k for k in again.kinds if k == "failed"] == ["failed"]
    in_progress = [e for e in again.events if e["type"] == "response.in_progress"]
    assert all(e["response"]["status"] == "in_progress" for e in in_progress)


def test_a_queue_takes_events_for_another_thread(model_server):
    sink = QueueSink()
    with ResponseLoop(upstream(model_server(TURNS)), tools=[add]) as loop:
        loop.run(REQUEST, sink=sink)
    check_stream(datas(list(sink)))


def test_the_key_is_in_no_event_and_no_error(model_server, caplog):
    model = model_server([Call(("add", {"a": 1, "b": 1})), Refuse(401), Refuse(401)])
    store, sink = MemoryStore(), RecordingSink()
    target = UpstreamTarget(model.url, "sk-secret-key")
    caplog.set_level(logging.DEBUG)
    loop = ResponseLoop(target, tools=[add], store=store, config=LoopConfig(retry=QUICK))
    with loop, pytest.raises(LoopFailedError) as caught:
        loop.run(REQUEST, sink=sink, request_id="r")
    assert model.requests[0].headers["authorization"] == "Bearer sk-secret-key"
    said = [str(caught.value), repr(caught.value), repr(caught.value.payload), caplog.text]
    said += [repr(sink.events), repr(store.list_chain("r", None)), repr(loop), repr(target)]
    assert "secret" not in "".join(said)
