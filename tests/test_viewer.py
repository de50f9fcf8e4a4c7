"""ViewerClient: what it sends, where and with which signature, and that it is never in the way."""

import copy
import datetime
import decimal
import enum
import gc
import json
import logging
import os
import pickle
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests
import urllib3

import reasoning_sdk as r
from reasoning_sdk._io.spool import Spool
from tests.support import recordings
from tests.support.scripted import (
    Connection,
    Handler,
    ScriptedServer,
    answer,
    json_answer,
    reset,
    silence,
)
from tests.support.threads import InThread

FUTURE = hasattr(urllib3, "AsyncPoolManager")
pytestmark = pytest.mark.http

Scripted = Callable[..., ScriptedServer]
Make = Callable[..., r.ViewerClient]
ROOT = Path(__file__).resolve().parents[1]
SECRET = "sig-very-secret-0123456789"
OTHER = "another-secret-9876543210"
OK = json_answer(200, {})
HANGS = silence(headers=False)
QUICK = r.RetryPolicy(initial_interval=0.01, max_interval=0.05, randomization_factor=0)
ONCE = r.RetryPolicy(max_attempts=0)
AGENT, FUNCTION = "/agent/completions", "/functions/executions"


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes clients with quick retries, for a server or an address, and closes them."""
    made: list[r.ViewerClient] = []

    def client(to: ScriptedServer | str | None = None, *args: Any, **options: Any) -> Any:
        address = to.url() if isinstance(to, ScriptedServer) else to
        made.append(r.ViewerClient(address, *args, **{"retry": QUICK, **options}))
        return made[-1]

    yield client
    for client_ in made:
        client_.close(0)
        stats = client_.stats
        assert (stats.in_flight, stats.queued if client_._spool is None else 0) == (0, 0)


@pytest.fixture
def nobody() -> str:
    """An address that refuses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


