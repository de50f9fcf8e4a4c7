"""A chain of steps becomes a response that any client of the Responses API can read."""

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._core.assembly import assemble, output_items
from reasoning_sdk.steps import ChainStep, StepKind, StepState, ToolSchema
from tests.support.open_responses import check_response

JSON = dict[str, Any]

ADD = ToolSchema("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
REQUEST: JSON = {"model": "m", "input": "1 + 2?"}


def chat(
    text: str = "", *calls: str, finish_reason: str = "stop", usage: JSON | None = None
) -> JSON:
    tool_calls = [
        {"id": id, "type": "function", "function": {"name": "add", "arguments": "{}"}}
        for id in calls
    ]
    message = {"role": "assistant", "content": text, "tool_calls": tool_calls}
    body: JSON = {"choices": [{"message": message, "finish_reason": finish_reason}]}
    return body if usage is None else {**body, "usage": usage}


def model_call(
    payload: Any, number: int = 1, state: StepState = StepState.COMPLETED, **fields: Any
) -> ChainStep:
    return ChainStep(
        f"s{number}", StepKind.MODEL_CALL, state, number, response_payload=payload, **fields
    )


def tool_call(
    call_id: str,
    number: int = 2,
    *,
    state: StepState = StepState.COMPLETED,
    result: Any = "3",
    error: Any = None,
) -> ChainStep:
    request = {"name": "add", "args": {}, "call_id": call_id}
    return ChainStep(
        f"s{number}",
        StepKind.TOOL_CALL,
        state,
        number,
        request_payload=request,
        response_payload=result,
        error=error,
    )


CHAIN = [
    model_call(chat("Let me see.", "call_1", "call_2")),
    tool_call("call_1", 2),
    tool_call("call_2", 3, result=[{"type": "input_text", "text": "4"}]),
    model_call(chat("3 and 4"), 4),
]


def made(request: Mapping[str, Any] = REQUEST, **options: Any) -> JSON:
    """An assembled response, which has passed its schema."""
    given = {"tools": [], "response_id": "resp_1", "chain": [], "created_at": 1000.9, **options}
    response = assemble(request, **given)
    check_response(response)
    return response


def usage_of(*payloads: Any, **options: Any) -> JSON | None:
    chain = [model_call(payload, number) for number, payload in enumerate(payloads)]
    usage: JSON | None = made(chain=chain, **options)["usage"]
    return usage


# -- output ------------------------------------------------------------------------------------


def test_the_output_has_what_was_said_and_what_came_of_the_calls_in_the_order_of_the_steps() -> (
    None
):
    assert [(item["type"], item["id"]) for item in output_items(CHAIN)] == [
        ("message", "msg_s1"),
        ("function_call", "fc_s1_0"),
        ("function_call", "fc_s1_1"),
        ("function_call_output", "fco_s2"),
        ("function_call_output", "fco_s3"),
        ("message", "msg_s4"),
    ]
    assert made(chain=CHAIN)["output"] == output_items(CHAIN)


def test_a_tool_call_under_way_is_an_item_in_progress() -> None:
    for state in (StepState.PENDING, StepState.PROCESSING):
        (item,) = output_items([tool_call("call_1", state=state)])
        assert (item["status"], item["output"]) == ("in_progress", "")


def test_a_failed_tool_call_is_told_with_its_error() -> None:
    error = {"type": "tool_error", "message": "no"}
    (item,) = made(chain=[tool_call("call_1", state=StepState.FAILED, error=error)])["output"]
    assert item["status"] == "incomplete"
    assert item["output"] == '{"error":{"type":"tool_error","message":"no"}}'


@pytest.mark.parametrize("state", [state for state in StepState if state != StepState.COMPLETED])
def test_a_model_call_that_is_not_completed_gives_no_items(state: StepState) -> None:
    assert output_items([model_call(chat("half"), state=state)]) == []


@pytest.mark.parametrize("payload", [None, "text", [], {}, {"choices": []}, {"output": [1]}])
def test_an_answer_that_cannot_be_read_gives_no_items_and_no_usage(payload: Any) -> None:
    chain = [model_call(payload), model_call(chat("read"), 2), model_call(payload, 3)]
    response = made(chain=chain, agent_steps=[model_call(payload)], status="completed")
    assert [item["id"] for item in response["output"]] == ["msg_s2"]
    assert response["usage"] is None
    assert response["status"] == "completed"


def test_items_of_the_responses_api_keep_what_they_have() -> None:
    part = {"type": "output_text", "text": "Hello"}
    item = {"type": "message", "id": "theirs", "role": "assistant", "content": [part]}
    body = {"object": "response", "output": [item], "status": "completed"}
    (told,) = made(chain=[model_call(body)])["output"]
    assert told["id"] == "msg_s1_0"
    assert told["content"][0]["text"] == "Hello"


# -- how it is, and was ------------------------------------------------------------------------


def test_a_response_in_progress_has_no_end() -> None:
    response = made()
    assert response["id"] == "resp_1"
    assert response["object"] == "response"
    assert response["status"] == "in_progress"
    assert response["created_at"] == 1000
    assert isinstance(response["created_at"], int)
    ended = ("completed_at", "incomplete_details", "error", "usage")
    assert [response[name] for name in ended] == [None] * 4
    assert response["output"] == []


def test_a_queued_response_says_so() -> None:
    assert made(status="queued")["status"] == "queued"


def test_a_completed_response_says_when_in_whole_seconds() -> None:
    response = made(chain=CHAIN, status="completed", ended_at=1002.7)
    assert response["status"] == "completed"
    assert response["completed_at"] == 1002
    assert isinstance(response["completed_at"], int)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_response_that_did_not_complete_has_no_time_of_completion(status: str) -> None:
    response = made(chain=CHAIN, status=status, ended_at=1002.7)
    assert (response["status"], response["completed_at"]) == (status, None)


@pytest.mark.parametrize(
    ("finish_reason", "reason"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter")],
)
def test_a_model_stopped_early_in_its_last_call_makes_the_response_incomplete(
    finish_reason: str, reason: str
) -> None:
    chain = [*CHAIN, model_call(chat("5 a", finish_reason=finish_reason), 5)]
    response = made(chain=chain, status="completed", ended_at=1002.7)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": reason}
    assert response["completed_at"] is None
    assert response["output"][-1]["status"] == "incomplete"


def test_a_model_stopped_early_in_its_last_call_counts_also_before_tool_calls() -> None:
    chain = [model_call(chat("a", "call_1", finish_reason="length")), tool_call("call_1")]
    assert made(chain=chain, status="completed")["status"] == "incomplete"


def test_a_model_stopped_early_and_asked_again_leaves_the_response_complete() -> None:
    chain = [model_call(chat("a", finish_reason="length")), model_call(chat("b"), 2)]
    assert made(chain=chain, status="completed")["status"] == "completed"


@pytest.mark.parametrize("status", ["in_progress", "failed", "cancelled"])
def test_only_a_completed_response_becomes_incomplete(status: str) -> None:
    chain = [model_call(chat("a", finish_reason="length"))]
    response = made(chain=chain, status=status)
    assert (response["status"], response["incomplete_details"]) == (status, None)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            {"type": "loop_error", "message": "no", "path": 1},
            {"code": "loop_error", "message": "no"},
        ),
        (
            {"type": "upstream_error", "code": "model_not_found", "message": "no"},
            {"code": "model_not_found", "message": "no"},
        ),
        ({"code": 404, "message": None}, {"code": "404", "message": ""}),
        ({}, {"code": "server_error", "message": ""}),
        ("broken", {"code": "server_error", "message": "broken"}),
    ],
)
def test_an_error_is_a_code_and_a_message(error: Any, told: JSON) -> None:
    assert made(status="failed", error=error)["error"] == told


