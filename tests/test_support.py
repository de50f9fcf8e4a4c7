"""The tests' own support does what it says: the bytes, the endings, the handshakes, the rules."""

import contextlib
import functools
import gzip
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import OutsideNetworkError
from tests.support import recordings
from tests.support.aimock import AimockServer, find_aimock
from tests.support.llmock import LlmockServer
from tests.support.recordings import DIALECTS, to_sse
from tests.support.scripted import (
    Connection,
    Framing,
    ScriptedServer,
    answer,
    comments_for_ever,
    drip,
    hang_up,
    json_answer,
    no_content,
    raw,
    redirect,
    reset,
    silence,
    sse,
)

Scripted = Callable[..., ScriptedServer]
TESTS = Path(__file__).resolve().parent
EVENTS = recordings.text_response("Grüße aus 東京 🌸")
BODY = to_sse(EVENTS)


@contextlib.contextmanager
def dial(server: ScriptedServer) -> Iterator[socket.socket]:
    with socket.create_connection((server.host, server.port), timeout=10.0) as sock:
        yield sock


def send_get(sock: socket.socket, path: str = "/", **headers: str) -> None:
    lines = [f"GET {path} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in headers.items())]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())


def exchange(server: ScriptedServer) -> bytes:
    """Everything the server sends to a GET until the connection ends."""
    with dial(server) as sock:
        send_get(sock)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


def read_below_tls(sock: ssl.SSLSocket) -> None:
    """Reads to the end without TLS, as which some versions of Python report a reset."""
    while socket.socket.recv(sock, 65536):
        pass


def head_and_body(answer: bytes) -> tuple[list[str], bytes]:
    head, body = answer.split(b"\r\n\r\n", 1)
    return head.decode().split("\r\n"), body


def chunks(body: bytes) -> list[bytes]:
    """The chunks of a chunked body that is complete."""
    found = []
    while True:
        size, body = body.split(b"\r\n", 1)
        number = int(size, 16)
        assert body[number : number + 2] == b"\r\n"
        found.append(body[:number])
        body = body[number + 2 :]
        if number == 0:
            assert body == b""
            return found[:-1]


# -- requests and scripts ----------------------------------------------------------------------


def test_a_request_is_recorded_as_it_came(scripted: Scripted) -> None:
    server = scripted(json_answer(200, {"ok": True}))
    got = requests.post(server.url("/a/b?x=1&x=2&y="), json={"q": "ä"}, headers={"X-Key": "k"})
    assert got.json() == {"ok": True}
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/a/b")
    assert request.target == "/a/b?x=1&x=2&y="
    assert request.query == {"x": ["1", "2"], "y": [""]}
    assert request.headers["x-KEY"] == "k"
    assert ("X-Key", "k") in request.header_lines
    assert request.json() == {"q": "ä"}
    assert request.raw.startswith(b"POST /a/b?x=1&x=2&y= HTTP/1.1\r\n")
    assert request.raw.endswith(request.body)
    got.close()


def test_a_chunked_request_body_is_read(scripted: Scripted) -> None:
    server = scripted(answer(200))
    requests.put(server.url("/"), data=iter([b"one", b"two"])).close()
    assert server.requests[0].body == b"onetwo"


def test_one_handler_answers_one_request_on_one_connection(scripted: Scripted) -> None:
    server = scripted([answer(200, b"first"), answer(201, b"second"), no_content()])
    with requests.Session() as session:
        answers = [session.get(server.url("/")) for _ in range(3)]
    assert [a.status_code for a in answers] == [200, 201, 204]
    assert [a.content for a in answers] == [b"first", b"second", b""]
    assert [r.connection for r in server.requests] == [0, 0, 0]


def test_the_last_handler_repeats_when_asked(scripted: Scripted) -> None:
    server = scripted([answer(503), answer(200)], repeat_last=True)
    assert [requests.get(server.url()).status_code for _ in range(4)] == [503, 200, 200, 200]
    assert [r.connection for r in server.requests] == [0, 1, 2, 3]


def test_a_request_beyond_the_script_fails_the_test() -> None:
    server = ScriptedServer([answer(200)])
    try:
        requests.get(server.url("/")).close()
        assert requests.get(server.url("/again")).status_code == 500
    finally:
        server.stop()
    with pytest.raises(AssertionError, match="not in the script: \\['GET /again'\\]"):
        server.check()


def test_an_exception_in_a_handler_fails_the_test_and_closes_the_connection() -> None:
    def broken(connection: Connection) -> None:
        raise ValueError("wrong")

    server = ScriptedServer(broken)
    with dial(server) as sock:
        send_get(sock)
        assert sock.recv(1) == b""
    with pytest.raises(AssertionError, match="a handler raised") as caught, server:
        pass
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_client_that_goes_away_is_no_error(scripted: Scripted) -> None:
    server = scripted(sse(b"data: x\n\n" * 3_000_000, framing="close"))
    with dial(server) as sock:
        send_get(sock)
        assert sock.recv(10)
    server.wait_no_connections()


def test_handlers_can_be_added_later(scripted: Scripted) -> None:
    server = scripted()
    server.then(answer(200, b"a")).then(redirect(server.url("/b")), answer(200, b"b"))
    assert requests.get(server.url("/")).content == b"a"
    got = requests.get(server.url("/"))
    assert got.content == b"b"
    assert [r.status_code for r in got.history] == [302]
    assert [r.path for r in server.requests] == ["/", "/", "/b"]


def test_connection_close_asked_by_the_client_closes_after_the_answer(scripted: Scripted) -> None:
    server = scripted(answer(200, b"body"))
    with dial(server) as sock:
        send_get(sock, Connection="close")
        assert read_all(sock).endswith(b"\r\n\r\nbody")


def test_raw_bytes_are_sent_unchanged(scripted: Scripted) -> None:
    server = scripted(raw(b"NOT HTTP\xff\r\n"))
    assert exchange(server) == b"NOT HTTP\xff\r\n"


# -- event streams -----------------------------------------------------------------------------


def test_sse_chunked(scripted: Scripted) -> None:
    with_end = scripted(sse(EVENTS))
    with dial(with_end) as sock:
        send_get(sock, Connection="close")
        head, body = head_and_body(read_all(sock))
    assert head == [
        "HTTP/1.1 200 OK",
        "Content-Type: text/event-stream; charset=utf-8",
        "Transfer-Encoding: chunked",
    ]
    assert chunks(body) == [BODY]


def test_sse_chunked_per_event_and_by_size(scripted: Scripted) -> None:
    per_event = scripted(sse(EVENTS, one_chunk_per_event=True))
    by_size = scripted(sse(EVENTS, chunk_size=7))
    for server, expected in [
        (per_event, [to_sse([event]) for event in EVENTS]),
        (by_size, [BODY[at : at + 7] for at in range(0, len(BODY), 7)]),
    ]:
        with dial(server) as sock:
            send_get(sock, Connection="close")
            assert chunks(head_and_body(read_all(sock))[1]) == expected


def test_sse_until_the_connection_closes(scripted: Scripted) -> None:
    head, body = head_and_body(exchange(scripted(sse(EVENTS, framing="close", chunk_size=5))))
    assert head[2:] == ["Connection: close"]
    assert body == BODY


def test_sse_with_a_length(scripted: Scripted) -> None:
    server = scripted(sse(EVENTS, framing="length"))
    got = requests.get(server.url())
    assert got.headers["Content-Length"] == str(len(BODY))
    assert got.content == BODY


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_sse_gzip_can_be_decoded_piece_by_piece(scripted: Scripted, framing: Framing) -> None:
    server = scripted(sse(EVENTS, framing=framing, gzip=True, one_chunk_per_event=True))
    with dial(server) as sock:
        send_get(sock, Connection="close")
        head, body = head_and_body(read_all(sock))
    assert "Content-Encoding: gzip" in head
    if framing == "chunked":
        found = chunks(body)
        decoder = zlib.decompressobj(wbits=31)
        decoded = [decoder.decompress(chunk) for chunk in found]
        assert decoded == [*(to_sse([event]) for event in EVENTS), b""]
        assert decoder.eof
        body = b"".join(found)
    assert gzip.decompress(body) == BODY
    assert server.requests[0].path == "/"


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_sse_cut_at_a_byte(scripted: Scripted, framing: Framing) -> None:
    at = BODY.index("東".encode()) + 1
    body = head_and_body(exchange(scripted(sse(EVENTS, framing=framing, cut_at=at))))[1]
    if framing == "chunked":
        assert body == b"%x\r\n%b\r\n" % (at, BODY[:at])
    else:
        assert body == BODY[:at]


def test_a_cut_stream_with_a_length_promises_more_than_it_sends(scripted: Scripted) -> None:
    server = scripted(sse(EVENTS, framing="length", cut_at=20))
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="more expected"):
        requests.get(server.url())


