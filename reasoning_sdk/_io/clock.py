"""Time, as the package sees it; tests put another clock in its place."""

import threading
import time

__all__ = ["SYSTEM_CLOCK", "Clock"]


class Clock:
    """The machine's clock. Safe to use from any thread."""

    def monotonic(self) -> float:
        """Seconds that never run backwards, for deadlines."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since the epoch, for what people and servers read."""
        return time.time()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait for an event, so many seconds at the most; whether it was set."""
        return event.wait(min(seconds, threading.TIMEOUT_MAX))


SYSTEM_CLOCK = Clock()
