"""The response loop: what is carried out, within which limits, and what becomes of failures."""

import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from reasoning_sdk import (
    Cancellation,
    Complete,
    ConfigurationError,
    EmptyActionError,
    Fail,
    FunctionTools,
    HTTPTools,
    LoopCanceledError,
    LoopConfig,
    LoopFailedError,
    MaxDepthError,
    MaxIterationsError,
    MemoryStore,
    NoTools,
    RecordingSink,
    RequestContext,
    ResponseLoop,
    RetryPolicy,
    StateError,
    StepState,
    StorageError,
    StoreError,
    ToolExecutionError,
    ToolSchema,
    UpstreamTarget,
    run_response_loop,
)
from tests.support.loops import (
    APIS,
    METHODS,
    QUICK,
    REQUEST,
    FaultyStore,
    ScriptedStore,
    Tools,
    add,
    agents,
    asked,
    carried_out,
    datas,
    done_items,
    follow,
    model_call,
    results_in,
    sqlite_error,
    steps,
    storage_error,
    terminal,
    tool_call,
    upstream,
)
from tests.support.model_server import Call, Hang, ModelServer, Refuse, Say, Usage
from tests.support.open_responses import check_stream
from tests.support.scripted import redirect
from tests.support.threads import InThread

pytestmark = pytest.mark.http

Models = Callable[..., ModelServer]
both_apis = pytest.mark.parametrize("api", APIS)
streamed_or_not = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])

TWO_SUMS = Call(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}))


def raising(error: Callable[[], BaseException]) -> Tools:
    def execute(*args: Any) -> Any:
        raise error()

    return Tools(execute)


def error_of(output: str) -> Any:
    """What the model sees of a failed tool."""
    error = json.loads(output)["error"]
    assert set(error) == {"type", "message"}
    return error


# -- whole loops ---------------------------------------------------------------------------------


@both_apis
@streamed_or_not
def test_the_model_gets_the_results_of_its_calls_and_answers(model_server, api, stream):
    model = model_server([TWO_SUMS, Say("3 and 7")])
    ran = carried_out(model, tools=[add], api=api, request={**REQUEST, "stream": stream})
    assert ran.text == "3 and 7"
    assert ran.outputs() == {"call_1": "3", "call_2": "7"}
    assert ran.response["status"] == "completed"
    assert [item["type"] for item in ran.response["output"]] == [
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "message",
    ]
    assert ran.response["usage"]["total_tokens"] == 36


@both_apis
@streamed_or_not
def test_one_id_of_a_call_is_used_everywhere(model_server, api, stream):
    seen = []
    tools = Tools(lambda name, call_id, args, ctx: seen.append(call_id), "act")
    model = model_server([Call(("act", {}, "call_of_model")), Say("done")])
    ran = carried_out(model, tools=tools, api=api, request={**REQUEST, "stream": stream})
    assert seen == ["call_of_model"]
    named = {e["call_id"] for e in ran.events if "call_id" in e}
    named |= {e["item"]["call_id"] for e in ran.events if "call_id" in e.get("item", {})}
    named |= {i["call_id"] for i in ran.response["output"] if "call_id" in i}
    assert named == {"call_of_model"}
    sent = json.dumps(model.bodies[1])
    assert sent.count("call_of_model") == 2
    assert "unknown" not in sent


@both_apis
def test_what_the_request_asks_for_reaches_the_model(model_server, api):
    model = model_server([Say("ok")])
    request = {
        **REQUEST,
        "instructions": "Be short.",
        "temperature": 0.5,
        "max_output_tokens": 9,
        "tool_choice": "required",
    }
    carried_out(model, tools=[add], api=api, request=request)
    (body,) = model.bodies
    assert body["temperature"] == 0.5
    assert body["tool_choice"] == "required"
    assert "Be short." in json.dumps(body)
    assert 9 in (body.get("max_tokens"), body.get("max_output_tokens"))


@both_apis
def test_usage_is_summed_in_the_names_of_the_responses_api(model_server, api):
    call = Call(("add", {"a": 1, "b": 2}), usage=Usage(5, 3, cached=2, reasoning=1))
    model = model_server([call, Say("3", usage=Usage(7, 4, cached=1))])
    usage = carried_out(model, tools=[add], api=api).response["usage"]
    assert usage["input_tokens"] == 12
    assert usage["output_tokens"] == 7
    assert usage["total_tokens"] == 19
    assert usage["input_tokens_details"]["cached_tokens"] == 3
    assert usage["output_tokens_details"]["reasoning_tokens"] == 1


@both_apis
def test_a_call_of_a_tool_that_is_not_ours_goes_to_the_client_with_all_others(model_server, api):
    theirs = {"type": "function", "name": "theirs", "parameters": {"type": "object"}}
    model = model_server([Call(("theirs", {}), ("add", {"a": 1, "b": 2}))])
    ran = carried_out(model, tools=[add], api=api, request={**REQUEST, "tools": [theirs]})
    assert ran.response["status"] == "completed"
    assert [item["name"] for item in ran.response["output"]] == ["theirs", "add"]
    assert ran.outputs() == {}


