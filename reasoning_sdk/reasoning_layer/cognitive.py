"""Cognitive agents: their events, and their cycle."""

from typing import Any
from uuid import UUID

from reasoning_sdk.reasoning_layer.agent_events import AgentEventCodec
from reasoning_sdk.reasoning_layer.service import Service, quoted_id
from reasoning_sdk.websocket import WebSocketConnection

__all__ = ["Cognitive"]


class Cognitive:
    """The cognitive agents of a tenant, as ``client.cognitive``. Safe to use from any thread."""

    def __init__(self, service: Service, tenant_id: str) -> None:
        self._service = service
        self._tenant = quoted_id("tenant_id", tenant_id)

    def __repr__(self) -> str:
        return f"<Cognitive {self._service.base_url}>"

    def agent_events_url(self, agent_id: str | UUID) -> str:
        """The address of :meth:`agent_events`. Safe to call from any thread.

        Raises:
            ConfigurationError: ``agent_id`` is no id.

        Source: ``/api/v1/cognitive/agents/ws`` of the Reasoning Layer.
        """
        query = f"agent_id={quoted_id('agent_id', agent_id)}&tenant_id={self._tenant}"
        return self._service.websocket_url(f"/api/v1/cognitive/agents/ws?{query}")

    def agent_events(self, agent_id: str | UUID, **options: Any) -> WebSocketConnection:
        """Follow what an agent does. Safe to call from any thread.

        Args:
            agent_id: The agent.
            **options: Those of :meth:`~reasoning_sdk.WebSocketConnection.connect`. ``headers``
                win over the client's; a ``codec`` takes the place of the one that makes events:
                ``codec="json"`` gives plain objects.

        Returns:
            A connection whose messages are :class:`~reasoning_sdk.AgentEvent` instances. When the
            client is closed, it is, too.

        Raises:
            ConfigurationError: ``agent_id`` is no id, or an option cannot work.
            APIStatusError: The service refused the handshake.
            TransportError: There is no connection.
            StateError: The client is closed.

        Example:
            >>> with client.cognitive.agent_events(agent_id) as events:    # doctest: +SKIP
            ...     for event in events:
            ...         print(event)

        Source: ``/api/v1/cognitive/agents/ws`` of the Reasoning Layer.
        """
        url = self.agent_events_url(agent_id)
        return self._service.connect(url, {"codec": AgentEventCodec(), **options})

    def cycle_url(self, agent_id: str | UUID) -> str:
        """The address of :meth:`cycle`. Safe to call from any thread.

        Raises:
            ConfigurationError: ``agent_id`` is no id.

        Source: ``/ws/cognitive/{agent_id}`` of the Reasoning Layer.
        """
        return self._service.websocket_url(f"/ws/cognitive/{quoted_id('agent_id', agent_id)}")

    def cycle(self, agent_id: str | UUID, **options: Any) -> WebSocketConnection:
        """Take part in an agent's cycle: JSON, both ways. Safe to call from any thread.

        Args:
            agent_id: The agent.
            **options: Those of :meth:`~reasoning_sdk.WebSocketConnection.connect`; ``headers``
                win over the client's.

        Raises:
            ReasoningError: As for :meth:`agent_events`.

        Source: ``/ws/cognitive/{agent_id}`` of the Reasoning Layer.
        """
        return self._service.connect(self.cycle_url(agent_id), options)
