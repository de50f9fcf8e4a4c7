"""The loop itself: ask what is next, take the steps side by side, note what came of them."""

import itertools
import logging
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, TypeAlias

import attrs

from reasoning_sdk._core.assembly import assemble, output_items
from reasoning_sdk._core.narrator import Narrator
from reasoning_sdk._core.turn import item_id, turn_of
from reasoning_sdk._core.wording import said
from reasoning_sdk._io.model import ModelCaller
from reasoning_sdk._io.workers import Workers
from reasoning_sdk.arguments import has_methods
from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.encoding import encode_json, parse_json
from reasoning_sdk.errors import (
    EmptyActionError,
    InvalidEventError,
    LoopCanceledError,
    LoopError,
    MaxDepthError,
    MaxIterationsError,
    ProtocolError,
    ReasoningError,
    StorageError,
    StoreError,
    ToolError,
    ToolNotFoundError,
)
from reasoning_sdk.events import LoopEventKind
from reasoning_sdk.loop.calls import Calls, Outcome, arguments_of, in_order, name_of
from reasoning_sdk.loop.config import LoopConfig
from reasoning_sdk.loop.events import ResponseEvents, ask_store
from reasoning_sdk.loop.failures import error_of, failure_of
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
from reasoning_sdk.typing import MultiStepStore, ToolExecutor

__all__ = ["LoopCounts", "ResponseRun", "response_id_of", "tools_of"]

log = logging.getLogger("reasoning_sdk.loop")

JSON: TypeAlias = Any
_GOOD_ENDS = (LoopEventKind.COMPLETED, LoopEventKind.INCOMPLETE)
_OF_END = ("status", "completed_at", "error", "incomplete_details")
_ENDS = {"failed": LoopEventKind.FAILED, "incomplete": LoopEventKind.INCOMPLETE}


@attrs.define
class LoopCounts:
    """How many steps were taken, and how many of them failed."""

    model_calls: int = 0
    failed_model_calls: int = 0
    tool_calls: int = 0
    failed_tool_calls: int = 0


def tools_of(executor: ToolExecutor, ctx: RequestContext) -> dict[str, ToolSchema]:
    """The tools of an executor, by their names.

    Raises:
        LoopFailedError: It cannot list them.
        ConfigurationError: They do not go together.
    """
    try:
        return {tool.name: tool for tool in executor.tools(ctx)}
    except ReasoningError:
        raise
    except Exception as exc:  # of the executor's own code
        message = f"the tools cannot be listed: {said(exc)}"
        raise failure_of({"type": "tool_error", "message": message}) from exc


