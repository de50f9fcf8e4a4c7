"""Endpoints over HTTP as tools, asked over real sockets."""

import functools
import json
import math

import pytest
import requests

from reasoning_sdk.errors import (
    ConfigurationError,
    LoopCanceledError,
    ToolArgumentsError,
    ToolExecutionError,
    ToolNotFoundError,
    ToolTimeoutError,
)
from reasoning_sdk.retry import RetryPolicy
from reasoning_sdk.steps import RequestContext, ToolSchema
from reasoning_sdk.tools import HTTPTools
from reasoning_sdk.tools import http as module
from reasoning_sdk.typing import ToolExecutor
from tests.support.scripted import (
    answer,
    hang_up,
    json_answer,
    no_content,
    raw,
    redirect,
    reset,
    silence,
)
from tests.support.threads import InThread

pytestmark = pytest.mark.http

KEY = "sk-very-secret-key"
CTX = RequestContext()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "_THRICE", RetryPolicy(initial_interval=0.001, max_attempts=2))


@pytest.fixture
def tool():
    """Makes executors with one tool, ``t``, and closes them."""
    made = []

    def make(url, *, common=None, **options):
        tools = HTTPTools(**(common or {}))
        made.append(tools)
        tools.register("t", url, **options)
        return tools

    yield make
    for tools in made:
        tools.close()


def call(tools, arguments=None, ctx=CTX, call_id="call_1"):
    return tools.execute("t", call_id, arguments or {}, ctx)


def failure(tools, kind=ToolExecutionError, **options):
    """What the error of a call says, with all that is chained to it."""
    with pytest.raises(kind) as caught:
        call(tools, **options)
    error, chain = caught.value, []
    while error is not None:
        chain += [str(error), repr(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    assert KEY not in "".join(chain)
    return str(caught.value)


# -- registration ------------------------------------------------------------------------------


def test_a_tool_is_registered_with_its_url():
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    with HTTPTools(api_key=KEY) as tools:
        tools.register("a", "https://x.example/a")
        tools.register(
            "b", "https://x.example/b?k=1", description="B.", parameters=parameters,
            idempotent=True, strict=True,
        )  # fmt: skip
        assert isinstance(tools, ToolExecutor)
        assert tools.tools(CTX) == [
            ToolSchema("a"),
            ToolSchema("b", "B.", parameters, strict=True, idempotent=True),
        ]
        assert repr(tools) == "<HTTPTools a b>"
        with pytest.raises(ToolNotFoundError, match="there is no tool 'c'"):
            tools.execute("c", "call_1", {}, CTX)
        with pytest.raises(ConfigurationError, match="there is a tool 'a' already"):
            tools.register("a", "https://x.example/a")


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": 3},
        {"api_key": f"{KEY}\n"},
        {"timeout": 0},
        {"max_size": 0},
        {"max_size": "1"},
        {"max_size": True},
        {"headers": 5},
        {"headers": {"a b": "c"}},
        {"session": 3},
    ],
    ids=str,
)
def test_arguments_that_cannot_work_are_refused(options):
    with pytest.raises(ConfigurationError) as caught:
        HTTPTools(**options)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "x.example"},
        {"url": "ftp://x.example"},
        {"url": "https://user:pass@x.example"},
        {"url": None},
        {"name": "a b"},
        {"name": None},
        {"api_key": f"{KEY}\n"},
        {"timeout": -1},
        {"parameters": []},
    ],
    ids=str,
)
def test_a_tool_that_cannot_work_is_refused(options):
    with HTTPTools() as tools, pytest.raises(ConfigurationError) as caught:
        tools.register(**{"name": "t", "url": "https://x.example", **options})
    assert KEY not in str(caught.value)


# -- requests and answers ----------------------------------------------------------------------


