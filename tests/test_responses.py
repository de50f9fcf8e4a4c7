"""The client of the Responses API: what it sends, what it reads, what it refuses."""

import json
import logging
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import reasoning_sdk as r
from tests.support import recordings as rec
from tests.support.scripted import (
    Connection,
    ScriptedServer,
    answer,
    json_answer,
    no_content,
    redirect,
    reset,
    silence,
    sse,
)

pytestmark = pytest.mark.http

Scripted = Callable[..., ScriptedServer]
KEY = "sk-very-secret-0123456789"
QUICK = r.RetryPolicy(initial_interval=0.001, max_attempts=4)
RESPONSE = rec.response_object([rec.message("Hello")])
EVENTS = rec.text_response("Hello")
Make = Callable[..., r.ResponsesClient]


@pytest.fixture
def client() -> Iterator[Make]:
    """Makes clients of a server, and closes them."""
    made: list[r.ResponsesClient] = []

    def make(server: ScriptedServer | None = None, **options: Any) -> r.ResponsesClient:
        options.setdefault("base_url", server.base_url if server else "http://127.0.0.1:1/v1")
        options = {"model": "m", "api_key": KEY, "retry": QUICK, **options}
        made.append(r.ResponsesClient(**options))
        return made[-1]

    yield make
    for client_ in made:
        client_.close()


# -- what is sent ------------------------------------------------------------------------------


def test_a_stream_sends_what_was_asked_for_and_nothing_else(
    scripted: Scripted, client: Make
) -> None:
    server = scripted(sse(EVENTS))
    client(server).stream("Why?")
    (request,) = server.requests
    assert request.raw.startswith(b"POST /v1/responses HTTP/1.1\r\n")
    assert request.body == b'{"model":"m","input":"Why?","stream":true}'
    assert {name.lower(): value for name, value in request.header_lines} == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": f"reasoning-sdk/{r.__version__}",
        "accept": "text/event-stream",
        "accept-encoding": request.headers["accept-encoding"],
        "connection": "keep-alive",
        "content-type": "application/json",
        "content-length": str(len(request.body)),
        "authorization": f"Bearer {KEY}",
        "idempotency-key": request.headers["idempotency-key"],
    }


def test_a_create_sends_what_was_asked_for_and_nothing_else(
    scripted: Scripted, client: Make
) -> None:
    server = scripted(json_answer(200, RESPONSE))
    assert client(server).create([{"role": "user", "content": "ü"}], model="other").id == "resp_1"
    (request,) = server.requests
    assert request.body == ('{"model":"other","input":[{"role":"user","content":"ü"}]}'.encode())
    assert request.headers["accept"] == "application/json"
    assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize("method", ["stream", "create"])
def test_every_field_goes_into_the_body_and_none_is_left_out(
    scripted: Scripted, client: Make, method: str
) -> None:
    server = scripted(sse(EVENTS) if method == "stream" else json_answer(200, RESPONSE))
    fields = {
        "instructions": "Be brief.",
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": None}],
        "previous_response_id": "resp_0",
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": None},
        "temperature": 0,
        "x_vendor": [],
    }
    getattr(client(server), method)("x", **fields, store=None, max_output_tokens=None)
    sent = server.requests[0].json()
    assert sent.pop("stream", False) is (method == "stream")
    assert sent == {"model": "m", "input": "x", **fields}


def test_without_a_model_none_is_sent(scripted: Scripted, client: Make) -> None:
    server = scripted(sse(EVENTS))
    client(server, model=None).stream(None, previous_response_id="resp_0")
    assert server.requests[0].json() == {"previous_response_id": "resp_0", "stream": True}


