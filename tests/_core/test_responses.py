"""What has arrived of a response: items, text, usage, and how it ended, in every dialect."""

import copy
import html
import json
import threading
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._core.responses import Response, ResponseState
from reasoning_sdk.errors import (
    ProtocolError,
    ResponseError,
    ResponseFailedError,
    ResponseIncompleteError,
)
from reasoning_sdk.events import ResponseEvent
from tests.support import recordings
from tests.support.recordings import DIALECTS, JSON, Events

MESSAGES = [
    recordings.message("Hello, ", item_id="msg_1"),
    recordings.message("world!", item_id="msg_2"),
]

COMPLETED: dict[str, Events] = {
    "text": recordings.text_response("Grüße aus 東京 🌸", deltas=5),
    "no text": recordings.text_response(""),
    "two messages": recordings.response(MESSAGES),
    "calls": recordings.function_call_response(text="Let me look."),
    "calls alone": recordings.function_call_response(
        recordings.function_call(), recordings.function_call(call_id="call_2", item_id="fc_2")
    ),
    "reasoning": recordings.reasoning_response(),
    "reasoning text": recordings.reasoning_response(kind="text"),
    "reasoning, open": recordings.reasoning_response(kind="open"),
    "background": recordings.background_response(),
    "refusal": recordings.response([recordings.refusal()]),
    "nothing": recordings.response([]),
}
NOT_COMPLETED: dict[str, Events] = {
    "failed": recordings.failed_response(),
    "incomplete": recordings.incomplete_response(),
    "errored": recordings.errored_response(),
    "errored, nested": recordings.errored_response(nested=True),
    "cut": recordings.cut_response(),
}
STREAMS = {**COMPLETED, **NOT_COMPLETED}

TEXTS = {
    "text": "Grüße aus 東京 🌸",
    "two messages": "Hello, world!",
    "calls": "Let me look.",
    "reasoning": "Forty-two.",
    "reasoning text": "Forty-two.",
    "reasoning, open": "Forty-two.",
    "background": "Done in the background.",
    **dict.fromkeys(NOT_COMPLETED, "Hello, wor"),
}


def event_of(data: JSON) -> ResponseEvent:
    """As a stream makes it; data without a type is an error's."""
    number = data.get("sequence_number")
    return ResponseEvent(type=data.get("type", "error"), data=data, sequence_number=number)


def after(events: Events, **options: Any) -> ResponseState:
    state = ResponseState(**options)
    for data in events:
        state.apply(event_of(data))
    return state


def without_types(events: Events, *types: str) -> Events:
    return [event for event in events if event["type"] not in types]


def without_ids(events: Events) -> Events:
    """No item says which it is, and no event which item it is about."""
    events = copy.deepcopy(events)
    for event in events:
        event.pop("item_id", None)
        for item in (event.get("item"), *(event.get("response") or {}).get("output", [])):
            (item or {}).pop("id", None)
    return events


# -- every stream in every dialect -------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", STREAMS)
def test_text_and_items_are_those_of_the_events(name, dialect):
    events = DIALECTS[dialect](STREAMS[name])
    state = after(events)
    assert state.text == TEXTS.get(name, "")
    assert state.items == recordings.items_of(events)
    assert state.response_id == "resp_1"
    assert state.terminal == (name != "cut")
    assert (state.error is None) == (name in COMPLETED or name == "cut")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", COMPLETED)
