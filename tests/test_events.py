"""Wire values: what they hold, and that they are values."""

import copy
import pickle
import sys
from typing import Any

import pytest
import sseclient

from reasoning_sdk.encoding import encode_json, json_parser
from reasoning_sdk.errors import ProtocolError
from reasoning_sdk.events import ResponseEvent, ServerSentEvent

SSE = ServerSentEvent(event="delta", data='{"a":1}', id="7", retry=250)
RESPONSE = ResponseEvent(type="error", data={"type": "error", "x": [1]}, sequence_number=3)


def test_an_sse_event_is_a_message_unless_said():
    event = ServerSentEvent()
    assert (event.event, event.data, event.id, event.retry) == ("message", "", "", None)


def test_a_response_event_need_not_have_a_place():
    assert ResponseEvent(type="x", data={}).sequence_number is None


@pytest.mark.parametrize("cls", [ServerSentEvent, ResponseEvent])
def test_events_take_keywords_only(cls):
    with pytest.raises(TypeError):
        cls("message", "x")


@pytest.mark.parametrize("event", [SSE, RESPONSE])
@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda event: pickle.loads(pickle.dumps(event))]
)
def test_events_are_values(event, clone):
    again = clone(event)
    assert again == event
    assert again is not event
    assert repr(again) == repr(event)
    assert encode_json(again) == encode_json(event)


def test_events_that_differ_are_not_equal():
    assert ServerSentEvent(data="a") != ServerSentEvent(data="b")
    assert ServerSentEvent(data="a") != ServerSentEvent(data="a", id="1")
    assert ResponseEvent(type="a", data={}) != ResponseEvent(type="a", data={}, sequence_number=0)


@pytest.mark.parametrize("event", [SSE, RESPONSE])
def test_events_have_no_room_for_other_attributes(event):
    with pytest.raises(AttributeError):
        event.other = 1


def test_the_repr_shows_all_fields():
    assert repr(SSE) == (
        "ServerSentEvent(event='delta', data='{\"a\":1}', id='7', retry=250)"
    )  # fmt: skip
    assert repr(ResponseEvent(type="x", data={})) == (
        "ResponseEvent(type='x', data={}, sequence_number=None)"
    )


def test_an_sse_event_has_all_that_sseclients_has():
    theirs = sseclient.Event(id="7", event="delta", data='{"a":1}', retry=250)
    for name in vars(theirs):
        assert getattr(SSE, name) == getattr(theirs, name)


# -- json() ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "value"),
    [('{"a":1}', {"a": 1}), ("null", None), (' [1,\n"ü"] ', [1, "ü"]), (str(2**70), 2**70)],
)
def test_data_is_read_as_json(data: str, value: Any):
    assert ServerSentEvent(data=data).json() == value


@pytest.mark.parametrize("data", ["", "[DONE]", "{", "[" * 200_000])
def test_data_that_is_not_json_is_a_protocol_error(data):
    with pytest.raises(ProtocolError, match=r"^data of event 'delta' is not JSON: ") as caught:
        ServerSentEvent(event="delta", data=data).json()
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_error_does_not_show_the_data():
    with pytest.raises(ProtocolError) as caught:
        ServerSentEvent(data="secret words").json()
    assert "secret" not in str(caught.value)


def test_data_is_read_without_msgspec_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "msgspec", None)
    json_parser.cache_clear()
    try:
        assert SSE.json() == {"a": 1}
        with pytest.raises(ProtocolError):
            ServerSentEvent(data="[DONE]").json()
    finally:
        json_parser.cache_clear()
