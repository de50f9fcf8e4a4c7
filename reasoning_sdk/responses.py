"""The Responses API: requests, and responses streamed through a blocking iterator."""

import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import quote
from weakref import WeakValueDictionary

import requests

from reasoning_sdk._core.display import response_html
from reasoning_sdk._core.responses import Response, ResponseState
from reasoning_sdk._core.sse import SSEDecoder
from reasoning_sdk._io.clock import SYSTEM_CLOCK, Clock
from reasoning_sdk._io.exchange import Exchange
from reasoning_sdk._io.http import (
    HTTPStream,
    HTTPTransport,
    check_event_stream,
    check_headers,
    check_url,
    is_passing,
)
from reasoning_sdk._io.reader import BlockingReader
from reasoning_sdk._io.translate import Hide
from reasoning_sdk._version import __version__
from reasoning_sdk.arguments import check_kind, check_seconds, shown
from reasoning_sdk.encoding import encode_json, json_parser
from reasoning_sdk.errors import (
    APIStatusError,
    ConcurrencyError,
    ConfigurationError,
    IdleTimeoutError,
    ProtocolError,
    ReasoningError,
    RequestTimeoutError,
    StateError,
    StreamInterruptedError,
    TransportError,
)
from reasoning_sdk.events import ResponseEvent, ServerSentEvent
from reasoning_sdk.retry import Retries, RetryPolicy

__all__ = ["Response", "ResponseStream", "ResponsesClient"]

log = logging.getLogger("reasoning_sdk.responses")

_UNSET: Any = Ellipsis
_BASE_URL = "https://api.openai.com/v1"
_IDLE_TIMEOUT = 300.0
_MAX_RETRIES = 4
_RETRIED_STATUSES = frozenset({408, 409, 429})
_REST_SECONDS = 0.05
_PAGE = 100
_MAX_DIGITS = 12
_END_OF_SEQUENCE = 2**63
_NONE = type(None)
_new_event: Callable[[type[ResponseEvent]], ResponseEvent] = ResponseEvent.__new__


