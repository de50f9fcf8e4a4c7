"""Events of a streamed response to its items, text, usage and final form."""

import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import attrs

from reasoning_sdk._core.display import response_html
from reasoning_sdk.errors import ReasoningError, ResponseFailedError, ResponseIncompleteError
from reasoning_sdk.events import ResponseEvent

__all__ = ["Response", "ResponseState"]

Item = dict[str, Any]
_E = TypeVar("_E", bound=ReasoningError)

_BAD_ENDS = ("incomplete", "failed", "cancelled")
_TRANSIENT_CODES = frozenset(
    {
        "internal_error",
        "overloaded",
        "overloaded_error",
        "rate_limit_exceeded",
        "server_error",
        "server_is_overloaded",
        "service_unavailable",
        "slow_down",
        "timeout",
    }
)
_TRY_AGAIN_IN = re.compile(
    r"try again in\s+(?:(?P<h>\d+)\s*h(?:ours?)?\s*)?(?:(?P<m>\d+)\s*m(?:in(?:utes?)?)?(?!s)\s*)?"
    r"(?:(?P<s>\d+(?:\.\d+)?)\s*s(?:ec(?:onds?)?)?|(?P<ms>\d+(?:\.\d+)?)\s*ms)?",
    re.IGNORECASE,
)


@attrs.frozen(repr=False, eq=False)
class Response:
    """A response of the Responses API. Safe to use from any thread.

    What a server leaves out, or sends as null, is empty or ``None`` here.

    Args:
        data: The whole JSON object, as the server sent it; only an output that it left out of the
            end of a stream is put in from the stream's items.
    """

    data: dict[str, Any]

    def __repr__(self) -> str:
        text = self.output_text
        shown = f" text={text[:40] + '…' if len(text) > 40 else text!r}" if text else ""
        return f"<Response {self.id} {self.status} items={len(self.output)}{shown}>"

    @property
    def id(self) -> str:
        """The id, as in ``"resp_…"``."""
        return str(self.data.get("id") or "")

    @property
    def status(self) -> str:
        """``completed``, ``failed``, ``in_progress``, ``cancelled``, ``queued``, ``incomplete``."""
        return str(self.data.get("status") or "")

    @property
    def model(self) -> str:
        """The model that answered."""
        return str(self.data.get("model") or "")

    @property
    def output(self) -> list[Item]:
        """The output items, JSON objects with a ``type``."""
        return _objects(self.data.get("output"))

    @property
    def output_text(self) -> str:
        """The text of all messages, joined."""
        return "".join(map(_text_of, self.output))

    @property
    def usage(self) -> dict[str, Any] | None:
        """Tokens used: ``input_tokens``, ``output_tokens``, ``total_tokens`` and details."""
        return self.data.get("usage")

    @property
    def error(self) -> dict[str, Any] | None:
        """The service's error, ``{"code": str, "message": str}``, if it failed."""
        return self.data.get("error")

    @property
    def incomplete_details(self) -> dict[str, Any] | None:
        """Why it is incomplete, ``{"reason": str}``, if it is."""
        return self.data.get("incomplete_details")

    def _repr_html_(self) -> str:
        error = self.error if isinstance(self.error, dict) else {}
        details = self.incomplete_details if isinstance(self.incomplete_details, dict) else {}
        return response_html(
            status=self.status or "response",
            response_id=self.id,
            model=self.model,
            items=self.output,
            usage=self.usage,
            problem=str(error.get("message") or details.get("reason") or ""),
            raw=self.data,
        )