class Losses:
    """An ``on_error`` that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[r.LostEvent, Exception]] = []
        self.threads: set[str] = set()

    def __call__(self, event: r.LostEvent, error: Exception) -> None:
        self.threads.add(threading.current_thread().name)
        self.told.append((event, error))

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event, _ in self.told]


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        pause.wait(0.002)


def sent(server: ScriptedServer) -> list[Any]:
    return [request.json() for request in server.requests]


def signatures(server: ScriptedServer) -> list[str | None]:
    return [request.headers.get("x-viewer-signature") for request in server.requests]


def dropped(client: r.ViewerClient) -> dict[str, int]:
    return dict(client.stats.dropped)


def our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("reasoning-sdk")]


# -- what is sent ------------------------------------------------------------------------------

SENDERS = [
    ("send_agent_completion_begin", AGENT),
    ("send_agent_completion_continue", AGENT),
    ("send_agent_completion_error", AGENT),
    ("send_function_execution_begin", FUNCTION),
    ("send_function_execution_continue", FUNCTION),
    ("send_function_execution_error", FUNCTION),
]


def send(client: r.ViewerClient, name: str, id: Any, payload: Any, **options: Any) -> bool:
    sender = getattr(client, name)
    if name.endswith("continue"):
        return bool(sender({"id": id, **payload}, **options))
    return bool(sender(id, payload, **options))


@pytest.mark.parametrize(("name", "path"), SENDERS)
def test_each_sender_posts_its_event(scripted: Scripted, make: Make, name: str, path: str) -> None:
    server = scripted(OK)
    viewer = make(server, SECRET)
    assert send(viewer, name, "run-1", {"code": 1, "message": "ü"}) is True
    assert viewer.flush()
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", path)
    assert request.body == '{"id":"run-1","code":1,"message":"ü"}'.encode()
    headers = {name.lower(): value for name, value in request.header_lines}
    assert len(headers) == len(request.header_lines)
    assert headers["content-type"] == "application/json"
    assert headers["x-viewer-signature"] == SECRET
    assert headers["user-agent"] == f"reasoning-sdk/{r.__version__}"
    assert str(uuid.UUID(headers["idempotency-key"])) == headers["idempotency-key"]


def test_an_event_has_its_own_key_on_every_try(scripted: Scripted, make: Make) -> None:
    server = scripted([answer(503), reset(), OK, answer(500), OK, OK])
    first, second = make(server), make(server)
    first.send_agent_completion_begin("a", {})
    assert first.flush()
    first.send_agent_completion_continue({"id": "a"})
    assert first.flush()
    second.send_agent_completion_begin("a", {})
    assert second.flush()
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys[0] == keys[1] == keys[2]
    assert keys[3] == keys[4]
    assert len(set(keys)) == 3
    # After the reset of a kept connection it is sent again at once, which is no retry of ours;
    # urllib3-future leaves that to us.
    assert first.stats.retries == (3 if FUTURE else 2)


@pytest.mark.parametrize("name", ["agent_completion", "function_execution"])
def test_the_id_comes_first_and_wins_over_a_member(
    scripted: Scripted, make: Make, name: str
) -> None:
    server = scripted(OK, repeat_last=True)
    viewer = make(server)
    begin, error = (getattr(viewer, f"send_{name}_{kind}") for kind in ("begin", "error"))
    begin("mine", {"model": "gpt-5", "id": "theirs", "input": [1, None]})
    error("mine", {"id": "theirs", "code": 7, "message": {"any": ["json"]}})
    assert viewer.flush()
    assert [request.body for request in server.requests] == [
        b'{"id":"mine","model":"gpt-5","input":[1,null]}',
        b'{"id":"mine","code":7,"message":{"any":["json"]}}',
    ]


def test_a_chunk_goes_as_it_is(scripted: Scripted, make: Make) -> None:
    server = scripted(OK, repeat_last=True)
    viewer = make(server)
    viewer.send_agent_completion_continue({"choices": [{"delta": "x"}], "id": "a", "n": None})
    assert viewer.flush()
    assert server.requests[0].body == b'{"choices":[{"delta":"x"}],"id":"a","n":null}'


class Colour(enum.Enum):
    RED = "red"


@attrs.frozen
class Usage:
    tokens: int
    cost: decimal.Decimal


@dataclass
class Params:
    id: str
    usage: Usage
    at: datetime.datetime
    colour: Colour
    trace: uuid.UUID


PARAMS = Params(
    id="p",
    usage=Usage(7, decimal.Decimal("0.10")),
    at=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
    colour=Colour.RED,
    trace=uuid.UUID(int=1),
)
REST = {
    "usage": {"tokens": 7, "cost": "0.10"},
    "at": "2026-01-02T03:04:05+00:00",
    "colour": "red",
    "trace": "00000000-0000-0000-0000-000000000001",
}


def test_payloads_may_be_instances_and_hold_rich_values(scripted: Scripted, make: Make) -> None:
    server = scripted(OK, repeat_last=True)
    viewer = make(server)
    viewer.send_agent_completion_begin("a", PARAMS)
    viewer.send_agent_completion_begin("b", Usage(1, decimal.Decimal(2)))
    viewer.send_agent_completion_continue(PARAMS)
    viewer.send_function_execution_error("e", Usage(3, decimal.Decimal(4)))
    viewer.send_function_execution_begin("m", os.environ.__class__ and Counter(x=1))
    assert viewer.flush()
    by_id = {event["id"]: event for event in sent(server)}
    assert by_id == {
        "a": {"id": "a", **REST},
        "b": {"id": "b", "tokens": 1, "cost": "2"},
        "p": {"id": "p", **REST},
        "e": {"id": "e", "tokens": 3, "cost": "4"},
        "m": {"id": "m", "x": 1},
    }


@pytest.mark.parametrize("id", [7, 1.5, True, uuid.UUID(int=2), Colour.RED, "", "ü\n", [1, "a"]])
def test_ids_may_be_anything_that_is_json(scripted: Scripted, make: Make, id: Any) -> None:
    server = scripted(OK, repeat_last=True)
    losses = Losses()
    viewer = make(server, on_error=losses)
    assert viewer.send_agent_completion_begin(id, {})
    assert viewer.send_agent_completion_continue({"id": id})
    assert viewer.flush()
    first, second = sent(server)
    assert first == second
    assert first["id"] == (
        id if isinstance(id, (int, float, str, list)) else getattr(id, "value", str(id))
    )


class Failure(Exception):
    pass


def status(code: int) -> r.APIStatusError:
    return r.APIStatusError.for_status(code)(
        f"{code} no",
        status_code=code,
        body=None,
        headers={},
        request_id=None,
        retry_after=None,
        code=None,
        server_message="no",
    )


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Failure("what went wrong"), 500, "what went wrong"),
        (Failure(), 500, "Failure"),
        (KeyboardInterrupt(), 500, "KeyboardInterrupt"),
        (GeneratorExit(), 500, "GeneratorExit"),
        (status(429), 429, "429 no"),
        (status(503), 503, "503 no"),
        (r.ConnectError("nobody there"), 500, "nobody there"),
    ],
)
def test_an_exception_is_sent_as_code_and_message(
    scripted: Scripted, make: Make, error: BaseException, code: int, message: str
) -> None:
    server = scripted(OK, repeat_last=True)
    viewer = make(server)
    viewer.send_agent_completion_error("a", error)
    assert viewer.flush()
    assert sent(server) == [{"id": "a", "code": code, "message": message}]


def test_an_event_is_written_down_at_once(scripted: Scripted, make: Make) -> None:
    server = scripted(OK, repeat_last=True)
    viewer = make(server)
    request: dict[str, Any] = {"input": [1]}
    viewer.send_agent_completion_begin("a", request)
    request["input"].append(2)
    request["more"] = True
    chunk = {"id": "a", "delta": ["x"]}
    viewer.send_agent_completion_continue(chunk)
    chunk.clear()
    assert viewer.flush()
    assert sent(server) == [{"id": "a", "input": [1]}, {"id": "a", "delta": ["x"]}]
    assert request == {"input": [1, 2], "more": True}


# -- addresses and signatures ------------------------------------------------------------------


def test_address_and_signature_are_the_arguments_or_those_of_the_environment(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (make().default_address, make().default_signature) == (None, None)
    monkeypatch.setenv("VIEWER_ADDRESS", "http://env.localhost/p/")
    monkeypatch.setenv("VIEWER_SIGNATURE", SECRET)
    viewer = make()
    assert viewer.default_address == "http://env.localhost/p"
    assert viewer.default_signature == SECRET
    viewer = make("https://arg.localhost//", OTHER)
    assert (viewer.default_address, viewer.default_signature) == ("https://arg.localhost", OTHER)
    viewer = make("", "")
    assert (viewer.default_address, viewer.default_signature) == (None, None)
    monkeypatch.setenv("VIEWER_ADDRESS", "")
    monkeypatch.setenv("VIEWER_SIGNATURE", "")
    assert (make().default_address, make().default_signature) == (None, None)


def test_the_environment_is_read_when_the_client_is_made(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(OK)
    monkeypatch.setenv("VIEWER_ADDRESS", server.url("/base/"))
    monkeypatch.setenv("VIEWER_SIGNATURE", SECRET)
    viewer = make()
    monkeypatch.delenv("VIEWER_ADDRESS")
    monkeypatch.setenv("VIEWER_SIGNATURE", OTHER)
    viewer.send_function_execution_begin("f", {})
    assert viewer.flush()
    assert server.requests[0].path == "/base/functions/executions"
    assert signatures(server) == [SECRET]


def test_without_a_signature_there_is_no_such_header(scripted: Scripted, make: Make) -> None:
    server = scripted(OK)
    viewer = make(server)
    viewer.send_agent_completion_begin("a", {})
    assert viewer.flush()
    assert signatures(server) == [None]


@pytest.mark.parametrize(("name", "path"), SENDERS)
def test_an_address_of_the_call_never_gets_the_default_signature(
    scripted: Scripted, make: Make, name: str, path: str
) -> None:
    default, other = scripted(OK, repeat_last=True), scripted(OK, repeat_last=True)
    viewer = make(default, SECRET)
    address = other.url("/prefix/")
    assert send(viewer, name, "1", {}, address=address)
    assert send(viewer, name, "2", {}, address=address, signature=OTHER)
    assert send(viewer, name, "3", {}, address=address, signature="")
    assert send(viewer, name, "4", {}, address=default.url())  # given, even if the same
    assert send(viewer, name, "5", {}, signature=OTHER)
    assert send(viewer, name, "6", {}, signature="")
    assert send(viewer, name, "7", {}, address="")
    assert send(viewer, name, "8", {}, address="", signature=OTHER)
    assert viewer.flush()
    found = {e["id"]: s for e, s in zip(sent(other), signatures(other), strict=True)}
    assert found == {"1": None, "2": OTHER, "3": None}
    assert {request.path for request in other.requests} == {f"/prefix{path}"}
    found = {e["id"]: s for e, s in zip(sent(default), signatures(default), strict=True)}
    assert found == {"4": None, "5": OTHER, "6": None, "7": SECRET, "8": OTHER}


def test_a_redirect_takes_the_signature_nowhere(scripted: Scripted, make: Make) -> None:
    other = scripted()
    server = scripted(answer(307, headers={"Location": other.url()}))
    viewer = make(server, SECRET)
    viewer.send_agent_completion_begin("a", {})
    assert not viewer.flush()
    assert other.requests == []
    assert dropped(viewer) == {"rejected": 1}


def test_without_an_address_events_are_counted_and_that_is_told_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    losses = Losses()
    viewer = make(on_error=losses, strict=True)
    for number in range(5):
        assert viewer.send_agent_completion_begin(str(number), {}) is False
    assert dropped(viewer) == {"no_address": 5}
    assert viewer.stats.submitted == 5
    assert viewer.flush(), "none of them was accepted"
    viewer.close()
    (told,) = caplog.messages
    assert told == (
        "an event for a viewer was lost (no_address): no address: give address, or set "
        "VIEWER_ADDRESS; others lost like this are counted"
    )
    event, error = losses.told[3]
    assert event == r.LostEvent(reason="no_address", url="", id="3", body=b'{"id":"3"}')
    assert isinstance(error, r.ConfigurationError)


BAD_ADDRESSES: list[Any] = [
    "viewer.example", "ftp://h", "http://", "http://u:p@h", "http://h?x=1", "http://h#f",
    "http://h h", "http://[bad", "http://h:99999", "http://h\n", 5, 0, False, b"", b"http://h",
    [1], {}, object(),
]  # fmt: skip
BAD_SIGNATURES: list[Any] = [
    f"{SECRET}\n", f" {SECRET}", f"{SECRET}\x00", SECRET + "東", SECRET.encode(), b"", 5, 0, False,
    [SECRET], {},
]  # fmt: skip


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("option", "value"),
    [*(("address", a) for a in BAD_ADDRESSES), *(("signature", s) for s in BAD_SIGNATURES)],
)
def test_an_address_or_signature_of_the_call_that_cannot_be_makes_the_event_invalid(
    make: Make, caplog: pytest.LogCaptureFixture, option: str, value: Any, strict: bool
) -> None:
    losses = Losses()
    viewer = make("http://127.0.0.1:1", on_error=losses, strict=strict)
    options = {option: value}
    if strict:
        with pytest.raises(r.InvalidEventError, match=option) as caught:
            viewer.send_agent_completion_begin("a", {}, **options)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
    else:
        assert viewer.send_agent_completion_begin("a", {}, **options) is False
    assert dropped(viewer) == {"invalid": 1}
    viewer.close()
    ((event, error),) = losses.told
    assert (event.reason, event.id) == ("invalid", "a")
    assert option in str(error)
    assert option in caplog.text
    assert SECRET not in caplog.text + repr(losses.told)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("address", a) for a in BAD_ADDRESSES),
        *(("signature", s) for s in BAD_SIGNATURES),
        *(("retry", v) for v in (5, "quick", {})),
        *(("max_queue", v) for v in (0, -1, 1.5, True, "5", float("inf"))),
        *(("max_queue_bytes", v) for v in (0, -1, 1.5, True, "5", float("nan"))),
        *(("overflow", v) for v in ("block", "", None, 1, [])),
        *(("workers", v) for v in (0, -1, 1.5, True, None, "1", 257)),
        *(("timeout", v) for v in (0, -1, True, "5", float("nan"), float("inf"))),
        *(("spool", v) for v in (5, b"x", True, [])),
        *(("on_error", v) for v in (5, "print", [])),
        *(("exit_timeout", v) for v in (-1, None, True, "5", float("nan"), float("inf"))),
        *(("session_factory", v) for v in (5, "requests", requests.Session())),
    ],
)
def test_an_argument_that_cannot_work_is_refused_by_its_name(option: str, value: Any) -> None:
    with pytest.raises(r.ConfigurationError, match=f"^{option} must|^{option} has") as caught:
        r.ViewerClient(**{option: value})
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_spool_that_is_no_directory_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(r.ConfigurationError, match=r"^spool must"):
        r.ViewerClient(spool=tmp_path / "file")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("VIEWER_ADDRESS", "viewer.example"), ("VIEWER_SIGNATURE", f"{SECRET}\n")],
)
def test_a_variable_that_cannot_work_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(r.ConfigurationError, match=variable) as caught:
        r.ViewerClient()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_bounds_may_be_off_and_waits_may_be_nothing(scripted: Scripted, make: Make) -> None:
    server = scripted(OK)
    options = {"max_queue": None, "max_queue_bytes": None, "timeout": None, "exit_timeout": 0}
    viewer = make(server, workers=256, **options)
    viewer.send_agent_completion_begin("a", {})
    assert viewer.flush(None)
    for bad in (-1, True, "5", float("nan")):
        with pytest.raises(r.ConfigurationError, match=r"^timeout must"):
            viewer.flush(bad)  # type: ignore[arg-type]
        with pytest.raises(r.ConfigurationError, match=r"^timeout must"):
            viewer.close(bad)  # type: ignore[arg-type]
    assert viewer.close(None)


def test_more_addresses_than_are_remembered_do_no_harm(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoning_sdk.viewer._MOST_RECIPIENTS", 3)
    server = scripted(OK, repeat_last=True)
    viewer = make(server)
    for number in range(20):
        viewer.send_agent_completion_begin("a", {}, address=server.url(f"/{number % 7}"))
    assert viewer.flush()
    assert Counter(request.path for request in server.requests) == {
        f"/{n}{AGENT}": 3 if n < 6 else 2 for n in range(7)
    }


def test_of_threads_that_use_it_first_all_get_the_same(scripted: Scripted, make: Make) -> None:
    server = scripted(OK, repeat_last=True)
    for _ in range(10):
        viewer = make(server)
        start = threading.Barrier(4)

        def first(viewer: r.ViewerClient = viewer, start: threading.Barrier = start) -> None:
            start.wait()
            viewer.send_agent_completion_begin("a", {})

        threads = [InThread(first) for _ in range(4)]
        for thread in threads:
            assert thread.raises(5.0) is None
        assert viewer.flush()
        assert viewer.stats.delivered == 4


def test_before_its_first_event_a_client_is_nothing_but_a_value(make: Make) -> None:
    before = set(threading.enumerate())
    viewer = make("http://127.0.0.1:1")
    assert viewer.flush()
    assert viewer.stats == r.ViewerStats()
    assert viewer.close()
    assert viewer._publishers == {}
    assert set(threading.enumerate()) == before


# -- what must not be told ---------------------------------------------------------------------


def echo(connection: Connection) -> None:
    mine = connection.request.headers["x-viewer-signature"]
    json_answer(400, {"error": {"message": mine, mine: [mine]}}, {"X-Echo": mine})(connection)


def test_a_signature_is_shown_nowhere(
    scripted: Scripted, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = scripted([echo, echo, answer(503), OK])
    losses = Losses()
    viewer = make(server, SECRET, on_error=losses)
    viewer.send_agent_completion_begin("a", {})
    viewer.send_agent_completion_begin("b", {}, signature=OTHER)
    viewer.send_agent_completion_begin("c", {})
    viewer.flush()
    viewer.close()
    shown = repr(viewer) + str(viewer) + repr(viewer.stats) + caplog.text
    for event, error in losses.told:
        shown += repr(event) + "".join(traceback.format_exception(error)) + repr(vars(error))
        shown += repr(pickle.dumps(error, protocol=0))
    assert len(losses.told) == 2
    assert SECRET not in shown
    assert OTHER not in shown


def test_a_client_shows_where_it_is_and_how_it_goes(scripted: Scripted, make: Make) -> None:
    server = scripted([OK, answer(400)])
    viewer = make(server.url("/private/path"), SECRET)
    where = f"http://127.0.0.1:{server.port}"
    assert repr(viewer) == (f"<ViewerClient {where} queued=0 in_flight=0 delivered=0 dropped=0>")
    viewer.send_agent_completion_begin("a", {})
    viewer.send_agent_completion_begin("a", {})
    viewer.close()
    assert repr(viewer) == (
        f"<ViewerClient {where} closed queued=0 in_flight=0 delivered=1 dropped=1>"
    )
    assert repr(make()).startswith("<ViewerClient no address queued=0")


def test_a_client_is_neither_pickled_nor_copied(make: Make) -> None:
    viewer = make("http://h", SECRET)
    for function in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            function(viewer)  # type: ignore[operator]


def test_the_body_of_a_lost_event_is_not_in_its_repr() -> None:
    event = r.LostEvent(reason="rejected", url="http://h", id="a", body=b"private")
    assert "private" not in repr(event)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.reason = "x"  # type: ignore[misc]


# -- payloads that cannot be -------------------------------------------------------------------


class Raising:
    """Whatever it is asked for, it raises."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        raise ZeroDivisionError(name)