class ResponsesClient:
    """A client of the Responses API. Safe to use from any thread.

    Args:
        model: The model of requests that name none.
        base_url: Where the API is, up to ``/v1``. Else the environment's ``OPENAI_BASE_URL`` or
            ``OPENAI_API_BASE``, else OpenAI's.
        api_key: The key, or a callable that gives it for each attempt. Else the environment's
            ``OPENAI_API_KEY``. ``""`` sends none.
        timeout: Seconds until a stream begins, or until any other answer is complete.
        connect_timeout: Seconds of these for the connection.
        idle_timeout: Seconds that an open stream may go without an event; ``None`` is no limit.
            Else the environment's ``OPENAI_STREAM_IDLE_TIMEOUT_MS`` (milliseconds), else 300.
        retry: When to try again what failed before a stream had begun: transport errors, 408, 409,
            429 and 5xx. Else four times, or as often as ``OPENAI_REQUEST_MAX_RETRIES`` says.
        headers: Headers of every request.
        session: A :class:`requests.Session` to use, with its proxies, adapters and cookies.
        fixture: A file that :meth:`stream` replays in place of asking a server: one SSE field line
            a line. Else the environment's ``REASONING_SDK_SSE_FIXTURE``.

    Raises:
        ConfigurationError: An argument or variable cannot work, or there is no key.

    Example:
        >>> with ResponsesClient("gpt-5") as client:              # doctest: +SKIP
        ...     for text in client.stream("Why is the sky blue?").text_deltas():
        ...         print(text, end="", flush=True)
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        api_key: str | Callable[[], str] | None = None,
        timeout: float | None = 600.0,
        connect_timeout: float | None = 5.0,
        idle_timeout: float | None = _UNSET,
        retry: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
        fixture: str | os.PathLike[str] | None = None,
    ) -> None:
        if not callable(api_key):
            check_kind("api_key", api_key, (str, _NONE), "a str or a callable that gives one")
        check_kind("retry", retry, (RetryPolicy, _NONE), "a RetryPolicy")
        check_kind("headers", headers, (Mapping, _NONE), "a mapping")
        check_kind("session", session, (requests.Session, _NONE), "a requests.Session")
        check_kind("fixture", fixture, (str, os.PathLike, _NONE), "a path")
        self.model = model
        given = check_url("base_url", base_url) if base_url else None
        self.base_url = given or _base_url_of_environment()
        self._fixture = fixture or os.environ.get("REASONING_SDK_SSE_FIXTURE") or None
        self._api_key = (os.environ.get("OPENAI_API_KEY") or None) if api_key is None else api_key
        if idle_timeout is _UNSET:
            idle_timeout = _idle_timeout_of_environment()
        check_seconds("idle_timeout", idle_timeout)
        self._idle_timeout = idle_timeout
        self._retry = retry or RetryPolicy(max_attempts=_max_retries_of_environment())
        headers = check_headers(headers or {})
        keyless = self._fixture or session or "authorization" in {name.lower() for name in headers}
        if self._api_key is None and not keyless:
            raise ConfigurationError(
                "no API key: give api_key (or api_key='' for a server that wants none), "
                "or set OPENAI_API_KEY"
            )
        self._streams: WeakValueDictionary[int, ResponseStream] = WeakValueDictionary()
        self._transport = HTTPTransport(
            authenticate=self._authentication,
            headers={"User-Agent": f"reasoning-sdk/{__version__}", **headers},
            timeout=timeout,
            connect_timeout=connect_timeout,
            retry=self._retry,
            retried_statuses=_RETRIED_STATUSES,
            session=session,
        )
        if not callable(self._api_key):
            check_headers(self._authentication())

    def __repr__(self) -> str:
        state = "CLOSED" if self._transport.closed else "OPEN"
        source = f"fixture={os.fspath(self._fixture)!r}" if self._fixture else self.base_url
        return f"<ResponsesClient {state} {source} model={self.model!r}>"

    def __enter__(self) -> "ResponsesClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all requests and streams, in whatever thread. Safe to call from any thread."""
        for stream in self._streams.valuerefs():
            if (alive := stream()) is not None:
                alive.close()
        self._transport.close()

    def stream(
        self,
        input: str | Sequence[Mapping[str, Any]] | None,
        *,
        model: str | None = None,
        instructions: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        previous_response_id: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        request_timeout: float | None = None,
        **params: Any,
    ) -> "ResponseStream":
        """Ask for a response and stream it. Returns when the stream has begun.

        Nothing is sent that is not asked for here; what is ``None`` is left out.

        Args:
            input: A text, or a list of input items.
            model: The model, in place of the client's.
            instructions: The system's message.
            tools: Tool definitions.
            previous_response_id: The response that this one goes on from.
            extra_headers: More headers.
            request_timeout: Seconds until the stream begins, in place of the client's ``timeout``.
            **params: More fields of the request's body.

        Raises:
            APIStatusError: The service refused; 408, 409, 429 and 5xx after retries.
            TransportError: The service did not answer, after retries.
            ProtocolError: The answer is no event stream.
            InvalidEventError: The request cannot be written as JSON.
            StateError: The client is closed.

        Source: ``POST /responses`` of the Responses API.
        """
        body = self._body(
            stream=True,
            input=input,
            model=model,
            instructions=instructions,
            tools=tools,
            previous_response_id=previous_response_id,
            params=params,
        )
        check_seconds("request_timeout", request_timeout)
        content = encode_json(body)
        if self._fixture is not None:
            self._check_open()
            return self._start(_Fixture(self._fixture), resumable=False)
        answer = self._transport.stream(
            "POST",
            f"{self.base_url}/responses",
            body=content,
            headers=_creating("text/event-stream", extra_headers),
            timeout=request_timeout,
        )
        check_event_stream(answer)
        return self._start(answer, resumable=bool(params.get("background")))

    def create(
        self,
        input: str | Sequence[Mapping[str, Any]] | None,
        *,
        model: str | None = None,
        instructions: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        previous_response_id: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        request_timeout: float | None = None,
        **params: Any,
    ) -> Response:
        """Ask for a response and wait for it. Arguments as in :meth:`stream`.

        Returns:
            The response, whatever its ``status``: a failed one is returned, not raised.

        Raises:
            APIStatusError: The service refused; 408, 409, 429 and 5xx after retries.
            TransportError: The service did not answer, after retries.
            ProtocolError: The answer is no response.
            InvalidEventError: The request cannot be written as JSON.
            StateError: The client is closed.

        Source: ``POST /responses`` of the Responses API.
        """
        body = self._body(
            stream=None,
            input=input,
            model=model,
            instructions=instructions,
            tools=tools,
            previous_response_id=previous_response_id,
            params=params,
        )
        check_seconds("request_timeout", request_timeout)
        content = encode_json(body)
        if self._fixture is not None:
            self._check_open()
            return self._start(_Fixture(self._fixture), resumable=False).until_done()
        return self._ask(
            "POST",
            "",
            body=content,
            headers=_creating("application/json", extra_headers),
            timeout=request_timeout,
        )

    def retrieve(self, response_id: str) -> Response:
        """A stored response as it is now.

        Raises:
            NotFoundError: There is no such response.
            ReasoningError: As for :meth:`create`.

        Source: ``GET /responses/{id}`` of the Responses API.
        """
        return self._ask("GET", _path(response_id))

    def cancel(self, response_id: str) -> Response:
        """Cancel a background response.

        Raises:
            NotFoundError: There is no such response.
            ReasoningError: As for :meth:`create`.

        Source: ``POST /responses/{id}/cancel`` of the Responses API.
        """
        return self._ask("POST", _path(response_id) + "/cancel")

    def delete(self, response_id: str) -> None:
        """Delete a stored response.

        Raises:
            NotFoundError: There is no such response.
            ReasoningError: As for :meth:`create`.

        Source: ``DELETE /responses/{id}`` of the Responses API.
        """
        self._transport.request("DELETE", f"{self.base_url}/responses{_path(response_id)}")

    def input_items(self, response_id: str) -> Iterator[dict[str, Any]]:
        """The input items of a stored response, from all pages. One thread at a time.

        Yields:
            Items, JSON objects with a ``type``, in the order that the service gives.

        Raises:
            NotFoundError: There is no such response.
            ReasoningError: As for :meth:`create`.

        Source: ``GET /responses/{id}/input_items`` of the Responses API.
        """
        url = f"{self.base_url}/responses{_path(response_id)}/input_items"
        return self._pages(url)

    def resume(self, response_id: str, *, starting_after: int | None = None) -> "ResponseStream":
        """Stream a background response that is under way, or has ended.

        Args:
            response_id: The response.
            starting_after: The sequence number after which to begin; ``None`` is the beginning.

        Raises:
            NotFoundError: There is no such response.
            ReasoningError: As for :meth:`stream`.

        Source: ``GET /responses/{id}?stream=true`` of the Responses API.
        """
        _path(response_id)
        if starting_after is not None:
            _check_sequence_number("starting_after", starting_after)
        answer = self._reopen(response_id, starting_after, retry=True)
        return self._start(answer, resumable=True, state=ResponseState(response_id, starting_after))

    def _authentication(self) -> dict[str, str]:
        key = self._api_key() if callable(self._api_key) else self._api_key
        check_kind("what api_key gives", key, (str, _NONE), "a str")
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _body(
        self,
        *,
        stream: bool | None,
        input: Any,
        model: str | None,
        params: Mapping[str, Any],
        **fields: Any,
    ) -> dict[str, Any]:
        if not (input is None or isinstance(input, (str, list, tuple))):
            kind = type(input).__name__
            raise ConfigurationError(f"input must be a str or a list of items, got a {kind}")
        if "stream" in params:
            raise ConfigurationError("stream is said by the method: call stream() or create()")
        body = {"model": model or self.model, "input": input, **fields, **params, "stream": stream}
        return {name: value for name, value in body.items() if value is not None}

    def _check_open(self) -> None:
        if self._transport.closed:
            raise StateError("the client is closed")

    def _start(
        self, body: "_Body", *, resumable: bool, state: ResponseState | None = None
    ) -> "ResponseStream":
        stream = ResponseStream(
            body,
            state=state or ResponseState(),
            idle_timeout=self._idle_timeout,
            retry=self._retry,
            reopen=self._reopen if resumable else None,
        )
        self._streams[id(stream)] = stream
        if self._transport.closed:  # meanwhile
            stream.close()
        return stream

    def _reopen(
        self,
        response_id: str,
        starting_after: int | None,
        exchange: Exchange | None = None,
        *,
        retry: bool = False,
    ) -> HTTPStream:
        params = {"stream": "true"}
        if starting_after is not None:
            params["starting_after"] = str(starting_after)
        answer = self._transport.stream(
            "GET",
            f"{self.base_url}/responses{_path(response_id)}",
            headers={"Accept": "text/event-stream"},
            params=params,
            retry=retry,
            exchange=exchange,
        )
        check_event_stream(answer)
        return answer

    def _ask(self, method: str, path: str, **request: Any) -> Response:
        answer = self._transport.request(method, f"{self.base_url}/responses{path}", **request)
        data = answer.json()
        if not isinstance(data, dict):
            raise ProtocolError(f"answer is not a response but {type(data).__name__}")
        return Response(data)

    def _pages(self, url: str) -> Iterator[dict[str, Any]]:
        params, seen = {"limit": str(_PAGE)}, set()
        while True:
            page = self._transport.request("GET", url, params=params).json()
            items = page.get("data") if isinstance(page, dict) else None
            if not (isinstance(items, list) and all(isinstance(item, dict) for item in items)):
                raise ProtocolError("answer is not a list of items")
            yield from items
            if not page.get("has_more"):
                return
            last = str(page.get("last_id") or (items[-1].get("id") if items else None) or "")
            if not last or last in seen:
                raise ProtocolError("a page of items says that there are more, and not where")
            seen.add(last)
            params["after"] = last


