"""The files of examples/, each run as a user would run it."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
import requests
from flask import Flask, Response, request
from nbclient import NotebookClient
from werkzeug.serving import make_server

from reasoning_sdk import EventSource, RetryPolicy, ServerSentEvent, iter_events
from tests.support import recordings
from tests.support.agent_service import AgentService, cut, telling
from tests.support.aimock import AimockServer
from tests.support.counting import CountingServer
from tests.support.llmock import LlmockServer
from tests.support.model_server import Call, Cut, Hang, ModelServer, Refuse, Say
from tests.support.processes import ServerProcess
from tests.support.scripted import (
    Connection,
    Handler,
    ScriptedServer,
    json_answer,
    silence,
    sse,
)
from tests.support.signals import interrupt, wait_until_it_waits
from tests.test_notebook import Kernel

pytestmark = pytest.mark.examples

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DEADLINE = 30.0

Scripted = Callable[..., ScriptedServer]


def environment(base_url: str) -> dict[str, str]:
    return {**os.environ, "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "test-key"}


def run(name: str, *arguments: str, base_url: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        env=environment(base_url),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


@contextlib.contextmanager
def started(name: str, *arguments: str, base_url: str = "") -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, EXAMPLES / name, *arguments],
        env=environment(base_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read(process: "subprocess.Popen[str]", characters: int) -> str:
    assert process.stdout is not None
    return process.stdout.read(characters)


def test_every_example_is_run_here() -> None:
    tests = Path(__file__).read_text()
    names = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    assert [name for name in names if f'"{name}"' not in tests] == []


# -- stream_text.py ------------------------------------------------------------------------------


def test_stream_text_prints_the_answer(llmock_server: LlmockServer) -> None:
    llmock_server.scenario(
        [
            {"type": "fail", "status": 503},
            {"type": "reply", "text": "It is the air that scatters blue."},
        ]
    )
    done = run("stream_text.py", "Why is", "the sky blue?", base_url=llmock_server.base_url)
    assert (done.returncode, done.stdout) == (0, "It is the air that scatters blue.\n")
    assert llmock_server.requests()[-1]["body"]["input"] == "Why is the sky blue?"
    llmock_server.assert_clean()


def test_stream_text_says_what_went_wrong_after_the_text_so_far(
    llmock_server: LlmockServer,
) -> None:
    llmock_server.scenario(
        [
            {"type": "reply", "text": "one two three four five six"},
            {"type": "stream_fault", "kind": "truncate", "after_chunks": 6},
        ]
    )
    done = run("stream_text.py", base_url=llmock_server.base_url)
    assert done.returncode == 1
    assert done.stdout.startswith("one ")
    assert "StreamInterruptedError: stream closed before response.completed" in done.stderr


def test_stream_text_ends_cleanly_with_ctrl_c(scripted: Scripted) -> None:
    server = scripted(silence(first=recordings.cut_response()))
    with started("stream_text.py", base_url=server.base_url) as process:
        assert read(process, 10) == "Hello, wor"
        interrupt(process.pid)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, err) == (130, "\n", "")
    server.wait_no_connections(DEADLINE)


# -- tool_call.py --------------------------------------------------------------------------------


def test_tool_call_runs_the_function_and_answers(aimock_server: AimockServer) -> None:
    done = run("tool_call.py", "What is the weather?", base_url=aimock_server.base_url)
    assert done.stderr == ""
    assert done.stdout == (
        '-> get_weather({"city":"Paris","unit":"celsius"})\nIt is 21 degrees in Paris.\n'
    )
    last = aimock_server.requests()[-1]["body"]["messages"][-1]
    assert (last["role"], last["tool_call_id"]) == ("tool", "call_weather_1")
    assert json.loads(last["content"]) == {"city": "Paris", "temperature": 21, "unit": "celsius"}


def test_tool_call_prints_an_answer_that_needs_no_tool(llmock_server: LlmockServer) -> None:
    llmock_server.scenario([{"type": "reply", "text": "Hello."}])
    done = run("tool_call.py", "Say hello.", base_url=llmock_server.base_url)
    assert (done.returncode, done.stdout) == (0, "Hello.\n")


def test_tool_call_tells_the_model_of_arguments_that_do_not_fit(
    llmock_server: LlmockServer,
) -> None:
    call = {"name": "get_weather", "arguments": {"town": "Paris"}}
    llmock_server.scenario(
        [{"type": "reply", "tool_calls": [call]}, {"type": "reply", "text": "I was wrong."}]
    )
    done = run("tool_call.py", base_url=llmock_server.base_url)
    assert (done.returncode, done.stdout.splitlines()[1]) == (0, "I was wrong.")
    question, made, result = llmock_server.requests()[1]["body"]["input"]
    assert question["role"] == "user"
    assert made["call_id"] == result["call_id"]
    assert "unexpected keyword argument" in json.loads(result["output"])["error"]
    llmock_server.assert_clean()


# -- background.py: no real server that runs here has background responses -------------------------


def test_background_is_left_with_ctrl_c_and_resumed(scripted: Scripted) -> None:
    events = recordings.background_response("One, two, three, four.", deltas=4)
    first = events[:7]
    server = scripted([silence(first=first), sse(recordings.after(events, 6))])
    with started("background.py", "Count.", base_url=server.base_url) as process:
        begun = recordings.text_of(first)
        assert read(process, len(begun)) == begun
        interrupt(process.pid)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (130, "")
    assert out == "\nstill running; go on with: --resume resp_1 --after 6\n"
    assert server.requests[0].json()["background"] is True

    done = run("background.py", *out.split()[5:], base_url=server.base_url)
    assert (done.returncode, begun + done.stdout) == (0, "One, two, three, four.\n")
    assert server.requests[1].target == "/v1/responses/resp_1?stream=true&starting_after=6"


def test_background_goes_on_by_itself_when_the_connection_breaks(scripted: Scripted) -> None:
    events = recordings.background_response("One, two, three, four.", deltas=4)
    server = scripted([sse(events[:7], then="reset"), sse(recordings.after(events, 6))])
    done = run("background.py", base_url=server.base_url)
    assert (done.returncode, done.stdout) == (0, "One, two, three, four.\n")


# -- event_source.py -----------------------------------------------------------------------------


@contextlib.contextmanager
def serving(app: Flask) -> Iterator[str]:
    """The app on a real server, a thread for each request."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_event_source_goes_on_where_a_connection_ended() -> None:
    app = Flask("events")

    @app.get("/events")
    def events() -> Response:
        number = int(request.headers.get("Last-Event-ID", 0))
        if number == 4:
            return Response(status=204)
        lines = [f"id: {n}\nevent: tick\ndata: number {n}\n\n" for n in (number + 1, number + 2)]
        return Response(["retry: 1\n\n", *lines], mimetype="text/event-stream")

    with serving(app) as url:
        done = run("event_source.py", f"{url}/events")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"{n} tick: number {n}" for n in (1, 2, 3, 4)]
    assert done.stderr.splitlines() == ["reconnecting, attempt 1"] * 2


