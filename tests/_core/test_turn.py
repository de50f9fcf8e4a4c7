"""What a model has said, in the terms of the Responses API, whatever it was asked in."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_sdk._core.turn import (
    Turn,
    arguments_text,
    call_item,
    chat_text,
    error_output,
    item_id,
    message_item,
    output_of,
    own_call_id,
    reasoning_item,
    text_of,
    tool_output_item,
    turn_of,
)
from reasoning_sdk.errors import ProtocolError
from reasoning_sdk.steps import ChainStep, StepKind, StepState

JSON = dict[str, Any]


def chat(message: Any, finish_reason: Any = "stop", **fields: Any) -> JSON:
    return {"choices": [{"message": message, "finish_reason": finish_reason}], **fields}


def chat_turn(message: JSON, finish_reason: Any = "stop", **fields: Any) -> Turn:
    return turn_of(chat(message, finish_reason, **fields), "s1")


def response_turn(*output: Any, **fields: Any) -> Turn:
    return turn_of({"output": list(output), "status": "completed", **fields}, "s1")


def tool_call(id: Any = "c1", name: Any = "add", arguments: Any = "{}") -> JSON:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


# -- items -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "place", "id"),
    [
        ("message", None, "msg_s1"),
        ("reasoning", 0, "rs_s1_0"),
        ("function_call", 2, "fc_s1_2"),
        ("function_call_output", None, "fco_s1"),
        ("web_search_call", 1, "item_s1_1"),
    ],
)
def test_an_id_tells_the_type_the_step_and_the_place(kind, place, id):
    assert item_id(kind, "s1", place) == id


def test_a_message_has_a_text_unless_it_is_a_refusal():
    part = {"type": "output_text", "annotations": [], "logprobs": []}
    refusal = {"type": "refusal", "refusal": "No."}
    message = {"type": "message", "id": "m", "status": "completed", "role": "assistant"}
    assert message_item("m", "Hi") == {**message, "content": [{**part, "text": "Hi"}]}
    assert message_item("m", "") == {**message, "content": [{**part, "text": ""}]}
    assert message_item("m", "", refusal="No.") == {**message, "content": [refusal]}
    both = message_item("m", "Hi", status="incomplete", refusal="No.")
    assert both["content"] == [{**part, "text": "Hi"}, refusal]
    assert both["status"] == "incomplete"


def test_a_reasoning_item_without_a_text_has_no_content():
    assert reasoning_item("r", "")["content"] == []
    assert reasoning_item("r", "Hm")["content"] == [{"type": "reasoning_text", "text": "Hm"}]


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"content": [{"type": "output_text", "text": "a"}, {"type": "output_text"}]}, "a"),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, ""),
        ({"content": None}, ""),
        ({}, ""),
    ],
)
def test_the_text_of_a_message_is_that_of_its_parts(item, text):
    assert text_of(item) == text


# -- tool calls ------------------------------------------------------------------------------------


def tool_step(state: StepState, payload: Any = None, error: Any = None) -> ChainStep:
    request = {"name": "add", "args": {}, "call_id": "c1"}
    return ChainStep(
        "s2",
        StepKind.TOOL_CALL,
        state,
        2,
        request_payload=request,
        response_payload=payload,
        error=error,
    )


IMAGE = [{"type": "input_image", "image_url": "data:"}, {"type": "input_text", "text": "a"}]


@pytest.mark.parametrize(
    ("payload", "output"),
    [
        ("three", "three"),
        (3, "3"),
        (None, "null"),
        ({"ü": 1}, '{"ü":1}'),
        ([], "[]"),
        (IMAGE, IMAGE),
        ([*IMAGE, {"type": "text"}], json.dumps([*IMAGE, {"type": "text"}], separators=(",", ":"))),
        (["input_text"], '["input_text"]'),
    ],
)
def test_a_result_is_a_text_or_parts_of_content(payload, output):
    assert output_of(tool_step(StepState.COMPLETED, payload)) == output


@pytest.mark.parametrize(
    ("error", "output"),
    [
        ({"type": "tool_error", "message": "m", "x": 1}, {"type": "tool_error", "message": "m"}),
        ({"type": None, "message": None}, {"type": "error", "message": ""}),
        (None, {"type": "error", "message": "the call was canceled"}),
    ],
)
def test_a_model_sees_the_type_and_the_message_of_an_error(error, output):
    assert error_output(error) == {"error": output}
    assert json.loads(output_of(tool_step(StepState.FAILED, error=error))) == {"error": output}


@pytest.mark.parametrize(
    ("state", "status", "has_output"),
    [
        (StepState.PENDING, "in_progress", False),
        (StepState.PROCESSING, "in_progress", False),
        (StepState.COMPLETED, "completed", True),
        (StepState.FAILED, "incomplete", True),
    ],
)
def test_the_output_item_of_a_tool_call_follows_its_step(state, status, has_output):
    item = tool_output_item(tool_step(state, "three"))
    assert (item["type"], item["id"]) == ("function_call_output", "fco_s2")
    assert (item["call_id"], item["status"], bool(item["output"])) == ("c1", status, has_output)


# -- chat completions ------------------------------------------------------------------------------


def test_a_chat_message_is_an_item():
    turn = chat_turn({"content": "Hello"})
    assert turn == Turn([message_item("msg_s1", "Hello")])
    assert (turn.text, turn.calls) == ("Hello", [])


def test_thoughts_text_and_calls_come_in_this_order():
    turn = chat_turn(
        {"reasoning_content": "Hm", "content": "Hi", "tool_calls": [tool_call("a"), tool_call("b")]}
    )
    calls = [call_item(f"fc_s1_{n}", id, "add", "{}") for n, id in enumerate("ab")]
    assert turn.items == [reasoning_item("rs_s1", "Hm"), message_item("msg_s1", "Hi"), *calls]
    assert (turn.text, turn.calls) == ("Hi", calls)


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": "Hm"},
        {"reasoning": "Hm"},
        {"reasoning_content": None, "reasoning": "Hm"},
        {"reasoning_content": {"effort": 1}, "reasoning": "Hm"},
        {"reasoning_content": "Hm", "reasoning": "Hm"},
    ],
)
def test_thoughts_have_one_of_two_names(message):
    assert chat_turn(message).items[0] == reasoning_item("rs_s1", "Hm")


def test_beside_calls_there_is_no_empty_message():
    assert len(chat_turn({"content": "", "tool_calls": [tool_call()]}).items) == 1
    assert chat_turn({"content": None}).items == [message_item("msg_s1", "")]


def test_a_refusal_is_a_message():
    assert chat_turn({"refusal": "No."}).items == [message_item("msg_s1", "", refusal="No.")]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi", "Hi"),
        (None, ""),
        (7, ""),
        ([{"type": "text", "text": "H"}, {"type": "thinking"}, "x", {"type": "text"}], "H"),
    ],
)
def test_content_is_a_text_or_parts(content, text):
    assert chat_text(content) == text
    assert chat_turn({"content": content}).text == text


@pytest.mark.parametrize(
    ("arguments", "text"), [('{"a": 1', '{"a": 1'), ({"a": 1}, '{"a": 1}'), (None, ""), ([], "[]")]
)
def test_arguments_are_text_whatever_they_were(arguments, text):
    assert arguments_text(arguments) == text
    turn = chat_turn({"tool_calls": [tool_call(arguments=arguments)]})
    assert turn.calls[0]["arguments"] == text


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a"], ["a", "call_s1_1"]),
        ([None, ""], ["call_s1_0", "call_s1_1"]),
        ([7, "b"], ["call_s1_0", "b"]),
    ],
)
def test_call_ids_are_the_models_unless_missing_or_repeated(given, ids):
    turn = chat_turn({"tool_calls": [tool_call(id, None) for id in given]})
    assert [call["call_id"] for call in turn.calls] == ids
    assert {call["name"] for call in turn.calls} == {""}
    own = response_turn(*({"type": "function_call", "call_id": id} for id in given))
    assert [call["call_id"] for call in own.calls] == ids


@given(st.lists(st.none() | st.sampled_from(["", "a", "b", "c"]), max_size=6))
def test_no_two_calls_have_the_same_id(given):
    seen = set[str]()
    ids = [own_call_id(id, seen, "s1", place) for place, id in enumerate(given)]
    assert len(set(ids)) == len(ids)
    assert seen == set(ids)


@pytest.mark.parametrize(
    ("finish_reason", "incomplete"),
    [
        ("stop", None),
        (None, None),
        ("tool_calls", None),
        ("length", "max_output_tokens"),
        ("content_filter", "content_filter"),
    ],
)
def test_a_model_stopped_early_leaves_its_last_item_incomplete(finish_reason, incomplete):
    turn = chat_turn({"content": "Hi", "tool_calls": [tool_call()]}, finish_reason)
    assert turn.incomplete == incomplete
    status = "completed" if incomplete is None else "incomplete"
    assert [item["status"] for item in turn.items] == ["completed", status]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, None),
        ([], None),
        (
            {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9},
            {"input_tokens": 1, "output_tokens": 2, "total_tokens": 9},
        ),
        (
            {"prompt_tokens": 1, "completion_tokens": 2, "completion_tokens_details": {"r": 1}},
            {
                "input_tokens": 1,
                "output_tokens": 2,
                "output_tokens_details": {"r": 1},
                "total_tokens": 3,
            },
        ),
        ({"prompt_tokens": "1"}, {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}),
    ],
)
def test_the_usage_of_a_chat_has_the_names_of_a_response(usage, expected):
    details = {"input_tokens_details": None, "output_tokens_details": None}
    turn = chat_turn({"content": "Hi"}, usage=usage)
    assert turn.usage == (None if expected is None else {**details, **expected})


# -- responses -------------------------------------------------------------------------------------


def test_the_items_of_a_response_get_ids_of_our_own():
    turn = response_turn(
        {"type": "reasoning", "id": "x", "content": [], "encrypted_content": "e"},
        {"type": "message", "id": "x", "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "function_call", "id": "x", "call_id": "c", "name": "f", "arguments": {"a": 1}},
        {"type": "web_search_call", "id": "x", "status": "failed", "action": {}},
    )
    own = {"status": "completed"}
    content = [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}]
    assert turn.items == [
        {"type": "reasoning", "id": "rs_s1_0", "content": [], "encrypted_content": "e", **own,
         "summary": []},
        {"type": "message", "id": "msg_s1_1", "role": "assistant", "content": content, **own},
        call_item("fc_s1_2", "c", "f", '{"a": 1}'),
        {"type": "web_search_call", "id": "item_s1_3", "status": "failed", "action": {}},
    ]  # fmt: skip
    assert turn.text == "Hi"


def test_parts_keep_what_the_upstream_says_of_them():
    part = {"type": "output_text", "text": None, "annotations": [1], "logprobs": None, "x": 1}
    refusal, other = {"type": "refusal", "refusal": None}, {"type": "other", "text": None}
    turn = response_turn({"type": "message", "content": [part, refusal, other], "role": "model"})
    own = [{**part, "text": "", "logprobs": []}, {**refusal, "refusal": ""}, other]
    assert turn.items[0]["content"] == own
    assert turn.items[0]["role"] == "model"
    assert response_turn({"type": "message", "content": None}).items[0]["content"] == []


def test_thoughts_keep_what_the_upstream_says_of_them():
    part = {"type": "reasoning_text", "text": None, "x": 1}
    turn = response_turn({"type": "reasoning", "content": [part]}, {"type": "reasoning"})
    assert turn.items[0]["content"] == [{**part, "text": ""}]
    assert "content" not in turn.items[1]


@pytest.mark.parametrize(
    ("details", "incomplete"),
    [
        ({"reason": "content_filter"}, "content_filter"),
        ({"reason": None}, "max_output_tokens"),
        (None, "max_output_tokens"),
    ],
)
def test_an_incomplete_response_tells_why(details, incomplete):
    assert response_turn(status="incomplete", incomplete_details=details).incomplete == incomplete
    assert response_turn(incomplete_details=details).incomplete is None


def test_the_usage_of_a_response_is_as_it_is():
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    assert response_turn(usage=usage).usage == usage
    assert response_turn(usage=None).usage is None


# -- neither ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        None,
        "text",
        [],
        {},
        {"output": None},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{"finish_reason": "stop"}]},
        chat({"tool_calls": [None]}),
        chat({"tool_calls": [{"type": "custom", "custom": {}}]}),
        {"output": [None]},
        {"output": [{"type": "message", "content": ["Hi"]}]},
        {"output": [{"type": "reasoning", "content": ["Hm"]}]},
    ],
)
def test_a_body_that_is_neither_is_refused(body):
    with pytest.raises(ProtocolError, match="answer "):
        turn_of(body, "s1")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"detail": "Not\n allowed"}, ": Not allowed"),
        ({"message": "Not allowed", "code": 7}, ": Not allowed"),
        ({"detail": [{"msg": "no such model"}]}, ": [{'msg': 'no such model'}]"),
        ({"detail": "x" * 300}, ": " + "x" * 200 + "…"),
        ({"detail": None}, ""),
        ([], ""),
    ],
)
def test_what_a_server_says_in_place_of_an_answer_is_shown(body, said):
    with pytest.raises(ProtocolError) as caught:
        turn_of(body, "s1")
    assert str(caught.value) == f"answer is neither a chat completion nor a response{said}"


def test_a_legacy_call_is_not_lost():
    legacy = {"content": None, "function_call": {"name": "add", "arguments": "{}"}}
    with pytest.raises(ProtocolError, match="legacy function_call"):
        chat_turn(legacy, "function_call")
    (call,) = chat_turn({**legacy, "tool_calls": [tool_call()]}).calls  # which says it again
    assert call["name"] == "add"


# -- linear work -----------------------------------------------------------------------------------


@pytest.mark.parametrize("repeated", [False, True])
def test_a_turn_of_many_calls_is_read_at_once(repeated):
    ids = ["same" if repeated else f"c{n}" for n in range(20_000)]
    began = time.process_time()
    chat_calls = chat_turn({"tool_calls": [tool_call(id) for id in ids]}).calls
    calls = response_turn(*({"type": "function_call", "call_id": id} for id in ids)).calls
    assert time.process_time() - began < 1  # quadratic it takes several times that
    assert len({call["call_id"] for call in chat_calls}) == len(calls) == 20_000
