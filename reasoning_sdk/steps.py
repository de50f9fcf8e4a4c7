"""The values of the response loop: steps, what is to be done next, tools, and their context."""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeAlias, TypeVar

import attrs

from reasoning_sdk.arguments import check_kind, shown
from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.errors import ConfigurationError

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


_NONE = type(None)
_E = TypeVar("_E", bound=Enum)


def _kind_of(kinds: type[_E], value: Any) -> _E:
    """A member of an enum, given as such or as its text."""
    try:
        return kinds(value)
    except ValueError as exc:
        said = " or ".join(repr(kind.value) for kind in kinds)
        raise ConfigurationError(f"kind must be {said}, got {shown(value)}") from exc


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


def _as_step_kind(kind: StepKind | str) -> StepKind:
    return kind if type(kind) is StepKind else _kind_of(StepKind, kind)


@attrs.frozen
class StepDescriptor:
    """A step to be taken.

    Args:
        kind: What it is.
        request_payload: For a model call the body to send upstream, whose ``stream`` says whether
            it is streamed; for a tool call ``{"name", "args", "call_id"}``: ``args`` is an object,
            or the text that the model wrote where that is none.

    Raises:
        ConfigurationError: ``kind`` is none.
    """

    kind: StepKind = attrs.field(converter=_as_step_kind)
    request_payload: Any


def _check_steps(_: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    check_kind(attribute.name, value, (list, tuple, Sequence), "a sequence of StepDescriptors")
    for place, step in enumerate(value):
        if type(step) is not StepDescriptor:
            where = f"{attribute.name}[{place}]"
            check_kind(where, step, (StepDescriptor,), "a StepDescriptor")


@attrs.frozen
class AppendSteps:
    """The next action: take these steps side by side.

    Args:
        steps: At least one, in the order in which they are recorded.

    Raises:
        ConfigurationError: What was given is no sequence of steps.
    """

    steps: Sequence[StepDescriptor] = attrs.field(validator=_check_steps)


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


def _as_tool_kind(kind: ToolKind | str) -> ToolKind:
    return _kind_of(ToolKind, kind)


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

    Raises:
        ConfigurationError: An argument cannot work.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = attrs.field(
        factory=lambda: {"type": "object", "properties": {}}
    )
    strict: bool = False
    kind: ToolKind = attrs.field(default=ToolKind.HTTP, converter=_as_tool_kind)
    idempotent: bool = False

    def __attrs_post_init__(self) -> None:
        check_kind("name of a tool", self.name, (str,), "a str")
        if not self.name:
            raise ConfigurationError("name of a tool must not be empty, got ''")
        self._check("description", (str,), "a str")
        self._check("parameters", (Mapping,), "a mapping")
        self._check("strict", (bool,), "a bool")
        self._check("idempotent", (bool,), "a bool")

    def _check(self, name: str, kinds: tuple[type, ...], kind: str) -> None:
        check_kind(f"{name} of tool {self.name!r}", getattr(self, name), kinds, kind)


def _as_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else _checked_names(names)


def _checked_names(names: Any) -> tuple[str, ...]:
    several = isinstance(names, Iterable) and not isinstance(names, str)
    given = tuple(names) if several else (None,)
    if not all(isinstance(name, str) for name in given):
        raise ConfigurationError(f"tools must be names of tools, got {shown(names)}")
    return given


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

    kind: ToolKind = attrs.field(default=ToolKind.AGENT, converter=_as_tool_kind)
    instructions: str = ""
    model: str | None = None
    tools: Sequence[str] | None = attrs.field(default=None, converter=_as_names)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._check("instructions", (str,), "a str")
        self._check("model", (str, _NONE), "a str")


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

    Raises:
        ConfigurationError: An argument cannot work.
    """

    model: str | None = None
    extensions: Mapping[str, Any] = attrs.field(factory=dict)
    cancellation: Cancellation = attrs.field(factory=Cancellation, repr=False, eq=False)
    step_id: str | None = None

    def __attrs_post_init__(self) -> None:
        check_kind("model", self.model, (str, _NONE), "a str")
        check_kind("extensions", self.extensions, (Mapping,), "a mapping")
        check_kind("cancellation", self.cancellation, (Cancellation,), "a Cancellation")
        check_kind("step_id", self.step_id, (str, _NONE), "a str")
