"""Responses kept in this process's memory: for scripts, notebooks and tests."""

import os
import threading
import time
import uuid
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from reasoning_sdk._core.assembly import assemble, output_items
from reasoning_sdk._core.transition import (
    Conversation,
    LoopRequest,
    agent_request,
    check_request,
    input_items,
)
from reasoning_sdk.arguments import shown
from reasoning_sdk.errors import ConfigurationError, RecordNotFoundError, StorageError
from reasoning_sdk.events import LoopEvent
from reasoning_sdk.steps import (
    AppendSteps,
    ChainStep,
    NextAction,
    RecordedStep,
    StepDescriptor,
    StepKind,
    StepState,
    ToolSchema,
)

__all__ = ["MemoryStore"]

_ENDED = frozenset({"completed", "failed", "cancelled"})


class MemoryStore:
    """Keeps responses for as long as the process lives. Safe to use from any thread.

    Args:
        max_responses: The most ended responses to keep; the oldest ones are forgotten first. One
            that was forgotten can neither be replayed nor be a ``previous_response_id``. ``None``
            is no limit.

    Raises:
        ConfigurationError: ``max_responses`` is not a positive number.
    """

    def __init__(self, *, max_responses: int | None = 200) -> None:
        usable = type(max_responses) is int and max_responses > 0
        if max_responses is not None and not usable:
            raise ConfigurationError(
                f"max_responses must be an int > 0, got {shown(max_responses)}"
            )
        self._max_responses = max_responses
        self._records: dict[str, _Record] = {}
        self._steps: dict[str, _Place] = {}
        self._pid, self._own_lock = os.getpid(), threading.Lock()

    def __repr__(self) -> str:
        open_ones = sum(record.status not in _ENDED for record in tuple(self._records.values()))
        return f"<MemoryStore responses={len(self._records)} open={open_ones}>"

    @property
    def _lock(self) -> threading.Lock:
        if self._pid != os.getpid():  # another thread may have held it at the fork
            self._pid, self._own_lock = os.getpid(), threading.Lock()
        return self._own_lock

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
            request_id: The id by which it is known from now on; that of the response is the same,
                behind ``resp_``.
            request: The body of a ``POST /v1/responses``.
            tools: The tools that the loop can call.
            api: What the upstream speaks, ``"chat_completions"`` or ``"responses"``.

        Raises:
            ConfigurationError: The request cannot be carried out, or is not the one of this id.
        """
        spec = LoopRequest(check_request(request, api), tuple(tools), api)
        request_id = _bare(request_id)
        with self._lock:
            known = self._records.get(request_id)
            if known is not None and known.spec is not None:
                known.take_again(spec)
                return
            previous = spec.request.get("previous_response_id")
            record = _Record(request_id, spec, self._previous(previous))
            self._records[request_id] = record
            self._forget_old()

    def next_action_for(self, request_id: str, scope_parent: str | None) -> NextAction:
        """What is to be done next. Asked only when all steps recorded in the scope have ended.

        Raises:
            RecordNotFoundError: No request was kept under this id, or no such scope.
            StateError: A step of the scope has not ended.
        """
        with self._lock:
            record = self._record(request_id)
            scope = self._scope(record, scope_parent)
            action = scope.conversation.next_action(scope.chain)
            if isinstance(action, AppendSteps):
                scope.iteration = _iterations(scope.chain) + 1
                record.open()
            return action

    def record_step(
        self,
        request_id: str,
        scope_parent: str | None,
        prev_step: str | None,
        descriptor: StepDescriptor,
    ) -> RecordedStep:
        """Record a step to be taken after ``prev_step``, the last one of its scope.

        Raises:
            RecordNotFoundError: There is no such scope or previous step.
        """
        step_id, request_id = uuid.uuid4().hex, _bare(request_id)
        with self._lock:
            record = self._records.get(request_id)
            if record is None:  # of somebody who decides himself what is next
                record = self._records[request_id] = _Record(request_id, None, None)
            for known in (prev_step, scope_parent):
                if known is not None:
                    self._place(known)
            scope = record.scopes.setdefault(scope_parent, _Scope())
            record.sequence += 1
            step = ChainStep(
                step_id,
                descriptor.kind,
                StepState.PENDING,
                record.sequence,
                prev_step,
                scope_parent,
                descriptor.request_payload,
                iteration=scope.iteration or None,
            )
            self._steps[step_id] = _Place(record, scope.chain, len(scope.chain))
            scope.chain.append(step)
        is_model_call = descriptor.kind is StepKind.MODEL_CALL
        return RecordedStep(step_id, step.sequence, step_id if is_model_call else None)

    def mark_step_processing(self, step_id: str) -> None:
        """Note that a step is under way.

        Raises:
            RecordNotFoundError: There is no such step.
            StorageError: It has ended.
        """
        self._change(step_id, StepState.PROCESSING)

    def complete_step(self, step_id: str, payload: Any) -> None:
        """Note what came of a step.

        Raises:
            RecordNotFoundError: There is no such step.
            StorageError: It has ended before.
        """
        self._change(step_id, StepState.COMPLETED, payload)

    def fail_step(self, step_id: str, error: Any) -> None:
        """Note what a step has failed with.

        Raises:
            RecordNotFoundError: There is no such step.
            StorageError: It has ended before.
        """
        self._change(step_id, StepState.FAILED, None, error)

    def list_chain(self, request_id: str, scope_parent: str | None) -> list[ChainStep]:
        """The steps of one scope in the order of recording.

        Raises:
            RecordNotFoundError: There is no such response.
        """
        with self._lock:
            scope = self._record(request_id).scopes.get(scope_parent)
            return [] if scope is None else list(scope.chain)

    def assemble_response(self, request_id: str) -> dict[str, Any]:
        """The object of the Responses API as it is now.

        Args:
            request_id: The request's id, or that of the response.

        Raises:
            RecordNotFoundError: There is no such response.
        """
        with self._lock:
            return self._record(request_id).assembled()

    def end_response(self, request_id: str, status: str, error: Any) -> None:
        """Note that a run has ended.

        Args:
            request_id: The response.
            status: ``"completed"``, ``"failed"`` or ``"cancelled"``.
            error: What it has failed with, else ``None``.

        Raises:
            RecordNotFoundError: There is no such response.
        """
        with self._lock:
            record = self._record(request_id)
            if record.status != "completed":
                record.status, record.error, record.ended_at = status, error, time.time()
            self._forget_old()

    def append_events(self, request_id: str, events: Sequence[LoopEvent]) -> None:
        """Keep events, the next ones in their order. One that was kept before changes nothing.

        Raises:
            RecordNotFoundError: There is no such response.
        """
        with self._lock:
            kept = self._record(request_id).events
            last = kept[-1].sequence if kept else -1
            kept.extend(event for event in events if event.sequence > last)

    def events_after(self, request_id: str, sequence: int | None) -> list[LoopEvent]:
        """The events kept with a higher sequence number; ``None`` is from the beginning.

        Deltas are not kept: what they said is in the events that end their items.

        Raises:
            RecordNotFoundError: There is no such response.
        """
        with self._lock:
            events = self._record(request_id).events
            if sequence is None:
                return list(events)
            return events[bisect_right(events, sequence, key=lambda event: event.sequence) :]

    def delete_response(self, request_id: str) -> None:
        """Forget a response, with its steps and events.

        Raises:
            RecordNotFoundError: There is no such response.
        """
        with self._lock:
            self._forget(self._record(request_id))

    def _record(self, request_id: str) -> "_Record":
        record = self._records.get(_bare(request_id))
        if record is None:
            raise RecordNotFoundError(f"there is no response {request_id!r}")
        return record

    def _place(self, step_id: str) -> "_Place":
        try:
            return self._steps[step_id]
        except KeyError:
            raise RecordNotFoundError(f"there is no step {step_id!r}") from None

    def _previous(self, response_id: str | None) -> "_Record | None":
        if response_id is None:
            return None
        record = self._records.get(_bare(response_id))
        if record is None or record.status not in _ENDED:
            problem = "there is no such response" if record is None else "it has not ended"
            raise ConfigurationError(
                f"request.previous_response_id is {response_id!r}: {problem} in this store"
            )
        return record

    def _scope(self, record: "_Record", scope_parent: str | None) -> "_Scope":
        """A scope that says what is next."""
        if record.spec is None:
            raise RecordNotFoundError(
                f"there is no request {record.request_id!r}: create_response has to be called first"
            )
        scope = record.scopes.setdefault(scope_parent, _Scope())
        if scope.spec is None:
            if scope_parent is None:
                scope.begin(record.spec, record.history())
            else:
                place = self._place(scope_parent)
                step = place.chain[place.index]
                above = self._scope(record, step.parent_step_id).spec
                assert above is not None
                scope.begin(agent_request(above, step))
        return scope

    def _change(
        self, step_id: str, state: StepState, payload: Any = None, error: Any = None
    ) -> None:
        with self._lock:
            place = self._place(step_id)
            step = place.chain[place.index]
            if step.state.is_terminal:
                raise StorageError(f"step {step_id!r} has ended: it is {step.state.value}")
            place.chain[place.index] = step.now(state, payload, error)

    def _forget_old(self) -> None:
        if self._max_responses is None or len(self._records) <= self._max_responses:
            return
        ended = [record for record in self._records.values() if record.status in _ENDED]
        ended.sort(key=lambda record: record.ended_at or 0.0)
        for record in ended[: max(len(ended) - self._max_responses, 0)]:
            self._forget(record)

    def _forget(self, record: "_Record") -> None:
        del self._records[record.request_id]
        for scope in record.scopes.values():
            for step in scope.chain:
                del self._steps[step.id]


def _iterations(chain: Sequence[ChainStep]) -> int:
    """How many actions have been carried out, or begun."""
    return chain[-1].iteration or 0 if chain else 0


def _bare(response_id: str) -> str:
    """The id of a request, in whichever form it is given."""
    return response_id.removeprefix("resp_")


@attrs.frozen(eq=False)
class _Place:
    """Where a step is."""

    record: "_Record"
    chain: list[ChainStep]
    index: int


@attrs.define(eq=False)
class _Scope:
    """The steps of a response, or of one of its agents."""

    chain: list[ChainStep] = attrs.field(factory=list)
    iteration: int = 0
    spec: LoopRequest | None = None
    conversation: Conversation = attrs.field(init=False)

    def begin(self, spec: LoopRequest, history: Sequence[dict[str, Any]] | None = None) -> None:
        self.spec = spec
        is_agent = history is None
        self.conversation = Conversation(spec, history=history or (), is_agent=is_agent)


@attrs.define(eq=False)
class _Record:
    """A response."""

    request_id: str
    spec: LoopRequest | None
    previous: "_Record | None"
    created_at: float = attrs.field(factory=time.time)
    ended_at: float | None = None
    status: str = "in_progress"
    error: Any = None
    sequence: int = 0
    scopes: dict[str | None, _Scope] = attrs.field(factory=dict)
    events: list[LoopEvent] = attrs.field(factory=list)

    def take_again(self, spec: LoopRequest) -> None:
        """Go on with the request that was taken before; only whether to stream may be another."""
        assert self.spec is not None
        asked, known = dict(spec.request), dict(self.spec.request)
        stream = asked.pop("stream", None)
        known.pop("stream", None)
        if asked != known or spec.api != self.spec.api:
            raise ConfigurationError(f"request_id {self.request_id!r} is that of another request")
        if self.status != "completed":
            self.open()
        request = known if stream is None else {**known, "stream": stream}
        self.spec = LoopRequest(request, spec.tools, spec.api)
        for scope in self.scopes.values():
            scope.spec = None  # to be read again

    def open(self) -> None:
        self.status, self.error, self.ended_at = "in_progress", None, None

    def history(self) -> list[dict[str, Any]]:
        """What was said in the responses before, from the first on."""
        before = []
        record = self.previous
        while record is not None:
            before.append(record)
            record = record.previous
        items: list[dict[str, Any]] = []
        for record in reversed(before):
            items += input_items(record.spec.request if record.spec else {})
            items += output_items(record.chain)
        return items

    @property
    def chain(self) -> list[ChainStep]:
        """The steps of the top."""
        scope = self.scopes.get(None)
        return [] if scope is None else scope.chain

    def assembled(self) -> dict[str, Any]:
        spec = self.spec or LoopRequest({})
        agents = [s for parent, scope in self.scopes.items() if parent for s in scope.chain]
        return assemble(
            spec.request,
            tools=spec.tools,
            response_id=f"resp_{self.request_id}",
            chain=self.chain,
            agent_steps=agents,
            created_at=self.created_at,
            ended_at=self.ended_at,
            status=self.status,
            error=self.error,
        )
