"""Whole loops against real servers: llmock, which judges its client, and aimock."""

import functools
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

import reasoning_sdk as r
from reasoning_sdk.loop import LoopStats
from tests.support.aimock import AimockServer
from tests.support.llmock import LlmockServer
from tests.support.open_responses import check_response, check_stream
from tests.support.threads import InThread

pytestmark = pytest.mark.http

KEY = "sk-very-secret-0123456789"
QUICK = r.RetryPolicy(initial_interval=0.06, randomization_factor=0, max_attempts=3)

each_api = pytest.mark.parametrize("api", ["chat_completions", "responses"])
each_way = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


@pytest.fixture(scope="module", autouse=True)
def _threads_of_urllib3_future(_llmock_process: LlmockServer) -> None:
    """Those of the session that controls the server start here and not in the first test."""
    _llmock_process.reset()


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()


@attrs.frozen
class Done:
    """What came of a request; its events and its response have been judged."""

    events: list[r.LoopEvent]
    stats: LoopStats
    response: dict[str, Any] = attrs.field(factory=dict)
    error: r.ReasoningError | None = None

    @property
    def text(self) -> str:
        """The output text, as the deltas have told it."""
        kind = r.LoopEventKind.OUTPUT_TEXT_DELTA
        return "".join(event.data["delta"] for event in self.events if event.kind is kind)

    @property
    def end(self) -> dict[str, Any]:
        """The response, as the last event tells it."""
        end: dict[str, Any] = self.events[-1].data["response"]
        return end

    def items(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.end["output"] if item["type"] == kind]

    @property
    def outputs(self) -> dict[str, Any]:
        """The outputs of the tools, by call id."""
        return {item["call_id"]: item["output"] for item in self.items("function_call_output")}


def ask(
    server: LlmockServer | AimockServer,
    question: str = "go",
    *,
    api: str = "chat_completions",
    stream: bool = True,
    tools: Sequence[Callable[..., Any]] = (add, shout),
    cancel: r.Cancellation | None = None,
    judge: bool = True,
    **config: Any,
) -> Done:
    """Has a loop answer a question."""
    sink = r.RecordingSink()
    upstream = r.UpstreamTarget(server.base_url, KEY, api)
    limits = r.LoopConfig(**{"retry": QUICK, **config})
    request = {"model": "m", "input": question, "stream": stream}
    with r.ResponseLoop(upstream, tools=tools, config=limits) as loop:
        try:
            response = loop.run(request, sink=sink, cancel=cancel)
        except r.ReasoningError as error:
            done = Done(sink.events, loop.stats, error=error)
        else:
            done = Done(sink.events, loop.stats, response)
            assert response == done.end
    if judge:
        check_stream([event.data for event in done.events])
        check_response(done.end)
    assert KEY not in repr(done)
    return done


def seen_by_the_model(body: dict[str, Any]) -> dict[str, Any]:
    """The results of tools in a request, by call id, in either dialect."""
    if "messages" in body:
        told = [message for message in body["messages"] if message["role"] == "tool"]
        return {message["tool_call_id"]: message["content"] for message in told}
    told = [item for item in body["input"] if item["type"] == "function_call_output"]
    return {item["call_id"]: item["output"] for item in told}


def reply(text: str = "Hello, wide world!", *calls: tuple[str, Any], **more: Any) -> dict[str, Any]:
    named = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return {"type": "reply", "text": text, **({"tool_calls": named} if named else {}), **more}


def before(tool: Callable[..., Any], act: Callable[[], Any]) -> Callable[..., Any]:
    """A tool that does something else first."""

    @functools.wraps(tool)
    def call(*arguments: Any) -> Any:
        act()
        return tool(*arguments)

    return call


ADD, SHOUT = ("add", {"a": 1, "b": 2}), ("shout", {"text": "grüße"})


# -- llmock ----------------------------------------------------------------------------------------


