"""A model call: asked until it is answered, whole or streamed, and never half of an answer."""

import contextlib
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reasoning_sdk as r
from reasoning_sdk._core.narrator import Narrator
from reasoning_sdk._core.turn import turn_of
from reasoning_sdk._io import model as model_module
from reasoning_sdk._io.http import HTTPTransport
from reasoning_sdk._io.model import APIS, ModelCaller
from tests.support import recordings
from tests.support.model_server import DONE, Call, Cut, Hang, ModelServer, Refuse, Say, Usage
from tests.support.scripted import (
    ScriptedServer,
    answer,
    comments_for_ever,
    hang_up,
    json_answer,
    redirect,
    reset,
    sse,
)
from tests.support.threads import InThread

pytestmark = pytest.mark.http

Models = Callable[..., ModelServer]
Scripted = Callable[..., ScriptedServer]
CHAT, RESPONSES = APIS
both_apis = pytest.mark.parametrize("api", APIS)
QUICK = r.RetryPolicy(
    initial_interval=0.001, max_interval=0.002, randomization_factor=0, max_attempts=2
)
SECRET = "sk-very-secret-0123456789"
FULL = Call(
    ("add", {"a": 1, "b": "zwei"}),
    ("now", "{}", "call_mine"),
    text="Grüße aus 東京",
    reasoning="Two calls.",
    usage=Usage(5, 3, cached=2, reasoning=1),
)


class Caller:
    """Calls a model, and closes the way there in the end."""

    def __init__(self) -> None:
        self._transports: list[HTTPTransport] = []

    def __call__(
        self,
        url: str,
        api: str = CHAT,
        *,
        stream: bool = True,
        timeout: float | None = 5.0,
        retry: r.RetryPolicy = QUICK,
        cancellation: r.Cancellation | None = None,
        listener: Any = None,
        key: str = "key-of-step",
        **fields: Any,
    ) -> Any:
        transport = HTTPTransport(authenticate=lambda: {"Authorization": f"Bearer {SECRET}"})
        self._transports.append(transport)
        caller = ModelCaller(transport, url, api, timeout=timeout, retry=retry)
        body: dict[str, Any] = {"model": "m", "stream": stream, **fields}
        if stream and api == CHAT:
            body["stream_options"] = {"include_usage": True}
        return caller.call(
            body,
            step_id="s",
            idempotency_key=key,
            cancellation=cancellation or r.Cancellation(),
            listener=listener,
        )

    def close(self) -> None:
        for transport in self._transports:
            transport.close()


@pytest.fixture
def call() -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.close()


def bare(body: dict[str, Any]) -> dict[str, Any]:
    """A body without what real servers say and the scripted one does not."""
    for choice in body.get("choices", ()):
        assert choice.pop("logprobs", None) is None
    return body


# -- bodies --------------------------------------------------------------------------------------


@both_apis
def test_a_streamed_body_is_the_one_that_is_not_streamed(model_server, call, api):
    model = model_server([FULL])
    streamed = call(model.url, api)
    model = model_server([FULL])
    assert bare(streamed) == call(model.url, api, stream=False)


@both_apis
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_it_does_not_matter_in_which_pieces_a_stream_comes(model_server, call, api, size):
    whole = call(model_server([FULL], chunk_size=size).url, api)
    assert bare(whole) == call(model_server([FULL]).url, api, stream=False)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": []},
        {"object": "new.thing", "n": 1, "list": [None, {"x": 1.5}]},
        {"error": None, "choices": "none"},
        {"id": "x", "big": 2**70},
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_the_body_is_given_as_it_came_whatever_its_shape(scripted, call, body, stream):
    server = scripted([json_answer(200, body)])
    assert call(server.base_url, stream=stream) == body