def test_sse_cut_in_a_chunk(scripted: Scripted) -> None:
    body = head_and_body(exchange(scripted(sse(EVENTS, cut_at=30, cut_in_chunk=True))))[1]
    assert body == b"1f\r\n" + BODY[:30]


def test_sse_cut_gzip_has_no_end(scripted: Scripted) -> None:
    answer = exchange(scripted(sse(EVENTS, framing="close", gzip=True, cut_at=50)))
    decoder = zlib.decompressobj(wbits=31)
    assert decoder.decompress(head_and_body(answer)[1]) == BODY[:50]
    assert not decoder.eof


def test_gates_hold_the_events_back(scripted: Scripted) -> None:
    server = scripted(sse([b"data: 1\n\n", b"data: 2\n\n"], framing="close", gates={1: "second"}))
    with dial(server) as sock:
        send_get(sock)
        server.wait_at("second")
        received = b""
        while b"data: 1\n\n" not in received:
            received += sock.recv(1000)
        assert b"data: 2" not in received
        server.open("second")
        assert read_all(sock) == b"data: 2\n\n"


def test_drip_sends_piece_by_piece(scripted: Scripted) -> None:
    server = scripted([drip(b"data: x\n\n"), drip(b"data: y\n\n", size=4, interval=0.001)])
    for expected in ([bytes([byte]) for byte in b"data: x\n\n"], [b"data", b": y\n", b"\n"]):
        with dial(server) as sock:
            send_get(sock, Connection="close")
            assert chunks(head_and_body(read_all(sock))[1]) == expected


