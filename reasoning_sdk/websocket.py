"""A WebSocket for code without asyncio: a blocking iterator that reconnects by itself."""

import ssl
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol
from weakref import ref

import attrs

from reasoning_sdk._core.inbox import OVERFLOWS, Batch
from reasoning_sdk._core.reconnect import ConnectionState
from reasoning_sdk._io.http import check_headers
from reasoning_sdk._io.link import Link, LinkSettings
from reasoning_sdk._io.translate import Hide, beginning
from reasoning_sdk._io.websocket import check_websocket_url
from reasoning_sdk.arguments import check_kind, check_seconds, shown
from reasoning_sdk.encoding import encode_json, json_parser
from reasoning_sdk.errors import (
    ConcurrencyError,
    ConfigurationError,
    InvalidEventError,
    ProtocolError,
    ReasoningError,
)
from reasoning_sdk.events import Connected, Disconnected, Message
from reasoning_sdk.retry import RetryPolicy

__all__ = ["Codec", "ConnectionState", "WebSocketConnection", "WebSocketStats"]

_RETRY = RetryPolicy(initial_interval=1.0, multiplier=2.0, max_interval=30.0, max_attempts=10)
_TURN = "turn"
_TOKEN_CHARACTERS = frozenset("!#$%&'*+-.^_`|~0123456789") | frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


class Codec(Protocol):
    """What makes values of messages, and messages of values."""

    def decode(self, message: str | bytes, /) -> Any:
        """The value of a message; ``ValueError`` if it has none."""

    def encode(self, value: Any, /) -> str | bytes:
        """The message for a value: a str is sent as text, bytes as such."""


class _JSON:
    """One JSON document a message."""

    def __init__(self) -> None:
        self.decode = json_parser()

    def encode(self, value: Any) -> str:
        return encode_json(value).decode()


class _Raw:
    """Messages as they are."""

    def decode(self, message: str | bytes) -> str | bytes:
        return message

    def encode(self, value: Any) -> str | bytes:
        if isinstance(value, (str, bytes)):
            return value
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        raise InvalidEventError(f"$ must be str or bytes, got a {type(value).__name__}")


_CODECS: dict[str, Callable[[], Codec]] = {"json": _JSON, "raw": _Raw}


@attrs.frozen(kw_only=True)
class WebSocketStats:
    """What a connection has done so far.

    Args:
        received: Messages that have come.
        received_bytes: Their bytes.
        sent: Messages that were sent.
        dropped: Messages that have come and were dropped, as ``overflow`` wants it.
        reconnects: Connections after the first.
        queued: Messages that wait to be taken.
    """

    received: int
    received_bytes: int
    sent: int
    dropped: int
    reconnects: int
    queued: int


