"""When a WebSocket connects again, and when it ends for good.

The states, and where each input leads; what is not in the table changes nothing::

                    opened    lost, worth    lost      close
                              another try    for good
    CONNECTING      OPEN      -              CLOSED    CLOSED
    OPEN            -         RECONNECTING   CLOSED    CLOSED
    RECONNECTING    OPEN      RECONNECTING   CLOSED    CLOSED
    CLOSED          -         -              -         -
"""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from reasoning_sdk.errors import (
    APIStatusError,
    ConfigurationError,
    ConnectionLostError,
    ReasoningError,
)
from reasoning_sdk.retry import Retries, RetryPolicy

__all__ = ["ConnectionState", "End", "Reconnection", "Retry"]

#: What another try would not change. 401 is not here: fresh credentials may.
_FINAL_STATUSES = frozenset({400, 403, 404})
_FINAL_CLOSE_CODES = frozenset({1008, 4001, 4003})
#: A connection that was open for so many seconds has worked, though it brought no message.
_LONG_ENOUGH = 60.0


class ConnectionState(Enum):
    """Where a connection is in its life."""

    CONNECTING = "CONNECTING"
    OPEN = "OPEN"
    RECONNECTING = "RECONNECTING"
    CLOSED = "CLOSED"


class Retry(NamedTuple):
    """Connect again.

    Attributes:
        delay: The seconds to wait before.
        attempt: The number of the attempt, from 1.
    """

    delay: float
    attempt: int


class End(NamedTuple):
    """It has ended for good.

    Attributes:
        error: Why; ``None`` if it had been closed before.
    """

    error: ReasoningError | None


class _Input(Enum):
    OPENED = "OPENED"
    RETRIED = "RETRIED"
    ENDED = "ENDED"


_STATE_AFTER = {
    (ConnectionState.CONNECTING, _Input.OPENED): ConnectionState.OPEN,
    (ConnectionState.CONNECTING, _Input.ENDED): ConnectionState.CLOSED,
    (ConnectionState.OPEN, _Input.RETRIED): ConnectionState.RECONNECTING,
    (ConnectionState.OPEN, _Input.ENDED): ConnectionState.CLOSED,
    (ConnectionState.RECONNECTING, _Input.OPENED): ConnectionState.OPEN,
    (ConnectionState.RECONNECTING, _Input.RETRIED): ConnectionState.RECONNECTING,
    (ConnectionState.RECONNECTING, _Input.ENDED): ConnectionState.CLOSED,
}


class Reconnection:
    """The life of one connection through all its losses. One thread at a time.

    Attributes:
        state: Where it is now.
        attempts: How many attempts to connect again have failed in a row.
        error: Why it has ended for good; ``None`` while it lives, or when it was closed.

    Args:
        retry: How often to connect again, and after how long.
        should_reconnect: Decides in place of the rules here which errors are worth another try. The
            policy's limits hold all the same.
    """

    def __init__(
        self,
        retry: RetryPolicy,
        should_reconnect: Callable[[ReasoningError], bool] | None = None,
    ) -> None:
        self.state = ConnectionState.CONNECTING
        self.attempts = 0
        self.error: ReasoningError | None = None
        self._retry = retry
        self._should_reconnect = should_reconnect
        self._retries: Retries | None = None  # since the last connection that has worked
        self._opened_at = 0.0
        self._may_refresh = True  # whether a 401 is worth another try, with fresh credentials
        self._refreshes = 0  # such attempts, which the policy does not count

    def opened(self, now: float) -> None:
        """There is a connection.

        The count goes on: a server that accepts and closes is to see longer and longer delays.

        Args:
            now: The monotonic time.
        """
        if self._enter(_Input.OPENED):
            self._opened_at = now
            self._may_refresh = True

    def message(self) -> None:
        """A message has come through this connection: it works, and the count starts again."""
        if self.state is ConnectionState.OPEN:
            self._forget_attempts()

    def lost(self, error: ReasoningError, now: float, *, final: bool = False) -> Retry | End:
        """The connection was lost, or the attempt to make it has failed.

        Args:
            error: What it was lost with.
            now: The monotonic time.
            final: Whether this error ends it whatever ``should_reconnect`` would say.

        Returns:
            What to do. Whatever ``should_reconnect`` raises comes through, and changes nothing.
        """
        if self.state is ConnectionState.CLOSED:
            return End(None)
        if final or self._is_final(error):
            return self._end(error)
        delay = self._next_delay(error, now)
        if delay is None:
            return self._end(self._used_up(error))
        if not self._enter(_Input.RETRIED):  # should_reconnect has closed it
            return End(None)
        return Retry(delay, self.attempts + 1)

    def close(self) -> None:
        """It was closed, by us."""
        self._enter(_Input.ENDED)

    def _enter(self, input: _Input) -> bool:
        """Whether an input means anything in this state; if so, the state is the next one."""
        state = _STATE_AFTER.get((self.state, input))
        if state is None:
            return False
        self.state = state
        return True

    def _is_final(self, error: ReasoningError) -> bool:
        if self.state is ConnectionState.CONNECTING:  # who connects is told, and decides
            return True
        if self._should_reconnect is not None:
            return not self._should_reconnect(error)
        if _is_unauthorized(error):
            return not self._may_refresh
        if isinstance(error, ConnectionLostError):
            return error.close_code in _FINAL_CLOSE_CODES
        if isinstance(error, APIStatusError):
            return error.status_code in _FINAL_STATUSES
        return isinstance(error, ConfigurationError)

    def _next_delay(self, error: ReasoningError, now: float) -> float | None:
        if self.state is ConnectionState.OPEN and now - self._opened_at >= _LONG_ENOUGH:
            self._forget_attempts()
        if self._retries is None:
            self._retries = Retries(self._retry, now)
        # All that were granted have failed by now.
        self.attempts = self._retries.attempts + self._refreshes
        if _is_unauthorized(error) and self._may_refresh:
            self._may_refresh = False
            self._refreshes += 1
            return 0.0
        asked = error.retry_after if isinstance(error, APIStatusError) else None
        return self._retries.next_delay(now, asked)

    def _forget_attempts(self) -> None:
        self._retries = None
        self._refreshes = self.attempts = 0

    def _used_up(self, error: ReasoningError) -> ConnectionLostError:
        lost = ConnectionLostError(
            f"no connection after {self.attempts} attempts: {error}",
            attempts=self.attempts,
            close_code=error.close_code if isinstance(error, ConnectionLostError) else None,
            last_error=error,
        )
        lost.__cause__ = error
        return lost

    def _end(self, error: ReasoningError) -> End:
        if not self._enter(_Input.ENDED):  # should_reconnect has closed it
            return End(None)
        self.error = error
        return End(error)


def _is_unauthorized(error: ReasoningError) -> bool:
    return isinstance(error, APIStatusError) and error.status_code == 401
