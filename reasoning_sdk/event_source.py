"""Server-sent events over HTTP, with reconnection; and sseclient-py's interface to them."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests
import sseclient

from reasoning_sdk._core.sse import SSEDecoder, iter_events
from reasoning_sdk._io.clock import SYSTEM_CLOCK
from reasoning_sdk._io.http import (
    HTTPStream,
    HTTPTransport,
    check_event_stream,
    check_headers,
    check_url,
    is_passing,
)
from reasoning_sdk._io.reader import BlockingReader
from reasoning_sdk.arguments import check_kind, check_seconds
from reasoning_sdk.encoding import encode_json
from reasoning_sdk.errors import (
    APIStatusError,
    ConfigurationError,
    ConnectionLostError,
    IdleTimeoutError,
    RequestTimeoutError,
    TransportError,
)
from reasoning_sdk.events import ServerSentEvent
from reasoning_sdk.retry import Retries, RetryPolicy

__all__ = ["EventSource", "sse_client"]

log = logging.getLogger("reasoning_sdk.event_source")

_RETRY = RetryPolicy(initial_interval=1.0, max_attempts=10)
_CONNECT_TIMEOUT = 5.0
_NO_RETRY = RetryPolicy(max_attempts=0)
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # which no header can have


class EventSource(BlockingReader[ServerSentEvent]):
    """Server-sent events from a URL, through connections that come back: a blocking iterator.

    It connects at the first ``next``. When a connection breaks, ends or is idle for too long, it
    waits and connects again, with the last event id in force in ``Last-Event-ID``; the wait is the
    one that the server has set (``retry:``), else ``retry``'s. The status 204 ends it. Anything but
    a GET is not sent again once a 2xx status has come: then a clean end ends it, and what else ends
    the connection is raised.

    One thread at a time iterates; :meth:`close` is safe to call from any. It can be used where
    sseclient-py's ``SSEClient`` is expected.

    Args:
        url: The address.
        method: The HTTP method.
        json: What to send, as JSON.
        headers: Headers, or a callable that gives them for each attempt anew.
        session: A :class:`requests.Session` to use, with its proxies, adapters and cookies.
        retry: The delays, and how many attempts in a row may fail. An event that arrives starts
            the count again.
        last_event_id: The last event id to begin with.
        idle_timeout: Seconds that a connection may go without an event; ``None`` is no limit.
        timeout: Seconds of an attempt until its headers are in; 5 of them for the connection.
        on_reconnect: Called with the attempt's number, from 1, before the wait for it.

    Raises:
        ConfigurationError: An argument cannot work.

    Iterating raises:
        APIStatusError: A status of 4xx but 408 and 429, which are tried again, as is 5xx.
        ProtocolError: What comes is no event stream, or an event is too large.
        ConnectionLostError: The attempts are used up, or a request that is not a GET broke.
        IdleTimeoutError: The answer to a request that is not a GET was idle.
        ConcurrencyError: Another thread iterates.

    Example:
        >>> with EventSource("https://example.com/events") as source:     # doctest: +SKIP
        ...     for event in source:
        ...         print(event.event, event.data)

    Source: WHATWG HTML, section 9.2 "Server-sent events".
    """

    def __init__(
        self,
        url: str,
        *,
        method: str = "GET",
        json: Any = None,
        headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        session: requests.Session | None = None,
        retry: RetryPolicy = _RETRY,
        last_event_id: str = "",
        idle_timeout: float | None = None,
        timeout: float | None = 30.0,
        on_reconnect: Callable[[int], object] | None = None,
    ) -> None:
        super().__init__()
        check_url("url", url, with_query=True)
        check_seconds("idle_timeout", idle_timeout)
        check_seconds("timeout", timeout)
        check_kind("method", method, (str,), "a str")
        if not _METHOD.fullmatch(method):
            raise ConfigurationError(f"method must be the name of an HTTP method, got {method!r}")
        if not (headers is None or callable(headers)):
            check_kind("headers", headers, (Mapping,), "a mapping or a callable that gives one")
        check_kind("session", session, (requests.Session, type(None)), "a requests.Session")
        check_kind("retry", retry, (RetryPolicy,), "a RetryPolicy")
        check_kind("last_event_id", last_event_id, (str,), "a str")
        if _SURROGATE.search(last_event_id):
            raise ConfigurationError("last_event_id must be text that UTF-8 can encode")
        self._url = url
        self._method = method.upper()
        self._content = None if json is None else encode_json(json)
        self._idle_timeout = idle_timeout
        self._on_reconnect = on_reconnect
        self._decoder = SSEDecoder(last_event_id=last_event_id)
        self._retry_ms: int | None = None
        self._retry = retry
        self._retries: Retries | None = None  # there are some since the last event
        self._body: HTTPStream | None = None
        self._headers = headers if callable(headers) else check_headers(headers or {}).copy
        self._transport = HTTPTransport(
            authenticate=self._request_headers,
            timeout=timeout,
            connect_timeout=min(timeout or _CONNECT_TIMEOUT, _CONNECT_TIMEOUT),
            retry=_NO_RETRY,
            session=session,
        )

    def __repr__(self) -> str:
        if self._closing.is_set() or self._ended:
            state = "CLOSED"
        else:
            state = "CONNECTING" if self._body is None else "OPEN"
        where = self._url.partition("?")[0]
        return f"<EventSource {state} {where} last_event_id={self.last_event_id!r}>"

    @property
    def last_event_id(self) -> str:
        """The last event id in force, ``""`` when there is none. Safe to read from any thread."""
        return self._decoder.last_event_id

    def __next__(self) -> ServerSentEvent:
        while True:
            for event in self._batch:
                return event
            self._fetch()

    def events(self) -> Iterator[ServerSentEvent]:
        """The iterator itself, as sseclient-py's ``SSEClient`` has it."""
        return self

    def _free(self) -> None:
        self._transport.close()

    def _next_batch(self) -> list[ServerSentEvent]:
        while not self._ended:
            error: TransportError | APIStatusError | None = None
            try:
                if self._connected() and (events := self._receive()):
                    self._retries = None
                    return events
            except (TransportError, APIStatusError) as exc:
                error = exc
            self._end_or_wait(error)
        raise StopIteration

    def _connected(self) -> bool:
        """Have a connection that events can come from, or know that there will be none."""
        if self._body is None:
            body = self._transport.stream(self._method, self._url, body=self._content)
            if body.status == 204:
                body.close()
                self._ended = True
                return False
            check_event_stream(body)
            self._body = body
            self._decoder = SSEDecoder(last_event_id=self.last_event_id)
        return True

    def _request_headers(self) -> dict[str, str]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._content is not None:
            headers["Content-Type"] = "application/json"
        last_event_id = self.last_event_id.strip(" \t")
        if last_event_id and not _CONTROL.search(last_event_id):
            utf_8 = last_event_id.encode()
            headers["Last-Event-ID"] = utf_8.decode("latin-1")  # as which the bytes are sent
        return {**headers, **(self._headers() or {})}

    def _receive(self) -> list[ServerSentEvent]:
        """The next events; none when the connection has ended."""
        assert self._body is not None
        self._decoder.feed(b"")  # raises what was wrong behind the last events
        self._body.allow(self._idle_timeout)
        try:
            while chunk := self._body.read():
                events = self._decoder.feed(chunk)
                if self._decoder.retry is not None:
                    self._retry_ms = self._decoder.retry
                if events:
                    return events
        except RequestTimeoutError as exc:
            if self._idle_timeout is None:
                raise
            raise IdleTimeoutError(f"no event for {self._idle_timeout:g} seconds") from exc
        return self._decoder.feed(b"")

    def _end_or_wait(self, error: TransportError | APIStatusError | None) -> None:
        """After a connection, or an attempt at one: end, raise what ended it, or wait."""
        sent_once = self._body is not None and self._method != "GET"
        self._body = None
        if self._ended or self._closing.is_set():
            raise StopIteration
        if error is not None and (sent_once or not is_passing(error)):
            raise error
        if sent_once:
            raise StopIteration
        asked = error.retry_after if isinstance(error, APIStatusError) else None
        now = SYSTEM_CLOCK.monotonic()
        if self._retries is None:
            self._retries = Retries(self._retry, now)
        delay = self._retries.next_delay(now, asked)
        attempts = self._retries.attempts
        if delay is None:
            said = f": {error}" if error is not None else ""
            raise ConnectionLostError(
                f"no event after {attempts + 1} attempts{said}",
                attempts=attempts + 1,
                last_error=error,
            ) from error
        if asked is None and self._retry_ms is not None:
            delay = self._retry_ms / 1000
        log.info("attempt %d in %.3g s: %s", attempts, delay, error or "the stream ended")
        if self._on_reconnect is not None:
            self._on_reconnect(attempts)
        SYSTEM_CLOCK.wait(self._closing, delay)


class _Client(sseclient.SSEClient):
    """sseclient-py's client, with our decoder."""

    def events(self) -> Iterator[ServerSentEvent]:  # type: ignore[override]  # like an Event
        return iter_events(self._event_source)  # type: ignore[attr-defined]


def sse_client(response: requests.Response) -> sseclient.SSEClient:
    """An ``sseclient.SSEClient`` over a response, with this package's decoder inside.

    Use it where code takes sseclient-py's client. ``events()`` gives each event when its last byte
    has come, as a :class:`ServerSentEvent`, which has the attributes of sseclient-py's ``Event``.
    It raises :class:`ConnectionLostError` when the body is cut off, :class:`RequestTimeoutError`
    when the request's own timeout passes, :class:`ProtocolError` when an event is too large.

    Args:
        response: The answer to a request, best made with ``stream=True``.

    Example:
        >>> response = requests.get(url, stream=True)             # doctest: +SKIP
        >>> for event in sse_client(response).events():           # doctest: +SKIP
        ...     print(event.data)
    """
    if response.raw is None or response.raw.closed:  # its content has been read
        return _Client(part for part in (response.content,))
    return _Client(HTTPStream.over(response))  # type: ignore[arg-type]  # an iterable will do
