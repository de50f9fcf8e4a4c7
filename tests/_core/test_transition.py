"""What is done next, and what upstreams are sent, of a request and the steps taken so far."""

import itertools
import json
import logging
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._core import translation
from reasoning_sdk._core.transition import (
    Conversation,
    LoopRequest,
    agent_request,
    check_request,
    input_items,
)
from reasoning_sdk._core.turn import turn_of
from reasoning_sdk.errors import ConfigurationError, InvalidEventError, StateError
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

Item = dict[str, Any]

EMPTY = {"type": "object", "properties": {}}
ADD = ToolSchema("add", "Adds.")
MUL = ToolSchema("mul", "Multiplies.", strict=True)


@pytest.fixture(autouse=True)
def fresh_warnings():
    translation._leave_out.cache_clear()


# -- chains ----------------------------------------------------------------------------------------


def chat_body(*calls: Item, text: str | None = None, finish: str = "", **extra: Any) -> Item:
    message = {"role": "assistant", "content": text, "refusal": None, **extra}
    if calls:
        message["tool_calls"] = list(calls)
    reason = finish or ("tool_calls" if calls else "stop")
    return {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}


def chat_call(name: str = "add", arguments: Any = "{}", id: str | None = "call_1") -> Item:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def response_body(*items: Item, **extra: Any) -> Item:
    return {"id": "resp_up", "status": "completed", "output": list(items), **extra}


def call_of(name: str = "add", arguments: str = "{}", call_id: str = "call_1") -> Item:
    return {
        "type": "function_call",
        "id": f"fc_up_{call_id}",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }


def message_of(text: str) -> Item:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": "msg_up", "role": "assistant", "content": [part]}


def model(
    number: int, body: Any, state: StepState = StepState.COMPLETED, error: Any = None
) -> ChainStep:
    return ChainStep(
        f"s{number}", StepKind.MODEL_CALL, state, number, response_payload=body, error=error
    )


def tool(
    number: int,
    call_id: str = "call_1",
    result: Any = "3",
    *,
    name: str = "add",
    args: Any = None,
    state: StepState = StepState.COMPLETED,
    error: Any = None,
) -> ChainStep:
    payload = {"name": name, "args": {} if args is None else args, "call_id": call_id}
    return ChainStep(
        f"s{number}",
        StepKind.TOOL_CALL,
        state,
        number,
        request_payload=payload,
        response_payload=result,
        error=error,
    )


def spec_of(tools: tuple[ToolSchema, ...] = (ADD, MUL), /, api: str = "chat_completions", **fields):
    request = check_request({"model": "m", "input": "1 + 2?", **fields}, api)
    return LoopRequest(request, tools, api)


def payload_of(action: NextAction) -> Item:
    """The body of the one model call that an action is."""
    assert isinstance(action, AppendSteps)
    (step,) = action.steps
    assert step.kind is StepKind.MODEL_CALL
    return step.request_payload


def first_payload(tools: tuple[ToolSchema, ...] = (), /, history=(), **fields: Any) -> Item:
    return payload_of(Conversation(spec_of(tools, **fields), history=history).next_action([]))


def calls_of(action: NextAction) -> list[Item]:
    assert isinstance(action, AppendSteps)
    assert all(step.kind is StepKind.TOOL_CALL for step in action.steps)
    return [step.request_payload for step in action.steps]


# -- requests --------------------------------------------------------------------------------------

INPUT = {"role": "user", "content": "Hi"}