@pytest.mark.parametrize("method", ["stream", "create"])
def test_each_call_has_its_own_idempotency_key_the_same_on_every_try(
    scripted: Scripted, client: Make, method: str
) -> None:
    good = sse(EVENTS) if method == "stream" else json_answer(200, RESPONSE)
    server = scripted([answer(503), reset(), good, good])
    made = client(server)
    for _ in range(2):
        getattr(made, method)("x")
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert len(set(keys[:3])) == 1
    assert len(set(keys)) == 2
    assert all(len(key) >= 32 for key in keys)
    assert len({request.body for request in server.requests}) == 1


def test_extra_headers_win_over_all_others(scripted: Scripted, client: Make) -> None:
    server = scripted(sse(EVENTS))
    made = client(server, headers={"X-A": "client", "User-Agent": "mine/1"})
    extra = {"x-a": "call", "authorization": "Basic x", "Idempotency-Key": "mine", "ACCEPT": "*/*"}
    made.stream("x", extra_headers=extra)
    headers = server.requests[0].headers
    assert {name: headers[name] for name in extra} == extra
    assert headers["user-agent"] == "mine/1"
    assert len(server.requests[0].header_lines) == len(headers)


def test_a_key_can_be_made_for_each_attempt(scripted: Scripted, client: Make) -> None:
    keys = iter(["first-key", "second-key", "third-key"])
    server = scripted([answer(503), sse(EVENTS), json_answer(200, RESPONSE)])
    made = client(server, api_key=lambda: next(keys))
    made.stream("x").until_done()
    made.retrieve("resp_1")
    assert [request.headers["authorization"] for request in server.requests] == [
        "Bearer first-key", "Bearer second-key", "Bearer third-key",
    ]  # fmt: skip


def test_a_server_that_wants_no_key_gets_none(scripted: Scripted, client: Make) -> None:
    server = scripted([sse(EVENTS), sse(EVENTS)])
    client(server, api_key="").stream("x")
    client(server, api_key=None, headers={"authorization": "Basic x"}).stream("x")
    assert "authorization" not in server.requests[0].headers
    assert server.requests[1].headers["authorization"] == "Basic x"


def test_a_session_of_the_caller_is_used_as_it_is(scripted: Scripted, client: Make) -> None:
    server = scripted([sse(EVENTS), json_answer(200, RESPONSE)])
    with requests.Session() as session:
        session.headers["X-Session"] = "yes"
        session.auth = ("user", "password")
        made = client(server, api_key=None, session=session)
        assert made.stream("x").until_done().output_text == "Hello"
        made.create("x")
        made.close()
    for request in server.requests:
        assert request.headers["x-session"] == "yes"
        assert request.headers["authorization"].startswith("Basic ")
    assert server.accepted == 1


# -- what cannot be sent -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["stream", "create"])
@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"input": 5}, r.ConfigurationError, "input must be a str or a list of items, got a int"),
        ({"input": {"a": 1}}, r.ConfigurationError, "got a dict"),
        ({"input": b"x"}, r.ConfigurationError, "got a bytes"),
        ({"input": "x", "stream": False}, r.ConfigurationError, "stream is said by the method"),
        ({"input": [{"x": b""}]}, r.InvalidEventError, r"\$.input\[0\].x cannot be JSON"),
        ({"input": "x", "temperature": float("nan")}, r.InvalidEventError, r"\$.temperature"),
        ({"input": "x", "extra_headers": {"A": KEY + "\n"}}, r.ConfigurationError, "header A"),
        ({"input": "x", "request_timeout": 0}, r.ConfigurationError, "request_timeout must be > 0"),
        ({"input": "x", "request_timeout": "5"}, r.ConfigurationError, "request_timeout"),
        ({"input": "x", "request_timeout": float("inf")}, r.ConfigurationError, "request_timeout"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    client: Make, method: str, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        getattr(client(), method)(**arguments)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("response_id", ["", None, 7, ".", ".."])
def test_what_is_no_id_is_refused(client: Make, response_id: Any) -> None:
    made = client()
    for method in (made.retrieve, made.cancel, made.delete, made.input_items, made.resume):
        with pytest.raises(r.ConfigurationError, match="cannot be the id of a response"):
            method(response_id)


@pytest.mark.parametrize("number", [-1, 1.5, "1", True])
def test_what_is_no_sequence_number_is_refused(client: Make, number: Any) -> None:
    with pytest.raises(r.ConfigurationError, match="starting_after must be an int >= 0"):
        client().resume("resp_1", starting_after=number)


# -- configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "https://api.openai.com/v1"),
        ({"OPENAI_BASE_URL": "http://h:1/v1/"}, "http://h:1/v1"),
        ({"OPENAI_BASE_URL": "http://h:1/other"}, "http://h:1/other"),
        ({"OPENAI_API_BASE": "http://h:1"}, "http://h:1/v1"),
        ({"OPENAI_API_BASE": "http://h:1/"}, "http://h:1/v1"),
        ({"OPENAI_API_BASE": "http://h:1/v1"}, "http://h:1/v1"),
        ({"OPENAI_API_BASE": "http://h:1/v1/"}, "http://h:1/v1"),
        ({"OPENAI_BASE_URL": "http://a/v1", "OPENAI_API_BASE": "http://b"}, "http://a/v1"),
        ({"OPENAI_BASE_URL": "", "OPENAI_API_BASE": ""}, "https://api.openai.com/v1"),
    ],
)
def test_the_environment_says_where_the_api_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert r.ResponsesClient(api_key="k").base_url == expected
    assert r.ResponsesClient(api_key="k", base_url="http://c/v1").base_url == "http://c/v1"


