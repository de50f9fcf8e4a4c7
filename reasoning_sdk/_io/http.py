"""The one way out over HTTP: requests, with retries, deadlines, our errors, and a way to stop."""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit
from weakref import WeakValueDictionary

import attrs
import requests
from requests.structures import CaseInsensitiveDict
from urllib3.util.response import is_fp_closed

from reasoning_sdk._io.clock import SYSTEM_CLOCK, Clock
from reasoning_sdk._io.exchange import Exchange, Session, Stack, read_uncoded, uncoded_body
from reasoning_sdk._io.reader import Closing
from reasoning_sdk._io.translate import FOREIGN, Hide, beginning, origin, status_error, translate
from reasoning_sdk.arguments import check_seconds
from reasoning_sdk.encoding import parse_json
from reasoning_sdk.errors import (
    APIStatusError,
    ConfigurationError,
    ProtocolError,
    ReasoningError,
    StateError,
    TransportError,
)
from reasoning_sdk.retry import Retries, RetryPolicy

__all__ = [
    "RETRIED_STATUSES",
    "Answer",
    "HTTPStream",
    "HTTPTransport",
    "check_event_stream",
    "check_headers",
    "check_url",
    "is_passing",
]

log = logging.getLogger("reasoning_sdk.http")

_T = TypeVar("_T")
_READ_SIZE = 64 * 1024
_MAX_REDIRECTS = 10
_MAX_ERROR_BODY = 1024 * 1024
_ERROR_BODY_SECONDS = 10.0
_MAX_REST = 64 * 1024
_MAX_SHOWN = 4096
_SHOWN_SECONDS = 5.0
RETRIED_STATUSES = frozenset({408, 429})

# What goes along with a redirect to another origin. Whatever else there is may be a credential.
_HARMLESS_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "idempotency-key",
        "user-agent",
    }
)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"([\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.?")
_UNFIT_FOR_URL = re.compile("[\x00-\x20\x7f\ud800-\udfff]")


def check_headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    """Headers that HTTP allows.

    Raises:
        ConfigurationError: One that HTTP does not allow; the message does not tell its value.
    """
    for name, value in headers.items():
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise ConfigurationError(f"{name!r} cannot be the name of a header")
        if not (isinstance(value, str) and _VALUE.fullmatch(value)):
            raise ConfigurationError(
                f"the value of header {name} has characters that HTTP does not allow there"
                if isinstance(value, str)
                else f"the value of header {name} must be a str, got a {type(value).__name__}"
            )
    return dict(headers)


