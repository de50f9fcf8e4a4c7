"""The client of the Reasoning Layer: configuration, headers, requests, retries, errors."""

import logging
import pickle
import traceback
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import requests

import reasoning_sdk as r
from reasoning_sdk.reasoning_layer import ReasoningLayerClient
from reasoning_sdk.reasoning_layer.service import Service
from tests.reasoning_layer.conftest import TENANT, TOKEN
from tests.support.clock import FakeClock
from tests.support.scripted import (
    ScriptedServer,
    answer,
    json_answer,
    no_content,
    redirect,
    reset,
    silence,
)
from tests.support.threads import InThread

pytestmark = pytest.mark.http

Scripted = Callable[..., ScriptedServer]
Make = Callable[..., ReasoningLayerClient]
OK = json_answer(200, {"ok": True})
NOW = {"Retry-After": "0"}


# -- configuration -----------------------------------------------------------------------------


def test_the_environment_says_where_and_who_and_an_argument_wins(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted([OK, OK])
    monkeypatch.setenv("REASONING_LAYER_URL", server.url("/of/environment/"))
    monkeypatch.setenv("REASONING_LAYER_TENANT_ID", "tenant-of-environment")
    monkeypatch.setenv("REASONING_LAYER_TOKEN", "token-of-environment")
    with ReasoningLayerClient() as client:
        assert client.base_url == server.url("/of/environment")
        assert client.tenant_id == "tenant-of-environment"
        client.request("GET", "/api/v1/x")
    with ReasoningLayerClient(server.url("/given"), TENANT, token="given") as client:
        client.request("GET", "/api/v1/x")
    assert [
        (q.path, q.headers["x-tenant-id"], q.headers["authorization"]) for q in server.requests
    ] == [
        ("/of/environment/api/v1/x", "tenant-of-environment", "Bearer token-of-environment"),
        ("/given/api/v1/x", TENANT, "Bearer given"),
    ]


def test_what_is_missing_is_said_and_how_to_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASONING_LAYER_URL", "")
    with pytest.raises(
        r.ConfigurationError, match=r"^no base_url: give it, or set REASONING_LAYER_URL$"
    ):
        ReasoningLayerClient(tenant_id=TENANT)
    with pytest.raises(
        r.ConfigurationError, match=r"^no tenant_id: give it, or set REASONING_LAYER_TENANT_ID$"
    ):
        ReasoningLayerClient("http://h")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("base_url", "", "base_url must be an http or https URL"),
        ("base_url", "ws://h", "base_url must be an http or https URL"),
        ("base_url", f"http://user:{TOKEN}@h", "base_url must"),
        ("base_url", "http://h?x=1", "base_url must have no query"),
        ("base_url", 5, "base_url must be an http or https URL"),
        ("tenant_id", "", "tenant_id must not be empty"),
        ("tenant_id", "a\nb", "tenant_id has characters that no header can have"),
        ("tenant_id", 5, "tenant_id must be a str or a UUID, got an int"),
        ("user_id", "", "user_id must not be empty"),
        ("user_id", "東", "user_id has characters that no header can have"),
        ("namespace_id", b"x", "namespace_id must be a str or a UUID, got a bytes"),
        ("token", f"{TOKEN}\n", "token has characters that no header can have"),
        ("token", b"x", "token must be a str or a callable that gives one, got a bytes"),
        ("timeout", 0, "timeout must be > 0 seconds or None, got 0"),
        ("timeout", "5", "timeout must be > 0 seconds or None"),
        ("max_retries", -1, "max_retries must be a whole number >= 0, got -1"),
        ("max_retries", None, "max_retries must be a whole number >= 0, got None"),
        ("max_retries", True, "max_retries must be a whole number >= 0, got True"),
        ("session", object(), "session must be a requests.Session, got an object"),
    ],
)
def test_an_argument_that_cannot_work_is_refused(option: str, value: Any, said: str) -> None:
    options = {"base_url": "http://h", "tenant_id": TENANT, option: value}
    with pytest.raises(r.ConfigurationError, match=f"^{said}") as caught:
        ReasoningLayerClient(**options)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REASONING_LAYER_URL", "h/v1"),
        ("REASONING_LAYER_TENANT_ID", "a\nb"),
        ("REASONING_LAYER_TOKEN", f"{TOKEN}\n"),
    ],
)
def test_a_variable_that_cannot_work_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("REASONING_LAYER_URL", "http://h")
    monkeypatch.setenv("REASONING_LAYER_TENANT_ID", TENANT)
    monkeypatch.setenv(variable, value)
    with pytest.raises(r.ConfigurationError, match=f"^{variable} ") as caught:
        ReasoningLayerClient()
    assert TOKEN not in str(caught.value)