BAD_REQUESTS = [
    (["model"], "request must be a mapping, got a list"),
    (None, "request must be a mapping, got a NoneType"),
    ({"input": "Hi"}, "request.model is missing"),
    ({"input": "Hi", "model": None}, "request.model is missing"),
    ({"input": "Hi", "model": ""}, "request.model is empty"),
    ({"input": "Hi", "model": 5}, "request.model must be a str, got an int"),
    ({"model": "m"}, "request.input is missing"),
    ({"model": "m", "input": 5}, "request.input must be a str or a list of items, got an int"),
    ({"model": "m", "input": []}, "request.input is empty"),
    ({"model": "m", "input": "Hi", 5: 1}, "a key of request must be a str, got an int"),
]
BAD_FIELDS: list[tuple[Item, str]] = [
    ({"input": [INPUT, INPUT, "Hi"]}, "request.input[2] must be an object, got a str"),
    ({"input": [{"content": "Hi"}]}, "request.input[0] has neither a type nor a role"),
    ({"input": [{"type": 1}]}, "request.input[0].type must be a str, got an int"),
    ({"input": [{"role": "user"}]}, "request.input[0].content is missing"),
    ({"input": [{"type": "message", "content": ""}]}, "request.input[0].role is missing"),
    (
        {"input": [{"role": "tool", "content": ""}]},
        "request.input[0].role must be one of user, assistant, system, developer, got 'tool'",
    ),
    (
        {"input": [{"role": "user", "content": 1.5}]},
        "request.input[0].content must be a str or a list of parts, got a float",
    ),
    (
        {"input": [{"role": "user", "content": ["Hi"]}]},
        "request.input[0].content[0] must be an object, got a str",
    ),
    (
        {"input": [{"role": "user", "content": [{"text": "Hi"}]}]},
        "request.input[0].content[0].type is missing",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]},
        "request.input[0].content[0].text must be a str, got an int",
    ),
    ({"input": [{"type": "function_call"}]}, "request.input[0].call_id is missing"),
    ({"input": [{"type": "function_call", "call_id": "c"}]}, "request.input[0].name is missing"),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}]},
        "request.input[0].arguments must be a str, got a dict",
    ),
    ({"input": [{"type": "function_call_output", "output": ""}]}, "request.input[0].call_id is"),
    (
        {"input": [{"type": "function_call_output", "call_id": "c"}]},
        "request.input[0].output is missing",
    ),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": [None]}]},
        "request.input[0].output[0] must be an object, got a NoneType",
    ),
    ({"instructions": ["Be brief."]}, "request.instructions must be a str, got a list"),
    ({"temperature": "1"}, "request.temperature must be a number, got a str"),
    ({"top_p": True}, "request.top_p must be a number, got a bool"),
    ({"max_output_tokens": 1.5}, "request.max_output_tokens must be an int, got a float"),
    ({"max_output_tokens": True}, "request.max_output_tokens must be an int, got a bool"),
    ({"stream": 1}, "request.stream must be a bool, got an int"),
    ({"parallel_tool_calls": "no"}, "request.parallel_tool_calls must be a bool, got a str"),
    ({"previous_response_id": 1}, "request.previous_response_id must be a str, got an int"),
    ({"metadata": []}, "request.metadata must be an object, got a list"),
    ({"text": "json"}, "request.text must be an object, got a str"),
    ({"text": {"format": "json"}}, "request.text.format must be an object, got a str"),
    ({"reasoning": "high"}, "request.reasoning must be an object, got a str"),
    ({"tools": {}}, "request.tools must be a list, got a dict"),
    ({"tools": ["add"]}, "request.tools[0] must be an object, got a str"),
    ({"tools": [{"name": "add"}]}, "request.tools[0] has no type"),
    ({"tools": [{"type": 1}]}, "request.tools[0].type must be a str, got an int"),
    ({"tools": [{"type": "function"}]}, "request.tools[0] has no name"),
    ({"tools": [{"type": "function", "function": {}}]}, "request.tools[0] has no name"),
    ({"tools": [{"type": "function", "name": 1}]}, "request.tools[0].name must be a str, got an"),
    ({"tool_choice": 1}, "request.tool_choice must be a str or an object, got an int"),
    ({"tool_choice": {}}, "request.tool_choice has no type"),
    ({"tool_choice": {"type": "function"}}, "request.tool_choice has no name"),
    ({"tool_choice": {"type": "allowed_tools"}}, "request.tool_choice.tools must be a list, got"),
    (
        {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "function"}]}},
        "request.tool_choice.tools[0] has no name",
    ),
    ({"conversation": "conv_1"}, "request.conversation cannot be had: use previous_response_id"),
    ({"prompt": {"id": "p"}}, "request.prompt cannot be had over chat completions"),
    ({"user": {1, 2}}, "request.user cannot be JSON: a set"),
    ({"user": 5}, "request.user must be a str, got an int"),
    ({"max_output_tokens": 0}, "request.max_output_tokens must be an int > 0, got 0"),
    ({"max_output_tokens": -1}, "request.max_output_tokens must be an int > 0, got -1"),
    ({"truncation": "off"}, "request.truncation must be 'auto' or 'disabled', got 'off'"),
    ({"truncation": ["auto"]}, "request.truncation must be 'auto' or 'disabled', got ['auto']"),
    *(
        (
            {"input": [{"role": "user", "content": [{"type": kind}]}]},
            f"request.input[0].content[0].{name} is missing",
        )
        for kind, name in [
            ("input_text", "text"),
            ("output_text", "text"),
            ("text", "text"),
            ("refusal", "refusal"),
        ]
    ),
    (
        {"input": [{"role": "user", "content": [{"type": ["text"]}]}]},
        "request.input[0].content[0].type must be a str, got a list",
    ),
    (
        {"tools": [{"type": "function", "name": "add", "parameters": "none"}]},
        "request.tools[0].parameters must be an object, got a str",
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "add", "parameters": []}}]},
        "request.tools[0].parameters must be an object, got a list",
    ),
    (
        {"tools": [{"type": "function", "name": "add", "strict": "yes"}]},
        "request.tools[0].strict must be a bool, got a str",
    ),
    (
        {"tools": [{"type": "function", "name": "add", "description": 5}]},
        "request.tools[0].description must be a str, got an int",
    ),
    ({"top_p": float("nan")}, "request.top_p cannot be JSON: nan is not finite"),
]


@pytest.mark.parametrize(
    ("request_", "said"),
    BAD_REQUESTS + [({"model": "m", "input": "Hi", **fields}, said) for fields, said in BAD_FIELDS],
)
def test_a_bad_request_is_refused_with_the_name_of_the_field(request_, said):
    with pytest.raises(ConfigurationError) as caught:
        check_request(request_)
    assert str(caught.value).startswith(said)


def test_what_is_no_json_is_refused_with_its_cause():
    with pytest.raises(ConfigurationError) as caught:
        check_request({"model": "m", "input": "Hi", "user": object()})
    assert isinstance(caught.value.__cause__, InvalidEventError)


def test_an_unknown_api_is_refused():
    with pytest.raises(ConfigurationError, match="api must be one of chat_completions, responses"):
        check_request({"model": "m", "input": "Hi"}, "completions")


def test_fields_that_chat_completions_cannot_have_are_passed_to_an_upstream_that_can():
    payload = first_payload(api="responses", prompt={"id": "p"})
    assert payload["prompt"] == {"id": "p"}


def test_a_checked_request_is_a_snapshot_without_fields_that_are_none():
    given_ = {"model": "m", "input": [dict(INPUT)], "tools": None, "x": {"y": (1, 2)}, "n": 1}
    checked = check_request(MappingProxyType(given_))
    given_["input"][0]["content"] = "changed"
    assert checked == {"model": "m", "input": [INPUT], "x": {"y": [1, 2]}, "n": 1}


def test_an_empty_input_continues_another_response():
    checked = check_request({"model": "m", "input": [], "previous_response_id": "resp_1"})
    assert input_items(checked) == []