@attrs.define
class Unset:
    x: int = attrs.field(init=False)


@dataclass
class Property:
    x: int

    def __getattribute__(self, name: str) -> Any:
        if name == "x":
            raise ValueError("not today")
        return object.__getattribute__(self, name)


class BadStr:
    def __str__(self) -> str:
        raise ZeroDivisionError("in __str__")

    __repr__ = __str__


class BadEqual:
    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("in __eq__")

    __hash__ = None  # type: ignore[assignment]


class BadMapping(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise ZeroDivisionError("in items")

    def keys(self) -> Any:
        raise ZeroDivisionError("in keys")


def cyclic() -> Any:
    value: dict[str, Any] = {"a": [{}]}
    value["a"][0]["b"] = value["a"]
    return value


INVALID: list[tuple[Any, str]] = [
    *((value, "$") for value in (None, 5, "text", b"{}", [], [("a", 1)], object(), dict)),
    *((value, "$") for value in (Raising(), Unset(), Property(1), BadStr())),
    *(({"a": value}, "$.a") for value in ("\ud800", {1, 2}, object(), {(1, 2): 3}, float("nan"))),
    *(({"a": value}, "$.a") for value in (Raising(), Unset(), BadStr(), decimal.Decimal("NaN"))),
    ({"a": [0, float("inf")]}, "$.a[1]"), ({"a": {"b": b"x"}}, "$.a.b"),
    ({"a b": {"c": b""}}, '$["a b"].c'), (cyclic(), "$.a[0].b"),
    ({"a": BadMapping(b=1)}, "$"),
]  # fmt: skip


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("payload", "path"), INVALID, ids=map(str, range(len(INVALID))))
def test_a_payload_that_cannot_be_json_is_refused_with_its_path(
    make: Make, caplog: pytest.LogCaptureFixture, payload: Any, path: str, strict: bool
) -> None:
    losses = Losses()
    viewer = make("http://127.0.0.1:1", on_error=losses, strict=strict)
    if isinstance(payload, dict):
        payload = {"id": "c", **payload}
    calls: list[Callable[[], bool]] = [
        lambda: viewer.send_agent_completion_begin("a", payload),
        lambda: viewer.send_function_execution_error("b", payload),
        lambda: viewer.send_agent_completion_continue(payload),
    ]
    for call in calls:
        if strict:
            with pytest.raises(r.InvalidEventError) as caught:
                call()
            assert caught.value.path == path
        else:
            assert call() is False
    assert dropped(viewer) == {"invalid": 3}
    assert viewer.stats.submitted == 3
    viewer.close()
    assert losses.reasons == ["invalid"] * 3
    assert [(event.body, event.url) for event, _ in losses.told] == [(b"", "")] * 3
    (record,) = [q for q in caplog.records if q.name == "reasoning_sdk.viewer"]
    assert f"(invalid): {path}" in record.message


def test_a_payload_that_is_nested_too_deeply_is_refused(make: Make) -> None:
    nested: list[Any] = []
    for _ in range(20_000):
        nested = [nested]
    viewer = make("http://127.0.0.1:1")
    assert viewer.send_agent_completion_begin("a", {"nested": nested}) is False
    assert dropped(viewer) == {"invalid": 1}
    while nested:  # to let go of it must not go that deep either
        nested = nested.pop()