def test_comments_for_ever_end_with_the_client(scripted: Scripted) -> None:
    server = scripted(comments_for_ever(first=b"data: x\n\n", interval=0.001))
    with requests.get(server.url(), stream=True) as got:
        received = b""
        for part in got.iter_content(None):
            received += part
            if received.count(b": ping\n\n") >= 5:
                break
    assert received.startswith(b"data: x\n\n: ping\n\n")
    server.wait_no_connections()


def test_silence_after_the_headers(scripted: Scripted) -> None:
    server = scripted(silence(first=[{"type": "response.created"}]))
    with dial(server) as sock:
        send_get(sock)
        received = b""
        while not received.endswith(b"\n\n\r\n"):
            received += sock.recv(1000)
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    server.wait_no_connections()


def test_silence_without_headers(scripted: Scripted) -> None:
    server = scripted(silence(headers=False))
    with pytest.raises(requests.ReadTimeout):
        requests.get(server.url(), timeout=0.05)


# -- endings -----------------------------------------------------------------------------------


def test_reset_is_a_reset_and_close_is_not(scripted: Scripted) -> None:
    server = scripted([reset(), hang_up(), sse(EVENTS, cut_at=40, then="reset")])
    with dial(server) as sock:
        send_get(sock)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    with dial(server) as sock:
        send_get(sock)
        assert sock.recv(1) == b""
    with dial(server) as sock:
        send_get(sock)
        with pytest.raises(ConnectionResetError):
            read_all(sock)


def test_close_is_a_fin_even_with_unread_bytes(scripted: Scripted) -> None:
    def handle(connection: Connection) -> None:
        connection.gate("more was sent")
        connection.send(b"bye")
        connection.close()

    server = scripted(handle)
    with dial(server) as sock:
        send_get(sock)
        sock.sendall(b"never read")
        server.open("more was sent")
        assert read_all(sock) == b"bye"