@pytest.mark.parametrize(
    "item",
    [
        {"role": "developer", "content": []},
        {"type": None, "role": "user", "content": "Hi"},
        {"type": "reasoning", "summary": [], "content": None},
        {"type": "item_reference", "id": "msg_1"},
        {"type": "of_tomorrow", "content": [1]},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]},
    ],
)
def test_every_item_that_can_be_read_is_let_pass(item):
    assert input_items(check_request({"model": "m", "input": [item]})) == [item]


def test_tools_of_other_types_need_no_name():
    tools = [{"type": "web_search"}, {"type": "mcp", "server_label": "x"}]
    assert check_request({"model": "m", "input": "Hi", "tools": tools})["tools"] == tools


def test_a_function_may_say_no_more_than_its_name():
    nothing = {"description": None, "parameters": None, "strict": None}
    tools = [{"type": "function", "name": "add", **nothing}, {"type": "function", "name": "sub"}]
    assert check_request({"model": "m", "input": "Hi", "tools": tools})["tools"] == tools


def test_limits_that_can_be_are_let_pass():
    limits = {"max_output_tokens": 1, "truncation": "disabled", "user": "u"}
    assert check_request({"model": "m", "input": "Hi", **limits}).items() >= limits.items()


def test_a_text_is_one_message_of_the_user():
    assert input_items({"input": "Hi"}) == [{"type": "message", "role": "user", "content": "Hi"}]


# -- agents ----------------------------------------------------------------------------------------

RESEARCHER = AgentSchema(
    "research", "Finds out.", instructions="Find out.", model="small", tools=["add"]
)


def test_an_agent_is_asked_with_its_own_instructions_model_and_tools():
    spec = spec_of((ADD, MUL, RESEARCHER), stream=True, temperature=1, instructions="Be brief.")
    asked = agent_request(spec, tool(2, name="research", args={"input": "Who?"}))
    request = {"model": "small", "input": "Who?", "instructions": "Find out.", "stream": True}
    assert asked == LoopRequest(request, (ADD,), "chat_completions")


def test_an_agent_without_its_own_has_those_of_the_response():
    agent = AgentSchema("research")
    asked = agent_request(spec_of((ADD, agent), api="responses"), tool(2, name="research"))
    assert asked == LoopRequest({"model": "m", "input": "{}"}, (ADD, agent), "responses")


def test_a_plain_schema_of_an_agent_is_instructed_by_its_description():
    agent = ToolSchema("research", "Finds out.", kind=ToolKind.AGENT)
    asked = agent_request(spec_of((ADD, agent)), tool(2, name="research"))
    assert asked.request == {"model": "m", "input": "{}", "instructions": "Finds out."}
    assert asked.tools == (ADD, agent)


@pytest.mark.parametrize("args", [{"input": "a", "b": 1}, {"input": 1}, {"q": "ü"}, {}, [1]])
def test_other_arguments_of_an_agent_are_its_input_as_json(args):
    asked = agent_request(spec_of((RESEARCHER,)), tool(2, name="research", args=args))
    assert json.loads(asked.request["input"]) == args


@pytest.mark.parametrize("name", ["add", "nobody"])
def test_what_is_no_agent_cannot_be_asked(name):
    with pytest.raises(StateError, match=f"no agent has the name '{name}'"):
        agent_request(spec_of(), tool(2, name=name))


def test_the_tools_of_the_client_are_not_for_agents():
    spec = spec_of((RESEARCHER,), tools=[{"type": "function", "name": "mine"}])
    asked = agent_request(spec, tool(2, name="research", args={"input": "Who?"}))
    assert "tools" not in payload_of(Conversation(asked, is_agent=True).next_action([]))


# -- what is next ----------------------------------------------------------------------------------


def test_the_first_action_is_a_model_call():
    action = Conversation(spec_of(())).next_action([])
    payload = {"model": "m", "messages": [{"role": "user", "content": "1 + 2?"}]}
    assert action == AppendSteps([StepDescriptor(StepKind.MODEL_CALL, payload)])


def test_calls_are_made_and_their_results_sent_in_the_order_of_the_calls():
    body = chat_body(chat_call("add", '{"a":1}', "call_a"), chat_call("mul", "", "call_b"))
    chain = [model(1, body)]
    conversation = Conversation(spec_of())
    assert calls_of(conversation.next_action(chain)) == [
        {"name": "add", "args": {"a": 1}, "call_id": "call_a"},
        {"name": "mul", "args": {}, "call_id": "call_b"},
    ]
    chain += [tool(2, "call_b", {"product": 2}, name="mul"), tool(3, "call_a", "three")]
    payload = payload_of(conversation.next_action(chain))
    assert payload["messages"] == [
        {"role": "user", "content": "1 + 2?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                chat_call("add", '{"a":1}', "call_a"),
                chat_call("mul", "{}", "call_b"),
            ],
        },
        {"role": "tool", "tool_call_id": "call_a", "content": "three"},
        {"role": "tool", "tool_call_id": "call_b", "content": '{"product":2}'},
    ]
    chain.append(model(4, chat_body(text="Three.")))
    assert conversation.next_action(chain) == Complete(chain[-1].response_payload)


def test_an_agent_completes_with_its_text():
    conversation = Conversation(spec_of(), is_agent=True)
    assert conversation.next_action([model(1, chat_body(text="Three."))]) == Complete("Three.")


