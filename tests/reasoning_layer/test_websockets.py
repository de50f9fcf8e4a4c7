"""The WebSockets of the Reasoning Layer: where they are, and what a handshake says."""

import contextlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

import pytest
import requests
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

import reasoning_sdk as r
from reasoning_sdk.events import Message
from reasoning_sdk.reasoning_layer import (
    HeartbeatEvent,
    ReasoningLayerClient,
    UnknownEvent,
    service,
)
from reasoning_sdk.websocket import ConnectionState
from tests.reasoning_layer.conftest import TENANT, TOKEN
from tests.support.scripted import ClientClosed, Connection, Handler, ScriptedServer, json_answer
from tests.support.threads import InThread

Scripted = Callable[..., ScriptedServer]
Make = Callable[..., ReasoningLayerClient]
AGENT = "6f9c1c1e-0b1d-4c5e-9a39-0d2f0c7d8a01"
ODD, ODD_QUOTED = "a/b?c&d=ü #%+", "a%2Fb%3Fc%26d%3D%C3%BC%20%23%25%2B"


# -- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://h", "ws://h"),
        ("https://h", "wss://h"),
        ("HTTPS://H:8443/", "wss://H:8443"),
        ("http://[::1]:80/gate/way/", "ws://[::1]:80/gate/way"),
        ("https://http.example/http://x", "wss://http.example/http://x"),
    ],
)
def test_an_address_is_that_of_the_client_with_another_scheme(
    client: Make, base_url: str, expected: str
) -> None:
    made = client(base_url=base_url)
    assert made.cognitive.agent_events_url(AGENT) == (
        f"{expected}/api/v1/cognitive/agents/ws?agent_id={AGENT}&tenant_id={TENANT}"
    )
    assert made.cognitive.cycle_url(AGENT) == f"{expected}/ws/cognitive/{AGENT}"
    assert made.oversight.session_url("s") == f"{expected}/ws/oversight/s?tenant_id={TENANT}"


def test_ids_are_percent_encoded(client: Make) -> None:
    made = client(base_url="http://h", tenant_id="t&/ é")
    tenant = "tenant_id=t%26%2F%20%C3%A9"
    assert made.cognitive.agent_events_url(ODD) == (
        f"ws://h/api/v1/cognitive/agents/ws?agent_id={ODD_QUOTED}&{tenant}"
    )
    assert made.cognitive.cycle_url(ODD) == f"ws://h/ws/cognitive/{ODD_QUOTED}"
    assert made.oversight.session_url(ODD) == f"ws://h/ws/oversight/{ODD_QUOTED}?{tenant}"


def test_an_id_may_be_a_uuid(client: Make) -> None:
    made = client(tenant_id=UUID(TENANT))
    for url in (
        made.cognitive.agent_events_url,
        made.cognitive.cycle_url,
        made.oversight.session_url,
    ):
        assert url(UUID(AGENT)) == url(AGENT)
        assert AGENT in url(AGENT)
    assert TENANT in made.oversight.session_url("s")


@pytest.mark.parametrize("value", ["", ".", "..", "\ud800", None, 5, b"x"])
def test_what_is_no_id_is_refused(client: Make, value: Any) -> None:
    made = client()
    for ask in (
        made.cognitive.agent_events_url,
        made.cognitive.cycle_url,
        made.cognitive.agent_events,
        made.cognitive.cycle,
    ):
        with pytest.raises(r.ConfigurationError, match=r"^agent_id must be a"):
            ask(value)
    for ask in (made.oversight.session_url, made.oversight.session):
        with pytest.raises(r.ConfigurationError, match=r"^session_id must be a"):
            ask(value)


# -- headers of a handshake --------------------------------------------------------------------


def headers_of(client: ReasoningLayerClient, url: str = "ws://h/", own: Any = None) -> Any:
    return client._service.handshake_headers(url, own)


def test_a_handshake_has_the_headers_of_a_request(client: Make) -> None:
    made = client(user_id="user", namespace_id=UUID(AGENT))
    assert headers_of(made) == {
        "User-Agent": f"reasoning-sdk/{r.__version__}",
        "X-SDK-Language": "python",
        "X-SDK-Version": r.__version__,
        "X-Tenant-Id": TENANT,
        "X-User-Id": "user",
        "X-Namespace-Id": AGENT,
        "Authorization": f"Bearer {TOKEN}",
    }
    assert "Authorization" not in headers_of(client(token=""))


