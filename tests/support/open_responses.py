"""The judge of what goes out as a response: its schemas, and the rules that its stream keeps.

The schemas are those of the Open Responses specification of 2026-04-24, without its prose; they
come by way of the package openresponses-py. :func:`check_response` and :func:`check_event` hold one
object against them, :func:`check_stream` the events of a whole response against each other::

    check_stream([event.data for event in sink.events])

All of them raise :class:`AssertionError`, which says where and what.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import jsonschema
from jsonschema.exceptions import ValidationError, best_match

JSON = dict[str, Any]

DOCUMENT = Path(__file__).resolve().parent.parent / "data" / "open_responses.json"
TERMINAL = {
    "response.completed": ("completed",),
    "response.incomplete": ("incomplete",),
    "response.failed": ("failed", "cancelled"),  # which has no event of its own
}


# -- schemas -----------------------------------------------------------------------------------


@functools.cache
def _document() -> JSON:
    document: JSON = json.loads(DOCUMENT.read_text())
    # The document allows nothing but null there, and the API it describes echoes the schema.
    formats = document["components"]["schemas"]["JsonSchemaResponseFormat"]
    formats["properties"]["schema"] = {"type": ["object", "null"]}
    return document


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**_document(), "$ref": f"#/components/schemas/{name}"})


@functools.cache
def _events() -> dict[str, str]:
    """The name of the schema for each type of event."""
    schemas = _document()["components"]["schemas"]
    return {
        schema["properties"]["type"]["enum"][0]: name
        for name, schema in schemas.items()
        if name.endswith("StreamingEvent")
    }


def _check(name: str, data: Any) -> None:
    error = best_match(_validator(name).iter_errors(data))
    if error is not None:
        cause = _cause(error)
        raise AssertionError(f"{name}: {cause.json_path}: {cause.message}")


def _cause(error: ValidationError) -> ValidationError:
    """Of what fits none of several schemas, what keeps it from fitting that of its type."""
    choices: dict[Any, list[ValidationError]] = {}
    for one in error.context or ():
        choices.setdefault(one.schema_path[0], []).append(one)
    meant = [errors for errors in choices.values() if not any(map(_is_of_another_type, errors))]
    return _cause(meant[0][0]) if meant else error


def _is_of_another_type(error: ValidationError) -> bool:
    path = list(error.relative_path)
    return path == ["type"] or (not path and error.validator == "type")


def check_response(data: Any) -> None:
    """Hold a response object against its schema."""
    _check("ResponseResource", data)


def check_event(data: Any) -> None:
    """Hold the data of a streaming event against the schema of its type."""
    kind = data.get("type") if isinstance(data, dict) else None
    assert kind in _events(), f"no event of the Responses API has the type {kind!r}"
    _check(_events()[kind], data)


# -- streams -----------------------------------------------------------------------------------


def check_stream(events: Iterable[JSON]) -> None:
    """Hold the events of one whole response against the rules of the protocol.

    * Every event fits its schema; the sequence numbers rise.
    * ``response.created`` comes first, the one terminal event last; its status says the same.
    * Every item is added at the next ``output_index`` with an id of its own, and done once.
    * What is told of an item comes between: parts, each opened and closed; deltas, which add up to
      what the ``done`` of the text, of the part and of the item say.
    * The output of a call comes after a call with its ``call_id`` that has none yet.
    * The terminal response's output is made of the items that were done. Where the response has
      failed, items may be left open, and what was cut off (``"incomplete"``) may be missing.
    """
    judge = _Judge()
    for place, event in enumerate(events):
        try:
            check_event(event)
            judge.take(event)
        except AssertionError as exc:
            name = event.get("type") if isinstance(event, dict) else event
            raise AssertionError(f"event {place}, {name}: {exc}") from exc
    assert judge.ended, "there is no terminal event"


@attrs.define
class _Text:
    """A text that comes in deltas: that of a part, or arguments."""

    part: JSON | None = None  # as it was opened, then as it was closed
    is_closed: bool = False
    said: str = ""
    told: str | None = None


@attrs.define
class _Item:
    """An item that was added."""

    added: JSON
    index: int
    texts: list[_Text] = attrs.field(factory=list)
    done: JSON | None = None


class _Judge:
    """Has seen some events of a response."""

    def __init__(self) -> None:
        self.ended = False
        self._sequence = -1
        self._response_id: str | None = None
        self._items: dict[str, _Item] = {}
        self._unanswered: Counter[str] = Counter()

    def take(self, event: JSON) -> None:
        """See the next event."""
        kind, number = event["type"], event["sequence_number"]
        assert not self.ended, "it comes after the terminal event"
        assert number > self._sequence, f"sequence number {number} after {self._sequence}"
        self._sequence = number
        if "response" in event:
            self._response(kind, event["response"])
        assert self._response_id is not None, "the first event is not response.created"
        if kind in TERMINAL:
            self._terminal(kind, event["response"])
        elif kind == "response.output_item.added":
            self._item_added(event)
        elif kind == "response.output_item.done":
            self._item_done(event)
        elif "item_id" in event:
            self._inside(kind, event)

    # -- the response --------------------------------------------------------------------------

    def _response(self, kind: str, response: JSON) -> None:
        if kind == "response.created":
            assert self._response_id is None, "there are two of it"
            self._response_id = response["id"]
        assert self._response_id is not None, "the first event is not response.created"
        assert response["id"] == self._response_id, f"another response: {response['id']}"

    def _terminal(self, kind: str, response: JSON) -> None:
        self.ended = True
        status, output = response["status"], response["output"]
        assert status in TERMINAL[kind], f"the status is {status!r}"
        done = [item.done for item in self._items.values() if item.done is not None]
        still_open = [id for id, item in self._items.items() if item.done is None]
        if kind == "response.failed":
            output = [item for item in output if item["id"] not in still_open]
            kept = {item["id"] for item in output}
            done = [one for one in done if one["id"] in kept or one.get("status") != "incomplete"]
        else:
            assert not still_open, f"items were not done: {still_open}"
        ids = [item["id"] for item in output], [item["id"] for item in done]
        assert ids[0] == ids[1], f"the output is {ids[0]}, done were {ids[1]}"
        for item, other in zip(output, done, strict=True):
            assert item == other, f"the output has {item}, done was {other}"

    # -- items ---------------------------------------------------------------------------------

    def _item_added(self, event: JSON) -> None:
        item, index = event["item"], event["output_index"]
        id, next_index = item["id"], len(self._items)
        assert id not in self._items, f"the id was there before: {id}"
        assert index == next_index, f"output_index {index}, the next one is {next_index}"
        for name in ("content", "arguments"):
            assert not item.get(name), f"an item is added without its {name}: {item}"
        self._items[id] = _Item(item, index)
        call_id = item.get("call_id")
        if item["type"] == "function_call":
            self._unanswered[call_id] += 1
        elif item["type"] == "function_call_output":
            assert self._unanswered[call_id], f"no call waits for an output: {call_id}"
            self._unanswered[call_id] -= 1

    def _item_done(self, event: JSON) -> None:
        done = event["item"]
        item = self._open(done["id"], event["output_index"])
        for name in ("type", "role", "call_id", "name"):
            before, now = item.added.get(name), done.get(name)
            assert before == now, f"the {name} was {before!r}, is {now!r}"
        assert done.get("status") != "in_progress", "it is done and in progress"
        for text in item.texts:
            assert text.told is not None, "a text, or arguments, are not done"
            assert text.part is None or text.is_closed, "a part is not done"
        told = [text.told if text.part is None else text.part for text in item.texts]
        assert told == _contents(done), f"it has {_contents(done)}, told was {told}"
        item.done = done

    def _open(self, id: str, index: int) -> _Item:
        assert id in self._items, f"the item was not added: {id}"
        item = self._items[id]
        assert item.done is None, f"the item is done: {id}"
        assert index == item.index, f"output_index {index}, the item has {item.index}"
        return item

    # -- inside of items -----------------------------------------------------------------------

    def _inside(self, kind: str, event: JSON) -> None:
        item = self._open(event["item_id"], event["output_index"])
        if kind == "response.content_part.added":
            self._part_added(item, event)
        elif kind == "response.content_part.done":
            self._part_done(item, event)
        elif kind in _SAYING:
            said_in, field = _SAYING[kind]
            self._say(self._text(item, said_in, event), event, field)

    def _part_added(self, item: _Item, event: JSON) -> None:
        index, part = event["content_index"], event["part"]
        next_index = len(item.texts)
        assert index == next_index, f"content_index {index}, the next one is {next_index}"
        assert not _text(part), f"a part is added with its text: {part}"
        item.texts.append(_Text(part))

    def _part_done(self, item: _Item, event: JSON) -> None:
        text, part = self._text(item, event["part"]["type"], event), event["part"]
        assert text.told is not None, "the text is not done"
        assert _text(part) == text.told, f"the part says {_text(part)!r}, told was {text.told!r}"
        text.part, text.is_closed = part, True

    def _text(self, item: _Item, said_in: str, event: JSON) -> _Text:
        """Where an event belongs that says something."""
        if said_in == "function_call":
            assert item.added["type"] == said_in, f"arguments of a {item.added['type']}"
            assert event.get("call_id") in (None, item.added["call_id"]), "another call_id"
            item.texts = item.texts or [_Text()]
            return item.texts[0]
        index = event["content_index"]
        assert index < len(item.texts), f"part {index} was not added"
        text = item.texts[index]
        assert not text.is_closed, f"part {index} is done"
        assert text.part is not None
        assert text.part["type"] == said_in, f"part {index} is a {text.part['type']}"
        return text

    def _say(self, text: _Text, event: JSON, field: str) -> None:
        assert text.told is None, "the text, or arguments, are done"
        if field == "delta":
            text.said += event["delta"]
        else:
            text.told = event[field]
            assert text.told == text.said, f"done is {text.told!r}, said was {text.said!r}"


#: What says something: in which kind of part, or of item, and the field it is said in.
_SAYING = {
    "response.output_text.delta": ("output_text", "delta"),
    "response.output_text.done": ("output_text", "text"),
    "response.refusal.delta": ("refusal", "delta"),
    "response.refusal.done": ("refusal", "refusal"),
    "response.reasoning.delta": ("reasoning_text", "delta"),
    "response.reasoning.done": ("reasoning_text", "text"),
    "response.function_call_arguments.delta": ("function_call", "delta"),
    "response.function_call_arguments.done": ("function_call", "arguments"),
}


def _text(part: JSON) -> str:
    return str(part.get("refusal") or part.get("text") or "")


def _contents(item: JSON) -> list[Any]:
    """What events have to tell of an item: its arguments, or its parts."""
    return [item["arguments"]] if item["type"] == "function_call" else item.get("content") or []
