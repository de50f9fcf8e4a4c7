"""What goes wrong in a loop, as the JSON that stores keep and models see."""

from collections.abc import Mapping
from typing import Any

from reasoning_sdk._core.wording import printable, said
from reasoning_sdk.errors import (
    APIStatusError,
    EmptyActionError,
    InvalidEventError,
    LoopCanceledError,
    LoopError,
    LoopFailedError,
    MaxDepthError,
    MaxIterationsError,
    ReasoningError,
    ResponseFailedError,
    ToolArgumentsError,
    ToolError,
    ToolNotFoundError,
    ToolTimeoutError,
)

__all__ = ["error_of", "failure_of"]

_TYPES: dict[type[BaseException], str] = {
    ToolNotFoundError: "tool_not_found",
    ToolArgumentsError: "invalid_arguments",
    ToolTimeoutError: "tool_timeout",
    KeyboardInterrupt: "interrupted",
    MaxDepthError: "max_depth_exceeded",
    MaxIterationsError: "max_iterations_exceeded",
    EmptyActionError: "empty_action",
    LoopCanceledError: "canceled",
    InvalidEventError: "invalid_request",
}


def failure_of(payload: Any) -> LoopFailedError:
    """The error of a loop whose store has decided to fail."""
    details = payload if isinstance(payload, Mapping) else {"message": payload}
    told = [str(details[key]) for key in ("code", "message") if details.get(key)]
    return LoopFailedError(": ".join(["response failed", *told]), payload=payload)


def error_of(exc: BaseException, kind: str = "") -> dict[str, Any]:
    """An error as JSON: ``{"type", "message", …}``.

    Args:
        exc: The error.
        kind: The type of one that has none of its own.
    """
    if isinstance(exc, LoopFailedError) and isinstance(exc.payload, Mapping):
        return {"type": kind or "failed", "message": exc.message, **exc.payload}
    own = next((name for cls, name in _TYPES.items() if isinstance(exc, cls)), kind)
    if isinstance(exc, ReasoningError) and not isinstance(exc, (ToolError, LoopError)):
        return {"type": own or "store_error", **_details(exc)}
    if isinstance(exc, ReasoningError):
        return {"type": own or "failed", "message": printable(str(exc))}
    return {"type": own or "internal_error", "message": said(exc)}


def _details(exc: ReasoningError) -> dict[str, Any]:
    """What an upstream's error tells."""
    details: dict[str, Any] = {"message": str(exc), "retryable": exc.retryable}
    if isinstance(exc, (APIStatusError, ResponseFailedError)):
        details.update(code=exc.code, message=exc.message, retry_after=exc.retry_after)
    if isinstance(exc, APIStatusError):
        details["status"] = exc.status_code
    return {key: value for key, value in details.items() if value is not None}
