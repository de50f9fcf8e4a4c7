"""Event sequences as servers of the Responses API send them, built rather than stored.

An *item* (:func:`message`, :func:`function_call`, …) knows the finished output item and the events
that lead to it. :func:`response` makes the stream of a whole response out of items; the functions
after it are the streams that tests need most. All of them return lists of JSON objects, which
:func:`to_sse` turns into the bytes of a body. The *dialects* at the end rewrite such a list into
what particular servers make of it.

The shapes are those of the public client's types, and of what llmock, aimock, transformers and
llama.cpp send.
"""

import copy
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

JSON = dict[str, Any]
Events = list[JSON]

CREATED_AT = 1_767_225_600
TERMINAL = ("response.completed", "response.failed", "response.incomplete", "error")


# -- bytes -------------------------------------------------------------------------------------


def to_sse(
    events: Iterable[Mapping[str, Any]],
    event_lines: bool = True,
    *,
    ids: bool = False,
    done: bool = False,
    newline: str = "\n",
) -> bytes:
    """The body of an event stream.

    Args:
        events: the JSON objects.
        event_lines: write ``event:`` lines, from each object's ``type``.
        ids: write ``id:`` lines, from each object's ``sequence_number``.
        done: end with the marker ``[DONE]``.
        newline: the line end.
    """
    lines = []
    for event in events:
        if event_lines and "type" in event:
            lines.append(f"event: {event['type']}")
        if ids and event.get("sequence_number") is not None:
            lines.append(f"id: {event['sequence_number']}")
        lines += [f"data: {dumps(event)}", ""]
    if done:
        lines += ["data: [DONE]", ""]
    return "".join(line + newline for line in lines).encode()


def to_fixture(events: Iterable[Mapping[str, Any]]) -> str:
    """The text of a fixture file: every line a field line, an event of its own."""
    return "".join(f"data: {dumps(event)}\n" for event in events)