def test_a_client_tells_its_state_and_no_token(client: Make) -> None:
    made = client(base_url="http://h/prefix/")
    told = f"http://h/prefix tenant_id='{TENANT}'>"
    assert repr(made) == f"<ReasoningLayerClient OPEN {told}"
    assert repr(made.cognitive) == "<Cognitive http://h/prefix>"
    assert repr(made.oversight) == "<Oversight http://h/prefix>"
    with made as entered:
        assert entered is made
    assert repr(made) == f"<ReasoningLayerClient CLOSED {told}"
    assert TOKEN not in repr(vars(made)) + repr(vars(made._service))


# -- what is sent ------------------------------------------------------------------------------


def test_a_request_sends_what_was_asked_for_and_nothing_else(
    scripted: Scripted, client: Make
) -> None:
    server = scripted(OK)
    made = client(
        base_url=server.url("/prefix/"), user_id=UUID(TENANT), namespace_id="blue", tenant_id="t"
    )
    body = {"text": "ü", "none": None, "id": UUID(TENANT)}
    assert made.request("post", "/api/v1/cognitive/agents", json=body) == {"ok": True}
    (request,) = server.requests
    assert request.raw.startswith(b"POST /prefix/api/v1/cognitive/agents HTTP/1.1\r\n")
    assert request.json() == {"text": "ü", "none": None, "id": TENANT}
    assert {name.lower(): value for name, value in request.header_lines} == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": f"reasoning-sdk/{r.__version__}",
        "accept": "application/json",
        "accept-encoding": request.headers["accept-encoding"],
        "connection": "keep-alive",
        "content-type": "application/json",
        "content-length": str(len(request.body)),
        "authorization": f"Bearer {TOKEN}",
        "x-tenant-id": "t",
        "x-user-id": TENANT,
        "x-namespace-id": "blue",
        "x-sdk-language": "python",
        "x-sdk-version": r.__version__,
    }


def test_a_request_without_json_has_no_body(scripted: Scripted, client: Make) -> None:
    server = scripted([no_content(), OK])
    made = client(server)
    assert made.request("DELETE", "/api/v1/cognitive/agents/a%2Fb") is None
    assert made.request("GET", "/api/v1") == {"ok": True}
    assert [q.target for q in server.requests] == ["/api/v1/cognitive/agents/a%2Fb", "/api/v1"]
    for request in server.requests:
        assert request.body == b""
        assert "content-type" not in request.headers


def test_a_query_is_written_as_json_writes_its_values(scripted: Scripted, client: Make) -> None:
    server = scripted(OK)
    params = {
        "text": "a b&ü", "yes": True, "n": 5, "x": 0.5, "none": None, "id": UUID(TENANT),
        "many": ["a", 1, False], "empty": [],
    }  # fmt: skip
    client(server).request("GET", "/api/v1/x", params=params)
    assert server.requests[0].query == {
        "text": ["a b&ü"], "yes": ["true"], "n": ["5"], "x": ["0.5"], "id": [TENANT],
        "many": ["a", "1", "false"],
    }  # fmt: skip


def test_a_token_is_asked_for_on_each_attempt(scripted: Scripted, client: Make) -> None:
    tokens = iter(["first", "second"])
    server = scripted([answer(429, headers=NOW), OK])
    client(server, token=lambda: next(tokens)).request("GET", "/api/v1/x")
    assert [q.headers["authorization"] for q in server.requests] == [
        "Bearer first", "Bearer second",
    ]  # fmt: skip


@pytest.mark.parametrize("token", [5, b"x", f"{TOKEN}\n"])
def test_what_a_callable_gives_is_checked(client: Make, token: Any) -> None:
    made = client(token=lambda: token)
    for ask in (
        lambda: made.request("GET", "/api/v1/x"),
        lambda: made._service.handshake_headers("ws://h/"),
    ):
        with pytest.raises(r.ConfigurationError) as caught:
            ask()
        assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_without_a_token_the_cookies_of_the_session_authenticate(
    scripted: Scripted, client: Make
) -> None:
    server = scripted([answer(204, content_type=None, headers={"Set-Cookie": "sid=abc"}), OK])
    with requests.Session() as session:
        made = client(server, token="", session=session)
        made.request("POST", "/api/v1/login", json={})
        made.request("GET", "/api/v1/x")
    assert "authorization" not in server.requests[1].headers
    assert server.requests[1].headers["cookie"] == "sid=abc"


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "x", "api/v1/x", "/api/v2/x", "/api/v1x", "/ws/cognitive/a", "//evil/api/v1/x",
        "http://evil/api/v1/x", "/api/v1/x?y=1", "/api/v1/x#y", "/api/v1/x y", "/api/v1/x\n",
        "/api/v1/\x7f", "/api/v1\\x", "/api/v1/\ud800", "@evil/api/v1/x", None, 5, b"/api/v1/x",
        "/api/v1/..", "/api/v1/../x", "/api/v1/./x", "/api/v1/%2e%2E/x", "/api/v1/.%2e/x",
        "/api/v1/%2e", "/api/v1/x%2f..%2fy", "/api/v1/x%5c..%5cy",
        "/api/v1/..;/x", "/api/v1/..;a=b;c", "/api/v1/.;/x", "/api/v1/%2e.%3bx/y",
    ],
)  # fmt: skip
def test_a_path_that_could_lead_elsewhere_is_refused(client: Make, path: Any) -> None:
    made = client()
    with pytest.raises(r.ConfigurationError, match=r"^path must"):
        made.request("GET", path)
    with pytest.raises(r.ConfigurationError, match=r"^path must"):
        made.stream(path)