@pytest.mark.parametrize("chunk", [{}, {"id": None}, {"delta": "x"}, Usage(1, decimal.Decimal(1))])
def test_a_chunk_without_an_id_is_refused(make: Make, chunk: Any) -> None:
    losses = Losses()
    viewer = make("http://127.0.0.1:1", on_error=losses)
    assert viewer.send_agent_completion_continue(chunk) is False
    assert viewer.send_function_execution_continue(chunk) is False
    assert dropped(viewer) == {"invalid": 2}
    viewer.close()
    error = losses.told[0][1]
    assert isinstance(error, r.InvalidEventError)
    assert error.path == "$.id"


BAD_IDS = [None, b"a", float("nan"), object(), "\ud800", BadStr(), BadEqual(), Raising(), {1: {2}}]


@pytest.mark.parametrize("id", BAD_IDS, ids=map(str, range(len(BAD_IDS))))
def test_an_id_that_cannot_be_is_refused(make: Make, id: Any) -> None:
    losses = Losses()
    viewer = make("http://127.0.0.1:1", on_error=losses)
    assert viewer.send_agent_completion_begin(id, {}) is False
    assert viewer.send_agent_completion_error(id, ValueError("x")) is False
    assert viewer.send_agent_completion_continue({"id": id}) is False
    assert dropped(viewer) == {"invalid": 3}
    viewer.close()
    assert {getattr(error, "path", None) for _, error in losses.told} == {"$.id"}


def test_an_exception_that_cannot_be_written_is_refused(make: Make) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError("in __str__")

    viewer = make("http://127.0.0.1:1")
    assert viewer.send_agent_completion_error("a", Broken()) is False
    assert viewer.stats.submitted == 1


# -- closed ------------------------------------------------------------------------------------


def test_after_a_close_events_are_counted(scripted: Scripted, make: Make) -> None:
    server = scripted(OK)
    losses = Losses()
    viewer = make(server, on_error=losses)
    assert viewer.send_agent_completion_begin("a", {})
    assert viewer.close()
    assert viewer.send_agent_completion_continue({"id": "a"}) is False
    assert viewer.send_agent_completion_continue(object()) is False
    assert dropped(viewer) == {"closed": 2}
    assert viewer.stats.delivered == 1
    wait_until(lambda: losses.reasons == ["closed"] * 2)
    assert [event.body for event, _ in losses.told] == [b"", b""]
    assert isinstance(losses.told[0][1], r.StateError)
    assert len(server.requests) == 1
    wait_until(lambda: our_threads() == [])


def test_after_a_close_strict_raises(make: Make) -> None:
    viewer = make("http://127.0.0.1:1", strict=True)
    assert viewer.close()
    with pytest.raises(r.StateError, match="the client is closed"):
        viewer.send_agent_completion_begin("a", {})
    assert dropped(viewer) == {"closed": 1}
    assert viewer.flush()
    assert viewer.close()


def test_a_with_block_closes(scripted: Scripted) -> None:
    server = scripted([OK, HANGS])
    with r.ViewerClient(server.url()) as viewer:
        viewer.send_agent_completion_begin("a", {})
    assert viewer.stats.delivered == 1
    assert our_threads() == []
    server.wait_no_connections()
    viewer = r.ViewerClient(server.url())

    def use() -> None:
        with viewer as same:
            assert same is viewer
            viewer.send_agent_completion_begin("b", {})
            server.wait_for_requests(2)
            viewer.close(0)
            raise Failure

    with pytest.raises(Failure):
        use()
    assert dropped(viewer) == {"closed": 1}
    assert our_threads() == []


# -- bounds, as arguments ----------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
@pytest.mark.parametrize("bound", [{"max_queue": 3}, {"max_queue_bytes": 33}])
def test_a_stalled_server_costs_no_more_than_the_bounds(
    scripted: Scripted, make: Make, overflow: str, bound: dict[str, int]
) -> None:
    def handle(connection: Connection) -> None:
        connection.gate("go")
        OK(connection)

    server = scripted(handle, repeat_last=True)
    losses = Losses()
    viewer = make(server, overflow=overflow, on_error=losses, **bound)
    viewer.send_agent_completion_begin("a", {})
    server.wait_for_requests(1)
    queued = [viewer.send_agent_completion_continue({"id": n}) for n in range(100, 110)]
    assert queued == [True] * 3 + [overflow == "drop_oldest"] * 7
    stats = viewer.stats
    assert (stats.queued, stats.queued_bytes, stats.in_flight) == (3, 30, 1)
    assert (stats.dropped, stats.submitted) == ({"queue_full": 7}, 11)
    server.open("go")
    assert viewer.flush() is (overflow == "drop_newest")
    kept = range(100, 103) if overflow == "drop_newest" else range(107, 110)
    assert [event["id"] for event in sent(server)] == ["a", *kept]
    viewer.close()
    lost = range(103, 110) if overflow == "drop_newest" else range(100, 107)
    assert [event.body for event, _ in losses.told] == [b'{"id":%d}' % n for n in lost]


def test_stats_are_a_frozen_snapshot(scripted: Scripted, make: Make) -> None:
    server = scripted([OK, answer(400)])
    viewer = make(server)
    before = viewer.stats
    assert before == r.ViewerStats()
    assert before.dropped["whatever"] == 0
    viewer.send_agent_completion_begin("a", {})
    viewer.send_agent_completion_begin("a", {})
    viewer.flush()
    assert before == r.ViewerStats()
    after = viewer.stats
    assert after == r.ViewerStats(delivered=1, dropped=Counter(rejected=1))
    assert after.submitted == 2
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        after.queued = 5  # type: ignore[misc]
    after.dropped["rejected"] = 7
    assert viewer.stats.dropped["rejected"] == 1


def test_many_threads_may_send_while_a_server_misbehaves(scripted: Scripted, make: Make) -> None:
    moods: list[Handler] = [OK, answer(503), OK, reset(), answer(404), OK, answer(429)]
    lock = threading.Lock()

    def moody(connection: Connection) -> None:
        with lock:
            moods.append(moods.pop(0))
            mood = moods[-1]
        mood(connection)

    server = scripted(moody, repeat_last=True)
    losses = Losses()
    viewer = make(server, workers=4, on_error=losses, retry=attrs.evolve(QUICK, max_attempts=3))
    done, wrong, begun = threading.Event(), [], [0] * 8

    def sender(number: int) -> None:
        for event in range(60):
            begun[number] += 1
            payload = {"n": object()} if event % 10 == 9 else {"n": event}
            viewer.send_agent_completion_begin(f"run-{number}", payload)

    def watch() -> None:
        while not done.is_set():
            before = sum(begun) - 8
            stats = viewer.stats
            parts = stats.delivered + stats.dropped.total() + stats.queued + stats.in_flight
            if not (before <= stats.submitted <= sum(begun) and parts == stats.submitted):
                wrong.append((before, stats, sum(begun)))

    watching = InThread(watch)
    senders = [InThread(lambda n=n: sender(n)) for n in range(8)]  # type: ignore[misc]
    for thread in senders:
        assert thread.raises(20.0) is None
    viewer.flush(20.0)
    done.set()
    assert watching.raises() is None
    assert wrong == []
    stats = viewer.stats
    assert (stats.submitted, stats.queued, stats.in_flight) == (480, 0, 0)
    assert stats.dropped["invalid"] == 48
    viewer.close()
    assert Counter(losses.reasons) == stats.dropped
    order: dict[str, list[int]] = {}
    for event in sent(server):
        numbers = order.setdefault(event["id"], [])
        if not numbers or numbers[-1] != event["n"]:
            numbers.append(event["n"])
    for numbers in order.values():
        assert numbers == sorted(numbers)


# -- options that are passed on ----------------------------------------------------------------


def test_one_try_takes_no_longer_than_the_timeout(scripted: Scripted, make: Make) -> None:
    server = scripted([HANGS, OK])
    viewer = make(server, timeout=0.2)
    began = time.monotonic()
    viewer.send_agent_completion_begin("a", {})
    assert viewer.flush()
    assert 0.2 <= time.monotonic() - began < 2.0
    assert viewer.stats.retries == 1


