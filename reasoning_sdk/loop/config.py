"""What a response loop is told beforehand."""

from collections.abc import Callable
from typing import Any

import attrs

from reasoning_sdk._io.http import check_headers, check_url
from reasoning_sdk._io.model import APIS
from reasoning_sdk.arguments import check_count, check_kind, check_seconds, shown
from reasoning_sdk.errors import ConfigurationError
from reasoning_sdk.retry import RetryPolicy

__all__ = ["LoopConfig", "UpstreamTarget"]

_ON_INFLIGHT = ("fail", "retry")
_MODEL_TIMEOUT: float | None = 600.0


def _check_count(_: Any, attribute: "attrs.Attribute[int]", value: Any) -> None:
    check_count(attribute.name, value)


def _check_seconds(_: Any, attribute: "attrs.Attribute[float | None]", value: Any) -> None:
    check_seconds(attribute.name, value)


def _check_bool(_: Any, attribute: "attrs.Attribute[bool]", value: Any) -> None:
    check_kind(attribute.name, value, (bool,), "a bool")


def _check_api(_: Any, attribute: "attrs.Attribute[str]", value: Any) -> None:
    _check_one_of(attribute.name, value, tuple(APIS))


def _check_on_inflight(_: Any, attribute: "attrs.Attribute[str]", value: Any) -> None:
    _check_one_of(attribute.name, value, _ON_INFLIGHT)


def _check_one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        said = " or ".join(map(repr, allowed))
        raise ConfigurationError(f"{name} must be {said}, got {shown(value)}")


def _check_retry(_: Any, attribute: "attrs.Attribute[RetryPolicy]", value: Any) -> None:
    check_kind(attribute.name, value, (RetryPolicy,), "a RetryPolicy")


def _check_key(_: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if callable(value):
        return
    check_kind(attribute.name, value, (str, type(None)), "a str or a callable that gives one")
    try:
        check_headers({"Authorization": f"Bearer {value}"} if value else {})
    except ConfigurationError as exc:
        raise ConfigurationError(
            f"{attribute.name} must only have characters that HTTP allows in a header"
        ) from exc


def _as_base_url(url: str) -> str:
    base = check_url("url", url)
    for path in APIS.values():
        if base.endswith(path):
            raise ConfigurationError(f"url must end in /v1, without {path}, got {base!r}")
    return base


@attrs.frozen
class UpstreamTarget:
    """Where a response loop finds its model. A pickle of it is without the key.

    Args:
        url: Where the API is, up to ``/v1``.
        api_key: The key, or a callable that gives it for each attempt; ``None`` sends none.
        api: What is spoken there, ``"chat_completions"`` or ``"responses"``.

    Raises:
        ConfigurationError: An argument cannot work.
    """

    url: str = attrs.field(converter=_as_base_url)
    api_key: str | Callable[[], str] | None = attrs.field(
        default=None, repr=False, validator=_check_key
    )
    api: str = attrs.field(default="chat_completions", validator=_check_api)

    def __reduce__(self) -> tuple[Any, ...]:
        return UpstreamTarget, (self.url, None, self.api)


@attrs.frozen
class LoopConfig:
    """The limits of a response loop.

    Args:
        max_depth: How many levels there may be, the top included: an agent beyond them is a failed
            tool call.
        max_iterations: How many actions the loop may carry out, over the whole life of a response:
            a model call is one, and so are the tools that it calls. Each agent has its own count.
        max_parallel_tools: How many tools of a turn run side by side; each agent has its own.
        tool_timeout: Seconds for a tool call, agents apart; ``None`` is no limit. What has not
            ended by then is told to stop, and not waited for.
        model_timeout: Seconds until a model has answered or, streamed, until it begins and between
            its events; ``None`` is no limit.
        on_inflight: What becomes of tool calls that a crash has left under way. ``"fail"``: those
            that are idempotent are made again, any other fails the response as
            ``step_abandoned``. ``"retry"``: all are made again.
        retry: When to ask the model again: transport errors, 408, 409, 429 and 5xx, before an
            answer has begun.
        agent_events: Whether events of agents are told, too; they have a field ``agent``,
            ``{"item_id", "call_id", "name", "depth"}``, the item being the one that the agent's
            call ends with.

    Raises:
        ConfigurationError: An argument cannot work.
    """

    max_depth: int = attrs.field(default=8, validator=_check_count)
    max_iterations: int = attrs.field(default=10, validator=_check_count)
    max_parallel_tools: int = attrs.field(default=8, validator=_check_count)
    tool_timeout: float | None = attrs.field(default=None, validator=_check_seconds)
    model_timeout: float | None = attrs.field(default=_MODEL_TIMEOUT, validator=_check_seconds)
    on_inflight: str = attrs.field(default="fail", validator=_check_on_inflight)
    retry: RetryPolicy = attrs.field(
        factory=lambda: RetryPolicy(max_attempts=2), validator=_check_retry
    )
    agent_events: bool = attrs.field(default=False, validator=_check_bool)
