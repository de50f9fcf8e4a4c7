"""A streamed model call, put together: the body that the unstreamed call would have given.

While it comes a listener is told of it, by the ids that the items of the body's turn have in the
end (:func:`reasoning_sdk._core.turn.turn_of`). Servers differ in what they leave out, repeat and
call by other names; whatever comes of it is used once.
"""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from itertools import chain, groupby
from typing import Any, Protocol

import attrs

from reasoning_sdk._core.responses import ResponseState
from reasoning_sdk._core.turn import (
    arguments_text,
    call_item,
    chat_text,
    item_id,
    message_item,
    own_call_id,
    reasoning_item,
)
from reasoning_sdk.encoding import parse_json, whole_characters
from reasoning_sdk.errors import ReasoningError, ResponseIncompleteError
from reasoning_sdk.events import ResponseEvent

__all__ = ["ChatBody", "ResponsesBody", "TurnListener"]

Item = dict[str, Any]

_OF_CHOICE = frozenset({"index", "delta", "message"})
_OF_CALL = frozenset({"index", "id", "function"})
_OF_FUNCTION = frozenset({"name", "arguments"})

_ADDED, _DONE = "response.output_item.added", "response.output_item.done"
_DELTAS = {
    "response.output_text.delta": ("message", "text"),
    "response.refusal.delta": ("message", "refusal"),
    "response.reasoning_text.delta": ("reasoning", "reasoning"),
    "response.reasoning.delta": ("reasoning", "reasoning"),
    "response.function_call_arguments.delta": ("function_call", "arguments"),
}


class TurnListener(Protocol):
    """Is told of what a model says, as it says it. One thread at a time."""

    def item(self, item: Item) -> None:
        """An output item begins: one of the Responses API, with nothing in it."""

    def text(self, item_id: str, content_index: int, delta: str) -> None:
        """More text of a message."""

    def refusal(self, item_id: str, content_index: int, delta: str) -> None:
        """More of a refusal."""

    def reasoning(self, item_id: str, content_index: int, delta: str) -> None:
        """More of what the model thinks."""

    def arguments(self, item_id: str, delta: str) -> None:
        """More of the arguments of a call."""


class _Nobody:
    """Does not listen."""

    def _ignore(self, *args: Any, **named: Any) -> None:
        pass

    item = text = refusal = reasoning = arguments = _ignore


class _WholeCharacters:
    """Tells a listener of whole characters: half of one waits for what follows it."""

    def __init__(self, listener: TurnListener) -> None:
        self._listener = listener
        self._halves: dict[tuple[Any, ...], str] = {}

    def item(self, item: Item) -> None:
        self._listener.item(whole_characters(item))

    def text(self, item_id: str, content_index: int, delta: str) -> None:
        self._tell(self._listener.text, delta, item_id, content_index)

    def refusal(self, item_id: str, content_index: int, delta: str) -> None:
        self._tell(self._listener.refusal, delta, item_id, content_index)

    def reasoning(self, item_id: str, content_index: int, delta: str) -> None:
        self._tell(self._listener.reasoning, delta, item_id, content_index)

    def arguments(self, item_id: str, delta: str) -> None:
        self._tell(self._listener.arguments, delta, item_id)

    def _tell(self, tell: Callable[..., None], delta: str, *place: Any) -> None:
        if not self._halves and delta.isascii():
            tell(*place, delta)
            return
        text = self._halves.pop(place, "") + delta
        if "\ud800" <= text[-1] <= "\udbff":
            self._halves[place] = text[-1]
            text = text[:-1]
        if text:
            tell(*place, whole_characters(text))


def _heard_by(listener: TurnListener | None) -> TurnListener:
    return _Nobody() if listener is None else _WholeCharacters(listener)


