"""The WebSocket server and the proxy that tests use do what they say."""

import contextlib
import http.client
import itertools
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.fault_proxy import FaultProxy
from tests.support.threads import InThread
from tests.support.websocket_peer import PathStats, WebSocketPeer

UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def peer(websocket_peer: WebSocketPeer) -> WebSocketPeer:
    return websocket_peer


@pytest.fixture
def proxy(fault_proxy: FaultProxy) -> FaultProxy:
    return fault_proxy


@contextlib.contextmanager
def dial(port: int, path: bytes = b"") -> Iterator[socket.socket]:
    """A plain connection; with a path, one that has asked for the upgrade."""
    with socket.create_connection(("127.0.0.1", port), timeout=5.0) as sock:
        if path:
            sock.sendall(UPGRADE % path)
        yield sock


def read_head(sock: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"ended after {head!r}"
        head += byte
    return head


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def read_until_reset(sock: socket.socket) -> bytes:
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        return received
    raise AssertionError("it was closed, not reset")


def send_until_stopped(sock: socket.socket, frame: bytes) -> None:
    """Sends until that waits."""
    sock.settimeout(0.2)
    try:
        for _ in range(2000):
            sock.sendall(frame)
    except TimeoutError:
        return
    raise AssertionError("all was taken")


def receive(client: ClientConnection) -> Any:
    return json.loads(client.recv(timeout=5.0))


def is_silent(client: ClientConnection, seconds: float = 0.1) -> bool:
    try:
        client.recv(timeout=seconds)
    except TimeoutError:
        return True
    return False


# -- the server --------------------------------------------------------------------------------


def test_the_server_sends_back_what_comes_and_counts_it(peer: WebSocketPeer):
    with connect(peer.ws_url + "/echo", max_size=None) as client:
        for message in ("ä", b"\x00\xff", "x" * (2 << 20)):
            client.send(message)
            assert client.recv(timeout=5.0) == message
        assert peer.stats("/echo") == PathStats(opened=1, open=1, received=3)
        client.close(4321, "enough")
    stats = peer.wait_until("/echo", lambda stats: stats.open == 0)
    assert stats == PathStats(1, 0, 3, 4321, "enough")
    peer.reset()
    assert peer.stats("/echo") == PathStats()


def test_a_client_that_is_gone_without_a_close_is_noticed(peer: WebSocketPeer):
    with dial(peer.port, b"/echo") as sock:
        read_head(sock)
        peer.wait_until("/echo", lambda stats: stats.open == 1)
    assert peer.wait_until("/echo", lambda stats: not stats.open).close_code == 1006


def test_waiting_for_what_does_not_come_fails(peer: WebSocketPeer):
    with pytest.raises(AssertionError, match="opened=0"):
        peer.wait_until("/echo", lambda stats: stats.opened == 1, timeout=0.05)


def test_the_server_counts_and_waits_for_the_close(peer: WebSocketPeer):
    with connect(peer.ws_url + "/count?n=3&size=4&every=0.01") as client:
        assert [receive(client) for _ in range(3)] == [{"n": n, "pad": "xxxx"} for n in range(3)]
        assert is_silent(client, 0.05)


def test_the_server_counts_and_closes(peer: WebSocketPeer):
    with connect(peer.ws_url + "/count?n=2500&close=4000") as client:
        assert [receive(client)["n"] for _ in range(2500)] == list(range(2500))
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv(timeout=5.0)
    assert caught.value.rcvd.code == 4000


@pytest.mark.parametrize(
    ("query", "first"), [("", 0x81), ("&binary=1", 0x82), ("&fragments=3", 0x01)]
)
def test_messages_are_sent_in_the_frames_that_are_asked_for(peer: WebSocketPeer, query, first):
    with dial(peer.port, b"/count?n=1" + query.encode()) as sock:
        read_head(sock)
        assert sock.recv(1)[0] == first
    with connect(peer.ws_url + "/count?n=1" + query) as client:
        assert receive(client) == {"n": 0, "pad": ""}


def test_a_series_goes_on_while_nobody_listens(peer: WebSocketPeer):
    url = peer.ws_url + "/ticks?series=a&from=5&every=0.01"
    with connect(url) as client:
        first = [receive(client)["n"] for _ in range(5)]
    threading.Event().wait(0.1)
    with connect(url) as client:
        second = [receive(client)["n"] for _ in range(5)]
    assert first == [5, 6, 7, 8, 9]
    assert second == list(range(second[0], second[0] + 5))
    assert second[0] > 9 + 5
    with connect(peer.ws_url + "/ticks?every=0.01") as client:
        assert receive(client) == {"n": 0}


def test_the_server_closes_as_it_is_told(peer: WebSocketPeer):
    with connect(peer.ws_url + "/close?code=4001&reason=go+away&after=2") as client:
        assert [receive(client)["n"] for _ in range(2)] == [0, 1]
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv(timeout=5.0)
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "go away")
    with connect(peer.ws_url + "/close") as client, pytest.raises(ConnectionClosedOK):
        client.recv(timeout=5.0)


