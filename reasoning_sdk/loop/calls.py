"""Steps that are taken on other threads, side by side."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from reasoning_sdk._io.thread import Signal
from reasoning_sdk._io.workers import Workers
from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.encoding import encode_json, parse_json
from reasoning_sdk.errors import InvalidEventError, ToolArgumentsError, ToolTimeoutError
from reasoning_sdk.loop.failures import error_of
from reasoning_sdk.steps import ChainStep

__all__ = ["Calls", "Outcome", "arguments_of", "in_order", "name_of"]

log = logging.getLogger("reasoning_sdk.loop")

_PATIENCE = 10.0


@attrs.frozen
class Outcome:
    """What came of a step: a payload, or an error."""

    payload: Any = None
    error: Any = None


@attrs.define(eq=False)
class _Call:
    """A step that is being taken on another thread."""

    step: ChainStep
    cancellation: Cancellation
    deadline: float | None
    is_awaited: bool


class Calls:
    """Steps that are being taken on other threads. One thread at a time."""

    def __init__(self, workers: Workers) -> None:
        self.running: dict[str, _Call] = {}
        self._workers = workers
        self._signal = Signal()
        self._ended: deque[tuple[str, Outcome | BaseException]] = deque()

    def wake(self) -> None:
        """End the wait in :meth:`next_ended`. Safe to call from any thread."""
        self._signal.give()

    def start(
        self,
        step: ChainStep,
        take: Callable[[Cancellation], Outcome],
        timeout: float | None,
        *,
        is_awaited: bool = False,
    ) -> None:
        """Have a step taken, in so many seconds.

        Args:
            step: The step.
            take: Takes it, until its cancellation says that it is to stop.
            timeout: Seconds for it; ``None`` is no limit.
            is_awaited: Whether it is waited for when it is told to stop.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        call = _Call(step, Cancellation(), deadline, is_awaited)
        self.running[step.id] = call

        def run() -> None:
            outcome: Outcome | BaseException
            try:
                outcome = take(call.cancellation)
            except BaseException as exc:  # raised by the thread that waits
                outcome = exc
            self._ended.append((step.id, outcome))
            self._signal.give()

        self._workers.start(run)

    def next_ended(self) -> tuple[ChainStep, Outcome] | None:
        """Wait for one to end, or to run out of time; ``None`` when something else is the matter.

        Raises:
            StoreError: The store has failed it.
        """
        if not self._ended:
            self._signal.take(self._seconds_left())
        while self._ended:
            step_id, outcome = self._ended.popleft()
            call = self.running.pop(step_id, None)
            if call is None:
                continue  # it has run out of time before
            if isinstance(outcome, BaseException):
                raise outcome
            return call.step, outcome
        return self._expired()

    def _seconds_left(self) -> float | None:
        deadlines = [c.deadline for c in self.running.values() if c.deadline is not None]
        return max(min(deadlines) - time.monotonic(), 0.0) if deadlines else None

    def _expired(self) -> tuple[ChainStep, Outcome] | None:
        now = time.monotonic()
        for call in self.running.values():
            if call.deadline is not None and call.deadline <= now:
                del self.running[call.step.id]
                call.cancellation.cancel()
                error = ToolTimeoutError(f"tool {name_of(call.step)!r} took too long")
                return call.step, Outcome(error=error_of(error))
        return None

    def abandon(self) -> None:
        """Tell those that still run to stop, and wait for those that have to be awaited.

        An agent asks the store as long as it runs, and who goes on with the response must not meet
        it there. It stops as soon as it looks.
        """
        for call in self.running.values():
            call.cancellation.cancel()
        until = time.monotonic() + _PATIENCE
        awaited = {call.step.id for call in self.running.values() if call.is_awaited}
        while awaited and time.monotonic() < until:
            awaited.difference_update(step_id for step_id, _ in tuple(self._ended))
            if awaited:
                self._signal.take(until - time.monotonic())
        if awaited:
            log.warning("%d agents have not ended in %g seconds", len(awaited), _PATIENCE)


def in_order(
    steps: Sequence[ChainStep], ended: Iterable[tuple[ChainStep, Outcome]]
) -> Iterator[tuple[ChainStep, Outcome]]:
    """What came of steps, in the order of the steps: of each as soon as that is known."""
    waiting, outcomes = deque(steps), dict[str, Outcome]()
    for step, outcome in ended:
        outcomes[step.id] = outcome
        while waiting and waiting[0].id in outcomes:
            first = waiting.popleft()
            yield first, outcomes[first.id]


def name_of(step: ChainStep) -> str:
    """The tool that a step calls."""
    payload = step.request_payload
    return str(payload.get("name", "")) if isinstance(payload, Mapping) else ""


def arguments_of(step: ChainStep) -> Mapping[str, Any]:
    """The arguments of a tool call, for the tool to do with as it likes.

    Raises:
        ToolArgumentsError: They are no JSON object.
    """
    args = step.request_payload.get("args")
    try:
        read = parse_json(args) if isinstance(args, str) else args
        own = parse_json(encode_json(read))
    except (ValueError, InvalidEventError) as exc:
        raise ToolArgumentsError(f"arguments are not JSON: {exc}") from exc
    if not isinstance(own, Mapping):
        raise ToolArgumentsError(f"arguments must be a JSON object, got {type(own).__name__}")
    return own