class ChatBody:
    """Puts a chat completion together of its chunks. One thread at a time.

    The listener is told of the first choice only, and of a call as soon as its name is known.

    Args:
        step_id: The step that made the call.
        listener: Is told of what comes.

    Attributes:
        error: What the server says that it failed with, ``{"code", "message", "type"}``.

    Source: the public Chat Completions API, "Streaming".
    """

    def __init__(self, step_id: str, listener: TurnListener | None = None) -> None:
        self.error: Item | None = None
        self._step_id = step_id
        self._halved = False
        self._fields: Item = {}
        self._choices = {0: _Choice(step_id, _heard_by(listener))}

    @property
    def finished(self) -> bool:
        """Whether the model has said why it stopped."""
        return bool(self._choices[0].fields.get("finish_reason"))

    @property
    def body(self) -> Item:
        """The whole chat completion, as far as it has come."""
        choices = [choice.body(index) for index, choice in sorted(self._choices.items())]
        body = {**self._fields, "object": "chat.completion", "choices": choices}
        body.pop("obfuscation", None)  # is of a chunk
        if not body.get("usage"):
            body["usage"] = _usage_elsewhere(body, choices[0])
        return whole_characters(body) if self._halved else body

    def feed(self, data: Any, kind: str = "", *, halved: bool = False) -> None:
        """Take the next chunk.

        Args:
            data: The JSON of an event.
            kind: The event's type, as the event stream has it.
            halved: Whether halves of characters may be in it.
        """
        if not isinstance(data, dict):
            return
        self._halved = self._halved or halved
        if data.get("error") or kind == "error" or data.get("object") == "error":
            self.error = self.error or _error_of(whole_characters(data.get("error") or data))
        fields = self._fields
        for key, value in data.items():
            if value:
                fields[key] = value
        choices = data.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._choice(choice.get("index")).take(choice)

    def end(self) -> None:
        """Take the end of the stream: a choice that has come, and not said why it stopped, has."""
        for choice in self._choices.values():
            choice.end()

    def _choice(self, index: Any) -> "_Choice":
        choice = self._choices.get(index if index.__class__ is int else 0)
        if choice is None:
            choice = self._choices[index] = _Choice(self._step_id, _Nobody())
        return choice


