"""Connections of requests that one deadline bounds and any thread can cut.

requests offers neither: its timeouts are per receive, and nothing but the thread that waits for an
answer can stop waiting. So a :class:`Session` has urllib3 make connections that tell the current
:class:`Exchange` which socket they use, and read it through one reader at the bottom, for headers
and body alike, that keeps to the exchange's deadline. Its response reads all HTTP chunks that a
receive has brought at once, where urllib3 takes them one by one.

Its pools also send a request that the caller has written out, for a third of what urllib3 takes:
:func:`ask`.

With urllib3-future in urllib3's place (niquests puts it there) the socket is known all the same,
the deadline holds per receive only, and nothing is asked like that.
"""

import http.client
import io
import os
import queue
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, ProxyError

__all__ = ["Exchange", "Session", "Stack", "ask", "can_ask", "read_uncoded", "uncoded_body"]

_BUFFER_SIZE = 64 * 1024
_RESET = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # linger, for no time
_MOST_IDLE = 100
_IS_URLLIB3 = issubclass(HTTPConnection, http.client.HTTPConnection)  # and not urllib3-future
_BODY_SECONDS = 1.0
_MOST_ORIGINS = 64
_ALL_FROM_ENVIRONMENT: tuple[Any, ...] = ({}, True, None, None)
_INTERIM = frozenset(range(102, 200))
_current: "ContextVar[Exchange | None]" = ContextVar("current exchange", default=None)


class Exchange:
    """One request and its answer: the socket they use, and until when. Safe to use from any thread.

    Args:
        timeout: Seconds from now until whatever it does times out; ``None`` is never.
    """

    def __init__(self, timeout: float | None) -> None:
        self._aborted = False
        self._deadline = _from_now(timeout)
        self._socket: Any = None
        self._pid = os.getpid()
        self._lock = threading.RLock()  # reentrant: a signal handler may close what it interrupts

    @property
    def aborted(self) -> bool:
        """Whether :meth:`abort` was called."""
        return self._aborted

    @contextmanager
    def current(self) -> Iterator[None]:
        """Have the connections that this thread uses in here tell this exchange."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def attach(self, sock: Any) -> None:
        """Take note of the socket in use; ``None`` when another exchange uses it now."""
        with self._lock:
            self._socket = sock
            if self._aborted:
                self._shut_down()

    def detach(self, sock: Any) -> None:
        """Leave a socket alone from now on, if it is the one in use."""
        with self._lock:
            if self._socket is sock:
                self._socket = None

    def attach_answer(self, raw: Any) -> None:
        """Take note of the socket of an answer whose connection is not one of ours."""
        if self._socket is None:
            self.attach(_socket_of(raw))

    def remaining(self) -> float | None:
        """Seconds until the deadline; ``None`` when there is none.

        Raises:
            TimeoutError: It has passed.
        """
        if self._deadline is None:
            return None
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        return remaining

    @property
    def receive_timeout(self) -> float | None:
        """The seconds that the socket's own timeout gives a receive."""
        timeout: float | None = None if self._socket is None else self._socket.gettimeout()
        return timeout

    def extend(self, timeout: float | None) -> None:
        """Set another deadline, so many seconds from now."""
        self._deadline = _from_now(timeout)

    @contextmanager
    def within(self, timeout: float | None) -> Iterator[None]:
        """Have what is done in here end in so many seconds, if the deadline is not before."""
        deadline, limit = self._deadline, _from_now(timeout)
        if limit is not None:
            self._deadline = limit if deadline is None else min(deadline, limit)
        try:
            yield
        finally:
            self._deadline = deadline

    def arm(self) -> None:
        """Have the socket's next receive end at the deadline, whoever reads it."""
        if self._socket is not None:
            self._socket.settimeout(self.remaining())

    def abort(self) -> None:
        """Shut the socket down, which wakes whoever waits for it."""
        if self._pid != os.getpid():  # a fork has made this; the connection is the parent's
            return
        with self._lock:
            self._aborted = True
            self._shut_down()

    def hang_up(self) -> None:
        """Close the socket, if it has not been closed, and tell the peer at once.

        Without the reset a peer that is sending may go on waiting for room, for a long time: what
        was shut down takes nothing more, and not every kernel says so.
        """
        with self._lock:
            if self._socket is not None:
                if self._pid == os.getpid():  # else it is the parent's as well
                    with suppress(OSError):  # it is closed
                        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._socket.close()
                self._socket = None

    def _shut_down(self) -> None:
        sock = getattr(self._socket, "socket", self._socket)  # TLS in TLS wraps one
        if sock is None:
            return
        # An SSLSocket's own shutdown would have a reader in another thread go on without TLS.
        shutdown = (
            socket.socket.shutdown if isinstance(sock, socket.socket) else type(sock).shutdown
        )
        with suppress(OSError):  # it is closed or was never connected: nobody waits
            shutdown(sock, socket.SHUT_RDWR)


