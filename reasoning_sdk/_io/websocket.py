"""WebSockets as bytes: the opening handshake, and a wire that one thread reads and many write."""

import http.client
import io
import logging
import os
import re
import socket
import ssl
import string
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import websocket
from urllib3.util.wait import wait_for_socket

from reasoning_sdk._core.frames import DEFLATE_OFFER, Deflate
from reasoning_sdk._io.clock import SYSTEM_CLOCK
from reasoning_sdk._io.dial import Dialing, Pipe, route
from reasoning_sdk._io.http import check_headers, check_url
from reasoning_sdk._io.translate import FOREIGN, Hide, beginning, origin, status_error, translate
from reasoning_sdk._version import __version__
from reasoning_sdk.errors import (
    APIStatusError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    ProtocolError,
    ReasoningError,
    RequestTimeoutError,
    StateError,
)

__all__ = ["Dialed", "Wire", "check_websocket_url", "dial"]

log = logging.getLogger("reasoning_sdk.websocket")

_READ_SIZE = 64 * 1024  # a larger buffer costs the system more than what comes in it
_PIECE = 64 * 1024  # what TLS is given at once
_MAX_BODY = 1024 * 1024
_BODY_SECONDS = 5.0
_MOST_CONTROLS = 256
# The bridge knows better where it is; websocket-client has cookies for hosts, none for this one.
_NOWHERE = f"ws://{os.urandom(16).hex()}/"
_LONG, _SOON = 3600.0, 0.02
_GIVEN_UP = 0.5
_OF_THE_HANDSHAKE = re.compile(r"(?i)(connection|upgrade|sec-websocket-.*|content-length)")


class Dialed(NamedTuple):
    """A connection that is open.

    Args:
        wire: Its bytes.
        headers: The handshake's answer, names in lower case.
        subprotocol: What the server has chosen; ``None`` is none.
        deflate: How messages are compressed; ``None`` is not.
        hide: Hides what must not be told, even if the server repeats it.
    """

    wire: "Wire"
    headers: Mapping[str, str]
    subprotocol: str | None
    deflate: Deflate | None
    hide: Hide


def check_websocket_url(name: str, url: Any) -> str:
    """A ``ws`` or ``wss`` URL without credentials and fragment.

    Raises:
        ConfigurationError: It is not one.
    """
    return check_url(name, url, with_query=True, schemes=("ws", "wss"))


def dial(
    url: str,
    dialing: Dialing,
    *,
    headers: Mapping[str, str],
    subprotocols: Sequence[str] = (),
    proxy: str | None = None,
    context: ssl.SSLContext | None = None,
    compress: bool = True,
) -> Dialed:
    """Open a WebSocket.

    Args:
        url: The address, ``ws`` or ``wss``.
        dialing: Until when, and how to stop it.
        headers: Headers of the handshake.
        subprotocols: What to offer.
        proxy: The URL of an HTTP proxy, ``""`` for none, ``None`` for the environment's.
        context: For TLS; ``None`` is one that verifies as requests does.
        compress: Whether to offer compression.

    Raises:
        APIStatusError: The server refuses.
        ConnectError: There is no connection, or not in time.
        ProtocolError: What answers is no WebSocket server.
        ConfigurationError: An argument cannot work.
        StateError: It was stopped.
    """
    check_websocket_url("url", url)
    url = "http" + url[2:]
    sent = _request_headers(headers, subprotocols, compress=compress)
    hide = Hide()
    hide.learn(sent)
    hide.learn_query(url)
    hide.add(*subprotocols)  # some are tokens
    where = f"ws{origin(url)[4:]}"
    try:
        pipe = dialing.connect(route(url, proxy, context))
        try:
            return _shake_hands(url, pipe, dialing, sent, subprotocols, hide, where)
        except BaseException:
            dialing.hang_up()
            raise
    except ReasoningError:
        raise
    except FOREIGN as exc:
        if dialing.aborted:
            raise StateError("the connection was closed") from exc
        raise _not_connected(exc, where, hide) from exc