def test_the_server_counts_the_pongs(peer: WebSocketPeer):
    with connect(peer.ws_url + "/ping?n=3") as client:
        assert receive(client) == {"pings": 3, "pongs": 3}
    with dial(peer.port, b"/ping?n=1&timeout=0.05") as sock:  # which does not answer
        read_head(sock)
        ping = sock.recv(2)
        sock.recv(ping[1])
        assert ping[0] == 0x89
        assert sock.recv(100)[2:] == b'{"pings": 1, "pongs": 0}'


def test_the_server_pings_where_it_is_told_to(peer: WebSocketPeer):
    with dial(peer.port, b"/echo?ping_interval=0.05&ping_timeout=0.05") as sock:
        read_head(sock)
        assert sock.recv(1) == b"\x89"
        assert b"\x88" in read_all(sock)
    with dial(peer.port, b"/echo") as sock:
        read_head(sock)
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)


def test_the_server_tells_what_the_handshake_was(peer: WebSocketPeer):
    url = peer.ws_url + "/headers?x=1"
    with connect(url, additional_headers={"X-A": "b"}, subprotocols=["p", "q"]) as client:
        told = receive(client)
    assert told["path"] == "/headers?x=1"
    assert ["X-A", "b"] in told["headers"]
    assert told["subprotocol"] == "p"
    with connect(url + "&subprotocol=q", subprotocols=["p", "q"]) as client:
        assert receive(client)["subprotocol"] == "q"
    with connect(url) as client:
        assert receive(client)["subprotocol"] is None


@pytest.mark.parametrize(("query", "compresses"), [("", True), ("?compression=off", False)])
def test_compression_can_be_switched_off(peer: WebSocketPeer, query, compresses):
    with connect(peer.ws_url + "/echo" + query) as client:
        assert ("Sec-WebSocket-Extensions" in client.response.headers) is compresses
        client.send("x" * 1000)
        assert client.recv(timeout=5.0) == "x" * 1000


def frames(sock: socket.socket, n: int) -> list[tuple[int, bytes]]:
    """So many small frames: the first byte and the payload of each."""
    file = sock.makefile("rb")
    with file:
        return [(file.read(1)[0], file.read(file.read(1)[0])) for _ in range(n)]


@pytest.mark.parametrize(
    ("kind", "frame"),
    [
        ("json", (0x81, b"{not json")),
        ("binary", (0x82, b"\xff\xfe\x00")),
        ("utf8", (0x81, b'{"n": "\xff"}')),
    ],
)
def test_the_server_sends_what_is_bad_between_two_that_are_good(peer: WebSocketPeer, kind, frame):
    with dial(peer.port, b"/bad?kind=" + kind.encode()) as sock:
        read_head(sock)
        assert frames(sock, 3) == [(0x81, b'{"n": 0}'), frame, (0x81, b'{"n": 1}')]


def test_the_server_sends_a_frame_that_cannot_be(peer: WebSocketPeer):
    with dial(peer.port, b"/bad?kind=frame") as sock:
        read_head(sock)
        assert frames(sock, 2) == [(0x81, b'{"n": 0}'), (0x83, b"")]


