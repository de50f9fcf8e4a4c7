"""The real aimock server: another dialect, without numbers, and chaos."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reasoning_sdk as r
from tests.support.aimock import AimockServer

pytestmark = pytest.mark.http

QUICK = r.RetryPolicy(initial_interval=0.01, max_retry_after=0.02, max_attempts=2)
Client = Callable[..., r.ResponsesClient]


@pytest.fixture(scope="module", autouse=True)
def _threads_of_urllib3_future(_aimock_process: AimockServer) -> None:
    """Those of the session that controls the server start here and not in the first test."""
    _aimock_process.reset()


@pytest.fixture
def client(aimock_server: AimockServer) -> Iterator[Client]:
    made: list[r.ResponsesClient] = []

    def make(**options: Any) -> r.ResponsesClient:
        options = {"api_key": "sk-very-secret-0123456789", "retry": QUICK, **options}
        made.append(r.ResponsesClient("gpt-5", base_url=aimock_server.base_url, **options))
        return made[-1]

    yield make
    for client_ in made:
        client_.close()


HELLO = "Hello! Grüße aus 東京 🌸, said the mock."


def test_a_text(client: Client) -> None:
    stream = client().stream("hello")
    deltas = list(stream.text_deltas())
    assert len(deltas) > 1
    assert "".join(deltas) == stream.text == stream.until_done().output_text == HELLO
    assert stream.response_id == stream.until_done().id
    assert client().create("hello").output_text == HELLO


def test_usage(client: Client) -> None:
    stream = client().stream("count the tokens")
    usage = stream.until_done().usage
    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (11, 7, 18)
    assert stream.usage == usage


def test_it_comes_as_it_is_made(client: Client) -> None:
    stream = client().stream("slowly")
    first = next(stream.text_deltas())
    assert first
    assert stream.text == first
    assert stream.until_done().output_text == "One word after another, slowly."


def test_a_tool_and_its_result(client: Client) -> None:
    made = client()
    question = {"role": "user", "content": "weather"}
    (call,) = made.stream([question]).output_items()
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    assert call["call_id"] == "call_weather_1"
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "21"}
    final = made.stream([question, call, result]).until_done()
    assert final.output_text == "It is 21 degrees in Paris."


def test_items_of_several_kinds_keep_their_order(client: Client) -> None:
    stream = client().stream("two tools")
    items = list(stream.output_items())
    assert [item["type"] for item in items] == ["function_call", "message", "function_call"]
    assert stream.text == "Between two calls."
    assert [item["type"] for item in stream.until_done().output] == [i["type"] for i in items]


def test_reasoning_and_searches(client: Client) -> None:
    stream = client().stream("think")
    types = {event.type for event in stream}
    assert "response.reasoning_summary_text.delta" in types
    assert stream.text == "Forty-two."
    assert {"reasoning", "message", "web_search_call"} <= {item["type"] for item in stream.items}


@pytest.mark.parametrize(
    ("question", "text", "kind"),
    [
        ("too long", "This answer was cut by its", r.ResponseIncompleteError),
        ("forbidden words", "I should not", r.ResponseFailedError),  # as this server says
    ],
)
def test_an_answer_that_is_not_completed(
    client: Client, question: str, text: str, kind: type[r.ResponseError]
) -> None:
    with pytest.raises(kind) as caught:
        client().stream(question).until_done()
    assert caught.value.text == text


@pytest.mark.parametrize("question", ["truncate", "disconnect"])
def test_a_stream_that_is_cut(client: Client, aimock_server: AimockServer, question: str) -> None:
    stream = client().stream(question)
    with pytest.raises(r.StreamInterruptedError, match=r"closed before response.completed") as told:
        stream.until_done()
    assert told.value.response_id == stream.response_id is not None
    assert told.value.text == stream.text
    assert "This stream is cut".startswith(stream.text[:18])
    assert len(aimock_server.requests()) == 1


def test_a_server_that_hangs_up(client: Client) -> None:
    with pytest.raises(r.TransportError):
        client().stream("hang up").until_done()


def test_a_limit_that_passes(client: Client, aimock_server: AimockServer) -> None:
    policy = r.RetryPolicy(initial_interval=0.01, max_retry_after=0.02, max_attempts=2)
    assert client(retry=policy).stream("busy").until_done().output_text == "Thank you for waiting."
    assert [entry["response"]["status"] for entry in aimock_server.requests()] == [429, 200]


def test_a_limit_that_does_not_pass_says_how_long(client: Client) -> None:
    with pytest.raises(r.RateLimitError, match="Rate limit reached, slow down") as caught:
        client(retry=r.RetryPolicy(max_attempts=0)).stream("busy")
    assert caught.value.retry_after == 1.0
    assert caught.value.code == "rate_limit_exceeded"


def test_a_server_that_is_overloaded(client: Client, aimock_server: AimockServer) -> None:
    with pytest.raises(r.ServerError, match="The engine is overloaded"):
        client().stream("overloaded")
    assert [entry["response"]["status"] for entry in aimock_server.requests()] == [503] * 3


def test_a_wrong_key(client: Client, aimock_server: AimockServer) -> None:
    with pytest.raises(r.AuthenticationError, match="Incorrect API key provided") as caught:
        client().stream("wrong key")
    assert caught.value.code == "invalid_api_key"
    assert len(aimock_server.requests()) == 1


def test_one_error_and_then_none(client: Client, aimock_server: AimockServer) -> None:
    aimock_server.next_error(500, "once")
    assert client().stream("hello").until_done().output_text == HELLO


def test_garbage_is_no_event_stream(client: Client, aimock_server: AimockServer) -> None:
    aimock_server.chaos(malformedRate=1)
    with pytest.raises(r.ProtocolError, match=r"no event stream.*application/json"):
        client().stream("hello")
    with pytest.raises(r.ProtocolError, match="answer is not"):
        client().create("hello")


@pytest.mark.parametrize("rate", ["dropRate", "disconnectRate", "rateLimitRate"])
def test_chaos_is_never_taken_for_success(
    client: Client, aimock_server: AimockServer, rate: str
) -> None:
    aimock_server.chaos(**{rate: 1})
    with pytest.raises((r.TransportError, r.APIStatusError)):
        client().stream("hello").until_done()