def test_event_source_says_what_went_wrong() -> None:
    with serving(Flask("nothing")) as url:
        done = run("event_source.py", f"{url}/events")
    assert done.returncode == 1
    assert done.stderr.startswith("NotFoundError: 404 Not Found")


# -- publish.py ----------------------------------------------------------------------------------


@pytest.fixture
def viewer(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingServer]:
    """A viewer that counts, and that the variables name."""
    with CountingServer() as server:
        monkeypatch.setenv("VIEWER_ADDRESS", server.url)
        monkeypatch.setenv("VIEWER_SIGNATURE", "test-secret")
        yield server


def test_publish_prints_the_answer_and_publishes_every_event(
    llmock_server: LlmockServer, viewer: CountingServer
) -> None:
    llmock_server.scenario([{"type": "reply", "text": "It is the air."}])
    done = run("publish.py", "Why?", base_url=llmock_server.base_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "It is the air.\n", "")
    begin, *events = [post.json for post in viewer.delivered]
    assert (begin["model"], begin["input"]) == ("gpt-5-mini", "Why?")
    assert {event["id"] for event in events} == {begin["id"]}
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    assert "".join(event["delta"] for event in events if "delta" in event) == "It is the air."
    assert {post.path for post in viewer.posts} == {"/agent/completions"}
    assert {post.signature for post in viewer.posts} == {"test-secret"}


def test_publish_tells_the_viewer_of_an_answer_that_was_cut(
    scripted: Scripted, viewer: CountingServer
) -> None:
    server = scripted(sse(recordings.cut_response()))
    done = run("publish.py", base_url=server.base_url)
    assert (done.returncode, done.stdout.strip()) == (1, "Hello, wor")
    assert "StreamInterruptedError" in done.stderr
    last = viewer.delivered[-1].json
    assert (last["code"], "stream closed before" in last["message"]) == (500, True)