def test_the_server_can_leave_a_sender_waiting(peer: WebSocketPeer):
    with dial(peer.port, b"/deaf") as sock:
        read_head(sock)
        send_until_stopped(
            sock, b"\x82\xff" + (1 << 16).to_bytes(8, "big") + bytes(4) + bytes(1 << 16)
        )


def test_the_handshake_can_take_its_time(peer: WebSocketPeer):
    began = time.monotonic()
    with connect(peer.ws_url + "/echo?handshake=0.2"):
        assert time.monotonic() - began >= 0.2


def test_a_path_that_is_not_there_is_404(peer: WebSocketPeer):
    with pytest.raises(InvalidStatus) as caught, connect(peer.ws_url + "/nowhere"):
        pass
    assert caught.value.response.status_code == 404


def test_the_server_speaks_tls():
    with WebSocketPeer(tls=True) as peer, FaultProxy(peer.port, tls=True) as proxy:
        assert (peer.ws_url[:6], proxy.url[:6]) == ("wss://", "wss://")
        trusting = ssl.create_default_context(cafile=peer.ca_file)
        for port in (peer.port, proxy.port):
            # Not the library's client, whose two threads break TLS now and then.
            with dial(port) as sock, trusting.wrap_socket(sock, server_hostname="localhost") as tls:
                tls.sendall(UPGRADE % b"/count?n=1")
                assert read_head(tls).startswith(b"HTTP/1.1 101 ")
                assert frames(tls, 1) == [(0x81, b'{"n": 0, "pad": ""}')]
        assert peer.stats("/count").opened == 2
        assert proxy.requests == []
        with pytest.raises(ssl.SSLCertVerificationError), dial(peer.port) as sock:
            ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")


# -- the proxy: connections that are open --------------------------------------------------------


def test_the_proxy_passes_on_what_comes(peer: WebSocketPeer, proxy: FaultProxy):
    with connect(proxy.url + "/echo", max_size=None, compression=None) as client:
        for size in (0, 1, 70_000, 3 << 20):
            client.send("x" * size)
            assert len(client.recv(timeout=5.0)) == size
        assert (proxy.connections, proxy.open) == (1, 1)
        client.close(4000)
    assert peer.wait_until("/echo", lambda stats: not stats.open).close_code == 4000
    proxy.wait_until(lambda: proxy.open == 0)
    assert proxy.requests[0].startswith(b"GET /echo HTTP/1.1\r\n")
    assert proxy.requests[0].endswith(b"\r\n\r\n")


def test_connections_are_counted(peer: WebSocketPeer, proxy: FaultProxy):
    with dial(proxy.port), dial(proxy.port):
        proxy.wait_for_connections(2)
        assert proxy.open == 2
        with pytest.raises(AssertionError, match="connections=2"):
            proxy.wait_for_connections(3, timeout=0.05)


def test_a_reset_reaches_both_sides(peer: WebSocketPeer, proxy: FaultProxy):
    with dial(proxy.port, b"/echo") as sock:
        read_head(sock)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert proxy.open == 0
    assert peer.wait_until("/echo", lambda stats: not stats.open).close_code == 1006
    with connect(proxy.url + "/count?n=1") as client:
        assert receive(client)["n"] == 0


def test_a_fin_reaches_both_sides(peer: WebSocketPeer, proxy: FaultProxy):
    with dial(proxy.port, b"/echo") as sock:
        read_head(sock)
        proxy.fin()
        assert read_all(sock) == b""
        assert peer.wait_until("/echo", lambda stats: not stats.open).close_code == 1006
    proxy.wait_until(lambda: proxy.open == 0)


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_a_connection_is_cut_after_so_many_bytes(peer: WebSocketPeer, proxy: FaultProxy, n):
    with dial(proxy.port, b"/ticks?every=0.001") as sock:
        read_head(sock)
        proxy.stall()
        sock.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while sock.recv(65536):
                pass
        sock.settimeout(5.0)
        proxy.cut_after(n)
        proxy.resume()
        assert len(read_until_reset(sock)) == n


