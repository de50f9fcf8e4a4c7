"""What upstreams are sent: a request of the Responses API in the dialect that each one speaks.

A dialect has two parts: the fields that are the same in every call, and what has been said so far,
a list that only ever grows.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs

from reasoning_sdk._core.turn import Turn, output_of
from reasoning_sdk.steps import ChainStep, ToolSchema

__all__ = ["DIALECTS", "Dialect", "flat"]

Item = dict[str, Any]
Request = Mapping[str, Any]

_LOGGER = logging.getLogger("reasoning_sdk.loop")

_RESOLVED = frozenset({"background", "input", "previous_response_id", "tools"})
_NOT_IN_CHAT = _RESOLVED | {
    "include",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "reasoning",
    "text",
    "tool_choice",
    "truncation",
}
_TEXTS = frozenset({"input_text", "output_text", "text"})
_FUNCTION = ("name", "description", "parameters", "strict")


@attrs.frozen
class Dialect:
    """How an upstream is spoken to.

    Args:
        key: The field that holds what has been said.
        fields: The other fields of a call: of a request, and the tools that the loop can call.
        opening: What has been said before the first call: of a request, the items of the
            conversation before it, and its own.
        answer: The field that holds what an upstream answers.
        answered: What a call adds: of its body, what was read of that, and the steps of its calls.
    """

    key: str
    fields: Callable[[Request, Sequence[ToolSchema]], Item]
    opening: Callable[[Request, Sequence[Item], Sequence[Item]], list[Item]]
    answer: str
    answered: Callable[[Request, Turn, Sequence[ChainStep]], list[Item]]


def flat(value: Item) -> Item:
    """A tool, or a choice of tools, in the shape of the Responses API, whichever it has."""
    kind = value.get("type")
    inner = value.get(kind) if isinstance(kind, str) else None
    return {"type": kind, **inner} if isinstance(inner, Mapping) else value


def _tools(request: Request, schemas: Sequence[ToolSchema]) -> list[Item]:
    """All tools in the shape of the Responses API; of two of one name that of the loop."""
    names = {schema.name for schema in schemas}
    declared = [_declared(tool) for tool in request.get("tools", ())]
    return [
        *(tool for tool in declared if tool["type"] != "function" or tool["name"] not in names),
        *(_of_schema(schema) for schema in schemas),
    ]


def _declared(tool: Item) -> Item:
    # What says nothing of strict is strict in the Responses API, and is not in the older shape.
    return {"strict": False, **flat(tool)} if "function" in tool else tool


def _of_schema(schema: ToolSchema) -> Item:
    function = {name: getattr(schema, name) for name in _FUNCTION}
    return {"type": "function", **function}


@lru_cache(maxsize=1000)
def _leave_out(what: str, kind: str) -> None:
    """Say, once, what has no counterpart in chat completions."""
    _LOGGER.warning("%s of type %.80r cannot be had over chat completions, left out", what, kind)


# -- the Responses API ----------------------------------------------------------------------------


def _response_fields(request: Request, schemas: Sequence[ToolSchema]) -> Item:
    fields = {name: value for name, value in request.items() if name not in _RESOLVED}
    if tools := _tools(request, schemas):
        fields["tools"] = tools
    return fields


def _response_opening(_: Request, history: Sequence[Item], own: Sequence[Item]) -> list[Item]:
    return [*(_foreign(item) for item in history if _is_portable(item)), *own]


def _is_portable(item: Item) -> bool:
    """Whether another upstream than the one that it came from can read an item."""
    return item.get("type") != "reasoning" or bool(item.get("encrypted_content"))


def _foreign(item: Item) -> Item:
    """An item without what only its own upstream knows."""
    if item.get("type") == "item_reference":
        return item
    return {name: value for name, value in item.items() if name not in ("id", "status")}


def _response_answered(body: Request, turn: Turn, steps: Sequence[ChainStep]) -> list[Item]:
    said = [_as_it_came(*pair) for pair in zip(body["output"], turn.items, strict=True)]
    return said + [
        {
            "type": "function_call_output",
            "call_id": step.request_payload["call_id"],
            "output": output_of(step),
        }
        for step in steps
    ]


def _as_it_came(item: Item, own: Item) -> Item:
    if own.get("type") != "function_call":
        return item
    return {**item, "call_id": own["call_id"], "arguments": own["arguments"]}


# -- chat completions -----------------------------------------------------------------------------


def _chat_fields(request: Request, schemas: Sequence[ToolSchema]) -> Item:
    same = {name: value for name, value in request.items() if name not in _NOT_IN_CHAT}
    fields = {**_renamed(request), **same}
    if request.get("stream"):
        fields.setdefault("stream_options", {"include_usage": True})
    tools = [tool for tool in _tools(request, schemas) if _is_function(tool)]
    if tools:
        fields["tools"] = [_nested(tool) for tool in tools]
    else:
        fields.pop("tool_choice", None)
        fields.pop("parallel_tool_calls", None)
    return fields


def _renamed(request: Request) -> Item:
    text, reasoning = request.get("text", {}), request.get("reasoning", {})
    fields = {
        "logprobs": True if "top_logprobs" in request else None,
        "max_tokens": request.get("max_output_tokens"),
        "reasoning_effort": reasoning.get("effort"),
        "response_format": _response_format(text.get("format") or {}),
        "tool_choice": _chat_choice(request.get("tool_choice")),
        "verbosity": text.get("verbosity"),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _response_format(given: Item) -> Item | None:
    if given.get("type", "text") == "text":
        return None
    if given["type"] != "json_schema" or "json_schema" in given:
        return given
    schema = {name: value for name, value in given.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": schema}


def _chat_choice(choice: Any) -> Any:
    if not isinstance(choice, Mapping):
        return choice
    choice = flat(dict(choice))
    if choice.get("type") == "allowed_tools":
        tools = [_nested(flat(tool)) for tool in choice["tools"] if _is_function(tool)]
        return {"type": "allowed_tools", "allowed_tools": {**_without_type(choice), "tools": tools}}
    return _nested(choice) if _is_function(choice, "choice of a tool") else None


def _without_type(value: Item) -> Item:
    return {name: part for name, part in value.items() if name != "type"}


def _is_function(tool: Item, what: str = "tool") -> bool:
    if tool["type"] == "function":
        return True
    _leave_out(what, tool["type"])
    return False


def _nested(tool: Item) -> Item:
    function = {name: tool[name] for name in _FUNCTION if tool.get(name)}
    return {"type": "function", "function": function}


def _chat_opening(request: Request, history: Sequence[Item], own: Sequence[Item]) -> list[Item]:
    instructions = request.get("instructions")
    system = [{"role": "system", "content": instructions}] if instructions else []
    return system + _messages_of([*history, *own])


def _messages_of(items: Iterable[Item]) -> list[Item]:
    messages: list[Item] = []
    for item in items:
        kind = item.get("type") or "message"
        if kind in _MESSAGES:
            _add(messages, _MESSAGES[kind](item))
        elif kind != "reasoning":
            _leave_out("item", kind)
    return messages


def _add(messages: list[Item], message: Item) -> None:
    """Add a message, or what it says to the one before it where both are of one turn."""
    last = messages[-1] if messages else message
    calls = [*last.get("tool_calls", ()), *message.get("tool_calls", ())]
    if last is message or not last["role"] == message["role"] == "assistant" or not calls:
        messages.append(message)
        return
    content = (last["content"] or "") + (message["content"] or "") or None
    messages[-1] = {**last, **message, "content": content, "tool_calls": calls}


def _message(item: Item) -> Item:
    role, content = item["role"], item["content"]
    if role == "assistant":
        return _assistant(content)
    return {"role": "system" if role == "developer" else role, "content": _content(content)}


def _assistant(content: str | Sequence[Item]) -> Item:
    text = _text(content)
    parts = () if isinstance(content, str) else content
    refusal = "".join(part.get("refusal") or "" for part in parts)
    message = {"role": "assistant", "content": text if text or not refusal else None}
    return {**message, "refusal": refusal} if refusal else message


def _call(item: Item) -> Item:
    function = {"name": item["name"], "arguments": item["arguments"] or "{}"}
    call = {"id": item["call_id"], "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _output(item: Item) -> Item:
    return _tool_message(item["call_id"], item["output"])


_MESSAGES: Mapping[str, Callable[[Item], Item]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
}


def _tool_message(call_id: str, output: str | Sequence[Item]) -> Item:
    for part in () if isinstance(output, str) else output:
        if part["type"] not in _TEXTS:
            _leave_out("part of a tool's result", part["type"])
    return {"role": "tool", "tool_call_id": call_id, "content": _text(output)}


def _text(content: str | Sequence[Item]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if part.get("type") in _TEXTS)


def _content(content: str | Sequence[Item]) -> str | list[Item]:
    if isinstance(content, str):
        return content
    parts = [_part(part) for part in content]
    lone = [part.get("type") for part in parts] in ([], ["text"])
    return _text(content) if lone else parts


def _part(part: Item) -> Item:
    """A part of a message; what has no other shape in chat completions stays as it is."""
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": part.get("text") or ""}
    if kind == "input_image":
        image = {"url": part.get("image_url"), "detail": part.get("detail")}
        return {"type": "image_url", "image_url": _present(image)}
    if kind == "input_file":
        return {"type": "file", "file": _present(_without_type(part))}
    return part


def _present(value: Request) -> Item:
    return {name: part for name, part in value.items() if part is not None}


def _chat_answered(body: Request, turn: Turn, steps: Sequence[ChainStep]) -> list[Item]:
    message = body["choices"][0]["message"]
    calls = [
        _call_as_it_came(call, own)
        for call, own in zip(message["tool_calls"], turn.calls, strict=True)
    ]
    return [
        {"role": "assistant", "content": None, **_present(message), "tool_calls": calls},
        *(_tool_message(step.request_payload["call_id"], output_of(step)) for step in steps),
    ]


def _call_as_it_came(call: Item, own: Item) -> Item:
    function = {**call["function"], "name": own["name"], "arguments": own["arguments"] or "{}"}
    return {**_present(call), "id": own["call_id"], "type": "function", "function": function}


DIALECTS: Mapping[str, Dialect] = {
    "chat_completions": Dialect("messages", _chat_fields, _chat_opening, "choices", _chat_answered),
    "responses": Dialect(
        "input", _response_fields, _response_opening, "output", _response_answered
    ),
}