@both_apis
@streamed_or_not
def test_a_model_that_is_cut_short_makes_the_response_incomplete(model_server, api, stream):
    model = model_server([Say("On and", finish_reason="length")])
    ran = carried_out(model, api=api, request={**REQUEST, "stream": stream})
    assert ran.response["status"] == "incomplete"
    assert ran.response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert ran.kinds[-1] == "incomplete"


def test_a_conversation_goes_on_by_the_id_of_its_last_response(model_server):
    model = model_server([Say("I am Ada."), Say("Ada.")])
    with ResponseLoop(upstream(model)) as loop:
        first = loop.run(REQUEST)
        loop.run({"model": "m", "input": "Who?", "previous_response_id": first["id"]})
    said = [message["content"] for message in model.bodies[1]["messages"]]
    assert said == ["hi", "I am Ada.", "Who?"]


def test_the_body_of_a_model_call_is_kept_as_it_came_whatever_its_shape(model_server):
    odd = {"kilo": {"x": [1, None]}, "choices": [], "object": "new.thing"}
    store = ScriptedStore({None: [steps(model_call())]})
    assert follow(store, model_server([Refuse(200, odd)])) == 1
    (step,) = store.list_chain("r", None)
    assert step.state is StepState.COMPLETED
    assert step.response_payload == odd


def test_an_answer_that_is_none_fails_the_response_and_not_the_store(model_server):
    ran = carried_out(model_server([Refuse(200, {"detail": "what?"})]))
    assert isinstance(ran.error, LoopFailedError)
    assert "neither a chat completion nor a response" in str(ran.error)


@streamed_or_not
@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "content": 5},
        {"type": "message", "content": [{"type": "output_text", "text": 5}]},
        {"type": "reasoning", "content": None, "summary": None},
        {"type": "function_call", "name": None, "arguments": None},
        {"type": 5},
        {},
    ],
)
def test_an_ill_shaped_answer_has_an_end_like_any_other(model_server, stream, item):
    body = {"object": "response", "status": "completed", "output": [item]}
    model = model_server([Refuse(200, body), Say("end")])
    ran = carried_out(model, api="responses", request={**REQUEST, "stream": stream})
    assert isinstance(ran.error, (LoopFailedError, type(None)))


# -- bad requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"input": "hi"}, "request.model"),
        ({"model": "m"}, "request.input"),
        ({"model": "m", "input": 1}, "request.input"),
        ({"model": "", "input": "hi"}, "request.model"),
        ({**REQUEST, "temperature": "hot"}, "request.temperature"),
        ({**REQUEST, "previous_response_id": "resp_none"}, "request.previous_response_id"),
        ({**REQUEST, "metadata": {"at": float("nan")}}, "request.metadata"),
        ([], "request"),
    ],
)
@pytest.mark.parametrize("method", ["run", "stream", "sse"])
def test_a_bad_request_is_refused_by_its_field_before_anything_is_kept(
    model_server, request_, field, method
):
    store = MemoryStore()
    with ResponseLoop(upstream(model_server()), store=store) as loop:
        with pytest.raises(ConfigurationError, match=field):
            getattr(loop, method)(request_, request_id="r")
        assert repr(store) == "<MemoryStore responses=0 open=0>"


@pytest.mark.parametrize("method", ["run", "stream", "sse"])
def test_the_id_of_another_request_is_refused(model_server, method):
    with ResponseLoop(upstream(model_server([Say("1")]))) as loop:
        loop.run(REQUEST, request_id="r")
        with pytest.raises(ConfigurationError, match="'r' is that of another request"):
            getattr(loop, method)({**REQUEST, "input": "other"}, request_id="r")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"request_id": 1}, "request_id must be a str"),
        ({"request_id": ""}, "request_id must not be empty"),
        ({"cancel": threading.Event()}, "cancel must be a Cancellation"),
    ],
)
def test_bad_arguments_of_a_run_are_named(model_server, options, message):
    loop = ResponseLoop(upstream(model_server()))
    with loop, pytest.raises(ConfigurationError, match=message):
        loop.run(REQUEST, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": 1}, "tools must be"),
        ({"tools": "add"}, "tools must be"),
        ({"store": 1}, "store must be a ResponseStore, got an int"),
        ({"store": ScriptedStore({})}, "got a ScriptedStore without create_response"),
        ({"config": {}}, "config must be"),
        ({"session": 1}, "session must be"),
    ],
)
def test_bad_arguments_of_a_loop_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ResponseLoop(UpstreamTarget("http://127.0.0.1:1/v1"), **options)
    with pytest.raises(ConfigurationError, match="upstream must be"):
        ResponseLoop("http://127.0.0.1:1/v1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_depth": 0}, "max_depth must be an int > 0, got 0"),
        ({"max_iterations": True}, "max_iterations must be an int > 0, got True"),
        ({"max_parallel_tools": 1.5}, "max_parallel_tools must be an int > 0"),
        ({"tool_timeout": 0}, "tool_timeout must be > 0 seconds"),
        ({"model_timeout": -1}, "model_timeout must be > 0 seconds"),
        ({"on_inflight": "ignore"}, "on_inflight must be 'fail' or 'retry', got 'ignore'"),
        ({"retry": 3}, "retry must be a RetryPolicy"),
    ],
)
def test_bad_limits_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        LoopConfig(**options)