def check_url(
    name: str, url: Any, *, with_query: bool = False, schemes: tuple[str, str] = ("http", "https")
) -> str:
    """A URL without credentials, and mostly without query and final slash.

    Raises:
        ConfigurationError: It is not one.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and parts.hostname and parts.port != 0
        usable = usable and not _UNFIT_FOR_URL.search(url) and _is_host(str(parts.hostname))
    except (AttributeError, TypeError, ValueError):
        usable = False
    if not usable:
        # What follows the question mark may be secret.
        known = isinstance(url, str) and "@" not in url
        shown = repr(url.partition("?")[0]) if known else "something else"
        kind = f"{'an' if schemes[0] == 'http' else 'a'} {' or '.join(schemes)} URL"
        raise ConfigurationError(f"{name} must be {kind}, got {shown}")
    if parts.username is not None or "#" in url:
        raise ConfigurationError(f"{name} must have no user, password or fragment")
    if with_query:
        return str(url)
    if "?" in url:
        raise ConfigurationError(f"{name} must have no query")
    return str(url).rstrip("/")


def _is_host(name: str) -> bool:
    """Whether a host can have this name; requests would say no only when it is asked."""
    if ":" in name:  # an IPv6 address, which urlsplit has looked at
        return True
    name.encode("idna")  # a UnicodeError, which is a ValueError, for empty and long labels
    return bool(_HOST.fullmatch(name))


def is_passing(
    error: ReasoningError,
    statuses: frozenset[int] = RETRIED_STATUSES,
    *,
    server_errors: bool = True,
) -> bool:
    """Whether an attempt that failed like this is made again, here or at the next attempt.

    Args:
        error: What it failed with.
        statuses: The statuses that are.
        server_errors: Whether all from 500 on are, too.
    """
    if isinstance(error, APIStatusError):
        return error.status_code in statuses or (server_errors and error.status_code >= 500)
    return error.retryable


def check_event_stream(stream: "HTTPStream") -> None:
    """Let an answer pass that is an event stream; close any other.

    Raises:
        ProtocolError: It is something else; the message shows its content type and beginning.
    """
    kind = stream.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "text/event-stream":
        body = stream.read_beginning(_MAX_SHOWN, _SHOWN_SECONDS).decode("utf-8", "replace")
        raise ProtocolError(
            f"answer is no event stream: status {stream.status}, "
            f"content type {stream.hide(kind) or 'missing'}, body {beginning(stream.hide(body))}"
        )


@attrs.frozen(kw_only=True)
class Answer:
    """A whole answer.

    Args:
        status: The HTTP status, a success.
        headers: The headers, names in lower case.
        body: The body, its content coding undone.
        hide: Hides what no error may tell.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    hide: Hide = attrs.field(factory=Hide, repr=False)

    def json(self) -> Any:
        """The body read as JSON, ``None`` when it is empty.

        Raises:
            ProtocolError: The body is not JSON.
        """
        if not self.body:
            return None
        try:
            return parse_json(self.body)
        except ValueError as exc:
            kind = self.hide(self.headers.get("content-type", "no content type"))
            shown = beginning(self.hide(self.body.decode("utf-8", "replace")))
            raise ProtocolError(f"answer is not JSON but {kind}: {shown}") from exc