@each_way
@each_api
def test_tools_run_side_by_side_and_the_model_sees_what_came_of_them(
    llmock_server: LlmockServer, api: str, stream: bool
) -> None:
    llmock_server.scenario([reply("", ADD, SHOUT), reply("3 and GRÜSSE 🌸")])
    both = threading.Barrier(2, timeout=10)

    tools = [before(add, both.wait), before(shout, both.wait)]
    done = ask(llmock_server, api=api, stream=stream, tools=tools)
    assert done.response["status"] == "completed"
    assert done.text == "3 and GRÜSSE 🌸"
    calls = done.items("function_call")
    first, second = (call["call_id"] for call in calls)
    assert [call["name"] for call in calls] == ["add", "shout"]
    assert done.outputs == {first: "3", second: "GRÜSSE"}
    body = llmock_server.requests()[-1]["body"]
    assert seen_by_the_model(body) == done.outputs
    assert body["stream"] is stream
    assert llmock_server.assert_clean()["calls"] == 2
    assert (done.stats.model_calls, done.stats.tool_calls, done.stats.failed_tool_calls) == (
        2,
        2,
        0,
    )


@each_way
@each_api
def test_usage_is_the_sum_of_all_model_calls(
    llmock_server: LlmockServer, api: str, stream: bool
) -> None:
    llmock_server.scenario([reply("", ADD), reply("four words at last")])
    usage = ask(llmock_server, api=api, stream=stream).response["usage"]
    alone = ask(llmock_server, api=api, stream=stream, tools=()).response["usage"]
    assert usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage.keys() == alone.keys()
    assert usage["input_tokens_details"] == {"cached_tokens": 0}
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}


@each_api
def test_twenty_turns_over_one_connection(llmock_server: LlmockServer, api: str) -> None:
    turns = [reply(f"turn {n}", ("add", {"a": n, "b": n}), SHOUT) for n in range(20)]
    llmock_server.scenario([*turns, reply("done")])
    done = ask(llmock_server, api=api, max_iterations=50)
    assert [item["output"] for item in done.items("function_call_output")[::2]] == [
        str(2 * n) for n in range(20)
    ]
    assert len(seen_by_the_model(llmock_server.requests()[-1]["body"])) == 40
    assert llmock_server.assert_clean()["calls"] == 21


@each_way
@each_api
@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_failures_that_pass_change_nothing_in_the_answer(
    llmock_server: LlmockServer, api: str, stream: bool, status: int
) -> None:
    failure = {"type": "fail", "status": status, "retry_after": 0.06}
    llmock_server.scenario([failure, reply("", ADD), reply()])
    adding = before(add, lambda: llmock_server.scenario([failure]))
    done = ask(llmock_server, api=api, stream=stream, tools=[adding])
    assert done.text == "Hello, wide world!"
    assert list(done.outputs.values()) == ["3"]
    verdict = llmock_server.assert_clean()
    assert (verdict["calls"], verdict["attempts"]) == (2, 4)
    assert (done.stats.model_calls, done.stats.failed_model_calls) == (2, 0)


@each_api
def test_it_waits_as_long_as_the_model_asks(llmock_server: LlmockServer, api: str) -> None:
    llmock_server.scenario([{"type": "fail", "status": 429, "retry_after": 0.3}, reply()])
    assert ask(llmock_server, api=api).text == "Hello, wide world!"
    llmock_server.assert_clean()
    first, second = llmock_server.requests()
    assert second["started_at"] - first["ended_at"] >= 0.29


@each_api
def test_a_wait_that_was_asked_for_ends_when_it_is_canceled(
    llmock_server: LlmockServer, api: str
) -> None:
    llmock_server.scenario([{"type": "fail", "status": 429, "retry_after": 30}])
    cancel = r.Cancellation()
    patient = r.RetryPolicy(max_attempts=3, max_retry_after=60)
    asking = InThread(lambda: ask(llmock_server, api=api, cancel=cancel, retry=patient))
    while not [one for one in llmock_server.requests() if one["ended_at"]]:
        assert asking.is_alive()
    cancel.cancel()
    done = asking.ends()
    assert isinstance(done.error, r.LoopCanceledError)
    assert done.end["status"] == "cancelled"