@attrs.define(eq=False, kw_only=True)
class ResponseRun:
    """One run of one response, from where its chain ends. Used once, by one thread.

    Args:
        store: Says what is next, and keeps what came of it.
        executor: Calls the tools.
        tools: What it can call, by name; asked for when it is not given.
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
        schemas: The tools, by name.
        response: What it has told in the end, if anybody wanted to know.
    """

    store: MultiStepStore
    executor: ToolExecutor
    tools: Mapping[str, ToolSchema] | None = None
    ctx: RequestContext
    model: ModelCaller
    workers: Workers
    request_id: str
    scope: str | None = None
    events: ResponseEvents
    config: LoopConfig
    cancellation: Cancellation
    counts: LoopCounts
    schemas: Mapping[str, ToolSchema] = attrs.field(factory=dict, init=False)
    response: JSON = attrs.field(default=None, init=False)
    _started_at: float = attrs.field(factory=time.time, init=False)
    _has_requests: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._has_requests = self.scope is None and has_methods(self.store, "create_response")

    def to_its_end(self, depth: int) -> JSON:
        """Carry the response out, on a level.

        Returns:
            The payload that the store completes it with.

        Raises:
            LoopError: It has not completed.
            StoreError: The store has failed.
        """
        try:
            self.schemas = tools_of(self.executor, self.ctx) if self.tools is None else self.tools
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
            self.events.begin(self._response("in_progress", None))
        return Narrator(self.events.tell)

    def _end_with(self, exc: BaseException) -> None:
        """Note and tell that the run has not come to a good end; the error itself is raised."""
        error = error_of(exc)
        status = "cancelled" if isinstance(exc, LoopCanceledError) else "failed"
        try:
            self._end(status, error)
        except StoreError as failure:  # which may be what is told of
            log.warning("the end of response %s is not noted: %s", self.request_id, failure)
            self.events.end(
                LoopEventKind.FAILED, self._bare_response(status, error, self._chain_left())
            )

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

    def _chain_left(self) -> Sequence[ChainStep]:
        """What a store that has failed can still tell of the steps."""
        try:
            return list(ask_store(self.store.list_chain, self.request_id, self.scope))
        except StoreError:
            return ()

    def _bare_response(
        self, status: str, error: JSON, chain: Sequence[ChainStep]
    ) -> dict[str, Any]:
        """A response of a store that knows no request."""
        return assemble(
            {"model": self.ctx.model or ""},
            tools=tuple(self.schemas.values()),
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
        self._is_top = parent == run.scope
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
            action = self._next_action()
            if isinstance(action, Complete):
                return action.payload
            if isinstance(action, Fail):
                raise failure_of(action.payload)
            iterations += 1
            prev = self._append(action, prev)

    def _next_action(self) -> NextAction:
        run = self._run
        action = ask_store(run.store.next_action_for, run.request_id, self._parent)
        if not isinstance(action, (AppendSteps, Complete, Fail)):
            raise StorageError(f"the next action must be one, got a {type(action).__name__}")
        return action

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
        recorded = ask_store(run.store.record_step, run.request_id, self._parent, prev, descriptor)
        self._keys[recorded.id] = recorded.sub_request_id
        return ChainStep(
            recorded.id,
            descriptor.kind,
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
            name = name_of(step)
            message = f"tool {name!r} was interrupted, and may not be called again"
            self._settle(step, Outcome(error={"type": "step_abandoned", "message": message}))
        if abandoned:
            raise failure_of({"type": "step_abandoned", "message": message})
        if unfinished:
            self._take(unfinished)

    def _is_abandoned(self, step: ChainStep) -> bool:
        """Whether nobody knows what became of a step, and it may not be taken again."""
        if step.kind is StepKind.MODEL_CALL or step.state is StepState.PENDING:
            return False
        schema = self._run.schemas.get(name_of(step))
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
            for step, outcome in in_order(steps, noted) if _has_model_calls(steps) else noted:
                self._tell(step, outcome)

    def _begin(self, step: ChainStep) -> None:
        ask_store(self._run.store.mark_step_processing, step.id)

    def _settle(self, step: ChainStep, outcome: Outcome) -> None:
        """Note and tell what came of a step."""
        self._tell(*self._note(step, outcome))

    def _note(self, step: ChainStep, outcome: Outcome) -> tuple[ChainStep, Outcome]:
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

    def _tell(self, step: ChainStep, outcome: Outcome) -> None:
        if self._narrator is None:
            return
        if step.kind is StepKind.MODEL_CALL:
            self._narrator.turn(_items_of(outcome.payload, step.id))
        else:
            state = StepState.COMPLETED if outcome.error is None else StepState.FAILED
            self._narrator.output(step.now(state, outcome.payload, outcome.error))
        if self._is_top:
            self._run.events.keep()

    def _side_by_side(
        self, steps: Sequence[ChainStep]
    ) -> Generator[tuple[ChainStep, Outcome], None, None]:
        """Take steps on other threads, so many at a time; gives what comes of them as it comes."""
        run, calls = self._run, Calls(self._run.workers)
        waiting = deque(steps)
        if self._is_top:
            run.events.on_later = calls.wake
        with ExitStack() as stack:
            stack.callback(self._abandon, calls)
            stack.enter_context(run.cancellation.calling(calls.wake))
            while waiting or calls.running:
                run.check_canceled()
                while waiting and len(calls.running) < run.config.max_parallel_tools:
                    self._begin(waiting[0])
                    run.check_canceled()
                    self._start(calls, waiting.popleft())
                ended = calls.next_ended()
                if self._is_top:
                    run.events.take_in()
                if ended is not None:
                    yield ended

    def _abandon(self, calls: Calls) -> None:
        """End the run for those that are still at work."""
        if calls.running:
            self._run.cancellation.cancel()
            calls.abandon()

    def _start(self, calls: "Calls", step: ChainStep) -> None:
        """Have a step taken on another thread."""
        if step.kind is StepKind.MODEL_CALL:
            calls.start(step, lambda own: self._call_model(step, own, None), None)
        elif self._is_agent(step):
            calls.start(step, lambda own: self._call_agent(step), None, is_awaited=True)
        else:
            timeout = self._run.config.tool_timeout
            calls.start(step, lambda own: self._call_tool(step, own), timeout)

    def _is_agent(self, step: ChainStep) -> bool:
        schema = self._run.schemas.get(name_of(step))
        return schema is not None and schema.kind is ToolKind.AGENT

    def _call_model(
        self, step: ChainStep, cancellation: Cancellation, narrator: Narrator | None
    ) -> Outcome:
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
            return Outcome(error=error_of(exc, "upstream_error"))
        return Outcome(body)

    def _call_tool(self, step: ChainStep, own: Cancellation) -> Outcome:
        run, name = self._run, name_of(step)
        ctx = attrs.evolve(run.ctx, cancellation=own, step_id=step.id)
        try:
            if name not in run.schemas:
                raise ToolNotFoundError(f"there is no tool {name!r}")
            call_id = step.request_payload["call_id"]
            result = run.executor.execute(name, call_id, arguments_of(step), ctx)
            return Outcome(
                parse_json(encode_json(result))
            )  # what the tool does to it later is not seen
        except InvalidEventError as exc:
            return Outcome(error={"type": "tool_error", "message": f"result: {exc}"})
        except BaseException as exc:  # whatever a tool raises is its own failure
            return Outcome(error=error_of(exc, "tool_error"))

    def _call_agent(self, step: ChainStep) -> Outcome:
        agent = _Scope(self._run, step.id, self._depth + 1, self._narrator_of(step))
        try:
            arguments_of(step)
            return Outcome(agent.carry_out())
        except LoopCanceledError:
            raise
        except (LoopError, ToolError) as exc:
            return Outcome(error=error_of(exc, "agent_failed"))

    def _narrator_of(self, step: ChainStep) -> Narrator | None:
        """Who tells what an agent does, if anybody wants to know."""
        run = self._run
        if self._narrator is None or not run.config.agent_events:
            return None
        agent = {
            "item_id": item_id("function_call_output", step.id),
            "call_id": step.request_payload["call_id"],
            "name": name_of(step),
            "depth": self._depth + 1,
        }
        return Narrator(lambda kind, data: run.events.tell_later(kind, {**data, "agent": agent}))


def _has_model_calls(steps: Sequence[ChainStep]) -> bool:
    return any(step.kind is StepKind.MODEL_CALL for step in steps)


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
    return "model call" if step.kind is StepKind.MODEL_CALL else f"tool {name_of(step)!r}"


def response_id_of(request_id: str) -> str:
    """The id of the response to a request."""
    return request_id if request_id.startswith("resp_") else f"resp_{request_id}"
