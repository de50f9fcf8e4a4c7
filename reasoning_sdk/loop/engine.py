"""The loop itself: ask what is next, take the steps side by side, note what came of them."""

import itertools
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, TypeAlias

import attrs

from reasoning_sdk._core.assembly import assemble, output_items
from reasoning_sdk._core.narrator import Narrator
from reasoning_sdk._core.turn import turn_of
from reasoning_sdk._io.model import ModelCaller
from reasoning_sdk._io.thread import Signal
from reasoning_sdk._io.workers import Workers
from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.encoding import encode_json
from reasoning_sdk.errors import (
    APIStatusError,
    EmptyActionError,
    InvalidEventError,
    LoopCanceledError,
    LoopError,
    LoopFailedError,
    MaxDepthError,
    MaxIterationsError,
    ProtocolError,
    ReasoningError,
    ResponseFailedError,
    StoreError,
    ToolArgumentsError,
    ToolError,
    ToolNotFoundError,
    ToolTimeoutError,
)
from reasoning_sdk.events import LoopEventKind
from reasoning_sdk.loop.config import LoopConfig
from reasoning_sdk.loop.events import ResponseEvents, ask_store
from reasoning_sdk.steps import (
    AppendSteps,
    ChainStep,
    Complete,
    Fail,
    NextAction,
    RequestContext,
    StepDescriptor,
    StepKind,
    StepState,
    ToolKind,
    ToolSchema,
)
from reasoning_sdk.typing import MultiStepStore, ResponseStore, ToolExecutor

__all__ = ["LoopCounts", "ResponseRun", "response_id_of"]

log = logging.getLogger("reasoning_sdk.loop")

JSON: TypeAlias = Any
_GOOD_ENDS = (LoopEventKind.COMPLETED, LoopEventKind.INCOMPLETE)
_OF_END = ("status", "completed_at", "error", "incomplete_details")
_ENDS = {"failed": LoopEventKind.FAILED, "incomplete": LoopEventKind.INCOMPLETE}
_TYPES: dict[type[BaseException], str] = {
    ToolNotFoundError: "tool_not_found",
    ToolArgumentsError: "invalid_arguments",
    ToolTimeoutError: "tool_timeout",
    KeyboardInterrupt: "interrupted",
    MaxDepthError: "max_depth_exceeded",
    MaxIterationsError: "max_iterations_exceeded",
    EmptyActionError: "empty_action",
    LoopCanceledError: "canceled",
    InvalidEventError: "invalid_request",
}


@attrs.define
class LoopCounts:
    """How many steps were taken, and how many of them failed."""

    model_calls: int = 0
    failed_model_calls: int = 0
    tool_calls: int = 0
    failed_tool_calls: int = 0


@attrs.frozen
class _Outcome:
    """What came of a step: a payload, or an error."""

    payload: JSON = None
    error: JSON = None


def _by_name(tools: Iterable[ToolSchema]) -> dict[str, ToolSchema]:
    return {tool.name: tool for tool in tools}


