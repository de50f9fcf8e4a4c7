"""A service whose WebSockets are scripted in Python: the library ``websockets``, in threads."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import attrs
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

Talk = Callable[[ServerConnection], object]


@attrs.frozen
class Handshake:
    """One request, answered or refused.

    Attributes:
        path: With the query.
        headers: Names in lower case.
    """

    path: str
    headers: Mapping[str, str]


def telling(*messages: Any, then: str = "wait") -> Talk:
    """Sends messages: a text or bytes as they are, all else as JSON.

    ``then`` is ``"wait"`` for the client's close, ``"cut"`` or ``"close"``.
    """

    def talk(connection: ServerConnection) -> None:
        for message in messages:
            plain = isinstance(message, (str, bytes))
            connection.send(message if plain else json.dumps(message))
        if then == "cut":
            cut(connection)
        elif then == "wait":
            for _ in connection:
                pass

    return talk


def cut(connection: ServerConnection) -> None:
    """Ends a connection without a close."""
    with contextlib.suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)


class AgentService:
    """Talks on each WebSocket in turn, and the last way on all further ones.

    Args:
        talks: What to do with each connection; at its end it is closed with 1000.
        tokens: The bearer tokens that are accepted; ``None`` is whatever comes.
        answers: The JSON that a GET of a path is answered with.

    Attributes:
        handshakes: What has asked for a WebSocket, in order.
    """

    def __init__(
        self,
        *talks: Talk,
        tokens: set[str] | None = None,
        answers: Mapping[str, Any] | None = None,
    ) -> None:
        self.handshakes: list[Handshake] = []
        self.tokens = tokens
        self._talks: Iterator[Talk] = iter(talks)
        self._last = talks[-1]
        self._answers = answers or {}
        self._open: set[ServerConnection] = set()
        self._changed = threading.Condition()
        self._server = serve(self._talk, "127.0.0.1", 0, process_request=self._prepare)
        self.port: int = self._server.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _prepare(self, connection: ServerConnection, request: Request) -> Response | None:
        path = urlsplit(request.path).path
        if path in self._answers:
            body = json.dumps(self._answers[path]).encode()
            fields = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            return Response(200, "OK", Headers({**fields, "Connection": "close"}), body)
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        with self._changed:
            self.handshakes.append(Handshake(request.path, headers))
            self._changed.notify_all()
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and token not in self.tokens:
            return connection.respond(401, f"not with {token}")
        return None

    def _talk(self, connection: ServerConnection) -> None:
        with self._changed:
            talk = next(self._talks, self._last)
            self._open.add(connection)
        try:
            with contextlib.suppress(ConnectionClosed):
                talk(connection)
        finally:
            with self._changed:
                self._open.discard(connection)
                self._changed.notify_all()

    def wait_for_handshakes(self, count: int, timeout: float = 10.0) -> None:
        """Waits until so many have asked since the start."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.handshakes) >= count, timeout)

    def wait_until_left(self, timeout: float = 10.0) -> None:
        """Waits until no WebSocket is open."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, timeout)

    def stop(self) -> None:
        """Cuts all connections, and joins the thread. May be called more than once."""
        self._cut_all()
        self._server.shutdown()
        self._thread.join(10.0)
        self._cut_all()  # what has come meanwhile
        self.wait_until_left()

    def _cut_all(self) -> None:
        with self._changed:
            connections = set(self._open)
        for connection in connections:
            cut(connection)

    def __enter__(self) -> "AgentService":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