def test_a_model_without_a_timeout_is_not_given_another():
    with ResponseLoop(UpstreamTarget("http://127.0.0.1:1/v1")) as loop:
        assert loop._transport._timeout is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("ftp://x/v1",), "url must"),
        (("http://x/v1/chat/completions",), "url must end in /v1, without /chat/completions"),
        (("http://x/v1", 7), "api_key must be"),
        (("http://x/v1", None, "completions"), "api must be 'chat_completions' or 'responses'"),
    ],
)
def test_a_bad_upstream_is_named(args, message):
    with pytest.raises(ConfigurationError, match=message):
        UpstreamTarget(*args)


# -- tools ---------------------------------------------------------------------------------------


class Rude(KeyboardInterrupt):
    pass


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lambda: ValueError("no"), "tool_error"),
        (lambda: ToolExecutionError("no"), "tool_error"),
        (lambda: SystemExit(3), "tool_error"),
        (lambda: LoopCanceledError("not so"), "canceled"),
        (lambda: StorageError("mine"), "tool_error"),
        (lambda: ValueError("half \ud800 a character"), "tool_error"),
        (Unspeakable, "tool_error"),
        (lambda: RecursionError("deep"), "tool_error"),
    ],
)
def test_what_a_tool_raises_is_a_result_that_the_model_sees(model_server, error, kind):
    model = model_server([Call(("act", {})), Say("I see")])
    ran = carried_out(model, tools=raising(error))
    assert ran.text == "I see"
    assert error_of(ran.outputs()["call_1"])["type"] == kind
    assert model.bodies[1]["messages"][-1]["content"] == ran.outputs()["call_1"]
    (item,) = ran.items("function_call_output")
    assert item["status"] == "incomplete"


@pytest.mark.parametrize("error", [Rude, GeneratorExit, KeyboardInterrupt])
def test_whatever_a_tool_raises_on_its_thread_is_its_own_failure(model_server, error):
    model = model_server([Call(("act", {})), Say("sorry")])
    ran = carried_out(model, tools=raising(error))
    assert ran.text == "sorry"
    assert error_of(ran.outputs()["call_1"])["message"].startswith(error.__name__)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("not JSON", "arguments are not JSON"),
        ('{"a": 1', "arguments are not JSON"),
        ("[1]", "arguments must be a JSON object, got list"),
        ('"text"', "arguments must be a JSON object, got str"),
        ('{"a": NaN}', "arguments are not JSON"),
    ],
)
def test_arguments_that_are_no_object_are_told_to_the_model(model_server, arguments, message):
    called = []
    model = model_server([Call(("act", arguments)), Say("sorry")])
    ran = carried_out(model, tools=Tools(lambda *args: called.append(args)))
    error = error_of(ran.outputs()["call_1"])
    assert error["type"] == "invalid_arguments"
    assert message in error["message"]
    assert not called


@both_apis
def test_a_tool_that_there_is_not_is_told_to_the_model(model_server, api):
    model = model_server([Call(("nothing", {}), ("add", {"a": 1, "b": 2})), Say("sorry")])
    ran = carried_out(model, tools=[add], api=api)
    assert error_of(ran.outputs()["call_1"])["type"] == "tool_not_found"
    assert ran.outputs()["call_2"] == "3"
    assert ran.text == "sorry"


@pytest.mark.parametrize("result", [object(), float("nan"), {1: object()}, b"bytes", "\ud800"])
def test_a_result_that_is_not_json_is_told_to_the_model(model_server, result):
    model = model_server([Call(("act", {})), Say("sorry")])
    ran = carried_out(model, tools=Tools(lambda *args: result))
    assert error_of(ran.outputs()["call_1"])["type"] == "tool_error"
    assert ran.text == "sorry"


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_failing_sibling_leaves_no_call_without_its_result(model_server, at):
    def execute(name: str, call_id: str, args: Any, ctx: Any) -> Any:
        if args["n"] == at:
            raise ValueError(f"not {at}")
        return args["n"]

    calls = [("act", {"n": n}, f"c{n}") for n in range(3)]
    model = model_server([Call(*calls), Say("done")])
    ran = carried_out(model, tools=Tools(execute))
    assert ran.text == "done"
    results = [m for m in model.bodies[1]["messages"] if m["role"] == "tool"]
    assert [m["tool_call_id"] for m in results] == ["c0", "c1", "c2"]
    for n, message in enumerate(results):
        if n == at:
            assert f"not {at}" in error_of(message["content"])["message"]
        else:
            assert message["content"] == str(n)


