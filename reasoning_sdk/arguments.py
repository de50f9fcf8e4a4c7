"""Arguments, checked where they are given."""

import threading
from typing import Any

from reasoning_sdk.errors import ConfigurationError

__all__ = ["check_kind", "check_seconds", "shown"]

_MAX_BITS = 2048


def check_kind(name: str, value: Any, kinds: tuple[type, ...], kind: str) -> None:
    """Let an argument pass that is of one of the kinds.

    Raises:
        ConfigurationError: It is not; the message tells its type, and not its value.
    """
    if not isinstance(value, kinds):
        raise ConfigurationError(f"{name} must be {kind}, got a {type(value).__name__}")


def shown(value: Any) -> str:
    """A value as an error tells it."""
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:  # Python may refuse to write it
        return f"an int of {value.bit_length()} bits"
    return repr(value)


def check_seconds(name: str, value: Any, *, or_zero: bool = False) -> None:
    """Let a timeout pass if it is a positive number of seconds, zero where allowed, or ``None``.

    Raises:
        ConfigurationError: It is none of these, or more than the system can wait.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    usable = number and 0 <= value <= threading.TIMEOUT_MAX and (value > 0 or or_zero)
    if value is not None and not usable:
        least = ">= 0" if or_zero else "> 0"
        raise ConfigurationError(f"{name} must be {least} seconds or None, got {shown(value)}")