def test_only_the_calls_that_were_not_recorded_before_a_crash_are_made():
    body = chat_body(*(chat_call(id=f"call_{name}") for name in "abc"))
    chain = [model(1, body), tool(2, "call_b")]
    missing = calls_of(Conversation(spec_of()).next_action(chain))
    assert [call["call_id"] for call in missing] == ["call_a", "call_c"]


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("", {}),
        (" \n", {}),
        ('{"a": [1]}', {"a": [1]}),
        ("{a: 1}", "{a: 1}"),
        ("[1]", "[1]"),
        ("null", "null"),
        ('"text"', '"text"'),
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a": "\\ud800"}', '{"a": "\\ud800"}'),
    ],
)
def test_arguments_are_an_object_or_the_text_as_it_was_written(text, args):
    action = Conversation(spec_of()).next_action([model(1, chat_body(chat_call("add", text)))])
    assert calls_of(action)[0]["args"] == args


def test_arguments_that_a_server_gives_as_an_object_are_called_with_and_sent_as_text():
    chain = [model(1, chat_body(chat_call("add", {"a": 1})))]
    assert calls_of(Conversation(spec_of()).next_action(chain))[0]["args"] == {"a": 1}
    sent = payload_of(Conversation(spec_of()).next_action([*chain, tool(2)]))["messages"][1]
    assert json.loads(sent["tool_calls"][0]["function"]["arguments"]) == {"a": 1}


def test_a_tool_that_nobody_declared_is_a_step_like_any_other():
    action = Conversation(spec_of()).next_action([model(1, chat_body(chat_call("nothing")))])
    assert calls_of(action) == [{"name": "nothing", "args": {}, "call_id": "call_1"}]


CLIENTS = [
    {"type": "function", "name": "mine"},
    {"type": "function", "function": {"name": "mine"}},
]


@pytest.mark.parametrize("declared", CLIENTS)
@pytest.mark.parametrize("names", [["mine"], ["add", "mine"], ["mine", "nothing"]])
def test_a_batch_with_a_call_to_a_tool_of_the_client_is_the_clients(declared, names):
    calls = [chat_call(name, id=f"call_{name}") for name in names]
    chain = [model(1, chat_body(*calls))]
    action = Conversation(spec_of(tools=[declared])).next_action(chain)
    assert action == Complete(chain[-1].response_payload)


def test_a_tool_that_both_declare_is_the_loops():
    spec = spec_of((ADD,), tools=[{"type": "function", "name": "add", "description": "Mine."}])
    action = Conversation(spec).next_action([model(1, chat_body(chat_call("add")))])
    assert [call["name"] for call in calls_of(action)] == ["add"]
    (sent,) = payload_of(Conversation(spec).next_action([]))["tools"]
    assert sent["function"]["description"] == "Adds."


def test_a_call_that_only_the_client_can_answer_ends_the_response():
    body = response_body({"type": "custom_tool_call", "call_id": "c", "name": "x"}, call_of())
    assert Conversation(spec_of(api="responses")).next_action([model(1, body)]) == Complete(body)


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_calls_of_a_turn_that_was_cut_are_not_made(finish):
    body = chat_body(chat_call("add", '{"a":'), finish=finish)
    assert Conversation(spec_of()).next_action([model(1, body)]) == Complete(body)


def test_an_incomplete_response_of_the_upstream_completes():
    body = response_body(call_of(), status="incomplete")
    assert Conversation(spec_of(api="responses")).next_action([model(1, body)]) == Complete(body)


ERROR = {"type": "server_error", "message": "boom"}


@pytest.mark.parametrize("state", [StepState.FAILED, StepState.CANCELED])
def test_a_model_call_that_failed_fails(state):
    chain = [model(1, None, state, ERROR)]
    assert Conversation(spec_of()).next_action(chain) == Fail(ERROR)


def test_a_canceled_model_call_without_an_error_fails_with_one():
    action = Conversation(spec_of()).next_action([model(1, None, StepState.CANCELED)])
    assert action == Fail({"type": "step_canceled", "message": "the model call was canceled"})


def test_a_model_call_that_was_made_again_is_what_counts():
    failed = model(1, None, StepState.FAILED, ERROR)
    conversation = Conversation(spec_of())
    assert conversation.next_action([failed]) == Fail(ERROR)
    chain = [failed, model(2, chat_body(text="Three."))]
    assert conversation.next_action(chain) == Complete(chain[-1].response_payload)


def test_an_abandoned_tool_call_fails_even_before_the_others_are_made():
    error = {"type": "step_abandoned", "message": "nobody knows"}
    chain = [
        model(1, chat_body(chat_call(id="a"), chat_call(id="b"))),
        tool(2, "a", state=StepState.FAILED, error=error),
    ]
    assert Conversation(spec_of()).next_action(chain) == Fail(error)


@pytest.mark.parametrize(
    ("state", "error", "seen"),
    [
        (StepState.FAILED, {"type": "tool_error", "message": "no"}, ("tool_error", "no")),
        (StepState.CANCELED, None, ("error", "the call was canceled")),
    ],
)
def test_a_tool_that_failed_is_a_result_that_the_model_sees(state, error, seen):
    chain = [model(1, chat_body(chat_call())), tool(2, state=state, error=error)]
    message = payload_of(Conversation(spec_of()).next_action(chain))["messages"][-1]
    told = {"error": {"type": seen[0], "message": seen[1]}}
    assert message["role"] == "tool"
    assert json.loads(message["content"]) == told


@pytest.mark.parametrize("state", [StepState.PENDING, StepState.PROCESSING])
def test_a_step_that_has_not_ended_is_refused_and_read_when_it_has(state):
    conversation = Conversation(spec_of())
    chain = [model(1, chat_body(text="Three."))]
    with pytest.raises(StateError, match=f"step s1 has not ended, it is {state.value}"):
        conversation.next_action([attrs.evolve(chain[0], state=state)])
    assert conversation.next_action(chain) == Complete(chain[0].response_payload)


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("chat_completions", {"hello": 1}),
        ("chat_completions", "text"),
        ("chat_completions", {"output": []}),
        ("responses", {"choices": [{"message": {"content": "x"}}]}),
    ],
)
def test_an_answer_that_cannot_be_read_fails_the_response_every_time(api, body):
    conversation = Conversation(spec_of(api=api))
    for _ in range(2):
        action = conversation.next_action([model(1, body)])
        assert isinstance(action, Fail)
        assert action.payload["code"] == "protocol_error"