@pytest.mark.parametrize("how", ["refused by the viewer", "no viewer"])
def test_publish_says_that_not_everything_was_published(
    scripted: Scripted, viewer: CountingServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "no viewer":
        monkeypatch.delenv("VIEWER_ADDRESS")
    viewer.answer(400)
    events = recordings.text_response("Hello")
    done = run("publish.py", base_url=scripted(sse(events)).base_url)
    assert (done.returncode, done.stdout) == (4, "Hello\n")
    reason = "no_address" if how == "no viewer" else "rejected): 400 Bad Request"
    assert f"not published ({reason}" in done.stderr
    assert f"published 0 of {1 + len(events)} events" in done.stderr


# -- tools_flask.py ------------------------------------------------------------------------------


def test_tools_publishes_to_the_viewer_of_the_tenant(
    viewer: CountingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPOOL", str(tmp_path / "spool"))
    module = load("tools_flask.py")
    with CountingServer() as other, contextlib.ExitStack() as stack:
        stack.callback(lambda: module.viewer().close())
        module.app.config["TENANTS"]["acme"] = (f"{other.url}/acme", "their-secret")
        browser = module.app.test_client()
        weather = {"city": "Oslo", "celsius": 21}
        assert browser.post("/tools/get_weather", json={"city": "Oslo"}).get_json() == weather
        tenant = {"X-Tenant": "acme"}
        got = browser.post("/tools/get_weather", json={"city": "Atlantis"}, headers=tenant)
        assert got.status_code == 404
        assert module.viewer().flush()
        assert browser.get("/health").get_json() == {"waiting": 0, "delivered": 4, "lost": {}}
        begin, piece = [post.json for post in viewer.delivered]
        assert begin["id"] == piece["id"]
        assert (begin["name"], piece["output"]) == ("get_weather", weather)
        assert {post.signature for post in viewer.posts} == {"test-secret"}
        begin, error = [post.json for post in other.delivered]
        assert begin["id"] == error["id"]
        assert (error["code"], error["message"]) == (500, "there is no weather in Atlantis")
        assert {post.signature for post in other.posts} == {"their-secret"}
        assert {post.path for post in other.posts} == {"/acme/functions/executions"}


# -- relay_flask.py ------------------------------------------------------------------------------


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Serves the app in front of the upstream at a base URL; gives the app's URL."""
    with contextlib.ExitStack() as stack:

        def serve(base_url: str, ping_seconds: float = 15.0) -> str:
            monkeypatch.setenv("OPENAI_BASE_URL", base_url)
            monkeypatch.setenv("OPENAI_API_KEY", "test-key")
            monkeypatch.setenv("OPENAI_REQUEST_MAX_RETRIES", "0")
            module = load("relay_flask.py")
            module.app.config["PING_SECONDS"] = ping_seconds
            stack.callback(lambda: module.client().close())
            return stack.enter_context(serving(module.app))

        yield serve


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ask(url: str, **options: Any) -> requests.Response:
    body = {"question": "Why is the sky blue?"}
    return requests.post(f"{url}/ask", json=body, timeout=DEADLINE, **options)


def events_of(got: requests.Response) -> list[ServerSentEvent]:
    assert got.headers["Content-Type"].startswith("text/event-stream")
    return list(iter_events([got.content]))


def test_relay_streams_the_answer(relay: Callable[..., str], llmock_server: LlmockServer) -> None:
    llmock_server.scenario([{"type": "reply", "text": "Grüße,\n東京!"}])
    with ask(relay(llmock_server.base_url)) as got:
        *texts, done = events_of(got)
    assert {event.event for event in texts} == {"text"}
    assert "".join(event.json() for event in texts) == "Grüße,\n東京!"
    assert done.event == "done"
    assert done.json()["usage"]["output_tokens"] > 0
    assert llmock_server.requests()[0]["body"]["input"] == "Why is the sky blue?"
    llmock_server.assert_clean()


def test_relay_passes_a_piece_on_when_it_arrives(
    relay: Callable[..., str], scripted: Scripted
) -> None:
    events = recordings.text_response("Hello, world!", deltas=2)
    second = [event["type"] for event in events].index("response.output_text.delta") + 1
    server = scripted(sse(events, gates={second: "second"}))
    with ask(relay(server.base_url), stream=True) as got:
        arriving = iter_events(got.raw.stream())
        assert next(arriving).json() == "Hello,"
        server.open("second")
        assert [event.event for event in arriving] == ["text", "done"]


def test_relay_says_that_an_answer_was_cut(relay: Callable[..., str], scripted: Scripted) -> None:
    server = scripted(sse(recordings.cut_response()))
    with ask(relay(server.base_url)) as got:
        *texts, error = events_of(got)
    assert "".join(event.json() for event in texts) == "Hello, wor"
    assert error.event == "error"
    assert error.json() == {"message": "the answer broke off", "retryable": True}


@pytest.mark.parametrize(
    ("handler", "status", "said"),
    [
        (json_answer(429, {}, {"Retry-After": "7"}), 429, "too many questions at the moment"),
        (json_answer(401, {"error": {"message": "bad key"}}), 502, "the service cannot be asked"),
        (json_answer(503, {}), 502, "the service cannot be asked"),
        (json_answer(400, {"error": {"message": "too long"}}), 400, "too long"),
        (lambda connection: connection.reset(), 502, "the service cannot be asked"),
    ],
    ids=["429", "401", "503", "400", "reset"],
)
def test_relay_answers_with_a_status_when_nothing_has_begun(
    relay: Callable[..., str], scripted: Scripted, handler: Handler, status: int, said: str
) -> None:
    with ask(relay(scripted(handler).base_url)) as got:
        assert got.status_code == status
        assert got.json() == {"error": said}
        assert got.headers.get("Retry-After") == ("7" if status == 429 else None)


def busy(connection: Connection) -> None:
    """An answer that never ends."""
    fields = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
    connection.headers(200, fields)
    event = {"type": "response.output_text.delta", "item_id": "m", "delta": "on and on, " * 1000}
    with contextlib.suppress(ConnectionError):
        while True:
            connection.chunk(recordings.to_sse([event]))
    connection.close()


@pytest.mark.parametrize("upstream", ["silent", "busy"])
def test_relay_frees_the_upstream_when_the_browser_goes_away(
    relay: Callable[..., str], scripted: Scripted, upstream: str
) -> None:
    handler = busy if upstream == "busy" else silence(first=recordings.cut_response())
    server = scripted(handler)
    url = relay(server.base_url, ping_seconds=0.02)
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), DEADLINE) as browser:
        body = b'{"question": "Why?"}'
        head = "POST /ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        browser.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        received = b""
        while b"event: text" not in received:
            received += browser.recv(4096)
        assert server.open_connections == 1
    server.wait_no_connections(DEADLINE)


