"""A real HTTP server that sends exactly the bytes a test chooses.

A :class:`ScriptedServer` listens on 127.0.0.1, on a port the system picks. Its script is a list of
handlers, one for each request in the order in which requests arrive, whatever connection they come
on. A handler gets a :class:`Connection`, on which it writes bytes, ends the connection (FIN or RST)
or waits for the client or the test::

    def cut(connection):
        connection.headers(200, {"Content-Type": "text/event-stream", "Connection": "close"})
        connection.send(b'data: {"type": "resp')
        connection.reset()

    with ScriptedServer([json_answer(503, {}), cut]) as server:
        requests.get(server.url("/"))

When a handler returns, the connection stays open for the next request, unless the handler ended it
or the client asked for ``Connection: close``. A request that is not in the script is answered with
500 and fails the test at the end, as does an exception in a handler. A client that goes away is
not an error. No wait is longer than ``timeout`` seconds, and :meth:`ScriptedServer.stop` wakes
them all.

The functions below the classes build the handlers that are needed most.
"""

import atexit
import collections
import contextlib
import functools
import http
import json
import os
import select
import socket
import ssl
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import attrs
import trustme
from requests.structures import CaseInsensitiveDict

from tests.support.recordings import to_sse

Handler = Callable[["Connection"], None]
Framing = Literal["chunked", "close", "length"]
End = Literal["end", "close", "reset", "silence"]
Events = bytes | Sequence[bytes | Mapping[str, Any]]

EVENT_STREAM = "text/event-stream; charset=utf-8"


class ServerStopped(Exception):
    """Raised inside a handler that waits while the server is stopped."""


class ClientClosed(ConnectionError):
    """Raised inside a handler that reads when the client has closed its side."""


