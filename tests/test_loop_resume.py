"""A response that is gone on with: whatever has ended is not done again, wherever it stopped."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from reasoning_sdk import (
    AgentTools,
    FunctionTools,
    LoopConfig,
    LoopFailedError,
    MaxIterationsError,
    MemoryStore,
    RecordingSink,
    RequestContext,
    ResponseLoop,
    StepState,
    StoreError,
    ToolSchema,
)
from tests.support.loops import (
    APIS,
    QUICK,
    REQUEST,
    Crash,
    FaultyStore,
    ScriptedStore,
    add,
    carried_out,
    datas,
    done_items,
    follow,
    model_call,
    sqlite_error,
    steps,
    terminal,
    text_of,
    tool_call,
    upstream,
)
from tests.support.model_server import Call, ModelServer, Say
from tests.support.open_responses import check_response

both_apis = pytest.mark.parametrize("api", APIS)


class World:
    """A model, tools and an agent, which count what is asked of them."""

    def __init__(self, idempotent: bool) -> None:
        self.executed: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        functions = FunctionTools()
        functions.register(self._square, name="square", idempotent=idempotent)
        agents = AgentTools()
        agents.register("helper", description="Helps.", tools=["square"])
        self.tools = [functions, agents]
        self._lock = threading.Lock()

    def _square(self, n: int) -> int:
        """Square a number."""
        with self._lock:
            self.executed[str(n)] += 1
        return n * n

    def turn(self, body: Any) -> Any:
        messages = body["messages"]
        asked, results = messages[1 if messages[0]["role"] == "system" else 0]["content"], 0
        results = sum(message["role"] == "tool" for message in messages)
        with self._lock:
            self.asked[f"{asked} {results}"] += 1
        if asked == "hi":
            calls = [("square", {"n": 2}, "c2"), ("square", {"n": 3}, "c3")]
            calls.append(("helper", {"input": "x"}, "c4"))
            return Say("29, all in all") if results else Call(*calls, text="Let me see.")
        return Say("16") if results else Call(("square", {"n": 4}, "c5"))


@attrs.define
class Story:
    """What came of a response that may have been gone on with."""

    world: World
    store: MemoryStore
    response: Any = None
    error: BaseException | None = None
    live: list[list[Any]] = attrs.field(factory=list)

    def run(self, model: ModelServer, store: Any, **config: Any) -> None:
        sink = RecordingSink()
        config = {"retry": QUICK, "max_parallel_tools": 1, **config}
        self.response = self.error = None
        with ResponseLoop(
            upstream(model), tools=self.world.tools, store=store, config=LoopConfig(**config)
        ) as loop:
            try:
                self.response = loop.run(REQUEST, sink=sink, request_id="r")
            except BaseException as exc:
                self.error = exc
        self.live.append(datas(sink.events))


def story(model_server: Callable[..., ModelServer], *, idempotent: bool = True) -> Any:
    world = World(idempotent)
    return Story(world, MemoryStore()), model_server(world.turn)


def count_of_calls(model_server: Callable[..., ModelServer]) -> int:
    told, model = story(model_server)
    store = FaultyStore(inner=told.store)
    told.run(model, store)
    assert text_of(told.response) == "Let me see.29, all in all"
    return len(store.calls)


CALLS = 46  # an uninterrupted run makes so many calls of the store; a test holds it to that


def test_an_uninterrupted_run_makes_as_many_calls_of_the_store_as_the_tests_stop_at(model_server):
    assert count_of_calls(model_server) == CALLS


def shape(response: Any) -> list[Any]:
    """What a response says, without ids."""
    return [
        (
            item["type"],
            item.get("call_id"),
            item.get("output"),
            item.get("arguments"),
            item["status"],
        )
        for item in response["output"]
    ]


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", range(1, CALLS + 1))
def test_wherever_the_process_stops_a_second_run_ends_as_an_uninterrupted_one(
    model_server, nth, late
):
    plain, model = story(model_server)
    plain.run(model, plain.store)

    told, model = story(model_server)
    faulty = FaultyStore(lambda method, n, total: total == nth, Crash, inner=told.store, late=late)
    told.run(model, faulty)
    assert isinstance(told.error, Crash)
    done_before = finished(told.store)
    executed_before = dict(told.world.executed)
    asked_before = sum(told.world.asked.values())

    told.run(model, told.store)
    assert told.error is None
    assert text_of(told.response) == text_of(plain.response)
    assert shape(told.response) == shape(plain.response)
    assert told.response["usage"] == plain.response["usage"]
    check_response(told.response)
    assert sum(told.world.executed.values()) - sum(executed_before.values()) == 3 - len(
        [step for step in done_before if step.request_payload.get("name") == "square"]
    ), "what had ended was not done again"
    assert sum(told.world.asked.values()) - asked_before == 4 - len(
        [step for step in done_before if "messages" in step.request_payload]
    )
    kept_in_order(told)


def finished(store: MemoryStore) -> list[Any]:
    """The steps of all scopes that have ended, agents' own calls apart."""
    try:
        top = store.list_chain("r", None)
    except StoreError:
        return []
    inner = [step for parent in top for step in store.list_chain("r", parent.id)]
    return [step for step in [*top, *inner] if step.state.is_terminal]


