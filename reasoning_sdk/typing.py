"""What the response loop asks of its parts: sinks of events, tools and stores."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from reasoning_sdk.events import LoopEvent
from reasoning_sdk.steps import (
    ChainStep,
    NextAction,
    RecordedStep,
    RequestContext,
    StepDescriptor,
    ToolSchema,
)

__all__ = ["JSON", "EventSink", "MultiStepStore", "ResponseStore", "ToolExecutor"]

JSON: TypeAlias = Any
"""A JSON value: what :func:`json.loads` gives."""


@runtime_checkable
class EventSink(Protocol):
    """Takes the events of a response as they come."""

    def emit(self, event: LoopEvent) -> None:
        """Take an event. Called by one thread at a time.

        Whatever it raises is logged, and stops nothing.

        Raises:
            EventSinkError: It cannot be taken.
        """


@runtime_checkable
class ToolExecutor(Protocol):
    """Knows tools, and calls them. Used by several threads at once."""

    def tools(self, ctx: RequestContext) -> Sequence[ToolSchema]:
        """The tools that there are for a response."""

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> JSON:
        """Call a tool and wait for its result.

        Args:
            name: The tool.
            call_id: The call's id, as the model gave it.
            arguments: An object that the model wrote.
            ctx: Of the response; its ``cancellation`` says when to stop.

        Returns:
            The result, any JSON.

        Raises:
            ToolError: There is none. Whatever else is raised counts as that, too.
        """


@runtime_checkable
class MultiStepStore(Protocol):
    """Keeps the steps of responses, and says what is to be done next. Used by several threads.

    A *scope* is ``None`` for the response itself, or the id of the tool call whose sub-agent takes
    the steps: each has a chain of its own.

    Optional, for replay: ``append_events(request_id, events)``, and
    ``events_after(request_id, sequence)`` which gives the events kept with a higher number.
    Optional, too: ``end_response(request_id, status, error)``, which tells that a run has ended.

    Every method may raise a :class:`~reasoning_sdk.StoreError`, which ends the loop.
    """

    def next_action_for(self, request_id: str, scope_parent: str | None) -> NextAction:
        """What is to be done next. Asked only when all steps recorded in the scope have ended."""

    def record_step(
        self,
        request_id: str,
        scope_parent: str | None,
        prev_step: str | None,
        descriptor: StepDescriptor,
    ) -> RecordedStep:
        """Record a step to be taken after ``prev_step``, the last one of its scope."""

    def mark_step_processing(self, step_id: str) -> None:
        """Note that a step is under way."""

    def complete_step(self, step_id: str, payload: JSON) -> None:
        """Note what came of a step."""

    def fail_step(self, step_id: str, error: JSON) -> None:
        """Note what a step has failed with, ``{"type", "message", …}``."""

    def list_chain(self, request_id: str, scope_parent: str | None) -> Sequence[ChainStep]:
        """The steps of one scope in the order of recording."""

    def assemble_response(self, request_id: str) -> JSON:
        """The object of the Responses API as it is now."""


@runtime_checkable
class ResponseStore(MultiStepStore, Protocol):
    """A store that can be given a request of the Responses API to carry out."""

    def create_response(
        self,
        request_id: str,
        request: Mapping[str, Any],
        *,
        tools: Sequence[ToolSchema] = (),
        api: str = "chat_completions",
    ) -> None:
        """Keep a request; the same one again changes nothing but what it says of ``stream``.

        Args:
            request_id: The id by which it is known from now on.
            request: The body of a ``POST /v1/responses``.
            tools: The tools that the loop can call.
            api: What the upstream speaks, ``"chat_completions"`` or ``"responses"``.

        Raises:
            ConfigurationError: The request cannot be carried out; the message names the field.
        """

    def end_response(self, request_id: str, status: str, error: JSON) -> None:
        """Note that a run has ended.

        Args:
            request_id: The response.
            status: ``"completed"`` (also when the response is incomplete), ``"failed"`` or
                ``"cancelled"``.
            error: What it has failed with, ``{"type", "message", …}``; else ``None``.
        """

    def append_events(self, request_id: str, events: Sequence[LoopEvent]) -> None:
        """Keep events, the next ones in their order. One that was kept before changes nothing."""

    def events_after(self, request_id: str, sequence: int | None) -> Sequence[LoopEvent]:
        """The events kept with a higher sequence number; ``None`` is from the beginning."""
