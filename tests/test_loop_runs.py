"""One run of one response at a time: how it is claimed, told of, ended and left behind."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import reasoning_sdk.loop
from reasoning_sdk import (
    CallbackSink,
    Cancellation,
    FunctionTools,
    LoopCanceledError,
    LoopConfig,
    LoopError,
    LoopEvent,
    LoopEventKind,
    LoopFailedError,
    MemoryStore,
    RecordingSink,
    RecordNotFoundError,
    ResponseLoop,
    StateError,
    StepState,
    StorageError,
)
from reasoning_sdk._io.workers import Workers
from reasoning_sdk.loop import calls, response_loop, stream
from reasoning_sdk.loop.events import ResponseEvents
from tests.support.loops import (
    APIS,
    QUICK,
    REQUEST,
    FaultyStore,
    Tools,
    add,
    agents,
    asked,
    datas,
    results_in,
    terminal,
    text_of,
    upstream,
)
from tests.support.model_server import JSON, Call, ModelServer, Refuse, Say
from tests.support.open_responses import check_response
from tests.support.threads import InThread

STREAMED = {**REQUEST, "stream": True}
A_MOMENT = 0.05  # for what must not happen


def looping(model: ModelServer, **options: Any) -> ResponseLoop:
    return ResponseLoop(upstream(model), config=options.pop("config", LoopConfig()), **options)


def adding(body: JSON) -> Say:
    """A model that has two numbers added, by whoever asks."""
    return Say("It is 3.") if results_in(body) else Call(("add", {"a": 1, "b": 2}))


def with_an_agent(body: JSON) -> Say:
    """A model whose agent has two numbers added."""
    if asked(body) == "sub":
        return adding(body)
    return Say("Done.") if results_in(body) else Call(("helper", {"input": "sub"}, "c1"))


# -- agents that are still at work ---------------------------------------------------------------


class HeldStore(FaultyStore):
    """A store that is slow for an agent: the first call of a method waits until it is let go."""

    def __init__(self, method: str) -> None:
        super().__init__(self._hold)
        self.held, self.let_go = threading.Event(), threading.Event()
        self._method = method

    def _hold(self, method: str, nth: int, total: int) -> bool:
        is_agent = threading.current_thread().name.startswith("reasoning-sdk")
        if is_agent and method == self._method and not self.held.is_set():
            self.held.set()
            assert self.let_go.wait(10)
        return False


def of_an_agent() -> list[Any]:
    functions = FunctionTools()
    functions.register(add, idempotent=True)
    return [functions, agents("helper", tools=["add"])]


@contextmanager
def canceled_while_held(
    loop: ResponseLoop, store: HeldStore, sink: Any = None
) -> Iterator[InThread]:
    """A run that was canceled while its agent waits for the store."""
    cancel = Cancellation()
    thread = InThread(lambda: loop.run(REQUEST, request_id="r", cancel=cancel, sink=sink))
    try:
        assert store.held.wait(5)
        cancel.cancel()
        yield thread
    finally:
        store.let_go.set()
        thread.join(5)


ASKED_BY_AGENTS = (
    "list_chain",
    "next_action_for",
    "record_step",
    "mark_step_processing",
    "complete_step",
)


@pytest.mark.parametrize("method", ASKED_BY_AGENTS)
def test_a_canceled_run_returns_when_its_agents_ask_the_store_no_more(model_server, method):
    model, store = model_server(with_an_agent), HeldStore(method)
    with looping(model, tools=of_an_agent(), store=store) as loop:
        with canceled_while_held(loop, store) as thread:
            thread.join(A_MOMENT)
            assert thread.is_alive()
            assert loop.stats.running == 1
            with pytest.raises(StateError, match="resp_r is being carried out"):
                loop.run(REQUEST, request_id="r")
            store.let_go.set()
            assert isinstance(thread.raises(5), LoopCanceledError)
        asked_before = len(store.calls)
        assert text_of(store.inner.assemble_response("r")) == ""
        assert len(store.calls) == asked_before
        resumed = loop.run(REQUEST, request_id="r")
    assert (resumed["status"], text_of(resumed)) == ("completed", "Done.")
    states = {step.state for step in store.inner.list_chain("r", None)}
    assert states == {StepState.COMPLETED}


def test_a_tool_that_an_agent_began_after_the_cancel_is_not_called_twice(model_server):
    """The store was slow to note that it begins."""
    charged, held, let_go, release = [], *(threading.Event() for _ in range(3))

    def charge(*args: Any) -> str:
        charged.append(args)
        release.wait(10)
        return "charged"

    def hold(method: str, nth: int, total: int) -> bool:
        if method == "mark_step_processing" and nth == 4:  # the tool of the agent
            held.set()
            assert let_go.wait(10)
        return False

    def turn(body: JSON) -> Say:
        if results_in(body):
            return Say("Done.")
        return Call(("act", {})) if asked(body) == "sub" else Call(("helper", {"input": "sub"}))

    cancel, tools = Cancellation(), [Tools(charge), agents("helper", tools=["act"])]
    with looping(model_server(turn), tools=tools, store=FaultyStore(hold)) as loop:
        thread = InThread(lambda: loop.run(REQUEST, request_id="r", cancel=cancel))
        try:
            assert held.wait(5)
            cancel.cancel()
            let_go.set()
            assert isinstance(thread.raises(5), LoopCanceledError)
            with pytest.raises(LoopFailedError) as caught:
                loop.run(REQUEST, request_id="r")
        finally:
            let_go.set()
            release.set()
    assert caught.value.payload["type"] == "step_abandoned"
    assert len(charged) <= 1


def test_a_tool_of_an_agent_is_not_waited_for(model_server):
    begun, release = threading.Event(), threading.Event()

    def execute(*args: Any) -> None:
        begun.set()
        release.wait(10)

    def turn(body: JSON) -> Say:
        return Call(("act", {})) if asked(body) == "sub" else Call(("helper", {"input": "sub"}))

    cancel = Cancellation()
    tools = [Tools(execute), agents("helper", tools=["act"])]
    with looping(model_server(turn), tools=tools) as loop:
        thread = InThread(lambda: loop.run(REQUEST, cancel=cancel))
        try:
            assert begun.wait(5)
            cancel.cancel()
            assert isinstance(thread.raises(2), LoopCanceledError)
        finally:
            release.set()


def test_a_run_whose_store_fails_cuts_its_agents_off(model_server):
    """One of them still listens to the model."""

    def turn(body: JSON) -> Say:
        if asked(body) == "sub":
            return Say("Hello, world!", gate="held")
        return Call(("act", {}), ("helper", {"input": "sub"}))

    model = model_server(turn)
    store = FaultyStore(lambda method, nth, total: method == "complete_step" and nth == 2)
    tools = [Tools(lambda *args: model.wait_at("held", 5)), agents("helper")]
    with looping(model, tools=tools, store=store) as loop:
        thread = InThread(lambda: loop.run(STREAMED))
        try:
            model.wait_at("held")
            assert isinstance(thread.raises(2), StorageError)
            assert loop.stats.running == 0
        finally:
            model.open("held")


# -- what is told --------------------------------------------------------------------------------


def rises(events: list[LoopEvent]) -> bool:
    numbers = [event.sequence for event in events]
    return numbers == sorted(set(numbers))


def test_what_others_had_to_tell_is_told_before_the_end_or_not_at_all():
    sink, store = RecordingSink(), MemoryStore()
    store.create_response("r", REQUEST)
    events = ResponseEvents(store, "r", sink)
    events.open()
    events.begin({})
    events.tell_later(LoopEventKind.OUTPUT_ITEM_ADDED, {"item": {}})
    events.end(LoopEventKind.COMPLETED, {})
    events.tell_later(LoopEventKind.OUTPUT_ITEM_DONE, {"item": {}})
    events.take_in()
    events.end(LoopEventKind.FAILED, {})
    kinds = ["created", "in_progress", "output_item.added", "completed"]
    assert [event.kind for event in sink.events] == [f"response.{kind}" for kind in kinds]
    assert [event.sequence for event in sink.events] == [0, 1, 2, 3]
    assert store.events_after("r", None) == sink.events


def test_an_agent_that_outlives_the_run_tells_nothing_after_the_last_event(
    model_server, monkeypatch
):
    """It goes on while the last event is being kept."""
    monkeypatch.setattr(calls, "_PATIENCE", 0.0, raising=False)
    told_late = threading.Event()
    store = HeldStore("complete_step")
    append = store.inner.append_events

    def append_events(request_id: str, events: Any) -> None:
        if events[-1].kind.is_terminal:
            store.let_go.set()
            told_late.wait(A_MOMENT)
        append(request_id, events)

    monkeypatch.setattr(store.inner, "append_events", append_events)
    sink, config = RecordingSink(), LoopConfig(agent_events=True)

    def emit(event: LoopEvent) -> None:
        sink.emit(event)
        if store.let_go.is_set():
            told_late.set()

    model, tools = model_server(with_an_agent), of_an_agent()
    with (
        looping(model, tools=tools, store=store, config=config) as loop,
        canceled_while_held(loop, store, CallbackSink(emit)) as thread,
    ):
        assert isinstance(thread.raises(5), LoopCanceledError)
    assert rises(sink.events)
    assert terminal(sink.events) == sink.events[-1:]
    kept = store.inner.events_after("r", None)
    assert rises(kept)
    assert terminal(kept) == kept[-1:]


@pytest.mark.parametrize("stream", [True, False])
def test_agents_that_are_cut_off_tell_nothing_after_the_last_event(model_server, stream):
    def turn(body: JSON) -> Say:
        if asked(body) == "sub":
            return Say("word " * 500, pieces=500)
        return Call(*[("helper", {"input": "sub"}, f"c{n}") for n in range(3)])

    cancel, sink = Cancellation(), RecordingSink()

    def emit(event: LoopEvent) -> None:
        sink.emit(event)
        if "agent" in event.data and (len(sink) > 100 or not stream):
            cancel.cancel()

    config = LoopConfig(agent_events=True)
    with looping(model_server(turn), tools=[agents("helper")], config=config) as loop:
        with pytest.raises(LoopCanceledError):
            loop.run(
                {**REQUEST, "stream": stream},
                sink=CallbackSink(emit),
                cancel=cancel,
                request_id="r",
            )
        kept = loop.store.events_after("r", None)
    assert rises(sink.events)
    assert rises(list(kept))
    assert terminal(sink.events) == sink.events[-1:]
    assert [event.sequence for event in terminal(kept)] == [sink.events[-1].sequence]


def test_the_sink_gets_the_events_of_agents_in_the_thread_that_runs(model_server):
    def turn(body: JSON) -> Say:
        if asked(body).startswith("sub"):
            return adding(body)
        if results_in(body):
            return Say("Done.")
        return Call(*[("helper", {"input": f"sub{n}"}, f"c{n}") for n in range(4)])

    threads, agents_heard = set(), Counter[str]()

    def emit(event: LoopEvent) -> None:
        threads.add(threading.current_thread())
        agents_heard.update([event.data["agent"]["call_id"]] if "agent" in event.data else [])

    config = LoopConfig(agent_events=True)
    with looping(model_server(turn), tools=[add, agents("helper")], config=config) as loop:
        loop.run(REQUEST, sink=CallbackSink(emit))
    assert threads == {threading.current_thread()}
    assert set(agents_heard) == {"c0", "c1", "c2", "c3"}


def ruin(value: Any) -> None:
    """Change all of a JSON value in place."""
    parts = list(value.values()) if isinstance(value, dict) else list(value)
    for part in parts:
        if isinstance(part, (dict, list)):
            ruin(part)
    value.clear()


def redact(value: Any) -> None:
    """Replace the texts of a JSON value in place."""
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        if isinstance(part, (dict, list)):
            redact(part)
        elif isinstance(part, str):
            value[key] = "REDACTED"


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("change", [ruin, redact])
def test_what_a_sink_does_to_an_event_is_seen_by_nobody(model_server, api, stream, change):
    model = model_server(
        [Call(("add", {"a": 1, "b": 2}, "c1"), text="Let me see."), Say("It is 3.")]
    )
    request, store = {**REQUEST, "stream": stream}, MemoryStore()
    with ResponseLoop(upstream(model, api), tools=[add], store=store) as loop:
        sink = CallbackSink(lambda event: change(event.data))
        response = loop.run(request, sink=sink, request_id="r")
        check_response(response)
        assert text_of(response) == "Let me see.It is 3."
        assert loop.run(request, request_id="r") == response
    assert store.assemble_response("r") == response
    kept = store.events_after("r", None)
    assert all(
        (event.data["type"], event.data["sequence_number"]) == (event.kind.value, event.sequence)
        for event in kept
    )
    assert kept[-1].data["response"] == response
    done = [e["item"] for e in datas(kept) if e["type"] == "response.output_item.done"]
    assert done == response["output"]
    before = str(response)
    change(response)  # by whoever has asked
    assert str(store.events_after("r", None)[-1].data["response"]) == before
    said = str(model.bodies[1])
    assert "Let me see." in said
    assert "c1" in said
    assert "REDACTED" not in said


@pytest.mark.parametrize("late", [True, False], ids=["after", "before"])
def test_ctrl_c_while_the_last_event_is_kept_makes_no_second_one(model_server, late):
    interrupted: list[int] = []

    def due(method: str, nth: int, total: int) -> bool:
        ending = method == "append_events" and "end_response" in store.calls
        if ending:
            interrupted.append(total)
        return ending and len(interrupted) == 1

    store = FaultyStore(due, KeyboardInterrupt, late=late)
    sink = RecordingSink()
    with looping(model_server([Say("Hello")]), store=store) as loop:
        with pytest.raises(KeyboardInterrupt):
            loop.run(REQUEST, request_id="r", sink=sink)
        (told,) = terminal(sink.events)
        kept = terminal(store.inner.events_after("r", None))
        assert [(e.sequence, e.kind) for e in kept] == [(told.sequence, told.kind)] * late
        assert loop.run(REQUEST, request_id="r")["status"] == "completed"
    assert [e.kind for e in terminal(store.inner.events_after("r", None))] == [told.kind]


# -- to close the loop ---------------------------------------------------------------------------

CLOSED_AT = 24  # a run makes no more calls of the store; a test holds it to that


def test_a_run_makes_no_more_calls_of_the_store_than_the_tests_close_at(model_server):
    store = FaultyStore()
    with looping(model_server(adding), tools=[add], store=store) as loop:
        loop.run(REQUEST)
    assert len(store.calls) <= CLOSED_AT


@pytest.mark.parametrize("late", [True, False], ids=["after", "before"])
def test_a_loop_may_be_closed_at_any_time_and_its_runs_be_gone_on_with(model_server, late):
    model, functions = model_server(adding), FunctionTools()
    functions.register(add, idempotent=True)
    ends = Counter[str]()
    for nth in range(1, CLOSED_AT + 1):
        closing = looping(model, tools=functions)

        def due(method: str, n: int, total: int, *, at: int = nth, loop: Any = closing) -> bool:
            if total == at + late:
                loop.close()
            return False

        closing.store = FaultyStore(due, inner=(store := MemoryStore()))
        try:
            ends[closing.run(REQUEST, request_id="r")["status"]] += 1
        except (LoopCanceledError, StateError) as exc:
            ends[type(exc).__name__] += 1
        closing.close()
        assert closing.stats.running == 0
        assert StepState.FAILED not in [step.state for step in store.list_chain("r", None)]
        with looping(model, tools=functions, store=store) as other:
            assert text_of(other.run(REQUEST, request_id="r")) == "It is 3."
    assert ends["LoopCanceledError"] > 3


def test_a_run_that_begins_in_the_middle_of_a_close_fails_no_step(model_server, monkeypatch):
    """After those under way were told, and before the connections are closed."""
    at, closed = threading.Event(), threading.Event()

    def due(method: str, nth: int, total: int) -> bool:
        if method == "mark_step_processing" and not closed.is_set():
            at.set()
            assert closed.wait(10)
        return False

    store = FaultyStore(due)
    model = model_server(adding)
    loop = looping(model, tools=[add], store=store)
    close, threads = loop._transport.close, []

    def run() -> None:
        try:
            loop.run(REQUEST, request_id="r")
        finally:
            at.set()

    def slowly_close() -> None:
        threads.append(InThread(run))
        assert at.wait(5)
        close()
        closed.set()

    monkeypatch.setattr(loop._transport, "close", slowly_close)
    loop.close()
    assert isinstance(threads[0].raises(5), (StateError, LoopCanceledError))
    with looping(model, tools=[add], store=store.inner) as other:
        assert text_of(other.run(REQUEST, request_id="r")) == "It is 3."
    assert StepState.FAILED not in [step.state for step in store.inner.list_chain("r", None)]


def test_many_runs_begin_while_the_loop_is_closed(model_server):
    model, store = model_server(lambda body: Say("Hello")), MemoryStore()
    enough, ids = threading.Semaphore(0), []

    def run(loop: ResponseLoop, name: str) -> None:
        for n in range(10_000):
            ids.append(f"{name}-{n}")
            loop.run(REQUEST, request_id=ids[-1])
            enough.release()

    loop = looping(model, store=store)
    threads = [InThread(lambda name=str(n): run(loop, name)) for n in range(8)]
    for _ in range(16):
        assert enough.acquire(timeout=5)
    loop.close()
    errors = [type(thread.raises(5)) for thread in threads]
    assert set(errors) <= {LoopCanceledError, StateError}
    with looping(model, store=store) as other:
        for id in ids[-8:]:
            assert other.run(REQUEST, request_id=id)["status"] == "completed"


# -- one run of an id ----------------------------------------------------------------------------


def run_to_its_end(loop: ResponseLoop, **options: Any) -> str:
    return str(loop.run(STREAMED, **options)["status"])


def stream_to_its_end(loop: ResponseLoop, **options: Any) -> str:
    return str(loop.stream(REQUEST, **options).until_done()["status"])


def body_to_its_end(loop: ResponseLoop, **options: Any) -> str:
    return "completed" if b"response.completed" in b"".join(loop.sse(REQUEST, **options)) else ""


each_way = pytest.mark.parametrize(
    "way", [run_to_its_end, stream_to_its_end, body_to_its_end], ids=["run", "stream", "sse"]
)
Way = Callable[..., str]


@each_way
@pytest.mark.parametrize("request_id", ["r", "resp_r"])
def test_a_second_run_of_an_id_under_way_is_refused_and_disturbs_nothing(
    model_server, way, request_id
):
    model = model_server([Say("Hello, world!", gate="held")])
    with looping(model) as loop:
        sink = RecordingSink()
        thread = InThread(lambda: loop.run(REQUEST, request_id="r", sink=sink))
        model.wait_at("held")
        chain = loop.store.list_chain("r", None)
        for _ in range(2):
            with pytest.raises(StateError, match="resp_r is being carried out"):
                way(loop, request_id=request_id)
        assert loop.stats.running == 1
        assert loop.store.list_chain("r", None) == chain
        model.open("held")
        assert text_of(thread.ends(5)) == "Hello, world!"
        assert loop.stats.running == 0
    assert len(terminal(sink.events)) == 1
    assert len(model.requests) == 1


@each_way
def test_the_id_of_a_response_is_that_of_its_request(model_server, way):
    called = []

    def act() -> str:
        """Act."""
        called.append(1)
        return "acted"

    model = model_server([Call(("act", {})), *[Refuse(500)] * 3, Say("Hello")])
    store = MemoryStore()
    config = LoopConfig(retry=QUICK)
    with looping(model, tools=[act], store=store, config=config) as loop:
        with pytest.raises(LoopError) as caught:
            loop.run(STREAMED, request_id="abc")
        response_id = caught.value.response_id
        assert response_id == "resp_abc"
        with pytest.raises(LoopError):
            loop.run(STREAMED, request_id=response_id)  # what has failed is not tried again
        assert way(loop, request_id="other") == "completed"
        assert way(loop, request_id="resp_other") == "completed"
    assert called == [1]
    assert repr(store) == "<MemoryStore responses=2 open=0>"


def test_a_canceled_response_is_gone_on_with_by_either_id(model_server):
    model = model_server([Say("Hello, world!", gate="held"), Say("Hello")])
    store, cancel = MemoryStore(), Cancellation()
    with looping(model, store=store) as loop:
        thread = InThread(lambda: loop.run(STREAMED, request_id="abc", cancel=cancel))
        model.wait_at("held")
        cancel.cancel()
        assert isinstance(thread.raises(5), LoopCanceledError)
        model.open("held")
        response = loop.run(STREAMED, request_id="resp_abc")
    assert (response["id"], text_of(response)) == ("resp_abc", "Hello")
    assert len(store.list_chain("abc", None)) == 1
    assert repr(store) == "<MemoryStore responses=1 open=0>"


def test_a_response_that_is_gone_on_with_is_not_forgotten(model_server):
    model = model_server(
        [Say("Hello, world!", gate="first"), Say("Hello, world!", gate="again"), Say("a"), Say("b")]
    )
    store, cancel = MemoryStore(max_responses=1), Cancellation()
    with looping(model, store=store) as loop:
        thread = InThread(lambda: loop.run(STREAMED, request_id="r", cancel=cancel))
        model.wait_at("first")
        cancel.cancel()
        assert isinstance(thread.raises(5), LoopCanceledError)
        model.open("first")
        thread = InThread(lambda: loop.run(STREAMED, request_id="r"))
        model.wait_at("again")
        for id in ("a", "b"):
            assert loop.run(REQUEST, request_id=id)["status"] == "completed"
        model.open("again")
        assert text_of(thread.ends(5)) == "Hello, world!"
    assert store.assemble_response("r")["status"] == "completed"
    with pytest.raises(RecordNotFoundError):
        store.assemble_response("a")


# -- Ctrl-C while an id is claimed ---------------------------------------------------------------

ENGINE = str(Path(reasoning_sdk.loop.__file__).parent)


class CtrlC:
    """A Ctrl-C at the nth line of the loop's code, before the run itself begins."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def __enter__(self) -> "CtrlC":
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc: Any) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_name == "to_its_end":
            sys.settrace(None)
        if not frame.f_code.co_filename.startswith(ENGINE):
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
        return self._trace