def test_a_path_that_is_odd_stays_where_it_is(scripted: Scripted, client: Make) -> None:
    server = scripted(OK, repeat_last=True)
    made = client(server)
    for path in (
        "/api/v1/",
        "/api/v1/...",
        "/api/v1/...;/a;..",
        "/api/v1//evil",
        "/api/v1/a@b:80",
        "/api/v1/%252e%252e",
    ):
        made.request("GET", path)
        assert server.requests[-1].target == path
    made.request("GET", "/api/v1/ü")
    assert server.requests[-1].target == "/api/v1/%C3%BC"


@pytest.mark.parametrize("method", ["", "GET /x", "GET\r\nX: y", None, 5])
def test_what_is_no_method_is_refused(client: Make, method: Any) -> None:
    with pytest.raises(r.ConfigurationError, match="method must be the name of an HTTP method"):
        client().request(method, "/api/v1/x")
    with pytest.raises(r.ConfigurationError, match="method must be the name of an HTTP method"):
        client().stream("/api/v1/x", method=method)


def test_what_cannot_be_json_is_refused(client: Make) -> None:
    with pytest.raises(r.InvalidEventError, match=r"\$.x cannot be JSON"):
        client().request("POST", "/api/v1/x", json={"x": b""})
    with pytest.raises(r.InvalidEventError):
        client().request("GET", "/api/v1/x", params={"x": object()})
    with pytest.raises(r.ConfigurationError, match="params must be a mapping, got a str"):
        client().request("GET", "/api/v1/x", params="a=b")


# -- retries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_429_is_tried_again(scripted: Scripted, client: Make, method: str) -> None:
    server = scripted([answer(429, headers=NOW)] * 3 + [OK])
    assert client(server).request(method, "/api/v1/x", json={}) == {"ok": True}
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 500, 501, 502, 503, 504])
def test_no_other_status_is_tried_again(scripted: Scripted, client: Make, status: int) -> None:
    server = scripted(answer(status, headers=NOW))
    with pytest.raises(r.APIStatusError):
        client(server).request("GET", "/api/v1/x")
    assert len(server.requests) == 1


def test_503_is_tried_again_on_demand(scripted: Scripted, client: Make) -> None:
    server = scripted([answer(503, headers=NOW), OK, answer(502, headers=NOW)])
    made = client(server, retry_on_503=True)
    made.request("GET", "/api/v1/x")
    with pytest.raises(r.ServerError):
        made.request("GET", "/api/v1/x")
    assert len(server.requests) == 3


@pytest.mark.parametrize("retries", [0, 2])
def test_no_more_retries_than_were_asked_for(
    scripted: Scripted, client: Make, retries: int
) -> None:
    server = scripted(answer(429, headers=NOW), repeat_last=True)
    with pytest.raises(r.RateLimitError):
        client(server, max_retries=retries).request("GET", "/api/v1/x")
    assert len(server.requests) == retries + 1


def test_the_delays_double_from_a_second_and_retry_after_wins(
    scripted: Scripted, client: Make, fake_clock: FakeClock
) -> None:
    server = scripted(
        [reset(), answer(429), reset(), answer(429, headers={"Retry-After": "7"}), OK]
    )
    retry = client(max_retries=9)._service._transport._retry
    service = Service(
        base_url=server.url(), token=lambda: None, headers={}, timeout=30.0, retry=retry,
        retry_on_503=False, session=None, clock=fake_clock,
    )  # fmt: skip
    assert service.request("GET", "/api/v1/x") == {"ok": True}
    service.close()
    assert [round(wait, 9) for wait in fake_clock.waits[3:]] == [7.0]
    for expected, wait in zip([1.0, 2.0, 4.0], fake_clock.waits, strict=False):
        assert expected / 2 <= wait <= expected * 3 / 2
    assert retry.max_interval == 30.0