@attrs.define(eq=False, kw_only=True)
class ResponseRun:
    """One run of one response, from where its chain ends. Used once, by one thread.

    Args:
        store: Says what is next, and keeps what came of it.
        executor: Calls the tools.
        tools: What it can call.
        ctx: What tools get to know.
        model: Calls the model.
        workers: The threads of the tools.
        request_id: The response.
        scope: The tool call whose agent is carried out, in place of the whole response.
        events: Gets what happens.
        config: The limits.
        cancellation: Ends the run; the run's own, which it cancels when it fails.
        counts: Counts steps.

    Attributes:
        response: What it has told in the end, if anybody wanted to know.
    """

    store: MultiStepStore
    executor: ToolExecutor
    tools: Mapping[str, ToolSchema] = attrs.field(converter=_by_name)
    ctx: RequestContext
    model: ModelCaller
    workers: Workers
    request_id: str
    scope: str | None = None
    events: ResponseEvents
    config: LoopConfig
    cancellation: Cancellation
    counts: LoopCounts
    response: JSON = attrs.field(default=None, init=False)
    _started_at: float = attrs.field(factory=time.time, init=False)
    _has_requests: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._has_requests = self.scope is None and isinstance(self.store, ResponseStore)

    def to_its_end(self, depth: int) -> JSON:
        """Carry the response out, on a level.

        Returns:
            The payload that the store completes it with.

        Raises:
            LoopError: It has not completed.
            StoreError: The store has failed.
        """
        try:
            self.events.open()
            payload = _Scope(self, self.scope, depth, self._narrator()).carry_out()
            self._end("completed", None)
        except BaseException as exc:
            self.cancellation.cancel()  # for whoever is still at work
            self._end_with(exc)
            raise
        return payload

    def check_canceled(self) -> None:
        """Go on only if nobody has canceled the response."""
        if self.cancellation.canceled:
            raise LoopCanceledError("the response was canceled")

    def _narrator(self) -> Narrator | None:
        """Who tells what happens, from where that ended before."""
        if not self.events.wanted:
            return None
        before = self.events.before
        if not (before and before[-1].kind in _GOOD_ENDS):
            response = self._response("in_progress", None)
            if not before:
                self.events.tell(LoopEventKind.CREATED, {"response": response})
            self.events.tell(LoopEventKind.IN_PROGRESS, {"response": response})
        return Narrator(self.events.tell)

    def _end_with(self, exc: BaseException) -> None:
        """Note and tell that the run has not come to a good end; the error itself is raised."""
        error = error_of(exc)
        status = "cancelled" if isinstance(exc, LoopCanceledError) else "failed"
        try:
            self._end(status, error)
        except StoreError as failure:  # which may be what is told of
            log.warning("the end of response %s is not noted: %s", self.request_id, failure)
            self.events.end(LoopEventKind.FAILED, self._bare_response(status, error, ()))

    def _end(self, status: str, error: JSON) -> None:
        end_response = getattr(self.store, "end_response", None)
        if end_response is not None and self.scope is None:
            ask_store(end_response, self.request_id, status, error)
        if self.events.wanted:
            response = self.response = self._response(status, error)
            told = response.get("status") if isinstance(response, Mapping) else None
            kind = LoopEventKind.COMPLETED if status == "completed" else LoopEventKind.FAILED
            self.events.end(_ENDS.get(str(told), kind), response)

    def _response(self, status: str, error: JSON) -> JSON:
        """The response as it is now."""
        if self._has_requests or (status == "completed" and self.scope is None):
            response = ask_store(self.store.assemble_response, self.request_id)
            return response if status == "completed" else self._as_of_now(response, status, error)
        chain = ask_store(self.store.list_chain, self.request_id, self.scope)
        return self._bare_response(status, error, chain)

    def _as_of_now(self, response: JSON, status: str, error: JSON) -> JSON:
        """A response whose store still tells, or has to tell, of the end of a run before."""
        if response["status"] == status:
            return response
        now = self._bare_response(status, error, ())
        return {**response, **{name: now[name] for name in _OF_END}}

    def _bare_response(
        self, status: str, error: JSON, chain: Sequence[ChainStep]
    ) -> dict[str, Any]:
        """A response of a store that knows no request."""
        return assemble(
            {"model": self.ctx.model or ""},
            tools=tuple(self.tools.values()),
            response_id=response_id_of(self.request_id),
            chain=chain,
            created_at=self._started_at,
            ended_at=time.time(),
            status=status,
            error=error,
        )