def test_relay_tells_the_browser_when_it_shuts_down(
    monkeypatch: pytest.MonkeyPatch, scripted: Scripted
) -> None:
    server = scripted(silence(first=recordings.cut_response()))
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    module = load("relay_flask.py")
    with module.client() as client:
        parts = module.relay(client.stream("x"), 15.0)
        for _ in range(3):
            assert "event: text" in next(parts)
        client.close()
        assert [part.partition("\n")[0] for part in parts] == ["event: error"]


# -- agent.py ------------------------------------------------------------------------------------

Models = Callable[..., ModelServer]
QUESTION = "Which is warmer today, Oslo or Rome?"
TRAINS = {"origin": "Oslo", "destination": "Rome", "day": "2026-07-01"}
PLAN = [
    Call(
        ("get_weather", {"city": "Oslo"}, "c1"),
        ("get_weather", {"city": "Atlantis"}, "c2"),
        ("find_trains", TRAINS, "c3"),
    ),
    Call(("find_trains", {**TRAINS, "day": "tomorrow"}, "c4"), ("note", {"text": "Rome"}, "c5")),
    Say("Rome, by train."),
]


def test_agent_tells_of_text_calls_and_results_as_they_come(model_server: Models) -> None:
    model = model_server(PLAN)
    done = run("agent.py", QUESTION, base_url=model.url)
    assert (done.returncode, done.stderr) == (0, "")
    calls, results, more, more_results, text, end = split(
        done.stdout.splitlines(), [3, 3, 2, 2, 1, 1]
    )
    unknown = "LookupError: no weather is known of Atlantis, only of Oslo, Paris, Rome"
    trains = [f'{{"from":"Oslo","to":"Rome","at":"2026-07-01T{h}:00"}}' for h in ("08", "14")]
    assert calls[0] == '-> get_weather({"city":"Oslo"}) [c1]'
    assert sorted(results) == [
        '<- [c1] {"city":"Oslo","degrees":4}',
        f'<- [c2] failed: {{"error":{{"type":"tool_error","message":"{unknown}"}}}}',
        f"<- [c3] [{trains[0]},{trains[1]}]",
    ]
    assert [line[:2] for line in more] == ["->", "->"]
    assert sorted(more_results)[0].startswith('<- [c4] failed: {"error":{"type":"invalid_arguments')
    assert sorted(more_results)[1] == "<- [c5] noted"
    assert text == ["Rome, by train."]
    assert end == ["-- 54 tokens, notes: ['Rome']"]
    first = model.bodies[0]
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert first["messages"][1]["content"] == QUESTION
    tools = {tool["function"]["name"]: tool["function"] for tool in first["tools"]}
    assert tools["get_weather"]["parameters"]["properties"]["city"]["description"]
    assert set(tools) == {"get_weather", "find_trains", "note", "translator"}
    assert model.requests[0].headers["Authorization"] == "Bearer test-key"


