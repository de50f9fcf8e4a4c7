"""Endpoints over HTTP as tools."""

import logging
import re
import time
import types
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs
import requests

from reasoning_sdk._io.exchange import Exchange
from reasoning_sdk._io.http import Answer, HTTPTransport, check_headers, check_url, is_passing
from reasoning_sdk._version import __version__
from reasoning_sdk.arguments import check_count, check_kind, check_seconds
from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.encoding import encode_json, parse_json
from reasoning_sdk.errors import (
    APIStatusError,
    InvalidEventError,
    LoopCanceledError,
    ReasoningError,
    RequestTimeoutError,
    StateError,
    ToolArgumentsError,
    ToolError,
    ToolExecutionError,
    ToolTimeoutError,
    TransportError,
)
from reasoning_sdk.retry import Retries, RetryPolicy
from reasoning_sdk.steps import RequestContext, ToolSchema
from reasoning_sdk.tools.registry import Registry
from reasoning_sdk.typing import JSON

__all__ = ["HTTPTools"]

log = logging.getLogger("reasoning_sdk.loop")

_Key = str | Callable[[], str] | None

_MAX_SIZE = 4 * 1024 * 1024
_ONCE = RetryPolicy(max_attempts=0)
_THRICE = RetryPolicy(max_attempts=2)


