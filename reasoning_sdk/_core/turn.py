"""What a model has said in one call, in the terms of the Responses API, whatever it was asked in.

Everybody who needs to know takes it from here: who sends it upstream again, who puts a response
together, who tells of it in events. So all of them use the same ids.
"""

import json
from collections.abc import Mapping
from typing import Any

import attrs

from reasoning_sdk.encoding import encode_json
from reasoning_sdk.errors import ProtocolError
from reasoning_sdk.steps import ChainStep, StepState

__all__ = [
    "Turn",
    "arguments_text",
    "call_item",
    "chat_text",
    "error_output",
    "item_id",
    "message_item",
    "output_of",
    "own_call_id",
    "reasoning_item",
    "text_of",
    "tool_output_item",
    "turn_of",
]

Item = dict[str, Any]

_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_PARTS = frozenset({"input_text", "input_image", "input_file"})
_MAX_SAID = 200


@attrs.frozen
class Turn:
    """What a model has said in one call.

    Args:
        items: Output items of the Responses API, with ids of our own.
        usage: The tokens used, in the names of the Responses API.
        incomplete: Why the model was stopped early, ``"max_output_tokens"`` for example.
    """

    items: list[Item]
    usage: Item | None = None
    incomplete: str | None = None

    @property
    def calls(self) -> list[Item]:
        """The calls of functions, in their order."""
        return [item for item in self.items if item.get("type") == "function_call"]

    @property
    def text(self) -> str:
        """The text of all messages, joined."""
        return "".join(text_of(item) for item in self.items if item.get("type") == "message")


def item_id(kind: str, step_id: str, place: int | None = None) -> str:
    """The id of an output item, the same whenever it is asked for.

    Args:
        kind: The item's type.
        step_id: The step that it came of.
        place: Which one of its kind, or of all, where there may be several.
    """
    suffix = "" if place is None else f"_{place}"
    return f"{_PREFIXES.get(kind, 'item')}_{step_id}{suffix}"