def kept_in_order(told: Story) -> None:
    """The events that were kept, and what a client has got, are in order and without doubles."""
    kept = datas(told.store.events_after("r", None))
    numbers = [event["sequence_number"] for event in kept]
    assert numbers == sorted(set(numbers))
    ids = [item["id"] for item in done_items(kept)]
    assert ids == [item["id"] for item in told.response["output"]] or sorted(ids) == sorted(
        item["id"] for item in told.response["output"]
    )
    assert len(terminal(told.store.events_after("r", None))) == 1
    live = [event["sequence_number"] for events in told.live for event in events]
    assert live == sorted(set(live)) or told.live[-1][0] == kept[-1]
    for k in [event["sequence_number"] for event in told.live[0]]:
        before = [e for e in told.live[0] if e["sequence_number"] <= k]
        rest = datas(told.store.events_after("r", k))
        known = {item["id"] for item in done_items([*before, *rest])}
        assert known == {item["id"] for item in told.response["output"]}, "nothing is missed"
        assert "response.completed" in {event["type"] for event in [*before[-1:], *rest[-1:]]}


@pytest.mark.parametrize("nth", range(1, CALLS + 1))
def test_a_run_whose_store_failed_can_be_gone_on_with(model_server, nth):
    told, model = story(model_server)
    faulty = FaultyStore(lambda method, n, total: total == nth, sqlite_error, inner=told.store)
    told.run(model, faulty)
    told.run(model, told.store)
    assert text_of(told.response) == "Let me see.29, all in all"


@pytest.mark.parametrize("nth", range(8, CALLS + 1, 3))
def test_the_process_may_stop_while_tools_run_side_by_side(model_server, nth):
    told, model = story(model_server)
    faulty = FaultyStore(lambda method, n, total: total == nth, Crash, inner=told.store)
    told.run(model, faulty, max_parallel_tools=3)
    told.run(model, told.store, max_parallel_tools=3)
    assert text_of(told.response) == "Let me see.29, all in all"
    assert set(told.world.executed) == {"2", "3", "4"}


def test_it_may_stop_again_and_again(model_server):
    told, model = story(model_server)
    for _ in range(60):
        faulty = FaultyStore(lambda method, n, total: total == 11, Crash, inner=told.store)
        told.run(model, faulty)
        if told.error is None:
            break
    assert text_of(told.response) == "Let me see.29, all in all"
    kept = [event.sequence for event in told.store.events_after("r", None)]
    assert kept == sorted(set(kept))


# -- steps in flight -----------------------------------------------------------------------------


