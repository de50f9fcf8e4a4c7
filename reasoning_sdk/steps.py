"""The values of the response loop: steps, what is to be done next, tools, and their context."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeAlias

import attrs

from reasoning_sdk.arguments import check_kind
from reasoning_sdk.cancellation import Cancellation

__all__ = [
    "AgentSchema",
    "AppendSteps",
    "ChainStep",
    "Complete",
    "Fail",
    "NextAction",
    "RecordedStep",
    "RequestContext",
    "StepDescriptor",
    "StepKind",
    "StepState",
    "ToolKind",
    "ToolSchema",
]


class StepKind(str, Enum):
    """What a step is."""

    MODEL_CALL = "model_call"
    TOOL_CALL = "tool_call"

    def __str__(self) -> str:
        return self.value


class StepState(str, Enum):
    """Where a step is in its life."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    def __str__(self) -> str:
        return self.value

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended, well or not."""
        return self in _TERMINAL


_TERMINAL = frozenset({StepState.COMPLETED, StepState.FAILED, StepState.CANCELED})


@attrs.frozen
class StepDescriptor:
    """A step to be taken.

    Args:
        kind: What it is.
        request_payload: For a model call the body to send upstream, whose ``stream`` says whether
            it is streamed; for a tool call ``{"name", "args", "call_id"}``: ``args`` is an object,
            or the text that the model wrote where that is none.
    """

    kind: StepKind
    request_payload: Any


@attrs.frozen
class AppendSteps:
    """The next action: take these steps side by side.

    Args:
        steps: At least one, in the order in which they are recorded.
    """

    steps: Sequence[StepDescriptor]


@attrs.frozen
class Complete:
    """The next action: end well.

    Args:
        payload: The result, any JSON.
    """

    payload: Any


@attrs.frozen
class Fail:
    """The next action: end with an error.

    Args:
        payload: The error, ``{"type", "message", …}``.
    """

    payload: Any


NextAction: TypeAlias = AppendSteps | Complete | Fail


@attrs.frozen
class RecordedStep:
    """What a store gives for a step that it has recorded.

    Args:
        id: The step's id, unique among all steps of the store.
        sequence: Its number among the steps of its response, from 1, in the order of recording.
        sub_request_id: The id of the request that a model call makes upstream; it is sent as the
            ``Idempotency-Key``, the same on every try. ``None`` for other steps.
    """

    id: str
    sequence: int
    sub_request_id: str | None = None


@attrs.frozen
class ChainStep:
    """A recorded step, as it was when it was listed.

    Args:
        id: The step's id.
        kind: What it is.
        state: Where it is in its life.
        sequence: Its number among the steps of its response.
        prev_step_id: The step before it in its scope.
        parent_step_id: The tool call whose sub-agent takes it; ``None`` at the top.
        request_payload: As in :class:`StepDescriptor`.
        response_payload: What came of it: the upstream's body, the tool's result.
        error: What it failed with, ``{"type", "message", …}``.
        iteration: The number of the action that it was part of, from 1, where the store knows.
    """

    id: str
    kind: StepKind
    state: StepState
    sequence: int
    prev_step_id: str | None = None
    parent_step_id: str | None = None
    request_payload: Any = None
    response_payload: Any = None
    error: Any = None
    iteration: int | None = None

    def now(self, state: StepState, response_payload: Any, error: Any) -> "ChainStep":
        """The step in another state. Safe to call from any thread."""
        return ChainStep(  # attrs.evolve takes five times as long
            self.id,
            self.kind,
            state,
            self.sequence,
            self.prev_step_id,
            self.parent_step_id,
            self.request_payload,
            response_payload,
            error,
            self.iteration,
        )


class ToolKind(str, Enum):
    """How the loop calls a tool."""

    HTTP = "http"  # by its executor, whatever that does
    AGENT = "agent"  # as a loop of its own

    def __str__(self) -> str:
        return self.value


@attrs.frozen
class ToolSchema:
    """A tool, as the model gets to know it.

    Args:
        name: Its name.
        description: What it does and when to use it.
        parameters: The JSON schema of its arguments, ``{"type": "object", "properties": …}``.
        strict: Whether the model has to keep to the schema, where the upstream can see to that.
        kind: How the loop calls it.
        idempotent: Whether it may be called again, with the same arguments, when nobody knows
            whether it was called before a crash.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = attrs.field(
        factory=lambda: {"type": "object", "properties": {}}
    )
    strict: bool = False
    kind: ToolKind = ToolKind.HTTP
    idempotent: bool = False

    def __attrs_post_init__(self) -> None:
        check_kind("name of a tool", self.name, (str,), "a str")
        check_kind(f"parameters of tool {self.name!r}", self.parameters, (Mapping,), "a mapping")


@attrs.frozen
class AgentSchema(ToolSchema):
    """A tool that is an agent: it is called by a loop of its own, with a conversation of its own.

    What it answers is the result of the call. When the only argument is ``input``, that text is
    its input, else the arguments as JSON.

    Args:
        instructions: Its system message; the description where there is none.
        model: Its model; that of the response where there is none.
        tools: The names of the tools that it may call; ``None`` is all, itself included.
    """

    kind: ToolKind = ToolKind.AGENT
    instructions: str = ""
    model: str | None = None
    tools: Sequence[str] | None = None


@attrs.frozen
class RequestContext:
    """What tools get to know of the response that calls them.

    Args:
        model: The model of the response.
        extensions: Whatever the caller of the loop gives to its tools.
        cancellation: Says when the call is to stop: the response was canceled, or nobody waits for
            the result any more.
        step_id: The step that calls the tool, unique among all steps of the store; the same one
            when it is called again after a crash.
    """

    model: str | None = None
    extensions: Mapping[str, Any] = attrs.field(factory=dict)
    cancellation: Cancellation = attrs.field(factory=Cancellation, repr=False, eq=False)
    step_id: str | None = None
