"""Oversight: the sessions in which a formal judge follows what an agent does."""

from typing import Any
from uuid import UUID

from reasoning_sdk.reasoning_layer.service import Service, quoted_id
from reasoning_sdk.websocket import WebSocketConnection

__all__ = ["Oversight"]


class Oversight:
    """The oversight of a tenant's agents, as ``client.oversight``. Safe to use from any thread."""

    def __init__(self, service: Service, tenant_id: str) -> None:
        self._service = service
        self._tenant = quoted_id("tenant_id", tenant_id)

    def __repr__(self) -> str:
        return f"<Oversight {self._service.base_url}>"

    def session_url(self, session_id: str | UUID) -> str:
        """The address of :meth:`session`. Safe to call from any thread.

        Raises:
            ConfigurationError: ``session_id`` is no id.

        Source: ``/ws/oversight/{session_id}`` of the Reasoning Layer.
        """
        path = f"/ws/oversight/{quoted_id('session_id', session_id)}?tenant_id={self._tenant}"
        return self._service.websocket_url(path)

    def session(self, session_id: str | UUID, **options: Any) -> WebSocketConnection:
        """Follow a session: its messages are JSON. Safe to call from any thread.

        Args:
            session_id: The session.
            **options: Those of :meth:`~reasoning_sdk.WebSocketConnection.connect`; ``headers``
                win over the client's.

        Returns:
            A connection. When the client is closed, it is, too.

        Raises:
            ConfigurationError: ``session_id`` is no id, or an option cannot work.
            APIStatusError: The service refused the handshake.
            TransportError: There is no connection.
            StateError: The client is closed.

        Source: ``/ws/oversight/{session_id}`` of the Reasoning Layer.
        """
        return self._service.connect(self.session_url(session_id), options)