def test_the_next_connection_is_cut_where_none_is_open(peer: WebSocketPeer, proxy: FaultProxy):
    proxy.cut_after(20)
    with dial(proxy.port, b"/echo") as sock:
        assert len(read_until_reset(sock)) == 20
    with connect(proxy.url + "/count?n=1") as client:
        assert receive(client)["n"] == 0


def test_bytes_can_be_put_in(proxy: FaultProxy):
    with connect(proxy.url + "/echo", compression=None) as client:
        proxy.inject(b"\x81\x02hi")
        assert client.recv(timeout=5.0) == "hi"
        client.send("there")
        assert client.recv(timeout=5.0) == "there"


# -- the proxy: all connections ------------------------------------------------------------------


def test_a_stalled_connection_stays_open_and_loses_nothing(peer: WebSocketPeer, proxy: FaultProxy):
    with connect(proxy.url + "/ticks?every=0.005") as client:
        first = receive(client)["n"]
        proxy.stall()
        while not is_silent(client):
            first += 1
        assert proxy.open == 1
        proxy.resume()
        assert [receive(client)["n"] for _ in range(50)] == list(range(first + 1, first + 51))


@pytest.mark.parametrize("way", ["upstream", "downstream"])
def test_one_way_can_be_stalled_alone(peer: WebSocketPeer, proxy: FaultProxy, way):
    with connect(proxy.url + "/echo") as client:
        proxy.stall(upstream=way == "upstream", downstream=way == "downstream")
        client.send("x")
        if way == "downstream":
            peer.wait_until("/echo", lambda stats: stats.received == 1)
        assert is_silent(client)
        assert peer.stats("/echo").received == (way == "downstream")
        proxy.resume()
        assert client.recv(timeout=5.0) == "x"


def test_a_new_connection_is_stalled_too(proxy: FaultProxy):
    proxy.stall()
    with dial(proxy.port, b"/echo") as sock:
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        proxy.resume()
        sock.settimeout(5.0)
        assert read_head(sock).startswith(b"HTTP/1.1 101 ")


def test_a_sender_is_stopped_by_a_stall(proxy: FaultProxy):
    with dial(proxy.port, b"/echo") as sock:
        read_head(sock)
        proxy.stall(downstream=False)
        send_until_stopped(sock, bytes(1 << 16))


def test_everything_can_be_late(proxy: FaultProxy):
    with connect(proxy.url + "/echo") as client:
        proxy.delay(0.1)
        began = time.monotonic()
        client.send("x")
        assert client.recv(timeout=5.0) == "x"
        assert time.monotonic() - began >= 0.2
        proxy.resume()
        client.send("y")
        assert client.recv(timeout=5.0) == "y"


def test_bytes_can_come_one_by_one(proxy: FaultProxy):
    proxy.slow_loris(500.0)
    with dial(proxy.port, b"/count?n=1&compression=off") as sock:
        began, received = time.monotonic(), 0
        while received < 50:
            received += len(sock.recv(50))
        assert time.monotonic() - began >= 0.09
        proxy.resume()
        assert sock.recv(65536)


# -- the proxy: connections to come --------------------------------------------------------------


def test_connections_are_refused_until_they_are_accepted_again(proxy: FaultProxy):
    with connect(proxy.url + "/echo") as client:
        proxy.refuse()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError), dial(proxy.port):
            pass
        client.send("x")
        assert client.recv(timeout=5.0) == "x"
        proxy.accept()
        with connect(proxy.url + "/count?n=1") as other:
            assert receive(other)["n"] == 0
    assert proxy.connections == 2


def test_a_target_that_refuses_resets_the_client():
    with FaultProxy(1) as proxy:
        with pytest.raises(ConnectionResetError), dial(proxy.port) as sock:
            sock.recv(1)
        assert (proxy.connections, proxy.open) == (1, 0)