def test_the_response_is_the_one_that_the_last_event_has(name, dialect):
    events = DIALECTS[dialect](COMPLETED[name])
    state = after(events)
    response = state.response
    assert response.data == events[-1]["response"]
    assert (response.status, state.status) == ("completed", "completed")
    assert response.output == events[-1]["response"]["output"]
    assert response.output_text == state.text
    assert response.usage == state.usage == events[-1]["response"]["usage"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", STREAMS)
def test_text_grows_by_each_delta_and_by_nothing_else(name, dialect):
    state = ResponseState()
    for data in DIALECTS[dialect](STREAMS[name]):
        before = state.text
        state.apply(event_of(data))
        delta = data["delta"] if data.get("type") == "response.output_text.delta" else ""
        assert state.text == before + delta


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["text", "two messages", "calls", "reasoning", "incomplete"])
@pytest.mark.parametrize(
    "left_out",
    [
        (),
        ("response.output_text.delta",),
        ("response.output_text.done",),
        ("response.output_item.done",),
        ("response.output_text.delta", "response.output_text.done"),
        ("response.output_text.done", "response.output_item.done"),
        ("response.output_text.delta", "response.output_item.done"),
        ("response.output_text.delta", "response.output_text.done", "response.output_item.done"),
    ],
    ids=lambda types: "+".join(t.removeprefix("response.output_") for t in types) or "nothing",
)
def test_whatever_is_left_out_the_rest_is_used_once(name, dialect, left_out):
    events = DIALECTS[dialect](STREAMS[name])
    output = events[-1]["response"]["output"]
    events = without_types(events, *left_out)
    state = after(events)
    assert state.items == (recordings.items_of(events) or output)
    assert state.text == TEXTS[name]


def test_messages_that_share_a_place_are_told_apart_by_their_ids():
    events = DIALECTS["transformers"](COMPLETED["two messages"])
    assert {event["output_index"] for event in events if "output_index" in event} == {0}
    assert after(events).text == "Hello, world!"
    assert after(without_types(events, "response.output_text.done")).text == "Hello, world!"


@pytest.mark.parametrize("indexes", [True, False])
@pytest.mark.parametrize(
    "left_out",
    [
        (),
        ("response.output_text.delta",),
        ("response.output_text.done",),
        ("response.output_text.delta", "response.output_text.done"),
        ("response.output_item.added",),
        ("response.output_item.added", "response.output_text.delta"),
        ("response.output_item.added", "response.output_text.done"),
    ],
)
def test_messages_without_ids_are_told_apart_by_their_ends(indexes, left_out):
    events = without_ids(without_types(COMPLETED["two messages"], *left_out))
    if not indexes:
        events = recordings.without_indexes(events)
    state = after(events)
    assert state.text == "Hello, world!"
    assert len(state.items) == 2


@pytest.mark.parametrize(
    "left_out", ["response.output_text.delta", "response.output_text.done", ""]
)
def test_messages_without_ids_or_ends_are_told_apart_by_their_beginnings(left_out):
    events = without_ids(recordings.without_indexes(COMPLETED["two messages"][:-1]))
    state = after(without_types(events, "response.output_item.done", left_out))
    assert state.text == state.open_text == "Hello, world!"


@pytest.mark.parametrize("left_out", [(), ("response.output_text.done",)])
def test_ids_that_change_from_event_to_event_do_no_harm(left_out):
    events = without_types(copy.deepcopy(COMPLETED["two messages"]), *left_out)
    for number, event in enumerate(events):
        if "item_id" in event:
            event["item_id"] = f"msg_{number}"
        for item in (event.get("item"), *(event.get("response") or {}).get("output", [])):
            if item:
                item["id"] = f"{item['id']}_{number}"
    state = after(events)
    assert state.text == "Hello, world!"
    assert state.items == recordings.items_of(events)


def test_text_of_messages_that_interleave_stays_together():
    at = {"type": "response.output_text.delta", "content_index": 0}
    events = [{**at, "item_id": i, "delta": d} for i, d in ["a1", "b1", "a2", "b2"]]
    assert after(events).text == "12" * 2
    assert after(events[:3]).text == "121"


def test_parts_of_a_message_are_joined_in_their_order():
    at = {"type": "response.output_text.delta", "item_id": "m"}
    done = {"type": "response.output_text.done", "item_id": "m"}
    state = after([
        {**at, "content_index": 0, "delta": "a"},
        {**done, "content_index": 0, "text": "A"},
        {**at, "content_index": 1, "delta": "b"},
        {**done, "content_index": 1, "text": "B"},
    ])  # fmt: skip
    assert state.text == "AB"


def test_a_done_event_corrects_what_deltas_said():
    events = recordings.text_response("Hello", with_sequence=False)
    del events[5]  # a delta that got lost
    assert recordings.text_of(events) != "Hello"
    assert after(events).text == "Hello"


