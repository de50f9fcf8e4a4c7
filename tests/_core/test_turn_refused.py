"""Answers that a model cannot have meant are refused, and never taken in half."""

from typing import Any

import pytest

from reasoning_sdk import ProtocolError
from reasoning_sdk._core.turn import turn_of


def message(*parts: Any) -> dict[str, Any]:
    return {"type": "message", "content": list(parts)}


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"type": None},
        {"type": 5},
        {"type": "message", "content": 5},
        {"type": "message", "content": "text"},
        {"type": "reasoning", "content": {"a": 1}},
        message("text"),
        message({"type": "output_text", "text": 5}),
        message({"type": "refusal", "refusal": ["no"]}),
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": {"a": 1}}]},
    ],
)
def test_an_item_that_is_none_is_refused(item):
    with pytest.raises(ProtocolError):
        turn_of({"output": [item]}, "s")


def test_a_refusal_of_a_chat_that_is_no_text_is_refused():
    with pytest.raises(ProtocolError):
        turn_of({"choices": [{"message": {"content": "x", "refusal": 5}}]}, "s")


@pytest.mark.parametrize("content", [None, []])
@pytest.mark.parametrize("kind", ["message", "reasoning"])
def test_no_content_is_an_empty_one(kind, content):
    (item,) = turn_of({"output": [{"type": kind, "content": content}]}, "s").items
    assert item["content"] == []