def test_a_tool_that_hangs_is_given_up_and_told_to_stop(model_server):
    stopped = threading.Event()

    def execute(name: str, call_id: str, args: Any, ctx: RequestContext) -> Any:
        if args.get("hang"):
            ctx.cancellation.wait(10)
            stopped.set()
        return "ok"

    model = model_server([Call(("act", {"hang": True}), ("act", {})), Say("done")])
    config = LoopConfig(tool_timeout=0.02)
    ran = carried_out(model, tools=Tools(execute), config=config)
    assert error_of(ran.outputs()["call_1"])["type"] == "tool_timeout"
    assert ran.outputs()["call_2"] == "ok"
    assert ran.text == "done"
    assert stopped.wait(1)


def test_the_result_of_a_tool_that_was_given_up_is_not_used(model_server):
    release, done = threading.Event(), threading.Event()

    def execute(*args: Any) -> Any:
        release.wait(10)
        done.set()
        return "late"

    def turn(body: Any) -> Any:
        if len(body["messages"]) == 1:
            return Call(("act", {}))
        release.set()
        assert done.wait(10)
        return Say("done")

    ran = carried_out(
        model_server(turn), tools=Tools(execute), config=LoopConfig(tool_timeout=0.01)
    )
    assert error_of(ran.outputs()["call_1"])["type"] == "tool_timeout"
    assert ran.text == "done"


@pytest.mark.parametrize("bound", [1, 3])
def test_tools_run_side_by_side_up_to_the_bound_and_never_above(model_server, bound):
    lock, most, running = threading.Lock(), 0, 0
    full = threading.Barrier(bound)

    def execute(*args: Any) -> Any:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        full.wait(5)  # passes only if so many are here at once
        with lock:
            running -= 1

    model = model_server([Call(*[("act", {})] * (3 * bound)), Say("done")])
    ran = carried_out(model, tools=Tools(execute), config=LoopConfig(max_parallel_tools=bound))
    assert ran.text == "done"
    assert most == bound


def test_a_tool_knows_the_context_of_its_response(model_server):
    seen = []

    def execute(name: str, call_id: str, args: Any, ctx: RequestContext) -> Any:
        seen.append((name, call_id, args, ctx.model, ctx.extensions))

    model = model_server([Call(("act", {"n": 1}, "c1")), Say("done")])
    carried_out(model, tools=Tools(execute), extensions={"user": "ada"})
    assert seen == [("act", "c1", {"n": 1}, "m", {"user": "ada"})]


def test_several_executors_and_functions_are_tools_together(model_server):
    def double(n: int) -> int:
        """Double a number."""
        return 2 * n

    model = model_server([Call(("add", {"a": 1, "b": 2}), ("double", {"n": 4})), Say("ok")])
    ran = carried_out(model, tools=[double, FunctionTools([add]), HTTPTools(), NoTools()])
    assert ran.outputs() == {"call_1": "3", "call_2": "8"}


def test_an_executor_that_cannot_name_its_tools_fails_before_anything_is_kept(model_server):
    class Broken(Tools):
        def tools(self, ctx: RequestContext) -> list[ToolSchema]:
            raise RuntimeError("no list")

    store = MemoryStore()
    with ResponseLoop(upstream(model_server()), tools=Broken(print), store=store) as loop:
        with pytest.raises(LoopFailedError, match="cannot be listed: RuntimeError: no list"):
            loop.run(REQUEST)
        assert "responses=0" in repr(store)


@pytest.mark.parametrize("tools", [None, 5, ["add"]])
def test_tools_that_cannot_be_listed_fail_the_response_and_are_told(model_server, tools):
    class Broken(Tools):
        def tools(self, ctx: RequestContext) -> Any:
            return tools

    sink = RecordingSink()
    with pytest.raises(LoopFailedError, match="tools cannot be listed"):
        follow(ScriptedStore({}), model_server(), tools=Broken(print), sink=sink)
    assert len(terminal(sink.events)) == 1


def test_what_a_tool_does_later_to_its_arguments_and_its_result_changes_nothing(model_server):
    told: list[int] = []

    def note(name: str, call_id: str, arguments: Any, ctx: RequestContext) -> Any:
        arguments["i"].append(9)
        told.append(len(told))
        return told

    turns = [Call(("note", {"i": [1]})), Call(("note", {"i": [2]})), Say("done")]
    model = model_server(turns)
    store = MemoryStore()
    tools = Tools(note, "note")
    with ResponseLoop(upstream(model), tools=tools, store=store) as loop:
        response = loop.run(REQUEST, request_id="r")
    outputs = [i["output"] for i in response["output"] if i["type"] == "function_call_output"]
    assert outputs == ["[0]", "[0,1]"]
    calls = [
        s.request_payload["args"] for s in store.list_chain("r", None) if s.kind == "tool_call"
    ]
    assert calls == [{"i": [1]}, {"i": [2]}]


def test_a_key_that_cannot_be_had_is_told_without_what_it_says(model_server):
    def key() -> str:
        raise ValueError("sk-secret")

    failed = pytest.raises(LoopFailedError, match="api_key has failed with a ValueError")
    with ResponseLoop(UpstreamTarget(model_server().url, key)) as loop, failed as raised:
        loop.run(REQUEST)
    assert "sk-secret" not in str(raised.value.payload)