def in_flight(store: ScriptedStore) -> None:
    """A chain whose last step, a tool call, was under way when the process stopped."""
    call = store.record_step("r", None, None, model_call())
    store.complete_step(call.id, {"choices": []})
    step = store.record_step("r", None, call.id, tool_call("act", "c1", {"n": 1}))
    store.mark_step_processing(step.id)


class Acting:
    """A tool that may be idempotent."""

    def __init__(self, idempotent: bool) -> None:
        self.called = 0
        self._idempotent = idempotent

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        return [ToolSchema("act", idempotent=self._idempotent)]

    def execute(self, name: str, call_id: str, arguments: Any, ctx: RequestContext) -> Any:
        self.called += 1
        return "acted"


def test_a_tool_that_was_under_way_and_may_not_be_called_again_fails_the_response(model_server):
    store, acting, sink = ScriptedStore({}), Acting(idempotent=False), RecordingSink()
    in_flight(store)
    with pytest.raises(LoopFailedError) as caught:
        follow(store, model_server(), tools=acting, sink=sink)
    assert caught.value.payload["type"] == "step_abandoned"
    assert acting.called == 0
    step = store.list_chain("r", None)[-1]
    assert (step.state, step.error["type"]) == (StepState.FAILED, "step_abandoned")
    assert len(terminal(sink.events)) == 1


@pytest.mark.parametrize(
    ("idempotent", "on_inflight"), [(True, "fail"), (True, "retry"), (False, "retry")]
)
def test_a_tool_that_was_under_way_is_called_again_where_it_may(
    model_server, idempotent, on_inflight
):
    store, acting = ScriptedStore({}), Acting(idempotent)
    in_flight(store)
    config = LoopConfig(on_inflight=on_inflight)
    assert follow(store, model_server(), tools=acting, config=config) == 2
    assert acting.called == 1
    assert store.list_chain("r", None)[-1].response_payload == "acted"


def test_a_tool_that_was_recorded_and_not_begun_is_called(model_server):
    store, acting = ScriptedStore({}), Acting(idempotent=False)
    store.record_step("r", None, None, tool_call("act", "c1"))
    assert follow(store, model_server(), tools=acting) == 1
    assert acting.called == 1


def test_a_model_call_that_was_under_way_is_made_again_as_the_same_step(model_server):
    store = ScriptedStore({})
    step = store.record_step("r", None, None, model_call())
    store.mark_step_processing(step.id)
    model = model_server([Say("Hello")])
    assert follow(store, model) == 1
    (step,) = store.list_chain("r", None)
    assert step.state is StepState.COMPLETED


def test_an_abandoned_step_stays_abandoned(model_server):
    told, model = story(model_server, idempotent=False)
    faulty = FaultyStore(
        lambda method, n, total: method == "complete_step" and n == 2, Crash, inner=told.store
    )
    told.run(model, faulty)
    for _ in range(2):
        told.run(model, told.store)
        assert isinstance(told.error, LoopFailedError)
        assert told.error.payload["type"] == "step_abandoned"
        assert told.live[-1][-1]["response"]["error"]["code"] == "step_abandoned"
    assert told.world.executed["2"] == 1


def test_a_step_that_an_agent_had_to_abandon_fails_the_response(model_server):
    told, model = story(model_server, idempotent=False)
    faulty = FaultyStore(
        lambda method, n, total: method == "complete_step" and n == 5, Crash, inner=told.store
    )
    told.run(model, faulty)
    assert told.world.executed["4"] == 1
    told.run(model, told.store)
    assert isinstance(told.error, LoopFailedError)
    assert told.error.payload["type"] == "step_abandoned"
    assert told.world.executed["4"] == 1


# -- counting, chains and requests ---------------------------------------------------------------


