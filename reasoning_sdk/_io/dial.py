"""Connections from nothing to bytes: names, TCP, proxy and TLS under one deadline.

Whoever waits for any of these can be stopped by another thread: what blocks is a receive or a send
on a socket that it knows how to shut down, or, as nothing stops a name's look-up, the wait for a
thread that makes it.
"""

import base64
import http.client
import os
import re
import socket
import ssl
import threading
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import requests
from requests.utils import select_proxy

from reasoning_sdk._io.exchange import Exchange
from reasoning_sdk._io.http import check_url
from reasoning_sdk._io.thread import BackgroundThread, Signal
from reasoning_sdk.errors import ConfigurationError, ConnectError

__all__ = ["TLS", "Dialing", "Pipe", "Route", "route"]

_RECORD = 64 * 1024
_MAX_HEAD = 64 * 1024
_LONG = 3600.0
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r\n]")
_HEAD_ENDS = re.compile(rb"\r?\n\r?\n")


class TLS:
    """TLS as two pipes in memory. Safe to use from any thread, each way by one at a time.

    Nothing here waits: that a thread reads while another writes needs no more than a lock around
    the steps, which OpenSSL wants one at a time.

    Attributes:
        has_ended: Whether the other side has said that no more will come.
    """

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = host.rstrip(".")  # which no certificate has
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        # Reentrant: the collector may end a connection that nobody uses in the middle of a step.
        self._lock = threading.RLock()
        self.has_ended = False

    @property
    def has_to_send(self) -> bool:
        """Whether TLS itself has something to say, or there is what was encrypted."""
        return self._outgoing.pending > 0

    def shake_hands(self) -> bool:
        """Take the next step of the handshake; whether it is done.

        Raises:
            ssl.SSLError: It has failed.
        """
        with self._lock:
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                return False
        return True

    def decrypt(self, data: bytes) -> bytes:
        """What was received, in clear: perhaps nothing yet."""
        parts = []
        with self._lock:
            self.feed(data)
            try:
                while part := self._session.read(_RECORD):
                    parts.append(part)
                self.has_ended = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                if not parts:
                    raise
                self.has_ended = True  # what came before is good
        return b"".join(parts)

    def feed(self, data: bytes) -> None:
        """Take in what was received."""
        self._incoming.write(data)

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """What is to be sent for it, and for TLS itself."""
        with self._lock:
            if data:
                self._session.write(data)
            return self._outgoing.read()


class Pipe(NamedTuple):
    """A connected socket, and the layers of TLS over it, the lowest first."""

    sock: socket.socket
    layers: tuple[TLS, ...] = ()

    def receive(self, size: int) -> bytes | None:
        """What comes next, in clear: none at the end, ``None`` if it is not whole yet."""
        if self.layers and self._has_ended():
            return b""
        data = received = self.sock.recv(size)
        for layer in self.layers:
            data = layer.decrypt(data)
        return data if data or not received or self._has_ended() else None

    def send_all(self, data: bytes) -> None:
        """Send it whole."""
        for layer in reversed(self.layers):
            data = layer.encrypt(data)
        self.sock.sendall(data)

    def _has_ended(self) -> bool:
        return any(layer.has_ended for layer in self.layers)


class Route(NamedTuple):
    """Where to connect to, and how.

    Args:
        host: The host to reach.
        port: Its port.
        context: For TLS to it; ``None`` is no TLS.
        proxy: The URL of a proxy; ``None`` is none.
        proxy_context: For TLS to the proxy; ``None`` is no TLS.
    """

    host: str
    port: int
    context: ssl.SSLContext | None = None
    proxy: str | None = None
    proxy_context: ssl.SSLContext | None = None


