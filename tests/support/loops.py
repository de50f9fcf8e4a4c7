"""What the tests of the response loop share: runs that are judged, stores that go wrong.

Every run of :func:`carried_out` has a sink, and what the sink got is held against the protocol::

    ran = carried_out(model, tools=[add])
    assert ran.text == "3"
"""

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from reasoning_sdk import (
    AgentTools,
    AppendSteps,
    ChainStep,
    Complete,
    FunctionTools,
    LoopConfig,
    LoopEvent,
    LoopFailedError,
    MemoryStore,
    NextAction,
    RecordedStep,
    RecordingSink,
    RequestContext,
    ResponseLoop,
    RetryPolicy,
    StepDescriptor,
    StepKind,
    StepState,
    StorageError,
    ToolSchema,
    UpstreamTarget,
    run_response_loop,
)
from tests.support.model_server import JSON, ModelServer
from tests.support.open_responses import check_response, check_stream

APIS = ("chat_completions", "responses")
REQUEST: Mapping[str, Any] = {"model": "m", "input": "hi"}
QUICK = RetryPolicy(
    initial_interval=0.001, max_interval=0.002, randomization_factor=0, max_attempts=2
)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def upstream(model: ModelServer, api: str = "chat_completions") -> UpstreamTarget:
    return UpstreamTarget(model.url, api=api)


# -- runs --------------------------------------------------------------------------------------


@attrs.define
class Ran:
    """What came of a run: a response or an error, and the events."""

    response: Any
    error: BaseException | None
    events: list[JSON]

    @property
    def kinds(self) -> list[str]:
        return [event["type"].removeprefix("response.") for event in self.events]

    @property
    def text(self) -> str:
        return text_of(self.response)

    @property
    def payload(self) -> Any:
        assert isinstance(self.error, LoopFailedError), self.error
        return self.error.payload

    def items(self, kind: str) -> list[JSON]:
        """The items of a type that are done."""
        return [item for item in done_items(self.events) if item["type"] == kind]

    def outputs(self) -> dict[str, Any]:
        """The results of tools, by the ids of their calls."""
        return {item["call_id"]: item["output"] for item in self.items("function_call_output")}


def done_items(events: Iterable[JSON]) -> list[JSON]:
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]


def text_of(response: JSON) -> str:
    """The texts of a response's messages."""
    parts = [p for item in response["output"] for p in item.get("content") or []]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


def datas(events: Iterable[LoopEvent]) -> list[JSON]:
    return [event.data for event in events]


def terminal(events: Iterable[LoopEvent]) -> list[LoopEvent]:
    return [event for event in events if event.kind.is_terminal]


def carried_out(
    model: ModelServer,
    *,
    tools: Any = (),
    api: str = "chat_completions",
    request: Mapping[str, Any] = REQUEST,
    config: LoopConfig | None = None,
    store: Any = None,
    judged: bool = True,
    **options: Any,
) -> Ran:
    """Carry a request out, with a loop of its own, and hold what it tells against the protocol."""
    config = config or LoopConfig(retry=QUICK)
    sink = RecordingSink()
    response = error = None
    with ResponseLoop(upstream(model, api), tools=tools, config=config, store=store) as loop:
        try:
            response = loop.run(request, sink=sink, **options)
        except BaseException as exc:
            error = exc
    events = datas(sink.events)
    if judged:
        check_stream(events)
    if response is not None:
        check_response(response)
        assert response == events[-1]["response"]
    return Ran(response, error, events)


def follow(
    store: Any,
    model: ModelServer,
    *,
    tools: Any = None,
    sink: Any = None,
    api: str = "chat_completions",
    request_id: str = "r",
    config: LoopConfig | None = None,
    **options: Any,
) -> Any:
    """Carry out what a store says."""
    return run_response_loop(
        store,
        tools or FunctionTools([add]),
        RequestContext(model="m"),
        upstream(model, api),
        request_id=request_id,
        event_sink=sink,
        config=config or LoopConfig(retry=QUICK),
        **options,
    )


def agents(*names: str, **options: Any) -> AgentTools:
    tools = AgentTools()
    for name in names:
        tools.register(name, description=f"The agent {name}.", **options)
    return tools


# -- tools and models --------------------------------------------------------------------------


class Tools:
    """An executor that runs a function for every tool: no more than what the contract asks for."""

    def __init__(self, execute: Callable[..., Any], *names: str, **options: Any) -> None:
        self._execute = execute
        self._schemas = [ToolSchema(name, **options) for name in names or ("act",)]

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        return self._schemas

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> Any:
        return self._execute(name, call_id, arguments, ctx)


def asked(body: Any) -> str:
    """What the conversation of a model call began with."""
    messages = body["messages"] if "messages" in body else body["input"]
    first = next(m for m in messages if m.get("role") == "user")["content"]
    return first if isinstance(first, str) else str(first[0]["text"])