def _not_connected(error: BaseException, where: str, hide: Hide) -> ReasoningError:
    """The error of ours for one that has ended an attempt: all of them are of the connection."""
    if isinstance(error, TimeoutError):
        return ConnectTimeoutError(f"no connection to {where} in time")
    told = translate(error, where, hide)
    if isinstance(told, (ConnectError, ProtocolError, ConfigurationError)):
        return told
    if isinstance(error, ssl.SSLError) and error.reason:
        reason = error.reason.replace("_", " ")
    else:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ConnectError(hide(f"cannot connect to {where}: {reason.lower()}"))


def _request_headers(
    headers: Mapping[str, str], subprotocols: Sequence[str], *, compress: bool
) -> dict[str, str]:
    sent = check_headers(headers)
    for name in sent:
        if _OF_THE_HANDSHAKE.fullmatch(name):
            raise ConfigurationError(f"header {name} is the handshake's own")
    if not any(name.lower() == "user-agent" for name in sent):
        sent["User-Agent"] = f"reasoning-sdk/{__version__}"
    if subprotocols:
        sent["Sec-WebSocket-Protocol"] = ", ".join(subprotocols)
    if compress:
        sent["Sec-WebSocket-Extensions"] = DEFLATE_OFFER
    return sent


def _shake_hands(
    url: str,
    pipe: Pipe,
    dialing: Dialing,
    headers: dict[str, str],
    subprotocols: Sequence[str],
    hide: Hide,
    where: str,
) -> Dialed:
    """The opening handshake, by websocket-client over our own connection."""
    host = next((headers.pop(name) for name in list(headers) if name.lower() == "host"), None)
    bridge = _Bridge(pipe, dialing, url)
    client = websocket.WebSocket()
    try:
        client.connect(  # type: ignore[no-untyped-call]
            _NOWHERE,
            socket=bridge,
            host=host or _host(url),
            header=[f"{name}: {value}" for name, value in headers.items()],
            suppress_origin=True,
            redirect_limit=0,
        )
    except _Refused as refused:
        raise refused.error(pipe, dialing, hide) from None
    except (websocket.WebSocketException, ValueError, IndexError) as exc:
        if bridge.failed is not None:
            raise bridge.failed from None
        hide.inside(exc)
        shown = hide(bridge.head.decode("latin-1"))
        raise ProtocolError(
            f"what {where} answers is no WebSocket handshake: {beginning(shown)}"
        ) from exc
    answer = {str(name): str(value) for name, value in (client.getheaders() or {}).items()}
    chosen = answer.get("sec-websocket-protocol")
    if chosen is not None and chosen not in subprotocols:
        shown = beginning(hide(chosen))
        raise ProtocolError(f"{where} has chosen a subprotocol that was not offered: {shown}")
    deflate = Deflate.agreed(hide(answer.get("sec-websocket-extensions")))
    if deflate is not None and "Sec-WebSocket-Extensions" not in headers:
        raise ProtocolError(f"{where} compresses, which was not offered")
    wire = Wire(pipe, bridge.rest)
    dialing.attach(None)
    return Dialed(wire, answer, chosen, deflate, hide)


def _host(url: str) -> str:
    """The ``Host`` of a request: without a port where it is the scheme's own."""
    host, _, port = origin(url).partition("//")[2].rpartition(":")
    host = host if host.startswith("[") else host.encode("idna").decode()
    return host if port == ("443" if url.startswith("https") else "80") else f"{host}:{port}"


