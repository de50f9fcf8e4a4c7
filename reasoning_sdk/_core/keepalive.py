"""Whether the other side of a connection is still there: when to ask, and when to give it up."""

__all__ = ["Keepalive"]


class Keepalive:
    """The pings of one connection, and what bounds its silence. One thread at a time.

    Whatever bytes come show that the peer lives; a pong may have to queue behind them.

    Args:
        ping_interval: Seconds between two pings; ``None`` is none.
        ping_timeout: Seconds of silence after a ping that end the connection; ``None`` is none.
        idle_timeout: Seconds without a message that end it; ``None`` is none.
        now: The monotonic time at which it was opened.

    Attributes:
        latency: Seconds that the last ping took to and fro; ``None`` before the first.
    """

    def __init__(
        self,
        *,
        ping_interval: float | None,
        ping_timeout: float | None,
        idle_timeout: float | None,
        now: float,
    ) -> None:
        self._interval = ping_interval
        self._timeout = ping_timeout
        self._idle_timeout = idle_timeout
        self._number = 0
        self._ping_at = now  # when the last one was sent
        self._is_open = False  # it has not been answered
        self._heard_at = now
        self._message_at = now
        self.latency: float | None = None

    def heard(self, now: float) -> None:
        """Bytes have come."""
        self._heard_at = now

    def message(self, now: float) -> None:
        """A message has come."""
        self._message_at = now

    def pong(self, payload: bytes, now: float) -> None:
        """An answer to a ping has come, or a pong that nobody asked for."""
        if self._is_open and payload == self._payload():
            self._is_open = False
            self.latency = now - self._ping_at

    def resume(self, now: float) -> None:
        """Nobody has looked at what came, until now: begin to count again."""
        self._heard_at = self._message_at = now
        self._is_open = False
        self._ping_at = now

    def ping(self, now: float) -> bytes | None:
        """The payload of a ping that is to be sent now; ``None`` when none is."""
        if self._interval is None or self._is_open or now < self._ping_at + self._interval:
            return None
        self._number += 1
        self._ping_at = now
        self._is_open = True
        return self._payload()

    def is_dead(self, now: float) -> bool:
        """Whether a ping has had no answer in time."""
        return now >= self._silence_ends_at()

    def is_idle(self, now: float) -> bool:
        """Whether there was no message for too long."""
        return now >= self._idleness_ends_at()

    def next_at(self) -> float:
        """The monotonic time of what is due next, infinite when nothing is."""
        due_at = _INFINITE
        if self._is_open:
            due_at = self._silence_ends_at()
        elif self._interval is not None:
            due_at = self._ping_at + self._interval
        return due_at if self._idle_timeout is None else min(due_at, self._idleness_ends_at())

    def _payload(self) -> bytes:
        return b"%d" % self._number

    def _silence_ends_at(self) -> float:
        if not self._is_open or self._timeout is None:
            return _INFINITE
        return max(self._ping_at, self._heard_at) + self._timeout

    def _idleness_ends_at(self) -> float:
        if self._idle_timeout is None:
            return _INFINITE
        return self._message_at + self._idle_timeout


_INFINITE = float("inf")