@both_apis
def test_what_comes_of_a_stream_is_told(model_server, call, api):
    told: list[tuple[str, Any]] = []
    narrator = Narrator(lambda kind, data: told.append((kind.value, data)))
    call(model_server([Say("Hello, world!")]).url, api, listener=narrator)
    said = [data["delta"] for kind, data in told if kind == "response.output_text.delta"]
    assert "".join(said) == "Hello, world!"
    assert len(said) == 3


@both_apis
def test_the_body_is_sent_as_it_is(model_server, call, api):
    model = model_server([Say("ok")])
    call(model.url, api, odd={"a": [1, None]}, text="東京")
    (request,) = model.requests
    assert request.path == f"/v1{APIS[api]}"
    assert request.json()["odd"] == {"a": [1, None]}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["authorization"] == f"Bearer {SECRET}"


def test_what_cannot_be_json_is_not_sent(model_server, call):
    model = model_server()
    with pytest.raises(r.InvalidEventError, match=r"\$\.odd"):
        call(model.url, odd=object())
    assert model.requests == []


@both_apis
def test_the_end_of_the_body_is_not_waited_for(model_server, call, api):
    """A server may keep the connection open after the last word."""
    end = 99 if api == RESPONSES else 7
    assert call(model_server([Hang(end, Say("Hello"))]).url, api, timeout=1.0)


# -- failures before an answer -------------------------------------------------------------------


@both_apis
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_passes_is_asked_again_with_the_same_key(model_server, call, api, stream, status):
    model = model_server([Refuse(status), Refuse(status), Say("ok")])
    call(model.url, api, stream=stream)
    keys = [request.headers["idempotency-key"] for request in model.requests]
    assert keys == ["key-of-step"] * 3


@pytest.mark.parametrize("handler", [reset(), hang_up()])
def test_a_connection_that_breaks_before_the_answer_is_made_again(scripted, call, handler):
    server = scripted([handler, json_answer(200, {"a": 1})])
    assert call(server.base_url) == {"a": 1}
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys == ["key-of-step"] * 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_any_other_refusal_is_final(model_server, call, status):
    model = model_server([Refuse(status, {"error": {"message": "too long", "code": "length"}})])
    with pytest.raises(r.APIStatusError) as caught:
        call(model.url)
    assert (caught.value.status_code, caught.value.code) == (status, "length")
    assert caught.value.message == "too long"
    assert len(model.requests) == 1


def test_retries_are_used_up(model_server, call):
    model = model_server([Refuse(500)] * 3)
    with pytest.raises(r.ServerError):
        call(model.url)
    assert len(model.requests) == 3


def test_the_server_says_when_to_ask_again(model_server, call):
    model = model_server([Refuse(503, headers={"Retry-After": "0"}), Say("ok")])
    slow = r.RetryPolicy(initial_interval=60, max_attempts=1)
    call(model.url, retry=slow)
    assert len(model.requests) == 2


def test_a_server_that_wants_to_be_asked_much_later_is_asked_when_we_want(model_server, call):
    model = model_server([Refuse(429, headers={"Retry-After": "9000"})] * 2)
    impatient = r.RetryPolicy(max_attempts=1, max_retry_after=0.001, initial_interval=0.001)
    with pytest.raises(r.RateLimitError) as caught:
        call(model.url, retry=impatient)
    assert caught.value.retry_after == 9000


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_does_not_begin_times_out(model_server, call, stream):
    model = model_server([Hang()])
    once = r.RetryPolicy(max_attempts=0)
    with pytest.raises(r.RequestTimeoutError):
        call(model.url, stream=stream, timeout=0.05, retry=once)


def test_the_key_is_not_told_to_another_host(scripted, call):
    other = scripted([json_answer(200, {"a": 1})])
    elsewhere = other.url("/v1/chat/completions", host="other.localhost")
    server = scripted([redirect(elsewhere, 307)])
    with contextlib.suppress(r.ReasoningError):  # whether it is followed or not
        call(server.base_url)
    assert all("authorization" not in request.headers for request in other.requests)


