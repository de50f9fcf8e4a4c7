"""Events on their way out: which to send next, and what becomes of those that failed.

Events of one id form a lane, and reach their destination in the order in which they were put in.
Lanes go side by side. One whose first event failed waits for its retry, and the others go on. A
destination has a gate: while it fails as a whole the gate is shut, and opens from time to time for
a single event, the probe. Every event is delivered, or lost and counted under a reason::

    submitted == delivered + dropped + queued + in flight
"""

import heapq
from collections import deque
from collections.abc import Hashable
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

import attrs

from reasoning_sdk.errors import ReasoningError
from reasoning_sdk.retry import Retries, RetryPolicy

__all__ = ["Item", "Loss", "Mark", "Outbox"]


class _Target(Protocol):
    """Where an event is sent to."""

    @property
    def destination(self) -> Hashable:
        """What has one gate: a host, or a service on it."""


_T = TypeVar("_T", bound=_Target)
_MOST_BESIDES = 1000


class Item(Generic[_T]):
    """One event: what is sent, in which lane, and where to. Many wait at a time, so it is small.

    Attributes:
        body: What is sent.
        lane: Its id: events of one id stay in order.
        target: Where to, for whoever sends it; its ``destination`` has the gate.
        number: Its place in the order of arrival.
        settled: Whether it was delivered or lost.
        keeper: Where it is kept until it is settled, if anywhere.
        tries: Its tries so far; ``None`` before the first.
    """

    __slots__ = (
        "_last", "_next", "body", "keeper", "lane", "number", "settled", "target", "tries"
    )  # fmt: skip

    def __init__(self, body: bytes, lane: str, target: _T, keeper: Any = None) -> None:
        self.body = body
        self.lane = lane
        self.target = target
        self.keeper = keeper
        self.number = 0
        self.settled = False
        self.tries: Retries | None = None
        self._next: Item[_T] | None = None  # in its lane
        self._last: Item[_T] | None = None  # of its lane, if this is the first

    def __lt__(self, other: "Item[_T]") -> bool:
        return self.number < other.number


@attrs.frozen(kw_only=True)
class Loss(Generic[_T]):
    """An event that was put in and will not be delivered.

    Args:
        item: The event.
        reason: Why, in a word.
        error: What it failed with at last.
    """

    item: Item[_T]
    reason: str
    error: Exception


class Mark:
    """The events that were there at a moment: how many of them are still to be settled."""

    def __init__(self, number: int, left: int) -> None:
        self._number = number
        self.left = left


class _Gate(Enum):
    OPEN = "OPEN"
    SHUT = "SHUT"
    PROBING = "PROBING"  # open for one at a time


class _Destination(Generic[_T]):
    """The lanes to one destination, and its gate."""

    __slots__ = (
        "delayed", "doubted", "gate", "in_flight", "is_runnable", "lanes", "name", "probe", "ready",
        "retries", "shut_by", "shut_until",
    )  # fmt: skip

    def __init__(self, name: Hashable) -> None:
        self.name = name
        self.lanes: dict[str, Item[_T]] = {}  # the first of each
        self.ready: list[Item[_T]] = []  # those of them that can be sent: a heap, by arrival
        self.delayed: list[tuple[float, Item[_T]]] = []  # those that failed: a heap, by time
        self.in_flight = 0
        self.is_runnable = False
        self.gate = _Gate.OPEN
        self.shut_until = 0.0
        self.shut_by = 0  # the number of the event whose failure shut the gate last
        self.retries: Retries | None = None  # of the gate
        self.probe: Item[_T] | None = None
        self.doubted: str | None = None  # the lane that failed last, with no success since

    def can_give(self, workers: int) -> bool:
        if not self.ready or self.gate is _Gate.SHUT:
            return False
        return self.in_flight < workers if self.gate is _Gate.OPEN else self.probe is None

    def pop(self) -> Item[_T]:
        """The oldest that can be sent; of probes each in turn, or one could keep the gate shut."""
        if self.gate is _Gate.OPEN or self.ready[0].number > self.shut_by:
            return heapq.heappop(self.ready)
        item = min(self.ready, key=lambda item: (item.number <= self.shut_by, item.number))
        self.ready.remove(item)
        heapq.heapify(self.ready)
        return item

    def remove(self, item: Item[_T]) -> None:
        """Take out the oldest that waits: of those that are ready it is the first."""
        if self.ready and self.ready[0] is item:
            heapq.heappop(self.ready)
        else:
            self.delayed = [entry for entry in self.delayed if entry[1] is not item]
            heapq.heapify(self.delayed)

    def open(self) -> None:
        self.gate, self.retries, self.probe, self.doubted = _Gate.OPEN, None, None, None
        self.shut_until = 0.0


