"""The real llmock server, which judges how its client takes what goes wrong."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reasoning_sdk as r
from tests.support.llmock import LlmockServer

pytestmark = pytest.mark.http

POLICY = r.RetryPolicy(initial_interval=0.06, randomization_factor=0, max_attempts=4)
Client = Callable[..., r.ResponsesClient]


@pytest.fixture(scope="module", autouse=True)
def _threads_of_urllib3_future(_llmock_process: LlmockServer) -> None:
    """Those of the session that controls the server start here and not in the first test."""
    _llmock_process.reset()


@pytest.fixture
def client(llmock_server: LlmockServer) -> Iterator[Client]:
    made: list[r.ResponsesClient] = []

    def make(**options: Any) -> r.ResponsesClient:
        options = {"api_key": "k", "retry": POLICY, **options}
        made.append(r.ResponsesClient("m", base_url=llmock_server.base_url, **options))
        return made[-1]

    yield make
    for client_ in made:
        client_.close()


def reply(text: str = "Hello, wide world!", **fields: Any) -> dict[str, Any]:
    return {"type": "reply", "text": text, **fields}


def test_a_text(llmock_server: LlmockServer, client: Client) -> None:
    llmock_server.scenario([reply("Grüße aus 東京 🌸"), reply("again")])
    stream = client().stream("hi")
    assert "".join(stream.text_deltas()) == "Grüße aus 東京 🌸"
    final = stream.until_done()
    assert final.output_text == stream.text == "Grüße aus 東京 🌸"
    assert final.status == "completed"
    assert final.usage
    assert client().create("hi").output_text == "again"
    assert llmock_server.assert_clean()["passed"]


def test_tool_calls(llmock_server: LlmockServer, client: Client) -> None:
    calls = [
        {"name": "get_weather", "arguments": {"city": "Zürich"}},
        {"name": "g", "arguments": {}},
    ]
    llmock_server.scenario([reply("", tool_calls=calls)])
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
    items = list(client().stream("weather?", tools=[tool]).output_items())
    found = [item for item in items if item["type"] == "function_call"]
    assert [item["name"] for item in found] == ["get_weather", "g"]
    assert "Zürich" in found[0]["arguments"] or "Z\\u00fcrich" in found[0]["arguments"]
    assert len({item["call_id"] for item in found}) == 2
    llmock_server.assert_clean()


def test_arguments_that_are_no_json_are_passed_on(
    llmock_server: LlmockServer, client: Client
) -> None:
    call = {"name": "f", "arguments": {"x": 1}}
    llmock_server.scenario(
        [{"type": "tool_fault", "kind": "malformed_arguments"}, reply("", tool_calls=[call])]
    )
    assert client().stream("x").until_done().status == "completed"
    llmock_server.assert_clean()


@pytest.mark.parametrize("method", ["stream", "create"])
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_failures_that_pass(
    llmock_server: LlmockServer, client: Client, method: str, status: int
) -> None:
    failure = {"type": "fail", "status": status, "times": 2, "retry_after": 0.06}
    llmock_server.scenario([failure, reply()])
    answer = getattr(client(), method)("hi")
    final = answer.until_done() if method == "stream" else answer
    assert final.output_text == "Hello, wide world!"
    verdict = llmock_server.assert_clean()
    assert (verdict["calls"], verdict["attempts"]) == (1, 3)


@pytest.mark.parametrize("status", [429, 503])
def test_it_waits_as_long_as_it_is_told(
    llmock_server: LlmockServer, client: Client, status: int
) -> None:
    llmock_server.scenario([{"type": "fail", "status": status, "retry_after": 0.2}, reply()])
    assert client().stream("hi").until_done().output_text == "Hello, wide world!"
    llmock_server.assert_clean()
    first, second = llmock_server.requests()
    assert second["started_at"] - first["ended_at"] >= 0.19


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, r.BadRequestError), (401, r.AuthenticationError), (404, r.NotFoundError)],
)
def test_failures_that_do_not_pass(
    llmock_server: LlmockServer, client: Client, status: int, kind: type[r.APIStatusError]
) -> None:
    llmock_server.scenario([{"type": "fail", "status": status, "message": "not like this"}])
    with pytest.raises(kind, match="not like this"):
        client().stream("hi")
    assert llmock_server.verdict()["attempts"] == 1
    assert llmock_server.verdict()["passed"]


@pytest.mark.parametrize("kind", ["truncate", "disconnect"])
def test_a_stream_that_is_cut_is_told_and_may_be_asked_for_again(
    llmock_server: LlmockServer, client: Client, kind: str
) -> None:
    llmock_server.scenario(
        [{"type": "stream_fault", "kind": kind, "after_chunks": 2}, reply(), reply()]
    )
    made = client()
    with pytest.raises(r.StreamInterruptedError) as caught:
        made.stream("hi").until_done()
    assert caught.value.retryable
    assert caught.value.response_id
    assert len(llmock_server.requests()) == 1
    assert made.stream("hi").until_done().output_text
    llmock_server.assert_clean()


def test_data_that_is_no_json_is_skipped(
    llmock_server: LlmockServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    llmock_server.scenario(
        [{"type": "stream_fault", "kind": "malformed", "after_chunks": 2}, reply()]
    )
    try:
        client().stream("hi").until_done()
    except r.StreamInterruptedError:
        pass  # the server ends such a stream without its last event
    verdict = llmock_server.verdict()
    assert verdict["passed"]
    assert [f["code"] for f in verdict["findings"]] in ([], ["malformed_chunk_ignored"])
    assert [e.levelname for e in caplog.records if "reasoning_sdk" in e.name] == ["WARNING"]


def test_a_stream_that_stalls_is_idle(llmock_server: LlmockServer, client: Client) -> None:
    llmock_server.scenario(
        [{"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": 5}, reply()]
    )
    with pytest.raises(r.IdleTimeoutError) as caught:
        client(idle_timeout=0.1).stream("hi").until_done()
    assert caught.value.response_id


@pytest.mark.parametrize("kind", ["slow_first_token", "delay"])
def test_a_slow_server(llmock_server: LlmockServer, client: Client, kind: str) -> None:
    llmock_server.scenario([{"type": kind, "seconds": 0.1}, reply()])
    assert client().stream("hi").until_done().output_text == "Hello, wide world!"
    llmock_server.assert_clean()


def test_an_answer_that_is_cut_short_by_its_length(
    llmock_server: LlmockServer, client: Client
) -> None:
    llmock_server.scenario([reply("Hello, wor", finish_reason="length")])
    stream = client().stream("hi")
    with pytest.raises(r.ResponseIncompleteError) as caught:
        stream.until_done()
    assert caught.value.text == "Hello, wor"
    llmock_server.assert_clean()


def test_many_calls_one_connection(llmock_server: LlmockServer, client: Client) -> None:
    llmock_server.scenario([reply(str(number)) for number in range(20)])
    made = client()
    assert [made.stream(f"{n}").until_done().output_text for n in range(20)] == [
        str(number) for number in range(20)
    ]
    assert llmock_server.assert_clean()["calls"] == 20