def test_the_environment_gives_the_key(
    scripted: Scripted, client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = scripted([sse(EVENTS)] * 4)
    client(server, api_key=None).stream("x")
    client(server, api_key="mine").stream("x")
    client(server, api_key="").stream("x")
    client(server, api_key=None, headers={"Authorization": "Basic x"}).stream("x")
    assert [request.headers.get("authorization") for request in server.requests] == [
        f"Bearer {KEY}", "Bearer mine", None, "Basic x",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [None, ""])
def test_no_key_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(r.ConfigurationError, match=r"no API key: give api_key.*OPENAI_API_KEY"):
        r.ResponsesClient("m")


def test_a_key_with_a_line_end_is_refused_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(r.ConfigurationError, match="Authorization") as caught:
        r.ResponsesClient("m", api_key=KEY + "\n")
    assert KEY not in str(caught.value)
    made = r.ResponsesClient("m", api_key=lambda: KEY + "\n")
    with pytest.raises(r.ConfigurationError) as caught:
        made.stream("x")
    assert KEY not in str(caught.value)


def test_the_environment_says_how_often_to_retry(
    scripted: Scripted, client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_REQUEST_MAX_RETRIES", "0")
    server = scripted(answer(503))
    with pytest.raises(r.ServerError):
        client(server, retry=None).stream("x")
    monkeypatch.setenv("OPENAI_REQUEST_MAX_RETRIES", "2")
    server = scripted(answer(503, headers={"Retry-After": "0"}), repeat_last=True)
    with pytest.raises(r.ServerError):
        client(server, retry=None).stream("x")
    assert len(server.requests) == 3


def test_without_a_policy_there_are_four_retries(scripted: Scripted, client: Make) -> None:
    server = scripted(answer(503, headers={"Retry-After": "0"}), repeat_last=True)
    with pytest.raises(r.ServerError):
        client(server, retry=None).stream("x")
    assert len(server.requests) == 5


def test_the_environment_says_how_long_a_stream_may_be_idle(
    scripted: Scripted, client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_STREAM_IDLE_TIMEOUT_MS", "50")
    server = scripted(silence())
    with pytest.raises(r.IdleTimeoutError, match=r"no event for 0\.05 seconds"):
        client(server).stream("x").until_done()


@pytest.mark.parametrize("name", ["OPENAI_REQUEST_MAX_RETRIES", "OPENAI_STREAM_IDLE_TIMEOUT_MS"])
@pytest.mark.parametrize("value", ["five", "-1", "1.5", " 1", "9" * 5000, "٣x"])
def test_a_variable_that_is_no_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(r.ConfigurationError, match=f"{name} must be a whole number >= 0"):
        r.ResponsesClient("m", api_key="k")


def test_an_idle_timeout_of_zero_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_STREAM_IDLE_TIMEOUT_MS", "0")
    with pytest.raises(r.ConfigurationError, match="OPENAI_STREAM_IDLE_TIMEOUT_MS must be > 0"):
        r.ResponsesClient("m", api_key="k")
    r.ResponsesClient("m", api_key="k", idle_timeout=None).close()


@pytest.mark.parametrize("option", ["timeout", "connect_timeout", "idle_timeout"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "5"])
def test_timeouts_are_positive(option: str, value: Any) -> None:
    with pytest.raises(r.ConfigurationError, match=f"{option} must be > 0 seconds or None"):
        r.ResponsesClient("m", api_key="k", **{option: value})


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{KEY}@h/v1", f"http://{KEY}@h/v1", "h/v1", "ftp://h/v1", "http://",
        "http://h/v1?x=1", "http://h/v1#", "http://h/v1\n", "http://[::1/v1",
    ],
)  # fmt: skip
def test_a_base_url_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name, make in (
        ("base_url", lambda: r.ResponsesClient("m", api_key="k", base_url=url)),
        ("OPENAI_BASE_URL", lambda: r.ResponsesClient("m", api_key="k")),
    ):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        with pytest.raises(r.ConfigurationError, match=f"^{name} must") as caught:
            make()
        assert KEY not in f"{caught.value} {caught.value!r}"


def test_a_base_url_may_have_any_path(scripted: Scripted, client: Make) -> None:
    server = scripted([sse(EVENTS), sse(EVENTS)])
    client(base_url=server.url("/gateway/a%20b/v1/")).stream("x")
    client(base_url=server.url("/v1", host="localhost")).stream("x")
    assert [request.path for request in server.requests] == [
        "/gateway/a%20b/v1/responses", "/v1/responses",
    ]  # fmt: skip


def test_a_client_tells_its_state_and_no_key(scripted: Scripted, client: Make) -> None:
    made = client(base_url="http://h/v1")
    assert repr(made) == "<ResponsesClient OPEN http://h/v1 model='m'>"
    made.close()
    assert repr(made) == "<ResponsesClient CLOSED http://h/v1 model='m'>"


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["stream", "create"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, r.BadRequestError), (401, r.AuthenticationError), (402, r.APIStatusError),
        (403, r.PermissionDeniedError), (404, r.NotFoundError), (413, r.APIStatusError),
        (422, r.UnprocessableEntityError),
    ],
)  # fmt: skip
def test_a_refusal_is_final_and_shows_the_servers_own_message(
    scripted: Scripted, client: Make, method: str, status: int, kind: type[r.APIStatusError]
) -> None:
    error = {"error": {"message": "no such model", "code": "model_not_found", "param": None}}
    server = scripted(json_answer(status, error, {"x-request-id": "req_9"}))
    with pytest.raises(kind, match="no such model") as caught:
        getattr(client(server), method)("x")
    raised = caught.value
    assert type(raised) is kind
    assert raised.status_code == status
    assert (raised.code, raised.message) == ("model_not_found", "no such model")
    assert raised.body == error
    assert raised.request_id == "req_9"
    assert "req_9" in str(raised)
    assert raised.headers["x-request-id"] == "req_9"
    assert raised.retry_after is None
    assert not raised.retryable
    assert len(server.requests) == 1
    copy = pickle.loads(pickle.dumps(raised))
    assert type(copy) is kind
    assert str(copy) == str(raised)
    assert vars(copy) == vars(raised)