def test_the_arguments_are_posted_as_json_to_the_url_as_it_was_given(scripted, tool):
    server = scripted(json_answer(200, {"a": [1]}))
    tools = tool(server.url("/x/?code=1"), common={"api_key": KEY, "headers": {"X-A": "b"}})
    assert call(tools, {"city": "../Köln?&#"}) == {"a": [1]}
    request = server.requests[0]
    assert (request.method, request.target) == ("POST", "/x/?code=1")
    assert request.json() == {"city": "../Köln?&#"}
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["X-A"] == "b"
    assert request.headers["User-Agent"].startswith("reasoning-sdk/")


@pytest.mark.parametrize(
    ("common", "own", "sent"),
    [
        (None, None, None),
        ("one", None, "Bearer one"),
        ("one", "two", "Bearer two"),
        ("one", "", None),
        (lambda: "three", None, "Bearer three"),
        ("one", lambda: "four", "Bearer four"),
        ("one", lambda: None, None),
    ],
)
def test_a_tool_has_a_key_of_its_own_or_that_of_all(scripted, tool, common, own, sent):
    server = scripted(json_answer(200, 1))
    assert call(tool(server.url("/"), common={"api_key": common}, api_key=own)) == 1
    assert server.requests[0].headers.get("Authorization") == sent


def test_the_idempotency_key_is_the_step_and_the_same_when_it_is_taken_again(scripted, tool):
    server = scripted(json_answer(200, 1), repeat_last=True)
    tools = tool(server.url("/"))
    for step in ("step_1", "step_1", "step_2"):  # whose calls have the same id
        call(tools, ctx=RequestContext(step_id=step))
    keys = [request.headers["Idempotency-Key"] for request in server.requests]
    assert keys == ["step_1", "step_1", "step_2"]


def test_a_call_without_a_step_has_an_idempotency_key_of_its_own(scripted, tool):
    server = scripted(json_answer(200, 1), repeat_last=True)
    tools = tool(server.url("/"))
    call(tools)
    call(tools)
    keys = {request.headers["Idempotency-Key"] for request in server.requests}
    assert len(keys) == 2


def test_a_strange_id_of_a_call_goes_nowhere(scripted, tool):
    server = scripted(json_answer(200, 1))
    assert call(tool(server.url("/")), call_id="ü\r\n\ud800" * 1000) == 1


ANSWERS = [
    (json_answer(200, None), None),
    (json_answer(201, "x"), "x"),
    (no_content(), None),
    (answer(200, b""), None),
    (answer(200, b'{"a": 1}'), {"a": 1}),
    (answer(200, b"sunny"), {"result": "sunny"}),
    (answer(200, b"{"), {"result": "{"}),
    (answer(200, b'{"a": NaN}'), {"result": '{"a": NaN}'}),
    (answer(200, b"\xff"), {"result": "�"}),
    (answer(200, b"\xfc", content_type="text/plain; charset=latin-1"), {"result": "ü"}),
    (answer(200, b"\xc3\xbc", content_type="text/plain; charset=none"), {"result": "ü"}),
]


@pytest.mark.parametrize(("handler", "result"), ANSWERS)
def test_the_result_is_the_json_of_the_answer_else_its_text(scripted, tool, handler, result):
    assert call(tool(scripted(handler).url("/"))) == result


def test_an_answer_that_is_too_large_is_an_error(scripted, tool):
    server = scripted([json_answer(200, "x" * 98), json_answer(200, "x" * 99)])
    tools = tool(server.url("/"), common={"max_size": 100})
    assert call(tools) == "x" * 98
    assert failure(tools) == "tool 't' failed: answer is larger than 100 bytes"


def test_arguments_that_cannot_be_json_are_an_error_of_theirs(tool):
    with pytest.raises(ToolArgumentsError, match=r"^\$\.a cannot be JSON: nan is not finite$"):
        call(tool("https://x.example"), {"a": math.nan})


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_an_error_status_is_an_error_with_what_the_server_says_but_no_key(scripted, tool, status):
    said = {"error": {"message": f"no, {KEY} is bad, Bearer {KEY}" + "x" * 10_000}}
    server = scripted(json_answer(status, said, headers={"X-Echo": KEY}))
    text = failure(tool(server.url("/"), api_key=KEY))
    assert text.startswith(f"tool 't' failed: {status} ")
    assert ": no, *** is bad, Bearer ***" in text or ": no, *** is bad, ***" in text
    assert len(text) < 2200


