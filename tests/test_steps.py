"""The values of the response loop."""

from collections import UserList

import pytest

from reasoning_sdk import (
    AppendSteps,
    ConfigurationError,
    RequestContext,
    StepDescriptor,
    StepKind,
    StepState,
    ToolKind,
)
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


STEP = StepDescriptor(StepKind.MODEL_CALL, {})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ToolSchema(1), "name of a tool must be a str, got an int"),
        (lambda: ToolSchema(""), "name of a tool must not be empty, got ''"),
        (lambda: ToolSchema("a", 5), "description of tool 'a' must be a str, got an int"),
        (lambda: ToolSchema("a", "", []), "parameters of tool 'a' must be a mapping, got a list"),
        (lambda: ToolSchema("a", strict="yes"), "strict of tool 'a' must be a bool, got a str"),
        (
            lambda: ToolSchema("a", idempotent=5),
            "idempotent of tool 'a' must be a bool, got an int",
        ),
        (lambda: ToolSchema("a", kind="x"), "kind must be 'http' or 'agent', got 'x'"),
        (lambda: ToolSchema("a", kind={}), "kind must be 'http' or 'agent', got {}"),
        (lambda: AgentSchema("a", strict=1), "strict of tool 'a' must be a bool, got an int"),
        (
            lambda: AgentSchema("a", instructions=None),
            "instructions of tool 'a' must be a str, got a NoneType",
        ),
        (lambda: AgentSchema("a", model=5), "model of tool 'a' must be a str, got an int"),
        (lambda: AgentSchema("a", tools="add"), "tools must be names of tools, got 'add'"),
        (lambda: AgentSchema("a", tools=5), "tools must be names of tools, got 5"),
        (lambda: AgentSchema("a", tools=["b", 5]), "tools must be names of tools, got ['b', 5]"),
        (
            lambda: StepDescriptor("model", {}),
            "kind must be 'model_call' or 'tool_call', got 'model'",
        ),
        (lambda: StepDescriptor([], {}), "kind must be 'model_call' or 'tool_call', got []"),
        (lambda: AppendSteps(5), "steps must be a sequence of StepDescriptors, got an int"),
        (
            lambda: AppendSteps({STEP.kind}),
            "steps must be a sequence of StepDescriptors, got a set",
        ),
        (lambda: AppendSteps([STEP, "x"]), "steps[1] must be a StepDescriptor, got a str"),
        (
            lambda: AppendSteps([StepDescriptor]),
            "steps[0] must be a StepDescriptor, got the class StepDescriptor",
        ),
        (lambda: RequestContext(model=5), "model must be a str, got an int"),
        (lambda: RequestContext(extensions=5), "extensions must be a mapping, got an int"),
        (lambda: RequestContext(extensions=None), "extensions must be a mapping, got a NoneType"),
        (lambda: RequestContext(cancellation=5), "cancellation must be a Cancellation, got an int"),
        (lambda: RequestContext(step_id=5), "step_id must be a str, got an int"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(make, message):
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert str(caught.value) == message


def test_a_kind_may_be_given_as_its_text():
    assert StepDescriptor("tool_call", {}).kind is StepKind.TOOL_CALL
    assert ToolSchema("a", kind="agent").kind is ToolKind.AGENT
    assert AgentSchema("a", kind="http").kind is ToolKind.HTTP


@pytest.mark.parametrize("steps", [[], (), [STEP], (STEP, STEP), UserList([STEP])])
def test_steps_can_be_any_sequence(steps):
    assert AppendSteps(steps).steps is steps


class OwnStep(StepDescriptor):
    pass


def test_a_step_may_be_of_a_class_of_its_own():
    assert AppendSteps([OwnStep(StepKind.TOOL_CALL, {})])


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