@both_apis
@pytest.mark.parametrize("stream", [True, False])
def test_no_error_has_the_key(scripted, call, api, stream, caplog):
    said = {"error": {"message": f"bad key {SECRET}", "code": SECRET}}
    server = scripted([json_answer(401, said)])
    with caplog.at_level(logging.DEBUG), pytest.raises(r.AuthenticationError) as caught:
        call(server.base_url, api, stream=stream)
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert SECRET not in told + repr(caught.value.body) + str(caught.value.code)


# -- failures within an answer -------------------------------------------------------------------


@both_apis
@pytest.mark.parametrize("after", range(1, 5))
@pytest.mark.parametrize("by_reset", [True, False])
def test_half_a_stream_is_no_answer(model_server, call, api, after, by_reset):
    model = model_server([Cut(after, reset=by_reset)])
    with pytest.raises(r.StreamInterruptedError, match="closed before its end"):
        call(model.url, api)
    assert len(model.requests) == 1, "it is not asked again: the model has begun to answer"


def test_half_a_body_is_no_answer(scripted, call):
    whole = b'{"a": 1}'
    cut = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n" + whole
    from tests.support.scripted import raw

    server = scripted([raw(cut)])
    with pytest.raises(r.TransportError):
        call(server.base_url, stream=False, retry=r.RetryPolicy(max_attempts=0))


def test_the_marker_is_the_end_of_a_chat_that_does_not_say_why_it_stopped(scripted, call):
    chunk = {"choices": [{"index": 0, "delta": {"content": "x"}}]}
    server = scripted([sse([chunk, DONE])])
    (choice,) = call(server.base_url)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("x", "stop")


def test_the_marker_after_no_choice_is_a_cut(scripted, call):
    server = scripted([sse([{"choices": []}, DONE])])
    with pytest.raises(r.StreamInterruptedError):
        call(server.base_url)


def test_the_end_of_a_stream_without_marker_and_reason_is_a_cut(scripted, call):
    server = scripted([sse([{"choices": [{"index": 0, "delta": {"content": "x"}}]}])])
    with pytest.raises(r.StreamInterruptedError):
        call(server.base_url)


def test_the_marker_before_the_last_event_of_a_response_is_a_cut(scripted, call):
    *events, _ = recordings.text_response("Hello")
    server = scripted([sse([*events, DONE])])
    with pytest.raises(r.StreamInterruptedError):
        call(server.base_url, RESPONSES)


@both_apis
def test_an_empty_stream_is_no_answer(scripted, call, api):
    server = scripted([sse(b"")])
    with pytest.raises(r.StreamInterruptedError):
        call(server.base_url, api)


@both_apis
def test_a_stream_that_falls_silent_times_out(model_server, call, api):
    model = model_server([Hang(2)])
    with pytest.raises(r.IdleTimeoutError, match=r"no event for 0\.05 seconds"):
        call(model.url, api, timeout=0.05)


def test_comments_are_no_sign_of_life(scripted, call):
    server = scripted([comments_for_ever(interval=0.01)])
    with pytest.raises(r.IdleTimeoutError):
        call(server.base_url, timeout=0.06)


@both_apis
@pytest.mark.parametrize(
    "error",
    [
        {"message": "overloaded", "code": "busy", "type": "server_error"},
        {"message": "overloaded", "code": "busy"},
    ],
)
def test_an_error_in_a_stream_is_raised(scripted, call, api, error):
    server = scripted([sse([{"type": "error", "error": error}, DONE])])
    with pytest.raises(r.ResponseFailedError, match="overloaded") as caught:
        call(server.base_url, api)
    assert (caught.value.code, caught.value.message) == ("busy", "overloaded")


def test_an_error_in_a_chunk_is_raised_whatever_was_said(scripted, call):
    chunk = {"choices": [{"index": 0, "delta": {"content": "x"}}]}
    server = scripted([sse([chunk, {"error": {"message": "no memory", "code": 500}}, DONE])])
    with pytest.raises(r.ResponseFailedError, match="no memory") as caught:
        call(server.base_url)
    assert caught.value.code == "500"


