"""What is to be done next: of a request of the Responses API, and the steps taken so far.

A pure function of the two. Nothing else is kept, so a response can be resumed by anybody who has
its request and its chain.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from reasoning_sdk._core.translation import DIALECTS, Dialect, flat
from reasoning_sdk._core.turn import Turn, turn_of
from reasoning_sdk.arguments import check_count, check_kind, shown
from reasoning_sdk.encoding import encode_json, parse_json
from reasoning_sdk.errors import ConfigurationError, InvalidEventError, ProtocolError, StateError
from reasoning_sdk.steps import (
    AgentSchema,
    AppendSteps,
    ChainStep,
    Complete,
    Fail,
    NextAction,
    StepDescriptor,
    StepKind,
    StepState,
    ToolKind,
    ToolSchema,
)

__all__ = ["Conversation", "LoopRequest", "agent_request", "check_request", "input_items"]

Item = dict[str, Any]
Kind = tuple[tuple[type, ...], str]

_BOOL: Kind = ((bool,), "a bool")
_INT: Kind = ((int,), "an int")
_LIST: Kind = ((list,), "a list")
_NUMBER: Kind = ((int, float), "a number")
_OBJECT: Kind = ((dict,), "an object")
_STR: Kind = ((str,), "a str")
_CONTENT: Kind = ((str, list), "a str or a list of parts")

_REQUIRED: Mapping[str, Kind] = {
    "model": _STR,
    "input": ((str, list), "a str or a list of items"),
}
_OPTIONAL: Mapping[str, Kind] = {
    "background": _BOOL,
    "frequency_penalty": _NUMBER,
    "include": _LIST,
    "instructions": _STR,
    "max_output_tokens": _INT,
    "max_tool_calls": _INT,
    "metadata": _OBJECT,
    "parallel_tool_calls": _BOOL,
    "presence_penalty": _NUMBER,
    "previous_response_id": _STR,
    "reasoning": _OBJECT,
    "store": _BOOL,
    "stream": _BOOL,
    "stream_options": _OBJECT,
    "temperature": _NUMBER,
    "text": _OBJECT,
    "tool_choice": ((str, dict), "a str or an object"),
    "tools": _LIST,
    "top_logprobs": _INT,
    "top_p": _NUMBER,
    "user": _STR,
}
_ITEMS: Mapping[str, Mapping[str, Kind]] = {
    "message": {"role": _STR, "content": _CONTENT},
    "function_call": {"call_id": _STR, "name": _STR, "arguments": _STR},
    "function_call_output": {"call_id": _STR, "output": _CONTENT},
}
_TEXTS: Mapping[str, str] = {  # what a part of a content must have, by its type
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "text": "text",
}
_FUNCTION: Mapping[str, Kind] = {"description": _STR, "parameters": _OBJECT, "strict": _BOOL}
_TRUNCATIONS = ("auto", "disabled")
_ROLES = ("user", "assistant", "system", "developer")

# Calls of other things than functions, which only the client can answer.
_FOR_CLIENTS = frozenset(
    {
        "apply_patch_call",
        "computer_call",
        "custom_tool_call",
        "local_shell_call",
        "mcp_approval_request",
        "shell_call",
    }
)
_CANCELED = {"type": "step_canceled", "message": "the model call was canceled"}


@attrs.frozen
class LoopRequest:
    """A request of the Responses API, to be carried out over an upstream.

    Args:
        request: The request, checked.
        tools: Those that the loop can call.
        api: What the upstream speaks, ``"chat_completions"`` or ``"responses"``.
    """

    request: dict[str, Any]
    tools: tuple[ToolSchema, ...] = ()
    api: str = "chat_completions"


# -- requests -------------------------------------------------------------------------------------


def check_request(request: Any, api: str = "chat_completions") -> dict[str, Any]:
    """Let a request pass that can be carried out. Safe to call from any thread.

    Args:
        request: The body of a ``POST /v1/responses``.
        api: What the upstream speaks, ``"chat_completions"`` or ``"responses"``.

    Returns:
        The request as plain JSON of its own, without fields that are ``None``.

    Raises:
        ConfigurationError: It cannot; the message names the field.
    """
    if api not in DIALECTS:
        raise ConfigurationError(f"api must be one of {', '.join(DIALECTS)}, got {api!r}")
    _check("request", request, ((Mapping,), "a mapping"))
    for name in request:
        _check("a key of request", name, _STR)
    plain = _snapshot(request)
    _check_members("request", plain, _REQUIRED)
    _check_members("request", plain, {name: _OPTIONAL[name] for name in _OPTIONAL if name in plain})
    if not plain["model"]:
        raise ConfigurationError("request.model is empty")
    _check_limits(plain)
    _check_input(plain)
    _check_tools("request.tools", plain.get("tools", []))
    _check_choice(plain.get("tool_choice"))
    _check_format(plain.get("text", {}).get("format"))
    if "prompt" in plain and api == "chat_completions":
        raise ConfigurationError("request.prompt cannot be had over chat completions")
    if "conversation" in plain:  # all that was said goes upstream each time
        raise ConfigurationError("request.conversation cannot be had: use previous_response_id")
    return plain


def _snapshot(request: Mapping[str, Any]) -> Item:
    try:
        members = parse_json(encode_json(request))
    except InvalidEventError as exc:
        raise ConfigurationError(f"request{str(exc).removeprefix('$')}") from exc
    return {name: value for name, value in members.items() if value is not None}


def _check(where: str, value: Any, kind: Kind) -> None:
    types, said = kind
    is_other = isinstance(value, bool) and bool not in types  # and no number
    check_kind(where, value, () if is_other else types, said)


def _check_members(where: str, value: Item, kinds: Mapping[str, Kind]) -> None:
    for name, kind in kinds.items():
        if name not in value:
            raise ConfigurationError(f"{where}.{name} is missing")
        _check(f"{where}.{name}", value[name], kind)


def _check_limits(request: Item) -> None:
    check_count("request.max_output_tokens", request.get("max_output_tokens", 1))
    truncation = request.get("truncation", "auto")
    if truncation not in _TRUNCATIONS:
        said = " or ".join(map(repr, _TRUNCATIONS))
        raise ConfigurationError(f"request.truncation must be {said}, got {shown(truncation)}")


def _check_input(request: Item) -> None:
    if request["input"] == [] and "previous_response_id" not in request:
        raise ConfigurationError("request.input is empty")
    for place, item in enumerate(input_items(request)):
        where = f"request.input[{place}]"
        _check(where, item, _OBJECT)
        _check_item(where, item)


def _check_item(where: str, item: Item) -> None:
    kind = item.get("type") or ("message" if "role" in item else None)
    if kind is None:
        raise ConfigurationError(f"{where} has neither a type nor a role")
    _check(f"{where}.type", kind, _STR)
    _check_members(where, item, _ITEMS.get(kind, {}))
    if kind == "message" and item["role"] not in _ROLES:
        roles = ", ".join(_ROLES)
        raise ConfigurationError(f"{where}.role must be one of {roles}, got {item['role']!r}")
    for name in ("content", "output"):
        if kind in _ITEMS and isinstance(item.get(name), list):
            _check_parts(f"{where}.{name}", item[name])


def _check_parts(where: str, parts: Sequence[Any]) -> None:
    for place, part in enumerate(parts):
        _check(f"{where}[{place}]", part, _OBJECT)
        _check_members(f"{where}[{place}]", part, {"type": _STR})
        names = {_TEXTS.get(part["type"], "type"), *({"text", "refusal"} & part.keys())}
        _check_members(f"{where}[{place}]", part, dict.fromkeys(sorted(names), _STR))


def _check_tools(where: str, tools: Any) -> None:
    _check(where, tools, _LIST)
    for place, tool in enumerate(tools):
        _check(f"{where}[{place}]", tool, _OBJECT)
        _check_tool(f"{where}[{place}]", tool)


def _check_tool(where: str, tool: Item) -> None:
    if not tool.get("type"):
        raise ConfigurationError(f"{where} has no type")
    _check(f"{where}.type", tool["type"], _STR)
    if tool["type"] == "function":
        _check_function(where, flat(tool))


def _check_function(where: str, tool: Item) -> None:
    if not tool.get("name"):
        raise ConfigurationError(f"{where} has no name")
    given = {name: _FUNCTION[name] for name in _FUNCTION if tool.get(name) is not None}
    _check_members(where, tool, {"name": _STR, **given})


def _check_choice(choice: Any) -> None:
    if isinstance(choice, dict):
        _check_tool("request.tool_choice", choice)
        if choice["type"] == "allowed_tools":
            _check_tools("request.tool_choice.tools", flat(choice).get("tools"))


def _check_format(given: Any) -> None:
    if given is not None:
        _check("request.text.format", given, _OBJECT)


def input_items(request: Mapping[str, Any]) -> list[Item]:
    """The input of a request, as items. Safe to call from any thread."""
    given = request["input"]
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return list(given)


def agent_request(spec: LoopRequest, step: ChainStep) -> LoopRequest:
    """What the agent that a tool call stands for is asked. Safe to call from any thread.

    Args:
        spec: The request that the call was made for.
        step: The call.

    Raises:
        StateError: The request has no such agent.
    """
    name, args = step.request_payload["name"], step.request_payload["args"]
    agent = _agent(spec, name)
    asked = args["input"] if _is_text(args) else encode_json(args).decode()
    request: Item = {"model": agent.model or spec.request["model"], "input": asked}
    if instructions := agent.instructions or agent.description:
        request["instructions"] = instructions
    if "stream" in spec.request:
        request["stream"] = spec.request["stream"]
    names = {tool.name for tool in spec.tools} if agent.tools is None else agent.tools
    tools = tuple(tool for tool in spec.tools if tool.name in names)
    return LoopRequest(request, tools, spec.api)


def _agent(spec: LoopRequest, name: str) -> AgentSchema:
    for tool in spec.tools:
        if tool.name == name and tool.kind is ToolKind.AGENT:
            if isinstance(tool, AgentSchema):
                return tool
            return AgentSchema(name=name, description=tool.description)
    raise StateError(f"no agent has the name {name!r}")


def _is_text(args: Any) -> bool:
    return isinstance(args, Mapping) and [*args] == ["input"] and isinstance(args["input"], str)


# -- what is next ---------------------------------------------------------------------------------


class Conversation:
    """What has been said, and what is to be done next. One thread at a time.

    Args:
        spec: The request.
        history: The items of the conversation before it, which another upstream may have had.
        is_agent: Whether an agent is asked: its result is a text, not a body.
    """

    def __init__(
        self, spec: LoopRequest, *, history: Sequence[Item] = (), is_agent: bool = False
    ) -> None:
        request, self._dialect = spec.request, DIALECTS[spec.api]
        self._is_agent = is_agent
        self._of_client = _names(request) - {tool.name for tool in spec.tools}
        self._fields = self._dialect.fields(request, spec.tools)
        self._later_fields = self._dialect.fields(_unforced(request), spec.tools)
        self._said = self._dialect.opening(request, history, input_items(request))
        self._read = 0
        self._call: ChainStep | None = None
        self._turn: Turn | None = None  # what came of the call, until it is part of what was said
        self._failure: Any = None  # why it has no turn
        self._results: dict[str, ChainStep] = {}  # of the turn, by the id of the call

    def next_action(self, chain: Sequence[ChainStep]) -> NextAction:
        """What is to be done after the steps taken so far.

        It may be asked again with the same steps, and with more. What that takes depends on the new
        steps alone.

        Args:
            chain: All steps of the scope in the order of recording. All have ended.

        Raises:
            StateError: One of them has not.
        """
        self._read_on(chain)
        error = self._error()
        if error is not None:
            return Fail(error)
        if self._turn is None:
            return self._model_call()
        if self._is_last(self._turn):
            return Complete(self._turn.text if self._is_agent else self._body())
        missing = [call for call in self._turn.calls if call["call_id"] not in self._results]
        if missing:
            return AppendSteps([_tool_call(call) for call in missing])
        self._end_turn()
        return self._model_call()

    def _read_on(self, chain: Sequence[ChainStep]) -> None:
        for step in chain[self._read :]:
            if not step.state.is_terminal:
                raise StateError(f"step {step.id} has not ended, it is {step.state}")
            if step.kind is StepKind.MODEL_CALL:
                self._begin_turn(step)
            else:
                self._results[step.request_payload["call_id"]] = step
            self._read += 1

    def _begin_turn(self, call: ChainStep) -> None:
        turn, failure = None, call.error or _CANCELED
        if call.state is StepState.COMPLETED:
            turn, failure = _turn_or_failure(call, self._dialect)
        if self._turn is not None:
            self._end_turn()
        self._call, self._turn, self._failure, self._results = call, turn, failure, {}

    def _end_turn(self) -> None:
        """Add the last turn and its results to what has been said."""
        assert self._turn is not None
        ids = [call["call_id"] for call in self._turn.calls]
        steps = [self._results[call_id] for call_id in ids if call_id in self._results]
        self._said += self._dialect.answered(self._body(), self._turn, steps)
        self._fields = self._later_fields
        self._turn = None

    def _error(self) -> Any:
        if self._failure is not None:
            return self._failure
        errors = (step.error for step in self._results.values())
        return next((error for error in errors if _is_abandoned(error)), None)

    def _is_last(self, turn: Turn) -> bool:
        if turn.incomplete is not None or not turn.calls:
            return True
        names = {call["name"] for call in turn.calls}
        kinds = {item.get("type") for item in turn.items}
        return not names.isdisjoint(self._of_client) or not kinds.isdisjoint(_FOR_CLIENTS)

    def _body(self) -> Any:
        assert self._call is not None
        return self._call.response_payload

    def _model_call(self) -> AppendSteps:
        payload = {**self._fields, self._dialect.key: list(self._said)}
        return AppendSteps([StepDescriptor(StepKind.MODEL_CALL, payload)])


def _turn_or_failure(call: ChainStep, dialect: Dialect) -> tuple[Turn | None, Any]:
    """What a model has said in a call that was answered, or why that cannot be read."""
    body = call.response_payload
    try:
        turn = turn_of(body, call.id)
        if dialect.answer not in body:
            raise ProtocolError(f"answer has no {dialect.answer}")
    except ProtocolError as exc:
        return None, {"type": "upstream_error", "code": "protocol_error", "message": str(exc)}
    return turn, None


def _names(request: Mapping[str, Any]) -> set[str]:
    """The functions that a request declares."""
    tools = [flat(tool) for tool in request.get("tools", ())]
    return {tool["name"] for tool in tools if tool["type"] == "function"}


def _unforced(request: Item) -> Item:
    """A request that leaves it to the model whether to call: forced ever again it never ends."""
    choice = request.get("tool_choice")
    if choice in (None, "auto", "none"):
        return request
    restricted = isinstance(choice, dict) and choice["type"] == "allowed_tools"
    return {**request, "tool_choice": {**flat(choice), "mode": "auto"} if restricted else "auto"}


def _is_abandoned(error: Any) -> bool:
    return isinstance(error, Mapping) and error.get("type") == "step_abandoned"


def _tool_call(call: Item) -> StepDescriptor:
    args = _arguments(call["arguments"])
    payload = {"name": call["name"], "args": args, "call_id": call["call_id"]}
    return StepDescriptor(StepKind.TOOL_CALL, payload)


def _arguments(text: str) -> Any:
    """The object that a model wrote, or its text where that is none that can be kept."""
    try:
        value = parse_json(text.strip() or "{}")
        encode_json(value)
    except (ValueError, InvalidEventError):
        return text
    return value if isinstance(value, dict) else text