def test_the_last_event_brings_the_items_that_none_of_their_own_has():
    events = recordings.function_call_response(text="Let me look.")
    done = [event for event in events if event["type"] == "response.output_item.done"]
    state = after([event for event in events if event is not done[1]])
    assert state.items == [done[0]["item"], done[1]["item"]]
    assert state.text == "Let me look."


def test_items_that_only_the_last_event_has_are_all_used():
    events = recordings.response(MESSAGES, with_sequence=False)
    state = after([events[0], events[-1]])
    assert state.items == [item.done for item in MESSAGES]
    assert state.text == "Hello, world!"
    without = without_ids([events[0], events[-1]])
    assert after(without).text == "Hello, world!"
    assert len(after(without).items) == 2


def test_items_that_cannot_be_told_from_those_that_came_are_not_used_twice():
    events = without_ids(COMPLETED["two messages"])
    first = next(e for e in events if e["type"] == "response.output_item.done")
    state = after([first, events[-1]])
    assert state.items == [first["item"]]
    assert state.text == "Hello, "


def test_items_that_got_an_id_only_in_the_end_are_not_used_twice():
    events = COMPLETED["two messages"]
    first = next(e for e in without_ids(events) if e["type"] == "response.output_item.done")
    state = after([first, events[-1]])
    assert state.items == [first["item"]]


def test_a_refusal_is_an_item_and_no_text():
    state = after(COMPLETED["refusal"])
    assert state.items[0]["content"][0]["type"] == "refusal"
    assert state.text == state.response.output_text == ""


# -- under way ---------------------------------------------------------------------------------


def test_a_new_state_knows_nothing():
    state = ResponseState()
    assert (state.response_id, state.sequence_number, state.usage) == (None, None, None)
    assert (state.items, state.text, state.open_text, state.model) == ([], "", "", None)
    assert (state.status, state.terminal, state.error) == ("in_progress", False, None)
    assert state.response.data == {}


def test_what_is_known_before_the_first_event_is_kept():
    state = ResponseState("resp_7", 41)
    assert (state.response_id, state.sequence_number) == ("resp_7", 41)
    assert state.response.id == "resp_7"
    state.apply(event_of({"type": "response.in_progress", "response": {"status": "in_progress"}}))
    assert state.response_id == "resp_7"
    assert state.response.data == {"status": "in_progress", "id": "resp_7"}


def test_id_model_and_status_come_with_the_first_event():
    state = after(recordings.background_response()[:1])
    assert (state.response_id, state.model, state.status) == ("resp_1", "test-model", "queued")
    assert after(recordings.background_response()[:3]).status == "in_progress"


def test_the_sequence_number_is_that_of_the_latest_event_that_has_one():
    state = ResponseState()
    for number, expected in [(0, 0), (5, 5), (None, 5), (6, 6)]:
        state.apply(ResponseEvent(type="response.new", data={}, sequence_number=number))
        assert state.sequence_number == expected


def test_open_text_is_that_of_no_finished_item():
    state = ResponseState()
    seen = []
    for data in COMPLETED["two messages"]:
        state.apply(event_of(data))
        if not seen or seen[-1] != state.open_text:
            seen.append(state.open_text)
    assert seen == ["", "He", "Hell", "Hello, ", "", "wo", "worl", "world!", ""]


def test_text_that_no_item_has_finished_stays_open_until_the_end():
    state = after(recordings.cut_response())
    assert state.open_text == "Hello, wor"
    state.apply(event_of({"type": "response.completed"}))
    assert state.open_text == ""
    assert state.text == "Hello, wor"


def test_a_finished_call_closes_no_message_in_the_same_place():
    events = recordings.cut_response()
    call = {"type": "function_call", "id": "fc_1", "arguments": "{}"}
    done = {"type": "response.output_item.done", "output_index": 0, "item": call}
    state = after([*events, done])
    assert state.open_text == "Hello, wor"
    assert state.items == [call]