def test_a_model_that_has_moved_to_another_host_is_not_followed(model_server, scripted):
    moved = scripted([redirect(model_server().url, 307)])
    failed = pytest.raises(LoopFailedError, match=r"redirect to .* not followed")
    with ResponseLoop(UpstreamTarget(moved.url("/v1"))) as loop, failed:
        loop.run(REQUEST)


# -- agents --------------------------------------------------------------------------------------


@both_apis
@streamed_or_not
def test_an_agent_answers_a_call_with_a_conversation_of_its_own(model_server, api, stream):
    def turn(body: Any) -> Any:
        if asked(body) == "hi":
            return Say("It is 7.") if results_in(body) else Call(("helper", {"input": "3 + 4?"}))
        return Say("7") if results_in(body) else Call(("add", {"a": 3, "b": 4}, "inner"))

    model = model_server(turn)
    tools = [add, agents("helper", instructions="You add.", tools=["add"])]
    ran = carried_out(model, tools=tools, api=api, request={**REQUEST, "stream": stream})
    assert ran.text == "It is 7."
    assert list(ran.outputs().values()) == ["7"]
    assert ran.response["usage"]["total_tokens"] == 72, "the agent's calls count, too"
    inner = model.bodies[1]
    assert "hi" not in json.dumps(inner), "an agent does not see what was said above"
    assert "You add." in json.dumps(inner)
    assert "inner" not in json.dumps(ran.events)


def nesting(body: Any) -> Any:
    """Agents that call agents, deeper and deeper."""
    return Say("up") if results_in(body) else Call(("deeper", {"input": "on"}))


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_there_are_exactly_as_many_levels_as_allowed(model_server, levels):
    model = model_server(nesting)
    ran = carried_out(model, tools=agents("deeper"), config=LoopConfig(max_depth=levels))
    assert ran.text == "up"
    assert len(model.requests) == 2 * levels
    told = [body for body in model.bodies if "max_depth_exceeded" in json.dumps(body)]
    assert len(told) == 1, "the deepest model sees that its call has failed"


def test_a_loop_that_begins_too_deep_fails(model_server):
    sink = RecordingSink()
    with pytest.raises(MaxDepthError, match="more than 2 levels"):
        follow(
            ScriptedStore({}), model_server(), sink=sink, config=LoopConfig(max_depth=2), depth=2
        )
    assert len(terminal(sink.events)) == 1
    check_stream(datas(sink.events))


def test_an_agent_that_fails_is_a_failed_call(model_server):
    def turn(body: Any) -> Any:
        if asked(body) == "hi":
            return Say("sorry") if results_in(body) else Call(("helper", {"input": "x"}))
        return Refuse(400, {"error": {"message": "too long", "code": "context_length"}})

    ran = carried_out(model_server(turn), tools=agents("helper"))
    assert ran.text == "sorry"
    (output,) = ran.outputs().values()
    assert "too long" in error_of(output)["message"]


def test_each_agent_has_its_own_count_of_iterations(model_server):
    def turn(body: Any) -> Any:
        if asked(body) == "hi":
            return Say("sorry") if results_in(body) else Call(("helper", {"input": "x"}))
        return Call(("add", {"a": 1, "b": 1}))

    model = model_server(turn)
    ran = carried_out(model, tools=[add, agents("helper")], config=LoopConfig(max_iterations=4))
    assert ran.text == "sorry"
    (output,) = ran.outputs().values()
    assert error_of(output)["type"] == "max_iterations_exceeded"
    assert len(model.requests) == 1 + 2 + 1


def test_arguments_of_an_agent_that_are_no_object_are_told_to_the_model(model_server):
    model = model_server([Call(("helper", "nonsense")), Say("sorry")])
    ran = carried_out(model, tools=agents("helper"))
    assert error_of(ran.outputs()["call_1"])["type"] == "invalid_arguments"


def test_agents_run_side_by_side(model_server):
    both = threading.Barrier(2)

    def turn(body: Any) -> Any:
        if asked(body) != "hi":
            both.wait(5)
            return Say(asked(body))
        calls = [("helper", {"input": "one"}), ("helper", {"input": "two"})]
        return Say("done") if results_in(body) else Call(*calls)

    ran = carried_out(model_server(turn), tools=agents("helper"))
    assert sorted(ran.outputs().values()) == ["one", "two"]


# -- limits --------------------------------------------------------------------------------------


def test_after_so_many_iterations_it_fails_without_asking_for_another(model_server):
    store = FaultyStore()
    model = model_server(lambda body: Call(("add", {"a": 1, "b": 1})))
    ran = carried_out(model, tools=[add], store=store, config=LoopConfig(max_iterations=5))
    assert isinstance(ran.error, MaxIterationsError)
    assert len(model.requests) == 3, "model, tools, model, tools, model"
    assert store.calls.count("next_action_for") == 5
    assert ran.events[-1]["response"]["error"]["code"] == "max_iterations_exceeded"


