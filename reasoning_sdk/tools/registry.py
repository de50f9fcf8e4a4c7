"""Tools by name."""

import difflib
import re
from collections.abc import Iterable
from typing import Generic, TypeVar

from reasoning_sdk._core.wording import told
from reasoning_sdk.errors import ConfigurationError, ToolNotFoundError
from reasoning_sdk.steps import ToolSchema

__all__ = ["Registry", "not_found"]

_T = TypeVar("_T")
_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
_MAX_COMPARED = 60


class Registry(Generic[_T]):
    """Tools by name, in the order in which they came. Safe to use from any thread."""

    def __init__(self) -> None:
        # One C call adds to it, and one copies it.
        self._tools: dict[str, tuple[ToolSchema, _T]] = {}

    def __str__(self) -> str:
        return " ".join(self._tools.copy()) or "EMPTY"

    def add(self, schema: ToolSchema, tool: _T) -> None:
        """Take a tool in.

        Raises:
            ConfigurationError: No upstream takes its name, or there is one of that name.
        """
        if not _NAME.fullmatch(schema.name):
            raise ConfigurationError(
                f"name of a tool must be 1 to 64 of a-z, A-Z, 0-9, _ and -, got {schema.name!r}"
            )
        entry = schema, tool
        if self._tools.setdefault(schema.name, entry) is not entry:
            raise ConfigurationError(f"there is a tool {schema.name!r} already")

    def find(self, name: str) -> _T:
        """What is kept of a tool.

        Raises:
            ToolNotFoundError: There is none of this name.
        """
        try:
            return self._tools[name][1]
        except KeyError:
            raise not_found(name, self._tools.copy()) from None

    def schemas(self) -> list[ToolSchema]:
        """The schemas of all."""
        return [schema for schema, _ in self._tools.copy().values()]


def not_found(name: str, names: Iterable[str]) -> ToolNotFoundError:
    """The error for a name that is none of the names there are."""
    near = difflib.get_close_matches(name[:_MAX_COMPARED], list(names))
    hint = f"; there is {' and '.join(map(repr, near))}" if near else ""
    return ToolNotFoundError(f"there is no tool {told(name)}{hint}")
