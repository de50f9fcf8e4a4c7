"""Events of a streamed response to its items, text, usage and final form."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from reasoning_sdk._core.display import response_html
from reasoning_sdk.errors import ReasoningError, ResponseFailedError, ResponseIncompleteError
from reasoning_sdk.events import ResponseEvent

__all__ = ["Response", "ResponseState"]

Item = dict[str, Any]
_E = TypeVar("_E", bound=ReasoningError)

_ENDS = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
    "response.canceled": "cancelled",
}
_BAD_ENDS = ("incomplete", "failed", "cancelled")
_TRANSIENT_CODES = frozenset(
    {
        "429",
        "500",
        "502",
        "503",
        "504",
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
_NO_REASON = "the service does not say why"
_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)\s*"
_TRY_AGAIN_IN = re.compile(
    rf"try again in\s+(?:{_NUMBER}h(?:(?:ou)?rs?)?(?![a-z])\s*)?"
    rf"(?:{_NUMBER}m(?:in(?:ute)?s?)?(?![a-z])\s*)?"
    rf"(?:{_NUMBER}s(?:ec(?:ond)?s?)?(?![a-z])"
    rf"|{_NUMBER}(?:ms(?:ecs?)?|milliseconds?)(?![a-z]))?",
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
        """The tokens used, ``{"input_tokens", "output_tokens", "total_tokens", …}``."""
        return _object(self.data.get("usage"))

    @property
    def error(self) -> dict[str, Any] | None:
        """The service's error, ``{"code": str, "message": str}``, if it failed."""
        return _object(self.data.get("error"))

    @property
    def incomplete_details(self) -> dict[str, Any] | None:
        """Why it is incomplete, ``{"reason": str}``, if it is."""
        return _object(self.data.get("incomplete_details"))

    def _repr_html_(self) -> str:
        problem = (self.error or {}).get("message") or (self.incomplete_details or {}).get("reason")
        return response_html(
            status=self.status or "response",
            response_id=self.id,
            model=self.model,
            items=self.output,
            usage=self.usage,
            problem=str(problem or ""),
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
        new_text: The output text that the latest event brought.
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
        self.new_text = ""
        self.error: ReasoningError | None = None
        self._from_middle = self._in_middle = sequence_number is not None  # of a message, perhaps
        self._latest: dict[str, Any] = {}
        self._texts: list[_MessageText] = []
        self._text_by_key: dict[str | int | None, _MessageText] = {}
        self._open_key: tuple[Any, Any, Any] | None = None
        self._open_part: list[str] = []

    @property
    def text(self) -> str:
        """The output text so far. Safe to read while another thread applies events."""
        return "".join([str(text) for text in self._texts])

    @property
    def open_text(self) -> str:
        """The text that is in no finished item. Safe to read while another applies events."""
        if self.terminal:
            return ""
        return "".join([str(text) for text in self._texts if not text.finished])

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
        self.new_text = ""
        handler = _HANDLERS.get(event.type)
        if handler is not None:
            handler(self, event.data)
        elif event.type in _ENDS:
            self._take_end(_ENDS[event.type], event.data)

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
            self._open_part = self._part(*key)
        self._open_part.append(delta)
        self.new_text = delta

    def _take_text_done(self, data: Item) -> None:
        text = data.get("text")
        if isinstance(text, str):
            index = data.get("content_index")
            part = self._part(data.get("item_id"), data.get("output_index"), index)
            before = "".join(part)
            if text.startswith(before) and not self._in_middle:
                self.new_text = text.removeprefix(before)
            part[:] = [text]

    def _part(self, item_id: Any, output_index: Any, content_index: Any) -> list[str]:
        text = self._text_under_way(item_id, output_index) or _MessageText()
        if not text.parts:
            self._texts.append(text)
            item_id, output_index = _id(item_id), _index(output_index)
            if item_id is not None:
                self._text_by_key[item_id] = text
            if item_id is None or output_index is not None:
                self._text_by_key[output_index] = text
        return text.parts.setdefault(_index(content_index), [])

    def _text_under_way(self, item_id: Any, output_index: Any) -> "_MessageText | None":
        """The text of the message with this id, or else in this place."""
        for key in (_id(item_id), _index(output_index)):
            text = self._text_by_key.get(key)
            if text is not None and not text.finished:
                return text
        return None

    def _begin_item(self, data: Item) -> None:
        """What comes in this place from now on is no text of the item that was there before."""
        if (_object(data.get("item")) or {}).get("type") == "message":
            self._text_by_key.pop(_index(data.get("output_index")), None)
            self._open_key = None
            self._in_middle = False

    def _take_item(self, data: Item) -> None:
        item = data.get("item")
        if isinstance(item, dict):
            self._finish_item(item, data.get("output_index"))

    def _finish_item(self, item: Item, output_index: Any) -> None:
        """Take a finished item, and its text, if neither deltas nor a done event brought it."""
        self.items.append(item)
        if item.get("type") != "message":
            return
        text = self._text_under_way(item.get("id"), output_index)
        if text is None:
            text = _MessageText({None: [_text_of(item)]})
            self._texts.append(text)
            if not self._in_middle:
                self.new_text += str(text)
        text.finished = True
        self._open_key = None

    def _take_response(self, data: Item) -> None:
        response = data.get("response")
        if isinstance(response, dict):
            self._latest = response
            if isinstance(response.get("id"), str):
                self.response_id = response["id"]
            if isinstance(response.get("usage"), dict):
                self.usage = response["usage"]

    def _take_end(self, status: str, data: Item) -> None:
        """The last event. Some servers say ``response.completed`` whatever the end was."""
        self._take_response(data)
        said = _ENDS.get(f"response.{self._latest.get('status')}")
        if status == "completed" and said in _BAD_ENDS:
            status = said
        self._latest = {**self._latest, "status": status}
        self._take_output_left_out()
        self.terminal = True
        if status == "incomplete":
            self.error = self._incomplete()
        elif status != "completed":
            self.error = self._failed(self._latest.get("error") or data.get("error"), status)

    def _take_output_left_out(self) -> None:
        """Use the items of the whole output that no event of their own has brought."""
        output = _objects(self._latest.get("output"))
        seen = [item.get("id") for item in self.items]
        if len(output) <= len(seen) or None in seen:  # all, or nothing tells which
            return
        self._in_middle = self._from_middle  # they may have finished before this began
        for index, item in enumerate(output):
            if item.get("id") not in seen:
                self._finish_item(item, index)

    def _take_error(self, data: Item) -> None:
        nested = data.get("error")
        self.terminal = True
        self.error = self._failed(nested if nested is not None else data, "error")

    def _incomplete(self) -> ResponseIncompleteError:
        details = self._latest.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        if not reason:
            return ResponseIncompleteError("response is incomplete")
        return ResponseIncompleteError(f"response is incomplete: {reason}", reason=str(reason))

    def _failed(self, error: Any, status: str) -> ResponseFailedError:
        details: Mapping[str, Any] = error if isinstance(error, dict) else {"message": error}
        code = details.get("code") or details.get("type")
        code = None if code in (None, "error") else str(code)
        if code is None and status == "cancelled":
            code = status
        message = str(details.get("message") or ("" if code else _NO_REASON))
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
    "response.output_item.added": ResponseState._begin_item,
    "response.output_item.done": ResponseState._take_item,
    "response.created": ResponseState._take_response,
    "response.queued": ResponseState._take_response,
    "response.in_progress": ResponseState._take_response,
    "error": ResponseState._take_error,
}


@attrs.define(eq=False)
class _MessageText:
    """The text of one message, in pieces: those of each part, by the part's index."""

    parts: dict[int | None, list[str]] = attrs.field(factory=dict)
    finished: bool = False

    def __str__(self) -> str:
        return "".join(["".join(pieces) for pieces in list(self.parts.values())])


def _id(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _index(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _object(value: Any) -> Item | None:
    return value if isinstance(value, dict) else None


def _objects(value: Any) -> list[Item]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


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