def test_ctrl_c_at_any_moment_of_claiming_leaves_the_id_free(model_server):
    with looping(model_server(lambda body: Say("Hello")), tools=[add]) as loop:
        for nth in range(1, 1000):
            try:
                with CtrlC(nth):
                    loop.run(REQUEST, request_id=str(nth))
                break
            except KeyboardInterrupt:
                assert loop.stats.running == 0
            assert loop.run(REQUEST, request_id=str(nth))["status"] == "completed"
        else:
            pytest.fail("there is no end to it")
    assert nth > 20


@each_way
@pytest.mark.parametrize("late", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
def test_an_id_whose_request_could_not_be_kept_is_free(model_server, way, late, error):
    store = FaultyStore(lambda method, nth, total: total == 1, error, late=late)
    with looping(model_server([Say("Hello")]), store=store) as loop:
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            way(loop, request_id="r")
        assert isinstance(caught.value.__cause__ or caught.value, error)
        assert loop.stats.running == 0
        assert way(loop, request_id="r") == "completed"


@pytest.mark.parametrize("way", [stream_to_its_end, body_to_its_end], ids=["stream", "sse"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_id_for_which_no_thread_could_be_started_is_free(model_server, monkeypatch, way, error):
    def fail(*args: Any) -> None:
        raise error

    with looping(model_server([Say("Hello")])) as loop:
        with monkeypatch.context() as patch:
            patch.setattr(Workers, "start", fail)
            with pytest.raises(error) as caught:
                way(loop, request_id="r")
        assert loop.stats.running == 0, f"while the traceback lives: {caught.tb}"
        assert way(loop, request_id="r") == "completed"


@pytest.mark.parametrize("way", [run_to_its_end, stream_to_its_end], ids=["run", "stream"])
@pytest.mark.parametrize("name", ["ResponseEvents", "ResponseRun"])
def test_an_id_whose_run_could_not_be_made_is_free(model_server, monkeypatch, way, name):
    def fail(*args: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with looping(model_server([Say("Hello")])) as loop:
        with monkeypatch.context() as patch:
            patch.setattr(response_loop, name, fail)
            with pytest.raises(KeyboardInterrupt):
                way(loop, request_id="r")
        assert loop.stats.running == 0
        assert way(loop, request_id="r") == "completed"


def test_a_loop_goes_on_after_a_run_could_not_be_made(model_server, monkeypatch):
    """And counts it as failed."""

    def fail(*args: Any, **named: Any) -> None:
        raise MemoryError

    with looping(model_server([Say("Hello")])) as loop:
        with monkeypatch.context() as patch:
            patch.setattr(response_loop, "ResponseRun", fail)
            with pytest.raises(MemoryError):
                loop.run(REQUEST)
        assert loop.run(REQUEST)["status"] == "completed"
        assert (loop.stats.failed, loop.stats.completed) == (1, 1)


# -- readers that are slow, and runs that end untold ---------------------------------------------


@pytest.fixture
def held_up(model_server, monkeypatch):
    """A stream that nobody has read, whose run waits for room."""
    monkeypatch.setattr(stream, "_MOST_WAITING", 5)
    model = model_server([Say("a long answer in many pieces", pieces=20)])
    with looping(model) as loop:
        reading = loop.stream(REQUEST)
        wait_until(lambda: len(reading._queue._events) == 5)
        yield loop, reading


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.002)
    pytest.fail("it did not come to that")


def test_a_slow_reader_holds_up_the_run_and_gets_everything(held_up):
    loop, reading = held_up
    threading.Event().wait(A_MOMENT)
    assert (len(reading._queue._events), loop.stats.running) == (5, 1)
    assert "".join(reading.text_deltas()) == "a long answer in many pieces"
    assert reading.response["status"] == "completed"


def test_a_run_that_is_held_up_ends_when_its_stream_is_closed(held_up):
    loop, reading = held_up
    reading.close()
    wait_until(lambda: loop.stats.running == 0)
    assert list(reading) == []


def test_a_run_that_is_held_up_ends_when_its_stream_is_forgotten(model_server, monkeypatch):
    monkeypatch.setattr(stream, "_MOST_WAITING", 5)
    with looping(model_server([Say("a long answer", pieces=10)])) as loop:
        reading = loop.stream(REQUEST)
        events = reading._queue._events
        wait_until(lambda: len(events) == 5)
        del reading
        wait_until(lambda: loop.stats.running == 0)


def test_a_run_that_is_held_up_ends_when_the_loop_is_closed(held_up):
    loop, reading = held_up
    loop.close()
    wait_until(lambda: loop.stats.running == 0)
    with pytest.raises(LoopCanceledError):
        reading.until_done()


def test_a_body_ends_also_when_its_run_could_not_begin(model_server, monkeypatch):
    def no_memory(**_: Any) -> None:
        raise MemoryError

    with looping(model_server()) as loop:
        monkeypatch.setattr(response_loop, "ResponseRun", no_memory)
        body = loop.sse(REQUEST, keep_alive=None)
        reading = InThread(lambda: b"".join(body))
        assert reading.ends(5) in (b"", b": keep-alive\n")
