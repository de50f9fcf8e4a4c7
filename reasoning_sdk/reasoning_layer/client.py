"""The client of the Reasoning Layer: what it is configured with, and its parts."""

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from uuid import UUID

import requests

from reasoning_sdk._io.http import check_headers, check_url
from reasoning_sdk._version import __version__
from reasoning_sdk.arguments import check_kind, shown
from reasoning_sdk.errors import ConfigurationError
from reasoning_sdk.reasoning_layer.cognitive import Cognitive
from reasoning_sdk.reasoning_layer.oversight import Oversight
from reasoning_sdk.reasoning_layer.service import EventStream, Service
from reasoning_sdk.retry import RetryPolicy

__all__ = ["ReasoningLayerClient"]

_IDLE_TIMEOUT = 300.0


class ReasoningLayerClient:
    """A client of the Reasoning Layer, for one tenant. Safe to use from any thread.

    Args:
        base_url: Where the service is, up to what comes before ``/api/v1``. Else the environment's
            ``REASONING_LAYER_URL``.
        tenant_id: The tenant, mostly a UUID. Else ``REASONING_LAYER_TENANT_ID``.
        token: The bearer token, or a callable that gives it for each attempt. Else
            ``REASONING_LAYER_TOKEN``. ``""`` sends none.
        user_id: The user on whose behalf, if the service is to know.
        namespace_id: The namespace, if it is not the tenant's default.
        timeout: Seconds for an attempt: until a stream begins, or any other answer is complete;
            5 of them for the connection. ``None`` is no limit.
        max_retries: How often to try again: transport errors and 429; no other status.
        retry_on_503: Whether to try again after 503, too.
        session: A :class:`requests.Session` to use, with its proxies, adapters and cookies. Its
            cookies go along with WebSocket handshakes, too; nothing else of it does.

    Attributes:
        base_url: Where the service is, as resolved.
        tenant_id: The tenant, as resolved.
        cognitive: Cognitive agents.
        oversight: Oversight sessions.

    Raises:
        ConfigurationError: An argument or variable cannot work, or one is missing.

    Example:
        >>> with ReasoningLayerClient() as client:                # doctest: +SKIP
        ...     with client.cognitive.agent_events(agent_id) as events:
        ...         for event in events:
        ...             print(event)
    """

    def __init__(
        self,
        base_url: str | None = None,
        tenant_id: str | UUID | None = None,
        *,
        token: str | Callable[[], str] | None = None,
        user_id: str | UUID | None = None,
        namespace_id: str | UUID | None = None,
        timeout: float | None = 30.0,
        max_retries: int = 3,
        retry_on_503: bool = False,
        session: requests.Session | None = None,
    ) -> None:
        check_kind("session", session, (requests.Session, type(None)), "a requests.Session")
        self.base_url = check_url(*_given_or_set("base_url", base_url, "REASONING_LAYER_URL"))
        self.tenant_id = _header_text(
            *_given_or_set("tenant_id", tenant_id, "REASONING_LAYER_TENANT_ID")
        )
        headers = {
            "User-Agent": f"reasoning-sdk/{__version__}",
            "X-SDK-Language": "python",
            "X-SDK-Version": __version__,
            "X-Tenant-Id": self.tenant_id,
        }
        if user_id is not None:
            headers["X-User-Id"] = _header_text("user_id", user_id)
        if namespace_id is not None:
            headers["X-Namespace-Id"] = _header_text("namespace_id", namespace_id)
        self._service = Service(
            base_url=self.base_url,
            token=_token(token),
            headers=headers,
            timeout=timeout,
            retry=_retry(max_retries),
            retry_on_503=retry_on_503,
            session=session,
        )
        self.cognitive = Cognitive(self._service, self.tenant_id)
        self.oversight = Oversight(self._service, self.tenant_id)

    def __repr__(self) -> str:
        state = "CLOSED" if self._service.closed else "OPEN"
        return f"<ReasoningLayerClient {state} {self.base_url} tenant_id={self.tenant_id!r}>"

    def __enter__(self) -> "ReasoningLayerClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all requests, streams and connections. Safe to call from any thread.

        It waits 2 seconds at the most for the service's answers to this.
        """
        self._service.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make any request of the API. Safe to call from any thread.

        Args:
            method: The HTTP method.
            path: The path, from ``/api/v1`` on, percent-encoded and without a query.
            json: What to send, as JSON; ``None`` sends no body.
            params: The query. ``None`` is left out, and lists are repeated.

        Returns:
            The answer's JSON, ``None`` when it has no body.

        Raises:
            APIStatusError: The service refused. ``code`` and ``message`` are its own, and
                ``body["details"]`` has its details, such as a conflict's ``term_id``.
            TransportError: The service did not answer, after retries.
            ProtocolError: The answer is not JSON.
            ConfigurationError: The path could lead elsewhere, or the method is none.
            InvalidEventError: The request cannot be written as JSON.
            StateError: The client is closed.
        """
        return self._service.request(method, path, json, params)

    def stream(
        self,
        path: str,
        json: Any = None,
        *,
        method: str = "POST",
        params: Mapping[str, Any] | None = None,
        idle_timeout: float | None = _IDLE_TIMEOUT,
    ) -> EventStream:
        """Make a request that is answered by server-sent events. Safe to call from any thread.

        Retried as any other until the stream begins, and never after.

        Args:
            path: The path, as in :meth:`request`.
            json: What to send, as JSON; ``None`` sends no body.
            method: The HTTP method.
            params: The query, as in :meth:`request`.
            idle_timeout: Seconds that the stream may go without an event; ``None`` is no limit.

        Returns:
            An iterator of :class:`ServerSentEvent`, once the stream has begun; its ``close`` ends
            it from any thread. A stream that is cut raises :class:`ConnectionLostError`.

        Raises:
            ProtocolError: The answer is no event stream.
            ReasoningError: As for :meth:`request`.

        Source: ``POST /api/v1/inference/forward-chain/stream`` and
            ``POST /api/v1/ui/describe/stream`` of the Reasoning Layer.
        """
        return self._service.stream(method, path, json, params, idle_timeout)


def _given_or_set(name: str, value: Any, variable: str) -> tuple[str, Any]:
    """An argument, or what the environment has in its place, with the name of what gave it."""
    if value is not None:
        return name, value
    if text := os.environ.get(variable):
        return variable, text
    raise ConfigurationError(f"no {name}: give it, or set {variable}")


def _header_text(name: str, value: Any) -> str:
    """The text of what is sent in a header."""
    check_kind(name, value, (str, UUID), "a str or a UUID")
    text = str(value)
    if not text:
        raise ConfigurationError(f"{name} must not be empty")
    try:
        check_headers({"value": text})
    except ConfigurationError:
        raise ConfigurationError(f"{name} has characters that no header can have") from None
    return text


def _token(token: str | Callable[[], str] | None) -> Callable[[], str | None]:
    """What gives the token for an attempt."""
    if callable(token):
        return token
    check_kind("token", token, (str, type(None)), "a str or a callable that gives one")
    name = "token" if token is not None else "REASONING_LAYER_TOKEN"
    fixed = token if token is not None else os.environ.get(name)
    if fixed:
        _header_text(name, fixed)
    return lambda: fixed


def _retry(max_retries: Any) -> RetryPolicy:
    if type(max_retries) is not int or max_retries < 0:
        raise ConfigurationError(
            f"max_retries must be a whole number >= 0, got {shown(max_retries)}"
        )
    return RetryPolicy(initial_interval=1.0, max_attempts=max_retries)
