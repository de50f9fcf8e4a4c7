"""The response loop: model call, tools in parallel, model call, …, until there is an answer."""

from reasoning_sdk.loop.config import LoopConfig, UpstreamTarget
from reasoning_sdk.loop.response_loop import LoopStats, ResponseLoop, run_response_loop
from reasoning_sdk.loop.stream import LoopStream

__all__ = [
    "LoopConfig",
    "LoopStats",
    "LoopStream",
    "ResponseLoop",
    "UpstreamTarget",
    "run_response_loop",
]