@each_way
@each_api
@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (401, 1), (404, 1), (503, 4)])
def test_a_failure_that_does_not_pass_is_told_with_its_status(
    llmock_server: LlmockServer, api: str, stream: bool, status: int, attempts: int
) -> None:
    failure = {"type": "fail", "status": status, "message": "not like this", "times": None}
    llmock_server.scenario([reply("", ADD)])
    adding = before(add, lambda: llmock_server.scenario([failure]))
    done = ask(llmock_server, api=api, stream=stream, tools=[adding])
    assert isinstance(done.error, r.LoopFailedError)
    assert done.error.payload["status"] == status
    assert "not like this" in str(done.error)
    assert "not like this" in done.end["error"]["message"]
    assert list(done.outputs.values()) == ["3"]
    assert llmock_server.verdict()["attempts"] == 1 + attempts


@each_api
@pytest.mark.parametrize("kind", ["truncate", "disconnect"])
def test_a_stream_that_is_cut_fails_the_response_and_is_not_asked_for_again(
    llmock_server: LlmockServer, api: str, kind: str
) -> None:
    llmock_server.scenario([reply("", ADD), reply()])
    fault = {"type": "stream_fault", "kind": kind, "after_chunks": 3}
    adding = before(add, lambda: llmock_server.scenario([fault]))
    done = ask(llmock_server, api=api, tools=[adding])
    assert isinstance(done.error, r.LoopFailedError)
    assert "stream of the model closed before its end" in str(done.error)
    assert done.error.payload["retryable"] is True
    assert done.end["status"] == "failed"
    assert len(llmock_server.requests()) == 2


@each_api
def test_a_stream_that_stalls_fails_when_the_model_has_had_its_time(
    llmock_server: LlmockServer, api: str
) -> None:
    stall = {"type": "stream_fault", "kind": "stall", "after_chunks": 3, "stall_seconds": 5}
    llmock_server.scenario([stall, reply()])
    done = ask(llmock_server, api=api, model_timeout=0.2)
    assert "no event for 0.2 seconds" in str(done.error)
    assert done.end["status"] == "failed"


@each_api
def test_a_stream_that_stalls_ends_at_once_when_it_is_canceled(
    llmock_server: LlmockServer, api: str
) -> None:
    stall = {"type": "stream_fault", "kind": "stall", "after_chunks": 4, "stall_seconds": 5}
    llmock_server.scenario([stall, reply()])
    upstream = r.UpstreamTarget(llmock_server.base_url, KEY, api)
    with r.ResponseLoop(upstream) as loop:
        stream = loop.stream({"model": "m", "input": "go"})
        assert next(stream.text_deltas())
        closing = InThread(stream.close)
        closing.ends(0.5)
        assert list(stream) == []
    while llmock_server.requests()[0]["ended_at"] is None:  # the server has seen us go
        pass