def test_a_connection_that_is_lost_is_an_error(scripted, tool):
    server = scripted([reset(), hang_up(), raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")])
    tools = tool(server.url("/"), api_key=KEY)
    for _ in range(3):
        assert failure(tools).startswith("tool 't' failed: the connection to http://127.0.0.1:")


def test_what_cannot_be_reached_is_an_error(tool):
    assert "cannot connect to" in failure(tool("http://nowhere.invalid/x?code=abcdefgh"))


@pytest.mark.parametrize("headers", [True, False])
def test_a_tool_that_does_not_answer_in_time_has_timed_out(scripted, tool, headers):
    server = scripted(silence(headers=headers), repeat_last=True)
    for options in ({"common": {"timeout": 0.1}}, {"timeout": 0.1}):
        text = failure(tool(server.url("/"), **options), ToolTimeoutError)
        assert text == f"tool 't' failed: no answer from http://127.0.0.1:{server.port} in time"


def test_a_key_that_cannot_be_had_is_an_error_that_does_not_tell_why(tool):
    def raising():
        raise ValueError(f"{KEY} has expired")

    with pytest.raises(ToolExecutionError) as caught:
        call(tool("https://x.example", api_key=raising))
    assert str(caught.value) == "api_key of tool 't' has raised a ValueError"
    assert "what api_key gives must be a str, got an int" in failure(
        tool("https://x.example", api_key=lambda: 3)
    )
    assert "HTTP does not allow" in failure(tool("https://x.example", api_key=lambda: f"{KEY}\n"))


# -- redirects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_to_the_same_origin_is_followed(scripted, tool, status):
    server = scripted([redirect("/new", status), json_answer(200, 1)])
    assert call(tool(server.url("/old"), api_key=KEY), {"a": 1}) == 1
    assert [request.path for request in server.requests] == ["/old", "/new"]
    assert server.requests[1].json() == {"a": 1}
    assert server.requests[1].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_origin_is_not_followed_and_named(scripted, tool, status):
    other = scripted()
    server = scripted([redirect(other.url(f"/{KEY}"), status)])
    text = failure(tool(server.url("/"), api_key=KEY, idempotent=True))
    assert f"a redirect to http://127.0.0.1:{other.port}" in text
    assert text.endswith("is not followed")
    assert other.accepted == 0


def test_another_host_or_scheme_at_the_same_port_is_another_origin(scripted, tool):
    server = scripted([])
    server.then(redirect(server.url("/", host="other.localhost"), 307))
    server.then(redirect(f"https://127.0.0.1:{server.port}/", 307))
    tools = tool(server.url("/"))
    assert "http://other.localhost" in failure(tools)
    assert "https://127.0.0.1" in failure(tools)
    assert len(server.requests) == 2


def test_a_redirect_in_two_steps_does_not_leave_the_origin_either(scripted, tool):
    other = scripted()
    server = scripted([redirect("/b", 307), redirect(other.url("/"), 307)])
    assert "is not followed" in failure(tool(server.url("/")))
    assert other.accepted == 0


# -- retries -------------------------------------------------------------------------------------

FAILING = [json_answer(429, {}), json_answer(500, {}), reset()]


@pytest.mark.parametrize("failing", FAILING, ids=["429", "500", "reset"])
def test_an_idempotent_tool_is_asked_twice_more_with_the_same_key(scripted, tool, failing):
    server = scripted([failing, failing, json_answer(200, 1)])
    assert call(tool(server.url("/"), idempotent=True)) == 1
    keys = {request.headers["Idempotency-Key"] for request in server.requests}
    assert (len(server.requests), len(keys)) == (3, 1)
    server.then(failing, failing, failing)
    failure(tool(server.url("/"), idempotent=True))
    assert len(server.requests) == 6


@pytest.mark.parametrize("failing", FAILING, ids=["429", "500", "reset"])
def test_any_other_tool_is_asked_once(scripted, tool, failing):
    server = scripted([failing])
    failure(tool(server.url("/")))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 408, 409])
