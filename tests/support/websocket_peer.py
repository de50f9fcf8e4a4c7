"""A real WebSocket server to talk to: the library ``websockets``, in a process of its own.

What a connection does is in its URL, so one process serves all tests. Messages are JSON objects::

    /echo                     sends back what comes
    /count?n=1000             sends {"n": 0, "pad": ""} … {"n": 999, …}, and waits for the close
        size=200  every=0.1   the length of "pad"; the seconds between two messages
        close=1000            closes with this code
    /ticks?every=0.01         a series {"n": 0}, {"n": 1} … without end
        series=ID  from=0     of the server, not of the connection: it goes on in real time, so what
                              came while a client was away is a gap; the first number
    /close?code=1000          closes
        reason=x  after=0     after so many messages
    /ping?n=10  timeout=5     pings, one after the other, and tells {"pings": 10, "pongs": 10}
    /headers                  tells {"path": …, "headers": [[name, value], …], "subprotocol": …}
    /bad?kind=json            {"n": 0}; then what is not JSON, or "utf8": a text that is not UTF-8,
                              "binary": bytes that are neither; {"n": 1}. Or, for {"n": 1},
                              kind=frame: a frame that cannot be
    /deaf                     reads nothing, when a few messages have come

Any of them also takes ``binary=1`` and ``fragments=3`` (how its JSON is sent), ``compression=off``
(else it is what the client offers), ``subprotocol=x`` (else the first that is offered; empty:
none), ``handshake=0.5`` (seconds until it is answered), ``ping_interval`` and ``ping_timeout`` (the
server's own pings: else there are none).
"""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from tests.support.processes import ServerProcess
from tests.support.programs import PROGRAMS
from tests.support.scripted import ca_file, certificate_authority


@attrs.frozen
class PathStats:
    """What has happened on one path since the reset, all connections together.

    Attributes:
        opened: How many connections there were.
        open: How many are open now.
        received: How many messages have come.
        close_code: What the last connection was closed with: the code that the client sent, 1006 if
            it sent none; ``None`` while none is closed.
        close_reason: The same of the reason.
    """

    opened: int = 0
    open: int = 0
    received: int = 0
    close_code: int | None = None
    close_reason: str | None = None


class WebSocketPeer(ServerProcess):
    """The server on a free port; with ``tls``, clients trust ``ca_file``.

    ``ws_url`` is its address, to put a path behind.
    """

    name = "websockets"

    def __init__(self, *, tls: bool = False) -> None:
        self.ca_file = ca_file() if tls else None
        serve = [sys.executable, str(PROGRAMS / "websocket_server.py")]
        options = [_certificate_file()] if tls else []
        super().__init__(lambda port: [*serve, str(port), *options])
        self.ws_url = f"ws{'s' * tls}://127.0.0.1:{self.port}"
        if tls:
            self.url = f"https://127.0.0.1:{self.port}"
            self._session.verify = self.ca_file

    def stats(self, path: str) -> PathStats:
        """What has happened on a path, such as ``/echo``."""
        return PathStats(**self.control("GET", "/control/stats").get(path, {}))

    def wait_until(
        self, path: str, condition: Callable[[PathStats], bool], timeout: float = 10.0
    ) -> PathStats:
        """Waits until something is so on a path."""
        deadline = time.monotonic() + timeout
        while not condition(stats := self.stats(path)):
            assert time.monotonic() < deadline, f"after {timeout} seconds: {stats}"
            self._pause.wait(0.01)
        return stats

    def reset(self) -> None:
        """Forgets what has happened and all series. What is open stays open, and is not counted."""
        self.control("GET", "/control/reset")


@functools.cache
def _certificate_file() -> str:
    """The path of a server's certificate with its key, beside the authority's."""
    path = Path(ca_file()).with_name("websocket_peer.pem")
    issued = certificate_authority().issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)
