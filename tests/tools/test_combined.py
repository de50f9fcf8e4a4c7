"""Several executors as one, and none."""

import pytest

from reasoning_sdk.errors import ConfigurationError, ToolNotFoundError
from reasoning_sdk.steps import RequestContext
from reasoning_sdk.tools import CombinedTools, FunctionTools, NoTools
from reasoning_sdk.typing import ToolExecutor

CTX = RequestContext()


def add(a: int) -> int:
    return a + 1


def len_of(text: str) -> int:
    return len(text)


def test_no_tools_are_none():
    tools = NoTools()
    assert isinstance(tools, ToolExecutor)
    assert tools.tools(CTX) == []
    assert repr(tools) == "<NoTools>"
    with pytest.raises(ToolNotFoundError, match=r"^there is no tool 'x'$"):
        tools.execute("x", "c", {}, CTX)


class Counting(FunctionTools):
    asked = 0

    def tools(self, ctx):
        self.asked += 1
        return super().tools(ctx)


def test_several_executors_are_one():
    first, second = Counting([add]), Counting([len_of])
    tools = CombinedTools(first, second)
    assert isinstance(tools, ToolExecutor)
    assert [schema.name for schema in tools.tools(CTX)] == ["add", "len_of"]
    assert tools.execute("add", "c", {"a": 1}, CTX) == 2
    assert tools.execute("len_of", "c", {"text": "abc"}, CTX) == 3
    assert (first.asked, second.asked) == (1, 1)
    assert repr(tools) == "<CombinedTools <FunctionTools add> <FunctionTools len_of>>"
    with pytest.raises(ToolNotFoundError, match="'ad'; there is 'add'"):
        tools.execute("ad", "c", {}, CTX)


def test_whose_a_tool_is_is_asked_once_for_each_context_and_not_kept_longer():
    first = Counting([add])
    tools, extensions = CombinedTools(first), {"unhashable": []}
    for expected in (1, 2, 3):
        ctx = RequestContext(extensions=extensions)
        for _ in range(3):
            assert tools.execute("add", "c", {"a": 1}, ctx) == 2
        assert first.asked == expected
        del ctx
        assert not tools._known


def test_a_tool_that_came_later_is_found():
    first = FunctionTools([add])
    tools = CombinedTools(first)
    tools.tools(CTX)
    first.register(len_of)
    assert tools.execute("len_of", "c", {"text": "abc"}, CTX) == 3


def test_a_name_in_two_executors_is_refused_with_both():
    tools = CombinedTools(FunctionTools([add]), NoTools(), FunctionTools([len_of, add]))
    message = "tool 'add' is in both <FunctionTools add> and <FunctionTools len_of add>"
    with pytest.raises(ConfigurationError) as caught:
        tools.tools(CTX)
    assert str(caught.value) == message
    with pytest.raises(ConfigurationError):
        tools.execute("add", "c", {"a": 1}, CTX)


def test_what_is_no_executor_cannot_be_combined():
    with pytest.raises(ConfigurationError, match="executor must be a ToolExecutor, got a list"):
        CombinedTools([])