class _Scope:
    """The steps of a response, or of one of its agents."""

    def __init__(
        self, run: ResponseRun, parent: str | None, depth: int, narrator: Narrator | None
    ) -> None:
        self._run = run
        self._parent = parent
        self._depth = depth
        self._narrator = narrator
        self._keys: dict[str, str | None] = {}  # the ids of requests upstream

    def carry_out(self) -> JSON:
        """Take steps until the store says that it is enough."""
        run, config = self._run, self._run.config
        if self._depth >= config.max_depth:
            raise MaxDepthError(f"agents are nested more than {config.max_depth} levels deep")
        chain = list(ask_store(run.store.list_chain, run.request_id, self._parent))
        iterations = _iterations(chain)
        self._resume(chain)
        prev = chain[-1].id if chain else None
        while True:
            run.check_canceled()
            if iterations >= config.max_iterations:
                raise MaxIterationsError(f"not complete after {iterations} iterations")
            action: NextAction = ask_store(
                run.store.next_action_for, run.request_id, self._parent
            )
            if isinstance(action, Complete):
                return action.payload
            if isinstance(action, Fail):
                raise _failed(action.payload)
            iterations += 1
            prev = self._append(action, prev)

    def _append(self, action: AppendSteps, prev: str | None) -> str:
        """Record steps and take them; gives the id of the last."""
        if not action.steps:
            raise EmptyActionError("the store asked for steps and named none")
        steps = []
        for descriptor in action.steps:
            steps.append(self._record(descriptor, prev))
            prev = steps[-1].id
        if self._narrator is not None and not _has_model_calls(steps):
            self._narrator.outputs(steps)
        self._take(steps)
        return steps[-1].id

    def _record(self, descriptor: StepDescriptor, prev: str | None) -> ChainStep:
        run = self._run
        recorded = ask_store(
            run.store.record_step, run.request_id, self._parent, prev, descriptor
        )
        self._keys[recorded.id] = recorded.sub_request_id
        return ChainStep(
            recorded.id,
            StepKind(descriptor.kind),
            StepState.PENDING,
            recorded.sequence,
            prev,
            self._parent,
            descriptor.request_payload,
        )

    def _resume(self, chain: Sequence[ChainStep]) -> None:
        """Tell what was not told of a chain, and take the steps that it has left open."""
        if self._narrator is not None and chain:
            self._narrator.catch_up(output_items(chain), self._run.events.before)
        unfinished = [step for step in chain if not step.state.is_terminal]
        abandoned = [step for step in unfinished if self._is_abandoned(step)]
        for step in abandoned:
            name = _name_of(step)
            message = f"tool {name!r} was under way in a crash, and may not be called again"
            self._settle(step, _Outcome(error={"type": "step_abandoned", "message": message}))
        if abandoned:
            raise _failed({"type": "step_abandoned", "message": message})
        if unfinished:
            self._take(unfinished)

    def _is_abandoned(self, step: ChainStep) -> bool:
        """Whether nobody knows what became of a step, and it may not be taken again."""
        if step.kind is StepKind.MODEL_CALL or step.state is StepState.PENDING:
            return False
        schema = self._run.tools.get(_name_of(step))
        if schema is None:
            return False  # it cannot have been called
        again = schema.idempotent or schema.kind is ToolKind.AGENT  # which goes on where it was
        return not again and self._run.config.on_inflight != "retry"

    def _take(self, steps: Sequence[ChainStep]) -> None:
        """Take steps side by side; one that fails keeps nobody from theirs."""
        if len(steps) == 1 and steps[0].kind is StepKind.MODEL_CALL:
            self._begin(steps[0])
            outcome = self._call_model(steps[0], self._run.cancellation, self._narrator)
            self._settle(steps[0], outcome)
            return
        with closing(self._side_by_side(steps)) as ended:
            noted = itertools.starmap(self._note, ended)
            for step, outcome in _in_order(steps, noted) if _has_model_calls(steps) else noted:
                self._tell(step, outcome)

    def _begin(self, step: ChainStep) -> None:
        self._ask_store(self._run.store.mark_step_processing, step.id)

    def _settle(self, step: ChainStep, outcome: _Outcome) -> None:
        """Note and tell what came of a step."""
        self._tell(*self._note(step, outcome))

    def _note(self, step: ChainStep, outcome: _Outcome) -> tuple[ChainStep, _Outcome]:
        run, failed = self._run, outcome.error is not None
        if failed:
            ask_store(run.store.fail_step, step.id, outcome.error)
            log.info("%s failed: %s", _named(step), outcome.error.get("type"))
        else:
            ask_store(run.store.complete_step, step.id, outcome.payload)
        self._count(step, failed)
        return step, outcome

    def _count(self, step: ChainStep, failed: bool) -> None:
        counts = self._run.counts
        if step.kind is StepKind.MODEL_CALL:
            counts.model_calls += 1
            counts.failed_model_calls += failed
        else:
            counts.tool_calls += 1
            counts.failed_tool_calls += failed

    def _tell(self, step: ChainStep, outcome: _Outcome) -> None:
        if self._narrator is None:
            return
        if step.kind is StepKind.MODEL_CALL:
            self._narrator.turn(_items_of(outcome.payload, step.id))
        else:
            state = StepState.COMPLETED if outcome.error is None else StepState.FAILED
            self._narrator.output(step.now(state, outcome.payload, outcome.error))
        self._run.events.keep()

    def _side_by_side(
        self, steps: Sequence[ChainStep]
    ) -> Generator[tuple[ChainStep, _Outcome], None, None]:
        """Take steps on other threads, so many at a time; gives what comes of them as it comes."""
        run, calls = self._run, _Calls(self._run.workers)
        waiting = deque(steps)
        with ExitStack() as stack:
            stack.callback(calls.abandon)
            stack.enter_context(run.cancellation.calling(calls.wake))
            while waiting or calls.running:
                run.check_canceled()
                while waiting and len(calls.running) < run.config.max_parallel_tools:
                    self._begin(waiting[0])
                    self._start(calls, waiting.popleft())
                ended = calls.next_ended()
                if ended is not None:
                    yield ended

    def _start(self, calls: "_Calls", step: ChainStep) -> None:
        """Have a step taken on another thread."""
        if step.kind is StepKind.MODEL_CALL:
            calls.start(step, lambda own: self._call_model(step, own, None), None)
        elif self._is_agent(step):
            calls.start(step, lambda own: self._call_agent(step), None)
        else:
            timeout = self._run.config.tool_timeout
            calls.start(step, lambda own: self._call_tool(step, own), timeout)

    def _is_agent(self, step: ChainStep) -> bool:
        schema = self._run.tools.get(_name_of(step))
        return schema is not None and schema.kind is ToolKind.AGENT

    def _call_model(
        self, step: ChainStep, cancellation: Cancellation, narrator: Narrator | None
    ) -> _Outcome:
        try:
            body = self._run.model.call(
                step.request_payload,
                step_id=step.id,
                idempotency_key=self._keys.pop(step.id, None) or step.id,
                cancellation=cancellation,
                listener=narrator,
            )
        except LoopCanceledError:
            raise
        except Exception as exc:
            return _Outcome(error=error_of(exc, "upstream_error"))
        return _Outcome(body)

    def _call_tool(self, step: ChainStep, own: Cancellation) -> _Outcome:
        run, name = self._run, _name_of(step)
        ctx = attrs.evolve(run.ctx, cancellation=own, step_id=step.id)
        try:
            if name not in run.tools:
                raise ToolNotFoundError(f"there is no tool {name!r}")
            call_id = step.request_payload["call_id"]
            result = run.executor.execute(name, call_id, _arguments_of(step), ctx)
            encode_json(result)
        except InvalidEventError as exc:
            return _Outcome(error={"type": "tool_error", "message": f"result: {exc}"})
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as exc:  # whatever a tool raises is its own failure
            return _Outcome(error=error_of(exc, "tool_error"))
        return _Outcome(result)

    def _call_agent(self, step: ChainStep) -> _Outcome:
        agent = _Scope(self._run, step.id, self._depth + 1, self._narrator_of(step))
        try:
            _arguments_of(step)
            return _Outcome(agent.carry_out())
        except LoopCanceledError:
            raise
        except (LoopError, ToolError) as exc:
            return _Outcome(error=error_of(exc, "agent_failed"))

    def _narrator_of(self, step: ChainStep) -> Narrator | None:
        """Who tells what an agent does, if anybody wants to know."""
        run = self._run
        if self._narrator is None or not run.config.agent_events:
            return None
        call_id, name = step.request_payload["call_id"], _name_of(step)
        agent = {"call_id": call_id, "name": name, "depth": self._depth + 1}
        return Narrator(lambda kind, data: run.events.tell(kind, {**data, "agent": agent}))