class ResponseState:
    """What has arrived of one response. One thread at a time.

    Servers differ in what they leave out: sequence numbers, indexes, item ids, deltas, the done
    events, the output in the last event. Whatever of it comes is used once.

    Attributes:
        response_id: The response's id, once it is known.
        sequence_number: That of the latest event that had one.
        items: The finished output items, in the order in which they came.
        usage: The tokens used, once they are known.
        terminal: Whether the response has ended, well or not.
        error: Why it did not end well.

    Args:
        response_id: The response's id, where it is known before anything arrives.
        sequence_number: That of the event after which this begins.
    """

    def __init__(self, response_id: str | None = None, sequence_number: int | None = None) -> None:
        self.response_id = response_id
        self.sequence_number = sequence_number
        self.items: list[Item] = []
        self.usage: dict[str, Any] | None = None
        self.terminal = False
        self.error: ReasoningError | None = None
        self._latest: dict[str, Any] = {}
        self._texts: dict[Hashable, dict[Any, list[str]]] = {}
        self._open_key: tuple[Any, Any, Any] | None = None
        self._open_parts: list[str] = []

    @property
    def text(self) -> str:
        """The output text so far. Safe to read while another thread applies events."""
        return "".join(_joined(parts) for parts in list(self._texts.values()))

    @property
    def open_text(self) -> str:
        """The text that is in no finished item. Safe to read while another applies events."""
        finished = {item.get("id") for item in list(self.items)}
        if self.terminal or None in finished:
            return ""
        texts = list(self._texts.items())
        return "".join(_joined(parts) for key, parts in texts if key not in finished)

    @property
    def model(self) -> str | None:
        """The model, once it is known."""
        model = self._latest.get("model")
        return model if isinstance(model, str) else None

    @property
    def status(self) -> str:
        """The response's status so far."""
        return str(self._latest.get("status") or "in_progress")

    @property
    def response(self) -> Response:
        """The response in its latest form."""
        data = dict(self._latest)
        if not data.get("id") and self.response_id:
            data["id"] = self.response_id
        if not data.get("output") and self.items:
            data["output"] = list(self.items)
        return Response(data)

    def apply(self, event: ResponseEvent) -> None:
        """Take in the next event."""
        if event.sequence_number is not None:
            self.sequence_number = event.sequence_number
        handler = _HANDLERS.get(event.type)
        if handler is not None:
            handler(self, event.data)

    def with_what_arrived(self, error: _E) -> _E:
        """Put what has arrived on an error."""
        error.response_id = self.response_id
        error.items = list(self.items)
        error.text = self.text
        return error

    def _take_text_delta(self, data: Item) -> None:
        delta = data.get("delta")
        if not isinstance(delta, str):
            return
        key = (data.get("item_id"), data.get("output_index"), data.get("content_index"))
        if key != self._open_key:
            self._open_key = key
            self._open_parts = self._text_parts(*key)
        self._open_parts.append(delta)

    def _take_text_done(self, data: Item) -> None:
        text = data.get("text")
        if isinstance(text, str):
            index = data.get("content_index")
            self._text_parts(data.get("item_id"), data.get("output_index"), index)[:] = [text]

    def _text_parts(self, item_id: Any, output_index: Any, content_index: Any) -> list[str]:
        key = output_index if item_id is None else item_id
        return self._texts.setdefault(key, {}).setdefault(content_index, [])

    def _take_item(self, data: Item) -> None:
        item = data.get("item")
        if isinstance(item, dict):
            self.items.append(item)
            self._take_text_of(item, data.get("output_index"))

    def _take_text_of(self, item: Item, output_index: Any) -> None:
        """Use an item's text, if neither deltas nor a done event have brought it."""
        text = _text_of(item)
        if text and not self._texts.keys() & {item.get("id"), output_index}:
            self._text_parts(item.get("id"), output_index, None).append(text)

    def _take_response(self, data: Item) -> None:
        response = data.get("response")
        if isinstance(response, dict):
            self._latest = response
            if isinstance(response.get("id"), str):
                self.response_id = response["id"]
            if isinstance(response.get("usage"), dict):
                self.usage = response["usage"]

    def _take_end(self, data: Item) -> None:
        """The last event. Some servers say ``response.completed`` whatever the end was."""
        kind = str(data.get("type", "")).removeprefix("response.").replace("canceled", "cancelled")
        self._latest = {"id": self.response_id}
        self._take_response(data)
        status = self._latest.get("status")
        if kind != "completed" or status not in _BAD_ENDS:
            status = kind
        self._latest = {**self._latest, "status": status}
        self._take_output_left_out()
        self.terminal = True
        if status == "incomplete":
            self.error = self._incomplete()
        elif status != "completed":
            self.error = self._failed(self._latest.get("error"), status)

    def _take_output_left_out(self) -> None:
        """Use the items of the whole output that no event of their own has brought."""
        output = _objects(self._latest.get("output"))
        seen = {item.get("id") for item in self.items}
        if None in seen:  # nothing tells whether one is another
            return
        for index, item in enumerate(output):
            if item.get("id") not in seen:
                self.items.append(item)
                self._take_text_of(item, index)

    def _take_error(self, data: Item) -> None:
        nested = data.get("error")
        self.terminal = True
        self.error = self._failed(nested if nested is not None else data, "error")

    def _incomplete(self) -> ResponseIncompleteError:
        details = self._latest.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        said = f": {reason}" if reason else ""
        return ResponseIncompleteError(f"response is incomplete{said}", reason=reason)

    def _failed(self, error: Any, status: str) -> ResponseFailedError:
        details: Mapping[str, Any] = error if isinstance(error, dict) else {"message": error}
        code = details.get("code") or details.get("type")
        code = None if code in (None, "error") else str(code)
        if code is None and status == "cancelled":
            code = status
        message = str(details.get("message") or "")
        verb = "was cancelled" if status == "cancelled" else "failed"
        return ResponseFailedError(
            f"response {verb}" + "".join(f": {part}" for part in (code, message) if part),
            code=code,
            server_message=message,
            retry_after=(delay := _delay_in(message)),
            retryable=code in _TRANSIENT_CODES or delay is not None,
        )


_HANDLERS: dict[str, Callable[[ResponseState, Item], None]] = {
    "response.output_text.delta": ResponseState._take_text_delta,
    "response.output_text.done": ResponseState._take_text_done,
    "response.output_item.done": ResponseState._take_item,
    "response.created": ResponseState._take_response,
    "response.queued": ResponseState._take_response,
    "response.in_progress": ResponseState._take_response,
    "response.completed": ResponseState._take_end,
    "response.incomplete": ResponseState._take_end,
    "response.failed": ResponseState._take_end,
    "response.cancelled": ResponseState._take_end,
    "response.canceled": ResponseState._take_end,
    "error": ResponseState._take_error,
}


def _objects(value: Any) -> list[Item]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _joined(parts: Mapping[Any, list[str]]) -> str:
    return "".join(["".join(pieces) for pieces in list(parts.values())])


def _text_of(item: Item) -> str:
    parts = _objects(item.get("content")) if item.get("type") == "message" else []
    return "".join(str(p.get("text") or "") for p in parts if p.get("type") == "output_text")


def _delay_in(message: str) -> float | None:
    """The seconds in a message's "try again in 1.5s", if it has one."""
    found = _TRY_AGAIN_IN.search(message)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
