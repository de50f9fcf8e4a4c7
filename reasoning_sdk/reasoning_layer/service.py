"""What all parts of the client ask one service with: requests, streams, WebSockets, ids."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID
from weakref import WeakValueDictionary

import requests
from requests.cookies import get_cookie_header
from requests.structures import CaseInsensitiveDict

from reasoning_sdk._core.sse import SSEDecoder
from reasoning_sdk._io.clock import SYSTEM_CLOCK, Clock
from reasoning_sdk._io.http import HTTPStream, HTTPTransport, check_event_stream, check_headers
from reasoning_sdk._io.reader import BlockingReader
from reasoning_sdk.arguments import check_kind, check_seconds, shown
from reasoning_sdk.encoding import encode_json, parse_json
from reasoning_sdk.errors import (
    ConfigurationError,
    ConnectionLostError,
    IdleTimeoutError,
    RequestTimeoutError,
    StateError,
)
from reasoning_sdk.events import ServerSentEvent
from reasoning_sdk.retry import RetryPolicy
from reasoning_sdk.websocket import WebSocketConnection

__all__ = ["EventStream", "Service", "quoted_id"]

_CONNECT_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 2.0
_METHOD = re.compile(r"[A-Za-z]+")
_PATH = re.compile(r"/api/v1(/[^\x00-\x20\x7f?#\\\ud800-\udfff]*)?")
_SLASH = re.compile(r"[/\\]")
_DOTS = (".", "..")


class Service:
    """A service as one tenant sees it. Safe to use from any thread.

    Args:
        base_url: Where it is, without a final slash.
        token: Gives the bearer token for each attempt, ``None`` or ``""`` where there is none.
        headers: The other headers of every request and handshake.
        timeout: Seconds for an attempt.
        retry: When to try again what passes.
        retry_on_503: Whether the status 503 passes.
        session: The caller's own session, whose cookies go along.
        clock: Time.
    """

    def __init__(
        self,
        *,
        base_url: str,
        token: Callable[[], str | None],
        headers: Mapping[str, str],
        timeout: float | None,
        retry: RetryPolicy,
        retry_on_503: bool,
        session: requests.Session | None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_seconds("timeout", timeout)
        self.base_url = base_url
        self.closed = False
        self._token = token
        self._headers = headers
        self._session = session
        self._open: WeakValueDictionary[int, EventStream | WebSocketConnection]
        self._open = WeakValueDictionary()
        self._transport = HTTPTransport(
            authenticate=self._authentication,
            headers=headers,
            timeout=timeout,
            connect_timeout=min(timeout or _CONNECT_TIMEOUT, _CONNECT_TIMEOUT),
            retry=retry,
            retried_statuses=frozenset({429, 503} if retry_on_503 else {429}),
            retry_server_errors=False,
            session=session,
            clock=clock,
        )

    def close(self) -> None:
        """End all requests, streams and connections, in whatever thread.

        However many connections there are, they share the seconds to take leave in.
        """
        self.closed = True
        deadline = SYSTEM_CLOCK.monotonic() + _CLOSE_TIMEOUT
        opened = [alive for ref in self._open.valuerefs() if (alive := ref()) is not None]
        connections = [alive for alive in opened if isinstance(alive, WebSocketConnection)]
        for connection in connections:  # all of them begin to close before one is waited for
            connection._leave(_CLOSE_TIMEOUT)
        for alive in opened:
            if not isinstance(alive, WebSocketConnection):
                alive.close()
        self._transport.close()
        for connection in connections:
            connection.close(max(deadline - SYSTEM_CLOCK.monotonic(), 0.0))

    def request(
        self, method: str, path: str, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """The JSON that the service answers with, ``None`` when that is empty."""
        answer = self._transport.request(
            _checked_method(method),
            self._url(path),
            body=None if json is None else encode_json(json),
            headers=_headers_of_body(json, Accept="application/json"),
            params=_query(params),
        )
        return answer.json()

    def stream(
        self,
        method: str,
        path: str,
        json: Any,
        params: Mapping[str, Any] | None,
        idle_timeout: float | None,
    ) -> "EventStream":
        """The server-sent events that the service answers with, once they have begun."""
        check_seconds("idle_timeout", idle_timeout)
        answer = self._transport.stream(
            _checked_method(method),
            self._url(path),
            body=None if json is None else encode_json(json),
            headers=_headers_of_body(
                json, **{"Accept": "text/event-stream", "Cache-Control": "no-store"}
            ),
            params=_query(params),
        )
        check_event_stream(answer)
        stream = EventStream(answer, idle_timeout)
        self._keep(stream)
        return stream

    def websocket_url(self, path: str) -> str:
        """The address of a WebSocket of the service, its path and query percent-encoded."""
        scheme, _, rest = self.base_url.partition("://")
        return f"{'wss' if scheme.lower() == 'https' else 'ws'}://{rest}{path}"

    def connect(self, url: str, options: Mapping[str, Any]) -> WebSocketConnection:
        """A WebSocket with the headers of all requests; the caller's own win over them."""
        if self.closed:
            raise StateError("the client is closed")
        own = options.get("headers")
        if not (own is None or callable(own)):
            check_kind("headers", own, (Mapping,), "a mapping or a callable that gives one")
        connection = WebSocketConnection.connect(
            url, **{**options, "headers": lambda: self.handshake_headers(url, own)}
        )
        self._keep(connection)
        return connection

    def handshake_headers(
        self,
        url: str,
        own: Mapping[str, str] | Callable[[], Mapping[str, str] | None] | None = None,
    ) -> dict[str, str]:
        """The headers of one attempt at a WebSocket: token and cookies are those of now.

        Args:
            url: The WebSocket's address.
            own: The caller's headers, or what gives them.

        Raises:
            ConfigurationError: One that HTTP does not allow, or ``own`` gives no mapping.
        """
        headers = CaseInsensitiveDict({**self._headers, **self._authentication()})
        if self._session is not None and (cookies := _cookies(self._session, url)):
            headers["Cookie"] = cookies
        sent = own() if callable(own) else own
        if sent is not None:
            check_kind("headers", sent, (Mapping,), "a mapping")
            headers.update(check_headers(sent))
        return check_headers(headers)

    def _authentication(self) -> dict[str, str]:
        token = self._token()
        check_kind("what token gives", token, (str, type(None)), "a str")
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _url(self, path: Any) -> str:
        """The URL of a path, which cannot lead away from the base URL.

        What sends a request decodes dots and then goes up, and a server may decode slashes, or
        drop what is behind a semicolon. So dots are looked for in what percent-encoding hides, and
        before semicolons, too.
        """
        if not (isinstance(path, str) and _PATH.fullmatch(path)):
            raise ConfigurationError(
                "path must begin with /api/v1 and have no query, fragment, backslash or space, "
                f"got {shown(path)}"
            )
        if any(part.partition(";")[0] in _DOTS for part in _SLASH.split(unquote(path))):
            raise ConfigurationError(f"path must have no part that is . or .., got {path!r}")
        return self.base_url + path

    def _keep(self, opened: "EventStream | WebSocketConnection") -> None:
        """Have :meth:`close` end it, too."""
        self._open[id(opened)] = opened
        if self.closed:  # meanwhile
            opened.close()
            raise StateError("the client was closed")