@attrs.define(eq=False)
class _Call:
    """A step that is being taken on another thread."""

    step: ChainStep
    cancellation: Cancellation
    deadline: float | None


class _Calls:
    """Steps that are being taken on other threads. One thread at a time."""

    def __init__(self, workers: Workers) -> None:
        self.running: dict[str, _Call] = {}
        self._workers = workers
        self._signal = Signal()
        self._ended: deque[tuple[str, _Outcome | BaseException]] = deque()

    def wake(self) -> None:
        """End the wait in :meth:`next_ended`. Safe to call from any thread."""
        self._signal.give()

    def start(
        self, step: ChainStep, take: Callable[[Cancellation], _Outcome], timeout: float | None
    ) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        call = _Call(step, Cancellation(), deadline)
        self.running[step.id] = call

        def run() -> None:
            outcome: _Outcome | BaseException
            try:
                outcome = take(call.cancellation)
            except BaseException as exc:  # raised by the thread that waits
                outcome = exc
            self._ended.append((step.id, outcome))
            self._signal.give()

        self._workers.start(run)

    def next_ended(self) -> tuple[ChainStep, _Outcome] | None:
        """Wait for one to end, or to run out of time; ``None`` when something else is the matter.

        Raises:
            StoreError: The store has failed it.
        """
        if not self._ended:
            self._signal.take(self._seconds_left())
        while self._ended:
            step_id, outcome = self._ended.popleft()
            call = self.running.pop(step_id, None)
            if call is None:
                continue  # it has run out of time before
            if isinstance(outcome, BaseException):
                raise outcome
            return call.step, outcome
        return self._expired()

    def _seconds_left(self) -> float | None:
        deadlines = [c.deadline for c in self.running.values() if c.deadline is not None]
        return max(min(deadlines) - time.monotonic(), 0.0) if deadlines else None

    def _expired(self) -> tuple[ChainStep, _Outcome] | None:
        now = time.monotonic()
        for call in self.running.values():
            if call.deadline is not None and call.deadline <= now:
                del self.running[call.step.id]
                call.cancellation.cancel()
                error = ToolTimeoutError(f"tool {_name_of(call.step)!r} took too long")
                return call.step, _Outcome(error=error_of(error))
        return None

    def abandon(self) -> None:
        """Tell those that still run to stop; nobody waits for them."""
        for call in self.running.values():
            call.cancellation.cancel()