def _from_now(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _socket_of(raw: Any) -> Any:
    """The socket behind a urllib3 response, where it can be found."""
    body = getattr(raw, "_fp", None)
    for owner, name in (
        (getattr(raw, "_connection", None), "sock"),
        (getattr(raw, "connection", None), "sock"),
        (body, "_sock"),
    ):
        sock = getattr(owner, name, None)
        if sock is not None:
            return sock
    # Last, as urllib3-future makes a file for it, which keeps the socket from being closed.
    return getattr(getattr(getattr(body, "fp", None), "raw", None), "_sock", None)


class _Reader(io.RawIOBase):
    """The bottom of an answer: receives within the deadline of its exchange."""

    def __init__(self, raw: Any, sock: Any, exchange: Exchange) -> None:
        self.ended = False
        self._raw = raw
        self._socket = sock
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._exchange.remaining())
        received: int | None = self._raw.readinto(buffer)
        self.ended = received == 0
        return received

    def leave(self) -> None:
        """Let another exchange use the socket."""
        self._exchange.detach(self._socket)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer over :class:`_Reader` that reads HTTP chunks in batches."""

    _reader: _Reader | None = None

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        exchange = _current.get()
        if exchange is not None:
            self._reader = _Reader(self.fp.detach(), sock, exchange)
            self.fp = io.BufferedReader(self._reader, _BUFFER_SIZE)

    def begin(self) -> None:
        super().begin()
        while self.status in _INTERIM:  # http.client skips 100 only
            self.headers = None  # type: ignore[assignment]  # as before it began
            super().begin()
        if self._reader is not None and self._reader.ended:  # which http.client does not mind
            raise http.client.RemoteDisconnected("it ended in its headers")

    def _close_conn(self) -> None:
        if self._reader is not None:  # before urllib3 gives the connection to another request
            self._reader.leave()
        super()._close_conn()  # type: ignore[misc]

    def read1(self, n: int = -1) -> bytes:
        if not self.chunked or self.fp is None:
            return super().read1(n)
        while True:
            buffered = self.fp.peek()
            if not buffered:
                self._close_conn()
                raise http.client.IncompleteRead(b"")
            payload, used, self.chunk_left = _split_chunks(buffered, self.chunk_left)
            self.fp.read(used)
            if payload:
                return payload
            left = self._get_chunk_left()  # type: ignore[attr-defined]
            if left is None:
                return b""
            if left < 0:
                self._close_conn()
                raise http.client.IncompleteRead(b"")


def uncoded_body(raw: Any) -> Any:
    """The body of an answer of ours that comes in HTTP chunks and in no content coding, or none."""
    body = getattr(raw, "_fp", None)
    plain = isinstance(body, _Response) and body.chunked and "content-encoding" not in raw.headers
    return body if plain else None


def read_uncoded(raw: Any, body: Any, size: int) -> bytes:
    """Read from such a body; what urllib3 does for any other takes several times as long."""
    try:
        data: bytes = body.read1(size)
    except BaseException:
        with raw._error_catcher():  # tells of it as it would, and sees to the connection
            raise
    return data or raw.read1(size)  # which sees to the connection at the end


def _split_chunks(buffered: bytes, left: int | None) -> tuple[bytes, int, int | None]:
    """Take the payload out of the HTTP chunks that are there.

    Args:
        buffered: What was received.
        left: How much of the chunk at its beginning is left; ``None`` before the first.

    Returns:
        The payload, how much of ``buffered`` it took, and what is left of the last chunk. Without
        payload, what comes next is the end of a chunk, or the size of one, and not complete.
    """
    parts, position, end = [], 0, len(buffered)
    while True:
        if left:
            part = buffered[position : position + left]
            parts.append(part)
            position += len(part)
            left -= len(part)
        start = position if left is None else position + 2  # a line end follows the payload
        line_end = buffered.find(b"\n", start)
        if left or start > end or line_end < 0:
            break
        try:
            size = int(buffered[start:line_end].partition(b";")[0], 16)
        except ValueError:
            break  # the reader of single chunks says what is wrong
        if size <= 0:
            break  # the same ends the body
        position, left = line_end + 1, size
    if left == 0 and buffered[position : position + 2] == b"\r\n":
        position, left = position + 2, None  # lest the next read begins with the end of this chunk
    return b"".join(parts), position, left


class _Connection:
    """What our connections do beside urllib3's: tell the current exchange."""

    sock: Any
    timeout: Any
    _exchange: Exchange | None = None
    _early: socket.socket | None = None

    def _new_conn(self) -> Any:
        sock = super()._new_conn()  # type: ignore[misc]
        if self._exchange is not None and isinstance(sock, socket.socket):
            # For what comes before the connection is ready: a proxy's answer, the TLS handshake.
            # That detaches the socket from the object we have, so we take another of it.
            self._early = sock.dup()
            self._exchange.attach(self._early)
        return sock

    @property
    def is_connected(self) -> bool:
        """Whether it can be used again. Of a socket that was closed urllib3 cannot tell."""
        if self.sock is not None and self.sock.fileno() < 0:
            return False
        return bool(super().is_connected)  # type: ignore[misc]

    def connect(self) -> None:
        self._exchange = _current.get()
        if self._exchange is None:
            super().connect()  # type: ignore[misc]
            return
        try:
            with self._exchange.within(self.timeout):
                super().connect()  # type: ignore[misc]
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, "the connection was not ready in time") from exc
        finally:
            self._exchange.attach(None)
            if self._early is not None:
                self._early.close()
                self._early = None
        self._tell()

    def request(self, *args: Any, **kwargs: Any) -> Any:
        if self._exchange is not None:
            self._exchange.attach(None)
        self._tell()
        return super().request(*args, **kwargs)  # type: ignore[misc]

    def _tell(self) -> None:
        self._exchange = _current.get()
        if self._exchange is not None and self.sock is not None:
            self._exchange.attach(self.sock)


