"""Agents as tools."""

from collections.abc import Mapping, Sequence
from typing import Any

from reasoning_sdk.errors import ToolExecutionError
from reasoning_sdk.steps import AgentSchema, RequestContext, ToolSchema
from reasoning_sdk.tools.registry import Registry
from reasoning_sdk.typing import JSON

__all__ = ["AgentTools"]


_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class AgentTools:
    """Agents as tools: the loop itself calls them. Safe to use from any thread.

    Example:
        >>> tools = AgentTools()
        >>> tools.register("researcher", description="Finds out about a subject.")
        >>> tools
        <AgentTools researcher>
    """

    def __init__(self) -> None:
        self._registry: Registry[None] = Registry()

    def __repr__(self) -> str:
        return f"<AgentTools {self._registry}>"

    def register(
        self,
        name: str,
        *,
        description: str,
        instructions: str = "",
        model: str | None = None,
        tools: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        strict: bool = False,
    ) -> None:
        """Make an agent a tool.

        Args:
            name: The tool's name.
            description: What the agent is good for.
            instructions: Its system message; the description where there is none.
            model: Its model; that of the response where there is none.
            tools: The names of the tools that it may call; ``None`` is all, itself included.
            parameters: The JSON schema of its arguments: a text, ``input``, where there is none.
            strict: Whether the model has to keep to the schema.

        Raises:
            ConfigurationError: There is a tool of this name, or an argument cannot work.
        """
        schema = AgentSchema(
            name,
            description,
            _INPUT if parameters is None else parameters,
            strict,
            instructions=instructions,
            model=model,
            tools=tools,
        )
        self._registry.add(schema, None)

    def tools(self, ctx: RequestContext) -> list[ToolSchema]:
        """All of them."""
        return self._registry.schemas()

    def execute(
        self, name: str, call_id: str, arguments: Mapping[str, Any], ctx: RequestContext
    ) -> JSON:
        """Refuse: only a loop can call an agent.

        Raises:
            ToolNotFoundError: There is none of this name.
            ToolExecutionError: There is.
        """
        self._registry.find(name)
        raise ToolExecutionError(f"agent {name!r} can only be called by a response loop")