class HTTPTools:
    """Endpoints over HTTP as tools. Safe to use from any thread.

    A call is a POST of its arguments, as JSON, to the URL that was registered. A redirect is
    followed (307 and 308) as long as it leads to the same origin: neither key nor arguments go
    elsewhere. Nothing that the model writes gets into the URL or the headers. The
    ``Idempotency-Key`` is the id of the step that calls, the same when it is taken again after a
    crash; where there is no step, each call has a key of its own.

    Args:
        api_key: The bearer token, or a callable that gives it for each attempt. It goes to every
            tool that has none of its own.
        timeout: Seconds for an attempt; ``None`` is no limit.
        max_size: The most bytes that an answer may have.
        headers: Headers of every request.
        session: A :class:`requests.Session` to use, with its proxies and adapters. With one a
            canceled call may go on until the answer begins.

    Raises:
        ConfigurationError: An argument cannot work.

    Example:
        >>> tools = HTTPTools(api_key="secret")
        >>> tools.register("weather", "https://tools.example/weather")
        >>> tools
        <HTTPTools weather>
        >>> tools.close()
    """

    def __init__(
        self,
        *,
        api_key: str | Callable[[], str] | None = None,
        timeout: float | None = 30.0,
        max_size: int = _MAX_SIZE,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
    ) -> None:
        check_kind("session", session, (requests.Session, type(None)), "a requests.Session")
        check_kind("headers", headers, (Mapping, type(None)), "a mapping")
        check_count("max_size", max_size)
        self._api_key = _checked_key(api_key)
        self._max_size = max_size
        self._registry: Registry[_Endpoint] = Registry()
        self._closing = Cancellation()
        common = {"Accept": "application/json", "User-Agent": f"reasoning-sdk/{__version__}"}
        self._transport = HTTPTransport(
            headers={**common, **check_headers(headers or {})},
            timeout=timeout,
            session=session,
            follow_elsewhere=False,
        )

    def __repr__(self) -> str:
        return f"<HTTPTools {self._registry}>"

    def __enter__(self) -> "HTTPTools":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all calls, in whatever thread."""
        self._transport.close()
        self._closing.cancel()

    def register(
        self,
        name: str,
        url: str,
        *,
        description: str = "",
        parameters: Mapping[str, Any] | None = None,
        api_key: str | Callable[[], str] | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
        strict: bool = False,
    ) -> None:
        """Make an endpoint a tool.

        Args:
            name: The tool's name.
            url: Where its arguments are posted to; it may have a query.
            description: What it does.
            parameters: The JSON schema of its arguments; they are not checked here.
            api_key: Its own bearer token, or a callable that gives it; ``""`` sends none.
            timeout: Seconds for an attempt, in place of those for all.
            idempotent: Whether it may be called again when nobody knows whether it was called.
                Then transport errors, 429 and 5xx are retried twice.
            strict: Whether the model has to keep to the schema.

        Raises:
            ConfigurationError: There is a tool of this name, or an argument cannot work.
        """
        check_seconds("timeout", timeout)
        url = check_url("url", url, with_query=True)
        key = self._api_key if api_key is None else _checked_key(api_key)
        schema = ToolSchema(name, description, strict=strict, idempotent=idempotent)
        if parameters is not None:
            schema = attrs.evolve(schema, parameters=parameters)
        self._registry.add(
            schema, _Endpoint(name, url, key, timeout, _THRICE if idempotent else _ONCE)
        )

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        """All of them."""
        return self._registry.schemas()

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> JSON:
        """Call an endpoint.

        Returns:
            The JSON of its answer; ``None`` if that is empty, ``{"result": text}`` if it is no
            JSON.

        Raises:
            ToolNotFoundError: There is none of this name.
            ToolArgumentsError: The arguments cannot be written as JSON.
            ToolTimeoutError: It did not answer in time.
            ToolExecutionError: It could not be asked, answered with an error, with a redirect to
                another origin, or with too much.
            LoopCanceledError: The response was canceled.
        """
        endpoint = self._registry.find(name)
        try:
            body = encode_json(arguments)
        except InvalidEventError as exc:
            raise ToolArgumentsError(str(exc)) from exc
        call, stop = ctx.step_id or uuid.uuid4().hex, Cancellation()
        with ctx.cancellation.calling(stop.cancel), self._closing.calling(stop.cancel):
            try:
                return _content(self._post(endpoint, call, body, stop))
            except ToolError:
                raise
            except ReasoningError as exc:
                if ctx.cancellation.canceled:
                    canceled = f"the call of tool {name!r} was canceled"
                    raise LoopCanceledError(canceled) from exc
                timed_out = isinstance(exc, RequestTimeoutError)
                kind = ToolTimeoutError if timed_out else ToolExecutionError
                raise kind(f"tool {name!r} failed: {exc}") from exc

    def _post(self, endpoint: "_Endpoint", call: str, body: bytes, stop: Cancellation) -> Answer:
        retries = Retries(endpoint.retry, time.monotonic())
        while True:
            try:
                return self._attempt(endpoint, call, body, stop)
            except (TransportError, APIStatusError) as exc:
                if stop.canceled or not is_passing(exc, frozenset({429})):
                    raise
                asked = getattr(exc, "retry_after", None)
                delay = retries.next_delay(time.monotonic(), asked)
                if delay is None:
                    raise
                log.info("retry %d in %.3g s: %s", retries.attempts, delay, exc)
            stop.wait(delay)

    def _attempt(self, endpoint: "_Endpoint", call: str, body: bytes, stop: Cancellation) -> Answer:
        if stop.canceled:
            raise StateError("the call was canceled")
        exchange = Exchange(None)
        with (
            stop.calling(exchange.abort),
            self._transport.stream(
                "POST",
                endpoint.url,
                body=body,
                headers=endpoint.headers(call),
                timeout=endpoint.timeout,
                retry=False,
                exchange=exchange,
            ) as stream,
        ):
            return stream.read_all(self._max_size)


@attrs.frozen
class _Endpoint:
    name: str
    url: str = attrs.field(repr=False)
    api_key: _Key = attrs.field(repr=False)
    timeout: float | None
    retry: RetryPolicy

    def headers(self, call: str) -> dict[str, str]:
        """Those of one call, the same on every try."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": call}
        key = self._key()
        return {**headers, "Authorization": f"Bearer {key}"} if key else headers

    def _key(self) -> str | None:
        if not callable(self.api_key):
            return self.api_key
        try:
            key = self.api_key()
        except Exception as exc:  # whose text may tell secrets
            failed = f"api_key of tool {self.name!r} has raised a {type(exc).__name__}"
            raise ToolExecutionError(failed) from exc
        check_kind("what api_key gives", key, (str, type(None)), "a str")
        return key


def _checked_key(key: _Key) -> _Key:
    if callable(key):
        return key
    check_kind("api_key", key, (str, type(None)), "a str or a callable that gives one")
    check_headers({"Authorization": f"Bearer {key}"} if key else {})
    return key


def _content(answer: Answer) -> JSON:
    """What an endpoint has answered: JSON, else text."""
    if not answer.body:
        return None
    try:
        content = parse_json(answer.body)
        encode_json(content)  # which refuses the NaN that the parser takes
    except (ValueError, InvalidEventError):
        return {"result": _text(answer)}
    return content


def _text(answer: Answer) -> str:
    found = re.search(r"charset=\"?([\w.:-]+)", answer.headers.get("content-type", ""))
    with suppress(LookupError, ValueError):
        return answer.body.decode(found[1] if found else "utf-8")
    return answer.body.decode("utf-8", "replace")
