"""The events of a cognitive agent, as typed values."""

import logging
from collections.abc import Callable
from typing import Any

import attrs

from reasoning_sdk.encoding import encode_json, parse_json

__all__ = [
    "AgentEvent",
    "AgentEventCodec",
    "AttentionShiftEvent",
    "ConnectedEvent",
    "CycleCompleteEvent",
    "ErrorEvent",
    "GoalCompletedEvent",
    "HeartbeatEvent",
    "HitlRequestEvent",
    "ImpasseDetectedEvent",
    "KbChangeEvent",
    "UnknownEvent",
]

log = logging.getLogger("reasoning_sdk.reasoning_layer")


@attrs.frozen(kw_only=True)
class AgentEvent:
    """An event of a cognitive agent. Immutable; safe to share between threads.

    Ids are texts, as the service writes them: what is printed, compared and sent back.

    Args:
        type: The type, as in ``"kb_change"``.
        data: The event's whole JSON object, with what this version has no attribute for.

    Source: the Reasoning Layer's ``AgentEvent``, and so for its kinds.
    """

    type: str
    data: dict[str, Any] = attrs.field(factory=dict, repr=False, hash=False)


@attrs.frozen(kw_only=True)
class ConnectedEvent(AgentEvent):
    """The service has accepted the connection: the first event of each.

    Args:
        agent_id: The agent whose events these are.
        timestamp: The server's time.
    """

    type: str = "connected"
    agent_id: str
    timestamp: str


@attrs.frozen(kw_only=True)
class HeartbeatEvent(AgentEvent):
    """Nothing has happened, and the service is there.

    Args:
        timestamp: The server's time.
    """

    type: str = "heartbeat"
    timestamp: str


@attrs.frozen(kw_only=True)
class KbChangeEvent(AgentEvent):
    """A term of the knowledge base has changed.

    Args:
        change_type: ``"added"``, ``"updated"``, ``"deleted"``, ``"feature_modified"``, or one that
            is newer.
        sort: The term's sort.
        term_id: The term.
    """

    type: str = "kb_change"
    change_type: str
    sort: str
    term_id: str


@attrs.frozen(kw_only=True)
class HitlRequestEvent(AgentEvent):
    """A human is asked to review an action.

    Args:
        action_sort: The action's sort.
        confidence: How sure the agent is.
        deadline: Until when, if there is a limit.
        review_id: The review.
    """

    type: str = "hitl_request"
    action_sort: str
    confidence: float
    deadline: str | None = None
    review_id: str


@attrs.frozen(kw_only=True)
class CycleCompleteEvent(AgentEvent):
    """A cognitive cycle has ended.

    Args:
        actions_executed: How many actions it has carried out.
        agent_id: The agent.
        beliefs_updated: How many beliefs it has changed.
        pending_reviews: The reviews that wait for a human.
    """

    type: str = "cycle_complete"
    actions_executed: int
    agent_id: str
    beliefs_updated: int
    pending_reviews: tuple[str, ...]


@attrs.frozen(kw_only=True)
class AttentionShiftEvent(AgentEvent):
    """The agent attends to something else.

    Args:
        from_: What it attended to before, if anything; ``from`` on the wire.
        priority: The new one's priority.
        to: What it attends to now.
    """

    type: str = "attention_shift"
    from_: str | None = None
    priority: float
    to: str


@attrs.frozen(kw_only=True)
class GoalCompletedEvent(AgentEvent):
    """The agent is done with a goal.

    Args:
        goal_id: The goal.
        result: What came of it, if the agent says so.
        success: Whether it was reached.
    """

    type: str = "goal_completed"
    goal_id: str
    result: str | None = None
    success: bool


@attrs.frozen(kw_only=True)
class ImpasseDetectedEvent(AgentEvent):
    """The agent does not get on with a goal.

    Args:
        blocked_goal: The goal.
        impasse_type: What kind of impasse it is.
        recovery_suggestions: What might help.
    """

    type: str = "impasse_detected"
    blocked_goal: str
    impasse_type: str
    recovery_suggestions: tuple[str, ...]