def test_an_answer_that_fits_the_iterations_is_given(model_server):
    model = model_server([Call(("add", {"a": 1, "b": 1})), Say("2")])
    ran = carried_out(model, tools=[add], config=LoopConfig(max_iterations=4))
    assert ran.text == "2"


def test_an_action_without_steps_is_an_error(model_server):
    store, sink = ScriptedStore({None: [steps()]}), RecordingSink()
    with pytest.raises(EmptyActionError):
        follow(store, model_server(), sink=sink)
    check_stream(datas(sink.events))
    assert sink.events[-1].data["response"]["error"]["code"] == "empty_action"


@pytest.mark.parametrize("payload", [{"type": "x", "message": "no", "code": "c"}, "no", None, 3])
def test_a_store_may_fail_the_response(model_server, payload):
    store, sink = ScriptedStore({None: [Fail(payload)]}), RecordingSink()
    with pytest.raises(LoopFailedError) as caught:
        follow(store, model_server(), sink=sink)
    assert caught.value.payload == payload
    check_stream(datas(sink.events))


# -- the upstream's errors -----------------------------------------------------------------------


@both_apis
@streamed_or_not
def test_an_upstreams_error_is_raised_and_told_with_status_code_and_message(
    model_server, api, stream
):
    body = {"error": {"message": "no such model", "code": "model_not_found", "type": "x"}}
    model = model_server([Refuse(404, body)])
    ran = carried_out(model, api=api, request={**REQUEST, "stream": stream})
    assert ran.payload["status"] == 404
    assert ran.payload["code"] == "model_not_found"
    assert ran.payload["message"] == "no such model"
    assert ran.events[-1]["response"]["error"] == {
        "code": "model_not_found",
        "message": "no such model",
    }
    assert str(ran.error) == "response failed: model_not_found: no such model"
    assert ran.error.response_id == ran.events[-1]["response"]["id"]


def test_nobody_answering_is_a_failed_response(model_server):
    model = model_server()
    model.stop()
    ran = carried_out(model)
    assert ran.payload["type"] == "upstream_error"
    assert ran.payload["retryable"] is True


# -- stores that fail ----------------------------------------------------------------------------


def store_failing_at(method: str, nth: int, error: Callable[[], Exception]) -> FaultyStore:
    return FaultyStore(lambda m, n, total: m == method and n >= nth, error)


FAILING = [
    (method, nth)
    for method in METHODS
    for nth in (1, 2)
    if (method, nth) not in {("create_response", 2), ("events_after", 2), ("end_response", 2)}
]


@pytest.mark.parametrize(("method", "nth"), FAILING)
@pytest.mark.parametrize("error", [storage_error, sqlite_error])
def test_a_store_that_fails_ends_the_loop_with_one_end(model_server, method, nth, error):
    def turn(body: Any) -> Any:
        return Say("done") if results_in(body) else Call(("add", {}), ("add", {}), ("no", {}))

    store = store_failing_at(method, nth, error)
    ran = carried_out(model_server(turn), tools=[add], store=store, judged=False)
    if method == "list_chain" and nth == 2:  # is not asked for again
        assert ran.error is None
        return
    assert isinstance(ran.error, StoreError)
    assert "the disk is full" in str(ran.error)
    ends = [kind for kind in ran.kinds if kind in ("completed", "failed", "incomplete")]
    assert ends == ([] if method == "create_response" else ["failed"])
    begun = ran.kinds[:1] == ["created"]
    if begun:
        check_stream(ran.events)
        assert ran.events[-1]["response"]["error"]["code"] == "store_error"


@pytest.mark.parametrize("error", [storage_error, sqlite_error])
def test_tools_are_told_to_stop_when_the_store_fails(model_server, error):
    begun, stopped = threading.Event(), threading.Event()

    def execute(name: str, call_id: str, args: Any, ctx: RequestContext) -> Any:
        if args.get("wait"):
            begun.set()
            ctx.cancellation.wait(10)
            stopped.set()
        else:
            begun.wait(10)

    model = model_server([Call(("act", {"wait": True}), ("act", {}))])
    store = store_failing_at("complete_step", 2, error)
    ran = carried_out(model, tools=Tools(execute), store=store)
    assert isinstance(ran.error, StoreError)
    assert stopped.wait(1)


def test_agents_stop_when_the_store_fails(model_server):
    agent_asked = threading.Event()

    def turn(body: Any) -> Any:
        if asked(body) == "hi":
            return Call(("helper", {"input": "x"}), ("act", {}))
        agent_asked.set()
        return Hang()

    model = model_server(turn)
    store = store_failing_at("complete_step", 2, storage_error)
    tools = [Tools(lambda *args: agent_asked.wait(10)), agents("helper")]
    config = LoopConfig(agent_events=True)
    ran = carried_out(model, tools=tools, store=store, config=config, judged=False)
    assert isinstance(ran.error, StoreError)
    assert ran.kinds[-1] == "failed"
    model.http.wait_no_connections(1)
    assert ran.kinds.count("failed") == 1