def test_unknown_events_change_nothing():
    state = after(recordings.cut_response())
    before = (state.text, state.items, state.response.data, state.terminal)
    for kind in ("response.hologram.delta", "response.refusal.delta", "", "response", "ping"):
        data = {"type": kind, "delta": "x", "item": {"type": "x"}, "response": {"id": "other"}}
        state.apply(event_of(data))
    assert (state.text, state.items, state.response.data, state.terminal) == before


def test_the_response_is_a_copy_of_what_has_arrived():
    state = after(recordings.text_response()[:-1])
    early = state.response
    assert early.status == "in_progress"
    assert early.output == state.items
    early.data["status"] = early.data["output"] = None
    assert state.response.status == "in_progress"
    assert state.response.output == state.items


def test_what_has_arrived_is_put_on_an_error():
    state = after(recordings.text_response("Hello", deltas=2)[:-1])
    error = ProtocolError("x")
    assert state.with_what_arrived(error) is error
    assert (error.response_id, error.items, error.text) == ("resp_1", state.items, "Hello")
    state.items.append({})
    assert len(error.items) == 1


def test_text_may_be_read_while_another_thread_applies_events():
    state = ResponseState()
    numbers = range(3000)
    problems: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                assert set(state.text + state.open_text) <= {"x"}
        except BaseException as exc:
            problems.append(exc)

    reader = threading.Thread(target=read)
    reader.start()
    delta = {"type": "response.output_text.delta", "delta": "x"}
    for number in numbers:
        at = {"item_id": f"m{number % 500}", "content_index": number}
        state.apply(event_of({**delta, **at}))
    done.set()
    reader.join()
    assert problems == []
    assert state.text == "x" * len(numbers)


# -- how it ended ------------------------------------------------------------------------------


def ended(kind: str, response: Any = None, **fields: Any) -> ResponseState:
    data: JSON = {"type": kind, **fields}
    if response is not None:
        data["response"] = response
    return after([data])


def failure(state: ResponseState) -> ResponseFailedError:
    assert state.terminal
    assert type(state.error) is ResponseFailedError
    return state.error


def test_a_failed_response_is_an_error_with_its_code_and_message():
    state = after(recordings.failed_response("server_error", "The model failed."))
    error = failure(state)
    assert str(error) == "response failed: server_error: The model failed."
    assert (error.code, error.message, error.retry_after) == (
        "server_error",
        "The model failed.",
        None,
    )
    assert error.retryable
    assert state.status == state.response.status == "failed"
    assert state.response.error == {"code": "server_error", "message": "The model failed."}


def test_an_incomplete_response_is_an_error_with_its_reason():
    state = after(recordings.incomplete_response("content_filter"))
    assert type(state.error) is ResponseIncompleteError
    assert state.error.reason == "content_filter"
    assert str(state.error) == "response is incomplete: content_filter"
    assert not state.error.retryable
    assert state.response.incomplete_details == {"reason": "content_filter"}
    assert state.response.status == "incomplete"


@pytest.mark.parametrize(
    "response",
    [
        None,
        {},
        {"incomplete_details": None},
        {"incomplete_details": {}},
        {"incomplete_details": "x"},
    ],
)
def test_an_incomplete_response_need_not_say_why(response):
    error = ended("response.incomplete", response).error
    assert isinstance(error, ResponseIncompleteError)
    assert (str(error), error.reason) == ("response is incomplete", None)


@pytest.mark.parametrize("kind", ["response.cancelled", "response.canceled"])
def test_a_cancelled_response_is_a_failure_of_that_code(kind):
    state = ended(kind, {"id": "resp_1", "status": "whatever"})
    error = failure(state)
    assert (str(error), error.code) == ("response was cancelled: cancelled", "cancelled")
    assert state.status == "cancelled"
    assert not error.retryable
    error = failure(ended(kind, {"error": {"code": "by_user", "message": "Enough."}}))
    assert str(error) == "response was cancelled: by_user: Enough."