def test_a_handshake_has_a_fresh_token(client: Make) -> None:
    tokens = iter(["first", "second"])
    made = client(token=lambda: next(tokens))
    assert headers_of(made)["Authorization"] == "Bearer first"
    assert headers_of(made)["Authorization"] == "Bearer second"


def test_the_callers_own_headers_win_in_whatever_case(client: Make) -> None:
    own = {"authorization": "Basic mine", "X-Own": "1"}
    for given in (own, lambda: own):
        headers = headers_of(client(), own=given)
        assert {name: headers[name] for name in own} == own
        assert sum(name.lower() == "authorization" for name in headers) == 1
    assert headers_of(client(), own=lambda: None) == headers_of(client())
    with pytest.raises(r.ConfigurationError, match="the value of header X-Own"):
        headers_of(client(), own={"X-Own": "a\nb"})
    with pytest.raises(r.ConfigurationError, match="headers must be a mapping or a callable"):
        client().cognitive.cycle(AGENT, headers="X: y")


@pytest.mark.parametrize("given", [5, 0, "abc", "", [], [("X-Own", "1")]])
def test_what_a_callable_gives_as_headers_must_be_a_mapping(client: Make, given: Any) -> None:
    with pytest.raises(r.ConfigurationError, match=r"^headers must be a mapping, got an? "):
        client().cognitive.cycle(AGENT, headers=lambda: given)


def test_the_name_of_a_header_must_be_one(client: Make) -> None:
    for given in ({5: "x"}, lambda: {5: "x"}):
        with pytest.raises(r.ConfigurationError, match=r"^5 cannot be the name of a header$"):
            client().cognitive.cycle(AGENT, headers=given)


@pytest.mark.parametrize(
    ("cookie", "url", "sent"),
    [
        ({}, "ws://api.example.com/ws/cognitive/a", True),
        ({"domain": "api.example.com"}, "ws://api.example.com:8080/", True),
        ({"domain": ".example.com"}, "wss://api.example.com/", True),
        ({"domain": "other.example.com"}, "ws://api.example.com/", False),
        ({"domain": "example.org"}, "ws://api.example.com/", False),
        ({"path": "/ws"}, "ws://api.example.com/ws/cognitive/a", True),
        ({"path": "/api"}, "ws://api.example.com/ws/cognitive/a", False),
        ({"secure": True}, "ws://api.example.com/", False),
        ({"secure": True}, "wss://api.example.com/", True),
        ({"expires": 1}, "ws://api.example.com/", False),
    ],
)
def test_a_handshake_has_the_cookies_that_a_request_would_have(
    client: Make, cookie: dict[str, Any], url: str, sent: bool
) -> None:
    with requests.Session() as session:
        session.cookies.set("sid", "abc", **cookie)
        headers = headers_of(client(token="", session=session), url)
    assert headers.get("Cookie") == ("sid=abc" if sent else None)
    assert "Authorization" not in headers


def test_cookies_are_those_of_now_and_the_callers_own_win(client: Make) -> None:
    with requests.Session() as session:
        made = client(session=session)
        assert "Cookie" not in headers_of(made)
        session.cookies.set("a", "1")
        session.cookies.set("b", "2")
        assert set(headers_of(made)["Cookie"].split("; ")) == {"a=1", "b=2"}
        assert headers_of(made, own={"cookie": "c=3"})["cookie"] == "c=3"
        assert "Cookie" not in headers_of(made, own={"cookie": "c=3"})


# -- over a socket -----------------------------------------------------------------------------

QUICK = r.RetryPolicy(initial_interval=0.001, max_attempts=4)
HEARTBEAT = {"type": "heartbeat", "timestamp": "now"}