@pytest.mark.parametrize("resumed", [1, 2, 3])
def test_iterations_are_counted_over_the_whole_life_of_a_response(model_server, resumed):
    model = model_server(lambda body: Call(("add", {"a": 1, "b": 1})))
    store = MemoryStore()
    for n in range(resumed):
        limit = LoopConfig(max_iterations=2 * n + 2)
        ran = carried_out(
            model, tools=[add], store=store, request_id="r", config=limit, judged=False
        )
        assert isinstance(ran.error, MaxIterationsError)
        assert len(model.requests) == n + 1
    steps_ = store.list_chain("r", None)
    assert max(step.iteration or 0 for step in steps_) == 2 * resumed


def test_iterations_of_a_store_that_does_not_count_are_counted_from_the_chain(model_server):
    store = ScriptedStore({None: [steps(model_call()) for _ in range(9)]})
    first = store.record_step("r", None, None, model_call())
    store.complete_step(first.id, {})
    last = first.id
    for n in range(2):
        last = store.record_step("r", None, last, tool_call("add", f"c{n}")).id
        store.complete_step(last, 1)
    model = model_server(lambda body: Say("x"))
    with pytest.raises(MaxIterationsError):
        follow(store, model, config=LoopConfig(max_iterations=4))
    assert len(model.requests) == 2


def test_a_store_that_fails_to_record_does_not_use_up_an_iteration(model_server):
    store = MemoryStore()
    for _ in range(5):
        faulty = FaultyStore(lambda method, n, total: method == "record_step", inner=store)
        assert isinstance(
            carried_out(model_server(), store=faulty, request_id="r", judged=False).error,
            StoreError,
        )
    model = model_server([Say("Hello")])
    config = LoopConfig(max_iterations=2)
    ran = carried_out(model, store=store, request_id="r", config=config, judged=False)
    assert ran.text == "Hello"


def test_a_longer_chain_goes_on_after_its_last_step(model_server):
    store = ScriptedStore({None: [steps(model_call())]})
    first = store.record_step("r", None, None, model_call())
    store.complete_step(first.id, {})
    assert follow(store, model_server([Say("x")])) == 2
    assert [step.prev_step_id for step in store.list_chain("r", None)] == [None, first.id]


def test_a_restarted_loop_goes_on_after_the_last_number(model_server):
    told, model = story(model_server)
    faulty = FaultyStore(
        lambda method, n, total: method == "append_events" and n == 2, Crash, inner=told.store
    )
    told.run(model, faulty)
    told.run(model, told.store)
    first, second = ([event["sequence_number"] for event in events] for events in told.live)
    assert second[0] > first[-1]
    assert second == list(range(second[0], second[0] + len(second)))
    assert [e["type"] for e in told.live[1]].count("response.created") == 0


def test_a_canceled_response_can_be_gone_on_with(model_server):
    from reasoning_sdk import Cancellation

    cancel = Cancellation()

    def act() -> str:
        """Act."""
        cancel.cancel()
        return "done"

    store = MemoryStore()
    model = model_server([Call(("act", {})), Say("Hello")])
    tools = FunctionTools()
    tools.register(act, idempotent=True)
    ran = carried_out(model, tools=tools, store=store, request_id="r", cancel=cancel)
    assert ran.response is None
    assert store.assemble_response("r")["status"] == "cancelled"
    again = carried_out(model, tools=tools, store=store, request_id="r", judged=False)
    assert again.text == "Hello"
    assert again.events[0]["type"] == "response.in_progress"
    assert again.events[0]["response"]["status"] == "in_progress"
    assert again.events[0]["response"]["error"] is None


def test_a_request_that_is_gone_on_with_may_stream_or_not(model_server):
    store = MemoryStore()
    faulty = FaultyStore(lambda method, n, total: method == "next_action_for", inner=store)
    carried_out(model_server(), store=faulty, request_id="r", judged=False)
    model = model_server([Say("Hello")])
    with ResponseLoop(upstream(model), store=store) as loop:
        assert text_of(loop.run(REQUEST, request_id="r")) == "Hello"
