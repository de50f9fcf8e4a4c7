"""What the programs that open WebSockets have in common."""

import functools
import logging
import os
import signal
import sys
import threading
import time

from reasoning_sdk import ConcurrencyError, RetryPolicy, StateError, WebSocketConnection
from reasoning_sdk.websocket import ConnectionState

__all__ = [
    "LATER", "SOON", "ConcurrencyError", "ConnectionState", "RetryPolicy", "StateError",
    "WebSocketConnection", "connect", "ends", "numbers", "os", "say", "signal", "sys", "take",
    "threading", "time", "wait_for_go", "wait_until",
]  # fmt: skip

PEER = os.environ["PEER"]
SOON = RetryPolicy(initial_interval=0.05, max_interval=0.1, randomization_factor=0)
LATER = RetryPolicy(initial_interval=30.0, randomization_factor=0)

logging.basicConfig(format="%(name)s: %(message)s")  # warnings, to stderr
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


def connect(path, **options):
    """Connects to a path of the peer."""
    return WebSocketConnection.connect(PEER + path, **{"retry": SOON, **options})


def take(connection, count):
    """So many messages."""
    return [connection.next_message(timeout=10.0) for _ in range(count)]


def numbers(messages):
    return [message["n"] for message in messages]


say = functools.partial(print, flush=True)


def ends():
    """Tells when the exit begins, as the clock of all processes has it."""
    say("ends", time.monotonic())


def wait_for_go():
    """Says so, and waits until the test lets it go on."""
    say("ready")
    signal.sigwait({signal.SIGUSR1})


def wait_until(condition):
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
