"""Many small POSTs to few addresses: what they have in common is worked out once.

requests takes three quarters of its time to find out, for each request anew, which proxy, which
certificates, which credentials and which headers apply. Here a session of ours is asked once per
address, and its connection pool used from then on. A session of the caller's own is used as it is.
"""

# What the first request of all would import. A process forked in the middle of that would wait for
# the import's lock for ever, which no thread of its own has.
import encodings.idna
import encodings.punycode  # noqa: F401
import importlib
import netrc  # noqa: F401
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import attrs
import requests

from reasoning_sdk._io.clock import SYSTEM_CLOCK, Clock
from reasoning_sdk._io.exchange import Exchange, Session, Stack, ask, can_ask
from reasoning_sdk._io.http import HTTPStream
from reasoning_sdk._io.translate import FOREIGN, Hide, origin, status_error, translate
from reasoning_sdk.errors import ConfigurationError, StateError

__all__ = ["Poster", "Recipient"]

_MAX_BODY = 64 * 1024
_BODY_SECONDS = 1.0
_CONNECT_TIMEOUT = 5.0
_MOST_ROUTES = 1000

for _protocol in ("http1", "http2", "http3"):  # the same, of urllib3-future in urllib3's place
    with suppress(ImportError):  # there is none such, or what it needs is not installed
        importlib.import_module(f"urllib3.contrib.hface.protocols.{_protocol}")


@attrs.frozen(kw_only=True, eq=False)
class Recipient:
    """Who gets POSTs, each instance one for itself.

    Args:
        url: Where to.
        headers: What every request there says of itself.
    """

    url: str
    headers: Mapping[str, str] = attrs.field(repr=False)


