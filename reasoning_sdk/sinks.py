"""Where the events of a response loop go: lists, queues, functions, HTTP answers and viewers."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from reasoning_sdk._io.thread import Signal
from reasoning_sdk.arguments import check_count, check_kind, check_methods, check_seconds, shown
from reasoning_sdk.errors import (
    ConfigurationError,
    EventSinkError,
    InvalidEventError,
    RequestTimeoutError,
    StateError,
)
from reasoning_sdk.events import LoopEvent, LoopEventKind
from reasoning_sdk.typing import EventSink

__all__ = [
    "CallbackSink",
    "QueueSink",
    "RecordingSink",
    "SSESink",
    "TeeSink",
    "Viewer",
    "ViewerSink",
]

log = logging.getLogger("reasoning_sdk.loop")

# No blank line: the official client takes one for an event, of which it then finds no data.
_KEEP_ALIVE = b": keep-alive\n"
_DONE = b"data: [DONE]\n\n"
_FAILURE = 500


class RecordingSink:
    """Keeps the events of a response. Safe to use from any thread.

    Attributes:
        events: All of them, in their order. The list may be read while events are added.

    Example:
        >>> sink = RecordingSink()
        >>> sink.emit(LoopEvent(0, LoopEventKind.CREATED, {}))
        >>> len(sink)
        1
    """

    def __init__(self) -> None:
        self.events: list[LoopEvent] = []

    def __repr__(self) -> str:
        return f"<RecordingSink events={len(self.events)}>"

    def __len__(self) -> int:
        return len(self.events)

    def emit(self, event: LoopEvent) -> None:
        """Keep an event."""
        self.events.append(event)


class CallbackSink:
    """Calls a function with each event, in the thread that emits. As safe as the function.

    Args:
        function: Called with a :class:`LoopEvent`. What it raises is the sink's own failure.
        kinds: The kinds of events to call it with, or their names; ``None`` is all.

    Raises:
        ConfigurationError: One of ``kinds`` is none.

    Example:
        >>> sink = CallbackSink(print, kinds=["response.completed"])
    """

    def __init__(
        self,
        function: Callable[[LoopEvent], object],
        *,
        kinds: Iterable[LoopEventKind | str] | None = None,
    ) -> None:
        if not callable(function):
            raise ConfigurationError(f"function must be callable, got {shown(function)}")
        self._function = function
        self._kinds = None if kinds is None else _kinds(kinds)

    def __repr__(self) -> str:
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        kinds = "all" if self._kinds is None else ",".join(sorted(self._kinds))
        return f"<CallbackSink {name} kinds={kinds}>"

    def emit(self, event: LoopEvent) -> None:
        """Call the function, if the event is of a kind that it wants."""
        if self._kinds is None or event.kind in self._kinds:
            self._function(event)


class TeeSink:
    """Gives each event to several sinks, one after the other. As safe as they are.

    Args:
        sinks: Each gets every event, whatever the others do. They may be given as one list, too.

    Raises:
        ConfigurationError: One of them is no sink.

    Example:
        >>> sink = TeeSink(RecordingSink(), CallbackSink(print))
    """

    def __init__(self, *sinks: EventSink | Sequence[EventSink]) -> None:
        self._sinks: list[EventSink] = []
        for given in sinks:
            self._sinks.extend(given if isinstance(given, Sequence) else [given])
        for place, sink in enumerate(self._sinks):
            check_methods(f"sinks[{place}]", sink, ("emit",), "an EventSink")

    def __repr__(self) -> str:
        return f"<TeeSink {' '.join(map(repr, self._sinks))}>"

    def emit(self, event: LoopEvent) -> None:
        """Give an event to all.

        Raises:
            EventSinkError: Some have failed; it names them, and its cause is the first failure.
        """
        failures: list[tuple[EventSink, BaseException]] = []
        for sink in self._sinks:
            try:
                sink.emit(event)
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as exc:
                failures.append((sink, exc))
        if failures:
            names = ", ".join(f"{type(s).__name__} ({type(e).__name__})" for s, e in failures)
            problem = f"{len(failures)} of {len(self._sinks)} sinks have failed: {names}"
            raise EventSinkError(problem) from failures[0][1]


class _State(Enum):
    """Whether a sink takes events: it is open until the last event came, or it was closed."""

    OPEN = "OPEN"
    ENDED = "ENDED"
    CLOSED = "CLOSED"


class _BufferedSink:
    """Events of one response, waiting to be taken by another thread.

    Every event given to it is taken, waits, or is counted as dropped. It belongs to the process
    that uses it first: a fork of that gets none of its events, and may find its lock taken.

    Args:
        maxsize: The most events that wait; 0 is no limit.
    """

    def __init__(self, maxsize: int) -> None:
        check_count("maxsize", maxsize, or_zero=True)
        self._maxsize = maxsize
        self._waiting: deque[LoopEvent] = deque()
        self._dropped = 0
        self._state = _State.OPEN
        # Reentrant for signal handlers and finalisers. Nothing waits while it is held, nor with a
        # Condition: to enter one is code of Python's, which Ctrl-C can leave with its lock taken.
        self._lock = threading.RLock()
        self._signal = Signal()
        self._pid: int | None = None

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._state.value} "
            f"waiting={len(self._waiting)} dropped={self._dropped}>"
        )

    @property
    def dropped(self) -> int:
        """How many events were given to it that nobody will get."""
        return self._dropped

    def emit(self, event: LoopEvent) -> None:
        """Have an event wait, without waiting for anybody. Safe to call from any thread.

        While there is no room, deltas are dropped: those to come, or one that waits to make room
        for an event of another kind. The terminal event is always taken.

        Raises:
            EventSinkError: The sink is closed, or has got the terminal event; or all the events
                that wait are of other kinds, and so is this one. It is counted as dropped.
            StateError: Another process uses it, of which this one is a fork.
        """
        self._check_process()
        with self._lock:
            was_open, dropped = self._state is _State.OPEN, self._dropped
            problem = self._put(event)
            first = was_open and not dropped and self._dropped > 0
            ended = was_open and self._state is not _State.OPEN
        self._signal.give()
        if first:
            log.warning("%s drops events: %d wait", type(self).__name__, self._maxsize)
        if ended:
            self._log_total(self._dropped)
        if problem is not None:
            raise EventSinkError(f"{problem}: {self!r}")

    def _put(self, event: LoopEvent) -> str | None:
        """Have an event wait, or drop it; what is to be said of that."""
        is_open = self._state is _State.OPEN
        if is_open and self._has_room(event):
            self._waiting.append(event)
            if event.kind.is_terminal:
                self._state = _State.ENDED
            return None
        self._dropped += 1
        if not is_open:
            return "sink takes no more events"
        return None if event.kind.is_delta else f"sink has no room for {event.kind}"

    def _has_room(self, event: LoopEvent) -> bool:
        """Whether there is room for an event, which may have been made for it."""
        if not self._maxsize or len(self._waiting) < self._maxsize:
            return True
        return not event.kind.is_delta and (self._evict() or event.kind.is_terminal)

    def _evict(self) -> bool:
        """Drop the delta that has waited longest; whether there was one."""
        waiting = self._waiting
        for place, event in enumerate(waiting):
            if event.kind.is_delta:
                del waiting[place]
                self._dropped += 1
                return True
        return False

    def _take(self, most: int | None, timeout: float | None) -> list[LoopEvent]:
        """Wait for events.

        Args:
            most: How many to take of those that wait; ``None`` is all.
            timeout: Seconds; ``None`` is no limit.

        Returns:
            At least one, unless no more will come.

        Raises:
            RequestTimeoutError: None came in time.
            StateError: Another process gets them.
        """
        self._check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                waiting, ended = self._waiting, self._state is not _State.OPEN
                if waiting or ended:
                    n = len(waiting) if most is None else min(most, len(waiting))
                    events = [waiting.popleft() for _ in range(n)]
                    if waiting or ended:
                        self._signal.give()  # to whoever else waits: it wakes one thread only
                    return events
            if not self._signal.take(None if deadline is None else deadline - time.monotonic()):
                raise RequestTimeoutError(f"no event came within {timeout} seconds")

    def _close(self, *, discard: bool) -> bool:
        """Take no more events, and drop those that wait if told so; whether it was open."""
        if not self._is_ours():
            return False
        with self._lock:
            was_open, dropped = self._state is _State.OPEN, self._dropped
            if was_open:
                self._state = _State.CLOSED
            if discard:
                self._dropped += len(self._waiting)
                self._waiting = deque()  # not cleared: whom this interrupts may be going through it
        self._signal.give()
        if was_open:
            self._log_total(dropped)
        return was_open

    def _is_ours(self) -> bool:
        """Whether this process is the one that uses it, which it is from the first use on."""
        if self._pid is None:
            self._pid = os.getpid()
        return self._pid == os.getpid()

    def _check_process(self) -> None:
        if not self._is_ours():
            raise StateError("this sink gets its events in another process")

    def _log_total(self, dropped: int) -> None:
        if dropped:
            log.warning("%s has ended, events dropped: %d", type(self).__name__, dropped)


class QueueSink(_BufferedSink):
    """Has the events of one response wait for other threads. Safe to use from any thread.

    To iterate over it is to take the events as they come, up to the terminal one, or until the sink
    is closed and empty.

    Args:
        maxsize: The most events that wait; 0 is no limit. When there are more, deltas are dropped:
            what they say, a later event says again, whole. The first drop and the total are logged.

    Raises:
        ConfigurationError: ``maxsize`` is no such number.

    Example:
        >>> sink = QueueSink(maxsize=1000)
        >>> options = {"sink": sink}
        >>> Thread(target=loop.run, args=(request,), kwargs=options).start()   # doctest: +SKIP
        >>> for event in sink:                                                 # doctest: +SKIP
        ...     print(event.kind)
    """

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)

    def __iter__(self) -> Iterator[LoopEvent]:
        while (event := self.get()) is not None:
            yield event

    def get(self, timeout: float | None = None) -> LoopEvent | None:
        """Take the next event. Safe to call from any thread.

        Args:
            timeout: Seconds to wait for it; ``None`` is no limit, 0 is not to wait.

        Returns:
            The event; ``None`` when no more will come.

        Raises:
            RequestTimeoutError: None came in time.
            ConfigurationError: ``timeout`` is no such number.
            StateError: The sink was used before a fork, and this is the child.
        """
        check_seconds("timeout", timeout, or_zero=True)
        events = self._take(1, timeout)
        return events[0] if events else None

    def close(self) -> None:
        """Take no more events. What waits can still be got. Safe to call from any thread."""
        self._close(discard=False)


class SSESink(_BufferedSink):
    """Makes the events of one response the body of an HTTP answer. Safe to use from any thread.

    It is iterated, once, for the ``bytes`` of a ``text/event-stream``. A chunk holds all events
    that wait, the first one goes out at once, and the last one has the terminal event. Whoever
    stops in between closes the sink, by :meth:`close` or by closing the iterator. After a fork, a
    child that iterates a sink of its parent's gets a :class:`StateError`.

    Args:
        maxsize: The most events that wait, as for :class:`QueueSink`.
        keep_alive: Seconds without an event after which a comment goes out, so that a client that
            has gone away is noticed; ``None`` is never.
        on_close: Called once, without arguments, by the thread that closes the sink before the
            terminal event has come: to cancel the loop.
        done_marker: Whether ``data: [DONE]`` follows the terminal event, as some clients expect.

    Raises:
        ConfigurationError: An argument cannot work.

    Example:
        >>> cancel = Cancellation()                                            # doctest: +SKIP
        >>> sink = SSESink(on_close=cancel.cancel)                             # doctest: +SKIP
        >>> options = {"sink": sink, "cancel": cancel}                         # doctest: +SKIP
        >>> Thread(target=loop.run, args=(request,), kwargs=options).start()   # doctest: +SKIP
        >>> return flask.Response(sink, mimetype="text/event-stream")          # doctest: +SKIP

    Source: WHATWG HTML, section 9.2 "Server-sent events".
    """

    def __init__(
        self,
        *,
        maxsize: int = 10_000,
        keep_alive: float | None = 15.0,
        on_close: Callable[[], object] | None = None,
        done_marker: bool = False,
    ) -> None:
        super().__init__(maxsize)
        check_seconds("keep_alive", keep_alive)
        if on_close is not None and not callable(on_close):
            raise ConfigurationError(f"on_close must be callable, got {shown(on_close)}")
        self._keep_alive = keep_alive
        self._on_close = on_close
        self._done_marker = done_marker

    def __iter__(self) -> Iterator[bytes]:
        timeout: float | None = 0.0  # the client is to get the first chunk at once
        try:
            while chunk := self._chunk(timeout):
                yield chunk
                timeout = self._keep_alive
        finally:
            self.close()

    def close(self) -> None:
        """End the body at once. Servers call it when the client goes away.

        The events that wait are dropped, and no more are taken. Safe to call from any thread, and
        more than once.
        """
        if self._close(discard=True) and self._on_close is not None:
            self._on_close()

    def end(self) -> None:
        """Take no more events: the body ends behind those that wait. Safe to call from any thread.

        For a run that has ended without a terminal event. After one, it changes nothing.
        """
        self._close(discard=False)

    def _chunk(self, timeout: float | None) -> bytes:
        """What there is to send after so many seconds at the most; nothing in the end."""
        try:
            events = self._take(None, timeout)
        except RequestTimeoutError:
            return _KEEP_ALIVE
        parts = [_to_sse(event) for event in events]
        if self._done_marker and events and events[-1].kind.is_terminal:
            parts.append(_DONE)
        return b"".join(parts)


@runtime_checkable
class Viewer(Protocol):
    """What a :class:`ViewerSink` publishes to: a :class:`~reasoning_sdk.ViewerClient`.

    Each method returns at once whether it has accepted the event.
    """

    def send_agent_completion_begin(
        self, id: str, request: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """An agent completion begins."""

    def send_agent_completion_continue(
        self, chunk: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """An agent completion goes on."""

    def send_agent_completion_error(
        self, id: str, error: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """An agent completion has failed."""

    def send_function_execution_begin(
        self, id: str, request: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """A function execution begins."""

    def send_function_execution_continue(
        self, chunk: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """A function execution goes on."""

    def send_function_execution_error(
        self, id: str, error: Any, *, address: str | None = None, signature: str | None = None
    ) -> bool:
        """A function execution has failed."""


class ViewerSink:
    """Publishes a response to a viewer. One thread at a time; its state is read from any.

    The response is an agent completion: the created event begins it, with the response as far as it
    goes; a failed one is its error; every other event goes on with it, as its data. A call of a
    tool is a function execution of its own, with the call's id: its request is
    ``{"name", "arguments", "response_id"}``, and what comes of it goes on with it or is its error.

    Args:
        viewer: A :class:`~reasoning_sdk.ViewerClient`. It is not closed.
        id: The id of the completion; ``None`` is the response's id.
        address: Where to send it, in place of the viewer's own default.
        signature: The secret to send along, in place of the viewer's own default.
        deltas: Whether deltas are sent. Without them nothing is missing in the end.

    Attributes:
        dropped: How many events the viewer has refused. Why, the viewer tells.

    Raises:
        ConfigurationError: ``viewer`` is none.

    Example:
        >>> with ViewerClient("https://viewer.example") as viewer:             # doctest: +SKIP
        ...     loop.run(request, sink=ViewerSink(viewer, deltas=False))
    """

    def __init__(
        self,
        viewer: Viewer,
        *,
        id: str | None = None,
        address: str | None = None,
        signature: str | None = None,
        deltas: bool = True,
    ) -> None:
        check_kind("viewer", viewer, (Viewer,), "a ViewerClient")
        self.dropped = 0
        self._viewer = viewer
        self._given_id = id
        self._response_id: str | None = None
        self._options = {"address": address, "signature": signature}
        self._deltas = deltas
        self._calls: dict[str, dict[str, Any]] = {}  # made, and not yet carried out

    def __repr__(self) -> str:
        id = self._given_id or self._response_id or "-"
        return f"<ViewerSink {id} dropped={self.dropped}>"

    def emit(self, event: LoopEvent) -> None:
        """Publish an event, without waiting for anybody.

        Raises:
            EventSinkError: Neither an id was given, nor has an event come that tells it.
            InvalidEventError: It cannot be JSON, and the viewer is strict.
            StateError: The viewer is closed, and strict.
        """
        if event.kind.is_delta and not self._deltas:
            return
        accepted = False
        try:
            accepted = self._send(event.kind, event.data)
        finally:
            self.dropped += not accepted

    def _send(self, kind: LoopEventKind, data: dict[str, Any]) -> bool:
        response, item = data.get("response") or {}, data.get("item") or {}
        self._response_id = response.get("id", self._response_id)
        id = self._given_id or self._response_id
        if id is None:
            raise EventSinkError(f"no event has told the id of the response, got {kind}")
        if kind is LoopEventKind.CREATED:
            request = {name: value for name, value in response.items() if name != "output"}
            return self._viewer.send_agent_completion_begin(id, request, **self._options)
        if kind is LoopEventKind.FAILED:
            error = {"code": _FAILURE, "message": response.get("error")}
            return self._viewer.send_agent_completion_error(id, error, **self._options)
        if item.get("type") == "function_call_output":
            return self._send_execution(kind, item)
        if item.get("type") == "function_call" and kind is LoopEventKind.OUTPUT_ITEM_DONE:
            self._calls[item["call_id"]] = item
        return self._viewer.send_agent_completion_continue({**data, "id": id}, **self._options)

    def _send_execution(self, kind: LoopEventKind, item: dict[str, Any]) -> bool:
        call_id = item["call_id"]
        if kind is LoopEventKind.OUTPUT_ITEM_ADDED:
            call = self._calls.pop(call_id, {})
            request = {name: call.get(name) for name in ("name", "arguments")}
            request["response_id"] = self._response_id
            return self._viewer.send_function_execution_begin(call_id, request, **self._options)
        if item["status"] == "completed":
            chunk = {**item, "id": call_id}
            return self._viewer.send_function_execution_continue(chunk, **self._options)
        error = {"code": _FAILURE, "message": item["output"]}
        return self._viewer.send_function_execution_error(call_id, error, **self._options)


def _kinds(given: Iterable[LoopEventKind | str]) -> frozenset[LoopEventKind]:
    try:
        return frozenset(map(LoopEventKind, given))
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"kinds must be names of kinds of events: {exc}") from exc


def _to_sse(event: LoopEvent) -> bytes:
    """An event as bytes. One that cannot be written must not end the others' stream."""
    try:
        return event.to_sse()
    except InvalidEventError as exc:
        log.warning("event %d (%s) is left out: %s", event.sequence, event.kind, exc)
        return _KEEP_ALIVE