@pytest.mark.parametrize("method", ["stream", "create"])
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_what_passes_is_tried_again(
    scripted: Scripted, client: Make, method: str, status: int
) -> None:
    good = sse(EVENTS) if method == "stream" else json_answer(200, RESPONSE)
    server = scripted([answer(status), answer(status), good])
    getattr(client(server), method)("x")
    assert len(server.requests) == 3


def test_the_last_of_the_errors_is_raised_with_all_it_tells(
    scripted: Scripted, client: Make
) -> None:
    error = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    headers = {"retry-after-ms": "1", "x-ratelimit-remaining-requests": "0"}
    server = scripted(json_answer(429, error, headers), repeat_last=True)
    with pytest.raises(r.RateLimitError, match="429 Too Many Requests: slow down") as caught:
        client(server, retry=r.RetryPolicy(max_attempts=2)).create("x")
    assert caught.value.retryable
    assert caught.value.retry_after == 0.001
    assert caught.value.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(server.requests) == 3


def test_a_server_that_is_not_there(scripted: Scripted, client: Make) -> None:
    server = scripted()
    server.stop()
    with pytest.raises(r.ConnectError, match=f"cannot connect to {server.url()}"):
        client(server).stream("x")


def test_no_answer_in_time(scripted: Scripted, client: Make) -> None:
    server = scripted(silence(headers=False), repeat_last=True)
    made = client(server, retry=r.RetryPolicy(max_attempts=0))
    with pytest.raises(r.RequestTimeoutError):
        made.stream("x", request_timeout=0.05)
    with pytest.raises(r.RequestTimeoutError):
        made.create("x", request_timeout=0.05)
    made = client(server, retry=r.RetryPolicy(initial_interval=0.001, max_attempts=1), timeout=0.05)
    with pytest.raises(r.RequestTimeoutError):
        made.retrieve("resp_1")
    assert len(server.requests) == 4
    server.wait_no_connections()


