"""A clock that tests move."""

import threading

from reasoning_sdk._io.clock import Clock


class FakeClock(Clock):
    """Time that passes only in waits, at once; the waits are kept in ``waits``."""

    def __init__(self, *, monotonic: float = 1000.0, time: float = 1_700_000_000.0) -> None:
        self._monotonic = monotonic
        self._time = time
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self._monotonic

    def time(self) -> float:
        return self._time

    def advance(self, seconds: float) -> None:
        self._monotonic += seconds
        self._time += seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        if not event.is_set():
            self.advance(seconds)
        return event.is_set()