@each_api
def test_broken_data_costs_no_text(
    llmock_server: LlmockServer, api: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The last event of a response says it again; nothing says a chunk of a chat again."""
    llmock_server.scenario(
        [{"type": "stream_fault", "kind": "malformed", "after_chunks": 3}, reply()]
    )
    done = ask(llmock_server, api=api)
    if api == "responses":
        assert done.text == "Hello, wide world!"
        assert "is not JSON" in caplog.text
    else:
        assert "a chunk of the answer" in str(done.error)
        assert done.end["status"] == "failed"
    assert llmock_server.verdict()["errors"] == 0


@each_way
@each_api
@pytest.mark.parametrize(
    ("kind", "error"),
    [("malformed_arguments", "invalid_arguments"), ("unknown_tool", "tool_not_found")],
)
def test_a_call_that_cannot_be_made_is_a_failed_step_which_the_model_sees(
    llmock_server: LlmockServer, api: str, stream: bool, kind: str, error: str
) -> None:
    llmock_server.scenario([{"type": "tool_fault", "kind": kind}, reply("", ADD), reply("Sorry.")])
    done = ask(llmock_server, api=api, stream=stream)
    assert done.text == "Sorry."
    (output,) = seen_by_the_model(llmock_server.requests()[-1]["body"]).values()
    assert json.loads(output)["error"]["type"] == error
    assert json.loads(output)["error"]["message"]
    assert list(done.outputs.values()) == [output]
    assert (done.stats.tool_calls, done.stats.failed_tool_calls) == (1, 1)
    llmock_server.assert_clean()


@each_api
def test_a_tool_that_fails_keeps_no_other_from_its_result(
    llmock_server: LlmockServer, api: str
) -> None:
    def fail() -> None:
        raise ValueError("the kettle is cold")

    llmock_server.scenario([reply("", ("fail", {}), ADD, ("fail", {})), reply("Anyway.")])
    done = ask(llmock_server, api=api, tools=[fail, add])
    seen = list(seen_by_the_model(llmock_server.requests()[-1]["body"]).values())
    assert seen[1] == "3"
    assert all("the kettle is cold" in said for said in (seen[0], seen[2]))
    assert done.text == "Anyway."
    assert done.stats.failed_tool_calls == 2
    llmock_server.assert_clean()


@each_way
@each_api
@pytest.mark.parametrize("kind", ["slow_first_token", "delay"])
def test_a_slow_model(llmock_server: LlmockServer, api: str, stream: bool, kind: str) -> None:
    llmock_server.scenario([{"type": kind, "seconds": 0.1}, reply()])
    assert ask(llmock_server, api=api, stream=stream).text == "Hello, wide world!"
    llmock_server.assert_clean()


@each_way
@each_api
def test_an_answer_that_is_cut_short_by_its_length_is_incomplete(
    llmock_server: LlmockServer, api: str, stream: bool
) -> None:
    llmock_server.scenario([reply("Hello, wor", finish_reason="length")])
    done = ask(llmock_server, api=api, stream=stream)
    assert done.response["status"] == "incomplete"
    assert done.response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert done.text == "Hello, wor"
    llmock_server.assert_clean()


@each_api
def test_many_loops_side_by_side(llmock_server: LlmockServer, api: str) -> None:
    llmock_server.scenario([reply("once")] * 24)
    upstream = r.UpstreamTarget(llmock_server.base_url, KEY, api)
    with r.ResponseLoop(upstream) as loop:
        asking = [
            InThread(lambda: [loop.run({"model": "m", "input": "x"})["status"] for _ in range(3)])
            for _ in range(8)
        ]
        assert [one.ends(10) for one in asking] == [["completed"] * 3] * 8
        assert loop.stats.completed == 24
    assert llmock_server.assert_clean()["attempts"] == 24


# -- aimock ----------------------------------------------------------------------------------------


@each_way
@each_api
def test_aimock_sees_the_results_of_tools_that_ran_side_by_side(
    aimock_server: AimockServer, api: str, stream: bool
) -> None:
    done = ask(aimock_server, "side by side", api=api, stream=stream)
    assert done.text == "I will ask.3 and GRÜSSE"
    assert done.outputs == {"call_add": "3", "call_shout": "GRÜSSE"}
    assert [item["type"] for item in done.response["output"]] == [
        "message", "function_call", "function_call",
        "function_call_output", "function_call_output", "message",
    ]  # fmt: skip
    usage = done.response["usage"]
    counted = (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"])
    assert counted == (30, 11, 41)
    messages = aimock_server.requests()[-1]["body"]["messages"]  # it has both as a chat
    results = {m["tool_call_id"]: m["content"] for m in messages if m["role"] == "tool"}
    assert results == done.outputs


@each_way
@each_api
@pytest.mark.parametrize(
    ("question", "text", "reason"),
    [
        ("too long", "This answer was cut by its", "max_output_tokens"),
        ("forbidden words", "I should not", "content_filter"),
    ],
)
def test_aimock_does_not_complete_its_answer(
    aimock_server: AimockServer, api: str, stream: bool, question: str, text: str, reason: str
) -> None:
    done = ask(aimock_server, question, api=api, stream=stream)
    if (api, reason) == ("responses", "content_filter"):  # fails there, and does not say why
        assert isinstance(done.error, r.LoopFailedError)
        assert done.end["status"] == "failed"
    else:
        assert done.text == text
        assert done.response["status"] == "incomplete"
        assert done.response["incomplete_details"] == {"reason": reason}


@each_api
def test_aimock_is_told_as_it_speaks(aimock_server: AimockServer, api: str) -> None:
    upstream = r.UpstreamTarget(aimock_server.base_url, KEY, api)
    with r.ResponseLoop(upstream) as loop:
        stream = loop.stream({"model": "m", "input": "slowly"})
        first = next(stream.text_deltas())
        assert stream.text == first != "One word after another, slowly."
        assert stream.until_done()["status"] == "completed"
        assert stream.text == "One word after another, slowly."


@each_way
@each_api
def test_aimock_thinks_and_searches(aimock_server: AimockServer, api: str, stream: bool) -> None:
    """What the model's own tools did is passed on, though the specification does not know it."""
    done = ask(aimock_server, "think", api=api, stream=stream, judge=False)
    assert done.text == "Forty-two."
    assert done.items("reasoning")
    assert bool(done.items("web_search_call")) is (api == "responses")


@pytest.mark.parametrize(
    ("api", "stream"),
    [
        ("chat_completions", False),
        pytest.param(
            "chat_completions", True,
            marks=pytest.mark.xfail(
                strict=True,
                reason="a chat completion has its text before its calls, in whatever order they "
                "have come: the output of the response is not in the order that was told",
            ),
        ),
        ("responses", True),
        ("responses", False),
    ],
)  # fmt: skip
def test_text_between_calls_keeps_its_place(
    aimock_server: AimockServer, api: str, stream: bool
) -> None:
    done = ask(aimock_server, "two tools", api=api, stream=stream, max_iterations=1)
    assert isinstance(done.error, r.MaxIterationsError)
    assert [call["call_id"] for call in done.items("function_call")] == [
        "call_first",
        "call_second",
    ]
    assert done.text == "Between two calls."


@each_api
@pytest.mark.parametrize("question", ["truncate", "disconnect", "hang up"])
def test_aimock_cuts_its_answer(aimock_server: AimockServer, api: str, question: str) -> None:
    done = ask(aimock_server, question, api=api)
    assert isinstance(done.error, r.LoopFailedError)
    assert done.error.payload["retryable"] is True
    attempts = 4 if question == "hang up" else 1  # an answer that has begun is not asked for again
    assert len(aimock_server.requests()) == attempts


@each_way
@each_api
def test_a_limit_of_aimock_passes(aimock_server: AimockServer, api: str, stream: bool) -> None:
    policy = r.RetryPolicy(initial_interval=0.01, max_retry_after=0.02, max_attempts=2)
    done = ask(aimock_server, "busy", api=api, stream=stream, retry=policy)
    assert done.text == "Thank you for waiting."
    assert [entry["response"]["status"] for entry in aimock_server.requests()] == [429, 200]


@each_way
@each_api
def test_errors_of_aimock_are_told_with_status_code_and_message(
    aimock_server: AimockServer, api: str, stream: bool
) -> None:
    done = ask(aimock_server, "wrong key", api=api, stream=stream)
    assert isinstance(done.error, r.LoopFailedError)
    told = {name: done.error.payload[name] for name in ("status", "code", "message")}
    assert told == {
        "status": 401, "code": "invalid_api_key", "message": "Incorrect API key provided"
    }  # fmt: skip
    assert done.end["error"]["message"] == "Incorrect API key provided"
    assert len(aimock_server.requests()) == 1
    assert "The engine is overloaded" in str(ask(aimock_server, "overloaded", api=api).error)


@each_api
def test_one_error_of_aimock_and_then_none(aimock_server: AimockServer, api: str) -> None:
    aimock_server.next_error(500, "once")
    assert ask(aimock_server, "side by side", api=api).response["status"] == "completed"


@each_way
@each_api
@pytest.mark.parametrize("rate", ["dropRate", "disconnectRate", "rateLimitRate", "malformedRate"])
def test_chaos_is_never_taken_for_an_answer(
    aimock_server: AimockServer, api: str, stream: bool, rate: str
) -> None:
    aimock_server.chaos(**{rate: 1})
    quick = r.RetryPolicy(initial_interval=0.01, max_retry_after=0.02, max_attempts=1)
    done = ask(aimock_server, "side by side", api=api, stream=stream, retry=quick)
    assert isinstance(done.error, r.LoopFailedError)
    assert done.end["status"] == "failed"
    assert done.end["error"]["message"]


@each_api
def test_latency_is_waited_for(aimock_server: AimockServer, api: str) -> None:
    aimock_server.chaos(latencyMs=60)
    assert ask(aimock_server, "side by side", api=api).text == "I will ask.3 and GRÜSSE"
