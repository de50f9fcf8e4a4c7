"""Fixtures, and the house rules that every test is held to.

The rules are autouse fixtures: nobody sleeps, nobody talks to anything outside loopback, the
environment of whoever runs the tests changes nothing, and no thread outlives its test.
"""

import contextlib
import ipaddress
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import urllib3

from tests.support.aimock import AimockServer, missing_aimock
from tests.support.fault_proxy import FaultProxy
from tests.support.llmock import LlmockServer
from tests.support.model_server import ModelServer
from tests.support.scripted import ScriptedServer
from tests.support.websocket_peer import WebSocketPeer

if TYPE_CHECKING:
    from reasoning_sdk import WebSocketConnection
    from tests.support.clock import FakeClock

hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, print_blob=True
)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

#: Who may sleep: tools that poll, for as long as a test runs them. Everyone else raises.
MAY_SLEEP = {
    "execnet", "hypothesis", "jupyter_client", "multiprocessing", "nbclient", "psutil",
    "pytest_timeout", "subprocess", "websockets", "xdist",
}  # fmt: skip

#: How long a thread may take to end after the test that started it.
THREAD_GRACE = 2.0


def pytest_configure(config: pytest.Config) -> None:
    """With urllib3-future, requests leaves sockets of unread answers to the garbage collector."""
    if hasattr(urllib3, "AsyncPoolManager"):
        config.addinivalue_line("filterwarnings", "ignore:unclosed:ResourceWarning")


class OutsideNetworkError(AssertionError):
    """A test tried to reach a host that is not this one."""


# -- house rules -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_surviving_threads() -> Iterator[None]:
    """Fails the test after which a thread is left over.

    First of the rules by name and by place: it is torn down last, after the fixtures of the test.
    """
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + THREAD_GRACE
    left = []
    for thread in set(threading.enumerate()) - before:
        # A notebook's client keeps the threads of its own sockets for the whole process, and
        # urllib3-future one that watches its idle connections.
        if type(thread).__module__.partition(".")[0] in {"zmq", "ipykernel", "tornado"}:
            continue
        if "idle_conn_watch_task" in thread.name:
            continue
        thread.join(max(deadline - time.monotonic(), 0.0))
        if thread.is_alive():
            left.append(thread.name)
    if left:
        pytest.fail(f"threads outlived the test: {sorted(left)}", pytrace=False)


@pytest.fixture(autouse=True)
def _no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """``time.sleep`` raises: a test waits for an event, or moves a fake clock."""
    sleep = time.sleep

    def no_sleep(seconds: float) -> None:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] not in MAY_SLEEP:
            raise AssertionError(f"time.sleep({seconds!r}) called in {caller}")
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", no_sleep)


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sockets reach loopback only, and names are looked up without a network.

    ``localhost`` and every ``*.localhost`` are 127.0.0.1, which gives tests as many host names as
    they need; ``*.invalid`` does not exist; any other name is an error of the test.
    """
    offences: list[str] = []
    getaddrinfo, connect, connect_ex = (
        socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex
    )  # fmt: skip

    def offend(what: str) -> None:
        offences.append(what)
        raise OutsideNetworkError(f"a test tried to reach {what}")

    def check(address: Any) -> None:
        if isinstance(address, tuple) and not _is_loopback(address[0]):
            offend(f"{address[0]}:{address[1]}")

    def checked_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and not _is_loopback(name):
            name = name.rstrip(".").lower()
            if name.endswith(".localhost"):
                host = "127.0.0.1"
            elif name.endswith(".invalid"):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            else:
                offend(name)
        return getaddrinfo(host, *args, **kwargs)

    def checked_connect(self: socket.socket, address: Any) -> None:
        check(address)
        connect(self, address)

    def checked_connect_ex(self: socket.socket, address: Any) -> int:
        check(address)
        return connect_ex(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", checked_getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", checked_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", checked_connect_ex)
    yield
    # Also when the code under test swallowed the exception, or a thread of it died.
    if offences:
        pytest.fail(f"reached outside loopback: {offences}", pytrace=False)


def _is_loopback(host: str) -> bool:
    if host in ("localhost", ""):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    return False


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests: keys, addresses, proxies, CA bundles, netrc."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "REASONING_", "VIEWER_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", os.devnull)


# -- fixtures ----------------------------------------------------------------------------------


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedServer]]:
    """Makes scripted servers, ``scripted(handlers, tls=…, repeat_last=…)``, and stops them.

    A handler that raised, or a request that was not in the script, fails the test.
    """
    servers: list[ScriptedServer] = []

    def make(*args: Any, **kwargs: Any) -> ScriptedServer:
        servers.append(ScriptedServer(*args, **kwargs))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
    for server in servers:
        server.check()


@pytest.fixture
def fake_clock() -> "FakeClock":
    from tests.support.clock import FakeClock

    return FakeClock()


@pytest.fixture(scope="session")
def _llmock_process() -> Iterator[LlmockServer]:
    with LlmockServer() as server:
        yield server


@pytest.fixture
def llmock_server(_llmock_process: LlmockServer) -> LlmockServer:
    """The real llmock server, a process of its own; as new for every test."""
    _llmock_process.reset()
    return _llmock_process


@pytest.fixture(scope="session")
def _aimock_process() -> Iterator[AimockServer]:
    if reason := missing_aimock():
        pytest.skip(reason)
    with AimockServer() as server:
        yield server


@pytest.fixture
def aimock_server(_aimock_process: AimockServer) -> AimockServer:
    """The real aimock server with the fixtures of tests/data/aimock.json; as new for every test."""
    _aimock_process.reset()
    return _aimock_process


@pytest.fixture(scope="session")
def _websocket_process() -> Iterator[WebSocketPeer]:
    with WebSocketPeer() as peer:
        yield peer


@pytest.fixture
def websocket_peer(_websocket_process: WebSocketPeer) -> WebSocketPeer:
    """A real WebSocket server, a process of its own; it has forgotten the tests before."""
    _websocket_process.reset()
    return _websocket_process


@pytest.fixture
def fault_proxy(websocket_peer: WebSocketPeer) -> Iterator[FaultProxy]:
    """A proxy to that server, which goes wrong when it is told to."""
    with FaultProxy(websocket_peer.port) as proxy:
        yield proxy


@pytest.fixture
def connect(websocket_peer: WebSocketPeer) -> Iterator["Callable[..., WebSocketConnection]"]:
    """Connects to a path of the WebSocket server, or to another address, and closes in the end.

    What is lost is made again soon, and tried five times in a row.
    """
    from reasoning_sdk import RetryPolicy, WebSocketConnection

    quick = RetryPolicy(
        initial_interval=0.01, max_interval=0.05, randomization_factor=0, max_attempts=5
    )
    made: list[WebSocketConnection] = []

    def make(url: str | Callable[[], str], **options: Any) -> WebSocketConnection:
        if isinstance(url, str) and url.startswith("/"):
            url = websocket_peer.ws_url + url
        made.append(WebSocketConnection.connect(url, **{"retry": quick, **options}))
        return made[-1]

    yield make
    for connection in made:
        connection.close(0)


@pytest.fixture
def model_server() -> Iterator[Callable[..., ModelServer]]:
    """Makes scripted models, ``model_server([Call(("add", {"a": 1})), Say("1")])``, and stops them.

    A request for which there is no turn fails the test.
    """
    servers: list[ModelServer] = []

    def make(*args: Any, **kwargs: Any) -> ModelServer:
        servers.append(ModelServer(*args, **kwargs))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
    for server in servers:
        server.check()