# -- the request -------------------------------------------------------------------------------


def test_what_the_request_does_not_say_has_the_defaults_of_the_api() -> None:
    nothing = made()
    assert nothing["model"] == "m"
    assert nothing["instructions"] is None
    assert nothing["previous_response_id"] is None
    assert (nothing["temperature"], nothing["top_p"]) == (1.0, 1.0)
    assert nothing["text"] == {"format": {"type": "text"}}
    assert nothing["tool_choice"] == "auto"
    assert nothing["tools"] == []
    assert nothing["metadata"] == {}
    assert nothing["store"] is True
    nulls = dict.fromkeys(("temperature", "text", "tools", "metadata", "reasoning", "tool_choice"))
    assert made({**REQUEST, **nulls}) == nothing


def test_what_the_request_says_is_told_again() -> None:
    said = {
        "model": "gpt",
        "previous_response_id": "resp_0",
        "instructions": "Be brief.",
        "tool_choice": "required",
        "truncation": "auto",
        "parallel_tool_calls": False,
        "top_p": 0.5,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "top_logprobs": 2,
        "temperature": 0,
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": 16,
        "max_tool_calls": 3,
        "store": False,
        "background": True,
        "service_tier": "flex",
        "metadata": {"a": "b"},
        "safety_identifier": "who",
        "prompt_cache_key": "key",
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
    }
    response = made({**said, "input": "1 + 2?", "stream": True, "include": []})
    assert {name: response[name] for name in said} == said
    assert not {"input", "stream", "include"} & set(response)


def test_a_format_with_a_schema_has_all_its_fields() -> None:
    schema = {"type": "object"}
    given = {"type": "json_schema", "name": "sum", "schema": schema, "strict": None}
    response = made({**REQUEST, "text": {"format": given}})
    assert response["text"]["format"] == {
        "type": "json_schema",
        "name": "sum",
        "description": None,
        "schema": schema,
        "strict": False,
    }


def test_what_is_said_of_reasoning_has_all_its_fields() -> None:
    response = made({**REQUEST, "reasoning": {"effort": "high"}})
    assert response["reasoning"] == {"effort": "high", "summary": None}


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"type": "function", "name": "add"}, {"type": "function", "name": "add"}),
        ({"type": "function", "function": {"name": "add"}}, {"type": "function", "name": "add"}),
        (
            {"type": "allowed_tools", "tools": []},
            {"type": "allowed_tools", "mode": "auto", "tools": []},
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": []},
            {"type": "allowed_tools", "mode": "required", "tools": []},
        ),
    ],
)
def test_a_choice_of_tools_is_told_in_the_flat_shape(choice: JSON, told: JSON) -> None:
    assert made({**REQUEST, "tool_choice": choice})["tool_choice"] == told


