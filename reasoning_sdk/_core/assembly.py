"""The object of the Responses API that a chain of steps amounts to, at any time of its life."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reasoning_sdk._core.translation import flat
from reasoning_sdk._core.turn import Item, Turn, tool_output_item, turn_of
from reasoning_sdk.errors import ProtocolError
from reasoning_sdk.steps import ChainStep, StepKind, StepState, ToolSchema

__all__ = ["assemble", "copied", "output_items"]

# What a response tells of its request, and what holds where the request does not say.
_DEFAULTS: Mapping[str, Any] = {
    "model": "",
    "previous_response_id": None,
    "instructions": None,
    "tool_choice": "auto",
    "truncation": "disabled",
    "parallel_tool_calls": True,
    "text": {},
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_logprobs": 0,
    "temperature": 1.0,
    "reasoning": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "store": True,
    "background": False,
    "service_tier": "default",
    "metadata": {},
    "safety_identifier": None,
    "prompt_cache_key": None,
}


def output_items(chain: Sequence[ChainStep]) -> list[Item]:
    """The output of a response: what the model has said, and what came of its calls.

    Args:
        chain: The steps of the top scope.

    Returns:
        Items in the order of the steps; a tool call under way is one in progress. What is in them
        may be shared with the steps.
    """
    return _items(zip(chain, map(_turn, chain), strict=True))


def assemble(
    request: Mapping[str, Any],
    *,
    tools: Sequence[ToolSchema],
    response_id: str,
    chain: Sequence[ChainStep],
    agent_steps: Iterable[ChainStep] = (),
    created_at: float,
    ended_at: float | None = None,
    status: str = "in_progress",
    error: Any = None,
) -> Item:
    """Put a response together.

    Args:
        request: The body of the ``POST /v1/responses``.
        tools: The tools that the loop has added.
        response_id: The response's id.
        chain: The steps of the top scope.
        agent_steps: The steps of all sub-agents, of which only the usage counts.
        created_at: When it was asked for, in seconds since the epoch.
        ended_at: When it ended, if it has.
        status: ``"queued"``, ``"in_progress"``, ``"completed"``, ``"failed"`` or ``"cancelled"``;
            a completed one is told as ``"incomplete"`` when the model was stopped early.
        error: What it failed with, ``{"type", "message", "code"?, …}``.

    Returns:
        The response. It shares nothing that can be changed with the arguments.

    Source: the Open Responses specification, schema ``ResponseResource``.
    """
    turns = [_turn(step) for step in chain]
    incomplete = _incomplete(chain, turns) if status == "completed" else None
    status = status if incomplete is None else "incomplete"
    response = {
        "id": response_id,
        "object": "response",
        "created_at": int(created_at),
        "completed_at": int(ended_at) if ended_at is not None and status == "completed" else None,
        "status": status,
        "incomplete_details": None if incomplete is None else {"reason": incomplete},
        "error": None if error is None else _error(error),
        **_echo(request),
        "tools": _tools(request, tools),
        "output": _items(zip(chain, turns, strict=True)),
        "usage": _usage([*turns, *map(_turn, agent_steps)]),
    }
    return {name: copied(value) for name, value in response.items()}


def _turn(step: ChainStep) -> Turn | None:
    """What the model has said in a step, if that is a model call and can be read."""
    if step.kind is not StepKind.MODEL_CALL or step.state is not StepState.COMPLETED:
        return None
    try:
        return turn_of(step.response_payload, step.id)
    except ProtocolError:  # of a store of somebody's own: what it kept is no answer
        return None


def _items(steps: Iterable[tuple[ChainStep, Turn | None]]) -> list[Item]:
    items: list[Item] = []
    for step, turn in steps:
        if turn is not None:
            items += turn.items
        elif step.kind is StepKind.TOOL_CALL:
            items.append(tool_output_item(step))
    return items


def _incomplete(chain: Sequence[ChainStep], turns: Sequence[Turn | None]) -> str | None:
    """Why the model was stopped early when it was called last."""
    calls = [
        turn for step, turn in zip(chain, turns, strict=True) if step.kind is StepKind.MODEL_CALL
    ]
    return calls[-1].incomplete if calls and calls[-1] is not None else None


def _error(error: Any) -> Item:
    details = error if isinstance(error, Mapping) else {"message": error}
    code = details.get("code") or details.get("type") or "server_error"
    return {"code": str(code), "message": str(details.get("message") or "")}


def _echo(request: Mapping[str, Any]) -> Item:
    """What the request says, with the defaults where it says nothing or null."""
    said = {name: value for name in _DEFAULTS if (value := request.get(name)) is not None}
    echo = {**_DEFAULTS, **said}
    echo["text"] = {**echo["text"], "format": _format(echo["text"].get("format"))}
    if echo["reasoning"] is not None:
        echo["reasoning"] = {"effort": None, "summary": None, **echo["reasoning"]}
    if isinstance(echo["tool_choice"], Mapping):
        echo["tool_choice"] = _choice(flat(dict(echo["tool_choice"])))
    return echo


def _choice(choice: Item) -> Item:
    return {"mode": "auto", **choice} if choice["type"] == "allowed_tools" else choice


def _format(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if given is None:
        return {"type": "text"}
    if given.get("type") != "json_schema":
        return given
    return {"description": None, **given, "strict": bool(given.get("strict"))}


def _tools(request: Mapping[str, Any], schemas: Sequence[ToolSchema]) -> list[Item]:
    """All tools that there were; of two of one name that of the loop."""
    blank = {"description": None, "parameters": None, "strict": None}
    names = {schema.name for schema in schemas}
    declared = [flat(tool) for tool in request.get("tools") or ()]
    return [
        *(
            {**blank, **tool} if tool["type"] == "function" else tool
            for tool in declared
            if tool.get("name") not in names
        ),
        *map(_of_schema, schemas),
    ]


def _of_schema(schema: ToolSchema) -> Item:
    told = {name: getattr(schema, name) for name in ("name", "description", "parameters", "strict")}
    return {"type": "function", **told}


def _usage(turns: Iterable[Turn | None]) -> Item | None:
    """The tokens of all calls together, if any of them has told."""
    told = [turn.usage for turn in turns if turn is not None and turn.usage]
    if not told:
        return None
    sums = _sums(told)
    given, made = (
        _sums(usage.get(name) for usage in told)
        for name in ("input_tokens_details", "output_tokens_details")
    )
    return {
        "input_tokens": sums["input_tokens"],
        "input_tokens_details": {"cached_tokens": 0, **given},
        "output_tokens": sums["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0, **made},
        "total_tokens": sum(map(_total, told)),
    }


def _total(usage: Item) -> int:
    sums = _sums([usage])
    return sums["total_tokens"] or sums["input_tokens"] + sums["output_tokens"]


def _sums(counts: Iterable[Any]) -> Counter[str]:
    """The integers of all mappings, added up by their names."""
    sums = Counter[str]()
    for count in counts:
        if isinstance(count, Mapping):
            sums.update({name: n for name, n in count.items() if isinstance(n, int)})
    return sums


def copied(value: Any) -> Any:
    """JSON, made anew."""
    if isinstance(value, Mapping):
        return {name: copied(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(part) for part in value]
    return value
