"""The scripted model: both dialects, streamed and not, in order, held, cut, silent, refused."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from requests.exceptions import ChunkedEncodingError

from reasoning_sdk._core.responses import ResponseState
from reasoning_sdk.events import ResponseEvent
from tests.support.model_server import (
    DONE,
    Call,
    Cut,
    Hang,
    ModelServer,
    Refuse,
    Say,
    Usage,
)
from tests.support.scripted import raw

pytestmark = pytest.mark.http

JSON = dict[str, Any]
Models = Callable[..., ModelServer]

FULL = Call(
    ("add", {"a": 1, "b": "zwei"}),
    ("now", "{}", "call_mine"),
    text="Grüße aus 東京",
    reasoning="Two calls.",
    usage=Usage(5, 3, cached=2, reasoning=1),
)
BROKEN = (ChunkedEncodingError, requests.ConnectionError)
PATHS = ("/chat/completions", "/responses")


def ask(model: ModelServer, path: str = "/chat/completions", **body: Any) -> requests.Response:
    return requests.post(model.url + path, json={"model": "m", **body}, timeout=20)


def ask_stream(model: ModelServer, path: str = "/chat/completions", **body: Any) -> list[JSON]:
    return events_of(ask(model, path, stream=True, **body).content)


def events_of(body: bytes) -> list[JSON]:
    datas = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(data) for data in datas if data != "[DONE]"]


@contextlib.contextmanager
def streaming(model: ModelServer, path: str) -> Iterator[Iterator[str]]:
    """The lines of an answer, as they come."""
    body = {"model": "m", "stream": True}
    with requests.post(model.url + path, json=body, stream=True, timeout=20) as answer:
        yield answer.iter_lines(chunk_size=1, decode_unicode=True)


def test_a_chat_completion_has_text_calls_reasoning_and_usage(model_server: Models) -> None:
    body = ask(model_server([FULL])).json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "m"
    assert body["choices"] == [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "Grüße aus 東京",
                "reasoning_content": "Two calls.",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "add", "arguments": '{"a":1,"b":"zwei"}'},
                    },
                    {
                        "id": "call_mine",
                        "type": "function",
                        "function": {"name": "now", "arguments": "{}"},
                    },
                ],
            },
        }
    ]
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 2
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 1
    assert body["usage"]["total_tokens"] == 8


def joined(chunks: list[JSON]) -> JSON:
    """What chunks of a chat completion amount to."""
    message: JSON = {"tool_calls": []}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        for name, value in choice["delta"].items():
            if name != "tool_calls":
                message[name] = message.get(name, "") + value
                continue
            for part in value:
                if "id" in part:
                    message["tool_calls"].append({**part, "function": dict(part["function"])})
                else:
                    function = message["tool_calls"][part["index"]]["function"]
                    function["arguments"] += part["function"]["arguments"]
    return message


def test_a_streamed_chat_completion_says_the_same_in_pieces(model_server: Models) -> None:
    answer = ask(model_server([FULL]), stream=True, stream_options={"include_usage": True})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.content.endswith(DONE)
    chunks = events_of(answer.content)
    whole = ask(model_server([FULL])).json()
    message, usage = whole["choices"][0]["message"], whole["usage"]
    calls = [{"index": n, **call} for n, call in enumerate(message["tool_calls"])]
    assert joined(chunks) == {**message, "tool_calls": calls}
    assert len([c for c in chunks if c["choices"] and c["choices"][0]["delta"].get("content")]) == 3
    assert [c["choices"][0]["finish_reason"] for c in chunks[-2:-1]] == ["tool_calls"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == usage


def test_a_streamed_chat_completion_tells_usage_only_when_asked(model_server: Models) -> None:
    assert not any("usage" in chunk for chunk in ask_stream(model_server([Say("a")])))


def test_a_turn_may_tell_no_usage(model_server: Models) -> None:
    model = model_server(lambda _: Say("a", usage=None))
    assert "usage" not in ask(model).json()
    assert ask(model, "/responses").json()["usage"] is None
    asked = ask_stream(model, stream_options={"include_usage": True})
    assert not any("usage" in chunk for chunk in asked)


def test_a_response_has_text_calls_reasoning_and_usage(model_server: Models) -> None:
    body = ask(model_server([FULL]), "/responses").json()
    thought, message, *calls = body["output"]
    assert body["status"] == "completed"
    assert thought["content"][0]["text"] == "Two calls."
    assert message["content"][0]["text"] == "Grüße aus 東京"
    assert [(c["name"], c["arguments"], c["call_id"]) for c in calls] == [
        ("add", '{"a":1,"b":"zwei"}', "call_1"),
        ("now", "{}", "call_mine"),
    ]
    assert body["usage"]["input_tokens_details"] == {"cached_tokens": 2}
    assert body["usage"]["total_tokens"] == 8


def test_a_streamed_response_says_the_same_in_pieces(model_server: Models) -> None:
    events = ask_stream(model_server([FULL]), "/responses")
    state = ResponseState()
    for event in events:
        state.apply(ResponseEvent(type=event["type"], data=event))
    whole = ask(model_server([FULL]), "/responses").json()
    assert events[-1] == {
        "type": "response.completed",
        "sequence_number": len(events) - 1,
        "response": whole,
    }
    assert state.text == "Grüße aus 東京"
    assert [item["type"] for item in whole["output"]] == [
        "reasoning", "message", "function_call", "function_call",
    ]  # fmt: skip


def test_a_model_may_refuse(model_server: Models) -> None:
    model = model_server(lambda _: Say(refusal="I cannot"))
    assert ask(model).json()["choices"][0]["message"]["refusal"] == "I cannot"
    assert joined(ask_stream(model))["refusal"] == "I cannot"
    part = {"type": "refusal", "refusal": "I cannot"}
    assert ask(model, "/responses").json()["output"][0]["content"] == [part]
    assert ask_stream(model, "/responses")[-1]["response"]["output"][0]["content"] == [part]


@pytest.mark.parametrize(
    ("reason", "details"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_a_model_may_be_stopped_early(model_server: Models, reason: str, details: str) -> None:
    model = model_server(lambda _: Say("a", finish_reason=reason))
    assert ask(model).json()["choices"][0]["finish_reason"] == reason
    assert ask_stream(model)[-1]["choices"][0]["finish_reason"] == reason
    body = ask(model, "/responses").json()
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": details}
    assert body["output"][-1]["status"] == "incomplete"
    assert ask_stream(model, "/responses")[-1]["type"] == "response.incomplete"


def test_the_turns_of_a_list_are_taken_in_order_and_the_requests_kept(model_server: Models) -> None:
    model = model_server([Say("one")]).then(Call(("f", {})), Call(("f", {})))
    said = [ask(model, n=n).json()["choices"][0]["message"] for n in range(3)]
    assert said[0]["content"] == "one"
    assert [m["tool_calls"][0]["id"] for m in said[1:]] == ["call_1", "call_2"]
    assert [body["n"] for body in model.bodies] == [0, 1, 2]
    assert {request.path for request in model.requests} == {"/v1/chat/completions"}
    assert model.requests[0].headers["content-type"] == "application/json"
    assert len(model.wait_for_requests(3)) == 3


def test_a_function_makes_the_turns_of_requests_side_by_side(model_server: Models) -> None:
    model = model_server(lambda body: Say(body["input"], gate="all"))
    said: list[str] = []

    def one(text: str) -> None:
        answer = ask(model, "/responses", input=text).json()
        said.append(text + answer["output"][0]["content"][0]["text"])

    threads = [threading.Thread(target=one, args=(text,)) for text in "abc"]
    for thread in threads:
        thread.start()
    model.wait_for_requests(3)
    assert said == []
    model.open("all")
    for thread in threads:
        thread.join(20)
    assert sorted(said) == ["aa", "bb", "cc"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "turn", [Say("Hello, world!", gate="held"), Call(("f", "{}"), gate="held")]
)
def test_a_turn_is_held_in_the_middle_of_its_stream(
    model_server: Models, path: str, turn: Say
) -> None:
    model = model_server([turn])
    with streaming(model, path) as lines:
        model.wait_at("held")
        marks = ('"content":"Hel', '"tool_calls":', '.delta"')
        assert next(line for line in lines if any(mark in line for mark in marks))
        model.open("held")
        rest = [line for line in lines if line]
    assert '"finish_reason":"' in rest[-2] or "response.completed" in rest[-1]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("by_reset", [False, True])
def test_a_stream_is_cut_after_so_many_events(
    model_server: Models, path: str, by_reset: bool
) -> None:
    model = model_server([Cut(3, reset=by_reset)])
    got: list[str] = []
    with streaming(model, path) as lines, pytest.raises(BROKEN):
        got.extend(line for line in lines if line.startswith("data"))
    assert len(got) == 3 or (by_reset and len(got) < 3)


@pytest.mark.parametrize("path", PATHS)
def test_without_a_stream_a_cut_turn_has_no_answer(model_server: Models, path: str) -> None:
    model = model_server([Cut()])
    with pytest.raises(requests.ConnectionError):
        ask(model, path)


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_falls_silent_until_the_client_is_gone(model_server: Models, path: str) -> None:
    model = model_server([Hang(2)])
    with streaming(model, path) as lines:
        assert [next(lines) for _ in range(2)]
        assert model.http.open_connections == 1
    model.http.wait_no_connections()


@pytest.mark.parametrize("body", [{}, {"stream": True}])
def test_a_hanging_turn_sends_nothing_and_ends_with_the_server(
    model_server: Models, body: JSON
) -> None:
    model = model_server([Hang()])
    failed = []

    def one() -> None:
        try:
            ask(model, **body)
        except requests.ConnectionError as exc:
            failed.append(exc)

    thread = threading.Thread(target=one)
    thread.start()
    model.wait_for_requests(1)
    model.stop()
    thread.join(20)
    assert len(failed) == 1


def test_a_request_is_refused(model_server: Models) -> None:
    answer = ask(model_server([Refuse(429, {"error": "slow"}, {"Retry-After": "2"})]))
    assert (answer.status_code, answer.json()) == (429, {"error": "slow"})
    assert answer.headers["Retry-After"] == "2"
    assert ask(model_server([Refuse(500)])).json()["error"]["type"] == "refused"


def test_bytes_are_the_body_of_a_stream_and_a_handler_is_all_of_the_answer(
    model_server: Models,
) -> None:
    model = model_server([b"data: [DONE]\n\n", raw(b"HTTP/1.1 204 No Content\r\n\r\n")])
    assert ask(model).content == DONE
    assert ask(model).status_code == 204


def test_the_pieces_on_the_wire_can_be_small(model_server: Models) -> None:
    model = model_server([Say("Grüße aus 東京", pieces=20)], chunk_size=1)
    assert joined(ask_stream(model))["content"] == "Grüße aus 東京"


def test_another_path_is_not_found_and_takes_no_turn(model_server: Models) -> None:
    model = model_server([Say("a")])
    assert ask(model, "/models").status_code == 404
    assert ask(model).status_code == 200


def test_a_request_without_a_turn_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="not in the script"), ModelServer() as model:
        assert ask(model).status_code == 400


def test_a_function_that_raises_fails_the_test() -> None:
    def broken(body: JSON) -> Say:
        raise ValueError("no")

    with ModelServer(broken) as model:
        with pytest.raises(requests.ConnectionError):
            ask(model)
        with pytest.raises(AssertionError, match="handler raised"):
            model.check()
        model.http.errors.clear()