def test_the_tools_are_those_of_the_request_and_those_of_the_loop() -> None:
    tools = [
        {"type": "function", "name": "mine"},
        {"type": "function", "function": {"name": "older", "strict": True, "parameters": {}}},
        {"type": "function", "name": "add", "description": "of the request"},
    ]
    assert made({**REQUEST, "tools": tools}, tools=[ADD])["tools"] == [
        {
            "type": "function",
            "name": "mine",
            "description": None,
            "parameters": None,
            "strict": None,
        },
        {
            "type": "function",
            "name": "older",
            "description": None,
            "parameters": {},
            "strict": True,
        },
        {
            "type": "function",
            "name": "add",
            "description": "Adds.",
            "parameters": ADD.parameters,
            "strict": False,
        },
    ]


def test_a_tool_that_is_no_function_is_told_as_it_is() -> None:
    request = {**REQUEST, "tools": [{"type": "web_search", "filters": {}}]}
    response = assemble(request, tools=(), response_id="r", chain=(), created_at=0)
    assert response["tools"] == [{"type": "web_search", "filters": {}}]


# -- usage -------------------------------------------------------------------------------------


def counts(given: int, made: int, cached: int | None = None, thought: int | None = None) -> JSON:
    """The usage of a chat completion."""
    usage: JSON = {"prompt_tokens": given, "completion_tokens": made}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached, "audio_tokens": 1}
    if thought is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": thought}
    return usage


def test_the_usage_is_that_of_all_calls_those_of_agents_too() -> None:
    agents = [model_call(chat("c", usage=counts(100, 200, cached=3, thought=4)), 9)]
    usage = usage_of(
        chat("a", usage=counts(1, 2)), chat("b", usage=counts(10, 20, cached=5)), agent_steps=agents
    )
    assert usage == {
        "input_tokens": 111,
        "input_tokens_details": {"cached_tokens": 8, "audio_tokens": 2},
        "output_tokens": 222,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 333,
    }


def test_what_agents_say_is_no_output() -> None:
    assert made(agent_steps=iter(CHAIN))["output"] == []


def test_the_usage_of_both_dialects_adds_up() -> None:
    theirs = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 35,
    }
    usage = usage_of(chat("a", usage=counts(1, 2)), {"output": [], "usage": theirs})
    assert usage == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens": 22,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 38,
    }


def test_the_details_of_usage_are_zero_when_nobody_tells_them() -> None:
    assert usage_of(chat("a", usage=counts(1, 2))) == {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 3,
    }


def test_there_is_no_usage_when_no_call_told_any() -> None:
    assert usage_of(chat("a"), {"output": [], "usage": {}}) is None


def test_a_usage_that_is_no_count_counts_nothing() -> None:
    odd = {"input_tokens": "many", "input_tokens_details": 3, "output_tokens": 2, "x": {"y": 1}}
    assert usage_of({"output": [], "usage": odd}) == {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 2,
    }


@given(st.lists(st.tuples(*[st.integers(0, 10**9)] * 4), min_size=1))
def test_the_usage_of_any_calls_is_their_sum(calls: list[tuple[int, int, int, int]]) -> None:
    usage = usage_of(*(chat("a", usage=counts(*call)) for call in calls))
    assert usage is not None
    sums = [sum(column) for column in zip(*calls, strict=True)]
    assert [usage["input_tokens"], usage["output_tokens"]] == sums[:2]
    assert usage["input_tokens_details"]["cached_tokens"] == sums[2]
    assert usage["output_tokens_details"]["reasoning_tokens"] == sums[3]
    assert usage["total_tokens"] == sums[0] + sums[1]


# -- nothing is shared -------------------------------------------------------------------------


def scribble(value: Any) -> None:
    """Change everything that can be changed."""
    for part in list(value.values() if isinstance(value, dict) else value):
        if isinstance(part, (dict, list)):
            scribble(part)
    value.clear()


def test_whoever_changes_a_response_changes_nothing_else() -> None:
    summary = [{"type": "summary_text", "text": "hm"}]
    body = {"output": [{"type": "reasoning", "id": "r", "summary": summary}]}
    chain = [*CHAIN, model_call(body, 5)]
    request = {
        **REQUEST,
        "metadata": {"a": "b"},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    }
    before = copy.deepcopy((request, chain, ADD))
    first = made(request, tools=[ADD], chain=chain)
    again = copy.deepcopy(first)
    scribble(first)
    assert (request, chain, ADD) == before
    assert made(request, tools=[ADD], chain=chain) == again


def test_mappings_and_tuples_come_out_as_json() -> None:
    parameters = MappingProxyType({"type": "object", "required": ("a",)})
    response = made(MappingProxyType(REQUEST), tools=(ToolSchema("f", "", parameters),), chain=())
    assert response["tools"][0]["parameters"] == {"type": "object", "required": ["a"]}
