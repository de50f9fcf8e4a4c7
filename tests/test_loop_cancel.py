"""A response that is canceled ends at once, wherever it is, and is told to have ended."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from reasoning_sdk import (
    Cancellation,
    LoopCanceledError,
    LoopConfig,
    MemoryStore,
    RecordingSink,
    RequestContext,
    ResponseLoop,
    RetryPolicy,
    StateError,
)
from tests.support.loops import (
    APIS,
    REQUEST,
    Tools,
    add,
    agents,
    asked,
    datas,
    follow,
    terminal,
    upstream,
)
from tests.support.model_server import Call, Hang, ModelServer, Refuse, Say
from tests.support.open_responses import check_stream
from tests.support.threads import InThread

pytestmark = pytest.mark.http

SOON = 0.5
both_apis = pytest.mark.parametrize("api", APIS)


class Canceled:
    """A run on another thread, to be canceled."""

    def __init__(self, loop: ResponseLoop, request: Any = REQUEST, **options: Any) -> None:
        self.cancel = Cancellation()
        self.sink = RecordingSink()
        self.store = loop.store
        self._thread = InThread(
            lambda: loop.run(request, sink=self.sink, cancel=self.cancel, request_id="r", **options)
        )

    def ends_at_once(self, cancel: Callable[[], object] | None = None) -> None:
        begun = time.monotonic()
        (cancel or self.cancel.cancel)()
        assert isinstance(self._thread.raises(5), LoopCanceledError)
        assert time.monotonic() - begun < SOON
        check_stream(datas(self.sink.events))
        end = self.sink.events[-1].data["response"]
        assert (end["status"], end["error"]["code"]) == ("cancelled", "canceled")
        assert self.store.assemble_response("r")["status"] == "cancelled"


@contextmanager
def looping(model: ModelServer, api: str = "chat_completions", **options: Any) -> Iterator[Any]:
    with ResponseLoop(upstream(model, api), **options) as loop:
        yield loop


# -- where it is ---------------------------------------------------------------------------------


@both_apis
def test_while_the_model_has_not_begun_to_answer(model_server, api):
    model = model_server([Hang()])
    with looping(model, api) as loop:
        run = Canceled(loop)
        model.wait_for_requests(1)
        run.ends_at_once()
    model.http.wait_no_connections(2)


def test_while_an_unstreamed_answer_is_waited_for(model_server):
    model = model_server([Hang()])
    with looping(model) as loop:
        run = Canceled(loop, {**REQUEST, "stream": False})
        model.wait_for_requests(1)
        run.ends_at_once()


@both_apis
def test_in_the_middle_of_a_stream(model_server, api):
    model = model_server([Say("Hello, world!", gate="held")])
    with looping(model, api) as loop:
        run = Canceled(loop)
        model.wait_at("held")
        run.ends_at_once()
        model.open("held")


def test_while_it_waits_to_ask_again(model_server):
    model = model_server([Refuse(503, headers={"Retry-After": "100"})])
    config = LoopConfig(retry=RetryPolicy(max_attempts=2, max_retry_after=200))
    with looping(model, config=config) as loop:
        run = Canceled(loop)
        model.http.wait_for_requests(1)
        run.ends_at_once()
    assert len(model.requests) == 1


def test_while_tools_run(model_server):
    begun, stopped = threading.Barrier(3), threading.Barrier(3)

    def execute(name: str, call_id: str, args: Any, ctx: RequestContext) -> Any:
        begun.wait(5)
        assert ctx.cancellation.wait(10)
        stopped.wait(5)

    model = model_server([Call(("act", {}), ("act", {}))])
    with looping(model, tools=Tools(execute)) as loop:
        run = Canceled(loop)
        begun.wait(5)
        run.ends_at_once()
        stopped.wait(5)


def test_a_tool_that_does_not_listen_is_not_waited_for(model_server):
    begun, release = threading.Event(), threading.Event()

    def execute(*args: Any) -> Any:
        begun.set()
        release.wait(10)

    with looping(model_server([Call(("act", {}))]), tools=Tools(execute)) as loop:
        run = Canceled(loop)
        assert begun.wait(5)
        run.ends_at_once()
        release.set()


def test_no_more_tools_are_begun(model_server):
    begun, called = threading.Event(), []

    def execute(name: str, call_id: str, args: Any, ctx: RequestContext) -> Any:
        called.append(call_id)
        begun.set()
        ctx.cancellation.wait(10)

    model = model_server([Call(*[("act", {})] * 4)])
    config = LoopConfig(max_parallel_tools=1)
    with looping(model, tools=Tools(execute), config=config) as loop:
        run = Canceled(loop)
        assert begun.wait(5)
        run.ends_at_once()
    assert called == ["call_1"]


def test_in_the_model_call_of_an_agent_two_levels_down(model_server):
    def turn(body: Any) -> Any:
        deeper = {"hi": "one", "one": "two"}.get(asked(body))
        return Call(("deeper", {"input": deeper})) if deeper else Say("Hello", gate="held")

    model = model_server(turn)
    with looping(model, tools=agents("deeper")) as loop:
        run = Canceled(loop)
        model.wait_at("held")
        run.ends_at_once()
        model.open("held")
    assert len(model.requests) == 3


def test_before_it_begins(model_server):
    cancel = Cancellation()
    cancel.cancel()
    model, sink = model_server(), RecordingSink()
    with looping(model) as loop, pytest.raises(LoopCanceledError):
        loop.run(REQUEST, sink=sink, cancel=cancel)
    check_stream(datas(sink.events))
    assert model.requests == []


def test_before_a_run_of_a_finished_response_begins(model_server):
    cancel, sink = Cancellation(), RecordingSink()
    cancel.cancel()
    with looping(model_server([Say("Hello")])) as loop:
        loop.run(REQUEST, request_id="r")
        with pytest.raises(LoopCanceledError):
            loop.run(REQUEST, request_id="r", cancel=cancel, sink=sink)
        assert loop.store.assemble_response("r")["status"] == "completed"
    (end,) = sink.events
    assert (end.kind.value, end.data["response"]["status"]) == ("response.failed", "cancelled")


def test_by_a_tool(model_server):
    cancel = Cancellation()

    def stop() -> str:
        """Stop."""
        cancel.cancel()
        return "stopped"

    model, sink = model_server([Call(("stop", {}))]), RecordingSink()
    with looping(model, tools=[stop]) as loop, pytest.raises(LoopCanceledError):
        loop.run(REQUEST, cancel=cancel, sink=sink, request_id="r")
    check_stream(datas(sink.events))


def test_the_result_of_a_tool_that_had_ended_is_kept(model_server):
    cancel = Cancellation()

    def stop() -> str:
        """Stop."""
        cancel.cancel()
        return "stopped"

    store = MemoryStore()
    model = model_server([Call(("stop", {}))])
    with looping(model, tools=[stop], store=store) as loop, pytest.raises(LoopCanceledError):
        loop.run(REQUEST, cancel=cancel, request_id="r")
    states = [step.state.value for step in store.list_chain("r", None)]
    assert states[0] == "completed"
    assert states[1] in ("completed", "processing")


def test_by_a_sink(model_server):
    cancel, sink = Cancellation(), RecordingSink()
    model = model_server([Say("Hello, world!", pieces=5)])

    class Canceling:
        def emit(self, event: Any) -> None:
            sink.emit(event)
            if event.kind.is_delta:
                cancel.cancel()

    with looping(model) as loop, pytest.raises(LoopCanceledError):
        loop.run(REQUEST, sink=Canceling(), cancel=cancel)
    check_stream(datas(sink.events))


def test_the_function_ends_at_once_too(model_server):
    model, cancel, store = model_server([Hang()]), Cancellation(), MemoryStore()
    store.create_response("r", REQUEST)
    thread = InThread(lambda: follow(store, model, cancel=cancel))
    model.wait_for_requests(1)
    cancel.cancel()
    assert isinstance(thread.raises(SOON), LoopCanceledError)


@pytest.mark.parametrize("nth", range(24))
def test_at_any_event_there_is_one_end(model_server, nth):
    cancel, sink = Cancellation(), RecordingSink()

    class Canceling:
        def emit(self, event: Any) -> None:
            sink.emit(event)
            if event.sequence == nth:
                cancel.cancel()

    model = model_server([Call(("add", {"a": 1, "b": 1}), ("add", {"a": 1, "b": 2})), Say("2")])
    with looping(model, tools=[add]) as loop, pytest.raises(LoopCanceledError):
        loop.run(REQUEST, sink=Canceling(), cancel=cancel, request_id="r")
    check_stream(datas(sink.events))
    assert len(terminal(sink.events)) == 1


# -- whoever goes away ---------------------------------------------------------------------------


def requests_end(model: ModelServer) -> None:
    model.http.wait_no_connections(2)


@pytest.mark.parametrize("way", ["close", "with", "forget"])
def test_a_stream_that_nobody_reads_any_more_is_canceled(model_server, way):
    model = model_server([Hang(4)])
    with looping(model) as loop:
        stream = loop.stream(REQUEST, request_id="r")
        next(stream)
        model.wait_for_requests(1)
        if way == "close":
            stream.close()
        elif way == "with":
            with stream:
                pass
        else:
            del stream
            gc.collect()
        requests_end(model)
        eventually(lambda: loop.store.assemble_response("r")["status"] == "cancelled")


def eventually(condition: Callable[[], bool]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + 2
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.002)


def test_a_closed_stream_ends_quietly_for_whoever_waits(model_server):
    model = model_server([Hang(4)])
    with looping(model) as loop:
        stream = loop.stream(REQUEST)
        thread = InThread(lambda: list(stream))
        model.wait_for_requests(1)
        stream.close()
        thread.wait(SOON)
        assert thread.error is None
        with pytest.raises(StateError):
            stream.until_done()
        with pytest.raises(StateError):
            _ = stream.response


def test_a_reader_that_breaks_off_cancels(model_server):
    model = model_server([Hang(6, Say("Hello, world!", pieces=8))])
    with looping(model) as loop, loop.stream(REQUEST) as stream:
        for _ in stream.text_deltas():
            break
    requests_end(model)


@pytest.mark.parametrize("way", ["close", "iterator"])
def test_the_body_of_an_http_answer_that_is_closed_cancels(model_server, way):
    model = model_server([Hang(4)])
    with looping(model) as loop:
        body = loop.sse(REQUEST, request_id="r")
        chunks = iter(body)
        assert next(chunks)
        model.wait_for_requests(1)
        if way == "close":
            body.close()
        else:
            chunks.close()  # type: ignore[attr-defined]
        requests_end(model)
        eventually(lambda: loop.store.assemble_response("r")["status"] == "cancelled")


def test_to_close_the_loop_cancels_all_that_runs(model_server):
    model = model_server([Hang()] * 3)
    loop = ResponseLoop(upstream(model))
    threads = [InThread(lambda: loop.run(REQUEST)) for _ in range(3)]
    model.wait_for_requests(3)
    assert loop.stats.running == 3
    loop.close()
    for thread in threads:
        assert isinstance(thread.raises(SOON), LoopCanceledError)
    assert loop.stats.running == 0
    loop.close()


def test_to_close_the_loop_ends_its_streams(model_server):
    model = model_server([Hang(4)])
    loop = ResponseLoop(upstream(model))
    stream = loop.stream(REQUEST)
    thread = InThread(lambda: list(stream))
    model.wait_for_requests(1)
    loop.close()
    assert isinstance(thread.raises(SOON), LoopCanceledError)


@pytest.mark.parametrize("turns", [1, 2, 3, 4])
def test_a_loop_that_is_closed_while_runs_begin_lets_none_of_them_hang(model_server, turns):
    model = model_server([Hang()] * 40)
    loop = ResponseLoop(upstream(model))
    barrier = threading.Barrier(turns + 1)

    def run() -> None:
        barrier.wait(5)
        loop.run(REQUEST)

    threads = [InThread(run) for _ in range(turns)]
    barrier.wait(5)
    loop.close()
    for thread in threads:
        assert isinstance(thread.raises(2), (LoopCanceledError, StateError))
