"""The Reasoning Layer: cognitive agents, their oversight, and inference.

::

    from reasoning_sdk import ReasoningLayerClient

    with ReasoningLayerClient() as client:
        with client.cognitive.agent_events(agent_id) as events:
            for event in events:
                print(event)
"""

from reasoning_sdk.reasoning_layer.agent_events import (
    AgentEvent,
    AttentionShiftEvent,
    ConnectedEvent,
    CycleCompleteEvent,
    ErrorEvent,
    GoalCompletedEvent,
    HeartbeatEvent,
    HitlRequestEvent,
    ImpasseDetectedEvent,
    KbChangeEvent,
    UnknownEvent,
)
from reasoning_sdk.reasoning_layer.client import ReasoningLayerClient
from reasoning_sdk.reasoning_layer.service import EventStream

__all__ = [
    "AgentEvent",
    "AttentionShiftEvent",
    "ConnectedEvent",
    "CycleCompleteEvent",
    "ErrorEvent",
    "EventStream",
    "GoalCompletedEvent",
    "HeartbeatEvent",
    "HitlRequestEvent",
    "ImpasseDetectedEvent",
    "KbChangeEvent",
    "ReasoningLayerClient",
    "UnknownEvent",
]
