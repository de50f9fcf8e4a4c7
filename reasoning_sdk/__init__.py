"""Client library for reasoning services, for Python without asyncio.

Streams come through blocking iterators, everything else returns when it is done::

    from reasoning_sdk import ResponsesClient

    with ResponsesClient("gpt-5") as client:
        for text in client.stream("Why is the sky blue?").text_deltas():
            print(text, end="", flush=True)

What not every program needs is loaded when it is first asked for.
"""

import logging
from importlib import import_module
from typing import Any

from reasoning_sdk._core.sse import SSEDecoder, iter_events
from reasoning_sdk._version import __version__
from reasoning_sdk.errors import *  # noqa: F403
from reasoning_sdk.errors import __all__ as _errors
from reasoning_sdk.event_source import EventSource, sse_client
from reasoning_sdk.events import LoopEvent, LoopEventKind, ResponseEvent, ServerSentEvent
from reasoning_sdk.responses import Response, ResponsesClient, ResponseStream
from reasoning_sdk.retry import RetryPolicy

# Type checkers read the stub beside this file.
_LOADED_WHEN_ASKED_FOR = {
    "cancellation": ["Cancellation"],
    "loop": [
        "LoopConfig",
        "LoopStats",
        "LoopStream",
        "ResponseLoop",
        "UpstreamTarget",
        "run_response_loop",
    ],
    "reasoning_layer": [
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
    ],
    "sinks": ["CallbackSink", "QueueSink", "RecordingSink", "SSESink", "TeeSink", "ViewerSink"],
    "steps": [
        "AgentSchema",
        "AppendSteps",
        "ChainStep",
        "Complete",
        "Fail",
        "NextAction",
        "RecordedStep",
        "RequestContext",
        "StepDescriptor",
        "StepKind",
        "StepState",
        "ToolKind",
        "ToolSchema",
    ],
    "stores.memory": ["MemoryStore"],
    "tools": ["AgentTools", "CombinedTools", "Context", "FunctionTools", "HTTPTools", "NoTools"],
    "typing": ["EventSink", "MultiStepStore", "ResponseStore", "ToolExecutor"],
    "viewer": ["LostEvent", "ViewerClient", "ViewerRun", "ViewerStats"],
    "websocket": [
        "Codec",
        "Connected",
        "ConnectionState",
        "Disconnected",
        "Message",
        "WebSocketConnection",
        "WebSocketStats",
    ],
}
_MODULE_OF = {name: module for module, names in _LOADED_WHEN_ASKED_FOR.items() for name in names}

__all__ = [
    "__version__",
    *_errors,
    *_MODULE_OF,
    "EventSource",
    "LoopEvent",
    "LoopEventKind",
    "Response",
    "ResponseEvent",
    "ResponseStream",
    "ResponsesClient",
    "RetryPolicy",
    "SSEDecoder",
    "ServerSentEvent",
    "iter_events",
    "sse_client",
]

logging.getLogger("reasoning_sdk").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