def test_no_answer_in_time_is_a_timeout(scripted: Scripted, client: Make) -> None:
    server = scripted(silence(headers=False))
    with pytest.raises(r.RequestTimeoutError):
        client(server, timeout=0.05, max_retries=0).request("GET", "/api/v1/x")


# -- errors ------------------------------------------------------------------------------------


def test_a_conflict_tells_all_that_the_service_tells(scripted: Scripted, client: Make) -> None:
    body = {
        "error": "CONSTRAINT_VIOLATION",
        "message": "age must not be negative",
        "details": {"term_id": TENANT, "feature": "age", "constraint": ">= 0"},
    }
    server = scripted(json_answer(409, body))
    with pytest.raises(r.ConflictError, match="409 Conflict: age must not be negative") as caught:
        client(server).request("POST", "/api/v1/terms", json={})
    error = caught.value
    assert (error.code, error.message) == ("CONSTRAINT_VIOLATION", "age must not be negative")
    assert error.body["details"] == {"term_id": TENANT, "feature": "age", "constraint": ">= 0"}
    assert not error.retryable
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy) == vars(error)


def test_a_rate_limit_tells_all_that_the_service_tells(scripted: Scripted, client: Make) -> None:
    headers = {"Retry-After": "0.25", "X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "0"}
    server = scripted(json_answer(429, {"error": "RATE_LIMITED", "message": "slow down"}, headers))
    with pytest.raises(r.RateLimitError) as caught:
        client(server, max_retries=0).request("GET", "/api/v1/x")
    error = caught.value
    assert (error.code, error.message, error.retry_after) == ("RATE_LIMITED", "slow down", 0.25)
    assert error.headers["x-ratelimit-limit"] == "100"
    assert error.headers["x-ratelimit-remaining"] == "0"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, r.BadRequestError), (401, r.AuthenticationError), (403, r.PermissionDeniedError),
        (404, r.NotFoundError), (422, r.UnprocessableEntityError), (500, r.ServerError),
    ],
)  # fmt: skip
def test_a_refusal_has_its_kind(
    scripted: Scripted, client: Make, status: int, kind: type[r.APIStatusError]
) -> None:
    server = scripted(json_answer(status, {"error": "CODE", "message": "no", "details": None}))
    with pytest.raises(kind) as caught:
        client(server).request("GET", "/api/v1/x")
    assert (caught.value.code, caught.value.message) == ("CODE", "no")


def test_secrets_that_the_service_repeats_are_not_told(
    scripted: Scripted, client: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"error": "E", "message": f"bad {TOKEN}", "details": {"sent": "sid=cookie-of-the-user"}}
    server = scripted(json_answer(401, body))
    with requests.Session() as session:
        session.cookies.set("sid", "cookie-of-the-user")
        with pytest.raises(r.AuthenticationError) as caught:
            client(server, session=session).request("GET", "/api/v1/x")
    told = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    told += caplog.text + str(pickle.dumps(caught.value))
    assert TOKEN not in told
    assert "cookie-of-the-user" not in told


def test_no_credential_follows_a_redirect_to_another_host(scripted: Scripted, client: Make) -> None:
    other = scripted(OK)
    server = scripted(redirect(other.url("/api/v1/x", host="localhost"), 307))
    client(server).request("GET", "/api/v1/x")
    assert not {"authorization", "x-tenant-id", "x-user-id"} & set(other.requests[0].headers)


def test_an_answer_that_is_not_json_is_an_error(scripted: Scripted, client: Make) -> None:
    server = scripted(answer(200, b"<p>"))
    with pytest.raises(r.ProtocolError, match="answer is not JSON"):
        client(server).request("GET", "/api/v1/x")


# -- the end -----------------------------------------------------------------------------------


def test_a_closed_client_asks_nothing(client: Make) -> None:
    made = client()
    made.close()
    made.close()
    for ask in (
        lambda: made.request("GET", "/api/v1/x"),
        lambda: made.stream("/api/v1/x"),
        lambda: made.cognitive.agent_events(TENANT),
        lambda: made.cognitive.cycle(TENANT),
        lambda: made.oversight.session(TENANT),
    ):
        with pytest.raises(r.StateError, match="the client is closed"):
            ask()


def test_a_close_ends_a_request(scripted: Scripted, client: Make) -> None:
    server = scripted(silence(headers=False))
    made = client(server)
    asking = InThread(lambda: made.request("GET", "/api/v1/x"))
    server.wait_for_requests(1)
    made.close()
    assert isinstance(asking.raises(), r.StateError)