def split(lines: list[str], sizes: list[int]) -> Iterator[list[str]]:
    for size in sizes:
        yield lines[:size]
        lines = lines[size:]
    assert lines == []


def test_agent_asks_its_helper(model_server: Models) -> None:
    def turn(body: Any) -> Say:
        if body["messages"][0]["content"].startswith("Translate"):
            assert "tools" not in body
            return Say(body["messages"][1]["content"].upper())
        asked = body["messages"][-1]["role"] == "user"
        return Call(("translator", {"input": "to Norwegian: hi"}, "c1")) if asked else Say("Hei.")

    done = run("agent.py", base_url=model_server(turn).url)
    assert done.stdout.splitlines() == [
        '-> translator({"input":"to Norwegian: hi"}) [c1]',
        "<- [c1] TO NORWEGIAN: HI",
        "Hei.",
        "-- 54 tokens, notes: []",
    ]


def test_agent_says_what_went_wrong(model_server: Models) -> None:
    refused = Refuse(401, {"error": {"message": "bad key", "code": "invalid_api_key"}})
    done = run("agent.py", base_url=model_server([refused]).url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == "LoopFailedError: response failed: invalid_api_key: bad key"


def test_agent_ends_cleanly_with_ctrl_c(model_server: Models) -> None:
    model = model_server([Hang(3)])
    with started("agent.py", base_url=model.url) as process:
        assert read(process, 5) == "Hello"
        interrupt(process.pid)
        _, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (130, "")
    model.http.wait_no_connections(DEADLINE)


# -- flask_agent.py, django_agent.py, and "browser_agent.py", which both import -------------------


class AgentServer(ServerProcess):
    """One of the apps on the server that its framework comes with."""

    def __init__(self, name: str, base_url: str, keep_alive: float) -> None:
        self.name = name
        variables = {**environment(base_url), "KEEP_ALIVE": str(keep_alive)}
        super().__init__(self._command, environment=variables)

    def _command(self, port: int) -> list[str]:
        file = str(EXAMPLES / self.name)
        if self.name == "flask_agent.py":
            return [sys.executable, "-m", "flask", "--app", file, "run", "--port", str(port)]
        return [sys.executable, file, "runserver", "--noreload", f"127.0.0.1:{port}"]

    def ask(self) -> str:
        """Ask; gives the URL of the events."""
        id = self.control("POST", "/responses", json={"question": QUESTION})["id"]
        return f"{self.url}/responses/{id}/events"


@pytest.fixture(params=["flask_agent.py", "django_agent.py"])
def agent_server(request: pytest.FixtureRequest) -> Iterator[Callable[..., AgentServer]]:
    """Starts one of the apps in front of a model."""
    with contextlib.ExitStack() as stack:

        def start(model: ModelServer, keep_alive: float = 15.0) -> AgentServer:
            made = AgentServer(request.param, model.url, keep_alive)
            server: AgentServer = stack.enter_context(made)
            return server

        yield start


def following_events(url: str, last_event_id: str = "") -> EventSource:
    """One connection, as a browser makes it."""
    never = RetryPolicy(max_attempts=0)
    return EventSource(url, last_event_id=last_event_id, retry=never, timeout=DEADLINE)


def until_the_end(source: EventSource) -> Iterator[ServerSentEvent]:
    for event in source:
        yield event
        if event.event in ("response.completed", "response.failed"):
            return


def deltas_of(events: list[ServerSentEvent]) -> str:
    return "".join(event.json().get("delta", "") for event in events if "text.delta" in event.event)


def test_agent_app_streams_text_calls_and_results(
    agent_server: Callable[..., AgentServer], model_server: Models
) -> None:
    model = model_server([*PLAN[:2], Say("Rome, by train.", gate="text")])
    server = agent_server(model)
    page = requests.get(server.url, timeout=DEADLINE)
    assert (page.status_code, "new EventSource" in page.text) == (200, True)
    with following_events(server.ask()) as arriving:
        events = []
        for event in until_the_end(arriving):
            events.append(event)
            if event.event == "response.output_text.delta":
                model.open("text")  # the first piece is here before the others are sent
    assert deltas_of(events) == "Rome, by train."
    assert [event.event for event in (events[0], events[-1])] == [
        "response.created",
        "response.completed",
    ]
    output = events[-1].json()["response"]["output"]
    assert [item["type"] for item in output].count("function_call_output") == 5
    numbers = [int(event.id) for event in events]
    assert numbers == [event.json()["sequence_number"] for event in events]
    assert numbers == sorted(set(numbers))


def test_agent_app_goes_on_when_the_browser_comes_back(
    agent_server: Callable[..., AgentServer], model_server: Models
) -> None:
    model = model_server([PLAN[0], Say("Oslo …", gate="cut"), Say("Rome.")])
    url = agent_server(model).ask()
    with following_events(url) as arriving:
        first = []
        for event in arriving:
            first.append(event)
            if event.event == "response.output_text.delta":
                break
    seen = first[:6]  # it had not got more
    with following_events(url, seen[-1].id) as arriving:
        rest = list(until_the_end(arriving))
    model.open("cut")
    numbers = [int(event.id) for event in (*seen, *rest)]
    assert numbers == sorted(set(numbers))
    done = [event.json()["item"] for event in (*seen, *rest) if "item.done" in event.event]
    calls = [item["call_id"] for item in done if item["type"] == "function_call"]
    assert (calls, len(done)) == (["c1", "c2", "c3"], 7)
    assert rest[-1].event == "response.completed"
    assert deltas_of(rest) == "Rome."
    assert len(model.requests) == 3  # the tools' turn was not asked for again

    with following_events(f"{url}?starting_after={rest[-3].id}") as arriving:
        assert [event.id for event in until_the_end(arriving)] == [event.id for event in rest[-2:]]
    assert len(model.requests) == 3


@pytest.mark.parametrize("where", ["model", "answer"])
def test_agent_app_ends_the_work_when_the_browser_goes_away(
    agent_server: Callable[..., AgentServer], model_server: Models, where: str
) -> None:
    model = model_server([Hang(None if where == "model" else 3)])
    with following_events(agent_server(model, keep_alive=0.02).ask()) as arriving:
        assert next(arriving).event == "response.created"
        model.wait_for_requests(1)
    model.http.wait_no_connections(DEADLINE)


def test_agent_app_tells_the_browser_what_went_wrong(
    agent_server: Callable[..., AgentServer], model_server: Models
) -> None:
    server = agent_server(model_server([Cut(3)]))
    with following_events(server.ask()) as arriving:
        *_, last = until_the_end(arriving)
    assert last.event == "response.failed"
    assert "closed before its end" in last.json()["response"]["error"]["message"]
    unknown = requests.get(f"{server.url}/responses/unknown/events", timeout=DEADLINE)
    assert unknown.status_code == 404
    form = requests.post(f"{server.url}/responses", data={"question": "x"}, timeout=DEADLINE)
    assert form.status_code == 415


# -- notebook.ipynb ------------------------------------------------------------------------------


def outputs_of(cell: Any) -> dict[str, str]:
    """What a cell shows: its streams by name, its display by MIME type."""
    shown: dict[str, str] = {}
    for output in cell.outputs:
        if output.output_type == "stream":
            shown[output.name] = shown.get(output.name, "") + output.text
        else:
            shown.update(output.data)
    return shown


def test_notebook(llmock_server: LlmockServer, monkeypatch: pytest.MonkeyPatch) -> None:
    story = "Once upon a time there was a stream that was cut <b>short</b>."
    llmock_server.scenario(
        [
            {"type": "reply", "text": "The air scatters blue light more than red."},
            {"type": "reply", "text": "one two three four five six seven eight"},
            {"type": "reply", "text": story, "finish_reason": "length"},
        ]
    )
    for name, value in environment(llmock_server.base_url).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=DEADLINE, kernel_name="python3").execute()
    cells = {cell.id: outputs_of(cell) for cell in notebook.cells if cell.cell_type == "code"}

    assert cells["stream"] == {"stdout": "The air scatters blue light more than red."}
    assert "The air scatters blue light more than red." in cells["shown-stream"]["text/html"]
    assert cells["shown-stream"]["text/plain"].startswith("<ResponseStream COMPLETED resp_")
    assert "completed" in cells["shown-response"]["text/html"]
    assert cells["shown-response"]["text/plain"].startswith("<Response resp_")
    assert cells["stopped"]["stdout"].split() == ["one", "two", "three", "four"]
    assert cells["shown-stopped"]["text/plain"].startswith("<ResponseStream CLOSED resp_")
    assert cells["error"] == {"stdout": f"max_output_tokens\n{story}\n"}
    assert "cut &lt;b&gt;short" in cells["shown-error"]["text/html"]
    assert "stderr" not in str(cells)
    assert llmock_server.pending() == []


