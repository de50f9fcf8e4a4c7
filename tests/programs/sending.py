"""What the programs of the tests have in common."""

import logging
import os
import time

from reasoning_sdk import ViewerClient

__all__ = ["ViewerClient", "ends", "os", "send", "time"]

logging.basicConfig(format="%(name)s: %(message)s")  # warnings, to stderr


def send(viewer, id, count=1, start=0):
    """Sends events with an id and the numbers that follow; how many were accepted."""
    numbers = range(start, start + count)
    return sum(viewer.send_agent_completion_continue({"id": id, "n": n}) for n in numbers)


def ends():
    """Tells when the exit begins, as the clock of all processes has it."""
    print("ends", time.monotonic(), flush=True)