class _Body(Protocol):
    """Where a stream's bytes come from."""

    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def hide(self) -> Hide: ...
    def allow(self, seconds: float | None) -> None: ...
    def read(self) -> bytes: ...
    def read_rest(self, seconds: float) -> None: ...
    def close(self) -> None: ...


class _Fixture:
    """A recorded stream: every line of a file, each with a blank line behind it."""

    headers: Mapping[str, str] = {}
    hide = Hide()

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._lines = iter(Path(path).read_bytes().splitlines())
        except OSError as exc:
            reason = (exc.strerror or "").lower()
            raise ConfigurationError(f"cannot read fixture {os.fspath(path)!r}: {reason}") from exc

    def allow(self, seconds: float | None) -> None:
        """Nothing takes time here."""

    def read(self) -> bytes:
        return next((line + b"\n\n" for line in self._lines if line), b"")

    def read_rest(self, seconds: float) -> None:
        self.close()

    def close(self) -> None:
        self._lines = iter(())


class ResponseStream(BlockingReader[ServerSentEvent]):
    """A response under way: an iterator over its events, and what has arrived so far.

    Made by :meth:`ResponsesClient.stream` and :meth:`ResponsesClient.resume`. Iterate it, or
    :meth:`text_deltas` or :meth:`output_items` (one thread at a time; the rest from any thread).
    Iteration ends after the event that ends the response, or quietly after :meth:`close`.

    When the response does not complete, the iterator raises, after the event that says so:

    - :class:`~reasoning_sdk.ResponseFailedError`, :class:`~reasoning_sdk.ResponseIncompleteError`:
      the service says so;
    - :class:`~reasoning_sdk.StreamInterruptedError`: the stream was cut off;
    - :class:`~reasoning_sdk.IdleTimeoutError`: no event came for ``idle_timeout`` seconds;
    - :class:`~reasoning_sdk.ProtocolError`: what came cannot be read;
    - :class:`~reasoning_sdk.ConcurrencyError`: another thread is iterating.

    Every error has what had arrived in its ``response_id``, ``items`` and ``text``.

    A background response whose connection breaks is taken up again where it broke, as often in a
    row as the client's ``retry`` says. No other stream is asked for a second time.
    """

    def __init__(
        self,
        body: _Body,
        *,
        state: ResponseState,
        idle_timeout: float | None,
        retry: RetryPolicy,
        reopen: Callable[[str, int | None, Exchange], _Body] | None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__()
        self._body = body
        self._idle_timeout = idle_timeout
        self._reopen = reopen
        self._opening: Exchange | None = None
        self._clock = clock
        self._retry = retry
        self._retries = Retries(retry, clock.monotonic())
        self._broke_at = self._skip_to = state.sequence_number
        self._unnumbered = False  # there was an event that does not say its place
        self._loads = json_parser()
        self._decoder = SSEDecoder()
        self._state = state
        self._error: ReasoningError | None = None

    def __repr__(self) -> str:
        state = self._state
        return (
            f"<ResponseStream {self._status().upper()} {state.response_id or '-'} "
            f"items={len(state.items)} characters={len(state.text)}>"
        )

    def _status(self) -> str:
        if self._error is not None and not self._state.terminal:
            return "interrupted"
        if self._closing.is_set() and not self._state.terminal:
            return "closed"
        return "failed" if self._state.terminal and self._state.error else self._state.status

    def _repr_html_(self) -> str:
        state = self._state
        return response_html(
            status=self._status(),
            response_id=state.response_id,
            model=state.model,
            items=state.items,
            open_text=state.open_text,
            usage=state.usage,
            problem=str(self._error or state.error or ""),
        )

    @property
    def response_id(self) -> str | None:
        """The response's id, once it has arrived."""
        return self._state.response_id

    @property
    def text(self) -> str:
        """The output text so far."""
        return self._state.text

    @property
    def items(self) -> list[dict[str, Any]]:
        """The output items finished so far."""
        return list(self._state.items)

    @property
    def usage(self) -> dict[str, Any] | None:
        """The tokens used, once they are known."""
        return self._state.usage

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer (of the latest, after a resumption), names in lower case."""
        return self._body.headers

    @property
    def request_id(self) -> str | None:
        """The service's id of the request, for its support."""
        return self.headers.get("x-request-id") or self.headers.get("request-id")

    def __next__(self) -> ResponseEvent:
        while True:
            for sse in self._batch:
                event = self._take(sse)
                if event is not None:
                    return event
            self._fetch()

    def output_items(self) -> Iterator[dict[str, Any]]:
        """Iterate over the output items, each when it is finished. One thread at a time.

        Yields:
            Items, JSON objects with a ``type``, those that finished before first.

        Raises:
            ReasoningError: As the iteration over the events.
        """
        given = 0
        while True:
            items = self._state.items[given:]
            given += len(items)
            yield from items
            if not items and next(self, None) is None:
                return

    def text_deltas(self) -> Iterator[str]:
        """Iterate over the output text as it arrives. One thread at a time.

        Yields:
            Pieces of text; joined, what arrives of the text from now on.

        Raises:
            ReasoningError: As the iteration over the events.
        """
        for _ in self:
            if self._state.new_text:
                yield self._state.new_text

    def until_done(self) -> Response:
        """Read the stream to its end. One thread at a time.

        Returns:
            The completed response.

        Raises:
            StateError: The stream was closed before its end.
            ReasoningError: As the iteration over the events, also when it has been raised before.
        """
        for _ in self:
            pass
        if self._error is not None:
            raise self._error
        if not self._state.terminal:
            raise self._state.with_what_arrived(StateError("the stream was closed before its end"))
        return self._state.response

    def _take(self, sse: ServerSentEvent) -> ResponseEvent | None:
        """The event in a server-sent event, taken in; ``None`` when it is to be skipped."""
        try:
            data = self._loads(sse.data)
        except ValueError:
            data = None
        if type(data) is not dict:
            self._skip(sse)
            return None
        number = data.get("sequence_number")
        if type(number) is not int:
            number = None
            self._unnumbered = True
        elif self._skip_to is not None and number <= self._skip_to:
            return None  # it came before the connection broke
        kind = data.get("type")
        event = _new_event(ResponseEvent)  # a third of the time that __init__ takes
        event.type = kind if type(kind) is str else _kind_of_untyped(sse, data)
        event.data = data
        event.sequence_number = number
        self._state.apply(event)
        if self._state.terminal:
            self._batch = iter(())
        return event

    def _skip(self, sse: ServerSentEvent) -> None:
        if sse.data == "[DONE]":  # without an end before it, the stream was cut
            for _ in self._batch:
                pass
            self._body.close()
        elif sse.data:
            log.warning(
                "skipped an event %r whose data, %d characters, is no JSON object",
                sse.event,
                len(sse.data),
            )

    def _free(self) -> None:
        opening = self._opening
        if opening is not None:
            opening.abort()
        self._body.close()

    def _told(self, error: ReasoningError) -> ReasoningError:
        if not isinstance(error, ConcurrencyError):
            self._error = error
            self._body.hide.inside(error)
        return self._state.with_what_arrived(error)

    def _next_batch(self) -> list[ServerSentEvent]:
        if self._state.terminal:
            self._body.read_rest(_REST_SECONDS)
            if self._state.error is not None:
                raise self._state.error
            raise StopIteration
        self._decoder.feed(b"")  # raises what was wrong behind the last events
        self._body.allow(self._idle_timeout)
        while True:
            if events := self._decoder.feed(self._read()):
                return events

    def _read(self) -> bytes:
        """The next bytes; none when the stream broke and was taken up again."""
        cause = None
        try:
            if chunk := self._body.read():
                return chunk
        except TransportError as exc:
            if isinstance(exc, RequestTimeoutError) and self._idle_timeout is not None:
                raise IdleTimeoutError(f"no event for {self._idle_timeout:g} seconds") from exc
            cause = exc
        if self._closing.is_set():
            raise StopIteration
        self._decoder.feed(b"")  # an event too large is what it says it is, cut or not
        self._take_up_again(cause)
        return b""

    def _take_up_again(self, cause: ReasoningError | None) -> None:
        """Ask for what comes after the events that have come."""
        state = self._state
        if state.sequence_number != self._broke_at:
            self._broke_at = state.sequence_number
            self._retries = Retries(self._retry, self._clock.monotonic())
        while self._reopen is not None and state.response_id and not self._unnumbered:
            asked = cause.retry_after if isinstance(cause, APIStatusError) else None
            delay = self._retries.next_delay(self._clock.monotonic(), asked)
            if delay is None:
                break
            log.info("stream of %s broke, taken up again in %.3g s", state.response_id, delay)
            if self._clock.wait(self._closing, delay):
                raise StopIteration
            self._opening = Exchange(None)
            if self._closing.is_set():  # just before there was this to abort
                raise StopIteration
            try:
                self._body = self._reopen(state.response_id, state.sequence_number, self._opening)
            except (TransportError, APIStatusError) as exc:
                if not is_passing(exc, _RETRIED_STATUSES):
                    raise
                cause = exc
                continue
            finally:
                self._opening = None
            if self._closing.is_set():  # just before there was this to close
                raise StopIteration
            self._skip_to = state.sequence_number
            self._decoder = SSEDecoder()
            self._body.allow(self._idle_timeout)
            return
        said = f": {cause}" if cause is not None else ""
        raise StreamInterruptedError(f"stream closed before response.completed{said}") from cause


def _kind_of_untyped(sse: ServerSentEvent, data: Mapping[str, Any]) -> str:
    """The type of an event whose data does not say it."""
    if sse.event != "message":
        return sse.event
    return "error" if data.get("error") else ""


def _creating(accept: str, extra: Mapping[str, str] | None) -> dict[str, str]:
    return {
        "Accept": accept,
        "Content-Type": "application/json",
        "Idempotency-Key": str(uuid.uuid4()),
        **(extra or {}),
    }


def _path(response_id: Any) -> str:
    try:
        if isinstance(response_id, str) and response_id not in ("", ".", ".."):
            return "/" + quote(response_id, safe="")
    except UnicodeEncodeError:
        pass
    raise ConfigurationError(f"{shown(response_id)} cannot be the id of a response")


def _check_sequence_number(name: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value < _END_OF_SEQUENCE:
        raise ConfigurationError(f"{name} must be an int >= 0 and < 2**63, got {shown(value)}")


def _base_url_of_environment() -> str:
    url = os.environ.get("OPENAI_BASE_URL")
    if url:
        return check_url("OPENAI_BASE_URL", url)
    base = os.environ.get("OPENAI_API_BASE", "").rstrip("/")
    if not base:
        return _BASE_URL
    base = check_url("OPENAI_API_BASE", base)
    return base if base.endswith("/v1") else base + "/v1"


def _number_of_environment(name: str) -> float | None:
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal() or len(text) > _MAX_DIGITS:
        raise ConfigurationError(f"{name} must be a whole number >= 0, got {text!r}")
    return int(text)


def _idle_timeout_of_environment() -> float:
    milliseconds = _number_of_environment("OPENAI_STREAM_IDLE_TIMEOUT_MS")
    if milliseconds == 0:
        raise ConfigurationError("OPENAI_STREAM_IDLE_TIMEOUT_MS must be > 0 milliseconds, got '0'")
    return _IDLE_TIMEOUT if milliseconds is None else milliseconds / 1000


def _max_retries_of_environment() -> int:
    retries = _number_of_environment("OPENAI_REQUEST_MAX_RETRIES")
    return _MAX_RETRIES if retries is None else int(retries)
