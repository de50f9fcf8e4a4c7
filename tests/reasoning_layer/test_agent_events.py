"""Agent events: what each type becomes, and what becomes of those that fit no type."""

import json
import logging
import pickle
from typing import Any

import attrs
import pytest

from reasoning_sdk import InvalidEventError
from reasoning_sdk.reasoning_layer import (
    AgentEvent,
    AttentionShiftEvent,
    ConnectedEvent,
    CycleCompleteEvent,
    ErrorEvent,
    GoalCompletedEvent,
    HeartbeatEvent,
    HitlRequestEvent,
    ImpasseDetectedEvent,
    KbChangeEvent,
    UnknownEvent,
)
from reasoning_sdk.reasoning_layer.agent_events import AgentEventCodec

A, B = "6f9c1c1e-0b1d-4c5e-9a39-0d2f0c7d8a01", "b2c3d4e5-0000-4000-8000-000000000002"

EVENTS: list[tuple[type[AgentEvent], dict[str, Any]]] = [
    (ConnectedEvent, {"type": "connected", "agent_id": A, "timestamp": "2026-01-01T00:00:00Z"}),
    (HeartbeatEvent, {"type": "heartbeat", "timestamp": "2026-01-01T00:00:30Z"}),
    (
        KbChangeEvent,
        {"type": "kb_change", "change_type": "feature_modified", "sort": "person", "term_id": A},
    ),
    (
        HitlRequestEvent,
        {
            "type": "hitl_request",
            "action_sort": "send_mail",
            "confidence": 0.5,
            "deadline": "2026-01-01T01:00:00Z",
            "review_id": A,
        },
    ),
    (
        CycleCompleteEvent,
        {
            "type": "cycle_complete",
            "actions_executed": 0,
            "agent_id": A,
            "beliefs_updated": 3,
            "pending_reviews": [A, B],
        },
    ),
    (AttentionShiftEvent, {"type": "attention_shift", "from": A, "priority": 0.25, "to": B}),
    (
        GoalCompletedEvent,
        {"type": "goal_completed", "goal_id": A, "result": "done", "success": True},
    ),
    (
        ImpasseDetectedEvent,
        {
            "type": "impasse_detected",
            "blocked_goal": A,
            "impasse_type": "no_operator",
            "recovery_suggestions": ["ask", "wait"],
        },
    ),
    (ErrorEvent, {"type": "error", "code": "OVERLOAD", "message": "later"}),
]
OPTIONAL = [("hitl_request", "deadline"), ("attention_shift", "from"), ("goal_completed", "result")]
BY_TYPE = {data["type"]: (kind, data) for kind, data in EVENTS}
REQUIRED = [
    (data["type"], key)
    for _, data in EVENTS
    for key in data
    if key != "type" and (data["type"], key) not in OPTIONAL
]


def decoded(value: Any) -> AgentEvent:
    return AgentEventCodec().decode(json.dumps(value))


def name_of(key: str) -> str:
    return "from_" if key == "from" else key


@pytest.mark.parametrize(("kind", "data"), EVENTS, ids=BY_TYPE)
def test_an_event_has_its_fields_as_attributes_and_its_data_whole(
    kind: type[AgentEvent], data: dict[str, Any]
) -> None:
    data = {**data, "newer": {"field": [1]}}
    event = decoded(data)
    assert type(event) is kind
    assert event.data == data
    for key, value in data.items():
        if key != "newer":
            expected = tuple(value) if isinstance(value, list) else value
            assert getattr(event, name_of(key)) == expected
    assert {field.name for field in attrs.fields(kind)} == {
        "data", *(name_of(key) for key in data if key != "newer"),
    }  # fmt: skip


def test_a_message_may_be_text_or_bytes() -> None:
    text = '{"type": "heartbeat", "timestamp": "mañana"}'
    assert AgentEventCodec().decode(text) == AgentEventCodec().decode(text.encode())


@pytest.mark.parametrize(("kind", "key"), OPTIONAL)
def test_an_optional_field_may_be_null_or_missing(kind: str, key: str) -> None:
    event_class, data = BY_TYPE[kind]
    for changed in ({**data, key: None}, {k: v for k, v in data.items() if k != key}):
        event = decoded(changed)
        assert type(event) is event_class
        assert getattr(event, name_of(key)) is None


@pytest.mark.parametrize("type_", ["brand_new", "", "Connected"])
def test_an_unknown_type_is_passed_on(type_: str, caplog: pytest.LogCaptureFixture) -> None:
    event = decoded({"type": type_, "n": 1})
    assert event == UnknownEvent(type=type_, data={"type": type_, "n": 1})
    assert caplog.records == []


