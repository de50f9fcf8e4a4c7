"""What has been received and not yet been taken: batches, with a bound, and what to do at it."""

from collections import deque
from collections.abc import Iterator
from operator import length_hint
from typing import Any

__all__ = ["OVERFLOWS", "Batch", "Inbox"]

OVERFLOWS = ("block", "drop_oldest", "drop_newest")
_NOTHING = object()


class Batch:
    """Items that have arrived at once. Whoever holds it takes them one by one.

    Attributes:
        items: The items that are left. To take one is a single step: others may do so meanwhile.
        received_at: When they came, in wall-clock seconds since the epoch.
        has_messages: Whether they are messages; else, there is one and it is about them.
    """

    __slots__ = ("_count", "_size", "has_messages", "items", "received_at")

    def __init__(
        self, items: list[Any], *, size: int = 0, received_at: float = 0.0, has_messages: bool
    ) -> None:
        self.items: Iterator[Any] = iter(items)
        self.received_at = received_at
        self.has_messages = has_messages
        self._count = len(items) if has_messages else 0
        self._size = size


class Inbox:
    """A bounded queue of batches. One thread at a time uses it.

    A batch counts, with all its bytes, until its last item has been taken: what somebody has in
    hand is as much in memory as what waits.

    Args:
        overflow: What to do when there is too much: with ``"block"`` nothing, but to say so;
            ``"drop_oldest"``; ``"drop_newest"``.
        max_count: The most messages, when some may be dropped; ``None`` is no limit.
        max_size: The most bytes, give or take a batch; ``None`` is no limit.

    Attributes:
        size: The bytes of all batches.
        dropped: How many messages were dropped.
    """

    def __init__(self, *, overflow: str, max_count: int | None, max_size: int | None) -> None:
        self._overflow = overflow
        self._max_count = None if overflow == "block" else max_count
        self._max_size = max_size
        self._batches: deque[Batch] = deque()
        self._count = 0
        self.size = 0
        self.dropped = 0

    def __len__(self) -> int:
        """How many messages there are."""
        taken = 0
        if self._batches:  # only of the first are some taken
            first = self._batches[0]
            taken = first._count - length_hint(first.items) if first.has_messages else 0
        return self._count - taken

    @property
    def is_full(self) -> bool:
        """Whether no more is to be received for now."""
        if self._max_size is None or self._overflow != "block" or self.size < self._max_size:
            return False
        self._forget_what_was_taken()
        return self.size >= self._max_size

    def put(self, messages: list[Any], size: int, received_at: float) -> None:
        """Add messages that have come together.

        Args:
            messages: In order.
            size: Their bytes.
            received_at: When they came, in wall-clock seconds since the epoch.
        """
        self._forget_what_was_taken()
        if self._overflow == "drop_newest":
            messages = self._that_have_room(messages)
        if messages:
            self._add(Batch(messages, size=size, received_at=received_at, has_messages=True))
        if self._overflow == "drop_oldest":
            self._drop_oldest()

    def put_other(self, item: Any) -> None:
        """Add, in its place, what is no message. It is never dropped."""
        self._add(Batch([item], has_messages=False))

    def first(self) -> Batch | None:
        """The first batch with items left; it stays until they have been taken."""
        self._forget_what_was_taken()
        return self._batches[0] if self._batches else None

    def _add(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._count += batch._count
        self.size += batch._size

    def _forget_what_was_taken(self) -> None:
        while self._batches and not length_hint(self._batches[0].items):
            self._remove(self._batches.popleft())
        if not self._batches:  # Ctrl-C may have come between the two
            self._count = self.size = 0

    def _remove(self, batch: Batch) -> None:
        self._count -= batch._count
        self.size -= batch._size

    def _that_have_room(self, messages: list[Any]) -> list[Any]:
        room = len(messages)
        if self._max_count is not None:
            room = max(self._max_count - len(self), 0)
        if self._max_size is not None and self.size >= self._max_size:
            room = 0
        self.dropped += len(messages[room:])
        return messages[:room]

    def _drop_oldest(self) -> None:
        passed_over = []
        while self._has_too_much():
            batch = self._batches.popleft()
            if batch.has_messages:
                self._drop_from(batch)
            if length_hint(batch.items):
                passed_over.append(batch)
            else:
                self._remove(batch)
        self._batches.extendleft(reversed(passed_over))

    def _has_too_much(self) -> bool:
        return self._excess() > 0 or self._is_too_large()

    def _excess(self) -> int:
        return 0 if self._max_count is None else len(self) - self._max_count

    def _is_too_large(self) -> bool:
        # The last may be larger than all that is allowed: it is still the newest.
        too_large = self._max_size is not None and self.size > self._max_size
        return too_large and len(self._batches) > 1

    def _drop_from(self, batch: Batch) -> None:
        """Drop the first messages of a batch that has been taken out, or all."""
        left = length_hint(batch.items)
        self._count -= batch._count - left
        batch._count = left
        too_large = self._max_size is not None and self.size > self._max_size
        excess = left if too_large and self._batches else self._excess()
        dropped = 0
        while dropped < excess and next(batch.items, _NOTHING) is not _NOTHING:
            dropped += 1
        self.dropped += dropped
        self._count -= dropped
        batch._count -= dropped