class _Choice:
    """One choice of a chat completion."""

    def __init__(self, step_id: str, listener: TurnListener) -> None:
        self.fields: Item = {}
        self._step_id = step_id
        self._listener = listener
        self._has_come = False
        self._message: Item = {}
        self._content: list[str | Item] = []
        self._refusal: list[str] = []
        self._thought: list[str] = []
        self._thought_key = ""
        self._calls: list[_Call] = []
        self._calls_left: dict[int, _Call] = {}  # the listener does not know of, by place
        self._call_by_key: dict[int | str, _Call] = {}  # by index and by id
        self._message_id = ""  # once the listener knows of it
        self._places: dict[str, int] = {}  # those of the message's parts
        self._takers: dict[str, Callable[[Any], None]] = {
            "content": self._take_content,
            "refusal": self._take_refusal,
            "reasoning_content": partial(self._take_thought, "reasoning_content"),
            "reasoning": partial(self._take_thought, "reasoning"),
            "tool_calls": self._take_calls,
        }

    def body(self, index: int) -> Item:
        """The whole choice."""
        message: Item = {"role": "assistant", **self._message, "content": self._whole_content()}
        if self._thought:
            message[self._thought_key] = "".join(self._thought)
        if self._refusal:
            message["refusal"] = "".join(self._refusal)
        if self._calls:
            message["tool_calls"] = [call.body() for call in self._calls]
        beside: Item = {"logprobs": None, "finish_reason": None, **self.fields}
        return {"index": index, "message": message, **beside}

    def take(self, choice: Item) -> None:
        """Take what a chunk says of it."""
        self._has_come = True
        delta = choice.get("delta")
        if delta is None:  # else a message beside it says all again
            delta = choice.get("message")
        if isinstance(delta, dict):
            for key, value in delta.items():
                take = self._takers.get(key)
                if take is None:
                    _merge(self._message, {key: value})
                elif value:
                    take(value)
        _merge(self.fields, choice, _OF_CHOICE)
        if choice.get("finish_reason"):
            self._begin_calls_left()

    def end(self) -> None:
        """Nothing comes any more."""
        if self._has_come and not self.fields.get("finish_reason"):
            self.take({"finish_reason": "tool_calls" if self._calls else "stop"})

    def _take_content(self, content: Any) -> None:
        if isinstance(content, str):
            self._content.append(content)
        elif isinstance(content, list):
            self._content += [part for part in content if isinstance(part, dict)]
            content = chat_text(content)
        if content and isinstance(content, str):
            self._listener.text(*self._part("text"), content)

    def _take_refusal(self, refusal: Any) -> None:
        if isinstance(refusal, str):
            self._refusal.append(refusal)
            self._listener.refusal(*self._part("refusal"), refusal)

    def _part(self, kind: str) -> tuple[str, int]:
        """The message, begun if it has not, and the place of a part in it."""
        if not self._message_id:
            self._message_id = item_id("message", self._step_id)
            self._listener.item(_begun_message(self._message_id))
        return self._message_id, self._places.setdefault(kind, len(self._places))

    def _take_thought(self, key: str, thought: Any) -> None:
        """Some servers say it twice, under both names."""
        if not isinstance(thought, str) or (self._thought_key or key) != key:
            return
        id = item_id("reasoning", self._step_id)
        if not self._thought:
            self._thought_key = key
            self._listener.item(reasoning_item(id, "", status="in_progress"))
        self._thought.append(thought)
        self._listener.reasoning(id, 0, thought)

    def _take_calls(self, pieces: Any) -> None:
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict):
                function = piece.get("function")
                self._take_call(piece, function if isinstance(function, dict) else {})

    def _take_call(self, piece: Item, function: Item) -> None:
        call = self._call_of(piece, function)
        arguments = call.take(piece, function)
        if call.item_id:
            if arguments:
                self._listener.arguments(call.item_id, arguments)
        elif call.name and (call.id or arguments is not None):
            self._begin_call(call)

    def _call_of(self, piece: Item, function: Item) -> "_Call":
        """The call that a piece belongs to, begun if there is none."""
        index, id, name = piece.get("index"), piece.get("id"), function.get("name")
        key = index if index.__class__ is int else _id(id)
        call = self._call_by_key.get(key) if key is not None else self._last_call()
        if call is None or (name and call.is_another(index, _id(id), function)):
            call = self._new_call(key)
        if id and not call.id and not call.item_id:
            self._name(call, id)
        return call

    def _last_call(self) -> "_Call | None":
        return self._calls[-1] if self._calls else None

    def _new_call(self, key: int | str | None) -> "_Call":
        call = _Call(len(self._calls))
        self._calls.append(call)
        self._calls_left[call.place] = call
        if key.__class__ is int:
            self._call_by_key[key] = call
        return call

    def _name(self, call: "_Call", id: Any) -> None:
        """Give a call its id, unless another call has it."""
        if isinstance(id, str) and id not in self._call_by_key:
            call.id = id
            self._call_by_key[id] = call

    def _begin_call(self, call: "_Call") -> None:
        del self._calls_left[call.place]
        call.item_id = item_id("function_call", self._step_id, call.place)
        call_id = own_call_id(call.id, set(), self._step_id, call.place)
        self._listener.item(call_item(call.item_id, call_id, call.name, status="in_progress"))
        if held := "".join(call.arguments):
            self._listener.arguments(call.item_id, held)

    def _begin_calls_left(self) -> None:
        """Those that have neither an id nor arguments, and will have none."""
        for call in [call for call in self._calls_left.values() if call.name]:
            self._begin_call(call)

    def _whole_content(self) -> Any:
        """A text, or parts where the server has sent any; none beside calls or a refusal."""
        content = self._content
        if not content:
            return None if self._calls or self._refusal else ""
        if all(isinstance(piece, str) for piece in content):
            return "".join(map(str, content))
        return _joined(
            {"type": "text", "text": piece} if isinstance(piece, str) else piece
            for piece in content
        )