# -- watch_agent.py ------------------------------------------------------------------------------

AGENT = "6f9c1c1e-0b1d-4c5e-9a39-0d2f0c7d8a01"
HEARTBEAT = {"type": "heartbeat", "timestamp": "now"}
GOAL = {"type": "goal_completed", "goal_id": "g-1", "result": None, "success": True}
REVIEW = {
    "type": "hitl_request", "action_sort": "send_mail", "confidence": 0.5, "deadline": None,
    "review_id": "r-1",
}  # fmt: skip
STATE = {"agent": {"goals": ["one", "two"]}}


@pytest.fixture
def reasoning_layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AgentService]]:
    """Makes services that the variables name, and stops them."""
    with contextlib.ExitStack() as stack:

        def make(*talks: Any, **options: Any) -> AgentService:
            path = f"/api/v1/cognitive/agents/{AGENT}/extended-state"
            made = stack.enter_context(AgentService(*talks, answers={path: STATE}, **options))
            monkeypatch.setenv("REASONING_LAYER_URL", made.url)
            monkeypatch.setenv("REASONING_LAYER_TENANT_ID", "tenant")
            return made

        yield make


def test_watch_agent_shows_gaps_and_catches_up_with_a_fresh_token(
    reasoning_layer: Callable[..., AgentService], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    monkeypatch.setenv("TOKEN_FILE", str(token))
    refreshed = threading.Event()

    def tell_and_cut(connection: Any) -> None:
        telling(HEARTBEAT, REVIEW, GOAL, then="no")(connection)
        assert refreshed.wait(DEADLINE)
        cut(connection)

    service = reasoning_layer(tell_and_cut, telling({"type": "new"}))
    with started("watch_agent.py", AGENT) as process:
        out = process.stdout
        assert out is not None
        assert [out.readline() for _ in range(3)] == [
            "-- 2 goals\n",
            "to be reviewed: r-1, send_mail\n",
            "goal g-1: done\n",
        ]
        token.write_text("second\n")
        refreshed.set()
        assert out.readline().startswith("-- events may be missing here: the connection ended")
        after = {out.readline() for _ in range(2)}  # one is told by another thread
        assert after == {"-- 2 goals\n", "-- connected again\n"}
        assert out.readline() == "UnknownEvent(type='new')\n"
        interrupt(process.pid)
        rest, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, rest, err) == (130, "", "reconnecting, attempt 1\n")
    sent = [handshake.headers["authorization"] for handshake in service.handshakes]
    assert sent == ["Bearer first", "Bearer second"]


