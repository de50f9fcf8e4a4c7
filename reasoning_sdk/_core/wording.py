"""How a model gets to see values and errors: in few words, that can always be written."""

from collections.abc import Mapping
from typing import Any

from reasoning_sdk.arguments import shown

__all__ = ["member", "printable", "said", "told"]

_MAX_SHOWN = 60
_MAX_MESSAGE = 2000


def told(value: Any) -> str:
    """A value as the model that has written it is reminded of it."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    text = "null" if value is None else shown(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def member(path: str, name: Any) -> str:
    """The path of a member of what is at a path."""
    plain = isinstance(name, str) and name.isidentifier() and len(name) <= _MAX_SHOWN
    return f"{path}.{name}" if plain else f"{path}[{told(name)}]"


def said(error: BaseException) -> str:
    """An error as a model gets to see it."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # of its own __str__
        text = type(error).__name__
    text = text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "…"
    return printable(text.removesuffix(": "))


def printable(text: str) -> str:
    """A text that can be written: a model, too, may have made half a character."""
    return text.encode("utf-8", "backslashreplace").decode()