def test_a_store_that_fails_inside_an_agent_ends_the_whole_loop(model_server):
    def turn(body: Any) -> Any:
        return Call(("helper", {"input": "x"})) if asked(body) == "hi" else Say("no")

    store = store_failing_at("complete_step", 2, sqlite_error)
    ran = carried_out(model_server(turn), tools=agents("helper"), store=store)
    assert isinstance(ran.error, StorageError)


# -- stores of one's own -------------------------------------------------------------------------


@pytest.mark.parametrize("with_sink", [True, False])
def test_a_store_needs_no_more_than_the_methods_of_the_contract(model_server, with_sink):
    batch = steps(tool_call("add", "c1", {"a": 1, "b": 2}), tool_call("no", "c2"))
    store = ScriptedStore({None: [steps(model_call()), batch, steps(model_call(stream=True))]})
    sink = RecordingSink() if with_sink else None
    model = model_server([Call(("add", {"a": 1, "b": 2}, "c1"), ("no", {}, "c2")), Say("3")])
    assert follow(store, model, sink=sink) == 4
    chain = store.list_chain("r", None)
    assert [step.state.value for step in chain] == ["completed", "completed", "failed", "completed"]
    assert [step.prev_step_id for step in chain] == [None, "step1", "step2", "step3"]
    assert chain[1].response_payload == 3
    assert chain[2].error["type"] == "tool_not_found"
    assert [r.headers["idempotency-key"] for r in model.requests] == [
        "key-of-step1",
        "key-of-step4",
    ]
    if sink is not None:
        assert len(terminal(sink.events)) == 1
        assert sink.events[-1].data["response"] == {"status": "completed", "steps": 4}


def test_model_calls_of_one_action_run_side_by_side(model_server):
    both = threading.Barrier(2)

    def turn(body: Any) -> Any:
        both.wait(5)
        return Say(asked(body))

    store = ScriptedStore({None: [steps(model_call("one"), model_call("two", stream=True))]})
    assert follow(store, model_server(turn)) == 2
    said = [
        s.response_payload["choices"][0]["message"]["content"] for s in store.list_chain("", None)
    ]
    assert said == ["one", "two"]


class Composed(MemoryStore):
    """A store in memory that is told what is next."""

    def __init__(self, *actions: Any) -> None:
        super().__init__()
        self._actions = list(actions)

    def next_action_for(self, request_id: str, scope_parent: str | None) -> Any:
        return self._actions.pop(0) if self._actions else Complete("done")


@pytest.mark.parametrize("first", ["one", "act", "two"])
def test_the_steps_of_an_action_are_told_in_their_order_whichever_ends_first(model_server, first):
    has_ended = threading.Event()

    def wait(name: str) -> None:
        if name == first:
            has_ended.set()
        else:
            assert has_ended.wait(5)

    def turn(body: Any) -> Any:
        wait(asked(body))
        if asked(body) == "one":
            return Call(("act", {}, "c1"))
        return Say(asked(body))

    store, sink = (
        Composed(steps(model_call("one"), tool_call("act", "c1"), model_call("two"))),
        RecordingSink(),
    )
    store.create_response("r", REQUEST)
    tools = Tools(lambda name, *args: wait(name))
    follow(store, model_server(turn), tools=tools, sink=sink)
    check_stream(datas(sink.events))
    kinds = [item["type"] for item in done_items(datas(sink.events))]
    assert kinds == ["function_call", "function_call_output", "message"]


def test_agents_of_a_store_have_scopes(model_server):
    store = ScriptedStore(
        {
            None: [steps(tool_call("helper", "c1", {"x": 1}))],
            "helper": [steps(model_call()), steps(tool_call("helper", "c2"))],
        }
    )
    sink = RecordingSink()
    assert follow(store, model_server([Say("1")]), tools=agents("helper"), sink=sink) == 1
    assert [step.id for step in store.list_chain("r", "step1")] == ["step2", "step3"]
    assert [step.id for step in store.list_chain("r", "step3")] == []
    top, inner = store.list_chain("r", None)[0], store.list_chain("r", "step1")[1]
    assert (top.response_payload, inner.response_payload) == (2, 0)


