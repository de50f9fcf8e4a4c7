"""Every error this library raises, in one tree.

::

    ReasoningError                       retryable: False unless said
    ├── ConfigurationError               also ValueError
    ├── InvalidEventError                also TypeError
    ├── StateError                       also RuntimeError
    │   └── ConcurrencyError
    ├── TransportError                   retryable
    │   ├── ConnectError
    │   │   └── ConnectTimeoutError      also RequestTimeoutError
    │   ├── RequestTimeoutError          also TimeoutError
    │   ├── IdleTimeoutError             also TimeoutError
    │   └── ConnectionLostError
    ├── APIStatusError
    │   ├── BadRequestError              400
    │   ├── AuthenticationError          401
    │   │   └── UnauthenticatedCloseError  WebSocket close code 4001, also ConnectionLostError
    │   ├── PermissionDeniedError        403
    │   │   └── ForbiddenCloseError        WebSocket close code 4003, also ConnectionLostError
    │   ├── NotFoundError                404
    │   ├── ConflictError                409
    │   ├── UnprocessableEntityError     422
    │   ├── RateLimitError               429, retryable
    │   └── ServerError                  5xx, retryable
    ├── ProtocolError
    ├── ResponseError
    │   ├── StreamInterruptedError       also TransportError, retryable
    │   ├── ResponseFailedError
    │   └── ResponseIncompleteError
    ├── EventSinkError
    ├── ToolError
    │   └── ToolNotFoundError, ToolExecutionError, ToolArgumentsError, ToolTimeoutError
    ├── StoreError
    │   └── RecordNotFoundError, StorageError, SerializationError, LeaseLostError
    └── LoopError
        └── LoopFailedError, MaxIterationsError, MaxDepthError, EmptyActionError, LoopCanceledError

Messages are lower case without a full stop, and never hold a key, token or signature. Every error
survives :mod:`pickle`: it is built from its message alone, the rest are keyword arguments kept as
attributes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

__all__ = [
    "APIStatusError",
    "AuthenticationError",
    "BadRequestError",
    "ConcurrencyError",
    "ConfigurationError",
    "ConflictError",
    "ConnectError",
    "ConnectTimeoutError",
    "ConnectionLostError",
    "EmptyActionError",
    "EventSinkError",
    "ForbiddenCloseError",
    "IdleTimeoutError",
    "InvalidEventError",
    "LeaseLostError",
    "LoopCanceledError",
    "LoopError",
    "LoopFailedError",
    "MaxDepthError",
    "MaxIterationsError",
    "NotFoundError",
    "PermissionDeniedError",
    "ProtocolError",
    "RateLimitError",
    "ReasoningError",
    "RecordNotFoundError",
    "RequestTimeoutError",
    "ResponseError",
    "ResponseFailedError",
    "ResponseIncompleteError",
    "SerializationError",
    "ServerError",
    "StateError",
    "StorageError",
    "StoreError",
    "StreamInterruptedError",
    "ToolArgumentsError",
    "ToolError",
    "ToolExecutionError",
    "ToolNotFoundError",
    "ToolTimeoutError",
    "TransportError",
    "UnauthenticatedCloseError",
    "UnprocessableEntityError",
]


class ReasoningError(Exception):
    """The base of every error of this library.

    Attributes:
        retryable: Whether the same call may succeed when it is made again, unchanged. A hint for
            callers; what a client retries by itself is said where the client is documented.
        response_id: The id of the response that was being streamed, when the error was raised by
            a ``ResponseStream`` that had got that far; else ``None``.
        items: The finished output items that had arrived by then.
        text: The output text that had arrived by then.
    """

    retryable: bool = False
    response_id: str | None = None
    items: Sequence[Mapping[str, Any]] = ()
    text: str = ""


class ConfigurationError(ReasoningError, ValueError):
    """An argument or an environment variable has a value that cannot work."""


class InvalidEventError(ReasoningError, TypeError):
    """A value cannot be written as JSON.

    Attributes:
        path: Where in the value, as in ``$.choices[2].delta``.
    """

    def __init__(self, message: str = "", *, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class StateError(ReasoningError, RuntimeError):
    """An object was used after it was closed, or in the wrong order."""


class ConcurrencyError(StateError):
    """Two threads iterate one reader."""


class TransportError(ReasoningError):
    """The network, or the other side's machine, failed."""

    retryable = True


class ConnectError(TransportError):
    """No connection could be made: name, address, TLS or proxy."""


class RequestTimeoutError(TransportError, TimeoutError):
    """No answer within the time that the call allows."""


class ConnectTimeoutError(ConnectError, RequestTimeoutError):
    """No connection within ``connect_timeout``."""


class IdleTimeoutError(TransportError, TimeoutError):
    """An open stream brought no event for ``idle_timeout`` seconds."""