def dumps(value: Any) -> str:
    """Compact JSON with raw UTF-8, so that a body has characters of several bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def pieces(text: str, count: int) -> list[str]:
    """``text`` in ``count`` pieces of about the same length (fewer when it is shorter)."""
    count = max(1, min(count, len(text)))
    bounds = [len(text) * number // count for number in range(count + 1)]
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


# -- items -------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Item:
    """A finished output item and the events between its ``added`` and its ``done``.

    ``events`` lack ``output_index`` and ``sequence_number``, which the stream gives them. ``text``
    is what the item adds to the text of the response.
    """

    done: JSON
    added: JSON
    events: Events
    text: str = ""


def message(text: str = "Hello, world!", *, deltas: int = 3, item_id: str = "msg_1") -> Item:
    """A message with one text part."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    where = {"item_id": item_id, "content_index": 0}
    events: Events = [
        {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
        *(
            {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
            for piece in pieces(text, deltas)
        ),
        {"type": "response.output_text.done", **where, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **where, "part": part},
    ]
    item = {"type": "message", "id": item_id, "role": "assistant"}
    return Item(
        done={**item, "status": "completed", "content": [part]},
        added={**item, "status": "in_progress", "content": []},
        events=events,
        text=text,
    )


def refusal(text: str = "I cannot help with that.", *, item_id: str = "msg_1") -> Item:
    """A message that refuses; it adds nothing to the text of the response."""
    part = {"type": "refusal", "refusal": text}
    where = {"item_id": item_id, "content_index": 0}
    item = {"type": "message", "id": item_id, "role": "assistant"}
    return Item(
        done={**item, "status": "completed", "content": [part]},
        added={**item, "status": "in_progress", "content": []},
        events=[
            {"type": "response.content_part.added", **where, "part": {**part, "refusal": ""}},
            *(
                {"type": "response.refusal.delta", **where, "delta": piece}
                for piece in pieces(text, 2)
            ),
            {"type": "response.refusal.done", **where, "refusal": text},
            {"type": "response.content_part.done", **where, "part": part},
        ],
    )


def function_call(
    name: str = "get_weather",
    arguments: Any = None,
    *,
    call_id: str = "call_1",
    item_id: str = "fc_1",
    deltas: int = 4,
) -> Item:
    """A function call; ``arguments`` is a JSON value, or the string to send as it is."""
    if arguments is None:
        arguments = {"city": "Zürich", "unit": "celsius"}
    text = arguments if isinstance(arguments, str) else dumps(arguments)
    item = {"type": "function_call", "id": item_id, "call_id": call_id, "name": name}
    return Item(
        done={**item, "arguments": text, "status": "completed"},
        added={**item, "arguments": "", "status": "in_progress"},
        events=[
            *(
                {"type": "response.function_call_arguments.delta", "item_id": item_id, "delta": p}
                for p in pieces(text, deltas)
            ),
            {
                "type": "response.function_call_arguments.done",
                "item_id": item_id,
                "name": name,
                "arguments": text,
            },
        ],
    )


def reasoning(
    text: str = "First the question, then the answer.",
    *,
    kind: str = "summary",
    item_id: str = "rs_1",
    deltas: int = 3,
) -> Item:
    """A reasoning item.

    ``kind`` is ``summary`` (``response.reasoning_summary_text.delta``, with its parts), ``text``
    (``response.reasoning_text.delta``) or ``open`` (``response.reasoning.delta``, as Open Responses
    names it).
    """
    summary = [{"type": "summary_text", "text": text}] if kind == "summary" else []
    content = [] if kind == "summary" else [{"type": "reasoning_text", "text": text}]
    events: Events
    if kind == "summary":
        where = {"item_id": item_id, "summary_index": 0}
        name = "response.reasoning_summary_part"
        events = [
            {"type": f"{name}.added", **where, "part": {"type": "summary_text", "text": ""}},
            *(
                {"type": "response.reasoning_summary_text.delta", **where, "delta": piece}
                for piece in pieces(text, deltas)
            ),
            {"type": "response.reasoning_summary_text.done", **where, "text": text},
            {"type": f"{name}.done", **where, "part": summary[0]},
        ]
    else:
        where = {"item_id": item_id, "content_index": 0}
        name = {"text": "response.reasoning_text", "open": "response.reasoning"}[kind]
        events = [
            *({"type": f"{name}.delta", **where, "delta": piece} for piece in pieces(text, deltas)),
            {"type": f"{name}.done", **where, "text": text},
        ]
    item = {"type": "reasoning", "id": item_id}
    return Item(
        done={**item, "summary": summary, **({"content": content} if content else {})},
        added={**item, "summary": []},
        events=events,
    )


# -- responses ---------------------------------------------------------------------------------


def usage(input_tokens: int = 11, output_tokens: int = 7) -> JSON:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def response_object(
    items: Sequence[Item] = (),
    *,
    status: str = "completed",
    response_id: str = "resp_1",
    model: str = "test-model",
    **fields: Any,
) -> JSON:
    """The response object, as ``create`` and ``retrieve`` answer it."""
    finished = status not in ("queued", "in_progress")
    return {
        "id": response_id,
        "object": "response",
        "created_at": CREATED_AT,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": model,
        "output": [copy.deepcopy(item.done) for item in items] if finished else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage() if finished else None,
        "user": None,
        "metadata": {},
        **fields,
    }


def response(
    items: Sequence[Item],
    *,
    end: JSON | None = None,
    queued: bool = False,
    with_sequence: bool = True,
    **fields: Any,
) -> Events:
    """The stream of a whole response.

    Args:
        items: the output items, one after the other.
        end: the last event; ``response.completed`` with all items when None. An empty object: the
            stream has no last event.
        queued: begin as a background response does.
        with_sequence: number the events from 0.
        fields: of the response object, ``response_id``, ``model`` and others.
    """
    events: Events = []
    starts = ["created", "queued", "in_progress"] if queued else ["created", "in_progress"]
    for name in starts:
        status = "in_progress" if name == "in_progress" or not queued else "queued"
        began = response_object(status=status, **fields)
        events.append({"type": f"response.{name}", "response": began})
    for index, item in enumerate(items):
        at = {"output_index": index}
        events.append({"type": "response.output_item.added", **at, "item": item.added})
        events += [{**event, **at} for event in item.events]
        events.append({"type": "response.output_item.done", **at, "item": item.done})
    if end is None:
        end = {"type": "response.completed", "response": response_object(items, **fields)}
    if end:
        events.append(end)
    events = copy.deepcopy(events)
    return numbered(events) if with_sequence else events


def numbered(events: Events, start: int = 0) -> Events:
    """The events with a ``sequence_number``, after the ``type``."""
    return [
        {"type": event["type"], "sequence_number": number, **event}
        for number, event in enumerate(events, start)
    ]


def text_response(
    text: str = "Hello, world!",
    *,
    deltas: int = 3,
    response_id: str = "resp_1",
    with_sequence: bool = True,
    **fields: Any,
) -> Events:
    """A completed response with one message."""
    return response(
        [message(text, deltas=deltas)], response_id=response_id, with_sequence=with_sequence,
        **fields,
    )  # fmt: skip


def function_call_response(*calls: Item, text: str = "", **fields: Any) -> Events:
    """A completed response with function calls, after a message when there is a text."""
    before = [message(text)] if text else []
    return response([*before, *(calls or [function_call()])], **fields)


def reasoning_response(text: str = "Forty-two.", *, kind: str = "summary", **fields: Any) -> Events:
    """A completed response that reasons and then says a text."""
    return response([reasoning(kind=kind), message(text)], **fields)


def background_response(
    text: str = "Done in the background.", *, deltas: int = 6, **fields: Any
) -> Events:
    """A completed background response; :func:`after` gives what a resumed stream sends."""
    return response([message(text, deltas=deltas)], queued=True, background=True, **fields)


def after(events: Events, sequence_number: int) -> Events:
    """The events with larger numbers: the answer to ``starting_after``."""
    return [event for event in events if event["sequence_number"] > sequence_number]


def cut_response(text: str = "Hello, wor", *, deltas: int = 3, **fields: Any) -> Events:
    """A stream that stops inside a message, without a terminal event."""
    return _partial(text, deltas, {}, **fields)


def failed_response(
    code: str = "server_error",
    error: str = "The model failed to generate a response.",
    *,
    text: str = "Hello, wor",
    **fields: Any,
) -> Events:
    """A stream that ends with ``response.failed`` inside a message."""
    failed = response_object(
        status="failed", error={"code": code, "message": error}, usage=None, **fields
    )
    return _partial(text, 3, {"type": "response.failed", "response": failed}, **fields)


def incomplete_response(
    reason: str = "max_output_tokens", *, text: str = "Hello, wor", **fields: Any
) -> Events:
    """A stream that ends with ``response.incomplete``, after its message as far as it goes."""
    item = message(text)
    item.done["status"] = "incomplete"
    response_ = response_object(
        [item], status="incomplete", incomplete_details={"reason": reason}, **fields
    )
    end = {"type": "response.incomplete", "response": response_}
    return response([item], end=end, **fields)


def error_event(
    code: str | None = "server_error",
    text: str = "The server had an error.",
    *,
    nested: bool = False,
    typed: bool = True,
) -> JSON:
    """An ``error`` event: flat as the reference has it, or nested as proxies send it.

    With ``typed=False`` the nested one has no ``type`` of its own (llama.cpp, vLLM).
    """
    if not nested:
        return {"type": "error", "code": code, "message": text, "param": None}
    error = {"type": "server_error", "code": code, "message": text, "param": None}
    return {"type": "error", "error": error} if typed else {"error": error}


def errored_response(*, text: str = "Hello, wor", **error: Any) -> Events:
    """A stream that ends with an ``error`` event inside a message."""
    end = error_event(**error)
    events = _partial(text, 3, {})
    return [*events, {**end, "sequence_number": len(events)}]


def _partial(
    text: str, deltas: int, end: JSON, *, with_sequence: bool = True, **fields: Any
) -> Events:
    """A response whose only message stops after its last delta."""
    events = response([message(text, deltas=deltas)], end={}, with_sequence=False, **fields)
    events = events[: len(events) - 3] + ([copy.deepcopy(end)] if end else [])
    return numbered(events) if with_sequence else events


# -- what a client should make of them ---------------------------------------------------------


def text_of(events: Events) -> str:
    """The text of all text deltas."""
    return "".join(
        event["delta"] for event in events if event["type"] == "response.output_text.delta"
    )


def items_of(events: Events) -> list[JSON]:
    """The finished items."""
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]


# -- dialects ----------------------------------------------------------------------------------


def like_transformers(events: Events) -> Events:
    """transformers serve: every item has index 0, nothing is null (send without event lines)."""
    events = [_without_nulls(event) for event in events]
    for event in events:
        if "output_index" in event:
            event["output_index"] = 0
    return events


def like_llama_cpp(events: Events) -> Events:
    """llama.cpp: no numbers and no indexes at all; a first response of three keys; plain usage."""
    events = _without(events, "sequence_number", "output_index", "content_index", "logprobs")
    kept = ("id", "object", "created_at", "completed_at", "model", "output", "status", "usage")
    for event in events:
        if event["type"] in ("response.created", "response.in_progress"):
            began = event["response"]
            event["response"] = {
                "id": began["id"], "object": began["object"], "status": "in_progress",
            }  # fmt: skip
        elif "response" in event:
            ended = {**event["response"], "completed_at": CREATED_AT}
            event["response"] = {key: ended[key] for key in kept}
            if ended["usage"]:
                ended["usage"].pop("input_tokens_details")
                ended["usage"].pop("output_tokens_details")
    return events


def like_aimock(events: Events) -> Events:
    """aimock: no numbers, a response of six keys, a usage of zeros without details."""
    kept = ("id", "object", "created_at", "model", "status", "output")
    events = _without(events, "sequence_number", "logprobs")
    for event in events:
        if "response" in event:
            event["response"] = {key: event["response"][key] for key in kept}
            if event["type"] in TERMINAL:
                event["response"]["usage"] = dict.fromkeys(
                    ("input_tokens", "output_tokens", "total_tokens"), 0
                )
    return events


def with_nulls(events: Events) -> Events:
    """Everything that need not be there is null."""
    events = copy.deepcopy(events)
    for event in events:
        for key in ("sequence_number", "output_index", "content_index", "logprobs", "obfuscation"):
            event[key] = None
        if isinstance(event.get("part"), dict):
            event["part"].update(annotations=None, logprobs=None)
        if isinstance(event.get("item"), dict):
            event["item"]["status"] = None
            if event["type"] == "response.output_item.added" and "content" in event["item"]:
                event["item"]["content"] = None
        if isinstance(event.get("response"), dict):
            for key in event["response"]:
                if key not in ("id", "object", "status", "output", "error", "incomplete_details"):
                    event["response"][key] = None
            if event["type"] not in TERMINAL:
                event["response"]["output"] = None
    return events


def with_extra_fields(events: Events) -> Events:
    """Every object has fields that nobody knows."""
    events = copy.deepcopy(events)
    for event in events:
        event["obfuscation"] = "x7Kq"
        event["x_vendor"] = {"trace": [1, 2.5, True, None]}
        for key in ("item", "response", "part"):
            if isinstance(event.get(key), dict):
                event[key]["x_vendor"] = {"note": "ignore me"}
    return events


def with_unknown_events(events: Events) -> Events:
    """Between the events are some of types that do not exist yet; numbers run on."""
    mixed: Events = []
    for number, event in enumerate(events):
        if number:
            mixed.append({"type": "response.hologram.delta", "delta": f"#{number}"})
        mixed.append({key: value for key, value in event.items() if key != "sequence_number"})
    return numbered(mixed)


def without_sequence(events: Events) -> Events:
    return _without(events, "sequence_number")


def without_indexes(events: Events) -> Events:
    return _without(events, "output_index", "content_index", "summary_index")


def _without(events: Events, *keys: str) -> Events:
    return [
        {key: value for key, value in copy.deepcopy(event).items() if key not in keys}
        for event in events
    ]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_without_nulls(entry) for entry in value]
    return value


DIALECTS = {
    "reference": lambda events: events,
    "transformers": like_transformers,
    "llama.cpp": like_llama_cpp,
    "aimock": like_aimock,
    "nulls": with_nulls,
    "extra fields": with_extra_fields,
    "unknown events": with_unknown_events,
    "no numbers": without_sequence,
    "no indexes": without_indexes,
}
