"""When to try again, and after how long."""

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime
from math import isfinite

import attrs
import backoff

from reasoning_sdk.arguments import shown
from reasoning_sdk.errors import ConfigurationError

__all__ = ["Retries", "RetryPolicy", "retry_after"]


def _check(
    valid: Callable[[float], bool], rule: str, *, optional: bool = False
) -> Callable[..., None]:
    def check(_: object, attribute: "attrs.Attribute[float]", value: float | None) -> None:
        if value is None and optional:
            return
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and valid(value)):  # type: ignore[arg-type]
            raise ConfigurationError(f"{attribute.name} must be {rule}, got {shown(value)}")

    return check


_LARGEST = sys.float_info.max  # no infinity, and no int beyond it
_positive = _check(lambda v: 0 < v <= _LARGEST, "> 0 seconds and finite")


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How a failed attempt is tried again. Immutable; safe to share between threads.

    The n-th delay (from 0) is ``min(initial_interval * multiplier**n, max_interval)``, spread
    uniformly over ``± randomization_factor`` of itself. A server's ``Retry-After`` takes the place
    of the delay, ``max_retry_after`` at the most.

    Args:
        initial_interval: The first delay, in seconds.
        multiplier: What each delay is multiplied with to give the next.
        max_interval: No delay is longer than this many seconds, before it is spread.
        randomization_factor: From 0 (no jitter) to 1.
        max_attempts: How many times to try *again*; ``None`` is no limit, 0 never.
        max_elapsed_time: Seconds from the first try within which the last delay must have ended;
            ``None`` is no limit.
        max_retry_after: No ``Retry-After`` is waited for longer than this many seconds.

    Raises:
        ConfigurationError: A value is outside its range.

    Example:
        >>> policy = RetryPolicy(initial_interval=1.0, max_attempts=4, randomization_factor=0.0)
        >>> list(policy.delays())
        [1.0, 2.0, 4.0, 8.0]
    """

    initial_interval: float = attrs.field(default=0.5, validator=_positive)
    multiplier: float = attrs.field(
        default=2.0, validator=_check(lambda v: 1 <= v <= _LARGEST, ">= 1 and finite")
    )
    max_interval: float = attrs.field(default=30.0, validator=_positive)
    randomization_factor: float = attrs.field(
        default=0.5, validator=_check(lambda v: 0 <= v <= 1, "between 0 and 1")
    )
    max_attempts: int | None = attrs.field(
        default=None,
        validator=_check(lambda v: v >= 0 and v % 1 == 0, "a whole number >= 0", optional=True),
    )
    max_elapsed_time: float | None = attrs.field(
        default=None, validator=_check(lambda v: v >= 0, ">= 0 seconds", optional=True)
    )
    max_retry_after: float = attrs.field(
        default=120.0, validator=_check(lambda v: v >= 0, ">= 0 seconds")
    )

    def delays(self) -> Iterator[float]:
        """Yield the seconds to wait before each retry.

        Ends after ``max_attempts`` delays, or before the one that would take the sum of all beyond
        ``max_elapsed_time``. Every call starts afresh. Safe to call from any thread.

        Yields:
            The next delay, in seconds.
        """
        retries, elapsed = Retries(self, 0.0), 0.0
        while (delay := retries.next_delay(elapsed)) is not None:
            yield delay
            elapsed += delay


class Retries:
    """The retries of one call: the next delay, or that there is none. One thread at a time.

    Attributes:
        attempts: How many retries have been granted.

    Args:
        policy: How to retry.
        started_at: The monotonic time of the first try.
    """

    def __init__(self, policy: RetryPolicy, started_at: float) -> None:
        self._policy = policy
        self._started_at = started_at
        self.attempts = 0
        self._intervals = backoff.expo(
            base=self._policy.multiplier,
            factor=self._policy.initial_interval,
            max_value=self._policy.max_interval,
        )
        self._interval = 0.0
        next(self._intervals)  # primes the generator; what it yields differs between versions

    def next_delay(self, now: float, retry_after: float | None = None) -> float | None:
        """The seconds to wait before the next try, or ``None`` when there is to be none.

        Args:
            now: The monotonic time.
            retry_after: What the server asked for, in seconds.
        """
        policy = self._policy
        if policy.max_attempts is not None and self.attempts >= policy.max_attempts:
            return None
        spread = policy.randomization_factor * (2 * random.random() - 1)  # noqa: S311
        delay = self._next_interval() * (1 + spread)
        if retry_after is not None:
            delay = min(retry_after, policy.max_retry_after)
        elapsed = now - self._started_at + delay
        if policy.max_elapsed_time is not None and elapsed > policy.max_elapsed_time:
            return None
        self.attempts += 1
        return delay

    def _next_interval(self) -> float:
        """The next delay before it is spread."""
        try:
            self._interval = next(self._intervals)
        except (OverflowError, StopIteration):  # a power beyond any float ends the generator
            longer = self._interval * self._policy.multiplier
            self._interval = min(longer, self._policy.max_interval)
        return self._interval


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that a server asks to wait, from its answer's headers.

    Args:
        headers: The answer's headers, their names in lower case.
        now: Wall-clock seconds since the epoch.

    Returns:
        Seconds from now, never negative; ``None`` when the headers do not say, or cannot be read.

    Source: RFC 9110 section 10.2.3; ``retry-after-ms`` is the Responses API's own, and wins.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is None and value is not None:
        seconds = _seconds_until(value, now)
    return seconds


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return max(number, 0.0) if isfinite(number) else None


def _seconds_until(date: str, now: float) -> float | None:
    try:
        at = parsedate_to_datetime(date)
        if at.tzinfo is None:  # asctime's form names no zone, and means UTC
            at = at.replace(tzinfo=timezone.utc)
        return max(at.timestamp() - now, 0.0)
    except (TypeError, ValueError, OverflowError):
        return None