class Outbox(Generic[_T]):
    """Events on their way out. One thread at a time: the caller has the lock, and the clock.

    Args:
        max_queue: The most events that wait at a time; ``None`` is no limit.
        max_queue_bytes: The most bytes of theirs; ``None`` is no limit.
        drop_oldest: Whether the oldest makes room for a new one; else the new one is refused.
        workers: The most events on their way to one destination at a time.
        retry: When an event is tried again, and until when.

    Attributes:
        submitted: How many events were put in or refused.
        delivered: How many have arrived.
        dropped: How many were lost or refused, by reason.
        lost: How many of these had been accepted.
        retries: How many tries were not the first of their event.
        drop_oldest: As given.
        queued: How many wait.
        queued_bytes: The bytes of these.
        in_flight: How many are being sent.
        losses: What was lost, for the caller to take out.
    """

    def __init__(
        self,
        *,
        max_queue: int | None,
        max_queue_bytes: int | None,
        drop_oldest: bool,
        workers: int,
        retry: RetryPolicy,
    ) -> None:
        self._max_queue = float("inf") if max_queue is None else max_queue
        self._max_bytes = float("inf") if max_queue_bytes is None else max_queue_bytes
        self.drop_oldest = drop_oldest
        self._workers = workers
        self._retry = retry
        self._gate_retry = attrs.evolve(retry, max_attempts=None, max_elapsed_time=None)
        self._destinations: dict[Hashable, _Destination[_T]] = {}
        self._runnable: deque[_Destination[_T]] = deque()  # in turn
        self._timers: list[tuple[float, int, _Destination[_T]]] = []  # when to look again: a heap
        self._flying: set[Item[_T]] = set()
        self._marks: list[Mark] = []
        self._order: list[Item[_T]] = []  # where the oldest is to be dropped: a heap, by arrival
        self._number = 0
        self.submitted = self.delivered = self.lost = self.retries = 0
        self.queued = self.queued_bytes = self.in_flight = 0
        self.dropped: dict[str, int] = {}
        self.losses: deque[Loss[_T]] = deque()

    # -- in ------------------------------------------------------------------------------------

    @property
    def has_space(self) -> bool:
        """Whether less waits than may."""
        return self.queued < self._max_queue and self.queued_bytes < self._max_bytes

    def has_room(self, size: int, besides: int = 0, besides_bytes: int = 0) -> bool:
        """Whether an event of so many bytes would be accepted, after so many others.

        This may be asked without the lock, as :meth:`wants` may.
        """
        if self.drop_oldest:  # but of what is not in yet there may be no more than that again
            return (
                size <= self._max_bytes
                and self._max_queue > 0
                and besides < self._max_queue + _MOST_BESIDES
                and besides_bytes < self._max_bytes + _MOST_BESIDES
            )
        return (
            self.queued + besides < self._max_queue
            and self.queued_bytes + besides_bytes + size <= self._max_bytes
        )

    def wants(self, item: Item[_T]) -> bool:
        """Whether an event that is not in yet could be given as soon as it is."""
        destination = self._destinations.get(item.target.destination)
        return destination is None or (
            destination.gate is _Gate.OPEN
            and destination.in_flight < self._workers
            and item.lane not in destination.lanes
        )

    def refuse(self, reason: str) -> None:
        """Count an event that is not put in."""
        self.submitted += 1
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def put(self, item: Item[_T], *, anyway: bool = False) -> bool:
        """Take an event in; others may be lost for it.

        Args:
            item: The event.
            anyway: Whether to take it in though there is no room.

        Returns:
            Whether it was accepted. If not, it is counted as ``queue_full``.
        """
        size = len(item.body)
        if not (anyway or self.has_room(size)):
            self.refuse("queue_full")
            return False
        if self.drop_oldest and not anyway:
            self._make_room(size)
        self.submitted += 1
        self._number += 1
        item.number = self._number
        self.queued += 1
        self.queued_bytes += size
        if self.drop_oldest:
            self._remember(item)
        name = item.target.destination
        destination = self._destinations.get(name)
        if destination is None:
            destination = self._destinations[name] = _Destination(name)
        first = destination.lanes.get(item.lane)
        if first is None:
            destination.lanes[item.lane] = item._last = item
            heapq.heappush(destination.ready, item)
            self._offer(destination)
        else:
            assert first._last is not None  # it is the first
            first._last._next = first._last = item
            item.lane = first.lane  # one string for all of them
        return True

    def _make_room(self, size: int) -> None:
        while self.queued >= self._max_queue or self.queued_bytes + size > self._max_bytes:
            item = heapq.heappop(self._order)
            if not item.settled and item not in self._flying:
                self._evict(item)

    def _remember(self, item: Item[_T]) -> None:
        """Note the order of arrival, and forget what is settled."""
        if len(self._order) > 2 * self.queued + _MOST_BESIDES:
            self._order = [other for other in self._order if not other.settled]
            heapq.heapify(self._order)
        heapq.heappush(self._order, item)

    def _evict(self, item: Item[_T]) -> None:
        destination = self._destination_of(item)
        first = destination.lanes[item.lane]
        if item is not first:  # which is being sent
            first._next = item._next
            if first._last is item:
                first._last = first
            item._next = None
        else:
            destination.remove(item)
            self._leave(destination, item)
        self.queued -= 1
        self.queued_bytes -= len(item.body)
        self._lose(item, "queue_full", ReasoningError("a newer event took its place"))

    # -- out -----------------------------------------------------------------------------------

    @property
    def can_give(self) -> bool:
        """Whether :meth:`take` would give an event, as far as is known without the time."""
        return bool(self._runnable)

    def take(self, now: float) -> Item[_T] | None:
        """The event to send now; it is in flight until it is said what became of it."""
        while self._timers and self._timers[0][0] <= now:
            self._look_again(heapq.heappop(self._timers)[2], now)
        while self._runnable:
            destination = self._runnable.popleft()
            destination.is_runnable = False
            if not destination.can_give(self._workers):
                continue
            item = destination.pop()
            destination.in_flight += 1
            if destination.gate is _Gate.PROBING:
                destination.probe = item
            self._offer(destination)
            self.queued -= 1
            self.queued_bytes -= len(item.body)
            self.in_flight += 1
            self._flying.add(item)
            if item.tries is None:
                item.tries = Retries(self._retry, now)
            else:
                self.retries += 1
            return item
        return None

    def next_at(self) -> float | None:
        """When to call :meth:`take` again, if nothing happens before; ``None``: not at all."""
        return self._timers[0][0] if self._timers else None

    def _look_again(self, destination: _Destination[_T], now: float) -> None:
        """Do what has become due at a destination."""
        while destination.delayed and destination.delayed[0][0] <= now:
            heapq.heappush(destination.ready, heapq.heappop(destination.delayed)[1])
        if destination.gate is _Gate.SHUT and destination.shut_until <= now:
            destination.gate = _Gate.PROBING
        self._offer(destination)

    def _offer(self, destination: _Destination[_T]) -> None:
        if not destination.is_runnable and destination.can_give(self._workers):
            destination.is_runnable = True
            self._runnable.append(destination)

    # -- what became of it ---------------------------------------------------------------------

    def deliver(self, item: Item[_T]) -> None:
        """An event has arrived."""
        destination = self._land(item)
        destination.open()
        self.delivered += 1
        self._leave(destination, item)
        self._settle(item)

    def give_up(self, item: Item[_T], reason: str, error: Exception) -> None:
        """An event in flight is not to be tried again."""
        destination = self._land(item)
        if reason == "rejected":  # by a destination that works
            destination.open()
        elif destination.probe is item:
            destination.probe = None
        self._leave(destination, item)
        self._lose(item, reason, error)

    def put_back(self, item: Item[_T]) -> None:
        """The try was broken off, by us: the event waits as if it had not been made."""
        destination = self._land(item)
        if destination.probe is item:
            destination.probe = None
        self._wait_again(item)
        heapq.heappush(destination.ready, item)
        self._offer(destination)

    def fail(
        self,
        item: Item[_T],
        now: float,
        error: Exception,
        *,
        retry_after: float | None = None,
        everywhere: bool = False,
    ) -> None:
        """A try has failed; the event is tried again, unless its budget is used up.

        Args:
            item: The event.
            now: The monotonic time.
            error: What it failed with.
            retry_after: The seconds that the destination asks to wait.
            everywhere: Whether other events would fail there just as well. Else it takes failures
                in two lanes, and no success between them, to think so.
        """
        destination = self._land(item)
        everywhere = everywhere or retry_after is not None
        if destination.probe is item:
            destination.probe = None
            self._shut(destination, item, now, retry_after)
        elif destination.gate is _Gate.OPEN:
            if everywhere or destination.doubted not in (None, item.lane):
                self._shut(destination, item, now, retry_after)
            destination.doubted = item.lane
        elif retry_after is not None:  # from one that was under way when the gate was shut
            self._shut(destination, item, now, retry_after)
        assert item.tries is not None  # it was taken
        delay = item.tries.next_delay(now, retry_after)
        if delay is None:
            self._leave(destination, item)
            self._lose(item, "budget_exhausted", error)
            return
        self._wait_again(item)
        heapq.heappush(destination.delayed, (now + delay, item))
        self._set_timer(now + delay, destination)
        self._offer(destination)

    def _wait_again(self, item: Item[_T]) -> None:
        self.queued += 1
        self.queued_bytes += len(item.body)
        if self.drop_oldest:
            heapq.heappush(self._order, item)

    def _land(self, item: Item[_T]) -> _Destination[_T]:
        destination = self._destination_of(item)
        destination.in_flight -= 1
        self._flying.remove(item)
        self.in_flight -= 1
        return destination

    def _shut(
        self, destination: _Destination[_T], item: Item[_T], now: float, retry_after: float | None
    ) -> None:
        if destination.retries is None:
            destination.retries = Retries(self._gate_retry, now)
        delay = destination.retries.next_delay(now, retry_after)
        assert delay is not None  # it has no limit
        destination.gate, destination.shut_by = _Gate.SHUT, item.number
        destination.shut_until = max(destination.shut_until, now + delay)
        self._set_timer(destination.shut_until, destination)

    def _set_timer(self, at: float, destination: _Destination[_T]) -> None:
        self._number += 1  # destinations have no order
        heapq.heappush(self._timers, (at, self._number, destination))

    def _leave(self, destination: _Destination[_T], item: Item[_T]) -> None:
        """Take the first of a lane out; the one behind it is the first now."""
        following, last = item._next, item._last
        item._next = item._last = None  # it may be its own last, and is to be freed at once
        if following is not None:
            following._last = last
            destination.lanes[item.lane] = following
            heapq.heappush(destination.ready, following)
        else:
            del destination.lanes[item.lane]
        if destination.lanes:
            self._offer(destination)
            return
        del self._destinations[destination.name]
        if destination.is_runnable:  # what it could give was evicted
            self._runnable.remove(destination)

    def _lose(self, item: Item[_T], reason: str, error: Exception) -> None:
        self.lost += 1
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self.losses.append(Loss(item=item, reason=reason, error=error))
        self._settle(item)

    def _destination_of(self, item: Item[_T]) -> _Destination[_T]:
        return self._destinations[item.target.destination]

    # -- all together --------------------------------------------------------------------------

    def mark(self) -> Mark:
        """A mark that tells how many of the events that are here now are still to be settled."""
        mark = Mark(self._number, self.queued + self.in_flight)
        if mark.left:
            self._marks.append(mark)
        return mark

    def unmark(self, mark: Mark) -> None:
        """Nobody looks at a mark any more."""
        self._marks = [other for other in self._marks if other is not mark]

    def _settle(self, item: Item[_T]) -> None:
        if self._marks:
            for mark in self._marks:
                if item.number <= mark._number:
                    mark.left -= 1
            self._marks = [mark for mark in self._marks if mark.left]
        if self.drop_oldest:
            item.settled = True
            while self._order and self._order[0].settled:
                heapq.heappop(self._order)

    def drop_queued(self, reason: str, error: Exception) -> None:
        """Lose every event that waits, unless it is kept somewhere. Nothing is sent after that."""
        for destination in self._destinations.values():
            lanes = {}
            for lane, first in destination.lanes.items():
                following: Item[_T] | None = first
                if first in self._flying:
                    lanes[lane] = first
                    following, first._next, first._last = first._next, None, first
                while (item := following) is not None:
                    following, item._next, item._last = item._next, None, None
                    if item.keeper is None:
                        self.queued -= 1
                        self.queued_bytes -= len(item.body)
                        self._lose(item, reason, error)
            destination.lanes, destination.ready, destination.delayed = lanes, [], []
            destination.is_runnable = False
        self._runnable.clear()
        self._destinations = {
            name: destination
            for name, destination in self._destinations.items()
            if destination.lanes
        }
