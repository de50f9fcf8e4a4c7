"""What the programs that run response loops have in common."""

import logging
import os
import signal
import sys
import threading
import time

from reasoning_sdk import (
    Cancellation,
    Context,
    LoopCanceledError,
    LoopConfig,
    LoopEventKind,
    RecordingSink,
    ResponseLoop,
    UpstreamTarget,
)

__all__ = [
    "GO", "Cancellation", "Context", "LoopCanceledError", "LoopConfig", "LoopEventKind",
    "RecordingSink", "ResponseLoop", "UpstreamTarget", "add", "ends", "hang", "make", "os", "say",
    "signal", "sys", "threading", "time", "wait_until",
]  # fmt: skip

GO = {"model": "m", "input": "go"}

logging.basicConfig(format="%(name)s: %(message)s")  # warnings, to stderr


def say(*words: object) -> None:
    """Print a line in one piece, whichever threads print at the time."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def ends():
    """Tells when the exit begins, as the clock of all processes has it."""
    say("ends", time.monotonic())


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def hang() -> None:
    """Heed nothing for a long time."""
    say("hangs")
    time.sleep(60)


def make(*tools, **config):
    """A loop with the model of the test."""
    upstream = UpstreamTarget(os.environ["MODEL"], api=os.environ.get("API", "chat_completions"))
    return ResponseLoop(upstream, tools=tools or [add, hang], config=LoopConfig(**config))


def wait_until(condition):
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
