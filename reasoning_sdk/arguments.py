"""Arguments, checked where they are given."""

import threading
from typing import Any

from reasoning_sdk.errors import ConfigurationError

__all__ = ["check_count", "check_kind", "check_methods", "check_seconds", "has_methods", "shown"]

_MAX_BITS = 2048


def check_kind(name: str, value: Any, kinds: tuple[type, ...], kind: str) -> None:
    """Let an argument pass that is of one of the kinds.

    Raises:
        ConfigurationError: It is not; the message tells its type, and not its value.
    """
    # A class that has the methods of a protocol counts as one of its instances.
    if isinstance(value, type) or not isinstance(value, kinds):
        raise ConfigurationError(f"{name} must be {kind}, got {_kind_of(value)}")


def has_methods(value: Any, *methods: str) -> bool:
    """Whether something, which is no class, can be called by all these names.

    A protocol at run time asks the same, but not of what finds its methods when it is asked for
    them, as a wrapper does.
    """
    if isinstance(value, type):
        return False
    return all(callable(getattr(value, method, None)) for method in methods)


def check_methods(name: str, value: Any, methods: tuple[str, ...], kind: str) -> None:
    """Let an argument pass that has these methods.

    Raises:
        ConfigurationError: It has not; the message tells its type, and what it lacks.
    """
    if not has_methods(value, *methods):
        lacks = [method for method in methods if not has_methods(value, method)]
        said = f" without {', '.join(lacks)}" if len(lacks) < len(methods) else ""
        raise ConfigurationError(f"{name} must be {kind}, got {_kind_of(value)}{said}")


def _kind_of(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def shown(value: Any) -> str:
    """A value as an error tells it."""
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:  # Python may refuse to write it
        return f"an int of {value.bit_length()} bits"
    return repr(value)


def check_count(name: str, value: Any, *, or_zero: bool = False) -> None:
    """Let a number pass if it is a positive whole one, or zero where allowed.

    Raises:
        ConfigurationError: It is not.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and (value > 0 or (or_zero and value == 0))):
        least = ">= 0" if or_zero else "> 0"
        raise ConfigurationError(f"{name} must be an int {least}, got {shown(value)}")


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
