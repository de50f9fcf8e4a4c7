"""What comes over the wire, as values.

The classes made once per event on a hot path have slots and are not frozen: a frozen one costs
1.7 times as much to make. Treat them as if they were.
"""

import json
from enum import Enum
from typing import Any

import attrs

from reasoning_sdk.encoding import encode_json, parse_json
from reasoning_sdk.errors import InvalidEventError, ProtocolError, ReasoningError

__all__ = [
    "Connected",
    "Disconnected",
    "LoopEvent",
    "LoopEventKind",
    "Message",
    "ResponseEvent",
    "ServerSentEvent",
]


@attrs.define(kw_only=True)
class ServerSentEvent:
    """One event of a ``text/event-stream``.

    It has the attributes of sseclient-py's ``Event`` and can be used where one is expected.

    Args:
        event: The type, ``"message"`` when the stream gives none.
        data: The data lines, joined by line feeds.
        id: The last event id in force when the event was dispatched, ``""`` when there is none.
        retry: The reconnection time that this event's block sets, in milliseconds, else ``None``.

    Source: WHATWG HTML, section 9.2 "Server-sent events".
    """

    event: str = "message"
    data: str = ""
    id: str = ""
    retry: int | None = None

    def json(self) -> Any:
        """The data, read as JSON. Safe to call from any thread.

        Raises:
            ProtocolError: The data is not JSON.
        """
        try:
            return parse_json(self.data)
        except ValueError as exc:
            raise ProtocolError(f"data of event {self.event!r} is not JSON: {exc}") from exc


@attrs.define(kw_only=True)
class ResponseEvent:
    """One event of a streamed response.

    Args:
        type: The type, as in ``"response.output_text.delta"``; also types unknown to this version.
        data: The event's whole JSON object.
        sequence_number: Its place in the response, from 0; ``None`` where the server counts not.

    Source: the public Responses API, "Streaming events".
    """

    type: str
    data: dict[str, Any]
    sequence_number: int | None = None


@attrs.define(kw_only=True)
class Message:
    """A message of a WebSocket.

    Args:
        data: What the connection's codec has made of it: mostly a JSON value.
        received_at: When it came, in seconds since the epoch.
    """

    data: Any
    received_at: float


@attrs.frozen(kw_only=True)
class Connected:
    """A WebSocket has a connection, from here on.

    Args:
        attempt: How many attempts that took after the last one was lost; 0 for the very first.
    """

    attempt: int


@attrs.frozen(kw_only=True)
class Disconnected:
    """A WebSocket has lost its connection: messages may have been missed from here on.

    Args:
        error: What it was lost with.
        close_code: The code of the server's close frame, or of ours; ``None`` without one.
    """

    error: ReasoningError
    close_code: int | None = None


class LoopEventKind(str, Enum):
    """What an event of a response loop says; its text is the name on the wire.

    Attributes:
        is_terminal: Whether no event follows it.
        is_delta: Whether a later event of the same item says it again, with all that belongs to it.

    Source: the public Responses API, "Streaming events".
    """

    is_terminal: bool
    is_delta: bool

    CREATED = "response.created"
    IN_PROGRESS = "response.in_progress"
    OUTPUT_ITEM_ADDED = "response.output_item.added"
    CONTENT_PART_ADDED = "response.content_part.added"
    OUTPUT_TEXT_DELTA = "response.output_text.delta"
    OUTPUT_TEXT_DONE = "response.output_text.done"
    REFUSAL_DELTA = "response.refusal.delta"
    REFUSAL_DONE = "response.refusal.done"
    REASONING_DELTA = "response.reasoning.delta"
    REASONING_DONE = "response.reasoning.done"
    CONTENT_PART_DONE = "response.content_part.done"
    FUNCTION_CALL_ARGUMENTS_DELTA = "response.function_call_arguments.delta"
    FUNCTION_CALL_ARGUMENTS_DONE = "response.function_call_arguments.done"
    OUTPUT_ITEM_DONE = "response.output_item.done"
    COMPLETED = "response.completed"
    INCOMPLETE = "response.incomplete"
    FAILED = "response.failed"

    def __str__(self) -> str:
        return str(self.value)


for _kind in LoopEventKind:  # plain attributes: they are asked for with every event
    _kind.is_terminal = _kind.value.rpartition(".")[2] in {"completed", "incomplete", "failed"}
    _kind.is_delta = _kind.value.endswith(".delta")


@attrs.define
class LoopEvent:
    """One event of a response loop. Treat it as if it were frozen: the store keeps the same one.

    Args:
        sequence: Its number, higher than those of all events of the response before it.
        kind: What it says.
        data: The JSON object that a client of the Responses API gets: ``type``,
            ``sequence_number``, and what the kind has beside them.
    """

    sequence: int
    kind: LoopEventKind
    data: dict[str, Any]

    def to_sse(self) -> bytes:
        """The event as an event of a ``text/event-stream``. Safe to call from any thread.

        Raises:
            InvalidEventError: The data cannot be JSON.
        """
        try:
            data = encode_json(self.data)
        except InvalidEventError as exc:
            try:  # half a character, which a model may have cut, can be written so
                data = json.dumps(self.data, separators=(",", ":"), allow_nan=False).encode()
            except (TypeError, ValueError):
                raise exc from None
        head = f"event: {self.kind.value}\nid: {self.sequence}\ndata: "
        return head.encode() + data + b"\n\n"
