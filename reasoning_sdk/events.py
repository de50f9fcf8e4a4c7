"""What comes over the wire, as values.

The classes made once per event on a hot path have slots and are not frozen: a frozen one costs
1.7 times as much to make. Treat them as if they were.
"""

from typing import Any

import attrs

from reasoning_sdk.encoding import parse_json
from reasoning_sdk.errors import ProtocolError, ReasoningError

__all__ = ["Connected", "Disconnected", "Message", "ResponseEvent", "ServerSentEvent"]


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