@pytest.mark.parametrize(
    ("status", "meant", "cls"),
    [
        ("completed", "completed", None),
        ("in_progress", "completed", None),
        (None, "completed", None),
        (["failed"], "completed", None),
        ("failed", "failed", ResponseFailedError),
        ("incomplete", "incomplete", ResponseIncompleteError),
        ("cancelled", "cancelled", ResponseFailedError),
        ("canceled", "cancelled", ResponseFailedError),
    ],
)
def test_completed_means_what_the_response_in_it_says(status, meant, cls):
    state = ended("response.completed", {"id": "resp_1", "status": status})
    assert state.terminal
    assert (None if state.error is None else type(state.error)) is cls
    assert state.status == state.response.status == meant


@pytest.mark.parametrize("kind", ["failed", "incomplete", "cancelled"])
@pytest.mark.parametrize(
    "status", ["completed", "failed", "incomplete", "cancelled", "in_progress"]
)
def test_any_other_end_means_what_it_says(kind, status):
    state = ended(f"response.{kind}", {"id": "resp_1", "status": status})
    assert state.status == state.response.status == kind
    assert isinstance(state.error, ResponseIncompleteError) == (kind == "incomplete")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("response.completed", "completed"),
        ("response.failed", "failed"),
        ("response.incomplete", "incomplete"),
    ],
)
def test_the_end_need_not_repeat_what_is_known(kind, status):
    for end in ({}, {"response": None}, {"response": []}, {"response": {}}):
        state = after([*recordings.cut_response(), {"type": kind, **end}])
        assert state.terminal
        assert state.status == state.response.status == status
        assert state.response.id == "resp_1"
        assert state.text == "Hello, wor"


@pytest.mark.parametrize("kind", ["response.completed", "response.failed", "error"])
def test_the_type_of_an_event_need_not_be_in_its_data(kind):
    state = ResponseState()
    state.apply(ResponseEvent(type=kind, data={"message": "no"}))
    assert state.terminal
    assert (state.error is None) == (kind == "response.completed")


def test_the_items_that_came_are_the_output_where_the_end_has_none():
    events = recordings.text_response("Hello")
    events[-1]["response"]["output"] = []
    state = after(events)
    assert state.response.output == state.items
    assert state.response.output_text == "Hello"


ERROR = {"code": "server_error", "message": "No."}
NO_REASON = "the service does not say why"


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ({"type": "error", **ERROR, "param": None}, "server_error", "No."),
        ({"type": "error", "error": ERROR}, "server_error", "No."),
        ({"error": {**ERROR, "type": "x"}}, "server_error", "No."),
        ({"error": {"type": "overloaded_error", "message": "No."}}, "overloaded_error", "No."),
        ({"error": {"code": None, "type": "error", "message": "No."}}, None, "No."),
        ({"error": {"code": 500, "message": "No."}}, "500", "No."),
        ({"error": "No."}, None, "No."),
        ({"type": "error", "code": None, "message": "No."}, None, "No."),
        ({"type": "error", "message": None}, None, NO_REASON),
        ({"type": "error"}, None, NO_REASON),
        ({"type": "error", "error": {"code": "busy"}}, "busy", ""),
        ({"type": "error", "error": None, "message": "No."}, None, "No."),
        ({"type": "error", "error": {}}, None, NO_REASON),
        ({"type": "error", "error": {"message": {"text": "No."}}}, None, "{'text': 'No.'}"),
    ],
)
def test_an_error_event_of_any_shape_is_a_failure(data, code, message):
    state = after([*recordings.cut_response(), data])
    error = failure(state)
    assert (error.code, error.message) == (code, message)
    assert str(error) == ": ".join(part for part in ("response failed", code, message) if part)
    assert state.text == "Hello, wor"


@pytest.mark.parametrize(
    ("response", "fields"),
    [({"error": ERROR}, {}), ({"error": None}, {"error": ERROR}), (None, {"error": ERROR})],
)
def test_a_failed_event_may_have_its_error_within_or_beside_the_response(response, fields):
    error = failure(ended("response.failed", response, **fields))
    assert str(error) == "response failed: server_error: No."


