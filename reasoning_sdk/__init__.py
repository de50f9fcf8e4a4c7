"""Client library for reasoning services, for Python without asyncio.

Streams come through blocking iterators, everything else returns when it is done::

    from reasoning_sdk import ResponsesClient

    with ResponsesClient("gpt-5") as client:
        for text in client.stream("Why is the sky blue?").text_deltas():
            print(text, end="", flush=True)
"""

import logging

from reasoning_sdk._core.sse import SSEDecoder, iter_events
from reasoning_sdk._version import __version__
from reasoning_sdk.errors import *  # noqa: F403
from reasoning_sdk.errors import __all__ as _errors
from reasoning_sdk.event_source import EventSource, sse_client
from reasoning_sdk.events import ResponseEvent, ServerSentEvent
from reasoning_sdk.responses import Response, ResponsesClient, ResponseStream
from reasoning_sdk.retry import RetryPolicy
from reasoning_sdk.viewer import LostEvent, ViewerClient, ViewerRun, ViewerStats

__all__ = [
    "__version__",
    *_errors,
    "EventSource",
    "LostEvent",
    "Response",
    "ResponseEvent",
    "ResponseStream",
    "ResponsesClient",
    "RetryPolicy",
    "SSEDecoder",
    "ServerSentEvent",
    "ViewerClient",
    "ViewerRun",
    "ViewerStats",
    "iter_events",
    "sse_client",
]

logging.getLogger("reasoning_sdk").addHandler(logging.NullHandler())