def test_another_status_is_final(scripted, tool, status):
    server = scripted([json_answer(status, {})])
    failure(tool(server.url("/"), idempotent=True))
    assert len(server.requests) == 1


# -- cancellation and closing ----------------------------------------------------------------------


@pytest.mark.parametrize("headers", [True, False], ids=["body", "headers"])
def test_a_canceled_response_aborts_a_call_at_once(scripted, tool, headers):
    server, ctx = scripted(silence(headers=headers)), RequestContext()
    tools = tool(server.url("/"), idempotent=True)
    thread = InThread(functools.partial(call, tools, ctx=ctx))
    server.wait_for_requests(1)
    ctx.cancellation.cancel()
    error = thread.raises(5)
    assert isinstance(error, LoopCanceledError)
    assert str(error) == "the call of tool 't' was canceled"
    server.wait_no_connections()


def test_a_canceled_response_ends_the_wait_before_a_retry(scripted, tool):
    server, ctx = scripted(json_answer(429, {}, headers={"Retry-After": "60"})), RequestContext()
    thread = InThread(functools.partial(call, tool(server.url("/"), idempotent=True), ctx=ctx))
    server.wait_for_requests(1)
    ctx.cancellation.cancel()
    assert isinstance(thread.raises(5), LoopCanceledError)
    assert len(server.requests) == 1


def test_nothing_is_sent_for_a_response_that_was_canceled_before(scripted, tool):
    server, ctx = scripted(), RequestContext()
    ctx.cancellation.cancel()
    failure(tool(server.url("/")), LoopCanceledError, ctx=ctx)
    assert server.accepted == 0


def test_a_call_is_not_aborted_by_the_cancellation_of_another_response(scripted, tool):
    def handle(connection):
        connection.gate("go")
        json_answer(200, 1)(connection)

    server = scripted(handle)
    thread = InThread(functools.partial(call, tool(server.url("/")), ctx=RequestContext()))
    server.wait_at("go")
    RequestContext().cancellation.cancel()
    server.open("go")
    assert thread.ends(5) == 1


@pytest.mark.parametrize("headers", [True, False], ids=["body", "headers"])
def test_to_close_ends_calls_that_are_under_way_and_those_to_come(scripted, tool, headers):
    server = scripted(silence(headers=headers))
    tools = tool(server.url("/"), idempotent=True)
    thread = InThread(functools.partial(call, tools))
    server.wait_for_requests(1)
    tools.close()
    assert isinstance(thread.raises(5), ToolExecutionError)
    assert failure(tools) == "tool 't' failed: the call was canceled"
    tools.close()


def test_to_close_ends_the_wait_before_a_retry(scripted, tool):
    server = scripted(json_answer(429, {}, headers={"Retry-After": "60"}))
    tools = tool(server.url("/"), idempotent=True)
    thread = InThread(functools.partial(call, tools))
    server.wait_for_requests(1)
    tools.close()
    assert isinstance(thread.raises(5), ToolExecutionError)


def test_tools_are_called_by_many_threads_at_once(scripted, tool):
    def echo(connection):
        json_answer(200, json.loads(connection.request.body))(connection)

    tools = tool(scripted(echo, repeat_last=True).url("/"))
    threads = [InThread(functools.partial(call, tools, {"n": n})) for n in range(16)]
    for number, thread in enumerate(threads):
        assert (thread.raises(20), thread.value) == (None, {"n": number})


def test_a_session_of_the_caller_is_used(scripted, tool):
    server = scripted([redirect("/b", 307), json_answer(200, 1)])
    with requests.Session() as session:
        session.headers["X-Mine"] = "yes"
        assert call(tool(server.url("/"), common={"session": session})) == 1
    assert server.requests[1].headers["X-Mine"] == "yes"