def test_half_close_goes_on_reading(scripted: Scripted) -> None:
    seen = []

    def handle(connection: Connection) -> None:
        connection.half_close()
        seen.append(connection.wait_closed())
        connection.open("seen")

    server = scripted(handle)
    with dial(server) as sock:
        send_get(sock)
        assert sock.recv(1) == b""
        server.wait_for_requests(1)
        assert server.open_connections == 1
    server.gate("seen")
    assert seen == [True]


def test_wait_closed_sees_the_client_close(scripted: Scripted) -> None:
    seen = []

    def handle(connection: Connection) -> None:
        seen.append(connection.wait_closed(0.01))
        connection.open("waited")
        seen.append(connection.wait_closed())
        connection.open("closed")

    server = scripted(handle)
    with dial(server) as sock:
        send_get(sock)
        server.gate("waited")
        assert seen == [False]
    server.gate("closed")
    assert seen == [False, True]


def test_stop_wakes_whoever_waits_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    gate = threading.Event()

    def at_a_gate(connection: Connection) -> None:
        connection.gate("never")
        gate.set()

    server = ScriptedServer([at_a_gate, silence(), comments_for_ever(), silence(headers=False)])
    with contextlib.ExitStack() as stack:
        for number in range(4):
            send_get(stack.enter_context(dial(server)))
            server.wait_for_requests(number + 1)
        idle = stack.enter_context(dial(server))
        server.wait_at("never")
        server.wait_for_connections(5)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 2.0
        assert idle.recv(1) == b""
    assert set(threading.enumerate()) == before
    assert not gate.is_set()
    server.stop()
    server.check()


def test_waits_of_the_test_are_bounded(scripted: Scripted) -> None:
    server = scripted(timeout=0.02)
    with pytest.raises(AssertionError, match="gate 'x' was not opened in time"):
        server.gate("x")
    with pytest.raises(AssertionError, match="0 of 1 requests came"):
        server.wait_for_requests(1)
    with dial(server):
        pass


# -- TLS ---------------------------------------------------------------------------------------


def test_tls_is_trusted_through_the_ca_file_only(scripted: Scripted) -> None:
    server = scripted(sse(EVENTS), tls=True, repeat_last=True)
    assert server.base_url == f"https://127.0.0.1:{server.port}/v1"
    assert requests.get(server.url(), verify=server.ca_file).content == BODY
    named = server.url(host="api.localhost")
    assert requests.get(named, verify=server.ca_file).content == BODY
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(server.url())


def test_tls_connections_can_be_reset_closed_and_stopped(scripted: Scripted) -> None:
    server = scripted([reset(), hang_up(), lambda c: c.close(notify=False), silence()], tls=True)
    context = ssl.create_default_context(cafile=server.ca_file)

    @contextlib.contextmanager
    def secure() -> Iterator[ssl.SSLSocket]:
        wrap = functools.partial(
            context.wrap_socket, server_hostname="localhost", suppress_ragged_eofs=False
        )
        with dial(server) as sock, wrap(sock) as tls:
            send_get(tls)
            yield tls

    with secure() as sock, pytest.raises(ConnectionResetError):
        read_below_tls(sock)
    with secure() as sock:
        assert sock.recv(1) == b""
    with secure() as sock, pytest.raises(ssl.SSLEOFError):
        sock.recv(1)
    with secure():
        server.wait_for_requests(4)
        server.stop()


def test_a_handler_can_play_a_proxy_and_what_is_behind_it(scripted: Scripted) -> None:
    def connect(connection: Connection) -> None:
        assert connection.request.target == "api.localhost:443"
        connection.headers(200, reason="Connection established")
        connection.start_tls()

    server = scripted([connect, answer(200, b"through")])
    with requests.Session() as session:
        session.proxies = {"https": server.url()}
        session.verify = str(scripted(tls=True).ca_file)
        assert session.get("https://api.localhost/x").content == b"through"
    assert [r.method for r in server.requests] == ["CONNECT", "GET"]


# -- recordings --------------------------------------------------------------------------------

STREAMS = {
    "text": recordings.text_response(),
    "calls": recordings.function_call_response(text="Let me look."),
    "reasoning": recordings.reasoning_response(),
    "reasoning text": recordings.reasoning_response(kind="text"),
    "background": recordings.background_response(),
    "failed": recordings.failed_response(),
    "incomplete": recordings.incomplete_response(),
    "refusal": recordings.response([recordings.refusal()]),
}