@attrs.frozen(kw_only=True)
class ErrorEvent(AgentEvent):
    """The service tells of an error; the connection goes on.

    Args:
        code: The service's code.
        message: The service's message.
    """

    type: str = "error"
    code: str
    message: str


@attrs.frozen(kw_only=True)
class UnknownEvent(AgentEvent):
    """What is none of the above: a newer type, or a known one whose fields are not as they were.

    Args:
        type: The type that it names, ``""`` when it names none.
        data: The JSON value, whatever it is.
    """

    data: Any = attrs.field(default=None, repr=False, hash=False)


class AgentEventCodec:
    """Reads a WebSocket's messages as agent events. One thread at a time reads.

    No event is an error: what cannot be read as what it says it is comes as an
    :class:`UnknownEvent`, and is logged once for each type. Fields that are unknown are left in
    ``data``, optional ones may be missing or null.
    """

    def __init__(self) -> None:
        self._unreadable: set[str] = set()

    def decode(self, message: str | bytes) -> AgentEvent:
        """The event in a message.

        Raises:
            ValueError: The message is not JSON.
        """
        data = parse_json(message)
        kind = data.get("type") if type(data) is dict else None
        if type(kind) is not str:
            return UnknownEvent(type="", data=data)
        event_class, fields = _FIELDS.get(kind, _UNKNOWN)
        try:
            values = {name: read(data.get(key)) for name, key, read in fields}
        except ValueError:
            self._log_once(kind)
            return UnknownEvent(type=kind, data=data)
        return event_class(type=kind, data=data, **values)

    def encode(self, value: Any) -> str:
        """A value as JSON; an event as what it was read from, or else made of.

        Raises:
            InvalidEventError: It cannot be JSON.
        """
        return encode_json(_object_of(value) if isinstance(value, AgentEvent) else value).decode()

    def _log_once(self, kind: str) -> None:
        if kind not in self._unreadable:
            self._unreadable.add(kind)
            log.warning("events of type %r have other fields than this version knows", kind)


def _object_of(event: AgentEvent) -> Any:
    """An event as on the wire; what is ``None`` is left out of one that was made of its fields."""
    if event.data or not event.type:  # what names no type has been read, even if it is empty
        return event.data
    fields = attrs.asdict(event, recurse=False)
    del fields["data"]
    return {name.rstrip("_"): value for name, value in fields.items() if value is not None}


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _texts(value: Any) -> tuple[str, ...]:
    if type(value) is not list:
        raise ValueError
    return tuple(map(_text, value))


def _whole_number(value: Any) -> int:
    if type(value) is not int:
        raise ValueError
    return value


def _number(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise ValueError
    return value


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError
    return value


_READERS: dict[Any, Callable[[Any], Any]] = {
    str: _text,
    str | None: _optional_text,
    tuple[str, ...]: _texts,
    int: _whole_number,
    float: _number,
    bool: _truth,
}
_Fields = tuple[tuple[str, str, Callable[[Any], Any]], ...]


def _fields_of(event_class: type[AgentEvent]) -> _Fields:
    """For each field its name, its name on the wire, and what reads it."""
    return tuple(
        (field.name, field.name.rstrip("_"), _READERS[field.type])
        for field in attrs.fields(event_class)
        if field.name not in ("type", "data")
    )


# Worked out once: nothing looks at classes when an event comes.
_UNKNOWN: tuple[type[AgentEvent], _Fields] = (UnknownEvent, ())
_FIELDS: dict[str, tuple[type[AgentEvent], _Fields]] = {
    attrs.fields(event_class).type.default: (event_class, _fields_of(event_class))
    for event_class in (
        ConnectedEvent,
        HeartbeatEvent,
        KbChangeEvent,
        HitlRequestEvent,
        CycleCompleteEvent,
        AttentionShiftEvent,
        GoalCompletedEvent,
        ImpasseDetectedEvent,
        ErrorEvent,
    )
}
