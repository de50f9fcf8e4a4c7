"""One call of a model: asked over HTTP, answered whole or in a stream, ended by whoever cancels."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from reasoning_sdk._core.chat import ChatBody, ResponsesBody, TurnListener
from reasoning_sdk._core.responses import ResponseState
from reasoning_sdk._core.sse import SSEDecoder
from reasoning_sdk._io.clock import SYSTEM_CLOCK, Clock
from reasoning_sdk._io.exchange import Exchange
from reasoning_sdk._io.http import (
    Answer,
    HTTPStream,
    HTTPTransport,
    check_event_stream,
    is_passing,
)
from reasoning_sdk._io.translate import Hide
from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.encoding import encode_json, json_parser, whole_characters
from reasoning_sdk.errors import (
    APIStatusError,
    IdleTimeoutError,
    LoopCanceledError,
    ProtocolError,
    ReasoningError,
    RequestTimeoutError,
    ResponseFailedError,
    StreamInterruptedError,
    TransportError,
)
from reasoning_sdk.events import ResponseEvent, ServerSentEvent
from reasoning_sdk.retry import Retries, RetryPolicy

__all__ = ["APIS", "ModelCaller"]

log = logging.getLogger("reasoning_sdk.loop")

APIS = {"chat_completions": "/chat/completions", "responses": "/responses"}
"""What an upstream can speak, and where it is then asked."""

_RETRIED_STATUSES = frozenset({408, 409, 429})
_MAX_SIZE = 64 * 1024 * 1024
_REST_SECONDS = 0.05
_HALVES = (b"\\ud", b"\\uD", b"\xed")  # what half of a character begins with, and others, too
_UNDER_WAY = ("queued", "in_progress")
_Body: TypeAlias = ChatBody | ResponsesBody


class ModelCaller:
    """Asks one upstream. Safe to use from any thread.

    Args:
        transport: The way there.
        url: Where the upstream is, up to ``/v1``.
        api: What it speaks, a key of :data:`APIS`.
        timeout: Seconds until a whole answer is in, or a streamed one begins, and between the
            events of a streamed one; ``None`` is no limit.
        retry: When to ask again what failed before an answer had begun.
        clock: Time.
    """

    def __init__(
        self,
        transport: HTTPTransport,
        url: str,
        api: str,
        *,
        timeout: float | None,
        retry: RetryPolicy,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._transport = transport
        self._url = url + APIS[api]
        self._make_body: Callable[[str, TurnListener | None], _Body]
        self._make_body = ChatBody if api == "chat_completions" else ResponsesBody
        self._is_over_then = api == "responses"  # of a chat completion the usage comes last
        self._timeout = timeout
        self._retry = retry
        self._clock = clock

    def call(
        self,
        payload: Mapping[str, Any],
        *,
        step_id: str,
        idempotency_key: str,
        cancellation: Cancellation,
        listener: TurnListener | None = None,
    ) -> dict[str, Any]:
        """Ask, and wait for the answer.

        Args:
            payload: The body to send; its ``stream`` says whether the answer is streamed.
            step_id: The step that asks.
            idempotency_key: The same on every try.
            cancellation: Ends the call, also in the middle of a read.
            listener: Is told of what comes of a streamed answer.

        Returns:
            The body of the answer, verbatim; of a streamed one, as the unstreamed call would have
            given it.

        Raises:
            APIStatusError: The upstream refused; 408, 409, 429 and 5xx after retries.
            TransportError: It did not answer, after retries, or its answer was cut off.
            ResponseFailedError: It says that the model failed.
            ProtocolError: Its answer cannot be read.
            InvalidEventError: The payload cannot be JSON.
            LoopCanceledError: The call was canceled.
        """
        try:
            stream = self._ask(payload, idempotency_key, cancellation)
            with stream, cancellation.calling(stream.close):
                return self._read(stream, bool(payload.get("stream")), step_id, listener)
        except ReasoningError as exc:
            if cancellation.canceled and not isinstance(exc, LoopCanceledError):
                raise LoopCanceledError("the response was canceled") from exc
            raise
        except RecursionError as exc:
            raise ProtocolError("answer of the model is nested too deeply") from exc

    def _ask(self, payload: Mapping[str, Any], key: str, cancellation: Cancellation) -> HTTPStream:
        """The answer, begun."""
        body = encode_json(payload)
        accept = "text/event-stream" if payload.get("stream") else "application/json"
        headers = {"Accept": accept, "Content-Type": "application/json", "Idempotency-Key": key}
        retries = Retries(self._retry, self._clock.monotonic())
        while True:
            exchange = Exchange(None)
            try:
                with cancellation.calling(exchange.abort):
                    return self._transport.stream(
                        "POST",
                        self._url,
                        body=body,
                        headers=headers,
                        timeout=self._timeout,
                        retry=False,
                        exchange=exchange,
                    )
            except (TransportError, APIStatusError) as exc:
                if cancellation.canceled or not is_passing(exc, _RETRIED_STATUSES):
                    raise
                asked = exc.retry_after if isinstance(exc, APIStatusError) else None
                delay = retries.next_delay(self._clock.monotonic(), asked)
                if delay is None:
                    raise
                log.info("model call: retry %d in %.3g s: %s", retries.attempts, delay, exc)
            if cancellation.wait(delay):
                raise LoopCanceledError("the response was canceled")

    def _read(
        self, stream: HTTPStream, streamed: bool, step_id: str, listener: TurnListener | None
    ) -> dict[str, Any]:
        kind = stream.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not streamed or kind == "application/json":  # some servers do not stream what they could
            return _whole(stream.read_all(_MAX_SIZE))
        check_event_stream(stream)
        body = self._make_body(step_id, listener)
        try:
            self._feed(stream, body)
        except TransportError as exc:
            if not body.finished:  # else nothing of what the model said is missing
                raise self._interrupted(exc) from exc
        if body.error is not None:
            raise _failure(body.error, stream.hide)
        if not body.finished:
            raise self._interrupted(None)
        stream.read_rest(_REST_SECONDS)
        return body.body

    def _interrupted(self, cause: TransportError | None) -> TransportError:
        if isinstance(cause, RequestTimeoutError):
            return IdleTimeoutError(f"no event for {self._timeout:g} seconds")
        said = "" if cause is None else f": {cause}"
        return StreamInterruptedError(f"stream of the model closed before its end{said}")

    def _feed(self, stream: HTTPStream, body: _Body) -> None:
        """Read until the model has finished."""
        decoder, loads, left = SSEDecoder(), json_parser(), _MAX_SIZE
        stream.allow(self._timeout)
        while data := stream.read():
            left -= len(data)
            if left < 0:
                raise ProtocolError(f"answer is larger than {_MAX_SIZE} bytes")
            events = decoder.feed(data)
            for event in events:
                if event.data == "[DONE]":
                    if isinstance(body, ChatBody):  # of a response only its last event is the end
                        body.end()
                    return
                self._take(event, body, loads)
                if body.error is not None or (body.finished and self._is_over_then):
                    return
            if events:
                stream.allow(self._timeout)
        decoder.feed(b"")

    def _take(
        self, event: ServerSentEvent, body: _Body, loads: Callable[[str | bytes], Any]
    ) -> None:
        try:
            data = loads(event.data)
        except ValueError as exc:
            size = len(event.data)
            if not self._is_over_then and event.data.startswith("{"):  # nothing says it again
                raise ProtocolError(f"a chunk of the answer, {size} characters, is broken") from exc
            log.warning("skipped data of the model, %d characters, that is not JSON", size)
            return
        halved = "\\ud" in event.data or "\\uD" in event.data
        body.feed(data, event.event, halved=halved)


def _whole(answer: Answer) -> dict[str, Any]:
    """The body of an answer that is no stream, if it does not tell of a failure."""
    body = answer.json()
    if not isinstance(body, dict):
        raise ProtocolError(f"answer of the model is not an object but {type(body).__name__}")
    if any(half in answer.body for half in _HALVES):
        body = whole_characters(body)
    if body.get("error"):
        raise _failure(body["error"], answer.hide)
    if body.get("object") == "response" or "output" in body:
        _check_ended(body, answer.hide)
    is_answer = "choices" in body or "output" in body
    whole: dict[str, Any] = body if is_answer else answer.hide(body)  # an error may show that
    return whole


def _check_ended(response: dict[str, Any], hide: Hide) -> None:
    """Let a response pass that has come to an end, and not failed."""
    if response.get("status") in _UNDER_WAY:
        raise ResponseFailedError(f"response is not finished: it is {response['status']}")
    state = ResponseState()
    state.apply(ResponseEvent(type="response.completed", data={"response": response}))
    if isinstance(state.error, ResponseFailedError):
        raise _failure(state.error, hide)


def _failure(error: Any, hide: Hide) -> ReasoningError:
    """What a model's failure is told with, wherever it stands."""
    failure = error if isinstance(error, ReasoningError) else _failure_told(error)
    hide.inside(failure)
    return failure


def _failure_told(error: Any) -> ReasoningError:
    state = ResponseState()
    state.apply(ResponseEvent(type="error", data={"error": error}))
    assert state.error is not None
    return state.error