@pytest.mark.parametrize(("kind", "key"), REQUIRED)
@pytest.mark.parametrize("wrong", [None, {}, [None], Ellipsis])
def test_a_known_type_whose_fields_do_not_fit_is_passed_on_as_unknown(
    kind: str, key: str, wrong: Any
) -> None:
    changed = {**BY_TYPE[kind][1], key: wrong}
    if wrong is Ellipsis:
        del changed[key]
    assert decoded(changed) == UnknownEvent(type=kind, data=changed)


@pytest.mark.parametrize(
    ("kind", "key", "wrong"),
    [
        ("cycle_complete", "actions_executed", True),
        ("cycle_complete", "actions_executed", 1.5),
        ("cycle_complete", "pending_reviews", A),
        ("hitl_request", "confidence", False),
        ("hitl_request", "confidence", "0.5"),
        ("hitl_request", "deadline", 5),
        ("goal_completed", "success", 1),
        ("kb_change", "change_type", 7),
    ],
)
def test_kinds_of_values_are_not_mixed_up(kind: str, key: str, wrong: Any) -> None:
    assert type(decoded({**BY_TYPE[kind][1], key: wrong})) is UnknownEvent


def test_what_is_odd_but_of_the_right_kind_is_taken_as_it_is() -> None:
    shift = decoded({"type": "attention_shift", "to": "the door", "priority": 2})
    assert shift == AttentionShiftEvent(to="the door", priority=2, data=shift.data)
    change = decoded({"type": "kb_change", "change_type": "merged", "sort": "s", "term_id": "t"})
    assert isinstance(change, KbChangeEvent)
    assert change.change_type == "merged"


@pytest.mark.parametrize("value", [None, True, 7, "text", ["list"], {}, {"type": 5}, {"no": 1}])
def test_json_that_names_no_type_is_passed_on(value: Any) -> None:
    event = decoded(value)
    assert event == UnknownEvent(type="", data=value)
    assert event is not None


@pytest.mark.parametrize("message", ["", "{", b"\xff", "[" * 100_000])
def test_what_is_not_json_is_a_value_error(message: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whoever reads the message says more
        AgentEventCodec().decode(message)


def test_what_does_not_fit_is_logged_once_for_each_type(caplog: pytest.LogCaptureFixture) -> None:
    codec = AgentEventCodec()
    with caplog.at_level(logging.WARNING, "reasoning_sdk.reasoning_layer"):
        for kind in ("heartbeat", "error", "heartbeat"):
            codec.decode(json.dumps({"type": kind, "secret": "payload"}))
    assert [record.getMessage() for record in caplog.records] == [
        "events of type 'heartbeat' have other fields than this version knows",
        "events of type 'error' have other fields than this version knows",
    ]


@pytest.mark.parametrize(("kind", "data"), EVENTS, ids=BY_TYPE)
def test_an_event_is_a_value(kind: type[AgentEvent], data: dict[str, Any]) -> None:
    event, same = decoded(data), decoded(data)
    assert event == same
    assert hash(event) == hash(same)
    assert pickle.loads(pickle.dumps(event)) == event
    assert "data" not in repr(event)
    assert repr(event).startswith(f"{kind.__name__}(type={data['type']!r}, ")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.type = "other"  # type: ignore[misc]


def test_an_event_is_made_of_its_fields_alone() -> None:
    assert HeartbeatEvent(timestamp="now").type == "heartbeat"
    assert HeartbeatEvent(timestamp="now").data == {}
    assert repr(UnknownEvent(type="x", data={"a": 1})) == "UnknownEvent(type='x')"


@pytest.mark.parametrize(("kind", "data"), EVENTS, ids=BY_TYPE)
def test_an_event_made_of_its_fields_is_sent_as_the_service_writes_it(
    kind: type[AgentEvent], data: dict[str, Any]
) -> None:
    codec = AgentEventCodec()
    made = attrs.evolve(decoded(data), data={})
    assert json.loads(codec.encode(made)) == data
    optional = {name_of(key): None for type_, key in OPTIONAL if type_ == data["type"]}
    without = {key: value for key, value in data.items() if name_of(key) not in optional}
    assert json.loads(codec.encode(attrs.evolve(made, **optional))) == without


def test_an_event_without_data_is_sent_as_its_type() -> None:
    codec = AgentEventCodec()
    assert codec.encode(UnknownEvent(type="x")) == '{"type":"x"}'
    assert codec.encode(AgentEvent(type="x")) == '{"type":"x"}'


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, 7, {"type": ""}, {"a": 1}])
def test_what_names_no_type_is_sent_as_it_was_read(value: Any) -> None:
    assert json.loads(AgentEventCodec().encode(decoded(value))) == value


def test_what_is_sent_is_json() -> None:
    codec = AgentEventCodec()
    assert codec.encode({"a": ["ü", None]}) == '{"a":["ü",null]}'
    assert json.loads(codec.encode(decoded({"type": "x", "n": 1}))) == {"type": "x", "n": 1}
    with pytest.raises(InvalidEventError):
        codec.encode(b"bytes")