def test_sessions_of_the_callers_are_used_as_they_are(scripted: Scripted, make: Make) -> None:
    server = scripted(OK, tls=True)

    def session() -> requests.Session:
        made = requests.Session()
        made.verify = server.ca_file
        made.headers["X-Team"] = "a"
        return made

    viewer = make(server.url(host="localhost"), SECRET, session_factory=session)
    viewer.send_agent_completion_begin("a", {})
    assert viewer.flush()
    assert server.requests[0].headers["x-team"] == "a"
    assert signatures(server) == [SECRET]


@pytest.mark.parametrize("factory", [lambda: None, lambda: 1 / 0])
def test_a_session_factory_that_fails_loses_events_as_internal(
    make: Make, caplog: pytest.LogCaptureFixture, factory: Any
) -> None:
    losses = Losses()
    viewer = make("http://127.0.0.1:1", session_factory=factory, on_error=losses)
    viewer.send_agent_completion_begin("a", {})
    assert not viewer.flush()
    viewer.close()
    assert losses.reasons == ["internal"]
    assert len(caplog.records) == 1


def test_a_viewer_behind_a_refusing_proxy_is_tried_again(
    scripted: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def through(connection: Connection) -> None:
        connection.headers(200, reason="Connection established")
        connection.start_tls()

    refused = answer(502, headers={"Connection": "close"})
    proxy = scripted([refused, refused, through, OK])
    monkeypatch.setenv("https_proxy", proxy.url())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(scripted(tls=True).ca_file))
    viewer = make("https://api.localhost", SECRET)
    viewer.send_agent_completion_begin("a", {})
    assert viewer.flush()
    assert viewer.stats == r.ViewerStats(delivered=1, retries=2)


# -- on_error ----------------------------------------------------------------------------------


def test_each_loss_is_told_by_a_thread_of_its_own(scripted: Scripted, make: Make) -> None:
    server = scripted([answer(400), answer(500)])
    losses = Losses()
    viewer = make(server, on_error=losses, retry=ONCE)
    viewer.send_agent_completion_begin("a", {"x": 1})
    viewer.send_function_execution_begin("b", {})
    viewer.send_function_execution_begin("c", None)
    assert not viewer.flush()
    viewer.close()
    viewer.send_agent_completion_continue({"id": "d"})
    wait_until(lambda: len(losses.told) == 4)
    told = {event.id: (event, error) for event, error in losses.told}
    event, error = told["a"]
    assert event == r.LostEvent(
        reason="rejected", url=server.url(AGENT), id="a", body=b'{"id":"a","x":1}'
    )
    assert isinstance(error, r.BadRequestError)
    event, error = told["b"]
    assert event == r.LostEvent(
        reason="budget_exhausted", url=server.url(FUNCTION), id="b", body=b'{"id":"b"}'
    )
    assert isinstance(error, r.ServerError)
    assert (told["c"][0].reason, type(told["c"][1])) == ("invalid", r.InvalidEventError)
    assert [event.reason for event, _ in losses.told][3] == "closed"
    assert losses.threads == {"reasoning-sdk.viewer.losses"}


def test_what_on_error_raises_is_logged(
    scripted: Scripted, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: r.LostEvent, error: Exception) -> None:
        raise ZeroDivisionError

    server = scripted([answer(400), OK])
    viewer = make(server, on_error=broken)
    viewer.send_agent_completion_begin("a", {})
    viewer.send_agent_completion_begin("a", {})
    viewer.flush()
    viewer.close()
    assert viewer.stats.delivered == 1
    assert caplog.messages[-1] == "on_error failed"


def test_on_error_may_use_the_client(scripted: Scripted, make: Make) -> None:
    server = scripted([answer(400), OK, OK])
    seen: list[Any] = []

    def use(event: r.LostEvent, error: Exception) -> None:
        if event.id != "a":
            return
        seen.append(viewer.send_agent_completion_error(f"{event.id}-lost", error))
        seen.append(viewer.flush(5.0))
        seen.append(viewer.stats.delivered)
        seen.append(viewer.close(5.0))
        seen.append(viewer.send_agent_completion_begin("late", {}))

    viewer = make(server, on_error=use)
    viewer.send_agent_completion_begin("a", {})
    wait_until(lambda: len(seen) == 5)
    assert seen[0] is True
    assert seen[1] in (True, False)  # the loss itself may have come before or after its begin
    assert seen[2:] == [1, True, False]
    assert sent(server)[1] == {"id": "a-lost", "code": 400, "message": "400 Bad Request"}
    viewer.close()
    wait_until(lambda: our_threads() == [])


def test_two_that_close_each_other_end(scripted: Scripted, make: Make) -> None:
    server = scripted(answer(400), repeat_last=True)
    viewer = make(server, on_error=lambda event, error: viewer.close(0.5))
    for number in range(5):
        viewer.send_agent_completion_begin(str(number), {})
    began = time.monotonic()
    viewer.close(2.0)
    assert time.monotonic() - began < 3.0
    assert viewer.stats.submitted == 5


# -- runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"), [("agent_completion", AGENT), ("function_execution", FUNCTION)]
)
def test_a_run_sends_its_begin_its_chunks_and_its_error(
    scripted: Scripted, make: Make, name: str, path: str
) -> None:
    server = scripted(OK, repeat_last=True)
    viewer = make(server)
    with getattr(viewer, name)("run-1", {"model": "m"}) as run:
        assert run.id == "run-1"
        assert run.continue_({"delta": "x"}) is True
        assert run.continue_({"delta": "y", "id": "own"}) is True
        assert run.continue_({"id": "", "delta": "z"}) is True
        assert run.continue_({"id": None, "delta": "n"}) is True
        assert run.continue_(Usage(1, decimal.Decimal(2))) is True
        assert run.continue_(object()) is False
    with pytest.raises(Failure), getattr(viewer, name)("run-2", {}):
        raise Failure("oh")
    viewer.flush()
    assert {request.path for request in server.requests} == {path}
    events = sent(server)
    assert [event for event in events if event["id"] == "run-1"] == [
        {"id": "run-1", "model": "m"},
        {"id": "run-1", "delta": "x"},
        {"id": "run-1", "delta": "z"},
        {"id": "run-1", "delta": "n"},
        {"id": "run-1", "tokens": 1, "cost": "2"},
    ]
    assert [event for event in sent(server) if event["id"] == "own"] == [
        {"id": "own", "delta": "y"}
    ]
    assert [event for event in events if event["id"] == "run-2"] == [
        {"id": "run-2"},
        {"id": "run-2", "code": 500, "message": "oh"},
    ]
    assert dropped(viewer) == {"invalid": 1}


def test_a_run_has_an_address_and_a_signature(scripted: Scripted, make: Make) -> None:
    default, other = scripted(), scripted(OK, repeat_last=True)
    viewer = make(default, SECRET)

    def use() -> None:
        with viewer.agent_completion("a", {}, address=other.url(), signature=OTHER) as run:
            run.continue_({})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    list(viewer.tee("b", {}, [{}], address=other.url()))
    assert viewer.flush()
    assert sent(other) == [
        {"id": "a"}, {"id": "a"}, {"id": "a", "code": 500, "message": "KeyboardInterrupt"},
        {"id": "b"}, {"id": "b"},
    ]  # fmt: skip
    assert signatures(other) == [OTHER] * 3 + [None] * 2


def test_a_tee_gives_what_the_stream_gives_and_publishes_it(scripted: Scripted, make: Make) -> None:
    server = scripted(OK, repeat_last=True)
    viewer = make(server)
    chunks = [{"n": 1}, {"n": 2}, {"n": 3}]
    begun: list[int] = []

    def stream() -> Iterator[dict[str, int]]:
        for chunk in chunks:
            begun.append(chunk["n"])
            yield chunk

    tee = viewer.tee("a", {"model": "m"}, stream())
    assert begun == []
    first = next(tee)
    assert first is chunks[0]
    assert begun == [1]
    assert list(tee) == chunks[1:]
    assert chunks == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert viewer.flush()
    assert sent(server) == [{"id": "a", "model": "m"}, *({"id": "a", "n": n} for n in (1, 2, 3))]