class _HTTPConnection(_Connection, HTTPConnection):
    response_class = _Response


class _HTTPSConnection(_Connection, HTTPSConnection):
    response_class = _Response


class _Idle:
    """The connections of a pool that nobody uses, the last one first; it never blocks.

    It has no lock, as a queue does: a signal handler may close the pool that it interrupts.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._connections: deque[Any] = deque()

    def qsize(self) -> int:
        return len(self._connections)

    def put(self, connection: Any, block: bool = True) -> None:
        if len(self._connections) >= self._maxsize:
            raise queue.Full
        self._connections.append(connection)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None


class _Pool:
    """What our pools do beside urllib3's: be closed at any moment."""

    QueueCls: Any = _Idle if _IS_URLLIB3 else HTTPConnectionPool.QueueCls
    pool: Any

    def _put_conn(self, conn: Any, *args: Any, **named: Any) -> None:
        super()._put_conn(conn, *args, **named)  # type: ignore[misc]
        if self.pool is None and conn is not None:  # perhaps since it was put there
            conn.close()


class _HTTPConnectionPool(_Pool, HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSConnectionPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


def can_ask(pool: Any) -> bool:
    """Whether :func:`ask` can use a connection pool."""
    ours = isinstance(pool, (_HTTPConnectionPool, _HTTPSConnectionPool))
    return ours and _IS_URLLIB3


def ask(
    pool: Any, request: bytes, connect_timeout: float | None, max_size: int
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send a request as it is written, within the current exchange.

    A connection that was used before and turns out to be closed is replaced by a new one.

    Args:
        pool: One of ours.
        request: The whole request.
        connect_timeout: Seconds for the connection.
        max_size: The most bytes of the answer's body to read.

    Returns:
        The answer, and what came of its body.
    """
    connection = pool._get_conn()
    used = not connection.is_closed
    try:
        try:
            answer = _ask_over(pool, connection, request, connect_timeout)
        except ConnectionError:
            connection.close()
            if not used:
                raise
            answer = _ask_over(pool, connection, request, connect_timeout)
        body, whole = _read_beginning(answer, max_size)
        if not whole:
            connection._exchange.hang_up()
        if answer.will_close or not whole:
            answer.close()
            connection.close()
    except BaseException:
        connection.close()
        raise
    finally:
        pool._put_conn(connection)
    return answer, body


def _ask_over(
    pool: Any, connection: Any, request: bytes, connect_timeout: float | None
) -> http.client.HTTPResponse:
    if connection.is_closed:
        connection.timeout = connect_timeout
        if pool.proxy is not None and pool.scheme == "https":
            _tunnel(pool, connection)
        pool._validate_conn(connection)
        if connection.is_closed:
            connection.connect()
    connection._tell()
    refused: ConnectionError | None = None
    try:
        connection._exchange.arm()
        connection.sock.sendall(request)
    except ConnectionError as exc:  # perhaps it has answered all the same: that this is too large
        refused = exc
    answer = connection.response_class(connection.sock, method="POST")
    try:
        answer.begin()
    except (OSError, http.client.HTTPException):
        answer.close()
        if refused is not None:
            raise refused from None
        raise
    return answer  # type: ignore[no-any-return]


def _tunnel(pool: Any, connection: Any) -> None:
    """Connect through a proxy; a refusal of its own is told as urllib3 does elsewhere."""
    try:
        pool._prepare_proxy(connection)
    except OSError as exc:
        if type(exc) is OSError and exc.errno is None:
            raise ProxyError("the proxy refuses", exc) from exc
        raise


def _read_beginning(answer: http.client.HTTPResponse, size: int) -> tuple[bytes, bool]:
    """What comes of a body, in so many bytes and a second; whether that is all."""
    exchange = _current.get()
    assert exchange is not None  # as in all that is asked
    parts: list[bytes] = []
    left = size
    with suppress(OSError, http.client.HTTPException), exchange.within(_BODY_SECONDS):
        if not answer.chunked and answer.length is not None and answer.length <= size:
            return answer.read(), True
        while left > 0:
            data = answer.read1(left)
            if not data:
                return b"".join(parts), True
            parts.append(data)
            left -= len(data)
    return b"".join(parts), False


class _Adapter(HTTPAdapter):
    """requests' adapter with our connections, direct and through proxies."""

    _POOLS = {"http": _HTTPConnectionPool, "https": _HTTPSConnectionPool}  # noqa: RUF012

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):  # whose connections are PySocks'
            manager.pool_classes_by_scheme = self._POOLS
        return manager

    def close(self) -> None:
        """Close the idle connections too, which urllib3 leaves to the garbage collector."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in getattr(manager.pools, "keys", tuple)():  # urllib3-future closes its own
                with suppress(KeyError):
                    manager.pools[key].close()
        super().close()


class Session(requests.Session):
    """A session whose requests an :class:`Exchange` bounds, and that follows no redirect.

    It asks the environment for proxies and certificates once for each origin, not at each request.
    """

    def __init__(self) -> None:
        super().__init__()
        self._settings: dict[tuple[str, str], Any] = {}
        for prefix in ("http://", "https://"):
            self.mount(prefix, _Adapter(pool_maxsize=_MOST_IDLE))

    def merge_environment_settings(self, url: Any, *args: Any) -> Any:
        """What a request there is sent with."""
        if args != _ALL_FROM_ENVIRONMENT:
            return super().merge_environment_settings(url, *args)
        parts = urlsplit(url)
        settings = self._settings.get(parts[:2])
        if settings is None:
            if len(self._settings) >= _MOST_ORIGINS:
                self._settings.clear()
            settings = self._settings[parts[:2]] = super().merge_environment_settings(url, *args)
        return settings

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would read the whole body of a redirect to know the next request."""


_S = TypeVar("_S", bound="_Closable")


class _Closable(Protocol):
    def close(self) -> None: ...


class Stack(Generic[_S]):
    """Sessions that are used by one thread at a time. Safe to use from any thread.

    Who needs one takes the one that was put back last, or a new one: threads that come and go still
    find the connections that others have left open.

    Args:
        make: Makes a new one.
    """

    def __init__(self, make: Callable[[], _S]) -> None:
        self._make = make
        self._idle: deque[_S] = deque()
        self._pid = os.getpid()
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[_S]:
        """Have one for as long as this lasts."""
        if self._pid != os.getpid():  # after a fork: the sockets of these are the parent's
            self._pid, self._idle = os.getpid(), deque()
        try:
            session = self._idle.pop()
        except IndexError:
            session = self._make()
        try:
            yield session
        finally:
            self._idle.append(session)
            if self._closed:
                session.close()

    def close(self) -> None:
        """Close those that nobody uses now, and the others when they are put back."""
        self._closed = True
        with suppress(IndexError):  # it is empty, perhaps since just now
            while True:
                self._idle.pop().close()