@both_apis
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("error", [{"message": "no", "code": "c"}, "no"])
def test_success_with_an_error_inside_is_none(scripted, call, api, stream, error):
    server = scripted([json_answer(200, {"error": error})])
    with pytest.raises(r.ResponseFailedError, match="no"):
        call(server.base_url, api, stream=stream)


@pytest.mark.parametrize("stream", [True, False])
def test_a_response_that_says_it_has_failed_has(scripted, call, stream):
    body = {
        "id": "r",
        "object": "response",
        "status": "failed",
        "output": [],
        "error": {"code": "server_error", "message": "try later"},
    }
    handler = sse([{"type": "response.failed", "response": body}]) if stream else None
    server = scripted([handler or json_answer(200, body)])
    with pytest.raises(r.ResponseFailedError, match="try later"):
        call(server.base_url, RESPONSES, stream=stream)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", ["queued", "in_progress"])
@pytest.mark.parametrize("named", [{"object": "response"}, {}])
def test_a_response_that_is_not_finished_is_no_answer(scripted, call, stream, status, named):
    body = {"id": "r", **named, "status": status, "output": []}
    server = scripted([json_answer(200, body)])
    with pytest.raises(r.ResponseFailedError, match=f"^response is not finished: it is {status}$"):
        call(server.base_url, RESPONSES, stream=stream)


def test_what_is_no_answer_does_not_show_the_key(scripted, call):
    server = scripted([json_answer(200, {"detail": f"bad key {SECRET}"})])
    assert call(server.base_url, stream=False) == {"detail": "bad key ***"}


@both_apis
@pytest.mark.parametrize("stream", [True, False])
def test_an_error_inside_a_success_does_not_show_the_key(scripted, call, api, stream):
    error = {"error": {"message": f"bad key {SECRET}", "code": SECRET}}
    server = scripted([sse([error]) if stream else json_answer(200, error)])
    with pytest.raises(r.ResponseFailedError, match="bad key") as caught:
        call(server.base_url, api, stream=stream)
    failure = caught.value
    assert SECRET not in f"{failure} {failure.message} {failure.code}"


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_is_nested_too_deeply_cannot_be_read(scripted, call, stream):
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    chunk = b'data: {"choices":[{"index":0,"delta":' + deep + b"}]}\n\n"
    whole = answer(200, deep, content_type="application/json")
    server = scripted([sse([chunk, DONE]) if stream else whole])
    with pytest.raises(r.ProtocolError, match=r"nested too deeply|is broken|is not JSON"):
        call(server.base_url, stream=stream)


# -- halves of characters ------------------------------------------------------------------------


def test_a_character_in_two_chunks_is_one(scripted, call):
    halves = [rb"\ud83d", rb"\uDE00!", rb"\uD83D"]
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
    told: list[tuple[str, Any]] = []
    narrator = Narrator(lambda kind, data: told.append((kind.value, data)))
    server = scripted([sse([*(chunk % half for half in halves), DONE])])
    body = call(server.base_url, listener=narrator)
    assert body["choices"][0]["message"]["content"] == "😀!\ufffd"
    said = [data["delta"] for kind, data in told if kind == "response.output_text.delta"]
    assert said == ["😀!"]
    narrator.turn(turn_of(body, "s").items)
    assert told[-3][1]["text"] == "😀!\ufffd"


def test_half_a_character_of_a_streamed_response_is_replaced(scripted, call):
    events = recordings.text_response("a\ud83d")
    server = scripted([sse([f"data: {json.dumps(event)}\n\n".encode() for event in events])])
    body = call(server.base_url, RESPONSES)
    assert body["output"][0]["content"][0]["text"] == "a\ufffd"