@attrs.frozen(kw_only=True)
class Request:
    """One request, as it came over the wire.

    ``connection`` numbers the TCP connection it came on, from 0: equal numbers mean that the client
    kept the connection alive.
    """

    method: str
    target: str
    path: str
    query: dict[str, list[str]]
    headers: CaseInsensitiveDict[str]
    header_lines: list[tuple[str, str]]
    body: bytes
    raw: bytes
    connection: int

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One accepted connection: what a handler acts on. Used by its own thread only."""

    def __init__(self, server: "ScriptedServer", sock: socket.socket, number: int) -> None:
        self.server = server
        self.number = number
        self.request: Request
        self.closed = False
        self._socket = sock
        self._received = bytearray()
        self._raw = bytearray()

    # -- writing -------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Sends these bytes and nothing else."""
        self._socket.sendall(data)

    def headers(
        self,
        status: int,
        fields: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        *,
        reason: str | None = None,
    ) -> None:
        """Sends a status line and exactly these header fields, with the blank line."""
        if reason is None:
            try:
                reason = http.HTTPStatus(status).phrase
            except ValueError:
                reason = "Unknown"
        pairs = fields.items() if isinstance(fields, Mapping) else fields
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in pairs)]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def chunk(self, data: bytes, *, announce: int | None = None) -> None:
        """Sends one HTTP chunk; with ``announce`` one of that size, begun but not finished."""
        assert data or announce, "an empty chunk would end the body: use end_chunks()"
        if announce is None:
            self.send(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self.send(b"%x\r\n%b" % (announce, data))

    def end_chunks(self) -> None:
        self.send(b"0\r\n\r\n")

    # -- ending --------------------------------------------------------------------------------

    def half_close(self) -> None:
        """Sends a FIN and goes on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self, *, notify: bool = True) -> None:
        """Closes with a FIN; under TLS, after a close_notify unless ``notify`` is False."""
        if self.closed:
            return
        self.closed = True
        with contextlib.suppress(OSError, ValueError):
            self._socket.setblocking(False)
            if notify and isinstance(self._socket, ssl.SSLSocket):
                with contextlib.suppress(OSError):
                    self._socket.unwrap()
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_WR)
            # Closing with unread bytes in the buffer would send a RST instead of the FIN.
            with contextlib.suppress(OSError):
                while socket.socket.recv(self._socket, 65536):
                    pass
        self._socket.close()

    def reset(self) -> None:
        """Closes with a RST."""
        if self.closed:
            return
        self.closed = True
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    # -- waiting -------------------------------------------------------------------------------

    def gate(self, name: str, timeout: float | None = None) -> None:
        """Waits until the test calls ``server.open(name)``."""
        self.server._gate(name, timeout, inside=True)

    def open(self, name: str) -> None:
        """Opens a gate at which the test waits with ``server.gate(name)``."""
        self.server.open(name)

    def pause(self, seconds: float) -> None:
        """Lets time pass, which only a real time limit of the client can need."""
        if self.server._stopping.wait(seconds):
            raise ServerStopped

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Waits until the client has closed its side (FIN, RST); False at the timeout."""
        deadline = time.monotonic() + (self.server.timeout if timeout is None else timeout)
        try:
            while True:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    self._receive()
                except ClientClosed:
                    return True
                except TimeoutError:
                    return False
        finally:
            with contextlib.suppress(OSError):
                self._socket.settimeout(self.server.timeout)

    # -- reading -------------------------------------------------------------------------------

    def start_tls(self) -> None:
        """Becomes the TLS server of this connection, as after a CONNECT."""
        assert not self._received, f"bytes before the TLS handshake: {bytes(self._received)!r}"
        context = tls_context()
        wrapped = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
        self._socket = wrapped
        wrapped.do_handshake()

    def read_request(self) -> Request | None:
        """The next request of this connection, None when the client has closed it."""
        self._raw.clear()
        try:
            head = self._read_until(b"\r\n\r\n")
        except ClientClosed:
            return None
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ", 2)
        split = (line.partition(":") for line in lines)
        pairs = [(name, value.strip()) for name, _, value in split]
        headers = CaseInsensitiveDict(pairs)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b"".join(self._read_chunks())
        else:
            body = self._read_exactly(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        self.request = Request(
            method=method,
            target=target,
            path=parts.path,
            query=parse_qs(parts.query, keep_blank_values=True),
            headers=headers,
            header_lines=pairs,
            body=body,
            raw=bytes(self._raw),
            connection=self.number,
        )
        return self.request

    def _read_chunks(self) -> Iterator[bytes]:
        while size := int(self._read_until(b"\r\n").split(b";")[0], 16):
            yield self._read_exactly(size)
            self._read_exactly(2)
        while self._read_until(b"\r\n") != b"\r\n":
            pass

    def _read_until(self, end: bytes) -> bytes:
        while (at := self._received.find(end)) < 0:
            self._receive()
        return self._take(at + len(end))

    def _read_exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        self._raw += taken
        return taken

    def _receive(self) -> None:
        try:
            data = self._socket.recv(65536)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            self._check_running()
            raise ClientClosed("the client reset the connection") from error
        if not data:
            self._check_running()
            raise ClientClosed("the client closed the connection")
        self._received += data

    def _check_running(self) -> None:
        if self.server._stopping.is_set():
            raise ServerStopped

    def _wake(self) -> None:
        """Called by the thread that stops the server: ends every read and write of this one.

        Not ``SSLSocket.shutdown``, which takes the TLS object away from the thread that uses it.
        """
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class ScriptedServer:
    """A server that plays a script.

    Args:
        script: the handlers, one for each request; a single handler stands for a list of one.
        tls: serve HTTPS with a certificate for localhost and 127.0.0.1; clients trust ``ca_file``.
        repeat_last: the last handler answers all further requests too.
        timeout: seconds after which any wait gives up.
        host: the loopback address to listen on.

    ``requests`` are the requests so far. ``unscripted`` are those the script did not foresee,
    ``errors`` the exceptions of handlers: :meth:`check` raises for both.
    """

    def __init__(
        self,
        script: Handler | Iterable[Handler] = (),
        *,
        tls: bool = False,
        repeat_last: bool = False,
        timeout: float = 20.0,
        host: str = "127.0.0.1",
    ) -> None:
        self.tls = tls
        self.timeout = timeout
        self.host = host
        self.requests: list[Request] = []
        self.unscripted: list[Request] = []
        self.errors: list[BaseException] = []
        self.accepted = 0
        self.ca_file = ca_file() if tls else None
        self._repeat_last = repeat_last
        self._script = [script] if callable(script) else list(script)
        self._next = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._gates: dict[str, threading.Event] = collections.defaultdict(threading.Event)
        self._connections: dict[int, Connection] = {}
        self._threads: list[threading.Thread] = []
        self._wake_read, self._wake_write = socket.socketpair()
        self._listener = socket.create_server((host, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, name=f"scripted-server.{self.port}", daemon=True
        )
        self._acceptor.start()

    # -- addresses -----------------------------------------------------------------------------

    def url(self, path: str = "", *, host: str | None = None) -> str:
        """The URL of a path; ``host`` may be any name that leads to loopback (``x.localhost``)."""
        return f"{'https' if self.tls else 'http'}://{host or self.host}:{self.port}{path}"

    @property
    def base_url(self) -> str:
        """The base URL an API client takes, ending in /v1."""
        return self.url("/v1")

    # -- the script ----------------------------------------------------------------------------

    def then(self, *handlers: Handler) -> "ScriptedServer":
        """Adds handlers to the end of the script."""
        with self._changed:
            self._script.extend(handlers)
        return self

    # -- handshakes with the test --------------------------------------------------------------

    def open(self, name: str) -> None:
        """Opens a gate, for all who wait at it now or come to it later."""
        with self._changed:
            gate = self._gates[name]
        gate.set()

    def gate(self, name: str, timeout: float | None = None) -> None:
        """Waits, in the test, until a handler calls ``connection.open(name)``."""
        self._gate(name, timeout, inside=False)

    def wait_at(self, name: str, timeout: float | None = None) -> None:
        """Waits until a handler has come to ``connection.gate(name)``."""
        self._gate(f"at {name}", timeout, inside=False)

    def wait_for_requests(self, count: int, timeout: float | None = None) -> list[Request]:
        """Waits until ``count`` requests have been read, and returns all so far."""
        with self._changed:
            self._changed.wait_for(
                lambda: len(self.requests) >= count, self.timeout if timeout is None else timeout
            )
            assert len(self.requests) >= count, f"{len(self.requests)} of {count} requests came"
            return list(self.requests)

    def wait_for_connections(self, count: int, timeout: float | None = None) -> None:
        """Waits until ``count`` connections have been accepted since the start."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.accepted >= count, self.timeout if timeout is None else timeout
            )
            assert self.accepted >= count, f"{self.accepted} of {count} connections came"

    @property
    def open_connections(self) -> int:
        with self._changed:
            return len(self._connections)

    def wait_no_connections(self, timeout: float | None = None) -> None:
        """Waits until every connection is closed, at the client's end or ours."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._connections, self.timeout if timeout is None else timeout
            )
            assert not self._connections, f"{len(self._connections)} connections are still open"

    def _gate(self, name: str, timeout: float | None, *, inside: bool) -> None:
        with self._changed:
            gate = self._gates[name]
        if inside:
            self.open(f"at {name}")
        passed = gate.wait(self.timeout if timeout is None else timeout)
        if self._stopping.is_set():
            raise ServerStopped
        if not passed:
            raise AssertionError(f"gate {name!r} was not opened in time")

    # -- life ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Closes everything and joins every thread. May be called more than once."""
        with self._changed:
            self._stopping.set()
            gates = list(self._gates.values())
            connections = list(self._connections.values())
        for gate in gates:
            gate.set()
        for connection in connections:
            connection._wake()
        with contextlib.suppress(OSError):
            self._wake_write.send(b"x")
        deadline = time.monotonic() + 5.0
        for thread in [self._acceptor, *self._threads]:
            thread.join(max(deadline - time.monotonic(), 0.01))
        for sock in (self._listener, self._wake_read, self._wake_write):
            sock.close()
        left = [t.name for t in [self._acceptor, *self._threads] if t.is_alive()]
        assert not left, f"threads of the scripted server did not end: {left}"

    def check(self) -> None:
        """Raises for what went wrong on the server's side."""
        if self.errors:
            raise AssertionError("a handler raised") from self.errors[0]
        lines = [f"{request.method} {request.target}" for request in self.unscripted]
        assert not lines, f"requests that are not in the script: {lines}"

    def __enter__(self) -> "ScriptedServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if error is None:
            self.check()

    def __repr__(self) -> str:
        return f"<ScriptedServer {self.url()} requests={len(self.requests)}>"

    # -- threads -------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            readable, _, _ = select.select([self._listener, self._wake_read], [], [])
            if self._wake_read in readable:
                return
            try:
                sock, _ = self._listener.accept()
            except OSError:
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(self.timeout)
            with self._changed:
                if self._stopping.is_set():
                    sock.close()
                    return
                connection = Connection(self, sock, self.accepted)
                self.accepted += 1
                self._connections[connection.number] = connection
                thread = threading.Thread(
                    target=self._serve,
                    args=(connection,),
                    daemon=True,
                    name=f"scripted-server.{self.port}.{connection.number}",
                )
                self._threads.append(thread)
                self._changed.notify_all()
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            if self.tls:
                connection.start_tls()
            while not connection.closed and (request := connection.read_request()):
                self._handler(request)(connection)
                if request.headers.get("connection", "").lower() == "close":
                    break
        except (ServerStopped, ConnectionError, ssl.SSLError):
            pass  # the client, or the test, is gone
        except TimeoutError as error:
            # An idle connection that the client keeps in its pool is no error.
            if connection._raw:
                self.errors.append(error)
        except BaseException as error:
            if not self._stopping.is_set():
                self.errors.append(error)
        finally:
            connection.close()
            with self._changed:
                self._connections.pop(connection.number, None)
                self._changed.notify_all()

    def _handler(self, request: Request) -> Handler:
        with self._changed:
            number = self._next
            self._next += 1
            if number < len(self._script):
                handler = self._script[number]
            elif self._repeat_last and self._script:
                handler = self._script[-1]
            else:
                self.unscripted.append(request)
                handler = json_answer(
                    500, {"error": {"message": f"request {number} is not in the script"}}
                )
            self.requests.append(request)
            self._changed.notify_all()
            return handler


# -- certificates ------------------------------------------------------------------------------


@functools.cache
def certificate_authority() -> trustme.CA:
    return trustme.CA()


@functools.cache
def tls_context() -> ssl.SSLContext:
    """A server context whose certificate is for loopback addresses and a few names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = ("localhost", "api.localhost", "other.localhost", "127.0.0.1", "127.0.0.2")
    certificate_authority().issue_cert(*names).configure_cert(context)
    return context


@functools.cache
def _certificate_directory() -> "tempfile.TemporaryDirectory[str]":
    directory = tempfile.TemporaryDirectory(prefix="scripted-ca-")
    atexit.register(directory.cleanup)
    return directory


def ca_file() -> str:
    """The path of the authority's certificate, for ``verify=``. Made once for the process."""
    path = os.path.join(_certificate_directory().name, "ca.pem")
    if not os.path.exists(path):
        certificate_authority().cert_pem.write_to_path(path)
    return path


# -- handlers: whole answers -------------------------------------------------------------------


def answer(
    status: int,
    body: bytes = b"",
    *,
    content_type: str | None = "text/plain; charset=utf-8",
    headers: Mapping[str, str] | None = None,
) -> Handler:
    """An answer with a Content-Length; the connection stays open."""

    def handle(connection: Connection) -> None:
        fields: dict[str, str] = {} if content_type is None else {"Content-Type": content_type}
        if status != 204:
            fields["Content-Length"] = str(len(body))
        connection.headers(status, {**fields, **(headers or {})})
        if connection.request.method != "HEAD":
            connection.send(body)

    return handle


def json_answer(status: int, obj: Any, headers: Mapping[str, str] | None = None) -> Handler:
    """A JSON answer with a Content-Length; the connection stays open."""
    body = json.dumps(obj).encode()
    return answer(status, body, content_type="application/json", headers=headers)


def no_content() -> Handler:
    return answer(204, content_type=None)


def redirect(url: str, status: int = 302) -> Handler:
    """A redirect, the connection stays open."""
    return answer(status, headers={"Location": url})


def raw(data: bytes, *, then: End = "close") -> Handler:
    """Sends these bytes as the whole answer."""

    def handle(connection: Connection) -> None:
        connection.send(data)
        _finish(connection, then, "close")

    return handle


def reset() -> Handler:
    """Resets the connection instead of answering."""
    return lambda connection: connection.reset()


def hang_up() -> Handler:
    """Closes the connection instead of answering."""
    return lambda connection: connection.close()


# -- handlers: event streams -------------------------------------------------------------------


def sse(
    events: Events,
    *,
    framing: Framing = "chunked",
    gzip: bool = False,
    chunk_size: int | None = None,
    one_chunk_per_event: bool = False,
    gates: Mapping[int, str] | None = None,
    cut_at: int | None = None,
    cut_in_chunk: bool = False,
    then: End | None = None,
    status: int = 200,
    content_type: str | None = EVENT_STREAM,
    headers: Mapping[str, str] | None = None,
) -> Handler:
    """An event stream.

    Args:
        events: the bytes of the body, or a list whose entries are the bytes of one event or its
            JSON object.
        framing: how the body ends on the wire: ``chunked``, ``close`` (``Connection: close``, the
            end of the connection is the end of the body) or ``length`` (a Content-Length).
        gzip: compress; every piece is flushed, so that it can be decoded when it arrives.
        chunk_size: send pieces of so many bytes (of the uncompressed body); else all at once.
        one_chunk_per_event: send every entry of ``events`` as a piece of its own.
        gates: before the entry with this number, wait for the gate of this name; implies pieces.
        cut_at: send only so many bytes of the uncompressed body, then do ``then``.
        cut_in_chunk: the last piece's chunk header promises one byte more than is sent.
        then: ``end`` as the framing wants it (the default), ``close`` or ``reset`` the connection
            without the end (``close`` is the default with ``cut_at``), or ``silence`` until the
            client closes.
        status, content_type, headers: of the answer.
    """
    entries = _entries(events)
    body = b"".join(entries)
    per_event = one_chunk_per_event or bool(gates)
    ending: End = then or ("end" if cut_at is None and not cut_in_chunk else "close")
    size = len(body) if cut_at is None else cut_at
    assert 0 <= size <= len(body)

    pieces: list[tuple[int | None, bytes]] = []  # the number of an entry that begins here
    at = 0
    for number, entry in enumerate(entries if per_event else [body]):
        entry, at = entry[: max(size - at, 0)], at + len(entry)
        step = chunk_size or len(entry) or 1
        for start in range(0, len(entry), step):
            pieces.append((number if start == 0 else None, entry[start : start + step]))
    compressor = zlib.compressobj(wbits=31) if gzip else None
    if compressor is not None:
        pieces = [
            (number, compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH))
            for number, piece in pieces
        ]
        if ending == "end":
            pieces.append((None, compressor.flush()))
    length = sum(len(piece) for _, piece in pieces)
    if framing == "length" and ending != "end":
        length += len(body) - size + 1  # promised, never sent

    def handle(connection: Connection) -> None:
        fields: dict[str, str] = {} if content_type is None else {"Content-Type": content_type}
        if gzip:
            fields["Content-Encoding"] = "gzip"
        if framing == "chunked":
            fields["Transfer-Encoding"] = "chunked"
        elif framing == "length":
            fields["Content-Length"] = str(length)
        else:
            fields["Connection"] = "close"
        connection.headers(status, {**fields, **(headers or {})})
        for position, (number, piece) in enumerate(pieces):
            if gates and number is not None and number in gates:
                connection.gate(gates[number])
            last = position == len(pieces) - 1
            if framing != "chunked":
                connection.send(piece)
            elif cut_in_chunk and last:
                connection.chunk(piece, announce=len(piece) + 1)
            else:
                connection.chunk(piece)
        _finish(connection, ending, framing)

    return handle


def silence(*, headers: bool = True, first: Events = b"") -> Handler:
    """Says nothing (more) until the client closes the connection.

    With ``headers=False`` not even a status line, else the headers of an event stream and the
    events in ``first``.
    """

    def handle(connection: Connection) -> None:
        connection.wait_closed()

    return sse(first, then="silence") if headers else handle


def comments_for_ever(*, first: Events = b"", interval: float = 0.02) -> Handler:
    """Sends ``first``, then a comment every ``interval`` seconds until the client goes."""
    entries = _entries(first)

    def handle(connection: Connection) -> None:
        connection.headers(200, {"Content-Type": EVENT_STREAM, "Transfer-Encoding": "chunked"})
        for entry in entries:
            connection.chunk(entry)
        while True:
            connection.chunk(b": ping\n\n")
            connection.pause(interval)

    return handle


def drip(
    data: bytes,
    *,
    size: int = 1,
    framing: Framing = "chunked",
    gzip: bool = False,
    interval: float = 0.0,
) -> Handler:
    """An event stream in pieces of ``size`` bytes, ``interval`` seconds apart."""
    if not interval:
        return sse(data, framing=framing, gzip=gzip, chunk_size=size)
    assert not gzip

    def handle(connection: Connection) -> None:
        fields = {"Content-Type": EVENT_STREAM}
        if framing == "chunked":
            fields["Transfer-Encoding"] = "chunked"
        elif framing == "length":
            fields["Content-Length"] = str(len(data))
        else:
            fields["Connection"] = "close"
        connection.headers(200, fields)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            connection.chunk(piece) if framing == "chunked" else connection.send(piece)
            connection.pause(interval)
        _finish(connection, "end", framing)

    return handle


def _entries(events: Events) -> list[bytes]:
    """The bytes of each event; no empty ones, which as a chunk would end the body."""
    if isinstance(events, bytes):
        return [events] if events else []
    return [entry if isinstance(entry, bytes) else to_sse([entry]) for entry in events]


def _finish(connection: Connection, ending: End, framing: Framing) -> None:
    if ending == "end":
        if framing == "chunked":
            connection.end_chunks()
        elif framing == "close":
            connection.close()
    elif ending == "close":
        connection.close()
    elif ending == "reset":
        connection.reset()
    else:
        connection.wait_closed()
        connection.close()
