"""A WebSocket that comes back: one thread reads it, and connects again when it is lost."""

import logging
import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from reasoning_sdk._core.frames import (
    Control,
    Deflate,
    FrameParser,
    Opcode,
    close_frame,
    control_frame,
    data_frame,
)
from reasoning_sdk._core.inbox import Batch, Inbox
from reasoning_sdk._core.keepalive import Keepalive
from reasoning_sdk._core.reconnect import ConnectionState, End, Reconnection, Retry
from reasoning_sdk._io.dial import Dialing
from reasoning_sdk._io.thread import BackgroundThread, Signal
from reasoning_sdk._io.translate import Hide, beginning
from reasoning_sdk._io.websocket import Dialed, Wire, check_websocket_url, dial
from reasoning_sdk.errors import (
    ConnectError,
    ConnectionLostError,
    ForbiddenCloseError,
    IdleTimeoutError,
    ProtocolError,
    ReasoningError,
    RequestTimeoutError,
    StateError,
    UnauthenticatedCloseError,
)
from reasoning_sdk.events import Connected, Disconnected
from reasoning_sdk.retry import RetryPolicy

__all__ = ["Link", "LinkSettings", "Target"]

log = logging.getLogger("reasoning_sdk.websocket")

Target = Callable[[], tuple[str, Mapping[str, str]]]

_NORMAL, _GOING_AWAY, _TOO_BIG = 1000, 1001, 1009
_WORTH_COMPRESSING = 1024
_FAREWELL = 1.0  # seconds for the other side's end of a closing handshake that we did not begin
_GRACE = 0.1
_PAUSE = 0.1
_CLOSE_ERRORS = {4001: UnauthenticatedCloseError, 4003: ForbiddenCloseError}


class LinkSettings(NamedTuple):
    """What a link keeps to; :class:`~reasoning_sdk.WebSocketConnection` says what each means."""

    retry: RetryPolicy
    should_reconnect: Callable[[ReasoningError], bool] | None
    on_reconnect: Callable[[int], object] | None
    open_timeout: float | None
    ping_interval: float | None
    ping_timeout: float | None
    idle_timeout: float | None
    send_timeout: float
    close_timeout: float
    max_size: int | None
    max_queue: int | None
    max_queue_bytes: int | None
    overflow: str
    proxy: str | None
    ssl_context: ssl.SSLContext | None
    subprotocols: Sequence[str]
    compression: bool


