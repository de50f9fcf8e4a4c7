"""What the tests of the Reasoning Layer's client share: clients, and a service that they ask."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reasoning_sdk.reasoning_layer import ReasoningLayerClient
from tests.support.scripted import ScriptedServer

TENANT = "0b1f7c5e-8d1c-4f43-9f0f-2f7f2a6f7a11"
TOKEN = "rl-very-secret-0123456789"


@pytest.fixture
def client() -> Iterator[Callable[..., ReasoningLayerClient]]:
    """Makes clients of a server, and closes them."""
    made: list[ReasoningLayerClient] = []

    def make(server: ScriptedServer | None = None, **options: Any) -> ReasoningLayerClient:
        options.setdefault("base_url", server.url() if server else "http://127.0.0.1:1")
        made.append(ReasoningLayerClient(**{"tenant_id": TENANT, "token": TOKEN, **options}))
        return made[-1]

    yield make
    for client_ in made:
        client_.close()