@pytest.mark.parametrize("end", ["raises", "abandoned", "interrupted"])
def test_a_tee_that_an_exception_ends_sends_an_error_and_one_that_is_left_none(
    scripted: Scripted, make: Make, end: str
) -> None:
    server = scripted(OK, repeat_last=True)
    viewer = make(server)

    def stream() -> Iterator[dict[str, int]]:
        yield {"n": 1}
        raise Failure("the stream broke") if end == "raises" else KeyboardInterrupt

    tee = viewer.tee("a", {}, stream())
    assert next(tee) == {"n": 1}
    if end == "abandoned":
        del tee
        gc.collect()
    else:
        with pytest.raises((Failure, KeyboardInterrupt)):
            next(tee)
    assert viewer.flush()
    messages = {"raises": "the stream broke", "interrupted": "KeyboardInterrupt"}
    errors = [{"id": "a", "code": 500, "message": messages[end]}] if end in messages else []
    assert sent(server)[2:] == errors


def test_a_tee_of_a_response_stream_has_its_events_with_the_id_of_the_run(
    scripted: Scripted, make: Make, tmp_path: Path
) -> None:
    events = recordings.text_response("Hello, world!")
    fixture = tmp_path / "recorded.txt"
    fixture.write_text(recordings.to_fixture(events))
    server = scripted(OK, repeat_last=True)
    viewer = make(server)
    with r.ResponsesClient("m", fixture=fixture) as client, client.stream("Why?") as stream:
        seen = list(viewer.tee("run-1", {"model": "m"}, stream))
        assert stream.text == "Hello, world!"
    assert [event.data for event in seen] == events
    assert all("id" not in event.data for event in seen)
    assert viewer.flush()
    first, *rest = sent(server)
    assert first == {"id": "run-1", "model": "m"}
    assert rest == [{**event, "id": "run-1"} for event in events]


def test_a_tee_of_a_response_that_fails_sends_its_error(
    scripted: Scripted, make: Make, tmp_path: Path
) -> None:
    fixture = tmp_path / "recorded.txt"
    fixture.write_text(recordings.to_fixture(recordings.cut_response("Hello")))
    server = scripted(OK, repeat_last=True)
    viewer = make(server)
    with (
        r.ResponsesClient("m", fixture=fixture) as client,
        client.stream("Why?") as stream,
        pytest.raises(r.StreamInterruptedError) as caught,
    ):
        list(viewer.tee("run-1", {}, stream))
    assert viewer.flush()
    assert sent(server)[-1] == {"id": "run-1", "code": 500, "message": str(caught.value)}


