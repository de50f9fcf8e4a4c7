"""The events of one response: numbered, given to the sink, kept by the store."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from reasoning_sdk._core.assembly import copied
from reasoning_sdk.errors import ConfigurationError, LoopError, StorageError, StoreError
from reasoning_sdk.events import LoopEvent, LoopEventKind
from reasoning_sdk.typing import EventSink, MultiStepStore

__all__ = ["ResponseEvents", "ask_store"]

log = logging.getLogger("reasoning_sdk.loop")

# A response that goes on after a crash may have told of more than was kept. Its next number is
# higher by more than a model can say in one call.
_GAP = 1_000_000


def ask_store(method: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Call a method of a store.

    Raises:
        StoreError: It has failed, in whatever way.
    """
    try:
        return method(*args, **named)
    except (StoreError, LoopError, ConfigurationError):
        raise
    except Exception as exc:
        raise StorageError(f"the store has failed: {type(exc).__name__}: {exc}") from exc


class ResponseEvents:
    """Numbers events, gives them to a sink, and keeps them in a store. One thread at a time.

    Args:
        store: Keeps them, if it has ``append_events`` and ``events_after``; ``None`` keeps none.
        request_id: The response.
        sink: Gets them; what it raises is logged.

    Attributes:
        before: The events that were kept before.
        on_later: Called when there is something for :meth:`take_in`.
    """

    def __init__(
        self, store: MultiStepStore | None, request_id: str, sink: EventSink | None
    ) -> None:
        append: Callable[..., None] | None = getattr(store, "append_events", None)
        after: Callable[..., Sequence[LoopEvent]] | None = getattr(store, "events_after", None)
        self._append = append
        self._request_id = request_id
        self._sink = sink
        self._later: deque[tuple[LoopEventKind, dict[str, Any]]] = deque()
        self._unkept: list[LoopEvent] = []
        self._told = False
        self._ended = False
        self._emitted = 0
        self._failures: Counter[type[BaseException]] = Counter()
        self._after = after
        self.before: list[LoopEvent] = []
        self.on_later: Callable[[], object] = bool
        self._next = 0

    def open(self) -> None:
        """Go on after the events that were kept.

        Raises:
            StoreError: They cannot be read.
        """
        if self._after is not None:
            append, self._append = self._append, None  # without a number none can be kept
            self.before = list(ask_store(self._after, self._request_id, None))
            self._append = append
        if self.before:
            last = self.before[-1]
            self._next = last.sequence + 1 + (0 if last.kind.is_terminal else _GAP)

    @property
    def wanted(self) -> bool:
        """Whether anybody takes them."""
        return self._sink is not None or self._append is not None

    def begin(self, response: Any) -> None:
        """Tell that the response is under way, when the store has kept it.

        So whoever goes on after a crash knows that numbers were used.

        Raises:
            StoreError: It cannot be kept; nobody was told.
        """
        kinds = [LoopEventKind.CREATED] if not self.before else []
        kinds.append(LoopEventKind.IN_PROGRESS)
        events = self._unkept = [self._make(kind, {"response": response}) for kind in kinds]
        self.keep()
        for event in events:
            self._emit(event)

    def tell(self, kind: LoopEventKind, data: dict[str, Any]) -> None:
        """Tell of something."""
        if self._ended or (self._sink is None and kind.is_delta):
            return
        event = self._make(kind, data)
        if self._append is not None and not kind.is_delta:
            self._unkept.append(event)
        self._emit(event)

    def tell_later(self, kind: LoopEventKind, data: dict[str, Any]) -> None:
        """Have the thread of the run tell of something. Safe to call from any thread."""
        self._later.append((kind, data))
        self.on_later()

    def take_in(self) -> None:
        """Tell of what other threads have to tell, and have the store keep it.

        Raises:
            StoreError: It cannot.
        """
        if self._later:
            self._tell_of_others()
            self.keep()

    def _tell_of_others(self) -> None:
        while self._later:
            self.tell(*self._later.popleft())

    def keep(self) -> None:
        """Have the store keep what was told since the last time.

        Raises:
            StoreError: It cannot.
        """
        if self._append is None or not self._unkept:
            return
        unkept, self._unkept = self._unkept, []
        try:
            ask_store(self._append, self._request_id, unkept)
        except BaseException:  # a store takes each number once
            self._unkept[:0] = unkept
            raise

    def end(self, kind: LoopEventKind, response: Any) -> None:
        """Tell of the end, when the store has kept it. Whatever follows is not told.

        Raises:
            StoreError: It cannot be kept, and is no failure: nobody was told.
        """
        if self._ended:
            return
        self._tell_of_others()
        event = self._last_one(kind) or self._unkept_end(kind, response)
        try:
            self.keep()
        except StoreError as exc:
            if kind is not LoopEventKind.FAILED:
                self._unkept.remove(event)
                raise
            log.warning("the end of response %s is not kept: %s", self._request_id, exc)
        except BaseException:  # Ctrl-C: it may be kept by now
            self._tell_end(event)
            raise
        self._tell_end(event)

    def _tell_end(self, event: LoopEvent) -> None:
        try:
            self._emit(event)
        finally:
            self._ended = True
        self._log_failures()

    def _unkept_end(self, kind: LoopEventKind, response: Any) -> LoopEvent:
        event = self._make(kind, {"response": copied(response)})
        self._unkept.append(event)
        return event

    def _last_one(self, kind: LoopEventKind) -> LoopEvent | None:
        """The end that was told before, if it is the same and nothing has happened since."""
        if not self._told and self.before and self.before[-1].kind is kind:
            return self.before[-1]
        return None

    def _make(self, kind: LoopEventKind, data: dict[str, Any]) -> LoopEvent:
        number = self._next
        self._next += 1
        self._told = True
        return LoopEvent(number, kind, {"type": kind.value, "sequence_number": number, **data})

    def _emit(self, event: LoopEvent) -> None:
        if self._sink is None:
            return
        self._emitted += 1
        if not event.kind.is_delta:  # what a sink does to it must not be kept
            event = LoopEvent(event.sequence, event.kind, copied(event.data))
        try:
            self._sink.emit(event)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as exc:  # whoever listens must not stop the work
            kind, sink = type(exc), type(self._sink).__name__
            self._failures[kind] += 1
            if self._failures[kind] == 1:
                log.warning("event sink %r failed: %s: %s", sink, kind.__name__, exc)

    def _log_failures(self) -> None:
        if failed := self._failures.total():
            sink, of = type(self._sink).__name__, f"{failed:,} of {self._emitted:,} events"
            log.warning("event sink %r has failed for %s", sink, of)