def test_a_failed_event_need_not_say_why():
    error = failure(ended("response.failed"))
    assert str(error) == f"response failed: {NO_REASON}"
    assert (error.code, error.message) == (None, NO_REASON)


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        ("server_error", True),
        ("rate_limit_exceeded", True),
        ("server_is_overloaded", True),
        ("slow_down", True),
        (429, True),
        (500, True),
        (503, True),
        ("context_length_exceeded", False),
        ("insufficient_quota", False),
        ("invalid_prompt", False),
        (400, False),
        (None, False),
    ],
)
def test_what_may_pass_is_retryable(code, retryable):
    error = failure(ended("error", error={"code": code, "message": "x"}))
    assert error.retryable is retryable


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("1.5s", 1.5),
        ("1.5 s.", 1.5),
        ("20s", 20.0),
        ("20 seconds", 20.0),
        ("1 second, or later", 1.0),
        ("3 secs", 3.0),
        ("0s", 0.0),
        ("500ms", 0.5),
        ("864.5 ms", 0.8645),
        ("500 milliseconds", 0.5),
        ("1 millisecond", 0.001),
        ("250 msecs", 0.25),
        ("6m0s", 360.0),
        ("1m30.25s", 90.25),
        ("2m", 120.0),
        ("2 minutes", 120.0),
        ("1 min", 60.0),
        ("5 mins 3 sec", 303.0),
        ("1.5 minutes", 90.0),
        ("1h", 3600.0),
        ("1h2m3s", 3723.0),
        ("2 hours 5 minutes", 7500.0),
        ("1 hr", 3600.0),
        ("1m500ms", 60.5),
        ("\n 7s", 7.0),
    ],
)
def test_a_message_may_say_when_to_try_again(said, seconds):
    for text in (f"Please try again in {said}", f"Limit 3, used 3. TRY AGAIN IN {said} Visit x."):
        error = failure(ended("error", code="tokens", message=text))
        assert error.retry_after == seconds
        assert error.retryable


@pytest.mark.parametrize(
    "text",
    [
        "",
        "try again",
        "try again in",
        "try again in ",
        "try again in a moment",
        "try again in 5",
        "try again in 5 months",
        "try again in 5 sheep",
        "try again in 1 day",
        "try again in -5s",
        "try again in 1234567890s",
        "try again in " + "9" * 5000 + "s",
        "try again in " + " " * 5000,
        "wait 5s",
    ],
)
def test_other_messages_say_nothing_of_when(text):
    error = failure(ended("error", message=text))
    assert error.retry_after is None
    assert not error.retryable


@given(st.text(st.sampled_from("try again in 0123456789.hmsecoundi\n"), max_size=60))
def test_when_to_try_again_is_never_negative_or_endless(text):
    error = failure(ended("error", message=f"try again in {text}"))
    assert error.retry_after is None or 0 <= error.retry_after < 1e13


# -- what servers should not send --------------------------------------------------------------

TYPES = sorted(
    {event.get("type", "") for events in STREAMS.values() for event in events}
    | {"response.cancelled", "response.canceled", "response.queued", "response.new", ""}
)
FIELDS = [
    "id", "type", "status", "delta", "text", "item", "item_id", "output_index", "content_index",
    "response", "output", "content", "usage", "error", "code", "message", "incomplete_details",
    "reason", "model", "input_tokens", "output_tokens", "arguments", "name", "summary",
]  # fmt: skip
WORDS = ["message", "output_text", "failed", "incomplete", "cancelled", "msg_1", "resp_1"]


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = st.recursive(
    scalars | st.sampled_from(WORDS),
    lambda values: st.lists(values, max_size=3) | objects(values),
    max_leaves=12,
)


@given(st.lists(st.tuples(st.sampled_from(TYPES), objects(json_values)), max_size=8))
def test_no_json_object_is_more_than_can_be_taken(events):
    state = ResponseState()
    for kind, data in events:
        state.apply(ResponseEvent(type=kind, data={"type": kind, **data}))
        assert isinstance(state.text, str)
        assert isinstance(state.open_text, str)
        assert isinstance(state.status, str)
        assert all(isinstance(item, dict) for item in state.items)
        assert state.usage is None or isinstance(state.usage, dict)
        assert state.response_id is None or isinstance(state.response_id, str)
        assert state.error is None or isinstance(state.error, ResponseError)
        response = state.response
        assert isinstance(response.output_text, str)
        assert isinstance(repr(response), str)
        assert isinstance(response._repr_html_(), str)