class ConnectionLostError(TransportError):
    """A connection broke, and could not be made again where that was tried.

    Attributes:
        attempts: How many attempts in a row have failed.
        close_code: The WebSocket close code, where there was one.
        last_error: What went wrong in the last attempt.
    """

    def __init__(
        self,
        message: str = "",
        *,
        attempts: int = 0,
        close_code: int | None = None,
        last_error: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.close_code = close_code
        self.last_error = last_error


class APIStatusError(ReasoningError):
    """The service answered with a status that is not a success.

    Attributes:
        status_code: The HTTP status.
        body: The body: parsed when it is JSON, else its beginning as text.
        headers: The answer's headers, names in lower case, without cookies.
        request_id: The service's own id of the request, for its support.
        retry_after: Seconds that the service asks to wait, where it does.
        code: The service's own code of the error, such as ``"model_not_found"``.
        message: The service's own message.
    """

    by_status: ClassVar[dict[int, type["APIStatusError"]]] = {}

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int = 0,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        code: str | None = None,
        server_message: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.body = body
        self.headers: Mapping[str, str] = dict(headers or {})
        self.request_id = request_id
        self.retry_after = retry_after
        self.code = code
        self.message = message if server_message is None else server_message

    @classmethod
    def for_status(cls, status_code: int) -> type["APIStatusError"]:
        """The class of the errors of one HTTP status."""
        if status_code >= 500:
            return ServerError
        return cls.by_status.get(status_code, APIStatusError)


class BadRequestError(APIStatusError):
    """400: the service cannot read the request."""


class AuthenticationError(APIStatusError):
    """401: no key, or a wrong one."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class UnauthenticatedCloseError(AuthenticationError, ConnectionLostError):
    """The server has closed a WebSocket with 4001: who has opened it is not known any more."""

    retryable = False

    def __init__(self, message: str = "", *, close_code: int | None = 4001) -> None:
        super().__init__(message)
        self.close_code = close_code


class ForbiddenCloseError(PermissionDeniedError, ConnectionLostError):
    """The server has closed a WebSocket with 4003: who has opened it may not."""

    retryable = False

    def __init__(self, message: str = "", *, close_code: int | None = 4003) -> None:
        super().__init__(message)
        self.close_code = close_code


class NotFoundError(APIStatusError):
    """404: no such resource, or a wrong ``base_url``."""


class ConflictError(APIStatusError):
    """409: the resource is in a state, or under a lock, that forbids this now."""


class UnprocessableEntityError(APIStatusError):
    """422: the request reads well and makes no sense."""


class RateLimitError(APIStatusError):
    """429: too many requests, or a quota is used up."""

    retryable = True


class ServerError(APIStatusError):
    """5xx: the service failed."""

    retryable = True


APIStatusError.by_status.update(
    {
        400: BadRequestError,
        401: AuthenticationError,
        403: PermissionDeniedError,
        404: NotFoundError,
        409: ConflictError,
        422: UnprocessableEntityError,
        429: RateLimitError,
    }
)


class ProtocolError(ReasoningError):
    """The other side sent what cannot be read: not JSON, a bad frame, more than the limit."""


class ResponseError(ReasoningError):
    """A response did not complete; what had arrived is in the attributes."""

    def __init__(
        self,
        message: str = "",
        *,
        response_id: str | None = None,
        items: Sequence[Mapping[str, Any]] = (),
        text: str = "",
    ) -> None:
        super().__init__(message)
        self.response_id = response_id
        self.items = items
        self.text = text


class StreamInterruptedError(ResponseError, TransportError):
    """A stream closed before its response was completed."""

    retryable = True


class ResponseFailedError(ResponseError):
    """The service says that the response failed.

    Attributes:
        code: The service's code, such as ``"rate_limit_exceeded"``.
        message: The service's message.
        retry_after: Seconds to wait, where the message names them ("try again in 1.5s").
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        server_message: str | None = None,
        retry_after: float | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message if server_message is None else server_message
        self.retry_after = retry_after
        self.retryable = retryable


class ResponseIncompleteError(ResponseError):
    """The service stopped the response early.

    Attributes:
        reason: Why, such as ``"max_output_tokens"`` or ``"content_filter"``.
    """

    def __init__(self, message: str = "", *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class EventSinkError(ReasoningError):
    """An event sink could not take an event."""


class ToolError(ReasoningError):
    """A tool call did not give a result."""


class ToolNotFoundError(ToolError):
    """No tool has this name."""


class ToolExecutionError(ToolError):
    """The tool was called and failed."""


class ToolArgumentsError(ToolError):
    """The arguments do not fit the tool's parameters."""


class ToolTimeoutError(ToolError):
    """The tool gave no result in time."""


class StoreError(ReasoningError):
    """The store of responses and steps failed."""


class RecordNotFoundError(StoreError):
    """No such response or step."""


class StorageError(StoreError):
    """The database cannot be read or written."""


class SerializationError(StoreError):
    """A stored value cannot be written or read back."""


class LeaseLostError(StoreError):
    """Another worker owns the response now."""


class LoopError(ReasoningError):
    """A response loop ended without a response."""


class LoopFailedError(LoopError):
    """The loop decided to fail.

    Attributes:
        payload: The error as JSON, as the store gave it; mostly ``{"type", "message", …}``.
        code: The payload's ``code``, such as ``"model_not_found"``, else its ``type``.
        message: The payload's ``message``.
        status_code: The payload's ``status``: that of the HTTP answer which the upstream refused a
            model call with.
    """

    def __init__(self, message: str = "", *, payload: Any = None) -> None:
        super().__init__(message)
        self.payload = payload
        fields = payload if isinstance(payload, Mapping) else {}
        self.code: str | None = fields.get("code") or fields.get("type")
        self.message: str = fields.get("message") or message
        self.status_code: int | None = fields.get("status")
        self.retryable = fields.get("retryable") is True


class MaxIterationsError(LoopError):
    """The loop took as many actions as it may."""


class MaxDepthError(LoopError):
    """A sub-loop would be deeper than it may."""


class EmptyActionError(LoopError):
    """The store asked for a step and named none."""


class LoopCanceledError(LoopError):
    """The loop was canceled."""