class Link:
    """The life of a WebSocket through all its connections. Safe to use from any thread.

    Only the background thread reads, connects again and decides; the others are told through
    what they read here, and wake it.

    Args:
        target: Gives the address and the headers, for each attempt anew.
        settings: What to keep to.
        on_open: Called when there is a connection, before anything is received from it.

    Attributes:
        url: The address of the last attempt.
        latency: Seconds that the last ping took; ``None`` before the first.
        subprotocol: What the server has chosen.
        received: How many messages have come.
        received_bytes: Their bytes.
        sent: How many were sent.
        reconnects: How many connections there were after the first.
        error: Why it has ended for good; ``None`` while it lives, or when it was closed.
        hide: Hides what the last handshake has kept secret, should the server repeat it.
    """

    def __init__(
        self, target: Target, settings: LinkSettings, on_open: Callable[[], object]
    ) -> None:
        self.url = ""
        self.latency: float | None = None
        self.subprotocol: str | None = None
        self.received = self.received_bytes = self.sent = self.reconnects = 0
        self.error: BaseException | None = None
        self.hide = Hide()
        self._target = target
        self._settings = settings
        self._on_open = on_open
        self._pid = os.getpid()
        self._inbox = Inbox(
            overflow=settings.overflow,
            max_count=settings.max_queue,
            max_size=settings.max_queue_bytes,
        )
        self._lock = threading.RLock()  # reentrant: a signal handler may send, or look
        self._arrived = Signal()
        self._reconnection = Reconnection(settings.retry, settings.should_reconnect)
        self._dialing: Dialing | None = None
        self._wire: Wire | None = None  # that messages come and go by
        self._ending: Wire | None = None  # that waits for the other side to end
        self._parser = FrameParser(max_size=settings.max_size)
        self._deflate: Deflate | None = None
        self._keepalive: Keepalive | None = None
        self._taken = 0
        self._attempt = 0
        self._due_at = 0.0
        self._busy_in = 0  # the thread that is in a callback
        self._is_paused = False
        self._has_news = False
        self._closing_until: float | None = None
        self._is_over = False
        self._thread = BackgroundThread(
            "websocket", self._step, on_fork=self._forget, on_exit=self._say_goodbye
        )

    # -- what any thread may ask for ---------------------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """Where it is in its life."""
        has_ended = self._is_over or self.error is not None or self._is_closing()
        if has_ended or self._pid != os.getpid():
            return ConnectionState.CLOSED
        state = self._reconnection.state
        if state is ConnectionState.CONNECTING or self._wire is not None:
            return state
        return ConnectionState.RECONNECTING

    @property
    def send_timeout(self) -> float:
        """Seconds that a send may take."""
        return self._settings.send_timeout

    @property
    def close_timeout(self) -> float:
        """Seconds that a close may take."""
        return self._settings.close_timeout

    @property
    def queued(self) -> int:
        """How many messages wait to be taken."""
        with self._lock:
            return len(self._inbox)

    @property
    def dropped(self) -> int:
        """How many messages were dropped."""
        return self._inbox.dropped

    def open(self) -> None:
        """Make the first connection, in this thread; then have the background thread read it.

        Raises:
            ReasoningError: There is none. What a callback raises comes as it is.
        """
        try:
            self._use(self._dial())
            self._call_on_open()
            self.check_process()  # the callback may have forked
            self._put(Connected(attempt=0))
            if not (self._closing_until or self._thread.wake()):
                raise StateError("no thread can be started to read the connection")
        except BaseException:  # the thread may run by now: Ctrl-C can come at any moment
            self._closing_until = time.monotonic()
            if self._wire is not None:
                self._wire.cut()
            if self._thread.stop(_GRACE):
                self._end(None)
            raise

    def send(self, data: str | bytes, timeout: float) -> None:
        """Send a message: a str as text, bytes as such.

        Raises:
            StateError: It is not connected.
            RequestTimeoutError: It could not be sent in so many seconds.
            ConnectionLostError: The connection has broken.
        """
        self.check_process()
        wire, deflate = self._wire, self._deflate
        if self._is_over or self._is_closing():
            raise StateError("the connection is closed")
        if wire is None:
            raise StateError("not connected now: it was lost, and is being made again")
        if len(data) < _WORTH_COMPRESSING:
            deflate = None
        frame = data_frame(data, _mask(), deflate=deflate)
        try:
            wire.send(frame, timeout)
        except ConnectionLostError as exc:
            if self._is_closing():
                raise StateError("the connection was closed") from exc
            raise
        with self._lock:
            self.sent += 1

    def first(self, deadline: float | None) -> Batch | None:
        """Wait for a batch with items left; ``None`` when there will be none. One thread at a time.

        Args:
            deadline: The monotonic time until which to wait; ``None`` is no limit.

        Raises:
            RequestTimeoutError: There was none by then.
            StateError: A fork has made this process; the connection is not its own.
        """
        self.check_process()
        if self._busy_in == threading.get_ident() or self._thread.is_current():
            raise StateError("no message comes before the callback has returned")
        while not self._is_closing():
            is_over = self._is_over  # then what came before is there
            with self._lock:
                was_full = self._inbox.is_full
                batch = self._inbox.first()
                has_room = was_full and not self._inbox.is_full
            if has_room:
                self._thread.wake()
            if batch is not None or is_over:
                return batch
            seconds = None if deadline is None else deadline - time.monotonic()
            if not self._arrived.take(seconds) and seconds is not None:
                raise RequestTimeoutError("no message in time")
        return None

    def check_process(self) -> None:
        """Raise ``StateError`` in a process that a fork has made."""
        if self._pid != os.getpid():
            raise StateError("the connection belongs to the process that this one was forked from")

    def close(self, timeout: float) -> None:
        """End it: say so to the other side, wait for its answer, and wake everybody."""
        if self._pid != os.getpid():
            self._forget()
            return
        self.leave(timeout)
        if self._thread.is_current():
            return  # a callback has called: the step under way sees to the rest
        if not self._thread.join(timeout):
            for wire in (self._wire, self._ending):
                if wire is not None:
                    wire.cut()
            self._thread.stop(_GRACE)
        if not self._thread.runs:
            self._end(None)

    def leave(self, timeout: float, code: int = _NORMAL) -> None:
        """Have it end within so many seconds, without waiting for that, or for any lock."""
        if not self._is_closing():
            self._closing_until = time.monotonic() + timeout
            wire = self._wire
            if wire is not None:
                wire.send_close(close_frame(code, "", _mask()))
        dialing, ending = self._dialing, self._ending
        if dialing is not None:
            dialing.abort()
        if ending is not None:
            ending.cut()
        self._arrived.give()
        self._thread.wake()

    # -- what the background thread does -----------------------------------------------------------

    def _step(self) -> float | None:
        try:
            return self._read() if self._wire is not None else self._connect_again()
        except BaseException as exc:  # what a callback raises, above all
            self._end(exc)
            raise

    def _connect_again(self) -> float | None:
        seconds = self._due_at - time.monotonic()
        if self._is_closing():
            return self._end(None)
        if seconds > 0:
            return seconds
        try:
            self._use(self._dial())
        except ReasoningError as exc:
            return self._lost_again(exc)
        if self._is_closing():  # meanwhile, perhaps before there was a wire to tell
            return self._end(None)
        try:
            self._call_on_open()
        except ReasoningError as exc:
            self._free()
            return self._lost_again(exc)
        if self._closing_until is not None and time.monotonic() >= self._closing_until:
            return self._end(None)  # who closes has not waited for that, and no step follows
        self.reconnects += 1
        self._put(Connected(attempt=self._attempt))
        return 0.0

    def _is_closing(self) -> bool:
        return self._closing_until is not None

    def _call_on_open(self) -> None:
        self._busy_in = threading.get_ident()
        try:
            self._on_open()
        finally:
            self._busy_in = 0

    def _dial(self) -> Dialed:
        settings = self._settings
        self._dialing = dialing = Dialing(settings.open_timeout)
        if self._is_closing():
            dialing.abort()
        try:
            url, headers = self._address()
            self.url = check_websocket_url("url", url)
            return dial(
                url,
                dialing,
                headers=headers,
                subprotocols=settings.subprotocols,
                proxy=settings.proxy,
                context=settings.ssl_context,
                compress=settings.compression,
            )
        finally:
            self._dialing = None

    def _address(self) -> tuple[str, Mapping[str, str]]:
        try:
            return self._target()
        except ReasoningError:
            raise
        except Exception as exc:
            if self._reconnection.state is ConnectionState.CONNECTING:
                raise
            # A token that cannot be fetched now may be had at the next attempt.
            kind = type(exc).__name__
            raise ConnectError(f"no address or no headers for the attempt: {kind}") from exc

    def _use(self, dialed: Dialed) -> None:
        settings, now = self._settings, time.monotonic()
        self._deflate = dialed.deflate
        inflater = None if dialed.deflate is None else dialed.deflate.inflater()
        self._parser = FrameParser(max_size=settings.max_size, inflater=inflater)
        self._taken = 0
        self._keepalive = Keepalive(
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            idle_timeout=settings.idle_timeout,
            now=now,
        )
        self.subprotocol = dialed.subprotocol
        self.hide = dialed.hide
        self._wire = dialed.wire
        self._reconnection.opened(now)

    def _read(self) -> float | None:
        """Wait for what comes next, and take it."""
        wire, keepalive = self._wire, self._keepalive
        assert wire is not None
        assert keepalive is not None
        now = time.monotonic()
        if self._closing_until is not None and now >= self._closing_until:
            return self._end(None)
        if self._is_full() and not self._is_closing():
            self._is_paused = True
            self._tell()
            # Who takes the next batch wakes this thread; who takes the last message does not.
            return _PAUSE
        if self._is_paused:
            self._is_paused = False
            keepalive.resume(now)
        until = keepalive.next_at()
        if self._closing_until is not None:
            until = min(until, self._closing_until)
        self._tell()
        is_due = now >= until  # then this receive only takes what is there
        try:
            data = wire.receive(until - now)
        except TimeoutError:
            return self._judge(wire, keepalive, now) if is_due else 0.0
        except OSError as exc:
            reason = (exc.strerror or str(exc)).lower()
            return self._lost(ConnectionLostError(f"the connection was lost: {reason}"), None)
        if not data:
            how = "when a message could not be sent whole" if wire.is_cut else "without a close"
            return self._lost(ConnectionLostError(f"the connection ended {how}"), None)
        seconds = self._take(data, keepalive)
        if is_due and self._wire is wire:
            self._ping(wire, keepalive, now)
        return seconds

    def _is_full(self) -> bool:
        with self._lock:
            return self._inbox.is_full

    def _tell(self) -> None:
        """Wake who waits for messages: as late as can be, lest both threads want to run at once."""
        if self._has_news:
            self._has_news = False
            self._arrived.give()

    def _judge(self, wire: Wire, keepalive: Keepalive, now: float) -> float | None:
        """Nothing was there: whether the other side is. A ping if it may be.

        The time is that before the receive. This process may have been stopped for a while, after
        which much may be there that it has not seen.
        """
        if not self._is_closing():
            if keepalive.is_dead(now):
                waited = f"{self._settings.ping_timeout:g} s"
                return self._lost(ConnectionLostError(f"no answer to a ping in {waited}"), None)
            if keepalive.is_idle(now):
                waited = f"{self._settings.idle_timeout:g} s"
                return self._lost(IdleTimeoutError(f"no message for {waited}"), None)
            self._ping(wire, keepalive, now)
        return 0.0

    def _ping(self, wire: Wire, keepalive: Keepalive, now: float) -> None:
        ping = keepalive.ping(now)
        if ping is not None:
            wire.send_control(control_frame(Opcode.PING, ping, _mask()))

    def _take(self, data: bytes, keepalive: Keepalive) -> float | None:
        parser, now = self._parser, time.monotonic()
        messages = parser.feed(data)
        keepalive.heard(now)
        if messages and not self._is_closing():
            keepalive.message(now)
            self._reconnection.message()
            size = parser.taken - self._taken
            with self._lock:
                self._inbox.put(messages, size, time.time())
                self.received += len(messages)
                self.received_bytes += size
            self._has_news = True
        self._taken = parser.taken
        closed = self._answer(parser.take_controls(), keepalive) if parser.controls else None
        if closed is not None:
            return self._closed_by(closed)
        if parser.failure is not None:
            return self._refuse(parser.failure.code, parser.failure.text)
        return 0.0

    def _answer(self, controls: list[Control], keepalive: Keepalive) -> Control | None:
        """Answer pings; the Close frame, if there is one."""
        for control in controls:
            if control.opcode == Opcode.CLOSE:
                return control
            if control.opcode == Opcode.PONG:
                keepalive.pong(control.payload, time.monotonic())
                self.latency = keepalive.latency
            elif self._wire is not None:
                self._wire.send_control(control_frame(Opcode.PONG, control.payload, _mask()))
        return None

    # -- how a connection ends ---------------------------------------------------------------------

    def _closed_by(self, close: Control) -> float | None:
        """The other side has closed, or has answered our own close."""
        if self._is_closing():
            return self._end(None)
        code = close.close_code
        text = f"the server has closed the connection: {code or 'without a code'}"
        if close.reason:
            text += f" {beginning(self.hide(close.reason))}"
        error = _CLOSE_ERRORS.get(code or 0, ConnectionLostError)(text, close_code=code)
        return self._lost(error, code, answer=code or _NORMAL)

    def _refuse(self, code: int, text: str) -> float | None:
        """The other side sends what cannot be read, or is too large."""
        error = ProtocolError(f"the server sent {text}")
        return self._lost(error, code, answer=code, is_final=code == _TOO_BIG)

    def _lost(
        self,
        error: ReasoningError,
        code: int | None,
        *,
        answer: int | None = None,
        is_final: bool = False,
    ) -> float | None:
        """The connection was lost; seconds until it is made again.

        Args:
            error: What it was lost with.
            code: The close code.
            answer: The code to close it with, if the other side may still read that.
            is_final: Whether a message is the reason, and that ends it for good.
        """
        if self._is_closing():
            return self._end(None)
        wire, self._wire = self._wire, None
        assert wire is not None
        decision = None
        try:
            decision = self._decide(error, is_final=is_final)
        finally:  # should_reconnect may raise
            if is_final:
                self._put(error)  # in the place of that message
            self._put(Disconnected(error=error, close_code=code))
            if isinstance(decision, End):
                self._is_over = True  # nobody has to wait for the other side's farewell
                self._arrived.give()
            self._part(wire, answer)
        return self._follow(decision, error)

    def _lost_again(self, error: ReasoningError) -> float | None:
        """An attempt has failed."""
        if self._is_closing():
            return self._end(None)
        return self._follow(self._decide(error), error)

    def _decide(self, error: ReasoningError, *, is_final: bool = False) -> Retry | End:
        decision = self._reconnection.lost(error, time.monotonic(), final=is_final)
        if isinstance(decision, End) and not self._is_closing():
            self.error = decision.error
        return decision

    def _follow(self, decision: Retry | End, error: ReasoningError) -> float | None:
        if self._is_closing():  # should_reconnect has closed it
            return self._end(None)
        if isinstance(decision, End):
            return self._end(decision.error)
        self._attempt = decision.attempt
        self._due_at = time.monotonic() + decision.delay
        log.info("attempt %d in %.3g s: %s", decision.attempt, decision.delay, error)
        if self._settings.on_reconnect is not None:
            self._settings.on_reconnect(decision.attempt)
        return max(self._due_at - time.monotonic(), 0.0)

    def _part(self, wire: Wire, code: int | None) -> None:
        """Free a wire; before, with a code, close it, and let that arrive.

        A socket closed while more comes in takes back what the other side has not read yet.
        """
        self._ending = wire
        until = time.monotonic()
        try:
            if code is not None:
                wire.send_close(close_frame(code, "", _mask()))
                until += min(_FAREWELL, self._settings.close_timeout)
            with suppress(OSError):
                while (seconds := until - time.monotonic()) > 0:
                    with suppress(TimeoutError):  # it had to wait for room, or for a sender
                        if not wire.receive(seconds):
                            break
        finally:
            self._ending = None
            wire.free()

    def _end(self, error: BaseException | None) -> float | None:
        """It has ended for good; there is no next step."""
        if error is not None and not self._is_closing():
            self.error = error
            log.info("ended: %s", error if isinstance(error, ReasoningError) else type(error))
        self._reconnection.close()
        self._free()
        self._is_over = True
        self._arrived.give()
        self._thread.stop(0)
        return None

    def _free(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.send_close(close_frame(_NORMAL, "", _mask()))
            wire.free()

    def _put(self, item: Connected | Disconnected | ReasoningError) -> None:
        with self._lock:
            self._inbox.put_other(item)
        self._arrived.give()

    # -- forks and exits ---------------------------------------------------------------------------

    def _forget(self) -> None:
        """In a forked child: close its copies of the sockets, which changes nothing for ours."""
        for wire in (self._wire, self._ending):
            if wire is not None:
                wire.free()
        if self._dialing is not None:
            self._dialing.forget()
        self._wire = self._ending = self._dialing = None
        self._lock = threading.RLock()  # a thread that is not here may have held it
        while (batch := self._inbox.first()) is not None:  # some of it may be in hand
            deque(batch.items, maxlen=0)

    def _say_goodbye(self, began_at: float) -> None:
        wire = self._wire
        if self._pid == os.getpid() and not self._is_over:
            self.leave(self.close_timeout, _GOING_AWAY)
            if wire is not None:  # a thread that sends just now may be stopped before it notices
                wire.wait_for_who_writes(began_at + _GRACE)


def _mask() -> bytes:
    """What no proxy in between can foresee."""
    return os.urandom(4)