def message_item(id: str, text: str, *, status: str = "completed", refusal: str = "") -> Item:
    """A message of the assistant."""
    content: list[Item] = []
    if text or not refusal:
        content.append({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
    if refusal:
        content.append({"type": "refusal", "refusal": refusal})
    return {"type": "message", "id": id, "status": status, "role": "assistant", "content": content}


def call_item(
    id: str, call_id: str, name: str, arguments: str = "", *, status: str = "completed"
) -> Item:
    """A call of a function."""
    return {
        "type": "function_call",
        "id": id,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def reasoning_item(id: str, text: str, *, status: str = "completed") -> Item:
    """What a model has thought."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"type": "reasoning", "id": id, "status": status, "summary": [], "content": content}


def tool_output_item(step: ChainStep) -> Item:
    """What came of a tool call, as an output item; empty while it is under way."""
    ended = "completed" if step.state is StepState.COMPLETED else "incomplete"
    return {
        "type": "function_call_output",
        "id": item_id("function_call_output", step.id),
        "call_id": step.request_payload["call_id"],
        "output": output_of(step) if step.state.is_terminal else "",
        "status": ended if step.state.is_terminal else "in_progress",
    }


def output_of(step: ChainStep) -> Any:
    """What the model gets to see of a tool call: a text, or parts of content."""
    if step.state is not StepState.COMPLETED:
        return encode_json(error_output(step.error)).decode()
    payload = step.response_payload
    if isinstance(payload, str) or _is_content(payload):
        return payload
    return encode_json(payload).decode()


def error_output(error: Any) -> Item:
    """What the model gets to see of an error: ``{"error": {"type", "message"}}``."""
    details = error if isinstance(error, Mapping) else {"message": "the call was canceled"}
    kind, message = details.get("type") or "error", details.get("message") or ""
    return {"error": {"type": str(kind), "message": str(message)}}


def text_of(item: Mapping[str, Any]) -> str:
    """The text of a message."""
    parts = item.get("content") or []
    return "".join(
        str(part.get("text") or "") for part in parts if part.get("type") == "output_text"
    )


def turn_of(body: Any, step_id: str) -> Turn:
    """Read the body that a model call was answered with.

    Args:
        body: That of a chat completion, or of a response.
        step_id: The step that made the call.

    Raises:
        ProtocolError: It is neither.
    """
    if isinstance(body, Mapping):
        if isinstance(body.get("output"), list):
            return _turn_of_response(body, step_id)
        choices = body.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
            return _turn_of_chat(body, choices[0], step_id)
    raise ProtocolError(f"answer is neither a chat completion nor a response{_said_instead(body)}")


def _said_instead(body: Any) -> str:
    """The beginning of what a server says in place of an answer."""
    said = (body.get("detail") or body.get("message")) if isinstance(body, Mapping) else None
    text = " ".join(str(said or "").split())
    return f": {text if len(text) <= _MAX_SAID else text[:_MAX_SAID] + '…'}" if text else ""


def _turn_of_chat(body: Mapping[str, Any], choice: Mapping[str, Any], step_id: str) -> Turn:
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise ProtocolError("answer is a chat completion without a message")
    incomplete = _INCOMPLETE.get(choice.get("finish_reason") or "")
    items = []
    thought = _thought_of_chat(message)
    if thought:
        items.append(reasoning_item(item_id("reasoning", step_id), thought))
    calls = _calls_of_chat(message.get("tool_calls"), step_id)
    if message.get("function_call") and not calls:
        raise ProtocolError("answer calls with the legacy function_call, not with tool_calls")
    text, refusal = chat_text(message.get("content")), _own_text(message.get("refusal"))
    if text or refusal or not calls:
        items.append(message_item(item_id("message", step_id), text, refusal=refusal))
    items += calls
    if incomplete is not None and items:
        items[-1]["status"] = "incomplete"
    return Turn(items, _usage_of_chat(body.get("usage")), incomplete)


def _thought_of_chat(message: Mapping[str, Any]) -> str:
    """What the model thought; servers differ in the field's name, and some use both."""
    thoughts = (message.get("reasoning_content"), message.get("reasoning"))
    return next((thought for thought in thoughts if thought and isinstance(thought, str)), "")


def _calls_of_chat(calls: Any, step_id: str) -> list[Item]:
    items, seen = [], set[str]()
    for place, call in enumerate(calls if isinstance(calls, list) else []):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise ProtocolError("answer has a tool call that is no call of a function")
        call_id = own_call_id(call.get("id"), seen, step_id, place)
        name, arguments = str(function.get("name") or ""), arguments_text(function.get("arguments"))
        items.append(call_item(item_id("function_call", step_id, place), call_id, name, arguments))
    return items


def own_call_id(given: Any, seen: set[str], step_id: str, place: int) -> str:
    """The model's id of a call; one of ours where there is none, or one that was used before."""
    is_own = isinstance(given, str) and given and given not in seen
    call_id = str(given) if is_own else f"call_{step_id}_{place}"
    seen.add(call_id)
    return call_id


def arguments_text(value: Any) -> str:
    """The arguments of a call as text; some servers give the object itself."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def chat_text(content: Any) -> str:
    """The text of a chat message's content, which is a text or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(
        str(part.get("text") or "")
        for part in parts
        if isinstance(part, Mapping) and part.get("type") == "text"
    )


def _usage_of_chat(usage: Any) -> Item | None:
    if not isinstance(usage, Mapping):
        return None
    given, made = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    return {
        "input_tokens": given,
        "input_tokens_details": usage.get("prompt_tokens_details"),
        "output_tokens": made,
        "output_tokens_details": usage.get("completion_tokens_details"),
        "total_tokens": _count(usage.get("total_tokens")) or given + made,
    }


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _turn_of_response(body: Mapping[str, Any], step_id: str) -> Turn:
    items, seen = [], set[str]()
    for place, item in enumerate(body["output"]):
        if not isinstance(item, Mapping):
            raise ProtocolError("answer has an output item that is no object")
        items.append(_own_item(item, seen, step_id, place))
    incomplete = None
    if body.get("status") == "incomplete":
        details = body.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, Mapping) else None
        incomplete = str(reason or "max_output_tokens")
    usage = body.get("usage")
    return Turn(items, dict(usage) if isinstance(usage, Mapping) else None, incomplete)


def _own_item(item: Mapping[str, Any], seen: set[str], step_id: str, place: int) -> Item:
    """An upstream's output item, with an id of ours and what servers leave out."""
    kind = item.get("type")
    if not kind or not isinstance(kind, str):
        raise ProtocolError("answer has an output item without a type")
    own = {**item, "id": item_id(kind, step_id, place)}
    own["status"] = item.get("status") or "completed"
    if kind == "function_call":
        own["call_id"] = own_call_id(item.get("call_id"), seen, step_id, place)
        own["name"] = str(item.get("name") or "")
        own["arguments"] = arguments_text(item.get("arguments"))
    elif kind == "message":
        own["role"] = item.get("role") or "assistant"
        own["content"] = _own_parts(item.get("content"))
    elif kind == "reasoning":
        own["summary"] = item.get("summary") or []
        if "content" in item:
            own["content"] = _own_parts(item["content"])
    return own


def _own_parts(content: Any) -> list[Item]:
    if not isinstance(content or [], list):
        raise ProtocolError("answer has an item whose content is no list")
    return [_own_part(part) for part in content or []]


def _own_part(part: Any) -> Item:
    if not isinstance(part, Mapping):
        raise ProtocolError("answer has a part of an item that is no object")
    own, kind = dict(part), part.get("type")
    if kind in ("output_text", "reasoning_text"):
        own["text"] = _own_text(part.get("text"))
    if kind == "output_text":
        own["annotations"] = part.get("annotations") or []
        own["logprobs"] = part.get("logprobs") or []
    elif kind == "refusal":
        own["refusal"] = _own_text(part.get("refusal"))
    return own


def _own_text(text: Any) -> str:
    if not isinstance(text or "", str):
        raise ProtocolError("answer has a text that is none")
    return text or ""


def _is_content(payload: Any) -> bool:
    """Whether a tool's result is made of parts of content that a model takes as they are."""
    return (
        isinstance(payload, list)
        and bool(payload)
        and all(isinstance(part, Mapping) and part.get("type") in _PARTS for part in payload)
    )