def route(url: str, proxy: str | None, context: ssl.SSLContext | None) -> Route:
    """Where a URL leads, with the settings of the environment as requests reads them.

    Args:
        url: An ``http`` or ``https`` URL.
        proxy: The URL of a proxy, ``""`` for none, ``None`` for the environment's.
        context: For TLS to the host; ``None`` is one that verifies as requests does.

    Raises:
        ConfigurationError: There is no such proxy, or no such bundle of certificates.
    """
    with requests.Session() as session:
        settings = session.merge_environment_settings(url, {}, None, None, None)
    bundle: Any = settings["verify"]
    if proxy is None:
        proxy = select_proxy(url, settings["proxies"])
    parts = urlsplit(url)
    assert parts.hostname
    is_secure = parts.scheme == "https"
    if is_secure and context is None:
        context = _verifying(bundle)
    proxy_context = None
    if proxy:
        proxy = _checked_proxy(proxy)
        if proxy.startswith("https:"):
            proxy_context = _verifying(bundle)
    return Route(
        host=parts.hostname,
        port=parts.port or (443 if is_secure else 80),
        context=context if is_secure else None,
        proxy=proxy or None,
        proxy_context=proxy_context,
    )


def _checked_proxy(proxy: str) -> str:
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        check_url("proxy", f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    except ValueError:
        parts = None
    if parts is None:
        raise ConfigurationError("proxy must be an http or https URL")  # it may hold a password
    return parts.geturl()


@lru_cache(maxsize=8)
def _context(bundle: str, changed_at: float) -> ssl.SSLContext:
    """One context for all connections: to read the certificates takes milliseconds."""
    if os.path.isdir(bundle):
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)


def _verifying(bundle: bool | str) -> ssl.SSLContext:
    path = bundle if isinstance(bundle, str) else requests.utils.DEFAULT_CA_BUNDLE_PATH
    try:
        return _context(path, os.stat(path).st_mtime)
    except OSError as exc:  # an SSLError, too, is one
        raise ConfigurationError(f"no bundle of certificates can be read at {path}") from exc