class EventStream(BlockingReader[ServerSentEvent]):
    """The server-sent events of one answer: an iterator. It connects once, and never again.

    One thread at a time iterates; :meth:`close` is safe to call from any, and then iteration ends.

    Iterating raises:
        ConnectionLostError: The stream was cut off.
        IdleTimeoutError: No event came for ``idle_timeout`` seconds.
        ProtocolError: What came cannot be read.
        ConcurrencyError: Another thread iterates.
    """

    def __init__(self, body: HTTPStream, idle_timeout: float | None) -> None:
        super().__init__()
        self._body = body
        self._decoder = SSEDecoder()
        self._idle_timeout = idle_timeout

    def __repr__(self) -> str:
        return f"<EventStream {'CLOSED' if self._ended or self._closing.is_set() else 'OPEN'}>"

    def __next__(self) -> ServerSentEvent:
        while True:
            for event in self._batch:
                return event
            self._fetch()

    def _free(self) -> None:
        self._body.close()

    def _next_batch(self) -> list[ServerSentEvent]:
        self._decoder.feed(b"")  # raises what was wrong behind the last events
        self._body.allow(self._idle_timeout)
        try:
            while chunk := self._body.read():
                if events := self._decoder.feed(chunk):
                    return events
        except RequestTimeoutError as exc:
            if self._idle_timeout is None:
                raise
            raise IdleTimeoutError(f"no event for {self._idle_timeout:g} seconds") from exc
        # Where the end of the connection is the end of the body, nothing else tells of a cut.
        if self._decoder.is_inside_event and not self._closing.is_set():
            raise ConnectionLostError("the stream ended in the middle of an event")
        raise StopIteration


def quoted_id(name: str, value: Any) -> str:
    """An id as it stands in a URL.

    Raises:
        ConfigurationError: It is none.
    """
    check_kind(name, value, (str, UUID), "a str or a UUID")
    text = str(value)
    try:
        if text not in ("", *_DOTS):
            return quote(text, safe="")
    except UnicodeEncodeError:
        pass
    raise ConfigurationError(f"{name} must be an id, got {text!r}")


def _checked_method(method: Any) -> str:
    if not (isinstance(method, str) and _METHOD.fullmatch(method)):
        raise ConfigurationError(f"method must be the name of an HTTP method, got {shown(method)}")
    return method.upper()


def _headers_of_body(json: Any, **headers: str) -> dict[str, str]:
    return headers if json is None else {"Content-Type": "application/json", **headers}


def _query(params: Mapping[str, Any] | None) -> dict[str, str | list[str]]:
    """A query's values as texts; what is ``None`` is left out, lists are repeated."""
    check_kind("params", params, (Mapping, type(None)), "a mapping")
    return {
        name: [*map(_text, value)] if isinstance(value, (list, tuple)) else _text(value)
        for name, value in (params or {}).items()
        if value is not None
    }


def _text(value: Any) -> str:
    """A value as it stands in a query: as in JSON, but a text is itself."""
    content = encode_json(value)
    plain = parse_json(content)
    return plain if isinstance(plain, str) else content.decode()


def _cookies(session: requests.Session, url: str) -> str | None:
    """What a session's cookies say to a WebSocket: what they say to ``http`` or ``https``."""
    request = requests.Request("GET", "http" + url.removeprefix("ws"))
    cookies: str | None = get_cookie_header(  # type: ignore[no-untyped-call]
        session.cookies, request.prepare()
    )
    return cookies