class HTTPTransport:
    """Requests to one service. Safe to use from any thread.

    Sessions are checked out of a stack, one for each request that is being made, and put back when
    its answer has begun.

    Args:
        authenticate: Gives the headers that authenticate, for each attempt anew. Those in
            ``headers``, and a request's own, take their place.
        headers: Headers of every request.
        timeout: Seconds for an attempt: until a streamed answer begins, or a whole one ends.
        connect_timeout: Seconds of these for the connection.
        retry: When to try again.
        retried_statuses: Statuses that are tried again.
        retry_server_errors: Whether all from 500 on are, too.
        follow_elsewhere: Whether a redirect to another origin is followed, without credentials. If
            not, it is an error that names that origin.
        session: The caller's own session, used as it is, in place of ours.
        clock: Time.

    Raises:
        ConfigurationError: A header that HTTP does not allow, or a timeout that is not positive.
    """

    def __init__(
        self,
        *,
        authenticate: Callable[[], Mapping[str, str]] = dict,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = 30.0,
        connect_timeout: float | None = 5.0,
        retry: RetryPolicy | None = None,
        retried_statuses: frozenset[int] = RETRIED_STATUSES,
        retry_server_errors: bool = True,
        follow_elsewhere: bool = True,
        session: requests.Session | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_seconds("timeout", timeout)
        check_seconds("connect_timeout", connect_timeout)
        self._authenticate = authenticate
        self._headers = check_headers(headers or {})
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._retry = retry or RetryPolicy()
        self._is_passing = partial(
            is_passing, statuses=retried_statuses, server_errors=retry_server_errors
        )
        self._follow_elsewhere = follow_elsewhere
        self._given_session = session
        self._clock = clock
        self._closed = Closing()
        # Both are read with one C call each: another thread may add to them meanwhile.
        self._exchanges: set[Exchange] = set()
        self._streams: WeakValueDictionary[int, HTTPStream] = WeakValueDictionary()
        self._sessions = Stack(Session)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed.is_set()

    def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | list[str]] | None = None,
        timeout: float | None = None,
        max_size: int = 64 * 1024 * 1024,
    ) -> Answer:
        """Make a request and read its whole answer.

        A POST is not made again once an answer has begun: the service has done the work, and to
        have it done twice is for the caller to decide.

        Args:
            method: The HTTP method.
            url: The address.
            body: What to send.
            headers: More headers.
            params: The query.
            timeout: Seconds for an attempt, in place of the transport's.
            max_size: The most bytes that the answer's body may have.

        Raises:
            APIStatusError: The service answered with an error.
            TransportError: It did not answer, when retries were used up.
            ProtocolError: Its answer cannot be read, or is larger than ``max_size``.
            StateError: The transport is closed.
        """

        def begin() -> HTTPStream:
            return self._open(method, url, body, headers, params, timeout)

        if method == "POST":
            return self._with_retries(begin).read_all(max_size)
        return self._with_retries(lambda: begin().read_all(max_size))

    def stream(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | list[str]] | None = None,
        timeout: float | None = None,
        retry: bool = True,
        exchange: Exchange | None = None,
    ) -> "HTTPStream":
        """Make a request and give its answer when the headers are in.

        Args:
            method: The HTTP method.
            url: The address.
            body: What to send.
            headers: More headers.
            params: The query.
            timeout: Seconds until the headers are in, in place of the transport's.
            retry: Whether a failed attempt is made again.
            exchange: What to make the only attempt with, so that the caller can abort it.

        Raises:
            APIStatusError: The service answered with an error.
            TransportError: It did not answer, when retries were used up.
            ProtocolError: What it answered is not HTTP.
            StateError: The transport is closed.
        """

        def begin() -> HTTPStream:
            return self._open(method, url, body, headers, params, timeout, exchange)

        return self._with_retries(begin) if retry else begin()

    def wait(self, seconds: float) -> None:
        """Wait, as before a retry. :meth:`close` ends it.

        Raises:
            StateError: The transport is closed.
        """
        if self._clock.wait(self._closed, seconds):
            raise StateError("the client was closed")

    def close(self) -> None:
        """End everything that is under way, in whatever thread. Safe to call from any thread."""
        self._closed.set()
        for stream in self._streams.valuerefs():
            if (alive := stream()) is not None:
                alive.close()
        for exchange in tuple(self._exchanges):
            exchange.abort()
        self._sessions.close()

    def _with_retries(self, attempt: Callable[[], _T]) -> _T:
        retries = Retries(self._retry, self._clock.monotonic())
        while True:
            try:
                return attempt()
            except (TransportError, APIStatusError) as exc:
                if not self._is_passing(exc):
                    raise
                asked = getattr(exc, "retry_after", None)
                delay = retries.next_delay(self._clock.monotonic(), asked)
                if delay is None:
                    raise
                log.info("retry %d in %.3g s: %s", retries.attempts, delay, exc)
            self.wait(delay)

    def _open(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        params: Mapping[str, str | list[str]] | None,
        timeout: float | None,
        exchange: Exchange | None = None,
    ) -> "HTTPStream":
        """One attempt: the answer's headers, after redirects."""
        exchange = exchange or Exchange(None)
        exchange.extend(self._timeout if timeout is None else timeout)
        sent = CaseInsensitiveDict(check_headers(self._authenticate()))
        sent.update(self._headers)
        sent.update(check_headers(headers or {}))
        request = requests.Request(method, url, headers=sent, data=body, params=params)
        if "Authorization" in sent:
            request.auth = _leave_headers
        stream = self._follow(request, exchange)
        if self.closed:
            stream.close()
            raise StateError("the client was closed")
        if 200 <= stream.status < 300:
            return stream
        error_body = stream.read_beginning(_MAX_ERROR_BODY, _ERROR_BODY_SECONDS)
        now = self._clock.time()
        raise status_error(stream.status, stream.headers, error_body, stream.hide, now)

    @contextmanager
    def _session(self) -> Iterator[requests.Session]:
        if self._given_session is not None:
            yield self._given_session
            return
        with self._sessions.one() as session:
            yield session

    def _follow(self, request: requests.Request, exchange: Exchange) -> "HTTPStream":
        """Send a request, and again to where it is redirected; credentials stay at home."""
        home, hide, stream = None, Hide(), None
        self._exchanges.add(exchange)
        try:
            for _ in range(_MAX_REDIRECTS):
                with self._session() as session:
                    prepared = _prepare(session, request, home)
                    where = origin(str(prepared.url))
                    home = home or where
                    if stream is not None and where != home and not self._follow_elsewhere:
                        raise self._not_followed(stream, where)
                    hide.learn(prepared.headers)
                    hide.learn_query(prepared.url)
                    stream = self._send(session, prepared, exchange, hide)
                target = _redirect_target(prepared, stream)
                if target is None:
                    self._streams[id(stream)] = stream
                    return stream
                stream.leave()
                log.debug("redirected to %s", origin(target))
                request.url = target
                request.params = dict.fromkeys(session.params)  # type: ignore[arg-type]  # none
        finally:
            self._exchanges.discard(exchange)
        raise ProtocolError(f"more than {_MAX_REDIRECTS} redirects from {home}")

    def _not_followed(self, stream: "HTTPStream", where: str) -> APIStatusError:
        """The error for a redirect to another origin; of where it leads it tells no more."""
        headers = {**stream.headers, "location": where}
        return status_error(stream.status, headers, b"", stream.hide, self._clock.time())

    def _send(
        self,
        session: requests.Session,
        prepared: requests.PreparedRequest,
        exchange: Exchange,
        hide: Hide,
    ) -> "HTTPStream":
        where = origin(str(prepared.url))
        if self.closed:
            raise StateError("the client is closed")
        try:
            remaining = exchange.remaining()
            settings = session.merge_environment_settings(prepared.url, {}, True, None, None)
            connect = min((s for s in (self._connect_timeout, remaining) if s), default=None)
            with exchange.current():
                response = session.send(
                    prepared, allow_redirects=False, timeout=(connect, remaining), **settings
                )
        except FOREIGN as exc:
            if self.closed:
                raise StateError("the client was closed") from exc
            raise translate(exc, where, hide) from exc
        return HTTPStream(response, exchange, where, hide)