def test_the_time_for_the_headers_does_not_bound_the_stream(
    scripted: Scripted, client: Make
) -> None:
    def slow(connection: Connection) -> None:
        connection.headers(200, {"Content-Type": "text/event-stream", "Connection": "close"})
        for event in EVENTS:
            connection.pause(0.02)
            connection.send(rec.to_sse([event]))

    server = scripted(slow)
    assert client(server).stream("x", request_timeout=0.05).until_done().output_text == "Hello"


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (
            answer(200, b"<html>Login", content_type="text/html"),
            "not JSON but text/html: '<html>Lo",
        ),
        (answer(200, b"", content_type="application/json"), "not a response but NoneType"),
        (answer(200, b"[1]", content_type="application/json"), "not a response but list"),
        (answer(200, b"{", content_type="application/json"), "not JSON but application/json"),
        (no_content(), "not a response but NoneType"),
    ],
)
def test_an_answer_that_is_no_response(
    scripted: Scripted, client: Make, handler: Any, said: str
) -> None:
    with pytest.raises(r.ProtocolError, match=said):
        client(scripted(handler)).create("x")


def test_a_create_whose_answer_is_cut_is_not_made_again(scripted: Scripted, client: Make) -> None:
    server = scripted(sse(json.dumps(RESPONSE).encode(), framing="length", cut_at=50))
    with pytest.raises(r.ConnectionLostError):
        client(server).create("x")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["failed", "incomplete", "cancelled", "queued"])
def test_a_response_is_returned_whatever_its_status(
    scripted: Scripted, client: Make, status: str
) -> None:
    error = {"code": "server_error", "message": "broken"}
    obj = rec.response_object(status=status, error=error, incomplete_details={"reason": "x"})
    got = client(scripted(json_answer(200, obj))).create("x")
    assert got.status == status
    assert got.error == error
    assert got.incomplete_details == {"reason": "x"}
    assert got.data == obj