@pytest.mark.parametrize("name", STREAMS)
def test_recordings_are_what_the_public_client_understands(name: str) -> None:
    pydantic = pytest.importorskip("pydantic")
    types = pytest.importorskip("openai.types.responses")
    adapter = pydantic.TypeAdapter(types.ResponseStreamEvent)
    events = STREAMS[name]
    for event in events:
        assert adapter.validate_python(event).type == event["type"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_the_flat_error_event_is_what_the_public_client_understands() -> None:
    types = pytest.importorskip("openai.types.responses")
    event = recordings.errored_response()[-1]
    assert types.ResponseErrorEvent.model_validate(event).message == "The server had an error."
    assert recordings.error_event(nested=True)["error"]["code"] == "server_error"
    assert "type" not in recordings.error_event(nested=True, typed=False)


def test_recorded_text_and_items_agree_with_the_final_response() -> None:
    events = recordings.function_call_response(text="Let me look.")
    final = events[-1]["response"]
    assert recordings.items_of(events) == final["output"]
    assert recordings.text_of(events) == final["output"][0]["content"][0]["text"]
    arguments = [e["delta"] for e in events if e["type"].endswith("arguments.delta")]
    assert json.loads("".join(arguments)) == {"city": "Zürich", "unit": "celsius"}


def test_streams_that_stop_early_end_after_a_delta() -> None:
    cut = recordings.cut_response()
    assert cut[-1]["type"] == "response.output_text.delta"
    assert recordings.text_of(cut) == "Hello, wor"
    assert recordings.items_of(recordings.failed_response()) == []
    assert recordings.failed_response()[-2]["type"] == "response.output_text.delta"
    assert recordings.errored_response()[-1]["sequence_number"] == len(cut)
    assert recordings.after(cut, 4) == cut[5:]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", STREAMS)
def test_dialects_keep_the_text_and_change_nothing_in_place(name: str, dialect: str) -> None:
    before = json.dumps(STREAMS[name])
    events = DIALECTS[dialect](STREAMS[name])
    assert recordings.text_of(events) == recordings.text_of(STREAMS[name])
    assert events[-1]["type"] == STREAMS[name][-1]["type"]
    assert json.dumps(STREAMS[name]) == before
    assert dialect == "reference" or events != STREAMS[name]


def test_to_sse() -> None:
    events: recordings.Events = [{"type": "a", "sequence_number": 0, "x": "ü"}, {"x": 1}]
    assert to_sse(events) == (
        'event: a\ndata: {"type":"a","sequence_number":0,"x":"ü"}\n\ndata: {"x":1}\n\n'.encode()
    )
    assert to_sse(events[1:], done=True) == b'data: {"x":1}\n\ndata: [DONE]\n\n'
    assert to_sse(events[:1], False, ids=True, newline="\r\n") == (
        'id: 0\r\ndata: {"type":"a","sequence_number":0,"x":"ü"}\r\n\r\n'.encode()
    )
    assert recordings.to_fixture(events[1:]) == 'data: {"x":1}\n'


def test_the_conformance_cases_are_complete() -> None:
    lines = (TESTS / "data" / "sse_cases.jsonl").read_text().splitlines()
    assert len({json.loads(line)["name"] for line in lines}) == 87


# -- real servers ------------------------------------------------------------------------------


def stream_types(base_url: str, text: str) -> list[str]:
    with requests.post(
        f"{base_url}/responses", json={"model": "m", "input": text, "stream": True}, timeout=10
    ) as got:
        got.raise_for_status()
        lines = got.text.splitlines()
        return [json.loads(line[6:])["type"] for line in lines if line.startswith("data: ")]


def test_llmock_streams_and_judges(llmock_server: LlmockServer) -> None:
    llmock_server.scenario([{"type": "fail", "status": 503}, {"type": "reply", "text": "a b"}])
    body = {"model": "m", "input": "hi", "stream": True}
    assert requests.post(f"{llmock_server.base_url}/responses", json=body).status_code == 503
    with pytest.raises(AssertionError, match="warning gave_up"):
        llmock_server.assert_clean()
    assert [b["type"] for b in llmock_server.pending()] == ["reply"]
    assert stream_types(llmock_server.base_url, "hi") == [
        event["type"] for event in recordings.text_response("a b", deltas=2)
    ]
    assert [r["status"] for r in llmock_server.requests()] == [503, 200]
    assert [f["code"] for f in llmock_server.verdict()["findings"]] == ["retry_after_ignored"]


def test_llmock_is_as_new_for_every_test(llmock_server: LlmockServer) -> None:
    assert llmock_server.requests() == []
    assert llmock_server.pending() == []
    assert llmock_server.assert_clean()["calls"] == 0


def test_the_plugin_of_llmock_is_off(pytestconfig: pytest.Config) -> None:
    assert not pytestconfig.pluginmanager.hasplugin("llmock")


def test_aimock_streams(aimock_server: AimockServer) -> None:
    types = stream_types(aimock_server.base_url, "think about it")
    assert types[:2] == ["response.created", "response.in_progress"]
    assert "response.reasoning_summary_text.delta" in types
    assert types[-1] == "response.completed"
    aimock_server.next_error(500, "once")
    with pytest.raises(requests.HTTPError, match="500"):
        stream_types(aimock_server.base_url, "hello")
    assert [r["response"]["status"] for r in aimock_server.requests()] == [200, 500]


def test_aimock_is_as_new_for_every_test(aimock_server: AimockServer) -> None:
    assert aimock_server.requests() == []
    for _ in range(2):
        with pytest.raises(requests.HTTPError, match="429"):
            stream_types(aimock_server.base_url, "busy")
        aimock_server.reset()


def test_a_missing_aimock_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMOCK_DIR", os.devnull)
    monkeypatch.setattr("tests.support.aimock.PROJECT", Path(os.devnull))
    from tests.support.aimock import missing_aimock

    monkeypatch.setattr("shutil.which", lambda name: "/bin/node")
    assert find_aimock() is None
    assert "npm install --prefix .node @copilotkit/aimock" in missing_aimock()
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "install Node.js" in missing_aimock()


# -- house rules -------------------------------------------------------------------------------


def test_nobody_sleeps() -> None:
    with pytest.raises(AssertionError, match=r"time\.sleep\(0\) called in tests\.test_support"):
        time.sleep(0)


def test_tools_that_poll_may_sleep() -> None:
    done = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        done.wait(0.01)
    done.communicate(b"\n")
    assert done.returncode == 0


def test_names_lead_to_loopback_or_nowhere(scripted: Scripted) -> None:
    server = scripted([answer(200), answer(200)])
    for host in ("localhost", "other.localhost"):
        assert requests.get(server.url(host=host)).status_code == 200
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("nobody.invalid", 80)


def test_the_environment_is_clean() -> None:
    left = [name for name in os.environ if name.startswith("OPENAI_") or "_proxy" in name.lower()]
    assert left == []


RULES = """
import socket, threading
import pytest
from tests.conftest import OutsideNetworkError

def test_leak():
    event = threading.Event()
    threading.Thread(target=event.wait, args=(30,), name="reasoning-sdk.test", daemon=True).start()

def test_swallowed():
    try:
        socket.create_connection(("192.0.2.1", 80))
    except AssertionError:
        pass

def test_name():
    with pytest.raises(OutsideNetworkError):
        socket.getaddrinfo("example.com", 80)

def test_fine():
    pass
"""


def test_broken_rules_fail_the_test_that_broke_them(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.conftest"]')
    (tmp_path / "test_rules.py").write_text(RULES)
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:llmock", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert "threads outlived the test: ['reasoning-sdk.test']" in done.stdout
    assert "reached outside loopback: ['192.0.2.1']" in done.stdout
    assert "reached outside loopback: ['example.com']" in done.stdout
    assert "4 passed, 3 errors" in done.stdout


def test_the_rule_against_outside_names_raises_at_once() -> None:
    assert issubclass(OutsideNetworkError, AssertionError)
    assert not issubclass(OutsideNetworkError, OSError)