def test_ids_that_are_missing_or_repeated_are_the_same_everywhere():
    body = chat_body(chat_call(id=None), chat_call(id="x"), chat_call(id="x"))
    chain = [model(1, body)]
    conversation = Conversation(spec_of())
    ids = [call["call_id"] for call in calls_of(conversation.next_action(chain))]
    assert ids == [call["call_id"] for call in turn_of(body, "s1").calls]
    assert len(set(ids)) == 3
    chain += [tool(number, call_id) for number, call_id in enumerate(ids, 2)]
    assistant, *results = payload_of(conversation.next_action(chain))["messages"][1:]
    assert [call["id"] for call in assistant["tool_calls"]] == ids
    assert [message["tool_call_id"] for message in results] == ids


def test_a_turn_whose_results_were_never_recorded_is_sent_with_those_that_were():
    body = chat_body(chat_call(id="a"), chat_call(id="b"))
    again = chat_body(chat_call(id="c"))
    chain = [model(1, body), tool(2, "b"), model(3, again), tool(4, "c")]
    sent = payload_of(Conversation(spec_of()).next_action(chain))["messages"]
    assert [message.get("tool_call_id") for message in sent] == [None, None, "b", None, "c"]


# -- resumed anywhere ------------------------------------------------------------------------------


def bodies(api: str) -> st.SearchStrategy[Item]:
    """What a model may answer."""
    names = st.sampled_from(["add", "mul", "nothing", "mine"])
    ids = st.sampled_from(["call_1", "call_2", ""])
    args = st.sampled_from(["", "{}", '{"a":1}', "[", "null"])
    if api == "responses":
        calls = st.lists(st.builds(call_of, names, args, ids), max_size=3)
        lead = st.sampled_from([[], [message_of("So.")], [{"type": "reasoning", "id": "rs_up"}]])
        return st.builds(lambda items, more: response_body(*items, *more), lead, calls)
    calls = st.lists(st.builds(chat_call, names, args, ids), max_size=3)
    text = st.sampled_from([None, "", "So."])
    return st.builds(lambda items, said: chat_body(*items, text=said), calls, text)


def steps_of(data: st.DataObject, action: NextAction, numbers: "itertools.count[int]", api: str):
    """What may come of an action, recorded in part or in another order."""
    assert isinstance(action, AppendSteps)
    taken = data.draw(st.permutations(action.steps))
    for step in taken[: data.draw(st.integers(1, len(taken)))]:
        number = next(numbers)
        if step.kind is StepKind.MODEL_CALL:
            yield model(number, data.draw(bodies(api)))
        else:
            state = data.draw(st.sampled_from([StepState.COMPLETED, StepState.FAILED]))
            result = data.draw(st.sampled_from(["3", {"a": 1}, None]))
            call_id = step.request_payload["call_id"]
            yield tool(number, call_id, result, state=state, error=ERROR)


@pytest.mark.parametrize("api", ["chat_completions", "responses"])
@given(data=st.data())
def test_resumed_anywhere_the_next_action_is_the_same(api, data):
    mine = {"type": "function", "name": "mine"}
    spec = spec_of(
        api=api, tools=[mine], tool_choice=data.draw(st.sampled_from(["required", {**mine}]))
    )
    conversation, chain, numbers = Conversation(spec), [], itertools.count(1)
    for _ in range(8):
        action = conversation.next_action(tuple(chain))
        assert Conversation(spec).next_action(chain) == action
        assert conversation.next_action(chain) == action
        if not isinstance(action, AppendSteps):
            break
        chain += steps_of(data, action, numbers, api)


def test_payloads_share_no_list_with_the_conversation():
    conversation = Conversation(spec_of())
    payload_of(conversation.next_action([]))["messages"].clear()
    assert len(payload_of(conversation.next_action([]))["messages"]) == 1


class Counted(list[ChainStep]):
    """A chain that counts the steps that were looked at."""

    looked_at = 0

    def __getitem__(self, index):
        found = super().__getitem__(index)
        self.looked_at += len(found) if isinstance(index, slice) else 1
        return found

    def __iter__(self):
        raise AssertionError("the whole chain was read")


def calls_made_by(function) -> int:
    """How many functions a function calls, built-in ones too, whatever the machine does."""
    events: list[str] = []
    before = sys.getprofile()
    sys.setprofile(lambda _frame, event, _arg: events.append(event))
    try:
        function()
    finally:
        sys.setprofile(before)
    return len(events)


def grown(turns: int) -> tuple[Conversation, Counted]:
    """A conversation that has read a chain of so many turns."""
    chain = Counted()
    for number in range(1, 2 * turns, 2):
        chain += [model(number, chat_body(chat_call())), tool(number + 1)]
    conversation = Conversation(spec_of())
    conversation.next_action(chain)
    return conversation, chain


@pytest.mark.parametrize("turns", [5, 500])
def test_each_step_is_looked_at_once(turns):
    conversation, chain = grown(turns)
    chain += [model(2 * turns + 1, chat_body(chat_call())), tool(2 * turns + 2)]
    messages = payload_of(conversation.next_action(chain))["messages"]
    assert len(messages) == 1 + 2 * (turns + 1)
    assert chain.looked_at == 2 * (turns + 1)


def test_a_call_late_in_a_long_chain_does_no_more_than_one_early_in_a_short_one():
    work = []
    for turns in (5, 500):
        conversation, chain = grown(turns)
        chain += [model(2 * turns + 1, chat_body(chat_call())), tool(2 * turns + 2)]
        work.append(calls_made_by(lambda c=conversation, steps=chain: c.next_action(steps)))
    assert work[0] == work[1] > 10