@pytest.mark.parametrize(
    "broken", ["request", "chunks", "closed", "no address", "bad address", "id"]
)
def test_nothing_of_the_publishing_disturbs_a_tee(
    make: Make, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    viewer = make(None if broken == "no address" else "http://127.0.0.1:1")
    chunks: list[Any] = [{"n": 1}, {"n": 2}]
    if broken == "chunks":
        chunks = [b"x", float("nan"), None, 5, object(), {"n": {1}}, Raising(), BadMapping(id=1),
                  {"id": BadEqual()}, {"id": BadStr()}]  # fmt: skip
    if broken == "closed":
        viewer.close()
    seen = list(
        viewer.tee(
            BadStr() if broken == "id" else "a",  # type: ignore[arg-type]
            object() if broken == "request" else {},
            chunks,
            address="nonsense" if broken == "bad address" else None,
        )
    )
    assert len(seen) == len(chunks)
    assert all(one is other for one, other in zip(seen, chunks, strict=True))
    assert viewer.stats.submitted == len(chunks) + 1


def test_a_strict_run_raises_what_a_strict_client_does(make: Make) -> None:
    viewer = make("http://127.0.0.1:1", strict=True)
    with pytest.raises(r.InvalidEventError), viewer.agent_completion("a", object()):
        pytest.fail("it did not begin")
    with viewer.agent_completion("a", {}) as run, pytest.raises(r.InvalidEventError):
        run.continue_(object())
    viewer.close(0)
    with pytest.raises(r.StateError), viewer.function_execution("a", {}):
        pytest.fail("it did not begin")


def test_a_strict_run_leaves_the_exception_that_ends_it_alone(make: Make) -> None:
    viewer = make("http://127.0.0.1:1", strict=True)

    def use() -> None:
        with viewer.agent_completion("a", {}):
            viewer.close(0)
            raise Failure("the real problem")

    with pytest.raises(Failure):
        use()
    assert viewer.stats.dropped["closed"] == 2


# -- the spool ---------------------------------------------------------------------------------


def letters(directory: Path) -> list[Any]:
    path = directory / "dead-letter.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def in_spool(directory: Path) -> int:
    return sum(
        path.read_bytes().count(b'"body":') - path.read_bytes().count(b'"done":')
        for path in directory.glob("events-*")
    )


def test_an_event_is_in_the_spool_before_send_returns(
    scripted: Scripted, make: Make, tmp_path: Path
) -> None:
    server = scripted(HANGS)
    spool = tmp_path / "a" / "spool"
    viewer = make(server, SECRET, spool=spool)
    for number in range(1, 4):
        assert viewer.send_agent_completion_continue({"id": "a", "n": number})
        assert in_spool(spool) == number
    (segment,) = spool.glob("events-*")
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    assert stat.S_IMODE(segment.stat().st_mode) == 0o600
    assert SECRET not in segment.read_text()


def test_what_one_client_leaves_the_next_delivers_with_the_same_key(
    scripted: Scripted, make: Make, tmp_path: Path
) -> None:
    first_server = scripted(HANGS)
    first = make(first_server, SECRET, spool=tmp_path)
    for number in range(5):
        assert first.send_agent_completion_continue({"id": "a", "n": number})
    first_server.wait_for_requests(1)
    assert first.close(0) is False
    stats = first.stats
    assert (stats.submitted, stats.dropped, stats.in_flight) == (5, {}, 0)
    assert in_spool(tmp_path) == 5

    server = scripted(OK, repeat_last=True)
    second = make(server, OTHER, spool=tmp_path)
    assert second.flush(5.0)
    assert [event["n"] for event in sent(server)] == list(range(5))
    assert signatures(server) == [OTHER] * 5
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys[0] == first_server.requests[0].headers["idempotency-key"]
    assert len(set(keys)) == 5
    assert second.stats == r.ViewerStats(delivered=5)
    assert second.close()
    assert list(tmp_path.glob("events-*")) == []
    assert letters(tmp_path) == []


def test_addresses_and_signatures_of_calls_are_kept_and_defaults_are_not(
    scripted: Scripted, make: Make, tmp_path: Path, nobody: str
) -> None:
    other = scripted([answer(503), answer(503), *[OK] * 2])
    slow = attrs.evolve(QUICK, initial_interval=60.0, max_interval=60.0)
    first = make(nobody, SECRET, spool=tmp_path, retry=slow)
    first.send_agent_completion_begin("1", {})
    first.send_agent_completion_begin("2", {}, address=other.url(), signature=OTHER)
    first.send_function_execution_begin("3", {}, address=other.url("/p"))
    first.send_agent_completion_begin("4", {}, signature=OTHER)
    first.send_agent_completion_begin("5", {}, signature="")
    other.wait_for_requests(2)
    wait_until(lambda: first.stats.in_flight == 0)
    first.close(0)
    default = scripted(OK, repeat_last=True)
    second = make(default, "new-signature", spool=tmp_path)
    assert second.flush(5.0)
    found = {e["id"]: s for e, s in zip(sent(default), signatures(default), strict=True)}
    assert found == {"1": "new-signature", "4": OTHER, "5": None}
    late = other.requests[2:]
    assert {(q.json()["id"], q.path, q.headers.get("x-viewer-signature")) for q in late} == {
        ("2", AGENT, OTHER), ("3", f"/p{FUNCTION}", None),
    }  # fmt: skip


def test_events_for_a_default_that_is_not_set_stay_in_the_spool(
    scripted: Scripted, make: Make, tmp_path: Path, nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = make(nobody, spool=tmp_path)
    first.send_agent_completion_begin("1", {})
    first.close(0)
    assert in_spool(tmp_path) == 1
    second = make(spool=tmp_path)
    assert second.flush(5.0) is False
    assert "stay there: no address for them, or they are not ours" in caplog.text
    assert second.stats == r.ViewerStats()
    second.close()
    assert in_spool(tmp_path) == 1
    server = scripted(OK)
    assert make(server, spool=tmp_path).close(5.0)
    assert sent(server) == [{"id": "1"}]
    assert in_spool(tmp_path) == 0


def test_what_others_have_put_into_the_spool_stays_there(
    scripted: Scripted, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path)
    spool.add(str(uuid.uuid4()), b'"path":"/of/others"', b'{"id":"1"}')
    spool.close()
    viewer = make(scripted(), spool=tmp_path)
    assert viewer.flush(5.0) is False
    assert "stay there: no address for them, or they are not ours" in caplog.text
    viewer.close()
    assert in_spool(tmp_path) == 1


@pytest.mark.parametrize("reason", ["rejected", "budget_exhausted"])
def test_what_is_given_up_becomes_a_dead_letter(
    scripted: Scripted, make: Make, tmp_path: Path, reason: str
) -> None:
    server = scripted([answer(400 if reason == "rejected" else 500), OK])
    viewer = make(server, SECRET, spool=tmp_path, retry=ONCE)
    before = time.time()
    viewer.send_agent_completion_begin("a", {"x": [1]})
    viewer.send_agent_completion_begin("a", {})
    assert viewer.flush() is False
    viewer.close()
    (letter,) = letters(tmp_path)
    assert before <= letter.pop("at") <= time.time()
    assert letter.pop("key") == server.requests[0].headers["idempotency-key"]
    assert letter.pop("error").startswith("400 Bad" if reason == "rejected" else "500 Internal")
    assert letter == {"reason": reason, "path": AGENT, "body": {"id": "a", "x": [1]}}
    assert SECRET not in (tmp_path / "dead-letter.jsonl").read_text()
    assert stat.S_IMODE((tmp_path / "dead-letter.jsonl").stat().st_mode) == 0o600
    assert in_spool(tmp_path) == 0
    assert make(server, spool=tmp_path).flush(), "it is not sent again"


def test_dead_letters_that_cannot_be_written_leave_the_event_in_the_spool(
    scripted: Scripted, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "dead-letter.jsonl").mkdir()
    server = scripted(answer(400))
    viewer = make(server, spool=tmp_path)
    viewer.send_agent_completion_begin("a", {})
    assert viewer.flush() is False
    viewer.close()
    assert any("cannot write to the dead letters" in message for message in caplog.messages)
    assert in_spool(tmp_path) == 1


def test_when_the_spool_cannot_be_written_events_are_sent_all_the_same(
    scripted: Scripted, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted(OK, repeat_last=True)
    spool = tmp_path / "spool"
    viewer = make(server, spool=spool)
    spool.rmdir()
    assert viewer.send_agent_completion_begin("a", {})
    assert viewer.flush()
    assert viewer.stats.delivered == 1
    viewer.close()
    assert sum("events are not kept" in message for message in caplog.messages) == 1


def test_with_a_spool_a_flush_of_no_time_is_true_when_all_is_delivered(
    scripted: Scripted, make: Make, tmp_path: Path, nobody: str
) -> None:
    server = scripted(OK, repeat_last=True)
    viewer = make(server, spool=tmp_path)
    assert viewer.flush(0)
    viewer.send_agent_completion_begin("a", {})
    assert viewer.flush(5.0)
    assert viewer.flush(0)
    assert viewer.close(0)
    leaving = make(nobody, spool=tmp_path)
    leaving.send_agent_completion_begin("b", {})
    leaving.close(0)
    finding = make(server, spool=tmp_path)
    finding.flush(0)  # finds it, and may see it delivered
    assert finding.flush(5.0)
    assert sent(server) == [{"id": "a"}, {"id": "b"}]


def test_a_flush_covers_what_ends_up_in_the_spool_while_it_lives(
    scripted: Scripted, make: Make, tmp_path: Path, nobody: str
) -> None:
    server = scripted(OK, repeat_last=True)
    living = make(server, spool=tmp_path)
    assert living.flush()
    other = make(nobody, spool=tmp_path)
    for number in range(3):
        other.send_agent_completion_begin(str(number), {})
    assert living.flush()
    assert server.requests == []  # whose owner lives
    other.close(0)
    assert living.flush()
    assert len(server.requests) == 3


def test_more_than_may_wait_is_taken_from_the_spool_bit_by_bit(
    scripted: Scripted, make: Make, tmp_path: Path, nobody: str
) -> None:
    for number in range(6):
        leaving = make(nobody, spool=tmp_path)
        leaving.send_agent_completion_begin(str(number), {})
        leaving.close(0)
    server = scripted(OK, repeat_last=True)
    viewer = make(server, spool=tmp_path, max_queue=2)
    assert viewer.flush(5.0)
    assert [event["id"] for event in sent(server)] == [str(number) for number in range(6)]


def test_what_a_close_interrupts_stays_in_the_spool_and_is_no_failure(
    scripted: Scripted, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted(HANGS)
    viewer = make(server, spool=tmp_path)
    viewer.send_agent_completion_begin("a", {})
    server.wait_for_requests(1)
    assert viewer.close(0) is False
    assert in_spool(tmp_path) == 1
    assert caplog.messages == []


def test_a_second_close_does_not_wait_for_what_is_kept(
    make: Make, tmp_path: Path, nobody: str
) -> None:
    viewer = make(nobody, spool=tmp_path)
    viewer.send_agent_completion_begin("a", {})
    viewer.close(0)
    began = time.monotonic()
    assert viewer.close(5.0) is False
    assert viewer.flush(5.0) is False
    assert time.monotonic() - began < 0.5


# -- in the middle of anything -----------------------------------------------------------------


def run(program: str, *arguments: str, timeout: float = 30.0) -> Any:
    """Runs a program with the address of a server; what it printed, which is JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    return json.loads(done.stdout)


FLOOD = """
import json, signal, sys, time
from reasoning_sdk import ViewerClient
viewer = ViewerClient(sys.argv[1], max_queue=None)
number, stats = 0, 0
depth = 0
def handler(*_):
    global number, depth
    if depth >= 3:  # it is interrupted by itself, too
        return
    depth += 1
    number += 1
    viewer.send_agent_completion_continue({"id": f"handler {depth}", "n": number})
    viewer.send_agent_completion_continue(object())
    depth -= 1
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
end = time.monotonic() + 1.0
n = 0
while time.monotonic() < end:
    n += 1
    viewer.send_agent_completion_continue({"id": "main", "n": n})
    if n % 50 == 0:
        viewer.stats
        viewer.flush(0.01)
signal.setitimer(signal.ITIMER_REAL, 0)
flushed = viewer.flush(20)
found = viewer.stats
print(json.dumps([n, number, flushed, found.delivered, dict(found.dropped), viewer.close()]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no such signals")
def test_a_signal_handler_may_send_whatever_it_interrupts(scripted: Scripted) -> None:
    server = scripted(OK, repeat_last=True)
    main, handler, flushed, delivered, lost, closed = run(FLOOD, server.url())
    assert min(main, handler) > 50
    assert (flushed, closed) == (True, True)
    assert (delivered, lost) == (main + handler, {"invalid": handler})
    events = sent(server)
    assert [e["n"] for e in events if e["id"] == "main"] == list(range(1, main + 1))
    in_handler = [e["n"] for e in events if e["id"] != "main"]
    assert len(in_handler) == handler


INTERRUPTED = """
import json, random, signal, sys
from reasoning_sdk import ViewerClient
viewer = ViewerClient(sys.argv[1], max_queue=None)
armed = False
def handler(*_):
    if armed:
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
calls = accepted = raised = 0
random.seed(1)
while raised < 1000:
    calls += 1
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 2e-5))
        armed = True
        accepted += viewer.send_agent_completion_continue({"id": calls % 5, "n": calls})
        armed = False
    except KeyboardInterrupt:
        armed = False
        raised += 1
signal.setitimer(signal.ITIMER_REAL, 0)
flushed = viewer.flush(20)
last = viewer.send_agent_completion_begin("last", {}) and viewer.flush(5)
found = viewer.stats
left = [found.queued, found.in_flight, found.queued_bytes, viewer._publisher()._inbox_bytes]
print(json.dumps([calls, accepted, flushed, last, found.delivered, left, viewer.close()]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no such signals")
def test_a_thousand_interruptions_of_send_leave_a_client_that_delivers(
    scripted: Scripted,
) -> None:
    server = scripted(OK, repeat_last=True)
    calls, accepted, flushed, last, delivered, left, closed = run(INTERRUPTED, server.url())
    assert (flushed, last, closed) == (True, True, True)
    assert left == [0, 0, 0, 0]
    assert accepted <= delivered - 1 <= calls
    events = sent(server)
    assert len(events) == delivered
    assert len({event.get("n") for event in events}) == delivered
    for id in range(5):
        numbers = [event["n"] for event in events if event["id"] == id]
        assert numbers == sorted(numbers)


HANDLERS = """
import json, random, signal, sys, time
from reasoning_sdk import ViewerClient
random.seed(1)
slowest, calls, again = 0.0, 0, 0.007
def handler(*_):
    global slowest, calls
    began = time.monotonic()
    for action in actions:
        action()
    slowest = max(slowest, time.monotonic() - began)
    calls += 1
    signal.setitimer(signal.ITIMER_REAL, again)  # not while it runs: it may take longer than that
signal.signal(signal.SIGALRM, handler)
import logging
logging.disable()
viewer = ViewerClient(sys.argv[1], max_queue=None)
flush = lambda: [viewer.flush(0), viewer.flush(0.005)]
actions = [lambda: viewer.stats, flush, lambda: repr(viewer)]
signal.setitimer(signal.ITIMER_REAL, 0.001)
n, end = 0, time.monotonic() + 1.0
while time.monotonic() < end:
    n += 1
    viewer.send_agent_completion_continue({"id": n % 3, "n": n})
    viewer.stats
    if n % 20 == 0:
        viewer.flush(0.01)
again = 0
signal.setitimer(signal.ITIMER_REAL, 0)
first = [viewer.flush(20), viewer.stats.delivered == n, calls, slowest]
viewer.close()
slowest, whole, closed = 0.0, 0.0, 0
for round in range(40):
    viewer = ViewerClient(sys.argv[1], max_queue=None)
    actions = [lambda: viewer.close(0.02)]
    calls = 0
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.004))
    n = 0
    while not calls:
        n += 1
        viewer.send_agent_completion_continue({"id": n % 3, "n": n})
        viewer.stats
        if n % 5 == 0:
            viewer.flush(0.01)
    began = time.monotonic()
    viewer.flush(0.1)
    viewer.close(0.1)
    whole = max(whole, time.monotonic() - began)
    stats = viewer.stats
    closed += stats.queued == stats.in_flight == 0 and stats.submitted == n
print(json.dumps([first, slowest, whole, closed]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no such signals")
def test_a_signal_handler_may_look_flush_and_close_whatever_it_interrupts(
    scripted: Scripted,
) -> None:
    server = scripted(OK, repeat_last=True)
    (flushed, all_delivered, calls, slowest), closing, whole, closed = run(HANDLERS, server.url())
    assert (flushed, all_delivered) == (True, True)
    assert calls > 10
    assert slowest < 1.0
    assert closing < 2.5
    assert whole < 2.5
    assert closed == 40


FINALISERS = """
import gc, json, sys, threading
from reasoning_sdk import ViewerClient
viewer = ViewerClient(sys.argv[1], max_queue=None, workers=2)
finalised = 0
class Garbage:
    def __init__(self):
        self.me = self
    def __del__(self):
        global finalised
        finalised += 1
        viewer.send_agent_completion_continue({"id": "gc", "n": finalised})
        viewer.send_agent_completion_continue(None)
        if finalised % 10 == 0:
            viewer.stats
        if finalised % 50 == 0:
            viewer.flush(0)
gc.set_threshold(1)
for n in range(400):
    Garbage()
    viewer.send_agent_completion_continue({"id": n % 3, "n": n})
    if n % 40 == 0:
        viewer.flush(5)
        viewer.stats
gc.set_threshold(0)
gc.collect()
flushed = viewer.flush(20)
found = viewer.stats
print(json.dumps([finalised, flushed, found.delivered, dict(found.dropped), viewer.close()]))
"""


def test_a_finaliser_may_send_whatever_it_interrupts(scripted: Scripted) -> None:
    server = scripted(OK, repeat_last=True)
    finalised, flushed, delivered, lost, closed = run(FINALISERS, server.url())
    assert finalised == 400
    assert (flushed, closed) == (True, True)
    assert delivered == 800
    assert lost == {"invalid": 400}
    assert len(server.requests) == 800


def test_a_logging_handler_may_send(scripted: Scripted, make: Make) -> None:
    server = scripted([answer(503), answer(400), OK, OK, OK, OK])
    viewer = make(server)

    class Shipping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            viewer.send_function_execution_continue({"id": "log", "text": record.getMessage()})
            viewer.send_function_execution_continue(None)

    logger, handler = logging.getLogger("reasoning_sdk"), Shipping()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        viewer.send_agent_completion_begin("a", {})
        wait_until(lambda: viewer.stats.delivered == 4)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    texts = "\n".join(event["text"] for event in sent(server) if "text" in event)
    for part in (" fails, events", " works again", "(invalid)", "(rejected)"):
        assert texts.count(part) == 1
    assert viewer.stats.dropped == {"invalid": 4, "rejected": 1}


def test_a_client_that_is_forgotten_delivers_and_leaves_nothing(scripted: Scripted) -> None:
    server = scripted(OK, repeat_last=True)
    viewer = r.ViewerClient(server.url(), retry=QUICK)
    publisher = viewer._publisher()
    for worker in publisher._workers:
        worker.thread.linger = 0.01
    del publisher, worker
    viewer.send_agent_completion_begin("a", {})
    viewer.send_agent_completion_begin("b", {})
    del viewer
    server.wait_for_requests(2)
    wait_until(lambda: our_threads() == [])
    gc.collect()
    server.wait_no_connections(2.0)


@pytest.mark.parametrize(
    "line",
    [
        '{"key":"k\\r\\nX-Evil: 1","path":"/agent/completions","body":{"id":"a"}}',
        '{"key":"00000000-0000-4000-8000-000000000000","path":"/admin","body":{"id":"a"}}',
    ],
    ids=["key", "path"],
)
def test_what_a_spool_says_is_no_request_of_its_own(
    scripted: Scripted, make: Make, tmp_path: Path, line: str
) -> None:
    segment = tmp_path / "events-00000000000000000001-a.jsonl"
    segment.write_text(line + "\n")
    segment.chmod(0o600)
    server = scripted([])
    assert make(server, spool=tmp_path).flush(5.0) is False
    assert sent(server) == []


@pytest.mark.parametrize(
    "address", ["http://a..b", f"http://{'a' * 64}.b", "http://.", "http://*.b", "http://a\u200bb"]
)
def test_an_address_that_no_host_can_have_is_refused_at_construction(address: str) -> None:
    with pytest.raises(r.ConfigurationError, match=r"^address must be an http or https URL"):
        r.ViewerClient(address)


@pytest.mark.skipif(FUTURE, reason="urllib3-future writes requests itself")
@pytest.mark.parametrize(
    ("host", "said"),
    [("localhost:{port}", "localhost:{port}"), ("LocalHost:{port}", "localhost:{port}")],
)
def test_the_host_is_named_as_requests_does(
    scripted: Scripted, make: Make, host: str, said: str
) -> None:
    server = scripted(OK)
    viewer = make(f"http://{host.format(port=server.port)}")
    viewer.send_agent_completion_begin("a", {})
    assert viewer.flush()
    (request,) = server.requests
    assert request.headers["host"] == said.format(port=server.port)


def test_credentials_of_a_session_that_a_server_repeats_are_not_told(
    scripted: Scripted, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def session() -> requests.Session:
        made = requests.Session()
        made.headers["Authorization"] = "Bearer a-token-of-theirs"
        return made

    def repeats(connection: Connection) -> None:
        answer(400, connection.request.headers["authorization"].encode())(connection)

    told: list[str] = []
    viewer = make(
        scripted([repeats]),
        session_factory=session,
        on_error=lambda event, error: told.append(f"{error} {error.__dict__}"),
    )
    viewer.send_agent_completion_begin("a", {})
    assert viewer.flush() is False
    assert len(told) == 1  # before the flush returns
    assert "a-token-of-theirs" not in caplog.text + told[0]


def test_each_cause_of_an_invalid_event_is_logged(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    viewer = make("http://127.0.0.1:1")
    for name in ("x", "y", "x"):
        viewer.send_agent_completion_begin("a", {name: float("nan")})
    viewer.flush(0.5)
    assert [("$.x" in text, "$.y" in text) for text in caplog.messages] == [
        (True, False),
        (False, True),
    ]