class WebSocketConnection:
    """A WebSocket that reconnects by itself, as a blocking iterator of its messages.

    Make one with :meth:`connect`. A background thread reads it, answers pings and connects again
    when it is lost; what it has received waits in a queue. Iterating gives the messages and ends
    after :meth:`close`; it raises :attr:`error` when the connection has ended for good. Messages
    that were sent while there was no connection are missed: :meth:`events` shows where.

    One thread at a time iterates; everything else is safe to call from any thread.

    Example:
        >>> url = "wss://example.com/ws"
        >>> with WebSocketConnection.connect(url) as connection:     # doctest: +SKIP
        ...     for message in connection:
        ...         print(message)

    Source: RFC 6455; RFC 7692 for compression.
    """

    def __init__(self, link: Link, codec: Codec) -> None:
        self._link = link
        self._codec = codec
        self._messages: Iterator[Any] = iter(())
        self._turn: dict[str, int] = {}  # the thread that waits; no lock, which Ctrl-C could leave
        self._was_told = False  # the error has been raised
        self._is_closed = False  # by us: whatever waits is not delivered any more

    @classmethod
    def connect(
        cls,
        url: str | Callable[[], str],
        *,
        headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        on_reconnect: Callable[[int], object] | None = None,
        on_connect: "Callable[[WebSocketConnection], object] | None" = None,
        retry: RetryPolicy = _RETRY,
        open_timeout: float | None = 10.0,
        ping_interval: float | None = 20.0,
        ping_timeout: float | None = 20.0,
        idle_timeout: float | None = None,
        send_timeout: float | None = 10.0,
        close_timeout: float | None = 2.0,
        max_size: int | None = 16 * 1024 * 1024,
        max_queue: int | None = 1024,
        max_queue_bytes: int | None = 64 * 1024 * 1024,
        overflow: str = "block",
        should_reconnect: Callable[[ReasoningError], bool] | None = None,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        subprotocols: Sequence[str] | None = None,
        codec: "str | Codec" = "json",
        compression: bool = True,
    ) -> "WebSocketConnection":
        """Connect.

        The callbacks run in the thread that connects: this one at first, then the background
        thread, which reads nothing meanwhile. What they raise ends the connection for good, with
        that as its error; but an error of this library from ``on_connect``, and whatever ``url``
        and ``headers`` raise when it connects again, is a failed attempt.

        Args:
            url: The address, ``ws`` or ``wss``, or a callable that gives it for each attempt.
            headers: Headers of the handshake, or a callable that gives them for each attempt.
            on_reconnect: Called with the attempt's number, from 1, before the wait for it.
            on_connect: Called with the connection when there is one, before any message is
                delivered: the place to subscribe, at first and again.
            retry: The delays between attempts, and how many of them may fail in a row. A message
                that arrives, or 60 seconds, start the count again.
            open_timeout: Seconds for an attempt: name, TCP, proxy, TLS and handshake.
            ping_interval: Seconds between pings; ``None`` is none.
            ping_timeout: Seconds of silence after a ping that mean that the connection is lost;
                ``None`` is no limit.
            idle_timeout: Seconds without a message that mean the same; ``None`` is no limit.
            send_timeout: Seconds that :meth:`send` may take.
            close_timeout: Seconds that :meth:`close` may take.
            max_size: The most bytes of a message, inflated. A larger one ends the connection for
                good.
            max_queue: The most messages that wait, with an ``overflow`` that drops.
            max_queue_bytes: The most bytes that wait.
            overflow: What happens at these bounds. ``"block"`` reads no more until there is room,
                and answers no pings meanwhile; ``"drop_oldest"`` and ``"drop_newest"`` drop
                messages, and count them.
            should_reconnect: Decides whether to connect again after an error, in place of the rules
                for statuses and close codes.
            proxy: The URL of an HTTP proxy, ``""`` for none; ``None`` is the environment's.
            ssl_context: For ``wss``; ``None`` verifies certificates as requests does.
            subprotocols: What to offer, the best first.
            codec: ``"json"``, ``"raw"`` (str and bytes), or an object with ``decode`` and
                ``encode``.
            compression: Whether to offer permessage-deflate.

        Raises:
            ConfigurationError: An argument cannot work.
            ConnectError: There is no connection, or not in time.
            APIStatusError: The server refuses: ``AuthenticationError``, ``NotFoundError`` ….
            ProtocolError: What answers is no WebSocket server.
        """
        if not callable(url):
            check_websocket_url("url", url)
        if not (headers is None or callable(headers)):
            check_kind("headers", headers, (Mapping,), "a mapping or a callable that gives one")
            headers = check_headers(headers)
        check_kind("retry", retry, (RetryPolicy,), "a RetryPolicy")
        for name, seconds in (
            ("open_timeout", open_timeout),
            ("ping_interval", ping_interval),
            ("ping_timeout", ping_timeout),
            ("idle_timeout", idle_timeout),
            ("send_timeout", send_timeout),
            ("close_timeout", close_timeout),
        ):
            check_seconds(name, seconds, or_zero=name in ("send_timeout", "close_timeout"))
        for name, count in (
            ("max_size", max_size),
            ("max_queue", max_queue),
            ("max_queue_bytes", max_queue_bytes),
        ):
            _check_count(name, count)
        if overflow not in OVERFLOWS:
            raise ConfigurationError(
                f"overflow must be one of {', '.join(OVERFLOWS)}, got {overflow!r}"
            )
        for name, callback in (
            ("on_reconnect", on_reconnect),
            ("on_connect", on_connect),
            ("should_reconnect", should_reconnect),
        ):
            if not (callback is None or callable(callback)):
                raise ConfigurationError(
                    f"{name} must be callable, got a {type(callback).__name__}"
                )
        check_kind("proxy", proxy, (str, type(None)), "the URL of a proxy")
        check_kind("ssl_context", ssl_context, (ssl.SSLContext, type(None)), "an SSLContext")
        settings = LinkSettings(
            retry=retry,
            should_reconnect=should_reconnect,
            on_reconnect=on_reconnect,
            open_timeout=open_timeout,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            idle_timeout=idle_timeout,
            send_timeout=_seconds(send_timeout),
            close_timeout=_seconds(close_timeout),
            max_size=max_size,
            max_queue=max_queue,
            max_queue_bytes=max_queue_bytes,
            overflow=overflow,
            proxy=proxy,
            ssl_context=ssl_context,
            subprotocols=_checked_subprotocols(subprotocols),
            compression=compression,
        )

        def target() -> tuple[str, Mapping[str, str]]:
            address = url() if callable(url) else url
            sent = headers() if callable(headers) else headers
            if sent is None:
                sent = {}
            check_kind("headers", sent, (Mapping,), "a mapping")
            return address, sent

        def on_open() -> None:
            connection = it()
            if on_connect is not None and connection is not None:
                on_connect(connection)

        connection = cls(Link(target, settings, on_open), _codec(codec))
        it = ref(connection)  # else the thread would keep alive what nobody uses any more
        connection._link.open()
        return connection

    def __repr__(self) -> str:
        where = self._link.url.partition("?")[0]  # what follows may be secret
        return f"<WebSocketConnection {self.state.value} {where} queued={self._link.queued}>"

    def __enter__(self) -> "WebSocketConnection":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        link = getattr(self, "_link", None)
        if link is not None and link.state is not ConnectionState.CLOSED:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            link.leave(link.close_timeout)

    # -- receiving ---------------------------------------------------------------------------------

    def __iter__(self) -> "WebSocketConnection":
        return self

    def __next__(self) -> Any:
        while True:
            try:
                for message in self._messages:
                    return message
            except ValueError as exc:
                raise _unreadable(exc, self._link.hide) from exc
            batch = self._next_batch(None)
            if batch is None:
                raise StopIteration
            self._take(batch)

    def next_message(self, timeout: float | None = None) -> Any:
        """Wait for the next message. One thread at a time.

        Args:
            timeout: Seconds to wait; ``None`` is no limit, 0 is do not wait.

        Returns:
            Its value; ``None`` when the connection has ended for good, :attr:`error` says why.

        Raises:
            RequestTimeoutError: There was none in time.
            ProtocolError: It is not JSON, or too large.
            ConcurrencyError: Another thread waits for messages.
            StateError: A fork has made this process; the connection is not its own.
        """
        check_seconds("timeout", timeout, or_zero=True)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                for message in self._messages:
                    return message
            except ValueError as exc:
                raise _unreadable(exc, self._link.hide) from exc
            batch = self._next_batch(deadline, raises=False)
            if batch is None:
                return None
            self._take(batch)

    def events(self) -> "Iterator[Connected | Message | Disconnected]":
        """The messages, and in their midst when the connection was made and lost.

        Between two messages, a ``Disconnected`` says that others may have been missed. Otherwise
        it gives, raises and ends as iterating the connection does. One thread at a time.
        """
        return _Events(self)

    def _take(self, batch: Batch) -> None:
        self._messages = self._decoded(batch)
        if self._is_closed:  # meanwhile
            self._messages = iter(())

    def _decoded(self, batch: Batch) -> Iterator[Any]:
        if not batch.has_messages:
            for item in batch.items:
                self._raise_if_error(item)
            return iter(())
        return map(self._codec.decode, batch.items)

    def _next_batch(self, deadline: float | None, *, raises: bool = True) -> Batch | None:
        """Wait for a batch; ``None`` when there will be none."""
        me = threading.get_ident()
        if self._turn.get(_TURN) == me and _has_interrupted_itself():
            raise ConcurrencyError(f"a signal handler has interrupted a wait for {self!r}")
        try:
            if self._turn.setdefault(_TURN, me) != me:
                self._link.check_process()  # else the thread is not here
                raise ConcurrencyError(f"another thread waits for the messages of {self!r}")
            batch = self._link.first(deadline)
        finally:
            if self._turn.get(_TURN) == me:
                del self._turn[_TURN]
        if batch is None and raises and self._link.error is not None and not self._was_told:
            self._was_told = True
            raise self._link.error
        return batch

    def _leave(self, seconds: float) -> None:
        """Have it end within so many seconds, and do not wait for that."""
        self._is_closed = True
        self._messages = iter(())
        self._link.leave(seconds)

    def _raise_if_error(self, item: Any) -> None:
        if isinstance(item, ReasoningError):
            self._was_told = True  # it is what has ended the connection
            raise item

    # -- sending, closing --------------------------------------------------------------------------

    def send(self, value: Any, *, timeout: float | None = None) -> None:
        """Send a message. Safe to call from any thread.

        Args:
            value: What the codec takes: with ``"json"`` whatever can be JSON, with ``"raw"`` a str,
                sent as text, or bytes.
            timeout: Seconds until it has to be on its way; ``None`` is ``send_timeout``, 0 is do
                not wait.

        Raises:
            InvalidEventError: The value cannot be sent.
            StateError: There is no connection now, or it is closed.
            RequestTimeoutError: It could not be sent in time. When a part of it was, the connection
                is dropped, and made again.
            ConnectionLostError: The connection broke: nobody knows whether it has arrived.
        """
        check_seconds("timeout", timeout, or_zero=True)
        message: Any = self._codec.encode(value)
        if not isinstance(message, (str, bytes)):
            kind = type(message).__name__
            raise InvalidEventError(f"$ cannot be sent: the codec has made a {kind} of it")
        try:
            self._link.send(message, self._link.send_timeout if timeout is None else timeout)
        except UnicodeEncodeError as exc:
            raise InvalidEventError("$ cannot be sent: a lone surrogate") from exc

    def close(self, timeout: float | None = None) -> None:
        """Close the connection for good. Safe to call from any thread, and more than once.

        Whoever waits for messages, or sends, wakes up; iteration ends.

        Args:
            timeout: Seconds to wait for the server's answer; ``None`` is ``close_timeout``, 0 is do
                not wait.
        """
        check_seconds("timeout", timeout, or_zero=True)
        self._is_closed = True
        self._messages = iter(())
        self._link.close(self._link.close_timeout if timeout is None else timeout)

    # -- what it tells of itself -------------------------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """Where it is in its life. Safe to read from any thread."""
        return self._link.state

    @property
    def error(self) -> BaseException | None:
        """Why it has ended for good; ``None`` while it lives, or when it was closed."""
        return self._link.error

    @property
    def latency(self) -> float | None:
        """Seconds that the last ping took to the server and back; ``None`` before the first."""
        return self._link.latency

    @property
    def subprotocol(self) -> str | None:
        """What the server has chosen of the subprotocols offered."""
        return self._link.subprotocol

    @property
    def stats(self) -> WebSocketStats:
        """What it has done so far, at this moment. Safe to read from any thread."""
        link = self._link
        return WebSocketStats(
            received=link.received,
            received_bytes=link.received_bytes,
            sent=link.sent,
            dropped=link.dropped,
            reconnects=link.reconnects,
            queued=link.queued,
        )


