"""The values of the response loop."""

import pytest

from reasoning_sdk import ConfigurationError, RequestContext, StepKind, StepState, ToolKind
from reasoning_sdk.steps import AgentSchema, ToolSchema


def test_a_step_has_ended_when_it_has_completed_failed_or_was_canceled():
    ended = {state.value for state in StepState if state.is_terminal}
    assert ended == {"completed", "failed", "canceled"}


@pytest.mark.parametrize("kind", [*StepKind, *StepState, *ToolKind])
def test_the_text_of_a_kind_or_state_is_what_is_kept_of_it(kind):
    assert str(kind) == kind.value == f"{kind}"
    assert type(kind)(str(kind)) is kind


def test_a_tool_takes_any_object_unless_it_says_more():
    schema = ToolSchema("now")
    assert schema.parameters == {"type": "object", "properties": {}}
    assert (schema.kind, schema.strict, schema.idempotent) == (ToolKind.HTTP, False, False)


def test_two_tools_do_not_share_their_parameters():
    assert ToolSchema("a").parameters is not ToolSchema("b").parameters


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((1,), "name of a tool must be a str, got a int"),
        (("act", "", []), "parameters of tool 'act' must be a mapping, got a list"),
    ],
)
def test_a_tool_that_cannot_be_is_refused(args, message):
    with pytest.raises(ConfigurationError, match=message):
        ToolSchema(*args)


def test_an_agent_is_a_tool_that_the_loop_itself_calls():
    agent = AgentSchema("helper", instructions="Help.", tools=["add"])
    assert isinstance(agent, ToolSchema)
    assert agent.kind is ToolKind.AGENT


def test_contexts_do_not_share_what_they_have():
    one, other = RequestContext(), RequestContext()
    one.cancellation.cancel()
    assert not other.cancellation.canceled
    assert one.extensions is not other.extensions


def test_a_context_does_not_tell_of_its_cancellation():
    assert "ancel" not in repr(RequestContext(model="m"))