@attrs.define(eq=False)
class _Call:
    """A tool call of a chat completion, in pieces."""

    place: int
    id: str = ""
    name: str = ""
    item_id: str = ""  # once the listener knows of it
    arguments: list[str] = attrs.field(factory=list)
    fields: Item = attrs.field(factory=dict)
    function: Item = attrs.field(factory=dict)

    def take(self, piece: Item, function: Item) -> str | None:
        """Take a piece; gives what it brings of the arguments, ``None`` if it has none."""
        if not self.name:
            self.name = str(function.get("name") or "")
        _merge(self.fields, piece, _OF_CALL)
        _merge(self.function, function, _OF_FUNCTION)
        arguments = function.get("arguments")
        if arguments is None:
            return None
        text = arguments if isinstance(arguments, str) else arguments_text(arguments)
        self.arguments.append(text)
        return text

    def is_another(self, index: Any, id: str | None, function: Item) -> bool:
        """Whether a piece that names a function is the first one of another call.

        Some servers repeat the name, or give every call the index 0, or make up an id a piece.
        """
        if index.__class__ is not int:
            return id is None and bool(self.name)
        if id and self.id:
            return id != self.id
        more = arguments_text(function.get("arguments")).lstrip()
        return more.startswith("{") and _is_whole("".join(self.arguments))

    def body(self) -> Item:
        """The whole call."""
        kind = self.fields.get("type") or "function"
        body: Item = {**({"id": self.id} if self.id else {}), **self.fields, "type": kind}
        if self.name or self.arguments or kind == "function":
            function = {"name": self.name, "arguments": "".join(self.arguments)}
            body["function"] = {**function, **self.function}
        return body


class ResponsesBody:
    """Puts a response together of its events. One thread at a time.

    Args:
        step_id: The step that made the call.
        listener: Is told of what comes.

    Source: the public Responses API, "Streaming events".
    """

    def __init__(self, step_id: str, listener: TurnListener | None = None) -> None:
        self._step_id = step_id
        self._listener = _heard_by(listener)
        self._state = ResponseState()
        self._last: _Item | None = None
        self._item_by_key: dict[int | str | None, _Item] = {}  # by index and by the upstream's id
        self._places = set[int]()
        self._first_free = 0
        self._finished: list[int] = []  # the places of the finished items, as they came
        self._call_ids = set[str]()

    @property
    def finished(self) -> bool:
        """Whether the response has ended, well or not."""
        return self._state.terminal

    @property
    def error(self) -> ReasoningError | None:
        """What it failed with; to be incomplete is no failure."""
        error = self._state.error
        return None if isinstance(error, ResponseIncompleteError) else error

    @property
    def body(self) -> Item:
        """The whole response, as far as it has come."""
        data = self._state.response.data
        output = data.get("output") or []
        if output == self._state.items[: len(self._finished)]:  # as they finished
            placed = sorted(zip(self._finished, output, strict=True), key=lambda pair: pair[0])
            output = [item for _, item in placed]
        return {**data, "output": output}

    def feed(self, data: Any, kind: str = "", *, halved: bool = False) -> None:
        """Take the next event.

        Args:
            data: Its JSON.
            kind: Its type, as the event stream has it, where the data does not say.
            halved: Whether halves of characters may be in it.
        """
        if not isinstance(data, dict):
            return
        kind = _id(data.get("type")) or kind
        if kind in ("", "message") and data.get("error"):
            kind = "error"
        if kind in _DELTAS:  # says nothing that the finished item does not
            self._take_delta(data, *_DELTAS[kind])
            return
        data = whole_characters(data) if halved else data
        self._state.apply(ResponseEvent(type=kind, data=data))
        if kind in (_ADDED, _DONE) and isinstance(data.get("item"), dict):
            self._take_item(data["item"], data, done=kind == _DONE)

    def _take_delta(self, data: Item, kind: str, part: str) -> None:
        delta = data.get("delta")
        if not delta or not isinstance(delta, str):
            return
        id, index = _id(data.get("item_id")), _index(data.get("output_index"))
        item = self._find(kind, id, index) or self._begin(kind, id, index)
        if kind != "function_call":
            self._tell(item, {})
            tell = getattr(self._listener, part)
            tell(item.id, _index(data.get("content_index")) or 0, delta)
        elif item.told:
            self._listener.arguments(item.id, delta)
        else:
            item.held.append(delta)

    def _take_item(self, given: Item, data: Item, *, done: bool) -> None:
        kind = _id(given.get("type")) or ""
        id, index = _id(given.get("id")), _index(data.get("output_index"))
        item = self._find(kind, id, index, beginning=not done) or self._begin(kind, id, index)
        item.announced = True
        if kind != "function_call" or (given.get("name") and (given.get("call_id") or done)):
            self._tell(item, given)
        if done:
            item.open = False
            self._finished.append(item.place)

    def _find(
        self, kind: str, id: str | None, index: int | None, *, beginning: bool = False
    ) -> "_Item | None":
        """The open item of a kind with this id, or else in this place, or else the last one.

        Args:
            kind: The item's type.
            id: The upstream's id.
            index: Its place, as the upstream counts.
            beginning: Whether it is only now that the upstream says that it begins.
        """
        by_key, last = self._item_by_key, self._last
        if last is not None and not last.announced and (id or index is not None):
            last = None  # it has come by another id, or in another place
        for item in (by_key.get(id), by_key.get(index), last):
            if item is None or not item.open or item.kind != kind:
                continue
            if not (beginning and item.announced):
                return item
        return None

    def _begin(self, kind: str, id: str | None, index: int | None) -> "_Item":
        place = self._free_place() if index is None or index in self._places else index
        self._places.add(place)
        self._last = item = _Item(kind, place, item_id(kind, self._step_id, place))
        self._item_by_key.update((key, item) for key in (id, index) if key is not None)
        return item

    def _free_place(self) -> int:
        while self._first_free in self._places:
            self._first_free += 1
        return self._first_free

    def _tell(self, item: "_Item", given: Item) -> None:
        """Tell that an item begins, once."""
        if item.told:
            return
        item.told = True
        self._listener.item(self._begun(item, given))
        if item.held:
            self._listener.arguments(item.id, "".join(item.held))

    def _begun(self, item: "_Item", given: Item) -> Item:
        if item.kind == "message":
            return _begun_message(item.id)
        if item.kind == "reasoning":
            return reasoning_item(item.id, "", status="in_progress")
        if item.kind == "function_call":
            call_id = given.get("call_id")
            call_id = own_call_id(call_id, self._call_ids, self._step_id, item.place)
            return call_item(item.id, call_id, str(given["name"]), status="in_progress")
        return {"status": "in_progress", **given, "id": item.id}