def test_requests_are_answered_without_the_target(peer: WebSocketPeer, proxy: FaultProxy):
    proxy.answer(503, {"Retry-After": "7"}, b"busy", times=2)
    for _ in range(2):
        with pytest.raises(InvalidStatus) as caught, connect(proxy.url + "/echo"):
            pass
        response = caught.value.response
        assert (response.status_code, response.reason_phrase) == (503, "Service Unavailable")
        assert (response.headers["Retry-After"], response.body) == ("7", b"busy")
    assert peer.stats("/echo").opened == 0
    assert len(proxy.requests) == 2
    with connect(proxy.url + "/echo"):
        pass
    assert peer.stats("/echo").opened == 1


def test_an_answer_without_times_is_given_until_connections_are_accepted(proxy: FaultProxy):
    proxy.answer(401)
    url = proxy.url.replace("ws:", "http:")
    assert [requests.get(url).status_code for _ in range(3)] == [401, 401, 401]
    proxy.accept()
    assert requests.get(url + "/control/stats").status_code == 200


def test_a_request_can_stay_without_an_answer(peer: WebSocketPeer, proxy: FaultProxy):
    proxy.never_answer()
    with dial(proxy.port, b"/echo") as sock:
        proxy.wait_until(lambda: proxy.requests)
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    proxy.wait_until(lambda: proxy.open == 0)
    assert peer.stats("/echo").opened == 0


def test_connections_are_accepted_and_closed(peer: WebSocketPeer, proxy: FaultProxy):
    proxy.flap(times=2)
    for _ in range(2):
        with dial(proxy.port) as sock:
            assert read_all(sock) == b""
    with dial(proxy.port, b"/echo") as sock:
        assert read_head(sock).startswith(b"HTTP/1.1 101 ")
    assert peer.stats("/echo").opened == 1


def test_connections_are_closed_after_the_upgrade(peer: WebSocketPeer, proxy: FaultProxy):
    proxy.flap_after_upgrade(times=1)
    with dial(proxy.port, b"/count?n=1000") as sock:
        answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert answer.endswith(b"\r\n\r\n")
    assert peer.wait_until("/count", lambda stats: not stats.open).opened == 1
    proxy.wait_until(lambda: proxy.open == 0)
    with connect(proxy.url + "/count?n=1") as client:
        assert receive(client)["n"] == 0


@pytest.mark.parametrize("close", [True, False])
def test_a_request_can_be_answered_with_garbage(proxy: FaultProxy, close):
    proxy.garbage(b"HTTP/1.1 1", close=close)
    with dial(proxy.port, b"/echo") as sock:
        assert sock.recv(100) == b"HTTP/1.1 1"
        sock.settimeout(0.1)
        if close:
            assert sock.recv(100) == b""
        else:
            with pytest.raises(TimeoutError):
                sock.recv(100)


# -- its life ------------------------------------------------------------------------------------


def test_stopping_closes_everything_and_leaves_no_thread(peer: WebSocketPeer):
    before = threading.active_count()
    with FaultProxy(peer.port) as proxy, dial(proxy.port, b"/echo") as sock:
        read_head(sock)
        proxy.stop()
        proxy.stop()
        assert read_all(sock) == b""
        with pytest.raises(ConnectionRefusedError), dial(proxy.port):
            pass
    assert threading.active_count() == before


def test_faults_may_be_changed_while_much_is_on_its_way(peer: WebSocketPeer, proxy: FaultProxy):
    n = 20_000

    def read() -> list[int]:
        with connect(proxy.url + f"/count?n={n}&size=100") as client:
            return [receive(client)["n"] for _ in range(n)]

    reader = InThread(read)
    for seconds in itertools.islice(itertools.cycle((0.001, 0.0)), 50):
        proxy.stall()
        proxy.resume()
        proxy.delay(seconds)
    assert reader.ends(30.0) == list(range(n))


def test_a_failure_of_the_proxy_fails_the_test(peer: WebSocketPeer):
    proxy = FaultProxy(peer.port)
    proxy._times = "x"
    with dial(proxy.port) as sock:
        assert read_all(sock) == b""
    with pytest.raises(AssertionError, match="the fault proxy failed"):
        proxy.stop()


def test_plain_http_goes_through_it_too(proxy: FaultProxy):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5.0)
    connection.request("GET", "/control/stats")
    with connection.getresponse() as answer:
        assert answer.status == 200
    connection.close()
