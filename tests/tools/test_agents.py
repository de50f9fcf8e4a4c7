"""Agents as tools."""

import pytest

from reasoning_sdk.errors import ConfigurationError, ToolExecutionError, ToolNotFoundError
from reasoning_sdk.steps import AgentSchema, RequestContext, ToolKind
from reasoning_sdk.tools import AgentTools
from reasoning_sdk.typing import ToolExecutor

CTX = RequestContext()


def test_an_agent_is_a_tool_with_a_text_for_its_input():
    tools = AgentTools()
    assert tools.register("finder", description="Finds.", tools=["search"], model="small") is None
    schema = tools.tools(CTX)[0]
    assert schema == AgentSchema(
        "finder",
        "Finds.",
        {
            "type": "object",
            "properties": {"input": {"type": "string"}},
            "required": ["input"],
            "additionalProperties": False,
        },
        model="small",
        tools=("search",),
    )
    assert schema.kind is ToolKind.AGENT
    assert isinstance(tools, ToolExecutor)
    assert repr(tools) == "<AgentTools finder>"


def test_an_agent_can_have_parameters_of_its_own():
    tools, parameters = AgentTools(), {"type": "object", "properties": {"q": {}}}
    tools.register("a", description="", parameters=parameters, strict=True, instructions="Be.")
    schema = tools.tools(CTX)[0]
    assert (schema.parameters, schema.strict, schema.instructions) == (parameters, True, "Be.")
    assert schema.tools is None


def test_an_agent_cannot_be_called_without_a_loop():
    tools = AgentTools()
    tools.register("finder", description="Finds.")
    with pytest.raises(ToolExecutionError, match="'finder' can only be called by a response loop"):
        tools.execute("finder", "c", {"input": "x"}, CTX)
    with pytest.raises(ToolNotFoundError):
        tools.execute("other", "c", {}, CTX)
    with pytest.raises(ConfigurationError, match="there is a tool 'finder' already"):
        tools.register("finder", description="")


@pytest.mark.parametrize("names", ["search", [1], 5])
def test_the_tools_of_an_agent_are_names(names):
    with pytest.raises(ConfigurationError, match="tools must be names of tools, got"):
        AgentTools().register("a", description="", tools=names)