# -- chat completions: what has been said ----------------------------------------------------------


def call_item(call_id: str = "c1", arguments: str = '{"a":1}') -> Item:
    return {"type": "function_call", "call_id": call_id, "name": "add", "arguments": arguments}


def call_message(*call_ids: str, content: str | None = None) -> Item:
    calls = [chat_call("add", '{"a":1}', call_id) for call_id in call_ids]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def output_item(call_id: str = "c1", output: Any = "3") -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def text_part(text: str = "Hi", kind: str = "input_text") -> Item:
    return {"type": kind, "text": text}


URL = "https://example.org/cat.png"
AUDIO = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
CHAT_IMAGE = {"type": "image_url", "image_url": {"url": URL}}
HI = {"role": "user", "content": "Hi"}
SO = {"role": "assistant", "content": "So."}

MESSAGES: dict[str, tuple[list[Item], list[Item]]] = {
    "a message without its type": ([HI], [HI]),
    "a message": ([{"type": "message", "id": "msg_1", "status": "completed", **HI}], [HI]),
    "a system message": (
        [{"role": "system", "content": "Be brief."}],
        [{"role": "system", "content": "Be brief."}],
    ),
    "a developer's message": (
        [{"role": "developer", "content": [text_part("Be brief.")]}],
        [{"role": "system", "content": "Be brief."}],
    ),
    "one text": ([{"role": "user", "content": [text_part()]}], [HI]),
    "no parts": ([{"role": "user", "content": []}], [{"role": "user", "content": ""}]),
    "texts": (
        [{"role": "user", "content": [text_part(), text_part("you", "text"), text_part("")]}],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Hi"},
                    {"type": "text", "text": "you"},
                    {"type": "text", "text": ""},
                ],
            }
        ],
    ),
    "an image": (
        [{"role": "user", "content": [{"type": "input_image", "image_url": URL, "detail": None}]}],
        [{"role": "user", "content": [CHAT_IMAGE]}],
    ),
    "an image in detail": (
        [{"role": "user", "content": [{"type": "input_image", "image_url": URL, "detail": "low"}]}],
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": URL, "detail": "low"}}],
            }
        ],
    ),
    "a file": (
        [{"role": "user", "content": [{"type": "input_file", "file_id": "f_1", "filename": None}]}],
        [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f_1"}}]}],
    ),
    "audio, and what chat completions have themselves": (
        [{"role": "user", "content": [text_part(), AUDIO, CHAT_IMAGE]}],
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}, AUDIO, CHAT_IMAGE]}],
    ),
    "an answer": ([HI, SO, HI], [HI, SO, HI]),
    "two answers": ([SO, SO], [SO, SO]),
    "an answer in parts": (
        [
            {
                "role": "assistant",
                "content": [text_part("S", "output_text"), text_part("o.", "output_text")],
            }
        ],
        [SO],
    ),
    "an empty answer": (
        [{"role": "assistant", "content": []}],
        [{"role": "assistant", "content": ""}],
    ),
    "a refusal": (
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
        [{"role": "assistant", "content": None, "refusal": "No."}],
    ),
    "a refusal after a text": (
        [
            {
                "role": "assistant",
                "content": [text_part("So.", "output_text"), {"type": "refusal", "refusal": "No."}],
            }
        ],
        [{**SO, "refusal": "No."}],
    ),
    "a call and its output": (
        [HI, call_item(), output_item()],
        [HI, call_message("c1"), {"role": "tool", "tool_call_id": "c1", "content": "3"}],
    ),
    "calls of one turn": (
        [SO, {"type": "reasoning", "summary": []}, call_item(), call_item("c2"), output_item("c2")],
        [
            call_message("c1", "c2", content="So."),
            {"role": "tool", "tool_call_id": "c2", "content": "3"},
        ],
    ),
    "a text after the calls of its turn": (
        [call_item(), SO, output_item()],
        [
            call_message("c1", content="So."),
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
        ],
    ),
    "calls of two turns": (
        [call_item(), output_item(), call_item("c2"), output_item("c2"), SO],
        [
            call_message("c1"),
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            call_message("c2"),
            {"role": "tool", "tool_call_id": "c2", "content": "3"},
            SO,
        ],
    ),
    "an empty text before a call": (
        [{"role": "assistant", "content": ""}, call_item()],
        [call_message("c1")],
    ),
    "a call without arguments": (
        [call_item(arguments="")],
        [{**call_message("c1"), "tool_calls": [chat_call("add", "{}", "c1")]}],
    ),
    "an output in parts": (
        [output_item(output=[text_part("3"), text_part("4", "output_text")])],
        [{"role": "tool", "tool_call_id": "c1", "content": "34"}],
    ),
    "reasoning": ([{"type": "reasoning", "summary": [], "encrypted_content": "x"}, HI], [HI]),
}


@pytest.mark.parametrize(("items", "messages"), MESSAGES.values(), ids=MESSAGES)
def test_items_are_messages_in_chat_completions(items, messages):
    assert first_payload(input=items)["messages"] == messages


def test_the_instructions_come_first_then_the_history_then_the_input():
    history = [{"type": "message", "role": "user", "content": "Hi"}, {"type": "message", **SO}]
    spec = spec_of((), instructions="Be brief.")
    for is_agent in (False, True):
        conversation = Conversation(spec, history=history, is_agent=is_agent)
        assert payload_of(conversation.next_action([]))["messages"] == [
            {"role": "system", "content": "Be brief."},
            HI,
            SO,
            {"role": "user", "content": "1 + 2?"},
        ]