def results_in(body: Any) -> int:
    messages = body["messages"] if "messages" in body else body["input"]
    return sum(m.get("role") == "tool" or m.get("type") == "function_call_output" for m in messages)


# -- steps -------------------------------------------------------------------------------------


def model_call(text: str = "hi", **fields: Any) -> StepDescriptor:
    messages = [{"role": "user", "content": text}]
    return StepDescriptor(StepKind.MODEL_CALL, {"model": "m", "messages": messages, **fields})


def tool_call(name: str, call_id: str, args: Any = None) -> StepDescriptor:
    payload = {"name": name, "args": args or {}, "call_id": call_id}
    return StepDescriptor(StepKind.TOOL_CALL, payload)


# -- stores ------------------------------------------------------------------------------------


class ScriptedStore:
    """A store with the methods of the contract and no others.

    Args:
        actions: By the name of the agent, ``None`` for the top, what to say next; in the end the
            scope is complete, with the number of its steps.
    """

    def __init__(self, actions: Mapping[str | None, Sequence[NextAction]]) -> None:
        self.actions = {name: list(each) for name, each in actions.items()}
        self.asked: list[str | None] = []
        self._steps: dict[str, ChainStep] = {}

    def next_action_for(self, request_id: str, scope_parent: str | None) -> NextAction:
        self.asked.append(scope_parent)
        name = self._steps[scope_parent].request_payload["name"] if scope_parent else None
        actions = self.actions.get(name) or [Complete(len(self.list_chain("", scope_parent)))]
        return actions.pop(0)

    def record_step(
        self,
        request_id: str,
        scope_parent: str | None,
        prev_step: str | None,
        descriptor: StepDescriptor,
    ) -> RecordedStep:
        number = len(self._steps) + 1
        id = f"step{number}"
        self._steps[id] = ChainStep(
            id,
            descriptor.kind,
            StepState.PENDING,
            number,
            prev_step,
            scope_parent,
            descriptor.request_payload,
        )
        return RecordedStep(id, number, f"key-of-{id}")

    def mark_step_processing(self, step_id: str) -> None:
        self._change(step_id, state=StepState.PROCESSING)

    def complete_step(self, step_id: str, payload: Any) -> None:
        self._change(step_id, state=StepState.COMPLETED, response_payload=payload)

    def fail_step(self, step_id: str, error: Any) -> None:
        self._change(step_id, state=StepState.FAILED, error=error)

    def list_chain(self, request_id: str, scope_parent: str | None) -> list[ChainStep]:
        return [s for s in self._steps.values() if s.parent_step_id == scope_parent]

    def assemble_response(self, request_id: str) -> Any:
        return {"status": "completed", "steps": len(self._steps)}

    def _change(self, step_id: str, **changes: Any) -> None:
        self._steps[step_id] = attrs.evolve(self._steps[step_id], **changes)


class Crash(BaseException):  # no error: the process is gone
    """The process has stopped."""


def storage_error() -> Exception:
    return StorageError("the disk is full")


def sqlite_error() -> Exception:
    return sqlite3.OperationalError("the disk is full")


Due = Callable[[str, int, int], bool]


class FaultyStore:
    """A store in memory some of whose calls fail.

    Args:
        due: Whether a call fails: of the method, how often it was called, and how often all were.
        error: Makes what is raised. After a :class:`Crash` every call raises one: nothing that a
            process does after its end is kept.
        inner: The store beneath.
        late: Whether the call is carried out, and then fails.
    """

    def __init__(
        self,
        due: Due = lambda method, nth, total: False,
        error: Callable[[], BaseException] = storage_error,
        *,
        inner: MemoryStore | None = None,
        late: bool = False,
    ) -> None:
        self.inner = MemoryStore() if inner is None else inner
        self.calls: list[str] = []
        self._due = due
        self._error = error
        self._late = late
        self._counts: dict[str, int] = defaultdict(int)
        self._dead = False

    def _call(self, method: str, *args: Any, **named: Any) -> Any:
        if self._dead:
            raise Crash
        self.calls.append(method)
        self._counts[method] += 1
        failing = self._due(method, self._counts[method], len(self.calls))
        if failing and not self._late:
            self._fail()
        result = getattr(self.inner, method)(*args, **named)
        if failing:
            self._fail()
        return result

    def _fail(self) -> None:
        error = self._error()
        self._dead = isinstance(error, Crash)
        raise error


def _calling(method: str) -> Callable[..., Any]:
    def call(self: FaultyStore, *args: Any, **named: Any) -> Any:
        return self._call(method, *args, **named)

    return call


METHODS = (
    "create_response",
    "next_action_for",
    "record_step",
    "mark_step_processing",
    "complete_step",
    "fail_step",
    "list_chain",
    "assemble_response",
    "end_response",
    "append_events",
    "events_after",
)
for _method in METHODS:
    setattr(FaultyStore, _method, _calling(_method))


def steps(*descriptors: StepDescriptor) -> AppendSteps:
    return AppendSteps(descriptors)