def test_redirects_keep_the_key_at_home(scripted: Scripted, client: Make) -> None:
    home, other = scripted(), scripted(sse(EVENTS))
    home.then(redirect(home.url("/v2/responses"), 307), redirect(other.url("/v1/x"), 308))
    stream = client(home, headers={"X-Tenant": "t"}).stream("x", extra_headers={"X-Own": "own"})
    assert stream.until_done().output_text == "Hello"
    assert home.requests[1].headers["authorization"] == f"Bearer {KEY}"
    seen = other.requests[0]
    assert KEY.encode() not in seen.raw
    assert not {"authorization", "x-tenant", "x-own"} & {name.lower() for name in seen.headers}
    assert seen.json() == {"model": "m", "input": "x", "stream": True}


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_post_is_not_turned_into_a_get(scripted: Scripted, client: Make, status: int) -> None:
    server = scripted(redirect("/v2/responses", status))
    with pytest.raises(r.APIStatusError, match="not followed"):
        client(server).stream("x")


# -- secrets -----------------------------------------------------------------------------------


def test_a_server_that_repeats_the_key_gets_it_nowhere(
    scripted: Scripted, client: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = f"the key Bearer {KEY} is wrong"
    failed = rec.failed_response(KEY, said)
    flat = [*rec.cut_response(), rec.error_event(KEY, said)]
    server = scripted([
        json_answer(401, {"error": {"message": said, "code": KEY, KEY: KEY}}, {"X-Echo": KEY}),
        answer(200, said.encode(), content_type=f"text/plain; {KEY}"),
        sse(failed), sse(flat), sse([f"data: {KEY}\n\n".encode(), *flat]),
        answer(503, said.encode()), json_answer(403, {"detail": said}),
    ])  # fmt: skip
    made = client(server)
    for number in range(6):
        with pytest.raises(r.ReasoningError) as caught:
            made.stream("x").until_done()
        error = caught.value
        told = "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error.args)
        told += repr(pickle.dumps(error)) + repr(made)
        assert KEY not in told, number
        assert "***" in str(error)
    assert KEY not in caplog.text


# -- the other operations ----------------------------------------------------------------------


def test_a_response_is_retrieved_cancelled_and_deleted(scripted: Scripted, client: Make) -> None:
    server = scripted(
        [
            json_answer(200, RESPONSE),
            json_answer(200, {**RESPONSE, "status": "cancelled"}),
            json_answer(200, {"id": "resp_1", "deleted": True}),
            no_content(),
        ]
    )
    made = client(server)
    assert made.retrieve("resp_1").output_text == "Hello"
    assert made.cancel("resp_1").status == "cancelled"
    made.delete("resp_1")
    made.delete("resp_1")
    assert [(request.method, request.target) for request in server.requests] == [
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("DELETE", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
    ]
    assert server.accepted == 1


def test_ids_are_percent_encoded(scripted: Scripted, client: Make) -> None:
    server = scripted(json_answer(200, RESPONSE), repeat_last=True)
    made = client(server)
    for response_id in ("a/../b?c#d", "ä %2F", "..x"):
        made.retrieve(response_id)
    assert [request.target for request in server.requests] == [
        "/v1/responses/a%2F..%2Fb%3Fc%23d",
        "/v1/responses/%C3%A4%20%252F",
        "/v1/responses/..x",
    ]


def test_an_id_that_is_not_there(scripted: Scripted, client: Make) -> None:
    server = scripted(json_answer(404, {"error": {"message": "no resp_9"}}), repeat_last=True)
    made = client(server)
    calls = (
        made.retrieve,
        made.cancel,
        made.delete,
        made.resume,
        lambda i: list(made.input_items(i)),
    )
    for call in calls:
        with pytest.raises(r.NotFoundError, match="no resp_9"):
            call("resp_9")
    assert len(server.requests) == len(calls)


def page(ids: list[str], **fields: Any) -> Any:
    return json_answer(200, {"object": "list", "data": [{"id": i} for i in ids], **fields})


def test_items_come_from_all_pages(scripted: Scripted, client: Make) -> None:
    server = scripted(
        [
            page(["a", "b"], has_more=True, last_id="b"),
            page([], has_more=True, last_id="b2"),
            page(["c"], has_more=True),
            page(["d"], has_more=False, last_id="d"),
        ]
    )
    items = client(server).input_items("resp_1")
    assert server.requests == []
    assert [item["id"] for item in items] == ["a", "b", "c", "d"]
    assert [request.query for request in server.requests] == [
        {"limit": ["100"]},
        {"limit": ["100"], "after": ["b"]},
        {"limit": ["100"], "after": ["b2"]},
        {"limit": ["100"], "after": ["c"]},
    ]
    assert server.requests[0].path == "/v1/responses/resp_1/input_items"


@pytest.mark.parametrize(
    "pages",
    [
        [json_answer(200, [1])],
        [json_answer(200, {"data": None})],
        [json_answer(200, {"data": ["text"], "has_more": True})],
        [json_answer(200, {"data": [{"type": "message"}], "has_more": True})],
        [page([], has_more=True)],
        [page(["a"], has_more=True), page(["a"], has_more=True)],
        [page(["a"], has_more=True), page(["b"], has_more=True), page(["a"], has_more=True)],
    ],
)
def test_pages_that_lead_nowhere_end_in_an_error(
    scripted: Scripted, client: Make, pages: list[Any]
) -> None:
    with pytest.raises(r.ProtocolError):
        list(client(scripted(pages)).input_items("resp_1"))


# -- fixtures ----------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "stream.sse"
    path.write_text(rec.to_fixture(EVENTS))
    return path


def test_a_fixture_is_replayed_without_key_and_server(recording: Path) -> None:
    with r.ResponsesClient(fixture=recording) as made:
        for _ in range(2):
            stream = made.stream("x")
            assert [event.type for event in stream] == [event["type"] for event in EVENTS]
            assert stream.until_done().output_text == "Hello"
            assert stream.headers == {}
            assert stream.request_id is None
        assert made.create("x").output_text == "Hello"
    with pytest.raises(r.StateError):
        made.stream("x")


def test_the_environment_names_a_fixture(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASONING_SDK_SSE_FIXTURE", str(recording))
    with r.ResponsesClient("m") as made:
        assert "".join(made.stream("x").text_deltas()) == "Hello"
        assert str(recording) in repr(made)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_line_of_a_fixture_is_an_event(tmp_path: Path, newline: str) -> None:
    path = tmp_path / "stream.sse"
    text = ": a comment\n\n" + rec.to_fixture(EVENTS[:2]) + "\n\n" + rec.to_fixture(EVENTS[2:])
    path.write_bytes(text.replace("\n", newline).encode())
    with r.ResponsesClient(fixture=str(path)) as made:
        assert made.stream("x").until_done().output_text == "Hello"


def test_bad_lines_of_a_fixture_are_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "stream.sse"
    path.write_text("nonsense\ndata: {not json\n" + rec.to_fixture(EVENTS))
    with r.ResponsesClient(fixture=path) as made:
        assert made.stream("x").until_done().output_text == "Hello"
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    assert "not json" not in caplog.text


def test_a_fixture_that_is_cut_is_a_stream_that_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "stream.sse"
    path.write_text(rec.to_fixture(EVENTS[:-1]))
    stream = r.ResponsesClient(fixture=path).stream("x")
    with pytest.raises(r.StreamInterruptedError) as caught:
        stream.until_done()
    assert caught.value.text == "Hello"


@pytest.mark.parametrize("name", ["missing.sse", "."])
def test_a_fixture_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    made = r.ResponsesClient(fixture=tmp_path / name)
    with pytest.raises(r.ConfigurationError, match="cannot read fixture"):
        made.stream("x")


# -- to close ----------------------------------------------------------------------------------


def test_a_closed_client_refuses_everything(client: Make) -> None:
    made = client()
    made.close()
    made.close()
    for call in (
        lambda: made.stream("x"),
        lambda: made.create("x"),
        lambda: made.retrieve("r"),
        lambda: made.cancel("r"),
        lambda: made.delete("r"),
        lambda: made.resume("r"),
        lambda: next(made.input_items("r")),
    ):
        with pytest.raises(r.StateError, match="closed"):
            call()


@pytest.mark.parametrize("where", ["headers", "retry"])
def test_a_close_ends_a_call_that_waits(scripted: Scripted, client: Make, where: str) -> None:
    server = scripted(silence(headers=False) if where == "headers" else answer(503))
    made = client(server, retry=r.RetryPolicy(initial_interval=60.0))
    raised: list[BaseException] = []

    def call() -> None:
        try:
            made.stream("x")
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    server.wait_for_requests(1)
    made.close()
    thread.join(1.0)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [r.StateError]
    server.wait_no_connections()


def test_threads_share_a_client(scripted: Scripted, client: Make) -> None:
    server = scripted(sse(EVENTS, one_chunk_per_event=True), repeat_last=True)
    made, texts = client(server), []

    def call() -> None:
        for _ in range(10):
            texts.append(made.stream("x").until_done().output_text)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert texts == ["Hello"] * 80
    assert server.accepted < 80


# -- arguments of the wrong kind, variables that cannot work -----------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_key": KEY.encode()}, "api_key must be a str or a callable .*, got a bytes"),
        ({"api_key": b""}, "api_key must be a str"),
        ({"api_key": 123}, "api_key must be a str or a callable that gives one, got an int"),
        ({"headers": 5}, "headers must be a mapping, got an int"),
        ({"headers": [("Authorization", KEY)]}, "headers must be a mapping, got a list"),
        ({"headers": ()}, "headers must be a mapping"),
        ({"retry": 5}, "retry must be a RetryPolicy, got an int"),
        ({"retry": 0}, "retry must be a RetryPolicy"),
        ({"session": "x"}, "session must be a requests.Session, got a str"),
        ({"fixture": 5}, "fixture must be a path, got an int"),
        ({"fixture": b"x.sse"}, "fixture must be a path, got a bytes"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(r.ConfigurationError, match=said) as caught:
        r.ResponsesClient("m", **{"api_key": "k", **options})
    assert KEY not in f"{caught.value!r}"
    assert "123" not in str(caught.value)


@pytest.mark.parametrize("key", [KEY.encode(), 123, [KEY]])
def test_a_callable_that_gives_no_key_but_something_else(client: Make, key: Any) -> None:
    made = client(api_key=lambda: key)
    said = f"what api_key gives must be a str, got an? {type(key).__name__}"
    with pytest.raises(r.ConfigurationError, match=said) as caught:
        made.create("x")
    assert KEY not in f"{caught.value!r}"


def test_a_callable_that_gives_none_sends_no_key(scripted: Scripted, client: Make) -> None:
    server = scripted([sse(EVENTS)])
    client(server, api_key=lambda: None).stream("x")
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("response_id", ["a\ud800", 10**5000, b"x"], ids=["half", "int", "bytes"])
def test_an_id_that_no_url_can_have_is_refused(client: Make, response_id: Any) -> None:
    made = client()
    for method in (made.retrieve, made.cancel, made.delete, made.input_items, made.resume):
        with pytest.raises(r.ConfigurationError, match="cannot be the id of a response"):
            method(response_id)


@pytest.mark.parametrize("number", [2**63, 10**5000, -(10**5000), b"1", False], ids=range(5))
def test_a_sequence_number_that_no_service_counts_to_is_refused(client: Make, number: Any) -> None:
    with pytest.raises(r.ConfigurationError, match=r"starting_after must be an int >= 0 and < 2"):
        client().resume("resp_1", starting_after=number)


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
@pytest.mark.parametrize("url", ["ftp://h", "h", "http://u:p@h", "http://h?x=1", "http://h/#x"])
def test_a_variable_with_a_bad_url_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(r.ConfigurationError, match=f"^{name} must"):
        r.ResponsesClient("m", api_key="k")
    r.ResponsesClient("m", api_key="k", base_url="http://h/v1").close()