def _prepare(
    session: requests.Session, request: requests.Request, home: str | None
) -> requests.PreparedRequest:
    """A request as it is sent: away from home, without what may be a credential.

    What counts is the URL that requests has made of the one given: libraries do not agree on what
    is the host in a strange one.
    """
    try:
        prepared = session.prepare_request(request)
        if home not in (None, origin(str(prepared.url))):
            request.auth = _leave_headers  # what a session has may answer to challenges, too
            prepared = session.prepare_request(request)
            for name in [n for n in prepared.headers if n.lower() not in _HARMLESS_HEADERS]:
                del prepared.headers[name]
    except FOREIGN as exc:
        raise translate(exc, origin(request.url), Hide()) from exc
    return prepared


def _leave_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An ``auth`` that keeps requests from putting a netrc file's in place of our own header."""
    return request


def _redirect_target(prepared: requests.PreparedRequest, stream: "HTTPStream") -> str | None:
    """Where to send a request again; ``None`` when its answer is what there is."""
    location = stream.headers.get("location")
    followed = {307, 308} | ({301, 302, 303} if prepared.method in ("GET", "HEAD") else set())
    if location is None or stream.status not in followed:
        return None
    url = str(prepared.url)
    try:
        target = urljoin(url, location.encode("latin-1").decode("utf-8", "replace"))
        parts = urlsplit(target)
    except ValueError:
        return None
    allowed = ("https",) if url.startswith("https:") else ("http", "https")
    return target if parts.hostname and parts.scheme in allowed else None