@both_apis
@pytest.mark.parametrize("half", [rb"\ud83d", rb"\uDFFF", b"\xed\xa0\xbd"])
def test_half_a_character_of_a_whole_answer_is_replaced(scripted, call, api, half):
    text = b'{"id":"%s","choices":[{"%s":"\\ud83d\\ude00"}],"output":[]}' % (half, half)
    server = scripted([answer(200, text, content_type="application/json")])
    body = call(server.base_url, api, stream=False)
    given = set(body["id"]) | set(body["choices"][0]) | set(*body["choices"][0].values())
    assert given == {"\ufffd", "😀"}


@both_apis
def test_a_server_may_answer_whole_what_was_to_be_streamed(scripted, call, api):
    server = scripted([json_answer(200, {"choices": [1], "output": [2]})])
    assert call(server.base_url, api) == {"choices": [1], "output": [2]}


@pytest.mark.parametrize("body", [b"[1]", b'"text"', b"null", b"not JSON", b""])
def test_an_answer_that_is_no_object_cannot_be_read(scripted, call, body):
    server = scripted([answer(200, body, content_type="application/json")])
    with pytest.raises(r.ProtocolError):
        call(server.base_url, stream=False)


def test_a_stream_that_is_none_is_shown(scripted, call):
    server = scripted([answer(200, b"<html>proxy</html>", content_type="text/html")])
    with pytest.raises(r.ProtocolError, match=r"text/html, body .*proxy"):
        call(server.base_url)


def test_events_that_are_not_json_are_skipped_where_the_end_says_all_again(scripted, call, caplog):
    body = {"id": "r", "object": "response", "status": "completed", "output": [], "error": None}
    end = {"type": "response.completed", "response": body}
    server = scripted([sse([b"data: not JSON\n\n", end])])
    with caplog.at_level(logging.WARNING):
        assert call(server.base_url, RESPONSES)["status"] == "completed"
    assert "8 characters, that is not JSON" in caplog.text
    assert "not JSON\n\n" not in caplog.text


def test_a_broken_chunk_is_no_answer(scripted, call):
    """Nothing says again what was in it."""
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    server = scripted([sse([b'data: {"choices": [\n\n', end, DONE])])
    with pytest.raises(r.ProtocolError, match="broken"):
        call(server.base_url)


@both_apis
@pytest.mark.parametrize("stream", [True, False])
def test_there_is_a_limit_to_the_size_of_an_answer(model_server, call, api, stream, monkeypatch):
    monkeypatch.setattr(model_module, "_MAX_SIZE", 2000)
    model = model_server([Say("x" * 3000)])
    with pytest.raises(r.ProtocolError, match="larger than 2000"):
        call(model.url, api, stream=stream)


# -- cancellation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turn",
    [Hang(), Hang(2), Refuse(503, headers={"Retry-After": "60"})],
    ids=["wait", "read", "retry"],
)
def test_a_canceled_call_ends_at_once(model_server, call, turn):
    model, cancellation = model_server([turn]), r.Cancellation()
    thread = InThread(lambda: call(model.url, cancellation=cancellation))
    model.wait_for_requests(1)
    cancellation.cancel()
    assert isinstance(thread.raises(0.5), r.LoopCanceledError)


def test_a_call_that_was_canceled_before_is_not_made(model_server, call):
    model, cancellation = model_server(), r.Cancellation()
    cancellation.cancel()
    with pytest.raises(r.LoopCanceledError):
        call(model.url, cancellation=cancellation)
    assert model.requests == []


def test_one_canceled_call_leaves_the_others_alone(model_server, call):
    model, cancellation = model_server([Hang(), Say("ok")]), r.Cancellation()
    thread = InThread(lambda: call(model.url, cancellation=cancellation))
    model.wait_for_requests(1)
    other = InThread(lambda: call(model.url, stream=False))
    model.wait_for_requests(2)
    cancellation.cancel()
    assert isinstance(thread.raises(0.5), r.LoopCanceledError)
    assert other.ends(2)["choices"]