def test_a_scope_can_be_carried_out_by_itself(model_server):
    store = MemoryStore()
    store.create_response("r", REQUEST, tools=agents("helper").tools(RequestContext()))
    first = store.next_action_for("r", None)
    call = store.record_step("r", None, None, first.steps[0])  # type: ignore[union-attr]
    message = {"role": "assistant", "content": None, "tool_calls": []}
    function = {"name": "helper", "arguments": '{"input": "x"}'}
    message["tool_calls"] = [{"id": "c1", "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    store.complete_step(call.id, {"object": "chat.completion", "choices": [choice]})
    second = store.next_action_for("r", None)
    tool = store.record_step("r", None, call.id, second.steps[0])  # type: ignore[union-attr]
    sink = RecordingSink()
    result = follow(
        store,
        model_server([Say("inner")]),
        tools=agents("helper"),
        sink=sink,
        scope_parent=tool.id,
        depth=1,
    )
    assert result == "inner"
    assert len(terminal(sink.events)) == 1
    check_stream(datas(sink.events))
    assert store.assemble_response("r")["status"] == "in_progress", "only a part of it has ended"
    assert store.events_after("r", None) == []


def test_a_store_that_says_what_it_must_not_ends_the_run_once(model_server):
    sink = RecordingSink()
    with pytest.raises(StorageError, match="the next action must be one, got a NoneType"):
        follow(ScriptedStore({None: [None]}), model_server(), sink=sink)  # type: ignore[list-item]
    assert len(terminal(sink.events)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"request_id": 7}, "request_id must be a str"),
        ({"config": None}, "config must be a LoopConfig"),
        ({"http": 3}, "http must be a requests.Session"),
        ({"cancel": 3}, "cancel must be a Cancellation"),
    ],
)
def test_bad_arguments_of_the_function_are_named(model_server, options, message):
    given = {"request_id": "r", **options}
    with pytest.raises(ConfigurationError, match=message):
        run_response_loop(
            ScriptedStore({}), NoTools(), RequestContext(), upstream(model_server()), **given
        )


def test_a_canceled_run_leaves_the_callers_cancellation_as_it_is_when_it_fails(model_server):
    cancel = Cancellation()
    with pytest.raises(EmptyActionError):
        follow(ScriptedStore({None: [steps()]}), model_server(), cancel=cancel)
    assert not cancel.canceled


# -- the loop itself -----------------------------------------------------------------------------


def test_what_was_done_is_counted(model_server):
    turns = [Call(("add", {"a": 1, "b": 2}), ("no", {})), Say("3"), Refuse(400)]
    with ResponseLoop(upstream(model_server(turns)), tools=[add]) as loop:
        loop.run(REQUEST)
        with pytest.raises(LoopFailedError):
            loop.run(REQUEST)
        stats = loop.stats
    assert (stats.running, stats.completed, stats.failed) == (0, 1, 1)
    assert (stats.model_calls, stats.failed_model_calls) == (3, 1)
    assert (stats.tool_calls, stats.failed_tool_calls) == (2, 1)


def test_it_tells_its_state_and_no_key(model_server):
    model = model_server()
    loop = ResponseLoop(UpstreamTarget(model.url, "sk-secret"))
    assert repr(loop) == f"<ResponseLoop OPEN {model.url} running=0>"
    loop.close()
    assert repr(loop) == f"<ResponseLoop CLOSED {model.url} running=0>"
    assert "sk-secret" not in repr(loop.upstream)


@pytest.mark.parametrize("method", ["run", "stream", "sse"])
def test_a_closed_loop_takes_nothing(model_server, method):
    loop = ResponseLoop(upstream(model_server()))
    loop.close()
    with pytest.raises(StateError, match="closed"):
        getattr(loop, method)(REQUEST)


def test_many_threads_use_one_loop(model_server):
    def turn(body: Any) -> Any:
        n = int(asked(body))
        return Say(str(2 * n)) if results_in(body) else Call(("add", {"a": n, "b": n}, f"c{n}"))

    model = model_server(turn)
    with ResponseLoop(upstream(model), tools=[add], config=LoopConfig(retry=QUICK)) as loop:

        def ask(n: int) -> list[str]:
            requests = [{"model": "m", "input": str(n * 10 + i)} for i in range(5)]
            return [loop.run(request)["output"][-1]["content"][0]["text"] for request in requests]

        threads = [InThread(lambda n=n: ask(n)) for n in range(8)]
        answers = [thread.ends(20) for thread in threads]
        assert answers == [[str(2 * (n * 10 + i)) for i in range(5)] for n in range(8)]
        stats = loop.stats
    assert (stats.running, stats.completed, stats.model_calls, stats.tool_calls) == (0, 40, 80, 40)


def test_nothing_is_left_behind(model_server):
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    def round_(model: ModelServer) -> None:
        with ResponseLoop(upstream(model), tools=[add]) as loop:
            with loop.stream(REQUEST) as stream:
                stream.until_done()
            assert loop.stats.running == 0

    def turn(body: Any) -> Any:
        return Say("2") if results_in(body) else Call(("add", {"a": 1, "b": 1}))

    model = model_server(turn)
    for _ in range(5):
        round_(model)
    model.http.wait_no_connections(2)
    before = open_files()
    for _ in range(100):
        round_(model)
    model.http.wait_no_connections(2)
    assert open_files() <= before + 2
    ours = [t.name for t in threading.enumerate() if t.name.startswith("reasoning-sdk.worker")]
    assert len(ours) <= 2


def test_the_key_may_be_made_for_each_call(model_server):
    keys = iter(["k1", "k2"])
    model = model_server([Call(("add", {"a": 1, "b": 1})), Say("2")])
    target = UpstreamTarget(model.url, lambda: next(keys))
    with ResponseLoop(target, tools=[add], config=LoopConfig(retry=RetryPolicy())) as loop:
        loop.run(REQUEST)
    sent = [request.headers["authorization"] for request in model.requests]
    assert sent == ["Bearer k1", "Bearer k2"]