@attrs.define(eq=False)
class _Item:
    """An output item of a response that is under way."""

    kind: str
    place: int
    id: str  # ours
    announced: bool = False  # by the upstream; else its first delta has begun it
    told: bool = False
    open: bool = True
    held: list[str] = attrs.field(factory=list)  # arguments, until the name is known


def _begun_message(id: str) -> Item:
    return {**message_item(id, "", status="in_progress"), "content": []}


def _merge(into: Item, more: Item, apart: Collection[str] = ()) -> None:
    """Take in further fields: lists grow, objects are merged, of anything else the last counts."""
    for key, value in more.items():
        if value is None or key in apart:
            continue
        if isinstance(value, (dict, list)):
            _merge_into(into, key, value)
        elif value or key not in into:
            into[key] = value


def _merge_into(into: Item, key: str, value: Item | list[Any]) -> None:
    if not isinstance(into.get(key), type(value)):
        into[key] = type(value)()
    if isinstance(value, dict):
        _merge(into[key], value)
    else:
        into[key] += value


def _joined(parts: Iterable[Item]) -> list[Item]:
    """Parts of content, the pieces of one text made one."""
    joined: list[Item] = []
    for kind, group in groupby(parts, key=lambda part: part.get("type")):
        pieces = list(group)
        if kind == "text":
            text = "".join(str(piece.get("text") or "") for piece in pieces)
            joined.append({**pieces[0], "text": text})
        elif kind == "thinking":
            thought = chain.from_iterable(piece.get("thinking") or () for piece in pieces)
            joined.append({**pieces[0], "thinking": _joined(thought)})
        else:
            joined += pieces
    return joined


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(parse_json(arguments), dict)
    except ValueError:
        return False


def _usage_elsewhere(body: Item, choice: Item) -> Any:
    """The tokens used, where some servers have them."""
    return _object(body.get("x_groq")).get("usage") or choice.get("usage")


def _error_of(error: Any) -> Item:
    details = error if isinstance(error, dict) else {"message": error}
    code, kind = details.get("code"), details.get("type")
    return {
        "code": None if code is None else str(code),
        "message": str(details.get("message") or ""),
        "type": None if kind is None else str(kind),
    }


def _object(value: Any) -> Item:
    return value if isinstance(value, dict) else {}


def _id(value: Any) -> str | None:
    return value if value and isinstance(value, str) else None


def _index(value: Any) -> int | None:
    return value if value.__class__ is int and value >= 0 else None