class Poster:
    """Sends JSON with POST, in one try each, and follows no redirect. Safe to use from any thread.

    Args:
        session_factory: Makes the sessions, when they are to be the caller's own.
        timeout: Seconds for one try; ``None`` is no limit.
        clock: Time.
    """

    def __init__(
        self,
        *,
        session_factory: Callable[[], requests.Session] | None = None,
        timeout: float | None = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._timeout = timeout
        self._clock = clock
        self._closed = False
        self._exchanges: set[Exchange] = set()  # read with one C call, as other threads change it
        self._lines = Stack(lambda: _Line(session_factory))

    def post(
        self, recipient: Recipient, key: str, body: bytes, *, timeout: float | None = None
    ) -> None:
        """Send a body, and return when it has been taken.

        Args:
            recipient: Who gets it.
            key: The ``Idempotency-Key``.
            body: JSON.
            timeout: Seconds, where that is less than usual.

        Raises:
            APIStatusError: The answer is no success.
            TransportError: There was none.
            ProtocolError: It cannot be read.
            ConfigurationError: It cannot be sent.
            StateError: The poster was closed.
        """
        exchange = Exchange(_least(self._timeout, timeout))
        self._exchanges.add(exchange)
        sent: _Sent = [recipient.headers]
        try:
            if self._closed:
                raise StateError("the client is closed")
            with self._lines.one() as line, exchange.current():
                status, headers, content = line.post(recipient, key, body, exchange, sent)
        except FOREIGN as exc:
            if self._closed:
                raise StateError("the client was closed") from exc
            raise translate(exc, origin(recipient.url), _hide(sent)) from exc
        except Exception as exc:  # of the caller's own session
            _hide(sent).inside(exc)
            raise
        finally:
            self._exchanges.discard(exchange)
        if not 200 <= status < 300:
            raise status_error(status, headers, content, _hide(sent), self._clock.time())

    def close(self) -> None:
        """End what is under way, in whatever thread, and close every connection."""
        self._closed = True
        for exchange in tuple(self._exchanges):
            exchange.abort()
        self._lines.close()


def _least(*seconds: float | None) -> float | None:
    return min((s for s in seconds if s is not None), default=None)


def _hide(sent: Iterable[Mapping[str, Any]]) -> Hide:
    hide = Hide(shortest=1)  # a signature may be short
    for headers in sent:
        hide.learn({name: _text(value) for name, value in headers.items()})
    return hide


_Answer = tuple[int, Mapping[str, str], bytes]
_Sent = list[Mapping[str, Any]]  # the headers of a request, of which none may be told


class _Line:
    """One session, and the routes that it has found."""

    def __init__(self, session_factory: Callable[[], Any] | None) -> None:
        self._is_ours = session_factory is None
        self._session = Session() if session_factory is None else session_factory()
        if not isinstance(self._session, requests.Session):
            kind = type(self._session).__name__
            raise ConfigurationError(f"session_factory must give a requests.Session, gave a {kind}")
        self._routes: dict[Recipient, _Route] = {}

    def close(self) -> None:
        self._session.close()

    def post(
        self, recipient: Recipient, key: str, body: bytes, exchange: Exchange, sent: _Sent
    ) -> _Answer:
        route = self._route_to(recipient) if self._is_ours else None
        if route is None or not can_ask(route.pool):
            return self._send(recipient, key, body, exchange, sent)
        sent.append(route.headers)
        timeout = _least(_CONNECT_TIMEOUT, exchange.remaining())
        answer, content = ask(route.pool, route.written(key, body), timeout, _MAX_BODY)
        if 200 <= answer.status < 300:
            return answer.status, {}, b""
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, headers, content

    def _route_to(self, recipient: Recipient) -> "_Route":
        route = self._routes.get(recipient)
        if route is None:
            if len(self._routes) >= _MOST_ROUTES:
                self._routes.clear()
            route = self._routes[recipient] = _Route(self._session, recipient)
        return route

    def _send(
        self, recipient: Recipient, key: str, body: bytes, exchange: Exchange, sent: _Sent
    ) -> _Answer:
        """Send as requests does, with all that a caller's session may have in store."""
        session = self._session
        headers = {**recipient.headers, "Idempotency-Key": key}
        prepared = session.prepare_request(
            requests.Request("POST", recipient.url, headers=headers, data=body)
        )
        sent.append(prepared.headers)
        settings = session.merge_environment_settings(prepared.url, {}, True, None, None)
        remaining = exchange.remaining()
        timeout = (_least(_CONNECT_TIMEOUT, remaining), remaining)
        response = session.send(prepared, allow_redirects=False, timeout=timeout, **settings)
        stream = HTTPStream(response, exchange, origin(recipient.url), _hide(sent))
        content = stream.read_beginning(_MAX_BODY, _BODY_SECONDS)
        return stream.status, stream.headers, content


class _Route:
    """The way to a recipient: through which pool, and what every request there begins with."""

    def __init__(self, session: requests.Session, recipient: Recipient) -> None:
        request = requests.Request("POST", recipient.url, headers=dict(recipient.headers))
        prepared = session.prepare_request(request)
        url = str(prepared.url)
        settings = session.merge_environment_settings(url, {}, True, None, None)
        adapter: Any = session.get_adapter(url)
        self.pool = adapter.get_connection_with_tls_context(
            prepared, settings["verify"], proxies=settings["proxies"], cert=settings["cert"]
        )
        adapter.cert_verify(self.pool, url, settings["verify"], settings["cert"])
        headers: dict[str, Any] = dict(prepared.headers)
        headers.pop("Content-Length", None)  # of a request without body
        if self.pool.proxy is not None and self.pool.scheme == "http":
            headers.update(self.pool.proxy_headers)
        target = adapter.request_url(prepared, settings["proxies"])
        self.headers = headers
        lines = [f"POST {target} HTTP/1.1", f"Host: {_host(url)}"]
        lines += [f"{name}: {_text(value)}" for name, value in headers.items()]
        self._head = ("\r\n".join(lines) + "\r\nIdempotency-Key: ").encode("latin-1")

    def written(self, key: str, body: bytes) -> bytes:
        """A whole request."""
        return b"%s%s\r\nContent-Length: %d\r\n\r\n%s" % (self._head, key.encode(), len(body), body)


def _host(url: str) -> str:
    """What a request to a URL says as its ``Host``."""
    parts = urlsplit(url)
    host = (parts.hostname or "").partition("%")[0].rstrip(".")  # a zone is for us alone
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[parts.scheme]
    return host if parts.port in (None, default) else f"{host}:{parts.port}"


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