@given(objects(json_values))
def test_no_json_object_is_more_than_a_response_can_show(data):
    response = Response(data)
    assert all(isinstance(value, str) for value in (response.id, response.status, response.model))
    assert all(isinstance(item, dict) for item in response.output)
    for value in (response.usage, response.error, response.incomplete_details):
        assert value is None or isinstance(value, dict)
    assert isinstance(response.output_text, str)
    assert isinstance(repr(response), str)
    response._repr_html_().encode()


# -- Response ----------------------------------------------------------------------------------


def test_a_response_shows_the_object_that_the_server_sent():
    data = recordings.response_object(MESSAGES, metadata={"k": "v"})
    response = Response(data)
    assert response.data is data
    assert (response.id, response.status, response.model) == ("resp_1", "completed", "test-model")
    assert response.output == data["output"]
    assert response.output_text == "Hello, world!"
    assert response.usage == recordings.usage()
    assert (response.error, response.incomplete_details) == (None, None)


@pytest.mark.parametrize(
    "data",
    [
        {},
        dict.fromkeys(
            ["id", "status", "model", "output", "usage", "error", "incomplete_details", "text"]
        ),
        {"output": {}, "usage": [], "error": "no", "incomplete_details": 1},
        {"output": [None, 1, "x"]},
    ],
)
def test_what_is_left_out_or_null_or_odd_is_empty(data):
    response = Response(data)
    assert (response.id, response.status, response.model) == ("", "", "")
    assert (response.output, response.output_text) == ([], "")
    assert (response.usage, response.error, response.incomplete_details) == (None, None, None)


def test_only_the_text_of_messages_is_output_text():
    part = {"type": "output_text", "text": "a"}
    output = [
        {"type": "reasoning", "content": [{"type": "output_text", "text": "no"}]},
        {"type": "message", "content": [part, {"type": "refusal", "refusal": "no"}, part]},
        {"type": "message", "content": None},
        {"type": "message", "content": [None, {"type": "output_text"}, {**part, "text": None}]},
        {"content": [part]},
    ]
    assert Response({"output": output}).output_text == "aa"


def test_a_response_cannot_be_changed_and_is_itself_only():
    data = recordings.response_object(MESSAGES)
    response = Response(data)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        response.data = {}
    assert response != Response(data)
    assert len({response, Response(data)}) == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("Hi", " text='Hi'"),
        ("x" * 40, f" text='{'x' * 40}'"),
        ("x" * 41, f" text='{'x' * 40}…'"),
    ],
)
def test_the_repr_tells_the_state_and_the_beginning_of_the_text(text, shown):
    response = Response(recordings.response_object([recordings.message(text)]))
    assert repr(response) == f"<Response resp_1 completed items=1{shown}>"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"status": "failed", "error": {"message": "no <luck>"}}, "no <luck>"),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            "max_output",
        ),
        ({"status": "failed", "error": "no"}, "failed"),
        ({}, "completed"),
    ],
)
def test_a_notebook_shows_the_text_and_what_went_wrong(fields, problem):
    page = Response(recordings.response_object(MESSAGES, **fields))._repr_html_()
    assert html.escape(problem) in page.partition("<details>")[0]
    assert "Hello, " in page
    assert "test-model · resp_1 · 11 → 7 tokens" in page


def test_a_notebook_shows_the_whole_object():
    data = recordings.response_object(MESSAGES, metadata={"k": "v"})
    page = html.unescape(Response(data)._repr_html_())
    assert json.dumps(data, indent=2, ensure_ascii=False) in page


def test_a_whole_message_that_a_stream_taken_up_in_its_middle_brings_is_no_new_text():
    state = ResponseState(sequence_number=3)
    part = {"type": "output_text", "text": "Hello, world"}
    item = {"type": "message", "id": "msg_1", "content": [part]}
    done = {"type": "response.output_item.done", "item": item}
    state.apply(event_of({**done, "sequence_number": 4}))
    assert (state.text, state.new_text) == ("Hello, world", "")