class Talk:
    """The server's end of a WebSocket, for a handler of a scripted server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._protocol = ServerProtocol()
        self._protocol.receive_data(connection.request.raw)
        (request,) = self._protocol.events_received()
        self._protocol.send_response(self._protocol.accept(request))
        self._flush()

    def _flush(self) -> None:
        self._connection.send(b"".join(self._protocol.data_to_send()))

    def tell(self, *messages: Any) -> None:
        for message in messages:
            text = message if isinstance(message, str) else json.dumps(message)
            self._protocol.send_text(text.encode())
        self._flush()

    def close(self) -> None:
        self._protocol.send_close(1000)
        self._flush()

    def until_closed(self) -> Iterator[Any]:
        """What comes, until the client closes; the close is answered."""
        while self._protocol.state is not State.CLOSED:
            self._connection._receive()
            self._protocol.receive_data(bytes(self._connection._received))
            self._connection._received.clear()
            for event in self._protocol.events_received():
                if event.opcode is Opcode.TEXT:
                    yield json.loads(event.data)
            self._flush()


def telling(*messages: Any) -> Handler:
    """Sends JSON, or what is a text as it is, and waits for the end."""

    def handle(connection: Connection) -> None:
        talk = Talk(connection)
        talk.tell(*messages)
        for _ in talk.until_closed():
            pass
        connection.close()

    return handle


@pytest.mark.http
def test_agent_events_are_typed_however_they_are_read(scripted: Scripted, client: Make) -> None:
    server = scripted(telling(*[HEARTBEAT] * 3, {"type": "new"}, "no JSON", HEARTBEAT))
    made = client(base_url=server.url("/prefix"))
    beat = HeartbeatEvent(timestamp="now", data=HEARTBEAT)
    with made.cognitive.agent_events(AGENT) as connection:
        assert next(connection) == beat
        assert connection.next_message(timeout=5.0) == beat
        events = (event for event in connection.events() if isinstance(event, Message))
        data = [event.data for event in islice(events, 2)]
        assert data == [beat, UnknownEvent(type="new", data={"type": "new"})]
        with pytest.raises(r.ProtocolError):
            connection.next_message(timeout=5.0)
        assert next(connection) == beat
    (request,) = server.requests
    assert request.target == (
        f"/prefix/api/v1/cognitive/agents/ws?agent_id={AGENT}&tenant_id={TENANT}"
    )
    assert request.headers["x-tenant-id"] == TENANT
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["x-sdk-language"] == "python"
    assert request.headers["x-sdk-version"] == r.__version__


@pytest.mark.http
def test_a_callers_codec_wins(scripted: Scripted, client: Make) -> None:
    made = client(scripted([telling(HEARTBEAT)] * 2))
    for codec, expected in (("json", HEARTBEAT), ("raw", json.dumps(HEARTBEAT))):
        with made.cognitive.agent_events(AGENT, codec=codec) as connection:
            assert next(connection) == expected


@pytest.mark.http
def test_the_cycle_is_json_both_ways(scripted: Scripted, client: Make) -> None:
    def echo(connection: Connection) -> None:
        talk = Talk(connection)
        for message in talk.until_closed():
            talk.tell(message)

    server = scripted(echo)
    with client(server).cognitive.cycle(ODD, headers={"X-Own": "1"}) as cycle:
        cycle.send({"percept": UUID(AGENT)})
        assert cycle.next_message(timeout=5.0) == {"percept": AGENT}
    (request,) = server.requests
    assert request.target == f"/ws/cognitive/{ODD_QUOTED}"
    assert request.headers["x-own"] == "1"
    assert request.headers["x-tenant-id"] == TENANT


@pytest.mark.http
def test_a_session_is_followed_with_cookies_in_place_of_a_token(
    scripted: Scripted, client: Make
) -> None:
    server = scripted(telling({"step": 1}))
    with requests.Session() as session:
        session.cookies.set("sid", "abc", domain="127.0.0.1", path="/ws")
        made = client(server, token="", session=session)
        with made.oversight.session("s") as connection:
            assert next(connection) == {"step": 1}
    (request,) = server.requests
    assert request.target == f"/ws/oversight/s?tenant_id={TENANT}"
    assert request.headers["cookie"] == "sid=abc"
    assert "authorization" not in request.headers


@pytest.mark.http
def test_a_connection_that_comes_back_has_a_fresh_token_and_fresh_cookies(
    scripted: Scripted, client: Make
) -> None:
    def tell_and_close(connection: Connection) -> None:
        talk = Talk(connection)
        talk.tell(HEARTBEAT)
        talk.close()

    server = scripted([tell_and_close, tell_and_close, telling(HEARTBEAT)])
    tokens, attempts = iter(["first", "second", "third"]), []
    with requests.Session() as session:

        def on_reconnect(attempt: int) -> None:
            attempts.append(attempt)
            session.cookies.set("n", str(len(attempts)))

        made = client(server, token=lambda: next(tokens), session=session)
        options = {"retry": QUICK, "on_reconnect": on_reconnect}
        with made.cognitive.agent_events(AGENT, **options) as connection:
            for _ in range(3):
                assert isinstance(next(connection), HeartbeatEvent)
    assert [q.headers["authorization"] for q in server.requests] == [
        "Bearer first", "Bearer second", "Bearer third",
    ]  # fmt: skip
    assert [q.headers.get("cookie") for q in server.requests] == [None, "n=1", "n=2"]
    assert attempts == [1, 1]


@pytest.mark.http
def test_a_refusal_is_raised_and_tells_no_secret(scripted: Scripted, client: Make) -> None:
    refusal = {"error": "FORBIDDEN", "message": f"not with {TOKEN} and cookie-of-the-user"}
    server = scripted(json_answer(403, refusal))
    with requests.Session() as session:
        session.cookies.set("sid", "cookie-of-the-user")
        with pytest.raises(r.PermissionDeniedError) as caught:
            client(server, session=session).cognitive.agent_events(AGENT)
    assert caught.value.code == "FORBIDDEN"
    told = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert TOKEN not in told
    assert "cookie-of-the-user" not in told


@pytest.mark.http
def test_nothing_tells_a_token_or_a_cookie(
    scripted: Scripted, client: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "reasoning_sdk")
    server = scripted(telling(HEARTBEAT))
    with requests.Session() as session:
        session.cookies.set("sid", "cookie-of-the-user")
        made = client(server, session=session)
        with made.cognitive.agent_events(AGENT) as connection:
            next(connection)
            told = repr(connection) + repr(made)
    assert server.requests[0].headers["cookie"] == "sid=cookie-of-the-user"
    assert TOKEN not in told + caplog.text
    assert "cookie-of-the-user" not in told + caplog.text


@pytest.mark.http
def test_the_end_of_the_client_is_that_of_its_connections(scripted: Scripted, client: Make) -> None:
    made = client(scripted([telling(HEARTBEAT)] * 2))
    connections = [made.cognitive.agent_events(AGENT), made.oversight.session("s")]
    reading = [InThread(partial(list, connection)) for connection in connections]
    made.close()
    for thread in reading:
        assert len(thread.ends(5.0)) <= 1
        assert thread.error is None
    assert {connection.state for connection in connections} == {ConnectionState.CLOSED}


@pytest.mark.http
def test_a_connection_that_is_made_while_the_client_closes_is_closed(
    scripted: Scripted, client: Make
) -> None:
    server = scripted(telling())
    made = client(server)
    with pytest.raises(r.StateError, match="the client was closed"):
        made.cognitive.agent_events(AGENT, on_connect=lambda _: made.close())
    server.wait_no_connections()


@pytest.mark.http
def test_a_service_that_does_not_answer_holds_up_no_close(scripted: Scripted, client: Make) -> None:
    def deaf(connection: Connection) -> None:
        Talk(connection)
        connection.wait_closed()

    made = client(scripted([deaf] * 5))
    kept = [made.cognitive.cycle(AGENT) for _ in range(5)]
    began = time.monotonic()
    made.close()
    assert time.monotonic() - began < 4.0
    assert {connection.state for connection in kept} == {ConnectionState.CLOSED}


@pytest.mark.http
def test_a_connection_that_is_stalled_holds_up_no_other_close(
    scripted: Scripted, client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stalled(connection: Connection) -> None:
        Talk(connection)
        connection.gate("hang up")
        connection.close()

    def goodbye(connection: Connection) -> None:
        talk = Talk(connection)
        with contextlib.suppress(ClientClosed):
            for _ in talk.until_closed():
                pass
        assert talk._protocol.close_rcvd is not None
        connection.open(f"goodbye {connection.number}")
        connection.close()

    monkeypatch.setattr(service, "_CLOSE_TIMEOUT", 30.0)
    server = scripted([stalled, goodbye, goodbye, stalled, goodbye])
    made = client(server)
    kept = [made.cognitive.cycle(AGENT) for _ in range(5)]
    closing = InThread(made.close)
    try:
        for number in (1, 2, 4):
            server.gate(f"goodbye {number}", timeout=1.0)
        assert closing.is_alive()  # it waits for the others
    finally:
        server.open("hang up")
        closing.wait(5.0)
    assert closing.error is None
    assert {connection.state for connection in kept} == {ConnectionState.CLOSED}