class _Refused(Exception):  # noqa: N818  # never leaves this module
    """The server has answered with another status than 101."""

    def __init__(self, head: bytes, rest: bytes) -> None:
        super().__init__("refused")
        self._head = head
        self._rest = rest

    def error(self, pipe: Pipe, dialing: Dialing, hide: Hide) -> APIStatusError | ProtocolError:
        """What the refusal says, with what comes of its body."""
        answer = http.client.HTTPResponse(_Answer(self._head + self._rest, pipe, dialing))  # type: ignore[arg-type]
        try:
            answer.begin()
        except (OSError, http.client.HTTPException, ValueError):
            shown = hide(self._head.decode("latin-1"))
            return ProtocolError(f"the answer cannot be read: {beginning(shown)}")
        body = b""
        with suppress(OSError, http.client.HTTPException), dialing.within(_BODY_SECONDS):
            while len(body) < _MAX_BODY and (part := answer.read1(_MAX_BODY)):
                body += part
        if 200 <= answer.status < 300:
            shown = beginning(hide(body.decode("utf-8", "replace")))
            return ProtocolError(
                f"the answer is no WebSocket handshake: status {answer.status}, body {shown}"
            )
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return status_error(answer.status, headers, body, hide, SYSTEM_CLOCK.time())


class _Answer(io.RawIOBase):
    """An HTTP answer whose beginning has been read, as http.client wants it."""

    def __init__(self, begun: bytes, pipe: Pipe, dialing: Dialing) -> None:
        self._begun = begun
        self._pipe = pipe
        self._dialing = dialing

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._begun:
            self._begun = self._dialing.receive(self._pipe)
        part, self._begun = self._begun[: len(buffer)], self._begun[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


class _Bridge:
    """What websocket-client shakes hands over: it sends one request, and reads one head.

    Attributes:
        head: The head of the answer.
        rest: What came behind it.
        failed: What went wrong below: websocket-client has errors of its own for some of it.
    """

    def __init__(self, pipe: Pipe, dialing: Dialing, url: str) -> None:
        self.head = self.rest = b""
        self.failed: OSError | None = None
        self._pipe = pipe
        self._dialing = dialing
        self._url = url
        self._unread: io.BytesIO | None = None

    def gettimeout(self) -> float:
        return 1.0  # not 0, which would mean that nothing waits

    def send(self, data: bytes) -> int:
        # websocket-client drops what follows a semicolon, and writes headers as UTF-8.
        fields = data.partition(b"\r\n")[2].decode().encode("latin-1")
        request = f"GET {_target(self._url)} HTTP/1.1\r\n".encode() + fields
        try:
            self._dialing.arm()
            self._pipe.send_all(request)
        except OSError as exc:
            self.failed = exc
            raise
        return len(data)

    def recv(self, size: int) -> bytes:
        if self._unread is None:
            self._unread = io.BytesIO(self._read_head())
        return self._unread.read(size)

    def _read_head(self) -> bytes:
        unread = b""
        while True:
            try:
                self.head, self.rest = self._dialing.read_head(self._pipe, unread)
            except OSError as exc:
                self.failed = exc
                raise
            status = self.head[9:12]
            if not self.head.startswith(b"HTTP/1.") or not status.isdigit():
                raise ValueError("it is not HTTP")
            if not self.head.endswith((b"\n\n", b"\n\r\n")):
                raise ValueError("its head is too long")
            if status == b"101":
                return _for_client(self.head)
            if not status.startswith(b"1"):
                raise _Refused(self.head, self.rest)
            unread = self.rest

    def close(self) -> None:
        """Nothing: who has made the connection closes it."""


def _target(url: str) -> str:
    """The target of a request: what the URL says, but for characters that are not ASCII."""
    parts = urlsplit(url)
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    return quote(target, safe=string.punctuation)


def _for_client(head: bytes) -> bytes:
    """A head as websocket-client reads it, which takes the last of several fields with one name.

    It gets no cookies: it would keep them, for all connections of the process.
    """
    first, *lines = head.decode("latin-1").split("\n")
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.strip().partition(":")
        name = name.strip().lower()
        if name and name != "set-cookie":
            fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
    return "\n".join([first, *(":".join(field) for field in fields.items()), "", ""]).encode()


class Wire:
    """The bytes of an open WebSocket. One thread reads, any may write.

    Two sockets over one connection let either side wait with a timeout of its own. What is written
    is whole frames; a thread that finds another one writing leaves its control frame to that one.
    """

    def __init__(self, pipe: Pipe, ahead: bytes = b"") -> None:
        self._pipe = pipe
        self._out = pipe.sock.dup()
        self._out.settimeout(0.0)
        self._ahead = ahead
        self._pid = os.getpid()
        self._patience = -1.0  # the timeout that the reading socket has
        self._is_ending = self._is_cut = self._is_free = False
        self._writing = threading.Lock()
        self._writer: int | None = None  # the thread that sends a message
        self._controls: deque[bytes] = deque(maxlen=_MOST_CONTROLS)
        self._begun: bytes | memoryview = b""  # what is left of what the kernel has taken a part of

    @property
    def is_cut(self) -> bool:
        """Whether :meth:`cut` was called."""
        return self._is_cut

    def receive(self, timeout: float) -> bytes:
        """Wait for bytes; none at the end.

        Raises:
            TimeoutError: There were none for so many seconds, or fewer.
            OSError: The connection has broken.
        """
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        if self._has_to_send():
            timeout = self._send_or_wait(timeout)
        elif self._controls:  # who writes now may give up, and leave them to this thread
            timeout = min(timeout, _GIVEN_UP)
        self._wait_at_most(timeout)
        try:
            data = self._pipe.receive(_READ_SIZE)
        except BlockingIOError as exc:
            raise TimeoutError("nothing yet") from exc
        if self._pipe.layers:  # TLS may have something to say to that
            self._send_what_is_left()
        if data is None:
            raise TimeoutError("nothing that is whole yet")
        return data

    def send(self, frame: bytes, timeout: float) -> None:
        """Send a frame, whole or not at all; in its middle, the connection is cut.

        Raises:
            RequestTimeoutError: It could not be sent in so many seconds.
            ConnectionLostError: The connection has broken, or is being closed.
            StateError: A signal handler sends that has interrupted a send of its own thread.
        """
        if self._writer == threading.get_ident():
            raise StateError("this thread is in the middle of sending another message")
        try:
            self._send_in_turn(frame, time.monotonic() + timeout)
            self._send_what_is_left()
        except TimeoutError as exc:
            raise RequestTimeoutError(str(exc)) from exc
        except OSError as exc:
            reason = (exc.strerror or str(exc)).lower()
            raise ConnectionLostError(f"the connection was lost: {reason}") from exc
        except Exception:
            raise
        except BaseException:  # Ctrl-C may come between two steps that belong together
            if self._writing.locked() and self._writer in (None, threading.get_ident()):
                self.cut()
            raise

    def send_control(self, frame: bytes) -> None:
        """Have a control frame sent as soon as that is possible, without waiting for it."""
        self._controls.append(frame)
        self._send_what_is_left()

    def send_close(self, frame: bytes) -> None:
        """Have a Close frame sent likewise. No message follows it, and no second one."""
        if not self._is_ending:
            self._is_ending = True
            self.send_control(frame)

    def wait_for_who_writes(self, deadline: float) -> None:
        """Have what is left sent by then, though another thread is writing."""
        if self._writing.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            self._release()
            self._send_what_is_left()

    def cut(self) -> None:
        """Wake whoever waits: nothing more will come or go."""
        if self._pid == os.getpid():  # else it is the parent's
            self._is_cut = True
            with suppress(OSError):  # it has ended
                self._pipe.sock.shutdown(socket.SHUT_RDWR)

    def free(self) -> None:
        """Cut it and free its sockets, when who writes has noticed."""
        self.cut()
        self._is_free = True
        self._pipe.sock.close()
        if self._pid != os.getpid():  # who writes is not here
            self._out.close()
        elif self._writing.acquire(blocking=False):
            self._release()

    def _release(self) -> None:
        self._writing.release()
        if self._is_free and self._writing.acquire(blocking=False):  # else who has it does this
            self._out.close()
            self._writing.release()

    def _has_to_send(self) -> bool:
        """Whether there is something that nobody sees to."""
        layers = self._pipe.layers
        if not (self._controls or self._begun or (layers and layers[-1].has_to_send)):
            return False
        return not (self._writing.locked() or self._is_cut)

    def _send_in_turn(self, frame: bytes, deadline: float) -> None:
        seconds = max(deadline - time.monotonic(), 0.0)
        if not self._writing.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            raise TimeoutError("other messages are still being sent")
        try:
            self._writer = threading.get_ident()
            if self._is_cut:
                raise ConnectionLostError("the connection was lost")
            self._drain(deadline)
            if self._is_ending:
                raise ConnectionLostError("the connection is being closed")
            self._send_frame(frame, deadline)
        finally:
            self._writer = None
            self._release()

    def _wait_at_most(self, timeout: float) -> None:
        """Have the socket wait no longer than this, and perhaps less.

        To set a timeout lets go of the interpreter's lock, which the thread that was woken just now
        would take: so one is set that will do for the next receives, too.
        """
        if not timeout / 8 <= self._patience <= timeout:
            # None would be no limit, and have the other socket's sends wait as well.
            timeout = min(max(timeout, 0.0), _LONG)
            self._patience = timeout * 0.75 if timeout > _SOON else timeout
            self._pipe.sock.settimeout(self._patience)

    def _send_or_wait(self, timeout: float) -> float:
        """Send what is left, or wait until that, or to receive, is possible; the seconds left."""
        self._send_what_is_left()
        if not self._has_to_send():
            return timeout
        seconds = min(max(timeout, 0.0), _LONG)  # less than none would be no limit
        wait_for_socket(self._pipe.sock, read=True, write=True, timeout=seconds)
        self._send_what_is_left()
        return 0.0

    def _send_what_is_left(self) -> None:
        # Another thread may add to it just when this one stops: then it finds the lock open.
        while self._has_to_send() and self._writing.acquire(blocking=False):
            try:
                self._drain(0.0)
            except OSError:  # there is no room, or no connection: the reader sees to either
                return
            finally:
                self._release()

    def _drain(self, deadline: float) -> None:
        """Send what was begun, and the control frames."""
        layers = self._pipe.layers
        try:
            self._flush(deadline)
            while self._controls or (layers and layers[-1].has_to_send):
                self._begun = self._sealed(self._controls.popleft() if self._controls else b"")
                self._flush(deadline)
        except OSError:
            raise
        except BaseException:  # Ctrl-C: nobody knows how much of it is on its way
            self.cut()
            raise

    def _flush(self, deadline: float) -> None:
        """Send what was begun."""
        while self._begun:
            self._begun = self._begun[self._send_some(self._begun, deadline) :]

    def _send_frame(self, frame: bytes | memoryview, deadline: float) -> None:
        """Send a frame. What stops it in its middle cuts the connection: no other can follow."""
        is_begun, frame = False, memoryview(frame)
        try:
            while frame:
                if self._pipe.layers:
                    self._wait_for_room(deadline)  # what is encrypted has to be sent
                    is_begun = True
                    self._begun, frame = self._sealed(frame[:_PIECE]), frame[_PIECE:]
                    self._flush(deadline)  # and nothing else, in the middle of a frame
                else:
                    sent = self._send_some(frame, deadline)
                    is_begun, frame = True, frame[sent:]
        except TimeoutError:
            if is_begun:
                self.cut()
            raise
        except BaseException:  # Ctrl-C may come when some of it is on its way
            self.cut()
            raise

    def _send_some(self, data: bytes | memoryview, deadline: float) -> int:
        """Send as much as there is room for; how much that was."""
        while True:
            try:
                return self._out.send(data)
            except BlockingIOError:
                self._wait_for_room(deadline)

    def _wait_for_room(self, deadline: float) -> None:
        while True:
            seconds = max(deadline - time.monotonic(), 0.0)
            if wait_for_socket(self._out, write=True, timeout=min(seconds, _LONG)):
                return
            if seconds <= _LONG:
                raise TimeoutError("the other side takes no more for now")

    def _sealed(self, data: bytes | memoryview) -> bytes | memoryview:
        for layer in reversed(self._pipe.layers):
            data = memoryview(layer.encrypt(data))
        return data