class HTTPStream:
    """An answer whose body is still to be read. One thread at a time reads; any may close.

    Attributes:
        status: The HTTP status.
        headers: The headers, names in lower case.
        hide: Hides what no error may tell.
    """

    def __init__(
        self, response: requests.Response, exchange: Exchange, where: str, hide: Hide
    ) -> None:
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.hide = hide
        self._response = response
        self._exchange = exchange
        self._where = where
        self._reading = threading.Lock()
        self._closed = False
        self._ended = False
        self._uncoded = uncoded_body(response.raw)
        exchange.attach_answer(response.raw)

    def __enter__(self) -> "HTTPStream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @classmethod
    def over(cls, response: requests.Response) -> "HTTPStream":
        """The body of a response that somebody else has asked for, with its own timeout."""
        return cls(response, Exchange(None), origin(response.url), Hide())

    def __iter__(self) -> Iterator[bytes]:
        seconds = self._exchange.receive_timeout
        self.allow(seconds)
        while data := self.read():
            yield data
            self.allow(seconds)

    def allow(self, seconds: float | None) -> None:
        """Have the reads from now on end so many seconds from now; ``None`` is no limit."""
        self._exchange.extend(seconds)

    def read(self) -> bytes:
        """Wait for the next bytes; none at the end, and when the stream was closed.

        Raises:
            RequestTimeoutError: None came in time.
            ConnectionLostError: The body was cut off.
            ProtocolError: Its content coding is broken.
        """
        with self._reading:
            try:
                data = self._receive()
            except FOREIGN as exc:
                self._end()
                if self._closed:
                    return b""
                raise translate(exc, self._where, self.hide) from exc
            except BaseException:  # the user's Ctrl-C, above all
                self._end()
                raise
            if self._closed or not data:
                self._end()
                return b""
        if self._exchange.aborted:  # just now, by a thread that has left the rest to this one
            self.close()
            return b""
        return data

    def _receive(self) -> bytes:
        raw = self._response.raw
        while not self._ended:
            self._exchange.arm()
            data: bytes
            if self._uncoded is None:
                data = raw.read1(_READ_SIZE, decode_content=True)
            else:
                data = read_uncoded(raw, self._uncoded, _READ_SIZE)
            whole = is_fp_closed(raw._fp)
            if whole:  # its connection may serve another request by now
                self._exchange.attach(None)
            if data or whole:  # with urllib3-future none can mean: not yet
                return data
        return b""

    def _end(self) -> None:
        self._ended = True
        if not is_fp_closed(self._response.raw._fp):  # else its connection is in other hands
            self._exchange.hang_up()
        self._response.close()

    def read_all(self, max_size: int) -> Answer:
        """Read the body to its end.

        Raises:
            TransportError: It did not come whole, or not in time.
            ProtocolError: It is larger than ``max_size`` bytes, or broken.
            StateError: The stream was closed meanwhile.
        """
        with self:
            parts, size = [], 0
            while data := self.read():
                size += len(data)
                if size > max_size:
                    raise ProtocolError(f"answer is larger than {max_size} bytes")
                parts.append(data)
            if self._closed:
                raise StateError("the client was closed")
            body = b"".join(parts)
            return Answer(status=self.status, headers=self.headers, body=body, hide=self.hide)

    def read_beginning(self, size: int, seconds: float) -> bytes:
        """Read what comes of the body in so many bytes and seconds, and close."""
        self.allow(seconds)
        content = b""
        with self, suppress(TransportError, ProtocolError):
            while len(content) < size and (data := self.read()):
                content += data
        return content[:size]

    def leave(self) -> None:
        """Close what nobody reads, and let its exchange go on with another request."""
        self._end()

    def read_rest(self, seconds: float) -> None:
        """Give the body a chance to end, so that its connection can be used again; then close."""
        self.read_beginning(_MAX_REST, seconds)

    def close(self) -> None:
        """Stop, and wake whoever reads. Safe to call from any thread, and more than once."""
        self._closed = True
        if self._ended:
            return  # its connection may serve another request by now
        self._exchange.abort()
        if self._reading.acquire(blocking=False):  # else the thread that reads sees to the rest
            try:
                self._end()
            finally:
                self._reading.release()