def test_an_answer_read_from_a_turn_can_be_history():
    body = chat_body(text="So.", reasoning_content="Hm.")
    history = [*input_items({"input": "Hi"}), *turn_of(body, "s1").items]
    assert first_payload(history=history)["messages"][:2] == [HI, SO]


def test_items_that_chat_completions_do_not_know_are_left_out_with_one_warning_each(caplog):
    secret = {"type": "web_search_call", "query": "secret"}
    with caplog.at_level(logging.WARNING, "reasoning_sdk.loop"):
        assert first_payload(input=[secret, HI, secret])["messages"] == [HI]
        first_payload(input=[secret])
    (record,) = caplog.records
    assert record.name == "reasoning_sdk.loop"
    assert "'web_search_call'" in record.message
    assert "secret" not in record.message


def test_images_in_a_tools_result_are_left_out_with_a_warning(caplog):
    parts = [text_part("3"), {"type": "input_image", "image_url": URL}]
    chain = [model(1, chat_body(chat_call())), tool(2, result=parts)]
    message = payload_of(Conversation(spec_of()).next_action(chain))["messages"][-1]
    assert message["content"] == "3"
    assert [record.message.split(" cannot")[0] for record in caplog.records] == [
        "part of a tool's result of type 'input_image'"
    ]


def test_the_upstreams_own_message_goes_back_as_it_came():
    call = {**chat_call(), "index": 0, "extra_content": {"google": {"thought": "x"}}, "x": None}
    body = chat_body(call, text="So.", reasoning_content="Hm.", audio=None)
    sent = payload_of(Conversation(spec_of()).next_action([model(1, body), tool(2)]))["messages"][1]
    assert sent == {
        "role": "assistant",
        "content": "So.",
        "reasoning_content": "Hm.",
        "tool_calls": [{**chat_call(), "index": 0, "extra_content": {"google": {"thought": "x"}}}],
    }


def test_a_message_without_a_content_or_a_role_gets_them():
    body = {"choices": [{"message": {"tool_calls": [{"function": {"name": "add"}}]}}]}
    chain = [model(1, body), tool(2, "call_s1_0")]
    sent = payload_of(Conversation(spec_of()).next_action(chain))["messages"][1]
    assert sent == {
        "role": "assistant",
        "content": None,
        "tool_calls": [chat_call("add", "{}", "call_s1_0")],
    }


# -- chat completions: fields ----------------------------------------------------------------------

SCHEMA = {"name": "answer", "schema": {"type": "object"}, "strict": True}
FIELDS: list[tuple[Item, Item]] = [
    ({"stream": False}, {"stream": False}),
    ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    ({"stream": True, "stream_options": {"x": 1}}, {"stream": True, "stream_options": {"x": 1}}),
    ({"max_output_tokens": 5}, {"max_tokens": 5}),
    ({"max_tokens": 6}, {"max_tokens": 6}),
    ({"max_output_tokens": 5, "max_tokens": 6}, {"max_tokens": 6}),
    ({"max_completion_tokens": 6}, {"max_completion_tokens": 6}),
    ({"text": {}}, {}),
    ({"text": {"format": None, "verbosity": None}}, {}),
    ({"text": {"format": {"type": "text"}}}, {}),
    ({"text": {"format": {}}}, {}),
    (
        {"text": {"format": {"type": "json_object"}, "verbosity": "low"}},
        {"response_format": {"type": "json_object"}, "verbosity": "low"},
    ),
    (
        {"text": {"format": {"type": "json_schema", **SCHEMA, "description": None}}},
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    ),
    (
        {"text": {"format": {"type": "json_schema", "json_schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    ),
    ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
    ({"reasoning": {"effort": "high", "summary": "auto"}}, {"reasoning_effort": "high"}),
    ({"reasoning": {"effort": None}}, {}),
    ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    ({"top_logprobs": 2, "logprobs": False}, {"logprobs": False, "top_logprobs": 2}),
    (
        {
            "previous_response_id": "resp_1",
            "background": True,
            "include": ["x"],
            "truncation": "auto",
            "max_tool_calls": 1,
            "instructions": "",
        },
        {},
    ),
    ({"tools": []}, {}),
    ({"tool_choice": "auto", "parallel_tool_calls": False}, {}),
]
PASSED = {
    "temperature": 0.5,
    "top_p": 1,
    "metadata": {"a": "b"},
    "user": "u",
    "seed": 7,
    "stop": ["."],
    "store": False,
    "service_tier": "flex",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "messages_of_tomorrow": [1],
}


@pytest.mark.parametrize(("fields", "sent"), [*FIELDS, (PASSED, PASSED)])
def test_fields_have_their_names_in_chat_completions(fields, sent):
    payload = first_payload(**fields)
    assert payload.pop("model") == "m"
    assert payload.pop("messages") == [{"role": "user", "content": "1 + 2?"}]
    assert payload == sent


def test_messages_are_those_of_the_input():
    assert first_payload(messages=[SO])["messages"] == [{"role": "user", "content": "1 + 2?"}]


FLAT = {"type": "function", "name": "f", "description": "F.", "parameters": EMPTY, "strict": True}
NESTED = {
    "type": "function",
    "function": {"name": "f", "description": "F.", "parameters": EMPTY, "strict": True},
}


@pytest.mark.parametrize("declared", [FLAT, NESTED])
def test_tools_of_both_shapes_and_of_the_loop_are_sent_in_that_of_chat_completions(declared):
    sent = first_payload((ADD, MUL), tools=[declared], parallel_tool_calls=False)
    add = {"name": "add", "description": "Adds.", "parameters": EMPTY}
    mul = {"name": "mul", "description": "Multiplies.", "parameters": EMPTY, "strict": True}
    loops = [{"type": "function", "function": add}, {"type": "function", "function": mul}]
    assert sent["tools"] == [NESTED, *loops]
    assert sent["parallel_tool_calls"] is False


def test_a_tool_is_sent_without_what_it_does_not_have():
    declared = {"type": "function", "name": "f", "description": None, "strict": None}
    (sent,) = first_payload(tools=[declared])["tools"]
    assert sent == {"type": "function", "function": {"name": "f"}}


def test_tools_of_other_types_are_left_out_of_chat_completions_with_a_warning(caplog):
    payload = first_payload(tools=[{"type": "web_search"}], tool_choice="required")
    assert payload.keys() == {"model", "messages"}
    assert [record.message.split(" cannot")[0] for record in caplog.records] == [
        "tool of type 'web_search'"
    ]


F = {"type": "function", "name": "f"}
CHAT_F = {"type": "function", "function": {"name": "f"}}
ALLOWED = {"type": "allowed_tools", "mode": "required", "tools": [F, {"type": "mcp"}]}
CHAT_ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "required", "tools": [CHAT_F]},
}
CHOICES = [
    ("auto", "auto", "auto"),
    ("none", "none", "none"),
    ("required", "required", "auto"),
    (F, CHAT_F, "auto"),
    (CHAT_F, CHAT_F, "auto"),
    (
        ALLOWED,
        CHAT_ALLOWED,
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CHAT_F]}},
    ),
    (
        CHAT_ALLOWED,
        CHAT_ALLOWED,
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CHAT_F]}},
    ),
]


