"""Several executors as one, and none."""

import weakref
from collections.abc import Mapping
from typing import Any

from reasoning_sdk.arguments import check_methods
from reasoning_sdk.errors import ConfigurationError
from reasoning_sdk.steps import RequestContext, ToolSchema
from reasoning_sdk.tools.registry import not_found
from reasoning_sdk.typing import JSON, ToolExecutor

__all__ = ["CombinedTools", "NoTools"]


class NoTools:
    """No tools at all. Safe to use from any thread."""

    def __repr__(self) -> str:
        return "<NoTools>"

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        """None."""
        return []

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> JSON:
        """Call none.

        Raises:
            ToolNotFoundError: Always.
        """
        raise not_found(name, ())


class CombinedTools:
    """Several executors as one. Safe to use from any thread.

    Args:
        executors: Executors whose tools have different names. Who has given them closes them.

    Raises:
        ConfigurationError: One of them is no executor.
    """

    def __init__(self, *executors: ToolExecutor) -> None:
        for executor in executors:
            check_methods("executor", executor, ("tools", "execute"), "a ToolExecutor")
        self._executors = executors
        # Contexts cannot be hashed. What is kept for one goes with it.
        self._known: dict[int, tuple[weakref.ref[RequestContext], dict[str, ToolExecutor]]] = {}

    def __repr__(self) -> str:
        return f"<CombinedTools {' '.join(map(repr, self._executors))}>"

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        """Those of all.

        Raises:
            ConfigurationError: Two of them have a tool of the same name.
        """
        return self._look_up(ctx)[0]

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> JSON:
        """Call a tool of the executor that has it.

        Raises:
            ToolNotFoundError: None has it.
            ConfigurationError: Two of them have a tool of the same name.
            ToolError: As the executor says.
        """
        ref, owners = self._known.get(id(ctx), (None, {}))
        if ref is None or ref() is not ctx or name not in owners:
            owners = self._look_up(ctx)[1]
        if name not in owners:
            raise not_found(name, owners)
        return owners[name].execute(name, call_id, arguments, ctx)

    def _look_up(self, ctx: RequestContext) -> tuple[list[ToolSchema], dict[str, ToolExecutor]]:
        schemas, owners = [], dict[str, ToolExecutor]()
        for executor in self._executors:
            for schema in executor.tools(ctx):
                other = owners.setdefault(schema.name, executor)
                if other is not executor:
                    raise ConfigurationError(
                        f"tool {schema.name!r} is in both {other!r} and {executor!r}"
                    )
                schemas.append(schema)
        key, known = id(ctx), self._known
        known[key] = weakref.ref(ctx, lambda _: known.pop(key, None)), owners
        return schemas, owners
