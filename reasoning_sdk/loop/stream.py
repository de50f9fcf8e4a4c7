"""A response that is carried out on another thread, as an iterator over its events."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import finalize

from reasoning_sdk._core.display import response_html
from reasoning_sdk._core.responses import ResponseState
from reasoning_sdk._io.reader import BlockingReader
from reasoning_sdk._io.thread import Signal
from reasoning_sdk.cancellation import Cancellation
from reasoning_sdk.errors import StateError
from reasoning_sdk.events import LoopEvent, ResponseEvent

__all__ = ["EventQueue", "LoopStream"]

_MOST_WAITING = 10_000


class LoopStream(BlockingReader[LoopEvent]):
    """A response that is being carried out: an iterator over its events.

    Made by :meth:`ResponseLoop.stream`. Iterate it, one thread at a time; the rest is safe to use
    from any thread. Iteration ends after the event that ends the response, or quietly after
    :meth:`close`, which cancels the response; so does forgetting the stream. While 10,000 events
    wait to be read, the response waits, too. When it does not complete, the iterator raises the
    error of :meth:`ResponseLoop.run`, after the event that says so.
    """

    def __init__(self, queue: "EventQueue", response_id: str, cancellation: Cancellation) -> None:
        super().__init__()
        self._queue = queue
        self._cancellation = cancellation
        self._state = ResponseState(response_id)
        self.response_id = response_id
        finalize(self, cancellation.cancel).atexit = False

    def __repr__(self) -> str:
        state = self._state
        return (
            f"<LoopStream {self._status().upper()} {self.response_id} "
            f"items={len(state.items)} characters={len(state.text)}>"
        )

    def _status(self) -> str:
        if self._closing.is_set() and not self._state.terminal:
            return "closed"
        return self._state.status

    def _repr_html_(self) -> str:
        state = self._state
        return response_html(
            status=self._status(),
            response_id=self.response_id,
            model=state.model,
            items=state.items,
            open_text=state.open_text,
            usage=state.usage,
            problem=str(state.error or ""),
        )

    def __next__(self) -> LoopEvent:
        while True:
            for event in self._batch:
                self._take_in(event)
                return event
            self._fetch()

    @property
    def text(self) -> str:
        """The output text so far."""
        return self._state.text

    @property
    def items(self) -> list[dict[str, Any]]:
        """The output items finished so far."""
        return list(self._state.items)

    @property
    def response(self) -> dict[str, Any]:
        """The object of the Responses API, when the stream has ended.

        Raises:
            StateError: It has not.
        """
        if not self._state.terminal:
            raise StateError("the response has not ended")
        return self._state.response.data

    def text_deltas(self) -> Iterator[str]:
        """Iterate over the output text as it arrives. One thread at a time.

        Yields:
            Pieces of text.

        Raises:
            ReasoningError: As the iteration over the events.
        """
        for event in self:
            if self._state.new_text and "agent" not in event.data:
                yield self._state.new_text

    def until_done(self) -> dict[str, Any]:
        """Read the stream to its end. One thread at a time.

        Returns:
            The object of the Responses API.

        Raises:
            StateError: The stream was closed before its end.
            ReasoningError: As the iteration over the events.
        """
        for _ in self:
            pass
        return self.response

    def _take_in(self, event: LoopEvent) -> None:
        if "agent" not in event.data:
            self._state.apply(ResponseEvent(type=event.kind.value, data=event.data))

    def _next_batch(self) -> Sequence[LoopEvent]:
        return self._queue.take()

    def _free(self) -> None:
        self._cancellation.cancel()
        self._queue.wake()


class EventQueue:
    """Hands events from the thread that runs a response to the one that reads it.

    Who reads slowly holds up the run, as over a socket, and nothing is dropped.

    Args:
        cancellation: That of the run: then nobody waits for room.
    """

    def __init__(self, cancellation: Cancellation) -> None:
        self._events: deque[LoopEvent] = deque()
        self._cancellation = cancellation
        self._signal, self._room = Signal(), Signal()
        self._ended = False
        self._error: BaseException | None = None
        self._pid = os.getpid()

    def emit(self, event: LoopEvent) -> None:
        """Hand an event over, when there is room for it."""
        if len(self._events) >= _MOST_WAITING:
            with self._cancellation.calling(self._room.give):
                while len(self._events) >= _MOST_WAITING and not self._cancellation.canceled:
                    self._room.take(None)
        self._events.append(event)
        self._signal.give()

    def end(self, error: BaseException | None) -> None:
        """Nothing comes any more."""
        self._error = error
        self._ended = True
        self._signal.give()

    def wake(self) -> None:
        """Wake whoever waits: the stream was closed."""
        self._signal.give()

    def take(self) -> list[LoopEvent]:
        """Wait for events.

        Raises:
            StateError: They come in another process.
            StopIteration: None comes any more.
            ReasoningError: None comes any more, because of this.
        """
        if self._pid != os.getpid():
            raise StateError("the response is carried out by the process that was forked")
        if not self._events and not self._ended:
            self._signal.take(None)
        events = []
        while self._events:
            events.append(self._events.popleft())
        self._room.give()
        if not events and self._ended:
            if self._error is not None:
                raise self._error
            raise StopIteration
        return events