class _Events:
    """What :meth:`WebSocketConnection.events` gives."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection
        self._batch: Batch | None = None

    def __iter__(self) -> "_Events":
        return self

    def __next__(self) -> Connected | Message | Disconnected:
        connection = self._connection
        while True:
            batch = None if connection._is_closed else self._batch
            for item in batch.items if batch is not None else ():
                assert batch is not None
                if batch.has_messages:
                    return self._message(item, batch.received_at)
                connection._raise_if_error(item)
                event: Connected | Disconnected = item
                return event
            self._batch = connection._next_batch(None)
            if self._batch is None:
                raise StopIteration

    def _message(self, message: str | bytes, received_at: float) -> Message:
        try:
            data = self._connection._codec.decode(message)
        except ValueError as exc:
            raise _unreadable(exc, self._connection._link.hide) from exc
        return Message(data=data, received_at=received_at)


def _has_interrupted_itself() -> bool:
    """Whether the caller, a function, is also further up in its thread: in what it interrupted."""
    caller = sys._getframe(1)
    frame = caller.f_back
    while frame is not None:
        if frame.f_code is caller.f_code and frame.f_locals["self"] is caller.f_locals["self"]:
            return True
        frame = frame.f_back
    return False


def _unreadable(error: ValueError, hide: Hide) -> ProtocolError:
    hide.inside(error)
    document = getattr(error, "doc", None)
    said = ""
    if isinstance(document, (str, bytes)):
        said = f": {beginning(document)}"
        error.doc = ""  # type: ignore[attr-defined]  # all of the message, which may be large
    return ProtocolError(f"a message cannot be read: {error}{said}")


def _seconds(timeout: float | None) -> float:
    return threading.TIMEOUT_MAX if timeout is None else timeout


def _check_count(name: str, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and value > 0):
        raise ConfigurationError(f"{name} must be a whole number > 0 or None, got {shown(value)}")


def _checked_subprotocols(names: Iterable[str] | None) -> tuple[str, ...]:
    if names is None:
        return ()
    if isinstance(names, str) or not isinstance(names, Iterable):
        kind = type(names).__name__
        raise ConfigurationError(f"subprotocols must be a list of names, got a {kind}")
    subprotocols = tuple(names)
    for name in subprotocols:
        check_kind("a subprotocol", name, (str,), "a str")
        if not (name and _TOKEN_CHARACTERS.issuperset(name)):  # it may be a token, and is not shown
            raise ConfigurationError("a subprotocol has characters that HTTP does not allow there")
    if len(set(subprotocols)) < len(subprotocols):
        raise ConfigurationError("a subprotocol is offered twice")
    return subprotocols


def _codec(codec: "str | Codec") -> Codec:
    if isinstance(codec, str):
        if codec not in _CODECS:
            raise ConfigurationError(f"codec must be one of {', '.join(_CODECS)}, got {codec!r}")
        return _CODECS[codec]()
    for name in ("decode", "encode"):
        if not callable(getattr(codec, name, None)):
            raise ConfigurationError(f"codec must have a method {name}")
    return codec