class Dialing(Exchange):
    """A connection being made: until when, and how to stop it. Safe to use from any thread.

    Args:
        timeout: Seconds for all of it; ``None`` is no limit.
    """

    def __init__(self, timeout: float | None) -> None:
        super().__init__(timeout)
        self._signal = Signal()

    def abort(self) -> None:
        """Wake whoever waits for it; nothing else will come of it."""
        super().abort()
        self._signal.give()

    def hang_up(self) -> None:
        """Close the socket, and its connection for whoever else has a descriptor of it."""
        with self._lock:
            if self._pid == os.getpid():
                self._shut_down()
            super().hang_up()

    def forget(self) -> None:
        """In a forked child: close its copy of the socket. No lock can be trusted there."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def connect(self, where: Route) -> Pipe:
        """Make the connection.

        Raises:
            OSError: It cannot be made, or not in time, or was stopped.
            ConnectError: The proxy refuses.
        """
        proxy = urlsplit(where.proxy) if where.proxy else None
        if proxy is None:
            pipe = Pipe(self._connect(where.host, where.port))
        else:
            port = proxy.port or (443 if where.proxy_context else 80)
            pipe = Pipe(self._connect(str(proxy.hostname), port))
        try:
            if proxy is not None:
                if where.proxy_context is not None:
                    pipe = self._secured(pipe, where.proxy_context, str(proxy.hostname))
                self._tunnel(pipe, where, proxy)
            if where.context is not None:
                pipe = self._secured(pipe, where.context, where.host)
        except BaseException:
            self.hang_up()
            raise
        return pipe

    def arm(self) -> None:
        """Have the socket's next receive or send end at the deadline.

        Raises:
            TimeoutError: It has passed.
            OSError: It was stopped.
        """
        self._check()
        super().arm()

    def _check(self) -> None:
        if self.aborted:
            raise ConnectionAbortedError("it was stopped")

    def _connect(self, host: str, port: int) -> socket.socket:
        addresses = self._look_up(host, port)
        error: OSError = OSError(f"no address for {host}")
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            # One that does not answer leaves time for the others. Without a limit nothing would
            # notice that a socket was shut down just before it connects.
            share = (self.remaining() or _LONG) / (len(addresses) - number)
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as exc:  # such addresses cannot be used here
                error = exc
                continue
            try:
                self.attach(sock)
                self._check()
                sock.settimeout(share)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as exc:
                self.attach(None)
                sock.close()
                error = exc
                self._check()
            except BaseException:
                self.attach(None)
                sock.close()
                raise
            else:
                return sock
        raise error

    def _look_up(self, host: str, port: int) -> list[Any]:
        kind = socket.SOCK_STREAM
        try:  # an address needs no look-up
            return socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)
        except (socket.gaierror, ValueError):
            pass
        return _LookUp(host, port, self._signal).result(self)

    def _secured(self, pipe: Pipe, context: ssl.SSLContext, host: str) -> Pipe:
        """A pipe with a layer of TLS more."""
        layer = TLS(context, host)
        while True:
            try:
                is_done = layer.shake_hands()
            finally:  # a refusal, too, is to be told
                if layer.has_to_send:
                    self.arm()
                    pipe.send_all(layer.encrypt(b""))
            if is_done:
                return Pipe(pipe.sock, (*pipe.layers, layer))
            data = self.receive(pipe)
            if not data:
                raise ConnectionResetError("it ended in the TLS handshake")
            layer.feed(data)

    def _tunnel(self, pipe: Pipe, where: Route, proxy: Any) -> None:
        """Have a proxy connect us."""
        host = f"[{where.host}]" if ":" in where.host else where.host.encode("idna").decode()
        lines = [f"CONNECT {host}:{where.port} HTTP/1.1", f"Host: {host}:{where.port}"]
        if proxy.username is not None:
            user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}")
        self.arm()
        pipe.send_all("\r\n".join([*lines, "", ""]).encode())
        head, rest = self.read_head(pipe)
        status = _STATUS.match(head)
        if status is not None and status[1] != b"200":
            said = http.client.responses.get(int(status[1]), "")  # its own words may be ours
            raise ConnectError(f"the proxy refuses: {status[1].decode()} {said}".rstrip())
        if status is None or rest or not _HEAD_ENDS.search(head):
            raise ConnectError("what the proxy sends cannot be read")

    def receive(self, pipe: Pipe) -> bytes:
        """What comes next, in clear; none at the end.

        Raises:
            OSError: Nothing comes, or not in time, or it was stopped.
        """
        while True:
            self.arm()  # each time: TLS may take any number of receives for a byte
            data = pipe.receive(_RECORD)
            if data is not None:
                return data

    def read_head(self, pipe: Pipe, data: bytes = b"") -> tuple[bytes, bytes]:
        """Read the head of an HTTP answer.

        Args:
            pipe: Where it comes from.
            data: What has come of it already.

        Returns:
            The head with the empty line at its end, and what came behind it. What is no HTTP, or is
            too long, comes as it is.

        Raises:
            OSError: It ends before, or does not come in time, or was stopped.
        """
        while not (end := _HEAD_ENDS.search(data)):
            if b"HTTP/1."[: len(data)] != data[:7] or len(data) > _MAX_HEAD:
                return data, b""
            part = self.receive(pipe)
            if not part:
                raise ConnectionResetError(f"it ended {'in' if data else 'before'} its answer")
            data += part
        return data[: end.end()], data[end.end() :]


class _LookUp:
    """A name's look-up on a thread of its own, as nothing else can bound one."""

    def __init__(self, host: str, port: int, signal: Signal) -> None:
        self._host, self._port = host, port
        self._signal = signal
        self._found: list[Any] | OSError | None = None
        self._thread = BackgroundThread("look-up", self._look_up, linger=0)

    def _look_up(self) -> None:
        try:
            self._found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as exc:
            self._found = exc if isinstance(exc, OSError) else OSError("no host can have its name")
        finally:
            if self._found is None:
                self._found = OSError("its address cannot be looked up")
            self._signal.give()

    def result(self, dialing: Dialing) -> list[Any]:
        """What it has found.

        Raises:
            OSError: Nothing, or not in time, or the wait was stopped.
        """
        if not self._thread.wake():  # no thread can be started
            self._look_up()
        while self._found is None:
            dialing.arm()
            self._signal.take(dialing.remaining())
        if isinstance(self._found, OSError):
            raise self._found
        return self._found