def test_watch_agent_says_what_went_wrong(
    reasoning_layer: Callable[..., AgentService], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("wrong-and-secret")
    monkeypatch.setenv("TOKEN_FILE", str(tmp_path / "token"))
    reasoning_layer(telling(), tokens=set())
    done = run("watch_agent.py", AGENT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "AuthenticationError: 401 Unauthorized: not with ***\n"


# -- django_management_command.py -----------------------------------------------------------------

SETTINGS = """
import os
INSTALLED_APPS = ["agents"]
SECRET_KEY = "x"
REASONING_LAYER = {"token": "long-and-secret"}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Django project that has the command."""
    commands = tmp_path / "agents" / "management" / "commands"
    commands.mkdir(parents=True)
    for folder in (commands, commands.parent, commands.parents[1]):
        (folder / "__init__.py").touch()
    example = EXAMPLES / "django_management_command.py"
    (commands / "follow_agent.py").write_text(example.read_text())
    (tmp_path / "settings.py").write_text(SETTINGS)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "settings")
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    return tmp_path


@contextlib.contextmanager
def following(project: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "django", "follow_agent", AGENT, "--file", "kept.jsonl"],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_django_command_keeps_events_and_gaps_until_it_is_told_to_end(
    reasoning_layer: Callable[..., AgentService], project: Path, number: int
) -> None:
    service = reasoning_layer(telling(HEARTBEAT, REVIEW, then="cut"), telling(GOAL, GOAL))
    kept = project / "kept.jsonl"
    with following(project) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"following {AGENT}\n"
        service.wait_for_handshakes(2)
        pause = threading.Event()
        while kept.read_text().count("goal_completed") < 2:
            pause.wait(0.01)
        wait_until_it_waits(process.pid)
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (0, "ended\n")
    assert err == "disconnected: the connection ended without a close\n"
    service.wait_until_left()
    records = [json.loads(line) for line in kept.read_text().splitlines()]
    types = ["hitl_request", "gap", "goal_completed", "goal_completed"]
    assert [record["type"] for record in records] == types
    assert records[0]["data"] == REVIEW
    assert service.handshakes[0].headers["authorization"] == "Bearer long-and-secret"


def test_django_command_ends_while_it_waits_for_the_next_attempt(
    reasoning_layer: Callable[..., AgentService], project: Path
) -> None:
    service = reasoning_layer(telling(REVIEW))
    with following(project) as process:
        assert process.stdout is not None
        process.stdout.readline()
        service.stop()
        assert process.stderr is not None
        assert process.stderr.readline().startswith("disconnected: ")
        process.terminate()
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, err) == (0, "ended\n", "")