def _has_model_calls(steps: Sequence[ChainStep]) -> bool:
    return any(step.kind is StepKind.MODEL_CALL for step in steps)


def _in_order(
    steps: Sequence[ChainStep], ended: Iterable[tuple[ChainStep, _Outcome]]
) -> Iterator[tuple[ChainStep, _Outcome]]:
    """What came of steps, in the order of the steps: of each as soon as that is known."""
    waiting, outcomes = deque(steps), dict[str, _Outcome]()
    for step, outcome in ended:
        outcomes[step.id] = outcome
        while waiting and waiting[0].id in outcomes:
            first = waiting.popleft()
            yield first, outcomes[first.id]


def _iterations(chain: Sequence[ChainStep]) -> int:
    """How many actions have made a chain: as its steps tell, else a model call or its tools."""
    told = [step.iteration for step in chain if step.iteration is not None]
    if told:
        return max(told)
    tools, count = False, 0
    for step in chain:
        is_tool = step.kind is StepKind.TOOL_CALL
        count += not (is_tool and tools)
        tools = is_tool
    return count


def _items_of(body: JSON, step_id: str) -> list[dict[str, Any]]:
    try:
        return turn_of(body, step_id).items
    except ProtocolError:  # it failed, or its store knows how to read it
        return []


def _named(step: ChainStep) -> str:
    return "model call" if step.kind is StepKind.MODEL_CALL else f"tool {_name_of(step)!r}"


def _name_of(step: ChainStep) -> str:
    payload = step.request_payload
    return str(payload.get("name", "")) if isinstance(payload, Mapping) else ""


def _arguments_of(step: ChainStep) -> Mapping[str, Any]:
    """The arguments of a tool call.

    Raises:
        ToolArgumentsError: They are no JSON object.
    """
    args = step.request_payload.get("args")
    if isinstance(args, str):
        try:
            args = json.loads(args)
        except ValueError as exc:
            raise ToolArgumentsError(f"arguments are not JSON: {exc}") from exc
    if not isinstance(args, Mapping):
        raise ToolArgumentsError(f"arguments must be a JSON object, got {type(args).__name__}")
    return args


def _failed(payload: JSON) -> LoopFailedError:
    details = payload if isinstance(payload, Mapping) else {"message": payload}
    said = [str(details[key]) for key in ("code", "message") if details.get(key)]
    return LoopFailedError(": ".join(["response failed", *said]), payload=payload)


def response_id_of(request_id: str) -> str:
    """The id of the response to a request."""
    return request_id if request_id.startswith("resp_") else f"resp_{request_id}"


def error_of(exc: BaseException, kind: str = "") -> dict[str, Any]:
    """An error as JSON: ``{"type", "message", …}``.

    Args:
        exc: The error.
        kind: The type of one that has none of its own.
    """
    if isinstance(exc, LoopFailedError) and isinstance(exc.payload, Mapping):
        return {"type": kind or "failed", "message": exc.message, **exc.payload}
    own = next((name for cls, name in _TYPES.items() if isinstance(exc, cls)), kind)
    if isinstance(exc, ReasoningError) and not isinstance(exc, (ToolError, LoopError)):
        return {"type": own or "store_error", **_details(exc)}
    name = "" if isinstance(exc, ReasoningError) else f"{type(exc).__name__}: "
    return {"type": own or ("internal_error" if name else "failed"), "message": name + _said(exc)}


def _said(exc: BaseException) -> str:
    """What an error says, as text that can be written; a tool may raise what says nothing."""
    try:
        return str(exc).encode("utf-8", "backslashreplace").decode()
    except Exception:  # of its own __str__
        return ""


def _details(exc: ReasoningError) -> dict[str, Any]:
    """What an upstream's error tells."""
    details: dict[str, Any] = {"message": str(exc), "retryable": exc.retryable}
    if isinstance(exc, (APIStatusError, ResponseFailedError)):
        details.update(code=exc.code, message=exc.message, retry_after=exc.retry_after)
    if isinstance(exc, APIStatusError):
        details["status"] = exc.status_code
    return {key: value for key, value in details.items() if value is not None}