@pytest.mark.parametrize(("choice", "sent", "later"), CHOICES)
def test_a_choice_of_tools_forces_the_first_call_only(choice, sent, later):
    conversation = Conversation(spec_of(tools=[FLAT], tool_choice=choice))
    assert payload_of(conversation.next_action([]))["tool_choice"] == sent
    chain = [model(1, chat_body(chat_call())), tool(2)]
    assert payload_of(conversation.next_action(chain))["tool_choice"] == later


def test_a_choice_of_another_tool_is_left_out_of_chat_completions(caplog):
    assert "tool_choice" not in first_payload(tools=[FLAT], tool_choice={"type": "web_search"})
    assert "choice of a tool of type 'web_search'" in caplog.text


# -- the Responses API -----------------------------------------------------------------------------


def test_a_response_is_asked_for_with_the_fields_as_they_are():
    fields = {
        **PASSED,
        "instructions": "Be brief.",
        "max_output_tokens": 5,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_object"}},
        "tool_choice": "auto",
        "include": ["x"],
        "truncation": "auto",
        "stream": True,
    }
    payload = first_payload(
        api="responses", background=True, previous_response_id="resp_1", **fields
    )
    asked = [{"type": "message", "role": "user", "content": "1 + 2?"}]
    assert payload == {"model": "m", "input": asked, **fields}


def test_tools_are_sent_in_the_shape_of_the_responses_api():
    lax = {"type": "function", "function": {"name": "g"}}
    search = {"type": "web_search"}
    payload = first_payload((ADD,), api="responses", tools=[search, NESTED, lax])
    assert payload["tools"] == [
        search,
        FLAT,
        {"type": "function", "name": "g", "strict": False},
        {
            "type": "function",
            "name": "add",
            "description": "Adds.",
            "parameters": EMPTY,
            "strict": False,
        },
    ]


def test_the_upstreams_own_items_go_back_as_they_came():
    reasoning = {"type": "reasoning", "id": "rs_up", "summary": [], "encrypted_content": "x"}
    lost = {"type": "function_call", "id": "fc_up", "name": "add", "arguments": "{}"}
    output = [reasoning, message_of("So."), call_of(call_id="call_a"), lost]
    chain = [model(1, response_body(*output))]
    conversation = Conversation(spec_of(api="responses", tool_choice=F))
    given_, made = (call["call_id"] for call in calls_of(conversation.next_action(chain)))
    parts = [{"type": "input_image", "image_url": URL}]
    chain += [tool(2, made, parts), tool(3, given_, {"a": 1})]
    payload = payload_of(conversation.next_action(chain))
    assert given_ == "call_a"
    assert payload["tool_choice"] == "auto"
    assert payload["input"][1:] == [
        *output[:3],
        {**lost, "call_id": made},
        {"type": "function_call_output", "call_id": "call_a", "output": '{"a":1}'},
        {"type": "function_call_output", "call_id": made, "output": parts},
    ]


def test_history_is_sent_without_what_only_its_own_upstream_knows():
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    history = [
        {"type": "message", "id": "msg_1", "status": "completed", **SO},
        {"type": "reasoning", "id": "rs_2", "summary": [], "content": []},
        thought,
        {"type": "of_tomorrow", "id": "x_1", "x": 1},
        {"type": "item_reference", "id": "msg_up"},
    ]
    own = {"type": "message", "id": "msg_2", **HI}
    assert first_payload(api="responses", history=history, input=[own])["input"] == [
        {"type": "message", **SO},
        {"type": "reasoning", "summary": [], "encrypted_content": "x"},
        {"type": "of_tomorrow", "x": 1},
        {"type": "item_reference", "id": "msg_up"},
        own,
    ]


def test_nothing_that_was_given_is_changed():
    history: list[Mapping[str, Any]] = [{"type": "message", **SO}, call_item(), output_item()]
    spec = spec_of(input=[SO, call_item(), call_item("c2")], tools=[NESTED], tool_choice=CHAT_F)
    chain = [model(1, chat_body(chat_call(id=None))), tool(2, "call_s1_0")]
    before = json.dumps([history, spec.request, [attrs.asdict(step) for step in chain]])
    Conversation(spec, history=history).next_action(chain)
    assert json.dumps([history, spec.request, [attrs.asdict(step) for step in chain]]) == before