def test_django_command_ends_while_it_connects(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # which never answers
        monkeypatch.setenv("REASONING_LAYER_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("REASONING_LAYER_TENANT_ID", "tenant")
        with following(project) as process, listener.accept()[0]:
            wait_until_it_waits(process.pid)
            process.terminate()
            out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, err) == (0, "", "")


def test_django_command_fails_when_it_is_refused(
    reasoning_layer: Callable[..., AgentService], project: Path
) -> None:
    reasoning_layer(telling(), tokens=set())
    with following(project) as process:
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (1, "")
    assert err == f"CommandError: {AGENT}: 401 Unauthorized: not with ***\n"


# -- websocket_notebook.ipynb ----------------------------------------------------------------------


def test_websocket_notebook() -> None:
    is_stopped = threading.Event()

    def first(connection: Any) -> None:
        assert json.loads(connection.recv()) == {"subscribe": "ticks"}
        telling({"n": 0}, {"n": 1}, {"n": 2}, then="no")(connection)
        assert is_stopped.wait(DEADLINE)
        telling({"n": 3}, then="cut")(connection)

    def second(connection: Any) -> None:
        assert json.loads(connection.recv()) == {"subscribe": "ticks"}
        telling({"n": 10})(connection)

    def has_come(printed: str) -> bool:
        return "{'n': 2}" in printed

    notebook = nbformat.read(EXAMPLES / "websocket_notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    kernel, shown = Kernel(), {}
    try:
        with AgentService(first, second) as service:
            kernel.run(
                f"import os; os.environ['WEBSOCKET_URL'] = '{service.ws_url}/ticks?t=secret'"
            )
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    stop = has_come if cell.id == "loop" else None
                    *outputs, reply = kernel.run(cell.source, interrupt=stop)
                    if stop:
                        is_stopped.set()
                    texts = [
                        o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs
                    ]
                    shown[cell.id] = "".join(texts)
                    assert reply["status"] == ("error" if stop else "ok")
                    assert reply.get("ename") == ("KeyboardInterrupt" if stop else None)
            service.wait_until_left()
    finally:
        kernel.stop()
    assert shown == {
        "connect": "",
        "next": "{'n': 0}",
        "loop": "{'n': 1}\n{'n': 2}\n",
        "go-on": "{'n': 3}",
        "stats": shown["stats"],
        "events": "messages may be missing here: the connection ended without a close\n"
        "connected again\n{'n': 10}\n",
        "timeout": "no message in time\n",
        "close": f"<WebSocketConnection CLOSED {service.ws_url}/ticks queued=0>",
    }
    assert shown["stats"].startswith("WebSocketStats(received=4, ")
