"""What a response loop sends, read by others: the official client, and our own, over the web."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal, get_args

import openai
import pydantic
import pytest
import requests
from openai.types.responses import ResponseStreamEvent

import reasoning_sdk as r
from tests.support.model_server import Call, Cut, Hang, ModelServer, Refuse, Say
from tests.support.open_responses import check_response, check_stream
from tests.support.processes import ServerProcess
from tests.support.programs import PROGRAMS

DEADLINE = 10.0
TURNS = [
    Call(("add", {"a": 1, "b": 2}), ("shout", {"text": "grüße"}), text="Let me see."),
    Say("It is 3, and GRÜSSE 🌸"),
]
TEXT = "Let me see.It is 3, and GRÜSSE 🌸"
ITEMS = ["message", *["function_call"] * 2, *["function_call_output"] * 2, "message"]
OUTPUTS = {"call_1": "3", "call_2": "GRÜSSE"}

each_api = pytest.mark.parametrize("api", ["chat_completions", "responses"])

WERKZEUG = [sys.executable, str(PROGRAMS / "answering.py")]
GUNICORN = [sys.executable, "-m", "gunicorn", "--worker-class=gthread", "--threads=16"]
GUNICORN += ["--no-control-socket", "answering:django_app"]
SITES: dict[str, Callable[[int], list[str]]] = {
    "Flask, werkzeug": lambda port: [*WERKZEUG, str(port)],
    "Django, gunicorn": lambda port: [*GUNICORN, f"--bind=127.0.0.1:{port}"],
}


class Site(ServerProcess):
    """A web server with a loop behind it, of tests/programs/answering.py."""

    def ended(self, model: ModelServer) -> tuple[int, int]:
        """How many responses have completed and how many have not, when none runs any more."""
        deadline = time.monotonic() + DEADLINE
        while (state := self._state(model))["running"]:
            assert time.monotonic() < deadline, state
        return state["completed"], state["failed"]

    def _state(self, model: ModelServer) -> dict[str, int]:
        state: dict[str, int] = self.control("GET", "/state", headers={"Model": model.url})
        return state


@pytest.fixture(scope="module", params=SITES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    path = f"{PROGRAMS}:{PROGRAMS.parents[1]}"
    with Site(SITES[request.param], environment={"PYTHONPATH": path}) as site:
        site.control("GET", "/state", headers={"Model": "http://127.0.0.1:1/v1"})
        yield site


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server
    server.check()


@pytest.fixture
def official(site: Site, model: ModelServer) -> Iterator[Callable[..., openai.OpenAI]]:
    """The official client of a site, whose model speaks this dialect."""
    made: list[openai.OpenAI] = []

    def make(api: str = "chat_completions") -> openai.OpenAI:
        headers = {"Model": model.url, "Api": api}
        options: dict[str, Any] = {"default_headers": headers, "max_retries": 0}
        made.append(openai.OpenAI(base_url=site.base_url, api_key="k", timeout=DEADLINE, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def own(site: Site, model: ModelServer) -> Iterator[Callable[..., r.ResponsesClient]]:
    """Our own client of a site, whose model speaks this dialect."""
    made: list[r.ResponsesClient] = []

    def make(api: str = "chat_completions") -> r.ResponsesClient:
        session = requests.Session()
        session.headers.update({"Model": model.url, "Api": api})
        options: dict[str, Any] = {"session": session, "retry": r.RetryPolicy(max_attempts=0)}
        made.append(r.ResponsesClient("m", base_url=site.base_url, api_key="k", **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


Official = Callable[..., openai.OpenAI]
Own = Callable[..., r.ResponsesClient]


# -- the official client ---------------------------------------------------------------------------


@each_api
def test_the_official_client_reads_a_stream_to_its_end(
    model: ModelServer, official: Official, api: str
) -> None:
    model.then(*TURNS)
    with official(api).responses.stream(model="m", input="go") as stream:
        events = list(stream)
        final = stream.get_final_response()
    text = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(text) > 2
    assert "".join(text) == final.output_text == TEXT
    told = [e.snapshot for e in events if e.type == "response.function_call_arguments.delta"]
    assert [told[-1], final.output[2].arguments] == ['{"text":"grüße"}'] * 2
    assert [item.type for item in final.output] == ITEMS
    results = {o.call_id: o.output for o in final.output if o.type == "function_call_output"}
    assert results == OUTPUTS
    assert final.status == "completed"
    assert final.usage is not None
    assert (final.usage.input_tokens, final.usage.output_tokens) == (22, 14)
    assert events[-1].type == "response.completed"


def test_the_official_client_has_each_item_where_it_was_announced(
    model: ModelServer, official: Official
) -> None:
    model.then(*TURNS)
    with official().responses.stream(model="m", input="go") as stream:
        done = [event for event in stream if event.type == "response.output_item.done"]
        final = stream.get_final_response()
    for event in done:
        assert final.output[event.output_index].id == event.item.id
    assert len(done) == len(final.output)


@each_api
def test_the_official_client_reads_events_one_by_one(
    model: ModelServer, official: Official, api: str
) -> None:
    model.then(*TURNS)
    with official(api).responses.create(model="m", input="go", stream=True) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == TEXT


def test_the_official_types_take_every_event_to_the_letter(model: ModelServer, own: Own) -> None:
    """The client itself would take anything."""
    model.then(*TURNS, Say(refusal="No."), Say("Hello, wor", finish_reason="length"), Refuse(400))
    types = {known.model_fields["type"].annotation: known for known in official_types()}
    count = 0
    for _ in range(4):
        with suppress(r.ResponseError):
            for event in own().stream("go"):
                response = event.data.get("response") or {}
                response.pop("usage", None)  # it wants more there than the specification has
                if response.get("error"):
                    response["error"]["code"] = "server_error"  # of those that it lists
                types[Literal[event.type]].model_validate(event.data)
                count += 1
    assert count > 40


def official_types() -> tuple[type[pydantic.BaseModel], ...]:
    """The classes of the events."""
    union, *_ = get_args(ResponseStreamEvent)
    types: tuple[type[pydantic.BaseModel], ...] = get_args(union)
    return types


@each_api
def test_the_official_client_gets_a_whole_response(
    model: ModelServer, official: Official, api: str
) -> None:
    model.then(*TURNS)
    response = official(api).responses.create(model="m", input="go", metadata={"a": "b"})
    assert response.output_text == TEXT
    assert [item.type for item in response.output] == ITEMS
    assert response.metadata == {"a": "b"}
    check_response(response.to_dict())


def test_the_official_client_is_told_what_is_wrong_with_a_request(
    model: ModelServer, official: Official
) -> None:
    with pytest.raises(openai.BadRequestError, match="input"):
        official().responses.create(model="m", input=17)  # type: ignore[call-overload]
    with pytest.raises(openai.BadRequestError, match="input"):
        official().responses.create(model="m", input=17, stream=True)  # type: ignore[call-overload]
    assert model.bodies == []


@pytest.mark.parametrize("turn", [Refuse(400), Cut(3), Refuse(401)], ids=["400", "cut", "401"])
def test_the_official_client_is_told_that_a_response_has_failed(
    model: ModelServer, official: Official, turn: Any
) -> None:
    model.then(turn)
    with official().responses.create(model="m", input="go", stream=True) as stream:
        last = list(stream)[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert last.response.error.message


def test_the_official_client_chains_responses(model: ModelServer, official: Official) -> None:
    model.then(Say("I am Ada."), Say("Ada."))
    client = official()
    first = client.responses.create(model="m", input="Who are you?")
    second = client.responses.create(
        model="m", input="Again?", previous_response_id=first.id, instructions="Be short."
    )
    assert second.output_text == "Ada."
    assert second.previous_response_id == first.id
    assert [(said["role"], said["content"]) for said in model.bodies[1]["messages"]] == [
        ("system", "Be short."), ("user", "Who are you?"),
        ("assistant", "I am Ada."), ("user", "Again?"),
    ]  # fmt: skip


def test_the_official_client_calls_tools_of_its_own(model: ModelServer, official: Official) -> None:
    model.then(Call(("open_door", {"n": 1}), text="One moment."), Say("It is open."))
    tool: Any = {"type": "function", "name": "open_door", "parameters": {"type": "object"}}
    client = official()
    with client.responses.stream(model="m", input="go", tools=[tool]) as stream:
        first = stream.get_final_response()
    call = first.output[1]
    assert (call.type, call.name, call.arguments) == ("function_call", "open_door", '{"n":1}')
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "open"}
    second = client.responses.create(
        model="m", input=[result], previous_response_id=first.id, tools=[tool]
    )
    assert second.output_text == "It is open."
    assert model.bodies[1]["messages"][-1]["content"] == "open"


# -- our own client --------------------------------------------------------------------------------


@each_api
def test_our_client_reads_a_stream_that_keeps_the_rules(
    model: ModelServer, own: Own, api: str
) -> None:
    model.then(*TURNS)
    stream = own(api).stream("go")
    events = [event.data for event in stream]
    check_stream(events)
    final = stream.until_done()
    assert final.output_text == stream.text == TEXT
    assert [item["type"] for item in final.output] == ITEMS
    assert events[-1]["response"] == final.data


@each_api
def test_our_client_reads_texts_and_items_as_they_come(
    model: ModelServer, own: Own, api: str
) -> None:
    model.then(*TURNS, *TURNS)
    deltas = list(own(api).stream("go").text_deltas())
    assert len(deltas) > 2
    assert "".join(deltas) == TEXT
    items = list(own(api).stream("go").output_items())
    assert sorted(item["type"] for item in items) == sorted(ITEMS)
    results = [item["output"] for item in items if item["type"] == "function_call_output"]
    assert sorted(results) == sorted(OUTPUTS.values())


def test_our_client_gets_a_whole_response(model: ModelServer, own: Own) -> None:
    model.then(*TURNS)
    assert own().create("go").output_text == TEXT


def test_our_client_reads_what_has_not_completed(model: ModelServer, own: Own) -> None:
    model.then(Say("Hello, wor", finish_reason="length"), Refuse(400))
    with pytest.raises(r.ResponseIncompleteError) as incomplete:
        own().stream("go").until_done()
    assert incomplete.value.text == "Hello, wor"
    with pytest.raises(r.ResponseFailedError, match="refused"):
        own().stream("go").until_done()
    with pytest.raises(r.BadRequestError, match="temperature"):
        own().stream("go", temperature="warm")


def test_a_loop_may_be_the_model_of_another(site: Site, model: ModelServer) -> None:
    model.then(Say("from below"), Say("from below"))
    session = requests.Session()
    session.headers["Model"] = model.url
    upstream = r.UpstreamTarget(site.base_url, api="responses")
    sink = r.RecordingSink()
    with r.ResponseLoop(upstream, session=session) as loop:
        assert loop.run({"model": "m", "input": "go"}, sink=sink)["status"] == "completed"
        assert loop.run({"model": "m", "input": "go"})["status"] == "completed"
    check_stream([event.data for event in sink.events])


# -- the wire --------------------------------------------------------------------------------------


def test_events_come_as_they_are_made(model: ModelServer, official: Official, own: Own) -> None:
    model.then(Say("Hello, world!", gate="first"), Say("Hello, world!", gate="second"))
    with official().responses.create(model="m", input="go", stream=True) as stream:
        first = next(event for event in stream if event.type == "response.output_text.delta")
        assert first.delta != "Hello, world!"
        model.open("first")
        assert list(stream)[-1].type == "response.completed"
    deltas = (mine := own().stream("go")).text_deltas()
    assert next(deltas) == mine.text != "Hello, world!"
    model.open("second")
    assert mine.until_done().output_text == "Hello, world!"


def test_comments_come_while_nothing_happens(site: Site, model: ModelServer) -> None:
    model.then(Say("Hello, world!", gate="held"))
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(
            f"{site.base_url}/responses",
            json={"model": "m", "input": "go", "stream": True},
            headers={"Model": model.url},
            stream=True,
            timeout=DEADLINE,
        )
        lines = answer.iter_lines()
        assert answer.headers["Content-Type"].partition(";")[0] == "text/event-stream"
        told = []
        while told.count(b": keep-alive") < 2:
            told.append(next(lines))
        model.open("held")
        told += lines
    assert told[:2] == [b"event: response.created", b"id: 0"]
    assert told[2].startswith(b'data: {"type":"response.created","sequence_number":0,')
    assert any(line == b"event: response.completed" for line in told)


def test_comments_disturb_neither_client(model: ModelServer, official: Official, own: Own) -> None:
    model.then(Say("Hello, world!", gate="first"), Say("Hello, world!", gate="second"))
    pause = threading.Event()
    with official().responses.stream(model="m", input="go") as stream:
        assert next(iter(stream)).type == "response.created"
        pause.wait(0.35)  # there is one each 0.1 s
        model.open("first")
        assert stream.get_final_response().output_text == "Hello, world!"
    mine = own().stream("go")
    pause.wait(0.35)
    model.open("second")
    assert mine.until_done().output_text == "Hello, world!"


@pytest.mark.parametrize("how", ["official", "own", "bare"])
@pytest.mark.parametrize("then", ["speaks", "is silent", "has not answered"])
def test_a_client_that_goes_away_cancels_the_model_call(
    site: Site, model: ModelServer, official: Official, own: Own, how: str, then: str
) -> None:
    """Comments tell the server of it, when nothing else does."""
    completed, failed = site.ended(model)  # of a model before, at the same port
    held = Say("Hello, world! " * 50, pieces=50, gate="held")
    model.then({"speaks": held, "is silent": Hang(after=3), "has not answered": Hang()}[then])
    body = {"model": "m", "input": "go", "stream": True}
    wanted = "response.in_progress" if then == "has not answered" else "response.output_text.delta"
    if how == "official":
        stream = official().responses.create(model="m", input="go", stream=True)
        assert any(event.type == wanted for event in stream)
        stream.close()
    elif how == "own":
        mine = own().stream("go")
        assert any(event.type == wanted for event in mine)
        mine.close()
    else:
        with requests.Session() as session:
            session.trust_env = False
            headers = {"Model": model.url}
            url = f"{site.base_url}/responses"
            answer = session.post(url, json=body, headers=headers, stream=True, timeout=DEADLINE)
            assert any(wanted.encode() in line for line in answer.iter_lines())
            answer.close()
    assert site.ended(model) == (completed, failed + 1)
    model.open("held")
    model.http.wait_no_connections(DEADLINE)


def test_a_client_that_goes_away_while_tools_run_has_them_told_to_stop(
    site: Site, model: ModelServer, own: Own
) -> None:
    completed, failed = site.ended(model)
    model.then(Call(("linger", {}), ("linger", {})))
    stream = own().stream("go")
    added = (e.data["item"] for e in stream if e.type == "response.output_item.added")
    assert any(item["type"] == "function_call_output" for item in added)
    stream.close()
    assert site.ended(model) == (completed, failed + 1)
    assert len(model.bodies) == 1


def test_many_clients_at_once(official: Official) -> None:
    """Each gets its own answer."""

    def turn(body: dict[str, Any]) -> Say:
        asked = body["messages"][0]["content"]
        if body["messages"][-1]["role"] == "tool":
            return Say(f"{asked}: {body['messages'][-1]['content']}")
        return Call(("shout", {"text": asked}))

    with ModelServer(turn) as shared:
        headers = {"Model": shared.url}

        def ask_official(n: int) -> str:
            with official().responses.stream(
                model="m", input=f"o{n}", extra_headers=headers
            ) as stream:
                return stream.get_final_response().output_text

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask_official, range(24))) == [f"o{n}: O{n}" for n in range(24)]
